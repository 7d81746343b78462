// test_profile.c: what --profile counts. A step has the known flops of a transformer; a function called by
// another is not counted twice; what runs outside a step is not counted at all; each model counts for itself;
// the shares add up to 100 %; and the machine's peaks are numbers.
#include "check.h"
#define LLMC_MAIN_H  // the backend without the program
#include "train_olmo2.c"

enum { B = 2, T = 70, N = B * T };
static const OLMo2Config config = {.C = 24,
                                   .L = 3,
                                   .NH = 4,
                                   .NKV = 2,
                                   .HS = 6,
                                   .F = 40,
                                   .V = 101,
                                   .max_T = 128,
                                   .rms_eps = 1e-6f,
                                   .rope_theta = 500000.0f,
                                   .init_std = 0.02f};

static OLMo2 *new_model(void) {
    const OLMo2Room room = olmo2_room_to_train(B, T);
    const OLMo2Form form = olmo2_form();
    Error err = {{0}};
    OLMo2 *m;
    if (!olmo2_create(&m, &config, &room, &form, &err)) {
        printf("%s\n", err.text);
        exit(1);
    }
    for (size_t i = 0; i < parameter_array_size(&config); i++) { m->weights[i] = 0.1f * (float)(i % 7); }
    return m;
}

static void run_step(OLMo2 *m) {
    const OLMo2AdamW adamw = {1e-3f, 0.9f, 0.95f, 1e-8f, 0.1f, 1.0f, 1};
    uint32_t tokens[N], labels[N];
    float weights[N], logprobs[N], lse[N];
    for (size_t n = 0; n < N; n++) {
        tokens[n] = labels[n] = (uint32_t)(n % 101);
        weights[n] = 1.0f / N;
    }
    olmo2_zero_gradients(m);
    olmo2_forward(m, tokens, B, T);
    olmo2_classify(m, labels, weights, 0.0f, logprobs, lse);
    olmo2_backward(m);
    olmo2_gradient_norm(m);
    olmo2_update(m, &adamw);
}

// The entry of that name, or one of zeros.
static ProfileEntry entry(const Profile *p, const char *name) {
    for (size_t i = 0; i < p->count; i++) {
        if (strcmp(p->functions[i].name, name) == 0) { return p->functions[i]; }
    }
    return (ProfileEntry){name, 0.0, 0.0, 0.0, 0.0};
}

// Parameters in matrices that multiply activations: all but the embedding and the norms.
static double matrix_parameters(void) {
    double sum = 0.0;
    for (size_t i = 0; i < parameter_count(&config); i++) {
        const Parameter p = parameter_at(&config, i);
        if (p.row->init != INIT_ONE && p.offset != parameter_offset(&config, EMBEDDING, 0)) {
            sum += (double)p.size;
        }
    }
    return sum;
}

static void test_off(OLMo2 *m) {
    Profile *p = olmo2_profile(m);
    profile_reset(p);
    run_step(m);
    profile_stop(p);
    CHECK(p->count == 0 && p->steps == 0 && p->running == NULL);
}

