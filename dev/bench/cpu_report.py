"""The comparisons of scripts/bench_cpu.sh, their goals, and the report and the README table about them."""

from __future__ import annotations

import re
import statistics
import textwrap
from dataclasses import dataclass, field
from typing import Callable, NamedTuple, Optional

from gpu_report import Report

MARKERS = "<!-- cpu table: begin -->", "<!-- cpu table: end -->"


class Failure(Exception):
    """An error message. The program ends with it and writes nothing."""


# ---------------------------------------------------------------------------------------------
# what is compared


@dataclass(frozen=True)
class Contender:
    """A program. Other people's programs are compared with our own of the same dtype."""

    name: str
    command: str  # from the project root; {threads} stands for their number
    own: bool = False
    dtype: str = "fp32"
    steps: int = 0  # per round; 0: the subject's number
    only: tuple[str, ...] = ()  # the subjects that it runs on; empty: all

    def label(self) -> str:
        """A name that is unique within a section."""
        return self.name if self.dtype == "fp32" else f"{self.name}, {self.dtype}"


@dataclass(frozen=True)
class Subject:
    """What contenders run on, for example a model."""

    name: str
    flags: str
    steps: int = 1  # per round
    needs: float = 0  # bytes per contender, if they are too many to load several at once


@dataclass(frozen=True)
class Section:
    name: str
    title: str
    about: str
    amount: str  # the work of a step, by its name in a program's "ready" line
    unit: str
    scale: float  # 1 `unit` is this many of `amount` per second
    quick: str  # flags for tiny sizes
    subjects: tuple[Subject, ...]
    contenders: tuple[Contender, ...]

    def on(self, subject: Subject) -> list[Contender]:
        return [c for c in self.contenders if not c.only or subject.name in c.only]


B85M = "--C 512 --L 8 --NH 8 --F 2048 --V 50304"
B14M = "--C 128 --L 4 --NH 8 --F 512 --V 4096"
B1B_LAYER = "--C 2048 --L 1 --NH 16 --F 8192 --V 100352"
B1B = "--C 2048 --L 16 --NH 16 --F 8192 --V 100352"
TINY = "--C 64 --L 1 --NH 4 --F 128 --V 512"
TORCH = "--threads {threads}"
EAGER = f"dev/bench/bench_step.py {TORCH}"
COMPILED = f"{EAGER} --compile"
GENERATE = f"dev/bench/bench_decode.py {TORCH}"
M85, M85_LONG, M14, M1B = (
    "85M, B 4, T 256",
    "85M, B 4, T 1024",
    "14M, B 16, T 256",
    "a layer of 1B, B 1, T 512",
)
B1B_DECODING = "1B, 16 tokens after 1"

