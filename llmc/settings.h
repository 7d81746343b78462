// settings.h: what is typed: the commands, and ONE table of their flags.
//
// The parser (command_line.h), the help (help.h) and the settings that a run saves (settings_json.h) all read
// the table. A value that was not given stays empty here. A run's plan decides once what takes its place
// (commands/plan.h).
//
//   commands, command_find             the commands
//   flags, flag_find, flag_given       the table
//   given                              a number that was given, or its default
//   text_set, list_append              set a text, add to a list
//   settings_free
#ifndef LLMC_SETTINGS_H
#define LLMC_SETTINGS_H

#include "schedule.h"

// ---------------------------------------------------------------------------------------------
// the settings

typedef struct {
    char **items;  // (count), owned
    size_t count;
} TextList;

enum { UNSET = -1, OFF, ON };  // a switch

typedef enum { PRODUCTS_FP32, PRODUCTS_BF16 } ProductType;             // in the order of --dtype's words
typedef enum { MOMENTS_FP32, MOMENTS_BF16 } MomentType;                // in the order of --moments' words
enum { ABLATE_QK_NORM = 1, ABLATE_POST_NORM = 2, ABLATE_Z_LOSS = 4 };  // in the order of --ablate's words

// The value of every flag, filled from the table by offset. A number, choice or switch that was not given is
// -1, a real number NAN, a text NULL. The texts are owned: settings_free.
typedef struct {
    // model
    char *config, *load, *resume, *tokenizer;
    int load_optimizer;
    int64_t vocab_size;
    unsigned ablate;  // bits ABLATE_...
    // data
    TextList data, val_data, requests, tasks, eval_tasks;
    char *eval_dir;
    int64_t limit;
    int chat;
    int64_t seq_len, batch_size, micro_batch_size, seed;
    int instance_filter;
    int64_t filter_min_period, filter_max_period, filter_max_count;
    int accept_changed_data;
    // length
    int64_t steps, tokens, epochs, stop_at;
    // optimizer
    double lr;
    int schedule;  // a ScheduleKind
    int64_t warmup_steps, decay_steps;
    double final_lr_fraction, beta1, beta2, adam_eps, weight_decay, clip, z_loss;
    int skip_step;
    // output
    char *out;
    int64_t log_every, eval_every, eval_instances, eval_limit, save_every, keep, keep_every, sample_every;
    // text
    char *prompt, *prompt_file, *prompts, *system;
    TextList stop;
    int64_t samples, max_tokens, top_k, slots, context;
    double temperature, top_p, min_p;
    int logprobs;
    // machine
    int recompute;  // a Recompute
    int master_weights;
    int dtype;    // a ProductType
    int weights;  // a WeightChoice
    int moments;  // a MomentType
    int dry_run;
    char *memory;
    int profile;
    int64_t threads;
    // everything else
    int help;
    TextList inputs;  // the arguments that belong to no flag
    bool given[160];  // by row of the table: whether the flag was on the command line
} Settings;

