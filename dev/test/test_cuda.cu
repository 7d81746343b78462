// test_cuda.cu: tests train_olmo2.cu as a whole model, next to train_olmo2.c (cpu_backend.h). Training steps
// agree with the CPU's. Recomputation, repetition and the order of execution change no bit. With nothing
// ablated, dev/ablations gives OLMo 2's bits. Micro-batches add up. Decoding gives the forward's
// probabilities, and so do sequences that grow by pieces of any lengths. Arrays are read back as they were written. bf16 weights and moments learn as well as fp32
// ones. The memory plan is what is allocated. What cannot run is refused with a message. Built in fp32 and
// bf16, by dev/cuda_on_cpu or by nvcc.
#include <cmath>
#include <vector>

#include "check.h"
#define LLMC_MAIN_H  // the backend without the program
#include "train_olmo2.cu"
#include "cpu_backend.h"

static const bool IS_BF16 = sizeof(floatX) < sizeof(float);

// Under dev/cuda_on_cpu, a matrix product sums a row in an order that does not depend on the number of rows,
// and memory is counted to the byte. On a GPU, neither holds.
#ifdef CUDA_ON_CPU
static const bool EMULATED = true;
#else
static const bool EMULATED = false;
#endif

// ---------------------------------------------------------------------------------------------
// figures

// Prints the figure reached next to the allowed one, and checks it. NaN fails.
static bool within(const char *what, const char *figure, double reached, double allowed) {
    printf("%-22s %-58s %9.2e %9.2e\n", what, figure, reached, allowed);
    char text[160];
    snprintf(text, sizeof text, "%s: %s: %.3g, allowed %.3g", what, figure, reached, allowed);
    return check_at(reached <= allowed, text, __FILE__, __LINE__);
}

// The larger one; NaN if either is.
static double worse(double a, double b) { return a <= b || std::isnan(b) ? b : a; }

static double relative(double a, double b) { return fabs(a - b) / fabs(b); }

typedef std::vector<float> Floats;

static double norm_of(const Floats &a) {
    double sum = 0.0;
    for (float x : a) { sum += (double)x * (double)x; }
    return sqrt(sum);
}

static Floats minus(const Floats &a, const Floats &b) {
    Floats d(a.size());
    for (size_t i = 0; i < a.size(); i++) { d[i] = a[i] - b[i]; }
    return d;
}

// |a - b| / |b|
static double difference(const Floats &a, const Floats &b) {
    const double d = norm_of(minus(a, b));
    return d == 0.0 ? 0.0 : d / norm_of(b);
}

static bool same_bits(const Floats &a, const Floats &b) {
    return a.size() == b.size() && !a.empty() && memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

static unsigned long long hash_of(const Floats &a) {  // FNV-1a
    uint64_t hash = 0xcbf29ce484222325u;
    for (float x : a) {
        uint32_t bits;
        memcpy(&bits, &x, sizeof bits);
        hash = (hash ^ bits) * 0x100000001b3u;
    }
    return hash;
}

// ---------------------------------------------------------------------------------------------
// models and batches

static uint64_t random_state;

static uint32_t random_below(uint32_t n) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 33) % n;
}

static float rounded(float x) { return IS_BF16 ? __bfloat162float(__float2bfloat16_rn(x)) : x; }

typedef struct {
    const char *name;
    size_t C, L, NH, NKV, HS, F, V;
    size_t B, T;
    bool ablate_qk_norm, pre_norm;
} Shape;

// The first four use 16-byte accesses and, in bf16, the tensor cores. The odd ones have rows that are not
// multiples of 4 or 8 elements, and take the narrow paths. There are few rows, because the emulator runs
// every thread. clang-format off
static const Shape shapes[] = {
    //  name                C   L  NH NKV  HS   F    V   B   T  ablate_qk_norm pre_norm
    {"heads of 64", 64, 2, 2, 2, 64, 96, 256, 2, 8, false, false},
    {"grouped queries", 48, 2, 4, 2, 64, 64, 128, 1, 15, false, false},
    {"heads of 96", 32, 1, 2, 2, 96, 48, 128, 1, 15, true, false},
    {"heads of 128", 32, 1, 2, 1, 128, 48, 250, 1, 35, false, false},
    {"odd channels", 18, 2, 4, 4, 10, 24, 77, 3, 5, false, false},
    {"odd heads", 16, 2, 3, 1, 6, 26, 101, 2, 7, false, false},
    {"norms on inputs", 32, 2, 4, 2, 16, 48, 96, 2, 7, false, true},
};
// clang-format on
enum { HEADS_OF_64, GROUPED_QUERIES, HEADS_OF_96, HEADS_OF_128, ODD_CHANNELS, ODD_HEADS, INPUT_NORMS };

static OLMo2Config config_of(const Shape &s) {
    OLMo2Config c = {};
    c.C = s.C;
    c.L = s.L;
    c.NH = s.NH;
    c.NKV = s.NKV;
    c.HS = s.HS;
    c.F = s.F;
    c.V = s.V;
    c.max_T = 4096;
    c.rms_eps = 1e-6f;
    c.rope_theta = 500000.0f;
    c.init_std = 0.02f;
    c.bos = c.eos = c.pad = OLMO2_NO_TOKEN;
    c.ablate_qk_norm = s.ablate_qk_norm;
    c.pre_norm = s.pre_norm;
    return c;
}

static OLMo2Room training_of(const Shape &s) { return olmo2_room_to_train(s.B, s.T); }

// Weights large enough that attention is far from uniform. They are the same in both backends, and rounded to
// bf16 in the bf16 build.
template <typename Model>
static void randomize(Model *m) {
    random_state = 7;
    for (size_t i = 0; i < parameter_count(olmo2_config(m)); i++) {
        const Parameter p = parameter_at(olmo2_config(m), i);
        Floats values(p.size);
        for (float &x : values) {
            const float noise = (float)random_below(2001) / 1000.0f - 1.0f;
            x = rounded(p.row->init == INIT_ONE ? 1.0f + 0.3f * noise : 0.2f * noise);
        }
        olmo2_write(m, OLMO2_PARAMETER, i, values.data());
    }
}

template <typename Model>
static Model *new_model(const Shape &s, const OLMo2Room &room, const OLMo2Form &form = olmo2_form()) {
    const OLMo2Config config = config_of(s);
    Error err;
    Model *m;
    if (!olmo2_create(&m, &config, &room, &form, &err)) {
        printf("%s\n", err.text);
        exit(1);
    }
    randomize(m);
    return m;
}

template <typename Model>
static Floats read_all(const Model *m, OLMo2Array array) {
    Floats all;
    for (size_t i = 0; i < parameter_count(olmo2_config(m)); i++) {
        const Parameter p = parameter_at(olmo2_config(m), i);
        all.resize(all.size() + p.size);
        olmo2_read(m, array, i, all.data() + all.size() - p.size);
    }
    return all;
}

