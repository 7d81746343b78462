#!/usr/bin/env python3
"""The part of scripts/gpu_report.sh that needs no GPU: makes a report from the output of the programs.

    gpu_report.py tokens FILE COUNT                      random token ids with the frequencies of words (Zipf)
    gpu_report.py write FOLDER --sizes 190M --out FILE   the report, in Markdown

FOLDER contains `facts` (lines "name: value"), test_*.txt (outputs of test programs), ladder_NAME.txt (the
output of dev/cuda/NAME for each version) and, for each size, train_SIZE.plan (train --dry-run),
train_SIZE.jsonl (the log of the run), train_SIZE.txt (its output) and torch_SIZE_HOW.txt (the output of
dev/bench/bench_step.py). The exit code is 1 if the report contains a failure; the report is written anyway.
"""

from __future__ import annotations

import argparse
import array
import itertools
import json
import os
import random
import re
import statistics
import sys
from pathlib import Path
from typing import NamedTuple, Optional

WARMUP_STEPS = 2  # at the start: cuBLAS loads its kernels, memory is touched for the first time
VOCABULARY = 100278  # ids of OLMo 2's tokenizer


# ---------------------------------------------------------------------------------------------
# the arithmetic of a model


class Shape(NamedTuple):
    """A model and its sequence length: layers, channels, channels of all query and of all key heads, ..."""

    L: int
    C: int
    Q: int
    KV: int
    F: int
    V: int
    T: int

    def matmul_parameters(self) -> int:
        """N: the weights of all matrix products. The embedding is a lookup; norms have few weights."""
        return self.L * (2 * self.C * self.Q + 2 * self.C * self.KV + 3 * self.C * self.F) + self.V * self.C

    def flops_causal(self) -> int:
        """Per token, forward and backward: 6N + 6 L Q T. Only half of the T x T scores are needed: 2
        products, a multiply and an add each, three times (once forward, twice backward), T / 2 keys per
        query."""
        return 6 * self.matmul_parameters() + 6 * self.L * self.Q * self.T

    def flops_full(self) -> int:
        """6N + 12 L Q T, as in OLMo-core: as if every query saw every key."""
        return 6 * self.matmul_parameters() + 12 * self.L * self.Q * self.T


def mfu(tokens_per_second: float, flops: int, peak_tflops: float) -> float:
    """Model FLOPs utilisation: these FLOPs per token, as a share of the peak."""
    return tokens_per_second * flops / (peak_tflops * 1e12)


# ---------------------------------------------------------------------------------------------
# the output of the programs


def parse_plan(text: str) -> Shape:
    """The model, from the output of `train --dry-run`."""

    def numbers(line: str, pattern: str) -> list[int]:
        match = re.search(rf"^{line} +{pattern}", text, re.MULTILINE)
        if match is None:
            raise ValueError(f"the plan of a run has no line for its {line}")
        return [int(group) for group in match.groups()]

    L, C = numbers("layers", r"(\d+) of (\d+) channels")
    NH, NKV, HS = numbers("heads", r"(\d+) for queries, (\d+) for keys and values, of size (\d+)")
    F, V, T = (numbers(line, r"(\d+)")[0] for line in ("feed-forward", "vocabulary", "length"))
    return Shape(L=L, C=C, Q=NH * HS, KV=NKV * HS, F=F, V=V, T=T)


class Log(NamedTuple):
    """A run: its settings and, for each step, the loss, the gradient norm and the tokens per second."""

    settings: dict[str, object]
    tokens_per_step: int
    losses: list[tuple[object, object]]
    speeds: list[float]

    def speed(self) -> float:
        """The median, without the first steps."""
        return statistics.median(self.speeds[WARMUP_STEPS:])


def parse_log(text: str) -> Log:
    """Reads a log.jsonl, whose last line may be incomplete."""
    settings: dict[str, object] = {}
    tokens_per_step, losses, speeds = 0, [], []
    for line in text.splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            break
        if record["type"] == "run":
            settings, tokens_per_step = record["settings"], record["tokens_per_step"]
        elif record["type"] == "step":
            losses.append((record["loss"], record["gradient_norm"]))
            speeds.append(float(record["tokens_per_second"]))
    if not settings or len(speeds) <= WARMUP_STEPS:
        raise ValueError(f"the log of a run has {len(speeds)} steps; the first {WARMUP_STEPS} do not count")
    return Log(settings, tokens_per_step, losses, speeds)


