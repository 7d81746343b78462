// cublas.cpp: the project's cuBLAS calls, on the emulator's device memory. C = alpha op(A) op(B) + beta C,
// column-major, summed in fp32. Arguments are checked as cuBLAS checks them. In addition, every matrix must
// lie inside one array of device memory, which reveals most wrong leading dimensions.
//
// The product is computed in tiles of C of at most 512 x 512. Parts of op(A) and op(B) are copied to fp32
// panels in the order in which the innermost loop reads them, for any type and transposition.
#include "emulator.h"

#include <algorithm>

#include <cublas_v2.h>

#if defined(__AVX512F__)
enum { VECTOR_BYTES = 64 };
#elif defined(__AVX__)
enum { VECTOR_BYTES = 32 };
#else
enum { VECTOR_BYTES = 16 };
#endif
typedef float Vector __attribute__((vector_size(VECTOR_BYTES), aligned(4), may_alias));

// MR rows and NR columns of C stay in registers while k runs.
enum { LANES = VECTOR_BYTES / 4, MR = 2 * LANES, NR = 6, TILE = 512, DEPTH = 256 };

struct Matrix {  // op(X): element (i, j) is data[i * row_stride + j * column_stride]
    const void *data;
    cudaDataType type;
    size_t row_stride, column_stride;
};

static float load(const float *p) { return *p; }
static float load(const uint16_t *bf16) { return __uint_as_float((unsigned)*bf16 << 16); }

