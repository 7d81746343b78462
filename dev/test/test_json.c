// test_json.c: the JSON reader against RFC 8259, its messages, and the writer's round trips.
#include "llmc/json.h"

#include "check.h"

static Error err;

static bool parses(const char *text) {
    JsonDocument doc;
    bool ok = json_parse(&doc, text, strlen(text), "x.json", &err);
    if (ok) { json_free(&doc); }
    return ok;
}

// The text must be refused with a message that begins with "x.json:PLACE: found FOUND".
static void refuse_bytes(const char *text, size_t size, const char *place_and_found) {
    JsonDocument doc;
    char expected[256];
    snprintf(expected, sizeof expected, "x.json:%s", place_and_found);
    // an exact copy on the heap, so the sanitizer sees a read beyond its end
    char *copy = (char *)malloc(size + (size == 0));
    memcpy(copy, text, size);
    bool refused =
        !json_parse(&doc, copy, size, "x.json", &err) && strncmp(err.text, expected, strlen(expected)) == 0;
    if (!refused) {
        printf("       text %.*s\n       message %s\n       expected %s\n", (int)size, text, err.text,
               expected);
    }
    CHECK(refused);
    CHECK(doc.root == NULL && doc.strings == NULL && doc.blocks == NULL);
    free(copy);
}

static void refuse(const char *text, const char *place_and_found) {
    refuse_bytes(text, strlen(text), place_and_found);
}

static void test_values(void) {
    JsonDocument doc;
    const char *text =
        " {\"null\": null, \"yes\": true, \"no\": false, \"text\": \"a\\u0000b\", \"empty\": {},\n"
        "\"list\": [1, -2.5e3, [], \"\"], \"\": 7, \"\\u006bey\": \"value\"}\n";
    CHECK(json_parse(&doc, text, strlen(text), "x.json", &err));
    CHECK(doc.root->type == JSON_OBJECT && doc.root->count == 8);
    CHECK(json_member(doc.root, "null")->type == JSON_NULL);
    CHECK(json_member(doc.root, "yes")->boolean && !json_member(doc.root, "no")->boolean);
    const Json *string = json_member(doc.root, "text");
    CHECK(string->length == 3 && memcmp(string->string, "a\0b", 4) == 0);
    CHECK(json_member(doc.root, "empty")->count == 0 && json_first(json_member(doc.root, "empty")) == NULL);
    const Json *list = json_member(doc.root, "list");
    CHECK(list->count == 4 && json_first(list)->integral && json_first(list)->integer == 1);
    CHECK(json_next(json_first(list))->number == -2500.0 && !json_next(json_first(list))->integral);
    CHECK(json_member(doc.root, "")->integer == 7);
    CHECK(strcmp(json_member(doc.root, "key")->string, "value") == 0);
    CHECK(json_member(doc.root, "absent") == NULL && json_member(list, "key") == NULL &&
          json_member(NULL, "a") == NULL);
    json_free(&doc);
}

