// test_cuda_on_cpu.cu: tests of the emulator itself. Correct programs must compute what they should and stay
// silent in every order of execution. Each of the faults below must be reported with the words next to it.
// Every program runs in its own process, since most reports end it. Build and run: test_cuda_on_cpu.sh.
#include "../test/check.h"

#include <assert.h>
#include <cublas_v2.h>
#include <cuda_bf16.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>
#include <type_traits>
#include <vector>

typedef __nv_bfloat16 bf16;

#ifdef CUDA_ON_CPU_CHECK
static const bool checked = true;
#else
static const bool checked = false;
#endif

template <typename T>
static T *device_array(size_t n) {
    T *p;
    cudaMalloc(&p, n * sizeof(T));
    return p;
}

template <typename T>
static T *to_device(const std::vector<T> &host) {
    T *p = device_array<T>(host.size());
    cudaMemcpy(p, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice);
    return p;
}

template <typename T>
static std::vector<T> to_host(const T *p, size_t n) {
    std::vector<T> host(n);
    cudaMemcpy(host.data(), p, n * sizeof(T), cudaMemcpyDeviceToHost);
    return host;
}

static std::vector<float> random_floats(size_t n) {
    static uint32_t state = 1;
    std::vector<float> x(n);
    for (float &v : x) {
        state = state * 1664525u + 1013904223u;
        v = (float)(int32_t)state / 2147483648.0f;
    }
    return x;
}

static std::vector<bf16> random_bf16(size_t n) {
    std::vector<bf16> x(n);
    std::vector<float> values = random_floats(n);
    for (size_t i = 0; i < n; i++) { x[i] = __float2bfloat16_rn(values[i]); }
    return x;
}

// ---------------------------------------------------------------------------------------------
// Correct programs: barriers, warps, atomics

__device__ float warp_sum(float x) {
    for (int offset = 16; offset > 0; offset /= 2) { x += __shfl_xor_sync(0xffffffffu, x, offset); }
    return x;
}

__global__ void __launch_bounds__(1024) block_sum_kernel(float *sum, const float *x, int rounds) {
    __shared__ float partial[32];
    extern __shared__ __align__(16) float copy[];
    for (int i = 0; i < rounds; i++) {
        copy[threadIdx.x] = x[blockIdx.x * blockDim.x + threadIdx.x];
        __syncthreads();
        float s = warp_sum(copy[blockDim.x - 1 - threadIdx.x]);
        if (threadIdx.x % 32 == 0) { partial[threadIdx.x / 32] = s; }
        __syncthreads();
        if (threadIdx.x == 0) {
            sum[blockIdx.x] = 0.0f;
            for (unsigned w = 0; w < blockDim.x / 32; w++) { sum[blockIdx.x] += partial[w]; }
        }
        __syncthreads();
    }
}

static void test_block_sum() {
    std::vector<float> x(3 * 256);
    for (size_t i = 0; i < x.size(); i++) { x[i] = (float)(i % 10); }
    float *d = to_device(x), *sum = device_array<float>(3);
    block_sum_kernel<<<3, 256, 256 * sizeof(float)>>>(sum, d, 2);
    std::vector<float> s = to_host(sum, 3);
    for (int b = 0; b < 3; b++) {
        float expected = 0.0f;
        for (int i = 0; i < 256; i++) { expected += x[(size_t)b * 256 + (size_t)i]; }
        CHECK(s[(size_t)b] == expected);
    }
}

__global__ void warp_kernel(int *out) {
    const int lane = threadIdx.x;
    int *o = out + lane * 16;
    o[0] = __shfl_sync(~0u, lane, 5);
    o[1] = __shfl_up_sync(~0u, lane, 3);
    o[2] = __shfl_down_sync(~0u, lane, 3, 8);
    o[3] = __shfl_xor_sync(~0u, lane, 9, 16);
    o[4] = (int)__ballot_sync(~0u, lane % 3 == 0);
    o[5] = __any_sync(~0u, lane == 7) + 2 * __all_sync(~0u, lane < 31);
    o[6] = __reduce_add_sync(~0u, lane);
    o[7] = (int)__reduce_max_sync(~0u, (unsigned)lane ^ 3u);
    o[8] = __reduce_min_sync(~0u, lane - 20);
    o[9] = (int)__shfl_sync(~0u, (double)lane + 0.5, 31 - lane);
    if (lane < 8) {  // a part of the warp, by itself
        o[10] = __reduce_add_sync(0xffu, lane);
        __syncwarp(0xffu);
    } else {
        o[10] = (int)__ballot_sync(0xffffff00u, lane % 2);
    }
}

static void test_warp() {
    int *out = device_array<int>(32 * 16);
    warp_kernel<<<1, 32>>>(out);
    std::vector<int> all = to_host(out, 32 * 16);
    for (int lane = 0; lane < 32; lane++) {
        const int *o = &all[(size_t)lane * 16];
        CHECK(o[0] == 5 && o[1] == (lane < 3 ? lane : lane - 3) && o[2] == (lane % 8 < 5 ? lane + 3 : lane));
        CHECK(o[3] == (lane ^ 9) && o[4] == 0x49249249 && o[5] == 1 && o[6] == 496 && o[7] == 31 &&
              o[8] == -20);
        CHECK(o[9] == 31 - lane && o[10] == (lane < 8 ? 28 : (int)0xaaaaaa00));
    }
}

// Lanes hand values on through shared memory, with __syncwarp of halves of a warp between.
__global__ void syncwarp_kernel(float *out) {
    __shared__ float s[64];
    const unsigned lane = threadIdx.x % 32, half = lane / 16 ? 0xffff0000u : 0x0000ffffu;
    for (int i = 0; i < 3; i++) {
        s[threadIdx.x] = (float)threadIdx.x + (float)i;
        __syncwarp(half);
        out[threadIdx.x] = s[threadIdx.x ^ 15];
        __syncwarp(half);
    }
    __syncwarp();
    s[threadIdx.x ^ 16] = 1.0f;
}

static void test_syncwarp() {
    float *out = device_array<float>(64);
    syncwarp_kernel<<<1, 64>>>(out);
    std::vector<float> o = to_host(out, 64);
    for (int i = 0; i < 64; i++) { CHECK(o[(size_t)i] == (float)(i ^ 15) + 2.0f); }
}

__global__ void atomics_kernel(int *count, float *sum, unsigned *order) {
    __shared__ int local;
    const bool first = threadIdx.x + threadIdx.y + threadIdx.z == 0;
    if (first) {
        order[atomicAdd(count + 1, 1)] = blockIdx.x;
        local = 0;
    }
    __syncthreads();
    atomicAdd(&local, (int)threadIdx.x);
    atomicMax(count + 2, (int)threadIdx.x);
    atomicAdd(sum, 0.5f);
    __syncthreads();
    if (first) { atomicAdd(count, local); }
    if (threadIdx.x == 1) { return; }  // a barrier does not wait for those that have returned
    __syncthreads();
}

