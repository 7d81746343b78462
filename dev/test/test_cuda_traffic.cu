// test_cuda_traffic.cu: compares the bytes that the kernels of train_olmo2.cu move with the fewest possible.
// The kernels are memory-bound, so these bytes decide their time on a GPU; the checker of dev/cuda_on_cpu
// counts them without one. In bf16 only, which is what is trained with.
//
// Each row of the first table is one kernel at the shapes of OLMo 2 190M, on arrays of its own:
//   bytes      requested from global memory. Arrays that stay in a cache for any number of rows (a norm's
//              weight, the rotations, partial sums) count once. The classifier and attention read some bytes
//              again from the L2 cache; for them each byte counts once, see `asked`.
//   formula    the fewest bytes possible: every input read once, every output written once
//   asked      all bytes that the warps request, including those from the L2 cache
//   sectors    pieces of 32 bytes that the accesses touch, over the fewest that could hold the bytes
//   conflicts  extra passes through shared memory per access of a warp
// Then come whole training steps, and what follows for the 190M model with its 12 layers.
#define LLMC_MAIN_H  // the backend without the program
#include "train_olmo2.cu"
#include "dev/test/check.h"

#if defined(CUDA_ON_CPU_CHECK) && !defined(PRECISION_FP32)

#include <vector>

static const double MOST = 1.05;  // times the formula: row statistics, tokens, ends of tiles

// ---------------------------------------------------------------------------------------------
// arrays, each in its own allocation of exactly its size

static std::vector<void *> arrays;

template <typename T>
static T *array_of(const std::vector<T> &values) {
    void *array;
    CUDA_CHECK(cudaMalloc(&array, values.size() * sizeof(T)));
    CUDA_CHECK(cudaMemcpy(array, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice));
    arrays.push_back(array);
    return (T *)array;
}

// Numbers in (0, 1), which are valid as variances, gradients and logits alike.
template <typename T>
static T *numbers(size_t size) {
    std::vector<T> values(size);
    for (size_t i = 0; i < size; i++) { values[i] = (T)(float)(random_bits(0, arrays.size(), i) / 0x1p32); }
    return array_of(values);
}

static floatX *reals(size_t size) { return numbers<floatX>(size); }

static Array array_of_type(bool is_bf16, size_t size) {
    return is_bf16 ? Array{numbers<bf16>(size), true} : Array{numbers<float>(size), false};
}

// The same for an array that stays in the caches.
template <typename T>
static T *cached(size_t size) {
    T *array = numbers<T>(size);
    cuda_on_cpu_mark_table(array);
    return array;
}

static std::vector<uint32_t> integers(size_t size, uint32_t below) {
    std::vector<uint32_t> values(size);
    for (size_t i = 0; i < size; i++) { values[i] = random_bits(1, 0, i) % below; }
    return values;
}

static void release_arrays() {
    for (void *array : arrays) { CUDA_CHECK(cudaFree(array)); }
    arrays.clear();
}

// ---------------------------------------------------------------------------------------------
// one row of the table

static double asked(const CudaOnCpuStats &s) { return (double)(s.traffic_read + s.traffic_written); }
static double different(const CudaOnCpuStats &s) { return (double)(s.unique_read + s.unique_written); }

// What is allowed besides the formula, and why.
typedef struct {
    bool repeats;      // some bytes are read again from the L2 cache
    double sectors;    // over the fewest
    double conflicts;  // per access of a warp to shared memory
} Allowed;

static const Allowed STREAM = {false, MOST, 0.0};
static const Allowed REPEATS = {true, MOST, 0.0};

// A lane has 32 bytes of a row of fp32 in shared memory, which it moves in two halves. Eight lanes are
// served at once, and of eight halves that are 32 bytes apart two meet in each bank: one more pass for
// each of the four groups of eight.
static const Allowed FP32_SUMS = {false, MOST, 4.0};

// Pairs of heads of 64: of eight lanes, four have 64 bytes of one head and four the same banks of the
// next, so two meet here as well. The rotations are fp32, 32 bytes per lane in two halves, which
// touch each sector twice; there are few of them, and they are in the L1 cache.
static const Allowed PAIRS = {false, 1.15, 4.0};

