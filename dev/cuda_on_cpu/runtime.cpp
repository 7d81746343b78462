// runtime.cpp: device memory and the runtime API.
#include "emulator.h"

#include <algorithm>
#include <unordered_map>

#include <sys/mman.h>

char *arena;

// ---------------------------------------------------------------------------------------------
// Device memory. The arena is a range of addresses in which no page is accessible until it is allocated. An
// allocation ends where its last page ends, so the first byte past it faults. It is filled with 0xFF, which
// is NaN as a float and as a bf16. Freed memory is never reused.

// Every access may look up its allocation. With many small ones, a table by page is faster than a search.
static std::vector<Allocation *> allocations;
static uint32_t *page_owner;  // of a page in the arena: index into allocations + 1, or 0
static char *arena_top;
static size_t memory_size, memory_used;
static bool memory_open, protect;

size_t round_up(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }

void *reserve(size_t bytes, int access) {
    void *p = mmap(nullptr, bytes, access, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        die(CUDA_ON_CPU_EXIT_FAULT, text("cannot reserve %zu bytes of addresses", bytes));
    }
    return p;
}

Allocation *find_allocation(const void *p) {
    size_t offset = (size_t)((const char *)p - arena);
    if (!arena || offset >= ARENA_BYTES) { return nullptr; }
    uint32_t owner = page_owner[offset / PAGE_BYTES];
    return owner ? allocations[owner - 1] : nullptr;
}

bool is_device_memory(const void *p, size_t bytes) {
    Allocation *a = find_allocation(p);
    return a && a->live && (const char *)p >= a->begin && (const char *)p + bytes <= a->begin + a->bytes;
}

void cuda_on_cpu_require_global(const void *p) {
    if (find_allocation(p)) { return; }
    die(CUDA_ON_CPU_EXIT_ARGUMENT,
        "a load or store only for global memory, at " + describe_address(p));
}

std::string describe_address(const void *p) {
    const char *q = (const char *)p;
    if (q >= arena && q < arena + SHARED_AREA) {
        return text("byte %ld of the block's %zu bytes of dynamic shared memory", (long)(q - block.shared),
                    block.shared_bytes);
    }
    Allocation *a = find_allocation(p);
    for (size_t back = 1; !a && back <= 64; back++) { a = find_allocation(q - back * PAGE_BYTES); }
    if (a) {
        return text("byte %ld of an allocation of %zu bytes%s", (long)(q - a->begin), a->bytes,
                    a->live ? "" : ", which was freed");
    }
    if (q >= arena && q < arena + ARENA_BYTES) { return "device memory that was not allocated"; }
    if (is_shared_memory(p, 1)) { return "static shared memory"; }
    return "not device memory";
}

std::string bounds_error(const void *p, size_t bytes) {
    const char *begin = (const char *)p, *end = begin + bytes;
    if (!is_device_memory(p, bytes)) { return text("%zu bytes at %s", bytes, describe_address(p).c_str()); }
    const Allocation *a = find_allocation(p);
    const Piece *around = nullptr;
    for (const Piece &piece : a->pieces) {
        if (begin >= piece.begin && end <= piece.end) { return ""; }
        if (begin >= piece.begin && begin < piece.end) { around = &piece; }
    }
    if (a->pieces.empty()) { return ""; }
    std::string place = around ? text("byte %ld of a piece of %ld bytes", (long)(begin - around->begin),
                                      (long)(around->end - around->begin))
                               : "none of its pieces";
    return text("%zu bytes at %s, %s", bytes, describe_address(p).c_str(), place.c_str());
}

static void set_memory_access(bool open) {
    if (!protect || open == memory_open) { return; }
    memory_open = open;
    for (const Allocation *a : allocations) {
        if (a->live) { mprotect(a->pages, a->page_bytes, open ? PROT_READ | PROT_WRITE : PROT_NONE); }
    }
}

void device_memory_open() { set_memory_access(true); }
void device_memory_close() { set_memory_access(false); }

static void memory_changed() {
    if (checker) { checker->memory_changed(); }
}

