// parameters.h: THE table of an OLMo 2's parameters. A row is one tensor of the model, or one of every layer.
// Allocation, initialisation, weight decay, checkpoints, averages and tests are loops over it:
//
//   parameter_count, _at, _index    every tensor, in the order of the model
//   parameter_offset                where a tensor begins in an array of all parameters
//   parameter_array_size            the elements of such an array
//   parameter_total, _without_embeddings   the numbers in a model
//   parameter_largest               the numbers in its largest tensor
#ifndef LLMC_PARAMETERS_H
#define LLMC_PARAMETERS_H

#include "olmo2.h"

// A dimension as a function of the configuration: Q = NH * HS, KV = NKV * HS.
typedef enum { DIM_1, DIM_V, DIM_C, DIM_Q, DIM_KV, DIM_F } Dimension;
typedef enum { INIT_NORMAL, INIT_ONE } Init;

// The rows of the table, in its order.
enum {
    EMBEDDING,
    WQ,
    WK,
    WV,
    WO,
    Q_NORM,
    K_NORM,
    ATTENTION_NORM,
    W_GATE,
    W_UP,
    W_DOWN,
    FEEDFORWARD_NORM,
    FINAL_NORM,
    LM_HEAD,
    PARAMETER_ROWS
};

typedef struct {
    int id;                   // the row's index in the table
    const char *name;         // in a Hugging Face checkpoint; a layer's follows "model.layers.N."
    Dimension rows, columns;  // y = x W^T: rows are outputs; a norm's weight is (rows)
    bool per_layer;
    bool decay;  // OLMo 2 decays everything but the input embedding, norms included
    Init init;
} ParameterRow;

// clang-format off
static const ParameterRow olmo2_parameters[] = {
//  id                Hugging Face name                    rows    columns  layer  decay  init
  { EMBEDDING,        "model.embed_tokens.weight",         DIM_V,  DIM_C,   false, false, INIT_NORMAL },
  { WQ,               "self_attn.q_proj.weight",           DIM_Q,  DIM_C,   true,  true,  INIT_NORMAL },
  { WK,               "self_attn.k_proj.weight",           DIM_KV, DIM_C,   true,  true,  INIT_NORMAL },
  { WV,               "self_attn.v_proj.weight",           DIM_KV, DIM_C,   true,  true,  INIT_NORMAL },
  { WO,               "self_attn.o_proj.weight",           DIM_C,  DIM_Q,   true,  true,  INIT_NORMAL },
  { Q_NORM,           "self_attn.q_norm.weight",           DIM_Q,  DIM_1,   true,  true,  INIT_ONE    },
  { K_NORM,           "self_attn.k_norm.weight",           DIM_KV, DIM_1,   true,  true,  INIT_ONE    },
  { ATTENTION_NORM,   "post_attention_layernorm.weight",   DIM_C,  DIM_1,   true,  true,  INIT_ONE    },
  { W_GATE,           "mlp.gate_proj.weight",              DIM_F,  DIM_C,   true,  true,  INIT_NORMAL },
  { W_UP,             "mlp.up_proj.weight",                DIM_F,  DIM_C,   true,  true,  INIT_NORMAL },
  { W_DOWN,           "mlp.down_proj.weight",              DIM_C,  DIM_F,   true,  true,  INIT_NORMAL },
  { FEEDFORWARD_NORM, "post_feedforward_layernorm.weight", DIM_C,  DIM_1,   true,  true,  INIT_ONE    },
  { FINAL_NORM,       "model.norm.weight",                 DIM_C,  DIM_1,   false, true,  INIT_ONE    },
  { LM_HEAD,          "lm_head.weight",                    DIM_V,  DIM_C,   false, true,  INIT_NORMAL },
};
// clang-format on
static_assert(sizeof olmo2_parameters / sizeof olmo2_parameters[0] == PARAMETER_ROWS, "one row each");

static inline size_t dimension_size(const OLMo2Config *config, Dimension dimension) {
    switch (dimension) {
    case DIM_1: return 1;
    case DIM_V: return config->V;
    case DIM_C: return config->C;
    case DIM_Q: return config->NH * config->HS;
    case DIM_KV: return config->NKV * config->HS;
    case DIM_F: return config->F;
    }
    return 0;
}

static inline size_t parameter_row_size(const OLMo2Config *config, const ParameterRow *row) {
    return dimension_size(config, row->rows) * dimension_size(config, row->columns);
}

