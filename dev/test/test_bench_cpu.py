#!/usr/bin/env python3
"""Tests scripts/bench_cpu.sh without measuring anything: the lines that programs print, ratios and verdicts,
the results and the README's table, error messages, the protocol of the real programs, and the script from end
to end, with stubs for the contenders."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Callable

ROOT = Path(__file__).resolve().parent.parent.parent
BENCH = ROOT / "dev" / "bench"
sys.path.insert(0, str(BENCH))

import bench_cpu
import cpu_report
from bench_cpu import Bench, Failure, Player
from cpu_report import BARS, MARKERS, SECTIONS, Bar, Comparison, Contender, Results, Section, Spread, Taken

passed = failed = 0
README = f"# A\n\n{MARKERS[0]}\nold\n{MARKERS[1]}\n\nThe end.\n"


def check(ok: bool, what: str) -> None:
    global passed, failed
    passed, failed = passed + bool(ok), failed + (not ok)
    if not ok:
        print(f"FAILED {what}")


def fails(call: Callable[[], object], words: str) -> bool:
    try:
        call()
    except Failure as failure:
        return words in str(failure)
    return False


# ---------------------------------------------------------------------------------------------
# lines and figures

GEMM_ROW = (
    "{:<7} 1024    512    512   140.1 (139.0 - 141.0)       166.2 (160.0 - 170.5)        84.3 %  "
    " 135.0 (130.0 - 136.0)     1.038\n"
    "{:<7} geometric mean       140.0                                                84.0 %        {}\n"
)
GEMM_TEXT = (
    "OpenBLAS 0.3.31  DYNAMIC_ARCH SkylakeX; kernels for SkylakeX\n2 threads, 512-bit vectors, GFLOP/s\n"
    + "".join(GEMM_ROW.format(layout, layout, 1.03) for layout in ("forward", "dInput", "dWeight"))
)


def test_lines() -> None:
    notes = {"tokens": 1024, "parameters": 85082624}
    check(bench_cpu.parse_ready("ready tokens 1024 parameters 85082624\n") == notes, "notes")
    check(bench_cpu.parse_ready("ready\n") == {}, "ready without notes")
    for line in ("", "ready to go\n", "ready tokens\n", "already tokens 1\n", "ready tokens 1.5\n"):
        check(bench_cpu.parse_ready(line) is None, f"not ready: {line!r}")
    check(bench_cpu.parse_step("step 12.345 ms: data 0.1, forward 3.0\n") == 12.345, "a step")
    check(bench_cpu.parse_step("step 12 ms\n") == 12, "a step of whole milliseconds")
    for line in ("", "step nan ms\n", "median 3 min 2 max 4\n", "step 3 s\n"):
        check(bench_cpu.parse_step(line) is None, f"no step: {line!r}")


def test_gemm() -> None:
    rows = cpu_report.parse_gemm(GEMM_TEXT)
    check([row.layout for row in rows[::2]] == ["forward", "dInput", "dWeight"], "the layouts")
    row, mean = rows[:2]
    check(row.shape == "1024 x 512 x 512" and row.ours == Spread(140.1, 139.0, 141.0), "a shape")
    check(row.share == 0.843 and row.ratio == 1.038, "its ratios")
    check(row.theirs == Spread(135.0, 130.0, 136.0), "OpenBLAS")
    check(not mean.shape and mean.share == 0.84 and mean.ratio == 1.03, "a geometric mean")
    alone = re.sub(r"135.0 \(130.0 - 136.0\)|1.03.?\n", lambda m: re.sub(r"[\d.]+", "nan", m[0]), GEMM_TEXT)
    rows = cpu_report.parse_gemm(alone)
    check(len(rows) == 6 and {row.ratio for row in rows} == {None}, "without OpenBLAS")
    check(rows[0].theirs is None and rows[0].share == 0.843, "the peak without OpenBLAS")
    check(fails(lambda: cpu_report.parse_gemm("killed\n"), "killed"), "no figures at all")


def test_figures() -> None:
    for x, text in ((1234.5, "1,234"), (123.45, "123"), (12.345, "12.3"), (1.2345, "1.23"), (0.01, "0.01")):
        check(cpu_report.figure(x) == text, f"{x}: {cpu_report.figure(x)}")
    check(str(Spread.of([3.0, 1.0, 200.0])) == "3.00 (1.00–200)", "a spread")


OURS, THEIRS = Contender("ours", "x", own=True), Contender("theirs", "y")
HALF = [Contender("ours", "x", own=True, dtype="bf16"), Contender("theirs", "y", dtype="bf16")]


def comparison(*times: tuple[Contender, list[float]]) -> Comparison:
    taken = [Taken(c, {"tokens": 1000}, ms, int(1e9 * max(ms))) for c, ms in times]
    return Comparison(SECTIONS[0], SECTIONS[0].subjects[0], taken)


def test_ratios() -> None:
    # The ratios of the rounds are 2, 4 and 3; the ratio of the medians would be 80 / 20 = 4.
    c = comparison((OURS, [10, 20, 30]), (THEIRS, [20, 80, 90]), (HALF[0], [1, 1, 1]), (HALF[1], [5, 5, 5]))
    check(c.speed(c.taken[1]) == Spread(3, 2, 4), "the median of the rounds' ratios")
    check(c.speed(c.taken[3]) == Spread(5, 5, 5), "bf16 is compared with bf16")
    check(c.memory(c.taken[1]) == 30 / 90, "a ratio of memory")
    check(cpu_report.over_fp32(c, c.taken[2]) == 20, "our bf16 over our fp32")
    check(c.rate(c.taken[0]) == Spread(50_000, 1e6 / 30, 100_000), "tokens a second")
    labels = [t.contender.label() for t in c.taken]
    check(labels == ["ours", "theirs", "ours, bf16", "theirs, bf16"], f"labels: {labels}")


def test_bars() -> None:
    more, less = (Bar("x", *bars, "x", lambda _: {}) for bars in ((1.2, 1.6), (0.6, 0.45)))
    for bar, values, verdict in (
        (more, [1.6, 3.0], "aim"), (more, [9.9, 1.59], "floor"), (more, [1.2], "floor"),
        (more, [9.9, 1.19], "below"), (more, [None, 1.0], "below"), (more, [None, 9.9], "not measured"),
        (more, [], "not measured"), (more, [None], "not measured"),
        (less, [0.1, 0.45], "aim"), (less, [0.1, 0.46], "floor"), (less, [0.6], "floor"),
        (less, [0.1, 0.61], "below"), (less, [None, 0.1], "not measured"),
    ):  # fmt: skip
        found = bar.verdict({str(i): value for i, value in enumerate(values)})
        check(found == verdict, f"{values} of floor {bar.floor}, aim {bar.aim}: {found}, expected {verdict}")
    check(all(bar.floor != bar.aim for bar in BARS), "every bar has a direction")
    for section in SECTIONS:
        labels = [contender.label() for contender in section.contenders]
        check(len(set(labels)) == len(labels), f"{section.name}: every label once")
        owns = {c.dtype for c in section.contenders if c.own}
        check(
            {c.dtype for c in section.contenders} == owns,
            f"{section.name}: every contender can be compared with one of ours",
        )
        known = {subject.name for subject in section.subjects}
        check(all(set(c.only) <= known for c in section.contenders), f"{section.name}: known subjects")


# ---------------------------------------------------------------------------------------------
# the report

TIMES = {"train_olmo2": [100.0, 110.0, 120.0], "torch.compile": [150.0, 220.0, 180.0]}
FACTS = {"processor": "Stand-in", "threads": "2 of 4 processors", "commit": "abc1234", "rounds": "3"}


def made_up(section: Section) -> list[Comparison]:
    """Other programs take twice our time and memory; torch.compile takes less."""
    said = {"tokens": 1024, "documents": 8, "bytes": 4_000_000, "parameters": 10_000_000, "logits": 64 << 20}
    return [
        Comparison(section, subject, [
            Taken(c, said, TIMES.get(c.name, [200.0, 220.0, 240.0]), int(2e8 * (1 + (not c.own))))
            for c in section.on(subject)
        ])
        for subject in section.subjects
    ]  # fmt: skip


def results() -> Results:
    r = Results(dict(FACTS), cpu_report.parse_gemm(GEMM_TEXT), notes=["a note"], commands=["build/bench_x"])
    r.comparisons = [c for section in SECTIONS for c in made_up(section)]
    return r


def columns_agree(text: str) -> bool:
    """Whether every row of a table has as many columns as its heading."""
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    return all(len({row.count("|") for row in table.splitlines()}) == 1 for table in tables) and bool(tables)


def test_report() -> None:
    text = cpu_report.write_report(results(), "scripts/bench_cpu.sh --rounds 3")
    lines = text.splitlines()
    for line in (
        "| processor | Stand-in |",
        "| forward | 1024 x 512 x 512 | 140 (139–141) | 84 % | 135 (130–136) | 1.04x |",
        "| forward | geometric mean | 140 | 84 % |  | 1.03x |",
        "| 85M, B 4, T 256 | train_olmo2 | 110 (100–120) | 9,309 (8,533–10,240) |  |",
        "| 85M, B 4, T 256 | torch.compile | 180 (150–220) | 5,689 (4,655–6,827) | 1.50x (1.50–2.00) |",
        "| 85M, B 4, T 256 | train_olmo2 | 0.20 GB | 1.25x |  |",
        "| 85M, B 4, T 256 | PyTorch eager | 0.40 GB | 2.50x | 0.50x |",
        "| matrix product / OpenBLAS, each layout | 0.95x | 1.05x | forward: **1.03x**; dInput: **1.03x**; "
        "dWeight: **1.03x** | floor |",
        "| step speed / llm.c-style loops | 3.00x | 4.00x | 85M, B 4, T 256: **2.00x**; 14M, B 16, T 256: "
        "**2.00x** | below |",
        "| peak memory / (16 B x parameters) | 1.40x | 1.25x | 85M, B 4, T 256: **1.25x** | aim |",
        "| memory for logits, V = 100352 | 64.0 MiB | 16.0 MiB | a layer of 1B, B 1, T 512: **64.0 MiB** "
        "| floor |",
        "| decoding speed / reading the weights | 80 % | 90 % | 85M, 128 tokens after 1: **200 %**; 1B, 16 tokens "
        "after 1: **200 %** | aim |",
        "| decoding speed, bf16 / fp32 | 1.80x | 1.90x | 1B, 16 tokens after 1: **1.00x** | below |",
        "- a note",
        "build/bench_x",
    ):
        check(line in lines, f"the results have: {line}")
    check("`scripts/bench_cpu.sh --rounds 3`" in text, "the command")
    check(columns_agree(text), "the columns of the results")
    check(all(len(line) <= 120 for line in lines if not line.startswith("|")), "its lines are short")
    empty = cpu_report.write_report(Results(), "x")
    check(empty.count("| not measured |") == len(BARS) and columns_agree(empty), "nothing measured")
    check("## A training step" not in empty, "no table without figures")
    partly = results()
    partly.comparisons = partly.comparisons[1:]
    text = cpu_report.write_report(partly, "x")
    check(
        "85M, B 4, T 256: not measured; 85M, B 4, T 1024: **2.00x**" in text, "a model that was not measured"
    )


def test_readme() -> None:
    table = cpu_report.readme_table(results())
    lines = table.splitlines()
    for line in (
        "| A training step: 85M, B 4, T 256 | 110 ms | PyTorch eager 220 ms, torch.compile 180 ms, "
        "llm.c-style loops 220 ms | 2.00x, 1.50x, 2.00x |",
        "| Matrix product: dInput | 140 GFLOP/s | FMA peak, OpenBLAS | 0.84x, 1.03x |",
        "| Decoding: 1B, 16 tokens after 1, bf16 | 9,309 tokens/s | transformers generate 4,655 tokens/s, "
        "reading the weights 4,655 tokens/s | 2.00x, 2.00x |",
        "| The tokenizer: encoding | 36.4 MB/s | tokenizers 18.2 MB/s, tiktoken 18.2 MB/s | 2.00x, 2.00x |",
        "Of 18 bars: 7 aim, 9 floor, 2 below, 0 not measured. "
        "[Spreads, bars, commands](dev/bench/RESULTS.md).",
    ):
        check(line in lines, f"the README's table has: {line}")
    check(
        "Stand-in; 2 of 4 processors; commit abc1234; medians of 3 rounds" in table.replace("\n", " "),
        "where",
    )
    check(columns_agree(table + "\n"), "its columns")
    check(all(len(line) <= 120 for line in lines if not line.startswith("|")), "its lines are short")
    new = cpu_report.assemble(README, table)
    check(new == README.replace("old", table), "it replaces the old one, and nothing else")
    check(cpu_report.assemble(new, "old") == README, "there and back")
    for what, text in {
        "no marker": "# A\n",
        "no end": README.replace(MARKERS[1], ""),
        "no begin": README.replace(MARKERS[0], ""),
        "two begins": README + MARKERS[0],
        "end before begin": f"{MARKERS[1]}\n{MARKERS[0]}\n",
    }.items():
        check(fails(lambda text=text: cpu_report.assemble(text, table), "expected one line"), what)
    check(
        MARKERS[0] in cpu_report.assemble((ROOT / "README.md").read_text(), ""), "README.md has its markers"
    )


# ---------------------------------------------------------------------------------------------
# the environment and the flags


def test_environment() -> None:
    forced = {
        "OPENBLAS_CORETYPE": "Haswell", "OPENBLAS_L2_SIZE": "1", "MKL_DEBUG_CPU_TYPE": "5",
        "GOTO_NUM_THREADS": "1", "ATEN_CPU_CAPABILITY": "default", "DNNL_MAX_CPU_ISA": "SSE41",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "NPY_DISABLE_CPU_FEATURES": "AVX2", "TORCHDYNAMO_DISABLE": "1", "OMP_WAIT_POLICY": "passive",
        "MKL_NUM_THREADS": "1", "GOMP_SPINCOUNT": "0", "GLIBC_TUNABLES": "x", "LD_PRELOAD": "y",
    }  # fmt: skip
    clean, removed = bench_cpu.clean_environment({**forced, "PATH": "/bin", "OMP_NUM_THREADS": "7"}, 2)
    check(clean == {"PATH": "/bin", "OMP_NUM_THREADS": "2"}, f"the rest stays: {clean}")
    check(removed == sorted(f"{name}={value}" for name, value in forced.items()), "it names what was removed")
    check(bench_cpu.clean_environment({"PATH": "/bin"}, 1)[1] == [], "nothing to remove")
    check(bench_cpu.thread_count({"OMP_NUM_THREADS": "3"}) == 3, "the requested number of threads")
    check(bench_cpu.thread_count({}) >= 1, "the threads of this machine")
    for word in ("0", "two", "-1", "2,1"):
        check(
            fails(lambda word=word: bench_cpu.thread_count({"OMP_NUM_THREADS": word}), word),
            f"threads: {word}",
        )
    cpuinfo = "model name\t: A CPU\ncpu family\t: 25\nmodel\t\t: 17\nflags\t\t: sse2 avx2 avx512f\n"
    named = "A CPU, family 25, model 17, vectors of 512 bits (avx512f)"
    check(bench_cpu.processor(cpuinfo) == named, f"the processor: {bench_cpu.processor(cpuinfo)}")


def test_arguments() -> None:
    a = bench_cpu.parse_arguments([])
    check((a.rounds, a.only, a.quick, a.out) == (5, None, False, None), "the defaults")
    a = bench_cpu.parse_arguments(["--rounds", "2", "--only", "gemm,loader", "--out", "x.md"])
    check((a.rounds, a.only, str(a.out)) == (2, ["gemm", "loader"], "x.md"), "values")
    for words, said in (
        (["--rounds", "0"], "0 is not a number of 1 or more"),
        (["--rounds", "-1"], "--rounds"),
        (["--rounds", "many"], "many"),
        (["--only", "step,nonsense"], "no section 'nonsense'"),
        (["--only", ""], "no section ''"),
        (["--fast"], "--fast"),
    ):
        errors = io.StringIO()
        with contextlib.redirect_stderr(errors), contextlib.suppress(SystemExit):
            bench_cpu.parse_arguments(words)
        check(said in errors.getvalue(), f"{words} is refused: {errors.getvalue().strip()}")


# ---------------------------------------------------------------------------------------------
# programs

# Speaks the protocol like bench_step.py, and records its turns.
STUB = f"""#!{sys.executable}
import os, sys
sys.path.insert(0, {str(BENCH)!r})
from turns import take_turns
name = os.path.basename(sys.argv[0])
if "--ids" in sys.argv:
    open(sys.argv[sys.argv.index("--ids") + 1], "w").write("ids")
