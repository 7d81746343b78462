// inspect.h: the command `inspect`: what a model, a file of tensors or a run holds.
#ifndef LLMC_COMMANDS_INSPECT_H
#define LLMC_COMMANDS_INSPECT_H

#include "describe.h"
#include "llmc/batch.h"
#include "llmc/log.h"
#include "llmc/run_checkpoints.h"
#include "llmc/settings.h"
#include "llmc/stability.h"
#include "must.h"

static inline void print_memory_plan(const OLMo2Config *config, size_t B, size_t T) {
    const OLMo2Room training = olmo2_room_to_train(B, T), writing = olmo2_room_to_extend(1, T, 1);
    const OLMo2Form form = olmo2_form();
    OLMo2Memory memory = olmo2_memory(config, &training, &form);
    printf("to train       %zu sequences of %zu tokens at once:\n%15s", B, T, "");
    print_memory(&memory);
    memory = olmo2_memory(config, &writing, &form);
    printf("to generate    %zu tokens:\n%15s", T, "");
    print_memory(&memory);
}

// The tensors of a .safetensors file or a model directory.
static inline void print_tensors(const char *path) {
    Error err;
    Safetensors st;
    char shape[192];
    size_t total = 0;
    must(safetensors_open(&st, path, &err), &err);
    for (size_t i = 0; i < st.count; i++) {
        const SafetensorsTensor *t = &st.tensors[i];
        printf("%-56s %-5s %s\n", t->name, safetensors_dtypes[t->dtype].name,
               shape_text(shape, t->shape, t->rank));
        total += t->count;
    }
    printf("%zu tensors, %zu numbers\n", st.count, total);
    safetensors_close(&st);
}

static inline void print_stability(const RunHistory *history) {
    double loss_score, norm_score;
    Error err;
    must(spike_score(&loss_score, history->losses, history->count, &err), &err);
    must(spike_score(&norm_score, history->norms, history->count, &err), &err);
    StabilityMonitor *monitor =
        (StabilityMonitor *)allocate(1, sizeof *monitor, "the monitor of a run's stability", &err);
    must(monitor != NULL, &err);
    for (size_t i = 0; i < history->count; i++) {
        monitor_step(monitor, history->losses[i], history->norms[i]);
    }
    printf("run            %zu steps with a loss, %zu of them skipped\n", history->count, history->skipped);
    printf("spike score    loss %.6f, gradient norm %.6f\n", loss_score, norm_score);
    printf("monitor        %.6f of all steps, %.6f of the last %d\n", monitor_total_score(monitor),
           monitor_running_score(monitor), MONITOR_STEPS);
    free(monitor);
}

// How stable a run was, if this is the directory of one.
static inline void inspect_run(const char *run) {
    Error err;
    char path[PATH_MAX];
    RunHistory history;
    must(path_join(path, run, "log.jsonl", &err), &err);
    if (!path_is_file(path)) { return; }
    must(run_history_read(&history, path, &err), &err);
    print_stability(&history);
    run_history_free(&history);
}

static inline void inspect(const Settings *s) {
    const char *path = s->inputs.items[0];
    const size_t B = (size_t)s->batch_size;
    char dir[PATH_MAX] = "";
    OLMo2Config config;
    Error err, warning = {""};
    ConfigFiles said;
    if (ends_with(path, ".safetensors")) {
        print_tensors(path);
        return;
    }
    if (path_is_directory(path)) {
        must(run_resolve(dir, path, &warning, &err), &err);
        must(config_read_directory(&config, &said, dir, &warning, &err), &err);
        config_files_free(&said);
    } else if (!olmo2_preset(&config, path)) {
        must(config_read(&config, path, &warning, &err), &err);
    }
    warn(&warning);
    const size_t T = (size_t)given(s->seq_len, (int64_t)config.max_T);
    must(check_batch(&config, B, T, &err), &err);
    printf("model          %s\n", dir[0] != '\0' ? dir : path);
    print_config(&config);
    print_parameters(&config);
    print_memory_plan(&config, B, T);
    if (dir[0] == '\0') { return; }
    inspect_run(path);
    printf("\n");
    print_tensors(dir);
}

#endif
