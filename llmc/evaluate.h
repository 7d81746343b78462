// evaluate.h: a model measured on token files.
//
//   evaluation_open        opens the files, in their order, unfiltered
//   evaluation_instances   how many sequences to measure on
//   evaluation_check       reads them once: a bad token is found now, not after hours
//   evaluate               cross-entropy, perplexity, bits per byte, z term
#ifndef LLMC_EVALUATE_H
#define LLMC_EVALUATE_H

#include "batch.h"
#include "text.h"

typedef struct {
    size_t labels, bytes;
    double loss;           // mean cross-entropy per label, in nats
    double perplexity;     // exp(loss)
    double bits_per_byte;  // cross-entropy of all labels, in bits, per byte of text; NAN without a tokenizer
    double z;              // mean z term
} Evaluation;

// Release with dataloader_close.
static inline bool evaluation_open(DataLoader *loader, char *const *files, size_t count, size_t T, size_t V,
                                   Error *err) {
    LoaderSettings settings;
    memset(&settings, 0, sizeof settings);
    settings.T = T;
    settings.V = V;
    settings.batch = 1;
    return dataloader_open(loader, (const char *const *)files, count, &settings, err);
}

// The number of sequences: `wanted`, but at most all of them (0: all).
static inline size_t evaluation_instances(const DataLoader *loader, int64_t wanted) {
    size_t all = dataloader_instances(loader);
    return wanted > 0 && (size_t)wanted < all ? (size_t)wanted : all;
}

// Reads the first `instances` sequences of an unshuffled loader, so a measurement on them cannot fail later
// because of a bad token or a missing label.
static inline bool evaluation_check(DataLoader *loader, size_t instances, Batch *batch, Error *err) {
    size_t labels = 0;
    for (size_t i = 0; i < instances; i++) {
        if (!batch_next(batch, loader, 1, err)) { return false; }
        labels += objective_count(batch->labels, batch->T);
    }
    return labels > 0 || fail(err, "%s: no token of it is a label", loader->files[0].path);
}

// Measures the model on the first `instances` sequences of a loader that evaluation_check has accepted, B at
// a time. `heard` (NULL: nobody) is told how many sequences are measured; if it interrupts, this returns
// true, with e->labels 0.
static inline bool evaluate(Evaluation *e, OLMo2 *m, DataLoader *loader, size_t instances, Batch *batch,
                            size_t B, double z, const Text *text, Heard heard, void *context, Error *err) {
    LmSums sums;
    memset(e, 0, sizeof *e);
    memset(&sums, 0, sizeof sums);
    dataloader_rewind(loader);
    for (size_t done = 0; done < instances; done += B) {
        size_t n = instances - done < B ? instances - done : B;
        if (heard != NULL && !heard(context, done, instances)) { return true; }
        if (!batch_next(batch, loader, n, err)) { return false; }
        olmo2_forward(m, batch->tokens, n, batch->T);
        olmo2_classify(m, batch->labels, NULL, 0.0f, batch->logprobs, batch->lse);
        lm_add(&sums, batch->labels, batch->logprobs, batch->lse, n * batch->T, z);
        for (size_t i = 0; i < n * batch->T && text->present; i++) {
            if (batch->labels[i] != OLMO2_NO_TOKEN) { e->bytes += text->bytes[batch->labels[i]]; }
        }
    }
    e->labels = sums.labels;
    e->loss = sums.ce / (double)sums.labels;
    e->perplexity = exp(e->loss);
    e->bits_per_byte = e->bytes > 0 ? sums.ce / log(2.0) / (double)e->bytes : NAN;
    e->z = sums.z / (double)sums.labels;
    return true;
}

#endif
