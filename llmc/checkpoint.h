// checkpoint.h: models on disk, as Hugging Face directories, and a training run's checkpoints.
//
//   step-00000100/
//     config.json, generation_config.json, model.safetensors, tokenizer.json, tokenizer_config.json
//     trainer/optimizer.safetensors    exp_avg.NAME and exp_avg_sq.NAME for every parameter
//     trainer/state.json               whatever the trainer needs to go on
//
// AutoModelForCausalLM.from_pretrained loads such a directory as it stands, and a downloaded OLMo 2 loads
// here.
//
// A directory is written under another name, .writing-NAME, synced to the disk, then renamed: under its own
// name it is always whole. One to be deleted is first renamed to .deleting-NAME. What a crash leaves of
// either is removed by the next save.
#ifndef LLMC_CHECKPOINT_H
#define LLMC_CHECKPOINT_H

#include <dirent.h>
#include <ftw.h>

#include "json.h"
#include "olmo2.h"
#include "parameters.h"
#include "safetensors.h"
#include "utils.h"

// ---------------------------------------------------------------------------------------------
// config.json

// The sizes of a model: their keys in config.json and the largest that this project calculates with: with
// them the bytes of a model and its optimizer fit 64 bits.
typedef struct {
    const char *key;
    size_t offset;  // of the size_t in an OLMo2Config
    bool required;
    size_t largest;
} ConfigSize;

// clang-format off
static const ConfigSize config_sizes[] = {
    { "hidden_size",             offsetof(OLMo2Config, C),     true,  1 << 20 },
    { "num_hidden_layers",       offsetof(OLMo2Config, L),     true,  1 << 12 },
    { "num_attention_heads",     offsetof(OLMo2Config, NH),    true,  1 << 20 },
    { "num_key_value_heads",     offsetof(OLMo2Config, NKV),   false, 1 << 20 },
    { "head_dim",                offsetof(OLMo2Config, HS),    false, 1 << 20 },
    { "intermediate_size",       offsetof(OLMo2Config, F),     true,  1 << 20 },
    { "vocab_size",              offsetof(OLMo2Config, V),     true,  1 << 24 },
    { "max_position_embeddings", offsetof(OLMo2Config, max_T), true,  1 << 24 },
};
enum { CONFIG_SIZES = sizeof config_sizes / sizeof config_sizes[0] };

// What model_type calls the models that one might mistake for an OLMo 2.
static const char *const config_other_models[][2] = {
    { "olmo", "OLMo 1" },  { "hf_olmo", "OLMo 1" },  { "olmo3", "OLMo 3" },    { "olmoe", "OLMoE" },
    { "llama", "Llama" },  { "mistral", "Mistral" }, { "mixtral", "Mixtral" }, { "qwen2", "Qwen 2" },
    { "qwen3", "Qwen 3" }, { "gemma", "Gemma" },     { "gemma2", "Gemma 2" },  { "gemma3_text", "Gemma 3" },
    { "phi3", "Phi 3" },   { "gpt2", "GPT-2" },      { "gpt_neox", "GPT-NeoX" },
};
// clang-format on
enum { CONFIG_OTHER_MODELS = sizeof config_other_models / sizeof config_other_models[0] };

static inline bool config_check_positive(float value, const char *key, const char *source, Error *err) {
    return (value > 0.0f && isfinite(value)) ||
           fail(err, "%s: \"%s\" is %g, expected a number above 0", source, key, (double)value);
}

static inline bool config_check_token(uint32_t id, const char *key, const OLMo2Config *config,
                                      const char *source, Error *err) {
    return id == OLMO2_NO_TOKEN || id < config->V ||
           fail(err, "%s: \"%s\" is %u, expected a token id below vocab_size %zu, or null", source, key,
                (unsigned)id, config->V);
}

// Whether a model can be made of it. `source` names the configuration in messages.
static inline bool config_check(const OLMo2Config *config, const char *source, Error *err) {
    for (int i = 0; i < CONFIG_SIZES; i++) {
        size_t value;
        memcpy(&value, (const char *)config + config_sizes[i].offset, sizeof value);
        if (value < 1 || value > config_sizes[i].largest) {
            return fail(err, "%s: \"%s\" is %zu, expected 1 to %zu", source, config_sizes[i].key, value,
                        config_sizes[i].largest);
        }
    }
    if (config->NH % config->NKV != 0) {
        return fail(err, "%s: num_attention_heads %zu is no multiple of num_key_value_heads %zu", source,
                    config->NH, config->NKV);
    }
    if (config->HS % 2 != 0) {
        return fail(err,
                    "%s: heads of %zu channels (head_dim), expected an even number for the rotary embedding",
                    source, config->HS);
    }
    if (config->NH * config->HS > 1 << 20) {
        return fail(err, "%s: num_attention_heads %zu of head_dim %zu, expected at most %d channels together",
                    source, config->NH, config->HS, 1 << 20);
    }
    return config_check_positive(config->rms_eps, "rms_norm_eps", source, err) &&
           config_check_positive(config->rope_theta, "rope_theta", source, err) &&
           config_check_positive(config->init_std, "initializer_range", source, err) &&
           config_check_token(config->bos, "bos_token_id", config, source, err) &&
           config_check_token(config->eos, "eos_token_id", config, source, err) &&
           config_check_token(config->pad, "pad_token_id", config, source, err);
}

