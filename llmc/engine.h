// engine.h: a model writes many texts at once.
//
// Every step is one forward over all texts that are being written. Each contributes the token that it drew
// last; those whose prompts are not yet computed share the rows that are left (chunked prefill). A slot whose
// text has ended takes the next prompt at once (continuous batching). So the weights are read once a step for
// all texts, and this is what decoding waits for.
//
// A prompt is computed once for all its samples, and what two prompts begin with once for both. The slots
// keep their caches between runs: the next turn of a chat computes only what is new.
//
// The draws of a text depend on the seed, its prompt's key and the number of the sample, and on nothing else:
// the number of slots, of rows and of threads and the other texts change no text. (On a GPU logits depend on
// them within rounding, which may decide a draw.)
//
//   engine_room               what a model needs room for
//   engine_open, _close       an engine for a model
//   engine_run                writes the texts
//   engine_forget             after the model's weights have changed
#ifndef LLMC_ENGINE_H
#define LLMC_ENGINE_H

#include <signal.h>

#include "growing_text.h"
#include "sampler.h"
#include "slots.h"
#include "text.h"

typedef struct {
    const uint32_t *ids;  // (length) at least one, each below V
    size_t length;
    size_t samples;    // texts that are wanted
    uint64_t key;      // part of the draws' seed: prompts with different keys draw independently
    const char *name;  // in messages, as "prompts.jsonl:12"
} EnginePrompt;

typedef struct {
    SamplerSettings sampler;
    uint64_t seed;
    size_t max_tokens;         // of each text, at least 1
    const char *const *stops;  // (stop_count) the text ends before any of these
    size_t stop_count;
    bool logprobs;  // wanted
} EngineSettings;

// Why a text ended: the model wrote an end token (config_is_end); a stop text was complete; max_tokens; the
// model has seen no more positions in training, or the caches have no more; the run was asked to stop.
typedef enum { END_TOKEN, END_STOP, END_MAX_TOKENS, END_POSITIONS, END_INTERRUPTED } EngineEnd;

static inline const char *engine_end_word(EngineEnd end) {
    static const char *const words[] = {"end_token", "stop", "max_tokens", "positions", "interrupted"};
    return words[end];
}

// A text, as long as the callback that gets it.
typedef struct {
    size_t prompt, sample;
    const uint32_t *ids;    // (length) every token that was drawn, an end token too
    const float *logprobs;  // (length) log p of each among all V tokens, at temperature 1; NULL if not wanted
    size_t length;
    const char *bytes;  // (size) the text of ids, without the end token and cut before a stop text
    size_t size;
    EngineEnd end;
} EngineText;

// What is done with the texts. A callback that returns false, with an error, ends the run.
typedef struct {
    void *context;
    // NULL, or: a text has drawn a token, or was interrupted. bytes (size) is what became ready to be shown
    // (growing_text.h), often nothing. The texts take turns. text->end is known in `ended` only.
    bool (*token)(void *context, const EngineText *text, const char *bytes, size_t size, Error *err);
    // A text has ended. Called in the order of prompts and samples.
    bool (*ended)(void *context, const EngineText *text, Error *err);
} EngineReader;

typedef struct Writing Writing;  // a text that has begun

// A row of logits, and what was drawn from it.
typedef struct {
    Writing *writing;
    const float *logits;        // (V)
    SamplerCandidate *scratch;  // (V)
    size_t not_finite;          // the first logit that is not, or V
    uint32_t id;
    float logprob;
} EngineDraw;

typedef struct {
    OLMo2 *m;          // the caller's
    const Text *text;  // its tokenizer, the caller's; without one texts have ids only
    Slots slots;
    Writing **writing;          // (slots) the text of each slot; NULL: the slot is free
    OLMo2Piece *pieces;         // (slots) of a step
    EngineDraw *draws;          // (slots)
    size_t *draw_rows;          // (slots)
    uint32_t *tokens;           // (rows)
    float *logits;              // (slots, V)
    SamplerCandidate *scratch;  // (slots, V)
} Engine;

enum { ENGINE_ROWS = 512 };  // of a forward: more rows would not make the products faster

// The positions of a prompt and that many new tokens: no more than the model has seen in training.
static inline size_t engine_positions(const OLMo2Config *config, size_t prompt, size_t max_tokens) {
    const bool fits = prompt < config->max_T && max_tokens < config->max_T - prompt;
    return fits ? prompt + max_tokens : config->max_T;
}