class Rate(NamedTuple):
    """A rate in GB/s or TFLOP/s, and the device's peak if the ladder knows it."""

    reached: float
    limit: Optional[float]


class Timing(NamedTuple):
    operation: str
    version: int
    idea: str
    microseconds: float
    bandwidth: Optional[Rate]
    arithmetic: Optional[Rate]


def parse_ladder(text: str) -> list[Timing]:
    """The timings that a program of dev/cuda printed (Problem::time in dev/cuda/ladder.cuh), by operation and
    version."""
    timings, operation = [], ""
    for line in text.splitlines():
        heading = re.match(r"(\w+) \(.*\), (?:bf16|fp32): ", line)
        if heading:
            operation = heading[1]
        row = re.match(r"(\d+) +(.*?) +([\d.]+) us(.*)", line)
        if row is None:
            continue
        rates = {}
        for reached, unit, limit in re.findall(r" ([\d.]+) (GB|TFLOP)/s(?:, [\d.]+ % of ([\d.]+))?", row[4]):
            rates[unit] = Rate(float(reached), float(limit) if limit else None)
        bandwidth, arithmetic = rates.get("GB"), rates.get("TFLOP")
        timings.append(Timing(operation, int(row[1]), row[2], float(row[3]), bandwidth, arithmetic))
    order = {name: i for i, name in enumerate(dict.fromkeys(t.operation for t in timings))}
    return sorted(timings, key=lambda t: (order[t.operation], t.version))


class TorchRun(NamedTuple):
    version: str
    B: int
    T: int
    milliseconds: float

    def speed(self) -> float:
        return self.B * self.T / self.milliseconds * 1e3


def parse_torch(text: str) -> TorchRun:
    """The output of bench_step.py."""
    head = re.search(r"^PyTorch ([^,]+),.* B (\d+), T (\d+)$", text, re.MULTILINE)
    median = re.search(r"^median ([\d.]+)", text, re.MULTILINE)
    if head is None or median is None:
        raise ValueError(text.strip().splitlines()[-1] if text.strip() else "PyTorch printed nothing")
    return TorchRun(head[1], int(head[2]), int(head[3]), float(median[1]))


def parse_facts(text: str) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)


# ---------------------------------------------------------------------------------------------
# the report


