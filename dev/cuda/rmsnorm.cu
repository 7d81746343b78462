// rmsnorm.cu: RMSNorm, y = w * x / rms(x) with rms(x) = sqrt(mean_c(x_c^2) + eps), from the plainest kernels
// to those of train_olmo2.cu. README.md says how to build and read this.
//
//   ./rmsnorm forward     y and rstd = 1 / rms(x), which the backward needs
//   ./rmsnorm residual    the end of a branch, h = x + rmsnorm(o)
//   ./rmsnorm backward    dx and dw
//
// There is almost nothing to compute. The quality of a version is the number of bytes it moves, and how many
// of them are in flight while it waits. Figures: C = 2048, bf16. Bytes, sectors and accesses are counted by
// the checker of dev/cuda_on_cpu for 64 rows: bytes as a multiple of the minimum, accesses to global memory
// per thread, accesses to shared memory per warp. Registers are those of nvcc 13.0, the larger count of sm_80
// and sm_90.

#include "ladder.cuh"

static const float EPS = 1e-6f;

// ---------------------------------------------------------------------------------------------
// forward: x (N, C), w (C) -> y (N, C), rstd (N). At least 4C + 4 bytes per row: x in, y and rstd out.

typedef void Forward(floatX *y, float *rstd, const floatX *x, const floatX *w, size_t N, size_t C, float eps);

// Version 1: one thread per row, like a loop on a CPU. The lanes of a warp are in 32 different rows, so the 2
// bytes of each lane are in a sector of their own (32 bytes, the smallest unit that memory moves): 13.85
// sectors for each one that contiguous bytes would need. x is read twice, for the sum and for y: 1.51 of the
// minimum bytes. And 8192 rows are only 256 warps, two for each multiprocessor of an H100. 30 registers.
__global__ static void forward_kernel_1(floatX *y, float *rstd, const floatX *x, const floatX *w, size_t N,
                                        int C, float eps) {
    const size_t n = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (n >= N) { return; }
    float sum = 0.0f;
    for (int c = 0; c < C; c++) { sum += (float)x[n * C + c] * (float)x[n * C + c]; }
    const float s = 1.0f / sqrtf(sum / C + eps);
    for (int c = 0; c < C; c++) { y[n * C + c] = (floatX)((float)w[c] * ((float)x[n * C + c] * s)); }
    rstd[n] = s;
}

static void forward_1(floatX *y, float *rstd, const floatX *x, const floatX *w, size_t N, size_t C,
                      float eps) {
    const int threads = 128;
    forward_kernel_1<<<divide_up(N, threads), threads>>>(y, rstd, x, w, N, C, eps);
    LAUNCH_CHECK();
}

// Version 2: one block per row, and neighbouring threads take neighbouring channels: 1.00 sectors instead of
// 13.85, and 256 times as many threads. A tree in shared memory adds up their sums. It takes 9 barriers, and
// 52 accesses of a warp to shared memory per row. 28 registers.
enum { FORWARD_THREADS = 256 };

__global__ static void forward_kernel_2(floatX *y, float *rstd, const floatX *x, const floatX *w, int C,
                                        float eps) {
    __shared__ float sums[FORWARD_THREADS];
    const size_t n = blockIdx.x;
    const int thread = (int)threadIdx.x;
    float sum = 0.0f;
    for (int c = thread; c < C; c += FORWARD_THREADS) { sum += (float)x[n * C + c] * (float)x[n * C + c]; }
    sums[thread] = sum;
    for (int half = FORWARD_THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (thread < half) { sums[thread] += sums[thread + half]; }
    }
    __syncthreads();
    const float s = 1.0f / sqrtf(sums[0] / C + eps);
    for (int c = thread; c < C; c += FORWARD_THREADS) {
        y[n * C + c] = (floatX)((float)w[c] * ((float)x[n * C + c] * s));
    }
    if (thread == 0) { rstd[n] = s; }
}

static void forward_2(floatX *y, float *rstd, const floatX *x, const floatX *w, size_t N, size_t C,
                      float eps) {
    forward_kernel_2<<<N, FORWARD_THREADS>>>(y, rstd, x, w, C, eps);
    LAUNCH_CHECK();
}

