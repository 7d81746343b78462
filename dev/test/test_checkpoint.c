// test_checkpoint.c: configurations, model directories and a run's checkpoints, with a model that only
// stores.
#include "llmc/checkpoint.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "check.h"
#include "stub_model.h"

static Error err, warning;
static char dir[] = "/tmp/test_checkpoint_XXXXXX";

// The path of a name in the test's directory, in one of four buffers used in turn.
static const char *in_dir(const char *name) {
    static char paths[4][PATH_MAX];
    static int next;
    char *path = paths[next++ % 4];
    CHECK(path_join(path, dir, name, &err));
    return path;
}

static void write_text(const char *name, const char *text) {
    FILE *file = fopen(in_dir(name), "wb");
    if (CHECK(file != NULL)) {
        CHECK(fputs(text, file) >= 0);
        fclose(file);
    }
}

static bool exists(const char *name) { return access(in_dir(name), F_OK) == 0; }

// Entries of a directory, "." and ".." not counted.
static int count_entries(const char *name) {
    int count = 0;
    DIR *listing = opendir(in_dir(name));
    if (!CHECK(listing != NULL)) { return -1; }
    while (readdir(listing) != NULL) { count++; }
    closedir(listing);
    return count - 2;
}

// Whether a save or a deletion was broken off in a run.
static bool has_leftovers(const char *run) {
    bool found = false;
    DIR *listing = opendir(in_dir(run));
    if (!CHECK(listing != NULL)) { return false; }
    for (struct dirent *entry = readdir(listing); entry != NULL; entry = readdir(listing)) {
        found = found || strncmp(entry->d_name, ".writing-", 9) == 0 ||
                strncmp(entry->d_name, ".deleting-", 10) == 0;
    }
    closedir(listing);
    return found;
}

// Grouped queries, a head size that is no power of two, NH * HS != C, an odd vocabulary.
static OLMo2Config small_config(void) {
    OLMo2Config config;
    CHECK(olmo2_preset(&config, "14M"));
    config.C = 20, config.L = 3, config.NH = 4, config.NKV = 2, config.HS = 6, config.F = 14, config.V = 37;
    config.max_T = 64;
    config.eos = 1, config.pad = 2;
    return config;
}

static OLMo2 *make_model(const OLMo2Config *config, float first) {
    OLMo2 *m;
    const OLMo2Room room = olmo2_room_to_train(0, 0);
    const OLMo2Form form = olmo2_form();
    if (!olmo2_create(&m, config, &room, &form, &err)) {
        printf("%s\n", err.text);
        exit(1);
    }
    for (size_t a = 0; a < 4; a++) {
        for (size_t i = 0; i < parameter_array_size(config); i++) {
            m->arrays[a][i] = first + (float)a * 0.25f + (float)i;
        }
    }
    return m;
}

// The same bits in one array of two models, padding left out.
static bool same_array(const OLMo2 *a, const OLMo2 *b, OLMo2Array array) {
    for (size_t i = 0; i < parameter_count(&a->config); i++) {
        Parameter p = parameter_at(&a->config, i);
        if (memcmp(a->arrays[array] + p.offset, b->arrays[array] + p.offset, p.size * sizeof(float)) != 0) {
            return false;
        }
    }
    return true;
}

static bool same_config(const OLMo2Config *a, const OLMo2Config *b) {
    return a->C == b->C && a->L == b->L && a->NH == b->NH && a->NKV == b->NKV && a->HS == b->HS &&
           a->F == b->F && a->V == b->V && a->max_T == b->max_T && a->rms_eps == b->rms_eps &&
           a->rope_theta == b->rope_theta && a->init_std == b->init_std && a->bos == b->bos &&
           a->eos == b->eos && a->pad == b->pad && a->no_qk_norm == b->no_qk_norm &&
           a->pre_norm == b->pre_norm;
}

// ---------------------------------------------------------------------------------------------
// config.json

static void check_config_round_trip(const OLMo2Config *config) {
    OLMo2Config back;
    CHECK(config_write(config, in_dir("config.json"), &err));
    CHECK(config_read(&back, in_dir("config.json"), &err) && same_config(config, &back));
    unlink(in_dir("config.json"));
}

static void test_config_round_trips(void) {
    for (size_t i = 0; i < OLMO2_PRESETS; i++) {
        OLMo2Config config;
        CHECK(olmo2_preset(&config, olmo2_presets[i].name));
        check_config_round_trip(&config);
    }
    OLMo2Config config = small_config();
    config.bos = 0;
    config.rms_eps = 1.17549435e-38f;
    config.rope_theta = 123456.789f;
    config.no_qk_norm = true;
    check_config_round_trip(&config);
    config.pre_norm = true;
    config.bos = config.eos = config.pad = OLMO2_NO_TOKEN;
    check_config_round_trip(&config);
}

