// tasks.h: the evaluation tasks by name: ONE table of their files and primary metrics, MMLU's subjects, and
// how the scores of tasks are put together.
//
// A request file says in task_name which task a line belongs to:
//   arc_easy         the answers themselves are the continuations (RC, also called cloze)
//   arc_easy:mc      the choices are listed in the context, and the continuations are " A", " B", ... (MC)
//   mmlu_anatomy     a subject of MMLU; mmlu_anatomy:mc as above
// data/evals.py writes TASK_rc.jsonl.gz and TASK_mc.jsonl.gz; those of MMLU hold all 57 subjects, and the
// doc_id counts within a subject.
//
// Sources: OLMES (Gu et al. 2024, oe_eval/configs/tasks.py) for the primary metrics; categories.py of
// Hendrycks et al. 2021 for MMLU. lm-eval counts anatomy as stem, Hendrycks and AI2 as other.
//
// Doors:
//   tasks, task_find, task_of       the table
//   task_primary                    the metric by which a task_name is scored
//   task_file                       the request file of a task in --eval-dir
//   task_requests_open              a request file, ready to be scored
//   tasks_check_once                whether another file holds a task of the last one
//   task_results                    the scores of each task of a file
//   mmlu_subjects, mmlu_subject     MMLU's subjects and their groups
//   summary_of                      the score of one task
//   summarise_task, _mmlu, _olmes   mc_or_rc, MMLU's means, the average of OLMES
#ifndef LLMC_TASKS_H
#define LLMC_TASKS_H

#include "metrics.h"
#include "text.h"
#include "words.h"

typedef struct {
    const char *name;     // as --task takes it
    const char *primary;  // the metric of its RC form; that of MC is acc_raw
    bool files;           // data/evals.py writes its RC and MC files
    bool olmes;           // one of the nine of OLMES's average
} Task;

// clang-format off
static const Task tasks[] = {
  { "arc_easy",         "acc_per_char",  true,  true  },
  { "arc_challenge",    "acc_uncond",    true,  true  },
  { "boolq",            "acc_raw",       true,  true  },
  { "csqa",             "acc_uncond",    true,  true  },
  { "hellaswag",        "acc_per_char",  true,  true  },
  { "openbookqa",       "acc_uncond",    true,  true  },
  { "piqa",             "acc_per_char",  true,  true  },
  { "socialiqa",        "acc_per_char",  true,  true  },
  { "winogrande",       "acc_raw",       true,  true  },
  { "mmlu",             "acc_per_char",  true,  false },
  // AI2's ready request files
  { "basic_skills",     "acc_per_token", false, false },
  { "gsm8k",            "bits_per_byte", false, false },  // of the worked answer; --task gsm8k generates
  { "minerva_math_500", "bits_per_byte", false, false },
};
// clang-format on
enum { TASKS = sizeof tasks / sizeof tasks[0], OLMES_TASKS = 9 };

typedef enum { MMLU_STEM, MMLU_HUMANITIES, MMLU_SOCIAL_SCIENCES, MMLU_OTHER, MMLU_GROUPS } MmluGroup;
static const char *const mmlu_groups[] = {"stem", "humanities", "social_sciences", "other"};

