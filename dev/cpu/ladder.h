// ladder.h: the code that the programs of dev/cpu share. Each program has one family of layers in numbered
// versions, from the plainest correct one to the shipped one, which is the function in train_olmo2.c itself.
//
//   build/cpu/matmul              checks every version at edge-case sizes, and races them
//   build/cpu/matmul forward 3    checks version 3 of the forward, then times it
//   build/cpu/matmul forward      the same for all versions of the forward, interleaved
//
// The last line is "N passed, N failed", and the exit code is 1 if anything failed. OMP_NUM_THREADS sets the
// number of threads. A file of the ladder has the versions, and three functions for each operation: one makes
// the arrays, one computes the expected results in double, one runs a version.
#ifndef DEV_CPU_LADDER_H
#define DEV_CPU_LADDER_H

#define LLMC_MAIN_H  // the backend without the program
#include "../../train_olmo2.c"
#include "../../llmc/rand.h"
#include "../test/check.h"
#include "loops.h"

#ifdef SANITIZED
enum { RACE = 0 };  // sanitizers slow one version down more than another
#else
enum { RACE = 1 };
#endif

enum { MAX_LENGTHS = 5, MAX_ARRAYS = 12, MAX_VERSIONS = 5, MAX_OPERATIONS = 3, MAX_EDGES = 12 };

// ---------------------------------------------------------------------------------------------
// A problem: one operation at one size, its arrays, and the expected results

typedef struct {
    const char *name;  // of a result; NULL for inputs and scratch
    float *data;       // read and written by the versions
    double *expected;  // of a result
    size_t count;
    double tolerance;  // error of a result, relative to the largest expected number
} Array;

typedef struct {
    const size_t *n;           // the size: lengths, in the order of Ladder.lengths
    Array arrays[MAX_ARRAYS];  // in the order of creation
    size_t count;              // of arrays
    uint32_t *labels;          // for operations that take labels
    double work;               // operations or, if memory-bound, the least bytes to move
    Pcg64 random;
} Problem;

typedef struct {
    const char *name;
    void (*arrays)(Problem *p);                  // makes the arrays, sets p->work
    void (*expect)(Problem *p);                  // the formula, in double
    void (*run)(const Problem *p, int version);  // 1, 2, ...
    double lead;  // race: the last version must be this many times as fast as version 1
} Operation;

typedef struct {
    const char *lengths;                       // names of the numbers of a size: "N, I, O"
    size_t timed[MAX_LENGTHS];                 // a size of a real model
    size_t raced[MAX_LENGTHS];                 // a size that takes milliseconds
    size_t edges[MAX_EDGES + 1][MAX_LENGTHS];  // sizes to check; zeros after the last
    const char *unit, *best_case;              // unit of the rates; what reaches the peak rate
    double (*best)(void);                      // the peak rate, on all threads
    const char *ideas[MAX_VERSIONS + 1];       // what each version does; NULL after the last
    Operation operations[MAX_OPERATIONS + 1];  // no name after the last
} Ladder;

// Memory aligned like the model's arrays, to a cache line. It has exactly the requested size, so a checker
// sees accesses past its end.
static void *reserve(size_t count, size_t size) {
    void *memory = NULL;
    if (posix_memalign(&memory, 64, count * size) != 0) {
        fprintf(stderr, "error: out of memory\n");
        exit(1);
    }
    return memory;
}

// Numbers between low and high. An array with a name is a result: the oracle finds the initial numbers in
// `expected` and overwrites them.
static void array(Problem *p, const char *name, size_t count, double tolerance, double low, double high) {
    Array *a = &p->arrays[p->count++];
    *a = (Array){name, (float *)reserve(count, sizeof(float)), NULL, count, tolerance};
    for (size_t i = 0; i < count; i++) {
        a->data[i] = (float)(low + (high - low) * pcg64_double(&p->random));
    }
    if (name == NULL) { return; }
    a->expected = (double *)reserve(count, sizeof(double));
    for (size_t i = 0; i < count; i++) { a->expected[i] = (double)a->data[i]; }
}

