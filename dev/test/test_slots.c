// test_slots.c: what a slot holds is what Slots says, and a known beginning is never computed twice.
#include "llmc/slots.h"

#include "llmc/rand.h"
#include "spelling_model.h"

enum { V = 4, SLOTS = 5, LENGTH = 24, ROWS = 16 };

static Error err;

static void check_books(const Slots *s, const OLMo2 *m) {
    for (size_t slot = 0; slot < SLOTS; slot++) {
        CHECK(s->lengths[slot] == m->positions[slot]);
        CHECK(memcmp(s->ids + slot * s->cache_T, m->cache[slot], s->lengths[slot] * sizeof *s->ids) == 0);
    }
}

static void test_reuse(void) {
    OLMo2 m = spelling_model(V, SLOTS, LENGTH, ROWS);
    Slots s;
    const uint32_t prompt[] = {0, 1, 2, 3, 0, 1}, other[] = {0, 1, 2, 0, 0, 0};
    const OLMo2Piece whole = {2, 6};
    CHECK(slots_open(&s, &m, SLOTS, LENGTH, ROWS, &err));
    check_books(&s, &m);
    CHECK(slots_reuse(&s, 0, prompt, 6) == 0);
    slots_extend(&s, prompt, &whole, 1);
    CHECK(slots_shared(&s, 2, prompt, 6) == 6 && slots_shared(&s, 2, other, 6) == 3);
    CHECK(slots_shared(&s, 2, prompt, 4) == 4 && slots_shared(&s, 1, prompt, 6) == 0);
    CHECK(slots_reuse(&s, 4, other, 6) == 3 && s.lengths[4] == 3 && s.lengths[2] == 6);  // copied
    CHECK(slots_reuse(&s, 4, prompt, 5) == 5 && s.lengths[4] == 5);                      // its second part
    CHECK(slots_reuse(&s, 4, other, 6) == 3 && s.lengths[4] == 3);                       // truncated
    CHECK(slots_reuse(&s, 2, prompt, 5) == 5 && s.lengths[2] == 5);
    check_books(&s, &m);
    CHECK(m.computed == 6);
    slots_forget(&s);
    check_books(&s, &m);
    CHECK(slots_reuse(&s, 2, prompt, 6) == 0);
    slots_close(&s);
}

// Random sequences over few tokens, so many begin alike: every one ends up in its slot, whatever the slots
// held before, and what any slot held is not computed.
static void test_random(void) {
    OLMo2 m = spelling_model(V, SLOTS, LENGTH, ROWS);
    Slots s;
    Pcg64 rng;
    pcg64_seed(&rng, 3);
    CHECK(slots_open(&s, &m, SLOTS, LENGTH, ROWS, &err));
    for (size_t round = 0; round < 2000; round++) {
        uint32_t ids[LENGTH];
        const size_t length = 1 + pcg64_bounded(&rng, LENGTH - 1), slot = pcg64_bounded(&rng, SLOTS - 1);
        for (size_t i = 0; i < length; i++) { ids[i] = pcg64_bounded(&rng, 5) == 0 ? 1 : 0; }
        size_t longest = 0;
        for (size_t other = 0; other < SLOTS; other++) {
            const size_t shared = slots_shared(&s, other, ids, length);
            longest = shared > longest ? shared : longest;
        }
        CHECK(slots_reuse(&s, slot, ids, length) == longest);
        for (size_t at = longest; at < length;) {
            const size_t count = length - at < ROWS ? length - at : ROWS;
            const OLMo2Piece piece = {slot, count};
            slots_extend(&s, ids + at, &piece, 1);
            at += count;
        }
        CHECK(m.positions[slot] == length && memcmp(m.cache[slot], ids, length * sizeof *ids) == 0);
        check_books(&s, &m);
    }
    slots_close(&s);
}

int main(void) {
    test_reuse();
    test_random();
    return check_report();
}
