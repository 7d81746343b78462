// gemm_rows.h: the product C = A B for a few rows of A, at the speed of memory.
//
// Decoding multiplies one row, or one for each of a few sequences, by every weight of the model. A weight is used
// only once per row, so the product takes as long as reading the weights, unless something else takes longer.
// Packing does: it writes every weight and reads it again. Here B is read once, as it lies, and goes from memory
// into registers into multiply-adds.
//
// The difficulty is the order of the sums. An element of C is a chain of multiply-adds in the order of k
// (gemm.h), so the lanes of a vector must be columns of C. But a weight matrix is contiguous in k. So LANES
// columns of B are loaded, LANES numbers of each, and transposed in registers. Then each vector is one
// multiply-add for every row of A. Two bf16 move together as one lane of 32 bits, the even k in its low half;
// after the transpose, a shift and a mask make two vectors of floats of them.
//
// Where B is contiguous in its columns, as the values of attention are, there is nothing to transpose.
#ifndef LLMC_GEMM_ROWS_H
#define LLMC_GEMM_ROWS_H

#include "matrix.h"

enum {
    GEMM_KC = 256,     // an element of C is a sum over blocks of k, each at most this deep
    GEMM_FEW_ROWS = 8  // for more, packing B is faster than transposing it again for the next eight
};

// Whether gemm_rows has a way to multiply these.
static inline bool gemm_rows_suit(Matrix A, Matrix B, size_t M);

// C (M, N) = A (M, K) B (K, N), or C += A B, on the calling thread, with the bits of gemm. K is at least 1.
static inline void gemm_rows(float *C, size_t ldc, Matrix A, Matrix B, size_t M, size_t N, size_t K,
                             bool accumulate);

// ---------------------------------------------------------------------------------------------

static inline bool gemm_rows_suit(Matrix A, Matrix B, size_t M) {
    return M <= GEMM_FEW_ROWS && A.column_stride == 1 &&
           (B.row_stride == 1 || (B.column_stride == 1 && !B.bf16));
}

// What does not change from one vector of columns to the next.
typedef struct {
    const float *a[GEMM_FEW_ROWS];  // the rows of A; after the last one, it again
    Matrix B;
    float *C;
    size_t ldc, M, N, K;
    bool accumulate;
} GemmRows;

// The depth of a block of k.
static inline size_t gemm_block(size_t K) { return gemm_divide_up(K, gemm_divide_up(K, GEMM_KC)); }

// c (columns) = or += sum, at most one vector.
static inline void gemm_store(float *c, GemmVector sum, size_t columns, bool add) {
    GemmVector *whole = (GemmVector *)c;
    if (columns < GEMM_LANES) {
        for (size_t l = 0; l < columns; l++) { c[l] = add ? c[l] + sum[l] : sum[l]; }
    } else if (add) {
        *whole += sum;
    } else {
        *whole = sum;
    }
}

// a0 a1 .. and b0 b1 .. become a0 b0 a1 b1 .., of which GEMM_ZIP_LOW is the first half.
#if defined(__clang__) || __GNUC__ >= 12
#define GEMM_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define GEMM_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (GemmBits){__VA_ARGS__})
#endif
#if GEMM_LANES == 16
#define GEMM_ZIP_LOW(a, b) GEMM_SHUFFLE(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define GEMM_ZIP_HIGH(a, b) GEMM_SHUFFLE(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
#elif GEMM_LANES == 8
#define GEMM_ZIP_LOW(a, b) GEMM_SHUFFLE(a, b, 0, 8, 1, 9, 2, 10, 3, 11)
#define GEMM_ZIP_HIGH(a, b) GEMM_SHUFFLE(a, b, 4, 12, 5, 13, 6, 14, 7, 15)
#else
#define GEMM_ZIP_LOW(a, b) GEMM_SHUFFLE(a, b, 0, 4, 1, 5)
#define GEMM_ZIP_HIGH(a, b) GEMM_SHUFFLE(a, b, 2, 6, 3, 7)
#endif

// Transposes a square of LANES vectors. Number its elements by row and lane. Zipping vector i with vector
// i + LANES / 2 moves the highest bit of the row's number to the lowest of the lane's, and the highest of the
// lane's to the lowest of the row's. After as many turns as a number has bits, rows and lanes have changed
// places.
__attribute__((always_inline)) static inline void gemm_transpose_square(GemmVector square[GEMM_LANES]) {
    for (int turn = 1; turn < GEMM_LANES; turn *= 2) {
        GemmVector zipped[GEMM_LANES];
        for (int i = 0; i < GEMM_LANES / 2; i++) {
            zipped[2 * i] = GEMM_ZIP_LOW(square[i], square[i + GEMM_LANES / 2]);
            zipped[2 * i + 1] = GEMM_ZIP_HIGH(square[i], square[i + GEMM_LANES / 2]);
        }
        for (int i = 0; i < GEMM_LANES; i++) { square[i] = zipped[i]; }
    }
}