static void test_atomics() {
    int *count = device_array<int>(3);
    float *sum = device_array<float>(1);
    unsigned *order = device_array<unsigned>(16);
    cudaMemset(count, 0, 3 * sizeof(int));
    cudaMemset(sum, 0, sizeof(float));
    atomics_kernel<<<dim3(4, 2, 2), dim3(8, 4, 2)>>>(count, sum, order);  // 16 blocks, of which x runs to 3
    std::vector<int> c = to_host(count, 3);
    CHECK(c[0] == 16 * 8 * 28 && c[1] == 16 && c[2] == 7);
    CHECK(to_host(sum, 1)[0] == 16 * 64 * 0.5f);
    CHECK(checked == (cuda_on_cpu_stats("atomics_kernel").float_atomics == 16 * 64));
}

// The orders are what they are called.
__global__ void order_kernel(int *blocks, int *threads, int *counts) {
    if (threadIdx.x == 0) { blocks[atomicAdd(counts, 1)] = blockIdx.x; }
    if (blockIdx.x == 0) { threads[atomicAdd(counts + 1, 1)] = threadIdx.x; }
}

static void test_orders() {
    for (int order = 0; order < 3; order++) {
        cuda_on_cpu_set_order(order, 7);
        int *blocks = device_array<int>(64), *threads = device_array<int>(64), *counts = device_array<int>(2);
        cudaMemset(counts, 0, 2 * sizeof(int));
        order_kernel<<<64, 64>>>(blocks, threads, counts);
        for (const std::vector<int> &ran : {to_host(blocks, 64), to_host(threads, 64)}) {
            int rising = 0, falling = 0, sum = 0;
            for (int i = 0; i < 64; i++) {
                rising += ran[(size_t)i] == i;
                falling += ran[(size_t)i] == 63 - i;
                sum += ran[(size_t)i];
            }
            CHECK(sum == 64 * 63 / 2 && (rising == 64) == (order == 0) && (falling == 64) == (order == 1));
        }
    }
}

// ---------------------------------------------------------------------------------------------
// Correct programs: forms of a launch

template <int W, typename T>
struct Pair {
    static const int value = W * (int)sizeof(T);
};

template <int A, typename B>
__global__ void form_kernel(B *out, B add) {
    out[threadIdx.x] = (B)A + add;
}
__global__ void plain_kernel(float *out, const float *in) { out[threadIdx.x] = in ? in[threadIdx.x] : -1.0f; }
__global__ void change_kernel(float *out, int n) { out[threadIdx.x] = (float)n++; }

struct Pointers {
    float *out;
    int n;
};
__global__ void struct_kernel(Pointers p) {
    if (threadIdx.x < (unsigned)p.n) { p.out[threadIdx.x] = 9.0f; }
}

template <typename F>
static void with_width(F f) {
    f(std::integral_constant<int, 8>());
    f(std::integral_constant<int, 1>());
}

static void test_launch_forms() {
    float *d = device_array<float>(64);
    form_kernel<3><<<1, 32>>>(d, 0.5f);
    CHECK(to_host(d, 64)[31] == 3.5f);
    form_kernel<Pair<2, float>::value, float><<<dim3(1), dim3(32), 0>>>(d, 1.0f);
    CHECK(to_host(d, 64)[31] == 9.0f);
    with_width([&](auto width) {
        with_width([&](auto more) {
            form_kernel<width.value + more.value><<<1, 64>>>(d, 0.0f);
            CHECK(to_host(d, 64)[63] == (float)(width.value + more.value));
        });
    });
    plain_kernel<<<1, 8>>>(d, nullptr);
    change_kernel<<<1, 2>>>(d + 8, 5);
    auto kernel = struct_kernel;
    kernel<<<1, 32>>>(Pointers{d + 10, 4});
    std::vector<float> h = to_host(d, 64);
    CHECK(h[7] == -1.0f && h[8] == 5.0f && h[9] == 5.0f && h[13] == 9.0f && h[14] == 2.0f);
    CHECK(cudaGetLastError() == cudaSuccess);
}

__global__ void big_kernel(float *out) {
    extern __shared__ __align__(128) unsigned char bytes[];
    float *s = reinterpret_cast<float *>(bytes);
    s[threadIdx.x + 15000] = 1.0f;
    out[blockIdx.x * 32 + threadIdx.x] = s[threadIdx.x + 15000];
}

static void test_big_shared() {
    float *d = device_array<float>(64);
    CHECK(cudaFuncSetAttribute(big_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 99 << 10) ==
          cudaSuccess);
    big_kernel<<<2, 32, 64 << 10>>>(d);
    CHECK(cudaGetLastError() == cudaSuccess && to_host(d, 64)[63] == 1.0f);
    CHECK(cudaFuncSetAttribute(big_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 228 << 10) !=
          cudaSuccess);
    int blocks;
    CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, big_kernel, 128, 99 << 10) == cudaSuccess);
    CHECK(blocks == 2);
}

// ---------------------------------------------------------------------------------------------
// Correct programs: tensor cores and asynchronous copies, against their definitions

