// test_requests.c: reading request files and what is wrong with them, tokens as lm-eval cuts them, and metrics
// and means by hand-made numbers.
#include "dev/test/scratch.h"
#include "dev/test/small_tokenizer.h"
#include "llmc/tasks.h"

static Tokenizer tokenizer;
static OLMo2Config config;

// A line. NULL leaves a member out.
static const char *line_of(const char *task, const char *doc_id, const char *idx, const char *label,
                           const char *request) {
    static char lines[8][1024];
    static int next;
    char *line = lines[next++ % 8], *out = line;
    const char *names[] = {"task_name", "doc_id", "idx", "label", "request"};
    const char *values[] = {task, doc_id, idx, label, request};
    out += sprintf(out, "{\"request_type\": \"loglikelihood\", \"doc\": {\"id\": 1}");
    for (int i = 0; i < 5; i++) {
        if (values[i] != NULL) { out += sprintf(out, ", \"%s\": %s", names[i], values[i]); }
    }
    sprintf(out, ", \"native_id\": \"n%.*s\"}\n", doc_id == NULL ? 0 : (int)strcspn(doc_id, "\""),
            doc_id == NULL ? "" : doc_id);
    return line;
}

static const char *choice(const char *doc_id, const char *idx, const char *label, const char *continuation) {
    char request[512];
    snprintf(request, sizeof request, "{\"context\": \"ab ab\", \"continuation\": \"%s\"}", continuation);
    return line_of("\"t\"", doc_id, idx, label, request);
}

// The lines as a file, opened.
static bool open_lines(RequestFile *f, const char *a, const char *b, const char *c) {
    char *text = format_text("%s%s%s", a, b, c);
    write_text("r.jsonl", text);
    free(text);
    return requests_open(f, in_dir("r.jsonl"), &err);
}

static void refuse(const char *words, const char *a, const char *b, const char *c) {
    RequestFile f;
    CHECK_ERROR(open_lines(&f, a, b, c), err, words);
    CHECK(f.text == NULL);
}

static void test_reading(void) {
    RequestFile f;
    // Two documents, out of order; the second one is mentioned first.
    CHECK(open_lines(&f, choice("7", "1", "1", " c"), choice("3", "0", "0", " b"),
                     choice("7", "0", "1", " abc")));
    CHECK(f.document_count == 2 && f.request_count == 3 && f.task_count == 1);
    const RequestDocument *d = &f.documents[0];
    CHECK(d->doc_id == 7 && d->choices == 2 && d->label == 1 && d->unconditional == 0);
    CHECK(f.documents[1].doc_id == 3 && f.documents[1].choices == 1 && f.documents[1].label == 0);
    const Request *r = &f.requests[d->first];
    CHECK(r->continuation.size == 4 && memcmp(request_text(&f, r->continuation), " abc", 4) == 0);
    CHECK(r[0].line == 3 && r[1].line == 1);
    CHECK(d->native_id.size == 4 && memcmp(request_text(&f, d->native_id), "\"n7\"", 4) == 0);
    requests_close(&f);

    // The same doc_id in two tasks is two documents; a limit holds for each task.
    char request[] = "{\"context\": \"\", \"continuation\": \"x\"}";
    CHECK(open_lines(&f, line_of("\"t\"", "0", "0", "0", request), line_of("\"u\"", "0", "0", "0", request),
                     line_of("\"t\"", "1", "0", "0", request)));
    CHECK(f.document_count == 3 && f.task_count == 2);
    requests_limit(&f, 1);
    CHECK(f.document_count == 2 && strcmp(f.tasks[f.documents[1].task], "u") == 0);
    requests_limit(&f, 0);
    CHECK(f.document_count == 2);
    requests_close(&f);

    // Unconditional requests belong to their document, wherever they are.
    char uncond[] = "{\"context\": \"Answer:\", \"continuation\": \" b\"}";
    CHECK(open_lines(&f, line_of("\"t\"", "1000003", "0", "0", uncond), choice("3", "0", "0", " b"), ""));
    CHECK(f.document_count == 1 && f.documents[0].doc_id == 3 && f.documents[0].unconditional == 1);
    CHECK(tasks_check(&f, &err));
    requests_close(&f);

    // A label that is a text, where there is one continuation.
    CHECK(open_lines(&f, choice("0", "0", "\"42\"", " b"), "\n", ""));
    CHECK(f.documents[0].label == 0 && f.documents[0].choices == 1);
    requests_close(&f);
    CHECK(open_lines(&f,
                     "{\"request_type\": \"generate_until_and_loglikelihood\", \"task_name\": \"gsm8k\", "
                     "\"doc_id\": 0, \"idx\": 0, \"label\": 18, \"request\": {\"context\": \"a\", "
                     "\"continuation\": \"b\", \"stop_sequences\": []}}\n",
                     "", ""));
    CHECK(f.documents[0].label == 0);
    CHECK(f.documents[0].native_id.size == 4 &&
          memcmp(request_text(&f, f.documents[0].native_id), "null", 4) == 0);
    requests_close(&f);
}

