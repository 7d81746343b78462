// test_sampler.c: which tokens the sampler may choose, and how often it chooses each.
#include "llmc/sampler.h"

#include "check.h"

enum { LARGE = 100352, SMALL = 40 };

static uint32_t sample(const float *logits, size_t V, double temperature, size_t top_k, double top_p,
                       uint64_t seed) {
    static SamplerCandidate scratch[LARGE];
    SamplerSettings settings = {temperature, top_k, top_p, 0.0};
    Pcg64 rng;
    pcg64_seed(&rng, seed);
    return sampler_next(logits, V, &settings, &rng, scratch);
}

static void test_greedy(void) {
    const float logits[] = {0.5f, 2.0f, -1.0f, 2.0f, NAN, 1.0f};
    CHECK(sample(logits, 6, 0.0, 0, 1.0, 1) == 1);  // the lower id of two equal logits
    CHECK(sample(logits, 6, -1.0, 0, 1.0, 1) == 1);
    CHECK(sample(logits, 6, NAN, 0, 1.0, 1) == 1);
    CHECK(sample(logits, 1, 0.0, 0, 1.0, 1) == 0);
    for (uint64_t seed = 0; seed < 100; seed++) {
        CHECK(sample(logits, 6, 1.0, 1, 1.0, seed) == 1);
        CHECK(sample(logits, 6, 1.0, 0, 0.0, seed) == 1);
        CHECK(sample(logits, 6, 1.0, 0, -1.0, seed) == 1);
        CHECK(sample(logits, 6, 1e-30, 4, 0.9, seed) % 2 == 1);
    }
}

// Whatever the logits and settings, the chosen logit is a number if any logit is one.
static void test_strange_logits(void) {
    const float nothing[] = {NAN, -INFINITY, NAN}, all_minus[] = {-INFINITY, -INFINITY};
    const float one[] = {NAN, -INFINITY, -3e38f, NAN}, infinite[] = {1.0f, INFINITY, NAN, INFINITY, 0.0f};
    const float far_apart[] = {-3e38f, 3e38f, -3e38f};
    const double temperatures[] = {0.0, 1e-300, 0.7, 1.0, 1e300, INFINITY};
    const size_t top_ks[] = {0, 1, 2, 100};
    const double top_ps[] = {0.0, 0.5, 1.0, 2.0};
    for (size_t i = 0; i < 6 * 4 * 4; i++) {
        double t = temperatures[i / 16], p = top_ps[i % 4];
        size_t k = top_ks[i / 4 % 4];
        for (uint64_t seed = 0; seed < 20; seed++) {
            CHECK(sample(nothing, 3, t, k, p, seed) == 0);
            CHECK(sample(all_minus, 2, t, k, p, seed) == 0);
            CHECK(sample(one, 4, t, k, p, seed) == 2);
            uint32_t id = sample(infinite, 5, t, k, p, seed);
            CHECK(id == 1 || id == 3 || (id != 2 && t == INFINITY));
            id = sample(far_apart, 3, t, k, p, seed);
            CHECK(id == 1 || (id < 3 && t >= 1e300));
        }
    }
}

// Infinite logits share the probability. A total that rounding made too large never selects a token of
// weight 0.
static void test_limits_of_weights(void) {
    const float infinite[] = {1.0f, INFINITY, NAN, INFINITY, 0.0f};
    const SamplerCandidate candidates[] = {{1.0, 0.0f, 5}, {2.0, 0.0f, 6}, {0.0, 0.0f, 7}};
    size_t counts[5] = {0};
    Pcg64 rng;
    for (uint64_t seed = 0; seed < 100; seed++) { counts[sample(infinite, 5, 1.0, 0, 1.0, seed)]++; }
    CHECK(counts[1] > 20 && counts[3] > 20 && counts[1] + counts[3] == 100);
    pcg64_seed(&rng, 1);
    CHECK(sampler_draw(candidates, 3, 1e9, &rng) == 6);
}

// The tokens that may be chosen, from their definition: the rank of a token is the number of tokens preferred
// to it; top-k keeps ranks below k; top-p keeps a token if those of lower rank hold less than p of what top-k
// kept; min-p keeps a token if its probability is at least that fraction of the largest. Returns how many are
// kept and sets probabilities (V), 0 for the others.
static size_t kept_by_definition(const float *logits, size_t V, const SamplerSettings *s,
                                 double *probabilities) {
    double weights[SMALL], total = 0.0, kept_total = 0.0, largest = 0.0;
    size_t ranks[SMALL], kept = 0;
    for (size_t i = 0; i < V; i++) {
        ranks[i] = 0;
        for (size_t j = 0; j < V; j++) {
            ranks[i] += logits[j] > logits[i] || (logits[j] == logits[i] && j < i);
        }
        weights[i] = s->top_k == 0 || ranks[i] < s->top_k ? exp((double)logits[i] / s->temperature) : 0.0;
        total += weights[i];
        largest = fmax(largest, weights[i]);
    }
    for (size_t i = 0; i < V; i++) {
        double before = 0.0;
        for (size_t j = 0; j < V; j++) { before += ranks[j] < ranks[i] ? weights[j] : 0.0; }
        bool keep = weights[i] > 0.0 && (s->top_p >= 1.0 || before < s->top_p * total * (1.0 - 1e-12));
        keep = keep && (weights[i] == largest || weights[i] >= s->min_p * largest);
        probabilities[i] = keep ? weights[i] : 0.0;
        kept_total += probabilities[i];
        kept += keep;
    }
    for (size_t i = 0; i < V; i++) { probabilities[i] /= kept_total; }
    return kept;
}

