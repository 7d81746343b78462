// likelihood.h: the log-likelihood of evaluation requests, many documents side by side.
//
// The requests of a document differ in their last tokens only, and documents mostly begin with the same
// examples. So every slot works through the requests of one document and computes only what follows the
// longest beginning that any slot holds (slots.h). The pieces of all slots go through the model together, and
// the head is applied only to the rows that predict a continuation.
//
// On the CPU the results have the same bits for any number of slots, rows and threads.
//
// Doors:
//   likelihood_plan      how many slots, by the memory that they take
//   likelihood_room      the room that a model needs for a plan
//   likelihood_score     scores the documents of a file, in their order
#ifndef LLMC_LIKELIHOOD_H
#define LLMC_LIKELIHOOD_H

#include <signal.h>

#include "memory_limit.h"
#include "parameters.h"
#include "requests.h"
#include "slots.h"

typedef struct {
    size_t slots;    // documents side by side
    size_t rows;     // most tokens of one forward
    size_t cache_T;  // positions of a slot
    bool keeps;      // one slot more: it keeps the examples while others score unconditional requests
} LikelihoodPlan;

// For encoded files. With `slots` 0 it decides: at most LIKELIHOOD_MOST_SLOTS, one for each document, and as
// many as fit the memory.
static inline LikelihoodPlan likelihood_plan(const OLMo2Config *config, const RequestFile *files,
                                             size_t count, size_t slots);
static inline OLMo2Room likelihood_room(const LikelihoodPlan *plan);

// Called for each document when it and all before it are scored. Returns false to end the scoring.
typedef bool LikelihoodDone(void *context, const RequestFile *f, size_t document, Error *err);

// Scores the documents from `begin` on: fills the logprob of each of their requests. When *stop becomes true
// (NULL: never), it returns early, true.
static inline bool likelihood_score(OLMo2 *m, const LikelihoodPlan *plan, RequestFile *f, size_t begin,
                                    const volatile sig_atomic_t *stop, LikelihoodDone *done, void *context,
                                    Error *err);

// ---------------------------------------------------------------------------------------------
// the plan

// More rows at once make no product faster. A question has about 10 new tokens for each of its choices.
enum { LIKELIHOOD_MOST_SLOTS = 32, LIKELIHOOD_ROWS = 512 };

static inline OLMo2Room likelihood_room(const LikelihoodPlan *plan) {
    return olmo2_room_to_extend(plan->slots + plan->keeps, plan->cache_T, plan->rows);
}

// The caches may take as much memory as the weights in bf16, or 1 GB, but at most half of this machine's.
static inline bool likelihood_fits(const OLMo2Config *config, const LikelihoodPlan *plan) {
    const OLMo2Room room = likelihood_room(plan);
    const OLMo2Form form = olmo2_form();
    const size_t weights = 2 * parameter_total(config), least = 1000000000;
    const size_t cache = olmo2_memory(config, &room, &form).cache;
    return cache <= (weights > least ? weights : least) && cache <= memory_limit("").bytes / 2;
}

static inline LikelihoodPlan likelihood_plan(const OLMo2Config *config, const RequestFile *files,
                                             size_t count, size_t slots) {
    LikelihoodPlan plan;
    size_t documents = 0;
    memset(&plan, 0, sizeof plan);
    plan.rows = LIKELIHOOD_ROWS;
    plan.cache_T = 1;
    for (size_t i = 0; i < count; i++) {
        const RequestFile *f = &files[i];
        if (f->longest - 1 > plan.cache_T) { plan.cache_T = f->longest - 1; }  // the last is only predicted
        if (f->document_count > documents) { documents = f->document_count; }
        for (size_t d = 0; d < f->document_count; d++) {
            plan.keeps = plan.keeps || f->documents[d].unconditional > 0;
        }
    }
    plan.slots = slots > 0 ? slots : (size_t)LIKELIHOOD_MOST_SLOTS;
    if (plan.slots > documents) { plan.slots = documents; }
    while (slots == 0 && plan.slots > 1 && !likelihood_fits(config, &plan)) { plan.slots--; }
    if (plan.rows < plan.slots) { plan.rows = plan.slots; }
    return plan;
}

// ---------------------------------------------------------------------------------------------
// the work of a slot

typedef struct {
    bool works;           // on a document
    bool begun;           // on a request: its beginning is in the slot
    size_t document, at;  // the document; the tokens of the request that the slot holds
    Request *request;
} LikelihoodWorker;

