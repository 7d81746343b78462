// gsm8k.h: the evaluation on GSM8K (Cobbe et al. 2021): grade-school problems whose answers the model writes.
//
//   Prompt       A base model reads eight worked examples (Wei et al. 2022) and the question, each as
//                "Question: ...\nAnswer: ...", with blank lines between, and continues after the last "Answer:".
//                An instruct model gets the same examples as turns of a chat, the question last.
//   Text         Greedy, at most 512 tokens, ended by "Question:", "</s>", "<|im_end|>" or a blank line. In a
//                chat a blank line ends nothing: paragraphs are the model's own style there.
//   Answer       The last number of the text (verifiers.h), compared with that of the solution. The signs of
//                integers are ignored, as in OLMES; gsm8k_right counts both versions of the rule.
//
// The file is gsm8k.jsonl.gz of data/evals.py, or AI2's own: one request a line.
//
//   {"doc": {"answer": "... #### 18", ...}, "request": {"context": "Question: ...\nAnswer:", ...}, "label": "18",
//    "doc_id": 0, "native_id": 0, ...}
//
// The right answer is that of doc.answer, which has its sign, else the label.
//
//   gsm8k_open, gsm8k_close     reads and checks a file
//   gsm8k_limit                 keeps the first questions
//   gsm8k_encode                the tokens of the prompts
//   gsm8k_right                 whether a text answers a question
#ifndef LLMC_GSM8K_H
#define LLMC_GSM8K_H

#include "chat.h"
#include "digest.h"
#include "documents.h"
#include "olmo2.h"
#include "verifiers.h"

enum { GSM8K_MAX_TOKENS = 512, NUMBER_RULES = 2 };

static const char *const gsm8k_stops[] = {"Question:", "</s>", "<|im_end|>", "\n\n"};
enum { GSM8K_STOPS = sizeof gsm8k_stops / sizeof gsm8k_stops[0] };

// How many of them, from the first on, end a text.
static inline size_t gsm8k_stop_count(bool chat) { return chat ? GSM8K_STOPS - 1 : GSM8K_STOPS; }

typedef struct {
    size_t line, doc_id;
    char *context;             // what a base model reads
    size_t context_size;       // bytes
    char *gold[NUMBER_RULES];  // the right answer by each rule
    char *name;                // "FILE line N"
    size_t ids, length;        // the prompt's tokens: Gsm8kFile.ids from here on
} Gsm8kQuestion;

typedef struct {
    char *path;
    uint64_t digest;           // of its lines
    Gsm8kQuestion *questions;  // (count)
    size_t count, capacity;
    uint32_t *ids;   // the tokens of all prompts
    size_t longest;  // tokens of the longest prompt
} Gsm8kFile;

// Release with gsm8k_close; a failure leaves nothing to release.
static inline bool gsm8k_open(Gsm8kFile *f, const char *path, Error *err);
static inline void gsm8k_close(Gsm8kFile *f);

// Keeps the first `most` questions.
static inline void gsm8k_limit(Gsm8kFile *f, size_t most);

// Encodes the prompts: for a base model as they are, and with `chat` as turns, in the template that it names
// (chat_template_check). The model must have room for at least one token of an answer.
static inline bool gsm8k_encode(Gsm8kFile *f, const Tokenizer *tokenizer, const OLMo2Config *config,
                                const Chat *chat, Error *err);

// Writes the answer of a text (size) to answer (size + 1), and says by each rule whether it is right.
static inline void gsm8k_right(const Gsm8kQuestion *q, const char *text, size_t size, char *answer,
                               bool right[NUMBER_RULES]);

// ---------------------------------------------------------------------------------------------
// reading

static inline void gsm8k_question_free(Gsm8kQuestion *q) {
    free(q->name);
    free(q->context);
    for (int rule = 0; rule < NUMBER_RULES; rule++) { free(q->gold[rule]); }
}

static inline void gsm8k_close(Gsm8kFile *f) {
    for (size_t i = 0; i < f->count; i++) { gsm8k_question_free(&f->questions[i]); }
    free(f->questions);
    free(f->ids);
    free(f->path);
    memset(f, 0, sizeof *f);
}

