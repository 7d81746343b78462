// test_stability.c: when a step is skipped, and how spikes are counted.
#include "llmc/rand.h"
#include "llmc/stability.h"

#include "check.h"

// Feeds n values that alternate between 1 and 3 (mean 2 for even n) as the loss and as the norm.
static void feed(SkipStep *s, size_t n) {
    for (size_t i = 0; i < n; i++) {
        double value = i % 2 == 0 ? 1.0 : 3.0;
        CHECK(!skip_step(s, value, value));
    }
}

static void test_first_steps_pass(void) {
    SkipStep early = {0}, due = {0};
    feed(&early, 62);
    CHECK(!skip_step(&early, 1e30, 2.0));  // the 63rd value
    feed(&due, 63);
    CHECK(skip_step(&due, 1e30, 2.0));  // the 64th
}

// Over 100 alternating values the mean is 2 and the unbiased variance 100 / 99.
static void test_threshold(void) {
    double limit = 2.0 + 6.0 * sqrt(100.0 / 99.0), hair = 1e-12;
    SkipStep past = {0}, s;
    feed(&past, 100);
    s = past;
    CHECK(!skip_step(&s, limit - hair, 2.0));
    s = past;
    CHECK(skip_step(&s, limit + hair, 2.0));
    s = past;
    CHECK(!skip_step(&s, 2.0, limit - hair));
    s = past;
    CHECK(skip_step(&s, 2.0, limit + hair));
    s = past;
    CHECK(!skip_step(&s, -1e30, -1e30));  // one-sided: a drop is not a spike
}

static void test_constant_series(void) {
    SkipStep s = {0};
    for (size_t i = 0; i < 300; i++) { CHECK(!skip_step(&s, 0.1, 0.3)); }
    CHECK(skip_step(&s, 0.1 + 1e-9, 0.3));
}

static void test_not_finite(void) {
    const double bad[] = {NAN, INFINITY, -INFINITY};
    for (size_t past = 0; past <= 130; past += 65) {
        SkipStep s = {0};
        feed(&s, past);
        SkipStep before = s;
        for (size_t i = 0; i < 3; i++) {
            CHECK(skip_step(&s, bad[i], 2.0));
            CHECK(skip_step(&s, 2.0, bad[i]));
        }
        CHECK(memcmp(&s, &before, sizeof s) == 0);
        CHECK(!skip_step(&s, 2.0, 2.0));
    }
}

// The window holds 128 past values: a value 128 steps back still counts, and one step later it does not.
static void test_window(void) {
    SkipStep s = {0};
    CHECK(!skip_step(&s, 1000.0, 1000.0));
    feed(&s, 127);
    CHECK(s.losses.count == 128 && s.losses.values[0] == 1000.0);
    SkipStep reaching = s;
    CHECK(!skip_step(&reaching, 100.0, 100.0));
    CHECK(!skip_step(&s, 2.0, 2.0));
    CHECK(s.losses.count == 128 && s.losses.values[0] == 1.0 && s.losses.values[127] == 2.0);
    CHECK(skip_step(&s, 100.0, 100.0));
}

// A skipped value enters both windows, so a lasting new level is accepted in the end.
static void test_new_level(void) {
    SkipStep s = {0};
    feed(&s, 128);
    size_t skipped = 0;
    while (skipped < 128 && skip_step(&s, 50.0, 2.0)) { skipped++; }
    // After k values of 50 among 128 the deviation is 48 sqrt(k (128 - k) / (128 * 127)) or a little more,
    // the distance from the mean 48 (128 - k) / 128; 6 deviations reach it at k = 4.
    CHECK(skipped == 4);
    CHECK(s.losses.values[127] == 50.0 && s.norms.values[127] == 2.0);
}

// A copy of the state makes the same decisions as the state itself.
static void test_resume(void) {
    SkipStep s = {0}, saved = {0};
    Pcg64 rng;
    size_t skipped = 0;
    pcg64_seed(&rng, 3);
    for (size_t i = 0; i < 1000; i++) {
        double loss = pcg64_double(&rng), norm = pcg64_double(&rng);
        if (i % 97 == 96) { norm += 5.0; }
        if (i == 500) { saved = s; }
        bool skip = skip_step(&s, loss, norm);
        if (i >= 500) { CHECK(skip_step(&saved, loss, norm) == skip); }
        skipped += skip;
    }
    CHECK(memcmp(&s, &saved, sizeof s) == 0);
    CHECK(skipped == 10);
}

