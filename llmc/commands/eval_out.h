// eval_out.h: the file of `eval --out`: JSON Lines, one line a document, appended as documents are scored. An
// evaluation that was interrupted continues behind the last whole line.
//
// The first line says of what model and requests the scores are:
//   {"type": "eval", "model": DIR, "model_digest": HEX, "dtype": "fp32", "weights": "auto", "limit": N,
//    "requests": [{"file": NAME, "digest": HEX, "documents": N}, ...]}
// The lines behind it are the caller's, one a document (eval_lines.h).
//
//   eval_out_read     looks at a file that exists, and gives its lines to the caller
//   eval_out_begin    opens it, or a new one, to append to
//   eval_out_append   appends a line
//   eval_out_close
#ifndef LLMC_COMMANDS_EVAL_OUT_H
#define LLMC_COMMANDS_EVAL_OUT_H

#include <dirent.h>

#include "llmc/fingerprint.h"
#include "llmc/requests.h"
#include "llmc/settings_json.h"
#include "llmc/source.h"

typedef struct {
    const char *path;  // NULL: there is no --out
    JsonWriter header;
    int descriptor;  // -1: not open
    size_t length;   // bytes of its whole lines
    size_t done;     // documents that it holds
    bool torn;       // an incomplete line follows them
} EvalOut;

// Called for the line of each document, numbered from 0 over all files. `source` names the line in messages.
typedef bool EvalOutLine(void *context, const Json *line, size_t document, const char *source, Error *err);

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

// Choices that change the scores.
static const char *const eval_out_flags[] = {"dtype", "weights"};

// Of the files only path, digest and document_count are used.
static inline bool eval_out_header(EvalOut *out, const Settings *s, const Source *source,
                                   const RequestFile *files, size_t count, Error *err) {
    JsonWriter *w = &out->header;
    uint64_t model;
    if (!digest_model(&model, source, err)) { return false; }
    json_begin_object(w, NULL);
    json_string(w, "type", "eval");
    json_string(w, "model", source->dir);
    fingerprint_write_digest(w, "model_digest", model);
    for (size_t i = 0; i < sizeof eval_out_flags / sizeof *eval_out_flags; i++) {
        const char *name = eval_out_flags[i];
        settings_write_value(w, s, &flags[flag_find(name, strlen(name), EVAL)]);
    }
    json_integer(w, "limit", s->limit);
    json_begin_array(w, "requests");
    for (size_t i = 0; i < count; i++) {
        json_begin_object(w, NULL);
        json_string(w, "file", files[i].path);
        fingerprint_write_digest(w, "digest", files[i].digest);
        json_integer(w, "documents", (int64_t)files[i].document_count);
        json_end_object(w);
    }
    json_end_array(w);
    json_end_object(w);
    json_append_text(w, "\n");
    return !w->failed || fail(err, "%s: out of memory", out->path);
}

static const char EVAL_OUT_ADVICE[] = "Give another --out, or remove the file to begin again.";

// Whether two members are the same text or number. NULL equals nothing.
static inline bool same_member(const Json *a, const Json *b, const char *key) {
    const Json *x = json_member(a, key), *y = json_member(b, key);
    if (x == NULL || y == NULL || x->type != y->type) { return false; }
    return x->type == JSON_STRING ? strcmp(x->string, y->string) == 0 : x->integer == y->integer;
}

static inline const char *member_text(const Json *object, const char *key) {
    const Json *value = json_member(object, key);
    return value != NULL && value->type == JSON_STRING ? value->string : "?";
}

static inline bool eval_out_compare(const EvalOut *out, const Json *was, const Json *is, Error *err) {
    const char *type = member_text(was, "type");
    if (strcmp(type, "eval") != 0) {
        return fail(err, "%s: is not the file of an evaluation\n%s", out->path, EVAL_OUT_ADVICE);
    }
    if (!same_member(was, is, "model_digest")) {
        return fail(err, "%s: holds scores of the model %s (digest %s), this is %s (digest %s)\n%s",
                    out->path, member_text(was, "model"), member_text(was, "model_digest"),
                    member_text(is, "model"), member_text(is, "model_digest"), EVAL_OUT_ADVICE);
    }
    for (size_t i = 0; i < sizeof eval_out_flags / sizeof *eval_out_flags; i++) {
        const char *name = eval_out_flags[i];
        if (same_member(was, is, name)) { continue; }
        return fail(err, "%s: holds scores computed with --%s %s, this is --%s %s\n%s", out->path, name,
                    member_text(was, name), name, member_text(is, name), EVAL_OUT_ADVICE);
    }
    if (!same_member(was, is, "limit")) {
        return fail(err, "%s: holds scores with another --limit\n%s", out->path, EVAL_OUT_ADVICE);
    }
    const Json *old_files = json_member(was, "requests"), *new_files = json_member(is, "requests");
    const Json *old_file = old_files != NULL ? json_first(old_files) : NULL,
               *new_file = json_first(new_files);
    for (; old_file != NULL || new_file != NULL;
         old_file = json_next(old_file), new_file = json_next(new_file)) {
        if (old_file == NULL || new_file == NULL) {
            return fail(err, "%s: holds scores of %zu request file%s, now there %s %zu\n%s", out->path,
                        old_files->count, old_files->count == 1 ? "" : "s",
                        new_files->count == 1 ? "is" : "are", new_files->count, EVAL_OUT_ADVICE);
        }
        if (same_member(old_file, new_file, "digest")) { continue; }
        return fail(err, "%s: holds scores of the requests %s (digest %s), these are %s (digest %s)\n%s",
                    out->path, member_text(old_file, "file"), member_text(old_file, "digest"),
                    member_text(new_file, "file"), member_text(new_file, "digest"), EVAL_OUT_ADVICE);
    }
    return true;
}

