// test_checkpoint.c: model directories in and out, with a model that only stores.
#include "llmc/checkpoint.h"

#include "small_model.h"

// ---------------------------------------------------------------------------------------------
// model directories

static bool write_model(const OLMo2 *m, const char *path, const char *tokenizer) {
    const CheckpointParts parts = {NULL, tokenizer, NULL};
    return checkpoint_write_model(m, path, &parts, no_warning(), &err) && warning.text[0] == '\0';
}

static void test_model_round_trip(void) {
    OLMo2Config config = small_config(), back;
    OLMo2 *m = make_model(&config, 0.0f), *read = make_model(&config, -1.0f);
    const uint32_t nan_bits = 0x7FC12345;
    memcpy(m->arrays[0], &nan_bits, 4);
    m->arrays[0][1] = -INFINITY;
    m->arrays[0][2] = -0.0f;
    m->arrays[0][3] = 1e-45f;
    CHECK(write_model(m, in_dir("model"), NULL));
    CHECK(count_entries("model") == 3 && !exists(".writing-model"));
    CHECK(config_read_directory(&back, NULL, in_dir("model"), no_warning(), &err));
    CHECK(checkpoint_load_weights(read, in_dir("model"), NULL, NULL, &err) &&
          same_array(m, read, OLMO2_PARAMETER));
    CHECK(!same_array(m, read, OLMO2_MOMENT1));
    CHECK_ERROR(checkpoint_load_optimizer(read, in_dir("model"), NULL, NULL, &err), err,
                "trainer/optimizer.safetensors: cannot be opened");
    CHECK(!exists("model/trainer"));
    CHECK_ERROR(write_model(m, in_dir("model"), NULL), err, "is there already");
    // a path with a slash at its end, in directories that do not exist yet, after a crash
    CHECK(directory_create(in_dir("new/.writing-soup/trainer"), &err));
    write_text("new/.writing-soup/config.json", "half");
    CHECK(write_model(m, in_dir("new/soup//"), NULL));
    CHECK(exists("new/soup/config.json") && count_entries("new") == 1 && count_entries("new/soup") == 3);
    olmo2_free(m);
    olmo2_free(read);
}

// How one tensor of a model's file is changed.
typedef struct {
    size_t index;  // of the changed tensor
    bool leave_out;
    const char *rename;  // or NULL
    bool reshape;        // a matrix is transposed, a norm is a matrix of one column
} Change;

static bool zeros(void *context, size_t index, float *values, Error *e) {
    (void)context, (void)index, (void)values, (void)e;
    return true;
}

// Writes bad/model.safetensors: the small model's tensors, and `extra` if it is not NULL.
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
    CHECK_ERROR(checkpoint_load_weights(m, in_dir("bad"), NULL, NULL, &err), err, words);
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
    refuse_weights("has no tensor \"model.layers.2.mlp.up_proj.weight\",\nwhich the model in config.json (3 "
                   "layers) needs.\n"
                   "The files are of different models; copy both from the same place.");
    write_changed(renamed, NULL);
    refuse_weights("holds tensor \"model.layers.0.input_layernorm.weight\", as OLMo 1 and Llama do.");
    write_changed(fourth_layer, "model.layers.1.input_layernorm.weight");
    refuse_weights("holds tensor \"model.layers.1.input_layernorm.weight\", as OLMo 1 and Llama do.");
    write_changed(none, "model.layers.3.mlp.up_proj.weight");
    refuse_weights("holds tensor \"model.layers.3.mlp.up_proj.weight\",\nbut the model in config.json (3 "
                   "layers) has no such tensor.");
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
    CHECK(write_model(m, in_dir("with_file"), in_dir("tok/tokenizer.json")));
    if (CHECK(json_parse_file(&doc, in_dir("with_file/tokenizer_config.json"), &err))) {
        CHECK(strcmp(json_member(doc.root, "eos_token")->string, "<|end|>") == 0);
        CHECK(strcmp(json_member(doc.root, "pad_token")->string, "<|\"pad\"|>") == 0);
        CHECK(json_member(doc.root, "bos_token") == NULL);
        json_free(&doc);
    }
    CHECK(count_entries("with_file") == 5);
    // a tokenizer_config.json beside it is better than one that is made
    write_text("tok/tokenizer_config.json", "{\"chat_template\": \"x\"}");
    write_text("tok/chat_template.jinja", "y");
    CHECK(write_model(m, in_dir("with_dir"), in_dir("tok")));
    CHECK(count_entries("with_dir") == 6 && exists("with_dir/chat_template.jinja"));
    if (CHECK(json_parse_file(&doc, in_dir("with_dir/tokenizer_config.json"), &err))) {
        CHECK(json_member(doc.root, "chat_template") != NULL);
        json_free(&doc);
    }
    // but the files beside a tokenizer of another name may belong to a third
    write_text("tok/other.json", tokenizer);
    CHECK(write_model(m, in_dir("with_other"), in_dir("tok/other.json")));
    CHECK(count_entries("with_other") == 5 && !exists("with_other/chat_template.jinja"));
    CHECK_ERROR(write_model(m, in_dir("without"), in_dir("absent/tokenizer.json")), err,
                "absent/tokenizer.json: cannot be opened");
    CHECK(!exists("without") && !exists(".writing-without"));
    olmo2_free(m);
}

int main(void) {
    if (!scratch_begin()) { return check_report(); }
    test_model_round_trip();
    test_bad_weights();
    test_tokenizer_files();
    scratch_end();
    return check_report();
}
