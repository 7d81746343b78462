// swiglu.cu: a = silu(gate) * up with silu(z) = z / (1 + e^-z), from the plainest kernels to those of
// train_olmo2.cu. README.md says how to build and read this.
//
//   ./swiglu forward     a
//   ./swiglu backward    dgate and dup, and a recomputed
//
// Every number is independent, so even the plainest kernel moves neighbouring bytes, 1.00 sectors. What can
// be improved is the number of kernels, which decides the bytes, and the number of instructions. Figures: F =
// 8192, bf16, counted as in rmsnorm.cu; instructions are those of the code for sm_80, including division and
// exponential.

#include "ladder.cuh"

// ---------------------------------------------------------------------------------------------
// forward: gate_up (N, 2F), each row F numbers of gate, then F of up -> a (N, F). At least 6F bytes per row.

typedef void Forward(floatX *a, const floatX *gate_up, size_t N, size_t F);

// Version 1: silu, then the product: two kernels, one thread per number. silu makes a round trip to memory:
// 1.67 of the minimum bytes. In bf16 this rounds it once more (3.7e-3 of the largest a at (2, 8192), where
// one rounding has 3.2e-3 at most).
__global__ static void silu_kernel_1(floatX *a, const floatX *gate_up, size_t size, size_t F) {
    const size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= size) { return; }
    const float z = (float)gate_up[i / F * 2 * F + i % F];
    a[i] = (floatX)(z / (1.0f + expf(-z)));
}

__global__ static void product_kernel_1(floatX *a, const floatX *gate_up, size_t size, size_t F) {
    const size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= size) { return; }
    a[i] = (floatX)((float)a[i] * (float)gate_up[i / F * 2 * F + F + i % F]);
}

static void forward_1(floatX *a, const floatX *gate_up, size_t N, size_t F) {
    silu_kernel_1<<<divide_up(N * F, SWIGLU_THREADS), SWIGLU_THREADS>>>(a, gate_up, N * F, F);
    product_kernel_1<<<divide_up(N * F, SWIGLU_THREADS), SWIGLU_THREADS>>>(a, gate_up, N * F, F);
    LAUNCH_CHECK();
}

// Version 2 (W = 1): one kernel. 1.00 of the minimum bytes, so no version can move less; 280 instructions per
// number, 24576 accesses per row. 19 registers.
// Version 3 (W = WIDE): 16 bytes at a time: 3072 accesses per row, and 464 instructions for eight numbers,
// over a hundred of which divide the index by F in 64 bits. 24 registers.
template <int W>
__global__ static void forward_kernel_2(floatX *a, const floatX *gate_up, size_t size, size_t F) {
    const size_t i = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * W;
    if (i >= size) { return; }
    const floatX *gate = gate_up + i / F * 2 * F + i % F, *up = gate + F;
    const Vec<floatX, W> gate_i = load<W>(gate), up_i = load<W>(up);
    Vec<floatX, W> a_i;
    for (int k = 0; k < W; k++) { a_i[k] = (floatX)swiglu((float)gate_i[k], (float)up_i[k]); }
    store(a + i, a_i);
}

static void forward_2(floatX *a, const floatX *gate_up, size_t N, size_t F) {
    forward_kernel_2<1><<<divide_up(N * F, SWIGLU_THREADS), SWIGLU_THREADS>>>(a, gate_up, N * F, F);
    LAUNCH_CHECK();
}

static void forward_3(floatX *a, const floatX *gate_up, size_t N, size_t F) {
    by_width(
        [&](auto width) {
            const size_t blocks = divide_up(N * F, SWIGLU_THREADS * width.value);
            forward_kernel_2<width.value><<<blocks, SWIGLU_THREADS>>>(a, gate_up, N * F, F);
        },
        F);
    LAUNCH_CHECK();
}

// Version 4, shipped: one block per row, so no thread divides: 352 instructions for eight numbers. 31
// registers.
static const Version<Forward> forward_versions[] = {
    {forward_1, "silu, then the product", nullptr, 2.0},
    {forward_2, "one kernel"},
    {forward_3, "16 bytes at a time"},
    {swiglu_forward, "shipped: one block per row"},
};

