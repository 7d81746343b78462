// ptx.cpp: the bodies of ptx.h.
#include "emulator.h"

// ---------------------------------------------------------------------------------------------
// Matrices. Each lane leaves pointers to its registers; the last one to arrive does the work of all.

struct Mma {
    float *c;
    const uint32_t *a, *b;
};

static float low_half(uint32_t pair) { return __uint_as_float(pair << 16); }
static float high_half(uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }

static void mma_exchange(void *const operands[32], unsigned) {
    float a[16][16], b[16][8], c[16][8];
    for (int lane = 0; lane < 32; lane++) {
        const Mma *m = (const Mma *)operands[lane];
        const int g = lane / 4, t = lane % 4;
        for (int i = 0; i < 4; i++) {
            const int row = g + i % 2 * 8, column = 2 * t + i / 2 * 8;
            a[row][column] = low_half(m->a[i]);
            a[row][column + 1] = high_half(m->a[i]);
            c[g + i / 2 * 8][2 * t + i % 2] = m->c[i];
        }
        for (int i = 0; i < 2; i++) {
            b[2 * t + i * 8][g] = low_half(m->b[i]);
            b[2 * t + i * 8 + 1][g] = high_half(m->b[i]);
        }
    }
    for (int row = 0; row < 16; row++) {
        for (int k = 0; k < 16; k++) {
            for (int column = 0; column < 8; column++) { c[row][column] += a[row][k] * b[k][column]; }
        }
    }
    for (int lane = 0; lane < 32; lane++) {
        const int g = lane / 4, t = lane % 4;
        for (int i = 0; i < 4; i++) { ((const Mma *)operands[lane])->c[i] = c[g + i / 2 * 8][2 * t + i % 2]; }
    }
}

void cuda_on_cpu_mma_m16n8k16(float c[4], const uint32_t a[4], const uint32_t b[2]) {
    Mma mma = {c, a, b};
    cuda_on_cpu_exchange("mma.sync", mma_exchange, 0xffffffffu, &mma, "", 0);
}

struct Ldmatrix {
    uint32_t *r;
    const char *row;
    bool transposed;
};

static void ldmatrix_exchange(void *const operands[32], unsigned) {
    const bool transposed = ((const Ldmatrix *)operands[0])->transposed;
    for (int lane = 0; lane < 32; lane++) {
        const Ldmatrix *m = (const Ldmatrix *)operands[lane];
        const int g = lane / 4, t = lane % 4;
        for (int i = 0; i < 4; i++) {
            auto element = [&](int row, int column) {
                uint16_t value;
                memcpy(&value, ((const Ldmatrix *)operands[8 * i + row])->row + 2 * column, sizeof value);
                return (uint32_t)value;
            };
            m->r[i] = transposed ? element(2 * t, g) | element(2 * t + 1, g) << 16
                                 : element(g, 2 * t) | element(g, 2 * t + 1) << 16;
        }
    }
}

void cuda_on_cpu_ldmatrix_x4(uint32_t r[4], const void *row, bool transposed) {
    const void *pc = __builtin_return_address(0);
    if ((size_t)row % 16 != 0 || !is_shared_memory(row, 16)) {
        die(CUDA_ON_CPU_EXIT_BOUNDS,
            text("%s ldmatrix in ", (size_t)row % 16 != 0 ? "MISALIGNED" : "OUT OF BOUNDS") + where() +
                ", at " + source_line(pc) + text(": a row of 16 bytes at %p, ", row) + describe_address(row));
    }
    if (checker) { checker->access(row, 16, ACCESS_READ, pc); }
    Ldmatrix ldmatrix = {r, (const char *)row, transposed};
    cuda_on_cpu_exchange(transposed ? "ldmatrix.trans" : "ldmatrix", ldmatrix_exchange, 0xffffffffu,
                         &ldmatrix, "", transposed);
}

// ---------------------------------------------------------------------------------------------
// Asynchronous copies: for each thread those in flight, and the number of the group being filled

struct AsyncCopy {
    void *to;
    const void *from;
    int source_bytes;
    unsigned group;
    const void *pc;
};
static std::vector<AsyncCopy> copies[MAX_THREADS];
static unsigned open_group[MAX_THREADS];
static bool copies_used;

void forget_copies() {
    if (!copies_used) { return; }
    copies_used = false;
    for (int t = 0; t < MAX_THREADS; t++) {
        copies[t].clear();
        open_group[t] = 0;
    }
}

void cuda_on_cpu_cp_async_16(void *shared, const void *global, int source_bytes) {
    const void *pc = __builtin_return_address(0);
    const int me = running_thread("cp.async");
    std::string error;
    if ((size_t)shared % 16 != 0 || (size_t)global % 16 != 0) {
        error = text("addresses %p and %p are not both aligned to 16 bytes", shared, global);
    } else if (!is_shared_memory(shared, 16)) {
        error = "the destination is " + describe_address(shared);
    } else if (source_bytes != 0 && source_bytes != 16) {
        error = text("source of %d bytes", source_bytes);
    } else if (source_bytes == 16 && !is_device_memory(global, 16)) {
        error = "the source is " + describe_address(global);
    }
    if (!error.empty()) {
        die(CUDA_ON_CPU_EXIT_BOUNDS,
            "OUT OF BOUNDS cp.async in " + where() + ", at " + source_line(pc) + ": " + error);
    }
    if (checker) { checker->copy_issued(shared, global, source_bytes, pc); }
    memset(shared, 0xff, 16);
    copies[me].push_back({shared, global, source_bytes, open_group[me], pc});
    copies_used = true;
}

void cuda_on_cpu_cp_async_commit() { open_group[running_thread("cp.async")]++; }

void cuda_on_cpu_cp_async_wait(int pending) {
    const int me = running_thread("cp.async");
    size_t kept = 0;
    for (const AsyncCopy &copy : copies[me]) {
        if (copy.group + (unsigned)pending >= open_group[me]) {
            copies[me][kept++] = copy;
            continue;
        }
        if (checker) { checker->copy_done(copy.to, copy.from, copy.source_bytes, copy.pc); }
        memset(copy.to, 0, 16);
        memcpy(copy.to, copy.from, (size_t)copy.source_bytes);
    }
    copies[me].resize(kept);
}
