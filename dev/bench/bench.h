// bench.h: the code that the benchmarks share: flags, a model with random weights, and the protocol by which
// they take turns with other programs, such as those that use dev/bench/turns.py.
#ifndef BENCH_H
#define BENCH_H

#include "llmc/olmo2.h"
#include "llmc/parameters.h"
#include "llmc/rand.h"

// ---------------------------------------------------------------------------------------------
// flags

// --NAME VALUE. The variables already hold the defaults.
typedef struct {
    const char *name;
    size_t *number;     // where the value goes, or NULL for a text
    const char **text;  // where a text goes
} BenchFlag;

static inline bool bench_flags(const BenchFlag *flags, size_t n, int argc, char **argv, Error *err) {
    for (int a = 1; a < argc; a += 2) {
        size_t i = 0;
        while (i < n && (strncmp(argv[a], "--", 2) != 0 || strcmp(argv[a] + 2, flags[i].name) != 0)) { i++; }
        if (i == n || a + 1 == argc) {
            return fail(err, "%s: %s", argv[a], i == n ? "no such flag" : "needs a value");
        }
        char *end = NULL;
        if (flags[i].text != NULL) {
            *flags[i].text = argv[a + 1];
        } else {
            *flags[i].number = strtoull(argv[a + 1], &end, 10);
            if (end == argv[a + 1] || *end != '\0' || argv[a + 1][0] == '-') {
                return fail(err, "%s %s: expected a number", argv[a], argv[a + 1]);
            }
        }
    }
    return true;
}

// ---------------------------------------------------------------------------------------------
// the model

// The 85M model. Flags may change its sizes; then bench_config_complete derives the rest.
static inline OLMo2Config bench_config(void) {
    OLMo2Config config;
    olmo2_preset(&config, "1M");
    config.C = 512;
    config.L = 8;
    config.NH = 8;
    config.F = 2048;
    config.V = 50304;
    return config;
}

static inline bool bench_config_complete(OLMo2Config *c, Error *err) {
    if (c->C == 0 || c->L == 0 || c->NH == 0 || c->F == 0 || c->V < 2 || c->C % (2 * c->NH) != 0) {
        return fail(err, "C %zu, L %zu, NH %zu, F %zu, V %zu: expected 1 or more, and C a multiple of 2 NH",
                    c->C, c->L, c->NH, c->F, c->V);
    }
    c->NKV = c->NH;
    c->HS = c->C / c->NH;
    return true;
}

// Whether --dtype asks for matrix products with bf16 operands.
static inline bool bench_dtype(const char *dtype, bool *bf16, Error *err) {
    *bf16 = strcmp(dtype, "bf16") == 0;
    return *bf16 || strcmp(dtype, "fp32") == 0 || fail(err, "--dtype %s: expected fp32 or bf16", dtype);
}

// Sets norms to 1 and all other weights to uniform random numbers with the variance of the usual
// initialisation.
static inline bool bench_weights(OLMo2 *m, Error *err) {
    const OLMo2Config *config = olmo2_config(m);
    const double width = sqrt(12.0) * (double)config->init_std;
    float *values = (float *)allocate(parameter_largest(config), sizeof *values, "a tensor", err);
    Pcg64 rng;
    pcg64_seed(&rng, 1);
    for (size_t index = 0; values != NULL && index < parameter_count(config); index++) {
        const Parameter p = parameter_at(config, index);
        for (size_t i = 0; i < p.size; i++) {
            values[i] = p.row->init == INIT_ONE ? 1.0f : (float)(width * (pcg64_double(&rng) - 0.5));
        }
        olmo2_write(m, OLMO2_PARAMETER, index, values);
    }
    free(values);
    return values != NULL;
}

// ---------------------------------------------------------------------------------------------
// turns

// One step of the measured work. It may write into `parts` what follows the milliseconds on its line.
typedef bool (*BenchStep)(void *of, char parts[128], Error *err);

static inline int bench_compare(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// Runs a warmup step, then prints the line "ready NOTES", where NOTES alternates names and integers. Then it
// runs `steps` steps. If `steps` is 0 it runs one step for every line on standard input, so programs that are
// all loaded can take turns. Each step prints "step X ms", and the last line is "median M min A max Z".
static inline bool bench_turns(size_t steps, const char *notes, BenchStep step, void *of, Error *err) {
    double *times = NULL;
    size_t taken = 0;
    char parts[128] = "";
    bool ok = step(of, parts, err);
    if (ok) { printf("ready %s\n", notes); }
    while (ok && (steps == 0 || taken < steps)) {
        char line[16];
        fflush(stdout);
        if (steps == 0 && fgets(line, sizeof line, stdin) == NULL) { break; }
        const double begin = seconds_now();
        ok = step(of, parts, err);
        const double milliseconds = 1e3 * (seconds_now() - begin);
        double *more = (double *)realloc(times, (taken + 1) * sizeof *times);
        if (more == NULL) { ok = fail(err, "out of memory: %zu times", taken + 1); }
        if (!ok) { break; }
        times = more;
        times[taken++] = milliseconds;
        printf("step %.3f ms%s\n", milliseconds, parts);
    }
    if (ok && taken > 0) {
        qsort(times, taken, sizeof *times, bench_compare);
        printf("median %.3f min %.3f max %.3f\n", times[taken / 2], times[0], times[taken - 1]);
    }
    free(times);
    return ok;
}

// Ends the program with the message of what failed. The system frees what it holds.
static inline void bench_must(bool ok, const Error *err) {
    if (ok) { return; }
    fprintf(stderr, "error: %s\n", err->text);
    exit(1);
}

#endif
