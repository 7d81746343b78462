// ablations.h: the layer of train_olmo2.c without QK-norm, or with its norms on the branch inputs (pre-norm),
// or both, for studies of what these parts of OLMo 2 do. train_olmo2.c includes it at the end of its layer
// section.
//
// Only the order of calls is here: the layers and their derivations are those of train_olmo2.c. With nothing
// ablated, these lists give the bits of layer_forward and layer_backward (test_ablations in
// dev/test/test_model.c), so a change to one list that is missing in the other is found.
//
// The tensors keep their names and shapes. Without QK-norm, q_norm and k_norm are not used; with pre-norm,
// attention_norm and feedforward_norm are the norms of the branch inputs.
//
//   is_ablated              whether a configuration needs these lists
//   ablated_layer_forward   layer l, from its x to the next layer's x
//   ablated_layer_backward  the same from its last line to its first
#ifndef DEV_ABLATIONS_H
#define DEV_ABLATIONS_H

static bool is_ablated(const OLMo2Config *c) { return c->ablate_qk_norm || c->pre_norm; }

// ---------------------------------------------------------------------------------------------
// the parts that can be left out

static void add(float *x, const float *y, size_t size) {
    PROFILE(1.0 * size, sizeof(float) * 3 * size);
#pragma omp parallel for
    for (size_t i = 0; i < size; i++) { x[i] += y[i]; }
}

// Queries or keys: normalised unless that is ablated, then rotated.
static void ablated_qk_forward(const OLMo2 *m, float *y, float *rstd, const float *x, const float *w,
                               size_t NH) {
    const size_t HS = m->config.HS;
    if (!m->config.ablate_qk_norm) {
        qknorm_rope_forward(y, rstd, x, w, m->rope, m->positions, m->N, NH, HS, m->config.rms_eps);
        return;
    }
    memcpy(y, x, m->N * NH * HS * sizeof(float));
    rope_forward(y, m->rope, m->positions, m->N, NH, HS);
}

static void ablated_qk_backward(const OLMo2 *m, float *dx, float *dw, float *dy, const float *x,
                                const float *w, const float *rstd, size_t NH) {
    const size_t HS = m->config.HS;
    if (!m->config.ablate_qk_norm) {
        qknorm_rope_backward(dx, dw, dy, x, w, rstd, m->rope, m->positions, m->N, NH, HS);
        return;
    }
    rope_backward(dy, m->rope, m->positions, m->N, NH, HS);
    memmove(dx, dy, m->N * NH * HS * sizeof(float));
}

// What a branch reads: x itself, or y = rmsnorm(x).
static const float *branch_begin(const OLMo2 *m, float *y, float *rstd, const float *x, const float *w,
                                 size_t N) {
    if (!m->config.pre_norm) { return x; }
    rmsnorm_forward(y, rstd, x, w, N, m->config.C, m->config.rms_eps);
    return y;
}

// h = x + rmsnorm(o), or h = x + o.
static void branch_end(const OLMo2 *m, float *h, float *rstd, const float *x, const float *o, const float *w,
                       size_t N) {
    const size_t C = m->config.C;
    if (!m->config.pre_norm) {
        rmsnorm_residual_forward(h, rstd, x, o, w, N, C, m->config.rms_eps);
        return;
    }
    memmove(h, x, N * C * sizeof(float));
    add(h, o, N * C);
}

// The gradient of a branch's output: dx through the norm at its end, or dx as it is.
static const float *branch_end_backward(const OLMo2 *m, float *dw, const float *o, const float *w,
                                        const float *rstd) {
    const Workspace *s = &m->workspace;
    if (m->config.pre_norm) { return s->dx; }
    rmsnorm_residual_backward(s->dbranch, dw, s->dx, o, w, rstd, m->N, m->config.C);
    return s->dbranch;
}

// Where the gradient of a branch's input accumulates: in dx, or in dnormed, which branch_begin_backward takes
// through the norm and adds to dx.
static float *branch_begin_gradient(const OLMo2 *m) {
    const Workspace *s = &m->workspace;
    if (!m->config.pre_norm) { return s->dx; }
    memset(s->dnormed, 0, m->N * m->config.C * sizeof(float));
    return s->dnormed;
}

static void branch_begin_backward(const OLMo2 *m, float *dw, const float *x, const float *w,
                                  const float *rstd) {
    const size_t N = m->N, C = m->config.C;
    const Workspace *s = &m->workspace;
    if (!m->config.pre_norm) { return; }
    rmsnorm_backward(s->dnormed, dw, s->dnormed, x, w, rstd, N, C);
    add(s->dx, s->dnormed, N * C);
}

// ---------------------------------------------------------------------------------------------
// the layer

