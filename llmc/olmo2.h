// olmo2.h: the configuration of an OLMo 2 model, the named sizes, and the interface of a backend.
//
// A backend holds the mathematics and implements the interface: train_olmo2.c for the CPU, train_olmo2.cu for
// a GPU. Everything else in the project sees a model only through this interface.
//
// Shapes use the same letters everywhere: B batch, T sequence length, C channels of the residual stream,
// L layers, NH query heads, NKV key/value heads, HS head size, F feed-forward hidden size, V vocabulary rows.
//
//   olmo2_preset, config_is_end                   a size by its name; whether a token ends a text
//   olmo2_room_to_train, _to_measure, _to_decode  the sizes that a model has room for
//   olmo2_form                                    how a model stores its numbers
//   olmo2_create and the functions after it       the interface of a backend
#ifndef LLMC_OLMO2_H
#define LLMC_OLMO2_H

#include "utils.h"

// ---------------------------------------------------------------------------------------------
// the configuration

#define OLMO2_NO_TOKEN UINT32_MAX  // no such token; as a label: the position has none

enum { OLMO2_MORE_ENDS = 8 };

typedef struct {
    size_t C;                // hidden_size
    size_t L;                // num_hidden_layers
    size_t NH;               // num_attention_heads
    size_t NKV;              // num_key_value_heads, a divisor of NH
    size_t HS;               // head_dim, even; hidden_size / num_attention_heads unless the config has it
    size_t F;                // intermediate_size
    size_t V;                // vocab_size: rows of the embedding and of lm_head, including padding rows
    size_t max_T;            // max_position_embeddings
    float rms_eps;           // rms_norm_eps, 1e-6 in every release
    float rope_theta;        // 500000
    float init_std;          // initializer_range, 0.02
    uint32_t bos, eos, pad;  // token ids, or OLMO2_NO_TOKEN; eos ends every document
    uint32_t more_ends[OLMO2_MORE_ENDS];  // (more_end_count) ids besides eos at which generation stops
    size_t more_end_count;
    bool ablate_qk_norm;  // ablation: queries and keys are not normalised
    bool pre_norm;        // ablation: the norms are on the branch inputs, as in models before OLMo 2
} OLMo2Config;

// Whether generation stops at this token.
static inline bool config_is_end(const OLMo2Config *config, uint32_t id) {
    if (id == OLMO2_NO_TOKEN) { return false; }
    for (size_t i = 0; i < config->more_end_count; i++) {
        if (config->more_ends[i] == id) { return true; }
    }
    return id == config->eos;
}

// The sizes of the OLMo 2 family and of its model ladder. 1B is the released model; 1B-core is OLMo-core's
// `olmo2_1B`, which has 18 layers. Sources: OLMo-core's TransformerConfig, the released config.json files.
typedef struct {
    const char *name;
    size_t C, L, NH, NKV, HS, F;
} OLMo2Preset;

// clang-format off
static const OLMo2Preset olmo2_presets[] = {
//  name        C     L   NH  NKV  HS      F
  { "1M",        12,  4,   4,   4,   4,   256 },
  { "14M",      128,  4,   8,   8,  16,   512 },
  { "30M",      256,  4,   8,   8,  32,   768 },
  { "60M",      384,  8,   8,   8,  48,  1536 },
  { "100M",     512, 12,   8,   8,  64,  2048 },
  { "190M",     768, 12,  12,  12,  64,  3072 },
  { "370M",    1024, 16,  16,  16,  64,  4096 },
  { "600M",    1344, 16,  16,  16,  84,  5376 },
  { "760M",    1536, 16,  16,  16,  96,  6144 },
  { "1B",      2048, 16,  16,  16, 128,  8192 },
  { "1B-core", 2048, 18,  16,  16, 128,  8192 },
  { "3B",      3328, 16,  16,  16, 208, 13312 },
  { "7B",      4096, 32,  32,  32, 128, 11008 },
  { "13B",     5120, 40,  40,  40, 128, 13824 },
  { "32B",     5120, 64,  40,   8, 128, 27648 },
};
// clang-format on
enum { OLMO2_PRESETS = sizeof olmo2_presets / sizeof olmo2_presets[0] };

// Fills *config from the size of that name, with the tokens and constants of the releases. Returns false if
// no size has that name.
static inline bool olmo2_preset(OLMo2Config *config, const char *name) {
    for (size_t i = 0; i < OLMO2_PRESETS; i++) {
        const OLMo2Preset *p = &olmo2_presets[i];
        if (strcmp(p->name, name) != 0) { continue; }
        memset(config, 0, sizeof *config);
        config->C = p->C;
        config->L = p->L;
        config->NH = p->NH;
        config->NKV = p->NKV;
        config->HS = p->HS;
        config->F = p->F;
        config->V = 100352;
        config->max_T = 4096;
        config->rms_eps = 1e-6f;
        config->rope_theta = 500000.0f;
        config->init_std = 0.02f;
        config->bos = OLMO2_NO_TOKEN;
        config->eos = 100257;
        config->pad = 100277;
        return true;
    }
    return false;
}

