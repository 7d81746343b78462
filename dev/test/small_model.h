// small_model.h: a small model that only stores, for the tests of what reads and writes models.
#ifndef DEV_TEST_SMALL_MODEL_H
#define DEV_TEST_SMALL_MODEL_H

#include "scratch.h"
#include "stub_model.h"

// Grouped queries, a head size that is not a power of two, NH * HS != C, an odd vocabulary.
static inline OLMo2Config small_config(void) {
    OLMo2Config config;
    CHECK(olmo2_preset(&config, "14M"));
    config.C = 20, config.L = 3, config.NH = 4, config.NKV = 2, config.HS = 6, config.F = 14, config.V = 37;
    config.max_T = 64;
    config.eos = 1, config.pad = 2;
    return config;
}

static inline OLMo2 *make_model(const OLMo2Config *config, float first) {
    OLMo2 *m;
    const OLMo2Room room = olmo2_room_to_train(0, 0);
    const OLMo2Form form = olmo2_form();
    if (!olmo2_create(&m, config, &room, &form, &err)) {
        printf("%s\n", err.text);
        exit(1);
    }
    for (size_t a = 0; a < 4; a++) {
        for (size_t i = 0; i < parameter_array_size(config); i++) {
            m->arrays[a][i] = first + (float)a * 0.25f + (float)i;
        }
    }
    return m;
}

// The same bits in one array of two models, padding left out.
static inline bool same_array(const OLMo2 *a, const OLMo2 *b, OLMo2Array array) {
    for (size_t i = 0; i < parameter_count(&a->config); i++) {
        Parameter p = parameter_at(&a->config, i);
        if (memcmp(a->arrays[array] + p.offset, b->arrays[array] + p.offset, p.size * sizeof(float)) != 0) {
            return false;
        }
    }
    return true;
}

#endif
