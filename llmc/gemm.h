// gemm.h: the matrix product C = A B of fp32 matrices, for the three layouts of training.
//
//   with X (M, K), W (N, K), Y (M, N):
//   forward   Y = X W^T       A = {X, K, 1}     B = {W, 1, K}
//   dInput    dX = dY W       A = {dY, N, 1}    B = {W, K, 1}
//   dWeight   dW += dY^T X    A = {dY, 1, N}    B = {X, K, 1}
//
// Strides replace transposes. The method is that of Goto & van de Geijn, "Anatomy of High-Performance Matrix
// Multiplication", 2008, with one difference: threads share nothing. The doors are gemm, on all threads, and
// gemm_serial, on one. From the inside out:
//
// 1. The register tile. MR x NV vectors of C stay in registers while k runs. Each k loads NV vectors of B and
//    MR single elements of A, for MR * NV fused multiply-adds. A core starts two multiply-adds per cycle and
//    each takes four cycles, so at least 8 must be independent. It also makes two loads per cycle, so MR + NV
//    should be below MR * NV. And MR * NV + NV + 1 registers must exist. 8 x 2 needs 19 of the 32 registers
//    of AVX-512 and NEON, makes 10 loads for 16 multiply-adds, and divides the 64 rows of an attention tile
//    evenly; larger tiles measured no faster. With 16 registers, 6 x 2 needs 15.
// 2. The caches. A panel of B, KC x NR elements, is read again for every strip of A, KC x MR elements. With
//    KC = 256 the panel takes 32 kB (AVX-512; 16 kB with AVX2) and stays in the first-level cache. 384 rows
//    of strips take 384 kB and stay in the second-level cache while the panels pass.
// 3. Packing copies strips and panels into the order in which the tile reads them, whatever the strides, and
//    pads the last ones with zeros. So one kernel serves all layouts and sizes.
// 4. Threads take blocks of C, at most 384 x 512, and each packs for itself. An element of A is packed once
//    for up to 512 multiply-adds and an element of B once for up to 384, which costs a few per cent. In
//    return a product needs no barrier and no shared memory, and a core that is taken away delays only one
//    block.
//
// Where A has few rows, as in decoding, packing B would take longer than the multiply-adds: gemm_rows.h.
//
// An element of C is a sum over blocks of k, each summed in the order of k. The blocks depend only on K, so
// the bits are the same for any number of threads, any M and N, and in gemm and gemm_serial.
//
// B may be bf16, as the weights of released models are. Its elements become floats, exactly, on their way into
// registers or packed panels, so the bits are also those of a product with a copy of B in fp32.
//
// The compiler must be allowed to fuse a * b + c (-ffp-contract=fast); without it half of the speed is lost.
//
// Where the processor multiplies bf16 (AVX512-BF16), GEMM_BF16 makes packing round A and B to it: twice the
// speed, at a relative error of 2^-8 for each factor. Sums stay fp32. A few rows are packed too, so their bits
// do not depend on M either.
#ifndef LLMC_GEMM_H
#define LLMC_GEMM_H

#include "gemm_rows.h"

// The type to which the factors of a product are rounded. GEMM_BF16 needs GEMM_HAS_BF16.
typedef enum { GEMM_FP32, GEMM_BF16 } GemmType;

// C (M, N) = A (M, K) B (K, N), or C += A B if `accumulate`, on all threads. Row i of C begins at C + i *
// ldc. C may not overlap A or B. Only B may be bf16. If K is 0, the product is zero.
static inline void gemm(float *C, size_t ldc, Matrix A, Matrix B, size_t M, size_t N, size_t K,
                        bool accumulate, GemmType type);

// The same on the calling thread only, for use inside a parallel region. It needs GEMM_STACK bytes of stack
// (stack_limit.h).
static inline void gemm_serial(float *C, size_t ldc, Matrix A, Matrix B, size_t M, size_t N, size_t K,
                               bool accumulate, GemmType type);

enum {
    GEMM_ROWS = 384,  // a multiple of GEMM_MR
    GEMM_COLUMNS = 512,
    GEMM_SMALL = 1 << 16,  // multiply-adds that take less time than waking other threads
    GEMM_STACK = (GEMM_ROWS + GEMM_NR) * GEMM_KC * sizeof(float) + (64 << 10)
};

// Packs all strips of a block of A; the strip that begins with row i goes to strips + i * depth. Where the
// rows of one k are contiguous, as in dWeight, a cache line holds that k of two strips, so it is read once
// for both.
static inline void gemm_pack_strips(float *strips, const float *a, size_t row_stride, size_t k_stride,
                                    size_t rows, size_t depth) {
    size_t i = 0;
    for (; row_stride == 1 && i + 2 * GEMM_MR <= rows; i += 2 * GEMM_MR) {
        float *first = strips + i * depth, *second = first + GEMM_MR * depth;
        for (size_t k = 0; k < depth; k++) {
            const float *a_k = a + i + k * k_stride;
            __builtin_prefetch(a_k + 2 * GEMM_MR, 0, 2);
            memcpy(first + k * GEMM_MR, a_k, GEMM_MR * sizeof(float));
            memcpy(second + k * GEMM_MR, a_k + GEMM_MR, GEMM_MR * sizeof(float));
        }
    }
    for (; i < rows; i += GEMM_MR) {
        gemm_pack(strips + i * depth, GEMM_MR, a + i * row_stride, row_stride, k_stride,
                  gemm_min(GEMM_MR, rows - i), depth, false);
    }
}

