// matmul.c: the matrix product y = x W^T and the two products of its backward, from the plainest loops to
// llmc/gemm.h, which train_olmo2.c calls. README.md says how to build and read this.
//
//   build/cpu/matmul forward            x (N, I), w (O, I) -> y (N, O) = x W^T
//   build/cpu/matmul backward_input     dy (N, O), w -> dx (N, I) = dy W, assigned or accumulated
//   build/cpu/matmul backward_weight    dy, x -> dw (O, I) += dy^T x
//
// 2 N I O operations on N I + I O + N O numbers. A core can start one or two fused multiply-adds of 8 or 16
// numbers in every cycle. It does so only if none of them waits for another, and if their operands are in
// registers or in the first-level cache. The versions are about these two conditions.

#include "ladder.h"

// A product in fp32 is a sum of up to 600 numbers here, with rounding errors of 6e-8 of either sign.
static const double TOLERANCE = 3e-6;

// ---------------------------------------------------------------------------------------------
// Version 1: each output is a separate sum. The source fixes the order of the sum, so each addition waits
// three or four cycles for the previous one. In this time a core could do a hundred operations. Also,
// backward_input walks down the columns of one matrix, and backward_weight down those of two. There each
// number is on a cache line of its own: memory delivers 16 numbers for each one used.
// GFLOP/s on 1 / 2 threads: forward 2.48 / 4.91, backward_input 0.36 / 0.74, backward_weight 0.44 / 0.88.

// C (M, N) = A B, or C += A B, with the arguments of gemm.
typedef void Product(float *C, size_t ldc, Matrix A, Matrix B, size_t M, size_t N, size_t K, bool accumulate);

static const float *at(Matrix m, size_t r, size_t c) {
    return (const float *)m.data + r * m.row_stride + c * m.column_stride;
}

static float element(Matrix m, size_t r, size_t c) { return *at(m, r, c); }

// The part of the matrix that begins at row r and column c.
static Matrix part(Matrix m, size_t r, size_t c) {
    return matrix_of(at(m, r, c), m.row_stride, m.column_stride);
}

static void product_1_serial(float *C, size_t ldc, Matrix A, Matrix B, size_t M, size_t N, size_t K,
                             bool accumulate) {
    for (size_t i = 0; i < M; i++) {
        for (size_t j = 0; j < N; j++) {
            float sum = accumulate ? C[i * ldc + j] : 0.0f;
            for (size_t k = 0; k < K; k++) { sum += element(A, i, k) * element(B, k, j); }
            C[i * ldc + j] = sum;
        }
    }
}

static void product_1(float *C, size_t ldc, Matrix A, Matrix B, size_t M, size_t N, size_t K,
                      bool accumulate) {
#pragma omp parallel for
    for (size_t i = 0; i < M; i++) {
        product_1_serial(C + i * ldc, ldc, part(A, i, 0), B, 1, N, K, accumulate);
    }
}

// ---------------------------------------------------------------------------------------------
// Version 2, like llm.c and with its -ffast-math (loops.c): all loops run along rows, and sums are split into
// lanes, so everything becomes vector code. In the forward, eight rows share each load of w: nine loads for
// eight multiply-adds. What is left: the lanes of each output must be summed. The backwards need two loads
// and a store per multiply-add. And every row, or eight, passes over a whole matrix, which no near cache can
// hold for the next.
// GFLOP/s on 1 / 2 threads: forward 29.7 / 65.4, backward_input 18 / 41.9, backward_weight 39.2 / 77.9.

// ---------------------------------------------------------------------------------------------
// Version 3: tiles. A tile of the output stays in registers while k runs, and each load serves all rows or
// columns of the tile: in the backwards, 10 loads for 16 vector multiply-adds (AVX-512), none of which waits
// for another. The loops around it take 256 k and 192 columns of B at a time, which the second-level cache
// holds for all the rows. The vectors are the compiler's extension (gemm.h), because GCC and Clang leave a
// plain two-dimensional array in memory. What is left: the layout of the matrices. In the forward, columns of
// B are contiguous, not rows. So vectors run along k, each output has a vector of partial sums that must be
// summed for every block of k, and a tile is only 4 x 4. In the backwards, rows of B are far apart, 8 kB for
// 2,048 numbers. Each is on a page of its own, and all compete for the same few places of the caches.
// GFLOP/s on 1 / 2 threads: forward 41.3 / 85.1, backward_input 78.3 / 155, backward_weight 93.3 / 193.

enum { DEPTH = 256, WIDTH = 192, HEIGHT = 8 * GEMM_MR, DOTS = GEMM_MR / 2 };

