#!/usr/bin/env python3
"""What nvcc makes of the kernels of train_olmo2.cu, checked without a GPU.

Every kernel is compiled for every architecture. ptxas reports its registers and shared memory. This program
reads the machine code itself, without cuobjdump, to see how the kernel reads and writes memory. The toolkit's
occupancy calculator says how many blocks share a multiprocessor. KERNELS and RULES say what all these figures
must be. Results of nvcc are cached in build/compile_check, so a second run compiles nothing.

    python3 dev/cuda/compile_check.py                 the last line is "N passed, N failed"
    python3 dev/cuda/compile_check.py --write         also writes the table into dev/cuda/README.md
    python3 dev/cuda/compile_check.py /tmp/other.cu   the kernels of another file
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import struct
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

ROOT = Path(__file__).resolve().parents[2]
README = Path(__file__).resolve().parent / "README.md"
CACHE = ROOT / "build/compile_check"
DEFAULT = ROOT / "train_olmo2.cu"
BEGIN, END = "<!-- compile table: begin -->\n", "<!-- compile table: end -->\n"
# A warning is a failure here. nvcc's -Werror would not do: it leaves no code to look at.
FLAGS = "-std=c++17 -O3 -Xptxas -v,-warn-spills,-warn-lmem-usage".split()
PRECISIONS = {"bf16": [], "fp32": ["-DPRECISION_FP32"]}
WIDE = {"bf16": 8, "fp32": 4}  # elements in 16 bytes, as in llmc/cuda_utils.cuh
FP32_ARCHITECTURES = (80, 90)  # checked in both precisions; fp32 is for tests, so two are enough

# limits of a multiprocessor (CUDA C++ Programming Guide, "Technical Specifications per Compute Capability")
GPUS = {  # architecture: threads, KiB of shared memory
    80: (2048, 164),  # A100
    89: (1536, 100),  # RTX 4090
    90: (2048, 228),  # H100
}

# ---------------------------------------------------------------------------------------------
# the kernels and the rules


def nothing(*_: int) -> int:
    return 0


class Row(NamedTuple):
    """The kernels whose name, with its template arguments, matches `pattern`."""

    pattern: str
    kind: str  # which RULES apply, in addition to those for every kernel
    threads: int  # per block
    dynamic: Callable[..., int] = nothing  # bytes of shared memory, from the size of floatX and the arguments
    loads: int = 0  # instructions narrower than `width`, for scalars of a row or block
    stores: int = 0
    width: int = 128  # bits


C = 2048  # launches have the sizes of OLMo 2 1B

# STREAM: memory-bound, so every access to a whole row moves 16 bytes per lane. A kernel that also has fp32
# arrays moves 8 bytes of its bf16 arrays, so neighbouring lanes touch neighbouring bytes in both.
# TILED: bound by the tensor cores.
# PLAIN: neither.
# An access in a loop counts as often as the compiler has written the body of the loop.
KERNELS = [
    # the token; begin, end and token of a bucket, and its positions, 5 at a time
    Row(r"embedding_forward_kernel<.*>", "STREAM", 256, loads=1),
    Row(r"embedding_backward_kernel<.*>", "STREAM", 128, loads=9, width=64),
    # rstd, and the position
    Row(r"rmsnorm_(residual_)?forward_kernel<.*>", "STREAM", 256, lambda x, *_: 8 * C * x, stores=1),
    Row(r"qknorm_rope_forward_kernel<.*>", "STREAM", 256, lambda x, *_: 8 * C * x, loads=1, stores=1),
    # rstd; the sum of a block for each weight, once per block, written in 6 places
    Row(r"(rmsnorm|qknorm_rope)_backward_kernel<.*>", "STREAM", 128, lambda x, *_: 4 * C * (4 + 2 * x),
        loads=1, stores=6),
    # 2 MB at most, just written; one lane per column gives as many lanes as there are columns
    Row(r"add_partial_sums_kernel<.*>", "PLAIN", 256),
    Row(r"add_kernel<.*>", "STREAM", 256),  # of dev/ablations, as is the next
    Row(r"rope_kernel", "PLAIN", 256),
    Row(r"swiglu_(forward|backward)_kernel<.*>", "STREAM", 256),
    Row(r"classifier_kernel<.*>", "STREAM", 1024, loads=3, stores=2),  # label, weight, logit; logprob, lse
    Row(r"adamw_kernel<.*>", "STREAM", 256, width=64),
    Row(r"sum_of_squares_kernel<.*>", "STREAM", 256, stores=1),  # the sum of a block
    Row(r"cache_append_kernel<.*>", "STREAM", 128, loads=1),  # the piece, perhaps in two loads
    # lse or delta, of up to 4 rows per lane
    Row(r"attention_forward_kernel<.*>", "TILED", 128, lambda x, hs, q, k: x * hs * (q + 2 * k), stores=4),
    Row(r"attention_backward_dq_kernel<.*>", "TILED", 128,
        lambda x, hs, q, k, step: x * hs * max(3 * q, 4 * k), loads=4, stores=4),
    Row(r"attention_backward_dkdv_kernel<.*>", "TILED", 128,
        lambda x, hs, k, q, step: x * hs * (k + 4 * q) + 4 * 4 * q, loads=4),
    # the references for the tiled kernels, also used for other head sizes
    Row(r"attention_plain_(forward|dq|dkdv)_kernel<.*>", "PLAIN", 128),
    Row(r"attention_decode_kernel<.*>", "PLAIN", 512, lambda x, n: 4 * 16 * (2 + 32 * n)),
]
UNKNOWN = Row("", "PLAIN", 0)  # for a kernel that matches none


class Kernel(NamedTuple):
    """One kernel as compiled for one architecture."""

    name: str
    precision: str
    architecture: int
    row: Row
    registers: int
    stack: int
    spills: int
    shared: int  # static
    barriers: int
    counts: Dict[str, int]  # instructions by name and width in bits: {"LDG.128": 4, "SHFL": 5}
    blocks: Optional[int] = None  # per multiprocessor, if GPUS has the architecture

    def count(self, pattern: str) -> int:
        return sum(n for name, n in self.counts.items() if re.fullmatch(pattern, name))

    def accesses(self, *names: str, narrow: bool) -> Optional[int]:
        """Counts the instructions of these names that are narrower than their row's width, or those that are
        not."""
        found = 0
        for instruction, n in self.counts.items():
            name, _, width = instruction.partition(".")
            found += n if name in names and (int(width) < self.row.width) == narrow else 0
        return found if self.wide() else None

    def arguments(self) -> List[int]:
        return [int(n) for n in re.findall(r"[<,] ?(\d+)(?=[,>])", self.name)]

    def dynamic(self) -> int:
        return self.row.dynamic(16 // WIDE[self.precision], *self.arguments())

    def wide(self) -> bool:
        """False for instances for rows that are not a multiple of 16 bytes, and for bf16 arrays in an fp32
        build."""
        return self.arguments()[:1] != [1] and not (self.precision == "fp32" and "bfloat16" in self.name)


class Rule(NamedTuple):
    kinds: str  # all if empty
    name: str
    value: Callable[[Kernel], Optional[int]]  # None where the rule does not apply
    least: int
    most: Callable[[Row], int]


ANY = sys.maxsize


def large_gpu(k: Kernel) -> Optional[int]:
    return k.blocks if k.architecture in (80, 90) else None


# No atomics: a sum of floats in the order in which blocks arrive has other bits in every run. Atomics on
# integers would be harmless, but a compare-and-swap loop can hide a float, and no kernel needs either.
RULES = [
    Rule("", "bytes spilled", lambda k: k.spills, 0, lambda row: 0),
    Rule("", "bytes of stack", lambda k: k.stack, 0, lambda row: 0),
    Rule("", "accesses to local memory", lambda k: k.count(r"(LDL|STL).*"), 0, lambda row: 0),
    Rule("", "generic accesses", lambda k: k.count(r"(LD|ST)\..*"), 0, lambda row: 0),
    Rule("", "atomics", lambda k: k.count("ATOM"), 0, lambda row: 0),
    Rule("", "blocks on a multiprocessor", lambda k: k.blocks, 1, lambda row: ANY),
    Rule("STREAM", "registers", lambda k: k.registers if k.wide() else None, 0, lambda row: 64),
    Rule("STREAM", "wide loads", lambda k: k.accesses("LDG", "LDGSTS", narrow=False), 1, lambda row: ANY),
    Rule("STREAM TILED", "narrow loads", lambda k: k.accesses("LDG", "LDGSTS", narrow=True), 0,
         lambda row: row.loads),
    Rule("STREAM TILED", "narrow stores", lambda k: k.accesses("STG", narrow=True), 0,
         lambda row: row.stores),
    Rule("TILED", "HMMA", lambda k: k.count("HMMA"), 1, lambda row: ANY),
    Rule("TILED", "LDSM", lambda k: k.count("LDSM"), 1, lambda row: ANY),
    Rule("TILED", "LDGSTS", lambda k: k.count("LDGSTS.128"), 1, lambda row: ANY),
    Rule("TILED", "blocks on an A100 or H100", large_gpu, 2, lambda row: ANY),
]


def verdicts(kernel: Kernel) -> Iterator[Tuple[bool, str]]:
    """For each rule that applies to this kernel: whether it holds, and the figure."""
    for rule in RULES:
        value = rule.value(kernel)
        if kernel.row.kind in (rule.kinds or kernel.row.kind) and value is not None:
            most = rule.most(kernel.row)
            wanted = f"at least {rule.least}" if most == ANY else f"at most {most}"
            yield rule.least <= value <= most, f"{rule.name}: {value}, should be {wanted}"


# ---------------------------------------------------------------------------------------------
# machine code. NVIDIA does not document its encoding; the probes below check what is used of it here.

# The lowest 9 of an instruction's 128 bits are its opcode; the next 3 say where its operands are.
WITH_WIDTH = {0x180: "LD", 0x181: "LDG", 0x183: "LDL", 0x184: "LDS", 0x185: "ST", 0x186: "STG", 0x187: "STL",
              0x188: "STS", 0x1ae: "LDGSTS"}
WITHOUT_WIDTH = {0x17e: "LDG.256", 0x17f: "STG.256", 0x03b: "LDSM", 0x03c: "HMMA",
                 0x189: "SHFL", 0x11d: "BAR",
                 # global: floats from sm_90 on without and with a result, all others likewise, compare-and-
                 # swap; shared and generic: all but compare-and-swap, compare-and-swap
                 **dict.fromkeys((0x1a6, 0x1a3, 0x18e, 0x1a8, 0x1a9, 0x18c, 0x18d, 0x18a, 0x18b), "ATOM")}
WIDTHS = (8, 8, 16, 16, 32, 64, 128, 0)  # from bits 73 to 75; 8 and 16 exist unsigned and signed
NEVER = 0xf  # bits 12 to 15: executed unless predicate 7, which is always true (ptxas emits some for sm_90)


def count_instructions(code: bytes, architecture: int) -> Dict[str, int]:
    counts: Dict[str, int] = Counter()
    for low, high in struct.iter_unpack("<QQ", code):
        opcode, width = low & 0x1ff, high >> 9 & 7
        if low >> 12 & 0xf == NEVER:
            continue
        if opcode == 0x1ae and architecture >= 100:  # its width is in bits 74 and 75
            width = 4 + width // 2
        if opcode in WITH_WIDTH:
            counts[f"{WITH_WIDTH[opcode]}.{WIDTHS[width]}"] += 1
        elif opcode in WITHOUT_WIDTH:
            counts[WITHOUT_WIDTH[opcode]] += 1
    return dict(counts)


def elf_sections(elf: bytes) -> Iterator[Tuple[str, bytes]]:
    """Name and contents of each section that has contents in the file."""
    if elf[:6] != b"\x7fELF\x02\x01":
        raise ValueError("not a little-endian ELF file of 64 bits")
    (table,) = struct.unpack_from("<Q", elf, 0x28)
    entry, count, names = struct.unpack_from("<HHH", elf, 0x3a)
    headers = [struct.unpack_from("<IIQQQQ", elf, table + i * entry) for i in range(count)]
    for name, kind, _, _, offset, size in headers:
        begin = headers[names][4] + name
        empty = kind in (0, 8)  # SHT_NULL, SHT_NOBITS
        yield elf[begin:elf.index(b"\0", begin)].decode(), b"" if empty else elf[offset:offset + size]


# ---------------------------------------------------------------------------------------------
# the compiler


def find_nvcc() -> Optional[str]:
    home = os.environ.get("CUDA_HOME")
    return (home and shutil.which(f"{home}/bin/nvcc")) or shutil.which("nvcc") \
        or shutil.which("/usr/local/cuda/bin/nvcc")


def cublas_flags() -> List[str]:
    """The folder of cuBLAS's header if it is not the toolkit's own: the one of pip's cuBLAS."""
    toolkit = [Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "include"]
    wheels = sorted(ROOT.glob(".venv/lib/python3*/site-packages/nvidia/cu*/include"))
    found = [folder for folder in toolkit + wheels if (folder / "cublas_v2.h").exists()]
    return ["-isystem", str(found[0])] if found else []


