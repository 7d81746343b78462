"""Writes dump_mha.safetensors and dump_gqa.safetensors: every number of two tiny models, for test_olmo2.c.

    python dump.py            writes the dumps next to this file
    python dump.py --check    recomputes them and compares with the files, without changing them

Everything is computed in float64 and stored in F32. README.md lists the tensors.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType

# Selects one code path on every x86 processor, so the bytes are the same everywhere. torch reads these
# variables when it is loaded.
os.environ["ATEN_CPU_CAPABILITY"] = "default"
os.environ["MKL_CBWR"] = "COMPATIBLE"

import numpy as np
import torch
from safetensors.numpy import load, save

import olmo2
from olmo2 import Config, Training

HERE = Path(__file__).resolve().parent
STEPS, MICRO_BATCHES = 10, 2


@dataclass(frozen=True)
class Model:
    """A model to dump: its sizes, its batch and the spread of its initial weights."""

    config: Config
    B: int
    T: int
    seed: int
    embedding_std: float
    linear_std: float


# mha: as many key/value heads as query heads; a sequence longer than the 64 queries that train_olmo2.c takes
# at a time; small weights, so some rows of layer 0 have a mean square near rms_eps.
# gqa: three query heads per key/value head; NH*HS != C; no width that is a multiple of 16; larger weights.
MODELS = {
    "mha": Model(
        Config(C=32, L=2, NH=4, NKV=4, HS=8, F=52, V=97),
        B=1, T=70, seed=1, embedding_std=0.05, linear_std=0.1,
    ),
    "gqa": Model(
        Config(C=40, L=2, NH=6, NKV=2, HS=12, F=56, V=101),
        B=3, T=13, seed=2, embedding_std=0.7, linear_std=0.2,
    ),
}  # fmt: skip

# Far from the recipe wherever the recipe would hide a mistake in ten steps: large z-loss and decay, an
# epsilon as large as small gradients, and a clip that some steps exceed and others do not.
TRAINING = Training(
    z=1e-3, peak_lr=4e-3, warmup=3, total=STEPS, final_fraction=0.1,
    beta1=0.9, beta2=0.95, eps=1e-5, weight_decay=0.5, clip=3.2,
)  # fmt: skip


def initial_parameters(model: Model, rng: np.random.Generator) -> dict[str, torch.Tensor]:
    """Random weights, rounded to F32, so the file holds exactly the numbers of the computation."""
    parameters = {}
    for name, shape in olmo2.parameter_shapes(model.config).items():
        values = rng.standard_normal(shape)
        if name == "model.embed_tokens.weight":
            values *= model.embedding_std
        elif len(shape) == 2:
            values *= model.linear_std
        else:
            values = 1 + 0.25 * values
        parameters[name] = torch.from_numpy(values.astype(np.float32)).double()
    return parameters


def compute(model: Model, backend: ModuleType = olmo2) -> dict[str, np.ndarray]:
    """Every tensor of a dump. `backend` is olmo2, or a module with the same functions."""
    config = backend.Config(**asdict(model.config))
    settings = backend.Training(**asdict(TRAINING))
    B, T, V = model.B, model.T, config.V
    rng = np.random.Generator(np.random.PCG64(model.seed))
    parameters = initial_parameters(model, rng)
    out: dict[str, np.ndarray] = {}

    def put(name: str, value: torch.Tensor | float, dtype: type = np.float32) -> None:
        array = value.detach().numpy() if isinstance(value, torch.Tensor) else np.array([value])
        out[name] = np.ascontiguousarray(array.astype(dtype))

    out["config"] = np.array(
        [B, T, config.C, config.L, config.NH, config.NKV, config.HS, config.F, V], np.int64
    )
    put("rms_eps", config.rms_eps)
    put("rope_theta", config.rope_theta)
    put("z", settings.z)
    for name, p in parameters.items():
        put(f"parameter.{name}", p)

    # one batch, forward and backward
    tokens = torch.from_numpy(rng.integers(0, V, (B, T)))
    mask = torch.from_numpy(rng.random((B, T)) < 0.8)
    labels = backend.shift(tokens, mask)
    weights = (labels != olmo2.NO_TOKEN) / (labels != olmo2.NO_TOKEN).sum().double()
    put("tokens", tokens, np.uint32)
    put("mask", mask, np.uint8)
    put("labels", labels, np.uint32)
    put("weights", weights)
    leaves = {name: p.clone().requires_grad_() for name, p in parameters.items()}
    activations = backend.forward(leaves, config, tokens)
    logprobs, lse = backend.classify(activations["logits"], labels)
    ce, z_loss = backend.objective(logprobs, lse, weights, settings.z)
    names = list(activations) + [f"gradient.{name}" for name in leaves]
    gradients = torch.autograd.grad(ce + z_loss, [*activations.values(), *leaves.values()])
    for name, value in {**activations, "logprobs": logprobs, "lse": lse, "ce": ce, "z_loss": z_loss}.items():
        put(name, value.reshape(value.shape or (1,)))
    for name, gradient in zip(names, gradients):
        put(name if name.startswith("gradient.") else f"d.{name}", gradient)
    put("gradient_norm", backend.gradient_norm(dict(zip(leaves, gradients[len(activations) :]))).item())

    # ten updates. Every third batch has only three different tokens, which makes its gradient larger. The
    # second micro-batch has fewer labels than the first.
    for name in ("peak_lr", "final_fraction", "beta1", "beta2", "eps", "weight_decay", "clip"):
        put(f"settings.{name}", getattr(settings, name))
    put("settings.warmup", settings.warmup, np.int64)
    put("settings.total", settings.total, np.int64)
    highest = np.where(np.arange(STEPS) % 3 == 2, 3, V)[:, None, None, None]
    step_tokens = torch.from_numpy(rng.integers(0, highest, (STEPS, MICRO_BATCHES, B, T)))
    step_mask = torch.from_numpy(
        rng.random((STEPS, MICRO_BATCHES, B, T)) < np.array([0.9, 0.5])[:, None, None]
    )
    put("steps.tokens", step_tokens, np.uint32)
    put("steps.mask", step_mask, np.uint8)
    trainer = backend.Trainer(parameters, config, settings)
    reports = []
    for step in range(STEPS):
        reports.append(trainer.step(step_tokens[step], step_mask[step]))
        if step + 1 in (1, STEPS):
            for name, p in trainer.parameters.items():
                put(f"after{step + 1}.{name}", p)
    for name in reports[0]:
        put(f"steps.{name}", torch.tensor([report[name] for report in reports], dtype=torch.float64))
    return out


def serialize(model: Model) -> bytes:
    torch.set_num_threads(1)
    text = json.dumps({"B": model.B, "T": model.T, **asdict(model.config), **asdict(TRAINING)})
    return save(compute(model), metadata={"config": text})


def compare(path: Path, fresh: bytes) -> bool:
    """Whether the file equals `fresh`. Another processor may round the last bit of a float64 sum differently,
    which can move a value to the next F32: this difference, and no other, passes too."""
    stored = path.read_bytes()
    if stored == fresh:
        print(f"{path.name}: identical, {len(stored)} bytes")
        return True
    old, new = load(stored), load(fresh)
    if {n: (t.shape, t.dtype) for n, t in old.items()} != {n: (t.shape, t.dtype) for n, t in new.items()}:
        print(f"{path.name}: its tensors are not those of dump.py; run dump.py to write it again")
        return False
    moved = 0
    for name, a in old.items():
        a, b = a.astype(np.float64), new[name].astype(np.float64)
        if not (np.abs(a - b) <= 1.2e-7 * np.abs(a) + 1e-12 * np.abs(a).max()).all():
            print(f"{path.name}: {name} differs by {np.abs(a - b).max():.3g}; run dump.py to write it again")
            return False
        moved += int((a != b).sum())
    print(f"{path.name}: {moved} values are the next F32, which another processor's float64 sums can cause")
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with the files instead of writing them")
    arguments = parser.parse_args()
    passed = failed = 0
    for name, model in MODELS.items():
        path, data = HERE / f"dump_{name}.safetensors", serialize(model)
        if arguments.check:
            same = compare(path, data)
            passed, failed = passed + same, failed + (not same)
        else:
            path.write_bytes(data)
            print(f"wrote {path.name}, {len(data)} bytes")
    if arguments.check:
        print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
