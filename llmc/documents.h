// documents.h: the documents of a file, one after another, from a disk or a pipe. data/documents.py does the
// same in Python; dev/test/documents_cases.py compares the two. The rule of both:
//
//   Names    .jsonl, .json: a document on every line. Any other name: the file is one document. A .gz, .zst
//            or .zstd after that is unpacked. Case does not matter. The name "-" is standard input. It, and a
//            pipe whose name says nothing, has a document on every line if it begins like an object, with {",
//            and is one document otherwise.
//   Lines    Each holds a JSON object (RFC 8259) with a string "text", the document. The other members are
//            skipped without being checked: NaN, 1e999, duplicate keys, lone surrogates. They only have to
//            end, so only quotes and brackets count. Blank lines are skipped.
//   Text     It is UTF-8. A byte order mark is dropped at the start of a file and of a line. Half of a
//            surrogate pair in "text" becomes U+FFFD, and a warning counts them. Anything else that is wrong
//            with "text" is an error: none or two of it, not a string, not UTF-8, an escape that JSON does
//            not have, a bare control character.
//   Others   Other kinds of files are refused, and the message names the kind: compressed under another name,
//            UTF-16, token ids, Parquet, PDF and so on, and anything with a byte 0. JSON Lines under another
//            name is refused too.
//
// Lines are read a block at a time, so the memory needed is that of the longest line. A file that is one
// document is held in memory whole.
#ifndef LLMC_DOCUMENTS_H
#define LLMC_DOCUMENTS_H

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <strings.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "documents_line.h"
#include "utf8.h"
#include "utils.h"

extern char **environ;  // some systems declare it nowhere

typedef struct Documents Documents;

// Opens a file, or standard input if path is "-". Release it with documents_close; a failure leaves nothing
// to release.
static inline bool documents_open(Documents *d, const char *path, Error *err);

// The next document: `size` bytes of UTF-8, which stay until the next call. *text is NULL after the last one.
// A file without any document is an error.
static inline bool documents_next(Documents *d, const char **text, size_t *size, Error *err);

// A warning about the documents so far, or an empty text.
static inline void documents_warning(const Documents *d, Error *warning);
static inline void documents_close(Documents *d);

// ---------------------------------------------------------------------------------------------
// names

typedef enum {
    DOCUMENTS_TEXT,   // the file is one document
    DOCUMENTS_LINES,  // every line has one
    DOCUMENTS_GUESS,  // a pipe: the first bytes decide
} DocumentsKind;

// A program that unpacks standard input to standard output.
typedef struct {
    const char *ending, *program, *flag;
} DocumentsPacking;

static const DocumentsPacking documents_packings[] = {
    {".gz", "gzip", "-dc"},
    {".zst", "zstd", "-dcq"},
    {".zstd", "zstd", "-dcq"},
};

struct Documents {
    char name[PATH_MAX];  // in messages
    DocumentsKind kind;
    int descriptor;  // -1: closed

    const DocumentsPacking *packing;  // NULL: not packed
    pid_t unpacker;                   // 0: none is running
    int complaints;                   // its standard error, -1: closed

    char *buffer;  // bytes begin..end have been read and not yet used
    size_t begin, end, capacity;
    bool ended;  // nothing more to read

    char *decoded;  // (decoded_capacity) the "text" of a line
    size_t decoded_capacity;

    size_t line;                         // number of the current one
    size_t count;                        // documents so far
    size_t surrogates, surrogates_line;  // halves of pairs that became U+FFFD; the first line with one
};

static inline bool documents_name_ends(const char *name, size_t length, const char *ending) {
    size_t size = strlen(ending);
    return length >= size && strncasecmp(name + length - size, ending, size) == 0;
}

// What the name says.
static inline void documents_judge_name(Documents *d, bool pipe) {
    size_t length = strlen(d->name);
    for (size_t i = 0; i < sizeof documents_packings / sizeof *documents_packings && d->packing == NULL;
         i++) {
        const DocumentsPacking *packing = &documents_packings[i];
        if (documents_name_ends(d->name, length, packing->ending)) { d->packing = packing; }
    }
    if (d->packing != NULL) { length -= strlen(d->packing->ending); }
    bool lines =
        documents_name_ends(d->name, length, ".jsonl") || documents_name_ends(d->name, length, ".json");
    d->kind = lines ? DOCUMENTS_LINES : pipe ? DOCUMENTS_GUESS : DOCUMENTS_TEXT;
}

// ---------------------------------------------------------------------------------------------
// other kinds of files

