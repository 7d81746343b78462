// test_gradients.c: every layer's backward, and the whole model's, against finite differences in double.
//
// The source of train_olmo2.c is compiled with `float` meaning `double`. For a function y(x) and a
// random direction r of its outputs, the scalar f(x) = sum r y has the gradient that the backward returns for
// dy = r, and
//   (f(x + h e_i) - f(x - h e_i)) / 2h  =  df/dx_i + O(h^2) + O(1e-16 |f| / h).
// With h = 1e-5 both errors are near 1e-10 of the largest gradient. TOLERANCE leaves room for sums of
// thousands of terms. A wrong term in a backward shows as 1e-3 or more.
#include "check.h"
#include "llmc/utils.h"
#ifdef _OPENMP
#include <omp.h>
#endif
#define LLMC_EXPONENTIAL_H  // which builds the bits of a float; the library's exp does for a double
static inline double exponential(double x) { return exp(x); }
#undef __AVX512BF16__                     // whose products are of floats
#pragma GCC diagnostic ignored "-Wpsabi"  // a vector of doubles may be wider than a register
#define float double
#define sqrtf sqrt
#define logf log
#define powf pow
#define cosf cos
#define sinf sin
#define LLMC_MAIN_H  // the backend without the program
#include "train_olmo2.c"

#define STEP 1e-5
#define TOLERANCE 1e-7

// ---------------------------------------------------------------------------------------------
// random arrays, freed together at the end of a test

enum { MAX_ARRAYS = 64 };
static double *arrays[MAX_ARRAYS];
static int array_count;
static uint64_t random_state = 1;

static double random_number(void) {  // in [-1, 1)
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (double)(random_state >> 11) / 4503599627370496.0 - 1.0;
}

static double *zeros(size_t size) {
    double *x = (double *)calloc(size, sizeof *x);
    if (x == NULL || array_count == MAX_ARRAYS) { abort(); }
    return arrays[array_count++] = x;
}

static double *randoms(size_t size, double center, double spread) {
    double *x = zeros(size);
    for (size_t i = 0; i < size; i++) { x[i] = center + spread * random_number(); }
    return x;
}

static void free_arrays(void) {
    while (array_count > 0) { free(arrays[--array_count]); }
}

static double weighted_sum(const double *r, const double *y, size_t size) {
    double sum = 0.0;
    for (size_t i = 0; i < size; i++) { sum += r[i] * y[i]; }
    return sum;
}

// ---------------------------------------------------------------------------------------------
// compares the slope of f(context) at x (size) with gradient (size), in at most 200 evenly spaced entries

static void check_gradient(const char *name, double (*f)(void *), void *context, double *x,
                           const double *gradient, size_t size) {
    double error = 0.0, largest = 0.0;
    const size_t stride = size / 200 + 1;
    for (size_t i = 0; i < size; i += stride) {
        const double kept = x[i];
        x[i] = kept + STEP;
        const double above = f(context);
        x[i] = kept - STEP;
        const double below = f(context);
        x[i] = kept;
        const double difference = fabs((above - below) / (2.0 * STEP) - gradient[i]);
        error = isnan(error) || difference <= error ? error : difference;  // keeps NaN
        largest = fmax(largest, fabs(gradient[i]));
    }
    const bool ok = error <= TOLERANCE * largest && largest > 0.0;
    printf("%-42s %9.2e of the largest, allowed %.0e  %s\n", name, error / largest, TOLERANCE,
           ok ? "ok" : "WRONG");
    check_at(ok, name, __FILE__, __LINE__);
}

// ---------------------------------------------------------------------------------------------
// the layers

typedef struct {
    double *x, *w, *y, *rstd, *r;
    uint32_t *tokens;
    size_t *positions;
    size_t N, C, B, T, NH, NKV, HS;
    double *rope, *k, *v, *lse, *scores;
    QueryTile tiles[6];
    size_t tile_count;
} Layer;

static double embedding_objective(void *context) {
    Layer *s = (Layer *)context;
    embedding_forward(s->y, (Weight){s->w, false}, s->tokens, s->N, s->C);
    return weighted_sum(s->r, s->y, s->N * s->C);
}

static void test_embedding(void) {
    uint32_t tokens[] = {3, 0, 3, 6, 3};
    Layer s = {.N = 5, .C = 19, .tokens = tokens};
    s.w = randoms(7 * s.C, 0.0, 1.0), s.y = zeros(s.N * s.C), s.r = randoms(s.N * s.C, 0.0, 1.0);
    double *dw = zeros(7 * s.C);
    embedding_backward(dw, s.r, tokens, s.N, s.C);
    check_gradient("embedding: table", embedding_objective, &s, s.w, dw, 7 * s.C);
    free_arrays();
}

