// cuda_utils.cuh: what the kernels of train_olmo2.cu share.
//
//   floatX                            the type of weights and activations: bf16 or float
//   CUDA_CHECK, CUBLAS_CHECK,
//   LAUNCH_CHECK                      exit with file and line if a call or a launch has failed
//   Vec, load, store, store_shared    W elements at once; by_width chooses W
//   Array, array_at, by_type          an array of float or bf16, chosen when the program starts
//   divide_up, allow_shared           for launches
//   warp_sum                          over the lanes of a warp
//   mma_16x8x16, load_matrices,
//   load_matrices_transposed,
//   pack_bf16                         tensor cores
//   exp2_fast                         2^x in one instruction
//   copy_async, fetch                 from global to shared memory, bypassing the registers
//   random_bits, round_stochastically float to bf16 without bias
//
// What only a single instruction can do is a small function here, in inline assembly. Where CUDA_ON_CPU is
// defined (dev/cuda_on_cpu/ runs kernels on a CPU for the tests), that tool's exact equivalent takes its
// place.
#ifndef LLMC_CUDA_UTILS_CUH
#define LLMC_CUDA_UTILS_CUH

#include <cuda_runtime.h>
#include <cuda_bf16.h>
#include <cublas_v2.h>

#include <type_traits>

#include "utils.h"

// ---------------------------------------------------------------------------------------------
// precision: weights and activations are stored as floatX, chosen when the program is built. All arithmetic
// is in fp32.

typedef __nv_bfloat16 bf16;

#ifdef PRECISION_FP32
typedef float floatX;
#define FLOATX_NAME "fp32"
#else
typedef bf16 floatX;
#define FLOATX_NAME "bf16"
#endif

// cuBLAS's name for a type.
static inline cudaDataType_t cuda_type(const float *) { return CUDA_R_32F; }
static inline cudaDataType_t cuda_type(const bf16 *) { return CUDA_R_16BF; }

// ---------------------------------------------------------------------------------------------
// errors: a call that fails leaves the device in an unknown state, so the program says where and exits. A run
// loses only the steps since its last checkpoint.

__attribute__((noreturn)) static inline void cuda_stop(const char *what, const char *file, int line) {
    fprintf(stderr, "error: %s:%d: CUDA: %s\n", file, line, what);
    exit(1);
}

static inline void cuda_check(cudaError_t status, const char *file, int line) {
    if (status != cudaSuccess) { cuda_stop(cudaGetErrorString(status), file, line); }
}

static inline void cublas_check(cublasStatus_t status, const char *file, int line) {
    if (status != CUBLAS_STATUS_SUCCESS) { cuda_stop(cublasGetStatusString(status), file, line); }
}

#define CUDA_CHECK(call) cuda_check((call), __FILE__, __LINE__)
#define CUBLAS_CHECK(call) cublas_check((call), __FILE__, __LINE__)
#define LAUNCH_CHECK() cuda_check(cudaGetLastError(), __FILE__, __LINE__)

// ---------------------------------------------------------------------------------------------
// wide accesses: a lane moves W elements at once. Kernels are templates over W. W is WIDE where rows are
// multiples of 16 bytes, as in every OLMo 2, and otherwise 1.

enum { WARP = 32, WIDE = 16 / sizeof(floatX) };

template <typename T, int W>
struct Vec {
    T values[W];
    __host__ __device__ T &operator[](int i) { return values[i]; }
    __host__ __device__ const T &operator[](int i) const { return values[i]; }
};

// The word that `bytes` bytes are moved in: 16 bytes, or 8 if there are no more. A single element is moved as
// its own type.
template <size_t bytes>
using Word = std::conditional_t<bytes % 16 == 0, int4, int2>;

// Loads W elements from an address aligned to 16 bytes, or to their total size if that is less.
template <int W, typename T>
__device__ inline Vec<T, W> load(const T *address) {
    Vec<T, W> v;
    if constexpr (W == 1) {
        v[0] = *address;
    } else {
        typedef Word<sizeof v> Piece;
        for (size_t i = 0; i < sizeof v / sizeof(Piece); i++) {
            const Piece bits = reinterpret_cast<const Piece *>(address)[i];
            memcpy(reinterpret_cast<char *>(v.values) + i * sizeof bits, &bits, sizeof bits);
        }
    }
    return v;
}

