// test_cuda_kernels.cu: compares every kernel of train_olmo2.cu, and a whole small model, with the same
// mathematics in double, written as plainly as possible. It is small enough to run for every mutation of
// test_cuda_mutations.py. On a GPU, it is the first test to try.
//
//     test_cuda_kernels [WORD...]     all groups of checks, or those whose name contains one of the words
#define LLMC_MAIN_H  // the backend without the program
#include "train_olmo2.cu"
#include "dev/test/check.h"

#include <vector>

static const bool IS_BF16 = sizeof(floatX) < sizeof(float);

// bf16 has 8 significant bits, so storing a number changes it by at most 2^-8. The longest sums here, of some
// thousand terms, have errors of about 1e-6 in fp32, which can decide the direction of a rounding.
static const double CLOSE_FP32 = 1e-5, CLOSE_BF16 = 0x1p-8 + CLOSE_FP32,
                    CLOSE = IS_BF16 ? CLOSE_BF16 : CLOSE_FP32;

// ---------------------------------------------------------------------------------------------
// numbers on the host, arrays on the device, and how the two are compared

typedef std::vector<double> Numbers;

static size_t arrays_made;  // seeds the numbers of the next array

static Numbers random_numbers(size_t size, double low, double high) {
    Numbers x(size);
    arrays_made++;
    for (size_t i = 0; i < size; i++) { x[i] = low + (high - low) * random_bits(1, arrays_made, i) / 0x1p32; }
    return x;
}

static std::vector<uint32_t> random_integers(size_t size, size_t below) {
    std::vector<uint32_t> x(size);
    arrays_made++;
    for (size_t i = 0; i < size; i++) { x[i] = random_bits(2, arrays_made, i) % (uint32_t)below; }
    return x;
}

// An array on the device, exactly as large as its numbers, so the checker sees every access past its end. It
// is filled with NaN until it is written.
template <typename T>
struct On {
    T *data;
    size_t size;

    explicit On(size_t size) : size(size) {
        CUDA_CHECK(cudaMalloc((void **)&data, size * sizeof(T)));
        CUDA_CHECK(cudaMemset(data, 0xff, size * sizeof(T)));
    }
    explicit On(const std::vector<T> &values) : On(values.size()) {
        CUDA_CHECK(cudaMemcpy(data, values.data(), size * sizeof(T), cudaMemcpyHostToDevice));
    }
    On(const On &) = delete;
    ~On() { CUDA_CHECK(cudaFree(data)); }
    operator T *() const { return data; }

    Numbers get() const {
        std::vector<T> values(size);
        CUDA_CHECK(cudaMemcpy(values.data(), data, size * sizeof(T), cudaMemcpyDeviceToHost));
        Numbers x(size);
        for (size_t i = 0; i < size; i++) { x[i] = (double)(float)values[i]; }
        return x;
    }
};

// Rounds the numbers x to T, in place, and returns them as T.
template <typename T>
static std::vector<T> rounded(Numbers &x) {
    std::vector<T> values(x.size());
    for (size_t i = 0; i < x.size(); i++) {
        values[i] = (T)(float)x[i];
        x[i] = (double)(float)values[i];
    }
    return values;
}

template <typename T>
static Array array_of(const On<T> &on) {
    return Array{on.data, sizeof(T) < sizeof(float)};
}

// Checks the largest error over the largest expected number. A NaN anywhere fails.
static void near(const char *what, const Numbers &got, const Numbers &expected, double tolerance) {
    double error = 0.0, largest = 0.0;
    bool ok = got.size() == expected.size();
    for (size_t i = 0; ok && i < got.size(); i++) {
        const double difference = fabs(got[i] - expected[i]);
        if (!(difference <= error)) { error = difference; }
        largest = fmax(largest, fabs(expected[i]));
        ok = !isnan(error);
    }
    ok &= error <= tolerance * largest && largest > 0.0;
    printf("  %-40s reached %8.1e  allowed %.0e%s\n", what, error / largest, tolerance, ok ? "" : "  WRONG");
    check_at(ok, what, __FILE__, __LINE__);
}

// ---------------------------------------------------------------------------------------------
// sums over a warp

__global__ static void warp_sum_kernel(float *sums, float *expected, const float *x) {
    float sum = x[threadIdx.x];
    sums[threadIdx.x] = warp_sum(sum);
    for (int offset = WARP / 2; offset > 0; offset /= 2) { sum += __shfl_xor_sync(0xffffffffu, sum, offset); }
    expected[threadIdx.x] = sum;
}

// Where dev/cuda_on_cpu has a shorter way to the sum, it has the butterfly's bits.
static void check_warp_sum() {
    const size_t N = 4 * WARP;
    Numbers x = random_numbers(N, -1, 1);
    const On<float> d_x(rounded<float>(x)), d_sums(N), d_expected(N);
    warp_sum_kernel<<<1, N>>>(d_sums.data, d_expected.data, d_x.data);
    LAUNCH_CHECK();
    near("warp_sum", d_sums.get(), d_expected.get(), 0.0);
}

// ---------------------------------------------------------------------------------------------
// embedding

template <typename G>
static void check_embedding(size_t N, size_t C, size_t V, double close) {
    Numbers table = random_numbers(V * C, -1, 1), dx = random_numbers(N * C, -1, 1);
    Numbers dtable = random_numbers(V * C, -1, 1), x(N * C);
    const std::vector<uint32_t> tokens = random_integers(N, V - 1);
    std::vector<uint32_t> order(N), starts(N + 1), next(V);
    const size_t buckets = embedding_buckets(order.data(), starts.data(), next.data(), tokens.data(), N, V);
    starts.resize(buckets + 1);
    const On<floatX> d_table(rounded<floatX>(table)), d_dx(rounded<floatX>(dx)), d_x(N * C);
    const On<G> d_dtable(rounded<G>(dtable));
    const On<uint32_t> d_tokens(tokens), d_order(order), d_starts(starts);
    for (size_t i = 0; i < N * C; i++) {
        x[i] = table[tokens[i / C] * C + i % C];
        dtable[tokens[i / C] * C + i % C] += dx[i];
    }
    embedding_forward(d_x, d_table, d_tokens, N, C);
    embedding_backward(array_of(d_dtable), d_dx, d_tokens, d_order, d_starts, buckets, C);
    near("embedding x", d_x.get(), x, 0.0);
    near("embedding dtable", d_dtable.get(), dtable, close);
}

static void check_embeddings() {
    check_embedding<float>(37, 264, 29, CLOSE_FP32);
    check_embedding<bf16>(37, 13, 29, CLOSE_BF16);
}

// ---------------------------------------------------------------------------------------------
// RMSNorm

static const float EPS = 1e-2f;  // large enough that leaving it out shows

static Numbers rstd_of(const Numbers &x, size_t N, size_t C) {
    Numbers rstd(N);
    for (size_t n = 0; n < N; n++) {
        double sum = 0.0;
        for (size_t c = 0; c < C; c++) { sum += x[n * C + c] * x[n * C + c]; }
        rstd[n] = 1.0 / sqrt(sum / (double)C + EPS);
    }
    return rstd;
}

