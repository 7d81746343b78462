// checker.cpp: checks every memory access of a program that was compiled with -fsanitize=thread, whose
// runtime it replaces: bounds, alignment, races. It also counts memory traffic.
//
// Races. Two accesses to the same bytes by different threads, one of them a write, are a race unless
// something orders them: __syncthreads for the threads of a block, __syncwarp for the lanes of its mask.
// Shuffles and votes order nothing, and nothing orders two blocks of a launch. Atomics do not race with each
// other. For each array a shadow remembers the last write and the last reads of every byte, so a race is
// found in whatever order the threads ran.
#include "emulator.h"

#include <algorithm>
#include <set>

#include <sys/mman.h>

// ---------------------------------------------------------------------------------------------
// Violations: the first are reported, all are counted

enum { MOST_REPORTS = 10 };
static uint64_t races, misaligned;

static bool report_again(const void *pc, const void *other_pc) {
    static auto &reported = *new std::set<std::pair<const void *, const void *>>;
    return reported.size() < MOST_REPORTS && reported.emplace(pc, other_pc).second;
}

static uint64_t violations() { return races + misaligned; }

static void print_violations() {
    if (violations() > 0) {
        complain(text("the checker has found %llu races and %llu misaligned accesses",
                      (unsigned long long)races, (unsigned long long)misaligned));
    }
}

// ---------------------------------------------------------------------------------------------
// What the lanes of a warp know about each other. A lane's clock counts its calls to __syncwarp since the
// last barrier. seen[i][j] is the last clock of lane j whose accesses come before all later ones of lane i.

struct WarpOrder {
    bool used;
    uint32_t clock[32], seen[32][32];
    uint32_t seen_by_all;  // the last clock of each lane that all others have seen
};
static WarpOrder warp_order[MAX_WARPS];

static void reset_order(WarpOrder &order) {
    if (!order.used) { return; }
    memset(&order, 0, sizeof order);
    for (uint32_t &clock : order.clock) { clock = 1; }
}

static void warp_sync(int warp, unsigned mask) {
    WarpOrder &order = warp_order[warp];
    uint32_t latest[32] = {};
    order.used = true;
    for (unsigned rest = mask; rest; rest &= rest - 1) {
        const int i = __builtin_ctz(rest);
        order.seen[i][i] = order.clock[i]++;
        for (int j = 0; j < 32; j++) { latest[j] = std::max(latest[j], order.seen[i][j]); }
    }
    for (unsigned rest = mask; rest; rest &= rest - 1) {
        memcpy(order.seen[__builtin_ctz(rest)], latest, sizeof latest);
    }
    if (mask == ~0u) { order.seen_by_all = *std::min_element(latest, latest + 32); }
}

// ---------------------------------------------------------------------------------------------
// The shadow of an array. A cell is the shadow of 16, 4, 2 or 1 bytes. All cells of a granule of 16 bytes
// have the size of its smallest access in this launch (in shared memory: in this block).

struct Cell {
    uint32_t write_interval;
    // several: atomics of several lanes, of several warps, in one interval
    uint32_t write_thread : 10, write_clock : 19, atomic : 1, several_lanes : 1, several_warps : 1;
    uint32_t read_interval, read_lanes;  // lanes of one warp, or:
    uint32_t read_warp : 5, read_clock : 19, read_by_warps : 1, read_by_blocks : 1;
    uint16_t write_site, read_site;
};

enum { LEVELS = 4 };
static const int level_bytes[LEVELS] = {16, 4, 2, 1}, level_shift[LEVELS] = {4, 2, 1, 0};

struct Granule {
    Cell cell;
    uint32_t used;     // the interval of the last access
    uint16_t copying;  // thread + 1 whose cp.async to these bytes is in flight
    uint8_t level;
};

struct Shadow {
    const char *begin;
    size_t bytes;
    bool global;
    Granule *granules;
    Cell *cells[LEVELS];  // from level 1 on
};

static void *shadow_memory(size_t bytes) {
    void *p =
        mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) { die(CUDA_ON_CPU_EXIT_FAULT, text("no room for a shadow of %zu bytes", bytes)); }
    if (bytes >= (size_t)4 << 20) { madvise(p, bytes, MADV_HUGEPAGE); }
    return p;
}

