// eval_out.h: the file of `eval --out`: JSON Lines, one line a document, appended as documents are scored. An
// evaluation that was interrupted continues behind the last whole line.
//
//   The first line says of what model and requests the scores are:
//     {"type": "eval", "model": DIR, "model_digest": HEX, "dtype": "fp32", "limit": N, "requests":
//      [{"file": NAME, "digest": HEX, "documents": N}, ...]}
//   Then, in the order of the files and their documents:
//     {"task": "arc_easy", "doc_id": 0, "native_id": "Mercury_417466", "label": 0, "logprobs": [...],
//      "unconditional": [...], "tokens": [...], "chars": [...], "bytes": [...], "bits_per_byte": 1.5,
//      "choice": {"acc_raw": 0, ...}}
//   `unconditional` only where there are such requests; `choice` is what each accuracy takes.
//
//   eval_out_read     looks at a file that exists, and takes the scores that it has
//   eval_out_begin    opens it, or a new one, to append to
//   eval_out_write    appends a document
//   eval_out_close
#ifndef LLMC_COMMANDS_EVAL_OUT_H
#define LLMC_COMMANDS_EVAL_OUT_H

#include <dirent.h>

#include "llmc/fingerprint.h"
#include "llmc/settings_json.h"
#include "llmc/source.h"
#include "llmc/tasks.h"

typedef struct {
    const char *path;  // NULL: there is no --out
    JsonWriter header;
    int descriptor;  // -1: not open
    size_t length;   // bytes of its whole lines
    size_t done;     // documents that it holds
    bool torn;       // an incomplete line follows them
} EvalOut;

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