// A good configuration of the old kind as key and value; one of them is replaced, or left out where value is
// NULL.
static bool read_changed(const char *key, const char *value, OLMo2Config *config) {
    static const char *const members[][2] = {
        {"architectures", "[\"Olmo2ForCausalLM\"]"},
        {"model_type", "\"olmo2\""},
        {"hidden_size", "64"},
        {"num_hidden_layers", "2"},
        {"num_attention_heads", "4"},
        {"num_key_value_heads", "2"},
        {"intermediate_size", "128"},
        {"vocab_size", "1000"},
        {"max_position_embeddings", "4096"},
        {"hidden_act", "\"silu\""},
        {"attention_bias", "false"},
        {"tie_word_embeddings", "false"},
        {"rms_norm_eps", "1e-06"},
        {"rope_theta", "500000"},
        {"rope_scaling", "null"},
        {"initializer_range", "0.02"},
        {"eos_token_id", "7"},
        {"pad_token_id", "8"},
        {"torch_dtype", "\"float32\""},
        {"transformers_version", "\"4.47.0\""},
    };
    JsonWriter w = {0};
    bool replaced = false;
    json_begin_object(&w, NULL);
    for (size_t i = 0; i < sizeof members / sizeof members[0]; i++) {
        bool this_one = strcmp(members[i][0], key) == 0;
        const char *text = this_one ? value : members[i][1];
        if (text != NULL) { json_raw(&w, members[i][0], text); }
        replaced = replaced || this_one;
    }
    if (!replaced && value != NULL) { json_raw(&w, key, value); }
    json_end_object(&w);
    write_text("config.json", w.text);
    json_writer_free(&w);
    return config_read(config, in_dir("config.json"), &err);
}

static void test_config_keys(void) {
    OLMo2Config config;
    CHECK(read_changed("none", NULL, &config));
    CHECK(config.C == 64 && config.L == 2 && config.NH == 4 && config.NKV == 2 && config.HS == 16);
    CHECK(config.F == 128 && config.V == 1000 && config.max_T == 4096 && config.rms_eps == 1e-6f);
    CHECK(config.rope_theta == 500000.0f && config.init_std == 0.02f && !config.no_qk_norm &&
          !config.pre_norm);
    CHECK(config.bos == OLMO2_NO_TOKEN && config.eos == 7 && config.pad == 8);
    CHECK(read_changed("num_key_value_heads", NULL, &config) && config.NKV == 4);
    CHECK(read_changed("num_key_value_heads", "null", &config) && config.NKV == 4);
    CHECK(read_changed("head_dim", "10", &config) && config.HS == 10);
    CHECK(read_changed("head_dim", "null", &config) && config.HS == 16);
    CHECK(read_changed("eos_token_id", "[9, 7]", &config) && config.eos == 9);
    CHECK(read_changed("eos_token_id", "null", &config) && config.eos == OLMO2_NO_TOKEN);
    CHECK(read_changed("eos_token_id", NULL, &config) && config.eos == OLMO2_NO_TOKEN);
    CHECK(read_changed("bos_token_id", "999", &config) && config.bos == 999);
    CHECK(read_changed("initializer_range", NULL, &config) && config.init_std == 0.02f);
    CHECK(read_changed("hidden_act", NULL, &config) && read_changed("attention_bias", NULL, &config));
    CHECK(read_changed("rope_scaling", "{\"type\": \"default\"}", &config));
    CHECK(read_changed("rope_parameters", "{\"rope_theta\": 500000.0, \"rope_type\": \"default\"}", &config));
    write_text("config.json",
               "{\"model_type\": \"olmo2\", \"hidden_size\": 64, \"num_hidden_layers\": 2,"
               "\"num_attention_heads\": 4, \"intermediate_size\": 128, \"vocab_size\": 1000,"
               "\"max_position_embeddings\": 4096, \"rms_norm_eps\": 1e-06, \"dtype\": \"bfloat16\","
               "\"rope_parameters\": {\"rope_theta\": 250000.0, \"rope_type\": \"default\"}}");
    CHECK(config_read(&config, in_dir("config.json"), &err) && config.rope_theta == 250000.0f);
}

