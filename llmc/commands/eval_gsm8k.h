// eval_gsm8k.h: `eval --task gsm8k`: a model writes the answers to the problems of GSM8K (llmc/gsm8k.h).
//
//   eval_gsm8k      the questions in --eval-dir; with --chat the examples are turns of a chat
//
// The lines of --out, behind the same first line as that of other evaluations:
//   {"task": "gsm8k", "doc_id": 0, "text": "...", "answer": "18", "gold": "18", "right": true,
//    "right_signed": true, "tokens": 57, "end": "stop"}
#ifndef LLMC_COMMANDS_EVAL_GSM8K_H
#define LLMC_COMMANDS_EVAL_GSM8K_H

#include "eval_requests.h"
#include "llmc/engine.h"
#include "llmc/gsm8k.h"

enum { GSM8K_MOST_SLOTS = 16 };

typedef struct {
    const Gsm8kFile *file;
    EvalProgress progress;
    char *answer;  // scratch
    size_t answer_capacity;
    size_t right[NUMBER_RULES], cut;  // questions; those whose text was cut at the limit
    bool interrupted;                 // a text was; what comes behind it will be written again
} Gsm8kRun;

// ---------------------------------------------------------------------------------------------
// --out

static inline bool gsm8k_read_result(Gsm8kRun *run, const Json *line, const char *source, Error *err) {
    const Gsm8kQuestion *q = &run->file->questions[run->progress.out->done];
    bool right[NUMBER_RULES];
    const char *end;
    size_t doc_id;
    if (!json_get_size(line, "doc_id", true, &doc_id, source, err)) { return false; }
    if (!json_get_bool(line, "right", true, &right[NUMBERS_UNSIGNED], source, err)) { return false; }
    if (!json_get_bool(line, "right_signed", true, &right[NUMBERS_SIGNED], source, err)) { return false; }
    if (!json_get_string(line, "end", true, &end, source, err)) { return false; }
    if (doc_id != q->doc_id) {
        return fail(err, "%s: is question %zu, expected %zu\n%s", source, doc_id, q->doc_id, EVAL_OUT_ADVICE);
    }
    for (int rule = 0; rule < NUMBER_RULES; rule++) { run->right[rule] += right[rule]; }
    run->cut += strcmp(end, engine_end_word(END_MAX_TOKENS)) == 0;
    return true;
}

// One whole line of the file.
static inline bool gsm8k_read_line_of_out(Gsm8kRun *run, const char *line, size_t size, size_t number,
                                          Error *err) {
    EvalOut *out = run->progress.out;
    char source[PATH_MAX + 32];
    JsonDocument doc;
    if (number == 1) { return eval_out_check_header(out, line, size, err); }
    snprintf(source, sizeof source, "%s line %zu", out->path, number);
    if (out->done == run->file->count) {
        return fail(err, "%s: there are no more questions\n%s", source, EVAL_OUT_ADVICE);
    }
    if (!json_parse(&doc, line, size, source, err)) {
        return fail(err, "%s\n%s", err->text, EVAL_OUT_ADVICE);
    }
    const bool ok = gsm8k_read_result(run, doc.root, source, err);
    json_free(&doc);
    out->done += ok;
    return ok;
}

static inline bool gsm8k_out_read_lines(Gsm8kRun *run, const MappedFile *file, Error *err) {
    EvalOut *out = run->progress.out;
    const char *newline;
    for (size_t number = 1;
         (newline = (const char *)memchr(file->data + out->length, '\n', file->size - out->length)) != NULL;
         number++) {
        const char *line = file->data + out->length;
        if (!gsm8k_read_line_of_out(run, line, (size_t)(newline - line), number, err)) { return false; }
        out->length += (size_t)(newline - line) + 1;
    }
    if (out->length == 0) { return fail(err, "%s: has no whole line\n%s", out->path, EVAL_OUT_ADVICE); }
    out->torn = out->length < file->size;
    return true;
}

// Reads the --out of the settings, if it exists. Nothing is written yet.
static inline bool gsm8k_out_read(Gsm8kRun *run, const Settings *s, const Source *source, Error *err) {
    EvalOut *out = run->progress.out;
    RequestFile of;  // what the first line says of the questions
    MappedFile file;
    memset(&of, 0, sizeof of);
    memset(out, 0, sizeof *out);
    out->descriptor = -1;
    out->path = s->out;
    if (out->path == NULL) { return true; }
    of.path = format_text("%s%s", run->file->path, s->chat == ON ? ", as a chat" : "");
    if (of.path == NULL) { return fail(err, "out of memory: a path"); }
    of.digest = hash64(&run->file->digest, sizeof run->file->digest, s->chat == ON);
    of.document_count = run->file->count;
    bool ok = eval_out_header(out, s, source, &of, 1, err);
    free(of.path);
    if (!ok || !path_exists(out->path)) { return ok; }
    if (!file_map(&file, out->path, err)) { return false; }
    ok = file.size == 0 || gsm8k_out_read_lines(run, &file, err);
    file_unmap(&file);
    return ok;
}

