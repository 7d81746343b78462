// attention.cu: causal attention with grouped queries, from the plainest kernels to those of train_olmo2.cu.
// README.md says how to build and read this.
//
//   ./attention forward    q (B, T, NH, HS), k and v (B, T, NKV, HS) -> o (B, T, NH, HS), lse (B, NH, T)
//   ./attention backward   d_o, q, k, v, o, lse -> dq, dk, dv
//   ./attention decode     one new query for each of some sequences, over its cached keys and values
//
// Query head h reads key/value head g = h / (NH / NKV). Forward:
//   s_ij = q_i . k_j / sqrt(HS) for j <= i,  p_ij = e^(s_ij - lse_i),  lse_i = log sum_j e^(s_ij),
//   o_i = sum_j p_ij v_j
// Backward, with D_i = do_i . o_i:
//   dv_j = sum_i p_ij do_i,  ds_ij = p_ij (do_i . v_j - D_i),
//   dq_i = sum_j ds_ij k_j / sqrt(HS),  dk_j = sum_i ds_ij q_i / sqrt(HS)
// Rows of v are parts of the wider rows of the product that computes q, k and v, and so are rows of dv:
// v_stride elements from token to token, which may be more than NKV HS.
//
// The difficulty is s and p: they are T x T per head, where everything else has T rows. The versions are
// about keeping them out of memory, and about how often each key is used once it has been read. Figures: B =
// 1, T = 256, two heads of 128 channels, in bf16, where the arrays of the forward have 526,336 bytes and
// those of the backward 1,050,624. Bytes, accesses (of a thread to memory, of a warp to shared memory) and
// bank conflicts are counted by the checker of dev/cuda_on_cpu; registers are those of nvcc 13.0 for sm_80
// and sm_90.

#include "ladder.cuh"

// The sizes, and where rows begin.
struct Shape {
    size_t B, T, NH, NKV, HS, v_stride;

    __host__ __device__ size_t query(size_t b, size_t h, size_t i) const {
        return ((b * T + i) * NH + h) * HS;
    }
    __host__ __device__ size_t key(size_t b, size_t g, size_t j) const {
        return ((b * T + j) * NKV + g) * HS;
    }
    __host__ __device__ size_t value(size_t b, size_t g, size_t j) const {
        return (b * T + j) * v_stride + g * HS;
    }
    __host__ __device__ size_t row(size_t b, size_t h, size_t i) const { return (b * NH + h) * T + i; }
    __host__ __device__ size_t key_head(size_t h) const { return h / (NH / NKV); }
};

// The number of elements of each array.
static size_t query_count(const Shape &z) { return z.B * z.T * z.NH * z.HS; }
static size_t key_count(const Shape &z) { return z.B * z.T * z.NKV * z.HS; }
static size_t value_count(const Shape &z) { return (z.B * z.T - 1) * z.v_stride + z.NKV * z.HS; }
static size_t row_count(const Shape &z) { return z.B * z.NH * z.T; }

__device__ static inline float dot_of(const floatX *a, const floatX *b, size_t HS) {
    float sum = 0.0f;
    for (size_t c = 0; c < HS; c++) { sum += (float)a[c] * (float)b[c]; }
    return sum;
}

__device__ static inline float warp_max(float x) {
    for (int offset = WARP / 2; offset > 0; offset /= 2) {
        x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, offset));
    }
    return x;
}

// ---------------------------------------------------------------------------------------------
// forward. scores (B, NH, T, T) is scratch for the versions that need it.

typedef void Forward(floatX *o, float *lse, float *scores, const floatX *q, const floatX *k, const floatX *v,
                     const Shape &z);

// ---------------------------------------------------------------------------------------------
// Version 1: the formulas as written. The first kernel writes the scores, one thread each. The second
// overwrites them with p, one warp per row. The third multiplies by v, one thread per output. Three things
// are wrong with this. First, the scores: 4 T^2 bytes per head, 1.07 GB for 16 heads of 4096 tokens, for one
// layer and one sequence, written twice and read four times. Second, both operands of every multiply-add come
// from memory: 36,117,504 bytes, 70 times the size of the arrays. Third, the lanes of a warp read 32
// different rows of k, which moves 5.7 times the sectors that their bytes would fill. 30 to 34 registers.

__global__ static void scores_kernel_1(float *scores, const floatX *q, const floatX *k, Shape z) {
    const size_t j = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    const size_t i = (size_t)blockIdx.y * blockDim.y + threadIdx.y;
    const size_t h = blockIdx.z % z.NH, b = blockIdx.z / z.NH;
    if (i >= z.T || j > i) { return; }
    const float scale = 1.0f / sqrtf((float)z.HS);
    const float s = dot_of(q + z.query(b, h, i), k + z.key(b, z.key_head(h), j), z.HS) * scale;
    scores[z.row(b, h, i) * z.T + j] = s;
}

__global__ static void softmax_kernel_1(float *scores, float *lse, size_t rows, size_t T) {
    const size_t row = row_number();
    if (row >= rows) { return; }
    const size_t count = row % T + 1;
    float *s = scores + row * T, max = -INFINITY, sum = 0.0f;
    for (size_t j = lane_number(); j < count; j += WARP) { max = fmaxf(max, s[j]); }
    max = warp_max(max);
    for (size_t j = lane_number(); j < count; j += WARP) { sum += expf(s[j] - max); }
    sum = warp_sum(sum);
    for (size_t j = lane_number(); j < count; j += WARP) { s[j] = expf(s[j] - max) / sum; }
    if (lane_number() == 0) { lse[row] = max + logf(sum); }
}

