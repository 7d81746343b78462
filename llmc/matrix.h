// matrix.h: matrices of fp32 or bf16 in memory, and vectors of floats in registers, for the products of gemm.h.
//
// Doors:
//   Matrix, matrix_of          where the elements of a matrix lie, as strides; a matrix of floats
//   matrix_from                the matrix from an element on
//   GemmVector, GEMM_LANES     as many floats as the processor multiplies at once
//   gemm_element               one element as a float
#ifndef LLMC_MATRIX_H
#define LLMC_MATRIX_H

#include "utils.h"

#ifdef __AVX512BF16__
#include <immintrin.h>
#define GEMM_HAS_BF16 1
#else
#define GEMM_HAS_BF16 0
#endif

// Element (r, c) is data[r * row_stride + c * column_stride]. data is an array of float or, if `bf16`, of the
// upper halves of floats. It may begin at any address, as in a file.
typedef struct {
    const void *data;
    size_t row_stride, column_stride;
    bool bf16;
} Matrix;

// A matrix of floats.
static inline Matrix matrix_of(const float *data, size_t row_stride, size_t column_stride) {
    const Matrix m = {data, row_stride, column_stride, false};
    return m;
}

#if defined(__AVX512F__)
#define GEMM_LANES 16
#elif defined(__AVX__)
#define GEMM_LANES 8
#else
#define GEMM_LANES 4
#endif

// Vector types of GCC and Clang: operators work on all lanes. In memory a vector may begin at any byte.
typedef float GemmVector __attribute__((vector_size(GEMM_LANES * sizeof(float)), aligned(1), may_alias));
typedef float GemmQuad __attribute__((vector_size(4 * sizeof(float)), aligned(1), may_alias));
typedef float GemmOctet __attribute__((vector_size(8 * sizeof(float)), aligned(1), may_alias));
typedef uint32_t GemmBits __attribute__((vector_size(GEMM_LANES * sizeof(float))));
typedef uint32_t GemmOctetBits __attribute__((vector_size(8 * sizeof(float))));

static inline size_t gemm_min(size_t a, size_t b) { return a < b ? a : b; }

static inline size_t gemm_divide_up(size_t a, size_t b) { return (a + b - 1) / b; }

// The address of element i of an array of float or of bf16.
static inline const char *gemm_at(const void *data, size_t i, bool bf16) {
    return (const char *)data + i * (bf16 ? sizeof(uint16_t) : sizeof(float));
}

// That element.
static inline float gemm_element(const void *data, size_t i, bool bf16) {
    uint16_t half;
    float x;
    if (!bf16) {
        memcpy(&x, gemm_at(data, i, bf16), sizeof x);
        return x;
    }
    memcpy(&half, gemm_at(data, i, bf16), sizeof half);
    const uint32_t bits[sizeof x / sizeof(uint32_t)] = {(uint32_t)half << 16};
    memcpy(&x, bits, sizeof x);
    return x;
}

// The matrix without its first r rows and c columns.
static inline Matrix matrix_from(Matrix m, size_t r, size_t c) {
    m.data = gemm_at(m.data, r * m.row_stride + c * m.column_stride, m.bf16);
    return m;
}

#endif