// The pages of a shadow take memory only when used.
static Shadow *make_shadow(const char *begin, size_t bytes, bool global) {
    const char *first = begin - (size_t)begin % 16;
    const size_t granules = ((size_t)(begin - first) + bytes + 15) / 16;
    Shadow *shadow = new Shadow{first, granules * 16, global, nullptr, {}};
    shadow->granules = (Granule *)shadow_memory(granules * sizeof(Granule));
    for (int level = 1; level < LEVELS; level++) {
        shadow->cells[level] =
            (Cell *)shadow_memory(granules * (size_t)(16 / level_bytes[level]) * sizeof(Cell));
    }
    return shadow;
}

static void free_shadow(Shadow *shadow) {
    const size_t granules = shadow->bytes / 16;
    munmap(shadow->granules, granules * sizeof(Granule));
    for (int level = 1; level < LEVELS; level++) {
        munmap(shadow->cells[level], granules * (size_t)(16 / level_bytes[level]) * sizeof(Cell));
    }
    delete shadow;
}

static Shadow *dynamic_shadow, *static_shadow;

// ---------------------------------------------------------------------------------------------
// Races

// The access being checked: which thread, and where in the program.
struct Access {
    int thread, warp, lane;
    AccessKind kind;
    uint16_t site;
    const WarpOrder *order;
};

static const void *site_pc(uint16_t number);

static bool is_write(AccessKind kind) { return kind != ACCESS_READ; }
static bool is_atomic(AccessKind kind) { return kind >= ACCESS_ATOMIC; }

static bool seen_by(const Access &me, unsigned lanes, uint32_t clock) {
    if (me.order->seen_by_all >= clock) { return true; }
    for (unsigned rest = lanes & ~(1u << me.lane); rest; rest &= rest - 1) {
        if (me.order->seen[me.lane][__builtin_ctz(rest)] < clock) { return false; }
    }
    return true;
}

// Whether the last write to the cell may happen at the same time as this access or after it.
static bool races_with_write(const Access &me, const Cell &cell, uint32_t first) {
    if (cell.write_interval < first) { return false; }
    if (is_atomic(me.kind) && cell.atomic) { return false; }
    if (cell.write_interval < block.block_first) { return true; }
    if (cell.write_interval < block.interval) { return false; }
    if (cell.several_warps || (int)cell.write_thread / 32 != me.warp) { return true; }
    return !seen_by(me, cell.several_lanes ? ~0u : 1u << cell.write_thread % 32, cell.write_clock);
}

static bool races_with_reads(const Access &me, const Cell &cell, uint32_t first) {
    if (cell.read_interval < first) { return false; }
    if (cell.read_by_blocks || cell.read_interval < block.block_first) { return true; }
    if (cell.read_interval < block.interval) { return false; }
    if (cell.read_by_warps || (int)cell.read_warp != me.warp) { return true; }
    return !seen_by(me, cell.read_lanes, cell.read_clock);
}

static void note_write(const Access &me, Cell &cell) {
    const bool shared = is_atomic(me.kind) && cell.atomic && cell.write_interval == block.interval;
    cell.several_lanes = shared && (cell.several_lanes || (int)cell.write_thread != me.thread);
    cell.several_warps = shared && (cell.several_warps || (int)cell.write_thread / 32 != me.warp);
    cell.write_interval = block.interval;
    cell.write_thread = (uint32_t)me.thread;
    cell.write_clock = me.order->clock[me.lane];
    cell.atomic = is_atomic(me.kind);
    cell.write_site = me.site;
}

static void note_read(const Access &me, Cell &cell, uint32_t first) {
    const unsigned bit = 1u << me.lane;
    const uint32_t clock = me.order->clock[me.lane];
    cell.read_site = me.site;
    if (cell.read_interval != block.interval) {
        cell.read_by_blocks =
            cell.read_interval >= first && (cell.read_by_blocks || cell.read_interval < block.block_first);
        cell.read_by_warps = 0;
        cell.read_interval = block.interval;
        cell.read_warp = (uint32_t)me.warp;
    } else if ((int)cell.read_warp != me.warp) {
        cell.read_by_warps = 1;
        return;
    } else if (!seen_by(me, cell.read_lanes, cell.read_clock)) {
        cell.read_lanes |= bit;
        cell.read_clock = std::max((uint32_t)cell.read_clock, clock);
        return;
    }
    // What comes after this read also comes after the earlier ones.
    cell.read_lanes = bit;
    cell.read_clock = clock;
}