typedef struct {
    size_t B, T;
    std::vector<uint32_t> tokens, labels;  // (B, T)
    Floats weights, logprobs, lse;         // (B, T)
} Batch;

// Every fifth position has no label. The others' weights are of three sizes.
static Batch batch_of(const Shape &s) {
    const size_t N = s.B * s.T;
    Batch b = {s.B, s.T, std::vector<uint32_t>(N), std::vector<uint32_t>(N), Floats(N), Floats(N), Floats(N)};
    random_state = 11;
    for (size_t n = 0; n < N; n++) {
        const bool labelled = n % 5 != 4;
        b.tokens[n] = random_below((uint32_t)s.V);
        b.labels[n] = labelled ? random_below((uint32_t)s.V) : OLMO2_NO_TOKEN;
        b.weights[n] = labelled ? (float)(1 + n % 3) / (float)(2 * N) : 0.0f;
    }
    return b;
}

static const float Z = 1e-3f;

static double objective(const Batch &b) {
    double sum = 0.0;
    for (size_t n = 0; n < b.weights.size(); n++) {
        const double lse = (double)b.lse[n];
        sum += (double)b.weights[n] * ((double)Z * lse * lse - (double)b.logprobs[n]);
    }
    return sum;
}

// The gradients of the whole batch, `micro` sequences at a time.
template <typename Model>
static void gradients(Model *m, Batch *b, size_t micro) {
    olmo2_zero_gradients(m);
    for (size_t i = 0; i < b->B; i += micro) {
        const size_t n = i * b->T, count = b->B - i < micro ? b->B - i : micro;
        olmo2_forward(m, &b->tokens[n], count, b->T);
        olmo2_classify(m, &b->labels[n], &b->weights[n], Z, &b->logprobs[n], &b->lse[n]);
        olmo2_backward(m);
    }
}

static OLMo2AdamW adamw(float lr, float scale, int64_t t) {
    OLMo2AdamW s = {};
    s.lr = lr;
    s.beta1 = 0.9f;
    s.beta2 = 0.95f;
    s.eps = 1e-8f;
    s.weight_decay = 0.1f;
    s.gradient_scale = scale;
    s.t = t;
    return s;
}

static const float LR = 1e-3f;

enum { STEPS = 10 };

typedef struct {
    double losses[STEPS], norms[STEPS];
    Floats first_gradients, weights;  // of the first step; after the last
} Trace;

// Ten steps on one batch, which the model memorises.
template <typename Model>
static Trace ten_steps(Model *m, Batch *b) {
    Trace trace;
    for (int step = 0; step < STEPS; step++) {
        gradients(m, b, b->B);
        if (step == 0) { trace.first_gradients = read_all(m, OLMO2_GRADIENT); }
        trace.losses[step] = objective(*b);
        trace.norms[step] = olmo2_gradient_norm(m);
        const OLMo2AdamW settings = adamw(LR, (float)fmin(1.0, 0.5 / (trace.norms[step] + 1e-6)), step + 1);
        olmo2_update(m, &settings);
    }
    trace.weights = read_all(m, OLMO2_PARAMETER);
    return trace;
}

// ---------------------------------------------------------------------------------------------
// compared with the CPU

// How far <a, b> / <b, b> is from 1. A wrong factor shows here; rounding errors, in all directions, nearly
// cancel.
static double scale_error(const Floats &a, const Floats &b) {
    double ab = 0.0, bb = 0.0;
    for (size_t i = 0; i < a.size(); i++) {
        ab += (double)a[i] * (double)b[i];
        bb += (double)b[i] * (double)b[i];
    }
    return ab == bb ? 0.0 : fabs(ab / bb - 1.0);
}

// Checks the tensor with the largest error.
static void within_for_all(const Shape &s, const char *what, double (*error)(const Floats &, const Floats &),
                           const Floats &a, const Floats &b, double allowed) {
    const OLMo2Config c = config_of(s);
    double worst = -1.0;
    char figure[160] = "";
    size_t at = 0;
    for (size_t i = 0; i < parameter_count(&c); i++) {
        const Parameter p = parameter_at(&c, i);
        const double e = error(Floats(&a[at], &a[at] + p.size), Floats(&b[at], &b[at] + p.size));
        if (!std::isnan(worst) && !(e <= worst)) {
            worst = e;
            snprintf(figure, sizeof figure, "%s, %s", what, p.name);
        }
        at += p.size;
    }
    within(s.name, figure, worst, allowed);
}

// In fp32, only the order of sums and the last bit of exponentials differ. In bf16, with 8 significant bits,
// every activation is rounded: a layer's gradient has about twenty roundings of 2^-9 behind it, which add up
// to 1e-2 if they are random.
static void compare_gradients(const Shape &s, const Floats &a, const Floats &b) {
    within_for_all(s, "gradients", difference, a, b, IS_BF16 ? 5e-2 : 1e-5);
}

// The losses agree at every step, although the two models diverge from the first step on: gradients near zero
// may have different signs, and AdamW's first update is little more than the sign. 1e-5 and 2e-2 allow for
// that.
static void test_side_by_side(const Shape &s) {
    OLMo2 *cuda = new_model<OLMo2>(s, training_of(s));
    CpuModel *cpu = new_model<CpuModel>(s, training_of(s));
    Batch batch = batch_of(s);
    const Floats before = read_all(cpu, OLMO2_PARAMETER);
    CHECK(same_bits(before, read_all(cuda, OLMO2_PARAMETER)));
    const Trace a = ten_steps(cuda, &batch), b = ten_steps(cpu, &batch);
    double losses = 0.0, norms = 0.0;
    for (int i = 0; i < STEPS; i++) {
        losses = worse(losses, relative(a.losses[i], b.losses[i]));
        norms = worse(norms, relative(a.norms[i], b.norms[i]));
    }
    within(s.name, "losses of ten steps", losses, IS_BF16 ? 2e-2 : 1e-5);
    within(s.name, "gradient norms of ten steps", norms, IS_BF16 ? 1e-1 : 1e-4);
    compare_gradients(s, a.first_gradients, b.first_gradients);
    within(s.name, "sum of all updates", difference(minus(a.weights, before), minus(b.weights, before)),
           IS_BF16 ? 2e-1 : 1e-3);
    // Four or eight squares are added in fp32 before they go to double.
    within(s.name, "norm of the first gradient", relative(a.norms[0], norm_of(a.first_gradients)), 1e-6);
    within(s.name, "last loss over the first", a.losses[STEPS - 1] / a.losses[0], 0.9);
    printf("%-22s hash of the weights after ten steps: %016llx\n", s.name, hash_of(a.weights));
    olmo2_free(cuda);
    olmo2_free(cpu);
}

