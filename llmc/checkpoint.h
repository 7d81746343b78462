// checkpoint.h: reads and writes a model directory in Hugging Face's layout.
//
//   config.json, generation_config.json, model.safetensors, tokenizer.json, tokenizer_config.json
//   trainer/optimizer.safetensors    exp_avg.NAME and exp_avg_sq.NAME for every parameter
//   trainer/state.json               whatever the trainer needs to resume
//
// AutoModelForCausalLM.from_pretrained loads such a directory. A downloaded OLMo 2 loads here, also through
// the links of Hugging Face's cache.
//
// Doors, declared below:
//   checkpoint_load_weights, checkpoint_load_optimizer    parts of a directory, into a model
//   checkpoint_open                                  its weights or its moments as a list of tensors
//   checkpoint_check                                 whether all of it can be loaded
//   checkpoint_write, checkpoint_write_model         a directory, whole or not at all
//   checkpoint_write_tokenizer                       its tokenizer only
// The configuration is config_read_directory's (config.h).
#ifndef LLMC_CHECKPOINT_H
#define LLMC_CHECKPOINT_H

#include "config.h"
#include "parameters.h"
#include "reading.h"

// The parameters of a model directory, F32, BF16 or F16, in one file or several, into a model of its
// configuration. Everything is checked before the first number goes into the model. `heard` is told how far it is
// (reading.h), and may be NULL.
static inline bool checkpoint_load_weights(OLMo2 *m, const char *dir, Heard heard, void *context, Error *err);

// The two moments of every parameter, from a checkpoint of a training run.
static inline bool checkpoint_load_optimizer(OLMo2 *m, const char *dir, Heard heard, void *context,
                                             Error *err);

// Whether a model directory can be loaded, trainer/ included if there is one. The values of the tensors are
// not read.
static inline bool checkpoint_check(const char *dir, Error *err);

// What goes into a model directory besides its weights and its configuration. Any of it may be NULL.
typedef struct {
    const ConfigFiles *said;  // texts of the directory that the model comes from
    const char *tokenizer;    // a tokenizer.json, or a directory that holds one
    const char *state;        // JSON for trainer/state.json; with it, the optimizer is written too
} CheckpointParts;

// Writes a model directory under a temporary name, then renames it (files.h), replacing a directory of that
// name. Its parent must exist.
static inline bool checkpoint_write(const OLMo2 *m, const char *dir, const CheckpointParts *parts,
                                    Error *warning, Error *err);

// The same for a directory that must not exist yet; its parent is created.
static inline bool checkpoint_write_model(const OLMo2 *m, const char *dir, const CheckpointParts *parts,
                                          Error *warning, Error *err);

// Copies a tokenizer into an existing directory: tokenizer.json, from that file or from the directory that
// holds it, and the files of transformers next to it. tokenizer_config.json is made if there is none.
static inline bool checkpoint_write_tokenizer(const OLMo2Config *config, const char *dir,
                                              const char *tokenizer, Error *err);

// ---------------------------------------------------------------------------------------------
// which tensors are in which file

// A file of tensors is a list of arrays, each with a prefix for the names of its parameters.
typedef struct {
    OLMo2Array array;
    const char *prefix;
} TensorGroup;

typedef struct {
    const char *name;  // in the model directory, for writing; weights are also read from shards
    size_t group_count;
    TensorGroup groups[2];
} TensorFile;

// clang-format off
static const TensorFile weights_file = {
    "model.safetensors", 1, {{OLMO2_PARAMETER, ""}, {OLMO2_PARAMETER, ""}}
};
static const TensorFile moments_file = {
    "trainer/optimizer.safetensors", 2, {{OLMO2_MOMENT1, "exp_avg."}, {OLMO2_MOMENT2, "exp_avg_sq."}}
};
// clang-format on

// A tensor of such a file.
typedef struct {
    Parameter parameter;
    OLMo2Array array;
    size_t index;  // of the parameter
    char name[128];
} FileTensor;

static inline size_t tensor_file_count(const TensorFile *file, const OLMo2Config *config) {
    return file->group_count * parameter_count(config);
}

