// fuzz_documents.c: any bytes as a file of documents, through a pipe. Documents must be UTF-8; an error must
// have a message; and a line that json.h accepts as an object with one string "text" must give that string.
// Built with clang -fsanitize=fuzzer.
#include "llmc/documents.h"

// The "text" of the line by the strict reader: a copy, or NULL if it refuses the line.
static char *strict_text(const char *line, size_t size, size_t *length) {
    Error err;
    JsonDocument document;
    char *copy = NULL;
    if (!json_parse(&document, line, size, "line", &err)) { return NULL; }
    const Json *text = json_member(document.root, "text");
    if (text != NULL && text->type == JSON_STRING) {
        copy = (char *)malloc(text->length + 1);
        memcpy(copy, text->string, text->length);
        *length = text->length;
    }
    json_free(&document);
    return copy;
}

// One line, without a file around it.
static void read_line(const char *bytes, size_t size) {
    Error err = {""};
    size_t length = 0;
    char *copy = (char *)malloc(size + 1), *decoded = (char *)malloc(size + 1);
    memcpy(copy, bytes, size);
    JsonLine line = {copy, copy, copy + size, "line", 1};
    JsonLineText text = {decoded, 0, 0, false};
    line_skip_space(&line);
    if (line.at < line.end) {
        bool ok = line_text(&line, &text, &err);
        char *strict = strict_text(bytes, size, &length);
        if (text.size > size || (!ok && err.text[0] == '\0')) { abort(); }
        if (ok && utf8_invalid(decoded, text.size) != text.size) { abort(); }
        if (strict != NULL && (!ok || text.size != length || memcmp(strict, decoded, length) != 0)) {
            abort();
        }
        free(strict);
    }
    free(copy);
    free(decoded);
}

static void read_file(const char *bytes, size_t size, const char *ending) {
    char path[64];  // a name for standard input
    int ends[2];
    const char *text;
    size_t length, total = 0;
    Documents d;
    Error err = {""}, warning;
    if (size > 60000 || pipe(ends) != 0) { return; }  // what a pipe holds
    if (write(ends[1], bytes, size) != (ssize_t)size) { abort(); }
    close(ends[1]);
    snprintf(path, sizeof path, "/tmp/fuzz_documents_%d%s", (int)getpid(), ending);
    unlink(path);
    if (symlink("/dev/stdin", path) != 0) { abort(); }
    dup2(ends[0], STDIN_FILENO);
    close(ends[0]);
    bool ok = documents_open(&d, path, &err);
    if (ok) {
        while ((ok = documents_next(&d, &text, &length, &err)) && text != NULL) {
            if (utf8_invalid(text, length) != length) { abort(); }
            total += length;
        }
        documents_warning(&d, &warning);
        documents_close(&d);
    }
    if ((!ok && err.text[0] == '\0') || total > size) { abort(); }
    unlink(path);
}

// The first byte says what the rest is: a line, lines, or a file of which the reader has to judge.
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) { return 0; }
    const char *bytes = (const char *)data + 1;
    switch (data[0] % 4) {
    case 0:
    case 1: read_line(bytes, size - 1); return 0;
    case 2: read_file(bytes, size - 1, ".jsonl"); return 0;
    default: read_file(bytes, size - 1, ""); return 0;
    }
}
