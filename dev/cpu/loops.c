// loops.c: see loops.h. dev/rules.mk compiles this file with -ffast-math, as llm.c is compiled (its -Ofast
// means -O3 -ffast-math). Only then may a compiler vectorise these sums and the calls of expf.
#include "loops.h"

#include <float.h>

// ---------------------------------------------------------------------------------------------
// Matrix product: y = x W^T

// x (N, I), w (O, I) -> y (N, O). Eight rows of x share each number of w that is read. Each row has a sum of
// its own, which waits for no other. Remaining rows go one by one.
void matmul_forward_loops(float *y, const float *x, const float *w, size_t N, size_t I, size_t O) {
    enum { ROWS = 8 };
    const size_t whole = N / ROWS * ROWS;
#pragma omp parallel for
    for (size_t n = 0; n < whole; n += ROWS) {
        for (size_t o = 0; o < O; o++) {
            float sum[ROWS] = {0.0f};
            for (size_t i = 0; i < I; i++) {
                const float w_oi = w[o * I + i];
                for (size_t r = 0; r < ROWS; r++) { sum[r] += x[(n + r) * I + i] * w_oi; }
            }
            for (size_t r = 0; r < ROWS; r++) { y[(n + r) * O + o] = sum[r]; }
        }
    }
#pragma omp parallel for collapse(2)
    for (size_t n = whole; n < N; n++) {
        for (size_t o = 0; o < O; o++) {
            float sum = 0.0f;
            for (size_t i = 0; i < I; i++) { sum += x[n * I + i] * w[o * I + i]; }
            y[n * O + o] = sum;
        }
    }
}

// dy (N, O), w (O, I) -> dx (N, I) accumulated or assigned: a row of dx is the sum of all rows of w.
void matmul_backward_input_loops(float *dx, const float *dy, const float *w, size_t N, size_t I, size_t O,
                                 bool accumulate_dx) {
#pragma omp parallel for
    for (size_t n = 0; n < N; n++) {
        float *dx_n = dx + n * I;
        if (!accumulate_dx) { memset(dx_n, 0, I * sizeof(float)); }
        for (size_t o = 0; o < O; o++) {
            const float *w_o = w + o * I, dy_no = dy[n * O + o];
            for (size_t i = 0; i < I; i++) { dx_n[i] += dy_no * w_o[i]; }
        }
    }
}

// dy (N, O), x (N, I) -> dw (O, I) accumulated: a row of dw is the sum of all rows of x.
void matmul_backward_weight_loops(float *dw, const float *dy, const float *x, size_t N, size_t I, size_t O) {
#pragma omp parallel for
    for (size_t o = 0; o < O; o++) {
        float *dw_o = dw + o * I;
        for (size_t n = 0; n < N; n++) {
            const float *x_n = x + n * I, dy_no = dy[n * O + o];
            for (size_t i = 0; i < I; i++) { dw_o[i] += dy_no * x_n[i]; }
        }
    }
}

void matmul_backward_loops(float *dx, float *dw, const float *dy, const float *x, const float *w, size_t N,
                           size_t I, size_t O, bool accumulate_dx) {
    matmul_backward_input_loops(dx, dy, w, N, I, O, accumulate_dx);
    matmul_backward_weight_loops(dw, dy, x, N, I, O);
}

// ---------------------------------------------------------------------------------------------
// Causal attention with grouped queries. llm.c keeps the probabilities of the forward, T x T for each head of
// each layer, for the backward. train_olmo2.c has no such arrays, so here they are recomputed.

// q (B, T, NH, HS), k and v (B, T, NKV, HS) -> o (B, T, NH, HS), lse (B, T, NH). One query at a time, in
// three passes over the keys that it sees.
void attention_forward_loops(float *o, float *lse, const float *q, const float *k, const float *v,
                             float *scratch, size_t B, size_t T, size_t NH, size_t NKV, size_t HS) {
    const float scale = 1.0f / sqrtf((float)HS);
#pragma omp parallel for collapse(3)
    for (size_t b = 0; b < B; b++) {
        for (size_t t = 0; t < T; t++) {
            for (size_t h = 0; h < NH; h++) {
                const size_t query = ((b * T + t) * NH + h) * HS, key = (b * T * NKV + h / (NH / NKV)) * HS;
                const float *q_t = q + query;
                float *o_t = o + query, *p = scratch + thread_number() * 2 * T;
                float max = -FLT_MAX, sum = 0.0f;
                for (size_t j = 0; j <= t; j++) {
                    const float *k_j = k + key + j * NKV * HS;
                    float score = 0.0f;
                    for (size_t i = 0; i < HS; i++) { score += q_t[i] * k_j[i]; }
                    p[j] = score * scale;
                    if (p[j] > max) { max = p[j]; }
                }
                for (size_t j = 0; j <= t; j++) {
                    p[j] = expf(p[j] - max);
                    sum += p[j];
                }
                memset(o_t, 0, HS * sizeof(float));
                for (size_t j = 0; j <= t; j++) {
                    const float *v_j = v + key + j * NKV * HS, p_j = p[j] / sum;
                    for (size_t i = 0; i < HS; i++) { o_t[i] += p_j * v_j[i]; }
                }
                lse[(b * T + t) * NH + h] = max + logf(sum);
            }
        }
    }
}

