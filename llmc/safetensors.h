// safetensors.h: named tensors in a file, in the format of Hugging Face: 8 bytes with the length of the
// header (little-endian), the header {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin,
// end]}, ..., "__metadata__": {"key": "text"}} with offsets from the end of the header, then the data. A
// large model is split over several files; model.safetensors.index.json says which tensor is in which.
//
// Reading maps the files. Nothing in a header is trusted before it is checked against the size of the file.
//
// Doors:
//   safetensors_open, safetensors_close     a file, or a directory with one or several
//   safetensors_find                        a tensor by its name
//   safetensors_to_float                    its numbers
//   safetensors_write                       a new file, one tensor after the other
//   shape_text, safetensors_dtypes          for messages and listings
#ifndef LLMC_SAFETENSORS_H
#define LLMC_SAFETENSORS_H

#include "json.h"
#include "utils.h"

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
              "the byte order of the files is that of this machine");

// ---------------------------------------------------------------------------------------------
// element types

typedef enum {
    DTYPE_F32,
    DTYPE_BF16,
    DTYPE_F16,
    DTYPE_F64,
    DTYPE_I64,
    DTYPE_I32,
    DTYPE_I16,
    DTYPE_I8,
    DTYPE_U64,
    DTYPE_U32,
    DTYPE_U16,
    DTYPE_U8,
    DTYPE_BOOL,
    DTYPES
} Dtype;

typedef struct {
    Dtype dtype;
    const char *name;
    size_t bytes;
} DtypeRow;

// clang-format off
static const DtypeRow safetensors_dtypes[] = {
    { DTYPE_F32,  "F32",  4 }, { DTYPE_BF16, "BF16", 2 }, { DTYPE_F16, "F16", 2 }, { DTYPE_F64, "F64", 8 },
    { DTYPE_I64,  "I64",  8 }, { DTYPE_I32,  "I32",  4 }, { DTYPE_I16, "I16", 2 }, { DTYPE_I8,  "I8",  1 },
    { DTYPE_U64,  "U64",  8 }, { DTYPE_U32,  "U32",  4 }, { DTYPE_U16, "U16", 2 }, { DTYPE_U8,  "U8",  1 },
    { DTYPE_BOOL, "BOOL", 1 },
};
// clang-format on
static_assert(sizeof safetensors_dtypes / sizeof safetensors_dtypes[0] == DTYPES, "one row for each type");