static const struct {
    const char *name;
    MmluGroup group;
} mmlu_subjects[] = {
    {"abstract_algebra", MMLU_STEM},
    {"anatomy", MMLU_OTHER},
    {"astronomy", MMLU_STEM},
    {"business_ethics", MMLU_OTHER},
    {"clinical_knowledge", MMLU_OTHER},
    {"college_biology", MMLU_STEM},
    {"college_chemistry", MMLU_STEM},
    {"college_computer_science", MMLU_STEM},
    {"college_mathematics", MMLU_STEM},
    {"college_medicine", MMLU_OTHER},
    {"college_physics", MMLU_STEM},
    {"computer_security", MMLU_STEM},
    {"conceptual_physics", MMLU_STEM},
    {"econometrics", MMLU_SOCIAL_SCIENCES},
    {"electrical_engineering", MMLU_STEM},
    {"elementary_mathematics", MMLU_STEM},
    {"formal_logic", MMLU_HUMANITIES},
    {"global_facts", MMLU_OTHER},
    {"high_school_biology", MMLU_STEM},
    {"high_school_chemistry", MMLU_STEM},
    {"high_school_computer_science", MMLU_STEM},
    {"high_school_european_history", MMLU_HUMANITIES},
    {"high_school_geography", MMLU_SOCIAL_SCIENCES},
    {"high_school_government_and_politics", MMLU_SOCIAL_SCIENCES},
    {"high_school_macroeconomics", MMLU_SOCIAL_SCIENCES},
    {"high_school_mathematics", MMLU_STEM},
    {"high_school_microeconomics", MMLU_SOCIAL_SCIENCES},
    {"high_school_physics", MMLU_STEM},
    {"high_school_psychology", MMLU_SOCIAL_SCIENCES},
    {"high_school_statistics", MMLU_STEM},
    {"high_school_us_history", MMLU_HUMANITIES},
    {"high_school_world_history", MMLU_HUMANITIES},
    {"human_aging", MMLU_OTHER},
    {"human_sexuality", MMLU_SOCIAL_SCIENCES},
    {"international_law", MMLU_HUMANITIES},
    {"jurisprudence", MMLU_HUMANITIES},
    {"logical_fallacies", MMLU_HUMANITIES},
    {"machine_learning", MMLU_STEM},
    {"management", MMLU_OTHER},
    {"marketing", MMLU_OTHER},
    {"medical_genetics", MMLU_OTHER},
    {"miscellaneous", MMLU_OTHER},
    {"moral_disputes", MMLU_HUMANITIES},
    {"moral_scenarios", MMLU_HUMANITIES},
    {"nutrition", MMLU_OTHER},
    {"philosophy", MMLU_HUMANITIES},
    {"prehistory", MMLU_HUMANITIES},
    {"professional_accounting", MMLU_OTHER},
    {"professional_law", MMLU_HUMANITIES},
    {"professional_medicine", MMLU_OTHER},
    {"professional_psychology", MMLU_SOCIAL_SCIENCES},
    {"public_relations", MMLU_SOCIAL_SCIENCES},
    {"security_studies", MMLU_SOCIAL_SCIENCES},
    {"sociology", MMLU_SOCIAL_SCIENCES},
    {"us_foreign_policy", MMLU_SOCIAL_SCIENCES},
    {"virology", MMLU_OTHER},
    {"world_religions", MMLU_HUMANITIES},
};
enum { MMLU_SUBJECTS = sizeof mmlu_subjects / sizeof mmlu_subjects[0] };
static_assert(MMLU_SUBJECTS == 57, "MMLU has 57 subjects");

// ---------------------------------------------------------------------------------------------
// names

// The first `length` bytes of a name are this word.
static inline bool name_is(const char *name, size_t length, const char *word) {
    return strlen(word) == length && memcmp(name, word, length) == 0;
}

static inline bool task_is_mc(const char *task_name) { return ends_with(task_name, ":mc"); }

// The bytes of a task_name without :mc or :rc.
static inline size_t task_bare_length(const char *task_name) {
    const size_t length = strlen(task_name);
    return task_is_mc(task_name) || ends_with(task_name, ":rc") ? length - 3 : length;
}

// The index of the subject of a task_name such as mmlu_anatomy:mc, or MMLU_SUBJECTS.
static inline size_t mmlu_subject(const char *task_name) {
    const size_t length = task_bare_length(task_name);
    size_t i = 0;
    if (strncmp(task_name, "mmlu_", 5) != 0) { return MMLU_SUBJECTS; }
    while (i < MMLU_SUBJECTS && !name_is(task_name + 5, length - 5, mmlu_subjects[i].name)) { i++; }
    return i;
}

// The task of a name with or without :mc or :rc; NULL if the table has none.
static inline const Task *task_find(const char *name) {
    for (size_t i = 0; i < TASKS; i++) {
        if (name_is(name, task_bare_length(name), tasks[i].name)) { return &tasks[i]; }
    }
    return NULL;
}

// The same, where a subject belongs to MMLU.
static inline const Task *task_of(const char *task_name) {
    return mmlu_subject(task_name) < MMLU_SUBJECTS ? task_find("mmlu") : task_find(task_name);
}

// The metric by which a task_name is scored. Those that the table does not have are scored like most of OLMES.
static inline size_t task_primary(const char *task_name) {
    const Task *task = task_of(task_name);
    if (task_is_mc(task_name)) { return metric_find("acc_raw"); }
    return metric_find(task != NULL ? task->primary : "acc_per_char");
}

// ---------------------------------------------------------------------------------------------
// files

// Whether each document has what the primary metric of its task needs.
static inline bool tasks_check(const RequestFile *f, Error *err) {
    for (size_t i = 0; i < f->document_count; i++) {
        const RequestDocument *d = &f->documents[i];
        const char *name = f->tasks[d->task];
        const Metric *primary = &metrics[task_primary(name)];
        if (!primary->unconditional || d->unconditional > 0) { continue; }
        return fail(
            err,
            "%s line %zu: %s is scored by %s, which needs unconditional requests, but document %zu has "
            "none (doc_id %zu with the context \"Answer:\")",
            f->path, f->requests[d->first].line, name, primary->name, d->doc_id, d->doc_id + UNCONDITIONAL);
    }
    return true;
}