static double rmsnorm_objective(void *context) {
    Layer *s = (Layer *)context;
    rmsnorm_forward(s->y, s->rstd, s->x, s->w, s->N, s->C, 1e-2);
    return weighted_sum(s->r, s->y, s->N * s->C);
}

static double rmsnorm_residual_objective(void *context) {
    Layer *s = (Layer *)context;
    rmsnorm_residual_forward(s->y, s->rstd, s->v, s->x, s->w, s->N, s->C, 1e-2);
    return weighted_sum(s->r, s->y, s->N * s->C);
}

static void test_rmsnorm(void) {
    Layer s = {.N = 5, .C = 37};
    const size_t size = s.N * s.C;
    s.x = randoms(size, 0.0, 0.2), s.w = randoms(s.C, 1.0, 0.5), s.v = randoms(size, 0.0, 1.0);
    s.y = zeros(size), s.rstd = zeros(s.N), s.r = randoms(size, 0.0, 1.0);
    double *dx = zeros(size), *dw = zeros(s.C);
    rmsnorm_objective(&s);
    rmsnorm_backward(dx, dw, s.r, s.x, s.w, s.rstd, s.N, s.C);
    check_gradient("rmsnorm: x", rmsnorm_objective, &s, s.x, dx, size);
    check_gradient("rmsnorm: w", rmsnorm_objective, &s, s.w, dw, s.C);
    memset(dw, 0, s.C * sizeof *dw);
    rmsnorm_residual_objective(&s);
    rmsnorm_residual_backward(dx, dw, s.r, s.x, s.w, s.rstd, s.N, s.C);
    check_gradient("rmsnorm_residual: branch", rmsnorm_residual_objective, &s, s.x, dx, size);
    check_gradient("rmsnorm_residual: w", rmsnorm_residual_objective, &s, s.w, dw, s.C);
    check_gradient("rmsnorm_residual: residual", rmsnorm_residual_objective, &s, s.v, s.r, size);
    free_arrays();
}

static double matmul_objective(void *context) {
    Layer *s = (Layer *)context;
    matmul_forward(s->y, s->x, (Weight){s->w, false}, s->N, s->C, s->T);
    return weighted_sum(s->r, s->y, s->N * s->T);
}

static void test_matmul(void) {
    Layer s = {.N = 9, .C = 21, .T = 35};  // T is the number of outputs
    s.x = randoms(s.N * s.C, 0.0, 1.0), s.w = randoms(s.T * s.C, 0.0, 1.0);
    s.y = zeros(s.N * s.T), s.r = randoms(s.N * s.T, 0.0, 1.0);
    double *dx = zeros(s.N * s.C), *dw = zeros(s.T * s.C);
    matmul_backward(dx, dw, s.r, s.x, (Weight){s.w, false}, s.N, s.C, s.T, false);
    check_gradient("matmul: x", matmul_objective, &s, s.x, dx, s.N * s.C);
    check_gradient("matmul: w", matmul_objective, &s, s.w, dw, s.T * s.C);
    free_arrays();
}

static double qknorm_rope_objective(void *context) {
    Layer *s = (Layer *)context;
    qknorm_rope_forward(s->y, s->rstd, s->x, s->w, s->rope, s->positions, s->N, s->NH, s->HS, 1e-2);
    return weighted_sum(s->r, s->y, s->N * s->C);
}

static void test_qknorm_rope(void) {
    size_t positions[] = {0, 1, 2, 3, 4, 0, 4, 7, 1, 1};
    Layer s = {.N = 10, .NH = 3, .HS = 14, .positions = positions};
    s.C = s.NH * s.HS;
    const size_t size = s.N * s.C;
    s.x = randoms(size, 0.0, 0.2), s.w = randoms(s.C, 1.0, 0.5), s.rope = zeros(8 * s.HS);
    rope_table(s.rope, 8, s.HS, 500000.0);
    s.y = zeros(size), s.rstd = zeros(s.N), s.r = randoms(size, 0.0, 1.0);
    double *dx = zeros(size), *dw = zeros(s.C), *dy = zeros(size);
    memcpy(dy, s.r, size * sizeof *dy);  // the backward rotates it in place
    qknorm_rope_objective(&s);
    qknorm_rope_backward(dx, dw, dy, s.x, s.w, s.rstd, s.rope, positions, s.N, s.NH, s.HS);
    check_gradient("qknorm_rope: x", qknorm_rope_objective, &s, s.x, dx, size);
    check_gradient("qknorm_rope: w", qknorm_rope_objective, &s, s.w, dw, s.C);
    free_arrays();
}

