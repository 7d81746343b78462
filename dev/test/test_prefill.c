// test_prefill.c: what must be equal in the CPU backend when a model is used. However sequences are cut
// into pieces and spread over slots, prefill and decoding give the bits of the forward, for head sizes that
// are not powers of two, NKV < NH, NH*HS != C, T from 1 up, and both ablations. Weights in bf16 and lent
// weights give the bits of a copy in fp32. Rows without a label need not be computed.
#include "check.h"
#include "small_cpu_model.h"

// A model with room for a forward of two sequences and for four slots, the forward's final norm (2, length,
// C), and its logits at the last position of each.
typedef struct {
    OLMo2 *m;
    size_t length, C, V;
    uint32_t *tokens;                      // (2, length)
    float *hidden, *last, *logits, *rows;  // (2, length, C), (2, V), (4, V), (2, length, C)
} Sequences;

static float *floats(size_t size) {
    float *x = (float *)malloc(size * sizeof *x);
    if (x == NULL) { abort(); }
    return x;
}

static Sequences sequences_of(const OLMo2Config *config, size_t length, bool train) {
    const OLMo2Room room = {
        .B = 2, .T = length, .train = train, .slots = 4, .cache_T = length + 3, .rows = 2 * length};
    Sequences s = {new_model(config, &room), length, config->C, config->V, NULL, NULL, NULL, NULL, NULL};
    s.tokens = (uint32_t *)malloc(2 * length * sizeof *s.tokens);
    s.hidden = floats(2 * length * s.C), s.rows = floats(2 * length * s.C);
    s.last = floats(2 * s.V), s.logits = floats(4 * s.V);
    random_state = 13;
    for (size_t n = 0; n < 2 * length; n++) { s.tokens[n] = random_below((uint32_t)s.V); }
    olmo2_forward(s.m, s.tokens, 2, length);
    memcpy(s.hidden, s.m->activations.hidden, 2 * length * s.C * sizeof *s.hidden);
    olmo2_logits(s.m, (const size_t[]){length - 1, 2 * length - 1}, 2, s.last);
    return s;
}

static void sequences_free(Sequences *s) {
    olmo2_free(s->m);
    free(s->tokens);
    free(s->hidden);
    free(s->last);
    free(s->logits);
    free(s->rows);
}

// Whether the last forward's rows are `count` rows of sequence b from `position` on, beginning at `row`.
static bool same_rows(const Sequences *s, size_t row, size_t b, size_t position, size_t count) {
    return memcmp(s->m->activations.hidden + row * s->C, s->hidden + (b * s->length + position) * s->C,
                  count * s->C * sizeof(float)) == 0;
}

static bool extend(const Sequences *s, size_t slot, size_t b, size_t count) {
    const size_t position = olmo2_positions(s->m, slot);
    const OLMo2Piece piece = {slot, count};
    olmo2_prefill(s->m, s->tokens + b * s->length + position, &piece, 1);
    return olmo2_positions(s->m, slot) == position + count && same_rows(s, 0, b, position, count);
}

// The sequence b in `slot`, whole, then split in two at every `step`-th position.
static bool splits(const Sequences *s, size_t slot, size_t b, size_t step) {
    bool same = extend(s, slot, b, s->length);
    for (size_t t = step; t < s->length; t += step) {
        olmo2_truncate(s->m, slot, 0);
        same = extend(s, slot, b, t) && extend(s, slot, b, s->length - t) && same;
    }
    return same;
}

