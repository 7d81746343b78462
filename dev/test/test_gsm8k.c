// test_gsm8k.c: the questions of GSM8K as a file holds them, their prompts, and which texts answer them.
#include "llmc/gsm8k.h"

#include "check.h"
#include "scratch.h"
#include "small_tokenizer.h"

#define EXAMPLES \
    "Question: One?\\nAnswer: It is 1. So the answer is 1.\\n\\nQuestion: Two?\\nAnswer: 2.\\n\\n"
#define PROMPT EXAMPLES "Question: Three\\n\\nor four?\\nAnswer:"
#define NUMBERED(doc_id, context, doc, label)                                             \
    "{\"doc\": " doc ", \"request\": {\"context\": \"" context "\"}, \"label\": \"" label \
    "\", \"doc_id\": " doc_id "}\n"
#define REQUEST(context, doc, label) NUMBERED("7", context, doc, label)
#define DOC(answer) "{\"question\": \"q\", \"answer\": \"" answer "\"}"

static bool open_text(Gsm8kFile *f, const char *text, Error *error) {
    write_text("gsm8k.jsonl", text);
    return gsm8k_open(f, in_dir("gsm8k.jsonl"), error);
}

static void test_gold(void) {
    static const struct {
        const char *line, *unsigned_gold, *signed_gold;
    } rows[] = {
        {REQUEST(PROMPT, DOC("3 + 4\\n#### 1,234"), "1234"), "1234", "1234"},
        {REQUEST(PROMPT, DOC("#### -10"), "10"), "10", "-10"},
        {REQUEST(PROMPT, "{}", "-3"), "3", "-3"},
        {REQUEST(PROMPT, "{\"answer\": 5}", "6"), "6", "6"},
        {REQUEST(PROMPT, "null", "8"), "8", "8"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        Gsm8kFile f;
        if (!CHECK(open_text(&f, rows[i].line, &err))) {
            printf("       %s\n", err.text);
            continue;
        }
        CHECK(f.count == 1 && f.questions[0].doc_id == 7);
        CHECK(strcmp(f.questions[0].gold[NUMBERS_UNSIGNED], rows[i].unsigned_gold) == 0);
        CHECK(strcmp(f.questions[0].gold[NUMBERS_SIGNED], rows[i].signed_gold) == 0);
        gsm8k_close(&f);
    }
}

static void test_right(void) {
    static const struct {
        const char *text, *answer;
        bool without_sign, with_sign;
    } rows[] = {
        {" It is -10.", "10", true, true},
        {" It is 10", "10", true, false},
        {" 12 - 22 = -10 apples", "10", true, true},
        {" $-10.00", "-10.00", false, false},
        {" 10 or 11", "11", false, false},
        {" ten", " ten", false, false},
        {"", "", false, false},
        {" 5,10", "510", false, false},
    };
    Gsm8kFile f;
    if (!CHECK(open_text(&f, REQUEST(PROMPT, DOC("#### -10"), "10"), &err))) { return; }
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char answer[64];
        bool right[NUMBER_RULES];
        gsm8k_right(&f.questions[0], rows[i].text, strlen(rows[i].text), answer, right);
        CHECK(strcmp(answer, rows[i].answer) == 0);
        CHECK(right[NUMBERS_UNSIGNED] == rows[i].without_sign && right[NUMBERS_SIGNED] == rows[i].with_sign);
    }
    gsm8k_close(&f);
}

// The tokens of the small tokenizer spell the text.
static char *spelled(const Gsm8kFile *f, const Tokenizer *t, const Gsm8kQuestion *q) {
    char *text = (char *)calloc(16 * q->length + 1, 1);
    for (size_t i = 0; i < q->length; i++) {
        size_t size;
        const char *piece = tokenizer_piece(t, f->ids[q->ids + i], &size);
        strncat(text, piece, size);
    }
    return text;
}

