// order.h: n instances, numbered from 0, in the order in which a run takes them. An instance may be a
// sequence of a token file, a preference pair or a prompt.
//
// An epoch takes the instances in the order of NumPy's Generator(PCG64(seed + epoch)).shuffle, as OLMo does;
// epochs count from 0. It takes whole batches only and leaves out the rest at its end.
#ifndef LLMC_ORDER_H
#define LLMC_ORDER_H

#include "json.h"
#include "rand.h"

// The place in the order: all that a checkpoint keeps of it.
typedef struct {
    uint64_t seed, epoch;
    uint64_t position;   // instances taken in this epoch
    uint64_t instances;  // of an epoch, to notice that the data has changed
} OrderState;

typedef struct {
    OrderState state;
    size_t batch;        // instances of an optimizer step
    uint32_t *shuffled;  // (instances) the order of this epoch; NULL for 0, 1, 2, ...
} Order;

// Starts at epoch 0. There must be at least one whole batch of instances. Release with order_free.
static inline bool order_create(Order *o, size_t instances, size_t batch, bool shuffle, uint64_t seed,
                                Error *err);
static inline void order_free(Order *o);

// The number of the next instance. When no whole batch is left, the next epoch begins.
static inline size_t order_next(Order *o);

// Moves to a saved place: the next instance is the one that would have followed there. Fails, and stays where
// it is, if the number of instances has changed. `what` begins the message: the name of a file, say.
static inline bool order_restore(Order *o, const OrderState *saved, const char *what, Error *err);

// The same for changed data that the user has accepted. Moves to the saved place if there are as many
// instances as before, otherwise to the start of the next epoch.
static inline void order_continue(Order *o, const OrderState *saved);

// A place as JSON, an object of four numbers. `saved` may be NULL, which is an error.
static inline void order_write(JsonWriter *w, const char *key, const OrderState *state);
static inline bool order_read(OrderState *state, const Json *saved, const char *source, Error *err);

// ---------------------------------------------------------------------------------------------

static inline void order_shuffle(Order *o) {
    if (o->shuffled == NULL) { return; }
    Pcg64 rng;
    for (size_t i = 0; i < o->state.instances; i++) { o->shuffled[i] = (uint32_t)i; }
    pcg64_seed(&rng, o->state.seed + o->state.epoch);
    pcg64_shuffle(&rng, o->shuffled, (size_t)o->state.instances);
}

static inline void order_go_to(Order *o, uint64_t seed, uint64_t epoch, uint64_t position) {
    o->state.seed = seed;
    o->state.epoch = epoch;
    o->state.position = position;
    order_shuffle(o);
}

static inline bool order_create(Order *o, size_t instances, size_t batch, bool shuffle, uint64_t seed,
                                Error *err) {
    memset(o, 0, sizeof *o);
    if (batch == 0 || instances < batch) {
        return fail(err, "%zu instances in batches of %zu, expected at least one whole batch", instances,
                    batch);
    }
    if (shuffle && instances > UINT32_MAX) {
        return fail(err,
                    "%zu instances cannot be shuffled: the shuffle numbers them in 32 bits, as NumPy's does",
                    instances);
    }
    if (shuffle) {
        o->shuffled =
            (uint32_t *)allocate(instances, sizeof *o->shuffled, "the shuffled order of an epoch", err);
        if (o->shuffled == NULL) { return false; }
    }
    o->batch = batch;
    o->state.instances = instances;
    order_go_to(o, seed, 0, 0);
    return true;
}

static inline void order_free(Order *o) {
    free(o->shuffled);
    o->shuffled = NULL;
}

static inline size_t order_next(Order *o) {
    if (o->state.position >= o->state.instances - o->state.instances % o->batch) {
        order_go_to(o, o->state.seed, o->state.epoch + 1, 0);
    }
    const size_t position = (size_t)o->state.position++;
    return o->shuffled == NULL ? position : o->shuffled[position];
}

static inline bool order_restore(Order *o, const OrderState *saved, const char *what, Error *err) {
    if (saved->instances != o->state.instances || saved->position > saved->instances) {
        return fail(err,
                    "%s: the saved run was at instance %zu of %zu, there are %zu now: the data or the "
                    "sequence length has changed since; give the data of that run, or start a new run",
                    what, (size_t)saved->position, (size_t)saved->instances, (size_t)o->state.instances);
    }
    order_go_to(o, saved->seed, saved->epoch, saved->position);
    return true;
}

static inline void order_continue(Order *o, const OrderState *saved) {
    if (saved->instances == o->state.instances && saved->position <= saved->instances) {
        order_go_to(o, saved->seed, saved->epoch, saved->position);
    } else {
        order_go_to(o, saved->seed, saved->epoch + (saved->position > 0), 0);
    }
}

static inline void order_write(JsonWriter *w, const char *key, const OrderState *state) {
    json_begin_object(w, key);
    json_integer(w, "seed", (int64_t)state->seed);
    json_integer(w, "epoch", (int64_t)state->epoch);
    json_integer(w, "position", (int64_t)state->position);
    json_integer(w, "instances", (int64_t)state->instances);
    json_end_object(w);
}

static inline bool order_read(OrderState *state, const Json *saved, const char *source, Error *err) {
    size_t seed, epoch, position, instances;
    if (!json_get_size(saved, "seed", true, &seed, source, err)) { return false; }
    if (!json_get_size(saved, "epoch", true, &epoch, source, err)) { return false; }
    if (!json_get_size(saved, "position", true, &position, source, err)) { return false; }
    if (!json_get_size(saved, "instances", true, &instances, source, err)) { return false; }
    state->seed = seed;
    state->epoch = epoch;
    state->position = position;
    state->instances = instances;
    return true;
}

#endif
