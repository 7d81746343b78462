// commands.h: what can be done with a model besides training it: generate, eval, soup, inspect; and tokenize
// and detokenize. Training uses the same functions for its samples and validations.
#ifndef LLMC_COMMANDS_H
#define LLMC_COMMANDS_H

#include "dataloader.h"
#include "flags.h"
#include "log.h"
#include "objectives.h"
#include "sampler.h"
#include "source.h"
#include "stability.h"
#include "token_writer.h"

// An error or a warning as a person sees it: on stderr, its further lines set in.
static inline void print_message(const char *kind, const char *message) {
    fprintf(stderr, "%s: ", kind);
    for (const char *c = message; *c != '\0'; c++) {
        fputc(*c, stderr);
        if (*c == '\n') {
            c += strspn(c + 1, " ");
            fputs("       ", stderr);
        }
    }
    fputc('\n', stderr);
}

// ---------------------------------------------------------------------------------------------
// batches

// A model takes no more than its max_position_embeddings, and one token alone has no label.
static inline bool check_length(const OLMo2Config *config, size_t T, Error *err) {
    return (T >= 2 && T <= config->max_T) ||
           fail(err, "--seq-len %zu: expected 2 to %zu, the model's max_position_embeddings", T,
                config->max_T);
}

// B sequences of T tokens at once, of which 64-bit sizes can count every number: 16 for each channel of each
// layer are more than the activations and the workspace hold.
static inline bool check_batch(const OLMo2Config *config, size_t B, size_t T, Error *err) {
    const size_t channels = config->C + (config->NH + config->NKV) * config->HS + config->F;
    size_t n;
    return check_length(config, T, err) &&
           ((multiply_sizes(B, T, &n) &&
             multiply_sizes(n, 16 * sizeof(float) * (config->L + 1) * channels, &n)) ||
            fail(err, "%zu sequences of %zu tokens at once are more than any machine can hold", B, T));
}

// B sequences of T tokens, and what the model says of them.
typedef struct {
    size_t B, T;
    uint32_t *tokens;       // (B, T)
    uint8_t *mask;          // (B, T)
    bool *filtered;         // (B)
    uint32_t *labels;       // (B, T)
    float *weights;         // (B, T)
    float *logprobs, *lse;  // (B, T)
} Batch;

static inline void batch_free(Batch *batch) {
    free(batch->tokens);
    free(batch->mask);
    free(batch->filtered);
    free(batch->labels);
    free(batch->weights);
    free(batch->logprobs);
    free(batch->lse);
    memset(batch, 0, sizeof *batch);
}

// Room for B sequences. Release with batch_free, also after a failure.
static inline bool batch_create(Batch *batch, size_t B, size_t T, Error *err) {
    const char *what = "a batch of tokens";
    size_t n;
    memset(batch, 0, sizeof *batch);
    if (!multiply_sizes(B, T, &n)) { return fail(err, "%zu sequences of %zu tokens are too many", B, T); }
    batch->B = B;
    batch->T = T;
    batch->tokens = (uint32_t *)allocate(n, sizeof *batch->tokens, what, err);
    batch->mask = (uint8_t *)allocate(n, sizeof *batch->mask, what, err);
    batch->filtered = (bool *)allocate(B, sizeof *batch->filtered, what, err);
    batch->labels = (uint32_t *)allocate(n, sizeof *batch->labels, what, err);
    batch->weights = (float *)allocate(n, sizeof *batch->weights, what, err);
    batch->logprobs = (float *)allocate(n, sizeof *batch->logprobs, what, err);
    batch->lse = (float *)allocate(n, sizeof *batch->lse, what, err);
    return batch->tokens != NULL && batch->mask != NULL && batch->filtered != NULL && batch->labels != NULL &&
           batch->weights != NULL && batch->logprobs != NULL && batch->lse != NULL;
}

// The next n <= B sequences of the loader, with their labels.
static inline bool batch_next(Batch *batch, DataLoader *loader, size_t n, Error *err) {
    if (!dataloader_next(loader, n, batch->tokens, batch->mask, batch->filtered, err)) { return false; }
    objective_labels(batch->labels, batch->tokens, batch->mask, batch->filtered, n, batch->T);
    return true;
}

