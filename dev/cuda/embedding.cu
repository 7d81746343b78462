// embedding.cu: x_t = E[token_t], and its gradient, from the plainest kernels to those of train_olmo2.cu.
// README.md says how to build and read this.
//
//   ./embedding forward     copies a row of the table for each token
//   ./embedding backward    adds a row to the table's gradient for each token
//
// The forward is a copy. The backward is the one place of the model where many threads write to the same
// place: a token that occurs at a hundred positions receives a hundred rows. This file shows how to add them
// up in parallel and always in the same order. Figures: C = 2048, bf16, dtable in fp32, 64 tokens, counted as
// in rmsnorm.cu.

#include "ladder.cuh"

// ---------------------------------------------------------------------------------------------
// forward: table (V, C), tokens (N) -> x (N, C). At least 4C + 4 bytes per token.

typedef void Forward(floatX *x, const floatX *table, const uint32_t *tokens, size_t N, size_t C);

// Version 1 (W = 1): one thread per number of x. 6144 accesses per token: each thread reads the token again.
// Version 2 (W = WIDE): 16 bytes at a time, with one division by C and one read of the token for eight
// numbers: 768 accesses.
template <int W>
__global__ static void forward_kernel_1(floatX *x, const floatX *table, const uint32_t *tokens, size_t size,
                                        size_t C) {
    const size_t i = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * W;
    if (i >= size) { return; }
    store(x + i, load<W>(table + tokens[i / C] * C + i % C));
}

enum { FORWARD_THREADS = 256 };

static void forward_1(floatX *x, const floatX *table, const uint32_t *tokens, size_t N, size_t C) {
    forward_kernel_1<1><<<divide_up(N * C, FORWARD_THREADS), FORWARD_THREADS>>>(x, table, tokens, N * C, C);
    LAUNCH_CHECK();
}

static void forward_2(floatX *x, const floatX *table, const uint32_t *tokens, size_t N, size_t C) {
    by_width(
        [&](auto width) {
            const size_t blocks = divide_up(N * C, FORWARD_THREADS * width.value);
            forward_kernel_1<width.value><<<blocks, FORWARD_THREADS>>>(x, table, tokens, N * C, C);
        },
        C);
    LAUNCH_CHECK();
}

// Version 3, shipped: one warp per token, so a lane reads the token once for all its channels and needs no
// division: 544 accesses, 512 of them for the row itself.
static const Version<Forward> forward_versions[] = {
    {forward_1, "one thread per number", nullptr, 0.0},
    {forward_2, "16 bytes at a time", nullptr, 0.0},
    {embedding_forward, "shipped: one warp per token", nullptr, 0.0},
};

static void forward_problem(Problem &p) {
    const size_t N = p.n[0], C = p.n[1], V = p.n[2];
    const auto table = p.input<floatX>(V * C, -1.0, 1.0);
    const std::vector<uint32_t> tokens = p.integers(N, V);
    const uint32_t *tokens_device = p.upload(tokens);
    const auto x = p.output<floatX>("x", N * C, 0.0);
    p.expect([&] {
        for (size_t i = 0; i < N * C; i++) { x[i] = table[tokens[i / C] * C + i % C]; }
    });
    p.bytes = (double)(N * (2 * C * sizeof(floatX) + sizeof(uint32_t)));
    p.run(forward_versions, [&](Forward *version) { version(x.device, table.device, tokens_device, N, C); });
}

// ---------------------------------------------------------------------------------------------
// backward: dx (N, C), tokens (N) -> dtable (V, C) accumulated, in fp32 or bf16. order (N) and starts are the
// buckets of embedding_buckets: the positions of each token side by side. At least 2C bytes per token, and
// for each token that occurs, its row of dtable in and out.

typedef void Backward(Array dtable, const floatX *dx, const uint32_t *tokens, const uint32_t *order,
                      const uint32_t *starts, size_t buckets, size_t N, size_t C);

// Version 1: one thread per channel, which loops over all tokens, like the loop of train_olmo2.c. No other
// thread touches its column, and the order is that of the tokens. But 2048 channels are 64 warps. Each step
// waits for the previous one, since that may have written the same number.
__global__ static void backward_kernel_1(float *dtable, const floatX *dx, const uint32_t *tokens, size_t N,
                                         size_t C) {
    const size_t c = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= C) { return; }
    for (size_t n = 0; n < N; n++) { dtable[tokens[n] * C + c] += (float)dx[n * C + c]; }
}

static void backward_1(Array dtable, const floatX *dx, const uint32_t *tokens, const uint32_t *,
                       const uint32_t *, size_t, size_t N, size_t C) {
    const int threads = 128;
    backward_kernel_1<<<divide_up(C, threads), threads>>>((float *)dtable.data, dx, tokens, N, C);
    LAUNCH_CHECK();
}

// Version 2: one thread per number of dx, which adds it with an atomic. DO NOT COPY THIS: it is here to show
// what atomics cost. The positions of one token arrive in another order each time, so the last bits differ
// from run to run. Each of N C atomics reads and writes in the L2 cache, 1.67 of the minimum bytes.
__global__ static void backward_kernel_2(float *dtable, const floatX *dx, const uint32_t *tokens, size_t size,
                                         size_t C) {
    const size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= size) { return; }
    atomicAdd(dtable + tokens[i / C] * C + i % C, (float)dx[i]);
}