# fmt: off
SECTIONS = (
    Section(
        "step", "A training step",
        "Reading the batch, forward, cross-entropy with z-loss, backward, clipping, AdamW. PyTorch uses "
        "scaled dot product attention, its own RMSNorm and the fused AdamW. bf16 means autocast in PyTorch, "
        "and bf16 operands of matrix products in train_olmo2.",
        "tokens", "tokens/s", 1, f"{TINY} --B 2 --T 32",
        (
            Subject(M85, f"{B85M} --B 4 --T 256", steps=2),
            Subject(M85_LONG, f"{B85M} --B 4 --T 1024"),
            Subject(M14, f"{B14M} --B 16 --T 256", steps=4),
            Subject(M1B, f"{B1B_LAYER} --B 1 --T 512", steps=2, needs=10e9),
        ),
        (
            Contender("train_olmo2", "build/bench_step", own=True),
            Contender("PyTorch eager", EAGER),
            Contender("torch.compile", COMPILED),
            Contender("llm.c-style loops", "build/bench_step_loops", steps=1, only=(M85, M14)),
            Contender("train_olmo2", "build/bench_step", own=True, dtype="bf16", only=(M85, M14)),
            Contender("PyTorch eager", EAGER, dtype="bf16", only=(M85, M14)),
            Contender("torch.compile", COMPILED, dtype="bf16", only=(M85, M14)),
        ),
    ),
    Section(
        "prefill", "Reading a prompt",
        "One prompt with random weights, up to the logits of its last token. transformers runs one forward "
        "that fills its cache. bf16 means weights in bf16: train_olmo2 computes with them in fp32, "
        "transformers computes in bf16.",
        "tokens", "tokens/s", 1, f"{TINY} --prompt 8",
        (
            Subject("85M, 512 tokens", f"{B85M} --prompt 512 --new 1", steps=2),
            Subject("1B, 512 tokens", f"{B1B} --prompt 512 --new 1", needs=9e9),
        ),
        (
            Contender("train_olmo2", "build/bench_decode", own=True),
            Contender("transformers", GENERATE),
            Contender("train_olmo2", "build/bench_decode", own=True, dtype="bf16"),
            Contender("transformers", GENERATE, dtype="bf16"),
        ),
    ),
    Section(
        "decode", "Decoding",
        "One sequence behind a prompt of one token, greedy, random weights, fp32 or bf16 as above. The last "
        "program reads the weights from memory once a token and computes nothing; of the embedding a token "
        "needs only a row.",
        "tokens", "tokens/s", 1, f"{TINY} --prompt 4 --new 8",
        (
            Subject("85M, 128 tokens after 1", f"{B85M} --prompt 1 --new 128"),
            Subject(B1B_DECODING, f"{B1B} --prompt 1 --new 16", needs=9e9),
        ),
        (
            Contender("train_olmo2", "build/bench_decode", own=True),
            Contender("transformers generate", GENERATE),
            Contender("reading the weights", "build/bench_read"),
            Contender("train_olmo2", "build/bench_decode", own=True, dtype="bf16"),
            Contender("transformers generate", GENERATE, dtype="bf16"),
            Contender("reading the weights", "build/bench_read", dtype="bf16"),
        ),
    ),
    Section(
        "batch", "16 sequences side by side",
        "The same for 16 prompts of one length at once. Tokens of all sequences are counted.",
        "tokens", "tokens/s", 1, f"{TINY} --slots 4 --prompt 4 --new 8",
        (
            Subject("85M, 16 x 32 tokens after 16", f"{B85M} --slots 16 --prompt 16 --new 32"),
        ),
        (
            Contender("train_olmo2", "build/bench_decode", own=True),
            Contender("transformers generate", GENERATE),
            Contender("train_olmo2", "build/bench_decode", own=True, dtype="bf16"),
            Contender("transformers generate", GENERATE, dtype="bf16"),
        ),
    ),
    Section(
        "eval", "Scoring a multiple-choice task",
        "The first 8 questions of ARC-Easy, 5-shot, with their choices and the choices alone; a random model with "
        "OLMo 2's vocabulary. transformers computes batches of 8 requests of similar length, each with its "
        "whole context, as lm-eval does. train_olmo2 computes what contexts share once.",
        "documents", "questions/s", 1, f"{TINY} --documents 4",
        (Subject("85M, ARC-Easy", f"{B85M} --V 100352 --documents 8"),),
        (
            Contender("train_olmo2", "build/bench_eval", own=True),
            Contender("transformers", f"dev/bench/bench_eval.py {TORCH}"),
        ),
    ),
    Section(
        "tokenizer", "The tokenizer",
        "Documents of a few kilobytes, one after another, on one thread. All programs return the same ids.",
        "bytes", "MB/s", 1e6, "",
        (Subject("encoding", ""),),
        (
            Contender("train_olmo2", "build/bench_tokenizer", own=True),
            Contender("tokenizers", "dev/bench/bench_tokenizer.py tokenizers"),
            Contender("tiktoken", "dev/bench/bench_tokenizer.py tiktoken"),
        ),
    ),
    Section(
        "loader", "Loading data",
        "Shuffled batches with their labels from a memory-mapped file. PyTorch's DataLoader runs without "
        "workers: they would make it slower here.",
        "tokens", "million tokens/s", 1e6, "--B 2 --T 64 --batches 20",
        (Subject("B 8, T 1024", "--B 8 --T 1024 --V 100352 --batches 2000"),),
        (
            Contender("train_olmo2", "build/bench_loader", own=True),
            Contender("torch DataLoader", f"dev/bench/bench_loader.py {TORCH}"),
        ),
    ),
)
# fmt: on
GEMM = "gemm"
SECTION_NAMES = (GEMM, *(section.name for section in SECTIONS))


