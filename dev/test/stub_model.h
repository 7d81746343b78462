// stub_model.h: an OLMo2 that consists of its arrays only, for the tests of code that reads and writes
// models.
#ifndef DEV_TEST_STUB_MODEL_H
#define DEV_TEST_STUB_MODEL_H

#include "llmc/parameters.h"

struct OLMo2 {
    OLMo2Config config;
    float *arrays[4];  // by OLMo2Array, each parameter_array_size(&config)
};

bool olmo2_create(OLMo2 **m, const OLMo2Config *config, const OLMo2Room *room, const OLMo2Form *form,
                  Error *err) {
    (void)room;
    (void)form;
    *m = (OLMo2 *)calloc(1, sizeof **m);
    if (*m == NULL) { return fail(err, "out of memory"); }
    (*m)->config = *config;
    for (int i = 0; i < 4; i++) {
        (*m)->arrays[i] = (float *)allocate(parameter_array_size(config), sizeof(float), "an array", err);
        if ((*m)->arrays[i] == NULL) {
            olmo2_free(*m);
            return false;
        }
    }
    return true;
}

void olmo2_free(OLMo2 *m) {
    for (int i = 0; i < 4; i++) { free(m->arrays[i]); }
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

#endif