static void backward_2(Array dtable, const floatX *dx, const uint32_t *tokens, const uint32_t *,
                       const uint32_t *, size_t, size_t N, size_t C) {
    const int threads = 256;
    backward_kernel_2<<<divide_up(N * C, threads), threads>>>((float *)dtable.data, dx, tokens, N * C, C);
    LAUNCH_CHECK();
}

// Version 3: one block per position. If its token has occurred before, the block has nothing to do. Otherwise
// it adds up, in registers, the rows of this and all later positions of the token, and then adds the sum to
// dtable. The order is always the same. dtable is read and written once, 1.00 of the minimum bytes, so it may
// be bf16. But every thread looks at up to N tokens, N^2 in all: 22048 accesses per token, 2 per cent of them
// 16 bytes wide, and more tokens need more accesses each.
template <int W, typename G>
__global__ static void backward_kernel_3(G *dtable, const floatX *dx, const uint32_t *tokens, size_t N,
                                         size_t C) {
    const size_t first = blockIdx.x, c = ((size_t)blockIdx.y * blockDim.x + threadIdx.x) * W;
    const uint32_t token = tokens[first];
    if (c >= C) { return; }
    for (size_t n = 0; n < first; n++) {
        if (tokens[n] == token) { return; }
    }
    float sum[W] = {};
    for (size_t n = first; n < N; n++) {
        if (tokens[n] != token) { continue; }
        const Vec<floatX, W> dx_n = load<W>(dx + n * C + c);
        for (int k = 0; k < W; k++) { sum[k] += (float)dx_n[k]; }
    }
    Vec<G, W> total = load<W>(dtable + token * C + c);
    for (int k = 0; k < W; k++) { total[k] = (G)((float)total[k] + sum[k]); }
    store(dtable + token * C + c, total);
}

static void backward_3(Array dtable, const floatX *dx, const uint32_t *tokens, const uint32_t *,
                       const uint32_t *, size_t, size_t N, size_t C) {
    const int threads = 128;
    by_width<4>(
        [&](auto width) {
            const dim3 blocks((unsigned)N, (unsigned)divide_up(C, threads * width.value));
            by_type(dtable, [&](auto *d) {
                backward_kernel_3<width.value><<<blocks, threads>>>(d, dx, tokens, N, C);
            });
        },
        C);
    LAUNCH_CHECK();
}

// Version 4, shipped: the host, which has the tokens anyway, sorts their positions with a counting sort of N
// + V steps. There is one block per token that occurs, and the block finds its positions side by side: 2560
// accesses per token, however many tokens there are. 1.01 of the minimum bytes.
static void backward_4(Array dtable, const floatX *dx, const uint32_t *tokens, const uint32_t *order,
                       const uint32_t *starts, size_t buckets, size_t, size_t C) {
    embedding_backward(dtable, dx, tokens, order, starts, buckets, C);
}

// Versions 1 and 2 round dtable at every step; bf16 has too few bits for that.
static bool backward_in_fp32(const size_t *n) { return n[3] == 0; }

static const Version<Backward> backward_versions[] = {
    {backward_1, "one thread per channel", backward_in_fp32},
    {backward_2, "one thread per number; atomics", backward_in_fp32},
    {backward_3, "one block per token, which searches"},
    {backward_4, "shipped: positions sorted by token"},
};

static void backward_problem(Problem &p) {
    const size_t N = p.n[0], C = p.n[1], V = p.n[2];
    const auto dx = p.input<floatX>(N * C, -1.0, 1.0);
    const std::vector<uint32_t> tokens = p.integers(N, V);
    std::vector<uint32_t> order(N), starts(N + 1), next(V);
    const size_t buckets = embedding_buckets(order.data(), starts.data(), next.data(), tokens.data(), N, V);
    starts.resize(buckets + 1);
    const uint32_t *tokens_device = p.upload(tokens), *order_device = p.upload(order);
    const uint32_t *starts_device = p.upload(starts);
    // A sum over the positions of a token in fp32, relative to the largest.
    const auto dtable = p.changed("dtable", V * C, 1e-6, -1.0, 1.0, p.n[3] != 0);
    p.stays_cached(tokens_device);
    p.expect([&] {
        for (size_t i = 0; i < N * C; i++) { dtable[tokens[i / C] * C + i % C] += dx[i]; }
    });
    p.bytes = (double)(N * C * sizeof(floatX)) + 2.0 * (double)array_bytes(p.n[3] != 0, buckets * C);
    p.run(backward_versions, [&](Backward *version) {
        version(dtable.device, dx.device, tokens_device, order_device, starts_device, buckets, N, C);
    });
}

// ---------------------------------------------------------------------------------------------

int main(int argc, char **argv) {
    // one token; all tokens equal; tokens that never occur; rows that are not a multiple of 16 bytes; rows
    // longer than one pass of a block
    const Operation operations[] = {
        {"forward",
         forward_problem,
         "N, C, V",
         {{1, 1, 1}, {1, 8, 5}, {3, 13, 7}, {33, 72, 10}, {257, 96, 50}, {9, 1000, 4}, {5, 2048, 9}},
         {64, 2048, 1000},
         {8192, 2048, 100352}},
        {"backward",
         backward_problem,
         "N, C, V, dtable in bf16",
         {{1, 1, 1, 0},
          {1, 8, 5, 1},
          {70, 13, 7, 0},
          {33, 72, 1, 1},
          {257, 96, 50, 0},
          {9, 1000, 4, 1},
          {9, 1001, 40, 0},
          {5, 2048, 9, 0}},
         {64, 2048, 40, 0},
         {8192, 2048, 100352, 0}},
    };
    return ladder_main(argc, argv, operations);
}
