// eval_out.h: the file of `eval --out`: JSON Lines, one line a document, appended as documents are scored. An
// evaluation that was interrupted continues behind the last whole line.
//
// The first line says of what the scores are, and how they are computed:
//   {"type": "eval", "model": DIR, "model_digest": HEX, "backend": "CPU", "dtype": "fp32", "weights": "bf16",
//    "chat": "off", "limit": N, "requests": [{"file": NAME, "digest": HEX, "documents": N}, ...]}
// An evaluation for which any of it would be different, but for the names of files, is refused: it would mix
// scores that cannot be compared. So is any other file. Nothing of a file is ever removed but a line that was
// being written when the program ended.
// The lines behind it are the caller's, one a document (eval_lines.h).
//
//   eval_out_read      opens a file that exists, and gives its lines to the caller
//   eval_out_begin     makes a new one, or cuts the incomplete last line
//   eval_out_append    appends a line
//   eval_out_print     what it holds already, as lines of the plan
//   eval_out_whole     whether all documents are scored
//   eval_out_close
#ifndef LLMC_COMMANDS_EVAL_OUT_H
#define LLMC_COMMANDS_EVAL_OUT_H

#include <dirent.h>

#include "llmc/fingerprint.h"
#include "llmc/settings_json.h"
#include "llmc/source.h"

// A file of requests that is evaluated.
typedef struct {
    const char *path;
    uint64_t digest;
    size_t documents;
} EvalOutFile;

// What an evaluation is of. Its owner keeps everything; the source's weights must be open.
typedef struct {
    const Settings *settings;
    const Source *source;
    const char *chat;          // how requests become prompts: "off", as texts, or how turns of a chat begin
    const EvalOutFile *files;  // (count)
    size_t count;
} EvalOutSubject;

typedef struct {
    const char *path;  // NULL: there is no --out
    JsonWriter header;
    int descriptor;  // locked; -1: not open
    size_t size;     // bytes of the file
    size_t length;   // bytes of its whole lines
    size_t all;      // documents of the evaluation
    size_t done;     // documents that the file holds
} EvalOut;

// Called for the line of each document, numbered from 0 over all files. `source` names the line in messages.
typedef bool EvalOutLine(void *context, const Json *line, size_t document, const char *source, Error *err);

// Reads the --out of the settings, if it exists, and keeps other processes from writing it. Nothing is
// written yet. Release with eval_out_close.
static inline bool eval_out_read(EvalOut *out, const EvalOutSubject *subject, EvalOutLine *read,
                                 void *context, Error *err);

static inline bool eval_out_begin(EvalOut *out, Error *err);

// Appends the writer's text as one line and frees the writer. Without --out it only frees.
static inline bool eval_out_append(EvalOut *out, JsonWriter *w, Error *err);

// ---------------------------------------------------------------------------------------------
// the first line

static inline int select_safetensors(const struct dirent *entry) {
    return ends_with(entry->d_name, ".safetensors");
}

static inline bool digest_file(uint64_t *digest, const char *path, Error *err) {
    MappedFile file;
    if (!file_map(&file, path, err)) { return false; }
    const uint64_t both[2] = {*digest, digest_bytes(file.data, file.size)};
    *digest = hash64(both, sizeof both, 0);
    file_unmap(&file);
    return true;
}

// A digest of everything that decides a model's scores: configuration, weights, tokenizer.
static inline bool digest_model(uint64_t *digest, const Source *source, Error *err) {
    struct dirent **entries;
    char path[PATH_MAX];
    *digest = 0;
    if (!path_join(path, source->dir, "config.json", err) || !digest_file(digest, path, err)) {
        return false;
    }
    if (!digest_file(digest, source->text.path, err)) { return false; }
    const int count = scandir(source->dir, &entries, select_safetensors, alphasort);
    if (count < 0) { return fail(err, "%s: cannot be read: %s", source->dir, strerror(errno)); }
    bool ok = true;
    for (int i = 0; i < count; i++) {
        ok = ok && path_join(path, source->dir, entries[i]->d_name, err) && digest_file(digest, path, err);
        free(entries[i]);
    }
    free(entries);
    return ok;
}

// The backend without its device and threads: "CPU".
static inline void backend_name(char name[16]) {
    const OLMo2Room room = olmo2_room_to_measure(0, 0);
    const OLMo2Form form = olmo2_form();
    char text[128];
    olmo2_describe(&room, &form, text, sizeof text);
    snprintf(name, 16, "%.*s", (int)strcspn(text, ","), text);
}

