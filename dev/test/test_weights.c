// test_weights.c: how the weights of a directory come into a model that is used: lent or copied, in which
// type, from files of every type, aligned or not.
#include "llmc/weights.h"

#include "llmc/commands/model.h"
#include "small_model.h"

static const OLMo2Room room = {0, 0, false, 1, 8, 1};

// ---------------------------------------------------------------------------------------------
// files of any type

// How a test's directory is written.
typedef struct {
    Dtype matrices, norms, last;  // types; `last` is that of lm_head
    size_t shift;                 // bytes by which the data misses a multiple of 8
    bool two_files, backwards;    // shards; tensors in the reverse order
} Shape;

// Parameter `index`'s element k: a small integer, exact in every type.
static float value_of(size_t index, size_t k) { return (float)((index * 7 + k * 3) % 251) - 125.0f; }

static void write_number(FILE *file, Dtype dtype, float value) {
    const double wide = (double)value;
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint16_t bf16 = (uint16_t)(bits >> 16);
    uint16_t half =
        value == 0.0f
            ? 0
            : (uint16_t)((bits >> 16 & 0x8000) | (((bits >> 23 & 0xFF) - 112) << 10) | (bits >> 13 & 0x3FF));
    const void *data = dtype == DTYPE_F32    ? (const void *)&value
                       : dtype == DTYPE_BF16 ? &bf16
                       : dtype == DTYPE_F16  ? (const void *)&half
                                             : &wide;
    fwrite(data, safetensors_dtypes[dtype].bytes, 1, file);
}

static Dtype dtype_of(const Shape *shape, const Parameter *p) {
    if (p->row->id == LM_HEAD) { return shape->last; }
    return p->row->columns == DIM_1 ? shape->norms : shape->matrices;
}

// Writes parameters [begin, end) to a file of the directory "m".
static void write_part(const char *name, const OLMo2Config *config, const Shape *shape, size_t begin,
                       size_t end) {
    JsonWriter w;
    size_t offset = 0, size[2];
    memset(&w, 0, sizeof w);
    json_begin_object(&w, NULL);
    for (size_t i = begin; i < end; i++) {
        const Parameter p = parameter_at(config, shape->backwards ? begin + end - 1 - i : i);
        const Dtype dtype = dtype_of(shape, &p);
        const size_t rank = parameter_shape(&p, size);
        json_begin_object(&w, p.name);
        json_string(&w, "dtype", safetensors_dtypes[dtype].name);
        json_begin_array(&w, "shape");
        for (size_t k = 0; k < rank; k++) { json_integer(&w, NULL, (int64_t)size[k]); }
        json_end_array(&w);
        json_begin_array(&w, "data_offsets");
        json_integer(&w, NULL, (int64_t)offset);
        offset += p.size * safetensors_dtypes[dtype].bytes;
        json_integer(&w, NULL, (int64_t)offset);
        json_end_array(&w);
        json_end_object(&w);
    }
    json_end_object(&w);
    while (w.length % 8 != shape->shift) { json_append(&w, " ", 1); }
    FILE *file = fopen(in_dir(name), "wb");
    if (!CHECK(file != NULL && w.text != NULL)) { return; }
    const uint64_t length = w.length;
    CHECK(fwrite(&length, sizeof length, 1, file) == 1 && fwrite(w.text, w.length, 1, file) == 1);
    for (size_t i = begin; i < end; i++) {
        const size_t index = shape->backwards ? begin + end - 1 - i : i;
        const Parameter p = parameter_at(config, index);
        for (size_t k = 0; k < p.size; k++) { write_number(file, dtype_of(shape, &p), value_of(index, k)); }
    }
    CHECK(ferror(file) == 0 && fclose(file) == 0);
    json_writer_free(&w);
}

static void write_directory(const OLMo2Config *config, const Shape *shape) {
    const size_t count = parameter_count(config), cut = count / 2;
    Error ignored;
    CHECK(directory_remove(in_dir("m"), &ignored) && directory_create(in_dir("m"), &err));
    if (!shape->two_files) {
        write_part("m/model.safetensors", config, shape, 0, count);
        return;
    }
    Shape aligned = *shape;
    aligned.shift = 0;
    write_part("m/1.safetensors", config, &aligned, 0, cut);
    write_part("m/2.safetensors", config, shape, cut, count);
    JsonWriter w;
    memset(&w, 0, sizeof w);
    json_begin_object(&w, NULL);
    json_begin_object(&w, "weight_map");
    for (size_t i = 0; i < count; i++) {
        json_string(&w, parameter_at(config, i).name, i < cut ? "1.safetensors" : "2.safetensors");
    }
    json_end_object(&w);
    json_end_object(&w);
    CHECK(json_write_file(&w, in_dir("m/model.safetensors.index.json"), &err));
}

