// documents_line.h: the "text" of one line of JSON Lines. The rule is in documents.h.
//
// json.h checks a whole value and builds a tree. Here only "text" is checked. Of every other member the scan
// needs only the end, so it looks only for closing quotes and brackets.
//
//   line_text(line, text, err)   finds "text" and decodes it
//   line_is_space(c)             whether c is JSON's white space
#ifndef LLMC_DOCUMENTS_LINE_H
#define LLMC_DOCUMENTS_LINE_H

#include "json.h"
#include "utf8.h"
#include "utils.h"

typedef struct {
    const char *begin, *at, *end;  // the line without its newline; how far the scan is
    const char *file;              // name and number in messages
    size_t number;
} JsonLine;

// A decoded "text".
typedef struct {
    char *bytes;  // the caller's, as long as the line
    size_t size;
    size_t surrogates;  // halves of surrogate pairs that became U+FFFD
    bool found;
} JsonLineText;

// ---------------------------------------------------------------------------------------------
// errors: "FILE:LINE:COLUMN: found ..., expected ...". Columns count characters from 1.

static const char LINE_ADVICE[] = "Correct the line, or remove it.";

static inline bool line_error(const JsonLine *line, const char *at, const char *found, const char *expected,
                              Error *err) {
    const char *advice = LINE_ADVICE;
    size_t column = 1;
    if (at == line->begin && *at == '[') {
        advice = "`jq -c '.[]'` puts every element on a line of its own.";
    }
    for (const char *c = line->begin; c < at; c++) { column += ((unsigned char)*c & 0xC0) != 0x80; }
    return fail(err, "%s:%zu:%zu: found %s, expected %s\n       %s", line->file, line->number, column, found,
                expected, advice);
}

// A character, for messages.
static inline const char *line_character(char buffer[32], char c) {
    snprintf(buffer, 32, c > 0x20 && c < 0x7F ? "'%c'" : "the byte 0x%02X", (unsigned char)c);
    return buffer;
}

// The error whose "found" is what is at `at`.
static inline bool line_unexpected(const JsonLine *line, const char *at, const char *expected, Error *err) {
    char found[32];
    if (at < line->end) { return line_error(line, at, line_character(found, *at), expected, err); }
    return fail(err,
                "%s:%zu: the line ends inside its object, expected a whole object on every line\n"
                "       If an object takes several lines, `jq -c .` puts it on one.",
                line->file, line->number);
}

// The error of a line that is not an object, or whose "text" is not a string.
static inline bool line_other_value(const JsonLine *line, const char *expected, Error *err) {
    char c = *line->at, character[32];
    const char *found = c == '{'               ? "an object"
                        : c == '['             ? "an array"
                        : c == '"'             ? "a string"
                        : c == 't' || c == 'f' ? "true or false"
                        : c == 'n'             ? "null"
                        : c >= '0' && c <= '9' ? "a number"
                                               : line_character(character, c);
    return line_error(line, line->at, found, expected, err);
}

// ---------------------------------------------------------------------------------------------
// skipping: what is in a value does not matter, only where it ends