// C (MR, NR) += A B; rows of B are vectors.
static void tile_of_rows(float *C, size_t ldc, Matrix A, Matrix B, size_t depth) {
    GemmVector sum[GEMM_MR][GEMM_NV] = {{{0}}};
    for (size_t k = 0; k < depth; k++) {
        const GemmVector *b = (const GemmVector *)at(B, k, 0);
        for (int i = 0; i < GEMM_MR; i++) {
            const float a = element(A, (size_t)i, k);
            for (int v = 0; v < GEMM_NV; v++) { sum[i][v] += a * b[v]; }
        }
    }
    for (int i = 0; i < GEMM_MR; i++) {
        GemmVector *c = (GemmVector *)(C + (size_t)i * ldc);
        for (int v = 0; v < GEMM_NV; v++) { c[v] += sum[i][v]; }
    }
}

// C (DOTS, DOTS) += A B; rows of A and columns of B are vectors; depth is a multiple of their length.
static void tile_of_dots(float *C, size_t ldc, Matrix A, Matrix B, size_t depth) {
    GemmVector sum[DOTS][DOTS] = {{{0}}};
    for (size_t k = 0; k < depth; k += GEMM_LANES) {
        for (int i = 0; i < DOTS; i++) {
            const GemmVector *a = (const GemmVector *)at(A, (size_t)i, k);
            for (int j = 0; j < DOTS; j++) { sum[i][j] += *a * *(const GemmVector *)at(B, k, (size_t)j); }
        }
    }
    for (int i = 0; i < DOTS; i++) {
        for (int j = 0; j < DOTS; j++) {
            float total = 0.0f;
            const GemmVector lanes = sum[i][j];
            for (int l = 0; l < GEMM_LANES; l++) { total += lanes[l]; }
            C[(size_t)i * ldc + (size_t)j] += total;
        }
    }
}

// C (rows, columns) += A B: a tile, or the rest of one at the edge of the matrix.
__attribute__((always_inline)) static inline void tile_3(float *C, size_t ldc, Matrix A, Matrix B,
                                                         size_t rows, size_t columns, size_t depth) {
    size_t done = 0;
    if (B.column_stride == 1 && rows == GEMM_MR && columns == GEMM_NR) {
        tile_of_rows(C, ldc, A, B, done = depth);
    } else if (B.column_stride != 1 && rows == DOTS && columns == DOTS) {
        tile_of_dots(C, ldc, A, B, done = depth / GEMM_LANES * GEMM_LANES);
    }
    if (done == depth) { return; }
    product_1_serial(C, ldc, part(A, 0, done), part(B, done, 0), rows, columns, depth - done, true);
}

static void product_3(float *C, size_t ldc, Matrix A, Matrix B, size_t M, size_t N, size_t K,
                      bool accumulate) {
    const size_t rows = B.column_stride == 1 ? GEMM_MR : DOTS,
                 columns = B.column_stride == 1 ? GEMM_NR : DOTS;
#pragma omp parallel for schedule(dynamic)
    for (size_t i0 = 0; i0 < M; i0 += HEIGHT) {
        const size_t i1 = gemm_min(i0 + HEIGHT, M);
        for (size_t i = i0; i < i1 && !accumulate; i++) { memset(C + i * ldc, 0, N * sizeof(float)); }
        for (size_t k = 0; k < K; k += DEPTH) {
            for (size_t j0 = 0; j0 < N; j0 += WIDTH) {
                const size_t j1 = gemm_min(j0 + WIDTH, N);
                for (size_t j = j0; j < j1; j += columns) {
                    for (size_t i = i0; i < i1; i += rows) {
                        tile_3(C + i * ldc + j, ldc, part(A, i, k), part(B, k, j), gemm_min(rows, i1 - i),
                               gemm_min(columns, j1 - j), gemm_min(DEPTH, K - k));
                    }
                }
            }
        }
    }
}

// ---------------------------------------------------------------------------------------------
// Version 4: packing. Strips of A and panels of B are copied into the order in which the tile reads them,
// padded with zeros at the edges of the matrix. One tile then serves all layouts and sizes, and reads
// consecutive numbers from the first-level cache. This costs a little where the layout was already good. Each
// thread takes an equal share of the rows of C and packs all of B for itself.
// GFLOP/s on 1 / 2 threads: forward 71 / 109, backward_input 94 / 181, backward_weight 91.2 / 187.

static void pack(float *packed, size_t width, Matrix m, size_t rows, size_t columns) {
    for (size_t k = 0; k < columns; k++) {
        for (size_t i = 0; i < width; i++) { packed[k * width + i] = i < rows ? element(m, i, k) : 0.0f; }
    }
}

static Matrix transposed(Matrix m) { return matrix_of(m.data, m.column_stride, m.row_stride); }