// One step with more rows than the classifier takes at a time (1024) and than the norms' backward has warps
// (1024), and in bf16 with more positions than a tile has queries (128) or keys (64). Over so many rows, the
// rounding errors of bf16 change the scale of a gradient by 1e-3.
static void test_many_rows() {
    const Shape s = IS_BF16 ? Shape{"many rows", 32, 1, 2, 1, 64, 48, 40, 8, 140, false, false}
                            : Shape{"many rows", 32, 1, 2, 1, 16, 48, 40, 45, 25, false, false};
    OLMo2 *cuda = new_model<OLMo2>(s, training_of(s));
    CpuModel *cpu = new_model<CpuModel>(s, training_of(s));
    Batch a = batch_of(s), b = a;
    gradients(cuda, &a, s.B);
    gradients(cpu, &b, s.B);
    within(s.name, "logprobs", difference(a.logprobs, b.logprobs), IS_BF16 ? 2e-2 : 1e-5);
    within(s.name, "lse", difference(a.lse, b.lse), IS_BF16 ? 2e-2 : 1e-5);
    const Floats da = read_all(cuda, OLMO2_GRADIENT), db = read_all(cpu, OLMO2_GRADIENT);
    compare_gradients(s, da, db);
    within_for_all(s, "scale of gradients", scale_error, da, db, IS_BF16 ? 4e-3 : 1e-5);
    olmo2_free(cuda);
    olmo2_free(cpu);
}

// ---------------------------------------------------------------------------------------------
// the same bits

// The result of two steps: weights, gradients and their norm, moments, the last logprobs.
static Floats two_steps(const Shape &s, Recompute recompute, int order) {
    OLMo2Form form = olmo2_form();
    form.recompute = recompute;
#ifdef CUDA_ON_CPU
    cuda_on_cpu_set_order(order, 1);  // the order of blocks and threads, which a GPU does not define
#else
    (void)order;
#endif
    OLMo2 *m = new_model<OLMo2>(s, training_of(s), form);
    Batch batch = batch_of(s);
    for (int step = 1; step <= 2; step++) {
        gradients(m, &batch, s.B);
        const OLMo2AdamW settings = adamw(LR, 0.1f, step);
        olmo2_update(m, &settings);
    }
    Floats all = {(float)olmo2_gradient_norm(m)};
    all.insert(all.end(), batch.logprobs.begin(), batch.logprobs.end());
    all.insert(all.end(), batch.lse.begin(), batch.lse.end());
    for (OLMo2Array array : {OLMO2_PARAMETER, OLMO2_GRADIENT, OLMO2_MOMENT1, OLMO2_MOMENT2}) {
        const Floats values = read_all(m, array);
        all.insert(all.end(), values.begin(), values.end());
    }
    olmo2_free(m);
#ifdef CUDA_ON_CPU
    cuda_on_cpu_set_order(CUDA_ON_CPU_FORWARD, 1);
#endif
    return all;
}

static void test_bits(const Shape &s) {
    const Floats bits = two_steps(s, RECOMPUTE_ELEMENTWISE, 0);
    CHECK(same_bits(bits, two_steps(s, RECOMPUTE_ELEMENTWISE, 2)));
    CHECK(same_bits(bits, two_steps(s, RECOMPUTE_NONE, 0)));
    CHECK(same_bits(bits, two_steps(s, RECOMPUTE_BLOCK, 1)));
    CHECK(!std::isnan(norm_of(bits)));
    printf("%-22s bits of two steps for each --recompute and order: %016llx\n", s.name, hash_of(bits));
}

static void append(Floats *all, const Floats &values) {
    all->insert(all->end(), values.begin(), values.end());
}

// What one step and a piece of three tokens after one of a token leave, by the lists of dev/ablations if
// `apart`, by OLMo 2's own otherwise: logprobs, lse, gradients, outputs. The calls around the layers are those
// of olmo2_forward, olmo2_backward and olmo2_prefill.
static Floats run_layers(OLMo2 *m, const Shape &s, bool apart) {
    const OLMo2Config *c = &m->config;
    const Workspace *w = &m->workspace;
    const OLMo2Memory memory = olmo2_memory(c, &m->room, &m->form);
    const floatX *final_norm = m->weights + parameter_offset(c, FINAL_NORM, 0);
    const size_t N = s.B * s.T;
    Batch b = batch_of(s);

    // A call that is missing must not find what an earlier run has left.
    CUDA_CHECK(cudaMemset(m->activations.x, 0xff, memory.activations));
    CUDA_CHECK(cudaMemset(m->cache.keys, 0xff, memory.cache));
    olmo2_zero_gradients(m);
    m->extends = false;
    m->B = s.B;
    m->T = s.T;
    m->N = N;
    CUDA_CHECK(cudaMemcpy(m->tokens, b.tokens.data(), N * sizeof(uint32_t), cudaMemcpyHostToDevice));
    embedding_forward(m->activations.x, m->weights + parameter_offset(c, EMBEDDING, 0), m->tokens, N, c->C);
    for (size_t l = 0; l < c->L; l++) { apart ? ablated_layer_forward(m, l) : layer_forward(m, l); }
    rmsnorm_forward(m->activations.hidden, m->activations.hidden_rstd, layer_activations(m, c->L).x,
                    final_norm, N, c->C, c->rms_eps);
    olmo2_classify(m, b.labels.data(), b.weights.data(), Z, b.logprobs.data(), b.lse.data());
    rmsnorm_backward(w->dx, array_at(m->gradients, parameter_offset(c, FINAL_NORM, 0)), w->partial,
                     w->dhidden, layer_activations(m, c->L).x, final_norm, m->activations.hidden_rstd, N,
                     c->C);
    for (size_t l = c->L; l-- > 0;) { apart ? ablated_layer_backward(m, l) : layer_backward(m, l); }

    Floats all = b.logprobs, dx(N * c->C);
    append(&all, b.lse);
    append(&all, read_all(m, OLMO2_GRADIENT));
    download(dx.data(), w->dx, dx.size(), m->staging);
    append(&all, dx);
    m->extends = true;
    olmo2_truncate(m, 0, 0);
    for (const OLMo2Piece &piece : {OLMo2Piece{0, 1}, OLMo2Piece{0, 3}}) {
        Floats x(piece.count * c->C);
        upload_pieces(m, &piece, 1);
        embedding_forward(m->activations.x, m->weights + parameter_offset(c, EMBEDDING, 0), m->tokens, m->N,
                          c->C);
        for (size_t l = 0; l < c->L; l++) { apart ? ablated_layer_forward(m, l) : layer_forward(m, l); }
        download(x.data(), m->activations.x, x.size(), m->staging);
        append(&all, x);
    }
    return all;
}

