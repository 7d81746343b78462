// run_state.h: what a checkpoint keeps of a run besides the model and the optimizer, in trainer/state.json.
//
//   saved_state_open    the state.json of a checkpoint
//   run_state_read      its counters, its place in the data, its windows of skip-step
//   run_state_write     all of it, and the settings of the run
//   state_read_count    one counter
#ifndef LLMC_COMMANDS_RUN_STATE_H
#define LLMC_COMMANDS_RUN_STATE_H

#include "llmc/checkpoint.h"
#include "llmc/dataloader.h"
#include "llmc/settings_json.h"
#include "llmc/stability.h"

// The format of state.json. Version 1 has no "version"; it lacks "nonfinite", "finite_checkpoint", "labelled"
// and the fingerprint of the data, and has null for settings that were not given.
enum { STATE_VERSION = 2 };

typedef struct {
    int64_t step;               // steps done
    int64_t updates;            // of the weights: a skipped step makes none
    int64_t nonfinite;          // the last steps in a row whose loss or gradient norm was not finite
    int64_t finite_checkpoint;  // the newest checkpoint that a finite step has followed; -1 for none
    bool labelled;              // some step had a label
    OrderState order;           // the place in the training data
    SkipStep skip;
} RunState;

// A state.json that was read. Release with json_free(&saved.json).
typedef struct {
    char checkpoint[PATH_MAX];  // the directory
    char path[PATH_MAX];        // of its state.json
    JsonDocument json;
    int64_t version;
} SavedState;

static inline bool state_read_count(const Json *object, const char *key, bool required, int64_t *out,
                                    const char *source, Error *err) {
    const size_t largest = 10000000000000000;  // far above any counter here, far below an overflow
    size_t value = (size_t)*out;
    if (!json_get_size(object, key, required, &value, source, err)) { return false; }
    *out = (int64_t)value;
    if (json_member(object, key) == NULL || value <= largest) { return true; }
    return fail(err, "%s: \"%s\" is %zu, expected at most %zu", source, key, value, largest);
}

static inline bool saved_state_open(SavedState *saved, const char *checkpoint, Error *err) {
    memset(saved, 0, sizeof *saved);
    snprintf(saved->checkpoint, sizeof saved->checkpoint, "%s", checkpoint);
    if (!path_join(saved->path, checkpoint, "trainer/state.json", err)) { return false; }
    if (!json_parse_file(&saved->json, saved->path, err)) { return false; }
    saved->version = 1;
    if (!state_read_count(saved->json.root, "version", false, &saved->version, saved->path, err)) {
        return false;
    }
    if (saved->version <= STATE_VERSION) { return true; }
    return fail(err,
                "%s: has version %lld, this program reads up to %d: resume the run with the version of the "
                "program that saved it, or start a new run from its model with --load",
                saved->path, (long long)saved->version, STATE_VERSION);
}

static inline bool state_read_window(RollingWindow *window, const Json *skip, const char *key,
                                     const char *source, Error *err) {
    const Json *values = json_member(skip, key);
    window->count = 0;
    if (values == NULL || values->type != JSON_ARRAY || values->count > STABILITY_WINDOW) {
        return fail(err, "%s: \"skip_step\" \"%s\": expected a list of at most %d numbers", source, key,
                    STABILITY_WINDOW);
    }
    for (const Json *value = json_first(values); value != NULL; value = json_next(value)) {
        if (value->type != JSON_NUMBER) {
            return fail(err, "%s: \"skip_step\" \"%s\": expected a list of numbers", source, key);
        }
        window_push(window, value->number);
    }
    return true;
}

static inline bool run_state_read(RunState *state, const SavedState *saved, Error *err) {
    const Json *root = saved->json.root, *finite = json_member(root, "finite_checkpoint");
    const char *source = saved->path;
    memset(state, 0, sizeof *state);
    state->finite_checkpoint = -1;
    state->labelled = true;
    if (!state_read_count(root, "step", true, &state->step, source, err)) { return false; }
    if (!state_read_count(root, "updates", true, &state->updates, source, err)) { return false; }
    if (!state_read_count(root, "nonfinite", false, &state->nonfinite, source, err)) { return false; }
    if (!json_get_bool(root, "labelled", false, &state->labelled, source, err)) { return false; }
    if (finite != NULL && finite->type != JSON_NULL &&
        !state_read_count(root, "finite_checkpoint", true, &state->finite_checkpoint, source, err)) {
        return false;
    }
    if (!order_read(&state->order, json_member(root, "loader"), source, err)) { return false; }
    const Json *skip = json_member(root, "skip_step");
    if (!state_read_window(&state->skip.losses, skip, "losses", source, err)) { return false; }
    return state_read_window(&state->skip.norms, skip, "norms", source, err);
}

static inline void state_write_window(JsonWriter *w, const char *key, const RollingWindow *window) {
    json_begin_array(w, key);
    for (size_t i = 0; i < window->count; i++) { json_number(w, NULL, window->values[i]); }
    json_end_array(w);
}

// The text of trainer/state.json. `settings` have no holes (plan.h).
static inline void run_state_write(JsonWriter *w, const RunState *state, const Settings *settings,
                                   const DataLoader *data) {
    json_begin_object(w, NULL);
    json_integer(w, "version", STATE_VERSION);
    json_integer(w, "step", state->step);
    json_integer(w, "updates", state->updates);
    json_integer(w, "nonfinite", state->nonfinite);
    if (state->finite_checkpoint < 0) {
        json_null(w, "finite_checkpoint");
    } else {
        json_integer(w, "finite_checkpoint", state->finite_checkpoint);
    }
    json_bool(w, "labelled", state->labelled);
    order_write(w, "loader", &state->order);
    dataloader_fingerprint_write(w, "data", data);
    json_begin_object(w, "skip_step");
    state_write_window(w, "losses", &state->skip.losses);
    state_write_window(w, "norms", &state->skip.norms);
    json_end_object(w);
    settings_write(w, "settings", settings);
    json_end_object(w);
}

#endif
