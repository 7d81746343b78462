// test_cuda_step.cu: training steps, decoding and pieces of sequences, of small models. The checker of dev/cuda_on_cpu must not
// report a single race, access out of bounds or misaligned access. The test prints a hash of all weights,
// gradients, moments, log-probabilities and logits, which must not depend on the order in which blocks, warps
// and lanes run (test_cuda_step.sh). On a GPU, two runs must print the same hashes.
#define LLMC_MAIN_H  // the backend without the program
#include "train_olmo2.cu"
#include "dev/test/check.h"

#include <vector>

// In bf16, the tiled attention takes heads of 64, 128 queries and 64 keys at a time. Sequences of 70 and 140
// tokens end in the middle of a tile, and one is longer than a tile of queries. fp32 takes the plain kernels,
// for which a few rows are enough.
enum { LONGEST = sizeof(floatX) == sizeof(float) ? 38 : 140 };

static OLMo2Config config_of(size_t C, size_t HS, size_t F, size_t V, size_t longest) {
    OLMo2Config c = {};
    c.C = C;
    c.L = 2;
    c.NH = 4;
    c.NKV = 2;
    c.HS = HS;
    c.F = F;
    c.V = V;
    c.max_T = longest;
    c.rms_eps = 1e-6f;
    c.rope_theta = 5e5f;
    return c;
}

// ---------------------------------------------------------------------------------------------
// hashes of bits (FNV-1a)

typedef uint64_t Hash;
static const Hash HASH_OF_NOTHING = 0xcbf29ce484222325u;

static void add_to_hash(Hash *hash, const std::vector<float> &values) {
    const unsigned char *bytes = (const unsigned char *)values.data();
    for (size_t i = 0; i < values.size() * sizeof(float); i++) {
        *hash = (*hash ^ bytes[i]) * 0x100000001b3u;
    }
}

// Adds every tensor of an array. All numbers must be finite, or equal hashes would mean little.
static void add_array_to_hash(Hash *hash, const OLMo2 *m, OLMo2Array array) {
    bool finite = true;
    for (size_t i = 0; i < parameter_count(&m->config); i++) {
        std::vector<float> values(parameter_at(&m->config, i).size);
        olmo2_read(m, array, i, values.data());
        for (float value : values) { finite &= (bool)isfinite(value); }
        add_to_hash(hash, values);
    }
    CHECK(finite);
}

// ---------------------------------------------------------------------------------------------
// a model

static uint32_t random_number(uint64_t stream, size_t i) { return random_bits(7, stream, i); }

static void write_parameters(OLMo2 *m) {
    for (size_t i = 0; i < parameter_count(&m->config); i++) {
        const Parameter p = parameter_at(&m->config, i);
        std::vector<float> values(p.size);
        // Scaled so that matrix products of numbers of size 1 have size 1.
        const float size = p.row->id == EMBEDDING ? 1.0f : sqrtf(3.0f / (float)p.columns);
        for (size_t k = 0; k < p.size; k++) {
            const float x = random_number(i, k) / 0x1p31f - 1.0f;
            values[k] = p.row->init == INIT_ONE ? 1.0f + 0.3f * x : size * x;
        }
        olmo2_write(m, OLMO2_PARAMETER, i, values.data());
    }
}

// A batch. Some positions have no label, and tokens repeat.
struct Batch {
    size_t B, T;
    std::vector<uint32_t> tokens, labels;
    std::vector<float> weights, logprobs, lse;
};

static Batch make_batch(const OLMo2Config *c, size_t B, size_t T, uint64_t stream) {
    const size_t N = B * T;
    Batch b = {B,
               T,
               std::vector<uint32_t>(N),
               std::vector<uint32_t>(N),
               std::vector<float>(N),
               std::vector<float>(N),
               std::vector<float>(N)};
    for (size_t i = 0; i < N; i++) {
        b.tokens[i] = random_number(100 + stream, i) % (uint32_t)c->V;
        b.tokens[i] = b.tokens[i] % 3 == 0 ? b.tokens[i] % 10 : b.tokens[i];
    }
    for (size_t i = 0; i < N; i++) {
        const bool has_label = i % T + 1 < T && i % 11 != 5;
        b.labels[i] = has_label ? b.tokens[i + 1] : OLMO2_NO_TOKEN;
        b.weights[i] = has_label ? (i % 2 == 0 ? 1.0f : 0.5f) / (float)N : 0.0f;
    }
    return b;
}

