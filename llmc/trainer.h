// trainer.h: a training run, and main. One step of the run is
//     data -> forward -> classify -> backward -> update -> log, eval, sample, save
// and everything that a run needs to go on exactly where it stopped is in its checkpoints.
#ifndef LLMC_TRAINER_H
#define LLMC_TRAINER_H

#include <signal.h>
#include <sys/file.h>

#ifdef _OPENMP
#include <omp.h>
#endif

#include "commands.h"
#include "profile.h"

typedef struct {
    const char *program;  // argv[0]
    Settings *settings;   // main's
    Source from;          // the model's beginning, new or from a directory, and its tokenizer
    OLMo2 *model;

    size_t B, T, micro;  // sequences of a step, tokens of a sequence, sequences at once in memory
    DataLoader data, validation;
    Batch batch;  // (B, T): a whole step
    Schedule schedule;

    // how far the run is: the part of it that a checkpoint keeps
    int64_t step;     // steps done
    int64_t updates;  // of the weights: skipped steps make none
    SkipStep skip;

    char source[PATH_MAX];      // from.dir, known before it is opened if the run is resumed
    char state_path[PATH_MAX];  // its trainer/state.json
    JsonDocument state;         // which is read if it is needed
    int lock;  // an open file that keeps other processes out of the run; -1 if there is none yet
    RunLog log;
    Progress progress;
    int64_t saved_step;       // of the newest checkpoint; -1 for none
    int64_t timed_steps;      // since the program's start
    double seconds_per_step;  // a running average over them
    TokenBuffer prompt;       // of the samples
} Trainer;

static inline void trainer_close(Trainer *t) {
    run_log_close(&t->log);
    free(t->prompt.ids);
    batch_free(&t->batch);
    dataloader_close(&t->validation);
    dataloader_close(&t->data);
    source_close(&t->from);
    olmo2_free(t->model);
    json_free(&t->state);
    if (t->lock >= 0) { close(t->lock); }
}

// ---------------------------------------------------------------------------------------------
// what a checkpoint keeps

static inline void state_write_window(JsonWriter *w, const char *key, const RollingWindow *window) {
    json_begin_array(w, key);
    for (size_t i = 0; i < window->count; i++) { json_number(w, NULL, window->values[i]); }
    json_end_array(w);
}

static inline bool state_read_window(RollingWindow *window, const Json *values, const char *source,
                                     Error *err) {
    window->count = 0;
    if (values == NULL || values->type != JSON_ARRAY || values->count > STABILITY_WINDOW) {
        return fail(err, "%s: the windows of skip_step are no lists of at most %d numbers", source,
                    STABILITY_WINDOW);
    }
    for (const Json *value = json_first(values); value != NULL; value = json_next(value)) {
        if (value->type != JSON_NUMBER) { return fail(err, "%s: skip_step holds what is no number", source); }
        window_push(window, value->number);
    }
    return true;
}

// The text of trainer/state.json.
static inline void state_write(JsonWriter *w, const Trainer *t) {
    const OrderState *loader = &t->data.order.state;
    json_begin_object(w, NULL);
    json_integer(w, "step", t->step);
    json_integer(w, "updates", t->updates);
    json_begin_object(w, "loader");
    json_integer(w, "seed", (int64_t)loader->seed);
    json_integer(w, "epoch", (int64_t)loader->epoch);
    json_integer(w, "position", (int64_t)loader->position);
    json_integer(w, "instances", (int64_t)loader->instances);
    json_end_object(w);
    json_begin_object(w, "skip_step");
    state_write_window(w, "losses", &t->skip.losses);
    state_write_window(w, "norms", &t->skip.norms);
    json_end_object(w);
    settings_write(w, "settings", t->settings);
    json_end_object(w);
}

static inline bool state_read_count(const Json *object, const char *key, int64_t *out, const char *source,
                                    Error *err) {
    const size_t largest = 10000000000000000;  // far above what counts anything here, far below an overflow
    size_t value;
    if (!json_get_size(object, key, true, &value, source, err)) { return false; }
    *out = (int64_t)value;
    return value <= largest ||
           fail(err, "%s: \"%s\" is %zu, expected at most %zu", source, key, value, largest);
}

// Brings the counters, the data and the windows to where the checkpoint was.
static inline bool state_restore(Trainer *t, Error *err) {
    const Json *root = t->state.root;
    const Json *saved = json_member(root, "loader"), *skip = json_member(root, "skip_step");
    const char *source = t->state_path;
    int64_t seed, epoch, position, instances;
    if (!state_read_count(root, "step", &t->step, source, err) ||
        !state_read_count(root, "updates", &t->updates, source, err) ||
        !state_read_count(saved, "seed", &seed, source, err) ||
        !state_read_count(saved, "epoch", &epoch, source, err) ||
        !state_read_count(saved, "position", &position, source, err) ||
        !state_read_count(saved, "instances", &instances, source, err)) {
        return false;
    }
    t->saved_step = t->step;
    OrderState loader = {(uint64_t)seed, (uint64_t)epoch, (uint64_t)position, (uint64_t)instances};
    return dataloader_restore(&t->data, &loader, err) &&
           state_read_window(&t->skip.losses, json_member(skip, "losses"), source, err) &&
           state_read_window(&t->skip.norms, json_member(skip, "norms"), source, err);
}

