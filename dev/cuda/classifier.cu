// classifier.cu: cross-entropy and z-loss of rows of logits, and their gradient, which overwrites the logits.
// From the plainest kernel to that of train_olmo2.cu. README.md says how to build and read this.
//
//   ./classifier forward      logits (N, V), labels (N) -> lse (N) = log sum_j e^(logit_j),
//                             logprobs (N) = logit_label - lse, 0 where there is no label
//   ./classifier backward     the same, and logits become dlogits = w (p_j (1 + 2 z lse) - [j = label]),
//                             p_j = e^(logit_j - lse)
//   ./classifier not_finite   how NaN and infinity among the logits change lse
//
// A row of OLMo 2 has V = 100,352 logits, 200,704 bytes in bf16. This is more than the registers hold, and
// more than the 99 KB of shared memory that every GPU grants a block. So it is read at least twice, once for
// lse and once for the gradients, and written once: 6V bytes. The best possible case is that the second read
// hits the L2 cache, which leaves 4V for memory. Figures: bf16; bytes, sectors and accesses are counted by
// the checker of dev/cuda_on_cpu for ./classifier backward with 16 rows of 16,384, where 2V N = 524,288;
// registers are those of nvcc 13.0 for sm_80 and sm_90.

#include "ladder.cuh"

typedef void Classifier(float *logprobs, float *lse, floatX *logits, const uint32_t *labels,
                        const float *weights, float z, size_t N, size_t V);

// dlogit_j. Without weights there is no backward.
__device__ static inline floatX gradient_of_logit(float logit, float lse, float factor, float weight,
                                                  bool is_label) {
    const float dlogit = factor * expf(logit - lse);
    return (floatX)(is_label ? dlogit - weight : dlogit);
}

// ---------------------------------------------------------------------------------------------
// Version 1: one thread per row, with three passes over it: for the maximum, without which e^x overflows from
// 89 on, for the sum, and for the gradients. 8V bytes per row: 3 times in, once out. The lanes of a warp are
// in 32 different rows, so each of their 2 bytes is in a sector of its own (32 bytes, the smallest unit that
// memory moves): 16 times the sectors needed. A thousand rows are a thousand threads, where an H100 has room
// for 270,336. And one thread's sum of 8,200 numbers, one after the other, has five times the error of a sum
// in parts (lse, 3.5e-7 against 6e-8).

__global__ static void classifier_kernel_1(float *logprobs, float *lse, floatX *logits,
                                           const uint32_t *labels, const float *weights, float z, size_t N,
                                           int V) {
    const size_t n = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (n >= N) { return; }
    floatX *row = logits + n * V;
    float max = -FLT_MAX, sum = 0.0f;
    for (int j = 0; j < V; j++) { max = fmaxf(max, (float)row[j]); }
    for (int j = 0; j < V; j++) { sum += expf((float)row[j] - max); }
    const float lse_n = max + logf(sum);
    const uint32_t label = labels[n];
    lse[n] = lse_n;
    logprobs[n] = label == OLMO2_NO_TOKEN ? 0.0f : (float)row[label] - lse_n;
    if (weights == nullptr) { return; }
    const float weight = weights[n], factor = weight * (1.0f + 2.0f * z * lse_n);
    for (int j = 0; j < V; j++) {
        row[j] = gradient_of_logit((float)row[j], lse_n, factor, weight, (uint32_t)j == label);
    }
}

static void classifier_1(float *logprobs, float *lse, floatX *logits, const uint32_t *labels,
                         const float *weights, float z, size_t N, size_t V) {
    classifier_kernel_1<<<divide_up(N, 128), 128>>>(logprobs, lse, logits, labels, weights, z, N, V);
    LAUNCH_CHECK();
}

// ---------------------------------------------------------------------------------------------
// Version 2: one block per row, neighbouring threads take neighbouring logits. The bytes are the same; the
// sectors are down to 1.00. A tree in shared memory combines the results of the threads: for 256 threads, 8
// rounds with a barrier each, once for the maximum and once for the sum.

enum { BLOCK = 256 };

// Combines the values of the block's threads, with the same result in each of them: a tree in shared memory.
template <typename Join>
__device__ static float of_block(float mine, Join join) {
    __shared__ float all[BLOCK];
    const int thread = (int)threadIdx.x;
    all[thread] = mine;
    for (int half = BLOCK / 2; half > 0; half /= 2) {
        __syncthreads();
        if (thread < half) { all[thread] = join(all[thread], all[thread + half]); }
    }
    __syncthreads();
    return all[0];
}

