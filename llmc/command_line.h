// command_line.h: from the arguments of a command to its Settings.
//
// A value is written `--flag value` or `--flag=value`; a list takes every argument up to the next flag. A
// flag that is unknown, out of range, given twice or missing is an error that names it, and so are flags that
// contradict each other.
#ifndef LLMC_COMMAND_LINE_H
#define LLMC_COMMAND_LINE_H

#include "settings.h"
#include "words.h"

// The command of that name; the error names the nearest one.
static inline const Command *command_named(const char *name, Error *err);

// Every flag of the command at its default, or empty. Release with settings_free, also after a failure.
static inline bool settings_init(Settings *s, const Command *command, Error *err);

// Fills *s from the arguments after the command's name. With --help nothing else is read. Release with
// settings_free, also after a failure.
static inline bool settings_from_command_line(Settings *s, const Command *command, int argc, char **argv,
                                              Error *err);

// Sets a flag from a value as it would be typed; a list gets one more item.
static inline bool flag_set(Settings *s, const Flag *flag, const char *value, Error *err);

// Copies the flags given on the command line of *typed to *s: this is how --resume changes the settings of a
// run.
static inline bool settings_overlay(Settings *s, const Settings *typed, Error *err);

// The word for the value of one of train's choices.
static inline void choice_word(const Settings *s, const char *name, char word[64]) {
    const Flag *flag = &flags[flag_find(name, strlen(name), TRAIN)];
    word_at(flag->values, *(const int *)((const char *)s + flag->offset), word);
}

// ---------------------------------------------------------------------------------------------
// the whole command line

static inline bool parse_flag(Settings *s, const Command *command, int argc, char **argv, int *i, Error *err);
static inline bool check_needed(const Settings *s, const Command *command, Error *err);
static inline bool check_train(const Settings *s, Error *err);
static inline bool check_eval(const Settings *s, Error *err);

// The flags of train that make sense only with, or without, certain others. After settings_overlay it checks
// what was typed against the settings of the run.
static inline bool check_rules(const Settings *s, Error *err);

static inline bool settings_from_command_line(Settings *s, const Command *command, int argc, char **argv,
                                              Error *err) {
    if (!settings_init(s, command, err)) { return false; }
    for (int i = 0; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0) { s->help = ON; }
    }
    if (s->help == ON) { return true; }
    for (int i = 0; i < argc; i++) {
        if (argv[i][0] == '\0') { return fail(err, "\"\": an argument is empty, expected a name or a flag"); }
        // "-" by itself is an input: standard input.
        bool ok = argv[i][0] == '-' && argv[i][1] != '\0' ? parse_flag(s, command, argc, argv, &i, err)
                                                          : list_append(&s->inputs, argv[i], err);
        if (!ok) { return false; }
    }
    if (!check_needed(s, command, err)) { return false; }
    if (command->bit == EVAL) { return check_eval(s, err); }
    return command->bit != TRAIN || check_train(s, err);
}

static inline const Command *command_named(const char *name, Error *err) {
    const Command *command = command_find(name);
    char names[128] = "", nearest[64];
    if (command != NULL) { return command; }
    for (int i = 0; i < COMMANDS; i++) {
        snprintf(names + strlen(names), sizeof names - strlen(names), "%s%s", i > 0 ? "|" : "",
                 commands[i].name);
    }
    find_word(names, name, nearest);
    fail(err, "%s: no such command; did you mean %s?", name, nearest);
    return NULL;
}

static inline bool settings_init(Settings *s, const Command *command, Error *err) {
    memset(s, 0, sizeof *s);
    for (int i = 0; i < FLAGS; i++) {
        char *field = (char *)s + flags[i].offset;
        if ((flags[i].commands & command->bit) == 0) { continue; }
        if (flags[i].type == FLAG_INTEGER) { *(int64_t *)field = -1; }
        if (flags[i].type == FLAG_REAL) { *(double *)field = NAN; }
        if (flags[i].type == FLAG_SWITCH || flags[i].type == FLAG_CHOICE) { *(int *)field = UNSET; }
        if (flags[i].initial != NULL && !flag_set(s, &flags[i], flags[i].initial, err)) { return false; }
    }
    return true;
}

