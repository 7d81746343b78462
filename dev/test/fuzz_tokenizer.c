// fuzz_tokenizer.c: any bytes as a tokenizer.json, as one part of an otherwise well-formed one, and as text
// to encode. Built with clang -fsanitize=fuzzer.
#include "small_tokenizer.h"

// Encodes the text and checks that the pieces are the text.
static void encode(const Tokenizer *t, const char *text, size_t size) {
    Error err;
    TokenBuffer tokens = {NULL, 0, 0};
    size_t at = 0, piece_size;
    if (!tokenizer_encode(t, text, size, &tokens, &err)) { abort(); }
    for (size_t i = 0; i < tokens.length; i++) {
        const char *piece = tokenizer_piece(t, tokens.ids[i], &piece_size);
        if (piece == NULL || piece_size > size - at || memcmp(text + at, piece, piece_size) != 0) { abort(); }
        at += piece_size;
    }
    if (at != size) { abort(); }
    free(tokens.ids);
}

static void load(const char *json, size_t json_size, const char *text, size_t size) {
    Error err = {""};
    Tokenizer t;
    if (tokenizer_parse(&t, json, json_size, "input", &err)) {
        encode(&t, text, size);
        tokenizer_free(&t);
    } else if (err.text[0] == '\0' || t.text != NULL) {
        abort();
    }
}

// The first byte says what the rest is: a whole tokenizer.json, or one part of it, because the fuzzer would
// not find the other parts. In any case it is also the text to encode.
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) { return 0; }
    TokenizerParts parts = default_parts();
    const char **places[] = {&parts.added,   &parts.tokens,     &parts.merges,       &parts.model,
                             &parts.decoder, &parts.normalizer, &parts.pre_tokenizer};
    enum { PLACES = sizeof places / sizeof *places };
    const char *text = (const char *)data + 1;
    size_t choice = data[0] % (PLACES + 2);
    char *part = format_text("%.*s", (int)(size - 1), text), *json = NULL;
    if (choice < PLACES) { *places[choice] = part; }
    if (choice <= PLACES) { json = small_tokenizer(&parts); }
    load(json != NULL ? json : text, json != NULL ? strlen(json) : size - 1, text, size - 1);
    free(json);
    free(part);
    return 0;
}