__global__ void mma_kernel(float *c, const bf16 *a, const bf16 *b) {
    const int g = threadIdx.x / 4, t = threadIdx.x % 4;
    auto pair = [](bf16 low, bf16 high) {
        uint16_t halves[2];
        memcpy(&halves[0], &low, 2);
        memcpy(&halves[1], &high, 2);
        return (uint32_t)halves[0] | (uint32_t)halves[1] << 16;
    };
    uint32_t ra[4], rb[2];
    float rc[4];
    for (int i = 0; i < 4; i++) {
        const bf16 *p = a + (g + i % 2 * 8) * 16 + 2 * t + i / 2 * 8;
        ra[i] = pair(p[0], p[1]);
        rc[i] = c[(g + i / 2 * 8) * 8 + 2 * t + i % 2];
    }
    for (int i = 0; i < 2; i++) { rb[i] = pair(b[(2 * t + i * 8) * 8 + g], b[(2 * t + 1 + i * 8) * 8 + g]); }
    cuda_on_cpu_mma_m16n8k16(rc, ra, rb);
    for (int i = 0; i < 4; i++) { c[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = rc[i]; }
}

static void test_mma() {
    std::vector<bf16> a = random_bf16(16 * 16), b = random_bf16(16 * 8);
    std::vector<float> c = random_floats(16 * 8);
    float *d = to_device(c);
    mma_kernel<<<1, 32>>>(d, to_device(a), to_device(b));
    std::vector<float> result = to_host(d, c.size());
    double worst = 0.0;
    for (size_t i = 0; i < 16; i++) {
        for (size_t j = 0; j < 8; j++) {
            double sum = c[i * 8 + j];
            for (size_t k = 0; k < 16; k++) {
                sum += (double)(float)a[i * 16 + k] * (double)(float)b[k * 8 + j];
            }
            worst = fmax(worst, fabs(sum - result[i * 8 + j]));
        }
    }
    printf("mma against double: largest difference %.1e\n", worst);
    CHECK(worst <= 2e-6);  // 17 roundings of sums of about 3
}

// Row i of matrix m is row (m + i) % 32 of a swizzled tile of 32 rows.
__global__ void ldmatrix_kernel(uint32_t *out, const uint16_t *in, bool transposed) {
    __shared__ __align__(16) uint16_t tile[32 * 8];
    for (int i = 0; i < 8; i++) { tile[threadIdx.x * 8 + i] = in[threadIdx.x * 8 + i]; }
    __syncthreads();
    const int lane = threadIdx.x, row = (lane / 8 + lane % 8 * 4) % 32;
    uint32_t r[4];
    cuda_on_cpu_ldmatrix_x4(r, tile + row * 8, transposed);
    for (int i = 0; i < 4; i++) { out[lane * 4 + i] = r[i]; }
}

static void test_ldmatrix() {
    std::vector<uint16_t> in(32 * 8);
    for (size_t i = 0; i < in.size(); i++) { in[i] = (uint16_t)(i * 257); }
    uint32_t *out = device_array<uint32_t>(32 * 4);
    for (bool transposed : {false, true}) {
        ldmatrix_kernel<<<1, 32>>>(out, to_device(in), transposed);
        std::vector<uint32_t> r = to_host(out, 32 * 4);
        auto element = [&](size_t m, size_t i, size_t j) { return (uint32_t)in[(m + i * 4) % 32 * 8 + j]; };
        size_t right = 0;
        for (size_t lane = 0; lane < 32; lane++) {
            const size_t g = lane / 4, t = lane % 4;
            for (size_t m = 0; m < 4; m++) {
                const uint32_t expected = transposed ? element(m, 2 * t, g) | element(m, 2 * t + 1, g) << 16
                                                     : element(m, g, 2 * t) | element(m, g, 2 * t + 1) << 16;
                right += r[lane * 4 + m] == expected;
            }
        }
        CHECK(right == 32 * 4);
    }
}

// Two buffers: while one is summed, the other fills. `fault` leaves out what a correct program has: the wait,
// the barrier after it, or the barrier before the buffer is filled again.
enum { NO_FAULT, NO_WAIT, NO_BARRIER_AFTER_WAIT, NO_BARRIER_BEFORE_REFILL };
__global__ void pipeline_kernel(float *out, const float4 *in, int tiles, int fault) {
    __shared__ float4 buffer[2][64];
    const int t = threadIdx.x;
    float sum = 0.0f;
    cuda_on_cpu_cp_async_16(&buffer[0][t], in + t, 16);
    cuda_on_cpu_cp_async_commit();
    for (int i = 0; i < tiles; i++) {
        const bool more = i + 1 < tiles;
        cuda_on_cpu_cp_async_16(&buffer[(i + 1) % 2][t], more ? in + (i + 1) * 64 + t : in, more ? 16 : 0);
        cuda_on_cpu_cp_async_commit();
        if (fault != NO_WAIT) { cuda_on_cpu_cp_async_wait(1); }
        if (fault != NO_BARRIER_AFTER_WAIT) { __syncthreads(); }
        const float4 v = buffer[i % 2][63 - t];
        sum += v.x + v.y + v.z + v.w;
        if (fault != NO_BARRIER_BEFORE_REFILL) { __syncthreads(); }
    }
    cuda_on_cpu_cp_async_wait(0);
    __syncthreads();
    out[t] = sum + buffer[tiles % 2][63 - t].x;  // the last one was filled with zeros
}

static float *run_pipeline(float *out, int fault) {
    const int tiles = 5;
    std::vector<float> in((size_t)tiles * 64 * 4);
    for (size_t i = 0; i < in.size(); i++) { in[i] = (float)(i % 7); }
    pipeline_kernel<<<1, 64>>>(out, (const float4 *)to_device(in), tiles, fault);
    return out;
}

static void test_cp_async() {
    std::vector<float> h = to_host(run_pipeline(device_array<float>(64), NO_FAULT), 64);
    for (size_t t = 0; t < 64; t++) {
        float expected = 0.0f;
        for (size_t i = 0; i < 5; i++) {
            for (size_t k = 0; k < 4; k++) { expected += (float)((i * 256 + (63 - t) * 4 + k) % 7); }
        }
        CHECK(h[t] == expected);
    }
}

// ---------------------------------------------------------------------------------------------
// Statistics of known patterns

enum Pattern { STRIDE_1, STRIDE_2, STRIDE_32, SAME, BF16, WIDE_16, WIDE_STRIDE_2, SHIFTED };

__global__ void pattern_kernel(float *out, const float *in, int pattern) {
    const int t = threadIdx.x;
    float v = 0.0f;
    switch (pattern) {
    case STRIDE_1: v = in[t]; break;
    case STRIDE_2: v = in[2 * t]; break;
    case STRIDE_32: v = in[32 * t]; break;
    case SAME: v = in[0]; break;
    case BF16: v = (float)((const bf16 *)in)[t]; break;
    case WIDE_16: v = ((const float4 *)in)[t].x; break;
    case WIDE_STRIDE_2: v = __ldcs((const float4 *)in + 2 * t).x; break;
    default: v = in[t + 1]; break;
    }
    if (v == 12345.0f) { out[t] = v; }
}

static void test_sectors() {
    float *in = device_array<float>(1024), *out = device_array<float>(1024);
    cudaMemset(in, 0, 1024 * sizeof(float));
    const struct {
        int pattern;
        uint64_t sectors, ideal, requested, traffic, wide;
    } rows[] = {
        {STRIDE_1, 4, 4, 128, 128, 0},
        {STRIDE_2, 8, 4, 128, 128, 0},
        {STRIDE_32, 32, 4, 128, 128, 0},
        {SAME, 1, 1, 128, 4, 0},
        {BF16, 2, 2, 64, 64, 0},
        {SHIFTED, 5, 4, 128, 128, 0},
        {WIDE_STRIDE_2, 32, 16, 512, 512, 32},
    };
    for (const auto &row : rows) {
        cuda_on_cpu_reset();
        pattern_kernel<<<1, 32>>>(out, in, row.pattern);
        const CudaOnCpuStats s = cuda_on_cpu_stats("pattern_kernel");
        CHECK(s.launches == 1 && s.blocks == 1 && s.threads == 32);
        if (!checked) { continue; }
        CHECK(s.sectors == row.sectors && s.ideal_sectors == row.ideal);
        CHECK(s.bytes_read == row.requested && s.traffic_read == row.traffic && s.unique_read == row.traffic);
        CHECK(s.wide_accesses == row.wide && s.narrow_accesses == 32 - row.wide);
    }
}

__global__ void traffic_kernel(float4 *y, const float4 *x, const float *table, int n) {
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        float4 v = x[i];
        v.x *= table[i % 8];
        v.y *= table[i % 8];
        y[i] = v;
    }
}

