// flags.h: ONE table of flags. It makes the parser, the help, and the configuration that a run saves.
//
// A value is written `--flag value` or `--flag=value`; a list takes every argument up to the next flag. What
// is unknown, out of range, given twice or missing is an error that names the flag.
#ifndef LLMC_FLAGS_H
#define LLMC_FLAGS_H

#include "json.h"
#include "schedule.h"

// ---------------------------------------------------------------------------------------------
// the settings

typedef struct {
    char **items;  // (count), owned
    size_t count;
} TextList;

typedef enum { PRODUCTS_FP32, PRODUCTS_BF16 } ProductType;             // in the order of --dtype's words
typedef enum { MOMENTS_FP32, MOMENTS_BF16 } MomentType;                // in the order of --moments' words
enum { ABLATE_QK_NORM = 1, ABLATE_POST_NORM = 2, ABLATE_Z_LOSS = 4 };  // in the order of --ablate's words

// The value of every flag, filled from the table by offset; -1, NAN or NULL where there is none. The texts
// are owned: settings_free.
typedef struct {
    // model
    char *config, *load, *resume, *tokenizer;
    bool load_optimizer;
    int64_t vocab_size;
    unsigned ablate;  // bits ABLATE_...
    // data
    TextList data, val_data;
    int64_t seq_len, batch_size, micro_batch_size, seed;
    bool instance_filter;
    int64_t filter_min_period, filter_max_period, filter_max_count;
    // length
    int64_t steps, tokens, epochs, stop_at;
    // optimizer
    double lr;
    int schedule;  // a ScheduleKind
    int64_t warmup_steps, decay_steps;
    double final_lr_fraction, beta1, beta2, adam_eps, weight_decay, clip, z_loss;
    bool skip_step;
    // output
    char *out;
    int64_t log_every, eval_every, eval_instances, save_every, keep, keep_every, sample_every;
    // text
    char *prompt;
    int64_t max_tokens, top_k;
    double temperature, top_p;
    // machine
    int recompute;  // a Recompute
    bool master_weights;
    int dtype;    // a ProductType
    int moments;  // a MomentType
    bool dry_run;
    char *memory;
    bool profile;
    int64_t threads;
    // everything else
    bool help;
    TextList inputs;  // the arguments that belong to no flag
    bool given[128];  // by row of the table: whether it was on the command line
} Settings;

// ---------------------------------------------------------------------------------------------
// the commands

// One bit each, for the table's rows.
enum {
    TRAIN = 1,
    GENERATE = 2,
    EVAL = 4,
    SOUP = 8,
    TOKENIZE = 16,
    DETOKENIZE = 32,
    INSPECT = 64,
    EVERY = 127,
    RESUME = TRAIN | 128,  // train, and also when resuming, maybe on another machine
    ONCE = 1 << 16         // not part of a run's configuration
};
#define NEEDED(command) ((command) | (command) << 8)  // the command cannot do without the flag

typedef struct {
    unsigned bit;
    const char *name;
    size_t least_inputs, most_inputs;  // arguments that belong to no flag
    const char *usage;                 // lines
    const char *summary;
} Command;

// clang-format off
static const Command commands[] = {
  { TRAIN, "train", 0, 0,
    "--config SIZE --data FILE... --out RUN --steps N\n"
    "--load DIR --data FILE... --out RUN --steps N\n"
    "--resume RUN",
    "Trains a new model, trains one further, or goes on with a run exactly where it stopped. The defaults "
    "are OLMo 2's own settings." },
  { GENERATE, "generate", 0, 0, "--load DIR --prompt TEXT",
    "Writes the prompt and the model's continuation, up to the end of the document." },
  { EVAL, "eval", 0, 0, "--load DIR --data FILE...",
    "Measures a model on token files: cross-entropy per token (natural logarithm), perplexity, bits per byte "
    "of the decoded text (the end of a document is scored, but counts no byte), and the z term." },
  { SOUP, "soup", 2, 4096, "--out DIR MODEL MODEL...",
    "Averages models of one shape: the uniform mean of every tensor, accumulated in double precision." },
  { TOKENIZE, "tokenize", 1, SIZE_MAX, "--tokenizer FILE --out TOKENS TEXT...",
    "Turns texts into one file of token ids, raw little-endian uint32. A .jsonl file holds a document in the "
    "\"text\" of every line, any other file is one document. <|endoftext|> follows each." },
  { DETOKENIZE, "detokenize", 1, 1, "--tokenizer FILE TOKENS",
    "Writes the text of a token file." },
  { INSPECT, "inspect", 1, 1, "DIR|FILE|SIZE",
    "Shows a model's configuration, tensors, parameters and the memory it takes: of a model or run "
    "directory, a config.json, a .safetensors file, or a size by its name. Of a run also how often its loss "
    "and its gradient norm spiked." },
};
// clang-format on
enum { COMMANDS = sizeof commands / sizeof commands[0] };

// ---------------------------------------------------------------------------------------------
// the table

typedef enum {
    FLAG_HEADING,  // no flag: the help puts what follows under this name
    FLAG_SWITCH,   // bool: on or off; the flag alone means on
    FLAG_INTEGER,  // int64_t
    FLAG_REAL,     // double
    FLAG_CHOICE,   // int: which of the words
    FLAG_SET,      // unsigned: one bit for each of the words, which are separated by commas
    FLAG_TEXT,     // char *
    FLAG_LIST      // TextList
} FlagType;

