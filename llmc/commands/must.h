// must.h: how the program ends when something fails.
//
// Library functions return an Error and do not end the program. Only llmc/main.h and llmc/commands/ do,
// through `must`. (One exception: after a CUDA call has failed, CUDA_CHECK ends it at once.) What is on disk
// is complete at every moment, so nothing is lost.
//
//   must(ok, err)          unless ok, ends the program with the message
//   warn(warning)          shows a warning, if there is one
//   print_message(...)     prints an error or a warning
//   print_text(...)        prints what a model wrote
//   output_written(err)    whether everything that was printed was written
#ifndef LLMC_COMMANDS_MUST_H
#define LLMC_COMMANDS_MUST_H

#include "llmc/utf8.h"
#include "llmc/utils.h"

// A character that controls a terminal, of `size` bytes, as numbers.
static inline void print_control(FILE *out, const char *bytes, size_t size) {
    for (size_t i = 0; i < size; i++) { fprintf(out, "\\x%02x", (unsigned)(unsigned char)bytes[i]); }
}

// "error: ..." or "warning: ..." on stderr, its further lines indented. A file's name may hold characters
// that control a terminal; they are shown as numbers.
static inline void print_message(const char *kind, const char *message) {
    fflush(stdout);
    fprintf(stderr, "%s: ", kind);
    for (const char *c = message; *c != '\0'; c++) {
        const size_t control = utf8_control(c, strlen(c));
        if (control > 0) {
            print_control(stderr, c, control);
            c += control - 1;
            continue;
        }
        fputc(*c, stderr);
        if (*c == '\n') {
            c += strspn(c + 1, " ");
            fputs("       ", stderr);
        }
    }
    fputc('\n', stderr);
}

static inline void must(bool ok, const Error *err) {
    if (ok) { return; }
    print_message("error", err->text);
    exit(1);
}

// Shows what library functions have added to `warning`, if anything, and empties it.
static inline void warn(Error *warning) {
    if (warning->text[0] != '\0') { print_message("warning", warning->text); }
    warning->text[0] = '\0';
}

// Whether everything that was printed was written. A full disk is an error, and so is a reader that has
// exited.
static inline bool output_written(Error *err) {
    const bool flushed = fflush(stdout) == 0;
    if (flushed && !ferror(stdout)) { return true; }
    return fail(err, "standard output cannot be written: %s",
                flushed ? "its reader has exited, or its disk is full" : strerror(errno));
}

// Text that may hold anything. Characters that control a terminal are shown as numbers there.
static inline bool print_text(const char *bytes, size_t size, Error *err) {
    const bool terminal = isatty(STDOUT_FILENO) == 1;
    for (size_t i = 0; terminal && i < size;) {
        const size_t control = utf8_control(bytes + i, size - i);
        if (control > 0) { print_control(stdout, bytes + i, control); }
        if (control == 0) { fputc(bytes[i], stdout); }
        i += control > 0 ? control : 1;
    }
    if (!terminal) { fwrite(bytes, 1, size, stdout); }
    return output_written(err);
}

#endif
