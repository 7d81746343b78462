// dataloader.h: token files in, batches out.
//
//   dataloader_open, dataloader_close     the files of a list of names or patterns
//   dataloader_next                       the next instances, with their masks
//   dataloader_restore, _continue, _rewind     move to another place in the order
//   dataloader_fingerprint_write, _check       whether a resumed run has its files of before
//
// Each file (token_files.h) is cut into instances of T tokens. The rest at its end is left out, and no
// instance spans two files. A run takes the instances in the order of order.h. token_writer.h writes token
// files.
#ifndef LLMC_DATALOADER_H
#define LLMC_DATALOADER_H

#include <glob.h>

#include "fingerprint.h"
#include "ngrams.h"
#include "order.h"

typedef struct {
    size_t T;                                  // tokens of an instance
    size_t V;                                  // every id must be below
    size_t batch;                              // instances of an optimizer step
    bool shuffle;                              // otherwise in the order of the files
    uint64_t seed;                             // of the shuffle
    bool filter;                               // find the instances with repeated n-grams
    size_t min_period, max_period, max_count;  // of the filter, as in ngram_repeats
    bool fingerprint;                          // take the digest of each file
} LoaderSettings;

typedef struct {
    LoaderSettings settings;
    TokenFile *files;  // (file_count), in the order of the run; a file given twice is there twice
    size_t file_count;
    size_t instances;  // in all files
    size_t calls;      // of dataloader_next
    Order order;
} DataLoader;

// Opens the files of n patterns, at the start of epoch 0. A pattern is the name of a file, or else all files
// that match it as a glob, sorted. Names that end in ".mask" are left out. On success the caller owns *l and
// releases it with dataloader_close; on failure there is nothing to release.
static inline bool dataloader_open(DataLoader *l, const char *const *patterns, size_t n,
                                   const LoaderSettings *s, Error *err);
static inline void dataloader_close(DataLoader *l);

// The next B instances: tokens (B, T), all below V; mask (B, T), 1 where the token is trained as a label;
// filtered (B), true if the labels of the instance have repeated n-grams and it must not be trained on. After
// an error the place in the order is that before the call.
static inline bool dataloader_next(DataLoader *l, size_t B, uint32_t *tokens, uint8_t *mask, bool *filtered,
                                   Error *err);

static inline size_t dataloader_instances(const DataLoader *l) { return l->instances; }

// Moves to a place that was saved (order_restore).
static inline bool dataloader_restore(DataLoader *l, const OrderState *saved, Error *err) {
    return order_restore(&l->order, saved, l->files[0].path, err);
}

// The same for changed data that the user has accepted (order_continue).
static inline void dataloader_continue(DataLoader *l, const OrderState *saved) {
    order_continue(&l->order, saved);
}

// Moves to the start of epoch 0.
static inline void dataloader_rewind(DataLoader *l) { order_go_to(&l->order, l->order.state.seed, 0, 0); }

// The fingerprint of the files, of a loader that was opened with settings.fingerprint (fingerprint.h).
static inline void dataloader_fingerprint_write(JsonWriter *w, const char *key, const DataLoader *l) {
    fingerprint_write(w, key, l->files, l->file_count);
}

static inline bool dataloader_fingerprint_check(const DataLoader *l, const Json *saved, const char *source,
                                                Error *err) {
    return fingerprint_check(l->files, l->file_count, saved, source, err);
}

// ---------------------------------------------------------------------------------------------
// opening

static inline bool loader_settings_check(const LoaderSettings *s, size_t patterns, Error *err) {
    if (s->T == 0 || s->batch == 0 || patterns == 0) {
        return fail(
            err, "token files: %zu patterns, sequences of %zu tokens and batches of %zu, expected 1 or more",
            patterns, s->T, s->batch);
    }
    if (s->filter && (s->min_period == 0 || s->max_period < s->min_period || s->max_count < 3)) {
        return fail(err,
                    "instance filter: periods %zu to %zu and count %zu, expected 1 <= first <= last period "
                    "and a count of 3 or more",
                    s->min_period, s->max_period, s->max_count);
    }
    return true;
}

static inline bool dataloader_add_file(DataLoader *l, const char *path, Error *err) {
    TokenFile *files = (TokenFile *)realloc(l->files, (l->file_count + 1) * sizeof *files);
    if (files == NULL) { return fail(err, "out of memory: a list of %zu token files", l->file_count + 1); }
    l->files = files;
    TokenFile *file = &files[l->file_count];
    if (!token_file_open(file, path, err)) { return false; }
    file->first_instance = l->instances;
    file->instances = file->tokens / l->settings.T;
    l->instances += file->instances;
    l->file_count++;
    return token_file_check_kind(file, l->settings.V, err);
}

static inline bool dataloader_add_matches(DataLoader *l, const glob_t *matches, const char *pattern,
                                          Error *err) {
    const size_t before = l->file_count;
    for (size_t i = 0; i < matches->gl_pathc; i++) {
        const char *path = matches->gl_pathv[i];
        if (!ends_with(path, ".mask") && !dataloader_add_file(l, path, err)) { return false; }
    }
    return l->file_count > before ||
           fail(err, "%s: no such file, and as a pattern it matches no token file", pattern);
}