// With nothing ablated, the lists of dev/ablations give OLMo 2's bits, so no layer can be changed in one list
// only. Each ablation gives others.
static void test_ablations(const Shape &shape, Recompute recompute) {
    Floats own;
    for (int study = 0; study < 4; study++) {
        Shape s = shape;
        s.ablate_qk_norm = (study & 1) != 0;
        s.pre_norm = (study & 2) != 0;
        OLMo2Room room = training_of(s);
        OLMo2Form form = olmo2_form();
        room.slots = 1;
        room.cache_T = room.rows = 4;
        form.recompute = recompute;
        OLMo2 *m = new_model<OLMo2>(s, room, form);
        if (study == 0) { own = run_layers(m, s, false); }
        const Floats apart = run_layers(m, s, true);
        CHECK(is_ablated(&m->config) == (study != 0));
        CHECK(same_bits(own, apart) == (study == 0));
        CHECK(!std::isnan(norm_of(apart)));
        olmo2_free(m);
    }
}

// ---------------------------------------------------------------------------------------------
// micro-batches

// The same sums over rows, in another order. bf16 gradients are rounded each time a part is added: three more
// roundings of 2^-9.
static void test_micro_batches(const Shape &shape, bool bf16_gradients) {
    Shape s = shape;
    s.B = 4;
    s.T = 9;
    OLMo2Form form = olmo2_form();
    form.master_weights = !bf16_gradients;
    OLMo2 *m = new_model<OLMo2>(s, training_of(s), form);
    Batch batch = batch_of(s);
    gradients(m, &batch, 4);
    const Floats whole = read_all(m, OLMO2_GRADIENT);
    for (size_t micro : {2, 1, 3}) {
        Batch parts = batch_of(s);
        gradients(m, &parts, micro);
        char figure[96];
        snprintf(figure, sizeof figure, "4 sequences in parts of %zu%s", micro,
                 bf16_gradients ? ", bf16 gradients" : "");
        const double allowed = EMULATED ? 1e-6 : IS_BF16 ? 3e-2 : 1e-5;
        within(s.name, figure, difference(read_all(m, OLMO2_GRADIENT), whole),
               bf16_gradients ? fmax(1e-2, allowed) : allowed);
        within(s.name, "  their logprobs", difference(parts.logprobs, batch.logprobs),
               EMULATED ? 0.0 : allowed);
    }
    olmo2_free(m);
}

// ---------------------------------------------------------------------------------------------
// decoding

// Decodes both sequences position by position, the second three positions behind the first -> logits (2, T,
// V). Their order within a call alternates, and in every third round each has a call of its own.
template <typename Model>
static Floats decode_both(Model *m, const Batch &b, size_t V, const size_t slots[2]) {
    const size_t behind = 3;
    Floats logits(b.B * b.T * V);
    for (size_t round = 0; round < b.T + behind; round++) {
        uint32_t tokens[2];
        size_t used[2], place[2], n = 0;
        for (size_t k = 0; k < 2; k++) {
            const size_t i = (k + round) % 2, t = round - i * behind;  // huge before its first turn
            if (t >= b.T) { continue; }
            place[n] = i * b.T + t;
            tokens[n] = b.tokens[place[n]];
            used[n++] = slots[i];
        }
        const size_t at_once = round % 3 == 2 ? 1 : n;
        for (size_t k = 0; k < n; k += at_once) {
            Floats rows(at_once * V);
            olmo2_decode(m, tokens + k, used + k, at_once, rows.data());
            for (size_t r = 0; r < at_once; r++) {
                memcpy(&logits[place[k + r] * V], &rows[r * V], V * sizeof(float));
            }
        }
    }
    return logits;
}

static double log_probability(const float *logits, size_t V, uint32_t label) {
    double largest = (double)logits[0], sum = 0.0;
    for (size_t j = 0; j < V; j++) { largest = fmax(largest, (double)logits[j]); }
    for (size_t j = 0; j < V; j++) { sum += exp((double)logits[j] - largest); }
    return (double)logits[label] - largest - log(sum);
}

static void test_decode(const Shape &shape, size_t T) {
    Shape s = shape;
    s.B = 2;
    s.T = T;
    OLMo2Room room = olmo2_room_to_measure(s.B, s.T);
    room.slots = 3;
    room.cache_T = s.T;
    const size_t slots[2] = {2, 0}, swapped[2] = {0, 2};
    OLMo2 *cuda = new_model<OLMo2>(s, room), *training = new_model<OLMo2>(s, training_of(s));
    CpuModel *cpu = new_model<CpuModel>(s, room);
    Batch batch = batch_of(s), other = batch;
    for (size_t n = 0; n < s.B * s.T; n++) { batch.labels[n] = other.labels[n] = batch.tokens[n / 2]; }
    olmo2_forward(cuda, batch.tokens.data(), s.B, s.T);
    olmo2_classify(cuda, batch.labels.data(), nullptr, 0.0f, batch.logprobs.data(), batch.lse.data());
    olmo2_forward(training, batch.tokens.data(), s.B, s.T);
    olmo2_classify(training, batch.labels.data(), nullptr, 0.0f, other.logprobs.data(), other.lse.data());
    CHECK(same_bits(batch.logprobs, other.logprobs));

    const Floats logits = decode_both(cuda, batch, s.V, slots),
                 cpu_logits = decode_both(cpu, batch, s.V, slots);
    for (size_t slot : {0, 2}) { olmo2_truncate(cuda, slot, 0); }
    CHECK(same_bits(logits, decode_both(cuda, batch, s.V, swapped)));  // nothing is left after a reset
    double worst = 0.0;
    for (size_t n = 0; n < s.B * s.T; n++) {
        const double p = log_probability(&logits[n * s.V], s.V, batch.labels[n]);
        worst = worse(worst, fabs(p - (double)batch.logprobs[n]));
    }
    // Log-probabilities down to -10, from sums in another order. In bf16, a logit of 4 to 8 is rounded by up
    // to 1.6e-2 in each of the two computations, and its inputs differ by rounding errors as well.
    within(s.name, "decode: log p beside the forward's", worst, IS_BF16 ? 5e-2 : 1e-5);
    within(s.name, "decode: logits beside the CPU's", difference(logits, cpu_logits), IS_BF16 ? 3e-2 : 1e-5);
    olmo2_free(cuda);
    olmo2_free(training);
    olmo2_free(cpu);
}

// ---------------------------------------------------------------------------------------------
// sequences that grow by pieces

// The calls of olmo2_prefill in which two sequences grow: in each, a number of tokens for each sequence, or 0.
typedef std::vector<std::pair<size_t, size_t>> Calls;

