// emulator.h: shared by the parts of the emulator, not for the programs that run on it.
#ifndef CUDA_ON_CPU_EMULATOR_H
#define CUDA_ON_CPU_EMULATOR_H

#define CUDA_ON_CPU_EMULATOR
#include "cuda_on_cpu.h"

#include <string>
#include <vector>

enum { MAX_THREADS = 1024, MAX_WARPS = MAX_THREADS / 32 };
enum : size_t {
    PAGE_BYTES = 4096,
    ARENA_BYTES = (size_t)128 << 30,  // of addresses; device memory never reuses an address
    SHARED_AREA = (size_t)1 << 20,    // the first bytes of the arena are for dynamic shared memory
    MAX_SHARED = 227 << 10
};

// ---------------------------------------------------------------------------------------------
// Device memory

struct Piece {
    char *begin, *end;
    bool table;
};

struct Allocation {
    char *begin;
    size_t bytes;
    char *pages;  // between the inaccessible pages on both sides; ends where the allocation ends
    size_t page_bytes;
    bool live, table;
    std::vector<Piece> pieces;
    void *shadow;  // the checker's
};

extern char *arena;
Allocation *find_allocation(const void *p);  // live or freed, with p anywhere in its pages; or null
bool is_device_memory(const void *p, size_t bytes);

// Why these bytes are not one array of device memory; empty if they are.
std::string bounds_error(const void *p, size_t bytes);

void *reserve(size_t bytes, int access);  // address space; memory is used only where touched
size_t round_up(size_t n, size_t unit);

// Host code may touch device memory only between the two.
void device_memory_open();
void device_memory_close();

// ---------------------------------------------------------------------------------------------
// The runtime API

enum { DEFAULT_SHARED = 48 << 10 };
cudaError_t begin();  // called by every function; an error without a device
cudaError_t fail(cudaError_t error, const std::string &message);  // sets the last error, prints the reason
int shared_limit();                                               // the most dynamic shared memory of a block
bool shared_allowed(const void *function, size_t bytes);          // by cudaFuncSetAttribute

// ---------------------------------------------------------------------------------------------
// The block that is running

struct Block {
    const char *kernel;  // or null: host code is running
    int thread, threads;
    char *shared;  // dynamic shared memory
    size_t shared_bytes;
    // Intervals between barriers are counted over the whole run; the first of this launch and of this block.
    uint32_t interval, launch_first, block_first;
};
extern Block block;
int running_thread(const char *operation);  // its number; an error in host code
void forget_copies();                       // cp.async of an earlier block

// Addresses that a running thread may use besides device memory: the stacks of the fibers, and the host's own
// stack (a launch leaves its arguments there).
extern char *fiber_stacks, *host_stack;
enum : size_t { STACK_BYTES = (size_t)256 << 10, STACKS_BYTES = MAX_THREADS * (STACK_BYTES + PAGE_BYTES) };

extern char *const static_shared;
extern const size_t static_shared_bytes;
bool is_shared_memory(const void *p, size_t bytes);

// ---------------------------------------------------------------------------------------------
// The checker, if it is linked in

enum AccessKind { ACCESS_READ, ACCESS_WRITE, ACCESS_ATOMIC, ACCESS_FLOAT_ATOMIC };

struct Checker {
    void (*launch_begin)();
    void (*block_begin)();
    void (*block_end)();
    void (*barrier)();                           // all threads of the block are at one barrier
    void (*warp_sync)(int warp, unsigned mask);  // orders the memory accesses of these lanes
    void (*warp_together)(int warp);             // all lanes of this warp are at one place of the program
    void (*access)(const void *p, int bytes, AccessKind kind, const void *pc);
    void (*copy_issued)(const void *to, const void *from, int source_bytes, const void *pc);
    void (*copy_done)(const void *to, const void *from, int source_bytes, const void *pc);
    void (*memory_changed)();  // pieces, tables
    void (*memory_freed)(Allocation *a);
    uint64_t (*violations)();
    void (*print_violations)();
};
extern const Checker *checker;
extern CudaOnCpuStats *stats;  // of the kernel that is running

// ---------------------------------------------------------------------------------------------
// Reports

std::string where();                          // "kernel, block (x,y,z), thread (x,y,z)"
std::string thread_name(int thread);          // "(x,y,z)"
std::string block_name();                     // of the running block
std::string source_line(const void *pc);      // "file:line", with the lines it was inlined from
std::string describe_address(const void *p);  // "12 bytes past the end of an allocation of 40 bytes"
std::string text(const char *format, ...) __attribute__((format(printf, 1, 2)));
void complain(const std::string &message);  // on stderr
[[noreturn]] void die(int code, const std::string &message);

void catch_faults();                                  // and start the watchdog
extern volatile uint64_t progress;                    // changes whenever a launch begins or a block ends
CudaOnCpuStats *stats_of(const std::string &kernel);  // its row in the statistics
double seconds_now();
long environment(const char *name, long otherwise);

#endif
