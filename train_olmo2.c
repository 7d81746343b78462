// train_olmo2.c: OLMo 2 on the CPU, in fp32: every layer forward and backward, AdamW, the model.
//
// Read it from top to bottom: first the layers, each forward with its backward right after it, then the
// model, which is a list of calls to them. A layer's comment names its page in dev/doc, where the mathematics
// is derived on paper, and the tests that check it.
//
// Shapes    B batch, T sequence length, C channels, L layers, NH query heads, NKV key/value heads,
//           HS head size, F feed-forward hidden size, V vocabulary rows; N rows where a layer treats each
//           token by itself: B * T, or the tokens by which olmo2_prefill extends sequences. All arrays are
//           row-major: in (B, T, C), C runs fastest.
// Gradients dx is the gradient of the objective with respect to x. Parameter gradients accumulate (+=).
//           Activation gradients are assigned (=), except that of the residual stream: several branches read
//           it, so it accumulates.
// Threads   One thread sums each output, in a fixed order: any number of threads gives the same bits.
// Vectors   The compiler turns plain loops into vector code. `omp simd` tells it that a loop's steps are
//           independent where it cannot know, because an output array may be one of the inputs.

#include "llmc/olmo2.h"         // OLMo2Config and the interface implemented here
#include "llmc/parameters.h"    // the table of parameters: names, shapes, places
#include "llmc/memory_limit.h"  // memory_suffices: before a model is allocated
#include "llmc/stack_limit.h"   // stack_suffices: before it computes
#include "llmc/gemm.h"          // gemm, gemm_serial: the matrix product
#include "llmc/exponential.h"   // exponential: e^x that becomes vector code
#include "llmc/profile.h"       // what a function costs, and with --profile how long it takes

// The model that is running. Layer functions take arrays and sizes, not a model; here is the rest of what
// they need from it. Every olmo2_ function that computes first calls enter, which sets it.
static struct {
    Profile *profile;   // where PROFILE counts; NULL for nowhere
    GemmType products;  // the type to which matrix products round their operands
} context;

#define PROFILE(flops, bytes) PROFILE_IN(context.profile, flops, bytes)

// ---------------------------------------------------------------------------------------------
// Sums and exponentials of a row. A compiler may not reorder a floating-point sum, so in a plain loop each
// addition waits for the one before it. These loops keep LANES partial results in an order fixed by the
// source.
//          tested: test_rows in dev/test/test_model.c

enum { LANES = 16 };

static float sum_of_lanes(const float *lanes) {
    float sum = 0.0f;
    for (size_t j = 0; j < LANES; j++) { sum += lanes[j]; }
    return sum;
}

static float dot(const float *a, const float *b, size_t n) {
    float lanes[LANES] = {0.0f};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        for (size_t j = 0; j < LANES; j++) { lanes[j] += a[i + j] * b[i + j]; }
    }
    for (; i < n; i++) { lanes[i % LANES] += a[i] * b[i]; }
    return sum_of_lanes(lanes);
}

static float maximum(const float *x, size_t n) {
    float lanes[LANES];
    for (size_t j = 0; j < LANES; j++) { lanes[j] = -INFINITY; }
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
#pragma omp simd
        for (size_t j = 0; j < LANES; j++) { lanes[j] = x[i + j] > lanes[j] ? x[i + j] : lanes[j]; }
    }
    for (; i < n; i++) { lanes[0] = x[i] > lanes[0] ? x[i] : lanes[0]; }
    for (size_t j = 1; j < LANES; j++) { lanes[0] = lanes[j] > lanes[0] ? lanes[j] : lanes[0]; }
    return lanes[0];
}

// y_j = e^(scale x_j - shift), y may be x; returns the sum of y
static float exponentials(float *y, const float *x, float scale, float shift, size_t n) {
    float lanes[LANES] = {0.0f};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
#pragma omp simd
        for (size_t j = 0; j < LANES; j++) {
            y[i + j] = exponential(scale * x[i + j] - shift);
            lanes[j] += y[i + j];
        }
    }
#pragma omp simd
    for (size_t j = 0; j < n - i; j++) {
        y[i + j] = exponential(scale * x[i + j] - shift);
        lanes[j] += y[i + j];
    }
    return sum_of_lanes(lanes);
}

// ---------------------------------------------------------------------------------------------
// A matrix of weights as it lies in memory, fp32 or bf16, at any address. A bf16 number is the upper half
// of a float: it becomes one exactly wherever it is read, so the results are those of a copy in fp32.

typedef struct {
    const void *data;
    bool bf16;
} Weight;

// ---------------------------------------------------------------------------------------------
// Embedding: x_t = E[token_t]. No scaling, no position table.
//          on paper: dev/doc/embedding.md    tested: test_embedding in dev/test/test_gradients.c

// table (V, C), tokens (N) -> x (N, C)
static void embedding_forward(float *x, Weight table, const uint32_t *tokens, size_t N, size_t C) {
    PROFILE(0.0, sizeof(float) * 2 * N * C);
#pragma omp parallel for
    for (size_t n = 0; n < N; n++) {
        const void *row = gemm_at(table.data, tokens[n] * C, table.bf16);
        for (size_t c = 0; c < C; c++) { x[n * C + c] = gemm_element(row, c, table.bf16); }
    }
}

// dx (N, C) -> dtable (V, C) accumulated: each row receives the gradient of every position with its token.
// Tokens repeat, so the threads divide the channels among them, not the tokens.
static void embedding_backward(float *dtable, const float *dx, const uint32_t *tokens, size_t N, size_t C) {
    PROFILE(1.0 * N * C, sizeof(float) * 3 * N * C);
#pragma omp parallel for
    for (size_t c0 = 0; c0 < C; c0 += LANES) {
        size_t c1 = c0 + LANES < C ? c0 + LANES : C;
        for (size_t n = 0; n < N; n++) {
            for (size_t c = c0; c < c1; c++) { dtable[tokens[n] * C + c] += dx[n * C + c]; }
        }
    }
}

// ---------------------------------------------------------------------------------------------
// RMSNorm: y = w * x / rms(x), rms(x) = sqrt(mean_c(x_c^2) + eps), each row of C channels by itself
//          on paper: dev/doc/rmsnorm.md    tested: test_rmsnorm in dev/test/test_gradients.c

// x (N, C), w (C) -> y (N, C), rstd (N) = 1 / rms(x), kept for the backward
static void rmsnorm_forward(float *y, float *rstd, const float *x, const float *w, size_t N, size_t C,
                            float eps) {
    PROFILE(4.0 * N * C, sizeof(float) * 2 * N * C);
#pragma omp parallel for
    for (size_t n = 0; n < N; n++) {
        const float *x_n = x + n * C;
        float s = 1.0f / sqrtf(dot(x_n, x_n, C) / (float)C + eps);
        for (size_t c = 0; c < C; c++) { y[n * C + c] = w[c] * (x_n[c] * s); }
        rstd[n] = s;
    }
}

// dy (N, C) -> dx (N, C) assigned, dw (C) accumulated. dx may be dy.
// With s = rstd and u = x s:  y_c = w_c u_c.  Since s = (mean(x^2) + eps)^(-1/2), ds/dx_c = -s^3 x_c / C, and
//   dx_c = sum_k w_k dy_k (s [k=c] + x_k ds/dx_c) = s (w_c dy_c - u_c mean_k(w_k dy_k u_k))
//   dw_c = sum_n dy_c u_c
static void rmsnorm_backward(float *dx, float *dw, const float *dy, const float *x, const float *w,
                             const float *rstd, size_t N, size_t C) {
    PROFILE(10.0 * N * C, sizeof(float) * 3 * N * C);
#pragma omp parallel for
    for (size_t c0 = 0; c0 < C; c0 += LANES) {
        const size_t width = C - c0 < LANES ? C - c0 : LANES;
        float sum[LANES] = {0.0f};
        for (size_t n = 0; n < N; n++) {
            const float *dy_n = dy + n * C + c0, *x_n = x + n * C + c0, s = rstd[n];
            for (size_t c = 0; c < width; c++) { sum[c] += dy_n[c] * (x_n[c] * s); }
        }
        for (size_t c = 0; c < width; c++) { dw[c0 + c] += sum[c]; }
    }
#pragma omp parallel for
    for (size_t n = 0; n < N; n++) {
        const float *x_n = x + n * C, s = rstd[n];
        float *dx_n = dx + n * C;
#pragma omp simd
        for (size_t c = 0; c < C; c++) { dx_n[c] = w[c] * dy[n * C + c]; }
        const float mean = dot(dx_n, x_n, C) * s / (float)C;
        for (size_t c = 0; c < C; c++) { dx_n[c] = s * (dx_n[c] - x_n[c] * s * mean); }
    }
}

