#!/usr/bin/env python3
"""Trains a byte-level BPE tokenizer on text and writes it as a Hugging Face tokenizer.json.

    python3 data/train_bpe.py --vocab-size 4096 --out tokenizer.json train.jsonl

The file is built like OLMo 2's own: the pattern of cl100k cuts the text into pieces, each piece is a row of
bytes, and merges join the pair of neighbours that is most frequent in the training text, one pair at a time.
Ids: the 256 bytes, the merges in order, then OLMo 2's special tokens. The same text gives the same file.
"""
from __future__ import annotations

import collections
import heapq
import json
import re
import sys
import time
import unicodedata
from pathlib import Path
from typing import Iterable

from text import DataError, atomic_write, find_files, new_parser, positive, read_documents, run

PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
           r"|\s*[\r\n]+|\s+(?!\S)|\s+")

# content, and whether decoding leaves it out ("special"), in OLMo 2's order
ADDED_TOKENS = (
    ("<|extra_id_0|>", False), ("<|endoftext|>", True), ("<|fim_prefix|>", True), ("<|fim_middle|>", True),
    ("<|fim_suffix|>", True), ("|||PHONE_NUMBER|||", False), ("|||EMAIL_ADDRESS|||", False),
    ("|||IP_ADDRESS|||", False), ("<|im_start|>", True), ("<|im_end|>", True),
    *((f"<|extra_id_{i}|>", False) for i in range(1, 11)), ("<|endofprompt|>", True), ("<|pad|>", True),
)

Pair = tuple  # of two ids


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
    """The printable character that stands for each byte in a tokenizer.json (GPT-2's table)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte if byte in printable else 256 + others.index(byte)) for byte in range(256)]


def count_pieces(documents: Iterable[str]) -> collections.Counter[str]:
    find = compile_pattern().findall
    counts: collections.Counter[str] = collections.Counter()
    for text in documents:
        counts.update(find(text))
    return counts


class Trainer:
    """The pieces as rows of ids, with the count of every pair of neighbours and the rows that hold it.

    The heap's entries may be stale: a count that has fallen since is corrected when the entry comes to the
    top, and a new pair gets a new entry. Among equal counts the pair of lower ids wins.
    """

    def __init__(self, rows: list[list[int]], counts: list[int]) -> None:
        self.rows, self.counts = rows, counts
        self.pair_counts: collections.Counter[Pair] = collections.Counter()
        self.rows_with: dict[Pair, set[int]] = collections.defaultdict(set)
        for number, row in enumerate(rows):
            for pair in zip(row, row[1:]):
                self.pair_counts[pair] += counts[number]
                self.rows_with[pair].add(number)
        self.heap = [(-count, pair) for pair, count in self.pair_counts.items()]
        heapq.heapify(self.heap)

    def most_frequent(self) -> Pair | None:
        """The most frequent pair that occurs twice at least, or None."""
        while self.heap:
            count, pair = heapq.heappop(self.heap)
            now = self.pair_counts[pair]
            if -count == now:
                return pair if now >= 2 else None
            if now > 0 and now < -count:
                heapq.heappush(self.heap, (-now, pair))
        return None

    def merge(self, pair: Pair, new: int) -> None:
        changed: set[Pair] = set()
        for number in self.rows_with.pop(pair):
            row, count = self.rows[number], self.counts[number]
            merged = merge_row(row, pair, new)
            if len(merged) == len(row):
                continue  # the pair has left this row since it was noted
            for old in zip(row, row[1:]):
                self.pair_counts[old] -= count
            for fresh in zip(merged, merged[1:]):
                self.pair_counts[fresh] += count
                if new in fresh:
                    self.rows_with[fresh].add(number)
                    changed.add(fresh)
            self.rows[number] = merged
        del self.pair_counts[pair]
        for fresh in changed:
            heapq.heappush(self.heap, (-self.pair_counts[fresh], fresh))


def merge_row(row: list[int], pair: Pair, new: int) -> list[int]:
    merged, at = [], 0
    while at < len(row):
        if row[at] == pair[0] and at + 1 < len(row) and row[at + 1] == pair[1]:
            merged.append(new)
            at += 2
        else:
            merged.append(row[at])
            at += 1
    return merged


def train(pieces: collections.Counter[str], vocab_size: int) -> tuple[list[str], list[tuple[str, str]]]:
    """The tokens in order of id (without the added ones), and the merges."""
    characters = byte_characters()
    tokens = sorted(characters)
    ids = {token: number for number, token in enumerate(tokens)}
    byte_ids = [ids[character] for character in characters]
    ordered = sorted(piece for piece in pieces if len(piece.encode()) > 1)
    trainer = Trainer([[byte_ids[byte] for byte in piece.encode()] for piece in ordered],
                      [pieces[piece] for piece in ordered])
    merges: list[tuple[str, str]] = []
    target = vocab_size - len(ADDED_TOKENS)
    while len(tokens) < target:
        pair = trainer.most_frequent()
        if pair is None:
            largest = len(tokens) + len(ADDED_TOKENS)
            raise DataError(f"the text holds no pair of tokens twice after {len(merges):,} merges: "
                            f"ask for --vocab-size {largest} or less, or give more text")
        left, right = tokens[pair[0]], tokens[pair[1]]
        if left + right not in ids:  # two different merges can spell the same token
            ids[left + right] = len(tokens)
            tokens.append(left + right)
        trainer.merge(pair, ids[left + right])
        merges.append((left, right))
    return tokens, merges


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


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("files", nargs="+", help=".jsonl from data/text.py or data/primer.py, or .txt")
    parser.add_argument("--vocab-size", type=positive, required=True, help="number of tokens, all in all")
    parser.add_argument("--out", type=Path, required=True, help="the tokenizer.json to write")
    args = parser.parse_args()
    smallest = 256 + len(ADDED_TOKENS)
    if args.vocab_size < smallest:
        parser.error(f"--vocab-size {args.vocab_size}: the bytes and the special tokens alone are {smallest}")

    begin = time.monotonic()
    files = find_files(args.files)
    pieces = count_pieces(text for path in files for text in read_documents(path))
    tokens, merges = train(pieces, args.vocab_size)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(args.out) as file:
        json.dump(tokenizer_json(tokens, merges), file, ensure_ascii=False)
    print(f"{args.out}: {args.vocab_size:,} tokens from {sum(pieces.values()):,} pieces "
          f"({len(pieces):,} different) in {time.monotonic() - begin:.1f} s")


if __name__ == "__main__":
    run(main)