__global__ static void output_kernel_1(floatX *o, const float *p, const floatX *v, Shape z) {
    const size_t at = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= z.B * z.T * z.NH * z.HS) { return; }
    const size_t c = at % z.HS, h = at / z.HS % z.NH, i = at / z.HS / z.NH % z.T, b = at / z.HS / z.NH / z.T;
    const float *p_i = p + z.row(b, h, i) * z.T;
    float sum = 0.0f;
    for (size_t j = 0; j <= i; j++) { sum += p_i[j] * (float)v[z.value(b, z.key_head(h), j) + c]; }
    o[at] = (floatX)sum;
}

static void forward_1(floatX *o, float *lse, float *scores, const floatX *q, const floatX *k, const floatX *v,
                      const Shape &z) {
    const dim3 grid(divide_up(z.T, 32), divide_up(z.T, 8), z.B * z.NH), block(32, 8);
    scores_kernel_1<<<grid, block>>>(scores, q, k, z);
    LAUNCH_CHECK();
    const size_t rows = row_count(z);
    softmax_kernel_1<<<divide_up(rows, ROW_WARPS), ROW_WARPS * WARP>>>(scores, lse, rows, z.T);
    LAUNCH_CHECK();
    output_kernel_1<<<divide_up(query_count(z), 128), 128>>>(o, scores, v, z);
    LAUNCH_CHECK();
}

// ---------------------------------------------------------------------------------------------
// Version 2: one warp per query, which passes over its keys once (attention_plain_forward, which
// train_olmo2.cu uses for every head size that the tiles do not support). It keeps the largest score so far,
// the sum of e^(s - max) and the mean of the values with these weights, all in registers, 44 and 40 of them.
// A larger score rescales both. Nothing of size T x T is left: 133,120 bytes written instead of 659,456, only
// o and lse. The lanes read a row side by side, 1.00 sectors. But every query reads its own keys and values,
// 33,816,576 bytes, and the score of one key costs 5 exchanges between lanes and two e^x.

static void forward_2(floatX *o, float *lse, float *, const floatX *q, const floatX *k, const floatX *v,
                      const Shape &z) {
    attention_plain_forward(o, lse, q, k, v, z.v_stride, nullptr, z.B, z.T, z.T, z.NH, z.NKV, z.HS);
}

// ---------------------------------------------------------------------------------------------
// Version 3: tiles of 32 keys and values in shared memory, for the 32 queries of a block: 1,310,720 bytes
// read, a 26th. A warp has 4 queries, and each of its lanes has a key. The lanes compute whole scores, with
// no exchange except the 5 for the maximum of 32 of them, and one e^x per score. For the second product the
// lanes switch to channels, so p goes through shared memory. Each key or value that a lane reads serves 4
// queries: 3 multiply-adds per access to shared memory, of which 197,888 are left. Each row of keys is padded
// by 16 bytes, so 8 lanes that read 16 bytes of one column hit 8 different groups of banks: no conflicts. 80
// registers, and 37,888 bytes of shared memory. The limit is now arithmetic: an A100 does 19.5 T operations
// per second in fp32, and 312 T on its tensor cores.

enum { ROWS = 4, TILE_WARPS = 8, TILE_THREADS = TILE_WARPS * WARP, TILE_QUERIES = ROWS * TILE_WARPS };

// WARP rows of a head, starting at `first`. Rows from T on and channels from HS on become zeros.
template <int N, int WIDTH, typename T>
__device__ static void bring_rows(T *tile, const floatX *head, size_t stride, size_t first, const Shape &z) {
    for (int e = (int)threadIdx.x; e < WARP * WARP * N; e += TILE_THREADS) {
        const size_t r = e / (WARP * N), c = e % (WARP * N);
        tile[r * WIDTH + c] = first + r < z.T && c < z.HS ? (T)head[(first + r) * stride + c] : (T)0.0f;
    }
}

template <int N>
struct Tiles {
    enum { WIDTH = WARP * N + WIDE };  // of a row of keys or values
    float queries[TILE_QUERIES * WARP * N], p[TILE_WARPS * ROWS * WARP];
    floatX keys[WARP * WIDTH], values[WARP * WIDTH];
};