static inline bool state_open(Trainer *t, Error *err) {
    char *text = checkpoint_read_state(t->source, err);
    bool ok = text != NULL && path_join(t->state_path, t->source, "trainer/state.json", err) &&
              json_parse(&t->state, text, strlen(text), t->state_path, err);
    free(text);
    return ok;
}

// ---------------------------------------------------------------------------------------------
// setting up: the settings and what follows from them

// The tokens of all steps so far: a run has one size of step from its start to its end.
static inline int64_t trainer_tokens(const Trainer *t) { return t->step * (int64_t)(t->B * t->T); }

// Keeps other processes from writing to the run as long as this one lives.
static inline bool run_lock(Trainer *t, const char *run, Error *err) {
    Error warning = {""};
    bool ok = directory_lock(run, &t->lock, &warning, err);
    if (warning.text[0] != '\0') { print_message("warning", warning.text); }
    return ok;
}

// With --resume: the settings of the run, and over them the few flags that may be given anew.
static inline bool trainer_resume_settings(Trainer *t, const Command *command, int argc, char **argv,
                                           Error *err) {
    Settings *s = t->settings;
    Error warning = {""};
    char *run = strdup(s->resume);
    bool ok = run != NULL || fail(err, "out of memory: the name of a run");
    ok = ok && run_lock(t, run, err) && run_newest(t->source, run, &warning, err);
    if (ok && warning.text[0] != '\0') { print_message("warning", warning.text); }
    ok = ok && state_open(t, err);
    if (ok) {
        settings_free(s);
        ok = settings_init(s, command, err) &&
             settings_read(s, json_member(t->state.root, "settings"), t->state_path, err);
        ok = ok && flags_parse(s, command, argc, argv, err) && text_set(&s->out, run, err);
    }
    free(run);
    return ok;
}

static inline void set_threads(const Settings *s) {
#ifdef _OPENMP
    if (s->threads > 0) { omp_set_num_threads((int)s->threads); }
#else
    (void)s;
#endif
}

// OLMo 2's peak learning rate and batch size, up to so many parameters (without those of the embeddings).
typedef struct {
    double parameters, lr;
    int64_t batch_size;
} SizeDefaults;

static inline SizeDefaults size_defaults(const OLMo2Config *config) {
    const SizeDefaults rows[] = {
        {4e9, 4e-4, 512}, {9e9, 3e-4, 1024}, {2e10, 9e-4, 2048}, {INFINITY, 6e-4, 2048}};
    double parameters = (double)parameter_total_without_embeddings(config);
    int row = 0;
    while (parameters > rows[row].parameters) { row++; }
    return rows[row];
}

// The configuration of a new model: of a size with a name, or of a file.
static inline bool trainer_new_config(Trainer *t, Error *warning, Error *err) {
    const Settings *s = t->settings;
    OLMo2Config *config = &t->from.config;
    bool preset = olmo2_preset(config, s->config);
    if (!preset && !ends_with(s->config, ".json") && !path_is_file(s->config)) {
        char words[256] = "", nearest[64];
        for (int i = 0; i < OLMO2_PRESETS; i++) {
            snprintf(words + strlen(words), sizeof words - strlen(words), "%s%s", i > 0 ? "|" : "",
                     olmo2_presets[i].name);
        }
        find_word(words, s->config, nearest);
        return fail(err, "--config %s: no such file and no such size; did you mean %s? (The sizes are %s.)",
                    s->config, nearest, words);
    }
    const size_t V = s->vocab_size > 0 ? (size_t)s->vocab_size : 0, T = s->seq_len > 0 ? (size_t)s->seq_len : 0;
    if (!source_new(&t->from, s->config, V, T, s->tokenizer, warning, err)) { return false; }
    config->no_qk_norm = config->no_qk_norm || (s->ablate & ABLATE_QK_NORM) != 0;
    config->pre_norm = config->pre_norm || (s->ablate & ABLATE_POST_NORM) != 0;
    return true;
}

// A run that is resumed uses the tokenizer in its checkpoint: the one that it began with may have moved.
static inline bool trainer_open_model(Trainer *t, Error *err) {
    const Settings *s = t->settings;
    Error warning = {""};
    const char *path = s->resume != NULL ? t->source : s->load;
    bool ok = path != NULL
                  ? source_open(&t->from, path, s->resume == NULL ? s->tokenizer : NULL, &warning, err)
                  : trainer_new_config(t, &warning, err);
    if (warning.text[0] != '\0') { print_message("warning", warning.text); }
    snprintf(t->source, sizeof t->source, "%s", t->from.dir);
    return ok;
}

// Opens the validation data and reads what the run will be measured on: that is little, and an error in it
// shows now, not after hours of training.
static inline bool trainer_open_validation(Trainer *t, Error *err) {
    const Settings *s = t->settings;
    if (s->val_data.count == 0) { return true; }
    if (!evaluation_open(&t->validation, &s->val_data, t->T, t->from.config.V, err)) { return false; }
    size_t instances = evaluation_instances(&t->validation, s->eval_instances);
    return evaluation_check(&t->validation, instances, &t->batch, err);
}

