// memory_limit.h: how much memory this process may use, checked before a model is allocated. With overcommit,
// an allocation that is too large succeeds, and the kernel kills the process later, when it uses the memory.
//
// Doors:
//   memory_suffices     whether that many bytes are allowed at all; the error names the limit
//   memory_limit        the smallest limit and what imposes it
//   memory_text         what a model needs, in words
#ifndef LLMC_MEMORY_LIMIT_H
#define LLMC_MEMORY_LIMIT_H

#include <sys/resource.h>

#include "olmo2.h"

typedef struct {
    size_t bytes;
    char source[PATH_MAX + 64];  // "this machine has", "... allows": what goes before the number
} MemoryLimit;

// The smallest of: physical memory; the limits of this process's control groups (containers, Slurm jobs,
// systemd units), version 1 and 2, parents included; RLIMIT_AS and RLIMIT_DATA (ulimit -v, -d). `root` comes
// before /proc and /sys in every path: "" is the machine itself.
static inline MemoryLimit memory_limit(const char *root);

// Whether `bytes` of memory are allowed at all.
static inline bool memory_suffices(size_t bytes, Error *err) {
    MemoryLimit limit = memory_limit("");
    if (bytes <= limit.bytes) { return true; }
    char needed[32], found[32];
    return fail(err,
                "out of memory: the model and its buffers need %s, %s %s\n"
                "A smaller --micro-batch-size, --seq-len or --config needs less.",
                format_bytes(needed, bytes), limit.source, format_bytes(found, limit.bytes));
}

// "1.20 GB: weights 300 MB, ...": the total, then every class that is not empty.
static inline const char *memory_text(char text[512], const OLMo2Memory *memory) {
    const char *names[] = {"weights", "gradients", "moments", "activations", "workspace", "cache"};
    const size_t sizes[] = {memory->weights,     memory->gradients, memory->moments,
                            memory->activations, memory->workspace, memory->cache};
    char bytes[32];
    int length = snprintf(text, 512, "%s", format_bytes(bytes, memory->total));
    for (int i = 0, listed = 0; i < 6; i++) {
        if (sizes[i] == 0) { continue; }
        length += snprintf(text + length, 512 - (size_t)length, "%s %s %s", listed++ > 0 ? "," : ":",
                           names[i], format_bytes(bytes, sizes[i]));
    }
    return text;
}

// ---------------------------------------------------------------------------------------------
// one limit after the other

// Keeps the smaller limit. `bytes` has 64 bits, which size_t need not have.
__attribute__((format(printf, 3, 4))) static inline void memory_limit_by(MemoryLimit *limit, uint64_t bytes,
                                                                         const char *format, ...) {
    if (bytes >= limit->bytes) { return; }
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(limit->source, sizeof limit->source, format, arguments);
    va_end(arguments);
    limit->bytes = (size_t)bytes;
}

// The limit in one file of a control group. "max", or no such file: none.
static inline void memory_limit_file(MemoryLimit *limit, const char *path) {
    FILE *file = fopen(path, "r");
    if (file == NULL) { return; }
    unsigned long long bytes;
    if (fscanf(file, "%llu", &bytes) == 1) { memory_limit_by(limit, bytes, "%s allows", path); }
    fclose(file);
}

// The limits of a control group and of every group that it is in, up to the one mounted at `mount`. In a
// container the path may be the one outside, which does not exist here; its parents then end at the
// container's own.
static inline void memory_limit_groups(MemoryLimit *limit, const char *mount, const char *group,
                                       const char *name) {
    char path[2 * PATH_MAX];
    int length = snprintf(path, PATH_MAX, "%s%s", mount, group);
    if (length < 0 || length >= PATH_MAX) { return; }
    for (size_t end = (size_t)length, first = strlen(mount);; end--) {
        const bool ends_name = (path[end] == '\0' || path[end] == '/') && path[end - 1] != '/';
        if (end > first && !ends_name) { continue; }
        snprintf(path + end, sizeof path - end, "/%s", name);
        memory_limit_file(limit, path);
        if (end <= first) { return; }
        path[end] = '\0';
    }
}

// Whether "memory" is among the controllers of a line of /proc/self/cgroup, which are separated by commas.
static inline bool controls_memory(const char *controllers, size_t length) {
    const char *end = controllers + length;
    for (const char *at = controllers; at < end;) {
        const char *comma = (const char *)memchr(at, ',', (size_t)(end - at));
        size_t size = (size_t)((comma != NULL ? comma : end) - at);
        if (size == 6 && memcmp(at, "memory", 6) == 0) { return true; }
        at += size + 1;
    }
    return false;
}

// Lines of /proc/self/cgroup: "0::/group" of version 2, "5:cpu,memory:/group" of version 1.
static inline void memory_limit_cgroups(MemoryLimit *limit, const char *root) {
    char path[PATH_MAX], line[PATH_MAX];
    snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
    FILE *file = fopen(path, "r");
    if (file == NULL) { return; }
    while (fgets(line, sizeof line, file) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        char *controllers = strchr(line, ':');
        char *group = controllers == NULL ? NULL : strchr(controllers + 1, ':');
        if (group == NULL) { continue; }
        controllers++;
        if (group == controllers) {
            snprintf(path, sizeof path, "%s/sys/fs/cgroup", root);
            memory_limit_groups(limit, path, group + 1, "memory.max");
        } else if (controls_memory(controllers, (size_t)(group - controllers))) {
            snprintf(path, sizeof path, "%s/sys/fs/cgroup/memory", root);
            memory_limit_groups(limit, path, group + 1, "memory.limit_in_bytes");
        }
    }
    fclose(file);
}

static inline void memory_limit_process(MemoryLimit *limit) {
    struct rlimit space, data;
    if (getrlimit(RLIMIT_AS, &space) == 0 && space.rlim_cur != RLIM_INFINITY) {
        memory_limit_by(limit, space.rlim_cur, "the limit of the address space (ulimit -v) allows");
    }
    if (getrlimit(RLIMIT_DATA, &data) == 0 && data.rlim_cur != RLIM_INFINITY) {
        memory_limit_by(limit, data.rlim_cur, "the limit of the data segment (ulimit -d) allows");
    }
}

static inline MemoryLimit memory_limit(const char *root) {
    MemoryLimit limit;
    long pages = sysconf(_SC_PHYS_PAGES), page_size = sysconf(_SC_PAGE_SIZE);
    limit.bytes = SIZE_MAX;
    limit.source[0] = '\0';
    if (pages > 0 && page_size > 0) {
        memory_limit_by(&limit, (uint64_t)pages * (uint64_t)page_size, "this machine has");
    }
    memory_limit_cgroups(&limit, root);
    memory_limit_process(&limit);
    return limit;
}

#endif
