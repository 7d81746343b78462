// rmsnorm.cu: RMSNorm, y = w * x / rms(x) with rms(x) = sqrt(mean_c(x_c^2) + eps), from the plainest kernels
// to those of train_olmo2.cu. README.md says how to build and read this.
//
//   ./rmsnorm forward     y and rstd = 1 / rms(x), which the backward needs
//   ./rmsnorm residual    the end of a branch, h = x + rmsnorm(o)
//   ./rmsnorm backward    dx and dw
//
// There is almost nothing to compute, so a version is as good as the bytes it moves, and as the number of
// them that are under way while it waits. Figures: C = 2048, bf16. Bytes, sectors and accesses are what the
// checker of dev/cuda_on_cpu counts for 64 rows: bytes as a multiple of the least, accesses to global memory
// by a thread, to shared memory by a warp. Registers are those of nvcc 13.0, the more of sm_80's and sm_90's.

#include "ladder.cuh"

static const float EPS = 1e-6f;

// ---------------------------------------------------------------------------------------------
// forward: x (N, C), w (C) -> y (N, C), rstd (N). At least 4C + 4 bytes a row: x in, y and rstd out.

typedef void Forward(floatX *y, float *rstd, const floatX *x, const floatX *w, size_t N, size_t C, float eps);

// Version 1: a thread takes a row, as a loop on a CPU would. The lanes of a warp are in 32 different rows,
// so each lane's 2 bytes are in a sector (32 bytes, the least that memory moves) of their own: 13.85
// sectors for each that would do if the bytes lay side by side. x is read twice, for the sum and for y:
// 1.51 of the least bytes. And 8192 rows are 256 warps, two for each multiprocessor of an H100. 30
// registers.
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

// Version 2: a block takes a row, and neighbouring threads take neighbouring channels: 1.00 sectors in
// place of 13.85, and 256 times as many threads. Their sums are added up in shared memory, in halves,
// which takes 9 barriers and 52 accesses of a warp to shared memory a row. 28 registers.
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

// Version 3 (W = 1): a warp takes a row. Its lanes exchange their sums from register to register, in 5
// steps, and there is neither shared memory nor a barrier at which warps wait for each other. The same
// bytes. 39 registers.
// Version 4 (W = WIDE): a lane moves 16 bytes at a time: 1025 accesses a row in place of 8193. The same
// bytes, but an eighth of the instructions, and eight times as much under way for each. 32 registers.
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

// Version 5: the row is kept in shared memory, where each lane finds again what it put there itself. x is
// read once: 1.01 of the least bytes in place of 1.51, for 4 KB of shared memory and 16 accesses of a warp
// to it a row. 34 registers.
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

