// prompts.h: how texts begin.
//
//   prompt_encode      the tokens of a prompt
//   prompts_add        appends a prompt to a list
//   prompts_read       appends those of a file, {"prompt": "..."} or {"ids": [...]} on each line
//   prompt_read_file   the bytes of a file, which are one prompt
#ifndef LLMC_PROMPTS_H
#define LLMC_PROMPTS_H

#include "documents.h"
#include "engine.h"
#include "json.h"

// Prompts that own their ids and names. Starts as all zeros; release it with prompts_free.
typedef struct {
    EnginePrompt *items;  // (count)
    size_t count, capacity;
    size_t longest;  // tokens
} Prompts;

static inline void prompts_free(Prompts *prompts) {
    for (size_t i = 0; i < prompts->count; i++) {
        free((void *)prompts->items[i].ids);
        free((void *)prompts->items[i].name);
    }
    free(prompts->items);
    memset(prompts, 0, sizeof *prompts);
}

// Appends the tokens of a prompt of `size` bytes to ids. An empty prompt means a new document, which begins
// after the end token of the one before. A prompt must be UTF-8 and leave the model a position to write in;
// `name` is what messages call it.
static inline bool prompt_encode(const Text *text, const OLMo2Config *config, const char *bytes, size_t size,
                                 const char *name, TokenBuffer *ids, Error *err);

// Appends a prompt of those tokens, of which it takes a copy. Its key is its place in the list, from 0.
static inline bool prompts_add(Prompts *prompts, const uint32_t *ids, size_t length, size_t samples,
                               const char *name, Error *err);

// Appends the prompts of a file that documents_open can open and whose name ends in .jsonl or .json, or of
// standard input if path is "-". Blank lines are skipped, other members of the objects ignored.
static inline bool prompts_read(Prompts *prompts, const char *path, const Text *text,
                                const OLMo2Config *config, size_t samples, Error *err);

// The bytes of a text file, without a byte order mark, or of standard input if path is "-". The caller frees
// *bytes.
static inline bool prompt_read_file(const char *path, char **bytes, size_t *size, Error *err);

// ---------------------------------------------------------------------------------------------
// tokens

static inline bool prompt_encode(const Text *text, const OLMo2Config *config, const char *bytes, size_t size,
                                 const char *name, TokenBuffer *ids, Error *err) {
    if (!text->present) { return fail(err, "--tokenizer: is missing; text cannot be written without one"); }
    if (!utf8_check(bytes, size, name, err)) { return false; }
    if (size > 0) {
        if (!tokenizer_encode(&text->tokenizer, bytes, size, ids, err)) { return false; }
    } else if (config->eos == OLMO2_NO_TOKEN) {
        return fail(err, "%s: is empty, and the model has no end of document (eos_token_id) to begin after",
                    name);
    } else {
        if (!token_buffer_reserve(ids, 1, err)) { return false; }
        ids->ids[ids->length++] = config->eos;
    }
    return config_leaves_room(config, ids->length, name, err);
}

static inline bool prompts_add(Prompts *prompts, const uint32_t *ids, size_t length, size_t samples,
                               const char *name, Error *err) {
    if (prompts->count == prompts->capacity) {
        const size_t capacity = 2 * prompts->capacity + 16;
        EnginePrompt *items = (EnginePrompt *)realloc(prompts->items, capacity * sizeof *items);
        if (items == NULL) { return fail(err, "out of memory: %zu prompts", capacity); }
        prompts->items = items;
        prompts->capacity = capacity;
    }
    uint32_t *copy = (uint32_t *)allocate(length, sizeof *copy, "the tokens of a prompt", err);
    char *name_copy = copy == NULL ? NULL : format_text("%s", name);
    if (name_copy == NULL) {
        free(copy);
        return fail(err, "out of memory: %s", name);
    }
    memcpy(copy, ids, length * sizeof *copy);
    const EnginePrompt prompt = {copy, length, samples, prompts->count, name_copy};
    prompts->items[prompts->count++] = prompt;
    if (length > prompts->longest) { prompts->longest = length; }
    return true;
}

// ---------------------------------------------------------------------------------------------
// a file of prompts