// A few roundings in fp32, and the cancellation in 1 - sigmoid(z), which is tiny where its factor z is large.
static const double TOLERANCE = 1e-5;

static double sigmoid(double z) { return 1.0 / (1.0 + exp(-z)); }

static void forward_problem(Problem &p) {
    const size_t N = p.n[0], F = p.n[1];
    const double range = (double)p.n[2];
    const auto gate_up = p.input<floatX>(N * 2 * F, -range, range);
    const auto a = p.output<floatX>("a", N * F, TOLERANCE);
    p.expect([&] {
        for (size_t i = 0; i < N * F; i++) {
            const double *gate = &gate_up[i / F * 2 * F + i % F], *up = gate + F;
            a[i] = *gate * sigmoid(*gate) * *up;
        }
    });
    p.bytes = (double)(3 * N * F * sizeof(floatX));
    p.run(forward_versions, [&](Forward *version) { version(a.device, gate_up.device, N, F); });
}

// ---------------------------------------------------------------------------------------------
// backward: da (N, F), gate_up (N, 2F) -> dgate_up (N, 2F), and a (N, F) unless it is nullptr; a may be da.
// With sigma = sigmoid(gate), dup = da gate sigma and dgate = da up sigma (1 + gate (1 - sigma)). At least
// 12F bytes per row: da and gate_up in, dgate_up and a out.

typedef void Backward(floatX *dgate_up, floatX *a, const floatX *da, const floatX *gate_up, size_t N,
                      size_t F);

// Version 1: one kernel for each result, which reads the inputs that it needs: gate three times, up and da
// twice. 1.67 of the minimum bytes.
__global__ static void dup_kernel_1(floatX *dgate_up, const floatX *da, const floatX *gate_up, size_t size,
                                    size_t F) {
    const size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= size) { return; }
    const size_t at = i / F * 2 * F + i % F;
    const float z = (float)gate_up[at];
    dgate_up[at + F] = (floatX)((float)da[i] * z / (1.0f + expf(-z)));
}

__global__ static void dgate_kernel_1(floatX *dgate_up, const floatX *da, const floatX *gate_up, size_t size,
                                      size_t F) {
    const size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= size) { return; }
    const size_t at = i / F * 2 * F + i % F;
    const float z = (float)gate_up[at], up = (float)gate_up[at + F], sigma = 1.0f / (1.0f + expf(-z));
    dgate_up[at] = (floatX)((float)da[i] * up * sigma * (1.0f + z * (1.0f - sigma)));
}

static void backward_1(floatX *dgate_up, floatX *a, const floatX *da, const floatX *gate_up, size_t N,
                       size_t F) {
    const size_t blocks = divide_up(N * F, SWIGLU_THREADS);
    dup_kernel_1<<<blocks, SWIGLU_THREADS>>>(dgate_up, da, gate_up, N * F, F);
    dgate_kernel_1<<<blocks, SWIGLU_THREADS>>>(dgate_up, da, gate_up, N * F, F);
    if (a != nullptr) { forward_kernel_2<1><<<blocks, SWIGLU_THREADS>>>(a, gate_up, N * F, F); }
    LAUNCH_CHECK();
}

// Version 2 (W = 1): one kernel. 1.00 of the minimum bytes. A thread reads its da before it writes a, which
// may overwrite da.
// Version 3 (W = WIDE): 16 bytes at a time, 6144 accesses per row instead of 49152. a has the same bits as in
// the forward.
template <int W>
__global__ static void backward_kernel_2(floatX *dgate_up, floatX *a, const floatX *da, const floatX *gate_up,
                                         size_t size, size_t F) {
    const size_t i = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * W;
    if (i >= size) { return; }
    const size_t at = i / F * 2 * F + i % F;
    const Vec<floatX, W> gate_i = load<W>(gate_up + at), up_i = load<W>(gate_up + at + F);
    const Vec<floatX, W> da_i = load<W>(da + i);
    Vec<floatX, W> dgate_i, dup_i, a_i;
    for (int k = 0; k < W; k++) {
        const float z = (float)gate_i[k], up = (float)up_i[k], sigma = 1.0f / (1.0f + expf(-z));
        dup_i[k] = (floatX)((float)da_i[k] * z * sigma);
        dgate_i[k] = (floatX)((float)da_i[k] * up * sigma * (1.0f + z * (1.0f - sigma)));
        a_i[k] = (floatX)swiglu(z, up);
    }
    store(dgate_up + at, dgate_i);
    store(dgate_up + at + F, dup_i);
    if (a != nullptr) { store(a + i, a_i); }
}

