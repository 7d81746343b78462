// tokenizer.h: text to token ids and back, with the tokenizer.json of a model directory.
//
// A token is an id and stands for a piece, a few bytes. Text becomes tokens in three steps:
//
//   1. Added tokens such as <|endoftext|> are found in the raw text; each is one id.
//   2. What stands between them is cut into words by the pattern of cl100k.
//   3. Each word is merged by itself (byte-pair encoding). It starts as one token per byte; then neighbours
//      become one token, the pair that stands first in the list of merges, until no pair is in the list.
//
// The ids are those of Hugging Face's `tokenizers`, encode(text, add_special_tokens=False). Every string of
// bytes is the concatenation of the pieces of its tokens.
//
// A Tokenizer does not change after tokenizer_load: threads may share one.
#ifndef LLMC_TOKENIZER_H
#define LLMC_TOKENIZER_H

#include "json.h"
#include "unicode.h"
#include "utils.h"

static const char TOKENIZER_PATTERN[] =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*"
    "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

enum { TOKENIZER_MAX_IDS = 1 << 22 };               // ids are below this; the memory is bounded by it
static const uint32_t TOKENIZER_NONE = UINT32_MAX;  // no id, no rank

typedef struct {
    const char *bytes;  // NULL: no token has this id
    size_t size;
} TokenizerPiece;

typedef struct {
    uint32_t id;  // TOKENIZER_NONE: an empty slot
    bool whole;   // a word of just these bytes becomes this one token
} TokenizerWord;

typedef struct {
    uint32_t left, right;  // ids of the two neighbours
    uint32_t rank;         // place in the list of merges, the first goes first; TOKENIZER_NONE: an empty slot
} TokenizerMerge;

typedef struct {
    const char *content;
    size_t size;  // bytes of content
    uint32_t id;
    bool in_vocabulary;  // it stands in model.vocab too
} AddedToken;

typedef struct {
    char *text;  // the bytes of all pieces
    size_t text_size;
    TokenizerPiece *pieces;  // (size) by id
    size_t size, capacity;   // highest id + 1; room in pieces

    uint32_t byte_ids[256];  // the token of each single byte

    TokenizerMerge *merges;  // (merge_mask + 1) hash table by pair, open addressing
    size_t merge_mask;
    uint32_t *merged;  // (number of merges) rank -> id of the two joined

    TokenizerWord *words;  // (word_mask + 1) hash table of the model's tokens by bytes, open addressing
    size_t word_mask;
    size_t longest_word;  // bytes

    AddedToken *added;  // (added_count) by first byte, the longer first
    size_t added_count;
    size_t added_begin[257];  // by first byte: where those that begin with it begin in `added`
} Tokenizer;

// A growing list of ids. Starts as all zeros; release it with free(ids).
typedef struct {
    uint32_t *ids;
    size_t length, capacity;
} TokenBuffer;

// Makes room for `more` ids.
static inline bool token_buffer_reserve(TokenBuffer *buffer, size_t more, Error *err) {
    if (buffer->capacity - buffer->length >= more) { return true; }
    size_t capacity = 2 * buffer->capacity + more + 64;
    uint32_t *ids = (uint32_t *)realloc(buffer->ids, capacity * sizeof *ids);
    if (ids == NULL) {
        return fail(err, "out of memory: %zu token ids need %zu bytes", capacity, 4 * capacity);
    }
    buffer->ids = ids;
    buffer->capacity = capacity;
    return true;
}

// ---------------------------------------------------------------------------------------------
// Words: the pattern, one function for each of its alternatives. A function returns the end of its match at
// `at`, or `at` itself where it does not match. Characters are those of UTF-8; a byte outside of valid UTF-8
// (RFC 3629) is a character of its own, neither letter, number nor space.

typedef struct {
    UnicodeClass kind;
    size_t size;  // bytes
} Character;

// The code point of the UTF-8 sequence of `size` bytes at s.
static inline uint32_t utf8_decode(const char *s, size_t size) {
    if (size == 1) { return (unsigned char)s[0]; }
    uint32_t code = (unsigned char)s[0] & (0x7Fu >> size);
    for (size_t i = 1; i < size; i++) { code = code << 6 | ((unsigned char)s[i] & 0x3F); }
    return code;
}

static inline Character character_at(const char *at, const char *end) {
    Character character = {UNICODE_OTHER, 1};
    if ((unsigned char)*at < 128) {
        character.kind = (UnicodeClass)unicode_ascii[(unsigned char)*at];
        return character;
    }
    size_t size = utf8_length(at, (size_t)(end - at));
    if (size > 0) {
        character.kind = unicode_class(utf8_decode(at, size));
        character.size = size;
    }
    return character;
}