// Draws many times with a fixed seed. chi-square of n kept tokens has mean n - 1 and variance 2 (n - 1); 8 of
// its deviations (its tail is longer than a normal one) are exceeded by chance less than once in a million
// settings.
static void check_distribution(const float *logits, size_t V, const SamplerSettings *s, uint64_t seed) {
    enum { DRAWS = 20000 };
    SamplerCandidate scratch[SMALL];
    double probabilities[SMALL], chi = 0.0;
    size_t counts[SMALL] = {0}, outside = 0, kept = kept_by_definition(logits, V, s, probabilities);
    Pcg64 rng;
    pcg64_seed(&rng, seed);
    for (size_t i = 0; i < DRAWS; i++) {
        uint32_t id = sampler_next(logits, V, s, &rng, scratch);
        bool allowed = id < V && probabilities[id] > 0.0;
        counts[allowed ? id : 0]++;
        outside += !allowed;
    }
    CHECK(outside == 0);
    for (size_t i = 0; i < V; i++) {
        double want = DRAWS * probabilities[i];
        if (want > 0.0) { chi += ((double)counts[i] - want) * ((double)counts[i] - want) / want; }
    }
    double freedom = (double)kept - 1.0;
    CHECK(kept == 1 || chi <= freedom + 8.0 * sqrt(2.0 * freedom));
}

static void test_distribution(void) {
    const double temperatures[] = {0.5, 1.0, 2.0}, top_ps[] = {0.3, 0.9, 1.0};
    const size_t top_ks[] = {0, 1, 5, SMALL - 1, SMALL, SMALL + 1};
    float logits[SMALL];
    Pcg64 rng;
    pcg64_seed(&rng, 2);
    // Multiples of a quarter, because then many are equal, in a range that keeps every expected count above
    // 5.
    for (size_t i = 0; i < SMALL; i++) { logits[i] = 0.25f * (float)pcg64_bounded(&rng, 8); }
    for (size_t t = 0; t < 3; t++) {
        for (size_t k = 0; k < 6; k++) {
            for (size_t p = 0; p < 3; p++) {
                SamplerSettings s = {temperatures[t], top_ks[k], top_ps[p], 0.0};
                check_distribution(logits, SMALL, &s, 18 * t + 3 * k + p);
                s.min_p = 0.3;  // not a power of exp(0.25 / temperature)
                check_distribution(logits, SMALL, &s, 54 + 18 * t + 3 * k + p);
            }
        }
    }
}

// The same for one draw each from many rows of logits: only tokens that may be chosen.
static void test_kept_sets(void) {
    Pcg64 rng;
    pcg64_seed(&rng, 5);
    for (size_t round = 0; round < 3000; round++) {
        float logits[SMALL];
        double probabilities[SMALL];
        SamplerCandidate scratch[SMALL];
        size_t V = 1 + pcg64_bounded(&rng, SMALL - 1);
        for (size_t i = 0; i < V; i++) { logits[i] = (float)(4.0 * pcg64_double(&rng)); }
        SamplerSettings s = {0.2 + pcg64_double(&rng), pcg64_bounded(&rng, SMALL), pcg64_double(&rng), 0.0};
        if (round % 2 == 1) { s.min_p = pcg64_double(&rng); }
        kept_by_definition(logits, V, &s, probabilities);
        CHECK(probabilities[sampler_next(logits, V, &s, &rng, scratch)] > 0.0);
    }
}

// min-p alone: at the limit and beyond it, the most probable tokens are left.
static void test_min_p(void) {
    const float logits[] = {0.0f, 1.0f, 2.0f, 2.0f, -INFINITY, NAN};
    SamplerCandidate scratch[6];
    const struct {
        double min_p;
        uint32_t least;  // the lowest id that is drawn
    } cases[] = {{0.0, 0}, {exp(-2.0) - 1e-9, 0}, {exp(-2.0) + 1e-9, 1}, {exp(-1.0) + 1e-9, 2}, {1.0, 2},
                 {7.0, 2}};
    Pcg64 rng;
    pcg64_seed(&rng, 4);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const SamplerSettings s = {1.0, 0, 1.0, cases[i].min_p};
        uint32_t least = 6;
        for (size_t draw = 0; draw < 400; draw++) {  // the rarest has probability 0.05: missed with 1e-9
            const uint32_t id = sampler_next(logits, 6, &s, &rng, scratch);
            CHECK(id < 4);
            least = id < least ? id : least;
        }
        CHECK(least == cases[i].least);
    }
}

// A whole vocabulary in increasing order, the worst case of the heap.
static void test_large(void) {
    static float logits[LARGE];
    for (size_t i = 0; i < LARGE; i++) { logits[i] = (float)i / 1000.0f; }
    logits[17] = NAN;
    for (uint64_t seed = 0; seed < 5; seed++) {
        CHECK(sample(logits, LARGE, 1.0, 10, 1.0, seed) >= LARGE - 10);
        CHECK(sample(logits, LARGE, 1.0, 0, 0.5, seed) >= LARGE - 700);  // exp(-0.7) < 0.5
        CHECK(sample(logits, LARGE, 1e6, 0, 0.999, seed) < LARGE);
        CHECK(sample(logits, LARGE, 1.0, 0, 1.0, seed) == sample(logits, LARGE, 1.0, 0, 1.0, seed));
    }
    CHECK(sample(logits, LARGE, 0.0, 0, 1.0, 0) == LARGE - 1);
}

int main(void) {
    test_greedy();
    test_strange_logits();
    test_limits_of_weights();
    test_distribution();
    test_kept_sets();
    test_min_p();
    test_large();
    return check_report();
}
