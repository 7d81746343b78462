// json.h: strict JSON (RFC 8259), in and out: configurations, safetensors headers, tokenizers, run logs.
//
// Reading makes a tree. It is strict: invalid UTF-8, lone surrogates, duplicate keys, numbers beyond a
// double, deep nesting and anything after the value are errors, reported as "source:line:column: found ...,
// expected ...".
//
// Below: the tree and the writer, the functions of both, and the bodies of those that look into a tree. The
// bodies of the reader are in json_read.h, those of the writer in json_write.h.
#ifndef LLMC_JSON_H
#define LLMC_JSON_H

#include "utils.h"

// ---------------------------------------------------------------------------------------------
// the tree

typedef enum { JSON_NULL, JSON_BOOL, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT } JsonType;

typedef struct Json Json;
struct Json {
    JsonType type;
    bool boolean;
    bool integral;  // the number has neither fraction nor exponent and fits int64: `integer` holds it
    double number;
    int64_t integer;
    const char *string;  // decoded bytes. NUL-terminated, but may hold NULs: `length` counts them too
    size_t length;
    const char *key;  // likewise, for a member of an object; NULL otherwise
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

// Parses the `size` bytes of text: one JSON value and nothing after it. `source` names the text in messages.
// The document copies every string, so the text need not outlive the call. Release it with json_free; a
// failure leaves nothing to release.
static inline bool json_parse(JsonDocument *doc, const char *text, size_t size, const char *source,
                              Error *err);

// The same for a file. It may begin with a byte order mark.
static inline bool json_parse_file(JsonDocument *doc, const char *path, Error *err);
static inline void json_free(JsonDocument *doc);

// The member of that name, or NULL if there is none or `object` is not an object. A linear search.
static inline const Json *json_member(const Json *object, const char *key);

// for (const Json *child = json_first(array); child != NULL; child = json_next(child)) { ... }
static inline const Json *json_first(const Json *container);
static inline const Json *json_next(const Json *child);

// A few words for messages: what a value is. `buffer` is the caller's; NULL is "nothing".
static inline const char *json_describe(char buffer[64], const Json *value);

// Typed members. One that is absent or null is an error if required, and otherwise leaves *out as it is. One
// of another type is always an error. `source` names the object in messages. Sizes are whole numbers, 0 or
// more; a string is the document's memory and holds no NUL but its last.
static inline bool json_get_size(const Json *object, const char *key, bool required, size_t *out,
                                 const char *source, Error *err);
static inline bool json_get_double(const Json *object, const char *key, bool required, double *out,
                                   const char *source, Error *err);
static inline bool json_get_bool(const Json *object, const char *key, bool required, bool *out,
                                 const char *source, Error *err);
static inline bool json_get_string(const Json *object, const char *key, bool required, const char **out,
                                   const char *source, Error *err);

// ---------------------------------------------------------------------------------------------
// the writer

// The text that is being written. Starts as all zeros; set `pretty` for one member a line. `text` is
// NUL-terminated, and NULL if memory ran out. Inside an object every value has a key; in an array and at the
// top the key is NULL. Release it with json_writer_free.
typedef struct {
    char *text;
    size_t length, capacity;
    size_t depth;  // open arrays and objects
    bool pretty;
    bool empty;   // nothing has been written yet inside the innermost array or object
    bool failed;  // out of memory: everything after it is ignored
} JsonWriter;

static inline void json_writer_free(JsonWriter *w);
static inline void json_begin_object(JsonWriter *w, const char *key);
static inline void json_end_object(JsonWriter *w);
static inline void json_begin_array(JsonWriter *w, const char *key);
static inline void json_end_array(JsonWriter *w);
static inline void json_null(JsonWriter *w, const char *key);
static inline void json_bool(JsonWriter *w, const char *key, bool value);
static inline void json_integer(JsonWriter *w, const char *key, int64_t value);

// The shortest decimal that reads back as the same double, or through a double as the same float: 1e-06, not
// 9.999999974752427e-07. It always has a point or an exponent, so a reader that tells 1 from 1.0 sees a
// float. NaN and infinities, which JSON does not have, become null.
static inline void json_number(JsonWriter *w, const char *key, double value);
static inline void json_float(JsonWriter *w, const char *key, float value);

// Bytes that are not UTF-8 become U+FFFD (utf8_broken).
static inline void json_string(JsonWriter *w, const char *key, const char *value);
static inline void json_bytes(JsonWriter *w, const char *key, const char *bytes, size_t size);

// A value that is JSON already.
static inline void json_raw(JsonWriter *w, const char *key, const char *json);

// Writes the text and a newline to a new file, and frees the writer.
static inline bool json_write_file(JsonWriter *w, const char *path, Error *err);

// ---------------------------------------------------------------------------------------------
// looking into the tree

static inline const Json *json_first(const Json *container) { return container->first; }
static inline const Json *json_next(const Json *child) { return child->next; }

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

// The member that a typed getter checks; NULL if it is absent or null.
static inline bool json_get(const Json *object, const char *key, bool required, const Json **value,
                            const char *source, Error *err) {
    *value = json_member(object, key);
    if (*value != NULL && (*value)->type == JSON_NULL) { *value = NULL; }
    return *value != NULL || !required || fail(err, "%s: \"%s\" is missing", source, key);
}

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

#include "json_read.h"
#include "json_write.h"

#endif
