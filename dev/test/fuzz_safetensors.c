// fuzz_safetensors.c: any bytes as a safetensors file. If it is accepted, every byte of its tensors is read.
#include "llmc/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    // An input that begins like a header gets its length in front, up to a NUL: chance would hardly find it.
    uint64_t length = strnlen((const char *)data, size);
    bool header = size > 0 && data[0] == '{';
    int descriptor = memfd_create("fuzz", MFD_CLOEXEC);
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", descriptor);
    if (descriptor < 0 || (header && write(descriptor, &length, sizeof length) != sizeof length) ||
        write(descriptor, data, size) != (ssize_t)size) {
        abort();
    }
    Safetensors st;
    Error err;
    if (!safetensors_open(&st, path, &err)) {
        if (strncmp(err.text, path, strlen(path)) != 0) { abort(); }
        close(descriptor);
        return 0;
    }
    for (size_t i = 0; i < st.count; i++) {
        const SafetensorsTensor *t = &st.tensors[i];
        if (safetensors_find(&st, t->name) != t) { abort(); }
        float *values = (float *)malloc(t->count * sizeof *values + 1);
        if (values != NULL) { safetensors_to_float(t, values, &err); }
        free(values);
        unsigned sum = 0;
        for (size_t k = 0; k < t->bytes; k++) { sum += (unsigned char)t->data[k]; }
        if (sum > 255 * size) { abort(); }
    }
    safetensors_close(&st);
    close(descriptor);
    return 0;
}
