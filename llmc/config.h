// config.h: the configuration of a model, as config.json and generation_config.json of a Hugging Face
// directory.
//
// Doors, declared below:
//   config_read, config_read_directory     from a config.json, or from a directory with both files
//   config_ignore_tokens                   forgets token ids that the vocabulary does not have
//   config_check                           whether a model can be made of it
//   config_write, generation_config_write  files that transformers loads
//   config_files_free
//
// When a model is written again, members of its files that this program does not use are kept byte for byte:
// temperature and top_p, unknown members, a list of end tokens. ConfigFiles holds those texts from reading to
// writing.
#ifndef LLMC_CONFIG_H
#define LLMC_CONFIG_H

#include "olmo2.h"
#include "said.h"

enum { CONFIG_LARGEST_FILE = 16 << 20 };  // bytes; real ones have a few thousand

// The texts of config.json and generation_config.json of the directory that a model comes from. NULL: there
// is no such file.
typedef struct {
    char *config, *generation;
} ConfigFiles;

// Reads a config.json with the keys of transformers 4 or 5. Anything but an OLMo 2 is an error that says what
// it is. Token ids that the vocabulary does not have are ignored, with a warning.
static inline bool config_read(OLMo2Config *config, const char *path, Error *warning, Error *err);

// Reads config.json of a model directory and, for the tokens at which generation stops,
// generation_config.json if there is one. files, if not NULL, receives their texts; release it with
// config_files_free, after a failure too.
static inline bool config_read_directory(OLMo2Config *config, ConfigFiles *files, const char *dir,
                                         Error *warning, Error *err);
static inline void config_files_free(ConfigFiles *files);

// Forgets the token ids that are not below config->V, with a warning for each. `source` names their file.
static inline void config_ignore_tokens(OLMo2Config *config, const char *source, Error *warning);

// Whether a model can be made of it. `source` names the configuration in messages.
static inline bool config_check(const OLMo2Config *config, const char *source, Error *err);

// Writes a new config.json that transformers 4.47 and later, 5 included, load. They refuse a study model's,
// because they would compute something else. `said` is the text of the config.json that the model comes from,
// or NULL: its members that this program does not use are copied.
static inline bool config_write(const OLMo2Config *config, const char *said, const char *path, Error *err);
static inline bool generation_config_write(const OLMo2Config *config, const char *said, const char *path,
                                           Error *err);

// ---------------------------------------------------------------------------------------------
// sizes and constants

// The sizes in config.json: key, field, upper limit. Within these limits the byte counts of a model and its
// optimizer fit 64 bits.
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

// model_type of models that are easily mistaken for an OLMo 2.
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

