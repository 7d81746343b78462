// json_read.h: the reader of json.h, which has its contract.
#ifndef LLMC_JSON_READ_H
#define LLMC_JSON_READ_H

#include "files.h"
#include "json.h"
#include "utf8.h"

// ---------------------------------------------------------------------------------------------
// escapes, used here and in documents_line.h

// The hexadecimal digits at s, four at most, and not beyond n. Returns their number.
static inline size_t json_hex_digits(const char *s, size_t n, uint32_t *value) {
    size_t i = 0;
    *value = 0;
    for (; i < 4 && i < n; i++) {
        uint32_t digit;
        if (s[i] >= '0' && s[i] <= '9') {
            digit = (uint32_t)(s[i] - '0');
        } else if (s[i] >= 'a' && s[i] <= 'f') {
            digit = (uint32_t)(s[i] - 'a' + 10);
        } else if (s[i] >= 'A' && s[i] <= 'F') {
            digit = (uint32_t)(s[i] - 'A' + 10);
        } else {
            break;
        }
        *value = *value << 4 | digit;
    }
    return i;
}

// What a backslash and this character mean, or NUL if it is not an escape of one character.
static inline char json_plain_escape(char c) {
    const char *names = "\"\\/bfnrt", *values = "\"\\/\b\f\n\r\t";
    const char *name = c == '\0' ? NULL : strchr(names, c);
    return name == NULL ? '\0' : values[name - names];
}

static inline bool json_is_high_surrogate(uint32_t code) { return code >= 0xD800 && code <= 0xDBFF; }
static inline bool json_is_low_surrogate(uint32_t code) { return code >= 0xDC00 && code <= 0xDFFF; }

static inline uint32_t json_join_surrogates(uint32_t high, uint32_t low) {
    return 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00);
}

// ---------------------------------------------------------------------------------------------
// the parser

enum { JSON_MAX_DEPTH = 100 };  // arrays and objects inside each other; the parser recurses once for each

typedef struct {
    const char *text;
    size_t size, at;
    const char *source;  // the name in messages
    JsonDocument *doc;
    size_t strings_used;  // bytes of doc->strings
    const Json **seen;    // scratch for the search for duplicate keys: a hash table
    size_t seen_capacity;
    Error *err;
} JsonParser;

static inline bool json_memory_error(JsonParser *p) {
    return fail(p->err, "%s: out of memory while reading its %zu bytes of JSON", p->source, p->size);
}

// "source:line:column: found FOUND, expected EXPECTED"; columns count characters from 1.
static inline bool json_error(JsonParser *p, size_t at, const char *found, const char *expected) {
    size_t line = 1, column = 1;
    for (size_t i = 0; i < at; i++) {
        if (p->text[i] == '\n') {
            line++;
            column = 1;
        } else if (((unsigned char)p->text[i] & 0xC0) != 0x80) {
            column++;
        }
    }
    return fail(p->err, "%s:%zu:%zu: found %s, expected %s", p->source, line, column, found, expected);
}

// The error whose "found" is what is at `at`.
static inline bool json_unexpected(JsonParser *p, size_t at, const char *expected) {
    char found[32];
    unsigned char c = at < p->size ? (unsigned char)p->text[at] : 0;
    if (at >= p->size) {
        snprintf(found, sizeof found, "the end of the text");
    } else if (c > 0x20 && c < 0x7F) {
        snprintf(found, sizeof found, "'%c'", c);
    } else {
        snprintf(found, sizeof found, "byte 0x%02X", c);
    }
    return json_error(p, at, found, expected);
}

static inline void json_skip_space(JsonParser *p) {
    while (p->at < p->size) {
        char c = p->text[p->at];
        if (c != ' ' && c != '\n' && c != '\r' && c != '\t') { return; }
        p->at++;
    }
}

static inline bool json_accept(JsonParser *p, char c) {
    if (p->at >= p->size || p->text[p->at] != c) { return false; }
    p->at++;
    return true;
}

static inline Json *json_new_node(JsonParser *p) {
    JsonDocument *doc = p->doc;
    if (doc->blocks == NULL ||
        doc->blocks->used == sizeof doc->blocks->nodes / sizeof doc->blocks->nodes[0]) {
        JsonBlock *block = (JsonBlock *)malloc(sizeof *block);
        if (block == NULL) {
            json_memory_error(p);
            return NULL;
        }
        block->previous = doc->blocks;
        block->used = 0;
        doc->blocks = block;
    }
    Json *node = &doc->blocks->nodes[doc->blocks->used++];
    memset(node, 0, sizeof *node);
    return node;
}

static inline bool json_hex4(JsonParser *p, uint32_t *value) {
    size_t digits = json_hex_digits(p->text + p->at, p->size - p->at, value);
    p->at += digits;
    return digits == 4 || json_unexpected(p, p->at, "four hexadecimal digits after \\u");
}

