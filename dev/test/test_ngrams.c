// test_ngrams.c: the instance filter against its definition.
#include "llmc/ngrams.h"
#include "llmc/rand.h"

#include "check.h"

// From the definition: a span of `count` equal n-grams that follow each other.
static bool repeats_by_definition(const uint32_t *a, size_t n, size_t low, size_t high, size_t count) {
    for (size_t p = low; p <= high; p++) {
        for (size_t start = 0; start + count * p <= n; start++) {
            bool same = true;
            for (size_t i = p; same && i < count * p; i++) { same = a[start + i] == a[start + i % p]; }
            if (same) { return true; }
        }
    }
    return false;
}

static void test_ngram_repeats(void) {
    enum { LENGTH = 4096 };
    static uint32_t a[LENGTH];
    // The boundary at every period: 32 p - 1 tokens of the pattern pass, 32 p do not, anywhere.
    for (size_t p = 1; p <= 13; p++) {
        const size_t starts[] = {0, 1, 1000, LENGTH - 32 * p};
        for (size_t k = 0; k < 4; k++) {
            for (size_t i = 0; i < LENGTH; i++) { a[i] = (uint32_t)i; }
            for (size_t i = 0; i < 32 * p; i++) { a[starts[k] + i] = 100000 + (uint32_t)(i % p); }
            CHECK(ngram_repeats(a, LENGTH, 1, 13, 32));
            CHECK(ngram_repeats(a, LENGTH, p, p, 32));
            CHECK(!ngram_repeats(a, LENGTH, p + 1, 13, 32));
            CHECK(!ngram_repeats(a, LENGTH, 1, p - 1, 32));
            CHECK(!ngram_repeats(a, LENGTH, 1, 13, 33));
            a[starts[k] + 32 * p - 1] = 99;
            CHECK(!ngram_repeats(a, LENGTH, 1, 13, 32));
        }
    }
    for (size_t i = 0; i < LENGTH; i++) { a[i] = (uint32_t)(i % 14); }
    CHECK(!ngram_repeats(a, LENGTH, 1, 13, 32));

    Pcg64 rng;
    size_t disagreements = 0, found = 0;
    pcg64_seed(&rng, 4);
    for (size_t round = 0; round < 5000; round++) {
        size_t n = pcg64_bounded(&rng, 40), low = 1 + pcg64_bounded(&rng, 2),
               count = 3 + pcg64_bounded(&rng, 3);
        for (size_t i = 0; i < n; i++) { a[i] = pcg64_bounded(&rng, 1); }
        bool expected = repeats_by_definition(a, n, low, low + 4, count);
        disagreements += ngram_repeats(a, n, low, low + 4, count) != expected;
        found += expected;
    }
    CHECK(disagreements == 0);
    CHECK(found > 1000 && found < 4000);
    CHECK(!ngram_repeats(a, 0, 1, 13, 3));
    for (uint32_t i = 0; i < 5; i++) { a[i] = i; }
    CHECK(
        !ngram_repeats(a, 5, 1, SIZE_MAX - 1, SIZE_MAX / 2 + 2));  // twice one less than the count wraps to 0
}

// The definition: as if each token without a label had an id of its own. A mask of ones changes nothing.
static void test_labels_repeat(void) {
    uint32_t a[40], own[40];
    uint8_t labels[40];
    Pcg64 rng;
    size_t disagreements = 0, found = 0;
    pcg64_seed(&rng, 5);
    for (size_t round = 0; round < 20000; round++) {
        const size_t n = pcg64_bounded(&rng, 40), low = 1 + pcg64_bounded(&rng, 2),
                     count = 3 + pcg64_bounded(&rng, 1);
        const bool all = round % 4 == 0;
        for (size_t i = 0; i < n; i++) {
            a[i] = pcg64_bounded(&rng, 1);
            labels[i] = all || pcg64_bounded(&rng, 15) > 0;
            own[i] = labels[i] ? a[i] : 1000 + (uint32_t)i;
        }
        const bool expected = repeats_by_definition(own, n, low, low + 4, count);
        disagreements += labels_repeat(a, labels, n, low, low + 4, count) != expected;
        if (all) { disagreements += ngram_repeats(a, n, low, low + 4, count) != expected; }
        found += expected;
    }
    CHECK(disagreements == 0);
    CHECK(found > 4000 && found < 16000);
}

int main(void) {
    test_ngram_repeats();
    test_labels_repeat();
    return check_report();
}