// "olmo2", or "olmo2-study" for a model without QK-norm or with pre-norm, which no other program knows.
static inline bool config_read_type(OLMo2Config *config, const Json *root, const char *path, Error *err) {
    const char *type;
    if (!json_get_string(root, "model_type", true, &type, path, err)) { return false; }
    if (strcmp(type, "olmo2-study") == 0) {
        return json_get_bool(root, "no_qk_norm", true, &config->no_qk_norm, path, err) &&
               json_get_bool(root, "pre_norm", true, &config->pre_norm, path, err);
    }
    if (strcmp(type, "olmo2") == 0) { return true; }
    const char *name = "another model";
    for (int i = 0; i < CONFIG_OTHER_MODELS; i++) {
        if (strcmp(config_other_models[i][0], type) == 0) { name = config_other_models[i][1]; }
    }
    return fail(err, "%s: describes %s (model_type \"%.60s\"), expected an OLMo 2 (model_type \"olmo2\")",
                path, name, type);
}

// What OLMo 2 leaves out or fixes: a configuration that asks for it describes another model.
static inline bool config_read_fixed(const Json *root, const char *path, Error *err) {
    bool tied = false, bias = false;
    const char *activation = "silu";
    if (!json_get_bool(root, "tie_word_embeddings", false, &tied, path, err) ||
        !json_get_bool(root, "attention_bias", false, &bias, path, err) ||
        !json_get_string(root, "hidden_act", false, &activation, path, err)) {
        return false;
    }
    if (tied) {
        return fail(err, "%s: \"tie_word_embeddings\" is true, expected false: OLMo 2 has two tables", path);
    }
    if (bias) {
        return fail(err, "%s: \"attention_bias\" is true, expected false: OLMo 2 has no biases", path);
    }
    return strcmp(activation, "silu") == 0 ||
           fail(err, "%s: \"hidden_act\" is \"%.60s\", expected \"silu\"", path, activation);
}

// The kind of rotary embedding that an object asks for in "rope_type", or "type" in older files.
static inline bool config_check_rope_type(const Json *rope, const char *key, const char *path, Error *err) {
    const char *type = "default";
    if (rope == NULL || rope->type == JSON_NULL) { return true; }
    if (rope->type != JSON_OBJECT) { return json_wrong_member(rope, key, "an object or null", path, err); }
    if (!json_get_string(rope, "type", false, &type, path, err) ||
        !json_get_string(rope, "rope_type", false, &type, path, err)) {
        return false;
    }
    return strcmp(type, "default") == 0 ||
           fail(err, "%s: \"%s\" asks for \"%.60s\" scaling of the rotary embedding, expected none", path,
                key, type);
}

// rope_theta is a member of the configuration, and since transformers 5 of its rope_parameters.
static inline bool config_read_rope(OLMo2Config *config, const Json *root, const char *path, Error *err) {
    const Json *parameters = json_member(root, "rope_parameters");
    double old_theta = NAN, theta = NAN;
    if (!config_check_rope_type(json_member(root, "rope_scaling"), "rope_scaling", path, err) ||
        !config_check_rope_type(parameters, "rope_parameters", path, err) ||
        !json_get_double(parameters, "rope_theta", false, &theta, path, err) ||
        !json_get_double(root, "rope_theta", isnan(theta), &old_theta, path, err)) {
        return false;
    }
    if (!isnan(theta) && !isnan(old_theta) && theta != old_theta) {
        return fail(err,
                    "%s: \"rope_theta\" is %.15g, but %.15g in \"rope_parameters\"; remove the wrong one",
                    path, old_theta, theta);
    }
    config->rope_theta = (float)(isnan(theta) ? old_theta : theta);
    return true;
}

// A token id, a list whose first one counts, or null.
static inline bool config_read_token(uint32_t *id, const Json *root, const char *key, const char *path,
                                     Error *err) {
    const Json *value = json_member(root, key);
    if (value != NULL && value->type == JSON_ARRAY) { value = json_first(value); }
    if (value == NULL || value->type == JSON_NULL) { return true; }
    if (!value->integral || value->integer < 0 || value->integer >= OLMO2_NO_TOKEN) {
        return json_wrong_member(value, key, "a token id or null", path, err);
    }
    *id = (uint32_t)value->integer;
    return true;
}

