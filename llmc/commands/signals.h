// signals.h: how a run is asked to stop.
//
// SIGINT, SIGTERM and SIGHUP ask the run to finish its step, save and end. So does SIGXCPU, with which a
// batch system says that the time is nearly up. A second signal ends the program at once, which loses only
// the steps since the last checkpoint. SIGPIPE is ignored: if the reader of the output exits, the run notices
// at its next write and stops in the same way.
//
// signals_catch sets this up. Before it, a signal ends the program as usual: a run that is still loading has
// nothing to save. Loops read stop_requested; long calls into llmc/ are told by `until_stopped`, a Heard.
#ifndef LLMC_COMMANDS_SIGNALS_H
#define LLMC_COMMANDS_SIGNALS_H

#include <signal.h>

#include "llmc/utils.h"

// A signal handler can reach only static memory.
static volatile sig_atomic_t stop_requested;
static volatile double stop_requested_at;

// One event often arrives as two signals: `timeout` sends one to its child and one to the child's group, and
// a terminal that closes sends SIGHUP in addition to its shell. Only a signal that comes later counts as a
// second one.
static inline void request_stop(int number) {
    const double now = seconds_now();
    if (!stop_requested) {
        stop_requested = 1;
        stop_requested_at = now;
    } else if (number != SIGXCPU && now - stop_requested_at > 0.5) {  // SIGXCPU repeats every second
        signal(number, SIG_DFL);
        raise(number);
    }
}

static inline bool until_stopped(void *context, size_t done, size_t total) {
    (void)context, (void)done, (void)total;
    return !stop_requested;
}

// A signal that is ignored, as nohup ignores SIGHUP, stays ignored.
static inline void signals_catch(void) {
    const int signals[] = {SIGINT, SIGTERM, SIGHUP, SIGXCPU};
    struct sigaction action, before;
    memset(&action, 0, sizeof action);
    action.sa_handler = request_stop;
    action.sa_flags = SA_RESTART;
    for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++) {
        if (sigaction(signals[i], NULL, &before) == 0 && before.sa_handler == SIG_IGN) { continue; }
        sigaction(signals[i], &action, NULL);
    }
    signal(SIGPIPE, SIG_IGN);
}

#endif
