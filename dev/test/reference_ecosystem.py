"""Round trips with Hugging Face transformers: what ./train_olmo2 writes loads there, what is written there
loads here, and both compute the same.

    python dev/test/reference_ecosystem.py [--binary ./train_olmo2]

Needs the packages of dev/reference/requirements.txt. The last line is "N passed, N failed"; the exit code
is 0 if nothing failed.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    OlmoConfig,
    OlmoForCausalLM,
    PreTrainedModel,
)
from transformers.utils import logging

ROOT = Path(__file__).resolve().parents[2]
SEQUENCE = 48
PROMPTS = ["// ", "static float ", "The gradient of", "for (size_t i = 0;", "é 中 \U0001f600"]
Z = 1e-5

passed = failed = 0


def check(name: str, ok: bool, found: str = "") -> None:
    global passed, failed
    passed, failed = passed + ok, failed + (not ok)
    print(f"{'ok    ' if ok else 'FAILED'} {name}{': ' + found if found else ''}")


def check_close(name: str, reached: float, wanted: float, allowed: float) -> None:
    """Relative to what is wanted; NaN fails."""
    error = abs(reached - wanted) / abs(wanted)
    check(
        name, error <= allowed, f"{reached:.6f}, transformers {wanted:.6f}, relative difference {error:.1e}"
    )


class Program:
    """./train_olmo2."""

    def __init__(self, binary: Path) -> None:
        self.binary = binary

    def attempt(self, *arguments: object) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [str(self.binary), *map(str, arguments)], cwd=ROOT, capture_output=True, check=False
        )

    def run(self, *arguments: object) -> bytes:
        done = self.attempt(*arguments)
        if done.returncode != 0:
            raise RuntimeError(
                f"{' '.join(map(str, arguments))} exited with {done.returncode}: {done.stderr!r}"
            )
        return done.stdout

    def eval(self, directory: Path, data: Path, T: int = SEQUENCE) -> dict[str, float]:
        """What `eval` prints: the first number of each line, by the line's name."""
        text = self.run("eval", "--load", directory, "--data", data, "--seq-len", T, "--z-loss", Z).decode()
        return {
            n.strip(): float(x)
            for n, x in re.findall(r"^([a-z][a-z -]+?)  +(-?[0-9.e+-]+)", text, re.MULTILINE)
        }


def shape_keys(**changes: object) -> dict[str, object]:
    """A small OLMo 2 as keys of config.json: grouped queries, an odd head size, NH * HS != C."""
    return {
        "vocab_size": 640, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3,
        "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 10, "max_position_embeddings": 128,
        "rms_norm_eps": 1e-6, "initializer_range": 0.15, "tie_word_embeddings": False, "pad_token_id": None,
        "bos_token_id": None, "eos_token_id": None, **changes,
    }  # fmt: skip


def random_model(seed: int, theta: float = 500000.0, **changes: object) -> Olmo2ForCausalLM:
    """An OLMo 2 with random weights, norms included."""
    torch.manual_seed(seed)
    rope = {"rope_type": "default", "rope_theta": theta}
    model = Olmo2ForCausalLM(Olmo2Config(rope_parameters=rope, **shape_keys(**changes)))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "norm" in name:
                p.add_(0.3 * torch.randn_like(p))
    return model.eval()


