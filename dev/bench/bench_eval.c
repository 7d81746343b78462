// bench_eval.c: milliseconds to score the first documents of a file of evaluation requests, with random weights.
//   build/bench_eval --tokenizer tokenizer.json --requests FILE.jsonl.gz [--documents 8] [--steps N]
//                    [--C 512 --L 8 --NH 8 --F 2048 --V 100352]
// bench_eval.py does the same with transformers. Reading and encoding the requests is not counted. bench.h
// describes the output of both, and --steps 0.
#define LLMC_MAIN_H  // the backend without the program
#include "../../train_olmo2.c"
#include "llmc/likelihood.h"
#include "llmc/tasks.h"
#include "bench.h"

typedef struct {
    OLMo2 *model;
    LikelihoodPlan plan;
    RequestFile file;
} Run;

static bool nothing_more(void *context, const RequestFile *f, size_t document, Error *err) {
    (void)context, (void)f, (void)document, (void)err;
    return true;
}

static bool score_once(void *of, char parts[128], Error *err) {
    Run *r = (Run *)of;
    (void)parts;
    return likelihood_score(r->model, &r->plan, &r->file, 0, NULL, nothing_more, NULL, err);
}

int main(int argc, char **argv) {
    Error err = {{0}}, warning = {{0}};
    Run r;
    Text text;
    OLMo2Config c = bench_config();
    const OLMo2Form form = olmo2_form();
    const char *tokenizer = NULL, *requests = NULL;
    size_t steps = 5, documents = 8;
    memset(&r, 0, sizeof r);
    c.V = 100352;
    c.max_T = 4096;
    const BenchFlag flags[] = {{"steps", &steps, NULL},
                               {"tokenizer", NULL, &tokenizer},
                               {"requests", NULL, &requests},
                               {"documents", &documents, NULL},
                               {"C", &c.C, NULL},
                               {"L", &c.L, NULL},
                               {"NH", &c.NH, NULL},
                               {"F", &c.F, NULL},
                               {"V", &c.V, NULL}};
    bench_must(bench_flags(flags, sizeof flags / sizeof flags[0], argc, argv, &err), &err);
    bench_must(bench_config_complete(&c, &err), &err);
    if (tokenizer == NULL || requests == NULL) {
        bench_must(fail(&err, "--tokenizer, --requests: are needed"), &err);
    }
    bench_must(text_open(&text, tokenizer, &err), &err);
    bench_must(task_requests_open(&r.file, requests, documents, &text, &c, &warning, &err), &err);
    r.plan = likelihood_plan(&c, &r.file, 1, 0);
    const OLMo2Room room = likelihood_room(&r.plan);
    bench_must(olmo2_create(&r.model, &c, &room, &form, &err), &err);
    bench_must(bench_weights(r.model, &err), &err);

    char backend[64], notes[128];
    olmo2_describe(&room, &form, backend, sizeof backend);
    printf("%s, %.1fM parameters, %zu documents, %zu at a time\n", backend, (double)parameter_total(&c) / 1e6,
           r.file.document_count, r.plan.slots);
    snprintf(notes, sizeof notes, "documents %zu parameters %zu", r.file.document_count, parameter_total(&c));
    bench_must(bench_turns(steps, notes, score_once, &r, &err), &err);
    requests_close(&r.file);
    text_close(&text);
    olmo2_free(r.model);
    return 0;
}
