#ifndef LLMC_COMMANDS_TOKENIZE_H
#define LLMC_COMMANDS_TOKENIZE_H
#include "llmc/token_files.h"
#include "llmc/token_writer.h"
#include "llmc/settings.h"
#include "llmc/text.h"
#include "must.h"
// ---------------------------------------------------------------------------------------------
// tokenize, detokenize

// What tokenize has done so far.
typedef struct {
    TokensWriter writer;
    TokenBuffer ids;  // of one document
    uint32_t eos;
    size_t documents, bytes;
} Tokenizing;

static inline bool tokenize_document(Tokenizing *t, const Text *text, const char *bytes, size_t size,
                                     Error *err) {
    t->ids.length = 0;
    if (!tokenizer_encode(&text->tokenizer, bytes, size, &t->ids, err) ||
        !token_buffer_reserve(&t->ids, 1, err)) {
        return false;
    }
    t->ids.ids[t->ids.length++] = t->eos;
    t->documents++;
    t->bytes += size;
    return tokens_write_append(&t->writer, t->ids.ids, t->ids.length, err);
}

// Each line's "text" is a document.
static inline bool tokenize_jsonl(Tokenizing *t, const Text *text, const MappedFile *file, const char *path,
                                  Error *err) {
    size_t number = 1;
    for (const char *line = file->data, *end = line + file->size; line < end; number++) {
        const char *stop = (const char *)memchr(line, '\n', (size_t)(end - line));
        size_t size = stop != NULL ? (size_t)(stop - line) : (size_t)(end - line);
        char source[PATH_MAX + 32];
        JsonDocument doc;
        snprintf(source, sizeof source, "%s line %zu", path, number);
        if (!json_parse(&doc, line, size, source, err)) { return false; }
        const Json *value = json_member(doc.root, "text");
        bool ok = value != NULL && value->type == JSON_STRING;
        ok = ok ? tokenize_document(t, text, value->string, value->length, err)
                : fail(err, "%s: expected an object with a string \"text\"", source);
        json_free(&doc);
        if (!ok) { return false; }
        line += size + 1;
    }
    return true;
}

static inline bool tokenize_file(Tokenizing *t, const Text *text, const char *path, Error *err) {
    MappedFile file;
    if (!file_map(&file, path, err)) { return false; }
    bool ok = file.size > 0 || fail(err, "%s: is empty", path);
    if (ok && ends_with(path, ".jsonl")) {
        ok = tokenize_jsonl(t, text, &file, path, err);
    } else if (ok) {
        ok = tokenize_document(t, text, file.data, file.size, err);
    }
    file_unmap(&file);
    return ok;
}

static inline bool command_tokenize(const Settings *s, Error *err) {
    Text text;
    Tokenizing t;
    memset(&t, 0, sizeof t);
    double start = seconds_now();
    if (path_exists(s->out)) { return fail(err, "--out %s: exists; choose another name", s->out); }
    bool ok = text_open(&text, s->tokenizer, err);
    if (ok && !tokenizer_special(&text.tokenizer, "<|endoftext|>", &t.eos)) {
        ok = fail(err, "%s: has no token <|endoftext|>, which ends every document", text.path);
    }
    ok = ok && tokens_write_begin(&t.writer, s->out, err);
    for (size_t i = 0; ok && i < s->inputs.count; i++) {
        ok = tokenize_file(&t, &text, s->inputs.items[i], err);
    }
    ok = ok && tokens_write_end(&t.writer, err);
    if (ok) {
        char bytes[32];
        printf("%s: %zu documents, %s of text, %zu tokens, in %.1f s\n", s->out, t.documents,
               format_bytes(bytes, t.bytes), t.writer.tokens, seconds_now() - start);
    }
    tokens_write_cancel(&t.writer);
    free(t.ids.ids);
    text_close(&text);
    return ok;
}

static inline bool command_detokenize(const Settings *s, Error *err) {
    uint32_t ids[4096];
    uint8_t mask[4096];
    const size_t chunk = sizeof mask;
    Text text;
    TokenFile file;
    memset(&file, 0, sizeof file);
    bool ok = text_open(&text, s->tokenizer, err) && token_file_open(&file, s->inputs.items[0], err);
    for (size_t start = 0; ok && start < file.tokens; start += chunk) {
        size_t n = file.tokens - start < chunk ? file.tokens - start : chunk;
        ok = token_file_read(&file, start, n, tokenizer_size(&text.tokenizer), ids, mask, err);
        for (size_t i = 0; ok && i < n; i++) {
            size_t size = 0;
            const char *piece = tokenizer_piece(&text.tokenizer, ids[i], &size);
            ok = piece != NULL
                     ? fwrite(piece, 1, size, stdout) == size || fail(err, "the text cannot be written")
                     : fail(err, "%s: token %zu has id %u, which %s does not have", file.path, start + i,
                            ids[i], text.path);
        }
    }
    token_file_close(&file);
    text_close(&text);
    return ok;
}

static inline void tokenize(const Settings *s) {
    Error err;
    must(command_tokenize(s, &err), &err);
}
static inline void detokenize(const Settings *s) {
    Error err;
    must(command_detokenize(s, &err), &err);
}
#endif
