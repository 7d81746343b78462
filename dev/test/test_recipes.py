#!/usr/bin/env python3
"""Tests scripts/: plot.py, demo.sh, train_text.sh and what these two share. No result depends on the speed of
the machine: the planning is tested with given times."""

from __future__ import annotations

import importlib.util
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

from data_checks import ROOT, check, check_equal, run_tests, script

import primer

# ----------------------------------------------------------------------------------------------
# plot.py


def png_height(path: Path) -> int:
    return int.from_bytes(path.read_bytes()[20:24], "big")


def test_plot(folder: Path) -> None:
    if importlib.util.find_spec("matplotlib") is None:
        print("skipped: scripts/plot.py (matplotlib not installed)")
        return
    for name in ("a", "b"):
        (folder / name).mkdir()
        with open(folder / name / "log.jsonl", "w", encoding="utf-8") as log:
            log.write('{"type": "run"}\n{"type": "sample", "text": "a\u2028b\x85c"}\n')
            for step in range(1, 201):
                log.write(
                    json.dumps(
                        {
                            "type": "step",
                            "step": step,
                            "tokens": step * 2048,
                            "z": 0.001,
                            "lr": 0.001,
                            "loss": None if step == 77 else 5.0 / step,
                            "gradient_norm": None if step == 77 else 1.0,
                            "tokens_per_second": 9000.0,
                            "skipped": step == 77,
                            "masked": 0,
                        }
                    )
                    + "\n"
                )
                if step % 50 == 0:
                    log.write(
                        json.dumps({"type": "eval", "step": step, "loss": 4.0, "bits_per_byte": None}) + "\n"
                    )
            log.write('{"type": "step", "st')
    result = script("scripts/plot.py", folder / "a")
    check_equal(result.returncode, 0, result.stderr)
    check_equal((folder / "a/plot.png").read_bytes()[:8], b"\x89PNG\r\n\x1a\n", "a picture beside the run")
    result = script("scripts/plot.py", folder / "a", folder / "b/log.jsonl", "--out", folder / "new/two.png")
    check(result.returncode == 0 and (folder / "new/two.png").stat().st_size > 20000, result.stderr)
    check("Warning" not in result.stderr, result.stderr)
    # Scores of tasks make the picture higher; a run may have none, and another task or metric.
    height = png_height(folder / "new/two.png")
    check_equal(png_height(folder / "a/plot.png"), height, "one height without scores")
    shutil.copytree(folder / "a", folder / "scored")
    lines = (folder / "a/log.jsonl").read_text(encoding="utf-8").split("\n")
    for task, metric, score in (("arc_easy", "acc_per_char", 0.3), ("_$x$", "bits_per_byte", 1.5),
                                ("mmlu", "acc_raw", None)):
        lines[-1:-1] = [json.dumps({"type": "eval_task", "step": step, "task": task, "metric": metric,
                                    "score": score}) for step in (50, 100)]
    (folder / "scored/log.jsonl").write_text("\n".join(lines), encoding="utf-8")
    for runs in ((folder / "scored",), (folder / "a", folder / "scored", folder / "scored")):
        result = script("scripts/plot.py", *runs, "--out", folder / "scores.png")
        check(result.returncode == 0 and "Warning" not in result.stderr, result.stderr)
        check(png_height(folder / "scores.png") > height, "a row of scores")
    shutil.copytree(folder / "a", folder / "_a$b$c")
    result = script("scripts/plot.py", folder / "a", "_a$b$c", "--out", folder / "dollar", cwd=folder)
    check_equal(result.returncode, 0, result.stderr)
    check((folder / "dollar.png").is_file() and "Warning" not in result.stderr, result.stderr)
    result = script("scripts/plot.py", folder / "a", "--out", folder / "a.xyz")
    check(result.returncode == 2 and "ends in one of" in result.stderr, "an unknown kind of picture")
    result = script("scripts/plot.py", folder / "a", "--out", "/proc/none/a.png")
    check(result.returncode == 1 and result.stderr.startswith("error: "), result.stderr)
    for content, words in (
        ("[1]\n{}\n", "log.jsonl:1: expected an object"),
        ('{"type": "step", "step": 1}\n', 'without its "tokens"'),
    ):
        (folder / "b/log.jsonl").write_text(content)
        result = script("scripts/plot.py", folder / "b")
        check(result.returncode == 1 and words in result.stderr, result.stderr)
    (folder / "b/log.jsonl").write_text('{"type": "run"}\n')
    check("holds no step yet" in script("scripts/plot.py", folder / "b").stderr, "a run that has not begun")
    (folder / "b/log.jsonl").write_text('{"type"\n{"type": "run"}\n')
    check("log.jsonl:1: is not JSON" in script("scripts/plot.py", folder / "b").stderr, "a damaged log")
    check("no such file" in script("scripts/plot.py", folder / "c").stderr, "no run")