// Both sequences by random pieces, side by side or alone, in slots 3 and 1.
static bool random_pieces(const Sequences *s) {
    const size_t slots[] = {3, 1};
    uint32_t *tokens = (uint32_t *)malloc(2 * s->length * sizeof *tokens);
    bool same = true;
    for (size_t b = 0; b < 2; b++) { olmo2_truncate(s->m, slots[b], 0); }
    for (size_t done = 0; done < 2 * s->length;) {
        const uint32_t first = random_below(2);
        OLMo2Piece pieces[2];
        size_t n = 0, rows = 0, from[2], sequence[2];
        for (uint32_t i = 0; i < 2; i++) {
            const size_t b = (first + i) % 2, position = olmo2_positions(s->m, slots[b]);
            const size_t most = random_below(3) == 0 ? 1 : s->length / 3 + 1;
            const size_t left = s->length - position, count = random_below((uint32_t)most + 1);
            if (count == 0 || left == 0) { continue; }
            sequence[n] = b, from[n] = position;
            pieces[n] = (OLMo2Piece){slots[b], count < left ? count : left};
            memcpy(tokens + rows, s->tokens + b * s->length + position, pieces[n].count * sizeof *tokens);
            rows += pieces[n++].count;
        }
        if (n == 0) { continue; }
        olmo2_prefill(s->m, tokens, pieces, n);
        for (size_t i = 0, row = 0; i < n; row += pieces[i++].count) {
            same = same_rows(s, row, sequence[i], from[i], pieces[i].count) && same;
        }
        done += rows;
    }
    free(tokens);
    return same;
}

// Token by token, both sequences at once, from position `begin` on in slots 2 and 0.
static bool decodes(const Sequences *s, size_t begin) {
    const size_t slots[] = {2, 0};
    bool same = true;
    for (size_t t = begin; t < s->length; t++) {
        const uint32_t tokens[] = {s->tokens[t], s->tokens[s->length + t]};
        olmo2_decode(s->m, tokens, slots, 2, s->logits);
        same = same_rows(s, 0, 0, t, 1) && same_rows(s, 1, 1, t, 1) && same;
    }
    return memcmp(s->logits, s->last, 2 * s->V * sizeof(float)) == 0 && same;
}

// Two sequences in slots of a cache: whole, split, side by side in either order, token by token, after a slot
// was truncated or copied. All give the bits of olmo2_forward, for every shape and ablation (study: 1 without
// QK-norm, 2 pre-norm, 3 both).
static void test_prefill(size_t C, size_t NH, size_t NKV, size_t HS, size_t length, size_t step, int study) {
    OLMo2Config config = small_config(C, NH, NKV, HS);
    config.ablate_qk_norm = (study & 1) != 0;
    config.pre_norm = (study & 2) != 0;
    const Sequences s = sequences_of(&config, length, study == 0);
    OLMo2 *m = s.m;
    const size_t half = length > 200 ? length - 20 : length / 2;
    printf("prefill C %zu NH %zu NKV %zu HS %zu T %zu, study %d\n", C, NH, NKV, HS, length, study);
    CHECK(splits(&s, 3, 1, step));
    for (int round = 0; round < 4; round++) { CHECK(random_pieces(&s)); }
    // slot 3 now holds sequence 0, slot 1 sequence 1
    olmo2_copy_slot(m, 2, 3, 0, half);
    olmo2_copy_slot(m, 0, 1, 0, length);
    olmo2_truncate(m, 0, half);
    CHECK(olmo2_positions(m, 2) == half && olmo2_positions(m, 0) == half);
    CHECK(decodes(&s, half));
    // a prefix that is in place already, and the rest from elsewhere
    olmo2_truncate(m, 0, 0);
    CHECK(half == 0 || extend(&s, 0, 0, half));
    olmo2_copy_slot(m, 0, 2, half, length - 1);
    CHECK(olmo2_positions(m, 0) == length - 1 && extend(&s, 0, 0, 1));
    // what follows the same prefix in two ways
    olmo2_truncate(m, 1, half);
    CHECK(extend(&s, 1, 1, length - half));
    if (length <= 200) {  // token by token from the first on
        olmo2_truncate(m, 2, 0);
        olmo2_truncate(m, 0, 0);
        CHECK(decodes(&s, 0));
    }
    // and the forward beside it is what it was
    olmo2_forward(m, s.tokens, 2, length);
    CHECK(same_rows(&s, 0, 0, 0, length) && same_rows(&s, length, 1, 0, length));
    sequences_free((Sequences *)&s);
}

