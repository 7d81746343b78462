// dataloader.h: token files in, batches out. token_writer.h writes them.
//
// A token file is OLMo-core's: raw little-endian uint32 ids, each document followed by its end token. A file
// with a true NumPy header is recognised and read too. A label mask is a file of the same name with ".mask"
// appended: one byte for each token, 1 if it is trained as a label, 0 if not.
//
// Each file is cut into instances of T tokens; the rest at its end is left out, and no instance spans two
// files. An epoch takes all instances in the order of PCG64(seed + epoch), epochs counted from 0, as OLMo
// does.
#ifndef LLMC_DATALOADER_H
#define LLMC_DATALOADER_H

#include <glob.h>

#include "files.h"
#include "rand.h"

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "token files are copied as they are on disk");

// ---------------------------------------------------------------------------------------------
// token files

typedef struct {
    char *path;
    MappedFile file, mask;  // mask.data is NULL when every token is a label
    size_t offset;          // bytes before the first token
    size_t tokens;          // in the file
    size_t first_instance;  // the number of its first instance among those of all files
    size_t instances;       // tokens / T
} TokenFile;

// The value of a key in the header of a .npy file, a Python dictionary as numpy.save writes it, or NULL.
static inline const char *npy_value(const char *header, const char *key) {
    char quoted[32];
    snprintf(quoted, sizeof quoted, "'%s':", key);
    const char *found = strstr(header, quoted);
    return found == NULL ? NULL : found + strlen(quoted) + strspn(found + strlen(quoted), " ");
}

// Whether a value is there and starts with this text.
static inline bool npy_is(const char *value, const char *start) {
    return value != NULL && strncmp(value, start, strlen(start)) == 0;
}

// Reads the header of a NumPy file (data, size) that starts with NumPy's magic: where the tokens start, and
// how many there are. Only a one-dimensional array of little-endian uint32 is accepted.
static inline bool npy_read_header(const char *data, size_t size, size_t *offset, size_t *tokens,
                                   const char *path, Error *err) {
    // Bytes 0-5 are the magic, 6 and 7 the version, then the header's length in 2 bytes (version 1) or 4.
    const unsigned char *bytes = (const unsigned char *)data;
    size_t start = size > 6 && bytes[6] == 1 ? 10 : 12;
    if (size < start) {
        return fail(err, "%s: NumPy header of %zu bytes: the file is truncated", path, size);
    }
    size_t length = bytes[8] | (size_t)bytes[9] << 8;
    if (start == 12) { length |= (size_t)bytes[10] << 16 | (size_t)bytes[11] << 24; }
    char header[4096];
    if (length > size - start || length >= sizeof header) {
        return fail(err,
                    "%s: NumPy header says it is %zu bytes long, expected less than %zu and no more than the "
                    "file's %zu: damaged or truncated",
                    path, length, sizeof header, size - start);
    }
    memcpy(header, data + start, length);
    header[length] = '\0';

    const char *descr = npy_value(header, "descr"), *order = npy_value(header, "fortran_order");
    const char *shape = npy_value(header, "shape");
    if (!npy_is(descr, "'<u4'")) {
        int width = descr == NULL ? 0 : (int)strcspn(descr, ",}\n");
        return fail(err, "%s: NumPy array of dtype %.*s, expected '<u4': save it with .astype('<u4')", path,
                    width > 0 ? width : 7, width > 0 ? descr : "unknown");
    }
    char *end = NULL;
    unsigned long long count = npy_is(shape, "(") ? strtoull(shape + 1, &end, 10) : 0;
    if (!npy_is(order, "False") || end == NULL || end == shape + 1 || !npy_is(end, ",)")) {
        return fail(err,
                    "%s: NumPy header %.300s\n       expected 'fortran_order': False and a shape (tokens,)",
                    path, header);
    }
    *offset = start + length;
    *tokens = (size_t)count;
    if (count > SIZE_MAX / 4 || size - *offset != 4 * *tokens) {
        return fail(err,
                    "%s: NumPy header says %llu tokens of 4 bytes, %zu bytes follow it: damaged or truncated",
                    path, count, size - *offset);
    }
    return true;
}

// Finds the tokens in the bytes (data, size) of a token file.
static inline bool tokens_locate(const char *data, size_t size, size_t *offset, size_t *tokens,
                                 const char *path, Error *err) {
    bool numpy = size >= 6 && memcmp(data, "\x93NUMPY", 6) == 0;
    if (numpy && !npy_read_header(data, size, offset, tokens, path, err)) { return false; }
    if (!numpy) {
        *offset = 0;
        *tokens = size / 4;
        if (size % 4 != 0) {
            return fail(err,
                        "%s: %zu bytes are no multiple of 4, expected raw little-endian uint32: the file is "
                        "truncated or of another kind",
                        path, size);
        }
    }
    return *tokens > 0 || fail(err, "%s: is empty, expected token ids", path);
}

