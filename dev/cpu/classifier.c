// classifier.c: cross-entropy and z-loss of rows of logits, and their gradient, which overwrites the logits.
// From the plainest loops to those of train_olmo2.c. README.md says how to build and read this.
//
//   build/cpu/classifier forward    logits (N, V), labels (N) -> lse (N) = log sum_j e^(logit_j),
//                                   logprobs (N) = logit_label - lse, 0 where there is no label
//   build/cpu/classifier backward   the same, and logits become dlogits,
//                                   w (p_j (1 + 2 z lse) - [j = label]) with p_j = e^(logit_j - lse)
//
// At least, the forward must read the logits once and the backward must write them once. GB/s count these
// bytes. A row of 50,304 logits takes 201 kB, so it stays in the second-level cache between passes. What can
// be made faster is e^x.

#include "ladder.h"

// ---------------------------------------------------------------------------------------------
// Version 1: one pass for the maximum, one for the sum, one for the gradients. In the first two, each step
// waits three or four cycles for the previous one. There are two calls of expf per logit, which take even
// longer.
// GB/s on 1 / 2 threads: forward 0.69 / 1.39, backward 0.91 / 1.75.

static void forward_1(float *logprobs, float *lse, const float *logits, const uint32_t *labels, size_t N,
                      size_t V) {
#pragma omp parallel for
    for (size_t n = 0; n < N; n++) {
        const float *row = logits + n * V;
        float max = -INFINITY, sum = 0.0f;
        for (size_t j = 0; j < V; j++) { max = fmaxf(max, row[j]); }
        for (size_t j = 0; j < V; j++) { sum += expf(row[j] - max); }
        lse[n] = max + logf(sum);
        logprobs[n] = labels[n] == OLMO2_NO_TOKEN ? 0.0f : row[labels[n]] - lse[n];
    }
}

static void backward_1(float *logits, const float *lse, const uint32_t *labels, const float *weights, float z,
                       size_t N, size_t V) {
#pragma omp parallel for
    for (size_t n = 0; n < N; n++) {
        float *row = logits + n * V;
        for (size_t j = 0; j < V; j++) {
            const float p = expf(row[j] - lse[n]), indicator = j == labels[n] ? 1.0f : 0.0f;
            row[j] = weights[n] * (p * (1.0f + 2.0f * z * lse[n]) - indicator);
        }
    }
}

// ---------------------------------------------------------------------------------------------
// Version 2, like llm.c and with its -ffast-math (loops.c): the forward stores the probabilities and the
// backward reads them. That takes one e^x per logit where version 1 takes two. With -ffast-math the compiler
// can call the C library's vector version, if there is one (glibc). But an array as large as the logits is
// written and read, and llm.c keeps it for all tokens of a batch.
// GB/s on 1 / 2 threads: forward 5.82 / 10.6, backward 8.61 / 12.3.

// ---------------------------------------------------------------------------------------------
// Version 3: lanes, and our own e^x. The maximum and the sum of a row are kept as partial results, side by
// side (maximum and exponentials of train_olmo2.c). e^x is a polynomial and an addition to the exponent,
// without a call or a branch (exponential). So all of it becomes vector code with any C library and without
// -ffast-math, which would also let the compiler assume that no logit is NaN or infinite. The probabilities
// are still stored.
// GB/s on 1 / 2 threads: forward 7.28 / 13.3, backward 9 / 14.8.

static void forward_3(float *logprobs, float *lse, float *probabilities, const float *logits,
                      const uint32_t *labels, size_t N, size_t V) {
#pragma omp parallel for
    for (size_t n = 0; n < N; n++) {
        const float *row = logits + n * V, max = maximum(row, V);
        float *p = probabilities + n * V;
        const float sum = exponentials(p, row, 1.0f, max, V);
        for (size_t j = 0; j < V; j++) { p[j] /= sum; }
        lse[n] = max + logf(sum);
        logprobs[n] = labels[n] == OLMO2_NO_TOKEN ? 0.0f : row[labels[n]] - lse[n];
    }
}

static void backward_3(float *logits, const float *lse, const float *probabilities, const uint32_t *labels,
                       const float *weights, float z, size_t N, size_t V) {
#pragma omp parallel for
    for (size_t n = 0; n < N; n++) {
        float *row = logits + n * V;
        const float *p = probabilities + n * V, factor = weights[n] * (1.0f + 2.0f * z * lse[n]);
        for (size_t j = 0; j < V; j++) { row[j] = factor * p[j]; }
        if (labels[n] != OLMO2_NO_TOKEN) { row[labels[n]] -= weights[n]; }
    }
}

// ---------------------------------------------------------------------------------------------
// Version 4, shipped: nothing is stored. The forward writes its e^x into a block of 256 numbers, 1 kB, which
// the next 256 overwrite. The backward recomputes them from lse. As vector code they are cheap, and memory,
// which all threads share, moves half as much.
// GB/s on 1 / 2 threads: forward 8.98 / 18, backward 10.6 / 20.7.

// ---------------------------------------------------------------------------------------------
// The operations

