// test_likelihood.c: the log-likelihood of requests. It is the one that a whole forward of each request gives,
// to the bit, for any number of slots, rows and threads; examples that documents share are computed once;
// documents are reported in their order; scoring can begin anywhere and stop.
#include "dev/test/scratch.h"
#define LLMC_MAIN_H  // the backend without the program
#include "train_olmo2.c"
#include "llmc/likelihood.h"

static OLMo2Config config;

static OLMo2 *new_model(const OLMo2Room *room) {
    const OLMo2Form form = olmo2_form();
    OLMo2 *m;
    uint64_t state = 7;
    if (!olmo2_create(&m, &config, room, &form, &err)) {
        printf("%s\n", err.text);
        exit(1);
    }
    for (size_t i = 0; i < parameter_count(&config); i++) {
        const Parameter p = parameter_at(&config, i);
        for (size_t k = 0; k < p.size; k++) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            const float noise = (float)((state >> 33) % 2001) / 1000.0f - 1.0f;
            m->weights[p.offset + k] = p.row->init == INIT_ONE ? 1.0f + 0.3f * noise : 0.2f * noise;
        }
    }
    return m;
}

// Five documents of 2 to 4 choices behind the same 40 tokens, the first three with unconditional requests; and
// one that begins with other tokens.
enum { DOCUMENTS = 6, EXAMPLES = 40, MOST = 64 };

static void add_request(RequestFile *f, size_t document, size_t choice, bool unconditional) {
    Request *r = &f->requests[f->request_count++];
    size_t n = 0;
    uint32_t *ids = f->ids + f->id_count;
    if (unconditional) {
        ids[n++] = 5, ids[n++] = 6;
    } else {
        for (; n < EXAMPLES; n++) { ids[n] = (uint32_t)((n * n + 3) % 90) + (document == 5); }
        for (size_t i = 0; i < 3 + document; i++) { ids[n++] = (uint32_t)(10 * document + i); }
    }
    r->unconditional = unconditional;
    r->idx = choice;
    r->scored = 1 + (document + 2 * choice) % 4;
    for (size_t i = 0; i < r->scored; i++) { ids[n++] = (uint32_t)(7 * choice + 11 * i) % 100; }
    r->ids = f->id_count;
    r->length = n;
    r->line = f->request_count;
    f->id_count += n;
    f->longest = n > f->longest ? n : f->longest;
}

static RequestFile make_requests(void) {
    RequestFile f;
    memset(&f, 0, sizeof f);
    f.path = strdup("f.jsonl");
    f.requests = (Request *)calloc(DOCUMENTS * 8, sizeof *f.requests);
    f.documents = (RequestDocument *)calloc(DOCUMENTS, sizeof *f.documents);
    f.ids = (uint32_t *)calloc(DOCUMENTS * 8 * MOST, sizeof *f.ids);
    for (size_t i = 0; i < DOCUMENTS; i++) {
        RequestDocument *d = &f.documents[f.document_count++];
        d->first = f.request_count;
        d->choices = 2 + i % 3;
        d->unconditional = i < 3 ? d->choices : 0;
        for (size_t k = 0; k < d->choices; k++) { add_request(&f, i, k, false); }
        for (size_t k = 0; k < d->unconditional; k++) { add_request(&f, i, k, true); }
    }
    return f;
}

// The sums by whole forwards, one request at a time.
static void expect(double *sums, const RequestFile *f) {
    const OLMo2Room room = olmo2_room_to_measure(1, MOST);
    OLMo2 *m = new_model(&room);
    for (size_t i = 0; i < f->request_count; i++) {
        const Request *r = &f->requests[i];
        const uint32_t *ids = request_ids(f, r);
        uint32_t labels[MOST];
        float logprobs[MOST], lse[MOST];
        olmo2_forward(m, ids, 1, r->length - 1);
        for (size_t t = 0; t + 1 < r->length; t++) {
            labels[t] = t + 1 >= r->length - r->scored ? ids[t + 1] : OLMO2_NO_TOKEN;
        }
        olmo2_classify(m, labels, NULL, 0.0f, logprobs, lse);
        for (size_t t = 0; t + 1 < r->length; t++) {
            if (labels[t] != OLMO2_NO_TOKEN) { sums[i] += (double)logprobs[t]; }
        }
    }
    olmo2_free(m);
}

typedef struct {
    size_t next;
    bool in_order;
    size_t most;  // fail after that many
} Reported;

static bool report(void *context, const RequestFile *f, size_t document, Error *err) {
    Reported *reported = (Reported *)context;
    (void)f;
    reported->in_order = reported->in_order && document == reported->next;
    reported->next++;
    return reported->next < reported->most || fail(err, "enough");
}

