#!/usr/bin/env python3
"""Compares llmc/chat.h with transformers' apply_chat_template, id for id, on random conversations, and a
conversation with `chat` with transformers' generate.

    python3 dev/test/reference_chat.py

The template is that of OLMo 2 Instruct, stated here once more. Needs transformers and jinja2, and a C
compiler for dev/test/chat_driver.c. The real tokenizer is used where ../shared/data is present.
"""
from __future__ import annotations

import argparse
import json
import os
import random
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"
import torch  # noqa: E402
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: E402
from transformers import Olmo2Config, Olmo2ForCausalLM, PreTrainedTokenizerFast  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
REAL = ROOT.parent / "shared/data/tokenizer/dolma2_tokenizer.json"
END = "<|endoftext|>"
ADDED = [END, "<|pad|>", "<|im_start|>", "|||IP_ADDRESS|||"]
PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
           r"|\s*[\r\n]+|\s+(?!\S)|\s+")
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'system' %}"
    "{{ '<|system|>\n' + message['content'] + '\n' }}{% elif message['role'] == 'user' %}"
    "{{ '<|user|>\n' + message['content'] + '\n' }}{% elif message['role'] == 'assistant' %}"
    "{% if not loop.last %}{{ '<|assistant|>\n'  + message['content'] + eos_token + '\n' }}{% else %}"
    "{{ '<|assistant|>\n'  + message['content'] + eos_token }}{% endif %}{% endif %}"
    "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}{% endfor %}"
)
Conversation = dict[str, Any]
passed = failed = 0


def check(ok: bool, what: str) -> None:
    global passed, failed
    passed, failed = passed + ok, failed + (not ok)
    print(f"{'ok    ' if ok else 'FAILED'} {what}", flush=True)


