// gradient_norm.cu: the sum of squares of all gradients (its square root is the norm), from one thread to the
// kernel of train_olmo2.cu. README.md says how to build and read this.
//
//   ./gradient_norm fp32, bf16             x (size), stored in either -> the sum of its squares
//   ./gradient_norm not_finite_fp32, ...   how one number that is not finite changes it
//   ./gradient_norm orders                 how many different sums result when blocks run in other orders
//
// Every number is read once and nothing is written: size * 4 or 2 bytes, 6 GB of fp32 for OLMo 2 1B. The sum
// has a billion terms, and it decides on clipping and on skipping a step. Those decisions must be the same in
// every run. Figures: 1,048,576 numbers in fp32, 4,194,304 bytes; bytes and accesses are counted by the
// checker of dev/cuda_on_cpu, registers are those of nvcc 13.0 for sm_80, errors are those that the checks
// print.

#include "ladder.cuh"

// x (size), scratch (SQUARES_BLOCKS + 1) -> the sum of the squares of x
typedef double SumOfSquares(Array x, size_t size, double *space);

enum { THREADS = 256 };

// ---------------------------------------------------------------------------------------------
// Version 1: one thread, in double. It moves the minimum of bytes, but one number at a time: each addition
// waits for the previous one and for its number, hundreds of nanoseconds, and a billion of them take minutes.
// (So it is not timed at that size.)

template <typename G>
__global__ static void sum_kernel_1(double *sum, const G *x, size_t size) {
    double squares = 0.0;
    for (size_t i = 0; i < size; i++) { squares += (double)(float)x[i] * (double)(float)x[i]; }
    *sum = squares;
}

static double sum_1(Array x, size_t size, double *space) {
    double sum;
    by_type(x, [&](auto *data) { sum_kernel_1<<<1, 1>>>(space, data, size); });
    LAUNCH_CHECK();
    CUDA_CHECK(cudaMemcpy(&sum, space, sizeof sum, cudaMemcpyDeviceToHost));
    return sum;
}

static bool takes_1(const size_t *n) { return n[0] <= 1 << 22; }

// ---------------------------------------------------------------------------------------------
// Version 2: one thread per number, a sum over each warp, and one atomic addition to a float per warp, 32,768
// of them. DO NOT USE THIS: its result depends on the order in which warps arrive, and three orders give
// three different sums. A run could not be repeated. As soon as such a sum decides whether a step is skipped,
// two runs diverge for good. Its error is also larger, because one float accumulates all terms: 9e-7 for
// 65,552 numbers and, in bf16, 5e-6 for a million, where the other versions have 5e-8 at most. And all warps
// queue at one address.

template <typename G>
__global__ static void sum_kernel_2(float *sum, const G *x, size_t size) {
    const size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    const float x_i = i < size ? (float)x[i] : 0.0f, squares = warp_sum(x_i * x_i);
    if (lane_number() == 0) { atomicAdd(sum, squares); }
}

static double sum_2(Array x, size_t size, double *space) {
    float sum;
    CUDA_CHECK(cudaMemsetAsync(space, 0, sizeof sum));
    by_type(x, [&](auto *data) {
        sum_kernel_2<<<divide_up(size, THREADS), THREADS>>>((float *)space, data, size);
    });
    LAUNCH_CHECK();
    CUDA_CHECK(cudaMemcpy(&sum, space, sizeof sum, cudaMemcpyDeviceToHost));
    return (double)sum;
}

// One float accumulates up to size / 32 numbers.
static bool takes_2(const size_t *n) { return n[1] <= 100000; }

// ---------------------------------------------------------------------------------------------
// Version 3: two stages, in double. 1024 blocks, whatever the size, take the numbers in turn. A thread adds
// up its own numbers; a block adds up its threads in a tree and writes one partial sum, 8 bytes. A second
// kernel, one block, adds up the partial sums. Every sum has one order, and every run has the same bits. The
// price is 16,400 bytes written and read again, and an addition in double for every number. Consumer GPUs do
// one of these for 64 in fp32, fewer than their memory delivers numbers.