static inline float bf16_to_float(uint16_t b) {
    uint32_t bits = (uint32_t)b << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

// IEEE 754 binary16: 1 sign bit, 5 of exponent (bias 15), 10 of fraction.
static inline float f16_to_float(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 0x1F, fraction = h & 0x3FF, bits;
    float value;
    if (exponent == 0) {
        value = (float)fraction * 0x1p-24f;  // zero, and subnormals, which are normal as floats
        memcpy(&bits, &value, sizeof bits);
        bits |= sign;
    } else {
        bits = sign | (exponent == 0x1F ? 0xFF : exponent - 15 + 127) << 23 | fraction << 13;
    }
    memcpy(&value, &bits, sizeof value);
    return value;
}

// ---------------------------------------------------------------------------------------------
// reading

enum { SAFETENSORS_MAX_RANK = 8 };

// The data is not aligned in memory: read it with memcpy, or safetensors_to_float.
typedef struct {
    const char *name;
    Dtype dtype;
    size_t rank;
    size_t shape[SAFETENSORS_MAX_RANK];
    size_t count;      // elements, the product of the shape
    const char *data;  // row-major
    size_t bytes;
    const char *file;  // the path it comes from, for messages
} SafetensorsTensor;

typedef struct {
    char *path;
    MappedFile map;
    JsonDocument header;
} SafetensorsFile;

typedef struct {
    SafetensorsFile *files;
    size_t file_count;
    SafetensorsTensor *tensors;  // sorted by name
    size_t count;
} Safetensors;

static inline void safetensors_close(Safetensors *st) {
    for (size_t i = 0; i < st->file_count; i++) {
        json_free(&st->files[i].header);
        file_unmap(&st->files[i].map);
        free(st->files[i].path);
    }
    free(st->files);
    free(st->tensors);
    memset(st, 0, sizeof *st);
}

// "(512, 192)", for messages. `buffer` is the caller's.
static inline const char *shape_text(char buffer[192], const size_t *shape, size_t rank) {
    size_t length = (size_t)snprintf(buffer, 192, "(");
    for (size_t i = 0; i < rank; i++) {
        length += (size_t)snprintf(buffer + length, 192 - length, i == 0 ? "%zu" : ", %zu", shape[i]);
    }
    snprintf(buffer + length, 192 - length, ")");
    return buffer;
}

// A non-negative number of the header into *out.
static inline bool safetensors_number(const Json *number, size_t *out) {
    if (number == NULL || !number->integral || number->integer < 0) { return false; }
    *out = (size_t)number->integer;
    return true;
}

static inline bool safetensors_read_dtype(SafetensorsTensor *t, const Json *entry, Error *err) {
    const char *name;
    if (!json_get_string(entry, "dtype", true, &name, "its header entry", err)) { return false; }
    for (int i = 0; i < DTYPES; i++) {
        if (strcmp(safetensors_dtypes[i].name, name) == 0) {
            t->dtype = safetensors_dtypes[i].dtype;
            return true;
        }
    }
    return fail(err, "has dtype \"%.40s\", expected F32, BF16, F16, F64, BOOL or a plain integer type", name);
}

static inline bool safetensors_read_shape(SafetensorsTensor *t, const Json *entry, Error *err) {
    const Json *shape = json_member(entry, "shape");
    if (shape == NULL || shape->type != JSON_ARRAY) {
        return fail(err, "has no \"shape\" array in the header");
    }
    if (shape->count > SAFETENSORS_MAX_RANK) {
        return fail(err, "has %zu dimensions, expected at most %d", shape->count, SAFETENSORS_MAX_RANK);
    }
    t->count = 1;
    for (const Json *size = json_first(shape); size != NULL; size = json_next(size)) {
        if (!safetensors_number(size, &t->shape[t->rank])) {
            char found[64];
            return fail(err, "has %s in its shape, expected whole numbers, 0 or more",
                        json_describe(found, size));
        }
        if (!multiply_sizes(t->count, t->shape[t->rank++], &t->count)) {
            return fail(err, "has a shape whose size does not fit 64 bits");
        }
    }
    return true;
}

// One tensor's entry in the header, checked against the `size` bytes of data. The caller puts the name of the
// tensor in front of messages.
static inline bool safetensors_read_entry(SafetensorsTensor *t, const Json *entry, const char *data,
                                          size_t size, Error *err) {
    if (entry->type != JSON_OBJECT) { return fail(err, "is not described by an object in the header"); }
    if (!safetensors_read_dtype(t, entry, err)) { return false; }
    if (!safetensors_read_shape(t, entry, err)) { return false; }
    const Json *offsets = json_member(entry, "data_offsets");
    size_t begin, end, bytes;
    if (offsets == NULL || offsets->type != JSON_ARRAY || offsets->count != 2 ||
        !safetensors_number(json_first(offsets), &begin) ||
        !safetensors_number(json_next(json_first(offsets)), &end)) {
        return fail(err, "has no \"data_offsets\" array of two whole numbers in the header");
    }
    if (begin > end || end > size) {
        return fail(err,
                    "has data_offsets [%zu, %zu], but the file holds %zu bytes of data.\n"
                    "The file is cut short or its header is wrong; copy it again.",
                    begin, end, size);
    }
    const DtypeRow *row = &safetensors_dtypes[t->dtype];
    if (!multiply_sizes(t->count, row->bytes, &bytes) || bytes != end - begin) {
        char text[192];
        return fail(err, "has %zu bytes of data, but its shape %s and dtype %s say otherwise", end - begin,
                    shape_text(text, t->shape, t->rank), row->name);
    }
    t->data = data + begin;
    t->bytes = bytes;
    return true;
}

static inline int safetensors_compare_names(const void *a, const void *b) {
    return strcmp(((const SafetensorsTensor *)a)->name, ((const SafetensorsTensor *)b)->name);
}

static inline int safetensors_compare_data(const void *a, const void *b) {
    const SafetensorsTensor *x = (const SafetensorsTensor *)a, *y = (const SafetensorsTensor *)b;
    if (x->data != y->data) { return x->data < y->data ? -1 : 1; }
    return (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

// The tensors of a file cover its data, in any order: no byte belongs to two of them or to none. Sorts them
// by place.
static inline bool safetensors_check_cover(SafetensorsTensor *tensors, size_t count, const char *path,
                                           const char *data, size_t size, Error *err) {
    if (count > 0) { qsort(tensors, count, sizeof *tensors, safetensors_compare_data); }
    size_t covered = 0;
    for (size_t i = 0; i < count; i++) {
        if (tensors[i].data < data + covered) {
            return fail(err,
                        "%s: tensor \"%.200s\" shares bytes with another; the header is wrong, copy it again",
                        path, tensors[i].name);
        }
        if (tensors[i].data > data + covered) { break; }
        covered += tensors[i].bytes;
    }
    if (covered == size) { return true; }
    return fail(err,
                "%s: byte %zu of its %zu bytes of data belongs to no tensor.\n"
                "The file has changed since it was written; copy it again.",
                path, covered, size);
}

// Parses the header of a mapped file. *data is what follows it.
static inline bool safetensors_read_header(SafetensorsFile *file, const char **data, size_t *data_size,
                                           Error *err) {
    uint64_t length;
    if (file->map.size < sizeof length) {
        return fail(err, "%s: has %zu bytes, too few for a safetensors file", file->path, file->map.size);
    }
    memcpy(&length, file->map.data, sizeof length);
    if (memcmp(file->map.data, "version ", sizeof length) == 0) {  // as a length, more than any file has
        return fail(err,
                    "%s: is a Git LFS pointer, not the file itself.\n"
                    "Fetch it: git lfs pull, or scripts/get_olmo2.sh.",
                    file->path);
    }
    size_t rest = file->map.size - sizeof length;
    if (length > rest) {
        return fail(err,
                    "%s: says its header has %llu bytes, but only %zu follow.\n"
                    "The file is cut short or is not a safetensors file; copy it again.",
                    file->path, (unsigned long long)length, rest);
    }
    const char *header = file->map.data + sizeof length;
    if (!json_parse(&file->header, header, (size_t)length, file->path, err)) { return false; }
    if (file->header.root->type != JSON_OBJECT) {
        return fail(err, "%s: the header is not a JSON object", file->path);
    }
    *data = header + length;
    *data_size = rest - (size_t)length;
    return true;
}

// Appends the tensors of a mapped file.
static inline bool safetensors_add_tensors(Safetensors *st, const SafetensorsFile *file, const char *data,
                                           size_t data_size, Error *err) {
    size_t capacity = st->count + file->header.root->count + 1, before = st->count;
    SafetensorsTensor *tensors = (SafetensorsTensor *)realloc(st->tensors, capacity * sizeof *tensors);
    if (tensors == NULL) { return fail(err, "%s: out of memory for its list of tensors", file->path); }
    st->tensors = tensors;
    for (const Json *entry = json_first(file->header.root); entry != NULL; entry = json_next(entry)) {
        if (strcmp(entry->key, "__metadata__") == 0) { continue; }
        SafetensorsTensor *t = &tensors[st->count];
        memset(t, 0, sizeof *t);
        t->name = entry->key;
        t->file = file->path;
        if (strlen(entry->key) != entry->key_length) {
            return fail(err, "%s: the name of a tensor holds a NUL character", file->path);
        }
        if (!safetensors_read_entry(t, entry, data, data_size, err)) {
            return fail(err, "%s: tensor \"%.200s\" %s", file->path, t->name, err->text);
        }
        st->count++;
    }
    return safetensors_check_cover(tensors + before, st->count - before, file->path, data, data_size, err);
}

// Maps one file and appends its tensors.
static inline bool safetensors_add_file(Safetensors *st, const char *path, Error *err) {
    SafetensorsFile *files = (SafetensorsFile *)realloc(st->files, (st->file_count + 1) * sizeof *files);
    if (files == NULL) { return fail(err, "%s: out of memory", path); }
    st->files = files;
    SafetensorsFile *file = &files[st->file_count];
    memset(file, 0, sizeof *file);
    file->path = format_text("%s", path);
    if (file->path == NULL) { return fail(err, "%s: out of memory", path); }
    st->file_count++;

    const char *data;
    size_t data_size;
    if (!file_map(&file->map, path, err)) { return false; }
    if (!safetensors_read_header(file, &data, &data_size, err)) { return false; }
    return safetensors_add_tensors(st, file, data, data_size, err);
}

// The tensor of that name, or NULL.
static inline const SafetensorsTensor *safetensors_find(const Safetensors *st, const char *name) {
    SafetensorsTensor key;
    if (st->count == 0) { return NULL; }
    key.name = name;
    return (const SafetensorsTensor *)bsearch(&key, st->tensors, st->count, sizeof key,
                                              safetensors_compare_names);
}

static inline bool safetensors_sort(Safetensors *st, Error *err) {
    if (st->count > 0) { qsort(st->tensors, st->count, sizeof *st->tensors, safetensors_compare_names); }
    for (size_t i = 1; i < st->count; i++) {
        const SafetensorsTensor *a = &st->tensors[i - 1], *b = &st->tensors[i];
        if (strcmp(a->name, b->name) == 0) {
            return fail(err, "%s: tensor \"%.200s\" is also in %s, expected in one file", b->file, b->name,
                        a->file);
        }
    }
    return true;
}

// Opens every file that the index's weight_map names, each once. They are in `dir`, next to the index.
static inline bool safetensors_open_shards(Safetensors *st, const Json *map, const char *dir,
                                           const char *index, Error *err) {
    for (const Json *member = json_first(map); member != NULL; member = json_next(member)) {
        const char *name = member->string;
        if (member->type != JSON_STRING || strlen(name) != member->length || strchr(name, '/') != NULL ||
            !ends_with(name, ".safetensors")) {
            char found[64];
            return fail(err,
                        "%s: the file of tensor \"%.200s\" is %s, expected the name of a .safetensors file "
                        "next to it",
                        index, member->key, json_describe(found, member));
        }
        bool opened = false;
        for (size_t i = 0; i < st->file_count && !opened; i++) {
            opened = strcmp(st->files[i].path + strlen(dir) + 1, name) == 0;
        }
        if (opened) { continue; }
        char path[PATH_MAX];
        bool ok = path_join(path, dir, name, err);
        if (ok) { ok = safetensors_add_file(st, path, err); }
        if (!ok) {
            return fail(err, "%s\n%s names this file; copy the missing ones from the same place.", err->text,
                        index);
        }
    }
    return true;
}

// Every tensor is in the file that the index names for it.
static inline bool safetensors_check_index(const Safetensors *st, const Json *map, const char *dir,
                                           const char *index, Error *err) {
    for (const Json *member = json_first(map); member != NULL; member = json_next(member)) {
        const SafetensorsTensor *t = safetensors_find(st, member->key);
        if (t == NULL || strcmp(t->file + strlen(dir) + 1, member->string) != 0) {
            return fail(err,
                        "%s: says that tensor \"%.200s\" is in %s, but it is not.\n"
                        "The index and the files do not belong together; copy all from the same place.",
                        index, member->key, member->string);
        }
    }
    return true;
}

static inline bool safetensors_open_map(Safetensors *st, const Json *map, const char *dir, const char *index,
                                        Error *err) {
    if (map == NULL || map->type != JSON_OBJECT) {
        return fail(err, "%s: has no \"weight_map\" object, expected one from tensor names to file names",
                    index);
    }
    if (!safetensors_open_shards(st, map, dir, index, err)) { return false; }
    if (!safetensors_sort(st, err)) { return false; }
    return safetensors_check_index(st, map, dir, index, err);
}

static inline bool safetensors_open_index(Safetensors *st, const char *dir, const char *index, Error *err) {
    JsonDocument doc;
    if (!json_parse_file(&doc, index, err)) { return false; }
    bool ok = safetensors_open_map(st, json_member(doc.root, "weight_map"), dir, index, err);
    json_free(&doc);
    return ok;
}

static inline bool safetensors_open_single(Safetensors *st, const char *path, Error *err) {
    if (!safetensors_add_file(st, path, err)) { return false; }
    return safetensors_sort(st, err);
}

// What to do with a directory whose weights are in PyTorch's older format.
static inline const char *safetensors_other_format(const char *dir) {
    char single[PATH_MAX], index[PATH_MAX];
    Error ignored;
    bool other = path_join(single, dir, "pytorch_model.bin", &ignored) &&
                 path_join(index, dir, "pytorch_model.bin.index.json", &ignored) &&
                 (path_exists(single) || path_exists(index));
    return other ? ", only pytorch_model.bin.\nLoad it in transformers and save it with save_pretrained: "
                   "that writes "
                   "safetensors."
                 : "";
}

static inline bool safetensors_open_directory(Safetensors *st, const char *dir, Error *err) {
    char single[PATH_MAX], index[PATH_MAX];
    if (!path_join(single, dir, "model.safetensors", err)) { return false; }
    if (!path_join(index, dir, "model.safetensors.index.json", err)) { return false; }
    if (path_exists(single)) { return safetensors_open_single(st, single, err); }
    if (path_exists(index)) { return safetensors_open_index(st, dir, index, err); }
    return fail(err, "%s: has neither model.safetensors nor model.safetensors.index.json%s", dir,
                safetensors_other_format(dir));
}

// Opens a .safetensors file, or a directory that holds model.safetensors or model.safetensors.index.json with
// its files. Release it with safetensors_close; a failure leaves nothing open.
static inline bool safetensors_open(Safetensors *st, const char *path, Error *err) {
    memset(st, 0, sizeof *st);
    bool ok = path_is_directory(path) ? safetensors_open_directory(st, path, err)
                                      : safetensors_open_single(st, path, err);
    if (!ok) { safetensors_close(st); }
    return ok;
}

// Copies the tensor to out (t->count): F32, BF16 and F16 exactly, F64 rounded.
static inline bool safetensors_to_float(const SafetensorsTensor *t, float *out, Error *err) {
    switch (t->dtype) {
    case DTYPE_F32:
        if (t->bytes > 0) { memcpy(out, t->data, t->bytes); }
        return true;
    case DTYPE_BF16:
    case DTYPE_F16:
        for (size_t i = 0; i < t->count; i++) {
            uint16_t bits;
            memcpy(&bits, t->data + i * sizeof bits, sizeof bits);
            out[i] = t->dtype == DTYPE_BF16 ? bf16_to_float(bits) : f16_to_float(bits);
        }
        return true;
    case DTYPE_F64:
        for (size_t i = 0; i < t->count; i++) {
            double value;
            memcpy(&value, t->data + i * sizeof value, sizeof value);
            out[i] = (float)value;
        }
        return true;
    default:
        return fail(err, "%s: tensor \"%.200s\" has dtype %s, expected F32, BF16, F16 or F64", t->file,
                    t->name, safetensors_dtypes[t->dtype].name);
    }
}

// ---------------------------------------------------------------------------------------------
// writing

// A tensor to be written, as F32.
typedef struct {
    char name[128];
    size_t rank;
    size_t shape[SAFETENSORS_MAX_RANK];
} SafetensorsEntry;

// Fills `values` with the data of entries[index].
typedef bool (*SafetensorsFill)(void *context, size_t index, float *values, Error *err);

static inline size_t safetensors_entry_count(const SafetensorsEntry *entry) {
    size_t count = 1;
    for (size_t i = 0; i < entry->rank; i++) { count *= entry->shape[i]; }
    return count;
}

// The header of a file with these entries one after the other, padded with spaces: the data begins at a
// multiple of 8 bytes. The caller frees w->text.
static inline void safetensors_write_header(JsonWriter *w, const SafetensorsEntry *entries, size_t n) {
    size_t offset = 0;
    json_begin_object(w, NULL);
    json_begin_object(w, "__metadata__");
    json_string(w, "format", "pt");
    json_end_object(w);
    for (size_t i = 0; i < n; i++) {
        json_begin_object(w, entries[i].name);
        json_string(w, "dtype", "F32");
        json_begin_array(w, "shape");
        for (size_t k = 0; k < entries[i].rank; k++) { json_integer(w, NULL, (int64_t)entries[i].shape[k]); }
        json_end_array(w);
        json_begin_array(w, "data_offsets");
        json_integer(w, NULL, (int64_t)offset);
        offset += safetensors_entry_count(&entries[i]) * sizeof(float);
        json_integer(w, NULL, (int64_t)offset);
        json_end_array(w);
        json_end_object(w);
    }
    json_end_object(w);
    while (w->text != NULL && w->length % 8 != 0) { json_append(w, " ", 1); }
}

static inline bool safetensors_write_head(int descriptor, const char *path, const SafetensorsEntry *entries,
                                          size_t n, Error *err) {
    JsonWriter w;
    memset(&w, 0, sizeof w);
    safetensors_write_header(&w, entries, n);
    uint64_t length = w.length;
    if (w.text == NULL) { return fail(err, "%s: out of memory for its header", path); }
    bool ok = file_write(descriptor, &length, sizeof length, path, err);
    if (ok) { ok = file_write(descriptor, w.text, w.length, path, err); }
    json_writer_free(&w);
    return ok;
}

static inline bool safetensors_write_body(int descriptor, const char *path, const SafetensorsEntry *entries,
                                          size_t n, SafetensorsFill fill, void *context, Error *err) {
    size_t largest = 0;
    for (size_t i = 0; i < n; i++) {
        size_t count = safetensors_entry_count(&entries[i]);
        largest = count > largest ? count : largest;
    }
    float *values = (float *)allocate(largest, sizeof *values, "the largest tensor to be written", err);
    bool ok = values != NULL;
    for (size_t i = 0; ok && i < n; i++) {
        const size_t bytes = safetensors_entry_count(&entries[i]) * sizeof *values;
        ok = fill(context, i, values, err);
        if (ok) { ok = file_write(descriptor, values, bytes, path, err); }
    }
    free(values);
    return ok;
}

// Writes the n entries as F32 to a new file and syncs it. `fill` is called for one entry at a time, so only
// one tensor at a time is in memory twice. A failure leaves no file.
static inline bool safetensors_write(const char *path, const SafetensorsEntry *entries, size_t n,
                                     SafetensorsFill fill, void *context, Error *err) {
    int descriptor;
    if (!file_create(&descriptor, path, err)) { return false; }
    bool ok = safetensors_write_head(descriptor, path, entries, n, err);
    if (ok) { ok = safetensors_write_body(descriptor, path, entries, n, fill, context, err); }
    return file_finish(descriptor, ok, path, err);
}

#endif
