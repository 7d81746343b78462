// source.h: where a model comes from: a directory with a configuration and a tokenizer or, for a new model,
// only a configuration. train, generate, chat, eval and soup begin here.
//
// Doors, declared below:
//   source_open         a model directory or a run, to be used or trained further
//   source_new          a new model, of a size with a name or of a config.json
//   source_close
// weights_open(&source.weights, source.dir, ...) opens the weights of a model that is used (weights.h);
// checkpoint_load_weights(m, source.dir, ...) copies those of a model that is trained.
#ifndef LLMC_SOURCE_H
#define LLMC_SOURCE_H

#include "run_checkpoints.h"
#include "text.h"
#include "weights.h"

// All zeros: none.
typedef struct {
    char dir[PATH_MAX];  // empty for a new model
    OLMo2Config config;  // its special tokens are settled (text.h)
    Text text;           // its tokenizer, if there is one
    Weights weights;     // none until weights_open
    ConfigFiles said;    // texts of its config.json and generation_config.json, for CheckpointParts.said
} Source;

// Opens `path`, a model directory or a run, with the tokenizer of that name or, if `tokenizer` is NULL, the
// one in the directory. Release with source_close, after a failure too.
static inline bool source_open(Source *s, const char *path, const char *tokenizer, Error *warning,
                               Error *err);

// A new model: `name` is a size of olmo2_presets or a config.json, `tokenizer` a tokenizer or NULL. V, if not
// 0, replaces the vocabulary; without it a size with a name takes the tokenizer's, rounded up to a multiple
// of 128. T, if not 0, is the length of a size with a name. Release with source_close, after a failure too.
static inline bool source_new(Source *s, const char *name, size_t V, size_t T, const char *tokenizer,
                              Error *warning, Error *err);

// The model that is lent the weights has to be freed first.
static inline void source_close(Source *s) {
    weights_close(&s->weights);
    text_close(&s->text);
    config_files_free(&s->said);
    memset(s, 0, sizeof *s);
}

static inline bool source_open(Source *s, const char *path, const char *tokenizer, Error *warning,
                               Error *err) {
    char config[PATH_MAX];
    memset(s, 0, sizeof *s);
    if (!run_resolve(s->dir, path, warning, err)) { return false; }
    if (!path_join(config, s->dir, "config.json", err)) { return false; }
    if (!config_read_directory(&s->config, &s->said, s->dir, warning, err)) { return false; }
    if (!text_open_beside(&s->text, tokenizer, s->dir, err)) { return false; }
    return text_fit(&s->text, &s->config, false, config, warning, err);
}

static inline bool source_new(Source *s, const char *name, size_t V, size_t T, const char *tokenizer,
                              Error *warning, Error *err) {
    OLMo2Config *config = &s->config;
    memset(s, 0, sizeof *s);
    if (!text_open_beside(&s->text, tokenizer, NULL, err)) { return false; }
    const bool preset = olmo2_preset(config, name);
    if (!preset && !config_read_text(config, &s->said.config, name, warning, err)) { return false; }
    if (preset && s->text.present) {
        config->V = (tokenizer_size(&s->text.tokenizer) + 127) / 128 * 128;
        config->bos = config->eos = config->pad = OLMO2_NO_TOKEN;
    }
    if (V > 0) { config->V = V; }
    if (preset && T > 0) { config->max_T = T; }
    // A named size says nothing about tokens, so ids that do not fit need no warning.
    Error unsaid = {""};
    config_ignore_tokens(config, name, preset ? &unsaid : warning);
    if (!config_check(config, name, err)) { return false; }
    return text_fit(&s->text, config, true, name, warning, err);
}

#endif