// The end of a branch: h = x + rmsnorm(o), OLMo 2's norm on its output (arXiv 2501.00656, section 2.1).
// x, o (N, C), w (C) -> h (N, C), rstd (N)
static void rmsnorm_residual_forward(float *h, float *rstd, const float *x, const float *o, const float *w,
                                     size_t N, size_t C, float eps) {
    PROFILE(5.0 * N * C, sizeof(float) * 3 * N * C);
#pragma omp parallel for
    for (size_t n = 0; n < N; n++) {
        const float *x_n = x + n * C, *o_n = o + n * C;
        float s = 1.0f / sqrtf(dot(o_n, o_n, C) / (float)C + eps);
        for (size_t c = 0; c < C; c++) { h[n * C + c] = x_n[c] + w[c] * (o_n[c] * s); }
        rstd[n] = s;
    }
}

// dh (N, C) -> do (N, C) assigned, dw (C) accumulated. The other summand has dx = dh: the gradient of the
// residual stream stays where it is.
static void rmsnorm_residual_backward(float *d_o, float *dw, const float *dh, const float *o, const float *w,
                                      const float *rstd, size_t N, size_t C) {
    PROFILE(10.0 * N * C, sizeof(float) * 3 * N * C);
    rmsnorm_backward(d_o, dw, dh, o, w, rstd, N, C);
}

// ---------------------------------------------------------------------------------------------
// Matrix product: y = x W^T, with I inputs and O outputs. OLMo 2 has no biases.
//          on paper: dev/doc/matmul.md    tested: test_matmul in dev/test/test_gradients.c;
//          llmc/gemm.h by dev/test/test_gemm.c

// x (N, I), w (O, I) -> y (N, O)
static void matmul_forward(float *y, const float *x, Weight w, size_t N, size_t I, size_t O) {
    PROFILE(2.0 * N * I * O, sizeof(float) * (N * I + N * O) + (w.bf16 ? 2 : sizeof(float)) * O * I);
    gemm(y, O, matrix_of(x, I, 1), (Matrix){w.data, 1, I, w.bf16}, N, O, I, false, context.products);
}

// dy (N, O) -> dx (N, I) accumulated or assigned, dw (O, I) accumulated.
// y_no = sum_i x_ni w_oi, so dx_ni = sum_o dy_no w_oi (dx = dy W) and dw_oi = sum_n dy_no x_ni (dW = dy^T x).
static void matmul_backward(float *dx, float *dw, const float *dy, const float *x, Weight w, size_t N,
                            size_t I, size_t O, bool accumulate_dx) {
    PROFILE(4.0 * N * I * O, sizeof(float) * (N * O + (2 + accumulate_dx) * N * I + 3 * O * I));
    gemm(dx, I, matrix_of(dy, O, 1), (Matrix){w.data, I, 1, w.bf16}, N, I, O, accumulate_dx,
         context.products);
    gemm(dw, I, matrix_of(dy, 1, O), matrix_of(x, I, 1), O, I, N, true, context.products);
}

// ---------------------------------------------------------------------------------------------
// QK-norm and RoPE. First the whole projected row is normalised, all heads together (one rms per token). Then
// each head is rotated: channels i and i + HS/2 are a point in the plane, rotated by the angle t theta_i,
// theta_i = theta^(-2i/HS) (Su et al. 2021, in the "rotate-half" layout).
//          on paper: dev/doc/qknorm_rope.md    tested: test_qknorm_rope in dev/test/test_gradients.c,
//          test_rope_table in dev/test/test_model.c

// rope (T, HS): cos(t theta_i) at i, sin(t theta_i) at i + HS/2. The angle is a product in fp32, as in
// PyTorch: OLMo 2 was trained with that rounding, and exact angles would differ from it.
static void rope_table(float *rope, size_t T, size_t HS, float theta) {
    for (size_t t = 0; t < T; t++) {
        for (size_t i = 0; i < HS / 2; i++) {
            float frequency = 1.0f / powf(theta, (float)(2 * i) / (float)HS);
            float angle = (float)t * frequency;
            rope[t * HS + i] = cosf(angle);
            rope[t * HS + i + HS / 2] = sinf(angle);
        }
    }
}

// y (N, NH, HS), rope (positions, HS), t = positions[n]: y_n becomes R_t y_n in place. For each pair (a, b),
//   R_t (a, b) = (a cos - b sin, b cos + a sin)
static void rope_forward(float *y, const float *rope, const size_t *positions, size_t N, size_t NH,
                         size_t HS) {
    PROFILE(3.0 * N * NH * HS, sizeof(float) * 2 * N * NH * HS);
    const size_t C = NH * HS, half = HS / 2;
#pragma omp parallel for
    for (size_t n = 0; n < N; n++) {
        const float *cosine = rope + positions[n] * HS, *sine = cosine + half;
        for (float *head = y + n * C; head < y + (n + 1) * C; head += HS) {
            for (size_t i = 0; i < half; i++) {
                float a = head[i], b = head[i + half];
                head[i] = a * cosine[i] - b * sine[i];
                head[i + half] = b * cosine[i] + a * sine[i];
            }
        }
    }
}

// dy (N, NH, HS) becomes dx in place. A rotation's transpose is the rotation by the opposite angle:
//   R_t^T (a, b) = (a cos + b sin, b cos - a sin)
static void rope_backward(float *dy, const float *rope, const size_t *positions, size_t N, size_t NH,
                          size_t HS) {
    PROFILE(3.0 * N * NH * HS, sizeof(float) * 2 * N * NH * HS);
    const size_t C = NH * HS, half = HS / 2;
#pragma omp parallel for
    for (size_t n = 0; n < N; n++) {
        const float *cosine = rope + positions[n] * HS, *sine = cosine + half;
        for (float *head = dy + n * C; head < dy + (n + 1) * C; head += HS) {
            for (size_t i = 0; i < half; i++) {
                float a = head[i], b = head[i + half];
                head[i] = a * cosine[i] + b * sine[i];
                head[i + half] = b * cosine[i] - a * sine[i];
            }
        }
    }
}

// x (N, NH, HS), w (NH*HS), positions (N) -> y (N, NH, HS), rstd (N):  y = R_t (w * x / rms(x))
static void qknorm_rope_forward(float *y, float *rstd, const float *x, const float *w, const float *rope,
                                const size_t *positions, size_t N, size_t NH, size_t HS, float eps) {
    PROFILE(7.0 * N * NH * HS, sizeof(float) * 2 * N * NH * HS);
    rmsnorm_forward(y, rstd, x, w, N, NH * HS, eps);
    rope_forward(y, rope, positions, N, NH, HS);
}

// dy (N, NH, HS), overwritten -> dx (N, NH, HS) assigned, dw (NH*HS) accumulated. dx may be dy. RMSNorm's
// backward runs over the whole row, so it couples all heads of a token.
static void qknorm_rope_backward(float *dx, float *dw, float *dy, const float *x, const float *w,
                                 const float *rstd, const float *rope, const size_t *positions, size_t N,
                                 size_t NH, size_t HS) {
    PROFILE(13.0 * N * NH * HS, sizeof(float) * 3 * N * NH * HS);
    rope_backward(dy, rope, positions, N, NH, HS);
    rmsnorm_backward(dx, dw, dy, x, w, rstd, N, NH * HS);
}

// ---------------------------------------------------------------------------------------------
// Causal attention with grouped queries: query head h reads key/value head h / (NH / NKV).
//   s_ij = q_i . k_j / sqrt(HS) for j <= i,  p_i = softmax_j(s_ij),  o_i = sum_j p_ij v_j
// Only a tile of QUERIES rows of s and p exists at a time, never the T x T matrix.
//          on paper: dev/doc/attention.md    tested: test_attention in dev/test/test_gradients.c,
//          dev/test/test_prefill.c

enum { QUERIES = 64, KEY_BLOCK = 256 };