// The room to write `slots` texts side by side, behind prompts of at most `longest` tokens.
static inline OLMo2Room engine_room(const OLMo2Config *config, size_t slots, size_t longest,
                                    size_t max_tokens) {
    const size_t rows = longest < ENGINE_ROWS / slots ? longest * slots : (size_t)ENGINE_ROWS;
    return olmo2_room_to_extend(slots, engine_positions(config, longest, max_tokens), rows);
}

// Takes over the slots of a model, which has this room. `text` may be NULL. Release with engine_close before
// the model is freed; a failure leaves nothing to release.
static inline bool engine_open(Engine *e, OLMo2 *m, const OLMo2Room *room, const Text *text, Error *err);
static inline void engine_close(Engine *e);

// Empties the caches.
static inline void engine_forget(Engine *e) { slots_forget(&e->slots); }

// Writes the texts of all prompts (count). When *stop becomes true (NULL: never), the texts that have begun
// end as END_INTERRUPTED, and those that have not are left out. The errors name the prompt: one too long for
// the model or the caches, and logits that are not finite.
static inline bool engine_run(Engine *e, const EnginePrompt *prompts, size_t count,
                              const EngineSettings *settings, const EngineReader *reader,
                              const volatile sig_atomic_t *stop, Error *err);

// ---------------------------------------------------------------------------------------------
// opening

static inline bool engine_open(Engine *e, OLMo2 *m, const OLMo2Room *room, const Text *text, Error *err) {
    const size_t count = room->slots, V = olmo2_config(m)->V;
    memset(e, 0, sizeof *e);
    e->m = m;
    e->text = text != NULL && text->present ? text : NULL;
    if (!slots_open(&e->slots, m, count, room->cache_T, room->rows, err)) { return false; }
    e->writing = (Writing **)allocate(count, sizeof *e->writing, "the texts", err);
    e->pieces = (OLMo2Piece *)allocate(count, sizeof *e->pieces, "the texts", err);
    e->draws = (EngineDraw *)allocate(count, sizeof *e->draws, "the texts", err);
    e->draw_rows = (size_t *)allocate(count, sizeof *e->draw_rows, "the texts", err);
    e->tokens = (uint32_t *)allocate(room->rows, sizeof *e->tokens, "the tokens of a step", err);
    e->logits = (float *)allocate(count * V, sizeof *e->logits, "the logits of a step", err);
    e->scratch = (SamplerCandidate *)allocate(count * V, sizeof *e->scratch, "the logits of a step", err);
    if (e->writing != NULL && e->pieces != NULL && e->draws != NULL && e->draw_rows != NULL &&
        e->tokens != NULL && e->logits != NULL && e->scratch != NULL) {
        return true;
    }
    engine_close(e);
    return false;
}

static inline void engine_close(Engine *e) {
    slots_close(&e->slots);
    free((void *)e->writing);
    free(e->pieces);
    free(e->draws);
    free(e->draw_rows);
    free(e->tokens);
    free(e->logits);
    free(e->scratch);
    memset(e, 0, sizeof *e);
}

// ---------------------------------------------------------------------------------------------
// a text

struct Writing {
    EngineText text;  // what the reader sees of it
    const EnginePrompt *prompt;
    uint32_t *ids;    // (length) the prompt, then the new tokens
    size_t length;    // of both
    size_t most;      // new tokens
    bool positions;   // most is less than max_tokens
    float *logprobs;  // (most)
    GrowingText bytes;
    size_t shown;  // bytes that the reader has
    Pcg64 rng;
    bool ended;
};

// The output function of splitmix64 (Steele, Lea & Flood 2014): a bijection that mixes every bit.
static inline uint64_t engine_mix(uint64_t x) {
    x += 0x9E3779B97F4A7C15u;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return x ^ x >> 31;
}

// The seed of a text's draws. For one seed and key no two samples have the same; nor for one seed and sample
// two keys.
static inline uint64_t engine_seed(uint64_t seed, uint64_t key, uint64_t sample) {
    return engine_mix(engine_mix(engine_mix(seed) ^ key) ^ sample);
}

static inline void writing_free(Writing *w) {
    if (w == NULL) { return; }
    free(w->ids);
    free(w->logprobs);
    growing_close(&w->bytes);
    free(w);
}

