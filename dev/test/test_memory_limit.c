// test_memory_limit.c: the limits that control groups and ulimit put on this process's memory, from files
// like those of a machine.
#include "llmc/memory_limit.h"

#include <sys/wait.h>

#include "scratch.h"

enum { GB = 1000000000 };

// A file of the pretended machine, with the directories that it is in.
static void machine_file(const char *name, const char *text) {
    char parent[PATH_MAX], last[PATH_MAX];
    CHECK(path_split(parent, last, in_dir(name), &err) && directory_create(parent, &err));
    write_text(name, text);
}

// The limit of the machine under `name` is so many bytes of this source.
static void check_limit(const char *name, size_t bytes, const char *source) {
    MemoryLimit limit = memory_limit(in_dir(name));
    if (!CHECK(limit.bytes == bytes && strstr(limit.source, source) != NULL)) {
        printf("       %s: %s %zu, expected %s %zu\n", name, limit.source, limit.bytes, source, bytes);
    }
}

#ifndef __SANITIZE_ADDRESS__
static bool limited_process(int resource, const char *words) {
    int status;
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        struct rlimit limit = {3u * GB, RLIM_INFINITY};
        Error message = {""};
        bool refused = setrlimit(resource, &limit) == 0 && !memory_suffices((size_t)4 * GB, &message) &&
                       memory_suffices(GB, &message);
        if (!refused || strstr(message.text, words) == NULL) { printf("       %s\n", message.text); }
        _exit(refused && strstr(message.text, words) != NULL ? 0 : 1);
    }
    return waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}
#endif

int main(void) {
    if (!scratch_begin()) { return check_report(); }
    const size_t machine = (size_t)sysconf(_SC_PHYS_PAGES) * (size_t)sysconf(_SC_PAGE_SIZE);
    check_limit("none", machine, "this machine has");

    // version 2: the group's own limit, that of a parent, none
    machine_file("v2/proc/self/cgroup", "0::/user.slice/job.scope\n");
    machine_file("v2/sys/fs/cgroup/user.slice/job.scope/memory.max", "max\n");
    check_limit("v2", machine, "this machine has");
    machine_file("v2/sys/fs/cgroup/user.slice/memory.max", "5000000\n");
    check_limit("v2", 5000000, "/sys/fs/cgroup/user.slice/memory.max allows");
    machine_file("v2/sys/fs/cgroup/user.slice/job.scope/memory.max", "4000000\n");
    check_limit("v2", 4000000, "/sys/fs/cgroup/user.slice/job.scope/memory.max allows");
    machine_file("v2/sys/fs/cgroup/user.slice/memory.max", "3000000\n");
    check_limit("v2", 3000000, "user.slice/memory.max allows");
    machine_file("v2/sys/fs/cgroup/user.slice/memory.max", "no number\n");
    check_limit("v2", 4000000, "job.scope/memory.max allows");
    machine_file("v2/sys/fs/cgroup/user.slice/other/memory.max", "1\n");  // not this process's
    check_limit("v2", 4000000, "job.scope/memory.max allows");

    // a container: its own group is mounted as the root, under either name
    machine_file("container/proc/self/cgroup", "0::/\n");
    machine_file("container/sys/fs/cgroup/memory.max", "7000000\n");
    check_limit("container", 7000000, "/sys/fs/cgroup/memory.max allows");
    machine_file("container/proc/self/cgroup", "0::/docker/0123456789ab\n");
    check_limit("container", 7000000, "/sys/fs/cgroup/memory.max allows");

    // version 1, where the controller may be one of several and other lines say nothing about memory
    machine_file("v1/proc/self/cgroup",
                 "12:cpuset:/\n5:cpu,memory:/slurm/job_1\n1:name=systemd:/x\n0::/x\nbroken\n");
    machine_file("v1/sys/fs/cgroup/memory/slurm/job_1/memory.limit_in_bytes", "9223372036854771712\n");
    check_limit("v1", machine, "this machine has");
    machine_file("v1/sys/fs/cgroup/memory/slurm/memory.limit_in_bytes", "6000000\n");
    check_limit("v1", 6000000, "/sys/fs/cgroup/memory/slurm/memory.limit_in_bytes allows");
    machine_file("v1/proc/self/cgroup", "5:cpu,memory_other:/slurm\n");
    check_limit("v1", machine, "this machine has");

#ifndef __SANITIZE_ADDRESS__  // which maps more than any limit allows
    CHECK(limited_process(RLIMIT_AS,
                          "the model and its buffers need 4.00 GB, the limit of the address space (ulimit "
                          "-v) allows 3.00 GB\n"));
    CHECK(limited_process(RLIMIT_DATA, "the limit of the data segment (ulimit -d) allows 3.00 GB\n"));
#endif
    CHECK_ERROR(memory_suffices(SIZE_MAX, &err), err, "out of memory: the model and its buffers need ");
    scratch_end();
    return check_report();
}
