// test_model.c: what must be equal in the CPU backend. Any number of threads gives the same bits; a batch
// split into micro-batches gives the same gradients; two models side by side do not disturb each other; with
// nothing ablated, dev/ablations gives OLMo 2's bits; the exponential keeps its stated error; and a step
// allocates nothing. What sequences with a cache must equal is in test_prefill.c.
#include "check.h"
#include "small_cpu_model.h"

// With glibc a program may bring its own malloc; this one counts. A sanitizer brings its own, and LLVM's
// OpenMP allocates in every parallel region.
#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__) && !defined(__clang__)
#define COUNTS_ALLOCATIONS
static size_t allocations;

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);

void *malloc(size_t size) {
    allocations++;
    return __libc_malloc(size);
}

void *calloc(size_t count, size_t size) {
    allocations++;
    return __libc_calloc(count, size);
}

void *realloc(void *old, size_t size) {
    allocations++;
    return __libc_realloc(old, size);
}

void *aligned_alloc(size_t alignment, size_t size) {
    allocations++;
    return __libc_memalign(alignment, size);
}
#endif

// ---------------------------------------------------------------------------------------------

static void test_exponential(void) {
    double largest = 0.0;
    for (int i = 0; i <= 1750000; i++) {
        const float x = -87.0f + (float)i * 1e-4f;
        const double error = fabs((double)exponential(x) / exp((double)x) - 1.0);
        largest = isnan(largest) || error <= largest ? largest : error;
    }
    printf("exponential: largest relative error %.2e, stated 2e-7\n", largest);
    CHECK(largest <= 2e-7);
    CHECK(exponential(0.0f) == 1.0f);
    CHECK(exponential(-INFINITY) <= 1e-37f && exponential(-1000.0f) <= 1e-37f);
    CHECK(exponential(1000.0f) >= 1e38f && isfinite(exponential(INFINITY)));
    CHECK(isnan(exponential(NAN)));
}

static void test_rows(void) {
    float x[50];
    for (size_t n = 1; n <= 50; n++) {
        double sum = 0.0, square = 0.0;
        float largest = -INFINITY;
        for (size_t i = 0; i < n; i++) {
            x[i] = (float)random_below(1000) / 100.0f - 9.0f;
            sum += exp((double)x[i]);
            square += (double)x[i] * (double)x[i];
            largest = fmaxf(largest, x[i]);
        }
        float y[50];
        CHECK(maximum(x, n) == largest);
        CHECK(fabs((double)dot(x, x, n) - square) <= 1e-5 * square + 1e-9);
        CHECK(fabs((double)exponentials(y, x, 1.0f, 0.0f, n) - sum) <= 1e-5 * sum);
    }
}

// ---------------------------------------------------------------------------------------------

enum { B = 8, T = 67, N = B * T };
static uint32_t batch_tokens[N], batch_labels[N];
static float batch_weights[N];

static void make_batch(size_t V) {
    random_state = 11;
    for (size_t n = 0; n < N; n++) {
        batch_tokens[n] = random_below((uint32_t)V);
        batch_labels[n] = n % 5 == 4 ? OLMO2_NO_TOKEN : random_below((uint32_t)V);
        batch_weights[n] = n % 5 == 4 ? 0.0f : 1.0f / (float)N;
    }
}

// One training step on the batch, in micro-batches of b sequences. Writes logprobs and lse (N).
static void step(OLMo2 *m, size_t b, float *logprobs, float *lse) {
    olmo2_zero_gradients(m);
    for (size_t n = 0; n < N; n += b * T) {
        olmo2_forward(m, batch_tokens + n, b, T);
        olmo2_classify(m, batch_labels + n, batch_weights + n, 1e-3f, logprobs + n, lse + n);
        olmo2_backward(m);
    }
    const float scale = (float)fmin(1.0, 0.1 / (olmo2_gradient_norm(m) + 1e-6));
    const OLMo2AdamW settings = {.lr = 1e-2f,
                                 .beta1 = 0.9f,
                                 .beta2 = 0.95f,
                                 .eps = 1e-8f,
                                 .weight_decay = 0.1f,
                                 .gradient_scale = scale,
                                 .t = 1};
    olmo2_update(m, &settings);
}

