#!/usr/bin/env python3
"""Milliseconds for transformers to read prompts and to decode greedily, the same work as
dev/bench/bench_decode.c: Olmo2ForCausalLM.generate with its cache, random weights, no token that ends the text.
With --new 1 it is one forward that fills the cache and gives the logits of the last position. --dtype bf16
holds and computes everything in bf16, as transformers does with a released model. turns.py describes the
output, and --steps 0."""

from __future__ import annotations

import argparse

import torch
from transformers import Olmo2Config, Olmo2ForCausalLM

from turns import take_turns


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    defaults = {"steps": 5, "threads": 2, "slots": 1, "prompt": 16, "new": 128}
    sizes = {"C": 512, "L": 8, "NH": 8, "F": 2048, "V": 50304}
    for name, value in {**defaults, **sizes}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32")
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(1)
    torch.set_default_dtype(torch.bfloat16 if a.dtype == "bf16" else torch.float32)
    config = Olmo2Config(
        hidden_size=a.C, num_hidden_layers=a.L, num_attention_heads=a.NH, intermediate_size=a.F,
        vocab_size=a.V, bos_token_id=None, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    model = Olmo2ForCausalLM(config).eval()
    prompt = torch.randint(a.V, (a.slots, a.prompt))
    mask = torch.ones_like(prompt)

    @torch.inference_mode()
    def step() -> str:
        if a.new == 1:
            model(prompt, use_cache=True, logits_to_keep=1).logits.argmax(-1)
            return ""
        ids = model.generate(
            prompt, attention_mask=mask, max_new_tokens=a.new, do_sample=False, use_cache=True
        )
        if ids.shape[1] != a.prompt + a.new:
            raise SystemExit(f"error: {ids.shape[1]} tokens, expected {a.prompt + a.new}")
        return ""

    print(f"transformers, PyTorch {torch.__version__}, {a.dtype}, {a.threads} threads", end="")
    print(f", {model.num_parameters() / 1e6:.1f}M parameters, {a.slots} x {a.new} tokens after {a.prompt}")
    tokens = a.slots * (a.prompt if a.new == 1 else a.new)
    take_turns(a.steps, step, tokens=tokens, parameters=model.num_parameters())


if __name__ == "__main__":
    main()
