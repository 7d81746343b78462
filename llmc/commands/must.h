// must.h: how the program ends when something fails.
//
// Library functions return an Error and end nothing. Only llmc/main.h and llmc/commands/ end the program, and
// only through `must`. What they write on disk is whole at any moment, so ending here loses nothing.
//
//   must(ok, err)          ends the program with the message unless ok
//   warn(warning)          shows a warning, if there is one
//   print_message(...)     either of them, as a person sees it
#ifndef LLMC_COMMANDS_MUST_H
#define LLMC_COMMANDS_MUST_H

#include "llmc/utils.h"

// "error: ..." or "warning: ..." on stderr, its further lines indented.
static inline void print_message(const char *kind, const char *message) {
    fflush(stdout);
    fprintf(stderr, "%s: ", kind);
    for (const char *c = message; *c != '\0'; c++) {
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

// Shows what a library function left in its `warning`; an empty text is no warning.
static inline void warn(const Error *warning) {
    if (warning->text[0] != '\0') { print_message("warning", warning->text); }
}

#endif
