"""Compares a whole training run of ./train_olmo2 with the same run built from OLMo-core's parts: its data
loader with label masks and n-gram filter, its model, loss, schedule and SkipStepAdamW, from the same files
and weights.

    python dev/test/reference_training.py [--binary ./train_olmo2]

Needs the packages of dev/reference/requirements.txt. The last line is "N passed, N failed"; the exit code is
0 if nothing failed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "dev/reference"))

import dump  # before torch: it selects torch's code path
import numpy as np
import olmo2
import test_reference
import torch
from olmo_core.data import DataCollator, InstanceFilterConfig, NumpyFSLDataLoader, NumpyFSLDataset
from olmo_core.data.utils import get_labels
from olmo_core.optim import CosWithWarmup, SkipStepAdamW
from safetensors.torch import load_file
from test_reference import StayInDouble, check, difference, largest, olmo_core_model, olmo_core_name

CONFIG = olmo2.Config(C=40, L=2, NH=6, NKV=2, HS=12, F=56, V=101)
T, B, STEPS, WARMUP, SEED, LR, Z = 48, 8, 24, 4, 17, 4e-3, 1e-4
EPS = 1e-6  # of AdamW; with less, an element whose gradient cancels would move by its rounding error


def write_data(work: Path) -> list[Path]:
    """Two files whose tokens follow a rule, a mask for each, and in some places a token that repeats itself
    too often for the filter. All of those are labels: OLMo-core's filter does not look at the mask, while
    ./train_olmo2 counts no unlabelled token."""
    rng = np.random.Generator(np.random.PCG64(4))
    files = []
    for count in (43 * T + 5, 30 * T + 11):
        tokens = (np.cumsum(rng.integers(1, 4, count)) % CONFIG.V).astype("<u4")
        starts = rng.integers(0, count - 40, 6)
        mask = rng.random(count) < 0.9
        for start in starts:
            tokens[start : start + 40] = tokens[start]
            mask[start : start + 40] = True
        files.append(work / f"{count}.npy")
        tokens.tofile(files[-1])
        mask.tofile(f"{files[-1]}.mask")
    return files


def write_model(directory: Path) -> dict[str, torch.Tensor]:
    """Writes a random model as a Hugging Face directory; returns its parameters."""
    model = dump.Model(CONFIG, B=B, T=T, seed=6, embedding_std=0.5, linear_std=0.2)
    parameters = dump.initial_parameters(model, np.random.Generator(np.random.PCG64(model.seed)))
    test_reference.transformers_model(CONFIG, parameters, T).float().save_pretrained(directory)
    return parameters


def olmo_core_batches(files: list[Path], work: Path) -> Iterator[dict[str, torch.Tensor]]:
    """OLMo-core's batches, epoch after epoch. It shuffles its first epoch with seed + 1; the trainer of the
    released 1B, 7B and 13B used seed + 0, like ./train_olmo2."""
    dataset = NumpyFSLDataset(
        *files, sequence_length=T, pad_token_id=0, eos_token_id=0, vocab_size=CONFIG.V, dtype=np.uint32,
        label_mask_paths=[f"{file}.mask" for file in files],
        instance_filter_config=InstanceFilterConfig(
            repetition_max_period=13, repetition_min_period=1, repetition_max_count=32
        ),
    )  # fmt: skip
    dataset.work_dir = work
    dataset.prepare()
    loader = NumpyFSLDataLoader(
        dataset, global_batch_size=B * T, collator=DataCollator(pad_token_id=0), work_dir=work, seed=SEED - 1
    )
    while True:
        loader.reshuffle()
        yield from loader
        loader.reset()


def olmo_core_run(
    parameters: dict[str, torch.Tensor], batches: Iterator[dict[str, torch.Tensor]]
) -> tuple[list[dict[str, float]], torch.nn.Module]:
    """The log of STEPS steps, in float64, and the final model."""
    model = olmo_core_model(CONFIG, parameters)
    embedding = [p for name, p in model.named_parameters() if name == "embeddings.weight"]
    others = [p for name, p in model.named_parameters() if name != "embeddings.weight"]
    groups = [{"params": embedding, "weight_decay": 0.0}, {"params": others}]
    optimizer = SkipStepAdamW(groups, lr=LR, betas=(0.9, 0.95), eps=EPS, weight_decay=0.1)
    schedule = CosWithWarmup(warmup=WARMUP)
    log = []
    for step in range(1, STEPS + 1):
        batch = next(batches)
        labels, kept = get_labels(batch), batch["instance_mask"]
        N = (labels != -100).sum() + (~kept).sum() * T
        optimizer.zero_grad()
        with StayInDouble():
            output = model(
                batch["input_ids"], labels=labels, ignore_index=-100, loss_reduction="sum",
                z_loss_multiplier=Z, loss_div_factor=N,
            )  # fmt: skip
            output.loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        lr = schedule.get_lr(LR, step, STEPS)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.latest_loss, optimizer.latest_grad_norm = output.ce_loss, norm
        optimizer.step()
        # OLMo-core divides by N, which counts T labels for a filtered sequence; the log has means per label.
        per_label = N / (labels != -100).sum()
        losses = {"loss": (output.ce_loss * per_label).item(), "z": (output.z_loss * per_label).item()}
        masked = (~kept).sum().item()
        log.append({**losses, "gradient_norm": norm.item(), "lr": lr, "masked": masked})
    return log, model


def main() -> int:
    parser = argparse.ArgumentParser(description="A training run against OLMo-core's.")
    parser.add_argument("--binary", type=Path, default=ROOT / "train_olmo2", help="the program to test")
    binary = parser.parse_args().binary.resolve()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        files, parameters = write_data(work), write_model(work / "model")
        command = [
            binary, "train", "--load", work / "model", "--data", *files, "--out", work / "run",
            "--steps", STEPS, "--batch-size", B, "--micro-batch-size", 3, "--seq-len", T, "--lr", LR,
            "--warmup-steps", WARMUP, "--seed", SEED, "--z-loss", Z, "--adam-eps", EPS,
            "--skip-step", "on",
        ]  # fmt: skip
        subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)
        lines = [json.loads(line) for line in (work / "run/log.jsonl").read_text().splitlines()]
        ours = [line for line in lines if line["type"] == "step"]
        theirs, model = olmo_core_run(parameters, olmo_core_batches(files, work))
        check("steps in the log", abs(len(ours) - STEPS), 0)
        check("filtered sequences", sum(line["masked"] for line in theirs), 1, at_least=True)
        for key in ("loss", "z", "gradient_norm", "lr", "masked"):
            a, b = (torch.tensor([line[key] for line in log], dtype=torch.float64) for log in (ours, theirs))
            check(f"{key} of every step", difference(a, b), 1e-5)
        reached = load_file(work / f"run/step-{STEPS:08d}/model.safetensors")
        reached = {olmo_core_name(name): p for name, p in reached.items()}
        check("parameters at the end", largest(reached, dict(model.named_parameters())), 1e-4)
    print(f"{test_reference.passed} passed, {test_reference.failed} failed")
    return 0 if test_reference.failed == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
