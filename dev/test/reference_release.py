"""Compares released models, used as they lie, with transformers: small made-up directories of the shape of each
size, with the real tokenizer if ../shared has it. The logits of BF16 weights that stay in their files must equal
those of transformers in fp32 on the same weights, and so must the greedy text.

    python dev/test/reference_release.py

Needs ./train_olmo2, $CC and the packages of dev/reference/requirements.txt. The last line is "N passed, N
failed"; the exit code is 0 if nothing failed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from made_release import TOKENIZER, make_release

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "train_olmo2"
PROMPTS = ("The sky is blue because", "def fibonacci(n):\n    ", "Don't 12345", "naïve 東京 🙂", "1 + 1 =")

TEXTS, LENGTH = 2, 12  # prompts, and tokens after each, of greedy text

# Both sides sum in fp32, in other orders. Over 1024 terms, roundings of 2^-24 add up to about 2^-24 sqrt(1024) =
# 1.9e-6 of a sum; two layers have 14 products in a row.
TOLERANCE = 2e-6 * np.sqrt(2 * 7)

passed = failed = 0


def check(name: str, ok: bool, found: str = "") -> None:
    global passed, failed
    passed, failed = passed + ok, failed + (not ok)
    print(f"{'ok    ' if ok else 'FAILED'} {name}{': ' + found if found else ''}")


def build_driver(work: Path) -> Path:
    driver = work / "release_driver"
    compiler = os.environ.get("CC", "cc").split()
    flags = [
        "-std=c11",
        "-D_GNU_SOURCE",
        "-O2",
        "-march=native",
        "-ffp-contract=fast",
        "-fno-math-errno",
        f"-I{ROOT}",
    ]
    source = str(ROOT / "dev/test/release_driver.c")
    subprocess.run([*compiler, *flags, source, "-o", str(driver), "-fopenmp", "-lm"], check=True)
    return driver


class Sequence(NamedTuple):
    ids: list[int]
    prefill: int  # the others are decoded one by one


def our_logits(
    driver: Path, directory: Path, weights: str, sequences: list[Sequence]
) -> tuple[list[np.ndarray], str]:
    """Logits (tokens, V) of each, and what is said about the weights."""
    numbers = [number for s in sequences for number in (len(s.ids), s.prefill, *s.ids)]
    command = [driver, directory, weights]
    result = subprocess.run(
        command, input=np.array(numbers, "<u4").tobytes(), capture_output=True, check=True
    )
    rows = np.frombuffer(result.stdout, np.float32).reshape(sum(len(s.ids) for s in sequences), -1)
    ends = np.cumsum([len(s.ids) for s in sequences])
    return np.split(rows, ends[:-1]), result.stderr.decode().strip()


def compare(
    driver: Path, name: str, directory: Path, dtype: torch.dtype | None = None, weights: str = "auto"
) -> None:
    """`dtype`: what the weights are rounded to first, as by --weights."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    if dtype is not None:
        for parameter in model.parameters():
            if parameter.dim() == 2:  # norms stay as they are
                parameter.data = parameter.data.to(dtype).float()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    prompts = [tokenizer(prompt)["input_ids"] for prompt in PROMPTS]
    sequences = [Sequence(ids, prefill) for ids in prompts for prefill in (len(ids), (len(ids) + 1) // 2)]
    logits, said = our_logits(driver, directory, weights, sequences)
    worst = 0.0
    for sequence, ours in zip(sequences, logits):
        with torch.no_grad():
            theirs = model(torch.tensor([sequence.ids])).logits[0].numpy()
        worst = max(worst, float(np.abs(ours - theirs).max() / np.abs(theirs).max()))
    check(
        f"{name}, {said}: logits", worst <= TOLERANCE, f"{worst:.1e} of the largest (allowed {TOLERANCE:.1e})"
    )

    differ = []
    for prompt, ids in list(zip(PROMPTS, prompts))[:TEXTS]:
        command = [PROGRAM, "generate", "--load", directory, "--prompt", prompt, "--max-tokens", str(LENGTH),
                   "--temperature", "0", "--weights", weights]  # fmt: skip
        ours = subprocess.run(command, capture_output=True, check=True).stdout[:-1].decode(errors="replace")
        more = model.generate(torch.tensor([ids]), max_new_tokens=LENGTH, do_sample=False)[0]
        theirs = tokenizer.decode(more, skip_special_tokens=True)
        if ours != theirs:
            differ.append(f"{ours!r}, transformers {theirs!r}")
    check(f"{name}: greedy text of {TEXTS} prompts, {LENGTH} tokens each", not differ, "\n".join(differ))


def main() -> int:
    torch.set_num_threads(2)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if not TOKENIZER.is_file():
        print(
            "skipped: releases with the OLMo 2 tokenizer (../shared not present); with single bytes instead"
        )
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        driver = build_driver(work)
        small = {"layers": 2, "scale": 16, "positions": 256}
        letters = {
            **small,
            "bytes_only": True,
            "vocab": 258,
        }  # no rows without a token, which transformers may draw
        for size in ("1B", "7B", "13B"):
            made = make_release(f"{size}-Instruct", work / size, **letters)
            compare(driver, f"{size} in BF16", made)
        compare(driver, "13B in BF16, as fp32", made, weights="fp32")
        shards = make_release("32B-Instruct", work / "32B", shard_size=20e6, hub=True, **small)
        compare(driver, "32B in BF16 shards, through links", shards)
        base = make_release("1B", work / "base", **small)
        compare(driver, "1B in F32", base)
        if "mapped" in our_logits(driver, base, "auto", [Sequence([1], 1)])[1]:
            compare(driver, "1B in F32, rounded to bf16", base, torch.bfloat16, "bf16")
        half = make_release("1B", work / "half", dtype="F16", **letters)
        compare(driver, "1B in F16", half)
    print(f"{passed} passed, {failed} failed")
    return 0 if failed == 0 and passed > 0 else 1


if __name__ == "__main__":
    sys.exit(main())
