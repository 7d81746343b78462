// fuzz_verifiers.c: any bytes as an answer, compared with what the patterns find.
#include <stdint.h>

#include "number_rule.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char *text = strndup((const char *)data, size);
    const size_t length = strlen(text);
    char *answer = (char *)malloc(length + 1);
    for (int rule = NUMBERS_UNSIGNED; rule <= NUMBERS_SIGNED; rule++) {
        char *expected = number_by_patterns(text, (NumberRule)rule);
        if (last_number(answer, text, length, (NumberRule)rule) != strlen(expected) ||
            strcmp(answer, expected) != 0) {
            abort();
        }
        free(expected);
    }
    size_t gold;
    const char *begin = gsm8k_gold(text, length, &gold);
    if (begin + gold != text + length) { abort(); }
    free(answer);
    free(text);
    return 0;
}
