#!/usr/bin/env python3
"""The measuring part of scripts/bench_cpu.sh: compares this project's CPU programs with PyTorch and its
ecosystem (the tables of cpu_report.py), and writes dev/bench/RESULTS.md and the table in README.md.

All contenders take turns: in each round every program runs its steps while the others wait, so other load on
the machine affects them alike. Every program speaks the protocol of dev/bench/bench.h and turns.py. This one
imports nothing large, because on Linux the peak memory of a process includes that of the process that started
it.
"""

from __future__ import annotations

import argparse
import contextlib
import filecmp
import importlib.metadata
import json
import math
import os
import platform
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Mapping, Optional

import cpu_report
from cpu_report import GEMM, SECTION_NAMES, SECTIONS, Comparison, Contender, Failure, Results, Section
from cpu_report import Subject, Taken
from gpu_report import replace_file, write_tokens

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"
TOKENIZER = SHARED / "tokenizer" / "dolma2_tokenizer.json"
RESULTS, README = ROOT / "dev" / "bench" / "RESULTS.md", ROOT / "README.md"


# ---------------------------------------------------------------------------------------------
# the environment

# Variables that select kernels, threads or memory for a library would change what is measured.
FORCING = (
    "OPENBLAS_", "GOTO_", "BLIS_", "MKL_", "DNNL_", "ONEDNN_", "ATEN_", "NPY_", "KMP_", "GOMP_", "OMP_",
    "TORCH_", "TORCHINDUCTOR_", "TORCHDYNAMO_", "PYTORCH_", "MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD",
)  # fmt: skip


def clean_environment(environment: Mapping[str, str], threads: int) -> tuple[dict[str, str], list[str]]:
    """The environment for all programs, and the variables removed from it."""
    removed = sorted(n for n in environment if n.startswith(FORCING) and n != "OMP_NUM_THREADS")
    kept = {name: value for name, value in environment.items() if name not in removed}
    return {**kept, "OMP_NUM_THREADS": str(threads)}, [f"{name}={environment[name]}" for name in removed]


def thread_count(environment: Mapping[str, str]) -> int:
    asked = environment.get("OMP_NUM_THREADS", "")
    if asked:
        if not asked.isdigit() or int(asked) == 0:
            raise Failure(f"OMP_NUM_THREADS={asked}: expected a number of threads, 1 or more")
        return int(asked)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# ---------------------------------------------------------------------------------------------
# the programs


def parse_ready(line: str) -> Optional[dict[str, int]]:
    """The notes of a line "ready NAME NUMBER ...", or None for any other line."""
    if re.match(r"ready( \w+ \d+)*\s*$", line) is None:
        return None
    words = line.split()[1:]
    return dict(zip(words[::2], map(int, words[1::2])))


def parse_step(line: str) -> Optional[float]:
    match = re.match(r"step (\d+\.?\d*) ms", line)
    return float(match[1]) if match else None


