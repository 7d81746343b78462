// plan.h: everything that follows from the settings of a run, decided once.
//
// Settings are what was typed, with holes. A Plan has none. The run, its dry run, its log and its checkpoints
// all read the plan, so they cannot disagree, and a new default cannot change an old run.
//
//   plan_make(program, settings)   opens model directory, tokenizer and data, and decides; writes nothing
//   plan_print(plan)               prints what was decided
//   plan_free(plan)
#ifndef LLMC_COMMANDS_PLAN_H
#define LLMC_COMMANDS_PLAN_H

#include "describe.h"
#include "llmc/evaluate.h"
#include "llmc/likelihood.h"
#include "llmc/log.h"
#include "llmc/prompts.h"
#include "llmc/source.h"
#include "llmc/tasks.h"
#include "must.h"
#include "run_state.h"

typedef struct {
    const char *program;  // argv[0]
    Settings settings;    // of the run; every setting that applies has a value

    bool resumes, validates, samples, asks;
    int lock;            // keeps other processes out of the run's directory; -1 if not locked yet
    SavedState saved;    // of the checkpoint that is resumed
    bool anew;           // --resume came with other settings than those of the run
    char changed[1024];  // what that changes, a line for each setting that changes a result

    Source source;  // where the model comes from: its directory, configuration and tokenizer
    OLMo2Room room;
    OLMo2Form form;

    size_t B, T, micro;  // sequences of a step, tokens of a sequence, sequences in memory at once
    DataLoader data, validation;
    Schedule schedule;
    int64_t last;      // the step after which this process stops
    OLMo2AdamW adamw;  // without lr, gradient_scale and t, which each update sets
    double z;          // weight of the z term
    SamplerSettings sampler;
    TokenBuffer prompt;       // of the samples
    RequestFile *task_files;  // (settings.eval_tasks.count) the questions that it asks
    LikelihoodPlan likelihood;
} Plan;

static inline void plan_free(Plan *p) {
    free(p->prompt.ids);
    for (size_t i = 0; i < p->settings.eval_tasks.count && p->task_files != NULL; i++) {
        requests_close(&p->task_files[i]);
    }
    free(p->task_files);
    dataloader_close(&p->validation);
    dataloader_close(&p->data);
    source_close(&p->source);
    json_free(&p->saved.json);
    settings_free(&p->settings);
    if (p->lock >= 0) { close(p->lock); }
}

static inline const OLMo2Config *plan_config(const Plan *p) { return &p->source.config; }

// ---------------------------------------------------------------------------------------------
// defaults by size

// What OLMo 2's runs used, for models of up to that many parameters besides the embeddings. Sources: OLMo's
// and OLMo-core's configurations of the released models. The 32B run filtered its data beforehand and skipped
// steps instead.
typedef struct {
    double parameters, lr;
    int64_t batch_size;
    int instance_filter, skip_step;
} SizeDefaults;

static inline SizeDefaults size_defaults(const OLMo2Config *config) {
    const SizeDefaults rows[] = {
        {4e9, 4e-4, 512, ON, OFF},
        {9e9, 3e-4, 1024, ON, OFF},
        {2e10, 9e-4, 2048, ON, OFF},
        {INFINITY, 6e-4, 2048, OFF, ON},
    };
    double parameters = (double)parameter_total_without_embeddings(config);
    int row = 0;
    while (parameters > rows[row].parameters) { row++; }
    return rows[row];
}

// Sequences in memory at once: as many as hold 8192 tokens. The same on every machine, since the bits of a
// run depend on it.
static inline int64_t default_micro_batch(size_t B, size_t T) {
    size_t micro = 8192 / T;
    return (int64_t)(micro < 1 ? 1 : micro < B ? micro : B);
}

// ---------------------------------------------------------------------------------------------
// the settings: as typed, or those of the run to resume with what was typed over them