// Begins sample number `sample` of prompts[number]; NULL with an error if there is no memory. `limit` is the
// most positions that it can have.
static inline Writing *writing_begin(const EnginePrompt *prompts, size_t number, size_t sample,
                                     const EngineSettings *settings, size_t limit, Error *err) {
    const EnginePrompt *prompt = &prompts[number];
    Writing *w = (Writing *)allocate(1, sizeof *w, "a text", err);
    if (w == NULL) { return NULL; }
    w->text.prompt = number;
    w->text.sample = sample;
    w->prompt = prompt;
    w->length = prompt->length;
    w->positions = settings->max_tokens > limit - prompt->length;
    w->most = w->positions ? limit - prompt->length : settings->max_tokens;
    growing_open(&w->bytes, settings->stops, settings->stop_count);
    pcg64_seed(&w->rng, engine_seed(settings->seed, prompt->key, sample));
    w->ids = (uint32_t *)allocate(prompt->length + w->most, sizeof *w->ids, "the tokens of a text", err);
    if (settings->logprobs && w->ids != NULL) {
        w->logprobs = (float *)allocate(w->most, sizeof *w->logprobs, "the log-probabilities of a text", err);
    }
    if (w->ids == NULL || (settings->logprobs && w->logprobs == NULL)) {
        writing_free(w);
        return NULL;
    }
    memcpy(w->ids, prompt->ids, prompt->length * sizeof *w->ids);
    w->text.ids = w->ids + prompt->length;
    w->text.logprobs = w->logprobs;
    w->text.bytes = "";
    return w;
}

static inline void writing_end(Writing *w, EngineEnd end) {
    w->ended = true;
    w->text.end = end;
}

// Appends a token, and ends the text if it is the last one.
static inline bool writing_append(Writing *w, const Engine *e, const EngineDraw *draw, Error *err) {
    size_t size = 0;
    int stop = NO_STOP;
    if (w->logprobs != NULL) { w->logprobs[w->text.length] = draw->logprob; }
    w->text.length++;
    w->ids[w->length++] = draw->id;
    if (config_is_end(olmo2_config(e->m), draw->id)) {
        writing_end(w, END_TOKEN);
        return true;
    }
    const char *piece = e->text == NULL ? NULL : tokenizer_piece(&e->text->tokenizer, draw->id, &size);
    if (piece != NULL && !growing_append(&w->bytes, piece, size, &stop, err)) { return false; }
    if (w->bytes.bytes != NULL) { w->text.bytes = w->bytes.bytes; }
    w->text.size = w->bytes.size;
    if (stop != NO_STOP) {
        writing_end(w, END_STOP);
    } else if (w->text.length == w->most) {
        writing_end(w, w->positions ? END_POSITIONS : END_MAX_TOKENS);
    }
    return true;
}

// Tells the reader of what became ready to be shown.
static inline bool writing_show(Writing *w, const EngineReader *reader, Error *err) {
    if (reader->token == NULL) { return true; }
    const size_t begin = w->shown, ready = w->ended ? w->bytes.size : growing_ready(&w->bytes);
    w->shown = ready;
    return reader->token(reader->context, &w->text, w->text.bytes + begin, ready - begin, err);
}

// ---------------------------------------------------------------------------------------------
// a run

typedef struct {
    Engine *e;
    const EnginePrompt *prompts;
    const EngineSettings *settings;
    const EngineReader *reader;
    size_t limit;               // positions of a text
    Writing **texts;            // (total) in the order of prompts and samples; NULL: not begun, or read
    size_t total, begun, read;  // texts
    size_t prompt, sample;      // the next to begin
} EngineRun;

static inline size_t engine_common(const uint32_t *a, const uint32_t *b, size_t most) {
    size_t i = 0;
    while (i < most && a[i] == b[i]) { i++; }
    return i;
}

// The tokens of a slot's text that its cache does not yet hold: one while it draws, more before.
static inline size_t engine_pending(const Engine *e, size_t slot) {
    return e->writing[slot]->length - e->slots.lengths[slot];
}

// The free slot that already holds most of the prompt; of equal ones, the one with least in its cache. The
// number of slots if none is free.
static inline size_t engine_free_slot(const Engine *e, const EnginePrompt *prompt) {
    const Slots *s = &e->slots;
    size_t best = s->count, most = 0;
    for (size_t slot = 0; slot < s->count; slot++) {
        if (e->writing[slot] != NULL) { continue; }
        const size_t shared = slots_shared(s, slot, prompt->ids, prompt->length - 1);
        if (best == s->count || shared > most || (shared == most && s->lengths[slot] < s->lengths[best])) {
            best = slot, most = shared;
        }
    }
    return best;
}

