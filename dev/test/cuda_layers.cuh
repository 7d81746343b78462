// cuda_layers.cuh: gives tests the arrays and layers of train_olmo2.cu with the signatures of train_olmo2.c,
// so one test (test_olmo2.c) serves both backends. cpu_layers.h is its counterpart for the CPU.
#ifndef DEV_TEST_CUDA_LAYERS_CUH
#define DEV_TEST_CUDA_LAYERS_CUH

typedef floatX Real;     // what activations are stored in
typedef Array Gradient;  // of a parameter

enum { BACKEND_IS_BF16 = sizeof(floatX) == sizeof(bf16), TURNS_BACK_IN_PLACE = 0, KEEPS_H = 0 };

// The layers below need scratch space that the .c's signatures lack; it is taken from this model.
static const OLMo2 *layers_model;
static void use_layers_of(const OLMo2 *m) { layers_model = m; }

// Arrays on the device; the caller releases them.
template <typename T>
static T *put(const T *values, size_t size) {
    T *array = nullptr;
    CUDA_CHECK(cudaMalloc((void **)&array, size * sizeof(T) + sizeof(T) * (size == 0)));
    if (values == nullptr) {
        CUDA_CHECK(cudaMemset(array, 0, size * sizeof(T)));
    } else {
        CUDA_CHECK(cudaMemcpy(array, values, size * sizeof(T), cudaMemcpyHostToDevice));
    }
    return array;
}

static Real *put_zeros(size_t size) { return put((const Real *)nullptr, size); }

static void *staging() {
    static float buffer[1 << 20];
    static_assert(sizeof buffer == STAGING_ELEMENTS * sizeof(float), "as upload and download want it");
    return buffer;
}

static Real *put_real(const float *values, size_t size) {
    Real *array = put_zeros(size);
    upload(array, values, size, staging());
    return array;
}

static void get_real(float *values, const Real *array, size_t size) {
    download(values, array, size, staging());
}

static void release(void *array) { CUDA_CHECK(cudaFree(array)); }

static Gradient gradient_at(const OLMo2 *m, size_t offset) { return array_at(m->gradients, offset); }

static const Real *matrix_at(const OLMo2 *m, int id, size_t l) {
    return m->weights + parameter_offset(&m->config, id, l);
}

static float *attention_space(const Workspace *s) { return s->delta; }

// Copies rows of `columns` numbers. Rows begin every to_stride and from_stride numbers.
static void copy_rows(Real *to, size_t to_stride, const Real *from, size_t from_stride, size_t rows,
                      size_t columns) {
    for (size_t r = 0; r < rows; r++) {
        CUDA_CHECK(cudaMemcpy(to + r * to_stride, from + r * from_stride, columns * sizeof(Real),
                              cudaMemcpyDeviceToDevice));
    }
}

static void get_projections(Real *q_raw, Real *k_raw, Real *v, const Activations *a, size_t N, size_t Q,
                            size_t KV) {
    copy_rows(q_raw, Q, a->qkv, Q + 2 * KV, N, Q);
    copy_rows(k_raw, KV, a->qkv + Q, Q + 2 * KV, N, KV);
    copy_rows(v, KV, a->qkv + Q + KV, Q + 2 * KV, N, KV);
}

static void get_gate_up(Real *gate, Real *up, const Activations *a, size_t N, size_t F) {
    copy_rows(gate, F, a->gate_up, 2 * F, N, F);
    copy_rows(up, F, a->gate_up + F, 2 * F, N, F);
}

// ---------------------------------------------------------------------------------------------
// the layers, as train_olmo2.c has them

static void rmsnorm_backward(Real *dx, Gradient dw, const Real *dy, const Real *x, const Real *w,
                             const float *rstd, size_t N, size_t C) {
    rmsnorm_backward(dx, dw, layers_model->workspace.partial, dy, x, w, rstd, N, C);
}

static void rmsnorm_residual_backward(Real *d_o, Gradient dw, const Real *dh, const Real *o, const Real *w,
                                      const float *rstd, size_t N, size_t C) {
    rmsnorm_residual_backward(d_o, dw, layers_model->workspace.partial, dh, o, w, rstd, N, C);
}

