// test_documents.c: documents.h where dev/test/documents_cases.py does not reach: how reads cut the lines,
// what is left behind, what a caller may call when. The rule itself is tested there.
#include "llmc/documents.h"

#include "check.h"

static Error err;
static char path[64];  // of a file in a directory of this test's own

static void write_file(const char *name, const char *bytes, size_t size) {
    snprintf(strrchr(path, '/') + 1, 24, "%s", name);
    FILE *file = fopen(path, "wb");
    CHECK(file != NULL && fwrite(bytes, 1, size, file) == size && fclose(file) == 0);
}

// Whether the next document is this text.
static bool next_is(Documents *d, const char *expected, size_t size) {
    const char *text;
    size_t found;
    if (!documents_next(d, &text, &found, &err)) {
        printf("       %s\n", err.text);
        return false;
    }
    return text != NULL && found == size && memcmp(text, expected, size) == 0;
}

static bool at_end(Documents *d) {
    const char *text = "";
    size_t size = 1;
    return documents_next(d, &text, &size, &err) && text == NULL && size == 0;
}

static bool no_child_left(void) { return waitpid(-1, NULL, WNOHANG) < 0 && errno == ECHILD; }

static int open_descriptors(void) {
    int count = 0;
    for (int i = 0; i < 256; i++) { count += fcntl(i, F_GETFD) >= 0; }
    return count;
}

// A document of this many bytes, as the text and as its line.
static char *long_line(size_t size, char letter, size_t *line_size) {
    char *line = (char *)malloc(size + 16);
    memcpy(line, "{\"text\": \"", 10);
    memset(line + 10, letter, size);
    memcpy(line + 10 + size, "\"}\n", 3);
    *line_size = size + 13;
    return line;
}

// Lines that end before, at and behind the end of a block, and lines of several blocks.
static void test_blocks(void) {
    const size_t sizes[] = {DOCUMENTS_BLOCK - 14, DOCUMENTS_BLOCK - 13, DOCUMENTS_BLOCK - 12,
                            5 * DOCUMENTS_BLOCK, 1};
    for (size_t first = 0; first < 5; first++) {
        char *lines = (char *)malloc((size_t)16 << 20);
        size_t size = 0, line_size;
        for (size_t i = 0; i < 5; i++) {
            char *line = long_line(sizes[(first + i) % 5], (char)('a' + i), &line_size);
            memcpy(lines + size, line, line_size);
            size += line_size;
            free(line);
        }
        write_file("blocks.jsonl", lines, size - first % 2);  // with a newline at the end and without
        Documents d;
        if (CHECK(documents_open(&d, path, &err))) {
            size_t at = 10;
            for (size_t i = 0; i < 5; i++) {
                size_t length = sizes[(first + i) % 5];
                CHECK(next_is(&d, lines + at, length));
                at += length + 13;
            }
            CHECK(at_end(&d) && at_end(&d));
            CHECK(d.capacity <= (size_t)8 * DOCUMENTS_BLOCK);
            documents_close(&d);
        }
        free(lines);
    }
}

// A pipe that gives one byte at a time.
static void test_slow_pipe(void) {
    const char *lines =
        "\xEF\xBB\xBF{\"text\": \"\\u6771\xE6\x9D\xB1\"}\r\n\r\n{\"a\": [\"}\"], \"text\": \"two\"}";
    snprintf(strrchr(path, '/') + 1, 24, "pipe");
    if (!CHECK(mkfifo(path, 0600) == 0)) { return; }
    pid_t writer = fork();
    if (writer == 0) {
        int descriptor = open(path, O_WRONLY);
        for (const char *c = lines; *c != '\0'; c++) {
            if (write(descriptor, c, 1) != 1) { _exit(1); }
            usleep(200);
        }
        _exit(0);
    }
    Documents d;
    if (CHECK(documents_open(&d, path, &err))) {
        CHECK(d.kind == DOCUMENTS_LINES);
        CHECK(next_is(&d, "\xE6\x9D\xB1\xE6\x9D\xB1", 6));
        CHECK(next_is(&d, "two", 3));
        CHECK(at_end(&d));
        documents_close(&d);
    }
    CHECK(waitpid(writer, NULL, 0) == writer);
    unlink(path);
}

