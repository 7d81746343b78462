// test_source.c: models that are opened to be used, and the one rule for their special tokens.
#include "llmc/source.h"

#include "small_model.h"
#include "small_tokenizer.h"

// Writes a tokenizer.json with these added tokens: ids from 264 on.
static void write_tokenizer(const char *name, const char *added) {
    TokenizerParts parts = default_parts();
    parts.added = added;
    char *text = small_tokenizer(&parts);
    write_text(name, text);
    free(text);
}

static const char END_AND_PAD[] =
    "[{\"id\": 264, \"content\": \"<|endoftext|>\"}, {\"id\": 265, \"content\": \"<|pad|>\"}]";
static const char NEITHER[] = "[{\"id\": 264, \"content\": \"<|other|>\"}]";

// Writes a config.json with these ids, JSON or NULL for none. 300 rows: 34 more than the tokenizer has
// tokens.
static void write_config(const char *name, const char *bos, const char *eos, const char *pad) {
    char *text =
        format_text("{\"model_type\": \"olmo2\", \"hidden_size\": 20, \"num_hidden_layers\": 3, "
                    "\"num_attention_heads\": 4, \"num_key_value_heads\": 2, \"head_dim\": 6, "
                    "\"intermediate_size\": 14, \"vocab_size\": 300, \"max_position_embeddings\": 64, "
                    "\"rms_norm_eps\": 1e-06, \"rope_theta\": 500000, \"bos_token_id\": %s, "
                    "\"eos_token_id\": %s, \"pad_token_id\": %s}",
                    bos == NULL ? "null" : bos, eos == NULL ? "null" : eos, pad == NULL ? "null" : pad);
    write_text(name, text);
    free(text);
}

static const uint32_t NONE = OLMO2_NO_TOKEN;

// What a configuration says and what becomes of it, for a model that is loaded and for a new one, with a
// tokenizer that has <|endoftext|> 264 and <|pad|> 265.
static void test_rule(void) {
    static const struct {
        const char *bos, *eos, *pad;
        uint32_t loaded_more, loaded_bos, loaded_pad;  // ids of the loaded model; its eos is 264
        uint32_t new_bos;                              // of the new model; its eos is 264 and its pad 265
        const char *loaded_warning, *new_warning;      // words of them; NULL: there is none
    } rows[] = {
        {NULL, "264", "265", NONE, NONE, 265, NONE, NULL, NULL},
        {NULL, NULL, NULL, NONE, NONE, NONE, NONE, NULL, NULL},
        {NULL, "[264, 13]", "265", 13, NONE, 265, NONE, NULL, NULL},
        {NULL, "[13, 264]", "265", 13, NONE, 265, NONE, NULL, NULL},
        {NULL, "13", NULL, 13, NONE, NONE, NONE, "\"eos_token_id\" is 13, but <|endoftext|> of",
         "tokenizer.json is 264: documents end with 264"},
        {NULL, "13", NULL, 13, NONE, NONE, NONE, "documents end with 264, and generation stops at either",
         "is 13"},
        {"7", "264", "8", NONE, 7, 8, 7, NULL, NULL},
        // an id that the model has and the tokenizer does not
        {"290", "291", "292", NONE, 290, 292, NONE, "is 291, but <|endoftext|>",
         "\"bos_token_id\" is 290, which"},
        // ids that the model does not have either
        {NULL, "50279", "1", NONE, NONE, 1, NONE, "is 50279, the vocabulary has 300 rows: ignored",
         "is 50279"},
        {NULL, "100257", "100277", NONE, NONE, NONE, NONE, "\"pad_token_id\" is 100277", "is 100257"},
        {NULL, "-1", "-1", NONE, NONE, NONE, NONE, "\"eos_token_id\" is -1", "\"pad_token_id\" is -1"},
    };
    Source s;
    CHECK(directory_create(in_dir("m"), &err));
    write_tokenizer("m/tokenizer.json", END_AND_PAD);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        write_config("m/config.json", rows[i].bos, rows[i].eos, rows[i].pad);
        if (!CHECK(source_open(&s, in_dir("m"), NULL, no_warning(), &err))) {
            printf("       %s\n", err.text);
        }
        bool more = rows[i].loaded_more != NONE;
        CHECK(s.config.eos == 264 && s.config.bos == rows[i].loaded_bos &&
              s.config.pad == rows[i].loaded_pad);
        CHECK(s.config.more_end_count == more && (!more || s.config.more_ends[0] == rows[i].loaded_more));
        CHECK(s.text.present && s.text.bytes[264] == 0 && s.text.bytes['a'] == 1 && s.text.bytes[299] == 0);
        const char *words = rows[i].loaded_warning;
        if (!CHECK(words == NULL ? warning.text[0] == '\0' : strstr(warning.text, words) != NULL)) {
            printf("       loaded, row %zu: %s\n", i, warning.text);
        }
        source_close(&s);

        CHECK(source_new(&s, in_dir("m/config.json"), 0, 32, in_dir("m"), no_warning(), &err));
        CHECK(s.config.eos == 264 && s.config.more_end_count == 0 && s.config.pad == 265);
        CHECK(s.config.bos == rows[i].new_bos && s.config.max_T == 64 && s.said.config != NULL);
        words = rows[i].new_warning;
        if (!CHECK(words == NULL ? warning.text[0] == '\0' : strstr(warning.text, words) != NULL)) {
            printf("       new, row %zu: %s\n", i, warning.text);
        }
        CHECK(strstr(warning.text, "generation stops") == NULL);
        source_close(&s);
    }
}