static void report_race(const Access &me, const char *p, int bytes, const char *what,
                        const std::string &other, uint16_t other_site) {
    const void *pc = site_pc(me.site), *other_pc = site_pc(other_site);
    races++;
    stats->races++;
    if (!report_again(pc, other_pc)) { return; }
    complain(text("RACE (%s) in ", what) + where() + ", at " + source_line(pc) + ", with " + other + ", at " +
             source_line(other_pc) + text(": %d bytes at ", bytes) + describe_address(p));
}

static std::string who_read(const Cell &cell) {
    if (cell.read_by_blocks || cell.read_interval < block.block_first) { return "another block"; }
    if (cell.read_by_warps) { return "several warps"; }
    return "thread " + thread_name((int)cell.read_warp * 32 + __builtin_ctz(cell.read_lanes));
}

static std::string who_wrote(const Cell &cell) {
    if (cell.write_interval < block.block_first) { return "another block"; }
    return "thread " + thread_name((int)cell.write_thread);
}

// ---------------------------------------------------------------------------------------------
// The walk over the cells of an access

static void split(Shadow *shadow, size_t index, Granule &granule, int level) {
    for (int from = granule.level; from < level; from++) {
        const size_t parents = (size_t)(16 / level_bytes[from]),
                     each = (size_t)(level_bytes[from] / level_bytes[from + 1]);
        Cell *parent = from == 0 ? &granule.cell : shadow->cells[from] + index * parents;
        Cell *child = shadow->cells[from + 1] + index * parents * each;
        for (size_t i = 0; i < parents * each; i++) { child[i] = parent[i / each]; }
    }
    granule.level = (uint8_t)level;
}

static int level_of(const char *p, int bytes) {
    const size_t odd = ((size_t)p | (size_t)bytes) % 16;
    return odd == 0 ? 0 : odd % 4 == 0 ? 1 : odd % 2 == 0 ? 2 : 3;
}

// Bytes that this launch touches for the first time. Read: neither read nor written before.
struct Fresh {
    int read, written;
};

// Returns whether it reported a race.
static bool touch_cell(const Access &me, Cell &cell, uint32_t first, int unit, Fresh *fresh, const char *p,
                       int bytes, bool reported) {
    if (cell.write_interval < first) {
        fresh->written += unit;
        if (cell.read_interval < first) { fresh->read += unit; }
    } else if (!reported && races_with_write(me, cell, first)) {
        report_race(me, p, bytes, is_write(me.kind) ? "write after write" : "read after write",
                    who_wrote(cell), cell.write_site);
        reported = true;
    }
    if (!is_write(me.kind)) {
        note_read(me, cell, first);
        return reported;
    }
    if (!reported && races_with_reads(me, cell, first)) {
        report_race(me, p, bytes, "write after read", who_read(cell), cell.read_site);
        reported = true;
    }
    note_write(me, cell);
    return reported;
}

static Fresh touch(Shadow *shadow, const char *const p, const int bytes, const Access &me) {
    const uint32_t first = shadow->global ? block.launch_first : block.block_first;
    const int level = level_of(p, bytes);
    const size_t begin = (size_t)(p - shadow->begin), end = begin + (size_t)bytes;
    Fresh fresh = {};
    bool reported = false;
    for (size_t at = begin; at < end;) {
        const size_t index = at / 16, granule_end = std::min(end, (index + 1) * 16);
        Granule &granule = shadow->granules[index];
        if (granule.used < first) {
            granule.level = (uint8_t)level;
            granule.copying = 0;
        } else if (granule.level < level) {
            split(shadow, index, granule, level);
        }
        granule.used = block.interval;
        const int unit = level_bytes[granule.level];
        Cell *cell = granule.level == 0 ? &granule.cell
                                        : shadow->cells[granule.level] + (at >> level_shift[granule.level]);
        if (granule.copying && !reported) {
            report_race(me, p, bytes, "cp.async in flight", "thread " + thread_name(granule.copying - 1),
                        cell->write_site);
            reported = true;
        }
        for (; at < granule_end; at += (size_t)unit, cell++) {
            reported = touch_cell(me, *cell, first, unit, &fresh, p, bytes, reported);
        }
    }
    return fresh;
}

