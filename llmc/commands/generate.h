// generate.h: the command `generate`: prompts and the model's continuations, as text on standard output or as
// JSON lines in a file.
//
//   one text              appears as it is written
//   --samples             one after another, each behind a line with its number
//   --out FILE.jsonl      a line for each text, in the order of prompts and samples, both counted from 0:
//                         {"prompt": 0, "sample": 0, "ids": [9, 8], "text": "...", "end": "stop"}
//                         and "logprobs": [-0.1, -2.3] with --logprobs
//
// FILE.jsonl gets its name when all texts are in it. A run that is interrupted, or fails, leaves those it has
// completed as FILE.jsonl.partial. A text depends on its prompt's place in the file and on the seed, not on
// --slots.
#ifndef LLMC_COMMANDS_GENERATE_H
#define LLMC_COMMANDS_GENERATE_H

#include "llmc/prompts.h"
#include "llmc/settings.h"
#include "meter.h"
#include "model.h"
#include "signals.h"

typedef struct {
    const Settings *settings;
    Source source;
    char *prompt;  // (prompt_size) what is printed in front of a text
    size_t prompt_size;
    Prompts prompts;
    size_t texts;  // that are wanted
    OLMo2 *model;
    Engine engine;

    Aside aside;  // --out
    FILE *out;    // a buffer before aside.descriptor
    Meter meter;
    size_t written, tokens;  // texts in the file, and what they have
    double begin;            // the time at which the writing began
} Generating;

// ---------------------------------------------------------------------------------------------
// before the model is loaded

static inline bool generate_check_flags(const Settings *s, Error *err) {
    const int prompts = (s->prompt != NULL) + (s->prompt_file != NULL) + (s->prompts != NULL);
    if (prompts > 1) { return fail(err, "--prompt, --prompt-file, --prompts: expected at most one of them"); }
    if (s->prompts != NULL && s->out == NULL) {
        return fail(err, "--prompts: needs --out FILE.jsonl, for the texts");
    }
    if (s->logprobs == ON && s->out == NULL) {
        return fail(err, "--logprobs: needs --out FILE.jsonl, where they go");
    }
    for (size_t i = 0; i < s->stop.count; i++) {
        if (s->stop.items[i][0] == '\0') { return fail(err, "--stop: is empty, expected a text"); }
    }
    return true;
}

// Whether the file can be made where --out says.
static inline bool generate_check_out(const Settings *s, Error *err) {
    Aside aside;
    if (s->out == NULL) { return true; }
    if (path_exists(s->out)) { return fail(err, "--out %s: exists; choose another name", s->out); }
    if (!aside_begin_file(&aside, s->out, err)) { return fail(err, "--out %s", err->text); }
    aside_cancel(&aside);
    return true;
}

// The one prompt of --prompt or --prompt-file.
static inline bool generate_read_prompt(Generating *g, Error *err) {
    const Settings *s = g->settings;
    const char *name = s->prompt_file != NULL ? s->prompt_file : "--prompt";
    TokenBuffer ids;
    memset(&ids, 0, sizeof ids);
    if (s->prompt_file != NULL) {
        if (!prompt_read_file(s->prompt_file, &g->prompt, &g->prompt_size, err)) { return false; }
    } else {
        g->prompt = format_text("%s", s->prompt != NULL ? s->prompt : "");
        if (g->prompt == NULL) { return fail(err, "out of memory: the prompt"); }
        g->prompt_size = strlen(g->prompt);
    }
    const bool ok =
        prompt_encode(&g->source.text, &g->source.config, g->prompt, g->prompt_size, name, &ids, err) &&
        prompts_add(&g->prompts, ids.ids, ids.length, (size_t)s->samples, name, err);
    free(ids.ids);
    return ok;
}

static inline bool generate_read_prompts(Generating *g, Error *err) {
    const Settings *s = g->settings;
    if (!g->source.text.present) {
        return fail(err, "--tokenizer: is missing; text cannot be written without one");
    }
    if (s->prompts == NULL) {
        if (!generate_read_prompt(g, err)) { return false; }
    } else if (!prompts_read(&g->prompts, s->prompts, &g->source.text, &g->source.config, (size_t)s->samples,
                             err)) {
        return false;
    }
    return multiply_sizes(g->prompts.count, (size_t)s->samples, &g->texts) ||
           fail(err, "--samples %lld: too many texts", (long long)s->samples);
}

// ---------------------------------------------------------------------------------------------
// what is done with the texts

static inline bool print_newline(void *context, const EngineText *text, Error *err) {
    (void)context, (void)text;
    return print_text("\n", 1, err);
}

static inline bool print_sample(void *context, const EngineText *text, Error *err) {
    const Generating *g = (const Generating *)context;
    printf("--- sample %zu of %zu\n", text->sample + 1, g->texts);
    return print_text(g->prompt, g->prompt_size, err) && print_text(text->bytes, text->size, err) &&
           print_text("\n", 1, err);
}

static inline bool count_token(void *context, const EngineText *text, const char *bytes, size_t size,
                               Error *err) {
    Generating *g = (Generating *)context;
    (void)text, (void)bytes, (void)size, (void)err;
    meter_show_texts(&g->meter, g->written, ++g->tokens);
    return true;
}