class Report:
    """The text, line by line, and whether it contains a failure."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.failed = False

    def add(self, *lines: str) -> None:
        self.lines += lines

    def table(self, heading: list[str], rows: list[list[str]]) -> None:
        for row in (heading, ["---"] * len(heading), *rows):
            self.add("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |")
        self.add("")

    def details(self, summary: str, text: str) -> None:
        self.add("<details>", f"<summary>{summary}</summary>", "")
        self.add("```", text.rstrip(), "```", "", "</details>", "")


def percent(share: Optional[float]) -> str:
    return "?" if share is None else f"{100 * share:.1f} %"


def outputs_of_tests(folder: Path) -> list[Path]:
    return sorted(folder.glob("test_*.txt")) + sorted(folder.glob("ladder_*.txt"))


def add_tests(report: Report, folder: Path) -> None:
    report.add("## Tests", "")
    rows = []
    for file in outputs_of_tests(folder):
        text = file.read_text()
        counts = re.findall(r"^(\d+) passed, (\d+) failed$", text, re.MULTILINE)
        passed, failed = sum(int(a) for a, _ in counts), sum(int(b) for _, b in counts)
        if failed == 0 and (not counts or "\nexit code" in text):
            failed = 1  # it ended before it printed its counts
        report.failed |= failed > 0
        rows.append([file.stem.replace("_", " ", 1), str(passed), f"**{failed}**" if failed else "0"])
    report.table(["program", "passed", "failed"], rows)


class Speed(NamedTuple):
    program: str
    settings: str
    sequences: int
    tokens_per_second: float


def settings_of(log: Log) -> str:
    """The settings that change the cost of a run and differ from the defaults."""
    s = log.settings
    changed = []
    if s.get("master-weights") is False:
        changed.append("no master weights")
    if s.get("moments") == "bf16":
        changed.append("bf16 moments")
    if s.get("recompute") not in ("elementwise", None):
        changed.append(f"recompute {s['recompute']}")
    return ", ".join(["bf16", *changed])


def torch_speeds(folder: Path, size: str, notes: list[str]) -> list[Speed]:
    speeds = []
    for file in sorted(folder.glob(f"torch_{size}_*.txt")):
        how = file.stem.rsplit("_", 1)[1]
        try:
            run = parse_torch(file.read_text())
        except ValueError as error:
            notes.append(f"{size} in PyTorch, {how}: {error}")
            continue
        speeds.append(Speed(f"PyTorch {run.version}, {how}", "bf16 autocast", run.B, run.speed()))
    return speeds


def compare_bits(report: Report, size: str, log: Log, again: Log, notes: list[str]) -> None:
    steps = min(len(log.losses), len(again.losses))
    same = log.losses[:steps] == again.losses[:steps]
    report.failed |= not same
    verdict = "the same" if same else "**different**"
    notes.append(f"{size}, run twice: {verdict} bits of loss and gradient norm in {steps} steps.")


def add_size(report: Report, folder: Path, size: str, peak: float, notes: list[str]) -> list[list[str]]:
    """The rows of a size: train_olmo2cu's and PyTorch's."""
    shape = parse_plan((folder / f"train_{size}.plan").read_text())
    log = parse_log((folder / f"train_{size}.jsonl").read_text())
    ours = Speed("train_olmo2cu", settings_of(log), log.tokens_per_step // shape.T, log.speed())
    counts = shape.flops_causal(), shape.flops_full()
    notes.append(
        f"{size}: N = {shape.matmul_parameters():,}; a token takes {counts[0] / 1e9:.3f} GFLOP by the causal "
        f"count, {counts[1] / 1e9:.3f} GFLOP by OLMo-core's."
    )
    again = folder / f"train_{size}_again.jsonl"
    if again.exists():
        compare_bits(report, size, log, parse_log(again.read_text()), notes)
    rows = []
    for s in [ours, *torch_speeds(folder, size, notes)]:
        utilisations = [percent(mfu(s.tokens_per_second, flops, peak) if peak else None) for flops in counts]
        milliseconds = s.sequences * shape.T / s.tokens_per_second * 1e3
        rows.append([
            size, s.program, s.settings, str(s.sequences), f"{s.tokens_per_second:,.0f}",
            f"{milliseconds:,.1f}", *utilisations, f"{ours.tokens_per_second / s.tokens_per_second:.2f}",
        ])  # fmt: skip
    return rows


def add_training(report: Report, folder: Path, sizes: list[str], peak: float) -> None:
    report.add("## A training step", "")
    rows: list[list[str]] = []
    notes: list[str] = []
    for size in sizes:
        try:
            rows += add_size(report, folder, size, peak, notes)
        except (OSError, ValueError) as error:
            report.failed = True
            output = folder / f"train_{size}.txt"
            said = output.read_text().strip().splitlines()[-3:] if output.exists() else []
            notes.append(f"**{size} was not measured**: {' '.join(line.strip() for line in said) or error}")
    heading = ["size", "program", "settings", "sequences", "tokens/s", "ms", "MFU, causal", "MFU, OLMo-core"]
    report.table([*heading, "train_olmo2cu's speed over this"], rows)
    limit = f"{peak:g} TFLOP/s, dense bf16" if peak else "not known for this device: enter it"
    report.add(
        f"Medians of the steps after the first {WARMUP_STEPS}. A step is forward, backward and AdamW on as",
        "many sequences as fit at once. MFU, model FLOPs utilisation, is tokens/s x FLOP per token / peak.",
        "FLOP is 6N + 6LQT (causal: half of the scores) or 6N + 12LQT (as OLMo-core counts), with N",
        "parameters in all matrix products (the head included, the input embedding not), L layers, Q = query",
        "heads x head size, and T tokens. Neither includes what the backward recomputes.",
        f"The peak is {limit} (dev/cuda/ladder.cuh).",
        "",
        *(f"- {note}" for note in notes),
        "",
    )


def add_kernels(report: Report, ladders: dict[str, list[Timing]], copy: float) -> None:
    """copy: GB/s of the device's memory, read and written; 0 if not known."""
    speed = f"{copy:,.0f} GB/s, read and written together" if copy else "not measured"
    report.add(
        "## Kernels",
        "",
        "train_olmo2.cu uses the last version of each operation. Sizes are those of OLMo 2 1B.",
        f"A copy within the device's memory: {speed}.",
        "",
    )
    rows = []
    for family, timings in ladders.items():
        for operation, group in itertools.groupby(timings, key=lambda t: t.operation):
            versions = [t for t in group if t.bandwidth or t.arithmetic]  # the others only ran checks
            for t in versions:
                bold = "**" if t is versions[-1] else ""
                gbs, tflops = t.bandwidth, t.arithmetic
                rows.append([
                    f"{family} {operation}", str(t.version), bold + t.idea + bold, f"{t.microseconds:,.1f}",
                    f"{versions[0].microseconds / t.microseconds:.2f}" if t.microseconds > 0 else "?",
                    f"{gbs.reached:,.0f}" if gbs else "", percent(gbs.reached / copy) if gbs and copy else "",
                    f"{tflops.reached:,.1f}" if tflops else "",
                    percent(tflops.reached / tflops.limit) if tflops and tflops.limit else "",
                ])  # fmt: skip
    heading = ["operation", "version", "idea", "us", "times version 1", "GB/s", "of a copy"]
    report.table(heading + ["TFLOP/s", "of the peak"], rows)


