// generation.h: a model writes a text.
//
//   prompt_encode    the tokens that a text begins with
//   text_positions   how many positions it takes
//   generate_text    the model's continuation, token by token
#ifndef LLMC_GENERATION_H
#define LLMC_GENERATION_H

#include <signal.h>

#include "olmo2.h"
#include "sampler.h"
#include "text.h"

// Appends the prompt's tokens. No prompt means a new document, which begins after the end token of the one
// before.
static inline bool prompt_encode(const Text *text, const OLMo2Config *config, const char *prompt,
                                 TokenBuffer *ids, Error *err) {
    if (!text->present) { return fail(err, "--tokenizer: is missing; text cannot be written without one"); }
    if (prompt != NULL && prompt[0] != '\0') {
        if (!tokenizer_encode(&text->tokenizer, prompt, strlen(prompt), ids, err)) { return false; }
    } else if (config->eos == OLMO2_NO_TOKEN) {
        return fail(err,
                    "--prompt: is empty, and the model has no end of document (eos_token_id) to begin after");
    } else {
        if (!token_buffer_reserve(ids, 1, err)) { return false; }
        ids->ids[ids->length++] = config->eos;
    }
    if (ids->length < config->max_T) { return true; }
    return fail(err, "--prompt: has %zu tokens, the model takes %zu with what it writes", ids->length,
                config->max_T);
}

// The positions of a prompt and that many new tokens: no more than the model has seen in training.
static inline size_t text_positions(const OLMo2Config *config, size_t prompt, size_t max_tokens) {
    return prompt + max_tokens < config->max_T ? prompt + max_tokens : config->max_T;
}

static inline bool write_piece(const Text *text, uint32_t id, FILE *out, Error *err) {
    size_t size = 0;
    const char *piece = tokenizer_piece(&text->tokenizer, id, &size);
    if (piece == NULL) { return true; }
    if (fwrite(piece, 1, size, out) == size && fflush(out) == 0) { return true; }
    return fail(err, "the text cannot be written: %s", strerror(errno));
}

static inline bool check_logits(const float *logits, size_t n, size_t position, Error *err) {
    for (size_t i = 0; i < n; i++) {
        if (isfinite(logits[i])) { continue; }
        return fail(err,
                    "the model's logit of token %zu at position %zu is %s: its weights are damaged, or its "
                    "training diverged",
                    i, position, isnan(logits[i]) ? "nan" : "infinite");
    }
    return true;
}

// The loop of generate_text, with scratch for a row of V logits.
static inline bool generate_tokens(OLMo2 *m, const Text *text, TokenBuffer *ids, size_t positions,
                                   const SamplerSettings *sampler, uint64_t seed, FILE *out,
                                   const volatile sig_atomic_t *stop, float *logits,
                                   SamplerCandidate *scratch, Error *err) {
    const OLMo2Config *config = olmo2_config(m);
    const size_t slot = 0, n = tokenizer_size(&text->tokenizer);  // rows above n are padding
    Pcg64 rng;
    pcg64_seed(&rng, seed);
    olmo2_truncate(m, slot, 0);
    for (size_t t = 0; t + 1 < positions; t++) {
        if (stop != NULL && *stop) { break; }
        olmo2_decode(m, &ids->ids[t], &slot, 1, logits);
        if (t + 1 < ids->length) { continue; }
        if (!check_logits(logits, n, t + 1, err)) { return false; }
        uint32_t next = sampler_next(logits, n, sampler, &rng, scratch);
        if (config_is_end(config, next)) { break; }
        ids->ids[ids->length++] = next;
        if (!write_piece(text, next, out, err)) { return false; }
    }
    return true;
}

// Appends the model's continuation to ids, until there are `positions` tokens, the document ends, or *stop
// becomes true (NULL: never). Its text goes to `out` as it comes. The model has a cache of that many
// positions.
static inline bool generate_text(OLMo2 *m, const Text *text, TokenBuffer *ids, size_t positions,
                                 const SamplerSettings *sampler, uint64_t seed, FILE *out,
                                 const volatile sig_atomic_t *stop, Error *err) {
    const size_t V = olmo2_config(m)->V;
    float *logits = (float *)allocate(V, sizeof *logits, "a row of logits", err);
    SamplerCandidate *scratch = (SamplerCandidate *)allocate(V, sizeof *scratch, "a row of logits", err);
    bool ok = logits != NULL && scratch != NULL && token_buffer_reserve(ids, positions - ids->length, err);
    if (ok) { ok = generate_tokens(m, text, ids, positions, sampler, seed, out, stop, logits, scratch, err); }
    free(logits);
    free(scratch);
    return ok;
}

#endif
