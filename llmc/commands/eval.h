// eval.h: the command `eval`: a model measured on token files, on questions with given answers
// (eval_requests.h), or on texts that it generates.
#ifndef LLMC_COMMANDS_EVAL_H
#define LLMC_COMMANDS_EVAL_H

#include "eval_gsm8k.h"
#include "llmc/evaluate.h"

static inline void print_evaluation(const Evaluation *e) {
    printf("cross-entropy  %.6f nats per token, %zu tokens\n", e->loss, e->labels);
    printf("perplexity     %.4f\n", e->perplexity);
    if (e->bytes > 0) { printf("bits per byte  %.6f, %zu bytes\n", e->bits_per_byte, e->bytes); }
    printf("z term         %.6g\n", e->z);
}

static inline void eval_data(const Settings *s) {
    Error err, warning = {""};
    Source source;
    DataLoader loader;
    Batch batch;
    Evaluation e;

    must(source_open(&source, s->load, s->tokenizer, &warning, &err), &err);
    warn(&warning);
    const OLMo2Config *config = &source.config;
    const size_t B = (size_t)s->batch_size, T = (size_t)given(s->seq_len, (int64_t)config->max_T);
    must(check_batch(config, B, T, &err), &err);
    must(evaluation_open(&loader, s->data.items, s->data.count, T, config->V, &err), &err);
    must(batch_create(&batch, B, T, &err), &err);
    const size_t instances = evaluation_instances(&loader, s->eval_instances);
    must(evaluation_check(&loader, instances, &batch, &err), &err);
    const OLMo2Room room = olmo2_room_to_measure(B, T);
    OLMo2 *m = model_load(&source, &room, s);

    printf("model          %s\n", source.dir);
    printf("data           %zu sequences of %zu tokens\n", instances, T);
    fflush(stdout);
    Meter meter = meter_begin("sequences", 0, instances);
    const bool ok =
        evaluate(&e, m, &loader, instances, &batch, B, s->z_loss, &source.text, meter_heard, &meter, &err);
    meter_end(&meter);
    must(ok, &err);
    if (!isfinite(e.loss)) {
        fail(&err, "%s: its cross-entropy is %s: its weights are damaged, or its training diverged",
             source.dir, isnan(e.loss) ? "nan" : "infinite");
        must(false, &err);
    }
    print_evaluation(&e);

    olmo2_free(m);
    batch_free(&batch);
    dataloader_close(&loader);
    source_close(&source);
}

// Whether one of the tasks generates.
static inline bool eval_generates(const Settings *s) {
    bool found = false;
    for (size_t i = 0; i < s->tasks.count; i++) { found = found || strcmp(s->tasks.items[i], "gsm8k") == 0; }
    return found;
}

static inline void eval(const Settings *s) {
    Error err;
    if (s->chat == ON && !eval_generates(s)) {
        must(fail(&err, "--chat: only --task gsm8k takes it; other requests are scored as they are"), &err);
    }
    if (s->data.count > 0) {
        eval_data(s);
    } else if (!eval_generates(s)) {
        eval_requests(s);
    } else {
        must(s->tasks.count == 1 || fail(&err, "--task gsm8k: generates texts; give it by itself"), &err);
        eval_gsm8k(s);
    }
}

#endif
