// utf8.h: one character of UTF-8 at a time, as RFC 3629 defines it: no overlong forms, no surrogates, at most
// U+10FFFF.
//
//   utf8_length(s, n)      bytes of the character at s, or 0 if the n bytes there do not begin with one
//   utf8_decode(s, size)   its code point
//   utf8_encode(c, out)    the bytes of a code point
//   utf8_invalid(s, n)     offset of the first byte that belongs to no character, or n
//   utf8_check(s, n, ...)  whether all of it is UTF-8
//   utf8_unfinished(s, n)  bytes of a character at the end that lacks its last bytes, or 0
//   utf8_broken(s, n)      bytes at s, which begin no character, that U+FFFD replaces
//   utf8_mark(s, n)        bytes of the byte order mark at s: 3, or 0 if there is none
//   utf8_control(s, n)     bytes of the character at s if it controls a terminal, or 0
#ifndef LLMC_UTF8_H
#define LLMC_UTF8_H

#include "utils.h"

// Unicode 15, table 3-7.
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

// `size` is what utf8_length said.
static inline uint32_t utf8_decode(const char *s, size_t size) {
    if (size == 1) { return (unsigned char)s[0]; }
    uint32_t code = (unsigned char)s[0] & (0x7Fu >> size);
    for (size_t i = 1; i < size; i++) { code = code << 6 | ((unsigned char)s[i] & 0x3F); }
    return code;
}

// Writes at most 4 bytes and returns their number. `c` is not a surrogate.
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

// Some editors put U+FEFF in front of a text. It is not part of it.
static inline size_t utf8_mark(const char *s, size_t n) {
    return n >= 3 && memcmp(s, "\xEF\xBB\xBF", 3) == 0 ? 3 : 0;
}

static inline size_t utf8_invalid(const char *s, size_t n) {
    size_t at = 0;
    while (at < n) {
        if ((unsigned char)s[at] < 0x80) {
            at++;
            continue;
        }
        size_t length = utf8_length(s + at, n - at);
        if (length == 0) { break; }
        at += length;
    }
    return at;
}

// `name` is what messages call the text.
static inline bool utf8_check(const char *s, size_t n, const char *name, Error *err) {
    const size_t at = utf8_invalid(s, n);
    return at == n || fail(err, "%s: found the byte 0x%02X after %zu bytes, expected UTF-8 text", name,
                           (unsigned)(unsigned char)s[at], at);
}

// Whether those n bytes, at most 3, begin a character that is longer.
static inline bool utf8_begins(const char *s, size_t n) {
    char filled[2][4];  // E0 and F0 need a high second byte, ED and F4 a low one
    memset(filled[0], 0x80, 4);
    memset(filled[1], 0xBF, 4);
    for (int i = 0; i < 2; i++) {
        memcpy(filled[i], s, n);
        if (utf8_length(filled[i], 4) > n) { return true; }
    }
    return false;
}

// The beginning of a character that breaks off is replaced as one, any other byte by itself: Unicode 15, section
// 3.9, "Substitution of Maximal Subparts", as Python and transformers do. `n` is at least 1.
static inline size_t utf8_broken(const char *s, size_t n) {
    size_t size = n < 3 ? n : 3;
    while (size > 1 && !utf8_begins(s, size)) { size--; }
    return size;
}

static inline size_t utf8_unfinished(const char *s, size_t n) {
    for (size_t size = 1; size <= 3 && size <= n; size++) {
        if (((unsigned char)s[n - size] & 0xC0) == 0x80) { continue; }
        return utf8_begins(s + n - size, size) ? size : 0;
    }
    return 0;
}

// U+0000 to U+001F but not newline and tab, and U+007F to U+009F. `n` is at least 1.
static inline size_t utf8_control(const char *s, size_t n) {
    const unsigned char first = (unsigned char)s[0], second = n > 1 ? (unsigned char)s[1] : 0;
    if (first == 0xC2) { return second >= 0x80 && second < 0xA0 ? 2 : 0; }
    return (first < ' ' && first != '\n' && first != '\t') || first == 0x7F;
}

#endif