// Runs `launch` and checks the figures of the kernels of that name.
template <typename Launch>
static void measure(const char *name, const char *kernel, double formula, const Allowed &allowed,
                    Launch launch) {
    cuda_on_cpu_reset();
    launch();
    const CudaOnCpuStats s = cuda_on_cpu_stats(kernel);
    const double bytes = allowed.repeats ? different(s) : asked(s);
    const double sectors = (double)s.sectors / (double)s.ideal_sectors;
    const double conflicts = (double)s.bank_conflicts / fmax((double)s.shared_accesses, 1.0);
    printf("%-40s %10.0f %10.0f %6.3f %10.0f %8.3f %9.3f\n", name, bytes, formula, bytes / formula, asked(s),
           sectors, conflicts);
    CHECK(bytes <= MOST * formula);
    CHECK(bytes >= formula);  // otherwise the formula or the count is wrong
    CHECK(sectors <= allowed.sectors);
    CHECK(conflicts <= allowed.conflicts);
    CHECK(s.races == 0 && s.float_atomics == 0);
}

// ---------------------------------------------------------------------------------------------
// the kernels

enum { C = 768, NH = 12, HS = 64, Q = NH * HS, F = 3072, V = 100352 / 8 };
static const size_t ROWS = 128;
static const float EPS = 1e-6f;

// What the backward of a norm moves once: the partial sums, out and back in, the weight and its gradient.
// From 1,024 rows on there are 256 blocks, and it stops growing.
static double norm_once(size_t width, size_t rows) {
    const size_t row = width * (sizeof(float) + 2 * sizeof(floatX));
    const size_t blocks = backward_blocks(rows, warps_for(row, BACKWARD_WARPS));
    return (double)(width * (blocks * 2 * sizeof(float) + 2 * sizeof(float) + sizeof(floatX)));
}

static void measure_embedding() {
    const size_t N = ROWS;
    const std::vector<uint32_t> tokens = integers(N, 100);  // some of them repeat
    std::vector<uint32_t> order(N), starts(N + 1), next(V);
    const size_t buckets = embedding_buckets(order.data(), starts.data(), next.data(), tokens.data(), N, V);
    starts.resize(buckets + 1);
    const uint32_t *t = array_of(tokens), *o = array_of(order), *s = array_of(starts);
    floatX *x = reals(N * C), *table = reals((size_t)V * C);
    const Array dtable = array_of_type(false, (size_t)V * C);
    measure("embedding forward", "_kernel", N * (4.0 * C + 4), STREAM,
            [&] { embedding_forward(x, table, t, N, C); });
    // The row of a repeated token is read and written once.
    measure("embedding backward", "_kernel", N * 2.0 * C + (double)buckets * 8 * C, STREAM,
            [&] { embedding_backward(dtable, x, t, o, s, buckets, C); });
    release_arrays();
}

static void measure_norms() {
    const size_t N = ROWS;
    floatX *x = reals(N * C), *y = reals(N * C), *z = reals(N * C), *w = cached<floatX>(C);
    float *rstd = numbers<float>(N), *partial = cached<float>(BACKWARD_BLOCKS * C);
    const Array dw = array_of_type(false, C);
    measure("rmsnorm forward", "_kernel", N * (4.0 * C + 4) + 2 * C, STREAM,
            [&] { rmsnorm_forward(y, rstd, x, w, N, C, EPS); });
    measure("rmsnorm backward", "_kernel", N * (6.0 * C + 4) + norm_once(C, N), FP32_SUMS,
            [&] { rmsnorm_backward(z, dw, partial, y, x, w, rstd, N, C); });
    measure("rmsnorm and residual forward", "_kernel", N * (6.0 * C + 4) + 2 * C, STREAM,
            [&] { rmsnorm_residual_forward(z, rstd, x, y, w, N, C, EPS); });
    measure("rmsnorm and residual backward", "_kernel", N * (6.0 * C + 4) + norm_once(C, N), FP32_SUMS,
            [&] { rmsnorm_residual_backward(z, dw, partial, y, x, w, rstd, N, C); });
    measure("add", "_kernel", N * 6.0 * C, STREAM, [&] { add(z, x, y, N * C); });
    release_arrays();
}

// Queries or keys in rows of the joint projection, as in the model.
static void measure_qknorm_rope(const char *forward, const char *backward, size_t heads, size_t row) {
    const size_t N = ROWS, T = ROWS, width = heads * HS;
    floatX *x = reals(N * row), *y = reals(N * width), *dx = reals(N * row), *w = cached<floatX>(width);
    float *rstd = numbers<float>(N), *partial = cached<float>(BACKWARD_BLOCKS * width);
    const float *rope = cached<float>(T * HS);
    const Array dw = array_of_type(false, width);
    const double once = (double)(T * HS * sizeof(float));
    measure(forward, "_kernel", N * (4.0 * width + 4) + once + 2.0 * width, PAIRS,
            [&] { qknorm_rope_forward(y, rstd, x, row, w, rope, nullptr, N, T, heads, HS, EPS); });
    measure(backward, "_kernel", N * (6.0 * width + 4) + once + norm_once(width, N), PAIRS,
            [&] { qknorm_rope_backward(dx, row, dw, partial, y, x, row, w, rstd, rope, N, T, heads, HS); });
    release_arrays();
}

