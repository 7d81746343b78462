// eval_gsm8k.h: `eval --task gsm8k`: a model writes the answers to the problems of GSM8K (llmc/gsm8k.h).
//
//   eval_gsm8k      the questions in --eval-dir; with --chat the examples are turns of a chat
//
// The lines of --out (eval_out.h), one a question:
//   {"task": "gsm8k", "doc_id": 0, "text": "...", "answer": "18", "gold": "18", "right": true,
//    "right_signed": true, "tokens": 57, "end": "stop"}
#ifndef LLMC_COMMANDS_EVAL_GSM8K_H
#define LLMC_COMMANDS_EVAL_GSM8K_H

#include "eval_requests.h"
#include "llmc/engine.h"
#include "llmc/gsm8k.h"

typedef struct {
    const Gsm8kFile *file;
    EvalOut *out;
    Meter meter;    // of the questions
    size_t tokens;  // written so far
    char *answer;   // scratch
    size_t answer_capacity;
    size_t right[NUMBER_RULES], cut;  // questions; those whose text was cut at the limit
    bool interrupted;                 // a text was; what comes behind it will be written again
} Gsm8kRun;

// ---------------------------------------------------------------------------------------------
// the lines of --out

// An EvalOutLine.
static inline bool gsm8k_read_result(void *context, const Json *line, size_t document, const char *source,
                                     Error *err) {
    Gsm8kRun *run = (Gsm8kRun *)context;
    const Gsm8kQuestion *q = &run->file->questions[document];
    bool right[NUMBER_RULES];
    const char *end;
    size_t doc_id;
    if (!json_get_size(line, "doc_id", true, &doc_id, source, err)) { return false; }
    if (!json_get_bool(line, "right", true, &right[NUMBERS_UNSIGNED], source, err)) { return false; }
    if (!json_get_bool(line, "right_signed", true, &right[NUMBERS_SIGNED], source, err)) { return false; }
    if (!json_get_string(line, "end", true, &end, source, err)) { return false; }
    if (doc_id != q->doc_id) {
        return fail(err, "%s: is question %zu, expected %zu", source, doc_id, q->doc_id);
    }
    for (int rule = 0; rule < NUMBER_RULES; rule++) { run->right[rule] += right[rule]; }
    run->cut += strcmp(end, engine_end_word(END_MAX_TOKENS)) == 0;
    return true;
}

static inline void gsm8k_write_result(JsonWriter *w, const Gsm8kQuestion *q, const EngineText *text,
                                      const char *answer, const bool right[NUMBER_RULES]) {
    json_begin_object(w, NULL);
    json_string(w, "task", "gsm8k");
    json_integer(w, "doc_id", (int64_t)q->doc_id);
    json_bytes(w, "text", text->bytes, text->size);
    json_string(w, "answer", answer);
    json_string(w, "gold", q->gold[NUMBERS_UNSIGNED]);
    json_bool(w, "right", right[NUMBERS_UNSIGNED]);
    json_bool(w, "right_signed", right[NUMBERS_SIGNED]);
    json_integer(w, "tokens", (int64_t)text->length);
    json_string(w, "end", engine_end_word(text->end));
    json_end_object(w);
}

// ---------------------------------------------------------------------------------------------
// the evaluation

// EngineReader.token.
static inline bool gsm8k_token(void *context, const EngineText *text, const char *bytes, size_t size,
                               Error *err) {
    Gsm8kRun *run = (Gsm8kRun *)context;
    (void)text, (void)bytes, (void)size, (void)err;
    meter_show_texts(&run->meter, run->meter.done, ++run->tokens);
    return true;
}

// EngineReader.ended: the text of question number meter.done.
static inline bool gsm8k_ended(void *context, const EngineText *text, Error *err) {
    Gsm8kRun *run = (Gsm8kRun *)context;
    const Gsm8kQuestion *q = &run->file->questions[run->meter.done];
    bool right[NUMBER_RULES];
    JsonWriter w;
    memset(&w, 0, sizeof w);
    run->interrupted = run->interrupted || text->end == END_INTERRUPTED;
    if (run->interrupted) { return true; }
    if (run->answer_capacity < text->size + 1) {
        run->answer_capacity = 2 * text->size + 256;
        run->answer = (char *)realloc(run->answer, run->answer_capacity);
        if (run->answer == NULL) { return fail(err, "%s: out of memory: its text", q->name); }
    }
    gsm8k_right(q, text->bytes, text->size, run->answer, right);
    gsm8k_write_result(&w, q, text, run->answer, right);
    if (!eval_out_append(run->out, &w, err)) { return false; }
    for (int rule = 0; rule < NUMBER_RULES; rule++) { run->right[rule] += right[rule]; }
    run->cut += text->end == END_MAX_TOKENS;
    meter_show_texts(&run->meter, run->meter.done + 1, run->tokens);
    return true;
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
    eval_out_print(out, "questions");
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
    EvalOut *out = run->out;
    const Gsm8kFile *f = run->file;
    const OLMo2Room room = model_room_to_write(source, s, f->count, f->longest, GSM8K_MAX_TOKENS);
    EngineSettings settings;
    EngineReader reader = {run, gsm8k_token, gsm8k_ended};
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
    must(eval_out_begin(out, &err), &err);
    print_gsm8k_plan(source, f, &room, out, s->chat == ON);
    signals_catch();
    run->meter = meter_begin("questions", out->done, f->count);
    const bool ok = engine_run(&engine, prompts + out->done, f->count - out->done, &settings, &reader,
                               &stop_requested, &err);
    meter_end(&run->meter);
    must(ok, &err);
    must(eval_out_close(out, &err), &err);
    must(eval_out_whole(out, run->meter.done, "questions", &err), &err);
    engine_close(&engine);
    olmo2_free(m);
    free(prompts);
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
    run.out = &out;
    const EvalOutFile out_file = {file.path, file.digest, file.count};
    const char *turns = chat.without_begin ? "on, without a begin token" : "on";
    const EvalOutSubject subject = {s, &source, s->chat == ON ? turns : "off", &out_file, 1};
    must(model_open_weights(&source, s, &err), &err);
    must(eval_out_read(&out, &subject, gsm8k_read_result, &run, &err), &err);

    gsm8k_generate(&run, &source, s);
    print_gsm8k_result(&run);

    free(run.answer);
    gsm8k_close(&file);
    source_close(&source);
}

#endif