// generation_config.json has its say; a tokenizer without <|endoftext|> leaves the end as it is; so does
// none.
static void test_other_rules(void) {
    Source s;
    write_config("m/config.json", NULL, "264", NULL);
    write_text("m/generation_config.json", "{\"eos_token_id\": [13, 14], \"top_p\": 0.9}");
    CHECK(source_open(&s, in_dir("m"), NULL, no_warning(), &err) && warning.text[0] == '\0');
    CHECK(config_is_end(&s.config, 264) && config_is_end(&s.config, 13) && config_is_end(&s.config, 14));
    CHECK(s.config.eos == 264 && !config_is_end(&s.config, 15) && strstr(s.said.generation, "0.9") != NULL);
    source_close(&s);
    unlink(in_dir("m/generation_config.json"));

    write_tokenizer("other.json", NEITHER);
    write_config("m/config.json", NULL, "[13, 290]", "5");
    CHECK(source_open(&s, in_dir("m"), in_dir("other.json"), no_warning(), &err) && warning.text[0] == '\0');
    CHECK(s.config.eos == 13 && config_is_end(&s.config, 290) && s.config.pad == 5 && s.text.bytes[13] == 0);
    source_close(&s);
    CHECK(source_new(&s, in_dir("m/config.json"), 0, 0, in_dir("other.json"), no_warning(), &err));
    CHECK(s.config.eos == 13 && s.config.pad == 5);
    source_close(&s);

    CHECK(unlink(in_dir("m/tokenizer.json")) == 0);
    CHECK(source_open(&s, in_dir("m"), NULL, no_warning(), &err) && !s.text.present && s.config.eos == 13);
    source_close(&s);
    CHECK(source_new(&s, in_dir("m/config.json"), 10, 0, NULL, no_warning(), &err) && s.config.V == 10);
    CHECK(s.config.eos == NONE && s.config.pad == 5);
    CHECK(strstr(warning.text, "\"eos_token_id\" is 13, the vocabulary has 10 rows: ignored") != NULL);
    source_close(&s);
}

static void test_sizes(void) {
    Source s;
    CHECK(source_new(&s, "1M", 0, 0, NULL, no_warning(), &err) && s.config.V == 100352 &&
          s.config.eos == 100257);
    CHECK(s.config.max_T == 4096 && s.dir[0] == '\0' && s.said.config == NULL);
    source_close(&s);
    CHECK(source_new(&s, "1M", 2048, 128, NULL, no_warning(), &err) && warning.text[0] == '\0');
    CHECK(s.config.V == 2048 && s.config.eos == NONE && s.config.pad == NONE && s.config.max_T == 128);
    source_close(&s);
    CHECK(source_new(&s, "1M", 0, 0, in_dir("other.json"), no_warning(), &err) && warning.text[0] == '\0');
    CHECK(s.config.V == 384 && s.config.eos == NONE && s.config.pad == NONE);
    source_close(&s);
    write_tokenizer("end.json", END_AND_PAD);
    CHECK(source_new(&s, "1M", 0, 0, in_dir("end.json"), no_warning(), &err) && warning.text[0] == '\0');
    CHECK(s.config.V == 384 && s.config.eos == 264 && s.config.pad == 265);
    source_close(&s);
    CHECK_ERROR(source_new(&s, "1M", 100, 0, in_dir("end.json"), no_warning(), &err), err,
                "end.json: has ids up to 265, the model has a vocabulary of 100 rows");
    source_close(&s);
    CHECK_ERROR(source_new(&s, in_dir("absent.json"), 0, 0, NULL, no_warning(), &err), err,
                "cannot be opened");
    source_close(&s);
    CHECK_ERROR(source_open(&s, in_dir("absent"), NULL, no_warning(), &err), err, "no such directory");
    source_close(&s);
}