// T is not a multiple of a tile. The tiles of keys and values are read again for each tile of queries, and
// the other way round: by design from the L2 cache. The backward is two kernels, one for dq and one for dk
// and dv, which both read q, k, v and do.
static void measure_attention(const char *names[3], size_t kv_heads) {
    const size_t B = 1, T = 200, N = B * T, KV = kv_heads * HS, row = Q + 2 * KV;
    floatX *q = reals(N * Q), *k = reals(N * KV), *qkv = reals(N * row), *v = qkv + Q + KV, *o = reals(N * Q);
    floatX *d_o = reals(N * Q), *dq = reals(N * Q), *dk = reals(N * KV), *dqkv = reals(N * row),
           *dv = dqkv + Q + KV;
    float *lse = numbers<float>(N * NH), *delta = numbers<float>(N * NH);
    measure(names[0], "_kernel", N * (4.0 * Q + 4.0 * KV + 4 * NH), REPEATS,
            [&] { attention_forward(o, lse, q, k, v, row, B, T, NH, kv_heads, HS); });
    const auto backward = [&] {
        attention_backward(dq, dk, dv, row, delta, d_o, q, k, v, row, o, lse, B, T, NH, kv_heads, HS);
    };
    measure(names[1], "dq_kernel", N * (8.0 * Q + 4.0 * KV + 8 * NH), REPEATS, backward);
    measure(names[2], "dkdv_kernel", N * (4.0 * Q + 8.0 * KV + 8 * NH), REPEATS, backward);
    release_arrays();
}

// A sequence of `past` tokens in a cache grows by some: their keys and values are copied there, then they
// attend to it. Each query head reads its keys and values itself, from the L2 cache if another head has them.
static void measure_piece(const char *names[2], size_t past, size_t count, size_t kv_heads) {
    const size_t KV = kv_heads * HS, row = Q + 2 * KV, page_T = past + count;
    floatX *q = reals(count * Q), *k = reals(count * KV), *v = reals(count * row) + Q + KV,
           *o = reals(count * Q);
    floatX *keys = reals(page_T * KV), *values = reals(page_T * KV);
    const Piece piece = {0, (uint32_t)count, (uint32_t)past, 0};
    const Pieces pieces = {array_of(std::vector<Piece>(1, piece)), 1, count == 1 ? (size_t)1 : 0, count};
    cuda_on_cpu_mark_table(pieces.pieces);
    measure(names[0], "append_kernel", 8.0 * count * KV, STREAM,
            [&] { cache_append(keys, values, k, v, row, pieces, page_T, KV); });
    measure(names[1], "attention_", 4.0 * count * Q + 4.0 * page_T * KV, REPEATS,
            [&] { attention_cached(o, q, keys, values, pieces, page_T, NH, kv_heads, HS); });
    release_arrays();
}

static void measure_swiglu() {
    const size_t N = ROWS;
    floatX *gate_up = reals(N * 2 * F), *dgate_up = reals(N * 2 * F), *a = reals(N * F);
    measure("swiglu forward", "_kernel", N * 6.0 * F, STREAM, [&] { swiglu_forward(a, gate_up, N, F); });
    measure("swiglu backward", "_kernel", N * 10.0 * F, STREAM,
            [&] { swiglu_backward(dgate_up, nullptr, a, gate_up, N, F); });
    measure("swiglu backward, act recomputed", "_kernel", N * 12.0 * F, STREAM,
            [&] { swiglu_backward(dgate_up, a, a, gate_up, N, F); });
    release_arrays();
}

static void measure_classifier() {
    const size_t N = ROWS / 2;
    floatX *logits = reals(N * V);
    float *logprobs = numbers<float>(N), *lse = numbers<float>(N), *weights = numbers<float>(N);
    const uint32_t *labels = array_of(integers(N, V));
    measure("classifier forward", "_kernel", N * (2.0 * V + 12), STREAM,
            [&] { classifier_forward(logprobs, lse, logits, labels, N, V); });
    measure("classifier forward and backward", "_kernel", N * (4.0 * V + 16), REPEATS,
            [&] { classifier_forward_backward(logprobs, lse, logits, labels, weights, 1e-5f, N, V); });
    const CudaOnCpuStats s = cuda_on_cpu_stats("classifier_kernel");
    CHECK(asked(s) <= MOST * (double)N * 6 * V);  // in twice and out once
    release_arrays();
}