// The norm and rotation of a row of queries or keys, at the positions of the last forward.
static void test_qknorm_rope_forward(const OLMo2 *m, Real *y, float *rstd, const Real *x, const Real *w,
                                     size_t NH) {
    const size_t HS = m->config.HS;
    qknorm_rope_forward(y, rstd, x, NH * HS, w, m->rope, nullptr, m->B * m->T, m->T, NH, HS,
                        m->config.rms_eps);
}

static void test_qknorm_rope_backward(const OLMo2 *m, Real *dx, Gradient dw, const Real *dy, const Real *x,
                                      const Real *w, const float *rstd, size_t NH) {
    const size_t HS = m->config.HS;
    qknorm_rope_backward(dx, NH * HS, dw, m->workspace.partial, dy, x, NH * HS, w, rstd, m->rope, m->B * m->T,
                         m->T, NH, HS);
}

static void attention_backward(Real *dq, Real *dk, Real *dv, const Real *d_o, const Real *q, const Real *k,
                               const Real *v, const Real *o, const float *lse, float *delta, size_t B,
                               size_t T, size_t NH, size_t NKV, size_t HS) {
    attention_backward(dq, dk, dv, NKV * HS, delta, d_o, q, k, v, NKV * HS, o, lse, B, T, NH, NKV, HS);
}

static Real *put_gate_up(const Real *gate, const Real *up, size_t N, size_t F) {
    Real *gate_up = put_zeros(N * 2 * F);
    copy_rows(gate_up, 2 * F, gate, F, N, F);
    copy_rows(gate_up + F, 2 * F, up, F, N, F);
    return gate_up;
}

static void swiglu_forward(Real *a, const Real *gate, const Real *up, size_t N, size_t F) {
    Real *gate_up = put_gate_up(gate, up, N, F);
    swiglu_forward(a, gate_up, N, F);
    release(gate_up);
}

static void swiglu_backward(Real *dgate, Real *dup, const Real *da, const Real *gate, const Real *up,
                            size_t N, size_t F) {
    Real *gate_up = put_gate_up(gate, up, N, F), *dgate_up = put_zeros(N * 2 * F);
    swiglu_backward(dgate_up, nullptr, da, gate_up, N, F);
    copy_rows(dgate, F, dgate_up, 2 * F, N, F);
    copy_rows(dup, F, dgate_up + F, 2 * F, N, F);
    release(gate_up);
    release(dgate_up);
}

// The kernel computes lse itself and does not need the reference's.
static void test_classifier_backward(Real *logits, const float *lse, const uint32_t *labels,
                                     const float *weights, float z, size_t N, size_t V) {
    uint32_t *device_labels = put(labels, N);
    float *device_weights = put(weights, N), *logprobs = put(lse, N), *device_lse = put(lse, N);
    classifier_forward_backward(logprobs, device_lse, logits, device_labels, device_weights, z, N, V);
    void *all[] = {device_labels, device_weights, logprobs, device_lse};
    for (void *array : all) { release(array); }
}

static void test_embedding_backward(Gradient dtable, const Real *dx, const uint32_t *tokens, size_t N,
                                    size_t C, size_t V) {
    Error err;
    const size_t size = sizeof(uint32_t);
    uint32_t *order = (uint32_t *)allocate(N, size, "order", &err),
             *next = (uint32_t *)allocate(V, size, "next", &err);
    uint32_t *starts = (uint32_t *)allocate(N + 1, size, "starts", &err);
    const size_t buckets = embedding_buckets(order, starts, next, tokens, N, V);
    uint32_t *device_tokens = put(tokens, N), *device_order = put(order, N),
             *device_starts = put(starts, buckets + 1);
    embedding_backward(dtable, dx, device_tokens, device_order, device_starts, buckets, C);
    void *on_device[] = {device_tokens, device_order, device_starts}, *on_host[] = {order, next, starts};
    for (void *array : on_device) { release(array); }
    for (void *array : on_host) { free(array); }
}

#endif
