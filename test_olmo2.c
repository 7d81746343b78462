// test_olmo2.c: compares a backend with PyTorch, tensor by tensor.
//
// dev/reference/dump.py computed two small models in float64 and stored every number: activations, gradients,
// and ten AdamW steps. Here the same numbers come from train_olmo2.c or, where BACKEND names it, from
// train_olmo2.cu. An fp32 tensor passes when
//     max |got - reference| <= tolerance * max |reference|
// and a bf16 tensor when
//     ||got - reference|| <= tolerance * ||reference||  and the cosine of the two is >= 1 - tolerance^2 / 2.
// Both are written so that NaN fails. A tensor of zeros fails where the reference is not zero. The reference
// itself must be finite and not all zeros. The exit code is the verdict.
//
//     build/test_olmo2 [-v] [DUMP...]      -v prints every tensor, otherwise the worst of each kind
#include "llmc/safetensors.h"
#include "llmc/objectives.h"
#include "llmc/schedule.h"
#define LLMC_MAIN_H  // the backend without the program
#ifdef BACKEND
#include BACKEND
#include "dev/test/cuda_layers.cuh"
#else
#include "train_olmo2.c"
#include "dev/test/cpu_layers.h"
#endif

// ---------------------------------------------------------------------------------------------
// tolerances, one for each kind of tensor
//
// fp32 has a relative rounding error of u = 6e-8. A sum of n terms of size s, in lanes, errs by about
// sqrt(n) u s. The largest sums here have a hundred terms, so a layer errs by a few 1e-7 of its largest
// value.
//
// bf16 has a relative rounding error of u = 2e-3 (half of 2^-8), and every weight and activation is rounded.
// dev/reference/bf16_floor.py measures the error that bf16 storage causes with exact arithmetic, the floor.
// The tolerance is at most 1.5 times that, to allow another summation order. (The floor is that of the worse
// dump.)

typedef enum { ACTIVATION, LOSS, LAYER_GRADIENT, GRADIENT, AFTER_1, AFTER_10, KINDS } Kind;

// clang-format off
static const struct { const char *name; double fp32, bf16; const char *why; } kinds[] = {
    { "activations",                  1e-5, 2e-2,       // floor 1.8e-2
      "two layers, each dozens of u, grown by norms of small rows" },
    { "losses, logprobs, norms, lr",  1e-5, 1e-2,       // floor 9.3e-3
      "sums of the above, in double" },
    { "gradients of one layer",       1e-5, 1.7e-2,     // floor 1.1e-2
      "one backward from exact inputs: sums of a hundred products" },
    { "gradients of the whole model", 1e-4, 5e-2,       // floor 3.3e-2
      "the forward's errors, again through two layers of backward" },
    { "parameters after 1 step",      1e-4, 5e-3,       // floor 3.4e-3
      "the first step is lr g / (|g| + eps): errors of small g count" },
    { "parameters after 10 steps",    1e-4, 2.2e-2,     // floor 1.5e-2
      "ten of these, each from slightly different parameters" },
};
// clang-format on
static_assert(sizeof kinds / sizeof kinds[0] == KINDS, "one row for each kind");

// ---------------------------------------------------------------------------------------------
// the comparator

typedef struct {
    double reached;  // the error over the reference's size, as above; NaN if either is not finite
    bool ok;
} Comparison;

static Comparison compare(const float *got, const float *reference, size_t size, double tolerance) {
    Comparison c = {NAN, false};
    double error = 0.0, largest = 0.0, largest_got = 0.0;
    for (size_t i = 0; i < size; i++) {
        if (!isfinite(got[i]) || !isfinite(reference[i])) { return c; }
        error = fmax(error, fabs((double)got[i] - (double)reference[i]));
        largest = fmax(largest, fabs((double)reference[i]));
        largest_got = fmax(largest_got, fabs((double)got[i]));
    }
    const bool something = size > 0 && largest > 0.0 && largest_got > 0.0;
    c.reached = error / largest;
    c.ok = something && error <= tolerance * largest;
    return c;
}