static void measure_update(const char *name, double bytes, bool has_master, bool bf16_gradients,
                           bool bf16_moments) {
    const size_t size = 64 * C;
    floatX *p = reals(size);
    float *master = has_master ? numbers<float>(size) : nullptr;
    const Array m = array_of_type(bf16_moments, size), v = array_of_type(bf16_moments, size);
    const Array g = array_of_type(bf16_gradients, size);
    const OLMo2AdamW settings = {1e-3f, 0.9f, 0.95f, 1e-8f, 0.1f, 1.0f, 1};
    measure(name, "_kernel", bytes * (double)size, STREAM,
            [&] { adamw_update(p, master, m, v, g, size, &settings, 0.1f, 3); });
    release_arrays();
}

static void measure_norm(const char *name, bool bf16_gradients) {
    const size_t size = 1024 * C;
    const Array g = array_of_type(bf16_gradients, size);
    double *partial = numbers<double>(SQUARES_BLOCKS);
    const double bytes = (bf16_gradients ? 2.0 : 4.0) * (double)size + 8.0 * (double)squares_blocks(g, size);
    measure(name, "_kernel", bytes, STREAM, [&] { sum_of_squares(g, size, partial); });
    release_arrays();
}

// ---------------------------------------------------------------------------------------------
// whole steps

// A step's bytes: for each token without its logits, for each logit, for each parameter.
typedef struct {
    double token, logit, update, norm;
} Step;

static Step measure_step(size_t layers, Recompute recompute) {
    const size_t N = 64;
    OLMo2Config c;
    const OLMo2Room room = olmo2_room_to_train(1, N);
    OLMo2Form form = olmo2_form();
    OLMo2 *m = nullptr;
    Error err;
    if (!olmo2_preset(&c, "190M")) { error_write(&err, "no 190M"); }
    c.L = layers;
    c.V = 1024;
    form.recompute = recompute;
    if (!olmo2_create(&m, &c, &room, &form, &err)) {
        fprintf(stderr, "error: %s\n", err.text);
        exit(1);
    }
    std::vector<float> values(parameter_largest(&c)), weights(N, 1.0f / N), logprobs(N), lse(N);
    std::vector<uint32_t> tokens(N), labels = integers(N, (uint32_t)c.V);
    for (size_t i = 0; i < values.size(); i++) { values[i] = random_bits(2, 0, i) / 0x1p32f - 0.5f; }
    for (size_t i = 0; i < parameter_count(&c); i++) { olmo2_write(m, OLMO2_PARAMETER, i, values.data()); }
    for (size_t i = 0; i < N; i++) {
        tokens[i] = (uint32_t)(7 * i);
    }  // no repeats, which costs the most bytes
    const void *tables[] = {m->weights, m->rope, m->workspace.partial};
    for (const void *table : tables) { cuda_on_cpu_mark_table(table); }
    const OLMo2AdamW settings = {1e-3f, 0.9f, 0.95f, 1e-8f, 0.1f, 1.0f, 1};

    cuda_on_cpu_reset();
    olmo2_forward(m, tokens.data(), 1, N);
    olmo2_zero_gradients(m);
    olmo2_classify(m, labels.data(), weights.data(), 1e-5f, logprobs.data(), lse.data());
    olmo2_backward(m);
    const double gradient_norm = olmo2_gradient_norm(m);
    olmo2_update(m, &settings);

    const CudaOnCpuStats all = cuda_on_cpu_stats("_kernel"), adamw = cuda_on_cpu_stats("adamw_kernel"),
                         squares = cuda_on_cpu_stats("sum_of_squares_kernel"),
                         classifier = cuda_on_cpu_stats("classifier_kernel"),
                         attention = cuda_on_cpu_stats("attention_");
    CHECK(gradient_norm > 0.0 && gradient_norm < INFINITY);
    CHECK(all.races == 0 && all.float_atomics == 0);
    CHECK((double)all.sectors <= MOST * (double)all.ideal_sectors);
    CHECK(attention.bank_conflicts == 0);
    // What does not grow with N: the norms' weights, partial sums and gradients, and the rotations.
    const double rope = (double)(N * HS * sizeof(float)), weight = (double)(C * sizeof(floatX));
    double once = (4.0 * layers + 1.0) * (norm_once(C, N) + weight) + 4.0 * layers * rope;
    if (recompute == RECOMPUTE_ELEMENTWISE) { once += layers * (3.0 * weight + 2.0 * rope); }
    const double logits = (double)(N * c.V), parameters = (double)parameter_array_size(&c);
    const double streams = asked(all) - asked(adamw) - asked(squares) - asked(classifier) - asked(attention);
    olmo2_free(m);
    return Step{(streams + different(attention) - once) / (double)N, different(classifier) / logits,
                asked(adamw) / parameters, asked(squares) / parameters};
}

