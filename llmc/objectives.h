// objectives.h: what a model is trained for. An objective turns log-probabilities into one weight per token:
// how fast the objective falls as -log p(label) of that token falls. The model needs nothing else
// (olmo2_classify).
//
// Every objective has the same parts, named after it; B sequences of T positions are one micro-batch:
//   NAME_weights(weights (B, T), labels (B, T), ...)    the derivative by -log p(label), 0 where there is none
//   NAME_add(sums, labels, logprobs (B, T), lse, ...)   adds the figures to report, summed over a step
// The weights of the language model (pre-training, mid-training, fine-tuning) do not depend on
// log-probabilities: one pass of olmo2_classify. Those of a preference or a reward do: olmo2_classify without
// weights gives the log-probabilities, NAME_weights takes them besides its own inputs, and olmo2_classify
// with weights follows.
#ifndef LLMC_OBJECTIVES_H
#define LLMC_OBJECTIVES_H

#include "olmo2.h"

// tokens (B, T), mask (B, T), filtered (B) -> labels (B, T), each the token that follows, or OLMO2_NO_TOKEN:
// at the last position, where mask says of the following token that it is no label, and in a filtered
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

// These sequences' share of N, which is summed over all sequences of the optimizer step. As in OLMo-core, N
// counts the labels and, for each filtered sequence, T: a filtered one must not give the others more weight.
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

// Sums over labels; divided by their number they are the means that are reported, divided by N the objective.
// All zeros before the first lm_add.
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
