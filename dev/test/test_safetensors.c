// test_safetensors.c: headers that lie, conversions against exact values, shards, and round trips
// through the writer.
#include "llmc/safetensors.h"

#include "check.h"

static Error err;
static char dir[] = "/tmp/test_safetensors_XXXXXX";

// The path of a name in the test's directory, in one of four buffers used in turn.
static const char *in_dir(const char *name) {
    static char paths[4][PATH_MAX];
    static int next;
    char *path = paths[next++ % 4];
    CHECK(path_join(path, dir, name, &err));
    return path;
}

static void write_bytes(const char *name, const void *data, size_t size) {
    FILE *file = fopen(in_dir(name), "wb");
    if (CHECK(file != NULL)) {
        CHECK(fwrite(data, 1, size, file) == size);
        fclose(file);
    }
}

// Writes a safetensors file with that header and `size` bytes of data, which count up from 0.
static void write_file(const char *name, const char *header, size_t size) {
    uint64_t length = strlen(header);
    char *bytes = (char *)malloc(8 + length + size);
    memcpy(bytes, &length, 8);
    memcpy(bytes + 8, header, length);
    for (size_t i = 0; i < size; i++) { bytes[8 + length + i] = (char)i; }
    write_bytes(name, bytes, 8 + length + size);
    free(bytes);
}

// Opening must fail with a message that names the file and has the words.
static void refuse_at(const char *name, const char *words, int line) {
    Safetensors st;
    bool opened = safetensors_open(&st, in_dir(name), &err);
    bool refused = !opened && strstr(err.text, dir) != NULL && strstr(err.text, words) != NULL;
    if (opened) { safetensors_close(&st); }
    if (!refused) { printf("       line %d: message \"%s\", expected \"%s\"\n", line, err.text, words); }
    CHECK(refused);
    CHECK(st.files == NULL && st.tensors == NULL && st.count == 0);
}
#define REFUSE(name, words) refuse_at(name, words, __LINE__)
#define REFUSE_HEADER(header, size, words) \
    (write_file("bad.safetensors", header, size), REFUSE("bad.safetensors", words))

static void test_read(void) {
    Safetensors st;
    // out of order, with a scalar, an empty tensor, odd addresses, and spaces after the header
    write_file("good.safetensors",
               "{\"b\": {\"dtype\": \"U8\", \"shape\": [5], \"data_offsets\": [0, 5]},"
               " \"__metadata__\": {\"format\": \"pt\", \"config\": \"{}\"},"
               " \"a\": {\"dtype\": \"F32\", \"shape\": [2, 2], \"data_offsets\": [5, 21]},"
               " \"none\": {\"dtype\": \"F32\", \"shape\": [0, 7], \"data_offsets\": [21, 21]},"
               " \"scalar\": {\"dtype\": \"I64\", \"shape\": [], \"data_offsets\": [21, 29]}}   ",
               29);
    if (!CHECK(safetensors_open(&st, in_dir("good.safetensors"), &err))) { return; }
    CHECK(st.count == 4 && safetensors_find(&st, "c") == NULL &&
          safetensors_find(&st, "__metadata__") == NULL);
    const SafetensorsTensor *a = safetensors_find(&st, "a"), *b = safetensors_find(&st, "b");
    const SafetensorsTensor *none = safetensors_find(&st, "none"), *scalar = safetensors_find(&st, "scalar");
    CHECK(a != NULL && a->dtype == DTYPE_F32 && a->rank == 2 && a->shape[0] == 2 && a->shape[1] == 2);
    CHECK(a->count == 4 && a->bytes == 16 && strcmp(a->name, "a") == 0 &&
          strcmp(a->file, in_dir("good.safetensors")) == 0);
    CHECK(b->dtype == DTYPE_U8 && b->count == 5 && memcmp(b->data, "\0\1\2\3\4", 5) == 0);
    CHECK(none->count == 0 && none->bytes == 0 && scalar->rank == 0 && scalar->count == 1);
    float values[4];
    unsigned char bytes[16];
    CHECK(safetensors_to_float(a, values, &err));
    for (size_t i = 0; i < 16; i++) { bytes[i] = (unsigned char)(5 + i); }
    CHECK(memcmp(values, bytes, 16) == 0);
    CHECK(safetensors_to_float(none, NULL, &err));
    CHECK_ERROR(safetensors_to_float(b, values, &err), err,
                "tensor \"b\" has dtype U8, expected F32, BF16, F16 or F64");
    safetensors_close(&st);
    write_file("empty.safetensors", "{}", 0);
    CHECK(safetensors_open(&st, in_dir("empty.safetensors"), &err) && st.count == 0);
    CHECK(safetensors_find(&st, "a") == NULL);
    safetensors_close(&st);
}

