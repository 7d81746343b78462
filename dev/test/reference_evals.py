"""Evaluation requests scored by ./train_olmo2, by transformers and, where it is installed, by lm-eval: the same
sums of log-probabilities, the same choices.

    python dev/test/reference_evals.py                    the first documents of each task; under a minute
    python dev/test/reference_evals.py --all [--readme]   every document; writes the table in README.md

The models have OLMo 2's tokenizer: one is random, the other was trained here for a moment. The requests are
those of ../shared/data/evals; those of MMLU are made by data/evals.py. lm-eval is 0.4.13: its
HFLM.loglikelihood is given the same contexts and continuations. Its own tasks differ from OLMES's in two ways:
other prompts, and acc_norm, which divides by the characters without the leading space.
"""

from __future__ import annotations

import argparse
import copy
import gzip
import json
import logging as python_logging
import math
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import DynamicCache, Olmo2Config, Olmo2ForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

try:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM
except ImportError:
    HFLM = None

ROOT = Path(__file__).resolve().parents[2]
BINARY = ROOT / "train_olmo2"
SHARED = ROOT.parent / "shared/data"
TOKENIZER = SHARED / "tokenizer/dolma2_tokenizer.json"
UNCONDITIONAL = 1_000_000
FEW = 2  # documents of each task, without --all
VOCABULARY = 100352
ALLOWED = 1e-4  # of a sum of log p, relative
TIE = 2e-6  # values that are nearer have the same sums within fp32 rounding: some 16 units in the last place

# task: its request files, below ../shared/data/evals
FILES = {
    "arc_challenge": ["arc_challenge_test_rc_5shot", "olmes/arc_challenge_test_mc_5shot"],
    "arc_easy": ["arc_easy_test_rc_5shot", "olmes/arc_easy_test_mc_5shot"],
    "hellaswag": ["hellaswag_rc_5shot", "olmes/hellaswag_mc_5shot"],
    "winogrande": ["winogrande_val_rc_5shot", "olmes/winogrande_val_mc_5shot"],
    "piqa": ["olmes/piqa_rc_5shot", "olmes/piqa_mc_5shot"],
    "mmlu": ["mmlu_rc", "mmlu_mc"],
}
ACCURACIES = ("acc_raw", "acc_per_token", "acc_per_char", "acc_uncond")

passed = failed = 0


def check(name: str, ok: bool, found: str = "") -> None:
    global passed, failed
    passed, failed = passed + ok, failed + (not ok)
    print(f"{'ok    ' if ok else 'FAILED'} {name}{': ' + found if found else ''}", flush=True)


def run(*command: object) -> str:
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))} exited with {done.returncode}: {done.stderr}")
    return done.stdout


# ----------------------------------------------------------------------------------------------
# requests


@dataclass
class Document:
    """The requests of a question: (context, continuation), then the same behind a context that says nothing."""

    key: tuple[str, int]
    choices: list[tuple[str, str]] = field(default_factory=list)
    unconditional: list[tuple[str, str]] = field(default_factory=list)

    def pairs(self) -> list[tuple[str, str]]:
        return self.choices + self.unconditional


def read_requests(path: Path, most: int | None) -> tuple[list[Document], list[str]]:
    """The first documents of each task_name, and their lines."""
    documents: dict[tuple[str, int], Document] = {}
    counts: Counter[str] = Counter()
    lines = []
    for line in gzip.open(path, "rt", encoding="utf-8"):
        r = json.loads(line)
        key = r["task_name"], r["doc_id"] % UNCONDITIONAL
        if key not in documents:
            counts[key[0]] += 1
            documents[key] = Document(key)
        if most is not None and counts[key[0]] > most and not documents[key].choices:
            continue
        conditional = r["doc_id"] < UNCONDITIONAL
        kind = documents[key].choices if conditional else documents[key].unconditional
        kind.append((r["request"]["context"], r["request"]["continuation"]))
        lines.append(line)
    return [d for d in documents.values() if d.choices], lines