static void test_prompts(void) {
    static const char plain[] =
        "Question: One?\nAnswer: It is 1. So the answer is 1.\n\nQuestion: Two?\nAnswer: 2.\n\n"
        "Question: Three\n\nor four?\nAnswer:";
    static const char turns[] =
        "<|user|>\nQuestion: One?\nAnswer:\n<|assistant|>\nIt is 1. So the answer is 1.<|endoftext|>\n"
        "<|user|>\nQuestion: Two?\nAnswer:\n<|assistant|>\n2.<|endoftext|>\n"
        "<|user|>\nQuestion: Three\n\nor four?\nAnswer:\n<|assistant|>\n";
    TokenizerParts parts = default_parts();
    parts.added = "[{\"id\": 264, \"content\": \"<|endoftext|>\", \"special\": true}]";
    char *json = small_tokenizer(&parts);
    Tokenizer t;
    Gsm8kFile f;
    Chat chat;
    OLMo2Config config;
    memset(&chat, 0, sizeof chat);
    memset(&config, 0, sizeof config);
    config.max_T = 1000;
    CHECK(tokenizer_parse(&t, json, strlen(json), "small", &err));
    CHECK(open_text(&f, REQUEST(PROMPT, "{}", "3") NUMBERED("8", "Question: q\\nAnswer:", "{}", "3"), &err));

    CHECK(gsm8k_encode(&f, &t, &config, NULL, &err));
    char *text = spelled(&f, &t, &f.questions[0]);
    CHECK(strcmp(text, plain) == 0 && f.longest == f.questions[0].length);
    free(text);
    text = spelled(&f, &t, &f.questions[1]);
    CHECK(strcmp(text, "Question: q\nAnswer:") == 0);
    free(text);

    for (int without = 0; without <= 1; without++) {
        chat.without_begin = without;
        CHECK(gsm8k_encode(&f, &t, &config, &chat, &err));
        text = spelled(&f, &t, &f.questions[0]);
        CHECK(strcmp(without ? text : text + strlen("<|endoftext|>"), turns) == 0);
        free(text);
    }
    config.max_T = f.longest;
    CHECK_ERROR(gsm8k_encode(&f, &t, &config, &chat, &err), err, "expected fewer than the model's");
    config.max_T++;
    CHECK(gsm8k_encode(&f, &t, &config, &chat, &err));
    gsm8k_close(&f);
    config.max_T = 1000;

    static const char *const bad[] = {
        REQUEST("Q: q\\nA:", "{}", "3"),
        REQUEST("Question: q\\nAnswer: 3", "{}", "3"),
        REQUEST("Question: q", "{}", "3"),
        REQUEST("Question: q\\nAnswer:3\\n\\nQuestion: r\\nAnswer:", "{}", "3"),
        REQUEST("Question: q\\nAnswer: 3\\n\\nQuestion: r", "{}", "3"),
        REQUEST("Question: q\\nAnswer:\\u0000", "{}", "3"),
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        if (!CHECK(open_text(&f, bad[i], &err))) { continue; }
        CHECK(gsm8k_encode(&f, &t, &config, NULL, &err));
        CHECK_ERROR(gsm8k_encode(&f, &t, &config, &chat, &err), err, "it has no turns for a chat");
        gsm8k_close(&f);
    }
    tokenizer_free(&t);
    free(json);
}

static void test_errors(void) {
    static const struct {
        const char *text, *words;
    } rows[] = {
        {"\n \n", "only blank lines"},
        {"[1]\n", "expected an object"},
        {"{\"question\": \"q\", \"answer\": \"#### 1\"}\n", "data/evals.py --wheel WHEEL --task gsm8k --from FILE"},
        {REQUEST(PROMPT, "{}", "1") REQUEST(PROMPT, "{}", "2"), "line 2: \"doc_id\" 7 was in line 1 already"},
        {"{\"doc_id\": 0, \"label\": \"1\"}\n", "\"request\" is missing"},
        {"{\"request\": 1, \"label\": \"1\", \"doc_id\": 0}\n", "expected an object"},
        {"{\"request\": {\"context\": 1}, \"label\": \"1\", \"doc_id\": 0}\n", "expected a text"},
        {"{\"request\": {\"context\": \"\"}, \"label\": \"1\", \"doc_id\": 0}\n", "expected a text"},
        {"{\"request\": {}, \"label\": \"1\", \"doc_id\": 0}\n", "\"context\" is missing"},
        {"{\"request\": {\"context\": \"q\"}, \"label\": \"1\"}\n", "\"doc_id\" is missing"},
        {"{\"request\": {\"context\": \"q\"}, \"doc_id\": 0}\n", "\"label\" is missing"},
        {"{\"request\": {\"context\": \"q\"}, \"label\": 1, \"doc_id\": 0}\n", "expected a string"},
        {REQUEST("q", "{}", "many"), "no number, but is \"many\""},
        {REQUEST("q", DOC("####"), "5"), "no number"},
        {REQUEST("q", "{}", "5") "{\n", "line 2"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        Gsm8kFile f;
        CHECK_ERROR(open_text(&f, rows[i].text, &err), err, rows[i].words);
        CHECK(f.questions == NULL && f.path == NULL);
    }
}

int main(void) {
    scratch_begin();
    test_gold();
    test_right();
    test_prompts();
    test_errors();
    scratch_end();
    return check_report();
}