// ---------------------------------------------------------------------------------------------
// Warp accesses. The k-th time that a lane of a warp reaches a place in the program belongs together with the
// k-th time of the other lanes, counted from the last time that all lanes were together.

struct Group {
    unsigned lanes;
    bool global, table;
    const char *address[32];
};

struct WarpSite {
    unsigned counted;  // lanes whose count is valid
    uint32_t count[32];
    size_t used;
    std::vector<Group> groups;
};

// A place in the program that reads or writes memory, and the array that it last accessed.
struct Site {
    const void *pc;
    bool write;
    uint16_t number;
    int bytes;
    AccessKind kind;
    const char *begin, *end;
    bool table;
    Shadow *shadow;
    uint32_t memory_version;
    WarpSite warps[MAX_WARPS];
};

static uint32_t memory_version = 1;
static std::vector<Site *> &active_sites(int warp) {
    static auto *sites = new std::vector<Site *>[MAX_WARPS];
    return sites[warp];
}

static std::vector<Site *> &all_sites = *new std::vector<Site *>;

static const void *site_pc(uint16_t number) { return all_sites[number]->pc; }

static Site *find_site(const void *pc, AccessKind kind, int bytes) {
    static std::vector<Site *> &table = *new std::vector<Site *>(1024);  // its size is a power of two
    const bool write = is_write(kind);
    auto place = [&](const void *p) {
        return ((size_t)p * 0x9e3779b97f4a7c15ull >> 32) & (table.size() - 1);
    };
    size_t i = place(pc);
    for (; table[i]; i = (i + 1) & (table.size() - 1)) {
        if (table[i]->pc == pc && table[i]->write == write && table[i]->bytes == bytes) { return table[i]; }
    }
    Site *site = new Site();
    site->pc = pc;
    site->write = write;
    site->number = (uint16_t)std::min<size_t>(all_sites.size(), UINT16_MAX);
    site->bytes = bytes;
    site->kind = kind;
    all_sites.push_back(site);
    if (2 * all_sites.size() > table.size()) { table.assign(2 * table.size(), nullptr); }
    for (Site *old : all_sites) {
        for (i = place(old->pc); table[i] && table[i] != old; i = (i + 1) & (table.size() - 1)) {}
        table[i] = old;
    }
    return site;
}

static void note_access(Site *site, const char *p, const Access &me) {
    WarpSite &warp = site->warps[me.warp];
    const unsigned bit = 1u << me.lane;
    if (warp.counted == 0) { active_sites(me.warp).push_back(site); }
    if (!(warp.counted & bit)) {
        warp.counted |= bit;
        warp.count[me.lane] = 0;
    }
    const size_t number = warp.count[me.lane]++;
    if (number >= warp.groups.size()) { warp.groups.resize(std::max<size_t>(4, 2 * number)); }
    Group &group = warp.groups[number];
    if (number >= warp.used) {
        warp.used = number + 1;
        group.lanes = 0;
        group.global = site->shadow->global;
        group.table = site->table;
    }
    group.lanes |= bit;
    group.address[me.lane] = p;
}

// Extra passes of shared memory. One pass serves 4 bytes from each of 32 banks, to any number of lanes.
// Accesses of 8 bytes are served per half-warp, of 16 bytes per quarter-warp.
static unsigned conflicts(const Group &group, int bytes) {
    const int words = std::max(1, bytes / 4), lanes_at_once = 32 / words;
    unsigned extra = 0;
    for (int first = 0; first < 32; first += lanes_at_once) {
        size_t word[32];
        unsigned in_bank[32] = {}, most = 1;
        int n = 0;
        for (int lane = first; lane < first + lanes_at_once; lane++) {
            if (!(group.lanes >> lane & 1)) { continue; }
            for (int i = 0; i < words; i++) {
                const size_t w = (size_t)group.address[lane] / 4 + (size_t)i;
                if (std::find(word, word + n, w) != word + n) { continue; }
                word[n++] = w;
                most = std::max(most, ++in_bank[w % 32]);
            }
        }
        extra += most - 1;
    }
    return extra;
}

