#!/usr/bin/env python3
"""Reads the same files with llmc/documents.h and with data/documents.py: same documents, same messages.

    python3 dev/test/documents_cases.py PROGRAM      PROGRAM: train_olmo2

The C reader is reached through `tokenize` with a tokenizer of single bytes, tokenizer.json in the current
directory (dev/test/cli.sh): the ids of a token file are the bytes of its documents.
"""
from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import json
import lzma
import os
import random
import shutil
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "cases"
sys.path.insert(0, str(ROOT / "data"))

from documents import DataError, read_documents  # noqa: E402

EOS = 256
passed = failed = 0


def check(ok: bool, what: str, *details: object) -> None:
    global passed, failed
    passed, failed = passed + ok, failed + (not ok)
    if not ok:
        print(f"FAILED {what}", *(f"\n       {detail!r}" for detail in details))


# ----------------------------------------------------------------------------------------------
# the two readers. An outcome is a list of documents and the warnings, or a message.

def read_in_c(program: str, name: str, standard_input: bytes | None) -> tuple[list[bytes] | None, str]:
    out = Path("case.npy")
    out.unlink(missing_ok=True)
    run = subprocess.run([program, "tokenize", "--tokenizer", "tokenizer.json", "--out", out, name],
                         input=standard_input or b"", capture_output=True, timeout=60)
    message = run.stderr.decode().removesuffix("\n")
    if run.returncode != 0:
        left = [path for path in os.listdir() if "case.npy" in path]
        check(run.returncode == 1 and message.startswith("error: ") and not left,
              f"{name}: exit code {run.returncode}, {message}, left over: {left}")
        return None, message.removeprefix("error: ")
    ids = struct.unpack(f"<{out.stat().st_size // 4}I", out.read_bytes())
    documents, document = [], bytearray()
    for token in ids:
        if token == EOS:
            documents.append(bytes(document))
            document.clear()
        else:
            document.append(token)
    out.unlink()
    return documents, message


def read_in_python(name: str, standard_input: bytes | None) -> tuple[list[bytes] | None, str]:
    before, warnings = sys.stdin, io.StringIO()
    if standard_input is not None:
        sys.stdin = io.TextIOWrapper(io.BufferedReader(io.BytesIO(standard_input)))
    try:
        with contextlib.redirect_stderr(warnings):
            documents = [text.encode() for text in read_documents(Path(name))]
        return documents, warnings.getvalue().removesuffix("\n")
    except DataError as error:
        return None, str(error)
    finally:
        sys.stdin = before


def compare(program: str, name: str, content: bytes, expected: list[str] | str,
            same_message: bool = True) -> None:
    """`expected` is the documents, or words of the message. "-" gets the content as standard input."""
    standard_input = content if name == "-" else None
    what = f"{name} {content[:60]!r}"
    if standard_input is None:
        Path(name).write_bytes(content)
    in_c = read_in_c(program, name, standard_input)
    in_python = read_in_python(name, standard_input)
    for reader, (documents, message) in (("C", in_c), ("Python", in_python)):
        if isinstance(expected, str):
            check(documents is None and expected in message, f"{what} in {reader}: expected {expected!r}",
                  documents, message)
        else:
            check(documents == [text.encode() for text in expected],
                  f"{what} in {reader}: expected {expected}", documents, message)
    check(not same_message or in_c[1] == in_python[1], f"{what}: the messages differ", in_c[1], in_python[1])
    if standard_input is None:
        Path(name).unlink()


# ----------------------------------------------------------------------------------------------
# the table: a name, its content, and the documents or words of the error

TWO = b'{"text": "one", "id": "1"}\n{"text": "two", "id": "2"}\n'
MARK = b"\xef\xbb\xbf"


def numpy_file(ids: list[int]) -> bytes:
    header = b"{'descr': '<u4', 'fortran_order': False, 'shape': (%d,), }" % len(ids)
    return (b"\x93NUMPY\x01\x00" + struct.pack("<H", 118) + header.ljust(117) + b"\n"
            + struct.pack(f"<{len(ids)}I", *ids))


def zip_file() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("docs.jsonl", TWO)
    return file.getvalue()


def tar_file() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        member = tarfile.TarInfo("docs.jsonl")
        member.size = len(TWO)
        archive.addfile(member, io.BytesIO(TWO))
    return file.getvalue()