// Version 3 (W = 1): one warp per row. Its lanes exchange their sums between registers, in 5 steps. It needs
// neither shared memory nor barriers, so no warp waits for another. The bytes are the same. 39 registers.
// Version 4 (W = WIDE): a lane moves 16 bytes at a time: 1025 accesses per row instead of 8193. The bytes are
// the same, but there are an eighth of the instructions, and each has eight times as many bytes in flight. 32
// registers.
template <int W>
__global__ static void forward_kernel_3(floatX *y, float *rstd, const floatX *x, const floatX *w, size_t N,
                                        int C, float eps) {
    const size_t n = row_number();
    if (n >= N) { return; }
    float sum = 0.0f;
    for (int c = lane_number() * W; c < C; c += WARP * W) {
        const Vec<floatX, W> x_c = load<W>(x + n * C + c);
        for (int k = 0; k < W; k++) { sum += (float)x_c[k] * (float)x_c[k]; }
    }
    const float s = 1.0f / sqrtf(warp_sum(sum) / C + eps);
    for (int c = lane_number() * W; c < C; c += WARP * W) {
        const Vec<floatX, W> x_c = load<W>(x + n * C + c), w_c = load<W>(w + c);
        Vec<floatX, W> y_c;
        for (int k = 0; k < W; k++) { y_c[k] = (floatX)((float)w_c[k] * ((float)x_c[k] * s)); }
        store(y + n * C + c, y_c);
    }
    if (lane_number() == 0) { rstd[n] = s; }
}

static void forward_3(floatX *y, float *rstd, const floatX *x, const floatX *w, size_t N, size_t C,
                      float eps) {
    forward_kernel_3<1><<<divide_up(N, ROW_WARPS), ROW_WARPS * WARP>>>(y, rstd, x, w, N, C, eps);
    LAUNCH_CHECK();
}

static void forward_4(floatX *y, float *rstd, const floatX *x, const floatX *w, size_t N, size_t C,
                      float eps) {
    by_width(
        [&](auto width) {
            forward_kernel_3<width.value>
                <<<divide_up(N, ROW_WARPS), ROW_WARPS * WARP>>>(y, rstd, x, w, N, C, eps);
        },
        C);
    LAUNCH_CHECK();
}

// Version 5: the row is kept in shared memory, where each lane reads back only what it wrote. x is read once:
// 1.01 of the minimum bytes instead of 1.51, for 4 KB of shared memory and 16 accesses of a warp to it per
// row. 34 registers.
template <int W>
__global__ static void forward_kernel_5(floatX *y, float *rstd, const floatX *x, const floatX *w, size_t N,
                                        int C, float eps) {
    extern __shared__ __align__(128) unsigned char shared[];
    floatX *kept = (floatX *)shared + (size_t)warp_number() * C;
    const size_t n = row_number();
    if (n >= N) { return; }
    float sum = 0.0f;
    for (int c = lane_number() * W; c < C; c += WARP * W) {
        const Vec<floatX, W> x_c = load<W>(x + n * C + c);
        store_shared(kept + c, x_c);
        for (int k = 0; k < W; k++) { sum += (float)x_c[k] * (float)x_c[k]; }
    }
    const float s = 1.0f / sqrtf(warp_sum(sum) / C + eps);
    for (int c = lane_number() * W; c < C; c += WARP * W) {
        const Vec<floatX, W> x_c = load<W>(kept + c), w_c = load<W>(w + c);
        Vec<floatX, W> y_c;
        for (int k = 0; k < W; k++) { y_c[k] = (floatX)((float)w_c[k] * ((float)x_c[k] * s)); }
        store(y + n * C + c, y_c);
    }
    if (lane_number() == 0) { rstd[n] = s; }
}

static void forward_5(floatX *y, float *rstd, const floatX *x, const floatX *w, size_t N, size_t C,
                      float eps) {
    const size_t row = C * sizeof(floatX);
    const int warps = warps_for(row, ROW_WARPS);
    by_width(
        [&](auto width) {
            allow_shared(forward_kernel_5<width.value>, warps * row);
            forward_kernel_5<width.value>
                <<<divide_up(N, warps), warps * WARP, warps * row>>>(y, rstd, x, w, N, C, eps);
        },
        C);
    LAUNCH_CHECK();
}

