// batch.h: B sequences of T tokens, their labels, and what the model computes for them.
//
//   batch_create, batch_free   room for B sequences
//   batch_next                 the next sequences of a loader, with their labels
//   batch_part                 some of a batch's sequences, as a batch of their own
//   check_batch                whether a model can take that many tokens at once
#ifndef LLMC_BATCH_H
#define LLMC_BATCH_H

#include "dataloader.h"
#include "objectives.h"

typedef struct {
    size_t B, T;
    uint32_t *tokens;       // (B, T)
    uint8_t *mask;          // (B, T)
    bool *filtered;         // (B)
    uint32_t *labels;       // (B, T)
    float *weights;         // (B, T)
    float *logprobs, *lse;  // (B, T)
} Batch;

// A model takes no more than its max_position_embeddings, and a single token has no label.
static inline bool check_length(const OLMo2Config *config, size_t T, Error *err) {
    return (T >= 2 && T <= config->max_T) ||
           fail(err, "--seq-len %zu: expected 2 to %zu, the model's max_position_embeddings", T,
                config->max_T);
}

// Rejects B x T for which the size of a buffer would overflow 64 bits. 16 floats per channel and layer is an
// upper bound for the activations and the scratch space.
static inline bool check_batch(const OLMo2Config *config, size_t B, size_t T, Error *err) {
    const size_t channels = config->C + (config->NH + config->NKV) * config->HS + config->F;
    size_t n;
    if (!check_length(config, T, err)) { return false; }
    if (multiply_sizes(B, T, &n) && multiply_sizes(n, 16 * sizeof(float) * (config->L + 1) * channels, &n)) {
        return true;
    }
    return fail(err, "%zu sequences of %zu tokens at once are more than any machine can hold", B, T);
}

static inline void batch_free(Batch *batch) {
    free(batch->tokens);
    free(batch->mask);
    free(batch->filtered);
    free(batch->labels);
    free(batch->weights);
    free(batch->logprobs);
    free(batch->lse);
    memset(batch, 0, sizeof *batch);
}

// Release with batch_free, also after a failure.
static inline bool batch_create(Batch *batch, size_t B, size_t T, Error *err) {
    const char *what = "a batch of tokens";
    size_t n;
    memset(batch, 0, sizeof *batch);
    if (!multiply_sizes(B, T, &n)) { return fail(err, "%zu sequences of %zu tokens are too many", B, T); }
    batch->B = B;
    batch->T = T;
    batch->tokens = (uint32_t *)allocate(n, sizeof *batch->tokens, what, err);
    batch->mask = (uint8_t *)allocate(n, sizeof *batch->mask, what, err);
    batch->filtered = (bool *)allocate(B, sizeof *batch->filtered, what, err);
    batch->labels = (uint32_t *)allocate(n, sizeof *batch->labels, what, err);
    batch->weights = (float *)allocate(n, sizeof *batch->weights, what, err);
    batch->logprobs = (float *)allocate(n, sizeof *batch->logprobs, what, err);
    batch->lse = (float *)allocate(n, sizeof *batch->lse, what, err);
    return batch->tokens != NULL && batch->mask != NULL && batch->filtered != NULL && batch->labels != NULL &&
           batch->weights != NULL && batch->logprobs != NULL && batch->lse != NULL;
}

// The next n <= B sequences of the loader.
static inline bool batch_next(Batch *batch, DataLoader *loader, size_t n, Error *err) {
    if (!dataloader_next(loader, n, batch->tokens, batch->mask, batch->filtered, err)) { return false; }
    objective_labels(batch->labels, batch->tokens, batch->mask, batch->filtered, n, batch->T);
    return true;
}

// Up to n sequences from sequence b on. The part points into the batch, which remains the owner.
static inline Batch batch_part(const Batch *batch, size_t b, size_t n) {
    const size_t at = b * batch->T;
    Batch part = *batch;
    part.B = batch->B - b < n ? batch->B - b : n;
    part.tokens += at;
    part.mask += at;
    part.filtered += b;
    part.labels += at;
    part.weights += at;
    part.logprobs += at;
    part.lse += at;
    return part;
}

#endif
