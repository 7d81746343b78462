// requests.h: evaluation requests in the format of OLMES: JSON Lines, one continuation to score a line.
//
//   {"request_type": "loglikelihood", "task_name": "arc_easy", "doc_id": 0, "native_id": "Mercury_417466",
//    "idx": 0, "label": 0, "request": {"context": "Question: ...\nAnswer:", "continuation": " Sunlight ..."}}
//
//   Documents   A document is a question. Its requests have the same task_name and doc_id; idx counts its
//               choices from 0. Requests may come in any order; documents keep the order of their first line.
//   Label       The idx of the right choice. Where the one continuation is the right answer itself (GSM8K,
//               MATH), the label may be a text, which is not used.
//   Unconditional requests have doc_id 1,000,000 + that of their document, the same continuations, and a
//               context that says nothing of the question, "Answer:".
//   Types       loglikelihood, and the log-likelihood half of generate_until_and_loglikelihood. Other members
//               are not used.
//
// Doors:
//   requests_open       reads and checks a file, .jsonl or .jsonl.gz
//   requests_limit      keeps the first documents of each task
//   requests_encode     turns the texts into tokens
//   requests_close
//   request_text        a text of the file
#ifndef LLMC_REQUESTS_H
#define LLMC_REQUESTS_H

#include "digest.h"
#include "documents.h"
#include "olmo2.h"
#include "tokenizer.h"

enum {
    UNCONDITIONAL = 1000000,  // is added to the doc_id of unconditional requests
    MOST_CHOICES = 256        // of a document
};

// Bytes of RequestFile.text.
typedef struct {
    size_t at, size;
} Span;

typedef struct {
    size_t task, doc_id;  // of its document
    bool unconditional;
    size_t idx, line;
    int64_t label;  // -1: a text
    Span context, continuation, native_id;
    size_t ids;             // its tokens: RequestFile.ids from here on
    size_t length, scored;  // how many tokens; how many of the last ones are the continuation's
    double logprob;         // of the continuation, once it has been scored
} Request;

typedef struct {
    size_t task, doc_id;
    size_t first;          // its requests begin here: `choices` by idx, then the unconditional ones by idx
    size_t choices;        // at least 1
    size_t unconditional;  // 0, or as many as choices
    size_t line;           // of its first request
    size_t label;          // the right one of the choices
    Span native_id;        // JSON
} RequestDocument;

typedef struct {
    char *path;
    uint64_t digest;  // of its lines, the same whether the file is packed or not
    char *text;       // all texts of the requests
    size_t text_size, text_capacity;
    char **tasks;  // (task_count) the names, in the order of their first line
    size_t task_count;
    Request *requests;  // (request_count) by document
    size_t request_count, request_capacity;
    RequestDocument *documents;  // (document_count)
    size_t document_count;

    uint32_t *ids;  // the tokens of all requests
    size_t id_count;
    size_t longest;    // tokens of the longest request
    size_t truncated;  // requests that lost tokens at their beginning
} RequestFile;

// Release with requests_close; a failure leaves nothing to release.
static inline bool requests_open(RequestFile *f, const char *path, Error *err);
static inline void requests_close(RequestFile *f);

// Keeps the first `most` documents of each task. 0: all.
static inline void requests_limit(RequestFile *f, size_t most);

// The tokens of context and continuation together. Those behind the tokens of the context alone are the
// continuation's; white space at the end of the context counts as the continuation's. No token is put in
// front, unless the context is empty: then it is the end of a document. (lm-eval's `_encode_pair`.) The last
// token is only predicted, so a request keeps its last max_T + 1 tokens.
static inline bool requests_encode(RequestFile *f, const Tokenizer *tokenizer, const OLMo2Config *config,
                                   Error *err);

static inline const char *request_text(const RequestFile *f, Span span) { return f->text + span.at; }

// ---------------------------------------------------------------------------------------------
// texts