static void backward_2(floatX *dgate_up, floatX *a, const floatX *da, const floatX *gate_up, size_t N,
                       size_t F) {
    const size_t blocks = divide_up(N * F, SWIGLU_THREADS);
    backward_kernel_2<1><<<blocks, SWIGLU_THREADS>>>(dgate_up, a, da, gate_up, N * F, F);
    LAUNCH_CHECK();
}

static void backward_3(floatX *dgate_up, floatX *a, const floatX *da, const floatX *gate_up, size_t N,
                       size_t F) {
    by_width(
        [&](auto width) {
            const size_t blocks = divide_up(N * F, SWIGLU_THREADS * width.value);
            backward_kernel_2<width.value><<<blocks, SWIGLU_THREADS>>>(dgate_up, a, da, gate_up, N * F, F);
        },
        F);
    LAUNCH_CHECK();
}

// Version 4, shipped: one block per row.
static const Version<Backward> backward_versions[] = {
    {backward_1, "a kernel for each result"},
    {backward_2, "one kernel"},
    {backward_3, "16 bytes at a time"},
    {swiglu_backward, "shipped: one block per row"},
};

// The last number of a size: where a is written.
enum Place { NOWHERE, ITS_OWN, ON_DA };

static void backward_problem(Problem &p) {
    const size_t N = p.n[0], F = p.n[1], place = p.n[3];
    const double range = (double)p.n[2];
    const auto gate_up = p.input<floatX>(N * 2 * F, -range, range);
    const auto dgate_up = p.output<floatX>("dgate_up", N * 2 * F, TOLERANCE);
    const auto da = place == ON_DA ? p.changed<floatX>("a", N * F, TOLERANCE, -1.0, 1.0)
                                   : p.input<floatX>(N * F, -1.0, 1.0);
    const auto a = place == ITS_OWN ? p.output<floatX>("a", N * F, TOLERANCE) : da;
    p.expect([&] {
        for (size_t i = 0; i < N * F; i++) {
            const size_t at = i / F * 2 * F + i % F;
            const double z = gate_up[at], up = gate_up[at + F], sigma = sigmoid(z);
            dgate_up[at] = da[i] * up * sigma * (1.0 + z * (1.0 - sigma));
            dgate_up[at + F] = da[i] * z * sigma;
            if (place != NOWHERE) { a[i] = z * sigma * up; }
        }
    });
    p.bytes = (double)((place == NOWHERE ? 5 : 6) * N * F * sizeof(floatX));
    p.run(backward_versions, [&](Backward *version) {
        version(dgate_up.device, place == NOWHERE ? nullptr : a.device, da.device, gate_up.device, N, F);
    });
}

// ---------------------------------------------------------------------------------------------

int main(int argc, char **argv) {
    // one number; rows that are not a multiple of 16 bytes, shorter and longer than a block; gates so large
    // that e^-gate is 0 or infinite; a left out, in its own array, or over da
    const Operation operations[] = {
        {"forward",
         forward_problem,
         "N, F, range",
         {{1, 1, 8}, {1, 8, 8}, {3, 13, 8}, {33, 96, 8}, {5, 1000, 100}, {70, 257, 100}, {2, 8192, 8}},
         {64, 8192, 8},
         {8192, 8192, 8}},
        {"backward",
         backward_problem,
         "N, F, range, place of a",
         {{1, 1, 8, ITS_OWN},
          {1, 8, 8, NOWHERE},
          {3, 13, 8, ON_DA},
          {33, 96, 8, ITS_OWN},
          {5, 1000, 100, ON_DA},
          {70, 257, 100, NOWHERE},
          {2, 8192, 8, ON_DA}},
         {64, 8192, 8, ITS_OWN},
         {8192, 8192, 8, ITS_OWN}},
    };
    return ladder_main(argc, argv, operations);
}