static inline bool config_check_sizes(const OLMo2Config *config, const char *source, Error *err) {
    for (int i = 0; i < CONFIG_SIZES; i++) {
        size_t value;
        memcpy(&value, (const char *)config + config_sizes[i].offset, sizeof value);
        if (value < 1 || value > config_sizes[i].largest) {
            return fail(err, "%s: \"%s\" is %zu, expected 1 to %zu", source, config_sizes[i].key, value,
                        config_sizes[i].largest);
        }
    }
    if (config->NH % config->NKV != 0) {
        return fail(err, "%s: num_attention_heads %zu is not a multiple of num_key_value_heads %zu", source,
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
    return true;
}

static inline bool config_check(const OLMo2Config *config, const char *source, Error *err) {
    if (!config_check_sizes(config, source, err)) { return false; }
    if (!config_check_positive(config->rms_eps, "rms_norm_eps", source, err)) { return false; }
    if (!config_check_positive(config->rope_theta, "rope_theta", source, err)) { return false; }
    if (!config_check_positive(config->init_std, "initializer_range", source, err)) { return false; }
    if (!config_check_token(config->bos, "bos_token_id", config, source, err)) { return false; }
    if (!config_check_token(config->eos, "eos_token_id", config, source, err)) { return false; }
    return config_check_token(config->pad, "pad_token_id", config, source, err);
}

// "olmo2", or "olmo2-study" for a model without QK-norm or with pre-norm, which no other program knows.
static inline bool config_read_type(OLMo2Config *config, const Json *root, const char *path, Error *err) {
    const char *type;
    if (!json_get_string(root, "model_type", true, &type, path, err)) { return false; }
    if (strcmp(type, "olmo2-study") == 0) {
        if (!json_get_bool(root, "no_qk_norm", true, &config->ablate_qk_norm, path, err)) { return false; }
        return json_get_bool(root, "pre_norm", true, &config->pre_norm, path, err);
    }
    if (strcmp(type, "olmo2") == 0) { return true; }
    const char *name = "another model";
    for (int i = 0; i < CONFIG_OTHER_MODELS; i++) {
        if (strcmp(config_other_models[i][0], type) == 0) { name = config_other_models[i][1]; }
    }
    return fail(err, "%s: describes %s (model_type \"%.60s\"), expected an OLMo 2 (model_type \"olmo2\")",
                path, name, type);
}

// Options that OLMo 2 does not have or fixes: a configuration that sets them differently describes another
// model.
static inline bool config_read_fixed(const Json *root, const char *path, Error *err) {
    bool tied = false, bias = false;
    const char *activation = "silu";
    if (!json_get_bool(root, "tie_word_embeddings", false, &tied, path, err)) { return false; }
    if (!json_get_bool(root, "attention_bias", false, &bias, path, err)) { return false; }
    if (!json_get_string(root, "hidden_act", false, &activation, path, err)) { return false; }
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
    if (!json_get_string(rope, "type", false, &type, path, err)) { return false; }
    if (!json_get_string(rope, "rope_type", false, &type, path, err)) { return false; }
    return strcmp(type, "default") == 0 ||
           fail(err, "%s: \"%s\" asks for \"%.60s\" scaling of the rotary embedding, expected none", path,
                key, type);
}

// rope_theta is a member of the configuration, and since transformers 5 of its rope_parameters.
static inline bool config_read_rope(OLMo2Config *config, const Json *root, const char *path, Error *err) {
    const Json *scaling = json_member(root, "rope_scaling"),
               *parameters = json_member(root, "rope_parameters");
    double old_theta = NAN, theta = NAN;
    if (!config_check_rope_type(scaling, "rope_scaling", path, err)) { return false; }
    if (!config_check_rope_type(parameters, "rope_parameters", path, err)) { return false; }
    if (!json_get_double(parameters, "rope_theta", false, &theta, path, err)) { return false; }
    if (!json_get_double(root, "rope_theta", isnan(theta), &old_theta, path, err)) { return false; }
    if (!isnan(theta) && !isnan(old_theta) && theta != old_theta) {
        return fail(err,
                    "%s: \"rope_theta\" is %.15g, but %.15g in \"rope_parameters\"; remove the wrong one",
                    path, old_theta, theta);
    }
    config->rope_theta = (float)(isnan(theta) ? old_theta : theta);
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
                "%s: hidden_size %zu is not a multiple of num_attention_heads %zu, and there is no head_dim",
                path, config->C, config->NH);
        }
        config->HS = config->C / config->NH;
    }
    return true;
}

// ---------------------------------------------------------------------------------------------
// token ids

// The ids of one member.
typedef struct {
    uint32_t ids[1 + OLMO2_MORE_ENDS];
    size_t count;
} TokenIds;

// One id. A number that cannot be a token id, such as -1, is ignored.
static inline bool token_ids_add(TokenIds *list, const Json *value, const char *key, const char *path,
                                 Error *warning, Error *err) {
    const size_t room = sizeof list->ids / sizeof list->ids[0];
    if (!value->integral) {
        return json_wrong_member(value, key, "a token id, a list of them, or null", path, err);
    }
    if (value->integer < 0 || value->integer >= OLMO2_NO_TOKEN) {
        add_warning(warning, "%s: \"%s\" is %lld, which is not a token id: ignored", path, key,
                    (long long)value->integer);
    } else if (list->count == room) {
        add_warning(warning, "%s: \"%s\" has more than %zu ids: %lld is ignored", path, key, room,
                    (long long)value->integer);
    } else {
        list->ids[list->count++] = (uint32_t)value->integer;
    }
    return true;
}

