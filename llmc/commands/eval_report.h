// eval_report.h: the scores of an evaluation, for people.
//
//   print_results      every metric of every task, then what is made of several scores
#ifndef LLMC_COMMANDS_EVAL_REPORT_H
#define LLMC_COMMANDS_EVAL_REPORT_H

#include "llmc/tasks.h"

enum { NAME_WIDTH = 34 };

static inline void print_score_header(void) {
    printf("\n%-*s %9s  %-14s %9s %9s\n", NAME_WIDTH, "task", "documents", "metric", "score", "std error");
}

// documents 0: the line continues the one before.
static inline void print_score(const char *name, size_t documents, const char *metric, double score,
                               double error, const char *what) {
    char count[32] = "";
    if (documents > 0) { snprintf(count, sizeof count, "%zu", documents); }
    printf("%-*s %9s  %-14s %9.4f %9.4f%s%s\n", NAME_WIDTH, name, count, metric, score, error,
           what[0] != '\0' ? "  " : "", what);
}

// The primary metric first, then the others of the table.
static inline void print_result(const TaskResult *r) {
    const Scores *s = &r->scores;
    print_score(r->name, s->documents, metrics[r->primary].name, scores_mean(s, r->primary),
                scores_error(s, r->primary), "primary");
    for (size_t i = 0; i < METRICS; i++) {
        if (i == r->primary || !scores_has(s, i)) { continue; }
        print_score("", 0, metrics[i].name, scores_mean(s, i), scores_error(s, i), "");
    }
}

static inline void print_summary(const Summary *s) {
    print_score(s->name, s->documents, s->metric, s->score, s->error, s->what);
}

static inline void print_results(const TaskResult *results, size_t count) {
    Summary summary;
    bool both;
    print_score_header();
    for (size_t i = 0; i < count; i++) {
        if (mmlu_subject(results[i].name) == MMLU_SUBJECTS) { print_result(&results[i]); }
    }
    for (int mc = 0; mc < 2; mc++) {
        for (size_t group = 0; group <= MMLU_GROUPS; group++) {  // the last is all of MMLU
            if (summarise_mmlu(&summary, results, count, group, mc)) { print_summary(&summary); }
        }
    }
    for (size_t i = 0; i < TASKS; i++) {
        if (summarise_task(&summary, &both, results, count, &tasks[i]) && both) { print_summary(&summary); }
    }
    for (int with_mmlu = 0; with_mmlu < 2; with_mmlu++) {
        if (summarise_olmes(&summary, results, count, with_mmlu)) { print_summary(&summary); }
    }
}

#endif