# ---------------------------------------------------------------------------------------------
# the measurements


def figure(x: float) -> str:
    """Three significant digits, or all digits before the point."""
    return f"{x:,.{0 if abs(x) >= 100 else 1 if abs(x) >= 10 else 2}f}"


class Spread(NamedTuple):
    median: float
    least: float
    most: float

    @staticmethod
    def of(values: list[float]) -> Spread:
        return Spread(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        return f"{figure(self.median)} ({figure(self.least)}–{figure(self.most)})"


@dataclass
class Taken:
    """The measurements of a contender on a subject."""

    contender: Contender
    said: dict[str, int] = field(default_factory=dict)  # the notes of its "ready" line
    milliseconds: list[float] = field(default_factory=list)  # of each round
    peak: int = 0  # bytes of memory

    def state(self) -> int:
        """Bytes of the weights, gradients and moments in fp32."""
        return 16 * self.said["parameters"]


@dataclass
class Comparison:
    section: Section
    subject: Subject
    taken: list[Taken]

    def rate(self, taken: Taken) -> Spread:
        amount = taken.said[self.section.amount] / self.section.scale
        return Spread.of([1e3 * amount / ms for ms in taken.milliseconds])

    def ours(self, theirs: Taken) -> Taken:
        dtype = theirs.contender.dtype
        return next(t for t in self.taken if t.contender.own and t.contender.dtype == dtype)

    def speed(self, theirs: Taken) -> Spread:
        """Ours over theirs, round by round."""
        pairs = zip(self.ours(theirs).milliseconds, theirs.milliseconds)
        return Spread.of([their_ms / our_ms for our_ms, their_ms in pairs])

    def memory(self, theirs: Taken) -> float:
        """Ours over theirs."""
        return self.ours(theirs).peak / theirs.peak


class GemmRow(NamedTuple):
    layout: str
    shape: str  # "" for the geometric mean over all
    ours: Spread
    share: float  # of the FMA peak
    theirs: Optional[Spread]
    ratio: Optional[float]


@dataclass
class Results:
    facts: dict[str, str] = field(default_factory=dict)
    gemm: list[GemmRow] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)

    def gemm_means(self) -> list[GemmRow]:
        return [row for row in self.gemm if not row.shape]


def parse_gemm(text: str) -> list[GemmRow]:
    """The rows that bench_gemm printed."""
    number = r"([\d.]+|-?nan)"
    spread = rf" +{number} \({number} - {number}\)"
    row = re.compile(rf"(\w+) +(\d+ +\d+ +\d+){spread}{spread} +{number} %{spread} +{number}$")
    mean = re.compile(rf"(\w+) +geometric mean +{number} +{number} % +{number}$")

    def known(word: str) -> Optional[float]:
        return None if "nan" in word else float(word)

    rows = []
    for line in text.splitlines():
        if match := row.match(line):
            layout, shape, *words = match.groups()
            ours, theirs = (Spread(*map(float, words[i : i + 3])) for i in (0, 7))
            other = theirs if known(words[7]) else None
            share, ratio = float(words[6]) / 100, known(words[10])
            rows.append(GemmRow(layout, " x ".join(shape.split()), ours, share, other, ratio))
        elif match := mean.match(line):
            speed = float(match[2])
            share, ratio = float(match[3]) / 100, known(match[4])
            rows.append(GemmRow(match[1], "", Spread(speed, speed, speed), share, None, ratio))
    if not rows:
        raise Failure(f"build/bench_gemm printed no figures:\n{text.strip()}")
    return rows