static inline void requests_close(RequestFile *f) {
    for (size_t i = 0; i < f->task_count; i++) { free(f->tasks[i]); }
    free(f->path);
    free(f->text);
    free(f->tasks);
    free(f->requests);
    free(f->documents);
    free(f->ids);
    memset(f, 0, sizeof *f);
}

// Makes room for another element of an array that grows: a pointer to the array's pointer.
static inline bool requests_grow(void **array, size_t *capacity, size_t needed, size_t size, const char *path,
                                 Error *err) {
    if (needed <= *capacity) { return true; }
    const size_t larger = 2 * needed;
    void *grown = realloc(*array, larger * size);
    if (grown == NULL) { return fail(err, "%s: out of memory: %zu requests or bytes", path, larger); }
    *array = grown;
    *capacity = larger;
    return true;
}

// Keeps a text. A context is mostly that of the request before, which `same` says where to find.
static inline bool requests_keep(RequestFile *f, const char *bytes, size_t size, Span same, Span *span,
                                 Error *err) {
    *span = same;
    if (size == same.size && (size == 0 || memcmp(f->text + same.at, bytes, size) == 0)) { return true; }
    void *text = f->text;
    if (!requests_grow(&text, &f->text_capacity, f->text_size + size, 1, f->path, err)) { return false; }
    f->text = (char *)text;
    memcpy(f->text + f->text_size, bytes, size);
    span->at = f->text_size;
    span->size = size;
    f->text_size += size;
    return true;
}

// ---------------------------------------------------------------------------------------------
// a line

static inline bool request_string(const Json *object, const char *key, const Json **value, const char *source,
                                  Error *err) {
    if (!json_get(object, key, true, value, source, err)) { return false; }
    return (*value)->type == JSON_STRING || json_wrong_member(*value, key, "a string", source, err);
}

static inline bool request_type(const Json *row, bool *single, const char *source, Error *err) {
    const char *type;
    if (!json_get_string(row, "request_type", true, &type, source, err)) { return false; }
    *single = strcmp(type, "generate_until_and_loglikelihood") == 0;
    if (*single || strcmp(type, "loglikelihood") == 0) { return true; }
    return fail(
        err,
        "%s: \"request_type\" is \"%.40s\", expected \"loglikelihood\" or "
        "\"generate_until_and_loglikelihood\"%s",
        source, type,
        strcmp(type, "generate_until") == 0 ? ": these texts are to be generated, as --task gsm8k does" : "");
}

// Names go into tables, on terminals.
static inline bool task_name_is_plain(const char *name) {
    const size_t size = strlen(name);
    size_t i = 0;
    while (i < size && name[i] != '\n' && name[i] != '\t' && utf8_control(name + i, size - i) == 0) { i++; }
    return i == size;
}

static inline bool request_task(RequestFile *f, const Json *row, size_t *task, const char *source,
                                Error *err) {
    const char *name;
    if (!json_get_string(row, "task_name", true, &name, source, err)) { return false; }
    if (name[0] == '\0') { return fail(err, "%s: \"task_name\" is empty, expected a name", source); }
    if (!task_name_is_plain(name)) {
        return fail(err, "%s: \"task_name\" is \"%.40s\", expected a name of plain characters, in one line",
                    source, name);
    }
    for (*task = f->task_count; (*task)-- > 0;) {  // from the last: a task's lines follow each other
        if (strcmp(f->tasks[*task], name) == 0) { return true; }
    }
    *task = f->task_count;
    char **tasks = (char **)realloc(f->tasks, (f->task_count + 1) * sizeof *tasks);
    if (tasks == NULL) { return fail(err, "%s: out of memory: %zu tasks", source, f->task_count + 1); }
    f->tasks = tasks;
    tasks[f->task_count] = strdup(name);
    if (tasks[f->task_count] == NULL) { return fail(err, "%s: out of memory", source); }
    f->task_count++;
    return true;
}