static void test_threads(void) {
#ifdef _OPENMP
    const OLMo2Config config = small_config(40, 6, 2, 12);
    const OLMo2Room room = olmo2_room_to_train(B, T);
    const size_t size = parameter_array_size(&config) * sizeof(float);
    float logprobs[2][N], lse[2][N];
    const int threads_before = omp_get_max_threads();
    omp_set_num_threads(1);
    OLMo2 *one = new_model(&config, &room);
    step(one, B, logprobs[0], lse[0]);
    for (int threads = 2; threads <= 5; threads++) {
        omp_set_num_threads(threads);
        OLMo2 *many = new_model(&config, &room);
        step(many, B, logprobs[1], lse[1]);
        CHECK(memcmp(logprobs[0], logprobs[1], sizeof logprobs[0]) == 0);
        CHECK(memcmp(lse[0], lse[1], sizeof lse[0]) == 0);
        CHECK(memcmp(one->gradients, many->gradients, size) == 0);
        CHECK(memcmp(one->weights, many->weights, size) == 0);
        olmo2_free(many);
    }
    olmo2_free(one);
    omp_set_num_threads(threads_before);
#else
    printf("skipped: bits for any number of threads (built without OpenMP)\n");
#endif
}

// max |a - b| / max |a| over one tensor; NaN if either contains one
static double difference(const float *a, const float *b, size_t size) {
    double error = 0.0, largest = 0.0;
    for (size_t i = 0; i < size; i++) {
        const double d = fabs((double)a[i] - (double)b[i]);
        error = isnan(error) || d <= error ? error : d;
        largest = fmax(largest, fabs((double)a[i]));
    }
    return error / largest;
}

static void test_micro_batches(void) {
    const OLMo2Config config = small_config(40, 6, 2, 12);
    const OLMo2Room room = olmo2_room_to_train(B, T);
    float logprobs[2][N], lse[2][N];
    OLMo2 *whole = new_model(&config, &room);
    step(whole, B, logprobs[0], lse[0]);
    for (size_t b = 1; b < B; b *= 2) {
        const OLMo2Room part_room = olmo2_room_to_train(b, T);
        OLMo2 *parts = new_model(&config, &part_room);
        step(parts, b, logprobs[1], lse[1]);
        double worst = 0.0;
        for (size_t i = 0; i < parameter_count(&config); i++) {
            const Parameter p = parameter_at(&config, i);
            const double d = difference(whole->gradients + p.offset, parts->gradients + p.offset, p.size);
            worst = isnan(worst) || d <= worst ? worst : d;
        }
        // A gradient is a sum over 536 tokens, here in another order: fp32 rounding, 6e-8 per term, and no
        // more.
        printf("batch of %d as %zu x %zu: gradients differ by %.1e of the largest, allowed 1e-5\n", B, B / b,
               b, worst);
        CHECK(worst <= 1e-5);
        CHECK(difference(logprobs[0], logprobs[1], N) <= 1e-6);
        olmo2_free(parts);
    }
    olmo2_free(whole);
}

// Two models whose products have different types, taking turns, give the bits of each by itself.
static void test_two_models(void) {
    if (!GEMM_HAS_BF16) {
        printf("skipped: products of bf16 beside those of fp32 (not built for AVX512-BF16)\n");
        return;
    }
    const OLMo2Config config = small_config(40, 6, 2, 12);
    const OLMo2Room room = olmo2_room_to_train(B, T);
    const size_t size = parameter_array_size(&config) * sizeof(float);
    float alone[2][N], together[2][N], lse[N];
    OLMo2 *m[2], *turns[2];
    for (int i = 0; i < 2; i++) {
        OLMo2Form form = olmo2_form();
        form.bf16_products = i == 1;
        m[i] = new_model_of(&config, &room, &form);
        turns[i] = new_model_of(&config, &room, &form);
        step(m[i], B, alone[i], lse);
        olmo2_zero_gradients(turns[i]);
    }
    for (int i = 0; i < 2; i++) { olmo2_forward(turns[i], batch_tokens, B, T); }
    for (int i = 0; i < 2; i++) {
        olmo2_classify(turns[i], batch_labels, batch_weights, 1e-3f, together[i], lse);
    }
    for (int i = 0; i < 2; i++) { olmo2_backward(turns[i]); }
    for (int i = 0; i < 2; i++) {
        CHECK(memcmp(alone[i], together[i], sizeof alone[i]) == 0);
        CHECK(memcmp(m[i]->gradients, turns[i]->gradients, size) == 0);
    }
    CHECK(memcmp(alone[0], alone[1], sizeof alone[0]) != 0);
    for (int i = 0; i < 2; i++) {
        olmo2_free(m[i]);
        olmo2_free(turns[i]);
    }
}

