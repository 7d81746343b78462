// utils.h: errors, memory, files and text, for every other header of the library.
//
// Errors. A function that can fail returns bool, true for success, and takes an Error as its last argument.
// On failure it has written there one message for a person: which file, flag or field, what was found, what
// was expected, what to do. The caller passes it up with `return false`; only main() prints it and exits.
//
// All headers of llmc/ compile as C11 and as C++17, so that a backend may be written in either.
#ifndef LLMC_UTILS_H
#define LLMC_UTILS_H

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
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
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#ifdef _OPENMP
#include <omp.h>
#endif

// ---------------------------------------------------------------------------------------------
// errors

typedef struct {
    char text[4096];  // empty while nothing has failed
} Error;

// Writes the message. The arguments may include err->text itself, to put words before an earlier message.
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

// Writes the message and is false, so that `return fail(err, "...", ...)` is the whole story. A macro:
// compilers do not look into a function with variable arguments and would not know that it is false.
#define fail(err, ...) error_return(error_write(err, __VA_ARGS__))

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

// The same for arrays as large as a model, released with free_pages. A page takes memory only when it is
// first written to, and then near the thread that does so. Linux gives pages of 2 MB for the asking: with
// small ones, reading down a matrix spends time on finding the page of each row.
#ifdef __SANITIZE_ADDRESS__  // which watches the ends of malloc's memory alone
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
    // One page more than is needed has a boundary of large pages in it; what lies around is given back.
    void *mapped = mmap(NULL, whole_pages(bytes) + LARGE_PAGE, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) { return allocation_failed(bytes, what, err); }
    const size_t before = LARGE_PAGE - (uintptr_t)mapped % LARGE_PAGE;
    char *memory = (char *)mapped + before;
    munmap(mapped, before);
    if (before < LARGE_PAGE) { munmap(memory + whole_pages(bytes), LARGE_PAGE - before); }
#ifdef MADV_HUGEPAGE
    madvise(memory, bytes / LARGE_PAGE * LARGE_PAGE, MADV_HUGEPAGE);  // small ones for what is left
#endif
    return memory;
}

static inline void free_pages(void *memory, size_t count, size_t size) {
    if (memory != NULL) { munmap(memory, whole_pages(count * size)); }
}
#endif

// Whether the machine has `bytes` of memory at all. Asking first matters where the system promises more than
// it has and ends the program when it is used.
static inline bool memory_suffices(size_t bytes, Error *err) {
    long pages = sysconf(_SC_PHYS_PAGES), page_size = sysconf(_SC_PAGE_SIZE);
    size_t machine = pages > 0 && page_size > 0 ? (size_t)pages * (size_t)page_size : SIZE_MAX;
    if (bytes <= machine) { return true; }
    char needed[32], found[32];
    return fail(err,
                "out of memory: the model and its buffers need %s, this machine has %s\n"
                "       A smaller --micro-batch-size, --seq-len or --config needs less.",
                format_bytes(needed, bytes), format_bytes(found, machine));
}

// ---------------------------------------------------------------------------------------------
// threads; without OpenMP there is one

// How many a parallel region has.
static inline size_t thread_count(void) {
#ifdef _OPENMP
    return (size_t)omp_get_max_threads();
#else
    return 1;
#endif
}

// Which one is asking, from 0.
static inline size_t thread_number(void) {
#ifdef _OPENMP
    return (size_t)omp_get_thread_num();
#else
    return 0;
#endif
}

// ---------------------------------------------------------------------------------------------
// text

// A printf into fresh memory; the caller frees it. NULL only when there is no memory at all.
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
// files

static inline bool path_is_directory(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

static inline bool path_is_file(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 && S_ISREG(info.st_mode);
}

// Writes "dir/name" to out, PATH_MAX bytes of the caller's.
static inline bool path_join(char *out, const char *dir, const char *name, Error *err) {
    int length = snprintf(out, PATH_MAX, "%s/%s", dir, name);
    return (length >= 0 && length < PATH_MAX) ||
           fail(err, "%s/%s: the path is longer than %d", dir, name, PATH_MAX);
}

// A file's bytes, mapped read-only: nothing is copied until it is read.
typedef struct {
    const char *data;  // NULL when the file is empty
    size_t size;       // bytes
} MappedFile;

static inline bool file_map(MappedFile *file, const char *path, Error *err) {
    file->data = NULL;
    file->size = 0;
    int descriptor = open(path, O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) { return fail(err, "%s: cannot be opened: %s", path, strerror(errno)); }
    struct stat info;
    if (fstat(descriptor, &info) != 0 || !S_ISREG(info.st_mode)) {
        close(descriptor);
        return fail(err, "%s: is not a regular file", path);
    }
    if (info.st_size > 0) {
        void *data = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, descriptor, 0);
        if (data == MAP_FAILED) {
            close(descriptor);
            return fail(err, "%s: cannot be mapped into memory: %s", path, strerror(errno));
        }
        file->data = (const char *)data;
        file->size = (size_t)info.st_size;
    }
    close(descriptor);
    return true;
}

static inline void file_unmap(MappedFile *file) {
    if (file->data != NULL) { munmap((void *)file->data, file->size); }
    file->data = NULL;
    file->size = 0;
}

// Writing a file: file_create, file_write as often as needed, file_finish.
static inline bool file_create(int *descriptor, const char *path, Error *err) {
    *descriptor = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    return *descriptor >= 0 || fail(err, "%s: cannot be created: %s", path, strerror(errno));
}

static inline bool file_write(int descriptor, const void *data, size_t size, const char *path, Error *err) {
    for (size_t done = 0; done < size;) {
        ssize_t written = write(descriptor, (const char *)data + done, size - done);
        if (written < 0 && errno == EINTR) { continue; }
        if (written <= 0) {
            return fail(err, "%s: cannot be written: %s", path, strerror(written < 0 ? errno : ENOSPC));
        }
        done += (size_t)written;
    }
    return true;
}

// Closes the file after making sure that its data is on the disk, or removes it if `ok` is false or that
// fails.
static inline bool file_finish(int descriptor, bool ok, const char *path, Error *err) {
    if (ok && fsync(descriptor) != 0) { ok = fail(err, "%s: cannot be written: %s", path, strerror(errno)); }
    if (close(descriptor) != 0 && ok) { ok = fail(err, "%s: cannot be written: %s", path, strerror(errno)); }
    if (!ok) { unlink(path); }
    return ok;
}

// ---------------------------------------------------------------------------------------------
// time

// Seconds on a clock that never goes back.
static inline double seconds_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

#endif