static void test_traffic() {
    const size_t n = 256;
    float4 *x = device_array<float4>(n), *y = device_array<float4>(n);
    cudaMemset(x, 0, n * sizeof(float4));
    char *arena = device_array<char>(1024);
    float *table = (float *)(arena + 256);
    cuda_on_cpu_piece(arena, 64);
    cuda_on_cpu_piece(table, 8 * sizeof(float));
    cuda_on_cpu_mark_table(table);
    cudaMemset(arena, 0, 1024);
    cuda_on_cpu_reset();
    traffic_kernel<<<1, 64>>>(y, x, table, (int)n);
    const CudaOnCpuStats s = cuda_on_cpu_stats("traffic");
    const uint64_t bytes = n * sizeof(float4);
    if (checked) {
        CHECK(s.traffic_read == bytes + 8 * sizeof(float) && s.traffic_written == bytes);
        CHECK(s.unique_read == bytes + 8 * sizeof(float) && s.unique_written == bytes &&
              s.bytes_written == bytes);
        CHECK(s.wide_accesses == 2 * n && s.races == 0);
    } else {
        CHECK(s.traffic_read == 0 && s.launches == 1);
    }
}

// All 16 bytes in one access, as a kernel that uses them all would.
__device__ float wide_x(const float4 *p) {
    const float4 v = *p;
    return v.x;
}

__global__ void bank_kernel(float *out, int pattern) {
    __shared__ __align__(16) float s[32 * 32];
    for (int i = threadIdx.x; i < 32 * 32; i += 32) { s[i] = 0.0f; }
    __syncthreads();
    const int t = threadIdx.x, row = t % 8, column = t / 8;  // rows of 128 bytes, columns of 16
    const float4 *wide = (const float4 *)s;
    float v = 0.0f;
    switch (pattern) {
    case 0: v = s[t]; break;
    case 1: v = s[2 * t]; break;
    case 2: v = s[32 * t]; break;
    case 3: v = s[t * 31]; break;
    case 4: v = s[7]; break;
    case 5: v = wide_x(wide + t); break;
    case 6: v = wide_x(wide + row * 8 + column); break;          // a column of a tile: all in the same banks
    case 7: v = wide_x(wide + row * 8 + (column ^ row)); break;  // the same with swizzled columns
    default: v = (float)(intptr_t)((const void *const *)s)[t]; break;  // 8 bytes
    }
    if (v == 12345.0f) { out[t] = v; }
}

static void test_banks() {
    const uint64_t conflicts[] = {0, 1, 31, 0, 0, 0, 28, 0, 0};
    float *out = device_array<float>(32);
    for (int pattern = 0; pattern < 9; pattern++) {
        cuda_on_cpu_reset();
        bank_kernel<<<1, 32>>>(out, pattern);
        const CudaOnCpuStats s = cuda_on_cpu_stats("bank_kernel");
        CHECK(s.launches == 1);
        if (checked) { CHECK(s.bank_conflicts == conflicts[pattern] && s.shared_accesses == 33); }
    }
    cuda_on_cpu_reset();  // rows of 16 bytes that lie 64 bytes apart: the 8 of a matrix meet in two places
    ldmatrix_kernel<<<1, 32>>>(device_array<uint32_t>(32 * 4), to_device(std::vector<uint16_t>(32 * 8)),
                               false);
    if (checked) { CHECK(cuda_on_cpu_stats("ldmatrix_kernel").bank_conflicts == 8 * 3 + 4 * 3); }
}

// ---------------------------------------------------------------------------------------------
// Correct programs: the runtime API and cuBLAS

static void test_api() {
    int count = 0, device = -1, value = 0;
    CHECK(cudaGetDeviceCount(&count) == cudaSuccess && count == 1);
    CHECK(cudaGetDevice(&device) == cudaSuccess && device == 0 && cudaSetDevice(0) == cudaSuccess);
    cudaDeviceProp p;
    CHECK(cudaGetDeviceProperties(&p, 0) == cudaSuccess && p.major == 9 && p.multiProcessorCount == 132);
    CHECK(cudaDeviceGetAttribute(&value, cudaDevAttrMultiProcessorCount, 0) == cudaSuccess && value == 132);
    size_t before, after, total;
    cudaMemGetInfo(&before, &total);
    float *d = device_array<float>(1000);
    cudaMemGetInfo(&after, &total);
    CHECK(before - after == 4000 && total == (size_t)80 << 30);
    CHECK(cudaFree(d) == cudaSuccess && cudaFree(nullptr) == cudaSuccess);
    cudaMemGetInfo(&after, &total);
    CHECK(before == after);

    cudaStream_t stream = nullptr;
    cudaEvent_t start = nullptr, end = nullptr;
    float milliseconds = -1.0f, *pinned = nullptr;
    CHECK(cudaStreamCreate(&stream) == cudaSuccess && cudaMallocHost(&pinned, 64) == cudaSuccess);
    CHECK(cudaEventCreate(&start) == cudaSuccess && cudaEventCreate(&end) == cudaSuccess);
    d = device_array<float>(16);
    CHECK(isnan(to_host(d, 16)[15]));  // fresh memory is NaN
    cudaEventRecord(start, stream);
    cudaMemsetAsync(d, 0, 64, stream);
    cudaMemcpyAsync(pinned, d, 64, cudaMemcpyDeviceToHost, stream);
    cudaEventRecord(end, stream);
    CHECK(cudaEventSynchronize(end) == cudaSuccess && cudaStreamSynchronize(stream) == cudaSuccess);
    CHECK(cudaEventElapsedTime(&milliseconds, start, end) == cudaSuccess && milliseconds >= 0.0f);
    CHECK(pinned[15] == 0.0f);
    cudaEventDestroy(start);
    cudaEventDestroy(end);
    CHECK(cudaStreamDestroy(stream) == cudaSuccess && cudaFreeHost(pinned) == cudaSuccess);
    float grid[6] = {1, 2, 3, 4, 5, 6};
    cudaMemcpy2D(d, 16, grid, 12, 8, 2, cudaMemcpyHostToDevice);
    std::vector<float> h = to_host(d, 16);
    CHECK(h[1] == 2 && h[2] == 0 && h[4] == 4 && h[5] == 5 && h[6] == 0);
    CHECK(strcmp(cudaGetErrorString(cudaErrorMemoryAllocation), "out of memory") == 0);
    CHECK(cudaDeviceSynchronize() == cudaSuccess && cudaGetLastError() == cudaSuccess);
}

