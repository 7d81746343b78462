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

static inline void print_eval_plan(const Source *source, const RequestFile *files, size_t count,
                                   const LikelihoodPlan *plan, const EvalOut *out) {
    char bytes[32];
    const OLMo2Room room = likelihood_room(plan);
    const OLMo2Form form = olmo2_form();
    const OLMo2Memory memory = olmo2_memory(&source->config, &room, &form);
    printf("model          %s\n", source->dir);
    for (size_t i = 0; i < count; i++) {
        printf("requests       %s: %zu documents\n", files[i].path, files[i].document_count);
    }
    printf("slots          %zu document%s side by side%s, up to %zu tokens each, %zu at once; cache %s\n",
           plan->slots, plan->slots == 1 ? "" : "s", plan->keeps ? ", and a slot for their examples" : "",
           plan->cache_T, plan->rows, format_bytes(bytes, memory.cache));
    eval_out_print(out, "documents");
}

// Scores what --out does not hold yet, and returns how many documents are done: fewer than all if a signal
// came.
static inline size_t eval_score_files(OLMo2 *m, const LikelihoodPlan *plan, RequestFile *files, size_t count,
                                      EvalOut *out) {
    Error err;
    EvalScoring scoring = {out, meter_begin("documents", out->done, out->all)};
    size_t held = out->done;
    bool ok = true;
    for (size_t i = 0; ok && i < count && !stop_requested; i++) {
        const size_t begin = held < files[i].document_count ? held : files[i].document_count;
        held -= begin;
        ok = likelihood_score(m, plan, &files[i], begin, &stop_requested, eval_document_done, &scoring, &err);
    }
    meter_end(&scoring.meter);
    must(ok, &err);
    return scoring.meter.done;
}

static inline void eval_requests(const Settings *s) {
    Error err, warning = {""};
    Source source;
    TextList paths = {NULL, 0};
    EvalOut out;
    size_t result_count = 0;

    // Everything is read and checked before the weights are loaded and anything is written.
    must(source_open(&source, s->load, s->tokenizer, &warning, &err), &err);
    warn(&warning);
    must(eval_files(&paths, s, &err), &err);
    const size_t count = paths.count;
    RequestFile *files = (RequestFile *)allocate(count, sizeof *files, "request files", &err);
    must(files != NULL, &err);
    EvalOutFile *out_files = (EvalOutFile *)allocate(count, sizeof *out_files, "request files", &err);
    must(out_files != NULL, &err);
    for (size_t i = 0; i < count; i++) {
        must(task_requests_open(&files[i], paths.items[i], (size_t)s->limit, &source.text, &source.config,
                                &warning, &err),
             &err);
        must(tasks_check_once(files, i + 1, &err), &err);
        const EvalOutFile out_file = {files[i].path, files[i].digest, files[i].document_count};
        out_files[i] = out_file;
        result_count += files[i].task_count;
    }
    warn(&warning);
    TaskResult *results = (TaskResult *)allocate(result_count, sizeof *results, "scores", &err);
    must(results != NULL, &err);
    EvalFiles taken = {files, count};
    const EvalOutSubject subject = {s, &source, "off", out_files, count};
    must(model_open_weights(&source, s, &err), &err);
    must(eval_out_read(&out, &subject, eval_line_read, &taken, &err), &err);

    const LikelihoodPlan plan = likelihood_plan(&source.config, files, count, (size_t)given(s->slots, 0));
    const OLMo2Room room = likelihood_room(&plan);
    OLMo2 *m = model_load(&source, &room, s);
    must(eval_out_begin(&out, &err), &err);
    print_eval_plan(&source, files, count, &plan, &out);
    signals_catch();
    const size_t done = eval_score_files(m, &plan, files, count, &out);
    must(eval_out_close(&out, &err), &err);
    must(eval_out_whole(&out, done, "documents", &err), &err);

    for (size_t i = 0, at = 0; i < count; at += files[i++].task_count) {
        task_results(results + at, &files[i]);
    }
    print_results(results, result_count);

    olmo2_free(m);
    for (size_t i = 0; i < count; i++) { requests_close(&files[i]); }
    free(files);
    free(out_files);
    free(results);
    list_free(&paths);
    source_close(&source);
}

#endif
