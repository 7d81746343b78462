// log.h: what a run reports: a line on the screen, and log.jsonl, one JSON object a line, for programs to
// read.
//
//   progress_print, progress_step        the screen
//   report_figure                        a number that an objective reports
//   run_log_open, _write, _step, _sync, _close     log.jsonl
//   run_history_read, _free              the losses and norms of a log
//   format_count, format_fixed           numbers in a few characters
#ifndef LLMC_LOG_H
#define LLMC_LOG_H

#include "json.h"

// ---------------------------------------------------------------------------------------------
// numbers for the screen

// "950", "12.3k", "5.00T": at most 5 characters below 1000T.
static inline const char *format_count(char buffer[32], double value) {
    const char *units[] = {"", "k", "M", "B", "T"};
    int unit = 0;
    while (value >= 999.5 && unit < 4) {
        value /= 1000.0;
        unit++;
    }
    int decimals = unit == 0 || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
    snprintf(buffer, 32, "%.*f%s", decimals, value, units[unit]);
    return buffer;
}

// "59s", "12m34s", "3h05m", "2d03h": at most 6 characters below 1000 days.
static inline const char *format_duration(char buffer[32], double seconds) {
    if (!(seconds >= 0.0 && seconds < 1e15)) { return "?"; }
    long long s = (long long)(seconds + 0.5);
    if (s < 60) {
        snprintf(buffer, 32, "%llds", s);
    } else if (s < 3600) {
        snprintf(buffer, 32, "%lldm%02llds", s / 60, s % 60);
    } else if (s < 86400) {
        snprintf(buffer, 32, "%lldh%02lldm", s / 3600, s / 60 % 60);
    } else {
        snprintf(buffer, 32, "%lldd%02lldh", s / 86400, s / 3600 % 24);
    }
    return buffer;
}

// With that many decimals if that fits the width; otherwise with an exponent and as many digits as fit.
static inline const char *format_fixed(char buffer[32], double value, int width, int decimals) {
    if (isnan(value)) { return "nan"; }  // printf may print the sign of its bits
    int length = snprintf(buffer, 32, "%.*f", decimals, value);
    if (length > width) { length = snprintf(buffer, 32, "%.1e", value); }
    if (length > width) { snprintf(buffer, 32, "%.0e", value); }
    return buffer;
}

static inline const char *format_exponent(char buffer[32], double value) {
    if (isnan(value)) { return "nan"; }
    snprintf(buffer, 32, "%.2e", value);
    return buffer;
}

// ---------------------------------------------------------------------------------------------
// the lines of a step

// One number that an objective reports. log.h prints what it is given and knows no objective.
typedef struct {
    const char *name;
    double value;
    bool exponent;  // always printed with one
} Figure;

enum { FIGURES = 8 };  // the most an objective reports

// What a step says of itself. The objective fills the first part, the run the rest.
typedef struct {
    Figure figures[FIGURES];
    size_t figure_count;
    double objective;  // the value whose spikes skip a step
    size_t labels;     // tokens that were trained

    int64_t step, tokens;  // of the whole run so far
    double gradient_norm;  // before clipping
    double lr;
    double tokens_per_second;
    double seconds_left;
    size_t masked;  // sequences that the instance filter left untrained
    bool skipped;   // no update was made
} StepReport;

static inline void report_figure(StepReport *r, const char *name, double value, bool exponent) {
    const Figure figure = {name, value, exponent};
    assert(r->figure_count < FIGURES);
    r->figures[r->figure_count++] = figure;
}

// The heads of the columns of step_line.
static inline void step_header(char line[256], const StepReport *r) {
    int length = snprintf(line, 256, "%7s %7s", "step", "tokens");
    for (size_t i = 0; i < r->figure_count; i++) {
        length += snprintf(line + length, 256 - (size_t)length, " %8.8s", r->figures[i].name);
    }
    snprintf(line + length, 256 - (size_t)length, " %7s %8s %6s %7s", "norm", "lr", "tok/s", "left");
}

