// train_olmo2.cu: OLMo 2 on one GPU, in bf16 or fp32: every layer forward and backward, AdamW, the model,
// decoding. Open it next to train_olmo2.c: the order and the names are the same. The derivations are in the
// .c; the comments here say what a GPU needs, and why. dev/cuda/ builds each kernel up from its plainest
// version.
//
// Shapes    B batch, T sequence length, C channels, L layers, NH query heads, NKV key/value heads,
//           HS head size, F feed-forward hidden size, V vocabulary rows; N = B * T where a layer treats each
//           token by itself. All arrays are row-major: in (B, T, C), C runs fastest.
// Types     Weights and activations are stored as floatX: bf16, or float with PRECISION_FP32. Every sum is in
//           fp32. Gradients and moments are Arrays, whose type is chosen when the program starts.
// Gradients dx is the gradient of the objective with respect to x. Parameter gradients accumulate (+=).
//           Activation gradients are assigned (=), except that of the residual stream: several branches read
//           it, so it accumulates.
// Kernels   All kernels but the matrix products are memory-bound, so each value is read and written once,
//           16 bytes per lane. Most assign one row to a warp. A row needed twice is staged in shared memory;
//           each lane reads back only what it wrote, so no barrier is needed.
// Bits      No atomics. The order of every sum depends only on the sizes, so two runs give the same bits.

#include <float.h>

#include "llmc/olmo2.h"         // OLMo2Config and the interface implemented here
#include "llmc/parameters.h"    // the table of parameters: names, shapes, places
#include "llmc/cuda_utils.cuh"  // floatX, 16-byte accesses, sums over a warp, tensor cores, checks

enum { ROW_WARPS = 8 };  // warps per block, one row each; fewer if their rows do not fit in shared memory

__device__ static inline int lane_number() { return (int)(threadIdx.x % WARP); }
__device__ static inline int warp_number() { return (int)(threadIdx.x / WARP); }

// The row that this warp takes: its number among the warps of all blocks.
__device__ static inline size_t row_number() {
    return (size_t)blockIdx.x * (blockDim.x / WARP) + (size_t)warp_number();
}

// Warps per block if each needs `bytes` of shared memory: at most `most`.
static int warps_for(size_t bytes, int most) {
    const size_t room = SHARED_MOST / bytes;
    return room < (size_t)most ? (int)room : most;
}

// ---------------------------------------------------------------------------------------------
// Embedding: x_t = E[token_t]. No scaling, no position table.
//          on paper: dev/doc/embedding.md    tested: check_embedding in dev/test/test_cuda_kernels.cu

template <int W>
__global__ static void embedding_forward_kernel(floatX *x, const floatX *table, const uint32_t *tokens,
                                                size_t N, int C) {
    const size_t n = row_number();
    if (n >= N) { return; }
    const floatX *row = table + (size_t)tokens[n] * C;
    for (int c = lane_number() * W; c < C; c += WARP * W) { store(x + n * C + c, load<W>(row + c)); }
}

// table (V, C), tokens (N) -> x (N, C)
static void embedding_forward(floatX *x, const floatX *table, const uint32_t *tokens, size_t N, size_t C) {
    by_width(
        [&](auto width) {
            embedding_forward_kernel<width.value>
                <<<divide_up(N, ROW_WARPS), ROW_WARPS * WARP>>>(x, table, tokens, N, C);
        },
        C);
    LAUNCH_CHECK();
}

// Sorts positions by token, on the host, with a counting sort. Bucket b, order[starts[b]] to order[starts[b +
// 1] - 1], holds the positions of one token in ascending order. tokens (N) -> order (N), starts (up to N +
// 1); returns the number of buckets. next (V) is scratch.
static size_t embedding_buckets(uint32_t *order, uint32_t *starts, uint32_t *next, const uint32_t *tokens,
                                size_t N, size_t V) {
    size_t buckets = 0;
    uint32_t total = 0;
    memset(next, 0, V * sizeof *next);
    for (size_t n = 0; n < N; n++) { next[tokens[n]]++; }
    for (size_t v = 0; v < V; v++) {
        const uint32_t count = next[v];
        if (count > 0) { starts[buckets++] = total; }
        next[v] = total;
        total += count;
    }
    starts[buckets] = total;
    for (size_t n = 0; n < N; n++) { order[next[tokens[n]]++] = (uint32_t)n; }
    return buckets;
}

// A block takes a bucket and a thread W channels. It sums the bucket's rows in order.
template <int W, typename G>
__global__ static void embedding_backward_kernel(G *dtable, const floatX *dx, const uint32_t *tokens,
                                                 const uint32_t *order, const uint32_t *starts, int C) {
    const int c = (int)(blockIdx.y * blockDim.x + threadIdx.x) * W;
    if (c >= C) { return; }
    const uint32_t begin = starts[blockIdx.x], end = starts[blockIdx.x + 1];
    G *row = dtable + (size_t)tokens[order[begin]] * C + c;
    float sum[W] = {};
    for (uint32_t i = begin; i < end; i++) {
        const Vec<floatX, W> dx_n = load<W>(dx + (size_t)order[i] * C + c);
        for (int k = 0; k < W; k++) { sum[k] += (float)dx_n[k]; }
    }
    Vec<G, W> total = load<W>(row);
    for (int k = 0; k < W; k++) { total[k] = (G)((float)total[k] + sum[k]); }
    store(row, total);
}

// dx (N, C) -> dtable (V, C) accumulated: a row receives the gradient of every position that holds its token.
// Tokens repeat, so their positions are sorted into buckets (embedding_buckets) and one block sums each
// bucket: no two threads add to the same number. A thread takes 4 channels, which are 16 bytes of an fp32
// gradient, so the accesses of a warp are contiguous.
static void embedding_backward(Array dtable, const floatX *dx, const uint32_t *tokens, const uint32_t *order,
                               const uint32_t *starts, size_t buckets, size_t C) {
    const int threads = 128;
    by_width<4>(
        [&](auto width) {
            const dim3 blocks((unsigned)buckets, (unsigned)divide_up(C, threads * width.value));
            by_type(dtable, [&](auto *d) {
                embedding_backward_kernel<width.value><<<blocks, threads>>>(d, dx, tokens, order, starts, C);
            });
        },
        C);
    LAUNCH_CHECK();
}

// ---------------------------------------------------------------------------------------------
// RMSNorm: y = w * x / rms(x), rms(x) = sqrt(mean_c(x_c^2) + eps), each row of C channels by itself
//          on paper: dev/doc/rmsnorm.md    tested: check_rmsnorm in dev/test/test_cuda_kernels.cu

// The sum of squares of a row, with the same bits in all lanes. The row stays in shared memory, in `kept`.
template <int W>
__device__ static float sum_of_row_squares(floatX *kept, const floatX *x, int C) {
    for (int c = lane_number() * W; c < C; c += WARP * W) { fetch<W>(kept + c, x + c); }
    fetch_wait();
    float sum = 0.0f;
    for (int c = lane_number() * W; c < C; c += WARP * W) {
        const Vec<floatX, W> x_c = load<W>(kept + c);
        for (int k = 0; k < W; k++) { sum += (float)x_c[k] * (float)x_c[k]; }
    }
    return warp_sum(sum);
}

template <int W>
__global__ static void rmsnorm_forward_kernel(floatX *y, float *rstd, const floatX *x, const floatX *w,
                                              size_t N, int C, float eps) {
    extern __shared__ __align__(128) unsigned char shared[];
    floatX *kept = (floatX *)shared + (size_t)warp_number() * C;
    const size_t n = row_number();
    if (n >= N) { return; }
    const float s = 1.0f / sqrtf(sum_of_row_squares<W>(kept, x + n * C, C) / C + eps);
    for (int c = lane_number() * W; c < C; c += WARP * W) {
        const Vec<floatX, W> x_c = load<W>(kept + c), w_c = load<W>(w + c);
        Vec<floatX, W> y_c;
        for (int k = 0; k < W; k++) { y_c[k] = (floatX)((float)w_c[k] * ((float)x_c[k] * s)); }
        store(y + n * C + c, y_c);
    }
    if (lane_number() == 0) { rstd[n] = s; }
}

// x (N, C), w (C) -> y (N, C), rstd (N) = 1 / rms(x), kept for the backward
static void rmsnorm_forward(floatX *y, float *rstd, const floatX *x, const floatX *w, size_t N, size_t C,
                            float eps) {
    const size_t row = C * sizeof(floatX);
    const int warps = warps_for(row, ROW_WARPS);
    by_width(
        [&](auto width) {
            allow_shared(rmsnorm_forward_kernel<width.value>, warps * row);
            rmsnorm_forward_kernel<width.value>
                <<<divide_up(N, warps), warps * WARP, warps * row>>>(y, rstd, x, w, N, C, eps);
        },
        C);
    LAUNCH_CHECK();
}

// The gradient of a weight is a sum over all rows. At most BACKWARD_BLOCKS blocks take the rows in turn. Each
// warp sums its own rows, each block its warps, and add_partial_sums the blocks, in the same order on every
// device. __launch_bounds__ holds the kernels to 64 registers, as for 8 blocks on a multiprocessor; shared
// memory allows fewer blocks than that.
static const size_t BACKWARD_BLOCKS = 256;
enum { BACKWARD_WARPS = 4, BACKWARD_THREADS = BACKWARD_WARPS * WARP };

static size_t backward_blocks(size_t N, int warps) {
    const size_t blocks = divide_up(N, warps);
    return blocks < BACKWARD_BLOCKS ? blocks : BACKWARD_BLOCKS;
}

// This block's row of partial (blocks, C): the sum of its warps' rows of sums (warps, C)
__device__ static void write_partial_sums(float *partial, const float *sums, int C) {
    const int warps = (int)blockDim.x / WARP;
    __syncthreads();
    for (int c = (int)threadIdx.x; c < C; c += (int)blockDim.x) {
        float sum = 0.0f;
        for (int i = 0; i < warps; i++) { sum += sums[(size_t)i * C + c]; }
        partial[(size_t)blockIdx.x * C + c] = sum;
    }
}

// A lane takes a channel and a warp every SUM_WARPS-th block. The first warp then sums the warps.
enum { SUM_WARPS = 8 };

template <typename G>
__global__ static void add_partial_sums_kernel(G *dw, const float *partial, size_t blocks, int C) {
    __shared__ float sums[SUM_WARPS][WARP];
    const int c = (int)blockIdx.x * WARP + lane_number(), warp = warp_number();
    float sum = 0.0f;
    for (size_t i = (size_t)warp; i < blocks && c < C; i += SUM_WARPS) { sum += partial[i * C + c]; }
    sums[warp][lane_number()] = sum;
    __syncthreads();
    if (warp > 0 || c >= C) { return; }
    for (int i = 1; i < SUM_WARPS; i++) { sum += sums[i][lane_number()]; }
    dw[c] = (G)((float)dw[c] + sum);
}

// partial (blocks, C) -> dw (C) accumulated
static void add_partial_sums(Array dw, const float *partial, size_t blocks, size_t C) {
    by_type(dw, [&](auto *d) {
        add_partial_sums_kernel<<<divide_up(C, WARP), SUM_WARPS * WARP>>>(d, partial, blocks, C);
    });
    LAUNCH_CHECK();
}

template <int W>
__global__ static void __launch_bounds__(BACKWARD_THREADS, 8)
    rmsnorm_backward_kernel(floatX *dx, float *partial, const floatX *dy, const floatX *x, const floatX *w,
                            const float *rstd, size_t N, int C) {
    extern __shared__ __align__(128) unsigned char shared[];
    const int warps = (int)blockDim.x / WARP, lane = lane_number();
    float *sums = (float *)shared;                 // (warps, C)
    float *dw = sums + (size_t)warp_number() * C;  // this warp's
    floatX *dy_kept = (floatX *)(sums + (size_t)warps * C) + (size_t)warp_number() * 2 * C,
           *x_kept = dy_kept + C;
    for (int c = lane * W; c < C; c += WARP * W) { store_shared(dw + c, Vec<float, W>{}); }
    for (size_t n = row_number(); n < N; n += (size_t)gridDim.x * warps) {
        for (int c = lane * W; c < C; c += WARP * W) {
            fetch<W>(dy_kept + c, dy + n * C + c);
            fetch<W>(x_kept + c, x + n * C + c);
        }
        const float s = rstd[n];
        float sum = 0.0f;
        fetch_wait();
        for (int c = lane * W; c < C; c += WARP * W) {
            const Vec<floatX, W> dy_c = load<W>(dy_kept + c), x_c = load<W>(x_kept + c), w_c = load<W>(w + c);
            Vec<float, W> dw_c = load<W>(dw + c);
            for (int k = 0; k < W; k++) {
                const float term = (float)dy_c[k] * ((float)x_c[k] * s);
                dw_c[k] += term;
                sum += (float)w_c[k] * term;
            }
            store_shared(dw + c, dw_c);
        }
        const float mean = warp_sum(sum) / C;
        for (int c = lane * W; c < C; c += WARP * W) {
            const Vec<floatX, W> dy_c = load<W>(dy_kept + c), x_c = load<W>(x_kept + c), w_c = load<W>(w + c);
            Vec<floatX, W> dx_c;
            for (int k = 0; k < W; k++) {
                dx_c[k] = (floatX)(s * ((float)w_c[k] * (float)dy_c[k] - (float)x_c[k] * s * mean));
            }
            store(dx + n * C + c, dx_c);
        }
    }
    write_partial_sums(partial, sums, C);
}

// dy (N, C) -> dx (N, C) assigned, dw (C) accumulated. dx may be dy. partial (BACKWARD_BLOCKS, C) is scratch.
static void rmsnorm_backward(floatX *dx, Array dw, float *partial, const floatX *dy, const floatX *x,
                             const floatX *w, const float *rstd, size_t N, size_t C) {
    const size_t row = C * (sizeof(float) + 2 * sizeof(floatX));
    const int warps = warps_for(row, BACKWARD_WARPS);
    const size_t blocks = backward_blocks(N, warps);
    by_width(
        [&](auto width) {
            allow_shared(rmsnorm_backward_kernel<width.value>, warps * row);
            rmsnorm_backward_kernel<width.value>
                <<<blocks, warps * WARP, warps * row>>>(dx, partial, dy, x, w, rstd, N, C);
        },
        C);
    LAUNCH_CHECK();
    add_partial_sums(dw, partial, blocks, C);
}

template <int W>
__global__ static void rmsnorm_residual_forward_kernel(floatX *h, float *rstd, const floatX *x,
                                                       const floatX *o, const floatX *w, size_t N, int C,
                                                       float eps) {
    extern __shared__ __align__(128) unsigned char shared[];
    floatX *kept = (floatX *)shared + (size_t)warp_number() * C;
    const size_t n = row_number();
    if (n >= N) { return; }
    const float s = 1.0f / sqrtf(sum_of_row_squares<W>(kept, o + n * C, C) / C + eps);
    for (int c = lane_number() * W; c < C; c += WARP * W) {
        const Vec<floatX, W> x_c = load<W>(x + n * C + c), o_c = load<W>(kept + c), w_c = load<W>(w + c);
        Vec<floatX, W> h_c;
        for (int k = 0; k < W; k++) {
            h_c[k] = (floatX)((float)x_c[k] + (float)w_c[k] * ((float)o_c[k] * s));
        }
        store(h + n * C + c, h_c);
    }
    if (lane_number() == 0) { rstd[n] = s; }
}

// The end of a branch: h = x + rmsnorm(o), OLMo 2's norm on its output (arXiv 2501.00656, section 2.1).
// x, o (N, C), w (C) -> h (N, C), rstd (N)
static void rmsnorm_residual_forward(floatX *h, float *rstd, const floatX *x, const floatX *o,
                                     const floatX *w, size_t N, size_t C, float eps) {
    const size_t row = C * sizeof(floatX);
    const int warps = warps_for(row, ROW_WARPS);
    by_width(
        [&](auto width) {
            allow_shared(rmsnorm_residual_forward_kernel<width.value>, warps * row);
            rmsnorm_residual_forward_kernel<width.value>
                <<<divide_up(N, warps), warps * WARP, warps * row>>>(h, rstd, x, o, w, N, C, eps);
        },
        C);
    LAUNCH_CHECK();
}

// dh (N, C) -> do (N, C) assigned, dw (C) accumulated. The gradient of the other summand is dx = dh, so the
// residual stream's gradient stays where it is.
static void rmsnorm_residual_backward(floatX *d_o, Array dw, float *partial, const floatX *dh,
                                      const floatX *o, const floatX *w, const float *rstd, size_t N,
                                      size_t C) {
    rmsnorm_backward(d_o, dw, partial, dh, o, w, rstd, N, C);
}

// ---------------------------------------------------------------------------------------------
// Matrix product: y = x W^T, with I inputs and O outputs. OLMo 2 has no biases. cuBLAS is column-major, so it
// computes the transpose of every product.
//          on paper: dev/doc/matmul.md    tested: check_matmul in dev/test/test_cuda_kernels.cu

// cuBLAS's handle, and the number of models that use it.
static struct {
    cublasHandle_t handle;
    void *workspace;  // CUBLAS_WORKSPACE bytes
    int models;
} cublas;

enum { CUBLAS_WORKSPACE = 32 << 20 };

// c (n, m) = op(a) op(b) + beta c, column-major; a_rows, b_rows and c_rows are the leading dimensions
template <typename Y>
static void gemm(cublasOperation_t op_a, cublasOperation_t op_b, size_t m, size_t n, size_t k,
                 const floatX *a, size_t a_rows, const floatX *b, size_t b_rows, float beta, Y *c,
                 size_t c_rows) {
    const float alpha = 1.0f;
    CUBLAS_CHECK(cublasGemmEx(cublas.handle, op_a, op_b, (int)m, (int)n, (int)k, &alpha, a, cuda_type(a),
                              (int)a_rows, b, cuda_type(b), (int)b_rows, &beta, c, cuda_type(c), (int)c_rows,
                              CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT));
}

