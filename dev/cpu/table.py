#!/usr/bin/env python3
"""Times every version of the ladders of dev/cpu, on one thread and on all, and prints their tables.

    python3 dev/cpu/table.py              takes two minutes; nothing else should run
    python3 dev/cpu/table.py --write      also writes the tables into dev/cpu/README.md, and the rates of
                                          each version into the comment before it

OMP_NUM_THREADS sets the number of threads; CC and CFLAGS are used for the build.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
from pathlib import Path
from typing import List

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
README = HERE / "README.md"
BEGIN, END = "<!-- speed tables: begin -->\n", "<!-- speed tables: end -->\n"
OPERATIONS = {
    "matmul": ["forward", "backward_input", "backward_weight"],
    "attention": ["forward", "backward"],
    "classifier": ["forward", "backward"],
}


def run(*command: str, threads: int = 1) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    return subprocess.run(command, cwd=ROOT, env=environment, check=True, text=True,
                          stdout=subprocess.PIPE).stdout


def measure(ladder: str, operation: str, threads: List[int]) -> List[List[str]]:
    """Returns two columns: unit, versions and peak; then the rates of the operation."""
    columns: List[List[str]] = []
    for count in threads:
        output = run(f"build/cpu/{ladder}", operation, threads=count)
        unit, size, best, most = re.findall(r"^(\S+), \d+ threads?, (.*); at best, (.*): (.*)$", output,
                                            re.M)[0]
        versions = re.findall(r"^(\d)  (.*\S) +([\d.]+) +[\d.]+ %$", output, re.M)
        on = " / ".join(map(str, threads)) + (" thread" if threads == [1] else " threads")
        names = [f"{unit} on {on}, {size}", *(f"{n} {idea}" for n, idea, _ in versions), f"at best, {best}"]
        columns.append([f"{float(rate):.3g}" for rate in [*(rate for *_, rate in versions), most]])
    return [names, [operation, *map(" / ".join, zip(*columns))]]


def table(ladder: str, threads: List[int]) -> List[List[str]]:
    """The rows of a ladder's table."""
    measured = [measure(ladder, operation, threads) for operation in OPERATIONS[ladder]]
    return [list(row) for row in zip(measured[0][0], *(rates for _, rates in measured))]


def markdown(rows: List[List[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |\n" for row in rows]
    return "".join([lines[0], "|" + "---|" * len(rows[0]) + "\n", *lines[1:]])


def with_rates(source: str, rows: List[List[str]]) -> str:
    """A ladder's source with new rates in its lines "// GFLOP/s on ...", one for each version."""
    unit, versions = rows[0][0].split(",")[0], rows[1:-1]
    parts = re.split(r"^// \S+/s on .*$", source, flags=re.M)
    if len(parts) != len(versions) + 1:
        raise ValueError(f"{len(parts) - 1} lines with rates for {len(versions)} versions")
    lines = [f"// {unit}: " + ", ".join(map(" ".join, zip(rows[0][1:], row[1:]))) + "." for row in versions]
    return "".join(part + line for part, line in zip(parts, [*lines, ""]))


def machine() -> str:
    """The processor and the compiler, by their own names."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.*)$", info.read_text() if info.exists() else "", re.M)
    compiler = run(os.environ.get("CC", "cc"), "--version").splitlines()[0]
    return f"{names[0] if names else 'this machine'}, {compiler}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("--write", action="store_true", help="write into README.md and the comments")
    parser.add_argument("--machine", help="name of the machine in the tables")
    options = parser.parse_args()
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = sorted({1, int(os.environ.get("OMP_NUM_THREADS", usable))})
    run("make", "-s", *(f"build/cpu/{ladder}" for ladder in OPERATIONS))
    tables = {ladder: table(ladder, threads) for ladder in OPERATIONS}
    text = "\n".join([f"{options.machine or machine()}\n", *map(markdown, tables.values())])
    print(text, end="")
    if options.write:
        before, rest = README.read_text().split(BEGIN)
        README.write_text(before + BEGIN + text + END + rest.split(END)[1])
        for ladder, rows in tables.items():
            path = HERE / f"{ladder}.c"
            path.write_text(with_rates(path.read_text(), rows))


if __name__ == "__main__":
    main()
