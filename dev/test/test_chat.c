// test_chat.c: the chat template: its text, its spans, its tokens, and the templates of model directories.
#include "llmc/chat.h"

#include "scratch.h"
#include "small_tokenizer.h"

static void add(Chat *chat, ChatRole role, const char *content) {
    CHECK(chat_add(chat, role, content, strlen(content), &err));
}

static bool renders(const Chat *chat, size_t count, bool ask, const char *expected) {
    ChatText text;
    if (!CHECK(chat_render(&text, chat, count, ask, &err))) { return false; }
    bool same = text.size == strlen(expected) && memcmp(text.text, expected, text.size) == 0;
    for (size_t i = 0; i < count; i++) {
        const TextSpan span = text.contents[i];
        const ChatMessage *message = &chat->messages[i];
        same = same && span.end - span.begin == message->size && span.end <= text.size &&
               memcmp(text.text + span.begin, message->content, message->size) == 0;
    }
    if (!same) { printf("       found \"%s\", expected \"%s\"\n", text.text, expected); }
    chat_text_free(&text);
    return same;
}

static void test_render(void) {
    Chat chat = {NULL, 0, 0, false};
    CHECK(renders(&chat, 0, false, "<|endoftext|>"));
    CHECK(renders(&chat, 0, true, "<|endoftext|>"));
    add(&chat, CHAT_SYSTEM, "Be kind.");
    add(&chat, CHAT_USER, "Hi");
    add(&chat, CHAT_ASSISTANT, "\nHello ");
    add(&chat, CHAT_USER, "");
    add(&chat, CHAT_ASSISTANT, "Yes?");
    CHECK(renders(&chat, 1, false, "<|endoftext|><|system|>\nBe kind.\n"));
    CHECK(renders(&chat, 2, true, "<|endoftext|><|system|>\nBe kind.\n<|user|>\nHi\n<|assistant|>\n"));
    CHECK(renders(&chat, 3, false,
                  "<|endoftext|><|system|>\nBe kind.\n<|user|>\nHi\n<|assistant|>\n\nHello <|endoftext|>"));
    CHECK(renders(&chat, 5, false,
                  "<|endoftext|><|system|>\nBe kind.\n<|user|>\nHi\n<|assistant|>\n\nHello <|endoftext|>\n"
                  "<|user|>\n\n<|assistant|>\nYes?<|endoftext|>"));
    chat_remove(&chat, 1, 3);
    CHECK(chat.count == 3);
    chat.without_begin = true;
    CHECK(renders(&chat, 3, true,
                  "<|system|>\nBe kind.\n<|user|>\n\n<|assistant|>\nYes?<|endoftext|><|assistant|>\n"));
    chat_remove(&chat, 3, 3);
    chat_remove(&chat, 0, 3);
    CHECK(chat.count == 0);
    for (int i = 0; i < 100; i++) { add(&chat, CHAT_USER, "more than there was room for"); }
    CHECK(chat.count == 100);
    chat_free(&chat);
}

static bool reads(const char *json) {
    JsonDocument doc;
    Chat chat = {NULL, 0, 0, false};
    if (!CHECK(json_parse(&doc, json, strlen(json), "test", &err))) { return false; }
    const bool ok = chat_read(&chat, json_member(doc.root, "messages"), "line 7", &err);
    chat_free(&chat);
    json_free(&doc);
    return ok;
}

static void test_json(void) {
    CHECK_ERROR(reads("{}"), err, "line 7: \"messages\" is nothing, expected an array");
    CHECK_ERROR(reads("{\"messages\": []}"), err, "line 7: \"messages\" is empty");
    CHECK_ERROR(reads("{\"messages\": \"Hi\"}"), err, "is the string \"Hi\", expected an array");
    CHECK_ERROR(reads("{\"messages\": [1]}"), err, "line 7: message 1: is 1, expected an object");
    CHECK_ERROR(reads("{\"messages\": [{\"content\": \"\"}]}"), err, "message 1: \"role\" is missing");
    CHECK_ERROR(reads("{\"messages\": [{\"role\": \"user\"}]}"), err, "\"content\" is nothing, expected a");
    CHECK_ERROR(reads("{\"messages\": [{\"role\": \"user\", \"content\": [\"a\"]}]}"), err, "is an array");
    CHECK_ERROR(reads("{\"messages\": [{\"role\": \"user\", \"content\": \"\"},"
                      "{\"role\": \"tool\", \"content\": \"\"}]}"),
                err, "line 7: message 2: the role is \"tool\", expected system, user or assistant");

    // Out and in again. A byte that is not UTF-8 becomes U+FFFD, a NUL stays.
    const char content[] = "a\0\"\n\xC3\xA9\xFF", expected[] = "a\0\"\n\xC3\xA9\xEF\xBF\xBD";
    Chat chat = {NULL, 0, 0, false}, again = {NULL, 0, 0, false};
    JsonWriter w;
    JsonDocument doc;
    memset(&w, 0, sizeof w);
    add(&chat, CHAT_SYSTEM, "");
    CHECK(chat_add(&chat, CHAT_USER, content, sizeof content - 1, &err));
    chat_write(&chat, &w);
    if (CHECK(json_parse(&doc, w.text, w.length, "written", &err))) {
        CHECK(chat_read(&again, json_member(doc.root, "messages"), "written", &err) && again.count == 2);
        CHECK(again.messages[0].role == CHAT_SYSTEM && again.messages[0].size == 0);
        CHECK(again.messages[1].role == CHAT_USER && again.messages[1].size == sizeof expected - 1);
        CHECK(memcmp(again.messages[1].content, expected, sizeof expected - 1) == 0);
        json_free(&doc);
    }
    json_writer_free(&w);
    chat_free(&chat);
    chat_free(&again);
}