static inline bool config_read_sizes(OLMo2Config *config, const Json *root, const char *path, Error *err) {
    const size_t absent = SIZE_MAX;
    config->NKV = config->HS = absent;
    for (int i = 0; i < CONFIG_SIZES; i++) {
        const ConfigSize *row = &config_sizes[i];
        size_t *value = (size_t *)((char *)config + row->offset);
        if (!json_get_size(root, row->key, row->required, value, path, err)) { return false; }
    }
    if (config->NKV == absent) { config->NKV = config->NH; }
    if (config->HS == absent) {
        if (config->NH == 0 || config->C % config->NH != 0) {
            return fail(
                err,
                "%s: hidden_size %zu is no multiple of num_attention_heads %zu, and there is no head_dim",
                path, config->C, config->NH);
        }
        config->HS = config->C / config->NH;
    }
    return true;
}

static inline bool config_read_root(OLMo2Config *config, const Json *root, const char *path, Error *err) {
    double eps = 0.0, init_std = 0.02;
    memset(config, 0, sizeof *config);
    config->bos = config->eos = config->pad = OLMO2_NO_TOKEN;
    if (root->type != JSON_OBJECT) {
        return fail(err, "%s: holds no JSON object, expected a configuration", path);
    }
    if (!config_read_type(config, root, path, err) || !config_read_fixed(root, path, err) ||
        !config_read_sizes(config, root, path, err) || !config_read_rope(config, root, path, err) ||
        !json_get_double(root, "rms_norm_eps", true, &eps, path, err) ||
        !json_get_double(root, "initializer_range", false, &init_std, path, err) ||
        !config_read_token(&config->bos, root, "bos_token_id", path, err) ||
        !config_read_token(&config->eos, root, "eos_token_id", path, err) ||
        !config_read_token(&config->pad, root, "pad_token_id", path, err)) {
        return false;
    }
    config->rms_eps = (float)eps;
    config->init_std = (float)init_std;
    return config_check(config, path, err);
}

// Reads a config.json, with the keys of transformers 4 or 5. What is not an OLMo 2 is an error that says what
// it is.
static inline bool config_read(OLMo2Config *config, const char *path, Error *err) {
    JsonDocument doc;
    if (!json_parse_file(&doc, path, err)) { return false; }
    bool ok = config_read_root(config, doc.root, path, err);
    json_free(&doc);
    return ok;
}

// Writes the writer's text to a new file and frees it.
static inline bool json_write_file(JsonWriter *w, const char *path, Error *err) {
    int descriptor;
    json_append(w, "\n", 1);
    bool ok = w->text == NULL ? fail(err, "%s: out of memory", path) : file_create(&descriptor, path, err);
    if (ok) {
        ok = file_finish(descriptor, file_write(descriptor, w->text, w->length, path, err), path, err);
    }
    json_writer_free(w);
    return ok;
}

static inline void config_write_token(JsonWriter *w, const char *key, uint32_t id) {
    if (id == OLMO2_NO_TOKEN) {
        json_null(w, key);
    } else {
        json_integer(w, key, id);
    }
}

// Writes a new config.json that transformers 4.47 and later, 5 included, load as it stands; that of a study
// model they refuse, as they would compute something else.
static inline bool config_write(const OLMo2Config *config, const char *path, Error *err) {
    bool study = config->no_qk_norm || config->pre_norm;
    JsonWriter w;
    memset(&w, 0, sizeof w);
    w.pretty = true;
    json_begin_object(&w, NULL);
    json_begin_array(&w, "architectures");
    json_string(&w, NULL, study ? "OLMo2StudyForCausalLM" : "Olmo2ForCausalLM");
    json_end_array(&w);
    json_string(&w, "model_type", study ? "olmo2-study" : "olmo2");
    if (study) {
        json_bool(&w, "no_qk_norm", config->no_qk_norm);
        json_bool(&w, "pre_norm", config->pre_norm);
    }
    for (int i = 0; i < CONFIG_SIZES; i++) {
        size_t value;
        memcpy(&value, (const char *)config + config_sizes[i].offset, sizeof value);
        json_integer(&w, config_sizes[i].key, (int64_t)value);
    }
    json_string(&w, "hidden_act", "silu");
    json_bool(&w, "attention_bias", false);
    json_number(&w, "attention_dropout", 0.0);
    json_bool(&w, "tie_word_embeddings", false);
    json_float(&w, "rms_norm_eps", config->rms_eps);
    json_float(&w, "initializer_range", config->init_std);
    json_float(&w, "rope_theta", config->rope_theta);
    json_null(&w, "rope_scaling");
    json_begin_object(&w, "rope_parameters");
    json_float(&w, "rope_theta", config->rope_theta);
    json_string(&w, "rope_type", "default");
    json_end_object(&w);
    config_write_token(&w, "bos_token_id", config->bos);
    config_write_token(&w, "eos_token_id", config->eos);
    config_write_token(&w, "pad_token_id", config->pad);
    json_string(&w, "torch_dtype", "float32");
    json_string(&w, "dtype", "float32");
    json_bool(&w, "use_cache", true);
    json_end_object(&w);
    return json_write_file(&w, path, err);
}

