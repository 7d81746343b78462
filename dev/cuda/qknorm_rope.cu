// qknorm_rope.cu: QK-norm and RoPE in one, y = R_t (w * x / rms(x)): the whole projected row of a token, all
// heads together, is normalised, and then channels i and i + HS/2 of each head are rotated by the angle t
// theta_i. From the plainest kernels to those of train_olmo2.cu. README.md says how to build and read this.
//
//   ./qknorm_rope forward     y and rstd = 1 / rms(x), which the backward needs
//   ./qknorm_rope backward    dx and dw
//
// This is RMSNorm (rmsnorm.cu) followed by a rotation. A rotation needs two channels at once, HS/2 apart, and
// the cosine and sine of an angle. Figures: NH = 16, HS = 128, bf16, x in rows of 3 NH HS, as one product
// computes q, k and v; counted as in rmsnorm.cu.

#include "ladder.cuh"

static const float EPS = 1e-6f, THETA = 500000.0f;

// ---------------------------------------------------------------------------------------------
// forward: x (N, NH, HS) in rows of x_stride, w (C = NH*HS), rope (T, HS), positions (N) or nullptr -> y (N,
// NH, HS), rstd (N). At least 4C + 4 bytes per row. The table of angles is not counted: it is small and stays
// in the caches.

typedef void Forward(floatX *y, float *rstd, const floatX *x, size_t x_stride, const floatX *w,
                     const float *rope, const uint32_t *positions, size_t N, size_t T, size_t NH, size_t HS,
                     float eps);

// Version 1: one thread per row, which computes each angle when it needs it: 1024 times a power, a cosine and
// a sine per row, hundreds of instructions, and 32 bytes of local memory for angles so large that cosf and
// sinf need many digits of pi. 13.85 sectors for each one needed, 1.51 of the minimum bytes.
__global__ static void forward_kernel_1(floatX *y, float *rstd, const floatX *x, size_t x_stride,
                                        const floatX *w, const uint32_t *positions, size_t N, size_t T, int C,
                                        int HS, float eps) {
    const size_t n = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (n >= N) { return; }
    const size_t t = positions == nullptr ? n % T : positions[n];
    const floatX *x_n = x + n * x_stride;
    float sum = 0.0f;
    for (int c = 0; c < C; c++) { sum += (float)x_n[c] * (float)x_n[c]; }
    const float s = 1.0f / sqrtf(sum / C + eps);
    for (int head = 0; head < C; head += HS) {
        for (int i = 0; i < HS / 2; i++) {
            const int a = head + i, b = a + HS / 2;
            const float angle = (float)t * (1.0f / powf(THETA, (float)(2 * i) / (float)HS));
            const float cosine = cosf(angle), sine = sinf(angle);
            const float u = (float)w[a] * ((float)x_n[a] * s), v = (float)w[b] * ((float)x_n[b] * s);
            y[n * C + a] = (floatX)(u * cosine - v * sine);
            y[n * C + b] = (floatX)(v * cosine + u * sine);
        }
    }
    rstd[n] = s;
}

static void forward_1(floatX *y, float *rstd, const floatX *x, size_t x_stride, const floatX *w,
                      const float *, const uint32_t *positions, size_t N, size_t T, size_t NH, size_t HS,
                      float eps) {
    const int threads = 128;
    forward_kernel_1<<<divide_up(N, threads), threads>>>(y, rstd, x, x_stride, w, positions, N, T, NH * HS,
                                                         HS, eps);
    LAUNCH_CHECK();
}

// Version 2: two kernels, like two layers of a framework. The norm takes a warp per row and writes to y. Then
// one thread per pair rotates it in place, with a table of angles that the CPU uses too. 1.00 sectors instead
// of 13.85, but y makes a round trip to memory: 2.57 of the minimum bytes.
__global__ static void norm_kernel_2(floatX *y, float *rstd, const floatX *x, size_t x_stride,
                                     const floatX *w, size_t N, int C, float eps) {
    const size_t n = row_number();
    if (n >= N) { return; }
    const floatX *x_n = x + n * x_stride;
    float sum = 0.0f;
    for (int c = lane_number(); c < C; c += WARP) { sum += (float)x_n[c] * (float)x_n[c]; }
    const float s = 1.0f / sqrtf(warp_sum(sum) / C + eps);
    for (int c = lane_number(); c < C; c += WARP) {
        y[n * C + c] = (floatX)((float)w[c] * ((float)x_n[c] * s));
    }
    if (lane_number() == 0) { rstd[n] = s; }
}