static void test_little_memory() {
    setenv("CUDA_ON_CPU_MEMORY", "1000000", 1);
    setenv("CUDA_ON_CPU_CAPABILITY", "75", 1);
    void *p = nullptr, *q = nullptr;
    CHECK(cudaMalloc(&p, 900000) == cudaSuccess && cudaMalloc(&q, 200000) == cudaErrorMemoryAllocation);
    CHECK(q == nullptr && cudaPeekAtLastError() == cudaErrorMemoryAllocation);
    CHECK(cudaGetLastError() == cudaErrorMemoryAllocation && cudaGetLastError() == cudaSuccess);
    cudaFree(p);
    CHECK(cudaMalloc(&q, 200000) == cudaSuccess);
    cudaDeviceProp properties;
    cudaGetDeviceProperties(&properties, 0);
    CHECK(properties.major == 7 && properties.minor == 5 && properties.sharedMemPerBlockOptin == 64 << 10);
}

static void test_no_device() {
    setenv("CUDA_ON_CPU_DEVICES", "0", 1);
    int count = -1;
    void *p;
    CHECK(cudaGetDeviceCount(&count) == cudaErrorNoDevice && count == 0);
    CHECK(cudaMalloc(&p, 10) == cudaErrorNoDevice);
    cublasHandle_t handle;
    CHECK(cublasCreate(&handle) != CUBLAS_STATUS_SUCCESS);
}

// C (m, n) = alpha op(A) op(B) + beta C against double, each matrix in the middle of a larger one.
template <typename AB, typename C>
static void check_gemm(cublasHandle_t handle, bool ta, bool tb, size_t m, size_t n, size_t k, float alpha,
                       float beta, double tolerance) {
    const size_t batch = 2, rows_a = ta ? k : m, columns_a = ta ? m : k, rows_b = tb ? n : k,
                 columns_b = tb ? k : n;
    const size_t lda = rows_a + 3, ldb = rows_b + 1, ldc = m + 2;
    const size_t size_a = lda * columns_a, size_b = ldb * columns_b, size_c = ldc * n;
    auto convert = [](const std::vector<float> &x, auto type) {
        std::vector<decltype(type)> y(x.size());
        for (size_t i = 0; i < x.size(); i++) { y[i] = (decltype(type))x[i]; }
        return y;
    };
    std::vector<AB> a = convert(random_floats(batch * size_a), AB()),
                    b = convert(random_floats(batch * size_b), AB());
    std::vector<C> c = convert(random_floats(batch * size_c), C());
    if (beta == 0.0f) {  // then C must not be read
        for (C &x : c) { x = (C)NAN; }
    }
    AB *da = to_device(a), *db = to_device(b);
    C *dc = to_device(c);
    const cudaDataType type_ab = sizeof(AB) == 2 ? CUDA_R_16BF : CUDA_R_32F;
    const cudaDataType type_c = sizeof(C) == 2 ? CUDA_R_16BF : CUDA_R_32F;
    CHECK(cublasGemmStridedBatchedEx(handle, ta ? CUBLAS_OP_T : CUBLAS_OP_N, tb ? CUBLAS_OP_T : CUBLAS_OP_N,
                                     (int)m, (int)n, (int)k, &alpha, da, type_ab, (int)lda, (long long)size_a,
                                     db, type_ab, (int)ldb, (long long)size_b, &beta, dc, type_c, (int)ldc,
                                     (long long)size_c, (int)batch, CUBLAS_COMPUTE_32F,
                                     CUBLAS_GEMM_DEFAULT) == CUBLAS_STATUS_SUCCESS);
    std::vector<C> result = to_host(dc, batch * size_c);
    double worst = 0.0;
    for (size_t i = 0; i < batch * m * n; i++) {
        const size_t z = i / (m * n), row = i % m, column = i / m % n;
        double sum = 0.0, magnitude = 0.0;
        for (size_t j = 0; j < k; j++) {
            const double x = (float)a[z * size_a + (ta ? j + row * lda : row + j * lda)];
            const double y = (float)b[z * size_b + (tb ? column + j * ldb : j + column * ldb)];
            sum += x * y;
            magnitude += fabs(x * y);
        }
        const size_t at = z * size_c + row + column * ldc;
        sum *= alpha;
        if (beta != 0.0f) { sum += beta * (double)(float)c[at]; }
        const double error = fabs(sum - (double)(float)result[at]) / (1.0 + magnitude);
        worst = error <= worst ? worst : error;  // NaN is the worst
    }
    CHECK(worst <= tolerance);
}

static void test_cublas() {
    cublasHandle_t handle;
    CHECK(cublasCreate(&handle) == CUBLAS_STATUS_SUCCESS);
    for (int i = 0; i < 8; i++) {
        const bool ta = i & 1, tb = i & 2;
        const float beta = i & 4 ? 0.5f : 0.0f;
        check_gemm<float, float>(handle, ta, tb, 37, 29, 300, 1.5f, beta, 1e-6);
        check_gemm<bf16, float>(handle, ta, tb, 70, 5, 17, 1.0f, beta, 1e-6);
        check_gemm<bf16, bf16>(handle, ta, tb, 5, 40, 64, 1.0f, beta, 4e-3);  // half a unit of bf16
    }
    check_gemm<float, float>(handle, true, false, 530, 520, 3, 1.0f, 0.0f, 1e-6);
    check_gemm<float, float>(handle, false, false, 3, 4, 0, 1.0f, 0.5f, 1e-6);

    const float one = 1.0f;
    float *d = device_array<float>(64);
    CHECK(cublasGemmEx(handle, CUBLAS_OP_N, CUBLAS_OP_N, 4, 4, 4, &one, d, CUDA_R_16BF, 4, d, CUDA_R_32F, 4,
                       &one, d, CUDA_R_32F, 4, CUBLAS_COMPUTE_32F,
                       CUBLAS_GEMM_DEFAULT) == CUBLAS_STATUS_NOT_SUPPORTED);
    CHECK(cublasGemmEx(handle, CUBLAS_OP_N, CUBLAS_OP_N, 4, 4, 4, &one, d, CUDA_R_32F, 4, d, CUDA_R_32F, 4,
                       &one, d, CUDA_R_16BF, 4, CUBLAS_COMPUTE_32F,
                       CUBLAS_GEMM_DEFAULT) == CUBLAS_STATUS_NOT_SUPPORTED);
    CHECK(cublasSgemm(handle, CUBLAS_OP_N, CUBLAS_OP_N, 4, 4, 4, &one, d, 3, d, 4, &one, d, 4) ==
          CUBLAS_STATUS_INVALID_VALUE);
    CHECK(strcmp(cublasGetStatusString(CUBLAS_STATUS_SUCCESS), "success") == 0);
    cublasDestroy(handle);
}

// ---------------------------------------------------------------------------------------------
// Faults. Each gets 64 floats of device memory, all 1, in an allocation of exactly that size.

