// test_gemm.c: the matrix product against a sum in double, and its promises: any layout, any size, and the
// same bits for any number of threads and for any part of a product.
#include "llmc/gemm.h"
#include "check.h"

#include <float.h>
#include <math.h>

// ---------------------------------------------------------------------------------------------
// a product and its reference

typedef struct {
    size_t M, N, K, ldc;
    Matrix A, B;
    float *a, *b, *c, *before;  // c (M, ldc) is the result, `before` its content before the product
    double *sum, *size;         // (M, N): sum_k a b and sum_k |a b|
    GemmType type;
} Product;

static uint64_t random_state = 1;

// Uniform in [-1, 1), from the high bits of Knuth's linear congruential generator (TAOCP 2, 3.3.4).
static float random_float(void) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (float)(random_state >> 40) / (float)(1 << 23) - 1.0f;
}

static size_t random_size(size_t low, size_t high) {
    return low + (size_t)((random_float() + 1.0f) / 2.0f * (float)(high - low + 1));
}

static float *random_floats(size_t n) {
    float *x = (float *)malloc((n + 1) * sizeof(float));
    for (size_t i = 0; i < n; i++) { x[i] = random_float(); }
    return x;
}

typedef enum { FORWARD, D_INPUT, D_WEIGHT, SPREAD, LAYOUTS } Layout;
static const char *const layout_names[] = {"forward X W^T", "dInput dY W", "dWeight dY^T X", "any strides"};

static Matrix stored(const float *data, size_t rows, size_t columns, bool transposed) {
    Matrix whole = {data, columns, 1}, turned = {data, 1, rows};
    return transposed ? turned : whole;
}

// The factor that the product takes: with GEMM_BF16, the nearest number of 8 significant bits.
static double element(Matrix m, size_t r, size_t c, GemmType type) {
    const double x = (double)m.data[r * m.row_stride + c * m.column_stride];
    int exponent;
    const double mantissa = frexp(x, &exponent);
    return type == GEMM_BF16 ? ldexp(nearbyint(ldexp(mantissa, 8)), exponent - 8) : x;
}

// All data begin one float after the start of their allocation, where no vector is aligned.
static Product product_new(Layout layout, size_t M, size_t N, size_t K, GemmType type) {
    Product p;
    p.type = type;
    p.M = M;
    p.N = N;
    p.K = K;
    p.ldc = N + M % 3;
    const size_t spread = layout == SPREAD ? 6 : 1;
    p.a = random_floats(M * K * spread + 1);
    p.b = random_floats(K * N * spread + 1);
    p.c = random_floats(M * p.ldc + 1);
    p.before = random_floats(M * p.ldc + 1);
    p.A = stored(p.a + 1, M, K, layout == D_WEIGHT);
    p.B = stored(p.b + 1, K, N, layout == FORWARD);
    if (layout == SPREAD) {  // A: every second row and third column; B: the other way round
        p.A.row_stride = 6 * K;
        p.A.column_stride = 3;
        p.B.row_stride = 2;
        p.B.column_stride = 6 * K;
    }
    p.sum = (double *)calloc(M * N, sizeof(double));
    p.size = (double *)calloc(M * N, sizeof(double));
    double *row = (double *)calloc(N, sizeof(double));
    for (size_t k = 0; k < K; k++) {
        for (size_t j = 0; j < N; j++) { row[j] = element(p.B, k, j, type); }
        for (size_t i = 0; i < M; i++) {
            const double a = element(p.A, i, k, type);
            for (size_t j = 0; j < N; j++) {
                p.sum[i * N + j] += a * row[j];
                p.size[i * N + j] += fabs(a * row[j]);
            }
        }
    }
    free(row);
    return p;
}

static void product_free(Product *p) {
    free(p->a);
    free(p->b);
    free(p->c);
    free(p->before);
    free(p->sum);
    free(p->size);
}

