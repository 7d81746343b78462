// cuda_on_cpu.cpp: fibers, the scheduler, launches.
//
// Everything runs on one operating-system thread. A block's threads are fibers. A fiber runs until it waits
// for others, at a barrier or in a warp operation; then the scheduler picks the next. A thread that never
// waits needs no switch: the next thread starts on the same stack.
#include "emulator.h"

#include <algorithm>

#include <execinfo.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unwind.h>

extern "C" {
unsigned cuda_on_cpu_thread[3], cuda_on_cpu_block[3], cuda_on_cpu_block_dim[3], cuda_on_cpu_grid_dim[3];
}

Block block;
char *fiber_stacks, *host_stack;

extern "C" char __start_cuda_shared[], __stop_cuda_shared[];
__attribute__((section("cuda_shared"), used)) char cuda_on_cpu_first_shared[16] = {};  // the section exists
char *const static_shared = __start_cuda_shared;
const size_t static_shared_bytes = (size_t)(__stop_cuda_shared - __start_cuda_shared);

static int order = (int)environment("CUDA_ON_CPU_ORDER", CUDA_ON_CPU_FORWARD);
static unsigned random_state = (unsigned)environment("CUDA_ON_CPU_SEED", 1);

void cuda_on_cpu_set_order(int new_order, unsigned seed) {
    order = new_order;
    random_state = seed;
}

static unsigned random_number() {
    random_state = random_state * 1664525u + 1013904223u;
    return random_state >> 8;
}

// ---------------------------------------------------------------------------------------------
// Fibers. switch_fiber saves the registers that a call must preserve and returns in the other fiber. On
// x86-64 this takes a few instructions; elsewhere (or with CUDA_ON_CPU_UCONTEXT=1) swapcontext takes twenty
// times as long.

static void fiber_main();

struct Fiber {
    char *stack;          // preceded by an inaccessible page
    void *stack_pointer;  // if cuda_on_cpu_switch is used
    ucontext_t context;   // if swapcontext is used
};
static std::vector<Fiber *> fibers, idle_fibers;

#ifdef __x86_64__
extern "C" void cuda_on_cpu_switch(void **save, void *load);
asm(R"(
.text
.globl cuda_on_cpu_switch
.type cuda_on_cpu_switch, @function
cuda_on_cpu_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size cuda_on_cpu_switch, . - cuda_on_cpu_switch
)");
static const bool use_ucontext = environment("CUDA_ON_CPU_UCONTEXT", 0) != 0;
#else
static void cuda_on_cpu_switch(void **, void *) {}
static const bool use_ucontext = true;
#endif

static void prepare_fiber(Fiber *fiber, char *top) {
    if (use_ucontext) {
        getcontext(&fiber->context);
        fiber->context.uc_stack.ss_sp = fiber->stack;
        fiber->context.uc_stack.ss_size = (size_t)(top - fiber->stack);
        makecontext(&fiber->context, fiber_main, 0);
        return;
    }
    void **p = (void **)top;
    *--p = nullptr;  // the return address of fiber_main: a backtrace ends here
    *--p = (void *)fiber_main;
    for (int i = 0; i < 6; i++) { *--p = nullptr; }
    fiber->stack_pointer = p;
}

static void switch_fiber(Fiber *from, Fiber *to) {
    if (use_ucontext) {
        swapcontext(&from->context, &to->context);
    } else {
        cuda_on_cpu_switch(&from->stack_pointer, to->stack_pointer);
    }
}

static Fiber *take_fiber() {
    if (idle_fibers.empty()) {
        Fiber *fiber = new Fiber;
        if (!fiber_stacks) { fiber_stacks = (char *)reserve(STACKS_BYTES, PROT_NONE); }
        fiber->stack = fiber_stacks + fibers.size() * (STACK_BYTES + PAGE_BYTES) + PAGE_BYTES;
        mprotect(fiber->stack, STACK_BYTES, PROT_READ | PROT_WRITE);
        // Stack tops are at different offsets in a page, or all stacks would compete for the same cache sets.
        prepare_fiber(fiber, fiber->stack + STACK_BYTES - fibers.size() * 192 % PAGE_BYTES);
        fibers.push_back(fiber);
        return fiber;
    }
    Fiber *fiber = idle_fibers.back();
    idle_fibers.pop_back();
    return fiber;
}

