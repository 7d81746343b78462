// chat.h: conversations, and the one template that makes a text and its tokens of them.
//
// The template is that of OLMo 2 Instruct: open-instruct's "tulu" template behind the begin token, which is
// <|endoftext|> as the end token is. A system message, a question and its answer are the text
//
//     <|endoftext|><|system|>
//     You are a helpful assistant.
//     <|user|>
//     What is 2 + 2?
//     <|assistant|>
//     4.<|endoftext|>
//
// A newline follows the answer's end token unless the answer comes last. "<|assistant|>" and a newline at the
// end ask for the next answer. The headers <|user|>, <|assistant|> and <|system|> are ordinary text, and a
// token may cross from a header into what follows it, so the text is encoded as a whole.
//
// The tokens equal those of transformers' apply_chat_template. There is one choice: an added token such as
// <|endoftext|> in the content of a message. transformers and open-instruct make it the special token, which
// ends the message for the model. Whatever a person types should stay text: with `plain`, it does.
//
//   chat_add, chat_remove, chat_free     the messages of a conversation
//   chat_read, chat_write                the same as JSON
//   chat_render                          conversation -> text, and where each message's content is
//   chat_encode                          conversation -> token ids
//   chat_fit                             which turns must go for it to have at most some number of tokens
//   chat_template_check                  whether a model's directory names this template
#ifndef LLMC_CHAT_H
#define LLMC_CHAT_H

#include "json.h"
#include "tokenizer.h"

#define CHAT_END "<|endoftext|>"

typedef enum { CHAT_SYSTEM, CHAT_USER, CHAT_ASSISTANT } ChatRole;
static const char *const chat_roles[] = {"system", "user", "assistant"};
enum { CHAT_ROLES = sizeof chat_roles / sizeof chat_roles[0] };

typedef struct {
    ChatRole role;
    char *content;  // (size) any bytes, not stripped; owned
    size_t size;
} ChatMessage;

// All zeros: an empty conversation. Release it with chat_free.
typedef struct {
    ChatMessage *messages;  // (count)
    size_t count, capacity;
    bool without_begin;  // the template lacks the begin token, as Tulu 3's does
} Chat;

// Appends a message with a copy of the content.
static inline bool chat_add(Chat *chat, ChatRole role, const char *content, size_t size, Error *err);
static inline void chat_remove(Chat *chat, size_t begin, size_t end);  // messages begin <= i < end
static inline void chat_free(Chat *chat);

// Appends the messages of a JSON array: objects with the strings "role" and "content". Other members are
// ignored. `source` names the array in messages. After a failure the conversation has the messages before the
// bad one.
static inline bool chat_read(Chat *chat, const Json *messages, const char *source, Error *err);

// {"messages": [{"role": "user", "content": "..."}, ...]}: chat_read reads its member. Bytes that are not
// UTF-8, as a model can write them, become U+FFFD.
static inline void chat_write(const Chat *chat, JsonWriter *w);

// The text of a conversation. Release it with chat_text_free.
typedef struct {
    char *text;  // (size)
    size_t size;
    TextSpan *contents;  // (count) the content of each message
    size_t count;
} ChatText;

// The text of the first `count` messages. With `ask` it ends with the header of the next answer. Fine-tuning
// trains the tokens of answer i between chat_render(i, true) and chat_render(i + 1, false). A failure leaves
// nothing to release.
static inline bool chat_render(ChatText *out, const Chat *chat, size_t count, bool ask, Error *err);
static inline void chat_text_free(ChatText *text);

// Appends the tokens of that text. With `plain` no added token is looked for in the contents.
static inline bool chat_encode(const Tokenizer *t, const Chat *chat, size_t count, bool ask, bool plain,
                               TokenBuffer *ids, Error *err);

// Which turns must go for the conversation to have at most `most` tokens: the oldest ones, each a question
// and what follows it up to the next question. The last question stays, and so do messages before the first
// one, as of the system. *turns becomes their number, *end the message behind them: chat_remove(chat,
// chat_question(chat, 0), end) removes them. ids becomes the tokens of what remains, which ask for an answer;
// they are more than `most` if the last question is too long by itself.
static inline bool chat_fit(const Tokenizer *t, const Chat *chat, size_t most, bool plain, TokenBuffer *ids,
                            size_t *turns, size_t *end, Error *err);