enum { DOCUMENTS_BEGINNING = 4096 };  // bytes that are looked at

typedef struct {
    const char *magic;
    size_t at, size;
    const char *name, *advice;
} DocumentsOther;

static const char DOCUMENTS_RENAME[] = "Give it a name that says so (.gz, .zst), or unpack it into a pipe.";
static const char DOCUMENTS_UNPACK[] = "Unpack it first.";
static const char DOCUMENTS_CONVERT[] =
    "Convert it to JSON Lines, an object with a string \"text\" on every line.";
static const char DOCUMENTS_EXTRACT[] = "Extract its text first.";
static const char DOCUMENTS_RECODE[] = "Convert it to UTF-8, for example with iconv.";
static const char DOCUMENTS_TOKENS[] = "It has been tokenized already.";

static const DocumentsOther documents_others[] = {
    {"\x1F\x8B", 0, 2, "a gzip file", DOCUMENTS_RENAME},
    {"\x28\xB5\x2F\xFD", 0, 4, "a zstd file", DOCUMENTS_RENAME},
    {"\xFD\x37zXZ\0", 0, 6, "an xz file", DOCUMENTS_UNPACK},
    {"1AY&SY", 4, 6, "a bzip2 file", DOCUMENTS_UNPACK},
    {"\x04\x22\x4D\x18", 0, 4, "an lz4 file", DOCUMENTS_UNPACK},
    {"PK\x03\x04", 0, 4, "a zip file", DOCUMENTS_UNPACK},
    {"7z\xBC\xAF\x27\x1C", 0, 6, "a 7z file", DOCUMENTS_UNPACK},
    {"ustar", 257, 5, "a tar archive", DOCUMENTS_UNPACK},
    {"PAR1\x15", 0, 5, "a Parquet file", DOCUMENTS_CONVERT},
    {"ARROW1\0", 0, 7, "an Arrow file", DOCUMENTS_CONVERT},
    {"Obj\x01", 0, 4, "an Avro file", DOCUMENTS_CONVERT},
    {"\x89HDF", 0, 4, "an HDF5 file", DOCUMENTS_CONVERT},
    {"SQLite format 3", 0, 15, "an SQLite database", DOCUMENTS_CONVERT},
    {"\x93NUMPY", 0, 6, "a NumPy file", DOCUMENTS_TOKENS},
    {"%PDF-", 0, 5, "a PDF file", DOCUMENTS_EXTRACT},
    {"version https://git-lfs", 0, 23, "a Git LFS pointer", "Fetch the file itself: git lfs pull."},
    {"\xFF\xFE\0\0", 0, 4, "UTF-32 text", DOCUMENTS_RECODE},
    {"\0\0\xFE\xFF", 0, 4, "UTF-32 text", DOCUMENTS_RECODE},
    {"\xFF\xFE", 0, 2, "UTF-16 text", DOCUMENTS_RECODE},
    {"\xFE\xFF", 0, 2, "UTF-16 text", DOCUMENTS_RECODE},
};

// What a file with a byte 0 may be, judged by which of its first bytes are 0: of UTF-16, the upper half of
// each character of English; of token ids, the highest byte of each 32-bit number.
static inline DocumentsOther documents_binary(const unsigned char *bytes, size_t size) {
    const DocumentsOther utf16 = {NULL, 0, 0, "UTF-16 text", DOCUMENTS_RECODE};
    const DocumentsOther tokens = {NULL, 0, 0, "token ids of 32 bits", DOCUMENTS_TOKENS};
    const DocumentsOther other = {NULL, 0, 0, "a binary file", "Only text can be tokenized."};
    size_t zeros[4] = {0, 0, 0, 0}, quarter = size / 4;
    for (size_t i = 0; i < 4 * quarter; i++) { zeros[i % 4] += bytes[i] == 0; }
    if (quarter == 0) { return other; }
    if (zeros[0] + zeros[2] == 0 && 2 * (zeros[1] + zeros[3]) > 3 * quarter) { return utf16; }
    if (zeros[1] + zeros[3] == 0 && 2 * (zeros[0] + zeros[2]) > 3 * quarter) { return utf16; }
    return zeros[3] == quarter ? tokens : other;
}

static inline bool documents_refuse(const Documents *d, const DocumentsOther *other, Error *err) {
    return fail(err, "%s: is %s, expected UTF-8 text\n       %s", d->name, other->name, other->advice);
}