static void classify(OLMo2 *m, Batch *b, bool backward) {
    olmo2_forward(m, b->tokens.data(), b->B, b->T);
    olmo2_classify(m, b->labels.data(), backward ? b->weights.data() : nullptr, 1e-3f, b->logprobs.data(),
                   b->lse.data());
    if (backward) { olmo2_backward(m); }
}

// Two updates, from batches of different shapes. The second uses the gradients of both.
static Hash train(OLMo2 *m, size_t T) {
    Hash hash = HASH_OF_NOTHING;
    olmo2_zero_gradients(m);
    for (int64_t t = 1; t <= 2; t++) {
        Batch b = t == 1 ? make_batch(&m->config, 2, T, 1) : make_batch(&m->config, 1, 2 * T, 2);
        classify(m, &b, true);
        const double norm = olmo2_gradient_norm(m);
        CHECK(norm > 0.0 && norm < INFINITY);
        const OLMo2AdamW settings = {1e-2f, 0.9f, 0.95f, 1e-8f, 0.1f, (float)(1.0 / norm), t};
        olmo2_update(m, &settings);
        add_to_hash(&hash, b.logprobs);
        add_to_hash(&hash, b.lse);
        add_to_hash(&hash, {(float)norm});
        add_array_to_hash(&hash, m, OLMO2_GRADIENT);
    }
    add_array_to_hash(&hash, m, OLMO2_PARAMETER);
    add_array_to_hash(&hash, m, OLMO2_MOMENT1);
    add_array_to_hash(&hash, m, OLMO2_MOMENT2);
    return hash;
}

// Decodes two sequences in slots 2 and 0, the second three tokens behind. The log-probabilities are those of
// the forward. In bf16, logits of up to 4 are rounded to 2^-8 of that, and only one of the two computations
// rounds attention's p, in two layers: a few 1e-2 together. A wrong position shows as 1e-1 or more.
static Hash decode(OLMo2 *m) {
    const double tolerance = sizeof(floatX) == sizeof(float) ? 1e-4 : 8e-2;
    const size_t V = m->config.V, T = m->room.cache_T < 20 ? m->room.cache_T : 20, lag = 3, slots[2] = {2, 0};
    Hash hash = HASH_OF_NOTHING;
    Batch b = make_batch(&m->config, 2, T, 3);
    classify(m, &b, false);
    add_to_hash(&hash, b.logprobs);
    std::vector<float> logits(2 * V);
    double worst = 0.0;
    for (size_t step = 0; step < T; step++) {
        const size_t n = step < lag ? 1 : 2;
        const uint32_t tokens[2] = {b.tokens[step], b.tokens[T + step - (n == 2 ? lag : 0)]};
        olmo2_decode(m, tokens, slots, n, logits.data());
        for (size_t i = 0; i < n; i++) {
            const size_t at = i == 0 ? step : T + step - lag;
            double sum = 0.0;
            for (size_t v = 0; v < V; v++) { sum += exp((double)logits[i * V + v]); }
            if (b.labels[at] == OLMO2_NO_TOKEN) { continue; }
            const double difference = fabs((double)logits[i * V + b.labels[at]] - log(sum) - b.logprobs[at]);
            if (!(difference <= worst)) { worst = difference; }  // NaN stays
        }
        add_to_hash(&hash, std::vector<float>(logits.begin(), logits.begin() + (ptrdiff_t)(n * V)));
    }
    printf("       decoding against the forward: %.1e of %.0e allowed\n", worst, tolerance);
    CHECK(worst <= tolerance);

    const size_t slot = 1;
    std::vector<float> first(V), again(V);
    for (std::vector<float> *row : {&first, &again}) {
        olmo2_truncate(m, 1, 0);
        olmo2_decode(m, b.tokens.data(), &slot, 1, row->data());
    }
    CHECK(memcmp(first.data(), again.data(), V * sizeof(float)) == 0);
    return hash;
}