// x (N, I), w (O, I) -> y (N, O)
static void matmul_forward(floatX *y, const floatX *x, const floatX *w, size_t N, size_t I, size_t O) {
    gemm(CUBLAS_OP_T, CUBLAS_OP_N, O, N, I, w, I, x, I, 0.0f, y, O);
}

// dy (N, O) -> dx (N, I) accumulated or assigned: dx = dy W
static void matmul_backward_input(floatX *dx, const floatX *dy, const floatX *w, size_t N, size_t I, size_t O,
                                  bool accumulate_dx) {
    gemm(CUBLAS_OP_N, CUBLAS_OP_N, I, N, O, w, I, dy, O, accumulate_dx ? 1.0f : 0.0f, dx, I);
}

// dy (N, O), x (N, I) -> dw (O, I) accumulated: dW = dy^T x
static void matmul_backward_weight(Array dw, const floatX *dy, const floatX *x, size_t N, size_t I,
                                   size_t O) {
    by_type(dw, [&](auto *d) { gemm(CUBLAS_OP_N, CUBLAS_OP_T, I, O, N, x, I, dy, O, 1.0f, d, I); });
}

static void matmul_backward(floatX *dx, Array dw, const floatX *dy, const floatX *x, const floatX *w,
                            size_t N, size_t I, size_t O, bool accumulate_dx) {
    matmul_backward_input(dx, dy, w, N, I, O, accumulate_dx);
    matmul_backward_weight(dw, dy, x, N, I, O);
}

// ---------------------------------------------------------------------------------------------
// QK-norm and RoPE. First the whole projected row is normalised, all heads together (one rms per token). Then
// each head is rotated: channels i and i + HS/2 are a point in the plane, rotated by the angle t theta_i,
// theta_i = theta^(-2i/HS) (Su et al. 2021, in the "rotate-half" layout).
//          on paper: dev/doc/qknorm_rope.md    tested: check_qknorm_rope in dev/test/test_cuda_kernels.cu

// rope (T, HS), on the host: cos(t theta_i) at i, sin(t theta_i) at i + HS/2. The angle is a product in fp32,
// as in PyTorch: OLMo 2 was trained with that rounding, and exact angles would differ from it.
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

// A lane takes W pairs of a row at a time. Pair `pair` is the channel returned here and its partner HS/2
// further.
__device__ static inline int first_of_pairs(int pair, int HS) {
    const int half = HS / 2;
    return pair / half * HS + pair % half;
}

template <int W>
__global__ static void qknorm_rope_forward_kernel(floatX *y, float *rstd, const floatX *x, size_t x_stride,
                                                  const floatX *w, const float *rope,
                                                  const uint32_t *positions, size_t N, size_t T, int C,
                                                  int HS, float eps) {
    extern __shared__ __align__(128) unsigned char shared[];
    floatX *kept = (floatX *)shared + (size_t)warp_number() * C;
    const size_t n = row_number();
    if (n >= N) { return; }
    const int half = HS / 2;
    const float *cosine = rope + (positions != nullptr ? positions[n] : n % T) * HS, *sine = cosine + half;
    const float s = 1.0f / sqrtf(sum_of_row_squares<W>(kept, x + n * x_stride, C) / C + eps);
    __syncwarp();  // below, a lane reads channels that other lanes fetched
    for (int pair = lane_number() * W; pair < C / 2; pair += WARP * W) {
        const int c = first_of_pairs(pair, HS), i = pair % half;
        const Vec<floatX, W> a = load<W>(kept + c), b = load<W>(kept + c + half);
        const Vec<float, W> cosine_i = load<W>(cosine + i), sine_i = load<W>(sine + i);
        const Vec<floatX, W> w_a = load<W>(w + c), w_b = load<W>(w + c + half);
        Vec<floatX, W> y_a, y_b;
        for (int k = 0; k < W; k++) {
            const float u = (float)w_a[k] * ((float)a[k] * s), v = (float)w_b[k] * ((float)b[k] * s);
            y_a[k] = (floatX)(u * cosine_i[k] - v * sine_i[k]);
            y_b[k] = (floatX)(v * cosine_i[k] + u * sine_i[k]);
        }
        store(y + n * C + c, y_a);
        store(y + n * C + c + half, y_b);
    }
    if (lane_number() == 0) { rstd[n] = s; }
}

// x (N, NH, HS) in rows of x_stride, w (NH*HS), rope (T, HS) -> y (N, NH, HS), rstd (N):
//   y = R_t (w * x / rms(x)), with R_t (a, b) = (a cos - b sin, b cos + a sin) for each pair (a, b),
// where t is positions[n], or n mod T without positions (N).
static void qknorm_rope_forward(floatX *y, float *rstd, const floatX *x, size_t x_stride, const floatX *w,
                                const float *rope, const uint32_t *positions, size_t N, size_t T, size_t NH,
                                size_t HS, float eps) {
    const size_t C = NH * HS, row = C * sizeof(floatX);
    const int warps = warps_for(row, ROW_WARPS);
    by_width(
        [&](auto width) {
            allow_shared(qknorm_rope_forward_kernel<width.value>, warps * row);
            qknorm_rope_forward_kernel<width.value><<<divide_up(N, warps), warps * WARP, warps * row>>>(
                y, rstd, x, x_stride, w, rope, positions, N, T, C, HS, eps);
        },
        HS / 2, x_stride);
    LAUNCH_CHECK();
}

// R_t^T dy for W pairs of a row dy: channels c + k in turned[0], their partners c + half + k in turned[1]
template <int W>
__device__ static void turn_back(Vec<float, W> turned[2], const floatX *dy, int c, const float *cosine,
                                 int half) {
    const Vec<floatX, W> a = load<W>(dy + c), b = load<W>(dy + c + half);
    const Vec<float, W> cosine_c = load<W>(cosine + c % half), sine_c = load<W>(cosine + half + c % half);
    for (int k = 0; k < W; k++) {
        turned[0][k] = (float)a[k] * cosine_c[k] + (float)b[k] * sine_c[k];
        turned[1][k] = (float)b[k] * cosine_c[k] - (float)a[k] * sine_c[k];
    }
}

template <int W>
__global__ static void __launch_bounds__(BACKWARD_THREADS, 8)
    qknorm_rope_backward_kernel(floatX *dx, size_t dx_stride, float *partial, const floatX *dy,
                                const floatX *x, size_t x_stride, const floatX *w, const float *rstd,
                                const float *rope, size_t N, size_t T, int C, int HS) {
    extern __shared__ __align__(128) unsigned char shared[];
    const int warps = (int)blockDim.x / WARP, lane = lane_number(), half = HS / 2;
    float *sums = (float *)shared;                 // (warps, C)
    float *dw = sums + (size_t)warp_number() * C;  // this warp's
    floatX *dy_kept = (floatX *)(sums + (size_t)warps * C) + (size_t)warp_number() * 2 * C,
           *x_kept = dy_kept + C;
    for (int c = lane * W; c < C; c += WARP * W) { store_shared(dw + c, Vec<float, W>{}); }
    __syncwarp();  // below, a lane adds to channels that other lanes zeroed
    for (size_t n = row_number(); n < N; n += (size_t)gridDim.x * warps) {
        for (int pair = lane * W; pair < C / 2; pair += WARP * W) {
            for (int side = 0; side < 2; side++) {
                const int c = first_of_pairs(pair, HS) + side * half;
                fetch<W>(dy_kept + c, dy + n * C + c);
                fetch<W>(x_kept + c, x + n * x_stride + c);
            }
        }
        const float *cosine = rope + n % T * HS;
        const float s = rstd[n];
        float sum = 0.0f;
        fetch_wait();
        for (int pair = lane * W; pair < C / 2; pair += WARP * W) {
            const int first = first_of_pairs(pair, HS);
            Vec<float, W> turned[2];
            turn_back<W>(turned, dy_kept, first, cosine, half);
            for (int side = 0; side < 2; side++) {
                const int c = first + side * half;
                const Vec<floatX, W> x_c = load<W>(x_kept + c), w_c = load<W>(w + c);
                Vec<float, W> dw_c = load<W>(dw + c);
                for (int k = 0; k < W; k++) {
                    const float term = turned[side][k] * ((float)x_c[k] * s);
                    dw_c[k] += term;
                    sum += (float)w_c[k] * term;
                }
                store_shared(dw + c, dw_c);
            }
        }
        const float mean = warp_sum(sum) / C;
        for (int pair = lane * W; pair < C / 2; pair += WARP * W) {
            const int first = first_of_pairs(pair, HS);
            Vec<float, W> turned[2];
            turn_back<W>(turned, dy_kept, first, cosine, half);
            for (int side = 0; side < 2; side++) {
                const int c = first + side * half;
                const Vec<floatX, W> x_c = load<W>(x_kept + c), w_c = load<W>(w + c);
                Vec<floatX, W> dx_c;
                for (int k = 0; k < W; k++) {
                    dx_c[k] = (floatX)(s * ((float)w_c[k] * turned[side][k] - (float)x_c[k] * s * mean));
                }
                store(dx + n * dx_stride + c, dx_c);
            }
        }
    }
    write_partial_sums(partial, sums, C);
}

// dy (N, NH, HS) -> dx (N, NH, HS) in rows of dx_stride, assigned, dw (NH*HS) accumulated. The transpose of a
// rotation is the rotation by the opposite angle, R_t^T (a, b) = (a cos + b sin, b cos - a sin). After it
// comes RMSNorm's backward over the whole row, which couples all heads of a token. Both passes over a row
// rotate in registers: that costs less than storing the rotated row.
static void qknorm_rope_backward(floatX *dx, size_t dx_stride, Array dw, float *partial, const floatX *dy,
                                 const floatX *x, size_t x_stride, const floatX *w, const float *rstd,
                                 const float *rope, size_t N, size_t T, size_t NH, size_t HS) {
    const size_t C = NH * HS, row = C * (sizeof(float) + 2 * sizeof(floatX));
    const int warps = warps_for(row, BACKWARD_WARPS);
    const size_t blocks = backward_blocks(N, warps);
    by_width(
        [&](auto width) {
            allow_shared(qknorm_rope_backward_kernel<width.value>, warps * row);
            qknorm_rope_backward_kernel<width.value><<<blocks, warps * WARP, warps * row>>>(
                dx, dx_stride, partial, dy, x, x_stride, w, rstd, rope, N, T, C, HS);
        },
        HS / 2, x_stride, dx_stride);
    LAUNCH_CHECK();
    add_partial_sums(dw, partial, blocks, C);
}

// ---------------------------------------------------------------------------------------------
// Causal attention with grouped queries: query head h reads key/value head h / (NH / NKV).
//   s_ij = q_i . k_j / sqrt(HS) for j <= i,  p_i = softmax_j(s_ij),  o_i = sum_j p_ij v_j
//          on paper: dev/doc/attention.md    tested: check_attention in dev/test/test_cuda_kernels.cu
//
// The T x T matrices s and p are never in memory. A row of queries, or a tile of rows, walks over its keys
// and values once (online softmax: Milakov & Gimelshein 2018; Dao et al. 2022). It keeps three things, where
// max is the largest score so far:
//   max,  sum = sum_j e^(s_j - max),  mean = sum_j e^(s_j - max) v_j
// Since e^(s - max') = e^(s - max) e^(max - max'), a new maximum max' costs one factor:
//   sum'  = sum e^(max - max') + sum_new e^(s_j - max')
//   mean' = mean e^(max - max') + sum_new e^(s_j - max') v_j
// At the end o = mean / sum and lse = max + log(sum). Every factor is at most 1, so nothing overflows.
//
// The backward is that of train_olmo2.c: with D_i = do_i . o_i and p_ij = e^(s_ij - lse_i) recomputed,
//   dv_j = sum_i p_ij do_i,  dp_ij = do_i . v_j,  ds_ij = p_ij (dp_ij - D_i),
//   dq_i = sum_j ds_ij k_j / sqrt(HS),  dk_j = sum_i ds_ij q_i / sqrt(HS)
// dq sums over keys; dk and dv sum over queries. So there are two kernels: one owns rows of queries, the
// other rows of keys. Both compute p and dp, which makes seven products instead of five. In return one warp
// makes each sum in one order: no atomics, no partial sums, and the same bits every time.
//
// Each kernel exists twice. The plain ones take any type and any head size up to 256, one row per warp. The
// tiled ones use the tensor cores, for bf16 heads of 64, 96 or 128.
//
// The forward's queries are those of a batch, or they continue sequences whose past keys and values are in a
// cache. Either way a query's sums are taken over its keys in the same order, so it has the same bits.

// Some rows of a batch that follow each other in one sequence.
typedef struct {
    uint32_t row, count;  // the first row, and how many there are
    uint32_t position;    // of the first one in its sequence
    uint32_t page;        // the sequence's keys and values: page_T positions from its first one on
} __align__(16) Piece;

// Piece b of a batch. Without pieces, a batch has whole sequences of T tokens.
__device__ static inline Piece piece_at(const Piece *pieces, size_t b, int T) {
    if (pieces != nullptr) { return pieces[b]; }
    return Piece{(uint32_t)b * (uint32_t)T, (uint32_t)T, 0, (uint32_t)b};
}

// ---- plain: a lane holds elements lane, lane + 32, ... of a row: N = HS / 32 of them, rounded up

template <int N>
__device__ static inline void load_row(float x[N], const floatX *row, int HS) {
    for (int n = 0; n < N; n++) {
        const int i = n * WARP + lane_number();
        x[n] = i < HS ? (float)row[i] : 0.0f;
    }
}

template <int N>
__device__ static inline void store_row(floatX *row, const float x[N], float scale, int HS) {
    for (int n = 0; n < N; n++) {
        const int i = n * WARP + lane_number();
        if (i < HS) { row[i] = (floatX)(x[n] * scale); }
    }
}

template <int N>
__device__ static inline float dot(const float a[N], const float b[N]) {
    float sum = 0.0f;
    for (int n = 0; n < N; n++) { sum += a[n] * b[n]; }
    return warp_sum(sum);
}

// What a row of queries keeps of the keys that it has seen, as above.
template <int N>
struct Softmax {
    float max, sum, mean[N];
};

template <int N>
__device__ static inline Softmax<N> softmax_of_nothing() {
    Softmax<N> a;
    a.max = -INFINITY;
    a.sum = 0.0f;
    for (int n = 0; n < N; n++) { a.mean[n] = 0.0f; }
    return a;
}

// Merges b into a. A single key with score s and value v is {s, 1, v}.
template <int N>
__device__ static inline void softmax_add(Softmax<N> &a, const Softmax<N> &b) {
    const float max = fmaxf(a.max, b.max), factor_a = expf(a.max - max), factor_b = expf(b.max - max);
    a.max = max;
    a.sum = a.sum * factor_a + b.sum * factor_b;
    for (int n = 0; n < N; n++) { a.mean[n] = a.mean[n] * factor_a + b.mean[n] * factor_b; }
}

enum { ATTENTION_THREADS = 128, ATTENTION_WARPS = ATTENTION_THREADS / WARP };

// q (rows, NH, HS), k (pages, page_T, NKV, HS), v the same with v_stride elements from token to token ->
// o (rows, NH, HS), and without pieces lse (B, NH, T). One warp per row of o, blockIdx.y is the piece.
template <int N>
__global__ static void attention_plain_forward_kernel(floatX *o, float *lse, const floatX *q, const floatX *k,
                                                      const floatX *v, size_t v_stride, const Piece *pieces,
                                                      int T, size_t page_T, int NH, int NKV, int HS) {
    const Piece piece = piece_at(pieces, blockIdx.y, T);
    const size_t i = row_number() / NH, row = piece.row * (size_t)NH + row_number();
    if (i >= piece.count) { return; }
    const int h = row % NH, g = h / (NH / NKV), position = piece.position + i;
    const size_t first = piece.page * page_T, KV = (size_t)NKV * HS;
    const float scale = 1.0f / sqrtf((float)HS);
    float q_i[N];
    load_row<N>(q_i, q + row * HS, HS);
    Softmax<N> softmax = softmax_of_nothing<N>();
    for (int j = 0; j <= position; j++) {
        float k_j[N];
        Softmax<N> one;
        load_row<N>(k_j, k + (first + j) * KV + g * HS, HS);
        load_row<N>(one.mean, v + (first + j) * v_stride + g * HS, HS);
        one.max = dot<N>(q_i, k_j) * scale;
        one.sum = 1.0f;
        softmax_add<N>(softmax, one);
    }
    store_row<N>(o + row * HS, softmax.mean, 1.0f / softmax.sum, HS);
    if (lane_number() == 0 && pieces == nullptr) {
        lse[((size_t)blockIdx.y * NH + h) * T + i] = softmax.max + logf(softmax.sum);
    }
}

// d_o, q, k, v, o, lse -> dq (B, T, NH, HS), delta (B, NH, T) = D. One warp per row of dq.
template <int N>
__global__ static void attention_plain_dq_kernel(floatX *dq, float *delta, const floatX *d_o, const floatX *q,
                                                 const floatX *k, const floatX *v, size_t v_stride,
                                                 const floatX *o, const float *lse, size_t rows, int T,
                                                 int NH, int NKV, int HS) {
    const size_t row = row_number();
    if (row >= rows) { return; }
    const int h = row % NH, i = row / NH % T, g = h / (NH / NKV);
    const size_t b = row / NH / T, KV = (size_t)NKV * HS;
    const float scale = 1.0f / sqrtf((float)HS), lse_i = lse[(b * NH + h) * T + i];
    float q_i[N], do_i[N], o_i[N], dq_i[N] = {0.0f};
    load_row<N>(q_i, q + row * HS, HS);
    load_row<N>(do_i, d_o + row * HS, HS);
    load_row<N>(o_i, o + row * HS, HS);
    const float delta_i = dot<N>(do_i, o_i);
    for (int j = 0; j <= i; j++) {
        float k_j[N], v_j[N];
        load_row<N>(k_j, k + (b * T + j) * KV + g * HS, HS);
        load_row<N>(v_j, v + (b * T + j) * v_stride + g * HS, HS);
        const float p = expf(dot<N>(q_i, k_j) * scale - lse_i), ds = p * (dot<N>(do_i, v_j) - delta_i);
        for (int n = 0; n < N; n++) { dq_i[n] += ds * k_j[n]; }
    }
    store_row<N>(dq + row * HS, dq_i, scale, HS);
    if (lane_number() == 0) { delta[(b * NH + h) * T + i] = delta_i; }
}