static inline FileTensor tensor_file_at(const TensorFile *file, const OLMo2Config *config, size_t i) {
    const TensorGroup *group = &file->groups[i / parameter_count(config)];
    FileTensor t;
    t.index = i % parameter_count(config);
    t.parameter = parameter_at(config, t.index);
    t.array = group->array;
    snprintf(t.name, sizeof t.name, "%s%s", group->prefix, t.parameter.name);
    return t;
}

// The shape of a parameter in a file: (rows, columns), or (rows) for a norm.
static inline size_t parameter_shape(const Parameter *p, size_t shape[2]) {
    shape[0] = p->rows;
    shape[1] = p->columns;
    return parameter_is_matrix(p) ? 2 : 1;
}

// ---------------------------------------------------------------------------------------------
// tensors in

// "intermediate_size 512": where config.json says how large a dimension is. `buffer` is the caller's.
static inline const char *dimension_text(char buffer[96], const OLMo2Config *config, Dimension dimension) {
    switch (dimension) {
    case DIM_1: return "1";
    case DIM_V: snprintf(buffer, 96, "vocab_size %zu", config->V); break;
    case DIM_C: snprintf(buffer, 96, "hidden_size %zu", config->C); break;
    case DIM_F: snprintf(buffer, 96, "intermediate_size %zu", config->F); break;
    case DIM_Q: snprintf(buffer, 96, "num_attention_heads %zu * head_dim %zu", config->NH, config->HS); break;
    case DIM_KV:
        snprintf(buffer, 96, "num_key_value_heads %zu * head_dim %zu", config->NKV, config->HS);
        break;
    }
    return buffer;
}

static inline bool checkpoint_check_tensor(const SafetensorsTensor *t, const OLMo2Config *config,
                                           const Parameter *p, Error *err) {
    char found[192], expected[192], rows[96], columns[96];
    size_t shape[2], rank = parameter_shape(p, shape);
    if (t->rank != rank || memcmp(t->shape, shape, rank * sizeof *shape) != 0) {
        return fail(err,
                    "%s: tensor \"%s\" has shape %s,\nconfig.json says %s (%s%s%s).\n"
                    "The files are of different models; copy both from the same place.",
                    t->file, t->name, shape_text(found, t->shape, t->rank), shape_text(expected, shape, rank),
                    dimension_text(rows, config, p->row->rows), rank == 2 ? ", " : "",
                    rank == 2 ? dimension_text(columns, config, p->row->columns) : "");
    }
    return t->dtype == DTYPE_F32 || t->dtype == DTYPE_BF16 || t->dtype == DTYPE_F16 ||
           t->dtype == DTYPE_F64 ||
           fail(err, "%s: tensor \"%s\" has dtype %s, expected F32, BF16, F16 or F64", t->file, t->name,
                safetensors_dtypes[t->dtype].name);
}

// Reports a tensor that the model does not have.
static inline bool checkpoint_foreign(const SafetensorsTensor *t, const OLMo2Config *config, Error *err) {
    if (strstr(t->name, ".input_layernorm.") != NULL) {
        return fail(err,
                    "%s: holds tensor \"%.200s\", as OLMo 1 and Llama do.\n"
                    "OLMo 2 has its norms behind attention and feed-forward, and only OLMo 2 can be loaded.",
                    t->file, t->name);
    }
    return fail(
        err,
        "%s: holds tensor \"%.200s\",\nbut the model in config.json (%zu layers) has no such tensor.\n"
        "The files are of different models; copy both from the same place.",
        t->file, t->name, config->L);
}

// Every tensor that was read is one of the file's list.
static inline bool checkpoint_check_foreign(const Safetensors *st, const TensorFile *file,
                                            const OLMo2Config *config, Error *err) {
    const SafetensorsTensor *foreign = NULL;
    bool *known = (bool *)allocate(st->count, sizeof *known, "the list of tensors", err);
    if (known == NULL) { return false; }
    for (size_t i = 0; i < tensor_file_count(file, config); i++) {
        const SafetensorsTensor *t = safetensors_find(st, tensor_file_at(file, config, i).name);
        if (t != NULL) { known[t - st->tensors] = true; }
    }
    for (size_t k = 0; k < st->count; k++) {
        // a tensor that reveals another kind of model says more than any other
        bool telling = strstr(st->tensors[k].name, ".input_layernorm.") != NULL;
        if (!known[k] && (foreign == NULL || telling)) { foreign = &st->tensors[k]; }
    }
    free(known);
    return foreign == NULL || checkpoint_foreign(foreign, config, err);
}