__global__ static void rope_kernel_2(floatX *y, const float *rope, const uint32_t *positions, size_t N,
                                     size_t T, int C, int HS) {
    const size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= N * (size_t)(C / 2)) { return; }
    const int half = HS / 2, c = first_of_pairs((int)(i % (size_t)(C / 2)), HS);
    const size_t n = i / (size_t)(C / 2);
    const float *cosine = rope + (positions == nullptr ? n % T : positions[n]) * HS, *sine = cosine + half;
    floatX *a = y + n * C + c, *b = a + half;
    const float u = (float)*a, v = (float)*b;
    *a = (floatX)(u * cosine[c % half] - v * sine[c % half]);
    *b = (floatX)(v * cosine[c % half] + u * sine[c % half]);
}

static void forward_2(floatX *y, float *rstd, const floatX *x, size_t x_stride, const floatX *w,
                      const float *rope, const uint32_t *positions, size_t N, size_t T, size_t NH, size_t HS,
                      float eps) {
    const size_t C = NH * HS;
    const int threads = ROW_WARPS * WARP;
    norm_kernel_2<<<divide_up(N, ROW_WARPS), threads>>>(y, rstd, x, x_stride, w, N, C, eps);
    rope_kernel_2<<<divide_up(N * C / 2, threads), threads>>>(y, rope, positions, N, T, C, HS);
    LAUNCH_CHECK();
}

// Version 3 (W = 1): one kernel. A warp reads its row twice: once for the sum of squares, then by pairs. 1.57
// of the minimum bytes. 40 registers.
// Version 4 (W = WIDE): 16 bytes at a time, so a lane rotates eight neighbouring pairs: 1537 accesses per row
// instead of 10241. (1.11 sectors: the eight cosines of a lane are 32 bytes in two accesses, each half of a
// sector.) 56 registers.
template <int W>
__global__ static void forward_kernel_3(floatX *y, float *rstd, const floatX *x, size_t x_stride,
                                        const floatX *w, const float *rope, const uint32_t *positions,
                                        size_t N, size_t T, int C, int HS, float eps) {
    const size_t n = row_number();
    if (n >= N) { return; }
    const int half = HS / 2;
    const floatX *x_n = x + n * x_stride;
    const float *cosine = rope + (positions == nullptr ? n % T : positions[n]) * HS, *sine = cosine + half;
    float sum = 0.0f;
    for (int c = lane_number() * W; c < C; c += WARP * W) {
        const Vec<floatX, W> x_c = load<W>(x_n + c);
        for (int k = 0; k < W; k++) { sum += (float)x_c[k] * (float)x_c[k]; }
    }
    const float s = 1.0f / sqrtf(warp_sum(sum) / C + eps);
    for (int pair = lane_number() * W; pair < C / 2; pair += WARP * W) {
        const int c = first_of_pairs(pair, HS), i = pair % half;
        const Vec<floatX, W> a = load<W>(x_n + c), b = load<W>(x_n + c + half);
        const Vec<float, W> cosine_i = load<W>(cosine + i), sine_i = load<W>(sine + i);
        const Vec<floatX, W> w_a = load<W>(w + c), w_b = load<W>(w + c + half);
        Vec<floatX, W> y_a, y_b;
        for (int k = 0; k < W; k++) {
            const float u = (float)w_a[k] * ((float)a[k] * s), v = (float)w_b[k] * ((float)b[k] * s);
            y_a[k] = (floatX)(u * cosine_i[k] - v * sine_i[k]);
            y_b[k] = (floatX)(v * cosine_i[k] + u * sine_i[k]);
        }
        store(y + n * C + c, y_a);
        store(y + n * C + c + half, y_b);
    }
    if (lane_number() == 0) { rstd[n] = s; }
}

static void forward_3(floatX *y, float *rstd, const floatX *x, size_t x_stride, const floatX *w,
                      const float *rope, const uint32_t *positions, size_t N, size_t T, size_t NH, size_t HS,
                      float eps) {
    forward_kernel_3<1><<<divide_up(N, ROW_WARPS), ROW_WARPS * WARP>>>(y, rstd, x, x_stride, w, rope,
                                                                       positions, N, T, NH * HS, HS, eps);
    LAUNCH_CHECK();
}

