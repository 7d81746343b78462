#!/usr/bin/env python3
"""Compares data/train_bpe.py with slow counting, OLMo 2's tokenizer.json and the library tokenizers."""

from __future__ import annotations

import collections
import contextlib
import importlib.util
import io
import json
import math
import os
import random
import subprocess
import sys
from pathlib import Path

from data_checks import ROOT, check, check_equal, check_error, run_tests, script

import primer
import train_bpe


def slow_merges(pieces: collections.Counter, count: int) -> list[tuple[str, str]]:
    """The merges, with every pair counted again for each merge."""
    characters = train_bpe.byte_characters()
    order = {character: number for number, character in enumerate(sorted(characters))}
    rows = {piece: [characters[byte] for byte in piece.encode()] for piece in pieces}
    merges = []
    while len(order) < 256 + count:
        pairs: collections.Counter = collections.Counter()
        for piece, row in rows.items():
            for pair in zip(row, row[1:]):
                pairs[pair] += pieces[piece]
        pairs = {pair: count for pair, count in pairs.items() if count >= 2}
        best = min(pairs, key=lambda pair: (-pairs[pair], order[pair[0]], order[pair[1]]), default=None)
        if best is None:
            break
        order.setdefault(best[0] + best[1], len(order))
        merges.append(best)
        for piece, row in rows.items():
            rows[piece] = merge_row(row, best, best[0] + best[1])
    return merges


def merge_row(row: list, pair: tuple, new: object) -> list:
    merged, at = [], 0
    while at < len(row):
        found = tuple(row[at : at + 2]) == pair
        merged.append(new if found else row[at])
        at += 2 if found else 1
    return merged


def sample_text() -> str:
    stories = [primer.write_story(random.Random(i))[0] for i in range(300)]
    return "\n".join(stories) + " naïve café 東京 🙂 ١٢٣ don't DON'T 12345 aaaa aaaaaaa  \n\n\t x\r\n"


def test_pattern(folder: Path) -> None:
    find = train_bpe.compile_pattern().findall
    for sample, expected in (
        (
            "Hello, world! 12345 don't DON'T",
            ["Hello", ",", " world", "!", " ", "123", "45", " don", "'t", " DON", "'T"],
        ),
        (
            "  two  spaces\n\n\tx = 3.14\r\n",
            [" ", " two", " ", " spaces", "\n\n", "\tx", " =", " ", "3", ".", "14", "\r\n"],
        ),
        ("a\n \n b   ", ["a", "\n \n", " b", "   "]),
        ("e\u0301 \u4e00\u4e8c x\u00b2", ["e", "\u0301", " \u4e00\u4e8c", " x", "\u00b2"]),
        ("\x1c\x1f a\u3000b", ["\x1c\x1f", " a", "\u3000b"]),
    ):
        check_equal(find(sample), expected, f"pieces of {sample!r}")
    draw = random.Random(4)
    alphabet = " \t\r\n'aSsTtLldvemRr19.-!\u017f\x1c\x85\xa0\u3000\u00e9\u0301\u4e00\u0663_"
    for _ in range(2000):
        sample = "".join(draw.choice(alphabet) for _ in range(draw.randint(1, 20)))
        check("".join(find(sample)) == sample, f"the pieces of {sample!r} make it up")
    if importlib.util.find_spec("tokenizers") is None:
        print("skipped: the pattern against the tokenizers library (tokenizers not installed)")
        return
    from tokenizers import Regex, pre_tokenizers

    split = pre_tokenizers.Split(Regex(train_bpe.PATTERN), behavior="removed", invert=True)
    for _ in range(20000):
        sample = "".join(draw.choice(alphabet) for _ in range(draw.randint(1, 20)))
        expected = [piece for piece, _ in split.pre_tokenize_str(sample)]
        check(find(sample) == expected, f"pieces of {sample!r}: {find(sample)}, expected {expected}")


