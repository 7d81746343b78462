// train.h: the command `train`. Pre-training, mid-training and supervised fine-tuning are this one loop: they
// differ in their data, and in which of its tokens have a label.
//          on paper: dev/doc/training.md    tested: dev/test/test_cli.sh, dev/test/reference_training.py
//
// Functions named plan_ and run_ end the program with a message when they fail.
#ifndef LLMC_COMMANDS_TRAIN_H
#define LLMC_COMMANDS_TRAIN_H

#include "dry_run.h"
#include "run_ask.h"

// What a step reports. Its objective divides by N, which counts filtered sequences; the loss divides by the
// labels alone, so runs can be compared.
static inline StepReport language_model_report(const Batch *batch, size_t N, double z) {
    StepReport r;
    LmSums sums;
    memset(&r, 0, sizeof r);
    memset(&sums, 0, sizeof sums);
    lm_add(&sums, batch->labels, batch->logprobs, batch->lse, batch->B * batch->T, z);
    r.labels = sums.labels;
    r.objective = N > 0 ? sums.ce / (double)N : 0.0;
    report_figure(&r, "loss", sums.labels > 0 ? sums.ce / (double)sums.labels : NAN, false);
    report_figure(&r, "z", sums.labels > 0 ? sums.z / (double)sums.labels : NAN, true);
    return r;
}

// The gradient of (1 / N) sum_t (-log p(label_t) + z lse_t^2) over the batch, in parts that fit the memory. N
// counts the labels of the whole batch, so parts of any size add up to the same gradient.
static inline StepReport language_model_gradient(OLMo2 *m, Batch *batch, const Plan *plan) {
    const size_t N = lm_normalizer(batch->labels, batch->filtered, batch->B, batch->T);
    lm_weights(batch->weights, batch->labels, batch->B * batch->T, N);
    olmo2_zero_gradients(m);
    for (size_t b = 0; b < batch->B; b += plan->micro) {
        const Batch part = batch_part(batch, b, plan->micro);
        olmo2_forward(m, part.tokens, part.B, part.T);
        olmo2_classify(m, part.labels, part.weights, (float)plan->z, part.logprobs, part.lse);
        olmo2_backward(m);
    }
    return language_model_report(batch, N, plan->z);
}

static inline void train(const char *program, const Settings *settings) {
    // Everything that follows from the settings: model, data, schedule, memory. Nothing is written yet.
    Plan plan = plan_make(program, settings);
    plan_print(&plan);
    if (settings->dry_run == ON) {
        dry_run(&plan);
        plan_free(&plan);
        return;
    }

    Run run = run_begin(&plan);
    while (run_goes_on(&run)) {
        run_next_batch(&run);
        StepReport step = language_model_gradient(run.model, &run.batch, &plan);
        run_update(&run, &step);  // gradient norm; skip the step, or clip and update
        run_record(&run, &step);  // a line on the screen and in log.jsonl

        // once in a while
        if (plan.validates && run_is_due(&run, plan.settings.eval_every)) { run_evaluate(&run); }
        if (plan.asks && run_is_due(&run, plan.settings.eval_every)) { run_ask(&run); }
        if (plan.samples && run_is_due(&run, plan.settings.sample_every)) { run_sample(&run); }
        if (run_is_due(&run, plan.settings.save_every)) { run_save(&run); }
    }
    run_end(&run);  // the last checkpoint, and how to resume if there is more to do
    plan_free(&plan);
}

#endif