static inline bool eval_out_check_header(const EvalOut *out, const char *line, size_t size, Error *err) {
    JsonDocument was, is;
    Error ignored;
    if (!json_parse(&was, line, size, out->path, &ignored)) {
        return fail(err, "%s: is not the file of an evaluation\n%s", out->path, EVAL_OUT_ADVICE);
    }
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
                                      size_t documents, EvalOutLine *read, void *context, Error *err) {
    char source[PATH_MAX + 32];
    JsonDocument doc;
    if (number == 1) { return eval_out_check_header(out, line, size, err); }
    snprintf(source, sizeof source, "%s line %zu", out->path, number);
    if (number - 2 >= documents) {
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
static inline bool eval_out_read_lines(EvalOut *out, const MappedFile *file, size_t documents,
                                       EvalOutLine *read, void *context, Error *err) {
    size_t number = 0, at = 0;
    const char *newline;
    while ((newline = (const char *)memchr(file->data + at, '\n', file->size - at)) != NULL) {
        const char *line = file->data + at;
        const size_t size = (size_t)(newline - line);
        if (!eval_out_read_line(out, line, size, ++number, documents, read, context, err)) { return false; }
        at += size + 1;
    }
    // A first line that is torn must be the beginning of ours. Its directory may have had another name.
    const char start[] = "{\"type\": \"eval\"";
    const size_t known = file->size < strlen(start) ? file->size : strlen(start);
    if (number == 0 && memcmp(file->data, start, known) != 0) {
        return fail(err, "%s: is not the file of an evaluation\n%s", out->path, EVAL_OUT_ADVICE);
    }
    out->length = at;
    out->done = number > 0 ? number - 1 : 0;
    out->torn = at < file->size;
    return true;
}

// Reads the --out of the settings, if it exists. Nothing is written yet.
static inline bool eval_out_read(EvalOut *out, const Settings *s, const Source *source,
                                 const RequestFile *files, size_t count, EvalOutLine *read, void *context,
                                 Error *err) {
    MappedFile file;
    size_t documents = 0;
    memset(out, 0, sizeof *out);
    out->descriptor = -1;
    out->path = s->out;
    if (out->path == NULL) { return true; }
    if (!eval_out_header(out, s, source, files, count, err)) { return false; }
    if (!path_exists(out->path)) { return true; }
    for (size_t i = 0; i < count; i++) { documents += files[i].document_count; }
    if (!file_map(&file, out->path, err)) { return false; }
    bool ok = file.size == 0 || eval_out_read_lines(out, &file, documents, read, context, err);
    file_unmap(&file);
    return ok;
}

static inline bool eval_out_begin(EvalOut *out, Error *err) {
    if (out->path == NULL) { return true; }
    out->descriptor = open(out->path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (out->descriptor < 0) { return fail(err, "%s: cannot be written: %s", out->path, strerror(errno)); }
    if (flock(out->descriptor, LOCK_EX | LOCK_NB) != 0) {
        return fail(err, "%s: another process is writing it", out->path);
    }
    if (ftruncate(out->descriptor, (off_t)out->length) != 0) {
        return fail(err, "%s: its last, incomplete line cannot be cut: %s", out->path, strerror(errno));
    }
    return out->length > 0 ||
           file_write(out->descriptor, out->header.text, out->header.length, out->path, err);
}

// Appends the writer's text as one line and frees the writer. Without --out it only frees.
static inline bool eval_out_append(EvalOut *out, JsonWriter *w, Error *err) {
    json_append_text(w, "\n");
    bool ok =
        out->path == NULL || (!w->failed ? file_write(out->descriptor, w->text, w->length, out->path, err)
                                         : fail(err, "%s: out of memory", out->path));
    json_writer_free(w);
    return ok;
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