static Comparison compare_by_norm(const float *got, const float *reference, size_t size, double tolerance) {
    Comparison c = {NAN, false};
    double error = 0.0, squares = 0.0, squares_got = 0.0, product = 0.0;
    for (size_t i = 0; i < size; i++) {
        if (!isfinite(got[i]) || !isfinite(reference[i])) { return c; }
        const double g = (double)got[i], r = (double)reference[i];
        error += (g - r) * (g - r);
        squares += r * r;
        squares_got += g * g;
        product += g * r;
    }
    const bool something = size > 0 && squares > 0.0 && squares_got > 0.0;
    c.reached = sqrt(error / squares);
    c.ok = something && c.reached <= tolerance &&
           product >= (1.0 - 0.5 * tolerance * tolerance) * sqrt(squares) * sqrt(squares_got);
    return c;
}

// A comparator that lets anything through would make every line below green, so it is tested first.
static bool comparator_works(void) {
    enum { SIZE = 64 };
    float reference[SIZE], got[SIZE];
    for (int i = 0; i < SIZE; i++) { got[i] = reference[i] = sinf((float)i + 1.0f); }
    bool works = compare(got, reference, SIZE, 1e-5).ok;
    const float spoilers[] = {NAN, INFINITY, -INFINITY, 0.9f};
    for (size_t k = 0; k < sizeof spoilers / sizeof spoilers[0]; k++) {
        const float kept = got[SIZE - 1];
        got[SIZE - 1] = spoilers[k];
        works &= !compare(got, reference, SIZE, 1e-5).ok;
        works &= !compare(reference, got, SIZE, 1e-5).ok;
        got[SIZE - 1] = kept;
    }
    memset(got, 0, sizeof got);  // all zeros, against a reference that is not, even within a wide tolerance
    works &= !compare(got, reference, SIZE, 1e-5).ok && !compare(got, reference, SIZE, 2.0).ok;
    works &= !compare(got, got, SIZE, 1e-5).ok && !compare(got, got, 0, 1e-5).ok;
    works &= !compare(reference + 1, reference, SIZE - 1, 1e-5).ok;  // shifted by one
    for (int i = 0; i < SIZE; i++) { got[i] = reference[i] * (1.0f + 2e-5f); }
    works &= !compare(got, reference, SIZE, 1e-5).ok && compare(got, reference, SIZE, 1e-4).ok;
    for (int i = 0; i < SIZE; i++) { got[i] = reference[i] * (i % 2 == 0 ? 0.99f : 1.01f); }
    works &=
        compare_by_norm(got, reference, SIZE, 2e-2).ok && !compare_by_norm(got, reference, SIZE, 9e-3).ok;
    for (int i = 0; i < SIZE; i++) { got[i] = reference[i] * (i % 2 == 0 ? 0.98f : 1.02f); }
    works &=
        !compare_by_norm(got, reference, SIZE, 1.9e-2).ok && compare_by_norm(got, reference, SIZE, 2.1e-2).ok;
    got[3] = NAN;
    works &= !compare_by_norm(got, reference, SIZE, 1.0).ok && !compare_by_norm(reference, got, SIZE, 1.0).ok;
    memset(got, 0, sizeof got);
    works &= !compare_by_norm(got, reference, SIZE, 2.0).ok && !compare_by_norm(got, got, SIZE, 2.0).ok;
    return works;
}

// ---------------------------------------------------------------------------------------------
// the report

static int passed, failed;
static bool verbose;
static struct {
    double reached;
    char name[128];
    int count;
} worst[KINDS];

static double tolerance(Kind kind) { return BACKEND_IS_BF16 ? kinds[kind].bf16 : kinds[kind].fp32; }

static void report(Kind kind, const char *name, const float *got, const float *reference, size_t size) {
    const Comparison c = BACKEND_IS_BF16 ? compare_by_norm(got, reference, size, tolerance(kind))
                                         : compare(got, reference, size, tolerance(kind));
    passed += c.ok;
    failed += !c.ok;
    if (verbose || !c.ok) {
        printf("%-60s reached %8.1e  allowed %.1e  %s\n", name, c.reached, tolerance(kind),
               c.ok ? "ok" : "WRONG");
    }
    worst[kind].count++;
    if (!(c.reached <= worst[kind].reached)) {
        worst[kind].reached = c.reached;
        snprintf(worst[kind].name, sizeof worst[kind].name, "%s", name);
    }
}

static void must(bool ok, const char *what) {
    passed += ok;
    failed += !ok;
    if (verbose || !ok) { printf("%-60s %s\n", what, ok ? "ok" : "WRONG"); }
}

// ---------------------------------------------------------------------------------------------
// one dump: the file, the model built from it, and buffers for its largest tensor

