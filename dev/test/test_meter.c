// test_meter.c: the line that says how far a long job is: when it appears, and what it says.
#include "llmc/commands/meter.h"

#include "check.h"

// A meter that writes into a file, taken for a terminal or not, whose job began `seconds` ago.
static Meter begin(Meter m, bool terminal, double seconds) {
    CHECK(m.out == stderr && m.begin <= seconds_now());
    m.out = tmpfile();
    m.terminal = terminal;
    m.begin -= seconds;
    m.last = m.begin;
    return m;
}

// Whether these bytes were written since the last call.
static bool wrote(Meter *m, const char *expected) {
    char found[256] = "";
    rewind(m->out);
    const size_t size = fread(found, 1, sizeof found - 1, m->out);
    rewind(m->out);
    const bool ok = strcmp(found, expected) == 0 && ftruncate(fileno(m->out), 0) == 0;
    if (!ok) { printf("       %zu bytes: \"%s\"\n", size, found); }
    return ok;
}

// The clock of a meter goes on by so many seconds.
static void wait(Meter *m, double seconds) {
    m->begin -= seconds;
    m->last -= seconds;
}

static void test_terminal(void) {
    Meter m = begin(meter_begin("texts", 0, 400), true, 0.0);
    meter_show(&m, 1, "");
    CHECK(wrote(&m, ""));  // less than a second
    wait(&m, 2.0);
    meter_show(&m, 0, "");
    CHECK(wrote(&m, "\rtexts: 0 of 400\033[K"));  // no end is known yet
    meter_show(&m, 10, "");
    CHECK(wrote(&m, "") && m.done == 10);  // too soon
    wait(&m, 0.3);
    meter_show(&m, 10, "fast");
    CHECK(wrote(&m, "\rtexts: 10 of 400, 1m30s left, fast\033[K"));
    wait(&m, 0.3);
    meter_show(&m, 400, "");
    CHECK(wrote(&m, ""));  // done
    meter_end(&m);
    CHECK(wrote(&m, "\r\033[K"));
    meter_end(&m);
    CHECK(wrote(&m, ""));
    fclose(m.out);
    m = begin(meter_begin("texts", 0, 400), true, 0.0);
    meter_end(&m);
    CHECK(wrote(&m, ""));  // nothing was shown
    fclose(m.out);
}

static void test_file(void) {
    Meter m = begin(meter_begin("documents", 100, 400), false, 29.0);
    meter_show(&m, 101, "");
    CHECK(wrote(&m, ""));
    wait(&m, 71.0);
    meter_show(&m, 150, "arc_easy");
    CHECK(wrote(&m, "documents: 150 of 400, 8m20s left, arc_easy\n"));  // 50 in 100 seconds
    wait(&m, 29.0);
    meter_show(&m, 160, "");
    CHECK(wrote(&m, ""));
    wait(&m, 1.0);
    meter_show_texts(&m, 165, 1300);
    CHECK(wrote(&m, "documents: 165 of 400, 7m50s left, 10.0 tokens/s\n"));
    meter_end(&m);
    CHECK(wrote(&m, ""));
    fclose(m.out);
}

// As a Heard, with a total that it is told, and a signal that interrupts.
static void test_heard(void) {
    Meter m = begin(meter_begin_bytes("weights"), true, 2.0);
    CHECK(meter_heard(&m, 1000000000, 3000000000));
    CHECK(wrote(&m, "\rweights: 1.00 GB of 3.00 GB, 4s left\033[K"));
    CHECK(meter_heard(&m, 3000000000, 3000000000) && wrote(&m, ""));
    wait(&m, 1.0);
    CHECK(until_stopped(NULL, 0, 1));
    stop_requested = 1;
    CHECK(!meter_heard(&m, 2000000000, 3000000000) && wrote(&m, ""));
    CHECK(!until_stopped(NULL, 0, 1));
    stop_requested = 0;
    fclose(m.out);
}

int main(void) {
    test_terminal();
    test_file();
    test_heard();
    return check_report();
}
