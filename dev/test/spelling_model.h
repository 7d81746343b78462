// spelling_model.h: a backend without mathematics, for the tests of what makes sequences grow. A slot's cache
// holds the tokens themselves, and the logits of a row are a function of all tokens up to it: a hash, or what
// the test says. So a wrong cache gives wrong logits. It checks the contract of olmo2.h at every call.
#ifndef DEV_TEST_SPELLING_MODEL_H
#define DEV_TEST_SPELLING_MODEL_H

#include "check.h"
#include "llmc/olmo2.h"

enum { SPELLING_SLOTS = 8, SPELLING_T = 64, SPELLING_ROWS = 64 };

struct OLMo2 {
    OLMo2Config config;
    OLMo2Room room;
    uint32_t cache[SPELLING_SLOTS][SPELLING_T];
    size_t positions[SPELLING_SLOTS];
    uint32_t rows[SPELLING_ROWS][SPELLING_T];  // of the last prefill: the tokens up to each row
    size_t row_lengths[SPELLING_ROWS], row_count;
    size_t computed;  // tokens that were prefilled so far
    size_t calls;     // of olmo2_prefill
    void (*spell)(const uint32_t *ids, size_t length, float *logits, size_t V);
};

// Logits between -4 and 4 that depend on every token and on its place.
static inline void spell_hash(const uint32_t *ids, size_t length, float *logits, size_t V) {
    uint64_t hash = 0xCBF29CE484222325u;
    for (size_t i = 0; i < length; i++) { hash = (hash ^ (ids[i] + 1)) * 0x100000001B3u; }
    for (size_t v = 0; v < V; v++) {
        hash = hash * 6364136223846793005u + 1442695040888963407u;
        logits[v] = (float)(hash >> 40) / (float)(1 << 21) - 4.0f;
    }
}

static inline OLMo2 spelling_model(size_t V, size_t slots, size_t cache_T, size_t rows) {
    OLMo2 m;
    memset(&m, 0, sizeof m);
    CHECK(olmo2_preset(&m.config, "14M"));
    m.config.V = V;
    m.config.max_T = cache_T;
    m.config.eos = OLMO2_NO_TOKEN;
    m.room = olmo2_room_to_extend(slots, cache_T, rows);
    m.spell = spell_hash;
    CHECK(slots <= SPELLING_SLOTS && cache_T <= SPELLING_T && m.room.rows <= SPELLING_ROWS);
    for (size_t slot = 0; slot < slots; slot++) { m.positions[slot] = cache_T; }  // as another user left them
    return m;
}

const OLMo2Config *olmo2_config(const OLMo2 *m) { return &m->config; }

void olmo2_prefill(OLMo2 *m, const uint32_t *tokens, const OLMo2Piece *pieces, size_t n) {
    bool seen[SPELLING_SLOTS] = {false};
    m->row_count = 0;
    m->calls++;
    CHECK(n > 0);
    for (size_t i = 0; i < n; i++) {
        const size_t slot = pieces[i].slot;
        CHECK(slot < m->room.slots && !seen[slot] && pieces[i].count > 0);
        seen[slot] = true;
        for (size_t t = 0; t < pieces[i].count; t++) {
            if (!CHECK(m->positions[slot] < m->room.cache_T && m->row_count < m->room.rows)) { return; }
            CHECK(*tokens < m->config.V);
            m->cache[slot][m->positions[slot]++] = *tokens++;
            memcpy(m->rows[m->row_count], m->cache[slot], sizeof m->cache[slot]);
            m->row_lengths[m->row_count++] = m->positions[slot];
            m->computed++;
        }
    }
}

void olmo2_logits(OLMo2 *m, const size_t *rows, size_t n, float *logits) {
    CHECK(n > 0 && n <= m->room.slots);
    for (size_t i = 0; i < n; i++) {
        if (!CHECK(rows[i] < m->row_count)) { return; }
        m->spell(m->rows[rows[i]], m->row_lengths[rows[i]], logits + i * m->config.V, m->config.V);
    }
}

size_t olmo2_positions(const OLMo2 *m, size_t slot) { return m->positions[slot]; }

void olmo2_truncate(OLMo2 *m, size_t slot, size_t positions) {
    CHECK(slot < m->room.slots && positions <= m->positions[slot]);
    m->positions[slot] = positions;
}

void olmo2_copy_slot(OLMo2 *m, size_t to, size_t from, size_t begin, size_t end) {
    CHECK(to < m->room.slots && from < m->room.slots && to != from);
    CHECK(begin <= end && end <= m->positions[from] && begin <= m->positions[to]);
    CHECK(memcmp(m->cache[to], m->cache[from], begin * sizeof(uint32_t)) == 0);
    memcpy(m->cache[to] + begin, m->cache[from] + begin, (end - begin) * sizeof(uint32_t));
    m->positions[to] = end;
}

#endif