// d_o (B, T, NH, HS), and q, k, v, o, lse of the forward -> dq (B, T, NH, HS), dk and dv (B, T, NKV, HS). As
// in llm.c, this uses one thread, since queries add to the same dk and dv. The softmax of query t takes t^2
// steps: ds_m = sum_j p_j ([j=m] - p_m) dp_j.
void attention_backward_loops(float *dq, float *dk, float *dv, const float *d_o, const float *q,
                              const float *k, const float *v, const float *o, const float *lse,
                              float *scratch, size_t B, size_t T, size_t NH, size_t NKV, size_t HS) {
    const size_t KV = NKV * HS;
    const float scale = 1.0f / sqrtf((float)HS);
    float *p = scratch, *dp = p + T, *ds = dp + T;
    (void)o;
    memset(dq, 0, B * T * NH * HS * sizeof(float));
    memset(dk, 0, B * T * KV * sizeof(float));
    memset(dv, 0, B * T * KV * sizeof(float));
    for (size_t b = 0; b < B; b++) {
        for (size_t t = 0; t < T; t++) {
            for (size_t h = 0; h < NH; h++) {
                const size_t query = ((b * T + t) * NH + h) * HS, key = (b * T * NKV + h / (NH / NKV)) * HS;
                const float *q_t = q + query, *do_t = d_o + query, lse_t = lse[(b * T + t) * NH + h];
                float *dq_t = dq + query;
                for (size_t j = 0; j <= t; j++) {
                    const float *k_j = k + key + j * KV;
                    float score = 0.0f;
                    for (size_t i = 0; i < HS; i++) { score += q_t[i] * k_j[i]; }
                    p[j] = expf(score * scale - lse_t);
                }
                for (size_t j = 0; j <= t; j++) {
                    const float *v_j = v + key + j * KV;
                    float *dv_j = dv + key + j * KV, sum = 0.0f;
                    for (size_t i = 0; i < HS; i++) {
                        sum += v_j[i] * do_t[i];
                        dv_j[i] += p[j] * do_t[i];
                    }
                    dp[j] = sum;
                    ds[j] = 0.0f;
                }
                for (size_t j = 0; j <= t; j++) {
                    for (size_t m = 0; m <= t; m++) {
                        const float indicator = j == m ? 1.0f : 0.0f;
                        ds[m] += p[j] * (indicator - p[m]) * dp[j];
                    }
                }
                for (size_t j = 0; j <= t; j++) {
                    const float *k_j = k + key + j * KV;
                    float *dk_j = dk + key + j * KV;
                    for (size_t i = 0; i < HS; i++) {
                        dq_t[i] += k_j[i] * ds[j] * scale;
                        dk_j[i] += q_t[i] * ds[j] * scale;
                    }
                }
            }
        }
    }
}

// ---------------------------------------------------------------------------------------------
// Classifier: a softmax, whose probabilities are kept for the backward, then the cross-entropy

// Holds the probabilities of the last forward. llm.c has them among its activations.
static float *probability_array(size_t count) {
    static float *probabilities;
    static size_t room;
    if (count > room) {
        Error err;
        free(probabilities);
        probabilities = (float *)allocate(count, sizeof(float), "the probabilities", &err);
        if (probabilities == NULL) {
            fprintf(stderr, "error: %s\n", err.text);
            exit(1);
        }
        room = count;
    }
    return probabilities;
}

// logits (N, V), labels (N) -> logprobs, lse (N)
void classifier_forward_loops(float *logprobs, float *lse, const float *logits, const uint32_t *labels,
                              size_t N, size_t V) {
    float *probabilities = probability_array(N * V);
#pragma omp parallel for
    for (size_t n = 0; n < N; n++) {
        const float *row = logits + n * V;
        float *p = probabilities + n * V, max = -FLT_MAX, sum = 0.0f;
        for (size_t j = 0; j < V; j++) {
            if (row[j] > max) { max = row[j]; }
        }
        for (size_t j = 0; j < V; j++) {
            p[j] = expf(row[j] - max);
            sum += p[j];
        }
        for (size_t j = 0; j < V; j++) { p[j] /= sum; }
        lse[n] = max + logf(sum);
    }
    for (size_t n = 0; n < N; n++) {
        logprobs[n] = labels[n] == OLMO2_NO_TOKEN ? 0.0f : logf(probabilities[n * V + labels[n]]);
    }
}

// logits (N, V), those of the last forward, become dlogits. One thread, as in llm.c.
void classifier_backward_loops(float *logits, const float *lse, const uint32_t *labels, const float *weights,
                               float z, size_t N, size_t V) {
    const float *probabilities = probability_array(N * V);
    for (size_t n = 0; n < N; n++) {
        const float *p = probabilities + n * V, factor = 1.0f + 2.0f * z * lse[n];
        for (size_t j = 0; j < V; j++) {
            const float indicator = j == labels[n] ? 1.0f : 0.0f;
            logits[n * V + j] = (p[j] * factor - indicator) * weights[n];
        }
    }
}
