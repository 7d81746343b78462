#!/usr/bin/env python3
"""Draws the curves of one or several runs: loss, gradient norm, learning rate and tokens per second.

    python3 scripts/plot.py runs/a runs/b --out curves.png

A RUN is a run's folder or its log.jsonl. Loss and gradient norm are drawn smoothed over the pale values of
the steps; circles are validation losses, crosses are skipped steps. All curves are over tokens seen, so that
runs with different batch sizes can be compared.
"""
from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Iterator

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

# Okabe and Ito's colours, which colour-blind people can tell apart, without the yellow, too pale on white
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
STYLE = {
    "font.size": 11, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "grid.color": "#e6e6e6", "axes.edgecolor": "#888888", "axes.titleweight": "bold",
    "axes.titlelocation": "left", "legend.frameon": False, "figure.facecolor": "white",
    "xtick.color": "#444444", "ytick.color": "#444444",
}


UNITS = ((1e12, "trillion tokens"), (1e9, "billion tokens"), (1e6, "million tokens"), (1, "tokens"))


class Run:
    """The numbers of one log.jsonl; a value that was not finite (null in JSON) is NaN."""

    def __init__(self, path: Path) -> None:
        file = path / "log.jsonl" if path.is_dir() else path
        if not file.is_file():
            sys.exit(f"error: {file}: there is no such file; expected a run's folder or its log.jsonl")
        records = list(read_records(file))
        steps = [record for record in records if record.get("type") == "step"]
        if not steps:
            sys.exit(f"error: {file}: holds no step yet")
        self.name = str(path)
        self.tokens = column(steps, "tokens")
        self.loss, self.norm = column(steps, "loss"), column(steps, "gradient_norm")
        self.lr, self.speed = column(steps, "lr"), column(steps, "tokens_per_second")
        self.skipped = np.array([bool(record.get("skipped")) for record in steps])
        tokens_at = {record["step"]: record["tokens"] for record in steps}
        evals = [record for record in records if record.get("type") == "eval" and record["step"] in tokens_at]
        self.val_tokens = np.array([tokens_at[record["step"]] for record in evals], dtype=float)
        self.val_loss, self.val_bits = column(evals, "loss"), column(evals, "bits_per_byte")


def read_records(file: Path) -> Iterator[dict]:
    """The objects of a .jsonl file. The last line may be cut short: the run may still be writing it."""
    lines = file.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        try:
            yield json.loads(line)
        except json.JSONDecodeError as error:
            if number < len(lines):
                sys.exit(f"error: {file}:{number}: is not JSON: {error}")


def column(records: list[dict], key: str) -> np.ndarray:
    return np.array([math.nan if record.get(key) is None else record[key] for record in records], dtype=float)


def smooth(values: np.ndarray) -> np.ndarray:
    """The mean of the neighbours, a fiftieth of the run on both sides together; NaN is left out."""
    half = max(1, len(values) // 100)
    finite = np.isfinite(values)
    sums = np.cumsum(np.concatenate(([0.0], np.where(finite, values, 0.0))))
    counts = np.cumsum(np.concatenate(([0], finite)))
    low = np.maximum(np.arange(len(values)) - half, 0)
    high = np.minimum(np.arange(len(values)) + half + 1, len(values))
    with np.errstate(invalid="ignore", divide="ignore"):
        return (sums[high] - sums[low]) / (counts[high] - counts[low])


def draw(runs: list[Run], out: Path) -> None:
    with plt.rc_context(STYLE):
        figure, ((loss, norm), (lr, speed)) = plt.subplots(
            2, 2, figsize=(12, 7.5), height_ratios=(3, 2), sharex=True)
        most = max(run.tokens[-1] for run in runs)
        unit, name = next((size, name) for size, name in UNITS if most >= size)
        for run, color in zip(runs, COLORS * len(runs)):
            x = run.tokens / unit
            for axis, values in ((loss, run.loss), (norm, run.norm)):
                axis.plot(x, values, color=color, alpha=0.22, linewidth=0.8)
                kept = np.where(run.skipped, math.nan, values)
                axis.plot(x, smooth(kept), color=color, linewidth=1.8, label=run.name)
                axis.plot(x[run.skipped], values[run.skipped], "x", color=color, markersize=7)
            loss.plot(run.val_tokens / unit, run.val_loss, "o", color=color, markersize=6, zorder=3,
                      markerfacecolor="white", markeredgewidth=1.6)
            lr.plot(x, run.lr, color=color, linewidth=1.8)
            speed.plot(x, smooth(run.speed), color=color, linewidth=1.8)
        loss.set_title("loss (circles: validation)")
        norm.set_title("gradient norm, before clipping")
        lr.set_title("learning rate")
        speed.set_title("tokens per second")
        norm.set_yscale("log")
        norm.yaxis.set_major_formatter("{x:g}")
        norm.yaxis.set_minor_formatter(lambda x, _: f"{x:g}" if f"{x:e}"[0] in "25" else "")
        speed.yaxis.set_major_formatter("{x:,.0f}")
        speed.margins(y=0.1)
        for axis in (lr, speed):
            axis.set_ylim(bottom=0)
            axis.set_xlabel(name)
        limit_loss(loss, runs)
        if len(runs) > 1:
            loss.legend()
        else:
            describe(loss, runs[0])
        figure.align_ylabels()
        figure.tight_layout()
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, dpi=120)
        plt.close(figure)


def limit_loss(axis: plt.Axes, runs: list[Run]) -> None:
    """The start and a spike may leave the picture, so that the rest of the curve fills it."""
    later = np.concatenate([run.loss[len(run.loss) // 50:] for run in runs])
    later = later[np.isfinite(later)]
    if len(later):
        low, high = later.min(), np.quantile(later, 0.995)
        axis.set_ylim(low - 0.05 * (high - low) - 1e-9, high + 0.15 * (high - low) + 1e-9)


def describe(axis: plt.Axes, run: Run) -> None:
    text = f"{run.name}\ntraining {smooth(run.loss)[-1]:.3f} at the end"
    if len(run.val_loss):
        text += f"\nvalidation {run.val_loss[-1]:.3f}"
        if np.isfinite(run.val_bits[-1]):
            text += f", {run.val_bits[-1]:.3f} bits per byte"
    axis.text(0.98, 0.96, text, transform=axis.transAxes, ha="right", va="top", color="#444444")


def main() -> None:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run's folder or its log.jsonl")
    parser.add_argument("--out", type=Path, help="the PNG to write (default: plot.png in the first RUN)")
    args = parser.parse_args()
    first = args.runs[0]
    out = args.out or (first if first.is_dir() else first.parent) / "plot.png"
    draw([Run(path) for path in args.runs], out)
    print(out)


if __name__ == "__main__":
    main()
