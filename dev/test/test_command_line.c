// The table of flags: what the parser accepts and refuses, the help it makes, the settings it saves.
#include "dev/test/check.h"
#include "llmc/help.h"
#include "llmc/settings_json.h"

// Parses a command line whose arguments are separated by spaces. The caller frees *s.
static bool parse(Settings *s, const char *line, Error *err) {
    char text[1024], *argv[64], *rest = text;
    int argc = 0;
    snprintf(text, sizeof text, "%s", line);
    for (char *word = strsep(&rest, " "); word != NULL; word = strsep(&rest, " ")) { argv[argc++] = word; }
    const Command *command = command_find(argv[0]);
    err->text[0] = '\0';
    return settings_from_command_line(s, command, argc - 1, argv + 1, err);
}

static bool parses(const char *line) {
    Settings s;
    Error err;
    bool ok = parse(&s, line, &err);
    if (!ok) { printf("       %s: %s\n", line, err.text); }
    settings_free(&s);
    return ok;
}

// The line must be refused with a message that holds the words.
static void refuse(const char *line, const char *words) {
    Settings s;
    Error err;
    bool ok = parse(&s, line, &err);
    settings_free(&s);
    if (!check_at(!ok && strstr(err.text, words) != NULL, line, __FILE__, __LINE__)) {
        printf("       message \"%s\", expected an error with \"%s\"\n", err.text, words);
    }
}

static void test_table(void) {
    for (int i = 0; i < FLAGS; i++) {
        for (int j = 0; j < i; j++) {
            unsigned shared = flags[i].commands & flags[j].commands & EVERY;
            CHECK(shared == 0 || strcmp(flags[i].name, flags[j].name) != 0);
        }
        CHECK(flags[i].type == FLAG_HEADING || flags[i].help[strlen(flags[i].help) - 1] != ' ');
    }
    for (int i = 0; i < COMMANDS; i++) {
        Settings s;
        Error err;
        CHECK(settings_init(&s, &commands[i], &err));  // every default is in its own range
        settings_free(&s);
    }
}

static void test_olmo2_defaults(void) {
    Settings s;
    Error err;
    CHECK(parse(&s, "train --config 7B --data x --out r --tokens 4e12", &err));
    CHECK(s.beta1 == 0.9 && s.beta2 == 0.95 && s.adam_eps == 1e-8 && s.weight_decay == 0.1);
    CHECK(s.clip == 1.0 && s.z_loss == 1e-5 && s.schedule == SCHEDULE_COSINE && s.ablate == 0);
    CHECK(s.filter_min_period == 1 && s.filter_max_period == 13 && s.filter_max_count == 32);
    CHECK(s.instance_filter == UNSET && s.skip_step == UNSET);  // by size: plan.h
    CHECK(s.tokens == 4000000000000 && s.steps == -1 && isnan(s.lr) && s.load == NULL);
    settings_free(&s);
}

static void test_forms(void) {
    Settings s;
    Error err;
    CHECK(parse(
        &s,
        "train --config=1M --data a.npy b.npy --seed 1 --data=c*.npy --out r --steps=1e3 --skip-step off "
        "--instance-filter=off --ablate z-loss,qk-norm --schedule linear",
        &err));
    CHECK(strcmp(s.config, "1M") == 0 && s.steps == 1000 && s.seed == 1 && s.schedule == SCHEDULE_LINEAR);
    CHECK(s.data.count == 3 && strcmp(s.data.items[1], "b.npy") == 0 &&
          strcmp(s.data.items[2], "c*.npy") == 0);
    CHECK(s.skip_step == OFF && s.instance_filter == OFF && s.ablate == (ABLATE_QK_NORM | ABLATE_Z_LOSS));
    CHECK(flag_given(&s, command_find("train"), "seed") && !flag_given(&s, command_find("train"), "lr"));
    settings_free(&s);

    CHECK(parse(&s, "train --load d --load-optimizer --data x --out r --epochs 2", &err));
    CHECK(s.load_optimizer == ON);
    settings_free(&s);
    CHECK(parse(&s, "generate --load d --prompt=--x --temperature 0", &err));
    CHECK(strcmp(s.prompt, "--x") == 0 && s.temperature == 0.0 && s.seed == 1);
    settings_free(&s);
    CHECK(parse(&s, "soup a --out d b c", &err) && s.inputs.count == 3 &&
          strcmp(s.inputs.items[2], "c") == 0);
    settings_free(&s);
    CHECK(parse(&s, "train --lr x --help --nonsense", &err) && s.help == ON);
    settings_free(&s);
}

