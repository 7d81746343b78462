// ngrams.h: the instance filter, which finds sequences with n-grams that repeat too often.
//
//   ngram_repeats(tokens, T, ...)           in a whole sequence; the same answer as OLMo-core's filter
//   labels_repeat(tokens, mask, T, ...)     among the labels of a sequence; what the data loader uses
#ifndef LLMC_NGRAMS_H
#define LLMC_NGRAMS_H

#include "utils.h"

// Whether some n-gram of min_period to max_period tokens (1 or more) occurs max_count times (3 or more) in a
// row in tokens (T). That is a run of (max_count - 1) p tokens, each equal to the one p places before.
// OLMo-core's filter, which ignores anything repeated fewer than 3 times, gives the same answer.
static inline bool ngram_repeats(const uint32_t *tokens, size_t T, size_t min_period, size_t max_period,
                                 size_t max_count) {
    if (max_count > T) { return false; }
    for (size_t p = min_period; p <= max_period && p < T; p++) {
        size_t run = 0;
        for (size_t t = p; t < T; t++) {
            run = tokens[t] == tokens[t - p] ? run + 1 : 0;
            if (run == (max_count - 1) * p) { return true; }
        }
    }
    return false;
}

// The same among the labels: tokens (T), mask (T), 1 for a label and 0 for none. Each unbroken run of labels
// is searched on its own, so a repetition counts only where all of its tokens are labels, and padding or a
// masked prompt is none. This equals ngram_repeats over the sequence in which every unlabelled token is
// replaced by an id of its own. With a mask of ones, which is what a file without a mask has, it is
// ngram_repeats.
//
// Here this program differs from OLMo-core, whose filter does not look at the mask: it drops a short document
// because of its padding. (open-instruct has no such filter.)
static inline bool labels_repeat(const uint32_t *tokens, const uint8_t *mask, size_t T, size_t min_period,
                                 size_t max_period, size_t max_count) {
    for (size_t start = 0; start < T;) {
        const uint8_t *unlabelled = (const uint8_t *)memchr(mask + start, 0, T - start);
        const size_t end = unlabelled == NULL ? T : (size_t)(unlabelled - mask);
        if (ngram_repeats(tokens + start, end - start, min_period, max_period, max_count)) { return true; }
        start = end + 1;
    }
    return false;
}

#endif