def test_bpe(folder: Path) -> None:
    sample = sample_text()
    pieces = train_bpe.count_pieces([sample]).counts
    tokens, merges = train_bpe.train(pieces, 600)
    check_equal(len(tokens), 600 - len(train_bpe.ADDED_TOKENS), "number of tokens")
    check_equal(merges, slow_merges(pieces, len(tokens) - 256), "the merges of a slow count")
    check_equal(train_bpe.train(pieces, 600), (tokens, merges), "the same again")
    few = train_bpe.count_pieces(["ab ab"]).counts
    check_error(lambda: train_bpe.train(few, 500), "--vocab-size 279 or less")

    (folder / "a.txt").write_text(sample, encoding="utf-8")
    result = script(
        "data/train_bpe.py", "--vocab-size", 600, "--out", folder / "tokenizer.json", folder / "a.txt"
    )
    check_equal(result.returncode, 0, result.stderr)
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocab = content["model"]["vocab"]
    check_equal(sorted(vocab.values()), list(range(600)), "the ids")
    check_equal(
        [vocab[c] for c in ("!", "~", "\u0120", "\u010a")], [0, 93, 220, 198], "bytes as in OLMo 2's file"
    )
    check_equal(
        [t["content"] for t in content["added_tokens"] if t["special"]],
        [
            "<|endoftext|>",
            "<|fim_prefix|>",
            "<|fim_middle|>",
            "<|fim_suffix|>",
            "<|im_start|>",
            "<|im_end|>",
            "<|endofprompt|>",
            "<|pad|>",
        ],
        "the special tokens",
    )
    check_equal([vocab[t["content"]] for t in content["added_tokens"]], list(range(578, 600)), "come last")
    olmo = ROOT.parent / "shared/data/tokenizer/dolma2_tokenizer.json"
    if olmo.is_file():
        theirs = json.loads(olmo.read_text(encoding="utf-8"))
        for key in theirs:
            if key not in ("added_tokens", "model"):
                check_equal(content[key], theirs[key], f"{key} as in OLMo 2's file")
        check_equal(list(content), list(theirs), "the members of the file")
        check_equal(list(content["model"]), list(theirs["model"]), "the members of the model")
        shift = 100278 - 600
        check_equal(
            [{**t, "id": t["id"] + shift} for t in content["added_tokens"]],
            theirs["added_tokens"],
            "added tokens",
        )
    else:
        print("skipped: the file against OLMo 2's own (../shared not present)")


def test_merges(folder: Path) -> None:
    """Texts of every kind against the slow count: few and many letters, runs, no spaces, several weights."""
    draw = random.Random(6)
    han = "".join(chr(0x4E00 + min(draw.randrange(400), draw.randrange(400))) for _ in range(1000))
    texts = [
        han,
        "".join(draw.choice("あいうえおかきくけこ、漢字") for _ in range(800)),
        bytes(draw.randrange(256) for _ in range(800)).decode("latin-1"),
        (ROOT / "data/primer.py").read_text(encoding="utf-8")[:3000],
        "a" * 1000 + " " + "ab" * 300 + " " + "aaa " * 50 + "xyzxyxyz" * 40,
    ]
    for alphabet in ("a", "ab", "abc", "ab ", "aab", "é🙂 "):
        for _ in range(15):
            texts.append("".join(draw.choice(alphabet) for _ in range(draw.randint(20, 300))))
    for sample in texts:
        pieces = train_bpe.count_pieces([sample, sample]).counts
        for piece in pieces:
            pieces[piece] += draw.randrange(3)
        count = 80 if len(sample) > 500 else 12
        expected = slow_merges(pieces, count)
        tokens = len({left + right for left, right in expected})
        if tokens < count:  # the text holds fewer pairs
            count, expected = tokens, slow_merges(pieces, tokens)
        _, merges = train_bpe.train(pieces, 256 + count + len(train_bpe.ADDED_TOKENS))
        check_equal(merges, expected, f"the merges of {sample[:30]!r}")


