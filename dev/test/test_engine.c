// test_engine.c: every text is the one that a plain loop writes, whatever is beside it; nothing is computed
// twice; texts end where they should, and are handed out in order.
#include "llmc/engine.h"

#include "small_tokenizer.h"
#include "spelling_model.h"

enum { V = T_SIZE + 5, LENGTH = SPELLING_T, TEXTS = 32 };

static Error err;
static Text tokenizer;

static void open_tokenizer(void) {
    const TokenizerParts parts = default_parts();
    char *json = small_tokenizer(&parts);
    tokenizer.present = tokenizer_parse(&tokenizer.tokenizer, json, strlen(json), "test", &err);
    CHECK(tokenizer.present);
    free(json);
}

// ---------------------------------------------------------------------------------------------
// what the texts were, as a reader saw them

typedef struct {
    size_t prompt, sample, length, size, shown_size;
    uint32_t ids[LENGTH];
    float logprobs[LENGTH];
    char bytes[4 * LENGTH], shown[4 * LENGTH];
    EngineEnd end;
} Kept;

typedef struct {
    Kept texts[TEXTS];
    size_t count;
    char shown[TEXTS][4][4 * LENGTH];  // by prompt and sample, what was shown so far
    size_t shown_sizes[TEXTS][4];
    size_t tokens;      // calls of keep_token
    size_t fail_after;  // tokens; 0: never
    size_t stop_after;  // tokens; 0: never
} Keeper;

static Keeper keeper;
static volatile sig_atomic_t stop_flag;

static bool keep_token(void *context, const EngineText *text, const char *bytes, size_t size, Error *error) {
    Keeper *k = (Keeper *)context;
    size_t *shown = &k->shown_sizes[text->prompt][text->sample];
    memcpy(k->shown[text->prompt][text->sample] + *shown, bytes, size);
    *shown += size;
    k->tokens++;
    if (k->tokens == k->stop_after) { stop_flag = 1; }
    return k->tokens != k->fail_after || fail(error, "enough");
}

static bool keep_ended(void *context, const EngineText *text, Error *error) {
    Keeper *k = (Keeper *)context;
    Kept *kept = &k->texts[k->count++];
    (void)error;
    memset(kept, 0, sizeof *kept);
    kept->prompt = text->prompt;
    kept->sample = text->sample;
    kept->length = text->length;
    kept->size = text->size;
    kept->end = text->end;
    memcpy(kept->ids, text->ids, text->length * sizeof *kept->ids);
    if (text->logprobs != NULL) { memcpy(kept->logprobs, text->logprobs, text->length * sizeof(float)); }
    memcpy(kept->bytes, text->bytes, text->size);
    kept->shown_size = k->shown_sizes[text->prompt][text->sample];
    memcpy(kept->shown, k->shown[text->prompt][text->sample], kept->shown_size);
    return true;
}

static const EngineReader reader = {&keeper, keep_token, keep_ended};

static void forget(void) {
    memset(&keeper, 0, sizeof keeper);
    stop_flag = 0;
}

static Engine engine_of(OLMo2 *m) {
    Engine e;
    CHECK(engine_open(&e, m, &m->room, &tokenizer, &err));
    return e;
}

static bool run(Engine *e, const EnginePrompt *prompts, size_t count, const EngineSettings *settings) {
    forget();
    return engine_run(e, prompts, count, settings, &reader, &stop_flag, &err);
}

// What was shown as it came is the text, whole.
static void check_shown(void) {
    for (size_t i = 0; i < keeper.count; i++) {
        const Kept *k = &keeper.texts[i];
        CHECK(k->shown_size == k->size && memcmp(k->shown, k->bytes, k->size) == 0);
    }
}

// ---------------------------------------------------------------------------------------------

// The definition: a loop over one text.
static void write_plainly(Kept *kept, const EnginePrompt *prompts, size_t prompt, size_t sample,
                          const OLMo2Config *config, const EngineSettings *s) {
    static SamplerCandidate scratch[V];
    float logits[V];
    uint32_t ids[LENGTH];
    size_t length = prompts[prompt].length;
    Pcg64 rng;
    memset(kept, 0, sizeof *kept);
    kept->prompt = prompt, kept->sample = sample;
    pcg64_seed(&rng, engine_seed(s->seed, prompts[prompt].key, sample));
    memcpy(ids, prompts[prompt].ids, length * sizeof *ids);
    for (kept->end = END_INTERRUPTED; kept->end == END_INTERRUPTED;) {
        spell_hash(ids, length, logits, V);
        const uint32_t id = sampler_next(logits, T_SIZE, &s->sampler, &rng, scratch);
        double sum = 0.0;
        for (size_t v = 0; v < V; v++) { sum += exp((double)logits[v]); }
        kept->logprobs[kept->length] = (float)((double)logits[id] - log(sum));
        kept->ids[kept->length++] = ids[length++] = id;
        size_t size;
        const char *piece = tokenizer_piece(&tokenizer.tokenizer, id, &size);
        if (!config_is_end(config, id)) {
            memcpy(kept->bytes + kept->size, piece, size);
            kept->size += size;
        }
        if (config_is_end(config, id)) {
            kept->end = END_TOKEN;
        } else if (kept->length == s->max_tokens) {
            kept->end = END_MAX_TOKENS;
        } else if (length == config->max_T) {
            kept->end = END_POSITIONS;
        }
    }
    kept->shown_size = kept->size;
    memcpy(kept->shown, kept->bytes, kept->size);
}