def run(command: Sequence[str], stdin: str = "") -> Tuple[int, str]:
    result = subprocess.run(command, cwd=ROOT, input=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            text=True)
    return result.returncode, result.stdout


class Compiled(NamedTuple):
    cubin: bytes  # empty if it did not compile
    log: str


def compile_for(nvcc: str, file: Path, architecture: int, flags: Sequence[str]) -> Compiled:
    """Compiles `file` for one architecture, or takes it from the cache if no input of nvcc has changed."""
    command = [nvcc, f"-arch=sm_{architecture}", *FLAGS, *flags, "-I.", *cublas_flags(), str(file)]
    code, text = run([*command, "-E"])
    if code != 0:
        return Compiled(b"", text)
    key = "\n".join([nvcc_version(nvcc), *command, text])
    name = f"{file.stem}.{architecture}{''.join(flags)}."
    cubin = CACHE / f"{name}{hashlib.sha256(key.encode()).hexdigest()[:20]}.cubin"
    log = cubin.with_suffix(".log")
    if not cubin.exists() or not log.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        for old in CACHE.glob(f"{name}*"):
            old.unlink()
        partial = cubin.with_suffix(f".partial{os.getpid()}")
        code, text = run([*command, "-cubin", "-o", str(partial)])
        if code != 0:
            return Compiled(b"", text)
        log.write_text(text)
        partial.rename(cubin)
    return Compiled(cubin.read_bytes(), log.read_text())


