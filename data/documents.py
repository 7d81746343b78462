"""Reads the documents of a file, one after another, as llmc/documents.h does in C. The rule of both is at its
beginning; dev/test/documents_cases.py compares the two. Needs nothing but Python.
"""
from __future__ import annotations

import contextlib
import gzip
import io
import itertools
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import zlib
from pathlib import Path
from typing import IO, Callable, Iterable, Iterator

LINE_SUFFIXES = (".jsonl", ".json")
PACKED_SUFFIXES = (".gz", ".zst", ".zstd")
TEXT_SUFFIXES = (".txt", *LINE_SUFFIXES)
FOLDER_SUFFIXES = tuple(suffix + packed for suffix in TEXT_SUFFIXES for packed in ("", *PACKED_SUFFIXES))
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
SPACE = b" \t\r\n"
BEGINNING = 4096  # bytes that are looked at to judge a file


class DataError(Exception):
    """A mistake in the input, told in one message: where, what was found, what was expected, what to do."""


# ----------------------------------------------------------------------------------------------
# files

def find_files(sources: Iterable[str]) -> list[Path]:
    """Files as named, "-" for standard input, and the text files in folders, sorted. Hidden ones are skipped."""
    files: list[Path] = []
    for source in sources:
        path = Path(source)
        if source != "-" and path.is_dir():
            found = sorted(file for file in path.rglob("*")
                           if file.is_file() and file.name.lower().endswith(FOLDER_SUFFIXES)
                           and not any(part.startswith(".") for part in file.relative_to(path).parts))
            if not found:
                raise DataError(f"{path}: the folder holds no file that ends in {', '.join(FOLDER_SUFFIXES)}")
            files += found
        elif source != "-" and not path.exists():
            raise DataError(f"{path}: there is no such file")
        else:
            files.append(path)
    return files


def whole(text: str) -> Iterable[str]:
    return (text,)


def read_documents(path: Path, cut: Callable[[str], Iterable[str]] = whole,
                   encoding: str = "utf-8") -> Iterator[str]:
    """The documents of one file: the "text" of every line of JSON Lines, or what `cut` makes of another text.

    Another encoding than UTF-8 is converted first; then the same rule holds.
    """
    name = "standard input" if str(path) == "-" else str(path)
    try:
        with open_file(path, name) as (file, pipe):
            more: Iterator[bytes] = iter(file)
            if encoding == "utf-8":
                beginning = file.read(BEGINNING)
            else:
                text = io.TextIOWrapper(file, encoding, newline="\n")
                beginning = text.read(BEGINNING).encode()
                more = (line.encode() for line in text)
            lines = unpacked_name(path).endswith(LINE_SUFFIXES)
            check_beginning(name, beginning, 64 if lines else BEGINNING)
            beginning = beginning.removeprefix(BYTE_ORDER_MARK)
            if not beginning:
                raise DataError(f"{name}: is empty")
            if lines or pipe and re.match(rb'[ \t\r\n]*{[ \t\r\n]*"', beginning):
                yield from read_lines(name, beginning, more)
            else:
                yield from cut(read_text(name, beginning + b"".join(more)))
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: is not {encoding} (byte 0x{error.object[error.start]:02X}); name the "
                        "file's encoding, for example --encoding latin-1") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(unpacking_failed(name, "gzip", str(error))) from None


def unpacked_name(path: Path) -> str:
    """The name in lower case, without what says that the file is packed."""
    name = path.name.lower()
    return next((name.removesuffix(packed) for packed in PACKED_SUFFIXES if name.endswith(packed)), name)


@contextlib.contextmanager
def open_file(path: Path, name: str) -> Iterator[tuple[IO[bytes], bool]]:
    """The bytes of a file, unpacked while they are read; and whether it is a pipe."""
    if str(path) == "-":
        yield sys.stdin.buffer, True
        return
    if path.is_dir():
        raise DataError(f"{name}: is a directory, expected a file")
    with open(path, "rb") as file:
        pipe = not stat.S_ISREG(os.fstat(file.fileno()).st_mode)
        if path.name.lower().endswith(".gz"):
            with gzip.open(file) as unpacked:
                yield unpacked, pipe
        elif path.name.lower().endswith((".zst", ".zstd")):
            with Zstd(file, name) as zstd, io.BufferedReader(zstd, 1 << 20) as unpacked:
                yield unpacked, pipe
        else:
            yield file, pipe