__global__ static void classifier_kernel_2(float *logprobs, float *lse, floatX *logits,
                                           const uint32_t *labels, const float *weights, float z, int V) {
    const size_t n = blockIdx.x;
    floatX *row = logits + n * V;
    float max = -FLT_MAX, sum = 0.0f;
    for (int j = (int)threadIdx.x; j < V; j += BLOCK) { max = fmaxf(max, (float)row[j]); }
    max = of_block(max, [](float a, float b) { return fmaxf(a, b); });
    for (int j = (int)threadIdx.x; j < V; j += BLOCK) { sum += expf((float)row[j] - max); }
    sum = of_block(sum, [](float a, float b) { return a + b; });
    const float lse_n = max + logf(sum);
    const uint32_t label = labels[n];
    if (threadIdx.x == 0) {
        lse[n] = lse_n;
        logprobs[n] = label == OLMO2_NO_TOKEN ? 0.0f : (float)row[label] - lse_n;
    }
    if (weights == nullptr) { return; }
    __syncthreads();  // all have read the label's logit before anyone overwrites it
    const float weight = weights[n], factor = weight * (1.0f + 2.0f * z * lse_n);
    for (int j = (int)threadIdx.x; j < V; j += BLOCK) {
        row[j] = gradient_of_logit((float)row[j], lse_n, factor, weight, (uint32_t)j == label);
    }
}

static void classifier_2(float *logprobs, float *lse, floatX *logits, const uint32_t *labels,
                         const float *weights, float z, size_t N, size_t V) {
    classifier_kernel_2<<<N, BLOCK>>>(logprobs, lse, logits, labels, weights, z, V);
    LAUNCH_CHECK();
}

// ---------------------------------------------------------------------------------------------
// Version 3: maximum and sum in one pass. The maximum is the largest number so far. A new one rescales the
// sum, sum' = sum e^(max - max') + e^(x - max'), and sums with different maxima are combined the same way. 6V
// bytes per row: 1,573,910 read before, 1,049,622 now. The price is a second e^x for every number. The lanes
// of a warp exchange their results between registers. Shared memory only sees one pair per warp, behind one
// barrier instead of 18. (log_sum_join and log_sum_of_block are those of train_olmo2.cu.)

__global__ static void classifier_kernel_3(float *logprobs, float *lse, floatX *logits,
                                           const uint32_t *labels, const float *weights, float z, int V) {
    const size_t n = blockIdx.x;
    floatX *row = logits + n * V;
    LogSum seen = {-FLT_MAX, 0.0f};
    for (int j = (int)threadIdx.x; j < V; j += BLOCK) {
        seen = log_sum_join(seen, LogSum{(float)row[j], 1.0f});
    }
    const LogSum all = log_sum_of_block(seen);
    const float lse_n = all.max + logf(all.sum);
    const uint32_t label = labels[n];
    if (threadIdx.x == 0) {
        lse[n] = lse_n;
        logprobs[n] = label == OLMO2_NO_TOKEN ? 0.0f : (float)row[label] - lse_n;
    }
    if (weights == nullptr) { return; }
    __syncthreads();  // all have read the label's logit before anyone overwrites it
    const float weight = weights[n], factor = weight * (1.0f + 2.0f * z * lse_n);
    for (int j = (int)threadIdx.x; j < V; j += BLOCK) {
        row[j] = gradient_of_logit((float)row[j], lse_n, factor, weight, (uint32_t)j == label);
    }
}

static void classifier_3(float *logprobs, float *lse, floatX *logits, const uint32_t *labels,
                         const float *weights, float z, size_t N, size_t V) {
    classifier_kernel_3<<<N, BLOCK>>>(logprobs, lse, logits, labels, weights, z, V);
    LAUNCH_CHECK();
}

// ---------------------------------------------------------------------------------------------
// Version 4: 16 bytes per lane. One instruction loads 8 logits, 106,539 accesses instead of 794,667, so a
// thread has 8 times the bytes in flight while it waits. The 8 logits share their maximum: one rescaling for
// 8 numbers, where version 3 has one for each. V must be a multiple of 8, as 100,352 is; any other V takes
// the instance for single logits. 32 registers, similar to the instance for single logits (30 and 31).