typedef struct {
    const char *name;  // without its dashes: also the key in a saved configuration
    FlagType type;
    size_t offset;        // of the value in Settings
    const char *values;   // of a number: the interval; of a choice or set: the words; of a text: what it is
    const char *initial;  // the default as it would be typed; NULL for none
    unsigned commands;    // who has it
    const char *help;
} Flag;

#define AT(field) offsetof(Settings, field)
// clang-format off
static const Flag flags[] = {
//  name                 type          value                  values        default  commands
  { "model", FLAG_HEADING, 0, NULL, NULL, 0, NULL },
  { "config",            FLAG_TEXT,    AT(config),            "SIZE|FILE",  NULL,    TRAIN,
    "begin a new model: 1M 14M 30M 60M 100M 190M 370M 600M 760M 1B 1B-core 3B 7B 13B 32B, or a "
    "config.json" },
  { "load",              FLAG_TEXT,    AT(load),              "DIR",        NULL,    TRAIN,
    "train this model further: an OLMo 2 directory in Hugging Face layout, or a run" },
  { "load",              FLAG_TEXT,    AT(load),              "DIR",        NULL,
    NEEDED(GENERATE) | NEEDED(EVAL),
    "the model: an OLMo 2 directory in Hugging Face layout, or a run" },
  { "resume",            FLAG_TEXT,    AT(resume),            "RUN",        NULL,    RESUME | ONCE,
    "go on with this run, with the settings it began with; flags with a * may be given anew" },
  { "load-optimizer",    FLAG_SWITCH,  AT(load_optimizer),    NULL,         "off",   TRAIN,
    "with --load: take AdamW's moments and step count too, as OLMo 2's mid-training does" },
  { "vocab-size",        FLAG_INTEGER, AT(vocab_size),        "[1, 1e8]",   NULL,    TRAIN,
    "rows of the embedding (default: the tokenizer's size rounded up to a multiple of 128, as OLMo 2's "
    "100352)" },
  { "tokenizer",         FLAG_TEXT,    AT(tokenizer),         "FILE|DIR",   NULL,    TRAIN | EVAL,
    "tokenizer.json, for samples and bits per byte (default: the one beside a loaded model)" },
  { "tokenizer",         FLAG_TEXT,    AT(tokenizer),         "FILE|DIR",   NULL,
    NEEDED(TOKENIZE) | NEEDED(DETOKENIZE),
    "a tokenizer.json, or a directory that holds one" },
  { "ablate",            FLAG_SET,     AT(ablate),            "qk-norm|post-norm|z-loss", NULL,    TRAIN,
    "for studies: leave out any of qk-norm, post-norm (the norms then stand on the branch inputs), "
    "z-loss" },

  { "data", FLAG_HEADING, 0, NULL, NULL, 0, NULL },
  { "data",              FLAG_LIST,    AT(data),              "FILE...",    NULL,    TRAIN | NEEDED(EVAL),
    "token files or quoted globs: uint32, raw or .npy; FILE.mask beside one says which tokens are "
    "trained" },
  { "val-data",          FLAG_LIST,    AT(val_data),          "FILE...",    NULL,    TRAIN,
    "token files held out for validation" },
  { "seq-len",           FLAG_INTEGER, AT(seq_len),           "[2, 1e8]",   NULL,    TRAIN | EVAL | INSPECT,
    "tokens of a sequence (default: the model's max_position_embeddings; 4096 for a new model)" },
  { "batch-size",        FLAG_INTEGER, AT(batch_size),        "[1, 1e6]",   NULL,    TRAIN,
    "sequences of a step (default by size: 512 up to 3B, 1024 for 7B, 2048 above)" },
  { "batch-size",        FLAG_INTEGER, AT(batch_size),        "[1, 1e6]",   "8",     EVAL | INSPECT,
    "sequences side by side" },
  { "micro-batch-size",  FLAG_INTEGER, AT(micro_batch_size),  "[1, 1e6]",   NULL,    TRAIN,
    "sequences side by side in memory; their gradients add up to the batch's (default: as many as hold 8192 "
    "tokens, at least one)" },
  { "seed",              FLAG_INTEGER, AT(seed),              "[0, 9e15]",  "6198",  TRAIN,
    "of the initial weights, the order of the data and the samples" },
  { "instance-filter",   FLAG_SWITCH,  AT(instance_filter),   NULL,         "on",    TRAIN,
    "do not train on a sequence in which an n-gram repeats too often in a row" },
  { "filter-min-period", FLAG_INTEGER, AT(filter_min_period), "[1, 4096]",  "1",     TRAIN,
    "shortest n-gram of the filter" },
  { "filter-max-period", FLAG_INTEGER, AT(filter_max_period), "[1, 4096]",  "13",    TRAIN,
    "longest n-gram of the filter" },
  { "filter-max-count",  FLAG_INTEGER, AT(filter_max_count),  "[3, 1e6]",   "32",    TRAIN,
    "how many repetitions are too many" },

  { "length (exactly one of --steps, --tokens, --epochs)", FLAG_HEADING, 0, NULL, NULL, 0, NULL },
  { "steps",             FLAG_INTEGER, AT(steps),             "[1, 1e15]",  NULL,    TRAIN,
    "optimizer steps" },
  { "tokens",            FLAG_INTEGER, AT(tokens),            "[1, 1e15]",  NULL,    TRAIN,
    "tokens, such as 5e9, rounded up to a whole step" },
  { "epochs",            FLAG_INTEGER, AT(epochs),            "[1, 1e6]",   NULL,    TRAIN,
    "passes over the data" },
  { "stop-at",           FLAG_INTEGER, AT(stop_at),           "[1, 1e15]",  NULL,    RESUME | ONCE,
    "save and stop after this step; the schedule stays that of the whole run" },

  { "optimizer", FLAG_HEADING, 0, NULL, NULL, 0, NULL },
  { "lr",                FLAG_REAL,    AT(lr),                "(0, 1]",     NULL,    TRAIN,
    "peak learning rate (default by size: 4e-4 up to 3B, 3e-4 for 7B, 9e-4 for 13B, 6e-4 for 32B)" },
  { "schedule",          FLAG_CHOICE,  AT(schedule),          "cosine|linear|wsd|constant", "cosine", TRAIN,
    "how the learning rate goes on after the warmup; wsd is constant with a linear decay at the end" },
  { "warmup-steps",      FLAG_INTEGER, AT(warmup_steps),      "[0, 1e15]",  NULL,    TRAIN,
    "steps of linear warmup (default: 2000, but at most a tenth of the run)" },
  { "decay-steps",       FLAG_INTEGER, AT(decay_steps),       "[0, 1e15]",  NULL,    TRAIN,
    "steps of the decay of wsd (default: a tenth of the run)" },
  { "final-lr-fraction", FLAG_REAL,    AT(final_lr_fraction), "[0, 1]",     NULL,    TRAIN,
    "the last learning rate over the peak (default: 0.1 for cosine, 0 for linear and wsd)" },
  { "beta1",             FLAG_REAL,    AT(beta1),             "[0, 1)",     "0.9",   TRAIN,
    "AdamW: memory of the gradient's mean" },
  { "beta2",             FLAG_REAL,    AT(beta2),             "[0, 1)",     "0.95",  TRAIN,
    "AdamW: memory of the gradient's mean square" },
  { "adam-eps",          FLAG_REAL,    AT(adam_eps),          "(0, 1]",     "1e-8",  TRAIN,
    "AdamW: added to the root of the mean square" },
  { "weight-decay",      FLAG_REAL,    AT(weight_decay),      "[0, 10]",    "0.1",   TRAIN,
    "AdamW: pull towards zero, on everything but the input embedding" },
  { "clip",              FLAG_REAL,    AT(clip),              "[0, inf)",   "1",     TRAIN,
    "largest norm of the whole gradient; 0 for no limit" },
  { "z-loss",            FLAG_REAL,    AT(z_loss),            "[0, 1]",     "1e-5",  TRAIN | EVAL,
    "weight of the squared logsumexp in the loss" },
  { "skip-step",         FLAG_SWITCH,  AT(skip_step),         NULL,         "on",    TRAIN,
    "make no update when the loss or the gradient norm is 6 deviations above its last 128 values, or is "
    "not finite" },

  { "output", FLAG_HEADING, 0, NULL, NULL, 0, NULL },
  { "out",               FLAG_TEXT,    AT(out),               "RUN",        NULL,    TRAIN,
    "directory of the run: checkpoints step-* and log.jsonl" },
  { "out",               FLAG_TEXT,    AT(out),               "DIR",        NULL,    NEEDED(SOUP),
    "the model directory to write" },
  { "out",               FLAG_TEXT,    AT(out),               "TOKENS",     NULL,    NEEDED(TOKENIZE),
    "the token file to write" },
  { "log-every",         FLAG_INTEGER, AT(log_every),         "[1, 1e15]",  "1",     RESUME,
    "steps from one printed line to the next; log.jsonl has every step" },
  { "eval-every",        FLAG_INTEGER, AT(eval_every),        "[0, 1e15]",  "1000",  RESUME,
    "steps from one validation to the next; 0 for one at the end alone" },
  { "eval-instances",    FLAG_INTEGER, AT(eval_instances),    "[0, 1e15]",  "0",     EVAL | RESUME,
    "sequences to validate on; 0 for all" },
  { "save-every",        FLAG_INTEGER, AT(save_every),        "[0, 1e15]",  "1000",  RESUME,
    "steps from one checkpoint to the next; 0 for one at the end alone" },
  { "keep",              FLAG_INTEGER, AT(keep),              "[0, 1e9]",   "2",     RESUME,
    "how many checkpoints to keep, the last ones; 0 for all" },
  { "keep-every",        FLAG_INTEGER, AT(keep_every),        "[0, 1e15]",  "0",     RESUME,
    "keep the checkpoints of every N-th step as well; 0 for none" },

  { "text", FLAG_HEADING, 0, NULL, NULL, 0, NULL },
  { "sample-every",      FLAG_INTEGER, AT(sample_every),      "[0, 1e15]",  "0",     RESUME,
    "steps from one sample to the next; 0 for none" },
  { "sample-prompt",     FLAG_TEXT,    AT(prompt),            "TEXT",       NULL,    RESUME,
    "how a sample begins (default: as a new document)" },
  { "sample-tokens",     FLAG_INTEGER, AT(max_tokens),        "[1, 1e8]",   "100",   RESUME,
    "its length" },
  { "prompt",            FLAG_TEXT,    AT(prompt),            "TEXT",       NULL,    GENERATE,
    "how the text begins (default: as a new document)" },
  { "max-tokens",        FLAG_INTEGER, AT(max_tokens),        "[1, 1e8]",   "200",   GENERATE,
    "tokens to write at most" },
  { "temperature",       FLAG_REAL,    AT(temperature),       "[0, 100]",   "1",     GENERATE | RESUME,
    "divides the logits; 0 takes the likeliest token each time" },
  { "top-p",             FLAG_REAL,    AT(top_p),             "(0, 1]",     "1",     GENERATE | RESUME,
    "draw from the likeliest tokens that together have this probability" },
  { "top-k",             FLAG_INTEGER, AT(top_k),             "[0, 1e8]",   "0",     GENERATE | RESUME,
    "draw from this many likeliest tokens; 0 for all" },
  { "seed",              FLAG_INTEGER, AT(seed),              "[0, 9e15]",  "1",     GENERATE,
    "of the draws" },

  { "machine", FLAG_HEADING, 0, NULL, NULL, 0, NULL },
  { "recompute",         FLAG_CHOICE,  AT(recompute),         "elementwise|none|block", "elementwise", RESUME,
    "what the backward computes again instead of keeping it: what takes no matrix product, nothing, or "
    "whole layers; the bits are the same (on the CPU, elementwise)" },
  { "master-weights",    FLAG_SWITCH,  AT(master_weights),    NULL,         "on",    TRAIN,
    "on a GPU: keep an fp32 copy of bf16 weights, and fp32 gradients; off, the weights are rounded "
    "stochastically and the gradients are bf16" },
  { "moments",           FLAG_CHOICE,  AT(moments),           "fp32|bf16",  "fp32",  TRAIN,
    "on a GPU: what AdamW's moments are kept in; bf16 is rounded stochastically" },
  { "dtype",             FLAG_CHOICE,  AT(dtype),             "fp32|bf16",  "fp32",  GENERATE | EVAL | RESUME,
    "on the CPU: what the factors of matrix products are rounded to; all else stays fp32. bf16 is faster on "
    "a processor with AVX512-BF16" },
  { "dry-run",           FLAG_SWITCH,  AT(dry_run),           NULL,         "off",   TRAIN | ONCE,
    "only plan the memory: needs a --config or --load, no data and no device" },
  { "memory",            FLAG_TEXT,    AT(memory),            "BYTES",      NULL,    TRAIN | ONCE,
    "with --dry-run: what there is, such as 24G (10^9 bytes) or 24Gi (2^30)" },
  { "profile",           FLAG_SWITCH,  AT(profile),           NULL,         "off",   RESUME | ONCE,
    "on the CPU: at the end, print what a step spends its time on, function by function, beside what the "
    "machine can do" },
  { "threads",           FLAG_INTEGER, AT(threads),           "[0, 4096]",  "0",     GENERATE | EVAL | RESUME,
    "0 for as many as the machine offers; the results do not depend on it" },
  { "help",              FLAG_SWITCH,  AT(help),              NULL,         "off",   EVERY | ONCE,
    "show this" },
};
// clang-format on
#undef AT
enum { FLAGS = sizeof flags / sizeof flags[0] };
static_assert(FLAGS <= sizeof(((Settings *)0)->given), "one entry of `given` for each row");

