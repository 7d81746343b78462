// bench_step.c: milliseconds of a training step of the CPU backend, as in a run: data, forward, classifier
// with z-loss, backward, gradient norm, AdamW.
//   build/bench_step [--steps N] [--data FILE] [--dtype fp32|bf16]
//                    [--B 4 --T 256 --C 512 --L 8 --NH 8 --F 2048 --V 50304]
// Without flags, it runs 5 steps of the 85M model on random tokens. bench_step.py does the same work in
// PyTorch. bench.h describes the output of both, and --steps 0.
#define LLMC_MAIN_H  // the backend without the program
#ifdef BACKEND
#include BACKEND
#else
#include "../../train_olmo2.c"
#endif
#include "llmc/batch.h"
#include "bench.h"

typedef struct {
    OLMo2 *model;
    DataLoader data;
    Batch batch;
    int64_t updates;
} Run;

static bool train_step(void *of, char parts[128], Error *err) {
    Run *r = (Run *)of;
    Batch *b = &r->batch;
    double marks[6];
    marks[0] = seconds_now();
    if (!batch_next(b, &r->data, b->B, err)) { return false; }
    lm_weights(b->weights, b->labels, b->B * b->T, lm_normalizer(b->labels, b->filtered, b->B, b->T));
    marks[1] = seconds_now();
    olmo2_zero_gradients(r->model);
    olmo2_forward(r->model, b->tokens, b->B, b->T);
    marks[2] = seconds_now();
    olmo2_classify(r->model, b->labels, b->weights, 1e-5f, b->logprobs, b->lse);
    marks[3] = seconds_now();
    olmo2_backward(r->model);
    marks[4] = seconds_now();
    const double norm = olmo2_gradient_norm(r->model);
    const OLMo2AdamW settings = {.lr = 1e-4f,
                                 .beta1 = 0.9f,
                                 .beta2 = 0.95f,
                                 .eps = 1e-8f,
                                 .weight_decay = 0.1f,
                                 .gradient_scale = (float)fmin(1.0, 1.0 / (norm + 1e-6)),
                                 .t = ++r->updates};
    olmo2_update(r->model, &settings);
    marks[5] = seconds_now();
    for (int i = 0; i < 5; i++) { marks[i] = 1e3 * (marks[i + 1] - marks[i]); }
    snprintf(parts, 128, ": data %.1f, forward %.1f, classifier %.1f, backward %.1f, update %.1f", marks[0],
             marks[1], marks[2], marks[3], marks[4]);
    return isfinite(norm) || fail(err, "the gradient norm is %g", norm);
}

// Without --data, random tokens in a file that is unlinked as soon as it is mapped.
static bool open_data(DataLoader *data, const char *path, const LoaderSettings *s, Error *err) {
    if (path != NULL) { return dataloader_open(data, &path, 1, s, err); }
    char name[] = "/tmp/bench_step_XXXXXX";
    const char *pattern = name;
    const int descriptor = mkstemp(name);
    if (descriptor < 0) { return fail(err, "%s: cannot be created: %s", name, strerror(errno)); }
    Pcg64 rng;
    pcg64_seed(&rng, 2);
    bool ok = true;
    for (size_t i = 0; ok && i < 16 * s->batch * s->T; i++) {
        const uint32_t token = (uint32_t)(pcg64_double(&rng) * (double)s->V);
        ok = file_write(descriptor, &token, sizeof token, name, err);
    }
    close(descriptor);
    if (ok) { ok = dataloader_open(data, &pattern, 1, s, err); }
    unlink(name);
    return ok;
}

int main(int argc, char **argv) {
    Error err = {{0}};
    Run r = {.model = NULL};
    OLMo2Config c = bench_config();
    size_t steps = 5, B = 4, T = 256;
    const char *data = NULL, *dtype = "fp32";
    OLMo2Form form = olmo2_form();
    const BenchFlag flags[] = {{"steps", &steps, NULL}, {"data", NULL, &data}, {"dtype", NULL, &dtype},
                               {"B", &B, NULL},         {"T", &T, NULL},       {"C", &c.C, NULL},
                               {"L", &c.L, NULL},       {"NH", &c.NH, NULL},   {"F", &c.F, NULL},
                               {"V", &c.V, NULL}};
    bench_must(bench_flags(flags, sizeof flags / sizeof flags[0], argc, argv, &err), &err);
    bench_must(bench_config_complete(&c, &err), &err);
    bench_must(bench_dtype(dtype, &form.bf16_products, &err), &err);
    const OLMo2Room room = olmo2_room_to_train(B, T);
    const LoaderSettings loader = {.T = T, .V = c.V, .batch = B, .shuffle = true, .seed = 1};
    bench_must(open_data(&r.data, data, &loader, &err), &err);
    bench_must(batch_create(&r.batch, B, T, &err), &err);
    bench_must(olmo2_create(&r.model, &c, &room, &form, &err), &err);
    bench_must(bench_weights(r.model, &err), &err);

    char backend[64], notes[128];
    olmo2_describe(&room, &form, backend, sizeof backend);
    printf("%s, %.1fM parameters, B %zu, T %zu\n", backend, (double)parameter_total(&c) / 1e6, B, T);
    snprintf(notes, sizeof notes, "tokens %zu parameters %zu logits %zu", B * T, parameter_total(&c),
             classifier_rows(&c, &room) * c.V * sizeof(float));
    bench_must(bench_turns(steps, notes, train_step, &r, &err), &err);
    batch_free(&r.batch);
    dataloader_close(&r.data);
    olmo2_free(r.model);
    return 0;
}