// Consecutive queries of one sequence.
typedef struct {
    size_t sequence;  // whose keys and values they read
    size_t row;       // of the first one, in q and o
    size_t position;  // of the first one, in its sequence
    size_t count;     // at most QUERIES
} QueryTile;

// The keys and values of some sequences: head g of sequence b has those of position j at
// b * sequence + g * head + j * position.
typedef struct {
    const float *k, *v;
    size_t sequence, head, position;
} Past;

// Floats that each thread needs for a tile of the backward: s and dp. The forward needs no more.
static size_t attention_tile_size(size_t T) { return 2 * QUERIES * T; }

// q (N, NH, HS), the past with NKV heads, up to the queries themselves -> o (N, NH, HS),
// lse (N, NH) = log sum_j e^(s_ij), kept for the backward. The tile becomes e^(s - max). The softmax's
// division by the sum is applied to o, which has HS numbers per query, not to the tile, which has one per
// key. o is summed over blocks of KEY_BLOCK positions that begin at position 0, so the bits of a query do not
// depend on the others in its tile: masked keys only add zeros. scratch (threads, largest tile) holds s.
static void attention_forward(float *o, float *lse, const float *q, Past past, const QueryTile *tiles,
                              size_t tile_count, float *scratch, size_t NH, size_t NKV, size_t HS) {
    size_t rows = 0, pairs = 0, largest = 0;
    for (const QueryTile *t = tiles; t < tiles + tile_count; t++) {
        const size_t size = t->count * (t->position + t->count);
        rows += t->count;
        pairs += size - t->count * (t->count - 1) / 2;
        largest = size > largest ? size : largest;
    }
    PROFILE(4.0 * NH * pairs * HS, sizeof(float) * 2 * rows * (NH + NKV) * HS);
    const size_t Q = NH * HS;
    const float scale = 1.0f / sqrtf((float)HS);
#pragma omp parallel for collapse(2) schedule(dynamic)
    for (size_t h = 0; h < NH; h++) {
        for (size_t i = 0; i < tile_count; i++) {
            const QueryTile t = tiles[i];
            const size_t keys = t.position + t.count, query = t.row * Q + h * HS;
            const size_t key = t.sequence * past.sequence + h / (NH / NKV) * past.head;
            float *s = scratch + thread_number() * largest;
            gemm_serial(s, keys, matrix_of(q + query, Q, 1), matrix_of(past.k + key, 1, past.position),
                        t.count, keys, HS, false, context.products);
            float sum[QUERIES];
            for (size_t r = 0; r < t.count; r++) {
                float *s_i = s + r * keys;
                const size_t visible = t.position + r + 1;
                const float max = scale * maximum(s_i, visible);
                sum[r] = exponentials(s_i, s_i, scale, max, visible);
                for (size_t j = visible; j < keys; j++) { s_i[j] = 0.0f; }
                lse[(t.row + r) * NH + h] = max + logf(sum[r]);
            }
            for (size_t j = 0; j < keys; j += KEY_BLOCK) {
                gemm_serial(o + query, Q, matrix_of(s + j, keys, 1),
                            matrix_of(past.v + key + j * past.position, past.position, 1), t.count, HS,
                            keys - j < KEY_BLOCK ? keys - j : KEY_BLOCK, j > 0, context.products);
            }
            for (size_t r = 0; r < t.count; r++) {
                for (size_t c = 0; c < HS; c++) { o[query + r * Q + c] /= sum[r]; }
            }
        }
    }
}

// d_o (B, T, NH, HS), and q, k, v, o, lse of the forward -> dq (B, T, NH, HS), dk and dv (B, T, NKV, HS), all
// assigned. With do for d_o,
//   o_i = sum_j p_ij v_j          =>  dv_j = sum_i p_ij do_i,  dp_ij = do_i . v_j
//   p_i = softmax(s_i)            =>  ds_ij = p_ij (dp_ij - sum_m p_im dp_im), and the sum is
//                                     sum_m p_im do_i . v_m = do_i . o_i
//   s_ij = q_i . k_j / sqrt(HS)   =>  dq_i = sum_j ds_ij k_j / sqrt(HS),  dk_j = sum_i ds_ij q_i / sqrt(HS)
// p is recomputed as e^(s - lse). One thread takes a key/value head together with all query heads that read
// it, because their gradients add up in dk and dv.
static void attention_backward(float *dq, float *dk, float *dv, const float *d_o, const float *q,
                               const float *k, const float *v, const float *o, const float *lse,
                               float *scratch, size_t B, size_t T, size_t NH, size_t NKV, size_t HS) {
    PROFILE(10.0 * B * NH * (T * (T + 1) / 2) * HS, sizeof(float) * 4 * B * T * (NH + NKV) * HS);
    const size_t Q = NH * HS, KV = NKV * HS, group = NH / NKV;
    const float scale = 1.0f / sqrtf((float)HS);
#pragma omp parallel for collapse(2) schedule(dynamic)
    for (size_t b = 0; b < B; b++) {
        for (size_t g = 0; g < NKV; g++) {
            const size_t key = b * T * KV + g * HS;
            for (size_t t = 0; t < T; t++) {
                memset(dk + key + t * KV, 0, HS * sizeof(float));
                memset(dv + key + t * KV, 0, HS * sizeof(float));
            }
            for (size_t h = g * group; h < (g + 1) * group; h++) {
                for (size_t i0 = 0; i0 < T; i0 += QUERIES) {
                    const size_t rows = T - i0 < QUERIES ? T - i0 : QUERIES, keys = i0 + rows;
                    const size_t query = (b * T + i0) * Q + h * HS;
                    float *p = scratch + thread_number() * attention_tile_size(T), *ds = p + QUERIES * T;
                    gemm_serial(p, keys, matrix_of(q + query, Q, 1), matrix_of(k + key, 1, KV), rows, keys,
                                HS, false, context.products);
                    gemm_serial(ds, keys, matrix_of(d_o + query, Q, 1), matrix_of(v + key, 1, KV), rows, keys,
                                HS, false, context.products);
                    for (size_t r = 0; r < rows; r++) {
                        float *p_i = p + r * keys, *ds_i = ds + r * keys;
                        const size_t visible = i0 + r + 1;
                        const float lse_i = lse[(b * T + i0 + r) * NH + h];
                        const float mean = dot(d_o + query + r * Q, o + query + r * Q, HS);
                        for (size_t j = 0; j < visible; j++) {
                            p_i[j] = exponential(p_i[j] * scale - lse_i);
                            ds_i[j] = p_i[j] * (ds_i[j] - mean) * scale;
                        }
                        for (size_t j = visible; j < keys; j++) { p_i[j] = ds_i[j] = 0.0f; }
                    }
                    gemm_serial(dq + query, Q, matrix_of(ds, keys, 1), matrix_of(k + key, KV, 1), rows, HS,
                                keys, false, context.products);
                    gemm_serial(dk + key, KV, matrix_of(ds, 1, keys), matrix_of(q + query, Q, 1), keys, HS,
                                rows, true, context.products);
                    gemm_serial(dv + key, KV, matrix_of(p, 1, keys), matrix_of(d_o + query, Q, 1), keys, HS,
                                rows, true, context.products);
                }
            }
        }
    }
}

// ---------------------------------------------------------------------------------------------
// SwiGLU: a = silu(gate) * up, silu(z) = z sigmoid(z), sigmoid(z) = 1 / (1 + e^-z)
//          on paper: dev/doc/swiglu.md    tested: test_swiglu in dev/test/test_gradients.c

// gate, up (N, F) -> a (N, F). a may not be gate or up. There are two loops because GCC 12 turns a single one
// into two divisions per element, one of them by e^88, the largest value of exponential. For small gates that
// quotient is denormal, which is slow, and it is almost never used.
static void swiglu_forward(float *a, const float *gate, const float *up, size_t N, size_t F) {
    PROFILE(4.0 * N * F, sizeof(float) * 3 * N * F);
#pragma omp parallel for
    for (size_t n = 0; n < N; n++) {
#pragma omp simd
        for (size_t i = n * F; i < (n + 1) * F; i++) { a[i] = exponential(-gate[i]); }
#pragma omp simd
        for (size_t i = n * F; i < (n + 1) * F; i++) { a[i] = gate[i] / (1.0f + a[i]) * up[i]; }
    }
}

