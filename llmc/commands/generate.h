// generate.h: the command `generate`: a prompt and the model's continuation.
#ifndef LLMC_COMMANDS_GENERATE_H
#define LLMC_COMMANDS_GENERATE_H

#include "llmc/generation.h"
#include "llmc/settings.h"
#include "model.h"

static inline void generate(const Settings *s) {
    Error err, warning = {""};
    Source source;
    TokenBuffer ids;
    const SamplerSettings sampler = {s->temperature, (size_t)s->top_k, s->top_p};
    memset(&ids, 0, sizeof ids);

    must(source_open(&source, s->load, s->tokenizer, &warning, &err), &err);
    warn(&warning);
    must(prompt_encode(&source.text, &source.config, s->prompt, &ids, &err), &err);
    const size_t positions = text_positions(&source.config, ids.length, (size_t)s->max_tokens);
    const OLMo2Room room = olmo2_room_to_extend(1, positions, 1);
    OLMo2 *m = model_load(&source, &room, s);

    printf("%s", s->prompt != NULL ? s->prompt : "");
    must(generate_text(m, &source.text, &ids, positions, &sampler, (uint64_t)s->seed, stdout, NULL, &err),
         &err);
    printf("\n");

    free(ids.ids);
    olmo2_free(m);
    source_close(&source);
}

#endif