static void test_numbers(void) {
    static const struct {
        const char *text;
        bool integral;
        int64_t integer;
        double number;
    } numbers[] = {
        {"0", true, 0, 0.0},
        {"-1", true, -1, -1.0},
        {"9223372036854775807", true, INT64_MAX, 9223372036854775808.0},
        {"-9223372036854775808", true, INT64_MIN, -9223372036854775808.0},
        {"9223372036854775808", false, 0, 9223372036854775808.0},
        {"-9223372036854775809", false, 0, -9223372036854775808.0},
        {"92233720368547758070", false, 0, 92233720368547758070.0},
        {"-100000000000000000000000", false, 0, -1e23},
        {"1.0", false, 0, 1.0},
        {"1e2", false, 0, 100.0},
        {"1E+2", false, 0, 100.0},
        {"125e-3", false, 0, 0.125},
        {"0.1", false, 0, 0.1},
        {"1.7976931348623157e308", false, 0, 1.7976931348623157e308},
        {"4.9e-324", false, 0, 4.9e-324},
        {"1e-999", false, 0, 0.0},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        JsonDocument doc;
        if (!CHECK(json_parse(&doc, numbers[i].text, strlen(numbers[i].text), "x.json", &err))) { continue; }
        CHECK(doc.root->type == JSON_NUMBER && doc.root->integral == numbers[i].integral);
        CHECK(doc.root->number == numbers[i].number);
        CHECK(!doc.root->integral || doc.root->integer == numbers[i].integer);
        json_free(&doc);
    }
    JsonDocument doc;
    CHECK(json_parse(&doc, "-0", 2, "x.json", &err) && signbit(doc.root->number));
    json_free(&doc);
    refuse("01", "1:2: found '1', expected nothing after the value");
    refuse("-", "1:2: found the end of the text, expected a digit");
    refuse("+1", "1:1: found '+'");
    refuse(".5", "1:1: found '.'");
    refuse("1.", "1:3: found the end of the text, expected a digit after the decimal point");
    refuse("1.e2", "1:3: found 'e'");
    refuse("1e", "1:3: found the end of the text, expected a digit in the exponent");
    refuse("1e+-2", "1:4: found '-'");
    refuse("-a", "1:2: found 'a'");
    refuse("0x10", "1:2: found 'x'");
    refuse("NaN", "1:1: found 'N'");
    refuse("Infinity", "1:1: found 'I'");
    refuse("1e999", "1:1: found a number beyond the range of a double");
    refuse("[1, -1e400]", "1:5: found a number beyond the range of a double");
}

static void test_strings(void) {
    static const struct {
        const char *text, *bytes;
    } strings[] = {
        {"\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "\"\\/\b\f\n\r\t"},
        {"\"\\u0041\\u00e9\\u20AC\\uD83D\\uDE42\"", "A\xC3\xA9\xE2\x82\xAC\xF0\x9F\x99\x82"},
        {"\"\\uFFFF\\uDBFF\\uDFFF\"", "\xEF\xBF\xBF\xF4\x8F\xBF\xBF"},
        {"\"\x7F\xC2\x80\xDF\xBF\xE0\xA0\x80\xED\x9F\xBF\xEE\x80\x80\xF0\x90\x80\x80\xF4\x8F\xBF\xBF\"",
         "\x7F\xC2\x80\xDF\xBF\xE0\xA0\x80\xED\x9F\xBF\xEE\x80\x80\xF0\x90\x80\x80\xF4\x8F\xBF\xBF"},
    };
    for (size_t i = 0; i < sizeof strings / sizeof strings[0]; i++) {
        JsonDocument doc;
        if (!CHECK(json_parse(&doc, strings[i].text, strlen(strings[i].text), "x.json", &err))) { continue; }
        CHECK(doc.root->length == strlen(strings[i].bytes) &&
              strcmp(doc.root->string, strings[i].bytes) == 0);
        json_free(&doc);
    }
    refuse("\"abc", "1:1: found a string without an end");
    refuse("\"abc\\", "1:6: found the end of the text, expected one of");
    refuse("\"\\x\"", "1:3: found 'x', expected one of");
    refuse("\"\\u12G4\"", "1:6: found 'G', expected four hexadecimal digits");
    refuse("\"\\u12", "1:6: found the end of the text, expected four");
    refuse("\"a\nb\"", "1:3: found byte 0x0A, expected control characters");
    refuse("\"\t\"", "1:2: found byte 0x09");
    refuse_bytes("\"a\0b\"", 5, "1:3: found byte 0x00");
    refuse("\"\\uD800\"", "1:2: found a high surrogate by itself");
    refuse("\"\\uD800x\"", "1:2: found a high surrogate by itself");
    refuse("\"\\uD800\\n\"", "1:2: found a high surrogate by itself");
    refuse("\"\\uD800\\uD800\"", "1:2: found a high surrogate by itself");
    refuse("\"\\uD800\\u0041\"", "1:2: found a high surrogate by itself");
    refuse("\"\\uDC00\"", "1:2: found a low surrogate by itself");
    refuse("'a'", "1:1: found '''");
    // not UTF-8: a bare continuation, overlong forms, a surrogate, beyond U+10FFFF, truncated, bad
    // continuations
    const char *const bad[] = {
        "\x80",         "\xC0\x80",         "\xC1\xBF",     "\xE0\x9F\xBF", "\xF0\x8F\xBF\xBF",
        "\xED\xA0\x80", "\xF4\x90\x80\x80", "\xF5\x80\x80", "\xFF",         "\xC3",
        "\xE2\x82",     "\xF0\x9F\x99",     "\xE2\x28\xA1", "\xE2\x82\x28", "\xF0\x9F\x99\x28"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char text[16], found[64];
        snprintf(text, sizeof text, "\"%s\"", bad[i]);
        snprintf(found, sizeof found, "1:2: found byte 0x%02X, expected valid UTF-8",
                 (unsigned char)bad[i][0]);
        refuse(text, found);
    }
    refuse_bytes("\"\xE2\x82", 3, "1:2: found byte 0xE2");
}