// Refuses what begins like another kind of file.
static inline bool documents_check_beginning(const Documents *d, Error *err) {
    const char *bytes = d->buffer + d->begin;
    size_t size = d->end - d->begin, most = d->kind == DOCUMENTS_LINES ? 64 : DOCUMENTS_BEGINNING;
    for (size_t i = 0; i < sizeof documents_others / sizeof *documents_others; i++) {
        const DocumentsOther *other = &documents_others[i];
        if (size >= other->at + other->size && memcmp(bytes + other->at, other->magic, other->size) == 0) {
            return documents_refuse(d, other, err);
        }
    }
    if (size == 0 || memchr(bytes, 0, size < most ? size : most) == NULL) { return true; }
    if (size > DOCUMENTS_BEGINNING) { size = DOCUMENTS_BEGINNING; }
    DocumentsOther other = documents_binary((const unsigned char *)bytes, size);
    return documents_refuse(d, &other, err);
}

// ---------------------------------------------------------------------------------------------
// reading bytes

// A pipe that programs started later do not inherit.
static inline bool documents_pipe(const Documents *d, int ends[2], Error *err) {
    if (pipe(ends) != 0) { return fail(err, "%s: cannot be unpacked: %s", d->name, strerror(errno)); }
    fcntl(ends[0], F_SETFD, FD_CLOEXEC);
    fcntl(ends[1], F_SETFD, FD_CLOEXEC);
    return true;
}

// Starts the program between d->descriptor and these two pipes.
static inline int documents_spawn(Documents *d, int output, int complaints) {
    char *arguments[] = {(char *)d->packing->program, (char *)d->packing->flag, NULL};
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, d->descriptor, STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, complaints, STDERR_FILENO);
    int code = posix_spawnp(&d->unpacker, d->packing->program, &actions, NULL, arguments, environ);
    posix_spawn_file_actions_destroy(&actions);
    if (code != 0) { d->unpacker = 0; }
    return code;
}

// Starts the program that unpacks d->descriptor, and reads from the program instead.
static inline bool documents_unpack(Documents *d, Error *err) {
    int output[2], complaints[2];
    if (!documents_pipe(d, output, err)) { return false; }
    if (!documents_pipe(d, complaints, err)) {
        close(output[0]);
        close(output[1]);
        return false;
    }
    int code = documents_spawn(d, output[1], complaints[1]);
    close(output[1]);
    close(complaints[1]);
    close(d->descriptor);
    d->descriptor = output[0];
    d->complaints = complaints[0];
    if (code == 0) { return true; }
    if (code != ENOENT) {
        return fail(err, "%s: the program %s does not start: %s", d->name, d->packing->program,
                    strerror(code));
    }
    return fail(err,
                "%s: needs the program %s, which is not installed\n       Install it, or unpack the file.",
                d->name, d->packing->program);
}

// Waits for the program that unpacks. If it failed, it has not delivered the whole file.
static inline bool documents_unpacked(Documents *d, Error *err) {
    char words[256];
    int status = 0;
    while (waitpid(d->unpacker, &status, 0) < 0 && errno == EINTR) {}
    d->unpacker = 0;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) { return true; }
    ssize_t size = read(d->complaints, words, sizeof words);
    while (size > 0 && line_is_space(words[size - 1])) { size--; }
    if (size <= 0) { return fail(err, "%s: the program %s failed", d->name, d->packing->program); }
    return fail(err,
                "%s: cannot be unpacked; the program %s says: %.*s\n"
                "       The file is damaged or incomplete, or its name is wrong.",
                d->name, d->packing->program, (int)size, words);
}

enum { DOCUMENTS_BLOCK = 1 << 20 };  // bytes to read at a time

// Makes room for at least one more byte, and moves what is not yet used to the front.
static inline bool documents_reserve(Documents *d, Error *err) {
    if (d->begin > 0) {
        memmove(d->buffer, d->buffer + d->begin, d->end - d->begin);
        d->end -= d->begin;
        d->begin = 0;
    }
    if (d->end < d->capacity) { return true; }
    size_t capacity = d->capacity == 0 ? (size_t)DOCUMENTS_BLOCK : 2 * d->capacity;
    char *buffer = (char *)realloc(d->buffer, capacity);
    if (buffer == NULL) {
        return fail(err, "%s: out of memory: a document has more than %zu bytes", d->name, d->end);
    }
    d->buffer = buffer;
    d->capacity = capacity;
    return true;
}