def write(folder: Path, sizes: list[str]) -> Report:
    report = Report()
    facts = parse_facts((folder / "facts").read_text())
    texts = {file.stem.split("_", 1)[1]: file.read_text() for file in sorted(folder.glob("ladder_*.txt"))}
    ladders = {family: parse_ladder(text) for family, text in texts.items()}
    rates = [t.arithmetic for timings in ladders.values() for t in timings if t.arithmetic is not None]
    peak = next((rate.limit for rate in rates if rate.limit is not None), 0.0)
    copies = [t.bandwidth.reached for t in ladders.get("copy", []) if t.bandwidth is not None]
    device = facts.get("device", "a GPU")
    report.add(f"# train_olmo2.cu on {device}", "", "Made by scripts/gpu_report.sh.", "")
    report.table(["", ""], [[name, value] for name, value in facts.items()])
    add_tests(report, folder)
    add_training(report, folder, sizes, peak)
    add_kernels(report, ladders, copies[-1] if copies else 0.0)
    report.add("## Output of the programs", "")
    for file in outputs_of_tests(folder):
        report.details(file.stem.replace("_", " ", 1), file.read_text())
    return report


def replace_file(path: Path, text: str) -> None:
    """Writes all of the file or nothing: a file with this name is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(path)


def write_tokens(path: Path, count: int, vocabulary: int = VOCABULARY) -> None:
    weights = list(itertools.accumulate(1 / (rank + 2.7) for rank in range(vocabulary)))
    rng = random.Random(1)
    with open(path, "wb") as file:
        # Piece by piece: a list of all tokens takes nine times the size of the file.
        for begin in range(0, count, 1 << 16):
            size = min(count - begin, 1 << 16)
            values = array.array("I", rng.choices(range(vocabulary), cum_weights=weights, k=size))
            if sys.byteorder == "big":
                values.byteswap()
            values.tofile(file)


def main() -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    commands = parser.add_subparsers(dest="command", required=True)
    tokens = commands.add_parser("tokens")
    tokens.add_argument("file", type=Path)
    tokens.add_argument("count", type=int)
    writing = commands.add_parser("write")
    writing.add_argument("folder", type=Path)
    writing.add_argument("--sizes", nargs="*", default=[])
    writing.add_argument("--out", type=Path, required=True)
    a = parser.parse_args()
    if a.command == "tokens":
        write_tokens(a.file, a.count)
        return 0
    report = write(a.folder, a.sizes)
    replace_file(a.out, "\n".join(report.lines))
    print(f"wrote {a.out}")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