static inline bool gsm8k_out_write(const EvalOut *out, const Gsm8kQuestion *q, const EngineText *text,
                                   const char *answer, const bool right[NUMBER_RULES], Error *err) {
    JsonWriter w;
    if (out->path == NULL) { return true; }
    memset(&w, 0, sizeof w);
    json_begin_object(&w, NULL);
    json_string(&w, "task", "gsm8k");
    json_integer(&w, "doc_id", (int64_t)q->doc_id);
    json_bytes(&w, "text", text->bytes, text->size);
    json_string(&w, "answer", answer);
    json_string(&w, "gold", q->gold[NUMBERS_UNSIGNED]);
    json_bool(&w, "right", right[NUMBERS_UNSIGNED]);
    json_bool(&w, "right_signed", right[NUMBERS_SIGNED]);
    json_integer(&w, "tokens", (int64_t)text->length);
    json_string(&w, "end", engine_end_word(text->end));
    json_end_object(&w);
    json_append_text(&w, "\n");
    const bool ok = !w.failed ? file_write(out->descriptor, w.text, w.length, out->path, err)
                              : fail(err, "%s: out of memory", out->path);
    json_writer_free(&w);
    return ok;
}

// ---------------------------------------------------------------------------------------------
// the evaluation

// EngineReader.ended: the text of question number `done`.
static inline bool gsm8k_ended(void *context, const EngineText *text, Error *err) {
    Gsm8kRun *run = (Gsm8kRun *)context;
    EvalProgress *p = &run->progress;
    const Gsm8kQuestion *q = &run->file->questions[p->done];
    bool right[NUMBER_RULES];
    run->interrupted = run->interrupted || text->end == END_INTERRUPTED;
    if (run->interrupted) { return true; }
    if (run->answer_capacity < text->size + 1) {
        run->answer_capacity = 2 * text->size + 256;
        run->answer = (char *)realloc(run->answer, run->answer_capacity);
        if (run->answer == NULL) { return fail(err, "%s: out of memory: its text", q->name); }
    }
    gsm8k_right(q, text->bytes, text->size, run->answer, right);
    if (!gsm8k_out_write(p->out, q, text, run->answer, right, err)) { return false; }
    for (int rule = 0; rule < NUMBER_RULES; rule++) { run->right[rule] += right[rule]; }
    run->cut += text->end == END_MAX_TOKENS;
    p->done++;
    eval_progress_show(p, "gsm8k");
    return true;
}

// The room for as many texts side by side as were asked for, or as help and fit the memory.
static inline OLMo2Room gsm8k_room(const Gsm8kFile *f, Source *source, const Settings *s) {
    const OLMo2Config *config = &source->config;
    const OLMo2Form form = model_form(source, s);
    const size_t most = (size_t)given(s->slots, GSM8K_MOST_SLOTS);
    size_t slots = most < f->count ? most : f->count;
    OLMo2Room room = engine_room(config, slots, f->longest, GSM8K_MAX_TOKENS);
    Error none;
    while (s->slots < 0 && slots > 1 && !weights_fit(&source->weights, config, &room, &form, &none)) {
        room = engine_room(config, --slots, f->longest, GSM8K_MAX_TOKENS);
    }
    return room;
}

static inline void print_gsm8k_plan(const Source *source, const Gsm8kFile *f, const OLMo2Room *room,
                                    const EvalOut *out, bool chat) {
    char bytes[32];
    const OLMo2Form form = olmo2_form();
    printf("model          %s\n", source->dir);
    printf("questions      %s: %zu, %s\n", f->path, f->count,
           chat ? "with the examples as turns of a chat" : "behind eight examples");
    printf("texts          greedy, up to %d tokens, %zu side by side; cache %s\n", GSM8K_MAX_TOKENS,
           room->slots, format_bytes(bytes, olmo2_memory(&source->config, room, &form).cache));
    if (out->done > 0) { printf("resumed        %s has %zu questions\n", out->path, out->done); }
    if (out->torn) { printf("cut            the incomplete last line of %s\n", out->path); }
    fflush(stdout);
}