static void count_group(const Group &group, const Site *site) {
    const int bytes = site->bytes;
    const char *address[32];
    int n = 0;
    bool dense = true;
    for (unsigned rest = group.lanes; rest; rest &= rest - 1, n++) {
        address[n] = group.address[__builtin_ctz(rest)];
        dense &= address[n] == address[0] + n * bytes;
    }
    if (!group.global) {
        stats->shared_accesses++;
        if (!dense) { stats->bank_conflicts += conflicts(group, bytes); }
        return;
    }
    if (!dense) {
        std::sort(address, address + n);
        n = (int)(std::unique(address, address + n) - address);
    }
    const uint64_t requested = (uint64_t)n * (uint64_t)bytes;
    uint64_t sectors = 0;
    for (int i = 0; i < n; i++) {
        sectors += i == 0 || (size_t)address[i] / 32 != (size_t)address[i - 1] / 32;
    }
    const uint64_t ways = is_atomic(site->kind) ? 2 : 1;  // an atomic reads and writes
    stats->sectors += ways * sectors;
    stats->ideal_sectors += ways * ((requested + 31) / 32);
    if (group.table) { return; }
    if (!is_write(site->kind) || is_atomic(site->kind)) { stats->traffic_read += requested; }
    if (is_write(site->kind)) { stats->traffic_written += requested; }
}

static void warp_together(int warp) {
    std::vector<Site *> &sites = active_sites(warp);
    for (Site *site : sites) {
        WarpSite &accesses = site->warps[warp];
        for (size_t i = 0; i < accesses.used; i++) { count_group(accesses.groups[i], site); }
        accesses.used = 0;
        accesses.counted = 0;
    }
    sites.clear();
}

// ---------------------------------------------------------------------------------------------
// Bounds

extern "C" char __executable_start[], _end[];

// Memory outside the device, the stacks and the program's image is the host's heap.
static bool is_private(const char *p) {
    return (p >= fiber_stacks && p < fiber_stacks + STACKS_BYTES) ||
           (p >= host_stack && p < host_stack + ((size_t)64 << 20)) || (p >= __executable_start && p < _end);
}

[[noreturn]] static void out_of_bounds(const char *p, int bytes, AccessKind kind, const void *pc,
                                       const std::string &what) {
    (void)p;
    die(CUDA_ON_CPU_EXIT_BOUNDS,
        text("OUT OF BOUNDS %s of %d bytes in ", is_write(kind) ? "write" : "read", bytes) + where() +
            ", at " + source_line(pc) + ": " + what);
}

// Finds the array around the access, for this site and its later accesses. False: not the checker's concern.
static bool find_array(Site *site, const char *p, int bytes, AccessKind kind, const void *pc) {
    const char *end = p + bytes;
    if (is_shared_memory(p, (size_t)bytes)) {
        const bool dynamic = p >= block.shared && end <= block.shared + block.shared_bytes;
        Shadow *&shadow = dynamic ? dynamic_shadow : static_shadow;
        if (!shadow) {
            shadow = dynamic ? make_shadow(arena, SHARED_AREA, false)
                             : make_shadow(static_shared, static_shared_bytes, false);
        }
        site->shadow = shadow;
        site->begin = dynamic ? block.shared : static_shared;
        site->end = site->begin + (dynamic ? block.shared_bytes : static_shared_bytes);
        site->table = false;
    } else if ((size_t)(p - arena) >= ARENA_BYTES) {
        if (is_private(p)) { return false; }
        out_of_bounds(p, bytes, kind, pc, text("%p is host memory", (const void *)p));
    } else {
        const std::string error = bounds_error(p, (size_t)bytes);
        if (!error.empty()) { out_of_bounds(p, bytes, kind, pc, error); }
        Allocation *a = find_allocation(p);
        if (!a->shadow) { a->shadow = make_shadow(a->begin, a->bytes, true); }
        site->shadow = (Shadow *)a->shadow;
        site->begin = a->begin;
        site->end = a->begin + a->bytes;
        site->table = a->table;
        for (const Piece &piece : a->pieces) {
            if (p >= piece.begin && end <= piece.end) {
                site->begin = piece.begin;
                site->end = piece.end;
                site->table = piece.table;
            }
        }
    }
    site->memory_version = memory_version;
    return true;
}