typedef struct {
    RequestFile *file;
    Slots slots;                // the workers' and the keeper's
    LikelihoodWorker *workers;  // (plan.slots)
    size_t worker_count;
    bool keeps;

    size_t next, reported;  // documents: the next to begin, those reported to the caller
    bool *scored;           // (document_count)

    OLMo2Piece *pieces;     // (plan.slots) of the next forward
    uint32_t *tokens;       // (plan.rows)
    uint32_t *labels;       // (plan.rows)
    float *logprobs, *lse;  // (plan.rows)
    size_t piece_count, row_count, label_count;
    size_t turn;  // the worker whose piece comes first
} Likelihood;

static inline void likelihood_close(Likelihood *l) {
    slots_close(&l->slots);
    free(l->workers);
    free(l->scored);
    free(l->pieces);
    free(l->tokens);
    free(l->labels);
    free(l->logprobs);
    free(l->lse);
}

static inline bool likelihood_open(Likelihood *l, OLMo2 *m, const LikelihoodPlan *plan, RequestFile *f,
                                   size_t begin, Error *err) {
    const char *what = "the tokens of evaluation requests";
    const size_t slots = plan->slots + plan->keeps, rows = plan->rows;
    memset(l, 0, sizeof *l);
    l->file = f;
    l->worker_count = plan->slots;
    l->keeps = plan->keeps;
    l->next = l->reported = begin;
    if (!slots_open(&l->slots, m, slots, plan->cache_T, rows, err)) { return false; }
    l->workers = (LikelihoodWorker *)allocate(plan->slots, sizeof *l->workers, what, err);
    l->scored = (bool *)allocate(f->document_count, sizeof *l->scored, what, err);
    l->pieces = (OLMo2Piece *)allocate(plan->slots, sizeof *l->pieces, what, err);
    l->tokens = (uint32_t *)allocate(rows, sizeof *l->tokens, what, err);
    l->labels = (uint32_t *)allocate(rows, sizeof *l->labels, what, err);
    l->logprobs = (float *)allocate(rows, sizeof *l->logprobs, what, err);
    l->lse = (float *)allocate(rows, sizeof *l->lse, what, err);
    return l->workers != NULL && l->scored != NULL && l->pieces != NULL && l->tokens != NULL &&
           l->labels != NULL && l->logprobs != NULL && l->lse != NULL;
}

static inline const uint32_t *request_ids(const RequestFile *f, const Request *r) { return f->ids + r->ids; }

// How many tokens two requests begin with alike, of at most `most`.
static inline size_t requests_shared(const RequestFile *f, const Request *a, const Request *b, size_t most) {
    const uint32_t *x = request_ids(f, a), *y = request_ids(f, b);
    size_t shared = 0;
    if (a->length < most) { most = a->length; }
    if (b->length < most) { most = b->length; }
    while (shared < most && x[shared] == y[shared]) { shared++; }
    return shared;
}

// The tokens of a request that a cache may already hold. The last token of the context must be computed,
// because its row predicts the continuation's first.
static inline size_t request_reusable(const Request *r) { return r->length - r->scored - 1; }

// Whether another slot is about to compute much of this request's beginning: then it is better to wait.
static inline bool likelihood_waits(const Likelihood *l, const Request *r) {
    enum { WORTH_WAITING = 16 };
    const uint32_t *ids = request_ids(l->file, r);
    const size_t most = request_reusable(r);
    size_t held = 0;
    for (size_t slot = 0; slot < l->slots.count; slot++) {
        const size_t shared = slots_shared(&l->slots, slot, ids, most);
        if (shared > held) { held = shared; }
    }
    for (size_t i = 0; i < l->worker_count; i++) {
        const LikelihoodWorker *other = &l->workers[i];
        if (!other->begun || other->request == r) { continue; }
        if (requests_shared(l->file, r, other->request, most) > held + WORTH_WAITING) { return true; }
    }
    return false;
}

// Unconditional requests overwrite the slot. Before that, the keeper takes what the next document begins with.
static inline void likelihood_keep(Likelihood *l, size_t document) {
    const RequestFile *f = l->file;
    if (!l->keeps || document + 1 >= f->document_count) { return; }
    const Request *r = &f->requests[f->documents[document].first],
                  *next = &f->requests[f->documents[document + 1].first];
    slots_reuse(&l->slots, l->worker_count, request_ids(f, r), requests_shared(f, r, next, SIZE_MAX));
}