// Products of bf16 keep the bits, too: pairs of positions are the same in every tile.
static void test_prefill_of_bf16_products(void) {
    if (!GEMM_HAS_BF16) {
        printf("skipped: prefill with products of bf16 (not built for AVX512-BF16)\n");
        return;
    }
    const OLMo2Config config = small_config(40, 6, 2, 12);
    Sequences s = sequences_of(&config, 300, false);
    s.m->form.bf16_products = true;
    olmo2_forward(s.m, s.tokens, 2, s.length);
    memcpy(s.hidden, s.m->activations.hidden, 2 * s.length * s.C * sizeof *s.hidden);
    CHECK(splits(&s, 3, 1, 137));
    CHECK(random_pieces(&s));
    sequences_free(&s);
}

// ---------------------------------------------------------------------------------------------

// A copy of m's parameters in bf16, rounded, for form.lent_weights; m gets the rounded values in fp32. The
// arrays begin at odd addresses, as a tensor in a file may.
static char **bf16_copy(OLMo2 *m) {
    char **copies = (char **)calloc(parameter_count(&m->config), sizeof *copies);
    for (size_t i = 0; i < parameter_count(&m->config); i++) {
        const Parameter p = parameter_at(&m->config, i);
        if (!parameter_is_matrix(&p)) { continue; }
        copies[i] = (char *)malloc(p.size * sizeof(uint16_t) + 1);
        for (size_t k = 0; k < p.size; k++) {
            const uint16_t half = (uint16_t)gemm_round_to_bf16(m->weights[p.offset + k]);
            memcpy(copies[i] + 1 + k * sizeof half, &half, sizeof half);
            m->weights[p.offset + k] = gemm_element(&half, 0, true);
        }
    }
    return copies;
}

// What two forwards, one of them with a cache, leave: the final norm, logits, log-probabilities.
enum { PRODUCED = 20 };

static void produce(OLMo2 *m, float *out) {
    const size_t C = m->config.C, V = m->config.V;
    const OLMo2Piece pieces[] = {{1, PRODUCED / 2}, {0, PRODUCED / 2}};
    uint32_t tokens[PRODUCED + 1], labels[PRODUCED];
    random_state = 11;
    for (size_t n = 0; n <= PRODUCED; n++) { tokens[n] = random_below((uint32_t)V); }
    for (size_t n = 0; n < PRODUCED; n++) { labels[n] = n % 3 == 1 ? OLMO2_NO_TOKEN : tokens[n + 1]; }
    olmo2_forward(m, tokens, 2, PRODUCED / 2);
    memcpy(out, m->activations.hidden, PRODUCED * C * sizeof(float));
    out += PRODUCED * C;
    olmo2_classify(m, labels, NULL, 0.0f, out, out + PRODUCED);
    out += 2 * PRODUCED;
    olmo2_truncate(m, 0, 0);
    olmo2_truncate(m, 1, 0);
    olmo2_prefill(m, tokens, pieces, 2);
    olmo2_logits(m, (const size_t[]){13, 2}, 2, out);
    olmo2_decode(m, tokens, (const size_t[]){0, 1}, 2, out + 2 * V);
}