// Whether a prompt of `length` tokens leaves a position for what the model writes. Messages call it `name`.
static inline bool config_leaves_room(const OLMo2Config *config, size_t length, const char *name,
                                      Error *err) {
    return length < config->max_T ||
           fail(err,
                "%s: has %zu tokens, expected fewer than the model's %zu positions, to leave room to write",
                name, length, config->max_T);
}

// ---------------------------------------------------------------------------------------------
// the interface of a backend

typedef struct OLMo2 OLMo2;      // a model and its buffers; each backend has its own
typedef struct Profile Profile;  // what its functions cost (profile.h)

// What the backward recomputes instead of storing: activations that need no matrix product, nothing, or the
// whole layer from its input (a third more arithmetic). The results are bit-identical.
typedef enum { RECOMPUTE_ELEMENTWISE, RECOMPUTE_NONE, RECOMPUTE_BLOCK } Recompute;  // as --recompute's words

// The sizes that a model has room for.
typedef struct {
    size_t B, T;     // largest batch and length of olmo2_forward; 0, 0 if it is never called
    bool train;      // gradients, moments and the activations that the backward needs
    size_t slots;    // sequences side by side, each with a cache of cache_T positions; 0 for none
    size_t cache_T;  // the positions of a slot's cache
    size_t rows;     // most tokens of one olmo2_prefill, all pieces together; at least slots
} OLMo2Room;

static inline OLMo2Room olmo2_room_to_train(size_t B, size_t T) {
    const OLMo2Room room = {B, T, true, 0, 0, 0};
    return room;
}

// Forward only. With B and T 0, the model just holds its weights.
static inline OLMo2Room olmo2_room_to_measure(size_t B, size_t T) {
    const OLMo2Room room = {B, T, false, 0, 0, 0};
    return room;
}

// Sequences that grow: at most `rows` tokens at a time (raised to `slots`: one token for each of them).
static inline OLMo2Room olmo2_room_to_extend(size_t slots, size_t cache_T, size_t rows) {
    const OLMo2Room room = {0, 0, false, slots, cache_T, rows > slots ? rows : slots};
    return room;
}

// The most positions that a sequence can have: the rows of the table of RoPE.
static inline size_t olmo2_room_positions(const OLMo2Room *room) {
    return room->T > room->cache_T ? room->T : room->cache_T;
}

// The type in which a model keeps its weights.
typedef enum { WEIGHTS_FP32, WEIGHTS_BF16 } WeightType;

// The form in which a model stores and computes its numbers.
typedef struct {
    Recompute recompute;
    WeightType weights;   // of matrices. CPU: bf16 only without room to train. GPU: what it was built for
    bool lent_weights;    // CPU: no memory for the weights; olmo2_lend says where each of them lies
    bool master_weights;  // bf16 weights have a copy in fp32; without one they are rounded stochastically
    bool bf16_moments;    // AdamW's moments in bf16, rounded stochastically
    bool bf16_products;   // CPU: round the operands of matrix products to bf16
} OLMo2Form;

// The default: elementwise recomputation, master weights, nothing else in bf16. A GPU program that was built for
// bf16 keeps its weights in bf16 nonetheless; one that was built for fp32 refuses WEIGHTS_BF16.
static inline OLMo2Form olmo2_form(void) {
    const OLMo2Form form = {RECOMPUTE_ELEMENTWISE, WEIGHTS_FP32, false, true, false, false};
    return form;
}

// Bytes, by purpose.
typedef struct {
    size_t weights, gradients, moments, activations, workspace, cache, total;
} OLMo2Memory;

// One AdamW update (Loshchilov & Hutter 2019, as in PyTorch). parameters.h says which parameters decay.
typedef struct {
    float lr;
    float beta1, beta2, eps;
    float weight_decay;
    float gradient_scale;  // the clipping coefficient: every gradient is first multiplied by it
    int64_t t;             // 1 for the first update: the exponent of the bias corrections
} OLMo2AdamW;

// The arrays that hold a number for every parameter.
typedef enum { OLMO2_PARAMETER, OLMO2_GRADIENT, OLMO2_MOMENT1, OLMO2_MOMENT2 } OLMo2Array;

