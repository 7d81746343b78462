// test_run_checkpoints.c: the checkpoints of a run: saved, found, pruned, on full disks and when killed.
#include "llmc/run_checkpoints.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "small_model.h"

// Whether a run holds what an interrupted save or deletion left.
static bool has_leftovers(const char *run) {
    bool found = false;
    DIR *listing = opendir(in_dir(run));
    if (!CHECK(listing != NULL)) { return false; }
    for (struct dirent *entry = readdir(listing); entry != NULL; entry = readdir(listing)) {
        found = found || strncmp(entry->d_name, ".writing-", 9) == 0 ||
                strncmp(entry->d_name, ".deleting-", 10) == 0;
    }
    closedir(listing);
    return found;
}

// ---------------------------------------------------------------------------------------------
// the checkpoints of a run

static bool save_state(const OLMo2 *m, const char *run, int64_t step, const char *state) {
    const CheckpointParts parts = {NULL, NULL, state};
    return run_write_checkpoint(m, in_dir(run), step, &parts, no_warning(), &err) && warning.text[0] == '\0';
}

static void save(const OLMo2 *m, const char *run, int64_t step) {
    char state[64];
    snprintf(state, sizeof state, "{\"step\": %d}", (int)step);
    if (!CHECK(save_state(m, run, step, state))) { printf("       %s\n", err.text); }
}

static void test_save_and_load(void) {
    OLMo2Config config = small_config();
    OLMo2 *m = make_model(&config, 1.0f), *back = make_model(&config, 9.0f);
    char newest[PATH_MAX];
    CHECK(directory_create(in_dir("runs/a/.writing-step-00000050/trainer"), &err));
    write_text("runs/a/.writing-step-00000050/trainer/state.json", "{");
    CHECK(directory_create(in_dir("runs/a/.deleting-step-00000001"), &err));
    write_text("runs/a/log.jsonl", "{}\n");
    save(m, "runs/a", 100);
    CHECK(count_entries("runs/a") == 2 && exists("runs/a/log.jsonl"));  // and what the crash left is gone
    CHECK(count_entries("runs/a/step-00000100") == 4 && count_entries("runs/a/step-00000100/trainer") == 2);
    CHECK(run_newest(newest, in_dir("runs/a"), no_warning(), &err) && warning.text[0] == '\0');
    CHECK(ends_with(newest, "runs/a/step-00000100"));
    CHECK(checkpoint_load_weights(back, newest, NULL, NULL, &err) &&
          checkpoint_load_optimizer(back, newest, NULL, NULL, &err));
    CHECK(same_array(m, back, OLMO2_PARAMETER) && same_array(m, back, OLMO2_MOMENT1));
    CHECK(same_array(m, back, OLMO2_MOMENT2) && !same_array(m, back, OLMO2_GRADIENT));
    char *state = file_read_text(in_dir("runs/a/step-00000100/trainer/state.json"), 1000, &err);
    CHECK(state != NULL && strcmp(state, "{\"step\": 100}\n") == 0);
    free(state);
    // the same step again replaces it
    m->arrays[0][0] = 77.0f;
    save(m, "runs/a", 100);
    save(m, "runs/a", 200);
    CHECK(checkpoint_load_weights(back, in_dir("runs/a/step-00000100"), NULL, NULL, &err) &&
          back->arrays[0][0] == 77.0f);
    CHECK(count_entries("runs/a") == 3);
    // without a state: only the model
    CHECK(save_state(m, "runs/b", 7, NULL) && count_entries("runs/b/step-00000007") == 3);
    olmo2_free(m);
    olmo2_free(back);
}