def test_same_spelling(folder: Path) -> None:
    """Two merges may spell the same token. Here every token of a length has one of two ids."""
    draw = random.Random(7)
    for _ in range(150):
        pieces = {
            "".join(draw.choice("aab") for _ in range(draw.randint(2, 100))): draw.randint(1, 4)
            for _ in range(draw.randint(1, 4))
        }
        rows = {piece: list(piece.encode()) for piece in pieces}
        trainer = train_bpe.Trainer(pieces, list(range(256)), 1000)
        lengths = dict.fromkeys(range(256), 1)
        for _ in range(30):
            pairs: collections.Counter = collections.Counter()
            for piece, row in rows.items():
                for pair in zip(row, row[1:]):
                    pairs[pair] += pieces[piece]
            counts = {divmod(pair, 1000): count for pair, count in trainer.counts.items()}
            check(counts == pairs, f"the counts of pairs in {pieces}")
            best = min(pairs, key=lambda pair: (-pairs[pair], pair), default=(0, 0))
            found = trainer.most_frequent()
            check_equal(found, best if pairs[best] >= 2 else None, f"the pair to merge in {pieces}")
            if found is None or found != best:
                break
            length = lengths[best[0]] + lengths[best[1]]
            new = 256 + 2 * length + draw.randrange(2)
            lengths[new] = length
            trainer.merge(*best, new)
            rows = {piece: merge_row(row, best, new) for piece, row in rows.items()}


def test_pieces(folder: Path) -> None:
    draw = random.Random(8)
    find = train_bpe.compile_pattern().findall
    size = train_bpe.BATCH
    try:
        for train_bpe.BATCH in (1, 2, 7, size):
            documents = ["".join(draw.choice("ab1.!' \n\r\té") for _ in range(400)) for _ in range(20)]
            expected = collections.Counter(piece for document in documents for piece in find(document))
            found = train_bpe.count_pieces(documents)
            check_equal(found.counts, expected, f"the pieces of long texts, {train_bpe.BATCH} at once")
            check_equal(found.left_out, 0, "all of them")
    finally:
        train_bpe.BATCH = size
    found = train_bpe.count_pieces(["aa bb aa é aa aa", "ddd aa bb"], limit=6)
    check_equal(found.bytes, 5, "the bytes of the pieces kept")
    check_equal(dict(found.counts), {"aa": 1, " bb": 2}, "known pieces are counted, new ones ignored")
    check_equal(found.left_out, 6, "the number of those that were ignored")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress(folder: Path) -> None:
    check_equal(train_bpe.duration(1.4), "1 s", "seconds")
    check_equal(train_bpe.duration(150), "2 min", "minutes")
    check_equal(train_bpe.duration(3 * 3600), "3.0 h", "hours")
    progress = train_bpe.Progress("reading", 4_000_000, "MB", 1e6)
    check_equal(progress.line(0, 5.0), "reading: 0 of 4 MB", "nothing is done yet")
    check_equal(progress.line(1_000_000, 5.0), "reading: 1 of 4 MB, 15 s left", "a quarter is done")
    check_equal(
        train_bpe.Progress("reading", None, "MB", 1e6).line(3_000_000, 5.0), "reading: 3 MB", "unknown size"
    )
    progress = train_bpe.Progress("merging", 9999, "tokens", effort=lambda n: math.log10(1 + n))
    check_equal(progress.line(99, 5.0), "merging: 99 of 9,999 tokens, 5 s left", "later merges are faster")
    for stream, expected in (
        (io.StringIO(), "a: 1 of 2 b, 0 s left\na: 1 of 2 b\n"),
        (Terminal(), "\ra: 1 of 2 b, 0 s left\ra: 1 of 2 b          \r                     \r"),
    ):
        with contextlib.redirect_stderr(stream), train_bpe.Progress("a", 2, "b") as progress:
            progress.update(0)  # too early to say anything
            progress.pause = 0.0
            progress.update(1)
            progress.update(1)
        check_equal(stream.getvalue(), expected, "what is written")