template <int N>
__global__ static void __launch_bounds__(TILE_THREADS)
    forward_kernel_3(floatX *o, float *lse, const floatX *q, const floatX *k, const floatX *v, Shape z) {
    static_assert(TILE_QUERIES == WARP, "bring_rows brings as many queries as keys");
    extern __shared__ __align__(128) unsigned char shared[];
    enum { WIDTH = Tiles<N>::WIDTH };
    Tiles<N> &tiles = *(Tiles<N> *)shared;
    const int lane = lane_number();
    const size_t i0 = (size_t)blockIdx.x * TILE_QUERIES, first = i0 + warp_number() * ROWS;
    const size_t h = blockIdx.y, b = blockIdx.z, g = z.key_head(h);
    const float scale = 1.0f / sqrtf((float)z.HS), *queries = tiles.queries + warp_number() * ROWS * WARP * N;
    float *p = tiles.p + warp_number() * ROWS * WARP;
    float max[ROWS], sum[ROWS] = {}, mean[ROWS][N] = {};  // sum: over the keys of this lane
    for (int r = 0; r < ROWS; r++) { max[r] = -INFINITY; }
    bring_rows<N, WARP * N>(tiles.queries, q + z.query(b, h, 0), z.NH * z.HS, i0, z);
    for (size_t j0 = 0; j0 < i0 + TILE_QUERIES; j0 += WARP) {
        __syncthreads();  // all warps have finished with the previous tiles
        bring_rows<N, WIDTH>(tiles.keys, k + z.key(b, g, 0), z.NKV * z.HS, j0, z);
        bring_rows<N, WIDTH>(tiles.values, v + z.value(b, g, 0), z.v_stride, j0, z);
        __syncthreads();
        float s[ROWS] = {};
#pragma unroll 2
        for (int c = 0; c < WARP * N; c += WIDE) {
            const Vec<floatX, WIDE> k_j = load<WIDE>(tiles.keys + lane * WIDTH + c);
            for (int r = 0; r < ROWS; r++) {
                const Vec<float, WIDE> q_i = load<WIDE>(queries + r * WARP * N + c);
                for (int e = 0; e < WIDE; e++) { s[r] += q_i[e] * (float)k_j[e]; }
            }
        }
        for (int r = 0; r < ROWS; r++) {
            const float score = j0 + lane <= first + r ? s[r] * scale : -INFINITY;
            const float largest = fmaxf(max[r], warp_max(score)), factor = expf(max[r] - largest);
            const float p_ij = expf(score - largest);
            max[r] = largest;
            sum[r] = sum[r] * factor + p_ij;
            for (int n = 0; n < N; n++) { mean[r][n] *= factor; }
            p[r * WARP + lane] = p_ij;
        }
        __syncwarp();
#pragma unroll 2
        for (int j = 0; j < WARP; j += 4) {
            Vec<float, 4> p_i[ROWS];
            for (int r = 0; r < ROWS; r++) { p_i[r] = load<4>(p + r * WARP + j); }
            for (int e = 0; e < 4; e++) {
                for (int n = 0; n < N; n++) {
                    const float v_j = (float)tiles.values[(j + e) * WIDTH + n * WARP + lane];
                    for (int r = 0; r < ROWS; r++) { mean[r][n] += p_i[r][e] * v_j; }
                }
            }
        }
    }
    for (int r = 0; r < ROWS; r++) {
        const float total = warp_sum(sum[r]);
        if (first + r >= z.T) { continue; }
        for (int n = 0; n < N; n++) {
            const size_t c = n * WARP + lane;
            if (c < z.HS) { o[z.query(b, h, first + r) + c] = (floatX)(mean[r][n] / total); }
        }
        if (lane == 0) { lse[z.row(b, h, first + r)] = max[r] + logf(total); }
    }
}

static void forward_3(floatX *o, float *lse, float *, const floatX *q, const floatX *k, const floatX *v,
                      const Shape &z) {
    const dim3 grid(divide_up(z.T, TILE_QUERIES), z.NH, z.B);
    by_head_size(
        [&](auto width) {
            constexpr int N = decltype(width)::value;
            if constexpr (N <= 4) {
                const size_t bytes = sizeof(Tiles<N>);
                allow_shared(forward_kernel_3<N>, bytes);
                forward_kernel_3<N><<<grid, TILE_THREADS, bytes>>>(o, lse, q, k, v, z);
                LAUNCH_CHECK();
            }
        },
        z.HS);
}

static bool takes_3(const size_t *n) { return n[4] <= 128; }

// ---------------------------------------------------------------------------------------------
// Version 4: tensor cores. A warp takes 16 queries and multiplies matrices of 16 x 16 by 16 x 8 in its
// registers. The result of one product has exactly the layout that the next one needs, lane by lane: p needs
// no exchange, only rounding to bf16 and packing. The 4 lanes that hold a row find its maximum in 2
// exchanges. load_matrices loads four matrices of 8 x 8 at once: 7,296 accesses to shared memory instead of
// 197,888. Blocks of 64 queries read 786,432 bytes, by copy_async, without passing through registers. What is
// left: rows have 256 bytes without padding, so the 8 rows of a matrix are in the same 4 banks and are served
// one after the other, 161,280 extra passes, 22 for each access. All warps wait while the tiles arrive. And o
// is written 4 bytes at a time. 185 and 173 registers, 49,152 bytes of shared memory.

#ifndef PRECISION_FP32

enum { MMA_WARPS = 4, MMA_THREADS = MMA_WARPS * WARP, MMA_ROWS = 16 * MMA_WARPS };  // of queries and of keys

// MMA_ROWS rows of a head, 16 bytes at a time; rows from T on become zeros.
template <int HS>
__device__ __forceinline__ void bring_tile(bf16 *tile, const bf16 *head, size_t stride, int first, int T) {
#pragma unroll
    for (int e = (int)threadIdx.x; e < MMA_ROWS * HS / 8; e += MMA_THREADS) {
        const int r = e / (HS / 8), c = e % (HS / 8) * 8;
        copy_async(tile + r * HS + c, head + (size_t)(first + r) * stride + c, first + r < T);
    }
}

// The 16 x 16 block of a tile at row r, column c.
template <int HS>
__device__ __forceinline__ const bf16 *lanes_row(const bf16 *tile, int r, int c) {
    return tile + (r + lane_number() % 16) * HS + c + lane_number() / 16 * 8;
}