static Numbers norm_of(const Numbers &x, const Numbers &rstd, const Numbers &w, size_t N, size_t C) {
    Numbers y(N * C);
    for (size_t i = 0; i < N * C; i++) { y[i] = w[i % C] * x[i] * rstd[i / C]; }
    return y;
}

// dx, with dw accumulated
static Numbers norm_backward_of(Numbers &dw, const Numbers &dy, const Numbers &x, const Numbers &rstd,
                                const Numbers &w, size_t N, size_t C) {
    Numbers dx(N * C);
    for (size_t n = 0; n < N; n++) {
        double mean = 0.0;
        for (size_t c = 0; c < C; c++) {
            const double u = x[n * C + c] * rstd[n];
            dw[c] += dy[n * C + c] * u;
            mean += w[c] * dy[n * C + c] * u / (double)C;
        }
        for (size_t c = 0; c < C; c++) {
            dx[n * C + c] = rstd[n] * (w[c] * dy[n * C + c] - x[n * C + c] * rstd[n] * mean);
        }
    }
    return dx;
}

static void check_rmsnorm(size_t N, size_t C) {
    Numbers x = random_numbers(N * C, -2, 2), o = random_numbers(N * C, -2, 2);
    Numbers dy = random_numbers(N * C, -1, 1), w = random_numbers(C, 0.5, 1.5), dw = random_numbers(C, -9, 9);
    const On<floatX> d_x(rounded<floatX>(x)), d_o(rounded<floatX>(o)), d_dy(rounded<floatX>(dy)),
        d_w(rounded<floatX>(w)), d_y(N * C), d_h(N * C), d_dx(N * C), d_sum(N * C);
    const On<float> d_rstd(N), d_dw(rounded<float>(dw)), d_partial(BACKWARD_BLOCKS * C);
    const Numbers rstd = rstd_of(x, N, C), y = norm_of(x, rstd, w, N, C);
    Numbers h = norm_of(o, rstd_of(o, N, C), w, N, C), sum(N * C);
    const Numbers dx = norm_backward_of(dw, dy, x, rstd, w, N, C);
    for (size_t i = 0; i < N * C; i++) {
        h[i] += x[i];
        sum[i] = x[i] + o[i];
    }
    rmsnorm_residual_forward(d_h, d_rstd, d_x, d_o, d_w, N, C, EPS);
    add(d_sum, d_x, d_o, N * C);
    rmsnorm_forward(d_y, d_rstd, d_x, d_w, N, C, EPS);
    rmsnorm_backward(d_dx, array_of(d_dw), d_partial, d_dy, d_x, d_w, d_rstd, N, C);
    near("rmsnorm y", d_y.get(), y, CLOSE);
    near("rmsnorm rstd", d_rstd.get(), rstd, CLOSE_FP32);
    near("rmsnorm with residual", d_h.get(), h, CLOSE);
    near("rmsnorm dx", d_dx.get(), dx, CLOSE);
    near("rmsnorm dw", d_dw.get(), dw, CLOSE_FP32);
    near("add", d_sum.get(), sum, CLOSE);
}

static void check_rmsnorms() {
    check_rmsnorm(1030, 8);  // more rows than the backward has warps
    check_rmsnorm(9, 264);   // more channels than the lanes of a warp take at once
    check_rmsnorm(9, 37);
}

// ---------------------------------------------------------------------------------------------
// QK-norm and RoPE. The cosines and sines are random numbers here, so no two can be confused.

static void rotate(Numbers &y, const Numbers &rope, const std::vector<uint32_t> &positions, size_t C,
                   size_t HS, double direction) {
    for (size_t i = 0; i < y.size(); i++) {
        const size_t k = i % C % HS, half = HS / 2;
        if (k >= half) { continue; }
        const double a = y[i], b = y[i + half], cosine = rope[positions[i / C] * HS + k],
                     sine = rope[positions[i / C] * HS + k + half] * direction;
        y[i] = a * cosine - b * sine;
        y[i + half] = b * cosine + a * sine;
    }
}

// Rows begin every `row` numbers; the last C of these are used. With normed false, the rotation of
// dev/ablations.
static void check_qknorm_rope(size_t N, size_t T, size_t NH, size_t HS, size_t row, bool normed) {
    const size_t C = NH * HS;
    Numbers wide = random_numbers(N * row, -2, 2), w = random_numbers(C, 0.5, 1.5), x(N * C),
            dx_wide(N * row);
    Numbers rope = random_numbers(T * HS, -1, 1), dy = random_numbers(N * C, -1, 1),
            dw = random_numbers(C, -9, 9);
    const On<floatX> d_wide(rounded<floatX>(wide)), d_w(rounded<floatX>(w)), d_dy(rounded<floatX>(dy)),
        d_y(N * C), d_dx(rounded<floatX>(dx_wide));
    const On<float> d_rstd(N), d_rope(rounded<float>(rope)), d_dw(rounded<float>(dw)),
        d_partial(BACKWARD_BLOCKS * C);
    for (size_t i = 0; i < N * C; i++) { x[i] = wide[i / C * row + row - C + i % C]; }
    if (!normed) { w.assign(C, 1.0); }
    const Numbers rstd = normed ? rstd_of(x, N, C) : Numbers(N, 1.0);
    std::vector<uint32_t> positions = random_integers(N, T), in_turn(N);
    for (size_t n = 0; n < N; n++) { in_turn[n] = (uint32_t)(n % T); }

    for (const std::vector<uint32_t> &p : {in_turn, positions}) {
        const On<uint32_t> d_positions(p);
        Numbers y = norm_of(x, rstd, w, N, C);
        rotate(y, rope, p, C, HS, 1.0);
        const uint32_t *given = p == in_turn ? nullptr : d_positions.data;
        if (normed) {
            qknorm_rope_forward(d_y, d_rstd, d_wide + row - C, row, d_w, d_rope, given, N, T, NH, HS, EPS);
            near("qknorm_rope rstd", d_rstd.get(), rstd, CLOSE_FP32);
        } else {
            rope_forward(d_y, d_wide + row - C, row, d_rope, given, N, T, NH, HS);
        }
        near(normed ? "qknorm_rope y" : "rope y", d_y.get(), y, CLOSE);
    }
    Numbers turned = dy;
    rotate(turned, rope, in_turn, C, HS, -1.0);
    Numbers dx = norm_backward_of(dw, turned, x, rstd, w, N, C);
    for (size_t i = 0; i < N * C; i++) {
        if (!normed) { dx[i] = turned[i]; }
        dx_wide[i / C * row + row - C + i % C] = dx[i];
    }
    if (normed) {
        qknorm_rope_backward(d_dx + row - C, row, array_of(d_dw), d_partial, d_dy, d_wide + row - C, row, d_w,
                             d_rstd, d_rope, N, T, NH, HS);
        near("qknorm_rope dw", d_dw.get(), dw, CLOSE_FP32);
    } else {
        rope_backward(d_dx + row - C, row, d_dy, d_rope, N, T, NH, HS);
    }
    near(normed ? "qknorm_rope dx" : "rope dx", d_dx.get(), dx_wide, CLOSE);
}