// The upper half of x rounded to the nearest bf16, to even in the middle.
static inline uint32_t gemm_round_to_bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    const uint32_t rounded = bits + 0x7fff + (bits >> 16 & 1), quiet_nan = bits | 0x400000;
    return ((bits & 0x7fffffff) > 0x7f800000 ? quiet_nan : rounded) >> 16;
}

// packed (depth, width) becomes (ceil(depth / 2), width) pairs of bf16, in place: an even k in the low half
// of a float, the k after it in the high half. If depth is odd, the last pair ends with a zero.
static inline void gemm_pair(float *packed, size_t width, size_t depth) {
    for (size_t k = 0; k < depth; k += 2) {
        const float *even = packed + k * width;
        float *pairs = packed + k / 2 * width;
#pragma omp simd
        for (size_t i = 0; i < width; i++) {
            const float odd = k + 1 < depth ? even[width + i] : 0.0f;
            const uint32_t pair = gemm_round_to_bf16(even[i]) | gemm_round_to_bf16(odd) << 16;
            memcpy(pairs + i, &pair, sizeof pair);
        }
    }
}

// sum + a b, or of pairs of bf16, sum + a_even b_even + a_odd b_odd.
__attribute__((always_inline)) static inline GemmVector gemm_multiply_add(GemmVector sum, float a,
                                                                          GemmVector b, bool bf16) {
#if GEMM_HAS_BF16
    if (bf16) { return (GemmVector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_ps(a), (__m512bh)b); }
#endif
    (void)bf16;
    return sum + a * b;
}

// c (rows, vectors * LANES) = or += a (depth, MR)^T b (depth, NR), both packed, of which the first `rows` and
// `vectors` are used.
__attribute__((always_inline)) static inline void gemm_register_tile(float *c, size_t ldc, const float *a,
                                                                     const float *b, int rows, int vectors,
                                                                     size_t depth, bool add, bool bf16) {
    GemmVector sum[GEMM_MR][GEMM_NV] = {{{0}}};
    for (int i = 0; i < rows; i++) {  // C is needed only at the end, but then immediately
        for (int v = 0; v < vectors; v++) { __builtin_prefetch(c + (size_t)i * ldc + v * GEMM_LANES); }
    }
    for (size_t k = 0; k < depth; k++) {
        const GemmVector *b_k = (const GemmVector *)(b + k * GEMM_NR);
        for (int i = 0; i < rows; i++) {
            for (int v = 0; v < vectors; v++) {
                sum[i][v] = gemm_multiply_add(sum[i][v], a[k * GEMM_MR + i], b_k[v], bf16);
            }
        }
    }
    for (int i = 0; i < rows; i++) {
        GemmVector *c_i = (GemmVector *)(c + (size_t)i * ldc);
        for (int v = 0; v < vectors; v++) {
            if (add) { sum[i][v] += c_i[v]; }
            c_i[v] = sum[i][v];
        }
    }
}

// c (rows, columns) = or += a b, where the tile may extend past the edges of C. Smaller tiles are used where
// a full one would compute mostly zeros: for the last 1, 2 or 4 rows, and one vector for the small heads of
// attention.
__attribute__((always_inline)) static inline void gemm_tile(float *c, size_t ldc, const float *a,
                                                            const float *b, size_t rows, size_t columns,
                                                            size_t depth, bool add, bool bf16) {
    const size_t computed = rows == 1 ? 1 : rows == 2 ? 2 : rows <= 4 ? 4 : GEMM_MR;
    const size_t vectors = computed == GEMM_MR && columns <= GEMM_LANES ? 1 : GEMM_NV;
    const bool inside = rows == computed && columns == vectors * GEMM_LANES;
    float tile[GEMM_MR * GEMM_NR], *out = inside ? c : tile;
    const size_t stride = inside ? ldc : (size_t)GEMM_NR;
    const bool add_now = inside && add;
    if (computed == 1) {
        gemm_register_tile(out, stride, a, b, 1, GEMM_NV, depth, add_now, bf16);
    } else if (computed == 2) {
        gemm_register_tile(out, stride, a, b, 2, GEMM_NV, depth, add_now, bf16);
    } else if (computed == 4) {
        gemm_register_tile(out, stride, a, b, 4, GEMM_NV, depth, add_now, bf16);
    } else if (vectors == 1) {
        gemm_register_tile(out, stride, a, b, GEMM_MR, 1, depth, add_now, bf16);
    } else {
        gemm_register_tile(out, stride, a, b, GEMM_MR, GEMM_NV, depth, add_now, bf16);
    }
    for (size_t i = 0; !inside && i < rows; i++) {
        for (size_t j = 0; j < columns; j++) {
            float *c_ij = c + i * ldc + j;
            *c_ij = add ? *c_ij + tile[i * GEMM_NR + j] : tile[i * GEMM_NR + j];
        }
    }
}

