// token_files.h: opens and reads a token file and its label mask.
//
//   token_file_open, token_file_close     map the file and FILE.mask, if there is one
//   token_file_check_kind                 detect early that a file does not hold ids
//   token_file_read                       copy some tokens and their mask, both checked
//   token_file_digest                     take the digests of both files
//   token_file_unchanged                  detect that another program has written to them since
//
// A token file is OLMo-core's: raw little-endian uint32 ids, each document followed by its end token. A file
// with a true NumPy header is recognised and read too. A label mask is a file of the same name with ".mask"
// appended: one byte for each token, 1 if it is trained as a label, 0 if not.
#ifndef LLMC_TOKEN_FILES_H
#define LLMC_TOKEN_FILES_H

#include "digest.h"
#include "files.h"

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "token files are copied as they are on disk");

// A file that stays mapped while other programs have access to it. They may rename, replace or remove it: the
// mapping keeps the file that was opened.
typedef struct {
    char *path;
    MappedFile map;
    dev_t device;  // with the inode: whether the path still names this file
    ino_t inode;
    time_t modified;
    bool digested;
    uint64_t digest;  // of its content, once taken
} HeldFile;

typedef struct {
    const char *path;    // of ids
    HeldFile ids, mask;  // mask.map.data is NULL when every token is a label
    size_t offset;       // bytes before the first token
    size_t tokens;       // in the file
    // The data loader's:
    size_t first_instance;  // the number of its first instance among those of all files
    size_t instances;       // tokens / T
    size_t checked;         // the call of dataloader_next that last found it unchanged
} TokenFile;

// Maps a token file and its mask, if there is one. On failure nothing is left to close.
static inline bool token_file_open(TokenFile *f, const char *path, Error *err);
static inline void token_file_close(TokenFile *f);

// Looks at the file's first ids. It fails if most are not below V or the ids are 64 bits wide, and says what
// the file looks like. A single bad id passes: token_file_read finds it.
static inline bool token_file_check_kind(const TokenFile *f, size_t V, Error *err);

// Copies T tokens from position `start` of the file, all below V, and their mask, all 0 or 1.
static inline bool token_file_read(const TokenFile *f, size_t start, size_t T, size_t V, uint32_t *tokens,
                                   uint8_t *mask, Error *err);

static inline void token_file_digest(TokenFile *f);

// Whether both files still hold what was opened: they were not cut short and, where their digests were taken,
// not rewritten in place. Reading a mapped file beyond its end kills the program (SIGBUS), so the data loader
// asks before it reads.
static inline bool token_file_unchanged(TokenFile *f, Error *err);

// ---------------------------------------------------------------------------------------------
// files that stay mapped

static inline void held_file_close(HeldFile *f) {
    file_unmap(&f->map);
    free(f->path);
    f->path = NULL;
}

// Maps a regular file. It looks before it opens: opening a pipe would wait for its writer.
static inline bool held_file_open(HeldFile *f, const char *path, Error *err) {
    struct stat info;
    memset(f, 0, sizeof *f);
    if (stat(path, &info) != 0) { return fail(err, "%s: cannot be opened: %s", path, strerror(errno)); }
    if (S_ISDIR(info.st_mode)) {
        return fail(err, "%s: is a directory, expected a file; for all token files in it give '%s/*.npy'",
                    path, path);
    }
    if (!S_ISREG(info.st_mode)) {
        return fail(
            err,
            "%s: is a pipe or a device, expected a regular file: sequences are read in any order; write the "
            "tokens to a file first",
            path);
    }
    if (!file_map(&f->map, path, err)) { return false; }
    f->path = format_text("%s", path);
    if (f->path == NULL) {
        held_file_close(f);
        return fail(err, "out of memory: the name %s", path);
    }
    f->device = info.st_dev;
    f->inode = info.st_ino;
    f->modified = info.st_mtime;
    if (f->map.size == (size_t)info.st_size) { return true; }
    held_file_close(f);
    return fail(err, "%s: its size changes while it is opened: wait until it is complete", path);
}

static inline void held_file_digest(HeldFile *f) {
    f->digest = digest_bytes(f->map.data, f->map.size);
    f->digested = true;
}

static inline bool held_file_unchanged(HeldFile *f, Error *err) {
    struct stat now;
    if (f->map.data == NULL || stat(f->path, &now) != 0 || now.st_dev != f->device ||
        now.st_ino != f->inode) {
        return true;  // renamed, replaced or removed
    }
    if ((size_t)now.st_size < f->map.size) {
        return fail(err,
                    "%s: has %zu bytes, had %zu when it was opened: another program has cut it short. To "
                    "replace a file in use, write the new one under another name, then rename it",
                    f->path, (size_t)now.st_size, f->map.size);
    }
    if (now.st_mtime == f->modified) { return true; }
    if (f->digested && digest_bytes(f->map.data, f->map.size) != f->digest) {
        return fail(err,
                    "%s: its content has changed since it was opened: another program has written into it. "
                    "To replace a file in use, write the new one under another name, then rename it",
                    f->path);
    }
    f->modified = now.st_mtime;  // touched, or something was appended: what was opened is still there
    return true;
}

