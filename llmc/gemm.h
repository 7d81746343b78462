// gemm.h: one fp32 matrix product for the three layouts of training, with strides in place of transposes.
//
//   forward   Y  = X W^T     A = X   {X, K, 1}     B = W^T  {W, 1, K}
//   dInput    dX = dY W      A = dY  {dY, N, 1}    B = W    {W, K, 1}
//   dWeight   dW += dY^T X   A = dY^T {dY, 1, N}   B = X    {X, K, 1}
#ifndef LLMC_GEMM_H
#define LLMC_GEMM_H

#include "utils.h"

// Element (r, c) is data[r * row_stride + c * column_stride].
typedef struct {
    const float *data;
    size_t row_stride, column_stride;
} Matrix;

#if defined(__AVX512F__)
#define GEMM_VECTOR_BYTES 64
#define GEMM_MR 14
#elif defined(__AVX__)
#define GEMM_VECTOR_BYTES 32
#define GEMM_MR 6
#else
#define GEMM_VECTOR_BYTES 16
#define GEMM_MR 6
#endif
enum {
    GEMM_NV = 2,
    GEMM_LANES = GEMM_VECTOR_BYTES / sizeof(float),
    GEMM_NR = GEMM_NV * GEMM_LANES,
    GEMM_KC = 384,
    GEMM_MC = GEMM_MR * 72,
    GEMM_NC = GEMM_NR * 32
};
typedef float GemmVector __attribute__((vector_size(GEMM_VECTOR_BYTES)));
typedef float GemmUnaligned
    __attribute__((vector_size(GEMM_VECTOR_BYTES), aligned(sizeof(float)), may_alias));

// The packed blocks, allocated once: the one mutable file state of the library.
static struct { float *a, *b; } gemm_buffers;

static inline void gemm_free(void) {
    free(gemm_buffers.a);
    free(gemm_buffers.b);
    gemm_buffers.a = gemm_buffers.b = NULL;
}

// Must be called once before gemm().
static inline bool gemm_prepare(Error *err) {
    if (gemm_buffers.a != NULL) { return true; }
    gemm_buffers.a = (float *)allocate((size_t)GEMM_MC * GEMM_KC, sizeof(float), "gemm", err);
    gemm_buffers.b = (float *)allocate((size_t)GEMM_NC * GEMM_KC, sizeof(float), "gemm", err);
    if (gemm_buffers.a == NULL || gemm_buffers.b == NULL) {
        gemm_free();
        return false;
    }
    return true;
}

static inline size_t gemm_min(size_t a, size_t b) { return a < b ? a : b; }

// dst[k * width + i] = src[i * stride + k * k_stride], zeros from count to width
static inline void gemm_pack(float *dst, size_t width, const float *src, size_t stride, size_t k_stride,
                             size_t count, size_t depth) {
    for (size_t k0 = 0; k0 < depth; k0 += 16) {
        size_t k1 = gemm_min(k0 + 16, depth);
        for (size_t i = 0; i < width; i++) {
            for (size_t k = k0; k < k1; k++) {
                dst[k * width + i] = i < count ? src[i * stride + k * k_stride] : 0;
            }
        }
    }
}

// c (rows, columns) = or += a (packed) b (packed)
static inline void gemm_tile(float *c, size_t ldc, const float *a, const float *b, size_t rows,
                             size_t columns, size_t depth, bool add) {
    GemmVector acc[GEMM_MR][GEMM_NV];
    memset(acc, 0, sizeof acc);
    for (size_t k = 0; k < depth; k++, a += GEMM_MR, b += GEMM_NR) {
        for (int i = 0; i < GEMM_MR; i++) {
            for (int v = 0; v < GEMM_NV; v++) {
                acc[i][v] += a[i] * *(const GemmUnaligned *)(b + v * GEMM_LANES);
            }
        }
    }
    float tile[GEMM_MR * GEMM_NR];
    memcpy(tile, acc, sizeof tile);
    for (size_t i = 0; i < rows; i++) {
        for (size_t j = 0; j < columns; j++) {
            c[i * ldc + j] = (add ? c[i * ldc + j] : 0) + tile[i * GEMM_NR + j];
        }
    }
}