// ---------------------------------------------------------------------------------------------
// words and near misses

static inline const Command *command_find(const char *name) {
    for (int i = 0; i < COMMANDS; i++) {
        if (strcmp(commands[i].name, name) == 0) { return &commands[i]; }
    }
    return NULL;
}

// The row of the flag of that name (length bytes) which one of the commands has, or -1.
static inline int flag_find(const char *name, size_t length, unsigned commands_bits) {
    for (int i = 0; i < FLAGS; i++) {
        if ((flags[i].commands & commands_bits) != 0 && strlen(flags[i].name) == length &&
            memcmp(flags[i].name, name, length) == 0) {
            return i;
        }
    }
    return -1;
}

// Insertions, deletions, replacements that make b of a (Levenshtein), of their first 63 characters.
static inline size_t edit_distance(const char *a, const char *b) {
    size_t row[64], n = strlen(b) < 63 ? strlen(b) : 63;
    for (size_t j = 0; j <= n; j++) { row[j] = j; }
    for (size_t i = 1; a[i - 1] != '\0' && i < 64; i++) {
        size_t diagonal = row[0];  // of the row above
        row[0] = i;
        for (size_t j = 1; j <= n; j++) {
            size_t best = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            if (row[j] + 1 < best) { best = row[j] + 1; }
            if (row[j - 1] + 1 < best) { best = row[j - 1] + 1; }
            row[j] = best;
        }
    }
    return row[n];
}