// ---------------------------------------------------------------------------------------------
// The scheduler. A warp runs until none of its lanes can continue (so their stacks stay in the cache), then
// the next one.

enum ThreadState { NEW, READY, RUNNING, AT_BARRIER, AT_EXCHANGE, RETURNED };

struct Thread {
    ThreadState state;
    Fiber *fiber;
    unsigned index[3];
    // where it waits, and for which threads
    const char *name, *file;
    int line;
    CudaOnCpuExchange exchange;
    unsigned mask;
    void *operand;
};

struct Warp {
    unsigned ready, at_exchange, absent;  // bits of lanes; absent: returned, or past the block's end
};

static Thread threads[MAX_THREADS];
static Warp warps[MAX_WARPS];
static unsigned ready_warps;
static int live_threads, threads_at_barrier, current_warp;
static Fiber host_fiber;
static void (*thread_body)(void *);
static void *thread_context;

[[noreturn]] static void stuck(const std::string &what) {
    std::string message = what + " in " + block.kernel + ", block " + block_name() + ":";
    auto status = [](const Thread &t) {
        std::string at = text(" %s (%s:%d)", t.name, t.file ? t.file : "", t.line);
        switch (t.state) {
        case NEW: return std::string("not started");
        case READY: return std::string("could go on");
        case RUNNING: return std::string("running");
        case AT_BARRIER: return "at" + at;
        case AT_EXCHANGE: return "at" + at + text(", mask 0x%08x", t.mask);
        default: return t.name ? "returned, last at" + at : std::string("returned");
        }
    };
    for (int first = 0, last; first < block.threads; first = last + 1) {
        const std::string same = status(threads[first]);
        for (last = first; last + 1 < block.threads && status(threads[last + 1]) == same; last++) {}
        message +=
            first == last ? text("\n    thread %d: ", first) : text("\n    threads %d to %d: ", first, last);
        message += same;
    }
    die(CUDA_ON_CPU_EXIT_STUCK, message);
}

static void make_ready(int warp, unsigned lanes) {
    warps[warp].ready |= lanes;
    ready_warps |= 1u << warp;
}

static int random_bit(unsigned mask) {
    const unsigned by = random_number() % 32;
    const unsigned rotated = mask >> by | mask << (32 - by) % 32;
    return (int)(((unsigned)__builtin_ctz(rotated) + by) % 32);
}

static int first_bit(unsigned mask) {
    return order == CUDA_ON_CPU_REVERSE ? 31 - __builtin_clz(mask) : __builtin_ctz(mask);
}

static int choose_warp() {
    if (order == CUDA_ON_CPU_SHUFFLED) { return random_bit(ready_warps); }
    if (ready_warps >> current_warp & 1) { return current_warp; }
    const unsigned below = (1u << current_warp) - 1;
    const unsigned ahead = ready_warps & (order == CUDA_ON_CPU_REVERSE ? below : ~below);
    return first_bit(ahead ? ahead : ready_warps);
}

// Switches to the next thread.
static Thread *choose_thread() {
    if (ready_warps == 0) { stuck("DEADLOCK"); }
    current_warp = choose_warp();
    Warp &warp = warps[current_warp];
    const int lane = order == CUDA_ON_CPU_SHUFFLED ? random_bit(warp.ready) : first_bit(warp.ready);
    warp.ready &= ~(1u << lane);
    if (warp.ready == 0) { ready_warps &= ~(1u << current_warp); }
    block.thread = current_warp * 32 + lane;
    Thread *thread = &threads[block.thread];
    memcpy(cuda_on_cpu_thread, thread->index, sizeof thread->index);
    return thread;
}