static inline bool line_is_space(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

static inline void line_skip_space(JsonLine *line) {
    while (line->at < line->end && line_is_space(*line->at)) { line->at++; }
}

static inline bool line_accept(JsonLine *line, char c) {
    if (line->at == line->end || *line->at != c) { return false; }
    line->at++;
    return true;
}

// A string, from its opening quote to just after its closing one.
static inline bool line_skip_string(JsonLine *line, Error *err) {
    for (line->at++; line->at < line->end; line->at++) {
        if (*line->at == '"') {
            line->at++;
            return true;
        }
        if (*line->at == '\\' && line->at + 1 < line->end) { line->at++; }
    }
    return line_unexpected(line, line->end, "a closing quote", err);
}

static inline bool line_is_punctuation(char c) {
    return c == ',' || c == ':' || c == '"' || c == '{' || c == '}' || c == '[' || c == ']';
}

// An array or object, from its opening bracket to just after its closing one.
static inline bool line_skip_brackets(JsonLine *line, Error *err) {
    size_t depth = 0;
    while (line->at < line->end) {
        char c = *line->at;
        if (c == '"') {
            if (!line_skip_string(line, err)) { return false; }
            continue;
        }
        line->at++;
        if (c == '{' || c == '[') { depth++; }
        if ((c == '}' || c == ']') && --depth == 0) { return true; }
    }
    return line_unexpected(line, line->end, "a closing bracket", err);
}

static inline bool line_skip_value(JsonLine *line, Error *err) {
    const char *start = line->at;
    if (line->at < line->end && *line->at == '"') { return line_skip_string(line, err); }
    if (line->at < line->end && (*line->at == '{' || *line->at == '[')) {
        return line_skip_brackets(line, err);
    }
    while (line->at < line->end && !line_is_space(*line->at) && !line_is_punctuation(*line->at)) {
        line->at++;
    }
    return line->at > start || line_unexpected(line, line->at, "a value", err);
}

// ---------------------------------------------------------------------------------------------
// decoding

// Decodes the escape at `at`, a backslash, to `out`. Returns the end of the escape, or NULL if JSON has none
// like it. Half of a surrogate pair becomes U+FFFD.
static inline const char *line_escape(const char *at, const char *end, JsonLineText *text) {
    uint32_t code, low;
    if (end - at < 2) { return NULL; }
    char plain = json_plain_escape(at[1]);
    if (plain != '\0') {
        text->bytes[text->size++] = plain;
        return at + 2;
    }
    if (at[1] != 'u' || json_hex_digits(at + 2, (size_t)(end - at) - 2, &code) != 4) { return NULL; }
    at += 6;
    if (json_is_high_surrogate(code) && end - at >= 2 && at[0] == '\\' && at[1] == 'u' &&
        json_hex_digits(at + 2, (size_t)(end - at) - 2, &low) == 4 && json_is_low_surrogate(low)) {
        code = json_join_surrogates(code, low);
        at += 6;
    } else if (json_is_high_surrogate(code) || json_is_low_surrogate(code)) {
        code = 0xFFFD;
        text->surrogates++;
    }
    text->size += utf8_encode(code, text->bytes + text->size);
    return at;
}

// Decodes what is between the quotes of a string. The first thing that JSON does not allow is an error.
static inline bool line_decode(const JsonLine *line, const char *at, const char *end, JsonLineText *text,
                               Error *err) {
    while (at < end) {
        unsigned char c = (unsigned char)*at;
        if (c == '\\') {
            const char *next = line_escape(at, end, text);
            if (next == NULL) {
                return line_error(line, at, "a backslash that begins no escape of JSON",
                                  "\\\" \\\\ \\/ \\b \\f \\n \\r \\t, or \\u and four hexadecimal digits",
                                  err);
            }
            at = next;
            continue;
        }
        size_t length = utf8_length(at, (size_t)(end - at));
        if (length == 0) { return line_unexpected(line, at, "UTF-8 in \"text\"", err); }
        if (c < 0x20) {
            return line_unexpected(line, at, "a control character in \"text\" to be written as \\u00XX", err);
        }
        memcpy(text->bytes + text->size, at, length);
        text->size += length;
        at += length;
    }
    return true;
}

// Whether a key, between its quotes, spells "text". Where it has escapes it is decoded, into the memory of
// the text, which is not there yet or is an error anyway.
static inline bool line_key_is_text(const JsonLine *line, const char *key, const char *end,
                                    const JsonLineText *text) {
    JsonLineText name = {text->bytes + text->size, 0, 0, false};
    Error ignored;
    size_t size = (size_t)(end - key);
    if (memchr(key, '\\', size) == NULL) { return size == 4 && memcmp(key, "text", 4) == 0; }
    return line_decode(line, key, end, &name, &ignored) && name.size == 4 &&
           memcmp(name.bytes, "text", 4) == 0;
}

// ---------------------------------------------------------------------------------------------
// the object

// The value of "text".
static inline bool line_read_text(JsonLine *line, JsonLineText *text, Error *err) {
    if (text->found) { return line_error(line, line->at, "\"text\" twice", "it once in every object", err); }
    if (line->at == line->end) { return line_unexpected(line, line->at, "a string", err); }
    if (*line->at != '"') { return line_other_value(line, "a string as \"text\"", err); }
    const char *begin = line->at + 1;
    if (!line_skip_string(line, err)) { return false; }
    text->found = true;
    return line_decode(line, begin, line->at - 1, text, err);
}

static inline bool line_read_member(JsonLine *line, JsonLineText *text, Error *err) {
    line_skip_space(line);
    if (line->at == line->end || *line->at != '"') {
        return line_unexpected(line, line->at, "a key in double quotes", err);
    }
    const char *key = line->at + 1;
    if (!line_skip_string(line, err)) { return false; }
    bool is_text = line_key_is_text(line, key, line->at - 1, text);
    line_skip_space(line);
    if (!line_accept(line, ':')) { return line_unexpected(line, line->at, "':' after a key", err); }
    line_skip_space(line);
    return is_text ? line_read_text(line, text, err) : line_skip_value(line, err);
}

// The error of a whole object without "text". It names what the object has instead, as far as that fits.
static inline bool line_no_text(const JsonLine *line, Error *err) {
    JsonLine again = {line->begin, line->begin, line->end, line->file, line->number};
    char names[256] = "";
    size_t length = 0, count = 0;
    line_skip_space(&again);
    while (++again.at < again.end && length + 50 < sizeof names) {  // behind '{' or ','
        line_skip_space(&again);
        const char *key = again.at + 1;
        if (*again.at != '"' || !line_skip_string(&again, err)) { break; }
        length += (size_t)snprintf(names + length, sizeof names - length, count++ == 0 ? "\"" : ", \"");
        for (const char *c = key; c < again.at - 1 && c < key + 40; c++) {
            names[length++] = (char)(*c >= 0x20 && *c < 0x7F ? *c : '?');
        }
        names[length++] = '"';
        names[length] = '\0';
        line_skip_space(&again);
        line_accept(&again, ':');
        line_skip_space(&again);
        if (!line_skip_value(&again, err)) { break; }
        line_skip_space(&again);
    }
    return fail(err, "%s:%zu: expected an object with a string \"text\", found %s%s\n       %s", line->file,
                line->number, count == 0 ? "one that is empty" : "only ", names, LINE_ADVICE);
}

// Finds "text" in a line that is not blank, and decodes it to text->bytes.
static inline bool line_text(JsonLine *line, JsonLineText *text, Error *err) {
    text->size = text->surrogates = 0;
    text->found = false;
    line_skip_space(line);
    if (!line_accept(line, '{')) {
        return line_other_value(line, "an object with a string \"text\" on every line", err);
    }
    line_skip_space(line);
    if (!line_accept(line, '}')) {
        do {
            if (!line_read_member(line, text, err)) { return false; }
            line_skip_space(line);
        } while (line_accept(line, ','));
        if (!line_accept(line, '}')) { return line_unexpected(line, line->at, "',' or '}'", err); }
    }
    line_skip_space(line);
    if (line->at < line->end) {
        return line_unexpected(line, line->at, "the end of the line after its object", err);
    }
    return text->found || line_no_text(line, err);
}

#endif