// The sum over the threads of a block, in thread 0: a tree in shared memory.
__device__ static double sum_of_block(double mine) {
    __shared__ double sums[THREADS];
    sums[threadIdx.x] = mine;
    for (int half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if ((int)threadIdx.x < half) { sums[threadIdx.x] += sums[threadIdx.x + half]; }
    }
    return sums[0];
}

template <typename G>
__global__ static void sum_kernel_3(double *partial, const G *x, size_t size) {
    const size_t stride = (size_t)gridDim.x * blockDim.x;
    double sum = 0.0;
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < size; i += stride) {
        sum += (double)(float)x[i] * (double)(float)x[i];
    }
    sum = sum_of_block(sum);
    if (threadIdx.x == 0) { partial[blockIdx.x] = sum; }
}

__global__ static void add_up_kernel_3(double *sum, const double *partial, size_t count) {
    double mine = 0.0;
    for (size_t i = threadIdx.x; i < count; i += blockDim.x) { mine += partial[i]; }
    mine = sum_of_block(mine);
    if (threadIdx.x == 0) { *sum = mine; }
}

static double sum_3(Array x, size_t size, double *space) {
    double sum, *partial = space + 1;
    by_type(x, [&](auto *data) { sum_kernel_3<<<SQUARES_BLOCKS, THREADS>>>(partial, data, size); });
    LAUNCH_CHECK();
    add_up_kernel_3<<<1, THREADS>>>(space, partial, SQUARES_BLOCKS);
    LAUNCH_CHECK();
    CUDA_CHECK(cudaMemcpy(&sum, space, sizeof sum, cudaMemcpyDeviceToHost));
    return sum;
}

// ---------------------------------------------------------------------------------------------
// Version 4, shipped: 16 bytes per lane, 4 or 8 numbers, whose squares are added in fp32 and then once in
// double: a quarter of the accesses (263,168, not 1,050,625), in bf16 an eighth (132,096), and as small a
// fraction of the additions in double. The few terms in fp32 have an error of 5e-8 at most. Warps add up by
// shuffles: 15,360 accesses to shared memory instead of 46,125. The host does the second stage, since it
// needs the sum anyway: one launch fewer. 24 registers instead of 16 in version 3, and still all 2048 threads
// of a multiprocessor. Numbers above 1.8e19 have an infinite square in fp32, which the caller sees.

// Parameter arrays are padded to multiples of 16.
static bool takes_4(const size_t *n) { return n[0] % 16 == 0; }

static const Version<SumOfSquares> versions[] = {
    {sum_1, "one thread", takes_1},
    {sum_2, "float atomics: DO NOT USE", takes_2},
    {sum_3, "two stages, in double"},
    {sum_of_squares, "shipped: 16 bytes per lane", takes_4},
};

template <typename G>
static Array array_of(const G *data) {
    return Array{(void *)data, sizeof(G) < sizeof(float)};
}

template <typename G>
static void problem(Problem &p) {
    const size_t size = p.n[0];
    const auto x = p.input<G>(size, -1.0, 1.0);
    const auto sum = p.output<double>("sum", 1, 1.0 / (double)p.n[1]);
    double *space = p.space<double>(SQUARES_BLOCKS + 1);
    p.expect([&] {
        sum[0] = 0.0;
        for (size_t i = 0; i < size; i++) { sum[0] += x[i] * x[i]; }
    });
    p.bytes = (double)(size * sizeof(G));
    p.run(versions, [&](SumOfSquares *version) {
        const double value = version(array_of(x.device), size, space);
        CUDA_CHECK(cudaMemcpy(sum.device, &value, sizeof value, cudaMemcpyHostToDevice));
    });
}

// ---------------------------------------------------------------------------------------------
// The same bits in every order

// Changes the order of blocks and warps; on a GPU it is different each time anyway.
static void set_order(int order) {
#ifdef CUDA_ON_CPU
    cuda_on_cpu_set_order(order, 1);
#else
    (void)order;
#endif
}

