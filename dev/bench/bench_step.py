#!/usr/bin/env python3
"""Milliseconds of a training step of OLMo 2 in PyTorch on the CPU, the same work as dev/bench/bench_step.c:
forward, cross-entropy with z-loss, backward, clipping, AdamW, all in fp32. It uses what PyTorch has made
fast: scaled dot product attention, its own RMSNorm and the fused AdamW. The last line is
"median M min A max Z"."""

from __future__ import annotations

import argparse
import statistics
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def rope_tables(T: int, HS: int, theta: float = 500000.0) -> tuple[Tensor, Tensor]:
    """cos and sin (T, HS) of the angles t theta^(-2 i / HS), each half of a head alike."""
    angles = torch.outer(torch.arange(T), theta ** (-torch.arange(0, HS, 2) / HS)).repeat(1, 2)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-b, a), dim=-1) * sin


class Layer(nn.Module):
    def __init__(self, C: int, NH: int, F_: int) -> None:
        super().__init__()
        self.NH = NH
        self.q, self.k, self.v, self.o = (nn.Linear(C, C, bias=False) for _ in range(4))
        self.gate, self.up = nn.Linear(C, F_, bias=False), nn.Linear(C, F_, bias=False)
        self.down = nn.Linear(F_, C, bias=False)
        self.q_norm, self.k_norm, self.attention_norm, self.feedforward_norm = (
            nn.RMSNorm(C, eps=1e-6) for _ in range(4)
        )

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        B, T, C = x.shape

        def heads(y: Tensor) -> Tensor:
            return y.view(B, T, self.NH, C // self.NH).transpose(1, 2)

        q = rotate(heads(self.q_norm(self.q(x))), cos, sin)
        k = rotate(heads(self.k_norm(self.k(x))), cos, sin)
        y = F.scaled_dot_product_attention(q, k, heads(self.v(x)), is_causal=True)
        x = x + self.attention_norm(self.o(y.transpose(1, 2).reshape(B, T, C)))
        return x + self.feedforward_norm(self.down(F.silu(self.gate(x)) * self.up(x)))


class Model(nn.Module):
    def __init__(self, C: int, L: int, NH: int, F_: int, V: int, T: int) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(V, C), nn.Linear(C, V, bias=False)
        self.layers = nn.ModuleList(Layer(C, NH, F_) for _ in range(L))
        self.norm = nn.RMSNorm(C, eps=1e-6)
        self.cos, self.sin = rope_tables(T, C // NH)
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x, self.cos, self.sin)
        return self.head(self.norm(x))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=5, help="steps that are timed, after one that is not")
    parser.add_argument("--threads", type=int, default=2)
    for name, value in {"B": 4, "T": 256, "C": 512, "L": 8, "NH": 8, "F": 2048, "V": 50304}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--adamw", choices=("fused", "foreach"), default="fused")
    a = parser.parse_args()

    torch.set_num_threads(a.threads)
    torch.manual_seed(1)
    model = Model(a.C, a.L, a.NH, a.F, a.V, a.T)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, **{a.adamw: True}
    )
    tokens, labels = torch.randint(a.V, (2, a.B, a.T))
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    print(f"PyTorch {torch.__version__}, fp32, {a.threads} threads, {millions:.1f}M parameters", end="")
    print(f", B {a.B}, T {a.T}")

    times = []
    for step in range(a.steps + 1):
        begin = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        logits = model(tokens).view(-1, a.V)
        loss = F.cross_entropy(logits, labels.view(-1)) + 1e-5 * logits.logsumexp(-1).square().mean()
        forward = time.perf_counter()
        loss.backward()
        backward = time.perf_counter()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        end = time.perf_counter()
        if step > 0:
            times.append(1e3 * (end - begin))
            parts = [1e3 * (y - x) for x, y in ((begin, forward), (forward, backward), (backward, end))]
            line = "step {:.0f} ms: forward and loss {:.0f}, backward {:.0f}, update {:.0f}"
            print(line.format(times[-1], *parts))
    print(f"median {statistics.median(times):.1f} min {min(times):.1f} max {max(times):.1f}")


if __name__ == "__main__":
    main()
