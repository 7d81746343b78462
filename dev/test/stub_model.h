// stub_model.h: an OLMo2 that consists of its arrays only, for the tests of code that reads and writes
// models.
#ifndef DEV_TEST_STUB_MODEL_H
#define DEV_TEST_STUB_MODEL_H

#include "llmc/parameters.h"

struct OLMo2 {
    OLMo2Config config;
    OLMo2Form form;
    float *arrays[4];   // by OLMo2Array, each parameter_array_size(&config)
    const void **lent;  // (parameter_count(&config)) by olmo2_lend
};

// What kind of backend it is: whether it lends, the bytes that it keeps for a weight if it does not, and the
// bytes of its cache.
static bool stub_lends;
static size_t stub_weight_bytes = sizeof(float), stub_cache;

bool olmo2_lends(void) { return stub_lends; }

OLMo2Memory olmo2_memory(const OLMo2Config *config, const OLMo2Room *room, const OLMo2Form *form) {
    OLMo2Memory memory;
    (void)room;
    memset(&memory, 0, sizeof memory);
    const size_t bytes = stub_lends ? (form->weights == WEIGHTS_BF16 ? 2 : 4) : stub_weight_bytes;
    memory.weights = form->lent_weights ? 0 : parameter_array_size(config) * bytes;
    memory.cache = stub_cache;
    memory.total = memory.weights + memory.cache;
    return memory;
}

bool olmo2_create(OLMo2 **m, const OLMo2Config *config, const OLMo2Room *room, const OLMo2Form *form,
                  Error *err) {
    (void)room;
    *m = (OLMo2 *)calloc(1, sizeof **m);
    if (*m == NULL) { return fail(err, "out of memory"); }
    (*m)->config = *config;
    (*m)->form = *form;
    for (int i = 0; i < 4; i++) {
        (*m)->arrays[i] = (float *)allocate(parameter_array_size(config), sizeof(float), "an array", err);
    }
    (*m)->lent = (const void **)allocate(parameter_count(config), sizeof(void *), "lent arrays", err);
    for (int i = 0; i < 4; i++) {
        if ((*m)->arrays[i] == NULL || (*m)->lent == NULL) {
            olmo2_free(*m);
            return false;
        }
    }
    return true;
}

void olmo2_free(OLMo2 *m) {
    for (int i = 0; i < 4; i++) { free(m->arrays[i]); }
    free(m->lent);
    free(m);
}

const OLMo2Config *olmo2_config(const OLMo2 *m) { return &m->config; }

void olmo2_read(const OLMo2 *m, OLMo2Array array, size_t index, float *values) {
    Parameter p = parameter_at(&m->config, index);
    memcpy(values, m->arrays[array] + p.offset, p.size * sizeof *values);
}

void olmo2_write(OLMo2 *m, OLMo2Array array, size_t index, const float *values) {
    Parameter p = parameter_at(&m->config, index);
    memcpy(m->arrays[array] + p.offset, values, p.size * sizeof *values);
}

void olmo2_lend(OLMo2 *m, size_t index, const void *data) { m->lent[index] = data; }

#endif