static inline bool request_label(const Json *row, bool single, int64_t *label, const char *source,
                                 Error *err) {
    const Json *value = json_member(row, "label");
    *label = -1;
    if (value == NULL) { return fail(err, "%s: \"label\" is missing", source); }
    if (single || value->type == JSON_STRING) { return true; }
    if (!value->integral || value->integer < 0) {
        return json_wrong_member(value, "label", "the idx of the right continuation", source, err);
    }
    *label = value->integer;
    return true;
}

// native_id as JSON, for programs that match results with the data set.
static inline bool request_native_id(RequestFile *f, const Json *row, Span same, Span *span, Error *err) {
    const Json *value = json_member(row, "native_id");
    JsonWriter w;
    memset(&w, 0, sizeof w);
    if (value != NULL && value->type == JSON_STRING) {
        json_bytes(&w, NULL, value->string, value->length);
    } else if (value != NULL && value->type == JSON_NUMBER && value->integral) {
        json_integer(&w, NULL, value->integer);
    } else {
        json_null(&w, NULL);
    }
    bool ok = !w.failed ? requests_keep(f, w.text, w.length, same, span, err)
                        : fail(err, "%s: out of memory", f->path);
    json_writer_free(&w);
    return ok;
}

static inline bool requests_read_row(RequestFile *f, const Json *row, Request *r, const char *source,
                                     Error *err) {
    const Span none = {0, 0};
    const Request *before = f->request_count > 0 ? &f->requests[f->request_count - 1] : NULL;
    const Json *request, *context, *continuation;
    char inside[PATH_MAX + 64];
    bool single;
    snprintf(inside, sizeof inside, "%s, in \"request\"", source);
    if (row->type != JSON_OBJECT) { return fail(err, "%s: expected an object, a request", source); }
    if (!request_type(row, &single, source, err)) { return false; }
    if (!request_task(f, row, &r->task, source, err)) { return false; }
    if (!json_get_size(row, "doc_id", true, &r->doc_id, source, err)) { return false; }
    if (!json_get_size(row, "idx", true, &r->idx, source, err)) { return false; }
    if (!request_label(row, single, &r->label, source, err)) { return false; }
    if (!json_get(row, "request", true, &request, source, err)) { return false; }
    if (request->type != JSON_OBJECT) {
        return json_wrong_member(request, "request", "an object", source, err);
    }
    if (!request_string(request, "context", &context, inside, err)) { return false; }
    if (!request_string(request, "continuation", &continuation, inside, err)) { return false; }
    if (continuation->length == 0) {
        return fail(err, "%s: \"continuation\" is empty, expected a text to score", inside);
    }
    r->unconditional = r->doc_id >= UNCONDITIONAL;
    if (r->unconditional) { r->doc_id -= UNCONDITIONAL; }
    return request_native_id(f, row, before != NULL ? before->native_id : none, &r->native_id, err) &&
           requests_keep(f, context->string, context->length, before != NULL ? before->context : none,
                         &r->context, err) &&
           requests_keep(f, continuation->string, continuation->length, none, &r->continuation, err);
}

static inline bool requests_read_line(RequestFile *f, const JsonLine *line, Error *err) {
    char source[PATH_MAX + 32];
    JsonDocument doc;
    Request r;
    memset(&r, 0, sizeof r);
    r.line = line->number;
    const size_t size = (size_t)(line->end - line->begin);
    snprintf(source, sizeof source, "%s line %zu", f->path, line->number);
    f->digest = hash64(line->begin, size, f->digest);
    if (!json_parse(&doc, line->begin, size, source, err)) { return false; }
    bool ok = requests_read_row(f, doc.root, &r, source, err);
    json_free(&doc);
    if (!ok) { return false; }
    void *requests = f->requests;
    if (!requests_grow(&requests, &f->request_capacity, f->request_count + 1, sizeof r, f->path, err)) {
        return false;
    }
    f->requests = (Request *)requests;
    f->requests[f->request_count++] = r;
    return true;
}