static Allocation *allocate(size_t bytes) {
    const size_t huge = (size_t)2 << 20;
    // cudaMalloc aligns to 256 bytes. With less, the last page ends closer to the allocation's end. The
    // checker sees every access anyway and needs the true alignment, since the number of sectors depends on
    // it.
    const size_t rounded = round_up(bytes, checker ? 256 : 16), page_bytes = round_up(rounded, PAGE_BYTES);
    char *pages = arena_top + PAGE_BYTES;  // the page in between stays inaccessible
    if (page_bytes >= huge) { pages = arena + round_up((size_t)(pages - arena), huge); }
    if ((size_t)(pages - arena) + page_bytes + PAGE_BYTES > ARENA_BYTES) { return nullptr; }
    arena_top = pages + page_bytes;
    // Opening and closing memory takes time per page.
    if (page_bytes >= huge) { madvise(pages, page_bytes, MADV_HUGEPAGE); }
    mprotect(pages, page_bytes, PROT_READ | PROT_WRITE);
    memset(pages, 0xff, page_bytes);
    if (protect && !memory_open) { mprotect(pages, page_bytes, PROT_NONE); }
    allocations.push_back(
        new Allocation{pages + page_bytes - rounded, bytes, pages, page_bytes, true, false, {}, nullptr});
    const uint32_t owner = (uint32_t)allocations.size();
    const size_t first = (size_t)(pages - arena) / PAGE_BYTES;
    for (size_t i = 0; i < page_bytes / PAGE_BYTES; i++) { page_owner[first + i] = owner; }
    memory_used += bytes;
    return allocations.back();
}

static void release(Allocation *a) {
    a->live = false;
    memory_used -= a->bytes;
    madvise(a->pages, a->page_bytes, MADV_DONTNEED);
    mprotect(a->pages, a->page_bytes, PROT_NONE);
    if (checker) { checker->memory_freed(a); }
}

void cuda_on_cpu_piece(const void *p, size_t bytes) {
    if (bytes == 0) { return; }
    if (!is_device_memory(p, bytes)) {
        die(CUDA_ON_CPU_EXIT_ARGUMENT,
            text("cuda_on_cpu_piece: %zu bytes at %s", bytes, describe_address(p).c_str()));
    }
    find_allocation(p)->pieces.push_back({(char *)p, (char *)p + bytes, false});
    memory_changed();
}

void cuda_on_cpu_mark_table(const void *p) {
    Allocation *a = find_allocation(p);
    if (!a || !a->live) { die(CUDA_ON_CPU_EXIT_ARGUMENT, "cuda_on_cpu_mark_table: not device memory"); }
    a->table = a->pieces.empty();
    for (Piece &piece : a->pieces) {
        if (p >= piece.begin && p < piece.end) { piece.table = true; }
    }
    memory_changed();
}

// ---------------------------------------------------------------------------------------------
// The runtime API

static void set_up() {
    if (arena) { return; }
    protect = environment("CUDA_ON_CPU_PROTECT", 1) != 0;
    memory_size = (size_t)environment("CUDA_ON_CPU_MEMORY", (long)80 << 30);
    page_owner = (uint32_t *)reserve(ARENA_BYTES / PAGE_BYTES * sizeof(uint32_t), PROT_READ | PROT_WRITE);
    arena = (char *)reserve(ARENA_BYTES, PROT_NONE);
    arena = (char *)round_up((size_t)arena, (size_t)2 << 20);  // the end of the range is never reached
    mprotect(arena, SHARED_AREA - PAGE_BYTES, PROT_READ | PROT_WRITE);
    arena_top = arena + SHARED_AREA;

    catch_faults();
}

static cudaError_t last_error = cudaSuccess;

cudaError_t fail(cudaError_t error, const std::string &message) {
    complain(text("%s: ", cudaGetErrorName(error)) + message);
    return last_error = error;
}

// Every call to the API begins with this.
cudaError_t begin() {
    set_up();
    return environment("CUDA_ON_CPU_DEVICES", 1) > 0 ? cudaSuccess : last_error = cudaErrorNoDevice;
}

