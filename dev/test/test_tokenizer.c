// test_tokenizer.c: words, merges, added tokens, decoding to the same bytes, and what is refused.
// dev/test/reference_tokenizer.py compares the same code with Hugging Face's library.
#include "llmc/tokenizer.h"
#include "llmc/rand.h"

#include "check.h"
#include "small_tokenizer.h"

static Error err;

// ---------------------------------------------------------------------------------------------
// helpers

static bool load_parts(Tokenizer *t, const TokenizerParts *parts) {
    char *text = small_tokenizer(parts);
    // an exact copy on the heap, so the sanitizer sees a read beyond its end
    size_t size = strlen(text);
    char *copy = (char *)malloc(size);
    memcpy(copy, text, size);
    bool ok = tokenizer_parse(t, copy, size, "tokenizer.json", &err);
    if (!ok) { printf("       %s\n", err.text); }
    free(copy);
    free(text);
    return ok;
}

static void refuse(const TokenizerParts *parts, const char *words) {
    Tokenizer t;
    char *text = small_tokenizer(parts);
    CHECK_ERROR(tokenizer_parse(&t, text, strlen(text), "tokenizer.json", &err), err, words);
    CHECK(strncmp(err.text, "tokenizer.json:", 15) == 0 && t.pieces == NULL && t.text == NULL);
    free(text);
}

// The pieces of the tokens are the text.
static bool decodes_to(const Tokenizer *t, const TokenBuffer *tokens, const char *text, size_t size) {
    size_t at = 0, piece_size;
    for (size_t i = 0; i < tokens->length; i++) {
        const char *piece = tokenizer_piece(t, tokens->ids[i], &piece_size);
        if (piece == NULL || size - at < piece_size || memcmp(text + at, piece, piece_size) != 0) {
            return false;
        }
        at += piece_size;
    }
    return at == size;
}

static bool encodes_to(const Tokenizer *t, const char *text, size_t size, const uint32_t *ids, size_t count) {
    TokenBuffer tokens = {NULL, 0, 0};
    char *copy = (char *)malloc(size + (size == 0));
    memcpy(copy, text, size);
    bool ok = tokenizer_encode(t, copy, size, &tokens, &err) && tokens.length == count &&
              decodes_to(t, &tokens, text, size);
    for (size_t i = 0; ok && i < count; i++) { ok = tokens.ids[i] == ids[i]; }
    if (!ok) {
        printf("       \"%.*s\" gave", (int)size, text);
        for (size_t i = 0; i < tokens.length; i++) { printf(" %u", (unsigned)tokens.ids[i]); }
        printf("\n");
    }
    free(copy);
    free(tokens.ids);
    return ok;
}

// CHECK_IDS(t, "text", id, id...)
#define CHECK_IDS(t, text, ...)                                                                 \
    do {                                                                                        \
        const uint32_t expected[] = {__VA_ARGS__};                                              \
        CHECK(encodes_to(t, text, strlen(text), expected, sizeof expected / sizeof *expected)); \
    } while (0)

// ---------------------------------------------------------------------------------------------
// words

static void check_words(const char *words) {
    // "a/b/c": the text is abc, cut at the slashes
    char text[256], found[256];
    size_t size = 0, length = 0;
    for (const char *c = words; *c != '\0'; c++) {
        if (*c != '/') { text[size++] = *c; }
    }
    for (const char *at = text; at < text + size;) {
        const char *stop = word_end(at, text + size);
        if (length > 0) { found[length++] = '/'; }
        memcpy(found + length, at, (size_t)(stop - at));
        length += (size_t)(stop - at);
        at = stop;
    }
    bool ok = length == strlen(words) && memcmp(found, words, length) == 0;
    if (!ok) { printf("       found \"%.*s\", expected \"%s\"\n", (int)length, found, words); }
    CHECK(ok);
}

