// test_verifiers.c: the number that a text answers with, by table and against the C library's patterns.
#include "llmc/rand.h"
#include "llmc/verifiers.h"

#include "check.h"
#include "number_rule.h"

static void check_answer(const char *text, NumberRule rule, const char *expected) {
    char *answer = (char *)malloc(strlen(text) + 1);
    const size_t length = last_number(answer, text, strlen(text), rule);
    if (!CHECK(strcmp(answer, expected) == 0 && length == strlen(expected))) {
        printf("       \"%s\" answers \"%s\", expected \"%s\"\n", text, answer, expected);
    }
    free(answer);
}

static void test_table(void) {
    static const struct {
        const char *text, *without_sign, *with_sign;
    } rows[] = {
        {"-5", "5", "-5"},
        {"5-3=2", "2", "2"},
        {"x=-.5", "-.5", "-.5"},
        {"5-3", "3", "-3"},
        {"+7", "7", "+7"},
        {"-5.5", "-5.5", "-5.5"},
        {"--5", "5", "-5"},
        {"+-.5", "-.5", "-.5"},
        {"1,234,567", "1234567", "1234567"},
        {"1,2,3", "3", "3"},
        {"1,2", "12", "12"},
        {"12,345.67", "12345.67", "12345.67"},
        {"a, 5", "5", "5"},
        {",5,", "5", "5"},
        {"$72", "72", "72"},
        {"$72.00.", "72.00", "72.00"},
        {"072", "072", "072"},
        {"2.5.", "2.5", "2.5"},
        {"72.", "72", "72"},
        {"1.2.3", ".3", ".3"},
        {"1..5", ".5", ".5"},
        {"5e3", "3", "3"},
        {"3/4", "4", "4"},
        {"50%", "50", "50"},
        {"10:30", "30", "30"},
        {"The answer is 5. I counted 12 times.", "12", "12"},
        {"So the answer is 8.\n\nQuestion: 9", "9", "9"},
        {"So the answer is - 8", "8", "8"},
        {"no number", "no number", "no number"},
        {"-", "-", "-"},
        {".", ".", "."},
        {"-.", "-.", "-."},
        {"", "", ""},
        {"seven", "seven", "seven"},
        {"\xD9\xA3 \xEF\xBC\x95", "\xD9\xA3 \xEF\xBC\x95", "\xD9\xA3 \xEF\xBC\x95"},  // other scripts' digits
        {"4\xE2\x88\x92"
         "7",
         "7", "7"},  // a minus sign that is not ASCII
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        check_answer(rows[i].text, NUMBERS_UNSIGNED, rows[i].without_sign);
        check_answer(rows[i].text, NUMBERS_SIGNED, rows[i].with_sign);
    }
    char answer[8];
    CHECK(last_number(answer, "12345", 3, NUMBERS_SIGNED) == 3 && strcmp(answer, "123") == 0);
    CHECK(last_number(answer, "1,2", 2, NUMBERS_SIGNED) == 1 && strcmp(answer, "1") == 0);
    CHECK(last_number(answer,
                      "a\0"
                      "7",
                      3, NUMBERS_SIGNED) == 1 &&
          strcmp(answer, "7") == 0);
}

static void test_patterns(void) {
    Pcg64 rng;
    pcg64_seed(&rng, 1);
    for (int i = 0; i < 20000; i++) {
        static const char letters[] = "0123++--..,,,, x";
        char text[40];
        const size_t size = pcg64_bounded(&rng, sizeof text - 1);
        for (size_t k = 0; k < size; k++) { text[k] = letters[pcg64_bounded(&rng, sizeof letters - 2)]; }
        text[size] = '\0';
        for (int rule = NUMBERS_UNSIGNED; rule <= NUMBERS_SIGNED; rule++) {
            char *expected = number_by_patterns(text, (NumberRule)rule);
            check_answer(text, (NumberRule)rule, expected);
            free(expected);
        }
    }
}

static void test_gold(void) {
    static const struct {
        const char *solution, *gold;
    } rows[] = {
        {"2 + 2 = <<2+2=4>>4\n#### 4", " 4"},
        {"#### 1\n#### 1,234", " 1,234"},
        {"####", ""},
        {"18", "18"},
        {"### 4", "### 4"},
        {"##### 5", " 5"},
        {"", ""},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        size_t size;
        const char *gold = gsm8k_gold(rows[i].solution, strlen(rows[i].solution), &size);
        CHECK(size == strlen(rows[i].gold) && memcmp(gold, rows[i].gold, size) == 0);
    }
}

int main(void) {
    test_table();
    test_patterns();
    test_gold();
    return check_report();
}
