// meter.h: how far a long job is, in one line on standard error.
//
//   meter_begin(what, total)   "texts", "documents": the unit and how many there will be
//   meter_show(m, done, note)  perhaps a line: "texts 40 of 400, 2m10s left, 812 tokens/s"
//   meter_end(m)               removes the line
//
// A terminal's line is refreshed five times a second. A file gets a line every 30 seconds.
#ifndef LLMC_COMMANDS_METER_H
#define LLMC_COMMANDS_METER_H

#include "llmc/log.h"

typedef struct {
    const char *what;
    size_t total;
    bool terminal, shown;  // whether a line is there that meter_end removes
    double begin, last;    // seconds
} Meter;

static inline Meter meter_begin(const char *what, size_t total) {
    const double now = seconds_now();
    const Meter m = {what, total, isatty(STDERR_FILENO) == 1, false, now, now};
    return m;
}

// `done` of the total; the note, as ", 812 tokens/s", may be empty.
static inline void meter_show(Meter *m, size_t done, const char *note) {
    const double now = seconds_now(), spent = now - m->begin;
    char left[32];
    if (now - m->last < (m->terminal ? 0.2 : 30.0)) { return; }
    m->last = now;
    format_duration(left, done == 0 ? 0.0 : spent / (double)done * (double)(m->total - done));
    fprintf(stderr, "%s%s %zu of %zu, %s left%s%s", m->terminal ? "\r" : "", m->what, done, m->total,
            done == 0 ? "?" : left, note, m->terminal ? "\033[K" : "\n");
    m->shown = m->terminal;
}

static inline void meter_end(Meter *m) {
    if (m->shown) { fputs("\r\033[K", stderr); }
    m->shown = false;
}

#endif