// ---------------------------------------------------------------------------------------------
// documents

static inline int compare_sizes(size_t a, size_t b) { return (a > b) - (a < b); }

static inline bool same_document(const Request *a, const Request *b) {
    return a->task == b->task && a->doc_id == b->doc_id;
}

static inline int compare_requests(const void *left, const void *right) {
    const Request *a = (const Request *)left, *b = (const Request *)right;
    int order = compare_sizes(a->task, b->task);
    if (order == 0) { order = compare_sizes(a->doc_id, b->doc_id); }
    if (order == 0) { order = compare_sizes(a->unconditional, b->unconditional); }
    if (order == 0) { order = compare_sizes(a->idx, b->idx); }
    return order != 0 ? order : compare_sizes(a->line, b->line);
}

static inline int compare_documents(const void *left, const void *right) {
    const RequestDocument *a = (const RequestDocument *)left, *b = (const RequestDocument *)right;
    return compare_sizes(a->line, b->line);
}

// The requests of one kind, `count` of them, must be those of idx 0, 1, ... and agree on the label.
static inline bool requests_check_choices(const RequestFile *f, const Request *r, size_t count, Error *err) {
    for (size_t i = 0; i < count; i++) {
        const char *task = f->tasks[r[i].task];
        if (i > 0 && r[i].idx == r[i - 1].idx) {
            return fail(err, "%s line %zu: \"idx\" %zu of document %zu of %s was in line %zu already",
                        f->path, r[i].line, r[i].idx, r[i].doc_id, task, r[i - 1].line);
        }
        if (r[i].idx != i) {
            return fail(err,
                        "%s line %zu: \"idx\" is %zu, but document %zu of %s has no %srequest of idx %zu; "
                        "expected 0, 1, 2 and so on",
                        f->path, r[i].line, r[i].idx, r[i].doc_id, task,
                        r[i].unconditional ? "unconditional " : "", i);
        }
        if (r[i].label != r[0].label) {
            return fail(err, "%s line %zu: \"label\" differs from that of line %zu, of the same document",
                        f->path, r[i].line, r[0].line);
        }
    }
    return true;
}

static inline bool requests_check_label(const RequestFile *f, const RequestDocument *d, Error *err) {
    const Request *r = &f->requests[d->first];
    if (r->label < 0 && d->choices > 1) {
        return fail(err, "%s line %zu: \"label\" is a text, expected the idx of one of %zu choices", f->path,
                    r->line, d->choices);
    }
    return r->label < (int64_t)d->choices ||
           fail(err, "%s line %zu: \"label\" is %lld, expected 0 to %zu: the document has %zu choice%s",
                f->path, r->line, (long long)r->label, d->choices - 1, d->choices,
                d->choices == 1 ? "" : "s");
}

// Unconditional requests: none, or one for each choice with the same continuation.
static inline bool requests_check_unconditional(const RequestFile *f, const RequestDocument *d, Error *err) {
    const Request *r = &f->requests[d->first], *u = r + d->choices;
    if (d->unconditional == 0) { return true; }
    if (d->unconditional != d->choices) {
        return fail(err, "%s line %zu: document %zu of %s has %zu choices and %zu unconditional requests",
                    f->path, u->line, d->doc_id, f->tasks[d->task], d->choices, d->unconditional);
    }
    for (size_t i = 0; i < d->choices; i++) {
        const Span a = r[i].continuation, b = u[i].continuation;
        if (a.size != b.size || memcmp(f->text + a.at, f->text + b.at, a.size) != 0) {
            return fail(err, "%s line %zu: has another \"continuation\" than line %zu, the same choice",
                        f->path, u[i].line, r[i].line);
        }
    }
    return true;
}

