// run.h: what comes before and after the gradient of a step. It knows no objective: the loop in train.h owns
// the middle of the step, as the loops of other stages will own theirs.
//
//   run_begin(plan)            the run's directory, its model and its data, new or as a checkpoint left them
//   run_goes_on(run)           whether there is another step to do
//   run_next_batch(run)        the next sequences, in run->batch
//   run_update(run, step)      the gradient's norm; then skip the step, or clip and let AdamW update
//   run_record(run, step)      a line on the screen and in log.jsonl
//   run_is_due(run, every)     whether something that happens every N steps happens now
//   run_evaluate, run_sample, run_save
//   run_end(run)               the last checkpoint, and how to resume if there is more to do
//
// These functions end the program with a message when they fail (must.h). The run's directory is complete at
// every moment, so --resume continues from the last checkpoint. Functions named try_ return an error instead.
#ifndef LLMC_COMMANDS_RUN_H
#define LLMC_COMMANDS_RUN_H

#include "model.h"
#include "run_log.h"
#include "signals.h"
#include "llmc/initialize.h"
#include "llmc/profile.h"

// After this many steps in a row whose loss or gradient norm is not finite a run ends: its weights are lost.
enum { NONFINITE_MOST = 10 };

typedef struct {
    Plan *plan;
    OLMo2 *model;
    Batch batch;  // (B, T): a whole step
    RunState state;

    RunLog log;
    Progress progress;
    int64_t saved_step;       // of the newest checkpoint; -1 for none
    double step_begin;        // the time at which the step began
    int64_t timed_steps;      // since the program's start
    double seconds_per_step;  // a running average over them
} Run;

static inline bool try_save(Run *run, Error *err);

// ---------------------------------------------------------------------------------------------
// before the first step

// Sets the counters and the place in the data to those of the checkpoint.
static inline bool restore_state(Run *run, Error *err) {
    Plan *plan = run->plan;
    RunState *state = &run->state;
    if (!run_state_read(state, &plan->saved, err)) { return false; }
    const int64_t named = run_checkpoint_step(strrchr(plan->saved.checkpoint, '/') + 1);
    if (state->step != named) {
        return fail(err,
                    "%s: \"step\" is %lld, its directory says %lld: give the directory its own name back",
                    plan->saved.path, (long long)state->step, (long long)named);
    }
    run->saved_step = state->step;
    if (state->step > plan->schedule.total) {
        return fail(err, "--steps %lld: the run has made %lld steps", (long long)plan->schedule.total,
                    (long long)state->step);
    }
    if (plan->settings.stop_at > 0 && plan->settings.stop_at < state->step) {
        return fail(err, "--stop-at %lld: the run has made %lld steps", (long long)plan->settings.stop_at,
                    (long long)state->step);
    }
    if (plan->settings.accept_changed_data == ON) {
        dataloader_continue(&plan->data, &state->order);
        state->order = plan->data.order.state;
        return true;
    }
    return dataloader_restore(&plan->data, &state->order, err);
}

// AdamW's step count from the checkpoint of another run.
static inline bool load_updates(Run *run, Error *err) {
    SavedState saved;
    if (!saved_state_open(&saved, run->plan->source.dir, err)) { return false; }
    bool ok = state_read_count(saved.json.root, "updates", true, &run->state.updates, saved.path, err);
    json_free(&saved.json);
    return ok;
}

// Creates the model. A new one gets its first weights; one from a checkpoint may also get the optimizer.
static inline bool create_model(Run *run, Error *err) {
    const Plan *plan = run->plan;
    const char *source = plan->source.dir;
    if (!olmo2_create(&run->model, plan_config(plan), &plan->room, &plan->form, err)) { return false; }
    if (plan->settings.profile == ON && olmo2_profile(run->model) == NULL) {
        return fail(
            err, "--profile: this is the CUDA program, whose functions return before the GPU has done their "
                 "work; use `nsys profile`, or time the kernels one by one with dev/cuda");
    }
    if (source[0] == '\0') { return initialize_weights(run->model, (uint64_t)plan->settings.seed, err); }
    Meter meter = meter_begin_bytes("weights");
    bool ok = checkpoint_load_weights(run->model, source, meter_heard, &meter, err);
    meter_end(&meter);
    if (!ok || (!plan->resumes && plan->settings.load_optimizer != ON)) { return ok; }
    meter = meter_begin_bytes("AdamW's moments");
    ok = checkpoint_load_optimizer(run->model, source, meter_heard, &meter, err);
    meter_end(&meter);
    return ok && (plan->resumes || load_updates(run, err));
}

