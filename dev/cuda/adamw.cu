// adamw.cu: the AdamW update of one tensor, from the plainest kernel to that of train_olmo2.cu, and
// stochastic rounding. README.md says how to build and read this.
//
//   ./adamw update       p, m, v from g, in every storage format
//   ./adamw rounding     stochastic rounding keeps the mean, and roundings are independent
//   ./adamw launches     its bits do not depend on the launch
//   ./adamw drift        it keeps updates that are far smaller than the last bit of a bf16
//   ./adamw not_finite   what NaN and infinity become
//
// Nothing is used twice, so all versions move the same bytes. With a copy of the weights in fp32 ("master")
// and moments in fp32, they read g, m, v and master and write m, v, master and p: 30 bytes per parameter, or
// 28 with g in bf16, 45 GB for OLMo 2 1B. The versions differ in how many of these bytes are in flight and in
// how much they compute. Figures: 65,536 parameters in bf16 with g in fp32; bytes, sectors and accesses are
// counted by the checker of dev/cuda_on_cpu; registers are those of nvcc 13.0 for sm_80.

#include "ladder.cuh"

// p (size), master (size) or nullptr, m, v, g (size) -> p, master, m, v updated
typedef void Update(floatX *p, float *master, Array m, Array v, Array g, size_t size, const OLMo2AdamW *s,
                    float weight_decay, size_t tensor);

// ---------------------------------------------------------------------------------------------
// Version 1: one thread per parameter, with the formulas of the paper. Neighbouring threads touch
// neighbouring bytes, so no sector is wasted: 1.00. But each thread recomputes the corrections 1 - beta^t,
// two powers. It does so in fp32, where the difference has 1 / (1 - beta^t) times the error of the power, 20
// times at the first update. Here, at the third update, master is off by 1.3e-7; with corrections from the
// host it is off by 1.0e-7.

template <typename G>
__global__ static void update_kernel_1(floatX *p, float *master, float *m, float *v, const G *g, size_t size,
                                       OLMo2AdamW s, float weight_decay) {
    const size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= size) { return; }
    const float gradient = (float)g[i] * s.gradient_scale;
    const float m_i = m[i] + (1.0f - s.beta1) * (gradient - m[i]);
    const float v_i = s.beta2 * v[i] + (1.0f - s.beta2) * gradient * gradient;
    const float m_hat = m_i / (1.0f - powf(s.beta1, (float)s.t));
    const float v_hat = v_i / (1.0f - powf(s.beta2, (float)s.t));
    const float p_i = (1.0f - s.lr * weight_decay) * master[i] - s.lr * m_hat / (sqrtf(v_hat) + s.eps);
    m[i] = m_i;
    v[i] = v_i;
    master[i] = p_i;
    p[i] = (floatX)p_i;
}

static void update_1(floatX *p, float *master, Array m, Array v, Array g, size_t size, const OLMo2AdamW *s,
                     float weight_decay, size_t) {
    by_type(g, [&](auto *gradients) {
        update_kernel_1<<<divide_up(size, ADAMW_THREADS), ADAMW_THREADS>>>(
            p, master, (float *)m.data, (float *)v.data, gradients, size, *s, weight_decay);
    });
    LAUNCH_CHECK();
}

// ---------------------------------------------------------------------------------------------
// Version 2: values that are the same for all parameters are computed once, on the host, in double. 25
// registers instead of 27, and no powers in the kernel. sqrt(v / (1 - beta2^t)) becomes sqrt(v) /
// correction2, as in PyTorch.

static AdamWStep step_of(const OLMo2AdamW *s, float weight_decay, size_t tensor) {
    AdamWStep step;
    step.beta1 = s->beta1;
    step.beta2 = s->beta2;
    step.eps = s->eps;
    step.gradient_scale = s->gradient_scale;
    step.keep = 1.0f - s->lr * weight_decay;
    step.step_size = s->lr / (float)(1.0 - pow((double)s->beta1, (double)s->t));
    step.correction2 = (float)sqrt(1.0 - pow((double)s->beta2, (double)s->t));
    step.t = (uint64_t)s->t;
    step.tensor = tensor;
    return step;
}

