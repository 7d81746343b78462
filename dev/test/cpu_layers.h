// cpu_layers.h: how test_olmo2.c reaches the arrays and layers of train_olmo2.c. cuda_layers.cuh does the
// same for the GPU, where arrays are on a device and some are parts of a wider one.
#ifndef DEV_TEST_CPU_LAYERS_H
#define DEV_TEST_CPU_LAYERS_H

typedef float Real;       // what activations are stored in
typedef float *Gradient;  // of a parameter

enum { BACKEND_IS_BF16 = 0, TURNS_BACK_IN_PLACE = 1, KEEPS_H = 1 };

static void use_layers_of(const OLMo2 *m) { (void)m; }

// Arrays of the backend. The caller releases them.
static Real *put_zeros(size_t size) {
    Real *array = (Real *)calloc(size + 1, sizeof *array);
    if (array == NULL) {
        fprintf(stderr, "error: out of memory\n");
        exit(1);
    }
    return array;
}

static Real *put_real(const float *values, size_t size) {
    return (Real *)memcpy(put_zeros(size), values, size * sizeof *values);
}

static void get_real(float *values, const Real *array, size_t size) {
    memcpy(values, array, size * sizeof *values);
}

static void release(Real *array) { free(array); }

static Gradient gradient_at(const OLMo2 *m, size_t offset) { return m->gradients + offset; }

static Weight matrix_at(const OLMo2 *m, int id, size_t l) { return weight_of(m, id, l); }

static float *attention_space(const Workspace *s) { return s->scores; }

static void get_projections(Real *q_raw, Real *k_raw, Real *v, const Activations *a, size_t N, size_t Q,
                            size_t KV) {
    memcpy(q_raw, a->q_raw, N * Q * sizeof(Real));
    memcpy(k_raw, a->k_raw, N * KV * sizeof(Real));
    memcpy(v, a->v, N * KV * sizeof(Real));
}

static void get_gate_up(Real *gate, Real *up, const Activations *a, size_t N, size_t F) {
    memcpy(gate, a->gate, N * F * sizeof(Real));
    memcpy(up, a->up, N * F * sizeof(Real));
}

// The norm and rotation of a row of queries or keys, at the positions of the last forward.
static void test_qknorm_rope_forward(const OLMo2 *m, Real *y, float *rstd, const Real *x, const Real *w,
                                     size_t NH) {
    qknorm_rope_forward(y, rstd, x, w, m->rope, m->positions, m->N, NH, m->config.HS, m->config.rms_eps);
}

static void test_qknorm_rope_backward(const OLMo2 *m, Real *dx, Gradient dw, Real *dy, const Real *x,
                                      const Real *w, const float *rstd, size_t NH) {
    qknorm_rope_backward(dx, dw, dy, x, w, rstd, m->rope, m->positions, m->N, NH, m->config.HS);
}

static void test_classifier_backward(Real *logits, const float *lse, const uint32_t *labels,
                                     const float *weights, float z, size_t N, size_t V) {
    classifier_backward(logits, lse, labels, weights, z, N, V);
}

static void test_embedding_backward(Gradient dtable, const Real *dx, const uint32_t *tokens, size_t N,
                                    size_t C, size_t V) {
    (void)V;
    embedding_backward(dtable, dx, tokens, N, C);
}

#endif
