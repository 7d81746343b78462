// inspect.h: the command `inspect`: what a model, a file of tensors or a run holds.
#ifndef LLMC_COMMANDS_INSPECT_H
#define LLMC_COMMANDS_INSPECT_H

#include "describe.h"
#include "llmc/batch.h"
#include "llmc/log.h"
#include "llmc/run_checkpoints.h"
#include "llmc/settings.h"
#include "llmc/stability.h"
#include "llmc/weights.h"
#include "must.h"

// The memory of a model that is trained, and of one that writes a text with the weights of its directory
// (empty for none) as they lie there.
static inline void print_memory_plan(const OLMo2Config *config, const char *dir, size_t B, size_t T) {
    const OLMo2Room training = olmo2_room_to_train(B, T), writing = olmo2_room_to_extend(1, T, 1);
    Weights w;
    Error unsaid;  // print_tensors says what is wrong with the files
    char text[160], bytes[32];
    OLMo2Form form = olmo2_form();
    const OLMo2Memory to_train = olmo2_memory(config, &training, &form);
    const bool opened = dir[0] != '\0' && weights_open(&w, dir, config, WEIGHTS_AUTO, &unsaid);
    if (opened) { weights_form(&w, &form); }
    const OLMo2Memory to_write =
        opened ? weights_memory(&w, config, &writing, &form) : olmo2_memory(config, &writing, &form);
    printf("to train       %zu sequences of %zu tokens at once:\n%15s", B, T, "");
    print_memory(&to_train);
    printf("to generate    %zu tokens%s%s:\n%15s", T, opened ? ", with weights of " : "",
           opened ? weights_describe(&w, text) : "", "");
    print_memory(&to_write);
    if (olmo2_lends()) {  // a GPU has its own memory
        const MemoryLimit limit = memory_limit("");
        printf("memory         %s %s: %s to train, %s to generate\n", limit.source,
               format_bytes(bytes, limit.bytes), to_train.total <= limit.bytes ? "enough" : "too little",
               to_write.total <= limit.bytes ? "enough" : "too little");
    }
    if (dir[0] != '\0') { weights_close(&w); }
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
    print_memory_plan(&config, dir, B, T);
    if (dir[0] == '\0') { return; }
    inspect_run(path);
    printf("\n");
    print_tensors(dir);
}

#endif
