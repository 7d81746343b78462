// model.h: how generate, chat and eval get their model.
//
//   model_open_weights    the weights of an opened source, if they are not open yet
//   model_form            the form that they will have
//   model_room_to_write   what it needs room for, to write texts
//   model_load            its model, with the weights
//   model_print_token     shows what it writes, an EngineReader.token
#ifndef LLMC_COMMANDS_MODEL_H
#define LLMC_COMMANDS_MODEL_H

#include "llmc/engine.h"
#include "llmc/settings.h"
#include "llmc/source.h"
#include "meter.h"
#include "must.h"

// What the weights of a model that is used are, and how long they took if it was long.
static inline void print_weights(const Meter *m, const Weights *w) {
    const double seconds = seconds_now() - m->begin;
    char text[160], time[32] = "";
    if (seconds >= 1.0) { snprintf(time, sizeof time, ", %.1f s", seconds); }
    fprintf(m->out, "weights: %s%s\n", weights_describe(w, text), time);
}

static inline bool model_open_weights(Source *source, const Settings *s, Error *err) {
    return source->weights.bytes > 0 ||
           weights_open(&source->weights, source->dir, &source->config, (WeightChoice)s->weights, err);
}

// Ends the program with a message if the weights cannot be opened, as model_load does.
static inline OLMo2Form model_form(Source *source, const Settings *s) {
    Error err;
    OLMo2Form form = olmo2_form();
    form.bf16_products = s->dtype == PRODUCTS_BF16;
    must(model_open_weights(source, s, &err), &err);
    weights_form(&source->weights, &form);
    return form;
}

enum { MODEL_MOST_SLOTS = 16 };  // unless --slots says otherwise: products with more rows are hardly faster

// The room for `texts` texts of at most max_tokens behind prompts of at most `longest`: as many side by side
// as --slots says, else as help and fit the memory, at least one. Ends the program as model_form does.
static inline OLMo2Room model_room_to_write(Source *source, const Settings *s, size_t texts, size_t longest,
                                            size_t max_tokens) {
    const OLMo2Config *config = &source->config;
    const OLMo2Form form = model_form(source, s);
    const size_t most = (size_t)given(s->slots, MODEL_MOST_SLOTS);
    size_t slots = most < texts ? most : texts;
    OLMo2Room room = engine_room(config, slots, longest, max_tokens);
    Error none;
    while (s->slots < 0 && slots > 1 && !weights_fit(&source->weights, config, &room, &form, &none)) {
        room = engine_room(config, --slots, longest, max_tokens);
    }
    return room;
}

// The source must outlive the model; the caller frees the model.
static inline OLMo2 *model_load(Source *source, const OLMo2Room *room, const Settings *s) {
    Error err;
    OLMo2 *m;
    Weights *w = &source->weights;
    Meter meter = meter_begin_bytes("weights");
    const OLMo2Form form = model_form(source, s);
    must(olmo2_check(&source->config, room, &form, &err), &err);
    must(weights_fit(w, &source->config, room, &form, &err), &err);
    must(olmo2_create(&m, &source->config, room, &form, &err), &err);
    const bool ok = weights_load(w, m, meter_heard, &meter, &err);
    meter_end(&meter);
    must(ok, &err);
    print_weights(&meter, w);
    return m;
}

static inline bool model_print_token(void *context, const EngineText *text, const char *bytes, size_t size,
                                     Error *err) {
    (void)context, (void)text;
    return size == 0 || print_text(bytes, size, err);
}

#endif
