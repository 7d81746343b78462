// attention.c: causal attention with grouped queries, from the formulas as written to the tiles of
// train_olmo2.c. README.md says how to build and read this.
//
//   build/cpu/attention forward    q (B, T, NH, HS), k and v (B, T, NKV, HS) -> o (B, T, NH, HS) and
//                                  lse (B, T, NH)
//   build/cpu/attention backward   d_o, q, k, v, o, lse -> dq, dk, dv
//
// Query head h reads key/value head h / (NH / NKV). Forward:
//   s_ij = q_i . k_j / sqrt(HS) for j <= i,  p_ij = e^(s_ij - lse_i),  lse_i = log sum_j e^(s_ij),
//   o_i = sum_j p_ij v_j
// Backward, with D_i = do_i . o_i:
//   dv_j = sum_i p_ij do_i,  ds_ij = p_ij (do_i . v_j - D_i) / sqrt(HS),
//   dq_i = sum_j ds_ij k_j,  dk_j = sum_i ds_ij q_i
// Per head, the forward has two products and the backward five, all of size T x T x HS. The causal mask
// excludes half of each. Rates count only the operations of the other half, whatever a version computes in
// addition.

#include "ladder.h"

typedef struct {
    size_t B, T, NH, NKV, HS;
} Shape;

// Where query i of head h begins, and where the keys and values of head h begin.
static size_t query_at(const Shape *z, size_t b, size_t h, size_t i) {
    return ((b * z->T + i) * z->NH + h) * z->HS;
}
static size_t keys_at(const Shape *z, size_t b, size_t h) {
    return (b * z->T * z->NKV + h / (z->NH / z->NKV)) * z->HS;
}

typedef void Forward(float *o, float *lse, const float *q, const float *k, const float *v, float *space,
                     const Shape *z);
typedef void Backward(float *dq, float *dk, float *dv, const float *d_o, const float *q, const float *k,
                      const float *v, const float *o, const float *lse, float *space, const Shape *z);

// ---------------------------------------------------------------------------------------------
// Version 1: the formulas as written. The scores of a head, T x T, are written to memory and read again,
// masked ones included: half of the work is wasted. Each output is a separate sum whose additions wait for
// each other. All products except the scores walk down the columns of a matrix (matmul.c). expf is a function
// call.
// GFLOP/s on 1 / 2 threads: forward 0.75 / 1.51, backward 0.64 / 1.28.

// C (M, N) = A B, or C += A B.
static void product(float *C, size_t ldc, Matrix A, Matrix B, size_t M, size_t N, size_t K, bool accumulate) {
    for (size_t i = 0; i < M; i++) {
        for (size_t j = 0; j < N; j++) {
            const float *a = (const float *)A.data + i * A.row_stride;
            const float *b = (const float *)B.data + j * B.column_stride;
            float sum = accumulate ? C[i * ldc + j] : 0.0f;
            for (size_t k = 0; k < K; k++) { sum += a[k * A.column_stride] * b[k * B.row_stride]; }
            C[i * ldc + j] = sum;
        }
    }
}

// p (B, NH, T, T) is scratch.
static void forward_1(float *o, float *lse, const float *q, const float *k, const float *v, float *p,
                      const Shape *z) {
    const size_t T = z->T, HS = z->HS, Q = z->NH * HS, KV = z->NKV * HS;
    const float scale = 1.0f / sqrtf((float)HS);
#pragma omp parallel for collapse(2)
    for (size_t b = 0; b < z->B; b++) {
        for (size_t h = 0; h < z->NH; h++) {
            const size_t query = query_at(z, b, h, 0), key = keys_at(z, b, h), row = (b * z->NH + h) * T;
            float *p_h = p + row * T;
            product(p_h, T, matrix_of(q + query, Q, 1), matrix_of(k + key, 1, KV), T, T, HS, false);
            for (size_t i = 0; i < T; i++) {
                float *p_i = p_h + i * T, max = -INFINITY, sum = 0.0f;
                for (size_t j = 0; j < T; j++) {
                    p_i[j] = j <= i ? p_i[j] * scale : -INFINITY;
                    max = fmaxf(max, p_i[j]);
                }
                for (size_t j = 0; j < T; j++) {
                    p_i[j] = expf(p_i[j] - max);
                    sum += p_i[j];
                }
                for (size_t j = 0; j < T; j++) { p_i[j] /= sum; }
                lse[(b * T + i) * z->NH + h] = max + logf(sum);
            }
            product(o + query, Q, matrix_of(p_h, T, 1), matrix_of(v + key, KV, 1), T, HS, T, false);
        }
    }
}