// The next of the words a|b|c in `words`, copied to `word`; returns what follows it, NULL after the last.
static inline const char *next_word(const char *words, char word[64]) {
    size_t length = strcspn(words, "|");
    snprintf(word, 64, "%.*s", (int)length, words);
    return words[length] == '|' ? words + length + 1 : NULL;
}

// The i-th of the words.
static inline void word_at(const char *words, int i, char word[64]) {
    for (; i >= 0 && words != NULL; i--) { words = next_word(words, word); }
}

// Which of the words this is, or -1; then `nearest` is the one that looks most like it.
static inline int find_word(const char *words, const char *name, char nearest[64]) {
    size_t least = SIZE_MAX;
    char word[64];
    for (int i = 0; words != NULL; i++) {
        words = next_word(words, word);
        size_t distance = edit_distance(name, word);
        if (distance == 0) { return i; }
        if (distance < least) {
            least = distance;
            memcpy(nearest, word, sizeof word);
        }
    }
    return -1;
}

// The error for a flag, as it was typed, that the command does not have under this name.
static inline bool unknown_flag(const char *typed, const char *name, const Command *command, Error *err) {
    int elsewhere = flag_find(name, strlen(name), EVERY), nearest = -1;
    size_t least = SIZE_MAX;
    for (int i = 0; i < FLAGS; i++) {
        if ((flags[i].commands & command->bit) == 0) { continue; }
        size_t distance = edit_distance(name, flags[i].name);
        if (distance < least) {
            least = distance;
            nearest = i;
        }
    }
    for (int i = 0; i < COMMANDS && elsewhere >= 0 && least > 0; i++) {
        if ((flags[elsewhere].commands & commands[i].bit) != 0) {
            return fail(err, "%s: is a flag of %s, not of %s (%s --help lists those)", typed,
                        commands[i].name, command->name, command->name);
        }
    }
    return fail(err, "%s: no such flag; did you mean --%s? (%s --help lists them all)", typed,
                flags[nearest].name, command->name);
}