template <int HS>
__global__ static void __launch_bounds__(MMA_THREADS)
    forward_kernel_4(bf16 *o, float *lse, const bf16 *q, const bf16 *k, const bf16 *v, Shape z) {
    extern __shared__ __align__(128) unsigned char shared[];
    bf16 *queries = (bf16 *)shared, *keys = queries + MMA_ROWS * HS, *values = keys + MMA_ROWS * HS;
    const int lane = lane_number(), T = (int)z.T;
    const int i0 = (int)blockIdx.x * MMA_ROWS, first = i0 + 16 * warp_number(), row = first + lane / 4;
    const size_t h = blockIdx.y, b = blockIdx.z, g = z.key_head(h);
    const float scale = 1.0f / sqrtf((float)HS);
    float mean[HS / 8][4] = {}, max[2] = {-INFINITY, -INFINITY}, sum[2] = {};  // of rows row and row + 8
    bring_tile<HS>(queries, q + z.query(b, h, 0), z.NH * HS, i0, T);
    for (int j0 = 0; j0 <= i0; j0 += MMA_ROWS) {
        __syncthreads();  // all warps have finished with the previous tiles
        bring_tile<HS>(keys, k + z.key(b, g, 0), z.NKV * HS, j0, T);
        bring_tile<HS>(values, v + z.value(b, g, 0), z.v_stride, j0, T);
        copy_async_commit();
        copy_async_wait<0>();
        __syncthreads();
        float s[MMA_ROWS / 8][4] = {};
#pragma unroll
        for (int c = 0; c < HS; c += 16) {
            uint32_t a[4];
            load_matrices(a, lanes_row<HS>(queries, first - i0, c));
#pragma unroll
            for (int n = 0; n < MMA_ROWS / 16; n++) {
                uint32_t m[4];
                load_matrices(m, lanes_row<HS>(keys, 16 * n, c));
                const uint32_t b0[2] = {m[0], m[2]}, b1[2] = {m[1], m[3]};
                mma_16x8x16(s[2 * n], a, b0);
                mma_16x8x16(s[2 * n + 1], a, b1);
            }
        }
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float largest = max[half];
#pragma unroll
            for (int n = 0; n < MMA_ROWS / 8; n++) {
#pragma unroll
                for (int e = 2 * half; e < 2 * half + 2; e++) {
                    const int i = row + 8 * half, j = j0 + 8 * n + lane % 4 * 2 + e % 2;
                    s[n][e] = j <= i ? s[n][e] * scale : -INFINITY;
                    largest = fmaxf(largest, s[n][e]);
                }
            }
            largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 1));
            largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 2));
            const float factor = expf(max[half] - largest);
            max[half] = largest;
            sum[half] *= factor;
#pragma unroll
            for (int n = 0; n < HS / 8; n++) {
                mean[n][2 * half] *= factor;
                mean[n][2 * half + 1] *= factor;
            }
#pragma unroll
            for (int n = 0; n < MMA_ROWS / 8; n++) {
#pragma unroll
                for (int e = 2 * half; e < 2 * half + 2; e++) {
                    s[n][e] = expf(s[n][e] - largest);
                    sum[half] += s[n][e];
                }
            }
        }
#pragma unroll
        for (int j = 0; j < MMA_ROWS / 16; j++) {
            const float *left = s[2 * j], *right = s[2 * j + 1];
            const uint32_t a[4] = {pack_bf16(left[0], left[1]), pack_bf16(left[2], left[3]),
                                   pack_bf16(right[0], right[1]), pack_bf16(right[2], right[3])};
#pragma unroll
            for (int n = 0; n < HS / 16; n++) {
                uint32_t m[4];
                load_matrices_transposed(m, lanes_row<HS>(values, 16 * j, 16 * n));
                const uint32_t b0[2] = {m[0], m[1]}, b1[2] = {m[2], m[3]};
                mma_16x8x16(mean[2 * n], a, b0);
                mma_16x8x16(mean[2 * n + 1], a, b1);
            }
        }
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int i = row + 8 * half;
        float total = sum[half] + __shfl_xor_sync(0xffffffffu, sum[half], 1);
        total += __shfl_xor_sync(0xffffffffu, total, 2);
        if (i >= T) { continue; }
        if (lane % 4 == 0) { lse[z.row(b, h, i)] = max[half] + logf(total); }
        bf16 *o_i = o + z.query(b, h, i) + lane % 4 * 2;
#pragma unroll
        for (int n = 0; n < HS / 8; n++) {
            *(uint32_t *)(o_i + 8 * n) = pack_bf16(mean[n][2 * half] / total, mean[n][2 * half + 1] / total);
        }
    }
}

template <int HS>
static void forward_4_of(bf16 *o, float *lse, const bf16 *q, const bf16 *k, const bf16 *v, const Shape &z) {
    const dim3 grid(divide_up(z.T, MMA_ROWS), z.NH, z.B);
    const size_t bytes = 3 * MMA_ROWS * HS * sizeof(bf16);
    forward_kernel_4<HS><<<grid, MMA_THREADS, bytes>>>(o, lse, q, k, v, z);
    LAUNCH_CHECK();
}

static void forward_4(floatX *o, float *lse, float *, const floatX *q, const floatX *k, const floatX *v,
                      const Shape &z) {
    if (z.HS == 64) {
        forward_4_of<64>(o, lse, q, k, v, z);
    } else {
        forward_4_of<128>(o, lse, q, k, v, z);
    }
}

// Rows of 64 or 128 channels that begin at multiples of 16 bytes.
static bool takes_4(const size_t *n) { return (n[4] == 64 || n[4] == 128) && n[5] % 8 == 0; }

#else

static void forward_4(floatX *, float *, float *, const floatX *, const floatX *, const floatX *,
                      const Shape &) {}
static bool takes_4(const size_t *) { return false; }  // there are no tensor cores for fp32

#endif

