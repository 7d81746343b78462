// token_fixture.h: what the tests of token files share: a directory of their own, files in it, a loader of
// one file.
#ifndef DEV_TEST_TOKEN_FIXTURE_H
#define DEV_TEST_TOKEN_FIXTURE_H

#include <glob.h>

#include "llmc/dataloader.h"

#include "check.h"

enum { T = 4, V = 1000 };

static char directory[] = "/tmp/test_tokens.XXXXXX";

// directory/name, in one of four buffers used in turn
static inline const char *path_of(const char *name) {
    static char buffers[4][256];
    static size_t turn;
    char *buffer = buffers[turn++ % 4];
    snprintf(buffer, sizeof buffers[0], "%s/%s", directory, name);
    return buffer;
}

static inline void write_file(const char *name, const void *data, size_t size) {
    FILE *f = fopen(path_of(name), "wb");
    if (!CHECK(f != NULL)) { exit(1); }
    CHECK(fwrite(data, 1, size, f) == size);
    CHECK(fclose(f) == 0);
}

// n tokens first, first + 1, ...
static inline void write_tokens(const char *name, uint32_t first, size_t n) {
    uint32_t tokens[256];
    for (size_t i = 0; i < n; i++) { tokens[i] = first + (uint32_t)i; }
    write_file(name, tokens, 4 * n);
}

// A NumPy file with this dictionary, padded as numpy.save pads it, and n tokens.
static inline void write_npy(const char *name, int version, const char *dictionary, size_t n) {
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

static inline LoaderSettings settings_of(size_t batch, bool shuffle) {
    LoaderSettings s = {T, V, batch, shuffle, 6198, false, 0, 0, 0, false};
    return s;
}

static inline bool open_one(DataLoader *l, const char *name, const LoaderSettings *s, Error *err) {
    const char *pattern = path_of(name);
    return dataloader_open(l, &pattern, 1, s, err);
}

static uint32_t tokens[64 * T];
static uint8_t mask[64 * T];
static bool filtered[64];

// The first token of the next instance, which tells instances apart.
static inline uint32_t next_first(DataLoader *l) {
    Error err = {""};
    CHECK(dataloader_next(l, 1, tokens, mask, filtered, &err));
    return tokens[0];
}

static inline void remove_directory(void) {
    glob_t files;
    char pattern[300];
    snprintf(pattern, sizeof pattern, "%s/*", directory);
    CHECK(glob(pattern, 0, NULL, &files) == 0);
    for (size_t i = 0; i < files.gl_pathc; i++) { unlink(files.gl_pathv[i]); }
    globfree(&files);
    CHECK(rmdir(directory) == 0);  // fails if a temporary file was left
}

#endif
