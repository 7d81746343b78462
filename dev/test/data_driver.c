// data_driver.c: runs the library's data functions on inputs from stdin. reference_data.py compares its
// answers with NumPy and OLMo-core. A command is a word and its arguments, an answer is one line. Numbers
// with a point are read and written in hexadecimal, so no bit is lost.
#include <inttypes.h>

#include "llmc/dataloader.h"
#include "llmc/objectives.h"
#include "llmc/schedule.h"
#include "llmc/stability.h"

static void bad_input(const char *what) {
    fprintf(stderr, "data_driver: bad input: %s\n", what);
    exit(1);
}

static uint64_t read_integer(void) {
    uint64_t value;
    if (scanf("%" SCNu64, &value) != 1) { bad_input("an integer was expected"); }
    return value;
}

static double read_double(void) {
    double value;
    if (scanf("%lf", &value) != 1) { bad_input("a number was expected"); }
    return value;
}

static void *allocated(size_t count, size_t size) {
    Error err = {""};
    void *memory = allocate(count, size, "the input", &err);
    if (memory == NULL) { bad_input(err.text); }
    return memory;
}

// draws SEED WORD -> one number for each letter: q 64 bits, i 32 bits, d a double
static void command_draws(void) {
    char letters[1000];
    Pcg64 rng;
    pcg64_seed(&rng, read_integer());
    if (scanf("%999s", letters) != 1) { bad_input("a word was expected"); }
    for (const char *c = letters; *c != '\0'; c++) {
        if (*c == 'q') { printf("%" PRIu64 " ", pcg64_next(&rng)); }
        if (*c == 'i') { printf("%" PRIu32 " ", pcg64_next32(&rng)); }
        if (*c == 'd') { printf("%a ", pcg64_double(&rng)); }
    }
}

// shuffle SEED N -> 0 ... N - 1, shuffled
static void command_shuffle(void) {
    uint64_t seed = read_integer();
    size_t n = read_integer();
    uint32_t *a = (uint32_t *)allocated(n, sizeof *a);
    Pcg64 rng;
    for (size_t i = 0; i < n; i++) { a[i] = (uint32_t)i; }
    pcg64_seed(&rng, seed);
    pcg64_shuffle(&rng, a, n);
    for (size_t i = 0; i < n; i++) { printf("%" PRIu32 " ", a[i]); }
    free(a);
}

// normal SEED N -> N numbers of the truncated normal of deviation 1
static void command_normal(void) {
    Pcg64 rng;
    pcg64_seed(&rng, read_integer());
    for (size_t n = read_integer(); n > 0; n--) { printf("%a ", (double)pcg64_truncated_normal(&rng, 1.0f)); }
}

// repeats MIN_PERIOD MAX_PERIOD MAX_COUNT T TOKENS -> 0 or 1
static void command_repeats(void) {
    size_t low = read_integer(), high = read_integer(), count = read_integer(), T = read_integer();
    uint32_t *tokens = (uint32_t *)allocated(T, sizeof *tokens);
    for (size_t t = 0; t < T; t++) { tokens[t] = (uint32_t)read_integer(); }
    printf("%d", ngram_repeats(tokens, T, low, high, count));
    free(tokens);
}

// labels MIN_PERIOD MAX_PERIOD MAX_COUNT T TOKENS MASK -> 0 or 1
static void command_labels(void) {
    size_t low = read_integer(), high = read_integer(), count = read_integer(), T = read_integer();
    uint32_t *tokens = (uint32_t *)allocated(T, sizeof *tokens);
    uint8_t *mask = (uint8_t *)allocated(T, 1);
    for (size_t t = 0; t < T; t++) { tokens[t] = (uint32_t)read_integer(); }
    for (size_t t = 0; t < T; t++) { mask[t] = (uint8_t)read_integer(); }
    printf("%d", labels_repeat(tokens, mask, T, low, high, count));
    free(tokens);
    free(mask);
}

// schedule KIND PEAK WARMUP TOTAL DECAY FINAL FROM TO -> the rates of these steps
static void command_schedule(void) {
    Schedule s;
    s.kind = (ScheduleKind)read_integer();
    s.peak = read_double();
    s.warmup = (int64_t)read_integer();
    s.total = (int64_t)read_integer();
    s.decay = (int64_t)read_integer();
    s.final_fraction = read_double();
    int64_t from = (int64_t)read_integer(), to = (int64_t)read_integer();
    for (int64_t step = from; step <= to; step++) { printf("%a ", schedule_lr(&s, step)); }
}

