// test_files.c: paths, files, directories, locks, and what is written aside, on disks that fill up, forbid or
// race.
#include "llmc/files.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "llmc/token_writer.h"

#include "scratch.h"

// Whether the body is true in a process of its own that is not root: root may do everything.
static bool as_nobody(bool (*body)(void)) {
    int status;
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        check_failed = 0;
        bool dropped = geteuid() != 0 || (setgid(65534) == 0 && setuid(65534) == 0);
        bool ok = dropped && body() && check_failed == 0;
        fflush(stdout);
        _exit(ok ? 0 : 1);
    }
    return waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

// A directory of the scratch directory that anybody may write to.
static void public_directory(const char *name) {
    CHECK(directory_create(in_dir(name), &err));
    CHECK(chmod(dir, 0755) == 0 && chmod(in_dir(name), 0777) == 0);
}

static void test_paths(void) {
    static const char *const good[][3] = {
        {"a", ".", "a"},
        {"a/b", "a", "b"},
        {"/a", "/", "a"},
        {"a//b//", "a", "b"},
        {"//a", "/", "a"},
        {"./a", ".", "a"},
        {"a/b c\"\n", "a", "b c\"\n"},
    };
    char parent[PATH_MAX], name[PATH_MAX], longest[2 * PATH_MAX];
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        CHECK(path_split(parent, name, good[i][0], &err));
        CHECK(strcmp(parent, good[i][1]) == 0 && strcmp(name, good[i][2]) == 0);
    }
    CHECK_ERROR(path_split(parent, name, "", &err), err, "\"\": is not the name of a file or directory");
    CHECK_ERROR(path_split(parent, name, "///", &err), err, "is not the name of a file or directory");
    memset(longest, 'x', sizeof longest);
    longest[sizeof longest - 1] = '\0';
    CHECK_ERROR(path_split(parent, name, longest, &err), err,
                "the path has 8191 bytes, expected fewer than 4096");
    CHECK_ERROR(path_join(parent, longest, "a", &err), err,
                "the path has 8193 bytes, expected fewer than 4096");
    longest[PATH_MAX - 1] = '\0';
    CHECK_ERROR(path_join(parent, longest, "", &err), err, "expected fewer than 4096");
    longest[PATH_MAX - 3] = '\0';
    CHECK(path_join(parent, longest, "a", &err) && strlen(parent) == PATH_MAX - 1);
    // a message holds a path as long as paths can be, and the words after it
    fail(&err, "%s/%s: cannot be found", parent, parent);
    CHECK(ends_with(err.text, ": cannot be found"));
}

static void test_reading(void) {
    MappedFile file;
    write_text("text", "hello");
    write_text("empty", "");
    char *text = file_read_text(in_dir("text"), 5, &err);
    CHECK(text != NULL && strcmp(text, "hello") == 0);
    free(text);
    text = file_read_text(in_dir("empty"), 5, &err);
    CHECK(text != NULL && *text == '\0');
    free(text);
    CHECK(file_read_text(in_dir("text"), 4, &err) == NULL);
    CHECK(strstr(err.text, "text: has 5 bytes, expected a file of this kind to have at most 4 bytes") !=
          NULL);
    int descriptor;
    CHECK(file_create(&descriptor, in_dir("nul"), &err) && file_write(descriptor, "a\0b", 3, "nul", &err));
    CHECK(file_finish(descriptor, true, in_dir("nul"), &err));
    CHECK(file_read_text(in_dir("nul"), 5, &err) == NULL && strstr(err.text, "holds a NUL byte") != NULL);
    // neither waits for a writer of the pipe
    CHECK(mkfifo(in_dir("pipe"), 0600) == 0);
    alarm(20);
    CHECK_ERROR(file_map(&file, in_dir("pipe"), &err), err, "pipe: is not a regular file");
    bool live;
    CHECK(aside_remove(in_dir("pipe"), &live, &err) && !live && mkfifo(in_dir("pipe"), 0600) == 0);
    alarm(0);
    CHECK_ERROR(file_map(&file, dir, &err), err, "is not a regular file");
    CHECK_ERROR(file_map(&file, "/dev/zero", &err), err, "is not a regular file");
    CHECK_ERROR(file_map(&file, in_dir("absent"), &err), err, "cannot be opened: No such file");
}