static void test_newest_and_resolve(void) {
    OLMo2Config config = small_config();
    OLMo2 *m = make_model(&config, 1.0f);
    char found[PATH_MAX];
    CHECK_ERROR(run_newest(found, in_dir("absent"), no_warning(), &err), err, "absent: cannot be opened");
    CHECK(directory_create(in_dir("runs/c"), &err));
    CHECK_ERROR(run_newest(found, in_dir("runs/c"), no_warning(), &err), err,
                "holds no checkpoint (step-...)");
    save(m, "runs/c", 9);
    save(m, "runs/c", 10);
    save(m, "runs/c", 100000000);
    // names of something other than a step
    CHECK(directory_create(in_dir("runs/c/step-11"), &err) && directory_create(in_dir("runs/c/step-"), &err));
    CHECK(directory_create(in_dir("runs/c/step-00000012x"), &err));
    CHECK(directory_create(in_dir("runs/c/step-99999999999999999999"), &err));
    write_text("runs/c/step-00000013", "a file");
    CHECK(run_resolve(found, in_dir("runs/c"), no_warning(), &err) && ends_with(found, "step-100000000"));
    CHECK(run_resolve(found, in_dir("runs/c/step-00000009"), no_warning(), &err) &&
          ends_with(found, "-00000009"));
    CHECK_ERROR(run_resolve(found, in_dir("absent"), no_warning(), &err), err, "absent: no such directory");
    CHECK_ERROR(run_resolve(found, in_dir("runs"), no_warning(), &err), err,
                "holds neither config.json nor a checkpoint (step-...)");

    // each kind of damage to the newest: it is passed over and named
    static const struct {
        const char *file, *text, *words;
    } damages[] = {
        {"model.safetensors", "", "model.safetensors: has 0 bytes"},
        {"config.json", "{\"model_type\"", "config.json:1:14: found the end"},
        {"trainer/optimizer.safetensors", NULL, "optimizer.safetensors: cannot be opened"},
        {"trainer/state.json", "", "state.json:1:1: found the end of the text"},
        {"trainer/state.json", NULL, "state.json: cannot be opened"},
    };
    for (size_t i = 0; i < sizeof damages / sizeof damages[0]; i++) {
        char name[PATH_MAX];
        save(m, "runs/c", 20);
        snprintf(name, sizeof name, "runs/c/step-00000020/%s", damages[i].file);
        if (damages[i].text == NULL) {
            CHECK(unlink(in_dir(name)) == 0);
        } else {
            write_text(name, damages[i].text);
        }
        CHECK(directory_remove(in_dir("runs/c/step-100000000"), &err) || i > 0);
        CHECK(run_newest(found, in_dir("runs/c"), no_warning(), &err) && ends_with(found, "step-00000010"));
        CHECK(strstr(warning.text, "passed over a damaged checkpoint") &&
              strstr(warning.text, damages[i].words));
    }
    // cut short in the data, where only the size tells
    save(m, "runs/c", 20);
    struct stat info;
    CHECK(stat(in_dir("runs/c/step-00000020/model.safetensors"), &info) == 0);
    CHECK(truncate(in_dir("runs/c/step-00000020/model.safetensors"), info.st_size - 1) == 0);
    CHECK(run_newest(found, in_dir("runs/c"), no_warning(), &err) && ends_with(found, "step-00000010"));
    CHECK(strstr(warning.text, "is cut short") != NULL);
    // none is whole
    write_text("runs/c/step-00000009/config.json", "");
    write_text("runs/c/step-00000010/config.json", "");
    CHECK_ERROR(run_newest(found, in_dir("runs/c"), no_warning(), &err), err,
                "holds no checkpoint that is whole");
    CHECK(strstr(err.text, "step-00000009/config.json") && strstr(err.text, "step-00000010/config.json"));
    olmo2_free(m);
}