// ---------------------------------------------------------------------------------------------
// measuring a model

typedef struct {
    size_t labels, bytes;
    double loss;           // mean cross-entropy per label, in nats
    double perplexity;     // exp(loss)
    double bits_per_byte;  // cross-entropy of all labels, in bits, by bytes of text; NAN without a tokenizer
    double z;              // mean z term
} Evaluation;

// Reads the first `instances` sequences of an unshuffled loader, so that a measurement on them cannot fail
// later for a bad token or for want of a label.
static inline bool evaluation_check(DataLoader *loader, size_t instances, Batch *batch, Error *err) {
    size_t labels = 0;
    for (size_t i = 0; i < instances; i++) {
        if (!batch_next(batch, loader, 1, err)) { return false; }
        labels += objective_count(batch->labels, batch->T);
    }
    return labels > 0 || fail(err, "%s: no token of it is a label", loader->files[0].path);
}

// Measures the model on the first `instances` sequences of a loader, which evaluation_check has accepted, `B`
// at a time.
static inline bool evaluate(Evaluation *e, OLMo2 *m, DataLoader *loader, size_t instances, Batch *batch,
                            size_t B, double z, const Text *text, Error *err) {
    LmSums sums;
    memset(e, 0, sizeof *e);
    memset(&sums, 0, sizeof sums);
    dataloader_rewind(loader);
    for (size_t done = 0; done < instances; done += B) {
        size_t n = instances - done < B ? instances - done : B;
        if (!batch_next(batch, loader, n, err)) { return false; }
        olmo2_forward(m, batch->tokens, n, batch->T);
        olmo2_classify(m, batch->labels, NULL, 0.0f, batch->logprobs, batch->lse);
        lm_add(&sums, batch->labels, batch->logprobs, batch->lse, n * batch->T, z);
        for (size_t i = 0; i < n * batch->T && text->present; i++) {
            if (batch->labels[i] != OLMO2_NO_TOKEN) { e->bytes += text->bytes[batch->labels[i]]; }
        }
    }
    e->labels = sums.labels;
    e->loss = sums.ce / (double)sums.labels;
    e->perplexity = exp(e->loss);
    e->bits_per_byte = e->bytes > 0 ? sums.ce / log(2.0) / (double)e->bytes : NAN;
    e->z = sums.z / (double)sums.labels;
    return true;
}

// ---------------------------------------------------------------------------------------------
// writing text

// Appends the prompt's tokens. No prompt means a new document: what comes after the end of the one before.
static inline bool prompt_encode(const Text *text, const OLMo2Config *config, const char *prompt,
                                 TokenBuffer *ids, Error *err) {
    if (!text->present) { return fail(err, "--tokenizer: text cannot be written without one"); }
    if (prompt != NULL && prompt[0] != '\0') {
        if (!tokenizer_encode(&text->tokenizer, prompt, strlen(prompt), ids, err)) { return false; }
    } else if (config->eos == OLMO2_NO_TOKEN) {
        return fail(err,
                    "--prompt: is empty, and the model has no end of document (eos_token_id) to begin after");
    } else {
        if (!token_buffer_reserve(ids, 1, err)) { return false; }
        ids->ids[ids->length++] = config->eos;
    }
    if (ids->length >= config->max_T) {
        return fail(err, "--prompt: has %zu tokens, the model takes %zu with what it writes", ids->length,
                    config->max_T);
    }
    return true;
}

// The positions that a text of so many new tokens takes: no more than the model has seen in training.
static inline size_t text_positions(const OLMo2Config *config, size_t prompt, size_t max_tokens) {
    return prompt + max_tokens < config->max_T ? prompt + max_tokens : config->max_T;
}

static inline void write_piece(const Text *text, uint32_t id, FILE *out) {
    size_t size = 0;
    const char *piece = tokenizer_piece(&text->tokenizer, id, &size);
    if (piece != NULL) { fwrite(piece, 1, size, out); }
    fflush(out);
}