// Sequences side by side unless the settings say how many: as many as hold 8192 tokens, the same on every
// machine, since the bits of a run depend on it.
static inline size_t default_micro_batch(size_t B, size_t T) {
    size_t micro = 8192 / T;
    return micro < 1 ? 1 : micro < B ? micro : B;
}

static inline bool trainer_open_data(Trainer *t, Error *err) {
    const Settings *s = t->settings;
    SizeDefaults defaults = size_defaults(&t->from.config);
    LoaderSettings loader;
    memset(&loader, 0, sizeof loader);
    t->T = s->seq_len > 0 ? (size_t)s->seq_len : t->from.config.max_T;
    t->B = (size_t)(s->batch_size > 0 ? s->batch_size : defaults.batch_size);
    t->micro = s->micro_batch_size > 0 ? (size_t)s->micro_batch_size : default_micro_batch(t->B, t->T);
    if (t->micro > t->B) {
        return fail(err, "--micro-batch-size %zu: is more than the batch of %zu sequences", t->micro, t->B);
    }
    loader.T = t->T;
    loader.V = t->from.config.V;
    loader.batch = t->B;
    loader.shuffle = true;
    loader.seed = (uint64_t)s->seed;
    loader.filter = s->instance_filter;
    loader.min_period = (size_t)s->filter_min_period;
    loader.max_period = (size_t)s->filter_max_period;
    loader.max_count = (size_t)s->filter_max_count;
    return check_batch(&t->from.config, t->micro, t->T, err) &&
           dataloader_open(&t->data, (const char *const *)s->data.items, s->data.count, &loader, err) &&
           batch_create(&t->batch, t->B, t->T, err) && trainer_open_validation(t, err);
}

// Steps of the whole run, and the learning rate of each.
static inline bool trainer_plan_length(Trainer *t, Error *err) {
    const Settings *s = t->settings;
    Schedule *schedule = &t->schedule;
    size_t per_step = t->B * t->T, per_epoch = dataloader_instances(&t->data) / t->B;
    int64_t steps = s->steps;
    if (s->tokens > 0) { steps = (int64_t)(((size_t)s->tokens + per_step - 1) / per_step); }
    if (s->epochs > 0) { steps = s->epochs * (int64_t)per_epoch; }
    schedule->kind = (ScheduleKind)s->schedule;
    schedule->total = steps;
    schedule->peak = isnan(s->lr) ? size_defaults(&t->from.config).lr : s->lr;
    schedule->warmup = s->warmup_steps >= 0 ? s->warmup_steps : steps / 10 < 2000 ? steps / 10 : 2000;
    schedule->decay = s->decay_steps >= 0 ? s->decay_steps : steps / 10;
    schedule->final_fraction = s->final_lr_fraction;
    if (isnan(s->final_lr_fraction)) {
        schedule->final_fraction = schedule->kind == SCHEDULE_COSINE ? 0.1 : 0.0;
    }
    if (schedule->warmup > steps) {
        return fail(err, "--warmup-steps %lld: is more than the run's %lld steps",
                    (long long)schedule->warmup, (long long)steps);
    }
    if (schedule->kind == SCHEDULE_WSD && schedule->warmup + schedule->decay > steps) {
        return fail(err, "--decay-steps %lld: with %lld steps of warmup is more than the run's %lld steps",
                    (long long)schedule->decay, (long long)schedule->warmup, (long long)steps);
    }
    return true;
}

// ---------------------------------------------------------------------------------------------
// setting up: the plan, the model, the run's directory

static inline OLMo2Room trainer_room(const Trainer *t) {
    OLMo2Room room = olmo2_room_to_train(t->micro, t->T);
    if (t->settings->sample_every > 0) {
        room.slots = 1;
        room.cache_T = text_positions(&t->from.config, t->prompt.length, (size_t)t->settings->max_tokens);
    }
    return room;
}

static inline OLMo2Form trainer_form(const Trainer *t) {
    OLMo2Form form;
    form.recompute = (Recompute)t->settings->recompute;
    form.master_weights = t->settings->master_weights;
    form.bf16_moments = t->settings->moments == MOMENTS_BF16;
    form.bf16_products = t->settings->dtype == PRODUCTS_BF16;
    return form;
}