// The escape after a backslash, decoded to out (room for 4 bytes).
static inline bool json_escape(JsonParser *p, char *out, size_t *length) {
    size_t start = p->at - 1;
    char c = p->at < p->size ? p->text[p->at] : '\0';
    char plain = json_plain_escape(c);
    if (plain != '\0') {
        p->at++;
        out[0] = plain;
        *length = 1;
        return true;
    }
    if (c != 'u') { return json_unexpected(p, p->at, "one of \" \\ / b f n r t u after a backslash"); }
    p->at++;
    uint32_t code;
    if (!json_hex4(p, &code)) { return false; }
    if (json_is_low_surrogate(code)) {
        return json_error(p, start, "a low surrogate by itself", "a high surrogate before it");
    }
    if (json_is_high_surrogate(code)) {
        uint32_t low = 0;
        bool pair = p->size - p->at >= 2 && p->text[p->at] == '\\' && p->text[p->at + 1] == 'u';
        if (pair) {
            p->at += 2;
            if (!json_hex4(p, &low)) { return false; }
        }
        if (!json_is_low_surrogate(low)) {
            return json_error(p, start, "a high surrogate by itself", "a low surrogate after it");
        }
        code = json_join_surrogates(code, low);
    }
    *length = utf8_encode(code, out);
    return true;
}

// A string, from its opening quote. The bytes go to doc->strings, which cannot overflow: decoded, with its
// NUL, a string is shorter than its source with the quotes.
static inline bool json_parse_string(JsonParser *p, const char *expected, const char **string,
                                     size_t *length) {
    size_t start = p->at;
    if (!json_accept(p, '"')) { return json_unexpected(p, p->at, expected); }
    char *begin = p->doc->strings + p->strings_used, *out = begin;
    while (true) {
        unsigned char c = p->at < p->size ? (unsigned char)p->text[p->at] : 0;
        if (c >= 0x20 && c < 0x80 && c != '"' && c != '\\') {
            *out++ = (char)c;
            p->at++;
        } else if (c == '"') {
            p->at++;
            break;
        } else if (c == '\\') {
            size_t bytes = 0;
            p->at++;
            if (!json_escape(p, out, &bytes)) { return false; }
            out += bytes;
        } else if (c >= 0x80) {
            size_t bytes = utf8_length(p->text + p->at, p->size - p->at);
            if (bytes == 0) { return json_unexpected(p, p->at, "valid UTF-8"); }
            memcpy(out, p->text + p->at, bytes);
            out += bytes;
            p->at += bytes;
        } else if (p->at >= p->size) {
            return json_error(p, start, "a string without an end", "a closing quote");
        } else {
            return json_unexpected(p, p->at, "control characters in a string written as \\u00XX");
        }
    }
    *out = '\0';
    *string = begin;
    *length = (size_t)(out - begin);
    p->strings_used += *length + 1;
    return true;
}

static inline bool json_digits(JsonParser *p, const char *expected) {
    size_t start = p->at;
    while (p->at < p->size && p->text[p->at] >= '0' && p->text[p->at] <= '9') { p->at++; }
    return p->at > start || json_unexpected(p, p->at, expected);
}

static inline bool json_parse_number(JsonParser *p, Json *node) {
    size_t start = p->at;
    bool negative = json_accept(p, '-'), integral = true;
    size_t digits = p->at;
    if (!json_accept(p, '0') && !json_digits(p, "a digit")) { return false; }
    size_t digits_end = p->at;
    if (json_accept(p, '.')) {
        integral = false;
        if (!json_digits(p, "a digit after the decimal point")) { return false; }
    }
    if (json_accept(p, 'e') || json_accept(p, 'E')) {
        integral = false;
        if (!json_accept(p, '-')) { json_accept(p, '+'); }
        if (!json_digits(p, "a digit in the exponent")) { return false; }
    }
    node->type = JSON_NUMBER;
    int64_t integer = 0;
    for (size_t i = digits; i < digits_end && integral; i++) {
        int64_t digit = p->text[i] - '0';
        integral = !__builtin_mul_overflow(integer, 10, &integer) &&
                   !__builtin_add_overflow(integer, negative ? -digit : digit, &integer);
    }
    node->integral = integral;
    if (integral) {
        node->integer = integer;
        node->number = negative && integer == 0 ? -0.0 : (double)integer;
        return true;
    }
    // strtod needs a NUL after the digits; the free end of the strings has room for them
    char *copy = p->doc->strings + p->strings_used;
    memcpy(copy, p->text + start, p->at - start);
    copy[p->at - start] = '\0';
    node->number = strtod(copy, NULL);
    if (isinf(node->number)) {
        return json_error(p, start, "a number beyond the range of a double", "at most about 1.8e308");
    }
    return true;
}

static inline bool json_parse_word(JsonParser *p, const char *word) {
    size_t length = strlen(word);
    if (p->size - p->at < length || memcmp(p->text + p->at, word, length) != 0) {
        return json_unexpected(p, p->at, "a JSON value (true, false, null, a number, a string, [ or {)");
    }
    p->at += length;
    return true;
}

