// chat.h: the command `chat`: a conversation with a model, in the terminal or by a script.
//
//   standard input    a terminal: prompts; errors are shown; Ctrl-C stops an answer
//                     anything else: no prompts, an error ends the program
//   a line            a question, or a command such as /reset; the same in a terminal and in a script
//   --prompt          one question instead of the lines
//
// The whole conversation is encoded for every question, with what was typed as plain text (llmc/chat.h). The
// engine's slot still holds what came before, so only what is new is computed. A model may write a text as
// other tokens than the tokenizer would; then the turns from there on are computed again.
#ifndef LLMC_COMMANDS_CHAT_H
#define LLMC_COMMANDS_CHAT_H

#include "chat_input.h"
#include "llmc/chat.h"
#include "llmc/command_line.h"
#include "llmc/engine.h"
#include "model.h"

typedef struct {
    Settings *settings;  // /temperature changes them
    Source source;
    OLMo2 *m;
    Engine engine;
    Chat chat;         // what was said so far
    TokenBuffer ids;   // of the conversation
    size_t context;    // the most tokens of it, an answer included
    size_t questions;  // asked so far: each has draws of its own
    bool terminal;     // a person types, and errors do not end the program
} Conversation;

// ---------------------------------------------------------------------------------------------
// what is shown

// What is not part of an answer goes to stderr, in parentheses.
#define notice(...) (fflush(stdout), fprintf(stderr, "(" __VA_ARGS__), fprintf(stderr, ")\n"))

// An error ends a script. A person reads it and goes on.
static inline void complain(const Conversation *c, const Error *err) {
    if (!c->terminal) { must(false, err); }
    print_message("error", err->text);
}

// ---------------------------------------------------------------------------------------------
// a question and its answer

// "the model's 4096 tokens", "the 512 tokens of --context".
static inline const char *context_words(const Conversation *c, char words[64]) {
    const bool given_context = c->settings->context >= 0;
    snprintf(words, 64, "%s %zu tokens%s", given_context ? "the" : "the model's", c->context,
             given_context ? " of --context" : "");
    return words;
}

// The answer joins the conversation, also one that was stopped. If there is none, its question goes.
static inline bool end_answer(void *context, const EngineText *text, Error *err) {
    Conversation *c = (Conversation *)context;
    if (text->end == END_INTERRUPTED && text->size == 0) {
        notice("stopped: the question is forgotten");
        chat_remove(&c->chat, c->chat.count - 1, c->chat.count);
        return true;
    }
    if (!chat_add(&c->chat, CHAT_ASSISTANT, text->bytes, text->size, err)) { return false; }
    printf("\n");
    if (text->end == END_INTERRUPTED) { notice("stopped"); }
    if (text->end == END_MAX_TOKENS) { notice("stopped after %zu tokens: --max-tokens", text->length); }
    if (text->end == END_POSITIONS) {
        char words[64];
        notice("stopped: the conversation fills %s", context_words(c, words));
    }
    return output_written(err);
}

// Encodes the conversation. If it leaves less room for an answer than max_tokens or a quarter of the context,
// the oldest turns go. A question that does not fit even so takes none with it.
static inline bool fit_question(Conversation *c, Error *err) {
    const size_t wanted = (size_t)c->settings->max_tokens;
    const size_t room = wanted < c->context / 4 ? wanted : c->context / 4;
    size_t turns, end;
    char words[64];
    if (!chat_fit(&c->source.text.tokenizer, &c->chat, c->context - room, true, &c->ids, &turns, &end, err)) {
        return false;
    }
    if (c->ids.length >= c->context) {
        return fail(err,
                    "the question has %zu tokens with what precedes it, expected fewer than %s, which hold "
                    "the answer too",
                    c->ids.length, context_words(c, words));
    }
    chat_remove(&c->chat, chat_question(&c->chat, 0), end);
    if (turns == 1) {
        notice("the conversation is too long for %s: its oldest turn is forgotten", context_words(c, words));
    } else if (turns > 1) {
        notice("the conversation is too long for %s: its oldest %zu turns are forgotten",
               context_words(c, words), turns);
    }
    return true;
}

static inline bool answer_question(Conversation *c, Error *err) {
    const Settings *s = c->settings;
    const EnginePrompt prompt = {c->ids.ids, c->ids.length, 1, c->questions++, "the question"};
    const EngineReader reader = {c, model_print_token, end_answer};
    const SamplerSettings sampler = {s->temperature, (size_t)s->top_k, s->top_p, s->min_p};
    const EngineSettings settings = {sampler, (uint64_t)s->seed, (size_t)s->max_tokens, NULL, 0, false};
    return engine_run(&c->engine, &prompt, 1, &settings, &reader, &interrupted, err);
}

// A question that cannot be asked is not part of the conversation.
static inline void ask(Conversation *c, const char *text, size_t size) {
    Error err;
    must(chat_add(&c->chat, CHAT_USER, text, size, &err), &err);
    if (!fit_question(c, &err)) {
        chat_remove(&c->chat, c->chat.count - 1, c->chat.count);
        complain(c, &err);
        return;
    }
    must(answer_question(c, &err), &err);
    interrupted = 0;
}