// One parameter: updates m, v and p.
__device__ static inline void update(float &p, float &m, float &v, float gradient, const AdamWStep &s) {
    m += (1.0f - s.beta1) * (gradient - m);
    v = s.beta2 * v + (1.0f - s.beta2) * gradient * gradient;
    p = s.keep * p - s.step_size * m / (sqrtf(v) / s.correction2 + s.eps);
}

template <typename G>
__global__ static void update_kernel_2(floatX *p, float *master, float *m, float *v, const G *g, size_t size,
                                       AdamWStep s) {
    const size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= size) { return; }
    float p_i = master[i], m_i = m[i], v_i = v[i];
    update(p_i, m_i, v_i, (float)g[i] * s.gradient_scale, s);
    m[i] = m_i;
    v[i] = v_i;
    master[i] = p_i;
    p[i] = (floatX)p_i;
}

static void update_2(floatX *p, float *master, Array m, Array v, Array g, size_t size, const OLMo2AdamW *s,
                     float weight_decay, size_t tensor) {
    const AdamWStep step = step_of(s, weight_decay, tensor);
    by_type(g, [&](auto *gradients) {
        update_kernel_2<<<divide_up(size, ADAMW_THREADS), ADAMW_THREADS>>>(
            p, master, (float *)m.data, (float *)v.data, gradients, size, step);
    });
    LAUNCH_CHECK();
}

// ---------------------------------------------------------------------------------------------
// Version 3: 8 parameters per thread, the 16 bytes of p that a lane can load at once. 122,880 accesses
// instead of 524,288, and each thread has 240 bytes in flight, not 30. But 8 numbers in fp32 are 32 bytes:
// two accesses, each of which takes 16 bytes and skips the next 16. A warp touches twice the sectors that it
// uses, 1.93 overall, and relies on finding the other halves in the L1 cache a moment later. And with 59
// registers only 4 blocks of 256 threads fit on a multiprocessor, half of its threads.

template <typename G>
__global__ static void update_kernel_3(floatX *p, float *master, float *m, float *v, const G *g, size_t size,
                                       AdamWStep s) {
    const size_t i = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * WIDE;
    if (i >= size) { return; }
    const Vec<G, WIDE> g_i = load<WIDE>(g + i);
    Vec<float, WIDE> master_i = load<WIDE>(master + i), m_i = load<WIDE>(m + i), v_i = load<WIDE>(v + i);
    Vec<floatX, WIDE> p_i;
    for (int k = 0; k < WIDE; k++) {
        update(master_i[k], m_i[k], v_i[k], (float)g_i[k] * s.gradient_scale, s);
        p_i[k] = (floatX)master_i[k];
    }
    store(m + i, m_i);
    store(v + i, v_i);
    store(master + i, master_i);
    store(p + i, p_i);
}

static void update_3(floatX *p, float *master, Array m, Array v, Array g, size_t size, const OLMo2AdamW *s,
                     float weight_decay, size_t tensor) {
    const AdamWStep step = step_of(s, weight_decay, tensor);
    by_type(g, [&](auto *gradients) {
        update_kernel_3<<<divide_up(size, ADAMW_THREADS * WIDE), ADAMW_THREADS>>>(
            p, master, (float *)m.data, (float *)v.data, gradients, size, step);
    });
    LAUNCH_CHECK();
}

// ---------------------------------------------------------------------------------------------
// Version 4, shipped: 4 parameters per thread, 16 bytes of fp32. Neighbouring threads touch neighbouring
// bytes in every array, and sectors are down to 1.00 for 131,072 accesses; those of p, in bf16, are 8 bytes
// wide. 46 registers, 5 blocks. It supports every format: g and the moments in fp32 or bf16, and no master at
// all, which leaves 12 bytes per parameter of 30. Values stored only in bf16 are rounded stochastically, up
// or down with the probability that keeps the mean: a bf16 has 8 bits and would lose any update below 1/512
// of its value.

// n = size, master weights, bf16 moments, bf16 gradients. Versions 1 to 3 need fp32 moments and a master.
static bool is_plain(const size_t *n) { return n[1] != 0 && n[2] == 0; }
static bool is_padded(const size_t *n) { return n[0] % 16 == 0; }
static bool is_plain_and_padded(const size_t *n) { return is_plain(n) && is_padded(n); }