// The end of the characters of one class that begin at `at`.
static inline const char *skip_class(const char *at, const char *end, UnicodeClass kind) {
    while (at < end) {
        Character character = character_at(at, end);
        if (character.kind != kind) { break; }
        at += character.size;
    }
    return at;
}

static inline bool is_newline(char c) { return c == '\r' || c == '\n'; }

// (?i:'s|'t|'re|'ve|'m|'ll|'d)    U+017F, the long s, is an s when case is ignored
static inline const char *match_contraction(const char *at, const char *end) {
    size_t left = (size_t)(end - at);
    if (*at != '\'' || left < 2) { return at; }
    int first = at[1] | 0x20, second = left > 2 ? at[2] | 0x20 : 0;  // in lower case, if they are letters
    if (first == 's' || first == 't' || first == 'm' || first == 'd') { return at + 2; }
    if ((first == 'r' || first == 'v') && second == 'e') { return at + 3; }
    if (first == 'l' && second == 'l') { return at + 3; }
    if (left > 2 && memcmp(at + 1, "\xC5\xBF", 2) == 0) { return at + 3; }
    return at;
}

// [^\r\n\p{L}\p{N}]?\p{L}+
static inline const char *match_letters(const char *at, const char *end) {
    Character first = character_at(at, end);
    if (first.kind == UNICODE_NUMBER || is_newline(*at)) { return at; }
    const char *stop = skip_class(at + first.size, end, UNICODE_LETTER);
    return first.kind == UNICODE_LETTER || stop > at + first.size ? stop : at;
}

// \p{N}{1,3}
static inline const char *match_numbers(const char *at, const char *end) {
    for (int i = 0; i < 3 && at < end; i++) {
        Character character = character_at(at, end);
        if (character.kind != UNICODE_NUMBER) { break; }
        at += character.size;
    }
    return at;
}

//  ?[^\s\p{L}\p{N}]+[\r\n]*    with a space in front of the question mark
static inline const char *match_symbols(const char *at, const char *end) {
    const char *start = *at == ' ' ? at + 1 : at;
    const char *stop = skip_class(start, end, UNICODE_OTHER);
    if (stop == start) { return at; }
    while (stop < end && is_newline(*stop)) { stop++; }
    return stop;
}

// \s*[\r\n]+    \s* takes all white space, then gives back what follows the last newline, and one newline
static inline const char *match_newlines(const char *at, const char *end) {
    const char *stop = skip_class(at, end, UNICODE_SPACE);
    while (stop > at && !is_newline(stop[-1])) { stop--; }
    return stop;
}

// \s+(?!\S)|\s+    all white space at the end of the text; elsewhere all but the last of several
static inline const char *match_spaces(const char *at, const char *end) {
    const char *stop = skip_class(at, end, UNICODE_SPACE);
    if (stop == end || stop == at) { return stop; }
    const char *last = stop - 1;
    while (((unsigned char)*last & 0xC0) == 0x80) { last--; }
    return last > at ? last : stop;
}

// The end of the word that begins at `at`, before `end`: the first alternative that matches decides.
static inline const char *word_end(const char *at, const char *end) {
    const char *stop = match_contraction(at, end);
    if (stop == at) { stop = match_letters(at, end); }
    if (stop == at) { stop = match_numbers(at, end); }
    if (stop == at) { stop = match_symbols(at, end); }
    if (stop == at) { stop = match_newlines(at, end); }
    if (stop == at) { stop = match_spaces(at, end); }
    return stop;  // every class has an alternative that takes it, so a word is never empty
}

// ---------------------------------------------------------------------------------------------
// Merging a word: always the pair of lowest rank, the leftmost of several. With the merges "b c", "a b",
// "ab c" the word abcab becomes a bc a b, then a bc ab, and there it ends: "a bc" is not in the list.
//
// The ranks of all pairs are the leaves of a tournament: each node above holds the lower of the two below it,
// so the root is the lowest of all. A merge changes three leaves, in O(log n) steps; n bytes take O(n log n).

static inline size_t merge_slot(const Tokenizer *t, uint32_t left, uint32_t right) {
    uint64_t key = (uint64_t)left << 32 | right;
    size_t slot = (size_t)(key * 0x9E3779B97F4A7C15u >> 32) & t->merge_mask;
    while (t->merges[slot].rank != TOKENIZER_NONE &&
           (t->merges[slot].left != left || t->merges[slot].right != right)) {
        slot = (slot + 1) & t->merge_mask;
    }
    return slot;
}

// The place of a pair in the list of merges, or TOKENIZER_NONE.
static inline uint32_t merge_rank(const Tokenizer *t, uint32_t left, uint32_t right) {
    return t->merges[merge_slot(t, left, right)].rank;
}

// A token of the word, in a list linked both ways. Symbols are numbered by the place of their first byte.
typedef struct {
    uint32_t id;
    size_t previous, next;  // next is the word's size after the last symbol
} Symbol;

