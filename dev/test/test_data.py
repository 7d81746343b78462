#!/usr/bin/env python3
"""Tests data/ and scripts/ with the standard library and NumPy: text.py and the downloads here, the rest is in
test_bpe.py, test_primer.py and test_recipes.py.

    python3 dev/test/test_data.py [NAME...]      the tests whose names contain one of the NAMEs

Tests that need matplotlib, zstd, tokenizers or ./train_olmo2 are skipped, with a message, if these are
missing.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.server
import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Iterator

from data_checks import ROOT, check, check_equal, check_error, read_jsonl, run_tests, script

import text

# ----------------------------------------------------------------------------------------------
# text.py: reading and cutting


def test_cut_at_paragraphs(folder: Path) -> None:
    words = random.Random(1)
    for size in (20, 100, 1000):
        book = "".join(
            "".join(words.choice("ab. \n") for _ in range(words.randint(1, 90))) + "\n\n" for _ in range(50)
        )
        pieces = list(text.cut_at_paragraphs(book, size))
        check_equal("".join(pieces), book, f"pieces of {size} characters make up the text")
        check(max(map(len, pieces)) <= size, f"no piece is longer than {size}")
    check_equal(
        list(text.cut_at_paragraphs("one one.\n\ntwo two.\n\nthree", 20)),
        ["one one.\n\ntwo two.\n\n", "three"],
        "a cut is at the last paragraph end that fits",
    )
    check_equal(
        list(text.cut_at_paragraphs("x" * 25, 10)), ["x" * 10, "x" * 10, "x" * 5], "text without any boundary"
    )
    check_equal(list(text.cut_where("aXbYc", re.compile("(X)|Y"))), ["a", "b", "c"], "a pattern with a group")
    check_equal(
        list(text.cut_where("0\nCH 1\nCH 2", re.compile("(?=^CH)", re.M))),
        ["0\n", "CH 1\n", "CH 2"],
        "a pattern that keeps the headings",
    )


def test_read(folder: Path) -> None:
    documents = ["first", "second — with \u00e9 and \u4e00", "third\nline"]
    lines = "".join(json.dumps({"text": document, "id": 1}) + "\n" for document in documents)
    (folder / "a.txt").write_bytes("\ufeffone\r\ntwo".encode())
    (folder / "b.jsonl").write_text(lines, encoding="utf-8")
    with gzip.open(folder / "c.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write(lines)
    check_equal(
        list(text.read_documents(folder / "a.txt")), ["one\r\ntwo"], "no byte order mark"
    )
    check_equal(list(text.read_documents(folder / "b.jsonl")), documents, ".jsonl")
    check_equal(list(text.read_documents(folder / "c.jsonl.gz")), documents, ".jsonl.gz")
    check_equal(
        [path.name for path in text.find_files([str(folder)])], ["a.txt", "b.jsonl", "c.jsonl.gz"], "a folder"
    )
    (folder / "latin.txt").write_bytes("caf\u00e9".encode("latin-1"))
    check_equal(
        list(text.read_documents(folder / "latin.txt", encoding="latin-1")), ["caf\u00e9"], "another encoding"
    )
    (folder / "half.jsonl").write_text('{"text": "a \\ud83d b"}\n')
    check_equal(list(text.read_documents(folder / "half.jsonl")), ["a \ufffd b"], "half of a surrogate pair")

    check_error(lambda: list(text.read_documents(folder / "latin.txt")), "--encoding")
    check_error(lambda: text.find_files([str(folder / "none.txt")]), "no such file")
    (folder / "a.pdf").write_bytes(b"%PDF-1.7")
    check_error(lambda: list(text.read_documents(folder / "a.pdf")), "is a PDF file")
    (folder / "empty").mkdir()
    check_error(lambda: text.find_files([str(folder / "empty")]), "holds no file")
    for content, words in (
        ('{"text": "a"}\n{"text"\n', ":2: the line ends inside its object"),
        ('{"txt": "a"}', 'found only "txt"'),
        ("[1]", "found an array"),
        ('{"text": 5}', 'found a number, expected a string as "text"'),
    ):
        (folder / "bad.jsonl").write_text(content)
        check_error(lambda: list(text.read_documents(folder / "bad.jsonl")), words)
    whole = (folder / "c.jsonl.gz").read_bytes()
    (folder / "cut.jsonl.gz").write_bytes(whole[:-20])
    check_error(lambda: list(text.read_documents(folder / "cut.jsonl.gz")), "cannot be unpacked; the program gzip says")
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 255
    (folder / "damaged.jsonl.gz").write_bytes(damaged)
    check_error(lambda: list(text.read_documents(folder / "damaged.jsonl.gz")), "damaged.jsonl.gz")
    (folder / "mark.jsonl").write_text('\ufeff{"text": "a"}\n', encoding="utf-8")
    check_equal(list(text.read_documents(folder / "mark.jsonl")), ["a"], "a byte order mark")
    (folder / "not.jsonl.gz").write_text("plain text")
    check_error(lambda: list(text.read_documents(folder / "not.jsonl.gz")), "cannot be unpacked; the program gzip says")


def test_read_zst(folder: Path) -> None:
    if shutil.which("zstd") is None:
        print("skipped: .zst files (zstd not installed)")
        return
    (folder / "a.jsonl").write_text(
        "".join(json.dumps({"text": f"document {i}"}) + "\n" for i in range(5000))
    )
    subprocess.run(["zstd", "-q", str(folder / "a.jsonl"), "-o", str(folder / "a.jsonl.zst")], check=True)
    packed = (folder / "a.jsonl.zst").read_bytes()
    check_equal(len(list(text.read_documents(folder / "a.jsonl.zst"))), 5000, ".jsonl.zst")
    (folder / "two.jsonl.zstd").write_bytes(packed + packed)
    check_equal(len(list(text.read_documents(folder / "two.jsonl.zstd"))), 10000, "two frames, and .zstd")
    (folder / "cut.jsonl.zst").write_bytes(packed[:-9])
    check_error(lambda: list(text.read_documents(folder / "cut.jsonl.zst")), "")
    (folder / "cut.txt.zst").write_bytes(packed[:-9])
    check_error(lambda: list(text.read_documents(folder / "cut.txt.zst")), "cannot be unpacked; the program zstd says")
    path, os.environ["PATH"] = os.environ["PATH"], str(folder)
    try:
        check_error(lambda: list(text.read_documents(folder / "a.jsonl.zst")), "needs the program zstd")
    finally:
        os.environ["PATH"] = path


# ----------------------------------------------------------------------------------------------
# text.py: filtering, splitting, writing


def longest_repetition(pieces: list[str], period: int) -> int:
    """The most consecutive repetitions of a span of this length, counted the slow way."""
    most = 0
    for start in range(len(pieces) - period + 1):
        times = 1
        while pieces[start : start + period] == pieces[start + times * period : start + (times + 1) * period]:
            times += 1
        most = max(most, times)
    return most


def test_repeats(folder: Path) -> None:
    for period in range(1, 14):
        phrase = [f"w{i}" for i in range(period)]
        check(
            text.repeats(" ".join(["before"] + phrase * 32 + ["after"])),
            f"32 times {period} words are caught",
        )
        check(not text.repeats(" ".join((phrase * 32)[:-1])), f"32 times {period} words but one are not")
    check(not text.repeats(" ".join([f"w{i}" for i in range(14)] * 40)), "14 words 40 times are not")
    check(not text.repeats(""), "the empty text")
    check(not text.repeats("-" * 500), "a line of dashes is one piece")
    draw = random.Random(2)
    for _ in range(300):
        pieces = [draw.choice("ab") for _ in range(draw.randint(0, 30))]
        expected = any(longest_repetition(pieces, period) >= 4 for period in range(1, 4))
        check_equal(
            text.repeats(" ".join(pieces), max_period=3, max_count=4), expected, f"repeats of {pieces}"
        )


def split(*arguments: Any) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        text.write_split(*arguments)


def test_split(folder: Path) -> None:
    documents = [f"document number {i}" for i in range(2000)]
    sides: dict[str, int] = {}
    more = ["another", "document number 7"]
    for name, extra, seed in (("a", [], 0), ("again", [], 0), ("more", more, 0), ("b", [], 1)):
        split(documents + extra, folder / name, seed, 0.1)
        for side, file in enumerate(("train.jsonl", "val.jsonl")):
            for record in read_jsonl(folder / name / file):
                key = f"{seed} {record['text']}"
                check_equal(sides.setdefault(key, side), side, f"{key} stays on its side")
    train, val = read_jsonl(folder / "a/train.jsonl"), read_jsonl(folder / "a/val.jsonl")
    check_equal(sorted(r["text"] for r in train + val), sorted(documents), "every document is on one side")
    check(150 < len(val) < 250, f"about a tenth is held out, found {len(val)} of 2000")
    for file in ("train.jsonl", "val.jsonl"):
        check_equal(
            (folder / "a" / file).read_bytes(), (folder / "again" / file).read_bytes(), "the same bytes again"
        )
    check(
        (folder / "a/val.jsonl").read_bytes() != (folder / "b/val.jsonl").read_bytes(),
        "another seed, another split",
    )

    split(["one", "two"], folder / "two", 0, 1e-9)
    check_equal(
        [len(read_jsonl(folder / "two" / f)) for f in ("train.jsonl", "val.jsonl")],
        [1, 1],
        "never none held out",
    )
    split(["one", "two"], folder / "zero", 0, 0.0)
    check_equal(
        [len(read_jsonl(folder / "zero" / f)) for f in ("train.jsonl", "val.jsonl")], [2, 0], "unless wanted"
    )
    split(["\n\n", "  ", "x " * 40, "good\n"], folder / "filter", 0, 0.0)
    check_equal(
        read_jsonl(folder / "filter/train.jsonl"),
        [{"text": "good"}],
        "empty and repetitive ones are left out",
    )
    check_error(lambda: split([], folder / "none", 0, 0.1), "no document was left")


def test_atomic(folder: Path) -> None:
    split(["old", "older"], folder, 0, 0.5)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def broken() -> Iterator[str]:
        yield "new"
        raise text.DataError("broken in the middle")

    check_error(lambda: split(broken(), folder, 0, 0.5), "broken in the middle")
    check_equal(
        {path.name: path.read_bytes() for path in folder.iterdir()},
        before,
        "nothing was replaced or left over",
    )
    (folder / "train.jsonl").unlink()
    os.mkfifo(folder / "train.jsonl")
    check_error(lambda: split(["old", "older"], folder, 0, 0.5), "train.jsonl: is not a file")
    check((folder / "train.jsonl").is_fifo(), "a pipe is not replaced")


def test_text_command(folder: Path) -> None:
    (folder / "book.txt").write_bytes(b"".join(b"Paragraph %d of the book.\r\n\r\n" % i for i in range(2000)))
    result = script("data/text.py", folder / "book.txt", "--out", folder / "out", "--chunk", 1000)
    check_equal(result.returncode, 0, result.stderr)
    pieces = [
        record["text"] for name in ("train", "val") for record in read_jsonl(folder / f"out/{name}.jsonl")
    ]
    check(
        len(pieces) > 40 and all("\r" not in piece for piece in pieces), "the line ends of a text are plain"
    )
    check(
        len(pieces) > 40 and all(piece.startswith("Paragraph") for piece in pieces),
        "cut where paragraphs begin",
    )
    result = script(
        "data/text.py", folder / "book.txt", "--out", folder / "w", "--whole", "--val-fraction", 0
    )
    check_equal(len(read_jsonl(folder / "w/train.jsonl")), 1, "--whole")
    result = script("data/text.py", folder / "none.txt", "--out", folder / "n")
    check_equal((result.returncode, result.stderr.count("\n")), (1, 1), "an error is one line")
    check("no such file" in result.stderr, result.stderr)
    for flags in (
        ["--chunk", "0"],
        ["--val-fraction", "1"],
        ["--split-on", "("],
        ["--encoding", "klingon"],
        ["--sha256", "0"],
        ["--whole", "--chunk", "5"],
    ):
        result = script("data/text.py", folder / "book.txt", "--out", folder / "n", *flags)
        check(result.returncode == 2 and flags[0] in result.stderr, f"{flags}: {result.stderr}")


# ----------------------------------------------------------------------------------------------
# downloading, from a server on this machine that misbehaves on demand


class Server(http.server.ThreadingHTTPServer):
    """Serves `files` by path; `breaks` responses end too early; `ranges`: whether Range is supported."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.headers: dict[str, str] = {}
        self.breaks = 0
        self.errors: list[int] = []
        self.ranges = True
        self.requests: list[tuple[str, str | None]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def __enter__(self) -> "Server":
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, asked = self.server, self.headers.get("Range")
        server.requests.append((self.path, asked))
        if server.errors:
            self.send_error(server.errors.pop(0))
            return
        content = server.files.get(self.path)
        if content is None:
            self.send_error(404)
            return
        start = int(asked[6:-1]) if asked and server.ranges else 0
        if asked and server.ranges and start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        part = content[start:]
        self.send_response(206 if asked and server.ranges else 200)
        self.send_header("Content-Length", str(len(part)))
        if asked and server.ranges:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if self.path in server.headers:
            self.send_header("Link", server.headers[self.path])
        self.end_headers()
        if server.breaks > 0:
            server.breaks -= 1
            part = part[: len(part) // 2]
        self.wfile.write(part)

    def log_message(self, *_: object) -> None:
        pass


def test_download(folder: Path) -> None:
    content = random.Random(3).randbytes(300_000)
    sha256 = hashlib.sha256(content).hexdigest()
    text.PAUSE = 0.001
    with contextlib.redirect_stderr(io.StringIO()), Server() as server:
        server.files["/file"] = content
        url = server.url + "/file"

        def fetch(name: str, **known: object) -> Path:
            server.requests.clear()
            text.download(url, folder / name, **known)
            return folder / name

        check_equal(
            fetch("whole", size=len(content), sha256=sha256).read_bytes(), content, "a whole download"
        )
        fetch("whole", sha256=sha256)
        check_equal(server.requests, [], "what is there is not fetched again")

        server.breaks = 3
        check_equal(fetch("broken", sha256=sha256).read_bytes(), content, "three broken connections")
        check_equal(
            [asked for _, asked in server.requests],
            [None, "bytes=150000-", "bytes=225000-", "bytes=262500-"],
            "each goes on where the last one ended",
        )

        (folder / "died.part").write_bytes(content[:1000])
        check_equal(fetch("died", sha256=sha256).read_bytes(), content, "a process that died earlier")
        check_equal(server.requests, [("/file", "bytes=1000-")], "only the rest was asked for")
        (folder / "full.part").write_bytes(content)
        check_equal(
            fetch("full", sha256=sha256).read_bytes(), content, "all was there, only the name was not given"
        )
        (folder / "longer.part").write_bytes(content + b"more")
        check_equal(fetch("longer", sha256=sha256).read_bytes(), content, "a part of another, longer file")

        server.ranges, server.breaks = False, 1
        check_equal(
            fetch("norange", sha256=sha256).read_bytes(), content, "a server without Range begins anew"
        )
        server.ranges, server.errors = True, [503, 500]
        check_equal(fetch("errors", sha256=sha256).read_bytes(), content, "a server that fails twice")

        check_error(lambda: fetch("wrong", sha256="0" * 64), "SHA-256")
        check_error(lambda: fetch("size", size=5), "bytes 300000, expected 5")
        check_equal(
            [name for name in ("wrong", "wrong.part", "size", "size.part") if (folder / name).exists()],
            [],
            "nothing is left of a file that is not the right one",
        )
        (folder / "damaged").write_bytes(b"other")
        check_error(lambda: fetch("damaged", sha256=sha256), "remove it")
        check_equal((folder / "damaged").read_bytes(), b"other", "a file of the user's is left alone")

        server.errors = [503] * 50
        check_error(lambda: fetch("never"), "run the same command again")
        check_equal(len(server.requests), text.TRIES, "it gives up after some tries")
        server.errors = []
        url = server.url + "/absent"
        check_error(lambda: fetch("absent"), "404")
        check_equal(len(server.requests), 1, "404 is not tried again")
        url = "http://127.0.0.1:9/closed"
        check_error(lambda: fetch("closed"), "run the same command again")


def test_text_from_url(folder: Path) -> None:
    with Server() as server:
        server.files["/notes.txt"] = b"".join(b"Note number %d.\n\n" % number for number in range(1000))
        sha256 = hashlib.sha256(server.files["/notes.txt"]).hexdigest()
        result = script("data/text.py", server.url + "/notes.txt?x=1", "--out", folder / "a")
        server.files["/notes.txt?x=1"] = server.files["/notes.txt"]
        check("404" in result.stderr, "the query is part of the address")
        result = script(
            "data/text.py", server.url + "/notes.txt?x=1", "--sha256", sha256, "--out", folder / "a"
        )
        check_equal(result.returncode, 0, result.stderr)
        check((folder / "a/train.jsonl").stat().st_size > 5000, "text from a URL")
        check_equal(
            sha256, hashlib.sha256((folder / "a/downloads/notes.txt").read_bytes()).hexdigest(), "kept"
        )


def test_shakespeare(folder: Path) -> None:
    (folder / "input.txt").write_text("not Shakespeare")
    result = script("data/shakespeare.py", "--from", folder, "--out", folder / "out")
    check(result.returncode == 1 and "SHA-256" in result.stderr, "another text is refused")
    result = script("data/shakespeare.py", "--from", folder / "none", "--out", folder / "out")
    check(result.returncode == 1 and "input.txt or tinyshakespeare.txt" in result.stderr, "no text is there")
    with Server() as server:
        server.files["/input.txt"] = b"not Shakespeare"
        result = script("data/shakespeare.py", "--url", server.url + "/input.txt", "--out", folder / "out")
        check(result.returncode == 1 and "SHA-256" in result.stderr, "a wrong download is refused")
    check(not (folder / "out/train.jsonl").exists(), "nothing was written")
    copy = ROOT.parent / "shared/data/pretrain"
    if not (copy / "tinyshakespeare.txt").is_file():
        print("skipped: the true tiny Shakespeare (../shared not present)")
        return
    result = script("data/shakespeare.py", "--from", copy, "--out", folder / "out")
    check_equal(result.returncode, 0, result.stderr)
    train, val = (read_jsonl(folder / f"out/{name}.jsonl") for name in ("train", "val"))
    check(sum(len(r["text"]) for r in train + val) > 1_100_000 and len(val) > 10, "all of it")


def test_olmo_mix(folder: Path) -> None:
    def shard(source: str, number: int) -> bytes:
        lines = "".join(
            json.dumps({"id": str(i), "text": f"{source} {number} document {i}"}) + "\n" for i in range(200)
        )
        return gzip.compress(lines.encode(), mtime=0)

    with Server() as server:
        api, files = (
            "/api/datasets/allenai/dolmino-mix-1124/tree/main/data",
            "/datasets/allenai/dolmino-mix-1124/resolve/main/",
        )

        def entry(path: str, content: bytes | None) -> dict:
            if content is None:
                return {"type": "directory", "path": path, "oid": "0", "size": 0}
            server.files[files + path] = content
            return {
                "type": "file",
                "path": path,
                "size": len(content),
                "oid": "0",
                "lfs": {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130},
            }

        def listing(path: str, entries: list[dict]) -> None:
            server.files[path] = json.dumps(entries).encode()

        listing(api + "?recursive=false", [entry("data/wiki", None), entry("data/math", None)])
        wiki = [entry(f"data/wiki/wiki-{i:04}.json.gz", shard("wiki", i)) for i in range(4)]
        listing(api + "/wiki?recursive=true", [wiki[1], wiki[0], entry("data/wiki/sub", None)])
        listing(api + "/wiki?recursive=true&cursor=2", wiki[2:] + [entry("data/wiki/README.md", b"read me")])
        server.headers[api + "/wiki?recursive=true"] = (
            f'<{server.url}{api}/wiki?recursive=true&cursor=2>; rel="next"'
        )
        listing(api + "/math?recursive=true", [entry("data/math/a b/set.jsonl.gz", shard("math", 0))])
        listing(api + "/code?recursive=true", [])
        server.files[files + "data/math/a%20b/set.jsonl.gz"] = server.files[
            files + "data/math/a b/set.jsonl.gz"
        ]
        size = wiki[0]["size"]

        def fetch(*flags: object) -> subprocess.CompletedProcess:
            return script(
                "data/olmo_mix.py",
                "--mix",
                "dolmino-mix-1124",
                "--out",
                folder / "out",
                *flags,
                HF_ENDPOINT=server.url,
            )

        check_equal(fetch("--list").stdout, "math\nwiki\n", "--list")
        server.breaks = 0
        result = fetch("--source", "wiki", "--max-bytes", 3.5 * size)
        check_equal(result.returncode, 0, result.stderr)
        check_equal(
            sorted(path.name for path in (folder / "out/downloads/data/wiki").iterdir()),
            [f"wiki-{i:04}.json.gz" for i in range(3)],
            "as many shards as fit, over both pages of the list",
        )
        texts = [
            record["text"] for name in ("train", "val") for record in read_jsonl(folder / f"out/{name}.jsonl")
        ]
        check_equal(
            sorted(texts),
            sorted(f"wiki {n} document {i}" for n in range(3) for i in range(200)),
            "the documents",
        )

        server.requests.clear()
        result = fetch("--source", "wiki", "--source", "math", "--max-bytes", 3.5 * size)
        check_equal(result.returncode, 0, result.stderr)
        fetched = [path for path, _ in server.requests if path.startswith(files)]
        check_equal(fetched, [files + "data/math/a%20b/set.jsonl.gz"], "what is there is not fetched again")

        (folder / "out/downloads/data/wiki/wiki-0001.json.gz").unlink()
        server.files[files + wiki[1]["path"]] = shard("wiki", 9)
        result = fetch("--source", "wiki", "--max-bytes", 3.5 * size)
        check(
            result.returncode == 1 and "expected" in result.stderr, "a shard with another checksum is refused"
        )
        result = fetch("--source", "wiki", "--max-bytes", 10)
        check(result.returncode == 1 and "--max-bytes" in result.stderr, "not even one shard fits")
        listing(api + "/huge?recursive=true", [{**wiki[0], "path": "data/huge/a.json.gz", "size": 10**17}])
        result = fetch("--source", "huge", "--max-bytes", 1e18)
        check(result.returncode == 1 and "are free" in result.stderr, "more than the disk has room for")
        for most in ("nan", "inf", "0", "-1", "x"):
            result = fetch("--source", "wiki", f"--max-bytes={most}")
            check(result.returncode == 2 and "--max-bytes" in result.stderr, f"--max-bytes {most}")
        result = fetch("--from", folder / "none")
        check(result.returncode == 1 and "no such folder" in result.stderr, "--from a missing folder")
        result = fetch("--source", "code")
        check(
            result.returncode == 1 and "math, wiki" in result.stderr,
            "an unknown source: the known ones are named",
        )
        check_equal(fetch().returncode, 2, "no source")
        result = fetch("--from", folder / "out/downloads", "--source", "math")
        check_equal(result.returncode, 0, result.stderr)
        check_equal(
            sum(len(read_jsonl(folder / f"out/{name}.jsonl")) for name in ("train", "val")), 200, "--from"
        )
        check_equal(
            fetch("--from", folder / "out/downloads", "--source", "code").returncode, 1, "--from without any"
        )
    flags = ("--mix", "olmo-mix-1124", "--list")
    result = script("data/olmo_mix.py", *flags, HF_ENDPOINT="http://127.0.0.1:9")
    check(result.returncode == 1 and "cannot be read" in result.stderr, "no network; --list needs no --out")


if __name__ == "__main__":
    run_tests(sys.modules[__name__])
