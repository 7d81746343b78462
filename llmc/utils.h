// utils.h: errors, memory, threads and text, for every other header of the library.
//
// Doors:
//   fail, error_write                 writes an error message; fail returns false
//   add_warning                       appends a line to a warning
//   allocate, allocate_pages, free_pages     zeroed memory, or an error that says what it was needed for
//   multiply_sizes                    a product that must fit 64 bits
//   format_text, format_bytes, ends_with
//   use_threads, thread_count, thread_number       OpenMP's, or one thread without it
//   seconds_now                       a clock that never goes back
//   Heard                             is told how far a long job is
//
// Errors. A function that can fail returns bool, true for success, and takes an Error as its last argument.
// On failure it has written one message for the user: which file, flag or field, what was found, what was
// expected, what to do. The caller passes it up with `return false`. Only llmc/main.h and llmc/commands/
// print messages and end the program.
//
// Warnings. A function that can succeed and still has something to say takes an Error called `warning` as
// well. It appends one line for each thing to that text, so the caller begins with an empty one:
//     Error err, warning = {""};
//
// All headers of llmc/ compile as C11 and as C++17, so a backend may be written in either.
#ifndef LLMC_UTILS_H
#define LLMC_UTILS_H

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#ifdef _OPENMP
#include <omp.h>
#endif

// ---------------------------------------------------------------------------------------------
// errors

// Room for a few lines, each with a path as long as paths can be.
typedef struct {
    char text[4 * PATH_MAX];  // empty: no message
} Error;

// Writes the message. The arguments may include err->text itself, to put words in front of an earlier
// message.
__attribute__((format(printf, 2, 3))) static inline int error_write(Error *err, const char *format, ...) {
    char text[sizeof err->text];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    memcpy(err->text, text, sizeof text);
    return length;
}

static inline bool error_return(int length) {
    (void)length;
    return false;
}

// Writes the message and returns false: `return fail(err, "...", ...)`. It is a macro because compilers do
// not inline functions with variable arguments, and would not see that the value is always false.
#define fail(err, ...) error_return(error_write(err, __VA_ARGS__))

// add_warning(warning, "format", arguments): appends a line. The format is a literal with at least one
// argument.
#define add_warning(warning, format, ...)                                                               \
    ((void)error_write(warning, "%s%s" format, (warning)->text, (warning)->text[0] != '\0' ? "\n" : "", \
                       __VA_ARGS__))

// ---------------------------------------------------------------------------------------------
// memory

// Sets *out = a * b, or returns false when the product does not fit 64 bits.
static inline bool multiply_sizes(size_t a, size_t b, size_t *out) {
    return !__builtin_mul_overflow(a, b, out);
}

// "1.50 GB" and the like, written into the caller's buffer and returned.
static inline const char *format_bytes(char buffer[32], size_t bytes) {
    const char *units[] = {"bytes", "kB", "MB", "GB", "TB", "PB"};
    double value = (double)bytes;
    int unit = 0;
    while (value >= 1000.0 && unit < 5) {
        value /= 1000.0;
        unit++;
    }
    snprintf(buffer, 32, unit == 0 ? "%.0f %s" : "%.2f %s", value, units[unit]);
    return buffer;
}

static inline bool allocation_size(size_t *bytes, size_t count, size_t size, const char *what, Error *err) {
    return (multiply_sizes(count, size, bytes) && *bytes <= SIZE_MAX / 2) ||
           fail(err, "out of memory: %s needs %zu x %zu bytes, more than any address space", what, count,
                size);
}

static inline void *allocation_failed(size_t bytes, const char *what, Error *err) {
    char text[32];
    fail(err, "out of memory: %s needs %s", what, format_bytes(text, bytes));
    return NULL;
}

