// rand.h: random numbers.
//
//   pcg64_seed               start from a seed
//   pcg64_next, _next32      64 or 32 uniform bits
//   pcg64_double, _bounded   a uniform number in [0, 1), a uniform integer in [0, largest]
//   pcg64_shuffle            shuffle an array
//   pcg64_truncated_normal   a normal number within 3 standard deviations
//
// The generator is NumPy's default, PCG64, bit for bit. So a shuffle made here is the one that OLMo and
// OLMo-core make from the same seed.
#ifndef LLMC_RAND_H
#define LLMC_RAND_H

#include "utils.h"

typedef unsigned __int128 Uint128;

typedef struct {
    Uint128 state, increment;
    uint32_t half;   // the upper half of an output, after pcg64_next32 has returned its lower half
    bool half_kept;  // whether it is still unused
} Pcg64;

// ---------------------------------------------------------------------------------------------
// Seeding: NumPy's SeedSequence (after O'Neill's seed_seq_fe). It spreads every bit of the seed over the
// state.

typedef struct {
    uint32_t constant, factor;  // the constant changes with every use
} SeedHash;

static inline uint32_t seed_hash(SeedHash *hash, uint32_t value) {
    value ^= hash->constant;
    hash->constant *= hash->factor;
    value *= hash->constant;
    return value ^ value >> 16;
}

static inline uint32_t seed_mix(uint32_t a, uint32_t b) {
    uint32_t mixed = 0xca01f9ddu * a - 0x4973f715u * b;
    return mixed ^ mixed >> 16;
}

// The eight words that NumPy's SeedSequence(seed).generate_state(8) gives.
static inline void seed_words(uint64_t seed, uint32_t words[8]) {
    enum { POOL = 4 };
    uint32_t pool[POOL] = {(uint32_t)seed, (uint32_t)(seed >> 32), 0, 0};
    SeedHash absorb = {0x43b0d7e5u, 0x931e8875u}, emit = {0x8b51f9ddu, 0x58f38dedu};
    for (size_t i = 0; i < POOL; i++) { pool[i] = seed_hash(&absorb, pool[i]); }
    for (size_t from = 0; from < POOL; from++) {
        for (size_t to = 0; to < POOL; to++) {
            if (to != from) { pool[to] = seed_mix(pool[to], seed_hash(&absorb, pool[from])); }
        }
    }
    for (size_t i = 0; i < 8; i++) { words[i] = seed_hash(&emit, pool[i % POOL]); }
}

// ---------------------------------------------------------------------------------------------
// PCG64, in full PCG XSL RR 128/64 (O'Neill 2014): a 128-bit linear congruential generator. Its output is the
// exclusive or of the state's halves, rotated by the state's top six bits.

static inline Uint128 uint128(uint64_t high, uint64_t low) { return (Uint128)high << 64 | low; }

static inline void pcg64_step(Pcg64 *rng) {
    rng->state = rng->state * uint128(0x2360ed051fc65da4u, 0x4385df649fccf645u) + rng->increment;
}

// 64 uniform bits: NumPy's bit_generator.random_raw().
static inline uint64_t pcg64_next(Pcg64 *rng) {
    pcg64_step(rng);
    uint64_t folded = (uint64_t)(rng->state >> 64) ^ (uint64_t)rng->state;
    unsigned turn = (unsigned)(rng->state >> 122);
    return folded >> turn | folded << (-turn & 63);
}

// The state of NumPy's PCG64(seed).
static inline void pcg64_seed(Pcg64 *rng, uint64_t seed) {
    uint32_t words[8];
    uint64_t longs[4];
    seed_words(seed, words);
    for (size_t i = 0; i < 4; i++) { longs[i] = (uint64_t)words[2 * i + 1] << 32 | words[2 * i]; }
    rng->increment = uint128(longs[2], longs[3]) << 1 | 1;
    rng->state = 0;
    pcg64_step(rng);
    rng->state += uint128(longs[0], longs[1]);
    pcg64_step(rng);
    rng->half = 0;
    rng->half_kept = false;
}

// 32 uniform bits: first the lower half of an output, at the next call its upper half.
static inline uint32_t pcg64_next32(Pcg64 *rng) {
    if (rng->half_kept) {
        rng->half_kept = false;
        return rng->half;
    }
    uint64_t next = pcg64_next(rng);
    rng->half = (uint32_t)(next >> 32);
    rng->half_kept = true;
    return (uint32_t)next;
}

// A multiple of 2^-53 in [0, 1): NumPy's Generator.random().
static inline double pcg64_double(Pcg64 *rng) { return (double)(pcg64_next(rng) >> 11) * 0x1p-53; }

// A uniform integer in [0, largest]: masks 32 bits to the next power of two and draws again while the result
// is too large.
static inline uint32_t pcg64_bounded(Pcg64 *rng, uint32_t largest) {
    uint32_t mask = largest, value;
    for (unsigned shift = 1; shift < 32; shift *= 2) { mask |= mask >> shift; }
    do { value = pcg64_next32(rng) & mask; } while (value > largest);
    return value;
}

// Shuffles a (n), n at most 2^32, as NumPy's Generator.shuffle does.
static inline void pcg64_shuffle(Pcg64 *rng, uint32_t *a, size_t n) {
    for (size_t i = n; i-- > 1;) {
        size_t j = pcg64_bounded(rng, (uint32_t)i);
        uint32_t swapped = a[i];
        a[i] = a[j];
        a[j] = swapped;
    }
}

// ---------------------------------------------------------------------------------------------
// The truncated normal distribution, by its inverse cumulative distribution function

// sqrt(2) erfinv(v) for |v| <= erf(3 / sqrt 2): the x in [-3, 3] with Phi(x) = (1 + v) / 2. x / v is a smooth
// function of w = -log(1 - v^2) (Giles 2010). The polynomial interpolates it at the 11 Chebyshev nodes of w's
// range [0, 5.2228]. |error| <= 6e-9, a tenth of a float's rounding at 1.
static inline double normal_quantile_within_3(double v) {
    // clang-format off
    static const double polynomial[] = {
        1.2533141451606,      0.32811650960093,     0.016336055290645,    -0.0033109101871502,
       -0.00016759952747065,  5.3495825478765e-5,   9.9930123658299e-6,   -4.0299581571031e-6,
        5.2391101956484e-7,  -3.2451187428093e-8,   8.0573524183509e-10,
    };
    // clang-format on
    double w = -log((1.0 - v) * (1.0 + v)), sum = 0.0;
    for (size_t i = sizeof polynomial / sizeof polynomial[0]; i-- > 0;) { sum = sum * w + polynomial[i]; }
    return v * sum;
}

// A normal number of mean 0 and standard deviation std, conditional on |x| <= 3 std: the distribution of
// torch's trunc_normal_(std=std, a=-3*std, b=3*std). After truncation its standard deviation is 0.98658 std.
static inline float pcg64_truncated_normal(Pcg64 *rng, float std) {
    const double edge =
        0.99730020393673981;  // erf(3 / sqrt 2), the mass of a normal distribution within 3 std
    double x = normal_quantile_within_3((2.0 * pcg64_double(rng) - 1.0) * edge);
    return fmaxf(-3.0f * std, fminf(3.0f * std, (float)x * std));
}

#endif
