// fingerprint.h: which files a run reads. Its checkpoints keep this, so a run does not resume on other data.
//
// A fingerprint is a list: for each file, in the order of the run, its base name, its size, its digest
// (digest.h) and that of its label mask. The name only serves the messages: a renamed or moved file with the
// same content at the same place in the order is the same data. OLMo-core's fingerprint is of names and
// sizes, without the content.
#ifndef LLMC_FINGERPRINT_H
#define LLMC_FINGERPRINT_H

#include "json.h"
#include "token_files.h"

// Writes an array under that key, one object per file. The files' digests must have been taken.
static inline void fingerprint_write(JsonWriter *w, const char *key, const TokenFile *files, size_t count);

// Whether the files are those of a saved fingerprint. The error says which file differs, what it was and what
// it is now. NULL or null, from a checkpoint without a fingerprint, accepts any files. `source` names the
// checkpoint's file in messages.
static inline bool fingerprint_check(const TokenFile *files, size_t count, const Json *saved,
                                     const char *source, Error *err);

// ---------------------------------------------------------------------------------------------
// one file

typedef struct {
    const char *name;  // its base name
    size_t bytes;
    uint64_t digest;
    bool masked;
    uint64_t mask_digest;
    bool found;  // scratch of the search for files in another order
} FilePrint;

static inline FilePrint file_print(const TokenFile *f) {
    const char *slash = strrchr(f->path, '/');
    FilePrint print;
    memset(&print, 0, sizeof print);
    assert(f->ids.digested);
    print.name = slash == NULL ? f->path : slash + 1;
    print.bytes = f->ids.map.size;
    print.digest = f->ids.digest;
    print.masked = f->mask.map.data != NULL;
    print.mask_digest = print.masked ? f->mask.digest : 0;
    return print;
}

static inline bool file_print_equal(const FilePrint *a, const FilePrint *b) {
    return a->bytes == b->bytes && a->digest == b->digest && a->masked == b->masked &&
           a->mask_digest == b->mask_digest;
}

// A digest is written as 16 hexadecimal digits: most JSON readers keep a number in a double, which has 53
// bits.
static inline void fingerprint_write_digest(JsonWriter *w, const char *key, uint64_t digest) {
    char text[17];
    snprintf(text, sizeof text, "%016llx", (unsigned long long)digest);
    json_string(w, key, text);
}

static inline bool fingerprint_read_digest(const Json *object, const char *key, bool required, bool *found,
                                           uint64_t *digest, const char *source, Error *err) {
    const char *text = NULL;
    if (!json_get_string(object, key, required, &text, source, err)) { return false; }
    *found = text != NULL;
    *digest = 0;
    if (text == NULL) { return true; }
    if (strlen(text) != 16 || strspn(text, "0123456789abcdef") != 16) {
        return fail(err, "%s: \"%s\" is \"%.40s\", expected 16 hexadecimal digits", source, key, text);
    }
    *digest = strtoull(text, NULL, 16);
    return true;
}

static inline bool file_print_read(FilePrint *print, const Json *saved, const char *source, Error *err) {
    bool found;
    memset(print, 0, sizeof *print);
    if (!json_get_string(saved, "name", true, &print->name, source, err)) { return false; }
    if (!json_get_size(saved, "bytes", true, &print->bytes, source, err)) { return false; }
    if (!fingerprint_read_digest(saved, "digest", true, &found, &print->digest, source, err)) {
        return false;
    }
    return fingerprint_read_digest(saved, "mask_digest", false, &print->masked, &print->mask_digest, source,
                                   err);
}

static inline void fingerprint_write(JsonWriter *w, const char *key, const TokenFile *files, size_t count) {
    json_begin_array(w, key);
    for (size_t i = 0; i < count; i++) {
        const FilePrint print = file_print(&files[i]);
        json_begin_object(w, NULL);
        json_string(w, "name", print.name);
        json_integer(w, "bytes", (int64_t)print.bytes);
        fingerprint_write_digest(w, "digest", print.digest);
        if (print.masked) { fingerprint_write_digest(w, "mask_digest", print.mask_digest); }
        json_end_object(w);
    }
    json_end_array(w);
}

// ---------------------------------------------------------------------------------------------
// the comparison