// A task's request file in the directory, "rc" or "mc", packed or not. The caller frees *path.
static inline bool task_file(char **path, const char *dir, const Task *task, const char *form, Error *err) {
    char found[PATH_MAX];
    const char *endings[] = {".jsonl.gz", ".jsonl"};
    *path = NULL;
    for (size_t i = 0; i < 2; i++) {
        snprintf(found, sizeof found, "%s/%s_%s%s", dir, task->name, form, endings[i]);
        if (!path_is_file(found)) { continue; }
        *path = strdup(found);
        return *path != NULL || fail(err, "out of memory: a path");
    }
    return fail(err,
                "%s/%s_%s.jsonl.gz: no such file; python3 data/evals.py makes the files of all tasks, "
                "--eval-dir says where they are",
                dir, task->name, form);
}

// Opens a request file, keeps the first `limit` documents of each task (0: all) and encodes them. Release with
// requests_close; a failure leaves nothing to release.
static inline bool task_requests_open(RequestFile *f, const char *path, size_t limit, const Text *text,
                                      const OLMo2Config *config, Error *warning, Error *err) {
    if (!text->present) { return fail(err, "--tokenizer: is missing; requests need one"); }
    if (!requests_open(f, path, err)) { return false; }
    requests_limit(f, limit);
    if (!tasks_check(f, err) || !requests_encode(f, &text->tokenizer, config, err)) {
        requests_close(f);
        return false;
    }
    if (f->truncated > 0) {
        add_warning(
            warning,
            "%s: %zu request%s longer than the model's %zu tokens and lose%s what is at the beginning", path,
            f->truncated, f->truncated == 1 ? " is" : "s are", config->max_T, f->truncated == 1 ? "s" : "");
    }
    return true;
}

// A task in two of the files (count) would have two scores of one name, and means of several tasks could take
// only one. The last file is compared with those before it.
static inline bool tasks_check_once(const RequestFile *files, size_t count, Error *err) {
    const RequestFile *f = &files[count - 1];
    for (const RequestFile *g = files; g < f; g++) {
        for (size_t i = 0; i < f->task_count; i++) {
            const Task *task = task_of(f->tasks[i]);
            for (size_t k = 0; k < g->task_count && task != NULL && task->files; k++) {
                if (strcmp(f->tasks[i], g->tasks[k]) != 0) { continue; }
                return fail(err, "%s: holds %s, which %s holds too; give one of the two", f->path,
                            f->tasks[i], g->path);
            }
        }
    }
    return true;
}

// ---------------------------------------------------------------------------------------------
// scores

// The scores of one task_name of a file.
typedef struct {
    const char *name;  // the file's
    size_t primary;
    Scores scores;
} TaskResult;

// The choices of a document that has been scored. Returns their number.
static inline size_t task_choices(Choice choices[MOST_CHOICES], const RequestFile *f,
                                  const RequestDocument *d) {
    for (size_t i = 0; i < d->choices; i++) { choices[i] = choice_read(f, d, i); }
    return d->choices;
}

// The results (f->task_count) of a file whose documents have been scored.
static inline void task_results(TaskResult *results, const RequestFile *f) {
    Choice choices[MOST_CHOICES];
    for (size_t i = 0; i < f->task_count; i++) {
        memset(&results[i], 0, sizeof results[i]);
        results[i].name = f->tasks[i];
        results[i].primary = task_primary(f->tasks[i]);
    }
    for (size_t i = 0; i < f->document_count; i++) {
        const RequestDocument *d = &f->documents[i];
        const size_t count = task_choices(choices, f, d);
        scores_add(&results[d->task].scores, choices, count, d->label);
    }
    for (size_t i = 0; i < f->task_count; i++) {  // with one choice each there is nothing to choose
        TaskResult *r = &results[i];
        if (!scores_has(&r->scores, r->primary)) { r->primary = metric_find("bits_per_byte"); }
    }
}

// ---------------------------------------------------------------------------------------------
// scores of several tasks together

// A score made of others.
typedef struct {
    char name[64], metric[32], what[96];
    double score, error;
    size_t parts, documents;
} Summary;

// The score of one result by its primary metric.
static inline Summary summary_of(const TaskResult *r) {
    Summary s;
    memset(&s, 0, sizeof s);
    snprintf(s.name, sizeof s.name, "%s", r->name);
    snprintf(s.metric, sizeof s.metric, "%s", metrics[r->primary].name);
    s.score = scores_mean(&r->scores, r->primary);
    s.error = scores_error(&r->scores, r->primary);
    s.documents = r->scores.documents;
    s.parts = 1;
    return s;
}

