// gemm_rows.h: the product C = A B for a few rows of A, at the speed of memory.
//
// Decoding multiplies one row, or one for each of a few sequences, by every weight of the model. A weight is used
// only once per row, so the product takes as long as reading the weights, unless something else takes longer.
// Packing does: it writes every weight and reads it again. Here B is read once, as it lies, and goes from memory
// into registers into multiply-adds.
//
// The difficulty is the order of the sums. An element of C is a chain of multiply-adds in the order of k
// (gemm.h), so the lanes of a vector must be different elements of C. A weight matrix is contiguous in k.
// - For the fewest rows, lanes are columns of C. LANES columns of B are loaded, LANES numbers of each, and
//   transposed in registers. Then each vector is one multiply-add for every row of A. Two bf16 move together as
//   one lane of 32 bits, the even k in its low half; after the transpose, a shift and a mask make two vectors of
//   floats of them.
// - For more rows, lanes are rows of C. The rows of A are packed, and an element of B is multiplied with all
//   of them. So B needs no transpose, but C does.
// - Where B is contiguous in its columns, as the values of attention are, there is nothing to transpose.
#ifndef LLMC_GEMM_ROWS_H
#define LLMC_GEMM_ROWS_H

#include "gemm_pack.h"

// A tile of registers is MR rows of NV vectors (gemm.h).
#if defined(__AVX512F__) || defined(__aarch64__)
#define GEMM_MR 8
#else
#define GEMM_MR 6
#endif

enum {
    GEMM_NV = 2,
    GEMM_NR = GEMM_NV * GEMM_LANES,
    GEMM_KC = 256,        // an element of C is a sum over blocks of k, each at most this deep
    GEMM_FEW_ROWS = 8,    // as many as the first and the last way take
    GEMM_SOME_ROWS = 48,  // as many as the second takes; for more, packing B is faster
    GEMM_PACKED = 32768,  // numbers of few rows of A that are packed at once
    GEMM_TURNED = 256     // columns of C that are transposed at once
};

// Whether gemm_rows has a way to multiply by B.
static inline bool gemm_rows_suit(Matrix B, size_t M);

// C (M, N) = A (M, K) B (K, N), or C += A B, on the calling thread, with the bits of gemm. K is at least 1.
static inline void gemm_rows(float *C, size_t ldc, Matrix A, Matrix B, size_t M, size_t N, size_t K,
                             bool accumulate);

// ---------------------------------------------------------------------------------------------

static inline bool gemm_rows_suit(Matrix B, size_t M) {
    return B.row_stride == 1 ? M <= GEMM_SOME_ROWS : B.column_stride == 1 && !B.bf16 && M <= GEMM_FEW_ROWS;
}

// The depth of a block of k.
static inline size_t gemm_block(size_t K) { return gemm_divide_up(K, gemm_divide_up(K, GEMM_KC)); }

// ---------------------------------------------------------------------------------------------
// the fewest rows

// What does not change from one vector of columns to the next.
typedef struct {
    const float *a;  // A, packed: (K, rows); those from M on are zero
    Matrix B;
    float *C;
    size_t ldc, M, N, K, block;
    bool accumulate;
} GemmRows;

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

