// test_config.c: config.json and generation_config.json in and out.
#include "llmc/config.h"

#include "small_model.h"

static bool same_config(const OLMo2Config *a, const OLMo2Config *b) {
    return a->C == b->C && a->L == b->L && a->NH == b->NH && a->NKV == b->NKV && a->HS == b->HS &&
           a->F == b->F && a->V == b->V && a->max_T == b->max_T && a->rms_eps == b->rms_eps &&
           a->rope_theta == b->rope_theta && a->init_std == b->init_std && a->bos == b->bos &&
           a->eos == b->eos && a->pad == b->pad && a->ablate_qk_norm == b->ablate_qk_norm &&
           a->pre_norm == b->pre_norm && a->more_end_count == b->more_end_count &&
           memcmp(a->more_ends, b->more_ends, sizeof a->more_ends) == 0;
}

// ---------------------------------------------------------------------------------------------
// config.json

static void check_config_round_trip(const OLMo2Config *config) {
    OLMo2Config back;
    CHECK(config_write(config, NULL, in_dir("config.json"), &err));
    CHECK(config_read(&back, in_dir("config.json"), no_warning(), &err) && same_config(config, &back));
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
    config.ablate_qk_norm = true;
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
    return config_read(config, in_dir("config.json"), no_warning(), &err);
}

static void test_config_keys(void) {
    OLMo2Config config;
    CHECK(read_changed("none", NULL, &config));
    CHECK(config.C == 64 && config.L == 2 && config.NH == 4 && config.NKV == 2 && config.HS == 16);
    CHECK(config.F == 128 && config.V == 1000 && config.max_T == 4096 && config.rms_eps == 1e-6f);
    CHECK(config.rope_theta == 500000.0f && config.init_std == 0.02f && !config.ablate_qk_norm &&
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
    CHECK(config_read(&config, in_dir("config.json"), no_warning(), &err) && config.rope_theta == 250000.0f);
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
         "hidden_size 66 is not a multiple of num_attention_heads 4, and there is no head_dim"},
        {"hidden_size", "60", "heads of 15 channels (head_dim), expected an even number"},
        {"head_dim", "15", "heads of 15 channels"},
        {"head_dim", "0", "\"head_dim\" is 0"},
        {"head_dim", "1048576", "expected at most 1048576 channels together"},
        {"num_hidden_layers", "0", "\"num_hidden_layers\" is 0"},
        {"num_hidden_layers", "5000", "\"num_hidden_layers\" is 5000, expected 1 to 4096"},
        {"num_attention_heads", "0", "num_attention_heads 0"},
        {"num_key_value_heads", "0", "\"num_key_value_heads\" is 0"},
        {"num_key_value_heads", "3", "num_attention_heads 4 is not a multiple of num_key_value_heads 3"},
        {"num_key_value_heads", "8", "num_attention_heads 4 is not a multiple of num_key_value_heads 8"},
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
        {"eos_token_id", "\"</s>\"", "expected a token id, a list of them, or null"},
        {"eos_token_id", "[\"</s>\"]", "expected a token id, a list of them, or null"},
        {"bos_token_id", "1.5", "\"bos_token_id\" is 1.5, expected a token id, a list of them, or null"},
    };
    OLMo2Config config;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        if (!CHECK_ERROR(read_changed(bad[i].key, bad[i].value, &config), err, bad[i].words)) {
            printf("       of %s = %s\n", bad[i].key, bad[i].value == NULL ? "(absent)" : bad[i].value);
        }
        CHECK(strncmp(err.text, in_dir("config.json"), strlen(in_dir("config.json"))) == 0);
    }
    write_text("config.json", "[]");
    CHECK_ERROR(config_read(&config, in_dir("config.json"), no_warning(), &err), err, "is not a JSON object");
    write_text("config.json", "");
    CHECK_ERROR(config_read(&config, in_dir("config.json"), no_warning(), &err), err,
                ":1:1: found the end of the text");
    unlink(in_dir("config.json"));
    CHECK_ERROR(config_read(&config, in_dir("config.json"), no_warning(), &err), err,
                "cannot be opened: No such file");
    CHECK_ERROR(config_read_directory(&config, NULL, in_dir("absent"), no_warning(), &err), err,
                "absent/config.json: cannot be opened");
}

// ---------------------------------------------------------------------------------------------
// token ids

static bool ends_are(const OLMo2Config *config, size_t count, const uint32_t *ids) {
    if (config->eos != (count > 0 ? ids[0] : OLMO2_NO_TOKEN) || config->more_end_count + 1 < count) {
        return false;
    }
    for (size_t i = 1; i < count; i++) {
        if (config->more_ends[i - 1] != ids[i] || !config_is_end(config, ids[i])) { return false; }
    }
    return config->more_end_count == (count > 0 ? count - 1 : 0);
}