// Makes a path absolute, because --resume may be typed in another directory. A pattern keeps its wildcards;
// those in the working directory's own name are escaped.
static inline bool path_absolute(char **path, Error *err) {
    char directory[PATH_MAX], escaped[2 * PATH_MAX], *out = escaped;
    if ((*path)[0] == '/') { return true; }
    if (getcwd(directory, sizeof directory) == NULL) {
        return fail(err, "%s: the working directory has no name: %s", *path, strerror(errno));
    }
    const bool pattern = access(*path, F_OK) != 0;
    for (const char *c = directory; *c != '\0'; c++) {
        if (pattern && strchr("*?[]\\", *c) != NULL) { *out++ = '\\'; }
        *out++ = *c;
    }
    *out = '\0';
    char *absolute = format_text("%s/%s", escaped, *path);
    if (absolute == NULL) { return fail(err, "out of memory: the name %s", *path); }
    free(*path);
    *path = absolute;
    return true;
}

static inline bool settings_absolute(Settings *s, Error *err) {
    for (size_t i = 0; i < s->data.count; i++) {
        if (!path_absolute(&s->data.items[i], err)) { return false; }
    }
    for (size_t i = 0; i < s->val_data.count; i++) {
        if (!path_absolute(&s->val_data.items[i], err)) { return false; }
    }
    for (size_t i = 0; i < s->eval_tasks.count; i++) {
        if (!path_absolute(&s->eval_tasks.items[i], err)) { return false; }
    }
    return s->tokenizer == NULL || path_absolute(&s->tokenizer, err);
}

// What changes when --resume is given a new value for a setting. Settings that change no result are not
// listed.
static const struct {
    const char *flag, *change;
} resume_changes[] = {
    {"data", "the run reads these files from here on"},
    {"val-data", "validations from here on are not comparable with earlier ones"},
    {"eval-task", "scores from here on are those of these questions"},
    {"eval-limit", "scores from here on are those of other questions"},
    {"tokenizer", "samples, bits per byte and checkpoints use it from here on"},
    {"micro-batch-size", "gradients add up in another order, so the bits of the run change"},
    {"steps", "the learning rate follows the schedule of the new length from here on"},
    {"master-weights", "weights are rounded differently, so the bits of the run change"},
    {"moments", "AdamW's moments are converted, so the bits of the run change"},
    {"dtype", "products are rounded differently, so the bits of the run change"},
};

static inline bool same_value(const Settings *a, const Settings *b, const Flag *flag) {
    JsonWriter x, y;
    memset(&x, 0, sizeof x);
    memset(&y, 0, sizeof y);
    settings_write_value(&x, a, flag);
    settings_write_value(&y, b, flag);
    bool same = x.length == y.length && (x.length == 0 || memcmp(x.text, y.text, x.length) == 0);
    json_writer_free(&x);
    json_writer_free(&y);
    return same;
}

static inline void note_changes(Plan *p, const Settings *before) {
    for (int i = 0; i < FLAGS; i++) {
        const bool kept = p->settings.given[i] && (flags[i].commands & ONCE) == 0;
        p->anew = p->anew || (kept && !same_value(before, &p->settings, &flags[i]));
    }
    for (size_t i = 0; i < sizeof resume_changes / sizeof resume_changes[0]; i++) {
        const char *name = resume_changes[i].flag;
        const Flag *flag = &flags[flag_find(name, strlen(name), TRAIN)];
        size_t length = strlen(p->changed);
        if (same_value(before, &p->settings, flag)) { continue; }
        snprintf(p->changed + length, sizeof p->changed - length, "%s--%s: %s", length > 0 ? "\n" : "", name,
                 resume_changes[i].change);
    }
}

static inline bool read_saved_settings(Settings *s, const SavedState *saved, Error *err) {
    if (!settings_init(s, command_find("train"), err)) { return false; }
    return settings_read(s, json_member(saved->json.root, "settings"), saved->path, err);
}

// Whether the saved settings have what every run has. Their file may have been edited.
static inline bool check_saved_settings(const Settings *s, const char *source, Error *err) {
    if (s->data.count == 0) {
        return fail(err,
                    "%s: \"data\" lists no file, expected the token files of the run; give them with --data",
                    source);
    }
    if (s->steps > 0 || s->tokens > 0 || s->epochs > 0) { return true; }
    return fail(err, "%s: \"steps\" is missing, expected the length of the run; give it with --steps",
                source);
}