// Version 5, shipped: the same products, but the tensor cores wait less. Chunks of 16 bytes are permuted
// within their row, depending on the row's number: no conflicts. The values arrive while the scores are
// computed, and the next keys arrive while the values are used. A warp has 32 queries, so each matrix from
// shared memory serves two products: 5,760 accesses in all, including those for o. A block has 128 queries:
// 524,288 bytes read, where 393,216 is the minimum. A warp skips tiles that none of its queries sees. Only
// tiles on the diagonal are masked. Blocks with the most keys come first. e^x is 2^x of a score that was
// scaled for it. o is written 16 bytes at a time, by way of shared memory. 238 and 247 registers, so two
// blocks per multiprocessor.

static void forward_5(floatX *o, float *lse, float *, const floatX *q, const floatX *k, const floatX *v,
                      const Shape &z) {
    attention_forward(o, lse, q, k, v, z.v_stride, z.B, z.T, z.NH, z.NKV, z.HS);
}

// On the tensor cores p is rounded before it is multiplied by v. The first row of o is a row of v, so the
// largest |o| is about the largest |v|, and the weights of a row of p sum to 1: at most one more rounding.
static const Version<Forward> forward_versions[] = {
    {forward_1, "scores in memory"},
    {forward_2, "one warp per query"},
    {forward_3, "tiles in shared memory", takes_3},
    {forward_4, "tensor cores", takes_4, 2.0},
    {forward_5, "shipped: prefetched, no conflicts", nullptr, 2.0},
};

// A score of size s has an error of a few 2^-24 s, which becomes the relative error of p; sums of up to 130
// terms.
static double tolerance(double q_size) { return 2e-6 + 2e-7 * q_size; }

static Shape shape_of(const size_t *n) { return {n[0], n[1], n[2], n[3], n[4], n[3] * n[4] + n[5]}; }

// Row i of the scores, and their lse.
static double scores_of(std::vector<double> &s, const Numbers<floatX> &q, const Numbers<floatX> &k,
                        const Shape &z, size_t b, size_t h, size_t i) {
    double max = -INFINITY, sum = 0.0;
    const double *q_i = &q[z.query(b, h, i)];
    for (size_t j = 0; j <= i; j++) {
        const double *k_j = &k[z.key(b, z.key_head(h), j)];
        s[j] = 0.0;
        for (size_t c = 0; c < z.HS; c++) { s[j] += q_i[c] * k_j[c]; }
        s[j] /= sqrt((double)z.HS);
        max = fmax(max, s[j]);
    }
    for (size_t j = 0; j <= i; j++) { sum += exp(s[j] - max); }
    return max + log(sum);
}

// Multiply-adds of a product of a T x T matrix, of which half counts.
static double pairs(const Shape &z) { return (double)row_count(z) * (double)(z.T + 1) / 2.0 * (double)z.HS; }

static void forward_problem(Problem &p) {
    const Shape z = shape_of(p.n);
    const double q_size = (double)p.n[6];
    const auto q = p.input<floatX>(query_count(z), -q_size, q_size);
    const auto k = p.input<floatX>(key_count(z), -2.0, 2.0), v = p.input<floatX>(value_count(z), -1.0, 1.0);
    const auto o = p.output<floatX>("o", query_count(z), tolerance(q_size));
    const auto lse = p.output<float>("lse", row_count(z), 1e-6);
    float *scores = p.space<float>(row_count(z) * z.T);
    p.expect([&] {
        std::vector<double> s(z.T);
        for (size_t b = 0; b < z.B; b++) {
            for (size_t h = 0; h < z.NH; h++) {
                for (size_t i = 0; i < z.T; i++) {
                    const double lse_i = lse[z.row(b, h, i)] = scores_of(s, q, k, z, b, h, i);
                    double *o_i = &o[z.query(b, h, i)];
                    std::fill(o_i, o_i + z.HS, 0.0);
                    for (size_t j = 0; j <= i; j++) {
                        const double p_ij = exp(s[j] - lse_i), *v_j = &v[z.value(b, z.key_head(h), j)];
                        for (size_t c = 0; c < z.HS; c++) { o_i[c] += p_ij * v_j[c]; }
                    }
                }
            }
        }
    });
    p.bytes = 2.0 * (double)((query_count(z) + key_count(z)) * sizeof(floatX)) +
              (double)(row_count(z) * sizeof(float));
    p.flops = 2.0 * 2.0 * pairs(z);
    p.run(forward_versions,
          [&](Forward *version) { version(o.device, lse.device, scores, q.device, k.device, v.device, z); });
}

// ---------------------------------------------------------------------------------------------
// backward. delta (B, NH, T) is scratch for D; probabilities and dscores (B, NH, T, T) are scratch for the
// versions that need them. dv has rows of v_stride elements.

typedef void Backward(floatX *dq, floatX *dk, floatX *dv, float *delta, float *probabilities, float *dscores,
                      const floatX *d_o, const floatX *q, const floatX *k, const floatX *v, const floatX *o,
                      const float *lse, const Shape &z);

// ---------------------------------------------------------------------------------------------
// Version 1: p and ds in memory, twice 4 T^2 bytes per head, 2.15 GB for 16 heads of 4096 tokens. One kernel
// computes D, one writes p and ds, one takes a thread per element of dq, one takes a thread per element of dk
// and dv. 88,832,000 bytes read, 85 times the size of the arrays, in 4.9 times the sectors that they would
// fill. Sums over queries read p down a column, one number for the 32 lanes of a warp. At most 64 and 72
// registers.

__global__ static void delta_kernel_1(float *delta, const floatX *d_o, const floatX *o, Shape z) {
    const size_t row = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= z.B * z.NH * z.T) { return; }
    const size_t at = z.query(row / z.T / z.NH, row / z.T % z.NH, row % z.T);
    delta[row] = dot_of(d_o + at, o + at, z.HS);
}