// The right answer of a question, by each rule.
static inline bool gsm8k_read_gold(Gsm8kQuestion *q, const Json *row, Error *err) {
    const Json *doc = json_member(row, "doc"), *label;
    const Json *answer = doc != NULL && doc->type == JSON_OBJECT ? json_member(doc, "answer") : NULL;
    if (!json_get(row, "label", true, &label, q->name, err)) { return false; }
    if (label->type != JSON_STRING) { return json_wrong_member(label, "label", "a string", q->name, err); }
    const Json *from = answer != NULL && answer->type == JSON_STRING ? answer : label;
    size_t size;
    const char *gold = gsm8k_gold(from->string, from->length, &size);
    for (int rule = 0; rule < NUMBER_RULES; rule++) {
        q->gold[rule] = (char *)malloc(size + 1);
        if (q->gold[rule] == NULL) { return fail(err, "%s: out of memory", q->name); }
        const size_t length = last_number(q->gold[rule], gold, size, (NumberRule)rule);
        if (length == 0 || !is_digit(q->gold[rule][length - 1])) {
            return fail(err, "%s: the right answer has no number, but is \"%.40s\"", q->name, q->gold[rule]);
        }
    }
    return true;
}

static inline bool gsm8k_read_row(Gsm8kQuestion *q, const Json *row, Error *err) {
    const Json *request, *context;
    if (row->type != JSON_OBJECT) { return fail(err, "%s: expected an object, a request", q->name); }
    if (json_member(row, "request") == NULL && json_member(row, "question") != NULL) {
        return fail(err,
                    "%s: is a question of GSM8K as published, without the examples of a prompt\n"
                    "       Make the requests: python3 data/evals.py --wheel WHEEL --task gsm8k --from FILE",
                    q->name);
    }
    if (!json_get(row, "request", true, &request, q->name, err)) { return false; }
    if (request->type != JSON_OBJECT) {
        return json_wrong_member(request, "request", "an object", q->name, err);
    }
    if (!json_get_size(row, "doc_id", true, &q->doc_id, q->name, err)) { return false; }
    if (!json_get(request, "context", true, &context, q->name, err)) { return false; }
    if (context->type != JSON_STRING || context->length == 0) {
        return json_wrong_member(context, "context", "a text", q->name, err);
    }
    q->context = (char *)malloc(context->length + 1);
    if (q->context == NULL) { return fail(err, "%s: out of memory", q->name); }
    memcpy(q->context, context->string, context->length);
    q->context[context->length] = '\0';
    q->context_size = context->length;
    return gsm8k_read_gold(q, row, err);
}

static inline bool gsm8k_add(Gsm8kFile *f, const Gsm8kQuestion *q, Error *err) {
    if (f->count == f->capacity) {
        const size_t capacity = 2 * f->capacity + 64;
        Gsm8kQuestion *grown = (Gsm8kQuestion *)realloc(f->questions, capacity * sizeof *grown);
        if (grown == NULL) { return fail(err, "%s: out of memory: %zu questions", f->path, capacity); }
        f->questions = grown;
        f->capacity = capacity;
    }
    f->questions[f->count++] = *q;
    return true;
}

static inline bool gsm8k_read_line(Gsm8kFile *f, const JsonLine *line, Error *err) {
    const size_t size = (size_t)(line->end - line->begin);
    JsonDocument doc;
    Gsm8kQuestion q;
    memset(&q, 0, sizeof q);
    q.line = line->number;
    q.name = format_text("%s line %zu", f->path, line->number);
    if (q.name == NULL) { return fail(err, "%s: out of memory", f->path); }
    f->digest = hash64(line->begin, size, f->digest);
    bool ok = json_parse(&doc, line->begin, size, q.name, err);
    if (ok) {
        ok = gsm8k_read_row(&q, doc.root, err) && gsm8k_add(f, &q, err);
        json_free(&doc);
    }
    if (!ok) { gsm8k_question_free(&q); }
    return ok;
}

static inline int gsm8k_compare_questions(const void *left, const void *right) {
    const Gsm8kQuestion *a = *(const Gsm8kQuestion *const *)left, *b = *(const Gsm8kQuestion *const *)right;
    if (a->doc_id != b->doc_id) { return a->doc_id < b->doc_id ? -1 : 1; }
    return (a->line > b->line) - (a->line < b->line);
}

// A question that is there twice would count twice.
static inline bool gsm8k_check_once(const Gsm8kFile *f, Error *err) {
    const Gsm8kQuestion **sorted = (const Gsm8kQuestion **)allocate(f->count, sizeof *sorted, f->path, err);
    const Gsm8kQuestion *again = NULL, *before = NULL;
    if (sorted == NULL) { return false; }
    for (size_t i = 0; i < f->count; i++) { sorted[i] = &f->questions[i]; }
    qsort((void *)sorted, f->count, sizeof *sorted, gsm8k_compare_questions);
    for (size_t i = 1; i < f->count && again == NULL; i++) {
        if (sorted[i]->doc_id == sorted[i - 1]->doc_id) { again = sorted[i], before = sorted[i - 1]; }
    }
    free((void *)sorted);
    return again == NULL || fail(err, "%s: \"doc_id\" %zu was in line %zu already", again->name,
                                 again->doc_id, before->line);
}

