// cpu_backend.h: train_olmo2.c next to train_olmo2.cu in one program. cpu_backend.c gives the CPU's functions
// other names. Here, for C++, overloads give them the interface's names back, so a template over the type of
// model works with both backends.
#ifndef DEV_TEST_CPU_BACKEND_H
#define DEV_TEST_CPU_BACKEND_H

#include "llmc/olmo2.h"

typedef struct CpuModel CpuModel;

#ifdef __cplusplus
extern "C" {
#endif
bool cpu_create(CpuModel **m, const OLMo2Config *config, const OLMo2Room *room, const OLMo2Form *form,
                Error *err);
void cpu_free(CpuModel *m);
const OLMo2Config *cpu_config(const CpuModel *m);
void cpu_forward(CpuModel *m, const uint32_t *tokens, size_t B, size_t T);
void cpu_classify(CpuModel *m, const uint32_t *labels, const float *weights, float z, float *logprobs,
                  float *lse);
void cpu_backward(CpuModel *m);
void cpu_zero_gradients(CpuModel *m);
double cpu_gradient_norm(CpuModel *m);
void cpu_update(CpuModel *m, const OLMo2AdamW *settings);
void cpu_read(const CpuModel *m, OLMo2Array array, size_t index, float *values);
void cpu_write(CpuModel *m, OLMo2Array array, size_t index, const float *values);
void cpu_decode(CpuModel *m, const uint32_t *tokens, const size_t *slots, size_t n, float *logits);
void cpu_prefill(CpuModel *m, const uint32_t *tokens, const OLMo2Piece *pieces, size_t n);
void cpu_logits(CpuModel *m, const size_t *rows, size_t n, float *logits);
void cpu_truncate(CpuModel *m, size_t slot, size_t positions);
void cpu_copy_slot(CpuModel *m, size_t to, size_t from, size_t begin, size_t end);
#ifdef __cplusplus
}

static inline bool olmo2_create(CpuModel **m, const OLMo2Config *config, const OLMo2Room *room,
                                const OLMo2Form *form, Error *err) {
    return cpu_create(m, config, room, form, err);
}
static inline void olmo2_free(CpuModel *m) { cpu_free(m); }
static inline const OLMo2Config *olmo2_config(const CpuModel *m) { return cpu_config(m); }
static inline void olmo2_forward(CpuModel *m, const uint32_t *tokens, size_t B, size_t T) {
    cpu_forward(m, tokens, B, T);
}
static inline void olmo2_classify(CpuModel *m, const uint32_t *labels, const float *weights, float z,
                                  float *logprobs, float *lse) {
    cpu_classify(m, labels, weights, z, logprobs, lse);
}
static inline void olmo2_backward(CpuModel *m) { cpu_backward(m); }
static inline void olmo2_zero_gradients(CpuModel *m) { cpu_zero_gradients(m); }
static inline double olmo2_gradient_norm(CpuModel *m) { return cpu_gradient_norm(m); }
static inline void olmo2_update(CpuModel *m, const OLMo2AdamW *settings) { cpu_update(m, settings); }
static inline void olmo2_read(const CpuModel *m, OLMo2Array array, size_t index, float *values) {
    cpu_read(m, array, index, values);
}
static inline void olmo2_write(CpuModel *m, OLMo2Array array, size_t index, const float *values) {
    cpu_write(m, array, index, values);
}
static inline void olmo2_decode(CpuModel *m, const uint32_t *tokens, const size_t *slots, size_t n,
                                float *logits) {
    cpu_decode(m, tokens, slots, n, logits);
}
static inline void olmo2_prefill(CpuModel *m, const uint32_t *tokens, const OLMo2Piece *pieces, size_t n) {
    cpu_prefill(m, tokens, pieces, n);
}
static inline void olmo2_logits(CpuModel *m, const size_t *rows, size_t n, float *logits) {
    cpu_logits(m, rows, n, logits);
}
static inline void olmo2_truncate(CpuModel *m, size_t slot, size_t positions) {
    cpu_truncate(m, slot, positions);
}
static inline void olmo2_copy_slot(CpuModel *m, size_t to, size_t from, size_t begin, size_t end) {
    cpu_copy_slot(m, to, from, begin, end);
}
#endif
#endif
