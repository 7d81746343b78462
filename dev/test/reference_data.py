#!/usr/bin/env python3
"""Compares the library's data functions with NumPy, PyTorch and OLMo-core, on random and crafted inputs.

Builds data_driver.c with $CC (or cc) and checks what it prints. Needs numpy, torch and ai2-olmo-core.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Callable, Iterable, List, Sequence, Tuple

import numpy as np
import torch
from numpy.random import PCG64, Generator
from olmo_core.data.collator import DataCollator
from olmo_core.data.data_loader import NumpyFSLDataLoader
from olmo_core.data.numpy_dataset import InstanceFilterConfig, NumpyFSLDataset
from olmo_core.data.utils import find_periodic_sequences, get_labels
from olmo_core.optim import WSD, ConstantWithWarmup, CosWithWarmup, LinearWithWarmup, SkipStepAdamW
from olmo_core.train.callbacks import StabilityMonitorCallback

ROOT = Path(__file__).resolve().parents[2]
COSINE, LINEAR, WARMUP_STABLE_DECAY, CONSTANT = range(4)


class Checks:
    def __init__(self) -> None:
        self.passed = self.failed = 0

    def check(self, ok: bool, what: str) -> None:
        self.passed += bool(ok)
        self.failed += not ok
        if not ok and self.failed <= 20:
            print(f"FAILED {what}")


class Driver:
    """Answers commands, a line each, with lists of words."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "data_driver"
        compiler = os.environ.get("CC", "cc").split()
        flags = ["-std=c11", "-D_GNU_SOURCE", "-O1", "-Wall", "-Wextra", f"-I{ROOT}"]
        source = str(ROOT / "dev/test/data_driver.c")
        subprocess.run([*compiler, *flags, source, "-o", str(self.path), "-lm"], check=True)

    def run(self, commands: Sequence[str]) -> List[List[str]]:
        text = "\n".join(commands)
        done = subprocess.run([str(self.path)], input=text, text=True, stdout=subprocess.PIPE, check=True)
        answers = [line.split() for line in done.stdout.splitlines()]
        assert len(answers) == len(commands), "one answer for each command"
        return answers


def hexadecimal(values: Iterable[float]) -> str:
    return " ".join(float(v).hex() for v in values)


def random_seeds(rng: Generator, n: int) -> List[int]:
    """Seeds of every length up to 64 bits, and the edge cases."""
    edges = [0, 1, 2**31, 2**32 - 1, 2**32, 2**33, 2**63, 2**64 - 1]
    return edges + [int(rng.integers(2**63)) * 2 + 1 >> int(rng.integers(64)) for _ in range(n)]


def check_draws(checks: Checks, driver: Driver, rng: Generator) -> None:
    seeds = random_seeds(rng, 300)
    orders = ["".join(rng.choice(list("qid"), 60)) for _ in seeds]
    answers = driver.run([f"draws {seed} {order}" for seed, order in zip(seeds, orders)])
    for seed, order, answer in zip(seeds, orders, answers):
        bits = PCG64(seed)
        interface = bits.ctypes
        draw = {
            "q": lambda: str(interface.next_uint64(interface.state_address)),
            "i": lambda: str(interface.next_uint32(interface.state_address)),
            "d": lambda: float(interface.next_double(interface.state_address)),
        }
        expected = [draw[letter]() for letter in order]
        got = [float.fromhex(w) if letter == "d" else w for letter, w in zip(order, answer)]
        checks.check(got == expected, f"draws of seed {seed}")
    print(f"draws: {len(seeds)} seeds, 60 mixed draws each, against NumPy's PCG64")


def check_shuffles(checks: Checks, driver: Driver, rng: Generator) -> None:
    seeds = random_seeds(rng, 100)
    sizes = [int(2 ** rng.uniform(0, 14)) for _ in seeds]
    seeds, sizes = seeds + [6198, 6199], sizes + [1000003, 1000003]
    answers = driver.run([f"shuffle {seed} {n}" for seed, n in zip(seeds, sizes)])
    for seed, n, answer in zip(seeds, sizes, answers):
        expected = np.arange(n, dtype=np.uint32)
        Generator(PCG64(seed)).shuffle(expected)
        checks.check(
            np.array_equal(np.array(answer, dtype=np.uint32), expected), f"shuffle of {n}, seed {seed}"
        )
    print(f"shuffles: {len(seeds)} of up to {max(sizes)} numbers, against NumPy's Generator.shuffle")