// da (N, F) -> dgate, dup (N, F) assigned. dgate may be da. By the product rule, dup = da silu(gate) and
// dgate = da up silu'(gate). With sigma = sigmoid(gate), whose derivative is sigma (1 - sigma),
//   silu' = sigma + gate sigma (1 - sigma) = sigma (1 + gate (1 - sigma))
static void swiglu_backward(float *dgate, float *dup, const float *da, const float *gate, const float *up,
                            size_t N, size_t F) {
    PROFILE(11.0 * N * F, sizeof(float) * 5 * N * F);
#pragma omp parallel for
    for (size_t n = 0; n < N; n++) {
#pragma omp simd
        for (size_t i = n * F; i < (n + 1) * F; i++) {
            const float da_i = da[i], sigma = 1.0f / (1.0f + exponential(-gate[i]));
            dup[i] = da_i * gate[i] * sigma;
            dgate[i] = da_i * up[i] * sigma * (1.0f + gate[i] * (1.0f - sigma));
        }
    }
}

// ---------------------------------------------------------------------------------------------
// Classifier: cross-entropy and z-loss of rows of logits,
//   lse = log sum_j e^(logit_j),  log p(y) = logit_y - lse,  objective = sum_n w_n (-log p(y_n) + z lse_n^2)
// All V columns take part, including those that pad the vocabulary, as in OLMo 2's training.
//          on paper: dev/doc/classifier.md    tested: test_classifier in dev/test/test_gradients.c

// logits (N, V), labels (N) -> logprobs, lse (N). A row without a label has logprob 0.
static void classifier_forward(float *logprobs, float *lse, const float *logits, const uint32_t *labels,
                               size_t N, size_t V) {
    PROFILE(4.0 * N * V, sizeof(float) * N * V);
#pragma omp parallel for
    for (size_t n = 0; n < N; n++) {
        const float *row = logits + n * V;
        float max = maximum(row, V), sum = 0.0f, block[256];
        for (size_t j = 0; j < V; j += 256) {
            sum += exponentials(block, row + j, 1.0f, max, V - j < 256 ? V - j : 256);
        }
        lse[n] = max + logf(sum);
        logprobs[n] = labels[n] == OLMO2_NO_TOKEN ? 0.0f : row[labels[n]] - lse[n];
    }
}

// logits (N, V) become dlogits in place. Since dlse/dlogit_j = p_j = e^(logit_j - lse),
//   dlogit_j = w (p_j - [j = y] + 2 z lse p_j) = w (p_j (1 + 2 z lse) - [j = y])
static void classifier_backward(float *logits, const float *lse, const uint32_t *labels, const float *weights,
                                float z, size_t N, size_t V) {
    PROFILE(3.0 * N * V, sizeof(float) * 2 * N * V);
#pragma omp parallel for
    for (size_t n = 0; n < N; n++) {
        float *row = logits + n * V;
        const float lse_n = lse[n], factor = weights[n] * (1.0f + 2.0f * z * lse_n);
        for (size_t j = 0; j < V; j++) { row[j] = factor * exponential(row[j] - lse_n); }
        if (labels[n] != OLMO2_NO_TOKEN) { row[labels[n]] -= weights[n]; }
    }
}

// ---------------------------------------------------------------------------------------------
// AdamW (Loshchilov & Hutter 2019), with PyTorch's order of operations
//          on paper: dev/doc/adamw.md    tested: ten steps against PyTorch's in test_olmo2.c

// One tensor. g is the gradient times gradient_scale (the clipping), m and v are the moving averages of g and
// g^2, t is the number of this update, counted from 1:
//   p = (1 - lr wd) p,  m = m + (1 - beta1) (g - m),  v = beta2 v + (1 - beta2) g^2
//   p = p - lr / (1 - beta1^t) m / (sqrt(v) / sqrt(1 - beta2^t) + eps)
static void adamw_update(float *p, float *m, float *v, const float *g, size_t size, const OLMo2AdamW *s,
                         float weight_decay) {
    PROFILE(15.0 * size, sizeof(float) * 7 * size);
    const float correction1 = (float)(1.0 - pow((double)s->beta1, (double)s->t));
    const float correction2 = (float)sqrt(1.0 - pow((double)s->beta2, (double)s->t));
    const float keep = 1.0f - s->lr * weight_decay, step = s->lr / correction1;
#pragma omp parallel for
    for (size_t i = 0; i < size; i++) {
        float g_i = g[i] * s->gradient_scale;
        m[i] += (1.0f - s->beta1) * (g_i - m[i]);
        v[i] = s->beta2 * v[i] + (1.0f - s->beta2) * g_i * g_i;
        p[i] = keep * p[i] - step * m[i] / (sqrtf(v[i]) / correction2 + s->eps);
    }
}

// ---------------------------------------------------------------------------------------------
// The model: its arrays

// One layer's parameters, and their gradients.
typedef struct {
    Weight wq, wk, wv, wo;                           // (NH*HS, C), (NKV*HS, C) twice, (C, NH*HS)
    Weight w_gate, w_up, w_down;                     // (F, C) twice, (C, F)
    const float *q_norm, *k_norm;                    // (NH*HS), (NKV*HS)
    const float *attention_norm, *feedforward_norm;  // (C)
} LayerWeights;

typedef struct {
    float *wq, *wk, *wv, *wo, *w_gate, *w_up, *w_down, *q_norm, *k_norm, *attention_norm, *feedforward_norm;
} LayerGradients;

// What the forward leaves for the backward. olmo2_forward in a model that trains gives each layer its own
// slice; otherwise all layers use the same one. olmo2_prefill's rows stand in place of (B, T).
typedef struct {
    float *x;      // (L+1, B, T, C)  residual stream: the input of each layer, and the last one's output
    float *q_raw;  // (L, B, T, NH*HS)   projections, before norm and rotation
    float *k_raw;  // (L, B, T, NKV*HS)
    float *v;      // (L, B, T, NKV*HS)
    float *q_rstd, *k_rstd;   // (L, B, T)
    float *attention;         // (L, B, T, NH*HS)   heads, side by side
    float *lse;               // (L, B, T, NH)
    float *o;                 // (L, B, T, C)       the attention branch before its norm
    float *attention_rstd;    // (L, B, T)
    float *h;                 // (L, B, T, C)       residual stream between the branches
    float *gate, *up;         // (L, B, T, F)
    float *down;              // (L, B, T, C)       the feed-forward branch before its norm
    float *feedforward_rstd;  // (L, B, T)
    float *hidden;            // (B, T, C)          the final norm's output
    float *hidden_rstd;       // (B, T)
} Activations;

// Scratch space that every layer overwrites, except dx. The backward recomputes q, k and act.
typedef struct {
    float *q, *k;             // (B, T, NH*HS), (B, T, NKV*HS)  normalised and rotated
    float *act;               // (B, T, F)       silu(gate) * up
    float *scores;            // (threads, attention_tile_size(T), or the largest tile of a prefill)
    float *gathered;          // (classifier rows, C)   rows of `hidden`
    float *logits;            // (classifier rows, V)
    float *dx;                // (B, T, C)       gradient of the residual stream
    float *dbranch;           // (B, T, C)       gradient of a branch's output, before its norm
    float *dhidden;           // (B, T, C)       shares dbranch's memory: it is read before any branch
    float *dattention;        // (B, T, NH*HS)
    float *dq, *dk;           // (B, T, NH*HS), (B, T, NKV*HS)
    float *dq_raw, *dk_raw;   // share the memory of dq and dk
    float *dv;                // (B, T, NKV*HS)
    float *dact;              // (B, T, F)
    float *dgate, *dup;       // (B, T, F)       share the memory of dact and act
    float *normed, *dnormed;  // (B, T, C)       a branch's input with pre-norm (dev/ablations)
} Workspace;

// The keys and values of every slot's sequence.
typedef struct {
    float *keys, *values;  // (slots, L, NKV, cache_T, HS)
} Cache;