static void test_words(void) {
    // letters take one preceding character that is not a letter, number or newline
    check_words("Hello/ world/!");
    check_words("a/_b/\tc/\n/d/$e");
    check_words("\xC3\xA9t\xC3\xA9/ \xE6\x9D\xB1\xE4\xBA\xAC/1");
    check_words(
        "e/\xCC\x81t/\xCC\x81");  // a combining acute accent is not a letter: it joins the t that follows
    // contractions, whatever is before and after
    check_words("don/'t/ DON/'T/ we/'ll/ I/'Ve/ you/'re/ she/'d/ I/'m");
    check_words("'s/x/'t/x/'re/x/'ve/x/'m/x/'ll/x/'d/x/'rx/'vx/'lx/'xe");
    check_words("'S/x/'T/x/'Re/x/'vE/x/'M/x/'LL/x/'D/x");
    check_words("'s/auce/ ''/s/'l/ '/x");
    check_words("'\xC5\xBF/x");  // U+017F, the long s
    check_words("'");
    // digits in threes, of every script
    check_words("123/456/7/x/1");
    check_words(" /1/ /22");
    check_words("\xD9\xA1\xD9\xA2\xD9\xA3/\xD9\xA4");  // Arabic digits
    check_words("\xC2\xBD\xE2\x85\xA7/x");             // one half, Roman numeral eight
    // symbols, with a space before and newlines after
    check_words("x/ !?/ =>\r\n\n/y");
    check_words("\xF0\x9F\x99\x82\xE2\x80\xA6\n/\x1C\x7F");
    // newlines: up to the last one of the white space
    check_words(" \n/ x");
    check_words("a/ \r\n \n/  / b");
    check_words("\n\n\n");
    // other white space: all at the end of the text, otherwise all but the last character
    check_words("a/   / b/   ");
    check_words("\t\t/\tx/ / /1");
    check_words("\xC2\xA0/\xC2\xA0x/\xE3\x80\x80\xC2\x85/ /1");
    // bytes that are not UTF-8: truncated, overlong, a surrogate, beyond U+10FFFF, a bare continuation
    check_words("a/\xE6\x9D/ \xE6\x9D!\xC0\xAF/ \xED\xA0\x80\xF4\x90\x80\x80\xFF\x80\n/\x80z");
}

// ---------------------------------------------------------------------------------------------
// merges

static void test_merges(void) {
    Tokenizer t;
    TokenizerParts parts = default_parts();
    if (!CHECK(load_parts(&t, &parts))) { return; }
    CHECK_IDS(&t, "ab", T_AB);
    CHECK_IDS(&t, "abc", 'a', T_BC);  // b c comes before a b, and then no pair is left
    CHECK_IDS(&t, "aaa", T_AA, 'a');  // the leftmost of equals first
    CHECK_IDS(&t, "aaaaaaaab", T_AAAA, T_AA, 'a', T_AB);
    CHECK_IDS(&t, "xyz", 'x', 'y', 'z');
    CHECK_IDS(&t, " a", T_SPACE_A);
    CHECK_IDS(&t, "ab ab   ", T_AB, ' ', T_AB, T_SPACES, ' ');
    CHECK_IDS(&t, "\xC3\xA9\xFF", 0xC3, 0xA9, 0xFF);
    CHECK(encodes_to(&t, "", 0, NULL, 0));
    const uint32_t with_nul[] = {'a', 0, 'b'};
    CHECK(encodes_to(&t, "a\0b", 3, with_nul, 3));
    tokenizer_free(&t);

    parts.merges = "[[\"b\", \"c\"], [\"a\", \"b\"], [\"ab\", \"c\"], [\"\\u0120\", \"a\"]]";
    if (!CHECK(load_parts(&t, &parts))) { return; }
    CHECK_IDS(&t, "abcab a", 'a', T_BC, T_AB, T_SPACE_A);
    tokenizer_free(&t);

    parts.merges = "[\"a b\", \"ab c\", \"b c\"]";
    parts.model = "\"type\": \"BPE\", \"ignore_merges\": true";
    if (!CHECK(load_parts(&t, &parts))) { return; }
    CHECK_IDS(&t, "abc", T_ABC);
    CHECK_IDS(&t, "xyz", T_XYZ);
    CHECK_IDS(&t, "xyzz", 'x', 'y', 'z', 'z');
    CHECK_IDS(&t, "aa", T_AA);
    tokenizer_free(&t);
}

