// The run log and the lines on the screen.
#include "dev/test/check.h"
#include "llmc/log.h"

static void test_numbers(void) {
    char b[32];
    CHECK(strcmp(format_count(b, 0), "0") == 0 && strcmp(format_count(b, 950), "950") == 0);
    CHECK(strcmp(format_count(b, 999.4), "999") == 0 && strcmp(format_count(b, 999.6), "1.00k") == 0);
    CHECK(strcmp(format_count(b, 12345), "12.3k") == 0 && strcmp(format_count(b, 99960), "100k") == 0);
    CHECK(strcmp(format_count(b, 999999), "1.00M") == 0 && strcmp(format_count(b, 5e12), "5.00T") == 0);
    CHECK(strcmp(format_duration(b, 0.2), "0s") == 0 && strcmp(format_duration(b, 59.6), "1m00s") == 0);
    CHECK(strcmp(format_duration(b, 3599), "59m59s") == 0 && strcmp(format_duration(b, 11100), "3h05m") == 0);
    CHECK(strcmp(format_duration(b, 183600), "2d03h") == 0 && strcmp(format_duration(b, NAN), "?") == 0);
    CHECK(strcmp(format_duration(b, INFINITY), "?") == 0 && strcmp(format_duration(b, -1), "?") == 0);
}

// The report of a language model's step.
static StepReport report(int64_t step, int64_t tokens, double loss, double z, double norm) {
    StepReport r;
    memset(&r, 0, sizeof r);
    report_figure(&r, "loss", loss, false);
    report_figure(&r, "z", z, true);
    r.step = step;
    r.tokens = tokens;
    r.gradient_norm = norm;
    r.lr = 4e-4;
    r.tokens_per_second = 1234.5;
    r.seconds_left = 61;
    return r;
}

// No line is wider than a terminal of 80 columns, its columns are those of the header, and NaN has no sign.
static void test_lines(void) {
    double values[] = {0.0, 1e-9, 5.9414, 123.456, 123456.0, 1e12, 1e300, INFINITY, NAN, -NAN};
    char line[256], header[256];
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        StepReport r = report(9999999, 5000000000000, values[i], values[i], values[i]);
        r.tokens_per_second = 999e9;
        r.seconds_left = 80000000;
        r.masked = 999;
        r.skipped = true;
        step_line(line, &r);
        if (!CHECK(strlen(line) <= 80 && strstr(line, "-nan") == NULL)) { printf("       %s\n", line); }
    }
    StepReport r = report(12, 3072, 5.5, 1e-3, 1.25);
    step_line(line, &r);
    step_header(header, &r);
    CHECK(strlen(line) == strlen(header));
    CHECK(strcmp(header, "   step  tokens     loss        z    norm       lr  tok/s    left") == 0);
    CHECK(strcmp(line, "     12   3.07k   5.5000 1.00e-03   1.250 4.00e-04  1.23k   1m01s") == 0);
}

static char *read_text(const char *path) {
    MappedFile file;
    Error err;
    if (!file_map(&file, path, &err)) { return NULL; }
    char *text = format_text("%.*s", (int)file.size, file.data == NULL ? "" : file.data);
    file_unmap(&file);
    return text;
}

static bool holds(const char *path, const char *expected) {
    char *text = read_text(path);
    bool ok = text != NULL && strcmp(text, expected) == 0;
    if (!ok) { printf("       found %s\n       expected %s\n", text == NULL ? "nothing" : text, expected); }
    free(text);
    return ok;
}

static void append(RunLog *log, const char *type, int64_t step) {
    JsonWriter w;
    Error err;
    memset(&w, 0, sizeof w);
    json_begin_object(&w, NULL);
    json_string(&w, "type", type);
    if (step > 0) { json_integer(&w, "step", step); }
    json_end_object(&w);
    CHECK(run_log_write(log, &w, &err) && w.text == NULL);
}

static void write_text(const char *path, const char *text, const char *mode) {
    FILE *file = fopen(path, mode);
    CHECK(file != NULL && fputs(text, file) >= 0 && fclose(file) == 0);
}

#define RUN_LINE "{\"type\": \"run\"}\n"
#define STEP_LINE(n) "{\"type\": \"step\", \"step\": " #n "}\n"