typedef struct {
    const char *path;
    Safetensors file;
    OLMo2Config config;
    OLMo2 *m;
    size_t B, T, N;
    float z;
} Dump;

__attribute__((noreturn)) static void stop(const char *message) {
    fprintf(stderr, "error: %s\n", message);
    exit(1);
}

static const SafetensorsTensor *tensor(const Dump *d, const char *name) {
    const SafetensorsTensor *t = safetensors_find(&d->file, name);
    if (t == NULL) {
        fprintf(stderr,
                "error: %s: no tensor \"%s\"\n       Make the dumps again with dev/reference/dump.py.\n",
                d->path, name);
        exit(1);
    }
    return t;
}

// The numbers of a tensor. The caller frees them.
static float *floats(const Dump *d, const char *name, size_t *size) {
    const SafetensorsTensor *t = tensor(d, name);
    Error err;
    float *values = (float *)malloc((t->count + 1) * sizeof(float));
    if (values == NULL || !safetensors_to_float(t, values, &err)) { stop(err.text); }
    if (size != NULL) { *size = t->count; }
    return values;
}

static float number(const Dump *d, const char *name, size_t index) {
    size_t size;
    float *values = floats(d, name, &size), value = index < size ? values[index] : NAN;
    free(values);
    return value;
}

// A copy of a tensor of integers, because they are not aligned in the file.
static void *integers(const Dump *d, const char *name) {
    const SafetensorsTensor *t = tensor(d, name);
    void *values = malloc(t->bytes + 1);
    if (values == NULL) { stop("out of memory"); }
    return memcpy(values, t->data, t->bytes);
}

static int64_t integer(const Dump *d, const char *name) {
    int64_t *values = (int64_t *)integers(d, name), value = values[0];
    free(values);
    return value;
}

// Compares got (size) with the tensor of that name, which must have the same size.
static void check(const Dump *d, Kind kind, const char *name, const float *got, size_t size) {
    size_t reference_size;
    float *reference = floats(d, name, &reference_size);
    if (reference_size != size) { must(false, name); }
    if (reference_size == size) { report(kind, name, got, reference, size); }
    free(reference);
}

// The same for an array of the backend.
static void check_real(const Dump *d, Kind kind, const char *name, const Real *got, size_t size) {
    float *values = (float *)malloc(size * sizeof(float));
    if (values == NULL) { stop("out of memory"); }
    get_real(values, got, size);
    check(d, kind, name, values, size);
    free(values);
}

// A tensor as an array of the backend. The caller releases it.
static Real *real_floats(const Dump *d, const char *name) {
    size_t size;
    float *values = floats(d, name, &size);
    Real *array = put_real(values, size);
    free(values);
    return array;
}

// Writes the name "PREFIXlayers.L.NAME" into the buffer.
static const char *in_layer(char buffer[128], const char *prefix, size_t l, const char *name) {
    snprintf(buffer, 128, "%slayers.%zu.%s", prefix, l, name);
    return buffer;
}

static void write_parameters(const Dump *d) {
    for (size_t i = 0; i < parameter_count(&d->config); i++) {
        char name[128];
        snprintf(name, sizeof name, "parameter.%s", parameter_at(&d->config, i).name);
        float *values = floats(d, name, NULL);
        olmo2_write(d->m, OLMO2_PARAMETER, i, values);
        free(values);
    }
}

static void check_parameters(const Dump *d, Kind kind, OLMo2Array array, const char *prefix) {
    for (size_t i = 0; i < parameter_count(&d->config); i++) {
        const Parameter p = parameter_at(&d->config, i);
        char name[128];
        snprintf(name, sizeof name, "%s.%s", prefix, p.name);
        float *values = (float *)malloc(p.size * sizeof(float));
        if (values == NULL) { stop("out of memory"); }
        olmo2_read(d->m, array, i, values);
        check(d, kind, name, values, p.size);
        free(values);
    }
}

