// safetensors.h: named tensors in a file, as Hugging Face defines them: 8 bytes with the header's length
// (little- endian), the header {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, ...,
// "__metadata__": {"key": "text"}} with offsets from the header's end, then the data. A large model is split
// over several files, with model.safetensors.index.json saying which tensor is where.
//
// Reading maps the files; nothing in a header is believed before it is checked against the file's size.
#ifndef LLMC_SAFETENSORS_H
#define LLMC_SAFETENSORS_H

#include "json.h"
#include "utils.h"

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the files' byte order is this machine's");

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
        value = (float)fraction * 0x1p-24f;  // zero and the subnormals, which are normal floats
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

// One tensor's entry in the header, checked against the `size` bytes of data. Messages lack the words before
// them.
static inline bool safetensors_read_entry(SafetensorsTensor *t, const Json *entry, const char *data,
                                          size_t size, Error *err) {
    if (entry->type != JSON_OBJECT) { return fail(err, "has no object in the header"); }
    if (!safetensors_read_dtype(t, entry, err) || !safetensors_read_shape(t, entry, err)) { return false; }
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

// The tensors of a file share no byte and leave none out, in whatever order. Sorts them by place.
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
                "The file is not as it was written; copy it again.",
                path, covered, size);
}

// The header of a mapped file, parsed; *data is set to what follows it.
static inline bool safetensors_read_header(SafetensorsFile *file, const char **data, size_t *data_size,
                                           Error *err) {
    uint64_t length;
    if (file->map.size < sizeof length) {
        return fail(err, "%s: has %zu bytes, too few for a safetensors file", file->path, file->map.size);
    }
    memcpy(&length, file->map.data, sizeof length);
    size_t rest = file->map.size - sizeof length;
    if (length > rest) {
        return fail(err,
                    "%s: says its header has %llu bytes, but only %zu follow.\n"
                    "The file is cut short or is no safetensors file; copy it again.",
                    file->path, (unsigned long long)length, rest);
    }
    const char *header = file->map.data + sizeof length;
    if (!json_parse(&file->header, header, (size_t)length, file->path, err)) { return false; }
    if (file->header.root->type != JSON_OBJECT) {
        return fail(err, "%s: the header is no JSON object", file->path);
    }
    *data = header + length;
    *data_size = rest - (size_t)length;
    return true;
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
    if (!file_map(&file->map, path, err) || !safetensors_read_header(file, &data, &data_size, err)) {
        return false;
    }
    size_t capacity = st->count + file->header.root->count + 1;
    SafetensorsTensor *tensors = (SafetensorsTensor *)realloc(st->tensors, capacity * sizeof *tensors);
    if (tensors == NULL) { return fail(err, "%s: out of memory for its list of tensors", path); }
    st->tensors = tensors;
    size_t before = st->count;
    for (const Json *entry = json_first(file->header.root); entry != NULL; entry = json_next(entry)) {
        if (strcmp(entry->key, "__metadata__") == 0) { continue; }
        SafetensorsTensor *t = &tensors[st->count];
        memset(t, 0, sizeof *t);
        t->name = entry->key;
        t->file = file->path;
        if (strlen(entry->key) != entry->key_length) {
            return fail(err, "%s: a tensor's name holds a NUL character", path);
        }
        if (!safetensors_read_entry(t, entry, data, data_size, err)) {
            return fail(err, "%s: tensor \"%.200s\" %s", path, t->name, err->text);
        }
        st->count++;
    }
    return safetensors_check_cover(tensors + before, st->count - before, path, data, data_size, err);
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

// Opens every file that the index's weight_map names, once; they stand beside the index, in `dir`.
static inline bool safetensors_open_shards(Safetensors *st, const Json *map, const char *dir,
                                           const char *index, Error *err) {
    for (const Json *member = json_first(map); member != NULL; member = json_next(member)) {
        const char *name = member->string;
        if (member->type != JSON_STRING || strlen(name) != member->length || strchr(name, '/') != NULL ||
            !ends_with(name, ".safetensors")) {
            char found[64];
            return fail(
                err,
                "%s: the file of tensor \"%.200s\" is %s, expected the name of a .safetensors file beside it",
                index, member->key, json_describe(found, member));
        }
        bool opened = false;
        for (size_t i = 0; i < st->file_count && !opened; i++) {
            opened = strcmp(st->files[i].path + strlen(dir) + 1, name) == 0;
        }
        if (opened) { continue; }
        char path[PATH_MAX];
        bool ok = path_join(path, dir, name, err) && safetensors_add_file(st, path, err);
        if (!ok) {
            return fail(err, "%s\n%s names this file; copy the missing ones from the same place.", err->text,
                        index);
        }
    }
    return true;
}

static inline bool safetensors_open_index(Safetensors *st, const char *dir, const char *index, Error *err) {
    JsonDocument doc;
    if (!json_parse_file(&doc, index, err)) { return false; }
    const Json *map = json_member(doc.root, "weight_map");
    bool ok = map != NULL && map->type == JSON_OBJECT;
    if (!ok) {
        fail(err, "%s: has no \"weight_map\" object, expected one from tensor names to file names", index);
    } else {
        ok = safetensors_open_shards(st, map, dir, index, err) && safetensors_sort(st, err);
    }
    for (const Json *member = ok ? json_first(map) : NULL; ok && member != NULL; member = json_next(member)) {
        const SafetensorsTensor *t = safetensors_find(st, member->key);
        if (t == NULL || strcmp(t->file + strlen(dir) + 1, member->string) != 0) {
            ok = fail(err,
                      "%s: says that tensor \"%.200s\" is in %s, but it is not.\n"
                      "The index and the files do not belong together; copy all from the same place.",
                      index, member->key, member->string);
        }
    }
    json_free(&doc);
    return ok;
}

// Opens a .safetensors file, or a directory that holds model.safetensors or model.safetensors.index.json with
// its files. Release it with safetensors_close; a failure leaves nothing open.
static inline bool safetensors_open(Safetensors *st, const char *path, Error *err) {
    memset(st, 0, sizeof *st);
    if (!path_is_directory(path)) {
        if (safetensors_add_file(st, path, err) && safetensors_sort(st, err)) { return true; }
        safetensors_close(st);
        return false;
    }
    char single[PATH_MAX], index[PATH_MAX];
    bool ok = path_join(single, path, "model.safetensors", err) &&
              path_join(index, path, "model.safetensors.index.json", err);
    if (ok && path_is_file(single)) {
        ok = safetensors_add_file(st, single, err) && safetensors_sort(st, err);
    } else if (ok && path_is_file(index)) {
        ok = safetensors_open_index(st, path, index, err);
    } else if (ok) {
        ok = fail(err, "%s: has neither model.safetensors nor model.safetensors.index.json", path);
    }
    if (!ok) { safetensors_close(st); }
    return ok;
}

// Copies the tensor to out (t->count), converted from F32, BF16 or F16 exactly, from F64 rounded.
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

// The header of a file that holds the entries one after the other, padded with spaces so that the data begins
// at a multiple of 8 bytes. The caller frees w->text.
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

static inline bool safetensors_write_body(int descriptor, const char *path, const SafetensorsEntry *entries,
                                          size_t n, SafetensorsFill fill, void *context, Error *err) {
    JsonWriter w;
    memset(&w, 0, sizeof w);
    safetensors_write_header(&w, entries, n);
    uint64_t length = w.length;
    bool ok = w.text == NULL ? fail(err, "%s: out of memory for its header", path)
                             : file_write(descriptor, &length, sizeof length, path, err) &&
                                   file_write(descriptor, w.text, w.length, path, err);
    json_writer_free(&w);
    size_t largest = 0;
    for (size_t i = 0; i < n; i++) {
        size_t count = safetensors_entry_count(&entries[i]);
        largest = count > largest ? count : largest;
    }
    float *values =
        ok ? (float *)allocate(largest, sizeof *values, "the largest tensor to be written", err) : NULL;
    ok = values != NULL;
    for (size_t i = 0; ok && i < n; i++) {
        ok = fill(context, i, values, err) &&
             file_write(descriptor, values, safetensors_entry_count(&entries[i]) * sizeof *values, path, err);
    }
    free(values);
    return ok;
}

// Writes the n entries as F32 to a new file, asking `fill` for one after the other, so that only the largest
// is in memory twice, and makes sure they are on the disk. A failure leaves no file.
static inline bool safetensors_write(const char *path, const SafetensorsEntry *entries, size_t n,
                                     SafetensorsFill fill, void *context, Error *err) {
    int descriptor;
    if (!file_create(&descriptor, path, err)) { return false; }
    bool ok = safetensors_write_body(descriptor, path, entries, n, fill, context, err);
    return file_finish(descriptor, ok, path, err);
}

#endif