static inline size_t chat_question(const Chat *chat, size_t i);  // the first at or after message i, or count

// Looks for the chat template of a model: chat_template.jinja in its directory, or "chat_template" of
// tokenizer_config.json. It sets chat->without_begin as the template says, warns of a model without a
// template, and refuses any other template than this one: another text than the model was trained on would
// make its answers bad without a word.
static inline bool chat_template_check(Chat *chat, const char *dir, Error *warning, Error *err);

// ---------------------------------------------------------------------------------------------
// messages

static inline bool chat_add(Chat *chat, ChatRole role, const char *content, size_t size, Error *err) {
    if (chat->count == chat->capacity) {
        const size_t capacity = 2 * chat->capacity + 16;
        ChatMessage *messages = (ChatMessage *)realloc(chat->messages, capacity * sizeof *messages);
        if (messages == NULL) { return fail(err, "out of memory: a conversation of %zu messages", capacity); }
        chat->messages = messages;
        chat->capacity = capacity;
    }
    char *copy = (char *)malloc(size + 1);
    if (copy == NULL) { return fail(err, "out of memory: a message of %zu bytes", size); }
    memcpy(copy, content, size);
    copy[size] = '\0';
    const ChatMessage message = {role, copy, size};
    chat->messages[chat->count++] = message;
    return true;
}

static inline void chat_remove(Chat *chat, size_t begin, size_t end) {
    for (size_t i = begin; i < end; i++) { free(chat->messages[i].content); }
    if (end > begin) {
        memmove(chat->messages + begin, chat->messages + end, (chat->count - end) * sizeof *chat->messages);
        chat->count -= end - begin;
    }
}

static inline void chat_free(Chat *chat) {
    chat_remove(chat, 0, chat->count);
    free(chat->messages);
    memset(chat, 0, sizeof *chat);
}

// ---------------------------------------------------------------------------------------------
// JSON

static inline bool chat_read_message(Chat *chat, const Json *message, const char *source, Error *err) {
    const char *role;
    char found[64];
    if (message->type != JSON_OBJECT) {
        return fail(err, "%s: is %s, expected an object with \"role\" and \"content\"", source,
                    json_describe(found, message));
    }
    if (!json_get_string(message, "role", true, &role, source, err)) { return false; }
    const Json *content = json_member(message, "content");
    if (content == NULL || content->type != JSON_STRING) {
        return fail(err, "%s: \"content\" is %s, expected a string", source, json_describe(found, content));
    }
    for (int i = 0; i < CHAT_ROLES; i++) {
        if (strcmp(role, chat_roles[i]) == 0) {
            return chat_add(chat, (ChatRole)i, content->string, content->length, err);
        }
    }
    return fail(err, "%s: the role is \"%.40s\", expected system, user or assistant", source, role);
}

static inline bool chat_read(Chat *chat, const Json *messages, const char *source, Error *err) {
    char found[64], name[PATH_MAX + 64];
    if (messages == NULL || messages->type != JSON_ARRAY || messages->count == 0) {
        return fail(err, "%s: \"messages\" is %s, expected an array with at least one message", source,
                    messages != NULL && messages->type == JSON_ARRAY ? "empty"
                                                                     : json_describe(found, messages));
    }
    size_t i = 0;
    for (const Json *message = json_first(messages); message != NULL; message = json_next(message)) {
        snprintf(name, sizeof name, "%s: message %zu", source, ++i);
        if (!chat_read_message(chat, message, name, err)) { return false; }
    }
    return true;
}

static inline void chat_write(const Chat *chat, JsonWriter *w) {
    json_begin_object(w, NULL);
    json_begin_array(w, "messages");
    for (size_t i = 0; i < chat->count; i++) {
        const ChatMessage *message = &chat->messages[i];
        json_begin_object(w, NULL);
        json_string(w, "role", chat_roles[message->role]);
        json_bytes(w, "content", message->content, message->size);
        json_end_object(w);
    }
    json_end_array(w);
    json_end_object(w);
}

// ---------------------------------------------------------------------------------------------
// the template

static inline void chat_put(ChatText *out, const char *bytes, size_t size) {
    if (out->text != NULL) { memcpy(out->text + out->size, bytes, size); }
    out->size += size;
}

static inline void chat_put_text(ChatText *out, const char *text) { chat_put(out, text, strlen(text)); }