// A resumed run finds the lines of its own past, and none of a future that never was.
static void test_run_log(const char *dir) {
    RunLog log;
    Error err;
    bool fresh;
    char path[PATH_MAX];
    CHECK(path_join(path, dir, "log.jsonl", &err));
    CHECK(run_log_open(&log, dir, 0, &fresh, &err) && fresh);
    append(&log, "run", 0);
    for (int64_t step = 1; step <= 3; step++) { append(&log, "step", step); }
    CHECK(run_log_sync(&log, &err));
    run_log_close(&log);
    CHECK(holds(path, RUN_LINE STEP_LINE(1) STEP_LINE(2) STEP_LINE(3)));

    write_text(path, "{\"type\": \"step\", \"st", "a");  // killed while it wrote
    CHECK(run_log_open(&log, dir, 2, &fresh, &err) && !fresh);
    CHECK(holds(path, RUN_LINE STEP_LINE(1) STEP_LINE(2)));
    append(&log, "step", 3);
    run_log_close(&log);
    CHECK(holds(path, RUN_LINE STEP_LINE(1) STEP_LINE(2) STEP_LINE(3)));

    CHECK(run_log_open(&log, dir, 7, &fresh, &err) && !fresh);
    run_log_close(&log);
    CHECK(holds(path, RUN_LINE STEP_LINE(1) STEP_LINE(2) STEP_LINE(3)));

    // A damaged line costs no other line; one behind the last line of these steps goes.
    write_text(path, RUN_LINE STEP_LINE(1) "damaged\n" STEP_LINE(2) "damaged\n" STEP_LINE(3), "w");
    CHECK(run_log_open(&log, dir, 2, &fresh, &err) && !fresh);
    run_log_close(&log);
    CHECK(holds(path, RUN_LINE STEP_LINE(1) "damaged\n" STEP_LINE(2)));

    // What is no log at all stays, and so does a pipe, which would wait for a reader.
    write_text(path, "shopping list\n", "w");
    CHECK_ERROR(run_log_open(&log, dir, 2, &fresh, &err), err, "holds no line of this run's log");
    run_log_close(&log);
    CHECK(holds(path, "shopping list\n"));
    CHECK(unlink(path) == 0 && mkfifo(path, 0600) == 0);
    CHECK_ERROR(run_log_open(&log, dir, 2, &fresh, &err), err, "log.jsonl: is not a regular file");
    run_log_close(&log);

    CHECK(unlink(path) == 0 && run_log_open(&log, dir, 5, &fresh, &err) && fresh);
    run_log_close(&log);
    CHECK(unlink(path) == 0);
    CHECK_ERROR(run_log_open(&log, "/nonexistent", 0, &fresh, &err), err, "/nonexistent/log.jsonl");
    run_log_close(&log);
}

// What a step's line holds, including NaN, is JSON that reads back exactly.
static void test_step_json(const char *dir) {
    StepReport r = report(12, 3072, 5.1234567890123456, 1e-3, NAN);
    r.masked = 3;
    r.skipped = true;
    RunLog log;
    Error err;
    bool fresh, skipped = false;
    double loss = 0.0;
    size_t masked = 0;
    char path[PATH_MAX];
    CHECK(path_join(path, dir, "log.jsonl", &err) && run_log_open(&log, dir, 0, &fresh, &err));
    CHECK(run_log_step(&log, &r, &err));
    run_log_close(&log);
    JsonDocument doc;
    CHECK(json_parse_file(&doc, path, &err));
    CHECK(json_get_double(doc.root, "loss", true, &loss, path, &err) && loss == r.figures[0].value);
    CHECK(json_get_size(doc.root, "masked", true, &masked, path, &err) && masked == 3);
    CHECK(json_get_bool(doc.root, "skipped", true, &skipped, path, &err) && skipped);
    const Json *norm = json_member(doc.root, "gradient_norm");
    CHECK(norm != NULL && norm->type == JSON_NULL);
    json_free(&doc);
    CHECK(unlink(path) == 0);
}

static void test_history(const char *dir) {
    RunHistory history;
    Error err;
    char path[PATH_MAX];
    CHECK(path_join(path, dir, "log.jsonl", &err));
    write_text(path,
               RUN_LINE "{\"type\": \"step\", \"loss\": 5.5, \"gradient_norm\": 2, \"skipped\": false}\n"
                        "{\"type\": \"eval\", \"loss\": 7.5}\n"
                        "{\"type\": \"step\", \"loss\": null, \"gradient_norm\": 0, \"skipped\": false}\n"
                        "{\"type\": \"step\", \"loss\": null, \"gradient_norm\": null, \"skipped\": true}\n"
                        "{\"type\": \"st",
               "w");
    CHECK(run_history_read(&history, path, &err) && history.count == 2 && history.skipped == 1);
    CHECK(history.losses[0] == 5.5 && history.norms[0] == 2.0);
    CHECK(isnan(history.losses[1]) && isnan(history.norms[1]));
    run_history_free(&history);
    write_text(path, RUN_LINE "damaged\n" RUN_LINE, "w");
    CHECK_ERROR(run_history_read(&history, path, &err), err, "log.jsonl line 2:");
    run_history_free(&history);
    write_text(path, "", "w");
    CHECK(run_history_read(&history, path, &err) && history.count == 0);
    run_history_free(&history);
    CHECK(unlink(path) == 0);
}

// A full disk is an error with the file's name, not a silent loss.
static void test_full_disk(void) {
    RunLog log = {fopen("/dev/full", "ab"), format_text("/dev/full")};
    StepReport r;
    Error err;
    memset(&r, 0, sizeof r);
    if (log.file == NULL) {
        printf("skipped: a full disk (/dev/full not present)\n");
    } else {
        CHECK_ERROR(run_log_step(&log, &r, &err), err, "/dev/full: cannot be written");
    }
    run_log_close(&log);
}

int main(void) {
    char dir[] = "/tmp/test_log_XXXXXX";
    if (!CHECK(mkdtemp(dir) != NULL)) { return check_report(); }
    test_numbers();
    test_lines();
    test_run_log(dir);
    test_step_json(dir);
    test_history(dir);
    test_full_disk();
    CHECK(rmdir(dir) == 0);
    return check_report();
}