// The calling thread waits; others run until it is chosen again.
static void wait_for_others(Thread *me) {
    Thread *next = choose_thread();
    if (next->state == NEW) { next->fiber = take_fiber(); }
    next->state = RUNNING;
    if (next != me) { switch_fiber(me->fiber, next->fiber); }
}

static void release_barrier() {
    threads_at_barrier = 0;
    for (int t = 0; t < block.threads; t++) {
        if (threads[t].state == AT_BARRIER) {
            threads[t].state = READY;
            make_ready(t / 32, 1u << t % 32);
        }
    }
    current_warp = order == CUDA_ON_CPU_REVERSE ? (block.threads - 1) / 32 : 0;
    if (checker) { checker->barrier(); }
    block.interval++;
}

int running_thread(const char *operation) {
    if (!block.kernel) { die(CUDA_ON_CPU_EXIT_STUCK, text("%s in host code", operation)); }
    return block.thread;
}

void cuda_on_cpu_sync_block(const char *file, int line) {
    static const char *first_file;
    static int first_line;
    Thread *me = &threads[running_thread("__syncthreads")];
    me->state = AT_BARRIER;
    me->name = "__syncthreads";
    me->file = file;
    me->line = line;
    if (threads_at_barrier == 0) {
        first_file = file;
        first_line = line;
    } else if (line != first_line || (file != first_file && strcmp(file, first_file) != 0)) {
        stuck("DIVERGENT BARRIER");
    }
    threads_at_barrier++;
    if (threads_at_barrier == live_threads) { release_barrier(); }
    wait_for_others(me);
}

void cuda_on_cpu_exchange(const char *name, CudaOnCpuExchange exchange, unsigned mask, void *operand,
                          const char *file, int line) {
    Thread *me = &threads[running_thread(name)], *lanes = &threads[block.thread / 32 * 32];
    Warp &warp = warps[block.thread / 32];
    const unsigned bit = 1u << block.thread % 32;
    me->state = AT_EXCHANGE;
    me->name = name;
    me->file = file;
    me->line = line;
    me->exchange = exchange;
    me->mask = mask;
    me->operand = operand;
    if (!(mask & bit)) { stuck("WARP OPERATION OUTSIDE ITS OWN MASK"); }
    if (mask & warp.absent) { stuck("WARP OPERATION THAT NAMES ABSENT LANES"); }
    warp.at_exchange |= bit;
    if ((warp.at_exchange & mask) != mask) {
        wait_for_others(me);
        return;
    }
    void *operands[32] = {};
    for (unsigned rest = mask; rest; rest &= rest - 1) {
        const int lane = __builtin_ctz(rest);
        const Thread &other = lanes[lane];
        if (other.mask != mask || other.exchange != exchange || other.line != line ||
            (other.file != file && strcmp(other.file, file) != 0)) {
            stuck("DIVERGENT WARP OPERATION");
        }
        operands[lane] = other.operand;
    }
    exchange(operands, mask);
    if (checker && (mask | warp.absent) == ~0u) { checker->warp_together(block.thread / 32); }
    for (unsigned rest = mask & ~bit; rest; rest &= rest - 1) { lanes[__builtin_ctz(rest)].state = READY; }
    me->state = RUNNING;
    warp.at_exchange &= ~mask;
    if (mask & ~bit) { make_ready(block.thread / 32, mask & ~bit); }
}

static void no_exchange(void *const[32], unsigned mask) {
    if (checker) { checker->warp_sync(block.thread / 32, mask); }
}

void cuda_on_cpu_sync_warp(const char *file, int line, unsigned mask) {
    cuda_on_cpu_exchange("__syncwarp", no_exchange, mask, nullptr, file, line);
}