// Lets both sequences grow as `calls` say -> log p of the labels (2, T). Sequences are in the order of their
// slots' numbers within a call.
template <typename Model>
static Floats extend(Model *m, const Batch &b, const size_t slots[2], const Calls &calls) {
    Floats logprobs(b.B * b.T);
    size_t done[2] = {0, 0};
    for (const auto &call : calls) {
        const size_t counts[2] = {call.first, call.second}, first = slots[0] < slots[1] ? 0 : 1;
        std::vector<uint32_t> tokens, labels;
        std::vector<OLMo2Piece> pieces;
        std::vector<size_t> places;
        for (size_t i : {first, 1 - first}) {
            if (counts[i] == 0) { continue; }
            pieces.push_back(OLMo2Piece{slots[i], counts[i]});
            for (size_t t = 0; t < counts[i]; t++) {
                places.push_back(i * b.T + done[i]++);
                tokens.push_back(b.tokens[places.back()]);
                labels.push_back(b.labels[places.back()]);
            }
        }
        Floats part(tokens.size()), lse(tokens.size());
        olmo2_prefill(m, tokens.data(), pieces.data(), pieces.size());
        olmo2_classify(m, labels.data(), nullptr, 0.0f, part.data(), lse.data());
        for (size_t n = 0; n < places.size(); n++) { logprobs[places[n]] = part[n]; }
    }
    return logprobs;
}

static double largest_difference(const Floats &a, const Floats &b) {
    double worst = a.size() == b.size() ? 0.0 : NAN;
    for (size_t i = 0; i < a.size(); i++) { worst = worse(worst, fabs((double)a[i] - (double)b[i])); }
    return worst;
}

// However two sequences of T tokens are cut, every token has the log p that olmo2_forward gives it, and that
// the CPU gives it. The order of its sums does not depend on the cut, except for a piece of one token, so on
// the emulated GPU the bits are equal too. (cuBLAS may sum in another order for another number of rows.)
static void test_prefill(const Shape &shape, size_t T) {
    Shape s = shape;
    s.B = 2;
    s.T = T;
    OLMo2Room room = olmo2_room_to_measure(s.B, s.T);
    room.slots = 4;
    room.cache_T = T + 1;
    room.rows = 2 * T;
    const size_t slots[2] = {3, 1}, others[2] = {0, 2};
    const Calls whole = {{T, T}}, apart = {{0, T}, {T, 0}}, cut = {{2, T / 2}, {T - 2, T - T / 2}},
                mixed = {{1, 5}, {T - 3, 1}, {1, T - 7}, {1, 1}};
    OLMo2 *m = new_model<OLMo2>(s, room);
    CpuModel *cpu = new_model<CpuModel>(s, room);
    Batch b = batch_of(s);
    Floats none(2 * T);
    olmo2_forward(m, b.tokens.data(), s.B, s.T);
    olmo2_classify(m, b.labels.data(), nullptr, 0.0f, b.logprobs.data(), b.lse.data());
    for (size_t n = 0; n < 2 * T; n++) {  // a position without a label costs nothing and gets nothing
        const bool labelled = b.labels[n] != OLMO2_NO_TOKEN;
        CHECK((b.logprobs[n] != 0.0f) == labelled && (b.lse[n] != 0.0f) == labelled);
    }

    const double allowed = IS_BF16 ? 5e-2 : 1e-5;  // as in test_decode
    within(s.name, "prefill: log p beside the CPU's",
           largest_difference(extend(m, b, slots, whole), extend(cpu, b, slots, mixed)), allowed);
    const Floats at_once = extend(m, b, others, whole);
    CHECK(!EMULATED || same_bits(at_once, b.logprobs));
    for (const Calls &calls : {apart, cut, mixed}) {
        for (size_t slot = 0; slot < room.slots; slot++) { olmo2_truncate(m, slot, 0); }
        const Floats first = extend(m, b, others, calls), second = extend(m, b, slots, calls);
        CHECK(olmo2_positions(m, slots[0]) == T && olmo2_positions(m, slots[1]) == T);
        CHECK(!EMULATED || same_bits(first, second));
        CHECK(!EMULATED || calls == mixed || same_bits(first, at_once));
        within(s.name, "prefill: in pieces beside the forward", largest_difference(first, b.logprobs),
               allowed);
    }
    olmo2_free(m);
    olmo2_free(cpu);
}

// Pieces between two steps, of more rows than a batch has, change nothing in training.
static void test_pieces_while_training(const Shape &s, Recompute recompute) {
    OLMo2Room room = training_of(s);
    OLMo2Form form = olmo2_form();
    room.slots = 2;
    room.cache_T = s.B * s.T;
    room.rows = 2 * s.B * s.T;
    form.recompute = recompute;
    OLMo2 *m = new_model<OLMo2>(s, room, form);
    Batch b = batch_of(s);
    gradients(m, &b, s.B);
    const Floats before = read_all(m, OLMO2_GRADIENT);
    std::vector<uint32_t> tokens = b.tokens;
    tokens.insert(tokens.end(), b.tokens.begin(), b.tokens.end());
    const OLMo2Piece pieces[2] = {{1, s.B * s.T}, {0, s.B * s.T}};
    const size_t rows[2] = {0, s.B * s.T};
    Floats logits(2 * s.V);
    olmo2_prefill(m, tokens.data(), pieces, 2);
    olmo2_logits(m, rows, 2, logits.data());
    CHECK(memcmp(logits.data(), logits.data() + s.V, s.V * sizeof(float)) == 0 && norm_of(logits) > 0.0);
    gradients(m, &b, s.B);
    CHECK(same_bits(before, read_all(m, OLMO2_GRADIENT)));
    olmo2_free(m);
}

// The logits of the sequence's tokens from `past` on, of which the slot holds those before.
static Floats continuation(OLMo2 *m, const Batch &b, size_t slot, size_t past) {
    const size_t count = b.T - past, V = m->config.V;
    const OLMo2Piece piece = {slot, count};
    std::vector<size_t> rows(count);
    Floats logits(count * V);
    for (size_t r = 0; r < count; r++) { rows[r] = count - 1 - r; }
    olmo2_prefill(m, &b.tokens[past], &piece, 1);
    olmo2_logits(m, rows.data(), count, logits.data());
    return logits;
}

