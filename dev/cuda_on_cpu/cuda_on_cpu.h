// cuda_on_cpu.h: compiles CUDA C++ as plain C++ with clang++, for tests. Each CUDA thread is a fiber, and one
// block runs at a time.
//
// The CUDA Toolkit's own headers supply every type and prototype, compiled as for a host file. This header
// supplies what nvcc builds in (threadIdx, __syncthreads, ...), cuda_on_cpu.cpp and cublas.cpp define what
// the Toolkit's headers declare (cudaMalloc, cublasGemmEx, ...), and cu2cpp.sed turns kernel<<<...>>>(...)
// into CUDA_LAUNCH. The compiler reads this file before any other (-include), so a .cu needs no change; see
// README.md.
#ifndef CUDA_ON_CPU_H
#define CUDA_ON_CPU_H

#pragma GCC system_header

#define CUDA_ON_CPU 1

#include <cuda_runtime.h>

#include <assert.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <type_traits>

// The checker's build (checker.cpp) is that of -fsanitize=thread.
#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define CUDA_ON_CPU_CHECK 1
#endif
#endif

#include "ptx.h"

// ---------------------------------------------------------------------------------------------
// For tests: order of execution, statistics, and what the checker should know about memory

enum {
    CUDA_ON_CPU_FORWARD = 0,   // blocks, warps and lanes in increasing order
    CUDA_ON_CPU_REVERSE = 1,   // in decreasing order
    CUDA_ON_CPU_SHUFFLED = 2,  // blocks in random order; any runnable thread may be next
};

// The exit codes of the reports; the text is on stderr.
enum {
    CUDA_ON_CPU_EXIT_VIOLATIONS = 94,  // at exit: the checker had reported races or misaligned accesses
    CUDA_ON_CPU_EXIT_WATCHDOG = 95,
    CUDA_ON_CPU_EXIT_BOUNDS = 96,
    CUDA_ON_CPU_EXIT_ARGUMENT = 97,  // not a device pointer, or a wrong leading dimension
    CUDA_ON_CPU_EXIT_STUCK = 98,     // deadlock, divergent barrier or warp operation, absent lanes
    CUDA_ON_CPU_EXIT_FAULT = 99,     // a memory fault
};

// The environment variables CUDA_ON_CPU_ORDER and CUDA_ON_CPU_SEED set the order for a whole program.
void cuda_on_cpu_set_order(int order, unsigned seed);

// Sums over the launches of a kernel. Only the first group and the seconds are counted in a plain build; the
// rest comes from the checker. A "warp access" is one load or store by the lanes of a warp at the same place
// in the program.
struct CudaOnCpuStats {
    const char *kernel;
    uint64_t launches, blocks, threads;
    // Global memory, in bytes. Read, written: as each thread requests them. Unique: distinct bytes per
    // launch; a byte that the launch wrote first does not count as read. Traffic: requested bytes, but once
    // where lanes of a warp access request the same ones, and unique bytes for tables
    // (cuda_on_cpu_mark_table).
    uint64_t bytes_read, bytes_written, unique_read, unique_written, traffic_read, traffic_written;
    uint64_t sectors, ideal_sectors;          // of 32 bytes, summed over warp accesses; ideal: densely packed
    uint64_t wide_accesses, narrow_accesses;  // per thread: 16 bytes, or fewer
    uint64_t shared_accesses, bank_conflicts;  // warp accesses to shared memory, and extra passes they needed
    uint64_t float_atomics;
    uint64_t races;
    double seconds;
};

void cuda_on_cpu_reset();                                        // all statistics to 0
CudaOnCpuStats cuda_on_cpu_stats(const char *kernel_substring);  // sums over all kernels so named
void cuda_on_cpu_print_report();                                 // a table, one row per kernel

// Marks a small allocation, or a piece of one, that stays in the caches: only its unique bytes are traffic.
void cuda_on_cpu_mark_table(const void *device_pointer);

// Declares that these bytes of an allocation are one array. Once an allocation has pieces, the checker and
// cuBLAS treat an access that is not inside one piece as out of bounds. Pieces may overlap (a buffer with
// several uses) and end with the allocation.
void cuda_on_cpu_piece(const void *device_pointer, size_t bytes);

