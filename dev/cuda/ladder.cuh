// ladder.cuh: the code that the programs of dev/cuda share. Each program has one family of kernels in
// numbered versions, from the plainest correct one to the shipped one, which is the kernel of train_olmo2.cu
// itself.
//
//   ./rmsnorm              checks every version at edge-case sizes
//   ./rmsnorm 3            checks version 3 of every operation and, on a GPU, times it
//   ./rmsnorm forward 3    for this operation only; ./rmsnorm forward takes all of its versions
//
// The last line is "N passed, N failed", and the exit code is 1 if anything failed. When the program runs on
// a CPU with the checker (dev/cuda_on_cpu), it also prints what each version moved: bytes read and written;
// both over the minimum; sectors over those that the same bytes would take side by side; accesses of a thread
// to global memory, and the percentage of them that are 16 bytes wide; accesses of a warp to shared memory,
// and the extra passes that bank conflicts cost; and atomics on floats.
//
// A file of the ladder has the versions, one function per operation, and a table of operations:
//
//   typedef void Double(floatX *y, const floatX *x, size_t N);  // the signature that all versions share
//   static void double_1(floatX *y, const floatX *x, size_t N) { ... launches ... }
//   static const Version<Double> double_versions[] = {{double_1, "one thread per number"}, ...};
//
//   static void double_problem(Problem &p) {
//       const size_t N = p.n[0];
//       const auto x = p.input<floatX>(N, -1.0, 1.0);
//       const auto y = p.output<floatX>("y", N, 1e-7);
//       p.expect([&] { for (size_t i = 0; i < N; i++) { y[i] = 2.0 * x[i]; } });
//       p.bytes = 2.0 * N * sizeof(floatX);
//       p.run(double_versions, [&](Double *version) { version(y.device, x.device, N); });
//   }
//
//   int main(int argc, char **argv) {
//       const Operation operations[] = {{"double", double_problem, "N", {{1}, {31}}, {1000}, {1 << 20}}};
//       return ladder_main(argc, argv, operations);
//   }
#ifndef DEV_CUDA_LADDER_CUH
#define DEV_CUDA_LADDER_CUH

#define LLMC_MAIN_H  // the backend without the program
#include "../../train_olmo2.cu"
#include "../test/check.h"

#include <algorithm>
#include <string>
#include <vector>

// ---------------------------------------------------------------------------------------------
// The peak rates of a GPU

// Dense bf16 products with fp32 sums, in TFLOP/s, by a part of the device's name (NVIDIA's data sheets).
static const struct {
    const char *name;
    double tflops;
} tensor_core_peaks[] = {
    {"A100", 312.0},         {"H100 80GB HBM3", 989.4}, {"H200", 989.4},  {"RTX 4090", 165.2},
    {"RTX PRO 6000", 504.0}, {"RTX 5090", 209.5},       {"B200", 2250.0},
};

struct Device {
    std::string name;
    double gbs, tflops;  // 0: not in the table
    size_t l2_bytes;
};

static int device_attribute(cudaDeviceAttr attribute) {
    int value = 0;
    CUDA_CHECK(cudaDeviceGetAttribute(&value, attribute, 0));
    return value;
}

static Device device_limits() {
    cudaDeviceProp properties;
    CUDA_CHECK(cudaGetDeviceProperties(&properties, 0));
    Device d = {properties.name, 0.0, 0.0, (size_t)device_attribute(cudaDevAttrL2CacheSize)};
    // The clock is in kHz, and memory moves data twice per cycle.
    d.gbs = 2.0 * device_attribute(cudaDevAttrMemoryClockRate) *
            (device_attribute(cudaDevAttrGlobalMemoryBusWidth) / 8.0) / 1e6;
    for (const auto &peak : tensor_core_peaks) {
        if (strstr(properties.name, peak.name)) { d.tflops = peak.tflops; }
    }
    return d;
}

