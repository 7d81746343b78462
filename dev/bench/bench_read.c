// bench_read.c: milliseconds to read from memory what a model's weights take, once for every new token, and
// nothing else: what bench_decode cannot be faster than. Of the embedding, a token needs only one row.
//   build/bench_read [--steps N] [--dtype fp32|bf16] [--new 128] [--C 512 --L 8 --NH 8 --F 2048 --V 50304]
// It takes the flags of bench_decode. bench.h describes the output, and --steps 0.
#include "llmc/matrix.h"
#include "bench.h"

typedef struct {
    const char *weights;
    size_t bytes, new;
} Run;

// Reads a piece with several vectors at a time. Their sum keeps the compiler from leaving out the loads.
static GemmVector read_piece(const char *piece, size_t bytes) {
    GemmVector sum[8] = {{0}};
    for (size_t at = 0; at + sizeof sum <= bytes; at += sizeof sum) {
        for (size_t i = 0; i < 8; i++) { sum[i] += ((const GemmVector *)(piece + at))[i]; }
    }
    for (size_t i = 1; i < 8; i++) { sum[0] += sum[i]; }
    return sum[0];
}

static bool read_once(void *of, char parts[128], Error *err) {
    const Run *r = (const Run *)of;
    const size_t piece = 256 << 10;
    (void)parts, (void)err;
    for (size_t t = 0; t < r->new; t++) {
        bool zero = true;
#pragma omp parallel for schedule(dynamic) reduction(&& : zero)
        for (size_t at = 0; at < r->bytes; at += piece) {
            zero = zero && read_piece(r->weights + at, gemm_min(piece, r->bytes - at))[0] == 0.0f;
        }
        if (!zero) { return fail(err, "the weights are no longer zero"); }
    }
    return true;
}

int main(int argc, char **argv) {
    Error err = {{0}};
    Run r = {.new = 128};
    OLMo2Config c = bench_config();
    size_t steps = 5, ignored = 0;
    const char *dtype = "fp32";
    const BenchFlag flags[] = {{"steps", &steps, NULL},    {"dtype", NULL, &dtype}, {"slots", &ignored, NULL},
                               {"prompt", &ignored, NULL}, {"new", &r.new, NULL},   {"C", &c.C, NULL},
                               {"L", &c.L, NULL},          {"NH", &c.NH, NULL},     {"F", &c.F, NULL},
                               {"V", &c.V, NULL}};
    bool bf16 = false;
    bench_must(bench_flags(flags, sizeof flags / sizeof flags[0], argc, argv, &err), &err);
    bench_must(bench_config_complete(&c, &err), &err);
    bench_must(bench_dtype(dtype, &bf16, &err), &err);
    r.bytes = (parameter_total(&c) - c.V * c.C) * (bf16 ? sizeof(uint16_t) : sizeof(float));
    char *weights = (char *)allocate_pages(r.bytes, 1, "the weights", &err);
    bench_must(weights != NULL, &err);
    memset(weights, 0, r.bytes);  // a page that nobody has written takes no memory
    r.weights = weights;
    char notes[128];
    printf("%.1f MB, %zu times, %zu threads\n", (double)r.bytes / 1e6, r.new, thread_count());
    snprintf(notes, sizeof notes, "tokens %zu parameters %zu bytes %zu", r.new, parameter_total(&c), r.bytes);
    bench_must(bench_turns(steps, notes, read_once, &r, &err), &err);
    free_pages(weights, r.bytes, 1);
    return 0;
}