// The same and delta -> dk (B, T, NKV, HS), dv the same with dv_stride. One warp per row of dk: it walks over
// the queries of all heads that read this key.
template <int N>
__global__ static void
attention_plain_dkdv_kernel(floatX *dk, floatX *dv, size_t dv_stride, const floatX *d_o, const floatX *q,
                            const floatX *k, const floatX *v, size_t v_stride, const float *lse,
                            const float *delta, size_t rows, int T, int NH, int NKV, int HS) {
    const size_t row = row_number();
    if (row >= rows) { return; }
    const int g = row % NKV, j = row / NKV % T, group = NH / NKV;
    const size_t b = row / NKV / T, token = b * T + j;
    const float scale = 1.0f / sqrtf((float)HS);
    float k_j[N], v_j[N], dk_j[N] = {0.0f}, dv_j[N] = {0.0f};
    load_row<N>(k_j, k + row * HS, HS);
    load_row<N>(v_j, v + token * v_stride + g * HS, HS);
    for (int h = g * group; h < (g + 1) * group; h++) {
        for (int i = j; i < T; i++) {
            const size_t query = ((b * T + i) * NH + h) * HS, statistic = (b * NH + h) * T + i;
            float q_i[N], do_i[N];
            load_row<N>(q_i, q + query, HS);
            load_row<N>(do_i, d_o + query, HS);
            const float p = expf(dot<N>(q_i, k_j) * scale - lse[statistic]);
            const float ds = p * (dot<N>(do_i, v_j) - delta[statistic]);
            for (int n = 0; n < N; n++) {
                dk_j[n] += ds * q_i[n];
                dv_j[n] += p * do_i[n];
            }
        }
    }
    store_row<N>(dk + row * HS, dk_j, scale, HS);
    store_row<N>(dv + token * dv_stride + g * HS, dv_j, 1.0f, HS);
}

// Calls launch(Width<N>()) with N = HS / 32, rounded up.
template <typename Launch>
static void by_head_size(Launch launch, size_t HS) {
    switch ((HS + WARP - 1) / WARP) {
    case 1: launch(Width<1>()); break;
    case 2: launch(Width<2>()); break;
    case 3: launch(Width<3>()); break;
    case 4: launch(Width<4>()); break;
    case 5: launch(Width<5>()); break;
    case 6: launch(Width<6>()); break;
    case 7: launch(Width<7>()); break;
    case 8: launch(Width<8>()); break;
    default: cuda_stop("attention takes heads of up to 256 channels", __FILE__, __LINE__);
    }
}

static void attention_plain_forward(floatX *o, float *lse, const floatX *q, const floatX *k, const floatX *v,
                                    size_t v_stride, const Piece *pieces, size_t B, size_t T, size_t page_T,
                                    size_t NH, size_t NKV, size_t HS) {
    const dim3 grid(divide_up(T * NH, ATTENTION_WARPS), B);
    by_head_size(
        [&](auto width) {
            constexpr int N = decltype(width)::value;
            attention_plain_forward_kernel<N><<<grid, ATTENTION_THREADS>>>(  //
                o, lse, q, k, v, v_stride, pieces, T, page_T, NH, NKV, HS);
            LAUNCH_CHECK();
        },
        HS);
}

static void attention_plain_backward(floatX *dq, floatX *dk, floatX *dv, size_t dv_stride, float *delta,
                                     const floatX *d_o, const floatX *q, const floatX *k, const floatX *v,
                                     size_t v_stride, const floatX *o, const float *lse, size_t B, size_t T,
                                     size_t NH, size_t NKV, size_t HS) {
    const size_t query_rows = B * T * NH, key_rows = B * T * NKV;
    const size_t query_blocks = divide_up(query_rows, ATTENTION_WARPS);
    const size_t key_blocks = divide_up(key_rows, ATTENTION_WARPS);
    by_head_size(
        [&](auto width) {
            constexpr int N = decltype(width)::value;
            attention_plain_dq_kernel<N><<<query_blocks, ATTENTION_THREADS>>>(
                dq, delta, d_o, q, k, v, v_stride, o, lse, query_rows, T, NH, NKV, HS);
            LAUNCH_CHECK();
            attention_plain_dkdv_kernel<N><<<key_blocks, ATTENTION_THREADS>>>(
                dk, dv, dv_stride, d_o, q, k, v, v_stride, lse, delta, key_rows, T, NH, NKV, HS);
            LAUNCH_CHECK();
        },
        HS);
}

#ifndef PRECISION_FP32

// ---- tiles of bf16 in shared memory
//
// A tile is a few rows of one head, HS elements each, in chunks of 16 bytes. Shared memory has 32 banks of 4
// bytes. It serves 8 lanes at once, one chunk each, if the chunks are in 8 different groups of 4 banks. In
// plain row order, chunk c of row r is in group (r HS / 8 + c) mod 8. If HS is a multiple of 64, this is c
// mod 8 for every row: the 8 rows of a matrix, which are read together, would conflict. So chunks are
// permuted within their row (a swizzle): to c xor (r mod 8). If HS is 96, the group is 12 r + c mod 8, which
// alternates between c and c + 4, and permuting within fours is enough: c xor (r / 2 mod 4). Either way the
// same chunk of 8 rows, and also 8 neighbouring chunks of one row, are in 8 groups.

template <int HS>
constexpr int SWIZZLE = HS % 64 == 0 ? 8 : 4;  // chunks that are permuted among each other

// The element at which chunk c of row r begins.
template <int HS>
__device__ __forceinline__ int tile_place(int r, int c) {
    return r * HS + (c ^ (r / (8 / SWIZZLE<HS>) % SWIZZLE<HS>)) * 8;
}

// Begins to copy rows first, first + 1, ... of a head to a tile. All threads take part, 16 bytes at a time.
// Rows from T on become zeros.
template <int HS, int ROWS>
__device__ __forceinline__ void copy_tile(bf16 *tile, const bf16 *head, size_t stride, int first, int T) {
    const int r0 = threadIdx.x / SWIZZLE<HS>, c0 = threadIdx.x % SWIZZLE<HS>;
#pragma unroll
    for (int r = r0; r < r0 + ROWS; r += ATTENTION_THREADS / SWIZZLE<HS>) {
        const bf16 *row = head + (size_t)(first + r) * stride;
#pragma unroll
        for (int c = c0; c < c0 + HS / 8; c += SWIZZLE<HS>) {
            copy_async(tile + tile_place<HS>(r, c), row + c * 8, first + r < T);
        }
    }
}

// The address that this lane passes to load_matrices for the 16 x 16 block of a tile at (r, 16 k). The block
// is one A operand or two B operands. An operand's registers must be neighbours, so the order in which the
// four 8 x 8 matrices are loaded depends on the operand:
//   DOWN    0 2    ACROSS  0 1
//           1 3            2 3
enum BlockOrder { DOWN, ACROSS };

template <int HS, BlockOrder order>
__device__ __forceinline__ const bf16 *block_row(const bf16 *tile, int r, int k) {
    const int lane = lane_number(), slow = lane / 16, fast = lane / 8 % 2;
    return tile + tile_place<HS>(r + 8 * (order == DOWN ? fast : slow) + lane % 8,
                                 2 * k + (order == DOWN ? slow : fast));
}

// c (16 M, N) += a b^T over 16 columns: a holds M blocks of 16 x 16, and b is columns 16 k to 16 k + 15 of N
// rows of a tile. A column of b^T is a row of the tile, so an 8 x 8 matrix of the tile is half a B operand
// without being transposed.
template <int HS, int M, int N>
__device__ __forceinline__ void multiply_rows(float c[M][N / 8][4], const uint32_t a[M][4], const bf16 *tile,
                                              int k) {
#pragma unroll
    for (int n = 0; n < N / 16; n++) {
        uint32_t b[4];
        load_matrices(b, block_row<HS, ACROSS>(tile, 16 * n, k));
#pragma unroll
        for (int m = 0; m < M; m++) {
            mma_16x8x16(c[m][2 * n], a[m], b);
            mma_16x8x16(c[m][2 * n + 1], a[m], b + 2);
        }
    }
}

// c (16 M, HS) += p b: p (16 M, K) is in registers, as a product left it, and b is K rows of a tile. A lane
// holds the same elements of a C operand as it needs of an A operand, so p only has to be rounded. b is
// loaded transposed.
template <int HS, int M, int K>
__device__ __forceinline__ void multiply_columns(float c[M][HS / 8][4], const float p[M][K / 8][4],
                                                 const bf16 *tile) {
#pragma unroll
    for (int k = 0; k < K / 16; k++) {
        uint32_t a[M][4];
#pragma unroll
        for (int m = 0; m < M; m++) {
            a[m][0] = pack_bf16(p[m][2 * k][0], p[m][2 * k][1]);
            a[m][1] = pack_bf16(p[m][2 * k][2], p[m][2 * k][3]);
            a[m][2] = pack_bf16(p[m][2 * k + 1][0], p[m][2 * k + 1][1]);
            a[m][3] = pack_bf16(p[m][2 * k + 1][2], p[m][2 * k + 1][3]);
        }
#pragma unroll
        for (int n = 0; n < HS / 16; n++) {
            uint32_t b[4];
            load_matrices_transposed(b, block_row<HS, DOWN>(tile, 16 * k, n));
#pragma unroll
            for (int m = 0; m < M; m++) {
                mma_16x8x16(c[m][2 * n], a[m], b);
                mma_16x8x16(c[m][2 * n + 1], a[m], b + 2);
            }
        }
    }
}

// c (16 M, HS) times scale -> rows first, first + 1, ... of a head, up to T. A lane's elements are scattered
// in pieces of 4 bytes. They go through 16 M rows of shared memory that belong to this warp, so global memory
// is written 16 bytes at a time.
template <int HS, int M>
__device__ __forceinline__ void store_rows(bf16 *head, size_t stride, int first, int T, bf16 *tile,
                                           const float c[M][HS / 8][4], const float scale[M][2]) {
    const int lane = lane_number();
    __syncwarp();
#pragma unroll
    for (int m = 0; m < M; m++) {
#pragma unroll
        for (int n = 0; n < HS / 8; n++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int r = 16 * m + 8 * half + lane / 4;
                const uint32_t pair =
                    pack_bf16(c[m][n][2 * half] * scale[m][half], c[m][n][2 * half + 1] * scale[m][half]);
                *(uint32_t *)(tile + tile_place<HS>(r, n) + lane % 4 * 2) = pair;
            }
        }
    }
    __syncwarp();
    const int r0 = lane / SWIZZLE<HS>, c0 = lane % SWIZZLE<HS>;
    for (int r = r0; r < 16 * M && first + r < T; r += WARP / SWIZZLE<HS>) {
        for (int i = c0; i < HS / 8; i += SWIZZLE<HS>) {
            store<WIDE>(head + (size_t)(first + r) * stride + i * 8, load<WIDE>(tile + tile_place<HS>(r, i)));
        }
    }
}

// The two bf16 of a register.
__device__ __forceinline__ float2 unpack_bf16(uint32_t bits) {
    __nv_bfloat162 pair;
    memcpy(&pair, &bits, sizeof pair);
    return __bfloat1622float2(pair);
}

// Over the four lanes that hold a row of a C operand.
__device__ __forceinline__ float quad_sum(float x) {
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

__device__ __forceinline__ float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

// The causal mask: sets the scores of later keys to -infinity, so their e^s is 0. The rows of s (16 M, N) are
// queries from `first` on and its columns keys from `column` on, or the other way round if it is TRANSPOSED.
template <bool TRANSPOSED, int M, int N>
__device__ __forceinline__ void hide_later_keys(float s[M][N / 8][4], int first, int column) {
    const int lane = lane_number();
#pragma unroll
    for (int m = 0; m < M; m++) {
#pragma unroll
        for (int n = 0; n < N / 8; n++) {
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const int r = first + 16 * m + lane / 4 + e / 2 * 8,
                          c = column + 8 * n + lane % 4 * 2 + e % 2;
                if (TRANSPOSED ? r > c : c > r) { s[m][n][e] = -INFINITY; }
            }
        }
    }
}

// e^x = 2^(x log2(e)), and the hardware computes powers of 2: log2(e) is folded into the scale of the scores.
constexpr float LOG2_E = 1.44269504f, LN_2 = 0.69314718f;

// ---- forward
//
// A block takes QUERIES rows of a head, a warp 16 M of them, and walks over the keys, KEYS at a time. The
// values of a tile are copied while s = q k^T is computed, and the next keys while p v is. The blocks with
// the most keys start first, so no long block runs alone at the end. blockIdx.z is the piece, whose rows are
// numbered from 0.

template <int HS, int QUERIES, int KEYS>
__global__ static void __launch_bounds__(ATTENTION_THREADS, 2)
    attention_forward_kernel(bf16 *o, float *lse, const bf16 *q, const bf16 *k, const bf16 *v,
                             size_t v_stride, const Piece *pieces, int T, size_t page_T, int NH, int NKV) {
    constexpr int M = QUERIES / 16 / ATTENTION_WARPS;
    extern __shared__ __align__(128) unsigned char shared[];
    bf16 *queries = (bf16 *)shared, *keys = queries + QUERIES * HS, *values = keys + KEYS * HS;
    const int warp = warp_number(), lane = lane_number();
    const int i0 = (gridDim.x - 1 - blockIdx.x) * QUERIES, h = blockIdx.y, g = h / (NH / NKV);
    const size_t Q = (size_t)NH * HS, KV = (size_t)NKV * HS;
    const float scale = LOG2_E / sqrtf((float)HS);
    const Piece piece = piece_at(pieces, blockIdx.z, T);
    const int count = piece.count, past = piece.position;
    if (i0 >= count) { return; }
    q += piece.row * Q + h * HS;
    o += piece.row * Q + h * HS;
    k += piece.page * page_T * KV + g * HS;
    v += piece.page * page_T * v_stride + g * HS;

    bf16 *own = queries + warp * 16 * M * HS;  // the rows of this warp
    const int first = i0 + warp * 16 * M, row = first + lane / 4;
    float mean[M][HS / 8][4] = {}, max[M][2], sum[M][2];
#pragma unroll
    for (int m = 0; m < M; m++) {
        max[m][0] = max[m][1] = -INFINITY;
        sum[m][0] = sum[m][1] = 0.0f;
    }
    const int end = past + min(i0 + QUERIES, count);  // of the keys that the block sees
    const int own_end = first < count ? min(past + first + 16 * M, end) : 0;  // those that this warp sees
    copy_tile<HS, QUERIES>(queries, q, Q, i0, count);
    copy_tile<HS, KEYS>(keys, k, KV, 0, end);
    copy_async_commit();
    for (int j0 = 0; j0 < end; j0 += KEYS) {
        const bool visible = j0 < own_end;
        float s[M][KEYS / 8][4] = {};
        copy_async_wait<0>();
        __syncthreads();  // the keys have arrived, and all warps are done with the previous values
        copy_tile<HS, KEYS>(values, v, v_stride, j0, end);
        copy_async_commit();
        if (visible) {
#pragma unroll
            for (int k16 = 0; k16 < HS / 16; k16++) {
                uint32_t a[M][4];
#pragma unroll
                for (int m = 0; m < M; m++) { load_matrices(a[m], block_row<HS, DOWN>(own, 16 * m, k16)); }
                multiply_rows<HS, M, KEYS>(s, a, keys, k16);
            }
            if (j0 + KEYS - 1 > past + first) { hide_later_keys<false, M, KEYS>(s, past + first, j0); }
#pragma unroll
            for (int m = 0; m < M; m++) {
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    float largest = max[m][half];
#pragma unroll
                    for (int n = 0; n < KEYS / 8; n++) {
                        largest = fmaxf(largest, fmaxf(s[m][n][2 * half], s[m][n][2 * half + 1]));
                    }
                    largest = quad_max(largest);
                    const float factor = exp2_fast((max[m][half] - largest) * scale);
                    max[m][half] = largest;
                    sum[m][half] *= factor;
#pragma unroll
                    for (int n = 0; n < HS / 8; n++) {
                        mean[m][n][2 * half] *= factor;
                        mean[m][n][2 * half + 1] *= factor;
                    }
#pragma unroll
                    for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
                        for (int e = 2 * half; e < 2 * half + 2; e++) {
                            s[m][n][e] = exp2_fast(s[m][n][e] * scale - largest * scale);
                            sum[m][half] += s[m][n][e];
                        }
                    }
                }
            }
        }
        copy_async_wait<0>();
        __syncthreads();  // the values have arrived, and all warps are done with the keys
        if (j0 + KEYS < end) { copy_tile<HS, KEYS>(keys, k, KV, j0 + KEYS, end); }
        copy_async_commit();
        if (visible) { multiply_columns<HS, M, KEYS>(mean, s, values); }
    }
