#!/usr/bin/env python3
"""Tests what train_olmo2 does with a released model's directory, on made-up ones of the same shape
(made_release.py): shards, links, every type, damaged files, models too large for this machine.

    python3 dev/test/test_release.py [NAME...]      the tests whose names contain one of the NAMEs

Needs NumPy and ./train_olmo2.
"""

from __future__ import annotations

import json
import os
import random
import re
import resource
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
from data_checks import ROOT, check, check_equal, run_tests
from made_release import make_release, to_dtype

PROGRAM = ROOT / "train_olmo2"


def olmo2(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, timeout=120)


def generate(directory: Path, *more: object) -> tuple[bytes, str]:
    """What the model writes, and what is said about its weights."""
    result = olmo2(
        "generate", "--load", directory, "--prompt", "ab", "--max-tokens", 12, "--temperature", 0, *more
    )
    said = result.stderr.decode()
    check(result.returncode == 0, f"generate {directory.name} {more}: {said}")
    line = re.search(r"^weights: (.*)$", said, re.M)
    return result.stdout, line[1] if line else said


def refuse(directory: Path, words: str, *more: object) -> None:
    result = olmo2("generate", "--load", directory, *more)
    said = result.stderr.decode()
    ok = result.returncode == 1 and said.startswith("error: ") and words in said
    check(ok, f"{directory.name} {more}: expected an error with {words!r}, found {result.returncode}: {said}")


def small(folder: Path, name: str = "m", **changes: object) -> Path:
    arguments = {"dtype": "BF16", "layers": 2, "scale": 16, "bytes_only": True, "positions": 64, **changes}
    return make_release("1B-Instruct", folder / name, **arguments)


Header = dict[str, dict]


def read_file(path: Path) -> tuple[Header, bytes]:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def write_file(path: Path, header: Header, data: bytes, multiple: int = 8, shift: int = 0) -> None:
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * ((shift - len(text)) % multiple)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def convert(path: Path, dtype: str, only: str = "") -> None:
    """Rewrites the BF16 tensors whose names contain `only` with the same values in another type."""
    header, data = read_file(path)
    out, offset = b"", 0
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        piece = data[begin:end]
        if only in name:
            values = (np.frombuffer(piece, np.uint16).astype(np.uint32) << 16).view(np.float32)
            if dtype == "F16":  # values that are exact in both types
                values = values.astype(np.float16).astype(np.float32)
            wide = values.astype(np.float64) if dtype == "F64" else to_dtype(values, dtype)
            piece, entry["dtype"] = wide.tobytes(), dtype
        entry["data_offsets"] = [offset, offset + len(piece)]
        out, offset = out + piece, offset + len(piece)
    write_file(path, header, out)


# ----------------------------------------------------------------------------------------------
# the same model in other files writes the same text