// Version 6, shipped: the row goes to shared memory without passing through registers (cp.async). In version
// 5 a store to shared memory waits for its load: the code for sm_80 starts two loads, waits for the first,
// then starts two more. Here a lane starts all 8 of its loads at once and waits once. The bytes are the same,
// with 8 more accesses to shared memory per row. 40 registers (sm_90: 34).
static const Version<Forward> forward_versions[] = {
    {forward_1, "one thread per row"}, {forward_2, "one block per row"},
    {forward_3, "one warp per row"},   {forward_4, "16 bytes at a time"},
    {forward_5, "the row is kept"},    {rmsnorm_forward, "shipped: copied asynchronously"},
};

// rstd (N) and y (N, C) = w * x * rstd, in double
static void forward_oracle(const Numbers<floatX> &y, const Numbers<float> &rstd, const Numbers<floatX> &x,
                           const Numbers<floatX> &w, size_t N, size_t C) {
    for (size_t n = 0; n < N; n++) {
        double sum = 0.0;
        for (size_t c = 0; c < C; c++) { sum += x[n * C + c] * x[n * C + c]; }
        rstd[n] = 1.0 / sqrt(sum / (double)C + (double)EPS);
        for (size_t c = 0; c < C; c++) { y[n * C + c] = w[c] * x[n * C + c] * rstd[n]; }
    }
}

// A thread that adds up 2048 squares one after the other may lose 2048 halves of a last bit, 1.2e-4. Since
// rounding errors have either sign, the error is closer to the square root of their number, and rstd has half
// of that.
static const double NORM_TOLERANCE = 1e-5;

static void forward_problem(Problem &p) {
    const size_t N = p.n[0], C = p.n[1];
    const auto x = p.input<floatX>(N * C, -2.0, 2.0), w = p.input<floatX>(C, 0.5, 1.5);
    const auto y = p.output<floatX>("y", N * C, NORM_TOLERANCE);
    const auto rstd = p.output<float>("rstd", N, NORM_TOLERANCE);
    p.stays_cached(w.device);
    p.expect([&] { forward_oracle(y, rstd, x, w, N, C); });
    p.bytes = (double)(N * (2 * C * sizeof(floatX) + sizeof(float)));
    p.run(forward_versions,
          [&](Forward *version) { version(y.device, rstd.device, x.device, w.device, N, C, EPS); });
}

// ---------------------------------------------------------------------------------------------
// residual: x, o (N, C), w (C) -> h = x + rmsnorm(o) (N, C), rstd (N). At least 6C + 4 bytes per row.

typedef void Residual(floatX *h, float *rstd, const floatX *x, const floatX *o, const floatX *w, size_t N,
                      size_t C, float eps);

// Version 1: the norm, then the sum, as one would combine existing kernels. The norm makes a round trip to
// memory: 1.67 of the minimum bytes. In bf16 this rounds it once more: an error of 4.5e-3 of the largest h,
// where the other versions have 2.3e-3.
static void residual_1(floatX *h, float *rstd, const floatX *x, const floatX *o, const floatX *w, size_t N,
                       size_t C, float eps) {
    rmsnorm_forward(h, rstd, o, w, N, C, eps);
    add(h, x, h, N * C);
}

// Version 2: one kernel for both, which adds x while the norm is in registers: 1.34 of the minimum bytes,
// because o is read twice. 40 registers.
template <int W>
__global__ static void residual_kernel_2(floatX *h, float *rstd, const floatX *x, const floatX *o,
                                         const floatX *w, size_t N, int C, float eps) {
    const size_t n = row_number();
    if (n >= N) { return; }
    float sum = 0.0f;
    for (int c = lane_number() * W; c < C; c += WARP * W) {
        const Vec<floatX, W> o_c = load<W>(o + n * C + c);
        for (int k = 0; k < W; k++) { sum += (float)o_c[k] * (float)o_c[k]; }
    }
    const float s = 1.0f / sqrtf(warp_sum(sum) / C + eps);
    for (int c = lane_number() * W; c < C; c += WARP * W) {
        const Vec<floatX, W> x_c = load<W>(x + n * C + c), o_c = load<W>(o + n * C + c), w_c = load<W>(w + c);
        Vec<floatX, W> h_c;
        for (int k = 0; k < W; k++) {
            h_c[k] = (floatX)((float)x_c[k] + (float)w_c[k] * ((float)o_c[k] * s));
        }
        store(h + n * C + c, h_c);
    }
    if (lane_number() == 0) { rstd[n] = s; }
}