def write_requests(work: Path, most: int | None) -> dict[str, list[Document]]:
    """Request files in `work`, by name, and what is in them."""
    evals = ["data/evals.py", "--task", "mmlu", "--from", SHARED / "evals/mmlu_validation.jsonl",
             "--dev", SHARED / "evals/mmlu_dev.jsonl", "--out", work]  # fmt: skip
    run(sys.executable, *evals)
    files = {}
    for task, stems in FILES.items():
        for stem in stems:
            source = (work if task == "mmlu" else SHARED / "evals") / f"{stem}.jsonl.gz"
            few = 1 if task == "mmlu" and most is not None else most  # of each subject
            documents, lines = read_requests(source, few)
            if task == "mmlu" and most is not None:
                documents = documents[:: len(documents) // most]
                kept = {d.key for d in documents}
                lines = [s for s in lines if (json.loads(s)["task_name"], json.loads(s)["doc_id"]) in kept]
            name = Path(stem).name.removesuffix("_5shot")
            (work / f"{name}.few.jsonl").write_text("".join(lines), encoding="utf-8")
            files[name] = documents
    return files


# ----------------------------------------------------------------------------------------------
# models


def model_directory(directory: Path) -> Path:
    """transformers' own config of a small OLMo 2 with the whole vocabulary, and the tokenizer."""
    directory.mkdir()
    shutil.copy(TOKENIZER, directory / "tokenizer.json")
    return directory


def random_model(directory: Path) -> Path:
    """Weights that make the choices differ clearly: the logits have a standard deviation of about 3."""
    torch.manual_seed(1)
    config = Olmo2Config(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=4096, rms_norm_eps=1e-6,
        initializer_range=0.6, pad_token_id=100277, bos_token_id=None, eos_token_id=100257,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
    )  # fmt: skip
    Olmo2ForCausalLM(config).save_pretrained(model_directory(directory))
    return directory


def trained_model(work: Path, steps: int) -> Path:
    config = json.loads((work / "random/config.json").read_text())
    config.update(hidden_size=48, intermediate_size=96, num_key_value_heads=4, initializer_range=0.02)
    (work / "config.json").write_text(json.dumps(config))
    books = [SHARED / "pretrain" / f"{name}.txt" for name in ("grimm", "alice", "oz")]
    run(BINARY, "tokenize", "--tokenizer", TOKENIZER, "--out", work / "books.npy", *books)
    run(BINARY, "train", "--config", work / "config.json", "--data", work / "books.npy",
        "--tokenizer", TOKENIZER, "--seq-len", 128, "--batch-size", 4, "--steps", steps, "--lr", "3e-3",
        "--warmup-steps", steps // 10, "--threads", 2, "--out", work / "run")  # fmt: skip
    return sorted((work / "run").glob("step-*"))[-1]


# ----------------------------------------------------------------------------------------------
# the three programs


def ours(model: Path, work: Path, files: dict[str, list[Document]]) -> dict[str, list[dict]]:
    """What eval writes about each document of each file."""
    out = work / f"{model.name}.out.jsonl"
    paths = [work / f"{name}.few.jsonl" for name in files]
    run(BINARY, "eval", "--load", model, "--requests", *paths, "--out", out, "--threads", 2)
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()][1:]
    check(f"{model.name}: documents", len(rows) == sum(map(len, files.values())), f"{len(rows)}")
    found, at = {}, 0
    for name, documents in files.items():
        found[name] = rows[at : at + len(documents)]
        at += len(documents)
    return found


class Transformers:
    """Scores continuations, computing what contexts begin with only once."""

    def __init__(self, directory: Path) -> None:
        self.model = Olmo2ForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
        self.tokenizer = Tokenizer.from_file(str(TOKENIZER))
        self.cache, self.cached = DynamicCache(config=self.model.config), []
        self.last = None  # hidden state of the last cached token

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def ids(self, context: str, continuation: str) -> tuple[list[int], int]:
        """The tokens of both together, and how many are the context's."""
        return self.encode(context + continuation), len(self.encode(context))

    def forward(self, tokens: list[list[int]], cache: DynamicCache) -> torch.Tensor:
        width = max(map(len, tokens))  # the ends are filled up: what is behind a token does not matter to it
        batch = torch.tensor([row + [0] * (width - len(row)) for row in tokens])
        return self.model.model(batch, past_key_values=cache, use_cache=True).last_hidden_state

    def hold(self, context: list[int]) -> None:
        """Makes the cache hold the context."""
        if context == self.cached:
            return
        common = 0
        while common < min(len(context) - 1, len(self.cached)) and context[common] == self.cached[common]:
            common += 1
        if common == 0:
            self.cache = DynamicCache(config=self.model.config)
        elif common < len(self.cached):
            self.cache.crop(common - len(self.cached))  # how many to remove, as a negative number
        self.last = self.forward([context[common:]], self.cache)[0, -1]
        self.cached = context

    def score_group(self, context: list[int], continuations: list[list[int]]) -> list[float]:
        self.hold(context)
        hidden = [self.last[None]] * len(continuations)
        if max(map(len, continuations)) > 1:
            cache = copy.deepcopy(self.cache)
            cache.batch_repeat_interleave(len(continuations))
            more = self.forward([c[:-1] for c in continuations], cache)
            hidden = [torch.cat([h, more[i, : len(c) - 1]])
                      for i, (h, c) in enumerate(zip(hidden, continuations))]  # fmt: skip
        sums = []
        for rows, tokens in zip(hidden, continuations):
            logprobs = torch.log_softmax(self.model.lm_head(rows), -1)
            sums.append(float(logprobs.gather(1, torch.tensor(tokens)[:, None]).double().sum()))
        return sums

    @torch.no_grad()
    def score(self, pairs: list[tuple[str, str]]) -> list[float]:
        """log p of each continuation. Neighbours with the same context tokens are computed together."""
        sums: list[float] = []
        group: list[list[int]] = []
        context: list[int] = []
        for pair in pairs:
            ids, cut = self.ids(*pair)
            if group and ids[:cut] != context:
                sums += self.score_group(context, group)
                group = []
            context = ids[:cut]
            group.append(ids[cut:])
        return sums + self.score_group(context, group)

    @torch.no_grad()
    def score_plainly(self, pair: tuple[str, str]) -> float:
        """The same by one forward over everything."""
        ids, cut = self.ids(*pair)
        logprobs = torch.log_softmax(self.model(torch.tensor([ids])).logits[0, :-1], -1)
        return float(logprobs.gather(1, torch.tensor(ids[1:])[:, None]).double()[cut - 1 :].sum())


def lm_eval_model(hf: Olmo2ForCausalLM) -> HFLM | None:
    """None if lm-eval is not installed."""
    if HFLM is None:
        return None
    python_logging.getLogger("lm_eval").setLevel(python_logging.ERROR)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(TOKENIZER), eos_token="<|endoftext|>", pad_token="<|pad|>"
    )
    return HFLM(pretrained=hf, tokenizer=tokenizer, batch_size=8, max_length=4096, device="cpu")