static inline void token_file_close(TokenFile *f) {
    file_unmap(&f->file);
    file_unmap(&f->mask);
    free(f->path);
    f->path = NULL;
}

// Maps a token file and its mask, if there is one. On failure nothing is left to close.
static inline bool token_file_open(TokenFile *f, const char *path, Error *err) {
    memset(f, 0, sizeof *f);
    f->path = format_text("%s", path);
    char *mask_path = format_text("%s.mask", path);
    bool ok = f->path != NULL && mask_path != NULL;
    if (!ok) { fail(err, "out of memory: the name %s", path); }
    ok = ok && file_map(&f->file, path, err) &&
         tokens_locate(f->file.data, f->file.size, &f->offset, &f->tokens, path, err);
    if (ok && access(mask_path, F_OK) == 0) {
        ok = file_map(&f->mask, mask_path, err);
        if (ok && f->mask.size != f->tokens) {
            ok = fail(err,
                      "%s: a label mask of %zu bytes for %zu tokens of %s, expected one byte for each token",
                      mask_path, f->mask.size, f->tokens, path);
        }
    }
    free(mask_path);
    if (!ok) { token_file_close(f); }
    return ok;
}

// Copies T tokens from position `start` of the file and their mask, both checked.
static inline bool token_file_read(const TokenFile *f, size_t start, size_t T, size_t V, uint32_t *tokens,
                                   uint8_t *mask, Error *err) {
    memcpy(tokens, f->file.data + f->offset + 4 * start, 4 * T);
    for (size_t t = 0; t < T; t++) {
        if (tokens[t] >= V) {
            return fail(
                err,
                "%s: token %zu has id %u, the vocabulary has %zu rows: the file is of another tokenizer "
                "or is not raw little-endian uint32",
                f->path, start + t, tokens[t], V);
        }
    }
    if (f->mask.data == NULL) {
        memset(mask, 1, T);
        return true;
    }
    memcpy(mask, f->mask.data + start, T);
    for (size_t t = 0; t < T; t++) {
        if (mask[t] > 1) {
            return fail(err, "%s.mask: byte %zu is %u, expected 1 (a label) or 0 (none)", f->path, start + t,
                        mask[t]);
        }
    }
    return true;
}

// ---------------------------------------------------------------------------------------------
// repeated n-grams

// Whether some n-gram of min_period to max_period tokens (1 or more) stands max_count times (3 or more) or
// more in a row in tokens (T). That is a run of (max_count - 1) p tokens equal to the one p places before.
// The same answer as OLMo-core's instance filter, which finds no repetition of fewer than 3 times.
static inline bool ngram_repeats(const uint32_t *tokens, size_t T, size_t min_period, size_t max_period,
                                 size_t max_count) {
    if (max_count > T) { return false; }
    for (size_t p = min_period; p <= max_period && p < T; p++) {
        size_t run = 0;
        for (size_t t = p; t < T; t++) {
            run = tokens[t] == tokens[t - p] ? run + 1 : 0;
            if (run == (max_count - 1) * p) { return true; }
        }
    }
    return false;
}

// ---------------------------------------------------------------------------------------------
// the loader

typedef struct {
    size_t T;      // tokens of an instance
    size_t V;      // every id must be below
    size_t batch;  // instances of an optimizer step: the end of an epoch that fills no whole one is left out
    bool shuffle;  // or else in the order of the files
    uint64_t seed;
    bool filter;                               // find the instances with repeated n-grams
    size_t min_period, max_period, max_count;  // of the filter, as in ngram_repeats
} LoaderSettings;

// What a run must save to go on with the next instance.
typedef struct {
    uint64_t seed, epoch;
    uint64_t position;   // instances taken in this epoch
    uint64_t instances;  // in all files, to notice that they have changed
} LoaderState;

// The files are mapped into memory, so they must not be cut short while the loader is open.
typedef struct {
    LoaderSettings settings;
    TokenFile *files;  // (file_count)
    size_t file_count;
    size_t instances;  // in all files
    uint32_t *order;   // (instances) of this epoch; NULL when not shuffled
    LoaderState state;
} DataLoader;

static inline void dataloader_close(DataLoader *l) {
    for (size_t i = 0; i < l->file_count; i++) { token_file_close(&l->files[i]); }
    free(l->files);
    free(l->order);
    memset(l, 0, sizeof *l);
}

static inline size_t dataloader_instances(const DataLoader *l) { return l->instances; }

static inline void dataloader_shuffle(DataLoader *l) {
    if (l->order == NULL) { return; }
    Pcg64 rng;
    for (size_t i = 0; i < l->instances; i++) { l->order[i] = (uint32_t)i; }
    pcg64_seed(&rng, l->state.seed + l->state.epoch);
    pcg64_shuffle(&rng, l->order, l->instances);
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
    return true;
}