static void test_bad_configs(void) {
    static const struct {
        const char *key, *value, *words;
    } bad[] = {
        {"model_type", NULL, "\"model_type\" is missing"},
        {"model_type", "\"llama\"", "describes Llama (model_type \"llama\"), expected an OLMo 2"},
        {"model_type", "\"olmo\"", "describes OLMo 1 (model_type \"olmo\")"},
        {"model_type", "\"hf_olmo\"", "describes OLMo 1"},
        {"model_type", "\"olmo3\"", "describes OLMo 3"},
        {"model_type", "\"olmoe\"", "describes OLMoE"},
        {"model_type", "\"qwen3\"", "describes Qwen 3"},
        {"model_type", "\"gpt2\"", "describes GPT-2"},
        {"model_type", "\"unheard-of\"", "describes another model (model_type \"unheard-of\")"},
        {"model_type", "7", "\"model_type\" is 7, expected a string"},
        {"model_type", "\"olmo2-study\"", "\"no_qk_norm\" is missing"},
        {"hidden_size", NULL, "\"hidden_size\" is missing"},
        {"hidden_size", "null", "\"hidden_size\" is missing"},
        {"hidden_size", "0", "\"hidden_size\" is 0, expected 1 to 1048576"},
        {"hidden_size", "-64", "\"hidden_size\" is -64, expected a whole number"},
        {"hidden_size", "64.0", "\"hidden_size\" is 64.0, expected a whole number"},
        {"hidden_size", "\"64\"", "\"hidden_size\" is the string \"64\""},
        {"hidden_size", "1e300", "expected a whole number"},
        {"hidden_size", "9223372036854775804", "is 9223372036854775804, expected 1 to 1048576"},
        {"hidden_size", "66",
         "hidden_size 66 is no multiple of num_attention_heads 4, and there is no head_dim"},
        {"hidden_size", "60", "heads of 15 channels (head_dim), expected an even number"},
        {"head_dim", "15", "heads of 15 channels"},
        {"head_dim", "0", "\"head_dim\" is 0"},
        {"head_dim", "1048576", "expected at most 1048576 channels together"},
        {"num_hidden_layers", "0", "\"num_hidden_layers\" is 0"},
        {"num_hidden_layers", "5000", "\"num_hidden_layers\" is 5000, expected 1 to 4096"},
        {"num_attention_heads", "0", "num_attention_heads 0"},
        {"num_key_value_heads", "0", "\"num_key_value_heads\" is 0"},
        {"num_key_value_heads", "3", "num_attention_heads 4 is no multiple of num_key_value_heads 3"},
        {"num_key_value_heads", "8", "num_attention_heads 4 is no multiple of num_key_value_heads 8"},
        {"intermediate_size", "0", "\"intermediate_size\" is 0"},
        {"vocab_size", "0", "\"vocab_size\" is 0"},
        {"max_position_embeddings", "0", "\"max_position_embeddings\" is 0"},
        {"max_position_embeddings", NULL, "\"max_position_embeddings\" is missing"},
        {"hidden_act", "\"gelu\"", "\"hidden_act\" is \"gelu\", expected \"silu\""},
        {"attention_bias", "true", "\"attention_bias\" is true, expected false"},
        {"attention_bias", "0", "\"attention_bias\" is 0, expected true or false"},
        {"tie_word_embeddings", "true", "\"tie_word_embeddings\" is true, expected false"},
        {"rms_norm_eps", NULL, "\"rms_norm_eps\" is missing"},
        {"rms_norm_eps", "0", "\"rms_norm_eps\" is 0, expected a number above 0"},
        {"rms_norm_eps", "1e-100", "\"rms_norm_eps\" is 0, expected a number above 0"},
        {"rms_norm_eps", "-1e-6", "expected a number above 0"},
        {"rms_norm_eps", "1e100", "\"rms_norm_eps\" is inf"},
        {"rms_norm_eps", "NaN", "found 'N'"},
        {"rope_theta", NULL, "\"rope_theta\" is missing"},
        {"rope_theta", "0", "\"rope_theta\" is 0"},
        {"rope_theta", "\"x\"", "\"rope_theta\" is the string \"x\""},
        {"rope_parameters", "{\"rope_theta\": 10000.0}",
         "\"rope_theta\" is 500000, but 10000 in \"rope_parameters\""},
        {"rope_parameters", "{\"rope_theta\": 0}", "but 0 in \"rope_parameters\""},
        {"rope_parameters", "{\"rope_type\": \"yarn\"}", "\"rope_parameters\" asks for \"yarn\" scaling"},
        {"rope_parameters", "3", "\"rope_parameters\" is 3, expected an object or null"},
        {"rope_scaling", "{\"type\": \"linear\", \"factor\": 2}",
         "\"rope_scaling\" asks for \"linear\" scaling"},
        {"initializer_range", "0", "\"initializer_range\" is 0"},
        {"eos_token_id", "1000",
         "\"eos_token_id\" is 1000, expected a token id below vocab_size 1000, or null"},
        {"eos_token_id", "-1", "\"eos_token_id\" is -1, expected a token id or null"},
        {"eos_token_id", "\"</s>\"", "expected a token id or null"},
        {"eos_token_id", "[\"</s>\"]", "expected a token id or null"},
        {"pad_token_id", "4294967295", "expected a token id or null"},
        {"bos_token_id", "1.5", "\"bos_token_id\" is 1.5, expected a token id or null"},
    };
    OLMo2Config config;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        if (!CHECK_ERROR(read_changed(bad[i].key, bad[i].value, &config), err, bad[i].words)) {
            printf("       of %s = %s\n", bad[i].key, bad[i].value == NULL ? "(absent)" : bad[i].value);
        }
        CHECK(strncmp(err.text, in_dir("config.json"), strlen(in_dir("config.json"))) == 0);
    }
    write_text("config.json", "[]");
    CHECK_ERROR(config_read(&config, in_dir("config.json"), &err), err, "holds no JSON object");
    write_text("config.json", "");
    CHECK_ERROR(config_read(&config, in_dir("config.json"), &err), err, ":1:1: found the end of the text");
    unlink(in_dir("config.json"));
    CHECK_ERROR(config_read(&config, in_dir("config.json"), &err), err, "cannot be opened: No such file");
    CHECK_ERROR(checkpoint_load_config(&config, in_dir("absent"), &err), err,
                "absent/config.json: cannot be opened");
}

