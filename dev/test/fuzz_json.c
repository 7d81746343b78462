// fuzz_json.c: any bytes to the JSON reader. What it accepts is written out, and must read back as the same
// tree. Built with clang -fsanitize=fuzzer.
#include "llmc/json.h"

static void write_value(JsonWriter *w, const char *key, const Json *value) {
    switch (value->type) {
    case JSON_NULL: json_null(w, key); return;
    case JSON_BOOL: json_bool(w, key, value->boolean); return;
    case JSON_NUMBER:
        if (value->integral && !signbit(value->number) == (value->integer >= 0)) {  // -0 has no integer
            json_integer(w, key, value->integer);
        } else {
            json_number(w, key, value->number);
        }
        return;
    case JSON_STRING: json_bytes(w, key, value->string, value->length); return;
    case JSON_ARRAY:
        json_begin_array(w, key);
        for (const Json *child = json_first(value); child != NULL; child = json_next(child)) {
            write_value(w, NULL, child);
        }
        json_end_array(w);
        return;
    case JSON_OBJECT:
        json_begin_object(w, key);
        for (const Json *child = json_first(value); child != NULL; child = json_next(child)) {
            write_value(w, child->key, child);
        }
        json_end_object(w);
        return;
    }
}

// The writer takes keys without NUL, so texts with one are not written.
static bool writable(const Json *value) {
    if (value->key != NULL && strlen(value->key) != value->key_length) { return false; }
    for (const Json *child = json_first(value); child != NULL; child = json_next(child)) {
        if (!writable(child)) { return false; }
    }
    return true;
}

static bool same(const Json *a, const Json *b) {
    if (a->type != b->type || a->count != b->count || a->length != b->length ||
        a->key_length != b->key_length || a->boolean != b->boolean ||
        memcmp(&a->number, &b->number, sizeof a->number) != 0 ||
        (a->length > 0 && memcmp(a->string, b->string, a->length) != 0) ||
        (a->key_length > 0 && memcmp(a->key, b->key, a->key_length) != 0)) {
        return false;
    }
    const Json *y = json_first(b);
    for (const Json *x = json_first(a); x != NULL; x = json_next(x), y = json_next(y)) {
        if (!same(x, y)) { return false; }
    }
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    JsonDocument doc, again;
    Error err;
    if (!json_parse(&doc, (const char *)data, size, "fuzz", &err)) {
        if (strncmp(err.text, "fuzz:", 5) != 0 || strstr(err.text, ", expected ") == NULL) { abort(); }
        return 0;
    }
    if (writable(doc.root)) {
        for (int pretty = 0; pretty < 2; pretty++) {
            JsonWriter w;
            memset(&w, 0, sizeof w);
            w.pretty = pretty;
            write_value(&w, NULL, doc.root);
            if (!json_parse(&again, w.text, w.length, "again", &err) || !same(doc.root, again.root)) {
                abort();
            }
            json_free(&again);
            json_writer_free(&w);
        }
    }
    json_free(&doc);
    return 0;
}