def lm_eval_scores(lm: HFLM, pairs: list[tuple[str, str]]) -> list[float]:
    requests = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
    return [score for score, _ in lm.loglikelihood(requests, disable_tqdm=True)]


# ----------------------------------------------------------------------------------------------
# comparing


def values(document: Document, sums: list[float], tokens: list[int]) -> dict[str, list[float]]:
    """What each accuracy takes the largest of, by its definition in OLMES."""
    n = len(document.choices)
    raw = sums[:n]
    characters = [len(continuation) for _, continuation in document.choices]
    found = {"acc_raw": raw,
             "acc_per_token": [s / t for s, t in zip(raw, tokens)],
             "acc_per_char": [s / c for s, c in zip(raw, characters)]}  # fmt: skip
    if document.unconditional:
        found["acc_uncond"] = [s - u for s, u in zip(raw, sums[n:])]
    return found


@dataclass
class Comparison:
    pairs: int = 0
    documents: int = 0
    worst: float = 0.0  # largest relative difference of a sum
    choices: int = 0  # compared: one for each document and accuracy
    other: int = 0  # that differ
    ties: list[str] = field(default_factory=list)  # those that rounding decided

    def add(self, document: Document, row: dict, theirs: list[float]) -> None:
        mine = row["logprobs"] + row.get("unconditional", [])
        if len(mine) != len(theirs) or (row["task"], row["doc_id"]) != document.key:
            raise RuntimeError(f"{document.key}: eval wrote about {row['task']} {row['doc_id']}")
        self.documents += 1
        self.pairs += len(mine)
        for a, b in zip(mine, theirs):
            difference = abs(a - b) / abs(b) if math.isfinite(a) and math.isfinite(b) else math.inf
            self.worst = max(self.worst, difference)
        own, other = (values(document, sums, row["tokens"]) for sums in (mine, theirs))
        for name, numbers in other.items():
            self.choices += 1
            choice = row["choice"][name]
            best = int(np.argmax(numbers))
            if choice != int(np.argmax(own[name])):
                self.other += 1  # not what eval's own sums say
            if choice == best:
                continue
            # of what the value is computed from: for acc_uncond the sum of two magnitudes
            n = len(document.choices)
            sizes = values(
                document, [-abs(s) for s in theirs[:n]] + list(map(abs, theirs[n:])), row["tokens"]
            )
            gap = (numbers[best] - numbers[choice]) / max(map(abs, sizes[name]))
            where = (
                f"{document.key[0]} {document.key[1]}, {name}: {choice} and {best}, relative gap {gap:.1e}"
            )
            if gap <= TIE:
                self.ties.append(where)
            else:
                self.other += 1
                print(f"       {where}")