struct OLMo2 {
    OLMo2Config config;
    OLMo2Room room;
    OLMo2Form form;
    // Each holds all parameters, in parameters.h's order. `weights` has matrices in the form's type, but none
    // that is lent.
    float *weights, *gradients, *moment1, *moment2;
    void **tensors;                     // (parameter_count): where each parameter lies
    float *buffer;                      // one allocation for activations, workspace and cache
    size_t weight_bytes, buffer_bytes;  // the sizes of `weights` and `buffer`
    size_t threads;                     // that the workspace has tiles for
    Activations activations;
    Workspace workspace;
    Cache cache;
    float *rope;       // (max(T, cache_T), HS)
    size_t *lengths;   // (slots): the positions of each slot's sequence in the cache
    uint32_t *tokens;  // (B, T) of the last olmo2_forward
    // the rows of the last olmo2_forward, or of the last olmo2_prefill, which has B = 1 and T = N
    size_t B, T, N;
    bool extends;       // by olmo2_prefill: they attend to their slot's cache
    size_t *positions;  // (N): each row's in its sequence
    QueryTile *tiles;   // (tile_count): the rows, sequence by sequence
    size_t tile_count;
    Profile profile;
};

static void enter(OLMo2 *m) {
    assert(thread_count() <= m->threads);
    context.profile = &m->profile;
    context.products = m->form.bf16_products ? GEMM_BF16 : GEMM_FP32;
}

// Hands out consecutive pieces of one allocation. Without a base it only counts, so planning and allocating
// are the same walk.
typedef struct {
    float *base;
    size_t used;  // floats
} Arena;

static float *take(Arena *arena, size_t count) {
    float *piece = arena->base == NULL ? NULL : arena->base + arena->used;
    arena->used += parameter_padded(count);
    return piece;
}

static size_t at_least(size_t size, size_t least) { return size < least ? least : size; }

static size_t at_most(size_t size, size_t most) { return size > most ? most : size; }

// The most rows of an olmo2_prefill, and those of any forward.
static size_t prefill_rows(const OLMo2Room *room) { return at_least(room->rows, room->slots); }

static size_t most_rows(const OLMo2Room *room) { return at_least(room->B * room->T, prefill_rows(room)); }

// Rows of logits that exist at a time: as many as fit 64 MB, at least 16, and at most 128. With fewer than
// 128, reading lm_head once per chunk begins to cost time.
enum { CLASSIFIER_ROWS = 128 };

static size_t classifier_rows(const OLMo2Config *c, const OLMo2Room *room) {
    const size_t rows = 64000000 / sizeof(float) / c->V;
    return at_most(at_most(at_least(rows, 16), CLASSIFIER_ROWS), most_rows(room));
}

// Matrices have the form's type and may be lent. Norms are the model's own, in fp32.
static bool is_bf16(const OLMo2Form *form, const Parameter *p) {
    return parameter_is_matrix(p) && form->weights == WEIGHTS_BF16;
}

static bool is_lent(const OLMo2Form *form, const Parameter *p) {
    return parameter_is_matrix(p) && form->lent_weights;
}

// The bytes of all parameters or, if `own`, of those that are not lent, which follow each other from `base`
// on. Their places go into tensors (parameter_count) unless it is NULL.
static size_t lay_out_weights(const OLMo2Config *c, const OLMo2Form *form, bool own, char *base,
                              void **tensors) {
    size_t bytes = 0;
    for (size_t i = 0; i < parameter_count(c); i++) {
        const Parameter p = parameter_at(c, i);
        if (own && is_lent(form, &p)) { continue; }
        if (tensors != NULL) { tensors[i] = base + bytes; }
        bytes += parameter_padded(p.size) * (is_bf16(form, &p) ? sizeof(uint16_t) : sizeof(float));
    }
    return bytes;
}

static void lay_out_activations(Activations *a, Arena *arena, const OLMo2Config *c, const OLMo2Room *room) {
    const size_t BT = room->B * room->T, R = prefill_rows(room), Q = c->NH * c->HS, KV = c->NKV * c->HS;
    const size_t N = at_least(room->train ? c->L * BT : BT, R);
    a->x = take(arena, at_least(room->train ? (c->L + 1) * BT : BT, R) * c->C);
    a->q_raw = take(arena, N * Q);
    a->k_raw = take(arena, N * KV);
    a->v = take(arena, N * KV);
    a->q_rstd = take(arena, N);
    a->k_rstd = take(arena, N);
    a->attention = take(arena, N * Q);
    a->lse = take(arena, N * c->NH);
    a->o = take(arena, N * c->C);
    a->attention_rstd = take(arena, N);
    a->h = take(arena, N * c->C);
    a->gate = take(arena, N * c->F);
    a->up = take(arena, N * c->F);
    a->down = take(arena, N * c->C);
    a->feedforward_rstd = take(arena, N);
    a->hidden = take(arena, at_least(BT, R) * c->C);
    a->hidden_rstd = take(arena, at_least(BT, R));
}

static void lay_out_workspace(Workspace *w, Arena *arena, const OLMo2Config *c, const OLMo2Room *room) {
    const size_t N = most_rows(room), Q = c->NH * c->HS, KV = c->NKV * c->HS;
    const size_t tile = at_most(QUERIES, prefill_rows(room)) * room->cache_T;
    w->q = take(arena, N * Q);
    w->k = take(arena, N * KV);
    w->act = take(arena, N * c->F);
    w->normed = take(arena, c->pre_norm ? N * c->C : 0);
    w->scores = take(arena, thread_count() * at_least(attention_tile_size(room->T), tile));
    w->gathered = take(arena, classifier_rows(c, room) * c->C);
    w->logits = take(arena, classifier_rows(c, room) * c->V);
    if (!room->train) { return; }
    w->dx = take(arena, N * c->C);
    w->dbranch = take(arena, N * c->C);
    w->dhidden = w->dbranch;
    w->dattention = take(arena, N * Q);
    w->dq = take(arena, N * Q);
    w->dk = take(arena, N * KV);
    w->dq_raw = w->dq;
    w->dk_raw = w->dk;
    w->dv = take(arena, N * KV);
    w->dact = take(arena, N * c->F);
    w->dgate = w->dact;
    w->dup = w->act;
    w->dnormed = take(arena, c->pre_norm ? N * c->C : 0);
}

// Points the model's structs into the buffer, or only counts if there is none yet.
static OLMo2Memory lay_out(OLMo2 *m, float *buffer) {
    const OLMo2Config *c = &m->config;
    const size_t parameters = parameter_array_size(c) * sizeof(float);
    Arena arena = {buffer, 0};
    lay_out_activations(&m->activations, &arena, c, &m->room);
    const size_t activations = arena.used;
    lay_out_workspace(&m->workspace, &arena, c, &m->room);
    m->rope = take(&arena, olmo2_room_positions(&m->room) * c->HS);
    const size_t workspace = arena.used - activations;
    m->cache.keys = take(&arena, m->room.slots * c->L * c->NKV * m->room.cache_T * c->HS);
    m->cache.values = take(&arena, m->room.slots * c->L * c->NKV * m->room.cache_T * c->HS);
    OLMo2Memory memory = {
        .weights = lay_out_weights(c, &m->form, false, NULL, NULL),
        .gradients = m->room.train ? parameters : 0,
        .moments = m->room.train ? 2 * parameters : 0,
        .activations = activations * sizeof(float),
        .workspace = workspace * sizeof(float),
        .cache = (arena.used - activations - workspace) * sizeof(float),
    };
    memory.total = memory.weights + memory.gradients + memory.moments + arena.used * sizeof(float);
    return memory;
}

OLMo2Memory olmo2_memory(const OLMo2Config *config, const OLMo2Room *room, const OLMo2Form *form) {
    OLMo2 m = {.config = *config, .room = *room, .form = *form};
    return lay_out(&m, NULL);
}

void olmo2_describe(const OLMo2Room *room, const OLMo2Form *form, char *text, size_t size) {
    (void)room;
    const size_t threads = thread_count();
    static const char *const notes[] = {"", " with weights of bf16", " with products of bf16",
                                        " with weights and products of bf16"};
    snprintf(text, size, "CPU, fp32%s, %zu thread%s",
             notes[(form->weights == WEIGHTS_BF16) + 2 * form->bf16_products], threads,
             threads == 1 ? "" : "s");
}