static void test_errors(void) {
    char good[1024];
    snprintf(good, sizeof good, "%s", choice("0", "0", "0", " b"));
    refuse("r.jsonl: is empty", "", "", "");
    refuse("only blank lines", "\n", "  \n", "");
    refuse("r.jsonl line 2:1:3: found the end of the text", good, "[1\n", "");
    refuse("line 2: expected an object", good, "[1]\n", "");
    refuse("line 2:1:9: found the end of the text", good, "{\"idx\": ", "");
    refuse("line 1: \"task_name\" is missing", line_of(NULL, "0", "0", "0", "{}"), "", "");
    refuse("line 1: \"doc_id\" is missing", line_of("\"t\"", NULL, "0", "0", "{}"), "", "");
    refuse("line 1: \"idx\" is missing", line_of("\"t\"", "0", NULL, "0", "{}"), "", "");
    refuse("line 1: \"label\" is missing", line_of("\"t\"", "0", "0", NULL, "{}"), "", "");
    refuse("line 1: \"request\" is missing", line_of("\"t\"", "0", "0", "0", NULL), "", "");
    refuse("line 1, in \"request\": \"context\" is missing", line_of("\"t\"", "0", "0", "0", "{}"), "", "");
    refuse("line 1, in \"request\": \"continuation\" is missing",
           line_of("\"t\"", "0", "0", "0", "{\"context\": \"a\"}"), "", "");
    refuse("\"task_name\" is 5, expected a string", line_of("5", "0", "0", "0", "{}"), "", "");
    refuse("\"task_name\" is empty", line_of("\"\"", "0", "0", "0", "{}"), "", "");
    const char *controls[] = {"\"a\\n\"",   "\"a\\tb\"",    "\"\\u001b[2J\"",
                              "\"\\u007f\"", "\"a\\u0080\"", "\"\\u009fb\""};
    for (size_t i = 0; i < sizeof controls / sizeof controls[0]; i++) {
        refuse("expected a name of plain characters", line_of(controls[i], "0", "0", "0", "{}"), "", "");
    }
    refuse("\"doc_id\" is the string \"0\", expected a whole number",
           line_of("\"t\"", "\"0\"", "0", "0", "{}"), "", "");
    refuse("\"idx\" is -1, expected a whole number", choice("0", "-1", "0", " b"), "", "");
    refuse("\"label\" is 0.5, expected the idx", choice("0", "0", "0.5", " b"), "", "");
    refuse("\"label\" is null, expected the idx", choice("0", "0", "null", " b"), "", "");
    refuse("\"request\" is an array, expected an object", line_of("\"t\"", "0", "0", "0", "[]"), "", "");
    refuse("\"continuation\" is 5, expected a string",
           line_of("\"t\"", "0", "0", "0", "{\"context\": \"a\", \"continuation\": 5}"), "", "");
    refuse("line 2, in \"request\": \"continuation\" is empty", good, choice("1", "0", "0", ""), "");
    refuse("expected valid UTF-8", choice("0", "0", "0", " \xff"), "", "");
    refuse("line 1: \"label\" is 2, expected 0 to 1: the document has 2 choices", choice("0", "0", "2", " b"),
           choice("0", "1", "2", " c"), "");
    refuse("line 1: \"label\" is a text, expected the idx of one of 2 choices",
           choice("0", "0", "\"A\"", " b"), choice("0", "1", "\"A\"", " c"), "");
    refuse("line 2: \"label\" differs from that of line 1", choice("0", "0", "0", " b"),
           choice("0", "1", "1", " c"), "");
    refuse("line 3: \"idx\" 1 of document 0 of t was in line 1 already", choice("0", "1", "0", " b"),
           choice("0", "0", "0", " c"), choice("0", "1", "0", " d"));
    refuse("line 2: \"idx\" is 2, but document 0 of t has no request of idx 1", choice("0", "0", "0", " b"),
           choice("0", "2", "0", " c"), "");
    refuse("line 1: is an unconditional request (doc_id 1000005), but t has no document 5",
           choice("1000005", "0", "0", " b"), "", "");
    refuse("line 3: document 0 of t has 2 choices and 1 unconditional requests", choice("0", "0", "0", " b"),
           choice("0", "1", "0", " c"), choice("1000000", "0", "0", " b"));
    refuse("line 2: has another \"continuation\" than line 1", good, choice("1000000", "0", "0", " c"), "");
    refuse("\"generate_until\", expected",
           "{\"request_type\": \"generate_until\", \"task_name\": \"gsm8k\", \"doc_id\": 0}\n", "", "");
}