// ---------------------------------------------------------------------------------------------
// every number arrives

// Element k of an array of this type, which must be aligned for it.
static float element(const void *data, WeightType type, size_t k) {
    if (type == WEIGHTS_FP32) { return ((const float *)data)[k]; }
    return bf16_to_float(((const uint16_t *)data)[k]);
}

static bool arrived(const OLMo2 *m, const Weights *w) {
    for (size_t i = 0; i < parameter_count(&m->config); i++) {
        const Parameter p = parameter_at(&m->config, i);
        const bool lent = w->lent && p.row->columns != DIM_1;
        if ((m->lent[i] != NULL) != lent) { return false; }
        if (lent && (uintptr_t)m->lent[i] % (w->type == WEIGHTS_BF16 ? 2 : 4) != 0) { return false; }
        for (size_t k = 0; k < p.size; k++) {
            const float found = lent ? element(m->lent[i], w->type, k) : m->arrays[0][p.offset + k];
            if (found != value_of(i, k)) { return false; }
        }
    }
    return true;
}

// Opens and loads the directory "m".
static bool load(OLMo2 **m, Weights *w, const OLMo2Config *config, WeightChoice choice) {
    OLMo2Form form = olmo2_form();
    *m = NULL;
    if (!weights_open(w, in_dir("m"), config, choice, &err)) { return false; }
    weights_form(w, &form);
    return CHECK(olmo2_create(m, config, &room, &form, &err)) && weights_load(w, *m, NULL, NULL, &err);
}

static void test_decision(void) {
    const Dtype F32 = DTYPE_F32, BF16 = DTYPE_BF16, F16 = DTYPE_F16, F64 = DTYPE_F64;
    const struct {
        Shape shape;
        WeightChoice choice;
        WeightType type;
        bool lent;
        const char *how;  // after the bytes
    } rows[] = {
        {{BF16, BF16, BF16, 0, false, false}, WEIGHTS_AUTO, WEIGHTS_BF16, true, "of bf16, mapped"},
        {{F32, F32, F32, 0, false, false}, WEIGHTS_AUTO, WEIGHTS_FP32, true, "of fp32, mapped"},
        {{F16, F16, F16, 0, false, false}, WEIGHTS_AUTO, WEIGHTS_FP32, false, "of fp32, converted from F16"},
        {{F64, F64, F64, 0, false, false}, WEIGHTS_AUTO, WEIGHTS_FP32, false, "of fp32, rounded from F64"},
        {{BF16, BF16, F16, 0, true, false},
         WEIGHTS_AUTO,
         WEIGHTS_FP32,
         false,
         "of fp32, converted from BF16 and F16"},
        {{BF16, F32, BF16, 0, true, true}, WEIGHTS_AUTO, WEIGHTS_BF16, true, "of bf16, mapped"},
        {{BF16, BF16, BF16, 0, false, true}, WEIGHTS_AS_BF16, WEIGHTS_BF16, true, "of bf16, mapped"},
        {{F32, F32, F32, 0, false, false}, WEIGHTS_AS_BF16, WEIGHTS_BF16, false, "of bf16, rounded from F32"},
        {{F16, F32, BF16, 0, false, false},
         WEIGHTS_AS_BF16,
         WEIGHTS_BF16,
         false,
         "of bf16, rounded from BF16 and F16"},
        {{BF16, BF16, BF16, 0, false, false},
         WEIGHTS_AS_FP32,
         WEIGHTS_FP32,
         false,
         "of fp32, converted from BF16"},
        {{F32, BF16, F32, 0, true, false}, WEIGHTS_AS_FP32, WEIGHTS_FP32, true, "of fp32, mapped"},
        // data that begins at an odd address, at half of a float, and in one of two shards
        {{BF16, BF16, BF16, 1, false, false},
         WEIGHTS_AUTO,
         WEIGHTS_BF16,
         true,
         "copied: not aligned in the files"},
        {{BF16, BF16, BF16, 2, false, false}, WEIGHTS_AUTO, WEIGHTS_BF16, true, "of bf16, mapped"},
        {{F32, F32, F32, 2, false, false},
         WEIGHTS_AUTO,
         WEIGHTS_FP32,
         true,
         "copied: not aligned in the files"},
        {{F32, F32, F32, 3, true, true}, WEIGHTS_AUTO, WEIGHTS_FP32, true, "of which"},
        {{F16, F16, F16, 1, false, false}, WEIGHTS_AUTO, WEIGHTS_FP32, false, "of fp32, converted from F16"},
        // norms of two bytes before an F32 matrix
        {{F32, BF16, F32, 0, false, true}, WEIGHTS_AUTO, WEIGHTS_FP32, true, "of fp32, mapped"},
    };
    OLMo2Config config = small_config();
    config.L = 1, config.C = 21, config.HS = 2, config.NH = 3, config.NKV = 3;  // norms of odd sizes
    stub_lends = true;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        OLMo2 *m;
        Weights w;
        char text[160], bytes[32];
        write_directory(&config, &rows[i].shape);
        const size_t numbers = parameter_total(&config);
        if (!CHECK(load(&m, &w, &config, rows[i].choice))) { printf("       row %zu: %s\n", i, err.text); }
        CHECK(w.type == rows[i].type && w.lent == rows[i].lent && arrived(m, &w));
        CHECK(w.bytes == numbers * (w.type == WEIGHTS_BF16 ? 2 : 4));
        weights_describe(&w, text);
        format_bytes(bytes, w.bytes);
        if (!CHECK(strstr(text, bytes) == text && strstr(text, rows[i].how) != NULL)) {
            printf("       row %zu: \"%s\"\n", i, text);
        }
        olmo2_free(m);
        weights_close(&w);
    }
}