def test_bpe_errors(folder: Path) -> None:
    (folder / "a.txt").write_text("some text, some more text", encoding="utf-8")
    (folder / "one.txt").write_text("a")
    os.mkfifo(folder / "pipe")
    before = sorted(path.name for path in folder.iterdir())
    good = {"--vocab-size": "279", "--out": "t.json", "": "a.txt"}
    for change, code, words in (
        ({"--vocab-size": "277"}, 2, "already 278"),
        ({"--vocab-size": "x"}, 2, "--vocab-size"),
        ({"--piece-bytes": "0"}, 2, "--piece-bytes"),
        ({"--piece-bytes": "nan"}, 2, "--piece-bytes"),
        ({"--vocab-size": "100000000"}, 1, "no pair of tokens occurs twice"),
        ({"": "one.txt"}, 1, "--vocab-size 278 or less"),
        ({"": "none.txt"}, 1, "none.txt: there is no such file"),
        ({"--out": "."}, 1, "is a folder"),
        ({"--out": "pipe"}, 1, "pipe: is not a file"),
        ({"--out": "a.txt/t.json"}, 1, "a.txt is not a folder"),
        ({"--out": "/proc/none/t.json"}, 1, "/proc"),
    ):
        flags = []
        for flag, value in {**good, **change}.items():
            path = folder / value if flag in ("--out", "") else value
            flags += [flag, path] if flag else [path]
        result = script("data/train_bpe.py", *flags)
        check_equal(result.returncode, code, f"{change}: {result.stderr}")
        check(words in result.stderr and "Traceback" not in result.stderr, f"{change}: {result.stderr}")
    check_equal(sorted(path.name for path in folder.iterdir()), before, "nothing was written")
    flags = ["--vocab-size", "279", "--piece-bytes", "9", "--out", folder / "new/t.json", folder / "a.txt"]
    result = script("data/train_bpe.py", *flags)
    check_equal(result.returncode, 0, result.stderr)
    check("exceed --piece-bytes 9" in result.stderr, "a warning that pieces were ignored")
    check((folder / "new/t.json").is_file(), "the folder of --out is made")


def test_bpe_in_use(folder: Path) -> None:
    """Uses the tokenizer trained here in this project's program and in the tokenizers library."""
    sample = sample_text()
    (folder / "a.txt").write_bytes(sample.encode())
    script("data/train_bpe.py", "--vocab-size", 600, "--out", folder / "tokenizer.json", folder / "a.txt")
    program = ROOT / "train_olmo2"
    if program.is_file():
        for command in (
            ["tokenize", "--tokenizer", "tokenizer.json", "--out", "a.npy", "a.txt"],
            ["detokenize", "--tokenizer", "tokenizer.json", "a.npy"],
        ):
            result = subprocess.run([str(program), *command], cwd=folder, capture_output=True)
            check_equal(result.returncode, 0, result.stderr.decode(errors="replace"))
        check(sample.encode() in result.stdout, "tokenize and detokenize with train_olmo2")
    else:
        print("skipped: the trained tokenizer in train_olmo2 (train_olmo2 not built)")
    if importlib.util.find_spec("tokenizers") is None:
        print("skipped: the merges against the tokenizers library (tokenizers not installed)")
        return
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    ours = Tokenizer.from_file(str(folder / "tokenizer.json"))
    check_equal(ours.decode(ours.encode(sample).ids), sample, "the library reads the file")
    check_equal(ours.encode("a<|endoftext|>b").ids[1], 579, "<|endoftext|>")
    draw = random.Random(9)
    han = [chr(0x4E00 + i) for i in range(900)]
    words = ["".join(draw.choices(han, k=draw.randint(1, 3))) for _ in range(2000)]
    chinese = "".join(draw.choice(words[: draw.choice((20, 200, 2000))]) for _ in range(9000))
    for name, sample in (("stories", sample), ("text without spaces", chinese)):
        theirs = Tokenizer(models.BPE())
        split = pre_tokenizers.Split(Regex(train_bpe.PATTERN), behavior="removed", invert=True)
        theirs.pre_tokenizer = pre_tokenizers.Sequence(
            [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
        alphabet = train_bpe.byte_characters()
        theirs.train_from_iterator(
            [sample],
            trainers.BpeTrainer(
                vocab_size=578, min_frequency=2, show_progress=False, initial_alphabet=alphabet
            ),
        )
        expected = [tuple(merge) for merge in json.loads(theirs.to_str())["model"]["merges"]]
        _, merges = train_bpe.train(train_bpe.count_pieces([sample]).counts, 600)
        check_equal(merges, expected, f"the merges of {name}")


if __name__ == "__main__":
    run_tests(sys.modules[__name__])