// A copied or shortened sequence continues with the bits of the original. Nothing else is copied.
static void test_copies(const Shape &shape) {
    Shape s = shape;
    s.B = 1;
    s.T = 12;
    OLMo2 *m = new_model<OLMo2>(s, olmo2_room_to_extend(3, s.T, s.T));
    const Batch b = batch_of(s);
    Batch other = b;
    for (size_t t = 5; t < s.T; t++) { other.tokens[t] = (b.tokens[t] + 1) % (uint32_t)s.V; }
    continuation(m, b, 0, 0);
    olmo2_truncate(m, 0, 7);
    const Floats expected = continuation(m, b, 0, 7);

    olmo2_copy_slot(m, 2, 0, 0, 7);
    CHECK(olmo2_positions(m, 2) == 7 && olmo2_positions(m, 0) == s.T);
    CHECK(same_bits(expected, continuation(m, b, 2, 7)));
    const Floats different = continuation(m, other, 1, 0);  // its first five tokens are those of slot 0
    olmo2_copy_slot(m, 1, 0, 5, 7);
    CHECK(same_bits(expected, continuation(m, b, 1, 7)));
    olmo2_truncate(m, 1, 0);
    CHECK(same_bits(different, continuation(m, other, 1, 0)));
    CHECK(!same_bits(expected, continuation(m, b, (olmo2_truncate(m, 1, 7), 1), 7)));
    olmo2_copy_slot(m, 0, 0, 3, 7);  // onto itself: as olmo2_truncate
    CHECK(olmo2_positions(m, 0) == 7);
    CHECK(same_bits(expected, continuation(m, b, 0, 7)));
    olmo2_copy_slot(m, 1, 0, 0, 0);
    CHECK(olmo2_positions(m, 1) == 0);
    olmo2_free(m);
}

// ---------------------------------------------------------------------------------------------
// arrays to and from the host

static const OLMo2Array arrays[] = {OLMO2_PARAMETER, OLMO2_GRADIENT, OLMO2_MOMENT1, OLMO2_MOMENT2};

static bool is_coarse(const OLMo2Room &room, const OLMo2Form &form, OLMo2Array array) {
    const bool only_kept = room.B == 0 && room.slots == 0;  // for a soup: neither run nor decoded
    if (array == OLMO2_PARAMETER) { return IS_BF16 && !only_kept && (!form.master_weights || !room.train); }
    if (array == OLMO2_GRADIENT) { return IS_BF16 && !form.master_weights; }
    return form.bf16_moments;
}

// What is written is read back, in bf16 rounded to the nearest, and nothing else changes.
static void test_arrays(const Shape &s, const OLMo2Room &room, const OLMo2Form &form) {
    OLMo2 *m = new_model<OLMo2>(s, room, form);
    const size_t count = parameter_count(&m->config);
    bool all = true;
    std::vector<Floats> expected;
    for (OLMo2Array array : arrays) {
        for (size_t i = 0; i < count && (room.train || array == OLMO2_PARAMETER); i++) {
            Floats values(parameter_at(&m->config, i).size);
            for (float &x : values) { x = (float)random_below(1u << 24) * 1.37e-7f - 1.1f; }
            olmo2_write(m, array, i, values.data());
            for (float &x : values) {
                x = is_coarse(room, form, array) ? __bfloat162float(__float2bfloat16_rn(x)) : x;
            }
            values.push_back(7.0f);  // one past the end, which must not change
            expected.push_back(values);
        }
    }
    for (size_t k = 0; k < expected.size(); k++) {
        Floats values(expected[k].size(), 7.0f);
        olmo2_read(m, arrays[k / count], k % count, values.data());
        all = all && same_bits(values, expected[k]);
    }
    CHECK(all && expected.size() == count * (room.train ? 4 : 1));
    if (m->master != nullptr) {  // the layers read a rounded copy
        Floats copy(parameter_at(&m->config, 0).size);
        download(copy.data(), m->weights, copy.size(), m->staging);
        for (size_t i = 0; i < copy.size(); i++) { all = all && copy[i] == rounded(expected[0][i]); }
        CHECK(all);
    }
    olmo2_free(m);
}

// Tensors larger than the staging buffer.
static void test_large_arrays() {
    const Shape s = {"large", 16, 1, 1, 1, 16, 16, STAGING_ELEMENTS / 16 + 40, 1, 2, false, false};
    const OLMo2Room room = training_of(s);
    OLMo2Form form = olmo2_form();
    form.bf16_moments = true;
    const OLMo2Config config = config_of(s);
    Error err;
    OLMo2 *m;
    if (!CHECK(olmo2_create(&m, &config, &room, &form, &err))) { return; }
    const size_t index = parameter_count(&config) - 1, size = parameter_at(&config, index).size;
    Floats values(size), read(size);
    CHECK(size > STAGING_ELEMENTS);
    for (OLMo2Array array : arrays) {
        for (float &x : values) { x = (float)random_below(256); }  // bf16 numbers
        olmo2_write(m, array, index, values.data());
        olmo2_read(m, array, index, read.data());
        CHECK(same_bits(values, read));
    }
    olmo2_free(m);
}

static void test_all_arrays() {
    for (bool train : {true, false}) {
        for (int coarse = 0; coarse < (train ? 4 : 1); coarse++) {
            OLMo2Room room = training_of(shapes[ODD_HEADS]);
            OLMo2Form form = olmo2_form();
            room.train = train;
            form.master_weights = (coarse & 1) == 0;
            form.bf16_moments = (coarse & 2) != 0;
            if (IS_BF16 || form.master_weights) { test_arrays(shapes[ODD_HEADS], room, form); }
        }
    }
    test_arrays(shapes[ODD_HEADS], olmo2_room_to_measure(0, 0), olmo2_form());
    test_large_arrays();
}

// ---------------------------------------------------------------------------------------------
// bf16 weights and moments

// Returns the last of 32 losses over the first, on one batch. Steps of 5e-4 are an eighth of the spacing of
// bf16 numbers below 1, so with rounding to the nearest most weights of norms would never change.
static double learn(bool master_weights, bool bf16_moments, Floats *weights) {
    const Shape s = {"learning", 32, 2, 2, 2, 16, 48, 64, 1, 8, false, false};
    OLMo2Form form = olmo2_form();
    form.master_weights = master_weights;
    form.bf16_moments = bf16_moments;
    OLMo2 *m = new_model<OLMo2>(s, training_of(s), form);
    Batch batch = batch_of(s);
    double first = 0.0;
    for (int step = 1; step <= 32; step++) {
        gradients(m, &batch, s.B);
        if (step == 1) { first = objective(batch); }
        const OLMo2AdamW settings = adamw(5e-4f, 0.2f, step);
        olmo2_update(m, &settings);
    }
    *weights = read_all(m, OLMO2_PARAMETER);
    olmo2_free(m);
    return objective(batch) / first;
}