// skip N, N pairs of loss and norm -> whether each is skipped
static void command_skip(void) {
    static SkipStep s;
    memset(&s, 0, sizeof s);
    for (size_t n = read_integer(); n > 0; n--) {
        double loss = read_double(), norm = read_double();
        printf("%d ", skip_step(&s, loss, norm));
    }
}

// monitor N, N pairs -> whether each is a spike, the total score, the running score
static void command_monitor(void) {
    static StabilityMonitor monitor;
    memset(&monitor, 0, sizeof monitor);
    for (size_t n = read_integer(); n > 0; n--) {
        double loss = read_double(), norm = read_double();
        printf("%d ", monitor_step(&monitor, loss, norm));
    }
    printf("%a %a", monitor_total_score(&monitor), monitor_running_score(&monitor));
}

// score N, N values -> their spike score
static void command_score(void) {
    size_t n = read_integer();
    double *values = (double *)allocated(n, sizeof *values), score;
    Error err = {""};
    for (size_t i = 0; i < n; i++) { values[i] = read_double(); }
    if (!spike_score(&score, values, n, &err)) { bad_input(err.text); }
    printf("%a", score);
    free(values);
}

// load T V BATCH SEED MIN_PERIOD MAX_PERIOD MAX_COUNT BATCHES FILES, the files' names -> for every batch its
// tokens, its labels (-100 for none), filtered or not, and its share of the normaliser
static void command_load(void) {
    enum { MAX_FILES = 16 };
    LoaderSettings s = {0};
    s.T = read_integer();
    s.V = read_integer();
    s.batch = read_integer();
    s.seed = read_integer();
    s.shuffle = s.filter = true;
    s.min_period = read_integer();
    s.max_period = read_integer();
    s.max_count = read_integer();
    size_t batches = read_integer(), files = read_integer(), B = s.batch, n = s.batch * s.T;
    static char names[MAX_FILES][1000];
    const char *patterns[MAX_FILES];
    for (size_t i = 0; i < files; i++) {
        if (i == MAX_FILES || scanf("%999s", names[i]) != 1) { bad_input("file names were expected"); }
        patterns[i] = names[i];
    }
    DataLoader loader;
    Error err = {""};
    if (!dataloader_open(&loader, patterns, files, &s, &err)) { bad_input(err.text); }
    uint32_t *tokens = (uint32_t *)allocated(n, sizeof *tokens),
             *labels = (uint32_t *)allocated(n, sizeof *labels);
    uint8_t *mask = (uint8_t *)allocated(n, 1);
    bool *filtered = (bool *)allocated(B, sizeof *filtered);
    for (; batches > 0; batches--) {
        if (!dataloader_next(&loader, B, tokens, mask, filtered, &err)) { bad_input(err.text); }
        objective_labels(labels, tokens, mask, filtered, B, s.T);
        for (size_t i = 0; i < n; i++) { printf("%" PRIu32 " ", tokens[i]); }
        for (size_t i = 0; i < n; i++) {
            printf("%" PRId64 " ", labels[i] == OLMO2_NO_TOKEN ? -100 : (int64_t)labels[i]);
        }
        for (size_t b = 0; b < B; b++) { printf("%d ", filtered[b]); }
        printf("%zu ", lm_normalizer(labels, filtered, B, s.T));
    }
    dataloader_close(&loader);
    free(tokens);
    free(labels);
    free(mask);
    free(filtered);
}

typedef struct {
    const char *name;
    void (*run)(void);
} Command;

int main(void) {
    const Command commands[] = {
        {"draws", command_draws},     {"shuffle", command_shuffle},   {"normal", command_normal},
        {"repeats", command_repeats}, {"labels", command_labels},     {"skip", command_skip},
        {"monitor", command_monitor}, {"schedule", command_schedule}, {"score", command_score},
        {"load", command_load},
    };
    char word[32];
    while (scanf("%31s", word) == 1) {
        size_t i = 0, count = sizeof commands / sizeof commands[0];
        while (i < count && strcmp(word, commands[i].name) != 0) { i++; }
        if (i == count) { bad_input(word); }
        commands[i].run();
        printf("\n");
    }
    return 0;
}