bool olmo2_check(const OLMo2Config *config, const OLMo2Room *room, const OLMo2Form *form, Error *err) {
    (void)config;
    if (!form->master_weights || form->bf16_moments) {
        return fail(
            err,
            "%s: this is the CPU program, which computes and stores everything in fp32; leave it out, or use "
            "train_olmo2cu",
            form->master_weights ? "--moments bf16" : "--master-weights off");
    }
    if (room->train && form->recompute != RECOMPUTE_ELEMENTWISE) {
        return fail(err, "--recompute: this is the CPU program, which has elementwise only");
    }
    if (room->train && (form->weights == WEIGHTS_BF16 || form->lent_weights)) {
        return fail(
            err, "--weights %s: this is the CPU program, which trains its own weights in fp32; leave it out",
            form->weights == WEIGHTS_BF16 ? "bf16" : "(lent)");
    }
    if (form->bf16_products && !GEMM_HAS_BF16) {
        return fail(
            err, "--dtype bf16: this program was built for a processor without AVX512-BF16; leave it out, or "
                 "use --dtype fp32");
    }
    const bool computes = room->B > 0 || room->slots > 0;
    return !computes || stack_suffices(GEMM_STACK, err);
}

static bool allocate_model(OLMo2 *m, Error *err) {
    const size_t parameters = parameter_array_size(&m->config), floats = sizeof(float);
    m->tensors = (void **)allocate(parameter_count(&m->config), sizeof *m->tensors, "the tensors", err);
    m->weights = (float *)allocate_pages(m->weight_bytes, 1, "the weights", err);
    if (m->weights == NULL || m->tensors == NULL) { return false; }
    if (m->room.train) {
        m->gradients = (float *)allocate_pages(parameters, floats, "the gradients", err);
        m->moment1 = (float *)allocate_pages(parameters, floats, "AdamW's first moments", err);
        m->moment2 = (float *)allocate_pages(parameters, floats, "AdamW's second moments", err);
        if (m->gradients == NULL || m->moment1 == NULL || m->moment2 == NULL) { return false; }
    }
    const size_t N = most_rows(&m->room);
    m->tokens = (uint32_t *)allocate(m->room.B * m->room.T, sizeof *m->tokens, "the tokens of a batch", err);
    m->lengths = (size_t *)allocate(m->room.slots, sizeof *m->lengths, "the lengths of the slots", err);
    m->positions = (size_t *)allocate(N, sizeof *m->positions, "the positions of a batch", err);
    m->tiles = (QueryTile *)allocate(N, sizeof *m->tiles, "the tiles of a batch", err);
    const void *small[] = {m->tokens, m->lengths, m->positions, m->tiles};
    for (size_t i = 0; i < sizeof small / sizeof small[0]; i++) {
        if (small[i] == NULL) { return false; }
    }
    m->buffer = (float *)allocate_pages(m->buffer_bytes, 1,
                                        "activations, workspace and cache (a smaller micro-batch or a "
                                        "shorter sequence needs less)",
                                        err);
    return m->buffer != NULL;
}

bool olmo2_create(OLMo2 **out, const OLMo2Config *config, const OLMo2Room *room, const OLMo2Form *form,
                  Error *err) {
    *out = NULL;
    const OLMo2Memory memory = olmo2_memory(config, room, form);
    if (!olmo2_check(config, room, form, err)) { return false; }
    if (!memory_suffices(memory.total, err)) { return false; }
    OLMo2 *m = (OLMo2 *)allocate(1, sizeof *m, "the model", err);
    if (m == NULL) { return false; }
    m->config = *config;
    m->room = *room;
    m->form = *form;
    m->weight_bytes = lay_out_weights(config, form, true, NULL, NULL);
    m->buffer_bytes = memory.activations + memory.workspace + memory.cache;
    m->threads = thread_count();
    if (!allocate_model(m, err)) {
        olmo2_free(m);
        return false;
    }
    lay_out_weights(config, form, true, (char *)m->weights, m->tensors);
    lay_out(m, m->buffer);
    rope_table(m->rope, olmo2_room_positions(room), config->HS, config->rope_theta);
    *out = m;
    return true;
}

void olmo2_free(OLMo2 *m) {
    if (m == NULL) { return; }
    if (context.profile == &m->profile) { context.profile = NULL; }
    const size_t parameters = parameter_array_size(&m->config), floats = sizeof(float);
    free_pages(m->weights, m->weight_bytes, 1);
    free_pages(m->gradients, parameters, floats);
    free_pages(m->moment1, parameters, floats);
    free_pages(m->moment2, parameters, floats);
    free_pages(m->buffer, m->buffer_bytes, 1);
    free(m->tensors);
    free(m->tokens);
    free(m->lengths);
    free(m->positions);
    free(m->tiles);
    free(m);
}

const OLMo2Config *olmo2_config(const OLMo2 *m) { return &m->config; }

Profile *olmo2_profile(OLMo2 *m) { return &m->profile; }

// ---------------------------------------------------------------------------------------------
// The layer of OLMo 2: forward, backward
//          on paper: dev/doc/README.md    tested: test_model in dev/test/test_gradients.c; against PyTorch,
//          tensor by tensor, in test_olmo2.c

static Weight weight_of(const OLMo2 *m, int id, size_t l) {
    return (Weight){m->tensors[parameter_index(&m->config, id, l)], m->form.weights == WEIGHTS_BF16};
}

static const float *norm_of(const OLMo2 *m, int id, size_t l) {
    return (const float *)m->tensors[parameter_index(&m->config, id, l)];
}

static float *gradient_of(const OLMo2 *m, int id, size_t l) {
    return m->gradients + parameter_offset(&m->config, id, l);
}

static LayerWeights layer_weights(const OLMo2 *m, size_t l) {
    return (LayerWeights){
        .wq = weight_of(m, WQ, l),
        .wk = weight_of(m, WK, l),
        .wv = weight_of(m, WV, l),
        .wo = weight_of(m, WO, l),
        .w_gate = weight_of(m, W_GATE, l),
        .w_up = weight_of(m, W_UP, l),
        .w_down = weight_of(m, W_DOWN, l),
        .q_norm = norm_of(m, Q_NORM, l),
        .k_norm = norm_of(m, K_NORM, l),
        .attention_norm = norm_of(m, ATTENTION_NORM, l),
        .feedforward_norm = norm_of(m, FEEDFORWARD_NORM, l),
    };
}

static LayerGradients layer_gradients(const OLMo2 *m, size_t l) {
    return (LayerGradients){
        .wq = gradient_of(m, WQ, l),
        .wk = gradient_of(m, WK, l),
        .wv = gradient_of(m, WV, l),
        .wo = gradient_of(m, WO, l),
        .w_gate = gradient_of(m, W_GATE, l),
        .w_up = gradient_of(m, W_UP, l),
        .w_down = gradient_of(m, W_DOWN, l),
        .q_norm = gradient_of(m, Q_NORM, l),
        .k_norm = gradient_of(m, K_NORM, l),
        .attention_norm = gradient_of(m, ATTENTION_NORM, l),
        .feedforward_norm = gradient_of(m, FEEDFORWARD_NORM, l),
    };
}

// Layer l's slice of the activations of the last forward. Rows that extend sequences keep none.
static Activations layer_activations(const OLMo2 *m, size_t l) {
    const OLMo2Config *c = &m->config;
    const Activations *a = &m->activations;
    const size_t n = m->room.train && !m->extends ? l * m->N : 0, Q = c->NH * c->HS, KV = c->NKV * c->HS;
    return (Activations){
        .x = a->x + n * c->C,
        .q_raw = a->q_raw + n * Q,
        .k_raw = a->k_raw + n * KV,
        .v = a->v + n * KV,
        .q_rstd = a->q_rstd + n,
        .k_rstd = a->k_rstd + n,
        .attention = a->attention + n * Q,
        .lse = a->lse + n * c->NH,
        .o = a->o + n * c->C,
        .attention_rstd = a->attention_rstd + n,
        .h = a->h + n * c->C,
        .gate = a->gate + n * c->F,
        .up = a->up + n * c->F,
        .down = a->down + n * c->C,
        .feedforward_rstd = a->feedforward_rstd + n,
    };
}