// ---------------------------------------------------------------------------------------------

// What one step and a prefill of two slots leave, by the lists of dev/ablations if `apart`, by OLMo 2's own
// otherwise: logprobs, lse, gradients, logits. The calls around the layers are those of olmo2_forward,
// olmo2_backward and olmo2_prefill.
static void run_layers(OLMo2 *m, bool apart, float *logprobs, float *lse, float *logits) {
    const OLMo2Config *c = &m->config;
    const Workspace *s = &m->workspace;
    olmo2_zero_gradients(m);
    m->B = B;
    m->T = T;
    begin_rows(m, false);
    for (size_t b = 0; b < B; b++) { add_piece(m, b, 0, T); }
    memcpy(m->tokens, batch_tokens, sizeof batch_tokens);
    embedding_forward(m->activations.x, weight_of(m, EMBEDDING, 0), m->tokens, N, c->C);
    for (size_t l = 0; l < c->L; l++) {
        if (apart) {
            ablated_layer_forward(m, l);
        } else {
            layer_forward(m, l);
        }
    }
    rmsnorm_forward(m->activations.hidden, m->activations.hidden_rstd, layer_activations(m, c->L).x,
                    norm_of(m, FINAL_NORM, 0), N, c->C, c->rms_eps);
    olmo2_classify(m, batch_labels, batch_weights, 1e-3f, logprobs, lse);
    rmsnorm_backward(s->dx, gradient_of(m, FINAL_NORM, 0), s->dhidden, layer_activations(m, c->L).x,
                     norm_of(m, FINAL_NORM, 0), m->activations.hidden_rstd, N, c->C);
    for (size_t l = c->L; l-- > 0;) {
        if (apart) {
            ablated_layer_backward(m, l);
        } else {
            layer_backward(m, l);
        }
    }
    embedding_backward(gradient_of(m, EMBEDDING, 0), s->dx, m->tokens, N, c->C);
    begin_rows(m, true);
    add_piece(m, 1, 0, 3);
    add_piece(m, 0, 0, 4);
    embedding_forward(m->activations.x, weight_of(m, EMBEDDING, 0), batch_tokens, m->N, c->C);
    for (size_t l = 0; l < c->L; l++) {
        if (apart) {
            ablated_layer_forward(m, l);
        } else {
            layer_forward(m, l);
        }
    }
    matmul_forward(logits, m->activations.x, weight_of(m, LM_HEAD, 0), m->N, c->C, c->V);
}

// With nothing ablated, the lists of dev/ablations give OLMo 2's bits: no change to a layer can be made in
// one list only. Each ablation gives others.
static void test_ablations(void) {
    enum { LOGITS = 7 * 101 };
    const OLMo2Room room = {.B = B, .T = T, .train = true, .slots = 2, .cache_T = 4, .rows = 7};
    float logprobs[2][N], lse[2][N], logits[2][LOGITS];
    for (int study = 0; study < 4; study++) {
        OLMo2Config config = small_config(40, 6, 2, 12);
        const size_t size = parameter_array_size(&config) * sizeof(float);
        OLMo2 *own = new_model(&config, &room);
        config.ablate_qk_norm = (study & 1) != 0;
        config.pre_norm = (study & 2) != 0;
        OLMo2 *apart = new_model(&config, &room);
        run_layers(own, false, logprobs[0], lse[0], logits[0]);
        run_layers(apart, true, logprobs[1], lse[1], logits[1]);
        const bool equal = study == 0;
        CHECK(is_ablated(&config) == !equal);
        CHECK((memcmp(logprobs[0], logprobs[1], sizeof logprobs[0]) == 0) == equal);
        CHECK((memcmp(lse[0], lse[1], sizeof lse[0]) == 0) == equal);
        CHECK((memcmp(logits[0], logits[1], sizeof logits[0]) == 0) == equal);
        CHECK((memcmp(own->gradients, apart->gradients, size) == 0) == equal);

        // and the interface takes the list that the configuration asks for
        float *gradients = (float *)malloc(size);
        memcpy(gradients, apart->gradients, size);
        olmo2_zero_gradients(apart);
        olmo2_forward(apart, batch_tokens, B, T);
        olmo2_classify(apart, batch_labels, batch_weights, 1e-3f, logprobs[0], lse[0]);
        olmo2_backward(apart);
        CHECK(memcmp(logprobs[0], logprobs[1], sizeof logprobs[0]) == 0);
        CHECK(memcmp(gradients, apart->gradients, size) == 0);
        free(gradients);
        olmo2_free(own);
        olmo2_free(apart);
    }
}

