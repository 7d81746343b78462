// bench_gemm.c: llmc/gemm.h, compared with OpenBLAS, if there is one, and with the peak rate of fused
// multiply-adds.
//   build/bench_gemm [ROUNDS [LIBRARY]]      default 7; OMP_NUM_THREADS sets the threads
// LIBRARY is an OpenBLAS, for example NumPy's own; the default is the system's. It selects its kernels for
// this processor by itself. All three take turns within each round, so other load on the machine affects them
// alike. The output has medians (smallest - largest).
#include "llmc/gemm.h"
#include "llmc/profile.h"  // fma_peak
#include "bench.h"

#include <dlfcn.h>
#include <math.h>

// ---------------------------------------------------------------------------------------------
// the contenders

typedef struct {
    size_t M, N, K;
} Shape;

// Y (M, N) = X (M, K) W^T (N, K) for layers of the 85M and 190M models, a classifier, and a large one.
static const Shape shapes[] = {
    {1024, 512, 512}, {1024, 2048, 512}, {1024, 512, 2048}, {256, 50304, 768}, {2048, 4096, 1024}};
enum { SHAPES = sizeof shapes / sizeof shapes[0], LAYOUTS = 3, MAX_ROUNDS = 99 };
static const char *const layout_names[LAYOUTS] = {"forward", "dInput", "dWeight"};

typedef struct {
    float *x, *w, *y;
} Tensors;

// The three products with one weight matrix. Each overwrites or accumulates into the tensor in its name.
static void run_gemm(Tensors t, Shape s, int layout) {
    const Matrix x = matrix_of(t.x, s.K, 1), w = matrix_of(t.w, s.K, 1), y = matrix_of(t.y, s.N, 1);
    const Matrix w_turned = matrix_of(t.w, 1, s.K), y_turned = matrix_of(t.y, 1, s.N);
    if (layout == 0) { gemm(t.y, s.N, x, w_turned, s.M, s.N, s.K, false, GEMM_FP32); }
    if (layout == 1) { gemm(t.x, s.K, y, w, s.M, s.K, s.N, false, GEMM_FP32); }
    if (layout == 2) { gemm(t.w, s.K, y_turned, x, s.N, s.K, s.M, true, GEMM_FP32); }
}

// There are two kinds of OpenBLAS: NumPy's has other names and 64-bit integers.
typedef struct {
    const char *prefix, *suffix;
    bool wide;
} BlasKind;

static const BlasKind blas_kinds[] = {{"", "", false}, {"scipy_", "64_", true}};

typedef void (*Sgemm)(int order, int transpose_a, int transpose_b, int m, int n, int k, float alpha,
                      const float *a, int lda, const float *b, int ldb, float beta, float *c, int ldc);
typedef void (*SgemmWide)(int order, int transpose_a, int transpose_b, int64_t m, int64_t n, int64_t k,
                          float alpha, const float *a, int64_t lda, const float *b, int64_t ldb, float beta,
                          float *c, int64_t ldc);
typedef struct {
    BlasKind kind;
    void *sgemm;  // NULL without OpenBLAS
} OpenBlas;

static void *blas_symbol(void *library, const BlasKind *kind, const char *name) {
    char symbol[64];
    snprintf(symbol, sizeof symbol, "%s%s%s", kind->prefix, name, kind->suffix);
    return dlsym(library, symbol);
}

// Prints what it has found. NULL is the system's library.
static OpenBlas open_blas(const char *path) {
    const char *const names[] = {path, "libopenblas.so.0", "libopenblas.dylib"};
    void *library = NULL;
    for (int i = 0; i < (path == NULL ? 3 : 1) && library == NULL; i++) {
        library = names[i] == NULL ? NULL : dlopen(names[i], RTLD_NOW);
    }
    for (int i = 0; library != NULL && i < 2; i++) {
        const BlasKind *kind = &blas_kinds[i];
        void (*set_threads)(int) = (void (*)(int))blas_symbol(library, kind, "openblas_set_num_threads");
        char *(*core)(void) = (char *(*)(void))blas_symbol(library, kind, "openblas_get_corename");
        char *(*config)(void) = (char *(*)(void))blas_symbol(library, kind, "openblas_get_config");
        const OpenBlas blas = {*kind, blas_symbol(library, kind, "cblas_sgemm")};
        if (set_threads == NULL || core == NULL || config == NULL || blas.sgemm == NULL) { continue; }
        set_threads((int)thread_count());
        printf("%s; kernels for %s\n", config(), core());
        return blas;
    }
    if (path != NULL) {
        fprintf(stderr, "error: %s: %s\n", path, library == NULL ? dlerror() : "not an OpenBLAS");
        exit(1);
    }
    printf("skipped: OpenBLAS (not installed; name a library, or apt install libopenblas0)\n");
    return (OpenBlas){blas_kinds[0], NULL};
}