static const Version<Update> versions[] = {
    {update_1, "one thread per number", is_plain},
    {update_2, "constants from the host", is_plain},
    {update_3, "16 bytes of bf16 per lane", is_plain_and_padded},
    {adamw_update, "shipped: 16 bytes of fp32 per lane", is_padded},
};

template <typename T>
static Array array_of(const T *data) {
    return Array{(void *)data, sizeof(T) < sizeof(float)};
}

// A few operations in fp32, each with a rounding error of 6e-8.
static const double TOLERANCE = 1e-6;

static const OLMo2AdamW SETTINGS = {0.1f, 0.9f, 0.95f, 1e-8f, 0.1f, 0.7f, 3};  // lr, betas, eps, wd, scale, t

// The update of one number, by the formula in train_olmo2.cu.
static void expect_update(double &p, double &m, double &v, double g, const OLMo2AdamW &s) {
    const double gradient = g * s.gradient_scale;
    m += (1.0 - s.beta1) * (gradient - m);
    v = s.beta2 * v + (1.0 - s.beta2) * gradient * gradient;
    p *= 1.0 - (double)s.lr * s.weight_decay;
    p -= s.lr / (1.0 - pow(s.beta1, (double)s.t)) * m /
         (sqrt(v) / sqrt(1.0 - pow(s.beta2, (double)s.t)) + s.eps);
}

// Rounding to nearest has half the largest error of stochastic rounding, so an array without an fp32 copy is
// allowed one more rounding to bf16.
static void update_problem(Problem &p) {
    const size_t size = p.n[0];
    const bool has_master = p.n[1] != 0, bf16_moments = p.n[2] != 0, bf16_gradients = p.n[3] != 0;
    const double of_p = TOLERANCE + (has_master ? 0.0 : rounding<floatX>());
    const double of_moments = TOLERANCE + (bf16_moments ? rounding<bf16>() : 0.0);
    const auto w = p.changed<floatX>(has_master ? "p" : "p alone", size, of_p, -1.0, 1.0);
    const auto m = p.changed("m", size, of_moments, -0.1, 0.1, bf16_moments);
    const auto v = p.changed("v", size, of_moments, 0.0, 0.01, bf16_moments);
    const auto g = p.changed("g", size, 0.0, -0.5, 0.5, bf16_gradients);  // g must stay unchanged
    Numbers<float> master = {nullptr, nullptr};
    if (has_master) { master = p.changed<float>("master", size, TOLERANCE, -1.0, 1.0); }
    p.expect([&] {
        for (size_t i = 0; i < size; i++) {
            double x = has_master ? master[i] : w[i];
            expect_update(x, m[i], v[i], g[i], SETTINGS);
            w[i] = x;
            if (has_master) { master[i] = x; }
        }
    });
    const size_t weights = has_master ? sizeof(floatX) + 2 * sizeof(float) : 2 * sizeof(floatX);
    p.bytes =
        (double)(size * weights + array_bytes(bf16_moments, 4 * size) + array_bytes(bf16_gradients, size));
    p.run(versions, [&](Update *version) {
        version(w.device, master.device, m.device, v.device, g.device, size, &SETTINGS, SETTINGS.weight_decay,
                5);
    });
}

// ---------------------------------------------------------------------------------------------
// Stochastic rounding, for the shipped kernel only: it keeps the mean, it depends only on the numbers of the
// update, the tensor and the element, and it lets small updates through

template <typename T>
static std::vector<T> read(const T *device, size_t size) {
    std::vector<T> values(size);
    CUDA_CHECK(cudaMemcpy(values.data(), device, size * sizeof(T), cudaMemcpyDeviceToHost));
    return values;
}

template <typename T>
static void fill(T *device, size_t size, float value) {
    const std::vector<T> values(size, (T)value);
    CUDA_CHECK(cudaMemcpy(device, values.data(), size * sizeof(T), cudaMemcpyHostToDevice));
}

// A tensor of equal numbers, all in bf16 except p in the fp32 build.
struct Tensor {
    size_t size;
    floatX *p;
    bf16 *m, *v, *g;
};

