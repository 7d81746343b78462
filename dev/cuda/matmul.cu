// matmul.cu: the matrix product y = x W^T and the two products of its backward, from the plainest kernels to
// the tensor cores and to cuBLAS, which train_olmo2.cu calls. README.md says how to build and read this.
//
//   ./matmul forward                 x (N, I), w (O, I) -> y (N, O) = x W^T
//   ./matmul backward_input          dy (N, O), w -> dx (N, I) = dy W, assigned or accumulated
//   ./matmul backward_weight_fp32    dy, x -> dw (O, I) += dy^T x; _bf16 where dw is stored in bf16
//
// 2 N I O operations on N I + I O + N O numbers: most of a step's time is spent in this layer. An A100 reads
// 2 TB/s and does 312 T operations per second on its tensor cores, so it must do 150 operations for every
// byte that it reads. The versions are about where a number is kept between its uses: in memory, in shared
// memory, in registers. Figures: N, I, O = 256, 128, 256 in bf16, where x and w have 131,072 bytes and there
// are 8,388,608 multiply-adds; bytes, accesses (of a thread to memory, of a warp to shared memory) and bank
// conflicts are counted by the checker of dev/cuda_on_cpu; registers are those of nvcc 13.0 for sm_80.

#include "ladder.cuh"

// A product in fp32 is a sum of up to 520 numbers here, with rounding errors of 6e-8 of either sign.
static const double TOLERANCE = 3e-6;

// ---------------------------------------------------------------------------------------------
// forward: x (N, I), w (O, I) -> y (N, O)

typedef void Forward(floatX *y, const floatX *x, const floatX *w, size_t N, size_t I, size_t O);

// ---------------------------------------------------------------------------------------------
// Version 1: one thread per output. Both operands of every multiply-add come from memory, 16,842,752 accesses
// and 17,301,504 bytes, 132 times the size of the inputs. Neighbouring threads take neighbouring outputs,
// that is, neighbouring rows of w: the 32 lanes of a warp read 2 bytes each from 32 rows, and move 11 times
// the sectors that their bytes would fill.

__global__ static void forward_kernel_1(floatX *y, const floatX *x, const floatX *w, size_t N, size_t I,
                                        size_t O) {
    const size_t o = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    const size_t n = (size_t)blockIdx.y * blockDim.y + threadIdx.y;
    if (n >= N || o >= O) { return; }
    float sum = 0.0f;
    for (size_t i = 0; i < I; i++) { sum += (float)x[n * I + i] * (float)w[o * I + i]; }
    y[n * O + o] = (floatX)sum;
}

static void forward_1(floatX *y, const floatX *x, const floatX *w, size_t N, size_t I, size_t O) {
    const dim3 grid(divide_up(O, 32), divide_up(N, 8)), block(32, 8);
    forward_kernel_1<<<grid, block>>>(y, x, w, N, I, O);
    LAUNCH_CHECK();
}

// ---------------------------------------------------------------------------------------------
// Version 2: tiles in shared memory. A block of 32 x 32 threads takes 32 x 32 outputs. It loads 32 columns of
// its rows of x and w at a time, in their original layout. Every number is read once and used 32 times:
// 1,048,576 bytes, a 16th, in whole sectors. What is left is two accesses to shared memory per multiply-add,
// 540,672. A row of w's tile is padded by one number: the lanes of a warp read the same column of 32 rows,
// and with rows of 32 numbers all of these would be in one of the 32 banks and cost 8,126,464 extra passes.

enum { SMALL = 32 };

__global__ static void forward_kernel_2(floatX *y, const floatX *x, const floatX *w, size_t N, size_t I,
                                        size_t O) {
    __shared__ float x_tile[SMALL][SMALL], w_tile[SMALL][SMALL + 1];
    const int row = (int)threadIdx.y, column = (int)threadIdx.x;
    const size_t n0 = (size_t)blockIdx.y * SMALL, o0 = (size_t)blockIdx.x * SMALL;
    const size_t n = n0 + row, o = o0 + column;
    float sum = 0.0f;
    for (size_t i0 = 0; i0 < I; i0 += SMALL) {
        const size_t i = i0 + column;
        x_tile[row][column] = n < N && i < I ? (float)x[n * I + i] : 0.0f;
        w_tile[row][column] = o0 + row < O && i < I ? (float)w[(o0 + row) * I + i] : 0.0f;
        __syncthreads();
        for (int k = 0; k < SMALL; k++) { sum += x_tile[row][k] * w_tile[column][k]; }
        __syncthreads();  // before the next tiles overwrite these
    }
    if (n < N && o < O) { y[n * O + o] = (floatX)sum; }
}