static void open_dump(Dump *d, const char *path) {
    Error err;
    memset(d, 0, sizeof *d);
    d->path = path;
    if (!safetensors_open(&d->file, path, &err)) { stop(err.text); }
    int64_t *c = (int64_t *)integers(d, "config");
    d->B = (size_t)c[0];
    d->T = (size_t)c[1];
    d->N = d->B * d->T;
    d->config.C = (size_t)c[2];
    d->config.L = (size_t)c[3];
    d->config.NH = (size_t)c[4];
    d->config.NKV = (size_t)c[5];
    d->config.HS = (size_t)c[6];
    d->config.F = (size_t)c[7];
    d->config.V = (size_t)c[8];
    d->config.max_T = (size_t)c[1];
    free(c);
    d->config.rms_eps = number(d, "rms_eps", 0);
    d->config.rope_theta = number(d, "rope_theta", 0);
    d->z = number(d, "z", 0);
    const OLMo2Room room = olmo2_room_to_train(d->B, d->T);
    const OLMo2Form form = olmo2_form();
    if (!olmo2_create(&d->m, &d->config, &room, &form, &err)) { stop(err.text); }
    write_parameters(d);
}

// ---------------------------------------------------------------------------------------------
// the whole model: one forward and backward

static const Real *weight(const Dump *d, int id, size_t l) {
    return d->m->weights + parameter_offset(&d->config, id, l);
}

static Gradient gradient(const Dump *d, int id, size_t l) {
    return gradient_at(d->m, parameter_offset(&d->config, id, l));
}

static void test_activations(const Dump *d) {
    const OLMo2 *m = d->m;
    const OLMo2Config *c = &d->config;
    const size_t N = d->N, C = c->C, F = c->F, NH = c->NH, NKV = c->NKV, HS = c->HS;
    const size_t Q = NH * HS, KV = NKV * HS;
    const float eps = c->rms_eps;
    char name[128];
    Real *q_raw = put_zeros(N * Q), *k_raw = put_zeros(N * KV), *v = put_zeros(N * KV),
         *gate = put_zeros(N * F), *up = put_zeros(N * F), *got = put_zeros(N * (Q + C + F));
    for (size_t l = 0; l < c->L; l++) {
        const Activations a = layer_activations(m, l);
        get_projections(q_raw, k_raw, v, &a, N, Q, KV);
        get_gate_up(gate, up, &a, N, F);
        check_real(d, ACTIVATION, in_layer(name, "", l, "x"), a.x, N * C);
        check_real(d, ACTIVATION, in_layer(name, "", l, "q_raw"), q_raw, N * Q);
        check_real(d, ACTIVATION, in_layer(name, "", l, "k_raw"), k_raw, N * KV);
        check_real(d, ACTIVATION, in_layer(name, "", l, "v"), v, N * KV);
        check_real(d, ACTIVATION, in_layer(name, "", l, "attention"), a.attention, N * Q);
        check_real(d, ACTIVATION, in_layer(name, "", l, "o"), a.o, N * C);
        if (KEEPS_H) { check_real(d, ACTIVATION, in_layer(name, "", l, "h"), a.h, N * C); }
        check_real(d, ACTIVATION, in_layer(name, "", l, "gate"), gate, N * F);
        check_real(d, ACTIVATION, in_layer(name, "", l, "up"), up, N * F);
        check_real(d, ACTIVATION, in_layer(name, "", l, "down"), a.down, N * C);
        // what the model recomputes in the backward, or adds to the residual stream at once
        test_qknorm_rope_forward(m, got, a.q_rstd, q_raw, weight(d, Q_NORM, l), NH);
        check_real(d, ACTIVATION, in_layer(name, "", l, "q"), got, N * Q);
        test_qknorm_rope_forward(m, got, a.k_rstd, k_raw, weight(d, K_NORM, l), NKV);
        check_real(d, ACTIVATION, in_layer(name, "", l, "k"), got, N * KV);
        rmsnorm_forward(got, a.q_rstd, q_raw, weight(d, Q_NORM, l), N, Q, eps);
        check_real(d, ACTIVATION, in_layer(name, "", l, "q_normed"), got, N * Q);
        rmsnorm_forward(got, a.k_rstd, k_raw, weight(d, K_NORM, l), N, KV, eps);
        check_real(d, ACTIVATION, in_layer(name, "", l, "k_normed"), got, N * KV);
        if (!KEEPS_H) {
            rmsnorm_residual_forward(got, a.attention_rstd, a.x, a.o, weight(d, ATTENTION_NORM, l), N, C,
                                     eps);
            check_real(d, ACTIVATION, in_layer(name, "", l, "h"), got, N * C);
        }
        swiglu_forward(got, gate, up, N, F);
        check_real(d, ACTIVATION, in_layer(name, "", l, "act"), got, N * F);
        rmsnorm_forward(got, a.attention_rstd, a.o, weight(d, ATTENTION_NORM, l), N, C, eps);
        check_real(d, ACTIVATION, in_layer(name, "", l, "o_normed"), got, N * C);
        rmsnorm_forward(got, a.feedforward_rstd, a.down, weight(d, FEEDFORWARD_NORM, l), N, C, eps);
        check_real(d, ACTIVATION, in_layer(name, "", l, "down_normed"), got, N * C);
    }
    check_real(d, ACTIVATION, in_layer(name, "", c->L, "x"), layer_activations(m, c->L).x, N * C);
    check_real(d, ACTIVATION, "hidden", m->activations.hidden, N * C);
    Real *logits = put_zeros(N * c->V);
    matmul_forward(logits, m->activations.hidden, matrix_at(d->m, LM_HEAD, 0), N, C, c->V);
    check_real(d, ACTIVATION, "logits", logits, N * c->V);
    Real *all[] = {q_raw, k_raw, v, gate, up, got, logits};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) { release(all[i]); }
}