#pragma unroll
    for (int m = 0; m < M; m++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const float total = quad_sum(sum[m][half]);
            const int i = row + 16 * m + 8 * half;
            if (lane % 4 == 0 && i < count && pieces == nullptr) {
                lse[((size_t)blockIdx.z * NH + h) * T + i] = (max[m][half] * scale + log2f(total)) * LN_2;
            }
            sum[m][half] = 1.0f / total;
        }
    }
    store_rows<HS, M>(o, Q, first, count, own, mean, sum);
}

// ---- backward by queries
//
// A block takes QUERIES rows of a head. Its q and do stay in registers for the whole loop, as A operands; D
// comes from do and o in the same layout. Keys and values are double-buffered: one tile is used, STEP rows at
// a time, while the next arrives.

template <int HS, int QUERIES, int KEYS, int STEP>
__global__ static void __launch_bounds__(ATTENTION_THREADS, 2)
    attention_backward_dq_kernel(bf16 *dq, float *delta, const bf16 *d_o, const bf16 *q, const bf16 *k,
                                 const bf16 *v, size_t v_stride, const bf16 *o, const float *lse, int T,
                                 int NH, int NKV) {
    constexpr int M = QUERIES / 16 / ATTENTION_WARPS;
    extern __shared__ __align__(128) unsigned char shared[];
    bf16 *tiles = (bf16 *)shared;
    const int warp = warp_number(), lane = lane_number();
    const int i0 = (gridDim.x - 1 - blockIdx.x) * QUERIES, h = blockIdx.y, g = h / (NH / NKV);
    const size_t b = blockIdx.z, Q = (size_t)NH * HS, KV = (size_t)NKV * HS;
    const float scale = 1.0f / sqrtf((float)HS);
    q += b * T * Q + h * HS;
    o += b * T * Q + h * HS;
    d_o += b * T * Q + h * HS;
    k += b * T * KV + g * HS;
    v += b * T * v_stride + g * HS;
    lse += (b * NH + h) * T;
    delta += (b * NH + h) * T;

    bf16 *own = tiles + warp * 16 * M * HS;
    const int first = i0 + warp * 16 * M, row = first + lane / 4;
    copy_tile<HS, QUERIES>(tiles, q, Q, i0, T);
    copy_tile<HS, QUERIES>(tiles + QUERIES * HS, d_o, Q, i0, T);
    copy_tile<HS, QUERIES>(tiles + 2 * QUERIES * HS, o, Q, i0, T);
    copy_async_commit();
    copy_async_wait<0>();
    __syncthreads();
    uint32_t q_i[HS / 16][M][4], do_i[HS / 16][M][4];
    float lse_i[M][2], delta_i[M][2] = {};
#pragma unroll
    for (int k16 = 0; k16 < HS / 16; k16++) {
#pragma unroll
        for (int m = 0; m < M; m++) {
            uint32_t o_i[4];
            load_matrices(q_i[k16][m], block_row<HS, DOWN>(own, 16 * m, k16));
            load_matrices(do_i[k16][m], block_row<HS, DOWN>(own + QUERIES * HS, 16 * m, k16));
            load_matrices(o_i, block_row<HS, DOWN>(own + 2 * QUERIES * HS, 16 * m, k16));
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const float2 x = unpack_bf16(do_i[k16][m][e]), y = unpack_bf16(o_i[e]);
                delta_i[m][e % 2] += x.x * y.x + x.y * y.y;
            }
        }
    }
#pragma unroll
    for (int m = 0; m < M; m++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int i = row + 16 * m + 8 * half;
            lse_i[m][half] = i < T ? lse[i] * LOG2_E : INFINITY;
            delta_i[m][half] = quad_sum(delta_i[m][half]);
            if (lane % 4 == 0 && i < T) { delta[i] = delta_i[m][half]; }
        }
    }
    __syncthreads();  // all warps have loaded their rows, so the tiles can be overwritten

    bf16 *keys = tiles, *values = tiles + 2 * KEYS * HS;
    float dq_i[M][HS / 8][4] = {};
    copy_tile<HS, KEYS>(keys, k, KV, 0, T);
    copy_tile<HS, KEYS>(values, v, v_stride, 0, T);
    copy_async_commit();
    const int end = min(i0 + QUERIES, T);
    for (int j0 = 0; j0 < end; j0 += KEYS) {
        const int now = j0 / KEYS % 2 * KEYS * HS, next = KEYS * HS - now;
        copy_async_wait<0>();
        __syncthreads();  // this tile has arrived, and all warps are done with the previous one
        if (j0 + KEYS < end) {
            copy_tile<HS, KEYS>(keys + next, k, KV, j0 + KEYS, T);
            copy_tile<HS, KEYS>(values + next, v, v_stride, j0 + KEYS, T);
        }
        copy_async_commit();
#pragma unroll
        for (int step = 0; step < KEYS; step += STEP) {
            if (j0 + step >= first + 16 * M) { continue; }  // no row of this warp sees these keys
            const bf16 *k_j = keys + now + step * HS, *v_j = values + now + step * HS;
            float p[M][STEP / 8][4] = {}, dp[M][STEP / 8][4] = {};
#pragma unroll
            for (int c = 0; c < HS / 16; c++) { multiply_rows<HS, M, STEP>(p, q_i[c], k_j, c); }
#pragma unroll
            for (int c = 0; c < HS / 16; c++) { multiply_rows<HS, M, STEP>(dp, do_i[c], v_j, c); }
            if (j0 + step + STEP - 1 > first) { hide_later_keys<false, M, STEP>(p, first, j0 + step); }
#pragma unroll
            for (int m = 0; m < M; m++) {
#pragma unroll
                for (int n = 0; n < STEP / 8; n++) {
#pragma unroll
                    for (int e = 0; e < 4; e++) {
                        p[m][n][e] = exp2_fast(p[m][n][e] * (scale * LOG2_E) - lse_i[m][e / 2]);
                        p[m][n][e] *= dp[m][n][e] - delta_i[m][e / 2];  // ds
                    }
                }
            }
            multiply_columns<HS, M, STEP>(dq_i, p, k_j);
        }
    }
    float scales[M][2];
#pragma unroll
    for (int m = 0; m < M; m++) { scales[m][0] = scales[m][1] = scale; }
    __syncthreads();
    store_rows<HS, M>(dq + b * T * Q + h * HS, Q, first, T, own, dq_i, scales);
}

// ---- backward by keys
//
// A block takes KEYS rows of a key/value head, a warp 16 M of them, and walks over the queries that see them,
// QUERIES at a time, one query head of the group after the other. It computes the transposes
//   s^T = k q^T,  dp^T = v do^T
// because p^T and ds^T are the left operands of dv = p^T do and dk = ds^T q. As in the forward, one product's
// result is the next one's operand without leaving the registers, and warps exchange nothing. v stays in
// registers.

// The number that this thread loads of a tile's statistics: lse log2(e) in the first QUERIES threads, D in
// the next. A query from T on has lse = infinity, so p = 0.
template <int QUERIES>
__device__ __forceinline__ float statistic(const float *lse, const float *delta, int i0, int T) {
    const int i = i0 + threadIdx.x % QUERIES;
    if (threadIdx.x < QUERIES) { return i < T ? lse[i] * LOG2_E : INFINITY; }
    return threadIdx.x < 2 * QUERIES && i < T ? delta[i] : 0.0f;
}

template <int HS, int KEYS, int QUERIES, int STEP>
__global__ static void __launch_bounds__(ATTENTION_THREADS, 2)
    attention_backward_dkdv_kernel(bf16 *dk, bf16 *dv, size_t dv_stride, const bf16 *d_o, const bf16 *q,
                                   const bf16 *k, const bf16 *v, size_t v_stride, const float *lse,
                                   const float *delta, int T, int NH, int NKV) {
    constexpr int M = KEYS / 16 / ATTENTION_WARPS;
    extern __shared__ __align__(128) unsigned char shared[];
    bf16 *keys = (bf16 *)shared, *queries = keys + KEYS * HS, *d_outputs = queries + 2 * QUERIES * HS;
    float *statistics = (float *)(d_outputs + 2 * QUERIES * HS);  // (2, 2, QUERIES): lse log2(e), then delta
    const int warp = warp_number(), lane = lane_number();
    const int j0 = blockIdx.x * KEYS, g = blockIdx.y, group = NH / NKV;
    const size_t b = blockIdx.z, Q = (size_t)NH * HS, KV = (size_t)NKV * HS;
    const float scale = 1.0f / sqrtf((float)HS);
    q += b * T * Q + g * group * HS;
    d_o += b * T * Q + g * group * HS;
    k += b * T * KV + g * HS;
    v += b * T * v_stride + g * HS;
    lse += (b * NH + g * group) * T;
    delta += (b * NH + g * group) * T;

    bf16 *own = keys + warp * 16 * M * HS;
    const int first = j0 + warp * 16 * M;
    copy_tile<HS, KEYS>(keys, k, KV, j0, T);
    copy_tile<HS, KEYS>(queries, v, v_stride, j0, T);
    copy_async_commit();
    copy_async_wait<0>();
    __syncthreads();
    uint32_t v_j[HS / 16][M][4];
#pragma unroll
    for (int k16 = 0; k16 < HS / 16; k16++) {
#pragma unroll
        for (int m = 0; m < M; m++) {
            load_matrices(v_j[k16][m], block_row<HS, DOWN>(queries + warp * 16 * M * HS, 16 * m, k16));
        }
    }
    __syncthreads();

    float dk_j[M][HS / 8][4] = {}, dv_j[M][HS / 8][4] = {};
    copy_tile<HS, QUERIES>(queries, q, Q, j0, T);
    copy_tile<HS, QUERIES>(d_outputs, d_o, Q, j0, T);
    copy_async_commit();
    if (threadIdx.x < 2 * QUERIES) { statistics[threadIdx.x] = statistic<QUERIES>(lse, delta, j0, T); }
    int now = 0;
    for (int h = 0; h < group; h++) {
        for (int i0 = j0; i0 < T; i0 += QUERIES) {
            const int next = 1 - now, next_i0 = i0 + QUERIES < T ? i0 + QUERIES : j0;
            const int next_h = i0 + QUERIES < T ? h : h + 1;
            float next_statistic = 0.0f;
            copy_async_wait<0>();
            __syncthreads();  // this tile has arrived, and all warps are done with the previous one
            if (next_h < group) {
                copy_tile<HS, QUERIES>(queries + next * QUERIES * HS, q + next_h * HS, Q, next_i0, T);
                copy_tile<HS, QUERIES>(d_outputs + next * QUERIES * HS, d_o + next_h * HS, Q, next_i0, T);
                const size_t head = (size_t)next_h * T;
                next_statistic = statistic<QUERIES>(lse + head, delta + head, next_i0, T);
            }
            copy_async_commit();
            const float *lse_i = statistics + now * 2 * QUERIES, *delta_i = lse_i + QUERIES;
#pragma unroll
            for (int step = 0; step < QUERIES; step += STEP) {
                if (i0 + step + STEP <= first) { continue; }
                const bf16 *q_i = queries + (now * QUERIES + step) * HS,
                           *do_i = d_outputs + (now * QUERIES + step) * HS;
                float p[M][STEP / 8][4] = {}, dp[M][STEP / 8][4] = {};
#pragma unroll
                for (int k16 = 0; k16 < HS / 16; k16++) {
                    uint32_t a[M][4];
#pragma unroll
                    for (int m = 0; m < M; m++) {
                        load_matrices(a[m], block_row<HS, DOWN>(own, 16 * m, k16));
                    }
                    multiply_rows<HS, M, STEP>(p, a, q_i, k16);
                }
                if (i0 + step < first + 16 * M - 1) { hide_later_keys<true, M, STEP>(p, first, i0 + step); }
#pragma unroll
                for (int m = 0; m < M; m++) {
#pragma unroll
                    for (int c = 0; c < STEP / 8; c++) {
#pragma unroll
                        for (int e = 0; e < 4; e++) {
                            const float lse_c = lse_i[step + 8 * c + lane % 4 * 2 + e % 2];
                            p[m][c][e] = exp2_fast(p[m][c][e] * (scale * LOG2_E) - lse_c);
                        }
                    }
                }
                multiply_columns<HS, M, STEP>(dv_j, p, do_i);
#pragma unroll
                for (int k16 = 0; k16 < HS / 16; k16++) {
                    multiply_rows<HS, M, STEP>(dp, v_j[k16], do_i, k16);
                }
#pragma unroll
                for (int m = 0; m < M; m++) {
#pragma unroll
                    for (int c = 0; c < STEP / 8; c++) {
#pragma unroll
                        for (int e = 0; e < 4; e++) {
                            p[m][c][e] *= dp[m][c][e] - delta_i[step + 8 * c + lane % 4 * 2 + e % 2];
                        }
                    }
                }
                multiply_columns<HS, M, STEP>(dk_j, p, q_i);
            }
            if (threadIdx.x < 2 * QUERIES) { statistics[next * 2 * QUERIES + threadIdx.x] = next_statistic; }
            now = next;
        }
    }
    float scales[M][2], ones[M][2];
#pragma unroll
    for (int m = 0; m < M; m++) {
        scales[m][0] = scales[m][1] = scale;
        ones[m][0] = ones[m][1] = 1.0f;
    }
    store_rows<HS, M>(dk + b * T * KV + g * HS, KV, first, T, own, dk_j, scales);
    store_rows<HS, M>(dv + b * T * dv_stride + g * HS, dv_stride, first, T, own, dv_j, ones);
}

// ---- launches

template <int HS>
static void attention_tiled_forward(bf16 *o, float *lse, const bf16 *q, const bf16 *k, const bf16 *v,
                                    size_t v_stride, const Piece *pieces, size_t B, size_t T, size_t page_T,
                                    size_t NH, size_t NKV) {
    constexpr int QUERIES = 128, KEYS = HS == 128 ? 32 : 64;
    constexpr size_t shared_bytes = (QUERIES + 2 * KEYS) * HS * sizeof(bf16);
    const dim3 grid(divide_up(T, QUERIES), NH, B);
    allow_shared(attention_forward_kernel<HS, QUERIES, KEYS>, shared_bytes);
    attention_forward_kernel<HS, QUERIES, KEYS><<<grid, ATTENTION_THREADS, shared_bytes>>>(  //
        o, lse, q, k, v, v_stride, pieces, T, page_T, NH, NKV);
    LAUNCH_CHECK();
}

template <int HS>
static void attention_tiled_backward(bf16 *dq, bf16 *dk, bf16 *dv, size_t dv_stride, float *delta,
                                     const bf16 *d_o, const bf16 *q, const bf16 *k, const bf16 *v,
                                     size_t v_stride, const bf16 *o, const float *lse, size_t B, size_t T,
                                     size_t NH, size_t NKV) {
    {
        constexpr int QUERIES = HS == 64 ? 128 : 64, KEYS = HS == 128 ? 32 : 64, STEP = 16;
        constexpr int rows = 3 * QUERIES > 4 * KEYS ? 3 * QUERIES : 4 * KEYS;
        constexpr size_t shared_bytes = rows * HS * sizeof(bf16);
        const dim3 grid(divide_up(T, QUERIES), NH, B);
        allow_shared(attention_backward_dq_kernel<HS, QUERIES, KEYS, STEP>, shared_bytes);
        attention_backward_dq_kernel<HS, QUERIES, KEYS, STEP><<<grid, ATTENTION_THREADS, shared_bytes>>>(
            dq, delta, d_o, q, k, v, v_stride, o, lse, T, NH, NKV);
        LAUNCH_CHECK();
    }
    {
        constexpr int KEYS = HS == 64 ? 128 : 64, QUERIES = 32, STEP = HS == 64 ? 16 : 32;
        constexpr size_t shared_bytes =
            (KEYS + 4 * QUERIES) * HS * sizeof(bf16) + 4 * QUERIES * sizeof(float);
        const dim3 grid(divide_up(T, KEYS), NKV, B);
        allow_shared(attention_backward_dkdv_kernel<HS, KEYS, QUERIES, STEP>, shared_bytes);
        attention_backward_dkdv_kernel<HS, KEYS, QUERIES, STEP><<<grid, ATTENTION_THREADS, shared_bytes>>>(
            dk, dv, dv_stride, d_o, q, k, v, v_stride, lse, delta, T, NH, NKV);
        LAUNCH_CHECK();
    }
}
#endif

// The forward of B pieces of up to T tokens, or of a batch (B, T) if pieces is nullptr. The tiled kernels
// need bf16, heads of 64, 96 or 128, and rows that begin at multiples of 16 bytes; everything else takes the
// plain ones.
static void attention_of_pieces(floatX *o, float *lse, const floatX *q, const floatX *k, const floatX *v,
                                size_t v_stride, const Piece *pieces, size_t B, size_t T, size_t page_T,
                                size_t NH, size_t NKV, size_t HS) {
#ifndef PRECISION_FP32
    if (v_stride % WIDE == 0) {
        switch (HS) {
        case 64:
            attention_tiled_forward<64>(o, lse, q, k, v, v_stride, pieces, B, T, page_T, NH, NKV);
            return;
        case 96:
            attention_tiled_forward<96>(o, lse, q, k, v, v_stride, pieces, B, T, page_T, NH, NKV);
            return;
        case 128:
            attention_tiled_forward<128>(o, lse, q, k, v, v_stride, pieces, B, T, page_T, NH, NKV);
            return;
        default: break;
        }
    }
#endif
    attention_plain_forward(o, lse, q, k, v, v_stride, pieces, B, T, page_T, NH, NKV, HS);
}

// q (B, T, NH, HS), k (B, T, NKV, HS), v the same with v_stride elements from token to token -> o (B, T, NH,
// HS), lse (B, NH, T), kept for the backward.
static void attention_forward(floatX *o, float *lse, const floatX *q, const floatX *k, const floatX *v,
                              size_t v_stride, size_t B, size_t T, size_t NH, size_t NKV, size_t HS) {
    attention_of_pieces(o, lse, q, k, v, v_stride, nullptr, B, T, T, NH, NKV, HS);
}