# ---------------------------------------------------------------------------------------------
# the goals

Reached = dict[str, Optional[float]]  # by model or layout; None: not measured


@dataclass(frozen=True)
class Bar:
    """A goal. The worst model or layout decides. If the aim is below the floor, less is better."""

    what: str
    floor: float
    aim: float
    unit: str
    reached: Callable[[Results], Reached]

    def worst(self, reached: Reached) -> Optional[float]:
        """The worst measured value."""
        values = [value for value in reached.values() if value is not None]
        return (min if self.aim > self.floor else max)(values, default=None)

    def verdict(self, reached: Reached) -> str:
        """A value below the floor decides even if others were not measured."""
        worst, sign = self.worst(reached), 1 if self.aim > self.floor else -1
        if worst is not None and sign * worst < sign * self.floor:
            return "below"
        if worst is None or None in reached.values():
            return "not measured"
        return "aim" if sign * worst >= sign * self.aim else "floor"

    def text(self, value: Optional[float]) -> str:
        if value is None:
            return "not measured"
        if self.unit == "%":
            return f"{100 * value:.0f} %"
        return f"{value / 2**20:.1f} MiB" if self.unit == "MiB" else f"{value:.2f}{self.unit}"


def over(
    section: str, contender: str, value: Callable[[Comparison, Taken], float], only: str = ""
) -> Callable[[Results], Reached]:
    """A figure of one contender, on one subject or on all that it runs on."""
    subjects = [
        subject.name
        for s in SECTIONS
        for subject in s.subjects
        if s.name == section
        and contender in [c.label() for c in s.on(subject)]
        and only in ("", subject.name)
    ]

    def reached(results: Results) -> Reached:
        figures = {
            comparison.subject.name: value(comparison, taken)
            for comparison in results.comparisons
            for taken in comparison.taken
            if comparison.section.name == section and taken.contender.label() == contender
        }
        return {subject: figures.get(subject) for subject in subjects}

    return reached


def speed(comparison: Comparison, theirs: Taken) -> float:
    return comparison.speed(theirs).median


def over_fp32(comparison: Comparison, taken: Taken) -> float:
    """The speed of our program in another dtype over its speed in fp32, round by round."""
    plain = next(t for t in comparison.taken if t.contender.own and t.contender.dtype == "fp32")
    return Spread.of([a / b for a, b in zip(plain.milliseconds, taken.milliseconds)]).median


def state_ratio(_: Comparison, taken: Taken) -> float:
    return taken.peak / taken.state()


def logits(_: Comparison, taken: Taken) -> float:
    return taken.said["logits"]


MIB = 2**20
# fmt: off
BARS = (
    Bar("matrix product / OpenBLAS, each layout", 0.95, 1.05, "x",
        lambda results: {row.layout: row.ratio for row in results.gemm_means()}),
    Bar("matrix product / FMA peak, each layout", 0.70, 0.80, "%",
        lambda results: {row.layout: row.share for row in results.gemm_means()}),
    Bar("step speed / PyTorch eager", 1.2, 1.6, "x", over("step", "PyTorch eager", speed)),
    Bar("step speed / torch.compile", 1.05, 1.3, "x", over("step", "torch.compile", speed)),
    Bar("step speed / llm.c-style loops", 3, 4, "x", over("step", "llm.c-style loops", speed)),
    Bar("peak memory / PyTorch eager's", 0.6, 0.45, "x", over("step", "PyTorch eager", Comparison.memory)),
    Bar("peak memory / (16 B x parameters)", 1.4, 1.25, "x", over("step", "train_olmo2", state_ratio, M85)),
    Bar("prompt / transformers", 1.3, 1.6, "x", over("prefill", "transformers", speed)),
    Bar("decoding speed / transformers generate", 2, 4, "x", over("decode", "transformers generate", speed)),
    Bar("decoding speed / transformers generate, bf16", 2, 4, "x",
        over("decode", "transformers generate, bf16", speed)),
    Bar("decoding speed / reading the weights", 0.8, 0.9, "%", over("decode", "reading the weights", speed)),
    Bar("decoding speed / reading the weights, bf16", 0.8, 0.9, "%",
        over("decode", "reading the weights, bf16", speed)),
    Bar("decoding speed, bf16 / fp32", 1.8, 1.9, "x",
        over("decode", "train_olmo2, bf16", over_fp32, B1B_DECODING)),
    Bar("16 sequences / transformers generate", 2, 4, "x", over("batch", "transformers generate", speed)),
    Bar("16 sequences / transformers generate, bf16", 2, 4, "x",
        over("batch", "transformers generate, bf16", speed)),
    Bar("questions a second / transformers", 2, 10, "x", over("eval", "transformers", speed)),
    Bar("tokenizer speed / tokenizers", 1.5, 4, "x", over("tokenizer", "tokenizers", speed)),
    Bar("memory for logits, V = 100352", 64 * MIB, 16 * MIB, "MiB", over("step", "train_olmo2", logits, M1B)),
)
# fmt: on


