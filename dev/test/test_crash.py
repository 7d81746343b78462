"""test_crash.py [PROGRAM] [--runs N] [--seed N]: training survives kills, and ends with the same bits.

Each of N runs (100) is killed with SIGKILL at random moments and resumed, until it is complete. Half of the
moments are drawn from the whole run. The other half are inside a save: the test waits until the hidden
directory of an unfinished checkpoint appears, and then kills within the duration of a save. After every kill,
each checkpoint under its final name must be complete. At the end, weights, optimizer and log must equal those
of an undisturbed run.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

STEPS, SAVE_EVERY = 24, 3
FILES = ("model.safetensors", "trainer/optimizer.safetensors", "config.json")


def write_inputs(folder: Path) -> None:
    config = {"model_type": "olmo2", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
              "num_key_value_heads": 2, "intermediate_size": 32, "vocab_size": 300,
              "max_position_embeddings": 16, "rms_norm_eps": 1e-6, "rope_theta": 500000}
    (folder / "config.json").write_text(json.dumps(config))
    words = random.Random(1)
    tokens = [words.randrange(300) for _ in range(16 * 40)]
    (folder / "data.npy").write_bytes(struct.pack(f"<{len(tokens)}I", *tokens))


class Crash:
    """The program in a folder with inputs, and the duration and the results of its undisturbed run."""

    def __init__(self, program: Path, folder: Path, seed: int) -> None:
        self.program, self.folder, self.random = program, folder, random.Random(seed)
        self.environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.kills = self.kills_in_save = self.restarts = 0
        write_inputs(folder)
        begin = time.monotonic()
        process = self.start("undisturbed")
        output = process.communicate()[0]
        if process.returncode != 0:
            sys.exit(f"the undisturbed run failed: {output}")
        self.seconds = time.monotonic() - begin
        self.expected = self.result("undisturbed")

    def start(self, run: str) -> subprocess.Popen[str]:
        command = [str(self.program), "train", "--resume", run]
        if not any((self.folder / run).glob("step-*")):
            command[2:] = ["--config", "config.json", "--data", "data.npy", "--batch-size", "4", "--out", run,
                           "--steps", str(STEPS), "--save-every", str(SAVE_EVERY)]
        return subprocess.Popen(command, cwd=self.folder, env=self.environment, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def result(self, run: str) -> tuple[list[bytes], list[dict[str, Any]]]:
        """What must not depend on kills: the files of the last checkpoint, and the log except speeds and
        names."""
        last = self.folder / run / f"step-{STEPS:08d}"
        log = [json.loads(line) for line in (self.folder / run / "log.jsonl").read_text().splitlines()]
        for line in log:
            line.pop("tokens_per_second", None)
            line.pop("settings", None)
        return [(last / name).read_bytes() for name in FILES], log

    def kill_at_random(self, run: str, process: subprocess.Popen[str], in_save: bool) -> bool:
        """Kills the process; False if it ended before that."""
        if in_save:
            while process.poll() is None and not any((self.folder / run).glob(".writing-*")):
                time.sleep(0.0002)
            time.sleep(self.random.uniform(0, 1.5 * self.seconds / (STEPS / SAVE_EVERY)))
        else:
            time.sleep(self.random.uniform(0, self.seconds))
        if process.poll() is not None:
            return False
        process.send_signal(signal.SIGKILL)
        process.wait()
        self.kills += 1
        self.kills_in_save += any((self.folder / run).glob(".writing-*")) or any(
            (self.folder / run).glob(".deleting-*"))
        return True

    def damage(self, run: str) -> str:
        """Describes what is wrong with the checkpoints after a kill, or returns nothing."""
        for step in (self.folder / run).glob("step-*"):
            for name in FILES[:2]:
                path = step / name
                if not path.is_file():
                    return f"{path} is missing"
                data = path.read_bytes()
                size = struct.unpack("<Q", data[:8])[0]
                header = json.loads(data[8:8 + size])
                end = max(t["data_offsets"][1] for key, t in header.items() if key != "__metadata__")
                if len(data) != 8 + size + end:
                    return f"{path} is truncated"
            if json.loads((step / "trainer/state.json").read_text())["step"] != int(step.name[5:]):
                return f"{step} has the state of another step"
        return ""

    def survive(self, number: int) -> str:
        """Kills one run once or more, and resumes it to its end. Returns what went wrong, or nothing."""
        run = f"run{number}"
        in_save = number % 2 == 1
        while True:
            process = self.start(run)
            killed = self.kill_at_random(run, process, in_save)
            output = process.communicate()[0]
            if not killed:
                break
            if damage := self.damage(run):
                return damage
            if not any((self.folder / run).glob("step-*")):
                shutil.rmtree(self.folder / run, ignore_errors=True)  # there is nothing to resume
                self.restarts += 1
            in_save = self.random.random() < 0.25
        if process.returncode != 0:
            return f"exit code {process.returncode}: {output}"
        leftovers = [path.name for path in (self.folder / run).glob(".*")]
        if leftovers:
            return f"left behind: {leftovers}"
        if self.result(run) != self.expected:
            return "its bits differ from those of the undisturbed run"
        shutil.rmtree(self.folder / run)
        return ""


def main() -> int:
    parser = argparse.ArgumentParser(description="Kills and resumes training repeatedly; nothing may be lost.")
    parser.add_argument("program", nargs="?", default="./train_olmo2", type=Path)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    passed = failed = 0
    with tempfile.TemporaryDirectory() as folder:
        crash = Crash(arguments.program.resolve(), Path(folder), arguments.seed)
        # A kill that is meant for a save may miss it, most often on a busy machine. More runs make up for that.
        enough, number = arguments.runs // 4, 0
        while number < arguments.runs or (crash.kills_in_save < enough and number < 4 * arguments.runs):
            if problem := crash.survive(number):
                failed += 1
                print(f"FAILED run {number}: {problem}")
            else:
                passed += 1
            number += 1
        print(f"{crash.kills} kills, {crash.kills_in_save} of them inside a save, {crash.restarts} before there "
              f"was a checkpoint; an undisturbed run takes {crash.seconds:.2f} s")
        if crash.kills_in_save < enough:
            failed += 1
            print("FAILED too few kills fell into a save for a meaningful test")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
