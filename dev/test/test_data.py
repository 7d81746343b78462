#!/usr/bin/env python3
"""Tests data/ and scripts/ with the standard library and NumPy.

    python3 dev/test/test_data.py [NAME...]      the tests whose names contain one of the NAMEs

Tests that need matplotlib, zstd, tokenizers or ./train_olmo2 are skipped, with a message, if these are
missing.
"""

from __future__ import annotations

import collections
import contextlib
import gzip
import hashlib
import http.server
import importlib.util
import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import traceback
from pathlib import Path
from typing import Any, Callable, Iterator

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "data"))

import primer
import text
import train_bpe

passed = failed = 0


def check(condition: bool, what: str) -> None:
    global passed, failed
    if condition:
        passed += 1
    else:
        failed += 1
        lines = [f"{f.name}:{f.lineno}" for f in traceback.extract_stack() if f.name.startswith("test_")]
        print(f"FAILED {lines[-1]}: {what}")


def check_equal(found: object, expected: object, what: str) -> None:
    check(found == expected, f"{what}: found {found!r}, expected {expected!r}")


def check_error(call: Callable[[], object], words: str) -> None:
    """The call must raise a DataError that contains these words."""
    message = None
    try:
        call()
    except text.DataError as error:
        message = str(error)
    check(message is not None and words in message, f"expected an error with {words!r}, found: {message}")