static inline uint32_t lower_rank(uint32_t a, uint32_t b) { return a < b ? a : b; }

static inline void tournament_set(uint32_t *tree, size_t leaves, size_t leaf, uint32_t rank) {
    size_t node = leaves + leaf;
    tree[node] = rank;
    for (node /= 2; node > 0; node /= 2) { tree[node] = lower_rank(tree[2 * node], tree[2 * node + 1]); }
}

static inline size_t tournament_leftmost(const uint32_t *tree, size_t leaves) {
    size_t node = 1;
    while (node < leaves) { node = 2 * node + (tree[2 * node] != tree[1]); }
    return node - leaves;
}

// Merges the symbols (size) of a word. tree (2 * leaves) is scratch; leaves is a power of two, size at least.
// Leaf i is the rank of symbol i with the next, TOKENIZER_NONE once i has been merged into the one before it.
static inline void merge_symbols(const Tokenizer *t, Symbol *symbols, uint32_t *tree, size_t leaves,
                                 size_t size) {
    for (size_t i = 0; i < leaves; i++) {
        bool pair = i + 1 < size;
        tree[leaves + i] = pair ? merge_rank(t, symbols[i].id, symbols[i + 1].id) : TOKENIZER_NONE;
    }
    for (size_t node = leaves - 1; node > 0; node--) {
        tree[node] = lower_rank(tree[2 * node], tree[2 * node + 1]);
    }
    while (tree[1] != TOKENIZER_NONE) {
        size_t left = tournament_leftmost(tree, leaves);
        Symbol *symbol = &symbols[left];
        size_t right = symbol->next, next = symbols[right].next;
        symbol->id = t->merged[tree[1]];
        symbol->next = next;
        tournament_set(tree, leaves, right, TOKENIZER_NONE);
        tournament_set(tree, leaves, left,
                       next < size ? merge_rank(t, symbol->id, symbols[next].id) : TOKENIZER_NONE);
        if (next < size) { symbols[next].previous = left; }
        if (left > 0) {
            size_t previous = symbol->previous;
            tournament_set(tree, leaves, previous, merge_rank(t, symbols[previous].id, symbol->id));
        }
    }
}

// Appends the tokens of a word, by its merges alone.
static inline bool merge_word(const Tokenizer *t, const char *word, size_t size, TokenBuffer *out,
                              Error *err) {
    enum { SHORT = 64 };
    Symbol short_symbols[SHORT], *symbols = short_symbols;
    uint32_t short_tree[2 * SHORT], *tree = short_tree;
    if (!token_buffer_reserve(out, size, err)) { return false; }
    size_t leaves = 1;
    while (leaves < size) { leaves *= 2; }
    if (size > SHORT) {
        symbols = (Symbol *)malloc(size * sizeof *symbols);
        tree = (uint32_t *)malloc(2 * leaves * sizeof *tree);
    }
    bool ok = symbols != NULL && tree != NULL;
    if (ok) {
        for (size_t i = 0; i < size; i++) {
            Symbol symbol = {t->byte_ids[(unsigned char)word[i]], i - 1, i + 1};
            symbols[i] = symbol;
        }
        merge_symbols(t, symbols, tree, leaves, size);
        for (size_t i = 0; i < size; i = symbols[i].next) { out->ids[out->length++] = symbols[i].id; }
    } else {
        fail(err, "out of memory: a word of %zu bytes without a break needs up to 40 times its size", size);
    }
    if (size > SHORT) {
        free(symbols);
        free(tree);
    }
    return ok;
}

// ---------------------------------------------------------------------------------------------
// Text to tokens

// The slot of the token with these bytes, or the empty slot where it would go.
static inline TokenizerWord *word_slot(const Tokenizer *t, const char *bytes, size_t size) {
    uint64_t hash = 0xCBF29CE484222325u;  // FNV-1a
    for (size_t i = 0; i < size; i++) { hash = (hash ^ (unsigned char)bytes[i]) * 0x100000001B3u; }
    size_t slot = (size_t)(hash ^ hash >> 32) & t->word_mask;
    for (; t->words[slot].id != TOKENIZER_NONE; slot = (slot + 1) & t->word_mask) {
        const TokenizerPiece *piece = &t->pieces[t->words[slot].id];
        if (piece->size == size && memcmp(piece->bytes, bytes, size) == 0) { break; }
    }
    return &t->words[slot];
}

// Appends the tokens of a word. Most words are one token, which tokenizer_load has found out.
static inline bool encode_word(const Tokenizer *t, const char *word, size_t size, TokenBuffer *out,
                               Error *err) {
    if (size <= t->longest_word) {
        const TokenizerWord *slot = word_slot(t, word, size);
        if (slot->id != TOKENIZER_NONE && slot->whole) {
            if (!token_buffer_reserve(out, 1, err)) { return false; }
            out->ids[out->length++] = slot->id;
            return true;
        }
    }
    return merge_word(t, word, size, out, err);
}