static void residual_2(floatX *h, float *rstd, const floatX *x, const floatX *o, const floatX *w, size_t N,
                       size_t C, float eps) {
    by_width(
        [&](auto width) {
            residual_kernel_2<width.value>
                <<<divide_up(N, ROW_WARPS), ROW_WARPS * WARP>>>(h, rstd, x, o, w, N, C, eps);
        },
        C);
    LAUNCH_CHECK();
}

// Version 3, shipped: o is staged in shared memory and read once, 1.01 of the minimum bytes. 40 registers.
static const Version<Residual> residual_versions[] = {
    {residual_1, "the norm, then the sum", nullptr, 2.0},
    {residual_2, "in one kernel"},
    {rmsnorm_residual_forward, "shipped: o is read once"},
};

static void residual_problem(Problem &p) {
    const size_t N = p.n[0], C = p.n[1];
    const auto x = p.input<floatX>(N * C, -1.0, 1.0), o = p.input<floatX>(N * C, -2.0, 2.0);
    const auto w = p.input<floatX>(C, 0.5, 1.5);
    const auto h = p.output<floatX>("h", N * C, NORM_TOLERANCE);
    const auto rstd = p.output<float>("rstd", N, NORM_TOLERANCE);
    p.stays_cached(w.device);
    p.expect([&] {
        forward_oracle(h, rstd, o, w, N, C);
        for (size_t i = 0; i < N * C; i++) { h[i] += x[i]; }
    });
    p.bytes = (double)(N * (3 * C * sizeof(floatX) + sizeof(float)));
    p.run(residual_versions, [&](Residual *version) {
        version(h.device, rstd.device, x.device, o.device, w.device, N, C, EPS);
    });
}

// ---------------------------------------------------------------------------------------------
// backward: dy, x (N, C), w (C), rstd (N) -> dx (N, C) assigned, dw (C) accumulated. With s = rstd,
//   dx_c = s (w_c dy_c - x_c s mean_k(w_k dy_k x_k s)),  dw_c = sum_n dy_c x_c s
// dx sums over channels and dw over rows, which makes this hard. At least 6C + 4 bytes per row.

typedef void Backward(floatX *dx, Array dw, float *partial, const floatX *dy, const floatX *x,
                      const floatX *w, const float *rstd, size_t N, size_t C);

// Version 1: one kernel for each sum: one thread per row of dx, then one thread per channel of dw, which
// loops over all rows. dy and x are read three times, 2.38 of the minimum bytes, with 9.76 sectors for each
// one needed. The kernel for dw has 2048 threads, 64 warps, on a GPU with room for thousands.
__global__ static void backward_dx_kernel_1(floatX *dx, const floatX *dy, const floatX *x, const floatX *w,
                                            const float *rstd, size_t N, int C) {
    const size_t n = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (n >= N) { return; }
    const float s = rstd[n];
    float sum = 0.0f;
    for (int c = 0; c < C; c++) { sum += (float)w[c] * (float)dy[n * C + c] * ((float)x[n * C + c] * s); }
    for (int c = 0; c < C; c++) {
        const float du = (float)w[c] * (float)dy[n * C + c];
        dx[n * C + c] = (floatX)(s * (du - (float)x[n * C + c] * s * (sum / C)));
    }
}

template <typename G>
__global__ static void backward_dw_kernel_1(G *dw, const floatX *dy, const floatX *x, const float *rstd,
                                            size_t N, int C) {
    const int c = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (c >= C) { return; }
    float sum = 0.0f;
    for (size_t n = 0; n < N; n++) { sum += (float)dy[n * C + c] * ((float)x[n * C + c] * rstd[n]); }
    dw[c] = (G)((float)dw[c] + sum);
}

static void backward_1(floatX *dx, Array dw, float *, const floatX *dy, const floatX *x, const floatX *w,
                       const float *rstd, size_t N, size_t C) {
    const int threads = 128;
    by_type(dw,
            [&](auto *d) { backward_dw_kernel_1<<<divide_up(C, threads), threads>>>(d, dy, x, rstd, N, C); });
    backward_dx_kernel_1<<<divide_up(N, threads), threads>>>(dx, dy, x, w, rstd, N, C);
    LAUNCH_CHECK();
}