// space holds p and ds, (B, NKV, T, T) each.
static void backward_1(float *dq, float *dk, float *dv, const float *d_o, const float *q, const float *k,
                       const float *v, const float *o, const float *lse, float *space, const Shape *z) {
    const size_t T = z->T, HS = z->HS, Q = z->NH * HS, KV = z->NKV * HS, group = z->NH / z->NKV;
    const float scale = 1.0f / sqrtf((float)HS);
#pragma omp parallel for collapse(2)
    for (size_t b = 0; b < z->B; b++) {
        for (size_t g = 0; g < z->NKV; g++) {
            float *p = space + 2 * (b * z->NKV + g) * T * T, *ds = p + T * T;
            for (size_t h = g * group; h < (g + 1) * group; h++) {
                const size_t query = query_at(z, b, h, 0), key = keys_at(z, b, h);
                const Matrix q_h = matrix_of(q + query, Q, 1), do_h = matrix_of(d_o + query, Q, 1);
                product(p, T, q_h, matrix_of(k + key, 1, KV), T, T, HS, false);
                product(ds, T, do_h, matrix_of(v + key, 1, KV), T, T, HS, false);
                for (size_t i = 0; i < T; i++) {
                    float mean = 0.0f;
                    for (size_t c = 0; c < HS; c++) { mean += d_o[query + i * Q + c] * o[query + i * Q + c]; }
                    for (size_t j = 0; j < T; j++) {
                        p[i * T + j] =
                            j <= i ? expf(p[i * T + j] * scale - lse[(b * T + i) * z->NH + h]) : 0.0f;
                        ds[i * T + j] = p[i * T + j] * (ds[i * T + j] - mean) * scale;
                    }
                }
                product(dq + query, Q, matrix_of(ds, T, 1), matrix_of(k + key, KV, 1), T, HS, T, false);
                product(dk + key, KV, matrix_of(ds, 1, T), q_h, T, HS, T, h > g * group);
                product(dv + key, KV, matrix_of(p, 1, T), do_h, T, HS, T, h > g * group);
            }
        }
    }
}

// ---------------------------------------------------------------------------------------------
// Version 2, like llm.c and with its -ffast-math (loops.c): one query at a time, in passes over the keys that
// it sees. Masked scores are not computed. The scores are one row, which stays in the first-level cache. All
// loops run along rows, as vector code. What is left: every query reads all its keys and values from wherever
// they are. The lanes of each score must be summed. Each multiply-add into o, dq, dk or dv is a round trip to
// memory. The backward uses one thread and takes t^2 steps for a softmax.
// GFLOP/s on 1 / 2 threads: forward 22.3 / 31.8, backward 10.4 / 10.8.

static void forward_2(float *o, float *lse, const float *q, const float *k, const float *v, float *space,
                      const Shape *z) {
    attention_forward_loops(o, lse, q, k, v, space, z->B, z->T, z->NH, z->NKV, z->HS);
}

static void backward_2(float *dq, float *dk, float *dv, const float *d_o, const float *q, const float *k,
                       const float *v, const float *o, const float *lse, float *space, const Shape *z) {
    attention_backward_loops(dq, dk, dv, d_o, q, k, v, o, lse, space, z->B, z->T, z->NH, z->NKV, z->HS);
}

// ---------------------------------------------------------------------------------------------
// Version 3: tiles of 64 queries by 64 keys, which stay in a near cache while they are reused. The keys of a
// tile are transposed, so the scores of a query are 64 sums side by side. These stay in registers and need no
// final summation. Rows are added to o, dq, dk and dv four at a time, so one round trip to memory serves four
// multiply-adds. e^x is a polynomial without a call (exponentials of train_olmo2.c). All of it is plain
// loops, which become vector code without -ffast-math. A tile on the diagonal is computed whole, and its
// masked scores are discarded. What is left: consecutive rows of a head are as far apart as all heads
// together are long, 2 kB for eight heads of 64. They compete for a few places of the first-level cache (with
// nine heads this version is a third faster). And every multiply-add still needs a load.
// GFLOP/s on 1 / 2 threads: forward 30.2 / 62.5, backward 30.3 / 66.4.