// The document whose requests are the `count` of index `first` on.
static inline bool requests_add_document(RequestFile *f, size_t first, size_t count, Error *err) {
    const Request *r = &f->requests[first];
    RequestDocument *d = &f->documents[f->document_count++];
    memset(d, 0, sizeof *d);
    d->task = r->task;
    d->doc_id = r->doc_id;
    d->first = first;
    d->native_id = r->native_id;
    d->label = r->label < 0 ? 0 : (size_t)r->label;
    d->line = r->line;
    for (size_t i = 1; i < count; i++) { d->line = r[i].line < d->line ? r[i].line : d->line; }
    while (d->choices < count && !r[d->choices].unconditional) { d->choices++; }
    d->unconditional = count - d->choices;
    if (d->choices == 0) {
        return fail(err, "%s line %zu: is an unconditional request (doc_id %zu), but %s has no document %zu",
                    f->path, r->line, r->doc_id + UNCONDITIONAL, f->tasks[r->task], r->doc_id);
    }
    if (d->choices > MOST_CHOICES) {
        return fail(err, "%s line %zu: document %zu of %s has %zu choices, expected at most %d", f->path,
                    d->line, d->doc_id, f->tasks[d->task], d->choices, MOST_CHOICES);
    }
    if (!requests_check_choices(f, r, d->choices, err)) { return false; }
    if (!requests_check_choices(f, r + d->choices, d->unconditional, err)) { return false; }
    if (!requests_check_label(f, d, err)) { return false; }
    return requests_check_unconditional(f, d, err);
}

static inline bool requests_group(RequestFile *f, Error *err) {
    size_t first = 0;
    f->documents = (RequestDocument *)allocate(f->request_count, sizeof *f->documents, f->path, err);
    if (f->documents == NULL) { return false; }
    qsort(f->requests, f->request_count, sizeof *f->requests, compare_requests);
    for (size_t i = 1; i <= f->request_count; i++) {
        if (i < f->request_count && same_document(&f->requests[i], &f->requests[first])) { continue; }
        if (!requests_add_document(f, first, i - first, err)) { return false; }
        first = i;
    }
    qsort(f->documents, f->document_count, sizeof *f->documents, compare_documents);
    return true;
}

static inline bool requests_read(RequestFile *f, Documents *lines, Error *err) {
    JsonLine line;
    lines->kind = DOCUMENTS_LINES;  // whatever the name says
    while (true) {
        if (!documents_next_line(lines, &line, err)) { return false; }
        if (line.begin == NULL) { break; }
        line_skip_space(&line);
        if (line.at < line.end && !requests_read_line(f, &line, err)) { return false; }
    }
    if (f->request_count == 0) { return fail(err, "%s: has only blank lines, expected requests", f->path); }
    return requests_group(f, err);
}

static inline bool requests_open(RequestFile *f, const char *path, Error *err) {
    Documents lines;
    memset(f, 0, sizeof *f);
    if (!documents_open(&lines, path, err)) { return false; }
    f->path = strdup(path);
    bool ok = f->path != NULL ? requests_read(f, &lines, err) : fail(err, "out of memory: a path");
    documents_close(&lines);
    if (!ok) { requests_close(f); }
    return ok;
}

static inline void requests_limit(RequestFile *f, size_t most) {
    size_t kept = 0;
    if (most == 0) { return; }
    for (size_t task = 0; task < f->task_count; task++) {
        size_t of_task = 0;
        for (size_t i = 0; i < f->document_count; i++) {
            RequestDocument *d = &f->documents[i];
            if (d->task == task && ++of_task > most) { d->choices = 0; }
        }
    }
    for (size_t i = 0; i < f->document_count; i++) {
        if (f->documents[i].choices > 0) { f->documents[kept++] = f->documents[i]; }
    }
    f->document_count = kept;
}

// ---------------------------------------------------------------------------------------------
// tokens