static void test_model(const Dump *d) {
    const size_t N = d->N;
    uint32_t *tokens = (uint32_t *)integers(d, "tokens"),
             *reference_labels = (uint32_t *)integers(d, "labels");
    uint8_t *mask = (uint8_t *)integers(d, "mask");
    uint32_t *labels = (uint32_t *)malloc(N * sizeof *labels);
    bool *filtered = (bool *)calloc(d->B, sizeof *filtered);
    float *weights = (float *)malloc(N * sizeof(float)), *logprobs = (float *)malloc(N * sizeof(float));
    float *lse = (float *)malloc(N * sizeof(float));
    if (labels == NULL || filtered == NULL || weights == NULL || logprobs == NULL || lse == NULL) {
        stop("out of memory");
    }
    objective_labels(labels, tokens, mask, filtered, d->B, d->T);
    must(memcmp(labels, reference_labels, N * sizeof *labels) == 0, "labels");
    const size_t normalizer = lm_normalizer(labels, filtered, d->B, d->T);
    lm_weights(weights, labels, N, normalizer);
    check(d, LOSS, "weights", weights, N);

    olmo2_forward(d->m, tokens, d->B, d->T);
    olmo2_zero_gradients(d->m);
    olmo2_classify(d->m, labels, weights, d->z, logprobs, lse);
    olmo2_backward(d->m);
    check(d, LOSS, "logprobs", logprobs, N);
    check(d, LOSS, "lse", lse, N);
    LmSums sums;
    memset(&sums, 0, sizeof sums);
    lm_add(&sums, labels, logprobs, lse, N, (double)d->z);
    const float ce = (float)(sums.ce / (double)normalizer), z_loss = (float)(sums.z / (double)normalizer);
    const float norm = (float)olmo2_gradient_norm(d->m);
    check(d, LOSS, "ce", &ce, 1);
    check(d, LOSS, "z_loss", &z_loss, 1);
    check(d, LOSS, "gradient_norm", &norm, 1);
    check_parameters(d, GRADIENT, OLMO2_GRADIENT, "gradient");
    test_activations(d);
    free(tokens);
    free(reference_labels);
    free(mask);
    free(labels);
    free(filtered);
    free(weights);
    free(logprobs);
    free(lse);
}

// ---------------------------------------------------------------------------------------------
// layer by layer: each backward by itself, from the reference's inputs and output gradient

static Real *layer_floats(const Dump *d, const char *prefix, size_t l, const char *name) {
    char buffer[128];
    return real_floats(d, in_layer(buffer, prefix, l, name));
}

static void check_in_layer(const Dump *d, size_t l, const char *name, const Real *got, size_t size) {
    char buffer[128];
    check_real(d, LAYER_GRADIENT, in_layer(buffer, "d.", l, name), got, size);
}