static int capability() { return (int)environment("CUDA_ON_CPU_CAPABILITY", 90); }

// The most dynamic shared memory that a block may request, from the table of devices in the CUDA C++
// Programming Guide.
int shared_limit() {
    switch (capability()) {
    case 70: return 96 << 10;
    case 75: return 64 << 10;
    case 80:
    case 87: return 163 << 10;
    case 86:
    case 89:
    case 120: return 99 << 10;
    default: return MAX_SHARED;
    }
}

enum { PROCESSORS = 132, THREADS_PER_PROCESSOR = 2048, BLOCKS_PER_PROCESSOR = 32 };
static std::unordered_map<const void *, int> dynamic_shared_limit;  // as set by cudaFuncSetAttribute

bool shared_allowed(const void *function, size_t bytes) {
    auto set = dynamic_shared_limit.find(function);
    return set != dynamic_shared_limit.end() && (size_t)set->second >= bytes;
}

static const struct {
    cudaError_t error;
    const char *name, *description;
} errors[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration", "invalid configuration argument"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
};

// cudaMemcpy and cudaMemset do their work at once: all streams are one.
static cudaError_t copy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind) {
    if (cudaError_t error = begin()) { return error; }
    if (bytes == 0) { return cudaSuccess; }
    const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    const struct {
        const char *name;
        const void *p;
        bool device;
    } sides[] = {{"destination", to, to_device}, {"source", from, from_device}};
    for (const auto &side : sides) {
        const bool in_arena = (const char *)side.p >= arena && (const char *)side.p < arena + ARENA_BYTES;
        if (kind != cudaMemcpyDefault && in_arena != side.device) {
            return fail(cudaErrorInvalidValue,
                        text("cudaMemcpy: the %s is %s, its kind says %s", side.name,
                             in_arena ? "device memory" : "host memory", side.device ? "device" : "host"));
        }
        if (in_arena && !is_device_memory(side.p, bytes)) {
            return fail(cudaErrorInvalidValue, text("cudaMemcpy: the %s is %zu bytes at %s", side.name, bytes,
                                                    describe_address(side.p).c_str()));
        }
    }
    device_memory_open();
    memmove(to, from, bytes);
    device_memory_close();
    return cudaSuccess;
}

extern "C" {

cudaError_t cudaMalloc(void **pointer, size_t bytes) {
    if (cudaError_t error = begin()) { return error; }
    *pointer = nullptr;
    if (bytes == 0) { return cudaSuccess; }
    Allocation *a = bytes <= memory_size - memory_used ? allocate(bytes) : nullptr;
    if (!a) { return last_error = cudaErrorMemoryAllocation; }
    *pointer = a->begin;
    return cudaSuccess;
}

cudaError_t cudaFree(void *p) {
    if (cudaError_t error = begin()) { return error; }
    if (!p) { return cudaSuccess; }
    Allocation *a = find_allocation(p);
    if (!a || !a->live || a->begin != p) {
        return fail(cudaErrorInvalidValue, "cudaFree of " + describe_address(p));
    }
    release(a);
    return cudaSuccess;
}

cudaError_t cudaMallocAsync(void **pointer, size_t bytes, cudaStream_t) { return cudaMalloc(pointer, bytes); }
cudaError_t cudaFreeAsync(void *p, cudaStream_t) { return cudaFree(p); }

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind) {
    return copy(to, from, bytes, kind);
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t) {
    return copy(to, from, bytes, kind);
}

cudaError_t cudaMemcpy2D(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width,
                         size_t height, cudaMemcpyKind kind) {
    if (width > to_pitch || width > from_pitch) {
        return fail(cudaErrorInvalidValue, text("cudaMemcpy2D: rows of %zu bytes, pitches %zu and %zu", width,
                                                to_pitch, from_pitch));
    }
    cudaError_t error = begin();
    for (size_t i = 0; i < height && error == cudaSuccess; i++) {
        error = copy((char *)to + i * to_pitch, (const char *)from + i * from_pitch, width, kind);
    }
    return error;
}

