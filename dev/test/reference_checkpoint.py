"""Compares config.h, checkpoint.h and safetensors.h with Hugging Face's own libraries: configurations of every
size, tensors bit by bit in every type and in shards, tokenizers, and thousands of damaged files.

    python dev/test/reference_checkpoint.py

Compiles dev/test/checkpoint_driver.c with $CC. Needs the packages of dev/reference/requirements.txt. The last
line is "N passed, N failed"; the exit code is 0 if nothing failed.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, Olmo2Config, Olmo2ForCausalLM
from transformers.utils import logging

ROOT = Path(__file__).resolve().parents[2]
TOKENIZER = ROOT / "../shared/data/tokenizer/dolma2_tokenizer.json"

# The number of parameters of each size, as OLMo-core counts them.
PARAMETERS = {
    "1M": 2448620, "14M": 26740864, "30M": 54792448, "60M": 95957376, "100M": 153117184, "190M": 267424512,
    "370M": 474022912, "600M": 732255552, "760M": 912360960, "1B": 1484916736, "1B-core": 1619150848,
    "3B": 3503508736, "7B": 7298617344, "13B": 13716198400, "32B": 32234279936,
}  # fmt: skip

passed = failed = 0


def check(name: str, ok: bool, found: str = "") -> None:
    global passed, failed
    passed, failed = passed + ok, failed + (not ok)
    print(f"{'ok    ' if ok else 'FAILED'} {name}{': ' + found if found else ''}")


class Driver:
    def __init__(self, directory: Path) -> None:
        self.path = directory / "checkpoint_driver"
        compiler = os.environ.get("CC", "cc").split()
        flags = ["-std=c11", "-D_GNU_SOURCE", "-O1", "-Wall", "-Wextra", f"-I{ROOT}"]
        source = str(ROOT / "dev/test/checkpoint_driver.c")
        subprocess.run([*compiler, *flags, source, "-o", str(self.path), "-lm"], check=True)

    def run(self, *arguments: object, text: str = "") -> str:
        words = [str(self.path), *map(str, arguments)]
        return subprocess.run(words, input=text, text=True, stdout=subprocess.PIPE, check=True).stdout


# ---------------------------------------------------------------------------------------------
# config.json


def test_sizes(driver: Driver, work: Path) -> None:
    for name, parameters in PARAMETERS.items():
        directory = work / f"size-{name}"
        directory.mkdir()
        counted = int(driver.run("preset", name, directory / "config.json"))
        config = AutoConfig.from_pretrained(directory)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        theirs = sum(p.numel() for p in model.parameters())
        same = type(config) is Olmo2Config and counted == theirs == parameters
        check(f"{name}: {counted} parameters, as transformers has", same, "" if same else str(theirs))


def small(**changes: object) -> Olmo2Config:
    """Grouped queries, an odd head size, NH * HS != C, and numbers that no float represents exactly."""
    keys = {
        "vocab_size": 97, "hidden_size": 20, "intermediate_size": 28, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6, "max_position_embeddings": 64,
        "rms_norm_eps": 1.3e-6, "initializer_range": 0.0123, "bos_token_id": 3, "eos_token_id": 4,
        "pad_token_id": None, "rope_parameters": {"rope_type": "default", "rope_theta": 123456.7}, **changes,
    }  # fmt: skip
    return Olmo2Config(**keys)


def test_config_round_trip(driver: Driver, work: Path) -> None:
    before, after = work / "before", work / "after"
    after.mkdir()
    small().save_pretrained(before)
    driver.run("config", before / "config.json", after / "config.json")
    a, b = (AutoConfig.from_pretrained(d).to_dict() for d in (before, after))
    a.update(architectures=["Olmo2ForCausalLM"], dtype="float32", _name_or_path=b["_name_or_path"])
    differ = [key for key in a.keys() | b.keys() if a.get(key) != b.get(key)]
    check("transformers' configuration, read and written here, is the same", not differ, str(differ or ""))


# ---------------------------------------------------------------------------------------------
# model directories


def random_bits(model: Olmo2ForCausalLM, dtype: torch.dtype, seed: int) -> Olmo2ForCausalLM:
    """Sets every weight to 16 or 32 random bits, which include subnormals, infinities and NaN."""
    rng = np.random.default_rng(seed)
    model = model.to(dtype)
    integer, size = (torch.int32, 2**31) if dtype == torch.float32 else (torch.int16, 2**15)
    with torch.no_grad():
        for p in model.parameters():
            bits = torch.from_numpy(rng.integers(-size, size, p.shape)).to(integer)
            p.copy_(bits.view(dtype))
    return model


def old_keys(directory: Path) -> None:
    """Rewrites config.json as transformers 4 wrote it."""
    path = directory / "config.json"
    config = json.loads(path.read_text())
    config.update(rope_theta=config.pop("rope_parameters")["rope_theta"], rope_scaling=None)
    config["torch_dtype"] = config.pop("dtype")
    path.write_text(json.dumps(config))


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal floats, where -0 differs from 0. A NaN converted from another type may have another payload."""
    same = (a.view(torch.int32) == b.view(torch.int32)) | (a.isnan() & b.isnan())
    return a.shape == b.shape and bool(same.all())


