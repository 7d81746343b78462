// dry_run.h: `train --dry-run`: whether a run fits into memory, and the largest micro-batch that does.
#ifndef LLMC_COMMANDS_DRY_RUN_H
#define LLMC_COMMANDS_DRY_RUN_H

#include "plan.h"

// Reads a number of bytes such as "24G", "24Gi", "512M" or "24e9".
static inline bool parse_bytes(const char *text, double *bytes, Error *err) {
    const char *letters = "kMGT";
    char *end;
    *bytes = strtod(text, &end);
    const char *letter = *end != '\0' ? strchr(letters, *end) : NULL;
    if (letter != NULL) {
        const bool binary = end[1] == 'i';
        *bytes *= pow(binary ? 1024.0 : 1000.0, (double)(letter - letters + 1));
        end += binary ? 2 : 1;
    }
    if (end != text && *end == '\0' && *bytes > 0.0 && *bytes < 1e18) { return true; }
    return fail(err, "--memory %s: expected a number of bytes, such as 24G or 24Gi", text);
}

// The bytes that the plan needs with `micro` sequences in memory at once.
static inline size_t memory_with(const Plan *p, size_t micro) {
    OLMo2Room room = p->room;
    room.B = micro;
    return olmo2_memory(plan_config(p), &room, &p->form).total;
}

// The most sequences at once that fit into that many bytes; 0 if not even one does.
static inline size_t largest_micro_batch(const Plan *p, double bytes) {
    size_t low = 0, high = 1;  // low fits, high does not
    while (high <= 1u << 20 && (double)memory_with(p, high) <= bytes) {
        low = high;
        high *= 2;
    }
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if ((double)memory_with(p, middle) <= bytes) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return low;
}

static inline void dry_run(const Plan *p) {
    const char *memory = p->settings.memory;
    char text[32];
    double bytes;
    Error err;
    if (memory == NULL) { return; }
    must(parse_bytes(memory, &bytes, &err), &err);
    const size_t largest = largest_micro_batch(p, bytes);
    printf("available      %s\n", format_bytes(text, (size_t)bytes));
    if (largest > 0) {
        printf("largest        %zu sequence%s at once: --micro-batch-size %zu takes %s\n", largest,
               largest == 1 ? "" : "s", largest, format_bytes(text, memory_with(p, largest)));
        return;
    }
    fail(&err,
         "--memory %s: one sequence of %zu tokens needs %s\n"
         "A shorter --seq-len, --recompute block, --master-weights off or --moments bf16 needs less.",
         memory, p->T, format_bytes(text, memory_with(p, 1)));
    must(false, &err);
}

#endif
