// copy.cu: a plain copy: the highest rate that a memory-bound kernel can reach.

#include "ladder.cuh"

typedef void Copy(floatX *y, const floatX *x, size_t N);

template <int W>
__global__ static void copy_kernel(floatX *y, const floatX *x, size_t N) {
    const size_t i = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * W;
    if (i < N) { store(y + i, load<W>(x + i)); }
}

static void copy_1(floatX *y, const floatX *x, size_t N) {
    copy_kernel<1><<<divide_up(N, 256), 256>>>(y, x, N);
    LAUNCH_CHECK();
}

static void copy_2(floatX *y, const floatX *x, size_t N) {
    copy_kernel<WIDE><<<divide_up(N, 256 * WIDE), 256>>>(y, x, N);
    LAUNCH_CHECK();
}

static void copy_3(floatX *y, const floatX *x, size_t N) {
    CUDA_CHECK(cudaMemcpyAsync(y, x, N * sizeof(floatX), cudaMemcpyDeviceToDevice));
}

static bool is_wide(const size_t *n) { return n[0] % WIDE == 0; }

static const Version<Copy> copy_versions[] = {
    {copy_1, "one thread per number"},
    {copy_2, "one thread per 16 bytes", is_wide},
    {copy_3, "CUDA's own: cudaMemcpyAsync"},
};

// x (N) -> y (N)
static void copy_problem(Problem &p) {
    const size_t N = p.n[0];
    const auto x = p.input<floatX>(N, -1.0, 1.0);
    const auto y = p.output<floatX>("y", N, 0.0);
    p.expect([&] {
        for (size_t i = 0; i < N; i++) { y[i] = x[i]; }
    });
    p.bytes = 2.0 * (double)N * sizeof(floatX);
    p.run(copy_versions, [&](Copy *version) { version(y.device, x.device, N); });
}

int main(int argc, char **argv) {
    const Operation operations[] = {
        {"copy", copy_problem, "N", {{1}, {31}, {256}, {1000}, {5000}}, {1 << 16}, {1 << 27}}};
    return ladder_main(argc, argv, operations);
}
