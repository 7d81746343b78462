// growing_text.h: a text that grows token by token and ends before a stop text.
//
// A token's bytes may end inside a character, and a stop text may begin in one token and end in another. So
// what is ready to be shown ends before a character that lacks its last bytes, and before the longest ending
// that may still become a stop text.
//
//   growing_open, growing_close
//   growing_append   appends the bytes of a token; cuts the text where a stop text is complete
//   growing_ready    the length of what no further token can change
#ifndef LLMC_GROWING_TEXT_H
#define LLMC_GROWING_TEXT_H

#include "utf8.h"
#include "utils.h"

enum { NO_STOP = -1 };

// All zeros: an empty text without stop texts.
typedef struct {
    const char *const *stops;  // (stop_count) the caller's; none of them empty
    size_t stop_count;
    char *bytes;  // (size) owned
    size_t size, capacity;
} GrowingText;

static inline void growing_open(GrowingText *text, const char *const *stops, size_t stop_count) {
    memset(text, 0, sizeof *text);
    text->stops = stops;
    text->stop_count = stop_count;
}

static inline void growing_close(GrowingText *text) { free(text->bytes); }

// Appends `size` bytes. *stop becomes the number of the stop text that ends the text, or NO_STOP. It is the
// one that is complete first, byte by byte, so it does not matter how the bytes are cut into tokens; of those
// that are complete at the same byte, the longest. The text is cut where the stop text begins.
static inline bool growing_append(GrowingText *text, const char *bytes, size_t size, int *stop, Error *err);

// What growing_append has not yet made ready may turn into a stop text or a whole character. Where the text
// ends, all of it is ready.
static inline size_t growing_ready(const GrowingText *text);

// ---------------------------------------------------------------------------------------------

static inline bool growing_reserve(GrowingText *text, size_t more, Error *err) {
    if (text->bytes != NULL && text->capacity - text->size >= more) { return true; }
    const size_t capacity = 2 * (text->size + more) + 64;
    char *bytes = (char *)realloc(text->bytes, capacity);
    if (bytes == NULL) { return fail(err, "out of memory: a text has more than %zu bytes", text->size); }
    text->bytes = bytes;
    text->capacity = capacity;
    return true;
}

// The longest stop text that the text ends with, or NO_STOP.
static inline int growing_stop(const GrowingText *text) {
    int longest = NO_STOP;
    size_t length = 0;
    for (size_t i = 0; i < text->stop_count; i++) {
        const size_t size = strlen(text->stops[i]);
        if (size <= length || size > text->size) { continue; }
        if (memcmp(text->bytes + text->size - size, text->stops[i], size) != 0) { continue; }
        longest = (int)i, length = size;
    }
    return longest;
}

static inline bool growing_append(GrowingText *text, const char *bytes, size_t size, int *stop, Error *err) {
    *stop = NO_STOP;
    if (!growing_reserve(text, size, err)) { return false; }
    for (size_t i = 0; i < size && *stop == NO_STOP; i++) {
        text->bytes[text->size++] = bytes[i];
        *stop = growing_stop(text);
    }
    if (*stop != NO_STOP) { text->size -= strlen(text->stops[*stop]); }
    return true;
}

// The length of the longest ending of the text that the stop text begins with.
static inline size_t growing_begun(const GrowingText *text, const char *stop) {
    size_t size = strlen(stop);
    if (size > text->size) { size = text->size; }
    while (size > 0 && memcmp(text->bytes + text->size - size, stop, size) != 0) { size--; }
    return size;
}

static inline size_t growing_ready(const GrowingText *text) {
    size_t held = utf8_unfinished(text->bytes, text->size);
    for (size_t i = 0; i < text->stop_count; i++) {
        const size_t begun = growing_begun(text, text->stops[i]);
        held = begun > held ? begun : held;
    }
    return text->size - held;
}

#endif
