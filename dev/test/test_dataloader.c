// test_dataloader.c: the data loader's instances, order, masks, filter, fingerprint and errors; what other
// programs may do to its files while they are open; the writer.
#include <sys/resource.h>

#include <signal.h>

#include "llmc/dataloader.h"
#include "llmc/token_writer.h"

#include "check.h"

enum { T = 4, V = 1000 };

static char directory[] = "/tmp/test_dataloader.XXXXXX";

// directory/name, in one of four buffers used in turn
static const char *path_of(const char *name) {
    static char buffers[4][256];
    static size_t turn;
    char *buffer = buffers[turn++ % 4];
    snprintf(buffer, sizeof buffers[0], "%s/%s", directory, name);
    return buffer;
}

static void write_file(const char *name, const void *data, size_t size) {
    FILE *f = fopen(path_of(name), "wb");
    if (!CHECK(f != NULL)) { exit(1); }
    CHECK(fwrite(data, 1, size, f) == size);
    CHECK(fclose(f) == 0);
}

// n tokens first, first + 1, ...
static void write_tokens(const char *name, uint32_t first, size_t n) {
    uint32_t tokens[256];
    for (size_t i = 0; i < n; i++) { tokens[i] = first + (uint32_t)i; }
    write_file(name, tokens, 4 * n);
}

// A NumPy file with this dictionary, padded as numpy.save pads it, and n tokens.
static void write_npy(const char *name, int version, const char *dictionary, size_t n) {
    unsigned char bytes[1024];
    size_t start = version == 1 ? 10 : 12, length = (start + strlen(dictionary) + 64) / 64 * 64 - start;
    memcpy(bytes, "\x93NUMPY", 6);
    memset(bytes + 6, 0, 6);
    bytes[6] = (unsigned char)version;
    bytes[8] = (unsigned char)length;
    memset(bytes + start, ' ', length);
    memcpy(bytes + start, dictionary, strlen(dictionary));
    bytes[start + length - 1] = '\n';
    for (size_t i = 0; i < n; i++) {
        uint32_t token = (uint32_t)i;
        memcpy(bytes + start + length + 4 * i, &token, 4);
    }
    write_file(name, bytes, start + length + 4 * n);
}

static LoaderSettings settings_of(size_t batch, bool shuffle) {
    LoaderSettings s = {T, V, batch, shuffle, 6198, false, 0, 0, 0, false};
    return s;
}

static bool open_one(DataLoader *l, const char *name, const LoaderSettings *s, Error *err) {
    const char *pattern = path_of(name);
    return dataloader_open(l, &pattern, 1, s, err);
}

static uint32_t tokens[64 * T];
static uint8_t mask[64 * T];
static bool filtered[64];

// The first token of the next instance, which tells instances apart.
static uint32_t next_first(DataLoader *l) {
    Error err = {""};
    CHECK(dataloader_next(l, 1, tokens, mask, filtered, &err));
    return tokens[0];
}

// Three files of 2, 0 and 3 instances: each drops its own tail, none is joined with the next.
static void test_instances_in_order(void) {
    const uint32_t firsts[] = {0, 4, 200, 204, 208};
    const char *patterns[] = {path_of("plain-*.npy")};
    LoaderSettings s = settings_of(1, false);
    DataLoader l;
    Error err = {""};
    write_tokens("plain-a.npy", 0, 2 * T + 3);
    write_tokens("plain-b.npy", 100, T - 1);
    write_tokens("plain-c.npy", 200, 3 * T);
    if (!CHECK(dataloader_open(&l, patterns, 1, &s, &err))) { return; }
    CHECK(dataloader_instances(&l) == 5);
    for (uint64_t epoch = 0; epoch < 2; epoch++) {
        CHECK(dataloader_next(&l, 5, tokens, mask, filtered, &err));
        for (size_t b = 0; b < 5; b++) {
            for (uint32_t t = 0; t < T; t++) { CHECK(tokens[b * T + t] == firsts[b] + t); }
            CHECK(!filtered[b]);
        }
        for (size_t i = 0; i < 5 * T; i++) { CHECK(mask[i] == 1); }
        CHECK(l.order.state.epoch == epoch && l.order.state.position == 5);
    }
    dataloader_close(&l);

    const char *twice[] = {path_of("plain-c.npy"), path_of("plain-[ac].npy"), path_of("plain-c.npy")};
    if (!CHECK(dataloader_open(&l, twice, 3, &s, &err))) { return; }
    CHECK(dataloader_instances(&l) == 3 + 5 + 3);  // a file given again is repeated
    for (size_t i = 0; i < 3; i++) { next_first(&l); }
    CHECK(next_first(&l) == 0);
    dataloader_close(&l);

    write_tokens("odd[1]*.npy", 300, T);  // a name that is also a pattern
    if (CHECK(open_one(&l, "odd[1]*.npy", &s, &err))) {
        CHECK(next_first(&l) == 300);
        dataloader_close(&l);
    }
}