static void forward_2(floatX *y, const floatX *x, const floatX *w, size_t N, size_t I, size_t O) {
    const dim3 grid(divide_up(O, SMALL), divide_up(N, SMALL)), block(SMALL, SMALL);
    forward_kernel_2<<<grid, block>>>(y, x, w, N, I, O);
    LAUNCH_CHECK();
}

// ---------------------------------------------------------------------------------------------
// Version 3: tiles in registers. A thread takes 8 x 8 outputs, a block of 256 threads 128 x 128. For one
// column it reads 8 numbers of x and 8 of w, with 4 loads of 16 bytes, and does 64 multiply-adds with them:
// 20,480 accesses to shared memory, a 26th. Memory is read once for 128 rows or columns: 262,144 bytes. The
// tiles are transposed, so one load gets 4 numbers of a column. Their rows have 132 numbers; without the
// padding, storing them would cost 61,440 passes, and with it 4,096 remain. 111 registers, 64 of them sums,
// so 2 blocks per multiprocessor. This is the limit of plain arithmetic: 19.5 TFLOP/s on an A100.

enum { TILE = 128, STEP = 16, PITCH = TILE + 4 };

// Rows first, first + 1, ... of a matrix (rows, I), columns i to i + STEP - 1 -> tile (STEP, TILE),
// transposed: numbers of one column are contiguous. Elements outside the matrix become zero.
__device__ static inline void load_transposed(float tile[STEP][PITCH], const floatX *matrix, size_t first,
                                              size_t rows, size_t i, size_t I) {
    for (int at = (int)threadIdx.x; at < TILE * STEP; at += (int)blockDim.x) {
        const int r = at / STEP, k = at % STEP;
        const bool inside = first + r < rows && i + k < I;
        tile[k][r] = inside ? (float)matrix[(first + r) * I + i + k] : 0.0f;
    }
}

__global__ static void __launch_bounds__(256, 2)
    forward_kernel_3(floatX *y, const floatX *x, const floatX *w, size_t N, size_t I, size_t O) {
    __shared__ __align__(16) float x_tile[STEP][PITCH], w_tile[STEP][PITCH];
    const int row = (int)threadIdx.x / 16 * 4, column = (int)threadIdx.x % 16 * 4, half = TILE / 2;
    const size_t n0 = (size_t)blockIdx.y * TILE, o0 = (size_t)blockIdx.x * TILE;
    float sum[8][8] = {};
    for (size_t i = 0; i < I; i += STEP) {
        load_transposed(x_tile, x, n0, N, i, I);
        load_transposed(w_tile, w, o0, O, i, I);
        __syncthreads();
        for (int k = 0; k < STEP; k++) {
            const Vec<float, 4> x_k[2] = {load<4>(&x_tile[k][row]), load<4>(&x_tile[k][row + half])};
            const Vec<float, 4> w_k[2] = {load<4>(&w_tile[k][column]), load<4>(&w_tile[k][column + half])};
#pragma unroll
            for (int a = 0; a < 8; a++) {
#pragma unroll
                for (int b = 0; b < 8; b++) { sum[a][b] += x_k[a / 4][a % 4] * w_k[b / 4][b % 4]; }
            }
        }
        __syncthreads();  // before the next tiles overwrite these
    }
#pragma unroll
    for (int a = 0; a < 8; a++) {
#pragma unroll
        for (int b = 0; b < 8; b++) {
            const size_t n = n0 + row + a / 4 * half + a % 4, o = o0 + column + b / 4 * half + b % 4;
            if (n < N && o < O) { y[n * O + o] = (floatX)sum[a][b]; }
        }
    }
}

static void forward_3(floatX *y, const floatX *x, const floatX *w, size_t N, size_t I, size_t O) {
    const dim3 grid(divide_up(O, TILE), divide_up(N, TILE));
    forward_kernel_3<<<grid, 256>>>(y, x, w, N, I, O);
    LAUNCH_CHECK();
}

