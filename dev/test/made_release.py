#!/usr/bin/env python3
"""Writes a directory in the exact shape of a released OLMo 2, with random weights: config.json as published,
shards of at most 5 GB with their index, the files of the tokenizer.

    python3 dev/test/made_release.py 1B-Instruct DIR                  2.97 GB of BF16 in one file
    python3 dev/test/made_release.py 7B-Instruct DIR --sparse         headers only: the data is holes
    python3 dev/test/made_release.py 32B DIR --layers 2 --scale 16    the same form, small
    python3 dev/test/made_release.py 1B DIR --hub                     as in Hugging Face's cache, with links

A size is 1B, 7B, 13B or 32B, by itself (F32, as published) or with -SFT, -DPO or -Instruct (BF16). The
tokenizer is the one of OLMo 2 if ../shared has it, otherwise one of single bytes. Needs NumPy.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
import zlib
from pathlib import Path
from typing import Iterator, NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
TOKENIZER = ROOT / "../shared/data/tokenizer/dolma2_tokenizer.json"


class Size(NamedTuple):
    repository: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int


SIZES = {
    "1B": Size("OLMo-2-0425-1B", 2048, 16, 16, 16, 8192),
    "7B": Size("OLMo-2-1124-7B", 4096, 32, 32, 32, 11008),
    "13B": Size("OLMo-2-1124-13B", 5120, 40, 40, 40, 13824),
    "32B": Size("OLMo-2-0325-32B", 5120, 64, 40, 8, 27648),
}
STAGES = ("", "-SFT", "-DPO", "-Instruct")

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ '<|system|>\n' + message['content'] + '\n' }}"
    "{% elif message['role'] == 'user' %}{{ '<|user|>\n' + message['content'] + '\n' }}"
    "{% elif message['role'] == 'assistant' %}{% if not loop.last %}"
    "{{ '<|assistant|>\n'  + message['content'] + eos_token + '\n' }}{% else %}"
    "{{ '<|assistant|>\n'  + message['content'] + eos_token }}{% endif %}{% endif %}"
    "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}{% endfor %}"
)


class Tensor(NamedTuple):
    name: str
    shape: tuple[int, ...]


# ----------------------------------------------------------------------------------------------
# the small files


def make_config(size: Size, dtype: str, vocab: int, eos: int, pad: int, positions: int) -> dict:
    """As published: no head_dim, bos_token_id in the 32B only."""
    config = {
        "architectures": ["Olmo2ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
        "bos_token_id": eos, "eos_token_id": eos, "hidden_act": "silu", "hidden_size": size.hidden,
        "initializer_range": 0.02, "intermediate_size": size.intermediate,
        "max_position_embeddings": positions, "model_type": "olmo2", "num_attention_heads": size.heads,
        "num_hidden_layers": size.layers, "num_key_value_heads": size.kv_heads, "pad_token_id": pad,
        "rms_norm_eps": 1e-06, "rope_scaling": None, "rope_theta": 500000, "tie_word_embeddings": False,
        "torch_dtype": {"BF16": "bfloat16", "F32": "float32", "F16": "float16"}[dtype],
        "transformers_version": "4.47.0.dev0", "use_cache": True, "vocab_size": vocab,
    }  # fmt: skip
    if "32B" not in size.repository:
        del config["bos_token_id"]
    return config


def byte_tokenizer() -> dict:
    """Single bytes, then <|endoftext|> 256 and <|pad|> 257, in the form of OLMo 2's tokenizer.json."""
    plain = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or b >= 174]
    rest = iter(range(256, 512))
    letters = [chr(b) if b in plain else chr(next(rest)) for b in range(256)]
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    added = [
        {"id": 256 + i, "content": text, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False, "special": True}
        for i, text in enumerate(("<|endoftext|>", "<|pad|>"))
    ]  # fmt: skip
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    bpe = {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
        "end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
        "vocab": {letter: i for i, letter in enumerate(letters)}, "merges": [],
    }  # fmt: skip
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]}, "post_processor": None,
        "decoder": {**level, "add_prefix_space": True, "use_regex": True}, "model": bpe,
    }  # fmt: skip


def tokenizer_files(tokenizer: dict, stage: str) -> dict[str, dict]:
    end, pad = "<|endoftext|>", "<|pad|>"
    keys = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
    config = {
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(token["id"]): {key: token[key] for key in keys} for token in tokenizer["added_tokens"]
        },
        "bos_token": end, "clean_up_tokenization_spaces": False, "eos_token": end,
        "model_max_length": 1000000000000000019884624838656, "pad_token": pad,
        "tokenizer_class": "GPT2Tokenizer", "unk_token": end,
    }  # fmt: skip
    if stage:
        config["chat_template"] = CHAT_TEMPLATE
    special = {"bos_token": end, "eos_token": end, "pad_token": pad, "unk_token": end}
    return {"tokenizer_config.json": config, "special_tokens_map.json": special}


