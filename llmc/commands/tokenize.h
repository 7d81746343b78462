// tokenize.h: the commands `tokenize`, which turns texts into a file of token ids, and `detokenize`, which
// does the reverse.
#ifndef LLMC_COMMANDS_TOKENIZE_H
#define LLMC_COMMANDS_TOKENIZE_H

#include "llmc/documents.h"
#include "llmc/settings.h"
#include "llmc/token_files.h"
#include "llmc/token_writer.h"
#include "llmc/tokenizer.h"
#include "must.h"

// ---------------------------------------------------------------------------------------------
// tokenize

typedef struct {
    Tokenizer tokenizer;
    TokensWriter writer;
    TokenBuffer ids;  // of one document
    uint32_t eos;
    size_t documents, bytes;
} Tokenizing;

// Appends a document and <|endoftext|>, unless the text already ends in one. Every <|endoftext|> ends a
// document, also one inside a text, so those are counted.
static inline bool tokenize_document(Tokenizing *t, const char *text, size_t size, Error *err) {
    TokenBuffer *ids = &t->ids;
    ids->length = 0;
    if (!tokenizer_encode(&t->tokenizer, text, size, ids, err)) { return false; }
    if (ids->length == 0 || ids->ids[ids->length - 1] != t->eos) {
        if (!token_buffer_reserve(ids, 1, err)) { return false; }
        ids->ids[ids->length++] = t->eos;
    }
    for (size_t i = 0; i < ids->length; i++) { t->documents += ids->ids[i] == t->eos; }
    t->bytes += size;
    return tokens_write_append(&t->writer, ids->ids, ids->length, err);
}

static inline bool tokenize_documents(Tokenizing *t, Documents *documents, Error *err) {
    const char *text;
    size_t size;
    while (true) {
        if (!documents_next(documents, &text, &size, err)) { return false; }
        if (text == NULL) { return true; }
        if (!tokenize_document(t, text, size, err)) { return false; }
    }
}

static inline bool tokenize_file(Tokenizing *t, const char *path, Error *err) {
    Documents documents;
    Error warning;
    if (!documents_open(&documents, path, err)) { return false; }
    bool ok = tokenize_documents(t, &documents, err);
    documents_warning(&documents, &warning);
    documents_close(&documents);
    if (ok) { warn(&warning); }
    return ok;
}

static inline bool tokenize_files(Tokenizing *t, const Settings *s, Error *err) {
    if (path_exists(s->out)) { return fail(err, "--out %s: exists; choose another name", s->out); }
    if (!tokenizer_load(&t->tokenizer, s->tokenizer, err)) { return false; }
    if (!tokenizer_special(&t->tokenizer, "<|endoftext|>", &t->eos)) {
        return fail(err,
                    "%s: has no added token <|endoftext|>, which ends every document\n"
                    "       The tokenizers of OLMo 2 and of data/train_bpe.py have it.",
                    s->tokenizer);
    }
    if (!tokens_write_begin(&t->writer, s->out, err)) { return false; }
    for (size_t i = 0; i < s->inputs.count; i++) {
        if (!tokenize_file(t, s->inputs.items[i], err)) { return false; }
    }
    return tokens_write_end(&t->writer, err);
}

static inline void tokenize(const Settings *s) {
    Error err;
    Tokenizing t;
    char bytes[32];
    memset(&t, 0, sizeof t);
    double start = seconds_now();
    bool ok = tokenize_files(&t, s, &err);
    if (!ok) { tokens_write_cancel(&t.writer); }  // before the program ends: half a file must not stay
    must(ok, &err);
    printf("%s: %zu %s, %s of text, %zu tokens, in %.1f s\n", s->out, t.documents,
           t.documents == 1 ? "document" : "documents", format_bytes(bytes, t.bytes), t.writer.tokens,
           seconds_now() - start);
    free(t.ids.ids);
    tokenizer_free(&t.tokenizer);
}

// ---------------------------------------------------------------------------------------------
// detokenize

static inline bool detokenize_ids(const Tokenizer *t, const char *name, const TokenFile *file, size_t start,
                                  const uint32_t *ids, size_t n, Error *err) {
    for (size_t i = 0; i < n; i++) {
        size_t size = 0;
        const char *piece = tokenizer_piece(t, ids[i], &size);
        if (piece == NULL) {
            return fail(err, "%s: token %zu has id %u, which %s does not have", file->path, start + i, ids[i],
                        name);
        }
        if (fwrite(piece, 1, size, stdout) != size) {
            return fail(err, "standard output cannot be written: %s", strerror(errno));
        }
    }
    return true;
}

static inline bool detokenize_file(const Tokenizer *t, const char *name, TokenFile *file, Error *err) {
    enum { CHUNK = 4096 };
    uint32_t ids[CHUNK];
    uint8_t mask[CHUNK];
    for (size_t start = 0; start < file->tokens; start += CHUNK) {
        size_t n = file->tokens - start < CHUNK ? file->tokens - start : (size_t)CHUNK;
        if (!token_file_read(file, start, n, tokenizer_size(t), ids, mask, err)) { return false; }
        if (!detokenize_ids(t, name, file, start, ids, n, err)) { return false; }
    }
    if (fflush(stdout) == 0) { return true; }
    return fail(err, "standard output cannot be written: %s", strerror(errno));
}

static inline void detokenize(const Settings *s) {
    Error err;
    Tokenizer tokenizer;
    TokenFile file;
    memset(&file, 0, sizeof file);
    must(tokenizer_load(&tokenizer, s->tokenizer, &err), &err);
    must(token_file_open(&file, s->inputs.items[0], &err), &err);
    must(detokenize_file(&tokenizer, s->tokenizer, &file, &err), &err);
    token_file_close(&file);
    tokenizer_free(&tokenizer);
}

#endif