// Whether a prompt waits for another that is being computed and begins alike: if so it can copy at least half
// of what it would compute now. This holds for the samples of a prompt, and for questions behind the same
// examples.
static inline bool engine_waits(const Engine *e, const EnginePrompt *prompt) {
    const Slots *s = &e->slots;
    const size_t most = prompt->length - 1;
    size_t now = 0, later = 0;
    for (size_t slot = 0; slot < s->count; slot++) {
        const Writing *w = e->writing[slot];
        const size_t shared = slots_shared(s, slot, prompt->ids, most);
        now = shared > now ? shared : now;
        if (w == NULL || engine_pending(e, slot) == 1) { continue; }
        const size_t coming = engine_common(w->ids, prompt->ids, w->length < most ? w->length : most);
        later = coming > later ? coming : later;
    }
    return later > now && 2 * (later - now) >= most - now;
}

// Gives free slots the next texts.
static inline bool engine_begin_texts(EngineRun *run, Error *err) {
    Engine *e = run->e;
    while (run->begun < run->total) {
        while (run->sample == run->prompts[run->prompt].samples) { run->prompt++, run->sample = 0; }
        const EnginePrompt *prompt = &run->prompts[run->prompt];
        const size_t slot = engine_free_slot(e, prompt);
        if (slot == e->slots.count || engine_waits(e, prompt)) { return true; }
        Writing *w = writing_begin(run->prompts, run->prompt, run->sample++, run->settings, run->limit, err);
        if (w == NULL) { return false; }
        run->texts[run->begun++] = w;
        e->writing[slot] = w;
        slots_reuse(&e->slots, slot, prompt->ids, prompt->length - 1);  // the last token gives the logits
    }
    return true;
}

// One forward over the next tokens of all texts, drawing ones first: each of them has one row. Returns how
// many rows of logits there are to draw from.
static inline size_t engine_forward(Engine *e) {
    const size_t V = olmo2_config(e->m)->V;
    size_t rows = 0, pieces = 0, draws = 0;
    for (int computing = 0; computing <= 1; computing++) {
        for (size_t slot = 0; slot < e->slots.count; slot++) {
            Writing *w = e->writing[slot];
            const size_t pending = w == NULL ? 0 : engine_pending(e, slot), left = e->slots.rows - rows;
            const size_t count = pending < left ? pending : left;
            if (count == 0 || (pending > 1) != computing) { continue; }
            const OLMo2Piece piece = {slot, count};
            memcpy(e->tokens + rows, w->ids + e->slots.lengths[slot], count * sizeof *e->tokens);
            e->pieces[pieces++] = piece;
            rows += count;
            if (count < pending) { continue; }
            const EngineDraw draw = {w, e->logits + draws * V, e->scratch + draws * V, V, 0, 0.0f};
            e->draw_rows[draws] = rows - 1;
            e->draws[draws++] = draw;
        }
    }
    slots_extend(&e->slots, e->tokens, e->pieces, pieces);
    if (draws > 0) { olmo2_logits(e->m, e->draw_rows, draws, e->logits); }
    return draws;
}

// log p of token `id` under logits (V): the sums in double.
static inline float engine_logprob(const float *logits, size_t V, uint32_t id) {
    float largest = -INFINITY;
    double sum = 0.0;
    for (size_t i = 0; i < V; i++) { largest = logits[i] > largest ? logits[i] : largest; }
    for (size_t i = 0; i < V; i++) { sum += exp((double)logits[i] - (double)largest); }
    return (float)((double)logits[id] - (double)largest - log(sum));
}

// Draws a token among the first n; the rows of the vocabulary behind them are padding.
static inline void engine_draw(EngineDraw *draw, size_t V, size_t n, const EngineSettings *settings) {
    size_t i = 0;
    while (i < V && isfinite(draw->logits[i])) { i++; }
    draw->not_finite = i;
    if (i < V) { return; }
    draw->id = sampler_next(draw->logits, n, &settings->sampler, &draw->writing->rng, draw->scratch);
    if (settings->logprobs) { draw->logprob = engine_logprob(draw->logits, V, draw->id); }
}

static inline bool engine_check_draw(const EngineDraw *draw, size_t V, Error *err) {
    const Writing *w = draw->writing;
    if (draw->not_finite == V) { return true; }
    return fail(err,
                "%s: the model's logit of token %zu at position %zu of sample %zu is %s: its weights are "
                "damaged, or its training diverged",
                w->prompt->name, draw->not_finite, w->length, w->text.sample,
                isnan(draw->logits[draw->not_finite]) ? "nan" : "infinite");
}