// Every tensor of the file's list was read, with the right shape, and no other. `path` names the file in
// messages.
static inline bool checkpoint_check_tensors(const Safetensors *st, const TensorFile *file, const char *path,
                                            const OLMo2Config *config, Error *err) {
    if (!checkpoint_check_foreign(st, file, config, err)) { return false; }
    for (size_t i = 0; i < tensor_file_count(file, config); i++) {
        FileTensor tensor = tensor_file_at(file, config, i);
        const SafetensorsTensor *t = safetensors_find(st, tensor.name);
        if (t == NULL) {
            return fail(err,
                        "%s: has no tensor \"%s\",\nwhich the model in config.json (%zu layers) needs.\n"
                        "The files are of different models; copy both from the same place.",
                        path, tensor.name, config->L);
        }
        if (!checkpoint_check_tensor(t, config, &tensor.parameter, err)) { return false; }
    }
    return true;
}

// Opens and checks the tensors of a file of a model directory. Weights may be in shards, so the directory
// itself is opened for them.
static inline bool checkpoint_open(Safetensors *st, const char *dir, const TensorFile *file,
                                   const OLMo2Config *config, Error *err) {
    char joined[PATH_MAX];
    if (!path_join(joined, dir, file->name, err)) { return false; }
    const char *path = file == &weights_file ? dir : joined;
    if (!safetensors_open(st, path, err)) { return false; }
    if (checkpoint_check_tensors(st, file, path, config, err)) { return true; }
    safetensors_close(st);
    return false;
}

static inline bool checkpoint_load(OLMo2 *m, const char *dir, const TensorFile *file, Heard heard,
                                   void *context, Error *err) {
    const OLMo2Config *config = olmo2_config(m);
    Reading reading = {heard, context, 0, 0};
    Safetensors st;
    if (!checkpoint_open(&st, dir, file, config, err)) { return false; }
    float *values =
        (float *)allocate(parameter_largest(config), sizeof *values, "the largest tensor to be read", err);
    bool ok = values != NULL;
    for (size_t i = 0; i < st.count; i++) { reading.total += st.tensors[i].bytes; }
    for (size_t i = 0; ok && i < st.count; i++) {
        FileTensor tensor = tensor_file_at(file, config, i);
        const SafetensorsTensor *t = safetensors_find(&st, tensor.name);
        ok = reading_tensor(&reading, t, err) && safetensors_to_float(t, values, err);
        if (ok) { olmo2_write(m, tensor.array, tensor.index, values); }
        reading_forget(t);
    }
    free(values);
    safetensors_close(&st);
    return ok;
}

static inline bool checkpoint_load_weights(OLMo2 *m, const char *dir, Heard heard, void *context,
                                           Error *err) {
    return checkpoint_load(m, dir, &weights_file, heard, context, err);
}

static inline bool checkpoint_load_optimizer(OLMo2 *m, const char *dir, Heard heard, void *context,
                                             Error *err) {
    return checkpoint_load(m, dir, &moments_file, heard, context, err);
}

static inline bool checkpoint_check_file(const char *dir, const TensorFile *file, const OLMo2Config *config,
                                         Error *err) {
    Safetensors st;
    if (!checkpoint_open(&st, dir, file, config, err)) { return false; }
    safetensors_close(&st);
    return true;
}