static void test_directories(void) {
    CHECK(directory_create(in_dir("d/e//f/"), &err) && path_is_directory(in_dir("d/e/f")));
    CHECK(directory_create(in_dir("d/e/f"), &err) && directory_create("/", &err) &&
          directory_create(".", &err));
    CHECK_ERROR(directory_create("", &err), err, "is not the name of a file or directory");
    write_text("file", "x");
    CHECK_ERROR(directory_create(in_dir("file"), &err), err,
                "file: cannot be created: something that is not a directory has this name");
    CHECK_ERROR(directory_create(in_dir("file/a"), &err), err, "file: cannot be created");
    CHECK(symlink("nowhere", in_dir("dangling")) == 0);
    CHECK_ERROR(directory_create(in_dir("dangling"), &err), err,
                "dangling: cannot be created: something that");
    CHECK(path_exists(in_dir("dangling")) && !path_is_file(in_dir("dangling")));
    CHECK(symlink("d", in_dir("link")) == 0);
    CHECK(directory_create(in_dir("link/g"), &err) && path_is_directory(in_dir("d/g")));
    // a link is removed, not followed
    CHECK(directory_remove(in_dir("link"), &err) && !path_exists(in_dir("link")) && exists("d/g"));
    CHECK(directory_remove(in_dir("d"), &err) && !exists("d"));
    CHECK(directory_remove(in_dir("d"), &err));  // nothing is nothing to remove
    CHECK(directory_sync("/proc", &err));        // where fsync of a directory is EINVAL
    CHECK_ERROR(directory_sync(in_dir("absent"), &err), err, "absent: cannot be opened");
}

// 1,500 levels that do not exist; a stack of 8 MB has no room for two paths each.
static void test_deep_directories(void) {
    char path[2 * PATH_MAX] = "deep";
    for (int i = 0; i < 1500; i++) { strcat(path, "/a"); }
    char *full = format_text("%s/%s", dir, path);
    CHECK(directory_create(full, &err) && path_is_directory(full));
    free(full);
    for (int i = 0; i < 1500; i++) { strcat(path, "/a"); }
    full = format_text("%s/%s", dir, path);
    CHECK_ERROR(directory_create(full, &err), err, "bytes, expected fewer than 4096");
    free(full);
    CHECK(directory_remove(in_dir("deep"), &err) && !exists("deep"));
}

// Many processes create the same directories at the same moment: each finds them made.
static void test_directory_race(void) {
    enum { PROCESSES = 8, ROUNDS = 30 };
    int failures = 0;
    for (int round = 0; round < ROUNDS; round++) {
        int start[2], status;
        char byte;
        CHECK(pipe(start) == 0);
        for (int i = 0; i < PROCESSES; i++) {
            if (fork() != 0) { continue; }
            close(start[1]);
            (void)!read(start[0], &byte, 1);  // returns when the parent closes its end
            char name[32];
            snprintf(name, sizeof name, "race%d/a/b/c/d", round);
            _exit(directory_create(in_dir(name), &err) ? 0 : 1);
        }
        close(start[0]);
        close(start[1]);
        for (int i = 0; i < PROCESSES; i++) { failures += wait(&status) < 0 || status != 0; }
    }
    printf("%d processes created the same directories %d times: %d failures\n", PROCESSES, ROUNDS, failures);
    CHECK(failures == 0);
}

