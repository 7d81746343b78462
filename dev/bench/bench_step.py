#!/usr/bin/env python3
"""Milliseconds of a training step of OLMo 2 in PyTorch, the same work as dev/bench/bench_step.c or, on a GPU,
as a step of train_olmo2cu: data, forward, cross-entropy with z-loss, backward, clipping, AdamW. It uses the
fast parts of PyTorch: scaled dot product attention, its own RMSNorm and the fused AdamW; with --dtype bf16
autocast, and with --compile torch.compile. turns.py describes the output, and --steps 0. The exit code is 3
if the device runs out of memory."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from turns import take_turns


def rope_tables(T: int, HS: int, theta: float = 500000.0) -> tuple[Tensor, Tensor]:
    """cos and sin (T, HS) of the angles t theta^(-2 i / HS), the same for both halves of a head."""
    angles = torch.outer(torch.arange(T), theta ** (-torch.arange(0, HS, 2) / HS)).repeat(1, 2)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-b, a), dim=-1) * sin


class Norm(nn.RMSNorm):
    """The weight has the type of x: autocast would leave it in fp32, and PyTorch's fused kernel needs one
    type."""

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class Layer(nn.Module):
    def __init__(self, C: int, NH: int, F_: int) -> None:
        super().__init__()
        self.NH = NH
        self.q, self.k, self.v, self.o = (nn.Linear(C, C, bias=False) for _ in range(4))
        self.gate, self.up = nn.Linear(C, F_, bias=False), nn.Linear(C, F_, bias=False)
        self.down = nn.Linear(F_, C, bias=False)
        self.q_norm, self.k_norm, self.attention_norm, self.feedforward_norm = (
            Norm(C, eps=1e-6) for _ in range(4)
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
        self.norm = Norm(C, eps=1e-6)
        self.cos, self.sin = rope_tables(T, C // NH)
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x, self.cos, self.sin)
        return self.head(self.norm(x))


Batches = Callable[[], tuple[Tensor, Tensor]]


def random_crops(file: str, B: int, T: int, device: str) -> Batches:
    """Tokens (B, T) and their next tokens, from random places of a file of uint32."""
    import numpy as np  # only here: a Python that finds a GPU may lack it

    data = np.memmap(file, dtype="<u4", mode="r")

    def crop() -> tuple[Tensor, Tensor]:
        starts = torch.randint(len(data) - T, (B,), device="cpu").tolist()
        rows = torch.from_numpy(np.stack([data[start : start + T + 1] for start in starts]).astype(np.int64))
        return rows[:, :-1].contiguous().to(device), rows[:, 1:].contiguous().to(device)

    return crop


def loss_of_logits(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy and z-loss share the logsumexp. In eager mode this takes a third of the time of
    F.cross_entropy plus a separate logsumexp, and one (N, V) less memory."""
    lse = logits.logsumexp(-1)
    cross_entropy = lse - logits.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    return cross_entropy.mean() + 1e-5 * lse.square().mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=5, help="timed steps, after a warmup step")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--data", help="a file of uint32 tokens (default: the same random tokens in every step)"
    )
    for name, value in {"B": 4, "T": 256, "C": 512, "L": 8, "NH": 8, "F": 2048, "V": 50304}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--adamw", choices=("fused", "foreach"), default="fused")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32", help="bf16: by autocast")
    parser.add_argument("--compile", action="store_true", help="torch.compile the model and its loss")
    a = parser.parse_args()
    try:
        measure(a)
    except torch.OutOfMemoryError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(3)


def measure(a: argparse.Namespace) -> None:
    torch.set_num_threads(a.threads)
    torch.set_default_device(a.device)
    torch.manual_seed(1)
    model = Model(a.C, a.L, a.NH, a.F, a.V, a.T)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, **{a.adamw: True}
    )
    parameters = sum(p.numel() for p in model.parameters())
    where = torch.cuda.get_device_name() if a.device == "cuda" else f"{a.threads} threads"
    how = "compiled, " if a.compile else ""
    print(f"PyTorch {torch.__version__}, {how}{a.dtype}, {where}, {parameters / 1e6:.1f}M parameters", end="")
    print(f", B {a.B}, T {a.T}")
    if a.data:
        batches = random_crops(a.data, a.B, a.T, a.device)
    else:
        tokens, labels = torch.randint(a.V, (2, a.B, a.T))
        batches = lambda: (tokens, labels)  # noqa: E731

    def loss_of(tokens: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast(a.device, torch.bfloat16, enabled=a.dtype == "bf16"):
            return loss_of_logits(model(tokens).view(-1, a.V).float(), labels.view(-1))

    if a.compile:
        loss_of = torch.compile(loss_of)

    def now() -> float:
        if a.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def step() -> str:
        marks = [now()]
        tokens, labels = batches()
        optimizer.zero_grad(set_to_none=True)
        marks.append(now())
        loss = loss_of(tokens, labels)
        marks.append(now())
        loss.backward()
        marks.append(now())
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        marks.append(now())
        parts = [1e3 * (y - x) for x, y in zip(marks, marks[1:])]
        return ": data {:.1f}, forward and loss {:.1f}, backward {:.1f}, update {:.1f}".format(*parts)

    take_turns(a.steps, step, tokens=a.B * a.T, parameters=parameters)


if __name__ == "__main__":
    main()