// Reads more bytes after those that are there, or sets d->ended.
static inline bool documents_fill(Documents *d, Error *err) {
    if (!documents_reserve(d, err)) { return false; }
    ssize_t size;
    do {
        size = read(d->descriptor, d->buffer + d->end, d->capacity - d->end);
    } while (size < 0 && errno == EINTR);
    if (size < 0) { return fail(err, "%s: cannot be read: %s", d->name, strerror(errno)); }
    d->end += (size_t)size;
    d->ended = size == 0;
    return !d->ended || d->unpacker == 0 || documents_unpacked(d, err);
}

// ---------------------------------------------------------------------------------------------
// opening

// Opens the file, and says whether it is a pipe.
static inline bool documents_open_file(Documents *d, const char *path, bool *pipe, Error *err) {
    struct stat info;
    bool standard = strcmp(path, "-") == 0;
    snprintf(d->name, sizeof d->name, "%s", standard ? "standard input" : path);
    d->descriptor = standard ? fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3) : open(path, O_RDONLY | O_CLOEXEC);
    if (d->descriptor < 0 || fstat(d->descriptor, &info) != 0) {
        return fail(err, "%s: cannot be opened: %s", d->name, strerror(errno));
    }
    if (S_ISDIR(info.st_mode)) { return fail(err, "%s: is a directory, expected a file", d->name); }
    *pipe = standard || !S_ISREG(info.st_mode);
    return true;
}

// Whether the first character that is not white space is { and the next one a quote.
static inline bool documents_begin_like_object(const Documents *d) {
    char found[2] = {0, 0};
    int count = 0;
    for (size_t i = d->begin; i < d->end && count < 2; i++) {
        if (!line_is_space(d->buffer[i])) { found[count++] = d->buffer[i]; }
    }
    return found[0] == '{' && found[1] == '"';
}

static inline bool documents_begin(Documents *d, const char *path, Error *err) {
    bool pipe;
    if (!documents_open_file(d, path, &pipe, err)) { return false; }
    documents_judge_name(d, pipe);
    if (d->packing != NULL && !documents_unpack(d, err)) { return false; }
    while (!d->ended && d->end < DOCUMENTS_BEGINNING) {
        if (!documents_fill(d, err)) { return false; }
    }
    if (!documents_check_beginning(d, err)) { return false; }
    d->begin += utf8_mark(d->buffer, d->end);
    if (d->begin == d->end) { return fail(err, "%s: is empty", d->name); }
    if (d->kind == DOCUMENTS_GUESS) {
        d->kind = documents_begin_like_object(d) ? DOCUMENTS_LINES : DOCUMENTS_TEXT;
    }
    return true;
}

static inline bool documents_open(Documents *d, const char *path, Error *err) {
    memset(d, 0, sizeof *d);
    d->descriptor = d->complaints = -1;
    if (documents_begin(d, path, err)) { return true; }
    documents_close(d);
    return false;
}

static inline void documents_close(Documents *d) {
    if (d->unpacker > 0) {  // the rest of the file is not needed
        kill(d->unpacker, SIGKILL);
        while (waitpid(d->unpacker, NULL, 0) < 0 && errno == EINTR) {}
    }
    if (d->descriptor >= 0) { close(d->descriptor); }
    if (d->complaints >= 0) { close(d->complaints); }
    free(d->buffer);
    free(d->decoded);
    memset(d, 0, sizeof *d);
    d->descriptor = d->complaints = -1;
}

// ---------------------------------------------------------------------------------------------
// a file that is one document

// The text must be UTF-8 without a byte 0.
static inline bool documents_check_text(const Documents *d, Error *err) {
    const char *begin = d->buffer + d->begin, *end = d->buffer + d->end, *line = begin;
    const char *zero = (const char *)memchr(begin, 0, (size_t)(end - begin));
    const char *bad = zero != NULL ? zero : begin + utf8_invalid(begin, (size_t)(end - begin));
    size_t number = 1, column = 1;
    if (bad == end) { return true; }
    for (const char *c = begin; c < bad; c++) {
        if (*c == '\n') {
            number++;
            line = c + 1;
        }
    }
    for (const char *c = line; c < bad; c++) { column += ((unsigned char)*c & 0xC0) != 0x80; }
    return fail(
        err,
        "%s:%zu:%zu: found the byte 0x%02X, expected UTF-8 text\n       Remove it, or convert the file to "
        "UTF-8, for example with iconv or the flag --encoding of data/text.py.",
        d->name, number, column, (unsigned char)*bad);
}

