// run_ask.h: a run asks its model the questions of --eval-task.
//
//   run_ask(run)     scores the request files; a line on the screen and in log.jsonl for each task
//
// The questions do not disturb the training: they only read the weights, and the batch of the next step
// overwrites the activations.
#ifndef LLMC_COMMANDS_RUN_ASK_H
#define LLMC_COMMANDS_RUN_ASK_H

#include "run.h"

// One task of a file, or a mean of several. `r` has the metrics of a single task; NULL for a mean.
static inline bool log_task(RunLog *log, const Plan *plan, int64_t step, const Summary *summary,
                            const TaskResult *r, Error *err) {
    JsonWriter w;
    memset(&w, 0, sizeof w);
    json_begin_object(&w, NULL);
    json_string(&w, "type", "eval_task");
    json_integer(&w, "step", step);
    json_integer(&w, "tokens", step * (int64_t)(plan->B * plan->T));
    json_string(&w, "task", summary->name);
    json_integer(&w, "documents", (int64_t)summary->documents);
    json_string(&w, "metric", summary->metric);
    json_number(&w, "score", summary->score);
    json_number(&w, "std_error", summary->error);
    if (r != NULL) {
        json_begin_object(&w, "metrics");
        for (size_t i = 0; i < METRICS; i++) {
            if (scores_has(&r->scores, i)) { json_number(&w, metrics[i].name, scores_mean(&r->scores, i)); }
        }
        json_end_object(&w);
    }
    json_end_object(&w);
    return run_log_write(log, &w, err);
}

static inline void report_task(Run *run, const Summary *summary, const TaskResult *r) {
    Error err;
    progress_print(&run->progress, "%s at step %lld: %s %.4f, standard error %.4f\n", summary->name,
                   (long long)run->state.step, summary->metric, summary->score, summary->error);
    must(log_task(&run->log, run->plan, run->state.step, summary, r, &err), &err);
}

// Reports the tasks of a file that has been scored; of MMLU's subjects only the means.
static inline bool report_tasks(Run *run, const RequestFile *f, Error *err) {
    TaskResult *results = (TaskResult *)allocate(f->task_count, sizeof *results, "scores", err);
    Summary summary;
    if (results == NULL) { return false; }
    task_results(results, f);
    for (size_t i = 0; i < f->task_count; i++) {
        if (mmlu_subject(results[i].name) < MMLU_SUBJECTS) { continue; }
        summary = summary_of(&results[i]);
        report_task(run, &summary, &results[i]);
    }
    for (int mc = 0; mc < 2; mc++) {
        for (size_t group = 0; group <= MMLU_GROUPS; group++) {  // the last is all of MMLU
            if (summarise_mmlu(&summary, results, f->task_count, group, mc)) {
                report_task(run, &summary, NULL);
            }
        }
    }
    free(results);
    return true;
}

// A LikelihoodDone that counts.
static inline bool count_document(void *context, const RequestFile *f, size_t document, Error *err) {
    (void)f, (void)document, (void)err;
    (*(size_t *)context)++;
    return true;
}

// A model whose answers are not numbers does not end the run: its steps say so, too.
static inline void run_ask(Run *run) {
    Plan *plan = run->plan;
    Error err;
    for (size_t i = 0; i < plan->settings.eval_tasks.count; i++) {
        RequestFile *f = &plan->task_files[i];
        size_t done = 0;
        if (!likelihood_score(run->model, &plan->likelihood, f, 0, &stop_requested, count_document, &done,
                              &err)) {
            progress_print(&run->progress, "%s", "");
            print_message("warning", err.text);
        } else if (done < f->document_count) {
            return;  // a signal came
        } else {
            must(report_tasks(run, f, &err), &err);
        }
    }
}

#endif
