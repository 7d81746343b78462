// check.h: counts what a test program has checked. Each program ends with `return check_report();`, whose
// closing line is "N passed, N failed" and whose value is the exit code: 1 if anything failed or nothing was
// checked.
#ifndef DEV_TEST_CHECK_H
#define DEV_TEST_CHECK_H

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static int check_passed, check_failed;

static inline bool check_at(bool ok, const char *what, const char *file, int line) {
    if (ok) {
        check_passed++;
    } else {
        check_failed++;
        printf("FAILED %s:%d: %s\n", file, line, what);
    }
    return ok;
}

// CHECK(condition): NaN must fail, so write comparisons as `difference <= tolerance`.
#define CHECK(condition) check_at((condition), #condition, __FILE__, __LINE__)

// CHECK_ERROR(call, err, "words"): the call must return false with a message that holds the words.
#define CHECK_ERROR(call, err, words) check_error_at((call), #call, (err).text, words, __FILE__, __LINE__)

static inline bool check_error_at(bool result, const char *call, const char *text, const char *words,
                                  const char *file, int line) {
    bool ok = !result && strstr(text, words) != NULL;
    if (!ok) {
        printf("       %s returned %s, message \"%s\", expected an error with \"%s\"\n", call,
               result ? "true" : "false", text, words);
    }
    return check_at(ok, call, file, line);
}

static inline int check_report(void) {
    printf("%d passed, %d failed\n", check_passed, check_failed);
    return check_failed > 0 || check_passed == 0;
}

#endif
