// eval_lines.h: the line of a document whose choices were scored, in the file of `eval --out` (eval_out.h):
//
//   {"task": "arc_easy", "doc_id": 0, "native_id": "Mercury_417466", "label": 0, "logprobs": [...],
//    "unconditional": [...], "tokens": [...], "chars": [...], "bytes": [...], "bits_per_byte": 1.5,
//    "choice": {"acc_raw": 0, ...}}
// `unconditional` only where there are such requests; `choice` is what each accuracy takes.
//
//   eval_line_read      an EvalOutLine: takes the scores of a line
//   eval_line_write     the line of a document
#ifndef LLMC_COMMANDS_EVAL_LINES_H
#define LLMC_COMMANDS_EVAL_LINES_H

#include "llmc/tasks.h"

// The request files of an evaluation.
typedef struct {
    RequestFile *files;  // (count)
    size_t count;
    size_t task_count;  // of all files
} EvalFiles;

// The scores of one kind of a document's requests (count).
static inline bool eval_line_scores(Request *r, size_t count, const Json *line, const char *key,
                                    const char *source, Error *err) {
    const Json *array = json_member(line, key);
    if (count == 0) { return true; }
    if (array == NULL || array->type != JSON_ARRAY || array->count != count) {
        return fail(err, "%s: \"%s\" is not a list of %zu numbers", source, key, count);
    }
    for (const Json *value = json_first(array); value != NULL; value = json_next(value), r++) {
        if (value->type != JSON_NUMBER) { return fail(err, "%s: \"%s\" holds no numbers", source, key); }
        r->logprob = value->number;
    }
    return true;
}

static inline bool eval_line_read(void *context, const Json *line, size_t document, const char *source,
                                  Error *err) {
    const EvalFiles *files = (const EvalFiles *)context;
    RequestFile *f = files->files;
    const char *task;
    size_t doc_id;
    while (document >= f->document_count) { document -= f++->document_count; }
    const RequestDocument *d = &f->documents[document];
    if (!json_get_string(line, "task", true, &task, source, err)) { return false; }
    if (!json_get_size(line, "doc_id", true, &doc_id, source, err)) { return false; }
    if (strcmp(task, f->tasks[d->task]) != 0 || doc_id != d->doc_id) {
        return fail(err, "%s: is document %zu of %s, expected %zu of %s", source, doc_id, task, d->doc_id,
                    f->tasks[d->task]);
    }
    Request *r = &f->requests[d->first];
    return eval_line_scores(r, d->choices, line, "logprobs", source, err) &&
           eval_line_scores(r + d->choices, d->unconditional, line, "unconditional", source, err);
}

static inline void eval_line_list(JsonWriter *w, const char *key, const Choice *choices, size_t count,
                                  double (*value)(const Choice *)) {
    json_begin_array(w, key);
    for (size_t i = 0; i < count; i++) { json_number(w, NULL, value(&choices[i])); }
    json_end_array(w);
}

static inline void eval_line_sizes(JsonWriter *w, const char *key, const Choice *choices, size_t count,
                                   size_t offset) {
    json_begin_array(w, key);
    for (size_t i = 0; i < count; i++) {
        json_integer(w, NULL, (int64_t) * (const size_t *)((const char *)&choices[i] + offset));
    }
    json_end_array(w);
}

static inline double choice_unconditional(const Choice *c) { return c->unconditional; }

static inline void eval_line_write(JsonWriter *w, const RequestFile *f, const RequestDocument *d) {
    Choice choices[MOST_CHOICES];
    const size_t count = task_choices(choices, f, d);
    json_begin_object(w, NULL);
    json_string(w, "task", f->tasks[d->task]);
    json_integer(w, "doc_id", (int64_t)d->doc_id);
    json_begin_value(w, "native_id");
    json_append(w, request_text(f, d->native_id), d->native_id.size);
    json_integer(w, "label", (int64_t)d->label);
    eval_line_list(w, "logprobs", choices, count, metric_raw);
    if (d->unconditional > 0) { eval_line_list(w, "unconditional", choices, count, choice_unconditional); }
    eval_line_sizes(w, "tokens", choices, count, offsetof(Choice, tokens));
    eval_line_sizes(w, "chars", choices, count, offsetof(Choice, chars));
    eval_line_sizes(w, "bytes", choices, count, offsetof(Choice, bytes));
    json_number(w, "bits_per_byte", metric_bits(&choices[d->label]));
    json_begin_object(w, "choice");
    for (size_t i = 0; i < METRICS; i++) {
        if (!metrics[i].accuracy || !metric_applies(&metrics[i], choices, count)) { continue; }
        json_integer(w, metrics[i].name, (int64_t)choice_best(choices, count, &metrics[i]));
    }
    json_end_object(w);
    json_end_object(w);
}

#endif