// The longest added token that begins at `at`, or NULL.
static inline const AddedToken *added_token_at(const Tokenizer *t, const char *at, const char *end) {
    unsigned char first = (unsigned char)*at;
    for (size_t i = t->added_begin[first]; i < t->added_begin[first + 1]; i++) {
        const AddedToken *added = &t->added[i];
        if (added->size <= (size_t)(end - at) && memcmp(added->content, at, added->size) == 0) {
            return added;
        }
    }
    return NULL;
}

// Appends the tokens of text in which there is no added token.
static inline bool encode_words(const Tokenizer *t, const char *at, const char *end, TokenBuffer *out,
                                Error *err) {
    while (at < end) {
        const char *word = at;
        at = word_end(word, end);
        if (!encode_word(t, word, (size_t)(at - word), out, err)) { return false; }
    }
    return true;
}

// Appends the tokens of `size` bytes of text to `out`. It can fail for want of memory alone, and then leaves
// `out` as it was.
static inline bool tokenizer_encode(const Tokenizer *t, const char *text, size_t size, TokenBuffer *out,
                                    Error *err) {
    size_t before = out->length, at = 0;
    while (at < size) {
        const AddedToken *added = NULL;
        size_t stop = at;
        while (stop < size && (added = added_token_at(t, text + stop, text + size)) == NULL) { stop++; }
        if (!encode_words(t, text + at, text + stop, out, err) || !token_buffer_reserve(out, 1, err)) {
            out->length = before;
            return false;
        }
        at = stop;
        if (added != NULL) {
            out->ids[out->length++] = added->id;
            at += added->size;
        }
    }
    return true;
}

// ---------------------------------------------------------------------------------------------
// Tokens to text

// The bytes of a token and their number; NULL if there is no such token. Text is the pieces of its tokens one
// after another. A single piece may end inside a character.
static inline const char *tokenizer_piece(const Tokenizer *t, uint32_t id, size_t *size) {
    *size = 0;
    if (id >= t->size || t->pieces[id].bytes == NULL) { return NULL; }
    *size = t->pieces[id].size;
    return t->pieces[id].bytes;
}

// Highest id + 1: what a model needs at least as its vocabulary size.
static inline size_t tokenizer_size(const Tokenizer *t) { return t->size; }

// The added token with this text, or NULL.
static inline AddedToken *added_token(const Tokenizer *t, const char *content, size_t size) {
    size_t first = size == 0 ? 0 : (unsigned char)*content;
    for (size_t i = t->added_begin[first]; i < t->added_begin[first + 1]; i++) {
        AddedToken *added = &t->added[i];
        if (added->size == size && memcmp(added->content, content, size) == 0) { return added; }
    }
    return NULL;
}

// The id of an added token, by its text; false if there is no such added token.
static inline bool tokenizer_special(const Tokenizer *t, const char *content, uint32_t *id) {
    const AddedToken *added = added_token(t, content, strlen(content));
    if (added != NULL) { *id = added->id; }
    return added != NULL;
}

static inline void tokenizer_free(Tokenizer *t) {
    free(t->text);
    free(t->pieces);
    free(t->merges);
    free(t->merged);
    free(t->words);
    free(t->added);
    memset(t, 0, sizeof *t);
}

// ---------------------------------------------------------------------------------------------
// Reading tokenizer.json, first its kind. What concerns batches and templates is not looked at: truncation,
// padding, post_processor.

static inline bool tokenizer_refuse(const Json *found, const char *where, const char *key,
                                    const char *expected, const char *source, Error *err) {
    char text[64], quoted[256];
    const Json *type = json_member(found, "type");
    const char *words = json_describe(text, type != NULL ? type : found);
    if (found != NULL && found->type == JSON_STRING) {  // whole, because patterns differ in the middle
        snprintf(quoted, sizeof quoted, "\"%.200s\"", found->string);
        words = quoted;
    }
    return fail(
        err,
        "%s: %s%s is %s, expected %s. Only byte-level BPE with the pattern of cl100k can be read, as OLMo "
        "2 has it; data/train_bpe.py makes such a file from any text.",
        source, where, key, words, expected);
}

// The member `key` of the object that is called `where` in messages must be this string.
static inline bool tokenizer_expect(const Json *object, const char *where, const char *key,
                                    const char *expected, const char *source, Error *err) {
    const Json *value = json_member(object, key);
    bool equal = value != NULL && value->type == JSON_STRING && strcmp(value->string, expected) == 0;
    return equal || tokenizer_refuse(value, where, key, expected, source, err);
}