static void test_text(void) {
    Documents d;
    write_file("a.txt", "\xEF\xBB\xBFone\r\ntwo", 11);
    if (!CHECK(documents_open(&d, path, &err))) { return; }
    CHECK(next_is(&d, "one\r\ntwo", 8));
    CHECK(at_end(&d) && at_end(&d) && d.count == 1);
    documents_close(&d);
}

static void test_warning(void) {
    Documents d;
    Error warning = {"old"};
    const char *lines =
        "{\"text\": \"a\"}\n\n{\"text\": \"\\udead \\ud83d\\ude42\"}\n{\"text\": \"\\ud83d\"}";
    write_file("a.jsonl", lines, strlen(lines));
    if (!CHECK(documents_open(&d, path, &err))) { return; }
    CHECK(next_is(&d, "a", 1));
    documents_warning(&d, &warning);
    CHECK(warning.text[0] == '\0');
    CHECK(next_is(&d, "\xEF\xBF\xBD \xF0\x9F\x99\x82", 8));
    documents_warning(&d, &warning);
    CHECK(strstr(warning.text, "a.jsonl: 1 lone surrogate in \"text\"") != NULL);
    CHECK(next_is(&d, "\xEF\xBF\xBD", 3));
    documents_warning(&d, &warning);
    CHECK(strstr(warning.text, "2 lone surrogates in \"text\" became U+FFFD, the first in line 3") != NULL);
    documents_close(&d);
}

// Neither a process nor a descriptor stays, however the reading ends.
static void test_nothing_left(void) {
    const char *broken = "{\"text\": \"one\"}\n{\"text\": }\n";
    char command[256];
    const int before = open_descriptors();
    Documents d;
    const char *text;
    size_t size;
    CHECK_ERROR(documents_open(&d, "/nonexistent/a.txt", &err), err,
                "/nonexistent/a.txt: cannot be opened: No such");
    write_file("empty.txt", "", 0);
    CHECK_ERROR(documents_open(&d, path, &err), err, "is empty");
    write_file("broken.jsonl", broken, strlen(broken));
    if (CHECK(documents_open(&d, path, &err))) {
        CHECK(next_is(&d, "one", 3));
        CHECK_ERROR(documents_next(&d, &text, &size, &err), err, "broken.jsonl:2:10: found '}'");
        documents_close(&d);
        documents_close(&d);  // again is allowed
    }
    CHECK(open_descriptors() == before);

    // closed while gzip still has megabytes to write
    char *lines = (char *)malloc((size_t)20 << 20), line[] = "{\"text\": \"one\"}\n";
    size_t length = 0;
    while (length + sizeof line < (size_t)20 << 20) {
        memcpy(lines + length, line, sizeof line - 1);
        length += sizeof line - 1;
    }
    write_file("many.jsonl", lines, length);
    free(lines);
    snprintf(command, sizeof command, "gzip -f1 %s", path);
    if (CHECK(system(command) == 0)) {
        snprintf(strrchr(path, '/') + 1, 24, "many.jsonl.gz");
        if (CHECK(documents_open(&d, path, &err))) {
            CHECK(next_is(&d, "one", 3));
            documents_close(&d);
        }
        CHECK(no_child_left() && open_descriptors() == before);
        unlink(path);
    }
    write_file("cut.txt.gz", "\x1F\x8B\x08", 3);
    CHECK_ERROR(documents_open(&d, path, &err), err,
                "cut.txt.gz: cannot be unpacked; the program gzip says: ");
    CHECK(no_child_left() && open_descriptors() == before);
}

int main(void) {
    char directory[] = "/tmp/test_documents_XXXXXX", command[64];
    if (!CHECK(mkdtemp(directory) != NULL)) { return check_report(); }
    snprintf(path, sizeof path, "%s/", directory);
    test_blocks();
    test_slow_pipe();
    test_text();
    test_warning();
    test_nothing_left();
    snprintf(command, sizeof command, "rm -r %s", directory);
    CHECK(system(command) == 0);
    return check_report();
}