template <int W>
__global__ static void classifier_kernel_4(float *logprobs, float *lse, floatX *logits,
                                           const uint32_t *labels, const float *weights, float z, int V) {
    const size_t n = blockIdx.x;
    floatX *row = logits + n * V;
    LogSum seen = {-FLT_MAX, 0.0f};
    for (int j = (int)threadIdx.x * W; j < V; j += BLOCK * W) {
        const Vec<floatX, W> x = load<W>(row + j);
        LogSum some = {-FLT_MAX, 0.0f};
        for (int k = 0; k < W; k++) { some.max = fmaxf(some.max, (float)x[k]); }
        for (int k = 0; k < W; k++) { some.sum += expf((float)x[k] - some.max); }
        seen = log_sum_join(seen, some);
    }
    const LogSum all = log_sum_of_block(seen);
    const float lse_n = all.max + logf(all.sum);
    const uint32_t label = labels[n];
    if (threadIdx.x == 0) {
        lse[n] = lse_n;
        logprobs[n] = label == OLMO2_NO_TOKEN ? 0.0f : (float)row[label] - lse_n;
    }
    if (weights == nullptr) { return; }
    __syncthreads();  // all have read the label's logit before anyone overwrites it
    const float weight = weights[n], factor = weight * (1.0f + 2.0f * z * lse_n);
    for (int j = (int)threadIdx.x * W; j < V; j += BLOCK * W) {
        Vec<floatX, W> x = load<W>(row + j);
        for (int k = 0; k < W; k++) {
            x[k] = gradient_of_logit((float)x[k], lse_n, factor, weight, (uint32_t)(j + k) == label);
        }
        store(row + j, x);
    }
}

static void classifier_4(float *logprobs, float *lse, floatX *logits, const uint32_t *labels,
                         const float *weights, float z, size_t N, size_t V) {
    by_width(
        [&](auto width) {
            classifier_kernel_4<width.value><<<N, BLOCK>>>(logprobs, lse, logits, labels, weights, z, V);
        },
        V);
    LAUNCH_CHECK();
}

// ---------------------------------------------------------------------------------------------
// Version 5, shipped: blocks of 1024 threads, and the second pass reads the row from its end. Both are for
// the L2 cache. A multiprocessor of an H100 holds 2048 threads: 8 blocks of version 4, or 2 of these. With 8,
// 132 x 8 rows of 200,704 bytes are in flight, 212 MB. With 2, it is 53 MB, and a cache of 50 MB keeps nearly
// all of that. A second pass from the beginning would evict just what is read next; from the end, it reads
// first what the cache still has. The kernel requests the bytes of version 4, 6V; memory sees close to 4V.

static void classifier_5(float *logprobs, float *lse, floatX *logits, const uint32_t *labels,
                         const float *weights, float z, size_t N, size_t V) {
    if (weights == nullptr) {
        classifier_forward(logprobs, lse, logits, labels, N, V);
    } else {
        classifier_forward_backward(logprobs, lse, logits, labels, weights, z, N, V);
    }
}

static const Version<Classifier> versions[] = {
    {classifier_1, "one thread per row"},
    {classifier_2, "one block per row"},
    {classifier_3, "maximum and sum in one pass"},
    {classifier_4, "16 bytes per lane"},
    {classifier_5, "shipped: second pass in reverse"},
};

static const float Z = 0.01f;

// A sum of 8,200 numbers by one thread may lose up to 8,200 halves of a last bit, 5e-4, and usually the
// square root of that number of halves, 5e-6; its logarithm is part of an lse of 9. A gradient has the error
// of e^(logit - lse), in fp32 that of the last bit of lse: 4e-6 where logits are 100.
static const double LSE_TOLERANCE = 2e-6, GRADIENT_TOLERANCE = 1e-5;

// Rows of logits between shift - 4 and shift + 4. Every third row has no label, or no row has one.
static std::vector<uint32_t> some_labels(Problem &p, size_t N, size_t V, bool labelled) {
    std::vector<uint32_t> labels = p.integers(N, V);
    for (size_t n = 0; n < N; n++) {
        if (!labelled || n % 3 == 2) { labels[n] = OLMO2_NO_TOKEN; }
    }
    if (labelled) { labels[0] = (uint32_t)(V - 1); }
    return labels;
}

static double log_sum_exp(const double *row, size_t V) {
    double max = -INFINITY, sum = 0.0;
    for (size_t j = 0; j < V; j++) { max = fmax(max, row[j]); }
    for (size_t j = 0; j < V; j++) { sum += exp(row[j] - max); }
    return max + log(sum);
}

