// meter.h: how far a long job is: one line on standard error, of the same form for every job.
//
//   weights: 1.20 GB of 2.97 GB, 3s left
//   texts: 40 of 400, 2m10s left, 812 tokens/s
//
//   meter_begin          a job that counts things
//   meter_begin_bytes    a job that counts bytes
//   meter_show           perhaps shows the line
//   meter_show_texts     the same for texts that a model writes, with its tokens per second
//   meter_heard          the same as a Heard (utils.h), which a signal interrupts
//   meter_end            removes the line; before anything else is printed, an error too
//
// A job of less than a second shows nothing. A terminal's line is redrawn in place, five times a second; any
// other file gets a line every 30 seconds.
#ifndef LLMC_COMMANDS_METER_H
#define LLMC_COMMANDS_METER_H

#include "llmc/log.h"
#include "signals.h"

typedef struct {
    FILE *out;
    const char *what;           // is counted: "texts"; if it is bytes, of what: "weights"
    size_t first, done, total;  // counts: at the beginning, now, at the end
    bool bytes, terminal;
    bool shown;          // a terminal has the line now
    double begin, last;  // on seconds_now's clock: the job's beginning, the last line
} Meter;

// A job of `total` things, of which `done` are done already.
static inline Meter meter_begin(const char *what, size_t done, size_t total) {
    const double now = seconds_now();
    const Meter m = {stderr, what, done, done, total, false, isatty(STDERR_FILENO) == 1, false, now, now};
    return m;
}

// meter_heard is told the total.
static inline Meter meter_begin_bytes(const char *what) {
    Meter m = meter_begin(what, 0, 0);
    m.bytes = true;
    return m;
}

// `done` includes what was done at the beginning. The note, such as "812 tokens/s", may be empty.
static inline void meter_show(Meter *m, size_t done, const char *note) {
    const double now = seconds_now(), spent = now - m->begin;
    char counts[2][32], left[32], time[48] = "";
    m->done = done;
    if (spent < 1.0 || now - m->last < (m->terminal ? 0.2 : 30.0) || done >= m->total) { return; }
    m->last = now;
    if (m->bytes) {
        format_bytes(counts[0], done);
        format_bytes(counts[1], m->total);
    } else {
        snprintf(counts[0], sizeof counts[0], "%zu", done);
        snprintf(counts[1], sizeof counts[1], "%zu", m->total);
    }
    if (done > m->first) {
        const double each = spent / (double)(done - m->first);
        snprintf(time, sizeof time, ", %s left", format_duration(left, each * (double)(m->total - done)));
    }
    fprintf(m->out, "%s%s: %s of %s%s%s%s%s", m->terminal ? "\r" : "", m->what, counts[0], counts[1], time,
            note[0] != '\0' ? ", " : "", note, m->terminal ? "\033[K" : "\n");
    fflush(m->out);
    m->shown = m->terminal;
}

// `tokens` have been written since the beginning.
static inline void meter_show_texts(Meter *m, size_t done, size_t tokens) {
    char note[64];
    snprintf(note, sizeof note, "%.1f tokens/s", (double)tokens / (seconds_now() - m->begin + 1e-9));
    meter_show(m, done, note);
}

static inline bool meter_heard(void *context, size_t done, size_t total) {
    Meter *m = (Meter *)context;
    m->total = total;
    if (!stop_requested) { meter_show(m, done, ""); }
    return !stop_requested;
}

static inline void meter_end(Meter *m) {
    if (m->shown) { fputs("\r\033[K", m->out); }
    m->shown = false;
}

#endif
