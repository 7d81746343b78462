// initialize.h: the first weights of a new model.
//
//   initialize_weights(m, seed, err)   the same numbers for the same seed, on every backend
#ifndef LLMC_INITIALIZE_H
#define LLMC_INITIALIZE_H

#include "parameters.h"
#include "rand.h"

// Every weight from one stream of random numbers, in the order of the table (parameters.h): INIT_NORMAL draws
// from a normal distribution cut off at 3 standard deviations, INIT_ONE is 1.
static inline bool initialize_weights(OLMo2 *m, uint64_t seed, Error *err) {
    const OLMo2Config *config = olmo2_config(m);
    Pcg64 rng;
    pcg64_seed(&rng, seed);
    float *values = (float *)allocate(parameter_largest(config), sizeof *values, "a tensor", err);
    for (size_t index = 0; values != NULL && index < parameter_count(config); index++) {
        Parameter p = parameter_at(config, index);
        for (size_t i = 0; i < p.size; i++) {
            values[i] = p.row->init == INIT_ONE ? 1.0f : pcg64_truncated_normal(&rng, config->init_std);
        }
        olmo2_write(m, OLMO2_PARAMETER, index, values);
    }
    free(values);
    return values != NULL;
}

#endif