// Prompts of all lengths, some that begin alike, for every number of slots and many of rows, on engines with
// the caches of earlier runs: always the texts of the definition.
static void test_any_slots(void) {
    static uint32_t ids[8][LENGTH];
    EnginePrompt prompts[8];
    EngineSettings settings = {{1.0, 0, 1.0, 0.0}, 7, 9, NULL, 0, true};
    static Kept want[TEXTS];
    size_t total = 0, ends[5] = {0};
    for (size_t p = 0; p < 8; p++) {
        const size_t length = p == 0 ? 1 : p == 7 ? LENGTH - 5 : 5 * p;
        const EnginePrompt prompt = {ids[p], length, p == 5 ? 0 : 1 + p % 4, 100 + p, "a prompt"};
        for (size_t i = 0; i < length; i++) { ids[p][i] = (uint32_t)(i < 9 ? i : p * i) % V; }
        prompts[p] = prompt;
    }
    OLMo2 plain = spelling_model(V, 1, LENGTH, 1);
    plain.config.eos = 3, plain.config.more_ends[0] = 4, plain.config.more_end_count = 1;
    for (int greedy = 0; greedy <= 1; greedy++) {
        settings.sampler.temperature = greedy ? 0.0 : 1.5;
        settings.sampler.top_k = greedy ? 0 : 50;
        total = 0;
        for (size_t p = 0; p < 8; p++) {
            for (size_t sample = 0; sample < prompts[p].samples; sample++) {
                write_plainly(&want[total++], prompts, p, sample, &plain.config, &settings);
                ends[want[total - 1].end]++;
            }
        }
        for (size_t slots = 1; slots <= 5; slots++) {
            for (size_t rows = slots; rows <= SPELLING_ROWS; rows = 2 * rows + 1) {
                OLMo2 m = spelling_model(V, slots, LENGTH, rows);
                m.config = plain.config;
                Engine e = engine_of(&m);
                for (int again = 0; again <= 1; again++) {
                    CHECK(run(&e, prompts, 8, &settings));
                    CHECK(keeper.count == total);
                    CHECK(memcmp(keeper.texts, want, total * sizeof *want) == 0);
                }
                engine_close(&e);
            }
        }
    }
    CHECK(ends[END_TOKEN] > 0 && ends[END_MAX_TOKENS] > 0 && ends[END_POSITIONS] > 0);
}

// The samples of a prompt differ, other seeds and keys give other texts, and neither max_tokens nor the place
// in the list of prompts matters.
static void test_draws(void) {
    const uint32_t ids[] = {1, 2, 3}, other[] = {5};
    EnginePrompt prompts[] = {{ids, 3, 3, 8, "a"}, {ids, 3, 1, 9, "b"}};
    const EnginePrompt moved[] = {{other, 1, 2, 1, "c"}, {ids, 3, 1, 9, "b"}};
    EngineSettings settings = {{1.0, 0, 1.0, 0.0}, 7, 20, NULL, 0, false};
    OLMo2 m = spelling_model(V, 2, LENGTH, 8);
    Engine e = engine_of(&m);
    CHECK(run(&e, prompts, 2, &settings));
    static Keeper first;
    first = keeper;
    for (size_t i = 0; i < 4; i++) {
        for (size_t j = 0; j < i; j++) {
            CHECK(memcmp(first.texts[i].ids, first.texts[j].ids, sizeof first.texts[i].ids) != 0);
        }
    }
    CHECK(run(&e, moved, 2, &settings));
    CHECK(memcmp(keeper.texts[2].ids, first.texts[3].ids, sizeof first.texts[3].ids) == 0);
    settings.max_tokens = 10;
    CHECK(run(&e, prompts, 2, &settings));
    CHECK(memcmp(keeper.texts[1].ids, first.texts[1].ids, 10 * sizeof(uint32_t)) == 0);
    settings.seed = 8;
    CHECK(run(&e, prompts, 2, &settings));
    CHECK(memcmp(keeper.texts[1].ids, first.texts[1].ids, 10 * sizeof(uint32_t)) != 0);
    engine_close(&e);
}