// count * size zeroed bytes at a 64-byte boundary, or NULL with a message that says how much `what` needed.
// The caller owns the memory and releases it with free().
static inline void *allocate(size_t count, size_t size, const char *what, Error *err) {
    size_t bytes;
    if (!allocation_size(&bytes, count, size, what, err)) { return NULL; }
    void *memory = aligned_alloc(64, (bytes / 64 + 1) * 64);
    if (memory == NULL) { return allocation_failed(bytes, what, err); }
    memset(memory, 0, bytes);
    return memory;
}

// The same for arrays as large as a model, released with free_pages. A page takes memory only when a thread
// first writes to it, and then near that thread. Linux gives pages of 2 MB when asked: with small pages,
// reading down a matrix spends its time on looking up the page of each row.
#ifdef __SANITIZE_ADDRESS__  // it watches the ends of malloc's memory only
static inline void *allocate_pages(size_t count, size_t size, const char *what, Error *err) {
    return allocate(count, size, what, err);
}

static inline void free_pages(void *memory, size_t count, size_t size) {
    (void)count, (void)size;
    free(memory);
}
#else
enum { LARGE_PAGE = 2 << 20 };

static inline size_t whole_pages(size_t bytes) { return (bytes / LARGE_PAGE + 1) * LARGE_PAGE; }

static inline void *allocate_pages(size_t count, size_t size, const char *what, Error *err) {
    size_t bytes;
    if (!allocation_size(&bytes, count, size, what, err)) { return NULL; }
    // One page more than needed contains a boundary of large pages; what lies before and after is unmapped.
    void *mapped = mmap(NULL, whole_pages(bytes) + LARGE_PAGE, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) { return allocation_failed(bytes, what, err); }
    const size_t before = LARGE_PAGE - (uintptr_t)mapped % LARGE_PAGE;
    char *memory = (char *)mapped + before;
    munmap(mapped, before);
    if (before < LARGE_PAGE) { munmap(memory + whole_pages(bytes), LARGE_PAGE - before); }
#ifdef MADV_HUGEPAGE
    madvise(memory, bytes / LARGE_PAGE * LARGE_PAGE, MADV_HUGEPAGE);  // the rest stays on small pages
#endif
    return memory;
}

static inline void free_pages(void *memory, size_t count, size_t size) {
    if (memory != NULL) { munmap(memory, whole_pages(count * size)); }
}
#endif

// ---------------------------------------------------------------------------------------------
// threads; without OpenMP there is one

// Sets how many threads a parallel region has; 0 leaves OpenMP's choice.
static inline void use_threads(int64_t threads) {
#ifdef _OPENMP
    if (threads > 0) { omp_set_num_threads((int)threads); }
#else
    (void)threads;
#endif
}

// Threads of a parallel region.
static inline size_t thread_count(void) {
#ifdef _OPENMP
    return (size_t)omp_get_max_threads();
#else
    return 1;
#endif
}

// The number of the calling thread, from 0.
static inline size_t thread_number(void) {
#ifdef _OPENMP
    return (size_t)omp_get_thread_num();
#else
    return 0;
#endif
}

// ---------------------------------------------------------------------------------------------
// text

// printf into fresh memory, which the caller frees. NULL only if there is no memory left.
__attribute__((format(printf, 1, 2))) static inline char *format_text(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    char *text = length < 0 ? NULL : (char *)malloc((size_t)length + 1);
    if (text != NULL) {
        va_start(arguments, format);
        vsnprintf(text, (size_t)length + 1, format, arguments);
        va_end(arguments);
    }
    return text;
}

static inline bool ends_with(const char *text, const char *ending) {
    size_t length = strlen(text), ending_length = strlen(ending);
    return length >= ending_length && strcmp(text + length - ending_length, ending) == 0;
}

// ---------------------------------------------------------------------------------------------
// time

// Seconds on a clock that never goes back.
static inline double seconds_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

// Is told how much of a long job is done: bytes, sequences. Returning false interrupts it.
typedef bool (*Heard)(void *context, size_t done, size_t total);

#endif
