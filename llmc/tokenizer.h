// tokenizer.h: text to token ids and back, with the tokenizer.json of a model directory.
//
// A token is an id; its piece is the few bytes that it represents. Text becomes tokens in three steps:
//
//   1. Added tokens such as <|endoftext|> are found in the raw text; each is one id.
//   2. The text between them is cut into words by the pattern of cl100k (tokenizer_words.h).
//   3. Each word is merged on its own (byte-pair encoding). It starts as one token per byte. Then neighbours
//      become one token, always the pair that comes first in the list of merges, until no pair is in it.
//
// The ids are those of Hugging Face's `tokenizers`, encode(text, add_special_tokens=False). Every string of
// bytes is the concatenation of the pieces of its tokens.
#ifndef LLMC_TOKENIZER_H
#define LLMC_TOKENIZER_H

#include "json.h"
#include "tokenizer_words.h"
#include "utils.h"

// ---------------------------------------------------------------------------------------------
// what others use. A Tokenizer does not change after it is loaded, so threads may share one.

typedef struct Tokenizer Tokenizer;

// A growing list of ids. Starts as all zeros; release it with free(ids).
typedef struct {
    uint32_t *ids;
    size_t length, capacity;
} TokenBuffer;

// Reads a tokenizer.json, or the one in a directory. Release it with tokenizer_free; a failure leaves nothing
// to release. Any other kind of tokenizer is refused by name.
static inline bool tokenizer_load(Tokenizer *t, const char *path, Error *err);

// The same from memory; `source` names the text in messages.
static inline bool tokenizer_parse(Tokenizer *t, const char *text, size_t size, const char *source,
                                   Error *err);
static inline void tokenizer_free(Tokenizer *t);

// Appends the tokens of `size` bytes of text to `out`. It fails only if memory runs out, and then leaves
// `out` as it was.
static inline bool tokenizer_encode(const Tokenizer *t, const char *text, size_t size, TokenBuffer *out,
                                    Error *err);

// A part of a text: its bytes from `begin` up to `end`.
typedef struct {
    size_t begin, end;
} TextSpan;

// The same, but no added token is looked for in the spans `plain` (count), which are in the order of the text:
// there <|endoftext|> is text like any other. So a text can hold what somebody typed.
static inline bool tokenizer_encode_around(const Tokenizer *t, const char *text, size_t size,
                                           const TextSpan *plain, size_t count, TokenBuffer *out, Error *err);

// The bytes of a token and their number; NULL if there is no such token. Text is the concatenation of the
// pieces of its tokens. A single piece may end inside a character.
static inline const char *tokenizer_piece(const Tokenizer *t, uint32_t id, size_t *size);

// Highest id + 1: the smallest vocabulary size that a model of this tokenizer can have.
static inline size_t tokenizer_size(const Tokenizer *t);

// The id of an added token, by its text; false if there is no such added token.
static inline bool tokenizer_special(const Tokenizer *t, const char *content, uint32_t *id);

// Makes room for `more` ids.
static inline bool token_buffer_reserve(TokenBuffer *buffer, size_t more, Error *err);

// ---------------------------------------------------------------------------------------------
// the tables

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
    uint32_t rank;         // place in the list of merges, the lowest first; TOKENIZER_NONE: an empty slot
} TokenizerMerge;

// `tokenizers` searches the text for added tokens twice: first for those with "normalized": false, then, in
// what is left between them, for the others. Without a normalizer only that order is different. Where two
// added tokens overlap, the first search wins, however early the other begins.
enum { ADDED_RAW, ADDED_NORMALIZED, ADDED_SEARCHES };

typedef struct {
    const char *content;
    size_t size;  // bytes of content
    uint32_t id;
    int search;          // which of the two finds it
    bool in_vocabulary;  // it is in model.vocab too
} AddedToken;

struct Tokenizer {
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

    AddedToken *added;  // (added_count) by search, then by first byte, the longer first
    size_t added_count;
    // by search and first byte: where those tokens begin in `added`
    size_t added_begin[ADDED_SEARCHES * 256 + 1];
};

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
// Merging a word: always the pair of lowest rank, and the leftmost of equals. With the merges "b c", "a b",
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

// The position of a pair in the list of merges, or TOKENIZER_NONE.
static inline uint32_t merge_rank(const Tokenizer *t, uint32_t left, uint32_t right) {
    return t->merges[merge_slot(t, left, right)].rank;
}

