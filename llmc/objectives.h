// objectives.h: what a model is trained for. An objective turns log-probabilities into one weight per token:
// the derivative of the objective with respect to -log p(label) of that token. The model needs nothing else
// (olmo2_classify).
//
// Every objective has the same parts, named after it. B sequences of T positions are one micro-batch:
//   NAME_weights(weights (B, T), labels (B, T), ...)    the derivative, 0 where a position has no label
//   NAME_add(sums, labels, logprobs (B, T), lse, ...)   adds the figures to report, summed over a step
// The language model's weights (pre-training, mid-training, fine-tuning) do not depend on log-probabilities,
// so one pass of olmo2_classify is enough. The weights of a preference or a reward do. Then olmo2_classify
// runs twice: without weights for the log-probabilities, and again with the weights that NAME_weights makes
// of them.
//
//   objective_labels, objective_count        labels from tokens and masks
//   lm_normalizer, lm_weights, lm_add        the language model
//          on paper: dev/doc/training.md    tested: dev/test/test_objectives.c
#ifndef LLMC_OBJECTIVES_H
#define LLMC_OBJECTIVES_H

#include "olmo2.h"

// tokens (B, T), mask (B, T), filtered (B) -> labels (B, T). A label is the token that follows. There is none
// (OLMO2_NO_TOKEN) at the last position, where the mask of the following token is 0, and in a filtered
// sequence.
static inline void objective_labels(uint32_t *labels, const uint32_t *tokens, const uint8_t *mask,
                                    const bool *filtered, size_t B, size_t T) {
    for (size_t b = 0; b < B; b++) {
        for (size_t t = 0; t < T; t++) {
            size_t i = b * T + t;
            bool trained = t + 1 < T && !filtered[b] && mask[i + 1];
            labels[i] = trained ? tokens[i + 1] : OLMO2_NO_TOKEN;
        }
    }
}

static inline size_t objective_count(const uint32_t *labels, size_t n) {
    size_t count = 0;
    for (size_t i = 0; i < n; i++) { count += labels[i] != OLMO2_NO_TOKEN; }
    return count;
}

// ---------------------------------------------------------------------------------------------
// The language model: (1 / N) sum_t (-log p(label_t) + z lse_t^2) over the positions with a label

// The share of N of these sequences; N is the sum over all sequences of the optimizer step. As in OLMo-core,
// N counts the labels, and T for each filtered sequence, which must not give the others more weight.
static inline size_t lm_normalizer(const uint32_t *labels, const bool *filtered, size_t B, size_t T) {
    size_t N = objective_count(labels, B * T);
    for (size_t b = 0; b < B; b++) { N += filtered[b] ? T : 0; }
    return N;
}

// labels (n) -> weights (n): 1 / N at each label.
static inline void lm_weights(float *weights, const uint32_t *labels, size_t n, size_t N) {
    float weight = N > 0 ? (float)(1.0 / (double)N) : 0.0f;
    for (size_t i = 0; i < n; i++) { weights[i] = labels[i] != OLMO2_NO_TOKEN ? weight : 0.0f; }
}

// Sums over labels. Divided by the number of labels they are the means that are reported; divided by N they
// are the objective. All zeros before the first lm_add.
typedef struct {
    double ce;      // cross-entropy: -log p(label), in nats
    double z;       // z lse^2
    size_t labels;  // how many
} LmSums;

// Adds labels (n), logprobs (n) and lse (n) as olmo2_classify leaves them; z is the factor of the z term.
static inline void lm_add(LmSums *sums, const uint32_t *labels, const float *logprobs, const float *lse,
                          size_t n, double z) {
    for (size_t i = 0; i < n; i++) {
        if (labels[i] == OLMO2_NO_TOKEN) { continue; }
        sums->ce -= (double)logprobs[i];
        sums->z += z * (double)lse[i] * (double)lse[i];
        sums->labels++;
    }
}

#endif