// It must be absent, null, false or an empty string: a feature that is off.
static inline bool tokenizer_expect_off(const Json *object, const char *where, const char *key,
                                        const char *source, Error *err) {
    const Json *value = json_member(object, key);
    bool off = value == NULL || value->type == JSON_NULL || (value->type == JSON_BOOL && !value->boolean) ||
               (value->type == JSON_STRING && value->length == 0);
    return off || tokenizer_refuse(value, where, key, "null or false", source, err);
}

// A Split by the pattern that keeps its matches (Isolated, or Removed and inverted), then ByteLevel, which
// here only spells bytes as characters.
static inline bool tokenizer_check_pre_tokenizer(const Json *pre_tokenizer, const char *source, Error *err) {
    const char *where = "pre_tokenizer.", *first = "pre_tokenizer.pretokenizers[0].",
               *second = "pre_tokenizer.pretokenizers[1].";
    if (!tokenizer_expect(pre_tokenizer, where, "type", "Sequence", source, err)) { return false; }
    const Json *steps = json_member(pre_tokenizer, "pretokenizers");
    if (steps == NULL || steps->type != JSON_ARRAY || steps->count != 2) {
        return tokenizer_refuse(steps, where, "pretokenizers", "an array of two: Split, ByteLevel", source,
                                err);
    }
    const Json *split = json_first(steps), *bytes = json_next(split);
    const Json *pattern = json_member(split, "pattern"), *invert = json_member(split, "invert");
    const char *behavior = invert != NULL && invert->boolean ? "Removed" : "Isolated";
    const Json *use_regex = json_member(bytes, "use_regex");  // true unless it is said
    return tokenizer_expect(split, first, "type", "Split", source, err) &&
           tokenizer_expect(pattern, first, "Regex", TOKENIZER_PATTERN, source, err) &&
           tokenizer_expect(split, first, "behavior", behavior, source, err) &&
           tokenizer_expect(bytes, second, "type", "ByteLevel", source, err) &&
           tokenizer_expect_off(bytes, second, "add_prefix_space", source, err) &&
           tokenizer_expect_off(bytes, second, "use_regex", source, err) &&
           (use_regex != NULL || tokenizer_refuse(use_regex, second, "use_regex", "false", source, err));
}

static inline bool tokenizer_check_kind(const Json *root, const char *source, Error *err) {
    const char *off[] = {"dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix",
                         "byte_fallback"};
    const Json *model = json_member(root, "model");
    if (!tokenizer_expect(model, "model.", "type", "BPE", source, err)) { return false; }
    for (size_t i = 0; i < sizeof off / sizeof *off; i++) {
        if (!tokenizer_expect_off(model, "model.", off[i], source, err)) { return false; }
    }
    return tokenizer_expect_off(root, "", "normalizer", source, err) &&
           tokenizer_check_pre_tokenizer(json_member(root, "pre_tokenizer"), source, err) &&
           tokenizer_expect(json_member(root, "decoder"), "decoder.", "type", "ByteLevel", source, err);
}

// ---------------------------------------------------------------------------------------------
// Reading tokenizer.json: tokens and merges

// The byte that a character stands for in model.vocab and model.merges, or -1. In GPT-2's table a printable
// character of Latin-1 is its own byte, and the 68 bytes left are U+0100 onwards, in order.
static inline int byte_of_character(uint32_t code) {
    if ((code >= 0x21 && code <= 0x7E) || (code >= 0xA1 && code <= 0xFF && code != 0xAD)) {
        return (int)code;
    }
    if (code >= 0x100 && code <= 0x120) { return (int)code - 0x100; }         // 0x00 .. 0x20
    if (code >= 0x121 && code <= 0x142) { return (int)code - 0x121 + 0x7F; }  // 0x7F .. 0xA0
    return code == 0x143 ? 0xAD : -1;
}

// Decodes a token of model.vocab to `out` (room for `length` bytes). False if a character stands for no byte.
static inline bool decode_byte_characters(const char *key, size_t length, char *out, size_t *size) {
    *size = 0;
    for (size_t i = 0; i < length;) {
        size_t character = utf8_length(key + i, length - i);
        int byte = byte_of_character(utf8_decode(key + i, character));
        if (byte < 0) { return false; }
        out[(*size)++] = (char)byte;
        i += character;
    }
    return true;
}

static inline bool tokenizer_read_id(const Json *value, const char *token, uint32_t *id, const char *source,
                                     Error *err) {
    char text[64];
    if (value == NULL || !value->integral || value->integer < 0 || value->integer >= TOKENIZER_MAX_IDS) {
        return fail(err, "%s: the token \"%.100s\" has the id %s, expected a whole number from 0 to %d",
                    source, token, json_describe(text, value), TOKENIZER_MAX_IDS - 1);
    }
    *id = (uint32_t)value->integer;
    return true;
}