// Byte-pair encoding by its definition. Of tokenizer.h's structures it uses only the list of merges.
static size_t merge_by_definition(const Tokenizer *t, uint32_t *ids, size_t length) {
    while (true) {
        uint32_t best = TOKENIZER_NONE;
        size_t place = 0;
        for (size_t i = 0; i + 1 < length; i++) {
            uint32_t rank = merge_rank(t, ids[i], ids[i + 1]);
            if (rank < best) {
                best = rank;
                place = i;
            }
        }
        if (best == TOKENIZER_NONE) { return length; }
        ids[place] = t->merged[best];
        memmove(ids + place + 1, ids + place + 2, (length - place - 2) * sizeof *ids);
        length--;
    }
}

static void test_merges_by_definition(void) {
    enum { LONGEST = 300 };
    Tokenizer t;
    TokenizerParts parts = default_parts();
    parts.merges = "[\"a b\", \"aa aa\", \"b c\", \"a a\", \"ab c\", \"a bc\"]";
    if (!CHECK(load_parts(&t, &parts))) { return; }
    Pcg64 rng;
    pcg64_seed(&rng, 1);
    size_t wrong = 0;
    for (size_t n = 0; n < 3000; n++) {
        char word[LONGEST];
        uint32_t ids[LONGEST];
        size_t size = 1 + pcg64_next32(&rng) % (n % 10 == 0 ? LONGEST : 20);
        for (size_t i = 0; i < size; i++) {
            word[i] = "aaabbc"[pcg64_next32(&rng) % 6];
            ids[i] = (unsigned char)word[i];
        }
        wrong += !encodes_to(&t, word, size, ids, merge_by_definition(&t, ids, size));
    }
    CHECK(wrong == 0);
    tokenizer_free(&t);
}

// A word of a million bytes: anything slower than n log n would not finish.
static void test_long_word(void) {
    enum { SIZE = 1000003 };
    Tokenizer t;
    TokenizerParts parts = default_parts();
    TokenBuffer tokens = {NULL, 0, 0};
    char *word = (char *)malloc(SIZE);
    memset(word, 'a', SIZE);
    if (CHECK(load_parts(&t, &parts))) {
        CHECK(tokenizer_encode(&t, word, SIZE, &tokens, &err) && tokens.length == SIZE / 4 + 2);
        CHECK(tokens.ids[0] == T_AAAA && tokens.ids[SIZE / 4 - 1] == T_AAAA && tokens.ids[SIZE / 4] == T_AA);
        CHECK(decodes_to(&t, &tokens, word, SIZE));
        tokenizer_free(&t);
    }
    free(word);
    free(tokens.ids);
}

// ---------------------------------------------------------------------------------------------
// added tokens, pieces, bytes

static void test_added(void) {
    Tokenizer t;
    TokenizerParts parts = default_parts();
    if (!CHECK(load_parts(&t, &parts))) { return; }
    CHECK_IDS(&t, "<|end|>", T_END);
    CHECK_IDS(&t, "ab<|end|>ab<|pad|>", T_AB, T_END, T_AB, T_PAD);
    CHECK_IDS(&t, "<|end|><|pad|><|end|><|end|>", T_END_PAD, T_END, T_END);  // the longest that begins there
    CHECK_IDS(&t, "<|end<|end|>", '<', '|', 'e', 'n', 'd', T_END);
    CHECK_IDS(&t, "<|end|", '<', '|', 'e', 'n', 'd', '|');
    CHECK_IDS(&t, "  <|end|>  a", T_SPACES, T_END, ' ', T_SPACE_A);  // each part is cut into words on its own

    uint32_t id = 0;
    size_t size = 1;
    CHECK(tokenizer_special(&t, "<|pad|>", &id) && id == T_PAD);
    CHECK(!tokenizer_special(&t, "<|pad|", &id) && !tokenizer_special(&t, "ab", &id) &&
          !tokenizer_special(&t, "", &id));
    CHECK(tokenizer_size(&t) == T_SIZE);
    const char *piece = tokenizer_piece(&t, T_SPACE_A, &size);
    CHECK(piece != NULL && size == 2 && memcmp(piece, " a", 2) == 0);
    piece = tokenizer_piece(&t, T_END, &size);
    CHECK(piece != NULL && size == 7 && memcmp(piece, "<|end|>", 7) == 0);
    CHECK(tokenizer_piece(&t, T_SIZE, &size) == NULL && size == 0);
    CHECK(tokenizer_piece(&t, TOKENIZER_NONE, &size) == NULL);
    tokenizer_free(&t);

    // also in the vocabulary, where merges may lead to it; ids without a token; text that does not spell
    // bytes, and text that spells other bytes
    parts.added = "[{\"id\": 256, \"content\": \"ab\"}, {\"id\": 300, \"content\": \"\\u00e9\\u00e9\"}, "
                  "{\"id\": 301, \"content\": \"b \\u6771\"}]";
    parts.tokens = "\"ab\": 256, \"\\u00e9\\u00e9\": 300, \"b \\u6771\": 301";
    parts.merges = "[\"a b\"]";
    if (!CHECK(load_parts(&t, &parts))) { return; }
    CHECK(tokenizer_size(&t) == 302 && tokenizer_piece(&t, 299, &size) == NULL);
    CHECK_IDS(&t,
              "cab\xC3\xA9\xC3\xA9"
              "b \xE6\x9D\xB1",
              'c', 256, 300, 301);
    CHECK_IDS(&t, "\xE9\xE9", 0xE9, 0xE9);
    tokenizer_free(&t);

    parts = default_parts();
    parts.added = "[]";
    if (!CHECK(load_parts(&t, &parts))) { return; }
    CHECK_IDS(&t, "<|", '<', '|');
    tokenizer_free(&t);
}