// ---------------------------------------------------------------------------------------------
// commands

static inline bool reset_conversation(Conversation *c, const char *argument, Error *err) {
    if (argument[0] != '\0') { return fail(err, "/reset %s: expected nothing after it", argument); }
    const size_t first = chat_question(&c->chat, 0);
    chat_remove(&c->chat, first, c->chat.count);
    notice("the conversation is forgotten%s", first > 0 ? "; the system message stays" : "");
    return true;
}

// The system message is the first one. The answers so far stay as they are.
static inline bool set_system(Conversation *c, const char *argument, Error *err) {
    Chat changed;
    memset(&changed, 0, sizeof changed);
    changed.without_begin = c->chat.without_begin;
    bool ok = argument[0] == '\0' || chat_add(&changed, CHAT_SYSTEM, argument, strlen(argument), err);
    for (size_t i = chat_question(&c->chat, 0); ok && i < c->chat.count; i++) {
        const ChatMessage *message = &c->chat.messages[i];
        ok = chat_add(&changed, message->role, message->content, message->size, err);
    }
    chat_free(ok ? &c->chat : &changed);
    if (ok) { c->chat = changed; }
    return ok;
}

static inline bool set_temperature(Conversation *c, const char *argument, Error *err) {
    const int row = flag_find("temperature", strlen("temperature"), CHAT);
    return flag_set(c->settings, &flags[row], argument, err);
}

static inline bool save_conversation(Conversation *c, const char *argument, Error *err) {
    JsonWriter w;
    if (argument[0] == '\0') { return fail(err, "/save: expected the name of a file after it"); }
    memset(&w, 0, sizeof w);
    chat_write(&c->chat, &w);
    if (!json_write_file(&w, argument, err)) { return false; }
    notice("%zu message%s saved", c->chat.count, c->chat.count == 1 ? "" : "s");
    return true;
}

static inline bool show_help(Conversation *c, const char *argument, Error *err);

typedef struct {
    const char *name, *argument;
    bool (*run)(Conversation *c, const char *argument, Error *err);
    const char *help;
} ChatCommand;

// clang-format off
static const ChatCommand chat_commands[] = {
  { "/reset",       "",     reset_conversation, "forgets the conversation, but not the system message" },
  { "/system",      "TEXT", set_system,         "replaces the system message; without TEXT there is none" },
  { "/temperature", "X",    set_temperature,    "divides the logits; 0 takes the most probable token" },
  { "/save",        "FILE", save_conversation,  "writes the conversation to a new file, as JSON" },
  { "/help",        "",     show_help,          "shows this" },
};
// clang-format on
enum { CHAT_COMMANDS = sizeof chat_commands / sizeof chat_commands[0] };

static inline bool show_help(Conversation *c, const char *argument, Error *err) {
    (void)c;
    (void)argument;
    (void)err;
    for (int i = 0; i < CHAT_COMMANDS; i++) {
        const ChatCommand *command = &chat_commands[i];
        fprintf(stderr, "  %-12s %-4s  %s\n", command->name, command->argument, command->help);
    }
    fprintf(stderr, "A line that ends in a backslash continues in the next one. One that begins with // is a "
                    "question that\nbegins with /. Ctrl-C stops an answer, Ctrl-D ends.\n");
    return true;
}

// Runs a line that begins with a slash.
static inline bool run_command(Conversation *c, const char *line, size_t size, Error *err) {
    char *text = (char *)malloc(size + 1), names[128] = "", nearest[64];
    if (text == NULL) { return fail(err, "out of memory: a line of %zu bytes", size); }
    memcpy(text, line, size);
    text[size] = '\0';
    const size_t length = strcspn(text, " \t\n");
    const char *argument = text + length + strspn(text + length, " \t\n");
    const ChatCommand *command = NULL;
    for (int i = 0; i < CHAT_COMMANDS; i++) {
        const char *name = chat_commands[i].name;
        if (strlen(name) == length && memcmp(name, text, length) == 0) { command = &chat_commands[i]; }
        snprintf(names + strlen(names), sizeof names - strlen(names), "%s%s", i > 0 ? "|" : "", name);
    }
    bool ok = true;
    if (strlen(text) < size) {
        ok = fail(err, "%.64s: a command holds no NUL character", text);
    } else if (command != NULL) {
        ok = command->run(c, argument, err);
    } else {
        text[length < 64 ? length : 64] = '\0';
        find_word(names, text, nearest);
        ok = fail(err, "%s: no such command; did you mean %s? /help lists them, //... asks", text, nearest);
    }
    free(text);
    return ok;
}

// ---------------------------------------------------------------------------------------------
// the conversation

static inline bool is_blank(const char *text, size_t size) {
    for (size_t i = 0; i < size; i++) {
        if (text[i] != ' ' && text[i] != '\t' && text[i] != '\n') { return false; }
    }
    return true;
}