// A new run must not use the directory of another run.
static inline bool check_unused(const char *run, Error *err) {
    char log[PATH_MAX], config[PATH_MAX];
    int64_t *steps = NULL;
    size_t count = 0;
    if (!path_join(log, run, "log.jsonl", err)) { return false; }
    if (!run_list(run, &steps, &count, err)) { return false; }
    free(steps);
    if (count > 0) {
        return fail(
            err, "--out %s: holds another run; choose another directory, or resume that run with --resume %s",
            run, run);
    }
    if (!path_join(config, run, "config.json", err)) { return false; }
    if (path_exists(config)) {
        return fail(
            err,
            "--out %s: holds a config.json, so commands would take it for that model and not for this "
            "run; choose another directory",
            run);
    }
    if (access(log, F_OK) != 0) { return true; }
    return fail(err,
                "--out %s: holds the log of a run that ended before its first checkpoint; remove %s to begin "
                "again",
                run, log);
}

// Makes an existing directory this new run's own.
static inline bool claim_directory(Plan *plan, Error *err) {
    Error warning = {""};
    if (plan->lock < 0) {
        if (!directory_lock(plan->settings.out, &plan->lock, &warning, err)) { return false; }
        warn(&warning);
    }
    return check_unused(plan->settings.out, err);
}

// Copies the tokenizer to RUN/tokenizer, from which every checkpoint copies it: the original files may move
// during the run.
static inline bool keep_tokenizer(Plan *plan, Error *err) {
    Text *text = &plan->source.text;
    Error warning = {""};
    if (!text->present) { return true; }
    if (!run_keep_tokenizer(plan->settings.out, plan_config(plan), text->path, &warning, err)) {
        return false;
    }
    warn(&warning);
    return true;
}

static inline bool enter_directory(Run *run, Error *err) {
    Plan *plan = run->plan;
    const char *out = plan->settings.out;
    Error warning = {""};
    bool fresh;
    if (!plan->resumes) {
        if (!directory_create(out, err)) { return false; }
        if (!claim_directory(plan, err)) { return false; }
    }
    if (!run_clean(out, &warning, err)) { return false; }
    warn(&warning);
    if (!keep_tokenizer(plan, err)) { return false; }
    if (!run_log_open(&run->log, out, run->state.step, &fresh, err)) { return false; }
    if (fresh) { return log_plan(&run->log, plan, err); }
    return plan->changed[0] == '\0' || log_resume(&run->log, plan, run->state.step, err);
}

// All input is checked before anything is written, except the ids of the training data: scanning terabytes
// takes hours, so each batch is checked as it is read.
static inline Run run_begin(Plan *plan) {
    Error err;
    Run run;
    memset(&run, 0, sizeof run);
    run.plan = plan;
    run.saved_step = run.state.finite_checkpoint = -1;
    run.progress.terminal = isatty(STDOUT_FILENO) == 1;
    // What can be refused at once is refused before a large model is loaded.
    if (plan->resumes) {
        must(restore_state(&run, &err), &err);
    } else if (path_exists(plan->settings.out)) {
        must(claim_directory(plan, &err), &err);
    }
    must(batch_create(&run.batch, plan->B, plan->T, &err), &err);
    must(create_model(&run, &err), &err);
    must(enter_directory(&run, &err), &err);
    signals_catch();
    return run;
}

// ---------------------------------------------------------------------------------------------
// a step