static void input(Problem *p, size_t count, double low, double high) {
    array(p, NULL, count, 0.0, low, high);
}

// An array that a version must write completely: NaN at first.
static void output(Problem *p, const char *name, size_t count, double tolerance) {
    array(p, name, count, tolerance, (double)NAN, (double)NAN);
}

static Problem problem_new(const Operation *o, const size_t *size) {
    Problem p = {.n = size};
    pcg64_seed(&p.random, 1);
    o->arrays(&p);
    return p;
}

static void problem_free(Problem *p) {
    for (size_t i = 0; i < p->count; i++) {
        free(p->arrays[i].data);
        free(p->arrays[i].expected);
    }
    free(p->labels);
}

static void print_size(const Ladder *l, const size_t *size) {
    printf("%s = %zu", l->lengths, *size);
    for (const char *comma = l->lengths; (comma = strchr(comma, ',')) != NULL; comma++) {
        printf(", %zu", *++size);
    }
}

// ---------------------------------------------------------------------------------------------
// Is it correct?

// The largest error, relative to the largest expected number; infinity if a number is not finite.
static double array_error(const Array *a) {
    double largest = 0.0, error = 0.0;
    for (size_t i = 0; i < a->count; i++) {
        const double difference = fabs((double)a->data[i] - a->expected[i]);
        if (!isfinite(difference)) { return INFINITY; }
        largest = fmax(largest, fabs(a->expected[i]));
        error = fmax(error, difference);
    }
    return largest > 0.0 ? error / largest : error;
}

// Runs a version at all edge-case sizes. For each result, prints the size with the largest error.
static void check_version(const Ladder *l, const Operation *o, int version) {
    struct {
        const char *name;
        double reached, allowed;
        const size_t *at;
    } worst[MAX_ARRAYS] = {{NULL, 0.0, 0.0, NULL}};
    for (size_t e = 0; l->edges[e][0] != 0; e++) {
        Problem p = problem_new(o, l->edges[e]);
        o->expect(&p);
        o->run(&p, version);
        for (size_t i = 0; i < p.count; i++) {
            const Array *a = &p.arrays[i];
            const double error = a->name != NULL ? array_error(a) : 0.0;
            if (worst[i].at != NULL && error <= worst[i].reached) { continue; }
            worst[i].name = a->name;
            worst[i].reached = error;
            worst[i].allowed = a->tolerance;
            worst[i].at = l->edges[e];
        }
        problem_free(&p);
    }
    for (size_t i = 0; i < MAX_ARRAYS; i++) {
        if (worst[i].name == NULL) { continue; }
        const bool ok = worst[i].reached <= worst[i].allowed;
        printf("%d  %-38s %-8s %7.0e %7.0e  %-6s  ", version, l->ideas[version - 1], worst[i].name,
               worst[i].reached, worst[i].allowed, ok ? "ok" : "FAILED");
        print_size(l, worst[i].at);
        printf("\n");
        CHECK(ok);
    }
}

// ---------------------------------------------------------------------------------------------
// Is it fast?

enum { ROUNDS = 7 };

// Rates in units of 1e9 per second: each version's best round and its median round.
typedef struct {
    double best[MAX_VERSIONS + 1], median[MAX_VERSIONS + 1];  // 1, 2, ...
} Rates;