static double attention_objective(void *context) {
    Layer *s = (Layer *)context;
    const size_t KV = s->NKV * s->HS;
    const Past past = {s->k, s->v, s->T * KV, s->HS, KV};
    attention_forward(s->y, s->lse, s->x, past, s->tiles, s->tile_count, s->scores, s->NH, s->NKV, s->HS);
    return weighted_sum(s->r, s->y, s->B * s->T * s->NH * s->HS);
}

static void test_attention(size_t B, size_t T, size_t NH, size_t NKV, size_t HS) {
    Layer s = {.B = B, .T = T, .NH = NH, .NKV = NKV, .HS = HS};
    const size_t queries = B * T * NH * HS, keys = B * T * NKV * HS;
    s.x = randoms(queries, 0.0, 1.0), s.k = randoms(keys, 0.0, 1.0), s.v = randoms(keys, 0.0, 1.0);
    s.y = zeros(queries), s.lse = zeros(B * NH * T), s.r = randoms(queries, 0.0, 1.0);
    s.scores = zeros(thread_count() * attention_tile_size(T));
    for (size_t b = 0; b < B; b++) {
        for (size_t t = 0; t < T; t += QUERIES) {
            const size_t count = T - t < QUERIES ? T - t : QUERIES;
            s.tiles[s.tile_count++] = (QueryTile){b, b * T + t, t, count};
        }
    }
    double *dq = randoms(queries, 0.0, 1.0), *dk = randoms(keys, 0.0, 1.0), *dv = randoms(keys, 0.0, 1.0);
    attention_objective(&s);
    attention_backward(dq, dk, dv, s.r, s.x, s.k, s.v, s.y, s.lse, s.scores, B, T, NH, NKV, HS);
    char name[64];
    const char *parts[] = {"q", "k", "v"};
    double *values[] = {s.x, s.k, s.v}, *gradients[] = {dq, dk, dv};
    // With T = 1 the only key gets all the attention, so the gradients of q and k are zero up to rounding.
    for (size_t i = 0; T == 1 && i < queries; i++) { CHECK(fabs(dq[i]) <= 1e-14); }
    for (size_t i = 0; T == 1 && i < keys; i++) { CHECK(fabs(dk[i]) <= 1e-14); }
    for (int i = T == 1 ? 2 : 0; i < 3; i++) {
        snprintf(name, sizeof name, "attention T %zu NH %zu NKV %zu HS %zu: %s", T, NH, NKV, HS, parts[i]);
        check_gradient(name, attention_objective, &s, values[i], gradients[i], i == 0 ? queries : keys);
    }
    free_arrays();
}

static double swiglu_objective(void *context) {
    Layer *s = (Layer *)context;
    swiglu_forward(s->y, s->x, s->w, s->N, s->C);
    return weighted_sum(s->r, s->y, s->N * s->C);
}

static void test_swiglu(void) {
    Layer s = {.N = 4, .C = 23};
    const size_t size = s.N * s.C;
    s.x = randoms(size, 0.0, 3.0), s.w = randoms(size, 0.0, 1.0), s.y = zeros(size),
    s.r = randoms(size, 0.0, 1.0);
    double *dgate = zeros(size), *dup = zeros(size);
    swiglu_backward(dgate, dup, s.r, s.x, s.w, s.N, s.C);
    check_gradient("swiglu: gate", swiglu_objective, &s, s.x, dgate, size);
    check_gradient("swiglu: up", swiglu_objective, &s, s.w, dup, size);
    free_arrays();
}

static double classifier_objective(void *context) {
    Layer *s = (Layer *)context;
    classifier_forward(s->y, s->lse, s->x, s->tokens, s->N, s->C);
    double sum = 0.0;
    for (size_t n = 0; n < s->N; n++) { sum += s->w[n] * (-s->y[n] + 1e-2 * s->lse[n] * s->lse[n]); }
    return sum;
}