// The largest error of c as a fraction of what rounding can explain; infinity if something is wrong.
// A sum of n rounded products and additions, in any order, is within n u / (1 - n u) sum |a b| of the truth,
// u = 2^-24 (Higham, Accuracy and Stability of Numerical Algorithms, 3.1); n = K + blocks of k + 1 here, at
// most 2 K + 2.
static double product_error(const Product *p, bool accumulate) {
    const double nu = (double)(2 * p->K + 2) * (double)FLT_EPSILON / 2.0, relative = nu / (1.0 - nu);
    double worst = 0.0;
    for (size_t i = 0; i < p->M; i++) {
        for (size_t j = 0; j < p->ldc; j++) {
            const double found = p->c[1 + i * p->ldc + j], before = p->before[1 + i * p->ldc + j];
            double expected = before, bound = 0.0;  // after column N nothing may change
            if (j < p->N) {
                const double old = accumulate ? before : 0.0;
                expected = old + p->sum[i * p->N + j];
                bound = relative * (fabs(old) + p->size[i * p->N + j]);
            }
            const double error = fabs(found - expected);
            if (!(error <= bound)) { return INFINITY; }
            if (bound > 0.0) { worst = fmax(worst, error / bound); }
        }
    }
    return worst;
}

typedef void (*Gemm)(float *C, size_t ldc, Matrix A, Matrix B, size_t M, size_t N, size_t K, bool accumulate,
                     GemmType type);

static void product_run(Product *p, Gemm function, bool accumulate) {
    memcpy(p->c, p->before, (p->M * p->ldc + 1) * sizeof(float));
    function(p->c + 1, p->ldc, p->A, p->B, p->M, p->N, p->K, accumulate, p->type);
}

static bool same_bits(const Product *p, const float *c) {
    return memcmp(p->c, c, (p->M * p->ldc + 1) * sizeof(float)) == 0;
}

// ---------------------------------------------------------------------------------------------
// the tests

static void test_values(GemmType type) {
    // Besides random sizes: single rows and columns, sizes at and around the blocks of rows, columns and k,
    // and K = 0.
    const size_t sizes[][3] = {
        {1, 1, 1},      {1, 300, 700},  {300, 1, 40},   {8, 32, 256},    {9, 33, 257},
        {256, 512, 32}, {257, 513, 40}, {100, 50, 600}, {64, 64, 64},    {2, 1100, 3},
        {17, 40, 0},    {70, 70, 1},    {252, 48, 255}, {1030, 100, 20},
    };
    const size_t fixed = sizeof sizes / sizeof sizes[0];
    printf("layout            products   error / bound of rounding\n");
    for (int layout = 0; layout < LAYOUTS; layout++) {
        double worst = 0.0;
        size_t products = 0;
        for (size_t n = 0; n < fixed + 100; n++) {
            const size_t M = n < fixed ? sizes[n][0] : random_size(1, 70);
            const size_t N = n < fixed ? sizes[n][1] : random_size(1, 70);
            const size_t K = n < fixed ? sizes[n][2] : random_size(0, 70);
            Product p = product_new((Layout)layout, M, N, K, type);
            for (int accumulate = 0; accumulate < 2; accumulate++) {
                product_run(&p, gemm, accumulate != 0);
                worst = fmax(worst, product_error(&p, accumulate != 0));
                product_run(&p, gemm_serial, accumulate != 0);
                worst = fmax(worst, product_error(&p, accumulate != 0));
                products += 2;
            }
            product_free(&p);
        }
        printf("%-16s  %8zu   %.3f\n", layout_names[layout], products, worst);
        CHECK(worst <= 1.0);
        CHECK(worst > 0.0);  // an error of zero would mean that nothing was compared
    }
}

static void test_empty(GemmType type) {
    float c[2] = {1.0f, 2.0f}, x = 3.0f;
    const Matrix any = {&x, 1, 1};
    gemm(c, 1, any, any, 0, 1, 1, false, type);
    gemm(c, 1, any, any, 1, 0, 1, false, type);
    CHECK(c[0] == 1.0f && c[1] == 2.0f);
    gemm(c, 1, any, any, 1, 1, 0, true, type);
    CHECK(c[0] == 1.0f);
    gemm(c, 1, any, any, 1, 1, 0, false, type);
    CHECK(c[0] == 0.0f && c[1] == 2.0f);
}

