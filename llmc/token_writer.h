// token_writer.h: writes a token file: raw little-endian uint32, as dataloader.h reads it. The file gets its
// name when it is complete and on the disk (files.h). Until then an old file of that name stays.
//
// Doors:
//   tokens_write_begin, tokens_write_append as often as needed, tokens_write_end
//   tokens_write_cancel     gives up; does nothing after tokens_write_end or a failure
#ifndef LLMC_TOKEN_WRITER_H
#define LLMC_TOKEN_WRITER_H

#include "files.h"

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "tokens are written as they are in memory");

// All zeros: nothing is being written.
typedef struct {
    Aside aside;
    FILE *file;     // a buffer before aside.descriptor
    size_t tokens;  // appended so far
} TokensWriter;

static inline void tokens_write_cancel(TokensWriter *w) {
    if (w->file != NULL) { fclose(w->file); }
    w->file = NULL;
    aside_cancel(&w->aside);
}

static inline bool tokens_write_fail(TokensWriter *w, Error *err) {
    fail(err, "%s: cannot be written: %s", w->aside.path, strerror(errno));
    tokens_write_cancel(w);
    return false;
}

// After a failure of any of these three functions the writer is closed and nothing is left aside.
static inline bool tokens_write_begin(TokensWriter *w, const char *path, Error *err) {
    w->file = NULL;
    w->tokens = 0;
    if (!aside_begin_file(&w->aside, path, err)) { return false; }
    int descriptor = dup(w->aside.descriptor);
    w->file = descriptor >= 0 ? fdopen(descriptor, "wb") : NULL;
    if (w->file != NULL) { return true; }
    if (descriptor >= 0) { close(descriptor); }
    return tokens_write_fail(w, err);
}

static inline bool tokens_write_append(TokensWriter *w, const uint32_t *tokens, size_t n, Error *err) {
    if (fwrite(tokens, sizeof *tokens, n, w->file) != n) { return tokens_write_fail(w, err); }
    w->tokens += n;
    return true;
}

// Puts the file on the disk and gives it its name. w->tokens can still be read.
static inline bool tokens_write_end(TokensWriter *w, Error *err) {
    Error warning = {""};  // files have no warnings
    bool flushed = fclose(w->file) == 0;
    w->file = NULL;
    if (!flushed) { return tokens_write_fail(w, err); }
    return aside_finish(&w->aside, &warning, err);
}

#endif
