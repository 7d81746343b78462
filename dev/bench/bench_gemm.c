// bench_gemm.c: llmc/gemm.h beside OpenBLAS (if it is installed) and beside the fused multiply-adds that the
// cores can make.
//   build/bench_gemm [ROUNDS]      default 7; threads by OMP_NUM_THREADS
// All three take turns within each round, so that what else runs on the machine hits them alike; medians are
// shown.
#include "llmc/gemm.h"

#include <dlfcn.h>
#include <math.h>

// ---------------------------------------------------------------------------------------------
// what is compared

typedef struct {
    size_t M, N, K;
} Shape;

// Y (M, N) = X (M, K) W^T (N, K) of layers of 85M and 190M models, of a classifier, and a large one.
static const Shape shapes[] = {
    {1024, 512, 512}, {1024, 2048, 512}, {1024, 512, 2048}, {256, 50304, 768}, {2048, 4096, 1024}};
enum { SHAPES = sizeof shapes / sizeof shapes[0], LAYOUTS = 3, MAX_ROUNDS = 99 };
static const char *const layout_names[LAYOUTS] = {"forward", "dInput", "dWeight"};

typedef struct {
    float *x, *w, *y;
} Tensors;

// The three products around one weight matrix; each overwrites or adds to the tensor that it is named after.
static void run_gemm(Tensors t, Shape s, int layout) {
    const Matrix x = {t.x, s.K, 1}, w = {t.w, s.K, 1}, y = {t.y, s.N, 1};
    const Matrix w_turned = {t.w, 1, s.K}, y_turned = {t.y, 1, s.N};
    if (layout == 0) { gemm(t.y, s.N, x, w_turned, s.M, s.N, s.K, false); }
    if (layout == 1) { gemm(t.x, s.K, y, w, s.M, s.K, s.N, false); }
    if (layout == 2) { gemm(t.w, s.K, y_turned, x, s.N, s.K, s.M, true); }
}

typedef void (*Sgemm)(int order, int transpose_a, int transpose_b, int m, int n, int k, float alpha,
                      const float *a, int lda, const float *b, int ldb, float beta, float *c, int ldc);
typedef struct {
    Sgemm sgemm;  // NULL where there is no OpenBLAS
    const char *kernels;
} OpenBlas;

static OpenBlas open_blas(void) {
    OpenBlas blas = {NULL, NULL};
#ifdef __AVX512F__
    // It chooses kernels by the model of the processor, and may take those for AVX2 where it knows it not.
    setenv("OPENBLAS_CORETYPE", "SkylakeX", 1);
#endif
    void *library = dlopen("libopenblas.so.0", RTLD_NOW);
    if (library == NULL) { library = dlopen("libopenblas.dylib", RTLD_NOW); }
    if (library == NULL) { return blas; }
    void (*set_threads)(int) = (void (*)(int))dlsym(library, "openblas_set_num_threads");
    char *(*core)(void) = (char *(*)(void))dlsym(library, "openblas_get_corename");
    char *(*config)(void) = (char *(*)(void))dlsym(library, "openblas_get_config");
    blas.sgemm = (Sgemm)dlsym(library, "cblas_sgemm");
    if (set_threads == NULL || core == NULL || config == NULL) { blas.sgemm = NULL; }
    if (blas.sgemm != NULL) {
        set_threads((int)gemm_threads());
        blas.kernels = core();
        printf("OpenBLAS: %s\n", config());
    }
    return blas;
}

static void run_blas(const OpenBlas *blas, Tensors t, Shape s, int layout) {
    enum { ROW_MAJOR = 101, AS_IT_IS = 111, TRANSPOSED = 112 };
    const int M = (int)s.M, N = (int)s.N, K = (int)s.K;
    if (layout == 0) { blas->sgemm(ROW_MAJOR, AS_IT_IS, TRANSPOSED, M, N, K, 1, t.x, K, t.w, K, 0, t.y, N); }
    if (layout == 1) { blas->sgemm(ROW_MAJOR, AS_IT_IS, AS_IT_IS, M, K, N, 1, t.y, N, t.w, K, 0, t.x, K); }
    if (layout == 2) { blas->sgemm(ROW_MAJOR, TRANSPOSED, AS_IT_IS, N, K, M, 1, t.y, N, t.x, K, 1, t.w, K); }
}

