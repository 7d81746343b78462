// schedule.h: the learning rate of every step. The formulas are OLMo's and OLMo-core's.
//          on paper: dev/doc/training.md    tested: dev/test/test_schedule.c
//
//   schedule_lr(schedule, step)   the learning rate of an update
#ifndef LLMC_SCHEDULE_H
#define LLMC_SCHEDULE_H

#include "utils.h"

typedef enum { SCHEDULE_COSINE, SCHEDULE_LINEAR, SCHEDULE_WSD, SCHEDULE_CONSTANT } ScheduleKind;

typedef struct {
    ScheduleKind kind;
    double peak;            // the learning rate at the end of the warmup
    int64_t warmup;         // steps that rise linearly from 0 to the peak; 0 for none
    int64_t total;          // the step at which the decay ends; after it the rate no longer changes
    int64_t decay;          // WSD: the steps of the decay, which ends at `total`; warmup + decay <= total
    double final_fraction;  // the rate after the decay, as a fraction of the peak
} Schedule;

// The learning rate of an update. The first update is step 1, so the warmup gives no update a rate of 0.
// Steps may be counted in any unit, if the settings use it too: OLMo's own runs counted tokens.
//   warmup    peak * step / warmup
//   cosine    from the peak to final along half a cosine, between the warmup and `total`
//   linear    from the peak to final along a line, between the warmup and `total`
//   WSD       the peak, then a line to final over the last `decay` steps (warmup, stable, decay)
//   constant  the peak
static inline double schedule_lr(const Schedule *s, int64_t step) {
    const double pi = 3.14159265358979323846, final = s->final_fraction * s->peak;
    if (step < s->warmup) { return s->peak * (double)step / (double)s->warmup; }
    if (s->kind == SCHEDULE_CONSTANT || (s->kind == SCHEDULE_WSD && s->decay <= 0)) { return s->peak; }
    if (step >= s->total) { return final; }
    if (s->kind == SCHEDULE_WSD) {
        double left = fmin((double)(s->total - step) / (double)s->decay, 1.0);
        return final + (s->peak - final) * left;
    }
    double done = (double)(step - s->warmup) / (double)(s->total - s->warmup);
    if (s->kind == SCHEDULE_LINEAR) { return s->peak - (s->peak - final) * done; }
    return final + (s->peak - final) * (1.0 + cos(pi * done)) / 2.0;
}

#endif