// Two sequences grow by pieces, some of a single token, and a third continues a copy of the second. Their
// log-probabilities are those of the forward, within the tolerance of decode.
static Hash prefill(OLMo2 *m) {
    const double tolerance = sizeof(floatX) == sizeof(float) ? 1e-4 : 8e-2;
    const size_t T = m->room.cache_T, half = T / 2, V = m->config.V, last = T - half - 1;
    const size_t counts[3][2] = {{1, half}, {T - 2, 1}, {1, T - half - 1}}, slots[2] = {1, 2};
    Hash hash = HASH_OF_NOTHING;
    size_t done[2] = {0, 0};
    double worst = 0.0;
    std::vector<float> logits(V);
    Batch b = make_batch(&m->config, 2, T, 4);
    classify(m, &b, false);
    for (size_t slot = 0; slot < 3; slot++) { olmo2_truncate(m, slot, 0); }
    for (const auto &call : counts) {
        const OLMo2Piece pieces[2] = {{slots[0], call[0]}, {slots[1], call[1]}};
        std::vector<uint32_t> tokens, labels;
        std::vector<size_t> places;
        for (size_t i = 0; i < 2; i++) {
            for (size_t t = 0; t < call[i]; t++) {
                places.push_back(i * T + done[i]++);
                tokens.push_back(b.tokens[places.back()]);
                labels.push_back(b.labels[places.back()]);
            }
        }
        std::vector<float> logprobs(places.size()), lse(places.size());
        olmo2_prefill(m, tokens.data(), pieces, 2);
        olmo2_classify(m, labels.data(), nullptr, 0.0f, logprobs.data(), lse.data());
        add_to_hash(&hash, logprobs);
        add_to_hash(&hash, lse);
        for (size_t n = 0; n < places.size(); n++) {
            const double difference = fabs((double)logprobs[n] - (double)b.logprobs[places[n]]);
            if (!(difference <= worst)) { worst = difference; }  // NaN stays
        }
    }
    printf("       pieces against the forward: %.1e of %.0e allowed\n", worst, tolerance);
    CHECK(worst <= tolerance);
    const OLMo2Piece rest = {0, T - half};
    olmo2_copy_slot(m, 0, slots[1], 0, half);
    olmo2_prefill(m, &b.tokens[T + half], &rest, 1);
    olmo2_logits(m, &last, 1, logits.data());
    add_to_hash(&hash, logits);
    for (float x : logits) { CHECK(isfinite(x)); }
    return hash;
}

// Trains, decodes and extends sequences with one model; returns the hash of the training.
static Hash run(const char *name, const OLMo2Config *c, const OLMo2Form *form) {
    OLMo2 *m;
    Error err;
    const size_t T = c->max_T / 2;
    OLMo2Room room = olmo2_room_to_train(2, 2 * T);
    room.slots = 3;
    room.cache_T = T;
    room.rows = 2 * T;
    if (!olmo2_create(&m, c, &room, form, &err)) {
        fprintf(stderr, "error: %s\n", err.text);
        exit(1);
    }
    write_parameters(m);
    const Hash trained = train(m, T), decoded = decode(m), extended = prefill(m);
    printf("hash %-5s %-36s %016llx %016llx %016llx\n", FLOATX_NAME, name, (unsigned long long)trained,
           (unsigned long long)decoded, (unsigned long long)extended);
    olmo2_free(m);
    return trained;
}

int main() {
    // Rows of `wide` are multiples of 16 bytes; `narrow` is odd in everything.
    const OLMo2Config wide = config_of(136, 64, 88, 264, LONGEST), narrow = config_of(20, 6, 28, 37, 20);
    OLMo2Form form = olmo2_form();
    form.recompute = RECOMPUTE_NONE;
    const Hash none = run("wide, nothing recomputed", &wide, &form);
    form.recompute = RECOMPUTE_ELEMENTWISE;
    CHECK(run("wide, elementwise", &wide, &form) == none);
    form.recompute = RECOMPUTE_BLOCK;
    CHECK(run("wide, block", &wide, &form) == none);

    form.bf16_moments = true;
    form.master_weights = sizeof(floatX) == sizeof(float);  // the fp32 build has none to leave out
    CHECK(run("wide, all in bf16", &wide, &form) != none);
    run("narrow", &narrow, &form);
    OLMo2Config study = narrow;
    study.ablate_qk_norm = study.pre_norm = true;
    form = olmo2_form();
    run("narrow, pre-norm, no QK-norm", &study, &form);
    return check_report();
}