__global__ void past_end_kernel(float *p) { p[threadIdx.x + 1] = 1.0f; }
__global__ void dynamic_overflow_kernel(float *p) {
    extern __shared__ float s[];
    s[threadIdx.x + 1] = p[threadIdx.x];
}
__global__ void static_overflow_kernel(float *p, int shift) {
    __shared__ float a[32];
    __shared__ float b[32];
    a[threadIdx.x + (unsigned)shift] = 1.0f;
    b[threadIdx.x] = 2.0f;
    __syncthreads();
    p[threadIdx.x] = a[threadIdx.x] + b[threadIdx.x];
}
__global__ void no_barrier_kernel(float *p) {
    __shared__ float s[64];
    s[threadIdx.x] = 1.0f;
    p[threadIdx.x] = s[63 - threadIdx.x];
}
__global__ void reuse_kernel(float *p) {  // the next turn overwrites what others still read
    __shared__ float s[64];
    for (int i = 0; i < 4; i++) {
        s[threadIdx.x] = (float)i;
        __syncthreads();
        p[threadIdx.x] += s[63 - threadIdx.x];
    }
}
__global__ void no_syncwarp_kernel(float *p) {
    __shared__ float s[32];
    s[threadIdx.x] = warp_sum(1.0f);  // shuffles put no order on memory
    __shfl_sync(~0u, 0, 0);
    p[threadIdx.x] = s[threadIdx.x ^ 1];
}
__global__ void divergent_kernel(float *p) {
    if (threadIdx.x < 32) {
        __syncthreads();
    } else {
        p[0] = 1.0f;
        __syncthreads();
    }
}
__global__ void deadlock_kernel(float *) {
    if (threadIdx.x < 16) {
        __syncwarp();
    } else {
        __syncthreads();
    }
}
__global__ void absent_kernel(float *p) {
    if (threadIdx.x < 16) { p[threadIdx.x] = __shfl_xor_sync(0xffffffffu, 1.0f, 1); }
}
__global__ void absent_first_kernel(float *p) {
    if (threadIdx.x < 16) { return; }
    p[threadIdx.x] = (float)__ballot_sync(0xffffffffu, 1);
}
__global__ void two_shuffles_kernel(float *p) {
    if (threadIdx.x % 2) {
        p[threadIdx.x] = __shfl_sync(~0u, 1.0f, 0);
    } else {
        p[threadIdx.x] = __shfl_sync(~0u, 2.0f, 0);
    }
}
__global__ void wrong_mask_kernel(float *p) { p[threadIdx.x] = __shfl_sync(0xffffu, 1.0f, 0); }
__global__ void partial_mma_kernel(float *p) {
    float c[4] = {};
    const uint32_t a[4] = {}, b[2] = {};
    if (threadIdx.x != 3) { cuda_on_cpu_mma_m16n8k16(c, a, b); }
    p[threadIdx.x] = c[0];
}
__global__ void unset_kernel(float *p) {
    __shared__ float s[64];
    if (threadIdx.x < 63) { s[threadIdx.x] = 1.0f; }
    __syncthreads();
    p[threadIdx.x] = s[threadIdx.x];
}
__global__ void no_atomic_kernel(float *p) { p[0] += 1.0f; }
__global__ void mixed_atomic_kernel(float *p) {
    atomicAdd(p, 1.0f);
    if (p[0] > 1e9f) { p[1] = 0.0f; }
}
__global__ void endless_kernel(float *p) {
    while (*(volatile float *)p != 0.0f) {}
}
__global__ void global_store_to_shared_kernel(float *p) {
    __shared__ float x;
    __stcg(&x, 1.0f);
    *p = x;
}
__global__ void misaligned_kernel(float *p) { ((float4 *)(p + 4))[0] = *(const float4 *)(p + 1); }
__global__ void stack_kernel(float *p, int n) {
    volatile float local[100000];
    for (int i = 0; i < n; i++) { local[i] = 1.0f; }
    p[0] = local[n - 1];
}
__global__ void ldmatrix_global_kernel(float *p) {
    uint32_t r[4];
    cuda_on_cpu_ldmatrix_x4(r, p + threadIdx.x % 8 * 4, false);
}
__global__ void ldmatrix_misaligned_kernel(float *) {
    __shared__ __align__(16) float s[256];
    uint32_t r[4];
    cuda_on_cpu_ldmatrix_x4(r, s + threadIdx.x, false);
}
__global__ void cp_async_past_end_kernel(float *p) {
    __shared__ float4 s[32];
    cuda_on_cpu_cp_async_16(&s[threadIdx.x], p + 4 * threadIdx.x, 16);
}
__global__ void assert_kernel(float *p) {
    assert(blockIdx.x == 0 || threadIdx.x != 5);
    p[threadIdx.x] = 1.0f;
}
__global__ void pieces_kernel(float *p) { p[threadIdx.x] = 1.0f; }

static float *with_piece(float *p) {
    cuda_on_cpu_piece(p, 16);
    return p;
}

static void error_text(cudaError_t error) { fprintf(stderr, "error: %s\n", cudaGetErrorName(error)); }

static cudaError_t gemm_4x4(const float *a, const float *b, float *c, int ld) {
    cublasHandle_t handle;
    cublasCreate(&handle);
    const float one = 1.0f, zero = 0.0f;
    cublasSgemm(handle, CUBLAS_OP_N, CUBLAS_OP_N, 4, 4, 4, &one, a, ld, b, 4, &zero, c, 4);
    return cudaSuccess;
}

enum { FAULT = CUDA_ON_CPU_EXIT_FAULT, STUCK = CUDA_ON_CPU_EXIT_STUCK, BOUNDS = CUDA_ON_CPU_EXIT_BOUNDS };
enum {
    ARGUMENT = CUDA_ON_CPU_EXIT_ARGUMENT,
    RACE = CUDA_ON_CPU_EXIT_VIOLATIONS,
    WATCHDOG = CUDA_ON_CPU_EXIT_WATCHDOG
};
enum { WRONG_RESULT = 2 };  // the result is NaN, or not all ones: what a test of the kernel would see
enum { NOT_SEEN = -1 };     // this build reports nothing

struct Fault {
    const char *name;
    void (*run)(float *p);
    int plain_code;
    const char *plain_words;
    int check_code;
    const char *check_words;
};

