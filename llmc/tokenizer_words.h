// tokenizer_words.h: cuts text into words by the pattern of cl100k, one function for each of its
// alternatives.
//
//   word_end(at, end)   where the word that begins at `at` ends
//
// A function match_... returns the end of its match at `at`, or `at` itself if it does not match. Characters
// are those of UTF-8. A byte that is not part of valid UTF-8 is a character of its own: no letter, number or
// space.
#ifndef LLMC_TOKENIZER_WORDS_H
#define LLMC_TOKENIZER_WORDS_H

#include <stdbool.h>
#include <string.h>

#include "unicode.h"
#include "utf8.h"

static const char TOKENIZER_PATTERN[] =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*"
    "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

typedef struct {
    UnicodeClass kind;
    size_t size;  // bytes
} Character;

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

#endif
