// test_engine_model.c: on the CPU backend, the engine's texts and log-probabilities have the bits of a loop that
// decodes one text token by token, for any number of slots and rows, for grouped queries and the ablations.
#include "check.h"
#define LLMC_MAIN_H  // the backend without the program
#include "train_olmo2.c"
#include "llmc/engine.h"

enum { V = 67, LENGTH = 48, PROMPTS = 4, SAMPLES = 3, TEXTS = PROMPTS * SAMPLES, NEW = 9 };

static Error err;

typedef struct {
    uint32_t ids[NEW];
    float logprobs[NEW];
    size_t length;
} Kept;

typedef struct {
    Kept texts[TEXTS];
    size_t count;
} Keeper;

static bool keep(void *context, const EngineText *text, Error *error) {
    Keeper *k = (Keeper *)context;
    Kept *kept = &k->texts[k->count++];
    (void)error;
    kept->length = text->length;
    memcpy(kept->ids, text->ids, text->length * sizeof *kept->ids);
    memcpy(kept->logprobs, text->logprobs, text->length * sizeof *kept->logprobs);
    return true;
}

static OLMo2 *new_model(int study, const OLMo2Room *room) {
    const OLMo2Config config = {.C = 20,
                                .L = 2,
                                .NH = 4,
                                .NKV = 2,
                                .HS = 6,
                                .F = 28,
                                .V = V,
                                .max_T = LENGTH,
                                .rms_eps = 1e-6f,
                                .rope_theta = 500000.0f,
                                .eos = 5,
                                .ablate_qk_norm = (study & 1) != 0,
                                .pre_norm = (study & 2) != 0};
    const OLMo2Form form = olmo2_form();
    OLMo2 *m;
    Pcg64 rng;
    pcg64_seed(&rng, 1);
    if (!olmo2_create(&m, &config, room, &form, &err)) {
        printf("%s\n", err.text);
        exit(1);
    }
    for (size_t i = 0; i < parameter_count(&config); i++) {
        const Parameter p = parameter_at(&config, i);
        float *values = (float *)allocate(p.size, sizeof *values, "a tensor", &err);
        for (size_t k = 0; k < p.size; k++) {  // attention far from uniform, logits up to about 3
            const float noise = 2.0f * (float)pcg64_double(&rng) - 1.0f;
            values[k] = p.row->init == INIT_ONE ? 1.0f + 0.3f * noise : 0.4f * noise;
        }
        olmo2_write(m, OLMO2_PARAMETER, i, values);
        free(values);
    }
    return m;
}

// One text, by olmo2_decode alone.
static Kept write_plainly(OLMo2 *m, const EnginePrompt *prompt, size_t sample, const EngineSettings *s) {
    static SamplerCandidate scratch[V];
    const size_t slot = 0;
    float logits[V];
    Kept kept = {{0}, {0.0f}, 0};
    Pcg64 rng;
    pcg64_seed(&rng, engine_seed(s->seed, prompt->key, sample));
    olmo2_truncate(m, slot, 0);
    for (size_t t = 0; t < prompt->length; t++) { olmo2_decode(m, &prompt->ids[t], &slot, 1, logits); }
    while (true) {
        const uint32_t id = sampler_next(logits, V, &s->sampler, &rng, scratch);
        kept.logprobs[kept.length] = engine_logprob(logits, V, id);
        kept.ids[kept.length++] = id;
        if (config_is_end(olmo2_config(m), id) || kept.length == NEW) { return kept; }
        olmo2_decode(m, &id, &slot, 1, logits);
    }
}

static void test_bits(int study) {
    static uint32_t ids[PROMPTS][LENGTH];
    static Keeper want, found;
    EnginePrompt prompts[PROMPTS];
    const EngineSettings settings = {{1.0, 0, 1.0, 0.0}, 3, NEW, NULL, 0, true};
    const EngineReader reader = {&found, NULL, keep};
    const OLMo2Room one = olmo2_room_to_extend(1, LENGTH, 1);
    OLMo2 *m = new_model(study, &one);
    memset(&want, 0, sizeof want);
    for (size_t p = 0; p < PROMPTS; p++) {  // of 1, 13, 25 and 37 tokens, the first 20 of them in common
        const EnginePrompt prompt = {ids[p], 1 + 12 * p, SAMPLES, p, "a prompt"};
        for (size_t i = 0; i < prompt.length; i++) { ids[p][i] = (uint32_t)(7 * i + (i < 20 ? 0 : p)) % V; }
        prompts[p] = prompt;
        for (size_t sample = 0; sample < SAMPLES; sample++) {
            want.texts[want.count++] = write_plainly(m, &prompts[p], sample, &settings);
        }
    }
    olmo2_free(m);
    for (size_t slots = 1; slots <= 5; slots++) {
        for (size_t rows = slots; rows <= 80; rows = 3 * rows + 1) {
            const OLMo2Room room = olmo2_room_to_extend(slots, LENGTH, rows);
            Engine e;
            m = new_model(study, &room);
            CHECK(engine_open(&e, m, &room, NULL, &err));
            for (int again = 0; again <= 1; again++) {
                memset(&found, 0, sizeof found);
                CHECK(engine_run(&e, prompts, PROMPTS, &settings, &reader, NULL, &err));
                CHECK(memcmp(&found, &want, sizeof want) == 0);
            }
            engine_close(&e);
            olmo2_free(m);
        }
    }
}

int main(void) {
    for (int study = 0; study < 4; study++) { test_bits(study); }
    return check_report();
}