// ---------------------------------------------------------------------------------------------
// tokens

// 256 bytes, "|>\n" as one token of two merges, then the added tokens, of which one is "normalized".
enum { T_BAR_END = 256, T_BAR_END_LINE, T_END_OF_TEXT, T_PADDING, T_NOTE };

static void small(Tokenizer *t, const char *added) {
    TokenizerParts parts = default_parts();
    parts.added = added;
    parts.tokens = "\"|>\": 256, \"|>\\u010a\": 257";
    parts.merges = "[\"| >\", \"|> \\u010a\"]";
    char *text = small_tokenizer(&parts);
    if (!CHECK(tokenizer_parse(t, text, strlen(text), "small", &err))) { printf("%s\n", err.text); }
    free(text);
}

// The tokens of a text in which E, P and N stand for the added tokens, and every other byte, but for "|>" and
// "|>\n", is itself.
static bool encodes(const Tokenizer *t, const Chat *chat, bool ask, bool plain, const char *expected) {
    TokenBuffer ids = {NULL, 0, 0};
    bool same = CHECK(chat_encode(t, chat, chat->count, ask, plain, &ids, &err));
    size_t at = 0;
    for (const char *c = expected; *c != '\0'; c++) {
        uint32_t id = (unsigned char)*c;
        if (strchr("EPN", *c) != NULL) { id = T_END_OF_TEXT + (uint32_t)(strchr("EPN", *c) - "EPN"); }
        if (strncmp(c, "|>", 2) == 0) {
            id = c[2] == '\n' ? T_BAR_END_LINE : T_BAR_END;
            c += c[2] == '\n' ? 2 : 1;
        }
        same = same && at < ids.length && ids.ids[at] == id;
        at++;
    }
    same = same && at == ids.length;
    if (!same) {
        printf("       expected %s, found", expected);
        for (size_t i = 0; i < ids.length; i++) { printf(" %u", (unsigned)ids.ids[i]); }
        printf("\n");
    }
    free(ids.ids);
    return same;
}

static void test_tokens(void) {
    Tokenizer t;
    Chat chat = {NULL, 0, 0, false};
    small(&t, "[{\"id\": 258, \"content\": \"<|endoftext|>\"}, {\"id\": 259, \"content\": \"<|pad|>\"},"
              "{\"id\": 260, \"content\": \"note\", \"normalized\": true}]");
    add(&chat, CHAT_USER, "a<|pad|>|>");
    add(&chat, CHAT_ASSISTANT, "<|endoftext|>note");
    add(&chat, CHAT_USER, "");
    add(&chat, CHAT_USER, "note");
    CHECK(encodes(&t, &chat, true, false,
                  "E<|user|>\naP|>\n<|assistant|>\nENE\n<|user|>\n\n<|user|>\nN\n<|assistant|>\n"));
    CHECK(encodes(&t, &chat, true, true,
                  "E<|user|>\na<|pad|>|>\n<|assistant|>\n<|endoftext|>noteE\n<|user|>\n\n<|user|>\nnote\n"
                  "<|assistant|>\n"));
    tokenizer_free(&t);

    // Headers that are added tokens are found in the template, and in the content only without `plain`. None
    // reaches from the template into the content.
    small(&t, "[{\"id\": 258, \"content\": \"<|endoftext|>\"}, {\"id\": 259, \"content\": \"<|user|>\"},"
              "{\"id\": 260, \"content\": \"\\n<|user|>\"}]");
    chat_remove(&chat, 0, chat.count);
    add(&chat, CHAT_USER, "<|user|>");
    CHECK(encodes(&t, &chat, false, false, "EPN\n"));
    CHECK(encodes(&t, &chat, false, true, "EP\n<|user|>\n"));
    tokenizer_free(&t);

    small(&t, "[{\"id\": 258, \"content\": \"<|end|>\"}]");
    TokenBuffer ids = {NULL, 0, 0};
    CHECK_ERROR(chat_encode(&t, &chat, 1, true, true, &ids, &err), err, "no added token <|endoftext|>");
    CHECK(ids.length == 0);
    tokenizer_free(&t);
    free(ids.ids);
    chat_free(&chat);
}