// Weights in bf16, the model's own or lent, and lent fp32 weights give the bits of the same numbers in fp32.
static void test_weights(bool pre_norm, size_t F) {
    OLMo2Config config = small_config(40, 6, 2, 12);
    config.F = F;
    config.pre_norm = pre_norm;
    const OLMo2Room room = {.B = 2, .T = PRODUCED / 2, .slots = 2, .cache_T = PRODUCED, .rows = PRODUCED};
    const size_t size = PRODUCED * config.C + 2 * PRODUCED + 4 * config.V;
    OLMo2 *plain = new_model(&config, &room);
    float *expected = floats(size), *got = floats(size), *values = floats(parameter_largest(&config));
    produce(plain, expected);
    float *rounded = floats(size);
    char **copies = bf16_copy(plain);
    produce(plain, rounded);
    CHECK(memcmp(expected, rounded, size * sizeof(float)) != 0);
    for (int form_of = 0; form_of < 3; form_of++) {
        OLMo2Form form = olmo2_form();
        form.weights = form_of < 2 ? WEIGHTS_BF16 : WEIGHTS_FP32;
        form.lent_weights = form_of > 0;
        Error err = {{0}};
        OLMo2 *m;
        if (!CHECK(olmo2_create(&m, &config, &room, &form, &err))) { return; }
        bool same = true;
        for (size_t i = 0; i < parameter_count(&config); i++) {
            const Parameter p = parameter_at(&config, i);
            const float *in_fp32 = plain->weights + p.offset;
            if (!parameter_is_matrix(&p) || !form.lent_weights) {
                olmo2_write(m, OLMO2_PARAMETER, i, in_fp32);
            } else {
                olmo2_lend(m, i, form.weights == WEIGHTS_BF16 ? (const void *)(copies[i] + 1) : in_fp32);
            }
            olmo2_read(m, OLMO2_PARAMETER, i, values);
            same = memcmp(values, in_fp32, p.size * sizeof(float)) == 0 && same;
        }
        CHECK(same);
        produce(m, got);
        CHECK(memcmp(got, rounded, size * sizeof(float)) == 0);
        olmo2_free(m);
    }
    for (size_t i = 0; i < parameter_count(&config); i++) { free(copies[i]); }
    free(copies);
    free(expected);
    free(rounded);
    free(got);
    free(values);
    olmo2_free(plain);
}

// Written values are rounded to the nearest bf16, to even in the middle; NaN stays NaN. Norms stay fp32.
static void test_rounding_of_weights(void) {
    const OLMo2Config config = small_config(40, 6, 2, 12);
    const OLMo2Room room = olmo2_room_to_measure(0, 0);
    OLMo2Form form = olmo2_form();
    form.weights = WEIGHTS_BF16;
    OLMo2 *m;
    Error err = {{0}};
    if (!CHECK(olmo2_create(&m, &config, &room, &form, &err))) { return; }
    static const float given[] = {1.0f, 1.00390625f, 1.01171875f, 1.004f, -3e-39f, INFINITY, NAN};
    static const float expected[] = {1.0f, 1.0f, 1.015625f, 1.0078125f, -3.03063e-39f, INFINITY, NAN};
    const size_t wq = parameter_index(&config, WQ, 1), norm = parameter_index(&config, Q_NORM, 1);
    float *values = floats(parameter_largest(&config));
    for (size_t k = 0; k < parameter_largest(&config); k++) { values[k] = k < 7 ? given[k] : 0.0f; }
    olmo2_write(m, OLMO2_PARAMETER, wq, values);
    olmo2_write(m, OLMO2_PARAMETER, norm, values);
    olmo2_read(m, OLMO2_PARAMETER, wq, values);
    for (size_t k = 0; k < 4; k++) { CHECK(values[k] == expected[k]); }
    CHECK(fabsf(values[4] - expected[4]) <= 1e-42f);
    CHECK(values[5] == INFINITY && isnan(values[6]));
    olmo2_read(m, OLMO2_PARAMETER, norm, values);
    CHECK(memcmp(values, given, sizeof given) == 0);
    free(values);
    olmo2_free(m);
}