static void test_prune(void) {
    OLMo2Config config = small_config();
    OLMo2 *m = make_model(&config, 1.0f);
    for (int step = 10; step <= 60; step += 10) { save(m, "runs/p", step); }
    CHECK(run_prune(in_dir("runs/p"), 2, 20, -1, no_warning(), &err));  // 20, 40 by number; 50, 60 the last
    CHECK(count_entries("runs/p") == 4 && !exists("runs/p/step-00000010") && !exists("runs/p/step-00000030"));
    CHECK(run_prune(in_dir("runs/p"), 9, 0, -1, no_warning(), &err) && count_entries("runs/p") == 4);
    CHECK(run_prune(in_dir("runs/p"), 0, 0, -1, no_warning(), &err));  // the newest stays whatever is asked
    CHECK(count_entries("runs/p") == 1 && exists("runs/p/step-00000060"));
    CHECK_ERROR(run_prune(in_dir("absent"), 1, 0, -1, no_warning(), &err), err, "absent: cannot be opened");
    // a damaged checkpoint does not count as one that is kept
    save(m, "runs/d", 5);
    save(m, "runs/d", 10);
    save(m, "runs/d", 20);
    CHECK(truncate(in_dir("runs/d/step-00000020/model.safetensors"), 1000) == 0);
    CHECK(run_prune(in_dir("runs/d"), 1, 0, -1, no_warning(), &err) && !exists("runs/d/step-00000005"));
    CHECK(exists("runs/d/step-00000010") && exists("runs/d/step-00000020"));
    save(m, "runs/d", 30);
    CHECK(run_prune(in_dir("runs/d"), 1, 0, -1, no_warning(), &err) && count_entries("runs/d") == 1);
    olmo2_free(m);
}

// The newest checkpoint that is known to be finite stays, however old it is.
static void test_protected_step(void) {
    OLMo2Config config = small_config();
    OLMo2 *m = make_model(&config, 1.0f);
    for (int step = 1; step <= 5; step++) { save(m, "runs/f", step); }
    CHECK(run_prune(in_dir("runs/f"), 2, 0, 2, no_warning(), &err) && warning.text[0] == '\0');
    CHECK(count_entries("runs/f") == 3 && exists("runs/f/step-00000002"));
    CHECK(run_prune(in_dir("runs/f"), 1, 0, 2, no_warning(), &err));
    CHECK(count_entries("runs/f") == 2 && exists("runs/f/step-00000002") && exists("runs/f/step-00000005"));
    CHECK(run_prune(in_dir("runs/f"), 1, 0, 5, no_warning(), &err) && count_entries("runs/f") == 1);
    olmo2_free(m);
}

// Only what this run wrote is removed, and not while it is being written.
static void test_clean(void) {
    static const char *const leftovers[] = {".writing-step-00000050", ".deleting-step-00000050",
                                            ".writing-tokenizer", ".deleting-tokenizer",
                                            ".writing-step-00000050.1"};
    static const char *const others[] = {".writing-soup",         ".deleting-soup",
                                         ".writing-x.npy",        ".writing-",
                                         ".writing-step-x",       ".writing-step-00000050x",
                                         ".writing-tokenizers",   ".hidden",
                                         "writing-step-00000050", "tokenizer"};
    enum { LEFTOVERS = sizeof leftovers / sizeof leftovers[0], OTHERS = sizeof others / sizeof others[0] };
    char name[PATH_MAX];
    Aside live;
    for (int i = 0; i < LEFTOVERS; i++) {
        snprintf(name, sizeof name, "runs/l/%s/trainer", leftovers[i]);
        CHECK(directory_create(in_dir(name), &err));
    }
    for (int i = 0; i < OTHERS; i++) {
        snprintf(name, sizeof name, "runs/l/%s", others[i]);
        CHECK(directory_create(in_dir(name), &err));
    }
    CHECK(aside_begin_directory(&live, in_dir("runs/l/step-00000060"), &err));
    CHECK(run_clean(in_dir("runs/l"), no_warning(), &err) && warning.text[0] == '\0');
    CHECK(count_entries("runs/l") == OTHERS + 1 && exists("runs/l/.writing-step-00000060"));
    aside_cancel(&live);
    CHECK(count_entries("runs/l") == OTHERS);
    CHECK_ERROR(run_clean(in_dir("absent"), no_warning(), &err), err, "absent: cannot be opened");
}