// A number that was given, or its default.
static inline int64_t given(int64_t value, int64_t initial) { return value >= 0 ? value : initial; }

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
    CHAT = 128,
    EVERY = 255,
    USE = GENERATE | CHAT | EVAL,  // the commands that use a model as it is
    RESUME = TRAIN | 1 << 16,      // a flag of train that may also be given with --resume
    ONCE = 1 << 17                 // a flag for one start of the program, not part of a run's settings
};
#define NEEDED(command) ((command) | (command) << 8)  // the command requires the flag

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
    "Trains a new model, trains a model further, or resumes a run exactly where it stopped. The defaults are "
    "OLMo 2's own settings." },
  { GENERATE, "generate", 0, 0,
    "--load DIR --prompt TEXT\n"
    "--load DIR --prompts FILE.jsonl --out FILE.jsonl",
    "Writes the prompt and the model's continuation, up to the end of the document. For a file of prompts it "
    "writes a file of texts, many side by side, which do not depend on each other." },
  { CHAT, "chat", 0, 0, "--load DIR\n--load DIR --prompt TEXT",
    "Talks with a model in the terminal; /help lists what can be typed there. With --prompt it answers one "
    "question. Standard input that is not a terminal has a question in each line. Answers go to standard "
    "output, everything else to standard error." },
  { EVAL, "eval", 0, 0,
    "--load DIR --data FILE...\n"
    "--load DIR --requests FILE...\n"
    "--load DIR --task NAME...",
    "Measures a model. On questions with given answers: accuracies and bits per byte of the answers. On token "
    "files: cross-entropy per token (natural logarithm), perplexity, bits per byte "
    "of the decoded text (the end of a document is scored, but counts no byte), and the z term." },
  { SOUP, "soup", 2, 4096, "--out DIR MODEL MODEL...",
    "Averages models of one shape: the uniform mean of every tensor, accumulated in double precision." },
  { TOKENIZE, "tokenize", 1, SIZE_MAX, "--tokenizer FILE --out TOKENS TEXT...",
    "Turns texts into one file of token ids, raw little-endian uint32. Each line of a .jsonl or .json file "
    "is a document, its \"text\"; any other file is one document; - is standard input. Files that end in .gz "
    "or .zst are decompressed. <|endoftext|> follows each document." },
  { DETOKENIZE, "detokenize", 1, 1, "--tokenizer FILE TOKENS",
    "Writes the text of a token file." },
  { INSPECT, "inspect", 1, 1, "DIR|FILE|SIZE",
    "Shows a model's configuration, tensors, parameters and memory. The argument is a model or run "
    "directory, a config.json, a .safetensors file, or the name of a size. For a run it also shows how "
    "often the loss and the gradient norm spiked." },
};
// clang-format on
enum { COMMANDS = sizeof commands / sizeof commands[0] };

static inline const Command *command_find(const char *name) {
    for (int i = 0; i < COMMANDS; i++) {
        if (strcmp(commands[i].name, name) == 0) { return &commands[i]; }
    }
    return NULL;
}

// ---------------------------------------------------------------------------------------------
// the table

typedef enum {
    FLAG_HEADING,  // not a flag: the help puts what follows under this name
    FLAG_SWITCH,   // int: ON, OFF or UNSET; the flag by itself means on
    FLAG_INTEGER,  // int64_t
    FLAG_REAL,     // double
    FLAG_CHOICE,   // int: which of the words
    FLAG_SET,      // unsigned: one bit for each of the words, which are separated by commas
    FLAG_TEXT,     // char *
    FLAG_LIST      // TextList
} FlagType;

typedef struct {
    const char *name;  // without its dashes; also the key in a run's saved settings
    FlagType type;
    size_t offset;        // of the value in Settings
    const char *values;   // a number's interval, the words of a choice or set, what a text is
    const char *initial;  // the default as it would be typed; NULL for none, or for one that the plan decides
    unsigned commands;    // which commands have the flag
    const char *help;
} Flag;