// A NaN of A stays in its row, and C's old content is not read unless the product accumulates.
static void test_nan(GemmType type) {
    Product p = product_new(FORWARD, 20, 50, 30, type);
    p.a[1 + 7 * 30 + 29] = NAN;
    for (size_t i = 0; i < 20 * p.ldc; i++) { p.before[1 + i] = NAN; }
    product_run(&p, gemm, false);
    bool right = true;
    for (size_t i = 0; i < 20; i++) {
        for (size_t j = 0; j < 50; j++) { right = right && isnan(p.c[1 + i * p.ldc + j]) == (i == 7); }
    }
    CHECK(right);
    product_free(&p);
}

static void set_threads(int n) {
#ifdef _OPENMP
    omp_set_num_threads(n);
#else
    (void)n;
#endif
}

static void test_same_bits(GemmType type) {
    const size_t sizes[][3] = {
        {1, 1000, 600}, {64, 64, 64}, {130, 96, 513}, {300, 530, 300}, {600, 70, 1000}};
    const int threads = (int)thread_count();
    for (size_t n = 0; n < sizeof sizes / sizeof sizes[0]; n++) {
        for (int layout = 0; layout < LAYOUTS; layout++) {
            Product p = product_new((Layout)layout, sizes[n][0], sizes[n][1], sizes[n][2], type);
            product_run(&p, gemm_serial, true);
            float *serial = p.c;
            p.c = random_floats(p.M * p.ldc + 1);
            bool same = true;
            for (int t = 1; t <= 4; t++) {
                set_threads(t);
                product_run(&p, gemm, true);
                same = same && same_bits(&p, serial);
            }
            CHECK(same);

            // A row of the product has the bits of a product with only that row of A.
            const size_t row = p.M / 2;
            const Matrix one = {p.A.data + row * p.A.row_stride, p.A.row_stride, p.A.column_stride};
            memcpy(p.c, p.before, (p.M * p.ldc + 1) * sizeof(float));
            gemm(p.c + 1 + row * p.ldc, p.ldc, one, p.B, 1, p.N, p.K, true, type);
            CHECK(memcmp(p.c + 1 + row * p.ldc, serial + 1 + row * p.ldc, p.N * sizeof(float)) == 0);
            free(serial);
            product_free(&p);
        }
    }
    set_threads(threads);
}

// Many small products at once, one per thread, as in attention.
static void test_parallel_region(GemmType type) {
    enum { PRODUCTS = 40 };
    Product p[PRODUCTS];
    double error[PRODUCTS];
    for (size_t n = 0; n < PRODUCTS; n++) {
        p[n] = product_new((Layout)(n % LAYOUTS), random_size(1, 70), random_size(1, 300),
                           random_size(1, 300), type);
    }
#pragma omp parallel for schedule(dynamic) num_threads(4)
    for (size_t n = 0; n < PRODUCTS; n++) {
        product_run(&p[n], gemm_serial, n % 2 == 0);
        error[n] = product_error(&p[n], n % 2 == 0);
    }
    double worst = 0.0;
    for (size_t n = 0; n < PRODUCTS; n++) {
        worst = fmax(worst, error[n]);
        product_free(&p[n]);
    }
    CHECK(worst <= 1.0);
}

// Rounding to bf16 at its edges: ties go to even, the largest number overflows, NaN stays NaN.
static void test_bf16_rounding(void) {
    const struct {
        uint32_t fp32, bf16;
    } cases[] = {
        {0x00000000, 0x0000}, {0x80000000, 0x8000}, {0x3f800000, 0x3f80}, {0x3f808000, 0x3f80},
        {0x3f808001, 0x3f81}, {0x3f818000, 0x3f82}, {0xbf817fff, 0xbf81}, {0x7f7fffff, 0x7f80},
        {0x7f800000, 0x7f80}, {0xff800000, 0xff80}, {0x7f800001, 0x7fc0}, {0xffffffff, 0xffff},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        float x;
        memcpy(&x, &cases[i].fp32, sizeof x);
        CHECK(gemm_round_to_bf16(x) == cases[i].bf16);
    }
}

static void test_products(GemmType type) {
    test_values(type);
    test_empty(type);
    test_nan(type);
    test_same_bits(type);
    test_parallel_region(type);
}

int main(void) {
    test_products(GEMM_FP32);
    test_bf16_rounding();
    if (GEMM_HAS_BF16) {
        printf("bf16 factors\n");
        test_products(GEMM_BF16);
    } else {
        printf("skipped: products of bf16 (not built for a processor with AVX512-BF16)\n");
    }
    return check_report();
}
