// help.h: what --help prints, made from the tables of settings.h, at most 79 columns wide.
//
//   flags_help(out, program, command)   what a command does, and all its flags
//   program_help(out, program)          what the program does, and its commands
//   help_wrap(out, text, ...)           breaks text into lines
#ifndef LLMC_HELP_H
#define LLMC_HELP_H

#include "settings.h"

enum { HELP_WIDTH = 79, HELP_INDENT = 26 };

// Prints the words of the text from `column` on, in lines of HELP_WIDTH columns, all but the first indented.
static inline void help_wrap(FILE *out, const char *text, size_t column, size_t indent) {
    while (*text != '\0') {
        size_t length = strcspn(text, " ");
        if (column > indent && column + 1 + length > HELP_WIDTH) {
            fprintf(out, "\n%*s", (int)indent, "");
            column = indent;
        } else if (column > indent) {
            fputc(' ', out);
            column++;
        }
        fprintf(out, "%.*s", (int)length, text);
        column += length;
        text += length + (text[length] == ' ');
    }
    fputc('\n', out);
}

static inline void help_flag(FILE *out, const Flag *flag, bool resume) {
    char left[128], text[1024];
    const char *values = flag->type == FLAG_INTEGER ? "N" : flag->type == FLAG_REAL ? "X" : flag->values;
    if (flag->type == FLAG_SWITCH) {
        bool off = flag->initial != NULL && strcmp(flag->initial, "off") == 0;
        values = off ? "" : "on|off";
    }
    if (flag->type == FLAG_SET) { values = "LIST"; }
    int length = snprintf(left, sizeof left, "%s --%s %s", resume ? "*" : " ", flag->name, values);
    bool shown = flag->initial != NULL && flag->initial[0] != '\0' && strcmp(flag->initial, "off") != 0;
    snprintf(text, sizeof text, shown ? "%s (default: %s)" : "%s", flag->help, flag->initial);
    if (length >= HELP_INDENT) {
        fprintf(out, "%s\n%*s", left, HELP_INDENT, "");
    } else {
        fprintf(out, "%-*s", HELP_INDENT, left);
    }
    help_wrap(out, text, HELP_INDENT, HELP_INDENT);
}

static inline void flags_help(FILE *out, const char *program, const Command *command) {
    const char *heading = NULL;
    for (const char *line = command->usage; line != NULL; line = strchr(line, '\n')) {
        line += *line == '\n';
        fprintf(out, "%s %s %s %.*s\n", line == command->usage ? "usage:" : "      ", program, command->name,
                (int)strcspn(line, "\n"), line);
    }
    fputc('\n', out);
    help_wrap(out, command->summary, 0, 0);
    for (int i = 0; i < FLAGS; i++) {
        if (flags[i].type == FLAG_HEADING) { heading = flags[i].name; }
        if ((flags[i].commands & command->bit) == 0) { continue; }
        if (heading != NULL) {
            fprintf(out, "\n%s\n", heading);
            heading = NULL;
        }
        help_flag(out, &flags[i], command->bit == TRAIN && (flags[i].commands & RESUME) == RESUME);
    }
}

static inline void program_help(FILE *out, const char *program) {
    fprintf(out, "usage: %s COMMAND [flags]\n\nTrains OLMo 2 language models, and uses them.\n\n", program);
    for (int i = 0; i < COMMANDS; i++) {
        fprintf(out, "  %-12s", commands[i].name);
        help_wrap(out, commands[i].summary, 14, 14);
    }
    fprintf(out, "\n%s COMMAND --help lists the command's flags.\n", program);
}

#endif