// Adds the file of that name, or else all files that match the pattern, sorted; a match named *.mask is no
// token file.
static inline bool dataloader_add(DataLoader *l, const char *pattern, Error *err) {
    if (path_is_file(pattern)) { return dataloader_add_file(l, pattern, err); }
    glob_t matches;
    size_t before = l->file_count;
    int status = glob(pattern, 0, NULL, &matches);
    bool ok = status == 0 || status == GLOB_NOMATCH;
    if (!ok) { fail(err, "%s: cannot be searched for files: %s", pattern, strerror(errno)); }
    for (size_t i = 0; ok && status == 0 && i < matches.gl_pathc; i++) {
        const char *path = matches.gl_pathv[i];
        ok = ends_with(path, ".mask") || dataloader_add_file(l, path, err);
    }
    if (ok && l->file_count == before) {
        ok = fail(err, "%s: no such file, and as a pattern it matches no token file", pattern);
    }
    globfree(&matches);
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
        return fail(
            err,
            "%s%s: %zu sequences of T = %zu tokens, fewer than one batch of %zu: use a smaller batch, "
            "shorter sequences or more data",
            l->files[0].path, l->file_count > 1 ? " and the other files" : "", l->instances, s->T, s->batch);
    }
    if (s->shuffle && l->instances > UINT32_MAX) {
        return fail(
            err,
            "%zu sequences of T = %zu tokens cannot be shuffled by 32-bit numbers: use longer sequences "
            "or fewer files",
            l->instances, s->T);
    }
    return true;
}

// Opens the files of n patterns (names or globs, each with its files sorted), at the start of epoch 0. On
// success the caller owns *l and releases it with dataloader_close; on failure there is nothing to release.
static inline bool dataloader_open(DataLoader *l, const char *const *patterns, size_t n,
                                   const LoaderSettings *s, Error *err) {
    memset(l, 0, sizeof *l);
    l->settings = *s;
    if (s->T == 0 || s->batch == 0 || n == 0) {
        return fail(
            err, "token files: %zu patterns, sequences of %zu tokens and batches of %zu, expected 1 or more",
            n, s->T, s->batch);
    }
    if (s->filter && (s->min_period == 0 || s->max_period < s->min_period || s->max_count < 3)) {
        return fail(
            err,
            "instance filter: periods %zu to %zu and count %zu, expected 1 <= first <= last period and "
            "a count of 3 or more",
            s->min_period, s->max_period, s->max_count);
    }
    bool ok = true;
    for (size_t i = 0; ok && i < n; i++) { ok = dataloader_add(l, patterns[i], err); }
    ok = ok && dataloader_check_size(l, err);
    if (ok && s->shuffle) {
        l->order =
            (uint32_t *)allocate(l->instances, sizeof *l->order, "the shuffled order of an epoch", err);
        ok = l->order != NULL;
    }
    if (!ok) {
        dataloader_close(l);
        return false;
    }
    l->state.seed = s->seed;
    l->state.instances = l->instances;
    dataloader_shuffle(l);
    return true;
}

// Goes on where l->state was saved: the next instance is the one that came next there.
static inline bool dataloader_restore(DataLoader *l, const LoaderState *state, Error *err) {
    if (state->instances != l->instances || state->position > state->instances) {
        return fail(err,
                    "%s: the saved run stood at sequence %zu of %zu, the files now hold %zu: the data or the "
                    "sequence length has changed since; give the files of that run, or start a new one",
                    l->files[0].path, (size_t)state->position, (size_t)state->instances, l->instances);
    }
    l->state = *state;
    dataloader_shuffle(l);
    return true;
}

// The file that holds an instance.
static inline const TokenFile *dataloader_file(const DataLoader *l, size_t instance) {
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

// The next B instances: tokens (B, T), all below V; mask (B, T), 1 where the token is trained as a label;
// filtered (B), true if the instance has repeated n-grams and is not to be trained on. When an epoch has no
// whole `batch` left, the next one begins.
static inline bool dataloader_next(DataLoader *l, size_t B, uint32_t *tokens, uint8_t *mask, bool *filtered,
                                   Error *err) {
    const LoaderSettings *s = &l->settings;
    for (size_t b = 0; b < B; b++) {
        if (l->state.position >= l->instances - l->instances % s->batch) {
            l->state.epoch++;
            l->state.position = 0;
            dataloader_shuffle(l);
        }
        size_t position = (size_t)l->state.position;
        size_t instance = l->order != NULL ? l->order[position] : position;
        const TokenFile *file = dataloader_file(l, instance);
        size_t start = (instance - file->first_instance) * s->T;
        if (!token_file_read(file, start, s->T, s->V, tokens + b * s->T, mask + b * s->T, err)) {
            return false;
        }
        filtered[b] =
            s->filter && ngram_repeats(tokens + b * s->T, s->T, s->min_period, s->max_period, s->max_count);
        l->state.position++;
    }
    return true;
}

#endif