// Independent multiply-adds in registers, nothing else, on all threads: the ceiling. Returns GFLOP/s.
static double peak(void) {
    enum { CHAINS = 12, STEPS = 4000000 };
    const double begin = seconds_now();
    double flops = 0.0;
#pragma omp parallel reduction(+ : flops)
    {
        GemmVector sum[CHAINS], factor = {0}, term = {0};
        factor += 0.5f;
        term += 1.0f;
        for (int i = 0; i < CHAINS; i++) { sum[i] = term * (float)i; }  // not alike, or one would do for all
        for (int step = 0; step < STEPS; step++) {
            for (int i = 0; i < CHAINS; i++) { sum[i] = sum[i] * factor + term; }
        }
        float used = 0.0f;
        for (int i = 0; i < CHAINS; i++) { used += sum[i][0]; }
        flops += used > 0.0f ? 2.0 * STEPS * CHAINS * GEMM_LANES : 0.0;
    }
    return flops / (seconds_now() - begin) * 1e-9;
}

// ---------------------------------------------------------------------------------------------
// the measurement

static int compare_doubles(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, int n) {
    qsort(values, (size_t)n, sizeof *values, compare_doubles);
    return values[n / 2];
}

static void fill(float *x, size_t n) {
    for (size_t i = 0; i < n; i++) { x[i] = (float)(i * 7919 % 1000) / 500.0f - 1.0f; }
}

// GFLOP/s of one round: a call to wake the threads, then enough calls to be worth timing.
static double measure(const OpenBlas *blas, Tensors t, Shape s, int layout) {
    const double flops = 2.0 * (double)s.M * (double)s.N * (double)s.K;
    const int calls = flops > 1e10 ? 1 : (int)(1e10 / flops) + 1;
    double begin = 0.0;
    for (int call = -1; call < calls; call++) {
        if (call == 0) { begin = seconds_now(); }
        if (blas == NULL) {
            run_gemm(t, s, layout);
        } else {
            run_blas(blas, t, s, layout);
        }
    }
    return calls * flops / (seconds_now() - begin) * 1e-9;
}

int main(int argc, char **argv) {
    const int rounds = argc > 1 ? atoi(argv[1]) : 7;
    if (rounds < 1 || rounds > MAX_ROUNDS) {
        fprintf(stderr, "error: ROUNDS must be 1 to %d\n", MAX_ROUNDS);
        return 1;
    }
    const OpenBlas blas = open_blas();
    const bool compare = blas.sgemm != NULL;
    if (!compare) { printf("skipped: OpenBLAS (not installed; apt install libopenblas0)\n"); }
    printf("%zu threads, %d-bit vectors, GFLOP/s%s%s\n", gemm_threads(), 8 * GEMM_VECTOR_BYTES,
           compare ? ", OpenBLAS kernels: " : "", compare ? blas.kernels : "");
    printf("layout      M      N      K    gemm   of peak   OpenBLAS   gemm / OpenBLAS\n");
    for (int layout = 0; layout < LAYOUTS; layout++) {
        double log_speed = 0.0, log_share = 0.0, log_ratio = 0.0;
        for (int n = 0; n < SHAPES; n++) {
            const Shape s = shapes[n];
            Tensors t = {(float *)malloc(s.M * s.K * sizeof(float)),
                         (float *)malloc(s.N * s.K * sizeof(float)),
                         (float *)malloc(s.M * s.N * sizeof(float))};
            if (t.x == NULL || t.w == NULL || t.y == NULL) { return 1; }
            double ours[MAX_ROUNDS], share[MAX_ROUNDS], theirs[MAX_ROUNDS], ratio[MAX_ROUNDS];
            for (int round = 0; round < rounds; round++) {
                fill(t.x, s.M * s.K);  // anew, for sums that pile up would end in infinity
                fill(t.w, s.N * s.K);
                fill(t.y, s.M * s.N);
                ours[round] = measure(NULL, t, s, layout);
                theirs[round] = compare ? measure(&blas, t, s, layout) : NAN;
                share[round] = ours[round] / peak();
                ratio[round] = ours[round] / theirs[round];
            }
            const double speed = median(ours, rounds), of_peak = median(share, rounds);
            const double times = compare ? median(ratio, rounds) : NAN;
            printf("%-8s %4zu  %5zu  %5zu  %6.0f    %4.0f %%   %8.0f   %.2f\n", layout_names[layout], s.M,
                   s.N, s.K, speed, 100.0 * of_peak, compare ? median(theirs, rounds) : NAN, times);
            log_speed += log(speed) / SHAPES;
            log_share += log(of_peak) / SHAPES;
            log_ratio += log(times) / SHAPES;
            free(t.x);
            free(t.w);
            free(t.y);
        }
        printf("%-8s geometric mean     %6.0f    %4.0f %%              %.2f\n", layout_names[layout],
               exp(log_speed), 100.0 * exp(log_share), exp(log_ratio));
    }
    return 0;
}
