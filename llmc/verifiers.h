// verifiers.h: programs that check an answer: text in, true or false out. They serve evaluation and, as
// rewards, reinforcement learning.
//
//   last_number      the number that a text answers with
//   gsm8k_gold       the part of a GSM8K solution that holds its answer
//
// The rule for GSM8K is that of open-instruct and OLMES, in Python's notation:
//   1. Commas between digits go: re.sub(r"(\d),(\d)", r"\1\2", text). One pass from the left, so 1,234,567
//      becomes 1234567, but 1,2,3 becomes 12,3.
//   2. The last match of a pattern is the answer. Two versions are in use, which differ in integers' signs:
//        NUMBERS_UNSIGNED   [-+]?\d*\.\d+|\d+           open-instruct until March 2026, OLMES
//        NUMBERS_SIGNED     [-+]?(?:\d*\.\d+|\d+)       open-instruct since, allenai/olmo-eval
//      "-5" answers 5 or -5; "5-3=2" answers 2, and "x=-.5" answers -.5 by both.
//   3. Answers are compared as texts: 72.0, 072 and 72 are three answers, and so are .5 and 0.5. A text
//      without a number is itself the answer, which is never right.
// The right answer must go through the same rule, or those with commas and signs could never be matched.
// OLMES further removes "," "$" "#### " and a last "." from both, which changes nothing between two numbers.
// Python's \d is any Unicode digit; here it is 0 to 9.
#ifndef LLMC_VERIFIERS_H
#define LLMC_VERIFIERS_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

typedef enum { NUMBERS_UNSIGNED, NUMBERS_SIGNED } NumberRule;

// Writes the last number of text (size), or the whole text if it has none, to answer (size + 1), with a 0
// behind it. Returns the length.
static inline size_t last_number(char *answer, const char *text, size_t size, NumberRule rule);

// What follows the last "####" of a solution (size), or all of it if there is none.
static inline const char *gsm8k_gold(const char *solution, size_t size, size_t *gold_size);

// ---------------------------------------------------------------------------------------------

static inline bool is_digit(char c) { return c >= '0' && c <= '9'; }

static inline size_t digits_at(const char *text, size_t at, size_t size) {
    size_t end = at;
    while (end < size && is_digit(text[end])) { end++; }
    return end - at;
}

// out (size) = text without the commas of rule 1; returns the length.
static inline size_t remove_commas(char *out, const char *text, size_t size) {
    size_t length = 0;
    for (size_t i = 0; i < size; i++) {
        out[length++] = text[i];
        if (size - i > 2 && is_digit(text[i]) && text[i + 1] == ',' && is_digit(text[i + 2])) {
            out[length++] = text[i + 2];
            i += 2;
        }
    }
    return length;
}

// The length of the pattern's match that begins at `at`; 0 if none does.
static inline size_t number_at(const char *text, size_t at, size_t size, NumberRule rule) {
    const size_t sign = text[at] == '-' || text[at] == '+';
    const size_t whole = digits_at(text, at + sign, size), point = at + sign + whole;
    const size_t fraction = point < size && text[point] == '.' ? digits_at(text, point + 1, size) : 0;
    if (fraction > 0) { return sign + whole + 1 + fraction; }
    if (whole == 0 || (sign > 0 && rule == NUMBERS_UNSIGNED)) { return 0; }
    return sign + whole;
}

static inline size_t last_number(char *answer, const char *text, size_t size, NumberRule rule) {
    const size_t length = remove_commas(answer, text, size);
    size_t begin = 0, found = 0;
    for (size_t at = 0; at < length;) {
        const size_t match = number_at(answer, at, length, rule);
        if (match > 0) { begin = at, found = match; }
        at += match > 0 ? match : 1;
    }
    if (found > 0) {
        memmove(answer, answer + begin, found);
    } else {
        memcpy(answer, text, size);
        found = size;
    }
    answer[found] = '\0';
    return found;
}

static inline const char *gsm8k_gold(const char *solution, size_t size, size_t *gold_size) {
    const char *gold = solution;
    for (size_t i = 0; i + 4 <= size; i++) {
        if (memcmp(solution + i, "####", 4) == 0) { gold = solution + i + 4; }
    }
    *gold_size = size - (size_t)(gold - solution);
    return gold;
}

#endif
