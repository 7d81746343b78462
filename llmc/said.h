// said.h: rewrites a JSON object and keeps, byte for byte, the members of the old one that this program does
// not use.
//
// Doors:
//   said_open       the earlier text; release with json_free(&said.doc)
//   said_or         one of its members, or a default
//   said_copy       one of its members
//   said_rest       all members that the writer does not write itself
#ifndef LLMC_SAID_H
#define LLMC_SAID_H

#include "json.h"

// The text of an earlier file and its members. All zeros: there is none.
typedef struct {
    const char *text;
    JsonDocument doc;
} Said;

// NULL, and a text that is not JSON, count as no text.
static inline Said said_open(const char *text) {
    Said said;
    Error ignored;
    memset(&said, 0, sizeof said);
    if (text != NULL && json_parse(&said.doc, text, strlen(text), "", &ignored)) { said.text = text; }
    return said;
}

// The bytes of a member from its key on: "key": value.
static inline size_t said_length(const Said *said, const Json *member) {
    const char *text = said->text + member->at;
    size_t end = 0, depth = 0;
    bool in_string = false;
    for (;; end++) {
        const char c = text[end];
        if (in_string) {
            if (c == '\\') { end++; }
            if (c == '"') { in_string = false; }
            continue;
        }
        if (depth == 0 && (c == ',' || c == '}')) { break; }
        if (c == '"') { in_string = true; }
        depth += c == '{' || c == '[';
        depth -= c == '}' || c == ']';
    }
    while (strchr(" \n\r\t", text[end - 1]) != NULL) { end--; }
    return end;
}

// Copies a member byte for byte.
static inline void said_copy(JsonWriter *w, const Said *said, const Json *member) {
    json_begin_value(w, NULL);
    json_append(w, said->text + member->at, said_length(said, member));
}

// A member that this program does not use: as it was said, or else `json`.
static inline void said_or(JsonWriter *w, const Said *said, const char *key, const char *json) {
    const Json *member = json_member(said->doc.root, key);
    if (member != NULL) {
        said_copy(w, said, member);
    } else {
        json_raw(w, key, json);
    }
}

// Copies all members but those of `known`, which the caller writes.
static inline void said_rest(JsonWriter *w, const Said *said, const char *const *known, size_t count) {
    if (said->doc.root == NULL || said->doc.root->type != JSON_OBJECT) { return; }
    for (const Json *member = json_first(said->doc.root); member != NULL; member = json_next(member)) {
        bool unknown = true;
        for (size_t i = 0; i < count && unknown; i++) {
            unknown = member->key_length != strlen(known[i]) ||
                      memcmp(member->key, known[i], member->key_length) != 0;
        }
        if (unknown) { said_copy(w, said, member); }
    }
}

#endif