def unpacking_failed(name: str, program: str, message: str) -> str:
    return (f"{name}: cannot be unpacked; the program {program} says: {message}\n"
            "       The file is damaged or incomplete, or its name is wrong.")


class Zstd(io.RawIOBase):
    """What the program zstd makes of a file. At its end the program must have succeeded."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        if shutil.which("zstd") is None:
            raise DataError(f"{name}: needs the program zstd, which is not installed\n"
                            "       Install it, or unpack the file.")
        self.path = name
        self.process = subprocess.Popen(["zstd", "-dcq"], stdin=file, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        size = self.process.stdout.readinto(buffer)
        if size == 0 and self.process.wait() != 0:
            message = self.process.stderr.read().decode(errors="replace").strip()
            raise DataError(unpacking_failed(self.path, "zstd", message))
        return size

    def close(self) -> None:
        if not self.closed:
            self.process.kill()  # nobody wants the rest of the file
            self.process.communicate()
        super().close()


# ----------------------------------------------------------------------------------------------
# other kinds of files

RENAME = "Give it a name that says so (.gz, .zst), or unpack it into a pipe."
UNPACK = "Unpack it first."
CONVERT = 'Convert it to JSON Lines, an object with a string "text" on every line.'
EXTRACT = "Extract its text first."
RECODE = "Convert it to UTF-8, for example with iconv."
TOKENS = "It has been tokenized already."

OTHERS = (
    (b"\x1f\x8b", 0, "a gzip file", RENAME),
    (b"\x28\xb5\x2f\xfd", 0, "a zstd file", RENAME),
    (b"\xfd7zXZ\0", 0, "an xz file", UNPACK),
    (b"1AY&SY", 4, "a bzip2 file", UNPACK),
    (b"\x04\x22\x4d\x18", 0, "an lz4 file", UNPACK),
    (b"PK\x03\x04", 0, "a zip file", UNPACK),
    (b"7z\xbc\xaf\x27\x1c", 0, "a 7z file", UNPACK),
    (b"ustar", 257, "a tar archive", UNPACK),
    (b"PAR1\x15", 0, "a Parquet file", CONVERT),
    (b"ARROW1\0", 0, "an Arrow file", CONVERT),
    (b"Obj\x01", 0, "an Avro file", CONVERT),
    (b"\x89HDF", 0, "an HDF5 file", CONVERT),
    (b"SQLite format 3", 0, "an SQLite database", CONVERT),
    (b"\x93NUMPY", 0, "a NumPy file", TOKENS),
    (b"%PDF-", 0, "a PDF file", EXTRACT),
    (b"version https://git-lfs", 0, "a Git LFS pointer", "Fetch the file itself: git lfs pull."),
    (b"\xff\xfe\0\0", 0, "UTF-32 text", RECODE),
    (b"\0\0\xfe\xff", 0, "UTF-32 text", RECODE),
    (b"\xff\xfe", 0, "UTF-16 text", RECODE),
    (b"\xfe\xff", 0, "UTF-16 text", RECODE),
)


def check_beginning(name: str, beginning: bytes, most: int) -> None:
    """Refuses what begins like another kind of file, or has a byte 0 among the first `most`."""
    for magic, at, kind, advice in OTHERS:
        if beginning.startswith(magic, at):
            raise DataError(f"{name}: is {kind}, expected UTF-8 text\n       {advice}")
    if 0 in beginning[:most]:
        kind, advice = binary_kind(beginning)
        raise DataError(f"{name}: is {kind}, expected UTF-8 text\n       {advice}")


def binary_kind(beginning: bytes) -> tuple[str, str]:
    """What a file with a byte 0 may be, judged by which of its first bytes are 0."""
    quarter = len(beginning) // 4
    zeros = [beginning[i:4 * quarter:4].count(0) for i in range(4)]
    if quarter > 0:
        for upper, lower in ((0, 1), (1, 0)):
            if zeros[lower] + zeros[lower + 2] == 0 and 2 * (zeros[upper] + zeros[upper + 2]) > 3 * quarter:
                return "UTF-16 text", RECODE
        if zeros[3] == quarter:
            return "token ids of 32 bits", TOKENS
    return "a binary file", "Only text can be tokenized."


# ----------------------------------------------------------------------------------------------
# a file that is one document

def read_text(name: str, data: bytes) -> str:
    bad = data.find(0)
    if bad < 0:
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            bad = error.start
    if bad >= 0:
        line, start = data.count(b"\n", 0, bad) + 1, data.rfind(b"\n", 0, bad) + 1
        raise DataError(f"{name}:{line}:{column(data[start:bad])}: found the byte 0x{data[bad]:02X}, "
                        "expected UTF-8 text\n       Remove it, or convert the file to UTF-8, for example "
                        "with iconv or the flag --encoding of data/text.py.")
    first = data.lstrip(SPACE).partition(b"\n")[0]
    if first.startswith(b"{"):
        with contextlib.suppress(DataError):
            Line(name, 1, first).text()
            first = b""
    if not first and data.lstrip(SPACE):
        raise DataError(f"{name}: is JSON Lines, expected text\n"
                        "       Give it a name that ends in .jsonl, and every line will be a document.")
    return text


def column(before: bytes) -> int:
    """The number, from 1, of the character that follows these bytes of its line."""
    return 1 + sum(byte & 0xC0 != 0x80 for byte in before)


# ----------------------------------------------------------------------------------------------
# lines

def read_lines(name: str, beginning: bytes, more: Iterator[bytes]) -> Iterator[str]:
    count = surrogates = first = 0
    if beginning.lstrip(SPACE)[:1] in b"{" or beginning.startswith(BYTE_ORDER_MARK):
        beginning += next(more, b"")  # the rest of a line of which the beginning is good so far
    for number, data in enumerate(itertools.chain(io.BytesIO(beginning), more), 1):
        data = data.removesuffix(b"\n").removeprefix(BYTE_ORDER_MARK)
        if not data.strip(SPACE):
            continue
        text, found = Line(name, number, data).text()
        first = first or (number if found else 0)
        surrogates += found
        count += 1
        yield text
    if count == 0:
        raise DataError(f"{name}: has only blank lines")
    if surrogates > 0:
        noun = "surrogate" if surrogates == 1 else "surrogates"
        print(f'warning: {name}: {surrogates} lone {noun} in "text" became U+FFFD, the first in line {first}'
              ": half of a character is missing there", file=sys.stderr)


BLANKS = re.compile(rb"[ \t\r\n]*")
STRING = re.compile(rb'[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)  # behind the opening quote
SCALAR = re.compile(rb'[^ \t\r\n,:"{}\[\]]+')
UP_TO_BRACKET = re.compile(rb'[^"{}\[\]]*(["{}\[\]])')
BACKSLASH = re.compile(rb"\\(?:u[0-9a-fA-F]{0,4}|.)", re.DOTALL)
ESCAPE = re.compile(rb'\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})')
CONTROL = re.compile(rb"[\x00-\x1f]")
SURROGATE = re.compile("[\ud800-\udfff]")


class Line:
    """One line of JSON Lines. Only "text" is judged; of every other member only the end is looked for."""

    def __init__(self, name: str, number: int, line: bytes) -> None:
        self.where, self.line, self.at = f"{name}:{number}", line, 0

    def text(self) -> tuple[str, int]:
        """The document, and how many halves of surrogate pairs became U+FFFD."""
        found = None
        self.skip_blanks()
        if not self.accept(b"{"):
            raise self.other_value('an object with a string "text" on every line')
        self.skip_blanks()
        if not self.accept(b"}"):
            while True:
                found = self.read_member(found)
                self.skip_blanks()
                if not self.accept(b","):
                    break
            if not self.accept(b"}"):
                raise self.unexpected(self.at, "',' or '}'")
        self.skip_blanks()
        if self.at < len(self.line):
            raise self.unexpected(self.at, "the end of the line after its object")
        if found is None:
            raise self.no_text()
        return found

    def read_member(self, found: tuple[str, int] | None) -> tuple[str, int] | None:
        key = self.read_key()
        self.skip_blanks()
        if not self.accept(b":"):
            raise self.unexpected(self.at, "':' after a key")
        self.skip_blanks()
        if key != b"text" and not (b"\\" in key and self.decodes_to_text(key)):
            self.skip_value()
            return found
        if found is not None:
            raise self.error(self.at, '"text" twice', "it once in every object")
        if self.at == len(self.line):
            raise self.unexpected(self.at, "a string")
        if self.peek() != b'"':
            raise self.other_value('a string as "text"')
        start = self.at + 1
        self.skip_string()
        return self.decode(start, self.at - 1)

    def read_key(self) -> bytes:
        self.skip_blanks()
        if self.peek() != b'"':
            raise self.unexpected(self.at, "a key in double quotes")
        start = self.at + 1
        self.skip_string()
        return self.line[start:self.at - 1]

    def decodes_to_text(self, key: bytes) -> bool:
        try:
            return json.loads(b'"' + key + b'"') == "text"
        except ValueError:
            return False

    # what is in a value does not matter, only where it ends

    def peek(self) -> bytes:
        return self.line[self.at:self.at + 1]

    def accept(self, character: bytes) -> bool:
        if self.peek() != character:
            return False
        self.at += 1
        return True

    def skip_blanks(self) -> None:
        self.at = BLANKS.match(self.line, self.at).end()

    def skip_string(self) -> None:
        match = STRING.match(self.line, self.at + 1)
        if match is None:
            raise self.unexpected(len(self.line), "a closing quote")
        self.at = match.end()

    def skip_brackets(self) -> None:
        depth = 0
        while match := UP_TO_BRACKET.match(self.line, self.at):
            self.at = match.end()
            if match[1] == b'"':
                self.at -= 1
                self.skip_string()
                continue
            depth += 1 if match[1] in b"{[" else -1
            if depth == 0:
                return
        raise self.unexpected(len(self.line), "a closing bracket")

    def skip_value(self) -> None:
        if self.peek() == b'"':
            self.skip_string()
        elif self.peek() and self.peek() in b"{[":
            self.skip_brackets()
        else:
            match = SCALAR.match(self.line, self.at)
            if match is None:
                raise self.unexpected(self.at, "a value")
            self.at = match.end()

    # decoding

    def decode(self, start: int, end: int) -> tuple[str, int]:
        body = self.line[start:end]
        try:
            text: str = json.loads('"' + body.decode() + '"')
        except ValueError:
            raise self.bad_string(start, body) from None
        return SURROGATE.subn("\ufffd", text) if b"\\u" in body else (text, 0)

    def bad_string(self, start: int, body: bytes) -> DataError:
        """The error of the first thing in a string that JSON does not allow."""
        problems = []
        try:
            body.decode()
        except UnicodeDecodeError as error:
            problems.append((error.start, 'UTF-8 in "text"'))
        if match := CONTROL.search(body):
            problems.append((match.start(), 'a control character in "text" to be written as \\u00XX'))
        escape = next((match for match in BACKSLASH.finditer(body) if not ESCAPE.fullmatch(match[0])), None)
        if escape is not None:
            problems.append((escape.start(), ""))
        at, expected = min(problems)
        if expected:
            return self.unexpected(start + at, expected)
        return self.error(start + at, "a backslash that begins no escape of JSON",
                          '\\" \\\\ \\/ \\b \\f \\n \\r \\t, or \\u and four hexadecimal digits')

    # errors

    ADVICE = "Correct the line, or remove it."

    def error(self, at: int, found: str, expected: str) -> DataError:
        advice = self.ADVICE
        if at == 0 and self.line.startswith(b"["):
            advice = "`jq -c '.[]'` puts every element on a line of its own."
        return DataError(f"{self.where}:{column(self.line[:at])}: found {found}, expected {expected}\n"
                         f"       {advice}")

    def character(self, at: int) -> str:
        byte = self.line[at]
        return f"'{chr(byte)}'" if 0x20 < byte < 0x7F else f"the byte 0x{byte:02X}"

    def unexpected(self, at: int, expected: str) -> DataError:
        if at < len(self.line):
            return self.error(at, self.character(at), expected)
        return DataError(f"{self.where}: the line ends inside its object, expected a whole object on every "
                         "line\n       If an object takes several lines, `jq -c .` puts it on one.")

    def other_value(self, expected: str) -> DataError:
        kinds = {"{": "an object", "[": "an array", '"': "a string", "n": "null",
                 **dict.fromkeys("tf", "true or false"), **dict.fromkeys("0123456789", "a number")}
        found = kinds.get(chr(self.line[self.at]), self.character(self.at))
        return self.error(self.at, found, expected)

    def no_text(self) -> DataError:
        """The error of an object without "text". It names what the object has instead, if that fits."""
        names = ""
        self.at = self.line.index(b"{")
        while len(names) + 50 < 256:
            self.at += 1  # behind '{' or ','
            self.skip_blanks()
            if self.peek() != b'"':
                break
            name = "".join(chr(byte) if 0x20 <= byte < 0x7F else "?" for byte in self.read_key()[:40])
            names += f'{", " if names else ""}"{name}"'
            self.skip_blanks()
            self.accept(b":")
            self.skip_blanks()
            self.skip_value()
            self.skip_blanks()
        found = f"only {names}" if names else "one that is empty"
        return DataError(f'{self.where}: expected an object with a string "text", found {found}\n'
                         f"       {self.ADVICE}")
