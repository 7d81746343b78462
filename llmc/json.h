// json.h: strict JSON (RFC 8259), in and out: configurations, safetensors headers, tokenizers, run logs.
//
// Reading gives a tree that lives in the document's memory until json_free. It is strict: UTF-8 is checked,
// lone surrogates, duplicate keys, numbers beyond a double, anything after the value and deep nesting are
// errors, reported as "source:line:column: found ..., expected ...".
#ifndef LLMC_JSON_H
#define LLMC_JSON_H

#include "files.h"

// ---------------------------------------------------------------------------------------------
// the tree

typedef enum { JSON_NULL, JSON_BOOL, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT } JsonType;

typedef struct Json Json;
struct Json {
    JsonType type;
    bool boolean;
    bool integral;  // the number was written without fraction or exponent and fits int64: `integer` holds it
    double number;
    int64_t integer;
    const char *string;  // decoded bytes, NUL-terminated, and possibly with NULs inside: `length` counts them
    size_t length;
    const char *key;  // likewise, of a member of an object; NULL otherwise
    size_t key_length;
    size_t at;           // offset in the text: of the key for a member, else of the value
    size_t count;        // children of an array or object
    Json *first, *next;  // its first child; the next child of the same parent
};

typedef struct JsonBlock JsonBlock;  // nodes are allocated by the block
struct JsonBlock {
    JsonBlock *previous;
    size_t used;
    Json nodes[512];
};

typedef struct {
    Json *root;
    JsonBlock *blocks;
    char *strings;  // every decoded string
} JsonDocument;

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

// ---------------------------------------------------------------------------------------------
// reading

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

// The error whose "found" is what stands at `at`.
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

// The length of the UTF-8 sequence at s (Unicode 15, table 3-7: no overlong forms, no surrogates, at most
// U+10FFFF), or 0 if the n bytes there do not begin with one.
static inline size_t utf8_length(const char *s, size_t n) {
    if (n == 0) { return 0; }
    unsigned char lead = (unsigned char)s[0], low = 0x80, high = 0xBF;
    if (lead < 0x80) { return 1; }
    if (lead < 0xC2 || lead > 0xF4) { return 0; }
    size_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    if (n < length) { return 0; }
    if (lead == 0xE0) { low = 0xA0; }
    if (lead == 0xED) { high = 0x9F; }
    if (lead == 0xF0) { low = 0x90; }
    if (lead == 0xF4) { high = 0x8F; }
    if ((unsigned char)s[1] < low || (unsigned char)s[1] > high) { return 0; }
    for (size_t i = 2; i < length; i++) {
        if (((unsigned char)s[i] & 0xC0) != 0x80) { return 0; }
    }
    return length;
}

// Writes the UTF-8 of a code point that is no surrogate; returns its length, at most 4.
static inline size_t utf8_encode(uint32_t c, char *out) {
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (char)(0xC0 | c >> 6);
        out[1] = (char)(0x80 | (c & 0x3F));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (char)(0xE0 | c >> 12);
        out[1] = (char)(0x80 | (c >> 6 & 0x3F));
        out[2] = (char)(0x80 | (c & 0x3F));
        return 3;
    }
    out[0] = (char)(0xF0 | c >> 18);
    out[1] = (char)(0x80 | (c >> 12 & 0x3F));
    out[2] = (char)(0x80 | (c >> 6 & 0x3F));
    out[3] = (char)(0x80 | (c & 0x3F));
    return 4;
}

static inline bool json_hex4(JsonParser *p, uint32_t *value) {
    *value = 0;
    for (int i = 0; i < 4; i++, p->at++) {
        char c = p->at < p->size ? p->text[p->at] : '\0';
        uint32_t digit;
        if (c >= '0' && c <= '9') {
            digit = (uint32_t)(c - '0');
        } else if (c >= 'a' && c <= 'f') {
            digit = (uint32_t)(c - 'a' + 10);
        } else if (c >= 'A' && c <= 'F') {
            digit = (uint32_t)(c - 'A' + 10);
        } else {
            return json_unexpected(p, p->at, "four hexadecimal digits after \\u");
        }
        *value = *value << 4 | digit;
    }
    return true;
}