static inline void token_file_digest(TokenFile *f) {
    held_file_digest(&f->ids);
    if (f->mask.map.data != NULL) { held_file_digest(&f->mask); }
}

static inline bool token_file_unchanged(TokenFile *f, Error *err) {
    return held_file_unchanged(&f->ids, err) && held_file_unchanged(&f->mask, err);
}

// ---------------------------------------------------------------------------------------------
// NumPy headers

// The value of a key in the header of a .npy file, a Python dictionary as numpy.save writes it, or NULL.
static inline const char *npy_value(const char *header, const char *key) {
    char quoted[32];
    snprintf(quoted, sizeof quoted, "'%s':", key);
    const char *found = strstr(header, quoted);
    return found == NULL ? NULL : found + strlen(quoted) + strspn(found + strlen(quoted), " ");
}

// Whether there is a value, and it starts with this text.
static inline bool npy_is(const char *value, const char *start) {
    return value != NULL && strncmp(value, start, strlen(start)) == 0;
}

static inline bool npy_has_magic(const char *data, size_t size) {
    return size >= 6 && memcmp(data, "\x93NUMPY", 6) == 0;
}

// Reads the header of a NumPy file (data, size) that starts with NumPy's magic: where the tokens start, and
// how many there are. Accepts only a one-dimensional array of little-endian uint32.
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
        return fail(
            err,
            "%s: NumPy header says it is %zu bytes long, expected less than %zu and no more than the file's "
            "%zu: damaged or truncated",
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

// ---------------------------------------------------------------------------------------------
// recognising a file that does not hold ids

static inline uint32_t token_at(const char *data, size_t i) {
    uint32_t token;
    memcpy(&token, data + 4 * i, 4);
    return token;
}

static inline bool bytes_are_text(const char *data, size_t size) {
    for (size_t i = 0; i < size; i++) {
        const unsigned char c = (unsigned char)data[i];
        if (c == 0x7F || (c < 0x20 && (c < '\t' || c > '\r'))) { return false; }
    }
    return true;
}

static inline bool tokens_are_swapped(const char *data, size_t n, size_t V) {
    for (size_t i = 0; i < n; i++) {
        if (__builtin_bswap32(token_at(data, i)) >= V) { return false; }
    }
    return true;
}

static inline bool tokens_are_floats(const char *data, size_t n, size_t V) {
    for (size_t i = 0; i < n; i++) {
        float value;
        memcpy(&value, data + 4 * i, 4);
        if (!(value >= 0.0f && value < (float)V && value == floorf(value))) { return false; }
    }
    return true;
}

// Whether each half of every token is an id. Any two bytes are an id of a large vocabulary; but 16-bit ids
// are of a tokenizer with fewer than 61440 as a rule, and one in 16 random halves is not below that.
static inline bool tokens_are_halves(const char *data, size_t n, size_t V) {
    const uint32_t end = V < 61440 ? (uint32_t)V : 61440;
    for (size_t i = 0; i < n; i++) {
        const uint32_t token = token_at(data, i);
        if ((token & 0xFFFF) >= end || token >> 16 >= end) { return false; }
    }
    return end == V || n >= 64;
}

// 64-bit ids below 2^32: the second half of each is 0.
static inline bool tokens_are_wide(const char *data, size_t n) {
    bool any = false;
    for (size_t i = 0; i < n; i++) {
        if (i % 2 == 1 && token_at(data, i) != 0) { return false; }
        any = any || token_at(data, i) != 0;
    }
    return any && n >= 64;
}

// The end of a message: what the bytes, of which some are not ids below V, look like, and what to do about
// it. NULL if they look like nothing in particular.
static inline const char *tokens_guess(const char *data, size_t size, size_t V) {
    const size_t shown = size < 4096 ? size : 4096, n = shown / 4;
    const struct {
        const char *magic;
        size_t length;
        const char *guess;
    } formats[] = {
        {"\x1f\x8b", 2, "it is compressed by gzip; decompress it"},
        {"\x28\xb5\x2f\xfd", 4, "it is compressed by zstd; decompress it"},
        {"PK\x03\x04", 4, "it is a zip archive, such as an .npz or a .pt; save the tokens with .tofile()"},
        {"\x88\xd8\x34\x01", 4,
         "it is a .bin of llm.c; drop its header of 1024 bytes, save with .astype('<u4')"},
        {"\xa1\xd9\x34\x01", 4, "it is a .bin of llm.c; drop its header of 1024 bytes"},
    };
    for (size_t i = 0; i < sizeof formats / sizeof formats[0]; i++) {
        const size_t length = formats[i].length;
        if (size >= length && memcmp(data, formats[i].magic, length) == 0) { return formats[i].guess; }
    }
    if (bytes_are_text(data, shown)) { return "it looks like text; `tokenize` turns text into a token file"; }
    if (n > 0 && tokens_are_swapped(data, n, V)) {
        return "it looks like big-endian uint32; save it with .astype('<u4')";
    }
    if (n > 0 && tokens_are_floats(data, n, V)) {
        return "it looks like 32-bit floating point; save it with .astype('<u4')";
    }
    if (n > 0 && tokens_are_halves(data, n, V)) {
        return "it looks like 16-bit ids; save it with .astype('<u4')";
    }
    return NULL;
}

// The error of a token that is not below V.
static inline bool token_bad(const TokenFile *f, size_t position, size_t V, Error *err) {
    const char *data = f->ids.map.data + f->offset, *guess = tokens_guess(data, 4 * f->tokens, V);
    return fail(err, "%s: token %zu has id %u, the vocabulary has %zu rows: %s", f->path, position,
                token_at(data, position), V,
                guess != NULL ? guess
                              : "the file is of another tokenizer or is not raw little-endian uint32");
}

static inline bool token_file_check_kind(const TokenFile *f, size_t V, Error *err) {
    const char *data = f->ids.map.data + f->offset;
    const size_t n = f->tokens < 1024 ? f->tokens : 1024;
    size_t bad = 0, first = 0;
    for (size_t i = n; i-- > 0;) {
        if (token_at(data, i) < V) { continue; }
        bad++;
        first = i;
    }
    if (2 * bad > n) { return token_bad(f, first, V, err); }
    return !tokens_are_wide(data, n) ||
           fail(err, "%s: every second id is 0: it looks like 64-bit integers; save it with .astype('<u4')",
                f->path);
}

// ---------------------------------------------------------------------------------------------
// opening and reading

// Finds the tokens in the bytes (data, size) of a token file.
static inline bool tokens_locate(const char *data, size_t size, size_t *offset, size_t *tokens,
                                 const char *path, Error *err) {
    *offset = 0;
    *tokens = size / 4;
    if (npy_has_magic(data, size)) {
        if (!npy_read_header(data, size, offset, tokens, path, err)) { return false; }
    } else if (size % 4 != 0) {
        const char *guess = tokens_guess(data, size, 0);
        return fail(err, "%s: %zu bytes, not a multiple of 4, expected raw little-endian uint32: %s", path,
                    size, guess != NULL ? guess : "the file is truncated or of another kind");
    }
    return *tokens > 0 || fail(err, "%s: is empty, expected token ids", path);
}

// Maps FILE.mask, if there is one.
static inline bool token_file_open_mask(TokenFile *f, Error *err) {
    struct stat link;
    char *path = format_text("%s.mask", f->path);
    if (path == NULL) { return fail(err, "out of memory: the name %s.mask", f->path); }
    // lstat also finds a symbolic link that leads nowhere: that is an error, not a file without a mask.
    const bool found = lstat(path, &link) == 0, opened = found && held_file_open(&f->mask, path, err);
    free(path);
    if (!found || !opened) { return !found; }
    const MappedFile *map = &f->mask.map;
    return map->size == f->tokens ||
           fail(err, "%s: a label mask of %zu bytes for %zu tokens of %s, expected one byte for each token%s",
                f->mask.path, map->size, f->tokens, f->path,
                npy_has_magic(map->data, map->size) ? "; it has a NumPy header: write it with .tofile()"
                                                    : "");
}

static inline bool token_file_open(TokenFile *f, const char *path, Error *err) {
    memset(f, 0, sizeof *f);
    if (!held_file_open(&f->ids, path, err)) { return false; }
    f->path = f->ids.path;
    bool ok = tokens_locate(f->ids.map.data, f->ids.map.size, &f->offset, &f->tokens, path, err);
    if (ok) { ok = token_file_open_mask(f, err); }
    if (!ok) { token_file_close(f); }
    return ok;
}

static inline void token_file_close(TokenFile *f) {
    held_file_close(&f->ids);
    held_file_close(&f->mask);
    f->path = NULL;
}

static inline bool token_file_read(const TokenFile *f, size_t start, size_t T, size_t V, uint32_t *tokens,
                                   uint8_t *mask, Error *err) {
    // Finds the largest id first and searches only if that is too large: a loop without an exit is
    // vectorised.
    uint32_t largest = 0;
    memcpy(tokens, f->ids.map.data + f->offset + 4 * start, 4 * T);
    for (size_t t = 0; t < T; t++) { largest = tokens[t] > largest ? tokens[t] : largest; }
    if (T > 0 && largest >= V) {
        size_t t = 0;
        while (tokens[t] < V) { t++; }
        return token_bad(f, start + t, V, err);
    }
    if (f->mask.map.data == NULL) {
        memset(mask, 1, T);
        return true;
    }
    memcpy(mask, f->mask.map.data + start, T);
    for (size_t t = 0; t < T; t++) {
        if (mask[t] > 1) {
            return fail(err, "%s: byte %zu is %u, expected 1 (a label) or 0 (none)", f->mask.path, start + t,
                        mask[t]);
        }
    }
    return true;
}

#endif