// A backend that copies has the type that it was built for.
static void test_copying_backend(void) {
    const Shape f32 = {DTYPE_F32, DTYPE_F32, DTYPE_F32, 0, false, false};
    const Shape bf16 = {DTYPE_BF16, DTYPE_BF16, DTYPE_BF16, 0, false, false};
    const OLMo2Config config = small_config();
    OLMo2 *m;
    Weights w;
    char text[160];
    stub_lends = false;
    for (int built = 0; built < 2; built++) {
        stub_weight_bytes = built == 0 ? 4 : 2;
        for (int stored = 0; stored < 2; stored++) {
            write_directory(&config, stored == 0 ? &f32 : &bf16);
            for (int choice = 0; choice < 2; choice++) {
                const WeightChoice same = built == 0 ? WEIGHTS_AS_FP32 : WEIGHTS_AS_BF16;
                CHECK(load(&m, &w, &config, choice == 0 ? WEIGHTS_AUTO : same) && !w.lent && arrived(m, &w));
                CHECK(!m->form.lent_weights && m->form.weights == olmo2_form().weights);
                weights_describe(&w, text);
                CHECK(strstr(text, built == stored ? "copied"
                                   : built == 0    ? "of fp32, converted from BF16"
                                                   : "of bf16, rounded from F32") != NULL);
                olmo2_free(m);
                weights_close(&w);
            }
        }
        CHECK_ERROR(
            weights_open(&w, in_dir("m"), &config, built == 0 ? WEIGHTS_AS_BF16 : WEIGHTS_AS_FP32, &err), err,
            built == 0 ? "--weights bf16: this program was built to keep weights in fp32"
                       : "--weights fp32: this program was built to keep weights in bf16");
        weights_close(&w);
    }
    stub_weight_bytes = sizeof(float);
}

// ---------------------------------------------------------------------------------------------
// memory and progress

static void test_memory(void) {
    const Shape shape = {DTYPE_BF16, DTYPE_BF16, DTYPE_BF16, 0, false, false};
    const Shape wide = {DTYPE_F32, DTYPE_F32, DTYPE_F32, 0, false, false};
    const OLMo2Config config = small_config();
    OLMo2Form form = olmo2_form();
    Weights w;
    stub_lends = true;
    write_directory(&config, &shape);
    CHECK(weights_open(&w, in_dir("m"), &config, WEIGHTS_AUTO, &err));
    weights_form(&w, &form);
    stub_cache = 1000;
    OLMo2Memory memory = weights_memory(&w, &config, &room, &form);
    CHECK(memory.weights == 2 * parameter_total(&config) && memory.cache == 1000);
    CHECK(memory.total == memory.weights + memory.cache && weights_fit(&w, &config, &room, &form, &err));
    stub_cache = SIZE_MAX / 4;
    CHECK_ERROR(weights_fit(&w, &config, &room, &form, &err), err, "Fewer or shorter sequences need less.");
    CHECK(strstr(err.text, "out of memory: the model needs 4611.69 PB: weights ") != NULL &&
          strstr(err.text, " kB, cache 4611.69 PB;") != NULL);
    stub_cache = 0;
    w.bytes = SIZE_MAX / 4;
    CHECK_ERROR(weights_fit(&w, &config, &room, &form, &err), err, ". Use a smaller model.");
    weights_close(&w);

    // fp32 weights that would fit as bf16
    write_directory(&config, &wide);
    CHECK(weights_open(&w, in_dir("m"), &config, WEIGHTS_AUTO, &err));
    form = olmo2_form();
    weights_form(&w, &form);
    w.bytes = memory_limit("").bytes / 2 * 3;
    CHECK_ERROR(weights_fit(&w, &config, &room, &form, &err), err, "--weights bf16 needs half as much.");
    w.bytes = memory_limit("").bytes / 2 * 5;
    CHECK_ERROR(weights_fit(&w, &config, &room, &form, &err), err, "Use a smaller model.");
    weights_close(&w);
}