// A token of the word, in a doubly linked list. Symbols are numbered by the position of their first byte.
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

// Appends the tokens of a word, using only the merges.
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
        fail(err, "out of memory: a word of %zu bytes without a break takes up to 40 times its size", size);
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

// Appends the tokens of a word. Most words are one token, and tokenizer_load has marked those.
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

// Where in `added` the tokens of one search with this first byte begin; they end where those of the next slot
// begin.
static inline size_t added_slot(int search, char first) {
    return (size_t)search * 256 + (unsigned char)first;
}

// The longest added token of a search that begins at `at`, or NULL.
static inline const AddedToken *added_token_at(const Tokenizer *t, int search, const char *at,
                                               const char *end) {
    size_t slot = added_slot(search, *at);
    for (size_t i = t->added_begin[slot]; i < t->added_begin[slot + 1]; i++) {
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

// A text, and the spans of it in which added tokens are not looked for.
typedef struct {
    const char *text;
    const TextSpan *plain;  // (count)
    size_t count;
} EncodedText;

// The first added token of a search in [*at, end), and in *at where it begins; NULL and `end` if there is none.
static inline const AddedToken *find_added_token(const Tokenizer *t, int search, const EncodedText *whole,
                                                 const char **at, const char *end) {
    const char *stop = *at;
    for (size_t i = 0; stop < end; i++) {
        // Up to the next plain span, which an added token must not reach into; then behind it.
        const char *limit = end, *behind = end;
        if (i < whole->count && whole->text + whole->plain[i].begin < end) {
            limit = whole->text + whole->plain[i].begin;
            behind = whole->text + whole->plain[i].end;
        }
        for (; stop < limit; stop++) {
            const AddedToken *added = added_token_at(t, search, stop, limit);
            if (added != NULL) {
                *at = stop;
                return added;
            }
        }
        if (stop < behind) { stop = behind; }
    }
    *at = end;
    return NULL;
}

// Appends the tokens of text in which the earlier searches have found no added token.
static inline bool encode_part(const Tokenizer *t, int search, const EncodedText *whole, const char *at,
                               const char *end, TokenBuffer *out, Error *err) {
    if (search == ADDED_SEARCHES) { return encode_words(t, at, end, out, err); }
    if (t->added_begin[search * 256] == t->added_begin[(search + 1) * 256]) {
        return encode_part(t, search + 1, whole, at, end, out, err);
    }
    while (at < end) {
        const char *stop = at;
        const AddedToken *added = find_added_token(t, search, whole, &stop, end);
        if (!encode_part(t, search + 1, whole, at, stop, out, err)) { return false; }
        at = stop;
        if (added != NULL) {
            if (!token_buffer_reserve(out, 1, err)) { return false; }
            out->ids[out->length++] = added->id;
            at += added->size;
        }
    }
    return true;
}

static inline bool tokenizer_encode_around(const Tokenizer *t, const char *text, size_t size,
                                           const TextSpan *plain, size_t count, TokenBuffer *out,
                                           Error *err) {
    const EncodedText whole = {text, plain, count};
    const size_t before = out->length;
    if (size == 0) { return true; }
    if (encode_part(t, ADDED_RAW, &whole, text, text + size, out, err)) { return true; }
    out->length = before;
    return false;
}

static inline bool tokenizer_encode(const Tokenizer *t, const char *text, size_t size, TokenBuffer *out,
                                    Error *err) {
    return tokenizer_encode_around(t, text, size, NULL, 0, out, err);
}

// ---------------------------------------------------------------------------------------------
// Tokens to text

static inline const char *tokenizer_piece(const Tokenizer *t, uint32_t id, size_t *size) {
    *size = 0;
    if (id >= t->size || t->pieces[id].bytes == NULL) { return NULL; }
    *size = t->pieces[id].size;
    return t->pieces[id].bytes;
}

static inline size_t tokenizer_size(const Tokenizer *t) { return t->size; }

// The added token with this text, or NULL.
static inline AddedToken *added_token(const Tokenizer *t, const char *content, size_t size) {
    for (int search = 0; search < ADDED_SEARCHES && size > 0; search++) {
        size_t slot = added_slot(search, *content);
        for (size_t i = t->added_begin[slot]; i < t->added_begin[slot + 1]; i++) {
            AddedToken *added = &t->added[i];
            if (added->size == size && memcmp(added->content, content, size) == 0) { return added; }
        }
    }
    return NULL;
}

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

#include "tokenizer_read.h"

#endif