def logprobs(model: PreTrainedModel, tokens: np.ndarray, T: int = SEQUENCE) -> tuple[Tensor, Tensor]:
    """transformers' log p(next token) and logsumexp in every whole sequence of T tokens, both (B, T-1)."""
    batch = torch.from_numpy(tokens[: len(tokens) // T * T].astype(np.int64)).view(-1, T)
    with torch.no_grad():
        logits = model(batch).logits[:, :-1].double()
    lse = logits.logsumexp(-1)
    return logits.gather(-1, batch[:, 1:, None])[..., 0] - lse, lse


def write_tokens(path: Path, tokens: np.ndarray) -> Path:
    tokens.astype("<u4").tofile(path)
    return path


# ---------------------------------------------------------------------------------------------
# from here to transformers


def prepare(program: Program, work: Path) -> tuple[Path, Path, str]:
    """A tokenizer trained on this project's own source; the tokens of a text held out; the text."""
    train, held_out = work / "train.txt", work / "held_out.txt"
    shutil.copy(ROOT / "train_olmo2.c", train)
    held_out.write_text((ROOT / "dev/reference/olmo2.py").read_text() + "".join(PROMPTS))
    tokenizer = work / "tokenizer.json"
    command = [sys.executable, ROOT / "data/train_bpe.py", "--vocab-size", "600", "--out", tokenizer, train]
    subprocess.run(command, check=True, capture_output=True)
    program.run("tokenize", "--tokenizer", tokenizer, "--out", work / "train.tokens", train)
    program.run("tokenize", "--tokenizer", tokenizer, "--out", work / "held_out.tokens", held_out)
    return tokenizer, work / "held_out.tokens", held_out.read_text()


def train(program: Program, work: Path, name: str, eos: int, *flags: object) -> Path:
    """A short run; returns its last checkpoint."""
    config = work / f"{name}.json"
    keys = shape_keys(model_type="olmo2", rope_theta=500000, initializer_range=0.02, eos_token_id=eos)
    config.write_text(json.dumps(keys))
    program.run(
        "train", "--config", config, "--data", work / "train.tokens", "--tokenizer", work / "tokenizer.json",
        "--out", work / name, "--steps", 30, "--batch-size", 8, "--micro-batch-size", 4,
        "--seq-len", SEQUENCE, "--lr", 0.01, "--seed", 3, *flags,
    )  # fmt: skip
    return max((work / name).glob("step-*"))


def test_evaluation(name: str, program: Program, directory: Path, model: PreTrainedModel, data: Path) -> None:
    ours, (theirs, lse) = program.eval(directory, data), logprobs(model, np.fromfile(data, "<u4"))
    check_close(f"{name}: cross-entropy", ours["cross-entropy"], -theirs.mean().item(), 1e-5)
    check_close(f"{name}: perplexity", ours["perplexity"], math.exp(-theirs.mean().item()), 1e-5)
    check_close(f"{name}: z term", ours["z term"], Z * lse.square().mean().item(), 2e-5)


def test_checkpoint(program: Program, checkpoint: Path, data: Path, text: str) -> None:
    model, loading = AutoModelForCausalLM.from_pretrained(checkpoint, output_loading_info=True)
    complaints = {kind: list(keys) for kind, keys in loading.items() if keys}
    check("checkpoint: transformers finds every tensor and no other", not complaints, str(complaints or ""))
    seen = type(model) is Olmo2ForCausalLM and model.dtype == torch.float32
    check("checkpoint: transformers sees an OLMo 2 in F32", seen)
    test_evaluation("checkpoint", program, checkpoint, model.eval(), data)

    tokens = np.fromfile(data, "<u4")
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    document = tokenizer(text)["input_ids"] + [tokenizer.eos_token_id]
    check("checkpoint: AutoTokenizer gives the same tokens, then eos", document == tokens.tolist())
    theirs, _ = logprobs(model, tokens)
    pieces = tokenizer.convert_ids_to_tokens(tokens[: len(theirs) * SEQUENCE].tolist())
    # In a byte-level tokenizer each character of a piece is one byte; eos is none.
    sizes = np.array([0 if piece == tokenizer.eos_token else len(piece) for piece in pieces])
    bits = -theirs.sum().item() / math.log(2) / sizes.reshape(-1, SEQUENCE)[:, 1:].sum()
    check_close("checkpoint: bits per byte", program.eval(checkpoint, data)["bits per byte"], bits, 1e-5)

    moments = load_file(checkpoint / "trainer/optimizer.safetensors")
    weights = load_file(checkpoint / "model.safetensors")
    wanted = {f"{m}.{name}": w.shape for name, w in weights.items() for m in ("exp_avg", "exp_avg_sq")}
    found = {name: t.shape for name, t in moments.items()}
    check("checkpoint: the optimizer has two moments of every tensor", found == wanted)


def test_tokens(
    program: Program, directory: Path, model: PreTrainedModel, tokens: np.ndarray, work: Path
) -> None:
    """Each token's log-probability: what one more token adds to the cross-entropy of a text."""
    count, sums = 40, [0.0]
    for T in range(2, count + 1):
        data = write_tokens(work / "prefix.tokens", tokens[:T])
        sums.append(program.eval(directory, data, T)["cross-entropy"] * (T - 1))
    theirs, _ = logprobs(model, tokens[:count], count)
    error = np.abs(np.diff(sums) + theirs[0].numpy()).max()
    # `eval` prints six digits of a mean over up to 39 tokens.
    check(f"log-probability of each of {count - 1} tokens", error <= 6e-5, f"largest difference {error:.1e}")


def test_generation(name: str, program: Program, directory: Path, model: PreTrainedModel) -> Tensor:
    """The likeliest token each time, after every prompt; returns transformers' last text."""
    tokenizer = AutoTokenizer.from_pretrained(directory)
    beyond = list(range(len(tokenizer), model.config.vocab_size))  # rows that pad the vocabulary
    for prompt in PROMPTS:
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        theirs = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=60, do_sample=False, pad_token_id=0,
            suppress_tokens=beyond, eos_token_id=model.config.eos_token_id,
        )[0]  # fmt: skip
        text = tokenizer.decode(theirs[: -1 if theirs[-1] == model.config.eos_token_id else None])
        ours = program.run(
            "generate", "--load", directory, "--prompt", prompt, "--temperature", 0, "--max-tokens", 60
        )
        written = f"{len(theirs) - ids.shape[1]} greedy tokens after {prompt!r}"
        check(f"{name}: {written}", ours[:-1].decode(errors="replace") == text)
    return theirs


# ---------------------------------------------------------------------------------------------
# from transformers to here


def old_keys(directory: Path) -> None:
    """Rewrites config.json as transformers 4 wrote it for the releases."""
    path = directory / "config.json"
    config = json.loads(path.read_text())
    config["rope_theta"] = config.pop("rope_parameters")["rope_theta"]
    config["rope_scaling"] = None
    config["torch_dtype"] = config.pop("dtype")
    if config["head_dim"] * config["num_attention_heads"] == config["hidden_size"]:
        del config["head_dim"]
    path.write_text(json.dumps(config))


def test_directories(program: Program, work: Path) -> None:
    rng = np.random.default_rng(5)
    data = write_tokens(work / "random.tokens", rng.integers(0, 640, 8 * SEQUENCE))
    in_shards = {"max_shard_size": "60KB"}
    for name, dtype, changes, saving in (
        ("F32", torch.float32, {}, {}),
        ("BF16", torch.bfloat16, {}, {}),
        ("F16", torch.float16, {}, {}),
        ("F32 in shards", torch.float32, {}, in_shards),
        ("BF16 in shards", torch.bfloat16, {}, in_shards),
        ("NKV = NH, HS = C / NH", torch.float32, {"num_key_value_heads": 6, "head_dim": 8}, {}),
        ("theta 10000, eps 1e-5", torch.float32, {"theta": 10000.0, "rms_norm_eps": 1e-5}, {}),
    ):
        directory = work / name.replace("/", "-")
        random_model(11, **changes).to(dtype).save_pretrained(directory, **saving)
        shards = len(list(directory.glob("*.safetensors")))
        check(f"{name}: transformers wrote {shards} files", (shards > 1) == bool(saving))
        for keys in ("new keys", "old keys"):
            if keys == "old keys":
                old_keys(directory)
            model = Olmo2ForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
            test_evaluation(f"{name}, {keys}", program, directory, model, data)


def as_snapshot(directory: Path, hub: Path) -> Path:
    """The same directory as Hugging Face's cache has it: links to files with other names."""
    snapshot = hub / "snapshots" / "main"
    (hub / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for i, file in enumerate(sorted(directory.iterdir())):
        shutil.copy(file, hub / "blobs" / f"{i:040x}")
        (snapshot / file.name).symlink_to(Path("../../blobs") / f"{i:040x}")
    return snapshot


def test_ends(program: Program, work: Path, tokenizer: Path, eos: int) -> None:
    """Several end tokens and sampling settings of a directory: transformers stops where this program stops, and what
    is made from the directory here says the same there."""
    directory = work / "ends"
    model = random_model(31, eos_token_id=eos)
    model.save_pretrained(directory)
    shutil.copy(tokenizer, directory)
    written = test_generation("one end", program, directory, model)
    ends = [eos, int(written[-20])]
    model.generation_config = GenerationConfig(
        bos_token_id=eos, eos_token_id=ends, do_sample=True, temperature=0.6, top_p=0.95, max_new_tokens=77
    )
    model.save_pretrained(directory)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "note": {"a": [1, 2.5, None]}}))
    snapshot = as_snapshot(directory, work / "hub")
    ids = AutoTokenizer.from_pretrained(directory)(PROMPTS[-1], return_tensors="pt")["input_ids"]
    model.generation_config.do_sample = False
    theirs = model.generate(ids, attention_mask=torch.ones_like(ids), pad_token_id=0, max_new_tokens=60)[0]
    ours = program.run(
        "generate", "--load", snapshot, "--prompt", PROMPTS[-1], "--temperature", 0, "--max-tokens", 60
    )
    text = AutoTokenizer.from_pretrained(directory).decode(theirs[:-1])
    stopped = int(theirs[-1]) in ends and len(theirs) - ids.shape[1] < 60
    check("several ends: both stop at the same token", stopped and ours[:-1].decode(errors="replace") == text)

    program.run(
        "train", "--load", snapshot, "--data", work / "train.tokens", "--out", work / "kept", "--steps", 2,
        "--batch-size", 8, "--seq-len", SEQUENCE, "--stop-at", 1,
    )  # fmt: skip
    program.run("train", "--resume", work / "kept")
    program.run("soup", "--out", work / "kept soup", work / "kept", work / "kept")
    wanted = GenerationConfig.from_pretrained(directory).to_dict()
    for made in (*sorted((work / "kept").glob("step-*")), work / "kept soup"):
        found = GenerationConfig.from_pretrained(made).to_dict()
        same = {key for key in wanted | found if wanted.get(key) != found.get(key)} <= {"pad_token_id"}
        check(f"{made.name}: transformers reads the same generation config", same and found["eos_token_id"] == ends)
        loaded = AutoModelForCausalLM.from_pretrained(made)
        check(f"{made.name}: and the members that nobody uses", loaded.config.note == {"a": [1, 2.5, None]})


