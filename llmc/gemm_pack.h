// gemm_pack.h: copies pieces of matrices into the order in which a product reads them.
#ifndef LLMC_GEMM_PACK_H
#define LLMC_GEMM_PACK_H

#include "matrix.h"

// dst (depth, width): dst[k * width + i] = src[i * stride + k * k_stride] for i < count, zeros from count on.
// src is an array of float or of bf16; a stride counts elements.
__attribute__((always_inline)) static inline void gemm_pack(float *dst, size_t width, const void *src,
                                                            size_t stride, size_t k_stride, size_t count,
                                                            size_t depth, bool bf16);

// ---------------------------------------------------------------------------------------------

// dst[k * width + i] = src[i * stride + k] for i < rows, k < 4, or with bf16 for k < 8: up to eight rows become
// columns. Two bf16, of an even k and of the next, move together as one lane of 32 bits.
__attribute__((always_inline)) static inline void gemm_transpose(float *dst, size_t width, const void *src,
                                                                 size_t stride, size_t rows, bool bf16) {
#if defined(__clang__) || __GNUC__ >= 12
    GemmOctet row[4], pair[4], column[4];
    for (size_t i = 0; i < 4; i++) {  // rows i and i + 4 side by side
        const GemmQuad zeros = {0};
        const GemmQuad low = i < rows ? *(const GemmQuad *)gemm_at(src, i * stride, bf16) : zeros;
        const GemmQuad high = i + 4 < rows ? *(const GemmQuad *)gemm_at(src, (i + 4) * stride, bf16) : zeros;
        row[i] = __builtin_shufflevector(low, high, 0, 1, 2, 3, 4, 5, 6, 7);
    }
    // a0 a1 a2 a3 and b0 b1 b2 b3 become a0 b0 a1 b1 and a2 b2 a3 b3, in both halves; then once more.
#define GEMM_LOW(a, b) __builtin_shufflevector(a, b, 0, 8, 1, 9, 4, 12, 5, 13)
#define GEMM_HIGH(a, b) __builtin_shufflevector(a, b, 2, 10, 3, 11, 6, 14, 7, 15)
    for (size_t i = 0; i < 2; i++) {
        pair[2 * i] = GEMM_LOW(row[i], row[i + 2]);
        pair[2 * i + 1] = GEMM_HIGH(row[i], row[i + 2]);
    }
    for (size_t i = 0; i < 2; i++) {
        column[2 * i] = GEMM_LOW(pair[i], pair[i + 2]);
        column[2 * i + 1] = GEMM_HIGH(pair[i], pair[i + 2]);
    }
#undef GEMM_LOW
#undef GEMM_HIGH
    for (size_t k = 0; k < 4; k++) {
        if (bf16) {
            const GemmOctetBits pairs = (GemmOctetBits)column[k];
            const GemmOctetBits even = pairs << 16, odd = pairs & 0xffff0000;
            memcpy(dst + 2 * k * width, &even, rows * sizeof(float));
            memcpy(dst + (2 * k + 1) * width, &odd, rows * sizeof(float));
        } else {
            memcpy(dst + k * width, &column[k], rows * sizeof(float));
        }
    }
#else
    for (size_t k = 0; k < (bf16 ? 8 : 4); k++) {
        for (size_t i = 0; i < rows; i++) { dst[k * width + i] = gemm_element(src, i * stride + k, bf16); }
    }
#endif
}

// gemm_pack for `rows` rows, at most eight, that are contiguous in k.
__attribute__((always_inline)) static inline void gemm_pack_rows(float *dst, size_t width, const void *src,
                                                                 size_t stride, size_t rows, size_t depth,
                                                                 bool bf16) {
    const size_t step = bf16 ? 8 : 4;
    size_t k = 0;
    for (; k + step <= depth; k += step) {
        for (size_t i = 0; i < rows; i++) {
            __builtin_prefetch(gemm_at(src, (i + width) * stride + k, bf16), 0, 2);
        }
        gemm_transpose(dst + k * width, width, gemm_at(src, k, bf16), stride, rows, bf16);
    }
    for (; k < depth; k++) {
        for (size_t i = 0; i < rows; i++) { dst[k * width + i] = gemm_element(src, i * stride + k, bf16); }
    }
}

// It packs strips of A (width MR, i is a row) and panels of B (width NR, i is a column). It also prefetches
// what the next strip or panel will read into the second-level cache, because the processor does not predict
// such short pieces. A prefetch may point past the end of the matrix: it reads nothing.
__attribute__((always_inline)) static inline void gemm_pack(float *dst, size_t width, const void *src,
                                                            size_t stride, size_t k_stride, size_t count,
                                                            size_t depth, bool bf16) {
    if (count < width) { memset(dst, 0, depth * width * sizeof(float)); }
    if (stride == 1) {
        for (size_t k = 0; k < depth; k++) {
            const char *src_k = gemm_at(src, k * k_stride, bf16);
            for (size_t i = 0; i < width; i += 16) {
                __builtin_prefetch(gemm_at(src_k, width + i, bf16), 0, 2);
            }
            if (bf16) {
                for (size_t i = 0; i < count; i++) { dst[k * width + i] = gemm_element(src_k, i, bf16); }
            } else if (count == width) {  // a size that the compiler knows: a few vector moves
                memcpy(dst + k * width, src_k, width * sizeof(float));
            } else {
                memcpy(dst + k * width, src_k, count * sizeof(float));
            }
        }
        return;
    }
    size_t i = 0;
    if (k_stride == 1) {
        for (; i + 8 <= count; i += 8) {
            gemm_pack_rows(dst + i, width, gemm_at(src, i * stride, bf16), stride, 8, depth, bf16);
        }
        for (; i + 2 <= count; i += 2) {
            gemm_pack_rows(dst + i, width, gemm_at(src, i * stride, bf16), stride, 2, depth, bf16);
        }
    }
    for (; i < count; i++) {
        for (size_t k = 0; k < depth; k++) {
            dst[k * width + i] = gemm_element(src, i * stride + k * k_stride, bf16);
        }
    }
}

#endif