// ---------------------------------------------------------------------------------------------
// model directories

static void test_model_round_trip(void) {
    OLMo2Config config = small_config(), back;
    OLMo2 *m = make_model(&config, 0.0f), *read = make_model(&config, -1.0f);
    const uint32_t nan_bits = 0x7FC12345;
    memcpy(m->arrays[0], &nan_bits, 4);
    m->arrays[0][1] = -INFINITY;
    m->arrays[0][2] = -0.0f;
    m->arrays[0][3] = 1e-45f;
    CHECK(checkpoint_write_model(m, in_dir("model"), NULL, &err));
    CHECK(count_entries("model") == 3 && !exists(".writing-model"));
    CHECK(checkpoint_load_config(&back, in_dir("model"), &err) && same_config(&config, &back));
    CHECK(checkpoint_load_weights(read, in_dir("model"), &err) && same_array(m, read, OLMO2_PARAMETER));
    CHECK(!same_array(m, read, OLMO2_MOMENT1));
    CHECK_ERROR(checkpoint_load_optimizer(read, in_dir("model"), &err), err,
                "trainer/optimizer.safetensors: cannot be opened");
    CHECK(checkpoint_read_state(in_dir("model"), &err) == NULL &&
          strstr(err.text, "state.json: cannot") != NULL);
    CHECK_ERROR(checkpoint_write_model(m, in_dir("model"), NULL, &err), err, "is there already");
    // a path that ends in a slash, in directories that are not there yet, after a crash
    CHECK(directory_create(in_dir("new/.writing-soup/trainer"), &err));
    write_text("new/.writing-soup/config.json", "half");
    CHECK(checkpoint_write_model(m, in_dir("new/soup//"), NULL, &err));
    CHECK(exists("new/soup/config.json") && count_entries("new") == 1 && count_entries("new/soup") == 3);
    olmo2_free(m);
    olmo2_free(read);
}

// The tensors of a model's file with one of them changed.
typedef struct {
    size_t index;  // the one that is changed
    bool leave_out;
    const char *rename;  // or NULL
    bool reshape;        // a matrix is transposed, a norm is a matrix of one column
} Change;

static bool zeros(void *context, size_t index, float *values, Error *e) {
    (void)context, (void)index, (void)values, (void)e;
    return true;
}

// Writes bad/model.safetensors: the small model's tensors, `extra` as one more if it is not NULL.
static void write_changed(Change change, const char *extra) {
    OLMo2Config config = small_config();
    SafetensorsEntry entries[64];
    size_t n = 0;
    memset(entries, 0, sizeof entries);
    for (size_t i = 0; i < parameter_count(&config); i++) {
        Parameter p = parameter_at(&config, i);
        bool this_one = i == change.index;
        if (this_one && change.leave_out) { continue; }
        bool renamed = this_one && change.rename != NULL;
        snprintf(entries[n].name, sizeof entries[n].name, "%s", renamed ? change.rename : p.name);
        entries[n].rank = parameter_shape(&p, entries[n].shape);
        if (this_one && change.reshape) {
            bool norm = p.row->columns == DIM_1;
            entries[n].shape[0] = norm ? p.rows : p.columns;
            entries[n].shape[1] = norm ? p.columns : p.rows;
            entries[n].rank = 2;
        }
        n++;
    }
    if (extra != NULL) {
        snprintf(entries[n].name, sizeof entries[n].name, "%s", extra);
        entries[n].rank = 1;
        entries[n].shape[0] = 5;
        n++;
    }
    unlink(in_dir("bad/model.safetensors"));
    CHECK(safetensors_write(in_dir("bad/model.safetensors"), entries, n, zeros, NULL, &err));
}

