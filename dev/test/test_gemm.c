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
    Matrix A, B, B_floats;      // B_floats has the elements of B in fp32
    float *a, *b, *c, *before;  // c (M, ldc) is the result, `before` its content before the product
    uint16_t *halves;           // the elements of b if B is bf16
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
    Matrix whole = matrix_of(data, columns, 1), turned = matrix_of(data, 1, rows);
    return transposed ? turned : whole;
}

// The factor that the product takes: with GEMM_BF16, the nearest number of 8 significant bits.
static double element(Matrix m, size_t r, size_t c, GemmType type) {
    const double x = (double)((const float *)m.data)[r * m.row_stride + c * m.column_stride];
    int exponent;
    const double mantissa = frexp(x, &exponent);
    return type == GEMM_BF16 ? ldexp(nearbyint(ldexp(mantissa, 8)), exponent - 8) : x;
}

// All data begin one element after the start of their allocation, where no vector is aligned. If `bf16`, B is.
static Product product_new(Layout layout, size_t M, size_t N, size_t K, GemmType type, bool bf16) {
    Product p;
    p.type = type;
    p.M = M;
    p.N = N;
    p.K = K;
    p.ldc = N + M % 3;
    const size_t spread = layout == SPREAD ? 6 : 1;
    p.a = random_floats(M * K * spread + 1);
    p.b = random_floats(K * N * spread + 1);
    p.halves = (uint16_t *)malloc((K * N * spread + 1) * sizeof(uint16_t));
    for (size_t i = 0; bf16 && i < K * N * spread + 1; i++) {
        p.halves[i] = (uint16_t)gemm_round_to_bf16(p.b[i]);
        p.b[i] = gemm_element(p.halves, i, true);
    }
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
    p.B_floats = p.B;
    if (bf16) {
        p.B.data = p.halves + 1;
        p.B.bf16 = true;
    }
    p.sum = (double *)calloc(M * N, sizeof(double));
    p.size = (double *)calloc(M * N, sizeof(double));
    double *row = (double *)calloc(N, sizeof(double));
    for (size_t k = 0; k < K; k++) {
        for (size_t j = 0; j < N; j++) { row[j] = element(p.B_floats, k, j, type); }
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
    free(p->halves);
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

// ---------------------------------------------------------------------------------------------
// the tests

static void test_values(GemmType type, bool bf16) {
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
        for (size_t n = 0; n < fixed + 60; n++) {
            const size_t M = n < fixed ? sizes[n][0] : random_size(1, 70);
            const size_t N = n < fixed ? sizes[n][1] : random_size(1, 70);
            const size_t K = n < fixed ? sizes[n][2] : random_size(0, 70);
            Product p = product_new((Layout)layout, M, N, K, type, bf16);
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

static void test_empty(GemmType type, bool bf16) {
    float c[2] = {1.0f, 2.0f}, x = 3.0f;
    const Matrix any = matrix_of(&x, 1, 1), b = {&x, 1, 1, bf16};
    gemm(c, 1, any, b, 0, 1, 1, false, type);
    gemm(c, 1, any, b, 1, 0, 1, false, type);
    CHECK(c[0] == 1.0f && c[1] == 2.0f);
    gemm(c, 1, any, b, 1, 1, 0, true, type);
    CHECK(c[0] == 1.0f);
    gemm(c, 1, any, b, 1, 1, 0, false, type);
    CHECK(c[0] == 0.0f && c[1] == 2.0f);
}

// A NaN of A stays in its row, and C's old content is not read unless the product accumulates.
static void test_nan(GemmType type, bool bf16) {
    Product p = product_new(FORWARD, 20, 50, 30, type, bf16);
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

// c = or += the product of `rows` rows of A, from row `first` on, with B, which may be another than p->B.
static void run_rows(const Product *p, Gemm function, float *c, size_t first, size_t rows, Matrix B,
                     bool accumulate) {
    memcpy(c, p->before, (p->M * p->ldc + 1) * sizeof(float));
    function(c + 1 + first * p->ldc, p->ldc, matrix_from(p->A, first, 0), B, rows, p->N, p->K, accumulate,
             p->type);
}

// Whether rows [first, first + rows) of c have the bits of `whole`, and all other rows are those of `before`.
static bool rows_agree(const Product *p, const float *c, const float *whole, size_t first, size_t rows) {
    const size_t begin = 1 + first * p->ldc, end = begin + rows * p->ldc, all = 1 + p->M * p->ldc;
    return memcmp(c, p->before, begin * sizeof(float)) == 0 &&
           memcmp(c + begin, whole + begin, (end - begin) * sizeof(float)) == 0 &&
           memcmp(c + end, p->before + end, (all - end) * sizeof(float)) == 0;
}

#ifdef SANITIZED
enum { ROWS_STEP = 3, MOST_ROWS = 52, MOST_THREADS = 2 };  // it takes ten times as long
#else
enum { ROWS_STEP = 1, MOST_ROWS = 52, MOST_THREADS = 4 };
#endif

// An element of C has the same bits whatever the number of threads, whatever is beside it, and whether B is
// bf16 or the same numbers in fp32.
static void test_same_bits(GemmType type, bool bf16) {
    // N: less than a vector, vectors and a rest. K: one block, the borders of blocks, blocks of odd sizes, more
    // than gemm_rows.h packs at once.
    const size_t sizes[][3] = {
        {400, 100, 250}, {400, 33, 257}, {400, 16, 512},  {400, 7, 31},   {41, 530, 300},
        {41, 48, 1},     {41, 1030, 70}, {41, 129, 1001}, {130, 96, 513}, {9, 20, 9001},
    };
    const int threads = (int)thread_count();
    for (size_t n = 0; n < sizeof sizes / sizeof sizes[0]; n++) {
        for (int layout = 0; layout < LAYOUTS; layout++) {
            Product p = product_new((Layout)layout, sizes[n][0], sizes[n][1], sizes[n][2], type, bf16);
            float *whole = random_floats(p.M * p.ldc + 1);
            for (int accumulate = 0; accumulate < 2; accumulate++) {
                run_rows(&p, gemm_serial, whole, 0, p.M, p.B_floats, accumulate != 0);
                bool threads_agree = true, parts_agree = true;
                for (int t = 1; t <= MOST_THREADS; t++) {
                    set_threads(t);
                    run_rows(&p, gemm, p.c, 0, p.M, p.B, accumulate != 0);
                    threads_agree = threads_agree && rows_agree(&p, p.c, whole, 0, p.M);
                }
                CHECK(threads_agree);
                for (size_t rows = 1; rows <= MOST_ROWS && rows <= p.M; rows += ROWS_STEP) {
                    const size_t first = rows * 7919 % (p.M - rows + 1);
                    set_threads(1 + (int)(rows % 2));
                    run_rows(&p, gemm, p.c, first, rows, p.B, accumulate != 0);
                    parts_agree = parts_agree && rows_agree(&p, p.c, whole, first, rows);
                    run_rows(&p, gemm_serial, p.c, first, rows, p.B, accumulate != 0);
                    parts_agree = parts_agree && rows_agree(&p, p.c, whole, first, rows);
                }
                CHECK(parts_agree);
            }
            free(whole);
            product_free(&p);
        }
    }
    set_threads(threads);
}

// Weights may lie at any address, as in a file.
static void test_any_address(bool bf16) {
    Product p = product_new(FORWARD, 20, 70, 600, GEMM_FP32, bf16);
    const size_t bytes = p.N * p.K * (bf16 ? sizeof(uint16_t) : sizeof(float));
    char *elsewhere = (char *)malloc(bytes + 64);
    float *expected = random_floats(p.M * p.ldc + 1);
    for (size_t rows = 1; rows <= p.M; rows += 19) {
        run_rows(&p, gemm, expected, 0, rows, p.B, false);
        bool same = true;
        for (size_t shift = 0; shift < 64; shift++) {
            memcpy(elsewhere + shift, p.B.data, bytes);
            const Matrix moved = {elsewhere + shift, p.B.row_stride, p.B.column_stride, bf16};
            run_rows(&p, gemm, p.c, 0, rows, moved, false);
            same = same && rows_agree(&p, p.c, expected, 0, rows);
        }
        CHECK(same);
    }
    free(elsewhere);
    free(expected);
    product_free(&p);
}

// bf16 are the upper halves of floats: all of them, NaN and denormal numbers too.
static void test_bf16_elements(void) {
    uint16_t halves[1 << 16];
    bool exact = true;
    for (uint32_t i = 0; i < 1 << 16; i++) { halves[i] = (uint16_t)i; }
    for (uint32_t i = 0; i < 1 << 16; i++) {
        const float x = gemm_element(halves, i, true);
        uint32_t bits;
        memcpy(&bits, &x, sizeof bits);
        exact = exact && bits == i << 16;
    }
    CHECK(exact);
}

// Many small products at once, one per thread, as in attention.
static void test_parallel_region(GemmType type, bool bf16) {
    enum { PRODUCTS = 40 };
    Product p[PRODUCTS];
    double error[PRODUCTS];
    for (size_t n = 0; n < PRODUCTS; n++) {
        p[n] = product_new((Layout)(n % LAYOUTS), random_size(1, 70), random_size(1, 300),
                           random_size(1, 300), type, bf16);
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

static void test_products(GemmType type, bool bf16) {
    printf("%s factors, B in %s\n", type == GEMM_BF16 ? "bf16" : "fp32", bf16 ? "bf16" : "fp32");
    test_values(type, bf16);
    test_empty(type, bf16);
    test_nan(type, bf16);
    test_same_bits(type, bf16);
    test_parallel_region(type, bf16);
}

int main(void) {
    for (int bf16 = 0; bf16 < 2; bf16++) {
        test_products(GEMM_FP32, bf16 != 0);
        if (GEMM_HAS_BF16) {
            test_products(GEMM_BF16, bf16 != 0);
        } else {
            printf("skipped: products of bf16 (not built for a processor with AVX512-BF16)\n");
        }
        test_any_address(bf16 != 0);
    }
    test_bf16_elements();
    test_bf16_rounding();
    return check_report();
}