static void test_structure(void) {
    refuse("", "1:1: found the end of the text, expected a JSON value");
    refuse("  \n ", "2:2: found the end of the text");
    refuse_bytes("\0", 1, "1:1: found byte 0x00");
    refuse("\xEF\xBB\xBF{}", "1:1: found byte 0xEF");
    refuse("[1, 2", "1:6: found the end of the text, expected ',' or ']'");
    refuse("[1 2]", "1:4: found '2', expected ',' or ']'");
    refuse("[1,]", "1:4: found ']', expected a JSON value");
    refuse("[,1]", "1:2: found ','");
    refuse("]", "1:1: found ']'");
    refuse("{\"a\" 1}", "1:6: found '1', expected ':' after the key");
    refuse("{\"a\": 1,}", "1:9: found '}', expected a key in double quotes");
    refuse("{a: 1}", "1:2: found 'a', expected a key in double quotes");
    refuse("{1: 1}", "1:2: found '1', expected a key");
    refuse("{\"a\": 1 \"b\": 2}", "1:9: found '\"', expected ',' or '}'");
    refuse("{\"a\": }", "1:7: found '}'");
    refuse("{\"a\"", "1:5: found the end of the text, expected ':'");
    refuse("[1] [2]", "1:5: found '[', expected nothing after the value");
    refuse("{}\n\n  x", "3:3: found 'x', expected nothing after the value");
    refuse("tru", "1:1: found 't', expected a JSON value");
    refuse("nul", "1:1: found 'n'");
    refuse("True", "1:1: found 'T'");
    refuse("[1] // comment", "1:5: found '/'");
    // columns count characters, not bytes
    refuse("{\"\xC3\xA9\xE2\x82\xAC\": x}", "1:8: found 'x'");
    refuse("{\"a\": 1,\n \"b\": 2,\n \"a\": 3}", "3:2: found the key \"a\" a second time");
    refuse("{\"a\": {\"x\": 1, \"\\u0078\": 2}}", "1:16: found the key \"x\" a second time");
    CHECK(parses("{\"a\": {\"a\": {\"a\": 1}}, \"b\": [{\"a\": 1}, {\"a\": 2}]}"));

    char deep[512];
    memset(deep, '[', 100);
    memset(deep + 100, ']', 100);
    deep[200] = '\0';
    CHECK(parses(deep));
    memset(deep, '[', 101);
    memset(deep + 101, ']', 101);
    deep[202] = '\0';
    refuse(deep, "1:101: found arrays and objects nested too deep");

    // many members, to make the table of keys grow; then one of them twice
    JsonWriter w = {0};
    json_begin_object(&w, NULL);
    for (int i = 0; i < 5000; i++) {
        char key[16];
        snprintf(key, sizeof key, "key %d", i);
        json_integer(&w, key, i);
    }
    size_t length = w.length;
    json_end_object(&w);
    JsonDocument doc;
    if (CHECK(json_parse(&doc, w.text, w.length, "x.json", &err))) {
        CHECK(doc.root->count == 5000 && json_member(doc.root, "key 4999")->integer == 4999);
        json_free(&doc);
    }
    w.length = length;  // as it was before the end
    w.depth = 1;
    json_integer(&w, "key 17", 1);
    json_end_object(&w);
    CHECK_ERROR(json_parse(&doc, w.text, w.length, "x.json", &err), err, "the key \"key 17\" a second time");
    json_writer_free(&w);

    // every proper prefix of a text is refused
    const char *text = "{\"a\": [1.5e3, true, null, \"\\uD83D\\uDE42\xC3\xA9\"], \"b\": {\"c\": -1}}";
    for (size_t size = 0; size < strlen(text); size++) {
        char *copy = (char *)malloc(size + 1);
        memcpy(copy, text, size);
        CHECK(!json_parse(&doc, copy, size, "x.json", &err) && strstr(err.text, "expected") != NULL);
        free(copy);
    }
}