// Version 6, shipped: the row goes to shared memory past the registers (cp.async). In version 5 a store to
// shared memory waits for its load: the code for sm_80 begins two loads, waits for the first, begins two
// more. Here a lane begins all 8 of its loads at once, and waits once. The same bytes and 8 accesses to
// shared memory more a row. 40 registers (sm_90: 34).
static const Version<Forward> forward_versions[] = {
    {forward_1, "a thread takes a row"}, {forward_2, "a block takes a row"},
    {forward_3, "a warp takes a row"},   {forward_4, "16 bytes at a time"},
    {forward_5, "the row is kept"},      {rmsnorm_forward, "shipped: and fetched past registers"},
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

// A thread that adds up 2048 squares one after the other may lose 2048 halves of a last bit, 1.2e-4; as
// roundings go up and down it is rather the root of their number, and rstd has half of that.
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
// residual: x, o (N, C), w (C) -> h = x + rmsnorm(o) (N, C), rstd (N). At least 6C + 4 bytes a row.

typedef void Residual(floatX *h, float *rstd, const floatX *x, const floatX *o, const floatX *w, size_t N,
                      size_t C, float eps);

// Version 1: the norm, then the sum, as one would write it from ready kernels. The norm goes to memory and
// comes back, 1.67 of the least bytes; and in bf16 it is rounded once more on that way: an error of 4.5e-3
// of the largest h, where the others have 2.3e-3.
static void residual_1(floatX *h, float *rstd, const floatX *x, const floatX *o, const floatX *w, size_t N,
                       size_t C, float eps) {
    rmsnorm_forward(h, rstd, o, w, N, C, eps);
    add(h, x, h, N * C);
}

// Version 2: both in one kernel, which adds x while the norm is in registers: 1.34 of the least bytes,
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

// Version 3, shipped: o is fetched into shared memory and read once, 1.01 of the least bytes. 40
// registers.
static const Version<Residual> residual_versions[] = {
    {residual_1, "the norm, then the sum", nullptr, 2.0},
    {residual_2, "in one kernel"},
    {rmsnorm_residual_forward, "shipped: o is fetched once"},
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
// dx sums over channels and dw over rows, which is what makes this hard. At least 6C + 4 bytes a row.

typedef void Backward(floatX *dx, Array dw, float *partial, const floatX *dy, const floatX *x,
                      const floatX *w, const float *rstd, size_t N, size_t C);

// Version 1: one kernel for each sum. A thread takes a row of dx; then a thread takes a channel of dw and
// goes through all rows. dy and x are read three times, 2.38 of the least bytes, and 9.76 sectors for one
// that would do. dw's kernel has 2048 threads, 64 warps, on a GPU that has room for thousands.
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

// Version 2: a warp takes a row, and adds what the row contributes to dw with atomics. NOT TO BE COPIED:
// it is here to show what they cost. A row takes 2048 of them, each a read and a write in the L2 cache
// (3.00 of the least bytes, in 1.00 sectors), and N rows queue for each of the 2048 sums. They come in
// another order each time, so that the sums, which are rounded at every step, differ in their last bits
// from run to run. (There are atomics on bf16 too, but 8 bits lose most of the small summands.) 40
// registers.
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

// Version 3: a few hundred blocks take the rows in turn, with 16-byte accesses. A warp adds up its rows'
// contributions in 8 KB of shared memory of its own, a block its warps', and a second kernel the blocks':
// always in the same order. 2.03 of the least bytes; 0.35 of them are the blocks' sums, which are 0.04
// where 8192 rows share 256 blocks. dy and x are read twice. 48 registers.
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

// The last number of a size. dx may take dy's place.
enum Variant { USUAL, WITH_BF16_GRADIENT, IN_PLACE };
static bool has_atomics(const size_t *n) { return n[2] != WITH_BF16_GRADIENT; }

// Version 4, shipped: dy and x are fetched into shared memory and read once: 1.36 of the least bytes, or
// 1.04 for 8192 rows, for 16 KB of shared memory a warp in place of 8. So fewer warps fit: but each has a
// whole row of both under way. What is left: dw takes a lane's 8 numbers as two pieces of 16 bytes, 32
// bytes from its neighbour's, and such accesses need twice as many passes (192 more a row); memory is what
// it waits for. 56 registers.
static const Version<Backward> backward_versions[] = {
    {backward_1, "a thread takes a row, then a channel"},
    {backward_2, "a warp takes a row; atomics", has_atomics},
    {backward_3, "sums of warps, then of blocks"},
    {rmsnorm_backward, "shipped: rows are fetched once"},
};

static void backward_problem(Problem &p) {
    const size_t N = p.n[0], C = p.n[1];
    const bool in_place = p.n[2] == IN_PLACE;
    const auto dy = in_place ? p.changed<floatX>("dx", N * C, NORM_TOLERANCE, -1.0, 1.0)
                             : p.input<floatX>(N * C, -1.0, 1.0);
    const auto dx = in_place ? dy : p.output<floatX>("dx", N * C, NORM_TOLERANCE);
    const auto x = p.input<floatX>(N * C, -2.0, 2.0), w = p.input<floatX>(C, 0.5, 1.5);
    const auto rstd = p.input<float>(N, 0.5, 1.0);  // any will do: it need not be that of x
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
    // one row; rows of one number, of no multiple of 16 bytes, of no multiple of a warp's; rows so long that
    // shared memory has room for few or for one; more rows than one round of the backward's warps
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
