// number_rule.h: the number rule of llmc/verifiers.h as its patterns say it, by the C library's regular
// expressions. POSIX takes the longest of the leftmost matches. For these patterns that is also the first
// alternative that matches, which is what Python takes.
#ifndef DEV_TEST_NUMBER_RULE_H
#define DEV_TEST_NUMBER_RULE_H

#include <regex.h>
#include <stdlib.h>
#include <string.h>

#include "llmc/verifiers.h"

static inline regex_t pattern_compiled(const char *pattern) {
    regex_t compiled;
    if (regcomp(&compiled, pattern, REG_EXTENDED) != 0) { abort(); }
    return compiled;
}

// The answer of a text, which has no 0 in it. The caller frees it.
static inline char *number_by_patterns(const char *text, NumberRule rule) {
    static regex_t commas, numbers[2];
    static bool compiled = false;
    if (!compiled) {
        commas = pattern_compiled("[0-9],[0-9]");
        numbers[NUMBERS_UNSIGNED] = pattern_compiled("[-+]?[0-9]*\\.[0-9]+|[0-9]+");
        numbers[NUMBERS_SIGNED] = pattern_compiled("[-+]?([0-9]*\\.[0-9]+|[0-9]+)");
        compiled = true;
    }
    regmatch_t match;
    char *plain = (char *)malloc(strlen(text) + 1);
    if (plain == NULL) { abort(); }
    strcpy(plain, text);
    for (char *at = plain; regexec(&commas, at, 1, &match, 0) == 0;) {
        at += match.rm_so + 1;
        memmove(at, at + 1, strlen(at));  // the comma
        at++;
    }
    const char *begin = plain;
    size_t length = strlen(plain);
    for (const char *at = plain; regexec(&numbers[rule], at, 1, &match, 0) == 0; at += match.rm_eo) {
        begin = at + match.rm_so;
        length = (size_t)(match.rm_eo - match.rm_so);
    }
    memmove(plain, begin, length);
    plain[length] = '\0';
    return plain;
}

#endif
