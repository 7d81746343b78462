#!/usr/bin/env python3
"""Milliseconds for `tokenizers` or tiktoken to encode a file of documents on one thread, the same work as
dev/bench/bench_tokenizer.c. --ids writes the ids of all documents as raw uint32. turns.py describes the
output, and --steps 0."""

from __future__ import annotations

import argparse
import json
import os
from array import array
from typing import Callable, Iterable

from turns import take_turns

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"


def by_tokenizers(file: str, documents: list[str]) -> tuple[Callable[[], object], Iterable[list[int]]]:
    """Returns the function to time, and one that gives the ids of each document."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(file)

    def encode() -> object:
        return tokenizer.encode_batch_fast(documents, add_special_tokens=False)

    return encode, (encoding.ids for encoding in tokenizer.encode_batch_fast(documents, False))


def by_tiktoken(file: str, documents: list[str]) -> tuple[Callable[[], object], Iterable[list[int]]]:
    """The ids of merges have the order of the merges, so they are tiktoken's ranks."""
    import tiktoken

    with open(file, encoding="utf-8") as source:
        description = json.load(source)
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    bytes_of = {chr(byte): byte for byte in printable}
    bytes_of.update({chr(256 + i): byte for i, byte in enumerate(others)})
    added = {token["content"] for token in description["added_tokens"]}
    vocabulary = description["model"]["vocab"].items()
    ranks = {bytes(bytes_of[c] for c in token): i for token, i in vocabulary if token not in added}
    pattern = description["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
    encoding = tiktoken.Encoding("own", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})

    def encode() -> object:
        return [encoding.encode_ordinary(document) for document in documents]

    return encode, map(encoding.encode_ordinary, documents)


LIBRARIES = {"tokenizers": by_tokenizers, "tiktoken": by_tiktoken}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("library", choices=LIBRARIES)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--text", required=True, help="documents, each followed by a zero byte")
    parser.add_argument("--ids", help="file for the ids")
    parser.add_argument("--steps", type=int, default=5)
    a = parser.parse_args()
    with open(a.text, "rb") as file:
        text = file.read()
    documents = text.decode().removesuffix("\0").split("\0")
    encode, ids = LIBRARIES[a.library](a.tokenizer, documents)
    tokens = array("I", (token for row in ids for token in row))
    if a.ids:
        with open(a.ids, "wb") as out:
            tokens.tofile(out)

    def step() -> str:
        encode()
        return ""

    take_turns(a.steps, step, bytes=len(text), tokens=len(tokens))


if __name__ == "__main__":
    main()