static void test_refusals(void) {
    refuse("train --batch-siez 4", "--batch-siez: no such flag; did you mean --batch-size?");
    refuse("train -steps 4", "did you mean --steps?");
    refuse("generate --load d --lr 3", "--lr: is a flag of train, not of generate");
    refuse("train --lr", "--lr: needs a value");
    refuse("train --out --steps 5", "--out: needs a value");
    refuse("train --lr 1 --lr 1", "--lr: is given twice");
    refuse("eval --load=", "--load: is empty, expected DIR");
    refuse("eval --load d --requests a.jsonl --requests=", "--requests: is empty, expected FILE");
    refuse("train --schedule cosin", "did you mean cosine?");
    refuse("train --ablate qk-norm,postnorm", "did you mean post-norm?");
    refuse("train --skip-step=maybe", "expected on or off");
    refuse("train stray", "stray: is one argument too many");
    refuse("generate", "--load: is missing; generate requires it");
    refuse("eval --load d", "expected one of --data");
    refuse("soup --out d a", "at least 2");
    refuse("tokenize --out x a.txt", "--tokenizer");
}

// Every number of every command: outside of its interval, no number, nothing.
static void test_ranges(void) {
    for (int i = 0; i < FLAGS; i++) {
        char open, close;
        double low, high;
        const Flag *flag = &flags[i];
        if (flag->type != FLAG_INTEGER && flag->type != FLAG_REAL) { continue; }
        CHECK(sscanf(flag->values, "%c%lf, %lf%c", &open, &low, &high, &close) == 4);
        const char *bad[] = {"", "x", "nan", "3x", "-1", "1e300", "inf", "-inf"};
        Settings s;
        Error err;
        memset(&s, 0, sizeof s);
        for (size_t k = 0; k < sizeof bad / sizeof bad[0]; k++) {
            if (k == 5 && isinf(high)) { continue; }
            CHECK_ERROR(flag_set(&s, flag, bad[k], &err), err, flag->name);
        }
        char text[64];
        snprintf(text, sizeof text, "%.17g", low);
        CHECK(flag_set(&s, flag, text, &err) == (open == '['));
        snprintf(text, sizeof text, "%.17g", high);
        CHECK(flag_set(&s, flag, text, &err) == (close == ']'));
        CHECK(flag->type == FLAG_REAL || !flag_set(&s, flag, "5.5", &err));
    }
}

static void test_contradictions(void) {
    const char *base = "--config 1M --data x --out r --steps 5";
    struct {
        const char *flags, *words;
    } with_base[] = {
        {"--load d", "--config"},
        {"--tokens 5", "--steps, --tokens, --epochs"},
        {"--epochs 5", "--steps, --tokens, --epochs"},
        {"--load-optimizer", "--load-optimizer: needs --load"},
        {"--ablate z-loss --z-loss 1e-4", "--z-loss: contradicts"},
        {"--decay-steps 5", "--decay-steps: is for --schedule wsd"},
        {"--schedule constant --final-lr-fraction 0.1", "--final-lr-fraction"},
        {"--eval-every 5", "--eval-every: needs --val-data"},
        {"--eval-instances 5", "--eval-instances: needs --val-data"},
        {"--instance-filter off --filter-max-count 5", "--filter-max-count"},
        {"--filter-min-period 14", "--filter-min-period"},
        {"--sample-tokens 5", "--sample-tokens: needs --sample-every"},
    };
    char line[512];
    snprintf(line, sizeof line, "train %s", base);
    CHECK(parses(line));
    for (size_t i = 0; i < sizeof with_base / sizeof with_base[0]; i++) {
        snprintf(line, sizeof line, "train %s %s", base, with_base[i].flags);
        refuse(line, with_base[i].words);
    }
    refuse("train --data x --out r --steps 5", "one of --config");
    refuse("train --config 1M --out r --steps 5", "--data");
    refuse("train --config 1M --data x --steps 5", "--out");
    refuse("train --config 1M --data x --out r", "--steps, --tokens, --epochs");
    refuse("train --load d --vocab-size 500 --data x --out r --steps 5", "--vocab-size");
    refuse("train --load d --ablate qk-norm --data x --out r --steps 5", "--ablate");
    CHECK(parses("train --load d --ablate z-loss --data x --out r --steps 5"));

    CHECK(parses("train --resume r --threads 2 --log-every 5 --save-every 7 --stop-at 9 --sample-every 3"));
    refuse("train --resume r --lr 1e-3", "--lr: cannot be given with --resume");
    refuse("train --resume r --batch-size 4", "--batch-size: cannot be given with --resume");
    CHECK(parses("train --resume r --data x y --val-data v --tokenizer t --micro-batch-size 2 --steps 5"));
    CHECK(parses("train --resume r --master-weights off --moments bf16 --accept-changed-data"));
    refuse("train --config 1M --data x --out r --steps 5 --accept-changed-data", "is for --resume");
}