typedef struct {
    size_t calls, last, total, stop_after;
    bool rises;
} Listener;

static bool hear(void *context, size_t done, size_t total) {
    Listener *heard = (Listener *)context;
    heard->rises =
        heard->rises && done > heard->last && done <= total && (heard->calls == 0 || total == heard->total);
    heard->last = done, heard->total = total;
    return ++heard->calls < heard->stop_after;
}

static void test_progress(void) {
    const Shape shape = {DTYPE_BF16, DTYPE_F32, DTYPE_BF16, 0, true, false};
    OLMo2Config config = small_config();
    config.V = 600000;  // 24 MB in lm_head and in the embedding: two pieces each
    Weights w;
    OLMo2 *m;
    stub_lends = true;
    write_directory(&config, &shape);
    for (int stop = 0; stop < 2; stop++) {
        Listener heard = {0, 0, 0, stop ? 3 : SIZE_MAX, true};
        OLMo2Form form = olmo2_form();
        CHECK(weights_open(&w, in_dir("m"), &config, WEIGHTS_AUTO, &err));
        size_t bytes = 0;
        for (size_t i = 0; i < w.files.count; i++) { bytes += w.files.tensors[i].bytes; }
        weights_form(&w, &form);
        CHECK(olmo2_create(&m, &config, &room, &form, &err));
        if (stop) {
            CHECK_ERROR(weights_load(&w, m, hear, &heard, &err), err, "interrupted");
            CHECK(heard.calls == 3);
        } else {
            CHECK(weights_load(&w, m, hear, &heard, &err) && arrived(m, &w));
            CHECK(heard.rises && heard.last == bytes && heard.total == bytes);
            CHECK(heard.calls == parameter_count(&config) + 2);  // pieces of 16 MB
        }
        olmo2_free(m);
        weights_close(&w);
    }
}

// What is said of the weights once they are loaded.
static void test_description(void) {
    const struct {
        double seconds;  // that it took
        const char *line;
    } rows[] = {{0.5, "weights: 2.00 GB of bf16, mapped\n"},
                {2.2, "weights: 2.00 GB of bf16, mapped, 2.2 s\n"}};
    Weights w;
    memset(&w, 0, sizeof w);
    w.bytes = 2000000000, w.lent = true, w.type = WEIGHTS_BF16, w.dtypes = 1U << DTYPE_BF16;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char found[256] = "";
        Meter m = meter_begin_bytes("weights");
        m.out = tmpfile();
        if (!CHECK(m.out != NULL)) { return; }
        m.begin -= rows[i].seconds;
        print_weights(&m, &w);
        rewind(m.out);
        CHECK(fread(found, 1, sizeof found - 1, m.out) > 0);
        if (!CHECK(strcmp(found, rows[i].line) == 0)) { printf("       row %zu: \"%s\"\n", i, found); }
        fclose(m.out);
    }
}

static void test_errors(void) {
    const Shape shape = {DTYPE_BF16, DTYPE_BF16, DTYPE_BF16, 0, true, false};
    const Shape integers = {DTYPE_BF16, DTYPE_BF16, DTYPE_BF16, 0, false, false};
    OLMo2Config config = small_config();
    Weights w;
    stub_lends = true;
    write_directory(&config, &shape);
    config.L++;
    CHECK_ERROR(weights_open(&w, in_dir("m"), &config, WEIGHTS_AUTO, &err), err,
                "has no tensor \"model.layers.3.");
    weights_close(&w);
    config.L--;
    CHECK(unlink(in_dir("m/2.safetensors")) == 0);
    CHECK_ERROR(weights_open(&w, in_dir("m"), &config, WEIGHTS_AUTO, &err), err,
                "2.safetensors: cannot be opened");
    weights_close(&w);
    write_directory(&config, &integers);
    CHECK(truncate(in_dir("m/model.safetensors"), 5000) == 0);
    CHECK_ERROR(weights_open(&w, in_dir("m"), &config, WEIGHTS_AUTO, &err), err, "model.safetensors: ");
    weights_close(&w);
}

int main(void) {
    if (!scratch_begin()) { return check_report(); }
    test_decision();
    test_copying_backend();
    test_memory();
    test_progress();
    test_description();
    test_errors();
    scratch_end();
    return check_report();
}