def step():
    with open("turns", "a") as log:
        log.write(name + "\\n")
    if os.path.exists("fail") and open("fail").read() == name:
        sys.exit("error: no luck")
    return ": stub"
take_turns(0, step, tokens=1024, documents=8, bytes=1024, parameters=1000000, logits=1024)
if os.path.exists("sulk"):
    sys.exit("error: sulking")
"""


def stub(path: Path, text: str = STUB) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def test_turns() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bench_cpu.ROOT, kept = folder, bench_cpu.ROOT
        subject = cpu_report.Subject("s", "", steps=2)
        section = Section("decode", "t", "", "tokens", "tokens/s", 1, "", (), ())
        a, b = Contender("a", "./a", own=True), Contender("b", "./b", steps=1)
        stub(folder / "a")
        stub(folder / "b")

        def run(subject: cpu_report.Subject, *contenders: Contender) -> tuple[Results, list[str]]:
            (folder / "turns").unlink(missing_ok=True)
            r = Results()
            bench = Bench(2, False, 1, {**os.environ}, folder, r)
            field = {**section.__dict__, "subjects": (subject,), "contenders": contenders}
            with contextlib.redirect_stdout(io.StringIO()):
                bench_cpu.compare(bench, Section(**field), subject)
            log = folder / "turns"
            return r, log.read_text().split() if log.exists() else []

        r, turns = run(subject, a, b)
        check(turns == ["a", "b", *"aab", *"aab"], f"they warm up, then take turns: {turns}")
        taken = r.comparisons[0].taken
        check([len(t.milliseconds) for t in taken] == [2, 2], "one time per round")
        check(all(t.peak > 1e6 for t in taken) and taken[0].said["parameters"] == 1000000, "memory and notes")
        _, turns = run(cpu_report.Subject("s", "", needs=1), a, b)
        check(turns == [*"aabb", *"aabb"], f"one at a time, they warm up in each round: {turns}")
        r, _ = run(cpu_report.Subject("s", "", needs=1e18), a)
        check(not r.comparisons and "GB of memory" in r.notes[0], f"too little memory: {r.notes}")
        for file, text, said in (("fail", "b", "no luck"), ("sulk", "", "ended with exit code 1")):
            (folder / file).write_text(text)
            check(fails(lambda: run(subject, a, b), said), f"a program that fails: {said}")
            (folder / file).unlink()
        stub(folder / "a", "#!/bin/sh\necho ready tokens 5\nread -r line\necho what?\n")
        check(fails(lambda: run(subject, a), "answered 'what?"), "an invalid answer")
        bench_cpu.ROOT = kept


def build(folder: Path, compiler: str, name: str) -> Path:
    """A real program of dev/bench, without OpenMP."""
    program = folder / name
    flags = ["-std=c11", "-D_GNU_SOURCE", "-Wno-unknown-pragmas", "-I", str(ROOT)]
    command = [compiler, *flags, str(BENCH / f"{name}.c"), "-o", str(program), "-lm"]
    built = subprocess.run(command, capture_output=True, text=True)
    check(built.returncode == 0, f"{name}.c: {built.stderr}")
    return program


def test_decoding_programs() -> None:
    """Tests that bench_decode and bench_read count the work that they do."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        print("skipped: the programs of decoding (no C compiler)")
        return
    small = "--C 16 --L 1 --NH 2 --F 16 --V 50".split()
    parameters = 2 * 50 * 16 + 4 * 16 * 16 + 3 * 16 * 16 + 5 * 16
    read = parameters - 50 * 16  # all but the embedding
    with tempfile.TemporaryDirectory() as name:
        decode, reading = (build(Path(name), compiler, f"bench_{what}") for what in ("decode", "read"))
        for program, words, expected in (
            (decode, "--prompt 4 --new 8", {"tokens": 8}),
            (decode, "--prompt 4 --new 8 --dtype bf16", {"tokens": 8}),
            (decode, "--prompt 9 --new 1", {"tokens": 9}),  # only the prompt is read
            (decode, "--slots 3 --prompt 4 --new 8", {"tokens": 24}),
            (reading, "--prompt 4 --new 8", {"tokens": 8, "bytes": 4 * read}),
            (reading, "--new 2 --dtype bf16", {"tokens": 2, "bytes": 2 * read}),
        ):
            taken = Taken(OURS)
            player = Player([str(program), *small, *words.split(), "--steps", "0"], os.environ, taken)
            player.start()
            check(player.step() > 0, f"{program.name} {words}: a time")
            player.end()
            expected = {**expected, "parameters": parameters}
            check(taken.said == expected, f"{program.name} {words}: {taken.said}, expected {expected}")
        for program, words, said in (
            (decode, ["--slots", "0"], "--slots, --prompt, --new: expected 1 or more"),
            (decode, ["--dtype", "fp16"], "--dtype fp16: expected fp32 or bf16"),
            (reading, ["--C", "0"], "expected 1 or more"),
        ):
            ran = subprocess.run([program, *small, *words], capture_output=True, text=True)
            check(ran.returncode == 1 and said in ran.stderr, f"{words} is refused: {ran.stderr.strip()}")