static void test_bad_files(void) {
    REFUSE("absent.safetensors", "cannot be opened: No such file or directory");
    write_bytes("bad.safetensors", "", 0);
    REFUSE("bad.safetensors", "has 0 bytes, too few for a safetensors file");
    write_bytes("bad.safetensors", "\1\0\0", 3);
    REFUSE("bad.safetensors", "has 3 bytes, too few");
    write_bytes("bad.safetensors", "\3\0\0\0\0\0\0\0{}", 10);
    REFUSE("bad.safetensors", "says its header has 3 bytes, but only 2 follow");
    const char pointer[] = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n";
    write_bytes("bad.safetensors", pointer, strlen(pointer));
    REFUSE("bad.safetensors", "is a Git LFS pointer, not the file itself");
    write_bytes("bad.safetensors", "\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF{}", 10);
    REFUSE("bad.safetensors", "says its header has 18446744073709551615 bytes, but only 2 follow");
    write_bytes("bad.safetensors", "\0\0\0\0\0\0\0\0{}", 10);
    REFUSE("bad.safetensors", ":1:1: found the end of the text, expected a JSON value");
    write_bytes("bad.safetensors", "PK\3\4 a pickle in a zip archive", 30);
    REFUSE("bad.safetensors", "is not a safetensors file");
    REFUSE_HEADER("[]", 0, "the header is not a JSON object");
    REFUSE_HEADER("{\"a\": {}", 0, ":1:9: found the end of the text");
    REFUSE_HEADER("{\"a\": 1}", 0, "tensor \"a\" is not described by an object in the header");
    REFUSE_HEADER("{\"a\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [0, 4]}, \"a\": {}}", 4,
                  "the key \"a\" a second time");
    REFUSE_HEADER("{\"a\\u0000b\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [0, 4]}}", 4,
                  "the name of a tensor holds a NUL");
}