def test_default_tokens(program: Program, work: Path, data: Path) -> None:
    """Olmo2Config's default ids are those of another vocabulary, and transformers saves them all the same."""
    keys = {key: value for key, value in shape_keys().items() if not key.endswith("token_id")}
    model = Olmo2ForCausalLM(Olmo2Config(**keys)).eval()
    beyond = model.config.eos_token_id is not None and model.config.eos_token_id >= keys["vocab_size"]
    check("the default end is above the vocabulary", beyond, str(model.config.eos_token_id))
    model.save_pretrained(work / "default-tokens")
    test_evaluation("default ids", program, work / "default-tokens", model, data)


def test_refusals(program: Program, work: Path) -> None:
    data = write_tokens(work / "zeros.tokens", np.zeros(64))
    small = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    small.update(num_attention_heads=2, pad_token_id=1, eos_token_id=2)
    for name, model in (
        ("Llama", LlamaForCausalLM(LlamaConfig(**small))),
        ("OLMo 1", OlmoForCausalLM(OlmoConfig(**small))),
    ):
        directory = work / name.replace(" ", "-")
        model.save_pretrained(directory)
        done = program.attempt("eval", "--load", directory, "--data", data, "--seq-len", 8)
        check(f"{name} is refused by its name", done.returncode == 1 and name.encode() in done.stderr)