static void refuse_weights(const char *words) {
    OLMo2Config config = small_config();
    OLMo2 *m = make_model(&config, 5.0f), *untouched = make_model(&config, 5.0f);
    CHECK_ERROR(checkpoint_load_weights(m, in_dir("bad"), &err), err, words);
    CHECK(strstr(err.text, in_dir("bad")) != NULL && same_array(m, untouched, OLMO2_PARAMETER));
    olmo2_free(m);
    olmo2_free(untouched);
}

static void test_bad_weights(void) {
    const size_t up = 1 + 3 * 11 - 3;  // mlp.up_proj of the last layer
    const size_t norm = 1 + 5;         // q_norm's neighbour, k_norm of the first layer
    Change none = {SIZE_MAX, false, NULL, false}, missing = {up, true, NULL, false};
    Change renamed = {norm, false, "model.layers.0.input_layernorm.weight", false};
    Change fourth_layer = {0, false, "model.layers.3.mlp.up_proj.weight", false};
    Change transposed = {up, false, NULL, true}, matrix = {norm, false, NULL, true};
    CHECK(directory_create(in_dir("bad"), &err));
    refuse_weights("has neither model.safetensors nor model.safetensors.index.json");
    write_changed(missing, NULL);
    refuse_weights("has no tensor \"model.layers.2.mlp.up_proj.weight\",\nwhich the model of config.json (3 "
                   "layers) needs.\n"
                   "The files are of different models; copy both from the same place.");
    write_changed(renamed, NULL);
    refuse_weights("holds tensor \"model.layers.0.input_layernorm.weight\", as OLMo 1 and Llama do.");
    write_changed(fourth_layer, "model.layers.1.input_layernorm.weight");
    refuse_weights("holds tensor \"model.layers.1.input_layernorm.weight\", as OLMo 1 and Llama do.");
    write_changed(none, "model.layers.3.mlp.up_proj.weight");
    refuse_weights("holds tensor \"model.layers.3.mlp.up_proj.weight\",\nwhich the model of config.json (3 "
                   "layers) has not.");
    write_changed(transposed, NULL);
    refuse_weights("model.safetensors: tensor \"model.layers.2.mlp.up_proj.weight\" has shape (20, 14),\n"
                   "config.json says (14, 20) (intermediate_size 14, hidden_size 20).\n"
                   "The files are of different models; copy both from the same place.");
    write_changed(matrix, NULL);
    refuse_weights("tensor \"model.layers.0.self_attn.k_norm.weight\" has shape (12, 1),\n"
                   "config.json says (12) (num_key_value_heads 2 * head_dim 6).");
    write_text("bad/model.safetensors", "");
    refuse_weights("has 0 bytes, too few for a safetensors file");
    unlink(in_dir("bad/model.safetensors"));

    // of the right shape, but integers
    OLMo2Config config = small_config();
    Parameter p = parameter_at(&config, norm);
    size_t shape[SAFETENSORS_MAX_RANK] = {p.rows};
    SafetensorsTensor t = {p.name, DTYPE_I32, 1, {0}, p.rows, NULL, 4 * p.rows, "x.safetensors"};
    memcpy(t.shape, shape, sizeof shape);
    CHECK_ERROR(checkpoint_check_tensor(&t, &config, &p, &err), err,
                "has dtype I32, expected F32, BF16, F16 or F64");
    t.dtype = DTYPE_BF16;
    CHECK(checkpoint_check_tensor(&t, &config, &p, &err));
}

static void test_tokenizer_files(void) {
    OLMo2Config config = small_config();
    OLMo2 *m = make_model(&config, 0.0f);
    const char *tokenizer =
        "{\"added_tokens\": [{\"id\": 1, \"content\": \"<|end|>\"}, {\"id\": 2, \"content\": "
        "\"<|\\\"pad\\\"|>\"}], \"model\": {}}";
    JsonDocument doc;
    CHECK(directory_create(in_dir("tok"), &err));
    write_text("tok/tokenizer.json", tokenizer);
    CHECK(checkpoint_write_model(m, in_dir("with_file"), in_dir("tok/tokenizer.json"), &err));
    if (CHECK(json_parse_file(&doc, in_dir("with_file/tokenizer_config.json"), &err))) {
        CHECK(strcmp(json_member(doc.root, "eos_token")->string, "<|end|>") == 0);
        CHECK(strcmp(json_member(doc.root, "pad_token")->string, "<|\"pad\"|>") == 0);
        CHECK(json_member(doc.root, "bos_token") == NULL);
        json_free(&doc);
    }
    CHECK(count_entries("with_file") == 5);
    // what stands beside it is the better tokenizer_config.json
    write_text("tok/tokenizer_config.json", "{\"chat_template\": \"x\"}");
    write_text("tok/chat_template.jinja", "y");
    CHECK(checkpoint_write_model(m, in_dir("with_dir"), in_dir("tok"), &err));
    CHECK(count_entries("with_dir") == 6 && exists("with_dir/chat_template.jinja"));
    if (CHECK(json_parse_file(&doc, in_dir("with_dir/tokenizer_config.json"), &err))) {
        CHECK(json_member(doc.root, "chat_template") != NULL);
        json_free(&doc);
    }
    // unless the tokenizer has another name, and they may be another's
    write_text("tok/other.json", tokenizer);
    CHECK(checkpoint_write_model(m, in_dir("with_other"), in_dir("tok/other.json"), &err));
    CHECK(count_entries("with_other") == 5 && !exists("with_other/chat_template.jinja"));
    CHECK_ERROR(checkpoint_write_model(m, in_dir("without"), in_dir("absent/tokenizer.json"), &err), err,
                "absent/tokenizer.json: cannot be opened");
    CHECK(!exists("without") && !exists(".writing-without"));
    olmo2_free(m);
}

