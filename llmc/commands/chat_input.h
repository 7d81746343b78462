// chat_input.h: what a person or a script types to `chat`, line by line, and how Ctrl-C reaches it.
//
//   input_open, input_close
//   input_read        the next question or command: a line, and those that continue it
//   input_catch       Ctrl-C sets `interrupted` from now on
#ifndef LLMC_COMMANDS_CHAT_INPUT_H
#define LLMC_COMMANDS_CHAT_INPUT_H

#include <signal.h>
#include <sys/select.h>

#include "llmc/utf8.h"
#include "llmc/utils.h"

enum { INPUT_LARGEST = 64 << 20 };  // bytes of a line; a longer one is no question
enum { TERMINAL_LONGEST = 4095 };   // of a line on Linux, whose terminals drop what is typed beyond

typedef struct {
    int descriptor;
    bool terminal;  // show a prompt
    char *buffer;   // (size) what was read and not yet used, behind the question
    size_t size, capacity;
    size_t used;  // bytes of the buffer that the last question took
    bool begun;   // the first line has been read
    bool cut;     // the terminal has dropped the end of one of its lines, as far as one can tell
} Input;

typedef enum { INPUT_TEXT, INPUT_END, INPUT_INTERRUPTED, INPUT_ERROR } InputResult;

static inline void input_open(Input *in, int descriptor);
static inline void input_close(Input *in) { free(in->buffer); }

// Reads up to the end of a line, which is \n, \r\n or the end of the input. A byte order mark before the first
// line is dropped. A line that ends in a backslash
// continues in the next one: the backslash goes, the newline stays. *text (size) is the input's memory until
// the next call; it is not terminated and may hold any bytes. There is nothing to read after an error.
static inline InputResult input_read(Input *in, char **text, size_t *size, Error *err);

// Whether Ctrl-C was typed; the reader sets it back. Handlers reach only static memory.
static volatile sig_atomic_t interrupted;
static inline void input_catch(void);

// ---------------------------------------------------------------------------------------------

// A second Ctrl-C, before the first has had its effect, ends the program.
static inline void input_interrupt(int number) {
    if (interrupted) {
        signal(number, SIG_DFL);
        raise(number);
    }
    interrupted = 1;
}

// pselect returns all the same; a write to a slow terminal goes on.
static inline void input_catch(void) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = input_interrupt;
    action.sa_flags = SA_RESTART;
    sigaction(SIGINT, &action, NULL);
}

static inline void input_open(Input *in, int descriptor) {
    memset(in, 0, sizeof *in);
    in->descriptor = descriptor;
    in->terminal = isatty(descriptor) == 1;
}

// Waits until there is something to read; false if Ctrl-C came first. SIGINT is blocked outside of pselect,
// so it cannot arrive between the look at `interrupted` and the waiting.
static inline bool input_wait(const Input *in) {
    sigset_t block, before;
    fd_set wanted;
    FD_ZERO(&wanted);
    FD_SET(in->descriptor, &wanted);
    sigemptyset(&block);
    sigaddset(&block, SIGINT);
    sigprocmask(SIG_BLOCK, &block, &before);
    if (!interrupted) { pselect(in->descriptor + 1, &wanted, NULL, NULL, NULL, &before); }
    sigprocmask(SIG_SETMASK, &before, NULL);
    return !interrupted;
}

// Appends what can be read to the buffer.
static inline InputResult input_fill(Input *in, Error *err) {
    enum { PIECE = 1 << 16 };
    if (in->capacity - in->size < PIECE) {
        const size_t capacity = 2 * in->size + PIECE;
        char *buffer = (char *)realloc(in->buffer, capacity);
        if (buffer == NULL) {
            fail(err, "out of memory: the input has a line of more than %zu bytes", in->size);
            return INPUT_ERROR;
        }
        in->buffer = buffer;
        in->capacity = capacity;
    }
    for (;;) {
        if (in->terminal && !input_wait(in)) { return INPUT_INTERRUPTED; }
        const ssize_t count = read(in->descriptor, in->buffer + in->size, PIECE);
        if (count > 0) { in->size += (size_t)count; }
        if (count >= 0) { return count > 0 ? INPUT_TEXT : INPUT_END; }
        if (errno == EINTR || errno == EAGAIN) { continue; }
        fail(err, "standard input cannot be read: %s", strerror(errno));
        return INPUT_ERROR;
    }
}

// The end of the line that begins at `begin`: the index of its \n, or in->size where the input ends.
static inline InputResult input_line(Input *in, size_t begin, size_t *end, Error *err) {
    size_t at = begin;
    for (;;) {
        const char *newline =
            in->size > at ? (const char *)memchr(in->buffer + at, '\n', in->size - at) : NULL;
        *end = newline != NULL ? (size_t)(newline - in->buffer) : in->size;
        if (newline != NULL) { return INPUT_TEXT; }
        if (in->size - begin > INPUT_LARGEST) {
            fail(err, "the input has a line of more than %d bytes", INPUT_LARGEST);
            return INPUT_ERROR;
        }
        at = in->size;
        const InputResult result = input_fill(in, err);
        if (result == INPUT_END) { return in->size > begin ? INPUT_TEXT : INPUT_END; }
        if (result != INPUT_TEXT) { return result; }
    }
}

static inline void input_prompt(const Input *in, const char *text) {
    if (in->terminal) { fputs(text, stderr); }
}

static inline InputResult input_read(Input *in, char **text, size_t *size, Error *err) {
    size_t length = 0, at, end;  // bytes of the question, which is put together at the buffer's beginning
    in->size -= in->used;
    if (in->size > 0) { memmove(in->buffer, in->buffer + in->used, in->size); }
    in->used = 0;
    in->cut = false;
    input_prompt(in, "> ");
    for (at = 0;; at = end + 1) {
        const InputResult result = input_line(in, at, &end, err);
        if (result == INPUT_END && at > 0) {  // behind a backslash
            length--;
            end = in->size;
            break;
        }
        if (result == INPUT_INTERRUPTED) { in->size = 0; }  // forget what was typed
        if (result != INPUT_TEXT) { return result; }
        if (!in->begun) { at += utf8_mark(in->buffer, end); }
        in->begun = true;
        size_t line = end - at;
        in->cut = in->cut || (in->terminal && line >= TERMINAL_LONGEST);
        if (line > 0 && end < in->size && in->buffer[end - 1] == '\r') { line--; }
        memmove(in->buffer + length, in->buffer + at, line);
        length += line;
        if (line == 0 || in->buffer[length - 1] != '\\') { break; }
        in->buffer[length - 1] = '\n';
        if (end == in->size) {
            length--;
            break;
        }
        input_prompt(in, ". ");
    }
    in->used = end < in->size ? end + 1 : end;
    *text = in->buffer;
    *size = length;
    return INPUT_TEXT;
}

#endif