static void test_token_ids(void) {
    OLMo2Config config;
    const uint32_t two[] = {9, 7}, nine[] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
    CHECK(read_changed("eos_token_id", "[9, 7]", &config) && ends_are(&config, 2, two));
    CHECK(config_is_end(&config, 9) && config_is_end(&config, 7) && !config_is_end(&config, 8));
    CHECK(!config_is_end(&config, OLMO2_NO_TOKEN) && warning.text[0] == '\0');
    CHECK(read_changed("eos_token_id", "[9, 9, 7, 9]", &config) && ends_are(&config, 2, two));
    CHECK(read_changed("eos_token_id", "[]", &config) && ends_are(&config, 0, NULL));
    CHECK(!config_is_end(&config, OLMO2_NO_TOKEN));
    CHECK(read_changed("eos_token_id", "[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]", &config) &&
          ends_are(&config, 9, nine));
    CHECK(strstr(warning.text, "\"eos_token_id\" has more than 9 ids: 10 is ignored") != NULL);

    // ids that the vocabulary of 1,000 rows does not have
    static const struct {
        const char *key, *value, *words;
    } ignored[] = {
        {"eos_token_id", "1000", "\"eos_token_id\" is 1000, the vocabulary has 1000 rows: ignored"},
        {"pad_token_id", "1000", "\"pad_token_id\" is 1000, the vocabulary has 1000 rows: ignored"},
        {"bos_token_id", "50279", "\"bos_token_id\" is 50279, the vocabulary has 1000 rows: ignored"},
        {"eos_token_id", "-1", "\"eos_token_id\" is -1, which is not a token id: ignored"},
        {"pad_token_id", "-1", "\"pad_token_id\" is -1, which is not a token id: ignored"},
        {"pad_token_id", "4294967295", "\"pad_token_id\" is 4294967295, which is not a token id: ignored"},
        {"eos_token_id", "[1000, 1001]", "\"eos_token_id\" is 1001, the vocabulary has 1000 rows: ignored"},
    };
    for (size_t i = 0; i < sizeof ignored / sizeof ignored[0]; i++) {
        CHECK(read_changed(ignored[i].key, ignored[i].value, &config));
        if (!CHECK(strstr(warning.text, ignored[i].words) != NULL)) { printf("       %s\n", warning.text); }
        CHECK(config.eos == (strcmp(ignored[i].key, "eos_token_id") == 0 ? OLMO2_NO_TOKEN : 7));
        CHECK(config.pad == (strcmp(ignored[i].key, "pad_token_id") == 0 ? OLMO2_NO_TOKEN : 8));
        CHECK(config.bos == OLMO2_NO_TOKEN);
    }
    CHECK(read_changed("eos_token_id", "[1000, 9, 2000, 7]", &config) && ends_are(&config, 2, two));
    CHECK(strstr(warning.text, "is 1000") != NULL && strstr(warning.text, "is 2000") != NULL);
    // and when the vocabulary is made smaller
    config.V = 9;
    config_ignore_tokens(&config, "x", no_warning());
    CHECK(ends_are(&config, 1, two + 1) && strstr(warning.text, "x: \"eos_token_id\" is 9") != NULL);
}

// ---------------------------------------------------------------------------------------------
// what the files of a directory said

static void make_directory(const char *generation) {
    CHECK(directory_create(in_dir("m"), &err));
    write_text("m/config.json",
               "{\"model_type\": \"olmo2\", \"hidden_size\": 64, \"num_hidden_layers\": 2,"
               "\"num_attention_heads\": 4, \"intermediate_size\": 128, \"vocab_size\": 3000,"
               "\"max_position_embeddings\": 4096, \"rms_norm_eps\": 1e-06, \"rope_theta\": 500000,"
               "\"attention_dropout\": 0.10, \"use_cache\":false ,\n \"eos_token_id\": [2027, 13],"
               "\"note \\\"}{\": {\"a\":[1,  2.50,\"}\\\\\"], \"b\\u00e9\": {}} , \"last\" : -0e0\n}");
    unlink(in_dir("m/generation_config.json"));
    if (generation != NULL) { write_text("m/generation_config.json", generation); }
}

// Reads the directory, writes it to out/ and leaves both texts there. The caller frees them.
static ConfigFiles written_again(OLMo2Config *config) {
    ConfigFiles said, out = {NULL, NULL};
    CHECK(directory_remove(in_dir("out"), &err) && directory_create(in_dir("out"), &err));
    if (!CHECK(config_read_directory(config, &said, in_dir("m"), no_warning(), &err))) { return out; }
    CHECK(config_write(config, said.config, in_dir("out/config.json"), &err));
    CHECK(generation_config_write(config, said.generation, in_dir("out/generation_config.json"), &err));
    config_files_free(&said);
    out.config = file_read_text(in_dir("out/config.json"), 100000, &err);
    out.generation = file_read_text(in_dir("out/generation_config.json"), 100000, &err);
    CHECK(out.config != NULL && out.generation != NULL);
    return out;
}