# ---------------------------------------------------------------------------------------------
# the report


def paragraph(text: str) -> list[str]:
    return [*textwrap.wrap(text, 120, break_on_hyphens=False), ""]


def gigabytes(size: float) -> str:
    return f"{size / 1e9:.2f} GB"


def add_gemm(report: Report, results: Results) -> None:
    about = (
        "GFLOP/s of llmc/gemm.h and of OpenBLAS, with the kernels that it selects for this processor, in the "
        "layouts of training: Y = X W^T, dX = dY W, dW += dY^T X. The FMA peak is the rate of fused "
        "multiply-adds in registers and nothing else."
    )
    report.add("## The matrix product", "", *paragraph(about))
    rows = []
    for row in results.gemm:
        ours = str(row.ours) if row.shape else figure(row.ours.median)
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}x"
        share = f"{100 * row.share:.0f} %"
        rows.append([row.layout, row.shape or "geometric mean", ours, share, str(row.theirs or ""), ratio])
    report.table(["layout", "M x N x K", "gemm", "of FMA peak", "OpenBLAS", "gemm's speed over it"], rows)


def add_section(report: Report, section: Section, comparisons: list[Comparison]) -> None:
    rows, peaks = [], []
    for c in comparisons:
        for t in c.taken:
            other = not t.contender.own
            head = [c.subject.name, t.contender.label()]
            speed = "{:.2f}x ({:.2f}–{:.2f})".format(*c.speed(t)) if other else ""
            rows.append([*head, str(Spread.of(t.milliseconds)), str(c.rate(t)), speed])
            if section.name == "step":
                memory = f"{c.memory(t):.2f}x" if other else ""
                peaks.append([*head, gigabytes(t.peak), f"{t.peak / t.state():.2f}x", memory])
    report.add(f"## {section.title}", "", *paragraph(section.about))
    report.table(["on", "program", "ms", section.unit, "train_olmo2's speed over it"], rows)
    if peaks:
        about = (
            "The peak memory of each process, including its libraries. 16 bytes per parameter are the "
            "weights, gradients and moments in fp32."
        )
        report.add(*paragraph(about))
        report.table(["on", "program", "peak", "over 16 B x parameters", "train_olmo2's over it"], peaks)


def add_bars(report: Report, results: Results) -> None:
    report.add("## Bars", "", "The worst model or layout decides; it is in bold.", "")
    rows = []
    for bar in BARS:
        reached = bar.reached(results)
        worst, cells = bar.worst(reached), []
        if worst is None and results.comparisons:
            continue  # of a section that was not asked for
        for name, value in reached.items() if worst is not None else ():
            bold = "**" if value is not None and value == worst else ""
            cells.append(f"{name}: {bold}{bar.text(value)}{bold}")
        rows.append(
            [bar.what, bar.text(bar.floor), bar.text(bar.aim), "; ".join(cells), bar.verdict(reached)]
        )
    report.table(["what", "floor", "aim", "reached", "verdict"], rows)