// d_o (B, T, NH, HS), and q, k, v, o, lse of the forward -> dq (B, T, NH, HS), dk and dv (B, T, NKV, HS), all
// assigned; dv has dv_stride elements from token to token. delta (B, NH, T) is scratch.
static void attention_backward(floatX *dq, floatX *dk, floatX *dv, size_t dv_stride, float *delta,
                               const floatX *d_o, const floatX *q, const floatX *k, const floatX *v,
                               size_t v_stride, const floatX *o, const float *lse, size_t B, size_t T,
                               size_t NH, size_t NKV, size_t HS) {
#ifndef PRECISION_FP32
    if (v_stride % WIDE == 0 && dv_stride % WIDE == 0) {
        switch (HS) {
        case 64:
            attention_tiled_backward<64>(dq, dk, dv, dv_stride, delta, d_o, q, k, v, v_stride, o, lse, B, T,
                                         NH, NKV);
            return;
        case 96:
            attention_tiled_backward<96>(dq, dk, dv, dv_stride, delta, d_o, q, k, v, v_stride, o, lse, B, T,
                                         NH, NKV);
            return;
        case 128:
            attention_tiled_backward<128>(dq, dk, dv, dv_stride, delta, d_o, q, k, v, v_stride, o, lse, B, T,
                                          NH, NKV);
            return;
        default: break;
        }
    }
#endif
    attention_plain_backward(dq, dk, dv, dv_stride, delta, d_o, q, k, v, v_stride, o, lse, B, T, NH, NKV, HS);
}

// ---- with a cache: attention_forward for pieces of sequences whose past keys and values are known
//
// A piece of one token, as in decoding, has a kernel of its own: its keys and values are read once, by nobody
// else, so memory is the limit. A block takes a head of a sequence. Its warps take turns at the keys, DECODE_KEYS at a time, so that many
// loads are in flight at once. At the end one warp merges the warps' results, in their order.

enum { DECODE_WARPS = 16, DECODE_KEYS = 4 };

template <int N>
__global__ static void attention_decode_kernel(floatX *o, const floatX *q, const floatX *keys,
                                               const floatX *values, const Piece *pieces, size_t page_T,
                                               int NH, int NKV, int HS) {
    extern __shared__ __align__(128) unsigned char shared[];
    float *partial = (float *)shared;  // (DECODE_WARPS, 2 + 32 N): max, sum and mean of each warp
    const int warp = warp_number(), lane = lane_number(), width = 2 + WARP * N;
    const Piece piece = pieces[blockIdx.x];
    const size_t i = piece.row, h = blockIdx.y, g = h / (NH / NKV), KV = (size_t)NKV * HS;
    const float scale = 1.0f / sqrtf((float)HS);
    const int position = piece.position;
    keys += piece.page * page_T * KV + g * HS;
    values += piece.page * page_T * KV + g * HS;
    float q_h[N];
    load_row<N>(q_h, q + (i * NH + h) * HS, HS);
    Softmax<N> softmax = softmax_of_nothing<N>();
    for (int j0 = warp * DECODE_KEYS; j0 <= position; j0 += DECODE_WARPS * DECODE_KEYS) {
        float k_j[DECODE_KEYS][N];
        Softmax<N> one[DECODE_KEYS];
        for (int n = 0; n < DECODE_KEYS; n++) {
            const size_t j = min(j0 + n, position);  // later ones get weight 0 below
            load_row<N>(k_j[n], keys + j * KV, HS);
            load_row<N>(one[n].mean, values + j * KV, HS);
        }
        for (int n = 0; n < DECODE_KEYS; n++) {
            const float s = dot<N>(q_h, k_j[n]) * scale;
            one[n].max = j0 + n <= position ? s : -INFINITY;
            one[n].sum = 1.0f;
            softmax_add<N>(softmax, one[n]);
        }
    }
    if (lane == 0) {
        partial[warp * width] = softmax.max;
        partial[warp * width + 1] = softmax.sum;
    }
    for (int n = 0; n < N; n++) { partial[warp * width + 2 + n * WARP + lane] = softmax.mean[n]; }
    __syncthreads();
    if (warp > 0) { return; }
    for (int w = 1; w < DECODE_WARPS; w++) {
        Softmax<N> other;
        other.max = partial[w * width];
        other.sum = partial[w * width + 1];
        for (int n = 0; n < N; n++) { other.mean[n] = partial[w * width + 2 + n * WARP + lane]; }
        softmax_add<N>(softmax, other);
    }
    store_row<N>(o + (i * NH + h) * HS, softmax.mean, 1.0f / softmax.sum, HS);
}

// The first n pieces, each of one token.
static void attention_decode(floatX *o, const floatX *q, const floatX *keys, const floatX *values,
                             const Piece *pieces, size_t n, size_t page_T, size_t NH, size_t NKV, size_t HS) {
    const dim3 grid(n, NH);
    by_head_size(
        [&](auto width) {
            constexpr int N = decltype(width)::value;
            constexpr size_t bytes = DECODE_WARPS * (2 + WARP * N) * sizeof(float);
            attention_decode_kernel<N><<<grid, DECODE_WARPS * WARP, bytes>>>(  //
                o, q, keys, values, pieces, page_T, NH, NKV, HS);
            LAUNCH_CHECK();
        },
        HS);
}

// The pieces of a batch, those of one token first.
typedef struct {
    const Piece *pieces;   // on the device
    size_t count, single;  // all, and those of one token
    size_t longest;        // tokens of the longest
} Pieces;

// q (rows, NH, HS), keys and values (pages, page_T, NKV, HS), with the pieces' own in place -> o (rows, NH,
// HS). A query sees the keys of its page up to its own position.
static void attention_cached(floatX *o, const floatX *q, const floatX *keys, const floatX *values, Pieces p,
                             size_t page_T, size_t NH, size_t NKV, size_t HS) {
    if (p.single > 0) { attention_decode(o, q, keys, values, p.pieces, p.single, page_T, NH, NKV, HS); }
    if (p.single < p.count) {
        attention_of_pieces(o, nullptr, q, keys, values, NKV * HS, p.pieces + p.single, p.count - p.single,
                            p.longest, page_T, NH, NKV, HS);
    }
}

template <int W>
__global__ static void cache_append_kernel(floatX *keys, floatX *values, const floatX *k, const floatX *v,
                                           size_t v_stride, const Piece *pieces, size_t page_T, int KV) {
    const Piece piece = pieces[blockIdx.y];
    if (blockIdx.x >= piece.count) { return; }
    const size_t row = piece.row + blockIdx.x;
    const size_t at = (piece.page * page_T + piece.position + blockIdx.x) * KV;
    for (int c = (int)threadIdx.x * W; c < KV; c += (int)blockDim.x * W) {
        store(keys + at + c, load<W>(k + row * KV + c));
        store(values + at + c, load<W>(v + row * v_stride + c));
    }
}

// k (rows, KV), v (rows, KV) in rows of v_stride -> where their pieces' pages of keys and values continue
static void cache_append(floatX *keys, floatX *values, const floatX *k, const floatX *v, size_t v_stride,
                         Pieces p, size_t page_T, size_t KV) {
    const dim3 grid(p.longest, p.count);
    by_width(
        [&](auto width) {
            cache_append_kernel<width.value>
                <<<grid, 128>>>(keys, values, k, v, v_stride, p.pieces, page_T, KV);
        },
        KV, v_stride);
    LAUNCH_CHECK();
}

// ---------------------------------------------------------------------------------------------
// SwiGLU: a = silu(gate) * up, silu(z) = z sigmoid(z), sigmoid(z) = 1 / (1 + e^-z). One product computes gate
// and up: a row of gate_up (N, 2F) is gate's F numbers, then up's.
//          on paper: dev/doc/swiglu.md    tested: check_swiglu in dev/test/test_cuda_kernels.cu

__device__ static inline float swiglu(float gate, float up) { return gate / (1.0f + expf(-gate)) * up; }

template <int W>
__global__ static void swiglu_forward_kernel(floatX *a, const floatX *gate_up, int F) {
    const size_t n = blockIdx.x;
    const floatX *gate = gate_up + n * 2 * F, *up = gate + F;
    for (int i = (int)threadIdx.x * W; i < F; i += (int)blockDim.x * W) {
        const Vec<floatX, W> gate_i = load<W>(gate + i), up_i = load<W>(up + i);
        Vec<floatX, W> a_i;
        for (int k = 0; k < W; k++) { a_i[k] = (floatX)swiglu((float)gate_i[k], (float)up_i[k]); }
        store(a + n * F + i, a_i);
    }
}

enum { SWIGLU_THREADS = 256 };

// gate_up (N, 2F) -> a (N, F)
static void swiglu_forward(floatX *a, const floatX *gate_up, size_t N, size_t F) {
    by_width([&](auto width) { swiglu_forward_kernel<width.value><<<N, SWIGLU_THREADS>>>(a, gate_up, F); },
             F);
    LAUNCH_CHECK();
}

template <int W>
__global__ static void swiglu_backward_kernel(floatX *dgate_up, floatX *a, const floatX *da,
                                              const floatX *gate_up, int F) {
    const size_t n = blockIdx.x;
    const floatX *gate = gate_up + n * 2 * F, *up = gate + F;
    floatX *dgate = dgate_up + n * 2 * F, *dup = dgate + F;
    for (int i = (int)threadIdx.x * W; i < F; i += (int)blockDim.x * W) {
        const Vec<floatX, W> gate_i = load<W>(gate + i), up_i = load<W>(up + i),
                             da_i = load<W>(da + n * F + i);
        Vec<floatX, W> dgate_i, dup_i, a_i;
        for (int k = 0; k < W; k++) {
            const float z = (float)gate_i[k], sigma = 1.0f / (1.0f + expf(-z));
            dup_i[k] = (floatX)((float)da_i[k] * z * sigma);
            dgate_i[k] = (floatX)((float)da_i[k] * (float)up_i[k] * sigma * (1.0f + z * (1.0f - sigma)));
            a_i[k] = (floatX)swiglu(z, (float)up_i[k]);
        }
        store(dgate + i, dgate_i);
        store(dup + i, dup_i);
        if (a != nullptr) { store(a + n * F + i, a_i); }
    }
}

// da (N, F), gate_up (N, 2F) -> dgate_up (N, 2F) assigned, and a (N, F) recomputed unless it is nullptr; a
// may be da. a is a product, so dup = da silu(gate) and dgate = da up silu'(gate). With sigma =
// sigmoid(gate), whose derivative is sigma (1 - sigma),
//   silu' = sigma + gate sigma (1 - sigma) = sigma (1 + gate (1 - sigma))
static void swiglu_backward(floatX *dgate_up, floatX *a, const floatX *da, const floatX *gate_up, size_t N,
                            size_t F) {
    by_width(
        [&](auto width) {
            swiglu_backward_kernel<width.value><<<N, SWIGLU_THREADS>>>(dgate_up, a, da, gate_up, F);
        },
        F);
    LAUNCH_CHECK();
}

// ---------------------------------------------------------------------------------------------
// Classifier: cross-entropy and z-loss of rows of logits,
//   lse = log sum_j e^(logit_j),  log p(y) = logit_y - lse,  objective = sum_n w_n (-log p(y_n) + z lse_n^2)
// All V columns take part, including those that pad the vocabulary, as in OLMo 2's training.
//          on paper: dev/doc/classifier.md    tested: check_classifier in dev/test/test_cuda_kernels.cu

enum { CLASSIFIER_THREADS = 1024 };

// Threads for a row of V logits, W per thread: whole warps, and no more than the row needs.
static size_t classifier_threads(size_t V, int W) {
    const size_t threads = divide_up(divide_up(V, W), WARP) * WARP;
    return threads < CLASSIFIER_THREADS ? threads : CLASSIFIER_THREADS;
}

// A maximum and sum_j e^(x_j - max). Their logsumexp is max + log(sum).
typedef struct {
    float max, sum;
} LogSum;

// The union of two sets of numbers. The maximum of the empty set is -FLT_MAX, not -infinity: for x =
// -infinity, e^(x - max) is then 0 and not NaN. A NaN stays NaN. So both propagate as in train_olmo2.c.
__device__ static inline LogSum log_sum_join(LogSum a, LogSum b) {
    const float max = fmaxf(a.max, b.max);
    return LogSum{max, a.sum * expf(a.max - max) + b.sum * expf(b.max - max)};
}

// Of all numbers that the block's threads have seen, with the same bits in every thread.
__device__ static LogSum log_sum_of_block(LogSum mine) {
    __shared__ LogSum of_warps[WARP];
    for (int offset = WARP / 2; offset > 0; offset /= 2) {
        const LogSum other = {__shfl_xor_sync(0xffffffffu, mine.max, offset),
                              __shfl_xor_sync(0xffffffffu, mine.sum, offset)};
        mine = log_sum_join(mine, other);
    }
    if (lane_number() == 0) { of_warps[warp_number()] = mine; }
    __syncthreads();
    LogSum all = of_warps[0];
    for (int i = 1; i < (int)blockDim.x / WARP; i++) { all = log_sum_join(all, of_warps[i]); }
    return all;
}

// A block takes a row and reads it twice. The second pass starts at the end of the row, where the first one
// stopped: most of that is still in the L2 cache.
template <int W>
__global__ static void classifier_kernel(float *logprobs, float *lse, floatX *logits, const uint32_t *labels,
                                         const float *weights, float z, int V) {
    const size_t n = blockIdx.x;
    floatX *row = logits + n * V;
    const int step = (int)blockDim.x * W, mine = (int)threadIdx.x * W;
    LogSum seen = {-FLT_MAX, 0.0f};
    for (int j = mine; j < V; j += step) {
        const Vec<floatX, W> x = load<W>(row + j);
        LogSum block = {-FLT_MAX, 0.0f};
        for (int k = 0; k < W; k++) { block.max = fmaxf(block.max, (float)x[k]); }
        for (int k = 0; k < W; k++) { block.sum += expf((float)x[k] - block.max); }
        seen = log_sum_join(seen, block);
    }
    const LogSum all = log_sum_of_block(seen);
    const float lse_n = all.max + logf(all.sum);
    const uint32_t label = labels[n];
    if (threadIdx.x == 0) {
        lse[n] = lse_n;
        logprobs[n] = label == OLMO2_NO_TOKEN ? 0.0f : (float)row[label] - lse_n;
    }
    if (weights == nullptr) { return; }
    __syncthreads();  // no thread may overwrite the label's logit before it is read
    const float weight = weights[n], factor = weight * (1.0f + 2.0f * z * lse_n);
    const int last = (V - 1 - mine) / step;  // this thread's last round, if it has any
    for (int j = mine + (mine < V ? last : -1) * step; j >= mine; j -= step) {
        Vec<floatX, W> x = load<W>(row + j);
        for (int k = 0; k < W; k++) {
            const float dx = factor * expf((float)x[k] - lse_n);
            x[k] = (floatX)((uint32_t)(j + k) == label ? dx - weight : dx);
        }
        store(row + j, x);
    }
}

// logits (N, V), labels (N) -> logprobs, lse (N). A row without a label has logprob 0.
static void classifier_forward(float *logprobs, float *lse, floatX *logits, const uint32_t *labels, size_t N,
                               size_t V) {
    by_width(
        [&](auto width) {
            classifier_kernel<width.value>
                <<<N, classifier_threads(V, width.value)>>>(logprobs, lse, logits, labels, nullptr, 0.0f, V);
        },
        V);
    LAUNCH_CHECK();
}

// The forward; the same kernel also overwrites logits (N, V) with dlogits. Since dlse/dlogit_j = p_j =
// e^(logit_j - lse),
//   dlogit_j = w (p_j - [j = y] + 2 z lse p_j) = w (p_j (1 + 2 z lse) - [j = y])
static void classifier_forward_backward(float *logprobs, float *lse, floatX *logits, const uint32_t *labels,
                                        const float *weights, float z, size_t N, size_t V) {
    by_width(
        [&](auto width) {
            classifier_kernel<width.value>
                <<<N, classifier_threads(V, width.value)>>>(logprobs, lse, logits, labels, weights, z, V);
        },
        V);
    LAUNCH_CHECK();
}

// ---------------------------------------------------------------------------------------------
// AdamW (Loshchilov & Hutter 2019), with the order of operations of PyTorch
//          on paper: dev/doc/adamw.md    tested: check_adamw in dev/test/test_cuda_kernels.cu

// The constants of an update, computed once on the host.
typedef struct {
    float beta1, beta2, eps;
    float gradient_scale;
    float keep;          // 1 - lr wd
    float step_size;     // lr / (1 - beta1^t)
    float correction2;   // sqrt(1 - beta2^t)
    uint64_t t, tensor;  // seed the random bits of stochastic rounding
} AdamWStep;

// x rounded to the type of its array. `which` numbers a tensor's arrays, so that each has its own random
// bits.
__device__ static inline float rounded_to(const float *, float x, const AdamWStep &, size_t, int) {
    return x;
}
__device__ static inline bf16 rounded_to(const bf16 *, float x, const AdamWStep &s, size_t i, int which) {
    return round_stochastically(x, random_bits(s.t, 4 * s.tensor + (uint64_t)which, i));
}

enum { ADAMW_THREADS = 256, ADAMW_WIDTH = 4 };