NAMES = [
    ("docs.jsonl", TWO, ["one", "two"]),
    ("docs.json", TWO, ["one", "two"]),
    ("docs.JSONL", TWO, ["one", "two"]),
    ("Docs.Json", TWO, ["one", "two"]),
    ("docs.json.gz", gzip.compress(TWO), ["one", "two"]),
    ("docs.JSONL.GZ", gzip.compress(TWO), ["one", "two"]),
    ("docs.jsonl.gz", gzip.compress(TWO[:27]) + gzip.compress(TWO[27:]), ["one", "two"]),
    ("a.txt.gz", gzip.compress(b"one\ntwo"), ["one\ntwo"]),
    ("notes", b"one\r\ntwo\n", ["one\r\ntwo\n"]),
    ("notes.md", b"# one\n", ["# one\n"]),
    ("-", b"one\ntwo\n", ["one\ntwo\n"]),
    ("-", TWO, ["one", "two"]),
    ("-", MARK + b"\n \n" + TWO, ["one", "two"]),
    ("-", b' { "text": "one"}', ["one"]),
    ("-", b"{one}", ["{one}"]),
    ("-", b"[1]", ["[1]"]),
    ("-", gzip.compress(TWO), "standard input: is a gzip file"),
    ("-", b"", "standard input: is empty"),
    ("docs.txt", TWO, "docs.txt: is JSON Lines, expected text"),
    ("docs.jsonl.bak", b"\n" + TWO[:26], "is JSON Lines"),
    ("code.txt", b'{"text": one}\n', ['{"text": one}\n']),
    ("object.txt", b'{"a": 1}\n', ['{"a": 1}\n']),
]

TEXTS = [
    ("a.txt", MARK + b"one", ["one"]),
    ("a.txt", b"", "a.txt: is empty"),
    ("a.txt", MARK, "a.txt: is empty"),
    ("a.txt", "caf\u00e9 \U0001f642\n".encode(), ["caf\u00e9 \U0001f642\n"]),
    ("a.txt", "one\ncaf\u00e9 caf".encode() + b"\xe9", "a.txt:2:9: found the byte 0xE9, expected UTF-8 text"),
    ("a.txt", b"cut \xf0\x9f\x99", "a.txt:1:5: found the byte 0xF0"),
    ("a.txt", b"x" * 5000 + b"\nzero \0 here", "a.txt:2:6: found the byte 0x00"),
    ("a.txt", b" \n", [" \n"]),
]

