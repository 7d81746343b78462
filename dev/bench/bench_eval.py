#!/usr/bin/env python3
"""Milliseconds for transformers to score the first documents of a file of evaluation requests, the same work as
dev/bench/bench_eval.c: Olmo2ForCausalLM, fp32, random weights. As lm-eval does, it sorts the requests by length
and computes them in batches, each with its whole context; unlike lm-eval it applies the head only to the rows
that predict a continuation, which is faster. turns.py describes the output, and --steps 0.

    python3 dev/bench/bench_eval.py --tokenizer tokenizer.json --requests FILE.jsonl.gz [--documents 8]
"""

from __future__ import annotations

import argparse
import gzip
import json
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import Olmo2Config, Olmo2ForCausalLM

from turns import take_turns

UNCONDITIONAL = 1_000_000
SIZES = {"C": 512, "L": 8, "NH": 8, "F": 2048, "V": 100352}


def read_requests(path: Path, documents: int) -> list[tuple[str, str]]:
    """(context, continuation) of the first documents, unconditional ones included."""
    pairs, seen = [], {}
    with gzip.open(path, "rt") if path.suffix == ".gz" else open(path) as file:
        for line in file:
            r = json.loads(line)
            number = seen.setdefault(r["doc_id"] % UNCONDITIONAL, len(seen))
            if number < documents:
                pairs.append((r["request"]["context"], r["request"]["continuation"]))
    return pairs


def encode(tokenizer: Tokenizer, pairs: list[tuple[str, str]]) -> list[tuple[list[int], int]]:
    """The tokens of each request, the longest first, and how many are the continuation's."""
    requests = []
    for context, continuation in pairs:
        ids = tokenizer.encode(context + continuation, add_special_tokens=False).ids
        requests.append((ids, len(ids) - len(tokenizer.encode(context, add_special_tokens=False).ids)))
    return sorted(requests, key=lambda request: -len(request[0]))


@torch.inference_mode()
def score(model: Olmo2ForCausalLM, batch: list[tuple[list[int], int]]) -> list[float]:
    width = max(len(ids) for ids, _ in batch) - 1
    inputs = torch.tensor([ids[:-1] + [0] * (width + 1 - len(ids)) for ids, _ in batch])
    hidden = model.model(inputs).last_hidden_state  # what fills up the ends is behind all that counts
    rows = torch.cat([h[len(ids) - 1 - n : len(ids) - 1] for h, (ids, n) in zip(hidden, batch)])
    labels = torch.tensor([token for ids, n in batch for token in ids[-n:]])
    logprobs = torch.log_softmax(model.lm_head(rows), -1).gather(1, labels[:, None])[:, 0]
    return [float(part.sum()) for part in logprobs.split([n for _, n in batch])]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--requests", type=Path, required=True)
    for name, value in {"documents": 8, "batch": 8, "steps": 5, "threads": 2, **SIZES}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(1)
    config = Olmo2Config(
        hidden_size=a.C, num_hidden_layers=a.L, num_attention_heads=a.NH, intermediate_size=a.F,
        vocab_size=a.V, max_position_embeddings=4096, bos_token_id=None, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    model = Olmo2ForCausalLM(config).eval()
    requests = encode(Tokenizer.from_file(str(a.tokenizer)), read_requests(a.requests, a.documents))

    def step() -> str:
        for i in range(0, len(requests), a.batch):
            score(model, requests[i : i + a.batch])
        return ""

    print(f"transformers, PyTorch {torch.__version__}, {a.threads} threads, batches of {a.batch}")
    take_turns(a.steps, step, documents=a.documents, parameters=model.num_parameters())


if __name__ == "__main__":
    main()