// ---------------------------------------------------------------------------------------------
// Version 4: tensor cores. One instruction of a warp multiplies 16 x 16 by 16 x 8 numbers, 2,048
// multiply-adds, at 16 times the speed of plain ones on an A100. A warp takes 64 x 64 outputs, a block of 4
// warps 128 x 128. For 16 columns a warp loads its operands with 8 load_matrices and does 32 products, with
// 128 registers of sums and 215 in all. The tiles keep bf16 and the order of rows. They need neither
// conversion nor transposition, so they are copied without passing through registers (copy_async). There are
// three tiles of each matrix, one in use and two in flight: 48 KiB. Rows are 64 bytes long, so the same place
// in 8 of them would be in 2 of 8 groups of banks. tile_place, explained with attention in train_olmo2.cu,
// moves them apart: no conflicts, where without it there are 12,288 for 1,792 accesses.

#ifndef PRECISION_FP32

enum { DEPTH = 32, STAGES = 3, MMA_THREADS = 128, PART = TILE * DEPTH };

// Starts to copy columns 32 step to 32 step + 31 of rows first, first + 1, ... of a matrix (rows, I) to a
// tile. Elements outside the matrix become zeros.
__device__ static inline void copy_part(bf16 *tile, const bf16 *matrix, size_t first, size_t rows, int step,
                                        size_t I) {
    constexpr int CHUNKS = DEPTH / 8;
    const int c = (int)threadIdx.x % CHUNKS;
    const size_t i = (size_t)step * DEPTH + c * 8;
#pragma unroll
    for (int r = (int)threadIdx.x / CHUNKS; r < TILE; r += MMA_THREADS / CHUNKS) {
        const bool present = first + r < rows && i < I;
        copy_async(tile + tile_place<DEPTH>(r, c), matrix + (first + r) * I + i, present);
    }
}

__global__ static void __launch_bounds__(MMA_THREADS, 2)
    forward_kernel_4(bf16 *y, const bf16 *x, const bf16 *w, size_t N, size_t I, size_t O) {
    extern __shared__ __align__(128) unsigned char shared[];
    bf16 *x_tiles = (bf16 *)shared, *w_tiles = x_tiles + STAGES * PART;  // (STAGES, TILE, DEPTH)
    const int row = warp_number() / 2 * 64, column = warp_number() % 2 * 64;
    const int steps = (int)((I + DEPTH - 1) / DEPTH);
    const size_t n0 = (size_t)blockIdx.y * TILE, o0 = (size_t)blockIdx.x * TILE;
    float sum[4][8][4] = {};
    for (int step = 0; step < STAGES - 1; step++) {
        copy_part(x_tiles + step * PART, x, n0, N, step, I);
        copy_part(w_tiles + step * PART, w, o0, O, step, I);
        copy_async_commit();
    }
    for (int step = 0; step < steps; step++) {
        const int now = step % STAGES * PART, next = (step + STAGES - 1) % STAGES * PART;
        copy_async_wait<STAGES - 2>();
        __syncthreads();  // this step's tiles are complete, and all warps have finished with the last ones
        copy_part(x_tiles + next, x, n0, N, step + STAGES - 1, I);
        copy_part(w_tiles + next, w, o0, O, step + STAGES - 1, I);
        copy_async_commit();
#pragma unroll
        for (int k = 0; k < DEPTH / 16; k++) {
            uint32_t a[4][4];
#pragma unroll
            for (int m = 0; m < 4; m++) {
                load_matrices(a[m], block_row<DEPTH, DOWN>(x_tiles + now, row + 16 * m, k));
            }
            multiply_rows<DEPTH, 4, 64>(sum, a, w_tiles + now + column * DEPTH, k);
        }
    }
    const int lane = lane_number();
#pragma unroll
    for (int m = 0; m < 4; m++) {
#pragma unroll
        for (int j = 0; j < 8; j++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const size_t n = n0 + row + 16 * m + 8 * half + lane / 4;
                const size_t o = o0 + column + 8 * j + 2 * (lane % 4);
                const uint32_t pair = pack_bf16(sum[m][j][2 * half], sum[m][j][2 * half + 1]);
                if (n < N && o < O) { *(uint32_t *)(y + n * O + o) = pair; }
            }
        }
    }
}