// The escape after a backslash, decoded to out (room for 4 bytes).
static inline bool json_escape(JsonParser *p, char *out, size_t *length) {
    size_t start = p->at - 1;
    char c = p->at < p->size ? p->text[p->at] : '\0';
    const char *names = "\"\\/bfnrt", *values = "\"\\/\b\f\n\r\t";
    const char *name = c == '\0' ? NULL : strchr(names, c);
    if (name != NULL) {
        p->at++;
        out[0] = values[name - names];
        *length = 1;
        return true;
    }
    if (c != 'u') { return json_unexpected(p, p->at, "one of \" \\ / b f n r t u after a backslash"); }
    p->at++;
    uint32_t code;
    if (!json_hex4(p, &code)) { return false; }
    if (code >= 0xDC00 && code <= 0xDFFF) {
        return json_error(p, start, "a low surrogate by itself", "a high surrogate before it");
    }
    if (code >= 0xD800 && code <= 0xDBFF) {
        uint32_t low = 0;
        bool pair = p->size - p->at >= 2 && p->text[p->at] == '\\' && p->text[p->at + 1] == 'u';
        if (pair) {
            p->at += 2;
            if (!json_hex4(p, &low)) { return false; }
        }
        if (low < 0xDC00 || low > 0xDFFF) {
            return json_error(p, start, "a high surrogate by itself", "a low surrogate after it");
        }
        code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
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

// Parses the `size` bytes of text, one JSON value and nothing after it. `source` names the text in messages.
// The document owns copies of all strings: the text may go. Release it with json_free; a failure leaves
// nothing.
static inline bool json_parse(JsonDocument *doc, const char *text, size_t size, const char *source,
                              Error *err) {
    memset(doc, 0, sizeof *doc);
    JsonParser p = {text, size, 0, source, doc, 0, NULL, 0, err};
    doc->strings = (char *)malloc(size + 1);
    bool ok = doc->strings != NULL || json_memory_error(&p);
    if (ok) {
        doc->root = json_new_node(&p);
        json_skip_space(&p);
        ok = doc->root != NULL;
    }
    if (ok) {
        doc->root->at = p.at;
        ok = json_parse_value(&p, doc->root, 0);
        json_skip_space(&p);
        if (ok && p.at < size) { ok = json_unexpected(&p, p.at, "nothing after the value"); }
    }
    free((void *)p.seen);
    if (!ok) { json_free(doc); }
    return ok;
}

static inline bool json_parse_file(JsonDocument *doc, const char *path, Error *err) {
    MappedFile file;
    memset(doc, 0, sizeof *doc);
    if (!file_map(&file, path, err)) { return false; }
    bool ok = json_parse(doc, file.data, file.size, path, err);
    file_unmap(&file);
    return ok;
}

// ---------------------------------------------------------------------------------------------
// looking into the tree

// for (const Json *child = json_first(array); child != NULL; child = json_next(child)) { ... }
static inline const Json *json_first(const Json *container) { return container->first; }
static inline const Json *json_next(const Json *child) { return child->next; }

// The member of that name, or NULL if there is none or `object` is no object. It looks at one after the
// other.
static inline const Json *json_member(const Json *object, const char *key) {
    if (object == NULL || object->type != JSON_OBJECT) { return NULL; }
    size_t length = strlen(key);
    for (const Json *member = object->first; member != NULL; member = member->next) {
        if (member->key_length == length && memcmp(member->key, key, length) == 0) { return member; }
    }
    return NULL;
}

// A finite number in decimal, always with a point or an exponent: 1.0, not 1. `text` is the caller's.
static inline void json_format_float(char text[40], double value, int digits) {
    snprintf(text, 40, "%.*g", digits, value);
    if (strpbrk(text, ".e") == NULL) { snprintf(text + strlen(text), 3, ".0"); }
}

// A few words for messages: what a value is. `buffer` is the caller's.
static inline const char *json_describe(char buffer[64], const Json *value) {
    if (value == NULL) { return "nothing"; }
    switch (value->type) {
    case JSON_NULL: return "null";
    case JSON_BOOL: return value->boolean ? "true" : "false";
    case JSON_ARRAY: return "an array";
    case JSON_OBJECT: return "an object";
    case JSON_STRING: snprintf(buffer, 64, "the string \"%.40s\"", value->string); break;
    case JSON_NUMBER:
        if (value->integral) {
            snprintf(buffer, 64, "%lld", (long long)value->integer);
        } else {
            json_format_float(buffer, value->number, 15);
        }
        break;
    }
    return buffer;
}

static inline bool json_wrong_member(const Json *value, const char *key, const char *expected,
                                     const char *source, Error *err) {
    char found[64];
    return fail(err, "%s: \"%s\" is %s, expected %s", source, key, json_describe(found, value), expected);
}

// The typed members below: a member that is absent or null is an error if required, and otherwise leaves *out
// as it is. One of another type is always an error. `source` names the object in messages.
static inline bool json_get(const Json *object, const char *key, bool required, const Json **value,
                            const char *source, Error *err) {
    *value = json_member(object, key);
    if (*value != NULL && (*value)->type == JSON_NULL) { *value = NULL; }
    return *value != NULL || !required || fail(err, "%s: \"%s\" is missing", source, key);
}

// A whole number >= 0.
static inline bool json_get_size(const Json *object, const char *key, bool required, size_t *out,
                                 const char *source, Error *err) {
    const Json *value;
    if (!json_get(object, key, required, &value, source, err)) { return false; }
    if (value == NULL) { return true; }
    if (!value->integral || value->integer < 0) {
        return json_wrong_member(value, key, "a whole number, 0 or more", source, err);
    }
    *out = (size_t)value->integer;
    return true;
}

static inline bool json_get_double(const Json *object, const char *key, bool required, double *out,
                                   const char *source, Error *err) {
    const Json *value;
    if (!json_get(object, key, required, &value, source, err)) { return false; }
    if (value == NULL) { return true; }
    if (value->type != JSON_NUMBER) { return json_wrong_member(value, key, "a number", source, err); }
    *out = value->number;
    return true;
}

static inline bool json_get_bool(const Json *object, const char *key, bool required, bool *out,
                                 const char *source, Error *err) {
    const Json *value;
    if (!json_get(object, key, required, &value, source, err)) { return false; }
    if (value == NULL) { return true; }
    if (value->type != JSON_BOOL) { return json_wrong_member(value, key, "true or false", source, err); }
    *out = value->boolean;
    return true;
}

// *out is the document's memory and holds no NUL but its last.
static inline bool json_get_string(const Json *object, const char *key, bool required, const char **out,
                                   const char *source, Error *err) {
    const Json *value;
    if (!json_get(object, key, required, &value, source, err)) { return false; }
    if (value == NULL) { return true; }
    if (value->type != JSON_STRING) { return json_wrong_member(value, key, "a string", source, err); }
    if (strlen(value->string) != value->length) {
        return fail(err, "%s: \"%s\" holds a NUL character, expected text", source, key);
    }
    *out = value->string;
    return true;
}

// ---------------------------------------------------------------------------------------------
// writing

// Starts as all zeros, with pretty = true for one member a line. `text` is NUL-terminated, NULL if memory ran
// out. Inside an object every value has a key; in an array and at the top the key is NULL.
typedef struct {
    char *text;
    size_t length, capacity;
    size_t depth;  // open arrays and objects
    bool pretty;
    bool empty;   // nothing has been written yet inside the innermost array or object
    bool failed;  // out of memory: everything after is ignored
} JsonWriter;

static inline void json_writer_free(JsonWriter *w) {
    free(w->text);
    w->text = NULL;
    w->length = w->capacity = 0;
}

static inline void json_append(JsonWriter *w, const char *bytes, size_t size) {
    if (w->failed) { return; }
    if (w->capacity - w->length <= size) {
        size_t capacity = 2 * (w->length + size) + 64;
        char *text = (char *)realloc(w->text, capacity);
        if (text == NULL) {
            json_writer_free(w);
            w->failed = true;
            return;
        }
        w->text = text;
        w->capacity = capacity;
    }
    memcpy(w->text + w->length, bytes, size);
    w->length += size;
    w->text[w->length] = '\0';
}

static inline void json_append_text(JsonWriter *w, const char *text) { json_append(w, text, strlen(text)); }

static inline void json_new_line(JsonWriter *w) {
    json_append(w, "\n", 1);
    for (size_t i = 0; i < w->depth; i++) { json_append(w, "  ", 2); }
}

// A string in quotes. Bytes that are not UTF-8 become U+FFFD, one for each, so that the result is always
// JSON.
static inline void json_append_quoted(JsonWriter *w, const char *bytes, size_t size) {
    json_append(w, "\"", 1);
    for (size_t i = 0; i < size;) {
        unsigned char c = (unsigned char)bytes[i];
        size_t length = utf8_length(bytes + i, size - i);
        char escape[8];
        if (length == 0) {
            json_append_text(w, "\xEF\xBF\xBD");
            length = 1;
        } else if (c == '"' || c == '\\') {
            escape[0] = '\\';
            escape[1] = (char)c;
            json_append(w, escape, 2);
        } else if (c == '\n') {
            json_append(w, "\\n", 2);
        } else if (c == '\t') {
            json_append(w, "\\t", 2);
        } else if (c < 0x20) {
            snprintf(escape, sizeof escape, "\\u%04x", c);
            json_append_text(w, escape);
        } else {
            json_append(w, bytes + i, length);
        }
        i += length;
    }
    json_append(w, "\"", 1);
}

// What stands before a value: the comma, the line, the key.
static inline void json_begin_value(JsonWriter *w, const char *key) {
    if (w->depth > 0) {
        if (!w->empty) { json_append_text(w, w->pretty ? "," : ", "); }
        if (w->pretty) { json_new_line(w); }
    }
    w->empty = false;
    if (key != NULL) {
        json_append_quoted(w, key, strlen(key));
        json_append(w, ": ", 2);
    }
}

static inline void json_open(JsonWriter *w, const char *key, const char *bracket) {
    json_begin_value(w, key);
    json_append(w, bracket, 1);
    w->depth++;
    w->empty = true;
}

static inline void json_close(JsonWriter *w, const char *bracket) {
    assert(w->depth > 0);
    w->depth--;
    if (w->pretty && !w->empty) { json_new_line(w); }
    json_append(w, bracket, 1);
    w->empty = false;
}

static inline void json_begin_object(JsonWriter *w, const char *key) { json_open(w, key, "{"); }
static inline void json_end_object(JsonWriter *w) { json_close(w, "}"); }
static inline void json_begin_array(JsonWriter *w, const char *key) { json_open(w, key, "["); }
static inline void json_end_array(JsonWriter *w) { json_close(w, "]"); }

// JSON that is ready, as it stands.
static inline void json_raw(JsonWriter *w, const char *key, const char *json) {
    json_begin_value(w, key);
    json_append_text(w, json);
}

static inline void json_null(JsonWriter *w, const char *key) { json_raw(w, key, "null"); }
static inline void json_bool(JsonWriter *w, const char *key, bool value) {
    json_raw(w, key, value ? "true" : "false");
}

static inline void json_integer(JsonWriter *w, const char *key, int64_t value) {
    char text[32];
    snprintf(text, sizeof text, "%lld", (long long)value);
    json_raw(w, key, text);
}

// A reader that tells 1 from 1.0 sees a float. NaN and infinities, which JSON does not have, are null.
static inline void json_append_float(JsonWriter *w, const char *key, double value, int digits) {
    char text[40];
    if (!isfinite(value)) {
        json_null(w, key);
        return;
    }
    json_format_float(text, value, digits);
    json_raw(w, key, text);
}

// The shortest decimal that reads back as the same double.
static inline void json_number(JsonWriter *w, const char *key, double value) {
    char text[40];
    int digits = 15;
    for (; digits < 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value) { break; }
    }
    json_append_float(w, key, value, digits);
}

// The shortest decimal that reads back, through a double, as the same float: 1e-06,
// not 9.999999974752427e-07.
static inline void json_float(JsonWriter *w, const char *key, float value) {
    char text[40];
    int digits = 6;
    for (; digits < 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)value);
        if ((float)strtod(text, NULL) == value) { break; }
    }
    json_append_float(w, key, (double)value, digits);
}

static inline void json_bytes(JsonWriter *w, const char *key, const char *bytes, size_t size) {
    json_begin_value(w, key);
    json_append_quoted(w, bytes, size);
}

static inline void json_string(JsonWriter *w, const char *key, const char *value) {
    json_bytes(w, key, value, strlen(value));
}

#endif