enum { KEYS = 64 };

// One row of tiles: `rows` queries starting at `first`. None of them sees a key from first + rows on. Score
// s_ij is at s + i width + j, where i counts from the first of these queries.
typedef struct {
    size_t first, rows, width, HS, Q, KV;
} Tiles;

static size_t tiles_width(size_t T) { return gemm_divide_up(T, KEYS) * KEYS; }

// Floats per thread: s, ds and the transposed keys.
static size_t tiles_size(const Shape *z) { return 2 * QUERIES * tiles_width(z->T) + KEYS * z->HS; }

// s_ij = a_i . b_j; a holds rows of queries, b rows of keys or values. turned (HS, KEYS) is scratch.
static void tiles_scores(float *s, float *turned, const float *a, const float *b, const Tiles *t) {
    for (size_t j0 = 0; j0 < t->first + t->rows; j0 += KEYS) {
        const size_t keys = gemm_min(KEYS, t->first + t->rows - j0);
        for (size_t c = 0; c < t->HS; c++) {
            for (size_t j = 0; j < KEYS; j++) {
                turned[c * KEYS + j] = j < keys ? b[(j0 + j) * t->KV + c] : 0.0f;
            }
        }
        for (size_t i = 0; i < t->rows; i++) {
            float sum[KEYS] = {0.0f};
            for (size_t c = 0; c < t->HS; c++) {
                const float a_ic = a[i * t->Q + c];
                for (size_t j = 0; j < KEYS; j++) { sum[j] += a_ic * turned[c * KEYS + j]; }
            }
            memcpy(s + i * t->width + j0, sum, sizeof sum);
        }
    }
}

// y_i += sum_j s_ij x_j for i < m, j < n
static void add_rows(float *y, size_t y_stride, Matrix s, const float *x, size_t x_stride, size_t m, size_t n,
                     size_t HS) {
    for (size_t i = 0; i < m; i++) {
        float *y_i = y + i * y_stride;
        const float *s_i = (const float *)s.data + i * s.row_stride;
        size_t j = 0;
        for (; j + 4 <= n; j += 4) {
            const float *x0 = x + j * x_stride, *x1 = x0 + x_stride, *x2 = x1 + x_stride, *x3 = x2 + x_stride;
            const float s0 = s_i[j * s.column_stride], s1 = s_i[(j + 1) * s.column_stride];
            const float s2 = s_i[(j + 2) * s.column_stride], s3 = s_i[(j + 3) * s.column_stride];
            for (size_t c = 0; c < HS; c++) { y_i[c] += s0 * x0[c] + s1 * x1[c] + s2 * x2[c] + s3 * x3[c]; }
        }
        for (; j < n; j++) {
            for (size_t c = 0; c < HS; c++) { y_i[c] += s_i[j * s.column_stride] * x[j * x_stride + c]; }
        }
    }
}

// a_i = sum_j s_ij b_j
static void tiles_to_queries(float *a, const float *s, const float *b, const Tiles *t) {
    for (size_t i = 0; i < t->rows; i++) { memset(a + i * t->Q, 0, t->HS * sizeof(float)); }
    for (size_t j0 = 0; j0 < t->first + t->rows; j0 += KEYS) {
        add_rows(a, t->Q, matrix_of(s + j0, t->width, 1), b + j0 * t->KV, t->KV, t->rows,
                 gemm_min(KEYS, t->first + t->rows - j0), t->HS);
    }
}

// b_j += sum_i s_ij a_i
static void tiles_to_keys(float *b, const float *s, const float *a, const Tiles *t) {
    add_rows(b, t->KV, matrix_of(s, 1, t->width), a, t->Q, t->first + t->rows, t->rows, t->HS);
}

