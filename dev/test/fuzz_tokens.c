// fuzz_tokens.c: opens token files of arbitrary bytes and reads them to the end. Built with clang
// -fsanitize=fuzzer.
#include "llmc/dataloader.h"

// Reads a token file that holds a beginning and then the input.
static void read_all(const char *beginning, size_t length, const uint8_t *data, size_t size) {
    enum { B = 3, T = 5 };
    int descriptor = memfd_create("tokens", MFD_CLOEXEC);
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", descriptor);
    if (descriptor < 0 || write(descriptor, beginning, length) != (ssize_t)length ||
        write(descriptor, data, size) != (ssize_t)size) {
        abort();
    }

    const char *patterns[] = {path};
    LoaderSettings settings = {T, 1u << 31, 1, size % 2 == 0, 1, true, 1, 2, 3, true};
    uint32_t tokens[B * T];
    uint8_t mask[B * T];
    bool filtered[B];
    DataLoader loader;
    Error err = {""};
    bool ok = dataloader_open(&loader, patterns, 1, &settings, &err);
    if (ok) {
        for (size_t i = 0; ok && i <= dataloader_instances(&loader); i += B) {
            ok = dataloader_next(&loader, B, tokens, mask, filtered, &err);
        }
        dataloader_close(&loader);
    }
    if (!ok && err.text[0] == '\0') { abort(); }
    close(descriptor);
}

// The input by itself, after NumPy's magic, and after the beginning of a good NumPy header: so the fuzzer
// need not find these words itself.
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const char magic[] = "\x93NUMPY",
               header[] = "\x93NUMPY\1\0\x76\0{'descr': '<u4', 'fortran_order': False, 'shape': (";
    read_all("", 0, data, size);
    read_all(magic, sizeof magic - 1, data, size);
    read_all(header, sizeof header - 1, data, size);
    return 0;
}