// Added tokens with "normalized": true are searched after the others, in what those leave.
static void test_normalized(void) {
    Tokenizer t;
    TokenizerParts parts = default_parts();
    parts.added =
        "[{\"id\": 264, \"content\": \"<a>\"}, {\"id\": 265, \"content\": \"<b>\", \"normalized\": true}, "
        "{\"id\": 266, \"content\": \"x<a>y\", \"normalized\": true}, "
        "{\"id\": 267, \"content\": \"<b>y\", \"normalized\": true}, "
        "{\"id\": 268, \"content\": \"y<b\"}]";
    if (!CHECK(load_parts(&t, &parts))) { return; }
    CHECK_IDS(&t, "<a><b>ab<b><a>", 264, 265, T_AB, 265, 264);
    CHECK_IDS(&t, "x<a>y", 'x', 264,
              'y');  // the raw one wins, although the other begins earlier and is longer
    CHECK_IDS(&t, "<b>y", 267);
    CHECK_IDS(&t, "<b>y<b>", 265, 268, '>');
    CHECK_IDS(&t, "<b", '<', 'b');
    uint32_t id = 0;
    CHECK(tokenizer_special(&t, "<b>", &id) && id == 265 && tokenizer_special(&t, "<a>", &id) && id == 264);
    tokenizer_free(&t);
}

static void test_any_bytes(void) {
    Tokenizer t;
    TokenizerParts parts = default_parts();
    TokenBuffer tokens = {NULL, 0, 0};
    if (!CHECK(load_parts(&t, &parts))) { return; }
    Pcg64 rng;
    pcg64_seed(&rng, 2);
    size_t wrong = 0;
    for (size_t n = 0; n < 20000; n++) {
        char text[64];
        size_t size = pcg64_next32(&rng) % sizeof text;
        const char *alphabet = "ab \n'1!\xC3\xA9\xFF";
        for (size_t i = 0; i < size; i++) {
            uint32_t draw = pcg64_next32(&rng);
            text[i] = n % 2 == 0 ? (char)(draw >> 24) : alphabet[draw % 10];
        }
        tokens.length = 0;
        wrong += !tokenizer_encode(&t, text, size, &tokens, &err) || !decodes_to(&t, &tokens, text, size);
    }
    CHECK(wrong == 0);

    tokens.length = 0;
    CHECK(tokenizer_encode(&t, "ab", 2, &tokens, &err) && tokenizer_encode(&t, "<|end|>", 7, &tokens, &err));
    CHECK(tokens.length == 2 && tokens.ids[0] == T_AB && tokens.ids[1] == T_END);  // appended
    free(tokens.ids);
    tokenizer_free(&t);
}

// ---------------------------------------------------------------------------------------------
// what is refused