OTHERS = [
    ("docs.jsonl", gzip.compress(TWO), "docs.jsonl: is a gzip file, expected UTF-8 text"),
    ("docs.txt", gzip.compress(TWO), "is a gzip file"),
    ("docs.jsonl.gz", gzip.compress(gzip.compress(TWO)), "is a gzip file"),
    ("docs.txt", b"\x28\xb5\x2f\xfd\x04\x00", "is a zstd file"),
    ("docs.jsonl", lzma.compress(TWO), "is an xz file"),
    ("docs.jsonl", bz2.compress(TWO), "is a bzip2 file"),
    ("docs.txt", b"BZhang wrote.", ["BZhang wrote."]),
    ("docs.docx", zip_file(), "is a zip file"),
    ("docs.txt", b"\x04\x22\x4d\x18\x64", "is an lz4 file"),
    ("docs.parquet", b"PAR1\x15\x04\x15\x00", "is a Parquet file"),
    ("docs.arrow", b"ARROW1\0\0", "is an Arrow file"),
    ("docs.pdf", b"%PDF-1.7\n", "is a PDF file"),
    ("docs.txt", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "is a Git LFS pointer"),
    ("docs.tar", tar_file(), "is a tar archive"),
    ("docs.jsonl.tar.gz", gzip.compress(tar_file()), "is a tar archive"),
    ("tokens.npy", numpy_file([1, 2, 3]), "is a NumPy file"),
    ("tokens.npy", struct.pack("<200I", *range(1, 401, 2)), "is token ids of 32 bits"),
    ("tokens.txt", struct.pack("<200I", *range(70000, 70200)), "is token ids of 32 bits"),
    ("tokens.jsonl", struct.pack("<200I", *range(300, 500)), "is token ids of 32 bits"),
    ("image.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "is a binary file"),
    ("wide.txt", "one two".encode("utf-16"), "is UTF-16 text"),
    ("wide.txt", "one two".encode("utf-16-le"), "is UTF-16 text"),
    ("wide.jsonl", TWO.decode().encode("utf-16-be"), "is UTF-16 text"),
    ("wide.jsonl", b"\xfe\xff" + TWO.decode().encode("utf-16-be"), "is UTF-16 text"),
    ("wide.txt", "one two".encode("utf-32"), "is UTF-32 text"),
]

# lines of docs.jsonl
LINES = [
    (MARK + b'{"text": "one"}\r\n{"text": "two"}\r\n', ["one", "two"]),
    (TWO[:27] + MARK + TWO[27:], ["one", "two"]),
    (TWO[:27] + b"\n \t\r\n" + TWO[27:] + b"\n\n", ["one", "two"]),
    (TWO[:-1], ["one", "two"]),
    (b'\t{ "text" : "one" } \r\n', ["one"]),
    (b"\n \n", "docs.jsonl: has only blank lines"),
    (b"", "docs.jsonl: is empty"),
    (b'{"text": ""}', [""]),
    # members that are not "text"
    (b'{"text": "one", "score": NaN}', ["one"]),
    (b'{"a": -Infinity, "b": 1e999, "c": 123456789012345678901234567890, "text": "one"}', ["one"]),
    (b'{"text": "one", "meta": {"k": 1, "k": 2, "text": "no"}}', ["one"]),
    (b'{"a": 1, "a": 2, "text": "one"}', ["one"]),
    (b'{"a": "\\ud83d", "text": "one"}', ["one"]),
    (b'{"a": "\xff \t\\x", "\xff": 1, "text": "one"}', ["one"]),
    (b'{"a": "}\\"", "b": [[{"c": "]\\\\"}], []], "text": "one"}', ["one"]),
    (b'{"a": [}, "text": "one"}', ["one"]),
    (b'{"a": 1.5e, "b": 007, "text": "one"}', ["one"]),
    (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b', "text": "one"}', ["one"]),
    (b'{"a": ' + b"9" * 100_000 + b', "text": "one"}', ["one"]),
    (b'{"a": "' + b"x" * 3_000_000 + b'", "text": "one"}\n{"text": "two"}', ["one", "two"]),
    # what JSON lets a string have
    (b'{"text": "\\"\\\\\\/\\b\\f\\n\\r\\t\\u0000\\u00e9\\u6771\\ud83d\\ude42 \x7f \xc3\xa9"}',
     ['"\\/\b\f\n\r\t\0\u00e9\u6771\U0001f642 \x7f \u00e9']),
    (b'{"\\u0074ext": "one"}', ["one"]),
    (b'{"\\u0074ex": 1, "te\\xt": 2, "text": "one"}', ["one"]),
    # half of a surrogate pair
    (b'{"text": "smile \\ud83d end"}', ["smile \ufffd end"]),
    (b'{"text": "\\ude42"}\n{"text": "\\ud83d\\ud83d\\ude42\\ud83d"}', ["\ufffd", "\ufffd\U0001f642\ufffd"]),
    (b'{"text": "\\uD83D\\n\\uD83d\\u0041"}', ["\ufffd\n\ufffdA"]),
    # what is wrong with "text"
    (TWO + b'{"txt": "three"}', 'docs.jsonl:3: expected an object with a string "text", found only "txt"'),
    (b'{"id": 1, "body" : ["a"], "\xc3\xa9": null}', 'found only "id", "body", "??"'),
    (b"{}", "found one that is empty"),
    (b'{"text": null}', 'docs.jsonl:1:10: found null, expected a string as "text"'),
    (b'{"text": ["a"]}', "found an array"),
    (b'{"text": {"a": 1}}', "found an object"),
    (b'{"text": 5}', "found a number"),
    (b'{"text": true}', "found true or false"),
    (b'{"text": NaN}', "found 'N'"),
    (b'{"text": "a", "text": "b"}', '"text" twice'),
    (b'{"text": "a", "\\u0074ext": "b"}', '"text" twice'),
    (b'{"text": "caf\xe9"}', "docs.jsonl:1:14: found the byte 0xE9, expected UTF-8"),
    (b'{"text": "\xed\xa0\xbd"}', "found the byte 0xED"),
    (b'{"text": "\xe6\x9d"}', "found the byte 0xE6"),
    (b'{"text": "a\tb"}', "docs.jsonl:1:12: found the byte 0x09, expected a control character"),
    (b'{"text": "\0"}', "is a binary file"),
    (TWO + TWO + b'{"text": "\0"}', "docs.jsonl:5:11: found the byte 0x00"),
    (b'{"text": "\\x41"}', "docs.jsonl:1:11: found a backslash that begins no escape"),
    (b'{"text": "\\u12g4"}', "found a backslash that begins no escape"),
    (b'{"text": "\\u12"}', "found a backslash that begins no escape"),
    # what is wrong with the line
    (b'{"text": "good"}\n{"text": "bad\n', "docs.jsonl:2: the line ends inside its object"),
    (b'{"text": "bad\\', "the line ends inside"),
    (b'{\n  "text": "one"\n}\n', "docs.jsonl:1: the line ends inside its object"),
    (b'{"text": "one", "a": [1', "the line ends inside"),
    (b'{"text": "one"', "the line ends inside"),
    (b'{"text"', "the line ends inside"),
    (b'{"text":', "the line ends inside"),
    (b"{", "the line ends inside"),
    (b'{"text": "one",}', "docs.jsonl:1:16: found '}', expected a key in double quotes"),
    (b'{"text": "one"; "a": 1}', "found ';', expected ',' or '}'"),
    (b'{"text" "one"}', "expected ':' after a key"),
    (b'{"a": , "text": "one"}', "found ',', expected a value"),
    (b"{'text': 'one'}", "found ''', expected a key"),
    (b'{"text": "one"} {"text": "two"}', "docs.jsonl:1:17: found '{', expected the end of the line"),
    (b'[{"text": "one"}]', "docs.jsonl:1:1: found an array, expected an object"),
    (b'"one"', "found a string, expected an object"),
    (b"one\n", "found 'o', expected an object"),
    (b"\xe9", "found the byte 0xE9, expected an object"),
    (b"42", "found a number, expected an object"),
]

# the messages of unpacking are those of gzip, zstd and Python, so only these words are the same
DAMAGED = [
    ("a.jsonl.gz", gzip.compress(TWO * 5000)[:-9], "a.jsonl.gz: cannot be unpacked; the program gzip says: "),
    ("docs.jsonl.gz", gzip.compress(TWO * 5000)[:200], "cannot be unpacked; the program gzip says: "),
    ("docs.txt.gz", gzip.compress(TWO)[:-8] + bytes(8), "cannot be unpacked; the program gzip says: "),
    ("docs.jsonl.gz", TWO, "cannot be unpacked; the program gzip says: "),
]


def zstd(content: bytes) -> bytes:
    return subprocess.run(["zstd", "-qc"], input=content, capture_output=True, check=True).stdout


def check_zstd(program: str) -> None:
    if shutil.which("zstd") is None:
        print("skipped: .zst files (zstd is not installed)")
        return
    packed = zstd(TWO * 5000)
    compare(program, "docs.jsonl.zst", zstd(TWO), ["one", "two"])
    compare(program, "docs.JSON.ZSTD", zstd(TWO[:27]) + zstd(TWO[27:]), ["one", "two"])
    compare(program, "docs.jsonl.zst", packed, ["one", "two"] * 5000)
    for content in (packed[:-9], packed[:20], TWO, b""):
        compare(program, "docs.jsonl.zst", content, "docs.jsonl.zst: ", same_message=False)
    compare(program, "docs.txt.zst", packed[:-9], "cannot be unpacked; the program zstd says: ")


def check_missing(program: str) -> None:
    """Without the programs that unpack. Python unpacks gzip itself."""
    Path("docs.jsonl.gz").write_bytes(gzip.compress(TWO))
    Path("docs.jsonl.zst").write_bytes(b"\x28\xb5\x2f\xfd\x04\x00")
    before, os.environ["PATH"] = os.environ["PATH"], "/nonexistent"
    try:
        for name, needed in (("docs.jsonl.gz", "gzip"), ("docs.jsonl.zst", "zstd")):
            documents, message = read_in_c(program, name, None)
            check(documents is None and f"{name}: needs the program {needed}" in message, message)
        documents, message = read_in_python("docs.jsonl.zst", None)
        check(documents is None and "docs.jsonl.zst: needs the program zstd" in message, message)
    finally:
        os.environ["PATH"] = before
    os.unlink("docs.jsonl.gz")
    os.unlink("docs.jsonl.zst")


def check_pipes(program: str) -> None:
    """A pipe with a name: what it is called decides, or what it begins with."""
    for name, content, expected in (("pipe", TWO, ["one", "two"]), ("pipe", b"one\n", ["one\n"]),
                                    ("pipe.jsonl", b"\n" * 70_000 + TWO * 9000, ["one", "two"] * 9000),
                                    ("pipe.gz", gzip.compress(TWO), ["one", "two"])):
        for read in (lambda: read_in_c(program, name, None), lambda: read_in_python(name, None)):
            os.mkfifo(name)
            writer = subprocess.Popen([sys.executable, "-c", "import sys; data = sys.stdin.buffer.read(); "
                                       f"open({name!r}, 'wb').write(data)"], stdin=subprocess.PIPE)
            writer.stdin.write(content)
            writer.stdin.close()
            documents, message = read()
            writer.wait()
            os.unlink(name)
            check(documents == [text.encode() for text in expected], f"{name}: {message}")


def check_memory(program: str) -> None:
    """100 MB of lines take the memory of one line, also while they are unpacked."""
    line = b'{"unread": "' + b"x" * 500_000 + b'", "text": "a"}\n'
    with gzip.open("long.jsonl.gz", "wb", compresslevel=1) as file:
        for _ in range(200):
            file.write(line)
    process = subprocess.Popen([program, "tokenize", "--tokenizer", "tokenizer.json", "--out", "long.npy",
                                "long.jsonl.gz"], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    megabytes = usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
    check(status == 0 and megabytes < 70, f"100 MB of lines: status {status}, {megabytes:.1f} MB of memory")
    os.unlink("long.jsonl.gz")
    os.unlink("long.npy")


def check_changed(program: str, count: int) -> None:
    """Lines with random changes: the same documents or the same message."""
    rng = random.Random(1)
    pieces = [b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"\\u", b"d83d", b"\\ude42", b"text", b'"text"',
              b"\n", b" ", b"\t", b"\0", b"\xc3\xa9", b"\xc3", b"\xe6\x9d", MARK, b"1", b"null", b"NaN",
              b"<|endoftext|>"]
    seeds = [content for content, _ in LINES if len(content) < 200]
    for _ in range(count):
        content = bytearray(rng.choice(seeds) + rng.choice((b"", b"\n" + rng.choice(seeds))))
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(content) + 1)
            content[at:at + rng.choice((0, 0, 1, 3))] = rng.choice(pieces) if rng.random() < 0.8 else b""
        name = rng.choice(("docs.jsonl", "docs.jsonl", "docs.txt", "-"))
        standard_input = bytes(content) if name == "-" else None
        if standard_input is None:
            Path(name).write_bytes(content)
        in_c, in_python = read_in_c(program, name, standard_input), read_in_python(name, standard_input)
        if in_python[0] is not None:  # where a document says <|endoftext|>, the ids of C end one there
            end = b"<|endoftext|>"
            joined = b"".join(document.removesuffix(end) + end for document in in_python[0])
            in_python = joined.split(end)[:-1], in_python[1]
        check(in_c == in_python, f"{name} {bytes(content)!r}", in_c, in_python)


def check_shared(program: str) -> None:
    if not SHARED.is_dir():
        print("skipped: the files of ../shared/cases (not present)")
        return
    one, two = ["A story."], ["First story.", "Second."]
    cat = ["Once upon a time there was a cat.", "The end."]
    for name, expected in (("bom.jsonl", two), ("blank_line.jsonl", two), ("blank_last_line.jsonl", two),
                           ("lone_surrogate.jsonl", ["smile \ufffd end"]), ("nan_member.jsonl", one),
                           ("duplicate_key.jsonl", ["A"]), ("overflowing_number.jsonl", one),
                           ("docs.json.gz", cat), ("docs.json", cat), ("docs.JSONL", cat)):
        compare(program, name, (SHARED / name).read_bytes(), expected)


def main() -> int:
    program = sys.argv[1]
    for name, content, expected in NAMES + TEXTS + OTHERS:
        compare(program, name, content, expected)
    for content, expected in LINES:
        compare(program, "docs.jsonl", content, expected)
    for name, content, expected in DAMAGED:
        compare(program, name, content, expected, same_message=False)
    check_zstd(program)
    check_missing(program)
    check_pipes(program)
    check_memory(program)
    check_changed(program, 300)
    check_shared(program)
    print(f"{passed} passed, {failed} failed")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