def warnings(log: str) -> List[str]:
    return [line for line in run(["c++filt"], log)[1].splitlines() if re.search(r"\b(warning|error)\b", line)]


def nvcc_version(nvcc: str) -> str:
    match = re.search(r"\bV([\d.]+)", run([nvcc, "--version"])[1])
    return match.group(1) if match else "?"


def demangle(names: Sequence[str]) -> List[str]:
    """C++ names without the types of their arguments: rmsnorm_forward_kernel<8>."""
    _, text = run(["c++filt"], "\n".join(names))
    plain = [line.replace("(anonymous namespace)::", "").split("(")[0] for line in text.splitlines()]
    return [re.sub(r"^.*? (?=\w+<)", "", name) for name in plain]


def number(pattern: str, text: str) -> int:
    match = re.search(pattern, text)
    return int(match.group(1)) if match else 0


def read_kernels(compiled: Compiled, precision: str, architecture: int) -> List[Kernel]:
    """The kernels of a cubin, with what ptxas reports; their blocks per multiprocessor are not known yet."""
    codes = {name[6:]: code for name, code in elf_sections(compiled.cubin) if name.startswith(".text.")}
    kernels = []
    for (symbol, code), name in zip(codes.items(), demangle(list(codes))):
        said = re.search(rf"Function properties for {re.escape(symbol)}\n(.*\n.*)\n", compiled.log)
        if said is None:
            raise ValueError(f"ptxas reports nothing about {symbol}")
        text = said.group(1)
        row = next((r for r in KERNELS if re.fullmatch(r.pattern, name)), UNKNOWN)
        kernels.append(Kernel(
            name, precision, architecture, row, number(r"Used (\d+) registers", text),
            number(r"(\d+) bytes stack", text),
            number(r"(\d+) bytes spill stores", text) + number(r"(\d+) bytes spill loads", text),
            number(r"(\d+) bytes smem", text), number(r"used (\d+) barriers", text),
            count_instructions(code, architecture)))
    return kernels


