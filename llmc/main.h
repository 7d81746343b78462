// main.h: the program, for CPU and GPU. A command is a file of its name in llmc/commands/. The model is the
// backend that includes this as its last line, train_olmo2.c or train_olmo2.cu; nothing here can tell which.
#ifndef LLMC_MAIN_H
#define LLMC_MAIN_H

#include "commands/chat.h"
#include "commands/eval.h"
#include "commands/generate.h"
#include "commands/inspect.h"
#include "commands/soup.h"
#include "commands/tokenize.h"
#include "commands/train.h"
#include "llmc/help.h"

// Opens /dev/null in place of standard streams that are closed. Otherwise the first file to be opened would
// get the number of one, and messages would be written into that file. A run continues without a standard
// output; for any other command, writing to one that was closed is an error (output_written).
static inline void open_standard_streams(bool trains) {
    for (int stream = 0; stream <= 2; stream++) {
        const int mode = stream == STDOUT_FILENO && !trains ? O_RDONLY : O_RDWR;
        if (fcntl(stream, F_GETFD) < 0 && open("/dev/null", mode) < 0) { exit(1); }
    }
    // Another program may have left the terminal or pipe in a mode in which a slow reader is an error.
    const int flags = fcntl(STDOUT_FILENO, F_GETFL);
    if (flags >= 0 && (flags & O_NONBLOCK) != 0) { fcntl(STDOUT_FILENO, F_SETFL, flags & ~O_NONBLOCK); }
}

int main(int argc, char **argv) {
    Error err;
    Settings settings;
    open_standard_streams(argc > 1 && strcmp(argv[1], "train") == 0);
    signal(SIGXFSZ, SIG_IGN);  // a write that would make a file too large fails instead
    if (argc < 2 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        program_help(argc < 2 ? stderr : stdout, argv[0]);
        must(output_written(&err), &err);
        return argc < 2;
    }
    const Command *command = command_named(argv[1], &err);
    must(command != NULL, &err);
    must(settings_from_command_line(&settings, command, argc - 2, argv + 2, &err), &err);
    if (settings.help == ON) {
        flags_help(stdout, argv[0], command);
    } else {
        use_threads(settings.threads);
        switch (command->bit) {
        case TRAIN: train(argv[0], &settings); break;
        case GENERATE: generate(&settings); break;
        case CHAT: chat(&settings); break;
        case EVAL: eval(&settings); break;
        case SOUP: soup(&settings); break;
        case TOKENIZE: tokenize(&settings); break;
        case DETOKENIZE: detokenize(&settings); break;
        case INSPECT: inspect(&settings); break;
        }
    }
    settings_free(&settings);
    must(output_written(&err), &err);
    return 0;
}

#endif