// Locks the run, finds its newest checkpoint and reads the settings from there. The lock comes first.
// Otherwise a run that another process is still writing would look finished, or another process could start
// between check and lock.
static inline bool plan_resume(Plan *p, const Settings *typed, Error *err) {
    Settings before;
    Error warning = {""};
    char checkpoint[PATH_MAX];
    if (!directory_lock(typed->resume, &p->lock, &warning, err)) { return false; }
    if (!run_newest(checkpoint, typed->resume, &warning, err)) { return false; }
    warn(&warning);
    if (!saved_state_open(&p->saved, checkpoint, err)) { return false; }
    if (!read_saved_settings(&p->settings, &p->saved, err)) { return false; }
    if (!settings_overlay(&p->settings, typed, err)) { return false; }
    if (!check_saved_settings(&p->settings, p->saved.path, err)) { return false; }
    if (!check_rules(&p->settings, err)) { return false; }
    if (typed->steps > 0) { p->settings.tokens = p->settings.epochs = -1; }
    bool ok = read_saved_settings(&before, &p->saved, err);
    if (ok) { note_changes(p, &before); }
    settings_free(&before);
    return ok && text_set(&p->settings.out, typed->resume, err);
}

static inline bool plan_settings(Plan *p, const Settings *typed, Error *err) {
    p->resumes = typed->resume != NULL;
    if (p->resumes) {
        if (!plan_resume(p, typed, err)) { return false; }
        use_threads(p->settings.threads);
        return true;
    }
    if (!settings_init(&p->settings, command_find("train"), err)) { return false; }
    return settings_overlay(&p->settings, typed, err);
}

// ---------------------------------------------------------------------------------------------
// the model

static inline bool check_size_name(const char *name, Error *err) {
    OLMo2Config config;
    char words[256] = "", nearest[64];
    if (olmo2_preset(&config, name) || ends_with(name, ".json") || path_is_file(name)) { return true; }
    for (int i = 0; i < OLMO2_PRESETS; i++) {
        snprintf(words + strlen(words), sizeof words - strlen(words), "%s%s", i > 0 ? "|" : "",
                 olmo2_presets[i].name);
    }
    find_word(words, name, nearest);
    return fail(err, "--config %s: no such file and no such size; did you mean %s? (The sizes are %s.)", name,
                nearest, words);
}

static inline bool plan_new_model(Plan *p, Error *warning, Error *err) {
    const Settings *s = &p->settings;
    OLMo2Config *config = &p->source.config;
    const size_t V = (size_t)given(s->vocab_size, 0), T = (size_t)given(s->seq_len, 0);
    if (!check_size_name(s->config, err)) { return false; }
    if (!source_new(&p->source, s->config, V, T, s->tokenizer, warning, err)) { return false; }
    config->ablate_qk_norm = config->ablate_qk_norm || (s->ablate & ABLATE_QK_NORM) != 0;
    config->pre_norm = config->pre_norm || (s->ablate & ABLATE_POST_NORM) != 0;
    return true;
}

// A run that is resumed uses the tokenizer of its checkpoint, unless one was typed: the one that it began
// with may have moved.
static inline bool plan_model(Plan *p, const Settings *typed, Error *err) {
    const Settings *s = &p->settings;
    Error warning = {""};
    bool ok;
    if (p->resumes) {
        ok = source_open(&p->source, p->saved.checkpoint, typed->tokenizer, &warning, err);
    } else if (s->load != NULL) {
        ok = source_open(&p->source, s->load, s->tokenizer, &warning, err);
    } else {
        ok = plan_new_model(p, &warning, err);
    }
    warn(&warning);
    return ok;
}

// ---------------------------------------------------------------------------------------------
// what the model decides: sizes, storage, update

