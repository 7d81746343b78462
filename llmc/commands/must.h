// must.h: how the program ends when something fails.
//
// Library functions return an Error and do not end the program. Only llmc/main.h and llmc/commands/ do,
// through `must`. (One exception: after a CUDA call has failed, CUDA_CHECK ends it at once.) What is on disk
// is complete at every moment, so nothing is lost.
//
//   must(ok, err)          unless ok, ends the program with the message
//   warn(warning)          shows a warning, if there is one
//   print_message(...)     prints an error or a warning
//   output_written(err)    whether everything that was printed was written
#ifndef LLMC_COMMANDS_MUST_H
#define LLMC_COMMANDS_MUST_H

#include "llmc/utils.h"

// "error: ..." or "warning: ..." on stderr, its further lines indented. A file's name may hold characters
// that control a terminal; they are shown as numbers.
static inline void print_message(const char *kind, const char *message) {
    fflush(stdout);
    fprintf(stderr, "%s: ", kind);
    for (const char *c = message; *c != '\0'; c++) {
        const bool control = ((unsigned char)*c < ' ' && *c != '\n') || *c == 0x7f;
        fprintf(stderr, control ? "\\x%02x" : "%c", (unsigned char)*c);
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

#endif