// fp32 weights and moments reduce the loss to a fraction of the first; with bf16 ones it ends within 5 % of
// that.
static void test_learning() {
    Floats weights, again;
    const double fine = learn(true, false, &weights);
    within("learning", "last loss over the first", fine, 0.6);
    for (int coarse = 1; coarse < 4; coarse++) {
        const bool master_weights = (coarse & 1) == 0, bf16_moments = (coarse & 2) != 0;
        if (!master_weights && !IS_BF16) { continue; }
        char figure[96];
        snprintf(figure, sizeof figure, "the same, %s%s", master_weights ? "" : "master weights off, ",
                 bf16_moments ? "bf16 moments" : "fp32 moments");
        const double reached = learn(master_weights, bf16_moments, &weights);
        within("learning", figure, reached, 0.6);
        within("learning", "  its distance from the fine run", relative(reached, fine), 0.05);
    }
    learn(!IS_BF16, true, &again);
    CHECK(same_bits(weights, again));
}

// 1000 updates with gradient 1. AdamW's step is then lr = 1e-4, and only the rounding is random. A weight
// goes from 1 to 0.9, where bf16 numbers are 2^-8 apart, which is 39 steps: rounding to the nearest would
// leave it at 1. Each update moves it by a whole 2^-8 with probability q = lr / 2^-8. So a weight ends with
// standard deviation sqrt(1000 q (1 - q)) 2^-8 = 0.0195, and the mean of 4096 weights with 3.05e-4, a seventh
// of the allowed 2 % of 0.1. The second moment goes to 1 - beta2^1000 = 0.632 for beta2 = 0.999. Rounded to
// the nearest, it would stop between 0.25 and 0.5, where 0.001 (1 - v) is less than half the spacing.
static void test_small_updates() {
    const Shape s = {"small updates", 4, 1, 1, 1, 4, 4, 1024, 1, 2, false, false};
    enum { UPDATES = 1000 };
    const double spacing = 1.0 / 256, q = 1e-4 / spacing, deviation = sqrt(UPDATES * q * (1.0 - q)) * spacing;
    OLMo2Form form = olmo2_form();
    form.master_weights = !IS_BF16;
    form.bf16_moments = true;
    OLMo2 *m = new_model<OLMo2>(s, training_of(s), form);
    for (size_t i = 0; i < parameter_count(&m->config); i++) {
        const Floats ones(parameter_at(&m->config, i).size, 1.0f);
        olmo2_write(m, OLMO2_PARAMETER, i, ones.data());
        olmo2_write(m, OLMO2_GRADIENT, i, ones.data());
    }
    for (int t = 1; t <= UPDATES; t++) {
        OLMo2AdamW settings = adamw(1e-4f, 1.0f, t);
        settings.beta2 = 0.999f;
        settings.weight_decay = 0.0f;
        olmo2_update(m, &settings);
    }
    const size_t first = 0, last = parameter_count(&m->config) - 1, size = parameter_at(&m->config, 0).size;
    Floats weights(size), others(size), moments(size);
    olmo2_read(m, OLMO2_PARAMETER, first, weights.data());
    olmo2_read(m, OLMO2_PARAMETER, last, others.data());
    olmo2_read(m, OLMO2_MOMENT2, first, moments.data());
    double mean = 0.0, squares = 0.0, moment = 0.0;
    for (size_t i = 0; i < size; i++) {
        mean += (double)weights[i] / (double)size;
        squares += ((double)weights[i] - 0.9) * ((double)weights[i] - 0.9) / (double)size;
        moment += (double)moments[i] / (double)size;
    }
    within(s.name, "1000 of 1e-4: their mean sum beside 0.1", relative(1.0 - mean, 0.1), 0.02);
    within(s.name, "mean second moment beside 0.632", relative(moment, 1.0 - pow(0.999, UPDATES)), 0.02);
    if (IS_BF16) {  // 20 %: 4096 draws give it to 1.1 %
        within(s.name, "deviation of a weight beside 0.0195", relative(sqrt(squares), deviation), 0.2);
        CHECK(!same_bits(weights, others));  // each tensor has its own random bits
    }
    olmo2_free(m);
}

// ---------------------------------------------------------------------------------------------
// memory

static size_t device_memory_free() {
    size_t available = 0, all = 0;
    CUDA_CHECK(cudaMemGetInfo(&available, &all));
    return available;
}

static bool given_back(size_t before) { return !EMULATED || device_memory_free() == before; }

// olmo2_create takes exactly the planned bytes from the device, and olmo2_free returns them.
static void test_plan_is_exact(const Shape &s, const OLMo2Room &room, const OLMo2Form &form,
                               const char *what) {
    const OLMo2Config config = config_of(s);
    const OLMo2Memory plan = olmo2_memory(&config, &room, &form);
    CHECK(plan.total ==
          plan.weights + plan.gradients + plan.moments + plan.activations + plan.workspace + plan.cache);
    const size_t before = device_memory_free();
    OLMo2 *m = new_model<OLMo2>(s, room, form);
    const size_t taken = before - device_memory_free();
    printf("%-22s planned %zu bytes, taken %zu: %s\n", s.name, plan.total, taken, what);
    CHECK(plan.total == taken || !EMULATED);
    olmo2_free(m);
    CHECK(given_back(before));
}

static void test_plans() {
    for (int i : {HEADS_OF_64, ODD_HEADS, INPUT_NORMS}) {
        OLMo2Room room = training_of(shapes[i]);
        OLMo2Form form = olmo2_form();
        test_plan_is_exact(shapes[i], room, form, "training");
        form.recompute = RECOMPUTE_NONE;
        test_plan_is_exact(shapes[i], room, form, "--recompute none");
        form.recompute = RECOMPUTE_BLOCK;
        form.bf16_moments = true;
        form.master_weights = !IS_BF16;
        room.slots = 3;
        room.cache_T = 50;
        room.rows = 60;
        test_plan_is_exact(shapes[i], room, form, "--recompute block, coarse, with samples");
        room.train = false;
        test_plan_is_exact(shapes[i], room, form, "evaluation and decoding");
        room.B = room.T = 0;
        test_plan_is_exact(shapes[i], room, form, "decoding");
    }
}

static size_t bytes_of(const char *size, const OLMo2Room &room, const OLMo2Form &form = olmo2_form()) {
    OLMo2Config config;
    CHECK(olmo2_preset(&config, size));
    return olmo2_memory(&config, &room, &form).total;
}

// The cache holds two arrays of numbers and, in pieces of 256 bytes, a position for each row and a piece for each
// slot. Without room to train, the weights of the bf16 build have two bytes each. More rows need more space for
// activations only.
static void test_plan_of_slots() {
    const Shape &s = shapes[GROUPED_QUERIES];
    const OLMo2Config c = config_of(s);
    const OLMo2Form form = olmo2_form();
    const OLMo2Room room = olmo2_room_to_extend(4, 64, 64), more = olmo2_room_to_extend(4, 64, 65);
    const OLMo2Memory plan = olmo2_memory(&c, &room, &form), larger = olmo2_memory(&c, &more, &form);
    CHECK(plan.cache == 2 * 4 * s.L * 64 * s.NKV * s.HS * sizeof(floatX) + 2 * 256);
    CHECK(plan.weights == parameter_array_size(&c) * sizeof(floatX));
    CHECK(larger.activations > plan.activations && larger.weights == plan.weights);
    CHECK(olmo2_room_to_extend(4, 64, 1).rows == 4);
}