// A snapshot in Hugging Face's cache is a directory of links to blobs with other names. It is loaded, and
// what is made from it has files of its own.
static void test_links(void) {
    static const char *const files[] = {"config.json",        "generation_config.json", "model.safetensors",
                                        "tokenizer.json",     "tokenizer_config.json",  "vocab.json",
                                        "chat_template.jinja"};
    OLMo2Config config = small_config();
    config.V = 300;
    OLMo2 *m = make_model(&config, 1.0f), *back = make_model(&config, 9.0f);
    const CheckpointParts no_parts = {NULL, NULL, NULL};
    CHECK(directory_create(in_dir("hub/blobs"), &err) &&
          directory_create(in_dir("hub/snapshots/main"), &err));
    CHECK(checkpoint_write_model(m, in_dir("plain"), &no_parts, no_warning(), &err));
    write_tokenizer("plain/tokenizer.json", END_AND_PAD);
    write_text("plain/tokenizer_config.json", "{\"chat_template\": \"x\"}");
    write_text("plain/vocab.json", "{}");
    write_text("plain/chat_template.jinja", "y");
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        char from[64], blob[64], target[64], snapshot[64];
        snprintf(from, sizeof from, "plain/%s", files[i]);
        snprintf(blob, sizeof blob, "hub/blobs/%02zx", i);
        snprintf(target, sizeof target, "../../blobs/%02zx", i);
        snprintf(snapshot, sizeof snapshot, "hub/snapshots/main/%s", files[i]);
        CHECK(rename(in_dir(from), in_dir(blob)) == 0 && symlink(target, in_dir(snapshot)) == 0);
    }
    Source s;
    if (!CHECK(source_open(&s, in_dir("hub/snapshots/main"), NULL, no_warning(), &err))) {
        printf("%s\n", err.text);
    }
    CHECK(s.text.present && checkpoint_load_weights(back, s.dir, NULL, NULL, &err) &&
          same_array(m, back, OLMO2_PARAMETER));
    const CheckpointParts parts = {&s.said, s.text.path, NULL};
    CHECK(checkpoint_write_model(back, in_dir("copy"), &parts, no_warning(), &err) &&
          count_entries("copy") == 7);
    struct stat info;
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        char name[64];
        snprintf(name, sizeof name, "copy/%s", files[i]);
        CHECK(lstat(in_dir(name), &info) == 0 && S_ISREG(info.st_mode));
    }
    CHECK(file_holds("copy/chat_template.jinja", "y"));
    source_close(&s);
    // a link to nothing, as a download that was broken off leaves
    CHECK(unlink(in_dir("hub/blobs/02")) == 0);
    CHECK_ERROR(checkpoint_load_weights(back, in_dir("hub/snapshots/main"), NULL, NULL, &err), err,
                "main/model.safetensors: cannot be opened: No such file");
    CHECK(unlink(in_dir("hub/blobs/03")) == 0);
    CHECK_ERROR(source_open(&s, in_dir("hub/snapshots/main"), NULL, no_warning(), &err), err,
                "main/tokenizer.json: cannot be opened: No such file");
    source_close(&s);
    CHECK(unlink(in_dir("hub/blobs/00")) == 0);
    CHECK_ERROR(source_open(&s, in_dir("hub/snapshots/main"), NULL, no_warning(), &err), err,
                "main/config.json: cannot be opened: No such file");
    source_close(&s);
    CHECK_ERROR(source_open(&s, in_dir("copy/model.safetensors"), NULL, no_warning(), &err), err,
                "model.safetensors: is a file, expected a model directory or a run");
    source_close(&s);
    write_text("hub/pytorch_model.bin", "x");
    CHECK_ERROR(checkpoint_load_weights(back, in_dir("hub"), NULL, NULL, &err), err,
                "only pytorch_model.bin.\nLoad it in");
    olmo2_free(m);
    olmo2_free(back);
}

int main(void) {
    if (!scratch_begin()) { return check_report(); }
    test_rule();
    test_other_rules();
    test_sizes();
    test_links();
    scratch_end();
    return check_report();
}