// A token id, a list of them, or null.
static inline bool token_ids_read(TokenIds *list, const Json *root, const char *key, const char *path,
                                  Error *warning, Error *err) {
    const Json *value = json_member(root, key);
    list->count = 0;
    if (value == NULL || value->type == JSON_NULL) { return true; }
    if (value->type != JSON_ARRAY) { return token_ids_add(list, value, key, path, warning, err); }
    for (const Json *item = json_first(value); item != NULL; item = json_next(item)) {
        if (!token_ids_add(list, item, key, path, warning, err)) { return false; }
    }
    return true;
}

// Generation stops at this id too.
static inline void config_add_end(OLMo2Config *config, uint32_t id) {
    if (config_is_end(config, id) || config->more_end_count == OLMO2_MORE_ENDS) { return; }
    if (config->eos == OLMO2_NO_TOKEN) {
        config->eos = id;
    } else {
        config->more_ends[config->more_end_count++] = id;
    }
}

static inline bool config_read_tokens(OLMo2Config *config, const Json *root, const char *path, Error *warning,
                                      Error *err) {
    TokenIds bos, eos, pad;
    if (!token_ids_read(&bos, root, "bos_token_id", path, warning, err)) { return false; }
    if (!token_ids_read(&eos, root, "eos_token_id", path, warning, err)) { return false; }
    if (!token_ids_read(&pad, root, "pad_token_id", path, warning, err)) { return false; }
    config->bos = bos.count > 0 ? bos.ids[0] : OLMO2_NO_TOKEN;
    config->pad = pad.count > 0 ? pad.ids[0] : OLMO2_NO_TOKEN;
    config->eos = OLMO2_NO_TOKEN;
    config->more_end_count = 0;
    for (size_t i = 0; i < eos.count; i++) { config_add_end(config, eos.ids[i]); }
    return true;
}

static inline void config_ignore_token(uint32_t *id, const char *key, size_t V, const char *source,
                                       Error *warning) {
    if (*id == OLMO2_NO_TOKEN || *id < V) { return; }
    add_warning(warning, "%s: \"%s\" is %u, the vocabulary has %zu rows: ignored", source, key, (unsigned)*id,
                V);
    *id = OLMO2_NO_TOKEN;
}

static inline void config_ignore_tokens(OLMo2Config *config, const char *source, Error *warning) {
    TokenIds ends = {{0}, 0};
    ends.ids[ends.count++] = config->eos;
    for (size_t i = 0; i < config->more_end_count; i++) { ends.ids[ends.count++] = config->more_ends[i]; }
    memset(config->more_ends, 0, sizeof config->more_ends);
    config->more_end_count = 0;
    config->eos = OLMO2_NO_TOKEN;
    for (size_t i = 0; i < ends.count; i++) {
        config_ignore_token(&ends.ids[i], "eos_token_id", config->V, source, warning);
        if (ends.ids[i] != OLMO2_NO_TOKEN) { config_add_end(config, ends.ids[i]); }
    }
    config_ignore_token(&config->bos, "bos_token_id", config->V, source, warning);
    config_ignore_token(&config->pad, "pad_token_id", config->V, source, warning);
}

// ---------------------------------------------------------------------------------------------
// reading

static inline bool config_from_json(OLMo2Config *config, const Json *root, const char *path, Error *warning,
                                    Error *err) {
    double eps = 0.0, init_std = 0.02;
    memset(config, 0, sizeof *config);
    if (root->type != JSON_OBJECT) {
        return fail(err, "%s: is not a JSON object, expected a configuration", path);
    }
    if (!config_read_type(config, root, path, err)) { return false; }
    if (!config_read_fixed(root, path, err)) { return false; }
    if (!config_read_sizes(config, root, path, err)) { return false; }
    if (!config_read_rope(config, root, path, err)) { return false; }
    if (!json_get_double(root, "rms_norm_eps", true, &eps, path, err)) { return false; }
    if (!json_get_double(root, "initializer_range", false, &init_std, path, err)) { return false; }
    if (!config_read_tokens(config, root, path, warning, err)) { return false; }
    config->rms_eps = (float)eps;
    config->init_std = (float)init_std;
    config_ignore_tokens(config, path, warning);
    return config_check(config, path, err);
}

// A configuration and the text that it was read from, which the caller frees.
static inline bool config_read_text(OLMo2Config *config, char **text, const char *path, Error *warning,
                                    Error *err) {
    JsonDocument doc;
    *text = file_read_text(path, CONFIG_LARGEST_FILE, err);
    if (*text == NULL) { return false; }
    if (!json_parse(&doc, *text, strlen(*text), path, err)) { return false; }
    bool ok = config_from_json(config, doc.root, path, warning, err);
    json_free(&doc);
    return ok;
}

