// test_profile.c: what --profile counts. The flops of a step are those that one knows of a transformer; a
// function within another is not counted again; what runs outside of a step is not counted at all; the shares
// add up to 100 %; and the ceilings of the machine are numbers.
#include "check.h"
#define TESTING
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
    const OLMo2Limits limits = {.B = B, .T = T, .train = true};
    Error err = {{0}};
    OLMo2 *m;
    if (!olmo2_create(&m, &config, &limits, &err)) {
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
static ProfileEntry entry(const char *name) {
    for (size_t i = 0; i < profile.count; i++) {
        if (strcmp(profile.functions[i].name, name) == 0) { return profile.functions[i]; }
    }
    return (ProfileEntry){name, 0.0, 0.0, 0.0, 0.0};
}

// Parameters in matrices that multiply the activations: all but the embedding and the norms.
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
    profile_reset();
    run_step(m);
    profile_stop();
    CHECK(profile.count == 0 && profile.steps == 0 && profile.running == NULL);
}

static void test_step(OLMo2 *m) {
    const double floats = sizeof(float), parameters = (double)parameter_total(&config);
    double pairs = 0.0, named = 0.0;
    for (int i = 0; i < T; i++) { pairs += B * (double)config.NH * (i + 1); }
    profile_reset();
    for (int step = 0; step < 2; step++) {
        profile_start();
        run_step(m);
        profile_stop();
        run_step(m);  // as a validation between two steps
    }
    CHECK(profile.steps == 2 && profile.running == NULL);

    // two flops a parameter and token forward, four backward; a layer has seven matrices, the model one more,
    // which takes the rows of its chunks of logits
    const OLMo2Limits limits = {.B = B, .T = T, .train = true};
    const size_t rows = classifier_rows(&config, &limits), chunks = (N + rows - 1) / rows;
    const double products = 7.0 * (double)config.L + (double)chunks;
    CHECK(entry("matmul_forward").flops == 2 * 2.0 * N * matrix_parameters());
    CHECK(entry("matmul_backward").flops == 2 * 4.0 * N * matrix_parameters());
    CHECK(entry("matmul_forward").calls == 2 * products && entry("matmul_backward").calls == 2 * products);
    // two products for every visible pair forward, five backward
    CHECK(entry("attention_forward").flops == 2 * 3 * pairs * 4.0 * (double)config.HS);
    CHECK(entry("attention_backward").flops == 2 * 3 * pairs * 10.0 * (double)config.HS);
    CHECK(entry("adamw_update").bytes == 2 * 7 * floats * parameters);
    CHECK(entry("sum_of_squares").bytes == 2 * floats * parameters);
    CHECK(entry("classifier_backward").bytes == 2 * 2 * floats * N * (double)config.V);
    // the norms of queries and keys belong to qknorm_rope, those of the branches to rmsnorm_residual
    CHECK(entry("qknorm_rope_forward").calls == 2 * 2 * 6.0 &&
          entry("qknorm_rope_backward").calls == 2 * 6.0);
    CHECK(entry("rmsnorm_residual_backward").calls == 2 * 6.0);
    CHECK(entry("rmsnorm_forward").calls == 2.0 && entry("rmsnorm_backward").calls == 2.0);
    CHECK(profile.count == 19);
    for (size_t i = 0; i < profile.count; i++) {
        CHECK(profile.functions[i].seconds >= 0.0 && profile.functions[i].bytes > 0.0);
        named += profile.functions[i].seconds;
    }
    printf("named functions: %.1f %% of the steps\n", 100.0 * named / profile.seconds);
    CHECK(named > 0.0 && named <= profile.seconds);
}

static void test_nested(void) {
    enum { C = 24 };
    static float x[N * C], y[N * C], dw[C], w[C], rstd[N], rope[T * 6];
    profile_reset();
    profile_start();
    qknorm_rope_forward(y, rstd, x, w, rope, B, T, 4, 6, 1e-6f);
    CHECK(profile.count == 1 && entry("qknorm_rope_forward").calls == 1.0);
    CHECK(entry("qknorm_rope_forward").flops == 7.0 * N * C);
    CHECK(entry("qknorm_rope_forward").bytes == sizeof(float) * 2.0 * N * C);
    rmsnorm_residual_backward(y, dw, x, x, w, rstd, N, C);
    CHECK(profile.count == 2 && entry("rmsnorm_backward").calls == 0.0);
    rmsnorm_backward(y, dw, x, x, w, rstd, N, C);
    rmsnorm_backward(y, dw, x, x, w, rstd, N, C);
    CHECK(entry("rmsnorm_backward").calls == 2.0 && entry("rmsnorm_backward").flops == 20.0 * N * C);
    profile_stop();
}

static void test_accumulated_bytes(void) {
    enum { I = 3, O = 5 };
    static float dx[N * I], dw[O * I], dy[N * O], x[N * I], w[O * I];
    profile_reset();
    profile_start();
    matmul_backward(dx, dw, dy, x, w, N, I, O, false);
    const double assigned = entry("matmul_backward").bytes;
    matmul_backward(dx, dw, dy, x, w, N, I, O, true);
    profile_stop();
    CHECK(assigned == sizeof(float) * (double)(N * O + 2 * N * I + 3 * O * I));
    CHECK(entry("matmul_backward").bytes - 2.0 * assigned == sizeof(float) * (double)(N * I));
}

// The table: 80 columns at most and its numbers under each other, sorted, the rest last, 100 % in all.
static void test_table(OLMo2 *m) {
    char *text = NULL;
    size_t size = 0, rows = 0, width = 0;
    double sum = 0.0, last = INFINITY;
    profile_reset();
    profile_print(stdout);  // no step, no table
    profile_start();
    run_step(m);
    profile_stop();
    FILE *out = open_memstream(&text, &size);
    profile_print(out);
    fclose(out);
    printf("%s", text);
    CHECK(strstr(text, "1 step, ") != NULL);
    const char *line = strstr(text, "\n\n") + 2;
    CHECK(strncmp(line, "function ", 9) == 0 && strcspn(line, "\n") <= 80);
    width = strcspn(line, "\n");
    for (line += width + 1; *line != '\0'; line += strcspn(line, "\n") + 1, rows++) {
        const char *percent = strchr(line, '%');
        const bool rest = rows == profile.count;
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
    CHECK(rows == profile.count + 1 && fabs(sum - 100.0) <= 0.05 * (double)rows);
    free(text);
}

int main(void) {
    OLMo2 *m = new_model();
    test_off(m);
    test_step(m);
    test_nested();
    test_accumulated_bytes();
    test_table(m);
    olmo2_free(m);
    const double peak = fma_peak(), bandwidth = copy_bandwidth();
    CHECK(isfinite(peak) && peak > 0.0 && isfinite(bandwidth) && bandwidth > 0.0);
    return check_report();
}