// Gives an idle slot the next document, and prepares the slot for its next request.
static inline void likelihood_begin(Likelihood *l, size_t slot) {
    LikelihoodWorker *w = &l->workers[slot];
    const RequestFile *f = l->file;
    if (!w->works && l->next < f->document_count) {
        w->works = true;
        w->document = l->next++;
        w->request = &l->file->requests[f->documents[w->document].first];
    }
    if (!w->works || w->begun || likelihood_waits(l, w->request)) { return; }
    if (w->request->unconditional && w->request->idx == 0) { likelihood_keep(l, w->document); }
    w->request->logprob = 0.0;
    w->at = slots_reuse(&l->slots, slot, request_ids(f, w->request), request_reusable(w->request));
    w->begun = true;
}

// Appends as many tokens of the slot's request as there is room for.
static inline void likelihood_add_piece(Likelihood *l, size_t slot) {
    const LikelihoodWorker *w = &l->workers[slot];
    const Request *r = w->request;
    const uint32_t *ids = request_ids(l->file, r);
    const size_t left = r->length - 1 - w->at, room = l->slots.rows - l->row_count;
    const OLMo2Piece piece = {slot, left < room ? left : room};
    for (size_t i = 0; i < piece.count; i++) {
        const size_t next = w->at + i + 1;  // the row of a token predicts the next one
        const bool is_scored = next >= r->length - r->scored;
        l->tokens[l->row_count + i] = ids[next - 1];
        l->labels[l->row_count + i] = is_scored ? ids[next] : OLMO2_NO_TOKEN;
        l->label_count += is_scored;
    }
    l->pieces[l->piece_count++] = piece;
    l->row_count += piece.count;
}

// Adds up what the rows of a piece say of its request.
static inline bool likelihood_add_up(Likelihood *l, const OLMo2Piece *piece, size_t row, Error *err) {
    LikelihoodWorker *w = &l->workers[piece->slot];
    const RequestDocument *d = &l->file->documents[w->document];
    Request *r = w->request;
    for (size_t i = row; i < row + piece->count; i++) {
        if (l->labels[i] != OLMO2_NO_TOKEN) { r->logprob += (double)l->logprobs[i]; }
    }
    w->at += piece->count;
    if (w->at + 1 < r->length) { return true; }
    if (!isfinite(r->logprob)) {
        return fail(err,
                    "%s line %zu: the log-likelihood of its continuation is %s: the model's weights are "
                    "damaged, or its training diverged",
                    l->file->path, r->line, isnan(r->logprob) ? "nan" : "infinite");
    }
    w->begun = false;
    w->request++;
    w->works = w->request < &l->file->requests[d->first + d->choices + d->unconditional];
    l->scored[w->document] = !w->works;
    return true;
}

// One forward for all slots. A piece that did not fit comes first in the next one.
static inline bool likelihood_step(Likelihood *l, Error *err) {
    const size_t first = l->turn;
    l->piece_count = l->row_count = l->label_count = 0;
    for (size_t i = 0; i < l->worker_count && l->row_count < l->slots.rows; i++) {
        const size_t slot = (first + i) % l->worker_count;
        l->turn = slot;
        likelihood_begin(l, slot);
        if (l->workers[slot].begun) { likelihood_add_piece(l, slot); }
    }
    slots_extend(&l->slots, l->tokens, l->pieces, l->piece_count);
    if (l->label_count > 0) { olmo2_classify(l->slots.m, l->labels, NULL, 0.0f, l->logprobs, l->lse); }
    for (size_t i = 0, row = 0; i < l->piece_count; row += l->pieces[i++].count) {
        if (!likelihood_add_up(l, &l->pieces[i], row, err)) { return false; }
    }
    return true;
}

static inline bool likelihood_run(Likelihood *l, const volatile sig_atomic_t *stop, LikelihoodDone *done,
                                  void *context, Error *err) {
    while (l->reported < l->file->document_count) {
        if (stop != NULL && *stop) { return true; }
        if (!likelihood_step(l, err)) { return false; }
        while (l->reported < l->file->document_count && l->scored[l->reported]) {
            if (!done(context, l->file, l->reported++, err)) { return false; }
        }
    }
    return true;
}

static inline bool likelihood_score(OLMo2 *m, const LikelihoodPlan *plan, RequestFile *f, size_t begin,
                                    const volatile sig_atomic_t *stop, LikelihoodDone *done, void *context,
                                    Error *err) {
    Likelihood l;
    bool ok = likelihood_open(&l, m, plan, f, begin, err) && likelihood_run(&l, stop, done, context, err);
    likelihood_close(&l);
    return ok;
}

#endif
