// test_schedule.c: learning rates of the OLMo 2 runs, and the shape and edges of each schedule.
#include "llmc/schedule.h"

#include "check.h"

static bool close_to(double a, double b, double relative) { return fabs(a - b) <= relative * fabs(b); }

// Published rates of the official runs, given to as many digits. 1B, 7B and 13B count tokens (of batches of
// 4096 tokens times 512, 1024 and 2048), 32B counts steps.
static void test_official_runs(void) {
    const int64_t warmup = 8388608000, total = 5000000000000;
    Schedule small = {SCHEDULE_COSINE, 4e-4, warmup, total, 0, 0.1};
    Schedule seven = {SCHEDULE_COSINE, 3e-4, warmup, total, 0, 0.1};
    Schedule thirteen = {SCHEDULE_COSINE, 9e-4, warmup, total, 0, 0.1};
    Schedule thirty_two = {SCHEDULE_COSINE, 6e-4, 2000, 774861, 0, 0.1};
    const int64_t batch = 1024 * 4096;
    CHECK(close_to(schedule_lr(&seven, 1 * batch), 1.5e-7, 1e-14));
    CHECK(close_to(schedule_lr(&seven, 1000 * batch), 1.5e-4, 1e-14));
    CHECK(close_to(schedule_lr(&seven, 2000 * batch), 3e-4, 1e-14));
    CHECK(close_to(schedule_lr(&seven, 100000 * batch), 2.955076821e-4, 2e-10));
    CHECK(close_to(schedule_lr(&seven, 500000 * batch), 1.992075196e-4, 3e-10));
    CHECK(close_to(schedule_lr(&seven, 928000 * batch), 6.149879159e-5, 1e-10));
    CHECK(close_to(schedule_lr(&seven, 928646 * batch), 6.135e-5, 1e-4));
    CHECK(close_to(schedule_lr(&small, 1907359 * (batch / 2)), 7.4487e-5, 1e-5));
    CHECK(close_to(schedule_lr(&thirteen, 596057 * (batch * 2)), 9e-5, 1e-5));
    CHECK(close_to(schedule_lr(&thirty_two, 721901), 6.623e-5, 1e-4));
}

static void test_cosine(void) {
    Schedule s = {SCHEDULE_COSINE, 1.0, 10, 110, 0, 0.1};
    CHECK(schedule_lr(&s, 0) == 0.0);
    CHECK(schedule_lr(&s, 1) == 0.1);
    CHECK(schedule_lr(&s, 10) == 1.0);
    CHECK(close_to(schedule_lr(&s, 60), 0.55, 1e-15));  // half way: the mean of peak and final
    CHECK(schedule_lr(&s, 110) == 0.1);
    CHECK(schedule_lr(&s, 1000) == 0.1);
    bool falls = true;
    for (int64_t step = 10; step < 110; step++) {
        falls = falls && schedule_lr(&s, step + 1) < schedule_lr(&s, step);
    }
    CHECK(falls);
}

static void test_linear(void) {
    Schedule s = {SCHEDULE_LINEAR, 2.0, 0, 8, 0, 0.0};
    CHECK(schedule_lr(&s, 0) == 2.0);
    CHECK(schedule_lr(&s, 1) == 1.75);
    CHECK(schedule_lr(&s, 7) == 0.25);
    CHECK(schedule_lr(&s, 8) == 0.0);
    CHECK(schedule_lr(&s, 18) == 0.0);  // mid-training runs ten updates past its end
    Schedule warm = {SCHEDULE_LINEAR, 2.0, 4, 12, 0, 0.5};
    CHECK(schedule_lr(&warm, 1) == 0.5);
    CHECK(schedule_lr(&warm, 4) == 2.0);
    CHECK(schedule_lr(&warm, 8) == 1.5);
    CHECK(schedule_lr(&warm, 12) == 1.0);
}

static void test_wsd(void) {
    Schedule s = {SCHEDULE_WSD, 1.0, 10, 100, 20, 0.0};
    CHECK(schedule_lr(&s, 5) == 0.5);
    CHECK(schedule_lr(&s, 10) == 1.0);
    CHECK(schedule_lr(&s, 79) == 1.0);
    CHECK(schedule_lr(&s, 80) == 1.0);
    CHECK(schedule_lr(&s, 85) == 0.75);
    CHECK(schedule_lr(&s, 95) == 0.25);
    CHECK(schedule_lr(&s, 100) == 0.0);
    CHECK(schedule_lr(&s, 200) == 0.0);
    s.final_fraction = 0.5;
    CHECK(schedule_lr(&s, 90) == 0.75);
    CHECK(schedule_lr(&s, 100) == 0.5);
    s.decay = 0;
    CHECK(schedule_lr(&s, 100) == 1.0);  // no decay at all
    s.decay = 200;                       // the decay would begin before the run: the warmup takes precedence
    CHECK(schedule_lr(&s, 5) == 0.5);
    CHECK(close_to(schedule_lr(&s, 11), 0.5 + 0.5 * 89.0 / 200.0, 1e-15));
}

static void test_constant(void) {
    Schedule s = {SCHEDULE_CONSTANT, 3e-4, 0, 10, 0, 0.1};
    CHECK(schedule_lr(&s, 1) == 3e-4);
    CHECK(schedule_lr(&s, 1000) == 3e-4);
    s.warmup = 3;
    CHECK(close_to(schedule_lr(&s, 1), 1e-4, 1e-15));
    CHECK(schedule_lr(&s, 3) == 3e-4);
}

// A run that ends during its warmup, or with it, never divides by zero.
static void test_short_runs(void) {
    for (int kind = SCHEDULE_COSINE; kind <= SCHEDULE_CONSTANT; kind++) {
        for (int64_t warmup = 0; warmup <= 6; warmup++) {
            for (int64_t total = 0; total <= 6; total++) {
                Schedule s = {(ScheduleKind)kind, 1.0, warmup, total, 2, 0.1};
                for (int64_t step = 0; step <= 8; step++) {
                    double lr = schedule_lr(&s, step);
                    CHECK(lr >= 0.0 && lr <= 1.0);
                }
            }
        }
    }
}

int main(void) {
    test_official_runs();
    test_cosine();
    test_linear();
    test_wsd();
    test_constant();
    test_short_runs();
    return check_report();
}