static inline void chat_put_header(ChatText *out, ChatRole role) {
    chat_put_text(out, "<|");
    chat_put_text(out, chat_roles[role]);
    chat_put_text(out, "|>\n");
}

// The template. Without out->text it only counts the bytes.
static inline void chat_put_all(ChatText *out, const Chat *chat, size_t count, bool ask) {
    out->size = 0;
    if (!chat->without_begin) { chat_put_text(out, CHAT_END); }
    for (size_t i = 0; i < count; i++) {
        const ChatMessage *message = &chat->messages[i];
        chat_put_header(out, message->role);
        const TextSpan content = {out->size, out->size + message->size};
        if (out->contents != NULL) { out->contents[i] = content; }
        chat_put(out, message->content, message->size);
        if (message->role == CHAT_ASSISTANT) { chat_put_text(out, CHAT_END); }
        if (message->role != CHAT_ASSISTANT || i + 1 < count) { chat_put_text(out, "\n"); }
    }
    // The template asks within its loop over messages: where there are none it does not ask.
    if (ask && count > 0) { chat_put_header(out, CHAT_ASSISTANT); }
}

static inline bool chat_render(ChatText *out, const Chat *chat, size_t count, bool ask, Error *err) {
    memset(out, 0, sizeof *out);
    chat_put_all(out, chat, count, ask);
    out->count = count;
    out->text = (char *)malloc(out->size + 1);
    out->contents = (TextSpan *)malloc((count + 1) * sizeof *out->contents);
    if (out->text == NULL || out->contents == NULL) {
        fail(err, "out of memory: a conversation of %zu bytes", out->size);
        chat_text_free(out);
        return false;
    }
    chat_put_all(out, chat, count, ask);
    out->text[out->size] = '\0';
    return true;
}

static inline void chat_text_free(ChatText *text) {
    free(text->text);
    free(text->contents);
    memset(text, 0, sizeof *text);
}

static inline bool chat_encode(const Tokenizer *t, const Chat *chat, size_t count, bool ask, bool plain,
                               TokenBuffer *ids, Error *err) {
    ChatText text;
    uint32_t end;
    if (!tokenizer_special(t, CHAT_END, &end)) {
        return fail(err,
                    "the tokenizer has no added token " CHAT_END ", with which a conversation begins and "
                    "answers end: it is not OLMo 2's");
    }
    if (!chat_render(&text, chat, count, ask, err)) { return false; }
    bool ok = tokenizer_encode_around(t, text.text, text.size, text.contents, plain ? count : 0, ids, err);
    chat_text_free(&text);
    return ok;
}

static inline size_t chat_question(const Chat *chat, size_t i) {
    while (i < chat->count && chat->messages[i].role != CHAT_USER) { i++; }
    return i;
}

static inline bool chat_fit(const Tokenizer *t, const Chat *chat, size_t most, bool plain, TokenBuffer *ids,
                            size_t *turns, size_t *end, Error *err) {
    const size_t first = chat_question(chat, 0);
    Chat rest = *chat;  // borrows the contents
    rest.messages = (ChatMessage *)malloc((chat->count + 1) * sizeof *rest.messages);
    bool ok =
        rest.messages != NULL || fail(err, "out of memory: a conversation of %zu messages", chat->count);
    for (size_t i = 0; ok && i < chat->count; i++) { rest.messages[i] = chat->messages[i]; }
    *end = first;
    for (*turns = 0; ok; ++*turns) {
        ids->length = 0;
        ok = chat_encode(t, &rest, rest.count, true, plain, ids, err);
        const size_t next = chat_question(chat, *end + 1);
        if (ids->length <= most || next >= chat->count) { break; }
        *end = next;
        rest.count = first + chat->count - next;
        memcpy(rest.messages + first, chat->messages + next, (chat->count - next) * sizeof *rest.messages);
    }
    free(rest.messages);
    return ok;
}

// ---------------------------------------------------------------------------------------------
// the template of a directory

// The chat template of allenai/OLMo-2-*-Instruct, as their tokenizer_config.json has it.
#define CHAT_BEGIN_TEMPLATE "{{ bos_token }}"
static const char chat_template[] = CHAT_BEGIN_TEMPLATE
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ '<|system|>\n' + message['content'] + '\n' }}"
    "{% elif message['role'] == 'user' %}{{ '<|user|>\n' + message['content'] + '\n' }}"
    "{% elif message['role'] == 'assistant' %}"
    "{% if not loop.last %}{{ '<|assistant|>\n'  + message['content'] + eos_token + '\n' }}"
    "{% else %}{{ '<|assistant|>\n'  + message['content'] + eos_token }}{% endif %}"
    "{% endif %}"
    "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
    "{% endfor %}";