// The step in a line, in at most 80 characters for two figures.
static inline void step_line(char line[256], const StepReport *r) {
    char text[32], norm[32], speed[32], left[32], masked[32] = "";
    int length = snprintf(line, 256, "%7lld %7s", (long long)r->step, format_count(text, (double)r->tokens));
    for (size_t i = 0; i < r->figure_count; i++) {
        const Figure *figure = &r->figures[i];
        const char *value =
            figure->exponent ? format_exponent(text, figure->value) : format_fixed(text, figure->value, 8, 4);
        length += snprintf(line + length, 256 - (size_t)length, " %8s", value);
    }
    if (r->masked > 0) { snprintf(masked, sizeof masked, " mask %zu", r->masked); }
    snprintf(line + length, 256 - (size_t)length, " %7s %8.2e %6s %7s%s%s",
             format_fixed(norm, r->gradient_norm, 7, 3), r->lr, format_count(speed, r->tokens_per_second),
             format_duration(left, r->seconds_left), r->skipped ? " skip" : "", masked);
}

// The state of the screen. On a terminal, each step's line overwrites the last one unless that one is to
// stay.
typedef struct {
    bool terminal;
    bool refreshed;  // the last line is one that the next may overwrite
    bool headed;     // the last line belongs to the table of steps
} Progress;

// Prints text between the lines of steps.
__attribute__((format(printf, 2, 3))) static inline void progress_print(Progress *p, const char *format,
                                                                        ...) {
    va_list arguments;
    if (p->refreshed) { fputs("\r\033[K", stdout); }
    p->refreshed = p->headed = false;
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    fflush(stdout);
}

// Prints the step's line. One that is not to stay is shown only on a terminal.
static inline void progress_step(Progress *p, const StepReport *report, bool stays) {
    char line[256];
    if (!stays && !p->terminal) { return; }
    if (!p->headed) {
        step_header(line, report);
        progress_print(p, "%s\n", line);
    }
    step_line(line, report);
    printf("%s%s%s", p->refreshed ? "\r\033[K" : "", line, stays ? "\n" : "");
    p->refreshed = !stays;
    p->headed = true;
    fflush(stdout);
}

// ---------------------------------------------------------------------------------------------
// log.jsonl

typedef struct {
    FILE *file;
    char *path;
} RunLog;

static inline void run_log_close(RunLog *log) {
    if (log->file != NULL) { fclose(log->file); }
    free(log->path);
    log->file = NULL;
    log->path = NULL;
}

// The step of a line, 0 for one without a step and -1 for one that is damaged.
static inline int64_t run_log_step_of(const char *line, size_t size) {
    JsonDocument doc;
    Error ignored;
    size_t step = 0;
    if (!json_parse(&doc, line, size, "log", &ignored)) { return -1; }
    bool ok = json_get_size(doc.root, "step", false, &step, "log", &ignored);
    json_free(&doc);
    return ok ? (int64_t)step : -1;
}

// The length of the log in bytes, up to the last line of the first `step` steps. A damaged line among them
// stays: the lines after it still belong to the run.
static inline bool run_log_length(const char *path, int64_t step, size_t *length, Error *err) {
    MappedFile file;
    *length = 0;
    if (!file_map(&file, path, err)) { return false; }
    for (size_t begin = 0; begin < file.size;) {
        const char *line = file.data + begin;
        const char *end = (const char *)memchr(line, '\n', file.size - begin);
        const int64_t at = end == NULL ? -1 : run_log_step_of(line, (size_t)(end - line));
        if (end == NULL || at > step) { break; }
        begin += (size_t)(end - line) + 1;
        if (at >= 0) { *length = begin; }
    }
    const bool foreign = *length == 0 && file.size > 0 && memchr(file.data, '\n', file.size) != NULL;
    file_unmap(&file);
    return !foreign || fail(err, "%s: holds no line of this run's log; move it elsewhere", path);
}

// Opens the log of a run that has made `step` steps. A crash may have left lines of later steps; they are
// cut, because the run writes them again. *fresh: the log is empty. Release with run_log_close.
static inline bool run_log_open(RunLog *log, const char *run, int64_t step, bool *fresh, Error *err) {
    size_t length = 0;
    log->file = NULL;
    log->path = format_text("%s/log.jsonl", run);
    if (log->path == NULL) { return fail(err, "out of memory: the path of a log"); }
    bool exists = access(log->path, F_OK) == 0;
    if (exists && !run_log_length(log->path, step, &length, err)) { return false; }
    if (exists && truncate(log->path, (off_t)length) != 0) {
        return fail(err, "%s: cannot be cut to step %lld: %s", log->path, (long long)step, strerror(errno));
    }
    *fresh = length == 0;
    log->file = fopen(log->path, "ab");
    if (log->file == NULL) { return fail(err, "%s: cannot be written: %s", log->path, strerror(errno)); }
    return true;
}