static inline void trainer_print_plan(const Trainer *t) {
    const Settings *s = t->settings;
    const Schedule *schedule = &t->schedule;
    OLMo2Room room = trainer_room(t);
    OLMo2Form form = trainer_form(t);
    OLMo2Memory memory = olmo2_memory(&t->from.config, &room, &form);
    char backend[128], tokens[32], name[64];
    size_t instances = dataloader_instances(&t->data), per_epoch = instances / t->B * t->B;
    double per_step = (double)(t->B * t->T);
    size_t micro_batches = (t->B + t->micro - 1) / t->micro;
    olmo2_describe(&room, &form, backend, sizeof backend);
    choice_word(s, "schedule", name);
    printf("backend        %s\n", backend);
    printf("model          %s\n", t->source[0] != '\0' ? t->source : s->config);
    print_config(&t->from.config);
    print_parameters(&t->from.config);
    printf("memory         ");
    print_memory(&memory);
    printf("data           %zu sequences of %zu tokens in %zu file%s\n", instances, t->T, t->data.file_count,
           t->data.file_count == 1 ? "" : "s");
    printf("step           %zu sequences, %s tokens, in %zu micro-batch%s\n", t->B,
           format_count(tokens, per_step), micro_batches, micro_batches == 1 ? "" : "es");
    printf("run            %lld steps, %s tokens, %.2f epochs\n", (long long)schedule->total,
           format_count(tokens, per_step * (double)schedule->total),
           (double)schedule->total * (double)t->B / (double)per_epoch);
    printf("learning rate  %s: in %lld steps to %g, at the end %g\n", name, (long long)schedule->warmup,
           schedule->peak, schedule_lr(schedule, schedule->total));
    printf("directory      %s\n\n", s->out);
    fflush(stdout);
}

// Weights of a new model, in the order of the table.
static inline bool trainer_initialize(Trainer *t, Error *err) {
    Pcg64 rng;
    pcg64_seed(&rng, (uint64_t)t->settings->seed);
    float *values = (float *)allocate(parameter_largest(&t->from.config), sizeof *values, "a tensor", err);
    for (size_t index = 0; values != NULL && index < parameter_count(&t->from.config); index++) {
        Parameter p = parameter_at(&t->from.config, index);
        for (size_t i = 0; i < p.size; i++) {
            values[i] = p.row->init == INIT_ONE ? 1.0f : pcg64_truncated_normal(&rng, t->from.config.init_std);
        }
        olmo2_write(t->model, OLMO2_PARAMETER, index, values);
    }
    free(values);
    return values != NULL;
}

// The model with its first weights, and with its optimizer and counters when they come from a checkpoint.
static inline bool trainer_create_model(Trainer *t, Error *err) {
    const Settings *s = t->settings;
    OLMo2Room room = trainer_room(t);
    OLMo2Form form = trainer_form(t);
    if (!olmo2_create(&t->model, &t->from.config, &room, &form, err)) { return false; }
    if (s->profile && olmo2_profile(t->model) == NULL) {
        return fail(
            err,
            "--profile: this is the CUDA program, whose functions return before the GPU has done their work, "
            "so the host's clock cannot time them; use `nsys profile`, or time the kernels one by one with "
            "dev/cuda");
    }
    if (t->source[0] == '\0') { return trainer_initialize(t, err); }
    if (!checkpoint_load_weights(t->model, t->source, err)) { return false; }
    if (s->resume == NULL && !s->load_optimizer) { return true; }
    if (!checkpoint_load_optimizer(t->model, t->source, err)) { return false; }
    if (s->resume != NULL) { return state_restore(t, err); }
    return state_open(t, err) && state_read_count(t->state.root, "updates", &t->updates, t->state_path, err);
}

// A new run may not go where another one is.
static inline bool run_check_unused(const char *run, Error *err) {
    char log[PATH_MAX];
    int64_t *steps = NULL;
    size_t count = 0;
    if (!path_join(log, run, "log.jsonl", err) || !run_list(run, &steps, &count, err)) {
        return false;
    }
    free(steps);
    if (count > 0) {
        return fail(
            err,
            "--out %s: holds another run; choose another directory, or go on with that run by --resume %s",
            run, run);
    }
    return access(log, F_OK) != 0 ||
           fail(err,
                "--out %s: holds the log of a run that ended before its first checkpoint; remove %s to begin "
                "again",
                run, log);
}

// Makes an existing directory this new run's own. The lock comes first: what another process is writing is no
// run that has ended, and after the check nobody else can begin.
static inline bool run_claim(Trainer *t, const char *run, Error *err) {
    return (t->lock >= 0 || run_lock(t, run, err)) && run_check_unused(run, err);
}

// The log's first line: the whole configuration.
static inline bool log_run(Trainer *t, Error *err) {
    char backend[128];
    OLMo2Room room = trainer_room(t);
    OLMo2Form form = trainer_form(t);
    JsonWriter w;
    memset(&w, 0, sizeof w);
    olmo2_describe(&room, &form, backend, sizeof backend);
    json_begin_object(&w, NULL);
    json_string(&w, "type", "run");
    json_string(&w, "backend", backend);
    json_integer(&w, "parameters", (int64_t)parameter_total(&t->from.config));
    json_integer(&w, "parameters_without_embeddings",
                 (int64_t)parameter_total_without_embeddings(&t->from.config));
    json_integer(&w, "memory_bytes", (int64_t)olmo2_memory(&t->from.config, &room, &form).total);
    json_integer(&w, "tokens_per_step", (int64_t)(t->B * t->T));
    json_integer(&w, "steps", t->schedule.total);
    settings_write(&w, "settings", t->settings);
    json_end_object(&w);
    return run_log_write(&t->log, &w, err);
}