OCCUPANCY = r"""
#include <cuda_occupancy.h>
#include <stdio.h>

// architecture, threads and KiB of a multiprocessor; registers, barriers, static, dynamic, threads of a block
int main() {
    int architecture, most_threads, kib, registers, barriers, shared, dynamic, threads;
    while (scanf("%d %d %d %d %d %d %d %d", &architecture, &most_threads, &kib, &registers, &barriers,
                 &shared, &dynamic, &threads) == 8) {
        cudaOccDeviceProp gpu;
        gpu.computeMajor = architecture / 10;
        gpu.computeMinor = architecture % 10;
        gpu.maxThreadsPerBlock = 1024;
        gpu.maxThreadsPerMultiprocessor = most_threads;
        gpu.regsPerBlock = gpu.regsPerMultiprocessor = 65536;
        gpu.warpSize = 32;
        gpu.sharedMemPerBlock = 48 * 1024;
        gpu.sharedMemPerMultiprocessor = kib * 1024;
        gpu.sharedMemPerBlockOptin = (kib - 1) * 1024;
        gpu.reservedSharedMemPerBlock = 1024;
        gpu.numSms = 1;
        cudaOccFuncAttributes kernel;
        kernel.maxThreadsPerBlock = threads;
        kernel.numRegs = registers;
        kernel.sharedSizeBytes = shared;
        kernel.numBlockBarriers = barriers;
        kernel.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN;
        kernel.maxDynamicSharedSizeBytes = dynamic;
        cudaOccDeviceState state;
        state.carveoutConfig = SHAREDMEM_CARVEOUT_MAX_SHARED;
        cudaOccResult result;
        bool ok = cudaOccMaxActiveBlocksPerMultiprocessor(&result, &gpu, &kernel, &state, threads, dynamic) ==
                  CUDA_OCC_SUCCESS;
        printf("%d\n", ok ? result.activeBlocksPerMultiprocessor : 0);
    }
}
"""