__global__ static void dscores_kernel_1(float *probabilities, float *dscores, const floatX *d_o,
                                        const floatX *q, const floatX *k, const floatX *v, const float *lse,
                                        const float *delta, Shape z) {
    const size_t j = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    const size_t i = (size_t)blockIdx.y * blockDim.y + threadIdx.y;
    const size_t h = blockIdx.z % z.NH, b = blockIdx.z / z.NH, g = z.key_head(h);
    if (i >= z.T || j > i) { return; }
    const float scale = 1.0f / sqrtf((float)z.HS);
    const size_t row = z.row(b, h, i), query = z.query(b, h, i);
    const float p = expf(dot_of(q + query, k + z.key(b, g, j), z.HS) * scale - lse[row]);
    const float dp = dot_of(d_o + query, v + z.value(b, g, j), z.HS);
    probabilities[row * z.T + j] = p;
    dscores[row * z.T + j] = p * (dp - delta[row]) * scale;
}

__global__ static void dq_kernel_1(floatX *dq, const float *dscores, const floatX *k, Shape z) {
    const size_t at = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= z.B * z.T * z.NH * z.HS) { return; }
    const size_t c = at % z.HS, h = at / z.HS % z.NH, i = at / z.HS / z.NH % z.T, b = at / z.HS / z.NH / z.T;
    const float *ds_i = dscores + z.row(b, h, i) * z.T;
    float sum = 0.0f;
    for (size_t j = 0; j <= i; j++) { sum += ds_i[j] * (float)k[z.key(b, z.key_head(h), j) + c]; }
    dq[at] = (floatX)sum;
}

__global__ static void dkdv_kernel_1(floatX *dk, floatX *dv, const float *probabilities, const float *dscores,
                                     const floatX *d_o, const floatX *q, Shape z) {
    const size_t at = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= z.B * z.T * z.NKV * z.HS) { return; }
    const size_t c = at % z.HS, g = at / z.HS % z.NKV, group = z.NH / z.NKV;
    const size_t j = at / z.HS / z.NKV % z.T, b = at / z.HS / z.NKV / z.T;
    float dk_j = 0.0f, dv_j = 0.0f;
    for (size_t h = g * group; h < (g + 1) * group; h++) {
        for (size_t i = j; i < z.T; i++) {
            const size_t ij = z.row(b, h, i) * z.T + j, query = z.query(b, h, i) + c;
            dk_j += dscores[ij] * (float)q[query];
            dv_j += probabilities[ij] * (float)d_o[query];
        }
    }
    dk[at] = (floatX)dk_j;
    dv[z.value(b, g, j) + c] = (floatX)dv_j;
}

static void backward_1(floatX *dq, floatX *dk, floatX *dv, float *delta, float *probabilities, float *dscores,
                       const floatX *d_o, const floatX *q, const floatX *k, const floatX *v, const floatX *o,
                       const float *lse, const Shape &z) {
    delta_kernel_1<<<divide_up(row_count(z), 128), 128>>>(delta, d_o, o, z);
    LAUNCH_CHECK();
    const dim3 grid(divide_up(z.T, 32), divide_up(z.T, 8), z.B * z.NH), block(32, 8);
    dscores_kernel_1<<<grid, block>>>(probabilities, dscores, d_o, q, k, v, lse, delta, z);
    LAUNCH_CHECK();
    dq_kernel_1<<<divide_up(query_count(z), 128), 128>>>(dq, dscores, k, z);
    LAUNCH_CHECK();
    dkdv_kernel_1<<<divide_up(key_count(z), 128), 128>>>(dk, dv, probabilities, dscores, d_o, q, z);
    LAUNCH_CHECK();
}

// ---------------------------------------------------------------------------------------------
// Version 2: one warp per row (attention_plain_backward). p is recomputed from lse, so nothing of size T x T
// is kept: 395,264 bytes written instead of 921,600. dq sums over keys; dk and dv sum over queries. So there
// are two kernels: one takes a warp per query, the other a warp per key, which covers all query heads that
// read it. Both compute p and dp, seven products instead of five. There are no atomics: each sum is computed
// by one warp in one order. 68,554,752 bytes read, in whole sectors. 48 and 64 registers (sm_90).

static void backward_2(floatX *dq, floatX *dk, floatX *dv, float *delta, float *, float *, const floatX *d_o,
                       const floatX *q, const floatX *k, const floatX *v, const floatX *o, const float *lse,
                       const Shape &z) {
    attention_plain_backward(dq, dk, dv, z.v_stride, delta, d_o, q, k, v, z.v_stride, o, lse, z.B, z.T, z.NH,
                             z.NKV, z.HS);
}

// ---------------------------------------------------------------------------------------------
// Version 3, shipped: the same two kernels with tiles on tensor cores: 1,978,368 bytes read, a 35th. 97 % of
// the accesses are 16 bytes wide, and there are no conflicts. The kernel for dk and dv computes the
// transposes of s and dp, so again the result of one product is the left operand of the next. 228 and 255
// registers (sm_90), none spilled: they hold the operands that a warp uses again and again.

static void backward_3(floatX *dq, floatX *dk, floatX *dv, float *delta, float *, float *, const floatX *d_o,
                       const floatX *q, const floatX *k, const floatX *v, const floatX *o, const float *lse,
                       const Shape &z) {
    attention_backward(dq, dk, dv, z.v_stride, delta, d_o, q, k, v, z.v_stride, o, lse, z.B, z.T, z.NH, z.NKV,
                       z.HS);
}