// ---------------------------------------------------------------------------------------------
// A problem: one operation at one size, its arrays, and the expected results

template <typename Launch>
struct Version {
    Launch *launch;
    const char *idea;                          // what the version does, in a few words
    bool (*takes)(const size_t *n) = nullptr;  // sizes that the version accepts; nullptr: all
    double roundings = 1.0;                    // of a result; more if it is stored in between
};

// The largest relative error of rounding to T.
template <typename T>
constexpr double rounding() {
    return std::is_same_v<T, bf16> ? 0x1p-8 : std::is_same_v<T, float> ? 0x1p-24 : 0x1p-53;
}

// An array: on the device for the kernels, and on the host in double for the oracle, which reads the inputs
// and writes the expected results. The host copy exists only when results are checked.
template <typename Device>
struct Both {
    Device device;
    double *host;
    double &operator[](size_t i) const { return host[i]; }
};

template <typename T>
using Numbers = Both<T *>;

// What a version wrote into one array, at the size with the largest error.
struct Record {
    int version;
    std::string idea, array, at;
    double reached, allowed;
    bool ok;
};

enum Mode { TO_CHECK, TO_COUNT, TO_TIME };

class Problem {
  public:
    const size_t *n;                  // the size, as in the operation's table of sizes
    double bytes = 0.0, flops = 0.0;  // the minimum to move; what to compute

    Problem(Mode mode, int only, const std::vector<size_t> &size, std::vector<Record> *records)
        : n(size.data()), mode(mode), only(only), size(size), records(records) {}
    Problem(const Problem &) = delete;
    ~Problem() {
        for (const Entry &a : arrays) { CUDA_CHECK(cudaFree(a.device)); }
    }

    // Random inputs between low and high, rounded to T.
    template <typename T>
    Numbers<T> input(size_t count, double low, double high) {
        const std::vector<T> values = random<T>(count, low, high);
        return numbers<T>(enter("", INPUT, count, values.data()));
    }

    // Random integers below `bound`, on the host; upload copies them to the device.
    std::vector<uint32_t> integers(size_t count, size_t bound) {
        const uint64_t array = ++seed;
        std::vector<uint32_t> values(count);
        for (size_t i = 0; i < count; i++) { values[i] = (uint32_t)(random_bits(0, array, i) % bound); }
        return values;
    }

    // Inputs given by the caller.
    template <typename T>
    T *upload(const std::vector<T> &values) {
        return (T *)arrays[enter("", INPUT, values.size(), values.data())].device;
    }

    // An array that the kernels must write; NaN before each run. The allowed error is one rounding to T plus
    // `tolerance`, both relative to the largest expected number.
    template <typename T>
    Numbers<T> output(const char *name, size_t count, double tolerance) {
        return numbers<T>(enter<T>(name, OUTPUT, count, nullptr, tolerance));
    }

    // An array that the kernels update: the oracle finds the initial numbers and overwrites them.
    template <typename T>
    Numbers<T> changed(const char *name, size_t count, double tolerance, double low, double high) {
        const std::vector<T> values = random<T>(count, low, high);
        return numbers<T>(enter(name, CHANGED, count, values.data(), tolerance));
    }

    // The same for a type that is chosen when the program starts.
    Both<Array> changed(const char *name, size_t count, double tolerance, double low, double high,
                        bool is_bf16) {
        if (is_bf16) {
            const std::string bf16_name = std::string(name) + " bf16";
            const Numbers<bf16> x = changed<bf16>(bf16_name.c_str(), count, tolerance, low, high);
            return {{x.device, true}, x.host};
        }
        const Numbers<float> x = changed<float>(name, count, tolerance, low, high);
        return {{x.device, false}, x.host};
    }

    // Scratch space; NaN before each run.
    template <typename T>
    T *space(size_t count) {
        return (T *)arrays[enter<T>("", SPACE, count, nullptr)].device;
    }