static void test_lying_headers(void) {
    static const struct {
        const char *entry;
        size_t size;
        const char *words;
    } lies[] = {
        {"\"shape\": [1], \"data_offsets\": [0, 4]", 4, "\"dtype\" is missing"},
        {"\"dtype\": 32, \"shape\": [1], \"data_offsets\": [0, 4]", 4, "\"dtype\" is 32, expected a string"},
        {"\"dtype\": \"F4\", \"shape\": [1], \"data_offsets\": [0, 4]", 4, "has dtype \"F4\", expected F32"},
        {"\"dtype\": \"F32\", \"data_offsets\": [0, 4]", 4, "has no \"shape\" array"},
        {"\"dtype\": \"F32\", \"shape\": 1, \"data_offsets\": [0, 4]", 4, "has no \"shape\" array"},
        {"\"dtype\": \"F32\", \"shape\": [-1], \"data_offsets\": [0, 4]", 4, "has -1 in its shape"},
        {"\"dtype\": \"F32\", \"shape\": [1.0], \"data_offsets\": [0, 4]", 4, "has 1.0 in its shape"},
        {"\"dtype\": \"F32\", \"shape\": [\"1\"], \"data_offsets\": [0, 4]", 4,
         "has the string \"1\" in its shape"},
        {"\"dtype\": \"F32\", \"shape\": [1,1,1,1,1,1,1,1,1], \"data_offsets\": [0, 4]", 4,
         "has 9 dimensions"},
        {"\"dtype\": \"F32\", \"shape\": [1]", 4, "has no \"data_offsets\" array"},
        {"\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [0]", 4,
         "has no \"data_offsets\" array of two"},
        {"\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [0, 4, 8]", 4,
         "has no \"data_offsets\" array of two"},
        {"\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [-4, 0]", 4,
         "has no \"data_offsets\" array of two whole"},
        {"\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [0, 4]", 3,
         "has data_offsets [0, 4], but the file holds 3 bytes of data"},
        {"\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [4, 0]", 4, "has data_offsets [4, 0]"},
        {"\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [8, 12]", 4, "has data_offsets [8, 12]"},
        {"\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [9223372036854775807, 9223372036854775807]",
         4, "has data_offsets"},
        {"\"dtype\": \"F32\", \"shape\": [2], \"data_offsets\": [0, 4]", 4,
         "has 4 bytes of data, but its shape (2) and dtype F32 say otherwise"},
        {"\"dtype\": \"F32\", \"shape\": [1, 2], \"data_offsets\": [0, 12]", 12,
         "shape (1, 2) and dtype F32 say otherwise"},
        {"\"dtype\": \"BF16\", \"shape\": [1], \"data_offsets\": [0, 4]", 4, "dtype BF16 say otherwise"},
        {"\"dtype\": \"F32\", \"shape\": [], \"data_offsets\": [0, 0]", 0, "has 0 bytes of data"},
        // products that wrap around to 0, 4 or 16 bytes in 64 bits
        {"\"dtype\": \"F32\", \"shape\": [4294967296, 4294967296], \"data_offsets\": [0, 0]", 4,
         "does not fit 64 bits"},
        {"\"dtype\": \"F32\", \"shape\": [4611686018427387904], \"data_offsets\": [0, 0]", 4,
         "say otherwise"},
        {"\"dtype\": \"F32\", \"shape\": [4611686018427387905], \"data_offsets\": [0, 4]", 4,
         "say otherwise"},
    };
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        char header[512];
        snprintf(header, sizeof header, "{\"a\": {%s}}", lies[i].entry);
        REFUSE_HEADER(header, lies[i].size, lies[i].words);
        CHECK(strstr(err.text, "tensor \"a\"") != NULL);
    }
    const char *two = "{\"a\": {\"dtype\": \"U8\", \"shape\": [%d], \"data_offsets\": [0, %d]},"
                      " \"b\": {\"dtype\": \"U8\", \"shape\": [4], \"data_offsets\": [4, 8]}}";
    char header[512];
    Safetensors st;
    snprintf(header, sizeof header, two, 4, 4);
    write_file("bad.safetensors", header, 8);
    CHECK(safetensors_open(&st, in_dir("bad.safetensors"), &err));
    safetensors_close(&st);
    snprintf(header, sizeof header, two, 5, 5);
    REFUSE_HEADER(header, 8, "shares bytes with another");
    REFUSE_HEADER(header, 9, "shares bytes with another");
    snprintf(header, sizeof header, two, 3, 3);
    REFUSE_HEADER(header, 8, "byte 3 of its 8 bytes of data belongs to no tensor");
    snprintf(header, sizeof header, two, 4, 4);
    REFUSE_HEADER(header, 9, "byte 8 of its 9 bytes of data belongs to no tensor");
    REFUSE_HEADER("{}", 1, "byte 0 of its 1 bytes");
    snprintf(header, sizeof header, two, 8, 8);
    REFUSE_HEADER(header, 8, "shares bytes with another");
}

// A good file cut at every length is refused.
static void test_truncated(void) {
    const char *header = "{\"a\": {\"dtype\": \"F32\", \"shape\": [2], \"data_offsets\": [0, 8]}}";
    char bytes[128];
    uint64_t length = strlen(header);
    memcpy(bytes, &length, 8);
    memcpy(bytes + 8, header, length);
    memset(bytes + 8 + length, 0, 8);
    int opened = 0;
    for (size_t size = 0; size < 16 + length; size++) {
        Safetensors st;
        write_bytes("cut.safetensors", bytes, size);
        if (safetensors_open(&st, in_dir("cut.safetensors"), &err)) {
            opened++;
            safetensors_close(&st);
        }
    }
    CHECK(opened == 0);
}

