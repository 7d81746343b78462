// test_rand.c: PCG64 against NumPy's output, and the truncated normal against its distribution function.
#include "llmc/rand.h"

#include "check.h"

// From NumPy: PCG64(seed).random_raw(2), and Generator(PCG64(seed)).shuffle of arange(16) and of
// arange(100003), both uint32. Of the longer one: its first five numbers, and the FNV-1a hash of its bytes.
typedef struct {
    uint64_t seed, raw[2];
    uint32_t sixteen[16], many[5];
    uint64_t many_hash;
} NumpyVector;

// clang-format off
static const NumpyVector vectors[] = {
    { 0, { 0xa30febcfd9c2825f, 0x4510bdf882d9d721 },
      { 2, 11, 3, 10, 0, 4, 7, 5, 14, 12, 6, 9, 13, 8, 1, 15 },
      { 76282, 3931, 71717, 94077, 73042 }, 0x3a7580c0facda38d },
    { 6198, { 0xb4539f5cff6dcdf5, 0x4943c97e3b66ef81 },
      { 4, 14, 6, 15, 3, 2, 13, 0, 10, 11, 9, 7, 8, 1, 12, 5 },
      { 27125, 8068, 8648, 62718, 32625 }, 0x9fa85a1fba0630dd },
    { 6199, { 0xf975c380aa7c2767, 0x8983c0ad3a72a1bf },
      { 5, 6, 15, 8, 4, 9, 11, 12, 2, 1, 14, 3, 10, 13, 0, 7 },
      { 72539, 97556, 85559, 84129, 85005 }, 0x86f31b2dede2c985 },
    { 34521, { 0x3f529d6e6603bfaa, 0x517c4f0d5fd4d6ad },
      { 3, 0, 11, 15, 6, 9, 2, 8, 7, 1, 12, 4, 5, 13, 14, 10 },
      { 98095, 64899, 99097, 35517, 34301 }, 0xfd42ecda50dbd00d },
    { 4294967295, { 0x407f5fa930d8fd9f, 0x3814b22eb9684802 },
      { 4, 1, 6, 11, 7, 0, 8, 14, 10, 13, 3, 12, 5, 2, 9, 15 },
      { 82279, 77824, 12188, 36305, 48354 }, 0x8935cf6f90012e19 },
    { 4294967296, { 0xe3c5ebe285ac1625, 0x8ea09968fe31dbcc },
      { 11, 0, 10, 7, 4, 1, 15, 9, 3, 14, 6, 13, 8, 12, 2, 5 },
      { 90794, 51574, 79003, 83567, 63128 }, 0x66b3db0794e45b81 },
    { 9223372036854788153u, { 0x7e82ff06e5a17e1c, 0x9375de147f211adb },
      { 3, 9, 1, 7, 5, 10, 8, 13, 14, 15, 0, 2, 4, 11, 6, 12 },
      { 80941, 9215, 44250, 28387, 58429 }, 0x0994ea6001779389 },
    { 18446744073709551615u, { 0xae163a7a8c47568f, 0xd86659f5f3382359 },
      { 11, 4, 7, 2, 12, 3, 6, 0, 8, 1, 13, 14, 5, 9, 10, 15 },
      { 128, 79449, 98493, 78023, 60247 }, 0x2598f18191d4d391 },
};
// clang-format on

enum { MANY = 100003 };

static uint64_t fnv1a(const void *data, size_t size) {
    const unsigned char *bytes = (const unsigned char *)data;
    uint64_t hash = 0xcbf29ce484222325;
    for (size_t i = 0; i < size; i++) { hash = (hash ^ bytes[i]) * 0x100000001b3; }
    return hash;
}

static void shuffled(uint32_t *a, size_t n, uint64_t seed) {
    Pcg64 rng;
    for (size_t i = 0; i < n; i++) { a[i] = (uint32_t)i; }
    pcg64_seed(&rng, seed);
    pcg64_shuffle(&rng, a, n);
}

static void test_numpy_vectors(void) {
    static uint32_t many[MANY];
    for (size_t v = 0; v < sizeof vectors / sizeof vectors[0]; v++) {
        const NumpyVector *vector = &vectors[v];
        Pcg64 rng;
        pcg64_seed(&rng, vector->seed);
        CHECK(pcg64_next(&rng) == vector->raw[0]);
        CHECK(pcg64_next(&rng) == vector->raw[1]);
        shuffled(many, 16, vector->seed);
        CHECK(memcmp(many, vector->sixteen, sizeof vector->sixteen) == 0);
        shuffled(many, MANY, vector->seed);
        CHECK(memcmp(many, vector->many, sizeof vector->many) == 0);
        CHECK(fnv1a(many, sizeof many) == vector->many_hash);
    }
}

