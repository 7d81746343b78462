// describe.h: a model in words: its sizes, its parameters, its memory. The plan of a run and `inspect` print
// them.
//
//   print_config, print_parameters, print_memory
#ifndef LLMC_COMMANDS_DESCRIBE_H
#define LLMC_COMMANDS_DESCRIBE_H

#include "llmc/help.h"
#include "llmc/parameters.h"

static inline void print_config(const OLMo2Config *config) {
    printf("layers         %zu of %zu channels\n", config->L, config->C);
    printf("heads          %zu for queries, %zu for keys and values, of size %zu\n", config->NH, config->NKV,
           config->HS);
    printf("feed-forward   %zu channels\n", config->F);
    printf("vocabulary     %zu rows\n", config->V);
    printf("length         %zu tokens\n", config->max_T);
    printf("constants      rms_norm_eps %g, rope_theta %g\n", (double)config->rms_eps,
           (double)config->rope_theta);
    if (config->ablate_qk_norm) { printf("study          without QK-norm\n"); }
    if (config->pre_norm) { printf("study          norms on the branch inputs\n"); }
}

static inline void print_parameters(const OLMo2Config *config) {
    printf("parameters     %zu, %zu of them without both embeddings\n", parameter_total(config),
           parameter_total_without_embeddings(config));
}

// "1.20 GB: weights 300 MB, ..." from column 15 on: the total, then every class that is not empty.
static inline void print_memory(const OLMo2Memory *memory) {
    const char *names[] = {"weights", "gradients", "moments", "activations", "workspace", "cache"};
    const size_t sizes[] = {memory->weights,     memory->gradients, memory->moments,
                            memory->activations, memory->workspace, memory->cache};
    char line[512], bytes[32];
    int length = snprintf(line, sizeof line, "%s", format_bytes(bytes, memory->total));
    for (int i = 0, listed = 0; i < 6; i++) {
        if (sizes[i] == 0) { continue; }
        length += snprintf(line + length, sizeof line - (size_t)length, "%s %s %s", listed++ > 0 ? "," : ":",
                           names[i], format_bytes(bytes, sizes[i]));
    }
    help_wrap(stdout, line, 15, 15);
}

#endif