def test_study(program: Program, work: Path, eos: int) -> None:
    """transformers would compute an ablated model as if it were an OLMo 2: it must not load it."""
    checkpoint = train(program, work, "study", eos, "--ablate", "qk-norm")
    try:
        AutoModelForCausalLM.from_pretrained(checkpoint)
        check("a study model is refused by transformers", False)
    except (ValueError, KeyError, OSError) as error:
        check("a study model is refused by transformers", "olmo2-study" in str(error))


# ---------------------------------------------------------------------------------------------
# there and back


def test_soup(program: Program, work: Path, tokenizer: Path) -> None:
    directories = []
    for seed in (21, 22, 23):
        directories.append(work / f"ingredient-{seed}")
        random_model(seed).save_pretrained(directories[-1])
        shutil.copy(tokenizer, directories[-1])
    program.run("soup", "--out", work / "soup", *directories)
    parts = [load_file(d / "model.safetensors") for d in directories]
    soup = load_file(work / "soup/model.safetensors")
    same_names = soup.keys() == parts[0].keys()
    check("soup: the tensors of its models", same_names)
    mean = {name: np.mean([part[name].astype(np.float64) for part in parts], axis=0) for name in parts[0]}
    equal = same_names and all(np.array_equal(soup[name], mean[name].astype(np.float32)) for name in mean)
    check("soup: NumPy's mean in float64, bit for bit", equal)
    model = AutoModelForCausalLM.from_pretrained(work / "soup").eval()
    test_evaluation("soup", program, work / "soup", model, work / "random.tokens")
    program.run("soup", "--out", work / "same", directories[0], directories[0], directories[0])
    same = load_file(work / "same/model.safetensors")
    equal = all(np.array_equal(same[name], parts[0][name]) for name in parts[0])
    check("soup: a model with itself is itself", equal)