// Opens the run's directory and its log.
static inline bool trainer_enter_run(Trainer *t, Error *err) {
    const char *run = t->settings->out;
    Text *text = &t->from.text;
    Error warning = {""};
    bool fresh, resumed = t->settings->resume != NULL;
    bool ok = (resumed || (directory_create(run, err) && run_claim(t, run, err))) && run_clean(run, &warning, err) &&
              (!text->present || run_keep_tokenizer(run, &t->from.config, text->path, &warning, err));
    if (warning.text[0] != '\0') { print_message("warning", warning.text); }
    return ok && run_log_open(&t->log, run, t->step, &fresh, err) && (!fresh || log_run(t, err));
}

// Everything up to the first step. Nothing is written before all input is known to be good, but for the ids
// of the training data: to look at terabytes would take hours, so that they are checked as they come.
static inline bool trainer_open(Trainer *t, const Command *command, int argc, char **argv, Error *err) {
    Settings *s = t->settings;
    if (!flags_check_train(s, err)) { return false; }
    if (s->resume != NULL && !trainer_resume_settings(t, command, argc, argv, err)) { return false; }
    if (s->resume == NULL && access(s->out, F_OK) == 0 && !run_claim(t, s->out, err)) { return false; }
    set_threads(s);
    if (!trainer_open_model(t, err) || !trainer_open_data(t, err) || !trainer_plan_length(t, err)) {
        return false;
    }
    if (s->sample_every > 0 && !prompt_encode(&t->from.text, &t->from.config, s->prompt, &t->prompt, err)) {
        return false;
    }
    OLMo2Room room = trainer_room(t);
    OLMo2Form form = trainer_form(t);
    if (!olmo2_check(&t->from.config, &room, &form, err)) { return false; }
    trainer_print_plan(t);
    return trainer_create_model(t, err) && trainer_enter_run(t, err);
}

// ---------------------------------------------------------------------------------------------
// --dry-run: the plan of the memory alone

// "24G", "24Gi", "512M", "24e9": a number of bytes.
static inline bool parse_bytes(const char *text, double *bytes, Error *err) {
    const char *letters = "kMGT";
    char *end;
    *bytes = strtod(text, &end);
    const char *letter = *end != '\0' ? strchr(letters, *end) : NULL;
    if (letter != NULL) {
        const bool binary = end[1] == 'i';
        *bytes *= pow(binary ? 1024.0 : 1000.0, (double)(letter - letters + 1));
        end += binary ? 2 : 1;
    }
    return (end != text && *end == '\0' && *bytes > 0.0 && *bytes < 1e18) ||
           fail(err, "--memory %s: expected a number of bytes, such as 24G or 24Gi", text);
}

// The most sequences side by side that fit into so many bytes; 0 if one does not.
static inline size_t largest_micro_batch(const OLMo2Config *config, OLMo2Room room, const OLMo2Form *form,
                                         double bytes) {
    size_t low = 0, high = 1;  // low fits, high does not
    for (;; high *= 2) {
        room.B = high;
        if (high > (1u << 20) || (double)olmo2_memory(config, &room, form).total > bytes) { break; }
        low = high;
    }
    while (high - low > 1) {
        room.B = low + (high - low) / 2;
        if ((double)olmo2_memory(config, &room, form).total > bytes) {
            high = room.B;
        } else {
            low = room.B;
        }
    }
    return low;
}

static inline bool trainer_dry_run(Trainer *t, Error *err) {
    const Settings *s = t->settings;
    double bytes = 0.0;
    char backend[128], text[32];
    if (!flags_check_train(s, err) || (s->memory != NULL && !parse_bytes(s->memory, &bytes, err)) ||
        !trainer_open_model(t, err)) {
        return false;
    }
    t->T = s->seq_len > 0 ? (size_t)s->seq_len : t->from.config.max_T;
    t->micro = s->micro_batch_size > 0 ? (size_t)s->micro_batch_size : 1;
    OLMo2Room room = trainer_room(t);
    OLMo2Form form = trainer_form(t);
    if (!check_batch(&t->from.config, t->micro, t->T, err) || !olmo2_check(&t->from.config, &room, &form, err)) {
        return false;
    }
    const size_t largest = largest_micro_batch(&t->from.config, room, &form, bytes);
    if (s->micro_batch_size <= 0 && largest > 0) { room.B = largest; }
    OLMo2Memory memory = olmo2_memory(&t->from.config, &room, &form);
    olmo2_describe(&room, &form, backend, sizeof backend);
    printf("backend        %s\n", backend);
    printf("model          %s\n", t->source[0] != '\0' ? t->source : s->config);
    print_config(&t->from.config);
    print_parameters(&t->from.config);
    printf("micro-batch    %zu sequence%s of %zu tokens\n", room.B, room.B == 1 ? "" : "s", t->T);
    printf("memory         ");
    print_memory(&memory);
    if (s->memory == NULL) { return true; }
    printf("available      %s\n", format_bytes(text, (size_t)bytes));
    if (largest > 0) {
        printf("largest        %zu sequence%s at once\n", largest, largest == 1 ? "" : "s");
        return true;
    }
    room.B = 1;
    return fail(
        err,
        "--memory %s: one sequence of %zu tokens needs %s\n"
        "       Less is needed with a shorter --seq-len, --recompute block, --master-weights off, --moments "
        "bf16.",
        s->memory, t->T, format_bytes(text, olmo2_memory(&t->from.config, &room, &form).total));
}

