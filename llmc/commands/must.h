// must.h: how the program ends when something fails.
//
// Library functions return an Error and end nothing. Only llmc/main.h and llmc/commands/ end the program, and
// only through `must`. What they write on disk is whole at any moment, so ending here loses nothing.
//
//   must(ok, err)          ends the program with the message unless ok
//   warn(warning)          shows a warning, if there is one
//   print_message(...)     either of them, as a person sees it
//   output_written(err)    whether standard output took everything
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

// Whether everything that was printed has been written: a full disk or a reader that has left is an error.
static inline bool output_written(Error *err) {
    const bool flushed = fflush(stdout) == 0;
    if (flushed && !ferror(stdout)) { return true; }
    return fail(err, "standard output cannot be written: %s",
                flushed ? "its reader has left, or its disk is full" : strerror(errno));
}

#endif