def test_further(program: Program, work: Path, directory: Path, data: Path) -> None:
    """A model of transformers, trained further here, is one of transformers again, and a better one."""
    before = program.eval(directory, data)["cross-entropy"]
    program.run(
        "train", "--load", directory, "--data", work / "train.tokens", "--out", work / "further",
        "--steps", 20, "--batch-size", 8, "--seq-len", SEQUENCE, "--lr", 0.005,
    )  # fmt: skip
    checkpoint = max((work / "further").glob("step-*"))
    model = AutoModelForCausalLM.from_pretrained(checkpoint).eval()
    test_evaluation("trained further", program, checkpoint, model, data)
    after = program.eval(checkpoint, data)["cross-entropy"]
    check("trained further: the loss falls", after < 0.9 * before, f"{before:.3f} to {after:.3f}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Round trips with Hugging Face transformers.")
    parser.add_argument("--binary", type=Path, default=ROOT / "train_olmo2", help="the program to test")
    program = Program(parser.parse_args().binary.resolve())
    torch.set_num_threads(2)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        tokenizer, data, text = prepare(program, work)
        tokens = np.fromfile(data, "<u4")
        eos = int(tokens[-1])

        checkpoint = train(program, work, "run", eos)
        model = AutoModelForCausalLM.from_pretrained(checkpoint).eval()
        test_checkpoint(program, checkpoint, data, text)
        test_tokens(program, checkpoint, model, tokens, work)
        test_generation("checkpoint", program, checkpoint, model)

        test_directories(program, work)
        model = random_model(31)
        for directory in (work / "wild", work / "wild-eos"):
            model.save_pretrained(directory)
            shutil.copy(tokenizer, directory)
            written = test_generation(
                f"random model, eos {model.config.eos_token_id}", program, directory, model
            )
            model.config.eos_token_id = int(written[-20])  # the second time, a text ends early
        test_further(program, work, work / "wild", data)
        test_soup(program, work, tokenizer)
        test_ends(program, work, tokenizer, eos)
        test_default_tokens(program, work, work / "random.tokens")
        test_study(program, work, eos)
        test_refusals(program, work)
    print(f"{passed} passed, {failed} failed")
    return 0 if failed == 0 and passed > 0 else 1


if __name__ == "__main__":
    sys.exit(main())