// ---------------------------------------------------------------------------------------------
// Keywords

// All shared memory is in one section, which is filled with NaN before each block.
#undef __shared__
#define __shared__ static __attribute__((section("cuda_shared")))
#undef __global__
#define __global__ __attribute__((noinline))  // a kernel stays visible in backtraces
#undef __constant__
#define __constant__ static
#undef __launch_bounds__
#define __launch_bounds__(...)
#define __DEVICE_LAUNCH_PARAMETERS_H__  // the Toolkit's declarations of threadIdx and the rest

// ---------------------------------------------------------------------------------------------
// Built-in variables. They are constant arrays: a thread's position never changes while it runs, and the
// compiler does not report reads of constants to the checker. Only the emulator writes them, between threads.

#ifndef CUDA_ON_CPU_EMULATOR
#define CUDA_ON_CPU_CONSTANT const
#else
#define CUDA_ON_CPU_CONSTANT
#endif
extern "C" CUDA_ON_CPU_CONSTANT unsigned cuda_on_cpu_thread[3], cuda_on_cpu_block[3],
    cuda_on_cpu_block_dim[3], cuda_on_cpu_grid_dim[3];

#define threadIdx (uint3{cuda_on_cpu_thread[0], cuda_on_cpu_thread[1], cuda_on_cpu_thread[2]})
#define blockIdx (uint3{cuda_on_cpu_block[0], cuda_on_cpu_block[1], cuda_on_cpu_block[2]})
#define blockDim (dim3{cuda_on_cpu_block_dim[0], cuda_on_cpu_block_dim[1], cuda_on_cpu_block_dim[2]})
#define gridDim (dim3{cuda_on_cpu_grid_dim[0], cuda_on_cpu_grid_dim[1], cuda_on_cpu_grid_dim[2]})
static const int warpSize = 32;

static inline int cuda_on_cpu_lane() {
    return (int)((threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) % 32);
}

// ---------------------------------------------------------------------------------------------
// Launch

struct CudaOnCpuLaunch {
    const char *kernel;  // as written before <<<
    dim3 grid, block;
    size_t shared_bytes;
    cudaStream_t stream;
};

void cuda_on_cpu_launch(const CudaOnCpuLaunch &launch, void (*thread)(void *), void *context);
void cuda_on_cpu_check_argument(const CudaOnCpuLaunch &launch, int number, const void *pointer);
void *cuda_on_cpu_dynamic_shared(size_t alignment);

template <class Body>
struct CudaOnCpuConfigured {
    CudaOnCpuLaunch launch;
    Body body;

    template <class Argument>
    void check(int number, Argument argument) const {
        if constexpr (std::is_pointer_v<Argument> && !std::is_function_v<std::remove_pointer_t<Argument>>) {
            cuda_on_cpu_check_argument(launch, number, (const void *)argument);
        }
    }

    // Each thread calls the kernel with its own copy of the arguments, which it may change.
    template <class... Arguments>
    void operator()(Arguments... arguments) const {
        int number = 1;
        (check(number++, arguments), ...);
        auto thread = [&] { body(arguments...); };
        cuda_on_cpu_launch(
            launch, [](void *context) { (*static_cast<decltype(thread) *>(context))(); }, &thread);
    }
};

template <class Body>
struct CudaOnCpuKernel {
    const char *name;
    Body body;

    CudaOnCpuConfigured<Body> configure(dim3 grid, dim3 block, size_t shared_bytes = 0,
                                        cudaStream_t stream = nullptr) const {
        return {{name, grid, block, shared_bytes, stream}, body};
    }
};

template <class Body>
CudaOnCpuKernel<Body> cuda_on_cpu_kernel(const char *name, Body body) {
    return {name, body};
}

// The name may be a template whose arguments are deduced from the call, so the only thing to do with it is to
// call it.
#define CUDA_LAUNCH(...)             \
    cuda_on_cpu_kernel(#__VA_ARGS__, \
                       [=](auto... cuda_on_cpu_arguments) { __VA_ARGS__(cuda_on_cpu_arguments...); })