// The order of an epoch is that of PCG64(seed + epoch) over all instances, without the rest that fills no
// batch.
static void test_shuffled_epochs(void) {
    enum { N = 23, BATCH = 5 };
    LoaderSettings s = settings_of(BATCH, true);
    DataLoader l;
    Error err = {""};
    write_tokens("shuffled.npy", 0, N * T);
    if (!CHECK(open_one(&l, "shuffled.npy", &s, &err))) { return; }
    for (uint64_t epoch = 0; epoch < 3; epoch++) {
        uint32_t order[N];
        Pcg64 rng;
        for (uint32_t i = 0; i < N; i++) { order[i] = i; }
        pcg64_seed(&rng, s.seed + epoch);
        pcg64_shuffle(&rng, order, N);
        for (size_t i = 0; i < N / BATCH * BATCH; i++) {
            CHECK(next_first(&l) == order[i] * T);
            CHECK(l.order.state.epoch == epoch && l.order.state.position == i + 1);
        }
    }
    dataloader_close(&l);
}

// From any saved state a new loader goes on with the same instances, whatever the size of its micro-batches.
static void test_restore(void) {
    enum { N = 23, BATCH = 4, STEPS = 60 };
    LoaderSettings s = settings_of(BATCH, true);
    uint32_t firsts[STEPS];
    OrderState states[STEPS];
    DataLoader l;
    Error err = {""};
    write_tokens("restored.npy", 0, N * T);
    if (!CHECK(open_one(&l, "restored.npy", &s, &err))) { return; }
    for (size_t i = 0; i < STEPS; i++) {
        states[i] = l.order.state;
        firsts[i] = next_first(&l);
    }
    dataloader_close(&l);
    s.seed = 1;  // the state has its own
    for (size_t from = 0; from + 3 <= STEPS; from++) {
        if (!CHECK(open_one(&l, "restored.npy", &s, &err))) { return; }
        CHECK(dataloader_restore(&l, &states[from], &err));
        CHECK(dataloader_next(&l, 3, tokens, mask, filtered, &err));
        for (size_t b = 0; b < 3; b++) { CHECK(tokens[b * T] == firsts[from + b]); }
        dataloader_close(&l);
    }
    if (!CHECK(open_one(&l, "restored.npy", &s, &err))) { return; }
    OrderState other = states[7];
    other.instances = N + 1;
    CHECK_ERROR(dataloader_restore(&l, &other, &err), err, "at instance 7 of 24, there are 23 now");
    other.instances = N;
    other.position = N + 1;
    CHECK_ERROR(dataloader_restore(&l, &other, &err), err, "at instance 24 of 23");
    CHECK(l.order.state.position == 0 && l.order.state.seed == 1);
    dataloader_close(&l);
}

static void test_masks(void) {
    uint8_t bytes[3 * T + 1] = {0, 1, 1, 0, 1, 0, 0, 0, 1, 1, 1, 0, 1};
    LoaderSettings s = settings_of(1, false);
    const char *patterns[] = {path_of("masked*")};
    DataLoader l;
    Error err = {""};
    write_tokens("masked.npy", 0, sizeof bytes);
    write_file("masked.npy.mask", bytes, sizeof bytes);
    if (!CHECK(dataloader_open(&l, patterns, 1, &s, &err))) { return; }  // the mask is no token file
    CHECK(dataloader_instances(&l) == 3);
    CHECK(dataloader_next(&l, 3, tokens, mask, filtered, &err));
    CHECK(memcmp(mask, bytes, 3 * T) == 0);
    dataloader_close(&l);

    bytes[6] = 2;
    write_file("masked.npy.mask", bytes, sizeof bytes);
    if (!CHECK(open_one(&l, "masked.npy", &s, &err))) { return; }
    CHECK(dataloader_next(&l, 1, tokens, mask, filtered, &err));
    CHECK_ERROR(dataloader_next(&l, 1, tokens, mask, filtered, &err), err, "masked.npy.mask: byte 6 is 2");
    dataloader_close(&l);

    write_file("masked.npy.mask", bytes, sizeof bytes - 1);
    CHECK_ERROR(open_one(&l, "masked.npy", &s, &err), err, "mask of 12 bytes for 13 tokens");
    write_file("masked.npy.mask", bytes, 0);
    CHECK_ERROR(open_one(&l, "masked.npy", &s, &err), err, "mask of 0 bytes for 13 tokens");
}