// space (threads, tiles_size)
static void forward_3(float *o, float *lse, const float *q, const float *k, const float *v, float *space,
                      const Shape *z) {
    const size_t T = z->T, HS = z->HS;
    const float scale = 1.0f / sqrtf((float)HS);
#pragma omp parallel for collapse(3) schedule(dynamic)
    for (size_t b = 0; b < z->B; b++) {
        for (size_t h = 0; h < z->NH; h++) {
            for (size_t i0 = 0; i0 < T; i0 += QUERIES) {
                const size_t query = query_at(z, b, h, i0), key = keys_at(z, b, h);
                const Tiles t = {i0, gemm_min(QUERIES, T - i0), tiles_width(T), HS, z->NH * HS, z->NKV * HS};
                float *s = space + thread_number() * tiles_size(z);
                tiles_scores(s, s + 2 * QUERIES * t.width, q + query, k + key, &t);
                for (size_t i = 0; i < t.rows; i++) {
                    const size_t visible = i0 + i + 1;
                    float *s_i = s + i * t.width;
                    const float max = scale * maximum(s_i, visible);
                    const float sum = exponentials(s_i, s_i, scale, max, visible);
                    for (size_t j = 0; j < visible; j++) { s_i[j] /= sum; }
                    for (size_t j = visible; j < i0 + t.rows; j++) { s_i[j] = 0.0f; }
                    lse[(b * T + i0 + i) * z->NH + h] = max + logf(sum);
                }
                tiles_to_queries(o + query, s, v + key, &t);
            }
        }
    }
}

static void backward_3(float *dq, float *dk, float *dv, const float *d_o, const float *q, const float *k,
                       const float *v, const float *o, const float *lse, float *space, const Shape *z) {
    const size_t T = z->T, HS = z->HS, Q = z->NH * HS, KV = z->NKV * HS, group = z->NH / z->NKV;
    const float scale = 1.0f / sqrtf((float)HS);
#pragma omp parallel for collapse(2) schedule(dynamic)
    for (size_t b = 0; b < z->B; b++) {
        for (size_t g = 0; g < z->NKV; g++) {
            const size_t key = keys_at(z, b, g * group), width = tiles_width(T);
            float *p = space + thread_number() * tiles_size(z), *ds = p + QUERIES * width;
            float *turned = ds + QUERIES * width;
            for (size_t j = 0; j < T; j++) {
                memset(dk + key + j * KV, 0, HS * sizeof(float));
                memset(dv + key + j * KV, 0, HS * sizeof(float));
            }
            for (size_t h = g * group; h < (g + 1) * group; h++) {
                for (size_t i0 = 0; i0 < T; i0 += QUERIES) {
                    const Tiles t = {i0, gemm_min(QUERIES, T - i0), width, HS, Q, KV};
                    const size_t query = query_at(z, b, h, i0);
                    tiles_scores(p, turned, q + query, k + key, &t);
                    tiles_scores(ds, turned, d_o + query, v + key, &t);
                    for (size_t i = 0; i < t.rows; i++) {
                        const float mean = dot(d_o + query + i * Q, o + query + i * Q, HS);
                        const float lse_i = lse[(b * T + i0 + i) * z->NH + h];
                        float *p_i = p + i * width, *ds_i = ds + i * width;
                        for (size_t j = 0; j <= i0 + i; j++) {
                            p_i[j] = exponential(p_i[j] * scale - lse_i);
                            ds_i[j] = p_i[j] * (ds_i[j] - mean) * scale;
                        }
                        for (size_t j = i0 + i + 1; j < i0 + t.rows; j++) { p_i[j] = ds_i[j] = 0.0f; }
                    }
                    tiles_to_queries(dq + query, ds, k + key, &t);
                    tiles_to_keys(dk + key, ds, q + query, &t);
                    tiles_to_keys(dv + key, p, d_o + query, &t);
                }
            }
        }
    }
}

// ---------------------------------------------------------------------------------------------
// Version 4, shipped: the same tiles, multiplied by gemm_serial, from packed strips and panels with all sums
// in registers (matmul.c).
// GFLOP/s on 1 / 2 threads: forward 68.2 / 141, backward 72.5 / 146.

