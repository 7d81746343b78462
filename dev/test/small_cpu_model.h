// small_cpu_model.h: the CPU backend, and small random models of it, for test_model.c and test_prefill.c.
#ifndef DEV_TEST_SMALL_CPU_MODEL_H
#define DEV_TEST_SMALL_CPU_MODEL_H

#define LLMC_MAIN_H  // the backend without the program
#include "train_olmo2.c"

static uint64_t random_state = 7;

static uint32_t random_below(uint32_t n) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 33) % n;
}

static OLMo2Config small_config(size_t C, size_t NH, size_t NKV, size_t HS) {
    return (OLMo2Config){.C = C,
                         .L = 2,
                         .NH = NH,
                         .NKV = NKV,
                         .HS = HS,
                         .F = 3 * C / 2,
                         .V = 101,
                         .max_T = 128,
                         .rms_eps = 1e-6f,
                         .rope_theta = 500000.0f,
                         .init_std = 0.02f};
}

// Weights large enough that attention is far from uniform.
static void randomize(OLMo2 *m) {
    random_state = 7;
    for (size_t i = 0; i < parameter_count(&m->config); i++) {
        const Parameter p = parameter_at(&m->config, i);
        for (size_t k = 0; k < p.size; k++) {
            const float noise = (float)random_below(2001) / 1000.0f - 1.0f;
            m->weights[p.offset + k] = p.row->init == INIT_ONE ? 1.0f + 0.3f * noise : 0.2f * noise;
        }
    }
}

static OLMo2 *new_model_of(const OLMo2Config *config, const OLMo2Room *room, const OLMo2Form *form) {
    Error err = {{0}};
    OLMo2 *m;
    if (!olmo2_create(&m, config, room, form, &err)) {
        printf("%s\n", err.text);
        exit(1);
    }
    randomize(m);
    return m;
}

static OLMo2 *new_model(const OLMo2Config *config, const OLMo2Room *room) {
    const OLMo2Form form = olmo2_form();
    return new_model_of(config, room, &form);
}

#endif