// The oldest turns go, one after the other. The system message and the last question stay.
static void test_fit(void) {
    Tokenizer t;
    Chat chat = {NULL, 0, 0, false};
    TokenBuffer ids = {NULL, 0, 0};
    size_t turns, end, lengths[4];
    small(&t, "[{\"id\": 258, \"content\": \"<|endoftext|>\"}]");
    CHECK(chat_fit(&t, &chat, 0, true, &ids, &turns, &end, &err) && turns == 0 && end == 0 &&
          ids.length == 1);
    add(&chat, CHAT_SYSTEM, "system");
    add(&chat, CHAT_USER, "one");
    add(&chat, CHAT_ASSISTANT, "1");
    add(&chat, CHAT_USER, "two");  // two questions may follow each other
    add(&chat, CHAT_USER, "three");
    add(&chat, CHAT_ASSISTANT, "3");
    add(&chat, CHAT_ASSISTANT, "3");
    add(&chat, CHAT_USER, "four");
    const size_t ends[] = {1, 3, 4, 7};
    for (size_t gone = 0; gone < 4; gone++) {
        const size_t most = gone == 0 ? SIZE_MAX : lengths[gone - 1] - 1;
        CHECK(chat_fit(&t, &chat, most, true, &ids, &turns, &end, &err));
        CHECK(turns == gone && end == ends[gone] && chat.count == 8);
        lengths[gone] = ids.length;
    }
    CHECK(chat_fit(&t, &chat, lengths[2], true, &ids, &turns, &end, &err) && turns == 2);
    CHECK(chat_fit(&t, &chat, 1, true, &ids, &turns, &end, &err) && turns == 3 && ids.length == lengths[3]);
    ids.length = 0;
    chat_remove(&chat, chat_question(&chat, 0), end);
    CHECK(chat_encode(&t, &chat, chat.count, true, true, &ids, &err) && ids.length == lengths[3]);
    CHECK(chat.count == 2 && chat_question(&chat, 0) == 1 && chat_question(&chat, 2) == 2);
    tokenizer_free(&t);
    free(ids.ids);
    chat_free(&chat);
}

// The spans of tokenizer_encode_around: any text, any spans, against the definition. With the tokenizer of
// single bytes, tokens are bytes and added tokens; an added token is found at the first place where it fits
// between two spans.
static void test_spans(void) {
    enum { SIZE = 24, ROUNDS = 3000 };
    const char *letters[] = {"<e>", "<e", ">", "x", "<e><e>"};
    Tokenizer t;
    uint64_t state = 1;
    size_t added = 0;
    TokenizerParts parts = default_parts();
    parts.added = "[{\"id\": 256, \"content\": \"<e>\"}]";
    parts.tokens = "", parts.merges = "[]";
    char *json = small_tokenizer(&parts);
    CHECK(tokenizer_parse(&t, json, strlen(json), "bytes", &err));
    free(json);
    for (int round = 0; round < ROUNDS; round++) {
        char text[SIZE + 8] = "";
        TextSpan spans[4];
        size_t count = 0, at = 0, right = 0, total = 0;
        TokenBuffer ids = {NULL, 0, 0};
        while (strlen(text) < SIZE) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            strncat(text, letters[(state >> 33) % 5], SIZE + 7 - strlen(text));
        }
        while (count < 4) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            const size_t begin = at + (state >> 40) % 8, end = begin + (state >> 50) % 6;
            if (end > strlen(text)) { break; }
            const TextSpan span = {begin, at = end};
            if (begin < end) { spans[count++] = span; }
        }
        CHECK(tokenizer_encode_around(&t, text, strlen(text), spans, count, &ids, &err));
        for (size_t i = 0; i < strlen(text);) {
            bool fits = strncmp(text + i, "<e>", 3) == 0;
            for (size_t s = 0; s < count; s++) {
                fits = fits && (i + 3 <= spans[s].begin || i >= spans[s].end);
            }
            right += right < ids.length && ids.ids[right] == (fits ? 256u : (unsigned char)text[i]);
            i += fits ? 3 : 1;
            added += fits;
            total++;
        }
        if (right != ids.length || right != total) { CHECK(right == ids.length && right == total); }
        free(ids.ids);
    }
    CHECK(added > ROUNDS);
    tokenizer_free(&t);
}