// Stores W elements to global memory. __stcg names the memory, so the compiler emits one store of 16 bytes;
// for a generic pointer it may emit four of 4.
template <int W, typename T>
__device__ inline void store(T *address, const Vec<T, W> &v) {
    if constexpr (W == 1) {
        *address = v[0];
    } else {
        typedef Word<sizeof v> Piece;
        for (size_t i = 0; i < sizeof v / sizeof(Piece); i++) {
            Piece bits;
            memcpy(&bits, reinterpret_cast<const char *>(v.values) + i * sizeof bits, sizeof bits);
            __stcg(reinterpret_cast<Piece *>(address) + i, bits);
        }
    }
}

// Stores W elements to shared memory.
template <int W, typename T>
__device__ inline void store_shared(T *address, const Vec<T, W> &v) {
    if constexpr (W == 1) {
        *address = v[0];
    } else {
        typedef Word<sizeof v> Piece;
        for (size_t i = 0; i < sizeof v / sizeof(Piece); i++) {
            Piece bits;
            memcpy(&bits, reinterpret_cast<const char *>(v.values) + i * sizeof bits, sizeof bits);
            reinterpret_cast<Piece *>(address)[i] = bits;
        }
    }
}

template <int W>
struct Width {
    static const int value = W;
};

// Calls launch(Width<MOST>()) if all lengths are multiples of MOST, otherwise launch(Width<1>()).
template <int MOST = WIDE, typename Launch>
static inline void by_width(Launch launch, size_t length, size_t second = 0, size_t third = 0) {
    if (length % MOST == 0 && second % MOST == 0 && third % MOST == 0) {
        launch(Width<MOST>());
    } else {
        launch(Width<1>());
    }
}

// ---------------------------------------------------------------------------------------------
// arrays whose type is chosen when the program starts: gradients and moments, fp32 or bf16

typedef struct {
    void *data;  // float or bf16
    bool is_bf16;
} Array;

static inline size_t array_bytes(bool is_bf16, size_t elements) {
    return elements * (is_bf16 ? sizeof(bf16) : sizeof(float));
}

static inline Array array_at(Array a, size_t element) {
    return Array{(char *)a.data + array_bytes(a.is_bf16, element), a.is_bf16};
}

// Calls f with a pointer of the array's type.
template <typename F>
static inline void by_type(Array a, F f) {
    if (a.is_bf16) {
        f((bf16 *)a.data);
    } else {
        f((float *)a.data);
    }
}

// ---------------------------------------------------------------------------------------------
// launches

static inline size_t divide_up(size_t a, size_t b) { return (a + b - 1) / b; }

// Bytes of shared memory that a block may have: by default, and at most, on every GPU from sm_80 on.
enum { SHARED_DEFAULT = 48 << 10, SHARED_MOST = 99 << 10 };

// Lets a kernel have more than SHARED_DEFAULT bytes of shared memory.
template <typename Kernel>
static inline void allow_shared(Kernel kernel, size_t bytes) {
    if (bytes <= SHARED_DEFAULT) { return; }
    CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes));
}

// ---------------------------------------------------------------------------------------------
// sums over the lanes of a warp: a butterfly, which leaves the same bits in every lane

__device__ inline float warp_sum(float x) {
#if defined(CUDA_ON_CPU) && !defined(CUDA_ON_CPU_CHECK)
    return cuda_on_cpu_warp_sum(x);  // an exchange is slow there; the checker's build runs the loop
#else
    for (int offset = WARP / 2; offset > 0; offset /= 2) { x += __shfl_xor_sync(0xffffffffu, x, offset); }
    return x;
#endif
}

// ---------------------------------------------------------------------------------------------
// tensor cores: products of small matrices, distributed over the lanes of a warp (PTX ISA, "Matrix multiply-
// accumulate operation using mma instruction"). With g = lane / 4 and t = lane % 4, a lane holds
//   of A (16 x 16)  a[0]: row g,     columns 2t, 2t+1      a[1]: row g + 8, the same columns
//                   a[2]: row g,     columns 2t+8, 2t+9    a[3]: row g + 8, the same columns
//   of B (16 x 8)   b[0]: rows 2t, 2t+1 of column g        b[1]: rows 2t+8, 2t+9 of column g
//   of C (16 x 8)   c[0], c[1]: row g, columns 2t, 2t+1    c[2], c[3]: row g + 8, the same columns