// Appends the model's continuation to ids, until there are `positions` or the document ends, and writes its
// text to `out` as it comes. The model has a cache of that many positions.
static inline bool generate(OLMo2 *m, const Text *text, TokenBuffer *ids, size_t positions,
                            const SamplerSettings *sampler, uint64_t seed, FILE *out, Error *err) {
    const OLMo2Config *config = olmo2_config(m);
    const size_t slot = 0;
    Pcg64 rng;
    pcg64_seed(&rng, seed);
    olmo2_decode_reset(m, slot);
    float *logits = (float *)allocate(config->V, sizeof *logits, "a row of logits", err);
    SamplerCandidate *scratch =
        (SamplerCandidate *)allocate(config->V, sizeof *scratch, "a row of logits", err);
    bool ok = logits != NULL && scratch != NULL && token_buffer_reserve(ids, positions - ids->length, err);
    for (size_t t = 0; ok && t + 1 < positions; t++) {
        olmo2_decode(m, &ids->ids[t], &slot, 1, logits);
        if (t + 1 < ids->length) { continue; }
        // The rows above the tokenizer's ids are padding.
        uint32_t next = sampler_next(logits, tokenizer_size(&text->tokenizer), sampler, &rng, scratch);
        if (config_is_end(config, next)) { break; }
        ids->ids[ids->length++] = next;
        write_piece(text, next, out);
    }
    free(logits);
    free(scratch);
    return ok;
}

static inline SamplerSettings sampler_settings(const Settings *s) {
    SamplerSettings sampler = {s->temperature, (size_t)s->top_k, s->top_p};
    return sampler;
}

// ---------------------------------------------------------------------------------------------
// generate, eval

// A model that is loaded to be used.
typedef struct {
    Source source;
    OLMo2 *model;
} LoadedModel;

static inline void loaded_model_close(LoadedModel *m) {
    source_close(&m->source);
    olmo2_free(m->model);
    m->model = NULL;
}

// The model directory that a person's DIR means, with a warning of damaged checkpoints that it passes over.
static inline bool find_model(char dir[PATH_MAX], const char *path, Error *err) {
    Error warning = {""};
    bool ok = run_resolve(dir, path, &warning, err);
    if (ok && warning.text[0] != '\0') { print_message("warning", warning.text); }
    return ok;
}

// Finds configuration and tokenizer; loaded_model_create brings the weights, loaded_model_close ends it.
static inline bool loaded_model_open(LoadedModel *m, const Settings *s, Error *err) {
    Error warning = {""};
    m->model = NULL;
    bool ok = source_open(&m->source, s->load, s->tokenizer, &warning, err);
    if (warning.text[0] != '\0') { print_message("warning", warning.text); }
    return ok;
}

// The form in which `generate` and `eval` compute.
static inline OLMo2Form loaded_model_form(const Settings *s) {
    OLMo2Form form = olmo2_form();
    form.bf16_products = s->dtype == PRODUCTS_BF16;
    return form;
}

static inline bool loaded_model_create(LoadedModel *m, const OLMo2Room *room, const OLMo2Form *form,
                                       Error *err) {
    if (!olmo2_create(&m->model, &m->source.config, room, form, err)) { return false; }
    return checkpoint_load_weights(m->model, m->source.dir, err);
}

static inline bool command_generate(const Settings *s, Error *err) {
    LoadedModel m;
    const OLMo2Form form = loaded_model_form(s);
    size_t positions = 0;
    TokenBuffer ids;
    SamplerSettings sampler = sampler_settings(s);
    memset(&ids, 0, sizeof ids);
    bool ok = loaded_model_open(&m, s, err) && prompt_encode(&m.source.text, &m.source.config, s->prompt, &ids, err);
    if (ok) {
        positions = text_positions(&m.source.config, ids.length, (size_t)s->max_tokens);
        const OLMo2Room room = olmo2_room_to_decode(1, positions);
        ok = loaded_model_create(&m, &room, &form, err);
    }
    if (ok) {
        printf("%s", s->prompt != NULL ? s->prompt : "");
        ok = generate(m.model, &m.source.text, &ids, positions, &sampler, (uint64_t)s->seed, stdout, err);
        printf("\n");
    }
    free(ids.ids);
    loaded_model_close(&m);
    return ok;
}

// Sequences to measure on: all, or as many as the flag says.
static inline size_t evaluation_instances(const DataLoader *loader, int64_t wanted) {
    size_t all = dataloader_instances(loader);
    return wanted > 0 && (size_t)wanted < all ? (size_t)wanted : all;
}