// The Toolkit defines these for functions only under nvcc.
template <class Result, class... Arguments>
cudaError_t cudaFuncSetAttribute(Result (*function)(Arguments...), cudaFuncAttribute attribute, int value) {
    return cudaFuncSetAttribute((const void *)function, attribute, value);
}

template <class Result, class... Arguments>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, Result (*function)(Arguments...),
                                                          int threads, size_t shared_bytes) {
    return cudaOccupancyMaxActiveBlocksPerMultiprocessor(blocks, (const void *)function, threads,
                                                         shared_bytes);
}

// ---------------------------------------------------------------------------------------------
// Barriers and warp operations. Default arguments give the line of the call.

#define CUDA_ON_CPU_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

void cuda_on_cpu_sync_block(const char *file, int line);

// One exchange between the lanes of a mask. Each lane leaves its operand and waits; the last to arrive does
// the exchange for all, in place.
typedef void (*CudaOnCpuExchange)(void *const operands[32], unsigned mask);
void cuda_on_cpu_exchange(const char *name, CudaOnCpuExchange exchange, unsigned mask, void *operand,
                          const char *file, int line);

struct CudaOnCpuShuffle {
    const void *value;
    void *result;
    int bytes, source;
};
void cuda_on_cpu_shuffle(void *const operands[32], unsigned mask);
void cuda_on_cpu_ballot(void *const operands[32], unsigned mask);  // of unsigned: 0 or 1 in, the ballot out
void cuda_on_cpu_sync_warp(const char *file, int line, unsigned mask);

static inline void __syncthreads(CUDA_ON_CPU_HERE) { cuda_on_cpu_sync_block(file, line); }
static inline void __syncwarp(unsigned mask = 0xffffffffu, CUDA_ON_CPU_HERE) {
    cuda_on_cpu_sync_warp(file, line, mask);
}
static inline void __threadfence() {}
static inline void __threadfence_block() {}

template <class T>
static T cuda_on_cpu_shuffle_from(const char *name, unsigned mask, T value, int source, const char *file,
                                  int line) {
    T result;
    CudaOnCpuShuffle shuffle = {&value, &result, (int)sizeof(T), source};
    cuda_on_cpu_exchange(name, cuda_on_cpu_shuffle, mask, &shuffle, file, line);
    return result;
}

template <class T>
static T __shfl_sync(unsigned mask, T value, int source, int width = 32, CUDA_ON_CPU_HERE) {
    int first = cuda_on_cpu_lane() & ~(width - 1);
    return cuda_on_cpu_shuffle_from("__shfl_sync", mask, value, first | (source & (width - 1)), file, line);
}

template <class T>
static T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, CUDA_ON_CPU_HERE) {
    int lane = cuda_on_cpu_lane(), source = lane ^ lanes;
    if ((source & ~(width - 1)) > (lane & ~(width - 1))) { source = lane; }
    return cuda_on_cpu_shuffle_from("__shfl_xor_sync", mask, value, source, file, line);
}

template <class T>
static T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, CUDA_ON_CPU_HERE) {
    int lane = cuda_on_cpu_lane(), source = lane + (int)delta;
    if ((lane & (width - 1)) + (int)delta >= width) { source = lane; }
    return cuda_on_cpu_shuffle_from("__shfl_down_sync", mask, value, source, file, line);
}

template <class T>
static T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, CUDA_ON_CPU_HERE) {
    int lane = cuda_on_cpu_lane(), source = lane - (int)delta;
    if ((lane & (width - 1)) < (int)delta) { source = lane; }
    return cuda_on_cpu_shuffle_from("__shfl_up_sync", mask, value, source, file, line);
}

// x += __shfl_xor_sync(0xffffffffu, x, offset) for offsets 16, 8, 4, 2, 1: the same bits in one exchange, not
// five.
static inline void cuda_on_cpu_butterfly(void *const operands[32], unsigned) {
    float x[32], sum[32];
    for (int lane = 0; lane < 32; lane++) { x[lane] = *(const float *)operands[lane]; }
    for (int offset = 16; offset > 0; offset /= 2) {
        for (int lane = 0; lane < 32; lane++) { sum[lane] = x[lane] + x[lane ^ offset]; }
        for (int lane = 0; lane < 32; lane++) { x[lane] = sum[lane]; }
    }
    for (int lane = 0; lane < 32; lane++) { *(float *)operands[lane] = x[lane]; }
}

