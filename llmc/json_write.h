// json_write.h: the writer of json.h, which has its contract.
#ifndef LLMC_JSON_WRITE_H
#define LLMC_JSON_WRITE_H

#include "files.h"
#include "json.h"
#include "utf8.h"

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

// A string in quotes. Whatever the bytes are, the result is JSON.
static inline void json_append_quoted(JsonWriter *w, const char *bytes, size_t size) {
    json_append(w, "\"", 1);
    for (size_t i = 0; i < size;) {
        unsigned char c = (unsigned char)bytes[i];
        size_t length = utf8_length(bytes + i, size - i);
        char escape[8];
        if (length == 0) {
            json_append_text(w, "\xEF\xBF\xBD");
            length = utf8_broken(bytes + i, size - i);
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

// What goes before a value: the comma, the new line, the key.
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

static inline void json_append_float(JsonWriter *w, const char *key, double value, int digits) {
    char text[40];
    if (!isfinite(value)) {
        json_null(w, key);
        return;
    }
    json_format_float(text, value, digits);
    json_raw(w, key, text);
}

static inline void json_number(JsonWriter *w, const char *key, double value) {
    char text[40];
    int digits = 15;
    for (; digits < 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value) { break; }
    }
    json_append_float(w, key, value, digits);
}

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

static inline bool json_write_file(JsonWriter *w, const char *path, Error *err) {
    int descriptor;
    json_append(w, "\n", 1);
    bool ok = w->text == NULL ? fail(err, "%s: out of memory", path) : file_create(&descriptor, path, err);
    if (ok) {
        ok = file_finish(descriptor, file_write(descriptor, w->text, w->length, path, err), path, err);
    }
    json_writer_free(w);
    return ok;
}

#endif
