// release_driver.c: what reference_release.py compares with transformers.
//
//   release_driver DIR auto|bf16|fp32 <SEQUENCES >LOGITS
//
// Reads sequences of uint32: the number of tokens, how many of them olmo2_prefill computes (olmo2_decode takes
// the others one by one), the tokens. Writes the float32 logits (tokens, V) of each. What the weights are is
// said on stderr.
#define LLMC_MAIN_H  // the backend without the program
#include "train_olmo2.c"

#include "llmc/commands/must.h"
#include "llmc/source.h"

enum { MOST = 256 };

static void write_logits(OLMo2 *m, const uint32_t *tokens, size_t n, size_t prefill, float *logits) {
    const size_t V = olmo2_config(m)->V, slot = 0;
    const OLMo2Piece piece = {slot, prefill};
    olmo2_truncate(m, slot, 0);
    olmo2_prefill(m, tokens, &piece, 1);
    for (size_t i = 0; i < n; i++) {
        if (i < prefill) {
            olmo2_logits(m, &i, 1, logits);
        } else {
            olmo2_decode(m, &tokens[i], &slot, 1, logits);
        }
        fwrite(logits, sizeof *logits, V, stdout);
    }
}

int main(int argc, char **argv) {
    uint32_t head[2], tokens[MOST];
    const OLMo2Room room = olmo2_room_to_extend(1, MOST, MOST);
    Error err, warning = {""};
    Source source;
    OLMo2 *m;
    OLMo2Form form = olmo2_form();
    char text[160];
    must(argc == 3 || fail(&err, "expected DIR auto|bf16|fp32"), &err);
    const WeightChoice choice = strcmp(argv[2], "bf16") == 0   ? WEIGHTS_AS_BF16
                                : strcmp(argv[2], "fp32") == 0 ? WEIGHTS_AS_FP32
                                                               : WEIGHTS_AUTO;
    must(source_open(&source, argv[1], NULL, &warning, &err), &err);
    warn(&warning);
    must(weights_open(&source.weights, source.dir, &source.config, choice, &err), &err);
    weights_form(&source.weights, &form);
    must(olmo2_create(&m, &source.config, &room, &form, &err), &err);
    must(weights_load(&source.weights, m, NULL, NULL, &err), &err);
    fprintf(stderr, "%s\n", weights_describe(&source.weights, text));
    float *logits = (float *)allocate(source.config.V, sizeof *logits, "the logits", &err);
    must(logits != NULL, &err);
    while (fread(head, sizeof *head, 2, stdin) == 2) {
        const bool fits = head[0] <= MOST && head[1] >= 1 && head[1] <= head[0];
        must((fits && fread(tokens, sizeof *tokens, head[0], stdin) == head[0]) ||
                 fail(&err, "a bad sequence"),
             &err);
        write_logits(m, tokens, head[0], head[1], logits);
    }
    free(logits);
    olmo2_free(m);
    source_close(&source);
    must(output_written(&err), &err);
    return 0;
}