// C += A B. bf16, two per register, the lower column in the lower half; sums in fp32.
__device__ __forceinline__ void mma_16x8x16(float c[4], const uint32_t a[4], const uint32_t b[2]) {
#ifdef CUDA_ON_CPU
    cuda_on_cpu_mma_m16n8k16(c, a, b);
#else
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

// Loads four 8 x 8 matrices of bf16 from shared memory. Lane 8 m + i passes the address of row i of matrix m,
// 16 bytes. Each lane gets row g, columns 2t and 2t+1, of matrix m in r[m].
__device__ __forceinline__ void load_matrices(uint32_t r[4], const bf16 *row) {
#ifdef CUDA_ON_CPU
    cuda_on_cpu_ldmatrix_x4(r, row, false);
#else
    const uint32_t address = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
#endif
}

// The same, transposed: r[m] is column g, rows 2t and 2t+1, of matrix m in memory.
__device__ __forceinline__ void load_matrices_transposed(uint32_t r[4], const bf16 *row) {
#ifdef CUDA_ON_CPU
    cuda_on_cpu_ldmatrix_x4(r, row, true);
#else
    const uint32_t address = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
#endif
}

// Packs two floats into a register as bf16, the first in the lower half.
__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    uint32_t bits;
    memcpy(&bits, &pair, sizeof bits);
    return bits;
}

// 2^x to two units in the last place, and 0 where the result is below 2^-126. One instruction; exp2f takes
// four, to be right there too.
__device__ __forceinline__ float exp2_fast(float x) {
#ifdef CUDA_ON_CPU
    return exp2f(x);
#else
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#endif
}

// Begins to copy 16 bytes from global to shared memory. If `present` is false, it writes zeros and reads
// nothing. The copies begun since the last commit form a group.
__device__ __forceinline__ void copy_async(void *shared, const void *global, bool present) {
    const int bytes = present ? 16 : 0;
#ifdef CUDA_ON_CPU
    cuda_on_cpu_cp_async_16(shared, global, bytes);
#else
    const uint32_t address = (uint32_t)__cvta_generic_to_shared(shared);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(global), "r"(bytes)
                 : "memory");
#endif
}

__device__ __forceinline__ void copy_async_commit() {
#ifdef CUDA_ON_CPU
    cuda_on_cpu_cp_async_commit();
#else
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until all of this thread's groups have arrived, except the PENDING newest. The copies of other
// threads are visible only after the next __syncthreads.
template <int PENDING>
__device__ __forceinline__ void copy_async_wait() {
#ifdef CUDA_ON_CPU
    cuda_on_cpu_cp_async_wait(PENDING);
#else
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
#endif
}

// Begins to copy W elements to shared memory without going through registers: a lane can have its whole part
// of a row in flight and waits once. If W elements are less than 16 bytes, they are copied immediately.
template <int W, typename T>
__device__ __forceinline__ void fetch(T *shared, const T *global) {
    if constexpr (W == 1) {
        *shared = *global;
    } else {
        static_assert(W * sizeof(T) == 16, "what one copy_async moves");
        copy_async(shared, global, true);
    }
}

// Waits until all that this lane has fetched is visible to this lane.
__device__ __forceinline__ void fetch_wait() {
    copy_async_commit();
    copy_async_wait<0>();
}

// ---------------------------------------------------------------------------------------------
// stochastic rounding: up or down, with probabilities that preserve the mean. Updates far smaller than a
// bf16's last bit then take effect on average; rounding to the nearest would lose them all.

// 32 random bits that depend only on these numbers, not on the launch or the order of threads. The mixing
// steps are those of MurmurHash3's finalizer (Appleby 2011), a bijection of 64 bits.
__host__ __device__ inline uint32_t random_bits(uint64_t step, uint64_t tensor, uint64_t index) {
    uint64_t h = (step * 0x9e3779b97f4a7c15ull + tensor) * 0xd1b54a32d192ed03ull + index;
    h = (h ^ h >> 33) * 0xff51afd7ed558ccdull;
    h = (h ^ h >> 33) * 0xc4ceb9fe1a85ec53ull;
    return (uint32_t)((h ^ h >> 33) >> 32);
}

// x as bf16: the 16 low bits that bf16 drops round it up with probability (low bits) / 2^16.
__device__ inline bf16 round_stochastically(float x, uint32_t random) {
    if (!isfinite(x)) { return __float2bfloat16_rn(x); }
    const uint32_t bits = __float_as_uint(x) + (random & 0xffffu);
    return __float2bfloat16_rn(__uint_as_float(bits & 0xffff0000u));
}

#endif