// What layer l's queries attend to, given the keys and values of the same rows, k and v (N, NKV*HS): these
// alone, or a slot's cache, to which they are first appended.
static Past layer_past(const OLMo2 *m, size_t l, const float *k, const float *v) {
    const size_t NKV = m->config.NKV, HS = m->config.HS, KV = NKV * HS, cache_T = m->room.cache_T;
    if (!m->extends) { return (Past){k, v, m->T * KV, HS, KV}; }
    float *keys = m->cache.keys + l * cache_T * KV, *values = m->cache.values + l * cache_T * KV;
    const Past past = {keys, values, m->config.L * cache_T * KV, cache_T * HS, HS};
#pragma omp parallel for collapse(2)
    for (size_t i = 0; i < m->tile_count; i++) {
        for (size_t g = 0; g < NKV; g++) {
            const QueryTile t = m->tiles[i];
            for (size_t r = 0; r < t.count; r++) {
                const size_t from = (t.row + r) * KV + g * HS;
                const size_t to = t.sequence * past.sequence + g * past.head + (t.position + r) * HS;
                memcpy(keys + to, k + from, HS * sizeof(float));
                memcpy(values + to, v + from, HS * sizeof(float));
            }
        }
    }
    return past;
}

// Layer l, from its x to the next layer's x.
static void layer_forward(const OLMo2 *m, size_t l) {
    const OLMo2Config *c = &m->config;
    const size_t N = m->N, C = c->C, NH = c->NH, NKV = c->NKV, HS = c->HS, F = c->F;
    const size_t Q = NH * HS, KV = NKV * HS;
    const float eps = c->rms_eps;
    const Workspace *s = &m->workspace;
    const LayerWeights w = layer_weights(m, l);
    const Activations a = layer_activations(m, l), next = layer_activations(m, l + 1);

    // attention branch: h = x + rmsnorm(W_o attention(q, k, v))
    matmul_forward(a.q_raw, a.x, w.wq, N, C, Q);
    matmul_forward(a.k_raw, a.x, w.wk, N, C, KV);
    matmul_forward(a.v, a.x, w.wv, N, C, KV);
    qknorm_rope_forward(s->q, a.q_rstd, a.q_raw, w.q_norm, m->rope, m->positions, N, NH, HS, eps);
    qknorm_rope_forward(s->k, a.k_rstd, a.k_raw, w.k_norm, m->rope, m->positions, N, NKV, HS, eps);
    attention_forward(a.attention, a.lse, s->q, layer_past(m, l, s->k, a.v), m->tiles, m->tile_count,
                      s->scores, NH, NKV, HS);
    matmul_forward(a.o, a.attention, w.wo, N, Q, C);
    rmsnorm_residual_forward(a.h, a.attention_rstd, a.x, a.o, w.attention_norm, N, C, eps);

    // feed-forward branch: x' = h + rmsnorm(W_down (silu(W_gate h) * W_up h))
    matmul_forward(a.gate, a.h, w.w_gate, N, C, F);
    matmul_forward(a.up, a.h, w.w_up, N, C, F);
    swiglu_forward(s->act, a.gate, a.up, N, F);
    matmul_forward(a.down, s->act, w.w_down, N, F, C);
    rmsnorm_residual_forward(next.x, a.feedforward_rstd, a.h, a.down, w.feedforward_norm, N, C, eps);
}

// layer_forward from its last line to its first.
static void layer_backward(const OLMo2 *m, size_t l) {
    const OLMo2Config *c = &m->config;
    const size_t B = m->B, T = m->T, N = B * T, C = c->C, NH = c->NH, NKV = c->NKV, HS = c->HS, F = c->F;
    const size_t Q = NH * HS, KV = NKV * HS;
    const float eps = c->rms_eps;
    const Workspace *s = &m->workspace;
    const LayerWeights w = layer_weights(m, l);
    const LayerGradients d = layer_gradients(m, l);
    const Activations a = layer_activations(m, l);

    // feed-forward branch
    rmsnorm_residual_backward(s->dbranch, d.feedforward_norm, s->dx, a.down, w.feedforward_norm,
                              a.feedforward_rstd, N, C);
    swiglu_forward(s->act, a.gate, a.up, N, F);
    matmul_backward(s->dact, d.w_down, s->dbranch, s->act, w.w_down, N, F, C, false);
    swiglu_backward(s->dgate, s->dup, s->dact, a.gate, a.up, N, F);
    matmul_backward(s->dx, d.w_up, s->dup, a.h, w.w_up, N, C, F, true);
    matmul_backward(s->dx, d.w_gate, s->dgate, a.h, w.w_gate, N, C, F, true);

    // attention branch
    rmsnorm_residual_backward(s->dbranch, d.attention_norm, s->dx, a.o, w.attention_norm, a.attention_rstd, N,
                              C);
    matmul_backward(s->dattention, d.wo, s->dbranch, a.attention, w.wo, N, Q, C, false);
    qknorm_rope_forward(s->q, a.q_rstd, a.q_raw, w.q_norm, m->rope, m->positions, N, NH, HS, eps);
    qknorm_rope_forward(s->k, a.k_rstd, a.k_raw, w.k_norm, m->rope, m->positions, N, NKV, HS, eps);
    attention_backward(s->dq, s->dk, s->dv, s->dattention, s->q, s->k, a.v, a.attention, a.lse, s->scores, B,
                       T, NH, NKV, HS);
    qknorm_rope_backward(s->dk_raw, d.k_norm, s->dk, a.k_raw, w.k_norm, a.k_rstd, m->rope, m->positions, N,
                         NKV, HS);
    qknorm_rope_backward(s->dq_raw, d.q_norm, s->dq, a.q_raw, w.q_norm, a.q_rstd, m->rope, m->positions, N,
                         NH, HS);
    matmul_backward(s->dx, d.wv, s->dv, a.x, w.wv, N, C, KV, true);
    matmul_backward(s->dx, d.wk, s->dk_raw, a.x, w.wk, N, C, KV, true);
    matmul_backward(s->dx, d.wq, s->dq_raw, a.x, w.wq, N, C, Q, true);
}

#include "dev/ablations/ablations.h"  // these two lists with a part of OLMo 2 left out

// ---------------------------------------------------------------------------------------------
// The model: forward, head, backward

static void begin_rows(OLMo2 *m, bool extends) {
    enter(m);
    m->extends = extends;
    m->N = m->tile_count = 0;
}

// Adds the next rows of a forward: `count` of them, from `position` on in that sequence.
static void add_piece(OLMo2 *m, size_t sequence, size_t position, size_t count) {
    for (size_t i = 0; i < count; i += QUERIES) {
        const QueryTile tile = {sequence, m->N + i, position + i, at_most(count - i, QUERIES)};
        m->tiles[m->tile_count++] = tile;
    }
    for (size_t i = 0; i < count; i++) { m->positions[m->N++] = position + i; }
}

// From the embeddings of tokens (N) to the output of the final norm.
static void forward_rows(OLMo2 *m, const uint32_t *tokens) {
    const OLMo2Config *c = &m->config;
    embedding_forward(m->activations.x, weight_of(m, EMBEDDING, 0), tokens, m->N, c->C);
    for (size_t l = 0; l < c->L; l++) {
        if (is_ablated(c)) {
            ablated_layer_forward(m, l);
        } else {
            layer_forward(m, l);
        }
    }
    rmsnorm_forward(m->activations.hidden, m->activations.hidden_rstd, layer_activations(m, c->L).x,
                    norm_of(m, FINAL_NORM, 0), m->N, c->C, c->rms_eps);
}

void olmo2_forward(OLMo2 *m, const uint32_t *tokens, size_t B, size_t T) {
    begin_rows(m, false);
    for (size_t b = 0; b < B; b++) { add_piece(m, b, 0, T); }
    m->B = B;
    m->T = T;
    memcpy(m->tokens, tokens, m->N * sizeof *tokens);
    forward_rows(m, tokens);
}

// The logits (n, V) of those rows of the final norm's output, at most as many as the classifier has.
static void head(const OLMo2 *m, float *logits, const size_t *rows, size_t n) {
    const size_t C = m->config.C;
    float *gathered = m->workspace.gathered;
    for (size_t i = 0; i < n; i++) {
        memcpy(gathered + i * C, m->activations.hidden + rows[i] * C, C * sizeof(float));
    }
    const Weight lm_head = weight_of(m, LM_HEAD, 0);
    matmul_forward(logits, gathered, lm_head, n, C, m->config.V);
}