// Bytes of the text without the white space at its end: Python's str.rstrip, for which the separators U+001C
// to U+001F are white space too.
static inline size_t size_without_space(const char *text, size_t size) {
    while (size > 0) {
        size_t begin = size - 1;
        while (begin > 0 && ((unsigned char)text[begin] & 0xC0) == 0x80) { begin--; }
        const bool separator = text[begin] >= 0x1C && text[begin] <= 0x1F;
        if (!separator && character_at(text + begin, text + size).kind != UNICODE_SPACE) { break; }
        size = begin;
    }
    return size;
}

// The tokens of a request, in `all`, of which the last `scored` are the continuation's. `both` is scratch.
static inline bool request_encode(const RequestFile *f, const Request *r, const Tokenizer *tokenizer,
                                  const OLMo2Config *config, JsonWriter *both, TokenBuffer *all,
                                  size_t *scored, Error *err) {
    const char *context = f->text + r->context.at;
    const size_t size = size_without_space(context, r->context.size);
    all->length = both->length = 0;
    if (!tokenizer_encode(tokenizer, context, size, all, err)) { return false; }
    const size_t before = all->length;
    json_append(both, context, r->context.size);
    json_append(both, f->text + r->continuation.at, r->continuation.size);
    if (both->failed) { return fail(err, "%s: out of memory", f->path); }
    all->length = 0;
    if (size == 0) {
        if (config->eos == OLMO2_NO_TOKEN) {
            return fail(err,
                        "%s line %zu: \"context\" is empty, and the model has no end of document "
                        "(eos_token_id) to stand for it",
                        f->path, r->line);
        }
        if (!token_buffer_reserve(all, 1, err)) { return false; }
        all->ids[all->length++] = config->eos;
    }
    if (!tokenizer_encode(tokenizer, both->text, both->length, all, err)) { return false; }
    *scored = all->length - (size == 0 ? 1 : before < all->length ? before : all->length);
    if (*scored == 0) {
        return fail(err, "%s line %zu: \"continuation\" has no token of its own", f->path, r->line);
    }
    if (*scored <= config->max_T) { return true; }
    return fail(err, "%s line %zu: \"continuation\" has %zu tokens, the model takes %zu", f->path, r->line,
                *scored, config->max_T);
}

// Encodes one request behind the tokens of those before.
static inline bool requests_encode_one(RequestFile *f, Request *r, const Tokenizer *tokenizer,
                                       const OLMo2Config *config, JsonWriter *both, TokenBuffer *all,
                                       TokenBuffer *kept, Error *err) {
    if (!request_encode(f, r, tokenizer, config, both, all, &r->scored, err)) { return false; }
    const size_t most = config->max_T + 1, cut = all->length > most ? all->length - most : 0;
    r->ids = kept->length;
    r->length = all->length - cut;
    f->truncated += cut > 0;
    if (r->length > f->longest) { f->longest = r->length; }
    if (!token_buffer_reserve(kept, r->length, err)) { return false; }
    memcpy(kept->ids + kept->length, all->ids + cut, r->length * sizeof *kept->ids);
    kept->length += r->length;
    return true;
}

static inline bool requests_encode(RequestFile *f, const Tokenizer *tokenizer, const OLMo2Config *config,
                                   Error *err) {
    JsonWriter both;
    TokenBuffer all, kept;
    bool ok = true;
    memset(&both, 0, sizeof both);
    memset(&all, 0, sizeof all);
    memset(&kept, 0, sizeof kept);
    for (size_t i = 0; i < f->document_count && ok; i++) {
        const RequestDocument *d = &f->documents[i];
        for (size_t k = 0; k < d->choices + d->unconditional && ok; k++) {
            ok = requests_encode_one(f, &f->requests[d->first + k], tokenizer, config, &both, &all, &kept,
                                     err);
        }
    }
    f->ids = kept.ids;
    f->id_count = kept.length;
    free(all.ids);
    json_writer_free(&both);
    return ok;
}

#endif