static inline void take_line(Conversation *c, const char *text, size_t size) {
    Error err;
    if (is_blank(text, size)) { return; }
    const bool slash = text[0] == '/', question = !slash || (size > 1 && text[1] == '/');
    if (!utf8_check(text, size, "the question", &err)) {
        complain(c, &err);
    } else if (question) {
        ask(c, text + slash, size - slash);
    } else if (!run_command(c, text, size, &err)) {
        complain(c, &err);
    }
}

// Until the input ends, or a person types Ctrl-C twice at the prompt.
static inline void converse(Conversation *c) {
    Error err;
    Input in;
    char *text;
    size_t size;
    bool warned = false;
    input_open(&in, STDIN_FILENO);
    c->terminal = in.terminal;
    if (c->terminal) {
        input_catch();
        notice("/help lists the commands, Ctrl-C stops an answer, Ctrl-D ends");
    }
    for (;;) {
        const InputResult result = input_read(&in, &text, &size, &err);
        must(result != INPUT_ERROR, &err);
        if (result == INPUT_END || (result == INPUT_INTERRUPTED && warned)) { break; }
        warned = result == INPUT_INTERRUPTED;
        if (warned) {
            interrupted = 0;
            fputc('\n', stderr);
            notice("Ctrl-C again, or Ctrl-D, ends");
        } else if (in.cut) {
            fail(&err,
                 "the terminal dropped what exceeds %d bytes of a line: end each line with a backslash, or "
                 "use --prompt or a pipe",
                 TERMINAL_LONGEST);
            complain(c, &err);
        } else {
            take_line(c, text, size);
        }
    }
    if (c->terminal) { fputc('\n', stderr); }
    input_close(&in);
}

// Whether the memory suffices. If not, the error names a context for which it does, in 64ths of this one.
static inline bool conversation_fits(const Conversation *c, const OLMo2Room *room, const OLMo2Form *form,
                                     Error *err) {
    OLMo2Room less = *room;
    Error none;
    if (weights_fit(&c->source.weights, &c->source.config, room, form, err)) { return true; }
    for (size_t parts = 63; parts > 0; parts--) {
        less.cache_T = room->cache_T / 64 * parts;
        if (less.cache_T > 1 && weights_fit(&c->source.weights, &c->source.config, &less, form, &none)) {
            return fail(err, "%s\n--context %zu fits.", err->text, less.cache_T);
        }
    }
    return false;
}

// The model, with room for the whole context, or for one question and its answer.
static inline void load_conversation(Conversation *c) {
    Error err;
    const Settings *s = c->settings;
    size_t longest = c->context - 1;
    if (s->prompt != NULL) {
        must(s->prompt[0] != '\0' || fail(&err, "--prompt: is empty, expected a question"), &err);
        must(utf8_check(s->prompt, strlen(s->prompt), "--prompt", &err), &err);
        must(chat_add(&c->chat, CHAT_USER, s->prompt, strlen(s->prompt), &err), &err);
        must(fit_question(c, &err), &err);
        longest = c->ids.length;
    }
    const size_t left = c->context - longest, answer = (size_t)s->max_tokens;
    const OLMo2Room room = engine_room(&c->source.config, 1, longest, answer < left ? answer : left);
    const OLMo2Form form = model_form(&c->source, s);
    must(conversation_fits(c, &room, &form, &err), &err);
    c->m = model_load(&c->source, &room, s);
    if (s->prompt == NULL) {
        char bytes[32];
        const OLMo2Memory memory = olmo2_memory(&c->source.config, &room, &form);
        fprintf(stderr, "conversation: up to %zu tokens, in a cache of %s\n", room.cache_T,
                format_bytes(bytes, memory.cache));
    }
    must(engine_open(&c->engine, c->m, &room, &c->source.text, &err), &err);
}

static inline bool check_context(const Conversation *c, Error *err) {
    const size_t most = c->source.config.max_T;
    return c->context <= most ||
           fail(err, "--context %zu: expected at most %zu, the model's max_position_embeddings", c->context,
                most);
}

static inline void chat(Settings *s) {
    Error err, warning = {""};
    Conversation c;
    memset(&c, 0, sizeof c);
    c.settings = s;
    must(source_open(&c.source, s->load, s->tokenizer, &warning, &err), &err);
    if (!c.source.text.present) {
        fail(&err, "--tokenizer: is missing; %s has no tokenizer.json", c.source.dir);
        must(false, &err);
    }
    c.context = (size_t)given(s->context, (int64_t)c.source.config.max_T);
    must(check_context(&c, &err), &err);
    must(chat_template_check(&c.chat, c.source.dir, &warning, &err), &err);
    warn(&warning);
    if (s->system != NULL && s->system[0] != '\0') {
        must(utf8_check(s->system, strlen(s->system), "--system", &err), &err);
        must(chat_add(&c.chat, CHAT_SYSTEM, s->system, strlen(s->system), &err), &err);
    }
    load_conversation(&c);
    if (s->prompt != NULL) {
        must(answer_question(&c, &err), &err);
    } else {
        converse(&c);
    }

    engine_close(&c.engine);
    olmo2_free(c.m);
    free(c.ids.ids);
    chat_free(&c.chat);
    source_close(&c.source);
}

#endif