// The slots of a hash table for that many entries: half of them stay empty, and a mask finds one.
static inline size_t table_slots(size_t count) {
    size_t slots = 2;
    while (slots < 2 * count) { slots *= 2; }
    return slots;
}

// Gives an id its piece. The bytes belong to t->text.
static inline bool tokenizer_place(Tokenizer *t, uint32_t id, const char *bytes, size_t size,
                                   const char *source, Error *err) {
    if (id >= t->capacity) {
        size_t capacity = id + 1 > 2 * t->capacity ? id + 1 : 2 * t->capacity;
        TokenizerPiece *pieces = (TokenizerPiece *)realloc(t->pieces, capacity * sizeof *pieces);
        if (pieces == NULL) { return fail(err, "%s: out of memory for %zu tokens", source, capacity); }
        memset(pieces + t->capacity, 0, (capacity - t->capacity) * sizeof *pieces);
        t->pieces = pieces;
        t->capacity = capacity;
    }
    TokenizerPiece *piece = &t->pieces[id];
    if (piece->bytes != NULL) {
        return fail(
            err,
            "%s: the id %u is given to two tokens, \"%.*s\" and \"%.*s\", expected one token for each id",
            source, (unsigned)id, (int)piece->size, piece->bytes, (int)size, bytes);
    }
    piece->bytes = bytes;
    piece->size = size;
    if (t->size <= id) { t->size = (size_t)id + 1; }
    return true;
}

// The order of t->added: by first byte, the longer first.
static inline int compare_added(const void *left, const void *right) {
    const AddedToken *a = (const AddedToken *)left, *b = (const AddedToken *)right;
    if (*a->content != *b->content) {
        return (unsigned char)*a->content < (unsigned char)*b->content ? -1 : 1;
    }
    if (a->size != b->size) { return a->size > b->size ? -1 : 1; }
    return memcmp(a->content, b->content, a->size);
}

static inline bool tokenizer_read_added(Tokenizer *t, const Json *list, const char *source, Error *err) {
    const char *off[] = {"single_word", "lstrip", "rstrip", "normalized"};
    t->added = (AddedToken *)allocate(list->count, sizeof *t->added, "the list of added tokens", err);
    if (t->added == NULL) { return false; }
    for (const Json *entry = json_first(list); entry != NULL; entry = json_next(entry)) {
        char where[64];
        snprintf(where, sizeof where, "added_tokens[%zu].", t->added_count);
        const Json *content = json_member(entry, "content");
        if (content == NULL || content->type != JSON_STRING || content->length == 0) {
            return tokenizer_refuse(content, where, "content", "a text", source, err);
        }
        for (size_t i = 0; i < sizeof off / sizeof *off; i++) {
            if (!tokenizer_expect_off(entry, where, off[i], source, err)) { return false; }
        }
        AddedToken *added = &t->added[t->added_count++];
        if (!tokenizer_read_id(json_member(entry, "id"), content->string, &added->id, source, err)) {
            return false;
        }
        added->content = t->text + t->text_size;
        added->size = content->length;
        memcpy(t->text + t->text_size, content->string, content->length);
        t->text_size += content->length;
    }
    return true;
}

static inline bool tokenizer_sort_added(Tokenizer *t, const char *source, Error *err) {
    qsort(t->added, t->added_count, sizeof *t->added, compare_added);
    for (size_t i = 0; i < t->added_count; i++) {
        const AddedToken *added = &t->added[i];
        if (i > 0 && compare_added(&t->added[i - 1], added) == 0) {
            return fail(err, "%s: added_tokens has \"%.*s\" twice, expected every text once", source,
                        (int)added->size, added->content);
        }
        t->added_begin[(unsigned char)*added->content + 1]++;
    }
    for (size_t first = 0; first < 256; first++) { t->added_begin[first + 1] += t->added_begin[first]; }
    return true;
}

// One entry of model.vocab.
static inline bool tokenizer_read_token(Tokenizer *t, const Json *entry, const char *source, Error *err) {
    uint32_t id;
    if (!tokenizer_read_id(entry, entry->key, &id, source, err)) { return false; }
    char *bytes = t->text + t->text_size;
    size_t size;
    bool spelled = decode_byte_characters(entry->key, entry->key_length, bytes, &size);
    AddedToken *added = added_token(t, entry->key, entry->key_length);
    if (added == NULL && !spelled) {
        return fail(err,
                    "%s: model.vocab has \"%s\", expected the characters of a byte-level vocabulary alone",
                    source, entry->key);
    }
    if (added != NULL) {
        if (added->id != id) {
            return fail(
                err, "%s: \"%s\" has the id %u in added_tokens and %u in model.vocab, expected the same one",
                source, entry->key, (unsigned)added->id, (unsigned)id);
        }
        added->in_vocabulary = true;
        // an added token is its own text: where its characters spell other bytes, no merges may lead to it
        if (!spelled || size != added->size || memcmp(bytes, added->content, size) != 0) {
            return tokenizer_place(t, id, added->content, added->size, source, err);
        }
    }
    t->text_size += size;
    if (!tokenizer_place(t, id, bytes, size, source, err)) { return false; }
    word_slot(t, bytes, size)->id = id;
    return true;
}