// Appends the writer's text as one line and frees the writer.
static inline bool run_log_write(RunLog *log, JsonWriter *line, Error *err) {
    json_append_text(line, "\n");
    bool memory = !line->failed;
    bool written =
        memory && fwrite(line->text, 1, line->length, log->file) == line->length && fflush(log->file) == 0;
    json_writer_free(line);
    if (!memory) { return fail(err, "out of memory: a line of %s", log->path); }
    return written || fail(err, "%s: cannot be written: %s", log->path, strerror(errno));
}

// Syncs the log to the disk: a checkpoint must not be newer than the log of its steps.
static inline bool run_log_sync(RunLog *log, Error *err) {
    return sync_descriptor(fileno(log->file)) == 0 ||
           fail(err, "%s: cannot be written: %s", log->path, strerror(errno));
}

static inline bool run_log_step(RunLog *log, const StepReport *r, Error *err) {
    JsonWriter w;
    memset(&w, 0, sizeof w);
    json_begin_object(&w, NULL);
    json_string(&w, "type", "step");
    json_integer(&w, "step", r->step);
    json_integer(&w, "tokens", r->tokens);
    for (size_t i = 0; i < r->figure_count; i++) { json_number(&w, r->figures[i].name, r->figures[i].value); }
    json_number(&w, "gradient_norm", r->gradient_norm);
    json_number(&w, "lr", r->lr);
    json_number(&w, "tokens_per_second", r->tokens_per_second);
    json_bool(&w, "skipped", r->skipped);
    json_integer(&w, "masked", (int64_t)r->masked);
    json_end_object(&w);
    return run_log_write(log, &w, err);
}

// The steps of a log that had a label, in their order.
typedef struct {
    double *losses, *norms;  // (count); NAN where the log has null
    size_t count, skipped;
} RunHistory;

static inline void run_history_free(RunHistory *history) {
    free(history->losses);
    free(history->norms);
    memset(history, 0, sizeof *history);
}

static inline bool run_history_add(RunHistory *history, const Json *line, const char *path, Error *err) {
    const char *type = "";
    double loss = NAN, norm = NAN;
    bool skipped = false;
    if (!json_get_string(line, "type", true, &type, path, err)) { return false; }
    if (!json_get_double(line, "loss", false, &loss, path, err)) { return false; }
    if (!json_get_double(line, "gradient_norm", false, &norm, path, err)) { return false; }
    if (!json_get_bool(line, "skipped", false, &skipped, path, err)) { return false; }
    // A norm without a loss: no token was a label.
    if (strcmp(type, "step") != 0 || (isnan(loss) && isfinite(norm))) { return true; }
    history->losses[history->count] = loss;
    history->norms[history->count++] = norm;
    history->skipped += skipped;
    return true;
}

// Reads a log.jsonl, without a last line that is still being written. Release with run_history_free, also
// after a failure.
static inline bool run_history_read(RunHistory *history, const char *path, Error *err) {
    MappedFile file;
    size_t lines = 0;
    memset(history, 0, sizeof *history);
    if (!file_map(&file, path, err)) { return false; }
    for (size_t i = 0; i < file.size; i++) { lines += file.data[i] == '\n'; }
    history->losses = (double *)allocate(lines, sizeof *history->losses, "the losses of a log", err);
    history->norms = (double *)allocate(lines, sizeof *history->norms, "the norms of a log", err);
    bool ok = history->losses != NULL && history->norms != NULL;
    for (size_t i = 0, start = 0; ok && i < lines; i++) {
        const char *line = file.data + start;
        size_t length = (size_t)((const char *)memchr(line, '\n', file.size - start) - line);
        char source[PATH_MAX + 32];
        JsonDocument doc;
        snprintf(source, sizeof source, "%s line %zu", path, i + 1);
        ok = json_parse(&doc, line, length, source, err);
        if (!ok) { break; }
        ok = run_history_add(history, doc.root, source, err);
        json_free(&doc);
        start += length + 1;
    }
    file_unmap(&file);
    return ok;
}

#endif