// The number of different sums in three runs.
static int different_sums(SumOfSquares *version, Array x, size_t size, double *space) {
    double sums[3];
    int different = 0;
    for (int order = 0; order < 3; order++) {
        set_order(order);
        sums[order] = version(x, size, space);
        bool seen = false;
        for (int i = 0; i < order; i++) { seen |= sums[i] == sums[order]; }
        different += !seen;
    }
    set_order(0);
    return different;
}

template <typename G>
static void orders_problem(Problem &p) {
    const size_t size = p.n[0];
    const auto x = p.input<G>(size, -1.0, 1.0);
    const auto different = p.output<float>("sums", 1, 0.0);
    double *space = p.space<double>(SQUARES_BLOCKS + 1);
    p.expect([&] { different[0] = 1.0; });
    p.run(versions, [&](SumOfSquares *version) {
        const float value = (float)different_sums(version, array_of(x.device), size, space);
        CUDA_CHECK(cudaMemcpy(different.device, &value, sizeof value, cudaMemcpyHostToDevice));
    });
#ifdef CUDA_ON_CPU
    const int atomic = different_sums(sum_2, array_of(x.device), size, space);
    printf("float atomics: %d different sums from 3 orders\n", atomic);
    CHECK(atomic > 1);
#endif
}

// ---------------------------------------------------------------------------------------------
// Numbers that are not finite

// NaN equals nothing, so the comparison replaces NaN by -1 and infinity by -2.
template <typename G>
static void not_finite_problem(Problem &p) {
    const size_t size = p.n[0], at = p.n[1];
    const float values[] = {NAN, -INFINITY, 1e19f};
    const auto sums = p.output<double>("sums", 3, 2e-7);
    double *space = p.space<double>(SQUARES_BLOCKS + 1);
    G *x[3];
    for (int i = 0; i < 3; i++) {
        std::vector<G> numbers(size, (G)1.0f);
        numbers[at] = (G)values[i];
        x[i] = p.upload(numbers);
    }
    p.expect([&] {
        const double large = (float)(G)values[2];
        sums[0] = -1.0;
        sums[1] = -2.0;
        sums[2] = large * large + (double)(size - 1);
    });
    p.run(versions, [&](SumOfSquares *version) {
        double found[3];
        for (int i = 0; i < 3; i++) {
            const double sum = version(array_of(x[i]), size, space);
            found[i] = isnan(sum) ? -1.0 : isinf(sum) ? -2.0 : sum;
        }
        CUDA_CHECK(cudaMemcpy(sums.device, found, sizeof found, cudaMemcpyHostToDevice));
    });
}

int main(int argc, char **argv) {
    const size_t EXACT = 5000000, LOOSE = 50000, all_threads = SQUARES_BLOCKS * 256;
    std::vector<std::vector<size_t>> edges = {
        {1, EXACT}, {16, EXACT}, {31, EXACT}, {4112, EXACT}, {65552, LOOSE}};
    std::vector<std::vector<size_t>> fp32_edges = edges, bf16_edges = edges;
    fp32_edges.push_back({all_threads * 4 + 16, EXACT});  // a second round for the first threads of version 4
    bf16_edges.push_back({all_threads * 8 + 16, EXACT});
    const std::vector<size_t> sample = {1 << 20, LOOSE}, real = {(size_t)100352 * 2048, LOOSE};
    const Operation operations[] = {
        {"fp32", problem<float>, "size, one part in", fp32_edges, sample, real},
        {"bf16", problem<bf16>, "size, one part in", bf16_edges, sample, real},
        {"not_finite_fp32", not_finite_problem<float>, "size, at", {{4112, 4111}}, {16, 7}, {16, 7}},
        {"not_finite_bf16", not_finite_problem<bf16>, "size, at", {{4112, 4111}}, {16, 7}, {16, 7}},
        {"orders", orders_problem<float>, "size, one part in", {{1 << 16, EXACT}}, {1 << 16, EXACT}, real},
    };
    return ladder_main(argc, argv, operations);
}