static inline bool tokenizer_read_vocabulary(Tokenizer *t, const Json *vocabulary, const char *source,
                                             Error *err) {
    size_t slots = table_slots(vocabulary->count);
    t->words = (TokenizerWord *)allocate(slots, sizeof *t->words, "the tokenizer's vocabulary", err);
    if (t->words == NULL) { return false; }
    t->word_mask = slots - 1;
    for (size_t i = 0; i < slots; i++) { t->words[i].id = TOKENIZER_NONE; }
    for (const Json *entry = json_first(vocabulary); entry != NULL; entry = json_next(entry)) {
        if (!tokenizer_read_token(t, entry, source, err)) { return false; }
    }
    for (int byte = 0; byte < 256; byte++) {
        char c = (char)byte;
        t->byte_ids[byte] = word_slot(t, &c, 1)->id;
        if (t->byte_ids[byte] == TOKENIZER_NONE) {
            return fail(err,
                        "%s: model.vocab has no token for the byte 0x%02X, expected one for each of the 256",
                        source, byte);
        }
    }
    return true;
}

// The added tokens that are not in model.vocab: the `tokenizers` library numbers them itself, after all
// others and in the order of the list, so the file's ids must be those.
static inline bool tokenizer_place_added(Tokenizer *t, const Json *list, size_t next_id, const char *source,
                                         Error *err) {
    for (const Json *entry = json_first(list); entry != NULL; entry = json_next(entry)) {
        const Json *content = json_member(entry, "content");
        const AddedToken *added = added_token(t, content->string, content->length);
        if (!added->in_vocabulary) {
            if (added->id != next_id) {
                return fail(
                    err,
                    "%s: the added token \"%s\", which is not in model.vocab, has the id %u, expected %zu",
                    source, content->string, (unsigned)added->id, next_id);
            }
            if (!tokenizer_place(t, added->id, added->content, added->size, source, err)) { return false; }
        }
        if (next_id <= added->id) { next_id = (size_t)added->id + 1; }
    }
    return true;
}

// A merge's two halves: "a b" or ["a", "b"]. Their bytes go to left, one after the other.
static inline bool decode_merge(const Json *merge, char *left, size_t *left_size, size_t *right_size) {
    if (merge->type == JSON_STRING) {
        const char *space = (const char *)memchr(merge->string, ' ', merge->length);
        if (space == NULL) { return false; }
        size_t length = (size_t)(space - merge->string);
        return decode_byte_characters(merge->string, length, left, left_size) &&
               decode_byte_characters(space + 1, merge->length - length - 1, left + *left_size, right_size);
    }
    if (merge->type != JSON_ARRAY || merge->count != 2) { return false; }
    const Json *first = json_first(merge), *second = json_next(first);
    return first->type == JSON_STRING && second->type == JSON_STRING &&
           decode_byte_characters(first->string, first->length, left, left_size) &&
           decode_byte_characters(second->string, second->length, left + *left_size, right_size);
}

static inline bool tokenizer_read_merge(Tokenizer *t, const Json *entry, uint32_t rank, const char *source,
                                        Error *err) {
    char *bytes = t->text + t->text_size, text[64];  // what is left of the text is long enough for any string
    size_t left, right;                              // bytes of each half
    TokenizerMerge merge = {TOKENIZER_NONE, TOKENIZER_NONE, rank};
    t->merged[rank] = TOKENIZER_NONE;
    if (decode_merge(entry, bytes, &left, &right)) {
        merge.left = word_slot(t, bytes, left)->id;
        merge.right = word_slot(t, bytes + left, right)->id;
        t->merged[rank] = word_slot(t, bytes, left + right)->id;
    }
    if (merge.left == TOKENIZER_NONE || merge.right == TOKENIZER_NONE || t->merged[rank] == TOKENIZER_NONE) {
        return fail(err, "%s: model.merges[%u] is %s, expected two tokens of model.vocab that make a third",
                    source, (unsigned)rank, json_describe(text, entry));
    }
    TokenizerMerge *slot = &t->merges[merge_slot(t, merge.left, merge.right)];
    if (slot->rank != TOKENIZER_NONE) {
        return fail(err,
                    "%s: model.merges[%u] is the pair of model.merges[%u] again, expected every pair once",
                    source, (unsigned)rank, (unsigned)slot->rank);
    }
    *slot = merge;
    return true;
}