static void test_attention_branch(const Dump *d, size_t l) {
    const OLMo2Config *c = &d->config;
    const Workspace *s = &d->m->workspace;
    const Activations a = layer_activations(d->m, l);  // its rstd and lse are those of the forward above
    const size_t B = d->B, T = d->T, N = d->N, C = c->C, NH = c->NH, NKV = c->NKV, HS = c->HS, Q = NH * HS,
                 KV = NKV * HS;
    Real *dh = layer_floats(d, "d.", l, "h"), *d_o = layer_floats(d, "d.", l, "o");
    Real *dattention = layer_floats(d, "d.", l, "attention"), *dq = layer_floats(d, "d.", l, "q");
    Real *dk = layer_floats(d, "d.", l, "k"), *dv = layer_floats(d, "d.", l, "v");
    Real *dq_raw = layer_floats(d, "d.", l, "q_raw"), *dk_raw = layer_floats(d, "d.", l, "k_raw");
    Real *q = layer_floats(d, "", l, "q"), *k = layer_floats(d, "", l, "k"), *v = layer_floats(d, "", l, "v");
    Real *x = layer_floats(d, "", l, "x"), *o = layer_floats(d, "", l, "o");
    Real *q_raw = layer_floats(d, "", l, "q_raw"), *k_raw = layer_floats(d, "", l, "k_raw");
    Real *attention = layer_floats(d, "", l, "attention");
    Real *got_q = put_zeros(N * Q), *got_k = put_zeros(N * KV), *got_v = put_zeros(N * KV);

    check_in_layer(d, l, "o_normed", dh, N * C);
    rmsnorm_residual_backward(s->dbranch, gradient(d, ATTENTION_NORM, l), dh, o, weight(d, ATTENTION_NORM, l),
                              a.attention_rstd, N, C);
    check_in_layer(d, l, "o", s->dbranch, N * C);
    matmul_backward(s->dattention, gradient(d, WO, l), d_o, attention, matrix_at(d->m, WO, l), N, Q, C,
                    false);
    check_in_layer(d, l, "attention", s->dattention, N * Q);
    attention_backward(got_q, got_k, got_v, dattention, q, k, v, attention, a.lse, attention_space(s), B, T,
                       NH, NKV, HS);
    check_in_layer(d, l, "q", got_q, N * Q);
    check_in_layer(d, l, "k", got_k, N * KV);
    check_in_layer(d, l, "v", got_v, N * KV);
    test_qknorm_rope_backward(d->m, got_q, gradient(d, Q_NORM, l), dq, q_raw, weight(d, Q_NORM, l), a.q_rstd,
                              NH);
    test_qknorm_rope_backward(d->m, got_k, gradient(d, K_NORM, l), dk, k_raw, weight(d, K_NORM, l), a.k_rstd,
                              NKV);
    check_in_layer(d, l, "q_raw", got_q, N * Q);
    check_in_layer(d, l, "k_raw", got_k, N * KV);
    if (TURNS_BACK_IN_PLACE) {
        check_in_layer(d, l, "q_normed", dq, N * Q);
        check_in_layer(d, l, "k_normed", dk, N * KV);
    }
    matmul_backward(dh, gradient(d, WV, l), dv, x, matrix_at(d->m, WV, l), N, C, KV, true);
    matmul_backward(dh, gradient(d, WK, l), dk_raw, x, matrix_at(d->m, WK, l), N, C, KV, true);
    matmul_backward(dh, gradient(d, WQ, l), dq_raw, x, matrix_at(d->m, WQ, l), N, C, Q, true);
    check_in_layer(d, l, "x", dh, N * C);

    Real *all[] = {dh, d_o, dattention, dq,    dk,    dv,        dq_raw, dk_raw, q,    k,
                   v,  x,   o,          q_raw, k_raw, attention, got_q,  got_k,  got_v};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) { release(all[i]); }
}