def with_blocks(nvcc: str, kernels: List[Kernel]) -> List[Kernel]:
    """The same kernels, with the number of their blocks that a multiprocessor holds at once."""
    program = CACHE / f"occupancy.{hashlib.sha256(OCCUPANCY.encode()).hexdigest()[:20]}"
    if not program.exists():
        source = program.with_suffix(".cpp")
        source.write_text(OCCUPANCY)
        code, text = run([nvcc, "--cudart", "none", str(source), "-o", str(program)])
        if code != 0:
            raise ValueError(f"the occupancy calculator does not compile: {text}")
    asked = [k for k in kernels if k.architecture in GPUS and k.row is not UNKNOWN]
    questions = ((k.architecture, *GPUS[k.architecture], k.registers, k.barriers, k.shared, k.dynamic(),
                  k.row.threads) for k in asked)
    _, text = run([str(program)], "\n".join(" ".join(map(str, question)) for question in questions))
    blocks = iter(text.split())
    return [k._replace(blocks=int(next(blocks))) if k in asked else k for k in kernels]


# ---------------------------------------------------------------------------------------------
# the table


def table(kernels: List[Kernel], precision: str, version: str) -> str:
    """The wide kernels of one precision as a Markdown table."""
    shown = [k for k in kernels if k.precision == precision and k.architecture in GPUS
             and k.wide() and (k.row is UNKNOWN or k.row.kind != "PLAIN")]
    on = " / ".join(f"sm_{a}" for a in sorted({k.architecture for k in shown}))
    lines = [f"nvcc {version}, {precision}; a / b / c are those of {on}.", "",
             "| kernel | registers | spilled | shared memory | threads | blocks | occupancy % "
             "| loads | stores | LDGSTS, LDSM, HMMA |", "|" + "---|" * 10]
    for name in sorted({k.name for k in shown}):
        same = sorted((k for k in shown if k.name == name), key=lambda k: k.architecture)
        k, threads = same[-1], same[-1].row.threads
        filled = (100 * (k.blocks or 0) * threads / GPUS[k.architecture][0] for k in same)
        cells = [f"`{name}`", " / ".join(str(k.registers) for k in same), sum(k.spills for k in same),
                 f"{k.shared} + {k.dynamic()}", threads, " / ".join(str(k.blocks or "?") for k in same),
                 " / ".join(f"{percent:.0f}" for percent in filled),
                 *(f"{k.count(access + '.(128|256)')} + {k.count(access + '.(8|16|32|64)')}"
                   for access in ("LDG", "STG")),
                 ", ".join(str(k.count(pattern)) for pattern in (r"LDGSTS\..*", "LDSM", "HMMA"))]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


# ---------------------------------------------------------------------------------------------
# tests of this tool: kernels with known instructions, and broken ones