def test_no_matplotlib(folder: Path) -> None:
    (folder / "matplotlib.py").write_text("raise ImportError('No module named matplotlib')")
    result = script("scripts/plot.py", "x", PYTHONPATH=str(folder))
    check_equal((result.returncode, result.stderr.count("\n")), (1, 1), "an error is one line")
    check("pip install matplotlib" in result.stderr, result.stderr)


# ----------------------------------------------------------------------------------------------
# demo.sh, train_text.sh

SOURCED = f'. "{ROOT}/scripts/setup.sh"; . "{ROOT}/scripts/small_run.sh"; '


def shell(folder: Path, *command: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", *map(str, command)],
        cwd=folder,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
    )


def plan(folder: Path, *arguments: object) -> tuple[int, str]:
    """The steps that plan_steps sets, and what it says."""
    source = SOURCED + 'plan_steps "$@"; echo "$steps"'
    result = shell(folder, "-euc", source, "plan", *arguments)
    check_equal((result.returncode, result.stderr), (0, ""), f"plan_steps {arguments}")
    lines = result.stdout.splitlines()
    return int(lines[-1]), " ".join(lines[:-1])


def test_plan(folder: Path) -> None:
    """MINUTES, MILLISECONDS, LEAST, MOST: 0.95 minutes of 60,000 ms hold 57,000 / MILLISECONDS steps."""
    for arguments, steps, words in (
        ((3, 75, 600, 9000), 2280, "this machine does 13 steps/s: planned 2280 steps, about 3 minutes"),
        ((3, 75.5, 600, 9000), 2264, "13 steps/s: planned 2264 steps"),
        ((0.5, 24, 50, 9000), 1187, "42 steps/s: planned 1187 steps, about 30 seconds"),
        ((3, 250, 600, 9000), 684, "4.0 steps/s: planned 684 steps"),
        ((3, 285, 600, 9000), 600, "planned 600 steps, about 3 minutes"),
        ((3, 1000, 600, 9000), 600, "warning: this machine does 1.00 steps/s, so only 171 steps fit"),
        ((3, 1000, 600, 9000), 600, "planned 600 steps, about 11 minutes"),
        ((3, 75, 600, 1000), 1000, "2280 steps fit into 3 minutes, but 1000 are enough"),
        ((3, 75, 600, 1000), 1000, "planned 1000 steps, about 79 seconds"),
        ((10, 75, 50, 50), 50, "planned 50 steps, about 4 seconds"),
        ((600, 20000, 50, 9000), 1710, "0.05 steps/s: planned 1710 steps, about 10 hours"),
    ):
        found, said = plan(folder, *arguments)
        check_equal(found, steps, f"the steps planned with {arguments}")
        check(words in said, f"{arguments}: {said}")
    check("warning" not in plan(folder, 3, 75, 600, 9000)[1], "no warning where the time is enough")