static inline bool checkpoint_check(const char *dir, Error *err) {
    OLMo2Config config;
    Error ignored = {""};
    JsonDocument state;
    char trainer[PATH_MAX], path[PATH_MAX];
    if (!path_join(trainer, dir, "trainer", err)) { return false; }
    if (!path_join(path, trainer, "state.json", err)) { return false; }
    if (!config_read_directory(&config, NULL, dir, &ignored, err)) { return false; }
    if (!checkpoint_check_file(dir, &weights_file, &config, err)) { return false; }
    if (!path_is_directory(trainer)) { return true; }
    if (!checkpoint_check_file(dir, &moments_file, &config, err)) { return false; }
    if (!json_parse_file(&state, path, err)) { return false; }
    json_free(&state);
    return true;
}

// ---------------------------------------------------------------------------------------------
// tensors out

typedef struct {
    const OLMo2 *m;
    const TensorFile *file;
} TensorSource;

static inline bool checkpoint_fill(void *context, size_t i, float *values, Error *err) {
    const TensorSource *source = (const TensorSource *)context;
    FileTensor t = tensor_file_at(source->file, olmo2_config(source->m), i);
    (void)err;
    olmo2_read(source->m, t.array, t.index, values);
    return true;
}

static inline bool checkpoint_write_tensors(const OLMo2 *m, const char *dir, const TensorFile *file,
                                            Error *err) {
    const OLMo2Config *config = olmo2_config(m);
    const size_t count = tensor_file_count(file, config);
    TensorSource source = {m, file};
    char path[PATH_MAX];
    if (!path_join(path, dir, file->name, err)) { return false; }
    SafetensorsEntry *entries =
        (SafetensorsEntry *)allocate(count, sizeof *entries, "the list of tensors to be written", err);
    if (entries == NULL) { return false; }
    for (size_t i = 0; i < count; i++) {
        FileTensor t = tensor_file_at(file, config, i);
        memcpy(entries[i].name, t.name, sizeof t.name);
        entries[i].rank = parameter_shape(&t.parameter, entries[i].shape);
    }
    bool ok = safetensors_write(path, entries, count, checkpoint_fill, &source, err);
    free(entries);
    return ok;
}

// ---------------------------------------------------------------------------------------------
// the tokenizer out

// A special token of the model by its text, as tokenizer.json has it among its added tokens.
static inline void tokenizer_config_token(JsonWriter *w, const char *key, uint32_t id,
                                          const Json *tokenizer) {
    const Json *tokens = json_member(tokenizer, "added_tokens");
    if (id == OLMO2_NO_TOKEN || tokens == NULL || tokens->type != JSON_ARRAY) { return; }
    for (const Json *token = json_first(tokens); token != NULL; token = json_next(token)) {
        const Json *number = json_member(token, "id"), *content = json_member(token, "content");
        if (number != NULL && number->integral && number->integer == id && content != NULL &&
            content->type == JSON_STRING) {
            json_bytes(w, key, content->string, content->length);
            return;
        }
    }
}

// The tokenizer_config.json without which AutoTokenizer does not know the special tokens.
static inline bool tokenizer_config_write(const OLMo2Config *config, const char *tokenizer, const char *path,
                                          Error *err) {
    JsonDocument doc;
    if (!json_parse_file(&doc, tokenizer, err)) { return false; }
    JsonWriter w;
    memset(&w, 0, sizeof w);
    w.pretty = true;
    json_begin_object(&w, NULL);
    json_string(&w, "tokenizer_class", "PreTrainedTokenizerFast");
    tokenizer_config_token(&w, "bos_token", config->bos, doc.root);
    tokenizer_config_token(&w, "eos_token", config->eos, doc.root);
    tokenizer_config_token(&w, "pad_token", config->pad, doc.root);
    json_integer(&w, "model_max_length", (int64_t)config->max_T);
    json_bool(&w, "clean_up_tokenization_spaces", false);
    json_end_object(&w);
    json_free(&doc);
    return json_write_file(&w, path, err);
}

// Copies from_dir/name to dir/name if it is there.
static inline bool checkpoint_copy_beside(const char *from_dir, const char *dir, const char *name,
                                          bool *copied, Error *err) {
    char from[PATH_MAX], to[PATH_MAX];
    *copied = false;
    if (!path_join(from, from_dir, name, err)) { return false; }
    if (!path_join(to, dir, name, err)) { return false; }
    if (!path_is_file(from)) { return true; }
    *copied = true;
    return file_copy(from, to, err);
}