static void check_qknorm_ropes() {
    check_qknorm_rope(14, 7, 9, 64, 9 * 64 + 8, true);  // more pairs than the lanes of a warp take at once
    check_qknorm_rope(1030, 5, 1, 6, 9, true);          // more rows than the backward has warps
    check_qknorm_rope(10, 5, 3, 6, 18, false);
}

// ---------------------------------------------------------------------------------------------
// matrix products

static void check_matmul() {
    const size_t N = 3, I = 16, O = 8;
    Numbers x = random_numbers(N * I, -1, 1), w = random_numbers(O * I, -1, 1),
            dy = random_numbers(N * O, -1, 1);
    Numbers dx = random_numbers(N * I, -1, 1), dw = random_numbers(O * I, -1, 1), y(N * O), product(N * I);
    const On<floatX> d_x(rounded<floatX>(x)), d_w(rounded<floatX>(w)), d_dy(rounded<floatX>(dy)), d_y(N * O),
        d_dx(rounded<floatX>(dx)), d_product(N * I);
    const On<float> d_dw(rounded<float>(dw));
    for (size_t n = 0; n < N; n++) {
        for (size_t o = 0; o < O; o++) {
            for (size_t i = 0; i < I; i++) {
                y[n * O + o] += x[n * I + i] * w[o * I + i];
                product[n * I + i] += dy[n * O + o] * w[o * I + i];
                dw[o * I + i] += dy[n * O + o] * x[n * I + i];
            }
        }
    }
    for (size_t i = 0; i < N * I; i++) { dx[i] += product[i]; }
    matmul_forward(d_y, d_x, d_w, N, I, O);
    matmul_backward(d_dx, array_of(d_dw), d_dy, d_x, d_w, N, I, O, true);
    matmul_backward_input(d_product, d_dy, d_w, N, I, O, false);
    near("matmul y", d_y.get(), y, CLOSE);
    near("matmul dx accumulated", d_dx.get(), dx, CLOSE);
    near("matmul dx assigned", d_product.get(), product, CLOSE);
    near("matmul dw", d_dw.get(), dw, CLOSE_FP32);
}

// ---------------------------------------------------------------------------------------------
// attention

struct Attention {
    size_t B, T, NH, NKV, HS;
    size_t q(size_t b, size_t t, size_t h) const { return ((b * T + t) * NH + h) * HS; }
    size_t kv(size_t b, size_t t, size_t h) const { return ((b * T + t) * NKV + h / (NH / NKV)) * HS; }
    size_t row(size_t b, size_t t, size_t h) const { return (b * NH + h) * T + t; }
};

static double dot_of(const Numbers &a, size_t i, const Numbers &b, size_t j, size_t HS) {
    double sum = 0.0;
    for (size_t k = 0; k < HS; k++) { sum += a[i + k] * b[j + k]; }
    return sum;
}

static void attention_of(const Attention &a, Numbers &o, Numbers &lse, const Numbers &q, const Numbers &k,
                         const Numbers &v) {
    Numbers p(a.T);
    for (size_t b = 0; b < a.B; b++) {
        for (size_t h = 0; h < a.NH; h++) {
            for (size_t i = 0; i < a.T; i++) {
                double sum = 0.0;
                for (size_t j = 0; j <= i; j++) {
                    p[j] = exp(dot_of(q, a.q(b, i, h), k, a.kv(b, j, h), a.HS) / sqrt((double)a.HS));
                    sum += p[j];
                }
                lse[a.row(b, i, h)] = log(sum);
                for (size_t j = 0; j <= i; j++) {
                    for (size_t c = 0; c < a.HS; c++) {
                        o[a.q(b, i, h) + c] += p[j] / sum * v[a.kv(b, j, h) + c];
                    }
                }
            }
        }
    }
}

static void attention_backward_of(const Attention &a, Numbers &dq, Numbers &dk, Numbers &dv,
                                  const Numbers &d_o, const Numbers &q, const Numbers &k, const Numbers &v,
                                  const Numbers &o, const Numbers &lse) {
    const double scale = 1.0 / sqrt((double)a.HS);
    for (size_t b = 0; b < a.B; b++) {
        for (size_t h = 0; h < a.NH; h++) {
            for (size_t i = 0; i < a.T; i++) {
                const size_t qi = a.q(b, i, h);
                const double delta = dot_of(d_o, qi, o, qi, a.HS);
                for (size_t j = 0; j <= i; j++) {
                    const size_t kj = a.kv(b, j, h);
                    const double p = exp(dot_of(q, qi, k, kj, a.HS) * scale - lse[a.row(b, i, h)]);
                    const double ds = p * (dot_of(d_o, qi, v, kj, a.HS) - delta) * scale;
                    for (size_t c = 0; c < a.HS; c++) {
                        dq[qi + c] += ds * k[kj + c];
                        dk[kj + c] += ds * q[qi + c];
                        dv[kj + c] += p * d_o[qi + c];
                    }
                }
            }
        }
    }
}

// Copies numbers (N, columns) to the last columns of rows that are wider by `more`.
static Numbers widened(const Numbers &x, size_t columns, size_t more) {
    Numbers wide(x.size() / columns * (columns + more));
    for (size_t i = 0; i < x.size(); i++) {
        wide[i / columns * (columns + more) + more + i % columns] = x[i];
    }
    return wide;
}

// q and k are large, so the running maximum of the scores changes often. The tensor cores get p and ds
// rounded to bf16, and D comes from a rounded o: a few roundings of 2^-9, of numbers up to the largest.
static void check_attention(const Attention &a) {
    const double close = IS_BF16 ? 1.5e-2 : 1e-5;
    const size_t N = a.B * a.T, Q = a.NH * a.HS, KV = a.NKV * a.HS, more = 16;
    Numbers q = random_numbers(N * Q, -2, 2), k = random_numbers(N * KV, -2, 2);
    Numbers v = random_numbers(N * KV, -1, 1), d_o = random_numbers(N * Q, -1, 1);
    Numbers o(N * Q), lse(N * a.NH), dq(N * Q), dk(N * KV), dv(N * KV);
    rounded<floatX>(v);
    Numbers v_wide = widened(v, KV, more), nothing(N * (KV + more));
    const On<floatX> d_q(rounded<floatX>(q)), d_k(rounded<floatX>(k)), d_v(rounded<floatX>(v_wide)),
        d_got_o(N * Q), d_d_o(rounded<floatX>(d_o)), d_dq(N * Q), d_dk(N * KV),
        d_dv(rounded<floatX>(nothing));
    const On<float> d_lse(N * a.NH), d_delta(N * a.NH);
    attention_of(a, o, lse, q, k, v);
    attention_forward(d_got_o, d_lse, d_q, d_k, d_v + more, KV + more, a.B, a.T, a.NH, a.NKV, a.HS);
    near("attention o", d_got_o.get(), o, close);
    near("attention lse", d_lse.get(), lse, CLOSE_FP32);
    attention_backward_of(a, dq, dk, dv, d_o, q, k, v, o, lse);
    attention_backward(d_dq, d_dk, d_dv + more, KV + more, d_delta, d_d_o, d_q, d_k, d_v + more, KV + more,
                       d_got_o, d_lse, a.B, a.T, a.NH, a.NKV, a.HS);
    near("attention dq", d_dq.get(), dq, close);
    near("attention dk", d_dk.get(), dk, close);
    near("attention dv", d_dv.get(), widened(dv, KV, more), close);
}