// Version 2: one warp per row, which adds the row's contribution to dw with atomics. DO NOT COPY THIS: it is
// here to show what atomics cost. A row takes 2048 of them. Each is a read and a write in the L2 cache (3.00
// of the minimum bytes, in 1.00 sectors), and N rows queue for each of the 2048 sums. They arrive in another
// order each time. Since each addition rounds, the last bits of the sums differ from run to run. (There are
// atomics on bf16 too, but 8 bits lose most of the small summands.) 40 registers.
__global__ static void backward_kernel_2(floatX *dx, float *dw, const floatX *dy, const floatX *x,
                                         const floatX *w, const float *rstd, size_t N, int C) {
    const size_t n = row_number();
    if (n >= N) { return; }
    const float s = rstd[n];
    float sum = 0.0f;
    for (int c = lane_number(); c < C; c += WARP) {
        const float term = (float)dy[n * C + c] * ((float)x[n * C + c] * s);
        atomicAdd(dw + c, term);
        sum += (float)w[c] * term;
    }
    const float mean = warp_sum(sum) / C;
    for (int c = lane_number(); c < C; c += WARP) {
        const float du = (float)w[c] * (float)dy[n * C + c];
        dx[n * C + c] = (floatX)(s * (du - (float)x[n * C + c] * s * mean));
    }
}

static void backward_2(floatX *dx, Array dw, float *, const floatX *dy, const floatX *x, const floatX *w,
                       const float *rstd, size_t N, size_t C) {
    float *data = (float *)dw.data;
    backward_kernel_2<<<divide_up(N, ROW_WARPS), ROW_WARPS * WARP>>>(dx, data, dy, x, w, rstd, N, C);
    LAUNCH_CHECK();
}

// Version 3: a few hundred blocks take the rows in turn, with 16-byte accesses. A warp adds up the
// contributions of its rows in 8 KB of its own shared memory, a block adds up its warps, and a second kernel
// adds up the blocks: always in the same order. 2.03 of the minimum bytes; 0.35 of them are the sums of the
// blocks, which become 0.04 when 8192 rows share 256 blocks. dy and x are read twice. 48 registers.
template <int W>
__global__ static void backward_kernel_3(floatX *dx, float *partial, const floatX *dy, const floatX *x,
                                         const floatX *w, const float *rstd, size_t N, int C) {
    extern __shared__ __align__(128) unsigned char shared[];
    const int warps = (int)blockDim.x / WARP, lane = lane_number();
    float *sums = (float *)shared;                 // (warps, C)
    float *dw = sums + (size_t)warp_number() * C;  // this warp's
    for (int c = lane * W; c < C; c += WARP * W) { store_shared(dw + c, Vec<float, W>{}); }
    for (size_t n = row_number(); n < N; n += (size_t)gridDim.x * warps) {
        const float s = rstd[n];
        float sum = 0.0f;
        for (int c = lane * W; c < C; c += WARP * W) {
            const Vec<floatX, W> dy_c = load<W>(dy + n * C + c), x_c = load<W>(x + n * C + c);
            const Vec<floatX, W> w_c = load<W>(w + c);
            Vec<float, W> dw_c = load<W>(dw + c);
            for (int k = 0; k < W; k++) {
                const float term = (float)dy_c[k] * ((float)x_c[k] * s);
                dw_c[k] += term;
                sum += (float)w_c[k] * term;
            }
            store_shared(dw + c, dw_c);
        }
        const float mean = warp_sum(sum) / C;
        for (int c = lane * W; c < C; c += WARP * W) {
            const Vec<floatX, W> dy_c = load<W>(dy + n * C + c), x_c = load<W>(x + n * C + c);
            const Vec<floatX, W> w_c = load<W>(w + c);
            Vec<floatX, W> dx_c;
            for (int k = 0; k < W; k++) {
                dx_c[k] = (floatX)(s * ((float)w_c[k] * (float)dy_c[k] - (float)x_c[k] * s * mean));
            }
            store(dx + n * C + c, dx_c);
        }
    }
    write_partial_sums(partial, sums, C);
}

static void backward_3(floatX *dx, Array dw, float *partial, const floatX *dy, const floatX *x,
                       const floatX *w, const float *rstd, size_t N, size_t C) {
    const size_t row = C * sizeof(float);
    const int warps = warps_for(row, BACKWARD_WARPS);
    const size_t blocks = backward_blocks(N, warps);
    by_width(
        [&](auto width) {
            allow_shared(backward_kernel_3<width.value>, warps * row);
            backward_kernel_3<width.value>
                <<<blocks, warps * WARP, warps * row>>>(dx, partial, dy, x, w, rstd, N, C);
        },
        C);
    LAUNCH_CHECK();
    add_partial_sums(dw, partial, blocks, C);
}