// If standard output cannot be written, because its reader has exited or its disk is full, the run saves and
// ends as after a signal.
static inline bool run_goes_on(const Run *run) {
    return run->state.step < run->plan->last && !stop_requested && !ferror(stdout);
}

// Saves the steps that were made, then ends the program with the message.
static inline void end_saved(Run *run, const char *advice, Error *err) {
    Error unsaved;
    if (run->state.step == 0) { must(false, err); }
    if (run->saved_step != run->state.step && !try_save(run, &unsaved)) {
        fail(err, "%s\n%s", err->text, unsaved.text);
        must(false, err);
    }
    fail(err, "%s\nThe run is saved up to step %lld%s", err->text, (long long)run->state.step, advice);
    must(false, err);
}

static inline void run_next_batch(Run *run) {
    DataLoader *data = &run->plan->data;
    Error err;
    run->state.order = data->order.state;
    run->step_begin = seconds_now();
    if (run->timed_steps == 1) { profile_reset(olmo2_profile(run->model)); }  // the first step is slower
    if (run->plan->settings.profile == ON) { profile_start(olmo2_profile(run->model)); }
    if (!batch_next(&run->batch, data, run->plan->B, &err)) {
        end_saved(run, ": correct the file and resume with --resume and --accept-changed-data.", &err);
    }
}

// One AdamW update with the gradient clipped to the norm that the settings allow.
static inline void update_weights(Run *run, const StepReport *r) {
    OLMo2AdamW adamw = run->plan->adamw;
    const double clip = run->plan->settings.clip;
    run->state.updates++;
    adamw.lr = (float)r->lr;
    adamw.gradient_scale = clip > 0.0 ? (float)fmin(1.0, clip / (r->gradient_norm + 1e-6)) : 1.0f;
    adamw.t = run->state.updates;
    olmo2_update(run->model, &adamw);
}

// The error of a run whose steps are no longer finite.
static inline void not_finite(const Run *run, const StepReport *r, bool skips, Error *err) {
    const long long good = run->state.finite_checkpoint;
    char loss[32], norm[32], row[64] = "", checkpoint[128] = "";
    if (skips) { snprintf(row, sizeof row, ", and so it was in %d steps in a row", NONFINITE_MOST); }
    if (good >= 0) {
        snprintf(checkpoint, sizeof checkpoint, " The newest checkpoint known to be good is step %lld.",
                 good);
    }
    fail(err,
         "step %lld: the loss is %s and the gradient norm %s%s; an update would destroy the weights\n"
         "Try a smaller --lr%s.%s",
         (long long)r->step, format_fixed(loss, r->objective, 12, 4),
         format_fixed(norm, r->gradient_norm, 12, 4), row, skips ? "" : ", or --skip-step on", checkpoint);
}

// Ends a run whose loss or gradient norm is not finite. If such steps are skipped, it ends after
// NONFINITE_MOST in a row; if not, it ends at once and saves the steps before. A checkpoint that a finite
// step has followed is known to be good; the newest such one is never pruned.
static inline void check_finite(Run *run, const StepReport *r) {
    RunState *state = &run->state;
    const bool skips = run->plan->settings.skip_step == ON;
    Error err;
    if (isfinite(r->objective) && isfinite(r->gradient_norm)) {
        state->nonfinite = 0;
        state->finite_checkpoint = run->saved_step;
        return;
    }
    state->nonfinite++;
    if (skips && state->nonfinite < NONFINITE_MOST) { return; }
    not_finite(run, r, skips, &err);
    if (skips) { must(false, &err); }
    state->step--;
    end_saved(run, ".", &err);
}

// A skipped step advances the counters, the learning rate and the data, but not AdamW's own step count.
static inline void run_update(Run *run, StepReport *r) {
    RunState *state = &run->state;
    const Plan *plan = run->plan;
    state->step++;
    r->step = state->step;
    r->tokens = state->step * (int64_t)(plan->B * plan->T);
    r->gradient_norm = olmo2_gradient_norm(run->model);
    r->lr = schedule_lr(&plan->schedule, state->step);
    for (size_t b = 0; b < plan->B; b++) { r->masked += run->batch.filtered[b]; }
    check_finite(run, r);
    state->labelled = state->labelled || r->labels > 0;
    r->skipped = r->labels == 0;
    if (!r->skipped && plan->settings.skip_step == ON) {
        r->skipped = skip_step(&state->skip, r->objective, r->gradient_norm);
    }
    if (!r->skipped) { update_weights(run, r); }
    state->order = run->plan->data.order.state;
}