#define AT(field) offsetof(Settings, field)
// clang-format off
static const Flag flags[] = {
//  name                 type          value                  values        default  commands
  { "model", FLAG_HEADING, 0, NULL, NULL, 0, NULL },
  { "config",            FLAG_TEXT,    AT(config),            "SIZE|FILE",  NULL,    TRAIN,
    "start a new model: 1M 14M 30M 60M 100M 190M 370M 600M 760M 1B 1B-core 3B 7B 13B 32B, or a config.json" },
  { "load",              FLAG_TEXT,    AT(load),              "DIR",        NULL,    TRAIN,
    "train this model further: an OLMo 2 directory in Hugging Face layout, or a run" },
  { "load",              FLAG_TEXT,    AT(load),              "DIR",        NULL,
    NEEDED(USE),
    "the model: an OLMo 2 directory in Hugging Face layout, or a run" },
  { "resume",            FLAG_TEXT,    AT(resume),            "RUN",        NULL,    RESUME | ONCE,
    "resume this run with the settings it was started with; flags marked * may be changed" },
  { "load-optimizer",    FLAG_SWITCH,  AT(load_optimizer),    NULL,         "off",   TRAIN,
    "with --load: also load AdamW's moments and step count, as OLMo 2's mid-training does" },
  { "vocab-size",        FLAG_INTEGER, AT(vocab_size),        "[1, 1e8]",   NULL,    TRAIN,
    "rows of the embedding (default: the tokenizer's size rounded up to a multiple of 128, like OLMo 2's "
    "100352)" },
  { "tokenizer",         FLAG_TEXT,    AT(tokenizer),         "FILE|DIR",   NULL,    USE | RESUME,
    "tokenizer.json, for text and bits per byte (default: the one in the model's directory)" },
  { "tokenizer",         FLAG_TEXT,    AT(tokenizer),         "FILE|DIR",   NULL,
    NEEDED(TOKENIZE) | NEEDED(DETOKENIZE),
    "a tokenizer.json, or a directory that holds one" },
  { "ablate",            FLAG_SET,     AT(ablate),            "qk-norm|post-norm|z-loss", NULL,    TRAIN,
    "for studies: leave out any of qk-norm, post-norm (the norms move to the branch inputs), z-loss" },

  { "data", FLAG_HEADING, 0, NULL, NULL, 0, NULL },
  { "data",              FLAG_LIST,    AT(data),              "FILE...",    NULL,    EVAL | RESUME,
    "token files or quoted globs: uint32, raw or .npy; FILE.mask next to FILE says which tokens are "
    "trained" },
  { "val-data",          FLAG_LIST,    AT(val_data),          "FILE...",    NULL,    RESUME,
    "token files held out for validation" },
  { "eval-task",         FLAG_LIST,    AT(eval_tasks),        "FILE...",    NULL,    RESUME,
    "questions with given answers, to be scored at the interval of --eval-every: evaluation requests in "
    "OLMES's format, .jsonl or .jsonl.gz" },
  { "requests",          FLAG_LIST,    AT(requests),          "FILE...",    NULL,    EVAL,
    "questions with given answers: evaluation requests in OLMES's format, .jsonl or .jsonl.gz" },
  { "task",              FLAG_LIST,    AT(tasks),             "NAME...",    NULL,    EVAL,
    "the requests of these tasks in --eval-dir: arc_easy arc_challenge boolq csqa hellaswag openbookqa piqa "
    "socialiqa winogrande mmlu, each in both forms or, with :rc or :mc, in one; olmes for all of them; gsm8k" },
  { "eval-dir",          FLAG_TEXT,    AT(eval_dir),          "DIR",        "data/evals", EVAL,
    "where data/evals.py has written the files of the tasks" },
  { "limit",             FLAG_INTEGER, AT(limit),             "[0, 1e9]",   "0",     EVAL,
    "only the first N documents of each task (and of each subject of mmlu); 0: all" },
  { "slots",             FLAG_INTEGER, AT(slots),             "[1, 4096]",  NULL,    EVAL,
    "documents scored side by side (default: as many as fit the memory, at most 32). The scores do not depend "
    "on it" },
  { "chat",              FLAG_SWITCH,  AT(chat),              NULL,         "off",   EVAL,
    "with --task gsm8k: the examples and the question are turns of a chat, in the model's chat template" },
  { "accept-changed-data", FLAG_SWITCH, AT(accept_changed_data), NULL,      "off",   RESUME | ONCE,
    "with --resume: continue although the data files have changed" },
  { "seq-len",           FLAG_INTEGER, AT(seq_len),           "[2, 1e8]",   NULL,    TRAIN | EVAL | INSPECT,
    "tokens of a sequence (default: the model's max_position_embeddings; 4096 for a new model)" },
  { "batch-size",        FLAG_INTEGER, AT(batch_size),        "[1, 1e6]",   NULL,    TRAIN,
    "sequences of a step (default by size: 512 up to 3B, 1024 for 7B, 2048 above)" },
  { "batch-size",        FLAG_INTEGER, AT(batch_size),        "[1, 1e6]",   "8",     EVAL | INSPECT,
    "sequences processed at once" },
  { "micro-batch-size",  FLAG_INTEGER, AT(micro_batch_size),  "[1, 1e6]",   NULL,    RESUME,
    "sequences in memory at once; their gradients add up to the batch's (default: as many as hold 8192 "
    "tokens, at least one)" },
  { "seed",              FLAG_INTEGER, AT(seed),              "[0, 9e15]",  "6198",  TRAIN,
    "seed of the initial weights, of the order of the data and of the samples" },
  { "instance-filter",   FLAG_SWITCH,  AT(instance_filter),   NULL,         NULL,    TRAIN,
    "do not train on a sequence in which an n-gram repeats too often in a row (default by size: on up to "
    "13B, off for 32B)" },
  { "filter-min-period", FLAG_INTEGER, AT(filter_min_period), "[1, 4096]",  "1",     TRAIN,
    "shortest n-gram of the filter" },
  { "filter-max-period", FLAG_INTEGER, AT(filter_max_period), "[1, 4096]",  "13",    TRAIN,
    "longest n-gram of the filter" },
  { "filter-max-count",  FLAG_INTEGER, AT(filter_max_count),  "[3, 1e6]",   "32",    TRAIN,
    "how many repetitions are too many" },

  { "length (exactly one of --steps, --tokens, --epochs)", FLAG_HEADING, 0, NULL, NULL, 0, NULL },
  { "steps",             FLAG_INTEGER, AT(steps),             "[1, 1e15]",  NULL,    RESUME,
    "optimizer steps" },
  { "tokens",            FLAG_INTEGER, AT(tokens),            "[1, 1e15]",  NULL,    TRAIN,
    "tokens, such as 5e9, rounded up to a whole step" },
  { "epochs",            FLAG_INTEGER, AT(epochs),            "[1, 1e6]",   NULL,    TRAIN,
    "passes over the data" },
  { "stop-at",           FLAG_INTEGER, AT(stop_at),           "[1, 1e15]",  NULL,    RESUME | ONCE,
    "save and stop after this step; the schedule remains that of the whole run" },

  { "optimizer", FLAG_HEADING, 0, NULL, NULL, 0, NULL },
  { "lr",                FLAG_REAL,    AT(lr),                "(0, 1]",     NULL,    TRAIN,
    "peak learning rate (default by size: 4e-4 up to 3B, 3e-4 for 7B, 9e-4 for 13B, 6e-4 for 32B)" },
  { "schedule",          FLAG_CHOICE,  AT(schedule),          "cosine|linear|wsd|constant", "cosine", TRAIN,
    "shape of the learning rate after the warmup; wsd is constant, then decays linearly at the end" },
  { "warmup-steps",      FLAG_INTEGER, AT(warmup_steps),      "[0, 1e15]",  NULL,    TRAIN,
    "steps of linear warmup (default: 2000, but at most a tenth of the run; 0 with --load-optimizer)" },
  { "decay-steps",       FLAG_INTEGER, AT(decay_steps),       "[0, 1e15]",  NULL,    TRAIN,
    "steps of the decay of wsd (default: a tenth of the run)" },
  { "final-lr-fraction", FLAG_REAL,    AT(final_lr_fraction), "[0, 1]",     NULL,    TRAIN,
    "the last learning rate as a fraction of the peak (default: 0.1 for cosine, 0 for linear and wsd)" },
  { "beta1",             FLAG_REAL,    AT(beta1),             "[0, 1)",     "0.9",   TRAIN,
    "AdamW: decay of the gradient's mean" },
  { "beta2",             FLAG_REAL,    AT(beta2),             "[0, 1)",     "0.95",  TRAIN,
    "AdamW: decay of the squared gradient's mean" },
  { "adam-eps",          FLAG_REAL,    AT(adam_eps),          "(0, 1]",     "1e-8",  TRAIN,
    "AdamW: added to the root of the mean square" },
  { "weight-decay",      FLAG_REAL,    AT(weight_decay),      "[0, 10]",    "0.1",   TRAIN,
    "AdamW: decay of all weights except the input embedding" },
  { "clip",              FLAG_REAL,    AT(clip),              "[0, inf)",   "1",     TRAIN,
    "largest norm of the whole gradient; 0: no limit" },
  { "z-loss",            FLAG_REAL,    AT(z_loss),            "[0, 1]",     "1e-5",  TRAIN | EVAL,
    "weight of the squared logsumexp in the loss" },
  { "skip-step",         FLAG_SWITCH,  AT(skip_step),         NULL,         NULL,    TRAIN,
    "skip the update when the loss or the gradient norm is not finite, or more than 6 standard deviations "
    "above the mean of its last 128 values (default by size: off up to 13B, on for 32B)" },

  { "output", FLAG_HEADING, 0, NULL, NULL, 0, NULL },
  { "out",               FLAG_TEXT,    AT(out),               "RUN",        NULL,    TRAIN,
    "directory of the run: checkpoints step-* and log.jsonl" },
  { "out",               FLAG_TEXT,    AT(out),               "DIR",        NULL,    NEEDED(SOUP),
    "the model directory to write" },
  { "out",               FLAG_TEXT,    AT(out),               "FILE.jsonl", NULL,    EVAL,
    "with --requests or --task: a line for each document, with its scores. An evaluation that was interrupted "
    "continues behind them" },
  { "out",               FLAG_TEXT,    AT(out),               "TOKENS",     NULL,    NEEDED(TOKENIZE),
    "the token file to write" },
  { "out",               FLAG_TEXT,    AT(out),               "FILE.jsonl", NULL,    GENERATE,
    "the file to write: a line for each text, with its prompt's number, ids, text, and why it ended" },
  { "log-every",         FLAG_INTEGER, AT(log_every),         "[1, 1e15]",  "1",     RESUME,
    "print every N-th step; log.jsonl has every step" },
  { "eval-every",        FLAG_INTEGER, AT(eval_every),        "[0, 1e15]",  "1000",  RESUME,
    "validate and score --eval-task every N steps; 0: only at the end" },
  { "eval-instances",    FLAG_INTEGER, AT(eval_instances),    "[0, 1e15]",  "0",     EVAL | RESUME,
    "sequences to validate on; 0: all" },
  { "eval-limit",        FLAG_INTEGER, AT(eval_limit),        "[0, 1e9]",   "0",     RESUME,
    "only the first N documents of each task of --eval-task; 0: all" },
  { "save-every",        FLAG_INTEGER, AT(save_every),        "[0, 1e15]",  "1000",  RESUME,
    "save a checkpoint every N steps; 0: only at the end" },
  { "keep",              FLAG_INTEGER, AT(keep),              "[0, 1e9]",   "2",     RESUME,
    "how many of the latest checkpoints to keep; 0: all" },
  { "keep-every",        FLAG_INTEGER, AT(keep_every),        "[0, 1e15]",  "0",     RESUME,
    "also keep the checkpoints of every N-th step; 0: none" },

  { "text", FLAG_HEADING, 0, NULL, NULL, 0, NULL },
  { "sample-every",      FLAG_INTEGER, AT(sample_every),      "[0, 1e15]",  "0",     RESUME,
    "write a sample every N steps; 0: never" },
  { "sample-prompt",     FLAG_TEXT,    AT(prompt),            "TEXT",       NULL,    RESUME,
    "how a sample begins (default: as a new document)" },
  { "sample-tokens",     FLAG_INTEGER, AT(max_tokens),        "[1, 1e8]",   "100",   RESUME,
    "tokens of a sample" },
  { "prompt",            FLAG_TEXT,    AT(prompt),            "TEXT",       NULL,    GENERATE,
    "how the text begins (default: as a new document)" },
  { "prompt-file",       FLAG_TEXT,    AT(prompt_file),       "FILE",       NULL,    GENERATE,
    "a file that is the prompt, whole; - is standard input" },
  { "prompts",           FLAG_TEXT,    AT(prompts),           "FILE.jsonl", NULL,    GENERATE,
    "a file of prompts, {\"prompt\": \"...\"} or {\"ids\": [...]} on each line; .gz and .zst work" },
  { "samples",           FLAG_INTEGER, AT(samples),           "[1, 1e6]",   "1",     GENERATE,
    "texts of each prompt" },
  { "prompt",            FLAG_TEXT,    AT(prompt),            "TEXT",       NULL,    CHAT,
    "answer this question, and end" },
  { "system",            FLAG_TEXT,    AT(system),            "TEXT",       NULL,    CHAT,
    "the system message: what the model is told before the conversation (default: there is none)" },
  { "max-tokens",        FLAG_INTEGER, AT(max_tokens),        "[1, 1e8]",   "200",   GENERATE,
    "most tokens to write" },
  { "max-tokens",        FLAG_INTEGER, AT(max_tokens),        "[1, 1e8]",   "1024",  CHAT,
    "most tokens of an answer" },
  { "context",           FLAG_INTEGER, AT(context),           "[2, 1e8]",   NULL,    CHAT,
    "tokens of the conversation that are kept, the answer included; fewer need less memory (default: the "
    "model's max_position_embeddings)" },
  { "stop",              FLAG_LIST,    AT(stop),              "TEXT...",    NULL,    GENERATE,
    "end before any of these texts" },
  { "temperature",       FLAG_REAL,    AT(temperature),       "[0, 100]",   "1",     GENERATE | RESUME,
    "divides the logits; 0 takes the most probable token each time" },
  { "temperature",       FLAG_REAL,    AT(temperature),       "[0, 100]",   "0.7",   CHAT,
    "divides the logits; 0 takes the most probable token each time" },
  { "top-p",             FLAG_REAL,    AT(top_p),             "(0, 1]",     "1",     GENERATE | CHAT | RESUME,
    "draw from the most probable tokens that together reach this probability" },
  { "top-k",             FLAG_INTEGER, AT(top_k),             "[0, 1e8]",   "0",     GENERATE | CHAT | RESUME,
    "draw from this many most probable tokens; 0: all" },
  { "min-p",             FLAG_REAL,    AT(min_p),             "[0, 1]",     "0",     GENERATE | CHAT | RESUME,
    "draw from tokens with at least this fraction of the largest probability" },
  { "seed",              FLAG_INTEGER, AT(seed),              "[0, 9e15]",  "1",     GENERATE | CHAT,
    "seed of the draws" },
  { "logprobs",          FLAG_SWITCH,  AT(logprobs),          NULL,         "off",   GENERATE,
    "with --out: also log p of every token that was written, at temperature 1" },
  { "slots",             FLAG_INTEGER, AT(slots),             "[1, 4096]",  NULL,    GENERATE,
    "texts written side by side (default: as many as fit the memory, at most 16). No text depends on it" },

  { "machine", FLAG_HEADING, 0, NULL, NULL, 0, NULL },
  { "recompute",         FLAG_CHOICE,  AT(recompute),         "elementwise|none|block", "elementwise", RESUME,
    "what the backward recomputes instead of storing: elementwise operations, nothing, or whole layers. "
    "Results are identical. The CPU program has elementwise only" },
  { "master-weights",    FLAG_SWITCH,  AT(master_weights),    NULL,         "on",    RESUME,
    "on a GPU: keep an fp32 copy of bf16 weights, and fp32 gradients; off: weights are rounded "
    "stochastically and gradients are bf16" },
  { "moments",           FLAG_CHOICE,  AT(moments),           "fp32|bf16",  "fp32",  RESUME,
    "on a GPU: the type of AdamW's moments; bf16 is rounded stochastically" },
  { "dtype",             FLAG_CHOICE,  AT(dtype),             "fp32|bf16",  "fp32",  USE | RESUME,
    "on the CPU: the type to which operands of matrix products are rounded; everything else stays fp32. "
    "bf16 is faster on a processor with AVX512-BF16" },
  { "weights",           FLAG_CHOICE,  AT(weights),           "auto|bf16|fp32", "auto", USE,
    "the type of the weights in memory. auto: as they lie in the model's files, which are used there without "
    "a copy, if all matrices are BF16 or all are F32; otherwise fp32. On a GPU: what the program was built for" },
  { "dry-run",           FLAG_SWITCH,  AT(dry_run),           NULL,         "off",   TRAIN | ONCE,
    "only print the plan and its memory; needs --config or --load, but no data and no device" },
  { "memory",            FLAG_TEXT,    AT(memory),            "BYTES",      NULL,    TRAIN | ONCE,
    "with --dry-run: the memory available, such as 24G (10^9 bytes) or 24Gi (2^30)" },
  { "profile",           FLAG_SWITCH,  AT(profile),           NULL,         "off",   RESUME | ONCE,
    "on the CPU: print at the end what a step spends its time on, function by function, next to this "
    "machine's peak" },
  { "threads",           FLAG_INTEGER, AT(threads),           "[0, 4096]",  "0",     USE | RESUME,
    "0: as many as the machine has; the results do not depend on it" },
  { "help",              FLAG_SWITCH,  AT(help),              NULL,         "off",   EVERY | ONCE,
    "show this" },
};
// clang-format on
#undef AT
enum { FLAGS = sizeof flags / sizeof flags[0] };
static_assert(FLAGS <= sizeof(((Settings *)0)->given), "one entry of `given` for each row");

// The row of the flag of that name (length bytes) that one of the commands has, or -1.
static inline int flag_find(const char *name, size_t length, unsigned commands_bits) {
    for (int i = 0; i < FLAGS; i++) {
        if ((flags[i].commands & commands_bits) != 0 && strlen(flags[i].name) == length &&
            memcmp(flags[i].name, name, length) == 0) {
            return i;
        }
    }
    return -1;
}

// Whether one of the command's flags was on the command line.
static inline bool flag_given(const Settings *s, const Command *command, const char *name) {
    int row = flag_find(name, strlen(name), command->bit);
    assert(row >= 0);
    return s->given[row];
}

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

#endif