static inline float cuda_on_cpu_warp_sum(float x, CUDA_ON_CPU_HERE) {
    cuda_on_cpu_exchange("a sum over the warp", cuda_on_cpu_butterfly, 0xffffffffu, &x, file, line);
    return x;
}

static inline unsigned cuda_on_cpu_vote(const char *name, unsigned mask, int predicate, const char *file,
                                        int line) {
    unsigned ballot = predicate != 0;
    cuda_on_cpu_exchange(name, cuda_on_cpu_ballot, mask, &ballot, file, line);
    return ballot;
}
static inline unsigned __ballot_sync(unsigned mask, int predicate, CUDA_ON_CPU_HERE) {
    return cuda_on_cpu_vote("__ballot_sync", mask, predicate, file, line);
}
static inline int __any_sync(unsigned mask, int predicate, CUDA_ON_CPU_HERE) {
    return cuda_on_cpu_vote("__any_sync", mask, predicate, file, line) != 0;
}
static inline int __all_sync(unsigned mask, int predicate, CUDA_ON_CPU_HERE) {
    return cuda_on_cpu_vote("__all_sync", mask, predicate, file, line) == mask;
}

// The operands of a reduction are 32-bit integers: each lane's value in, the result out.
template <class T, class Combine>
static void cuda_on_cpu_reduce(void *const operands[32], unsigned mask) {
    T result = *(T *)operands[__builtin_ctz(mask)];
    for (unsigned rest = mask & (mask - 1); rest; rest &= rest - 1) {
        result = Combine()(result, *(T *)operands[__builtin_ctz(rest)]);
    }
    for (unsigned rest = mask; rest; rest &= rest - 1) { *(T *)operands[__builtin_ctz(rest)] = result; }
}