static void test_other_kinds(void) {
    TokenizerParts parts = default_parts();
    parts.normalizer = "{\"type\": \"NFC\"}";
    refuse(&parts, "normalizer is the string \"NFC\", expected null or false");

    const char *models[][2] = {
        {"\"type\": \"Unigram\"", "model.type is \"Unigram\", expected BPE"},
        {"\"type\": \"WordPiece\"", "model.type is \"WordPiece\""},
        {"\"types\": \"BPE\"", "model.type is nothing"},
        {"\"type\": \"BPE\", \"dropout\": 0.1", "model.dropout is 0.1"},
        {"\"type\": \"BPE\", \"unk_token\": \"<unk>\"", "model.unk_token is \"<unk>\""},
        {"\"type\": \"BPE\", \"byte_fallback\": true", "model.byte_fallback is true"},
        {"\"type\": \"BPE\", \"continuing_subword_prefix\": \"##\"",
         "model.continuing_subword_prefix is \"##\""},
        {"\"type\": \"BPE\", \"end_of_word_suffix\": \"</w>\"", "model.end_of_word_suffix is \"</w>\""},
        {"\"type\": \"BPE\", \"ignore_merges\": 1", "\"ignore_merges\" is 1, expected true or false"},
    };
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        parts = default_parts();
        parts.model = models[i][0];
        refuse(&parts, models[i][1]);
    }

    const char *decoders[] = {"null", "{\"type\": \"Metaspace\"}"};
    for (size_t i = 0; i < 2; i++) {
        parts = default_parts();
        parts.decoder = decoders[i];
        refuse(&parts, "decoder.type is ");
    }
}

static void test_pre_tokenizers(void) {
    const char *others[][2] = {
        {"null", "pre_tokenizer.type is nothing, expected Sequence"},
        {"{\"type\": \"ByteLevel\"}", "pre_tokenizer.type is \"ByteLevel\", expected Sequence"},
        {"{\"type\": \"Sequence\", \"pretokenizers\": []}",
         "pre_tokenizer.pretokenizers is an array, expected"},
        {"{\"type\": \"Sequence\", \"pretokenizers\": [1, 2]}", "pretokenizers[0].type is nothing"},
        {"{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Digits\"}, 2]}",
         "[0].type is \"Digits\""},
    };
    TokenizerParts parts = default_parts();
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        parts.pre_tokenizer = others[i][0];
        refuse(&parts, others[i][1]);
    }

    const struct {
        const char *pattern, *behavior;
        bool invert;
        const char *second, *words;  // words: of the refusal; NULL if it must load
    } splits[] = {
        {TOKENIZER_PATTERN, "Isolated", false, BYTE_LEVEL, NULL},
        {TOKENIZER_PATTERN, "Removed", true, BYTE_LEVEL, NULL},
        {TOKENIZER_PATTERN, "Removed", false, BYTE_LEVEL, "behavior is \"Removed\", expected Isolated"},
        {TOKENIZER_PATTERN, "Isolated", true, BYTE_LEVEL, "behavior is \"Isolated\", expected Removed"},
        {TOKENIZER_PATTERN, "MergedWithNext", false, BYTE_LEVEL, "behavior is \"MergedWithNext\""},
        {"\\p{N}|\\p{L}+", "Isolated", false, BYTE_LEVEL,
         "[0].Regex is \"\\p{N}|\\p{L}+\", expected (?i:'s|'t|"},
        {TOKENIZER_PATTERN, "Removed", true, "\"type\": \"Digits\"",
         "[1].type is \"Digits\", expected ByteLevel"},
        {TOKENIZER_PATTERN, "Removed", true, "\"type\": \"ByteLevel\"",
         "[1].use_regex is nothing, expected false"},
        {TOKENIZER_PATTERN, "Removed", true, "\"type\": \"ByteLevel\", \"use_regex\": true",
         "use_regex is true"},
        {TOKENIZER_PATTERN, "Removed", true, "\"type\": \"ByteLevel\", \"add_prefix_space\": true",
         "add_prefix_space is true"},
    };
    for (size_t i = 0; i < sizeof splits / sizeof *splits; i++) {
        char *text = split_by(splits[i].pattern, splits[i].behavior, splits[i].invert, splits[i].second);
        parts.pre_tokenizer = text;
        Tokenizer t;
        if (splits[i].words != NULL) {
            refuse(&parts, splits[i].words);
        } else if (CHECK(load_parts(&t, &parts))) {
            tokenizer_free(&t);
        }
        free(text);
    }
}