// The tiled kernels of bf16: 64, 96 and 128 have sizes of their own, of tiles and of their swizzles.
static void check_tiled_attention() {
    if (!IS_BF16) { return; }
    check_attention({1, 150, 4, 2, 64});
    check_attention({2, 70, 1, 1, 96});
    check_attention({1, 70, 2, 1, 128});
}

static void check_plain_attention() {
    check_attention({2, 9, 6, 2, 12});
    check_attention({1, 13, 2, 1, 40});  // two elements to a lane
}

// The same numbers, NaN in the same places.
static bool same_numbers(const Numbers &a, const Numbers &b) {
    bool same = a.size() == b.size();
    for (size_t i = 0; same && i < a.size(); i++) { same = a[i] == b[i] || (isnan(a[i]) && isnan(b[i])); }
    return same;
}

// The next tokens of sequence b, in page `page` of a cache: `count` of them after the first `past`.
struct Continued {
    size_t b, page, past, count;
};

// Sequences whose past is in a cache: cache_append and attention_cached give what attention over the whole
// sequences gives. Unused positions of the cache are NaN. The rows of a batch are in the order of `continued`,
// the pieces of one token are to be first. v and the cache have rows of different lengths.
static void check_pieces(const Attention &a, const std::vector<Continued> &continued, double close) {
    const size_t Q = a.NH * a.HS, KV = a.NKV * a.HS, pages = 4, page_T = a.T + 3, more = 16;
    Numbers q = random_numbers(a.B * a.T * Q, -2, 2), k = random_numbers(a.B * a.T * KV, -2, 2);
    Numbers v = random_numbers(a.B * a.T * KV, -1, 1), o(a.B * a.T * Q), lse(a.B * a.T * a.NH);
    rounded<floatX>(q), rounded<floatX>(k), rounded<floatX>(v);
    attention_of(a, o, lse, q, k, v);
    Numbers new_q, new_k, new_v, new_o, keys(pages * page_T * KV, NAN), values = keys;
    std::vector<Piece> single, several;
    size_t rows = 0, longest = 0;
    const auto part = [](Numbers &to, const Numbers &from, size_t begin, size_t size) {
        to.insert(to.end(), from.begin() + (ptrdiff_t)begin, from.begin() + (ptrdiff_t)(begin + size));
    };
    for (const Continued &c : continued) {
        (c.count == 1 ? single : several)
            .push_back(Piece{(uint32_t)rows, (uint32_t)c.count, (uint32_t)c.past, (uint32_t)c.page});
        rows += c.count;
        longest = std::max(longest, c.count);
        for (size_t i = 0; i < c.past * KV; i++) {
            keys[c.page * page_T * KV + i] = k[a.kv(c.b, 0, 0) + i];
            values[c.page * page_T * KV + i] = v[a.kv(c.b, 0, 0) + i];
        }
        part(new_q, q, a.q(c.b, c.past, 0), c.count * Q);
        part(new_o, o, a.q(c.b, c.past, 0), c.count * Q);
        part(new_k, k, a.kv(c.b, c.past, 0), c.count * KV);
        part(new_v, v, a.kv(c.b, c.past, 0), c.count * KV);
    }
    std::vector<Piece> all = single;
    all.insert(all.end(), several.begin(), several.end());
    Numbers v_wide = widened(new_v, KV, more);
    const On<floatX> d_q(rounded<floatX>(new_q)), d_k(rounded<floatX>(new_k)), d_v(rounded<floatX>(v_wide)),
        d_keys(rounded<floatX>(keys)), d_values(rounded<floatX>(values)), d_o(rows * Q);
    const On<Piece> d_pieces(all);
    const Pieces pieces = {d_pieces, all.size(), single.size(), longest};
    cache_append(d_keys, d_values, d_k, d_v + more, KV + more, pieces, page_T, KV);
    attention_cached(d_o, d_q, d_keys, d_values, pieces, page_T, a.NH, a.NKV, a.HS);
    near("attention, pieces", d_o.get(), new_o, close);
    for (const Continued &c : continued) {
        for (size_t i = 0; i < c.count * KV; i++) {
            keys[(c.page * page_T + c.past) * KV + i] = k[a.kv(c.b, c.past, 0) + i];
            values[(c.page * page_T + c.past) * KV + i] = v[a.kv(c.b, c.past, 0) + i];
        }
    }
    CHECK(same_numbers(d_keys.get(), keys) && same_numbers(d_values.get(), values));
}

// Three sequences in four slots, of 1, 5 and 75 tokens: keys for one warp, for two, and for all, some twice.
static void check_decoding() {
    check_pieces({3, 75, 4, 2, 12}, {{0, 2, 0, 1}, {1, 0, 4, 1}, {2, 3, 74, 1}}, CLOSE);
}

// From the beginning, after a past, after one of more than a tile of keys, and single tokens between them. The
// tiled kernels have tiles of 128 queries, of which one piece here fills more than one.
static void check_long_pieces() {
    const double close = IS_BF16 ? 1.5e-2 : 1e-5;
    check_pieces({3, 150, 2, 1, 64}, {{0, 2, 0, 5}, {1, 0, 9, 131}, {2, 3, 70, 1}}, close);
    check_pieces({2, 75, 2, 2, 96}, {{0, 3, 31, 1}, {1, 1, 65, 7}}, close);
    check_pieces({3, 75, 4, 2, 128}, {{1, 2, 33, 40}, {0, 0, 0, 2}, {2, 1, 63, 2}}, close);
    check_pieces({3, 13, 6, 2, 12}, {{0, 2, 0, 5}, {1, 0, 4, 1}, {2, 3, 8, 3}}, CLOSE);
    check_pieces({2, 9, 2, 1, 40}, {{1, 2, 6, 3}, {0, 1, 1, 1}}, CLOSE);
}

// ---------------------------------------------------------------------------------------------
// SwiGLU

static void check_swiglu(size_t N, size_t F) {
    Numbers gate_up = random_numbers(N * 2 * F, -4, 4), da = random_numbers(N * F, -1, 1), a(N * F),
            dgate_up(N * 2 * F);
    const On<floatX> d_gate_up(rounded<floatX>(gate_up)), d_da(rounded<floatX>(da)), d_a(N * F),
        d_dgate_up(N * 2 * F), d_again(N * 2 * F);
    for (size_t i = 0; i < N * F; i++) {
        const size_t gate = i / F * 2 * F + i % F, up = gate + F;
        const double z = gate_up[gate], sigma = 1.0 / (1.0 + exp(-z));
        a[i] = z * sigma * gate_up[up];
        dgate_up[gate] = da[i] * gate_up[up] * (sigma + z * sigma * (1.0 - sigma));
        dgate_up[up] = da[i] * z * sigma;
    }
    swiglu_forward(d_a, d_gate_up, N, F);
    near("swiglu a", d_a.get(), a, CLOSE);
    swiglu_backward(d_again, nullptr, d_da, d_gate_up, N, F);
    near("swiglu backward", d_again.get(), dgate_up, CLOSE);
    swiglu_backward(d_dgate_up, d_da, d_da, d_gate_up, N, F);
    near("swiglu backward in da's place", d_dgate_up.get(), dgate_up, CLOSE);
    near("swiglu a again", d_da.get(), a, CLOSE);
}

