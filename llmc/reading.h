// reading.h: tensors of mapped files, read from the disk while somebody is told how far that is.
//
//   reading_tensor     brings a tensor's pages into memory
//   reading_forget     gives them back to the system's cache, after a copy
#ifndef LLMC_READING_H
#define LLMC_READING_H

#include "safetensors.h"

typedef struct {
    Heard heard;  // is told how many bytes have been read; NULL: nobody
    void *context;
    size_t done, total;  // bytes
} Reading;

// The whole pages around or, with `inside`, within [data, data + bytes).
static inline void reading_advise(const char *data, size_t bytes, bool inside, int advice) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    uintptr_t begin = (uintptr_t)data, end = begin + bytes;
    begin = (inside ? begin + page - 1 : begin) / page * page;
    end = (inside ? end : end + page - 1) / page * page;
    if (begin < end) { madvise((void *)begin, end - begin, advice); }
}

// Without this, the first use of each page would wait for the disk, silently. The system fetches each piece
// while the one before it is touched.
static inline bool reading_tensor(Reading *r, const SafetensorsTensor *t, Error *err) {
    enum { PIECE = 16 << 20, SMALLEST_PAGE = 4096 };
    const volatile char *data = t->data;
    for (size_t begin = 0; begin < t->bytes; begin += PIECE) {
        const size_t rest = t->bytes - begin, size = rest < (size_t)PIECE ? rest : (size_t)PIECE;
        reading_advise(t->data + begin, rest < 2 * PIECE ? rest : 2 * PIECE, false, MADV_WILLNEED);
        for (size_t i = 0; i < size; i += SMALLEST_PAGE) { (void)data[begin + i]; }
        r->done += size;
        if (r->heard != NULL && !r->heard(r->context, r->done, r->total)) {
            return fail(err, "%s: interrupted while it was read", t->file);
        }
    }
    return true;
}

// The pages no longer count as this program's memory. The system may keep them for the next one.
static inline void reading_forget(const SafetensorsTensor *t) {
    reading_advise(t->data, t->bytes, true, MADV_DONTNEED);
}

#endif