static void test_contradictions(void) {
    const char *added[][2] = {
        {"7", "added_tokens is 7, expected an array"},
        {"[7]", "added_tokens[0].content is nothing"},
        {"[{\"id\": 264, \"content\": \"\"}]", "added_tokens[0].content is \"\", expected a text"},
        {"[{\"content\": \"<s>\"}]", "the token \"<s>\" has the id nothing, expected a whole number"},
        {"[{\"id\": 265, \"content\": \"<s>\"}]",
         "\"<s>\", which is not in model.vocab, has the id 265, expected 264"},
        {"[{\"id\": 97, \"content\": \"<s>\"}]", "has the id 97, expected 264"},
        {"[{\"id\": 264, \"content\": \"s\"}]",
         "\"s\" has the id 264 in added_tokens and 115 in model.vocab"},
        {"[{\"id\": 264, \"content\": \"<s>\"}, {\"id\": 265, \"content\": \"<s>\"}]", "\"<s>\" twice"},
        {"[{\"id\": 264, \"content\": \"<s>\", \"lstrip\": true}]", "added_tokens[0].lstrip is true"},
        {"[{\"id\": 264, \"content\": \"<s>\", \"rstrip\": true}]", "added_tokens[0].rstrip is true"},
        {"[{\"id\": 264, \"content\": \"<s>\", \"single_word\": true}]",
         "added_tokens[0].single_word is true"},
        {"[{\"id\": 264, \"content\": \"<s>\", \"normalized\": 1}]",
         "\"normalized\" is 1, expected true or false"},
        {"[{\"id\": 264, \"content\": \"<s>\"}, {\"id\": 265, \"content\": \"<s>\", \"normalized\": true}]",
         "\"<s>\" twice"},
        {"[{\"id\": 233, \"content\": \"\\u00e9\"}]", "no token for the byte 0xE9"},
    };
    for (size_t i = 0; i < sizeof added / sizeof *added; i++) {
        TokenizerParts parts = default_parts();
        parts.added = added[i][0];
        refuse(&parts, added[i][1]);
    }

    const char *tokens[][2] = {
        {"\"ab\": -1", "the token \"ab\" has the id -1, expected a whole number from 0 to 4194303"},
        {"\"ab\": 4194304", "has the id 4194304"},
        {"\"ab\": 2.5", "has the id 2.5"},
        {"\"ab\": \"x\"", "has the id the string \"x\""},
        {"\"ab\": 97", "the id 97 is given to two tokens, \"a\" and \"ab\""},
        {"\"a b\": 256", "model.vocab has \"a b\", expected only characters of a byte-level vocabulary"},
        {"\"\\u6771\": 256", "model.vocab has \"\xE6\x9D\xB1\""},
        {"\"\\u00ad\": 256", "model.vocab has \"\xC2\xAD\""},
        {"\"ab\": 256, \"ab\": 257", "a second time"},
    };
    for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++) {
        TokenizerParts parts = default_parts();
        parts.tokens = tokens[i][0];
        refuse(&parts, tokens[i][1]);
    }

    const char *merges[][2] = {
        {"{}", "model.merges is an object, expected an array"},
        {"[\"a b\", \"ab\"]", "model.merges[1] is the string \"ab\", expected two tokens"},
        {"[7]", "model.merges[0] is 7"},
        {"[[\"a\"]]", "model.merges[0] is an array"},
        {"[[\"a\", 1]]", "model.merges[0] is an array"},
        {"[\"a q\"]", "model.merges[0] is the string \"a q\""},
        {"[\"xy z\"]", "model.merges[0] is the string \"xy z\""},
        {"[\"a b c\"]", "model.merges[0] is the string \"a b c\""},
        {"[\"a b\", \"b c\", \"a b\"]", "model.merges[2] is the pair of model.merges[0] again"},
    };
    for (size_t i = 0; i < sizeof merges / sizeof *merges; i++) {
        TokenizerParts parts = default_parts();
        parts.merges = merges[i][0];
        refuse(&parts, merges[i][1]);
    }
}

static void write_file(const char *path, const char *text, size_t size) {
    FILE *file = fopen(path, "wb");
    CHECK(file != NULL && fwrite(text, 1, size, file) == size && fclose(file) == 0);
}

