// ablations.cuh: ablations.h for the GPU, in the same order under the same names: the layer of train_olmo2.cu
// without QK-norm, or with its norms on the branch inputs (pre-norm), or both. train_olmo2.cu includes it
// at the end of its layer section.
//
// A GPU also needs two plain kernels, since OLMo 2's own fuse the sum and the rotation with a norm. With
// nothing ablated, these lists give the bits of layer_forward and layer_backward
// (test_ablations in dev/test/test_cuda.cu).
#ifndef DEV_ABLATIONS_CUH
#define DEV_ABLATIONS_CUH

static bool is_ablated(const OLMo2Config *c) { return c->ablate_qk_norm || c->pre_norm; }

// ---------------------------------------------------------------------------------------------
// the two kernels

template <int W>
__global__ static void add_kernel(floatX *y, const floatX *a, const floatX *b, size_t size) {
    const size_t i = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * W;
    if (i >= size) { return; }
    const Vec<floatX, W> a_i = load<W>(a + i), b_i = load<W>(b + i);
    Vec<floatX, W> y_i;
    for (int k = 0; k < W; k++) { y_i[k] = (floatX)((float)a_i[k] + (float)b_i[k]); }
    store(y + i, y_i);
}

// y = a + b, each (size); y may be a or b
static void add(floatX *y, const floatX *a, const floatX *b, size_t size) {
    const int threads = 256;
    by_width(
        [&](auto width) {
            add_kernel<width.value><<<divide_up(size, threads * width.value), threads>>>(y, a, b, size);
        },
        size);
    LAUNCH_CHECK();
}

// A thread rotates one pair: by the angle of its position, or by the opposite one where direction is -1.
__global__ static void rope_kernel(floatX *y, size_t y_stride, const floatX *x, size_t x_stride,
                                   const float *rope, const uint32_t *positions, size_t pairs, size_t T,
                                   int C, int HS, float direction) {
    const size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= pairs) { return; }
    const size_t n = i / (size_t)(C / 2), t = positions != nullptr ? positions[n] : n % T;
    const int pair = (int)(i % (size_t)(C / 2)), c = first_of_pairs(pair, HS), half = HS / 2;
    const float a = (float)x[n * x_stride + c], b = (float)x[n * x_stride + c + half];
    const float cosine = rope[t * HS + pair % half], sine = rope[t * HS + half + pair % half] * direction;
    y[n * y_stride + c] = (floatX)(a * cosine - b * sine);
    y[n * y_stride + c + half] = (floatX)(b * cosine + a * sine);
}

static void rope_turn(floatX *y, size_t y_stride, const floatX *x, size_t x_stride, const float *rope,
                      const uint32_t *positions, size_t N, size_t T, size_t NH, size_t HS, float direction) {
    const size_t pairs = N * NH * HS / 2, threads = 256;
    rope_kernel<<<divide_up(pairs, threads), threads>>>(y, y_stride, x, x_stride, rope, positions, pairs, T,
                                                        NH * HS, HS, direction);
    LAUNCH_CHECK();
}

// x (N, NH, HS) in rows of x_stride -> y (N, NH, HS) = R_t x, with t as in qknorm_rope_forward
static void rope_forward(floatX *y, const floatX *x, size_t x_stride, const float *rope,
                         const uint32_t *positions, size_t N, size_t T, size_t NH, size_t HS) {
    rope_turn(y, NH * HS, x, x_stride, rope, positions, N, T, NH, HS, 1.0f);
}

// dy (N, NH, HS) -> dx (N, NH, HS) in rows of dx_stride, assigned: R_t^T dy
static void rope_backward(floatX *dx, size_t dx_stride, const floatX *dy, const float *rope, size_t N,
                          size_t T, size_t NH, size_t HS) {
    rope_turn(dx, dx_stride, dy, NH * HS, rope, nullptr, N, T, NH, HS, -1.0f);
}

// ---------------------------------------------------------------------------------------------
// the parts that can be left out