#define CUDA_ON_CPU_REDUCE(NAME, T, RESULT)                                                    \
    static inline T NAME(unsigned mask, T value, CUDA_ON_CPU_HERE) {                           \
        struct Combine {                                                                       \
            T operator()(T a, T b) const { return RESULT; }                                    \
        };                                                                                     \
        cuda_on_cpu_exchange(#NAME, cuda_on_cpu_reduce<T, Combine>, mask, &value, file, line); \
        return value;                                                                          \
    }
CUDA_ON_CPU_REDUCE(__reduce_add_sync, unsigned, a + b)
CUDA_ON_CPU_REDUCE(__reduce_min_sync, unsigned, a < b ? a : b)
CUDA_ON_CPU_REDUCE(__reduce_max_sync, unsigned, a > b ? a : b)
CUDA_ON_CPU_REDUCE(__reduce_and_sync, unsigned, a &b)
CUDA_ON_CPU_REDUCE(__reduce_or_sync, unsigned, a | b)
CUDA_ON_CPU_REDUCE(__reduce_xor_sync, unsigned, a ^ b)
CUDA_ON_CPU_REDUCE(__reduce_add_sync, int, (int)((unsigned)a + (unsigned)b))
CUDA_ON_CPU_REDUCE(__reduce_min_sync, int, a < b ? a : b)
CUDA_ON_CPU_REDUCE(__reduce_max_sync, int, a > b ? a : b)

// ---------------------------------------------------------------------------------------------
// Loads, stores, atomics

// The checker must see each of these as one access. The compiler may split the copy of a struct, so in the
// checker's build they call the checker themselves and hide the copy from the compiler.
void cuda_on_cpu_load(void *to, const void *from, int bytes);
void cuda_on_cpu_store(void *to, const void *from, int bytes);

// These are for global memory only: given another kind, a device accesses some other place, or nothing.
void cuda_on_cpu_require_global(const void *p);

template <class T>
static inline T cuda_on_cpu_get(const T *p) {
    cuda_on_cpu_require_global(p);
#ifdef CUDA_ON_CPU_CHECK
    T value;
    cuda_on_cpu_load(&value, p, sizeof(T));
    return value;
#else
    return *p;
#endif
}

template <class T>
static inline void cuda_on_cpu_put(T *p, const T &value) {
    cuda_on_cpu_require_global(p);
#ifdef CUDA_ON_CPU_CHECK
    cuda_on_cpu_store(p, &value, sizeof(T));
#else
    *p = value;
#endif
}

template <class T>
struct CudaOnCpuSame {
    typedef T type;
};
template <class T>
using CudaOnCpuNotDeduced = typename CudaOnCpuSame<T>::type;

template <class T>
static inline T __ldg(const T *p) {
    return cuda_on_cpu_get(p);
}
template <class T>
static inline T __ldca(const T *p) {
    return cuda_on_cpu_get(p);
}
template <class T>
static inline T __ldcg(const T *p) {
    return cuda_on_cpu_get(p);
}
template <class T>
static inline T __ldcs(const T *p) {
    return cuda_on_cpu_get(p);
}
template <class T>
static inline T __ldlu(const T *p) {
    return cuda_on_cpu_get(p);
}
template <class T>
static inline T __ldcv(const T *p) {
    return cuda_on_cpu_get(p);
}
template <class T>
static inline void __stwb(T *p, CudaOnCpuNotDeduced<T> v) {
    cuda_on_cpu_put(p, v);
}
template <class T>
static inline void __stcg(T *p, CudaOnCpuNotDeduced<T> v) {
    cuda_on_cpu_put(p, v);
}
template <class T>
static inline void __stcs(T *p, CudaOnCpuNotDeduced<T> v) {
    cuda_on_cpu_put(p, v);
}
template <class T>
static inline void __stwt(T *p, CudaOnCpuNotDeduced<T> v) {
    cuda_on_cpu_put(p, v);
}

// Vectors of 16 bytes: in the checker's build they are copied in one access, as on the GPU.
#ifdef CUDA_ON_CPU_CHECK
void cuda_on_cpu_copy_16(void *to, const void *from);

template <class T>
struct alignas(16) CudaOnCpuVector {
    T x, y, z, w;
    CudaOnCpuVector() = default;
    CudaOnCpuVector(T x, T y = T(), T z = T(), T w = T()) : x(x), y(y), z(z), w(w) {}
    CudaOnCpuVector(const CudaOnCpuVector &other) { cuda_on_cpu_copy_16(this, &other); }
    CudaOnCpuVector &operator=(const CudaOnCpuVector &other) {
        cuda_on_cpu_copy_16(this, &other);
        return *this;
    }
};
#define float4 CudaOnCpuVector<float>
#define int4 CudaOnCpuVector<int>
#define uint4 CudaOnCpuVector<unsigned>
#define make_float4 CudaOnCpuVector<float>
#define make_int4 CudaOnCpuVector<int>
#define make_uint4 CudaOnCpuVector<unsigned>
#endif

// Only one thread runs at a time, so these are plain operations; the checker must know about them.
void cuda_on_cpu_atomic(void *p, int bytes, bool is_float);
void cuda_on_cpu_copy_hidden(void *to, const void *from, int bytes);

template <class T, class Change>
static T cuda_on_cpu_atomic_change(T *p, Change change) {
    cuda_on_cpu_atomic(p, sizeof(T), !std::is_integral_v<T>);
    T old;
    cuda_on_cpu_copy_hidden(&old, p, sizeof(T));
    T value = change(old);
    cuda_on_cpu_copy_hidden(p, &value, sizeof(T));
    return old;
}

#define CUDA_ON_CPU_ATOMIC(NAME, RESULT)                                         \
    template <class T>                                                           \
    static T NAME(T *p, CudaOnCpuNotDeduced<T> value) {                          \
        return cuda_on_cpu_atomic_change(p, [=](T old) -> T { return RESULT; }); \
    }
CUDA_ON_CPU_ATOMIC(atomicAdd, old + value)
CUDA_ON_CPU_ATOMIC(atomicSub, old - value)
CUDA_ON_CPU_ATOMIC(atomicMin, value < old ? value : old)
CUDA_ON_CPU_ATOMIC(atomicMax, value > old ? value : old)
CUDA_ON_CPU_ATOMIC(atomicAnd, old &value)
CUDA_ON_CPU_ATOMIC(atomicOr, old | value)
CUDA_ON_CPU_ATOMIC(atomicXor, old ^ value)
CUDA_ON_CPU_ATOMIC(atomicExch, ((void)old, value))
CUDA_ON_CPU_ATOMIC(atomicInc, old >= value ? 0 : old + 1)
CUDA_ON_CPU_ATOMIC(atomicDec, old == 0 || old > value ? value : old - 1)

template <class T>
static T atomicCAS(T *p, CudaOnCpuNotDeduced<T> compare, CudaOnCpuNotDeduced<T> value) {
    return cuda_on_cpu_atomic_change(p, [=](T old) -> T { return old == compare ? value : old; });
}

// ---------------------------------------------------------------------------------------------
// Device mathematics that <math.h> lacks. What a GPU approximates is computed accurately here.

static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline double rsqrt(double x) { return 1.0 / sqrt(x); }
extern "C" {  // the C library declares these names but does not export them
inline float __expf(float x) noexcept { return expf(x); }
inline float __exp10f(float x) noexcept { return powf(10.0f, x); }
inline float __logf(float x) noexcept { return logf(x); }
inline float __log2f(float x) noexcept { return log2f(x); }
inline float __log10f(float x) noexcept { return log10f(x); }
inline float __powf(float x, float y) noexcept { return powf(x, y); }
inline float __sinf(float x) noexcept { return sinf(x); }
inline float __cosf(float x) noexcept { return cosf(x); }
inline float __tanf(float x) noexcept { return tanf(x); }
}
static inline float __fdividef(float x, float y) { return x / y; }
static inline float __frcp_rn(float x) { return 1.0f / x; }
static inline float __frsqrt_rn(float x) { return 1.0f / sqrtf(x); }
static inline float __fsqrt_rn(float x) { return sqrtf(x); }
static inline float __fadd_rn(float x, float y) { return x + y; }
static inline float __fsub_rn(float x, float y) { return x - y; }
static inline float __fmul_rn(float x, float y) { return x * y; }
static inline float __fdiv_rn(float x, float y) { return x / y; }
static inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
static inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }

template <class To, class From>
static inline To cuda_on_cpu_bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "a change of type keeps the size");
    To to;
    memcpy(&to, &from, sizeof(To));
    return to;
}
static inline unsigned __float_as_uint(float x) { return cuda_on_cpu_bits<unsigned>(x); }
static inline float __uint_as_float(unsigned x) { return cuda_on_cpu_bits<float>(x); }
static inline int __float_as_int(float x) { return cuda_on_cpu_bits<int>(x); }
static inline float __int_as_float(int x) { return cuda_on_cpu_bits<float>(x); }
static inline long long __double_as_longlong(double x) { return cuda_on_cpu_bits<long long>(x); }
static inline double __longlong_as_double(long long x) { return cuda_on_cpu_bits<double>(x); }

static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __ffsll(long long x) { return __builtin_ffsll(x); }
static inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
static inline int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }
static inline unsigned __brev(unsigned x) {
    unsigned reversed = 0;
    for (int i = 0; i < 32; i++) { reversed |= (x >> i & 1) << (31 - i); }
    return reversed;
}
static inline unsigned __umulhi(unsigned x, unsigned y) { return (unsigned)((uint64_t)x * y >> 32); }
static inline unsigned long long __umul64hi(unsigned long long x, unsigned long long y) {
    return (unsigned long long)((unsigned __int128)x * y >> 64);
}

template <class A, class B>
using CudaOnCpuCommon =
    std::enable_if_t<std::is_arithmetic_v<A> && std::is_arithmetic_v<B>, std::common_type_t<A, B>>;
template <class A, class B>
static inline CudaOnCpuCommon<A, B> min(A a, B b) {
    typedef std::common_type_t<A, B> T;
    return (T)b < (T)a ? (T)b : (T)a;
}
template <class A, class B>
static inline CudaOnCpuCommon<A, B> max(A a, B b) {
    typedef std::common_type_t<A, B> T;
    return (T)a < (T)b ? (T)b : (T)a;
}

#endif
