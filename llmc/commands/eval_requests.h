// eval_requests.h: `eval --requests` and `eval --task`: a model measured on questions with given answers.
//
//   eval_requests      scores the request files of the settings
#ifndef LLMC_COMMANDS_EVAL_REQUESTS_H
#define LLMC_COMMANDS_EVAL_REQUESTS_H

#include "eval_lines.h"
#include "eval_out.h"
#include "eval_report.h"
#include "llmc/likelihood.h"
#include "meter.h"
#include "model.h"
#include "signals.h"

// ---------------------------------------------------------------------------------------------
// which files

static inline bool unknown_task(const char *name, Error *err) {
    char known[512] = "", nearest[64];
    for (size_t i = 0; i < TASKS; i++) {
        if (!tasks[i].files) { continue; }
        snprintf(known + strlen(known), sizeof known - strlen(known), "%s|", tasks[i].name);
    }
    snprintf(known + strlen(known), sizeof known - strlen(known), "gsm8k|olmes");
    find_word(known, name, nearest);
    for (char *c = known; *c != '\0'; c++) { *c = *c == '|' ? ' ' : *c; }
    return fail(
        err,
        "--task %s: no such task; did you mean %s? (The tasks are %s; each but gsm8k also with :rc or "
        ":mc. --requests takes any request file.)",
        name, nearest, known);
}

// Adds the RC and MC files of a task, or the one of the two that the name asks for.
static inline bool add_task_files(TextList *files, const Settings *s, const char *name, Error *err) {
    const Task *task = task_find(name);
    const char *forms[] = {"rc", "mc"};
    if (task == NULL || !task->files) { return unknown_task(name, err); }
    for (size_t i = 0; i < 2; i++) {
        const char *asked =
            name[task_bare_length(name)] == ':' ? name + task_bare_length(name) + 1 : forms[i];
        char *path;
        if (strcmp(asked, forms[i]) != 0) { continue; }
        if (!task_file(&path, s->eval_dir, task, forms[i], err)) { return false; }
        bool ok = list_append(files, path, err);
        free(path);
        if (!ok) { return false; }
    }
    return true;
}

// The files of --requests, or of the tasks. "olmes" is all ten.
static inline bool eval_files(TextList *files, const Settings *s, Error *err) {
    for (size_t i = 0; i < s->requests.count; i++) {
        if (!list_append(files, s->requests.items[i], err)) { return false; }
    }
    for (size_t i = 0; i < s->tasks.count; i++) {
        const bool all = strcmp(s->tasks.items[i], "olmes") == 0;
        for (size_t k = 0; k < TASKS && all; k++) {
            if (tasks[k].files && !add_task_files(files, s, tasks[k].name, err)) { return false; }
        }
        if (!all && !add_task_files(files, s, s->tasks.items[i], err)) { return false; }
    }
    return true;
}

static inline EvalFiles eval_open_files(const Settings *s, const Source *source) {
    Error err, warning = {""};
    TextList paths = {NULL, 0};
    EvalFiles e = {NULL, 0, 0};
    must(eval_files(&paths, s, &err), &err);
    e.count = paths.count;
    e.files = (RequestFile *)allocate(e.count, sizeof *e.files, "request files", &err);
    must(e.files != NULL, &err);
    for (size_t i = 0; i < e.count; i++) {
        must(task_requests_open(&e.files[i], paths.items[i], (size_t)s->limit, &source->text, &source->config,
                                &warning, &err),
             &err);
        must(tasks_check_once(e.files, i + 1, &err), &err);
        e.task_count += e.files[i].task_count;
    }
    warn(&warning);
    list_free(&paths);
    return e;
}

static inline void eval_read_out(EvalOut *out, EvalFiles *e, const Settings *s, const Source *source) {
    Error err;
    EvalOutFile *files = (EvalOutFile *)allocate(e->count, sizeof *files, "request files", &err);
    must(files != NULL, &err);
    for (size_t i = 0; i < e->count; i++) {
        const EvalOutFile file = {e->files[i].path, e->files[i].digest, e->files[i].document_count};
        files[i] = file;
    }
    const EvalOutSubject subject = {s, source, "off", files, e->count};
    must(eval_out_read(out, &subject, eval_line_read, e, &err), &err);
    free(files);
}