static inline void plan_sizes(Plan *p) {
    Settings *s = &p->settings;
    const OLMo2Config *config = plan_config(p);
    const SizeDefaults defaults = size_defaults(config);
    s->vocab_size = (int64_t)config->V;
    s->seq_len = given(s->seq_len, (int64_t)config->max_T);
    s->batch_size = given(s->batch_size, defaults.batch_size);
    p->T = (size_t)s->seq_len;
    p->B = (size_t)s->batch_size;
    s->micro_batch_size = given(s->micro_batch_size, default_micro_batch(p->B, p->T));
    p->micro = (size_t)s->micro_batch_size;
    if (s->instance_filter == UNSET) { s->instance_filter = defaults.instance_filter; }
    if (s->skip_step == UNSET) { s->skip_step = defaults.skip_step; }
    if (isnan(s->lr)) { s->lr = defaults.lr; }
    if ((s->ablate & ABLATE_Z_LOSS) != 0) { s->z_loss = 0.0; }
    p->validates = s->val_data.count > 0;
    p->samples = s->sample_every > 0;
    p->asks = s->eval_tasks.count > 0;
    p->z = s->z_loss;
    p->adamw.beta1 = (float)s->beta1;
    p->adamw.beta2 = (float)s->beta2;
    p->adamw.eps = (float)s->adam_eps;
    p->adamw.weight_decay = (float)s->weight_decay;
    p->sampler.temperature = s->temperature;
    p->sampler.top_k = (size_t)s->top_k;
    p->sampler.top_p = s->top_p;
    p->sampler.min_p = s->min_p;
}

static inline bool plan_check_sizes(const Plan *p, Error *err) {
    if (p->micro > p->B) {
        return fail(err, "--micro-batch-size %zu: is more than the batch of %zu sequences", p->micro, p->B);
    }
    return check_batch(plan_config(p), p->micro, p->T, err);
}

static inline bool plan_prompt(Plan *p, Error *err) {
    const char *prompt = p->settings.prompt != NULL ? p->settings.prompt : "";
    if (!p->samples) { return true; }
    return prompt_encode(&p->source.text, plan_config(p), prompt, strlen(prompt), "--sample-prompt",
                         &p->prompt, err);
}

// Reads the questions. In training memory is dear: a few documents side by side are enough.
static inline bool plan_tasks(Plan *p, Error *err) {
    enum { SLOTS = 8 };
    const Settings *s = &p->settings;
    const size_t count = s->eval_tasks.count;
    Error warning = {""};
    if (!p->asks) { return true; }
    p->task_files = (RequestFile *)allocate(count, sizeof *p->task_files, "request files", err);
    if (p->task_files == NULL) { return false; }
    for (size_t i = 0; i < count; i++) {
        if (!task_requests_open(&p->task_files[i], s->eval_tasks.items[i], (size_t)s->eval_limit,
                                &p->source.text, plan_config(p), &warning, err)) {
            return false;
        }
        if (!tasks_check_once(p->task_files, i + 1, err)) { return false; }
    }
    warn(&warning);
    p->likelihood = likelihood_plan(plan_config(p), p->task_files, count, SLOTS);
    return true;
}

static inline void room_add(OLMo2Room *room, const OLMo2Room *more) {
    room->slots = more->slots > room->slots ? more->slots : room->slots;
    room->cache_T = more->cache_T > room->cache_T ? more->cache_T : room->cache_T;
    room->rows = more->rows > room->rows ? more->rows : room->rows;
}

static inline bool plan_storage(Plan *p, Error *err) {
    const Settings *s = &p->settings;
    p->room = olmo2_room_to_train(p->micro, p->T);
    if (p->samples) {
        const OLMo2Room room = engine_room(plan_config(p), 1, p->prompt.length, (size_t)s->max_tokens);
        room_add(&p->room, &room);
    }
    if (p->asks) {
        const OLMo2Room room = likelihood_room(&p->likelihood);
        room_add(&p->room, &room);
    }
    p->form = olmo2_form();
    p->form.recompute = (Recompute)s->recompute;
    p->form.master_weights = s->master_weights == ON;
    p->form.bf16_moments = s->moments == MOMENTS_BF16;
    p->form.bf16_products = s->dtype == PRODUCTS_BF16;
    return olmo2_check(plan_config(p), &p->room, &p->form, err);
}

// ---------------------------------------------------------------------------------------------
// data and length