// On the tensor cores p and ds are rounded before they are multiplied.
static const Version<Backward> backward_versions[] = {
    {backward_1, "p and ds in memory"},
    {backward_2, "one warp per row"},
    {backward_3, "shipped: tiles on tensor cores", nullptr, 2.0},
};

static void backward_problem(Problem &p) {
    const Shape z = shape_of(p.n);
    const double q_size = (double)p.n[6];
    const auto q = p.input<floatX>(query_count(z), -q_size, q_size);
    const auto k = p.input<floatX>(key_count(z), -2.0, 2.0), v = p.input<floatX>(value_count(z), -1.0, 1.0);
    const auto d_o = p.input<floatX>(query_count(z), -1.0, 1.0);
    const auto dq = p.output<floatX>("dq", query_count(z), 2.0 * tolerance(q_size)),
               dk = p.output<floatX>("dk", key_count(z), 2.0 * tolerance(q_size));
    // The gaps between the rows of dv must stay unchanged.
    const auto dv = p.changed<floatX>("dv", value_count(z), 2.0 * tolerance(q_size), -0.5, 0.5);
    float *delta = p.space<float>(row_count(z));
    float *probabilities = p.space<float>(row_count(z) * z.T), *dscores = p.space<float>(row_count(z) * z.T);
    floatX *o = p.upload(std::vector<floatX>(query_count(z)));
    float *lse = p.upload(std::vector<float>(row_count(z)));
    attention_forward(o, lse, q.device, k.device, v.device, z.v_stride, z.B, z.T, z.NH, z.NKV, z.HS);
    p.expect([&] {
        std::vector<double> s(z.T);
        std::vector<floatX> rounded(query_count(z));
        CUDA_CHECK(cudaMemcpy(rounded.data(), o, rounded.size() * sizeof(floatX), cudaMemcpyDeviceToHost));
        std::fill(&dq[0], &dq[0] + query_count(z), 0.0);
        std::fill(&dk[0], &dk[0] + key_count(z), 0.0);
        for (size_t n = 0; n < z.B * z.T; n++) {
            std::fill(&dv[n * z.v_stride], &dv[n * z.v_stride] + z.NKV * z.HS, 0.0);
        }
        for (size_t b = 0; b < z.B; b++) {
            for (size_t h = 0; h < z.NH; h++) {
                for (size_t i = 0; i < z.T; i++) {
                    const double lse_i = scores_of(s, q, k, z, b, h, i);
                    const size_t query = z.query(b, h, i);
                    double D = 0.0;
                    for (size_t c = 0; c < z.HS; c++) {
                        D += d_o[query + c] * (double)(float)rounded[query + c];
                    }
                    for (size_t j = 0; j <= i; j++) {
                        const size_t key = z.key(b, z.key_head(h), j), value = z.value(b, z.key_head(h), j);
                        double dp = 0.0;
                        for (size_t c = 0; c < z.HS; c++) { dp += d_o[query + c] * v[value + c]; }
                        const double p_ij = exp(s[j] - lse_i), ds = p_ij * (dp - D) / sqrt((double)z.HS);
                        for (size_t c = 0; c < z.HS; c++) {
                            dq[query + c] += ds * k[key + c];
                            dk[key + c] += ds * q[query + c];
                            dv[value + c] += p_ij * d_o[query + c];
                        }
                    }
                }
            }
        }
    });
    p.bytes = 4.0 * (double)((query_count(z) + key_count(z)) * sizeof(floatX)) +
              (double)(row_count(z) * sizeof(float));
    p.flops = 2.0 * 5.0 * pairs(z);
    p.run(backward_versions, [&](Backward *version) {
        version(dq.device, dk.device, dv.device, delta, probabilities, dscores, d_o.device, q.device,
                k.device, v.device, o, lse, z);
    });
}

// ---------------------------------------------------------------------------------------------
// decode: q (n, NH, HS), and a cache of keys and values (pages, page_T, NKV, HS) -> o (n, NH, HS). Piece i is
// one query: row pieces[i].row of q, which sees positions j <= pieces[i].position of page pieces[i].page.

typedef void Decode(floatX *o, const floatX *q, const floatX *keys, const floatX *values, const Piece *pieces,
                    size_t n, size_t page_T, size_t NH, size_t NKV, size_t HS);

// ---------------------------------------------------------------------------------------------
// Version 1: one thread per output, which computes the scores of its head itself: with 128 channels, 128
// times. The 32 lanes of a warp read the same number of a key at the same time, 33,821,184 accesses and
// 2,368,896 bytes, 4.5 times the size of the arrays for 4 sequences of 1 to 256 positions. And a sequence
// passes over its positions one after the other. 40 registers.

__global__ static void decode_kernel_1(floatX *o, const floatX *q, const floatX *keys, const floatX *values,
                                       const Piece *pieces, size_t n, size_t page_T, size_t NH, size_t NKV,
                                       size_t HS) {
    const size_t thread = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (thread >= n * NH * HS) { return; }
    const Piece piece = pieces[thread / HS / NH];
    const size_t c = thread % HS, h = thread / HS % NH, g = h / (NH / NKV),
                 at = (piece.row * NH + h) * HS + c;
    const size_t begin = (piece.page * page_T * NKV + g) * HS;
    const float scale = 1.0f / sqrtf((float)HS);
    float max = -INFINITY, sum = 0.0f, mean = 0.0f;
    for (size_t j = 0; j <= piece.position; j++) {
        const size_t row = begin + j * NKV * HS;
        const float s = dot_of(q + (at - c), keys + row, HS) * scale, largest = fmaxf(max, s);
        const float factor = expf(max - largest), p = expf(s - largest);
        max = largest;
        sum = sum * factor + p;
        mean = mean * factor + p * (float)values[row + c];
    }
    o[at] = (floatX)(mean / sum);
}