// Every bfloat16 and every half against its value by definition: sign, fraction and exponent in double
// arithmetic.
static void test_conversions(void) {
    int wrong = 0;
    for (uint32_t bits = 0; bits < 65536; bits++) {
        double sign = bits & 0x8000 ? -1.0 : 1.0;
        uint32_t exponent = bits >> 7 & 0xFF, fraction = bits & 0x7F;
        double expected = exponent == 0     ? sign * ldexp((double)fraction, -126 - 7)
                          : exponent < 0xFF ? sign * ldexp((double)(fraction + 128), (int)exponent - 127 - 7)
                          : fraction == 0   ? sign * INFINITY
                                            : NAN;
        float value = bf16_to_float((uint16_t)bits);
        wrong += isnan(expected) ? !isnan(value)
                                 : (double)value != expected || !signbit(value) != !signbit(expected);

        exponent = bits >> 10 & 0x1F, fraction = bits & 0x3FF;
        expected = exponent == 0     ? sign * ldexp((double)fraction, -14 - 10)
                   : exponent < 0x1F ? sign * ldexp((double)(fraction + 1024), (int)exponent - 15 - 10)
                   : fraction == 0   ? sign * INFINITY
                                     : NAN;
        value = f16_to_float((uint16_t)bits);
        wrong += isnan(expected) ? !isnan(value)
                                 : (double)value != expected || !signbit(value) != !signbit(expected);
    }
    printf("65536 bfloat16 and 65536 half values: %d wrong\n", wrong);
    CHECK(wrong == 0);

    // through a file: F64 is rounded to the nearest float; NaN, infinities and -0 stay
    const char *header = "{\"d\": {\"dtype\": \"F64\", \"shape\": [5], \"data_offsets\": [0, 40]},"
                         " \"h\": {\"dtype\": \"F16\", \"shape\": [2], \"data_offsets\": [40, 44]},"
                         " \"b\": {\"dtype\": \"BF16\", \"shape\": [2], \"data_offsets\": [44, 48]}}";
    const double doubles[5] = {0.1, -0.0, INFINITY, NAN, -3.5};
    const uint16_t halves[2] = {0x0001, 0xC000}, bfloats[2] = {0x0001, 0xC000};
    char bytes[512];
    uint64_t length = strlen(header);
    memcpy(bytes, &length, 8);
    memcpy(bytes + 8, header, length);
    memcpy(bytes + 8 + length, doubles, 40);
    memcpy(bytes + 48 + length, halves, 4);
    memcpy(bytes + 52 + length, bfloats, 4);
    write_bytes("kinds.safetensors", bytes, 56 + length);
    Safetensors st;
    if (!CHECK(safetensors_open(&st, in_dir("kinds.safetensors"), &err))) { return; }
    float values[5];
    CHECK(safetensors_to_float(safetensors_find(&st, "d"), values, &err));
    CHECK(values[0] == 0.1f && values[1] == 0.0f && signbit(values[1]) && values[2] == INFINITY);
    CHECK(isnan(values[3]) && values[4] == -3.5f);
    CHECK(safetensors_to_float(safetensors_find(&st, "h"), values, &err));
    CHECK(values[0] == 0x1p-24f && values[1] == -2.0f);
    CHECK(safetensors_to_float(safetensors_find(&st, "b"), values, &err));
    CHECK(values[0] == 0x1p-133f && values[1] == -2.0f);
    safetensors_close(&st);
}

static void write_index(const char *json) {
    write_bytes("shards/model.safetensors.index.json", json, strlen(json));
}

static void test_shards(void) {
    const char *one = "{\"a\": {\"dtype\": \"U8\", \"shape\": [2], \"data_offsets\": [0, 2]}}";
    const char *two = "{\"c\": {\"dtype\": \"U8\", \"shape\": [1], \"data_offsets\": [0, 1]},"
                      " \"b\": {\"dtype\": \"U8\", \"shape\": [1], \"data_offsets\": [1, 2]}}";
    CHECK(mkdir(in_dir("shards"), 0777) == 0);
    REFUSE("shards", "has neither model.safetensors nor model.safetensors.index.json");
    write_file("shards/1.safetensors", one, 2);
    write_file("shards/2.safetensors", two, 2);
    write_index("{\"metadata\": {\"total_size\": 4}, \"weight_map\": {\"a\": \"1.safetensors\", "
                "\"b\": \"2.safetensors\", \"c\": \"2.safetensors\"}}");
    Safetensors st;
    if (CHECK(safetensors_open(&st, in_dir("shards"), &err))) {
        CHECK(st.count == 3 && st.file_count == 2);
        CHECK(safetensors_find(&st, "b")->data[0] == 1 && safetensors_find(&st, "c")->data[0] == 0);
        CHECK(ends_with(safetensors_find(&st, "a")->file, "shards/1.safetensors"));
        safetensors_close(&st);
    }
    write_index("");
    REFUSE("shards", "index.json:1:1: found the end of the text");
    write_index("{\"weights\": {}}");
    REFUSE("shards", "has no \"weight_map\" object");
    write_index("{\"weight_map\": [\"1.safetensors\"]}");
    REFUSE("shards", "has no \"weight_map\" object");
    write_index("{\"weight_map\": {\"a\": \"1.safetensors\", \"x\": \"9.safetensors\"}}");
    REFUSE("shards", "shards/9.safetensors: cannot be opened");
    CHECK(strstr(err.text, "index.json names this file") != NULL);
    write_index("{\"weight_map\": {\"a\": \"1.safetensors\", \"x\": \"2.safetensors\"}}");
    REFUSE("shards", "says that tensor \"x\" is in 2.safetensors, but it is not");
    write_index(
        "{\"weight_map\": {\"a\": \"1.safetensors\", \"b\": \"1.safetensors\", \"c\": \"2.safetensors\"}}");
    REFUSE("shards", "says that tensor \"b\" is in 1.safetensors, but it is not");
    write_file("shards/3.safetensors", one, 2);
    write_index("{\"weight_map\": {\"a\": \"1.safetensors\", \"b\": \"3.safetensors\"}}");
    REFUSE("shards", ": tensor \"a\" is also in ");
    // a path out of the directory, or not a file name at all
    const char *const names[] = {"\"../good.safetensors\"",
                                 "\"/etc/a.safetensors\"",
                                 "\"x/../1.safetensors\"",
                                 "\"..\"",
                                 "\"\"",
                                 "\"1.bin\"",
                                 "\"1.safetensors\\u0000\"",
                                 "7"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char json[128];
        snprintf(json, sizeof json, "{\"weight_map\": {\"a\": %s}}", names[i]);
        write_index(json);
        REFUSE("shards", "expected the name of a .safetensors file next to it");
    }
    // a single file is preferred
    write_file("shards/model.safetensors", one, 2);
    if (CHECK(safetensors_open(&st, in_dir("shards"), &err))) {
        CHECK(st.count == 1 && st.file_count == 1);
        safetensors_close(&st);
    }
}