// Reads the validation data once. There is little of it, and an error in it is found now, not after hours.
static inline bool plan_validation(Plan *p, Error *err) {
    const Settings *s = &p->settings;
    Batch batch;
    if (!p->validates) { return true; }
    if (!evaluation_open(&p->validation, s->val_data.items, s->val_data.count, p->T, plan_config(p)->V,
                         err)) {
        return false;
    }
    size_t instances = evaluation_instances(&p->validation, s->eval_instances);
    bool ok = batch_create(&batch, 1, p->T, err);
    if (ok) { ok = evaluation_check(&p->validation, instances, &batch, err); }
    batch_free(&batch);
    return ok;
}

static inline bool plan_data(Plan *p, Error *err) {
    const Settings *s = &p->settings;
    LoaderSettings loader;
    if (s->data.count == 0) { return true; }  // a dry run
    memset(&loader, 0, sizeof loader);
    loader.T = p->T;
    loader.V = plan_config(p)->V;
    loader.batch = p->B;
    loader.shuffle = true;
    loader.seed = (uint64_t)s->seed;
    loader.filter = s->instance_filter == ON;
    loader.min_period = (size_t)s->filter_min_period;
    loader.max_period = (size_t)s->filter_max_period;
    loader.max_count = (size_t)s->filter_max_count;
    loader.fingerprint = true;
    if (!dataloader_open(&p->data, (const char *const *)s->data.items, s->data.count, &loader, err)) {
        return false;
    }
    if (p->resumes && s->accept_changed_data != ON) {
        const Json *data = json_member(p->saved.json.root, "data");
        if (!dataloader_fingerprint_check(&p->data, data, p->saved.path, err)) { return false; }
    }
    return plan_validation(p, err);
}

// OLMo 2's mid-training continues an optimizer and so has no warmup. Version 1 warmed up there too.
static inline int64_t default_warmup(const Plan *p, int64_t steps) {
    const bool old = p->resumes && p->saved.version < 2;
    if (p->settings.load_optimizer == ON && !old) { return 0; }
    return steps / 10 < 2000 ? steps / 10 : 2000;
}

// The steps of the whole run, and the learning rate of each.
static inline bool plan_length(Plan *p, Error *err) {
    Settings *s = &p->settings;
    Schedule *schedule = &p->schedule;
    const int64_t per_step = s->batch_size * s->seq_len;
    if (s->tokens > 0) { s->steps = s->tokens / per_step + (s->tokens % per_step > 0); }
    if (s->epochs > 0 && p->data.file_count > 0) {
        s->steps = s->epochs * (int64_t)(dataloader_instances(&p->data) / p->B);
    }
    if (s->steps <= 0) { return true; }  // a dry run
    s->tokens = s->epochs = -1;
    s->warmup_steps = given(s->warmup_steps, default_warmup(p, s->steps));
    if (s->schedule == SCHEDULE_WSD) { s->decay_steps = given(s->decay_steps, s->steps / 10); }
    if (isnan(s->final_lr_fraction) && s->schedule != SCHEDULE_CONSTANT) {
        s->final_lr_fraction = s->schedule == SCHEDULE_COSINE ? 0.1 : 0.0;
    }
    schedule->kind = (ScheduleKind)s->schedule;
    schedule->total = s->steps;
    schedule->peak = s->lr;
    schedule->warmup = s->warmup_steps;
    schedule->decay = given(s->decay_steps, 0);
    schedule->final_fraction = isnan(s->final_lr_fraction) ? 1.0 : s->final_lr_fraction;
    p->last = s->stop_at > 0 && s->stop_at < s->steps ? s->stop_at : s->steps;
    if (p->resumes && schedule->warmup + schedule->decay > s->steps) {
        return fail(
            err,
            "--steps %lld: the run was planned with %lld steps of warmup and %lld of decay, expected at "
            "least as many",
            (long long)s->steps, (long long)schedule->warmup, (long long)schedule->decay);
    }
    if (schedule->warmup > s->steps) {
        return fail(err, "--warmup-steps %lld: is more than the run's %lld steps",
                    (long long)schedule->warmup, (long long)s->steps);
    }
    if (schedule->warmup + schedule->decay > s->steps) {
        return fail(err, "--decay-steps %lld: with %lld steps of warmup is more than the run's %lld steps",
                    (long long)schedule->decay, (long long)schedule->warmup, (long long)s->steps);
    }
    return true;
}