void cuda_on_cpu_shuffle(void *const operands[32], unsigned mask) {
    for (unsigned rest = mask; rest; rest &= rest - 1) {
        const CudaOnCpuShuffle *to = (const CudaOnCpuShuffle *)operands[__builtin_ctz(rest)];
        const CudaOnCpuShuffle *from = (const CudaOnCpuShuffle *)operands[to->source];
        if (from && to->bytes == 4) {  // a size that the compiler knows
            memcpy(to->result, from->value, 4);
        } else if (from) {
            memcpy(to->result, from->value, (size_t)to->bytes);
        } else {
            memset(to->result, 0xff, (size_t)to->bytes);  // of a lane outside the mask: undefined, here NaN
        }
    }
}

void cuda_on_cpu_ballot(void *const operands[32], unsigned mask) {
    unsigned ballot = 0;
    for (unsigned rest = mask; rest; rest &= rest - 1) {
        ballot |= *(unsigned *)operands[__builtin_ctz(rest)] << __builtin_ctz(rest);
    }
    for (unsigned rest = mask; rest; rest &= rest - 1) {
        *(unsigned *)operands[__builtin_ctz(rest)] = ballot;
    }
}

static void end_thread() {
    Thread *me = &threads[block.thread];
    Warp &warp = warps[block.thread / 32];
    me->state = RETURNED;
    live_threads--;
    warp.absent |= 1u << block.thread % 32;
    for (unsigned rest = warp.at_exchange; rest; rest &= rest - 1) {
        if (threads[block.thread / 32 * 32 + __builtin_ctz(rest)].mask & warp.absent) {
            stuck("WARP OPERATION THAT NAMES ABSENT LANES");
        }
    }
    if (threads_at_barrier > 0 && threads_at_barrier == live_threads) { release_barrier(); }
}

static void fiber_main() {
    for (;;) {
        Fiber *fiber = threads[block.thread].fiber;
        thread_body(thread_context);
        end_thread();
        Fiber *to = &host_fiber;
        if (live_threads > 0) {
            Thread *next = choose_thread();
            const bool fresh = next->state == NEW;
            next->state = RUNNING;
            if (fresh) {
                next->fiber = fiber;
                continue;
            }
            to = next->fiber;
        }
        idle_fibers.push_back(fiber);
        switch_fiber(fiber, to);
    }
}

// ---------------------------------------------------------------------------------------------
// Launch

void cuda_on_cpu_check_argument(const CudaOnCpuLaunch &launch, int number, const void *p) {
    const Allocation *a = find_allocation(p);
    if (!a && p && (const char *)p > arena) {
        a = find_allocation((const char *)p - 1);
    }  // an allocation's end
    const char *q = (const char *)p;
    if (p && !(a && a->live && q >= a->begin && q <= a->begin + a->bytes)) {
        die(CUDA_ON_CPU_EXIT_ARGUMENT, text("launch of %s: argument %d is not a pointer to device memory: %s",
                                            launch.kernel, number, describe_address(p).c_str()));
    }
}

bool is_shared_memory(const void *p, size_t bytes) {
    const char *q = (const char *)p;
    return (q >= block.shared && q + bytes <= block.shared + block.shared_bytes) ||
           (q >= static_shared && q + bytes <= static_shared + static_shared_bytes);
}

enum : size_t { SHARED_ALIGNMENT = 128 };

// A launch does not know which instance of a kernel it starts. Whether that instance may have more than
// DEFAULT_SHARED bytes is therefore checked when the first thread reaches its `extern __shared__`, and the
// launch fails there.
static bool launch_allowed, launch_refused;

static void check_shared_limit() {
    void *frames[16];
    const int n = backtrace(frames, 16);
    for (int i = 0; i < n; i++) {
        if (shared_allowed(_Unwind_FindEnclosingFunction(frames[i]), block.shared_bytes)) {
            launch_allowed = true;
            return;
        }
    }
    fail(cudaErrorInvalidValue,
         text("launch of %s: %zu bytes of dynamic shared memory are more than 48 KiB and more "
              "than cudaFuncSetAttribute has allowed for this kernel",
              block.kernel, block.shared_bytes));
    launch_refused = true;
    switch_fiber(threads[block.thread].fiber, &host_fiber);  // never returns
}