def compare(
    name: str, model: Path, work: Path, files: dict[str, list[Document]], every: bool
) -> dict[str, Comparison]:
    theirs = Transformers(model)
    lm = lm_eval_model(theirs.model)
    found: dict[str, Comparison] = {}
    written = ours(model, work, files)
    for file, documents in files.items():
        rows = written[file]
        # the unconditional ones last, so the examples stay in the cache
        conditional = [pair for d in documents for pair in d.choices]
        sums = theirs.score(conditional + [pair for d in documents for pair in d.unconditional])
        at, behind = 0, len(conditional)
        comparison = found[file] = Comparison()
        for document, row in zip(documents, rows):
            n, u = len(document.choices), len(document.unconditional)
            comparison.add(document, row, sums[at : at + n] + sums[behind : behind + u])
            at, behind = at + n, behind + u
        check(f"{name}, {file}: sums of log p", comparison.worst <= ALLOWED,
              f"{comparison.pairs} pairs, relative difference {comparison.worst:.1e}")  # fmt: skip
        check(f"{name}, {file}: choices", comparison.other == 0,
              f"{comparison.other} of {comparison.choices} differ, {len(comparison.ties)} ties")  # fmt: skip
        for tie in comparison.ties:
            print(f"       tie within rounding: {tie}")
        plain = theirs.score_plainly(conditional[-1])
        shared = sums[len(conditional) - 1]
        check(f"{name}, {file}: the cache changes nothing", abs(plain - shared) <= 1e-5 * abs(plain))

        some = documents if not every else documents[:: len(documents) // FEW]
        pairs = [pair for d in some for pair in d.pairs()]
        if lm is None:
            continue
        scores = lm_eval_scores(lm, pairs)
        known = {d.key: row["logprobs"] + row.get("unconditional", []) for d, row in zip(documents, rows)}
        mine = [s for d in some for s in known[d.key]]
        worst = max(abs(a - b) / abs(b) for a, b in zip(mine, scores))
        check(
            f"{name}, {file}: lm-eval",
            worst <= ALLOWED,
            f"{len(pairs)} pairs, relative difference {worst:.1e}",
        )
    return found


def check_tokens_apart() -> None:
    """Tokenising context and continuation together or apart: no pair of any file differs."""
    run("make", "build/requests_driver")
    files = sorted((SHARED / "evals").rglob("*shot.jsonl.gz"))
    found = re.findall(r"(\d+) pairs, (\d+) differ", run("build/requests_driver", TOKENIZER, *files))
    pairs, differing = (sum(int(row[i]) for row in found) for i in (0, 1))
    check("tokens of context and continuation together or apart", differing == 0 and len(found) == len(files) > 0,
          f"{differing} of {pairs} pairs differ, in {len(files)} files")  # fmt: skip


# ----------------------------------------------------------------------------------------------
# the table


def table(results: dict[str, dict[str, Comparison]]) -> str:
    lines = ["| requests | documents | pairs | largest relative difference: random model, trained model "
             "| choices that differ | ties |", "| --- | --- | --- | --- | --- | --- |"]  # fmt: skip
    for task, stems in FILES.items():
        names = [Path(stem).name.removesuffix("_5shot") for stem in stems]
        per_model = [[found[name] for name in names] for found in results.values()]
        everything = sum(per_model, [])
        worst = ", ".join(f"{max(c.worst for c in group):.1e}" for group in per_model)
        lines.append(
            f"| {task}, RC and MC | {sum(c.documents for c in per_model[0]):,} "
            f"| {sum(c.pairs for c in per_model[0]):,} | {worst} "
            f"| {sum(c.other for c in everything)} of {sum(c.choices for c in everything):,} "
            f"| {sum(len(c.ties) for c in everything)} |"
        )
    return "\n".join(lines) + "\n"


def write_readme(text: str) -> None:
    """Puts the table between its marks."""
    begin, end = "<!-- evals table: begin -->\n", "<!-- evals table: end -->"
    path = ROOT / "README.md"
    before, _, rest = path.read_text(encoding="utf-8").partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise RuntimeError(f"{path}: the marks of the table are missing")
    path.write_text(before + begin + text + end + after, encoding="utf-8")


def main() -> None:
    global BINARY
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--all", action="store_true", help="every document")
    parser.add_argument(
        "--readme", action="store_true", help="write the table between its marks in README.md"
    )
    parser.add_argument("--binary", type=Path, default=BINARY)
    args = parser.parse_args()
    BINARY = args.binary.resolve()
    logging.set_verbosity_error()
    torch.set_num_threads(2)
    if not (TOKENIZER.is_file() and (SHARED / "evals").is_dir()):
        print("skipped: evaluation requests (../shared not present)\n1 passed, 0 failed")
        return
    check_tokens_apart()
    with tempfile.TemporaryDirectory(prefix="olmo2_evals_") as folder:
        work = Path(folder)
        files = write_requests(work, None if args.all else FEW)
        models = {"random": random_model(work / "random")}
        models["trained"] = trained_model(work, 60 if args.all else 20)
        results = {name: compare(name, model, work, files, args.all) for name, model in models.items()}
    if HFLM is None:
        print("skipped: lm-eval (not installed; pip install lm-eval==0.4.13)")
    print(table(results))
    if args.readme and failed == 0:
        write_readme(table(results))
    print(f"{passed} passed, {failed} failed")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