static void test_feedforward_branch(const Dump *d, size_t l) {
    const OLMo2Config *c = &d->config;
    const Workspace *s = &d->m->workspace;
    const Activations a = layer_activations(d->m, l);
    const size_t N = d->N, C = c->C, F = c->F;
    Real *dy = layer_floats(d, "d.", l + 1, "x"), *ddown = layer_floats(d, "d.", l, "down");
    Real *dact = layer_floats(d, "d.", l, "act"), *dgate = layer_floats(d, "d.", l, "gate");
    Real *dup = layer_floats(d, "d.", l, "up"), *h = layer_floats(d, "", l, "h");
    Real *gate = layer_floats(d, "", l, "gate"), *up = layer_floats(d, "", l, "up");
    Real *act = layer_floats(d, "", l, "act"), *down = layer_floats(d, "", l, "down");
    Real *got_act = put_zeros(N * F), *got_gate = put_zeros(N * F), *got_up = put_zeros(N * F);

    check_in_layer(d, l, "down_normed", dy, N * C);
    rmsnorm_residual_backward(s->dbranch, gradient(d, FEEDFORWARD_NORM, l), dy, down,
                              weight(d, FEEDFORWARD_NORM, l), a.feedforward_rstd, N, C);
    check_in_layer(d, l, "down", s->dbranch, N * C);
    matmul_backward(got_act, gradient(d, W_DOWN, l), ddown, act, matrix_at(d->m, W_DOWN, l), N, F, C, false);
    check_in_layer(d, l, "act", got_act, N * F);
    swiglu_backward(got_gate, got_up, dact, gate, up, N, F);
    check_in_layer(d, l, "gate", got_gate, N * F);
    check_in_layer(d, l, "up", got_up, N * F);
    matmul_backward(dy, gradient(d, W_UP, l), dup, h, matrix_at(d->m, W_UP, l), N, C, F, true);
    matmul_backward(dy, gradient(d, W_GATE, l), dgate, h, matrix_at(d->m, W_GATE, l), N, C, F, true);
    check_in_layer(d, l, "h", dy, N * C);

    Real *all[] = {dy, ddown, dact, dgate, dup, h, gate, up, act, down, got_act, got_gate, got_up};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) { release(all[i]); }
}

static void test_head(const Dump *d) {
    const OLMo2Config *c = &d->config;
    const Workspace *s = &d->m->workspace;
    const size_t N = d->N, C = c->C, V = c->V;
    Real *logits = real_floats(d, "logits"), *dlogits = real_floats(d, "d.logits"),
         *hidden = real_floats(d, "hidden");
    Real *dhidden = real_floats(d, "d.hidden"), *x = layer_floats(d, "", c->L, "x"),
         *got_x = put_zeros(N * C);
    float *lse = floats(d, "lse", NULL), *weights = floats(d, "weights", NULL);
    uint32_t *labels = (uint32_t *)integers(d, "labels");

    test_classifier_backward(logits, lse, labels, weights, d->z, N, V);
    check_real(d, LAYER_GRADIENT, "d.logits", logits, N * V);
    matmul_backward(s->dhidden, gradient(d, LM_HEAD, 0), dlogits, hidden, matrix_at(d->m, LM_HEAD, 0), N, C,
                    V, false);
    check_real(d, LAYER_GRADIENT, "d.hidden", s->dhidden, N * C);
    rmsnorm_backward(got_x, gradient(d, FINAL_NORM, 0), dhidden, x, weight(d, FINAL_NORM, 0),
                     d->m->activations.hidden_rstd, N, C);
    check_in_layer(d, c->L, "x", got_x, N * C);

    Real *all[] = {logits, dlogits, hidden, dhidden, x, got_x};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) { release(all[i]); }
    free(lse);
    free(weights);
    free(labels);
}

static void test_layers(const Dump *d) {
    olmo2_zero_gradients(d->m);
    test_head(d);
    for (size_t l = d->config.L; l-- > 0;) {
        test_feedforward_branch(d, l);
        test_attention_branch(d, l);
    }
    // By now the gradients of all parameters have been accumulated too, except the embedding's.
    Real *dx = layer_floats(d, "d.", 0, "x");
    uint32_t *tokens = (uint32_t *)integers(d, "tokens");
    test_embedding_backward(gradient(d, EMBEDDING, 0), dx, tokens, d->N, d->config.C, d->config.V);
    check_parameters(d, LAYER_GRADIENT, OLMO2_GRADIENT, "gradient");
    release(dx);
    free(tokens);
}

// ---------------------------------------------------------------------------------------------
// ten updates, each from accumulated micro-batches