// Whether a template is `known`. In Jinja a newline between quotes may be written as \n; one at the end of
// the text does not count.
static inline bool chat_template_is(const char *found, const char *known) {
    while (*known != '\0') {
        const bool escape = found[0] == '\\' && found[1] == 'n';
        if ((escape ? '\n' : *found) != *known) { return false; }
        found += escape ? 2 : 1;
        known++;
    }
    return *found == '\0' || strcmp(found, "\n") == 0;
}

// The template that tokenizer_config.json names: a string, or a list of which one is called "default".
static inline bool chat_template_of(const Json *config, const char **out, const char *source, Error *err) {
    const Json *value = json_member(config, "chat_template");
    if (value == NULL || value->type != JSON_ARRAY) {
        return json_get_string(config, "chat_template", false, out, source, err);
    }
    for (const Json *entry = json_first(value); entry != NULL; entry = json_next(entry)) {
        const char *name = "";
        if (!json_get_string(entry, "name", true, &name, source, err)) { return false; }
        if (strcmp(name, "default") == 0) {
            return json_get_string(entry, "template", true, out, source, err);
        }
    }
    return fail(err, "%s: \"chat_template\" is a list in which none is called \"default\"", source);
}

// The template takes the begin and end token from tokenizer_config.json.
static inline bool chat_token_check(const Json *config, const char *key, const char *source, Error *err) {
    const Json *value = json_member(config, key);
    const char *text = CHAT_END;
    if (value != NULL && value->type == JSON_OBJECT) {  // an older form, with the token's settings
        if (!json_get_string(value, "content", true, &text, source, err)) { return false; }
    } else if (!json_get_string(config, key, false, &text, source, err)) {
        return false;
    }
    return strcmp(text, CHAT_END) == 0 ||
           fail(err, "%s: \"%s\" is \"%.40s\", and a conversation with OLMo 2 Instruct has " CHAT_END, source,
                key, text);
}

// Whether the template `found` of the file `source` is this one, and its tokens are <|endoftext|>.
static inline bool chat_template_accept(Chat *chat, const char *found, const char *source, const Json *config,
                                        const char *config_path, Error *err) {
    chat->without_begin = chat_template_is(found, chat_template + strlen(CHAT_BEGIN_TEMPLATE));
    if (!chat->without_begin && !chat_template_is(found, chat_template)) {
        return fail(
            err,
            "%s: the chat template is not that of OLMo 2 Instruct, the only one that this program has. "
            "It begins \"%.60s\".\nTo chat with the template of OLMo 2 Instruct all the same, remove it",
            source, found);
    }
    return chat_token_check(config, "bos_token", config_path, err) &&
           chat_token_check(config, "eos_token", config_path, err);
}

static inline bool chat_template_check(Chat *chat, const char *dir, Error *warning, Error *err) {
    enum { LARGEST = 16 << 20 };
    char config_path[PATH_MAX], jinja_path[PATH_MAX];
    JsonDocument config;
    memset(&config, 0, sizeof config);
    if (!path_join(config_path, dir, "tokenizer_config.json", err)) { return false; }
    if (!path_join(jinja_path, dir, "chat_template.jinja", err)) { return false; }
    if (path_exists(config_path) && !json_parse_file(&config, config_path, err)) { return false; }

    const bool own_file = path_exists(jinja_path);  // transformers reads it first
    char *jinja = own_file ? file_read_text(jinja_path, LARGEST, err) : NULL;
    const char *found = jinja;
    bool ok = own_file ? jinja != NULL : chat_template_of(config.root, &found, config_path, err);
    if (ok && found != NULL) {
        const char *source = own_file ? jinja_path : config_path;
        ok = chat_template_accept(chat, found, source, config.root, config_path, err);
    } else if (ok) {
        add_warning(warning,
                    "%s: has no chat template, so it is a base model: it was not trained on conversations. "
                    "The template of OLMo 2 Instruct is used",
                    dir);
    }
    free(jinja);
    json_free(&config);
    return ok;
}

#endif