// p (size) in floatX, and master (size) in fp32, or nullptr if p is the only copy. A thread takes ADAMW_WIDTH
// elements, 16 bytes in fp32, so the accesses of a warp are contiguous in every array.
template <typename G, typename M>
__global__ static void adamw_kernel(floatX *p, float *master, M *m, M *v, const G *g, size_t size,
                                    AdamWStep s) {
    const size_t i = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * ADAMW_WIDTH;
    if (i >= size) { return; }
    const Vec<G, ADAMW_WIDTH> g_i = load<ADAMW_WIDTH>(g + i);
    Vec<M, ADAMW_WIDTH> m_i = load<ADAMW_WIDTH>(m + i), v_i = load<ADAMW_WIDTH>(v + i);
    Vec<float, ADAMW_WIDTH> master_i;
    Vec<floatX, ADAMW_WIDTH> p_i;
    if (master != nullptr) {
        master_i = load<ADAMW_WIDTH>(master + i);
    } else {
        p_i = load<ADAMW_WIDTH>(p + i);
    }
    for (int k = 0; k < ADAMW_WIDTH; k++) {
        const float gradient = (float)g_i[k] * s.gradient_scale;
        float m_k = (float)m_i[k], v_k = (float)v_i[k], p_k = master != nullptr ? master_i[k] : (float)p_i[k];
        m_k += (1.0f - s.beta1) * (gradient - m_k);
        v_k = s.beta2 * v_k + (1.0f - s.beta2) * gradient * gradient;
        p_k = s.keep * p_k - s.step_size * m_k / (sqrtf(v_k) / s.correction2 + s.eps);
        m_i[k] = rounded_to(m, m_k, s, i + k, 1);
        v_i[k] = rounded_to(v, v_k, s, i + k, 2);
        master_i[k] = p_k;
        p_i[k] = master != nullptr ? (floatX)p_k : rounded_to(p, p_k, s, i + k, 0);
    }
    store(m + i, m_i);
    store(v + i, v_i);
    store(p + i, p_i);
    if (master != nullptr) { store(master + i, master_i); }
}

// One tensor; its size is padded to a multiple of 16 (parameters.h). g is the gradient (times gradient_scale,
// the clipping), m and v are the moving averages of g and g^2, and t is the number of this update, from 1:
//   p = (1 - lr wd) p,  m = m + (1 - beta1) (g - m),  v = beta2 v + (1 - beta2) g^2
//   p = p - lr / (1 - beta1^t) m / (sqrt(v) / sqrt(1 - beta2^t) + eps)
// A bf16 array without an fp32 copy is rounded stochastically.
static void adamw_update(floatX *p, float *master, Array m, Array v, Array g, size_t size,
                         const OLMo2AdamW *s, float weight_decay, size_t tensor) {
    const size_t blocks = divide_up(size, ADAMW_THREADS * ADAMW_WIDTH);
    AdamWStep step;
    step.beta1 = s->beta1;
    step.beta2 = s->beta2;
    step.eps = s->eps;
    step.gradient_scale = s->gradient_scale;
    step.keep = 1.0f - s->lr * weight_decay;
    step.step_size = s->lr / (float)(1.0 - pow((double)s->beta1, (double)s->t));
    step.correction2 = (float)sqrt(1.0 - pow((double)s->beta2, (double)s->t));
    step.t = (uint64_t)s->t;
    step.tensor = tensor;
    by_type(g, [&](auto *gradients) {
        by_type(m, [&](auto *moment1) {
            auto *moment2 = (decltype(moment1))v.data;
            adamw_kernel<<<blocks, ADAMW_THREADS>>>(p, master, moment1, moment2, gradients, size, step);
        });
    });
    LAUNCH_CHECK();
}

// ---------------------------------------------------------------------------------------------
// The model: its arrays

// One layer's parameters, pointing into the array that holds all. W_q, W_k and W_v are adjacent in it, and so
// are W_gate and W_up: each group is one matrix, and needs one product.
typedef struct {
    const floatX *w_qkv;             // (NH*HS + 2 NKV*HS, C)
    const floatX *wo;                // (C, NH*HS)
    const floatX *q_norm, *k_norm;   // (NH*HS), (NKV*HS)
    const floatX *attention_norm;    // (C)
    const floatX *w_gate_up;         // (2F, C)
    const floatX *w_down;            // (C, F)
    const floatX *feedforward_norm;  // (C)
} LayerParameters;

static LayerParameters layer_parameters(const floatX *array, const OLMo2Config *c, size_t l) {
    LayerParameters w = {};
    w.w_qkv = array + parameter_offset(c, WQ, l);
    w.wo = array + parameter_offset(c, WO, l);
    w.q_norm = array + parameter_offset(c, Q_NORM, l);
    w.k_norm = array + parameter_offset(c, K_NORM, l);
    w.attention_norm = array + parameter_offset(c, ATTENTION_NORM, l);
    w.w_gate_up = array + parameter_offset(c, W_GATE, l);
    w.w_down = array + parameter_offset(c, W_DOWN, l);
    w.feedforward_norm = array + parameter_offset(c, FEEDFORWARD_NORM, l);
    return w;
}

// Their gradients.
typedef struct {
    Array w_qkv, wo, q_norm, k_norm, attention_norm, w_gate_up, w_down, feedforward_norm;
} LayerGradients;

static LayerGradients layer_gradients(Array array, const OLMo2Config *c, size_t l) {
    LayerGradients d;
    d.w_qkv = array_at(array, parameter_offset(c, WQ, l));
    d.wo = array_at(array, parameter_offset(c, WO, l));
    d.q_norm = array_at(array, parameter_offset(c, Q_NORM, l));
    d.k_norm = array_at(array, parameter_offset(c, K_NORM, l));
    d.attention_norm = array_at(array, parameter_offset(c, ATTENTION_NORM, l));
    d.w_gate_up = array_at(array, parameter_offset(c, W_GATE, l));
    d.w_down = array_at(array, parameter_offset(c, W_DOWN, l));
    d.feedforward_norm = array_at(array, parameter_offset(c, FEEDFORWARD_NORM, l));
    return d;
}

// What the forward leaves for the backward. OLMo2Form.recompute decides what has a slice for each layer and
// what is recomputed into one shared slice. x is always stored. "light" values need no matrix product and are
// stored only with RECOMPUTE_NONE. All others are stored unless RECOMPUTE_BLOCK. olmo2_prefill's rows stand in
// place of (B, T), and all layers share one slice.
typedef struct {
    floatX *x;    // (L+1, B, T, C)  residual stream: the input of each layer, and the last one's output
    floatX *qkv;  // (L, B, T, NH*HS + 2 NKV*HS)  projections, before norm and rotation
    float *q_rstd, *k_rstd;   // (L, B, T)
    floatX *q, *k;            // (L, B, T, NH*HS), (L, B, T, NKV*HS)  light: normalised and rotated
    floatX *attention;        // (L, B, T, NH*HS)   heads, side by side
    float *lse;               // (L, B, NH, T)
    floatX *o;                // (L, B, T, C)       the attention branch before its norm
    float *attention_rstd;    // (L, B, T)
    floatX *h;                // (L, B, T, C)       light: residual stream between the branches
    floatX *gate_up;          // (L, B, T, 2F)
    floatX *act;              // (L, B, T, F)       light: silu(gate) * up
    floatX *down;             // (L, B, T, C)       the feed-forward branch before its norm
    float *feedforward_rstd;  // (L, B, T)
    floatX *hidden;           // (B, T, C)          the final norm's output
    float *hidden_rstd;       // (B, T)
} Activations;

// Scratch space that every layer overwrites, except dx.
typedef struct {
    uint32_t *rows;            // (B, T)          rows of `hidden` that the head is applied to
    floatX *gathered;          // (classifier rows, C)   these rows
    floatX *logits;            // (classifier rows, V)
    float *logprobs, *lse;     // (B, T)
    float *weights;            // (B, T)
    uint32_t *labels;          // (B, T)
    uint32_t *order, *starts;  // (B, T), (B*T + 1)  the buckets of the embedding's backward
    floatX *dx;                // (B, T, C)       gradient of the residual stream
    floatX *dbranch;           // (B, T, C)       gradient of a branch's output, before its norm
    floatX *dhidden;           // (B, T, C)       shares dbranch's memory: it is read before any branch
    floatX *dattention;        // (B, T, NH*HS)
    float *delta;              // (B, NH, T)
    floatX *dq, *dk;           // (B, T, NH*HS), (B, T, NKV*HS)
    floatX *dqkv;              // (B, T, NH*HS + 2 NKV*HS)
    floatX *dact;              // (B, T, F)       shares act's memory where act is recomputed
    floatX *dgate_up;          // (B, T, 2F)
    float *partial;            // (BACKWARD_BLOCKS, the longest row)  of the norms' gradients
    double *squares;           // (SQUARES_BLOCKS)  of the gradient norm
    floatX *normed, *dnormed;  // (B, T, C)       a branch's input with pre-norm (dev/ablations)
} Workspace;

// The keys and values of every slot's sequence, and where the rows of one olmo2_prefill continue them.
typedef struct {
    floatX *keys, *values;  // (slots, L, cache_T, NKV*HS)
    uint32_t *positions;    // (rows)
    Piece *pieces;          // (slots)
} Cache;

static const size_t SQUARES_BLOCKS = 1024, STAGING_ELEMENTS = 1 << 20;

struct OLMo2 {
    OLMo2Config config;
    OLMo2Room room;
    OLMo2Form form;
    floatX *weights;  // all parameters, in parameters.h's order
    float *master;    // the same in fp32, and `weights` is rounded from it; or nullptr
    Array gradients, moment1, moment2;
    void *buffer;  // activations, workspace and cache in one allocation
    Activations activations;
    Workspace workspace;
    Cache cache;
    float *rope;       // (max(T, cache_T), HS)
    uint32_t *tokens;  // (N) of the last forward
    // the rows of the last olmo2_forward, or of the last olmo2_prefill, which has B = 1 and T = N
    size_t B, T, N;
    bool extends;   // by olmo2_prefill: they attend to their slot's cache
    Pieces pieces;  // of olmo2_prefill
    // on the host
    uint32_t *host_tokens;            // (B, T)
    uint32_t *order, *starts, *next;  // (B, T), (B*T + 1), (V)  for embedding_buckets
    uint32_t *lengths;                // (slots): the positions of each slot's sequence in the cache
    uint32_t *positions;              // (rows), as in the cache
    Piece *host_pieces;               // (slots), as in the cache
    OLMo2Piece *steps;                // (slots): the pieces of one olmo2_decode
    uint32_t *rows, *labels;          // (B, T) or rows: those that the head is applied to
    void *staging;                    // (STAGING_ELEMENTS) floats, on their way to or from the device
};

// Hands out consecutive pieces of one allocation. Without a base it only counts bytes, so the memory plan and
// the allocation are the same walk.
typedef struct {
    char *base;
    size_t used;  // bytes
} Arena;

template <typename T>
static void take(Arena *arena, T **piece, size_t count) {
    const size_t bytes = count * sizeof(T), alignment = 256;
    *piece = arena->base == nullptr ? nullptr : (T *)(arena->base + arena->used);
#ifdef CUDA_ON_CPU
    // the checker guards its bounds
    if (*piece != nullptr && bytes > 0) { cuda_on_cpu_piece(*piece, bytes); }
#endif
    arena->used += divide_up(bytes, alignment) * alignment;
}

static size_t at_least(size_t size, size_t least) { return size < least ? least : size; }

static size_t at_most(size_t size, size_t most) { return size > most ? most : size; }

// The most rows of an olmo2_prefill, and those of any forward.
static size_t prefill_rows(const OLMo2Room *room) { return at_least(room->rows, room->slots); }

static size_t most_rows(const OLMo2Room *room) { return at_least(room->B * room->T, prefill_rows(room)); }

// Rows of logits that exist at a time. Fewer would make the matrix products too small for a GPU (in
// Liger-Kernel's figures, a few hundred rows run at half the speed).
static size_t classifier_rows(const OLMo2Room *room) { return at_most(most_rows(room), 1024); }

// How many slices of (B, T) x, the light activations and all others (heavy) have.
typedef struct {
    size_t x, heavy, light;
} Slices;

static Slices activation_slices(const OLMo2Config *c, const OLMo2Room *room, const OLMo2Form *form) {
    const size_t L = room->train ? c->L : 1;
    Slices s;
    s.x = room->train ? c->L + 1 : 1;
    s.heavy = form->recompute == RECOMPUTE_BLOCK ? 1 : L;
    s.light = form->recompute == RECOMPUTE_NONE ? L : 1;
    return s;
}

static void lay_out_activations(Activations *a, Arena *arena, const OLMo2Config *c, const OLMo2Room *room,
                                const OLMo2Form *form) {
    const size_t BT = room->B * room->T, R = prefill_rows(room), Q = c->NH * c->HS, KV = c->NKV * c->HS;
    const Slices slices = activation_slices(c, room, form);
    const size_t x = at_least(slices.x * BT, R), heavy = at_least(slices.heavy * BT, R),
                 light = at_least(slices.light * BT, R), N = most_rows(room);
    take(arena, &a->x, x * c->C);
    take(arena, &a->qkv, heavy * (Q + 2 * KV));
    take(arena, &a->q_rstd, heavy);
    take(arena, &a->k_rstd, heavy);
    take(arena, &a->q, light * Q);
    take(arena, &a->k, light * KV);
    take(arena, &a->attention, heavy * Q);
    take(arena, &a->lse, heavy * c->NH);
    take(arena, &a->o, heavy * c->C);
    take(arena, &a->attention_rstd, heavy);
    take(arena, &a->h, light * c->C);
    take(arena, &a->gate_up, heavy * 2 * c->F);
    take(arena, &a->act, light * c->F);
    take(arena, &a->down, heavy * c->C);
    take(arena, &a->feedforward_rstd, heavy);
    take(arena, &a->hidden, N * c->C);
    take(arena, &a->hidden_rstd, N);
}

static void lay_out_workspace(Workspace *w, Arena *arena, const OLMo2Config *c, const OLMo2Room *room,
                              const OLMo2Form *form, const Activations *a) {
    const size_t BT = room->B * room->T, N = most_rows(room), Q = c->NH * c->HS, KV = c->NKV * c->HS;
    const size_t longest = Q > c->C ? Q : c->C;
    take(arena, &w->normed, c->pre_norm ? N * c->C : 0);
    take(arena, &w->rows, N);
    take(arena, &w->gathered, classifier_rows(room) * c->C);
    take(arena, &w->logits, classifier_rows(room) * c->V);
    take(arena, &w->logprobs, N);
    take(arena, &w->lse, N);
    take(arena, &w->labels, N);
    if (!room->train) { return; }
    take(arena, &w->weights, BT);
    take(arena, &w->order, BT);
    take(arena, &w->starts, BT + 1);
    take(arena, &w->dx, BT * c->C);
    take(arena, &w->dbranch, BT * c->C);
    w->dhidden = w->dbranch;
    take(arena, &w->dnormed, c->pre_norm ? N * c->C : 0);
    take(arena, &w->dattention, BT * Q);
    take(arena, &w->delta, BT * c->NH);
    take(arena, &w->dq, BT * Q);
    take(arena, &w->dk, BT * KV);
    take(arena, &w->dqkv, BT * (Q + 2 * KV));
    w->dact = a->act;
    if (form->recompute == RECOMPUTE_NONE) { take(arena, &w->dact, BT * c->F); }
    take(arena, &w->dgate_up, BT * 2 * c->F);
    take(arena, &w->partial, BACKWARD_BLOCKS * longest);
    take(arena, &w->squares, SQUARES_BLOCKS);
}

static void lay_out_cache(Cache *cache, Arena *arena, const OLMo2Config *c, const OLMo2Room *room) {
    const size_t size = room->slots * c->L * room->cache_T * c->NKV * c->HS;
    take(arena, &cache->keys, size);
    take(arena, &cache->values, size);
    take(arena, &cache->positions, prefill_rows(room));
    take(arena, &cache->pieces, room->slots);
}

// bf16 is too coarse to add small updates to, so weights that are trained have a copy in fp32, unless it is
// switched off. So have those of a model that only holds weights (soup): what is written must be read back
// exactly.
static bool has_master(const OLMo2Room *room, const OLMo2Form *form) {
    const bool only_kept = room->B == 0 && room->slots == 0;
    return sizeof(floatX) < sizeof(float) && (only_kept || (room->train && form->master_weights));
}

// Gradients are stored as finely as the weights that they change.
static bool has_bf16_gradients(const OLMo2Form *form) {
    return !form->master_weights && sizeof(floatX) < sizeof(float);
}

// Points the model's structs into the buffer, or only counts if there is none yet.
static OLMo2Memory lay_out(OLMo2 *m, void *buffer) {
    const OLMo2Config *c = &m->config;
    const OLMo2Room *room = &m->room;
    const OLMo2Form *form = &m->form;
    const size_t parameters = parameter_array_size(c), trained = room->train ? parameters : 0;
    Arena arena = {(char *)buffer, 0};
    lay_out_activations(&m->activations, &arena, c, room, form);
    const size_t activations = arena.used;
    lay_out_workspace(&m->workspace, &arena, c, room, form, &m->activations);
    take(&arena, &m->rope, olmo2_room_positions(room) * c->HS);
    take(&arena, &m->tokens, most_rows(room));
    const size_t workspace = arena.used - activations;
    lay_out_cache(&m->cache, &arena, c, room);
    OLMo2Memory memory;
    memory.weights = parameters * (sizeof(floatX) + (has_master(room, form) ? sizeof(float) : 0));
    memory.gradients = array_bytes(has_bf16_gradients(form), trained);
    memory.moments = array_bytes(form->bf16_moments, 2 * trained);
    memory.activations = activations;
    memory.workspace = workspace + CUBLAS_WORKSPACE;
    memory.cache = arena.used - activations - workspace;
    memory.total = memory.weights + memory.gradients + memory.moments + arena.used + CUBLAS_WORKSPACE;
    return memory;
}

OLMo2Memory olmo2_memory(const OLMo2Config *config, const OLMo2Room *room, const OLMo2Form *form) {
    OLMo2 m = {};
    m.config = *config;
    m.room = *room;
    m.form = *form;
    return lay_out(&m, nullptr);
}