// A directory that cannot be emptied, as on NFS, ends neither a save nor a deletion.
static bool save_beside_stuck_files(void) {
    OLMo2Config config = small_config();
    OLMo2 *m = make_model(&config, 1.0f);
    save(m, "stuck/run", 1);
    save(m, "stuck/run", 2);
    CHECK(directory_create(in_dir("stuck/run/.writing-step-00000009"), &err));
    write_text("stuck/run/.writing-step-00000009/.nfs01", "");
    CHECK(chmod(in_dir("stuck/run/.writing-step-00000009"), 0555) == 0);
    CHECK(!save_state(m, "stuck/run", 3, "{}") && exists("stuck/run/step-00000003/config.json"));
    CHECK(strstr(warning.text, ".writing-step-00000009: cannot be removed: Directory not empty") != NULL);
    CHECK(chmod(in_dir("stuck/run/step-00000001"), 0555) == 0);
    CHECK(run_prune(in_dir("stuck/run"), 1, 0, -1, no_warning(), &err));
    CHECK(strstr(warning.text, ".deleting-step-00000001: cannot be removed: Directory not empty") != NULL);
    CHECK(!exists("stuck/run/step-00000001") && !exists("stuck/run/step-00000002"));
    CHECK(chmod(in_dir("stuck/run"), 0555) == 0);
    const CheckpointParts parts = {NULL, NULL, NULL};
    CHECK_ERROR(
        run_write_checkpoint(m, in_dir("stuck/run"), 4, &parts, no_warning(), &err), err,
        "step-00000004: cannot be created: Permission denied\nCheckpoint step-00000004 was not saved");
    CHECK(run_prune(in_dir("stuck/run"), 1, 0, -1, no_warning(), &err));
    chmod(in_dir("stuck/run"), 0755);
    chmod(in_dir("stuck/run/.writing-step-00000009"), 0755);
    chmod(in_dir("stuck/run/.deleting-step-00000001"), 0755);
    olmo2_free(m);
    return check_failed == 0;
}

static void test_stuck_files(void) {
    int status;
    CHECK(directory_create(in_dir("stuck"), &err));
    CHECK(chmod(dir, 0755) == 0 && chmod(in_dir("stuck"), 0777) == 0);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        check_failed = 0;
        bool dropped = geteuid() != 0 || (setgid(65534) == 0 && setuid(65534) == 0);
        bool ok = dropped && save_beside_stuck_files();
        fflush(stdout);
        _exit(ok ? 0 : 1);
    }
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

// A run's directory may be a link, and may hold things that are not checkpoints under their names.
static void test_strange_runs(void) {
    OLMo2Config config = small_config();
    OLMo2 *m = make_model(&config, 1.0f);
    char found[PATH_MAX];
    CHECK(directory_create(in_dir("elsewhere"), &err) && symlink("../elsewhere", in_dir("runs/link")) == 0);
    save(m, "runs/link", 1);
    save(m, "runs/link", 2);
    CHECK(run_prune(in_dir("runs/link"), 1, 0, -1, no_warning(), &err) && count_entries("elsewhere") == 1);
    CHECK(run_resolve(found, in_dir("runs/link"), no_warning(), &err) &&
          ends_with(found, "link/step-00000002"));
    CHECK(symlink("step-00000002", in_dir("elsewhere/latest")) == 0);
    CHECK(run_resolve(found, in_dir("runs/link/latest"), no_warning(), &err) && ends_with(found, "/latest"));
    CHECK(symlink("gone", in_dir("elsewhere/step-00000007")) == 0);  // a link to nothing
    CHECK(run_newest(found, in_dir("elsewhere"), no_warning(), &err) && warning.text[0] == '\0');
    // a file in the place of a checkpoint is an error, which says so, and stays
    write_text("elsewhere/step-00000003", "a file");
    CHECK(!save_state(m, "elsewhere", 3, "{}") && file_holds("elsewhere/step-00000003", "a file"));
    CHECK(strstr(err.text, "step-00000003: is in the way, and is not a directory: move it elsewhere\n") !=
          NULL);
    CHECK(!exists("elsewhere/.writing-step-00000003"));
    CHECK_ERROR(run_list(in_dir("elsewhere/step-00000003"), &(int64_t *){NULL}, &(size_t){0}, &err), err,
                "cannot be opened: Not a directory");
    // names that a person would rather not type
    save(m, "runs/new\nline \"quoted\" 'and' $(so) on", 1);
    CHECK(run_newest(found, in_dir("runs/new\nline \"quoted\" 'and' $(so) on"), no_warning(), &err));
    // two starts at once: the run's directory exists by then
    CHECK(directory_create(in_dir("runs/again"), &err) && directory_create(in_dir("runs/again"), &err));
    olmo2_free(m);
}

