// chat_driver TOKENIZER: reads conversations on standard input, one JSON object a line: {"messages": [...],
// "ask": false, "plain": false}. Writes for each the number of its tokens and their ids, 4 bytes each.
// dev/test/reference_chat.py runs it.
#include "llmc/chat.h"

static bool encode_line(const Tokenizer *t, const char *line, size_t size, TokenBuffer *ids, Error *err) {
    JsonDocument doc;
    Chat chat;
    bool ask = false, plain = false;
    memset(&chat, 0, sizeof chat);
    if (!json_parse(&doc, line, size, "standard input", err)) { return false; }
    bool ok = json_get_bool(doc.root, "ask", false, &ask, "standard input", err) &&
              json_get_bool(doc.root, "plain", false, &plain, "standard input", err) &&
              chat_read(&chat, json_member(doc.root, "messages"), "standard input", err) &&
              chat_encode(t, &chat, chat.count, ask, plain, ids, err);
    chat_free(&chat);
    json_free(&doc);
    return ok;
}

static bool encode_all(const Tokenizer *t, Error *err) {
    TokenBuffer ids = {NULL, 0, 0};
    char *line = NULL;
    size_t capacity = 0;
    ssize_t size;
    bool ok = true;
    while (ok && (size = getline(&line, &capacity, stdin)) > 0) {
        ids.length = 0;
        ok = encode_line(t, line, (size_t)size, &ids, err);
        if (ok) {
            uint32_t count = (uint32_t)ids.length;
            fwrite(&count, sizeof count, 1, stdout);
            fwrite(ids.ids, sizeof *ids.ids, ids.length, stdout);
        }
    }
    free(line);
    free(ids.ids);
    return ok;
}

int main(int argc, char **argv) {
    Error err;
    Tokenizer t;
    bool ok = argc == 2 ? tokenizer_load(&t, argv[1], &err)
                        : fail(&err, "usage: chat_driver TOKENIZER < conversations");
    if (ok) {
        ok = encode_all(&t, &err);
        tokenizer_free(&t);
    }
    if (!ok) { fprintf(stderr, "error: %s\n", err.text); }
    return ok ? 0 : 1;
}
