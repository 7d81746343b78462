// metrics.h: what the log-likelihoods of a document's choices say: one table of metrics, and their means.
//
//   accuracies   the share of documents of which the choice with the highest value is the right one; on a tie
//                the first choice wins
//   others       the mean over the documents of the value of the right choice; lower is better
//
// The names are those of OLMES (oe_eval/metrics/metric.py) and, for the in-loop variants, of AI2's
// OLMo-in-loop-evals (olmo_eval/metrics.py). In OLMES the space at the beginning of a continuation counts as
// one of its characters and bytes. The in-loop evaluations track a version 1 without it and a version 2 with
// it. Their version 2 is acc_per_char and bits_per_byte here; their len_norm prints version 2 under both
// names, and len_norm_v1 here is what its name says.
//
// Doors:
//   metrics, metric_find     the table
//   choice_read              what the requests say of a choice
//   choice_best              the choice that an accuracy takes
//   scores_add               adds a document to the sums
//   scores_has, scores_mean, scores_error
#ifndef LLMC_METRICS_H
#define LLMC_METRICS_H

#include "requests.h"

typedef struct {
    double logprob;        // of the continuation behind its context
    double unconditional;  // the same behind a context that says nothing; NAN if the file has none
    size_t tokens;
    size_t chars, bytes;            // Unicode code points and bytes of UTF-8, with the leading space
    size_t bare_chars, bare_bytes;  // without it: without the first character
} Choice;

static inline double metric_raw(const Choice *c) { return c->logprob; }
static inline double metric_per_token(const Choice *c) { return c->logprob / (double)c->tokens; }
static inline double metric_per_char(const Choice *c) { return c->logprob / (double)c->chars; }
static inline double metric_uncond(const Choice *c) { return c->logprob - c->unconditional; }
static inline double metric_bits(const Choice *c) { return -c->logprob / log(2.0) / (double)c->bytes; }

static inline double metric_per_bare_char(const Choice *c) { return c->logprob / (double)c->bare_chars; }
static inline double metric_bare_bits(const Choice *c) {
    return -c->logprob / log(2.0) / (double)c->bare_bytes;
}
static inline double metric_pmi_quotient(const Choice *c) { return c->logprob / c->unconditional; }
static inline double metric_ce(const Choice *c) { return -c->logprob / (double)c->chars; }
static inline double metric_bare_ce(const Choice *c) { return -c->logprob / (double)c->bare_chars; }

typedef struct {
    const char *name;
    double (*value)(const Choice *);
    bool accuracy;       // otherwise a mean
    bool unconditional;  // needs unconditional requests
    bool bare;           // needs a continuation of more than one character
} Metric;

// clang-format off
static const Metric metrics[] = {
//  name             value                 accuracy  unconditional  bare
  { "acc_raw",       metric_raw,           true,     false,         false },
  { "acc_per_token", metric_per_token,     true,     false,         false },
  { "acc_per_char",  metric_per_char,      true,     false,         false },
  { "acc_uncond",    metric_uncond,        true,     true,          false },  // the difference of the two
  { "bits_per_byte", metric_bits,          false,    false,         false },
  // in-loop
  { "len_norm_v1",   metric_per_bare_char, true,     false,         true  },
  { "pmi_dc",        metric_pmi_quotient,  true,     true,          false },  // their quotient
  { "bpb_v1",        metric_bare_bits,     false,    false,         true  },
  { "ce_loss_v1",    metric_bare_ce,       false,    false,         true  },  // nats per character
  { "ce_loss_v2",    metric_ce,            false,    false,         false },
};
// clang-format on
enum { METRICS = sizeof metrics / sizeof metrics[0] };

// The metric of that name, or METRICS.
static inline size_t metric_find(const char *name) {
    size_t i = 0;
    while (i < METRICS && strcmp(metrics[i].name, name) != 0) { i++; }
    return i;
}

// ---------------------------------------------------------------------------------------------
// a document

// Choice i of a document whose requests have been scored.
static inline Choice choice_read(const RequestFile *f, const RequestDocument *d, size_t i) {
    const Request *r = &f->requests[d->first + i];
    const char *text = request_text(f, r->continuation);
    Choice c;
    memset(&c, 0, sizeof c);
    c.logprob = r->logprob;
    c.unconditional = d->unconditional > 0 ? r[d->choices].logprob : NAN;
    c.tokens = r->scored;
    c.bytes = r->continuation.size;
    for (size_t at = 0; at < c.bytes; at += utf8_length(text + at, c.bytes - at)) { c.chars++; }
    c.bare_chars = c.chars - 1;
    c.bare_bytes = c.bytes - utf8_length(text, c.bytes);
    return c;
}

static inline size_t choice_best(const Choice *choices, size_t count, const Metric *metric) {
    size_t best = 0;
    for (size_t i = 1; i < count; i++) {
        if (metric->value(&choices[i]) > metric->value(&choices[best])) { best = i; }
    }
    return best;
}

// Whether a metric can be said of these choices.
static inline bool metric_applies(const Metric *metric, const Choice *choices, size_t count) {
    if (metric->accuracy && count < 2) { return false; }
    for (size_t i = 0; i < count; i++) {
        if (metric->unconditional && isnan(choices[i].unconditional)) { return false; }
        if (metric->bare && choices[i].bare_chars == 0) { return false; }
    }
    return true;
}

// ---------------------------------------------------------------------------------------------
// means

// Sums over documents, by metric. Starts as all zeros.
typedef struct {
    size_t documents;
    size_t counts[METRICS];  // documents of which the metric could be said
    double sums[METRICS], squares[METRICS];
} Scores;

static inline void scores_add(Scores *s, const Choice *choices, size_t count, size_t label) {
    s->documents++;
    for (size_t i = 0; i < METRICS; i++) {
        const Metric *metric = &metrics[i];
        if (!metric_applies(metric, choices, count)) { continue; }
        const bool right = metric->accuracy && choice_best(choices, count, metric) == label;
        const double value = metric->accuracy ? (double)right : metric->value(&choices[label]);
        s->counts[i]++;
        s->sums[i] += value;
        s->squares[i] += value * value;
    }
}

// Whether the metric could be said of every document.
static inline bool scores_has(const Scores *s, size_t metric) {
    return s->documents > 0 && s->counts[metric] == s->documents;
}

static inline double scores_mean(const Scores *s, size_t metric) {
    return s->sums[metric] / (double)s->counts[metric];
}

// The standard error of the mean; for an accuracy p that of the binomial distribution, sqrt(p (1 - p) / n).
static inline double scores_error(const Scores *s, size_t metric) {
    const double n = (double)s->counts[metric], mean = scores_mean(s, metric);
    return sqrt(fmax(s->squares[metric] / n - mean * mean, 0.0) / n);
}

#endif