// Opens token files to measure on: in their order, unfiltered.
static inline bool evaluation_open(DataLoader *loader, const TextList *files, size_t T, size_t V,
                                   Error *err) {
    LoaderSettings settings;
    memset(&settings, 0, sizeof settings);
    settings.T = T;
    settings.V = V;
    settings.batch = 1;
    return dataloader_open(loader, (const char *const *)files->items, files->count, &settings, err);
}

static inline void evaluation_print(const Evaluation *e) {
    printf("cross-entropy  %.6f nats per token, %zu tokens\n", e->loss, e->labels);
    printf("perplexity     %.4f\n", e->perplexity);
    if (e->bytes > 0) { printf("bits per byte  %.6f, %zu bytes\n", e->bits_per_byte, e->bytes); }
    printf("z term         %.6g\n", e->z);
}

static inline bool command_eval(const Settings *s, Error *err) {
    LoadedModel m;
    DataLoader loader;
    Batch batch;
    const OLMo2Form form = loaded_model_form(s);
    Evaluation e;
    memset(&loader, 0, sizeof loader);
    memset(&batch, 0, sizeof batch);
    bool ok = loaded_model_open(&m, s, err);
    const size_t B = (size_t)s->batch_size, T = s->seq_len > 0 ? (size_t)s->seq_len : m.source.config.max_T;
    const OLMo2Room room = olmo2_room_to_measure(B, T);
    ok = ok && check_batch(&m.source.config, B, T, err) && evaluation_open(&loader, &s->data, T, m.source.config.V, err) &&
         batch_create(&batch, B, T, err);
    size_t instances = ok ? evaluation_instances(&loader, s->eval_instances) : 0;
    ok =
        ok && evaluation_check(&loader, instances, &batch, err) && loaded_model_create(&m, &room, &form, err);
    if (ok) {
        printf("model          %s\n", m.source.dir);
        printf("data           %zu sequences of %zu tokens\n", instances, T);
        fflush(stdout);
        ok = evaluate(&e, m.model, &loader, instances, &batch, B, s->z_loss, &m.source.text, err);
    }
    if (ok) { evaluation_print(&e); }
    batch_free(&batch);
    dataloader_close(&loader);
    loaded_model_close(&m);
    return ok;
}

// ---------------------------------------------------------------------------------------------
// soup

static inline bool config_equal(const OLMo2Config *a, const OLMo2Config *b) {
    return a->C == b->C && a->L == b->L && a->NH == b->NH && a->NKV == b->NKV && a->HS == b->HS &&
           a->F == b->F && a->V == b->V && a->rms_eps == b->rms_eps && a->rope_theta == b->rope_theta &&
           a->no_qk_norm == b->no_qk_norm && a->pre_norm == b->pre_norm;
}

// Sets tensor `index` of m to the mean over n models. sum and values have room for it. In double the sum of
// equal floats is exact, so that equal models give back their own bits.
static inline bool soup_tensor(OLMo2 *m, size_t index, const Safetensors *inputs, size_t n, double *sum,
                               float *values, Error *err) {
    Parameter p = parameter_at(olmo2_config(m), index);
    memset(sum, 0, p.size * sizeof *sum);
    for (size_t i = 0; i < n; i++) {
        if (!safetensors_to_float(safetensors_find(&inputs[i], p.name), values, err)) { return false; }
        for (size_t k = 0; k < p.size; k++) { sum[k] += (double)values[k]; }
    }
    for (size_t k = 0; k < p.size; k++) { values[k] = (float)(sum[k] / (double)n); }
    olmo2_write(m, OLMO2_PARAMETER, index, values);
    return true;
}

// m becomes the mean of n models, whose files are mapped side by side: no second model is in memory.
static inline bool soup_mean(OLMo2 *m, char (*dirs)[PATH_MAX], size_t n, Error *err) {
    const OLMo2Config *config = olmo2_config(m);
    const size_t largest = parameter_largest(config);
    double *sum = (double *)allocate(largest, sizeof *sum, "the sum of a tensor", err);
    float *values = (float *)allocate(largest, sizeof *values, "a tensor", err);
    Safetensors *inputs = (Safetensors *)allocate(n, sizeof *inputs, "the list of models", err);
    bool ok = sum != NULL && values != NULL && inputs != NULL;
    size_t opened = 0;
    while (ok && opened < n) {
        ok = checkpoint_open(&inputs[opened], dirs[opened], &weights_file, config, err);
        opened += ok;
    }
    for (size_t index = 0; ok && index < parameter_count(config); index++) {
        ok = soup_tensor(m, index, inputs, n, sum, values, err);
    }
    for (size_t i = 0; i < opened; i++) { safetensors_close(&inputs[i]); }
    free(inputs);
    free(values);
    free(sum);
    return ok;
}