static void forward_4(float *o, float *lse, const float *q, const float *k, const float *v, float *space,
                      const Shape *z) {
    const size_t KV = z->NKV * z->HS;
    QueryTile tiles[64];
    size_t count = 0;
    for (size_t b = 0; b < z->B; b++) {
        for (size_t t = 0; t < z->T; t += QUERIES, count++) {
            assert(count < sizeof tiles / sizeof tiles[0]);
            tiles[count] = (QueryTile){b, b * z->T + t, t, gemm_min(QUERIES, z->T - t)};
        }
    }
    attention_forward(o, lse, q, (Past){k, v, z->T * KV, z->HS, KV}, tiles, count, space, z->NH, z->NKV,
                      z->HS);
}

static void backward_4(float *dq, float *dk, float *dv, const float *d_o, const float *q, const float *k,
                       const float *v, const float *o, const float *lse, float *space, const Shape *z) {
    attention_backward(dq, dk, dv, d_o, q, k, v, o, lse, space, z->B, z->T, z->NH, z->NKV, z->HS);
}

static Forward *const forwards[] = {forward_1, forward_2, forward_3, forward_4};
static Backward *const backwards[] = {backward_1, backward_2, backward_3, backward_4};

// ---------------------------------------------------------------------------------------------
// The operations

// Sums of up to a few hundred numbers with rounding errors of 6e-8, and e^x of scores that have such errors.
static const double TOLERANCE = 5e-6;

enum { SPACE, Q, K, V, O, LSE, DO, DQ, DK, DV };  // the arrays, in the order of creation

static Shape shape_of(const Problem *p) { return (Shape){p->n[0], p->n[1], p->n[2], p->n[3], p->n[4]}; }
static size_t query_count(const Shape *z) { return z->B * z->T * z->NH * z->HS; }
static size_t key_count(const Shape *z) { return z->B * z->T * z->NKV * z->HS; }

static void operands(Problem *p, const Shape *z, int products) {
    const size_t whole = 2 * z->B * z->NH * z->T * z->T;  // scratch of version 1; below, of 3, and of 2 and 4
    const size_t tiles = thread_count() * tiles_size(z), shipped = thread_count() * attention_tile_size(z->T);
    const size_t most = whole > tiles ? whole : tiles;
    input(p, most > shipped ? most : shipped, (double)NAN, (double)NAN);
    input(p, query_count(z), -2.0, 2.0);
    input(p, key_count(z), -2.0, 2.0);
    input(p, key_count(z), -1.0, 1.0);
    p->work = products * 2.0 * (double)(z->B * z->NH * (z->T * (z->T + 1) / 2) * z->HS);
}

static void forward_arrays(Problem *p) {
    const Shape z = shape_of(p);
    operands(p, &z, 2);
    output(p, "o", query_count(&z), TOLERANCE);
    output(p, "lse", z.B * z.NH * z.T, TOLERANCE);
}

static void forward_run(const Problem *p, int version) {
    const Array *a = p->arrays;
    const Shape z = shape_of(p);
    forwards[version - 1](a[O].data, a[LSE].data, a[Q].data, a[K].data, a[V].data, a[SPACE].data, &z);
}

static void backward_arrays(Problem *p) {
    const Shape z = shape_of(p);
    operands(p, &z, 5);
    input(p, query_count(&z), 0.0, 0.0);
    input(p, z.B * z.NH * z.T, 0.0, 0.0);
    forward_run(p, 4);  // o and lse come from the forward
    input(p, query_count(&z), -1.0, 1.0);
    output(p, "dq", query_count(&z), TOLERANCE);
    output(p, "dk", key_count(&z), TOLERANCE);
    output(p, "dv", key_count(&z), TOLERANCE);
}

static void backward_run(const Problem *p, int version) {
    const Array *a = p->arrays;
    const Shape z = shape_of(p);
    backwards[version - 1](a[DQ].data, a[DK].data, a[DV].data, a[DO].data, a[Q].data, a[K].data, a[V].data,
                           a[O].data, a[LSE].data, a[SPACE].data, &z);
}

static double dot_in_double(const float *a, const float *b, size_t n) {
    double sum = 0.0;
    for (size_t i = 0; i < n; i++) { sum += (double)a[i] * (double)b[i]; }
    return sum;
}