static inline bool eval_out_header(EvalOut *out, const EvalOutSubject *subject, Error *err) {
    const Settings *s = subject->settings;
    const Source *source = subject->source;
    JsonWriter *w = &out->header;
    char backend[16];
    uint64_t model;
    if (!digest_model(&model, source, err)) { return false; }
    backend_name(backend);
    json_begin_object(w, NULL);
    json_string(w, "type", "eval");
    json_string(w, "model", source->dir);
    fingerprint_write_digest(w, "model_digest", model);
    json_string(w, "backend", backend);
    settings_write_value(w, s, &flags[flag_find("dtype", strlen("dtype"), EVAL)]);
    json_string(w, "weights", weight_type_name(source->weights.type));
    json_string(w, "chat", subject->chat);
    json_integer(w, "limit", s->limit);
    json_begin_array(w, "requests");
    for (size_t i = 0; i < subject->count; i++) {
        json_begin_object(w, NULL);
        json_string(w, "file", subject->files[i].path);
        fingerprint_write_digest(w, "digest", subject->files[i].digest);
        json_integer(w, "documents", (int64_t)subject->files[i].documents);
        json_end_object(w);
    }
    json_end_array(w);
    json_end_object(w);
    json_append_text(w, "\n");
    return !w->failed || fail(err, "%s: out of memory", out->path);
}

static const char EVAL_OUT_ADVICE[] = "Give another --out, or remove the file to begin again.";

// A member as text; "?" if it is missing or neither a text nor an integer.
static inline const char *member_text(char buffer[32], const Json *object, const char *key) {
    const Json *value = json_member(object, key);
    if (value == NULL || (value->type != JSON_STRING && !value->integral)) { return "?"; }
    if (value->type == JSON_STRING) { return value->string; }
    snprintf(buffer, 32, "%lld", (long long)value->integer);
    return buffer;
}

// Whether two members are there and the same.
static inline bool same_member(const Json *a, const Json *b, const char *key) {
    char one[32], other[32];
    return json_member(a, key) != NULL && json_member(b, key) != NULL &&
           strcmp(member_text(one, a, key), member_text(other, b, key)) == 0;
}

static inline bool eval_out_compare_choices(const EvalOut *out, const Json *was, const Json *is, Error *err) {
    static const char *const keys[] = {"backend", "dtype", "weights", "chat", "limit"};
    char before[32], now[32];
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        if (same_member(was, is, keys[i])) { continue; }
        const char *before_key = i == 0 ? "the " : "--";
        return fail(err, "%s: holds scores computed with %s%s %s, this is %s%s %s\n%s", out->path, before_key,
                    keys[i], member_text(before, was, keys[i]), before_key, keys[i],
                    member_text(now, is, keys[i]), EVAL_OUT_ADVICE);
    }
    return true;
}

static inline bool eval_out_compare_files(const EvalOut *out, const Json *was, const Json *is, Error *err) {
    const Json *was_files = json_member(was, "requests"), *is_files = json_member(is, "requests");
    const size_t was_count = was_files != NULL && was_files->type == JSON_ARRAY ? was_files->count : 0;
    char unused[32];
    if (was_count != is_files->count) {
        return fail(err, "%s: holds scores of %zu request file%s, now there %s %zu\n%s", out->path, was_count,
                    was_count == 1 ? "" : "s", is_files->count == 1 ? "is" : "are", is_files->count,
                    EVAL_OUT_ADVICE);
    }
    const Json *old = json_first(was_files), *new_file = json_first(is_files);
    for (; new_file != NULL; old = json_next(old), new_file = json_next(new_file)) {
        if (same_member(old, new_file, "digest")) { continue; }
        return fail(err, "%s: holds scores of the requests %s (digest %s), these are %s (digest %s)\n%s",
                    out->path, member_text(unused, old, "file"), member_text(unused, old, "digest"),
                    member_text(unused, new_file, "file"), member_text(unused, new_file, "digest"),
                    EVAL_OUT_ADVICE);
    }
    return true;
}

static inline bool eval_out_foreign(const EvalOut *out, Error *err) {
    return fail(err, "%s: is not the file of an evaluation\n%s", out->path, EVAL_OUT_ADVICE);
}

static inline bool eval_out_compare(const EvalOut *out, const Json *was, const Json *is, Error *err) {
    char unused[32];
    if (!same_member(was, is, "type")) { return eval_out_foreign(out, err); }
    if (!same_member(was, is, "model_digest")) {
        return fail(err, "%s: holds scores of the model %s (digest %s), this is %s (digest %s)\n%s",
                    out->path, member_text(unused, was, "model"), member_text(unused, was, "model_digest"),
                    member_text(unused, is, "model"), member_text(unused, is, "model_digest"),
                    EVAL_OUT_ADVICE);
    }
    return eval_out_compare_choices(out, was, is, err) && eval_out_compare_files(out, was, is, err);
}

static inline bool eval_out_check_header(const EvalOut *out, const char *line, size_t size, Error *err) {
    JsonDocument was, is;
    Error ignored;
    if (!json_parse(&was, line, size, out->path, &ignored)) { return eval_out_foreign(out, err); }
    bool ok = json_parse(&is, out->header.text, out->header.length, "header", err);
    if (ok) {
        ok = eval_out_compare(out, was.root, is.root, err);
        json_free(&is);
    }
    json_free(&was);
    return ok;
}

// ---------------------------------------------------------------------------------------------
// lines