// C (M, N) = A (M, K) B (K, N), or += if accumulate, with all threads; the same bits for any number of them.
static inline void gemm(float *C, size_t ldc, Matrix A, Matrix B, size_t M, size_t N, size_t K,
                        bool accumulate) {
    for (size_t i = 0; K == 0 && !accumulate && i < M; i++) { memset(C + i * ldc, 0, N * sizeof(float)); }
#pragma omp parallel
    for (size_t j0 = 0; j0 < N; j0 += GEMM_NC) {
        for (size_t k0 = 0; k0 < K; k0 += GEMM_KC) {
            size_t nc = gemm_min(GEMM_NC, N - j0), kc = gemm_min(GEMM_KC, K - k0);
            bool add = accumulate || k0 > 0;
#pragma omp for nowait
            for (size_t j = 0; j < nc; j += GEMM_NR) {
                gemm_pack(gemm_buffers.b + j * kc, GEMM_NR,
                          B.data + k0 * B.row_stride + (j0 + j) * B.column_stride, B.column_stride,
                          B.row_stride, gemm_min(GEMM_NR, nc - j), kc);
            }
            for (size_t i0 = 0; i0 < M; i0 += GEMM_MC) {
                size_t mc = gemm_min(GEMM_MC, M - i0);
                size_t strips = (mc + GEMM_MR - 1) / GEMM_MR, panels = (nc + GEMM_NR - 1) / GEMM_NR;
#pragma omp for
                for (size_t i = 0; i < mc; i += GEMM_MR) {
                    gemm_pack(gemm_buffers.a + i * kc, GEMM_MR,
                              A.data + (i0 + i) * A.row_stride + k0 * A.column_stride, A.row_stride,
                              A.column_stride, gemm_min(GEMM_MR, mc - i), kc);
                }
#pragma omp for
                for (size_t t = 0; t < strips * panels; t++) {
                    size_t i = t / panels * GEMM_MR, j = t % panels * GEMM_NR;
                    gemm_tile(C + (i0 + i) * ldc + j0 + j, ldc, gemm_buffers.a + i * kc,
                              gemm_buffers.b + j * kc, gemm_min(GEMM_MR, mc - i), gemm_min(GEMM_NR, nc - j),
                              kc, add);
                }
            }
        }
    }
}

// The same on the calling thread alone, for use inside a parallel region.
static inline void gemm_serial(float *C, size_t ldc, Matrix A, Matrix B, size_t M, size_t N, size_t K,
                               bool accumulate) {
    float a[GEMM_MR * 64], b[GEMM_NR * 64];
    for (size_t i = 0; K == 0 && !accumulate && i < M; i++) { memset(C + i * ldc, 0, N * sizeof(float)); }
    for (size_t k0 = 0; k0 < K; k0 += 64) {
        size_t kc = gemm_min(64, K - k0);
        for (size_t j = 0; j < N; j += GEMM_NR) {
            gemm_pack(b, GEMM_NR, B.data + k0 * B.row_stride + j * B.column_stride, B.column_stride,
                      B.row_stride, gemm_min(GEMM_NR, N - j), kc);
            for (size_t i = 0; i < M; i += GEMM_MR) {
                gemm_pack(a, GEMM_MR, A.data + i * A.row_stride + k0 * A.column_stride, A.row_stride,
                          A.column_stride, gemm_min(GEMM_MR, M - i), kc);
                gemm_tile(C + i * ldc + j, ldc, a, b, gemm_min(GEMM_MR, M - i), gemm_min(GEMM_NR, N - j), kc,
                          accumulate || k0 > 0);
            }
        }
    }
}

#endif