// ---------------------------------------------------------------------------------------------
// the checkpoints of a run

static void save(const OLMo2 *m, const char *run, int64_t step) {
    char state[64];
    snprintf(state, sizeof state, "{\"step\": %d}", (int)step);
    if (!CHECK(checkpoint_save(m, in_dir(run), step, NULL, state, &err))) { printf("       %s\n", err.text); }
}

static void test_save_and_load(void) {
    OLMo2Config config = small_config();
    OLMo2 *m = make_model(&config, 1.0f), *back = make_model(&config, 9.0f);
    char newest[PATH_MAX];
    CHECK(directory_create(in_dir("runs/a/.writing-step-00000050/trainer"), &err));
    write_text("runs/a/.writing-step-00000050/trainer/state.json", "{");
    CHECK(directory_create(in_dir("runs/a/.deleting-step-00000001"), &err));
    write_text("runs/a/log.jsonl", "{}\n");
    save(m, "runs/a", 100);
    CHECK(count_entries("runs/a") == 2 && exists("runs/a/log.jsonl"));  // and what the crash left is gone
    CHECK(count_entries("runs/a/step-00000100") == 4 && count_entries("runs/a/step-00000100/trainer") == 2);
    CHECK(checkpoint_newest(newest, in_dir("runs/a"), &warning, &err) && warning.text[0] == '\0');
    CHECK(ends_with(newest, "runs/a/step-00000100"));
    CHECK(checkpoint_load_weights(back, newest, &err) && checkpoint_load_optimizer(back, newest, &err));
    CHECK(same_array(m, back, OLMO2_PARAMETER) && same_array(m, back, OLMO2_MOMENT1));
    CHECK(same_array(m, back, OLMO2_MOMENT2) && !same_array(m, back, OLMO2_GRADIENT));
    char *state = checkpoint_read_state(newest, &err);
    CHECK(state != NULL && strcmp(state, "{\"step\": 100}\n") == 0);
    free(state);
    // the same step again replaces it; the one replaced is removed by the next save
    m->arrays[0][0] = 77.0f;
    save(m, "runs/a", 100);
    save(m, "runs/a", 200);
    CHECK(checkpoint_load_weights(back, in_dir("runs/a/step-00000100"), &err) && back->arrays[0][0] == 77.0f);
    CHECK(count_entries("runs/a") == 3);
    // without a state: the model alone
    CHECK(checkpoint_save(m, in_dir("runs/b"), 7, NULL, NULL, &err) &&
          count_entries("runs/b/step-00000007") == 3);
    olmo2_free(m);
    olmo2_free(back);
}