    // Declares that an array is small enough to stay in the caches: its bytes count once.
    void stays_cached(const void *device) {
#ifdef CUDA_ON_CPU
        cuda_on_cpu_mark_table(device);
#else
        (void)device;
#endif
    }

    // Computes the expected results, when results are checked.
    template <typename Oracle>
    void expect(Oracle oracle) {
        if (mode == TO_CHECK) { oracle(); }
    }

    // Checks, counts or times the requested versions; call(launch) runs one.
    template <typename Launch, size_t COUNT, typename Call>
    void run(const Version<Launch> (&versions)[COUNT], Call call) {
        for (int v = 1; v <= (int)COUNT; v++) {
            const Version<Launch> &version = versions[v - 1];
            if ((only != 0 && only != v) || (version.takes != nullptr && !version.takes(n))) { continue; }
            const Rung rung = {v, version.idea, version.roundings};
            const auto launch = [&] { call(version.launch); };
            if (mode == TO_CHECK) {
                check(rung, launch);
            } else if (mode == TO_COUNT) {
                count(rung, launch);
            } else {
                time(rung, launch);
            }
        }
    }

  private:
    struct Rung {
        int version;
        const char *idea;
        double roundings;
    };
    enum Role { INPUT, OUTPUT, CHANGED, SPACE };
    struct Entry {
        std::string name;
        Role role;
        size_t count, bytes;
        double (*number)(const char *bytes, size_t i);
        double tolerance, rounding;
        void *device = nullptr;
        std::vector<char> initial = {};  // contents before each run; empty: NaN or constant
        std::vector<double> host = {};
    };

    Mode mode;
    int only;
    std::vector<size_t> size;
    std::vector<Record> *records;
    std::vector<Entry> arrays;
    uint64_t seed = 0;

    template <typename T>
    static double number(const char *bytes, size_t i) {
        T x;
        memcpy(&x, bytes + i * sizeof x, sizeof x);
        if constexpr (std::is_same_v<T, bf16>) {
            return __bfloat162float(x);
        } else {
            return x;
        }
    }

    template <typename T>
    std::vector<T> random(size_t count, double low, double high) {
        const uint64_t array = ++seed;
        std::vector<T> values(count);
        for (size_t i = 0; i < count; i++) {
            values[i] = (T)(float)(low + (high - low) * random_bits(0, array, i) / 0x1p32);
        }
        return values;
    }

    // The array has exactly the requested size, so a checker sees accesses past its end.
    template <typename T>
    size_t enter(const char *name, Role role, size_t count, const T *values, double tolerance = 0.0) {
        Entry a = {name, role, count, count * sizeof(T), number<T>, tolerance, rounding<T>()};
        CUDA_CHECK(cudaMalloc(&a.device, a.bytes));
        if (values != nullptr) { CUDA_CHECK(cudaMemcpy(a.device, values, a.bytes, cudaMemcpyHostToDevice)); }
        if (mode == TO_CHECK && role != SPACE) {
            const char *bytes = (const char *)values;
            if (role == CHANGED) { a.initial.assign(bytes, bytes + a.bytes); }
            a.host.resize(count);
            for (size_t i = 0; i < count && bytes != nullptr; i++) { a.host[i] = a.number(bytes, i); }
        }
        arrays.push_back(std::move(a));
        return arrays.size() - 1;
    }

    template <typename T>
    Numbers<T> numbers(size_t i) {
        return {(T *)arrays[i].device, arrays[i].host.data()};
    }

    template <typename Launch>
    void check(const Rung &rung, Launch launch) {
        for (const Entry &a : arrays) {
            if (a.role == CHANGED) {
                CUDA_CHECK(cudaMemcpy(a.device, a.initial.data(), a.bytes, cudaMemcpyHostToDevice));
            } else if (a.role != INPUT) {
                CUDA_CHECK(cudaMemset(a.device, 0xff, a.bytes));
            }
        }
        launch();
        CUDA_CHECK(cudaDeviceSynchronize());
        for (const Entry &a : arrays) {
            if (a.role == OUTPUT || a.role == CHANGED) { compare(rung, a); }
        }
    }