// ---------------------------------------------------------------------------------------------
// values

static inline bool text_set(char **text, const char *value, Error *err) {
    char *copy = strdup(value);
    if (copy == NULL) { return fail(err, "out of memory: the flags need %zu bytes", strlen(value) + 1); }
    free(*text);
    *text = copy;
    return true;
}

static inline bool list_append(TextList *list, const char *value, Error *err) {
    char **items = (char **)realloc(list->items, (list->count + 1) * sizeof *items);
    if (items == NULL) { return fail(err, "out of memory: the flags need %zu bytes", strlen(value) + 1); }
    list->items = items;
    items[list->count] = NULL;
    if (!text_set(&items[list->count], value, err)) { return false; }
    list->count++;
    return true;
}

static inline void list_free(TextList *list) {
    for (size_t i = 0; i < list->count; i++) { free(list->items[i]); }
    free(list->items);
    list->items = NULL;
    list->count = 0;
}

// A number in the interval, written as mathematicians do: [0, 1) holds 0 but not 1.
static inline bool parse_number(const char *text, const char *interval, bool whole, double *value) {
    char open = '[', close = ']', *end;
    double low = 0.0, high = 0.0;
    int fields = sscanf(interval, "%c%lf, %lf%c", &open, &low, &high, &close);
    assert(fields == 4);
    (void)fields;
    *value = strtod(text, &end);
    bool number = end != text && *end == '\0' && (!whole || *value == floor(*value));
    bool above = open == '[' ? *value >= low : *value > low;
    bool below = close == ']' ? *value <= high : *value < high;
    return number && above && below;
}

// The words of a set, separated by commas, as bits.
static inline bool parse_set(const Flag *flag, const char *value, unsigned *bits, Error *err) {
    char word[64], nearest[64];
    *bits = 0;
    while (*value != '\0') {
        size_t length = strcspn(value, ",");
        snprintf(word, sizeof word, "%.*s", (int)length, value);
        int i = find_word(flag->values, word, nearest);
        if (i < 0) {
            return fail(err, "--%s %s: expected any of %s; did you mean %s?", flag->name, word, flag->values,
                        nearest);
        }
        *bits |= 1u << i;
        value += length + (value[length] == ',');
    }
    return true;
}

// Takes the value as it is typed; a list gets one more item.
static inline bool flag_set(Settings *s, const Flag *flag, const char *value, Error *err) {
    char *field = (char *)s + flag->offset, nearest[64];
    double number = 0.0;
    int word;
    switch (flag->type) {
    case FLAG_HEADING: return true;
    case FLAG_SWITCH:
        word = find_word("off|on", value, nearest);
        if (word < 0) { return fail(err, "--%s %s: expected on or off", flag->name, value); }
        *(bool *)field = word == 1;
        return true;
    case FLAG_INTEGER:
    case FLAG_REAL:
        if (!parse_number(value, flag->values, flag->type == FLAG_INTEGER, &number)) {
            return fail(err, "--%s %s: expected a %snumber in %s", flag->name, value,
                        flag->type == FLAG_INTEGER ? "whole " : "", flag->values);
        }
        if (flag->type == FLAG_REAL) {
            *(double *)field = number;
        } else {
            *(int64_t *)field = (int64_t)number;
        }
        return true;
    case FLAG_CHOICE:
        word = find_word(flag->values, value, nearest);
        if (word < 0) {
            return fail(err, "--%s %s: expected one of %s; did you mean %s?", flag->name, value, flag->values,
                        nearest);
        }
        *(int *)field = word;
        return true;
    case FLAG_SET: return parse_set(flag, value, (unsigned *)field, err);
    case FLAG_TEXT: return text_set((char **)field, value, err);
    case FLAG_LIST: return list_append((TextList *)field, value, err);
    }
    return true;
}