static void forward_4(floatX *y, float *rstd, const floatX *x, size_t x_stride, const floatX *w,
                      const float *rope, const uint32_t *positions, size_t N, size_t T, size_t NH, size_t HS,
                      float eps) {
    by_width(
        [&](auto width) {
            forward_kernel_3<width.value><<<divide_up(N, ROW_WARPS), ROW_WARPS * WARP>>>(
                y, rstd, x, x_stride, w, rope, positions, N, T, NH * HS, HS, eps);
        },
        HS / 2, x_stride);
    LAUNCH_CHECK();
}

// Version 5, shipped: the row is staged in shared memory and read once. 1.07 of the minimum bytes; 0.06 of
// them are the table, which 64 rows read for the first time. The lane that loads a channel is not the one
// that rotates it, hence a __syncwarp. 56 registers.
static const Version<Forward> forward_versions[] = {
    {forward_1, "one thread per row"},
    {forward_2, "two kernels; a table of angles", nullptr, 3.0},  // each of a pair is rounded once more
    {forward_3, "one kernel"},
    {forward_4, "16 bytes at a time"},
    {qknorm_rope_forward, "shipped: the row is read once"},
};

// The last number of a size.
enum Variant { USUAL, WITH_POSITIONS, WITH_BF16_GRADIENT };

static std::vector<float> table_of_angles(size_t T, size_t HS) {
    std::vector<float> rope(T * HS);
    rope_table(rope.data(), T, HS, THETA);
    return rope;
}

// The sums of the norm, as in rmsnorm.cu; also, the last bits of version 1's angles may differ, since the
// GPU's powf computes them and not the host's.
static const double TOLERANCE = 2e-5;

static void forward_problem(Problem &p) {
    const size_t N = p.n[0], T = p.n[1], NH = p.n[2], HS = p.n[3], variant = p.n[5];
    const size_t C = NH * HS, x_stride = C + p.n[4], half = HS / 2;
    const auto x = p.input<floatX>((N - 1) * x_stride + C, -2.0, 2.0);
    const auto w = p.input<floatX>(C, 0.5, 1.5);
    const std::vector<float> rope = table_of_angles(T, HS);
    const std::vector<uint32_t> positions = p.integers(N, T);
    const auto y = p.output<floatX>("y", N * C, TOLERANCE);
    const auto rstd = p.output<float>("rstd", N, TOLERANCE);
    const float *rope_device = p.upload(rope);
    const uint32_t *positions_device = p.upload(positions);
    p.stays_cached(w.device);
    p.stays_cached(rope_device);
    p.expect([&] {
        for (size_t n = 0; n < N; n++) {
            const float *cosine = &rope[(variant == WITH_POSITIONS ? positions[n] : n % T) * HS];
            const double *x_n = &x[n * x_stride];
            double sum = 0.0;
            for (size_t c = 0; c < C; c++) { sum += x_n[c] * x_n[c]; }
            rstd[n] = 1.0 / sqrt(sum / (double)C + (double)EPS);
            for (size_t c = 0; c < C; c++) {
                const size_t i = c % HS, partner = i < half ? c + half : c - half;
                const double u = w[c] * x_n[c] * rstd[n];
                const double v = w[partner] * x_n[partner] * rstd[n];
                const double cosine_i = (double)cosine[i % half], sine_i = (double)cosine[half + i % half];
                y[n * C + c] = u * cosine_i + (i < half ? -v : v) * sine_i;
            }
        }
    });
    p.bytes = (double)(N * (2 * C * sizeof(floatX) + sizeof(float)));
    p.run(forward_versions, [&](Forward *version) {
        version(y.device, rstd.device, x.device, x_stride, w.device, rope_device,
                variant == WITH_POSITIONS ? positions_device : nullptr, N, T, NH, HS, EPS);
    });
}

// ---------------------------------------------------------------------------------------------
// backward: dy (N, NH, HS), x (N, NH, HS) in rows of x_stride, w (C), rstd (N), rope (T, HS) -> dx (N, NH,
// HS) in rows of dx_stride, assigned, and dw (C) accumulated. dy is rotated back, by the opposite angle, and
// then goes through the backward of the norm. At least 6C + 4 bytes per row.

typedef void Backward(floatX *dx, size_t dx_stride, Array dw, float *partial, const floatX *dy,
                      const floatX *x, size_t x_stride, const floatX *w, const float *rstd, const float *rope,
                      size_t N, size_t T, size_t NH, size_t HS);