static inline bool settings_overlay(Settings *s, const Settings *typed, Error *err) {
    for (int i = 0; i < FLAGS; i++) {
        char *to = (char *)s + flags[i].offset;
        const char *from = (const char *)typed + flags[i].offset;
        if (!typed->given[i]) { continue; }
        s->given[i] = true;
        switch (flags[i].type) {
        case FLAG_HEADING: break;
        case FLAG_INTEGER: *(int64_t *)to = *(const int64_t *)from; break;
        case FLAG_REAL: *(double *)to = *(const double *)from; break;
        case FLAG_SET: *(unsigned *)to = *(const unsigned *)from; break;
        case FLAG_SWITCH:
        case FLAG_CHOICE: *(int *)to = *(const int *)from; break;
        case FLAG_TEXT:
            if (!text_set((char **)to, *(char *const *)from, err)) { return false; }
            break;
        case FLAG_LIST:
            list_free((TextList *)to);
            for (size_t item = 0; item < ((const TextList *)from)->count; item++) {
                if (!list_append((TextList *)to, ((const TextList *)from)->items[item], err)) {
                    return false;
                }
            }
            break;
        }
    }
    return true;
}

// ---------------------------------------------------------------------------------------------
// one flag

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

// The flag at argv[*i] and its values. *i moves to the last argument that belongs to it.
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

// A number in the interval, in mathematical notation: [0, 1) includes 0 but not 1.
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

// A text may be empty. The name of a file, or of anything else, may not: messages could not show it.
static inline bool check_empty(const Flag *flag, const char *value, Error *err) {
    if (*value != '\0' || strncmp(flag->values, "TEXT", 4) == 0) { return true; }
    return fail(err, "--%s: is empty, expected %.*s", flag->name, (int)strcspn(flag->values, "."),
                flag->values);
}

static inline bool flag_set(Settings *s, const Flag *flag, const char *value, Error *err) {
    char *field = (char *)s + flag->offset, nearest[64];
    double number = 0.0;
    int word;
    switch (flag->type) {
    case FLAG_HEADING: return true;
    case FLAG_SWITCH:
        word = find_word("off|on", value, nearest);
        if (word < 0) { return fail(err, "--%s %s: expected on or off", flag->name, value); }
        *(int *)field = word;
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
    case FLAG_TEXT: return check_empty(flag, value, err) && text_set((char **)field, value, err);
    case FLAG_LIST: return check_empty(flag, value, err) && list_append((TextList *)field, value, err);
    }
    return true;
}

// ---------------------------------------------------------------------------------------------
// missing and contradictory flags