static void check_figure(const char *name, double figure, double formula) {
    printf("%-64s %10.1f %10.1f %6.3f\n", name, figure, formula, figure / formula);
    CHECK(figure <= MOST * formula);
    CHECK(figure >= formula);
}

// A model of two layers minus a model of one is a layer; from it follows any number of layers.
static void measure_steps() {
    const double d = C, f = F, H = NH, layers = 12.0, logits = 100352.0;
    const double qknorm = 8 * d + 8, residual = 6 * d + 4;  // bytes for each token, forward
    const double forward = qknorm + 2 * residual + 6 * f + 8 * d + 4 * H;
    const double backward = 2 * (6 * d + 4) + 10 * f + 12 * d + 8;
    // The fewest read q, k, v, o, do and write dq, dk, dv once; two kernels each read q, k, v, do, lse, D.
    const double attention = 16 * d + 12 * H, attention_of_two = 24 * d + 16 * H;
    const double again = qknorm + residual + 2 * f;  // what RECOMPUTE_ELEMENTWISE recomputes
    // embedding, final norm and back; the embedding's gradient is fp32, in and out, as no token comes twice
    const double ends = 4 * d + 4 * d + 6 * d + 2 * d + 8 * d;

    printf("\n%-64s %10s %10s %6s\n", "whole steps: bytes", "counted", "formula", "ratio");
    const Step one = measure_step(1, RECOMPUTE_NONE), two = measure_step(2, RECOMPUTE_NONE);
    const Step one_again = measure_step(1, RECOMPUTE_ELEMENTWISE);
    const double layer = two.token - one.token, layer_again = layer + one_again.token - one.token;
    check_figure("a layer, for each token", layer, forward + backward + attention_of_two);
    check_figure("a layer with elementwise recompute", layer_again,
                 forward + backward + attention_of_two + again);
    check_figure("embedding and final norm, for each token", one.token - layer, ends);
    check_figure("classifier, for each logit", one.logit, 4.0);
    check_figure("update, for each parameter", one.update, 30.0);
    check_figure("gradient norm, for each parameter", one.norm, 4.0);
    check_figure("190M, for each token: against the fewest possible",
                 layers * layer + (one.token - layer) + one.logit * logits,
                 layers * (forward + backward + attention) + ends + 4.0 * logits);
    check_figure("190M with elementwise recompute",
                 layers * layer_again + (one.token - layer) + one.logit * logits,
                 layers * (forward + backward + attention + again) + ends + 4.0 * logits);
}

int main() {
    printf("%-40s %10s %10s %6s %10s %8s %9s\n", "kernel", "bytes", "formula", "ratio", "asked", "sectors",
           "conflicts");
    measure_embedding();
    measure_norms();
    measure_qknorm_rope("qknorm and rope forward, 12 heads", "qknorm and rope backward, 12 heads", NH, 3 * Q);
    measure_qknorm_rope("qknorm and rope forward, 4 heads", "qknorm and rope backward, 4 heads", 4,
                        Q + 8 * HS);
    const char *mha[] = {"attention forward", "attention backward dq", "attention backward dk, dv"};
    const char *gqa[] = {"attention forward, 4 kv heads", "attention backward dq, 4 kv heads",
                         "attention backward dk, dv, 4 kv heads"};
    measure_attention(mha, NH);
    measure_attention(gqa, 4);
    const char *piece[] = {"cache, 70 tokens appended", "attention of 70 tokens after 200"};
    const char *token[] = {"cache, a token appended", "attention of a token after 270"};
    measure_piece(piece, 200, 70, NH);
    measure_piece(token, 270, 1, 4);
    measure_swiglu();
    measure_classifier();
    measure_norm("gradient norm", false);
    measure_norm("gradient norm, bf16", true);
    measure_update("adamw", 30.0, true, false, false);
    measure_update("adamw, no master weights", 22.0, false, true, false);
    measure_update("adamw, bf16 moments", 22.0, true, false, true);
    measure_update("adamw, both", 14.0, false, true, true);
    measure_steps();
    return check_report();
}

#else

// Nothing was counted, so this must not pass.
int main() {
    printf("skipped: bytes are counted in bf16, by the checker's build: dev/cuda_on_cpu/run.sh --check\n");
    printf("0 passed, 1 failed\n");
    return 1;
}

#endif
