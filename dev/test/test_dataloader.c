// test_dataloader.c: the data loader's instances, order, masks and filter, and its errors.
#include "token_fixture.h"

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

static void test_bad_sizes(void) {
    LoaderSettings s = settings_of(1, false);
    DataLoader l;
    Error err = {""};
    write_tokens("short.npy", 0, 3 * T - 1);
    s.T = 3 * T;
    CHECK_ERROR(open_one(&l, "short.npy", &s, &err), err,
                "short.npy: 11 tokens, fewer than one sequence of T = 12");
    s = settings_of(3, true);
    CHECK_ERROR(open_one(&l, "short.npy", &s, &err), err,
                "2 sequences of T = 4 tokens, fewer than one batch of 3");
    CHECK(l.files == NULL && l.order.shuffled == NULL);
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

int main(void) {
    if (!CHECK(mkdtemp(directory) != NULL)) { return check_report(); }
    test_instances_in_order();
    test_shuffled_epochs();
    test_restore();
    test_masks();
    test_filter();
    test_filter_and_masks();
    test_bad_sizes();
    test_bad_settings();
    test_masks_among_names();
    test_many_instances();
    remove_directory();
    return check_report();
}
