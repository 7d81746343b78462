// bench_loader.c: milliseconds for llmc/dataloader.h to deliver shuffled batches with their labels.
//   build/bench_loader --data FILE [--steps N] [--batches 2000] [--B 8] [--T 1024] [--V 100352]
// bench_loader.py does the same with PyTorch's DataLoader. bench.h describes the output of both, and --steps
// 0.
#include "llmc/batch.h"
#include "bench.h"

typedef struct {
    DataLoader data;
    Batch batch;
    size_t batches;
} Run;

static bool load_batches(void *of, char parts[128], Error *err) {
    Run *r = (Run *)of;
    bool ok = true;
    (void)parts;
    for (size_t i = 0; ok && i < r->batches; i++) { ok = batch_next(&r->batch, &r->data, r->batch.B, err); }
    return ok;
}

int main(int argc, char **argv) {
    Error err = {{0}};
    Run r = {.batches = 2000};
    size_t steps = 5, B = 8, T = 1024, V = 100352;
    const char *data = NULL;
    const BenchFlag flags[] = {{"steps", &steps, NULL}, {"batches", &r.batches, NULL},
                               {"data", NULL, &data},   {"B", &B, NULL},
                               {"T", &T, NULL},         {"V", &V, NULL}};
    bench_must(bench_flags(flags, sizeof flags / sizeof flags[0], argc, argv, &err), &err);
    if (data == NULL) { bench_must(fail(&err, "--data: expected a file of tokens"), &err); }
    const LoaderSettings loader = {.T = T, .V = V, .batch = B, .shuffle = true, .seed = 1};
    bench_must(dataloader_open(&r.data, &data, 1, &loader, &err), &err);
    bench_must(batch_create(&r.batch, B, T, &err), &err);
    char notes[64];
    snprintf(notes, sizeof notes, "tokens %zu", r.batches * B * T);
    bench_must(bench_turns(steps, notes, load_batches, &r, &err), &err);
    batch_free(&r.batch);
    dataloader_close(&r.data);
    return 0;
}