static bool says(const char *text, const char *words) {
    bool found = text != NULL && strstr(text, words) != NULL;
    if (!CHECK(found)) { printf("       expected %s in %s\n", words, text == NULL ? "nothing" : text); }
    return found;
}

static void test_said(void) {
    OLMo2Config config, again;
    const uint32_t both[] = {2027, 13};
    make_directory("{\"eos_token_id\": [2027,13], \"temperature\": 0.60, \"top_p\": 0.95,\n"
                   " \"bos_token_id\": 5, \"stop\": [\"a\", {}]}");
    ConfigFiles out = written_again(&config);
    CHECK(warning.text[0] == '\0' && ends_are(&config, 2, both));
    says(out.config, "\n  \"attention_dropout\": 0.10,\n");
    says(out.config, "\n  \"use_cache\":false,\n");
    says(out.config, "\n  \"eos_token_id\": [2027, 13],\n");
    says(out.config,
         "\n  \"note \\\"}{\": {\"a\":[1,  2.50,\"}\\\\\"], \"b\\u00e9\": {}},\n  \"last\" : -0e0\n}\n");
    says(out.generation, "\n  \"eos_token_id\": [2027,13],\n");
    says(out.generation, "\n  \"temperature\": 0.60,\n  \"top_p\": 0.95,\n  \"stop\": [\"a\", {}]\n}\n");
    says(out.generation, "\n  \"bos_token_id\": 5,\n");
    CHECK(config_read(&again, in_dir("out/config.json"), no_warning(), &err) && same_config(&config, &again));
    // what was written and read is written the same
    write_text("m/config.json", out.config);
    write_text("m/generation_config.json", out.generation);
    ConfigFiles twice = written_again(&config);
    CHECK(strcmp(out.config, twice.config) == 0 && strcmp(out.generation, twice.generation) == 0);
    config_files_free(&out);
    config_files_free(&twice);

    // the list of generation_config.json counts, and config.json keeps its own
    make_directory("{\"eos_token_id\": [2027, 14, 15]}");
    out = written_again(&config);
    CHECK(config.eos == 2027 && !config_is_end(&config, 13) && config_is_end(&config, 14) &&
          config_is_end(&config, 15));
    says(out.config, "\"eos_token_id\": [\n    2027,\n    14,\n    15\n  ]");  // 13 is not true any more
    says(out.generation, "\"eos_token_id\": [2027, 14, 15]");
    config_files_free(&out);
    // ids that do not exist are not kept
    make_directory("{\"eos_token_id\": [2027, 5000], \"pad_token_id\": 6000}");
    out = written_again(&config);
    says(warning.text,
         "generation_config.json: \"eos_token_id\" is 5000, the vocabulary has 3000 rows: ignored");
    says(out.generation, "\"eos_token_id\": 2027,\n  \"pad_token_id\": null\n}");
    config_files_free(&out);
    make_directory(NULL);
    out = written_again(&config);
    CHECK(ends_are(&config, 2, both));
    says(out.generation, "\"eos_token_id\": [\n    2027,\n    13\n  ]");
    config_files_free(&out);
    // a generation_config.json that cannot be used is passed over
    static const char *const useless[] = {"[]", "{", "", "{\"eos_token_id\": \"x\"}"};
    for (size_t i = 0; i < sizeof useless / sizeof useless[0]; i++) {
        make_directory(useless[i]);
        out = written_again(&config);
        says(warning.text, "m/generation_config.json");
        says(warning.text, "The file is ignored.");
        CHECK(ends_are(&config, 2, both));
        config_files_free(&out);
    }
}

// A file that cannot be a configuration is not read into memory.
static void test_huge_config(void) {
    OLMo2Config config;
    write_text("config.json", "{}");
    CHECK(truncate(in_dir("config.json"), (off_t)1 << 30) == 0);
    CHECK_ERROR(config_read(&config, in_dir("config.json"), no_warning(), &err), err,
                "config.json: has 1.07 GB, expected a file of this kind to have at most 16.78 MB");
    write_text("config.json", "{}");
    CHECK(truncate(in_dir("config.json"), 100) == 0);
    CHECK_ERROR(config_read(&config, in_dir("config.json"), no_warning(), &err), err, "holds a NUL byte");
}

int main(void) {
    if (!scratch_begin()) { return check_report(); }
    test_config_round_trips();
    test_config_keys();
    test_bad_configs();
    test_token_ids();
    test_said();
    test_huge_config();
    scratch_end();
    return check_report();
}