static inline bool command_soup(const Settings *s, Error *err) {
    size_t n = s->inputs.count;
    OLMo2 *m = NULL;
    OLMo2Config other;
    const OLMo2Room room = olmo2_room_to_measure(0, 0);
    const OLMo2Form form = olmo2_form();
    Source first;
    Error warning = {""}, ignored = {""};
    memset(&first, 0, sizeof first);
    char(*dirs)[PATH_MAX] = (char(*)[PATH_MAX])allocate(n, sizeof *dirs, "the list of models", err);
    bool ok = dirs != NULL;
    if (ok && path_exists(s->out)) { ok = fail(err, "--out %s: exists; choose another name", s->out); }
    ok = ok && source_open(&first, s->inputs.items[0], NULL, &warning, err);
    if (ok) { snprintf(dirs[0], sizeof dirs[0], "%s", first.dir); }
    for (size_t i = 1; ok && i < n; i++) {
        ok = run_resolve(dirs[i], s->inputs.items[i], &warning, err) &&
             config_read_directory(&other, NULL, dirs[i], &ignored, err);
        if (ok && !config_equal(&first.config, &other)) {
            ok = fail(err, "%s and %s: their config.json differ, and only models of one shape have a mean",
                      dirs[0], dirs[i]);
        }
    }
    CheckpointParts parts = {&first.said, first.text.present ? first.text.path : NULL, NULL};
    ok = ok && olmo2_create(&m, &first.config, &room, &form, err) && soup_mean(m, dirs, n, err) &&
         checkpoint_write_model(m, s->out, &parts, &warning, err);
    if (warning.text[0] != '\0') { print_message("warning", warning.text); }
    if (ok) { printf("%s: the mean of %zu models\n", s->out, n); }
    free(dirs);
    source_close(&first);
    olmo2_free(m);
    return ok;
}

// ---------------------------------------------------------------------------------------------
// tokenize, detokenize

// What tokenize has done so far.
typedef struct {
    TokensWriter writer;
    TokenBuffer ids;  // of one document
    uint32_t eos;
    size_t documents, bytes;
} Tokenizing;

static inline bool tokenize_document(Tokenizing *t, const Text *text, const char *bytes, size_t size,
                                     Error *err) {
    t->ids.length = 0;
    if (!tokenizer_encode(&text->tokenizer, bytes, size, &t->ids, err) ||
        !token_buffer_reserve(&t->ids, 1, err)) {
        return false;
    }
    t->ids.ids[t->ids.length++] = t->eos;
    t->documents++;
    t->bytes += size;
    return tokens_write_append(&t->writer, t->ids.ids, t->ids.length, err);
}

// Each line's "text" is a document.
static inline bool tokenize_jsonl(Tokenizing *t, const Text *text, const MappedFile *file, const char *path,
                                  Error *err) {
    size_t number = 1;
    for (const char *line = file->data, *end = line + file->size; line < end; number++) {
        const char *stop = (const char *)memchr(line, '\n', (size_t)(end - line));
        size_t size = stop != NULL ? (size_t)(stop - line) : (size_t)(end - line);
        char source[PATH_MAX + 32];
        JsonDocument doc;
        snprintf(source, sizeof source, "%s line %zu", path, number);
        if (!json_parse(&doc, line, size, source, err)) { return false; }
        const Json *value = json_member(doc.root, "text");
        bool ok = value != NULL && value->type == JSON_STRING;
        ok = ok ? tokenize_document(t, text, value->string, value->length, err)
                : fail(err, "%s: expected an object with a string \"text\"", source);
        json_free(&doc);
        if (!ok) { return false; }
        line += size + 1;
    }
    return true;
}