static inline void print_gsm8k_result(const Gsm8kRun *run) {
    static const char *const names[] = {"exact_match", "signed"};
    const size_t n = run->file->count;
    print_score_header();
    for (int rule = 0; rule < NUMBER_RULES; rule++) {
        const double p = (double)run->right[rule] / (double)n;
        print_score(rule == 0 ? "gsm8k" : "", rule == 0 ? n : 0, names[rule], p,
                    sqrt(p * (1.0 - p) / (double)n), rule == 0 ? "primary" : "");
    }
    if (run->cut > 0) { printf("%zu of the texts were cut at %d tokens\n", run->cut, GSM8K_MAX_TOKENS); }
}

// Writes the texts that --out does not hold yet.
static inline void gsm8k_generate(Gsm8kRun *run, Source *source, const Settings *s) {
    Error err;
    Engine engine;
    EvalProgress *p = &run->progress;
    const Gsm8kFile *f = run->file;
    const OLMo2Room room = gsm8k_room(f, source, s);
    EngineSettings settings;
    EngineReader reader = {run, NULL, gsm8k_ended};
    memset(&settings, 0, sizeof settings);
    settings.sampler.top_p = 1.0;  // temperature 0: greedy
    settings.max_tokens = GSM8K_MAX_TOKENS;
    settings.stops = gsm8k_stops;
    settings.stop_count = gsm8k_stop_count(s->chat == ON);

    EnginePrompt *prompts = (EnginePrompt *)allocate(f->count, sizeof *prompts, "the prompts", &err);
    must(prompts != NULL, &err);
    for (size_t i = 0; i < f->count; i++) {
        const Gsm8kQuestion *q = &f->questions[i];
        const EnginePrompt prompt = {f->ids + q->ids, q->length, 1, i, q->name};
        prompts[i] = prompt;
    }
    OLMo2 *m = model_load(source, &room, s);
    must(engine_open(&engine, m, &room, &source->text, &err), &err);
    must(eval_out_begin(p->out, &err), &err);
    print_gsm8k_plan(source, f, &room, p->out, s->chat == ON);
    signals_catch();
    p->start = p->shown = seconds_now();
    const bool ok = engine_run(&engine, prompts + p->out->done, f->count - p->out->done, &settings, &reader,
                               &stop_requested, &err);
    eval_progress_clear(p);
    must(ok, &err);
    must(eval_out_close(p->out, &err), &err);
    engine_close(&engine);
    olmo2_free(m);
    free(prompts);
    if (p->done == p->all) { return; }
    fail(&err, "stopped after %zu of %zu questions; %s", p->done, p->all,
         p->out->path != NULL ? "the same command continues"
                              : "--out FILE.jsonl lets an evaluation continue");
    must(false, &err);
}

// gsm8k.jsonl.gz, or gsm8k.jsonl, in the directory of request files.
static inline bool gsm8k_path(char path[PATH_MAX], const char *dir, Error *err) {
    const char *endings[] = {".gz", ""};
    for (size_t i = 0; i < 2; i++) {
        snprintf(path, PATH_MAX, "%s/gsm8k.jsonl%s", dir, endings[i]);
        if (path_is_file(path)) { return true; }
    }
    return fail(err,
                "%s/gsm8k.jsonl.gz: no such file; python3 data/evals.py makes it, --eval-dir says where it "
                "is",
                dir);
}

static inline void eval_gsm8k(const Settings *s) {
    Error err, warning = {""};
    Source source;
    Gsm8kFile file;
    EvalOut out;
    Gsm8kRun run;
    Chat chat;
    char path[PATH_MAX];
    memset(&chat, 0, sizeof chat);
    memset(&run, 0, sizeof run);

    // Everything is read and checked before the weights are loaded and anything is written.
    must(source_open(&source, s->load, s->tokenizer, &warning, &err), &err);
    must(source.text.present || fail(&err, "--task gsm8k: %s has no tokenizer.json", source.dir), &err);
    if (s->chat == ON) { must(chat_template_check(&chat, source.dir, &warning, &err), &err); }
    warn(&warning);
    must(gsm8k_path(path, s->eval_dir, &err) && gsm8k_open(&file, path, &err), &err);
    if (s->limit > 0) { gsm8k_limit(&file, (size_t)s->limit); }
    must(gsm8k_encode(&file, &source.text.tokenizer, &source.config, s->chat == ON ? &chat : NULL, &err),
         &err);
    run.file = &file;
    run.progress.out = &out;
    run.progress.terminal = isatty(STDERR_FILENO) == 1;
    must(gsm8k_out_read(&run, s, &source, &err), &err);
    run.progress.done = run.progress.done_before = out.done;
    run.progress.all = file.count;

    gsm8k_generate(&run, &source, s);
    print_gsm8k_result(&run);

    free(run.answer);
    gsm8k_close(&file);
    source_close(&source);
}

#endif