    void compare(const Rung &rung, const Entry &a) {
        std::vector<char> bytes(a.bytes);
        CUDA_CHECK(cudaMemcpy(bytes.data(), a.device, a.bytes, cudaMemcpyDeviceToHost));
        double largest = 0.0, error = 0.0;
        for (size_t i = 0; i < a.count && !isnan(error); i++) {
            const double difference = fabs(a.number(bytes.data(), i) - a.host[i]);
            largest = std::max(largest, fabs(a.host[i]));
            if (!(difference <= error)) { error = difference; }
        }
        const double reached = largest > 0.0 ? error / largest : error;
        const double allowed = a.tolerance + rung.roundings * a.rounding;
        std::string at;
        for (size_t length : size) { at += (at.empty() ? "" : ", ") + std::to_string(length); }
        const Record now = {rung.version, rung.idea, a.name, at, reached, allowed, reached <= allowed};
        const std::string what = a.name + " of version " + std::to_string(rung.version) + " at (" + at + ")";
        check_at(now.ok, what.c_str(), __FILE__, __LINE__);
        for (Record &r : *records) {
            if (r.version != now.version || r.array != now.array) { continue; }
            if (r.ok && !(reached <= r.reached)) { r = now; }
            return;
        }
        records->push_back(now);
    }

    // What the checker of dev/cuda_on_cpu counts in one run.
    template <typename Launch>
    void count(const Rung &rung, Launch launch) {
#ifdef CUDA_ON_CPU_CHECK
        cuda_on_cpu_reset();
        launch();
        CUDA_CHECK(cudaDeviceSynchronize());
        const CudaOnCpuStats s = cuda_on_cpu_stats("");
        const double moved = (double)(s.traffic_read + s.traffic_written);
        const double accesses = (double)(s.wide_accesses + s.narrow_accesses);
        printf("%-2d %-38s %11.0f %11.0f %7.2f %7.2f %10.0f %5.0f %9.0f %9.0f %7.0f\n", rung.version,
               rung.idea, (double)s.traffic_read, (double)s.traffic_written,
               bytes > 0.0 ? moved / bytes : 0.0,
               (double)s.sectors / (double)std::max(s.ideal_sectors, (uint64_t)1), accesses,
               100.0 * (double)s.wide_accesses / std::max(accesses, 1.0), (double)s.shared_accesses,
               (double)s.bank_conflicts, (double)s.float_atomics);
#else
        (void)rung, (void)launch;
#endif
    }

    // The median of runs with a cold L2 cache: before each run, a buffer larger than the cache is written.
    template <typename Launch>
    void time(const Rung &rung, Launch launch) {
        enum { RUNS = 30 };
        const Device device = device_limits();
        const size_t flush_bytes = 2 * device.l2_bytes + 1;
        void *flush;
        cudaEvent_t begin, end;
        CUDA_CHECK(cudaMalloc(&flush, flush_bytes));
        CUDA_CHECK(cudaEventCreate(&begin));
        CUDA_CHECK(cudaEventCreate(&end));
        launch();
        float milliseconds[RUNS];
        for (float &ms : milliseconds) {
            CUDA_CHECK(cudaMemsetAsync(flush, 0, flush_bytes));
            CUDA_CHECK(cudaEventRecord(begin));
            launch();
            CUDA_CHECK(cudaEventRecord(end));
            CUDA_CHECK(cudaEventSynchronize(end));
            CUDA_CHECK(cudaEventElapsedTime(&ms, begin, end));
        }
        std::sort(milliseconds, milliseconds + RUNS);
        const double seconds = (milliseconds[(RUNS - 1) / 2] + milliseconds[RUNS / 2]) / 2e3;
        printf("%-2d %-38s %10.1f us", rung.version, rung.idea, seconds * 1e6);
        if (bytes > 0.0) { print_rate("GB/s", bytes / seconds / 1e9, device.gbs); }
        if (flops > 0.0) { print_rate("TFLOP/s", flops / seconds / 1e12, WIDE == 8 ? device.tflops : 0.0); }
        printf("  (%s)\n", device.name.c_str());
        CUDA_CHECK(cudaEventDestroy(begin));
        CUDA_CHECK(cudaEventDestroy(end));
        CUDA_CHECK(cudaFree(flush));
    }