static inline void settings_free(Settings *s) {
    for (int i = 0; i < FLAGS; i++) {
        char *field = (char *)s + flags[i].offset;
        if (flags[i].type == FLAG_TEXT) {
            free(*(char **)field);
            *(char **)field = NULL;
        } else if (flags[i].type == FLAG_LIST) {
            list_free((TextList *)field);
        }
    }
    list_free(&s->inputs);
}

// Every value of the command's flags at its default. Release with settings_free, also after a failure.
static inline bool settings_init(Settings *s, const Command *command, Error *err) {
    memset(s, 0, sizeof *s);
    for (int i = 0; i < FLAGS; i++) {
        char *field = (char *)s + flags[i].offset;
        if ((flags[i].commands & command->bit) == 0) { continue; }
        if (flags[i].type == FLAG_INTEGER) { *(int64_t *)field = -1; }
        if (flags[i].type == FLAG_REAL) { *(double *)field = NAN; }
        if (flags[i].initial != NULL && !flag_set(s, &flags[i], flags[i].initial, err)) { return false; }
    }
    return true;
}

// The word that one of train's choices has.
static inline void choice_word(const Settings *s, const char *name, char word[64]) {
    const Flag *flag = &flags[flag_find(name, strlen(name), TRAIN)];
    word_at(flag->values, *(const int *)((const char *)s + flag->offset), word);
}

// ---------------------------------------------------------------------------------------------
// the command line

// Whether one of the command's flags was on the command line.
static inline bool flag_given(const Settings *s, const Command *command, const char *name) {
    int row = flag_find(name, strlen(name), command->bit);
    assert(row >= 0);
    return s->given[row];
}

// The flag at argv[*i] and its values; leaves *i at the last argument that it took.
static inline bool parse_flag(Settings *s, const Command *command, int argc, char **argv, int *i,
                              Error *err) {
    char name[64];
    const char *text = argv[*i] + strspn(argv[*i], "-"), *equals = strchr(text, '=');
    snprintf(name, sizeof name, "%.*s", (int)(equals != NULL ? equals - text : (ptrdiff_t)strlen(text)),
             text);
    int row = strncmp(argv[*i], "--", 2) == 0 ? flag_find(name, strlen(name), command->bit) : -1;
    if (row < 0) { return unknown_flag(argv[*i], name, command, err); }
    const Flag *flag = &flags[row];
    const char *next = *i + 1 < argc ? argv[*i + 1] : NULL;
    bool first = !s->given[row];
    s->given[row] = true;
    if (!first && flag->type != FLAG_LIST) { return fail(err, "--%s: is given twice", name); }
    if (flag->type == FLAG_LIST && first) { list_free((TextList *)((char *)s + flag->offset)); }
    if (equals != NULL) { return flag_set(s, flag, equals + 1, err); }
    if (flag->type == FLAG_SWITCH) {
        bool value = next != NULL && (strcmp(next, "on") == 0 || strcmp(next, "off") == 0);
        *i += value;
        return flag_set(s, flag, value ? next : "on", err);
    }
    if (next == NULL || strncmp(next, "--", 2) == 0) {
        return fail(err, "--%s: needs a value after it (--%s=VALUE for one that begins with two dashes)",
                    name, name);
    }
    do {
        if (!flag_set(s, flag, argv[++*i], err)) { return false; }
    } while (flag->type == FLAG_LIST && *i + 1 < argc && strncmp(argv[*i + 1], "--", 2) != 0);
    return true;
}

// Reads the arguments after the command's name into *s, over what stands there; --help ends it at once.
static inline bool flags_parse(Settings *s, const Command *command, int argc, char **argv, Error *err) {
    for (int i = 0; i < argc; i++) { s->help = s->help || strcmp(argv[i], "--help") == 0; }
    if (s->help) { return true; }
    for (int i = 0; i < argc; i++) {
        bool ok = argv[i][0] == '-' ? parse_flag(s, command, argc, argv, &i, err)
                                    : list_append(&s->inputs, argv[i], err);
        if (!ok) { return false; }
    }
    for (int i = 0; i < FLAGS; i++) {
        if ((flags[i].commands & command->bit << 8) != 0 && !s->given[i]) {
            return fail(err, "--%s: %s needs it: %s (%s --help says more)", flags[i].name, command->name,
                        flags[i].help, command->name);
        }
    }
    if (s->inputs.count > command->most_inputs) {
        return fail(err, "%s: is one argument too many for %s, whose usage is: %s %s",
                    s->inputs.items[command->most_inputs], command->name, command->name, command->usage);
    }
    if (s->inputs.count < command->least_inputs) {
        return fail(err, "%s: needs at least %zu arguments besides the flags: %s %s", command->name,
                    command->least_inputs, command->name, command->usage);
    }
    return true;
}

// ---------------------------------------------------------------------------------------------
// what contradicts