static const Fault faults[] = {
    {"global store one past the end", [](float *p) { past_end_kernel<<<1, 64>>>(p); }, FAULT,
     "byte 256 of an allocation of 256 bytes", BOUNDS, "OUT OF BOUNDS write of 4 bytes in past_end_kernel"},
    {"dynamic shared store past the end", [](float *p) { dynamic_overflow_kernel<<<1, 32, 128>>>(p); }, FAULT,
     "byte 128 of the block's 128 bytes of dynamic shared memory", BOUNDS, "OUT OF BOUNDS write"},
    {"dynamic shared store into the alignment", [](float *p) { dynamic_overflow_kernel<<<1, 16, 64>>>(p); },
     BOUNDS, "byte 64 of the block's 64 bytes of dynamic shared memory", BOUNDS, "OUT OF BOUNDS write"},
    {"static shared store into the next array", [](float *p) { static_overflow_kernel<<<1, 32>>>(p, 1); },
     WRONG_RESULT, "NaN", RACE, "RACE (write after write)"},
    {"no barrier between write and read", [](float *p) { no_barrier_kernel<<<1, 64>>>(p); }, WRONG_RESULT,
     "NaN", RACE, "in no_barrier_kernel"},
    {"shared memory reused without a barrier", [](float *p) { reuse_kernel<<<1, 64>>>(p); }, WRONG_RESULT,
     "result", RACE, "RACE (write after read)"},
    {"no __syncwarp between lanes", [](float *p) { no_syncwarp_kernel<<<1, 32>>>(p); }, WRONG_RESULT,
     "result", RACE, "RACE"},
    {"divergent barrier", [](float *p) { divergent_kernel<<<1, 64>>>(p); }, STUCK, "DIVERGENT BARRIER", STUCK,
     "DIVERGENT BARRIER"},
    {"__syncwarp waits for __syncthreads", [](float *p) { deadlock_kernel<<<1, 32>>>(p); }, STUCK,
     "threads 16 to 31: at __syncthreads (dev/cuda_on_cpu/test_cuda_on_cpu.cu:", STUCK,
     "threads 0 to 15: at __syncwarp"},
    {"shuffle with lanes that return", [](float *p) { absent_kernel<<<1, 32>>>(p); }, STUCK,
     "NAMES ABSENT LANES", STUCK, "NAMES ABSENT LANES"},
    {"ballot with lanes that have returned", [](float *p) { absent_first_kernel<<<1, 32>>>(p); }, STUCK,
     "NAMES ABSENT LANES", STUCK, "NAMES ABSENT LANES"},
    {"two shuffles in two branches", [](float *p) { two_shuffles_kernel<<<1, 32>>>(p); }, STUCK,
     "DIVERGENT WARP OPERATION", STUCK, "DIVERGENT WARP OPERATION"},
    {"shuffle outside its mask", [](float *p) { wrong_mask_kernel<<<1, 32>>>(p); }, STUCK,
     "OUTSIDE ITS OWN MASK", STUCK, "OUTSIDE ITS OWN MASK"},
    {"mma without one lane", [](float *p) { partial_mma_kernel<<<1, 32>>>(p); }, STUCK, "at mma.sync", STUCK,
     "at mma.sync"},
    {"shared memory read before it is written", [](float *p) { unset_kernel<<<1, 64>>>(p); }, WRONG_RESULT,
     "NaN", WRONG_RESULT, "NaN"},
    {"sum without an atomic", [](float *p) { no_atomic_kernel<<<1, 32>>>(p); }, NOT_SEEN, "", RACE,
     "RACE (write after"},
    {"sum without an atomic, one thread a block", [](float *p) { no_atomic_kernel<<<8, 1>>>(p); }, NOT_SEEN,
     "", RACE, "with another block"},
    {"atomic and plain read", [](float *p) { mixed_atomic_kernel<<<1, 64>>>(p); }, NOT_SEEN, "", RACE,
     "RACE (read after write)"},
    {"host pointer as an argument",
     [](float *) {
         static float host[64];
         pieces_kernel<<<1, 32>>>(host);
     },
     ARGUMENT, "argument 1 is not a pointer to device memory", ARGUMENT,
     "argument 1 is not a pointer to device memory"},
    {"host pointer in a struct",
     [](float *) {
         struct_kernel<<<1, 8>>>(Pointers{new float[8], 8});
     },
     NOT_SEEN, "", BOUNDS, "is host memory"},
    {"host code reads device memory", [](float *p) { printf("%g\n", (double)p[0]); }, FAULT,
     "host code touches device memory", FAULT, "host code touches device memory"},
    {"freed pointer as an argument",
     [](float *p) {
         cudaFree(p);
         pieces_kernel<<<1, 32>>>(p);
     },
     ARGUMENT, "which was freed", ARGUMENT, "which was freed"},
    {"freed pointer in a struct",
     [](float *p) {
         cudaFree(p);
         struct_kernel<<<1, 8>>>(Pointers{p, 8});
     },
     FAULT, "which was freed", BOUNDS, "which was freed"},
    {"freed twice",
     [](float *p) {
         cudaFree(p);
         error_text(cudaFree(p));
         _exit(0);
     },
     0, "cudaErrorInvalidValue", 0, "cudaFree of byte 0 of an allocation of 256 bytes, which was freed"},
    {"block of 2048 threads",
     [](float *p) {
         pieces_kernel<<<1, 2048>>>(p);
         error_text(cudaGetLastError());
     },
     0, "error: cudaErrorInvalidConfiguration", 0, "a block of (2048,1,1) threads"},
    {"grid of 70000 in y",
     [](float *p) {
         pieces_kernel<<<dim3(1, 70000), 1>>>(p);
         error_text(cudaGetLastError());
     },
     0, "error: cudaErrorInvalidConfiguration", 0, "a grid of (1,70000,1) blocks"},
    {"64 KiB of shared memory, not asked for",
     [](float *p) {
         big_kernel<<<1, 32, 64 << 10>>>(p);
         error_text(cudaGetLastError());
     },
     0, "error: cudaErrorInvalidValue", 0, "more than 48 KiB"},
    {"endless loop", [](float *p) { endless_kernel<<<1, 32>>>(p); }, WATCHDOG,
     "no block has ended in 1 seconds of CPU (CUDA_ON_CPU_SECONDS) in endless_kernel", WATCHDOG,
     "test_cuda_on_cpu.cu:"},
    {"cp.async without a wait", [](float *p) { run_pipeline(p, NO_WAIT); }, WRONG_RESULT, "NaN", RACE,
     "RACE (cp.async in flight)"},
    {"no barrier after the wait", [](float *p) { run_pipeline(p, NO_BARRIER_AFTER_WAIT); }, WRONG_RESULT,
     "NaN", RACE, "RACE ("},
    {"buffer filled again without a barrier", [](float *p) { run_pipeline(p, NO_BARRIER_BEFORE_REFILL); },
     WRONG_RESULT, "NaN", RACE, "RACE (write after read)"},
    {"misaligned access of 16 bytes", [](float *p) { misaligned_kernel<<<1, 1>>>(p); }, FAULT,
     "misaligned access of 16 bytes", RACE, "MISALIGNED read of 16 bytes"},
    {"store for global memory to shared", [](float *p) { global_store_to_shared_kernel<<<1, 1>>>(p); },
     ARGUMENT, "only for global memory, at static shared memory", ARGUMENT, "only for global memory"},
    {"too many local variables", [](float *p) { stack_kernel<<<1, 1>>>(p, 100000); }, FAULT,
     "local variables need more than", FAULT, "local variables need more than"},
    {"ldmatrix of global memory", [](float *p) { ldmatrix_global_kernel<<<1, 32>>>(p); }, BOUNDS,
     "OUT OF BOUNDS ldmatrix", BOUNDS, "OUT OF BOUNDS ldmatrix"},
    {"misaligned ldmatrix", [](float *p) { ldmatrix_misaligned_kernel<<<1, 32>>>(p); }, BOUNDS,
     "MISALIGNED ldmatrix", BOUNDS, "MISALIGNED ldmatrix"},
    {"cp.async from past the end", [](float *p) { cp_async_past_end_kernel<<<1, 32>>>(p); }, BOUNDS,
     "OUT OF BOUNDS cp.async", BOUNDS, "OUT OF BOUNDS cp.async"},
    {"access beyond a piece", [](float *p) { pieces_kernel<<<1, 32>>>(with_piece(p)); }, NOT_SEEN, "", BOUNDS,
     "none of its pieces"},
    {"assertion", [](float *p) { assert_kernel<<<2, 32>>>(p); }, FAULT, "block (1,0,0), thread (5,0,0)",
     FAULT, "abort, or an assertion"},
    {"cudaMemcpy with the wrong kind",
     [](float *p) {
         float h;
         error_text(cudaMemcpy(p, &h, 4, cudaMemcpyDeviceToHost));
     },
     0, "the destination is device memory, its kind says host", 0, "error: cudaErrorInvalidValue"},
    {"cudaMemcpy of too much",
     [](float *p) {
         float h[65];
         error_text(cudaMemcpy(h, p, 260, cudaMemcpyDeviceToHost));
     },
     0, "the source is 260 bytes at byte 0 of an allocation of 256 bytes", 0, "error: cudaErrorInvalidValue"},
    {"cuBLAS with a wrong leading dimension", [](float *p) { gemm_4x4(p, p + 16, p + 32, 21); }, ARGUMENT,
     "A of 4 rows, 4 columns, leading dimension 21: 268 bytes", ARGUMENT, "OUT OF BOUNDS cublasSgemm"},
    {"cuBLAS with host memory", [](float *p) { gemm_4x4(p, new float[16], p + 32, 4); }, ARGUMENT,
     "not device memory", ARGUMENT, "not device memory"},
};