// ---------------------------------------------------------------------------------------------
// Every access arrives here

static bool is_checked(const char *p) {
    if (!block.kernel) { return (size_t)(p - arena) < ARENA_BYTES && arena; }
    return !is_private(p) || (size_t)(p - static_shared) < static_shared_bytes;
}

static void check_access(const char *p, int bytes, AccessKind kind, const void *pc) {
    if (!block.kernel) {
        die(CUDA_ON_CPU_EXIT_FAULT, "FAULT in host code, at " + source_line(pc) +
                                        ": host code touches device memory, " + describe_address(p));
    }
    Site *site = find_site(pc, kind, bytes);
    if (site->memory_version != memory_version || p < site->begin || p + bytes > site->end) {
        if (!find_array(site, p, bytes, kind, pc)) { return; }
    }
    const int warp = block.thread / 32;
    const Access me = {block.thread, warp, block.thread % 32, kind, site->number, &warp_order[warp]};
    if (((size_t)p & (size_t)(bytes - 1)) != 0) {
        misaligned++;
        if (report_again(pc, nullptr)) {
            complain(text("MISALIGNED %s of %d bytes in ", is_write(kind) ? "write" : "read", bytes) +
                     where() + ", at " + source_line(pc) + ": " + describe_address(p));
        }
    }
    const Fresh fresh = touch(site->shadow, p, bytes, me);
    note_access(site, p, me);
    if (!site->shadow->global) { return; }
    if (!is_write(kind) || is_atomic(kind)) {
        stats->bytes_read += (uint64_t)bytes;
        stats->unique_read += (uint64_t)fresh.read;
        if (site->table) { stats->traffic_read += (uint64_t)fresh.read; }
    }
    if (is_write(kind)) {
        stats->bytes_written += (uint64_t)bytes;
        stats->unique_written += (uint64_t)fresh.written;
        if (site->table) { stats->traffic_written += (uint64_t)fresh.written; }
    }
    stats->float_atomics += kind == ACCESS_FLOAT_ATOMIC;
    if (bytes == 16) {
        stats->wide_accesses++;
    } else {
        stats->narrow_accesses++;
    }
}

static void access(const void *p, int bytes, AccessKind kind, const void *pc) {
    if (is_checked((const char *)p)) { check_access((const char *)p, bytes, kind, pc); }
}

// memcpy and similar functions, in the largest pieces that the address allows.
static void access_range(const void *pointer, size_t bytes, AccessKind kind, const void *pc) {
    const char *p = (const char *)pointer;
    if (bytes == 0 || !is_checked(p)) { return; }
    while (bytes > 0) {
        size_t piece = 16;
        while (piece > bytes || (size_t)p % piece != 0) { piece /= 2; }
        check_access(p, (int)piece, kind, pc);
        p += piece;
        bytes -= piece;
    }
}

// The bytes that a cp.async fills count as written when it starts and again when it ends; any access in
// between is reported. The bytes that it reads count as read both times.
static void copy_issued(const void *to, const void *from, int source_bytes, const void *pc) {
    check_access((const char *)to, 16, ACCESS_WRITE, pc);
    if (source_bytes > 0) { check_access((const char *)from, source_bytes, ACCESS_READ, pc); }
    const Shadow *shadow = find_site(pc, ACCESS_WRITE, 16)->shadow;
    shadow->granules[(size_t)((const char *)to - shadow->begin) / 16].copying = (uint16_t)(block.thread + 1);
}

static void copy_done(const void *to, const void *from, int source_bytes, const void *pc) {
    const int warp = block.thread / 32;
    Site *site = find_site(pc, ACCESS_WRITE, 16);
    Access me = {block.thread, warp, block.thread % 32, ACCESS_WRITE, site->number, &warp_order[warp]};
    find_array(site, (const char *)to, 16, ACCESS_WRITE, pc);
    site->shadow->granules[(size_t)((const char *)to - site->shadow->begin) / 16].copying = 0;
    touch(site->shadow, (const char *)to, 16, me);
    if (source_bytes > 0) {
        me.kind = ACCESS_READ;
        touch((Shadow *)find_allocation(from)->shadow, (const char *)from, source_bytes, me);
    }
}