static void test_updates(const Dump *d) {
    const SafetensorsTensor *t = tensor(d, "steps.tokens");
    const size_t steps = t->shape[0], micro_batches = t->shape[1], N = d->N;
    uint32_t *tokens = (uint32_t *)integers(d, "steps.tokens");
    uint8_t *mask = (uint8_t *)integers(d, "steps.mask");
    const size_t all = micro_batches * N;
    uint32_t *labels = (uint32_t *)malloc(all * sizeof *labels);
    bool *filtered = (bool *)calloc(micro_batches * d->B, sizeof *filtered);
    float *weights = (float *)malloc(all * sizeof(float)), *logprobs = (float *)malloc(all * sizeof(float));
    float *lse = (float *)malloc(all * sizeof(float));
    float *reached[4];  // ce, z, norm, lr of every step
    for (int i = 0; i < 4; i++) { reached[i] = (float *)malloc(steps * sizeof(float)); }
    Schedule schedule;
    memset(&schedule, 0, sizeof schedule);
    schedule.kind = SCHEDULE_COSINE;
    schedule.peak = (double)number(d, "settings.peak_lr", 0);
    schedule.warmup = integer(d, "settings.warmup");
    schedule.total = integer(d, "settings.total");
    schedule.final_fraction = (double)number(d, "settings.final_fraction", 0);
    write_parameters(d);
    for (size_t step = 0; step < steps; step++) {
        const uint32_t *step_tokens = tokens + step * all;
        objective_labels(labels, step_tokens, mask + step * all, filtered, micro_batches * d->B, d->T);
        const size_t normalizer = lm_normalizer(labels, filtered, micro_batches * d->B, d->T);
        lm_weights(weights, labels, all, normalizer);
        LmSums sums;
        memset(&sums, 0, sizeof sums);
        olmo2_zero_gradients(d->m);
        for (size_t n = 0; n < all; n += N) {
            olmo2_forward(d->m, step_tokens + n, d->B, d->T);
            olmo2_classify(d->m, labels + n, weights + n, d->z, logprobs + n, lse + n);
            olmo2_backward(d->m);
            lm_add(&sums, labels + n, logprobs + n, lse + n, N, (double)d->z);
        }
        const double norm = olmo2_gradient_norm(d->m), lr = schedule_lr(&schedule, (int64_t)step + 1);
        OLMo2AdamW settings;
        settings.lr = (float)lr;
        settings.beta1 = number(d, "settings.beta1", 0);
        settings.beta2 = number(d, "settings.beta2", 0);
        settings.eps = number(d, "settings.eps", 0);
        settings.weight_decay = number(d, "settings.weight_decay", 0);
        settings.gradient_scale = (float)fmin(1.0, (double)number(d, "settings.clip", 0) / (norm + 1e-6));
        settings.t = (int64_t)step + 1;
        olmo2_update(d->m, &settings);
        reached[0][step] = (float)(sums.ce / (double)normalizer);
        reached[1][step] = (float)(sums.z / (double)normalizer);
        reached[2][step] = (float)norm;
        reached[3][step] = (float)lr;
        if (step == 0) { check_parameters(d, AFTER_1, OLMO2_PARAMETER, "after1"); }
    }
    check_parameters(d, AFTER_10, OLMO2_PARAMETER, "after10");
    const char *names[] = {"steps.ce", "steps.z_loss", "steps.gradient_norm", "steps.lr"};
    for (int i = 0; i < 4; i++) {
        check(d, LOSS, names[i], reached[i], steps);
        free(reached[i]);
    }
    free(tokens);
    free(mask);
    free(labels);
    free(filtered);
    free(weights);
    free(logprobs);
    free(lse);
}

static void test_dump(const char *path) {
    Dump d;
    open_dump(&d, path);
    const OLMo2Config *c = &d.config;
    printf("%s: B %zu T %zu C %zu L %zu NH %zu NKV %zu HS %zu F %zu V %zu\n", path, d.B, d.T, c->C, c->L,
           c->NH, c->NKV, c->HS, c->F, c->V);
    use_layers_of(d.m);
    test_model(&d);
    test_layers(&d);
    test_updates(&d);
    olmo2_free(d.m);
    safetensors_close(&d.file);
}

int main(int argc, char **argv) {
    const char *dumps[] = {"dev/reference/dump_mha.safetensors", "dev/reference/dump_gqa.safetensors"};
    verbose = argc > 1 && strcmp(argv[1], "-v") == 0;
    const int first = verbose ? 2 : 1;
    must(comparator_works(), "the comparator fails what it must");
    for (int i = first; i < argc; i++) { test_dump(argv[i]); }
    for (size_t i = 0; first >= argc && i < sizeof dumps / sizeof dumps[0]; i++) { test_dump(dumps[i]); }
    printf("%-30s tensors  reached  allowed  worst tensor; why this tolerance\n", "kind");
    for (int k = 0; k < KINDS; k++) {
        printf("%-30s %7d  %7.1e  %7.1e  %s\n%58s%s\n", kinds[k].name, worst[k].count, worst[k].reached,
               tolerance((Kind)k), worst[k].name, "", kinds[k].why);
    }
    printf("%d passed, %d failed\n", passed, failed);
    return failed > 0 || passed == 0;
}
