// stack_limit.h: how much stack the threads have, checked before a model computes. A thread that runs out of
// stack ends the process with a bare "Segmentation fault". Some C libraries give a thread 128 kB, and the
// environment can set any size (`ulimit -s`, OMP_STACKSIZE).
//
// Doors:
//   stack_suffices   whether every thread has that many bytes left; the error says how to allow more
#ifndef LLMC_STACK_LIMIT_H
#define LLMC_STACK_LIMIT_H

#include <pthread.h>

#include "utils.h"

// Bytes between the caller and the end of its thread's stack; SIZE_MAX where the system does not tell.
static inline size_t stack_left(void) {
    const char *here = (const char *)__builtin_frame_address(0);
#if defined(__linux__)
    pthread_attr_t attributes;
    void *lowest = NULL;
    size_t size = 0;
    if (pthread_getattr_np(pthread_self(), &attributes) != 0) { return SIZE_MAX; }
    const bool known = pthread_attr_getstack(&attributes, &lowest, &size) == 0;
    pthread_attr_destroy(&attributes);
    return known ? (size_t)(here - (const char *)lowest) : SIZE_MAX;
#elif defined(__APPLE__)
    const char *highest = (const char *)pthread_get_stackaddr_np(pthread_self());
    return pthread_get_stacksize_np(pthread_self()) - (size_t)(highest - here);
#else
    (void)here;
    return SIZE_MAX;
#endif
}

// Whether every thread of a parallel region, the calling one included, has `bytes` of stack left.
static inline bool stack_suffices(size_t bytes, Error *err) {
    char needed[32], found[32];
    const size_t own = stack_left();
    size_t least = own;
    if (own < bytes) {
        return fail(
            err,
            "the program has %s of stack left, and matrix products need %s: allow more by `ulimit -s 8192`",
            format_bytes(found, own), format_bytes(needed, bytes));
    }
#ifdef _OPENMP
#pragma omp parallel reduction(min : least)
    least = stack_left();
#endif
    if (least < bytes) {
        return fail(
            err,
            "a thread has %s of stack, and matrix products need %s: set OMP_STACKSIZE=1M in the environment",
            format_bytes(found, least), format_bytes(needed, bytes));
    }
    return true;
}

#endif
