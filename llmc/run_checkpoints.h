// run_checkpoints.h: the checkpoints of a training run, model directories with the names step-NNNNNNNN in the
// run's directory, and RUN/tokenizer, the run's own copy of its tokenizer.
//
// Doors, declared below:
//   run_write_checkpoint, run_prune, run_clean, run_keep_tokenizer    by the process that has the run locked
//   run_list, run_newest, run_resolve                                 by any process
//   run_checkpoint_name, run_checkpoint_step                          "step-00000100" and 100
#ifndef LLMC_RUN_CHECKPOINTS_H
#define LLMC_RUN_CHECKPOINTS_H

#include <dirent.h>

#include "checkpoint.h"

// Saves the model as run/step-NNNNNNNN, replacing a checkpoint of the same step. The run's directory is
// created if needed, and cleaned. On failure the earlier checkpoints are as they were.
static inline bool run_write_checkpoint(const OLMo2 *m, const char *run, int64_t step,
                                        const CheckpointParts *parts, Error *warning, Error *err);

// Deletes checkpoints of a run, except
//   the last keep_last whole ones (at least one) and damaged ones that are newer than those,
//   those whose step is a multiple of keep_every (0: none),
//   that of protect_step, the newest known to be finite (-1: none).
// What cannot be deleted is a warning.
static inline bool run_prune(const char *run, int64_t keep_last, int64_t keep_every, int64_t protect_step,
                             Error *warning, Error *err);

// Removes what a crash left of this run's saves and deletions, and nothing else, such as a soup that another
// process is writing here. What cannot be removed is a warning.
static inline bool run_clean(const char *run, Error *warning, Error *err);

// Copies a tokenizer.json and the files that go with it to RUN/tokenizer, from which every checkpoint copies
// them: the original files may move during the run. `path`, PATH_MAX bytes, is the tokenizer.json, before and
// after.
static inline bool run_keep_tokenizer(const char *run, const OLMo2Config *config, char *path, Error *warning,
                                      Error *err);

// The steps that a run has checkpoints of, ascending. The caller frees *steps.
static inline bool run_list(const char *run, int64_t **steps, size_t *count, Error *err);

// The path of a run's newest whole checkpoint, into dir (PATH_MAX bytes). Damaged ones that are newer are
// warnings.
static inline bool run_newest(char *dir, const char *run, Error *warning, Error *err);

// The model directory that `path` names: itself, or the newest whole checkpoint of a run.
static inline bool run_resolve(char *dir, const char *path, Error *warning, Error *err);

// "step-00000100", the name of a step's checkpoint. `name` is the caller's.
static inline const char *run_checkpoint_name(char name[32], int64_t step) {
    snprintf(name, 32, "step-%08lld", (long long)step);
    return name;
}

// The step of a checkpoint's name, or -1 if it is the name of something else.
static inline int64_t run_checkpoint_step(const char *name) {
    char canonical[32];
    int64_t step = strncmp(name, "step-", 5) == 0 ? strtoll(name + 5, NULL, 10) : -1;
    return step >= 0 && strcmp(name, run_checkpoint_name(canonical, step)) == 0 ? step : -1;
}

// The next entry of a directory. NULL at the end, with errno 0, or after an error.
static inline struct dirent *directory_next(DIR *dir) {
    errno = 0;
    return readdir(dir);
}

// ---------------------------------------------------------------------------------------------
// saving

static inline bool run_write_named(const OLMo2 *m, const char *run, const char *name,
                                   const CheckpointParts *parts, Error *warning, Error *err) {
    char path[PATH_MAX];
    if (!path_join(path, run, name, err)) { return false; }
    if (!directory_create(run, err)) { return false; }
    if (!run_clean(run, warning, err)) { return false; }
    return checkpoint_write(m, path, parts, warning, err);
}

static inline bool run_write_checkpoint(const OLMo2 *m, const char *run, int64_t step,
                                        const CheckpointParts *parts, Error *warning, Error *err) {
    char name[32];
    if (run_write_named(m, run, run_checkpoint_name(name, step), parts, warning, err)) { return true; }
    return fail(err, "%s\nCheckpoint %s was not saved; those before it are whole.", err->text, name);
}

static inline bool run_keep_tokenizer(const char *run, const OLMo2Config *config, char *path, Error *warning,
                                      Error *err) {
    Aside aside;
    char kept[PATH_MAX];
    if (!path_join(kept, run, "tokenizer", err)) { return false; }
    if (!aside_begin_directory(&aside, kept, err)) { return false; }
    if (!checkpoint_write_tokenizer(config, aside.aside, path, err)) { return aside_cancel(&aside); }
    if (!aside_finish(&aside, warning, err)) { return false; }
    return path_join(path, kept, "tokenizer.json", err);
}

// Whether a name is one under which a run writes or deletes: .writing-step-00000100, .deleting-tokenizer, or
// with the number that aside_name appends.
static inline bool run_leftover(const char *name) {
    char own[64];
    if (strncmp(name, ".writing-", 9) == 0) {
        name += 9;
    } else if (strncmp(name, ".deleting-", 10) == 0) {
        name += 10;
    } else {
        return false;
    }
    snprintf(own, sizeof own, "%s", name);
    own[strcspn(own, ".")] = '\0';
    return strcmp(own, "tokenizer") == 0 || run_checkpoint_step(own) >= 0;
}