static void test_step(OLMo2 *m) {
    Profile *p = olmo2_profile(m);
    const double floats = sizeof(float), parameters = (double)parameter_total(&config);
    double pairs = 0.0, named = 0.0;
    for (int i = 0; i < T; i++) { pairs += B * (double)config.NH * (i + 1); }
    profile_reset(p);
    for (int step = 0; step < 2; step++) {
        profile_start(p);
        run_step(m);
        profile_stop(p);
        run_step(m);  // like a validation between two steps
    }
    CHECK(p->steps == 2 && p->running == NULL);

    // two flops per parameter and token forward, four backward; a layer has seven matrices, and the model has
    // one more, lm_head, called once per chunk of logits
    const OLMo2Room room = olmo2_room_to_train(B, T);
    const size_t rows = classifier_rows(&config, &room), chunks = (N + rows - 1) / rows;
    const double products = 7.0 * (double)config.L + (double)chunks;
    CHECK(entry(p, "matmul_forward").flops == 2 * 2.0 * N * matrix_parameters());
    CHECK(entry(p, "matmul_backward").flops == 2 * 4.0 * N * matrix_parameters());
    CHECK(entry(p, "matmul_forward").calls == 2 * products &&
          entry(p, "matmul_backward").calls == 2 * products);
    // two products per visible pair forward, five backward
    CHECK(entry(p, "attention_forward").flops == 2 * 3 * pairs * 4.0 * (double)config.HS);
    CHECK(entry(p, "attention_backward").flops == 2 * 3 * pairs * 10.0 * (double)config.HS);
    CHECK(entry(p, "adamw_update").bytes == 2 * 7 * floats * parameters);
    CHECK(entry(p, "sum_of_squares").bytes == 2 * floats * parameters);
    CHECK(entry(p, "classifier_backward").bytes == 2 * 2 * floats * N * (double)config.V);
    // the norms of queries and keys belong to qknorm_rope, those of the branches to rmsnorm_residual
    CHECK(entry(p, "qknorm_rope_forward").calls == 2 * 2 * 6.0 &&
          entry(p, "qknorm_rope_backward").calls == 2 * 6.0);
    CHECK(entry(p, "rmsnorm_residual_backward").calls == 2 * 6.0);
    CHECK(entry(p, "rmsnorm_forward").calls == 2.0 && entry(p, "rmsnorm_backward").calls == 2.0);
    CHECK(p->count == 19);
    for (size_t i = 0; i < p->count; i++) {
        CHECK(p->functions[i].seconds >= 0.0 && p->functions[i].bytes > 0.0);
        named += p->functions[i].seconds;
    }
    printf("named functions: %.1f %% of the steps\n", 100.0 * named / p->seconds);
    CHECK(named > 0.0 && named <= p->seconds);
}

static void test_nested(Profile *p) {
    context.profile = p;
    enum { C = 24 };
    static float x[N * C], y[N * C], dw[C], w[C], rstd[N], rope[T * 6];
    static size_t positions[N];
    profile_reset(p);
    profile_start(p);
    qknorm_rope_forward(y, rstd, x, w, rope, positions, N, 4, 6, 1e-6f);
    CHECK(p->count == 1 && entry(p, "qknorm_rope_forward").calls == 1.0);
    CHECK(entry(p, "qknorm_rope_forward").flops == 7.0 * N * C);
    CHECK(entry(p, "qknorm_rope_forward").bytes == sizeof(float) * 2.0 * N * C);
    rmsnorm_residual_backward(y, dw, x, x, w, rstd, N, C);
    CHECK(p->count == 2 && entry(p, "rmsnorm_backward").calls == 0.0);
    rmsnorm_backward(y, dw, x, x, w, rstd, N, C);
    rmsnorm_backward(y, dw, x, x, w, rstd, N, C);
    CHECK(entry(p, "rmsnorm_backward").calls == 2.0 && entry(p, "rmsnorm_backward").flops == 20.0 * N * C);
    profile_stop(p);
}

static void test_accumulated_bytes(Profile *p) {
    context.profile = p;
    enum { I = 3, O = 5 };
    static float dx[N * I], dw[O * I], dy[N * O], x[N * I], w[O * I];
    profile_reset(p);
    profile_start(p);
    matmul_backward(dx, dw, dy, x, (Weight){w, false}, N, I, O, false);
    const double assigned = entry(p, "matmul_backward").bytes;
    matmul_backward(dx, dw, dy, x, (Weight){w, false}, N, I, O, true);
    profile_stop(p);
    CHECK(assigned == sizeof(float) * (double)(N * O + 2 * N * I + 3 * O * I));
    CHECK(entry(p, "matmul_backward").bytes - 2.0 * assigned == sizeof(float) * (double)(N * I));
}

