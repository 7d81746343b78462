// test_fingerprint.c: the fingerprint of a run's files, saved and compared.
#include "token_fixture.h"

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
    CHECK_ERROR(
        fingerprint_fits(twice, 3, saved, &err), err,
        "fp-a.npy: file 2 of 3, then fp-b.npy, has other content than was saved, in the same 32 bytes");
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

int main(void) {
    if (!CHECK(mkdtemp(directory) != NULL)) { return check_report(); }
    test_fingerprint();
    remove_directory();
    return check_report();
}