static void check_swiglus() {
    check_swiglu(3, 2064);  // more than the threads of a block take at once
    check_swiglu(3, 19);
}

// ---------------------------------------------------------------------------------------------
// classifier

static void check_classifier(size_t V) {
    const size_t N = 4;
    const double z = 1e-2;
    const std::vector<uint32_t> labels = {(uint32_t)V - 1, 0, OLMO2_NO_TOKEN, 17};
    Numbers logits = random_numbers(N * V, -4, 4), weights = {0.5, 1.0, 0.0, 0.25}, logprobs(N), lse(N);
    for (size_t j = 0; j < V; j++) { logits[V + j] += j % 2 == 0 ? 200.0 : -200.0; }
    const On<floatX> d_logits(rounded<floatX>(logits));
    const On<float> d_weights(rounded<float>(weights)), d_logprobs(N), d_lse(N);
    const On<uint32_t> d_labels(labels);
    Numbers dlogits(N * V);
    for (size_t n = 0; n < N; n++) {
        double max = -INFINITY, sum = 0.0;
        for (size_t j = 0; j < V; j++) { max = fmax(max, logits[n * V + j]); }
        for (size_t j = 0; j < V; j++) { sum += exp(logits[n * V + j] - max); }
        lse[n] = max + log(sum);
        logprobs[n] = labels[n] == OLMO2_NO_TOKEN ? 0.0 : logits[n * V + labels[n]] - lse[n];
        for (size_t j = 0; j < V; j++) {
            const double p = exp(logits[n * V + j] - lse[n]);
            dlogits[n * V + j] = weights[n] * (p * (1.0 + 2.0 * z * lse[n]) - (j == labels[n] ? 1.0 : 0.0));
        }
    }
    classifier_forward(d_logprobs, d_lse, d_logits, d_labels, N, V);
    near("classifier logprobs", d_logprobs.get(), logprobs, CLOSE_FP32);
    near("classifier leaves the logits", d_logits.get(), logits, 0.0);
    classifier_forward_backward(d_logprobs, d_lse, d_logits, d_labels, d_weights, (float)z, N, V);
    near("classifier logprobs", d_logprobs.get(), logprobs, CLOSE_FP32);
    near("classifier lse", d_lse.get(), lse, CLOSE_FP32);
    // In fp32 an lse of 200 is right to 2^-17 only, and so are all e^(logit - lse).
    near("classifier dlogits", d_logits.get(), dlogits, IS_BF16 ? CLOSE : 3e-5);
}

static void check_classifiers() {
    check_classifier(8208);  // more than a block's threads take in one round
    check_classifier(37);    // fewer than there are threads
}

// ---------------------------------------------------------------------------------------------
// AdamW and the gradient norm

static const OLMo2AdamW ADAMW = {0.1f, 0.8f, 0.9f, 1e-2f, 0.1f, 0.5f, 3};

static void adamw_of(Numbers &p, Numbers &m, Numbers &v, const Numbers &g, const OLMo2AdamW &s,
                     double decay) {
    for (size_t i = 0; i < p.size(); i++) {
        const double gradient = g[i] * s.gradient_scale;
        m[i] = s.beta1 * m[i] + (1.0 - s.beta1) * gradient;
        v[i] = s.beta2 * v[i] + (1.0 - s.beta2) * gradient * gradient;
        const double m_hat = m[i] / (1.0 - pow(s.beta1, (double)s.t)),
                     v_hat = v[i] / (1.0 - pow(s.beta2, (double)s.t));
        p[i] -= s.lr * (decay * p[i] + m_hat / (sqrt(v_hat) + s.eps));
    }
}

// G and M are the types of gradients and moments. Arrays without an fp32 copy are rounded stochastically,
// which changes a number by up to one whole last bit, at most 2^-7 of it.
template <typename G, typename M>
static void check_adamw(bool has_master) {
    const size_t size = 1040;  // one block and a bit
    Numbers p = random_numbers(size, -1, 1), m = random_numbers(size, -1, 1), v = random_numbers(size, 0, 1);
    Numbers g = random_numbers(size, -2, 2);
    const On<float> d_master(rounded<float>(p));
    if (!has_master) { rounded<floatX>(p); }
    Numbers again = p;
    const On<floatX> d_p(rounded<floatX>(again));
    const On<M> d_m(rounded<M>(m)), d_v(rounded<M>(v));
    const On<G> d_g(rounded<G>(g));
    adamw_of(p, m, v, g, ADAMW, 0.1);
    adamw_update(d_p, has_master ? d_master.data : nullptr, array_of(d_m), array_of(d_v), array_of(d_g), size,
                 &ADAMW, 0.1f, 3);
    const double moments = sizeof(M) < sizeof(float) ? 2 * CLOSE_BF16 : CLOSE_FP32;
    near("adamw p", d_p.get(), p, !IS_BF16 ? CLOSE_FP32 : has_master ? CLOSE_BF16 : 2 * CLOSE_BF16);
    near("adamw m", d_m.get(), m, moments);
    near("adamw v", d_v.get(), v, moments);
    if (has_master) { near("adamw master", d_master.get(), p, CLOSE_FP32); }
}

// A quarter of 1's last bit is taken off each of 4,096 ones: the mean moves by as much, and which of them
// move depends on the step and on the tensor.
static Numbers rounded_step(int64_t t, size_t tensor) {
    const size_t size = 4096;
    Numbers ones(size, 1.0), zeros(size), gradients(size, 1.0);
    const On<floatX> d_p(rounded<floatX>(ones));
    const On<float> d_m(rounded<float>(zeros)), d_v(rounded<float>(zeros)), d_g(rounded<float>(gradients));
    OLMo2AdamW s = {0x1p-10f, 0.0f, 0.0f, 0.0f, 0.0f, 1.0f, t};  // p -= lr sign(g)
    adamw_update(d_p, nullptr, array_of(d_m), array_of(d_v), array_of(d_g), size, &s, 0.0f, tensor);
    return d_p.get();
}

static void check_stochastic_rounding() {
    if (!IS_BF16) { return; }
    const Numbers a = rounded_step(1, 5), b = rounded_step(1, 6), c = rounded_step(2, 5);
    double sum = 0.0;
    for (double x : a) { sum += x; }
    // The last bit below 1 is 2^-8, so 1 - 2^-10 is rounded down in one of four cases. Five standard
    // deviations of the mean of 4,096 are 5 sqrt(3 / 16 / 4096) = 0.034 of the last bit.
    const double mean = sum / (double)a.size(), moved = (1.0 - mean) * 0x1p8;
    printf("  %-40s reached %8.4f  expected %.4f\n", "stochastic rounding moves the mean", moved, 0.25);
    CHECK(fabs(moved - 0.25) <= 0.034);
    CHECK(a != b);
    CHECK(a != c);
}

