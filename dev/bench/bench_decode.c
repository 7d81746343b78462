// bench_decode.c: milliseconds to read prompts and to decode greedily, with random weights.
//   build/bench_decode [--steps N] [--dtype fp32|bf16] [--slots 1] [--prompt 16] [--new 128]
//                      [--C 512 --L 8 --NH 8 --F 2048 --V 50304]
// --dtype is the type of the weights; activations and sums are fp32. --slots sequences grow side by side. With
// --new 1, only the prompt is read. bench_decode.py does the same with transformers. bench.h describes the
// output of both, and --steps 0.
#define LLMC_MAIN_H  // the backend without the program
#include "../../train_olmo2.c"
#include "llmc/sampler.h"
#include "bench.h"

typedef struct {
    OLMo2 *model;
    size_t slots, prompt, new;
    uint32_t *prompts, *tokens;  // (slots, prompt), (slots): the last token of each sequence
    OLMo2Piece *pieces;          // (slots)
    size_t *rows, *order;        // (slots): the last row of each prompt; the slots themselves
    float *logits;               // (slots, V)
    SamplerCandidate *scratch;   // (V)
} Run;

static void choose(const Run *r) {
    const SamplerSettings greedy = {.temperature = 0.0, .top_p = 1.0};
    const size_t V = olmo2_config(r->model)->V;
    for (size_t s = 0; s < r->slots; s++) {
        r->tokens[s] = sampler_next(r->logits + s * V, V, &greedy, NULL, r->scratch);
    }
}

static bool generate_once(void *of, char parts[128], Error *err) {
    const Run *r = (const Run *)of;
    (void)parts, (void)err;
    for (size_t s = 0; s < r->slots; s++) { olmo2_truncate(r->model, s, 0); }
    olmo2_prefill(r->model, r->prompts, r->pieces, r->slots);
    olmo2_logits(r->model, r->rows, r->slots, r->logits);
    choose(r);
    for (size_t t = 1; t < r->new; t++) {  // the last new token is never an input
        olmo2_decode(r->model, r->tokens, r->order, r->slots, r->logits);
        choose(r);
    }
    return true;
}

static void *must_allocate(size_t count, size_t size, Error *err) {
    void *memory = allocate(count, size, "the sequences", err);
    bench_must(memory != NULL, err);
    return memory;
}

int main(int argc, char **argv) {
    Error err = {{0}};
    Run r = {.slots = 1, .prompt = 16, .new = 128};
    OLMo2Config c = bench_config();
    OLMo2Form form = olmo2_form();
    size_t steps = 5;
    const char *dtype = "fp32";
    const BenchFlag flags[] = {{"steps", &steps, NULL},   {"dtype", NULL, &dtype},
                               {"slots", &r.slots, NULL}, {"prompt", &r.prompt, NULL},
                               {"new", &r.new, NULL},     {"C", &c.C, NULL},
                               {"L", &c.L, NULL},         {"NH", &c.NH, NULL},
                               {"F", &c.F, NULL},         {"V", &c.V, NULL}};
    bool bf16 = false;
    bench_must(bench_flags(flags, sizeof flags / sizeof flags[0], argc, argv, &err), &err);
    bench_must(bench_config_complete(&c, &err), &err);
    bench_must(bench_dtype(dtype, &bf16, &err), &err);
    if (r.slots == 0 || r.prompt == 0 || r.new == 0) {
        bench_must(fail(&err, "--slots, --prompt, --new: expected 1 or more"), &err);
    }
    form.weights = bf16 ? WEIGHTS_BF16 : WEIGHTS_FP32;
    const OLMo2Room room = olmo2_room_to_extend(r.slots, r.prompt + r.new, r.slots * r.prompt);
    bench_must(olmo2_create(&r.model, &c, &room, &form, &err), &err);
    bench_must(bench_weights(r.model, &err), &err);
    r.prompts = (uint32_t *)must_allocate(r.slots * r.prompt, sizeof *r.prompts, &err);
    r.tokens = (uint32_t *)must_allocate(r.slots, sizeof *r.tokens, &err);
    r.pieces = (OLMo2Piece *)must_allocate(r.slots, sizeof *r.pieces, &err);
    r.rows = (size_t *)must_allocate(r.slots, sizeof *r.rows, &err);
    r.order = (size_t *)must_allocate(r.slots, sizeof *r.order, &err);
    r.logits = (float *)must_allocate(r.slots * c.V, sizeof *r.logits, &err);
    r.scratch = (SamplerCandidate *)must_allocate(c.V, sizeof *r.scratch, &err);
    for (size_t i = 0; i < r.slots * r.prompt; i++) { r.prompts[i] = (uint32_t)((i * 7919 + 1) % c.V); }
    for (size_t s = 0; s < r.slots; s++) {
        r.pieces[s] = (OLMo2Piece){s, r.prompt};
        r.rows[s] = (s + 1) * r.prompt - 1;
        r.order[s] = s;
    }

    char backend[64], notes[128];
    olmo2_describe(&room, &form, backend, sizeof backend);
    printf("%s, %.1fM parameters, %zu x %zu tokens after %zu\n", backend, (double)parameter_total(&c) / 1e6,
           r.slots, r.new, r.prompt);
    snprintf(notes, sizeof notes, "tokens %zu parameters %zu", r.slots * (r.new == 1 ? r.prompt : r.new),
             parameter_total(&c));
    bench_must(bench_turns(steps, notes, generate_once, &r, &err), &err);
    free(r.prompts);
    free(r.tokens);
    free(r.pieces);
    free(r.rows);
    free(r.order);
    free(r.logits);
    free(r.scratch);
    olmo2_free(r.model);
    return 0;
}