// The angle is an fp32 product; at distant positions an exact angle differs by 7e-5. The constants are
// PyTorch's:
//   f = 1.0 / 500000.0 ** (torch.arange(0, 128, 2).float() / 128); a = torch.outer(torch.arange(4096.0), f)
static void test_rope_table(void) {
    enum { POSITIONS = 4096, HS = 128 };
    static float rope[POSITIONS * HS];
    static const struct {
        size_t t, i;
        float cosine, sine;
    } wanted[] = {
        {1, 0, 0.540302336f, 0.841470957f},      {4095, 0, -0.065975994f, -0.997821212f},
        {4095, 1, 0.870796502f, -0.491643608f},  {4095, 2, -0.999538541f, 0.030375058f},
        {4094, 5, -0.052939232f, -0.998597741f}, {3000, 3, 0.776873827f, 0.629656255f},
        {4095, 63, 0.999949455f, 0.010053632f},  {2049, 20, -0.810859740f, 0.585240543f},
    };
    rope_table(rope, POSITIONS, HS, 500000.0f);
    for (size_t k = 0; k < sizeof wanted / sizeof wanted[0]; k++) {
        const float *row = rope + wanted[k].t * HS;
        // 1e-6: the difference of the two libraries' cosines, and an ulp of the frequency at small angles
        CHECK(fabsf(row[wanted[k].i] - wanted[k].cosine) <= 1e-6f);
        CHECK(fabsf(row[wanted[k].i + HS / 2] - wanted[k].sine) <= 1e-6f);
    }
}

// The rows of the table are in the order of their names, and the tensors follow each other without a gap.
static void test_parameters(void) {
    const OLMo2Config config = small_config(40, 6, 2, 12);
    size_t end = 0;
    for (int i = 0; i < PARAMETER_ROWS; i++) { CHECK(olmo2_parameters[i].id == i); }
    for (size_t i = 0; i < parameter_count(&config); i++) {
        const Parameter p = parameter_at(&config, i);
        CHECK(p.offset == end && p.size == p.rows * p.columns && p.size > 0);
        end += parameter_padded(p.size);
    }
    CHECK(end == parameter_array_size(&config));
}

// The parts of the plan add up, and a plan that exceeds the machine is rejected with its size.
static void test_memory(void) {
    OLMo2Config config = small_config(40, 6, 2, 12);
    const OLMo2Room room = {.B = 2, .T = 9, .train = true, .slots = 1, .cache_T = 12};
    const OLMo2Form form = olmo2_form();
    const OLMo2Memory memory = olmo2_memory(&config, &room, &form);
    CHECK(memory.weights == parameter_array_size(&config) * sizeof(float));
    CHECK(memory.moments == 2 * memory.weights && memory.gradients == memory.weights);
    CHECK(memory.total == 4 * memory.weights + memory.activations + memory.workspace + memory.cache);
    Error err = {{0}};
    OLMo2 *m;
    CHECK(olmo2_preset(&config, "32B"));
    const OLMo2Room huge = olmo2_room_to_train(1024, 4096);
    CHECK_ERROR(olmo2_create(&m, &config, &huge, &form, &err), err, "out of memory");
    CHECK(m == NULL);
}