// ---------------------------------------------------------------------------------------------
// a step

// The factor of the z term in the loss.
static inline double objective_z(const Settings *s) {
    return (s->ablate & ABLATE_Z_LOSS) != 0 ? 0.0 : s->z_loss;
}

// Forward and backward over the whole batch, in parts that fit the memory. Every part is weighted by the
// labels of the whole batch, so that the gradients add up to the same for parts of any size.
static inline void trainer_accumulate(Trainer *t, size_t N) {
    const Batch *batch = &t->batch;
    OLMo2 *m = t->model;
    olmo2_zero_gradients(m);
    lm_weights(batch->weights, batch->labels, t->B * t->T, N);
    for (size_t b = 0; b < t->B; b += t->micro) {
        size_t n = t->B - b < t->micro ? t->B - b : t->micro, at = b * t->T;
        olmo2_forward(m, batch->tokens + at, n, t->T);
        olmo2_classify(m, batch->labels + at, batch->weights + at, (float)objective_z(t->settings),
                       batch->logprobs + at, batch->lse + at);
        olmo2_backward(m);
    }
}

// One AdamW update with the gradient clipped to the norm that the settings allow.
static inline void trainer_update(Trainer *t, double lr, double gradient_norm) {
    const Settings *s = t->settings;
    OLMo2AdamW adamw;
    t->updates++;
    adamw.lr = (float)lr;
    adamw.beta1 = (float)s->beta1;
    adamw.beta2 = (float)s->beta2;
    adamw.eps = (float)s->adam_eps;
    adamw.weight_decay = (float)s->weight_decay;
    adamw.gradient_scale = s->clip > 0.0 ? (float)fmin(1.0, s->clip / (gradient_norm + 1e-6)) : 1.0f;
    adamw.t = t->updates;
    olmo2_update(t->model, &adamw);
}

// A step on the batch. Counters and learning rate go on when it is skipped; AdamW's own count does not.
static inline bool trainer_step(Trainer *t, StepReport *r, Error *err) {
    const Settings *s = t->settings;
    LmSums sums;
    memset(&sums, 0, sizeof sums);
    size_t N = lm_normalizer(t->batch.labels, t->batch.filtered, t->B, t->T);
    trainer_accumulate(t, N);
    lm_add(&sums, t->batch.labels, t->batch.logprobs, t->batch.lse, t->B * t->T, objective_z(s));
    t->step++;
    // The objective, in which a filtered sequence counts, and what a person compares, in which it does not.
    double objective = N > 0 ? sums.ce / (double)N : 0.0;
    r->step = t->step;
    r->tokens = trainer_tokens(t);
    r->loss = sums.labels > 0 ? sums.ce / (double)sums.labels : NAN;
    r->z = sums.labels > 0 ? sums.z / (double)sums.labels : NAN;
    r->gradient_norm = olmo2_gradient_norm(t->model);
    r->lr = schedule_lr(&t->schedule, t->step);
    r->masked = 0;
    for (size_t b = 0; b < t->B; b++) { r->masked += t->batch.filtered[b]; }
    if (!s->skip_step && !(isfinite(objective) && isfinite(r->gradient_norm))) {
        return fail(
            err,
            "step %lld: the loss is %g and the gradient norm %g, an update would destroy the weights; "
            "try a smaller --lr or --skip-step on",
            (long long)t->step, objective, r->gradient_norm);
    }
    r->skipped = N == 0 || (s->skip_step && skip_step(&t->skip, objective, r->gradient_norm));
    if (!r->skipped) { trainer_update(t, r->lr, r->gradient_norm); }
    return true;
}

// ---------------------------------------------------------------------------------------------
// between steps: report, validate, sample, save

// Whether what happens every so many steps (0: never) happens now.
static inline bool is_due(int64_t step, int64_t every) { return every > 0 && step % every == 0; }

// The last step of this start of the program.
static inline int64_t trainer_last_step(const Trainer *t) {
    int64_t stop_at = t->settings->stop_at;
    return stop_at > 0 && stop_at < t->schedule.total ? stop_at : t->schedule.total;
}

static inline bool trainer_report(Trainer *t, StepReport *r, double seconds, Error *err) {
    // The first step is slower, as it starts the threads and touches the memory: the second forgets it.
    t->seconds_per_step = ++t->timed_steps <= 2 ? seconds : 0.9 * t->seconds_per_step + 0.1 * seconds;
    r->seconds_left = t->seconds_per_step * (double)(trainer_last_step(t) - t->step);
    r->tokens_per_second = (double)(t->B * t->T) / seconds;
    bool stays = is_due(t->step, t->settings->log_every) || t->step == 1 || t->step == trainer_last_step(t) ||
                 r->skipped;
    progress_step(&t->progress, r, stays);
    return run_log_step(&t->log, r, err);
}