static bool denied(void) {
    MappedFile file;
    Aside aside;
    CHECK_ERROR(directory_create(in_dir("private/sub"), &err), err,
                "private/sub: cannot be created: Permission");
    CHECK_ERROR(aside_begin_file(&aside, in_dir("private/x"), &err), err,
                "private/x: cannot be created: Permission");
    CHECK_ERROR(aside_begin_directory(&aside, in_dir("private/x"), &err), err,
                "cannot be created: Permission");
    CHECK_ERROR(file_map(&file, in_dir("private/secret"), &err), err, "secret: cannot be opened: Permission");
    CHECK(directory_sync(in_dir("drop"), &err));  // may be written to and not be read
    CHECK(directory_create(in_dir("drop/a"), &err));
    return true;
}

static void test_permissions(void) {
    CHECK(directory_create(in_dir("private"), &err) && directory_create(in_dir("drop"), &err));
    write_text("private/secret", "x");
    CHECK(chmod(dir, 0755) == 0 && chmod(in_dir("private/secret"), 0) == 0 &&
          chmod(in_dir("drop"), 0333) == 0);
    CHECK(chmod(in_dir("private"), 0555) == 0);
    CHECK(as_nobody(denied));
    CHECK(chmod(in_dir("private"), 0755) == 0 && chmod(in_dir("drop"), 0777) == 0);
}

// ---------------------------------------------------------------------------------------------
// locks

static void test_locks(void) {
    int first, second;
    CHECK(directory_create(in_dir("locked"), &err));
    CHECK(directory_lock(in_dir("locked"), &first, no_warning(), &err) && warning.text[0] == '\0');
    CHECK_ERROR(directory_lock(in_dir("locked"), &second, &warning, &err), err,
                "locked: another process is training this run; wait for it or stop it");
    CHECK(second == -1);
    close(first);
    CHECK(directory_lock(in_dir("locked"), &second, &warning, &err));
    close(second);
    CHECK_ERROR(directory_lock(in_dir("absent"), &second, &warning, &err), err, "absent: cannot be opened");
    write_text("a file", "");
    CHECK_ERROR(directory_lock(in_dir("a file"), &second, &warning, &err), err,
                "cannot be opened: Not a directory");

    const int without[] = {ENOLCK, EOPNOTSUPP, ENOTSUP, ENOSYS, EINVAL, EBADF};
    for (size_t i = 0; i < sizeof without / sizeof without[0]; i++) {
        CHECK(lock_failed(without[i], "run", no_warning(), &err));
        CHECK(strstr(warning.text, "run: its file system has no locks (") != NULL);
    }
    CHECK_ERROR(lock_failed(EWOULDBLOCK, "run", no_warning(), &err), err, "another process");
    CHECK_ERROR(lock_failed(EIO, "run", no_warning(), &err), err,
                "run: cannot be locked: Input/output error");
    CHECK(warning.text[0] == '\0');
}

// ---------------------------------------------------------------------------------------------
// writing aside

static bool write_aside(const char *name, const char *text) {
    Aside aside;
    if (!aside_begin_file(&aside, in_dir(name), &err)) { return false; }
    if (!file_write(aside.descriptor, text, strlen(text), name, &err)) { return aside_cancel(&aside); }
    return aside_finish(&aside, no_warning(), &err);
}

static bool write_directory_aside(const char *name, const char *text) {
    Aside aside;
    int descriptor;
    char path[PATH_MAX];
    if (!aside_begin_directory(&aside, in_dir(name), &err)) { return false; }
    if (!path_join(path, aside.aside, "file", &err) || !file_create(&descriptor, path, &err)) {
        return false;
    }
    if (!file_finish(descriptor, file_write(descriptor, text, strlen(text), path, &err), path, &err)) {
        return aside_cancel(&aside);
    }
    return aside_finish(&aside, no_warning(), &err);
}