// Draws of 32 bits, 64 bits, a double, then 32 bits again, as NumPy's bit generator of seed 7 gives them. The
// half that the first draw leaves survives the next two.
static void test_mixed_draws(void) {
    Pcg64 rng;
    pcg64_seed(&rng, 7);
    CHECK(pcg64_next32(&rng) == 0xf1e54a8b);
    CHECK(pcg64_next(&rng) == 0xe5afcdbcaf266a95);
    CHECK(pcg64_double(&rng) == 0x1.8d26acbf2815fp-1);
    CHECK(pcg64_next32(&rng) == 0xa00641a9);
    CHECK(pcg64_next32(&rng) == 0xd56a2742);
    pcg64_next32(&rng);
    pcg64_next32(&rng);
    pcg64_next32(&rng);
    pcg64_seed(&rng, 7);
    CHECK(pcg64_next32(&rng) == 0xf1e54a8b);  // a new seed forgets the kept half
}

static void test_shuffle_edges(void) {
    uint32_t one = 42;
    Pcg64 rng, before;
    pcg64_seed(&rng, 1);
    before = rng;
    pcg64_shuffle(&rng, &one, 0);
    pcg64_shuffle(&rng, &one, 1);
    CHECK(one == 42 && rng.state == before.state);
}

static void test_quantile(void) {
    const double edge = erf(3.0 / sqrt(2.0));
    double worst = 0.0, step = 1e-5;
    for (double x = -3.0; x <= 3.0; x += step) {
        worst = fmax(worst, fabs(normal_quantile_within_3(erf(x / sqrt(2.0))) - x));
    }
    printf("inverse of the normal distribution function: largest error %.2g, allowed 6e-09\n", worst);
    CHECK(worst <= 6e-9);
    CHECK(fabs(normal_quantile_within_3(edge) - 3.0) <= 6e-9);
    CHECK(normal_quantile_within_3(-edge) == -normal_quantile_within_3(edge));
    CHECK(normal_quantile_within_3(0.0) == 0.0);
}

// A million draws with a fixed seed. Each figure may be off by 6 standard deviations of its own distribution,
// which chance exceeds for one seed in 5e8.
static void test_truncated_normal(void) {
    enum { DRAWS = 1000000, BINS = 60 };
    const float std = 0.02f;
    const double mass = erf(3.0 / sqrt(2.0));
    static size_t histogram[BINS];
    double sum = 0.0, squares = 0.0, fourth = 0.0;
    bool within = true;
    Pcg64 rng;
    pcg64_seed(&rng, 6198);
    for (size_t i = 0; i < DRAWS; i++) {
        float x = pcg64_truncated_normal(&rng, std);
        within = within && fabsf(x) <= 3.0f * std;
        double unit = (double)x / (double)std;
        sum += unit;
        squares += unit * unit;
        fourth += unit * unit * unit * unit;
        size_t bin = (size_t)((unit + 3.0) * BINS / 6.0);
        histogram[bin < BINS ? bin : BINS - 1]++;
    }
    CHECK(within);
    double mean = sum / DRAWS, variance = squares / DRAWS;
    // The variance of a normal distribution cut at 3 is 1 - 6 phi(3) / mass.
    double expected = 1.0 - 6.0 * exp(-4.5) / sqrt(8.0 * atan(1.0)) / mass;
    double spread = sqrt((fourth / DRAWS - variance * variance) / DRAWS);
    printf("truncated normal: mean %.2g (allowed %.2g), deviation %.5f std (expected %.5f)\n", mean,
           6.0 * sqrt(expected / DRAWS), sqrt(variance), sqrt(expected));
    CHECK(fabs(mean) <= 6.0 * sqrt(expected / DRAWS));
    CHECK(fabs(variance - expected) <= 6.0 * spread);
    CHECK(fabs(sqrt(expected) - 0.98658) <= 1e-5);

    // chi-square: BINS - 1 degrees of freedom, so mean BINS - 1 and variance 2 (BINS - 1)
    double chi = 0.0;
    for (size_t b = 0; b < BINS; b++) {
        double low = 6.0 * (double)b / BINS - 3.0, high = low + 6.0 / BINS;
        double want = DRAWS * (erf(high / sqrt(2.0)) - erf(low / sqrt(2.0))) / 2.0 / mass;
        chi += ((double)histogram[b] - want) * ((double)histogram[b] - want) / want;
    }
    double allowed = BINS - 1 + 6.0 * sqrt(2.0 * (BINS - 1));
    printf("truncated normal: chi-square %.1f over %d bins, allowed %.1f\n", chi, BINS, allowed);
    CHECK(chi <= allowed);
}

int main(void) {
    test_numpy_vectors();
    test_mixed_draws();
    test_shuffle_edges();
    test_quantile();
    test_truncated_normal();
    return check_report();
}