// ---------------------------------------------------------------------------------------------
// the template of a directory

static void write_config(const char *template_json, const char *more) {
    char text[4096];
    snprintf(text, sizeof text, "{\"tokenizer_class\": \"GPT2Tokenizer\", \"chat_template\": %s%s}",
             template_json, more);
    write_text("tokenizer_config.json", text);
}

static bool accepts(Chat *chat) {
    memset(chat, 0, sizeof *chat);
    return chat_template_check(chat, dir, no_warning(), &err);
}

static void test_templates(void) {
    Chat chat;
    JsonWriter w;
    memset(&w, 0, sizeof w);
    json_string(&w, NULL, chat_template);

    CHECK(accepts(&chat) && strstr(warning.text, "is a base model") != NULL && !chat.without_begin);
    write_text("tokenizer_config.json", "{\"eos_token\": \"</s>\", \"chat_template\": null}");
    CHECK(accepts(&chat) && strstr(warning.text, "is a base model") != NULL);

    write_config(w.text,
                 ", \"bos_token\": \"<|endoftext|>\", \"eos_token\": {\"content\": \"<|endoftext|>\"}");
    CHECK(accepts(&chat) && warning.text[0] == '\0' && !chat.without_begin);
    write_config(w.text, ", \"bos_token\": \"<s>\"");
    CHECK_ERROR(accepts(&chat), err, "tokenizer_config.json: \"bos_token\" is \"<s>\"");
    write_config(w.text, ", \"eos_token\": {\"content\": \"</s>\"}");
    CHECK_ERROR(accepts(&chat), err, "\"eos_token\" is \"</s>\"");
    write_config("7", "");
    CHECK_ERROR(accepts(&chat), err, "\"chat_template\" is 7, expected a string");
    write_config("\"{% for m in messages %}<|im_start|>\"", "");
    CHECK_ERROR(accepts(&chat), err, "It begins \"{% for m in messages %}<|im_start|>\"");
    write_config("[{\"name\": \"tools\", \"template\": \"\"}]", "");
    CHECK_ERROR(accepts(&chat), err, "none is called \"default\"");
    json_writer_free(&w);

    // The form of earlier transformers with several templates, and Tulu 3's without a begin token.
    memset(&w, 0, sizeof w);
    json_begin_array(&w, NULL);
    json_begin_object(&w, NULL);
    json_string(&w, "name", "default");
    json_string(&w, "template", chat_template + strlen(CHAT_BEGIN_TEMPLATE));
    json_end_object(&w);
    json_end_array(&w);
    write_config(w.text, "");
    CHECK(accepts(&chat) && warning.text[0] == '\0' && chat.without_begin);
    json_writer_free(&w);

    // A file of its own comes first. Its newlines may be escapes, and it may end with one.
    char jinja[2 * sizeof chat_template], *to = jinja;
    for (const char *c = chat_template; *c != '\0'; c++) {
        to += *c == '\n' ? snprintf(to, 3, "\\n") : snprintf(to, 2, "%c", *c);
    }
    write_text("chat_template.jinja", jinja);
    CHECK(accepts(&chat) && !chat.without_begin);
    strcat(jinja, "\n");
    write_text("chat_template.jinja", jinja);
    CHECK(accepts(&chat) && !chat.without_begin);
    strcat(jinja, "!");
    write_text("chat_template.jinja", jinja);
    CHECK_ERROR(accepts(&chat), err, "chat_template.jinja: the chat template is not");
    jinja[strlen(chat_template) / 2] = '\0';
    write_text("chat_template.jinja", jinja);
    CHECK_ERROR(accepts(&chat), err, "chat_template.jinja: the chat template is not");
    write_text("chat_template.jinja", "");
    CHECK_ERROR(accepts(&chat), err, "chat_template.jinja: the chat template is not");
    write_text("tokenizer_config.json", "{");
    CHECK_ERROR(accepts(&chat), err, "tokenizer_config.json:");
}

int main(void) {
    if (!scratch_begin()) { return 1; }
    test_render();
    test_json();
    test_tokens();
    test_fit();
    test_spans();
    test_templates();
    scratch_end();
    return check_report();
}