def test_forms(folder: Path) -> None:
    whole = small(folder)
    text, said = generate(whole)
    check("bf16, mapped" in said or "copied" in said or "converted" in said, said)
    lends = "mapped" in said
    print(f"weights of a BF16 directory: {said}")
    shards = small(folder, "shards", shard_size=100_000)
    check(len(list(shards.glob("*.safetensors"))) > 3, "shards")
    check_equal(generate(shards)[0], text, "shards")
    check_equal(generate(small(folder, "hub", shard_size=100_000, hub=True))[0], text, "links to blobs")
    index = json.loads((shards / "model.safetensors.index.json").read_text())
    del index["metadata"]
    index["weight_map"] = dict(
        random.Random(1).sample(sorted(index["weight_map"].items()), len(index["weight_map"]))
    )
    (shards / "model.safetensors.index.json").write_text(json.dumps(index))
    check_equal(generate(shards)[0], text, "an index in any order, without total_size")

    # tensors in any order in the file, at any address
    header, data = read_file(whole / "model.safetensors")
    names = sorted(header, key=lambda name: random.Random(name).random())
    moved, out = {"__metadata__": header.pop("__metadata__")}, b""
    for name in names:
        if name in header:
            begin, end = header[name]["data_offsets"]
            moved[name] = {**header[name], "data_offsets": [len(out), len(out) + end - begin]}
            out += data[begin:end]
    other = shutil.copytree(whole, folder / "other")
    for shift in (0, 1, 2, 3):
        write_file(other / "model.safetensors", moved, out, 8, shift)
        found, said = generate(other)
        check_equal(found, text, f"another order, the data {shift} bytes beside a multiple of 8")
        check_equal("not aligned" in said, lends and shift % 2 == 1, f"whether it is said ({said})")
        check_equal(generate(other, "--weights", "fp32")[0], text, "the same in fp32")

    # types: the values are exact in each, and so is the text
    half = shutil.copytree(whole, folder / "half")
    convert(half / "model.safetensors", "F16")
    expected, said = generate(half)
    check("fp32" in said and ("converted from F16" in said), f"F16 in a BF16 config: {said}")
    wide = shutil.copytree(half, folder / "wide")
    header, data = read_file(half / "model.safetensors")
    values = np.frombuffer(data, np.float16).astype(np.float32)
    for entry in header.values():
        if "dtype" in entry:
            entry.update(dtype="F32", data_offsets=[2 * at for at in entry["data_offsets"]])
    write_file(wide / "model.safetensors", header, values.tobytes())
    found, said = generate(wide)
    check_equal(found, expected, "F16 is exact: the text of F32")
    check("of fp32, " + ("mapped" if lends else "copied") in said, said)
    for dtype, only in (("F64", ""), ("F32", ""), ("F32", "layers.1.mlp"), ("F32", "norm")):
        mixed = shutil.copytree(whole, folder / f"mixed{dtype}{only}")
        convert(mixed / "model.safetensors", dtype, only)
        found, said = generate(mixed)
        check_equal(found, text, f"{dtype} {only}: the text of BF16 ({said})")
    if lends:
        found, said = generate(wide, "--weights", "bf16")
        check("of bf16, rounded from F32" in said, said)
        found, said = generate(whole, "--weights", "fp32")
        check(found == text and "of fp32, converted from BF16" in said, said)
    result = olmo2("generate", "--load", whole, "--weights", "fp16")
    check(
        b"--weights fp16: expected one of auto|bf16|fp32" in result.stderr, f"another word: {result.stderr}"
    )


def test_published_config(folder: Path) -> None:
    """Every size and stage, as published: rope_scaling null, no head_dim, bos_token_id in the 32B only."""
    for name in ("1B", "7B", "13B", "32B", "7B-SFT", "32B-Instruct"):
        scale = 16
        made = make_release(name, folder / name, layers=1, scale=scale, bytes_only=True)
        config = json.loads((made / "config.json").read_text())
        check(config["rope_scaling"] is None and "head_dim" not in config, "as published")
        check_equal("bos_token_id" in config, "32B" in name, "bos_token_id")
        result = olmo2("generate", "--load", made, "--prompt", "a", "--max-tokens", 2)
        check(result.returncode == 0 and b"warning" not in result.stderr, f"{name}: {result.stderr!r}")


# ----------------------------------------------------------------------------------------------
# files that are not what they should be