cudaError_t cudaMemset(void *p, int value, size_t bytes) {
    if (cudaError_t error = begin()) { return error; }
    if (bytes == 0) { return cudaSuccess; }
    if (!is_device_memory(p, bytes)) {
        return fail(cudaErrorInvalidValue,
                    text("cudaMemset: %zu bytes at %s", bytes, describe_address(p).c_str()));
    }
    device_memory_open();
    memset(p, value, bytes);
    device_memory_close();
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t) {
    return cudaMemset(p, value, bytes);
}

cudaError_t cudaHostAlloc(void **pointer, size_t bytes, unsigned) {
    if (cudaError_t error = begin()) { return error; }
    *pointer = malloc(bytes);
    return *pointer || bytes == 0 ? cudaSuccess : last_error = cudaErrorMemoryAllocation;
}

cudaError_t cudaMallocHost(void **pointer, size_t bytes) { return cudaHostAlloc(pointer, bytes, 0); }

cudaError_t cudaFreeHost(void *p) {
    free(p);
    return cudaSuccess;
}

cudaError_t cudaGetLastError() {
    cudaError_t error = last_error;
    last_error = cudaSuccess;
    return error;
}

cudaError_t cudaPeekAtLastError() { return last_error; }

const char *cudaGetErrorName(cudaError_t error) {
    for (const auto &known : errors) {
        if (known.error == error) { return known.name; }
    }
    return "unrecognized error code";
}

const char *cudaGetErrorString(cudaError_t error) {
    for (const auto &known : errors) {
        if (known.error == error) { return known.description; }
    }
    return "unrecognized error code";
}

cudaError_t cudaDeviceSynchronize() { return begin(); }

cudaError_t cudaDeviceReset() {
    if (cudaError_t error = begin()) { return error; }
    for (Allocation *a : allocations) {
        if (a->live) { release(a); }
    }
    return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *count) {
    *count = 0;
    if (cudaError_t error = begin()) { return error; }
    *count = 1;
    return cudaSuccess;
}

cudaError_t cudaGetDevice(int *device) {
    *device = 0;
    return begin();
}

cudaError_t cudaSetDevice(int device) {
    if (cudaError_t error = begin()) { return error; }
    return device == 0 ? cudaSuccess : fail(cudaErrorInvalidDevice, text("there is no device %d", device));
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *properties, int device) {
    if (cudaError_t error = cudaSetDevice(device)) { return error; }
    *properties = {};
    cudaDeviceProp &p = *properties;
    snprintf(p.name, sizeof p.name, "CUDA on CPU");
    p.totalGlobalMem = memory_size;
    p.sharedMemPerBlock = DEFAULT_SHARED;
    p.sharedMemPerBlockOptin = (size_t)shared_limit();
    p.reservedSharedMemPerBlock = 1024;
    p.sharedMemPerMultiprocessor = (size_t)shared_limit() + 1024;
    p.regsPerBlock = p.regsPerMultiprocessor = 65536;
    p.warpSize = 32;
    p.maxThreadsPerBlock = p.maxThreadsDim[0] = p.maxThreadsDim[1] = MAX_THREADS;
    p.maxThreadsDim[2] = 64;
    p.maxGridSize[0] = 2147483647;
    p.maxGridSize[1] = p.maxGridSize[2] = 65535;
    p.totalConstMem = 65536;
    p.major = capability() / 10;
    p.minor = capability() % 10;
    p.multiProcessorCount = PROCESSORS;
    p.maxThreadsPerMultiProcessor = THREADS_PER_PROCESSOR;
    p.maxBlocksPerMultiProcessor = BLOCKS_PER_PROCESSOR;
    p.l2CacheSize = 50 << 20;
    p.memoryBusWidth = 5120;
    p.asyncEngineCount = 1;
    p.concurrentKernels = p.unifiedAddressing = p.canMapHostMemory = 1;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device) {
    cudaDeviceProp p;
    if (cudaError_t error = cudaGetDeviceProperties(&p, device)) { return error; }
    switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock: *value = p.maxThreadsPerBlock; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = (int)p.sharedMemPerBlock; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = (int)p.sharedMemPerBlockOptin; break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = (int)p.sharedMemPerMultiprocessor; break;
    case cudaDevAttrWarpSize: *value = p.warpSize; break;
    case cudaDevAttrMaxRegistersPerBlock: *value = p.regsPerBlock; break;
    case cudaDevAttrMultiProcessorCount: *value = p.multiProcessorCount; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = p.maxThreadsPerMultiProcessor; break;
    case cudaDevAttrMaxBlocksPerMultiprocessor: *value = p.maxBlocksPerMultiProcessor; break;
    case cudaDevAttrComputeCapabilityMajor: *value = p.major; break;
    case cudaDevAttrComputeCapabilityMinor: *value = p.minor; break;
    case cudaDevAttrL2CacheSize: *value = p.l2CacheSize; break;
    case cudaDevAttrGlobalMemoryBusWidth: *value = p.memoryBusWidth; break;
    case cudaDevAttrClockRate: *value = 1980000; break;  // kHz, as an H100
    case cudaDevAttrMemoryClockRate: *value = 2619000; break;
    default: return fail(cudaErrorInvalidValue, text("cudaDeviceGetAttribute: attribute %d", (int)attribute));
    }
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes) {
    if (cudaError_t error = begin()) { return error; }
    *free_bytes = memory_size - memory_used;
    *total_bytes = memory_size;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version) {
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *version) { return cudaRuntimeGetVersion(version); }