// ---------------------------------------------------------------------------------------------
// Events from the scheduler

static void reset_orders() {
    for (WarpOrder &order : warp_order) { reset_order(order); }
}

static void all_together() {
    for (int warp = 0; warp * 32 < block.threads; warp++) { warp_together(warp); }
}

static void barrier() {
    all_together();
    reset_orders();
}

static void memory_changed() { memory_version++; }

static void memory_freed(Allocation *a) {
    memory_version++;
    if (a->shadow) { free_shadow((Shadow *)a->shadow); }
    a->shadow = nullptr;
}

__attribute__((constructor)) static void install() {
    static const Checker hooks = {memory_changed, reset_orders, all_together,    barrier,   warp_sync,
                                  warp_together,  access,       copy_issued,     copy_done, memory_changed,
                                  memory_freed,   violations,   print_violations};
    for (WarpOrder &order : warp_order) {
        order.used = true;
        reset_order(order);
    }
    checker = &hooks;
}

// ---------------------------------------------------------------------------------------------
// The calls that -fsanitize=thread puts before every access

#define PC __builtin_return_address(0)

extern "C" {

#define HOOKS(BYTES)                                                                  \
    void __tsan_read##BYTES(void *p) { access(p, BYTES, ACCESS_READ, PC); }           \
    void __tsan_write##BYTES(void *p) { access(p, BYTES, ACCESS_WRITE, PC); }         \
    void __tsan_unaligned_read##BYTES(void *p) { access(p, BYTES, ACCESS_READ, PC); } \
    void __tsan_unaligned_write##BYTES(void *p) { access(p, BYTES, ACCESS_WRITE, PC); }
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)

void *__tsan_memcpy(void *to, const void *from, size_t bytes) {
    access_range(from, bytes, ACCESS_READ, PC);
    access_range(to, bytes, ACCESS_WRITE, PC);
    return memcpy(to, from, bytes);
}

void *__tsan_memmove(void *to, const void *from, size_t bytes) {
    access_range(from, bytes, ACCESS_READ, PC);
    access_range(to, bytes, ACCESS_WRITE, PC);
    return memmove(to, from, bytes);
}

void *__tsan_memset(void *p, int value, size_t bytes) {
    access_range(p, bytes, ACCESS_WRITE, PC);
    return memset(p, value, bytes);
}

void __tsan_init() {}
void __tsan_func_entry(void *) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void **, void *) {}
void __tsan_vptr_read(void **) {}

// Atomics of host code.
#define HOST_ATOMICS(BITS, T)                                                                               \
    T __tsan_atomic##BITS##_load(const volatile T *p, int) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); } \
    void __tsan_atomic##BITS##_store(volatile T *p, T v, int) { __atomic_store_n(p, v, __ATOMIC_SEQ_CST); } \
    T __tsan_atomic##BITS##_exchange(volatile T *p, T v, int) {                                             \
        return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST);                                                 \
    }                                                                                                       \
    T __tsan_atomic##BITS##_fetch_add(volatile T *p, T v, int) {                                            \
        return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST);                                                  \
    }                                                                                                       \
    T __tsan_atomic##BITS##_fetch_sub(volatile T *p, T v, int) {                                            \
        return __atomic_fetch_sub(p, v, __ATOMIC_SEQ_CST);                                                  \
    }                                                                                                       \
    T __tsan_atomic##BITS##_compare_exchange_val(volatile T *p, T compare, T v, int, int) {                 \
        __atomic_compare_exchange_n(p, &compare, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);             \
        return compare;                                                                                     \
    }
HOST_ATOMICS(8, uint8_t)
HOST_ATOMICS(16, uint16_t)
HOST_ATOMICS(32, uint32_t)
HOST_ATOMICS(64, uint64_t)
void __tsan_atomic_thread_fence(int) {}
void __tsan_atomic_signal_fence(int) {}

}  // extern "C"