TYPES = ((8, "signed char"), (16, "short"), (32, "int"), (64, "int2"), (128, "int4"))
# arguments, body, and the counted instructions that the compiler makes of it, on all architectures
PROBES = [
    *[(f"const {t} *a, {t} *b", "b[x] = a[x];", f"LDG.{w} STG.{w}") for w, t in TYPES],
    *[(f"const {t} *a, int *b", "b[x] = a[x];", f"LDG.{w} STG.32") for w, t in TYPES[:2]],
    *[(f"const {t} *a, {t} *b",
       f"__shared__ {t} s[64]; s[x] = a[x]; __syncthreads(); b[x] = s[63 - x];",
       f"LDG.{w} STS.{w} BAR LDS.{w} STG.{w}") for w, t in TYPES],
    ("long a, int *b", 'asm volatile("ld.u32 %0, [%1];" : "=r"(*b) : "l"(a));', "LD.32 STG.32"),
    ("long a, short b", 'asm volatile("st.u16 [%0], %1;" :: "l"(a), "h"(b));', "ST.16"),
    ("int *a, int i", "volatile int s[4]; s[i] = i; *a = s[i + 1];", "STL.32 LDL.32 STG.32"),
    *[("const int4 *a", "__shared__ int4 s[32]; const int to = (int)__cvta_generic_to_shared(s + x);"
       f'asm volatile("cp.async.{way}.shared.global [%0], [%1], {w // 8};" :: "r"(to), "l"(a + x));',
       f"LDGSTS.{w}") for way, w in (("ca", 32), ("ca", 64), ("cg", 128))],
    ("int *a", 'asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"'
     ' : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3]) : "r"(x));', "LDSM STG.32 STG.32 STG.32 STG.32"),
    ("float *a, int b", "float c[4] = {};"
     'asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 '
     '{%0, %1, %2, %3}, {%4, %4, %4, %4}, {%4, %4}, {%0, %1, %2, %3};"'
     ' : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(b)); *a = c[0];', "HMMA STG.32"),
    ("int *a, int i", "*a = __shfl_xor_sync(~0u, x, 1) + __shfl_sync(~0u, x * 3, i);", "SHFL SHFL STG.32"),
    ("int i", '__syncthreads(); asm volatile("bar.sync %0, 64;" :: "r"(i));', "BAR BAR"),
    *[(f"{t} *a", f"atomicAdd(a + x, ({t})1);", "ATOM") for t in ("int", "float", "double")],
    *[(f"{t} *a", f"*a = atomicAdd(a + x + 1, ({t})1);", "ATOM STG.32") for t in ("int", "float")],
    ("int *a", "*a = atomicCAS(a + x + 1, 1, 2);", "ATOM STG.32"),
    ("int *a", "__shared__ int s[32]; *a = atomicExch(s + x, 1);", "ATOM STG.32"),
    ("int *a", "__shared__ int s[32]; *a = atomicCAS(s + x, 1, 2);", "ATOM STG.32"),
    ("int a, long b", 'asm volatile("red.add.u32 [%1], %0;" :: "r"(a), "l"(b));', "ATOM"),
    ("int *a, long b", 'asm volatile("atom.cas.b32 %0, [%1], 1, 2;" : "=r"(*a) : "l"(b));', "ATOM STG.32"),
]
EIGHT = "{r0, r1, r2, r3, r4, r5, r6, r7}"
WIDE_PROBE = ("int *a", f'asm volatile("{{ .reg .b32 r<8>; ld.global.v8.b32 {EIGHT}, [%0]; '  # from sm_100 on
              f'st.global.v8.b32 [%0 + 32], {EIGHT}; }}" :: "l"(a));', "LDG.256 STG.256")
SPILLING = """
extern "C" __global__ void spilling(float *a) {
    float v[300];
#pragma unroll
    for (int i = 0; i < 300; i++) { v[i] = a[7 * i]; }
#pragma unroll
    for (int i = 0; i < 300; i++) { a[5 * i] = v[299 - i] * v[77 * i % 300]; }
}
"""


def probes(architecture: int) -> List[Tuple[str, str, str]]:
    return PROBES + [WIDE_PROBE] if architecture >= 100 else PROBES


def probe_source(architecture: int) -> str:
    kernels = (f'extern "C" __global__ void probe_{i}({arguments}) {{ const int x = threadIdx.x; {body} }}\n'
               for i, (arguments, body, _) in enumerate(probes(architecture)))
    return "".join(kernels) + SPILLING