// The tokens of {"ids": [...]}, appended to ids.
static inline bool prompt_ids(const OLMo2Config *config, const Json *array, const char *name,
                              TokenBuffer *ids, Error *err) {
    char found[64];
    if (array->type != JSON_ARRAY || array->count == 0) {
        return fail(err, "%s: \"ids\" is %s, expected an array of token ids", name,
                    array->type == JSON_ARRAY ? "empty" : json_describe(found, array));
    }
    if (!token_buffer_reserve(ids, array->count, err)) { return false; }
    for (const Json *id = json_first(array); id != NULL; id = json_next(id)) {
        if (!id->integral || id->integer < 0 || (uint64_t)id->integer >= config->V) {
            return fail(err, "%s: \"ids\" holds %s, expected ids from 0 to %zu, as the model has them", name,
                        json_describe(found, id), config->V - 1);
        }
        ids->ids[ids->length++] = (uint32_t)id->integer;
    }
    return config_leaves_room(config, ids->length, name, err);
}

static inline bool prompt_object(const Text *text, const OLMo2Config *config, const Json *object,
                                 const char *name, TokenBuffer *ids, Error *err) {
    const Json *prompt = json_member(object, "prompt"), *array = json_member(object, "ids");
    char found[64];
    if (object->type != JSON_OBJECT || (prompt == NULL) == (array == NULL)) {
        return fail(err, "%s: found %s, expected {\"prompt\": \"...\"} or {\"ids\": [...]}", name,
                    object->type != JSON_OBJECT ? json_describe(found, object)
                    : prompt == NULL            ? "neither \"prompt\" nor \"ids\""
                                                : "both \"prompt\" and \"ids\"");
    }
    if (array != NULL) { return prompt_ids(config, array, name, ids, err); }
    if (prompt->type != JSON_STRING) {
        return fail(err, "%s: \"prompt\" is %s, expected a string", name, json_describe(found, prompt));
    }
    return prompt_encode(text, config, prompt->string, prompt->length, name, ids, err);
}

// The prompt of one line; a blank line has none.
static inline bool prompt_line(Prompts *prompts, JsonLine *line, const Text *text, const OLMo2Config *config,
                               size_t samples, TokenBuffer *ids, Error *err) {
    char name[PATH_MAX + 32];
    JsonDocument doc;
    snprintf(name, sizeof name, "%s:%zu", line->file, line->number);
    line_skip_space(line);
    if (line->at == line->end) { return true; }
    if (!json_parse(&doc, line->begin, (size_t)(line->end - line->begin), name, err)) { return false; }
    ids->length = 0;
    const bool ok = prompt_object(text, config, doc.root, name, ids, err) &&
                    prompts_add(prompts, ids->ids, ids->length, samples, name, err);
    json_free(&doc);
    return ok;
}

static inline bool prompts_read_lines(Prompts *prompts, Documents *documents, const Text *text,
                                      const OLMo2Config *config, size_t samples, TokenBuffer *ids,
                                      Error *err) {
    const size_t before = prompts->count;
    if (documents->kind != DOCUMENTS_LINES) {
        return fail(err,
                    "%s: expected JSON Lines, in a file whose name ends in .jsonl or .jsonl.gz, with "
                    "{\"prompt\": \"...\"} on each line",
                    documents->name);
    }
    while (true) {
        JsonLine line;
        if (!documents_next_line(documents, &line, err)) { return false; }
        if (line.begin == NULL) { break; }
        if (!prompt_line(prompts, &line, text, config, samples, ids, err)) { return false; }
    }
    return prompts->count > before || fail(err, "%s: has only blank lines", documents->name);
}

static inline bool prompts_read(Prompts *prompts, const char *path, const Text *text,
                                const OLMo2Config *config, size_t samples, Error *err) {
    Documents documents;
    TokenBuffer ids;
    memset(&ids, 0, sizeof ids);
    if (!documents_open(&documents, path, err)) { return false; }
    const bool ok = prompts_read_lines(prompts, &documents, text, config, samples, &ids, err);
    documents_close(&documents);
    free(ids.ids);
    return ok;
}

// ---------------------------------------------------------------------------------------------
// a file that is a prompt

static inline bool prompt_read_file(const char *path, char **bytes, size_t *size, Error *err) {
    Documents documents;
    *bytes = NULL;
    if (!documents_open(&documents, path, err)) { return false; }
    bool ok = true;
    while (ok && !documents.ended) { ok = documents_fill(&documents, err); }
    ok = ok && documents_check_text(&documents, err);
    if (ok) {
        *size = documents.end - documents.begin;
        *bytes = (char *)allocate(*size + 1, 1, "a prompt", err);
        ok = *bytes != NULL;
    }
    if (ok) { memcpy(*bytes, documents.buffer + documents.begin, *size); }
    documents_close(&documents);
    return ok;
}

#endif
