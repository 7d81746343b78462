// tokenizer_read.h: reads a tokenizer.json into the tables of tokenizer.h. First the kind is checked, then
// tokens and merges are read. Settings for batches and templates are ignored: truncation, padding,
// post_processor.
#ifndef LLMC_TOKENIZER_READ_H
#define LLMC_TOKENIZER_READ_H

#include "files.h"
#include "json.h"
#include "tokenizer.h"
#include "utf8.h"

static inline bool tokenizer_read(Tokenizer *t, const Json *root, const char *source, Error *err);

static inline bool tokenizer_load(Tokenizer *t, const char *path, Error *err) {
    memset(t, 0, sizeof *t);
    char *file_path = format_text(path_is_directory(path) ? "%s/tokenizer.json" : "%s", path);
    MappedFile file;
    if (file_path == NULL) { return fail(err, "%s: out of memory", path); }
    bool ok = file_map(&file, file_path, err);
    if (ok) {
        const size_t mark = utf8_mark(file.data, file.size);
        const char *text = mark > 0 ? file.data + mark : file.data;
        ok = tokenizer_parse(t, text, file.size - mark, file_path, err);
        file_unmap(&file);
    }
    free(file_path);
    return ok;
}

static inline bool tokenizer_parse(Tokenizer *t, const char *text, size_t size, const char *source,
                                   Error *err) {
    memset(t, 0, sizeof *t);
    JsonDocument document;
    if (size >= UINT32_MAX) { return fail(err, "%s: has %zu bytes, expected less than 4 GB", source, size); }
    if (!json_parse(&document, text, size, source, err)) { return false; }
    t->text = (char *)malloc(size);  // enough: a decoded string is shorter than its source with the quotes
    bool ok = t->text != NULL ? tokenizer_read(t, document.root, source, err)
                              : fail(err, "%s: out of memory for %zu bytes", source, size);
    json_free(&document);
    if (!ok) { tokenizer_free(t); }
    return ok;
}

// ---------------------------------------------------------------------------------------------
// the kind: whatever is not byte-level BPE with the pattern of cl100k is refused

static inline bool tokenizer_refuse(const Json *found, const char *where, const char *key,
                                    const char *expected, const char *source, Error *err) {
    char text[64], quoted[256];
    const Json *type = json_member(found, "type");
    const char *words = json_describe(text, type != NULL ? type : found);
    if (found != NULL && found->type == JSON_STRING) {  // whole, because patterns differ in the middle
        snprintf(quoted, sizeof quoted, "\"%.200s\"", found->string);
        words = quoted;
    }
    return fail(err,
                "%s: %s%s is %s, expected %s. Only byte-level BPE with the pattern of cl100k can be read, "
                "which is what "
                "OLMo 2 uses; data/train_bpe.py makes such a file from any text.",
                source, where, key, words, expected);
}

// The member `key` must be this string. `where` names its object in messages.
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
    const Json *use_regex = json_member(bytes, "use_regex");  // absent means true
    if (!tokenizer_expect(split, first, "type", "Split", source, err)) { return false; }
    if (!tokenizer_expect(pattern, first, "Regex", TOKENIZER_PATTERN, source, err)) { return false; }
    if (!tokenizer_expect(split, first, "behavior", behavior, source, err)) { return false; }
    if (!tokenizer_expect(bytes, second, "type", "ByteLevel", source, err)) { return false; }
    if (!tokenizer_expect_off(bytes, second, "add_prefix_space", source, err)) { return false; }
    if (use_regex == NULL) { return tokenizer_refuse(use_regex, second, "use_regex", "false", source, err); }
    return tokenizer_expect_off(bytes, second, "use_regex", source, err);
}

static inline bool tokenizer_check_kind(const Json *root, const char *source, Error *err) {
    const char *off[] = {"dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix",
                         "byte_fallback"};
    const Json *model = json_member(root, "model");
    if (!tokenizer_expect(model, "model.", "type", "BPE", source, err)) { return false; }
    for (size_t i = 0; i < sizeof off / sizeof *off; i++) {
        if (!tokenizer_expect_off(model, "model.", off[i], source, err)) { return false; }
    }
    if (!tokenizer_expect_off(root, "", "normalizer", source, err)) { return false; }
    if (!tokenizer_check_pre_tokenizer(json_member(root, "pre_tokenizer"), source, err)) { return false; }
    return tokenizer_expect(json_member(root, "decoder"), "decoder.", "type", "ByteLevel", source, err);
}

// ---------------------------------------------------------------------------------------------
// tokens and merges

// The byte that a character spells in model.vocab and model.merges, or -1. In GPT-2's table a printable
// character of Latin-1 is its own byte, and the other 68 bytes are U+0100 onwards, in order.
static inline int byte_of_character(uint32_t code) {
    if ((code >= 0x21 && code <= 0x7E) || (code >= 0xA1 && code <= 0xFF && code != 0xAD)) {
        return (int)code;
    }
    if (code >= 0x100 && code <= 0x120) { return (int)code - 0x100; }         // 0x00 .. 0x20
    if (code >= 0x121 && code <= 0x142) { return (int)code - 0x121 + 0x7F; }  // 0x7F .. 0xA0
    return code == 0x143 ? 0xAD : -1;
}

// Decodes a token of model.vocab to `out` (room for `length` bytes). False if a character spells no byte.
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

// Slots of a hash table for `count` entries: a power of two, at least half of them empty.
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