def made(path: Path) -> None:
    """A small tokenizer that knows the headers: merges cross from a header into the content."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(PATTERN), "isolated"),
         pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=1500, special_tokens=ADDED, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    headers = [f"<|{role}|>\n{rest}" for role in ("system", "user", "assistant")
               for rest in ("Hello", "\nHello", "\n\nHello", " 7", "|>\n|>")]
    sources = [file.read_text() for file in sorted((ROOT / "llmc").glob("*.h"))]
    tokenizer.train_from_iterator([*sources, *headers * 50], trainer)
    tokenizer.save(str(path))


# ---------------------------------------------------------------------------------------------
# random conversations

PARTS = ["Hello", " world", "What is 2 + 2?", "1234567", "\n", "\n\n", "\r\n", "\t", " ", "  ", "<", "|>",
         "<|", "<|user|>", "<|assistant|>\n", "|", ">", "don't", "é", "e\u0301", "東京", "🙂", "\u00a0",
         "\u2028", "\ufffd", "\x00", "{{ bos_token }}", "{% if %}", "\\n", "def f(x):\n  return x\n", "'", '"']


def content(rng: random.Random, parts: list[str]) -> str:
    kind = rng.random()
    if kind < 0.1:
        return ""
    text = "".join(rng.choices(parts, k=rng.randint(1, 12)))
    if kind < 0.4:
        text = rng.choice(["\n", "\n\n", "\n\n\n", " ", "\t", "7", "<", ">", "|", "\r\n"]) + text
    if kind > 0.9:
        text = "".join(chr(rng.choice([rng.randrange(1, 0x300), rng.randrange(0x300, 0xD800),
                                       rng.randrange(0xE000, 0x110000)])) for _ in range(rng.randint(1, 20)))
    return text


def conversation(rng: random.Random, parts: list[str]) -> Conversation:
    if rng.random() < 0.3:  # roles in any order
        roles = rng.choices(["system", "user", "assistant"], k=rng.randint(1, 6))
    else:
        roles = ["system"] * (rng.random() < 0.5) + ["user", "assistant"] * rng.randint(1, 4)
        roles = roles[:-1] if rng.random() < 0.5 else roles
    return {"messages": [{"role": role, "content": content(rng, parts)} for role in roles],
            "ask": rng.random() < 0.5, "plain": False}


# ---------------------------------------------------------------------------------------------
# the two sides

def build_driver(folder: Path) -> Path:
    driver = folder / "chat_driver"
    subprocess.run([os.environ.get("CC", "cc"), "-std=c11", "-D_GNU_SOURCE", "-O2", "-I", ROOT,
                    ROOT / "dev/test/chat_driver.c", "-o", driver, "-lm"], check=True)
    return driver


def encode_here(driver: Path, tokenizer: Path, conversations: list[Conversation]) -> list[list[int]]:
    stdin = "".join(json.dumps(c) + "\n" for c in conversations).encode()
    run = subprocess.run([driver, tokenizer], input=stdin, capture_output=True)
    if run.returncode != 0:
        raise RuntimeError(run.stderr.decode())
    words = memoryview(run.stdout).cast("I")
    rows, at = [], 0
    while at < len(words):
        rows.append(list(words[at + 1:at + 1 + words[at]]))
        at += 1 + words[at]
    return rows


def by_transformers(tokenizer: PreTrainedTokenizerFast, c: Conversation) -> list[int]:
    return list(tokenizer.apply_chat_template(c["messages"], add_generation_prompt=c["ask"], tokenize=True,
                                              return_dict=False))


def plainly(words: Tokenizer, end: int, tokenizer: PreTrainedTokenizerFast, c: Conversation) -> list[int]:
    """The ids with added tokens only in the template: it is rendered with marks in the place of its own, and
    `words`, a tokenizer without added tokens, encodes what is between them."""
    mark = "\U000f1234"
    kept = tokenizer.bos_token, tokenizer.eos_token
    tokenizer.bos_token = tokenizer.eos_token = mark
    text = tokenizer.apply_chat_template(c["messages"], add_generation_prompt=c["ask"], tokenize=False)
    tokenizer.bos_token, tokenizer.eos_token = kept
    ids: list[int] = []
    for i, part in enumerate(text.split(mark)):
        ids += [end] * (i > 0) + words.encode(part, add_special_tokens=False).ids
    return ids


def compare(driver: Path, path: Path, what: str, count: int) -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(path), bos_token=END, eos_token=END,
                                        pad_token="<|pad|>", chat_template=TEMPLATE)
    rng = random.Random(1)

    def run(kind: str, conversations: list[Conversation], expected: list[list[int]]) -> None:
        found = encode_here(driver, path, conversations)
        wrong = [i for i in range(len(expected)) if found[i] != expected[i]]
        for i in wrong[:3]:
            print(f"       {conversations[i]!r}\n       found {found[i]}\n       expected {expected[i]}")
        begins = sum(row.count(tokenizer.convert_tokens_to_ids(END)) for row in found)
        check(not wrong and len(found) == len(expected),
              f"{what}, {kind}: {len(found):,} conversations, {sum(map(len, found)):,} tokens, "
              f"{begins:,} of them {END}, {len(wrong)} differ")

    # Ordinary content: both ways of encoding it agree with transformers.
    conversations = [conversation(rng, PARTS) for _ in range(count)]
    expected = [by_transformers(tokenizer, c) for c in conversations]
    run("ordinary content", conversations, expected)
    run("ordinary content, plain", [{**c, "plain": True} for c in conversations], expected)

    # Added tokens in the content: found, as transformers does, or left as the text that they are.
    conversations = [conversation(rng, PARTS + 3 * ADDED) for _ in range(count)]
    run("added tokens in the content", conversations, [by_transformers(tokenizer, c) for c in conversations])
    parts = json.loads(path.read_text("utf-8"))
    end = next(token["id"] for token in parts["added_tokens"] if token["content"] == END)
    words = Tokenizer.from_str(json.dumps({**parts, "added_tokens": []}))
    run("added tokens in the content, plain", [{**c, "plain": True} for c in conversations],
        [plainly(words, end, tokenizer, c) for c in conversations])


# ---------------------------------------------------------------------------------------------
# a whole conversation

def converse(path: Path, folder: Path) -> None:
    """`chat` on a directory that transformers has written, greedy, against transformers' generate."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(path), bos_token=END, eos_token=END,
                                        pad_token="<|pad|>", chat_template=TEMPLATE)
    torch.manual_seed(1)
    config = Olmo2Config(vocab_size=len(tokenizer), hidden_size=64, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=2, intermediate_size=128,
                         max_position_embeddings=512,
                         rms_norm_eps=1e-6, rope_theta=500000, initializer_range=0.5, bos_token_id=None,
                         eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    model = Olmo2ForCausalLM(config).eval()
    with torch.no_grad():  # a logit of 0 is never the largest, so answers are ASCII
        for i in range(len(tokenizer)):
            if not tokenizer.decode([i]).isascii():
                model.lm_head.weight[i] = 0.0
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    files = sorted(file.name for file in (folder / "model").iterdir())

    messages = [{"role": "system", "content": "Be brief."}]
    questions = ["Hello", "What is 2 + 2?", "x" * 50, "  spaces ", "the last one"]
    command = [ROOT / "train_olmo2", "chat", "--load", folder / "model", "--system", "Be brief.",
               "--temperature", "0", "--max-tokens", "24"]
    run = subprocess.run(command, input="\n".join([*questions, f"/save {folder}/saved.json"]), text=True,
                         capture_output=True)
    ok = run.returncode == 0 and "base model" not in run.stderr
    check(ok, f"chat with {', '.join(files)}" + (run.stderr if not ok else ""))
    for question in questions:
        messages.append({"role": "user", "content": question})
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt",
                                            return_dict=False)
        with torch.no_grad():
            out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False)
        new = out[0, ids.shape[1]:].tolist()
        answer = tokenizer.decode([i for i in new if i != tokenizer.eos_token_id],
                                  clean_up_tokenization_spaces=False)
        messages.append({"role": "assistant", "content": answer})
    saved = json.loads((folder / "saved.json").read_text())["messages"]
    check(saved == messages, f"{len(questions)} answers equal those of transformers' greedy generate")
    if saved != messages:
        print(f"       found {saved}\n       expected {messages}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=5000, help="conversations of each kind (%(default)s)")
    count = parser.parse_args().count
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        driver = build_driver(folder)
        made(folder / "made.json")
        compare(driver, folder / "made.json", "a tokenizer made here", count)
        converse(folder / "made.json", folder)
        if REAL.exists():
            compare(driver, REAL, "OLMo 2's tokenizer", count)
        else:
            print("skipped: OLMo 2's own tokenizer (../shared not present)")
    print(f"{passed} passed, {failed} failed")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