static void test_members(void) {
    JsonDocument doc;
    const char *text =
        "{\"size\": 3, \"negative\": -1, \"real\": 2.5, \"text\": \"abc\", \"yes\": true, \"nothing\": null,"
        " \"list\": [], \"nul\": \"a\\u0000b\", \"huge\": 1e30}";
    if (!CHECK(json_parse(&doc, text, strlen(text), "c.json", &err))) { return; }
    const Json *root = doc.root;
    size_t size = 9;
    double number = 9.0;
    bool flag = false;
    const char *string = "before";
    CHECK(json_get_size(root, "size", true, &size, "c.json", &err) && size == 3);
    CHECK(json_get_double(root, "real", true, &number, "c.json", &err) && number == 2.5);
    CHECK(json_get_double(root, "size", true, &number, "c.json", &err) && number == 3.0);
    CHECK(json_get_bool(root, "yes", true, &flag, "c.json", &err) && flag);
    CHECK(json_get_string(root, "text", true, &string, "c.json", &err) && strcmp(string, "abc") == 0);
    // absent or null: unchanged if optional, an error if required
    CHECK(json_get_size(root, "absent", false, &size, "c.json", &err) && size == 3);
    CHECK(json_get_string(root, "nothing", false, &string, "c.json", &err) && strcmp(string, "abc") == 0);
    CHECK_ERROR(json_get_size(root, "absent", true, &size, "c.json", &err), err,
                "c.json: \"absent\" is missing");
    CHECK_ERROR(json_get_bool(root, "nothing", true, &flag, "c.json", &err), err,
                "c.json: \"nothing\" is missing");
    // of another type: always an error
    CHECK_ERROR(json_get_size(root, "negative", false, &size, "c.json", &err), err,
                "c.json: \"negative\" is -1, expected a whole number, 0 or more");
    CHECK_ERROR(json_get_size(root, "real", true, &size, "c.json", &err), err,
                "is 2.5, expected a whole number");
    CHECK_ERROR(json_get_size(root, "huge", true, &size, "c.json", &err), err,
                "is 1e+30, expected a whole number");
    CHECK_ERROR(json_get_size(root, "text", true, &size, "c.json", &err), err,
                "is the string \"abc\", expected");
    CHECK_ERROR(json_get_double(root, "list", true, &number, "c.json", &err), err,
                "is an array, expected a number");
    CHECK_ERROR(json_get_bool(root, "size", true, &flag, "c.json", &err), err,
                "is 3, expected true or false");
    CHECK_ERROR(json_get_string(root, "yes", true, &string, "c.json", &err), err,
                "is true, expected a string");
    CHECK_ERROR(json_get_string(root, "nul", true, &string, "c.json", &err), err, "holds a NUL character");
    CHECK(size == 3 && number == 3.0 && flag && strcmp(string, "abc") == 0);
    json_free(&doc);
}

