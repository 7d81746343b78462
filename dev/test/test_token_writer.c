// test_token_writer.c: the writer of token files, also on a full disk.
#include <sys/resource.h>

#include <signal.h>

#include "llmc/token_writer.h"

#include "token_fixture.h"

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

int main(void) {
    if (!CHECK(mkdtemp(directory) != NULL)) { return check_report(); }
    test_writer();
    test_writer_on_a_full_disk();
    remove_directory();
    return check_report();
}