// The table has at most 80 columns, its numbers are aligned and sorted, the rest is last, all is 100 %.
static void test_table(OLMo2 *m) {
    Profile *p = olmo2_profile(m);
    char *text = NULL;
    size_t size = 0, rows = 0, width = 0;
    double sum = 0.0, last = INFINITY;
    profile_reset(p);
    profile_print(p, stdout);  // no step, no table
    profile_start(p);
    run_step(m);
    profile_stop(p);
    FILE *out = open_memstream(&text, &size);
    profile_print(p, out);
    fclose(out);
    printf("%s", text);
    CHECK(strstr(text, "1 step, ") != NULL);
    const char *line = strstr(text, "\n\n") + 2;
    CHECK(strncmp(line, "function ", 9) == 0 && strcspn(line, "\n") <= 80);
    width = strcspn(line, "\n");
    for (line += width + 1; *line != '\0'; line += strcspn(line, "\n") + 1, rows++) {
        const char *percent = strchr(line, '%');
        const bool rest = rows == p->count;
        double ms, share, reached = -1.0, best = -1.0;
        char unit[16] = "";
        CHECK(percent != NULL && percent - line == 52);
        CHECK(sscanf(line + 33, "%lf %lf %% %lf %15s %lf", &ms, &share, &reached, unit, &best) ==
              (rest ? 2 : 5));
        CHECK(rest || strcspn(line, "\n") == width);
        CHECK(rest ? strncmp(line, "the rest", 8) == 0 : reached >= 0.0 && best >= 0.0 && ms <= last);
        CHECK(rest || strcmp(unit, "GB/s") == 0 || strcmp(unit, "GFLOP/s") == 0);
        last = ms;
        sum += share;
    }
    printf("shares: %.1f %% in all\n", sum);
    CHECK(rows == p->count + 1 && fabs(sum - 100.0) <= 0.05 * (double)rows);
    free(text);
}

// Each model counts for itself, and one that is not asked for its profile counts nothing.
static void test_two_models(OLMo2 *m) {
    OLMo2 *other = new_model();
    Profile *p = olmo2_profile(m), *q = olmo2_profile(other);
    profile_reset(p);
    profile_start(p);
    run_step(other);
    run_step(m);
    run_step(other);
    profile_stop(p);
    CHECK(q->count == 0 && q->steps == 0 && q->running == NULL);
    CHECK(p->steps == 1 && entry(p, "attention_forward").calls == (double)config.L);
    profile_start(q);
    run_step(m);
    run_step(other);
    profile_stop(q);
    CHECK(p->steps == 1 && entry(p, "attention_forward").calls == (double)config.L);
    CHECK(q->steps == 1 && entry(q, "attention_forward").calls == (double)config.L);
    olmo2_free(other);
}

// What a backend without a profile gives.
static void test_none(void) {
    profile_reset(NULL);
    profile_start(NULL);
    profile_stop(NULL);
    profile_print(NULL, stdout);
    float x = 1.0f, y, w = 1.0f, rstd;
    context.profile = NULL;
    rmsnorm_forward(&y, &rstd, &x, &w, 1, 1, 0.0f);  // a function that has no model counts nowhere
    CHECK(y == 1.0f);
}

int main(void) {
    OLMo2 *m = new_model();
    test_off(m);
    test_step(m);
    test_nested(olmo2_profile(m));
    test_accumulated_bytes(olmo2_profile(m));
    test_table(m);
    test_two_models(m);
    test_none();
    olmo2_gradient_norm(m);
    CHECK(context.profile == olmo2_profile(m));
    olmo2_free(m);
    CHECK(context.profile == NULL);  // nothing points at a model that is gone
    const double peak = fma_peak(), bandwidth = copy_bandwidth();
    CHECK(isfinite(peak) && peak > 0.0 && isfinite(bandwidth) && bandwidth > 0.0);
    return check_report();
}