def test_scoring_program() -> None:
    """Tests that bench_eval reads the questions that bench_cpu makes where ARC-Easy is not at hand."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        print("skipped: the program that scores (no C compiler)")
        return
    small = "--C 16 --L 1 --NH 2 --F 16 --V 512 --documents 3 --steps 0".split()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        program = build(folder, compiler, "bench_eval")
        bench = Bench(1, True, 1, dict(os.environ), folder, Results())
        words = bench_cpu.prepare_requests(bench)
        check(len(bench.results.notes) == 1, "a note says that the questions are made")
        player = Player([str(program), *small, *words], os.environ, Taken(OURS))
        player.start()
        check(player.step() > 0, "a time")
        player.end()
        check(player.taken.said["documents"] == 3, f"its notes: {player.taken.said}")
        without = subprocess.run([program, *small, *words[:2]], capture_output=True, text=True)
        said = "--tokenizer, --requests: are needed"
        check(without.returncode == 1 and said in without.stderr, f"no requests: {without.stderr.strip()}")


def test_programs() -> None:
    """Tests that programs with bench.h speak the protocol."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        print("skipped: the programs themselves (no C compiler)")
        return
    with tempfile.TemporaryDirectory() as name:
        program = build(Path(name), compiler, "bench_step")
        small = "--C 16 --L 1 --NH 2 --F 16 --V 50 --B 2 --T 8".split()
        taken = Taken(OURS)
        player = Player([str(program), *small, "--steps", "0"], os.environ, taken)
        player.start()
        check([player.step() > 0 for _ in range(3)] == [True] * 3, "a time for every line")
        player.end()
        parameters = 2 * 50 * 16 + 4 * 16 * 16 + 3 * 16 * 16 + 5 * 16
        expected = {"tokens": 16, "parameters": parameters, "logits": 16 * 50 * 4}
        check(taken.said == expected, f"its notes: {taken.said}, expected {expected}")
        for words, said in (
            (["--steps"], "--steps: needs a value"),
            (["--what", "1"], "--what: no such flag"),
            (["--B", "-1"], "--B -1: expected a number"),
            (["--NH", "7"], "expected 1 or more, and C a multiple of 2 NH"),
            (["--data", "absent"], "absent"),
            (["--B", "0"], "expected 1 or more"),
            (["--dtype", "fp16"], "--dtype fp16: expected fp32 or bf16"),
        ):
            ran = subprocess.run([program, *small, *words], capture_output=True, text=True)
            check(ran.returncode == 1 and said in ran.stderr, f"{words} is refused: {ran.stderr.strip()}")
        ran = subprocess.run([program, *small, "--steps", "2"], capture_output=True, text=True, input="")
        check(
            re.search(r"^median [\d.]+ min [\d.]+ max [\d.]+$", ran.stdout, re.MULTILINE) is not None, "alone"
        )
    for line in ('"%6.1f (%.1f - %.1f)"', '"; kernels for ', "geometric mean"):
        check(
            line.strip('"') in (BENCH / "bench_gemm.c").read_text(), f"bench_gemm prints what parse_gemm reads: {line}"
        )


