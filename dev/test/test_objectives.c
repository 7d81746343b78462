// test_objectives.c: labels, the normaliser, weights and sums of the language model.
#include "llmc/objectives.h"

#include "check.h"

enum { B = 3, T = 4, NONE = -1 };

// Sequence 0 is whole, 1 has a mask, 2 is filtered.
static const uint32_t tokens[B * T] = {10, 11, 12, 13, 20, 21, 22, 23, 30, 31, 32, 33};
static const uint8_t mask[B * T] = {0, 1, 1, 1, 1, 0, 1, 0, 1, 1, 1, 1};
static const bool filtered[B] = {false, false, true};

static void test_labels(void) {
    const int64_t expected[B * T] = {11, 12, 13, NONE, NONE, 22, NONE, NONE, NONE, NONE, NONE, NONE};
    uint32_t labels[B * T];
    objective_labels(labels, tokens, mask, filtered, B, T);
    for (size_t i = 0; i < B * T; i++) {
        CHECK(labels[i] == (expected[i] == NONE ? OLMO2_NO_TOKEN : (uint32_t)expected[i]));
    }
    CHECK(objective_count(labels, B * T) == 4);
    CHECK(lm_normalizer(labels, filtered, B, T) == 4 + T);

    uint32_t alone = 0;  // T = 1: no position has a next token
    objective_labels(&alone, tokens, mask, filtered, 1, 1);
    CHECK(alone == OLMO2_NO_TOKEN);
}

static void test_normalizer_of_micro_batches(void) {
    uint32_t labels[B * T];
    objective_labels(labels, tokens, mask, filtered, B, T);
    size_t N = 0;
    for (size_t b = 0; b < B; b++) { N += lm_normalizer(labels + b * T, filtered + b, 1, T); }
    CHECK(N == lm_normalizer(labels, filtered, B, T));
}

static void test_weights(void) {
    uint32_t labels[B * T];
    float weights[B * T];
    objective_labels(labels, tokens, mask, filtered, B, T);
    lm_weights(weights, labels, B * T, 8);
    for (size_t i = 0; i < B * T; i++) { CHECK(weights[i] == (labels[i] == OLMO2_NO_TOKEN ? 0.0f : 0.125f)); }
    for (size_t i = 0; i < B * T; i++) { labels[i] = OLMO2_NO_TOKEN; }
    lm_weights(weights, labels, B * T, 0);  // a step without any label
    for (size_t i = 0; i < B * T; i++) { CHECK(weights[i] == 0.0f); }
}

static void test_sums(void) {
    const uint32_t labels[4] = {5, OLMO2_NO_TOKEN, 6, 7};
    const float logprobs[4] = {-1.5f, -100.0f, -2.0f, -0.25f}, lse[4] = {2.0f, 100.0f, -4.0f, 1.0f};
    LmSums sums = {0};
    lm_add(&sums, labels, logprobs, lse, 2, 0.5);
    lm_add(&sums, labels + 2, logprobs + 2, lse + 2, 2, 0.5);
    CHECK(sums.ce == 3.75);
    CHECK(sums.z == 0.5 * (4.0 + 16.0 + 1.0));
    CHECK(sums.labels == 3);
    const float nan_logprob = NAN;
    lm_add(&sums, labels, &nan_logprob, lse, 1, 0.5);
    CHECK(isnan(sums.ce));  // a NaN loss is reported as NaN
}

int main(void) {
    test_labels();
    test_normalizer_of_micro_batches();
    test_weights();
    test_sums();
    return check_report();
}
