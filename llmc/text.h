// text.h: the tokenizer of a model, and the one rule for special tokens where a model meets a tokenizer.
//
// Doors:
//   text_open            a tokenizer.json, or the one in a directory
//   text_open_beside     the one that was asked for, otherwise the model's own, otherwise none
//   text_fit             checks that tokenizer and model belong together, and settles the special tokens
//   text_close
#ifndef LLMC_TEXT_H
#define LLMC_TEXT_H

#include "olmo2.h"
#include "tokenizer.h"

// A tokenizer, or none. All zeros: none.
typedef struct {
    bool present;
    Tokenizer tokenizer;
    char path[PATH_MAX];  // of its tokenizer.json
    size_t *bytes;        // (V) bytes of text of each id; 0 for the end of a document and for padding rows
} Text;

static inline void text_close(Text *text) {
    if (text->present) { tokenizer_free(&text->tokenizer); }
    free(text->bytes);
    memset(text, 0, sizeof *text);
}

// Opens a tokenizer.json or a directory that holds one. Release with text_close.
static inline bool text_open(Text *text, const char *path, Error *err) {
    memset(text, 0, sizeof *text);
    snprintf(text->path, sizeof text->path, "%s", path);
    if (path_is_directory(path) && !path_join(text->path, path, "tokenizer.json", err)) { return false; }
    text->present = tokenizer_load(&text->tokenizer, text->path, err);
    return text->present;
}

// Opens the tokenizer of that name. If `name` is NULL, opens the one in the model's directory `dir`, if it
// has one and dir is not NULL.
static inline bool text_open_beside(Text *text, const char *name, const char *dir, Error *err) {
    char path[PATH_MAX];
    memset(text, 0, sizeof *text);
    if (name != NULL) { return text_open(text, name, err); }
    if (dir == NULL) { return true; }
    if (!path_join(path, dir, "tokenizer.json", err)) { return false; }
    return !path_exists(path) || text_open(text, path, err);
}

// ---------------------------------------------------------------------------------------------
// special tokens

static inline bool text_has(const Text *text, uint32_t id) {
    size_t size;
    return tokenizer_piece(&text->tokenizer, id, &size) != NULL;
}

// A new model has no use for the ids of another tokenizer.
static inline void text_settle_new_id(const Text *text, uint32_t *id, const char *key, const char *source,
                                      Error *warning) {
    if (*id == OLMO2_NO_TOKEN || text_has(text, *id)) { return; }
    add_warning(warning, "%s: \"%s\" is %u, which %s does not have: ignored", source, key, (unsigned)*id,
                text->path);
    *id = OLMO2_NO_TOKEN;
}

// Documents end with the tokenizer's <|endoftext|>, whatever the configuration says. Generation also stops at
// the other end tokens that a trained model's files name.
static inline void text_settle_end(const Text *text, OLMo2Config *config, bool is_new, const char *source,
                                   Error *warning) {
    uint32_t end, before = config->eos, more[OLMO2_MORE_ENDS];
    size_t count = config->more_end_count;
    if (!tokenizer_special(&text->tokenizer, "<|endoftext|>", &end)) { return; }
    bool known = config_is_end(config, end),
         keeps = before != OLMO2_NO_TOKEN && !is_new && text_has(text, before);
    if (before != OLMO2_NO_TOKEN && !known) {
        add_warning(warning,
                    "%s: \"eos_token_id\" is %u, but <|endoftext|> of %s is %u: documents end with %u%s",
                    source, (unsigned)before, text->path, (unsigned)end, (unsigned)end,
                    keeps ? ", and generation stops at either" : "");
    }
    memcpy(more, config->more_ends, sizeof more);
    memset(config->more_ends, 0, sizeof config->more_ends);
    config->eos = end;
    config->more_end_count = 0;
    if (is_new) { return; }
    for (size_t i = 0; i <= count; i++) {
        uint32_t id = i == 0 ? before : more[i - 1];
        if (config_is_end(config, id) || !text_has(text, id)) { continue; }
        if (config->more_end_count < OLMO2_MORE_ENDS) { config->more_ends[config->more_end_count++] = id; }
    }
}

// The rule. config_ignore_tokens has already dropped ids that the vocabulary does not have.
static inline void text_settle_tokens(const Text *text, OLMo2Config *config, bool is_new, const char *source,
                                      Error *warning) {
    text_settle_end(text, config, is_new, source, warning);
    if (!is_new) { return; }
    uint32_t pad;
    if (tokenizer_special(&text->tokenizer, "<|pad|>", &pad)) { config->pad = pad; }
    text_settle_new_id(text, &config->bos, "bos_token_id", source, warning);
    text_settle_new_id(text, &config->eos, "eos_token_id", source, warning);
    text_settle_new_id(text, &config->pad, "pad_token_id", source, warning);
}

// Checks that the tokenizer can be this model's, settles the special tokens of *config and counts the bytes
// of each token. is_new: the model has no weights yet, so the tokenizer overrules its configuration. `source`
// is the name of that configuration. Without a tokenizer it does nothing.
static inline bool text_fit(Text *text, OLMo2Config *config, bool is_new, const char *source, Error *warning,
                            Error *err) {
    if (!text->present) { return true; }
    const size_t ids = tokenizer_size(&text->tokenizer);
    if (ids > config->V) {
        return fail(
            err,
            "%s: has ids up to %zu, the model has a vocabulary of %zu rows: it is the tokenizer of another "
            "model",
            text->path, ids - 1, config->V);
    }
    text_settle_tokens(text, config, is_new, source, warning);
    text->bytes = (size_t *)allocate(config->V, sizeof *text->bytes, "the bytes of each token", err);
    if (text->bytes == NULL) { return false; }
    for (size_t id = 0; id < ids; id++) {
        size_t size = 0;
        if (id != config->eos && tokenizer_piece(&text->tokenizer, (uint32_t)id, &size) != NULL) {
            text->bytes[id] = size;
        }
    }
    return true;
}

#endif
