// fuzz_requests.c: any bytes as a request file. An error must have a message and leave nothing; what is
// accepted must be consistent: documents that own all requests, labels in range, texts inside of the file's,
// tokens that make up the texts. Built with clang -fsanitize=fuzzer.
#include "dev/test/small_tokenizer.h"
#include "llmc/tasks.h"

static Tokenizer tokenizer;
static OLMo2Config config;

static void check(bool ok) {
    if (!ok) { abort(); }
}

static void check_request(const RequestFile *f, const Request *r, const RequestDocument *d, size_t i) {
    check(r->task == d->task && r->doc_id == d->doc_id && r->unconditional == (i >= d->choices));
    check(r->idx == (r->unconditional ? i - d->choices : i));
    check(r->context.at + r->context.size <= f->text_size);
    check(r->continuation.size > 0 && r->continuation.at + r->continuation.size <= f->text_size);
    check(utf8_invalid(request_text(f, r->continuation), r->continuation.size) == r->continuation.size);
    check(r->native_id.size > 0 && r->native_id.at + r->native_id.size <= f->text_size);
}

// The tokens are the end of the text, and those of the continuation cover it.
static void check_tokens(const RequestFile *f, const Request *r) {
    size_t bytes = 0, scored = 0;
    check(r->scored >= 1 && r->scored < r->length && r->length <= config.max_T + 1);
    check(r->ids + r->length <= f->id_count && r->length <= f->longest);
    for (size_t i = 0; i < r->length; i++) {
        size_t size;
        check(tokenizer_piece(&tokenizer, f->ids[r->ids + i], &size) != NULL);
        bytes += size;
        scored += i >= r->length - r->scored ? size : 0;
    }
    const size_t all = r->context.size + r->continuation.size, end = strlen("<|end|>");
    check(bytes <= all + end && scored + 16 >= r->continuation.size && scored <= all);
}

static void check_file(RequestFile *f) {
    Error err = {""};
    size_t requests = 0;
    for (size_t i = 0; i < f->document_count; i++) {
        const RequestDocument *d = &f->documents[i];
        const size_t count = d->choices + d->unconditional;
        check(d->choices >= 1 && d->choices <= MOST_CHOICES && d->label < d->choices);
        check(d->unconditional == 0 || d->unconditional == d->choices);
        check(d->first + count <= f->request_count && d->task < f->task_count);
        check(i == 0 || d->line > f->documents[i - 1].line);
        for (size_t k = 0; k < count; k++) { check_request(f, &f->requests[d->first + k], d, k); }
        requests += count;
    }
    check(requests == f->request_count);
    if (!tasks_check(f, &err)) { check(err.text[0] != '\0'); }
    if (!requests_encode(f, &tokenizer, &config, &err)) {
        check(err.text[0] != '\0');
        return;
    }
    for (size_t i = 0; i < f->request_count; i++) {
        check_tokens(f, &f->requests[i]);
        f->requests[i].logprob = -1.0 - (double)i;
    }
    TaskResult *results = (TaskResult *)calloc(f->task_count, sizeof *results);
    task_results(results, f);
    for (size_t i = 0; i < f->task_count; i++) {
        for (size_t m = 0; m < METRICS; m++) {
            check(!scores_has(&results[i].scores, m) || isfinite(scores_mean(&results[i].scores, m)));
        }
    }
    free(results);
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    Error err;
    const TokenizerParts parts = default_parts();
    char *text = small_tokenizer(&parts);
    (void)argc, (void)argv;
    check(tokenizer_parse(&tokenizer, text, strlen(text), "small", &err));
    free(text);
    olmo2_preset(&config, "1M");
    config.max_T = 24;
    config.eos = T_END;
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char path[64];
    RequestFile f;
    Error err = {""};
    snprintf(path, sizeof path, "/tmp/fuzz_requests_%d.jsonl", (int)getpid());
    FILE *file = fopen(path, "wb");
    check(file != NULL && fwrite(data, 1, size, file) == size && fclose(file) == 0);
    if (requests_open(&f, path, &err)) {
        check_file(&f);
        requests_close(&f);
    } else {
        check(err.text[0] != '\0' && f.text == NULL && f.requests == NULL);
    }
    unlink(path);
    return 0;
}