    static void print_rate(const char *unit, double reached, double limit) {
        printf("  %.1f %s", reached, unit);
        if (limit > 0.0) { printf(", %.1f %% of %.1f", 100.0 * reached / limit, limit); }
    }
};

// ---------------------------------------------------------------------------------------------
// The program

struct Operation {
    const char *name;
    void (*problem)(Problem &p);
    const char *lengths;                     // names of the numbers of a size
    std::vector<std::vector<size_t>> edges;  // sizes to check
    std::vector<size_t> counted, timed;      // a size with rows as long as in OLMo 2 1B; a size of OLMo 2 1B
};

static void print_records(std::vector<Record> &records) {
    std::stable_sort(records.begin(), records.end(),
                     [](const Record &a, const Record &b) { return a.version < b.version; });
    printf("   %-38s %-12s %9s %9s  %-7s  %s\n", "version", "array", "reached", "allowed", "verdict",
           "worst at");
    int version = 0;
    for (const Record &r : records) {
        const bool first = r.version != version;
        version = r.version;
        printf("%-2s %-38s %-12s %9.1e %9.1e  %-7s  (%s)\n", first ? std::to_string(version).c_str() : "",
               first ? r.idea.c_str() : "", r.array.c_str(), r.reached, r.allowed, r.ok ? "ok" : "FAILED",
               r.at.c_str());
    }
}

static void run_operation(const Operation &o, int only) {
    std::vector<Record> records;
    printf("%s (%s), " FLOATX_NAME ": the largest error, relative to the largest expected number\n", o.name,
           o.lengths);
    for (const std::vector<size_t> &size : o.edges) {
        Problem p(TO_CHECK, only, size, &records);
        o.problem(p);
    }
    print_records(records);
#ifdef CUDA_ON_CPU_CHECK
    printf("   %-38s %11s %11s %7s %7s %10s %5s %9s %9s %7s\n", "counted", "read B", "written B", "/ least",
           "sectors", "accesses", "16 B", "shared", "conflicts", "atomics");
    Problem p(TO_COUNT, only, o.counted, &records);
    o.problem(p);
#endif
#ifndef CUDA_ON_CPU
    if (only != 0) {
        Problem p(TO_TIME, only, o.timed, &records);
        o.problem(p);
    }
#endif
    printf("\n");
}

template <size_t COUNT>
static int ladder_main(int argc, char **argv, const Operation (&operations)[COUNT]) {
    const char *name = argc > 1 && !isdigit(argv[1][0]) ? argv[1] : nullptr;
    const int first = name == nullptr ? 1 : 2;
    const char *version = argc > first ? argv[first] : "0";  // 0: all
    bool found = false;
    for (const Operation &o : operations) { found |= name == nullptr || strcmp(name, o.name) == 0; }
    if (!found || !isdigit(version[0]) || argc > first + 1) {
        fprintf(stderr, "usage: %s [operation] [version], the operation one of", argv[0]);
        for (const Operation &o : operations) { fprintf(stderr, " %s", o.name); }
        fprintf(stderr, "\n");
        return 2;
    }
    for (const Operation &o : operations) {
        if (name == nullptr || strcmp(name, o.name) == 0) { run_operation(o, atoi(version)); }
    }
    return check_report();
}

#endif