// Channel c of R_t^T dy, for a row dy and the row `cosine` of the table
__device__ static float turned_back(const floatX *dy, int c, const float *cosine, int HS) {
    const int half = HS / 2, i = c % HS;
    const float cosine_i = cosine[i % half], sine_i = cosine[half + i % half];
    return i < half ? (float)dy[c] * cosine_i + (float)dy[c + half] * sine_i
                    : (float)dy[c] * cosine_i - (float)dy[c - half] * sine_i;
}

// Version 1: one thread per row of dx; then one thread per channel of dw, which loops over all rows. Each use
// of a number of dy rotates it back again, which reads two numbers. 3.46 of the minimum bytes, 7.83 sectors
// for each one needed.
__global__ static void backward_dx_kernel_1(floatX *dx, size_t dx_stride, const floatX *dy, const floatX *x,
                                            size_t x_stride, const floatX *w, const float *rstd,
                                            const float *rope, size_t N, size_t T, int C, int HS) {
    const size_t n = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (n >= N) { return; }
    const floatX *dy_n = dy + n * C, *x_n = x + n * x_stride;
    const float *cosine = rope + n % T * HS;
    const float s = rstd[n];
    float sum = 0.0f;
    for (int c = 0; c < C; c++) {
        sum += (float)w[c] * turned_back(dy_n, c, cosine, HS) * ((float)x_n[c] * s);
    }
    for (int c = 0; c < C; c++) {
        const float du = (float)w[c] * turned_back(dy_n, c, cosine, HS);
        dx[n * dx_stride + c] = (floatX)(s * (du - (float)x_n[c] * s * (sum / C)));
    }
}

template <typename G>
__global__ static void backward_dw_kernel_1(G *dw, const floatX *dy, const floatX *x, size_t x_stride,
                                            const float *rstd, const float *rope, size_t N, size_t T, int C,
                                            int HS) {
    const int c = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (c >= C) { return; }
    float sum = 0.0f;
    for (size_t n = 0; n < N; n++) {
        const float turned = turned_back(dy + n * C, c, rope + n % T * HS, HS);
        sum += turned * ((float)x[n * x_stride + c] * rstd[n]);
    }
    dw[c] = (G)((float)dw[c] + sum);
}

static void backward_1(floatX *dx, size_t dx_stride, Array dw, float *, const floatX *dy, const floatX *x,
                       size_t x_stride, const floatX *w, const float *rstd, const float *rope, size_t N,
                       size_t T, size_t NH, size_t HS) {
    const size_t C = NH * HS;
    const int threads = 128;
    backward_dx_kernel_1<<<divide_up(N, threads), threads>>>(dx, dx_stride, dy, x, x_stride, w, rstd, rope, N,
                                                             T, C, HS);
    by_type(dw, [&](auto *d) {
        backward_dw_kernel_1<<<divide_up(C, threads), threads>>>(d, dy, x, x_stride, rstd, rope, N, T, C, HS);
    });
    LAUNCH_CHECK();
}