void olmo2_describe(const OLMo2Room *room, const OLMo2Form *form, char *text, size_t size) {
    (void)room;
    (void)form;
    cudaDeviceProp device;
    int devices = 0;
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0 ||
        cudaGetDeviceProperties(&device, 0) != cudaSuccess) {
        cudaGetLastError();
        snprintf(text, size, "CUDA, " FLOATX_NAME ", no device found");
        return;
    }
    char bytes[32];
    snprintf(text, size, "CUDA, " FLOATX_NAME ", %s (sm_%d%d, %s)", device.name, device.major, device.minor,
             format_bytes(bytes, device.totalGlobalMem));
}

bool olmo2_check(const OLMo2Config *c, const OLMo2Room *room, const OLMo2Form *form, Error *err) {
    const size_t longest = SHARED_MOST / (sizeof(float) + 2 * sizeof(floatX));
    const size_t Q = c->NH * c->HS, KV = c->NKV * c->HS;
    if (sizeof(floatX) == sizeof(float) && !form->master_weights) {
        return fail(
            err,
            "--master-weights off: this program was built with PRECISION=fp32, in which the weights have "
            "no other copy; leave the flag out, or build with PRECISION=bf16");
    }
    if (form->bf16_products) {
        return fail(err,
                    "--dtype bf16: this is the CUDA program, whose precision is chosen when it is built "
                    "(make PRECISION=bf16, which is the default); leave the flag out, or resume with --dtype "
                    "fp32");
    }
    if (sizeof(floatX) == sizeof(float) && form->weights == WEIGHTS_BF16) {
        return fail(err,
                    "weights in bf16: this program was built with PRECISION=fp32, in which they are fp32; "
                    "build it with PRECISION=bf16");
    }
    if (form->lent_weights) {
        return fail(err, "weights in a mapped file: the CUDA program needs them in the device's memory");
    }
    if (c->HS > 256) { return fail(err, "head_dim %zu: the CUDA attention has room for at most 256", c->HS); }
    if (room->B > 65535 || room->slots > 65535) {
        return fail(err, "%zu sequences at once: a CUDA grid takes 65535", at_least(room->B, room->slots));
    }
    if (c->C > longest || Q > longest) {
        return fail(err, "rows of %zu channels: the CUDA norms have room for at most %zu",
                    c->C > Q ? c->C : Q, longest);
    }
    if (Q * c->C % 16 != 0 || KV * c->C % 16 != 0 || c->F * c->C % 16 != 0) {
        return fail(err,
                    "hidden_size %zu times %zu, %zu and %zu (queries, keys, feed-forward) must be multiples "
                    "of 16 for the CUDA matrix products; use train_olmo2, or other sizes",
                    c->C, Q, KV, c->F);
    }
    return true;
}

// Requires a device that can run the kernels and has room for the model.
static bool check_device(const OLMo2Memory *memory, Error *err) {
    int devices = 0;
    cudaDeviceProp device;
    const cudaError_t status = cudaGetDeviceCount(&devices);
    if (status != cudaSuccess || devices == 0) {
        return fail(err,
                    "no CUDA device: %s\n       train_olmo2 is the same program for the CPU; "
                    "`train --dry-run` plans memory without a device.",
                    status == cudaSuccess ? "none was found" : cudaGetErrorString(status));
    }
    CUDA_CHECK(cudaGetDeviceProperties(&device, 0));
    if (device.major < 8) {
        return fail(err, "%s is sm_%d%d: the kernels need sm_80 (Ampere, 2020) or newer", device.name,
                    device.major, device.minor);
    }
    size_t available, all;
    CUDA_CHECK(cudaMemGetInfo(&available, &all));
    if (memory->total <= available) { return true; }
    char needed[32], found[32], total[32];
    return fail(err,
                "out of memory: the model and its buffers need %s, %s has %s free of %s\n"
                "       To need less: a smaller --micro-batch-size or --seq-len, --recompute block, "
                "--master-weights off, --moments bf16.",
                format_bytes(needed, memory->total), device.name, format_bytes(found, available),
                format_bytes(total, all));
}

// Allocates device memory and fills it with zeros.
static bool device_allocate(void **pointer, size_t bytes, const char *what, Error *err) {
    char text[32];
    *pointer = nullptr;
    if (bytes == 0) { return true; }
    if (cudaMalloc(pointer, bytes) != cudaSuccess) {
        cudaGetLastError();
        return fail(err, "out of memory: the device cannot allocate %s for %s", format_bytes(text, bytes),
                    what);
    }
    CUDA_CHECK(cudaMemset(*pointer, 0, bytes));
    return true;
}

static bool allocate_on_host(OLMo2 *m, Error *err) {
    const size_t BT = m->room.B * m->room.T, N = most_rows(&m->room), slots = m->room.slots,
                 u32 = sizeof(uint32_t);
    m->host_tokens = (uint32_t *)allocate(BT, u32, "the tokens of a batch", err);
    m->order = (uint32_t *)allocate(BT, u32, "the buckets of the embedding", err);
    m->starts = (uint32_t *)allocate(BT + 1, u32, "the buckets of the embedding", err);
    m->next = (uint32_t *)allocate(m->config.V, u32, "the buckets of the embedding", err);
    m->lengths = (uint32_t *)allocate(slots, u32, "the lengths of the slots", err);
    m->positions = (uint32_t *)allocate(N, u32, "the positions of a batch", err);
    m->host_pieces = (Piece *)allocate(slots, sizeof(Piece), "the pieces of a batch", err);
    m->steps = (OLMo2Piece *)allocate(slots, sizeof(OLMo2Piece), "the steps of the slots", err);
    m->rows = (uint32_t *)allocate(N, u32, "the rows with a label", err);
    m->labels = (uint32_t *)allocate(N, u32, "the rows with a label", err);
    m->staging = allocate(STAGING_ELEMENTS, sizeof(float), "transfers", err);
    const void *all[] = {m->host_tokens, m->order, m->starts, m->next,   m->lengths, m->positions,
                         m->host_pieces, m->steps, m->rows,   m->labels, m->staging};
    for (const void *array : all) {
        if (array == nullptr) { return false; }
    }
    return true;
}

static bool allocate_on_device(OLMo2 *m, const OLMo2Memory *memory, Error *err) {
    const size_t parameters = parameter_array_size(&m->config), moment = memory->moments / 2;
    const size_t master = has_master(&m->room, &m->form) ? parameters * sizeof(float) : 0;
    const size_t buffer = memory->activations + memory->workspace - CUBLAS_WORKSPACE + memory->cache;
    void **weights = (void **)&m->weights, **copy = (void **)&m->master;
    m->gradients.is_bf16 = has_bf16_gradients(&m->form);
    m->moment1.is_bf16 = m->moment2.is_bf16 = m->form.bf16_moments;
    if (!device_allocate(weights, parameters * sizeof(floatX), "the weights", err)) { return false; }
    if (!device_allocate(copy, master, "the weights in fp32", err)) { return false; }
    if (!device_allocate(&m->gradients.data, memory->gradients, "the gradients", err)) { return false; }
    if (!device_allocate(&m->moment1.data, moment, "AdamW's first moments", err)) { return false; }
    if (!device_allocate(&m->moment2.data, moment, "AdamW's second moments", err)) { return false; }
    return device_allocate(&m->buffer, buffer, "activations, workspace and cache", err);
}

// cuBLAS would allocate a workspace of its own choice, which the memory plan could not count.
static bool cublas_open(Error *err) {
    if (cublas.models++ > 0) { return true; }
    if (!device_allocate(&cublas.workspace, CUBLAS_WORKSPACE, "the matrix products", err)) { return false; }
    // If cuBLAS splits a sum, the parts are to be added in fp32 too.
    const int math = CUBLAS_DEFAULT_MATH | CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION;
    CUBLAS_CHECK(cublasCreate(&cublas.handle));
    CUBLAS_CHECK(cublasSetMathMode(cublas.handle, (cublasMath_t)math));
    CUBLAS_CHECK(cublasSetWorkspace(cublas.handle, cublas.workspace, CUBLAS_WORKSPACE));
    return true;
}

static void cublas_close(void) {
    if (--cublas.models > 0) { return; }
    if (cublas.handle != nullptr) { CUBLAS_CHECK(cublasDestroy(cublas.handle)); }
    CUDA_CHECK(cudaFree(cublas.workspace));
    cublas.handle = nullptr;
    cublas.workspace = nullptr;
}

// Computes rope_table on the host and copies it to the device.
static bool upload_rope(OLMo2 *m, Error *err) {
    const size_t rows = olmo2_room_positions(&m->room), HS = m->config.HS;
    float *rope = (float *)allocate(rows * HS, sizeof(float), "the table of angles", err);
    if (rope == nullptr) { return false; }
    rope_table(rope, rows, HS, m->config.rope_theta);
    CUDA_CHECK(cudaMemcpy(m->rope, rope, rows * HS * sizeof(float), cudaMemcpyHostToDevice));
    free(rope);
    return true;
}

static bool set_up_model(OLMo2 *m, const OLMo2Memory *memory, Error *err) {
    if (!cublas_open(err)) { return false; }
    if (!allocate_on_host(m, err)) { return false; }
    if (!allocate_on_device(m, memory, err)) { return false; }
    lay_out(m, m->buffer);
    return upload_rope(m, err);
}

bool olmo2_create(OLMo2 **out, const OLMo2Config *config, const OLMo2Room *room, const OLMo2Form *form,
                  Error *err) {
    *out = nullptr;
    OLMo2Memory memory = olmo2_memory(config, room, form);
    if (!olmo2_check(config, room, form, err)) { return false; }
    if (!check_device(&memory, err)) { return false; }
    OLMo2 *m = (OLMo2 *)allocate(1, sizeof *m, "the model", err);
    if (m == nullptr) { return false; }
    m->config = *config;
    m->room = *room;
    m->form = *form;
    if (!set_up_model(m, &memory, err)) {
        olmo2_free(m);
        return false;
    }
    *out = m;
    return true;
}

void olmo2_free(OLMo2 *m) {
    if (m == nullptr) { return; }
    void *on_device[] = {m->weights,      m->master,       m->gradients.data,
                         m->moment1.data, m->moment2.data, m->buffer};
    void *on_host[] = {m->host_tokens, m->order, m->starts, m->next,   m->lengths, m->positions,
                       m->host_pieces, m->steps, m->rows,   m->labels, m->staging};
    for (void *pointer : on_device) { CUDA_CHECK(cudaFree(pointer)); }
    for (void *pointer : on_host) { free(pointer); }
    cublas_close();
    free(m);
}

const OLMo2Config *olmo2_config(const OLMo2 *m) { return &m->config; }

// None: functions return before the GPU is done, so the host's clock cannot time them.
Profile *olmo2_profile(OLMo2 *m) {
    (void)m;
    return NULL;
}

// ---------------------------------------------------------------------------------------------
// The layer of OLMo 2: forward, backward
//          on paper: dev/doc/README.md    tested: test_olmo2.c against PyTorch, tensor by tensor;
//          dev/test/test_cuda.cu against train_olmo2.c

// Layer l's slice of the activations of the last forward. Rows that extend sequences keep none.
static Activations layer_activations(const OLMo2 *m, size_t l) {
    const OLMo2Config *c = &m->config;
    const Activations *all = &m->activations;
    const Slices slices = activation_slices(c, &m->room, &m->form);
    const size_t slice = m->extends ? 0 : l * m->N, Q = c->NH * c->HS, KV = c->NKV * c->HS;
    const size_t x = slices.x > 1 ? slice : 0, n = slices.heavy > 1 ? slice : 0,
                 light = slices.light > 1 ? slice : 0;
    Activations a = {};
    a.x = all->x + x * c->C;
    a.qkv = all->qkv + n * (Q + 2 * KV);
    a.q_rstd = all->q_rstd + n;
    a.k_rstd = all->k_rstd + n;
    a.q = all->q + light * Q;
    a.k = all->k + light * KV;
    a.attention = all->attention + n * Q;
    a.lse = all->lse + n * c->NH;
    a.o = all->o + n * c->C;
    a.attention_rstd = all->attention_rstd + n;
    a.h = all->h + light * c->C;
    a.gate_up = all->gate_up + n * 2 * c->F;
    a.act = all->act + light * c->F;
    a.down = all->down + n * c->C;
    a.feedforward_rstd = all->feedforward_rstd + n;
    return a;
}

// The positions of the rows in their sequences; nullptr if these are n mod T.
static const uint32_t *row_positions(const OLMo2 *m) { return m->extends ? m->cache.positions : nullptr; }

// Layer l's attention: over the keys and values of the batch itself, or over those in the slots' caches, to
// which the batch's are first appended.
static void layer_attention(const OLMo2 *m, size_t l, Activations a) {
    const size_t NH = m->config.NH, NKV = m->config.NKV, HS = m->config.HS, Q = NH * HS, KV = NKV * HS;
    const size_t row = Q + 2 * KV, cache_T = m->room.cache_T, page_T = m->config.L * cache_T;
    const floatX *v = a.qkv + Q + KV;
    if (!m->extends) {
        attention_forward(a.attention, a.lse, a.q, a.k, v, row, m->B, m->T, NH, NKV, HS);
        return;
    }
    floatX *keys = m->cache.keys + l * cache_T * KV, *values = m->cache.values + l * cache_T * KV;
    cache_append(keys, values, a.k, v, row, m->pieces, page_T, KV);
    attention_cached(a.attention, a.q, keys, values, m->pieces, page_T, NH, NKV, HS);
}

// Layer l, from its x to the next layer's. The backward calls it again with RECOMPUTE_BLOCK.
static void layer_forward(const OLMo2 *m, size_t l) {
    const OLMo2Config *c = &m->config;
    const size_t T = m->T, N = m->N, C = c->C, NH = c->NH, NKV = c->NKV, HS = c->HS, F = c->F;
    const size_t Q = NH * HS, KV = NKV * HS, row = Q + 2 * KV;
    const float eps = c->rms_eps;
    const uint32_t *positions = row_positions(m);
    const LayerParameters w = layer_parameters(m->weights, c, l);
    const Activations a = layer_activations(m, l), next = layer_activations(m, l + 1);

    // attention branch: h = x + rmsnorm(W_o attention(q, k, v))
    matmul_forward(a.qkv, a.x, w.w_qkv, N, C, row);
    qknorm_rope_forward(a.q, a.q_rstd, a.qkv, row, w.q_norm, m->rope, positions, N, T, NH, HS, eps);
    qknorm_rope_forward(a.k, a.k_rstd, a.qkv + Q, row, w.k_norm, m->rope, positions, N, T, NKV, HS, eps);
    layer_attention(m, l, a);
    matmul_forward(a.o, a.attention, w.wo, N, Q, C);
    rmsnorm_residual_forward(a.h, a.attention_rstd, a.x, a.o, w.attention_norm, N, C, eps);

    // feed-forward branch: x' = h + rmsnorm(W_down (silu(W_gate h) * W_up h))
    matmul_forward(a.gate_up, a.h, w.w_gate_up, N, C, 2 * F);
    swiglu_forward(a.act, a.gate_up, N, F);
    matmul_forward(a.down, a.act, w.w_down, N, F, C);
    rmsnorm_residual_forward(next.x, a.feedforward_rstd, a.h, a.down, w.feedforward_norm, N, C, eps);
}

// Recomputes what layer l's backward needs and the forward did not store, with the same bits.
static void layer_recompute(const OLMo2 *m, size_t l) {
    const OLMo2Config *c = &m->config;
    const size_t N = m->N, T = m->T, Q = c->NH * c->HS, KV = c->NKV * c->HS, row = Q + 2 * KV;
    const float eps = c->rms_eps;
    const LayerParameters w = layer_parameters(m->weights, c, l);
    const Activations a = layer_activations(m, l);
    if (m->form.recompute == RECOMPUTE_BLOCK) { layer_forward(m, l); }
    if (m->form.recompute == RECOMPUTE_ELEMENTWISE) {
        qknorm_rope_forward(a.q, a.q_rstd, a.qkv, row, w.q_norm, m->rope, nullptr, N, T, c->NH, c->HS, eps);
        qknorm_rope_forward(a.k, a.k_rstd, a.qkv + Q, row, w.k_norm, m->rope, nullptr, N, T, c->NKV, c->HS,
                            eps);
        rmsnorm_residual_forward(a.h, a.attention_rstd, a.x, a.o, w.attention_norm, N, c->C, eps);
    }
}

// layer_forward from its last line to its first.
static void layer_backward(const OLMo2 *m, size_t l) {
    const OLMo2Config *c = &m->config;
    const size_t B = m->B, T = m->T, N = B * T, C = c->C, NH = c->NH, NKV = c->NKV, HS = c->HS, F = c->F;
    const size_t Q = NH * HS, KV = NKV * HS, row = Q + 2 * KV;
    const Workspace *s = &m->workspace;
    const LayerParameters w = layer_parameters(m->weights, c, l);
    const LayerGradients d = layer_gradients(m->gradients, c, l);
    const Activations a = layer_activations(m, l);
    floatX *recomputed_act = s->dact == a.act ? a.act : nullptr;
    layer_recompute(m, l);

    // feed-forward branch
    rmsnorm_residual_backward(s->dbranch, d.feedforward_norm, s->partial, s->dx, a.down, w.feedforward_norm,
                              a.feedforward_rstd, N, C);
    matmul_backward_input(s->dact, s->dbranch, w.w_down, N, F, C, false);  // dact may be where act is to be
    swiglu_backward(s->dgate_up, recomputed_act, s->dact, a.gate_up, N, F);
    matmul_backward_weight(d.w_down, s->dbranch, a.act, N, F, C);
    matmul_backward(s->dx, d.w_gate_up, s->dgate_up, a.h, w.w_gate_up, N, C, 2 * F, true);

    // attention branch
    rmsnorm_residual_backward(s->dbranch, d.attention_norm, s->partial, s->dx, a.o, w.attention_norm,
                              a.attention_rstd, N, C);
    matmul_backward(s->dattention, d.wo, s->dbranch, a.attention, w.wo, N, Q, C, false);
    attention_backward(s->dq, s->dk, s->dqkv + Q + KV, row, s->delta, s->dattention, a.q, a.k, a.qkv + Q + KV,
                       row, a.attention, a.lse, B, T, NH, NKV, HS);
    qknorm_rope_backward(s->dqkv + Q, row, d.k_norm, s->partial, s->dk, a.qkv + Q, row, w.k_norm, a.k_rstd,
                         m->rope, N, T, NKV, HS);
    qknorm_rope_backward(s->dqkv, row, d.q_norm, s->partial, s->dq, a.qkv, row, w.q_norm, a.q_rstd, m->rope,
                         N, T, NH, HS);
    matmul_backward(s->dx, d.w_qkv, s->dqkv, a.x, w.w_qkv, N, C, row, true);
}

