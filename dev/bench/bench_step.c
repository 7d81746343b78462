// bench_step.c: milliseconds of a training step of the CPU backend: forward, classifier, backward, norm,
// AdamW.
//   build/bench_step [STEPS [B [T [C L NH F V]]]]
// Without arguments, 5 steps of the 85M model: B 4, T 256, C 512, L 8, NH 8, F 2048, V 50304. One line per
// step and a last line "median M min A max Z"; bench_step.py does the same work in PyTorch.
#define TESTING
#include "../../train_olmo2.c"

static int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv) {
    size_t values[] = {5, 4, 256, 512, 8, 8, 2048, 50304};
    for (int i = 1; i < argc && i <= 8; i++) { values[i - 1] = strtoull(argv[i], NULL, 10); }
    const size_t steps = values[0], B = values[1], T = values[2], N = B * T;
    Error err = {{0}};
    OLMo2Config config;
    olmo2_preset(&config, "1M");
    config.C = values[3];
    config.L = values[4];
    config.NH = config.NKV = values[5];
    config.HS = config.C / config.NH;
    config.F = values[6];
    config.V = values[7];
    const OLMo2Limits limits = {.B = B, .T = T, .train = true};
    OLMo2 *m;
    if (steps == 0 || N == 0 || !olmo2_create(&m, &config, &limits, &err)) {
        fprintf(stderr, "error: %s\n", err.text);
        return 1;
    }
    srand(1);
    for (size_t i = 0; i < parameter_array_size(&config); i++) {
        m->weights[i] = 0.04f * ((float)rand() / (float)RAND_MAX - 0.5f);
    }
    uint32_t *tokens = (uint32_t *)malloc(N * sizeof *tokens);
    float *weights = (float *)malloc(N * sizeof(float)), *logprobs = (float *)malloc(N * sizeof(float));
    float *lse = (float *)malloc(N * sizeof(float));
    double *times = (double *)malloc(steps * sizeof *times);
    if (tokens == NULL || weights == NULL || logprobs == NULL || lse == NULL || times == NULL) { return 1; }
    for (size_t n = 0; n < N; n++) {
        tokens[n] = (uint32_t)((size_t)rand() % config.V);
        weights[n] = 1.0f / (float)N;
    }
    char backend[64];
    olmo2_describe(backend, sizeof backend);
    printf("%s, %.1fM parameters, B %zu, T %zu\n", backend, (double)parameter_total(&config) / 1e6, B, T);
    for (size_t step = 0; step < steps; step++) {
        double marks[6];
        marks[0] = seconds_now();
        olmo2_zero_gradients(m);
        olmo2_forward(m, tokens, B, T);
        marks[1] = seconds_now();
        olmo2_classify(m, tokens, weights, 1e-5f, logprobs, lse);
        marks[2] = seconds_now();
        olmo2_backward(m);
        marks[3] = seconds_now();
        const double norm = olmo2_gradient_norm(m);
        const OLMo2AdamW settings = {.lr = 1e-4f,
                                     .beta1 = 0.9f,
                                     .beta2 = 0.95f,
                                     .eps = 1e-8f,
                                     .weight_decay = 0.1f,
                                     .gradient_scale = (float)fmin(1.0, 1.0 / (norm + 1e-6)),
                                     .t = (int64_t)step + 1};
        olmo2_update(m, &settings);
        marks[4] = seconds_now();
        times[step] = 1e3 * (marks[4] - marks[0]);
        printf("step %.0f ms: forward %.0f, classifier %.0f, backward %.0f, update %.0f\n", times[step],
               1e3 * (marks[1] - marks[0]), 1e3 * (marks[2] - marks[1]), 1e3 * (marks[3] - marks[2]),
               1e3 * (marks[4] - marks[3]));
    }
    qsort(times, steps, sizeof *times, compare_doubles);
    printf("median %.1f min %.1f max %.1f\n", times[steps / 2], times[0], times[steps - 1]);
    olmo2_free(m);
    free(tokens);
    free(weights);
    free(logprobs);
    free(lse);
    free(times);
    return 0;
}
