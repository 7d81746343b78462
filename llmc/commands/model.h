// model.h: how generate, chat and eval get their model.
//
//   model_form    the form that the weights of an opened source will have
//   model_load    its model, with the weights
#ifndef LLMC_COMMANDS_MODEL_H
#define LLMC_COMMANDS_MODEL_H

#include "llmc/settings.h"
#include "llmc/source.h"
#include "must.h"
#include "signals.h"

// What a person sees of files that take longer than a second to read: a line on `out` that a terminal
// overwrites. A file gets one now and then.
typedef struct {
    const char *what;  // is read
    FILE *out;
    bool terminal;
    double start, shown;  // on seconds_now's clock
} LoadProgress;

static inline LoadProgress load_progress_begin(const char *what, FILE *out) {
    const LoadProgress p = {what, out, isatty(fileno(out)) == 1, seconds_now(), 0.0};
    return p;
}

// For reading.h. A signal that asks the program to stop interrupts it.
static inline bool load_progress(void *context, size_t done, size_t total) {
    LoadProgress *p = (LoadProgress *)context;
    const double now = seconds_now(), every = p->terminal ? 0.2 : 10.0;
    char read[32], all[32];
    if (stop_requested) { return false; }
    if (now - p->start < 1.0 || now - p->shown < every || done == total) { return true; }
    p->shown = now;
    fprintf(p->out, "%s%s: %s of %s read, %.0f s%s", p->terminal ? "\r" : "", p->what,
            format_bytes(read, done), format_bytes(all, total), now - p->start, p->terminal ? "" : "\n");
    fflush(p->out);
    return true;
}

// Clears the line of a terminal.
static inline void load_progress_end(const LoadProgress *p) {
    if (p->terminal && p->shown > 0.0) { fprintf(p->out, "\r\033[K"); }
}

// What the weights of a model that is used are, and how long they took if it was long.
static inline void print_weights(const LoadProgress *p, const Weights *w) {
    const double seconds = seconds_now() - p->start;
    char text[160], time[32] = "";
    if (seconds >= 1.0) { snprintf(time, sizeof time, ", %.1f s", seconds); }
    fprintf(p->out, "weights: %s%s\n", weights_describe(w, text), time);
}

// Opens the weights if they are not open yet. It ends the program with a message if it fails, as model_load
// does.
static inline OLMo2Form model_form(Source *source, const Settings *s) {
    Error err;
    OLMo2Form form = olmo2_form();
    form.bf16_products = s->dtype == PRODUCTS_BF16;
    if (source->weights.bytes == 0) {
        const WeightChoice choice = (WeightChoice)s->weights;
        must(weights_open(&source->weights, source->dir, &source->config, choice, &err), &err);
    }
    weights_form(&source->weights, &form);
    return form;
}

// The source must outlive the model; the caller frees the model.
static inline OLMo2 *model_load(Source *source, const OLMo2Room *room, const Settings *s) {
    Error err;
    OLMo2 *m;
    Weights *w = &source->weights;
    LoadProgress progress = load_progress_begin("weights", stderr);
    const OLMo2Form form = model_form(source, s);
    must(olmo2_check(&source->config, room, &form, &err), &err);
    must(weights_fit(w, &source->config, room, &form, &err), &err);
    must(olmo2_create(&m, &source->config, room, &form, &err), &err);
    must(weights_load(w, m, load_progress, &progress, &err), &err);
    load_progress_end(&progress);
    print_weights(&progress, w);
    return m;
}

#endif
