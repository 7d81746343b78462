// scratch.h: a test program's own directory under /tmp, and small files in it. Begin with scratch_begin(),
// end with scratch_end().
#ifndef DEV_TEST_SCRATCH_H
#define DEV_TEST_SCRATCH_H

#include <dirent.h>

#include "check.h"
#include "llmc/files.h"

static Error err, warning;
static char dir[] = "/tmp/test_olmo2_XXXXXX";

// The path of a name in the test's directory, in one of four buffers used in turn.
static inline const char *in_dir(const char *name) {
    static char paths[4][PATH_MAX];
    static int next;
    char *path = paths[next++ % 4];
    CHECK(path_join(path, dir, name, &err));
    return path;
}

static inline void write_text(const char *name, const char *text) {
    FILE *file = fopen(in_dir(name), "wb");
    if (CHECK(file != NULL)) {
        CHECK(fputs(text, file) >= 0);
        fclose(file);
    }
}

static inline bool exists(const char *name) { return access(in_dir(name), F_OK) == 0; }

// Entries of a directory, "." and ".." not counted.
static inline int count_entries(const char *name) {
    int count = 0;
    DIR *listing = opendir(in_dir(name));
    if (!CHECK(listing != NULL)) { return -1; }
    while (readdir(listing) != NULL) { count++; }
    closedir(listing);
    return count - 2;
}

// Forgets earlier warnings.
static inline Error *no_warning(void) {
    warning.text[0] = '\0';
    return &warning;
}

static inline bool file_holds(const char *name, const char *text) {
    MappedFile file;
    if (!CHECK(file_map(&file, in_dir(name), &err))) { return false; }
    bool holds = file.size == strlen(text) && (file.size == 0 || memcmp(file.data, text, file.size) == 0);
    file_unmap(&file);
    return holds;
}

static inline bool scratch_begin(void) { return CHECK(mkdtemp(dir) != NULL); }
static inline void scratch_end(void) { CHECK(directory_remove(dir, &err)); }

#endif