passed = failed = 0


def check(ok: bool, what: str) -> None:
    global passed, failed
    passed += ok
    failed += not ok
    if not ok:
        print(f"FAILED {what}")


def check_probes(architecture: int, compiled: Compiled) -> None:
    where = f"probes, sm_{architecture}"
    check(compiled.cubin != b"", f"{where}: do not compile: {compiled.log}")
    kernels = {k.name: k for k in read_kernels(compiled, "bf16", architecture)} if compiled.cubin else {}
    for i, (_, body, expected) in enumerate(probes(architecture)):
        got = kernels[f"probe_{i}"].counts if kernels else {}
        check(got == Counter(expected.split()), f"{where}: {got}, should be {expected}, for {body}")
    if kernels:  # ptxas' own byte count, against two ways to see a spill
        spilling = kernels["spilling"]
        seen = sum(n * int(name[4:]) // 8 for name, n in spilling.counts.items()
                   if name.startswith(("LDL", "STL")))
        check(0 < seen == spilling.spills, f"{where}: {seen} bytes spilled, ptxas says {spilling.spills}")
        warned = any("spilling" in line for line in warnings(compiled.log))
        check(warned, f"{where}: no warning of a spill")


def check_reader() -> None:
    """Tests the ELF reader and the counter on a file made here: two sections, and one without contents."""
    names = b"\0.names\0.text.f\0.bss\0"
    code = b"".join(struct.pack("<QQ", low, high) for low, high in (
        (0x7981, 6 << 9), (0x7381, 6 << 9), (0x7986, 2 << 9), (0xf984, 4 << 9), (0x723c, 0), (0x7918, 0)))
    places = [(0, 0, 0, 0), (1, 3, 64, len(names)), (8, 1, 128, len(code)), (16, 8, 128, 1 << 20)]
    elf = bytearray(512)
    elf[:6], elf[64:64 + len(names)], elf[128:128 + len(code)] = b"\x7fELF\x02\x01", names, code
    struct.pack_into("<Q", elf, 0x28, 256)
    struct.pack_into("<HHH", elf, 0x3a, 64, 4, 1)
    for i, (name, kind, offset, size) in enumerate(places):
        struct.pack_into("<IIQQQQ", elf, 256 + 64 * i, name, kind, 0, 0, offset, size)
    sections = dict(elf_sections(bytes(elf)))
    check(sections == {"": b"", ".names": names, ".text.f": code, ".bss": b""}, f"ELF reader: {sections}")
    counts = count_instructions(sections.get(".text.f", b""), 80)
    check(counts == {"LDG.128": 2, "STG.16": 1, "HMMA": 1}, f"instruction counter: {counts}")


def check_rules() -> None:
    """Kernels that keep all rules, and the same kernels with one violation at a time."""
    counts = {"LDG.128": 3, "STG.128": 1, "LDG.32": 1, "HMMA": 8, "LDSM": 4, "LDGSTS.128": 2}
    stream = Kernel("copy<8>", "bf16", 80, Row("", "STREAM", 256, loads=1), 64, 0, 0, 0, 0, counts, 2)
    tiled = stream._replace(row=Row("", "TILED", 128, loads=1))
    half = stream._replace(row=Row("", "STREAM", 256, loads=1, width=64), counts={**counts, "LDG.64": 2})
    for kernel in (stream, tiled, half, stream._replace(name="copy<1>", counts={"LDG.16": 9})):
        check(all(ok for ok, _ in verdicts(kernel)), f"rules: {list(verdicts(kernel))}")
    for kernel, rule, name, n in [
            (stream, "accesses to local memory", "STL.64", 1), (stream, "generic accesses", "ST.8", 1),
            (tiled, "generic accesses", "LD.32", 1), (tiled, "atomics", "ATOM", 1),
            (tiled, "narrow loads", "LDG.16", 1), (stream, "narrow loads", "LDG.64", 1),
            (half, "narrow loads", "LDG.8", 1),
            (stream, "narrow stores", "STG.16", 1), (tiled, "HMMA", "HMMA", 0), (tiled, "LDSM", "LDSM", 0),
            (tiled, "LDGSTS", "LDGSTS.128", 0), (stream, "narrow loads", "LDGSTS.32", 1)]:
        check_broken(kernel._replace(counts={**counts, name: n}), rule)
    check_broken(stream._replace(counts={"STG.128": 1}), "wide loads")
    check_broken(stream._replace(spills=4), "bytes spilled")
    check_broken(stream._replace(stack=8), "bytes of stack")
    check_broken(stream._replace(registers=65), "registers")
    check_broken(stream._replace(blocks=0), "blocks on a multiprocessor")
    check_broken(tiled._replace(blocks=1), "blocks on an A100 or H100")