static int compare_doubles(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void set_threads(size_t threads) {
#ifdef _OPENMP
    omp_set_num_threads((int)threads);
#else
    (void)threads;
#endif
}

// Seconds that this thread has spent on a processor.
static double thread_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

// Times versions first to last by a clock. They take turns, so other load on the machine affects them alike.
// A version that has used two seconds skips the remaining rounds.
static Rates take_turns(const Operation *o, const size_t *size, int first, int last,
                        double (*clock_seconds)(void)) {
    double rate[MAX_VERSIONS + 1][ROUNDS], spent[MAX_VERSIONS + 1] = {0.0};
    size_t turns[MAX_VERSIONS + 1] = {0};
    Rates rates = {{0.0}, {0.0}};
    Problem p = problem_new(o, size);
    for (int round = 0; round < ROUNDS; round++) {
        for (int v = first; v <= last; v++) {
            if (spent[v] > 2.0) { continue; }
            const double begin = clock_seconds();
            o->run(&p, v);
            const double seconds = clock_seconds() - begin;
            rate[v][turns[v]++] = p.work / seconds * 1e-9;
            spent[v] += seconds;
        }
    }
    problem_free(&p);
    for (int v = first; v <= last; v++) {
        qsort(rate[v], turns[v], sizeof(double), compare_doubles);
        rates.best[v] = rate[v][turns[v] - 1];
        rates.median[v] = rate[v][turns[v] / 2];
    }
    return rates;
}

static void time_versions(const Ladder *l, const Operation *o, int first, int last) {
    const double best = l->best();
    const Rates r = take_turns(o, l->timed, first, last, seconds_now);
    printf("%s, %zu thread%s, ", l->unit, thread_count(), thread_count() == 1 ? "" : "s");
    print_size(l, l->timed);
    printf("; at best, %s: %.4g\n", l->best_case, best);
    for (int v = first; v <= last; v++) {
        printf("%d  %-38s %8.2f %5.1f %%\n", v, l->ideas[v - 1], r.median[v], 100.0 * r.median[v] / best);
    }
}

// The speed guard: the last version must lead version 1 by a factor, on one thread, each in its best round.
// It does not need an idle machine. The clock counts only the seconds that this thread spends on a processor,
// so waiting for one costs nothing. Other load still takes cache and memory bandwidth, but from both
// versions, and the best of seven rounds counts. The lead is nearly the same on slow and fast machines. But
// vectors of four numbers, perhaps without fused multiply-adds, cannot lead by as much as vectors of eight or
// sixteen.
static void race(const Ladder *l, const Operation *o, int last) {
    const size_t threads = thread_count();
    set_threads(1);
    const Rates r = take_turns(o, l->raced, 1, last, thread_seconds);
    set_threads(threads);
    const double lead = r.best[last] / r.best[1], asked = GEMM_LANES > 4 ? o->lead : o->lead / 3.0;
    printf("%s: version %d is %.1f times as fast as version 1, required: %.1f\n\n", o->name, last, lead,
           asked);
    CHECK(lead >= asked);
}

// ---------------------------------------------------------------------------------------------
// The program

static int usage(const char *program, const Ladder *l, int versions) {
    fprintf(stderr, "usage: %s [OPERATION [VERSION]]\nOPERATION is one of", program);
    for (const Operation *o = l->operations; o->name != NULL; o++) { fprintf(stderr, " %s", o->name); }
    fprintf(stderr, ", VERSION 1 to %d\n", versions);
    return 2;
}

static int ladder_main(int argc, char **argv, const Ladder *l) {
    int versions = 0;
    while (l->ideas[versions] != NULL) { versions++; }
    const int version = argc > 2 ? atoi(argv[2]) : 0, first = argc > 2 ? version : 1,
              last = argc > 2 ? version : versions;
    bool found = false;
    if (argc > 3 || first < 1 || last > versions) { return usage(argv[0], l, versions); }
    for (const Operation *o = l->operations; o->name != NULL; o++) {
        if (argc > 1 && strcmp(argv[1], o->name) != 0) { continue; }
        found = true;
        printf("%s: the largest error, relative to the largest expected number, and the tolerance\n",
               o->name);
        for (int v = first; v <= last; v++) { check_version(l, o, v); }
        if (argc > 1) {
            time_versions(l, o, first, last);
        } else if (RACE) {
            race(l, o, versions);
        }
    }
    return found ? check_report() : usage(argv[0], l, versions);
}

#endif