static void test_aside(void) {
    Aside aside;
    CHECK(write_aside("one", "1") && file_holds("one", "1") && !exists(".writing-one"));
    CHECK(write_aside("one", "2") && file_holds("one", "2"));
    CHECK(aside_begin_file(&aside, in_dir("one"), &err) && exists(".writing-one") && aside.active);
    CHECK(file_holds("one", "2"));
    CHECK(!aside_cancel(&aside) && !aside.active && !exists(".writing-one") && file_holds("one", "2"));
    CHECK(!aside_cancel(&aside));  // nothing is active
    memset(&aside, 0, sizeof aside);
    CHECK(!aside_cancel(&aside) && fcntl(0, F_GETFD) >= 0);  // and standard input is not closed for it

    CHECK(write_directory_aside("two/", "1") && file_holds("two/file", "1") && !exists(".writing-two"));
    CHECK(write_directory_aside("two", "2") && file_holds("two/file", "2"));
    CHECK(!exists(".deleting-two") && warning.text[0] == '\0');
    // what a crash left is removed, a file in the place of a directory too
    CHECK(directory_create(in_dir(".writing-two/trainer"), &err) &&
          directory_create(in_dir(".deleting-two"), &err));
    write_text(".writing-one", "half");
    CHECK(write_directory_aside("two", "3") && file_holds("two/file", "3") && !exists(".writing-two"));
    CHECK(write_aside("one", "3") && file_holds("one", "3") && !exists(".writing-one") &&
          !exists(".deleting-two"));
    // names
    CHECK_ERROR(aside_begin_file(&aside, in_dir("two"), &err), err, "two: cannot be created: Is a directory");
    CHECK_ERROR(aside_begin_file(&aside, "", &err), err, "cannot be created: the name is empty");
    CHECK_ERROR(aside_begin_file(&aside, in_dir("no/such"), &err), err, "no/such: cannot be created");
    CHECK_ERROR(aside_begin_directory(&aside, in_dir("no/such"), &err), err, "no/such: cannot be created");
    CHECK(write_aside("quote\"new\nline %s", "q") && file_holds("quote\"new\nline %s", "q"));
    char longest[256];
    memset(longest, 'n', 255);
    longest[255] = '\0';
    CHECK(write_aside(longest, "long") && file_holds(longest, "long"));
    CHECK(write_directory_aside("over\"\n", "1") && write_directory_aside("over\"\n", "2"));
    // something that is not a directory is in the way of one
    CHECK_ERROR(write_directory_aside("one", "x"), err, "one: is in the way, and is not a directory");
    CHECK(file_holds("one", "3") && !exists(".writing-one"));
    // links: the one that has the name goes, what it points to stays
    CHECK(symlink("two", in_dir("alias")) == 0);
    CHECK(write_directory_aside("alias", "4") && file_holds("two/file", "3") &&
          file_holds("alias/file", "4"));
    CHECK(symlink("one", in_dir("alias of a file")) == 0);
    CHECK(write_aside("alias of a file", "5") && file_holds("one", "3") &&
          file_holds("alias of a file", "5"));
}

// What another process is writing is told from what a crash left.
static void test_live_aside(void) {
    int ready[2], status;
    char byte;
    CHECK(pipe(ready) == 0);
    pid_t child = fork();
    if (child == 0) {
        Aside file, directory;
        bool ok = aside_begin_file(&file, in_dir("busy"), &err) &&
                  aside_begin_directory(&directory, in_dir("busy.d"), &err);
        (void)!write(ready[1], ok ? "y" : "n", 1);
        pause();
        _exit(0);
    }
    CHECK(read(ready[0], &byte, 1) == 1 && byte == 'y');
    bool live;
    CHECK_ERROR(aside_remove(in_dir(".writing-busy"), &live, &err), err, "another process is writing it");
    CHECK(live && !aside_remove(in_dir(".writing-busy.d"), &live, &err) && live);
    CHECK_ERROR(write_aside("busy", "x"), err, "busy: another process is writing it");
    CHECK_ERROR(write_directory_aside("busy.d", "x"), err, "busy.d: another process is writing it");
    CHECK(exists(".writing-busy") && exists(".writing-busy.d"));
    kill(child, SIGKILL);
    CHECK(waitpid(child, &status, 0) == child);
    close(ready[0]);
    close(ready[1]);
    CHECK(write_aside("busy", "x") && write_directory_aside("busy.d", "x"));
    CHECK(!exists(".writing-busy") && !exists(".writing-busy.d"));
}