// How many tokens go through the model.
static void test_computed(void) {
    uint32_t ids[4][LENGTH];
    EnginePrompt prompts[4];
    const EngineSettings settings = {{0.0, 0, 1.0, 0.0}, 1, 3, NULL, 0, false};
    OLMo2 m = spelling_model(V, 4, LENGTH, 20);
    Engine e = engine_of(&m);
    for (size_t p = 0; p < 4; p++) {
        const EnginePrompt prompt = {ids[p], 40, 1, p, "a prompt"};
        for (size_t i = 0; i < 40; i++) { ids[p][i] = (uint32_t)(i < 35 ? 7 * i : 7 * i + p + 1) % V; }
        prompts[p] = prompt;
    }
    prompts[0].samples = 4;  // once for all samples, except its last token; 2 of 3 new tokens go in again
    CHECK(run(&e, prompts, 1, &settings) && keeper.count == 4);
    CHECK(m.computed == 40 + 3 + 4 * 2);
    m.computed = 0;  // the caches are still there
    CHECK(run(&e, prompts, 1, &settings));
    CHECK(m.computed == 4 + 4 * 2);
    m.computed = 0;
    engine_forget(&e);
    prompts[0].samples = 1;  // behind the same 35 examples
    CHECK(run(&e, prompts, 4, &settings));
    CHECK(m.computed == 40 + 3 * 5 + 4 * 2);
    engine_forget(&e);
    for (size_t p = 0; p < 4; p++) { ids[p][0] = (uint32_t)p; }  // nothing in common: nobody waits
    m.computed = m.calls = 0;
    CHECK(run(&e, prompts, 4, &settings));
    CHECK(m.computed == 4 * 40 + 4 * 2 && m.calls <= 4 * 40 / 20 + 4);
    engine_close(&e);
}

// ---------------------------------------------------------------------------------------------
// a model that writes what the test says, behind prompts of one token

static const char *script;
static size_t script_size;

// Bytes of the script one by one, but "ab" and "abc" as one token; then <|end|>.
static void spell_script(const uint32_t *ids, size_t length, float *logits, size_t n) {
    size_t at = 0, size;
    uint32_t id = T_END;
    for (size_t i = 1; i < length; i++) {
        CHECK(tokenizer_piece(&tokenizer.tokenizer, ids[i], &size) != NULL);
        at += size;
    }
    if (at < script_size) {
        id = (unsigned char)script[at];
        if (strncmp(script + at, "ab", 2) == 0) { id = T_AB; }
        if (strncmp(script + at, "abc", 3) == 0) { id = T_ABC; }
    }
    for (size_t v = 0; v < n; v++) { logits[v] = v == id ? 1.0f : 0.0f; }
}

static void test_stops(void) {
    const uint32_t begin[] = {0};
    const EnginePrompt prompt = {begin, 1, 1, 0, "a prompt"};
    const struct {
        const char *script, *stops[2], *text;
        EngineEnd end;
        size_t tokens;
    } cases[] = {
        {"x abc y", {"bc"}, "x a", END_STOP, 3},               // inside a token
        {"x ab\n\ny", {"\n\n", "b\n"}, "x a", END_STOP, 4},    // the first that is complete
        {"x \n y", {"\n\n"}, "x \n y", END_TOKEN, 6},          // never complete: all of it is shown
        {"\u00e9\u20ac!", {"\u20ac"}, "\u00e9", END_STOP, 5},  // three tokens of one character
        {"\u00e9\u20ac!", {"!!"}, "\u00e9\u20ac!", END_TOKEN, 7},
        {"\xE2\x82", {"\xE2\x82\xAC"}, "\xE2\x82", END_TOKEN, 3},  // half a character at the end is shown
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const EngineSettings settings = {
            {0.0, 0, 1.0, 0.0}, 0, 20, cases[i].stops, cases[i].stops[1] == NULL ? 1 : 2, false};
        OLMo2 m = spelling_model(V, 1, LENGTH, 4);
        m.config.eos = T_END;
        m.spell = spell_script;
        script = cases[i].script;
        script_size = strlen(script);
        Engine e = engine_of(&m);
        CHECK(run(&e, &prompt, 1, &settings) && keeper.count == 1);
        const Kept *k = &keeper.texts[0];
        CHECK(k->end == cases[i].end && k->length == cases[i].tokens);
        CHECK(k->size == strlen(cases[i].text) && memcmp(k->bytes, cases[i].text, k->size) == 0);
        check_shown();
        engine_close(&e);
    }
}

// ---------------------------------------------------------------------------------------------