# ---------------------------------------------------------------------------------------------
# the script

PROGRAMS = ("gemm", "step", "decode", "read", "eval", "tokenizer", "loader")
MAKEFILE = "build/bench_%:\n\tmkdir -p build && cp stub_$(@F) $@\n"
PYTHON = f"""#!/bin/sh
case "$*" in *"-m pip"*) exit 0 ;; esac
exec {sys.executable} "$@"
"""
PRIMER = """import sys, pathlib
pathlib.Path(sys.argv[-1], "train.jsonl").write_text('{"text": "Once."}\\n')
"""
BPE = "import sys, pathlib\npathlib.Path(sys.argv[4]).write_text('{}')\n"


def script_tree(folder: Path) -> None:
    """Makes a project around scripts/bench_cpu.sh from stubs."""
    real = [f"dev/bench/{name}.py" for name in ("bench_cpu", "cpu_report", "gpu_report", "turns")]
    for path in (*real, "scripts/bench_cpu.sh", "scripts/setup.sh", "dev/reference/requirements.txt"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, folder / path)
    (folder / "README.md").write_text(README)
    (folder / "gemm").write_text(GEMM_TEXT)
    (folder / "Makefile").write_text(MAKEFILE)
    for program in PROGRAMS[1:]:
        stub(folder / f"stub_bench_{program}")
        stub(folder / "dev" / "bench" / f"bench_{program}.py")
    stub(folder / "stub_bench_gemm", "#!/bin/sh\ncat gemm\n")
    stub(folder / "stub_bench_step_loops")
    stub(folder / ".venv" / "bin" / "python", PYTHON)
    stub(folder / "data" / "primer.py", PRIMER)
    stub(folder / "data" / "train_bpe.py", BPE)
    (folder / ".venv" / "installed").write_text("numpy\nmatplotlib\ntiktoken==0.14.0\n")
    shutil.copy(ROOT / "dev" / "reference" / "requirements.txt", folder / ".venv" / "reference")


