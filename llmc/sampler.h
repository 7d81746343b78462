// sampler.h: the next token from a row of logits: greedy, or drawn with temperature, top-k, top-p and min-p.
//
//   sampler_next(logits, V, settings, rng, scratch)   the id of the next token
//
// The settings apply in the order of transformers: first the temperature, then top-k, then top-p among what
// top-k left, then min-p.
#ifndef LLMC_SAMPLER_H
#define LLMC_SAMPLER_H

#include "rand.h"

typedef struct {
    double temperature;  // logits are divided by it; 0 takes the most probable token
    size_t top_k;        // only the k most probable tokens are drawn from; 0 for all
    double top_p;  // of these, only the most probable ones that together reach the probability p; 1 for all
    double min_p;  // of these, only those with at least this fraction of the largest probability; 0 for all
} SamplerSettings;

typedef struct {
    double weight;  // exp((logit - largest) / temperature)
    float logit;
    uint32_t id;
} SamplerCandidate;

// The order of preference: higher logits first, then lower ids, so ties have one outcome.
static inline bool sampler_prefers(const SamplerCandidate *a, const SamplerCandidate *b) {
    return a->logit > b->logit || (a->logit == b->logit && a->id < b->id);
}

// Lets heap[i] sink below the children that are preferred to it; heap (n), children of i at 2i + 1, 2i + 2.
static inline void sampler_sink(SamplerCandidate *heap, size_t i, size_t n) {
    SamplerCandidate sinking = heap[i];
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && sampler_prefers(&heap[child + 1], &heap[child])) { child++; }
        if (!sampler_prefers(&heap[child], &sinking)) { break; }
        heap[i] = heap[child];
    }
    heap[i] = sinking;
}

static inline void sampler_heap(SamplerCandidate *candidates, size_t n) {
    for (size_t i = n / 2; i-- > 0;) { sampler_sink(candidates, i, n); }
}

// Takes the preferred candidate out of a heap of *n and puts it right after those that stay.
static inline SamplerCandidate *sampler_pop(SamplerCandidate *heap, size_t *n) {
    SamplerCandidate best = heap[0];
    *n -= 1;
    heap[0] = heap[*n];
    sampler_sink(heap, 0, *n);
    heap[*n] = best;
    return &heap[*n];
}

// Sets the weight of every candidate (n) and returns their sum. The largest logit may be infinite.
static inline double sampler_weigh(SamplerCandidate *candidates, size_t n, float largest,
                                   double temperature) {
    double total = 0.0;
    for (size_t i = 0; i < n; i++) {
        float logit = candidates[i].logit;
        candidates[i].weight = logit == largest ? 1.0 : exp(((double)logit - (double)largest) / temperature);
        total += candidates[i].weight;
    }
    return total;
}

// Sets the weights below min_p to 0 and returns the sum of the others. The largest weight is 1.
static inline double sampler_cut(SamplerCandidate *candidates, size_t n, double min_p) {
    double total = 0.0;
    for (size_t i = 0; i < n; i++) {
        if (candidates[i].weight < min_p) { candidates[i].weight = 0.0; }
        total += candidates[i].weight;
    }
    return total;
}

// Draws with probability weight / total. A candidate of weight 0 is never drawn, however the sums are
// rounded.
static inline uint32_t sampler_draw(const SamplerCandidate *candidates, size_t n, double total, Pcg64 *rng) {
    double left = pcg64_double(rng) * total;
    uint32_t id = 0;
    for (size_t i = 0; i < n; i++) {
        if (candidates[i].weight == 0.0) { continue; }
        id = candidates[i].id;
        left -= candidates[i].weight;
        if (left < 0.0) { break; }
    }
    return id;
}

// logits (V) -> an id below V. scratch (V) belongs to the caller. Only a draw uses rng, and it takes one
// double. A logit of NaN or -inf is never chosen while there is another; if there is no other, the answer is
// 0.
static inline uint32_t sampler_next(const float *logits, size_t V, const SamplerSettings *s, Pcg64 *rng,
                                    SamplerCandidate *scratch) {
    SamplerCandidate *candidates = scratch, best = {0.0, -INFINITY, 0};
    const bool draws = s->temperature > 0.0;
    size_t n = 0;
    for (size_t id = 0; id < V; id++) {
        SamplerCandidate candidate = {0.0, logits[id], (uint32_t)id};
        if (!(candidate.logit > -INFINITY)) { continue; }
        if (candidate.logit > best.logit) { best = candidate; }
        if (draws) { candidates[n++] = candidate; }
    }
    if (n == 0) { return best.id; }

    if (s->top_k > 0 && s->top_k < n) {
        size_t rest = n;
        sampler_heap(candidates, n);
        while (n - rest < s->top_k) { sampler_pop(candidates, &rest); }
        candidates += rest;
        n -= rest;
    }
    double total = sampler_weigh(candidates, n, best.logit, s->temperature);
    if (s->top_p < 1.0) {
        size_t rest = n;
        double enough = s->top_p * total, kept = 0.0;
        sampler_heap(candidates, n);
        do { kept += sampler_pop(candidates, &rest)->weight; } while (rest > 0 && kept < enough);
        candidates += rest;
        n -= rest;
        total = kept;
    }
    if (s->min_p > 0.0) { total = sampler_cut(candidates, n, fmin(s->min_p, 1.0)); }
    return sampler_draw(candidates, n, total, rng);
}

#endif