static const float Z = 0.01f;

// The last bit of an lse of 100 is 8e-6. The difference of a logit and lse inherits this error, and so does
// every result computed from it; the largest of these is about 1.
static const double TOLERANCE = 2e-5;

enum { LOGITS, WEIGHTS, SPACE, LOGPROBS, LSE };

// Logits between -4 and 4, raised by 25 to 100 in four rows of five; every third row has no label.
static void arrays(Problem *p, bool backward) {
    const size_t N = p->n[0], V = p->n[1];
    array(p, backward ? "dlogits" : NULL, N * V, TOLERANCE, -4.0, 4.0);
    input(p, N, 0.5, 1.0);
    input(p, N * V, (double)NAN, (double)NAN);
    output(p, "logprobs", N, TOLERANCE);
    output(p, "lse", N, TOLERANCE);
    p->labels = (uint32_t *)reserve(N, sizeof(uint32_t));
    for (size_t n = 0; n < N; n++) {
        for (size_t j = 0; j < V; j++) { p->arrays[LOGITS].data[n * V + j] += 25.0f * (float)(4 - n % 5); }
        p->labels[n] = n % 3 == 2 ? OLMO2_NO_TOKEN : pcg64_bounded(&p->random, (uint32_t)V - 1);
    }
    p->labels[0] = (uint32_t)V - 1;
    p->work = (double)(N * V * sizeof(float)) * (backward ? 2.0 : 1.0);
}

static void expect(Problem *p, bool backward) {
    const size_t N = p->n[0], V = p->n[1];
    for (size_t n = 0; n < N; n++) {
        const float *row = p->arrays[LOGITS].data + n * V;
        const uint32_t label = p->labels[n];
        double max = -INFINITY, sum = 0.0;
        for (size_t j = 0; j < V; j++) { max = fmax(max, (double)row[j]); }
        for (size_t j = 0; j < V; j++) { sum += exp((double)row[j] - max); }
        const double lse = max + log(sum), factor = 1.0 + 2.0 * (double)Z * lse;
        p->arrays[LSE].expected[n] = lse;
        p->arrays[LOGPROBS].expected[n] = label == OLMO2_NO_TOKEN ? 0.0 : (double)row[label] - lse;
        for (size_t j = 0; j < V && backward; j++) {
            p->arrays[LOGITS].expected[n * V + j] =
                (double)p->arrays[WEIGHTS].data[n] * (exp((double)row[j] - lse) * factor - (j == label));
        }
    }
}

static void run(const Problem *p, int version, bool backward) {
    const size_t N = p->n[0], V = p->n[1];
    float *logits = p->arrays[LOGITS].data, *logprobs = p->arrays[LOGPROBS].data, *lse = p->arrays[LSE].data;
    float *space = p->arrays[SPACE].data;
    const float *weights = p->arrays[WEIGHTS].data;
    switch (version) {
    case 1:
        forward_1(logprobs, lse, logits, p->labels, N, V);
        if (backward) { backward_1(logits, lse, p->labels, weights, Z, N, V); }
        break;
    case 2:
        classifier_forward_loops(logprobs, lse, logits, p->labels, N, V);
        if (backward) { classifier_backward_loops(logits, lse, p->labels, weights, Z, N, V); }
        break;
    case 3:
        forward_3(logprobs, lse, space, logits, p->labels, N, V);
        if (backward) { backward_3(logits, lse, space, p->labels, weights, Z, N, V); }
        break;
    case 4:
        classifier_forward(logprobs, lse, logits, p->labels, N, V);
        if (backward) { classifier_backward(logits, lse, p->labels, weights, Z, N, V); }
        break;
    }
}

static void forward_arrays(Problem *p) { arrays(p, false); }
static void backward_arrays(Problem *p) { arrays(p, true); }
static void forward_expect(Problem *p) { expect(p, false); }
static void backward_expect(Problem *p) { expect(p, true); }
static void forward_run(const Problem *p, int version) { run(p, version, false); }
static void backward_run(const Problem *p, int version) { run(p, version, true); }

int main(int argc, char **argv) {
    // One logit; one row; many rows; rows that are not a multiple of a vector or a block. The required leads
    // are a quarter of the ones measured on an idle core of an AMD EPYC: 12, 12.
    static const Ladder ladder = {
        .lengths = "N, V",
        .timed = {256, 50304},
        .raced = {16, 4096},
        .edges = {{1, 1}, {1, 16}, {3, 7}, {1, 257}, {131, 9}, {6, 8193}, {5, 1000}, {4, 512}},
        .unit = "GB/s",
        .best_case = "copying",
        .best = copy_bandwidth,
        .ideas = {"a pass for each formula", "like llm.c: stored probabilities", "lanes, our own e^x",
                  "shipped: nothing is stored"},
        .operations = {{"forward", forward_arrays, forward_expect, forward_run, 3.0},
                       {"backward", backward_arrays, backward_expect, backward_run, 3.0}},
    };
    return ladder_main(argc, argv, &ladder);
}