// Queries or keys: normalised, unless that is ablated, and rotated.
static void ablated_qk_forward(const OLMo2 *m, floatX *y, float *rstd, const floatX *x, const floatX *w,
                               size_t NH) {
    const OLMo2Config *c = &m->config;
    const uint32_t *positions = row_positions(m);
    const size_t N = m->N, T = m->T, row = (c->NH + 2 * c->NKV) * c->HS;
    if (c->ablate_qk_norm) {
        rope_forward(y, x, row, m->rope, positions, N, T, NH, c->HS);
    } else {
        qknorm_rope_forward(y, rstd, x, row, w, m->rope, positions, N, T, NH, c->HS, c->rms_eps);
    }
}

static void ablated_qk_backward(const OLMo2 *m, floatX *dx, Array dw, const floatX *dy, const floatX *x,
                                const floatX *w, const float *rstd, size_t NH) {
    const OLMo2Config *c = &m->config;
    const size_t N = m->N, row = (c->NH + 2 * c->NKV) * c->HS;
    if (c->ablate_qk_norm) {
        rope_backward(dx, row, dy, m->rope, N, m->T, NH, c->HS);
    } else {
        qknorm_rope_backward(dx, row, dw, m->workspace.partial, dy, x, row, w, rstd, m->rope, N, m->T, NH,
                             c->HS);
    }
}

// What a branch reads: x, or with pre-norm y = rmsnorm(x).
static const floatX *branch_begin(const OLMo2 *m, floatX *y, float *rstd, const floatX *x, const floatX *w,
                                  size_t N) {
    if (!m->config.pre_norm) { return x; }
    rmsnorm_forward(y, rstd, x, w, N, m->config.C, m->config.rms_eps);
    return y;
}

// h = x + rmsnorm(o), or with pre-norm h = x + o.
static void branch_end(const OLMo2 *m, floatX *h, float *rstd, const floatX *x, const floatX *o,
                       const floatX *w, size_t N) {
    if (m->config.pre_norm) {
        add(h, x, o, N * m->config.C);
    } else {
        rmsnorm_residual_forward(h, rstd, x, o, w, N, m->config.C, m->config.rms_eps);
    }
}

// The gradient of a branch's output: dx, taken through the norm at the branch's end if there is one.
static const floatX *branch_end_backward(const OLMo2 *m, Array dw, const floatX *o, const floatX *w,
                                         const float *rstd) {
    const Workspace *s = &m->workspace;
    if (m->config.pre_norm) { return s->dx; }
    rmsnorm_residual_backward(s->dbranch, dw, s->partial, s->dx, o, w, rstd, m->N, m->config.C);
    return s->dbranch;
}

// Where the gradient of a branch's input accumulates: in dx, or with pre-norm in dnormed, which
// branch_begin_backward takes through the norm and adds to dx.
static floatX *branch_begin_gradient(const OLMo2 *m) {
    const Workspace *s = &m->workspace;
    if (!m->config.pre_norm) { return s->dx; }
    CUDA_CHECK(cudaMemsetAsync(s->dnormed, 0, m->N * m->config.C * sizeof(floatX)));
    return s->dnormed;
}

static void branch_begin_backward(const OLMo2 *m, Array dw, const floatX *x, const floatX *w,
                                  const float *rstd) {
    const Workspace *s = &m->workspace;
    const size_t N = m->N, C = m->config.C;
    if (!m->config.pre_norm) { return; }
    rmsnorm_backward(s->dnormed, dw, s->partial, s->dnormed, x, w, rstd, N, C);
    add(s->dx, s->dx, s->dnormed, N * C);
}

// ---------------------------------------------------------------------------------------------
// the layer

static void ablated_layer_forward(const OLMo2 *m, size_t l) {
    const OLMo2Config *c = &m->config;
    const size_t N = m->N, C = c->C, F = c->F, Q = c->NH * c->HS, KV = c->NKV * c->HS;
    const size_t row = Q + 2 * KV;
    const Workspace *s = &m->workspace;
    const LayerParameters w = layer_parameters(m->weights, c, l);
    const Activations a = layer_activations(m, l), next = layer_activations(m, l + 1);

    const floatX *in = branch_begin(m, s->normed, a.attention_rstd, a.x, w.attention_norm, N);
    matmul_forward(a.qkv, in, w.w_qkv, N, C, row);
    ablated_qk_forward(m, a.q, a.q_rstd, a.qkv, w.q_norm, c->NH);
    ablated_qk_forward(m, a.k, a.k_rstd, a.qkv + Q, w.k_norm, c->NKV);
    layer_attention(m, l, a);
    matmul_forward(a.o, a.attention, w.wo, N, Q, C);
    branch_end(m, a.h, a.attention_rstd, a.x, a.o, w.attention_norm, N);

    in = branch_begin(m, s->normed, a.feedforward_rstd, a.h, w.feedforward_norm, N);
    matmul_forward(a.gate_up, in, w.w_gate_up, N, C, 2 * F);
    swiglu_forward(a.act, a.gate_up, N, F);
    matmul_forward(a.down, a.act, w.w_down, N, F, C);
    branch_end(m, next.x, a.feedforward_rstd, a.h, a.down, w.feedforward_norm, N);
}