static inline bool engine_step(EngineRun *run, Error *err) {
    Engine *e = run->e;
    const size_t V = olmo2_config(e->m)->V, n = e->text == NULL ? V : tokenizer_size(&e->text->tokenizer);
    const size_t draws = engine_forward(e);
#ifdef _OPENMP
#pragma omp parallel for schedule(dynamic) if (draws > 1)
#endif
    for (size_t i = 0; i < draws; i++) { engine_draw(&e->draws[i], V, n, run->settings); }
    for (size_t i = 0; i < draws; i++) {
        EngineDraw *draw = &e->draws[i];
        if (!engine_check_draw(draw, V, err)) { return false; }
        if (!writing_append(draw->writing, e, draw, err)) { return false; }
        if (!writing_show(draw->writing, run->reader, err)) { return false; }
    }
    for (size_t slot = 0; slot < e->slots.count; slot++) {
        if (e->writing[slot] != NULL && e->writing[slot]->ended) { e->writing[slot] = NULL; }
    }
    return true;
}

// Hands out the texts that have ended, as far as those before them have.
static inline bool engine_read(EngineRun *run, Error *err) {
    while (run->read < run->begun && run->texts[run->read]->ended) {
        Writing *w = run->texts[run->read];
        if (!run->reader->ended(run->reader->context, &w->text, err)) { return false; }
        writing_free(w);
        run->texts[run->read++] = NULL;
    }
    return true;
}

static inline bool engine_interrupt(EngineRun *run, Error *err) {
    for (size_t i = run->read; i < run->begun; i++) {
        if (run->texts[i]->ended) { continue; }
        writing_end(run->texts[i], END_INTERRUPTED);
        if (!writing_show(run->texts[i], run->reader, err)) { return false; }
    }
    return engine_read(run, err);
}

static inline bool engine_write_all(EngineRun *run, const volatile sig_atomic_t *stop, Error *err) {
    while (run->read < run->total) {
        if (stop != NULL && *stop) { return engine_interrupt(run, err); }
        if (!engine_begin_texts(run, err)) { return false; }
        if (!engine_step(run, err)) { return false; }
        if (!engine_read(run, err)) { return false; }
    }
    return true;
}

static inline bool engine_check_prompts(const EngineRun *run, size_t count, Error *err) {
    const OLMo2Config *config = olmo2_config(run->e->m);
    for (size_t i = 0; i < count; i++) {
        const EnginePrompt *prompt = &run->prompts[i];
        if (prompt->length == 0) {
            return fail(err, "%s: has no tokens, expected at least one", prompt->name);
        }
        if (!config_leaves_room(config, prompt->length, prompt->name, err)) { return false; }
        if (prompt->length >= run->limit) {
            return fail(err, "%s: has %zu tokens, expected fewer than %zu: the caches have no room for more",
                        prompt->name, prompt->length, run->limit);
        }
        for (size_t t = 0; t < prompt->length; t++) {
            if (prompt->ids[t] < config->V) { continue; }
            return fail(err, "%s: token %zu has id %u, the model has %zu", prompt->name, t,
                        (unsigned)prompt->ids[t], config->V);
        }
    }
    return true;
}

static inline bool engine_run(Engine *e, const EnginePrompt *prompts, size_t count,
                              const EngineSettings *settings, const EngineReader *reader,
                              const volatile sig_atomic_t *stop, Error *err) {
    const size_t max_T = olmo2_config(e->m)->max_T;
    EngineRun run;
    memset(&run, 0, sizeof run);
    run.e = e;
    run.prompts = prompts;
    run.settings = settings;
    run.reader = reader;
    run.limit = max_T < e->slots.cache_T ? max_T : e->slots.cache_T;
    if (!engine_check_prompts(&run, count, err)) { return false; }
    for (size_t i = 0; i < count; i++) { run.total += prompts[i].samples; }
    run.texts = (Writing **)allocate(run.total, sizeof *run.texts, "the list of texts", err);
    const bool ok = run.texts != NULL && engine_write_all(&run, stop, err);
    for (size_t i = run.read; i < run.begun; i++) { writing_free(run.texts[i]); }
    free((void *)run.texts);
    memset((void *)e->writing, 0, e->slots.count * sizeof *e->writing);
    return ok;
}

#endif