def test_damage(folder: Path) -> None:
    good = small(folder, shard_size=100_000)
    names = sorted(path.name for path in good.glob("*.safetensors"))
    shard = good / names[2]

    def damaged(name: str) -> Path:
        target = folder / name
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(good, target)
        return target

    bad = damaged("missing")
    (bad / shard.name).unlink()
    refuse(bad, f"{shard.name}: cannot be opened: No such file")
    refuse(bad, "names this file; copy the missing ones from the same place")
    bad = damaged("truncated")
    for size in (0, 5, 100, shard.stat().st_size - 1):
        os.truncate(bad / shard.name, size) if size < (bad / shard.name).stat().st_size else None
        (bad / shard.name).write_bytes(shard.read_bytes()[:size])
        refuse(bad, f"{shard.name}: ")
    (bad / shard.name).write_bytes(shard.read_bytes() + b"x")
    refuse(bad, "belongs to no tensor")

    header, data = read_file(shard)
    tensors = [name for name in header if name != "__metadata__"]

    def with_header(change: dict, words: str, more: bytes = b"") -> None:
        bad = damaged("header")
        write_file(bad / shard.name, {**header, **change}, data + more)
        refuse(bad, words)

    first, last = header[tensors[0]], header[tensors[-1]]
    begin, end = last["data_offsets"]
    with_header({tensors[-1]: {**last, "data_offsets": [begin, end + 2]}}, "cut short or its header is wrong")
    with_header({tensors[-1]: {**last, "data_offsets": [end, begin]}}, "cut short or its header is wrong")
    with_header({tensors[-1]: {**last, "data_offsets": [begin - 2, end]}}, "say otherwise")
    if len(tensors) > 1:
        with_header({tensors[-1]: {**last, "data_offsets": [begin - 2, end - 2]}}, "")
    with_header({tensors[0]: {**first, "dtype": "I16"}}, "has dtype I16, expected F32, BF16, F16 or F64")
    with_header({tensors[0]: {**first, "dtype": "Q4"}}, 'has dtype "Q4"')
    with_header({tensors[0]: {**first, "dtype": "F32"}}, "say otherwise")
    more = {**last, "data_offsets": [len(data), len(data) + end - begin]}
    with_header({"model.layers.7.mlp.up_proj.weight": more},
                "but the model in config.json (2 layers) has no such tensor", data[begin:end])  # fmt: skip
    missing = {name: entry for name, entry in header.items() if name != tensors[-1]}
    bad = damaged("gone")
    write_file(bad / shard.name, missing, data[:begin])
    refuse(bad, f'says that tensor "{tensors[-1]}" is in {shard.name}, but it is not')
    index = json.loads((good / "model.safetensors.index.json").read_text())
    del index["weight_map"][tensors[-1]]
    (bad / "model.safetensors.index.json").write_text(json.dumps(index))
    refuse(bad, f'has no tensor "{tensors[-1]}"')
    # twice: in two files, and in one header
    bad = damaged("twice")
    other = bad / names[0]
    theirs, their_data = read_file(other)
    size = len(their_data)
    theirs[tensors[-1]] = {**last, "data_offsets": [size, size + end - begin]}
    write_file(other, theirs, their_data + data[begin:end])
    refuse(bad, f'tensor "{tensors[-1]}" is also in ')
    bad = damaged("twins")
    raw = shard.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    entry = json.dumps({tensors[0]: first})[1:-1].encode()
    text = raw[8 : 8 + length].rstrip()[:-1] + b"," + entry + b"}"
    (bad / shard.name).write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + length :])
    refuse(bad, tensors[0])
    # a shard of another type than the rest is a model in fp32
    bad = damaged("types")
    expected, _ = generate(good)
    for name in names[3:5]:
        convert(bad / name, "F32")
    found, said = generate(bad)
    check(found == expected and "fp32" in said, f"shards of two types: {said}")


# ----------------------------------------------------------------------------------------------
# models that are too large


def test_large(folder: Path) -> None:
    limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name, numbers, figure in (("7B", 7298617344, "29.19 GB"), ("32B-Instruct", 32234279936, "64.47 GB")):
        made = make_release(name, folder / name, sparse=True)
        disk = sum(path.stat().st_blocks * 512 for path in made.iterdir())
        check(disk < 20e6, f"{name}: {disk} bytes of disk")
        result = olmo2("inspect", made)
        said = result.stdout.decode()
        check(result.returncode == 0 and str(numbers) in said, f"{name}: {said[:500]} {result.stderr!r}")
        plan = " ".join(said[said.index("to generate") :].split("\n\n")[0].split())
        check("weights " in plan and "cache " in plan, plan)
        if "mapped" in plan:
            check(f"weights {figure}" in plan, plan)
            check("to train" in plan and "to generate" in plan, plan)
        if limit < 25e9 or limit < numbers * 2:
            refuse(made, "out of memory: the model ", "--prompt", "a")
    if limit < 64e9:
        refuse(folder / "32B-Instruct", "weights 64.47 GB" if "mapped" in plan else " need", "--prompt", "a")


# ----------------------------------------------------------------------------------------------
# memory and time, on a model of 50 million numbers


def test_memory(folder: Path) -> None:
    made = small(folder, layers=3, scale=2, vocab=384)
    size = (made / "model.safetensors").stat().st_size
    command = [PROGRAM, "generate", "--load", made, "--prompt", "a", "--max-tokens", "8", "--threads", "1"]
    begin = time.monotonic()
    with open(os.devnull, "w") as nothing, open(folder / "said", "w") as said:
        process = subprocess.Popen(command, stdout=nothing, stderr=said)
        _, status, usage = os.wait4(process.pid, 0)
    peak = usage.ru_maxrss * 1024
    line = (folder / "said").read_text()
    print(
        f"{size / 1e6:.0f} MB of BF16, {line.strip()}: peak {peak / size:.3f} x, {time.monotonic() - begin:.2f} s"
    )
    check(status == 0, line)
    if "mapped" in line:
        # The program, its stacks and the buffers of a forward take below 50 MB. A copy would take 102 or more.
        check(peak <= 1.1 * size + 50e6, f"memory {peak}, file {size}")


if __name__ == "__main__":
    import test_release

    if not PROGRAM.exists():
        print("skipped: releases (./train_olmo2 is not built)")
    run_tests(test_release)