// ---------------------------------------------------------------------------------------------
// the evaluation

typedef struct {
    EvalOut *out;
    Meter meter;  // of the documents of all files
} EvalScoring;

// A LikelihoodDone.
static inline bool eval_document_done(void *context, const RequestFile *f, size_t document, Error *err) {
    EvalScoring *scoring = (EvalScoring *)context;
    const RequestDocument *d = &f->documents[document];
    JsonWriter w;
    memset(&w, 0, sizeof w);
    eval_line_write(&w, f, d);
    if (!eval_out_append(scoring->out, &w, err)) { return false; }
    meter_show(&scoring->meter, scoring->meter.done + 1, f->tasks[d->task]);
    return true;
}

static inline void print_eval_plan(const Source *source, const EvalFiles *e, const LikelihoodPlan *plan,
                                   const EvalOut *out) {
    char bytes[32];
    const OLMo2Room room = likelihood_room(plan);
    const OLMo2Form form = olmo2_form();
    const OLMo2Memory memory = olmo2_memory(&source->config, &room, &form);
    printf("model          %s\n", source->dir);
    for (size_t i = 0; i < e->count; i++) {
        printf("requests       %s: %zu documents\n", e->files[i].path, e->files[i].document_count);
    }
    printf("slots          %zu document%s side by side%s, up to %zu tokens each, %zu at once; cache %s\n",
           plan->slots, plan->slots == 1 ? "" : "s", plan->keeps ? ", and a slot for their examples" : "",
           plan->cache_T, plan->rows, format_bytes(bytes, memory.cache));
    eval_out_print(out, "documents");
}

// Scores what --out does not hold yet, and returns how many documents are done: fewer than all if a signal
// came.
static inline size_t eval_score_files(OLMo2 *m, const LikelihoodPlan *plan, const EvalFiles *e,
                                      EvalOut *out) {
    Error err;
    EvalScoring scoring = {out, meter_begin("documents", out->done, out->all)};
    size_t held = out->done;
    bool ok = true;
    for (size_t i = 0; ok && i < e->count && !stop_requested; i++) {
        RequestFile *f = &e->files[i];
        const size_t begin = held < f->document_count ? held : f->document_count;
        held -= begin;
        ok = likelihood_score(m, plan, f, begin, &stop_requested, eval_document_done, &scoring, &err);
    }
    meter_end(&scoring.meter);
    must(ok, &err);
    return scoring.meter.done;
}

static inline void eval_requests(const Settings *s) {
    Error err, warning = {""};
    Source source;
    EvalOut out;

    // Everything is read and checked before the weights are loaded and anything is written.
    must(source_open(&source, s->load, s->tokenizer, &warning, &err), &err);
    warn(&warning);
    EvalFiles e = eval_open_files(s, &source);
    TaskResult *results = (TaskResult *)allocate(e.task_count, sizeof *results, "scores", &err);
    must(results != NULL, &err);
    must(model_open_weights(&source, s, &err), &err);
    eval_read_out(&out, &e, s, &source);

    const LikelihoodPlan plan = likelihood_plan(&source.config, e.files, e.count, (size_t)given(s->slots, 0));
    const OLMo2Room room = likelihood_room(&plan);
    OLMo2 *m = model_load(&source, &room, s);
    must(eval_out_begin(&out, &err), &err);
    print_eval_plan(&source, &e, &plan, &out);
    signals_catch();
    const size_t done = eval_score_files(m, &plan, &e, &out);
    must(eval_out_close(&out, &err), &err);
    must(eval_out_whole(&out, done, "documents", &err), &err);

    for (size_t i = 0, at = 0; i < e.count; at += e.files[i++].task_count) {
        task_results(results + at, &e.files[i]);
    }
    print_results(results, e.task_count);

    olmo2_free(m);
    for (size_t i = 0; i < e.count; i++) { requests_close(&e.files[i]); }
    free(e.files);
    free(results);
    source_close(&source);
}

#endif