// How many of a (n) have no equal in b (m), where each of b is matched once. `found` marks what is matched.
static inline size_t fingerprint_unmatched(FilePrint *a, size_t n, FilePrint *b, size_t m) {
    size_t unmatched = n;
    for (size_t j = 0; j < m; j++) { b[j].found = false; }
    for (size_t i = 0; i < n; i++) {
        size_t j = 0;
        while (j < m && (b[j].found || !file_print_equal(&a[i], &b[j]))) { j++; }
        a[i].found = j < m;
        if (j < m) { b[j].found = true; }
        unmatched -= j < m;
    }
    return unmatched;
}

// What differs between a saved file and the one in its place, in words.
static inline void file_print_difference(char text[512], const FilePrint *was, const FilePrint *is) {
    if (was->bytes != is->bytes) {
        snprintf(text, 512, "has %zu bytes, was saved with %zu", is->bytes, was->bytes);
    } else if (was->digest != is->digest) {
        snprintf(text, 512, "has other content than was saved, in the same %zu bytes", is->bytes);
    } else if (was->masked && !is->masked) {
        snprintf(text, 512, "was saved with a label mask, now there is no %.200s.mask", is->name);
    } else if (!was->masked && is->masked) {
        snprintf(text, 512, "was saved without a label mask, now there is %.200s.mask", is->name);
    } else {
        snprintf(text, 512, "has another label mask in %.200s.mask than was saved", is->name);
    }
}

// The error of two lists that differ: was (n) as saved, is (m) as opened.
static inline bool fingerprint_error(FilePrint *was, size_t n, FilePrint *is, size_t m,
                                     const TokenFile *files, const char *source, Error *err) {
    char text[512];
    size_t missing = fingerprint_unmatched(was, n, is, m), added = m - (n - missing), i = 0;
    if (missing == 0 && added == 0) {
        while (file_print_equal(&was[i], &is[i])) { i++; }
        fail(err, "%s: the files of the run are in another order: file %zu of %zu was %.200s", files[i].path,
             i + 1, n, was[i].name);
    } else if (n == m) {
        while (file_print_equal(&was[i], &is[i])) { i++; }
        const bool renamed = strcmp(was[i].name, is[i].name) != 0;
        file_print_difference(text, &was[i], &is[i]);
        fail(err, "%s: file %zu of %zu%s%.200s%s %s", files[i].path, i + 1, n, renamed ? ", then " : "",
             renamed ? was[i].name : "", renamed ? "," : "", text);
    } else if (missing > 0) {
        while (was[i].found) { i++; }
        fail(err, "%.200s: is missing, file %zu of the %zu files of the run (%zu bytes); now there %s %zu",
             was[i].name, i + 1, n, was[i].bytes, m == 1 ? "is" : "are", m);
    } else {
        while (is[i].found) { i++; }
        fail(err, "%s: is not one of the %zu file%s of the run; now there are %zu", files[i].path, n,
             n == 1 ? "" : "s", m);
    }
    return fail(
        err,
        "%s\nThe files of the run are listed in %s.\nGive the same files in the same order, or continue "
        "with these: --accept-changed-data.\nThe run then reads other sequences than it would have.",
        err->text, source);
}

static inline bool fingerprint_read(FilePrint *was, const Json *saved, const char *source, Error *err) {
    for (const Json *file = json_first(saved); file != NULL; file = json_next(file)) {
        if (!file_print_read(was++, file, source, err)) { return false; }
    }
    return true;
}

static inline bool fingerprint_check(const TokenFile *files, size_t count, const Json *saved,
                                     const char *source, Error *err) {
    if (saved == NULL || saved->type == JSON_NULL) { return true; }
    if (saved->type != JSON_ARRAY) { return fail(err, "%s: the files of the run are not a list", source); }
    const size_t n = saved->count;
    FilePrint *was = (FilePrint *)allocate(n + count, sizeof *was, "the fingerprint of the data", err);
    if (was == NULL) { return false; }
    FilePrint *is = was + n;
    bool ok = fingerprint_read(was, saved, source, err);
    if (ok) {
        bool same = n == count;
        for (size_t i = 0; i < count; i++) { is[i] = file_print(&files[i]); }
        for (size_t i = 0; same && i < n; i++) { same = file_print_equal(&was[i], &is[i]); }
        ok = same || fingerprint_error(was, n, is, count, files, source, err);
    }
    free(was);
    return ok;
}

#endif
