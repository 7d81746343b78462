// report.cpp: the emulator's output: violations with their line in the program, faults, the watchdog,
// statistics.
#include "emulator.h"

#include <algorithm>
#include <map>

#include <dlfcn.h>
#include <elf.h>
#include <execinfo.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

const Checker *checker;
CudaOnCpuStats *stats;

double seconds_now() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

long environment(const char *name, long otherwise) {
    const char *value = getenv(name);
    return value && *value ? atol(value) : otherwise;
}

// ---------------------------------------------------------------------------------------------
// Reports

std::string text(const char *format, ...) {
    char buffer[2048];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(buffer, sizeof buffer, format, arguments);
    va_end(arguments);
    return buffer;
}

void complain(const std::string &message) {
    fflush(stdout);
    fprintf(stderr, "cuda_on_cpu: %s\n", message.c_str());
}

void die(int code, const std::string &message) {
    complain(message);
    if (checker) { checker->print_violations(); }
    fflush(nullptr);
    _exit(code);
}

static std::string coordinates(const unsigned p[3]) { return text("(%u,%u,%u)", p[0], p[1], p[2]); }

std::string thread_name(int thread) {
    const unsigned *size = cuda_on_cpu_block_dim, t = (unsigned)thread;
    const unsigned index[3] = {t % size[0], t / size[0] % size[1], t / (size[0] * size[1])};
    return coordinates(index);
}

std::string block_name() { return coordinates(cuda_on_cpu_block); }

std::string where() {
    if (!block.kernel) { return "host code"; }
    return text("%s, block %s, thread %s", block.kernel, block_name().c_str(),
                coordinates(cuda_on_cpu_thread).c_str());
}

// addr2line reads the line tables; without it only the function's name is known.
std::string source_line(const void *pc) {
    Dl_info info;
    if (!pc || !dladdr(pc, &info)) { return "an unknown place"; }
    const Elf64_Ehdr *header = (const Elf64_Ehdr *)info.dli_fbase;
    const size_t base = header->e_type == ET_DYN ? (size_t)info.dli_fbase : 0;
    // pc is a return address, so pc - 1 is inside the call.
    std::string command =
        text("addr2line -Cip -e '%s' %#zx 2>/dev/null", info.dli_fname, (size_t)pc - 1 - base);
    char line[1024], folder[1024] = "";
    if (!getcwd(folder, sizeof folder - 1)) { folder[0] = 0; }
    strcat(folder, "/");
    std::string result;
    FILE *pipe = popen(command.c_str(), "r");
    while (pipe && fgets(line, sizeof line, pipe)) {
        std::string place = line;
        if (size_t inlined = place.find("(inlined by) "); inlined != std::string::npos) {
            place = place.substr(inlined + strlen("(inlined by) "));
        }
        place = place.substr(0, place.find_first_of(" \n"));
        if (place.compare(0, strlen(folder), folder) == 0) { place = place.substr(strlen(folder)); }
        if (place[0] == '?' || place.find("cuda_on_cpu.h:") != std::string::npos) { continue; }
        result += result.empty() ? place : ", from " + place;
    }
    if (pipe) { pclose(pipe); }
    if (result.empty()) { result = info.dli_sname ? info.dli_sname : text("%p", pc); }
    return result;
}

// ---------------------------------------------------------------------------------------------
// Faults and the watchdog

static const void *program_counter(void *context) {
    const mcontext_t &machine = ((ucontext_t *)context)->uc_mcontext;
#if defined(__x86_64__)
    return (const char *)machine.gregs[REG_RIP] + 1;
#elif defined(__aarch64__)
    return (const char *)machine.pc + 1;
#else
    (void)machine;
    return nullptr;
#endif
}

static void on_fault(int signal_number, siginfo_t *info, void *context) {
    const char *p = (const char *)info->si_addr;
    std::string what;
    if (signal_number == SIGABRT && !block.kernel) {
        signal(SIGABRT, SIG_DFL);  // not in a kernel: let abort() continue
        return;
    }
    if (signal_number == SIGABRT) {
        what = "abort, or an assertion";
    } else if (signal_number == SIGFPE) {
        what = "division of an integer by zero";
    } else if (p >= fiber_stacks && p < fiber_stacks + STACKS_BYTES) {
        what = text("the thread's local variables need more than %zu bytes of stack", (size_t)STACK_BYTES);
    } else if (info->si_code == SI_KERNEL) {
        what = "misaligned access of 16 bytes, or a wild pointer";
    } else if (p >= arena && p < arena + ARENA_BYTES && !block.kernel) {
        what = "host code touches device memory, " + describe_address(p);
    } else {
        what = text("address %p is ", (const void *)p) + describe_address(p);
    }
    die(CUDA_ON_CPU_EXIT_FAULT,
        "FAULT in " + where() + ", at " + source_line(program_counter(context)) + ": " + what);
}

volatile uint64_t progress;  // blocks finished and launches begun

// Counts the processor's seconds, so a kernel is not taken for endless because the machine is busy.
static long watchdog_seconds;