static inline bool tokenize_file(Tokenizing *t, const Text *text, const char *path, Error *err) {
    MappedFile file;
    if (!file_map(&file, path, err)) { return false; }
    bool ok = file.size > 0 || fail(err, "%s: is empty", path);
    if (ok && ends_with(path, ".jsonl")) {
        ok = tokenize_jsonl(t, text, &file, path, err);
    } else if (ok) {
        ok = tokenize_document(t, text, file.data, file.size, err);
    }
    file_unmap(&file);
    return ok;
}

static inline bool command_tokenize(const Settings *s, Error *err) {
    Text text;
    Tokenizing t;
    memset(&t, 0, sizeof t);
    double start = seconds_now();
    if (path_exists(s->out)) { return fail(err, "--out %s: exists; choose another name", s->out); }
    bool ok = text_open(&text, s->tokenizer, err);
    if (ok && !tokenizer_special(&text.tokenizer, "<|endoftext|>", &t.eos)) {
        ok = fail(err, "%s: has no token <|endoftext|>, which ends every document", text.path);
    }
    ok = ok && tokens_write_begin(&t.writer, s->out, err);
    for (size_t i = 0; ok && i < s->inputs.count; i++) {
        ok = tokenize_file(&t, &text, s->inputs.items[i], err);
    }
    ok = ok && tokens_write_end(&t.writer, err);
    if (ok) {
        char bytes[32];
        printf("%s: %zu documents, %s of text, %zu tokens, in %.1f s\n", s->out, t.documents,
               format_bytes(bytes, t.bytes), t.writer.tokens, seconds_now() - start);
    }
    tokens_write_cancel(&t.writer);
    free(t.ids.ids);
    text_close(&text);
    return ok;
}

static inline bool command_detokenize(const Settings *s, Error *err) {
    uint32_t ids[4096];
    uint8_t mask[4096];
    const size_t chunk = sizeof mask;
    Text text;
    TokenFile file;
    memset(&file, 0, sizeof file);
    bool ok = text_open(&text, s->tokenizer, err) && token_file_open(&file, s->inputs.items[0], err);
    for (size_t start = 0; ok && start < file.tokens; start += chunk) {
        size_t n = file.tokens - start < chunk ? file.tokens - start : chunk;
        ok = token_file_read(&file, start, n, tokenizer_size(&text.tokenizer), ids, mask, err);
        for (size_t i = 0; ok && i < n; i++) {
            size_t size = 0;
            const char *piece = tokenizer_piece(&text.tokenizer, ids[i], &size);
            ok = piece != NULL
                     ? fwrite(piece, 1, size, stdout) == size || fail(err, "the text cannot be written")
                     : fail(err, "%s: token %zu has id %u, which %s does not have", file.path, start + i,
                            ids[i], text.path);
        }
    }
    token_file_close(&file);
    text_close(&text);
    return ok;
}

// ---------------------------------------------------------------------------------------------
// inspect

static inline void print_parameters(const OLMo2Config *config) {
    printf("parameters     %zu, %zu of them without both embeddings\n", parameter_total(config),
           parameter_total_without_embeddings(config));
}

// "1.20 GB: weights 300 MB, ..." from column 15 on: the total and the classes of which there are any.
static inline void print_memory(const OLMo2Memory *memory) {
    const char *names[] = {"weights", "gradients", "moments", "activations", "workspace", "cache"};
    const size_t sizes[] = {memory->weights,     memory->gradients, memory->moments,
                            memory->activations, memory->workspace, memory->cache};
    char line[512], bytes[32];
    int length = snprintf(line, sizeof line, "%s", format_bytes(bytes, memory->total));
    for (int i = 0, listed = 0; i < 6; i++) {
        if (sizes[i] == 0) { continue; }
        length += snprintf(line + length, sizeof line - (size_t)length, "%s %s %s", listed++ > 0 ? "," : ":",
                           names[i], format_bytes(bytes, sizes[i]));
    }
    help_wrap(stdout, line, 15, 15);
}