template <typename G>
static void check_squares(size_t size) {
    Numbers x = random_numbers(size, -1, 1), got(1), expected(1);
    const On<G> d_x(rounded<G>(x));
    const On<double> d_partial(SQUARES_BLOCKS);
    for (double y : x) { expected[0] += y * y; }
    got[0] = sum_of_squares(array_of(d_x), size, d_partial);
    near("sum of squares", got, expected, 1e-6);
}

static void check_updates() {
    check_adamw<float, float>(IS_BF16);
    if (IS_BF16) { check_adamw<bf16, float>(false); }
    check_adamw<float, bf16>(IS_BF16);
    check_stochastic_rounding();
}

static void check_norms() {
    check_squares<float>(SQUARES_BLOCKS * 256 * 4 + 4112);  // one round of all threads, and a bit
    check_squares<bf16>(4112);
}

// ---------------------------------------------------------------------------------------------
// the model

struct Model {
    OLMo2Config c;
    std::vector<Numbers> p;  // as parameter_at counts them

    const Numbers &parameter(int id, size_t l = 0) const {
        const size_t per_layer = PARAMETER_ROWS - 3, at = 1 + l * per_layer + (size_t)(id - WQ);
        return p[id == EMBEDDING ? 0 : id < FINAL_NORM ? at : p.size() - (id == FINAL_NORM ? 2 : 1)];
    }
};

struct Batch {
    size_t B, T;
    std::vector<uint32_t> tokens, labels;
    std::vector<float> weights;
};

static Batch make_batch(const OLMo2Config &c, size_t B, size_t T) {
    Batch b = {B, T, random_integers(B * T, c.V), std::vector<uint32_t>(B * T), std::vector<float>(B * T)};
    for (size_t i = 0; i < B * T; i++) {
        b.labels[i] = i % T + 1 < T && i % 5 != 2 ? b.tokens[i + 1] : OLMO2_NO_TOKEN;
        b.weights[i] = b.labels[i] == OLMO2_NO_TOKEN ? 0.0f : 0.25f + 0.125f * (float)(i % 3);
    }
    return b;
}

// y = x W^T
static Numbers linear(const Numbers &x, const Numbers &w, size_t I, size_t O) {
    const size_t N = x.size() / I;
    Numbers y(N * O);
    for (size_t n = 0; n < N; n++) {
        for (size_t o = 0; o < O; o++) {
            double sum = 0.0;
            for (size_t i = 0; i < I; i++) { sum += x[n * I + i] * w[o * I + i]; }
            y[n * O + o] = sum;
        }
    }
    return y;
}

static Numbers normed(const Numbers &x, const Numbers &w) {
    const size_t C = w.size(), N = x.size() / C;
    return norm_of(x, rstd_of(x, N, C), w, N, C);
}

static Numbers sum_of(const Numbers &a, const Numbers &b) {
    Numbers sum = a;
    for (size_t i = 0; i < a.size(); i++) { sum[i] += b[i]; }
    return sum;
}

// -> logprobs, lse and the objective
static double forward_of(const Model &m, const Batch &b, double z, Numbers *logprobs, Numbers *lse) {
    const OLMo2Config &c = m.c;
    const size_t N = b.B * b.T, Q = c.NH * c.HS, KV = c.NKV * c.HS;
    const Attention a = {b.B, b.T, c.NH, c.NKV, c.HS};
    Numbers x(N * c.C), rope(b.T * c.HS);
    std::vector<uint32_t> positions(N);
    for (size_t n = 0; n < N; n++) { positions[n] = (uint32_t)(n % b.T); }
    for (size_t i = 0; i < b.T * c.HS; i++) {
        const size_t k = i % c.HS % (c.HS / 2);
        const double angle = (double)(i / c.HS) / pow(c.rope_theta, 2.0 * (double)k / (double)c.HS);
        rope[i] = i % c.HS == k ? cos(angle) : sin(angle);
    }
    for (size_t i = 0; i < N * c.C; i++) { x[i] = m.parameter(EMBEDDING)[b.tokens[i / c.C] * c.C + i % c.C]; }
    for (size_t l = 0; l < c.L; l++) {
        Numbers q = normed(linear(x, m.parameter(WQ, l), c.C, Q), m.parameter(Q_NORM, l));
        Numbers k = normed(linear(x, m.parameter(WK, l), c.C, KV), m.parameter(K_NORM, l));
        Numbers attention(N * Q), of_rows(N * c.NH);
        rotate(q, rope, positions, Q, c.HS, 1.0);
        rotate(k, rope, positions, KV, c.HS, 1.0);
        attention_of(a, attention, of_rows, q, k, linear(x, m.parameter(WV, l), c.C, KV));
        x = sum_of(x, normed(linear(attention, m.parameter(WO, l), Q, c.C), m.parameter(ATTENTION_NORM, l)));
        Numbers act = linear(x, m.parameter(W_GATE, l), c.C, c.F),
                up = linear(x, m.parameter(W_UP, l), c.C, c.F);
        for (size_t i = 0; i < act.size(); i++) { act[i] *= up[i] / (1.0 + exp(-act[i])); }
        x = sum_of(x,
                   normed(linear(act, m.parameter(W_DOWN, l), c.F, c.C), m.parameter(FEEDFORWARD_NORM, l)));
    }
    const Numbers logits = linear(normed(x, m.parameter(FINAL_NORM)), m.parameter(LM_HEAD), c.C, c.V);
    double objective = 0.0;
    logprobs->assign(N, 0.0);
    lse->assign(N, 0.0);
    for (size_t n = 0; n < N; n++) {
        double sum = 0.0;
        for (size_t v = 0; v < c.V; v++) { sum += exp(logits[n * c.V + v]); }
        (*lse)[n] = log(sum);
        if (b.labels[n] != OLMO2_NO_TOKEN) { (*logprobs)[n] = logits[n * c.V + b.labels[n]] - log(sum); }
        objective += b.weights[n] * (z * log(sum) * log(sum) - (*logprobs)[n]);
    }
    return objective;
}

static std::vector<Numbers> read_all(const OLMo2 *m, OLMo2Array array) {
    std::vector<Numbers> all;
    for (size_t i = 0; i < parameter_count(&m->config); i++) {
        std::vector<float> values(parameter_at(&m->config, i).size);
        olmo2_read(m, array, i, values.data());
        all.push_back(Numbers(values.begin(), values.end()));
    }
    return all;
}

static Model random_model(const OLMo2Config &c) {
    Model model = {c, {}};
    for (size_t i = 0; i < parameter_count(&c); i++) {
        const Parameter row = parameter_at(&c, i);
        model.p.push_back(row.columns == 1 ? random_numbers(row.size, 0.5, 1.5)
                                           : random_numbers(row.size, -0.5, 0.5));
        rounded<float>(model.p.back());
    }
    return model;
}

