#!/usr/bin/env python3
"""Trains a byte-level BPE tokenizer on text and writes it as a Hugging Face tokenizer.json.

    python3 data/train_bpe.py --vocab-size 4096 --out tokenizer.json train.jsonl

Like OLMo 2's own tokenizer, it cuts the text into pieces with the cl100k pattern. Each piece starts as a row
of bytes. Then the most frequent pair of neighbours is merged into one token, again and again. If several
pairs are equally frequent, the lowest left id wins, then the lowest right id, so the same text always gives
the same file. Ids: the 256 bytes, the merges in order, then OLMo 2's special tokens.

Memory depends on the different pieces in the text, not on its length: about 50 bytes for each of their bytes.
English has few different pieces; text without spaces has many. --piece-bytes limits them, and its default
keeps memory below about 2 GB.
"""
from __future__ import annotations

import argparse
import collections
import heapq
import json
import math
import os
import re
import sys
import time
import unicodedata
from pathlib import Path
from typing import Callable, Iterable, Iterator

import numpy as np

from text import DataError, atomic_write, find_files, new_parser, positive, read_documents, run

PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
           r"|\s*[\r\n]+|\s+(?!\S)|\s+")

# In OLMo 2's order: the content, and whether the token is special. Decoding omits special tokens.
ADDED_TOKENS = (
    ("<|extra_id_0|>", False), ("<|endoftext|>", True), ("<|fim_prefix|>", True), ("<|fim_middle|>", True),
    ("<|fim_suffix|>", True), ("|||PHONE_NUMBER|||", False), ("|||EMAIL_ADDRESS|||", False),
    ("|||IP_ADDRESS|||", False), ("<|im_start|>", True), ("<|im_end|>", True),
    *((f"<|extra_id_{i}|>", False) for i in range(1, 11)), ("<|endofprompt|>", True), ("<|pad|>", True),
)


def character_class(wanted: Iterable[int]) -> str:
    """The inside of a [...] that matches exactly these code points."""
    ranges: list[list[int]] = []
    for code in wanted:
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in ranges)


def compile_pattern() -> re.Pattern[str]:
    """PATTERN for Python's re, which has no \\p{L} and whose \\s is not Unicode's White_Space."""
    kinds = [unicodedata.category(chr(code))[0] for code in range(sys.maxunicode + 1)]
    classes = {
        r"\p{L}": character_class(code for code, kind in enumerate(kinds) if kind == "L"),
        r"\p{N}": character_class(code for code, kind in enumerate(kinds) if kind == "N"),
        r"\s": r"\t-\r\x85" + character_class(code for code, kind in enumerate(kinds) if kind == "Z"),
    }
    text = PATTERN.replace(r"\S", r"[^\s]")
    text = re.sub(r"\[[^]]*\]", lambda match: expand(match[0], classes), text)
    return re.compile(re.sub(r"\\p\{[LN]\}|\\s", lambda match: f"[{classes[match[0]]}]", text))


def expand(brackets: str, classes: dict[str, str]) -> str:
    for name, inside in classes.items():
        brackets = brackets.replace(name, inside)
    return brackets