// Writes a name that other processes write too, until it has succeeded 20 times. The text begins with its
// size.
static bool write_again_and_again(int process) {
    static char text[20000];
    for (int written = 0; written < 20;) {
        size_t size = 1000 + (size_t)(process * 1000 + written);
        memset(text, '.', sizeof text);
        snprintf(text, 16, "%zu", size);
        text[strlen(text)] = ' ';
        text[size] = '\0';
        if (write_aside("race", text)) {
            written++;
        } else if (strstr(err.text, "race: another process is writing it") == NULL &&
                   strstr(err.text, "race: cannot be created: File exists") == NULL) {
            printf("       %s\n", err.text);
            return false;
        }
        usleep(500);
    }
    return true;
}

// Many processes write the same name: what has it is whole at any moment, and nothing is left aside.
static void test_aside_race(void) {
    enum { PROCESSES = 4 };
    int status, looks = 0, torn = 0, running = PROCESSES;
    char path[PATH_MAX];
    CHECK(path_join(path, dir, "race", &err));
    fflush(stdout);
    for (int i = 0; i < PROCESSES; i++) {
        if (fork() == 0) {
            bool ok = write_again_and_again(i);
            fflush(stdout);
            _exit(ok ? 0 : 1);
        }
    }
    while (running > 0) {
        MappedFile file;
        if (file_map(&file, path, &err)) {
            looks++;
            torn += file.data == NULL || strtoull(file.data, NULL, 10) != file.size;
            file_unmap(&file);
        }
        if (waitpid(-1, &status, WNOHANG) <= 0) { continue; }
        running--;
        CHECK(status == 0);
    }
    printf("%d processes wrote one name 20 times each: %d looks, %d of them at half a file\n", PROCESSES,
           looks, torn);
    CHECK(torn == 0 && looks > 0 && !exists(".writing-race"));
}

// While a directory is replaced, its name is at no moment nobody's, where the system can exchange names.
static void test_exchange(void) {
#ifdef RENAME_EXCHANGE
    char path[PATH_MAX];
    int status = 0, looks = 0, absent = 0;
    snprintf(path, sizeof path, "%s", in_dir("swapped"));
    CHECK(write_directory_aside("swapped", "1") && directory_create(in_dir("other"), &err));
    const bool able = renameat2(AT_FDCWD, path, AT_FDCWD, in_dir("other"), RENAME_EXCHANGE) == 0;
    fflush(stdout);
    if (fork() == 0) {
        bool ok = true;
        for (int i = 0; i < 100; i++) { ok = write_directory_aside("swapped", "2") && ok; }
        _exit(ok ? 0 : 1);
    }
    while (waitpid(-1, &status, WNOHANG) == 0) {
        absent += !path_exists(path);
        looks++;
    }
    printf("a directory was replaced 100 times: %d looks, at %d of them it was absent\n", looks, absent);
    CHECK(status == 0 && (absent == 0 || !able));
#endif
}