// A file whose first line is a document of JSON Lines only has the wrong name.
static inline bool documents_check_name(Documents *d, Error *err) {
    JsonLine line;
    JsonLineText text;
    Error ignored;
    const char *begin = d->buffer + d->begin, *end = d->buffer + d->end;
    while (begin < end && line_is_space(*begin)) { begin++; }
    if (begin == end || *begin != '{') { return true; }
    const char *newline = (const char *)memchr(begin, '\n', (size_t)(end - begin));
    memset(&line, 0, sizeof line);
    memset(&text, 0, sizeof text);
    line.begin = line.at = begin;
    line.end = newline != NULL ? newline : end;
    line.file = d->name;
    text.bytes = (char *)malloc((size_t)(line.end - begin));
    bool lines = text.bytes != NULL && line_text(&line, &text, &ignored);
    free(text.bytes);
    return !lines || fail(err,
                          "%s: is JSON Lines, expected text\n"
                          "       Give it a name that ends in .jsonl, and every line will be a document.",
                          d->name);
}

static inline bool documents_next_text(Documents *d, const char **text, size_t *size, Error *err) {
    if (d->count > 0) { return true; }
    while (!d->ended) {
        if (!documents_fill(d, err)) { return false; }
    }
    if (!documents_check_text(d, err)) { return false; }
    if (!documents_check_name(d, err)) { return false; }
    *text = d->buffer + d->begin;
    *size = d->end - d->begin;
    d->count = 1;
    return true;
}

// ---------------------------------------------------------------------------------------------
// lines

// Takes the next line, without its newline and a byte order mark. At the end its begin is NULL. A line that
// does not begin like an object will be refused, so no more of it is read than there is.
static inline bool documents_next_line(Documents *d, JsonLine *line, Error *err) {
    size_t searched = 0;
    memset(line, 0, sizeof *line);
    const char *newline = NULL;
    while (true) {
        size_t size = d->end - d->begin;
        const char *begin = d->buffer + d->begin;
        newline = (const char *)memchr(begin + searched, '\n', size - searched);
        searched = size;
        if (newline != NULL || d->ended) { break; }
        while (size > 0 && line_is_space(*begin)) { begin++, size--; }
        if (size >= 3 && utf8_mark(begin, size) == 0 && *begin != '{') { break; }
        if (!documents_fill(d, err)) { return false; }
    }
    if (d->begin == d->end) { return true; }
    line->begin = d->buffer + d->begin;
    line->end = newline != NULL ? newline : d->buffer + d->end;
    d->begin = (size_t)(line->end - d->buffer) + (newline != NULL);
    line->begin += utf8_mark(line->begin, (size_t)(line->end - line->begin));
    line->at = line->begin;
    line->file = d->name;
    line->number = ++d->line;
    return true;
}

static inline bool documents_reserve_decoded(Documents *d, size_t size, Error *err) {
    if (size <= d->decoded_capacity) { return true; }
    free(d->decoded);
    d->decoded = (char *)malloc(2 * size);
    d->decoded_capacity = d->decoded == NULL ? 0 : 2 * size;
    return d->decoded != NULL ||
           fail(err, "%s:%zu: out of memory: the line has %zu bytes", d->name, d->line, size);
}

static inline bool documents_next(Documents *d, const char **text, size_t *size, Error *err) {
    JsonLine line;
    *text = NULL;
    *size = 0;
    if (d->kind == DOCUMENTS_TEXT) { return documents_next_text(d, text, size, err); }
    do {  // skip blank lines
        if (!documents_next_line(d, &line, err)) { return false; }
        if (line.begin == NULL) { return d->count > 0 || fail(err, "%s: has only blank lines", d->name); }
        line_skip_space(&line);
    } while (line.at == line.end);

    if (!documents_reserve_decoded(d, (size_t)(line.end - line.begin), err)) { return false; }
    JsonLineText found = {d->decoded, 0, 0, false};
    if (!line_text(&line, &found, err)) { return false; }
    if (d->surrogates == 0) { d->surrogates_line = d->line; }
    d->surrogates += found.surrogates;
    d->count++;
    *text = d->decoded;
    *size = found.size;
    return true;
}

static inline void documents_warning(const Documents *d, Error *warning) {
    warning->text[0] = '\0';
    if (d->surrogates == 0) { return; }
    error_write(
        warning,
        "%s: %zu lone %s in \"text\" became U+FFFD, the first in line %zu: half of a character is missing "
        "there",
        d->name, d->surrogates, d->surrogates == 1 ? "surrogate" : "surrogates", d->surrogates_line);
}

#endif