// With --resume only what leaves the weights alone can be given.
static inline bool flags_check_resume(const Settings *s, Error *err) {
    for (int i = 0; i < FLAGS; i++) {
        if (s->given[i] && (flags[i].commands & RESUME) != RESUME) {
            return fail(err,
                        "--%s: cannot be given with --resume, which goes on with the run's own settings; "
                        "--load begins a new run from its model",
                        flags[i].name);
        }
    }
    return true;
}

// The flags of train against each other.
static inline bool flags_check_train(const Settings *s, Error *err) {
    const Command *train = command_find("train");
    if (s->resume != NULL) { return flags_check_resume(s, err); }
    if ((s->config != NULL) + (s->load != NULL) != 1) {
        return fail(err,
                    "train: expected one of --config (a new model), --load (a model to train further) and "
                    "--resume (a run to go on with), found %s",
                    s->config != NULL ? "two" : "none");
    }
    if (s->dry_run) { return true; }
    if (s->memory != NULL) { return fail(err, "--memory: needs --dry-run"); }
    if (s->data.count == 0) { return fail(err, "--data: train needs token files"); }
    if (s->out == NULL) { return fail(err, "--out: train needs a directory for the run"); }
    if ((s->steps > 0) + (s->tokens > 0) + (s->epochs > 0) != 1) {
        return fail(err,
                    "--steps, --tokens, --epochs: expected exactly one of them, to say how long to train");
    }
    // a flag that was given, and when it makes sense
    struct {
        const char *name;
        bool allowed;
        const char *why;
    } rules[] = {
        {"load-optimizer", s->load != NULL || !s->load_optimizer, "needs --load, which says from where"},
        {"vocab-size", s->load == NULL, "cannot be given with --load: the model has its vocabulary"},
        {"ablate", s->load == NULL || (s->ablate & ~(unsigned)ABLATE_Z_LOSS) == 0,
         "only z-loss can be left out of a model that is loaded; its norms are what they are"},
        {"z-loss", (s->ablate & ABLATE_Z_LOSS) == 0, "contradicts --ablate z-loss"},
        {"decay-steps", s->schedule == SCHEDULE_WSD, "is for --schedule wsd"},
        {"final-lr-fraction", s->schedule != SCHEDULE_CONSTANT, "contradicts --schedule constant"},
        {"eval-every", s->val_data.count > 0, "needs --val-data"},
        {"eval-instances", s->val_data.count > 0, "needs --val-data"},
        {"filter-min-period", s->instance_filter, "contradicts --instance-filter off"},
        {"filter-max-period", s->instance_filter, "contradicts --instance-filter off"},
        {"filter-max-count", s->instance_filter, "contradicts --instance-filter off"},
        {"sample-prompt", s->sample_every > 0, "needs --sample-every"},
        {"sample-tokens", s->sample_every > 0, "needs --sample-every"},
    };
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++) {
        if (flag_given(s, train, rules[i].name) && !rules[i].allowed) {
            return fail(err, "--%s: %s", rules[i].name, rules[i].why);
        }
    }
    if (s->filter_min_period > s->filter_max_period) {
        return fail(err, "--filter-min-period %lld: is more than --filter-max-period %lld",
                    (long long)s->filter_min_period, (long long)s->filter_max_period);
    }
    return true;
}

// ---------------------------------------------------------------------------------------------
// the saved configuration

// The words of a set, separated by commas.
static inline void set_words(const char *words, unsigned bits, char text[256]) {
    char word[64];
    text[0] = '\0';
    for (; bits != 0; bits >>= 1) {
        words = next_word(words, word);
        if ((bits & 1) == 0) { continue; }
        snprintf(text + strlen(text), 256 - strlen(text), "%s%s", text[0] == '\0' ? "" : ",", word);
    }
}

// One value; null if there is none.
static inline void settings_write_value(JsonWriter *w, const Settings *s, const Flag *flag) {
    const char *field = (const char *)s + flag->offset;
    const TextList *list = (const TextList *)field;
    int64_t integer = flag->type == FLAG_INTEGER ? *(const int64_t *)field : 0;
    const char *text = flag->type == FLAG_TEXT ? *(char *const *)field : NULL;
    char words[256];
    switch (flag->type) {
    case FLAG_HEADING: return;
    case FLAG_SWITCH: json_bool(w, flag->name, *(const bool *)field); return;
    case FLAG_INTEGER:
        if (integer < 0) { break; }
        json_integer(w, flag->name, integer);
        return;
    case FLAG_REAL: json_number(w, flag->name, *(const double *)field); return;  // of NAN it makes null
    case FLAG_CHOICE:
        word_at(flag->values, *(const int *)field, words);
        json_string(w, flag->name, words);
        return;
    case FLAG_SET:
        set_words(flag->values, *(const unsigned *)field, words);
        json_string(w, flag->name, words);
        return;
    case FLAG_TEXT:
        if (text == NULL) { break; }
        json_string(w, flag->name, text);
        return;
    case FLAG_LIST:
        json_begin_array(w, flag->name);
        for (size_t i = 0; i < list->count; i++) { json_string(w, NULL, list->items[i]); }
        json_end_array(w);
        return;
    }
    json_null(w, flag->name);
}

