#!/usr/bin/env python3
"""Draws the curves of one or more runs: loss, gradient norm, learning rate and tokens per second.

    .venv/bin/python scripts/plot.py runs/a runs/b --out curves.png

A RUN is a run's folder or its log.jsonl. Pale lines show every step, strong lines smoothed values. Circles
are validation losses, crosses are skipped steps. Below are the scores of --eval-task, if there are any, a
mark for each task. The horizontal axis is tokens, so runs with different batch sizes can be compared.
"""
from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Iterator

try:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np
except ImportError as problem:
    sys.exit(f"error: {problem}. The scripts install NumPy and matplotlib into .venv: call .venv/bin/python "
             "scripts/plot.py, or install them with python3 -m pip install matplotlib")

# The colours of Okabe and Ito, which colour-blind people can tell apart, without yellow, too pale on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
STYLE = {
    "font.size": 11, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "grid.color": "#e6e6e6", "axes.edgecolor": "#888888", "axes.titleweight": "bold",
    "axes.titlelocation": "left", "legend.frameon": False, "figure.facecolor": "white",
    "xtick.color": "#444444", "ytick.color": "#444444",
}
MARKS = "osD^vP*X<>"
UNITS = ((1e12, "trillion tokens"), (1e9, "billion tokens"), (1e6, "million tokens"), (1, "tokens"))


class Run:
    """The numbers in one log.jsonl. A value that was not finite, null in JSON, is NaN."""

    def __init__(self, path: Path) -> None:
        file = path / "log.jsonl" if path.is_dir() else path
        if not file.is_file():
            sys.exit(f"error: {file}: no such file; expected the folder of a run, or its log.jsonl")
        records = list(read_records(file))
        steps = [record for record in records if record.get("type") == "step"]
        if not steps:
            sys.exit(f"error: {file}: holds no step yet; try again after the first step")
        self.name = label(path)
        self.tokens = column(steps, "tokens")
        if not np.isfinite(self.tokens).all():
            sys.exit(f"error: {file}: has a step without its \"tokens\"; expected the log of train")
        self.loss, self.norm = column(steps, "loss"), column(steps, "gradient_norm")
        self.lr, self.speed = column(steps, "lr"), column(steps, "tokens_per_second")
        self.skipped = np.array([bool(record.get("skipped")) for record in steps])
        tokens_at = {record.get("step"): record["tokens"] for record in steps}
        evals = [record for record in records
                 if record.get("type") == "eval" and record.get("step") in tokens_at]
        self.val_tokens = np.array([tokens_at[record["step"]] for record in evals], dtype=float)
        self.val_loss, self.val_bits = column(evals, "loss"), column(evals, "bits_per_byte")
        self.scores = read_scores(records, tokens_at)


def read_records(file: Path) -> Iterator[dict]:
    """The objects in a .jsonl file. The last line may be incomplete: the run may still be writing it."""
    # Not splitlines(): a sample's text may hold other characters that Python takes for the end of a line.
    lines = file.read_text(encoding="utf-8", errors="replace").rstrip("\n").split("\n")
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):
                return
            sys.exit(f"error: {file}:{number}: is not JSON: {error}")
        if not isinstance(record, dict):
            sys.exit(f"error: {file}:{number}: expected an object, found: {line[:40]}")
        yield record


def read_scores(records: list[dict], tokens_at: dict[int, int]) -> dict[tuple[str, str], dict[int, float]]:
    """By task and metric, the score after so many tokens: the primary metric, and bits per byte if known."""
    scores: dict[tuple[str, str], dict[int, float]] = {}
    for record in records:
        if record.get("type") != "eval_task" or record.get("step") not in tokens_at:
            continue
        bits = (record.get("metrics") or {}).get("bits_per_byte")
        for metric, score in (("bits_per_byte", bits), (record.get("metric", ""), record.get("score"))):
            if score is not None:
                scores.setdefault((record.get("task", ""), metric), {})[tokens_at[record["step"]]] = score
    return scores


def label(path: Path) -> str:
    """The run's name in the picture. In Matplotlib, $ is mathematics, and a first _ hides a label."""
    name = str(path).replace("$", r"\$")
    return f"./{name}" if name.startswith("_") else name


def column(records: list[dict], key: str) -> np.ndarray:
    return np.array([math.nan if record.get(key) is None else record[key] for record in records], dtype=float)


def smooth(values: np.ndarray) -> np.ndarray:
    """The mean over a window of a fiftieth of the run, without NaN."""
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
        scored = any(run.scores for run in runs)
        figure, ((loss, norm), (lr, speed), *scores) = plt.subplots(
            2 + scored, 2, figsize=(12, 7.5 + 3 * scored), height_ratios=(3, 2, 3)[:2 + scored], sharex=True)
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
        for axis in scores[0] if scored else (lr, speed):
            axis.set_xlabel(name)
        if scored:
            draw_scores(scores[0], runs, unit)
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


def draw_scores(axes: tuple[plt.Axes, plt.Axes], runs: list[Run], unit: float) -> None:
    """Accuracies on the left, bits per byte of the right answers on the right; a mark for each task."""
    tasks = sorted({task for run in runs for task, _ in run.scores})
    named: set[tuple[str, str]] = set()  # tasks that the legend has
    for axis, title in zip(axes, ("tasks: accuracy", "tasks: bits per byte of the answers")):
        axis.set_title(title)
    for run, color in zip(runs, COLORS * len(runs)):
        for (task, metric), points in run.scores.items():
            # One run: a colour for each task. Several: the colours are the runs'.
            index = tasks.index(task)
            tint = COLORS[index % len(COLORS)] if len(runs) == 1 else color
            axis = axes[int(metric == "bits_per_byte")]
            axis.plot(np.array(list(points)) / unit, list(points.values()), MARKS[index % len(MARKS)] + "-",
                      color=tint, markersize=5,
                      label="_" if (task, metric) in named else label(Path(f"{task} {metric}")))
            named.add((task, metric))
    for axis in axes:
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=8)


def limit_loss(axis: plt.Axes, runs: list[Run]) -> None:
    """Lets the start and spikes leave the picture, so the rest of the curve fills it."""
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
    parser.add_argument("--out", type=Path, help="the picture to write (default: plot.png in the first RUN)")
    args = parser.parse_args()
    first = args.runs[0]
    out = args.out or (first if first.is_dir() else first.parent) / "plot.png"
    if out.suffix == "":
        out = out.with_name(f"{out.name}.png")
    formats = matplotlib.backend_bases.FigureCanvasBase.get_supported_filetypes()
    if out.suffix[1:].lower() not in formats:
        parser.error(f"--out {out}: expected a name that ends in one of {', '.join(formats)}")
    draw([Run(path) for path in args.runs], out)
    print(out)


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("error: interrupted")