static inline bool checkpoint_write_tokenizer(const OLMo2Config *config, const char *dir,
                                              const char *tokenizer, Error *err) {
    static const char *const beside[] = {
        "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
        "chat_template.jinja",     "chat_template.json"};
    char file[PATH_MAX], from_dir[PATH_MAX], name[PATH_MAX], to[PATH_MAX];
    bool copied = false;
    snprintf(file, sizeof file, "%s", tokenizer);
    if (path_is_directory(tokenizer) && !path_join(file, tokenizer, "tokenizer.json", err)) { return false; }
    if (!path_split(from_dir, name, file, err)) { return false; }
    if (!path_join(to, dir, "tokenizer.json", err)) { return false; }
    if (!file_copy(file, to, err)) { return false; }
    // The files next to a tokenizer of another name may belong to yet another one.
    const bool own = strcmp(name, "tokenizer.json") == 0;
    if (own && !checkpoint_copy_beside(from_dir, dir, "tokenizer_config.json", &copied, err)) {
        return false;
    }
    if (!copied) {
        if (!path_join(to, dir, "tokenizer_config.json", err)) { return false; }
        if (!tokenizer_config_write(config, file, to, err)) { return false; }
    }
    for (size_t i = 0; own && i < sizeof beside / sizeof beside[0]; i++) {
        if (!checkpoint_copy_beside(from_dir, dir, beside[i], &copied, err)) { return false; }
    }
    return true;
}

// ---------------------------------------------------------------------------------------------
// a model directory out

static inline bool checkpoint_write_trainer(const OLMo2 *m, const char *dir, const char *state, Error *err) {
    char trainer[PATH_MAX], path[PATH_MAX];
    JsonWriter w;
    memset(&w, 0, sizeof w);
    if (!path_join(trainer, dir, "trainer", err)) { return false; }
    if (!path_join(path, trainer, "state.json", err)) { return false; }
    if (!directory_create(trainer, err)) { return false; }
    if (!checkpoint_write_tensors(m, dir, &moments_file, err)) { return false; }
    json_raw(&w, NULL, state);
    if (!json_write_file(&w, path, err)) { return false; }
    return directory_sync(trainer, err);
}

// The files of a model directory into an empty one.
static inline bool checkpoint_write_files(const OLMo2 *m, const char *dir, const CheckpointParts *parts,
                                          Error *err) {
    const OLMo2Config *config = olmo2_config(m);
    const ConfigFiles nothing = {NULL, NULL}, *said = parts->said != NULL ? parts->said : &nothing;
    char path[PATH_MAX];
    if (!path_join(path, dir, "config.json", err)) { return false; }
    if (!config_write(config, said->config, path, err)) { return false; }
    if (!path_join(path, dir, "generation_config.json", err)) { return false; }
    if (!generation_config_write(config, said->generation, path, err)) { return false; }
    if (!checkpoint_write_tensors(m, dir, &weights_file, err)) { return false; }
    if (parts->tokenizer != NULL && !checkpoint_write_tokenizer(config, dir, parts->tokenizer, err)) {
        return false;
    }
    return parts->state == NULL || checkpoint_write_trainer(m, dir, parts->state, err);
}

static inline bool checkpoint_write(const OLMo2 *m, const char *dir, const CheckpointParts *parts,
                                    Error *warning, Error *err) {
    Aside aside;
    if (!aside_begin_directory(&aside, dir, err)) { return false; }
    if (!checkpoint_write_files(m, aside.aside, parts, err)) { return aside_cancel(&aside); }
    return aside_finish(&aside, warning, err);
}

static inline bool checkpoint_write_model(const OLMo2 *m, const char *dir, const CheckpointParts *parts,
                                          Error *warning, Error *err) {
    char parent[PATH_MAX], name[PATH_MAX];
    if (!path_split(parent, name, dir, err)) { return false; }
    if (path_exists(dir)) { return fail(err, "%s: is there already; choose another name or remove it", dir); }
    if (!directory_create(parent, err)) { return false; }
    return checkpoint_write(m, dir, parts, warning, err);
}

#endif
