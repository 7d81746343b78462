"""How benchmarks take turns with other programs: bench_turns of dev/bench/bench.h, in Python."""

from __future__ import annotations

import statistics
import sys
import time
from typing import Callable


def take_turns(steps: int, step: Callable[[], str], **notes: int) -> None:
    """Runs a warmup step, then prints the line "ready NOTES". Then it runs `steps` steps or, if `steps` is 0,
    one step for every line on standard input. Each prints "step X ms" and what the step returns; the last
    line is "median M min A max Z"."""
    step()
    print("ready", *(f"{name} {number}" for name, number in notes.items()), flush=True)
    times = []
    for _ in range(steps) if steps > 0 else sys.stdin:
        begin = time.perf_counter()
        parts = step()
        times.append(1e3 * (time.perf_counter() - begin))
        print(f"step {times[-1]:.3f} ms{parts}", flush=True)
    if times:
        print(f"median {statistics.median(times):.3f} min {min(times):.3f} max {max(times):.3f}")