static OLMo2 *create_model(Model *model, Recompute recompute, bool no_master) {
    OLMo2Room room = olmo2_room_to_train(2, 7);
    OLMo2Form form = olmo2_form();
    OLMo2 *m;
    Error err;
    room.slots = 3;
    room.cache_T = 7;
    room.rows = 14;
    form.recompute = recompute;
    form.master_weights = !no_master;
    if (!olmo2_create(&m, &model->c, &room, &form, &err)) {
        fprintf(stderr, "error: %s\n", err.text);
        exit(1);
    }
    for (size_t i = 0; i < model->p.size(); i++) {
        olmo2_write(m, OLMO2_PARAMETER, i, rounded<float>(model->p[i]).data());
    }
    return m;
}

// In bf16, dozens of successive roundings of weights and activations change a tensor by about 2e-2. Errors of
// the model show in fp32.
static const double MODEL_CLOSE = IS_BF16 ? 5e-2 : 1e-4;

static void check_logprobs(OLMo2 *m, const Model &model, const Batch &b) {
    std::vector<float> logprobs(b.B * b.T), lse(b.B * b.T);
    Numbers expected_logprobs, expected_lse;
    olmo2_forward(m, b.tokens.data(), b.B, b.T);
    olmo2_classify(m, b.labels.data(), nullptr, 0.0f, logprobs.data(), lse.data());
    forward_of(model, b, 0.0, &expected_logprobs, &expected_lse);
    for (size_t n = 0; n < lse.size(); n++) { expected_lse[n] *= b.labels[n] != OLMO2_NO_TOKEN; }
    near("model logprobs", Numbers(logprobs.begin(), logprobs.end()), expected_logprobs, MODEL_CLOSE);
    near("model lse", Numbers(lse.begin(), lse.end()), expected_lse, MODEL_CLOSE);
}

// Two micro-batches, and for each tensor a direction of ones and minus ones with the slope of the objective
// along it.
struct Slopes {
    double z;
    std::vector<Batch> batches;
    std::vector<Numbers> directions;
    Numbers slopes;
};

static Slopes slopes_of(const Model &model) {
    const double step = 1e-4;
    Slopes s = {0.1, {make_batch(model.c, 2, 5), make_batch(model.c, 1, 7)}, {}, {}};
    Numbers unused;
    for (size_t i = 0; i < model.p.size(); i++) {
        double objective[2] = {0.0, 0.0};
        s.directions.push_back(random_numbers(model.p[i].size(), -1, 1));
        for (double &x : s.directions[i]) { x = x < 0.0 ? -1.0 : 1.0; }
        for (int side = 0; side < 2; side++) {
            Model moved = model;
            for (size_t k = 0; k < moved.p[i].size(); k++) {
                moved.p[i][k] += (side == 0 ? -step : step) * s.directions[i][k];
            }
            for (const Batch &b : s.batches) {
                objective[side] += forward_of(moved, b, s.z, &unused, &unused);
            }
        }
        s.slopes.push_back((objective[1] - objective[0]) / (2.0 * step));
    }
    return s;
}

// A tensor's gradient times the direction is the slope. It is about as large as the gradient's norm, and so
// is the effect of an error.
static void check_gradients(OLMo2 *m, const Slopes &s) {
    std::vector<float> logprobs(10), lse(10);
    Numbers got, expected;
    double squares = 0.0;
    olmo2_zero_gradients(m);
    for (const Batch &b : s.batches) {
        olmo2_forward(m, b.tokens.data(), b.B, b.T);
        olmo2_classify(m, b.labels.data(), b.weights.data(), (float)s.z, logprobs.data(), lse.data());
        olmo2_backward(m);
    }
    const std::vector<Numbers> gradients = read_all(m, OLMO2_GRADIENT);
    for (size_t i = 0; i < gradients.size(); i++) {
        const size_t size = gradients[i].size();
        const double norm = sqrt(dot_of(gradients[i], 0, gradients[i], 0, size));
        got.push_back(dot_of(gradients[i], 0, s.directions[i], 0, size) / norm);
        expected.push_back(s.slopes[i] / norm);
        squares += norm * norm;
    }
    near("model gradients, in a direction", got, expected, IS_BF16 ? 1e-1 : MODEL_CLOSE);
    near("model gradient norm", {olmo2_gradient_norm(m)}, {sqrt(squares)}, 1e-5);
}

// Two updates with the current gradients. The model must then run with the new weights.
static void check_model_updates(OLMo2 *m, Model *model) {
    const std::vector<Numbers> gradients = read_all(m, OLMO2_GRADIENT);
    OLMo2AdamW s = ADAMW;
    std::vector<Numbers> moments1, moments2;
    for (const Numbers &p : model->p) {
        moments1.push_back(Numbers(p.size()));
        moments2.push_back(Numbers(p.size()));
    }
    for (s.t = 1; s.t <= 2; s.t++) {
        olmo2_update(m, &s);
        for (size_t i = 0; i < model->p.size(); i++) {
            adamw_of(model->p[i], moments1[i], moments2[i], gradients[i], s, i == 0 ? 0.0 : s.weight_decay);
        }
    }
    const std::vector<Numbers> updated = read_all(m, OLMO2_PARAMETER);
    Numbers got, expected;
    for (size_t i = 0; i < updated.size(); i++) {
        got.insert(got.end(), updated[i].begin(), updated[i].end());
        expected.insert(expected.end(), model->p[i].begin(), model->p[i].end());
    }
    near("model parameters after two updates", got, expected, CLOSE_FP32);
}

// Two sequences in slots 2 and 0, the second two tokens behind.
static void check_model_decoding(OLMo2 *m, const Model &model) {
    const size_t T = 7, V = model.c.V, lag = 2, slots[2] = {2, 0};
    const Batch b = make_batch(model.c, 2, T);
    std::vector<float> logits(2 * V);
    Numbers logprobs, lse, got, expected;
    forward_of(model, b, 0.0, &logprobs, &lse);
    for (size_t step = 0; step < T; step++) {
        const size_t n = step < lag ? 1 : 2;
        const uint32_t tokens[2] = {b.tokens[step], b.tokens[T + step - (n == 2 ? lag : 0)]};
        olmo2_decode(m, tokens, slots, n, logits.data());
        for (size_t i = 0; i < n; i++) {
            const size_t at = i == 0 ? step : T + step - lag;
            double sum = 0.0;
            for (size_t v = 0; v < V; v++) { sum += exp((double)logits[i * V + v]); }
            if (b.labels[at] == OLMO2_NO_TOKEN) { continue; }
            got.push_back((double)logits[i * V + b.labels[at]] - log(sum));
            expected.push_back(logprobs[at]);
        }
    }
    near("model, decoding", got, expected, MODEL_CLOSE);
}