def byte_characters() -> list[str]:
    """The printable character that represents each byte in a tokenizer.json (GPT-2's table)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte if byte in printable else 256 + others.index(byte)) for byte in range(256)]


# ----------------------------------------------------------------------------------------------
# progress

class Progress:
    """A line on standard error that says how far the work is and how long the rest will take.

    A terminal shows one line that is rewritten twice a second; a file or a pipe gets a new line every ten
    seconds. `effort(n)` is proportional to the time that n units take.
    """

    def __init__(self, what: str, total: int | None, unit: str, size: float = 1,
                 effort: Callable[[int], float] = float) -> None:
        self.what, self.total, self.unit, self.size, self.effort = what, total, unit, size, effort
        self.in_place = sys.stderr is not None and sys.stderr.isatty()
        self.pause = 0.5 if self.in_place else 10.0
        self.shown_at, self.shown, self.width = time.monotonic(), 0, 0

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self.width > 0:
            sys.stderr.write("\r" + " " * self.width + "\r")
            sys.stderr.flush()

    def update(self, done: int) -> None:
        now = time.monotonic()
        if now - self.shown_at < self.pause or sys.stderr is None:
            return
        line = self.line(done, now - self.shown_at)
        self.shown_at, self.shown = now, done
        if self.in_place:
            sys.stderr.write("\r" + line.ljust(self.width))
            self.width = max(self.width, len(line))
        else:
            sys.stderr.write(line + "\n")
        sys.stderr.flush()

    def line(self, done: int, seconds: float) -> str:
        """What to show after `done` units, if those since the last line took so many seconds."""
        if self.total is None:
            return f"{self.what}: {done / self.size:,.0f} {self.unit}"
        line = f"{self.what}: {done / self.size:,.0f} of {self.total / self.size:,.0f} {self.unit}"
        if done <= self.shown:
            return line
        pace = (self.effort(done) - self.effort(self.shown)) / seconds
        return f"{line}, {duration((self.effort(self.total) - self.effort(done)) / pace)} left"


def duration(seconds: float) -> str:
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes / 60:.1f} h"


# ----------------------------------------------------------------------------------------------
# pieces

BATCH = 1 << 20  # how many pieces are counted at once, and how many characters are cut into pieces at once

# No piece extends across this boundary: newlines end their piece, and a word never joins them.
CUT = re.compile(r"\n(?=\w)")


def cut(text: str) -> Iterator[str]:
    """Parts of a long text, cut where two pieces meet."""
    start = 0
    while len(text) - start > BATCH and (boundary := CUT.search(text, start + BATCH)):
        yield text[start:boundary.end()]
        start = boundary.end()
    yield text[start:]


class Pieces:
    """The different pieces of a text and how often each occurs.

    Once they have `limit` bytes in total, new pieces are ignored; `left_out` counts their occurrences.
    """

    def __init__(self, limit: int) -> None:
        self.find = compile_pattern().findall
        self.limit, self.bytes = limit, 0
        self.counts: collections.Counter[str] = collections.Counter()
        self.left_out = 0
        self.batch: list[str] = []

    def add(self, text: str) -> None:
        for part in cut(text):
            self.batch += self.find(part)
            if len(self.batch) >= BATCH:
                self.count()

    def count(self) -> None:
        """Counts the pieces that have been found since the last call."""
        for piece, count in collections.Counter(self.batch).items():
            if piece not in self.counts:
                size = len(piece.encode())
                if self.bytes + size > self.limit:
                    self.left_out += count
                    continue
                self.bytes += size
            self.counts[piece] += count
        self.batch.clear()


def count_pieces(documents: Iterable[str], limit: int = 1 << 30) -> Pieces:
    pieces = Pieces(limit)
    for text in documents:
        pieces.add(text)
    pieces.count()
    return pieces


def read_with_progress(files: list[Path]) -> Iterator[str]:
    """The documents of the files. The time left is unknown if a file is packed or is a pipe."""
    sizes = [path.stat().st_size if path.is_file() else 0 for path in files]
    known = all(path.is_file() and path.suffix not in (".gz", ".zst", ".zstd") for path in files)
    with Progress("reading", sum(sizes) if known else None, "MB", 1e6) as progress:
        before = 0
        for path, size in zip(files, sizes):
            done = 0
            for text in read_documents(path):
                yield text
                done += len(text.encode())
                progress.update(before + (min(done, size) if known else done))
            before += size if known else done


# ----------------------------------------------------------------------------------------------
# merges

NONE = -1  # the symbol of a separator, and of the place on the right once a pair is merged


class Trainer:
    """The text as symbols at places, each linked to its neighbours, and the count of every pair.

    Each different piece is stored once; the weight of its places is how often it occurs. To merge (a, b), the
    trainer visits the places of a, or those of b if they are fewer, and updates only the counts of the pairs
    around them. A heap finds the most frequent pair. Its entries may be stale: if a count has fallen, the
    entry is corrected when it comes to the top; if a count rises, it gets a new entry.
    """

    def __init__(self, pieces: dict[str, int], byte_ids: list[int], vocab_size: int) -> None:
        # The byte 0xff never occurs in UTF-8. Here it separates the pieces, and comes first and last.
        text = b"\xff".join([b"", *(piece.encode() for piece in pieces), b""])
        letters = np.frombuffer(text, dtype=np.uint8)
        self.symbols = np.array(byte_ids[:255] + [NONE], dtype=np.int32)[letters]
        self.next = np.arange(1, len(text) + 1, dtype=np.int32)
        self.previous = np.arange(-1, len(text) - 1, dtype=np.int32)
        occurrences = np.fromiter(pieces.values(), dtype=np.int64, count=len(pieces))
        lengths = np.diff(np.flatnonzero(letters == 0xFF))
        self.weights = np.concatenate(([0], np.repeat(occurrences, lengths)))

        order = np.argsort(letters, kind="stable").astype(np.int32)
        ends = np.cumsum(np.bincount(letters, minlength=256))
        self.places = dict(zip(byte_ids, np.split(order, ends[:255])))  # of each symbol, in order

        # A pair is one number. These numbers are ordered like (left, right).
        self.stride = vocab_size
        pairs = letters[:-1] * np.uint16(256) + letters[1:]
        counts = np.bincount(pairs, self.weights[:-1], minlength=65536).reshape(256, 256)
        self.counts = {byte_ids[left] * self.stride + byte_ids[right]: int(counts[left, right])
                       for left, right in np.argwhere(counts[:255, :255]).tolist()}
        self.heap = [(-count, pair) for pair, count in self.counts.items()]
        heapq.heapify(self.heap)

    def most_frequent(self) -> tuple[int, int] | None:
        """The most frequent pair; on a tie, the lowest left, then right id. None if no pair occurs twice."""
        while self.heap:
            count, pair = heapq.heappop(self.heap)
            now = self.counts.get(pair, 0)
            if now == -count and now >= 2:
                return divmod(pair, self.stride)
            if 2 <= now < -count:
                heapq.heappush(self.heap, (-now, pair))
        return None

    def find(self, a: int, b: int) -> tuple[np.ndarray, np.ndarray]:
        """The places of each a that is followed by b, in order, and the places of these b."""
        if len(self.places[a]) <= len(self.places[b]):
            left = self.remaining_places(a)
            right = self.next[left]
            found = self.symbols[right] == b
        else:
            right = self.remaining_places(b)
            left = self.previous[right]
            found = self.symbols[left] == a
        left, right = left[found], right[found]
        if a == b and len(left) > 0:  # a a a a a is (a a) (a a) a: in a run, every second pair is merged
            number = np.arange(len(left))
            begins = np.concatenate(([True], right[:-1] != left[1:]))
            chosen = (number - np.maximum.accumulate(np.where(begins, number, 0))) % 2 == 0
            left, right = left[chosen], right[chosen]
        return left, right

    def remaining_places(self, symbol: int) -> np.ndarray:
        """The places of the symbol, without those where it has been merged into another."""
        places = self.places[symbol]
        self.places[symbol] = places[self.symbols[places] == symbol]
        return self.places[symbol]

    def merge(self, a: int, b: int, new: int) -> None:
        left, right = self.find(a, b)
        before, after, weights = self.previous[left], self.next[right], self.weights[left]

        # (x, a) becomes (x, new), and (b, y) becomes (new, y). Where two merges touch, there is only one pair
        # between them: (b, a) becomes (new, new).
        touch = after[:-1] == left[1:]
        first, last = np.concatenate(([True], ~touch)), np.concatenate((~touch, [True]))
        for x, count in sums(self.symbols[before[first]], weights[first]):
            self.move(count, (x, a), (x, new))
        for y, count in sums(self.symbols[after[last]], weights[last]):
            self.move(count, (b, y), (new, y))
        between = int(weights[1:][touch].sum())
        if between > 0:
            self.move(between, (b, a), (new, new))
        self.counts.pop(a * self.stride + b, None)

        self.symbols[left], self.symbols[right] = new, NONE
        self.next[left], self.previous[after] = after, left
        if new in self.places:  # another merge has spelled the same token
            left = np.sort(np.concatenate((self.places[new], left)))
        self.places[new] = left

    def move(self, count: int, old: tuple[int, int], new: tuple[int, int]) -> None:
        """Turns `count` occurrences of one pair into occurrences of another."""
        pair = old[0] * self.stride + old[1]
        remaining = self.counts.get(pair, 0) - count
        if remaining > 0:
            self.counts[pair] = remaining
        else:
            self.counts.pop(pair, None)
        pair = new[0] * self.stride + new[1]
        total = self.counts[pair] = self.counts.get(pair, 0) + count
        if total >= 2:
            heapq.heappush(self.heap, (-total, pair))


def sums(symbols: np.ndarray, weights: np.ndarray) -> list[tuple[int, int]]:
    """Each different symbol except NONE, with the sum of its weights."""
    order = np.argsort(symbols, kind="stable")
    symbols = symbols[order]
    begins = np.flatnonzero(np.concatenate(([True], symbols[1:] != symbols[:-1])))[:len(symbols)]
    found = list(zip(symbols[begins].tolist(), np.add.reduceat(weights[order], begins).tolist()))
    return found[1:] if found and found[0][0] == NONE else found


def train(pieces: dict[str, int], vocab_size: int) -> tuple[list[str], list[tuple[str, str]]]:
    """The tokens in order of id (without the added ones), and the merges."""
    characters = byte_characters()
    tokens = sorted(characters)
    ids = {token: number for number, token in enumerate(tokens)}
    trainer = Trainer(pieces, [ids[character] for character in characters], vocab_size)
    merges: list[tuple[str, str]] = []
    target = vocab_size - len(ADDED_TOKENS)
    # The n-th most frequent pair occurs about 1/n as often as the first, so n merges take about log(n).
    with Progress("merging", target - len(tokens), "tokens", effort=math.log1p) as progress:
        while len(tokens) < target:
            pair = trainer.most_frequent()
            if pair is None:
                largest = len(tokens) + len(ADDED_TOKENS)
                raise DataError(f"after {len(merges):,} merges no pair of tokens occurs twice in the text: "
                                f"ask for --vocab-size {largest} or less, or give more text")
            left, right = tokens[pair[0]], tokens[pair[1]]
            if left + right not in ids:  # two different merges can spell the same token
                ids[left + right] = len(tokens)
                tokens.append(left + right)
            trainer.merge(*pair, ids[left + right])
            merges.append((left, right))
            progress.update(len(tokens) - 256)
    return tokens, merges


# ----------------------------------------------------------------------------------------------
# the file

def tokenizer_json(tokens: list[str], merges: list[tuple[str, str]]) -> dict[str, object]:
    contents = [content for content, _ in ADDED_TOKENS]
    added = [{"id": number, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
              "normalized": False, "special": special}
             for number, (content, special) in enumerate(ADDED_TOKENS, len(tokens))]
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Removed", "invert": True},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}]},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
                  "end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False,
                  "vocab": {token: number for number, token in enumerate(tokens + contents)},
                  "merges": [f"{left} {right}" for left, right in merges]},
    }


def check_can_write(path: Path) -> None:
    """Reports before the work, not after it, that the file cannot be written."""
    if path.is_dir():
        raise DataError(f"--out {path}: is a folder; name a file, such as {path / 'tokenizer.json'}")
    if path.exists() and not path.is_file():
        raise DataError(f"--out {path}: is not a file, so it cannot be replaced by one: give another name")
    folder = path.absolute().parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise DataError(f"--out {path}: {folder} is not a folder")
    if not os.access(folder, os.W_OK):
        raise DataError(f"--out {path}: {folder} is read-only; choose another folder")


def piece_bytes(text: str) -> int:
    value = float(text)
    if not 1 <= value <= 1e9:
        raise argparse.ArgumentTypeError(f"{text} is not between 1 and 1e9")
    return int(value)


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("files", nargs="+", metavar="FILE",
                        help=".jsonl from data/text.py, or .txt; also .gz, .zst, and folders of them")
    parser.add_argument("--vocab-size", type=positive, required=True, help="number of tokens in total")
    parser.add_argument("--out", type=Path, required=True, help="the tokenizer.json to write")
    parser.add_argument("--piece-bytes", type=piece_bytes, default=32_000_000, metavar="N",
                        help="keep at most N bytes of different pieces; ignore later ones (32e6)")
    args = parser.parse_args()
    smallest = 256 + len(ADDED_TOKENS)
    if args.vocab_size < smallest:
        parser.error(f"--vocab-size {args.vocab_size}: bytes and special tokens are already {smallest}")
    check_can_write(args.out)

    begin = time.monotonic()
    files = find_files(args.files)
    pieces = count_pieces(read_with_progress(files), args.piece_bytes)
    if pieces.left_out > 0:
        print(f"warning: the different pieces exceed --piece-bytes {args.piece_bytes:,}; "
              f"{pieces.left_out:,} occurrences of later ones were ignored", file=sys.stderr)
    tokens, merges = train(pieces.counts, args.vocab_size)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(args.out) as file:
        json.dump(tokenizer_json(tokens, merges), file, ensure_ascii=False)
    print(f"{args.out}: {args.vocab_size:,} tokens from {sum(pieces.counts.values()):,} pieces "
          f"({len(pieces.counts):,} different) in {time.monotonic() - begin:.1f} s")


if __name__ == "__main__":
    run(main)
