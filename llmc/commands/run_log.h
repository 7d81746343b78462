// run_log.h: the lines of a run's log.jsonl besides its steps (log.h). Every function appends one line.
//
//   log_plan         the first line: the plan
//   log_resume       what --resume changed
//   log_evaluation   a validation
//   log_sample       a sample's prompt and text
//   log_save         a checkpoint; also syncs the log
#ifndef LLMC_COMMANDS_RUN_LOG_H
#define LLMC_COMMANDS_RUN_LOG_H

#include "plan.h"

static inline bool log_plan(RunLog *log, const Plan *plan, Error *err) {
    const OLMo2Config *config = plan_config(plan);
    char backend[128];
    JsonWriter w;
    memset(&w, 0, sizeof w);
    olmo2_describe(&plan->room, &plan->form, backend, sizeof backend);
    json_begin_object(&w, NULL);
    json_string(&w, "type", "run");
    json_string(&w, "backend", backend);
    json_integer(&w, "parameters", (int64_t)parameter_total(config));
    json_integer(&w, "parameters_without_embeddings", (int64_t)parameter_total_without_embeddings(config));
    json_integer(&w, "memory_bytes", (int64_t)olmo2_memory(config, &plan->room, &plan->form).total);
    json_integer(&w, "tokens_per_step", (int64_t)(plan->B * plan->T));
    json_integer(&w, "steps", plan->schedule.total);
    settings_write(&w, "settings", &plan->settings);
    json_end_object(&w);
    return run_log_write(log, &w, err);
}

static inline bool log_resume(RunLog *log, const Plan *plan, int64_t step, Error *err) {
    JsonWriter w;
    memset(&w, 0, sizeof w);
    json_begin_object(&w, NULL);
    json_string(&w, "type", "resume");
    json_integer(&w, "step", step);
    json_string(&w, "changed", plan->changed);
    settings_write(&w, "settings", &plan->settings);
    json_end_object(&w);
    return run_log_write(log, &w, err);
}

static inline bool log_evaluation(RunLog *log, const Plan *plan, int64_t step, const Evaluation *e,
                                  Error *err) {
    JsonWriter w;
    memset(&w, 0, sizeof w);
    json_begin_object(&w, NULL);
    json_string(&w, "type", "eval");
    json_integer(&w, "step", step);
    json_integer(&w, "tokens", step * (int64_t)(plan->B * plan->T));
    json_number(&w, "loss", e->loss);
    json_number(&w, "perplexity", e->perplexity);
    json_number(&w, "bits_per_byte", e->bits_per_byte);
    json_number(&w, "z", e->z);
    json_end_object(&w);
    return run_log_write(log, &w, err);
}

// The text is the prompt and what the model wrote (size bytes).
static inline bool log_sample(RunLog *log, int64_t step, const char *prompt, const char *bytes, size_t size,
                              Error *err) {
    JsonWriter text, w;
    memset(&text, 0, sizeof text);
    memset(&w, 0, sizeof w);
    json_append_text(&text, prompt);
    json_append(&text, bytes, size);
    json_begin_object(&w, NULL);
    json_string(&w, "type", "sample");
    json_integer(&w, "step", step);
    json_bytes(&w, "text", text.text, text.length);
    json_end_object(&w);
    json_writer_free(&text);
    return run_log_write(log, &w, err);
}

static inline bool log_save(RunLog *log, int64_t step, Error *err) {
    JsonWriter w;
    memset(&w, 0, sizeof w);
    json_begin_object(&w, NULL);
    json_string(&w, "type", "save");
    json_integer(&w, "step", step);
    json_end_object(&w);
    if (!run_log_write(log, &w, err)) { return false; }
    return run_log_sync(log, err);
}

#endif