class Player:
    """A program that runs a step whenever it is told to. It can be started again after it has ended."""

    def __init__(self, command: list[str], environment: Mapping[str, str], taken: Taken) -> None:
        self.command, self.environment, self.taken = command, dict(environment), taken
        self.errors = tempfile.TemporaryFile("w+")
        self.process: Optional[subprocess.Popen[str]] = None

    def fail(self, what: str) -> Failure:
        self.kill()
        self.errors.seek(0)
        said = "".join(self.errors.readlines()[-12:]).strip()
        return Failure(f"{shlex.join(self.command)}\n       {what}" + (f":\n{said}" if said else ""))

    def start(self) -> None:
        """Starts the program and returns when it has warmed up."""
        pipe = subprocess.PIPE
        self.process = process = subprocess.Popen(
            self.command,
            stdin=pipe,
            stdout=pipe,
            stderr=self.errors,
            text=True,
            cwd=ROOT,
            env=self.environment,
        )
        assert process.stdin is not None and process.stdout is not None
        self.asked, self.answers = process.stdin, process.stdout
        for line in self.answers:
            notes = parse_ready(line)
            if notes is not None:
                self.taken.said = notes
                return
        raise self.fail("ended before it was ready")

    def step(self) -> float:
        """Runs a step and returns its milliseconds."""
        with contextlib.suppress(BrokenPipeError):
            self.asked.write("\n")
            self.asked.flush()
        line = self.answers.readline()
        milliseconds = parse_step(line)
        if milliseconds is None or milliseconds <= 0:
            raise self.fail(f"answered {line!r} instead of the time of a step")
        return milliseconds

    def end(self) -> None:
        """Ends the program and records its peak memory."""
        assert self.process is not None
        with contextlib.suppress(BrokenPipeError):
            self.asked.close()
        self.answers.read()
        _, status, usage = os.wait4(self.process.pid, 0)
        self.process.returncode = os.waitstatus_to_exitcode(status)
        if self.process.returncode != 0:
            raise self.fail(f"ended with exit code {self.process.returncode}")
        self.answers.close()
        unit = 1 if sys.platform == "darwin" else 1024
        self.taken.peak = max(self.taken.peak, usage.ru_maxrss * unit)

    def kill(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            self.process.wait()


@dataclass
class Bench:
    """The settings of all measurements, and their results."""

    rounds: int
    quick: bool
    threads: int
    environment: dict[str, str]
    folder: Path  # for temporary files
    results: Results

    def say(self, text: str) -> None:
        print(text, flush=True)

    def skip(self, note: str) -> None:
        self.say(f"skipped: {note}")
        self.results.notes.append(note)

    def flags(self, section: Section, subject: Subject) -> list[str]:
        """If a flag occurs twice, the last one counts."""
        return [*subject.flags.split(), *(section.quick.split() if self.quick else [])]


# ---------------------------------------------------------------------------------------------
# the input files of the contenders


def prepare(bench: Bench, section: Section, subject: Subject) -> list[str]:
    """Writes the files and returns the flags that name them."""
    if section.name == "tokenizer":
        return prepare_text(bench)
    if section.name == "eval":
        return prepare_requests(bench)
    if section.name in ("prefill", "decode", "batch"):
        return []
    words = bench.flags(section, subject)
    sizes = {name: int(value) for name, value in zip(words[::2], words[1::2])}
    batches = 64 if section.name == "step" else 256
    write_tokens(bench.folder / "tokens", batches * sizes["--B"] * sizes["--T"], sizes["--V"])
    return ["--data", str(bench.folder / "tokens")]


def stories(bench: Bench) -> Path:
    run_script(bench, "primer.py", "--count", "300" if bench.quick else "5000", "--out", str(bench.folder))
    return bench.folder / "train.jsonl"


def made_tokenizer(bench: Bench, text: Path) -> Path:
    size, tokenizer = "512" if bench.quick else "4096", bench.folder / "tokenizer.json"
    run_script(bench, "train_bpe.py", "--vocab-size", size, "--out", str(tokenizer), str(text))
    return tokenizer


def prepare_text(bench: Bench) -> list[str]:
    """Uses OLMo 2's tokenizer and books if they are next to the project, otherwise the output of its own
    scripts."""
    tokenizer, text = TOKENIZER, bench.folder / "text"
    books = sorted((SHARED / "pretrain").glob("*.txt"))
    with open(text, "w", encoding="utf-8") as out:
        if tokenizer.exists() and books and not bench.quick:
            bench.results.notes.append("tokenizer: OLMo 2's own; text: a quarter of some books")
            for book in books:
                with open(book, encoding="utf-8") as file:
                    while piece := file.read(4 * 4096):
                        out.write(piece[:4096] + "\0")
        else:
            bench.results.notes.append("tokenizer: made by data/train_bpe.py; text: made by data/primer.py")
            source = stories(bench)
            tokenizer = made_tokenizer(bench, source)
            with open(source, encoding="utf-8") as file:
                for line in file:
                    out.write(json.loads(line)["text"] + "\0")
    return ["--tokenizer", str(tokenizer), "--text", str(text)]


def prepare_requests(bench: Bench) -> list[str]:
    """ARC-Easy with OLMo 2's tokenizer if they are next to the project, otherwise questions about the stories
    of data/primer.py in their form: examples that all questions share, and four choices each."""
    requests = SHARED / "evals" / "arc_easy_test_rc_5shot.jsonl.gz"
    if TOKENIZER.exists() and requests.exists() and not bench.quick:
        return ["--tokenizer", str(TOKENIZER), "--requests", str(requests)]
    bench.results.notes.append("eval: questions made of the stories of data/primer.py, not ARC-Easy")
    source, requests = stories(bench), bench.folder / "requests.jsonl"
    with open(source, encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in file]
    examples = "\n\n".join(texts[:5])
    with open(requests, "w", encoding="utf-8") as out:
        for document, text in enumerate(texts[5:13]):
            for i, choice in enumerate(texts[13:17]):
                request = {"context": f"{examples}\n\n{text}", "continuation": f" {choice[:40]}"}
                row = {"request_type": "loglikelihood", "task_name": "stories", "doc_id": document, "idx": i,
                       "label": 0, "request": request}  # fmt: skip
                out.write(json.dumps(row) + "\n")
    return ["--tokenizer", str(made_tokenizer(bench, source)), "--requests", str(requests)]


def run_script(bench: Bench, script: str, *words: str) -> None:
    command = [sys.executable, str(ROOT / "data" / script), *words]
    ran = subprocess.run(command, env=bench.environment, capture_output=True, text=True)
    if ran.returncode != 0:
        raise Failure(f"{shlex.join(command)}\n{ran.stderr.strip()}")


# ---------------------------------------------------------------------------------------------
# the measurements


def available_memory() -> float:
    """Bytes of memory; infinite if unknown."""
    with contextlib.suppress(OSError):
        match = re.search(r"^MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
        if match:
            return 1024 * float(match[1])
    return math.inf


def has_bf16() -> bool:
    with contextlib.suppress(OSError):
        return "avx512_bf16" in Path("/proc/cpuinfo").read_text()
    return False


def present(bench: Bench, section: Section, subject: Subject) -> list[Contender]:
    """The contenders that can run on this machine."""
    if not bench.quick and subject.needs > available_memory():
        bench.skip(f"{subject.name}: each program needs {subject.needs / 1e9:.0f} GB of memory")
        return []
    contenders = []
    for contender in section.on(subject):
        # Elsewhere bf16 is the type of the weights, which any processor can read.
        if section.name == "step" and contender.dtype == "bf16" and not has_bf16():
            bench.skip(f"{contender.label()} on {subject.name}: this processor has no AVX512-BF16")
        else:
            contenders.append(contender)
    return contenders


def ids_file(bench: Bench, contender: Contender) -> Path:
    return bench.folder / f"ids-{contender.label()}"


def enter(bench: Bench, section: Section, subject: Subject, contender: Contender, files: list[str]) -> Player:
    program, *words = contender.command.format(threads=bench.threads).split()
    words += [*bench.flags(section, subject), "--steps", "0"]
    if contender.dtype != "fp32":
        words += ["--dtype", contender.dtype]
    python = program.endswith(".py")
    shown = [
        *([".venv/bin/python"] if python else []),
        program,
        *words,
        *(f"{flag} FILE" for flag in files[::2]),
    ]
    bench.results.commands.append(" ".join(shown))
    if section.name == "tokenizer":
        files = [*files, "--ids", str(ids_file(bench, contender))]
    return Player(
        [*([sys.executable] if python else []), program, *words, *files], bench.environment, Taken(contender)
    )


def compare(bench: Bench, section: Section, subject: Subject) -> None:
    bench.say(f"\n{section.title}: {subject.name}")
    contenders = present(bench, section, subject)
    if not contenders:
        return
    files = prepare(bench, section, subject)
    players = [enter(bench, section, subject, contender, files) for contender in contenders]
    together = not subject.needs
    with contextlib.ExitStack() as stack:
        for player in players:
            stack.callback(player.kill)
            if together:
                player.start()
        for number in range(1, bench.rounds + 1):
            times = []
            for player in players:
                taken, steps = player.taken, player.taken.contender.steps or subject.steps
                if not together:
                    player.start()
                taken.milliseconds.append(statistics.median(player.step() for _ in range(steps)))
                if not together:
                    player.end()
                times.append(f"{taken.contender.label()} {cpu_report.figure(taken.milliseconds[-1])} ms")
            bench.say(f"round {number}: {', '.join(times)}")
        for player in players if together else []:
            player.end()
    if section.name == "tokenizer":
        first, *others = (ids_file(bench, contender) for contender in contenders)
        for other in others:
            if not filecmp.cmp(first, other, shallow=False):
                raise Failure(f"{first.name} and {other.name} differ: the same text, but not the same tokens")
    bench.results.comparisons.append(Comparison(section, subject, [player.taken for player in players]))


def measure_gemm(bench: Bench) -> None:
    bench.say("\nThe matrix product")
    # NumPy's own OpenBLAS is newer than the system's; without it, bench_gemm takes the system's.
    found = ROOT.glob(".venv/lib/python3*/site-packages/numpy.libs/libscipy_openblas64_*.so*")
    library = [str(path.relative_to(ROOT)) for path in found][:1]
    command = ["build/bench_gemm", str(bench.rounds), *library]
    bench.results.commands.append(shlex.join(command))
    ran = subprocess.run(command, cwd=ROOT, env=bench.environment, capture_output=True, text=True)
    bench.say(ran.stdout.rstrip())
    if ran.returncode != 0:
        raise Failure(f"{shlex.join(command)}\n{ran.stderr.strip()}")
    bench.results.gemm = cpu_report.parse_gemm(ran.stdout)
    for line in ran.stdout.splitlines():
        if "kernels for" in line:
            bench.results.facts["OpenBLAS"] = " ".join(line.removeprefix("OpenBLAS ").split())
        elif line.startswith("skipped: "):
            bench.results.notes.append(line.removeprefix("skipped: "))


def measure(bench: Bench, only: list[str]) -> None:
    if GEMM in only:
        measure_gemm(bench)
    for section in SECTIONS:
        for subject in section.subjects if section.name in only else ():
            compare(bench, section, subject)


# ---------------------------------------------------------------------------------------------
# the machine


def output_of(*command: str) -> str:
    """The first line of a command's output; empty if there is no such command."""
    try:
        ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    except OSError:
        return ""
    return ran.stdout.splitlines()[0] if ran.returncode == 0 and ran.stdout else ""


def processor(cpuinfo: str) -> str:
    """The processor's name, family, model and vectors, from /proc/cpuinfo."""

    def value(name: str) -> str:
        match = re.search(rf"^{name}\s*: (.*)$", cpuinfo, re.MULTILINE)
        return match[1].strip() if match else "?"

    flags = value("flags").split()
    widths = (("avx512f", 512), ("avx2", 256), ("sse2", 128))
    vectors = next((f"vectors of {bits} bits ({flag})" for flag, bits in widths if flag in flags), "")
    name = f"{value('model name')}, family {value('cpu family')}, model {value('model')}"
    return f"{name}, {vectors}" if vectors else name


def commit() -> str:
    short = output_of("git", "rev-parse", "--short", "HEAD")
    changed = ", with changes" if output_of("git", "status", "--porcelain", "--untracked-files=no") else ""
    return short + changed if short else "unknown: no git repository"


def version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def machine_facts(threads: int, rounds: int, removed: list[str]) -> dict[str, str]:
    cpuinfo, meminfo = Path("/proc/cpuinfo"), Path("/proc/meminfo")
    memory = re.search(r"MemTotal: +(\d+)", meminfo.read_text()) if meminfo.exists() else None
    pages = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    huge = re.search(r"\[(\w+)\]", pages.read_text()) if pages.exists() else None
    packages = ("torch", "transformers", "tokenizers", "tiktoken", "numpy")
    return {
        "processor": processor(cpuinfo.read_text()) if cpuinfo.exists() else platform.processor(),
        "threads": f"{threads} of {os.cpu_count()} processors",
        "memory": f"{1024 * int(memory[1]) / 1e9:.1f} GB" if memory else "?",
        "system": f"{platform.platform()}, huge pages: {huge[1] if huge else '?'}",
        "load before": f"{os.getloadavg()[0]:.2f}",
        "compiler": output_of(os.environ.get("CC", "cc"), "--version"),
        "Python": ", ".join([platform.python_version(), *(f"{name} {version(name)}" for name in packages)]),
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "commit": commit(),
        "unset": ", ".join(removed) or "nothing",
        "rounds": str(rounds),
    }


# ---------------------------------------------------------------------------------------------


def positive(word: str) -> int:
    if not word.isdigit() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"{word} is not a number of 1 or more")
    return int(word)


def some_sections(word: str) -> list[str]:
    names = word.split(",")
    unknown = [name for name in names if name not in SECTION_NAMES]
    if unknown:
        raise argparse.ArgumentTypeError(f"no section {unknown[0]!r}; choose from {', '.join(SECTION_NAMES)}")
    return names


def parse_arguments(words: list[str]) -> argparse.Namespace:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--rounds", type=positive, default=5, help="number of rounds (%(default)s)")
    parser.add_argument("--only", type=some_sections, metavar="SECTION,...", help=", ".join(SECTION_NAMES))
    parser.add_argument("--quick", action="store_true", help="one round at tiny sizes, as a test")
    parser.add_argument("--out", type=Path, help="write the results there, and leave README.md unchanged")
    return parser.parse_args(words)


def main() -> None:
    a = parse_arguments(sys.argv[1:])
    whole = not a.quick and a.only is None and a.out is None
    if whole:
        cpu_report.assemble(README.read_text(encoding="utf-8"), "")  # fail now rather than after an hour
    rounds, threads = 1 if a.quick else a.rounds, thread_count(os.environ)
    environment, removed = clean_environment(os.environ, threads)
    results = Results(machine_facts(threads, rounds, removed))
    with tempfile.TemporaryDirectory(prefix="bench_cpu_") as name:
        environment["TORCHINDUCTOR_CACHE_DIR"] = str(Path(name) / "inductor")
        bench = Bench(rounds, a.quick, threads, environment, Path(name), results)
        for variable in removed:
            bench.say(f"unset {variable}: every program uses its own defaults for this machine")
        for fact, value in results.facts.items():
            bench.say(f"{fact}: {value}")
        if a.quick:
            results.notes.append("--quick: the sizes are tiny, and the figures mean nothing")
        measure(bench, a.only or list(SECTION_NAMES))
    report = cpu_report.write_report(results, shlex.join(["scripts/bench_cpu.sh", *sys.argv[1:]]))
    if whole:
        readme = cpu_report.assemble(README.read_text(encoding="utf-8"), cpu_report.readme_table(results))
        replace_file(RESULTS, report)
        replace_file(README, readme)
        print(f"\nwrote {RESULTS.relative_to(ROOT)} and the table in {README.relative_to(ROOT)}")
    elif a.out:
        replace_file(a.out, report)
        print(f"\nwrote {a.out}")
    else:
        print(f"\n{report}", end="")


if __name__ == "__main__":
    try:
        main()
    except (Failure, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("error: interrupted; nothing was written")
