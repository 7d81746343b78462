#!/usr/bin/env python3
"""Tests scripts/pretrain_190M.sh and pretrain_1B.sh without a GPU: the commands that they run, with a program
that only prints its arguments, and a small run of ./train_olmo2 that stops and resumes."""

from __future__ import annotations

import array
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
passed = failed = 0

# Pretends that 61 sequences fit.
STUB = """#!/bin/sh
case "$*" in
    *--dry-run*"--memory 1k"*) echo 'error: one sequence needs more' >&2; exit 1 ;;
    *--dry-run*) echo 'largest        61 sequences at once' ;;
    *) echo "ran: $*" ;;
esac
"""
RECIPE = (
    "--schedule cosine", "--final-lr-fraction 0.1", "--beta1 0.9", "--beta2 0.95", "--adam-eps 1e-8",
    "--weight-decay 0.1", "--clip 1", "--z-loss 1e-5", "--instance-filter on", "--seq-len 4096",
)  # fmt: skip


def check(ok: bool, what: str) -> None:
    global passed, failed
    passed, failed = passed + bool(ok), failed + (not ok)
    if not ok:
        print(f"FAILED {what}")


def script(folder: Path, size: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs the script from the test's folder, which is not the project's."""
    command = ["bash", str(ROOT / "scripts" / f"pretrain_{size}.sh"), *words]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "99"}  # as if there were no GPU
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def ran(output: str) -> str:
    return next((line for line in output.splitlines() if line.startswith("ran: ")), "")


def test_command(folder: Path) -> None:
    stub = folder / "stub"
    stub.write_text(STUB)
    stub.chmod(0o755)
    new = ("--program", str(stub), "--out", str(folder / "run"), "--memory", "80G", "mix/*.npy")
    for size, values in {
        "1B": ("--batch-size 512", "--lr 4e-4", "--warmup-steps 4000", "--tokens 5e12", "--stop-at 1907359",
               "--micro-batch-size 57"),
        "190M": ("--batch-size 128", "--lr 9.73e-4", "--warmup-steps 363", "--tokens 7614167040",
                 "--micro-batch-size 43"),
    }.items():  # fmt: skip
        line = ran(script(folder, size, *new).stdout)
        for flag in (*RECIPE, *values, f"--config {size}", f"--data {folder / 'mix/*.npy'}"):
            check(flag in line, f"{size} is trained with {flag}: {line}")
        check("--eval-every" not in line, f"{size} without --val-data does not validate")

    more = ("--val-data", "v.npy", "--val-data", "w.npy", "--tokenizer", "t.json")
    line = ran(
        script(
            folder, "1B", *new, *more, "--", "--epochs", "2", "--lr=1e-3", "--micro-batch-size", "2"
        ).stdout
    )
    files = [f"{flag} {folder / name}" for flag, name in zip(more[::2], more[1::2])]
    check(
        all(text in line for text in files) and "--eval-every 1000" in line,
        f"validation and tokenizer: {line}",
    )
    given = "--epochs 2 --lr=1e-3 --micro-batch-size 2" in line
    check(
        given and "--lr 4e-4" not in line and "--tokens 5e12" not in line,
        f"flags replace the recipe's: {line}",
    )

    for words, code, message in (
        (("--program", str(stub)), 2, "expected token files"),
        (("--out",), 2, "--out needs a value"),
        (("--bogus",), 2, "unknown option"),
        (("--program", str(folder / "none"), "x.npy"), 1, "no such program"),
        (("--program", str(stub), "--memory", "1k", "x.npy"), 1, "one sequence needs more"),
        (("--program", f"{stub}cu", "x.npy"), 1, "finds no GPU"),
    ):
        (folder / "stubcu").write_text(STUB)
        (folder / "stubcu").chmod(0o755)
        result = (
            script(folder, "190M", "--out", str(folder / "run"), *words)
            if code == 1
            else script(folder, "190M", *words)
        )
        said = result.returncode == code and message in result.stderr and not ran(result.stdout)
        check(said, f"{' '.join(words)}: {result.returncode}, {result.stderr}")
    help_text = script(folder, "1B", "--help").stdout
    check("--val-data" in help_text and "OLMo 2 1B" in help_text and "set -e" not in help_text, "--help")

    (folder / "run" / "step-00000001").mkdir(parents=True)
    line = ran(
        script(
            folder, "1B", "--program", str(stub), "--out", str(folder / "run"), "--", "--log-every", "1"
        ).stdout
    )
    check(
        line == f"ran: train --resume {folder}/run --stop-at 1907359 --log-every 1", f"a run resumes: {line}"
    )
    names = ("moved/*.npy", "--val-data", "v.npy", "--tokenizer", "t.json")
    line = ran(script(folder, "190M", "--program", str(stub), "--out", str(folder / "run"), *names).stdout)
    files = f"--data {folder}/moved/*.npy --val-data {folder}/v.npy --tokenizer {folder}/t.json"
    check(line == f"ran: train --resume {folder}/run {files}", f"with files that have moved: {line}")
    strange = folder / "[a] *b"
    (strange / "step-00000001").mkdir(parents=True)
    line = ran(script(folder, "190M", "--program", str(stub), "--out", str(strange)).stdout)
    check(line == f"ran: train --resume {strange}", f"a folder with unusual characters: {line}")


def test_run(folder: Path) -> None:
    if not (ROOT / "train_olmo2").exists():
        print("skipped: a run of ./train_olmo2 (it is not built)")
        return
    tokens = array.array("I", random.Random(1).choices(range(512), k=3000))
    (folder / "tokens.npy").write_bytes(tokens.tobytes())
    common = ("--program", str(ROOT / "train_olmo2"), "--out", str(folder / "small"))
    small = "--config 14M --vocab-size 512 --seq-len 64 --batch-size 4 --steps 4 --warmup-steps 2 --stop-at 2"
    result = script(folder, "190M", *common, str(folder / "tokens.npy"), "--", *small.split())
    check(
        result.returncode == 0 and "stopped at step 2 of 4" in result.stdout, f"a small run: {result.stderr}"
    )
    result = script(folder, "190M", *common)
    check(result.returncode == 0 and "complete, 4 steps" in result.stdout, f"it resumes: {result.stderr}")


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        test_command(Path(name).resolve())
        test_run(Path(name).resolve())
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
