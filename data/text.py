#!/usr/bin/env python3
"""Turns text files into documents, split into training and validation: train.jsonl and val.jsonl in --out.

    python3 data/text.py book.txt notes/ more.jsonl.gz https://host/corpus.jsonl.zst --out runs/mine/data

Every line of a .jsonl or .json file is a document (the member "text"). Any other text is cut at paragraph
ends into documents of at most --chunk characters, so even a few long books give a validation set. --whole
keeps a file as one document, and --split-on cuts where a pattern matches. The line ends \\r\\n and \\r of
such a text become \\n.

The split is by document: its side depends only on its text and the seed, so copies stay together and new
files move nothing. The other scripts of this folder use the functions below to download and to write.
"""
from __future__ import annotations

import argparse
import codecs
import contextlib
import hashlib
import http.client
import json
import os
import re
import shutil
import socket
import ssl
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Callable, Iterable, Iterator, TextIO

import numpy as np

from documents import DataError, find_files, read_documents, whole


def run(main: Callable[[], None]) -> None:
    """Calls main() and turns a DataError or a failing disk into one line and exit status 1."""
    try:
        main()
    except (DataError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("error: interrupted; nothing was replaced; the same command resumes a download")


# ----------------------------------------------------------------------------------------------
# cutting

def cut_where(text: str, separator: re.Pattern[str]) -> Iterator[str]:
    """The pieces between the matches of a pattern."""
    start = 0
    for match in separator.finditer(text):
        yield text[start:match.start()]
        start = match.end()
    yield text[start:]


def cut_at_paragraphs(text: str, size: int) -> Iterator[str]:
    """Pieces of at most `size` characters that end at a paragraph, else at a line, a sentence or a word."""
    start = 0
    while len(text) - start > size:
        end = start + size
        for boundary in ("\n\n", "\n", ". ", " "):
            found = text.rfind(boundary, start + size // 2, end)
            if found >= 0:
                end = found + len(boundary)
                break
        yield text[start:end]
        start = end
    yield text[start:]


# ----------------------------------------------------------------------------------------------
# the repetition filter

PIECE = re.compile(r"\w+|[^\w\s]+")


def repeats(text: str, max_period: int = 13, max_count: int = 32) -> bool:
    """True if some span of 1 to 13 pieces (words, runs of punctuation) comes 32 times or more in a row.

    A span of p pieces comes n times in a row exactly when (n - 1) p consecutive pieces each equal the one p
    positions earlier.
    """
    numbers: dict[str, int] = {}
    pieces = np.array([numbers.setdefault(piece, len(numbers)) for piece in PIECE.findall(text)])
    for period in range(1, max_period + 1):
        needed = (max_count - 1) * period
        if len(pieces) - period < needed:
            return False
        breaks = np.flatnonzero(pieces[period:] != pieces[:-period])
        runs = np.diff(breaks, prepend=-1, append=len(pieces) - period) - 1
        if runs.max() >= needed:
            return True
    return False


# ----------------------------------------------------------------------------------------------
# writing

@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[TextIO]:
    """A text file that gets its name only when it is complete and on the disk. It replaces files only: in the
    place of /dev/null there would be a file for everybody."""
    if path.exists() and not path.is_file():
        raise DataError(f"{path}: is not a file, so it cannot be replaced by one: give another name")
    temporary = path.with_name(f".{path.name}.writing")
    try:
        with open(temporary, "w", encoding="utf-8", newline="\n") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def rank(text: str, seed: int) -> float:
    """A number in [0, 1) that depends only on the text and the seed."""
    digest = hashlib.blake2b(f"{seed}\n{text}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") / 2.0**64


class Splitter:
    """Writes records to train.jsonl and val.jsonl; the text's rank decides which.

    The training record of the lowest rank waits until the end: if no other record has gone to the validation
    set, it does.
    """

    def __init__(self, train: TextIO, val: TextIO, seed: int, val_fraction: float) -> None:
        self.files = (train, val)
        self.seed, self.val_fraction = seed, val_fraction
        self.counts, self.characters = [0, 0], [0, 0]
        self.waiting: tuple[float, str, int] | None = None

    def write(self, line: str, size: int, side: int) -> None:
        self.files[side].write(line + "\n")
        self.counts[side] += 1
        self.characters[side] += size

    def add(self, record: dict[str, object], text: str) -> None:
        line = json.dumps(record, ensure_ascii=False)
        position = rank(text, self.seed)
        if position < self.val_fraction:
            self.write(line, len(text), 1)
            return
        entry = (position, line, len(text))
        if self.waiting is None:
            self.waiting = entry
            return
        self.waiting, entry = min(self.waiting, entry), max(self.waiting, entry)
        self.write(entry[1], entry[2], 0)

    def finish(self) -> None:
        if self.waiting is not None:
            needed = self.counts[1] == 0 and self.counts[0] > 0 and self.val_fraction > 0
            self.write(self.waiting[1], self.waiting[2], 1 if needed else 0)
        if self.counts[0] == 0:
            raise DataError("no document was left for training; give more text, or a smaller --val-fraction")

    def report(self, out: Path) -> None:
        for name, count, size in zip(("train", "val"), self.counts, self.characters):
            noun = "document" if count == 1 else "documents"
            print(f"{out / name}.jsonl: {count:,} {noun}, {size / 1e6:,.2f} million characters")


def write_split(documents: Iterable[str], out: Path, seed: int, val_fraction: float) -> None:
    """Writes the documents, except empty and repetitive ones, to out/train.jsonl and out/val.jsonl."""
    empty = repetitive = 0
    out.mkdir(parents=True, exist_ok=True)
    with atomic_write(out / "train.jsonl") as train, atomic_write(out / "val.jsonl") as val:
        splitter = Splitter(train, val, seed, val_fraction)
        for text in documents:
            text = text.strip("\r\n")
            if not text.strip():
                empty += 1
            elif repeats(text):
                repetitive += 1
            else:
                splitter.add({"text": text}, text)
        splitter.finish()
    splitter.report(out)
    print(f"left out: {empty:,} empty, {repetitive:,} with an n-gram repeated 32 times or more")


# ----------------------------------------------------------------------------------------------
# downloading

TRIES = 5  # in a row that bring no new byte
PAUSE = 1.0  # seconds before the second try; each further pause is twice as long
FATAL = (400, 401, 403, 404, 410)  # answers that another try will not change
BROKEN = (urllib.error.URLError, http.client.HTTPException, ConnectionError, socket.timeout, ssl.SSLError)


def download(url: str, path: Path, size: int | None = None, sha256: str | None = None) -> None:
    """Fetches a URL to a file, unless the file is there already.

    What was received is kept in PATH.part, and another try, or a second call, resumes there. The size and the
    SHA-256 are checked where they are known.
    """
    if path.exists():
        verify(path, size, sha256)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    failures = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            expected = receive(url, part, before)
            received = part.stat().st_size
            if expected is not None and received < expected:
                raise ConnectionError(f"the connection ended after {received:,} of {expected:,} bytes")
            break
        except urllib.error.HTTPError as error:
            if error.code in FATAL:
                raise DataError(f"{url}: the server answered {error.code} {error.reason}") from None
            problem: Exception = error
        except BROKEN as error:
            problem = error
        failures = 1 if part.exists() and part.stat().st_size > before else failures + 1
        if failures >= TRIES:
            raise DataError(f"{url}: {problem}; run the same command again to resume from {part}")
        print(f"{path.name}: {problem}; trying again", file=sys.stderr)
        time.sleep(PAUSE * 2.0 ** (failures - 1))
    verify(part, size, sha256)
    os.replace(part, path)


def receive(url: str, part: Path, start: int) -> int | None:
    """Appends what the server has from byte `start` on to `part`; returns the full size, None if unknown."""
    request = urllib.request.Request(url, headers={"User-Agent": "olmo2-data", "Accept-Encoding": "identity"})
    if start > 0:
        request.add_header("Range", f"bytes={start}-")
    try:
        response = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # 416: nothing lies beyond `start`, so all is here or the file has changed
            raise
        total = re.fullmatch(r"bytes \*/(\d+)", error.headers.get("Content-Range", ""))
        if total is None or int(total[1]) != start:
            part.unlink()
            raise ConnectionError("the part received earlier is of another file; starting over") from None
        return start
    with response:
        length = response.headers.get("Content-Length")
        if start > 0 and response.status == 206:
            served = response.headers.get("Content-Range", "")
            if not served.startswith(f"bytes {start}-"):
                raise ConnectionError(f'the server sent "{served}" when asked for the bytes from {start} on')
        else:
            start = 0  # the server does not know Range: it sends the whole file
        with open(part, "ab" if start > 0 else "wb") as file:
            shutil.copyfileobj(response, file, 1 << 20)
    return None if length is None else start + int(length)


def verify(path: Path, size: int | None = None, sha256: str | None = None) -> None:
    """Raises if the file is not the expected one. A .part, which cannot be mended, is removed."""
    found_size = path.stat().st_size
    found_sha256 = file_sha256(path) if sha256 is not None else None
    for what, found, expected in (("bytes", found_size, size), ("SHA-256", found_sha256, sha256)):
        if expected is not None and found != expected:
            if path.suffix == ".part":
                path.unlink()
            raise DataError(f"{path}: has {what} {found}, expected {expected}; "
                            "the file is damaged or another one: remove it and try again")


def file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


# ----------------------------------------------------------------------------------------------
# the command line

def new_parser(description: str) -> argparse.ArgumentParser:
    formatter = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(description=description, formatter_class=formatter)


def fraction(text: str) -> float:
    value = float(text)
    if not 0.0 <= value < 1.0:
        raise argparse.ArgumentTypeError(f"{text} is not in [0, 1)")
    return value


def positive(text: str) -> int:
    value = int(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text, re.MULTILINE)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text} is not a regular expression: {error}") from None


def encoding(text: str) -> str:
    try:
        return codecs.lookup(text).name
    except LookupError:
        raise argparse.ArgumentTypeError(f"{text} is not an encoding that Python knows") from None


def add_split_flags(parser: argparse.ArgumentParser, val_fraction: float = 0.05) -> None:
    parser.add_argument("--out", type=Path, required=True, help="folder for train.jsonl and val.jsonl")
    parser.add_argument("--val-fraction", type=fraction, default=val_fraction,
                        help="share held out for validation (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the split (default %(default)s)")


def add_cut_flags(parser: argparse.ArgumentParser) -> None:
    cutting = parser.add_mutually_exclusive_group()
    cutting.add_argument("--chunk", type=positive, default=8000, metavar="N",
                         help="cut texts at paragraph ends, N characters at most (%(default)s)")
    cutting.add_argument("--whole", action="store_true", help="each text file is one document")
    cutting.add_argument("--split-on", type=pattern, metavar="REGEX",
                         help=r"cut texts where REGEX matches, for example '\n{4,}' or '(?=^CHAPTER)'")
    parser.add_argument("--encoding", type=encoding, default="utf-8", help="of the files (%(default)s)")


def cutter(args: argparse.Namespace) -> Callable[[str], Iterable[str]]:
    if args.whole:
        cut = whole
    elif args.split_on is not None:
        def cut(text: str) -> Iterable[str]:
            return cut_where(text, args.split_on)
    else:
        def cut(text: str) -> Iterable[str]:
            return cut_at_paragraphs(text, args.chunk)
    return lambda text: cut(text.replace("\r\n", "\n").replace("\r", "\n"))


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("sources", nargs="+", metavar="SOURCE",
                        help="a text or .jsonl file (also .gz, .zst), a folder of them, a URL, or - "
                             "for standard input")
    parser.add_argument("--sha256", help="the checksum that the download of the one URL must have")
    add_cut_flags(parser)
    add_split_flags(parser)
    args = parser.parse_args()
    urls = [source for source in args.sources if "://" in source]
    if args.sha256 is not None and len(urls) != 1:
        parser.error(f"--sha256 is for exactly one URL, found {len(urls)}")

    sources = []
    for source in args.sources:
        if "://" in source:
            name = Path(urllib.parse.urlparse(source).path).name or "download.txt"
            target = args.out / "downloads" / name
            download(source, target, sha256=args.sha256)
            source = str(target)
        sources.append(source)
    cut = cutter(args)
    files = find_files(sources)
    documents = (text for path in files for text in read_documents(path, cut, args.encoding))
    write_split(documents, args.out, args.seed, args.val_fraction)


if __name__ == "__main__":
    run(main)