// ---------------------------------------------------------------------------------------------
// the plan

static inline bool plan_decide(Plan *p, const Settings *typed, Error *err) {
    if (!plan_settings(p, typed, err)) { return false; }
    if (!plan_model(p, typed, err)) { return false; }
    plan_sizes(p);
    if (!plan_check_sizes(p, err)) { return false; }
    if (!plan_data(p, err)) { return false; }
    if (!settings_absolute(&p->settings, err)) { return false; }
    if (!plan_length(p, err)) { return false; }
    if (!plan_prompt(p, err)) { return false; }
    if (!plan_tasks(p, err)) { return false; }
    return plan_storage(p, err);
}

// A dry run needs neither data nor a length, and plans with what it has.
static inline Plan plan_make(const char *program, const Settings *typed) {
    Error err;
    Plan plan;
    memset(&plan, 0, sizeof plan);
    plan.program = program;
    plan.lock = -1;
    must(plan_decide(&plan, typed, &err), &err);
    return plan;
}

static inline void print_length(const Plan *p) {
    const Schedule *schedule = &p->schedule;
    const size_t instances = dataloader_instances(&p->data), per_epoch = instances / p->B * p->B;
    const size_t micro_batches = (p->B + p->micro - 1) / p->micro;
    const double per_step = (double)(p->B * p->T);
    char tokens[32], name[64];
    if (p->data.file_count > 0) {
        printf("data           %zu sequences of %zu tokens in %zu file%s\n", instances, p->T,
               p->data.file_count, p->data.file_count == 1 ? "" : "s");
    }
    printf("step           %zu sequences, %s tokens, in %zu micro-batch%s\n", p->B,
           format_count(tokens, per_step), micro_batches, micro_batches == 1 ? "" : "es");
    if (schedule->total == 0) { return; }
    printf("run            %lld steps, %s tokens", (long long)schedule->total,
           format_count(tokens, per_step * (double)schedule->total));
    if (per_epoch > 0) {
        printf(", %.2f epochs", (double)schedule->total * (double)p->B / (double)per_epoch);
    }
    choice_word(&p->settings, "schedule", name);
    printf("\nlearning rate  %s: %g after %lld steps of warmup, %g at the end\n", name, schedule->peak,
           (long long)schedule->warmup, schedule_lr(schedule, schedule->total));
}

static inline void print_changes(const char *line) {
    while (*line != '\0') {
        char text[256];
        size_t length = strcspn(line, "\n");
        snprintf(text, sizeof text, "%.*s", (int)length, line);
        printf("changed        ");
        help_wrap(stdout, text, 15, 15);
        line += length + (line[length] == '\n');
    }
}

static inline void print_tasks(const Plan *p) {
    const LikelihoodPlan *plan = &p->likelihood;
    size_t documents = 0;
    if (!p->asks) { return; }
    for (size_t i = 0; i < p->settings.eval_tasks.count; i++) {
        documents += p->task_files[i].document_count;
    }
    printf("tasks          %zu questions of %zu file%s, %zu side by side, up to %zu tokens each\n", documents,
           p->settings.eval_tasks.count, p->settings.eval_tasks.count == 1 ? "" : "s", plan->slots,
           plan->cache_T);
}

static inline void plan_print(const Plan *p) {
    const Settings *s = &p->settings;
    const OLMo2Memory memory = olmo2_memory(plan_config(p), &p->room, &p->form);
    char backend[128];
    olmo2_describe(&p->room, &p->form, backend, sizeof backend);
    printf("backend        %s\n", backend);
    printf("model          %s\n", p->source.dir[0] != '\0' ? p->source.dir : s->config);
    print_config(plan_config(p));
    print_parameters(plan_config(p));
    printf("memory         ");
    print_memory(&memory);
    print_length(p);
    printf("stability      z-loss %g, clip %g, instance filter %s, skip-step %s\n", p->z, s->clip,
           s->instance_filter == ON ? "on" : "off", s->skip_step == ON ? "on" : "off");
    print_tasks(p);
    if (s->out != NULL) { printf("directory      %s\n", s->out); }
    print_changes(p->changed);
    printf("\n");
    fflush(stdout);
}

#endif
