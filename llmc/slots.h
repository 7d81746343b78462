// slots.h: the caches of a model's slots, and which tokens each of them holds.
//
// A cache holds the keys and values of a sequence's tokens (olmo2.h). A sequence that begins like one that a
// slot holds need not compute that beginning again: a chat's next turn, a second sample of a prompt, the next
// question behind the same examples.
//
//   slots_open, slots_close
//   slots_shared     how much of a sequence a slot holds
//   slots_reuse      gives a slot the longest beginning of a sequence that any slot holds
//   slots_extend     computes tokens and appends them to their slots
//   slots_forget     empties all slots: after the model's weights have changed
//
// Use these functions, not olmo2_prefill, _decode, _truncate and _copy_slot: those do not tell Slots.
#ifndef LLMC_SLOTS_H
#define LLMC_SLOTS_H

#include "olmo2.h"

typedef struct {
    OLMo2 *m;         // the caller's
    size_t count;     // slots
    size_t cache_T;   // positions of each
    size_t rows;      // most tokens of one slots_extend
    uint32_t *ids;    // (count, cache_T): the tokens that each slot holds
    size_t *lengths;  // (count): how many
} Slots;

// Takes over the slots of a model, all of them empty. count, cache_T and rows are those of its room, or less.
// Release with slots_close before the model is freed; a failure leaves nothing to release.
static inline bool slots_open(Slots *s, OLMo2 *m, size_t count, size_t cache_T, size_t rows, Error *err);
static inline void slots_close(Slots *s);

static inline void slots_forget(Slots *s);

// How many of the tokens ids (length) the slot's sequence begins with.
static inline size_t slots_shared(const Slots *s, size_t slot, const uint32_t *ids, size_t length);

// Makes `slot` hold the longest beginning of ids (length) that any slot holds, and returns its length. The
// other slots stay as they are. A caller that needs logits asks for one token less than it has: the last one
// must be computed.
static inline size_t slots_reuse(Slots *s, size_t slot, const uint32_t *ids, size_t length);

// olmo2_prefill. The rows that it leaves in the model are in the order of `tokens`.
static inline void slots_extend(Slots *s, const uint32_t *tokens, const OLMo2Piece *pieces, size_t n);

// ---------------------------------------------------------------------------------------------

static inline bool slots_open(Slots *s, OLMo2 *m, size_t count, size_t cache_T, size_t rows, Error *err) {
    memset(s, 0, sizeof *s);
    size_t ids;
    if (!multiply_sizes(count, cache_T, &ids)) { return fail(err, "out of memory: the tokens of the slots"); }
    s->m = m;
    s->count = count;
    s->cache_T = cache_T;
    s->rows = rows;
    s->ids = (uint32_t *)allocate(ids, sizeof *s->ids, "the tokens of the slots", err);
    s->lengths = s->ids == NULL ? NULL : (size_t *)allocate(count, sizeof *s->lengths, "the slots", err);
    if (s->lengths == NULL) {
        slots_close(s);
        return false;
    }
    slots_forget(s);
    return true;
}

static inline void slots_close(Slots *s) {
    free(s->ids);
    free(s->lengths);
    memset(s, 0, sizeof *s);
}

static inline void slots_forget(Slots *s) {
    for (size_t slot = 0; slot < s->count; slot++) {
        olmo2_truncate(s->m, slot, 0);
        s->lengths[slot] = 0;
    }
}

static inline size_t slots_shared(const Slots *s, size_t slot, const uint32_t *ids, size_t length) {
    const uint32_t *held = s->ids + slot * s->cache_T;
    const size_t most = s->lengths[slot] < length ? s->lengths[slot] : length;
    size_t shared = 0;
    while (shared < most && held[shared] == ids[shared]) { shared++; }
    return shared;
}

static inline size_t slots_reuse(Slots *s, size_t slot, const uint32_t *ids, size_t length) {
    const size_t own = slots_shared(s, slot, ids, length);
    size_t longest = own, from = slot;
    for (size_t other = 0; other < s->count; other++) {
        const size_t shared = slots_shared(s, other, ids, length);
        if (shared > longest) { longest = shared, from = other; }
    }
    if (from == slot) {
        if (s->lengths[slot] > own) { olmo2_truncate(s->m, slot, own); }
    } else {
        olmo2_copy_slot(s->m, slot, from, own, longest);
        memcpy(s->ids + slot * s->cache_T, ids, longest * sizeof *ids);
    }
    s->lengths[slot] = longest;
    return longest;
}

static inline void slots_extend(Slots *s, const uint32_t *tokens, const OLMo2Piece *pieces, size_t n) {
    const uint32_t *from = tokens;
    for (size_t i = 0; i < n; i++) {
        const size_t slot = pieces[i].slot, count = pieces[i].count;
        assert(slot < s->count && count > 0 && s->lengths[slot] + count <= s->cache_T);
        memcpy(s->ids + slot * s->cache_T + s->lengths[slot], from, count * sizeof *from);
        s->lengths[slot] += count;
        from += count;
    }
    assert((size_t)(from - tokens) <= s->rows);
    olmo2_prefill(s->m, tokens, pieces, n);
}

#endif