// Version 2 (W = 1): a few hundred blocks take the rows in turn, one warp per row, and keep their sums for dw
// in shared memory. A warp passes over its row twice, by pairs both times: a lane has dy of both channels at
// hand and rotates them back in registers. It does so again in the second pass, which costs less than keeping
// them in fp32. 2.07 of the minimum bytes, 0.35 of them the sums of the blocks (0.04 for 8192 rows). 1.00
// sectors. 40 registers.
// Version 3 (W = WIDE): 16 bytes at a time, 3936 accesses per row instead of 19552. 64 registers.
template <int W>
__global__ static void __launch_bounds__(BACKWARD_THREADS, 8)
    backward_kernel_2(floatX *dx, size_t dx_stride, float *partial, const floatX *dy, const floatX *x,
                      size_t x_stride, const floatX *w, const float *rstd, const float *rope, size_t N,
                      size_t T, int C, int HS) {
    extern __shared__ __align__(128) unsigned char shared[];
    const int warps = (int)blockDim.x / WARP, lane = lane_number(), half = HS / 2;
    float *sums = (float *)shared;                 // (warps, C)
    float *dw = sums + (size_t)warp_number() * C;  // this warp's
    for (int c = lane * W; c < C; c += WARP * W) { store_shared(dw + c, Vec<float, W>{}); }
    __syncwarp();  // the pairs below are on other lanes than the channels above
    for (size_t n = row_number(); n < N; n += (size_t)gridDim.x * warps) {
        const floatX *dy_n = dy + n * C, *x_n = x + n * x_stride;
        const float *cosine = rope + n % T * HS;
        const float s = rstd[n];
        float sum = 0.0f;
        for (int pair = lane * W; pair < C / 2; pair += WARP * W) {
            const int first = first_of_pairs(pair, HS);
            Vec<float, W> turned[2];
            turn_back<W>(turned, dy_n, first, cosine, half);
            for (int side = 0; side < 2; side++) {
                const int c = first + side * half;
                const Vec<floatX, W> x_c = load<W>(x_n + c), w_c = load<W>(w + c);
                Vec<float, W> dw_c = load<W>(dw + c);
                for (int k = 0; k < W; k++) {
                    const float term = turned[side][k] * ((float)x_c[k] * s);
                    dw_c[k] += term;
                    sum += (float)w_c[k] * term;
                }
                store_shared(dw + c, dw_c);
            }
        }
        const float mean = warp_sum(sum) / C;
        for (int pair = lane * W; pair < C / 2; pair += WARP * W) {
            const int first = first_of_pairs(pair, HS);
            Vec<float, W> turned[2];
            turn_back<W>(turned, dy_n, first, cosine, half);
            for (int side = 0; side < 2; side++) {
                const int c = first + side * half;
                const Vec<floatX, W> x_c = load<W>(x_n + c), w_c = load<W>(w + c);
                Vec<floatX, W> dx_c;
                for (int k = 0; k < W; k++) {
                    dx_c[k] = (floatX)(s * ((float)w_c[k] * turned[side][k] - (float)x_c[k] * s * mean));
                }
                store(dx + n * dx_stride + c, dx_c);
            }
        }
    }
    write_partial_sums(partial, sums, C);
}

template <int W>
static void backward_2_of_width(floatX *dx, size_t dx_stride, Array dw, float *partial, const floatX *dy,
                                const floatX *x, size_t x_stride, const floatX *w, const float *rstd,
                                const float *rope, size_t N, size_t T, size_t NH, size_t HS) {
    const size_t C = NH * HS, row = C * sizeof(float);
    const int warps = warps_for(row, BACKWARD_WARPS);
    const size_t blocks = backward_blocks(N, warps);
    allow_shared(backward_kernel_2<W>, warps * row);
    backward_kernel_2<W><<<blocks, warps * WARP, warps * row>>>(dx, dx_stride, partial, dy, x, x_stride, w,
                                                                rstd, rope, N, T, C, HS);
    LAUNCH_CHECK();
    add_partial_sums(dw, partial, blocks, C);
}

static void backward_2(floatX *dx, size_t dx_stride, Array dw, float *partial, const floatX *dy,
                       const floatX *x, size_t x_stride, const floatX *w, const float *rstd,
                       const float *rope, size_t N, size_t T, size_t NH, size_t HS) {
    backward_2_of_width<1>(dx, dx_stride, dw, partial, dy, x, x_stride, w, rstd, rope, N, T, NH, HS);
}

static void backward_3(floatX *dx, size_t dx_stride, Array dw, float *partial, const floatX *dy,
                       const floatX *x, size_t x_stride, const floatX *w, const float *rstd,
                       const float *rope, size_t N, size_t T, size_t NH, size_t HS) {
    by_width(
        [&](auto width) {
            backward_2_of_width<width.value>(dx, dx_stride, dw, partial, dy, x, x_stride, w, rstd, rope, N, T,
                                             NH, HS);
        },
        HS / 2, x_stride, dx_stride);
}

// Version 4, shipped: dy and x are staged in shared memory and read once, 1.40 of the minimum bytes, or 1.04
// and the table for 8192 rows. 16 KB of shared memory per warp. 64 registers.
static const Version<Backward> backward_versions[] = {
    {backward_1, "one thread per row, then per channel"},
    {backward_2, "one warp per row, by pairs"},
    {backward_3, "16 bytes at a time"},
    {qknorm_rope_backward, "shipped: rows are read once"},
};