// ---------------------------------------------------------------------------------------------
// directories

// Makes sure that the names in a directory are on the disk.
static inline bool directory_sync(const char *path, Error *err) {
    int descriptor = open(path, O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) { return fail(err, "%s: cannot be opened: %s", path, strerror(errno)); }
    bool ok = fsync(descriptor) == 0 || errno == EINVAL;  // EINVAL: this file system has no need of it
    if (!ok) { fail(err, "%s: cannot be synced to the disk: %s", path, strerror(errno)); }
    close(descriptor);
    return ok;
}

// Splits a path into the directory that holds it, "." or "/" at least, and its last name; both PATH_MAX
// bytes.
static inline bool path_split(char *parent, char *name, const char *path, Error *err) {
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/') { length--; }
    size_t begin = length;
    while (begin > 0 && path[begin - 1] != '/') { begin--; }
    if (length == begin) { return fail(err, "\"%s\": is no name for a directory", path); }
    if (length >= PATH_MAX) { return fail(err, "%s: the path is longer than %d", path, PATH_MAX); }
    size_t parent_length = begin;
    while (parent_length > 1 && path[parent_length - 1] == '/') { parent_length--; }
    snprintf(parent, PATH_MAX, "%.*s", (int)parent_length, path);
    if (parent_length == 0) { snprintf(parent, PATH_MAX, "."); }
    snprintf(name, PATH_MAX, "%.*s", (int)(length - begin), path + begin);
    return true;
}

// Creates a directory, and those that it is in, unless it is there already.
static inline bool directory_create(const char *path, Error *err) {
    char parent[PATH_MAX], name[PATH_MAX];
    if (path_is_directory(path)) { return true; }
    if (!path_split(parent, name, path, err) || !directory_create(parent, err)) { return false; }
    if (mkdir(path, 0777) != 0) { return fail(err, "%s: cannot be created: %s", path, strerror(errno)); }
    return directory_sync(parent, err);
}

static inline int directory_remove_entry(const char *path, const struct stat *info, int type,
                                         struct FTW *walk) {
    (void)info, (void)type, (void)walk;
    return remove(path);
}

