// bench_tokenizer.c: milliseconds for llmc/tokenizer.h to encode a file of documents, each followed by a zero
// byte, on one thread.
//   build/bench_tokenizer --tokenizer TOKENIZER.json --text FILE [--steps N] [--ids FILE]
// --ids writes the ids of all documents as raw uint32. bench_tokenizer.py does the same with `tokenizers` and
// tiktoken. bench.h describes the output of both, and --steps 0.
#include "llmc/tokenizer.h"
#include "bench.h"

typedef struct {
    Tokenizer tokenizer;
    MappedFile text;
    TokenBuffer tokens;  // for all documents
} Run;

static bool encode_all(void *of, char parts[128], Error *err) {
    Run *r = (Run *)of;
    const char *at = r->text.data, *end = at + r->text.size;
    bool ok = true;
    (void)parts;
    r->tokens.length = 0;
    while (ok && at < end) {
        const char *zero = (const char *)memchr(at, '\0', (size_t)(end - at));
        const char *stop = zero == NULL ? end : zero;
        ok = tokenizer_encode(&r->tokenizer, at, (size_t)(stop - at), &r->tokens, err);
        at = stop + 1;
    }
    return ok;
}

static bool write_ids(const TokenBuffer *tokens, const char *path, Error *err) {
    int descriptor;
    if (path == NULL) { return true; }
    if (!file_create(&descriptor, path, err)) { return false; }
    const bool ok = file_write(descriptor, tokens->ids, tokens->length * sizeof *tokens->ids, path, err);
    return file_finish(descriptor, ok, path, err);
}

int main(int argc, char **argv) {
    Error err = {{0}};
    Run r = {.text = {NULL, 0}};
    size_t steps = 5;
    const char *tokenizer = NULL, *text = NULL, *ids = NULL;
    const BenchFlag flags[] = {
        {"steps", &steps, NULL}, {"tokenizer", NULL, &tokenizer}, {"text", NULL, &text}, {"ids", NULL, &ids}};
    bench_must(bench_flags(flags, sizeof flags / sizeof flags[0], argc, argv, &err), &err);
    if (tokenizer == NULL || text == NULL) {
        bench_must(fail(&err, "--tokenizer, --text: expected a file name for each"), &err);
    }
    bench_must(tokenizer_load(&r.tokenizer, tokenizer, &err), &err);
    bench_must(file_map(&r.text, text, &err), &err);
    bench_must(encode_all(&r, (char[128]){""}, &err), &err);
    bench_must(write_ids(&r.tokens, ids, &err), &err);
    char notes[64];
    snprintf(notes, sizeof notes, "bytes %zu tokens %zu", r.text.size, r.tokens.length);
    bench_must(bench_turns(steps, notes, encode_all, &r, &err), &err);
    free(r.tokens.ids);
    file_unmap(&r.text);
    tokenizer_free(&r.tokenizer);
    return 0;
}