static inline bool eval_out_read_line(const EvalOut *out, const char *line, size_t size, size_t number,
                                      EvalOutLine *read, void *context, Error *err) {
    char source[PATH_MAX + 32];
    JsonDocument doc;
    if (number == 1) { return eval_out_check_header(out, line, size, err); }
    snprintf(source, sizeof source, "%s line %zu", out->path, number);
    if (number - 2 >= out->all) {
        return fail(err, "%s: there are no more documents\n%s", source, EVAL_OUT_ADVICE);
    }
    bool ok = json_parse(&doc, line, size, source, err);
    if (ok) {
        ok = read(context, doc.root, number - 2, source, err);
        json_free(&doc);
    }
    return ok || fail(err, "%s\n%s", err->text, EVAL_OUT_ADVICE);
}

// What follows the last newline was being written when the program ended.
static inline bool eval_out_read_lines(EvalOut *out, const MappedFile *file, EvalOutLine *read, void *context,
                                       Error *err) {
    static const char start[] = "{\"type\": \"eval\", \"model\": ";
    size_t number = 0, at = 0;
    const char *newline;
    if (file->size > 0 && (file->size < strlen(start) || memcmp(file->data, start, strlen(start)) != 0)) {
        return eval_out_foreign(out, err);
    }
    while (at < file->size &&
           (newline = (const char *)memchr(file->data + at, '\n', file->size - at)) != NULL) {
        const char *line = file->data + at;
        const size_t size = (size_t)(newline - line);
        if (!eval_out_read_line(out, line, size, ++number, read, context, err)) { return false; }
        at += size + 1;
    }
    out->length = at;
    out->done = number > 0 ? number - 1 : 0;
    return true;
}

static inline bool eval_out_lock(const EvalOut *out, Error *err) {
    return flock(out->descriptor, LOCK_EX | LOCK_NB) == 0 ||
           fail(err, "%s: another process is writing it", out->path);
}

// Locked before it is read: what another process appends in between would be taken for a torn line.
static inline bool eval_out_open(EvalOut *out, EvalOutLine *read, void *context, Error *err) {
    MappedFile file;
    if (!path_is_file(out->path)) { return fail(err, "%s: is not a regular file", out->path); }
    out->descriptor = open(out->path, O_WRONLY | O_APPEND | O_CLOEXEC);
    if (out->descriptor < 0) { return fail(err, "%s: cannot be written: %s", out->path, strerror(errno)); }
    if (!eval_out_lock(out, err) || !file_map(&file, out->path, err)) { return false; }
    out->size = file.size;
    const bool ok = eval_out_read_lines(out, &file, read, context, err);
    file_unmap(&file);
    return ok;
}

static inline bool eval_out_read(EvalOut *out, const EvalOutSubject *subject, EvalOutLine *read,
                                 void *context, Error *err) {
    memset(out, 0, sizeof *out);
    out->descriptor = -1;
    out->path = subject->settings->out;
    for (size_t i = 0; i < subject->count; i++) { out->all += subject->files[i].documents; }
    if (out->path == NULL) { return true; }
    if (!eval_out_header(out, subject, err)) { return false; }
    return !path_exists(out->path) || eval_out_open(out, read, context, err);
}

// ---------------------------------------------------------------------------------------------
// writing

static inline bool eval_out_begin(EvalOut *out, Error *err) {
    if (out->path == NULL) { return true; }
    if (out->descriptor < 0) {
        out->descriptor = open(out->path, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0666);
        if (out->descriptor < 0) {
            return fail(err, "%s: cannot be created: %s", out->path, strerror(errno));
        }
        if (!eval_out_lock(out, err)) { return false; }
    }
    if (out->size > out->length && ftruncate(out->descriptor, (off_t)out->length) != 0) {
        return fail(err, "%s: its last, incomplete line cannot be cut: %s", out->path, strerror(errno));
    }
    return out->length > 0 ||
           file_write(out->descriptor, out->header.text, out->header.length, out->path, err);
}

static inline bool eval_out_append(EvalOut *out, JsonWriter *w, Error *err) {
    json_append_text(w, "\n");
    bool ok =
        out->path == NULL || (!w->failed ? file_write(out->descriptor, w->text, w->length, out->path, err)
                                         : fail(err, "%s: out of memory", out->path));
    json_writer_free(w);
    return ok;
}

// `what` its lines are of: "documents".
static inline void eval_out_print(const EvalOut *out, const char *what) {
    if (out->done > 0) { printf("resumed        %s has %zu %s\n", out->path, out->done, what); }
    if (out->size > out->length) { printf("cut            the incomplete last line of %s\n", out->path); }
    fflush(stdout);
}

// Whether all documents are scored, `done` of them; else the error says how to continue.
static inline bool eval_out_whole(const EvalOut *out, size_t done, const char *what, Error *err) {
    return done == out->all || fail(err, "stopped after %zu of %zu %s; %s", done, out->all, what,
                                    out->path != NULL ? "the same command continues"
                                                      : "--out FILE.jsonl lets an evaluation continue");
}

static inline bool eval_out_close(EvalOut *out, Error *err) {
    bool ok = true;
    if (out->descriptor >= 0 && sync_descriptor(out->descriptor) != 0) {
        ok = fail(err, "%s: cannot be written: %s", out->path, strerror(errno));
    }
    if (out->descriptor >= 0) { close(out->descriptor); }
    json_writer_free(&out->header);
    return ok;
}

#endif
