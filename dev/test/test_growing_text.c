// test_growing_text.c: a text ends before the stop text that is complete first, however its bytes are cut
// into tokens, and what was ready never changes.
#include "llmc/growing_text.h"

#include "llmc/rand.h"
#include "check.h"

static Error err;

// Appends `whole` in pieces of random lengths. The text must end as `want`, by the stop text `want_stop`.
// What was ready must be a beginning of it, and end between characters wherever `whole` is UTF-8.
static void check_text(const char *whole, size_t size, const char *const *stops, size_t count,
                       const char *want, size_t want_size, int want_stop, Pcg64 *rng) {
    GrowingText text;
    int stop = NO_STOP;
    size_t ready = 0;
    growing_open(&text, stops, count);
    CHECK(growing_append(&text, "", 0, &stop, &err) && stop == NO_STOP);
    for (size_t at = 0; at < size && stop == NO_STOP;) {
        size_t piece = pcg64_bounded(rng, 5);
        piece = piece > size - at ? size - at : piece;
        CHECK(growing_append(&text, whole + at, piece, &stop, &err));
        at += piece;
        if (stop != NO_STOP) { break; }
        const size_t now = growing_ready(&text);
        CHECK(now >= ready && now <= want_size && memcmp(text.bytes, want, now) == 0);
        CHECK(utf8_invalid(whole, size) < size || utf8_invalid(want, now) == now);
        ready = now;
    }
    CHECK(stop == want_stop && text.size == want_size && ready <= want_size);
    CHECK(memcmp(text.bytes, want, want_size) == 0);
    growing_close(&text);
}

static void test_stops(void) {
    const struct {
        const char *whole, *stops[3], *want;
        int stop;
    } cases[] = {
        {"one\n\ntwo", {"\n\n"}, "one", 0},
        {"one\ntwo", {"\n\n"}, "one\ntwo", NO_STOP},
        {"aab", {"ab"}, "a", 0},               // a beginning inside a beginning
        {"ababac", {"abac"}, "ab", 0},         //
        {"xabcd", {"abcd", "bc"}, "xa", 1},    // complete first
        {"xabc", {"c", "bc", "abc"}, "x", 2},  // complete at once: the longest
        {"Question", {"Question:"}, "Question", NO_STOP},
        {"caf\u00e9 \u20ac", {"\u20ac"}, "caf\u00e9 ", 0},
        {"na\u00efve", {"\u00efv"}, "na", 0},
        {"\U0001F600\U0001F601", {"\U0001F601"}, "\U0001F600", 0},  // two characters with three equal bytes
        {"stop", {"stop"}, "", 0},
    };
    Pcg64 rng;
    pcg64_seed(&rng, 1);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        size_t count = 0;
        while (count < 3 && cases[i].stops[count] != NULL) { count++; }
        for (int round = 0; round < 50; round++) {
            check_text(cases[i].whole, strlen(cases[i].whole), cases[i].stops, count, cases[i].want,
                       strlen(cases[i].want), cases[i].stop, &rng);
        }
    }
}

// Random texts over a few bytes, some of them parts of characters, against the definition.
static void test_random(void) {
    static const char alphabet[] = "ab\xC3\xA9\xE2\x82\xAC\xF0";
    const char *stops[] = {"ab", "bba", "\xC3\xA9", "\xE2\x82\xAC", "a\xC3"};
    Pcg64 rng;
    pcg64_seed(&rng, 2);
    for (int round = 0; round < 5000; round++) {
        char whole[12];
        const size_t size = pcg64_bounded(&rng, sizeof whole), count = pcg64_bounded(&rng, 5);
        for (size_t i = 0; i < size; i++) { whole[i] = alphabet[pcg64_bounded(&rng, 7)]; }
        size_t end = size;
        int stop = NO_STOP;
        for (size_t at = 1; at <= size && stop == NO_STOP; at++) {
            for (size_t i = 0; i < count; i++) {
                const size_t length = strlen(stops[i]);
                if (length > at || memcmp(whole + at - length, stops[i], length) != 0) { continue; }
                if (stop != NO_STOP && length <= strlen(stops[stop])) { continue; }
                stop = (int)i, end = at - length;
            }
        }
        check_text(whole, size, stops, count, whole, end, stop, &rng);
    }
}

// Nothing is held back that no further byte can change.
static void test_ready(void) {
    const struct {
        const char *bytes;
        size_t ready;
    } cases[] = {{"", 0},
                 {"ab", 2},
                 {"\xC3", 0},
                 {"\xC3\xA9", 2},
                 {"a\xE2", 1},
                 {"\xE2\x82", 0},
                 {"\xF0\x9F\x98", 0},
                 {"\xED\xA0", 2},
                 {"\xED\x9F", 0},
                 {"\xE0\x80", 2},
                 {"\xF4\x90", 2},
                 {"\x80", 1},
                 {"\xC3\xA9\x80", 3},
                 {"\xFF", 1},
                 {"\xC1", 1},
                 {"\x82\x82\x82\x82", 4},
                 {"x\n", 1}};
    const char *stops[] = {"\n\n"};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        GrowingText text;
        int stop;
        growing_open(&text, stops, 1);
        CHECK(growing_append(&text, cases[i].bytes, strlen(cases[i].bytes), &stop, &err) && stop == NO_STOP);
        CHECK(growing_ready(&text) == cases[i].ready);
        growing_close(&text);
    }
}

int main(void) {
    test_stops();
    test_random();
    test_ready();
    return check_report();
}