static Tensor tensor_of(Problem &p, size_t size) {
    return {size, p.space<floatX>(size), p.space<bf16>(size), p.space<bf16>(size), p.space<bf16>(size)};
}

static const float OLD_P = 1.0f, OLD_M = 0.1f, OLD_V = 0.01f, GRADIENT = 0.3f;

static void fill(const Tensor &t) {
    fill(t.p, t.size, OLD_P);
    fill(t.m, t.size, OLD_M);
    fill(t.v, t.size, OLD_V);
    fill(t.g, t.size, GRADIENT);
}

// The result for an array: each number was rounded up or down to one of the two bf16 around the exact number.
struct Roundings {
    std::vector<bool> up;
    double chance;   // of rounding up, if the mean is kept
    bool elsewhere;  // a number is neither of the two
};

static Roundings roundings(const bf16 *device, size_t size, double exact) {
    const double spacing = ldexp(1.0, ilogb(exact) - 7), low = floor(exact / spacing) * spacing;
    Roundings r = {std::vector<bool>(size), (exact - low) / spacing, false};
    const std::vector<bf16> values = read(device, size);
    for (size_t i = 0; i < size; i++) {
        const double steps = ((double)(float)values[i] - low) / spacing;
        r.up[i] = steps == 1.0;
        r.elsewhere |= steps != 0.0 && steps != 1.0;
    }
    return r;
}

// The roundings of m, v and, if it is bf16, p, in update t of a tensor.
static std::vector<Roundings> update_roundings(Update *version, const Tensor &t, int64_t step,
                                               size_t tensor) {
    OLMo2AdamW settings = SETTINGS;
    double p = OLD_P, m = (float)(bf16)OLD_M, v = (float)(bf16)OLD_V;
    settings.t = step;
    settings.lr = 1e-3f;
    fill(t);
    version(t.p, nullptr, array_of(t.m), array_of(t.v), array_of(t.g), t.size, &settings, 0.0f, tensor);
    settings.weight_decay = 0.0f;
    expect_update(p, m, v, (float)(bf16)GRADIENT, settings);
    std::vector<Roundings> r = {roundings(t.m, t.size, m), roundings(t.v, t.size, v)};
#ifndef PRECISION_FP32
    r.push_back(roundings(t.p, t.size, p));
#endif
    return r;
}

// How many standard deviations the count of numbers rounded up is from its expectation: `size` draws with
// probability q have a variance of size q (1 - q). NaN if a number is neither of the two.
static float deviations(const Roundings &r) {
    const double size = (double)r.up.size(), count = (double)std::count(r.up.begin(), r.up.end(), true);
    if (r.elsewhere) { return NAN; }
    return (float)((count - size * r.chance) / sqrt(size * r.chance * (1.0 - r.chance)));
}

// The same for sum_i (a_i - q_a) (b_(i + shift) - q_b). If a and b are independent, its mean is 0 and its
// variance is size q_a (1 - q_a) q_b (1 - q_b).
static float deviations_together(const Roundings &a, const Roundings &b, size_t shift) {
    const double size = (double)(a.up.size() - shift);
    double sum = 0.0;
    for (size_t i = 0; i + shift < a.up.size(); i++) {
        sum += (a.up[i] - a.chance) * (b.up[i + shift] - b.chance);
    }
    return (float)(sum / sqrt(size * a.chance * (1.0 - a.chance) * b.chance * (1.0 - b.chance)));
}

// All figures below have mean 0. One exceeds 5 standard deviations once in 1.7 million draws.
static void rounding_problem(Problem &p) {
    const Tensor t = tensor_of(p, p.n[0]);
    const auto single = p.output<float>("mean", 3, 5.0), pairs = p.output<float>("pairs", 12, 5.0);
    p.expect([&] {
        for (size_t i = 0; i < 3; i++) { single[i] = 0.0; }
        for (size_t i = 0; i < 12; i++) { pairs[i] = 0.0; }
    });
    p.run(versions, [&](Update *version) {
        const std::vector<Roundings> now = update_roundings(version, t, 3, 5),
                                     next = update_roundings(version, t, 4, 5),
                                     other = update_roundings(version, t, 3, 6);
        float means[3] = {}, together[12] = {};
        const size_t arrays = now.size();
        for (size_t i = 0; i < arrays; i++) {
            means[i] = deviations(now[i]);
            together[i] = deviations_together(now[i], now[(i + 1) % arrays], 0);
            together[3 + i] = deviations_together(now[i], now[i], 1);
            together[6 + i] = deviations_together(now[i], next[i], 0);
            together[9 + i] = deviations_together(now[i], other[i], 0);
        }
        CUDA_CHECK(cudaMemcpy(single.device, means, sizeof means, cudaMemcpyHostToDevice));
        CUDA_CHECK(cudaMemcpy(pairs.device, together, sizeof together, cudaMemcpyHostToDevice));
    });
}