// The order of t->added: by search, then by first byte, the longer first.
static inline int compare_added(const void *left, const void *right) {
    const AddedToken *a = (const AddedToken *)left, *b = (const AddedToken *)right;
    if (a->search != b->search) { return a->search < b->search ? -1 : 1; }
    if (*a->content != *b->content) {
        return (unsigned char)*a->content < (unsigned char)*b->content ? -1 : 1;
    }
    if (a->size != b->size) { return a->size > b->size ? -1 : 1; }
    return memcmp(a->content, b->content, a->size);
}

// One entry of added_tokens, appended to t->added. Its text goes to t->text.
static inline bool tokenizer_read_added_token(Tokenizer *t, const Json *entry, const char *source,
                                              Error *err) {
    const char *off[] = {"single_word", "lstrip", "rstrip"};
    char where[64];
    bool normalized = false;
    snprintf(where, sizeof where, "added_tokens[%zu].", t->added_count);
    const Json *content = json_member(entry, "content");
    if (content == NULL || content->type != JSON_STRING || content->length == 0) {
        return tokenizer_refuse(content, where, "content", "a text", source, err);
    }
    for (size_t i = 0; i < sizeof off / sizeof *off; i++) {
        if (!tokenizer_expect_off(entry, where, off[i], source, err)) { return false; }
    }
    if (!json_get_bool(entry, "normalized", false, &normalized, source, err)) { return false; }
    AddedToken *added = &t->added[t->added_count++];
    if (!tokenizer_read_id(json_member(entry, "id"), content->string, &added->id, source, err)) {
        return false;
    }
    added->search = normalized ? ADDED_NORMALIZED : ADDED_RAW;
    added->content = t->text + t->text_size;
    added->size = content->length;
    memcpy(t->text + t->text_size, content->string, content->length);
    t->text_size += content->length;
    return true;
}

static inline bool tokenizer_read_added(Tokenizer *t, const Json *list, const char *source, Error *err) {
    t->added = (AddedToken *)allocate(list->count, sizeof *t->added, "the list of added tokens", err);
    if (t->added == NULL) { return false; }
    for (const Json *entry = json_first(list); entry != NULL; entry = json_next(entry)) {
        if (!tokenizer_read_added_token(t, entry, source, err)) { return false; }
    }
    qsort(t->added, t->added_count, sizeof *t->added, compare_added);
    for (size_t i = 0; i < t->added_count; i++) {
        t->added_begin[added_slot(t->added[i].search, *t->added[i].content) + 1]++;
    }
    for (size_t slot = 0; slot < ADDED_SEARCHES * 256; slot++) {
        t->added_begin[slot + 1] += t->added_begin[slot];
    }
    return true;
}

// Every added token has a text of its own.
static inline bool tokenizer_check_added(const Tokenizer *t, const char *source, Error *err) {
    for (size_t i = 0; i < t->added_count; i++) {
        const AddedToken *added = &t->added[i];
        if (added_token(t, added->content, added->size) != added) {
            return fail(err, "%s: added_tokens has \"%.*s\" twice, expected every text once", source,
                        (int)added->size, added->content);
        }
    }
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
        return fail(err, "%s: model.vocab has \"%s\", expected only characters of a byte-level vocabulary",
                    source, entry->key);
    }
    if (added != NULL) {
        if (added->id != id) {
            return fail(
                err, "%s: \"%s\" has the id %u in added_tokens and %u in model.vocab, expected the same one",
                source, entry->key, (unsigned)added->id, (unsigned)id);
        }
        added->in_vocabulary = true;
        // an added token is its own text: if its characters spell other bytes, no merge may lead to it
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

// The added tokens that are not in model.vocab. `tokenizers` numbers them itself, after all others and in the
// order of the list, so the file's ids must be those.
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

// The two halves of a merge, "a b" or ["a", "b"]. Their bytes go to `left`, one after the other.
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
    char *bytes = t->text + t->text_size, text[64];  // the rest of t->text has room for any string
    size_t left, right;                              // bytes of each half
    TokenizerMerge merge = {TOKENIZER_NONE, TOKENIZER_NONE, rank};
    t->merged[rank] = TOKENIZER_NONE;
    if (decode_merge(entry, bytes, &left, &right)) {
        merge.left = word_slot(t, bytes, left)->id;
        merge.right = word_slot(t, bytes + left, right)->id;
        t->merged[rank] = word_slot(t, bytes, left + right)->id;
    }
    if (merge.left == TOKENIZER_NONE || merge.right == TOKENIZER_NONE || t->merged[rank] == TOKENIZER_NONE) {
        return fail(
            err,
            "%s: model.merges[%u] is %s, expected two tokens of model.vocab whose concatenation is a third",
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

// Merges the bytes of every token, to see which words become a single token. With ignore_merges all do.
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

// ---------------------------------------------------------------------------------------------
// the whole

static inline bool tokenizer_read(Tokenizer *t, const Json *root, const char *source, Error *err) {
    Json none;  // in place of an absent list of added tokens
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
    if (!json_get_bool(model, "ignore_merges", false, &ignore_merges, source, err)) { return false; }
    if (!tokenizer_read_added(t, added, source, err)) { return false; }
    if (!tokenizer_check_added(t, source, err)) { return false; }
    if (!tokenizer_read_vocabulary(t, vocabulary, source, err)) { return false; }
    if (!tokenizer_place_added(t, added, vocabulary->count, source, err)) { return false; }
    if (!tokenizer_read_merges(t, merges, source, err)) { return false; }
    return tokenizer_find_whole_words(t, ignore_merges, err);
}

#endif