static void product_4_serial(float *C, size_t ldc, Matrix A, Matrix B, size_t M, size_t N, size_t K,
                             bool accumulate) {
    enum { STRIPS = 384 };
    float strips[STRIPS * DEPTH] __attribute__((aligned(64))),
        panel[DEPTH * GEMM_NR] __attribute__((aligned(64)));
    for (size_t i = 0; i < M && !accumulate; i++) { memset(C + i * ldc, 0, N * sizeof(float)); }
    for (size_t i0 = 0; i0 < M; i0 += STRIPS) {
        for (size_t k0 = 0; k0 < K; k0 += DEPTH) {
            const size_t rows = gemm_min(STRIPS, M - i0), depth = gemm_min(DEPTH, K - k0);
            for (size_t i = 0; i < rows; i += GEMM_MR) {
                pack(strips + i * depth, GEMM_MR, part(A, i0 + i, k0), gemm_min(GEMM_MR, rows - i), depth);
            }
            for (size_t j = 0; j < N; j += GEMM_NR) {
                const size_t columns = gemm_min(GEMM_NR, N - j);
                pack(panel, GEMM_NR, transposed(part(B, k0, j)), columns, depth);
                for (size_t i = 0; i < rows; i += GEMM_MR) {
                    float tile[GEMM_MR * GEMM_NR] = {0.0f}, *c = C + (i0 + i) * ldc + j;
                    tile_of_rows(tile, GEMM_NR, matrix_of(strips + i * depth, 1, GEMM_MR),
                                 matrix_of(panel, GEMM_NR, 1), depth);
                    for (size_t r = 0; r < GEMM_MR && i + r < rows; r++) {
                        for (size_t s = 0; s < columns; s++) { c[r * ldc + s] += tile[r * GEMM_NR + s]; }
                    }
                }
            }
        }
    }
}

static void product_4(float *C, size_t ldc, Matrix A, Matrix B, size_t M, size_t N, size_t K,
                      bool accumulate) {
    const size_t rows = gemm_divide_up(M, thread_count());
#pragma omp parallel for
    for (size_t i = 0; i < M; i += rows) {
        product_4_serial(C + i * ldc, ldc, part(A, i, 0), B, gemm_min(rows, M - i), N, K, accumulate);
    }
}

// ---------------------------------------------------------------------------------------------
// Version 5, shipped (llmc/gemm.h). Packing transposes four columns of eight rows in registers and prefetches
// the next ones. A tile goes from registers directly to C where it fits, and a smaller tile handles the last
// rows. Threads take blocks of C when they become free, and there are enough blocks to keep all threads busy,
// even with a small matrix or when another program takes a core.
// GFLOP/s on 1 / 2 threads: forward 102 / 201, backward_input 99.2 / 198, backward_weight 97.9 / 202.

static void product_5(float *C, size_t ldc, Matrix A, Matrix B, size_t M, size_t N, size_t K,
                      bool accumulate) {
    gemm(C, ldc, A, B, M, N, K, accumulate, GEMM_FP32);
}

static Product *const products[] = {NULL, product_1, NULL, product_3, product_4, product_5};

// ---------------------------------------------------------------------------------------------
// forward: x (N, I), w (O, I) -> y (N, O)

enum { X, W, Y };

static void forward_arrays(Problem *p) {
    const size_t N = p->n[0], I = p->n[1], O = p->n[2];
    input(p, N * I, -1.0, 1.0);
    input(p, O * I, -1.0, 1.0);
    output(p, "y", N * O, TOLERANCE);
    p->work = 2.0 * (double)N * (double)I * (double)O;
}

static void forward_expect(Problem *p) {
    const size_t N = p->n[0], I = p->n[1], O = p->n[2];
    const float *x = p->arrays[X].data, *w = p->arrays[W].data;
    double *y = p->arrays[Y].expected;
    for (size_t n = 0; n < N; n++) {
        for (size_t o = 0; o < O; o++) {
            y[n * O + o] = 0.0;
            for (size_t i = 0; i < I; i++) { y[n * O + o] += (double)x[n * I + i] * (double)w[o * I + i]; }
        }
    }
}

static void forward_run(const Problem *p, int version) {
    const size_t N = p->n[0], I = p->n[1], O = p->n[2];
    const float *x = p->arrays[X].data, *w = p->arrays[W].data;
    float *y = p->arrays[Y].data;
    switch (version) {
    case 2: matmul_forward_loops(y, x, w, N, I, O); break;
    case 5: matmul_forward(y, x, (Weight){w, false}, N, I, O); break;
    default: products[version](y, O, matrix_of(x, I, 1), matrix_of(w, 1, I), N, O, I, false);
    }
}

// ---------------------------------------------------------------------------------------------
// backward_input: dy (N, O), w (O, I) -> dx (N, I) = dy W; accumulated if N is odd

