// requests_driver TOKENIZER FILE...: counts, for each request file, its pairs of a context and a continuation,
// and how many of them have other tokens together than one after the other (as AI2's in-loop evaluations
// encode them). With --ids it prints the tokens of each request instead, and how many are the continuation's:
//     FILE LINE SCORED ID ID ...
// dev/test/reference_evals.py runs it.
#include "llmc/requests.h"

// Whether the tokens of context and continuation, encoded apart, are those of the request.
static bool same_apart(const RequestFile *f, const Request *r, const Tokenizer *t, TokenBuffer *apart,
                       bool *same, Error *err) {
    apart->length = 0;
    if (!tokenizer_encode(t, request_text(f, r->context), r->context.size, apart, err)) { return false; }
    const size_t context = apart->length;
    if (!tokenizer_encode(t, request_text(f, r->continuation), r->continuation.size, apart, err)) {
        return false;
    }
    *same = apart->length == r->length && r->scored == r->length - context &&
            memcmp(apart->ids, f->ids + r->ids, r->length * sizeof *apart->ids) == 0;
    return true;
}

static void print_ids(const RequestFile *f, const Request *r) {
    printf("%s %zu %zu", f->path, r->line, r->scored);
    for (size_t i = 0; i < r->length; i++) { printf(" %u", (unsigned)f->ids[r->ids + i]); }
    printf("\n");
}

static bool count_pairs(const char *path, const Tokenizer *t, const OLMo2Config *config, bool ids,
                        Error *err) {
    RequestFile f;
    TokenBuffer apart = {NULL, 0, 0};
    size_t differ = 0;
    if (!requests_open(&f, path, err)) { return false; }
    bool ok = requests_encode(&f, t, config, err);
    for (size_t i = 0; i < f.request_count && ok; i++) {
        bool same;
        ok = same_apart(&f, &f.requests[i], t, &apart, &same, err);
        differ += ok && !same;
        if (ok && ids) { print_ids(&f, &f.requests[i]); }
    }
    if (ok && !ids) { printf("%s: %zu pairs, %zu differ\n", path, f.request_count, differ); }
    free(apart.ids);
    requests_close(&f);
    return ok;
}

int main(int argc, char **argv) {
    Error err;
    Tokenizer tokenizer;
    OLMo2Config config;
    const bool ids = argc > 1 && strcmp(argv[1], "--ids") == 0;
    argc -= ids, argv += ids;
    if (argc < 3) {
        fprintf(stderr, "usage: requests_driver [--ids] TOKENIZER FILE...\n");
        return 1;
    }
    olmo2_preset(&config, "1B");
    config.max_T = SIZE_MAX - 1;  // nothing is cut
    bool ok = tokenizer_load(&tokenizer, argv[1], &err);
    for (int i = 2; i < argc && ok; i++) { ok = count_pairs(argv[i], &tokenizer, &config, ids, &err); }
    if (!ok) { fprintf(stderr, "error: %s\n", err.text); }
    return !ok;
}