static void forward_4(floatX *y, const floatX *x, const floatX *w, size_t N, size_t I, size_t O) {
    const dim3 grid(divide_up(O, TILE), divide_up(N, TILE));
    const size_t bytes = 2 * STAGES * PART * sizeof(bf16);
    forward_kernel_4<<<grid, MMA_THREADS, bytes>>>(y, x, w, N, I, O);
    LAUNCH_CHECK();
}

// Rows of x and w are copied 16 bytes at a time, and y is written 4 bytes at a time.
static bool takes_4(const size_t *n) { return n[1] % 8 == 0 && n[2] % 2 == 0; }

#else

static void forward_4(floatX *, const floatX *, const floatX *, size_t, size_t, size_t) {}
static bool takes_4(const size_t *) { return false; }  // tensor cores would round fp32

#endif

// Version 5, shipped: cuBLAS, which has many such kernels and chooses by size and device. On an H100 it also
// has kernels that only this device can run: four warps multiply together straight from shared memory,
// without load_matrices. (The checker does not see into cuBLAS and counts nothing.)
static const Version<Forward> forward_versions[] = {
    {forward_1, "one thread per output"}, {forward_2, "tiles in shared memory"},
    {forward_3, "tiles in registers"},    {forward_4, "tensor cores", takes_4},
    {matmul_forward, "shipped: cuBLAS"},
};

static void forward_problem(Problem &p) {
    const size_t N = p.n[0], I = p.n[1], O = p.n[2];
    const auto x = p.input<floatX>(N * I, -1.0, 1.0), w = p.input<floatX>(O * I, -1.0, 1.0);
    const auto y = p.output<floatX>("y", N * O, TOLERANCE);
    p.expect([&] {
        for (size_t n = 0; n < N; n++) {
            for (size_t o = 0; o < O; o++) {
                double sum = 0.0;
                for (size_t i = 0; i < I; i++) { sum += x[n * I + i] * w[o * I + i]; }
                y[n * O + o] = sum;
            }
        }
    });
    p.flops = 2.0 * (double)N * (double)I * (double)O;
    p.run(forward_versions, [&](Forward *version) { version(y.device, x.device, w.device, N, I, O); });
}

// ---------------------------------------------------------------------------------------------
// backward_input: dy (N, O), w (O, I) -> dx (N, I) = dy W. Here the sum runs over the rows of w, so
// neighbouring threads read neighbouring numbers, and version 1 wastes no sectors.

typedef void BackwardInput(floatX *dx, const floatX *dy, const floatX *w, size_t N, size_t I, size_t O,
                           bool accumulate_dx);

__global__ static void backward_input_kernel_1(floatX *dx, const floatX *dy, const floatX *w, size_t N,
                                               size_t I, size_t O, bool accumulate_dx) {
    const size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    const size_t n = (size_t)blockIdx.y * blockDim.y + threadIdx.y;
    if (n >= N || i >= I) { return; }
    float sum = accumulate_dx ? (float)dx[n * I + i] : 0.0f;
    for (size_t o = 0; o < O; o++) { sum += (float)dy[n * O + o] * (float)w[o * I + i]; }
    dx[n * I + i] = (floatX)sum;
}

static void backward_input_1(floatX *dx, const floatX *dy, const floatX *w, size_t N, size_t I, size_t O,
                             bool accumulate_dx) {
    const dim3 grid(divide_up(I, 32), divide_up(N, 8)), block(32, 8);
    backward_input_kernel_1<<<grid, block>>>(dx, dy, w, N, I, O, accumulate_dx);
    LAUNCH_CHECK();
}

static const Version<BackwardInput> backward_input_versions[] = {
    {backward_input_1, "one thread per output"},
    {matmul_backward_input, "shipped: cuBLAS"},
};

static void backward_input_problem(Problem &p) {
    const size_t N = p.n[0], I = p.n[1], O = p.n[2];
    const bool accumulate_dx = p.n[3] != 0;
    const auto dy = p.input<floatX>(N * O, -1.0, 1.0), w = p.input<floatX>(O * I, -1.0, 1.0);
    const auto dx = accumulate_dx ? p.changed<floatX>("dx", N * I, TOLERANCE, -4.0, 4.0)
                                  : p.output<floatX>("dx", N * I, TOLERANCE);
    p.expect([&] {
        for (size_t n = 0; n < N; n++) {
            for (size_t i = 0; i < I; i++) {
                double sum = accumulate_dx ? dx[n * I + i] : 0.0;
                for (size_t o = 0; o < O; o++) { sum += dy[n * O + o] * w[o * I + i]; }
                dx[n * I + i] = sum;
            }
        }
    });
    p.flops = 2.0 * (double)N * (double)I * (double)O;
    p.run(backward_input_versions,
          [&](BackwardInput *version) { version(dx.device, dy.device, w.device, N, I, O, accumulate_dx); });
}