def check_normal(checks: Checks, driver: Driver) -> None:
    """torch's trunc_normal_ is sqrt(2) erfinv(u), u uniform within +-erf(3 / sqrt 2)."""
    n = 100000
    (answer,) = driver.run([f"normal 17 {n}"])
    got = np.array([float.fromhex(w) for w in answer])
    edge = torch.erf(torch.tensor(3.0 / 2.0**0.5, dtype=torch.float64))
    u = (2.0 * torch.from_numpy(Generator(PCG64(17)).random(n)) - 1.0) * edge
    error = np.abs(got - (2.0**0.5 * torch.erfinv(u)).numpy()).max()
    allowed = 6e-9 + 2.0**-23  # the error of the polynomial, and of rounding a number below 4 to a float
    print(f"truncated normal: {n} numbers, largest error {error:.2g} (allowed {allowed:.2g})")
    checks.check(error <= allowed, "truncated normal")


def bad_instance(tokens: np.ndarray, low: int, high: int, count: int) -> bool:
    return any(m.times >= count for m in find_periodic_sequences(tokens, max_period=high, min_period=low))


def random_instance(rng: Generator) -> np.ndarray:
    """A few different tokens at random, or a pattern repeated about as often as the filter allows."""
    n = int(rng.integers(1, 500))
    if rng.random() < 0.3:
        return rng.integers(0, int(rng.integers(1, 4)), n)
    pattern = rng.integers(0, 5, int(rng.integers(1, 15)))
    length = max(0, len(pattern) * int(rng.integers(2, 36)) + int(rng.integers(-2, 3)))
    repeated = np.resize(pattern, length)
    before, after = rng.integers(0, 50, int(rng.integers(0, 40))), rng.integers(
        0, 50, int(rng.integers(0, 40))
    )
    return np.concatenate([before, repeated, after])


def check_filter(checks: Checks, driver: Driver, rng: Generator) -> None:
    cases: List[Tuple[np.ndarray, int, int, int]] = []
    for _ in range(6000):
        low = int(rng.integers(1, 4)) if rng.random() < 0.3 else 1
        high = int(rng.integers(low, 20)) if rng.random() < 0.3 else 13
        count = int(rng.integers(3, 40)) if rng.random() < 0.5 else 32
        cases.append((random_instance(rng), low, high, count))
    for p in range(1, 14):  # the boundary, at the beginning, at the end and inside
        for length in (32 * p - 1, 32 * p, 33 * p):
            for before, after in ((0, 0), (0, 7), (7, 0), (p, p), (1, 1)):
                repeated = np.resize(np.arange(p), length)
                ends = 100 + np.arange(before + after)
                cases.append((np.concatenate([ends[:before], repeated, ends[before:]]), 1, 13, 32))
    commands = [
        f"repeats {low} {high} {count} {len(a)} {' '.join(map(str, a))}" for a, low, high, count in cases
    ]
    bad = 0
    for (a, low, high, count), answer in zip(cases, driver.run(commands)):
        expected = bad_instance(a, low, high, count)
        bad += expected
        checks.check(answer == [str(int(expected))], f"filter {low}..{high} x {count} of {a.tolist()}")
    print(f"filter: {len(cases)} instances, {bad} of them bad, against OLMo-core's find_periodic_sequences")