def test_timing(folder: Path) -> None:
    """The median of the step times after the first four; a run that was interrupted gives none."""
    program = folder / "train_olmo2"
    source = SOURCED + "folder=$PWD; step_milliseconds --x 1"

    def time_steps(speeds: list[float]) -> subprocess.CompletedProcess:
        lines = "".join(
            json.dumps({"type": "step", "step": n, "tokens": n * 2000, "lr": 1.0, "tokens_per_second": speed})
            + "\n"
            for n, speed in enumerate(speeds, 1)
        )
        (folder / "log").write_text('{"type": "run", "tokens": 5}\n' + lines + '{"type": "save"}\n')
        program.write_text('#!/bin/sh\necho "$@" >arguments\nmkdir -p timing\ncp log timing/log.jsonl\n')
        program.chmod(0o755)
        return shell(folder, "-euo", "pipefail", "-c", source)

    result = time_steps([10.0, 20.0, 30.0, 40.0, 1000, 4000, 8000, 2e4, 16000, 2000, 500, 10000, 5000])
    check_equal((result.returncode, float(result.stdout or 0)), (0, 400.0), f"the median: {result.stderr}")
    check("--x 1 --out" in (folder / "arguments").read_text(), "the flags reach the program")
    result = time_steps([100.0] * 12)
    check_equal((result.returncode, result.stdout), (130, ""), "Ctrl-C while it measures")
    program.write_text("#!/bin/sh\necho 'error: bad data' >&2\nexit 1\n")
    result = shell(folder, "-euo", "pipefail", "-c", source)
    check(result.returncode == 1 and "error: bad data" in result.stderr, "an error of the program is shown")


def test_folder(folder: Path) -> None:
    """What was begun disappears if nothing was trained, but for what was downloaded."""
    names = ("plain", "with space", "[ab]*?", "deep/er")

    def begin(name: str, commands: str) -> subprocess.CompletedProcess:
        source = SOURCED + f'begin_folder "$1"; {commands}'
        return shell(folder, "-euo", "pipefail", "-c", source, "begin", name)

    fill = 'mkdir -p "$1/data" "$1/timing/x"; touch "$1/data/a" "$1/data/.b.writing" "$1/.hidden"; '
    for name in names:
        check_equal(begin(name, fill + "exit 3").returncode, 3, f"{name}: the exit code stays")
        check(not (folder / name).exists(), f"{name} is removed")
        begin(name, fill + 'mkdir "$1/data/downloads"; echo part >"$1/data/downloads/x.part"; kill -TERM $$')
        found = sorted(str(path.relative_to(folder / name)) for path in (folder / name).rglob("*"))
        check_equal(found, ["data", "data/downloads", "data/downloads/x.part"], f"{name}: downloads stay")
        check_equal(begin(name, "exit 0").returncode, 0, f"{name}: downloads go on")
        result = begin(name, fill + 'mkdir "$1/model"; touch "$1/model/log.jsonl"; exit 1')
        check((folder / name / "model/log.jsonl").is_file(), f"{name}: a run that has begun stays")
        check(not (folder / name / "timing").exists(), f"{name}: the timing run does not")
        result = begin(name, "exit 0")
        check(result.returncode == 1 and "exists already" in result.stderr, f"{name}: a run is kept")
    (folder / "ab").mkdir()
    result = begin("/proc/none", "exit 0")
    check_equal(result.returncode, 1, "a folder that cannot be made")