// Encodes one request and compares its tokens, which end with -1, and how many of them are scored.
static void check_tokens(const char *context, const char *continuation, const int *expected, size_t scored) {
    RequestFile f;
    char request[512];
    size_t n = 0;
    while (expected[n] >= 0) { n++; }
    snprintf(request, sizeof request, "{\"context\": \"%s\", \"continuation\": \"%s\"}", context,
             continuation);
    if (!CHECK(open_lines(&f, line_of("\"t\"", "0", "0", "0", request), "", ""))) { return; }
    if (!CHECK(requests_encode(&f, &tokenizer, &config, &err))) {
        printf("       %s\n", err.text);
    } else {
        const Request *r = &f.requests[0];
        bool same = CHECK(r->length == n && r->scored == scored);
        for (size_t i = 0; i < n && same; i++) { same = f.ids[r->ids + i] == (uint32_t)expected[i]; }
        if (!CHECK(same)) {
            for (size_t i = 0; i < r->length; i++) { printf("       %u\n", f.ids[r->ids + i]); }
        }
    }
    requests_close(&f);
}

// The small tokenizer joins "b c" before "a b", and "a b" before " a". Its words end before a space.
static void test_tokens(void) {
    check_tokens("ab", " ab", (const int[]){T_AB, ' ', T_AB, -1}, 2);
    check_tokens("ab ", "ab", (const int[]){T_AB, ' ', T_AB, -1}, 2);  // the space moves over
    check_tokens("ab\\u00a0\\u001c", "x", (const int[]){T_AB, 0xC2, 0xA0, 0x1C, 'x', -1}, 4);
    check_tokens("ab\\n", " ab", (const int[]){T_AB, '\n', ' ', T_AB, -1}, 3);
    check_tokens("ab", "c", (const int[]){'a', T_BC, -1}, 1);  // together, not one after the other
    check_tokens("", "ab", (const int[]){T_END, T_AB, -1}, 1);
    check_tokens("  ", "x", (const int[]){T_END, ' ', ' ', 'x', -1}, 3);
    config.max_T = 3;
    check_tokens("x x x x", " x", (const int[]){' ', 'x', ' ', 'x', -1}, 2);  // the last max_T + 1
    RequestFile f;
    CHECK(open_lines(&f, choice("0", "0", "0", " x x"), "", ""));
    CHECK_ERROR(requests_encode(&f, &tokenizer, &config, &err), err,
                "line 1: \"continuation\" has 4 tokens, the model takes 3");
    requests_close(&f);
    config.eos = OLMO2_NO_TOKEN;
    CHECK(open_lines(&f, line_of("\"t\"", "0", "0", "0", "{\"context\": \" \", \"continuation\": \"x\"}"), "",
                     ""));
    CHECK_ERROR(requests_encode(&f, &tokenizer, &config, &err), err, "line 1: \"context\" is empty");
    requests_close(&f);
}

// ---------------------------------------------------------------------------------------------
// metrics

static Choice choice_of(double logprob, double unconditional, size_t tokens, size_t chars, size_t bytes) {
    const Choice c = {logprob, unconditional, tokens, chars, bytes, chars - 1, bytes - 1};
    return c;
}

static bool near(double a, double b) { return fabs(a - b) <= 1e-15 * fabs(b); }