#include "dev/ablations/ablations.cuh"  // these two lists with a part of OLMo 2 left out

// ---------------------------------------------------------------------------------------------
// The model: forward, head, backward

// From the embeddings of tokens (N) to the output of the final norm.
static void forward_rows(OLMo2 *m, const uint32_t *tokens) {
    const OLMo2Config *c = &m->config;
    const size_t N = m->N;
    CUDA_CHECK(cudaMemcpy(m->tokens, tokens, N * sizeof *tokens, cudaMemcpyHostToDevice));
    embedding_forward(m->activations.x, m->weights + parameter_offset(c, EMBEDDING, 0), m->tokens, N, c->C);
    for (size_t l = 0; l < c->L; l++) {
        if (is_ablated(c)) {
            ablated_layer_forward(m, l);
        } else {
            layer_forward(m, l);
        }
    }
    rmsnorm_forward(m->activations.hidden, m->activations.hidden_rstd, layer_activations(m, c->L).x,
                    m->weights + parameter_offset(c, FINAL_NORM, 0), N, c->C, c->rms_eps);
}

void olmo2_forward(OLMo2 *m, const uint32_t *tokens, size_t B, size_t T) {
    m->extends = false;
    m->B = B;
    m->T = T;
    m->N = B * T;
    memcpy(m->host_tokens, tokens, m->N * sizeof *tokens);
    forward_rows(m, tokens);
}

// logits (n, V) = lm_head applied to rows of `hidden`, n of them from `first` on in s->rows; n is at most
// classifier_rows. The embedding's kernel gathers them.
static void gathered_logits(const OLMo2 *m, size_t first, size_t n) {
    const OLMo2Config *c = &m->config;
    const Workspace *s = &m->workspace;
    embedding_forward(s->gathered, m->activations.hidden, s->rows + first, n, c->C);
    matmul_forward(s->logits, s->gathered, m->weights + parameter_offset(c, LM_HEAD, 0), n, c->C, c->V);
}

// Moves values[i] to values[rows[i]] for i < count; all other of the N become 0. rows ascend.
static void spread(float *values, const uint32_t *rows, size_t count, size_t N) {
    for (size_t n = N, i = count; n-- > 0;) {
        const bool has_value = i > 0 && rows[i - 1] == n;
        values[n] = has_value ? values[--i] : 0.0f;
    }
}

// olmo2_classify without weights: only rows with a label cost anything.
static void classify_labelled(OLMo2 *m, const uint32_t *labels, float *logprobs, float *lse) {
    const Workspace *s = &m->workspace;
    const size_t N = m->N, V = m->config.V, chunk = classifier_rows(&m->room);
    size_t count = 0;
    for (size_t n = 0; n < N; n++) {
        if (labels[n] == OLMO2_NO_TOKEN) { continue; }
        m->rows[count] = (uint32_t)n;
        m->labels[count++] = labels[n];
    }
    CUDA_CHECK(cudaMemcpy(s->rows, m->rows, count * sizeof *m->rows, cudaMemcpyHostToDevice));
    CUDA_CHECK(cudaMemcpy(s->labels, m->labels, count * sizeof *m->labels, cudaMemcpyHostToDevice));
    for (size_t i = 0; i < count; i += chunk) {
        const size_t rows = at_most(count - i, chunk);
        gathered_logits(m, i, rows);
        classifier_forward(s->logprobs + i, s->lse + i, s->logits, s->labels + i, rows, V);
    }
    CUDA_CHECK(cudaMemcpy(logprobs, s->logprobs, count * sizeof *logprobs, cudaMemcpyDeviceToHost));
    CUDA_CHECK(cudaMemcpy(lse, s->lse, count * sizeof *lse, cudaMemcpyDeviceToHost));
    spread(logprobs, m->rows, count, N);
    spread(lse, m->rows, count, N);
}

void olmo2_classify(OLMo2 *m, const uint32_t *labels, const float *weights, float z, float *logprobs,
                    float *lse) {
    const OLMo2Config *c = &m->config;
    const Workspace *s = &m->workspace;
    const size_t N = m->N, C = c->C, V = c->V, chunk = classifier_rows(&m->room);
    const floatX *hidden = m->activations.hidden, *lm_head = m->weights + parameter_offset(c, LM_HEAD, 0);
    if (weights == nullptr) {
        classify_labelled(m, labels, logprobs, lse);
        return;
    }
    CUDA_CHECK(cudaMemcpy(s->labels, labels, N * sizeof *labels, cudaMemcpyHostToDevice));
    CUDA_CHECK(cudaMemcpy(s->weights, weights, N * sizeof *weights, cudaMemcpyHostToDevice));
    for (size_t n = 0; n < N; n += chunk) {
        const size_t rows = at_most(N - n, chunk);
        matmul_forward(s->logits, hidden + n * C, lm_head, rows, C, V);
        classifier_forward_backward(s->logprobs + n, s->lse + n, s->logits, s->labels + n, s->weights + n, z,
                                    rows, V);
        matmul_backward(s->dhidden + n * C, array_at(m->gradients, parameter_offset(c, LM_HEAD, 0)),
                        s->logits, hidden + n * C, lm_head, rows, C, V, false);
    }
    CUDA_CHECK(cudaMemcpy(logprobs, s->logprobs, N * sizeof *logprobs, cudaMemcpyDeviceToHost));
    CUDA_CHECK(cudaMemcpy(lse, s->lse, N * sizeof *lse, cudaMemcpyDeviceToHost));
}

// olmo2_forward from its last line to its first. s->dx is the gradient of the residual stream throughout.
void olmo2_backward(OLMo2 *m) {
    const OLMo2Config *c = &m->config;
    const size_t N = m->N, C = c->C;
    const Workspace *s = &m->workspace;
    const size_t buckets = embedding_buckets(m->order, m->starts, m->next, m->host_tokens, N, c->V);
    CUDA_CHECK(cudaMemcpy(s->order, m->order, N * sizeof *m->order, cudaMemcpyHostToDevice));
    CUDA_CHECK(cudaMemcpy(s->starts, m->starts, (buckets + 1) * sizeof *m->starts, cudaMemcpyHostToDevice));

    rmsnorm_backward(s->dx, array_at(m->gradients, parameter_offset(c, FINAL_NORM, 0)), s->partial,
                     s->dhidden, layer_activations(m, c->L).x,
                     m->weights + parameter_offset(c, FINAL_NORM, 0), m->activations.hidden_rstd, N, C);
    for (size_t l = c->L; l-- > 0;) {
        if (is_ablated(c)) {
            ablated_layer_backward(m, l);
        } else {
            layer_backward(m, l);
        }
    }
    embedding_backward(array_at(m->gradients, parameter_offset(c, EMBEDDING, 0)), s->dx, m->tokens, s->order,
                       s->starts, buckets, C);
}

// ---------------------------------------------------------------------------------------------
// The model: update

void olmo2_zero_gradients(OLMo2 *m) {
    const size_t size = parameter_array_size(&m->config);
    CUDA_CHECK(cudaMemsetAsync(m->gradients.data, 0, array_bytes(m->gradients.is_bf16, size)));
}

enum { SQUARES_THREADS = 256 };

// partial (gridDim.x): the sum of the squares that each block takes, in double.
template <typename G>
__global__ static void sum_of_squares_kernel(double *partial, const G *x, size_t size) {
    constexpr int W = 16 / sizeof(G);
    __shared__ double of_warps[WARP];
    const size_t stride = (size_t)gridDim.x * blockDim.x * W;
    double sum = 0.0;
    for (size_t i = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * W; i < size; i += stride) {
        const Vec<G, W> x_i = load<W>(x + i);
        float squares = 0.0f;  // of a few numbers; double is slow on most devices
        for (int k = 0; k < W; k++) { squares += (float)x_i[k] * (float)x_i[k]; }
        sum += (double)squares;
    }
    for (int offset = WARP / 2; offset > 0; offset /= 2) { sum += __shfl_xor_sync(0xffffffffu, sum, offset); }
    if (lane_number() == 0) { of_warps[warp_number()] = sum; }
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int i = 1; i < (int)blockDim.x / WARP; i++) { sum += of_warps[i]; }
        partial[blockIdx.x] = sum;
    }
}

// Blocks for the squares of `size` numbers, 16 bytes to a thread.
static size_t squares_blocks(Array x, size_t size) {
    const size_t blocks = divide_up(array_bytes(x.is_bf16, size), SQUARES_THREADS * 16);
    return blocks < SQUARES_BLOCKS ? blocks : SQUARES_BLOCKS;
}

// The sum of squares of an array whose size is a multiple of 16. partial (SQUARES_BLOCKS) is scratch. The
// squares of numbers above 1e19 overflow, and the result is then infinite.
static double sum_of_squares(Array x, size_t size, double *partial) {
    const size_t blocks = squares_blocks(x, size);
    double sums[SQUARES_BLOCKS];
    double sum = 0.0;
    by_type(x, [&](auto *data) { sum_of_squares_kernel<<<blocks, SQUARES_THREADS>>>(partial, data, size); });
    LAUNCH_CHECK();
    CUDA_CHECK(cudaMemcpy(sums, partial, blocks * sizeof *sums, cudaMemcpyDeviceToHost));
    for (size_t i = 0; i < blocks; i++) { sum += sums[i]; }
    return sum;
}

// The padding between tensors is zero and adds nothing, so all gradients are summed as one array.
double olmo2_gradient_norm(OLMo2 *m) {
    return sqrt(sum_of_squares(m->gradients, parameter_array_size(&m->config), m->workspace.squares));
}

void olmo2_update(OLMo2 *m, const OLMo2AdamW *settings) {
    for (size_t i = 0; i < parameter_count(&m->config); i++) {
        const Parameter p = parameter_at(&m->config, i);
        adamw_update(m->weights + p.offset, m->master == nullptr ? nullptr : m->master + p.offset,
                     array_at(m->moment1, p.offset), array_at(m->moment2, p.offset),
                     array_at(m->gradients, p.offset), parameter_padded(p.size), settings,
                     p.row->decay ? settings->weight_decay : 0.0f, i);
    }
}

// ---------------------------------------------------------------------------------------------
// The model: its numbers, to and from the host

// Copies `size` numbers of type T from the device, as floats.
template <typename T>
static void download(float *values, const T *data, size_t size, void *staging) {
    for (size_t i = 0; i < size; i += STAGING_ELEMENTS) {
        const size_t n = size - i < STAGING_ELEMENTS ? size - i : STAGING_ELEMENTS;
        CUDA_CHECK(cudaMemcpy(staging, data + i, n * sizeof(T), cudaMemcpyDeviceToHost));
        for (size_t k = 0; k < n; k++) { values[i + k] = (float)((const T *)staging)[k]; }
    }
}

template <typename T>
static void upload(T *data, const float *values, size_t size, void *staging) {
    for (size_t i = 0; i < size; i += STAGING_ELEMENTS) {
        const size_t n = size - i < STAGING_ELEMENTS ? size - i : STAGING_ELEMENTS;
        for (size_t k = 0; k < n; k++) { ((T *)staging)[k] = (T)values[i + k]; }
        CUDA_CHECK(cudaMemcpy(data + i, staging, n * sizeof(T), cudaMemcpyHostToDevice));
    }
}

// The finest copy of an array.
static Array parameter_array(const OLMo2 *m, OLMo2Array array) {
    switch (array) {
    case OLMO2_PARAMETER: break;
    case OLMO2_GRADIENT: return m->gradients;
    case OLMO2_MOMENT1: return m->moment1;
    case OLMO2_MOMENT2: return m->moment2;
    }
    if (m->master != nullptr) { return Array{m->master, false}; }
    return Array{m->weights, sizeof(floatX) < sizeof(float)};
}

void olmo2_read(const OLMo2 *m, OLMo2Array array, size_t index, float *values) {
    const Parameter p = parameter_at(&m->config, index);
    by_type(array_at(parameter_array(m, array), p.offset),
            [&](auto *data) { download(values, data, p.size, m->staging); });
}

void olmo2_write(OLMo2 *m, OLMo2Array array, size_t index, const float *values) {
    const Parameter p = parameter_at(&m->config, index);
    by_type(array_at(parameter_array(m, array), p.offset),
            [&](auto *data) { upload(data, values, p.size, m->staging); });
    if (array == OLMO2_PARAMETER && m->master != nullptr) {
        upload(m->weights + p.offset, values, p.size, m->staging);
    }
}

// ---------------------------------------------------------------------------------------------
// The model: sequences with a cache
//          tested: test_prefill in dev/test/test_cuda.cu

// Tells the device what the rows are: their positions, and the pieces, those of one token first. The sequences
// grow by them.
static void upload_pieces(OLMo2 *m, const OLMo2Piece *pieces, size_t n) {
    const Cache *cache = &m->cache;
    size_t single = 0, several = 0;
    for (size_t i = 0; i < n; i++) { several += pieces[i].count == 1; }
    m->pieces = Pieces{cache->pieces, n, several, 0};
    m->N = 0;
    for (size_t i = 0; i < n; i++) {
        const size_t slot = pieces[i].slot, count = pieces[i].count;
        m->host_pieces[count == 1 ? single++ : several++] =
            Piece{(uint32_t)m->N, (uint32_t)count, m->lengths[slot], (uint32_t)slot};
        for (size_t t = 0; t < count; t++) { m->positions[m->N++] = m->lengths[slot]++; }
        m->pieces.longest = at_least(m->pieces.longest, count);
    }
    CUDA_CHECK(cudaMemcpy(cache->pieces, m->host_pieces, n * sizeof(Piece), cudaMemcpyHostToDevice));
    CUDA_CHECK(cudaMemcpy(cache->positions, m->positions, m->N * sizeof(uint32_t), cudaMemcpyHostToDevice));
}

void olmo2_prefill(OLMo2 *m, const uint32_t *tokens, const OLMo2Piece *pieces, size_t n) {
    m->extends = true;
    upload_pieces(m, pieces, n);
    m->B = 1;
    m->T = m->N;
    forward_rows(m, tokens);
}

void olmo2_logits(OLMo2 *m, const size_t *rows, size_t n, float *logits) {
    const Workspace *s = &m->workspace;
    const size_t V = m->config.V, chunk = classifier_rows(&m->room);
    for (size_t i = 0; i < n; i += chunk) {
        const size_t count = at_most(n - i, chunk);
        for (size_t r = 0; r < count; r++) { m->rows[r] = (uint32_t)rows[i + r]; }
        CUDA_CHECK(cudaMemcpy(s->rows, m->rows, count * sizeof *m->rows, cudaMemcpyHostToDevice));
        gathered_logits(m, 0, count);
        download(logits + i * V, s->logits, count * V, m->staging);
    }
}

void olmo2_decode(OLMo2 *m, const uint32_t *tokens, const size_t *slots, size_t n, float *logits) {
    const OLMo2Config *c = &m->config;
    const Workspace *s = &m->workspace;
    const size_t chunk = classifier_rows(&m->room);
    for (size_t i = 0; i < n; i++) { m->steps[i] = OLMo2Piece{slots[i], 1}; }
    olmo2_prefill(m, tokens, m->steps, n);
    for (size_t i = 0; i < n; i += chunk) {
        const size_t rows = at_most(n - i, chunk);
        matmul_forward(s->logits, m->activations.hidden + i * c->C,
                       m->weights + parameter_offset(c, LM_HEAD, 0), rows, c->C, c->V);
        download(logits + i * c->V, s->logits, rows * c->V, m->staging);
    }
}

size_t olmo2_positions(const OLMo2 *m, size_t slot) { return m->lengths[slot]; }

void olmo2_truncate(OLMo2 *m, size_t slot, size_t positions) { m->lengths[slot] = (uint32_t)positions; }

// A slot's layers are cache_T positions apart, so each array is copied as L rows of a matrix.
void olmo2_copy_slot(OLMo2 *m, size_t to, size_t from, size_t begin, size_t end) {
    const size_t L = m->config.L, KV = m->config.NKV * m->config.HS, cache_T = m->room.cache_T;
    const size_t target = (to * L * cache_T + begin) * KV, source = (from * L * cache_T + begin) * KV;
    const size_t pitch = cache_T * KV * sizeof(floatX), width = (end - begin) * KV * sizeof(floatX);
    m->lengths[to] = (uint32_t)end;
    if (to == from || begin == end) { return; }
    for (floatX *array : {m->cache.keys, m->cache.values}) {
        CUDA_CHECK(
            cudaMemcpy2D(array + target, pitch, array + source, pitch, width, L, cudaMemcpyDeviceToDevice));
    }
}

bool olmo2_lends(void) { return false; }

void olmo2_lend(OLMo2 *m, size_t index, const void *data) {
    (void)m, (void)index, (void)data;
    cuda_stop("a GPU cannot compute with weights in a mapped file", __FILE__, __LINE__);
}

#include "llmc/main.h"  // main: the commands, the training loop