// Zeros to the last byte, aligned for vectors; too many bytes are an error that names them.
static void test_pages(void) {
    Error err = {{0}};
    const size_t counts[] = {0, 1, 1 << 19, (1 << 19) + 1, 3 << 19};  // floats; a large page holds 1 << 19
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        float *x = (float *)allocate_pages(counts[i], sizeof *x, "a test", &err);
        CHECK(x != NULL && (uintptr_t)x % 64 == 0);
        bool zeros = true;
        for (size_t k = 0; k < counts[i]; k++) {
            zeros = zeros && x[k] == 0.0f;
            x[k] = 1.0f;
        }
        CHECK(zeros);
        free_pages(x, counts[i], sizeof *x);
    }
    CHECK_ERROR(allocate_pages(SIZE_MAX / 2, 4, "a test", &err) != NULL, err, "a test needs");
#ifndef __SANITIZE_ADDRESS__  // which ends the program
    CHECK_ERROR(allocate_pages(SIZE_MAX / 4, 1, "a test", &err) != NULL, err, "a test needs");
#endif
    free_pages(NULL, 1, 4);
}

// A model gives back what it took, whatever the number of threads is by then. The tiles of 2000 threads would
// take 68 MB, and a page 40 MB behind the buffer, where the model has no array, is still there.
static void test_free(void) {
#if defined(_OPENMP) && defined(MAP_FIXED_NOREPLACE) && !defined(__SANITIZE_ADDRESS__)
    const OLMo2Config config = small_config(40, 6, 2, 12);
    const OLMo2Room room = olmo2_room_to_train(B, T);
    const int threads_before = omp_get_max_threads();
    omp_set_num_threads(1);
    OLMo2 *m = new_model(&config, &room);
    char *page = (char *)m->buffer + (40 << 20);
    unsigned char resident;
    mmap(page, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1,
         0);  // or it was mapped
    CHECK(mincore(page, 4096, &resident) == 0);
    omp_set_num_threads(2000);
    olmo2_free(m);
    CHECK(mincore(page, 4096, &resident) == 0);
    omp_set_num_threads(threads_before);
#else
    printf("skipped: freeing with more threads (not built with OpenMP on Linux)\n");
#endif
}

static void *ask_for_stack(void *unused) {
    Error err = {{0}};
    (void)unused;
    CHECK_ERROR(stack_suffices(GEMM_STACK, &err), err, "of stack left");
    CHECK(stack_suffices(16 << 10, &err));
    return NULL;
}

// A thread with too little stack for a product is told so before it computes.
static void test_stack(void) {
    Error err = {{0}};
    CHECK(stack_suffices(GEMM_STACK, &err));
    CHECK_ERROR(stack_suffices(SIZE_MAX / 2, &err), err, "ulimit -s");
    pthread_attr_t small;
    pthread_t thread;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 256 << 10);
    CHECK(pthread_create(&thread, &small, ask_for_stack, NULL) == 0);
    pthread_join(thread, NULL);
    pthread_attr_destroy(&small);
}

static void test_allocations(void) {
#ifdef COUNTS_ALLOCATIONS
    const OLMo2Config config = small_config(40, 6, 2, 12);
    const OLMo2Room room = {.B = B, .T = T, .train = true, .slots = 1, .cache_T = 4};
    float logprobs[N], lse[N], logits[101];
    allocations = 0;
    OLMo2 *m = new_model(&config, &room);
    CHECK(allocations > 0);
    const size_t slot = 0;
    for (int i = 0; i < 3; i++) {  // the first step may start threads
        if (i == 1) { allocations = 0; }
        step(m, B, logprobs, lse);
        olmo2_decode(m, batch_tokens, &slot, 1, logits);
    }
    CHECK(allocations == 0);
    olmo2_free(m);
#else
    printf("skipped: what a step allocates (not built by GCC with glibc alone)\n");
#endif
}

int main(void) {
    make_batch(101);
    test_exponential();
    test_rows();
    test_threads();
    test_micro_batches();
    test_two_models();
    test_ablations();
    test_rope_table();
    test_parameters();
    test_memory();
    test_pages();
    test_free();
    test_stack();
    test_allocations();
    return check_report();
}