// ---------------------------------------------------------------------------------------------
// backward_weight: dy (N, O), x (N, I) -> dw (O, I) += dy^T x, summed over the rows of both. The old value is
// added in fp32 and the result is rounded once, in whatever type dw is stored: cuBLAS does so too (beta = 1).

typedef void BackwardWeight(Array dw, const floatX *dy, const floatX *x, size_t N, size_t I, size_t O);

template <typename G>
__global__ static void backward_weight_kernel_1(G *dw, const floatX *dy, const floatX *x, size_t N, size_t I,
                                                size_t O) {
    const size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    const size_t o = (size_t)blockIdx.y * blockDim.y + threadIdx.y;
    if (o >= O || i >= I) { return; }
    float sum = (float)dw[o * I + i];
    for (size_t n = 0; n < N; n++) { sum += (float)dy[n * O + o] * (float)x[n * I + i]; }
    dw[o * I + i] = (G)sum;
}

static void backward_weight_1(Array dw, const floatX *dy, const floatX *x, size_t N, size_t I, size_t O) {
    const dim3 grid(divide_up(I, 32), divide_up(O, 8)), block(32, 8);
    by_type(dw, [&](auto *d) { backward_weight_kernel_1<<<grid, block>>>(d, dy, x, N, I, O); });
    LAUNCH_CHECK();
}

static const Version<BackwardWeight> backward_weight_versions[] = {
    {backward_weight_1, "one thread per output"},
    {matmul_backward_weight, "shipped: cuBLAS"},
};

// G is the type of the parameter gradients.
template <typename G>
static void backward_weight_problem(Problem &p) {
    const size_t N = p.n[0], I = p.n[1], O = p.n[2];
    const auto dy = p.input<floatX>(N * O, -1.0, 1.0), x = p.input<floatX>(N * I, -1.0, 1.0);
    const auto dw = p.changed<G>("dw", O * I, TOLERANCE, -4.0, 4.0);
    p.expect([&] {
        for (size_t o = 0; o < O; o++) {
            for (size_t i = 0; i < I; i++) {
                for (size_t n = 0; n < N; n++) { dw[o * I + i] += dy[n * O + o] * x[n * I + i]; }
            }
        }
    });
    p.flops = 2.0 * (double)N * (double)I * (double)O;
    p.run(backward_weight_versions, [&](BackwardWeight *version) {
        version(Array{dw.device, sizeof(G) < sizeof(float)}, dy.device, x.device, N, I, O);
    });
}

int main(int argc, char **argv) {
    const Operation operations[] = {
        {"forward",
         forward_problem,
         "N, I, O",
         {{1, 1, 1},
          {1, 8, 2},
          {33, 31, 35},
          {2, 64, 128},
          {128, 32, 130},
          {131, 104, 142},
          {65, 33, 129},
          {64, 520, 66}},
         {256, 128, 256},
         {8192, 2048, 8192}},
        {"backward_input",
         backward_input_problem,
         "N, I, O, accumulate",
         {{1, 1, 1, 0}, {33, 31, 35, 0}, {33, 31, 35, 1}, {7, 64, 128, 1}},
         {256, 128, 256, 1},
         {8192, 2048, 8192, 1}},
        {"backward_weight_fp32",
         backward_weight_problem<float>,
         "N, I, O",
         {{1, 1, 1}, {33, 31, 35}, {64, 24, 128}},
         {256, 128, 256},
         {8192, 2048, 8192}},
#ifndef PRECISION_FP32
        {"backward_weight_bf16",
         backward_weight_problem<bf16>,
         "N, I, O",
         {{1, 1, 1}, {33, 31, 35}, {64, 24, 128}},
         {256, 128, 256},
         {8192, 2048, 8192}},
#endif
    };
    Error err;
    if (!cublas_open(&err)) {
        fprintf(stderr, "error: %s\n", err.text);
        return 1;
    }
    const int status = ladder_main(argc, argv, operations);
    cublas_close();
    return status;
}