// C (m, n) = op(A) op(B) + beta C, row by row.
static void blas_sgemm(const OpenBlas *blas, bool turn_a, bool turn_b, size_t m, size_t n, size_t k,
                       const float *a, size_t lda, const float *b, size_t ldb, float beta, float *c) {
    enum { ROW_MAJOR = 101, AS_IT_IS = 111, TRANSPOSED = 112 };
    const int ta = turn_a ? TRANSPOSED : AS_IT_IS, tb = turn_b ? TRANSPOSED : AS_IT_IS;
    if (blas->kind.wide) {
        ((SgemmWide)blas->sgemm)(ROW_MAJOR, ta, tb, (int64_t)m, (int64_t)n, (int64_t)k, 1.0f, a, (int64_t)lda,
                                 b, (int64_t)ldb, beta, c, (int64_t)n);
    } else {
        ((Sgemm)blas->sgemm)(ROW_MAJOR, ta, tb, (int)m, (int)n, (int)k, 1.0f, a, (int)lda, b, (int)ldb, beta,
                             c, (int)n);
    }
}

static void run_blas(const OpenBlas *blas, Tensors t, Shape s, int layout) {
    if (layout == 0) { blas_sgemm(blas, false, true, s.M, s.N, s.K, t.x, s.K, t.w, s.K, 0.0f, t.y); }
    if (layout == 1) { blas_sgemm(blas, false, false, s.M, s.K, s.N, t.y, s.N, t.w, s.K, 0.0f, t.x); }
    if (layout == 2) { blas_sgemm(blas, true, false, s.N, s.K, s.M, t.y, s.N, t.x, s.K, 1.0f, t.w); }
}

// ---------------------------------------------------------------------------------------------
// the measurement

// "median (smallest - largest)", padded to a fixed width.
typedef struct {
    double median;
    char text[40];
} Spread;

static Spread spread_of(double *values, int n) {
    Spread s;
    qsort(values, (size_t)n, sizeof *values, bench_compare);
    s.median = values[n / 2];
    snprintf(s.text, sizeof s.text, "%6.1f (%.1f - %.1f)", s.median, values[0], values[n - 1]);
    return s;
}

static void fill(float *x, size_t n) {
    for (size_t i = 0; i < n; i++) { x[i] = (float)(i * 7919 % 1000) / 500.0f - 1.0f; }
}

// GFLOP/s of one round: one call to wake the threads, then enough calls to time.
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
    const OpenBlas blas = open_blas(argc > 2 ? argv[2] : NULL);
    const bool compare = blas.sgemm != NULL;
    printf("%zu threads, %d-bit vectors, GFLOP/s\n", thread_count(), 32 * GEMM_LANES);
    printf("layout     M      N      K  %-24s  %-24s  of peak  %-24s  gemm / OpenBLAS\n", "gemm", "FMA peak",
           "OpenBLAS");
    for (int layout = 0; layout < LAYOUTS; layout++) {
        double log_speed = 0.0, log_share = 0.0, log_ratio = 0.0;
        for (int n = 0; n < SHAPES; n++) {
            const Shape s = shapes[n];
            Tensors t = {(float *)malloc(s.M * s.K * sizeof(float)),
                         (float *)malloc(s.N * s.K * sizeof(float)),
                         (float *)malloc(s.M * s.N * sizeof(float))};
            if (t.x == NULL || t.w == NULL || t.y == NULL) { return 1; }
            double ours[MAX_ROUNDS], peak[MAX_ROUNDS], share[MAX_ROUNDS];
            double theirs[MAX_ROUNDS], ratio[MAX_ROUNDS];
            for (int round = 0; round < rounds; round++) {
                fill(t.x, s.M * s.K);  // again, since accumulated sums would grow to infinity
                fill(t.w, s.N * s.K);
                fill(t.y, s.M * s.N);
                ours[round] = measure(NULL, t, s, layout);
                theirs[round] = compare ? measure(&blas, t, s, layout) : NAN;
                peak[round] = fma_peak();
                share[round] = ours[round] / peak[round];
                ratio[round] = ours[round] / theirs[round];
            }
            const Spread speed = spread_of(ours, rounds), ceiling = spread_of(peak, rounds);
            const Spread other = spread_of(theirs, rounds);
            const double of_peak = spread_of(share, rounds).median, times = spread_of(ratio, rounds).median;
            printf("%-7s %4zu  %5zu  %5zu  %-24s  %-24s  %5.1f %%  %-24s  %.3f\n", layout_names[layout], s.M,
                   s.N, s.K, speed.text, ceiling.text, 100.0 * of_peak, other.text, times);
            log_speed += log(speed.median) / SHAPES;
            log_share += log(of_peak) / SHAPES;
            log_ratio += log(times) / SHAPES;
            free(t.x);
            free(t.w);
            free(t.y);
        }
        printf("%-7s geometric mean      %6.1f %43s  %5.1f %%  %24s  %.3f\n", layout_names[layout],
               exp(log_speed), "", 100.0 * exp(log_share), "", exp(log_ratio));
        fflush(stdout);
    }
    return 0;
}