// The oracle of forward and backward: row i of head h. Scores are below 4 HS / sqrt(HS), so e^s cannot
// overflow.
static void expect_row(Problem *p, const Shape *z, size_t b, size_t h, size_t i, double *p_i, bool backward) {
    const size_t query = query_at(z, b, h, i), keys = keys_at(z, b, h), KV = z->NKV * z->HS, HS = z->HS;
    const Array *a = p->arrays;
    double sum = 0.0, mean = 0.0;
    for (size_t j = 0; j <= i; j++) {
        p_i[j] = exp(dot_in_double(a[Q].data + query, a[K].data + keys + j * KV, HS) / sqrt((double)HS));
        sum += p_i[j];
    }
    for (size_t j = 0; j <= i; j++) { p_i[j] /= sum; }
    if (!backward) {
        a[LSE].expected[(b * z->T + i) * z->NH + h] = log(sum);
        for (size_t c = 0; c < HS; c++) {
            a[O].expected[query + c] = 0.0;
            for (size_t j = 0; j <= i; j++) {
                a[O].expected[query + c] += p_i[j] * (double)a[V].data[keys + j * KV + c];
            }
        }
        return;
    }
    for (size_t j = 0; j <= i; j++) {
        mean += p_i[j] * dot_in_double(a[DO].data + query, a[V].data + keys + j * KV, HS);
    }
    for (size_t c = 0; c < HS; c++) { a[DQ].expected[query + c] = 0.0; }
    for (size_t j = 0; j <= i; j++) {
        const size_t key = keys + j * KV;
        const double dp = dot_in_double(a[DO].data + query, a[V].data + key, HS);
        const double ds = p_i[j] * (dp - mean) / sqrt((double)HS);
        for (size_t c = 0; c < HS; c++) {
            a[DQ].expected[query + c] += ds * (double)a[K].data[key + c];
            a[DK].expected[key + c] += ds * (double)a[Q].data[query + c];
            a[DV].expected[key + c] += p_i[j] * (double)a[DO].data[query + c];
        }
    }
}

static void expect(Problem *p, bool backward) {
    const Shape z = shape_of(p);
    double *p_i = (double *)reserve(z.T, sizeof(double));
    for (size_t i = 0; i < key_count(&z) && backward; i++) {
        p->arrays[DK].expected[i] = p->arrays[DV].expected[i] = 0.0;
    }
    for (size_t b = 0; b < z.B; b++) {
        for (size_t h = 0; h < z.NH; h++) {
            for (size_t i = 0; i < z.T; i++) { expect_row(p, &z, b, h, i, p_i, backward); }
        }
    }
    free(p_i);
}

static void forward_expect(Problem *p) { expect(p, false); }
static void backward_expect(Problem *p) { expect(p, true); }

int main(int argc, char **argv) {
    // One token; tiles that are cut, whole, or one query longer; heads that share keys; heads that are not a
    // multiple of a vector; several sequences. The required leads are a third of the ones measured on an idle
    // core of an AMD EPYC: 28, 42.
    static const Ladder ladder = {
        .lengths = "B, T, NH, NKV, HS",
        .timed = {1, 512, 8, 8, 64},
        .raced = {1, 128, 2, 2, 64},
        .edges = {{1, 1, 1, 1, 2},
                  {1, 2, 2, 1, 4},
                  {2, 7, 3, 3, 6},
                  {1, 64, 2, 2, 16},
                  {1, 65, 4, 2, 20},
                  {3, 63, 6, 1, 32},
                  {1, 130, 2, 1, 64},
                  {2, 129, 4, 4, 10}},
        .unit = "GFLOP/s",
        .best_case = "multiply-adds in registers",
        .best = fma_peak,
        .ideas = {"the formulas as written", "like llm.c: a query at a time", "tiles in plain loops",
                  "shipped: tiles by gemm.h"},
        .operations = {{"forward", forward_arrays, forward_expect, forward_run, 9.0},
                       {"backward", backward_arrays, backward_expect, backward_run, 13.0}},
    };
    return ladder_main(argc, argv, &ladder);
}