// A leftover that stays, as on NFS while somebody has a file of it open: the next name is taken.
static bool stuck(void) {
    CHECK(directory_create(in_dir("pub/.writing-x"), &err) &&
          directory_create(in_dir("pub/.deleting-x/in"), &err));
    write_text("pub/.writing-x/file", "stays");
    write_text("pub/.deleting-x/in/file", "stays");
    write_text("pub/.deleting-x/goes", "");
    CHECK(chmod(in_dir("pub/.writing-x"), 0555) == 0 && chmod(in_dir("pub/.deleting-x/in"), 0555) == 0);
    CHECK_ERROR(directory_remove(in_dir("pub/.writing-x"), &err), err,
                "cannot be removed: Directory not empty");
    CHECK(write_directory_aside("pub/x", "1") && file_holds("pub/x/file", "1"));
    CHECK(exists("pub/.writing-x/file") && !exists("pub/.writing-x.1"));
    CHECK(write_directory_aside("pub/x", "2") && file_holds("pub/x/file", "2"));
    CHECK(exists("pub/.deleting-x/in/file") && !exists("pub/.deleting-x/goes") &&
          !exists("pub/.deleting-x.1"));
    // the old directory itself stays: a warning
    CHECK(chmod(in_dir("pub/x"), 0555) == 0);
    CHECK(write_directory_aside("pub/x", "3") && file_holds("pub/x/file", "3"));
    CHECK(strstr(warning.text, "pub/.deleting-x.1: cannot be removed: Directory not empty") != NULL);
    // so that scratch_end can remove them
    chmod(in_dir("pub/.writing-x"), 0755);
    chmod(in_dir("pub/.deleting-x/in"), 0755);
    chmod(in_dir("pub/.deleting-x.1"), 0755);
    return true;
}

static void test_full_disk(void) {
    static char data[5000];
    struct rlimit before = {0, 0}, limit;
    Aside aside;
    CHECK(write_aside("full", "old"));
    CHECK(getrlimit(RLIMIT_FSIZE, &before) == 0);
    signal(SIGXFSZ, SIG_IGN);
    limit = before;
    limit.rlim_cur = 1000;
    CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
    memset(data, 'x', sizeof data - 1);
    CHECK_ERROR(write_aside("full", data), err, "full: cannot be written: File too large");
    CHECK_ERROR(write_directory_aside("full.d", data), err,
                ".writing-full.d/file: cannot be written: File too large");
    TokensWriter writer;
    static uint32_t ids[5000];
    CHECK(tokens_write_begin(&writer, in_dir("full"), &err));
    CHECK_ERROR(tokens_write_append(&writer, ids, 5000, &err), err,
                "full: cannot be written: File too large");
    CHECK(tokens_write_begin(&writer, in_dir("full"), &err) && tokens_write_append(&writer, ids, 300, &err));
    CHECK_ERROR(tokens_write_end(&writer, &err), err, "full: cannot be written: File too large");
    write_text("copied", "");
    CHECK(setrlimit(RLIMIT_FSIZE, &before) == 0);
    CHECK(write_aside("large", data) && setrlimit(RLIMIT_FSIZE, &limit) == 0);
    CHECK_ERROR(file_copy(in_dir("large"), in_dir("copy"), &err), err,
                "copy: cannot be written: File too large");
    CHECK(setrlimit(RLIMIT_FSIZE, &before) == 0);
    signal(SIGXFSZ, SIG_DFL);
    CHECK(file_holds("full", "old") && !exists(".writing-full") && !exists("full.d") &&
          !exists(".writing-full.d"));
    CHECK(!exists("copy"));
    memset(&aside, 0, sizeof aside);
    int device = open("/dev/full", O_WRONLY);
    if (device < 0) { return; }
    CHECK_ERROR(file_write(device, "x", 1, "/dev/full", &err), err,
                "cannot be written: No space left on device");
    close(device);
}

int main(void) {
    if (!scratch_begin()) { return check_report(); }
    test_paths();
    test_reading();
    test_directories();
    test_deep_directories();
    test_directory_race();
    test_permissions();
    test_locks();
    test_aside();
    test_live_aside();
    test_aside_race();
    test_exchange();
    public_directory("pub");
    CHECK(as_nobody(stuck));
    test_full_disk();
    scratch_end();
    return check_report();
}