// The macro mean: the unweighted mean of `parts` scores.
static inline void summary_add(Summary *s, double score, double error, size_t documents) {
    s->score += score;
    s->error += error * error;  // variances add up
    s->documents += documents;
    s->parts++;
}

static inline void summary_mean(Summary *s) {
    s->score /= (double)s->parts;
    s->error = sqrt(s->error) / (double)s->parts;
}

// MMLU's mean over the subjects of a group (MMLU_GROUPS: all) in one form. False if none was scored.
static inline bool summarise_mmlu(Summary *s, const TaskResult *results, size_t count, size_t group,
                                  bool mc) {
    memset(s, 0, sizeof *s);
    for (size_t i = 0; i < count; i++) {
        const TaskResult *r = &results[i];
        const size_t subject = mmlu_subject(r->name);
        if (subject == MMLU_SUBJECTS || task_is_mc(r->name) != mc) { continue; }
        if (group < MMLU_GROUPS && mmlu_subjects[subject].group != (MmluGroup)group) { continue; }
        const Summary part = summary_of(r);
        summary_add(s, part.score, part.error, part.documents);
        snprintf(s->metric, sizeof s->metric, "%s", part.metric);
    }
    if (s->parts == 0) { return false; }
    size_t all = 0;
    for (size_t i = 0; i < MMLU_SUBJECTS; i++) {
        all += group == MMLU_GROUPS || mmlu_subjects[i].group == (MmluGroup)group;
    }
    summary_mean(s);
    snprintf(s->name, sizeof s->name, "mmlu%s%s%s", group < MMLU_GROUPS ? "_" : "",
             group < MMLU_GROUPS ? mmlu_groups[group] : "", mc ? ":mc" : "");
    char of[32] = "";
    if (s->parts < all) { snprintf(of, sizeof of, "of its %zu ", all); }
    snprintf(s->what, sizeof s->what, "mean of %zu %ssubjects", s->parts, of);
    return true;
}

// A task's score in one form. False if it was not scored.
static inline bool summarise_form(Summary *s, const TaskResult *results, size_t count, const Task *task,
                                  bool mc) {
    if (strcmp(task->name, "mmlu") == 0) { return summarise_mmlu(s, results, count, MMLU_GROUPS, mc); }
    memset(s, 0, sizeof *s);
    for (size_t i = 0; i < count; i++) {
        const TaskResult *r = &results[i];
        if (task_of(r->name) != task || task_is_mc(r->name) != mc) { continue; }
        *s = summary_of(r);
        return true;
    }
    return false;
}

// mc_or_rc: the better of the task's two scores. Where only one form was scored it is that one; `both` says
// whether there were two. False if there was none.
static inline bool summarise_task(Summary *s, bool *both, const TaskResult *results, size_t count,
                                  const Task *task) {
    Summary rc, mc;
    const bool has_rc = summarise_form(&rc, results, count, task, false),
               has_mc = summarise_form(&mc, results, count, task, true);
    *both = has_rc && has_mc;
    if (!has_rc && !has_mc) { return false; }
    const bool takes_mc = has_mc && (!has_rc || mc.score > rc.score);
    *s = takes_mc ? mc : rc;
    snprintf(s->name, sizeof s->name, "%s", task->name);
    snprintf(s->metric, sizeof s->metric, "mc_or_rc");
    snprintf(s->what, sizeof s->what, "that of %s", takes_mc ? "MC" : "RC");
    return true;
}

// The average of OLMES over its nine tasks, and with MMLU over ten. False unless all were scored.
static inline bool summarise_olmes(Summary *s, const TaskResult *results, size_t count, bool with_mmlu) {
    Summary part;
    bool both;
    memset(s, 0, sizeof *s);
    for (size_t i = 0; i < TASKS; i++) {
        if (!tasks[i].olmes && !(with_mmlu && strcmp(tasks[i].name, "mmlu") == 0)) { continue; }
        if (!summarise_task(&part, &both, results, count, &tasks[i])) { return false; }
        summary_add(s, part.score, part.error, part.documents);
    }
    summary_mean(s);
    snprintf(s->name, sizeof s->name, "OLMES%s", with_mmlu ? " with MMLU" : "");
    snprintf(s->metric, sizeof s->metric, "mean");
    snprintf(s->what, sizeof s->what, "mean of %zu tasks", s->parts);
    return true;
}

#endif
