// bench_decode.c: milliseconds to decode one sequence greedily, including its prompt, with random weights.
//   build/bench_decode [--steps N] [--dtype fp32|bf16] [--prompt 16] [--new 128]
//                      [--C 512 --L 8 --NH 8 --F 2048 --V 50304]
// bench_decode.py does the same with transformers. bench.h describes the output of both, and --steps 0.
#define LLMC_MAIN_H  // the backend without the program
#include "../../train_olmo2.c"
#include "llmc/sampler.h"
#include "bench.h"

typedef struct {
    OLMo2 *model;
    size_t prompt, new;
    float *logits;              // (V)
    SamplerCandidate *scratch;  // (V)
} Run;

static bool generate_once(void *of, char parts[128], Error *err) {
    const Run *r = (const Run *)of;
    const size_t slot = 0, V = olmo2_config(r->model)->V;
    const SamplerSettings greedy = {.temperature = 0.0, .top_p = 1.0};
    uint32_t token = 1;
    (void)parts, (void)err;
    olmo2_truncate(r->model, slot, 0);
    // The last new token is never an input.
    for (size_t t = 0; t + 1 < r->prompt + r->new; t++) {
        olmo2_decode(r->model, &token, &slot, 1, r->logits);
        token = t + 1 < r->prompt ? (token * 7919 + 1) % (uint32_t)V
                                  : sampler_next(r->logits, V, &greedy, NULL, r->scratch);
    }
    return true;
}

int main(int argc, char **argv) {
    Error err = {{0}};
    Run r = {.prompt = 16, .new = 128};
    OLMo2Config c = bench_config();
    OLMo2Form form = olmo2_form();
    size_t steps = 5;
    const char *dtype = "fp32";
    const BenchFlag flags[] = {{"steps", &steps, NULL}, {"dtype", NULL, &dtype}, {"prompt", &r.prompt, NULL},
                               {"new", &r.new, NULL},   {"C", &c.C, NULL},       {"L", &c.L, NULL},
                               {"NH", &c.NH, NULL},     {"F", &c.F, NULL},       {"V", &c.V, NULL}};
    bench_must(bench_flags(flags, sizeof flags / sizeof flags[0], argc, argv, &err), &err);
    bench_must(bench_config_complete(&c, &err), &err);
    bench_must(bench_dtype(dtype, &form.bf16_products, &err), &err);
    if (r.prompt == 0 || r.new == 0) { bench_must(fail(&err, "--prompt, --new: expected 1 or more"), &err); }
    const OLMo2Room room = olmo2_room_to_extend(1, r.prompt + r.new, 1);
    bench_must(olmo2_create(&r.model, &c, &room, &form, &err), &err);
    bench_must(bench_weights(r.model, &err), &err);
    r.logits = (float *)allocate(c.V, sizeof *r.logits, "a row of logits", &err);
    bench_must(r.logits != NULL, &err);
    r.scratch = (SamplerCandidate *)allocate(c.V, sizeof *r.scratch, "a row of logits", &err);
    bench_must(r.scratch != NULL, &err);

    char backend[64], notes[128];
    olmo2_describe(&room, &form, backend, sizeof backend);
    printf("%s, %.1fM parameters, %zu tokens after %zu\n", backend, (double)parameter_total(&c) / 1e6, r.new,
           r.prompt);
    snprintf(notes, sizeof notes, "tokens %zu parameters %zu", r.new, parameter_total(&c));
    bench_must(bench_turns(steps, notes, generate_once, &r, &err), &err);
    free(r.logits);
    free(r.scratch);
    olmo2_free(r.model);
    return 0;
}