static void ablated_layer_recompute(const OLMo2 *m, size_t l) {
    const OLMo2Config *c = &m->config;
    const size_t N = m->N, Q = c->NH * c->HS;
    const LayerParameters w = layer_parameters(m->weights, c, l);
    const Activations a = layer_activations(m, l);
    if (m->form.recompute == RECOMPUTE_BLOCK) { ablated_layer_forward(m, l); }
    if (m->form.recompute == RECOMPUTE_ELEMENTWISE) {
        ablated_qk_forward(m, a.q, a.q_rstd, a.qkv, w.q_norm, c->NH);
        ablated_qk_forward(m, a.k, a.k_rstd, a.qkv + Q, w.k_norm, c->NKV);
        branch_end(m, a.h, a.attention_rstd, a.x, a.o, w.attention_norm, N);
    }
}

static void ablated_layer_backward(const OLMo2 *m, size_t l) {
    const OLMo2Config *c = &m->config;
    const size_t B = m->B, T = m->T, N = B * T, C = c->C, F = c->F, Q = c->NH * c->HS, KV = c->NKV * c->HS;
    const size_t row = Q + 2 * KV;
    const Workspace *s = &m->workspace;
    const LayerParameters w = layer_parameters(m->weights, c, l);
    const LayerGradients d = layer_gradients(m->gradients, c, l);
    const Activations a = layer_activations(m, l);
    floatX *recomputed_act = s->dact == a.act ? a.act : nullptr;
    ablated_layer_recompute(m, l);

    const floatX *dout =
        branch_end_backward(m, d.feedforward_norm, a.down, w.feedforward_norm, a.feedforward_rstd);
    matmul_backward_input(s->dact, dout, w.w_down, N, F, C, false);
    swiglu_backward(s->dgate_up, recomputed_act, s->dact, a.gate_up, N, F);
    matmul_backward_weight(d.w_down, dout, a.act, N, F, C);
    const floatX *in = branch_begin(m, s->normed, a.feedforward_rstd, a.h, w.feedforward_norm, N);
    floatX *din = branch_begin_gradient(m);
    matmul_backward(din, d.w_gate_up, s->dgate_up, in, w.w_gate_up, N, C, 2 * F, true);
    branch_begin_backward(m, d.feedforward_norm, a.h, w.feedforward_norm, a.feedforward_rstd);

    dout = branch_end_backward(m, d.attention_norm, a.o, w.attention_norm, a.attention_rstd);
    matmul_backward(s->dattention, d.wo, dout, a.attention, w.wo, N, Q, C, false);
    attention_backward(s->dq, s->dk, s->dqkv + Q + KV, row, s->delta, s->dattention, a.q, a.k, a.qkv + Q + KV,
                       row, a.attention, a.lse, B, T, c->NH, c->NKV, c->HS);
    ablated_qk_backward(m, s->dqkv + Q, d.k_norm, s->dk, a.qkv + Q, w.k_norm, a.k_rstd, c->NKV);
    ablated_qk_backward(m, s->dqkv, d.q_norm, s->dq, a.qkv, w.q_norm, a.q_rstd, c->NH);
    in = branch_begin(m, s->normed, a.attention_rstd, a.x, w.attention_norm, N);
    din = branch_begin_gradient(m);
    matmul_backward(din, d.w_qkv, s->dqkv, in, w.w_qkv, N, C, row, true);
    branch_begin_backward(m, d.attention_norm, a.x, w.attention_norm, a.attention_rstd);
}

#endif