// As Python's bytes.decode("utf-8", "replace") does it.
static void test_replaced(void) {
    static const struct {
        const char *bytes;
        int characters;  // U+FFFD in their place
    } rows[] = {
        {"\x80", 1},         {"\xFF\xFE", 2},         {"\xC2", 1},         {"\xC0\x80", 2},
        {"\xE2\x82", 1},     {"\xE0\x80\x80", 3},     {"\xED\xA0\x80", 3}, {"\xF0\x9F\x99", 1},
        {"\xF0\x8F\x99", 3}, {"\xF4\x90\x80\x80", 4}, {"\xF0\x9F\xC2", 2}, {"\xE2\x82\xF0\x9F", 2},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        for (int behind = 0; behind < 2; behind++) {  // another character
            char bytes[8], want[32] = "\"";
            snprintf(bytes, sizeof bytes, "%s%s", rows[i].bytes, behind ? "\xC3\xA9" : "");
            for (int n = 0; n < rows[i].characters; n++) { strcat(want, "\xEF\xBF\xBD"); }
            strcat(want, behind ? "\xC3\xA9\"" : "\"");
            JsonWriter w = {0};
            json_string(&w, NULL, bytes);
            CHECK(strcmp(w.text, want) == 0);
            json_writer_free(&w);
        }
    }
}

static void test_writer(void) {
    JsonWriter w = {0};
    json_begin_object(&w, NULL);
    json_string(&w, "text", "a\"b\\c/\n\t\r\x01\xC3\xA9");
    json_bytes(&w, "bytes", "\xFF\xE2\x82\0z", 5);
    json_begin_array(&w, "list");
    json_null(&w, NULL);
    json_bool(&w, NULL, true);
    json_begin_array(&w, NULL);
    json_end_array(&w);
    json_end_array(&w);
    json_number(&w, "nan", NAN);
    json_number(&w, "infinity", -INFINITY);
    json_integer(&w, "integer", INT64_MIN);
    json_raw(&w, "raw", "{\"x\": 1}");
    json_end_object(&w);
    CHECK(strcmp(w.text, "{\"text\": \"a\\\"b\\\\c/\\n\\t\\u000d\\u0001\xC3\xA9\", \"bytes\": "
                         "\"\xEF\xBF\xBD\xEF\xBF\xBD\\u0000z\", \"list\": [null, true, []], \"nan\": null, "
                         "\"infinity\": null, \"integer\": -9223372036854775808, \"raw\": {\"x\": 1}}") == 0);
    CHECK(w.length == strlen(w.text) && parses(w.text));
    json_writer_free(&w);

    JsonWriter pretty = {0};
    pretty.pretty = true;
    json_begin_object(&pretty, NULL);
    json_integer(&pretty, "a", 1);
    json_begin_array(&pretty, "b");
    json_integer(&pretty, NULL, 2);
    json_integer(&pretty, NULL, 3);
    json_end_array(&pretty);
    json_begin_object(&pretty, "c");
    json_end_object(&pretty);
    json_end_object(&pretty);
    CHECK(strcmp(pretty.text, "{\n  \"a\": 1,\n  \"b\": [\n    2,\n    3\n  ],\n  \"c\": {}\n}") == 0);
    json_writer_free(&pretty);
}