// Sequence 0 grows in slot 2 by 3 tokens and one, and its rest in a copy of that, slot 1. Sequence 1 grows in
// slot 0 by one, five and one.
static void check_model_pieces(OLMo2 *m, const Model &model) {
    const size_t T = 7, V = model.c.V;
    const Batch b = make_batch(model.c, 2, T);
    const OLMo2Piece calls[3][2] = {{{2, 3}, {0, 1}}, {{2, 1}, {0, 5}}, {{1, 3}, {0, 1}}};
    size_t done[2] = {0, 0};
    Numbers logprobs, lse, got(2 * T), from_logits, of_labels;
    forward_of(model, b, 0.0, &logprobs, &lse);
    for (size_t slot = 0; slot < 3; slot++) { olmo2_truncate(m, slot, 0); }
    for (const auto &pieces : calls) {
        std::vector<uint32_t> tokens, labels;
        std::vector<size_t> places, rows;
        for (size_t i = 0; i < 2; i++) {
            for (size_t t = 0; t < pieces[i].count; t++) {
                places.push_back(i * T + done[i]++);
                tokens.push_back(b.tokens[places.back()]);
                labels.push_back(b.labels[places.back()]);
            }
        }
        std::vector<float> part(places.size()), part_lse(places.size()), logits(places.size() * V);
        if (pieces[0].slot == 1) { olmo2_copy_slot(m, 1, 2, 0, 4); }
        olmo2_prefill(m, tokens.data(), pieces, 2);
        olmo2_classify(m, labels.data(), nullptr, 0.0f, part.data(), part_lse.data());
        for (size_t n = 0; n < places.size(); n++) {
            got[places[n]] = part[n];
            rows.push_back(places.size() - 1 - n);
        }
        olmo2_logits(m, rows.data(), rows.size(), logits.data());
        for (size_t n = 0; n < rows.size(); n++) {
            if (labels[rows[n]] == OLMO2_NO_TOKEN) { continue; }
            from_logits.push_back((double)logits[n * V + labels[rows[n]]] - (double)part_lse[rows[n]]);
            of_labels.push_back(logprobs[places[rows[n]]]);
        }
    }
    near("model, pieces", got, logprobs, MODEL_CLOSE);
    near("model, logits of pieces", from_logits, of_labels, MODEL_CLOSE);
}

// A layer's gate and up, with equal weights and equal gradients, are rounded with different random bits.
static void check_tensors_differ(Model *model) {
    OLMo2 *m = create_model(model, RECOMPUTE_NONE, true);
    size_t gate = 0;
    while (parameter_at(&model->c, gate).row->id != W_GATE) { gate++; }
    std::vector<float> ones(parameter_at(&model->c, gate).size, 1.0f), after[2] = {ones, ones};
    for (size_t i = 0; i < 2; i++) {
        olmo2_write(m, OLMO2_PARAMETER, gate + i, ones.data());
        olmo2_write(m, OLMO2_GRADIENT, gate + i, ones.data());
    }
    const OLMo2AdamW s = {0x1p-10f, 0.0f, 0.0f, 0.0f, 0.0f, 1.0f, 1};
    olmo2_update(m, &s);
    for (size_t i = 0; i < 2; i++) { olmo2_read(m, OLMO2_PARAMETER, gate + i, after[i].data()); }
    CHECK(after[0] != after[1]);
    CHECK(after[0] != ones);
    olmo2_free(m);
}

static void check_model() {
    // In fp32 all rows are multiples of 16 bytes; in bf16 only some are.
    OLMo2Config c = {};
    c.C = 32;
    c.L = 2;
    c.NH = 4;
    c.NKV = 2;
    c.HS = 8;
    c.F = 24;
    c.V = 28;
    c.max_T = 7;
    c.rms_eps = EPS;
    c.rope_theta = 1e4f;
    Model model = random_model(c);
    const Slopes slopes = slopes_of(model);
    for (Recompute recompute : {RECOMPUTE_ELEMENTWISE, RECOMPUTE_NONE, RECOMPUTE_BLOCK}) {
        Model updated = model;
        OLMo2 *m = create_model(&updated, recompute, false);
        check_logprobs(m, updated, make_batch(model.c, 2, 7));
        check_gradients(m, slopes);
        check_model_updates(m, &updated);
        check_logprobs(m, updated, make_batch(model.c, 2, 6));
        check_model_decoding(m, updated);
        check_model_pieces(m, updated);
        olmo2_free(m);
    }
    if (IS_BF16) { check_tensors_differ(&model); }
}

// ---------------------------------------------------------------------------------------------
// the same bits whatever the order of blocks, warps and lanes

static void check_bits() {
#ifdef CUDA_ON_CPU
    const size_t N = 70, C = 40, size = 65536;
    Numbers x = random_numbers(N * C, -2, 2), dy = random_numbers(N * C, -1, 1),
            w = random_numbers(C, 0.5, 1.5);
    Numbers g = random_numbers(size, -9, 9), rstd = random_numbers(N, 0.5, 1.5);
    for (double &y : g) { y = exp(y); }  // a double cannot hold the sum of their squares exactly
    const On<floatX> d_x(rounded<floatX>(x)), d_dy(rounded<floatX>(dy)), d_w(rounded<floatX>(w)), d_dx(N * C);
    const On<float> d_rstd(rounded<float>(rstd)), d_partial(BACKWARD_BLOCKS * C), d_g(rounded<float>(g));
    const On<double> d_sums(SQUARES_BLOCKS);
    Numbers dw[3];
    std::vector<double> sums[3];
    for (int order = 0; order < 3; order++) {
        cuda_on_cpu_set_order(order, 1);
        Numbers zeros(C);
        const On<float> d_dw(rounded<float>(zeros));
        rmsnorm_backward(d_dx, array_of(d_dw), d_partial, d_dy, d_x, d_w, d_rstd, N, C);
        sum_of_squares(array_of(d_g), size, d_sums);
        dw[order] = d_dw.get();
        sums[order].resize(squares_blocks(array_of(d_g), size));
        CUDA_CHECK(cudaMemcpy(sums[order].data(), d_sums, sums[order].size() * sizeof(double),
                              cudaMemcpyDeviceToHost));
    }
    cuda_on_cpu_set_order(CUDA_ON_CPU_FORWARD, 1);
    CHECK(dw[0] == dw[1] && dw[0] == dw[2]);
    CHECK(sums[0] == sums[1] && sums[0] == sums[2]);
#endif
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        void (*check)();
    } groups[] = {{"warp_sum", check_warp_sum},
                  {"embedding", check_embeddings},
                  {"rmsnorm", check_rmsnorms},
                  {"qknorm_rope", check_qknorm_ropes},
                  {"matmul", check_matmul},
                  {"tiled", check_tiled_attention},
                  {"plain", check_plain_attention},
                  {"decoding", check_decoding},
                  {"pieces", check_long_pieces},
                  {"swiglu", check_swiglus},
                  {"classifier", check_classifiers},
                  {"adamw", check_updates},
                  {"norm_of_gradients", check_norms},
                  {"model", check_model},
                  {"bits", check_bits}};
    Error err;
    if (!cublas_open(&err)) {
        fprintf(stderr, "error: %s\n", err.text);
        return 1;
    }
    for (const auto &group : groups) {
        bool wanted = argc < 2;
        for (int i = 1; i < argc; i++) { wanted |= strstr(group.name, argv[i]) != nullptr; }
        if (!wanted) { continue; }
        printf("%s, " FLOATX_NAME "\n", group.name);
        group.check();
    }
    cublas_close();
    return check_report();
}