void *cuda_on_cpu_dynamic_shared(size_t alignment) {
    if (!block.kernel) {
        die(CUDA_ON_CPU_EXIT_ARGUMENT,
            "extern __shared__ outside of a kernel: declare it in the kernel that uses it");
    }
    if (alignment > SHARED_ALIGNMENT) {
        die(CUDA_ON_CPU_EXIT_ARGUMENT, text("%s: shared memory is aligned to %zu bytes, not %zu",
                                            block.kernel, (size_t)SHARED_ALIGNMENT, alignment));
    }
    if (!launch_allowed) { check_shared_limit(); }
    return block.shared;
}

static cudaError_t check_launch(const CudaOnCpuLaunch &launch) {
    const dim3 &grid = launch.grid, &size = launch.block;
    const uint64_t count = (uint64_t)size.x * size.y * size.z;
    if (count == 0 || count > MAX_THREADS || size.x > MAX_THREADS || size.y > MAX_THREADS || size.z > 64) {
        return fail(cudaErrorInvalidConfiguration, text("launch of %s: a block of (%u,%u,%u) threads",
                                                        launch.kernel, size.x, size.y, size.z));
    }
    if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 2147483647u || grid.y > 65535 ||
        grid.z > 65535) {
        return fail(cudaErrorInvalidConfiguration,
                    text("launch of %s: a grid of (%u,%u,%u) blocks", launch.kernel, grid.x, grid.y, grid.z));
    }
    if (launch.shared_bytes > (size_t)shared_limit()) {
        return fail(cudaErrorInvalidValue,
                    text("launch of %s: %zu bytes of dynamic shared memory, a block of this "
                         "device can have %d",
                         launch.kernel, launch.shared_bytes, shared_limit()));
    }
    return cudaSuccess;
}

// Dynamic shared memory ends at an inaccessible page, except for a few bytes of alignment. After each block
// these are checked to be untouched.
static void run_block(uint64_t number, const dim3 &grid) {
    cuda_on_cpu_block[0] = (unsigned)(number % grid.x);
    cuda_on_cpu_block[1] = (unsigned)(number / grid.x % grid.y);
    cuda_on_cpu_block[2] = (unsigned)(number / ((uint64_t)grid.x * grid.y));
    char *const shared_end = arena + SHARED_AREA - PAGE_BYTES;
    memset(block.shared, 0xff, (size_t)(shared_end - block.shared));
    memset(static_shared, 0xff, static_shared_bytes);
    ready_warps = 0;
    for (int w = 0; w * 32 < block.threads; w++) {
        const int lanes = std::min(32, block.threads - w * 32);
        const unsigned present = lanes == 32 ? ~0u : (1u << lanes) - 1;
        warps[w] = {0, 0, ~present};
        make_ready(w, present);
    }
    for (int t = 0; t < block.threads; t++) {
        threads[t].state = NEW;
        threads[t].name = nullptr;
    }
    forget_copies();
    live_threads = block.threads;
    threads_at_barrier = 0;
    current_warp = order == CUDA_ON_CPU_REVERSE ? (block.threads - 1) / 32 : 0;
    block.block_first = ++block.interval;
    if (checker) { checker->block_begin(); }
    Thread *first = choose_thread();
    first->fiber = take_fiber();
    first->state = RUNNING;
    switch_fiber(&host_fiber, first->fiber);
    if (checker) { checker->block_end(); }
    if (launch_refused) { return; }
    for (const char *p = block.shared + block.shared_bytes; p < shared_end; p++) {
        if (*p != (char)0xff) {
            die(CUDA_ON_CPU_EXIT_BOUNDS,
                "OUT OF BOUNDS: " + where() + " or another thread of the block wrote " + describe_address(p));
        }
    }
    progress = progress + 1;
}