def check_broken(kernel: Kernel, rule: str) -> None:
    broken = [what for ok, what in verdicts(kernel) if not ok]
    check(len(broken) == 1 and broken[0].startswith(rule + ":"), f"rules: {rule}: {broken}")


# ---------------------------------------------------------------------------------------------


def check_readme(new: str, version: str, write: bool) -> None:
    """Compares the table in README.md with the figures, if the compiler is the same; or writes it."""
    begin, rest = README.read_text().split(BEGIN)
    old, end = rest.split(END)
    if write:
        README.write_text(begin + BEGIN + new + END + end)
    elif f"nvcc {version}," not in old:
        print(f"skipped: the table in README.md (it is not of nvcc {version})")
    else:
        check(old == new, "the table in dev/cuda/README.md differs from the measured one; --write updates it")


def examine(nvcc: str, file: Path, jobs: List[Tuple[str, int]]) -> List[Kernel]:
    """Compiles the probes and `file`, two at a time, and checks all results."""
    CACHE.mkdir(parents=True, exist_ok=True)
    architectures = sorted({architecture for _, architecture in jobs})
    for architecture in architectures:
        (CACHE / f"probes_{architecture}.cu").write_text(probe_source(architecture))
    with ThreadPoolExecutor(2) as pool:
        probed = [pool.submit(compile_for, nvcc, CACHE / f"probes_{a}.cu", a, []) for a in architectures]
        compiled = [pool.submit(compile_for, nvcc, file, a, PRECISIONS[p]) for p, a in jobs]
    for architecture, probe in zip(architectures, probed):
        check_probes(architecture, probe.result())

    kernels: List[Kernel] = []
    for (precision, architecture), result in zip(jobs, compiled):
        cubin, log = result.result()
        where = f"{precision}, sm_{architecture}"
        check(cubin != b"", f"{where}: does not compile:\n{log}")
        if cubin:
            found = warnings(log)
            check(not found, f"{where}: warnings:\n" + "\n".join(found))
            kernels += read_kernels(result.result(), precision, architecture)
    kernels = with_blocks(nvcc, kernels)
    for kernel in kernels:
        where = f"{kernel.precision}, sm_{kernel.architecture}: {kernel.name}"
        for ok, what in verdicts(kernel):
            check(ok, f"{where}: {what}")
        check(kernel.row is not UNKNOWN or file != DEFAULT, f"{where}: is not in KERNELS")
    return kernels


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("file", nargs="?", type=Path, default=DEFAULT, metavar="FILE.cu")
    parser.add_argument("--architectures", default="80,86,89,90,100,120", help="%(default)s")
    parser.add_argument("--precision", choices=[*PRECISIONS, "both"], default="both", help="%(default)s")
    parser.add_argument("--write", action="store_true", help="put the table into dev/cuda/README.md")
    options = parser.parse_args()
    architectures = [int(a) for a in options.architectures.split(",")]
    precisions = list(PRECISIONS) if options.precision == "both" else [options.precision]
    jobs = [(p, a) for p in precisions for a in architectures
            if p == options.precision or p == "bf16" or a in FP32_ARCHITECTURES]
    check_reader()
    check_rules()
    nvcc = find_nvcc()
    if nvcc is None or shutil.which("c++filt") is None:
        print("skipped: nvcc (CUDA Toolkit or binutils not installed; see README.md)")
    else:
        kernels = examine(nvcc, options.file.resolve(), jobs)
        version = nvcc_version(nvcc)
        for precision in precisions:
            print("\n" + table(kernels, precision, version))
        if options.file.resolve() == DEFAULT and {("bf16", a) for a in GPUS} <= set(jobs):
            for row in KERNELS:
                check(any(k.row is row for k in kernels), f"no kernel matches {row.pattern} of KERNELS")
            check_readme(table(kernels, "bf16", version), version, options.write)
        else:
            print("skipped: the table in README.md (it is of train_olmo2.cu in bf16 on all of GPUS)")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
