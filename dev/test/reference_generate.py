"""Compares `generate --prompts` with Hugging Face transformers: the same greedy text after 50 prompts, the same
log-probabilities, and draws from the distribution that transformers' temperature, top-k, top-p and min-p leave.

    python dev/test/reference_generate.py [--binary ./train_olmo2]

With the tokenizer of OLMo 2 if ../shared is present. Needs the packages of dev/reference/requirements.txt. The last
line is "N passed, N failed"; the exit code is 0 if nothing failed.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shutil
import sys
import tempfile
from pathlib import Path

import reference_ecosystem as ecosystem
import torch
from reference_ecosystem import Program, check, random_model
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.utils import logging

ROOT = Path(__file__).resolve().parents[2]
REAL_TOKENIZER = ROOT / "../shared/data/tokenizer/dolma2_tokenizer.json"
END = "<|endoftext|>"
NEW = 24

# A logit is a sum of C products and comes from sums of that kind, each rounded to 24 bits: two programs differ by a
# few units in the last place of the largest logits, which are below 16 here, where a unit is 1e-6.
ROUNDING = 2e-5


def write_lines(path: Path, objects: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(o) + "\n" for o in objects))
    return path


def generate(program: Program, directory: Path, prompts: Path, out: Path, *flags: object) -> list[dict]:
    program.run("generate", "--load", directory, "--prompts", prompts, "--out", out, "--logprobs", *flags)
    return [json.loads(line) for line in out.read_text().splitlines()]


def make_prompts(count: int) -> list[str]:
    """Pieces of this project's prose and code, of 1 to 400 characters, and some that are neither."""
    text = (ROOT / "README.md").read_text() + (ROOT / "train_olmo2.c").read_text()
    rng = random.Random(1)
    prompts = ["", " ", "\n\n", "é 中 \U0001f600", "1234567", "the the the the"]
    while len(prompts) < count:
        size, begin = rng.choice([1, 10, 40, 150, 400]), rng.randrange(len(text) - 400)
        prompts.append(text[begin : begin + size])
    return prompts


def logits_of(model: PreTrainedModel, ids: list[int], count: int) -> Tensor:
    """(count, V) in fp32: those that the last `count` of the ids were chosen from."""
    with torch.no_grad():
        return model(torch.tensor([ids[:-1]]), logits_to_keep=count).logits[0]


def greedy_texts(model: PreTrainedModel, prompts: list[list[int]], size: int, end: int) -> list[list[int]]:
    """transformers' new tokens, an end token included, ten prompts of similar length at a time."""
    beyond = list(range(size, model.config.vocab_size))  # rows that pad the vocabulary
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    texts: list[list[int]] = [[] for _ in prompts]
    for begin in range(0, len(order), 10):
        batch = order[begin : begin + 10]
        T = max(len(prompts[i]) for i in batch)
        ids = torch.tensor([[0] * (T - len(prompts[i])) + prompts[i] for i in batch])
        mask = torch.tensor([[0] * (T - len(prompts[i])) + [1] * len(prompts[i]) for i in batch])
        written = model.generate(
            ids, attention_mask=mask, max_new_tokens=NEW, do_sample=False, pad_token_id=end,
            suppress_tokens=beyond, eos_token_id=end,
        )[:, T:].tolist()  # fmt: skip
        for i, text in zip(batch, written, strict=True):
            texts[i] = text[: text.index(end) + 1] if end in text else text
    return texts


def test_greedy(
    name: str, program: Program, directory: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, work: Path
) -> None:
    """Texts, ends and log-probabilities of all prompts. Texts may part where transformers' two largest logits are
    equal within rounding; such cases are listed, and are expected not to occur."""
    end = tokenizer.convert_tokens_to_ids(END)
    texts = make_prompts(50)
    prompts = [tokenizer(text)["input_ids"] or [end] for text in texts]
    lines = generate(
        program, directory, write_lines(work / "prompts.jsonl", [{"prompt": text} for text in texts]),
        work / f"{name}.jsonl", "--temperature", 0, "--max-tokens", NEW,
    )  # fmt: skip
    same = ties = decoded = 0
    largest = 0.0
    for ids, line, theirs in zip(prompts, lines, greedy_texts(model, prompts, len(tokenizer), end), strict=True):
        ours = line["ids"]
        logits = logits_of(model, ids + ours, len(ours))
        wanted = logits.double().log_softmax(-1)[range(len(ours)), ours]
        error = (torch.tensor(line["logprobs"]).double() - wanted).abs().max().item()
        largest = error if not error <= largest else largest
        kept = ours[:-1] if line["end"] == "end_token" else ours
        decoded += tokenizer.decode(kept).replace("\ufffd", "") == line["text"].replace("\ufffd", "")
        if theirs == ours:
            same += 1
            continue
        at = next(i for i, (a, b) in enumerate(zip(theirs, ours, strict=False)) if a != b)
        gap = (logits[at, theirs[at]] - logits[at, ours[at]]).item()
        ties += abs(gap) <= ROUNDING
        print(f"       token {at} behind {ids[-3:]}: {theirs[at]} there, {ours[at]} here, logits {gap:.1e} apart")
    ended = sum(line["end"] == "end_token" for line in lines)
    found = f"{ended} with an end token, {ties} part at a tie"
    check(f"{name}: {same} of {len(prompts)} greedy texts equal", same + ties == len(prompts), found)
    if name == "trained":
        check(f"{name}: some of them end", ended > 0)
    check(f"{name}: the texts are those of their ids", decoded == len(prompts))
    # The logit and the logsumexp of one position each have that error.
    allowed = 2 * ROUNDING
    check(f"{name}: log p of every token", largest <= allowed, f"differs by {largest:.1e}, allowed {allowed:.0e}")