void cuda_on_cpu_launch(const CudaOnCpuLaunch &launch, void (*thread)(void *), void *context) {
    if (begin() != cudaSuccess || check_launch(launch) != cudaSuccess) { return; }
    if (block.kernel) { die(CUDA_ON_CPU_EXIT_ARGUMENT, text("%s launches a kernel", block.kernel)); }
    const double start = seconds_now();
    const dim3 &grid = launch.grid, &size = launch.block;
    host_stack = (char *)__builtin_frame_address(0);
    stats = stats_of(launch.kernel);
    launch_allowed = launch.shared_bytes <= DEFAULT_SHARED;
    launch_refused = false;
    thread_body = thread;
    thread_context = context;
    cuda_on_cpu_grid_dim[0] = grid.x;
    cuda_on_cpu_grid_dim[1] = grid.y;
    cuda_on_cpu_grid_dim[2] = grid.z;
    cuda_on_cpu_block_dim[0] = size.x;
    cuda_on_cpu_block_dim[1] = size.y;
    cuda_on_cpu_block_dim[2] = size.z;
    block.threads = (int)(size.x * size.y * size.z);
    block.shared_bytes = launch.shared_bytes;
    block.shared = arena + SHARED_AREA - PAGE_BYTES - round_up(launch.shared_bytes, SHARED_ALIGNMENT);
    for (int t = 0; t < block.threads; t++) {
        const unsigned i = (unsigned)t;
        threads[t].index[0] = i % size.x;
        threads[t].index[1] = i / size.x % size.y;
        threads[t].index[2] = i / (size.x * size.y);
    }
    const uint64_t blocks = (uint64_t)grid.x * grid.y * grid.z;
    std::vector<uint32_t> shuffled(order == CUDA_ON_CPU_SHUFFLED ? blocks : 0);
    for (size_t i = 0; i < shuffled.size(); i++) {
        const size_t j = ((size_t)random_number() << 24 | random_number()) % (i + 1);
        shuffled[i] = shuffled[j];
        shuffled[j] = (uint32_t)i;
    }
    device_memory_open();
    progress = progress + 1;
    block.launch_first = ++block.interval;
    block.kernel = stats->kernel;
    if (checker) { checker->launch_begin(); }
    for (uint64_t i = 0; i < blocks && !launch_refused; i++) {
        run_block(order == CUDA_ON_CPU_REVERSE    ? blocks - 1 - i
                  : order == CUDA_ON_CPU_SHUFFLED ? shuffled[i]
                                                  : i,
                  grid);
    }
    block.kernel = nullptr;
    device_memory_close();
    if (launch_refused) { return; }
    stats->launches++;
    stats->blocks += blocks;
    stats->threads += blocks * (uint64_t)block.threads;
    stats->seconds += seconds_now() - start;
    stats = nullptr;
}

// ---------------------------------------------------------------------------------------------
// Accesses that do not come from the compiler's instrumentation

static void tell_checker(const void *p, int bytes, AccessKind kind, const void *pc) {
    if (checker) { checker->access(p, bytes, kind, pc); }
}

void cuda_on_cpu_load(void *to, const void *from, int bytes) {
    tell_checker(from, bytes, ACCESS_READ, __builtin_return_address(0));
    memcpy(to, from, (size_t)bytes);
}

void cuda_on_cpu_store(void *to, const void *from, int bytes) {
    tell_checker(to, bytes, ACCESS_WRITE, __builtin_return_address(0));
    memcpy(to, from, (size_t)bytes);
}

void cuda_on_cpu_copy_16(void *to, const void *from) {
    tell_checker(from, 16, ACCESS_READ, __builtin_return_address(0));
    tell_checker(to, 16, ACCESS_WRITE, __builtin_return_address(0));
    memmove(to, from, 16);
}

void cuda_on_cpu_atomic(void *p, int bytes, bool is_float) {
    tell_checker(p, bytes, is_float ? ACCESS_FLOAT_ATOMIC : ACCESS_ATOMIC, __builtin_return_address(0));
}

void cuda_on_cpu_copy_hidden(void *to, const void *from, int bytes) { memcpy(to, from, (size_t)bytes); }
