// weights.h: the weights of a model that is used, not trained: mapped from the files of its directory, or
// copied.
//
// A released model has its matrices in BF16 or F32. A backend that can compute with them where they lie
// (olmo2_lends) is lent the mapped files: nothing is copied, so the model takes the memory of its files, and
// programs that use the same model share it. Everything else is converted into arrays of the model. Norms are
// small and always copied, as floats.
//
// Doors, declared below:
//   weights_open       maps the files, checks every tensor and decides on the form
//   weights_form       that decision, for olmo2_create
//   weights_memory     olmo2_memory, lent weights included
//   weights_fit        whether this machine has that much memory
//   weights_load       gives the weights to a model
//   weights_describe   in words: "2.97 GB of bf16, mapped"
//   weights_close
#ifndef LLMC_WEIGHTS_H
#define LLMC_WEIGHTS_H

#include "checkpoint.h"
#include "memory_limit.h"

// In which type the model has its weights; in the order of --weights' words. Auto: as they lie in the files
// if all matrices are BF16 or all are F32, otherwise in fp32.
typedef enum { WEIGHTS_AUTO, WEIGHTS_AS_BF16, WEIGHTS_AS_FP32 } WeightChoice;

// All zeros: none.
typedef struct {
    Safetensors files;  // mapped
    WeightType type;    // that the model has
    bool lent;          // the matrices stay in the files
    unsigned dtypes;    // bits 1 << Dtype: the types of the matrices in the files
    size_t bytes;       // of the model's weights
    char *realigned;    // (realigned_bytes) lent matrices that are not aligned in their file
    size_t realigned_bytes;
} Weights;

// The error of a choice that the program was not built for names --weights. Release with weights_close, after
// a failure too. If the weights are lent, the model has to be freed first.
static inline bool weights_open(Weights *w, const char *dir, const OLMo2Config *config, WeightChoice choice,
                                Error *err);

static inline void weights_form(const Weights *w, OLMo2Form *form) {
    if (!olmo2_lends()) { return; }
    form->weights = w->type;
    form->lent_weights = w->lent;
}

// `form` is the one of weights_form. Lent weights count: a model that does not fit would be read from the
// disk for every token.
static inline OLMo2Memory weights_memory(const Weights *w, const OLMo2Config *config, const OLMo2Room *room,
                                         const OLMo2Form *form);

// The error has the figures and says what would need less.
static inline bool weights_fit(const Weights *w, const OLMo2Config *config, const OLMo2Room *room,
                               const OLMo2Form *form, Error *err);

// Into a model that was created with that form. Reads every page of the files once, so the first token does
// not wait for the disk; `heard` is told how far it is (reading.h), and may be NULL.
static inline bool weights_load(Weights *w, OLMo2 *m, Heard heard, void *context, Error *err);

static inline const char *weights_describe(const Weights *w, char text[160]);

static inline void weights_close(Weights *w) {
    safetensors_close(&w->files);
    free_pages(w->realigned, w->realigned_bytes, 1);
    memset(w, 0, sizeof *w);
}

// ---------------------------------------------------------------------------------------------
// the decision

// An array of a type begins at a multiple of its size. A tensor in a file need not; the header's length says.
static inline bool weights_aligned(const SafetensorsTensor *t) {
    return (uintptr_t)t->data % safetensors_dtypes[t->dtype].bytes == 0;
}

static inline size_t weights_padded(size_t bytes) { return (bytes + 63) / 64 * 64; }

static inline const char *weight_type_name(WeightType type) { return type == WEIGHTS_BF16 ? "bf16" : "fp32"; }

// The type in which a backend that does not lend keeps weights: it depends on how the program was built.
static inline WeightType weights_built_for(const OLMo2Config *config) {
    const OLMo2Room room = olmo2_room_to_extend(1, 1, 1);
    const OLMo2Form form = olmo2_form();
    const size_t bytes = olmo2_memory(config, &room, &form).weights;
    return bytes < parameter_array_size(config) * sizeof(float) ? WEIGHTS_BF16 : WEIGHTS_FP32;
}

static inline bool weights_choose(Weights *w, const OLMo2Config *config, WeightChoice choice, Error *err) {
    const unsigned bf16 = 1U << DTYPE_BF16, f32 = 1U << DTYPE_F32;
    w->type = choice == WEIGHTS_AS_BF16 || (choice == WEIGHTS_AUTO && w->dtypes == bf16) ? WEIGHTS_BF16
                                                                                         : WEIGHTS_FP32;
    w->lent = olmo2_lends() && w->dtypes == (w->type == WEIGHTS_BF16 ? bf16 : f32);
    if (olmo2_lends()) { return true; }
    const WeightType built_for = weights_built_for(config);
    if (choice == WEIGHTS_AUTO) { w->type = built_for; }
    return w->type == built_for ||
           fail(
               err,
               "--weights %s: this program was built to keep weights in %s; leave the flag out, or build the "
               "program with PRECISION=%s",
               weight_type_name(w->type), weight_type_name(built_for), weight_type_name(w->type));
}

static inline bool weights_open(Weights *w, const char *dir, const OLMo2Config *config, WeightChoice choice,
                                Error *err) {
    memset(w, 0, sizeof *w);
    if (!checkpoint_open(&w->files, dir, &weights_file, config, err)) { return false; }
    for (size_t i = 0; i < parameter_count(config); i++) {
        const Parameter p = parameter_at(config, i);
        const SafetensorsTensor *t = safetensors_find(&w->files, p.name);
        if (!parameter_is_matrix(&p)) { continue; }
        w->dtypes |= 1U << t->dtype;
        w->realigned_bytes += weights_aligned(t) ? 0 : weights_padded(t->bytes);
    }
    if (!weights_choose(w, config, choice, err)) { return false; }
    if (!w->lent) { w->realigned_bytes = 0; }
    w->bytes = parameter_total(config) * (w->type == WEIGHTS_BF16 ? sizeof(uint16_t) : sizeof(float));
    return true;
}