enum { DY, OTHER, GRADIENT };

static bool accumulates(const Problem *p) { return p->n[0] % 2 == 1; }

static void backward_input_arrays(Problem *p) {
    const size_t N = p->n[0], I = p->n[1], O = p->n[2];
    input(p, N * O, -1.0, 1.0);
    input(p, O * I, -1.0, 1.0);
    if (accumulates(p)) {
        array(p, "dx", N * I, TOLERANCE, -4.0, 4.0);
    } else {
        output(p, "dx", N * I, TOLERANCE);
    }
    p->work = 2.0 * (double)N * (double)I * (double)O;
}

static void backward_input_expect(Problem *p) {
    const size_t N = p->n[0], I = p->n[1], O = p->n[2];
    const float *dy = p->arrays[DY].data, *w = p->arrays[OTHER].data;
    double *dx = p->arrays[GRADIENT].expected;
    for (size_t n = 0; n < N; n++) {
        for (size_t i = 0; i < I; i++) {
            double sum = accumulates(p) ? dx[n * I + i] : 0.0;
            for (size_t o = 0; o < O; o++) { sum += (double)dy[n * O + o] * (double)w[o * I + i]; }
            dx[n * I + i] = sum;
        }
    }
}

// The shipped version is the call in matmul_backward.
static void backward_input_run(const Problem *p, int version) {
    const size_t N = p->n[0], I = p->n[1], O = p->n[2];
    const float *dy = p->arrays[DY].data, *w = p->arrays[OTHER].data;
    float *dx = p->arrays[GRADIENT].data;
    switch (version) {
    case 2: matmul_backward_input_loops(dx, dy, w, N, I, O, accumulates(p)); break;
    default: products[version](dx, I, matrix_of(dy, O, 1), matrix_of(w, I, 1), N, I, O, accumulates(p));
    }
}

// ---------------------------------------------------------------------------------------------
// backward_weight: dy (N, O), x (N, I) -> dw (O, I) += dy^T x

static void backward_weight_arrays(Problem *p) {
    const size_t N = p->n[0], I = p->n[1], O = p->n[2];
    input(p, N * O, -1.0, 1.0);
    input(p, N * I, -1.0, 1.0);
    array(p, "dw", O * I, TOLERANCE, -4.0, 4.0);
    p->work = 2.0 * (double)N * (double)I * (double)O;
}

static void backward_weight_expect(Problem *p) {
    const size_t N = p->n[0], I = p->n[1], O = p->n[2];
    const float *dy = p->arrays[DY].data, *x = p->arrays[OTHER].data;
    double *dw = p->arrays[GRADIENT].expected;
    for (size_t o = 0; o < O; o++) {
        for (size_t i = 0; i < I; i++) {
            for (size_t n = 0; n < N; n++) { dw[o * I + i] += (double)dy[n * O + o] * (double)x[n * I + i]; }
        }
    }
}

static void backward_weight_run(const Problem *p, int version) {
    const size_t N = p->n[0], I = p->n[1], O = p->n[2];
    const float *dy = p->arrays[DY].data, *x = p->arrays[OTHER].data;
    float *dw = p->arrays[GRADIENT].data;
    switch (version) {
    case 2: matmul_backward_weight_loops(dw, dy, x, N, I, O); break;
    default: products[version](dw, I, matrix_of(dy, 1, O), matrix_of(x, I, 1), O, I, N, true);
    }
}

int main(int argc, char **argv) {
    // One output, one row, one column; tiles and blocks of rows, columns and k that are whole, cut, or one
    // longer. The required leads are a third of the ones measured on an idle core of an AMD EPYC: 32, 40, 60.
    static const Ladder ladder = {
        .lengths = "N, I, O",
        .timed = {256, 2048, 2048},
        .raced = {64, 256, 256},
        .edges = {{1, 1, 1},
                  {1, 300, 70},
                  {7, 64, 130},
                  {8, 16, 32},
                  {33, 31, 35},
                  {65, 33, 129},
                  {130, 40, 270},
                  {390, 270, 34},
                  {70, 600, 66}},
        .unit = "GFLOP/s",
        .best_case = "multiply-adds in registers",
        .best = fma_peak,
        .ideas = {"one output at a time", "like llm.c: loops along rows", "tiles", "tiles, packed",
                  "shipped: gemm.h"},
        .operations = {{"forward", forward_arrays, forward_expect, forward_run, 10.0},
                       {"backward_input", backward_input_arrays, backward_input_expect, backward_input_run,
                        13.0},
                       {"backward_weight", backward_weight_arrays, backward_weight_expect,
                        backward_weight_run, 19.0}},
    };
    return ladder_main(argc, argv, &ladder);
}