// What is written, read and written again is the same text.
static void round_trip(const char *line) {
    const Command *train = command_find("train");
    Settings s, again;
    Error err;
    JsonWriter first, second;
    JsonDocument doc;
    memset(&first, 0, sizeof first);
    memset(&second, 0, sizeof second);
    CHECK(parse(&s, line, &err));
    settings_write(&first, NULL, &s);
    CHECK(json_parse(&doc, first.text, first.length, "saved", &err));
    CHECK(settings_init(&again, train, &err) && settings_read(&again, doc.root, "saved", &err));
    settings_write(&second, NULL, &again);
    CHECK(strcmp(first.text, second.text) == 0);
    CHECK(strstr(first.text, "\"help\"") == NULL && strstr(first.text, "\"stop-at\"") == NULL);
    CHECK(strstr(first.text, "null") == NULL);
    json_free(&doc);
    json_writer_free(&first);
    json_writer_free(&second);
    settings_free(&s);
    settings_free(&again);
}

static void refuse_saved(const char *json, const char *words) {
    Settings s;
    Error err;
    JsonDocument doc;
    CHECK(json_parse(&doc, json, strlen(json), "saved", &err));
    CHECK(settings_init(&s, command_find("train"), &err));
    CHECK_ERROR(settings_read(&s, doc.root, "saved", &err), err, words);
    json_free(&doc);
    settings_free(&s);
}

static void test_saved(void) {
    round_trip("train --config 1M --data x --out r --steps 5");
    round_trip(
        "train --config c.json --data x \"y z --val-data=v --out r --tokens 123456789012 --lr 0.1 "
        "--beta1 0.123456789012345678 --clip 0 --schedule wsd --decay-steps 7 --ablate post-norm,z-loss "
        "--skip-step off --sample-every 3 --sample-prompt \xC3\xA9 --stop-at 4");
    refuse_saved("{\"learning\": 1, \"seed\": 2, \"rate\": 1}", "does not know: \"learning\", \"rate\"");
    refuse_saved("{\"beta1\": 1.5}", "--beta1");
    refuse_saved("{\"steps\": 1.5}", "--steps");
    refuse_saved("{\"steps\": {}}", "--steps");
    refuse_saved("[]", "missing");
}

// What --resume is given goes over the saved settings: a list replaces a list, the rest stays.
static void test_overlay(void) {
    Settings s, typed;
    Error err;
    CHECK(parse(&s, "train --config 1M --data a b --out r --steps 5 --lr 0.1 --skip-step on", &err));
    CHECK(parse(&typed, "train --resume q --data c --steps 7 --moments bf16 --sample-prompt x", &err));
    CHECK(settings_overlay(&s, &typed, &err));
    CHECK(s.data.count == 1 && strcmp(s.data.items[0], "c") == 0 && s.steps == 7 && s.lr == 0.1);
    CHECK(s.moments == MOMENTS_BF16 && s.skip_step == ON && strcmp(s.prompt, "x") == 0);
    CHECK(strcmp(s.config, "1M") == 0 && strcmp(s.out, "r") == 0);
    settings_free(&s);
    settings_free(&typed);
}

// The help of every command fits 80 columns, names every flag of the command and shows its default.
static void test_help(void) {
    for (int i = 0; i < COMMANDS; i++) {
        char *text = NULL, words[64];
        size_t size = 0, widest = 0;
        FILE *out = open_memstream(&text, &size);
        flags_help(out, "./train_olmo2", &commands[i]);
        program_help(out, "./train_olmo2");
        fclose(out);
        for (const char *line = text; *line != '\0'; line += strcspn(line, "\n") + 1) {
            widest = strcspn(line, "\n") > widest ? strcspn(line, "\n") : widest;
        }
        CHECK(widest <= 80);
        for (int k = 0; k < FLAGS; k++) {
            snprintf(words, sizeof words, "--%s ", flags[k].name);
            if ((flags[k].commands & commands[i].bit) != 0) { CHECK(strstr(text, words) != NULL); }
        }
        CHECK(i > 0 || strstr(text, "(default: 0.9)") != NULL);
        free(text);
    }
}

static void test_edit_distance(void) {
    CHECK(edit_distance("", "abc") == 3 && edit_distance("abc", "") == 3 && edit_distance("abc", "abc") == 0);
    CHECK(edit_distance("kitten", "sitting") == 3 && edit_distance("steps", "stesp") == 2);
    char longer[200];
    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    CHECK(edit_distance(longer, "x") == 62 && edit_distance("x", longer) == 62);
}

int main(void) {
    test_table();
    test_olmo2_defaults();
    test_forms();
    test_refusals();
    test_ranges();
    test_contradictions();
    test_saved();
    test_overlay();
    test_help();
    test_edit_distance();
    return check_report();
}
