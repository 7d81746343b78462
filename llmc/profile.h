// profile.h: where a step spends its time, function by function, next to what the machine can reach.
//
// A layer function begins with a line PROFILE(flops, bytes) that states its cost:
//   flops   its additions and multiplications; a comparison, division, root or exponential counts as one
//   bytes   the least that it must read and write: every array once, except those with one number per row or
//           per channel
// Between profile_start and profile_stop the line measures the time from there to the end of the function.
// Otherwise it costs one branch on entry and one on exit. Functions may nest, as qknorm_rope_forward calls
// rmsnorm_forward: then the outermost gets all the time and the inner ones none.
//
// Use PROFILE only in functions that the main thread calls, never inside a parallel region. The CUDA backend
// has no profile: its functions return before the GPU is done.
#ifndef LLMC_PROFILE_H
#define LLMC_PROFILE_H

#include "utils.h"

typedef struct {
    const char *name;
    double calls, seconds, flops, bytes;  // sums over all steps
} ProfileEntry;

enum { PROFILE_MOST = 64 };  // functions

typedef struct Profile {
    bool on;
    double step_begin, begin;  // when the step began, when the running function did
    ProfileEntry *running;     // the outermost of the functions that are running; NULL between them
    ProfileEntry functions[PROFILE_MOST];
    size_t count;    // of functions
    double seconds;  // of all steps
    size_t steps;
} Profile;

// All four functions do nothing for a backend without a profile, where p is NULL.

// Forgets everything. A profile of zeros is one that was reset.
static inline void profile_reset(Profile *p);

// A step begins and ends. What happens between two steps belongs to no step.
static inline void profile_start(Profile *p);
static inline void profile_stop(Profile *p);

// Prints the table: a line for every function, slowest first. It takes a second to measure the machine's
// peaks.
static inline void profile_print(Profile *p, FILE *out);

// The peaks: GFLOP/s of multiply-adds, and GB/s, read and written, of copying; NAN without memory for it.
static inline double fma_peak(void);
static inline double copy_bandwidth(void);

// The first line of a function that counts in *profile; with a NULL profile it counts nothing.
#define PROFILE_IN(profile, flops, bytes)                                       \
    __attribute__((cleanup(profile_leave), unused)) Profile *const profile_of = \
        (profile) != NULL && (profile)->on ? profile_enter(profile, __func__, flops, bytes) : NULL

// ---------------------------------------------------------------------------------------------
// counting

static inline void profile_reset(Profile *p) {
    if (p != NULL) { memset(p, 0, sizeof *p); }
}

static inline void profile_start(Profile *p) {
    if (p == NULL) { return; }
    p->on = true;
    p->step_begin = seconds_now();
}

static inline void profile_stop(Profile *p) {
    if (p == NULL || !p->on) { return; }
    p->on = false;
    p->seconds += seconds_now() - p->step_begin;
    p->steps++;
}

// Returns p if the function is the outermost that runs, NULL otherwise.
static inline Profile *profile_enter(Profile *p, const char *name, double flops, double bytes) {
    if (p->running != NULL) { return NULL; }
    size_t i = 0;
    while (i < p->count && p->functions[i].name != name) { i++; }  // __func__: one array a function
    assert(i < PROFILE_MOST);
    if (i == p->count) { p->functions[p->count++].name = name; }
    p->running = &p->functions[i];
    p->running->calls += 1.0;
    p->running->flops += flops;
    p->running->bytes += bytes;
    p->begin = seconds_now();
    return p;
}

static inline void profile_leave(Profile *const *entered) {
    Profile *p = *entered;
    if (p == NULL) { return; }
    p->running->seconds += seconds_now() - p->begin;
    p->running = NULL;
}

// ---------------------------------------------------------------------------------------------
// the machine's peaks

// Floats per vector, and independent chains of multiply-adds. There must be more chains than a core starts
// multiply-adds before the first is done, and they must fit its 32 or 16 registers together with their factor
// and term. GCC unrolls loops of up to 16.
#if defined(__AVX512F__)
enum { PROFILE_LANES = 16, PROFILE_CHAINS = 16 };
#elif defined(__AVX__)
enum { PROFILE_LANES = 8, PROFILE_CHAINS = 12 };
#elif defined(__aarch64__)
enum { PROFILE_LANES = 4, PROFILE_CHAINS = 16 };
#else
enum { PROFILE_LANES = 4, PROFILE_CHAINS = 12 };
#endif
typedef float ProfileVector __attribute__((vector_size(PROFILE_LANES * sizeof(float))));