static void test_numpy_files(void) {
    const char *good = "{'descr': '<u4', 'fortran_order': False, 'shape': (9,), }";
    LoaderSettings s = settings_of(1, false);
    DataLoader l;
    Error err = {""};
    for (int version = 1; version <= 3; version++) {
        write_npy("true.npy", version, good, 9);
        if (!CHECK(open_one(&l, "true.npy", &s, &err))) { return; }
        CHECK(dataloader_instances(&l) == 2 && next_first(&l) == 0 && next_first(&l) == T);
        dataloader_close(&l);
    }
    write_npy("true.npy", 1, good, 8);
    CHECK_ERROR(open_one(&l, "true.npy", &s, &err), err, "says 9 tokens of 4 bytes, 32 bytes follow");
    write_npy("true.npy", 1, good, 10);
    CHECK_ERROR(open_one(&l, "true.npy", &s, &err), err, "says 9 tokens of 4 bytes, 40 bytes follow");
    write_npy("true.npy", 1, "{'descr': '<u4', 'fortran_order': False, 'shape': (0,), }", 0);
    CHECK_ERROR(open_one(&l, "true.npy", &s, &err), err, "is empty");
    write_npy("true.npy", 1, "{'descr': '<u4', 'fortran_order': False, 'shape': (4611686018427387913,), }",
              9);
    CHECK_ERROR(open_one(&l, "true.npy", &s, &err), err, "damaged or truncated");
    write_npy("true.npy", 1, "{'descr': '<u2', 'fortran_order': False, 'shape': (9,), }", 9);
    CHECK_ERROR(open_one(&l, "true.npy", &s, &err), err, "dtype '<u2', expected '<u4'");
    write_npy("true.npy", 1, "{'fortran_order': False, 'shape': (9,), }", 9);
    CHECK_ERROR(open_one(&l, "true.npy", &s, &err), err, "dtype unknown");
    write_npy("true.npy", 1, "{'descr': '<u4', 'fortran_order': True, 'shape': (9,), }", 9);
    CHECK_ERROR(open_one(&l, "true.npy", &s, &err), err, "'fortran_order': False");
    write_npy("true.npy", 1, "{'descr': '<u4', 'fortran_order': False, 'shape': (3, 3), }", 9);
    CHECK_ERROR(open_one(&l, "true.npy", &s, &err), err, "shape (tokens,)");
    write_npy("true.npy", 1, "{'descr': '<u4', 'fortran_order': False, 'shape': (), }", 1);
    CHECK_ERROR(open_one(&l, "true.npy", &s, &err), err, "shape (tokens,)");
    write_npy("true.npy", 1, "{'descr': '<u4', 'fortran_order': False, }", 9);
    CHECK_ERROR(open_one(&l, "true.npy", &s, &err), err, "shape (tokens,)");
    char long_header[6000] = "\x93NUMPY\x01\x00\x88\x13";  // 5000 bytes: more than any such array needs
    write_file("true.npy", long_header, sizeof long_header);
    CHECK_ERROR(open_one(&l, "true.npy", &s, &err), err, "says it is 5000 bytes long");
    write_file("true.npy", "\x93NUMPY\x01", 7);
    CHECK_ERROR(open_one(&l, "true.npy", &s, &err), err, "truncated");
    write_file("true.npy", "\x93NUMPY\x01\x00\x76\x00{'descr'", 18);
    CHECK_ERROR(open_one(&l, "true.npy", &s, &err), err, "says it is 118 bytes long");
}

static void test_bad_files(void) {
    LoaderSettings s = settings_of(1, false);
    DataLoader l;
    Error err = {""};
    CHECK_ERROR(open_one(&l, "missing.npy", &s, &err), err, "missing.npy: no such file");
    CHECK_ERROR(open_one(&l, "missing*.npy", &s, &err), err, "matches no token file");
    CHECK_ERROR(open_one(&l, "", &s, &err), err,
                "is a directory, expected a file; for all token files in it give");
    write_file("empty.npy", "", 0);
    CHECK_ERROR(open_one(&l, "empty.npy", &s, &err), err, "empty.npy: is empty");
    write_file("cut.npy", "\1\0\0\0\1\0\0", 7);
    CHECK_ERROR(open_one(&l, "cut.npy", &s, &err), err, "cut.npy: 7 bytes, not a multiple of 4");

    write_tokens("short.npy", 0, 3 * T - 1);
    s.T = 3 * T;
    CHECK_ERROR(open_one(&l, "short.npy", &s, &err), err,
                "short.npy: 11 tokens, fewer than one sequence of T = 12");
    s = settings_of(3, true);
    CHECK_ERROR(open_one(&l, "short.npy", &s, &err), err,
                "2 sequences of T = 4 tokens, fewer than one batch of 3");
    CHECK(l.files == NULL && l.order.shuffled == NULL);

    s = settings_of(1, false);
    write_tokens("large.npy", V - 6, 2 * T);
    if (!CHECK(open_one(&l, "large.npy", &s, &err))) { return; }
    CHECK(dataloader_next(&l, 1, tokens, mask, filtered, &err));
    CHECK_ERROR(dataloader_next(&l, 1, tokens, mask, filtered, &err), err,
                "large.npy: token 6 has id 1000, the vocabulary has 1000 rows");
    dataloader_close(&l);
}

static void test_bad_settings(void) {
    DataLoader l;
    Error err = {""};
    LoaderSettings s = settings_of(0, false);
    write_tokens("fine.npy", 0, 2 * T);
    CHECK_ERROR(open_one(&l, "fine.npy", &s, &err), err, "expected 1 or more");
    s = settings_of(1, false);
    s.T = 0;
    CHECK_ERROR(open_one(&l, "fine.npy", &s, &err), err, "expected 1 or more");
    s.T = T;
    CHECK_ERROR(dataloader_open(&l, NULL, 0, &s, &err), err, "0 patterns");
    s.filter = true;
    const size_t bad[][3] = {{0, 13, 32}, {5, 4, 32}, {1, 13, 2}};
    for (size_t i = 0; i < 3; i++) {
        s.min_period = bad[i][0];
        s.max_period = bad[i][1];
        s.max_count = bad[i][2];
        CHECK_ERROR(open_one(&l, "fine.npy", &s, &err), err, "instance filter");
    }
}

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

static void test_filter(void) {
    uint32_t ids[3 * 8] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 1, 2, 1, 2, 9, 1, 2, 3, 3, 3, 4, 5, 6};
    LoaderSettings s = {8, V, 1, false, 0, true, 1, 3, 3, false};
    DataLoader l;
    Error err = {""};
    write_file("repeats.npy", ids, sizeof ids);
    if (!CHECK(open_one(&l, "repeats.npy", &s, &err))) { return; }
    CHECK(dataloader_next(&l, 3, tokens, mask, filtered, &err));
    CHECK(!filtered[0] && filtered[1] && filtered[2]);
    CHECK(memcmp(tokens, ids, sizeof ids) == 0);  // a filtered instance keeps its place and its tokens
    dataloader_close(&l);
}