// The plan counts weights in their type, lent or not. Only a model that is not trained can have them.
static void test_memory_of_weights(void) {
    const OLMo2Config config = small_config(64, 4, 2, 16);
    const OLMo2Room room = olmo2_room_to_extend(1, 8, 8), train = olmo2_room_to_train(1, 8);
    OLMo2Form form = olmo2_form();
    size_t matrices = 0, norms = 0;
    for (size_t i = 0; i < parameter_count(&config); i++) {
        const Parameter p = parameter_at(&config, i);
        if (!parameter_is_matrix(&p)) {
            norms += parameter_padded(p.size);
        } else {
            matrices += parameter_padded(p.size);
        }
    }
    const OLMo2Memory fp32 = olmo2_memory(&config, &room, &form);
    form.weights = WEIGHTS_BF16;
    const OLMo2Memory bf16 = olmo2_memory(&config, &room, &form);
    form.lent_weights = true;
    const OLMo2Memory lent = olmo2_memory(&config, &room, &form);
    CHECK(fp32.weights == 4 * (matrices + norms));
    CHECK(bf16.weights == 2 * matrices + 4 * norms && lent.weights == bf16.weights);
    CHECK(fp32.total - bf16.total == fp32.weights - bf16.weights && lent.total == bf16.total);
    Error err = {{0}};
    OLMo2 *m;
    CHECK_ERROR(olmo2_create(&m, &config, &train, &form, &err), err, "--weights bf16");
    form.lent_weights = false;
    CHECK_ERROR(olmo2_create(&m, &config, &train, &form, &err), err, "--weights bf16");
    form = olmo2_form();
    form.lent_weights = true;
    CHECK_ERROR(olmo2_create(&m, &config, &train, &form, &err), err, "fp32");
    if (CHECK(olmo2_create(&m, &config, &room, &form, &err))) {
        CHECK(m->weight_bytes == 4 * norms);  // nothing is allocated for what is lent
        olmo2_free(m);
    }
}

// Without weights, only rows with a label are computed, in chunks that are filled with them, and with the
// bits that they have with weights.
static void test_classify(void) {
    OLMo2Config config = small_config(24, 2, 2, 12);
    config.V = 5000;
    enum { LENGTH = 150 };
    const OLMo2Room room = olmo2_room_to_train(2, LENGTH);
    OLMo2 *m = new_model(&config, &room);
    static uint32_t tokens[2 * LENGTH], labels[2 * LENGTH];
    static float weights[2 * LENGTH], logprobs[2][2 * LENGTH], lse[2][2 * LENGTH];
    const int stride[] = {1, 2, 7, 299, 1000};
    for (size_t n = 0; n < 2 * LENGTH; n++) { tokens[n] = random_below(5000); }
    olmo2_forward(m, tokens, 2, LENGTH);
    olmo2_zero_gradients(m);
    for (size_t i = 0; i < sizeof stride / sizeof stride[0]; i++) {
        for (int n = 0; n < 2 * LENGTH; n++) {
            labels[n] = n % stride[i] == stride[i] - 1 ? random_below(5000) : OLMO2_NO_TOKEN;
            logprobs[0][n] = lse[0][n] = NAN;
        }
        olmo2_classify(m, labels, weights, 0.0f, logprobs[1], lse[1]);
        olmo2_classify(m, labels, NULL, 0.0f, logprobs[0], lse[0]);
        bool same = true;
        for (size_t n = 0; n < 2 * LENGTH; n++) {
            const bool labelled = labels[n] != OLMO2_NO_TOKEN;
            same = logprobs[0][n] == logprobs[1][n] && lse[0][n] == (labelled ? lse[1][n] : 0.0f) && same;
        }
        CHECK(same);
    }
    olmo2_free(m);
}

int main(void) {
    test_prefill(24, 2, 2, 84, 9, 1, 0);
    test_prefill(48, 2, 1, 96, 130, 43, 0);
    test_prefill(20, 3, 1, 208, 65, 16, 0);
    test_prefill(12, 4, 4, 12, 33, 1, 0);
    test_prefill(12, 4, 2, 4, 1, 1, 0);
    test_prefill(16, 4, 2, 16, 517, 255, 0);  // over the borders of blocks of keys
    test_prefill(40, 6, 2, 12, 67, 16, 1);
    test_prefill(40, 6, 2, 12, 66, 32, 2);
    test_prefill(40, 6, 2, 12, 257, 128, 3);
    test_prefill_of_bf16_products();
    test_weights(false, 60);
    test_weights(true, 1);  // w_down is a matrix of one column
    test_rounding_of_weights();
    test_memory_of_weights();
    test_classify();
    return check_report();
}