static void test_monitor(void) {
    static StabilityMonitor monitor;
    for (size_t i = 0; i < 127; i++) { CHECK(!monitor_step(&monitor, i % 2, i % 2)); }
    StabilityMonitor not_full = monitor;
    CHECK(!monitor_step(&not_full, 1e9, 1.0));  // only a full window is compared with
    CHECK(!monitor_step(&monitor, 1.0, 1.0));
    CHECK(monitor_total_score(&monitor) == 0.0);
    // 128 alternating values: mean 0.5, population deviation 0.5
    StabilityMonitor at = monitor, above = monitor, norm = monitor;
    CHECK(!monitor_step(&at, 3.5 - 1e-9, 0.5));
    CHECK(monitor_step(&above, 3.5 + 1e-9, 0.5));
    CHECK(monitor_step(&norm, 0.5, 3.5 + 1e-9));
    CHECK(monitor_total_score(&above) == 1.0 / 129.0);
    CHECK(monitor_running_score(&above) == 1.0 / 129.0);
    CHECK(monitor_step(&monitor, NAN, 0.5));
    CHECK(monitor_step(&monitor, 0.5, INFINITY));
    CHECK(monitor.losses.count == 128 && monitor.losses.values[127] == 0.5);
    CHECK(monitor_total_score(&monitor) == 2.0 / 130.0);
}

static void test_monitor_of_constants(void) {
    static StabilityMonitor monitor;
    for (size_t i = 0; i < 200; i++) { CHECK(!monitor_step(&monitor, 0.1, 0.1)); }
    CHECK(!monitor_step(&monitor, 0.2, 0.1));  // a deviation below 1e-10 is not used
}

// The running score forgets a spike after 10000 steps, the total does not.
static void test_monitor_running(void) {
    static StabilityMonitor monitor;
    CHECK(monitor_running_score(&monitor) == 0.0 && monitor_total_score(&monitor) == 0.0);
    monitor_step(&monitor, NAN, 0.0);
    for (size_t i = 1; i < MONITOR_STEPS; i++) { monitor_step(&monitor, 0.0, 0.0); }
    CHECK(monitor_running_score(&monitor) == 1.0 / MONITOR_STEPS);
    monitor_step(&monitor, 0.0, 0.0);
    CHECK(monitor_running_score(&monitor) == 0.0);
    CHECK(monitor_total_score(&monitor) == 1.0 / (MONITOR_STEPS + 1));
}

static void test_spike_score(void) {
    enum { LENGTH = 2000 };
    static double values[LENGTH];
    Error err = {""};
    double score = -1.0;
    for (size_t i = 0; i < LENGTH; i++) { values[i] = i % 2 == 0 ? -1.0 : 1.0; }
    CHECK(spike_score(&score, values, LENGTH, &err) && score == 0.0);
    values[999] = 100.0;  // one value too early to be judged
    CHECK(spike_score(&score, values, LENGTH, &err) && score == 0.0);
    values[999] = 1.0;
    values[1000] = 7.001;  // 7 deviations from the mean 0: a spike
    CHECK(spike_score(&score, values, LENGTH, &err) && score == 1.0 / LENGTH);
    values[1000] = -7.001;  // on the other side too
    CHECK(spike_score(&score, values, LENGTH, &err) && score == 1.0 / LENGTH);
    values[1000] = 6.999;
    CHECK(spike_score(&score, values, LENGTH, &err) && score == 0.0);
    values[1000] = -1.0;
    values[1500] = 20.0;
    values[1501] = NAN;
    values[1502] = -INFINITY;
    values[1600] = -20.0;
    CHECK(spike_score(&score, values, LENGTH, &err) && score == 4.0 / LENGTH);
    CHECK(spike_score(&score, values, 0, &err) && score == 0.0);
    for (size_t i = 0; i < LENGTH; i++) { values[i] = 0.1; }
    CHECK(spike_score(&score, values, LENGTH, &err) && score == 0.0);
}

int main(void) {
    test_first_steps_pass();
    test_threshold();
    test_constant_series();
    test_not_finite();
    test_window();
    test_new_level();
    test_resume();
    test_monitor();
    test_monitor_of_constants();
    test_monitor_running();
    test_spike_score();
    return check_report();
}