// Every key once: the members go into a hash table (open addressing, FNV-1a) of at least twice their number.
static inline bool json_check_keys(JsonParser *p, const Json *object) {
    size_t capacity = 8;
    while (capacity < 2 * object->count) { capacity *= 2; }
    if (capacity > p->seen_capacity) {
        free((void *)p->seen);
        p->seen = (const Json **)malloc(capacity * sizeof *p->seen);
        p->seen_capacity = p->seen == NULL ? 0 : capacity;
        if (p->seen == NULL) { return json_memory_error(p); }
    }
    memset((void *)p->seen, 0, capacity * sizeof *p->seen);
    for (const Json *member = object->first; member != NULL; member = member->next) {
        uint64_t hash = 0xCBF29CE484222325u;
        for (size_t i = 0; i < member->key_length; i++) {
            hash = (hash ^ (unsigned char)member->key[i]) * 0x100000001B3u;
        }
        size_t slot = (size_t)(hash ^ hash >> 32) & (capacity - 1);
        for (; p->seen[slot] != NULL; slot = (slot + 1) & (capacity - 1)) {
            const Json *other = p->seen[slot];
            if (other->key_length == member->key_length &&
                memcmp(other->key, member->key, member->key_length) == 0) {
                char found[96];
                snprintf(found, sizeof found, "the key \"%.40s\" a second time", member->key);
                return json_error(p, member->at, found, "every key of an object once");
            }
        }
        p->seen[slot] = member;
    }
    return true;
}

static inline bool json_parse_value(JsonParser *p, Json *node, int depth);

// The members of an array or object, after its opening bracket.
static inline bool json_parse_children(JsonParser *p, Json *parent, int depth) {
    bool object = parent->type == JSON_OBJECT;
    if (depth > JSON_MAX_DEPTH) {
        return json_error(p, p->at - 1, "arrays and objects nested too deep", "at most 100 levels");
    }
    json_skip_space(p);
    if (json_accept(p, object ? '}' : ']')) { return true; }
    Json **link = &parent->first;
    while (true) {
        Json *child = json_new_node(p);
        if (child == NULL) { return false; }
        json_skip_space(p);
        child->at = p->at;
        if (object) {
            if (!json_parse_string(p, "a key in double quotes", &child->key, &child->key_length)) {
                return false;
            }
            json_skip_space(p);
            if (!json_accept(p, ':')) { return json_unexpected(p, p->at, "':' after the key"); }
            json_skip_space(p);
        }
        if (!json_parse_value(p, child, depth)) { return false; }
        *link = child;
        link = &child->next;
        parent->count++;
        json_skip_space(p);
        if (json_accept(p, ',')) { continue; }
        if (!json_accept(p, object ? '}' : ']')) {
            return json_unexpected(p, p->at, object ? "',' or '}'" : "',' or ']'");
        }
        return !object || json_check_keys(p, parent);
    }
}

static inline bool json_parse_value(JsonParser *p, Json *node, int depth) {
    char c = p->at < p->size ? p->text[p->at] : '\0';
    switch (c) {
    case '{':
    case '[':
        p->at++;
        node->type = c == '{' ? JSON_OBJECT : JSON_ARRAY;
        return json_parse_children(p, node, depth + 1);
    case '"': node->type = JSON_STRING; return json_parse_string(p, "a string", &node->string, &node->length);
    case 't':
    case 'f':
        node->type = JSON_BOOL;
        node->boolean = c == 't';
        return json_parse_word(p, c == 't' ? "true" : "false");
    default:
        if (c == '-' || (c >= '0' && c <= '9')) { return json_parse_number(p, node); }
        node->type = JSON_NULL;
        return json_parse_word(p, "null");
    }
}

static inline bool json_parse_root(JsonParser *p) {
    p->doc->root = json_new_node(p);
    if (p->doc->root == NULL) { return false; }
    json_skip_space(p);
    p->doc->root->at = p->at;
    if (!json_parse_value(p, p->doc->root, 0)) { return false; }
    json_skip_space(p);
    return p->at == p->size || json_unexpected(p, p->at, "nothing after the value");
}

static inline bool json_parse(JsonDocument *doc, const char *text, size_t size, const char *source,
                              Error *err) {
    memset(doc, 0, sizeof *doc);
    JsonParser p = {text, size, 0, source, doc, 0, NULL, 0, err};
    doc->strings = (char *)malloc(size + 1);
    bool ok = doc->strings != NULL ? json_parse_root(&p) : json_memory_error(&p);
    free((void *)p.seen);
    if (!ok) { json_free(doc); }
    return ok;
}

static inline bool json_parse_file(JsonDocument *doc, const char *path, Error *err) {
    MappedFile file;
    memset(doc, 0, sizeof *doc);
    if (!file_map(&file, path, err)) { return false; }
    const size_t mark = utf8_mark(file.data, file.size);
    const char *text = mark > 0 ? file.data + mark : file.data;
    bool ok = json_parse(doc, text, file.size - mark, path, err);
    file_unmap(&file);
    return ok;
}

static inline void json_free(JsonDocument *doc) {
    while (doc->blocks != NULL) {
        JsonBlock *previous = doc->blocks->previous;
        free(doc->blocks);
        doc->blocks = previous;
    }
    free(doc->strings);
    doc->strings = NULL;
    doc->root = NULL;
}

#endif