static inline bool write_line(void *context, const EngineText *text, Error *err) {
    Generating *g = (Generating *)context;
    JsonWriter w;
    if (text->end == END_INTERRUPTED) { return true; }
    memset(&w, 0, sizeof w);
    json_begin_object(&w, NULL);
    json_integer(&w, "prompt", (int64_t)text->prompt);
    json_integer(&w, "sample", (int64_t)text->sample);
    json_begin_array(&w, "ids");
    for (size_t i = 0; i < text->length; i++) { json_integer(&w, NULL, text->ids[i]); }
    json_end_array(&w);
    json_bytes(&w, "text", text->bytes, text->size);
    json_string(&w, "end", engine_end_word(text->end));
    if (text->logprobs != NULL) {
        json_begin_array(&w, "logprobs");
        for (size_t i = 0; i < text->length; i++) { json_float(&w, NULL, text->logprobs[i]); }
        json_end_array(&w);
    }
    json_end_object(&w);
    json_append_text(&w, "\n");
    const bool memory = !w.failed, ok = memory && fwrite(w.text, 1, w.length, g->out) == w.length;
    json_writer_free(&w);
    if (!memory) { return fail(err, "out of memory: a line of %s", g->settings->out); }
    g->written += ok;
    return ok || fail(err, "%s: cannot be written: %s", g->settings->out, strerror(errno));
}

// ---------------------------------------------------------------------------------------------
// running

static inline bool generate_run(Generating *g, const EngineReader *reader, Error *err) {
    const Settings *s = g->settings;
    const EngineSettings settings = {{s->temperature, (size_t)s->top_k, s->top_p, s->min_p},
                                     (uint64_t)s->seed,
                                     (size_t)s->max_tokens,
                                     (const char *const *)s->stop.items,
                                     s->stop.count,
                                     s->logprobs == ON};
    g->begin = seconds_now();
    return engine_run(&g->engine, g->prompts.items, g->prompts.count, &settings, reader, &stop_requested,
                      err);
}

static inline bool generate_to_screen(Generating *g, Error *err) {
    const bool one = g->texts == 1;
    const EngineReader reader = {g, one ? model_print_token : NULL, one ? print_newline : print_sample};
    return (!one || print_text(g->prompt, g->prompt_size, err)) && generate_run(g, &reader, err);
}

// Gives the file its name, or another one if texts are missing.
static inline bool generate_finish(Generating *g, bool complete, Error *err) {
    Error warning = {""};  // files have no warnings
    const bool good = ferror(g->out) == 0, flushed = fclose(g->out) == 0;
    if (!good || !flushed) {  // the last line may be cut
        fail(err, "%s: cannot be written: %s", g->settings->out, strerror(errno));
        return aside_cancel(&g->aside);
    }
    if (!complete && g->written == 0) { return aside_cancel(&g->aside); }
    if (!complete) { snprintf(g->aside.path, sizeof g->aside.path, "%s.partial", g->settings->out); }
    return aside_finish(&g->aside, &warning, err);
}

static inline bool generate_to_file(Generating *g, Error *err) {
    const EngineReader reader = {g, count_token, write_line};
    const char *out = g->settings->out;
    Error unsaved;
    if (!aside_begin_file(&g->aside, out, err)) { return false; }
    const int descriptor = dup(g->aside.descriptor);
    g->out = descriptor < 0 ? NULL : fdopen(descriptor, "wb");
    if (g->out == NULL) {
        fail(err, "%s: cannot be written: %s", out, strerror(errno));
        return aside_cancel(&g->aside);
    }
    signals_catch();
    g->meter = meter_begin("texts", 0, g->texts);
    bool ok = generate_run(g, &reader, err);
    meter_end(&g->meter);
    if (ok && g->written == g->texts) { return generate_finish(g, true, err); }
    if (ok) { fail(err, "interrupted"); }
    const bool kept = generate_finish(g, false, &unsaved) && g->written > 0;
    return fail(err, "%s\n%zu of %zu texts are complete%s%s%s", err->text, g->written, g->texts,
                kept ? ", in " : "", kept ? out : "", kept ? ".partial" : "");
}

static inline void generate(const Settings *s) {
    Error err, warning = {""};
    Generating g;
    memset(&g, 0, sizeof g);
    g.settings = s;
    must(generate_check_flags(s, &err), &err);
    must(generate_check_out(s, &err), &err);
    must(source_open(&g.source, s->load, s->tokenizer, &warning, &err), &err);
    warn(&warning);
    must(generate_read_prompts(&g, &err), &err);
    const OLMo2Room room =
        model_room_to_write(&g.source, s, g.texts, g.prompts.longest, (size_t)s->max_tokens);
    g.model = model_load(&g.source, &room, s);
    must(engine_open(&g.engine, g.model, &room, &g.source.text, &err), &err);
    if (s->out == NULL) {
        must(generate_to_screen(&g, &err), &err);
    } else {
        fprintf(stderr, "%zu prompt%s, %zu text%s, %zu side by side, up to %zu tokens each with the prompt\n",
                g.prompts.count, g.prompts.count == 1 ? "" : "s", g.texts, g.texts == 1 ? "" : "s",
                room.slots, room.cache_T);
        must(generate_to_file(&g, &err), &err);
        printf("%s: %zu text%s, %zu tokens, in %.1f s\n", s->out, g.written, g.written == 1 ? "" : "s",
               g.tokens, seconds_now() - g.begin);
    }
    engine_close(&g.engine);
    olmo2_free(g.model);
    prompts_free(&g.prompts);
    free(g.prompt);
    source_close(&g.source);
}

#endif