// Padding, masked prompts and other tokens without a label are not repeated n-grams; labels are, as ever.
static void test_filter_and_masks(void) {
    // clang-format off
    const struct {
        uint32_t ids[12];
        uint8_t mask[12];
        bool filtered;
    } cases[] = {
        // padding on the right, on the left, in the middle, on both sides, everywhere
        {{1, 2, 3, 4, 5, 6, 9, 9, 9, 9, 9, 9}, {1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0}, false},
        {{9, 9, 9, 9, 9, 9, 1, 2, 3, 4, 5, 6}, {0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1}, false},
        {{1, 2, 3, 9, 9, 9, 9, 9, 9, 4, 5, 6}, {1, 1, 1, 0, 0, 0, 0, 0, 0, 1, 1, 1}, false},
        {{9, 9, 9, 9, 1, 2, 3, 4, 9, 9, 9, 9}, {0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0}, false},
        {{9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9}, {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, false},
        // the same repetitions as labels
        {{1, 2, 3, 4, 5, 6, 9, 9, 9, 9, 9, 9}, {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, true},
        {{9, 9, 9, 1, 2, 3, 4, 5, 6, 7, 8, 0}, {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, true},
        {{1, 2, 3, 4, 5, 6, 7, 8, 0, 9, 9, 9}, {0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1}, true},
        {{7, 8, 7, 8, 7, 8, 1, 2, 3, 4, 5, 6}, {1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0}, true},
        // one token of the repetition has no label: two times are left, which are too few
        {{1, 2, 3, 9, 9, 9, 4, 5, 6, 7, 8, 0}, {1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1}, false},
        {{7, 8, 7, 8, 7, 8, 1, 2, 3, 4, 5, 6}, {0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, false},
        // labels that are equal, but with unlabelled tokens between them, are not a run
        {{9, 1, 9, 2, 9, 3, 9, 4, 9, 5, 9, 6}, {1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0}, false},
    };
    // clang-format on
    enum { CASES = sizeof cases / sizeof cases[0] };
    LoaderSettings s = {12, V, 1, false, 0, true, 1, 3, 3, false};
    uint32_t ids[12 * CASES];
    uint8_t bytes[12 * CASES];
    DataLoader l;
    Error err = {""};
    for (size_t i = 0; i < CASES; i++) {
        memcpy(ids + 12 * i, cases[i].ids, sizeof cases[i].ids);
        memcpy(bytes + 12 * i, cases[i].mask, sizeof cases[i].mask);
    }
    write_file("padded.npy", ids, sizeof ids);
    write_file("padded.npy.mask", bytes, sizeof bytes);
    if (!CHECK(open_one(&l, "padded.npy", &s, &err))) { return; }
    for (size_t i = 0; i < CASES; i++) {
        CHECK(dataloader_next(&l, 1, tokens, mask, filtered, &err));
        if (!CHECK(filtered[0] == cases[i].filtered)) { printf("       case %zu\n", i); }
    }
    dataloader_close(&l);
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

// ---------------------------------------------------------------------------------------------
// files that are something else

static void test_kinds(void) {
    enum { N = 200 };
    static const char json[] =
        "{\"text\": \"Once upon a time there was a girl\"}\n{\"text\": \"and a dog\"}\n";
    LoaderSettings s = settings_of(1, false);
    uint32_t ids[N], swapped[N];
    uint16_t halves[2 * N];
    uint64_t wide[N];
    float floats[N];
    DataLoader l;
    Error err = {""};
    for (size_t i = 0; i < N; i++) {
        ids[i] = (uint32_t)(i % 7 * 120 + 1);
        swapped[i] = __builtin_bswap32(ids[i]);
        halves[2 * i] = halves[2 * i + 1] = (uint16_t)ids[i];
        wide[i] = ids[i];
        floats[i] = (float)ids[i];
    }
    write_file("kind.npy", swapped, sizeof swapped);
    CHECK_ERROR(open_one(&l, "kind.npy", &s, &err), err,
                "kind.npy: token 0 has id 16777216, the vocabulary has 1000 "
                "rows: it looks like big-endian uint32");
    write_file("kind.npy", halves, sizeof halves);
    CHECK_ERROR(open_one(&l, "kind.npy", &s, &err), err, "it looks like 16-bit ids");
    write_file("kind.npy", wide, sizeof wide);
    CHECK_ERROR(open_one(&l, "kind.npy", &s, &err), err, "it looks like 64-bit integers");
    write_file("kind.npy", floats, sizeof floats);
    CHECK_ERROR(open_one(&l, "kind.npy", &s, &err), err, "it looks like 32-bit floating point");
    write_file("kind.npy", json, sizeof json - 1);
    CHECK((sizeof json - 1) % 4 == 0);
    CHECK_ERROR(open_one(&l, "kind.npy", &s, &err), err, "it looks like text; `tokenize`");
    write_file("kind.npy", json, sizeof json - 2);
    CHECK_ERROR(open_one(&l, "kind.npy", &s, &err), err,
                "not a multiple of 4, expected raw little-endian uint32: it "
                "looks like text");
    write_file("kind.npy", "\x1f\x8b\x08\0\0\0\0\xff\0\0\0\xff", 12);
    CHECK_ERROR(open_one(&l, "kind.npy", &s, &err), err, "compressed by gzip");
    write_file("kind.npy", "\x28\xb5\x2f\xfd\0\0\0\xff\0\0\0\xff", 12);
    CHECK_ERROR(open_one(&l, "kind.npy", &s, &err), err, "compressed by zstd");
    write_file("kind.npy", "PK\x03\x04\0\0\0\xff\0\0\0\xff", 12);
    CHECK_ERROR(open_one(&l, "kind.npy", &s, &err), err, "zip archive");
    const uint32_t llm_c[] = {20240520, 1, 100, 200};
    write_file("kind.npy", llm_c, sizeof llm_c);
    if (CHECK(open_one(&l, "kind.npy", &s, &err))) {  // one bad id of four: found when it is read
        CHECK_ERROR(dataloader_next(&l, 1, tokens, mask, filtered, &err), err, "a .bin of llm.c");
        dataloader_close(&l);
    }
    write_npy("kind.npy", 1, "{'descr': '<f4', 'fortran_order': False, 'shape': (9,), }", 9);
    CHECK_ERROR(open_one(&l, "kind.npy", &s, &err), err, "dtype '<f4', expected '<u4'");
    write_npy("kind.npy", 1, "{'descr': '>u4', 'fortran_order': False, 'shape': (9,), }", 9);
    CHECK_ERROR(open_one(&l, "kind.npy", &s, &err), err, "dtype '>u4', expected '<u4'");
    for (size_t i = 0; i < N; i++) { ids[i] = V + (uint32_t)i * 70001; }
    write_file("kind.npy", ids, sizeof ids);
    CHECK_ERROR(open_one(&l, "kind.npy", &s, &err), err, "the file is of another tokenizer or is not raw");
    // Only zeros, or a 0 in every second place of a short file, are ids.
    memset(ids, 0, sizeof ids);
    write_file("kind.npy", ids, sizeof ids);
    if (CHECK(open_one(&l, "kind.npy", &s, &err))) { dataloader_close(&l); }
    write_file("kind.npy", wide, 8 * sizeof wide[0]);
    if (CHECK(open_one(&l, "kind.npy", &s, &err))) { dataloader_close(&l); }
    unlink(path_of("kind.npy"));
}

// A pipe must not be waited for: the alarm ends the test if it is.
static void test_not_files(void) {
    LoaderSettings s = settings_of(1, false);
    DataLoader l;
    Error err = {""};
    CHECK(mkfifo(path_of("pipe.npy"), 0600) == 0);
    alarm(20);
    CHECK_ERROR(open_one(&l, "pipe.npy", &s, &err), err, "pipe.npy: is a pipe or a device");
    CHECK_ERROR(open_one(&l, "pip?.npy", &s, &err), err, "pipe.npy: is a pipe or a device");
    write_tokens("beside.npy", 0, 2 * T);
    CHECK(mkfifo(path_of("beside.npy.mask"), 0600) == 0);
    CHECK_ERROR(open_one(&l, "beside.npy", &s, &err), err, "beside.npy.mask: is a pipe or a device");
    alarm(0);
    unlink(path_of("beside.npy.mask"));
    // A link to a mask that is gone: to train on every token instead would be another run.
    CHECK(symlink("nowhere", path_of("beside.npy.mask")) == 0);
    CHECK_ERROR(open_one(&l, "beside.npy", &s, &err), err, "beside.npy.mask: cannot be opened: No such file");
    unlink(path_of("beside.npy.mask"));
    unlink(path_of("pipe.npy"));
    CHECK(symlink("nowhere", path_of("pipe.npy")) == 0);
    CHECK_ERROR(open_one(&l, "pipe.npy", &s, &err), err, "pipe.npy: cannot be opened: No such file");
    unlink(path_of("pipe.npy"));
    CHECK_ERROR(open_one(&l, "beside.npy/x*", &s, &err), err,
                "beside.npy/x*: no such file, and as a pattern");
}

// A shell expands d/* to token files and masks: the masks are not token files there either.
static void test_masks_among_names(void) {
    const uint8_t bytes[2 * T] = {1, 1, 1, 1, 0, 0, 0, 0};
    LoaderSettings s = settings_of(1, false);
    DataLoader l;
    Error err = {""};
    write_tokens("given.npy", 0, 2 * T);
    write_file("given.npy.mask", bytes, sizeof bytes);
    const char *names[] = {path_of("given.npy"), path_of("given.npy.mask")};
    if (CHECK(dataloader_open(&l, names, 2, &s, &err))) {
        CHECK(l.file_count == 1);
        dataloader_close(&l);
    }
    CHECK_ERROR(open_one(&l, "given.npy.mask", &s, &err), err, "given.npy.mask: is a label mask");
    // A mask that numpy.save wrote.
    write_npy("given.npy.mask", 1, "{'descr': '|b1', 'fortran_order': False, 'shape': (8,), }", 2);
    CHECK_ERROR(open_one(&l, "given.npy", &s, &err), err, "it has a NumPy header: write it with .tofile()");
    unlink(path_of("given.npy.mask"));
}

// A sparse file of 2^32 instances: 16 GiB that take no space.
static void test_many_instances(void) {
    LoaderSettings s = {1, V, 1, true, 0, false, 0, 0, 0, false};
    DataLoader l;
    Error err = {""};
    write_tokens("many.npy", 0, 1);
    if (truncate(path_of("many.npy"), (off_t)1 << 34) != 0) {
        printf("skipped: 2^32 instances (%s holds no file of 16 GiB)\n", directory);
        return;
    }
    CHECK_ERROR(open_one(&l, "many.npy", &s, &err), err,
                "4294967296 sequences of T = 1 tokens cannot be shuffled");
    s.shuffle = false;
    s.fingerprint = true;
    if (CHECK(open_one(&l, "many.npy", &s, &err))) {
        CHECK(dataloader_instances(&l) == (size_t)1 << 32);
        dataloader_close(&l);
    }
    unlink(path_of("many.npy"));
}

// ---------------------------------------------------------------------------------------------
// files that change while they are open

static void set_time(const char *name, time_t seconds) {
    const struct timespec times[2] = {{seconds, 0}, {seconds, 0}};
    CHECK(utimensat(AT_FDCWD, path_of(name), times, 0) == 0);
}

static void test_files_in_use(void) {
    enum { PAGES = 4096 };  // tokens, four pages of them: reading beyond a page that is gone would be SIGBUS
    static uint32_t ids[PAGES];
    static uint8_t labels[PAGES];
    LoaderSettings s = {PAGES / 4, V, 1, false, 0, false, 0, 0, 0, true};
    static uint32_t read[PAGES];
    static uint8_t read_mask[PAGES];
    DataLoader l;
    Error err = {""};
    memset(labels, 1, sizeof labels);
    for (size_t i = 0; i < PAGES; i++) { ids[i] = (uint32_t)(i % 900); }
    const char *names[] = {"used.npy", "used.npy.mask"};
    for (size_t k = 0; k < 2; k++) {
        // Cut short, with the mask or the tokens: an error, and the place in the order is the one before.
        write_file("used.npy", ids, sizeof ids);
        write_file("used.npy.mask", labels, sizeof labels);
        if (!CHECK(open_one(&l, "used.npy", &s, &err))) { return; }
        CHECK(dataloader_next(&l, 1, read, read_mask, filtered, &err));
        const off_t whole = k == 0 ? sizeof ids : sizeof labels;
        CHECK(truncate(path_of(names[k]), whole / 4) == 0);
        CHECK_ERROR(dataloader_next(&l, 2, read, read_mask, filtered, &err), err,
                    "another program has cut it short");
        CHECK(strstr(err.text, names[k]) != NULL && l.order.state.position == 1);
        // Mended, it goes on.
        write_file("used.npy", ids, sizeof ids);
        write_file("used.npy.mask", labels, sizeof labels);
        CHECK(dataloader_next(&l, 1, read, read_mask, filtered, &err) && read[0] == ids[PAGES / 4]);
        // Touched, or longer: what was opened is still there.
        set_time(names[k], 1000000000);
        CHECK(dataloader_next(&l, 1, read, read_mask, filtered, &err));
        CHECK(truncate(path_of(names[k]), whole + 4) == 0);
        CHECK(dataloader_next(&l, 1, read, read_mask, filtered, &err));
        // Other content, written into the same file.
        if (k == 0) { ids[PAGES - 1]++; }
        if (k == 1) { labels[PAGES - 1] = 0; }
        write_file("used.npy", ids, sizeof ids);
        write_file("used.npy.mask", labels, sizeof labels);
        set_time(names[k], 1100000000);
        CHECK_ERROR(dataloader_next(&l, 1, read, read_mask, filtered, &err), err,
                    "its content has changed since");
        CHECK(strstr(err.text, names[k]) != NULL);
        dataloader_close(&l);
    }

    // Renamed, replaced or removed: the loader keeps what it opened.
    if (!CHECK(open_one(&l, "used.npy", &s, &err))) { return; }
    CHECK(rename(path_of("used.npy"), path_of("moved.npy")) == 0);
    CHECK(dataloader_next(&l, 1, read, read_mask, filtered, &err) && read[0] == ids[0]);
    write_tokens("used.npy", 500, 1);
    CHECK(dataloader_next(&l, 1, read, read_mask, filtered, &err) && read[0] == ids[PAGES / 4]);
    CHECK(unlink(path_of("used.npy")) == 0 && unlink(path_of("moved.npy")) == 0);
    CHECK(dataloader_next(&l, 2, read, read_mask, filtered, &err) && read[0] == ids[PAGES / 2]);
    dataloader_close(&l);
    unlink(path_of("used.npy.mask"));
}

// ---------------------------------------------------------------------------------------------
// the fingerprint

// Opens the files, n names in `directory`, and compares them with a saved fingerprint.
static bool fingerprint_fits(const char *const *names, size_t n, const char *saved, Error *err) {
    LoaderSettings s = settings_of(1, true);
    const char *paths[4];
    DataLoader l;
    JsonDocument doc;
    s.fingerprint = true;
    for (size_t i = 0; i < n; i++) { paths[i] = path_of(names[i]); }
    if (!CHECK(dataloader_open(&l, paths, n, &s, err))) { return false; }
    if (!CHECK(json_parse(&doc, saved, strlen(saved), "state.json", err))) { return false; }
    bool ok = dataloader_fingerprint_check(&l, doc.root, "state.json", err);
    json_free(&doc);
    dataloader_close(&l);
    return ok;
}

// The fingerprint of these files, as text of the caller's.
static char *fingerprint_of(const char *const *names, size_t n) {
    LoaderSettings s = settings_of(1, true);
    const char *paths[4];
    DataLoader l;
    JsonWriter w;
    Error err = {""};
    s.fingerprint = true;
    memset(&w, 0, sizeof w);
    for (size_t i = 0; i < n; i++) { paths[i] = path_of(names[i]); }
    if (!CHECK(dataloader_open(&l, paths, n, &s, &err))) { exit(1); }
    dataloader_fingerprint_write(&w, NULL, &l);
    dataloader_close(&l);
    return w.text;
}

static void test_fingerprint(void) {
    const char *names[] = {"fp-a.npy", "fp-b.npy", "fp-c.npy"},
               *swapped[] = {"fp-b.npy", "fp-a.npy", "fp-c.npy"};
    const char *moved[] = {"fp-a.npy", "fp-z.npy", "fp-c.npy"},
               *twice[] = {"fp-a.npy", "fp-a.npy", "fp-c.npy"};
    const uint8_t labels[2 * T] = {1, 1, 0, 0, 1, 1, 0, 0};
    uint8_t others[2 * T] = {1, 1, 0, 0, 1, 1, 0, 1};
    Error err = {""};
    write_tokens("fp-a.npy", 0, 2 * T);
    write_tokens("fp-b.npy", 100, 2 * T);
    write_tokens("fp-c.npy", 200, 3 * T);
    write_file("fp-c.npy.mask", "\1\1\1\1\1\1\1\1\1\1\1\1", 12);
    char *saved = fingerprint_of(names, 3);
    // The digests come from xxHash: any machine has the same.
    const char *expected = "[{\"name\": \"fp-a.npy\", \"bytes\": 32, \"digest\": \"8597444baff40fdf\"}, "
                           "{\"name\": \"fp-b.npy\", \"bytes\": 32, \"digest\": \"bae7dd69b1e9ecb6\"}, "
                           "{\"name\": \"fp-c.npy\", \"bytes\": 48, \"digest\": \"1d1c5ecccacb5490\", "
                           "\"mask_digest\": \"601ebe7eabc926f2\"}]";
    if (!CHECK(strcmp(saved, expected) == 0)) { printf("       %s\n", saved); }

    CHECK(fingerprint_fits(names, 3, saved, &err));
    CHECK(fingerprint_fits(names, 3, "null", &err));  // a checkpoint without one
    // Another name for the same content in the same place is the same data.
    CHECK(rename(path_of("fp-b.npy"), path_of("fp-z.npy")) == 0);
    CHECK(fingerprint_fits(moved, 3, saved, &err));
    CHECK(rename(path_of("fp-z.npy"), path_of("fp-b.npy")) == 0);

    CHECK_ERROR(fingerprint_fits(swapped, 3, saved, &err), err,
                "fp-b.npy: the files of the run are in another order: file 1 of 3 was fp-a.npy");
    CHECK(strstr(err.text, "--accept-changed-data") != NULL &&
          strstr(err.text, "listed in state.json") != NULL);
    CHECK_ERROR(fingerprint_fits(names, 2, saved, &err), err,
                "fp-c.npy: is missing, file 3 of the 3 files of the run (48 bytes); now there are 2");
    CHECK_ERROR(fingerprint_fits(names, 1, saved, &err), err,
                "fp-b.npy: is missing, file 2 of the 3 files of the run "
                "(32 bytes); now there is 1");
    CHECK_ERROR(fingerprint_fits(twice, 3, saved, &err), err,
                "fp-a.npy: file 2 of 3 has other content than was saved, in the same 32 bytes as fp-b.npy");
    char *fewer = fingerprint_of(names, 2);
    CHECK_ERROR(fingerprint_fits(names, 3, fewer, &err), err,
                "fp-c.npy: is not one of the 2 files of the run; now there are 3");
    free(fewer);

    write_tokens("fp-b.npy", 101, 2 * T);
    CHECK_ERROR(fingerprint_fits(names, 3, saved, &err), err,
                "fp-b.npy: file 2 of 3 has other content than was saved, in the same 32 bytes");
    write_tokens("fp-b.npy", 100, 2 * T + 1);  // as many instances
    CHECK_ERROR(fingerprint_fits(names, 3, saved, &err), err,
                "fp-b.npy: file 2 of 3 has 36 bytes, was saved with 32");
    write_tokens("fp-b.npy", 100, 2 * T);
    CHECK(fingerprint_fits(names, 3, saved, &err));

    write_file("fp-b.npy.mask", labels, sizeof labels);
    CHECK_ERROR(fingerprint_fits(names, 3, saved, &err), err,
                "fp-b.npy: file 2 of 3 was saved without a label mask, now there is fp-b.npy.mask");
    char *masked = fingerprint_of(names, 3);
    write_file("fp-b.npy.mask", others, sizeof others);
    CHECK_ERROR(fingerprint_fits(names, 3, masked, &err), err,
                "fp-b.npy: file 2 of 3 has another label mask in fp-b.npy.mask than was saved");
    unlink(path_of("fp-b.npy.mask"));
    CHECK_ERROR(fingerprint_fits(names, 3, masked, &err), err,
                "fp-b.npy: file 2 of 3 was saved with a label mask, now there is no fp-b.npy.mask");
    free(masked);

    const char *bad[][2] = {
        {"3", "are not a list"},
        {"[3]", "\"name\" is missing"},
        {"[{\"name\": \"a\", \"bytes\": -1, \"digest\": \"0123456789abcdef\"}]", "\"bytes\" is -1"},
        {"[{\"name\": \"a\", \"bytes\": 1, \"digest\": \"0123456789abcde\"}]",
         "expected 16 hexadecimal digits"},
        {"[{\"name\": \"a\", \"bytes\": 1, \"digest\": \"0123456789abcdef\", \"mask_digest\": 5}]",
         "\"mask_digest\" is 5"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        CHECK_ERROR(fingerprint_fits(names, 3, bad[i][0], &err), err, bad[i][1]);
        CHECK(strncmp(err.text, "state.json: ", 12) == 0);
    }
    CHECK_ERROR(fingerprint_fits(names, 3, "[]", &err), err,
                "fp-a.npy: is not one of the 0 files of the run");
    free(saved);
}

// ---------------------------------------------------------------------------------------------
// the writer

static size_t file_size(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 ? (size_t)info.st_size : SIZE_MAX;
}

static void test_writer(void) {
    const uint32_t ids[] = {0, 1, 258, UINT32_MAX};
    const unsigned char bytes[] = {0, 0, 0, 0, 1, 0, 0, 0, 2, 1, 0, 0, 255, 255, 255, 255};
    TokensWriter w;
    Error err = {""};
    if (!CHECK(tokens_write_begin(&w, path_of("out.npy"), &err))) { return; }
    CHECK(tokens_write_append(&w, ids, 3, &err) && tokens_write_append(&w, ids, 0, &err));
    CHECK(!path_is_file(path_of("out.npy")));  // there is nothing until it is complete
    CHECK(path_is_file(path_of(".writing-out.npy")));
    CHECK(tokens_write_append(&w, ids + 3, 1, &err) && tokens_write_end(&w, &err));
    CHECK(w.tokens == 4);
    CHECK(!path_is_file(path_of(".writing-out.npy")));
    MappedFile file;
    if (!CHECK(file_map(&file, path_of("out.npy"), &err))) { return; }
    CHECK(file.size == sizeof bytes && memcmp(file.data, bytes, sizeof bytes) == 0);
    file_unmap(&file);

    CHECK(tokens_write_begin(&w, path_of("out.npy"), &err) && tokens_write_append(&w, ids, 1, &err));
    tokens_write_cancel(&w);
    tokens_write_cancel(&w);
    CHECK(file_size(path_of("out.npy")) == sizeof bytes);  // the old file stays
    CHECK(!path_is_file(path_of(".writing-out.npy")));

    CHECK_ERROR(tokens_write_begin(&w, path_of("no/such/out.npy"), &err), err,
                "no/such/out.npy: cannot be created");
    CHECK_ERROR(tokens_write_begin(&w, directory, &err), err, "cannot be created: Is a directory");
    CHECK_ERROR(tokens_write_begin(&w, path_of(""), &err), err, "cannot be created");
    CHECK_ERROR(tokens_write_begin(&w, "", &err), err, "cannot be created");
}

// A disk that fills up, here a limit on the size of files: the old file stays, the new one leaves nothing.
static void test_writer_on_a_full_disk(void) {
    static uint32_t ids[10000];
    struct rlimit before, small = {1000, RLIM_INFINITY};
    TokensWriter w;
    Error err = {""};
    write_tokens("full.npy", 0, T);
    getrlimit(RLIMIT_FSIZE, &before);
    small.rlim_max = before.rlim_max;
    signal(SIGXFSZ, SIG_IGN);
    CHECK(setrlimit(RLIMIT_FSIZE, &small) == 0);
    CHECK(tokens_write_begin(&w, path_of("full.npy"), &err));
    CHECK_ERROR(tokens_write_append(&w, ids, 10000, &err), err,
                "full.npy: cannot be written: File too large");
    CHECK(tokens_write_begin(&w, path_of("full.npy"), &err));
    CHECK(tokens_write_append(&w, ids, 300, &err));  // still in the buffer
    CHECK_ERROR(tokens_write_end(&w, &err), err, "full.npy: cannot be written: File too large");
    setrlimit(RLIMIT_FSIZE, &before);
    signal(SIGXFSZ, SIG_DFL);
    CHECK(file_size(path_of("full.npy")) == 4 * T);
    CHECK(!path_is_file(path_of(".writing-full.npy")));
}

static void remove_directory(void) {
    glob_t files;
    char pattern[300];
    snprintf(pattern, sizeof pattern, "%s/*", directory);
    CHECK(glob(pattern, 0, NULL, &files) == 0);
    for (size_t i = 0; i < files.gl_pathc; i++) { unlink(files.gl_pathv[i]); }
    globfree(&files);
    CHECK(rmdir(directory) == 0);  // fails if a temporary file was left
}

int main(void) {
    if (!CHECK(mkdtemp(directory) != NULL)) { return check_report(); }
    test_instances_in_order();
    test_shuffled_epochs();
    test_restore();
    test_masks();
    test_numpy_files();
    test_bad_files();
    test_bad_settings();
    test_ngram_repeats();
    test_filter();
    test_filter_and_masks();
    test_labels_repeat();
    test_kinds();
    test_not_files();
    test_masks_among_names();
    test_many_instances();
    test_files_in_use();
    test_fingerprint();
    test_writer();
    test_writer_on_a_full_disk();
    remove_directory();
    return check_report();
}