# ----------------------------------------------------------------------------------------------
# the weights


def list_tensors(size: Size, vocab: int) -> Iterator[Tensor]:
    """In the order of transformers' state_dict, by which shards are filled."""
    head = size.hidden // size.heads
    c, q, kv, f = size.hidden, size.heads * head, size.kv_heads * head, size.intermediate
    yield Tensor("model.embed_tokens.weight", (vocab, c))
    for layer in range(size.layers):
        for name, shape in (
            ("self_attn.q_proj", (q, c)), ("self_attn.k_proj", (kv, c)), ("self_attn.v_proj", (kv, c)),
            ("self_attn.o_proj", (c, q)), ("self_attn.q_norm", (q,)), ("self_attn.k_norm", (kv,)),
            ("mlp.gate_proj", (f, c)), ("mlp.up_proj", (f, c)), ("mlp.down_proj", (c, f)),
            ("post_attention_layernorm", (c,)), ("post_feedforward_layernorm", (c,)),
        ):  # fmt: skip
            yield Tensor(f"model.layers.{layer}.{name}.weight", shape)
    yield Tensor("model.norm.weight", (c,))
    yield Tensor("lm_head.weight", (vocab, c))


WIDTH = {"BF16": 2, "F16": 2, "F32": 4}


def tensor_bytes(tensor: Tensor, dtype: str) -> int:
    return int(np.prod(tensor.shape, dtype=np.int64)) * WIDTH[dtype]


def split_shards(tensors: list[Tensor], dtype: str, largest: float) -> list[list[Tensor]]:
    """As huggingface_hub does: a tensor that does not fit any more begins a new shard."""
    shards: list[list[Tensor]] = [[]]
    filled = 0
    for tensor in tensors:
        size = tensor_bytes(tensor, dtype)
        if shards[-1] and filled + size > largest:
            shards.append([])
            filled = 0
        shards[-1].append(tensor)
        filled += size
    return shards