// All tiles of one panel: c (rows, columns) = or += strips (rows, depth) panel (depth, columns), both packed.
__attribute__((always_inline)) static inline void gemm_panel(float *c, size_t ldc, const float *strips,
                                                             const float *panel, size_t rows, size_t columns,
                                                             size_t depth, bool add, bool bf16) {
    for (size_t i = 0; i < rows; i += GEMM_MR) {
        gemm_tile(c + i * ldc, ldc, strips + i * depth, panel, gemm_min(GEMM_MR, rows - i), columns,
                  bf16 ? gemm_divide_up(depth, 2) : depth, add, bf16);
    }
}

// C (M, N) = or += A B with packed strips and panels.
static inline void gemm_packed(float *C, size_t ldc, Matrix A, Matrix B, size_t M, size_t N, size_t K,
                               bool accumulate, GemmType type) {
    float strips[GEMM_ROWS * GEMM_KC] __attribute__((aligned(64)));
    float panel[GEMM_KC * GEMM_NR] __attribute__((aligned(64)));
    const bool bf16 = GEMM_HAS_BF16 && type == GEMM_BF16;
    for (size_t i = 0; K == 0 && !accumulate && i < M; i++) { memset(C + i * ldc, 0, N * sizeof(float)); }
    const size_t block = K == 0 ? 1 : gemm_block(K);
    for (size_t i0 = 0; i0 < M; i0 += GEMM_ROWS) {
        for (size_t k0 = 0; k0 < K; k0 += block) {
            const size_t rows = gemm_min(GEMM_ROWS, M - i0), depth = gemm_min(block, K - k0);
            const Matrix a = matrix_from(A, i0, k0);
            gemm_pack_strips(strips, (const float *)a.data, A.row_stride, A.column_stride, rows, depth);
            for (size_t i = 0; bf16 && i < rows; i += GEMM_MR) {
                gemm_pair(strips + i * depth, GEMM_MR, depth);
            }
            for (size_t j = 0; j < N; j += GEMM_NR) {
                const size_t columns = gemm_min(GEMM_NR, N - j);
                const void *b = matrix_from(B, k0, j).data;
                const bool add = accumulate || k0 > 0;
                float *c = C + i0 * ldc + j;
                if (B.bf16) {
                    gemm_pack(panel, GEMM_NR, b, B.column_stride, B.row_stride, columns, depth, true);
                } else {
                    gemm_pack(panel, GEMM_NR, b, B.column_stride, B.row_stride, columns, depth, false);
                }
                if (bf16) {
                    gemm_pair(panel, GEMM_NR, depth);
                    gemm_panel(c, ldc, strips, panel, rows, columns, depth, add, true);
                } else {
                    gemm_panel(c, ldc, strips, panel, rows, columns, depth, add, false);
                }
            }
        }
    }
}

static inline void gemm_serial(float *C, size_t ldc, Matrix A, Matrix B, size_t M, size_t N, size_t K,
                               bool accumulate, GemmType type) {
    if (type == GEMM_FP32 && K > 0 && gemm_rows_suit(B, M)) {
        gemm_rows(C, ldc, A, B, M, N, K, accumulate);
    } else {
        gemm_packed(C, ldc, A, B, M, N, K, accumulate, type);
    }
}

// Whether that many blocks of C keep the threads equally busy: many blocks, or the same number for each.
static inline bool gemm_balanced(size_t blocks) {
    const size_t threads = thread_count();
    return blocks >= 4 * threads || (blocks >= 2 * threads && blocks % threads == 0);
}

static inline void gemm(float *C, size_t ldc, Matrix A, Matrix B, size_t M, size_t N, size_t K,
                        bool accumulate, GemmType type) {
    if (M == 0 || N == 0) { return; }
    if (M * N <= GEMM_SMALL / (K + 1)) {
        gemm_serial(C, ldc, A, B, M, N, K, accumulate, type);
        return;
    }
    size_t down = gemm_divide_up(M, GEMM_ROWS), across = gemm_divide_up(N, GEMM_COLUMNS);
    while (!gemm_balanced(down * across) && (M / down > 32 || N / across > 64)) {
        if (M / down > N / across) {
            down++;
        } else {
            across++;
        }
    }
    const size_t rows = gemm_divide_up(gemm_divide_up(M, down), GEMM_MR) * GEMM_MR;
    const size_t columns = gemm_divide_up(gemm_divide_up(N, across), GEMM_NR) * GEMM_NR;
#pragma omp parallel for collapse(2) schedule(dynamic)
    for (size_t j = 0; j < N; j += columns) {
        for (size_t i = 0; i < M; i += rows) {
            gemm_serial(C + i * ldc + j, ldc, matrix_from(A, i, 0), matrix_from(B, 0, j),
                        gemm_min(rows, M - i), gemm_min(columns, N - j), K, accumulate, type);
        }
    }
}

#endif