// Every finite double or float reads back with the same bits, from as few digits as that takes.
static void test_float_round_trips(void) {
    static const struct {
        double value;
        const char *text;
    } doubles[] = {{0.1, "0.1"},
                   {1.0, "1.0"},
                   {-0.0, "-0.0"},
                   {1e-8, "1e-08"},
                   {3e22, "3e+22"},
                   {500000, "500000.0"},
                   {1.0 / 3.0, "0.3333333333333333"},
                   {5e-324, "4.94065645841247e-324"}};
    for (size_t i = 0; i < sizeof doubles / sizeof doubles[0]; i++) {
        JsonWriter w = {0};
        json_number(&w, NULL, doubles[i].value);
        CHECK(strcmp(w.text, doubles[i].text) == 0);
        json_writer_free(&w);
    }
    JsonWriter w = {0};
    json_float(&w, NULL, 1e-6f);
    CHECK(strcmp(w.text, "1e-06") == 0);
    json_writer_free(&w);

    uint64_t state = 1;
    int wrong = 0, checked = 0;
    for (int i = 0; i < 20000; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        uint32_t high = (uint32_t)(state >> 32);
        double d;
        float f;
        memcpy(&d, &state, sizeof d);
        memcpy(&f, &high, sizeof f);
        if (!isfinite(d) || !isfinite(f)) { continue; }
        JsonWriter array = {0};
        JsonDocument doc;
        json_begin_array(&array, NULL);
        json_number(&array, NULL, d);
        json_float(&array, NULL, f);
        json_end_array(&array);
        bool same = json_parse(&doc, array.text, array.length, "x.json", &err);
        if (same) {
            double d_back = json_first(doc.root)->number;
            float f_back = (float)json_next(json_first(doc.root))->number;
            same = memcmp(&d, &d_back, sizeof d) == 0 && memcmp(&f, &f_back, sizeof f) == 0;
            json_free(&doc);
        }
        wrong += !same;
        checked++;
        json_writer_free(&array);
    }
    printf("numbers written and read back: %d, other bits: %d\n", checked, wrong);
    CHECK(checked > 19000 && wrong == 0);
}

static void test_files(void) {
    JsonDocument doc;
    char path[] = "/tmp/test_json_XXXXXX";
    int descriptor = mkstemp(path);
    CHECK(descriptor >= 0);
    CHECK_ERROR(json_parse_file(&doc, path, &err), err, ":1:1: found the end of the text");
    CHECK(write(descriptor, "[1,\n2", 5) == 5);
    CHECK_ERROR(json_parse_file(&doc, path, &err), err, ":2:2: found the end of the text");
    CHECK(write(descriptor, "]", 1) == 1);
    CHECK(json_parse_file(&doc, path, &err) && doc.root->count == 2);
    json_free(&doc);
    // an editor's byte order mark: dropped in a file, and in a file only
    CHECK(pwrite(descriptor, "\xEF\xBB\xBF[7]", 6, 0) == 6);
    CHECK(json_parse_file(&doc, path, &err) && doc.root->count == 1);
    json_free(&doc);
    CHECK(pwrite(descriptor, "\xEF\xBB\xBF[7 ", 6, 0) == 6);
    CHECK_ERROR(json_parse_file(&doc, path, &err), err, ":1:4: found the end of the text");
    CHECK_ERROR(json_parse(&doc, "\xEF\xBB\xBF[7]", 6, "x.json", &err), err, "x.json:1:1: found byte 0xEF");
    close(descriptor);
    unlink(path);
    CHECK_ERROR(json_parse_file(&doc, path, &err), err, "cannot be opened: No such file");
    CHECK_ERROR(json_parse_file(&doc, "/tmp", &err), err, "is not a regular file");

    const char *tokenizer = "../shared/data/tokenizer/dolma2_tokenizer.json";
    if (!path_is_file(tokenizer)) {
        printf("skipped: the OLMo 2 tokenizer (../shared not present)\n");
        return;
    }
    double start = seconds_now();
    if (!CHECK(json_parse_file(&doc, tokenizer, &err))) { return; }
    printf("%s: read in %.3f s\n", tokenizer, seconds_now() - start);
    const Json *model = json_member(doc.root, "model");
    CHECK(json_member(model, "vocab")->count + json_member(doc.root, "added_tokens")->count >= 100278);
    json_free(&doc);
}

int main(void) {
    test_values();
    test_numbers();
    test_strings();
    test_structure();
    test_members();
    test_replaced();
    test_writer();
    test_float_round_trips();
    test_files();
    return check_report();
}