// Columns j to j + LANES of C, where B is contiguous in k. The compiler knows `rows`.
__attribute__((always_inline)) static inline void gemm_rows_turned(const GemmRows *r, size_t j, size_t rows,
                                                                   bool bf16) {
    const size_t step = bf16 ? 2 * GEMM_LANES : GEMM_LANES, stride = r->B.column_stride;
    const size_t columns = gemm_min(GEMM_LANES, r->N - j);
    const char *b[GEMM_LANES];
    for (size_t l = 0; l < GEMM_LANES; l++) {  // after the last column, it again
        b[l] = gemm_at(r->B.data, (j + gemm_min(l, columns - 1)) * stride, bf16);
    }
    // The next columns are prefetched into the second-level cache, in the order in which they lie in memory.
    const char *ahead = gemm_at(r->B.data, (j + GEMM_LANES) * stride, bf16);
    for (size_t k0 = 0, k = 0; k0 < r->K; k0 += r->block) {
        const size_t end = gemm_min(k0 + r->block, r->K);
        GemmVector sum[GEMM_FEW_ROWS] = {{0}};
        for (; k + step <= end; k += step) {
            GemmVector square[GEMM_LANES];
            for (size_t byte = 0; byte < sizeof square; byte += 64) {
                __builtin_prefetch(ahead + byte, 0, 2);
            }
            ahead += sizeof square;
            for (size_t l = 0; l < GEMM_LANES; l++) {
                square[l] = *(const GemmVector *)gemm_at(b[l], k, bf16);
            }
            gemm_transpose_square(square);
#pragma GCC unroll 16
            for (size_t l = 0; l < GEMM_LANES; l++) {
                if (bf16) {
                    const GemmVector even = (GemmVector)((GemmBits)square[l] << 16);
                    const GemmVector odd = (GemmVector)((GemmBits)square[l] & 0xffff0000);
                    const float *a = r->a + (k + 2 * l) * rows;
                    for (size_t i = 0; i < rows; i++) { sum[i] += a[i] * even; }
                    for (size_t i = 0; i < rows; i++) { sum[i] += a[rows + i] * odd; }
                } else {
                    for (size_t i = 0; i < rows; i++) { sum[i] += r->a[(k + l) * rows + i] * square[l]; }
                }
            }
        }
        for (; k < end; k++) {
            GemmVector rest;
            for (size_t l = 0; l < GEMM_LANES; l++) { rest[l] = gemm_element(b[l], k, bf16); }
            for (size_t i = 0; i < rows; i++) { sum[i] += r->a[k * rows + i] * rest; }
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
    const size_t stride = r->B.row_stride, columns = gemm_min(GEMM_LANES, r->N - j);
    for (size_t k0 = 0, k = 0; k0 < r->K; k0 += r->block) {
        const size_t end = gemm_min(k0 + r->block, r->K);
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
                for (size_t i = 0; i < rows; i++) { sum[i][v] += r->a[k * rows + i] * b_v; }
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

// The first and the last way, for up to GEMM_FEW_ROWS rows.
static inline void gemm_few_rows(float *C, size_t ldc, Matrix A, Matrix B, size_t M, size_t N, size_t K,
                                 bool accumulate) {
    const size_t rows = M <= 2 ? M : M <= 4 ? 4 : GEMM_FEW_ROWS, block = gemm_block(K);
    const bool packed = M == 1 && A.column_stride == 1;
    const size_t most = packed ? K : GEMM_PACKED / rows / block * block;
    float a[GEMM_PACKED];
    GemmRows r = {NULL, B, C, ldc, M, N, K, block, accumulate};
    for (size_t k = 0; k < K; k += most) {
        const Matrix A_k = matrix_from(A, 0, k);
        r.a = packed ? (const float *)A_k.data : a;
        r.B = matrix_from(B, k, 0);
        r.K = gemm_min(most, K - k);
        r.accumulate = accumulate || k > 0;
        if (!packed) { gemm_pack(a, rows, A_k.data, A.row_stride, A.column_stride, M, r.K, false); }
        switch (rows) {
        case 1: gemm_rows_all(&r, 1); break;
        case 2: gemm_rows_all(&r, 2); break;
        case 4: gemm_rows_all(&r, 4); break;
        default: gemm_rows_all(&r, GEMM_FEW_ROWS);
        }
    }
}

// ---------------------------------------------------------------------------------------------
// more rows

// strip (columns, KC) = `columns` columns of B as floats, of `depth` numbers each.
static inline void gemm_copy_strip(float *strip, Matrix B, size_t columns, size_t depth) {
    for (size_t j = 0; j < columns; j++) {
        const void *b = matrix_from(B, 0, j).data;
        for (size_t k = 0; k < depth; k++) { strip[j * GEMM_KC + k] = gemm_element(b, k, B.bf16); }
    }
}

// c (MR, vectors * LANES) = or += strip (MR, KC) panel (depth, vectors * LANES). Meanwhile the columns of the
// next strip, from `next` on and `stride` elements apart, are prefetched into the second-level cache.
__attribute__((always_inline)) static inline void gemm_strip_tile(float *c, size_t ldc, const float *strip,
                                                                  const float *panel, size_t vectors,
                                                                  size_t depth, bool add, const void *next,
                                                                  size_t stride, bool bf16) {
    const GemmVector *p = (const GemmVector *)panel;
    const size_t line = bf16 ? 32 : 16;  // as many elements as a cache line has
    GemmVector sum[GEMM_MR][GEMM_NV] = {{{0}}};
    for (size_t k = 0; k < depth; k++) {
        for (size_t i = 0; k % line == 0 && i < GEMM_MR; i++) {
            __builtin_prefetch(gemm_at(next, i * stride + k, bf16), 0, 2);
        }
        for (size_t i = 0; i < GEMM_MR; i++) {
            for (size_t v = 0; v < vectors; v++) { sum[i][v] += strip[i * GEMM_KC + k] * p[k * vectors + v]; }
        }
    }
    for (size_t i = 0; i < GEMM_MR; i++) {
        GemmVector *c_i = (GemmVector *)(c + i * ldc);
        for (size_t v = 0; v < vectors; v++) {
            if (add) { sum[i][v] += c_i[v]; }
            c_i[v] = sum[i][v];
        }
    }
}

// turned (N, ldc) = or += (A B)^T for one block of k. ldc is M, rounded up to whole vectors. A is packed in
// panels that are NV vectors wide; the last one may have one.
static inline void gemm_turned_block(float *turned, size_t ldc, const float *panels, Matrix B, size_t N,
                                     size_t depth, bool add) {
    float strip[GEMM_MR * GEMM_KC] = {0};
    const size_t stride = B.column_stride;
    for (size_t j = 0; j < N; j += GEMM_MR) {
        const void *next = matrix_from(B, 0, j + GEMM_MR).data;
        gemm_copy_strip(strip, matrix_from(B, 0, j), gemm_min(GEMM_MR, N - j), depth);
        for (size_t m = 0; m < ldc; m += GEMM_NR) {
            float *c = turned + j * ldc + m;
            const float *panel = panels + m * depth;
            const bool narrow = ldc - m == GEMM_LANES;
            if (narrow && B.bf16) {
                gemm_strip_tile(c, ldc, strip, panel, 1, depth, add, next, stride, true);
            } else if (narrow) {
                gemm_strip_tile(c, ldc, strip, panel, 1, depth, add, next, stride, false);
            } else if (B.bf16) {
                gemm_strip_tile(c, ldc, strip, panel, GEMM_NV, depth, add, next, stride, true);
            } else {
                gemm_strip_tile(c, ldc, strip, panel, GEMM_NV, depth, add, next, stride, false);
            }
        }
    }
}

// Up to GEMM_SOME_ROWS rows, where B is contiguous in k.
static inline void gemm_some_rows(float *C, size_t ldc, Matrix A, Matrix B, size_t M, size_t N, size_t K,
                                  bool accumulate) {
    float panels[GEMM_SOME_ROWS * GEMM_KC] __attribute__((aligned(64)));
    float turned[(GEMM_TURNED + GEMM_MR) * GEMM_SOME_ROWS] __attribute__((aligned(64)));
    const size_t padded = gemm_divide_up(M, GEMM_LANES) * GEMM_LANES, block = gemm_block(K);
    for (size_t j = 0; j < N; j += GEMM_TURNED) {
        const size_t columns = gemm_min(GEMM_TURNED, N - j);
        for (size_t m = 0; accumulate && m < M; m++) {
            for (size_t n = 0; n < columns; n++) { turned[n * padded + m] = C[m * ldc + j + n]; }
        }
        for (size_t k = 0; k < K; k += block) {
            const size_t depth = gemm_min(block, K - k);
            for (size_t m = 0; m < padded; m += GEMM_NR) {
                const size_t width = gemm_min(GEMM_NR, padded - m);
                gemm_pack(panels + m * depth, width, matrix_from(A, m, k).data, A.row_stride, A.column_stride,
                          gemm_min(width, M - m), depth, false);
            }
            gemm_turned_block(turned, padded, panels, matrix_from(B, k, j), columns, depth,
                              accumulate || k > 0);
        }
        for (size_t m = 0; m < M; m++) {
            for (size_t n = 0; n < columns; n++) { C[m * ldc + j + n] = turned[n * padded + m]; }
        }
    }
}

// ---------------------------------------------------------------------------------------------

static inline void gemm_rows(float *C, size_t ldc, Matrix A, Matrix B, size_t M, size_t N, size_t K,
                             bool accumulate) {
    if (M <= GEMM_FEW_ROWS) {
        gemm_few_rows(C, ldc, A, B, M, N, K, accumulate);
    } else {
        gemm_some_rows(C, ldc, A, B, M, N, K, accumulate);
    }
}

#endif