static inline bool is_multiple(int64_t step, int64_t every) { return every > 0 && step % every == 0; }

static inline void run_record(Run *run, StepReport *r) {
    const Plan *plan = run->plan;
    const double seconds = seconds_now() - run->step_begin;
    Error err;
    // The first step is slower, as it starts the threads and touches the memory: the second forgets it.
    run->seconds_per_step = ++run->timed_steps <= 2 ? seconds : 0.9 * run->seconds_per_step + 0.1 * seconds;
    r->seconds_left = run->seconds_per_step * (double)(plan->last - r->step);
    r->tokens_per_second = (double)(plan->B * plan->T) / seconds;
    bool stays =
        is_multiple(r->step, plan->settings.log_every) || r->step == 1 || r->step == plan->last || r->skipped;
    progress_step(&run->progress, r, stays);
    must(run_log_step(&run->log, r, &err), &err);
    profile_stop(olmo2_profile(run->model));
}

// ---------------------------------------------------------------------------------------------
// once in a while: validate, sample, save

// Every N steps, and after the last step of the run.
static inline bool run_is_due(const Run *run, int64_t every) {
    return is_multiple(run->state.step, every) || run->state.step == run->plan->schedule.total;
}

static inline void run_evaluate(Run *run) {
    Plan *plan = run->plan;
    DataLoader *validation = &plan->validation;
    Evaluation e;
    Error err;
    size_t instances = evaluation_instances(validation, plan->settings.eval_instances);
    if (!evaluate(&e, run->model, validation, instances, &run->batch, plan->micro, plan->z,
                  &plan->source.text, until_stopped, NULL, &err)) {
        end_saved(run, ": correct the file and resume with --resume.", &err);
    }
    if (e.labels == 0) { return; }  // a signal came
    progress_print(&run->progress, "validation at step %lld: loss %.4f, perplexity %.2f",
                   (long long)run->state.step, e.loss, e.perplexity);
    if (e.bytes > 0) { progress_print(&run->progress, ", bits per byte %.4f", e.bits_per_byte); }
    progress_print(&run->progress, "\n");
    must(log_evaluation(&run->log, plan, run->state.step, &e, &err), &err);
}

static inline bool keep_sample(void *context, const EngineText *text, Error *err) {
    Run *run = (Run *)context;
    const char *prompt = run->plan->settings.prompt != NULL ? run->plan->settings.prompt : "";
    if (text->end == END_INTERRUPTED) { return true; }
    must(log_sample(&run->log, run->state.step, prompt, text->bytes, text->size, err), err);
    return true;
}

static inline bool try_sample(Run *run, Error *err) {
    const Plan *plan = run->plan;
    const EngineSettings settings = {
        plan->sampler, (uint64_t)plan->settings.seed, (size_t)plan->settings.max_tokens, NULL, 0, false};
    const EnginePrompt prompt = {plan->prompt.ids, plan->prompt.length, 1, (uint64_t)run->state.step,
                                 "the sample"};
    const EngineReader reader = {run, model_print_token, keep_sample};
    Engine engine;
    if (!engine_open(&engine, run->model, &plan->room, &plan->source.text, err)) { return false; }
    const bool ok = engine_run(&engine, &prompt, 1, &settings, &reader, &stop_requested, err);
    engine_close(&engine);
    return ok;
}