void olmo2_classify(OLMo2 *m, const uint32_t *labels, const float *weights, float z, float *logprobs,
                    float *lse) {
    enter(m);
    const OLMo2Config *c = &m->config;
    const size_t N = m->N, C = c->C, V = c->V, chunk = classifier_rows(c, &m->room);
    float *logits = m->workspace.logits, chunk_logprobs[CLASSIFIER_ROWS], chunk_lse[CLASSIFIER_ROWS];
    uint32_t chunk_labels[CLASSIFIER_ROWS];
    size_t rows[CLASSIFIER_ROWS];
    for (size_t n = 0; n < N;) {
        const size_t first = n;
        size_t count = 0;
        for (; n < N && count < chunk; n++) {  // the next rows: all, or those with a label
            logprobs[n] = lse[n] = 0.0f;
            if (weights == NULL && labels[n] == OLMO2_NO_TOKEN) { continue; }
            chunk_labels[count] = labels[n];
            rows[count++] = n;
        }
        head(m, logits, rows, count);
        classifier_forward(chunk_logprobs, chunk_lse, logits, chunk_labels, count, V);
        for (size_t i = 0; i < count; i++) {
            logprobs[rows[i]] = chunk_logprobs[i];
            lse[rows[i]] = chunk_lse[i];
        }
        if (weights == NULL) { continue; }
        classifier_backward(logits, chunk_lse, chunk_labels, weights + first, z, count, V);
        matmul_backward(m->workspace.dhidden + first * C, gradient_of(m, LM_HEAD, 0), logits,
                        m->activations.hidden + first * C, weight_of(m, LM_HEAD, 0), count, C, V, false);
    }
}

// olmo2_forward from its last line to its first. s->dx is the residual stream's gradient all the way.
void olmo2_backward(OLMo2 *m) {
    enter(m);
    const OLMo2Config *c = &m->config;
    const size_t N = m->N, C = c->C;
    const Workspace *s = &m->workspace;
    rmsnorm_backward(s->dx, gradient_of(m, FINAL_NORM, 0), s->dhidden, layer_activations(m, c->L).x,
                     norm_of(m, FINAL_NORM, 0), m->activations.hidden_rstd, N, C);
    for (size_t l = c->L; l-- > 0;) {
        if (is_ablated(c)) {
            ablated_layer_backward(m, l);
        } else {
            layer_backward(m, l);
        }
    }
    embedding_backward(gradient_of(m, EMBEDDING, 0), s->dx, m->tokens, N, C);
}

// ---------------------------------------------------------------------------------------------
// The model: update

void olmo2_zero_gradients(OLMo2 *m) {
    enter(m);
    PROFILE(0.0, sizeof(float) * parameter_array_size(&m->config));
    memset(m->gradients, 0, parameter_array_size(&m->config) * sizeof(float));
}

// The sum of squares of a tensor, in double: PIECES partial sums, then their sum in a fixed order, so the
// bits do not depend on the number of threads.
static double sum_of_squares(const float *x, size_t size) {
    PROFILE(2.0 * size, sizeof(float) * size);
    enum { PIECES = 64 };
    double pieces[PIECES];
#pragma omp parallel for
    for (size_t p = 0; p < PIECES; p++) {
        double lanes[LANES] = {0.0};
        size_t i = size * p / PIECES, end = size * (p + 1) / PIECES;
        for (; i + LANES <= end; i += LANES) {
            for (size_t j = 0; j < LANES; j++) { lanes[j] += (double)x[i + j] * (double)x[i + j]; }
        }
        for (; i < end; i++) { lanes[0] += (double)x[i] * (double)x[i]; }
        pieces[p] = 0.0;
        for (size_t j = 0; j < LANES; j++) { pieces[p] += lanes[j]; }
    }
    double sum = 0.0;
    for (size_t p = 0; p < PIECES; p++) { sum += pieces[p]; }
    return sum;
}

double olmo2_gradient_norm(OLMo2 *m) {
    enter(m);
    double sum = 0.0;
    for (size_t i = 0; i < parameter_count(&m->config); i++) {
        const Parameter p = parameter_at(&m->config, i);
        sum += sum_of_squares(m->gradients + p.offset, p.size);
    }
    return sqrt(sum);
}

void olmo2_update(OLMo2 *m, const OLMo2AdamW *settings) {
    enter(m);
    for (size_t i = 0; i < parameter_count(&m->config); i++) {
        const Parameter p = parameter_at(&m->config, i);
        adamw_update(m->weights + p.offset, m->moment1 + p.offset, m->moment2 + p.offset,
                     m->gradients + p.offset, p.size, settings, p.row->decay ? settings->weight_decay : 0.0f);
    }
}

static void *parameter_values(const OLMo2 *m, OLMo2Array array, size_t index) {
    const size_t offset = parameter_at(&m->config, index).offset;
    switch (array) {
    case OLMO2_PARAMETER: return m->tensors[index];
    case OLMO2_GRADIENT: return m->gradients + offset;
    case OLMO2_MOMENT1: return m->moment1 + offset;
    case OLMO2_MOMENT2: return m->moment2 + offset;
    }
    return NULL;
}

void olmo2_read(const OLMo2 *m, OLMo2Array array, size_t index, float *values) {
    const Parameter p = parameter_at(&m->config, index);
    const void *data = parameter_values(m, array, index);
    const bool bf16 = array == OLMO2_PARAMETER && is_bf16(&m->form, &p);
    for (size_t i = 0; i < p.size; i++) { values[i] = gemm_element(data, i, bf16); }
}

void olmo2_write(OLMo2 *m, OLMo2Array array, size_t index, const float *values) {
    const Parameter p = parameter_at(&m->config, index);
    void *data = parameter_values(m, array, index);
    assert(array != OLMO2_PARAMETER || !is_lent(&m->form, &p));
    if (array != OLMO2_PARAMETER || !is_bf16(&m->form, &p)) {
        memcpy(data, values, p.size * sizeof(float));
        return;
    }
    uint16_t *halves = (uint16_t *)data;
    for (size_t i = 0; i < p.size; i++) { halves[i] = (uint16_t)gemm_round_to_bf16(values[i]); }
}

bool olmo2_lends(void) { return true; }

void olmo2_lend(OLMo2 *m, size_t index, const void *data) {
    m->tensors[index] = (void *)data;  // which nothing writes to
}

// ---------------------------------------------------------------------------------------------
// The model: sequences with a cache
//          tested: dev/test/test_prefill.c

static void extend_slot(OLMo2 *m, size_t slot, size_t count) {
    add_piece(m, slot, m->lengths[slot], count);
    m->lengths[slot] += count;
    m->B = 1;
    m->T = m->N;
}

void olmo2_prefill(OLMo2 *m, const uint32_t *tokens, const OLMo2Piece *pieces, size_t n) {
    begin_rows(m, true);
    for (size_t i = 0; i < n; i++) { extend_slot(m, pieces[i].slot, pieces[i].count); }
    forward_rows(m, tokens);
}

void olmo2_logits(OLMo2 *m, const size_t *rows, size_t n, float *logits) {
    enter(m);
    const size_t chunk = classifier_rows(&m->config, &m->room);
    for (size_t i = 0; i < n; i += chunk) {
        head(m, logits + i * m->config.V, rows + i, at_most(n - i, chunk));
    }
}

void olmo2_decode(OLMo2 *m, const uint32_t *tokens, const size_t *slots, size_t n, float *logits) {
    begin_rows(m, true);
    for (size_t i = 0; i < n; i++) { extend_slot(m, slots[i], 1); }
    forward_rows(m, tokens);
    matmul_forward(logits, m->activations.hidden, weight_of(m, LM_HEAD, 0), n, m->config.C, m->config.V);
}

size_t olmo2_positions(const OLMo2 *m, size_t slot) { return m->lengths[slot]; }

void olmo2_truncate(OLMo2 *m, size_t slot, size_t positions) { m->lengths[slot] = positions; }

void olmo2_copy_slot(OLMo2 *m, size_t to, size_t from, size_t begin, size_t end) {
    const OLMo2Config *c = &m->config;
    const size_t heads = c->L * c->NKV, size = m->room.cache_T * c->HS;
    const size_t bytes = (end - begin) * c->HS * sizeof(float);
    for (size_t h = 0; h < heads; h++) {
        const size_t source = (from * heads + h) * size + begin * c->HS;
        const size_t target = (to * heads + h) * size + begin * c->HS;
        memcpy(m->cache.keys + target, m->cache.keys + source, bytes);
        memcpy(m->cache.values + target, m->cache.values + source, bytes);
    }
    m->lengths[to] = end;
}

#include "llmc/main.h"  // main: the commands, the training loop