cudaError_t cudaFuncSetAttribute(const void *function, cudaFuncAttribute attribute, int value) {
    if (cudaError_t error = begin()) { return error; }
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) { return cudaSuccess; }
    if (value < 0 || value > shared_limit()) {
        return fail(cudaErrorInvalidValue,
                    text("cudaFuncSetAttribute: %d bytes of dynamic shared memory, a block "
                         "of this device can have %d",
                         value, shared_limit()));
    }
    dynamic_shared_limit[function] = value;
    return cudaSuccess;
}

// Only threads and shared memory count: the registers are known only to nvcc.
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, const void *, int threads,
                                                          size_t shared_bytes) {
    if (cudaError_t error = begin()) { return error; }
    if (threads < 1 || threads > MAX_THREADS) {
        return fail(cudaErrorInvalidValue, text("occupancy of a block of %d threads", threads));
    }
    const int by_shared = (shared_limit() + 1024) / ((int)shared_bytes + 1024);
    *blocks =
        std::min({(int)BLOCKS_PER_PROCESSOR, THREADS_PER_PROCESSOR / ((threads + 31) / 32 * 32), by_shared});
    return cudaSuccess;
}

// Streams are only names; events are only times.
cudaError_t cudaStreamCreate(cudaStream_t *stream) {
    if (cudaError_t error = begin()) { return error; }
    *stream = (cudaStream_t)malloc(1);
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned) { return cudaStreamCreate(stream); }
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned, int) {
    return cudaStreamCreate(stream);
}
cudaError_t cudaStreamSynchronize(cudaStream_t) { return begin(); }
cudaError_t cudaStreamQuery(cudaStream_t) { return begin(); }
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return begin(); }

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    free(stream);
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *event) {
    if (cudaError_t error = begin()) { return error; }
    *event = (cudaEvent_t) new double(-1);
    return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned) { return cudaEventCreate(event); }

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t) {
    *(double *)event = seconds_now();
    return begin();
}

cudaError_t cudaEventSynchronize(cudaEvent_t) { return begin(); }
cudaError_t cudaEventQuery(cudaEvent_t) { return begin(); }

cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t start, cudaEvent_t end) {
    if (*(double *)start < 0 || *(double *)end < 0) {
        return fail(cudaErrorInvalidResourceHandle, "cudaEventElapsedTime: the event was not recorded");
    }
    *milliseconds = (float)(1e3 * (*(double *)end - *(double *)start));
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    delete (double *)event;
    return cudaSuccess;
}

}  // extern "C"