// Interrupted at every token: the texts that had begun, in order, each a beginning of what it would be.
static void test_interrupted(void) {
    const uint32_t ids[] = {1, 2, 3};
    const EnginePrompt prompts[] = {{ids, 3, 2, 0, "a"}, {ids, 2, 3, 1, "b"}};
    const EngineSettings settings = {{1.0, 0, 1.0, 0.0}, 7, 6, NULL, 0, false};
    static Keeper whole;
    OLMo2 m = spelling_model(V, 3, LENGTH, 4);
    Engine e = engine_of(&m);
    CHECK(run(&e, prompts, 2, &settings));
    whole = keeper;
    CHECK(whole.count == 5 && whole.tokens == 30);
    for (size_t after = 1; after < 30; after++) {
        size_t unfinished = 0;
        forget();
        keeper.stop_after = after;
        CHECK(engine_run(&e, prompts, 2, &settings, &reader, &stop_flag, &err));
        for (size_t i = 0; i < keeper.count; i++) {
            const Kept *k = &keeper.texts[i];
            CHECK(k->prompt == whole.texts[i].prompt && k->sample == whole.texts[i].sample);
            CHECK(memcmp(k->ids, whole.texts[i].ids, k->length * sizeof *k->ids) == 0);
            CHECK((k->end == END_INTERRUPTED) == (k->length < 6));
            unfinished += k->end == END_INTERRUPTED;
        }
        CHECK(unfinished > 0 || after >= 28 || keeper.count < 5);
        check_shown();
    }
    forget();
    stop_flag = 1;
    CHECK(engine_run(&e, prompts, 2, &settings, &reader, &stop_flag, &err) && keeper.count == 0);
    engine_close(&e);
}

static void spell_nan(const uint32_t *ids, size_t length, float *logits, size_t n) {
    spell_hash(ids, length, logits, n);
    if (length == 6) { logits[V - 1] = ids[0] == 9 ? NAN : -INFINITY; }
}

static void test_errors(void) {
    const uint32_t ids[LENGTH] = {1, 2, V - 1, V}, nine[] = {9};
    const EnginePrompt good = {ids, 3, 1, 0, "good"}, none = {ids, 0, 1, 0, "none"},
                       more = {ids, 4, 1, 0, "more"}, full = {ids, LENGTH, 1, 0, "full"},
                       unwritten = {nine, 1, 0, 0, "unwritten"};
    const EnginePrompt nans[] = {{nine, 1, 1, 0, "file:7"}};
    const EngineSettings settings = {{0.0, 0, 1.0, 0.0}, 1, 9, NULL, 0, true};
    OLMo2 m = spelling_model(V, 2, LENGTH, 8);
    Engine e = engine_of(&m);
    CHECK_ERROR(run(&e, &none, 1, &settings), err, "none: has no tokens");
    CHECK_ERROR(run(&e, &more, 1, &settings), err, "more: token 3 has id 272, the model has 272");
    CHECK_ERROR(run(&e, &full, 1, &settings), err, "full: has 64 tokens, expected fewer than the model's");
    CHECK(keeper.count == 0 && m.calls == 0);
    CHECK(run(&e, &unwritten, 1, &settings) && run(&e, &good, 0, &settings) && keeper.count == 0);
    m.config.max_T = 1000;
    CHECK_ERROR(run(&e, &full, 1, &settings), err, "full: has 64 tokens, expected fewer than 64: the caches");
    forget();
    keeper.fail_after = 4;
    CHECK_ERROR(engine_run(&e, &good, 1, &settings, &reader, NULL, &err), err, "enough");
    m.spell = spell_nan;
    CHECK_ERROR(run(&e, nans, 1, &settings), err,
                "file:7: the model's logit of token 271 at position 6 of sample 0 is nan");
    CHECK_ERROR(run(&e, &good, 1, &settings), err, "at position 6 of sample 0 is infinite");
    m.spell = spell_hash;  // after all these, it is as good as new
    CHECK(run(&e, &good, 1, &settings) && keeper.count == 1 && keeper.texts[0].length == 9);
    engine_close(&e);
}

// Room for what is asked, and no more than the model has positions.
static void test_room(void) {
    OLMo2Config config;
    CHECK(olmo2_preset(&config, "1B"));
    const OLMo2Room one = engine_room(&config, 1, 10, 200), many = engine_room(&config, 16, 100, 200),
                    full = engine_room(&config, 4, 4000, SIZE_MAX), tiny = engine_room(&config, 600, 1, 1);
    CHECK(one.slots == 1 && one.cache_T == 210 && one.rows == 10);
    CHECK(many.slots == 16 && many.cache_T == 300 && many.rows == ENGINE_ROWS);
    CHECK(full.cache_T == 4096 && full.rows == ENGINE_ROWS);
    CHECK(tiny.rows == 600 && tiny.cache_T == 2);
}

int main(void) {
    open_tokenizer();
    test_any_slots();
    test_draws();
    test_computed();
    test_stops();
    test_interrupted();
    test_errors();
    test_room();
    text_close(&tokenizer);
    return check_report();
}