static inline bool check_needed(const Settings *s, const Command *command, Error *err) {
    for (int i = 0; i < FLAGS; i++) {
        if ((flags[i].commands & command->bit << 8) != 0 && !s->given[i]) {
            return fail(err, "--%s: is missing; %s requires it: %s (%s --help says more)", flags[i].name,
                        command->name, flags[i].help, command->name);
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

// With --resume only flags marked RESUME may be given.
static inline bool check_resume(const Settings *s, Error *err) {
    for (int i = 0; i < FLAGS; i++) {
        if (s->given[i] && (flags[i].commands & RESUME) != RESUME) {
            return fail(err,
                        "--%s: cannot be given with --resume, which keeps the run's own settings; --load "
                        "starts a new run from its model",
                        flags[i].name);
        }
    }
    return true;
}

// Whether everything that a new run needs was given.
static inline bool check_new_run(const Settings *s, Error *err) {
    if (s->memory != NULL) { return fail(err, "--memory: needs --dry-run"); }
    if (s->data.count == 0) { return fail(err, "--data: train needs token files"); }
    if (s->out == NULL) { return fail(err, "--out: train needs a directory for the run"); }
    if ((s->steps > 0) + (s->tokens > 0) + (s->epochs > 0) == 1) { return true; }
    return fail(err, "--steps, --tokens, --epochs: expected exactly one of them, to say how long to train");
}

static inline bool check_rules(const Settings *s, Error *err) {
    const Command *train = command_find("train");
    const bool filter = s->instance_filter != OFF;
    const struct {
        const char *name;
        bool allowed;
        const char *why;
    } rules[] = {
        {"load-optimizer", s->load != NULL || s->load_optimizer != ON, "needs --load, which says from where"},
        {"vocab-size", s->load == NULL, "cannot be given with --load: the model has its vocabulary"},
        {"ablate", s->load == NULL || (s->ablate & ~(unsigned)ABLATE_Z_LOSS) == 0,
         "only z-loss can be left out of a model that is loaded; its norms are what they are"},
        {"z-loss", (s->ablate & ABLATE_Z_LOSS) == 0, "contradicts --ablate z-loss"},
        {"decay-steps", s->schedule == SCHEDULE_WSD, "is for --schedule wsd"},
        {"final-lr-fraction", s->schedule != SCHEDULE_CONSTANT, "contradicts --schedule constant"},
        {"eval-every", s->val_data.count + s->eval_tasks.count > 0, "needs --val-data or --eval-task"},
        {"eval-limit", s->eval_tasks.count > 0, "needs --eval-task"},
        {"eval-instances", s->val_data.count > 0, "needs --val-data"},
        {"filter-min-period", filter, "contradicts --instance-filter off"},
        {"filter-max-period", filter, "contradicts --instance-filter off"},
        {"filter-max-count", filter, "contradicts --instance-filter off"},
        {"sample-prompt", s->sample_every > 0, "needs --sample-every"},
        {"sample-tokens", s->sample_every > 0, "needs --sample-every"},
        {"accept-changed-data", s->resume != NULL, "is for --resume"},
    };
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++) {
        if (flag_given(s, train, rules[i].name) && !rules[i].allowed) {
            return fail(err, "--%s: %s", rules[i].name, rules[i].why);
        }
    }
    return true;
}

static inline bool check_train(const Settings *s, Error *err) {
    if (s->resume != NULL) { return check_resume(s, err); }
    if ((s->config != NULL) + (s->load != NULL) != 1) {
        return fail(err,
                    "train: expected one of --config (a new model), --load (a model to train further) and "
                    "--resume (a run to resume), found %s",
                    s->config != NULL ? "two" : "none");
    }
    if (s->dry_run != ON && !check_new_run(s, err)) { return false; }
    if (!check_rules(s, err)) { return false; }
    if (s->filter_min_period > s->filter_max_period) {
        return fail(err, "--filter-min-period %lld: is more than --filter-max-period %lld",
                    (long long)s->filter_min_period, (long long)s->filter_max_period);
    }
    return true;
}

// The flags of eval that make sense only with certain others.
static inline bool check_eval(const Settings *s, Error *err) {
    const bool data = s->data.count > 0, requests = s->requests.count > 0, task = s->tasks.count > 0;
    const struct {
        const char *name;
        bool allowed;
        const char *why;
    } rules[] = {
        {"seq-len", data, "is for --data"},
        {"batch-size", data, "is for --data; --slots says how many documents are scored side by side"},
        {"eval-instances", data, "is for --data; --limit says how many documents to score"},
        {"z-loss", data, "is for --data"},
        {"limit", requests || task, "is for --requests and --task"},
        {"slots", requests || task, "is for --requests and --task"},
        {"out", requests || task, "is for --requests and --task"},
        {"eval-dir", task, "is for --task"},
    };
    if (data + requests + task != 1) {
        return fail(err,
                    "eval: expected one of --data (token files), --requests (questions with given answers) "
                    "and --task (such questions by name), found %s",
                    data + requests + task == 0 ? "none" : "several");
    }
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++) {
        if (flag_given(s, command_find("eval"), rules[i].name) && !rules[i].allowed) {
            return fail(err, "--%s: %s", rules[i].name, rules[i].why);
        }
    }
    return true;
}

#endif