static inline bool trainer_evaluate(Trainer *t, Error *err) {
    Evaluation e;
    JsonWriter w;
    memset(&w, 0, sizeof w);
    size_t instances = evaluation_instances(&t->validation, t->settings->eval_instances);
    if (!evaluate(&e, t->model, &t->validation, instances, &t->batch, t->micro, objective_z(t->settings),
                  &t->from.text, err)) {
        return false;
    }
    progress_print(&t->progress, "validation at step %lld: loss %.4f, perplexity %.2f", (long long)t->step,
                   e.loss, e.perplexity);
    if (e.bytes > 0) { progress_print(&t->progress, ", bits per byte %.4f", e.bits_per_byte); }
    progress_print(&t->progress, "\n");
    json_begin_object(&w, NULL);
    json_string(&w, "type", "eval");
    json_integer(&w, "step", t->step);
    json_integer(&w, "tokens", trainer_tokens(t));
    json_number(&w, "loss", e.loss);
    json_number(&w, "perplexity", e.perplexity);
    json_number(&w, "bits_per_byte", e.bits_per_byte);
    json_number(&w, "z", e.z);
    json_end_object(&w);
    return run_log_write(&t->log, &w, err);
}

// Writes a text. Its draws depend on the seed and the step alone, so that a resumed run draws the same.
static inline bool trainer_sample(Trainer *t, Error *err) {
    const Settings *s = t->settings;
    SamplerSettings sampler = sampler_settings(s);
    const char *prompt = s->prompt != NULL ? s->prompt : "";
    size_t begin = t->prompt.length;
    JsonWriter text, w;
    memset(&text, 0, sizeof text);
    memset(&w, 0, sizeof w);
    progress_print(&t->progress, "sample at step %lld:\n%s", (long long)t->step, prompt);
    bool ok = generate(t->model, &t->from.text, &t->prompt, trainer_room(t).cache_T, &sampler,
                       (uint64_t)(s->seed + t->step), stdout, err);
    progress_print(&t->progress, "\n");
    json_append_text(&text, prompt);
    for (size_t i = begin; i < t->prompt.length; i++) {
        size_t size = 0;
        const char *piece = tokenizer_piece(&t->from.text.tokenizer, t->prompt.ids[i], &size);
        if (piece != NULL) { json_append(&text, piece, size); }
    }
    t->prompt.length = begin;
    json_begin_object(&w, NULL);
    json_string(&w, "type", "sample");
    json_integer(&w, "step", t->step);
    json_bytes(&w, "text", text.text, text.length);
    json_end_object(&w);
    json_writer_free(&text);
    ok = ok && run_log_write(&t->log, &w, err);
    json_writer_free(&w);
    return ok;
}

static inline bool log_save(Trainer *t, Error *err) {
    JsonWriter w;
    memset(&w, 0, sizeof w);
    json_begin_object(&w, NULL);
    json_string(&w, "type", "save");
    json_integer(&w, "step", t->step);
    json_end_object(&w);
    return run_log_write(&t->log, &w, err) && run_log_sync(&t->log, err);
}

// Saves a checkpoint. The log is written first: if the save comes to nothing, resuming cuts it back.
static inline bool trainer_save(Trainer *t, Error *err) {
    const Settings *s = t->settings;
    char path[PATH_MAX], name[32];
    JsonWriter state;
    memset(&state, 0, sizeof state);
    if (!path_join(path, s->out, run_checkpoint_name(name, t->step), err) || !log_save(t, err)) { return false; }
    state_write(&state, t);
    bool ok = !state.failed || fail(err, "out of memory: the state of a checkpoint");
    const CheckpointParts parts = {&t->from.said, t->from.text.present ? t->from.text.path : NULL, state.text};
    Error warning = {""};
    ok = ok && run_write_checkpoint(t->model, s->out, t->step, &parts, &warning, err);
    json_writer_free(&state);
    if (ok) {
        t->saved_step = t->step;
        progress_print(&t->progress, "saved %s\n", path);
        ok = s->keep == 0 || run_prune(s->out, s->keep, s->keep_every, -1, &warning, err);
    }
    if (warning.text[0] != '\0') { print_message("warning", warning.text); }
    return ok;
}

// ---------------------------------------------------------------------------------------------
// the run

// SIGINT and SIGTERM are not to interrupt a step: they stay pending, and the run looks for them after each.
// To be called before there is a second thread.
static inline void signals_block(void) {
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    sigprocmask(SIG_BLOCK, &signals, NULL);
}

static inline bool stop_requested(void) {
    sigset_t pending;
    return sigpending(&pending) == 0 &&
           (sigismember(&pending, SIGINT) == 1 || sigismember(&pending, SIGTERM) == 1);
}

// The next batch. If its data are bad, what the run has learned so far is saved.
static inline bool trainer_next_batch(Trainer *t, Error *err) {
    Error unsaved;
    if (batch_next(&t->batch, &t->data, t->B, err)) { return true; }
    if (t->step == 0) { return false; }
    if (t->saved_step != t->step && !trainer_save(t, &unsaved)) {
        return fail(err, "%s\n%s", err->text, unsaved.text);
    }
    return fail(err, "%s\nThe run is saved up to step %lld: correct the file and go on by --resume.",
                err->text, (long long)t->step);
}