def script(*arguments: object, **environment: str) -> subprocess.CompletedProcess:
    """Runs a script of the project and returns its result."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, **environment}
    )


def read_jsonl(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


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
    """Serves `files` by path; `breaks` responses end too early, and `ranges` says whether Range is supported.
    """

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
    result = script(
        "data/olmo_mix.py",
        "--mix",
        "olmo-mix-1124",
        "--list",
        "--out",
        folder,
        HF_ENDPOINT="http://127.0.0.1:9",
    )
    check(result.returncode == 1 and "cannot be read" in result.stderr, "no network")


# ----------------------------------------------------------------------------------------------
# train_bpe.py


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
        best = min(pairs, key=lambda pair: (-pairs[pair], order[pair[0]], order[pair[1]]))
        if pairs[best] < 2:
            break
        order.setdefault(best[0] + best[1], len(order))
        merges.append(best)
        for piece, row in rows.items():
            rows[piece] = train_bpe.merge_row(row, best, best[0] + best[1])
    return merges


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
    pieces = train_bpe.count_pieces([sample])
    tokens, merges = train_bpe.train(pieces, 600)
    check_equal(len(tokens), 600 - len(train_bpe.ADDED_TOKENS), "number of tokens")
    check_equal(merges, slow_merges(pieces, len(tokens) - 256), "the merges of a slow count")
    check_equal(train_bpe.train(pieces, 600), (tokens, merges), "the same again")
    check_error(lambda: train_bpe.train(train_bpe.count_pieces(["ab ab"]), 500), "--vocab-size 279 or less")

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
    for flags in (["--vocab-size", "277"], ["--vocab-size", "x"]):
        result = script("data/train_bpe.py", *flags, "--out", folder / "no.json", folder / "a.txt")
        check(result.returncode == 2 and not (folder / "no.json").exists(), f"{flags}: {result.stderr}")


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
    theirs = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(train_bpe.PATTERN), behavior="removed", invert=True)
    theirs.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    theirs.train_from_iterator(
        [sample],
        trainers.BpeTrainer(
            vocab_size=578, min_frequency=2, show_progress=False, initial_alphabet=train_bpe.byte_characters()
        ),
    )
    learned = [json.loads(tokenizer.to_str())["model"]["merges"] for tokenizer in (ours, theirs)]
    check_equal(learned[0], learned[1], "the merges it learns")


# ----------------------------------------------------------------------------------------------
# primer.py


def blemish(story: str) -> str | None:
    """Lists what a proofreader would mark."""
    marks = {
        "left over from the grammar": r"[{}\[\]|;¶]",
        "spaces or full stops": r"  | [.,!?]|\.\.|,,|[.!?],| $",
        "a for an": r"\b[Aa] (?=[aeiouAEIOU])",
        "an for a": r"\b[Aa]n (?=[^aeiou])(?!hour)",
        "a word twice": r"\b(\w+) \1\b",
        "a small letter at the start": r"(?:^|\. |\n\n)\"?[a-z]",
        "a quotation that ends badly": r"\"\.|[a-z]\" [A-Z]|\.\" [a-z]",
    }
    for what, expression in marks.items():
        found = re.search(expression, story)
        if found:
            return f"{what}: {story[max(0, found.start() - 30) : found.end() + 30]!r}"
    for paragraph in story.split("\n\n"):
        if paragraph.count('"') % 2 or paragraph[-1] not in '.!?"':
            return f"paragraph: {paragraph!r}"
    return None


def test_stories(folder: Path) -> None:
    result = script("data/primer.py", "--kind", "stories", "--count", 50000, "--seed", 0, "--out", folder)
    check_equal(result.returncode, 0, result.stderr)
    train, val = ([r["text"] for r in read_jsonl(folder / f"{name}.jsonl")] for name in ("train", "val"))
    check_equal(len(set(train + val)), 50000, "no two of 50,000 stories are alike")
    check(300 < len(val) < 700 and not set(train) & set(val), f"{len(val)} stories are held out, all unseen")
    words = collections.Counter(word for story in train for word in re.findall(r"[a-z']+", story.lower()))
    check(len(words) > 1500, f"{len(words)} different words, expected more than 1,500")
    check(sum(count >= 20 for count in words.values()) > 1500, "and each of them often enough to be learned")
    blemishes = [mark for mark in map(blemish, train) if mark is not None]
    check_equal(blemishes[:3], [], f"{len(blemishes)} stories with a blemish")
    check(not any(map(text.repeats, train[:2000])), "no story repeats itself")
    starts = collections.Counter(story[:200] for story in train)
    check(starts.most_common(1)[0][1] < 60, f"beginnings differ: {starts.most_common(1)}")

    for name in ("a", "b", "c"):
        script("data/primer.py", "--count", 200, "--seed", 1 if name == "c" else 0, "--out", folder / name)
    files = [(folder / name / "train.jsonl").read_bytes() for name in ("a", "b", "c")]
    check(files[0] == files[1] != files[2], "a seed gives the same stories, another gives others")


def test_every_plot(folder: Path) -> None:
    check(len(primer.plots.PLOTS) >= 12, "at least twelve plots")
    check_equal(set(primer.plots.TALK), set(primer.plots.PLOTS), "every plot can be talked about")
    for name, plot in primer.plots.PLOTS.items():
        for number in range(300):
            story, facts = primer.write_story(random.Random(f"{name} {number}"), name)
            check(blemish(story) is None, f"{name}: {blemish(story)}")
            for line in (primer.plots.TALK[name]["question"], primer.plots.TALK[name]["answer"]):
                check(re.fullmatch(r"[^{}\[\]|]+[.?]", facts.expand(line)) is not None, facts.expand(line))
            # If hero and grown-up have one gender and nobody else is there, no other pronoun is right.
            alone = facts["friend"] not in story and facts["ahe"] == facts["he"]
            if alone and name not in ("way home", "wish", "fable"):
                wrong = {"he": {"she", "her"}, "she": {"he", "him", "his"}}[facts["he"]]
                found = wrong & set(re.findall(r"\w+", story.lower()))
                check(not found, f"{name}: {found} in {story}")
        for line in (line for beat in plot.beats for line in beat):
            _, facts = primer.write_story(random.Random(line), name)
            check(facts.expand(line) != "", f"{name}: {line}")  # an unknown {word} would raise


def test_arithmetic(folder: Path) -> None:
    result = script("data/primer.py", "--kind", "arithmetic", "--count", 3000, "--out", folder)
    check_equal(result.returncode, 0, result.stderr)
    records = read_jsonl(folder / "train.jsonl") + read_jsonl(folder / "val.jsonl")
    signs = {
        "+": lambda a, b: a + b,
        "-": lambda a, b: a - b,
        "*": lambda a, b: a * b,
        "/": lambda a, b: a / b,
    }
    for record in records:
        steps = re.findall(r"(\d+) ([-+*/]) (\d+) = (\d+)", record["answer"])
        right = all(signs[sign](int(a), int(b)) == int(c) for a, sign, b, c in steps)
        check(right and len(steps) > 0, f"wrong: {record['answer']}")
        check_equal(int(steps[-1][3]), record["number"], record["answer"])
        check(record["answer"].endswith(f"The answer is {record['number']}."), record["answer"])
        check_equal(record["text"], f"Question: {record['question']}\nAnswer: {record['answer']}", "the text")
        check(not re.search(r"[{}\[\];]", record["text"]), record["text"])


def test_chat(folder: Path) -> None:
    result = script("data/primer.py", "--kind", "chat", "--count", 2000, "--out", folder)
    check_equal(result.returncode, 0, result.stderr)
    for record in read_jsonl(folder / "train.jsonl") + read_jsonl(folder / "val.jsonl"):
        roles = [message["role"] for message in record["messages"]]
        check_equal(roles, ["user", "assistant"] * (len(roles) // 2), "user and assistant take turns")
        for message in record["messages"]:
            check(
                not re.search(r"[{}\[\];|%]", message["content"]) and message["content"].strip() != "",
                message["content"],
            )


def test_junk(folder: Path) -> None:
    result = script("data/primer.py", "--kind", "junk", "--count", 500, "--out", folder)
    check_equal(result.returncode, 0, result.stderr)
    for record in read_jsonl(folder / "train.jsonl"):
        check(text.repeats(record["text"]), f"not caught: {record['text'][:200]}")
    result = script("data/text.py", folder / "train.jsonl", "--out", folder / "filtered")
    check(
        result.returncode == 1 and "no document was left" in result.stderr, "text.py leaves all of them out"
    )


# ----------------------------------------------------------------------------------------------
# scripts/


def test_plot(folder: Path) -> None:
    if importlib.util.find_spec("matplotlib") is None:
        print("skipped: scripts/plot.py (matplotlib not installed)")
        return
    for name in ("a", "b"):
        (folder / name).mkdir()
        with open(folder / name / "log.jsonl", "w") as log:
            log.write('{"type": "run"}\n')
            for step in range(1, 201):
                log.write(
                    json.dumps(
                        {
                            "type": "step",
                            "step": step,
                            "tokens": step * 2048,
                            "z": 0.001,
                            "lr": 0.001,
                            "loss": None if step == 77 else 5.0 / step,
                            "gradient_norm": None if step == 77 else 1.0,
                            "tokens_per_second": 9000.0,
                            "skipped": step == 77,
                            "masked": 0,
                        }
                    )
                    + "\n"
                )
                if step % 50 == 0:
                    log.write(
                        json.dumps({"type": "eval", "step": step, "loss": 4.0, "bits_per_byte": None}) + "\n"
                    )
            log.write('{"type": "step", "st')
    result = script("scripts/plot.py", folder / "a")
    check_equal(result.returncode, 0, result.stderr)
    check_equal((folder / "a/plot.png").read_bytes()[:8], b"\x89PNG\r\n\x1a\n", "a picture beside the run")
    result = script("scripts/plot.py", folder / "a", folder / "b/log.jsonl", "--out", folder / "new/two.png")
    check(result.returncode == 0 and (folder / "new/two.png").stat().st_size > 20000, result.stderr)
    check("Warning" not in result.stderr, result.stderr)
    (folder / "b/log.jsonl").write_text('{"type": "run"}\n')
    check("holds no step yet" in script("scripts/plot.py", folder / "b").stderr, "a run that has not begun")
    (folder / "b/log.jsonl").write_text('{"type"\n{"type": "run"}\n')
    check("log.jsonl:1: is not JSON" in script("scripts/plot.py", folder / "b").stderr, "a damaged log")
    check("no such file" in script("scripts/plot.py", folder / "c").stderr, "no run")


def test_scripts(folder: Path) -> None:
    def shell(*command: object) -> subprocess.CompletedProcess:
        return subprocess.run(["bash", *map(str, command)], cwd=folder, capture_output=True, text=True)

    for name in ("demo.sh", "train_text.sh", "setup.sh"):
        check_equal(shell("-n", ROOT / "scripts" / name).returncode, 0, f"{name} is bash")
    (folder / "taken").mkdir()
    (folder / "a.txt").write_text("text")
    result = shell(ROOT / "scripts/demo.sh", "taken")
    check(result.returncode == 1 and "taken exists already" in result.stderr, result.stderr)
    result = shell(ROOT / "scripts/train_text.sh", "--out", "taken", "a.txt")
    check(result.returncode == 1 and "taken exists already" in result.stderr, result.stderr)
    check_equal(list((folder / "taken").iterdir()), [], "nothing was written there")
    for flags, words in (
        ([], "no text was named"),
        (["--out"], "--out needs a value"),
        (["--model", "x"], "'--model'"),
    ):
        result = shell(ROOT / "scripts/train_text.sh", *flags)
        check(result.returncode == 2 and words in result.stderr, f"{flags}: {result.stderr}")
    check("--vocab-size" in shell(ROOT / "scripts/train_text.sh", "--help").stdout, "--help")
    if shutil.which("shellcheck") is None:
        print("skipped: shellcheck of scripts/*.sh (shellcheck not installed)")
        return
    for path in sorted((ROOT / "scripts").glob("*.sh")):
        result = shell("-c", f"cd '{ROOT}' && shellcheck -x '{path}'")
        check_equal(result.returncode, 0, f"shellcheck {path.name}:\n{result.stdout}")


def main() -> None:
    global failed
    tests = {name: value for name, value in globals().items() if name.startswith("test_")}
    for name, test in tests.items():
        if len(sys.argv) > 1 and not any(part in name for part in sys.argv[1:]):
            continue
        with tempfile.TemporaryDirectory(prefix="olmo2_data_") as folder:
            try:
                test(Path(folder))
            except Exception:
                failed += 1
                print(f"FAILED {name}")
                traceback.print_exc(file=sys.stdout)
    print(f"{passed} passed, {failed} failed")
    sys.exit(failed > 0 or passed == 0)


if __name__ == "__main__":
    main()