static void on_watchdog(int, siginfo_t *, void *) {
    static uint64_t last = ~(uint64_t)0;
    if (!block.kernel || progress != last) {
        last = progress;
        return;
    }
    const int saved = dup(STDERR_FILENO);
    fflush(stdout);
    fprintf(stderr,
            "cuda_on_cpu: WATCHDOG: no block has ended in %ld seconds of CPU (CUDA_ON_CPU_SECONDS) in %s\n",
            watchdog_seconds, where().c_str());
    void *frames[32];
    int n = backtrace(frames, 32);
    for (int i = 2; i < n && i < 8; i++) { fprintf(stderr, "    at %s\n", source_line(frames[i]).c_str()); }
    backtrace_symbols_fd(frames, n, saved);
    _exit(CUDA_ON_CPU_EXIT_WATCHDOG);
}

static void handle(int signal, void (*handler)(int, siginfo_t *, void *)) {
    struct sigaction action = {};
    action.sa_sigaction = handler;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
    sigaction(signal, &action, nullptr);
}

void catch_faults() {
    watchdog_seconds = environment("CUDA_ON_CPU_SECONDS", 120);
    const size_t bytes = (size_t)1 << 20;
    stack_t stack = {};
    stack.ss_sp = reserve(bytes, PROT_READ | PROT_WRITE);
    stack.ss_size = bytes;
    sigaltstack(&stack, nullptr);
    handle(SIGSEGV, on_fault);
    handle(SIGBUS, on_fault);
    handle(SIGFPE, on_fault);
    handle(SIGABRT, on_fault);
    handle(SIGPROF, on_watchdog);
    itimerval timer = {};
    timer.it_value.tv_sec = timer.it_interval.tv_sec = watchdog_seconds;
    setitimer(ITIMER_PROF, &timer, nullptr);
    void *frames[4];
    backtrace(frames, 4);  // loads its libraries now, not in a signal handler
}

// ---------------------------------------------------------------------------------------------
// Statistics

// Never destroyed: the report at exit reads it.
static std::map<std::string, CudaOnCpuStats> &all_stats = *new std::map<std::string, CudaOnCpuStats>;

CudaOnCpuStats *stats_of(const std::string &kernel) {
    auto row = all_stats.emplace(kernel, CudaOnCpuStats()).first;
    row->second.kernel = row->first.c_str();
    return &row->second;
}

void cuda_on_cpu_reset() {
    for (auto &row : all_stats) {
        const char *kernel = row.second.kernel;
        row.second = CudaOnCpuStats();
        row.second.kernel = kernel;
    }
}

CudaOnCpuStats cuda_on_cpu_stats(const char *kernel_substring) {
    CudaOnCpuStats sum = {};
    sum.kernel = kernel_substring;
    for (const auto &row : all_stats) {
        if (!strstr(row.first.c_str(), kernel_substring)) { continue; }
        const CudaOnCpuStats &s = row.second;
        sum.launches += s.launches, sum.blocks += s.blocks, sum.threads += s.threads;
        sum.bytes_read += s.bytes_read, sum.bytes_written += s.bytes_written;
        sum.unique_read += s.unique_read, sum.unique_written += s.unique_written;
        sum.traffic_read += s.traffic_read, sum.traffic_written += s.traffic_written;
        sum.sectors += s.sectors, sum.ideal_sectors += s.ideal_sectors;
        sum.wide_accesses += s.wide_accesses, sum.narrow_accesses += s.narrow_accesses;
        sum.shared_accesses += s.shared_accesses, sum.bank_conflicts += s.bank_conflicts;
        sum.float_atomics += s.float_atomics, sum.races += s.races;
        sum.seconds += s.seconds;
    }
    return sum;
}

void cuda_on_cpu_print_report() {
    std::vector<const CudaOnCpuStats *> rows;
    for (const auto &row : all_stats) {
        if (row.second.launches > 0) { rows.push_back(&row.second); }
    }
    std::sort(rows.begin(), rows.end(), [](auto a, auto b) { return a->seconds > b->seconds; });
    printf("%-44s %8s %9s %11s %9s", "kernel", "launches", "blocks", "threads", "ms");
    if (checker) {
        printf(" %12s %12s %12s %12s %8s %6s %9s %9s %6s %6s", "read B", "written B", "least read",
               "least wr.", "sectors", "wide", "shared", "conflicts", "float@", "races");
    }
    printf("\n");
    for (const CudaOnCpuStats *s : rows) {
        printf("%-44.44s %8llu %9llu %11llu %9.1f", s->kernel, (unsigned long long)s->launches,
               (unsigned long long)s->blocks, (unsigned long long)s->threads, 1e3 * s->seconds);
        if (checker) {
            const uint64_t accesses = s->wide_accesses + s->narrow_accesses;
            printf(" %12llu %12llu %12llu %12llu %7.2fx %5.0f%% %9llu %9llu %6llu %6llu",
                   (unsigned long long)s->traffic_read, (unsigned long long)s->traffic_written,
                   (unsigned long long)s->unique_read, (unsigned long long)s->unique_written,
                   s->ideal_sectors ? (double)s->sectors / (double)s->ideal_sectors : 1.0,
                   accesses ? 100.0 * (double)s->wide_accesses / (double)accesses : 100.0,
                   (unsigned long long)s->shared_accesses, (unsigned long long)s->bank_conflicts,
                   (unsigned long long)s->float_atomics, (unsigned long long)s->races);
        }
        printf("\n");
    }
    fflush(stdout);
}

__attribute__((destructor)) static void at_exit() {
    if (environment("CUDA_ON_CPU_REPORT", 0)) { cuda_on_cpu_print_report(); }
    if (checker && checker->violations() > 0) {
        checker->print_violations();
        fflush(nullptr);
        _exit(CUDA_ON_CPU_EXIT_VIOLATIONS);
    }
}