// One JSON object with all flags of a run's configuration.
static inline void settings_write(JsonWriter *w, const char *key, const Settings *s) {
    json_begin_object(w, key);
    for (int i = 0; i < FLAGS; i++) {
        unsigned bits = flags[i].commands;
        if ((bits & TRAIN) != 0 && (bits & ONCE) == 0) { settings_write_value(w, s, &flags[i]); }
    }
    json_end_object(w);
}

// One saved value, back through the checks of the command line.
static inline bool settings_read_value(Settings *s, const Flag *flag, const Json *value, Error *err) {
    char number[64];
    switch (value->type) {
    case JSON_NULL: return true;
    case JSON_BOOL: return flag_set(s, flag, value->boolean ? "on" : "off", err);
    case JSON_NUMBER:
        snprintf(number, sizeof number, "%.17g", value->number);
        return flag_set(s, flag, number, err);
    case JSON_STRING: return flag_set(s, flag, value->string, err);
    case JSON_ARRAY:
        for (const Json *item = json_first(value); item != NULL; item = json_next(item)) {
            if (!settings_read_value(s, flag, item, err)) { return false; }
        }
        return true;
    case JSON_OBJECT: break;
    }
    return fail(err, "--%s: found an object, expected a value", flag->name);
}

// Fills *s, which settings_init has prepared for train, from what settings_write wrote.
static inline bool settings_read(Settings *s, const Json *object, const char *source, Error *err) {
    if (object == NULL || object->type != JSON_OBJECT) {
        return fail(err, "%s: the settings of the run are missing", source);
    }
    for (const Json *member = json_first(object); member != NULL; member = json_next(member)) {
        int row = flag_find(member->key, member->key_length, TRAIN);
        if (row < 0) { return fail(err, "%s: has the unknown setting \"%s\"", source, member->key); }
        if (!settings_read_value(s, &flags[row], member, err)) {
            return fail(err, "%s: %s", source, err->text);
        }
    }
    return true;
}

// ---------------------------------------------------------------------------------------------
// the help

enum { HELP_WIDTH = 79, HELP_INDENT = 26 };

// The words of the text from `column` on, in lines of HELP_WIDTH that begin at `indent`, and the line's end.
static inline void help_wrap(FILE *out, const char *text, size_t column, size_t indent) {
    while (*text != '\0') {
        size_t length = strcspn(text, " ");
        if (column > indent && column + 1 + length > HELP_WIDTH) {
            fprintf(out, "\n%*s", (int)indent, "");
            column = indent;
        } else if (column > indent) {
            fputc(' ', out);
            column++;
        }
        fprintf(out, "%.*s", (int)length, text);
        column += length;
        text += length + (text[length] == ' ');
    }
    fputc('\n', out);
}

static inline void help_flag(FILE *out, const Flag *flag, bool resume) {
    char left[128], text[1024];
    const char *values = flag->type == FLAG_INTEGER ? "N" : flag->type == FLAG_REAL ? "X" : flag->values;
    if (flag->type == FLAG_SWITCH) { values = strcmp(flag->initial, "on") == 0 ? "on|off" : ""; }
    if (flag->type == FLAG_SET) { values = "LIST"; }
    int length = snprintf(left, sizeof left, "%s --%s %s", resume ? "*" : " ", flag->name, values);
    bool shown = flag->initial != NULL && flag->initial[0] != '\0' && strcmp(flag->initial, "off") != 0;
    snprintf(text, sizeof text, shown ? "%s (default: %s)" : "%s", flag->help, flag->initial);
    if (length >= HELP_INDENT) {
        fprintf(out, "%s\n%*s", left, HELP_INDENT, "");
    } else {
        fprintf(out, "%-*s", HELP_INDENT, left);
    }
    help_wrap(out, text, HELP_INDENT, HELP_INDENT);
}

// What a command does and all its flags, at most 80 columns wide.
static inline void flags_help(FILE *out, const char *program, const Command *command) {
    const char *heading = NULL;
    for (const char *line = command->usage; line != NULL; line = strchr(line, '\n')) {
        line += *line == '\n';
        fprintf(out, "%s %s %s %.*s\n", line == command->usage ? "usage:" : "      ", program, command->name,
                (int)strcspn(line, "\n"), line);
    }
    fputc('\n', out);
    help_wrap(out, command->summary, 0, 0);
    for (int i = 0; i < FLAGS; i++) {
        if (flags[i].type == FLAG_HEADING) { heading = flags[i].name; }
        if ((flags[i].commands & command->bit) == 0) { continue; }
        if (heading != NULL) {
            fprintf(out, "\n%s\n", heading);
            heading = NULL;
        }
        help_flag(out, &flags[i], command->bit == TRAIN && (flags[i].commands & RESUME) == RESUME);
    }
}

// What the program does, for somebody who typed nothing but its name.
static inline void program_help(FILE *out, const char *program) {
    fprintf(out, "usage: %s COMMAND [flags]\n\nTrains OLMo 2 language models, and uses them.\n\n", program);
    for (int i = 0; i < COMMANDS; i++) {
        fprintf(out, "  %-12s", commands[i].name);
        help_wrap(out, commands[i].summary, 14, 14);
    }
    fprintf(out, "\n%s COMMAND --help lists the command's flags.\n", program);
}

#endif