static void decode_1(floatX *o, const floatX *q, const floatX *keys, const floatX *values,
                     const Piece *pieces, size_t n, size_t page_T, size_t NH, size_t NKV, size_t HS) {
    decode_kernel_1<<<divide_up(n * NH * HS, 128), 128>>>(o, q, keys, values, pieces, n, page_T, NH, NKV, HS);
    LAUNCH_CHECK();
}

// Version 2, shipped: 16 warps per head of a sequence. Each takes every 16th key, and their results are
// combined in shared memory at the end. Lanes are channels: 32 of them compute a score once. 1.07 times the
// minimum bytes, 295,936 accesses, and 16 keys and values of each head in flight instead of one.
static const Version<Decode> decode_versions[] = {
    {decode_1, "one thread per output"},
    {attention_decode, "shipped: 16 warps per head"},
};

// n sequences, from one of T positions to one that has just begun, in n + 1 slots of T + 1 rows. Unused rows
// are NaN.
static void decode_problem(Problem &p) {
    const size_t n = p.n[0], T = p.n[1], NH = p.n[2], NKV = p.n[3], HS = p.n[4];
    const size_t KV = NKV * HS, slot_stride = (T + 1) * KV, cache = (n + 1) * slot_stride;
    const auto q = p.input<floatX>(n * NH * HS, -2.0, 2.0);
    const auto keys = p.input<floatX>(cache, -2.0, 2.0), values = p.input<floatX>(cache, -1.0, 1.0);
    const auto o = p.output<floatX>("o", n * NH * HS, tolerance(2.0));
    std::vector<uint32_t> slots(n), positions(n);
    std::vector<uint32_t> pieces;
    p.bytes = 2.0 * (double)(n * NH * HS * sizeof(floatX));
    for (size_t i = 0; i < n; i++) {
        slots[i] = (uint32_t)(n - i);
        positions[i] = (uint32_t)((T - 1) * (n - 1 - i) / std::max(n - 1, (size_t)1));
        pieces.insert(pieces.end(), {(uint32_t)i, 1, positions[i], slots[i]});  // the fields of a Piece
        const size_t used = (positions[i] + 1) * KV, end = slots[i] * slot_stride + used;
        for (const auto &a : {keys, values}) {
            CUDA_CHECK(cudaMemset(a.device + end, 0xff, (slot_stride - used) * sizeof(floatX)));
            CUDA_CHECK(cudaMemset(a.device, 0xff, slot_stride * sizeof(floatX)));  // the unused slot
        }
        p.bytes += 2.0 * (double)(used * sizeof(floatX));
        p.flops += 2.0 * 2.0 * (double)((positions[i] + 1) * NH * HS);
    }
    const Piece *device_pieces = (const Piece *)p.upload(pieces);
    p.expect([&] {
        std::vector<double> s(T);
        for (size_t row = 0; row < n * NH; row++) {
            const size_t i = row / NH, g = row % NH / (NH / NKV), begin = slots[i] * slot_stride + g * HS;
            double sum = 0.0, *o_i = &o[row * HS];
            for (size_t j = 0; j <= positions[i]; j++) {
                s[j] = 0.0;
                for (size_t c = 0; c < HS; c++) { s[j] += q[row * HS + c] * keys[begin + j * KV + c]; }
                sum += s[j] = exp(s[j] / sqrt((double)HS));
            }
            std::fill(o_i, o_i + HS, 0.0);
            for (size_t j = 0; j <= positions[i]; j++) {
                for (size_t c = 0; c < HS; c++) { o_i[c] += s[j] / sum * values[begin + j * KV + c]; }
            }
        }
    });
    p.run(decode_versions, [&](Decode *version) {
        version(o.device, q.device, keys.device, values.device, device_pieces, n, T + 1, NH, NKV, HS);
    });
}

int main(int argc, char **argv) {
    const char *lengths = "B, T, NH, NKV, HS, gap, q";  // gap: between rows of v; q: the largest number in q
    const std::vector<std::vector<size_t>> edges = {
        {1, 1, 2, 2, 8, 0, 2},   {2, 3, 4, 1, 12, 5, 2},    {2, 16, 2, 2, 64, 8, 2},  {1, 63, 4, 1, 96, 8, 2},
        {2, 65, 2, 2, 64, 0, 2}, {1, 65, 6, 2, 128, 8, 2},  {1, 130, 2, 1, 64, 8, 2}, {1, 65, 2, 2, 80, 3, 2},
        {1, 33, 2, 1, 64, 1, 2}, {1, 65, 2, 2, 64, 8, 100},
    };
    const std::vector<size_t> counted = {1, 256, 2, 2, 128, 512, 2}, timed = {1, 4096, 16, 16, 128, 4096, 2};
    const Operation operations[] = {
        {"forward", forward_problem, lengths, edges, counted, timed},
        {"backward", backward_problem, lengths, edges, counted, timed},
        {"decode",
         decode_problem,
         "n, T, NH, NKV, HS",
         {{1, 1, 2, 2, 8}, {3, 40, 6, 2, 12}, {2, 65, 4, 1, 64}, {4, 17, 2, 2, 128}, {2, 130, 2, 1, 80}},
         {4, 256, 2, 2, 128},
         {8, 4096, 16, 16, 128}},
    };
    return ladder_main(argc, argv, operations);
}