static inline bool config_read(OLMo2Config *config, const char *path, Error *warning, Error *err) {
    char *text;
    bool ok = config_read_text(config, &text, path, warning, err);
    free(text);
    return ok;
}

// As in transformers, the list in generation_config.json, if there is one, replaces that in config.json.
// Documents still end with config.json's first id.
static inline bool config_from_generation(OLMo2Config *config, const Json *root, const char *path,
                                          Error *warning, Error *err) {
    TokenIds ends;
    if (root->type != JSON_OBJECT) { return fail(err, "%s: is not a JSON object", path); }
    if (!token_ids_read(&ends, root, "eos_token_id", path, warning, err)) { return false; }
    if (ends.count == 0) { return true; }
    memset(config->more_ends, 0, sizeof config->more_ends);
    config->more_end_count = 0;
    for (size_t i = 0; i < ends.count; i++) {
        config_ignore_token(&ends.ids[i], "eos_token_id", config->V, path, warning);
        if (ends.ids[i] != OLMO2_NO_TOKEN) { config_add_end(config, ends.ids[i]); }
    }
    return true;
}

// No model depends on this file, so one that cannot be used is only a warning, and its text is dropped.
static inline void config_read_generation(OLMo2Config *config, char **text, const char *path,
                                          Error *warning) {
    JsonDocument doc;
    Error damage;
    *text = NULL;
    if (!path_exists(path)) { return; }
    *text = file_read_text(path, CONFIG_LARGEST_FILE, &damage);
    bool ok = *text != NULL && json_parse(&doc, *text, strlen(*text), path, &damage);
    if (ok) {
        ok = config_from_generation(config, doc.root, path, warning, &damage);
        json_free(&doc);
    }
    if (ok) { return; }
    add_warning(warning, "%s\nThe file is ignored.", damage.text);
    free(*text);
    *text = NULL;
}

static inline bool config_read_directory(OLMo2Config *config, ConfigFiles *files, const char *dir,
                                         Error *warning, Error *err) {
    char path[PATH_MAX], generation[PATH_MAX];
    ConfigFiles unused = {NULL, NULL}, *texts = files != NULL ? files : &unused;
    texts->config = texts->generation = NULL;
    if (!path_join(path, dir, "config.json", err)) { return false; }
    if (!path_join(generation, dir, "generation_config.json", err)) { return false; }
    bool ok = config_read_text(config, &texts->config, path, warning, err);
    if (ok) { config_read_generation(config, &texts->generation, generation, warning); }
    config_files_free(&unused);
    return ok;
}

static inline void config_files_free(ConfigFiles *files) {
    free(files->config);
    free(files->generation);
    files->config = files->generation = NULL;
}

// ---------------------------------------------------------------------------------------------
// writing

static inline void config_write_token(JsonWriter *w, const char *key, uint32_t id) {
    if (id == OLMO2_NO_TOKEN) {
        json_null(w, key);
    } else {
        json_integer(w, key, id);
    }
}

// Whether the end ids of a file are still true: eos is among them, and generation stops at each.
static inline bool said_ends_hold(const Said *said, const OLMo2Config *config) {
    TokenIds ends;
    Error warning = {""}, err;
    if (!token_ids_read(&ends, said->doc.root, "eos_token_id", "", &warning, &err)) { return false; }
    bool holds = false;
    for (size_t i = 0; i < ends.count; i++) {
        if (!config_is_end(config, ends.ids[i])) { return false; }
        holds = holds || ends.ids[i] == config->eos;
    }
    return holds && warning.text[0] == '\0';
}

// eos_token_id: as the file had it if that is still true, otherwise a number, a list, or null.
static inline void config_write_ends(JsonWriter *w, const OLMo2Config *config, const Said *said) {
    if (said_ends_hold(said, config)) {
        said_or(w, said, "eos_token_id", "null");
        return;
    }
    if (config->more_end_count == 0) {
        config_write_token(w, "eos_token_id", config->eos);
        return;
    }
    json_begin_array(w, "eos_token_id");
    json_integer(w, NULL, config->eos);
    for (size_t i = 0; i < config->more_end_count; i++) { json_integer(w, NULL, config->more_ends[i]); }
    json_end_array(w);
}