static const float written[] = {1.0f, -0.0f, NAN, INFINITY, -INFINITY, 1e-45f, 3.4028235e38f, 0.1f};

static bool fill(void *context, size_t index, float *values, Error *e) {
    int *calls = (int *)context;
    if ((*calls)++ == 3) { return fail(e, "no more values"); }
    memcpy(values, index == 1 ? written + 6 : written, (index == 1 ? 2 : 6) * sizeof *values);
    return true;
}

static void test_write(void) {
    SafetensorsEntry entries[3] = {{"six", 2, {2, 3}}, {"two", 1, {2}}, {"none", 2, {0, 4}}};
    const char *path = in_dir("written.safetensors");
    int calls = 0;
    CHECK(safetensors_write(path, entries, 3, fill, &calls, &err) && calls == 3);
    Safetensors st;
    if (CHECK(safetensors_open(&st, path, &err))) {
        float values[6];
        const SafetensorsTensor *six = safetensors_find(&st, "six"), *two = safetensors_find(&st, "two");
        const Json *metadata = json_member(st.files[0].header.root, "__metadata__");
        CHECK(st.count == 3 && strcmp(json_member(metadata, "format")->string, "pt") == 0);
        CHECK(six->dtype == DTYPE_F32 && six->rank == 2 && six->shape[0] == 2 && six->shape[1] == 3);
        CHECK((six->data - st.files[0].map.data) % 8 == 0);
        CHECK(safetensors_to_float(six, values, &err) && memcmp(values, written, 24) == 0);
        CHECK(safetensors_to_float(two, values, &err) && memcmp(values, written + 6, 8) == 0);
        CHECK(safetensors_find(&st, "none")->count == 0);
        safetensors_close(&st);
    }
    calls = 0;
    CHECK_ERROR(safetensors_write(path, entries, 3, fill, &calls, &err), err,
                "cannot be created: File exists");
    CHECK(calls == 0);
    // a failure in the middle leaves no file
    calls = 3;
    CHECK_ERROR(safetensors_write(in_dir("half.safetensors"), entries, 3, fill, &calls, &err), err,
                "no more values");
    CHECK(access(in_dir("half.safetensors"), F_OK) != 0);
    CHECK_ERROR(safetensors_write(in_dir("absent/x.safetensors"), entries, 3, fill, &calls, &err), err,
                "cannot be created: No such file");
    SafetensorsEntry huge = {"huge", 2, {(size_t)1 << 31, (size_t)1 << 31}};
    CHECK_ERROR(safetensors_write(in_dir("half.safetensors"), &huge, 1, fill, &calls, &err), err,
                "out of memory");
    CHECK(access(in_dir("half.safetensors"), F_OK) != 0);
}

int main(void) {
    if (!CHECK(mkdtemp(dir) != NULL)) { return check_report(); }
    test_read();
    test_bad_files();
    test_lying_headers();
    test_truncated();
    test_conversions();
    test_shards();
    test_write();
    char command[64];
    snprintf(command, sizeof command, "rm -r %s", dir);
    CHECK(system(command) == 0);
    return check_report();
}