static inline bool gsm8k_read(Gsm8kFile *f, Documents *lines, Error *err) {
    JsonLine line;
    lines->kind = DOCUMENTS_LINES;  // whatever the name says
    while (true) {
        if (!documents_next_line(lines, &line, err)) { return false; }
        if (line.begin == NULL) { break; }
        line_skip_space(&line);
        if (line.at < line.end && !gsm8k_read_line(f, &line, err)) { return false; }
    }
    if (f->count == 0) { return fail(err, "%s: has only blank lines, expected requests", f->path); }
    return gsm8k_check_once(f, err);
}

static inline void gsm8k_limit(Gsm8kFile *f, size_t most) {
    while (f->count > most) { gsm8k_question_free(&f->questions[--f->count]); }
}

static inline bool gsm8k_open(Gsm8kFile *f, const char *path, Error *err) {
    Documents lines;
    memset(f, 0, sizeof *f);
    if (!documents_open(&lines, path, err)) { return false; }
    f->path = strdup(path);
    const bool ok = f->path != NULL ? gsm8k_read(f, &lines, err) : fail(err, "out of memory: a path");
    documents_close(&lines);
    if (!ok) { gsm8k_close(f); }
    return ok;
}

// ---------------------------------------------------------------------------------------------
// prompts

// The turns of a prompt: each "Question: ...\nAnswer:" asks, and what follows it is the answer.
static inline bool gsm8k_turns(Chat *chat, const Gsm8kQuestion *q, Error *err) {
    static const char question[] = "Question:", answer[] = "\nAnswer:", next[] = "\n\nQuestion:";
    const char *at = q->context;
    while (strncmp(at, question, strlen(question)) == 0) {
        const char *end = strstr(at, answer), *after = end == NULL ? NULL : strstr(end, next);
        if (end == NULL) { break; }
        end += strlen(answer);
        if (!chat_add(chat, CHAT_USER, at, (size_t)(end - at), err)) { return false; }
        if (*end == '\0' && end == q->context + q->context_size) { return true; }
        if (*end != ' ' || after == NULL) { break; }
        end++;
        if (!chat_add(chat, CHAT_ASSISTANT, end, (size_t)(after - end), err)) { return false; }
        at = after + 2;
    }
    return fail(err,
                "%s: \"context\" is not made of \"Question: ...\\nAnswer: ...\" with blank lines between, "
                "\"Answer:\" last: it has no turns for a chat",
                q->name);
}

static inline bool gsm8k_encode_chat(const Gsm8kQuestion *q, const Tokenizer *tokenizer, const Chat *chat,
                                     TokenBuffer *ids, Error *err) {
    Chat turns;
    memset(&turns, 0, sizeof turns);
    turns.without_begin = chat->without_begin;
    const bool ok =
        gsm8k_turns(&turns, q, err) && chat_encode(tokenizer, &turns, turns.count, true, true, ids, err);
    chat_free(&turns);
    return ok;
}

static inline bool gsm8k_encode(Gsm8kFile *f, const Tokenizer *tokenizer, const OLMo2Config *config,
                                const Chat *chat, Error *err) {
    TokenBuffer ids;
    bool ok = true;
    memset(&ids, 0, sizeof ids);
    f->longest = 0;
    for (size_t i = 0; i < f->count && ok; i++) {
        Gsm8kQuestion *q = &f->questions[i];
        q->ids = ids.length;
        ok = chat != NULL ? gsm8k_encode_chat(q, tokenizer, chat, &ids, err)
                          : tokenizer_encode(tokenizer, q->context, q->context_size, &ids, err);
        q->length = ids.length - q->ids;
        if (q->length > f->longest) { f->longest = q->length; }
        ok = ok && config_leaves_room(config, q->length, q->name, err);
    }
    free(f->ids);
    f->ids = ids.ids;
    return ok;
}

// ---------------------------------------------------------------------------------------------
// answers

static inline void gsm8k_right(const Gsm8kQuestion *q, const char *text, size_t size, char *answer,
                               bool right[NUMBER_RULES]) {
    for (int rule = NUMBER_RULES; rule-- > 0;) {  // the first rule's answer stays
        last_number(answer, text, size, (NumberRule)rule);
        right[rule] = strcmp(answer, q->gold[rule]) == 0;
    }
}

#endif