static void test_classifier(void) {
    uint32_t labels[] = {3, 300, OLMO2_NO_TOKEN, 0};
    Layer s = {.N = 4, .C = 301, .tokens = labels};
    s.x = randoms(s.N * s.C, 0.0, 3.0), s.w = randoms(s.N, 1.0, 0.5), s.y = zeros(s.N), s.lse = zeros(s.N);
    s.w[2] = 0.0;
    double *dlogits = zeros(s.N * s.C);
    classifier_objective(&s);
    memcpy(dlogits, s.x, s.N * s.C * sizeof *dlogits);
    classifier_backward(dlogits, s.lse, labels, s.w, 1e-2, s.N, s.C);
    check_gradient("classifier: logits", classifier_objective, &s, s.x, dlogits, s.N * s.C);
    free_arrays();
}

// ---------------------------------------------------------------------------------------------
// the whole model

typedef struct {
    OLMo2 *m;
    uint32_t *tokens, *labels;
    double *weights, *logprobs, *lse;
    size_t B, T;
} Whole;

static double model_objective(void *context) {
    Whole *s = (Whole *)context;
    olmo2_forward(s->m, s->tokens, s->B, s->T);
    olmo2_classify(s->m, s->labels, NULL, 0.0, s->logprobs, s->lse);
    double sum = 0.0;
    for (size_t n = 0; n < s->B * s->T; n++) {
        sum += s->weights[n] * (-s->logprobs[n] + 1e-3 * s->lse[n] * s->lse[n]);
    }
    return sum;
}

static void test_model(const char *study, bool ablate_qk_norm, bool pre_norm) {
    const OLMo2Config config = {.C = 10,
                                .L = 2,
                                .NH = 4,
                                .NKV = 2,
                                .HS = 6,
                                .F = 14,
                                .V = 31,
                                .max_T = 8,
                                .rms_eps = 1e-3,
                                .rope_theta = 10000.0,
                                .ablate_qk_norm = ablate_qk_norm,
                                .pre_norm = pre_norm};
    const OLMo2Room room = olmo2_room_to_train(2, 7);
    const OLMo2Form form = olmo2_form();
    enum { N = 14 };
    uint32_t tokens[N], labels[N];
    Error err = {{0}};
    Whole s = {.tokens = tokens, .labels = labels, .B = 2, .T = 7};
    if (!CHECK(olmo2_create(&s.m, &config, &room, &form, &err))) { return; }
    s.weights = randoms(N, 0.2, 0.1), s.logprobs = zeros(N), s.lse = zeros(N);
    for (size_t n = 0; n < N; n++) {
        tokens[n] = (uint32_t)((n * n * 7 + 3) % config.V);
        labels[n] = (uint32_t)((n * 5 + 1) % config.V);
    }
    labels[4] = OLMO2_NO_TOKEN;
    s.weights[4] = 0.0;
    for (size_t i = 0; i < parameter_count(&config); i++) {
        const Parameter p = parameter_at(&config, i);
        for (size_t k = 0; k < p.size; k++) {
            s.m->weights[p.offset + k] = (p.row->init == INIT_ONE ? 1.0 : 0.0) + 0.4 * random_number();
        }
    }
    model_objective(&s);
    olmo2_zero_gradients(s.m);
    olmo2_classify(s.m, labels, s.weights, 1e-3, s.logprobs, s.lse);
    olmo2_backward(s.m);
    for (size_t i = 0; i < parameter_count(&config); i++) {
        const Parameter p = parameter_at(&config, i);
        const bool unused = ablate_qk_norm && (p.row->id == Q_NORM || p.row->id == K_NORM);
        if (unused) { continue; }
        char name[160];
        snprintf(name, sizeof name, "%s: %s", study, p.name);
        check_gradient(name, model_objective, &s, s.m->weights + p.offset, s.m->gradients + p.offset, p.size);
    }
    olmo2_free(s.m);
    free_arrays();
}

int main(void) {
#ifdef _OPENMP
    omp_set_num_threads(1);  // the layers are tiny: more threads would only wait for each other
#endif
    test_embedding();
    test_rmsnorm();
    test_matmul();
    test_qknorm_rope();
    test_attention(2, 5, 4, 2, 6);
    test_attention(1, 70, 2, 2, 4);  // more than one tile of queries
    test_attention(1, 131, 3, 1, 10);
    test_attention(2, 1, 2, 1, 8);
    test_swiglu();
    test_classifier();
    test_model("OLMo 2", false, false);
    test_model("without QK-norm", true, false);
    test_model("pre-norm", false, true);
    test_model("pre-norm without QK-norm", true, true);
    return check_report();
}