static inline bool dataloader_add(DataLoader *l, const char *pattern, Error *err) {
    struct stat info;
    glob_t matches;
    if (stat(pattern, &info) == 0) {
        // A shell that expands * passes the masks too.
        return (ends_with(pattern, ".mask") && S_ISREG(info.st_mode)) || dataloader_add_file(l, pattern, err);
    }
    // Without GLOB_ERR a directory that cannot be read would count as an empty one, and its data would be
    // left out.
    int status = glob(pattern, GLOB_ERR, NULL, &matches);
    if (status != 0 && status != GLOB_NOMATCH) {
        return fail(err, "%s: cannot be searched for files: %s", pattern, strerror(errno));
    }
    if (status == GLOB_NOMATCH) { matches.gl_pathc = 0; }
    bool ok = dataloader_add_matches(l, &matches, pattern, err);
    if (status == 0) { globfree(&matches); }
    return ok;
}

static inline bool dataloader_check_size(const DataLoader *l, Error *err) {
    const LoaderSettings *s = &l->settings;
    const TokenFile *longest = &l->files[0];
    for (size_t i = 1; i < l->file_count; i++) {
        if (l->files[i].tokens > longest->tokens) { longest = &l->files[i]; }
    }
    if (l->instances == 0) {
        return fail(err,
                    "%s: %zu tokens, fewer than one sequence of T = %zu (no file is longer): use shorter "
                    "sequences or more data",
                    longest->path, longest->tokens, s->T);
    }
    if (l->instances < s->batch) {
        return fail(err,
                    "%s%s: %zu sequences of T = %zu tokens, fewer than one batch of %zu: use a smaller "
                    "batch, shorter sequences or more data",
                    l->files[0].path, l->file_count > 1 ? " and the other files" : "", l->instances, s->T,
                    s->batch);
    }
    if (s->shuffle && l->instances > UINT32_MAX) {
        return fail(
            err,
            "%zu sequences of T = %zu tokens cannot be shuffled by 32-bit numbers: use longer sequences or "
            "fewer files",
            l->instances, s->T);
    }
    return true;
}

static inline bool dataloader_open_files(DataLoader *l, const char *const *patterns, size_t n, Error *err) {
    for (size_t i = 0; i < n; i++) {
        if (!dataloader_add(l, patterns[i], err)) { return false; }
    }
    if (l->file_count == 0) {
        return fail(err,
                    "%s: is a label mask, expected token files; the mask of X.npy is found as X.npy.mask",
                    patterns[0]);
    }
    if (!dataloader_check_size(l, err)) { return false; }
    const LoaderSettings *s = &l->settings;
    return order_create(&l->order, l->instances, s->batch, s->shuffle, s->seed, err);
}

static inline bool dataloader_open(DataLoader *l, const char *const *patterns, size_t n,
                                   const LoaderSettings *s, Error *err) {
    memset(l, 0, sizeof *l);
    l->settings = *s;
    bool ok = loader_settings_check(s, n, err);
    if (ok) { ok = dataloader_open_files(l, patterns, n, err); }
    if (!ok) {
        dataloader_close(l);
        return false;
    }
    for (size_t i = 0; s->fingerprint && i < l->file_count; i++) { token_file_digest(&l->files[i]); }
    return true;
}

static inline void dataloader_close(DataLoader *l) {
    for (size_t i = 0; i < l->file_count; i++) { token_file_close(&l->files[i]); }
    free(l->files);
    order_free(&l->order);
    memset(l, 0, sizeof *l);
}

// ---------------------------------------------------------------------------------------------
// the next instances

// The file that holds an instance.
static inline TokenFile *dataloader_file(const DataLoader *l, size_t instance) {
    size_t low = 0, high = l->file_count - 1;  // the first instance of `low` is not above `instance`
    while (low < high) {
        size_t middle = (low + high + 1) / 2;
        if (l->files[middle].first_instance <= instance) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    return &l->files[low];
}

// One instance: tokens (T), mask (T). Each file is checked once in a call of dataloader_next.
static inline bool dataloader_read(DataLoader *l, size_t instance, uint32_t *tokens, uint8_t *mask,
                                   Error *err) {
    const LoaderSettings *s = &l->settings;
    TokenFile *file = dataloader_file(l, instance);
    if (file->checked != l->calls) {
        if (!token_file_unchanged(file, err)) { return false; }
        file->checked = l->calls;
    }
    return token_file_read(file, (instance - file->first_instance) * s->T, s->T, s->V, tokens, mask, err);
}

static inline bool dataloader_next(DataLoader *l, size_t B, uint32_t *tokens, uint8_t *mask, bool *filtered,
                                   Error *err) {
    const LoaderSettings *s = &l->settings;
    const OrderState before = l->order.state;
    l->calls++;
    for (size_t b = 0; b < B; b++) {
        uint32_t *tokens_b = tokens + b * s->T;
        uint8_t *mask_b = mask + b * s->T;
        if (!dataloader_read(l, order_next(&l->order), tokens_b, mask_b, err)) {
            order_go_to(&l->order, before.seed, before.epoch, before.position);
            return false;
        }
        filtered[b] =
            s->filter && labels_repeat(tokens_b, mask_b, s->T, s->min_period, s->max_period, s->max_count);
    }
    return true;
}

#endif