static void test_keep_tokenizer(void) {
    OLMo2Config config = small_config();
    char path[PATH_MAX];
    CHECK(directory_create(in_dir("tok"), &err) && directory_create(in_dir("runs/t"), &err));
    write_text("tok/tokenizer.json", "{\"a\": 1}");
    write_text("tok/vocab.json", "{}");
    snprintf(path, sizeof path, "%s", in_dir("tok/tokenizer.json"));
    CHECK(run_keep_tokenizer(in_dir("runs/t"), &config, path, no_warning(), &err));
    CHECK(ends_with(path, "runs/t/tokenizer/tokenizer.json") && count_entries("runs/t/tokenizer") == 3);
    // again, from its own copy, as a resumed run may do
    CHECK(run_keep_tokenizer(in_dir("runs/t"), &config, path, no_warning(), &err));
    CHECK(ends_with(path, "runs/t/tokenizer/tokenizer.json") &&
          file_holds("runs/t/tokenizer/vocab.json", "{}"));
    CHECK(count_entries("runs/t") == 1);
    CHECK(unlink(in_dir("runs/t/tokenizer/tokenizer.json")) == 0);
    CHECK_ERROR(run_keep_tokenizer(in_dir("runs/t"), &config, path, no_warning(), &err), err,
                "cannot be opened");
    CHECK(count_entries("runs/t") == 1 && exists("runs/t/tokenizer/vocab.json"));
}

// A limit on the size of files plays the full disk. At every size from 0 on, the save fails, says so, and
// leaves the earlier checkpoint and nothing else.
static void test_full_disk(void) {
    OLMo2Config config = small_config();
    OLMo2 *m = make_model(&config, 1.0f);
    char found[PATH_MAX];
    save(m, "runs/full", 1);
    struct stat info;
    CHECK(stat(in_dir("runs/full/step-00000001/trainer/optimizer.safetensors"), &info) == 0);
    struct rlimit before, limit;
    CHECK(getrlimit(RLIMIT_FSIZE, &before) == 0);
    signal(SIGXFSZ, SIG_IGN);
    int failures = 0;
    for (off_t size = 0; size < info.st_size; size += info.st_size / 20) {
        limit = before;
        limit.rlim_cur = (rlim_t)size;
        CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
        bool saved = save_state(m, "runs/full", 2, "{}");
        CHECK(setrlimit(RLIMIT_FSIZE, &before) == 0);
        CHECK(!saved && strstr(err.text, "cannot be written: File too large") != NULL);
        CHECK(strstr(err.text, "Checkpoint step-00000002 was not saved; those before it are whole.") != NULL);
        CHECK(count_entries("runs/full") == 1);
        CHECK(run_newest(found, in_dir("runs/full"), no_warning(), &err) && warning.text[0] == '\0');
        failures++;
    }
    printf("saves on a full disk: %d refused, the earlier checkpoint whole each time\n", failures);
    save(m, "runs/full", 2);
    olmo2_free(m);

    // the kernel's own full device
    int descriptor = open("/dev/full", O_WRONLY);
    if (descriptor >= 0) {
        CHECK_ERROR(file_write(descriptor, "x", 1, "/dev/full", &err), err,
                    "cannot be written: No space left on device");
        close(descriptor);
    }
}

