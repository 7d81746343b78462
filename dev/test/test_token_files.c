// test_token_files.c: token files of NumPy, files that are something else, and what other programs may do to
// a file while it is open.
#include "token_fixture.h"

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

    write_tokens("large.npy", V - 6, 2 * T);
    if (!CHECK(open_one(&l, "large.npy", &s, &err))) { return; }
    CHECK(dataloader_next(&l, 1, tokens, mask, filtered, &err));
    CHECK_ERROR(dataloader_next(&l, 1, tokens, mask, filtered, &err), err,
                "large.npy: token 6 has id 1000, the vocabulary has 1000 rows");
    dataloader_close(&l);
}

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
    s.V = 100352;  // of which any two bytes are an id
    for (size_t i = 0; i < 2 * N; i++) { halves[i] = (uint16_t)(2000 + i * 97); }
    write_file("kind.npy", halves, sizeof halves);
    CHECK_ERROR(open_one(&l, "kind.npy", &s, &err), err, "it looks like 16-bit ids");
    halves[N] = 65000;
    write_file("kind.npy", halves, sizeof halves);
    CHECK_ERROR(open_one(&l, "kind.npy", &s, &err), err, "the file is of another tokenizer or is not raw");
    s.V = V;
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

int main(void) {
    if (!CHECK(mkdtemp(directory) != NULL)) { return check_report(); }
    test_numpy_files();
    test_bad_files();
    test_kinds();
    test_not_files();
    test_files_in_use();
    remove_directory();
    return check_report();
}