static inline bool run_clean(const char *run, Error *warning, Error *err) {
    DIR *dir = opendir(run);
    if (dir == NULL) { return fail(err, "%s: cannot be opened: %s", run, strerror(errno)); }
    struct dirent *entry;
    while ((entry = directory_next(dir)) != NULL) {
        char path[PATH_MAX];
        Error stays;
        bool live;
        if (!run_leftover(entry->d_name) || !path_join(path, run, entry->d_name, &stays)) { continue; }
        if (!aside_remove(path, &live, &stays) && !live) { add_warning(warning, "%s", stays.text); }
    }
    closedir(dir);
    return true;
}

// Renames first, so an interrupted deletion leaves no half checkpoint.
static inline bool run_delete(const char *path, Error *err) {
    char deleting[PATH_MAX];
    if (!aside_name(deleting, ".deleting-", path, err)) { return false; }
    if (rename(path, deleting) != 0) { return fail(err, "%s: cannot be deleted: %s", path, strerror(errno)); }
    return directory_remove(deleting, err);
}

static inline bool run_prune(const char *run, int64_t keep_last, int64_t keep_every, int64_t protect_step,
                             Error *warning, Error *err) {
    int64_t *steps, whole = 0;
    const int64_t keep = keep_last > 1 ? keep_last : 1;
    size_t count;
    if (!run_list(run, &steps, &count, err)) { return false; }
    for (size_t i = count; i-- > 0;) {
        char path[PATH_MAX], name[32];
        Error damage, stays;
        if (!path_join(path, run, run_checkpoint_name(name, steps[i]), &stays)) { continue; }
        if (whole < keep) {
            whole += checkpoint_check(path, &damage);
            continue;
        }
        if (steps[i] == protect_step || (keep_every > 0 && steps[i] % keep_every == 0)) { continue; }
        if (!run_delete(path, &stays)) { add_warning(warning, "%s", stays.text); }
    }
    free(steps);
    return directory_sync(run, err);
}

// ---------------------------------------------------------------------------------------------
// finding

static inline int run_compare_steps(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static inline bool run_list_add(int64_t **steps, size_t *count, int64_t step, const char *run, Error *err) {
    int64_t *grown = (int64_t *)realloc(*steps, (*count + 1) * sizeof **steps);
    if (grown == NULL) { return fail(err, "%s: out of memory for its list of checkpoints", run); }
    *steps = grown;
    (*steps)[(*count)++] = step;
    return true;
}

static inline bool run_list_entries(DIR *dir, const char *run, int64_t **steps, size_t *count, Error *err) {
    struct dirent *entry;
    while ((entry = directory_next(dir)) != NULL) {
        char path[PATH_MAX];
        int64_t step = run_checkpoint_step(entry->d_name);
        if (step < 0) { continue; }
        if (!path_join(path, run, entry->d_name, err)) { return false; }
        if (path_is_directory(path) && !run_list_add(steps, count, step, run, err)) { return false; }
    }
    // A list that ends too early would hide the newest checkpoint.
    return errno == 0 || fail(err, "%s: cannot be read: %s", run, strerror(errno));
}

static inline bool run_list(const char *run, int64_t **steps, size_t *count, Error *err) {
    *steps = NULL;
    *count = 0;
    DIR *dir = opendir(run);
    if (dir == NULL) { return fail(err, "%s: cannot be opened: %s", run, strerror(errno)); }
    bool ok = run_list_entries(dir, run, steps, count, err);
    closedir(dir);
    if (!ok) {
        free(*steps);
        *steps = NULL;
        return false;
    }
    if (*count > 0) { qsort(*steps, *count, sizeof **steps, run_compare_steps); }
    return true;
}

// The error of a directory without a checkpoint. It may be a checkpoint itself.
static inline bool run_empty(const char *run, Error *err) {
    char config[PATH_MAX];
    const bool model = path_join(config, run, "config.json", err) && path_exists(config);
    return fail(err, "%s: holds no checkpoint (step-...)%s", run,
                model ? "\nIt is a model itself; if it is a checkpoint, give the run, the directory above it."
                      : "");
}

static inline bool run_newest(char *dir, const char *run, Error *warning, Error *err) {
    int64_t *steps;
    size_t count;
    bool found = false;
    Error damages = {""};
    if (!run_list(run, &steps, &count, err)) { return false; }
    for (size_t i = count; i-- > 0 && !found;) {
        Error damage;
        char name[32];
        found = path_join(dir, run, run_checkpoint_name(name, steps[i]), &damage);
        if (found) { found = checkpoint_check(dir, &damage); }
        if (!found) { add_warning(&damages, "passed over a damaged checkpoint: %s", damage.text); }
    }
    free(steps);
    if (count == 0) { return run_empty(run, err); }
    if (!found) { return fail(err, "%s: holds no checkpoint that is whole\n%s", run, damages.text); }
    if (damages.text[0] != '\0') { add_warning(warning, "%s", damages.text); }
    return true;
}

static inline bool run_resolve(char *dir, const char *path, Error *warning, Error *err) {
    char config[PATH_MAX];
    int64_t *steps;
    size_t count;
    if (path_is_file(path)) {
        return fail(err,
                    "%s: is a file, expected a model directory or a run: give the directory that holds it",
                    path);
    }
    if (!path_exists(path)) { return fail(err, "%s: no such directory", path); }
    if (!path_is_directory(path)) { return fail(err, "%s: is not a directory", path); }
    if (!path_join(config, path, "config.json", err)) { return false; }
    if (path_exists(config)) {
        snprintf(dir, PATH_MAX, "%s", path);
        return true;
    }
    if (!run_list(path, &steps, &count, err)) { return false; }
    free(steps);
    if (count == 0) { return fail(err, "%s: holds neither config.json nor a checkpoint (step-...)", path); }
    return run_newest(dir, path, warning, err);
}

#endif