static inline void print_config(const OLMo2Config *config) {
    printf("layers         %zu of %zu channels\n", config->L, config->C);
    printf("heads          %zu for queries, %zu for keys and values, of size %zu\n", config->NH, config->NKV,
           config->HS);
    printf("feed-forward   %zu channels\n", config->F);
    printf("vocabulary     %zu rows\n", config->V);
    printf("length         %zu tokens\n", config->max_T);
    printf("constants      rms_norm_eps %g, rope_theta %g\n", (double)config->rms_eps,
           (double)config->rope_theta);
    if (config->no_qk_norm) { printf("study          without QK-norm\n"); }
    if (config->pre_norm) { printf("study          norms on the branch inputs\n"); }
}

static inline void print_memory_plan(const OLMo2Config *config, size_t B, size_t T) {
    const OLMo2Room training = olmo2_room_to_train(B, T), writing = olmo2_room_to_decode(1, T);
    const OLMo2Form form = olmo2_form();
    OLMo2Memory memory = olmo2_memory(config, &training, &form);
    printf("to train       %zu sequences of %zu tokens at once:\n%15s", B, T, "");
    print_memory(&memory);
    memory = olmo2_memory(config, &writing, &form);
    printf("to generate    %zu tokens:\n%15s", T, "");
    print_memory(&memory);
}

static inline bool print_tensors(const char *path, Error *err) {
    Safetensors st;
    char shape[192];
    size_t total = 0;
    if (!safetensors_open(&st, path, err)) { return false; }
    for (size_t i = 0; i < st.count; i++) {
        const SafetensorsTensor *t = &st.tensors[i];
        printf("%-56s %-5s %s\n", t->name, safetensors_dtypes[t->dtype].name,
               shape_text(shape, t->shape, t->rank));
        total += t->count;
    }
    printf("%zu tensors, %zu numbers\n", st.count, total);
    safetensors_close(&st);
    return true;
}

static inline bool print_stability(const RunHistory *history, Error *err) {
    double loss_score, norm_score;
    if (!spike_score(&loss_score, history->losses, history->count, err) ||
        !spike_score(&norm_score, history->norms, history->count, err)) {
        return false;
    }
    StabilityMonitor *monitor =
        (StabilityMonitor *)allocate(1, sizeof *monitor, "the monitor of a run's stability", err);
    if (monitor == NULL) { return false; }
    for (size_t i = 0; i < history->count; i++) {
        monitor_step(monitor, history->losses[i], history->norms[i]);
    }
    printf("run            %zu steps with a loss, %zu of them skipped\n", history->count, history->skipped);
    printf("spike score    loss %.6f, gradient norm %.6f\n", loss_score, norm_score);
    printf("monitor        %.6f of all steps, %.6f of the last %d\n", monitor_total_score(monitor),
           monitor_running_score(monitor), MONITOR_STEPS);
    free(monitor);
    return true;
}

// Of a run's directory: how stable the run was. Nothing of any other.
static inline bool inspect_run(const char *run, Error *err) {
    char path[PATH_MAX];
    RunHistory history;
    if (!path_join(path, run, "log.jsonl", err)) { return false; }
    if (!path_is_file(path)) { return true; }
    bool ok = run_history_read(&history, path, err) && print_stability(&history, err);
    run_history_free(&history);
    return ok;
}

static inline bool command_inspect(const Settings *s, Error *err) {
    const char *path = s->inputs.items[0];
    char dir[PATH_MAX] = "";
    size_t B = (size_t)s->batch_size;
    OLMo2Config config;
    Error warning = {""};
    if (ends_with(path, ".safetensors")) { return print_tensors(path, err); }
    if (!olmo2_preset(&config, path)) {
        bool ok = path_is_directory(path)
                      ? find_model(dir, path, err) && config_read_directory(&config, NULL, dir, &warning, err)
                      : config_read(&config, path, &warning, err);
        if (warning.text[0] != '\0') { print_message("warning", warning.text); }
        if (!ok) { return false; }
    }
    size_t T = s->seq_len > 0 ? (size_t)s->seq_len : config.max_T;
    if (!check_batch(&config, B, T, err)) { return false; }
    printf("model          %s\n", dir[0] != '\0' ? dir : path);
    print_config(&config);
    print_parameters(&config);
    print_memory_plan(&config, B, T);
    if (dir[0] == '\0') { return true; }
    if (!inspect_run(path, err)) { return false; }
    printf("\n");
    return print_tensors(dir, err);
}

#endif