// Removes a directory and all that is in it; links are removed, not followed.
static inline bool directory_remove(const char *path, Error *err) {
    return nftw(path, directory_remove_entry, 16, FTW_DEPTH | FTW_PHYS) == 0 ||
           fail(err, "%s: cannot be removed: %s", path, strerror(errno));
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

// The shape that a parameter has in a file: (rows, columns), or (rows) for a norm.
static inline size_t parameter_shape(const Parameter *p, size_t shape[2]) {
    shape[0] = p->rows;
    shape[1] = p->columns;
    return p->row->columns == DIM_1 ? 1 : 2;
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

// A tensor of a model's file or of its optimizer's: a parameter under its own name, or one of its moments.
typedef struct {
    Parameter parameter;
    OLMo2Array array;
    size_t index;  // of the parameter
    char name[128];
} CheckpointTensor;

static inline size_t checkpoint_tensor_count(const OLMo2Config *config, bool optimizer) {
    return (optimizer ? 2 : 1) * parameter_count(config);
}

static inline CheckpointTensor checkpoint_tensor_at(const OLMo2Config *config, bool optimizer, size_t i) {
    size_t parameters = parameter_count(config);
    CheckpointTensor t;
    t.index = i % parameters;
    t.parameter = parameter_at(config, t.index);
    t.array = !optimizer ? OLMO2_PARAMETER : i < parameters ? OLMO2_MOMENT1 : OLMO2_MOMENT2;
    snprintf(t.name, sizeof t.name, "%s%s",
             !optimizer       ? ""
             : i < parameters ? "exp_avg."
                              : "exp_avg_sq.",
             t.parameter.name);
    return t;
}

// The error of a file with a tensor that the model has not.
static inline bool checkpoint_foreign(const SafetensorsTensor *t, const OLMo2Config *config, Error *err) {
    if (strstr(t->name, ".input_layernorm.") != NULL) {
        return fail(err,
                    "%s: holds tensor \"%.200s\", as OLMo 1 and Llama do.\n"
                    "OLMo 2 has its norms behind attention and feed-forward, and only OLMo 2 can be loaded.",
                    t->file, t->name);
    }
    return fail(err,
                "%s: holds tensor \"%.200s\",\nwhich the model of config.json (%zu layers) has not.\n"
                "The files are of different models; copy both from the same place.",
                t->file, t->name, config->L);
}

// Every tensor of the file is one of the model.
static inline bool checkpoint_check_foreign(const Safetensors *st, const OLMo2Config *config, bool optimizer,
                                            Error *err) {
    const SafetensorsTensor *foreign = NULL;
    bool *known = (bool *)allocate(st->count, sizeof *known, "the list of tensors", err);
    if (known == NULL) { return false; }
    for (size_t i = 0; i < checkpoint_tensor_count(config, optimizer); i++) {
        const SafetensorsTensor *t = safetensors_find(st, checkpoint_tensor_at(config, optimizer, i).name);
        if (t != NULL) { known[t - st->tensors] = true; }
    }
    for (size_t k = 0; k < st->count; k++) {
        // the one that tells of another kind of model says more than any other
        bool telling = strstr(st->tensors[k].name, ".input_layernorm.") != NULL;
        if (!known[k] && (foreign == NULL || telling)) { foreign = &st->tensors[k]; }
    }
    free(known);
    return foreign == NULL || checkpoint_foreign(foreign, config, err);
}

// The file holds the model's tensors, all of them, of the right shapes, and no others.
static inline bool checkpoint_check_tensors(const Safetensors *st, const char *path,
                                            const OLMo2Config *config, bool optimizer, Error *err) {
    if (!checkpoint_check_foreign(st, config, optimizer, err)) { return false; }
    for (size_t i = 0; i < checkpoint_tensor_count(config, optimizer); i++) {
        CheckpointTensor tensor = checkpoint_tensor_at(config, optimizer, i);
        const SafetensorsTensor *t = safetensors_find(st, tensor.name);
        if (t == NULL) {
            return fail(err,
                        "%s: has no tensor \"%s\",\nwhich the model of config.json (%zu layers) needs.\n"
                        "The files are of different models; copy both from the same place.",
                        path, tensor.name, config->L);
        }
        if (!checkpoint_check_tensor(t, config, &tensor.parameter, err)) { return false; }
    }
    return true;
}

// Opens and checks the tensors of a model directory or of an optimizer's file.
static inline bool checkpoint_open(Safetensors *st, const char *dir, const OLMo2Config *config,
                                   bool optimizer, Error *err) {
    char path[PATH_MAX];
    if (!path_join(path, dir, "trainer/optimizer.safetensors", err)) { return false; }
    if (!safetensors_open(st, optimizer ? path : dir, err)) { return false; }
    if (checkpoint_check_tensors(st, optimizer ? path : dir, config, optimizer, err)) { return true; }
    safetensors_close(st);
    return false;
}

// Everything is checked before the first number goes into the model.
static inline bool checkpoint_load_tensors(OLMo2 *m, const char *dir, bool optimizer, Error *err) {
    const OLMo2Config *config = olmo2_config(m);
    Safetensors st;
    if (!checkpoint_open(&st, dir, config, optimizer, err)) { return false; }
    float *values =
        (float *)allocate(parameter_largest(config), sizeof *values, "the largest tensor to be read", err);
    bool ok = values != NULL;
    for (size_t i = 0; ok && i < st.count; i++) {
        CheckpointTensor tensor = checkpoint_tensor_at(config, optimizer, i);
        ok = safetensors_to_float(safetensors_find(&st, tensor.name), values, err);
        if (ok) { olmo2_write(m, tensor.array, tensor.index, values); }
    }
    free(values);
    safetensors_close(&st);
    return ok;
}

// The configuration of a model directory.
static inline bool checkpoint_load_config(OLMo2Config *config, const char *dir, Error *err) {
    char path[PATH_MAX];
    return path_join(path, dir, "config.json", err) && config_read(config, path, err);
}

// The parameters of a model directory, F32, BF16 or F16, in one file or several, into a model of its
// configuration.
static inline bool checkpoint_load_weights(OLMo2 *m, const char *dir, Error *err) {
    return checkpoint_load_tensors(m, dir, false, err);
}

// The two moments of every parameter, from a checkpoint of a training run.
static inline bool checkpoint_load_optimizer(OLMo2 *m, const char *dir, Error *err) {
    return checkpoint_load_tensors(m, dir, true, err);
}

// The text of trainer/state.json; the caller frees it. NULL with a message if there is none.
static inline char *checkpoint_read_state(const char *dir, Error *err) {
    char path[PATH_MAX];
    MappedFile file;
    if (!path_join(path, dir, "trainer/state.json", err) || !file_map(&file, path, err)) { return NULL; }
    char *text = (char *)allocate(file.size + 1, 1, path, err);
    if (text != NULL && file.size > 0) { memcpy(text, file.data, file.size); }
    file_unmap(&file);
    return text;
}

// ---------------------------------------------------------------------------------------------
// a model directory out

typedef struct {
    const OLMo2 *m;
    bool optimizer;
} CheckpointSource;

static inline bool checkpoint_fill(void *context, size_t index, float *values, Error *err) {
    const CheckpointSource *source = (const CheckpointSource *)context;
    CheckpointTensor t = checkpoint_tensor_at(olmo2_config(source->m), source->optimizer, index);
    (void)err;
    olmo2_read(source->m, t.array, t.index, values);
    return true;
}

static inline bool checkpoint_write_tensors(const OLMo2 *m, const char *dir, const char *name, bool optimizer,
                                            Error *err) {
    const OLMo2Config *config = olmo2_config(m);
    CheckpointSource source = {m, optimizer};
    size_t count = checkpoint_tensor_count(config, optimizer);
    char path[PATH_MAX];
    if (!path_join(path, dir, name, err)) { return false; }
    SafetensorsEntry *entries =
        (SafetensorsEntry *)allocate(count, sizeof *entries, "the list of tensors to be written", err);
    if (entries == NULL) { return false; }
    for (size_t i = 0; i < count; i++) {
        CheckpointTensor t = checkpoint_tensor_at(config, optimizer, i);
        memcpy(entries[i].name, t.name, sizeof t.name);
        entries[i].rank = parameter_shape(&t.parameter, entries[i].shape);
    }
    bool ok = safetensors_write(path, entries, count, checkpoint_fill, &source, err);
    free(entries);
    return ok;
}

static inline bool checkpoint_write_generation_config(const OLMo2Config *config, const char *dir,
                                                      Error *err) {
    char path[PATH_MAX];
    JsonWriter w;
    memset(&w, 0, sizeof w);
    w.pretty = true;
    json_begin_object(&w, NULL);
    config_write_token(&w, "bos_token_id", config->bos);
    config_write_token(&w, "eos_token_id", config->eos);
    config_write_token(&w, "pad_token_id", config->pad);
    json_end_object(&w);
    if (path_join(path, dir, "generation_config.json", err)) { return json_write_file(&w, path, err); }
    json_writer_free(&w);
    return false;
}

static inline bool file_copy(const char *from, const char *to, Error *err) {
    MappedFile file;
    int descriptor;
    if (!file_map(&file, from, err)) { return false; }
    bool ok = file_create(&descriptor, to, err);
    if (ok) { ok = file_finish(descriptor, file_write(descriptor, file.data, file.size, to, err), to, err); }
    file_unmap(&file);
    return ok;
}

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

// The tokenizer into a model directory: tokenizer.json, from that file or the directory that holds it. A
// tokenizer.json's own directory has what goes with it; a tokenizer_config.json is made if it is not there.
static inline bool checkpoint_write_tokenizer(const OLMo2Config *config, const char *dir,
                                              const char *tokenizer, Error *err) {
    const char *beside[] = {"tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"};
    char file[PATH_MAX], from_dir[PATH_MAX], name[PATH_MAX], from[PATH_MAX], to[PATH_MAX];
    if (path_is_directory(tokenizer)) {
        if (!path_join(file, tokenizer, "tokenizer.json", err)) { return false; }
    } else {
        snprintf(file, sizeof file, "%s", tokenizer);
    }
    if (!path_split(from_dir, name, file, err) || !path_join(to, dir, "tokenizer.json", err) ||
        !file_copy(file, to, err)) {
        return false;
    }
    for (int i = 0; i < 3; i++) {
        if (!path_join(from, from_dir, beside[i], err) || !path_join(to, dir, beside[i], err)) {
            return false;
        }
        if (strcmp(name, "tokenizer.json") == 0 && path_is_file(from)) {
            if (!file_copy(from, to, err)) { return false; }
        } else if (i == 0 && !tokenizer_config_write(config, file, to, err)) {
            return false;
        }
    }
    return true;
}

static inline bool checkpoint_write_state(const OLMo2 *m, const char *dir, const char *state, Error *err) {
    char trainer[PATH_MAX], path[PATH_MAX];
    JsonWriter w;
    memset(&w, 0, sizeof w);
    if (!path_join(trainer, dir, "trainer", err) || !path_join(path, trainer, "state.json", err) ||
        !directory_create(trainer, err) ||
        !checkpoint_write_tensors(m, trainer, "optimizer.safetensors", true, err)) {
        return false;
    }
    json_raw(&w, NULL, state);
    return json_write_file(&w, path, err) && directory_sync(trainer, err);
}

// Writes the files of a model directory, and of its trainer if there is a state, into a new directory.
static inline bool checkpoint_write_files(const OLMo2 *m, const char *dir, const char *tokenizer,
                                          const char *state, Error *err) {
    const OLMo2Config *config = olmo2_config(m);
    char path[PATH_MAX];
    return path_join(path, dir, "config.json", err) && directory_create(dir, err) &&
           config_write(config, path, err) && checkpoint_write_generation_config(config, dir, err) &&
           checkpoint_write_tensors(m, dir, "model.safetensors", false, err) &&
           (tokenizer == NULL || checkpoint_write_tokenizer(config, dir, tokenizer, err)) &&
           (state == NULL || checkpoint_write_state(m, dir, state, err)) && directory_sync(dir, err);
}

// Gives a finished directory its own name. One that has the name already makes place first.
static inline bool checkpoint_rename(const char *parent, const char *from, const char *to, const char *name,
                                     Error *err) {
    char deleting[PATH_MAX], deleting_name[PATH_MAX];
    snprintf(deleting_name, sizeof deleting_name, ".deleting-%.200s", name);
    if (!path_join(deleting, parent, deleting_name, err)) { return false; }
    bool replaces = path_is_directory(to);
    if (replaces && rename(to, deleting) != 0) {
        return fail(err, "%s: cannot be replaced: %s", to, strerror(errno));
    }
    if (rename(from, to) != 0) {
        fail(err, "%s: cannot be renamed to %s: %s", from, to, strerror(errno));
        if (replaces && rename(deleting, to) != 0) {
            fail(err, "%s\nWhat was there before is %s now.", err->text, deleting);
        }
        return false;
    }
    return directory_sync(parent, err);
}

// Writes a model's directory under parent: first as .writing-NAME, which is removed if anything fails, then
// as NAME.
static inline bool checkpoint_write_directory(const OLMo2 *m, const char *parent, const char *name,
                                              const char *tokenizer, const char *state, Error *err) {
    char writing[PATH_MAX], writing_name[PATH_MAX], path[PATH_MAX];
    snprintf(writing_name, sizeof writing_name, ".writing-%.200s", name);
    if (!path_join(path, parent, name, err) || !path_join(writing, parent, writing_name, err) ||
        !directory_create(parent, err)) {
        return false;
    }
    if (path_is_directory(writing) && !directory_remove(writing, err)) { return false; }
    if (checkpoint_write_files(m, writing, tokenizer, state, err) &&
        checkpoint_rename(parent, writing, path, name, err)) {
        return true;
    }
    Error ignored;
    if (path_is_directory(writing)) { directory_remove(writing, &ignored); }
    return false;
}

// Writes a model by itself, as a Hugging Face directory that must not be there yet. `tokenizer` is a
// tokenizer.json, a directory that holds one, or NULL.
static inline bool checkpoint_write_model(const OLMo2 *m, const char *dir, const char *tokenizer,
                                          Error *err) {
    char parent[PATH_MAX], name[PATH_MAX];
    if (!path_split(parent, name, dir, err)) { return false; }
    if (access(dir, F_OK) == 0) {
        return fail(err, "%s: is there already; choose another name or remove it", dir);
    }
    return checkpoint_write_directory(m, parent, name, tokenizer, NULL, err);
}

// ---------------------------------------------------------------------------------------------
// the checkpoints of a run

// "step-00000100", the name of a step's checkpoint. `name` is the caller's.
static inline const char *checkpoint_name(char name[32], int64_t step) {
    snprintf(name, 32, "step-%08lld", (long long)step);
    return name;
}

// The step of a checkpoint's name, or -1 if it is the name of something else.
static inline int64_t checkpoint_step(const char *name) {
    char canonical[32];
    int64_t step = strncmp(name, "step-", 5) == 0 ? strtoll(name + 5, NULL, 10) : -1;
    return step >= 0 && strcmp(name, checkpoint_name(canonical, step)) == 0 ? step : -1;
}

static inline int checkpoint_compare_steps(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

// The steps of which a run has checkpoints, ascending. The caller frees *steps.
static inline bool checkpoint_list(const char *run, int64_t **steps, size_t *count, Error *err) {
    *steps = NULL;
    *count = 0;
    DIR *dir = opendir(run);
    if (dir == NULL) { return fail(err, "%s: cannot be opened: %s", run, strerror(errno)); }
    bool ok = true;
    for (struct dirent *entry = readdir(dir); ok && entry != NULL; entry = readdir(dir)) {
        char path[PATH_MAX];
        int64_t step = checkpoint_step(entry->d_name);
        if (step < 0 || !path_join(path, run, entry->d_name, err) || !path_is_directory(path)) { continue; }
        int64_t *grown = (int64_t *)realloc(*steps, (*count + 1) * sizeof **steps);
        ok = grown != NULL || fail(err, "%s: out of memory for its list of checkpoints", run);
        if (ok) {
            *steps = grown;
            (*steps)[(*count)++] = step;
        }
    }
    closedir(dir);
    if (ok && *count > 0) { qsort(*steps, *count, sizeof **steps, checkpoint_compare_steps); }
    if (!ok) {
        free(*steps);
        *steps = NULL;
    }
    return ok;
}

// Removes what a crash has left of a save or of a deletion.
static inline bool checkpoint_clean(const char *run, Error *err) {
    DIR *dir = opendir(run);
    if (dir == NULL) { return fail(err, "%s: cannot be opened: %s", run, strerror(errno)); }
    bool ok = true;
    for (struct dirent *entry = readdir(dir); ok && entry != NULL; entry = readdir(dir)) {
        char path[PATH_MAX];
        if (strncmp(entry->d_name, ".writing-", 9) != 0 && strncmp(entry->d_name, ".deleting-", 10) != 0) {
            continue;
        }
        ok = path_join(path, run, entry->d_name, err) && directory_remove(path, err);
    }
    closedir(dir);
    return ok;
}

// Saves the model as run/step-NNNNNNNN, replacing a checkpoint of the same step; with a state (JSON text)
// also the optimizer and the state. On failure the earlier checkpoints are as they were.
static inline bool checkpoint_save(const OLMo2 *m, const char *run, int64_t step, const char *tokenizer,
                                   const char *state, Error *err) {
    char name[32];
    checkpoint_name(name, step);
    if (directory_create(run, err) && checkpoint_clean(run, err) &&
        checkpoint_write_directory(m, run, name, tokenizer, state, err)) {
        return true;
    }
    return fail(err, "%s\nCheckpoint %s was not saved; those before it are whole.", err->text, name);
}

// Whether a checkpoint can be loaded: everything but the values of its tensors is looked at.
static inline bool checkpoint_check(const char *dir, Error *err) {
    OLMo2Config config;
    Safetensors st;
    JsonDocument state;
    char trainer[PATH_MAX], path[PATH_MAX];
    if (!checkpoint_load_config(&config, dir, err) || !checkpoint_open(&st, dir, &config, false, err)) {
        return false;
    }
    safetensors_close(&st);
    if (!path_join(trainer, dir, "trainer", err) || !path_join(path, trainer, "state.json", err)) {
        return false;
    }
    if (!path_is_directory(trainer)) { return true; }
    if (!checkpoint_open(&st, dir, &config, true, err)) { return false; }
    safetensors_close(&st);
    if (!json_parse_file(&state, path, err)) { return false; }
    json_free(&state);
    return true;
}

// The path of a run's newest checkpoint that is whole, into dir (PATH_MAX bytes). If newer ones are damaged,
// `warning` says which and why, for the caller to show; its text is empty otherwise.
static inline bool checkpoint_newest(char *dir, const char *run, Error *warning, Error *err) {
    int64_t *steps;
    size_t count;
    bool found = false;
    warning->text[0] = '\0';
    if (!checkpoint_list(run, &steps, &count, err)) { return false; }
    for (size_t i = count; i-- > 0 && !found;) {
        Error damage;
        char name[32];
        found =
            path_join(dir, run, checkpoint_name(name, steps[i]), &damage) && checkpoint_check(dir, &damage);
        if (!found) {
            fail(warning, "%s%spassed over a damaged checkpoint: %s", warning->text,
                 warning->text[0] == '\0' ? "" : "\n", damage.text);
        }
    }
    free(steps);
    if (found) { return true; }
    if (count == 0) { return fail(err, "%s: holds no checkpoint (step-...)", run); }
    return fail(err, "%s: holds no checkpoint that is whole\n%s", run, warning->text);
}

// What a person calls DIR: a model directory itself, or a run, whose newest whole checkpoint is meant then.
static inline bool checkpoint_resolve(char *dir, const char *path, Error *warning, Error *err) {
    char config[PATH_MAX];
    warning->text[0] = '\0';
    if (!path_is_directory(path)) { return fail(err, "%s: is no directory", path); }
    if (!path_join(config, path, "config.json", err)) { return false; }
    if (path_is_file(config)) {
        snprintf(dir, PATH_MAX, "%s", path);
        return true;
    }
    int64_t *steps;
    size_t count;
    if (!checkpoint_list(path, &steps, &count, err)) { return false; }
    free(steps);
    if (count == 0) { return fail(err, "%s: holds neither config.json nor a checkpoint (step-...)", path); }
    return checkpoint_newest(dir, path, warning, err);
}

// Deletes checkpoints of a run, except the last keep_last whole ones (at least one), damaged ones that are
// newer than those, and the ones whose step is a multiple of keep_every (0: none is kept for that).
static inline bool checkpoint_prune(const char *run, int64_t keep_last, int64_t keep_every, Error *err) {
    int64_t *steps;
    int64_t whole = 0, keep = keep_last > 1 ? keep_last : 1;
    size_t count;
    if (!checkpoint_list(run, &steps, &count, err)) { return false; }
    bool ok = true;
    for (size_t i = count; ok && i-- > 0;) {
        char from[PATH_MAX], to[PATH_MAX], name[32], deleting[64];
        Error damage;
        snprintf(deleting, sizeof deleting, ".deleting-%s", checkpoint_name(name, steps[i]));
        ok = path_join(from, run, name, err) && path_join(to, run, deleting, err);
        if (ok && whole < keep) {
            whole += checkpoint_check(from, &damage);
        } else if (ok && (keep_every == 0 || steps[i] % keep_every != 0)) {
            ok = rename(from, to) == 0 || fail(err, "%s: cannot be deleted: %s", from, strerror(errno));
        }
    }
    free(steps);
    return ok && directory_sync(run, err) && checkpoint_clean(run, err);
}

#endif