// Updates of 1e-4 each, where neighbouring bf16 are 2^-8 = 4e-3 apart. With rounding to nearest, p would stay
// 1 for ever. Each stochastic rounding has a standard deviation of at most half this distance, so the mean
// over all p has a standard deviation below 2^-9 sqrt(steps / size).
static void drift_problem(Problem &p) {
    const size_t size = p.n[0], steps = 40;
    const Tensor t = tensor_of(p, size);
    float *m = p.space<float>(size), *v = p.space<float>(size);
    const auto drift = p.output<float>("drift", 1, 5.0);
    p.expect([&] { drift[0] = 0.0; });
    p.run(versions, [&](Update *version) {
        OLMo2AdamW settings = SETTINGS;
        settings.lr = 1e-4f;
        fill(t);
        CUDA_CHECK(cudaMemset(m, 0, size * sizeof *m));
        CUDA_CHECK(cudaMemset(v, 0, size * sizeof *v));
        for (settings.t = 1; settings.t <= (int64_t)steps; settings.t++) {
            version(t.p, nullptr, array_of(m), array_of(v), array_of(t.g), size, &settings, 0.0f, 5);
        }
        double mean = 0.0;
        for (const floatX x : read(t.p, size)) { mean += (double)(float)x / (double)size; }
        const double expected = 1.0 - 1e-4 * (double)steps;
        const float deviation = (float)((mean - expected) / (0x1p-9 * sqrt((double)steps / (double)size)));
        CUDA_CHECK(cudaMemcpy(drift.device, &deviation, sizeof deviation, cudaMemcpyHostToDevice));
    });
}

// Compares the shipped launch with blocks of other sizes: no number may differ.
static void launches_problem(Problem &p) {
    const size_t size = p.n[0];
    const Tensor t = tensor_of(p, size);
    const unsigned threads[] = {1, 32, 96, 1024};
    const auto different = p.output<float>("different", 4, 0.0);
    p.expect([&] {
        for (size_t i = 0; i < 4; i++) { different[i] = 0.0; }
    });
    p.run(versions, [&](Update *version) {
        const AdamWStep step = step_of(&SETTINGS, SETTINGS.weight_decay, 5);
        float count[4];
        fill(t);
        version(t.p, nullptr, array_of(t.m), array_of(t.v), array_of(t.g), size, &SETTINGS,
                SETTINGS.weight_decay, 5);
        const std::vector<floatX> w = read(t.p, size);
        const std::vector<bf16> m = read(t.m, size), v = read(t.v, size);
        for (int launch = 0; launch < 4; launch++) {
            fill(t);
            adamw_kernel<<<divide_up(size, threads[launch] * ADAMW_WIDTH), threads[launch]>>>(
                t.p, nullptr, t.m, t.v, t.g, size, step);
            LAUNCH_CHECK();
            const std::vector<floatX> other_w = read(t.p, size);
            const std::vector<bf16> other_m = read(t.m, size), other_v = read(t.v, size);
            count[launch] = 0.0f;
            for (size_t i = 0; i < size; i++) {
                count[launch] += (float)other_w[i] != (float)w[i] || (float)other_m[i] != (float)m[i] ||
                                 (float)other_v[i] != (float)v[i];
            }
        }
        CUDA_CHECK(cudaMemcpy(different.device, count, sizeof count, cudaMemcpyHostToDevice));
    });
}

// ---------------------------------------------------------------------------------------------
// Numbers that are not finite stay where they are