static void test_newest_and_resolve(void) {
    OLMo2Config config = small_config();
    OLMo2 *m = make_model(&config, 1.0f);
    char found[PATH_MAX];
    CHECK_ERROR(checkpoint_newest(found, in_dir("absent"), &warning, &err), err, "absent: cannot be opened");
    CHECK(directory_create(in_dir("runs/c"), &err));
    CHECK_ERROR(checkpoint_newest(found, in_dir("runs/c"), &warning, &err), err,
                "holds no checkpoint (step-...)");
    save(m, "runs/c", 9);
    save(m, "runs/c", 10);
    save(m, "runs/c", 100000000);
    // names that are not a step's
    CHECK(directory_create(in_dir("runs/c/step-11"), &err) && directory_create(in_dir("runs/c/step-"), &err));
    CHECK(directory_create(in_dir("runs/c/step-00000012x"), &err));
    CHECK(directory_create(in_dir("runs/c/step-99999999999999999999"), &err));
    write_text("runs/c/step-00000013", "a file");
    CHECK(checkpoint_resolve(found, in_dir("runs/c"), &warning, &err) && ends_with(found, "step-100000000"));
    CHECK(checkpoint_resolve(found, in_dir("runs/c/step-00000009"), &warning, &err) &&
          ends_with(found, "-00000009"));
    CHECK_ERROR(checkpoint_resolve(found, in_dir("absent"), &warning, &err), err, "is no directory");
    CHECK_ERROR(checkpoint_resolve(found, in_dir("runs"), &warning, &err), err,
                "holds neither config.json nor a checkpoint (step-...)");

    // each way of damage in the newest: it is passed over and named
    static const struct {
        const char *file, *text, *words;
    } damages[] = {
        {"model.safetensors", "", "model.safetensors: has 0 bytes"},
        {"config.json", "{\"model_type\"", "config.json:1:14: found the end"},
        {"trainer/optimizer.safetensors", NULL, "optimizer.safetensors: cannot be opened"},
        {"trainer/state.json", "", "state.json:1:1: found the end of the text"},
        {"trainer/state.json", NULL, "state.json: cannot be opened"},
    };
    for (size_t i = 0; i < sizeof damages / sizeof damages[0]; i++) {
        char name[PATH_MAX];
        save(m, "runs/c", 20);
        snprintf(name, sizeof name, "runs/c/step-00000020/%s", damages[i].file);
        if (damages[i].text == NULL) {
            CHECK(unlink(in_dir(name)) == 0);
        } else {
            write_text(name, damages[i].text);
        }
        CHECK(directory_remove(in_dir("runs/c/step-100000000"), &err) || i > 0);
        CHECK(checkpoint_newest(found, in_dir("runs/c"), &warning, &err) &&
              ends_with(found, "step-00000010"));
        CHECK(strstr(warning.text, "passed over a damaged checkpoint") &&
              strstr(warning.text, damages[i].words));
    }
    // cut short in the data, where only the size tells
    save(m, "runs/c", 20);
    struct stat info;
    CHECK(stat(in_dir("runs/c/step-00000020/model.safetensors"), &info) == 0);
    CHECK(truncate(in_dir("runs/c/step-00000020/model.safetensors"), info.st_size - 1) == 0);
    CHECK(checkpoint_newest(found, in_dir("runs/c"), &warning, &err) && ends_with(found, "step-00000010"));
    CHECK(strstr(warning.text, "is cut short") != NULL);
    // none that is whole
    write_text("runs/c/step-00000009/config.json", "");
    write_text("runs/c/step-00000010/config.json", "");
    CHECK_ERROR(checkpoint_newest(found, in_dir("runs/c"), &warning, &err), err,
                "holds no checkpoint that is whole");
    CHECK(strstr(err.text, "step-00000009/config.json") && strstr(err.text, "step-00000010/config.json"));
    olmo2_free(m);
}

static void test_prune(void) {
    OLMo2Config config = small_config();
    OLMo2 *m = make_model(&config, 1.0f);
    for (int step = 10; step <= 60; step += 10) { save(m, "runs/p", step); }
    CHECK(checkpoint_prune(in_dir("runs/p"), 2, 20, &err));  // 20, 40 by number; 50, 60 the last
    CHECK(count_entries("runs/p") == 4 && !exists("runs/p/step-00000010") && !exists("runs/p/step-00000030"));
    CHECK(checkpoint_prune(in_dir("runs/p"), 9, 0, &err) && count_entries("runs/p") == 4);
    CHECK(checkpoint_prune(in_dir("runs/p"), 0, 0, &err));  // the newest stays whatever is asked
    CHECK(count_entries("runs/p") == 1 && exists("runs/p/step-00000060"));
    CHECK_ERROR(checkpoint_prune(in_dir("absent"), 1, 0, &err), err, "absent: cannot be opened");
    // a damaged checkpoint takes no whole one's place
    save(m, "runs/d", 5);
    save(m, "runs/d", 10);
    save(m, "runs/d", 20);
    CHECK(truncate(in_dir("runs/d/step-00000020/model.safetensors"), 1000) == 0);
    CHECK(checkpoint_prune(in_dir("runs/d"), 1, 0, &err) && !exists("runs/d/step-00000005"));
    CHECK(exists("runs/d/step-00000010") && exists("runs/d/step-00000020"));
    save(m, "runs/d", 30);
    CHECK(checkpoint_prune(in_dir("runs/d"), 1, 0, &err) && count_entries("runs/d") == 1);
    olmo2_free(m);
}