static void fill_model(OLMo2 *m, float value) {
    for (int a = 0; a < 4; a++) {
        for (size_t i = 0; i < parameter_array_size(&m->config); i++) { m->arrays[a][i] = value; }
    }
}

// Whether every number of the checkpoint is its step.
static bool is_whole(const char *path, const OLMo2Config *config, int64_t step) {
    OLMo2 *m = make_model(config, -1.0f), *expected = make_model(config, -1.0f);
    fill_model(expected, (float)step);
    bool whole = checkpoint_load_weights(m, path, NULL, NULL, &err) &&
                 checkpoint_load_optimizer(m, path, NULL, NULL, &err) &&
                 same_array(m, expected, OLMO2_PARAMETER) && same_array(m, expected, OLMO2_MOMENT1) &&
                 same_array(m, expected, OLMO2_MOMENT2);
    olmo2_free(m);
    olmo2_free(expected);
    return whole;
}

// What the child does until it is killed: save, say so, prune, step after step.
static void save_for_ever(const OLMo2Config *config, int64_t step, int saved) {
    OLMo2 *m = make_model(config, 0.0f);
    while (true) {
        fill_model(m, (float)++step);
        if (!save_state(m, "runs/k", step, "{}") || write(saved, "", 1) != 1 ||
            !run_prune(in_dir("runs/k"), 2, 0, -1, no_warning(), &err)) {
            printf("%s\n", err.text);
            _exit(1);
        }
    }
}

// Wherever a process is killed while it saves and prunes, the newest checkpoint is whole and no finished save
// is lost.
static void test_killed(void) {
    enum { ROUNDS = 25 };
    OLMo2Config config = small_config();
    OLMo2 *m = make_model(&config, 1.0f);
    double start = seconds_now();
    save(m, "runs/k", 1);
    uint32_t longest = (uint32_t)(1.5e6 * (seconds_now() - start)) + 1;  // microseconds, longer than a save
    olmo2_free(m);
    int64_t step = 1;
    uint32_t random = 1;
    int inside = 0;
    for (int round = 0; round < ROUNDS; round++) {
        int saved[2], status;
        char byte, newest[PATH_MAX];
        if (!CHECK(pipe(saved) == 0)) { break; }
        pid_t child = fork();
        if (child == 0) { save_for_ever(&config, step, saved[1]); }
        close(saved[1]);
        CHECK(read(saved[0], &byte, 1) == 1);
        random = random * 1664525u + 1013904223u;
        usleep((random >> 8) % longest);
        kill(child, SIGKILL);
        CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status));
        close(saved[0]);
        inside += has_leftovers("runs/k");
        if (!CHECK(run_newest(newest, in_dir("runs/k"), no_warning(), &err))) { break; }
        int64_t found = run_checkpoint_step(strrchr(newest, '/') + 1);
        CHECK(warning.text[0] == '\0' && found > step && is_whole(newest, &config, found));
        step = found;
    }
    printf(
        "killed %d times, %d of them inside a save or a deletion: %d steps saved, the newest always whole\n",
        ROUNDS, inside, (int)step);
}

int main(void) {
    if (!scratch_begin()) { return check_report(); }
    test_save_and_load();
    test_newest_and_resolve();
    test_prune();
    test_protected_step();
    test_clean();
    test_stuck_files();
    test_strange_runs();
    test_keep_tokenizer();
    test_full_disk();
    test_killed();
    scratch_end();
    return check_report();
}