static void problem(Problem &p, bool backward) {
    const size_t N = p.n[0], V = p.n[1];
    const double shift = (double)p.n[2];
    const bool labelled = p.n[3] != 0;
    const std::vector<uint32_t> labels = some_labels(p, N, V, labelled);
    const uint32_t *device_labels = p.upload(labels);
    const auto logits = p.changed<floatX>(backward ? "dlogits" : "logits", N * V, GRADIENT_TOLERANCE,
                                          shift - 4.0, shift + 4.0);
    const auto weights = p.input<float>(N, 0.5, 1.0);
    const auto logprobs = p.output<float>("logprobs", N, LSE_TOLERANCE),
               lse = p.output<float>("lse", N, LSE_TOLERANCE);
    p.expect([&] {
        for (size_t n = 0; n < N; n++) {
            double *row = &logits[n * V];
            const double lse_n = log_sum_exp(row, V);
            lse[n] = lse_n;
            logprobs[n] = labels[n] == OLMO2_NO_TOKEN ? 0.0 : row[labels[n]] - lse_n;
            for (size_t j = 0; backward && j < V; j++) {
                row[j] = weights[n] * (exp(row[j] - lse_n) * (1.0 + 2.0 * Z * lse_n) - (j == labels[n]));
            }
        }
    });
    p.bytes = (double)(N * V * sizeof(floatX)) * (backward ? 2.0 : 1.0);
    p.run(versions, [&](Classifier *version) {
        version(logprobs.device, lse.device, logits.device, device_labels,
                backward ? weights.device : nullptr, Z, N, V);
    });
}

static void forward_problem(Problem &p) { problem(p, false); }
static void backward_problem(Problem &p) { problem(p, true); }

// Rows with numbers that are not finite, through the forward. NaN or infinity anywhere in a row makes its lse
// NaN, so a broken model shows in its loss. -infinity is a logit whose probability is 0. NaN equals nothing,
// so the comparison replaces a NaN lse by -1.
static void not_finite_problem(Problem &p) {
    enum { ROWS = 8 };
    const struct {
        float value;
        size_t begin, end;
    } rows[ROWS] = {
        {NAN, 0, p.n[0]},
        {NAN, 0, 1},
        {NAN, 0, 16},
        {NAN, p.n[0] - 16, p.n[0]},
        {-INFINITY, 0, 16},
        {INFINITY, 3, 4},
        {-INFINITY, p.n[0] - 16, p.n[0]},
        {NAN, p.n[0] - 1, p.n[0]},
    };
    const size_t V = p.n[0];
    std::vector<floatX> logits(ROWS * V);
    for (size_t n = 0; n < ROWS; n++) {
        for (size_t j = 0; j < V; j++) {
            const bool inside = rows[n].begin <= j && j < rows[n].end;
            logits[n * V + j] = (floatX)(inside ? rows[n].value : (float)(j % 8));
        }
    }
    floatX *device_logits = p.upload(logits);
    const uint32_t *labels = p.upload(std::vector<uint32_t>(ROWS, 20));
    float *logprobs = p.space<float>(ROWS);
    const auto lse = p.output<float>("lse", ROWS, LSE_TOLERANCE);
    p.expect([&] {
        for (size_t n = 0; n < ROWS; n++) {
            double sum = 0.0;
            for (size_t j = 0; j < V; j++) { sum += exp((double)(float)logits[n * V + j]); }
            lse[n] = isfinite(sum) ? log(sum) : -1.0;
        }
    });
    p.run(versions, [&](Classifier *version) {
        float values[ROWS];
        version(logprobs, lse.device, device_logits, labels, nullptr, 0.0f, ROWS, V);
        CUDA_CHECK(cudaMemcpy(values, lse.device, sizeof values, cudaMemcpyDeviceToHost));
        for (float &value : values) { value = isnan(value) ? -1.0f : value; }
        CUDA_CHECK(cudaMemcpy(lse.device, values, sizeof values, cudaMemcpyHostToDevice));
    });
}

int main(int argc, char **argv) {
    const std::vector<std::vector<size_t>> edges = {
        {1, 1, 0, 1},    {1, 8, 0, 1},      {3, 7, 0, 1},      {1, 2047, 0, 1}, {131, 9, 0, 1},
        {2, 8200, 0, 1}, {3, 8193, 100, 1}, {5, 1000, 100, 0}, {4, 8192, 0, 0}, {2, 517, 0, 0},
    };
    const Operation operations[] = {
        {"forward", forward_problem, "N, V, shift, labelled", edges, {16, 16384, 0, 1}, {1024, 100352, 0, 1}},
        {"backward",
         backward_problem,
         "N, V, shift, labelled",
         edges,
         {16, 16384, 0, 1},
         {1024, 100352, 0, 1}},
        {"not_finite", not_finite_problem, "V", {{33}, {1000}, {8208}}, {1000}, {100352}},
    };
    return ladder_main(argc, argv, operations);
}