// "2.97 GB of bf16, mapped", "... of fp32, converted from BF16 and F16", "... of bf16, rounded from F32".
static inline const char *weights_describe(const Weights *w, char text[160]) {
    enum { SIZE = 160 };
    char bytes[32];
    const unsigned exact =
        w->type == WEIGHTS_BF16 ? 1U << DTYPE_BF16 : 1U << DTYPE_F32 | 1U << DTYPE_BF16 | 1U << DTYPE_F16;
    const unsigned same = 1U << (w->type == WEIGHTS_BF16 ? DTYPE_BF16 : DTYPE_F32);
    const char *how = w->lent                     ? "mapped"
                      : w->dtypes == same         ? "copied"
                      : (w->dtypes & ~exact) != 0 ? "rounded"
                                                  : "converted";
    int length =
        snprintf(text, SIZE, "%s of %s, %s", format_bytes(bytes, w->bytes), weight_type_name(w->type), how);
    if (w->realigned_bytes > 0) {
        snprintf(text + length, SIZE - (size_t)length, ", of which %s copied: not aligned in the files",
                 format_bytes(bytes, w->realigned_bytes));
    }
    const char *before = " from ";
    for (int d = 0; d < DTYPES && w->dtypes != same; d++) {
        if ((w->dtypes & 1U << d) == 0) { continue; }
        length += snprintf(text + length, SIZE - (size_t)length, "%s%s", before, safetensors_dtypes[d].name);
        before = " and ";
    }
    return text;
}

// ---------------------------------------------------------------------------------------------
// memory

static inline OLMo2Memory weights_memory(const Weights *w, const OLMo2Config *config, const OLMo2Room *room,
                                         const OLMo2Form *form) {
    OLMo2Memory memory = olmo2_memory(config, room, form);
    if (w->lent && memory.weights < w->bytes) {
        memory.total += w->bytes - memory.weights;
        memory.weights = w->bytes;
    }
    return memory;
}

// What would need less, if the model needs `memory` and may have `most` bytes.
static inline const char *weights_advice(const Weights *w, const OLMo2Memory *memory, size_t most) {
    if (memory->weights <= most) { return "Fewer or shorter sequences need less."; }
    if (w->type == WEIGHTS_FP32 && memory->total - memory->weights / 2 <= most) {
        return "--weights bf16 needs half as much.";
    }
    return "Use a smaller model.";
}

static inline bool weights_fit(const Weights *w, const OLMo2Config *config, const OLMo2Room *room,
                               const OLMo2Form *form, Error *err) {
    if (!olmo2_lends()) { return true; }  // olmo2_create knows the memory of its device
    const OLMo2Memory memory = weights_memory(w, config, room, form);
    const MemoryLimit limit = memory_limit("");
    char needed[512], found[32];
    return memory.total <= limit.bytes ||
           fail(err, "out of memory: the model needs %s;\n%s %s. %s", memory_text(needed, &memory),
                limit.source, format_bytes(found, limit.bytes), weights_advice(w, &memory, limit.bytes));
}

// ---------------------------------------------------------------------------------------------
// reading

// One parameter into the model. *realigned is where the next lent matrix that is not aligned goes.
static inline bool weights_give(const Weights *w, OLMo2 *m, size_t index, float *values, char **realigned,
                                Error *err) {
    const Parameter p = parameter_at(olmo2_config(m), index);
    const SafetensorsTensor *t = safetensors_find(&w->files, p.name);
    if (w->lent && parameter_is_matrix(&p) && weights_aligned(t)) {
        olmo2_lend(m, index, t->data);
        return true;
    }
    if (w->lent && parameter_is_matrix(&p)) {
        memcpy(*realigned, t->data, t->bytes);
        olmo2_lend(m, index, *realigned);
        *realigned += weights_padded(t->bytes);
    } else {
        if (!safetensors_to_float(t, values, err)) { return false; }
        olmo2_write(m, OLMO2_PARAMETER, index, values);
    }
    reading_forget(t);
    return true;
}

static inline bool weights_load(Weights *w, OLMo2 *m, Heard heard, void *context, Error *err) {
    const OLMo2Config *config = olmo2_config(m);
    Reading reading = {heard, context, 0, 0};
    size_t largest = 0;  // of the parameters that are copied as floats
    for (size_t i = 0; i < parameter_count(config); i++) {
        const Parameter p = parameter_at(config, i);
        reading.total += safetensors_find(&w->files, p.name)->bytes;
        if (!(w->lent && parameter_is_matrix(&p)) && p.size > largest) { largest = p.size; }
    }
    float *values = (float *)allocate_pages(largest, sizeof *values, "the largest tensor to be read", err);
    bool ok = values != NULL;
    if (ok && w->realigned_bytes > 0) {
        w->realigned = (char *)allocate_pages(w->realigned_bytes, 1, "weights that are not aligned", err);
        ok = w->realigned != NULL;
    }
    char *realigned = w->realigned;
    for (size_t i = 0; ok && i < parameter_count(config); i++) {
        const Parameter p = parameter_at(config, i);
        ok = reading_tensor(&reading, safetensors_find(&w->files, p.name), err) &&
             weights_give(w, m, i, values, &realigned, err);
    }
    free_pages(values, largest, sizeof *values);
    return ok;
}

#endif