def write_report(results: Results, command: str) -> str:
    report = Report()
    about = (
        f"Measured by `{command}`. Programs take turns in rounds. A figure is the median of the rounds "
        "(smallest–largest). A ratio is the median of the ratios of the rounds."
    )
    report.add("# train_olmo2.c compared with PyTorch and its ecosystem, on a CPU", "", *paragraph(about))
    report.table(["", ""], [[name, value] for name, value in results.facts.items()])
    if results.gemm:
        add_gemm(report, results)
    for section in SECTIONS:
        comparisons = [c for c in results.comparisons if c.section is section]
        if comparisons:
            add_section(report, section, comparisons)
    add_bars(report, results)
    if results.notes:
        report.add("## Notes", "", *(f"- {note}" for note in results.notes), "")
    report.add(
        "## Commands", "", "With --steps 0 a program runs a step for every line on its standard input.", ""
    )
    report.add("```", *results.commands, "```")
    return "\n".join(report.lines).rstrip() + "\n"


# ---------------------------------------------------------------------------------------------
# README.md


def summary_rows(c: Comparison, ours: Taken) -> list[list[str]]:
    """The rows of the README's table that compare others with one of our programs."""
    others = [t for t in c.taken if not t.contender.own and c.ours(t) is ours]

    def row(what: str, show: Callable[[Taken], str], ratio: Callable[[Taken], float]) -> list[str]:
        beside = ", ".join(f"{t.contender.name} {show(t)}" for t in others)
        return [what, show(ours), beside, ", ".join(f"{ratio(t):.2f}x" for t in others)]

    def time_or_rate(t: Taken) -> str:
        if c.section.name == "step":
            return f"{figure(statistics.median(t.milliseconds))} ms"
        return f"{figure(c.rate(t).median)} {c.section.unit}"

    dtype = "" if ours.contender.dtype == "fp32" else f", {ours.contender.dtype}"
    rows = [row(f"{c.section.title}: {c.subject.name}{dtype}", time_or_rate, lambda t: c.speed(t).median)]
    if c.section.name == "step":
        rows.append(row("its peak memory", lambda t: gigabytes(t.peak), c.memory))
    return rows


def readme_table(results: Results) -> str:
    """The summary between the markers in README.md."""
    report, rows = Report(), []
    for row in results.gemm_means():
        ratio = "" if row.ratio is None else f", {row.ratio:.2f}x"
        speed = f"{figure(row.ours.median)} GFLOP/s"
        rows.append(
            [f"Matrix product: {row.layout}", speed, "FMA peak, OpenBLAS", f"{row.share:.2f}x{ratio}"]
        )
    for comparison in results.comparisons:
        for taken in comparison.taken:
            rows += summary_rows(comparison, taken) if taken.contender.own else []
    facts = (results.facts.get(name, "?") for name in ("processor", "threads", "commit", "rounds"))
    verdicts = [bar.verdict(bar.reached(results)) for bar in BARS]
    counts = (f"{verdicts.count(name)} {name}" for name in ("aim", "floor", "below", "not measured"))
    about = (
        "Measured by `scripts/bench_cpu.sh` on {}; {}; commit {}; medians of {} rounds in which the programs "
        "take turns. A ratio is train_olmo2's speed, or memory, over that of the other program."
    )
    report.add(*paragraph(about.format(*facts)))
    report.table(["what", "train_olmo2", "others", "ratio"], rows)
    report.add(f"Of {len(BARS)} bars: {', '.join(counts)}. [Spreads, bars, commands](dev/bench/RESULTS.md).")
    return "\n".join(report.lines)


def assemble(readme: str, table: str) -> str:
    """The README with a new table between its markers."""
    begin, end = MARKERS
    if readme.count(begin) != 1 or readme.count(end) != 1 or readme.index(begin) > readme.index(end):
        raise Failure(f"README.md: expected one line '{begin}' and after it one line '{end}'")
    head, rest = readme.split(begin)
    return f"{head}{begin}\n{table}\n{end}{rest.split(end)[1]}"
