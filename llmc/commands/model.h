// model.h: how generate, chat and eval get their model.
//
//   model_load    the model of an opened source, with its weights
#ifndef LLMC_COMMANDS_MODEL_H
#define LLMC_COMMANDS_MODEL_H

#include "llmc/settings.h"
#include "llmc/source.h"
#include "must.h"

// Ends the program with a message if it fails. The source must outlive the model; the caller frees the model.
static inline OLMo2 *model_load(Source *source, const OLMo2Room *room, const Settings *s) {
    Error err;
    OLMo2 *m;
    OLMo2Form form = olmo2_form();
    form.bf16_products = s->dtype == PRODUCTS_BF16;
    must(olmo2_create(&m, &source->config, room, &form, &err), &err);
    must(checkpoint_load_weights(m, source->dir, &err), &err);
    return m;
}

#endif