def warpers(temperature: float, top_k: int, top_p: float, min_p: float) -> LogitsProcessorList:
    """In the order of transformers' generate."""
    order = [TemperatureLogitsWarper(temperature)]
    if top_k > 0:
        order.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        order.append(TopPLogitsWarper(top_p))
    if min_p > 0:
        order.append(MinPLogitsWarper(min_p))
    return LogitsProcessorList(order)


def test_draws(
    program: Program, directory: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, work: Path
) -> None:
    """Every token that was drawn is one that transformers would draw from, and the most probable one comes as often
    as its probability there says: the sum over all draws is within 5 standard deviations (1 in 1.7 million)."""
    prompts = write_lines(work / "few.jsonl", [{"prompt": p} for p in make_prompts(12)[6:]])
    size = len(tokenizer)
    for temperature, top_k, top_p, min_p in (
        (1.0, 0, 1.0, 0.0), (0.7, 20, 1.0, 0.0), (1.3, 0, 0.8, 0.0), (1.0, 0, 1.0, 0.2), (0.8, 50, 0.9, 0.05),
    ):  # fmt: skip
        flags = ("--temperature", temperature, "--top-k", top_k, "--top-p", top_p, "--min-p", min_p)
        out = work / f"draws-{temperature}-{top_k}-{top_p}-{min_p}.jsonl"
        lines = generate(program, directory, prompts, out, *flags, "--samples", 4, "--max-tokens", NEW, "--seed", 9)
        warp = warpers(temperature, top_k, top_p, min_p)
        count, outside, excess, variance = 0, 0, 0.0, 0.0
        for line in lines:
            prompt = json.loads(prompts.read_text().splitlines()[line["prompt"]])["prompt"]
            ids = tokenizer(prompt)["input_ids"]
            logits = logits_of(model, ids + line["ids"], len(line["ids"]))[:, :size].double()
            # A token at the border may be on either side of it within rounding: nudge the one that was drawn.
            drawn = torch.tensor(line["ids"])
            nudged = logits.scatter_add(1, drawn[:, None], torch.full((len(drawn), 1), ROUNDING, dtype=torch.float64))
            outside += int((warp(None, nudged)[range(len(drawn)), drawn] == -math.inf).sum())
            top, likeliest = warp(None, logits).softmax(-1).max(-1)
            excess += ((drawn == likeliest).double() - top).sum().item()
            variance += (top * (1 - top)).sum().item()
            count += len(drawn)
        z = excess / math.sqrt(variance)
        name = f"temperature {temperature}, top-k {top_k}, top-p {top_p}, min-p {min_p}"
        check(f"{name}: {count} draws that transformers would make", outside == 0, f"{outside} others")
        check(f"{name}: the likeliest token as often", abs(z) <= 5, f"{z:+.1f} standard deviations")


def prepare(program: Program, work: Path) -> tuple[Path, int]:
    """A tokenizer, OLMo 2's own if it is there, the rows of its vocabulary, and the tokens of a text whose lines are
    documents, so a model of it writes ends."""
    tokenizer, V = work / "tokenizer.json", 100352
    if REAL_TOKENIZER.exists():
        shutil.copy(REAL_TOKENIZER, tokenizer)
    else:
        print(f"skipped: the tokenizer of OLMo 2 ({REAL_TOKENIZER} is not there); with one trained on this project")
        V = 640
        ecosystem.prepare(program, work)
        (work / "train.tokens").unlink()
    lines = [{"text": line} for line in (ROOT / "train_olmo2.c").read_text().splitlines() if line]
    text = write_lines(work / "lines.jsonl", lines)
    program.run("tokenize", "--tokenizer", tokenizer, "--out", work / "train.tokens", text)
    return tokenizer, V


def trained(program: Program, work: Path, tokenizer: Path, V: int, end: int) -> Path:
    """A short run of a small model; returns its last checkpoint."""
    keys = ecosystem.shape_keys(
        model_type="olmo2", rope_theta=500000, initializer_range=0.02, eos_token_id=end, vocab_size=V,
        max_position_embeddings=512,
    )  # fmt: skip
    (work / "trained.json").write_text(json.dumps(keys))
    program.run(
        "train", "--config", work / "trained.json", "--data", work / "train.tokens", "--tokenizer", tokenizer,
        "--out", work / "trained", "--steps", 30, "--batch-size", 8, "--seq-len", 64, "--lr", 0.02, "--seed", 3,
    )  # fmt: skip
    return max((work / "trained").glob("step-*"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", type=Path, default=ROOT / "train_olmo2")
    program = Program(parser.parse_args().binary.resolve())
    torch.set_num_threads(2)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        tokenizer_file, V = prepare(program, work)
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_file.parent, tokenizer_file=str(tokenizer_file))
        end = tokenizer.convert_tokens_to_ids(END)
        for kind in ("fp32", "bf16", "trained"):
            directory = work / kind
            if kind == "trained":
                directory = trained(program, work, tokenizer_file, V, end)
            else:
                model = random_model(7, vocab_size=V, eos_token_id=end, max_position_embeddings=512)
                model.to(torch.bfloat16 if kind == "bf16" else torch.float32).save_pretrained(directory)
                shutil.copy(tokenizer_file, directory / "tokenizer.json")
            model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
            test_greedy(kind, program, directory, model, tokenizer, work)
        test_draws(program, directory, model, tokenizer, work)
    print(f"{ecosystem.passed} passed, {ecosystem.failed} failed")
    return ecosystem.failed > 0 or ecosystem.passed == 0


if __name__ == "__main__":
    sys.exit(main())