// More or longer sequences need more memory; each level of recomputation needs less than the one before.
static void test_plans_are_ordered() {
    OLMo2Room room = olmo2_room_to_train(0, 0);
    OLMo2Form none = olmo2_form(), block = olmo2_form();
    none.recompute = RECOMPUTE_NONE;
    block.recompute = RECOMPUTE_BLOCK;
    for (room.B = 1; room.B <= 5; room.B++) {
        for (room.T = 16; room.T <= 4096; room.T *= 4) {
            OLMo2Room more = room, longer = room;
            more.B++;
            longer.T++;
            const size_t bytes = bytes_of("1B", room);
            CHECK(bytes_of("1B", more) > bytes && bytes_of("1B", longer) > bytes);
            CHECK(bytes_of("1B", room, none) > bytes && bytes_of("1B", room, block) < bytes);
        }
    }
}

// The README's claims: 1B fits a 24 GB card at 12 bytes per parameter, 7B an 80 GB card at 8.
static void test_plans_of_sizes() {
    if (!IS_BF16) { return; }
    const OLMo2Room room = olmo2_room_to_train(1, 4096);
    OLMo2Form form = olmo2_form();
    form.master_weights = false;
    within("1B", "bytes, elementwise, --master-weights off", (double)bytes_of("1B", room, form), 22.6e9);
    form.bf16_moments = true;
    form.recompute = RECOMPUTE_BLOCK;
    within("7B", "bytes, block, and --moments bf16", (double)bytes_of("7B", room, form), 61e9);
}

// ---------------------------------------------------------------------------------------------
// what cannot run

static void refuse(const OLMo2Config &config, const OLMo2Room &room, const OLMo2Form &form,
                   const char *words) {
    Error err;
    OLMo2 *m;
    CHECK_ERROR(olmo2_create(&m, &config, &room, &form, &err), err, words);
    CHECK(m == nullptr);
}

static void test_errors() {
    const Shape &s = shapes[HEADS_OF_64];
    const OLMo2Room room = training_of(s);
    const OLMo2Form form = olmo2_form();
    const size_t before = device_memory_free();
    OLMo2Config config = config_of(s);
    config.HS = 258;
    refuse(config, room, form, "head_dim 258");
    refuse(config, room, form, "at most 256");
    config = config_of(s);
    config.C = 32768;
    refuse(config, room, form, "rows of 32768 channels");
    config = config_of(s);
    config.F = 97;
    config.C = 24;
    refuse(config, room, form, "multiples of 16");
    refuse(config, room, form, "hidden_size 24");
    OLMo2Form lent = form;
    lent.lent_weights = true;
    refuse(config_of(s), room, lent, "weights in a mapped file");
    CHECK(!olmo2_lends());
    if (!IS_BF16) {
        OLMo2Form coarse = form;
        coarse.weights = WEIGHTS_BF16;
        refuse(config_of(s), room, coarse, "weights in bf16: this program was built with PRECISION=fp32");
        coarse = form;
        coarse.master_weights = false;
        refuse(config_of(s), room, coarse, "--master-weights off");
        refuse(config_of(s), room, coarse, "PRECISION=bf16");
    }

    // 80 GB cannot hold the moments of a 32B. The message says what is needed, what is free and what to do.
    CHECK(olmo2_preset(&config, "32B"));
    char bytes[32];
    const char *words[] = {format_bytes(bytes, olmo2_memory(&config, &room, &form).total),
                           "free of",
                           "--micro-batch-size",
                           "--seq-len",
                           "--recompute block",
                           "--master-weights off",
                           "--moments bf16"};
    for (const char *word : words) { refuse(config, room, form, word); }
    char free_bytes[32];
    refuse(config, room, form, format_bytes(free_bytes, before));
    CHECK(given_back(before));  // a failed olmo2_create keeps nothing

#ifdef CUDA_ON_CPU
    char text[128];
    setenv("CUDA_ON_CPU_DEVICES", "0", 1);
    refuse(config_of(s), room, form, "no CUDA device");
    refuse(config_of(s), room, form, "train_olmo2 is the same program for the CPU");
    olmo2_describe(&room, &form, text, sizeof text);
    CHECK(strstr(text, "no device found") != nullptr);
    setenv("CUDA_ON_CPU_DEVICES", "1", 1);
    setenv("CUDA_ON_CPU_CAPABILITY", "75", 1);
    refuse(config_of(s), room, form, "sm_75");
    refuse(config_of(s), room, form, "sm_80");
    unsetenv("CUDA_ON_CPU_CAPABILITY");
#endif
    OLMo2 *m = new_model<OLMo2>(s, room);  // with a suitable device it succeeds
    olmo2_free(m);
    CHECK(given_back(before));
}

int main() {
    for (const Shape &s : shapes) { test_side_by_side(s); }
    test_many_rows();
    for (int i : {HEADS_OF_64, ODD_HEADS, INPUT_NORMS}) { test_bits(shapes[i]); }
    for (Recompute r : {RECOMPUTE_ELEMENTWISE, RECOMPUTE_NONE, RECOMPUTE_BLOCK}) {
        for (int i : {HEADS_OF_64, ODD_HEADS}) { test_ablations(shapes[i], r); }
    }
    for (int i : {HEADS_OF_64, ODD_CHANNELS}) { test_micro_batches(shapes[i], false); }
    if (IS_BF16) { test_micro_batches(shapes[GROUPED_QUERIES], true); }
    for (int i : {GROUPED_QUERIES, HEADS_OF_96, ODD_CHANNELS, INPUT_NORMS}) { test_decode(shapes[i], 19); }
    for (const Shape &s : shapes) { test_prefill(s, 11); }
    test_prefill(shapes[GROUPED_QUERIES], IS_BF16 ? 145 : 35);  // more than a tile of queries and two of keys
    for (int i : {GROUPED_QUERIES, ODD_HEADS}) { test_copies(shapes[i]); }
    test_pieces_while_training(shapes[GROUPED_QUERIES], RECOMPUTE_ELEMENTWISE);
    test_pieces_while_training(shapes[INPUT_NORMS], RECOMPUTE_BLOCK);
    test_decode(shapes[ODD_HEADS], DECODE_WARPS * DECODE_KEYS + 3);  // more keys than one round takes
    test_all_arrays();
    test_learning();
    test_small_updates();
    test_plans();
    test_plan_of_slots();
    test_plans_are_ordered();
    test_plans_of_sizes();
    test_errors();
    return check_report();
}