static void ablated_layer_forward(const OLMo2 *m, size_t l) {
    const OLMo2Config *c = &m->config;
    const size_t N = m->N, C = c->C, NH = c->NH, NKV = c->NKV, HS = c->HS, F = c->F;
    const size_t Q = NH * HS, KV = NKV * HS;
    const Workspace *s = &m->workspace;
    const LayerWeights w = layer_weights(m, l);
    const Activations a = layer_activations(m, l), next = layer_activations(m, l + 1);
    const float *in;

    // attention branch
    in = branch_begin(m, s->normed, a.attention_rstd, a.x, w.attention_norm, N);
    matmul_forward(a.q_raw, in, w.wq, N, C, Q);
    matmul_forward(a.k_raw, in, w.wk, N, C, KV);
    matmul_forward(a.v, in, w.wv, N, C, KV);
    ablated_qk_forward(m, s->q, a.q_rstd, a.q_raw, w.q_norm, NH);
    ablated_qk_forward(m, s->k, a.k_rstd, a.k_raw, w.k_norm, NKV);
    attention_forward(a.attention, a.lse, s->q, layer_past(m, l, s->k, a.v), m->tiles, m->tile_count,
                      s->scores, NH, NKV, HS);
    matmul_forward(a.o, a.attention, w.wo, N, Q, C);
    branch_end(m, a.h, a.attention_rstd, a.x, a.o, w.attention_norm, N);

    // feed-forward branch
    in = branch_begin(m, s->normed, a.feedforward_rstd, a.h, w.feedforward_norm, N);
    matmul_forward(a.gate, in, w.w_gate, N, C, F);
    matmul_forward(a.up, in, w.w_up, N, C, F);
    swiglu_forward(s->act, a.gate, a.up, N, F);
    matmul_forward(a.down, s->act, w.w_down, N, F, C);
    branch_end(m, next.x, a.feedforward_rstd, a.h, a.down, w.feedforward_norm, N);
}

static void ablated_layer_backward(const OLMo2 *m, size_t l) {
    const OLMo2Config *c = &m->config;
    const size_t B = m->B, T = m->T, N = B * T, C = c->C, NH = c->NH, NKV = c->NKV, HS = c->HS, F = c->F;
    const size_t Q = NH * HS, KV = NKV * HS;
    const Workspace *s = &m->workspace;
    const LayerWeights w = layer_weights(m, l);
    const LayerGradients d = layer_gradients(m, l);
    const Activations a = layer_activations(m, l);
    const float *in, *dout;
    float *din;

    // feed-forward branch
    dout = branch_end_backward(m, d.feedforward_norm, a.down, w.feedforward_norm, a.feedforward_rstd);
    swiglu_forward(s->act, a.gate, a.up, N, F);
    matmul_backward(s->dact, d.w_down, dout, s->act, w.w_down, N, F, C, false);
    swiglu_backward(s->dgate, s->dup, s->dact, a.gate, a.up, N, F);
    in = branch_begin(m, s->normed, a.feedforward_rstd, a.h, w.feedforward_norm, N);
    din = branch_begin_gradient(m);
    matmul_backward(din, d.w_up, s->dup, in, w.w_up, N, C, F, true);
    matmul_backward(din, d.w_gate, s->dgate, in, w.w_gate, N, C, F, true);
    branch_begin_backward(m, d.feedforward_norm, a.h, w.feedforward_norm, a.feedforward_rstd);

    // attention branch
    dout = branch_end_backward(m, d.attention_norm, a.o, w.attention_norm, a.attention_rstd);
    matmul_backward(s->dattention, d.wo, dout, a.attention, w.wo, N, Q, C, false);
    ablated_qk_forward(m, s->q, a.q_rstd, a.q_raw, w.q_norm, NH);
    ablated_qk_forward(m, s->k, a.k_rstd, a.k_raw, w.k_norm, NKV);
    attention_backward(s->dq, s->dk, s->dv, s->dattention, s->q, s->k, a.v, a.attention, a.lse, s->scores, B,
                       T, NH, NKV, HS);
    ablated_qk_backward(m, s->dk_raw, d.k_norm, s->dk, a.k_raw, w.k_norm, a.k_rstd, NKV);
    ablated_qk_backward(m, s->dq_raw, d.q_norm, s->dq, a.q_raw, w.q_norm, a.q_rstd, NH);
    in = branch_begin(m, s->normed, a.attention_rstd, a.x, w.attention_norm, N);
    din = branch_begin_gradient(m);
    matmul_backward(din, d.wv, s->dv, in, w.wv, N, C, KV, true);
    matmul_backward(din, d.wk, s->dk_raw, in, w.wk, N, C, KV, true);
    matmul_backward(din, d.wq, s->dq_raw, in, w.wq, N, C, Q, true);
    branch_begin_backward(m, d.attention_norm, a.x, w.attention_norm, a.attention_rstd);
}

#endif