static void test_metrics(void) {
    // Each accuracy prefers another choice:
    //               raw   per token     per char       uncond
    const Choice choices[] = {
        choice_of(-4.0, -1.0, 1, 2, 2),    // -4   -4            -2             -3
        choice_of(-6.0, -7.0, 1, 4, 8),    // -6   -6            -1.5           +1    best by acc_uncond
        choice_of(-8.0, -5.0, 2, 10, 10),  // -8   -4            -0.8           -3    best by acc_per_char
        choice_of(-9.0, -5.0, 3, 9, 18),   // -9   -3            -1             -4    best by acc_per_token
    };
    const struct {
        const char *name;
        size_t best;
    } expected[] = {{"acc_raw", 0},    {"acc_per_token", 3}, {"acc_per_char", 2},
                    {"acc_uncond", 1}, {"len_norm_v1", 2},   {"pmi_dc", 0}};
    for (size_t i = 0; i < sizeof expected / sizeof expected[0]; i++) {
        const size_t metric = metric_find(expected[i].name);
        CHECK(metric < METRICS && choice_best(choices, 4, &metrics[metric]) == expected[i].best);
    }
    CHECK(metric_find("acc") == METRICS);
    // A tie: the first wins.
    const Choice tied[] = {choice_of(-2, -1, 1, 2, 2), choice_of(-1, -1, 1, 2, 2),
                           choice_of(-1, -1, 1, 2, 2)};
    CHECK(choice_best(tied, 3, &metrics[metric_find("acc_raw")]) == 1);

    // Three documents: right, wrong, right by acc_raw. log 2 nats are a bit.
    Scores s;
    memset(&s, 0, sizeof s);
    Choice pair[] = {choice_of(-2 * log(2.0), NAN, 1, 4, 4), choice_of(-8 * log(2.0), NAN, 1, 5, 8)};
    scores_add(&s, pair, 2, 0);  // 0.5 bits a byte
    scores_add(&s, pair, 2, 1);  // 1 bit a byte
    scores_add(&s, pair, 2, 0);
    const size_t raw = metric_find("acc_raw"), bits = metric_find("bits_per_byte");
    CHECK(scores_has(&s, raw) && near(scores_mean(&s, raw), 2.0 / 3.0));
    CHECK(fabs(scores_error(&s, raw) - sqrt(2.0 / 3.0 / 3.0 / 3.0)) <= 1e-15);
    CHECK(fabs(scores_mean(&s, bits) - 2.0 / 3.0) <= 1e-15);
    CHECK(!scores_has(&s, metric_find("acc_uncond")) && !scores_has(&s, metric_find("pmi_dc")));
    CHECK(fabs(scores_mean(&s, metric_find("bpb_v1")) - (2.0 / 3 + 8.0 / 7 + 2.0 / 3) / 3) <= 1e-15);
    CHECK(fabs(scores_mean(&s, metric_find("ce_loss_v1")) - log(2.0) * (2.0 / 3 + 8.0 / 4 + 2.0 / 3) / 3) <=
          1e-15);
    CHECK(fabs(scores_mean(&s, metric_find("ce_loss_v2")) - log(2.0) * (0.5 + 1.6 + 0.5) / 3) <= 1e-15);
    // With one choice there is nothing to choose; a continuation of one character has nothing without it.
    memset(&s, 0, sizeof s);
    const Choice one = choice_of(-1, NAN, 1, 1, 1);
    scores_add(&s, &one, 1, 0);
    CHECK(!scores_has(&s, raw) && scores_has(&s, bits) && !scores_has(&s, metric_find("bpb_v1")));
}

// Lengths count code points and bytes, with the leading space and without.
static void test_choices(void) {
    RequestFile f;
    CHECK(open_lines(&f, choice("0", "0", "0", " \xC3\xA9\xF0\x9F\x99\x82"), "", ""));
    CHECK(requests_encode(&f, &tokenizer, &config, &err));
    f.requests[0].logprob = -3.0;
    const Choice c = choice_read(&f, &f.documents[0], 0);
    CHECK(c.chars == 3 && c.bytes == 7 && c.bare_chars == 2 && c.bare_bytes == 6 && c.tokens == 7);
    CHECK(c.logprob == -3.0 && isnan(c.unconditional));
    requests_close(&f);
}

// ---------------------------------------------------------------------------------------------
// tasks

static TaskResult result(const char *name, size_t right, size_t documents) {
    TaskResult r = {name, task_primary(name), {0}};
    const Choice choices[] = {choice_of(-1, -2, 1, 2, 2), choice_of(-2, -2, 1, 2, 2)};
    for (size_t i = 0; i < documents; i++) { scores_add(&r.scores, choices, 2, i >= right); }
    return r;
}