def run_script(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(folder / "scripts" / "bench_cpu.sh"), *words]
    environment = {**os.environ, **variables}
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=120)


def test_script() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "project"
        script_tree(folder)
        readme, report = folder / "README.md", folder / "dev" / "bench" / "RESULTS.md"

        def untouched(what: str) -> None:
            check(readme.read_text() == README and not report.exists(), f"nothing is written: {what}")

        for words, said in (
            (("--rounds",), "--rounds needs a value"),
            (("--fast",), "unknown argument '--fast'"),
            (("--rounds", "0"), "0 is not a number of 1 or more"),
            (("--only", "speed"), "no section 'speed'"),
        ):
            ran = run_script(folder, *words)
            check(ran.returncode != 0 and said in ran.stderr, f"{words}: {ran.stderr.strip()}")
        ran = run_script(folder, "--help")
        check(ran.returncode == 0 and "--rounds N" in ran.stdout, "its help")

        ran = run_script(folder, "--quick", OPENBLAS_CORETYPE="Haswell", OMP_NUM_THREADS="2")
        check(ran.returncode == 0, f"--quick: {ran.stdout[-500:]} {ran.stderr[-500:]}")
        check("unset OPENBLAS_CORETYPE=Haswell" in ran.stdout, "it names what it unsets")
        check("unset GOMP_SPINCOUNT" not in ran.stdout, "but not the script's own variable")
        check("the figures mean nothing" in ran.stdout, "--quick says that its figures mean nothing")
        untouched("--quick")
        ran = run_script(folder, "--quick", "--only", "gemm", "--out", "some.md")
        text = (folder / "some.md").read_text() if (folder / "some.md").exists() else ran.stderr
        check("| forward | geometric mean |" in text and "## A training step" not in text, "--only, --out")
        untouched("--out")

        stub(folder / "stub_bench_tokenizer", STUB.replace('"ids")', '"others")'))
        (folder / "build" / "bench_tokenizer").unlink()
        ran = run_script(folder, "--only", "tokenizer")
        check("not the same tokens" in ran.stderr and ran.returncode == 1, f"other tokens: {ran.stderr}")
        stub(folder / "stub_bench_tokenizer")
        (folder / "build" / "bench_tokenizer").unlink()
        (folder / "fail").write_text("bench_step.py")
        ran = run_script(folder, "--rounds", "1")
        check(ran.returncode == 1 and "no luck" in ran.stderr, "a failure after the first figures")
        untouched("a failure halfway")
        (folder / "fail").unlink()
        readme.write_text("# A\n")
        ran = run_script(folder)
        check("expected one line" in ran.stderr and "round 1" not in ran.stdout, "missing markers are noticed at once")
        readme.write_text(README)

        ran = run_script(folder, "--rounds", "1")
        check(ran.returncode == 0, f"the script from end to end: {ran.stdout[-500:]} {ran.stderr[-500:]}")
        text = report.read_text() if report.exists() else ""
        for section in SECTIONS:
            for contender in (c for c in section.contenders if c.dtype == "fp32" or bench_cpu.has_bf16()):
                check(f"| {contender.label()} |" in text, f"{section.name}: {contender.label()}")
        check("| OpenBLAS | 0.3.31 DYNAMIC_ARCH SkylakeX; kernels for SkylakeX |" in text, "OpenBLAS")
        check("| commit | unknown: no git repository |" in text and "| rounds | 1 |" in text, "the facts")
        check("bench_step.py --threads" in text and "--compile --C 512" in text, "the commands")
        new = readme.read_text()
        check(new.startswith("# A\n") and new.endswith("\n\nThe end.\n") and "old" not in new, "README.md")
        check("| Decoding: 85M, 128 tokens after 1 |" in new, "its table")
        check([p.name for p in report.parent.iterdir() if p.name.startswith(".")] == [], "no temporary file")


def main() -> int:
    global failed
    for test in (
        test_lines, test_gemm, test_figures, test_ratios, test_bars, test_report, test_readme,
        test_environment, test_arguments, test_turns, test_programs, test_decoding_programs, test_scoring_program,
        test_script,
    ):  # fmt: skip
        try:
            test()
        except Exception:
            failed += 1
            print(f"FAILED {test.__name__}")
            traceback.print_exc(file=sys.stdout)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