// Multiply-adds in registers and nothing else, on all threads. The best of several rounds counts, because
// other programs may be using the machine.
static inline double fma_peak(void) {
    enum { ROUNDS = 50, STEPS = 400000 };
    const double flops_of_a_thread = 2.0 * STEPS * PROFILE_CHAINS * PROFILE_LANES;
    double best = 0.0;
    for (int round = 0; round < ROUNDS; round++) {
        const double begin = seconds_now();
        double flops = 0.0;
#ifdef _OPENMP
#pragma omp parallel reduction(+ : flops)
#endif
        {
            ProfileVector sum[PROFILE_CHAINS], factor = {0}, term = {0};
            factor += 0.5f;
            term += 1.0f;  // each chain converges to 2; one that began there could be optimised away
            for (int i = 0; i < PROFILE_CHAINS; i++) { sum[i] = term * (float)(i + 3); }
            for (int step = 0; step < STEPS; step++) {
                for (int i = 0; i < PROFILE_CHAINS; i++) { sum[i] = sum[i] * factor + term; }
            }
            float used = 0.0f;
            for (int i = 0; i < PROFILE_CHAINS; i++) { used += sum[i][0]; }
            flops += used > 0.0f ? flops_of_a_thread : 0.0;
        }
        best = fmax(best, flops / (seconds_now() - begin) * 1e-9);
    }
    return best;
}

// Copies between arrays larger than any cache, on all threads; the best of many slices counts. It copies half
// of each number, because a plain copy would become memcpy, which may bypass the caches, as no layer does.
static inline double copy_bandwidth(void) {
    enum { SLICE = (8 << 20) / sizeof(float), PASSES = 3 };
    const size_t threads = thread_count(), slices = 4 + 12 / threads, piece = slices * SLICE;
    float *from = (float *)malloc(threads * piece * sizeof(float));
    float *to = (float *)malloc(threads * piece * sizeof(float));
    double best = from == NULL || to == NULL ? NAN : 0.0;
    for (size_t round = 0; round < PASSES * slices && !isnan(best); round++) {
        const double begin = seconds_now();
#ifdef _OPENMP
#pragma omp parallel for
#endif
        for (size_t i = 0; i < threads; i++) {
            const size_t at = i * piece + round % slices * SLICE;
            if (round < slices) { memset(from + at, 0, SLICE * sizeof(float)); }  // the first pass is slow
            for (size_t j = at; j < at + SLICE; j++) { to[j] = 0.5f * from[j]; }
        }
        best = fmax(best, 2.0 * sizeof(float) * SLICE * (double)threads / (seconds_now() - begin) * 1e-9);
    }
    free(from);
    free(to);
    return best;
}

// ---------------------------------------------------------------------------------------------
// the table

static inline int profile_compare(const void *a, const void *b) {
    const double x = ((const ProfileEntry *)a)->seconds, y = ((const ProfileEntry *)b)->seconds;
    return (x < y) - (x > y);
}

// What a function reaches is compared with the limit that it meets first on this machine, arithmetic or
// memory. Above 100 %, its data was in a cache, or it overwrites what it has read, as adamw_update does: a
// copy also has to load what it overwrites.
static inline void profile_print(Profile *p, FILE *out) {
    if (p == NULL || p->steps == 0) { return; }
    const double steps = (double)p->steps, peak = fma_peak(), bandwidth = copy_bandwidth();
    double rest = p->seconds;
    qsort(p->functions, p->count, sizeof *p->functions, profile_compare);
    fprintf(out, "profile        %zu step%s, %.2f ms each\n", p->steps, p->steps == 1 ? "" : "s",
            1e3 * p->seconds / steps);
    fprintf(out, "at best        %.1f GFLOP/s of multiply-adds, %.1f GB/s of copying\n\n", peak, bandwidth);
    fprintf(out, "%-25s %7s %10s %8s %15s %9s\n", "function", "calls", "ms/step", "share", "reached  ",
            "of best");
    for (size_t i = 0; i < p->count; i++) {
        const ProfileEntry *f = &p->functions[i];
        const bool computes = f->flops / peak > f->bytes / bandwidth;
        const double reached = (computes ? f->flops : f->bytes) / f->seconds * 1e-9;
        fprintf(out, "%-25s %7.6g %10.2f %6.1f %% %7.1f %-7s %7.0f %%\n", f->name, f->calls / steps,
                1e3 * f->seconds / steps, 100.0 * f->seconds / p->seconds, reached,
                computes ? "GFLOP/s" : "GB/s", 100.0 * reached / (computes ? peak : bandwidth));
        rest -= f->seconds;
    }
    fprintf(out, "%-25s %7s %10.2f %6.1f %%\n", "the rest of the step", "", 1e3 * rest / steps,
            100.0 * rest / p->seconds);
}

#endif