// NaN equals nothing, so the comparison replaces NaN by -2, infinity by 2 and -infinity by 3.
static float comparable(double x) { return isnan(x) ? -2.0f : isinf(x) ? (x > 0.0 ? 2.0f : 3.0f) : (float)x; }

template <typename T>
static void write(T *device, const std::vector<float> &values) {
    const std::vector<T> rounded(values.begin(), values.end());
    CUDA_CHECK(cudaMemcpy(device, rounded.data(), rounded.size() * sizeof(T), cudaMemcpyHostToDevice));
}

template <typename T>
static void append_comparable(std::vector<float> &all, const T *device, size_t size) {
    for (const T x : read(device, size)) { all.push_back(comparable((float)x)); }
}

// The NaN that a GPU computes: all its bits are set, so rounding it upwards like a number would give -0.
static float gpu_nan() {
    const uint32_t bits = 0x7fffffffu;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

template <typename M, typename G>
static void not_finite_problem_of(Problem &p, const M *, const G *) {
    const size_t size = p.n[0];
    const bool has_master = p.n[1] != 0;
    std::vector<float> w(size, 0.5f), m(size, 0.25f), v(size, 0.125f), g(size, 0.5f);
    g[0] = w[3] = m[5] = v[7] = gpu_nan();
    g[1] = w[4] = m[6] = v[8] = INFINITY;
    g[2] = -INFINITY;
    const auto after = p.output<float>("p, m, v", 3 * size, 2 * rounding<bf16>());
    floatX *device_w = p.space<floatX>(size);
    float *master = has_master ? p.space<float>(size) : nullptr;
    M *device_m = p.space<M>(size), *device_v = p.space<M>(size);
    G *device_g = p.space<G>(size);
    p.expect([&] {
        for (size_t i = 0; i < size; i++) {
            double w_i = w[i], m_i = m[i], v_i = v[i];
            expect_update(w_i, m_i, v_i, g[i], SETTINGS);
            after[i] = comparable(w_i);
            after[size + i] = comparable(m_i);
            after[2 * size + i] = comparable(v_i);
        }
    });
    p.run(versions, [&](Update *version) {
        std::vector<float> found;
        write(device_w, w);
        if (has_master) { write(master, w); }
        write(device_m, m);
        write(device_v, v);
        write(device_g, g);
        version(device_w, master, array_of(device_m), array_of(device_v), array_of(device_g), size, &SETTINGS,
                SETTINGS.weight_decay, 5);
        append_comparable(found, device_w, size);
        append_comparable(found, device_m, size);
        append_comparable(found, device_v, size);
        write(after.device, found);
    });
}

static void not_finite_problem(Problem &p) {
    by_type(Array{nullptr, p.n[2] != 0}, [&](auto *m) {
        by_type(Array{nullptr, p.n[3] != 0}, [&](auto *g) { not_finite_problem_of(p, m, g); });
    });
}

int main(int argc, char **argv) {
    const char *lengths = "size, master, bf16 m and v, bf16 g";
    const std::vector<size_t> small = {16, 0, 1, 1};
    const std::vector<std::vector<size_t>> forms = {{16, 1, 0, 0}, {16, 1, 0, 1}, {16, 1, 1, 0},
                                                    {16, 1, 1, 1}, {16, 0, 0, 0}, {16, 0, 0, 1},
                                                    {16, 0, 1, 0}, {16, 0, 1, 1}};
    std::vector<std::vector<size_t>> edges = {{1, 1, 0, 0}, {257, 1, 0, 1}};
    for (std::vector<size_t> form : forms) {
        edges.push_back(form);
        form[0] = 4112;
        edges.push_back(form);
    }
    const Operation operations[] = {
        {"update", update_problem, lengths, edges, {65536, 1, 0, 0}, {8192 * 2048, 1, 0, 0}},
        {"rounding", rounding_problem, lengths, {{65536, 0, 1, 1}}, small, small},
        {"launches", launches_problem, lengths, {{16, 0, 1, 1}, {4112, 0, 1, 1}}, small, small},
        {"drift", drift_problem, lengths, {{4096, 0, 0, 1}}, small, small},
        {"not_finite", not_finite_problem, lengths, forms, small, small},
    };
    return ladder_main(argc, argv, operations);
}