static void test_files(void) {
    char directory[] = "/tmp/test_tokenizer_XXXXXX", path[64];
    if (!CHECK(mkdtemp(directory) != NULL)) { return; }
    snprintf(path, sizeof path, "%s/tokenizer.json", directory);
    Tokenizer t;
    CHECK_ERROR(tokenizer_load(&t, directory, &err), err, "tokenizer.json: cannot be opened: No such file");
    write_file(path, "", 0);
    CHECK_ERROR(tokenizer_load(&t, path, &err), err, "found the end of the text");
    write_file(path, "[]", 2);
    CHECK_ERROR(tokenizer_load(&t, directory, &err), err, "model.type is nothing, expected BPE");

    TokenizerParts parts = default_parts();
    char *text = small_tokenizer(&parts);
    size_t size = strlen(text), accepted = 0;
    for (size_t cut = 0; cut < size; cut += 13) {
        accepted += tokenizer_parse(&t, text, cut, "tokenizer.json", &err);
        accepted += strstr(err.text, "tokenizer.json:1:") == NULL;
    }
    CHECK(accepted == 0);
    write_file(path, text, size);
    const char *names[] = {path, directory};
    for (size_t i = 0; i < 2; i++) {
        if (!CHECK(tokenizer_load(&t, names[i], &err))) { continue; }
        CHECK_IDS(&t, "ab<|end|>", T_AB, T_END);
        tokenizer_free(&t);
    }
    char *marked = format_text("\xEF\xBB\xBF%s", text);
    write_file(path, marked, size + 3);
    if (CHECK(tokenizer_load(&t, path, &err))) { tokenizer_free(&t); }
    free(marked);
    free(text);
    unlink(path);
    rmdir(directory);
}

// ---------------------------------------------------------------------------------------------
// OLMo 2's own tokenizer

// The lines of golden.jsonl: {"text": ..., "ids": [...]}, from another implementation of cl100k.
static void check_golden(const Tokenizer *t, const char *path) {
    MappedFile file;
    if (!CHECK(file_map(&file, path, &err))) { return; }
    for (const char *line = file.data, *end = file.data + file.size; line < end;) {
        const char *stop = (const char *)memchr(line, '\n', (size_t)(end - line));
        if (stop == NULL) { stop = end; }
        JsonDocument document;
        if (CHECK(json_parse(&document, line, (size_t)(stop - line), path, &err))) {
            const Json *text = json_member(document.root, "text"), *list = json_member(document.root, "ids");
            uint32_t *ids = (uint32_t *)malloc((list->count + 1) * sizeof *ids);
            size_t count = 0;
            for (const Json *id = json_first(list); id != NULL; id = json_next(id)) {
                ids[count++] = (uint32_t)id->integer;
            }
            CHECK(encodes_to(t, text->string, text->length, ids, count));
            free(ids);
            json_free(&document);
        }
        line = stop + 1;
    }
    file_unmap(&file);
}

static void test_olmo2(void) {
    const char *path = "../shared/data/tokenizer/dolma2_tokenizer.json";
    if (!path_is_file(path)) {
        printf("skipped: OLMo 2's own tokenizer and its golden ids (../shared not present)\n");
        return;
    }
    Tokenizer t;
    uint32_t id = 0;
    if (!CHECK(tokenizer_load(&t, path, &err))) { return; }
    CHECK(tokenizer_size(&t) == 100278);
    CHECK(tokenizer_special(&t, "<|endoftext|>", &id) && id == 100257);
    CHECK_IDS(&t, "Hello, world! 12345 don't DON'T", 9906, 11, 1917, 0, 220, 4513, 1774, 1541, 956, 45373,
              17773);
    CHECK_IDS(&t, "  two  spaces\n\n\tx = 3.14\r\n", 220, 1403, 220, 12908, 271, 10436, 284, 220, 18, 13, 975,
              319);
    CHECK_IDS(&t, "a\n \n b   ", 64, 27907, 293, 262);
    CHECK_IDS(&t, "<|endoftext|><|user|>\nHi\n<|assistant|>\n", 100257, 27, 91, 882, 91, 397, 13347, 198, 27,
              91, 78191, 91, 397);
    check_golden(&t, "../shared/data/tokenizer/golden.jsonl");
    tokenizer_free(&t);
}

int main(void) {
    test_words();
    test_merges();
    test_merges_by_definition();
    test_long_word();
    test_added();
    test_normalized();
    test_any_bytes();
    test_other_kinds();
    test_pre_tokenizers();
    test_contradictions();
    test_files();
    test_olmo2();
    return check_report();
}