// A file-size limit stands for the full disk: at every size from 0 on the save fails, says so, and leaves the
// earlier checkpoint and nothing else.
static void test_full_disk(void) {
    OLMo2Config config = small_config();
    OLMo2 *m = make_model(&config, 1.0f);
    char found[PATH_MAX];
    save(m, "runs/full", 1);
    struct stat info;
    CHECK(stat(in_dir("runs/full/step-00000001/trainer/optimizer.safetensors"), &info) == 0);
    struct rlimit before, limit;
    CHECK(getrlimit(RLIMIT_FSIZE, &before) == 0);
    signal(SIGXFSZ, SIG_IGN);
    int failures = 0;
    for (off_t size = 0; size < info.st_size; size += info.st_size / 20) {
        limit = before;
        limit.rlim_cur = (rlim_t)size;
        CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
        bool saved = checkpoint_save(m, in_dir("runs/full"), 2, NULL, "{}", &err);
        CHECK(setrlimit(RLIMIT_FSIZE, &before) == 0);
        CHECK(!saved && strstr(err.text, "cannot be written: File too large") != NULL);
        CHECK(strstr(err.text, "Checkpoint step-00000002 was not saved; those before it are whole.") != NULL);
        CHECK(count_entries("runs/full") == 1);
        CHECK(checkpoint_newest(found, in_dir("runs/full"), &warning, &err) && warning.text[0] == '\0');
        failures++;
    }
    printf("saves on a full disk: %d refused, the earlier checkpoint whole each time\n", failures);
    save(m, "runs/full", 2);
    olmo2_free(m);

    // the kernel's own full device
    int descriptor = open("/dev/full", O_WRONLY);
    if (descriptor >= 0) {
        CHECK_ERROR(file_write(descriptor, "x", 1, "/dev/full", &err), err,
                    "cannot be written: No space left on device");
        close(descriptor);
    }
}

static void fill_model(OLMo2 *m, float value) {
    for (int a = 0; a < 4; a++) {
        for (size_t i = 0; i < parameter_array_size(&m->config); i++) { m->arrays[a][i] = value; }
    }
}

// Every number of the checkpoint is its step.
static bool is_whole(const char *path, const OLMo2Config *config, int64_t step) {
    OLMo2 *m = make_model(config, -1.0f), *expected = make_model(config, -1.0f);
    fill_model(expected, (float)step);
    bool whole = checkpoint_load_weights(m, path, &err) && checkpoint_load_optimizer(m, path, &err) &&
                 same_array(m, expected, OLMO2_PARAMETER) && same_array(m, expected, OLMO2_MOMENT1) &&
                 same_array(m, expected, OLMO2_MOMENT2);
    olmo2_free(m);
    olmo2_free(expected);
    return whole;
}

// The child's work: save, say so, prune, step after step, until it is killed.
static void save_for_ever(const OLMo2Config *config, int64_t step, int saved) {
    OLMo2 *m = make_model(config, 0.0f);
    while (true) {
        fill_model(m, (float)++step);
        if (!checkpoint_save(m, in_dir("runs/k"), step, NULL, "{}", &err) || write(saved, "", 1) != 1 ||
            !checkpoint_prune(in_dir("runs/k"), 2, 0, &err)) {
            printf("%s\n", err.text);
            _exit(1);
        }
    }
}

// Killed at any moment of pruning and saving, the newest checkpoint is whole, and no save that was done is
// lost.
static void test_killed(void) {
    enum { ROUNDS = 25 };
    OLMo2Config config = small_config();
    OLMo2 *m = make_model(&config, 1.0f);
    double start = seconds_now();
    save(m, "runs/k", 1);
    uint32_t longest = (uint32_t)(1.5e6 * (seconds_now() - start)) + 1;  // microseconds, longer than a save
    olmo2_free(m);
    int64_t step = 1;
    uint32_t random = 1;
    int inside = 0;
    for (int round = 0; round < ROUNDS; round++) {
        int saved[2], status;
        char byte, newest[PATH_MAX];
        if (!CHECK(pipe(saved) == 0)) { break; }
        pid_t child = fork();
        if (child == 0) { save_for_ever(&config, step, saved[1]); }
        close(saved[1]);
        CHECK(read(saved[0], &byte, 1) == 1);
        random = random * 1664525u + 1013904223u;
        usleep((random >> 8) % longest);
        kill(child, SIGKILL);
        CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status));
        close(saved[0]);
        inside += has_leftovers("runs/k");
        if (!CHECK(checkpoint_newest(newest, in_dir("runs/k"), &warning, &err))) { break; }
        int64_t found = checkpoint_step(strrchr(newest, '/') + 1);
        CHECK(warning.text[0] == '\0' && found > step && is_whole(newest, &config, found));
        step = found;
    }
    printf(
        "killed %d times, %d of them inside a save or a deletion: %d steps saved, the newest always whole\n",
        ROUNDS, inside, (int)step);
}

int main(void) {
    if (!CHECK(mkdtemp(dir) != NULL)) { return check_report(); }
    test_config_round_trips();
    test_config_keys();
    test_bad_configs();
    test_model_round_trip();
    test_bad_weights();
    test_tokenizer_files();
    test_save_and_load();
    test_newest_and_resolve();
    test_prune();
    test_full_disk();
    test_killed();
    CHECK(directory_remove(dir, &err));
    return check_report();
}