// Scores from `begin` on and compares the bits.
static void check_scores(RequestFile *f, const double *expected, size_t slots, size_t rows, size_t begin) {
    LikelihoodPlan plan = likelihood_plan(&config, f, 1, slots);
    plan.rows = rows > slots ? rows : slots;
    const OLMo2Room room = likelihood_room(&plan);
    OLMo2 *m = new_model(&room);
    Reported reported = {begin, true, SIZE_MAX};
    for (size_t i = 0; i < f->request_count; i++) { f->requests[i].logprob = NAN; }
    CHECK(plan.keeps && plan.slots == (slots < DOCUMENTS ? slots : DOCUMENTS) &&
          plan.cache_T == f->longest - 1);
    CHECK(likelihood_score(m, &plan, f, begin, NULL, report, &reported, &err));
    CHECK(reported.in_order && reported.next == DOCUMENTS);
    bool same = true;
    for (size_t i = f->documents[begin].first; i < f->request_count; i++) {
        same = same && memcmp(&f->requests[i].logprob, &expected[i], sizeof(double)) == 0;
    }
    if (!CHECK(same)) { printf("       %zu slots, %zu rows, from %zu on\n", slots, rows, begin); }
    olmo2_free(m);
}

// How many rows a scoring computes: it must not grow with the number of choices times the examples.
static size_t computed_rows;

static void test_computed(RequestFile *f) {
    const size_t slots[] = {1, 2, 4};
    size_t whole = 0;
    for (size_t i = 0; i < f->request_count; i++) { whole += f->requests[i].length - 1; }
    for (size_t k = 0; k < 3; k++) {
        LikelihoodPlan plan = likelihood_plan(&config, f, 1, slots[k]);
        const OLMo2Room room = likelihood_room(&plan);
        OLMo2 *m = new_model(&room);
        Likelihood l;
        computed_rows = 0;
        CHECK(likelihood_open(&l, m, &plan, f, 0, &err));
        while (l.reported < f->document_count) {
            CHECK(likelihood_step(&l, &err));
            computed_rows += l.row_count;
            while (l.reported < f->document_count && l.scored[l.reported]) { l.reported++; }
        }
        likelihood_close(&l);
        olmo2_free(m);
        // Two sets of examples, then at most the question and the continuation of each request.
        const size_t least = 2 * EXAMPLES;
        size_t most = least;
        for (size_t i = 0; i < DOCUMENTS; i++) {
            const RequestDocument *d = &f->documents[i];
            const Request *r = &f->requests[d->first];
            most += r->length - r->scored - EXAMPLES;
            for (size_t c = 0; c < d->choices + d->unconditional; c++) {
                most += r[c].scored + r[c].unconditional;
            }
        }
        printf("rows computed with %zu slots: %zu, allowed %zu, of whole requests %zu\n", slots[k],
               computed_rows, most, whole);
        CHECK(computed_rows >= least && computed_rows <= most);
    }
}

static void test_ends(RequestFile *f) {
    LikelihoodPlan plan = likelihood_plan(&config, f, 1, 2);
    const OLMo2Room room = likelihood_room(&plan);
    OLMo2 *m = new_model(&room);
    Reported reported = {0, true, 2};
    CHECK_ERROR(likelihood_score(m, &plan, f, 0, NULL, report, &reported, &err), err, "enough");
    CHECK(reported.next == 2);
    volatile sig_atomic_t stop = 1;
    CHECK(likelihood_score(m, &plan, f, 0, &stop, report, &reported, &err) && reported.next == 2);
    m->weights[parameter_offset(&config, LM_HEAD, 0)] = NAN;
    CHECK_ERROR(likelihood_score(m, &plan, f, 0, NULL, report, &reported, &err), err,
                "f.jsonl line 1: the log-likelihood of its continuation is nan");
    olmo2_free(m);
}

// Slots by memory: all that fit the larger of 1 GB and the weights in bf16; one if none does.
static void test_plan(RequestFile *f) {
    OLMo2Config large;
    CHECK(olmo2_preset(&large, "1B"));
    f->longest = 4096;
    const LikelihoodPlan decided = likelihood_plan(&large, f, 1, 0), typed = likelihood_plan(&large, f, 1, 5);
    CHECK(typed.slots == 5 && decided.slots >= 1 && decided.slots < DOCUMENTS);
    LikelihoodPlan one_more = decided;
    one_more.slots++;
    CHECK(!likelihood_fits(&large, &one_more) && (decided.slots == 1 || likelihood_fits(&large, &decided)));
}

int main(void) {
    CHECK(olmo2_preset(&config, "14M"));
    config.C = 24, config.L = 2, config.NH = 4, config.NKV = 2, config.HS = 6, config.F = 36, config.V = 101;
    config.max_T = MOST;
    RequestFile f = make_requests();
    double *expected = (double *)calloc(f.request_count, sizeof *expected);
    expect(expected, &f);
    const size_t slots[] = {1, 2, 3, 6, 32}, rows[] = {1, 7, 512};
    for (size_t s = 0; s < 5; s++) {
        for (size_t r = 0; r < 3; r++) { check_scores(&f, expected, slots[s], rows[r], 0); }
    }
    check_scores(&f, expected, 2, 512, 4);
#ifdef _OPENMP
    omp_set_num_threads(2);
    check_scores(&f, expected, 4, 64, 0);
    omp_set_num_threads(1);
#endif
    test_computed(&f);
    test_ends(&f);
    test_plan(&f);
    free(expected);
    requests_close(&f);
    return check_report();
}