def test_arguments(folder: Path) -> None:
    for name in ("demo.sh", "train_text.sh", "setup.sh", "small_run.sh"):
        check_equal(shell(folder, "-n", ROOT / "scripts" / name).returncode, 0, f"{name} is bash")
    (folder / "taken").mkdir()
    (folder / "a.txt").write_text("text")
    for command in (["demo.sh", "taken"], ["train_text.sh", "--out", "taken", "a.txt"]):
        result = shell(folder, ROOT / "scripts" / command[0], *command[1:])
        check(result.returncode == 1 and "taken exists already" in result.stderr, result.stderr)
    check_equal(list((folder / "taken").iterdir()), [], "nothing was written there")
    for command, words in (
        ("train_text.sh", "no text was named"),
        ("train_text.sh --out", "--out needs a value"),
        ("train_text.sh --model x", "'--model'"),
        ("train_text.sh --steps 1e3 a.txt", "--steps 1e3: expected a whole number"),
        ("train_text.sh --steps 0 a.txt", "--steps 0: expected"),
        ("train_text.sh --minutes -1 a.txt", "--minutes -1: expected a positive number"),
        ("train_text.sh --minutes 0.0 a.txt", "--minutes 0.0: expected"),
        ("train_text.sh --vocab-size x a.txt", "--vocab-size x: expected"),
        ("demo.sh --minutes", "--minutes needs a value"),
        ("demo.sh --minutes x", "--minutes x: expected"),
        ("demo.sh --steps 5.5", "--steps 5.5: expected"),
        ("demo.sh --bogus", "'--bogus'"),
        ("demo.sh a b", "expected one folder, found 2"),
        ("gpu_report.sh --steps x", "--steps x: expected"),
    ):
        name, *flags = command.split()
        result = shell(folder, ROOT / "scripts" / name, *flags)
        check(result.returncode == 2 and words in result.stderr, f"{command}: {result.stderr}")
    check_equal(sorted(path.name for path in folder.iterdir()), ["a.txt", "taken"], "nothing was made")
    for name in ("demo.sh", "train_text.sh"):
        result = shell(folder, ROOT / "scripts" / name, "--help")
        check("--minutes N" in result.stdout and "set -e" not in result.stdout, f"{name} --help")


def test_train_text(folder: Path) -> None:
    """The whole script on a short text. On any machine, far fewer than 50 steps fit into so short a time."""
    if not (ROOT / ".venv/installed").is_file() or not (ROOT / "train_olmo2").is_file():
        print("skipped: scripts/train_text.sh (train_olmo2 is not built, or .venv is not set up)")
        return
    stories = [primer.write_story(random.Random(i))[0] for i in range(200)]
    (folder / "my text.txt").write_text("\n\n".join(stories), encoding="utf-8")
    small = ("--config", "1M", "--vocab-size", "400", "--out", "a run")
    command = (ROOT / "scripts/train_text.sh", *small, "my text.txt")
    result = shell(folder, *command, "--minutes", "0.0001")
    check_equal(result.returncode, 0, result.stderr)
    check(" steps fit into 0 seconds" in result.stdout, "it says that the time is too short")
    check("planned 50 steps, about" in result.stdout, "and plans the fewest steps")
    check(not (folder / "a run/timing").exists(), "nothing is left of the timing")
    run = next(line for line in result.stdout.splitlines() if line.startswith("$ ./train_olmo2 train"))
    for flag in ("--steps 50", "--warmup-steps 5", "--skip-step on", "--schedule linear"):
        check(flag in run, f"{flag} in {run}")
    check((folder / "a run/plot.png").is_file(), "it ends with a plot")
    check("--load " + str(folder / "a\\ run/model") in result.stdout, "and says how to go on")

    shutil.rmtree(folder / "a run")
    result = shell(folder, *command, "--steps", "2")
    check_equal(result.returncode, 0, result.stderr)
    check("--steps 2 " in result.stdout and "steps/s" not in result.stdout, "--steps measures no time")

    shutil.rmtree(folder / "a run")
    (folder / "my text.txt").write_text(stories[0], encoding="utf-8")
    result = shell(folder, *command, "--vocab-size", "290", "--steps", "2")
    check(result.returncode == 1 and "error: " in result.stderr, f"too short a text: {result.stderr}")
    check_equal([path.name for path in folder.iterdir()], ["my text.txt"], "and nothing is left")


def test_shellcheck(folder: Path) -> None:
    if shutil.which("shellcheck") is None:
        print("skipped: shellcheck of scripts/*.sh (shellcheck not installed)")
        return
    for path in sorted((ROOT / "scripts").glob("*.sh")):
        result = shell(ROOT, "-c", f"shellcheck -x '{path}'")
        check_equal(result.returncode, 0, f"shellcheck {path.name}:\n{result.stdout}")


if __name__ == "__main__":
    run_tests(sys.modules[__name__])