static inline bool tokenizer_read_merges(Tokenizer *t, const Json *list, const char *source, Error *err) {
    size_t slots = table_slots(list->count);
    t->merges = (TokenizerMerge *)allocate(slots, sizeof *t->merges, "the tokenizer's merges", err);
    t->merged = (uint32_t *)allocate(list->count, sizeof *t->merged, "the tokenizer's merges", err);
    if (t->merges == NULL || t->merged == NULL) { return false; }
    t->merge_mask = slots - 1;
    for (size_t i = 0; i < slots; i++) { t->merges[i].rank = TOKENIZER_NONE; }
    uint32_t rank = 0;
    for (const Json *entry = json_first(list); entry != NULL; entry = json_next(entry)) {
        if (!tokenizer_read_merge(t, entry, rank++, source, err)) { return false; }
    }
    return true;
}

// Merges every token's bytes to see which are a token whole. With ignore_merges all are, by decree.
static inline bool tokenizer_find_whole_words(Tokenizer *t, bool ignore_merges, Error *err) {
    TokenBuffer tokens = {NULL, 0, 0};
    bool ok = true;
    for (size_t slot = 0; ok && slot <= t->word_mask; slot++) {
        TokenizerWord *word = &t->words[slot];
        if (word->id == TOKENIZER_NONE) { continue; }
        TokenizerPiece piece = t->pieces[word->id];
        tokens.length = 0;
        ok = merge_word(t, piece.bytes, piece.size, &tokens, err);
        word->whole = ok && (ignore_merges || (tokens.length == 1 && tokens.ids[0] == word->id));
        if (word->whole && piece.size > t->longest_word) { t->longest_word = piece.size; }
    }
    free(tokens.ids);
    return ok;
}

static inline bool tokenizer_read(Tokenizer *t, const Json *root, const char *source, Error *err) {
    Json none;  // what an absent list of added tokens stands for
    memset(&none, 0, sizeof none);
    none.type = JSON_ARRAY;
    const Json *model = json_member(root, "model"), *added = json_member(root, "added_tokens");
    const Json *vocabulary = json_member(model, "vocab"), *merges = json_member(model, "merges");
    bool ignore_merges = false;
    if (added == NULL) { added = &none; }
    if (!tokenizer_check_kind(root, source, err)) { return false; }
    if (vocabulary == NULL || vocabulary->type != JSON_OBJECT) {
        return tokenizer_refuse(vocabulary, "model.", "vocab", "an object", source, err);
    }
    if (merges == NULL || merges->type != JSON_ARRAY) {
        return tokenizer_refuse(merges, "model.", "merges", "an array", source, err);
    }
    if (added->type != JSON_ARRAY) {
        return tokenizer_refuse(added, "", "added_tokens", "an array", source, err);
    }
    return json_get_bool(model, "ignore_merges", false, &ignore_merges, source, err) &&
           tokenizer_read_added(t, added, source, err) && tokenizer_sort_added(t, source, err) &&
           tokenizer_read_vocabulary(t, vocabulary, source, err) &&
           tokenizer_place_added(t, added, vocabulary->count, source, err) &&
           tokenizer_read_merges(t, merges, source, err) && tokenizer_find_whole_words(t, ignore_merges, err);
}

// Reads a tokenizer.json from memory. `source` names it in messages. Release with tokenizer_free; a failure
// leaves nothing to release.
static inline bool tokenizer_parse(Tokenizer *t, const char *text, size_t size, const char *source,
                                   Error *err) {
    memset(t, 0, sizeof *t);
    JsonDocument document;
    if (size >= UINT32_MAX) { return fail(err, "%s: has %zu bytes, expected less than 4 GB", source, size); }
    if (!json_parse(&document, text, size, source, err)) { return false; }
    t->text = (char *)malloc(size);  // enough: no string is longer than in the file, and its quotes go
    bool ok = t->text != NULL || fail(err, "%s: out of memory for %zu bytes", source, size);
    ok = ok && tokenizer_read(t, document.root, source, err);
    json_free(&document);
    if (!ok) { tokenizer_free(t); }
    return ok;
}

// Reads a tokenizer.json, or the one in a directory.
static inline bool tokenizer_load(Tokenizer *t, const char *path, Error *err) {
    memset(t, 0, sizeof *t);
    char *file_path = format_text(path_is_directory(path) ? "%s/tokenizer.json" : "%s", path);
    MappedFile file;
    if (file_path == NULL) { return fail(err, "%s: out of memory", path); }
    bool ok = file_map(&file, file_path, err);
    if (ok) {
        ok = tokenizer_parse(t, file.data, file.size, file_path, err);
        file_unmap(&file);
    }
    free(file_path);
    return ok;
}

#endif