static inline void config_write_rope(JsonWriter *w, const OLMo2Config *config) {
    json_float(w, "rope_theta", config->rope_theta);
    json_null(w, "rope_scaling");
    json_begin_object(w, "rope_parameters");
    json_float(w, "rope_theta", config->rope_theta);
    json_string(w, "rope_type", "default");
    json_end_object(w);
}

// clang-format off
// The members that config_write writes itself.
static const char *const config_keys[] = {
    "architectures", "model_type", "no_qk_norm", "pre_norm",
    "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "head_dim", "intermediate_size", "vocab_size", "max_position_embeddings",
    "hidden_act", "attention_bias", "attention_dropout", "tie_word_embeddings",
    "rms_norm_eps", "initializer_range", "rope_theta", "rope_scaling",
    "rope_parameters", "bos_token_id", "eos_token_id", "pad_token_id",
    "torch_dtype", "dtype", "use_cache",
};
// clang-format on

static inline bool config_write(const OLMo2Config *config, const char *said_text, const char *path,
                                Error *err) {
    const bool study = config->ablate_qk_norm || config->pre_norm;
    Said said = said_open(said_text);
    JsonWriter w;
    memset(&w, 0, sizeof w);
    w.pretty = true;
    json_begin_object(&w, NULL);
    json_begin_array(&w, "architectures");
    json_string(&w, NULL, study ? "OLMo2StudyForCausalLM" : "Olmo2ForCausalLM");
    json_end_array(&w);
    json_string(&w, "model_type", study ? "olmo2-study" : "olmo2");
    if (study) {
        json_bool(&w, "no_qk_norm", config->ablate_qk_norm);
        json_bool(&w, "pre_norm", config->pre_norm);
    }
    for (int i = 0; i < CONFIG_SIZES; i++) {
        size_t value;
        memcpy(&value, (const char *)config + config_sizes[i].offset, sizeof value);
        json_integer(&w, config_sizes[i].key, (int64_t)value);
    }
    json_string(&w, "hidden_act", "silu");
    json_bool(&w, "attention_bias", false);
    said_or(&w, &said, "attention_dropout", "0.0");
    json_bool(&w, "tie_word_embeddings", false);
    json_float(&w, "rms_norm_eps", config->rms_eps);
    json_float(&w, "initializer_range", config->init_std);
    config_write_rope(&w, config);
    config_write_token(&w, "bos_token_id", config->bos);
    config_write_ends(&w, config, &said);
    config_write_token(&w, "pad_token_id", config->pad);
    json_string(&w, "torch_dtype", "float32");
    json_string(&w, "dtype", "float32");
    said_or(&w, &said, "use_cache", "true");
    said_rest(&w, &said, config_keys, sizeof config_keys / sizeof config_keys[0]);
    json_end_object(&w);
    json_free(&said.doc);
    return json_write_file(&w, path, err);
}

// A token id of generation_config.json. It may differ from config.json's, and is kept if the vocabulary has
// it.
static inline void generation_write_token(JsonWriter *w, const Said *said, const char *key, uint32_t id,
                                          size_t V) {
    const Json *member = json_member(said->doc.root, key);
    if (member != NULL && member->integral && member->integer >= 0 && (size_t)member->integer < V) {
        said_copy(w, said, member);
    } else {
        config_write_token(w, key, id);
    }
}

static inline bool generation_config_write(const OLMo2Config *config, const char *said_text, const char *path,
                                           Error *err) {
    static const char *const known[] = {"bos_token_id", "eos_token_id", "pad_token_id"};
    Said said = said_open(said_text);
    JsonWriter w;
    memset(&w, 0, sizeof w);
    w.pretty = true;
    json_begin_object(&w, NULL);
    generation_write_token(&w, &said, "bos_token_id", config->bos, config->V);
    config_write_ends(&w, config, &said);
    generation_write_token(&w, &said, "pad_token_id", config->pad, config->V);
    said_rest(&w, &said, known, sizeof known / sizeof known[0]);
    json_end_object(&w);
    json_free(&said.doc);
    return json_write_file(&w, path, err);
}

#endif