#ifdef __cplusplus
extern "C" {
#endif

// Describes what will run, as "CPU, fp32, 2 threads".
void olmo2_describe(const OLMo2Room *room, const OLMo2Form *form, char *text, size_t size);

// The bytes of the arrays that olmo2_create would allocate, and of the weights that would be lent.
OLMo2Memory olmo2_memory(const OLMo2Config *config, const OLMo2Room *room, const OLMo2Form *form);

// Whether this backend can run a model of these sizes in this form. The error names the flag or the size that
// it does not support, and what to do.
bool olmo2_check(const OLMo2Config *config, const OLMo2Room *room, const OLMo2Form *form, Error *err);

// Creates a model of zeros. The caller owns *m and releases it with olmo2_free; on failure *m is NULL. Fails
// where olmo2_check does, and where memory is too small, naming the bytes needed. Scratch space is sized for
// the current thread count; later calls may use fewer threads, not more.
bool olmo2_create(OLMo2 **m, const OLMo2Config *config, const OLMo2Room *room, const OLMo2Form *form,
                  Error *err);
void olmo2_free(OLMo2 *m);
const OLMo2Config *olmo2_config(const OLMo2 *m);

// The model's own profile (profile.h), which lives as long as the model. NULL where the backend has none.
Profile *olmo2_profile(OLMo2 *m);

// From the embeddings of tokens (B, T), each below V, to the output of the final norm, which stays in the
// model. B * T is at most the room's, T at most the room's T.
void olmo2_forward(OLMo2 *m, const uint32_t *tokens, size_t B, size_t T);

// The head, applied to the batch of the last forward. labels (B, T), OLMO2_NO_TOKEN where a position has
// none.
//   lse (B, T)       logsumexp over all V logits
//   logprobs (B, T)  log p(label) = logit[label] - lse, 0 where there is no label
// With weights NULL nothing is differentiated. Positions without a label are then not computed: their lse
// is 0. With weights (B, T), the objective is sum_t w_t (-logprob_t + z lse_t^2). The gradient of lm_head
// is accumulated, and the gradient of the hidden states is left for olmo2_backward. A position without a
// label must have weight 0.
void olmo2_classify(OLMo2 *m, const uint32_t *labels, const float *weights, float z, float *logprobs,
                    float *lse);

// From the final norm back to the embeddings: accumulates every other gradient. Call it after olmo2_classify
// with weights.
void olmo2_backward(OLMo2 *m);

void olmo2_zero_gradients(OLMo2 *m);
double olmo2_gradient_norm(OLMo2 *m);  // sqrt of the sum of squares over all gradients
void olmo2_update(OLMo2 *m, const OLMo2AdamW *settings);

// Copies one parameter tensor (index as in parameters.h), its gradient or one of its moments, out of the
// model or into it. Values written to bf16 are rounded to the nearest, to even in the middle.
void olmo2_read(const OLMo2 *m, OLMo2Array array, size_t index, float *values);
void olmo2_write(OLMo2 *m, OLMo2Array array, size_t index, const float *values);

// Sequences with a cache: each slot holds the keys and values of one sequence, from its first position on, so
// a sequence grows by computing only its new tokens.

// The next `count` tokens (at least 1) of the sequence in `slot`.
typedef struct {
    size_t slot, count;
} OLMo2Piece;

// Appends tokens to n sequences by one forward. tokens holds the tokens of the first piece, then those of
// the second, and so on: `rows` in all, at most the room's. No slot may occur twice, and no sequence may
// grow beyond cache_T. The final norm's output of these rows stays in the model, in place of that of the
// last olmo2_forward: olmo2_logits and olmo2_classify (with B * T = rows, without weights) apply the head
// to it. However sequences are cut into pieces and whatever is beside them, the CPU gives the same bits,
// and those of olmo2_forward. On a GPU results agree within rounding.
void olmo2_prefill(OLMo2 *m, const uint32_t *tokens, const OLMo2Piece *pieces, size_t n);

// The logits (n, V) of those rows of the last olmo2_prefill or olmo2_forward.
void olmo2_logits(OLMo2 *m, const size_t *rows, size_t n, float *logits);

// For i < n, appends tokens[i] to the sequence in slots[i]: olmo2_prefill with pieces of one token, then the
// logits (n, V) of every row.
void olmo2_decode(OLMo2 *m, const uint32_t *tokens, const size_t *slots, size_t n, float *logits);

size_t olmo2_positions(const OLMo2 *m, size_t slot);           // the length of the slot's sequence
void olmo2_truncate(OLMo2 *m, size_t slot, size_t positions);  // forgets what is behind; 0: all of it

// Copies positions [begin, end) of the sequence `from` into another slot, `to`, which then has `end`
// positions. The caller knows that both begin with the same `begin` tokens. So a prompt is computed once
// for many samples.
void olmo2_copy_slot(OLMo2 *m, size_t to, size_t from, size_t begin, size_t end);

// Weights where they lie, such as in a mapped file. Whether this backend can compute with them there: the CPU
// can; a GPU needs them in its own memory.
bool olmo2_lends(void);

// In a model created with form.lent_weights: the matrix with that index is the array `data` of
// form.weights, at any address, which must not change and must outlive the model. Every matrix must be lent
// before the model computes. Norms are the model's own, in fp32: olmo2_write writes them, as in any model.
void olmo2_lend(OLMo2 *m, size_t index, const void *data);

#ifdef __cplusplus
}
#endif
#endif
