// describe.h: a model in words: its sizes, its parameters, its memory. The plan of a run and `inspect` print
// them.
//
//   print_config, print_parameters, print_memory
#ifndef LLMC_COMMANDS_DESCRIBE_H
#define LLMC_COMMANDS_DESCRIBE_H

#include "llmc/help.h"
#include "llmc/memory_limit.h"
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

// From column 15 on.
static inline void print_memory(const OLMo2Memory *memory) {
    char line[512];
    help_wrap(stdout, memory_text(line, memory), 15, 15);
}

#endif