static inline bool eval_out_header(EvalOut *out, const Settings *s, const Source *source,
                                   const RequestFile *files, size_t count, Error *err) {
    JsonWriter *w = &out->header;
    const Flag *dtype = &flags[flag_find("dtype", strlen("dtype"), EVAL)];
    uint64_t model;
    if (!digest_model(&model, source, err)) { return false; }
    json_begin_object(w, NULL);
    json_string(w, "type", "eval");
    json_string(w, "model", source->dir);
    fingerprint_write_digest(w, "model_digest", model);
    settings_write_value(w, s, dtype);
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
    if (!same_member(was, is, "dtype")) {
        return fail(err, "%s: holds scores computed with --dtype %s, this is --dtype %s\n%s", out->path,
                    member_text(was, "dtype"), member_text(is, "dtype"), EVAL_OUT_ADVICE);
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
// documents

// The scores of one kind of a document's requests (count).
static inline bool eval_out_read_scores(Request *r, size_t count, const Json *line, const char *key,
                                        const char *source, Error *err) {
    const Json *array = json_member(line, key);
    if (count == 0) { return true; }
    if (array == NULL || array->type != JSON_ARRAY || array->count != count) {
        return fail(err, "%s: \"%s\" is not a list of %zu numbers", source, key, count);
    }
    for (const Json *value = json_first(array); value != NULL; value = json_next(value), r++) {
        if (value->type != JSON_NUMBER) { return fail(err, "%s: \"%s\" holds no numbers", source, key); }
        r->logprob = value->number;
    }
    return true;
}

static inline bool eval_out_read_document(const Json *line, RequestFile *f, size_t i, const char *source,
                                          Error *err) {
    const RequestDocument *d = &f->documents[i];
    const char *task;
    size_t doc_id;
    if (!json_get_string(line, "task", true, &task, source, err)) { return false; }
    if (!json_get_size(line, "doc_id", true, &doc_id, source, err)) { return false; }
    if (strcmp(task, f->tasks[d->task]) != 0 || doc_id != d->doc_id) {
        return fail(err, "%s: is document %zu of %s, expected %zu of %s\n%s", source, doc_id, task, d->doc_id,
                    f->tasks[d->task], EVAL_OUT_ADVICE);
    }
    Request *r = &f->requests[d->first];
    return eval_out_read_scores(r, d->choices, line, "logprobs", source, err) &&
           eval_out_read_scores(r + d->choices, d->unconditional, line, "unconditional", source, err);
}

static inline bool eval_out_read_line(const EvalOut *out, const char *line, size_t size, RequestFile *f,
                                      size_t document, size_t number, Error *err) {
    char source[PATH_MAX + 32];
    JsonDocument doc;
    snprintf(source, sizeof source, "%s line %zu", out->path, number);
    if (!json_parse(&doc, line, size, source, err)) {
        return fail(err, "%s\n%s", err->text, EVAL_OUT_ADVICE);
    }
    bool ok = eval_out_read_document(doc.root, f, document, source, err);
    json_free(&doc);
    return ok;
}

// The lines of the file. What follows the last newline was being written when the program ended.
static inline bool eval_out_read_lines(EvalOut *out, const MappedFile *file, RequestFile *files, size_t count,
                                       Error *err) {
    size_t number = 1, at = 0, document = 0;
    const char *newline;
    while ((newline = (const char *)memchr(file->data + at, '\n', file->size - at)) != NULL) {
        const char *line = file->data + at;
        const size_t size = (size_t)(newline - line);
        if (number == 1) {
            if (!eval_out_check_header(out, line, size, err)) { return false; }
        } else {
            while (count > 0 && document == files->document_count) { files++, count--, document = 0; }
            if (count == 0) {
                return fail(err, "%s line %zu: there are no more documents\n%s", out->path, number,
                            EVAL_OUT_ADVICE);
            }
            if (!eval_out_read_line(out, line, size, files, document, number, err)) { return false; }
            document++;
            out->done++;
        }
        at += size + 1;
        number++;
    }
    // A first line that is torn must be the beginning of ours. Its directory may have had another name.
    const char start[] = "{\"type\": \"eval\"";
    const size_t known = file->size < strlen(start) ? file->size : strlen(start);
    if (at == 0 && memcmp(file->data, start, known) != 0) {
        return fail(err, "%s: is not the file of an evaluation\n%s", out->path, EVAL_OUT_ADVICE);
    }
    out->length = at;
    out->torn = at < file->size;
    return true;
}

// Reads the --out of the settings, if it exists, into the requests of the files. Nothing is written yet.
static inline bool eval_out_read(EvalOut *out, const Settings *s, const Source *source, RequestFile *files,
                                 size_t count, Error *err) {
    MappedFile file;
    memset(out, 0, sizeof *out);
    out->descriptor = -1;
    out->path = s->out;
    if (out->path == NULL) { return true; }
    if (!eval_out_header(out, s, source, files, count, err)) { return false; }
    if (!path_exists(out->path)) { return true; }
    if (!file_map(&file, out->path, err)) { return false; }
    bool ok = file.size == 0 || eval_out_read_lines(out, &file, files, count, err);
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

static inline void eval_out_list(JsonWriter *w, const char *key, const Choice *choices, size_t count,
                                 double (*value)(const Choice *)) {
    json_begin_array(w, key);
    for (size_t i = 0; i < count; i++) { json_number(w, NULL, value(&choices[i])); }
    json_end_array(w);
}

static inline void eval_out_sizes(JsonWriter *w, const char *key, const Choice *choices, size_t count,
                                  size_t offset) {
    json_begin_array(w, key);
    for (size_t i = 0; i < count; i++) {
        json_integer(w, NULL, (int64_t) * (const size_t *)((const char *)&choices[i] + offset));
    }
    json_end_array(w);
}

static inline double choice_unconditional(const Choice *c) { return c->unconditional; }

static inline bool eval_out_write(EvalOut *out, const RequestFile *f, const RequestDocument *d, Error *err) {
    Choice choices[MOST_CHOICES];
    const size_t count = task_choices(choices, f, d);
    JsonWriter w;
    if (out->path == NULL) { return true; }
    memset(&w, 0, sizeof w);
    json_begin_object(&w, NULL);
    json_string(&w, "task", f->tasks[d->task]);
    json_integer(&w, "doc_id", (int64_t)d->doc_id);
    json_begin_value(&w, "native_id");
    json_append(&w, request_text(f, d->native_id), d->native_id.size);
    json_integer(&w, "label", (int64_t)d->label);
    eval_out_list(&w, "logprobs", choices, count, metric_raw);
    if (d->unconditional > 0) { eval_out_list(&w, "unconditional", choices, count, choice_unconditional); }
    eval_out_sizes(&w, "tokens", choices, count, offsetof(Choice, tokens));
    eval_out_sizes(&w, "chars", choices, count, offsetof(Choice, chars));
    eval_out_sizes(&w, "bytes", choices, count, offsetof(Choice, bytes));
    json_number(&w, "bits_per_byte", metric_bits(&choices[d->label]));
    json_begin_object(&w, "choice");
    for (size_t i = 0; i < METRICS; i++) {
        if (!metrics[i].accuracy || !metric_applies(&metrics[i], choices, count)) { continue; }
        json_integer(&w, metrics[i].name, (int64_t)choice_best(choices, count, &metrics[i]));
    }
    json_end_object(&w);
    json_end_object(&w);
    json_append_text(&w, "\n");
    bool ok = !w.failed ? file_write(out->descriptor, w.text, w.length, out->path, err)
                        : fail(err, "%s: out of memory", out->path);
    json_writer_free(&w);
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