// A tensor of a model.
typedef struct {
    const ParameterRow *row;
    size_t layer;          // 0 for a tensor that is not in a layer
    size_t rows, columns;  // columns is 1 for a norm
    size_t size;           // rows * columns
    size_t offset;         // of its first element in an array that holds all parameters
    char name[96];         // its Hugging Face name
} Parameter;

// A matrix, even one with a single column; otherwise the weight of a norm.
static inline bool parameter_is_matrix(const Parameter *p) { return p->row->columns != DIM_1; }

// Every tensor starts at a multiple of 16 elements, a cache line of floats.
static inline size_t parameter_padded(size_t size) { return (size + 15) / 16 * 16; }

// The elements before tensor `id` of layer `layer` in an array that holds all parameters. The array has the
// order of the model: the embedding, layer by layer, the final norm, lm_head.
static inline size_t parameter_offset(const OLMo2Config *config, int id, size_t layer) {
    size_t before = 0, per_layer = 0, layer_before = 0;
    for (int i = 0; i < PARAMETER_ROWS; i++) {
        const ParameterRow *row = &olmo2_parameters[i];
        size_t size = parameter_padded(parameter_row_size(config, row));
        if (row->per_layer) {
            per_layer += size;
            if (i < id) { layer_before += size; }
        } else if (i < id) {
            before += size;
        }
    }
    bool in_layer = id < PARAMETER_ROWS && olmo2_parameters[id].per_layer;
    if (in_layer) { return before + layer * per_layer + layer_before; }
    return before + (id > EMBEDDING ? config->L * per_layer : 0);
}

// Elements of an array that holds all parameters, including padding.
static inline size_t parameter_array_size(const OLMo2Config *config) {
    return parameter_offset(config, PARAMETER_ROWS, 0);
}

// The number of tensors in a model. An index of parameter_at is below it and follows the array's order.
static inline size_t parameter_count(const OLMo2Config *config) {
    return 3 + config->L * (PARAMETER_ROWS - 3);
}

// The index of tensor `id` of layer `layer` (0 for one that is not in a layer), as parameter_at takes it.
static inline size_t parameter_index(const OLMo2Config *config, int id, size_t layer) {
    const size_t per_layer = PARAMETER_ROWS - 3;
    if (id >= FINAL_NORM) { return 1 + config->L * per_layer + (size_t)(id - FINAL_NORM); }
    return id == EMBEDDING ? 0 : 1 + layer * per_layer + (size_t)(id - WQ);
}

static inline Parameter parameter_at(const OLMo2Config *config, size_t index) {
    const size_t per_layer = PARAMETER_ROWS - 3;
    Parameter p;
    int id = EMBEDDING;
    p.layer = 0;
    if (index > config->L * per_layer) {
        id = index == config->L * per_layer + 1 ? FINAL_NORM : LM_HEAD;
    } else if (index > 0) {
        p.layer = (index - 1) / per_layer;
        id = WQ + (int)((index - 1) % per_layer);
    }
    p.row = &olmo2_parameters[id];
    p.rows = dimension_size(config, p.row->rows);
    p.columns = dimension_size(config, p.row->columns);
    p.size = p.rows * p.columns;
    p.offset = parameter_offset(config, id, p.layer);
    if (p.row->per_layer) {
        snprintf(p.name, sizeof p.name, "model.layers.%zu.%s", p.layer, p.row->name);
    } else {
        snprintf(p.name, sizeof p.name, "%s", p.row->name);
    }
    return p;
}

// Numbers in a model, without padding.
static inline size_t parameter_total(const OLMo2Config *config) {
    size_t total = 0;
    for (int i = 0; i < PARAMETER_ROWS; i++) {
        const ParameterRow *row = &olmo2_parameters[i];
        total += parameter_row_size(config, row) * (row->per_layer ? config->L : 1);
    }
    return total;
}

// The size by which OLMo 2 models are compared: without the embedding and lm_head.
static inline size_t parameter_total_without_embeddings(const OLMo2Config *config) {
    return parameter_total(config) - 2 * config->V * config->C;
}

// Numbers in the largest tensor of a model.
static inline size_t parameter_largest(const OLMo2Config *config) {
    size_t largest = 0;
    for (int i = 0; i < PARAMETER_ROWS; i++) {
        size_t size = parameter_row_size(config, &olmo2_parameters[i]);
        largest = size > largest ? size : largest;
    }
    return largest;
}

#endif