// Columns j to j + LANES of C, where B is contiguous in k. `rows` is M, or more; the compiler knows it.
__attribute__((always_inline)) static inline void gemm_rows_turned(const GemmRows *r, size_t j, size_t rows,
                                                                   bool bf16) {
    const size_t step = bf16 ? 2 * GEMM_LANES : GEMM_LANES, block = gemm_block(r->K);
    const size_t columns = gemm_min(GEMM_LANES, r->N - j);
    const char *b[GEMM_LANES];
    for (size_t l = 0; l < GEMM_LANES; l++) {  // after the last column, it again
        b[l] = gemm_at(r->B.data, (j + gemm_min(l, columns - 1)) * r->B.column_stride, bf16);
    }
    for (size_t k0 = 0, k = 0; k0 < r->K; k0 += block) {
        const size_t end = gemm_min(k0 + block, r->K);
        GemmVector sum[GEMM_FEW_ROWS] = {{0}};
        for (; k + step <= end; k += step) {
            GemmVector square[GEMM_LANES];
            for (size_t l = 0; l < GEMM_LANES;
                 l++) {  // the next columns are prefetched into the second-level cache
                __builtin_prefetch(gemm_at(b[l], k + GEMM_LANES * r->B.column_stride, bf16), 0, 2);
                square[l] = *(const GemmVector *)gemm_at(b[l], k, bf16);
            }
            gemm_transpose_square(square);
#pragma GCC unroll 16
            for (size_t l = 0; l < GEMM_LANES; l++) {
                if (bf16) {
                    const GemmVector even = (GemmVector)((GemmBits)square[l] << 16);
                    const GemmVector odd = (GemmVector)((GemmBits)square[l] & 0xffff0000);
                    for (size_t i = 0; i < rows; i++) { sum[i] += r->a[i][k + 2 * l] * even; }
                    for (size_t i = 0; i < rows; i++) { sum[i] += r->a[i][k + 2 * l + 1] * odd; }
                } else {
                    for (size_t i = 0; i < rows; i++) { sum[i] += r->a[i][k + l] * square[l]; }
                }
            }
        }
        for (; k < end; k++) {
            GemmVector rest;
            for (size_t l = 0; l < GEMM_LANES; l++) { rest[l] = gemm_element(b[l], k, bf16); }
            for (size_t i = 0; i < rows; i++) { sum[i] += r->a[i][k] * rest; }
        }
        for (size_t i = 0; i < rows && i < r->M; i++) {
            gemm_store(r->C + i * r->ldc + j, sum[i], columns, r->accumulate || k0 > 0);
        }
    }
}

enum { GEMM_WIDE = 4 };  // vectors of columns side by side

// Columns j to j + vectors * LANES of C, or of one vector those that exist, where B is contiguous in its columns.
__attribute__((always_inline)) static inline void gemm_rows_straight(const GemmRows *r, size_t j, size_t rows,
                                                                     size_t vectors) {
    const size_t stride = r->B.row_stride, block = gemm_block(r->K);
    const size_t columns = gemm_min(GEMM_LANES, r->N - j);
    for (size_t k0 = 0, k = 0; k0 < r->K; k0 += block) {
        const size_t end = gemm_min(k0 + block, r->K);
        GemmVector sum[GEMM_FEW_ROWS][GEMM_WIDE] = {{{0}}};
        for (; k < end; k++) {
            const char *b = gemm_at(r->B.data, k * stride + j, false);
            for (size_t v = 0; v < vectors; v++) {
                GemmVector b_v = {0};
                if (vectors == 1 && columns < GEMM_LANES) {
                    memcpy(&b_v, b, columns * sizeof(float));
                } else {
                    b_v = ((const GemmVector *)b)[v];
                }
                __builtin_prefetch(gemm_at(b, 4 * stride + v * GEMM_LANES, false));
                for (size_t i = 0; i < rows; i++) { sum[i][v] += r->a[i][k] * b_v; }
            }
        }
        for (size_t i = 0; i < rows && i < r->M; i++) {
            for (size_t v = 0; v < vectors; v++) {
                gemm_store(r->C + i * r->ldc + j + v * GEMM_LANES, sum[i][v], columns,
                           r->accumulate || k0 > 0);
            }
        }
    }
}

// All columns, with a number of rows that the compiler knows.
__attribute__((always_inline)) static inline void gemm_rows_all(const GemmRows *r, size_t rows) {
    const size_t wide = rows <= 4 ? GEMM_WIDE : GEMM_WIDE / 2;  // as many sums as registers hold
    size_t j = 0;
    if (r->B.row_stride != 1) {
        for (; j + wide * GEMM_LANES <= r->N; j += wide * GEMM_LANES) {
            gemm_rows_straight(r, j, rows, wide);
        }
        for (; j < r->N; j += GEMM_LANES) { gemm_rows_straight(r, j, rows, 1); }
    } else if (r->B.bf16) {
        for (; j < r->N; j += GEMM_LANES) { gemm_rows_turned(r, j, rows, true); }
    } else {
        for (; j < r->N; j += GEMM_LANES) { gemm_rows_turned(r, j, rows, false); }
    }
}

static inline void gemm_rows(float *C, size_t ldc, Matrix A, Matrix B, size_t M, size_t N, size_t K,
                             bool accumulate) {
    GemmRows r = {{NULL}, B, C, ldc, M, N, K, accumulate};
    for (size_t i = 0; i < GEMM_FEW_ROWS; i++) {
        r.a[i] = (const float *)matrix_from(A, gemm_min(i, M - 1), 0).data;
    }
    switch (M) {
    case 1: gemm_rows_all(&r, 1); break;
    case 2: gemm_rows_all(&r, 2); break;
    case 3:
    case 4: gemm_rows_all(&r, 4); break;
    default: gemm_rows_all(&r, GEMM_FEW_ROWS);
    }
}

#endif