// Writes a sample. Its draws depend only on the seed and the step, so a resumed run draws the same. If the
// sample cannot be written to the screen, the run saves and ends at the next step.
static inline void run_sample(Run *run) {
    const char *prompt = run->plan->settings.prompt != NULL ? run->plan->settings.prompt : "";
    Error err;
    progress_print(&run->progress, "sample at step %lld:\n%s", (long long)run->state.step, prompt);
    const bool ok = try_sample(run, &err);
    progress_print(&run->progress, "\n");
    if (!ok && !ferror(stdout)) { print_message("warning", err.text); }
}

static inline bool save_checkpoint(Run *run, Error *err) {
    Plan *plan = run->plan;
    Error warning = {""};
    const Text *text = &plan->source.text;
    CheckpointParts parts = {&plan->source.said, text->present ? text->path : NULL, NULL};
    JsonWriter state;
    memset(&state, 0, sizeof state);
    run_state_write(&state, &run->state, &plan->settings, &plan->data);
    bool ok = !state.failed || fail(err, "out of memory: the state of a checkpoint");
    if (ok) {
        parts.state = state.text;
        ok = run_write_checkpoint(run->model, plan->settings.out, run->state.step, &parts, &warning, err);
    }
    warn(&warning);
    json_writer_free(&state);
    return ok;
}

// The log is written before the checkpoint: if the save fails, resuming cuts the log back.
static inline bool try_save(Run *run, Error *err) {
    const Settings *s = &run->plan->settings;
    Error warning = {""};
    char path[PATH_MAX], name[32];
    if (!path_join(path, s->out, run_checkpoint_name(name, run->state.step), err)) { return false; }
    if (!log_save(&run->log, run->state.step, err)) { return false; }
    if (!save_checkpoint(run, err)) { return false; }
    run->saved_step = run->state.step;
    progress_print(&run->progress, "saved %s\n", path);
    if (s->keep == 0) { return true; }
    bool pruned = run_prune(s->out, s->keep, s->keep_every, run->state.finite_checkpoint, &warning, err);
    warn(&warning);
    return pruned;
}

static inline void run_save(Run *run) {
    Error err;
    must(try_save(run, &err), &err);
}

// ---------------------------------------------------------------------------------------------
// the end

// The word as it is typed in a shell: quoted if it contains anything that a shell might interpret.
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

static inline void print_end(Run *run) {
    const Plan *plan = run->plan;
    const long long step = run->state.step, total = plan->schedule.total;
    char program[4 * PATH_MAX], directory[4 * PATH_MAX];
    if (plan->settings.profile == ON) {
        progress_print(&run->progress, "\n");
        profile_print(olmo2_profile(run->model), stdout);
        progress_print(&run->progress, "\n");
    }
    if (step >= total) {
        progress_print(&run->progress, "%s: complete, %lld steps\n", plan->settings.out, step);
        return;
    }
    progress_print(&run->progress, "stopped at step %lld of %lld; to resume:\n%s train --resume %s\n", step,
                   total, shell_word(program, plan->program), shell_word(directory, plan->settings.out));
}

static inline void run_free(Run *run) {
    run_log_close(&run->log);
    batch_free(&run->batch);
    olmo2_free(run->model);
}

// Frees the run. Its plan stays.
static inline void run_end(Run *run) {
    const Plan *plan = run->plan;
    Error err;
    // A resumed run that made no step, perhaps because a signal came at once, also keeps its new settings.
    const bool unsaved = run->timed_steps == 0 && plan->anew;
    if (run->saved_step != run->state.step || unsaved) { run_save(run); }
    if (run->state.step >= plan->schedule.total && !run->state.labelled) {
        fail(&err,
             "%s: no step of the run had a label: every token is masked or was filtered, and nothing was "
             "learned; look at FILE.mask beside the token files, or try --instance-filter off",
             plan->settings.out);
        must(false, &err);
    }
    print_end(run);
    if (ferror(stdout) && run->state.step < plan->last) {
        fail(&err,
             "standard output cannot be written, so the run stopped at step %lld of %lld; it is saved: "
             "resume it with --resume %s",
             (long long)run->state.step, (long long)plan->schedule.total, plan->settings.out);
        must(false, &err);
    }
    run_free(run);
}

#endif