def header(tensors: list[Tensor], dtype: str) -> bytes:
    entries: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in tensors:
        end = offset + tensor_bytes(tensor, dtype)
        entries[tensor.name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def to_dtype(values: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "F32":
        return values
    if dtype == "F16":
        return values.astype(np.float16)
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)  # to the nearest, ties to even


def random_values(seed: int, tensor: Tensor, dtype: str) -> Iterator[np.ndarray]:
    """Standard deviation 0.02; norms around 1. They depend on the tensor's name, so that they are the same in
    any shards. In pieces, so that memory stays small."""
    rng = np.random.Generator(np.random.SFC64([seed, zlib.crc32(tensor.name.encode())]))
    count, piece = int(np.prod(tensor.shape, dtype=np.int64)), 1 << 22
    for begin in range(0, count, piece):
        values = rng.standard_normal(min(piece, count - begin), dtype=np.float32)
        values *= np.float32(0.02)
        yield to_dtype(values + np.float32(1.0) if len(tensor.shape) == 1 else values, dtype)


def write_shard(path: Path, tensors: list[Tensor], dtype: str, seed: int, sparse: bool) -> None:
    tensors = sorted(tensors)  # by name, as the library writes them
    with open(path, "wb") as file:
        file.write(header(tensors, dtype))
        if sparse:
            file.truncate(file.tell() + sum(tensor_bytes(tensor, dtype) for tensor in tensors))
            return
        for tensor in tensors:
            for values in random_values(seed, tensor, dtype):
                file.write(values)


def write_weights(
    directory: Path, tensors: list[Tensor], dtype: str, shard_size: float, seed: int, sparse: bool
) -> None:
    shards, weight_map = split_shards(tensors, dtype, shard_size), {}
    for i, shard in enumerate(shards):
        name = f"model-{i + 1:05}-of-{len(shards):05}.safetensors" if len(shards) > 1 else "model.safetensors"
        write_shard(directory / name, shard, dtype, seed, sparse)
        weight_map.update({tensor.name: name for tensor in shard})
    if len(shards) > 1:
        total = sum(tensor_bytes(tensor, dtype) for tensor in tensors)
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        write_json(directory / "model.safetensors.index.json", index)


# ----------------------------------------------------------------------------------------------
# the directory


def write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


def scaled(size: Size, layers: int | None, scale: int) -> Size:
    if size.hidden % (2 * scale * size.heads) or size.intermediate % scale:
        raise SystemExit(f"error: --scale {scale}: the heads of {size.repository} cannot be that small")
    return size._replace(
        hidden=size.hidden // scale, intermediate=size.intermediate // scale, layers=layers or size.layers
    )


def as_hub(directory: Path, repository: str) -> Path:
    """Turns a directory into Hugging Face's cache: names that are links to blobs. Returns the snapshot."""
    files = sorted(directory.iterdir())
    cache = directory / f"models--allenai--{repository}"
    snapshot = cache / "snapshots" / hashlib.sha1(repository.encode()).hexdigest()
    (cache / "blobs").mkdir(parents=True)
    (cache / "refs").mkdir()
    snapshot.mkdir(parents=True)
    (cache / "refs" / "main").write_text(snapshot.name)
    for file in files:
        blob = hashlib.sha256(file.name.encode()).hexdigest()
        file.rename(cache / "blobs" / blob)
        (snapshot / file.name).symlink_to(Path("../../blobs") / blob)
    return snapshot


def make_release(
    name: str, directory: Path, *, dtype: str | None = None, layers: int | None = None, scale: int = 1,
    shard_size: float = 5e9, seed: int = 1, sparse: bool = False, hub: bool = False,
    vocab: int | None = None, positions: int = 4096, bytes_only: bool = False,
) -> Path:  # fmt: skip
    """Returns the model directory. `dtype` is BF16, F32 or F16."""
    base, _, stage = name.partition("-")
    stage = f"-{stage}" if stage else ""
    if base not in SIZES or stage not in STAGES:
        raise SystemExit(
            f"error: {name}: expected one of {', '.join(SIZES)}, with {', '.join(STAGES[1:])} or not"
        )
    if TOKENIZER.is_file() and not bytes_only:
        tokenizer, eos, pad, vocab = json.loads(TOKENIZER.read_text()), 100257, 100277, vocab or 100352
    else:
        tokenizer, eos, pad, vocab = byte_tokenizer(), 256, 257, vocab or 384
    size, dtype = scaled(SIZES[base], layers, scale), dtype or ("BF16" if stage else "F32")
    directory.mkdir(parents=True, exist_ok=True)
    if any(directory.iterdir()):
        raise SystemExit(f"error: {directory}: is not empty; choose another name")
    config = make_config(size, dtype, vocab, eos, pad, positions)
    write_json(directory / "config.json", config)
    ids = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id") if key in config}
    version = config["transformers_version"]
    write_json(
        directory / "generation_config.json",
        {"_from_model_config": True, **ids, "transformers_version": version},
    )
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    for file, content in tokenizer_files(tokenizer, stage).items():
        write_json(directory / file, content)
    write_weights(directory, list(list_tensors(size, vocab)), dtype, shard_size, seed, sparse)
    return as_hub(directory, size.repository + stage) if hub else directory


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("size", help="1B, 7B, 13B, 32B, with -SFT, -DPO, -Instruct or not")
    parser.add_argument("directory", type=Path, help="new or empty")
    parser.add_argument("--dtype", choices=sorted(WIDTH), help="default: F32 for a base model, else BF16")
    parser.add_argument("--layers", type=int, metavar="N", help="fewer layers")
    parser.add_argument("--scale", type=int, default=1, metavar="K", help="widths divided by K")
    parser.add_argument("--vocab", type=int, metavar="N", help="rows of the vocabulary (default: 100352)")
    parser.add_argument("--shard-size", type=float, default=5e9, metavar="BYTES", help="default: 5e9")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sparse", action="store_true", help="no data: files with holes, which take no disk")
    parser.add_argument("--hub", action="store_true", help="links to blobs, as in Hugging Face's cache")
    parser.add_argument("--bytes-only", action="store_true", help="a tokenizer of single bytes")
    args = parser.parse_args()
    begin = time.monotonic()
    made = make_release(
        args.size, args.directory, dtype=args.dtype, layers=args.layers, scale=args.scale, vocab=args.vocab,
        shard_size=args.shard_size, seed=args.seed, sparse=args.sparse, hub=args.hub, bytes_only=args.bytes_only,
    )  # fmt: skip
    size = sum(os.stat(path).st_size for path in made.glob("*.safetensors"))
    print(f"{made}: {size / 1e9:.2f} GB of weights in {time.monotonic() - begin:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