// The last number of a size. dx may overwrite dy.
enum Variant { USUAL, WITH_BF16_GRADIENT, IN_PLACE };
static bool has_atomics(const size_t *n) { return n[2] != WITH_BF16_GRADIENT; }

// Version 4, shipped: dy and x are staged in shared memory and read once: 1.36 of the minimum bytes, or 1.04
// for 8192 rows. A warp takes 16 KB of shared memory instead of 8, so fewer warps fit, but each has a whole
// row of both in flight. What is left: dw takes the 8 numbers of a lane as two pieces of 16 bytes, 32 bytes
// apart from the neighbour's, and such accesses need twice as many passes (192 more per row). The kernel is
// memory-bound, so they hardly matter. 56 registers.
static const Version<Backward> backward_versions[] = {
    {backward_1, "one thread per row, then per channel"},
    {backward_2, "one warp per row; atomics", has_atomics},
    {backward_3, "sums of warps, then of blocks"},
    {rmsnorm_backward, "shipped: rows are read once"},
};

static void backward_problem(Problem &p) {
    const size_t N = p.n[0], C = p.n[1];
    const bool in_place = p.n[2] == IN_PLACE;
    const auto dy = in_place ? p.changed<floatX>("dx", N * C, NORM_TOLERANCE, -1.0, 1.0)
                             : p.input<floatX>(N * C, -1.0, 1.0);
    const auto dx = in_place ? dy : p.output<floatX>("dx", N * C, NORM_TOLERANCE);
    const auto x = p.input<floatX>(N * C, -2.0, 2.0), w = p.input<floatX>(C, 0.5, 1.5);
    const auto rstd = p.input<float>(N, 0.5, 1.0);  // any values will do: rstd need not be that of x
    const auto dw = p.changed("dw", C, NORM_TOLERANCE, -1.0, 1.0, p.n[2] == WITH_BF16_GRADIENT);
    float *partial = p.space<float>(BACKWARD_BLOCKS * C);
    p.stays_cached(w.device);
    p.expect([&] {
        for (size_t n = 0; n < N; n++) {
            double mean = 0.0;
            for (size_t c = 0; c < C; c++) {
                const double term = dy[n * C + c] * x[n * C + c] * rstd[n];
                dw[c] += term;
                mean += w[c] * term / (double)C;
            }
            for (size_t c = 0; c < C; c++) {
                dx[n * C + c] = rstd[n] * (w[c] * dy[n * C + c] - x[n * C + c] * rstd[n] * mean);
            }
        }
    });
    p.bytes = (double)(N * (3 * C * sizeof(floatX) + sizeof(float)));
    p.run(backward_versions, [&](Backward *version) {
        version(dx.device, dw.device, partial, dy.device, x.device, w.device, rstd.device, N, C);
    });
}

// ---------------------------------------------------------------------------------------------

int main(int argc, char **argv) {
    // one row; rows of one number, of a length that is not a multiple of 16 bytes or of a warp; rows so long
    // that shared memory has room for only a few or for one; more rows than one round of the backward's warps
    const Operation operations[] = {
        {"forward",
         forward_problem,
         "N, C",
         {{1, 1}, {1, 8}, {3, 13}, {33, 72}, {257, 96}, {5, 1000}, {2, 2048}, {3, 8440}, {1, 8437}},
         {64, 2048},
         {8192, 2048}},
        {"residual",
         residual_problem,
         "N, C",
         {{1, 1}, {1, 8}, {3, 13}, {33, 72}, {257, 96}, {5, 1000}, {2, 2048}, {3, 8440}, {1, 8437}},
         {64, 2048},
         {8192, 2048}},
        {"backward",
         backward_problem,
         "N, C, variant",
         {{1, 1, USUAL},
          {1, 8, WITH_BF16_GRADIENT},
          {3, 13, USUAL},
          {33, 72, WITH_BF16_GRADIENT},
          {1100, 8, IN_PLACE},
          {1030, 11, WITH_BF16_GRADIENT},
          {5, 1000, IN_PLACE},
          {2, 2048, USUAL},
          {1027, 24, USUAL},
          {3, 8440, USUAL},
          {2, 8437, USUAL}},
         {64, 2048, USUAL},
         {8192, 2048, USUAL}},
    };
    return ladder_main(argc, argv, operations);
}
