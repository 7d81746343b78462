#!/usr/bin/env python3
"""Milliseconds for PyTorch's DataLoader to deliver shuffled batches of a token file, the same work as
dev/bench/bench_loader.c. turns.py describes the output, and --steps 0."""

from __future__ import annotations

import argparse
from typing import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from turns import take_turns


class Sequences(Dataset[Tensor]):
    def __init__(self, file: str, T: int) -> None:
        self.data, self.T = np.memmap(file, dtype="<u4", mode="r"), T

    def __len__(self) -> int:
        return len(self.data) // self.T

    def __getitem__(self, i: int) -> Tensor:
        return torch.from_numpy(self.data[i * self.T : (i + 1) * self.T].astype(np.int64))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="a file of uint32 tokens")
    defaults = {"steps": 5, "threads": 2, "batches": 2000, "B": 8, "T": 1024, "V": 100352, "workers": 0}
    for name, value in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    loader = DataLoader(
        Sequences(a.data, a.T), batch_size=a.B, shuffle=True, drop_last=True, num_workers=a.workers
    )

    def epochs() -> Iterator[Tensor]:
        while True:
            yield from loader

    batches = epochs()

    def step() -> str:
        for _ in range(a.batches):
            rows = next(batches)
            _tokens, _labels = rows[:, :-1], rows[:, 1:]
        return ""

    take_turns(a.steps, step, tokens=a.batches * a.B * a.T)


if __name__ == "__main__":
    main()