static void backward_problem(Problem &p) {
    const size_t N = p.n[0], T = p.n[1], NH = p.n[2], HS = p.n[3], variant = p.n[6];
    const size_t C = NH * HS, x_stride = C + p.n[4], dx_stride = C + p.n[5], half = HS / 2;
    const auto dy = p.input<floatX>(N * C, -1.0, 1.0);
    const auto x = p.input<floatX>((N - 1) * x_stride + C, -2.0, 2.0), w = p.input<floatX>(C, 0.5, 1.5);
    const auto rstd = p.input<float>(N, 0.5, 1.0);  // any values will do: rstd need not be that of x
    const std::vector<float> rope = table_of_angles(T, HS);
    // The gaps between the rows of dx belong to other arrays and must stay unchanged.
    const auto dx = p.changed<floatX>("dx", (N - 1) * dx_stride + C, TOLERANCE, -1.0, 1.0);
    const auto dw = p.changed("dw", C, TOLERANCE, -1.0, 1.0, variant == WITH_BF16_GRADIENT);
    float *partial = p.space<float>(BACKWARD_BLOCKS * C);
    const float *rope_device = p.upload(rope);
    p.stays_cached(w.device);
    p.stays_cached(rope_device);
    p.expect([&] {
        std::vector<double> turned(C);
        for (size_t n = 0; n < N; n++) {
            const float *cosine = &rope[n % T * HS];
            double mean = 0.0;
            for (size_t c = 0; c < C; c++) {
                const size_t i = c % HS, partner = i < half ? c + half : c - half;
                const double cosine_i = (double)cosine[i % half], sine_i = (double)cosine[half + i % half];
                const double other = dy[n * C + partner] * sine_i;
                turned[c] = dy[n * C + c] * cosine_i + (i < half ? other : -other);
                const double term = turned[c] * x[n * x_stride + c] * rstd[n];
                dw[c] += term;
                mean += w[c] * term / (double)C;
            }
            for (size_t c = 0; c < C; c++) {
                const double du = w[c] * turned[c];
                dx[n * dx_stride + c] = rstd[n] * (du - x[n * x_stride + c] * rstd[n] * mean);
            }
        }
    });
    p.bytes = (double)(N * (3 * C * sizeof(floatX) + sizeof(float)));
    p.run(backward_versions, [&](Backward *version) {
        version(dx.device, dx_stride, dw.device, partial, dy.device, x.device, x_stride, w.device,
                rstd.device, rope_device, N, T, NH, HS);
    });
}

// ---------------------------------------------------------------------------------------------

int main(int argc, char **argv) {
    // one row; T = 1; one head; heads of two channels, of a size that is not a multiple of 16 bytes; rows
    // with a gap between them, also one that is not a multiple of 16 bytes; rows that fill shared memory;
    // more rows than one round of warps
    const Operation operations[] = {
        {"forward",
         forward_problem,
         "N, T, NH, HS, gap, variant",
         {{1, 1, 1, 2, 0, USUAL},
          {1, 1, 1, 64, 0, USUAL},
          {7, 7, 3, 6, 0, USUAL},
          {7, 4, 3, 6, 5, WITH_POSITIONS},
          {35, 5, 4, 16, 128, USUAL},
          {33, 11, 3, 64, 8, WITH_POSITIONS},
          {9, 9, 2, 96, 3, USUAL},
          {70, 14, 5, 32, 0, USUAL},
          {6, 3, 1, 10, 0, USUAL},
          {3, 3, 16, 128, 4096, USUAL},
          {2, 2, 65, 128, 0, WITH_POSITIONS}},
         {64, 64, 16, 128, 4096, USUAL},
         {8192, 4096, 16, 128, 4096, USUAL}},
        {"backward",
         backward_problem,
         "N, T, NH, HS, gaps of x and dx, variant",
         {{1, 1, 1, 2, 0, 0, USUAL},
          {1, 1, 1, 64, 0, 0, WITH_BF16_GRADIENT},
          {7, 7, 3, 6, 0, 5, USUAL},
          {7, 4, 3, 6, 5, 0, WITH_BF16_GRADIENT},
          {35, 5, 4, 16, 128, 64, USUAL},
          {33, 11, 3, 64, 8, 8, USUAL},
          {9, 9, 2, 96, 3, 0, USUAL},
          {1100, 14, 1, 16, 0, 0, USUAL},
          {70, 14, 5, 32, 0, 16, USUAL},
          {3, 3, 16, 128, 4096, 4096, USUAL},
          {2, 2, 65, 128, 0, 0, USUAL}},
         {64, 64, 16, 128, 4096, 4096, USUAL},
         {8192, 4096, 16, 128, 4096, 4096, USUAL}},
    };
    return ladder_main(argc, argv, operations);
}