// ---------------------------------------------------------------------------------------------
// The processes

struct Outcome {
    int code;
    std::string output;
};

template <typename F>
static Outcome in_process(F f) {
    int pipe_ends[2];
    if (pipe(pipe_ends) != 0) { exit(1); }
    fflush(nullptr);
    const pid_t child = fork();
    if (child == 0) {
        dup2(pipe_ends[1], STDOUT_FILENO);
        dup2(pipe_ends[1], STDERR_FILENO);
        close(pipe_ends[0]);
        close(pipe_ends[1]);
        exit(f());
    }
    close(pipe_ends[1]);
    Outcome outcome = {0, ""};
    char buffer[4096];
    for (ssize_t n; (n = read(pipe_ends[0], buffer, sizeof buffer)) > 0;) {
        outcome.output.append(buffer, (size_t)n);
    }
    close(pipe_ends[0]);
    int status = 0;
    waitpid(child, &status, 0);
    outcome.code = WIFEXITED(status) ? WEXITSTATUS(status) : 256 + WTERMSIG(status);
    return outcome;
}

static int run_fault(const Fault &fault, int order) {
    if (fault.plain_code == WATCHDOG) { setenv("CUDA_ON_CPU_SECONDS", "1", 1); }
    cuda_on_cpu_set_order(order, 3);
    float *p = to_device(std::vector<float>(64, 1.0f));
    fault.run(p);
    const std::vector<float> result = to_host(p, 64);
    int ones = 0, nans = 0;
    for (float x : result) {
        ones += x == 1.0f;
        nans += x != x;
    }
    if (ones < 64) { printf("result: %s\n", nans ? "NaN" : "not as it should be"); }
    return ones < 64 ? WRONG_RESULT : 0;
}

static void check_fault(const Fault &fault, int order) {
    Outcome outcome = in_process([&] { return run_fault(fault, order); });
    const int code = checked ? fault.check_code : fault.plain_code;
    const char *words = checked ? fault.check_words : fault.plain_words;
    bool right = outcome.code == code && outcome.output.find(words) != std::string::npos;
    if (code == NOT_SEEN) { right = outcome.output.find("cuda_on_cpu:") == std::string::npos; }
    if (!check_at(right, fault.name, __FILE__, __LINE__)) {
        printf("       order %d: expected code %d and \"%s\", got %d and\n%s\n", order, code, words,
               outcome.code, outcome.output.c_str());
    }
}

static const struct {
    const char *name;
    void (*run)();
} programs[] = {
    {"block sum", test_block_sum},
    {"warp operations", test_warp},
    {"syncwarp", test_syncwarp},
    {"atomics", test_atomics},
    {"orders", test_orders},
    {"launch forms", test_launch_forms},
    {"big shared", test_big_shared},
    {"mma", test_mma},
    {"ldmatrix", test_ldmatrix},
    {"cp.async", test_cp_async},
    {"sectors", test_sectors},
    {"traffic", test_traffic},
    {"bank conflicts", test_banks},
    {"runtime API", test_api},
    {"little memory", test_little_memory},
    {"no device", test_no_device},
    {"cuBLAS", test_cublas},
};

int main() {
    for (const auto &program : programs) {
        for (int order = 0; order < 3; order++) {
            Outcome outcome = in_process([&] {
                check_passed = check_failed = 0;
                cuda_on_cpu_set_order(order, 11);
                program.run();
                return check_report();
            });
            const size_t line = outcome.output.rfind('\n', outcome.output.size() - 2) + 1;
            int passed = 0, failed = 0;
            sscanf(outcome.output.c_str() + line, "%d passed, %d failed", &passed, &failed);
            check_passed += passed;
            if (!check_at(outcome.code == 0 && passed > 0 && failed == 0, program.name, __FILE__, __LINE__)) {
                printf("       order %d: code %d and\n%s\n", order, outcome.code, outcome.output.c_str());
            }
        }
    }
    int seen = 0, all = 0;
    for (const Fault &fault : faults) {
        seen += (checked ? fault.check_code : fault.plain_code) != NOT_SEEN;
        all++;
        for (int order = 0; order < (fault.plain_code == WATCHDOG ? 1 : 3); order++) {
            check_fault(fault, order);
        }
    }
    printf("%s build: %d of %d faults can be seen\n", checked ? "checker" : "plain", seen, all);
    return check_report();
}