static uint16_t round_to_bf16(float x) {  // to nearest, ties to even
    unsigned bits = __float_as_uint(x);
    if (x != x) { return 0x7fff; }
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// panel (depth, width): panel[k * width + i] = src[i * stride + k * k_stride] for i < count, else 0
template <class T>
static void pack(float *panel, size_t width, const T *src, size_t stride, size_t k_stride, size_t count,
                 size_t depth) {
    if (count < width) { std::fill(panel, panel + width * depth, 0.0f); }
    if (stride == 1) {
        for (size_t k = 0; k < depth; k++) {
            for (size_t i = 0; i < count; i++) { panel[k * width + i] = load(src + i + k * k_stride); }
        }
    } else {
        for (size_t i = 0; i < count; i++) {
            for (size_t k = 0; k < depth; k++) {
                panel[k * width + i] = load(src + i * stride + k * k_stride);
            }
        }
    }
}

static void pack_panel(float *panel, size_t width, const Matrix &x, size_t offset, size_t stride,
                       size_t k_stride, size_t count, size_t depth) {
    if (x.type == CUDA_R_16BF) {
        pack(panel, width, (const uint16_t *)x.data + offset, stride, k_stride, count, depth);
    } else {
        pack(panel, width, (const float *)x.data + offset, stride, k_stride, count, depth);
    }
}

// sum (MR, NR), column-major with the given stride, += a (depth, MR)^T b (depth, NR)
static void multiply_panels(float *sum, size_t stride, const float *a, const float *b, size_t depth) {
    Vector low[NR], high[NR];
    for (int j = 0; j < NR; j++) { low[j] = high[j] = Vector{}; }
    for (size_t k = 0; k < depth; k++) {
        const Vector a_low = *(const Vector *)(a + k * MR), a_high = *(const Vector *)(a + k * MR + LANES);
        for (int j = 0; j < NR; j++) {
            low[j] += a_low * b[k * NR + (size_t)j];
            high[j] += a_high * b[k * NR + (size_t)j];
        }
    }
    for (size_t j = 0; j < NR; j++) {
        *(Vector *)(sum + j * stride) += low[j];
        *(Vector *)(sum + j * stride + LANES) += high[j];
    }
}

template <class T>
static void store(T *c, float sum, float alpha, float beta) {
    float value = alpha * sum + (beta == 0.0f ? 0.0f : beta * load(c));  // with beta 0, C may be NaN
    if constexpr (sizeof(T) == 2) {
        *c = round_to_bf16(value);
    } else {
        *c = value;
    }
}

static void multiply(size_t m, size_t n, size_t k, float alpha, const Matrix &a, const Matrix &b, float beta,
                     void *c, cudaDataType type, size_t ldc) {
    enum { SUM_ROWS = TILE + MR };
    static float sum[(TILE + NR) * SUM_ROWS], a_panels[SUM_ROWS * DEPTH], b_panel[NR * DEPTH];
    for (size_t j0 = 0; j0 < n; j0 += TILE) {
        for (size_t i0 = 0; i0 < m; i0 += TILE) {
            const size_t rows = std::min<size_t>(TILE, m - i0), columns = std::min<size_t>(TILE, n - j0);
            std::fill(sum, sum + (columns + NR) * SUM_ROWS, 0.0f);
            for (size_t k0 = 0; k0 < k; k0 += DEPTH) {
                const size_t depth = std::min<size_t>(DEPTH, k - k0);
                for (size_t i = 0; i < rows; i += MR) {
                    pack_panel(a_panels + i * depth, MR, a, (i0 + i) * a.row_stride + k0 * a.column_stride,
                               a.row_stride, a.column_stride, std::min<size_t>(MR, rows - i), depth);
                }
                for (size_t j = 0; j < columns; j += NR) {
                    pack_panel(b_panel, NR, b, k0 * b.row_stride + (j0 + j) * b.column_stride,
                               b.column_stride, b.row_stride, std::min<size_t>(NR, columns - j), depth);
                    for (size_t i = 0; i < rows; i += MR) {
                        multiply_panels(sum + j * SUM_ROWS + i, SUM_ROWS, a_panels + i * depth, b_panel,
                                        depth);
                    }
                }
            }
            for (size_t j = 0; j < columns; j++) {
                for (size_t i = 0; i < rows; i++) {
                    const size_t at = i0 + i + (j0 + j) * ldc;
                    if (type == CUDA_R_16BF) {
                        store((uint16_t *)c + at, sum[j * SUM_ROWS + i], alpha, beta);
                    } else {
                        store((float *)c + at, sum[j * SUM_ROWS + i], alpha, beta);
                    }
                }
            }
        }
    }
}

// ---------------------------------------------------------------------------------------------
// Arguments

struct cublasContext {
    cudaStream_t stream;
};

static size_t element_bytes(cudaDataType type) { return type == CUDA_R_16BF ? 2 : 4; }

// The rows of cuBLAS's table for fp32 accumulation with the types that this file supports.
static bool supported(cudaDataType a, cudaDataType b, cudaDataType c, cublasComputeType_t compute) {
    const bool exact = compute == CUBLAS_COMPUTE_32F || compute == CUBLAS_COMPUTE_32F_PEDANTIC;
    const bool fast = compute == CUBLAS_COMPUTE_32F_FAST_16F || compute == CUBLAS_COMPUTE_32F_FAST_16BF ||
                      compute == CUBLAS_COMPUTE_32F_FAST_TF32;
    if (a == CUDA_R_16BF && b == CUDA_R_16BF) { return exact && (c == CUDA_R_16BF || c == CUDA_R_32F); }
    return a == CUDA_R_32F && b == CUDA_R_32F && c == CUDA_R_32F && (exact || fast);
}

static cublasStatus_t refuse(const char *call, cublasStatus_t status, const std::string &message) {
    complain(text("%s returns %s: ", call, cublasGetStatusName(status)) + message);
    return status;
}

static void check_extent(const char *call, const char *name, const void *p, size_t bytes, size_t rows,
                         size_t columns, size_t ld) {
    const size_t elements = rows == 0 || columns == 0 ? 0 : (columns - 1) * ld + rows;
    const std::string error = elements == 0 ? "" : bounds_error(p, elements * bytes);
    if (!error.empty()) {
        die(CUDA_ON_CPU_EXIT_ARGUMENT,
            text("OUT OF BOUNDS %s: %s of %zu rows, %zu columns, leading dimension %zu: ", call, name, rows,
                 columns, ld) +
                error);
    }
}

struct Operand {
    const char *name;
    const void *data;
    cudaDataType type;
    int ld;
    long long stride;
    cublasOperation_t op;
};

static cublasStatus_t gemm(const char *call, cublasHandle_t handle, int m, int n, int k, const void *alpha,
                           Operand a, Operand b, const void *beta, Operand c, cublasComputeType_t compute,
                           int batch) {
    if (!handle) { return refuse(call, CUBLAS_STATUS_NOT_INITIALIZED, "the handle is null"); }
    if (m < 0 || n < 0 || k < 0 || batch < 0) {
        return refuse(call, CUBLAS_STATUS_INVALID_VALUE, text("m %d, n %d, k %d, batch %d", m, n, k, batch));
    }
    if (!supported(a.type, b.type, c.type, compute)) {
        return refuse(call, CUBLAS_STATUS_NOT_SUPPORTED,
                      text("types A %d, B %d, C %d with compute type %d", a.type, b.type, c.type, compute));
    }
    const bool transpose_a = a.op != CUBLAS_OP_N, transpose_b = b.op != CUBLAS_OP_N;
    const struct {
        const Operand *x;
        int rows, columns;
    } matrices[] = {{&a, transpose_a ? k : m, transpose_a ? m : k},
                    {&b, transpose_b ? n : k, transpose_b ? k : n},
                    {&c, m, n}};
    for (const auto &matrix : matrices) {
        const Operand &x = *matrix.x;
        if (x.ld < std::max(1, matrix.rows)) {
            return refuse(call, CUBLAS_STATUS_INVALID_VALUE,
                          text("%s has %d rows and leading dimension %d", x.name, matrix.rows, x.ld));
        }
    }
    if (find_allocation(alpha) || find_allocation(beta)) {
        die(CUDA_ON_CPU_EXIT_ARGUMENT, text("%s: alpha and beta must be in host memory", call));
    }
    if (m == 0 || n == 0 || batch == 0) { return CUBLAS_STATUS_SUCCESS; }

    const double start = seconds_now();
    device_memory_open();
    for (int i = 0; i < batch; i++) {
        const char *data[3];
        for (int j = 0; j < 3; j++) {
            const Operand &x = *matrices[j].x;
            data[j] = (const char *)x.data + (long long)i * x.stride * (long long)element_bytes(x.type);
            check_extent(call, x.name, data[j], element_bytes(x.type), (size_t)matrices[j].rows,
                         (size_t)matrices[j].columns, (size_t)x.ld);
        }
        const size_t lda = (size_t)a.ld, ldb = (size_t)b.ld;
        const Matrix op_a = {data[0], a.type, transpose_a ? lda : 1, transpose_a ? 1 : lda};
        const Matrix op_b = {data[1], b.type, transpose_b ? ldb : 1, transpose_b ? 1 : ldb};
        multiply((size_t)m, (size_t)n, (size_t)k, *(const float *)alpha, op_a, op_b, *(const float *)beta,
                 (void *)data[2], c.type, (size_t)c.ld);
    }
    device_memory_close();
    CudaOnCpuStats *row = stats_of(call);
    row->launches++;
    row->seconds += seconds_now() - start;
    return CUBLAS_STATUS_SUCCESS;
}

// ---------------------------------------------------------------------------------------------
// The calls

extern "C" {

cublasStatus_t cublasGemmEx(cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b, int m,
                            int n, int k, const void *alpha, const void *a, cudaDataType type_a, int lda,
                            const void *b, cudaDataType type_b, int ldb, const void *beta, void *c,
                            cudaDataType type_c, int ldc, cublasComputeType_t compute, cublasGemmAlgo_t) {
    return gemm("cublasGemmEx", handle, m, n, k, alpha, {"A", a, type_a, lda, 0, op_a},
                {"B", b, type_b, ldb, 0, op_b}, beta, {"C", c, type_c, ldc, 0, CUBLAS_OP_N}, compute, 1);
}

cublasStatus_t cublasGemmStridedBatchedEx(cublasHandle_t handle, cublasOperation_t op_a,
                                          cublasOperation_t op_b, int m, int n, int k, const void *alpha,
                                          const void *a, cudaDataType type_a, int lda, long long stride_a,
                                          const void *b, cudaDataType type_b, int ldb, long long stride_b,
                                          const void *beta, void *c, cudaDataType type_c, int ldc,
                                          long long stride_c, int batch, cublasComputeType_t compute,
                                          cublasGemmAlgo_t) {
    return gemm("cublasGemmStridedBatchedEx", handle, m, n, k, alpha, {"A", a, type_a, lda, stride_a, op_a},
                {"B", b, type_b, ldb, stride_b, op_b}, beta, {"C", c, type_c, ldc, stride_c, CUBLAS_OP_N},
                compute, batch);
}

cublasStatus_t cublasSgemm_v2(cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b, int m,
                              int n, int k, const float *alpha, const float *a, int lda, const float *b,
                              int ldb, const float *beta, float *c, int ldc) {
    return gemm("cublasSgemm", handle, m, n, k, alpha, {"A", a, CUDA_R_32F, lda, 0, op_a},
                {"B", b, CUDA_R_32F, ldb, 0, op_b}, beta, {"C", c, CUDA_R_32F, ldc, 0, CUBLAS_OP_N},
                CUBLAS_COMPUTE_32F, 1);
}

cublasStatus_t cublasSgemmStridedBatched(cublasHandle_t handle, cublasOperation_t op_a,
                                         cublasOperation_t op_b, int m, int n, int k, const float *alpha,
                                         const float *a, int lda, long long stride_a, const float *b, int ldb,
                                         long long stride_b, const float *beta, float *c, int ldc,
                                         long long stride_c, int batch) {
    return gemm("cublasSgemmStridedBatched", handle, m, n, k, alpha,
                {"A", a, CUDA_R_32F, lda, stride_a, op_a}, {"B", b, CUDA_R_32F, ldb, stride_b, op_b}, beta,
                {"C", c, CUDA_R_32F, ldc, stride_c, CUBLAS_OP_N}, CUBLAS_COMPUTE_32F, batch);
}

cublasStatus_t cublasCreate_v2(cublasHandle_t *handle) {
    int device;
    if (cudaGetDevice(&device) != cudaSuccess) { return CUBLAS_STATUS_NOT_INITIALIZED; }
    *handle = new cublasContext();
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasDestroy_v2(cublasHandle_t handle) {
    delete handle;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetStream_v2(cublasHandle_t handle, cudaStream_t stream) {
    handle->stream = stream;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGetStream_v2(cublasHandle_t handle, cudaStream_t *stream) {
    *stream = handle->stream;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetWorkspace_v2(cublasHandle_t, void *workspace, size_t bytes) {
    if (bytes > 0) { check_extent("cublasSetWorkspace", "the workspace", workspace, 1, bytes, 1, bytes); }
    if ((size_t)workspace % 256 != 0 &&
        checker) {  // only the checker's build aligns allocations to 256 bytes
        return refuse("cublasSetWorkspace", CUBLAS_STATUS_INVALID_VALUE,
                      "the workspace is not aligned to 256 bytes");
    }
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetMathMode(cublasHandle_t, cublasMath_t) { return CUBLAS_STATUS_SUCCESS; }

cublasStatus_t cublasSetPointerMode_v2(cublasHandle_t, cublasPointerMode_t mode) {
    if (mode == CUBLAS_POINTER_MODE_HOST) { return CUBLAS_STATUS_SUCCESS; }
    return refuse("cublasSetPointerMode", CUBLAS_STATUS_NOT_SUPPORTED,
                  "alpha and beta must be in host memory");
}

cublasStatus_t cublasGetVersion_v2(cublasHandle_t, int *version) {
    *version = CUBLAS_VERSION;
    return CUBLAS_STATUS_SUCCESS;
}

static const struct {
    cublasStatus_t status;
    const char *name, *description;
} statuses[] = {
    {CUBLAS_STATUS_SUCCESS, "CUBLAS_STATUS_SUCCESS", "success"},
    {CUBLAS_STATUS_NOT_INITIALIZED, "CUBLAS_STATUS_NOT_INITIALIZED", "the library was not initialized"},
    {CUBLAS_STATUS_ALLOC_FAILED, "CUBLAS_STATUS_ALLOC_FAILED", "the resource allocation failed"},
    {CUBLAS_STATUS_INVALID_VALUE, "CUBLAS_STATUS_INVALID_VALUE", "an invalid value was used as a parameter"},
    {CUBLAS_STATUS_EXECUTION_FAILED, "CUBLAS_STATUS_EXECUTION_FAILED",
     "the function failed to launch on the GPU"},
    {CUBLAS_STATUS_NOT_SUPPORTED, "CUBLAS_STATUS_NOT_SUPPORTED", "the functionality is not supported"},
};

const char *cublasGetStatusName(cublasStatus_t status) {
    for (const auto &known : statuses) {
        if (known.status == status) { return known.name; }
    }
    return "unknown cuBLAS status";
}

const char *cublasGetStatusString(cublasStatus_t status) {
    for (const auto &known : statuses) {
        if (known.status == status) { return known.description; }
    }
    return "unknown cuBLAS status";
}

}  // extern "C"
