// stability.h: spikes of the loss and of the gradient norm. Three rules, each with its own source:
//
//   skip_step      whether to skip the update of a step (OLMo-core's SkipStepAdamW)
//   monitor_step   counts spikes (OLMo-core's StabilityMonitor); monitor_total_score, monitor_running_score
//   spike_score    the share of a series that spikes (the OLMo 2 paper)
//          on paper: dev/doc/training.md    tested: dev/test/test_stability.c
#ifndef LLMC_STABILITY_H
#define LLMC_STABILITY_H

#include "utils.h"

enum { STABILITY_WINDOW = 128 };

// The most recent values of a series, oldest first. A window of zeros is empty.
typedef struct {
    double values[STABILITY_WINDOW];
    size_t count;
} RollingWindow;

static inline void window_push(RollingWindow *w, double value) {
    if (w->count == STABILITY_WINDOW) {
        memmove(w->values, w->values + 1, (STABILITY_WINDOW - 1) * sizeof w->values[0]);
        w->count--;
    }
    w->values[w->count++] = value;
}

typedef struct {
    double mean;
    double squares;  // sum of (value - mean)^2
} Moments;

// Welford's recurrence. Equal values give exactly their mean and squares of 0, so rounding cannot make a
// spike in a constant series.
static inline Moments moments_of(const double *values, size_t n) {
    Moments m = {0.0, 0.0};
    for (size_t i = 0; i < n; i++) {
        double delta = values[i] - m.mean;
        m.mean += delta / (double)(i + 1);
        m.squares += delta * (values[i] - m.mean);
    }
    return m;
}

// ---------------------------------------------------------------------------------------------
// SkipStep: OLMo-core's SkipStepAdamW, the rule that the 32B model was trained with

// What a run must save to resume: both windows. All zeros at the start of a run.
typedef struct {
    RollingWindow losses, norms;
} SkipStep;

// value - mean <= 6 std, with mean and unbiased deviation over the past values, two or more.
static inline bool within_six_sigma(const RollingWindow *past, double value) {
    Moments m = moments_of(past->values, past->count);
    return value - m.mean <= 6.0 * sqrt(m.squares / (double)(past->count - 1));
}

// Whether to skip the update of this step: from the 64th step on, when the loss (the objective of the step,
// without the z term) or the gradient norm before clipping is more than 6 standard deviations above the mean
// of its last 128 values. A spike enters the windows too, so a lasting change of level is accepted after some
// steps. One difference from OLMo-core: a step whose loss or norm is NaN or infinite is always skipped and
// enters no window, where it would make every comparison of the next 128 steps false.
static inline bool skip_step(SkipStep *s, double loss, double gradient_norm) {
    if (!isfinite(loss) || !isfinite(gradient_norm)) { return true; }
    bool judged = s->losses.count + 1 >= STABILITY_WINDOW / 2;
    bool calm = !judged || (within_six_sigma(&s->losses, loss) && within_six_sigma(&s->norms, gradient_norm));
    window_push(&s->losses, loss);
    window_push(&s->norms, gradient_norm);
    return !calm;
}

// ---------------------------------------------------------------------------------------------
// StabilityMonitor: OLMo-core's callback of that name, for the log

enum { MONITOR_STEPS = 10000 };

// All zeros at the start of a run.
typedef struct {
    RollingWindow losses, norms;
    uint8_t spiked[MONITOR_STEPS];  // 1 for a step with a spike; step i is at i % MONITOR_STEPS
    int64_t steps, spikes;          // since the start of the run
} StabilityMonitor;

// More than 6 standard deviations (of the population) above the mean of the previous 128 values, once there
// are as many. A NaN or infinity is a spike, which OLMo-core would not count, and stays out of the window.
static inline bool monitor_spike(RollingWindow *past, double value) {
    if (!isfinite(value)) { return true; }
    Moments m = moments_of(past->values, past->count);
    double std = sqrt(m.squares / STABILITY_WINDOW);
    bool spike = past->count == STABILITY_WINDOW && std >= 1e-10 && value > m.mean + 6.0 * std;
    window_push(past, value);
    return spike;
}

// Records a step; returns whether its loss or its gradient norm spiked.
static inline bool monitor_step(StabilityMonitor *monitor, double loss, double gradient_norm) {
    bool loss_spike = monitor_spike(&monitor->losses, loss);
    bool norm_spike = monitor_spike(&monitor->norms, gradient_norm);
    bool spike = loss_spike || norm_spike;
    monitor->spiked[monitor->steps++ % MONITOR_STEPS] = spike;
    monitor->spikes += spike;
    return spike;
}

// The share of all steps that spiked: OLMo-core's "spike/SpikeScore (total)".
static inline double monitor_total_score(const StabilityMonitor *monitor) {
    return monitor->steps > 0 ? (double)monitor->spikes / (double)monitor->steps : 0.0;
}

// The share of the last 10000 steps that spiked: OLMo-core's "spike/SpikeScore", which it reports from step
// 10000 on.
static inline double monitor_running_score(const StabilityMonitor *monitor) {
    int64_t steps = MONITOR_STEPS, spikes = 0;
    if (monitor->steps < steps) { steps = monitor->steps; }
    for (int64_t i = 0; i < steps; i++) { spikes += monitor->spiked[i]; }
    return steps > 0 ? (double)spikes / (double)steps : 0.0;
}

// ---------------------------------------------------------------------------------------------
// The spike score of the OLMo 2 paper

// The share of the series (n) that is at least 7 standard deviations away from the mean of the previous 1000
// values, on either side. The paper leaves the rest open; here the deviation is the population's, a value is
// not part of its own window, the first 1000 values have no full window and count as calm, and NaN or
// infinity is a spike that enters no window.
static inline bool spike_score(double *score, const double *values, size_t n, Error *err) {
    enum { SPIKE_WINDOW = 1000 };
    double *finite = (double *)allocate(n, sizeof *finite, "the spike score of a series", err);
    if (finite == NULL) { return false; }
    size_t count = 0, spikes = 0;
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(values[i])) {
            spikes++;
            continue;
        }
        if (count >= SPIKE_WINDOW) {
            Moments m = moments_of(finite + count - SPIKE_WINDOW, SPIKE_WINDOW);
            double distance = fabs(values[i] - m.mean);
            spikes += distance > 0.0 && distance >= 7.0 * sqrt(m.squares / SPIKE_WINDOW);
        }
        finite[count++] = values[i];
    }
    free(finite);
    *score = n > 0 ? (double)spikes / (double)n : 0.0;
    return true;
}

#endif