static void test_tasks(void) {
    Summary s;
    bool both;
    CHECK(strcmp(metrics[task_primary("arc_challenge")].name, "acc_uncond") == 0);
    CHECK(strcmp(metrics[task_primary("arc_challenge:mc")].name, "acc_raw") == 0);
    CHECK(strcmp(metrics[task_primary("mmlu_virology")].name, "acc_per_char") == 0);
    CHECK(strcmp(metrics[task_primary("unheard_of")].name, "acc_per_char") == 0);
    CHECK(task_find("arc") == NULL && task_find("arc_easy:rc") == &tasks[0]);
    CHECK(mmlu_subject("mmlu_anatomy:mc") == 1 && mmlu_subject("mmlu") == MMLU_SUBJECTS);
    CHECK(mmlu_subject("mmlu_anatom") == MMLU_SUBJECTS);
    size_t olmes = 0, groups[MMLU_GROUPS] = {0};
    for (size_t i = 0; i < TASKS; i++) {
        CHECK(metric_find(tasks[i].primary) < METRICS);
        olmes += tasks[i].olmes;
    }
    for (size_t i = 0; i < MMLU_SUBJECTS; i++) { groups[mmlu_subjects[i].group]++; }
    CHECK(olmes == OLMES_TASKS);
    CHECK(groups[MMLU_STEM] == 18 && groups[MMLU_HUMANITIES] == 13 && groups[MMLU_SOCIAL_SCIENCES] == 12 &&
          groups[MMLU_OTHER] == 14);

    // The better of the two forms; that of one, where only one was scored.
    TaskResult results[16] = {result("arc_easy", 6, 10), result("arc_easy:mc", 3, 10),
                              result("piqa:mc", 1, 2)};
    CHECK(summarise_task(&s, &both, results, 3, task_find("arc_easy")) && both && near(s.score, 0.6));
    CHECK(strcmp(s.what, "that of RC") == 0);
    CHECK(summarise_task(&s, &both, results, 3, task_find("piqa")) && !both && s.score == 0.5);
    CHECK(!summarise_task(&s, &both, results, 3, task_find("boolq")));
    CHECK(!summarise_olmes(&s, results, 3, false));

    // Subjects of MMLU count alike, however many questions they have.
    results[3] = result("mmlu_anatomy", 1, 4);          // other, 1/4
    results[4] = result("mmlu_astronomy", 1, 2);        // stem, 1/2
    results[5] = result("mmlu_college_physics", 3, 3);  // stem, 1
    CHECK(summarise_mmlu(&s, results, 6, MMLU_GROUPS, false) && near(s.score, 1.75 / 3) && s.documents == 9);
    CHECK(strcmp(s.what, "mean of 3 of its 57 subjects") == 0 && strcmp(s.name, "mmlu") == 0);
    CHECK(fabs(s.error - sqrt(0.25 * 0.75 / 4 + 0.25 / 2) / 3) <= 1e-15);
    CHECK(summarise_mmlu(&s, results, 6, MMLU_STEM, false) && s.score == 0.75 &&
          strcmp(s.name, "mmlu_stem") == 0);
    CHECK(!summarise_mmlu(&s, results, 6, MMLU_HUMANITIES, false));
    CHECK(!summarise_mmlu(&s, results, 6, MMLU_GROUPS, true));

    // The average of nine tasks, and of ten.
    for (size_t i = 0; i < OLMES_TASKS; i++) { results[6 + i] = result(tasks[i].name, i, 10); }
    CHECK(summarise_olmes(&s, results + 6, 9, false) && near(s.score, 0.4) && s.parts == 9);
    CHECK(!summarise_olmes(&s, results + 6, 8, false) && !summarise_olmes(&s, results + 6, 9, true));
    CHECK(summarise_olmes(&s, results + 5, 10, true) && near(s.score, 4.6 / 10) && s.parts == 10);
}

static void test_files(void) {
    char *path;
    RequestFile f;
    const Task *task = task_find("piqa");
    CHECK_ERROR(task_file(&path, dir, task, "rc", &err), err, "data/evals.py makes");
    write_text("piqa_rc.jsonl", choice("0", "0", "0", " b"));
    CHECK(task_file(&path, dir, task, "rc", &err) && ends_with(path, "piqa_rc.jsonl"));
    CHECK(requests_open(&f, path, &err));
    free(path);
    requests_close(&f);
    // arc_challenge is scored by acc_uncond
    char *text = format_text(
        "%s", line_of("\"arc_challenge\"", "4", "0", "0", "{\"context\": \"a\", \"continuation\": \"b\"}"));
    CHECK(open_lines(&f, text, "", ""));
    CHECK_ERROR(tasks_check(&f, &err), err, "needs unconditional requests, but document 4 has none");
    free(text);
    requests_close(&f);
    CHECK_ERROR(requests_open(&f, in_dir("none.jsonl"), &err), err, "cannot be opened");
}

int main(void) {
    TokenizerParts parts = default_parts();
    char *text = small_tokenizer(&parts);
    if (!scratch_begin()) { return 1; }
    CHECK(tokenizer_parse(&tokenizer, text, strlen(text), "small", &err));
    free(text);
    CHECK(olmo2_preset(&config, "14M"));
    config.eos = T_END;
    test_reading();
    test_errors();
    test_tokens();
    config.max_T = 64;
    test_metrics();
    test_choices();
    test_tasks();
    test_files();
    tokenizer_free(&tokenizer);
    scratch_end();
    return check_report();
}