def labels_only(tokens: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """What the filter looks at: every token without a label is given an id that occurs nowhere else."""
    return np.where(mask, tokens, 10**6 + np.arange(len(tokens)))


def check_filter_of_labels(checks: Checks, driver: Driver, rng: Generator) -> None:
    """With padding, prompts and single tokens masked: OLMo-core's own search, on the labels only."""
    cases: List[Tuple[np.ndarray, np.ndarray]] = []
    for number in range(4000):
        tokens = random_instance(rng)
        mask = np.ones(len(tokens), dtype=bool)
        for _ in range(int(rng.integers(0, 4))):
            start = int(rng.integers(len(tokens) + 1))
            mask[start : start + int(rng.integers(1, 100))] = False
        cases.append((tokens, mask if number % 4 else np.ones_like(mask)))
    words = [(" ".join(map(str, a)), " ".join(str(int(m)) for m in mask)) for a, mask in cases]
    commands = [
        f"labels 1 13 8 {len(a)} {tokens} {mask}" for (a, _), (tokens, mask) in zip(cases, words)
    ]
    bad = spared = 0
    for (a, mask), answer in zip(cases, driver.run(commands)):
        expected = bad_instance(labels_only(a, mask), 1, 13, 8)
        bad += expected
        spared += bad_instance(a, 1, 13, 8) and not expected
        checks.check(answer == [str(int(expected))], f"filter of labels {a.tolist()} {mask.tolist()}")
    checks.check(bad > 100 and spared > 100, "the masks decide about many instances")
    print(f"filter of labels: {len(cases)} instances, {bad} bad, {spared} more would be without their masks")


def check_schedules(checks: Checks, driver: Driver) -> None:
    commands: List[str] = []
    rates: List[Tuple[Callable[[int], float], range]] = []

    def add(
        kind: int, scheduler: object, peak: float, warmup: int, total: int, decay: int, final: float
    ) -> None:
        steps = range(1, total + 20 if kind in (COSINE, LINEAR) else total + 1)
        head = f"schedule {kind} {hexadecimal([peak])} {warmup} {total} {decay} {hexadecimal([final])}"
        commands.append(f"{head} {steps[0]} {steps[-1]}")
        rates.append((lambda step: scheduler.get_lr(peak, step, total), steps))  # type: ignore[attr-defined]

    for peak in (3e-4, 9e-4, 1.0):
        for total, warmup in ((1000, 100), (777, 1), (50, 49), (2000, 333)):
            for final in (0.0, 0.1, 0.5):
                add(COSINE, CosWithWarmup(warmup=warmup, alpha_f=final), peak, warmup, total, 0, final)
                add(LINEAR, LinearWithWarmup(warmup=warmup, alpha_f=final), peak, warmup, total, 0, final)
                for decay in sorted({1, min(10, total - warmup), (total - warmup) // 3 + 1, total - warmup}):
                    wsd = WSD(warmup=warmup, decay=decay, decay_fraction=None, decay_min_lr=final * peak)
                    add(WARMUP_STABLE_DECAY, wsd, peak, warmup, total, decay, final)
            add(CONSTANT, ConstantWithWarmup(warmup=warmup), peak, warmup, total, 0, 0.0)
    worst, steps_compared = 0.0, 0
    for (rate, steps), command, answer in zip(rates, commands, driver.run(commands)):
        expected = np.array([rate(step) for step in steps])
        got = np.array([float.fromhex(w) for w in answer])
        error = np.abs(got - expected).max() / expected.max()
        worst, steps_compared = max(worst, error), steps_compared + len(steps)
        checks.check(error <= 1e-15, command)  # a few roundings in double
    reached = f"largest difference {worst:.2g} of the peak (allowed 1e-15)"
    print(f"schedules: {len(commands)}, {steps_compared} steps, against OLMo-core's, {reached}")


def spiky_series(rng: Generator, n: int) -> np.ndarray:
    """Noise on a falling level, with spikes near the threshold, and changes of level."""
    values = 2.0 + 3.0 * np.exp(-np.arange(n) / 100.0) + 0.05 * rng.standard_normal(n)
    spikes = rng.random(n) < 0.01
    values[spikes] += rng.uniform(0.0, 1.5, int(spikes.sum()))
    if rng.random() < 0.5:
        values[int(rng.integers(n)) :] += rng.uniform(-1.0, 1.0)
    if rng.random() < 0.3:
        start = int(rng.integers(n))
        values[start : start + 200] = values[start]
    return values


def pairs(losses: np.ndarray, norms: np.ndarray) -> str:
    return hexadecimal(np.stack([losses, norms], axis=1).ravel())


def check_skip_step(checks: Checks, driver: Driver, rng: Generator) -> None:
    series = [(spiky_series(rng, 500), spiky_series(rng, 500)) for _ in range(40)]
    answers = driver.run([f"skip {len(a)} {pairs(a, b)}" for a, b in series])
    skipped = 0
    for number, ((losses, norms), answer) in enumerate(zip(series, answers)):
        weight = torch.nn.Parameter(torch.zeros(1))
        optimizer = SkipStepAdamW([weight], lr=1.0)
        expected = []
        for loss, norm in zip(losses, norms):
            optimizer.latest_loss = torch.tensor(loss, dtype=torch.float64)
            optimizer.latest_grad_norm = torch.tensor(norm, dtype=torch.float64)
            before = weight.item()
            weight.grad = torch.ones(1)
            optimizer.step()
            expected.append(str(int(weight.item() == before)))
        skipped += expected.count("1")
        checks.check(answer == expected, f"skip-step decisions of series {number}")
    checks.check(skipped >= len(series), "the series have spikes that are skipped")
    print(
        f"skip-step: {len(series)} series of 500 steps, {skipped} skipped, against OLMo-core's SkipStepAdamW"
    )


def check_monitor(checks: Checks, driver: Driver, rng: Generator) -> None:
    lengths, spikes = [50, 127, 128, 129, 1000, 12000], 0
    series = [(spiky_series(rng, n), spiky_series(rng, n)) for n in lengths]
    answers = driver.run([f"monitor {len(a)} {pairs(a, b)}" for a, b in series])
    for (losses, norms), answer in zip(series, answers):
        monitor = StabilityMonitorCallback()
        expected, metrics = [], {}
        for step, (loss, norm) in enumerate(zip(losses, norms)):
            metrics = {monitor.loss_metric_name: float(loss), monitor.grad_norm_metric_name: float(norm)}
            monitor.pre_log_metrics(step, metrics)
            expected.append(str(int(monitor._spike_history[-1])))
        spikes += expected.count("1")
        total, running = (float.fromhex(w) for w in answer[-2:])
        checks.check(answer[:-2] == expected, f"spikes of {len(losses)} steps")
        checks.check(
            total == metrics.get("spike/SpikeScore (total)", total), f"total score of {len(losses)} steps"
        )
        checks.check(
            running == metrics.get("spike/SpikeScore", running), f"running score of {len(losses)} steps"
        )
    checks.check(spikes > 0, "the series have spikes")
    print(
        f"monitor: series of {lengths} steps, {spikes} spikes, against OLMo-core's StabilityMonitorCallback"
    )


def check_spike_score(checks: Checks, driver: Driver, rng: Generator) -> None:
    series = [rng.standard_normal(3000) for _ in range(5)]
    for values in series:
        at = rng.integers(900, 3000, 40)
        values[at] += rng.choice([-1, 1], 40) * rng.uniform(4, 12, 40)
    for values, answer in zip(series, driver.run([f"score {len(v)} {hexadecimal(v)}" for v in series])):
        windows = np.lib.stride_tricks.sliding_window_view(values[:-1], 1000)
        far = np.abs(values[1000:] - windows.mean(axis=1)) >= 7 * windows.std(axis=1)
        checks.check(far.sum() > 0 and float.fromhex(answer[0]) == far.sum() / len(values), "spike score")
    print(f"spike score: {len(series)} series, against its definition in NumPy")


def check_loader(checks: Checks, driver: Driver, rng: Generator, directory: Path, masked: bool) -> None:
    """Two epochs of batches: tokens, labels, filtered instances and the normaliser. With masks, the instances
    to filter are those that OLMo-core finds among the labels; its loader searches all tokens."""
    T, V, B, seed = 48, 200, 4, 6198
    files: List[Path] = []
    for i, n in enumerate((1000, 47, 613, 480)):
        tokens = rng.integers(0, V, n).astype("<u4")
        for start in range(0, n - 40, 200):  # so that some instances have too many repetitions
            tokens[start : start + 40] = np.resize(tokens[start : start + 3], 40)
        mask = rng.random(n) < 0.7
        files.append(directory / f"part-{i}-{masked}.npy")
        tokens.tofile(files[-1])
        if masked:
            mask[:200] = True  # so that some repetitions are labels
            mask.tofile(f"{files[-1]}.mask")
    files.append(files[2])  # a file listed twice is data repeated

    dataset = NumpyFSLDataset(
        *files,
        sequence_length=T,
        pad_token_id=0,
        eos_token_id=1,
        vocab_size=V,
        dtype=np.uint32,
        instance_filter_config=InstanceFilterConfig(
            repetition_max_period=13, repetition_min_period=1, repetition_max_count=8
        ),
        label_mask_paths=[f"{f}.mask" for f in files] if masked else None,
    )
    loader = NumpyFSLDataLoader(
        dataset,
        collator=DataCollator(pad_token_id=0),
        global_batch_size=B * T,
        work_dir=directory / "work",
        seed=seed,
    )
    batches = []
    for epoch in (1, 2):
        loader.reshuffle(epoch=epoch, in_memory=True)
        batches += list(loader)
        loader.reset()

    # OLMo-core counts epochs from 1, OLMo and this library from 0.
    names = " ".join(map(str, files))
    (answer,) = driver.run([f"load {T} {V} {B} {seed + 1} 1 13 8 {len(batches)} {len(files)} {names}"])
    got = np.array(answer, dtype=np.int64).reshape(len(batches), 2 * B * T + B + 1)
    filtered = spared = 0
    for number, (batch, row) in enumerate(zip(batches, got)):
        if masked:
            rows = zip(batch["input_ids"].numpy(), batch["label_mask"].numpy())
            good = torch.tensor([not bad_instance(labels_only(*row), 1, 13, 8) for row in rows])
            spared += int((good & ~batch["instance_mask"]).sum())
            batch["instance_mask"] = good
        labels, kept = get_labels(batch), batch["instance_mask"]
        normaliser = (labels != -100).sum() + (~kept).sum() * T
        filtered += int((~kept).sum())
        checks.check(
            np.array_equal(row[: B * T], batch["input_ids"].numpy().ravel()), f"tokens of batch {number}"
        )
        checks.check(
            np.array_equal(row[B * T : 2 * B * T], labels.numpy().ravel()), f"labels of batch {number}"
        )
        checks.check(
            np.array_equal(row[2 * B * T : -1], (~kept).numpy()), f"filtered instances of batch {number}"
        )
        checks.check(int(row[-1]) == int(normaliser), f"normaliser of batch {number}")
    checks.check(
        len(batches) > 20 and 0 < filtered < len(batches) * B, "the data has instances of both kinds"
    )
    checks.check(spared > 0 or not masked, "the masks decide about some instances")
    figures = f"{len(batches)} batches of 2 epochs, {filtered} instances filtered"
    print(f"loader{' with masks' if masked else ''}: {figures}, against OLMo-core's loader")


def check_numpy_file(checks: Checks, driver: Driver, directory: Path) -> None:
    tokens = np.arange(100, dtype="<u4")
    for version in ((1, 0), (2, 0), (3, 0)):
        path = directory / f"saved-{version[0]}.npy"
        with open(path, "wb") as f:
            np.lib.format.write_array(f, tokens, version=version)
        (answer,) = driver.run([f"load 10 100 1 0 1 13 32 1 1 {path}"])
        order = np.arange(10, dtype=np.uint32)
        Generator(PCG64(0)).shuffle(order)
        checks.check(
            answer[:10] == [str(10 * order[0] + t) for t in range(10)], f"numpy.save, version {version}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of the random inputs")
    rng = Generator(PCG64(parser.parse_args().seed))
    checks = Checks()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        driver = Driver(directory)
        check_draws(checks, driver, rng)
        check_shuffles(checks, driver, rng)
        check_normal(checks, driver)
        check_filter(checks, driver, rng)
        check_filter_of_labels(checks, driver, rng)
        check_schedules(checks, driver)
        check_skip_step(checks, driver, rng)
        check_monitor(checks, driver, rng)
        check_spike_score(checks, driver, rng)
        for masked in (False, True):
            check_loader(checks, driver, rng, directory, masked)
        check_numpy_file(checks, driver, directory)
    print(f"{checks.passed} passed, {checks.failed} failed")
    return 1 if checks.failed or not checks.passed else 0


if __name__ == "__main__":
    sys.exit(main())
