// small_tokenizer.h: tokenizer.json files for tests, made of parts that can be replaced one by one. The
// vocabulary is the 256 bytes (the id of a byte is the byte), then the tokens below, then the added tokens.
#ifndef DEV_TEST_SMALL_TOKENIZER_H
#define DEV_TEST_SMALL_TOKENIZER_H

#include "llmc/tokenizer.h"

// The ids of the default parts. "xyz" is in no merge.
enum { T_AB = 256, T_ABC, T_BC, T_AA, T_AAAA, T_SPACE_A, T_SPACES, T_XYZ, T_END, T_PAD, T_END_PAD, T_SIZE };

typedef struct {
    const char *normalizer, *pre_tokenizer, *decoder;  // JSON
    const char *added;                                 // JSON
    const char *model;                                 // "name": value, ... other members of the model
    const char *tokens;                                // "token": id, ... after the 256 bytes
    const char *merges;                                // JSON
} TokenizerParts;

static const char BYTE_LEVEL[] = "\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"use_regex\": false";

static inline TokenizerParts default_parts(void) {
    TokenizerParts parts = {
        "null",
        NULL,  // Split by the pattern, Removed and inverted; ByteLevel
        "{\"type\": \"ByteLevel\"}",
        "[{\"id\": 264, \"content\": \"<|end|>\", \"special\": true, \"single_word\": false, \"lstrip\": "
        "false, "
        "\"rstrip\": false, \"normalized\": false}, {\"id\": 265, \"content\": \"<|pad|>\"}, "
        "{\"id\": 266, \"content\": \"<|end|><|pad|>\"}]",
        "\"type\": \"BPE\", \"dropout\": null, \"unk_token\": null, \"continuing_subword_prefix\": \"\", "
        "\"end_of_word_suffix\": null, \"fuse_unk\": false, \"byte_fallback\": false",
        "\"ab\": 256, \"abc\": 257, \"bc\": 258, \"aa\": 259, \"aaaa\": 260, \"\\u0120a\": 261, "
        "\"\\u0120\\u0120\": 262, \"xyz\": 263",
        "[\"b c\", \"a b\", \"ab c\", \"a a\", \"aa aa\", \"\\u0120 a\", \"\\u0120 \\u0120\"]",
    };
    return parts;
}

// GPT-2's table, by its rule: a printable character of Latin-1 is its own byte; the other bytes are U+0100
// onwards, in order.
static inline size_t byte_character(int byte, char out[4]) {
    uint32_t next = 0x100, code = 0;
    for (int b = 0; b <= byte; b++) {
        bool printable = (b > 0x20 && b < 0x7F) || (b > 0xA0 && b != 0xAD);
        code = printable ? (uint32_t)b : next++;
    }
    return utf8_encode(code, out);
}

// A pre_tokenizer, with the members of its second step. The caller frees it.
static inline char *split_by(const char *pattern, const char *behavior, bool invert, const char *second) {
    JsonWriter w;
    memset(&w, 0, sizeof w);
    json_begin_object(&w, NULL);
    json_string(&w, "type", "Sequence");
    json_begin_array(&w, "pretokenizers");
    json_begin_object(&w, NULL);
    json_string(&w, "type", "Split");
    json_begin_object(&w, "pattern");
    json_string(&w, "Regex", pattern);
    json_end_object(&w);
    json_string(&w, "behavior", behavior);
    json_bool(&w, "invert", invert);
    json_end_object(&w);
    json_raw(&w, NULL, "{");
    json_append_text(&w, second);
    json_append_text(&w, "}");
    json_end_array(&w);
    json_end_object(&w);
    return w.text;
}

// The text of the tokenizer.json. The caller frees it.
static inline char *small_tokenizer(const TokenizerParts *parts) {
    char *split = split_by(TOKENIZER_PATTERN, "Removed", true, BYTE_LEVEL), key[8];
    JsonWriter vocabulary;
    memset(&vocabulary, 0, sizeof vocabulary);
    json_begin_object(&vocabulary, NULL);
    for (int byte = 0; byte < 256; byte++) {
        key[byte_character(byte, key)] = '\0';
        json_integer(&vocabulary, key, byte);
    }
    char *text =
        format_text("{\"version\": \"1.0\", \"added_tokens\": %s, \"normalizer\": %s, \"pre_tokenizer\": %s, "
                    "\"decoder\": %s, \"model\": {%s, \"vocab\": %s%s%s}, \"merges\": %s}}",
                    parts->added, parts->normalizer,
                    parts->pre_tokenizer == NULL ? split : parts->pre_tokenizer, parts->decoder, parts->model,
                    vocabulary.text, *parts->tokens == '\0' ? "" : ", ", parts->tokens, parts->merges);
    json_writer_free(&vocabulary);
    free(split);
    return text;
}

#endif