def test_models(driver: Driver, work: Path) -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for size, keys in (("10GB", "new"), ("4KB", "new"), ("4KB", "old")):
            name = f"{dtype} {size} {keys}".replace("torch.", "")
            there, here = work / f"there {name}", work / f"here {name}"
            model = random_bits(Olmo2ForCausalLM(small()), dtype, 7)
            model.save_pretrained(there, max_shard_size=size)
            if keys == "old":
                old_keys(there)
            files = len(list(there.glob("*.safetensors")))
            driver.run("model", there, here)
            # PyTorch loads what this project wrote, and it equals what PyTorch wrote
            back = AutoModelForCausalLM.from_pretrained(here).state_dict()
            wanted = {key: value.float() for key, value in model.state_dict().items()}
            same = back.keys() == wanted.keys() and all(same_bits(back[k], wanted[k]) for k in wanted)
            numbers = sum(value.numel() for value in wanted.values())
            check(f"{name}: {numbers} numbers in {files} files, converted bit by bit", same)
    metadata = safe_open(here / "model.safetensors", "pt").metadata()
    check("the metadata says that the format is pt", metadata == {"format": "pt"})


def test_tokenizer(driver: Driver, work: Path) -> None:
    if not TOKENIZER.is_file():
        print("skipped: the OLMo 2 tokenizer in a checkpoint (../shared not present)")
        return
    there, here = work / "tokenizer-there", work / "tokenizer-here"
    config = small(vocab_size=100352, bos_token_id=None, eos_token_id=100257, pad_token_id=100277)
    Olmo2ForCausalLM(config).save_pretrained(there)
    driver.run("model", there, here, TOKENIZER)
    ours, reference = AutoTokenizer.from_pretrained(here), Tokenizer.from_file(str(TOKENIZER))
    text = (ROOT / "llmc/json.h").read_text() + "12345 don't\n\n  \r\n naïve 東京 🙂<|endoftext|><|pad|>"
    ids = ours(text)["input_ids"]
    same = ids == reference.encode(text).ids and ours.decode(ids) == text
    check("AutoTokenizer encodes and decodes like the file it was made from", same)
    tokens = (ours.bos_token, ours.eos_token, ours.pad_token, ours.eos_token_id, ours.pad_token_id)
    wanted = (None, "<|endoftext|>", "<|pad|>", 100257, 100277)
    check("AutoTokenizer knows the special tokens", tokens == wanted, str(tokens))
    model = AutoModelForCausalLM.from_pretrained(here)
    ids = (model.generation_config.bos_token_id, model.generation_config.eos_token_id)
    check("the generation config has the model's tokens", ids == (None, 100257), str(ids))
    output = model.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=4, do_sample=False)
    check("generate runs on the unmodified directory", output.shape[1] > 3)


# ---------------------------------------------------------------------------------------------
# damaged files


def damaged(rng: random.Random, good: bytes) -> bytes:
    """One to three changes: a digit of the header or any byte replaced, bytes removed or duplicated."""
    data = bytearray(good)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(data))
        digits = [i for i in range(8, len(data) - 60) if 48 <= data[i] <= 57]
        choice = rng.randrange(6)
        if choice < 3 and digits:
            data[rng.choice(digits)] = rng.choice(b"0123456789")
        elif choice == 3:
            data[at] = rng.randrange(256)
        elif choice == 4:
            del data[at : at + rng.randint(1, 8)]
        else:
            data[at:at] = data[at : at + rng.randint(1, 8)]
    return bytes(data) or b"x"


def their_tensors(path: Path) -> str:
    """What Hugging Face's library reads from a file, in the driver's format, or its error message."""
    try:
        with safe_open(path, "pt") as file:
            words = []
            for name in sorted(file.keys()):
                t = file.get_tensor(name)
                kind = file.get_slice(name).get_dtype()
                values = t.contiguous().view(-1).view(torch.uint8) if t.numel() else torch.empty(0)
                words.append(f"{name} {kind} {t.numel()} {int(values.long().sum())} ")
            return "".join(words) + "."
    except (SafetensorError, UnicodeDecodeError) as error:
        return f"error {error}"


def test_damaged_files(driver: Driver, work: Path) -> None:
    rng = random.Random(3)
    tensors = {
        "a": torch.arange(6.0).view(2, 3), "b": torch.arange(4.0).bfloat16(), "c": torch.tensor(2.5).double(),
        "d": torch.ones(3, 1, dtype=torch.float16), "e": torch.zeros(0, 5),
    }  # fmt: skip
    good = save(tensors, metadata={"format": "pt"})
    paths = []
    for i in range(4000):
        paths.append(work / f"damaged-{i}.safetensors")
        paths[-1].write_bytes(good if i == 0 else damaged(rng, good))
    answers = driver.run("tensors", text="".join(f"{path}\n" for path in paths)).splitlines()
    read, differ = 0, []
    for path, ours in zip(paths, answers):
        theirs = their_tensors(path)
        read += ours == theirs
        if ours != theirs and not (ours == "error" and theirs.startswith("error")):
            differ.append(f"{path.name}: here {ours}, there {theirs}")
    print("\n".join(differ[:5]), end="\n" if differ else "")
    alike = len(answers) == len(paths) and read > 50 and not differ
    check(f"{len(paths)} damaged files: {read} read identically, the others refused by both", alike)


def main() -> int:
    torch.set_num_threads(2)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        driver = Driver(work)
        test_sizes(driver, work)
        test_config_round_trip(driver, work)
        test_models(driver, work)
        test_tokenizer(driver, work)
        test_damaged_files(driver, work)
    print(f"{passed} passed, {failed} failed")
    return 0 if failed == 0 and passed > 0 else 1


if __name__ == "__main__":
    sys.exit(main())
