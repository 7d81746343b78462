// loops.h: the matrix product, attention and the classifier by the methods of llm.c (Andrej Karpathy,
// train_gpt2.c): plain loops without tiles or packing, and threads where llm.c has them. Signatures are
// those of train_olmo2.c without bf16 weights and caches. These functions are version 2 of every ladder
// here. They can also make up a whole step: build/bench_step_loops is build/bench_step with these functions
// in place of the shipped ones.
#ifndef DEV_CPU_LOOPS_H
#define DEV_CPU_LOOPS_H

#include "../../llmc/olmo2.h"

void matmul_forward_loops(float *y, const float *x, const float *w, size_t N, size_t I, size_t O);
void matmul_backward_input_loops(float *dx, const float *dy, const float *w, size_t N, size_t I, size_t O,
                                 bool accumulate_dx);
void matmul_backward_weight_loops(float *dw, const float *dy, const float *x, size_t N, size_t I, size_t O);
void matmul_backward_loops(float *dx, float *dw, const float *dy, const float *x, const float *w, size_t N,
                           size_t I, size_t O, bool accumulate_dx);

void attention_forward_loops(float *o, float *lse, const float *q, const float *k, const float *v,
                             float *scratch, size_t B, size_t T, size_t NH, size_t NKV, size_t HS);
void attention_backward_loops(float *dq, float *dk, float *dv, const float *d_o, const float *q,
                              const float *k, const float *v, const float *o, const float *lse,
                              float *scratch, size_t B, size_t T, size_t NH, size_t NKV, size_t HS);

void classifier_forward_loops(float *logprobs, float *lse, const float *logits, const uint32_t *labels,
                              size_t N, size_t V);
void classifier_backward_loops(float *logits, const float *lse, const uint32_t *labels, const float *weights,
                               float z, size_t N, size_t V);

// For a whole step: a sed in dev/rules.mk renames the definitions in train_olmo2.c, so its calls reach the
// loops.
#ifdef STEP_WITH_LOOPS
#define matmul_forward(y, x, w, N, I, O) matmul_forward_loops(y, x, (w).data, N, I, O)
#define matmul_backward(dx, dw, dy, x, w, N, I, O, accumulate_dx) \
    matmul_backward_loops(dx, dw, dy, x, (w).data, N, I, O, accumulate_dx)
#define attention_forward(o, lse, q, past, tiles, tile_count, scratch, NH, NKV, HS) \
    attention_forward_loops(o, lse, q, (past).k, (past).v, scratch, m->B, m->T, NH, NKV, HS)
#define attention_backward attention_backward_loops
#define classifier_forward classifier_forward_loops
#define classifier_backward classifier_backward_loops
#endif

#endif