static inline bool trainer_run(Trainer *t, Error *err) {
    const Settings *s = t->settings;
    Profile *profile = olmo2_profile(t->model);
    int64_t last = trainer_last_step(t);
    while (t->step < last && !stop_requested()) {
        StepReport report;
        double start = seconds_now();
        if (s->profile && t->timed_steps == 1) {
            profile_reset(profile);
        }  // the first is slower: the second forgets it
        if (s->profile) { profile_start(profile); }
        if (!trainer_next_batch(t, err) || !trainer_step(t, &report, err) ||
            !trainer_report(t, &report, seconds_now() - start, err)) {
            return false;
        }
        if (s->profile) { profile_stop(profile); }
        bool final = t->step == t->schedule.total;
        bool evaluates = t->validation.file_count > 0 && (is_due(t->step, s->eval_every) || final);
        bool samples = is_due(t->step, s->sample_every) || (s->sample_every > 0 && final);
        bool saves = is_due(t->step, s->save_every) || final;
        if ((evaluates && !trainer_evaluate(t, err)) || (samples && !trainer_sample(t, err)) ||
            (saves && !trainer_save(t, err))) {
            return false;
        }
    }
    return t->saved_step == t->step || trainer_save(t, err);
}

// The word as one types it for a shell: in quotes if it holds anything that a shell might take for its own.
static inline const char *shell_word(char quoted[4 * PATH_MAX], const char *word) {
    const char *plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=./,:@%";
    if (word[0] != '\0' && word[strspn(word, plain)] == '\0') { return word; }
    char *out = quoted;
    *out++ = '\'';
    for (; *word != '\0' && out < quoted + 4 * PATH_MAX - 6; word++) {
        if (*word == '\'') { out = stpcpy(out, "'\\'"); }
        *out++ = *word;
    }
    strcpy(out, "'");
    return quoted;
}

static inline void trainer_print_end(Trainer *t) {
    const char *run = t->settings->out;
    char program[4 * PATH_MAX], directory[4 * PATH_MAX];
    if (t->settings->profile) {
        progress_print(&t->progress, "\n");
        profile_print(olmo2_profile(t->model), stdout);
        progress_print(&t->progress, "\n");
    }
    if (t->step >= t->schedule.total) {
        progress_print(&t->progress, "%s: complete, %lld steps\n", run, (long long)t->step);
    } else {
        progress_print(&t->progress, "stopped at step %lld of %lld; to go on:\n%s train --resume %s\n",
                       (long long)t->step, (long long)t->schedule.total, shell_word(program, t->program),
                       shell_word(directory, run));
    }
}

static inline bool command_train(const char *program, Settings *settings, const Command *command, int argc,
                                 char **argv, Error *err) {
    Trainer t;
    memset(&t, 0, sizeof t);
    t.program = program;
    t.settings = settings;
    t.lock = -1;
    t.saved_step = -1;
    t.progress.terminal = isatty(STDOUT_FILENO) == 1;
    if (settings->dry_run) {
        bool planned = trainer_dry_run(&t, err);
        trainer_close(&t);
        return planned;
    }
    signals_block();
    bool ok = trainer_open(&t, command, argc, argv, err) && trainer_run(&t, err);
    if (ok) { trainer_print_end(&t); }
    trainer_close(&t);
    return ok;
}

// ---------------------------------------------------------------------------------------------
// main

static inline bool run_command(const char *program, Settings *s, const Command *command, int argc,
                               char **argv, Error *err) {
    if (!settings_init(s, command, err) || !flags_parse(s, command, argc, argv, err)) { return false; }
    if (s->help) {
        flags_help(stdout, program, command);
        return true;
    }
    set_threads(s);
    switch (command->bit) {
    case TRAIN: return command_train(program, s, command, argc, argv, err);
    case GENERATE: return command_generate(s, err);
    case EVAL: return command_eval(s, err);
    case SOUP: return command_soup(s, err);
    case TOKENIZE: return command_tokenize(s, err);
    case DETOKENIZE: return command_detokenize(s, err);
    default: return command_inspect(s, err);
    }
}

static inline const Command *find_command(const char *name, Error *err) {
    const Command *command = command_find(name);
    char names[128] = "", nearest[64];
    for (int i = 0; i < COMMANDS; i++) {
        snprintf(names + strlen(names), sizeof names - strlen(names), "%s%s", i > 0 ? "|" : "",
                 commands[i].name);
    }
    if (command == NULL) {
        find_word(names, name, nearest);
        fail(err, "%s: no such command; did you mean %s?", name, nearest);
    }
    return command;
}

// The whole program: the first argument is a command, the others are its own. Returns the exit code.
static inline int trainer_main(int argc, char **argv) {
    Error err;
    Settings settings;
    signal(SIGXFSZ, SIG_IGN);  // a file that may not grow is an error of write, not the end of the program
    memset(&settings, 0, sizeof settings);
    if (argc < 2 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        program_help(argc < 2 ? stderr : stdout, argv[0]);
        return argc < 2;
    }
    const Command *command = find_command(argv[1], &err);
    bool ok = command != NULL && run_command(argv[0], &settings, command, argc - 2, argv + 2, &err);
    if (!ok) { print_message("error", err.text); }
    settings_free(&settings);
    return ok ? 0 : 1;
}

#endif
