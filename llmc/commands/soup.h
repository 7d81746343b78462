// soup.h: the command `soup`: the uniform mean of models, which OLMo 2 makes of its mid-training runs (arXiv
// 2501.00656, section 4.5).
#ifndef LLMC_COMMANDS_SOUP_H
#define LLMC_COMMANDS_SOUP_H

#include "llmc/settings.h"
#include "llmc/source.h"
#include "meter.h"
#include "must.h"

static inline bool same_shape(const OLMo2Config *a, const OLMo2Config *b) {
    return a->C == b->C && a->L == b->L && a->NH == b->NH && a->NKV == b->NKV && a->HS == b->HS &&
           a->F == b->F && a->V == b->V && a->rms_eps == b->rms_eps && a->rope_theta == b->rope_theta &&
           a->ablate_qk_norm == b->ablate_qk_norm && a->pre_norm == b->pre_norm;
}

// Sets tensor `index` of m to the mean over n models. sum and values have room for it. In double the sum of
// equal floats is exact, so equal models give back their own bits.
static inline bool soup_tensor(OLMo2 *m, size_t index, const Safetensors *inputs, size_t n, Reading *reading,
                               double *sum, float *values, Error *err) {
    Parameter p = parameter_at(olmo2_config(m), index);
    memset(sum, 0, p.size * sizeof *sum);
    for (size_t i = 0; i < n; i++) {
        const SafetensorsTensor *tensor = safetensors_find(&inputs[i], p.name);
        if (!reading_tensor(reading, tensor, err)) { return false; }
        if (!safetensors_to_float(tensor, values, err)) { return false; }
        reading_forget(tensor);
        for (size_t k = 0; k < p.size; k++) { sum[k] += (double)values[k]; }
        size_t finite = 0;
        while (finite < p.size && isfinite(values[finite])) { finite++; }
        if (finite < p.size) {
            return fail(err,
                        "%s: number %zu of tensor \"%s\" is %s: the weights are damaged, or the training "
                        "diverged; leave this model out",
                        tensor->file, finite, tensor->name, isnan(values[finite]) ? "nan" : "infinite");
        }
    }
    for (size_t k = 0; k < p.size; k++) { values[k] = (float)(sum[k] / (double)n); }
    olmo2_write(m, OLMO2_PARAMETER, index, values);
    return true;
}

// m becomes the mean of n models. Their files are mapped, so there is never a second model in memory.
static inline void soup_mean(OLMo2 *m, const Source *models, size_t n) {
    const OLMo2Config *config = olmo2_config(m);
    const size_t largest = parameter_largest(config);
    Meter meter = meter_begin_bytes("models");
    Reading reading = {meter_heard, &meter, 0, 0};
    bool ok = true;
    Error err;
    double *sum = (double *)allocate(largest, sizeof *sum, "the sum of a tensor", &err);
    must(sum != NULL, &err);
    float *values = (float *)allocate(largest, sizeof *values, "a tensor", &err);
    must(values != NULL, &err);
    Safetensors *inputs = (Safetensors *)allocate(n, sizeof *inputs, "the list of models", &err);
    must(inputs != NULL, &err);
    for (size_t i = 0; i < n; i++) {
        must(checkpoint_open(&inputs[i], models[i].dir, &weights_file, config, &err), &err);
        for (size_t k = 0; k < inputs[i].count; k++) { reading.total += inputs[i].tensors[k].bytes; }
    }
    for (size_t index = 0; ok && index < parameter_count(config); index++) {
        ok = soup_tensor(m, index, inputs, n, &reading, sum, values, &err);
    }
    meter_end(&meter);
    must(ok, &err);
    for (size_t i = 0; i < n; i++) { safetensors_close(&inputs[i]); }
    free(inputs);
    free(values);
    free(sum);
}

static inline void soup(const Settings *s) {
    const size_t n = s->inputs.count;
    const OLMo2Room room = olmo2_room_to_measure(0, 0);
    const OLMo2Form form = olmo2_form();
    Error err, warning = {""};
    OLMo2 *m;
    if (access(s->out, F_OK) == 0) {
        fail(&err, "--out %s: exists; choose another name", s->out);
        must(false, &err);
    }
    Source *models = (Source *)allocate(n, sizeof *models, "the list of models", &err);
    must(models != NULL, &err);
    for (size_t i = 0; i < n; i++) {
        must(source_open(&models[i], s->inputs.items[i], NULL, &warning, &err), &err);
        warn(&warning);
        if (!same_shape(&models[0].config, &models[i].config)) {
            fail(&err, "%s and %s: their config.json differ, and only models of one shape have a mean",
                 models[0].dir, models[i].dir);
            must(false, &err);
        }
    }
    must(olmo2_create(&m, &models[0].config, &room, &form, &err), &err);
    soup_mean(m, models, n);
    const Text *text = &models[0].text;
    const CheckpointParts parts = {&models[0].said, text->present ? text->path : NULL, NULL};
    must(checkpoint_write_model(m, s->out, &parts, &warning, &err), &err);
    warn(&warning);
    printf("%s: the mean of %zu models\n", s->out, n);
    for (size_t i = 0; i < n; i++) { source_close(&models[i]); }
    free(models);
    olmo2_free(m);
}

#endif
