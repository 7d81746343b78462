#!/usr/bin/env python3
"""Compares llmc/tokenizer.h with Hugging Face's `tokenizers`, id for id, and times both.

    python3 dev/test/reference_tokenizer.py

Needs `tokenizers`, and a C compiler for dev/test/tokenizer_driver.c. `transformers` and ../shared/data are
used where they are present. The library takes no invalid UTF-8, so strings of arbitrary bytes are compared
with this reading of it: a byte outside of valid UTF-8 is a character of its own, neither letter, number nor
space. Private-use characters, which are just that, take the place of such bytes while the library cuts the
words; its model then merges the words' bytes.
"""
from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import re
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"
PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
           r"|\s*[\r\n]+|\s+(?!\S)|\s+")
SPLIT = pre_tokenizers.Split(Regex(PATTERN), "isolated")
ADDED = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>", "|||IP_ADDRESS|||", "|||EMAIL_ADDRESS|||"]

passed = failed = 0


def check(ok: bool, what: str) -> None:
    global passed, failed
    passed, failed = passed + ok, failed + (not ok)
    print(f"{'ok    ' if ok else 'FAILED'} {what}", flush=True)


# ---------------------------------------------------------------------------------------------
# the two sides

def build_driver(folder: Path) -> Path:
    driver = folder / "tokenizer_driver"
    subprocess.run([os.environ.get("CC", "cc"), "-std=c11", "-D_GNU_SOURCE", "-O3", "-I", ROOT,
                    ROOT / "dev/test/tokenizer_driver.c", "-o", driver, "-lm"], check=True)
    return driver


def encode_here(driver: Path, tokenizer: Path, strings: list[bytes]) -> tuple[list[list[int]], float]:
    """The ids of each string by tokenizer.h, and the CPU seconds. The driver checks the decoding."""
    stdin = b"".join(struct.pack("<I", len(string)) + string for string in strings)
    run = subprocess.run([driver, tokenizer], input=stdin, capture_output=True)
    if run.returncode != 0:
        raise RuntimeError(run.stderr.decode())
    words = memoryview(run.stdout).cast("I")
    rows, at = [], 0
    while at < len(words):
        rows.append(list(words[at + 1:at + 1 + words[at]]))
        at += 1 + words[at]
    return rows, float(run.stderr)


def byte_characters() -> list[str]:
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte if byte in printable else 256 + others.index(byte)) for byte in range(256)]


BYTE_CHARACTERS = byte_characters()


def encode_bytes(tokenizer: Tokenizer, added: re.Pattern[bytes], string: bytes) -> list[int]:
    """The ids of any bytes, by the library's parts: its encode() takes only text."""
    ids: list[int] = []
    for part in added.split(string):
        if added.fullmatch(part):
            ids.append(tokenizer.token_to_id(part.decode()))
            continue
        text = part.decode("utf-8", "surrogateescape")
        for _, (begin, end) in SPLIT.pre_tokenize_str(re.sub("[\ud800-\udfff]", "\ue000", text)):
            word = text[begin:end].encode("utf-8", "surrogateescape")
            spelled = "".join(BYTE_CHARACTERS[byte] for byte in word)
            ids += [token.id for token in tokenizer.model.tokenize(spelled)]
    return ids


def compare(driver: Path, path: Path, texts: list[str], what: str) -> None:
    """Every text has the ids that the library gives, and the library decodes them to the text."""
    tokenizer = Tokenizer.from_file(str(path))
    found, _ = encode_here(driver, path, [text.encode() for text in texts])
    expected = [encoding.ids for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
    wrong = [i for i in range(len(texts)) if found[i] != expected[i]]
    for i in wrong[:3]:
        print(f"       {texts[i][:200]!r}\n       found {found[i][:40]}\n       expected {expected[i][:40]}")
    decoded = tokenizer.decode_batch(expected, skip_special_tokens=False) == texts
    tokens = sum(map(len, expected))
    check(not wrong and decoded, f"{what}: {len(texts):,} strings, {tokens:,} tokens, {len(wrong)} differ"
                                 + ("" if decoded else ", decoding differs"))


def compare_bytes(driver: Path, path: Path, strings: list[bytes], what: str) -> None:
    tokenizer = Tokenizer.from_file(str(path))
    contents = [token["content"].encode() for token in json.loads(path.read_text("utf-8"))["added_tokens"]]
    contents.sort(key=len, reverse=True)  # the longest of those that begin at one place
    added = re.compile(b"(" + b"|".join(map(re.escape, contents)) + b")")
    found, _ = encode_here(driver, path, strings)
    expected = [encode_bytes(tokenizer, added, string) for string in strings]
    wrong = [i for i in range(len(strings)) if found[i] != expected[i]]
    for i in wrong[:3]:
        print(f"       {strings[i]!r}\n       found {found[i]}\n       expected {expected[i]}")
    check(not wrong, f"{what}: {len(strings):,} strings, {len(wrong)} differ")


# ---------------------------------------------------------------------------------------------
# tokenizers to compare with

def trained(path: Path) -> None:
    """A tokenizer that the library itself trains and writes, on this project's sources."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [SPLIT, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=3000, special_tokens=ADDED, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train([str(file) for file in sorted((ROOT / "llmc").glob("*.h"))], trainer)
    tokenizer.save(str(path))


def made_up(rng: random.Random, path: Path) -> str:
    """A tokenizer of random merges over few letters: ties, overlaps and dead ends. Returns the letters.

    Its added tokens are of the same letters, so they overlap too, with and without "normalized".
    """
    letters = rng.sample("abc é1 '\n", rng.randint(1, 5))
    tokens = list(dict.fromkeys(BYTE_CHARACTERS[byte] for letter in letters for byte in letter.encode()))
    merges: list[tuple[str, str]] = []
    for _ in range(rng.randint(0, 40)):
        pair = rng.choice(tokens), rng.choice(tokens)
        if pair not in merges and len(pair[0] + pair[1]) <= 24:
            merges.append(pair)
            tokens = list(dict.fromkeys([*tokens, pair[0] + pair[1]]))
    tokens += [character for character in BYTE_CHARACTERS if character not in tokens]
    rng.shuffle(tokens)
    contents = {"".join(rng.choices(letters, k=rng.randint(2, 5))): None for _ in range(rng.randint(0, 6))}
    entries, outside = [], len(tokens)
    for content in contents:
        known = content in tokens
        if known and not content.isascii():
            continue  # in the vocabulary it is not this text, but spells a byte
        entries.append({"id": tokens.index(content) if known else outside, "content": content,
                        "single_word": False, "lstrip": False, "rstrip": False,
                        "normalized": rng.random() < 0.5, "special": rng.random() < 0.5})
        outside += not known
    document = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": entries, "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Removed", "invert": True},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}]},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
                  "end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False,
                  "ignore_merges": rng.random() < 0.3, "vocab": {token: i for i, token in enumerate(tokens)},
                  "merges": [" ".join(pair) for pair in merges] if rng.random() < 0.5 else merges},
    }
    path.write_text(json.dumps(document, ensure_ascii=rng.random() < 0.5), "utf-8")
    return "".join(letters)


# ---------------------------------------------------------------------------------------------
# strings to compare on

NASTY = [
    # contractions and what looks like them
    "'s", "'S", "'\u017f", "'re", "'RE", "'Ll", "'lL", "'ve", "'d", "'M", "'t", "'", "''", "\u2019s", "'x",
    "'l", "'r",
    # white space, and controls that are not
    " ", "  ", "   ", "\t", "\n", "\r", "\r\n", "\n\r", "\n\n", " \n", "\n ", "\t\n \n", "\v", "\f", "\x85",
    "\xa0", "\u1680", "\u2007", "\u2028", "\u2029", "\u202f", "\u205f", "\u3000", "\x00", "\x1c", "\x1f",
    "\x7f", "\u180e", "\u200b", "\ufeff",
    # digits and other numbers
    "0", "7", "42", "123", "1234", "\u0661\u0662\u0663", "\u0967", "\u00bd", "\u2167", "\u3007",
    "\U0001d7d8",
    # letters, with and without combining marks, and of several cases and scripts
    "a", "B", "word", "The", "don", "\u00e9", "e\u0301", "\u0301", "\u20dd", "n\u0303o", "\u017f", "\u212a",
    "\u1e9e", "\ufb06", "\u0130", "\u01c5", "\u02b0", "\u05d0", "\u0627\u0644", "\u0915\u094d\u0937",
    "\u0e01\u0e33", "\ud55c", "\u1112\u1161", "\u4e00", "\u6771\u4eac", "\u3042", "\U00020000",
    "\U0001e900",
    # unassigned, private, not characters; U+105C0 is a letter since Unicode 16
    "\u0378", "\U000105c0", "\U0002fffe", "\uffff", "\ue000", "\U0010ffff", "\U000e0001",
    # symbols
    "!", "...", "-", "_", "$", "%", "/", "://", "(", ")", "[", "]", "{}", "<", ">", "|", "<|", "|>", "||",
    "|||", "\\", "\u00b7", "\u2014", "\u2026", "\u201c", "\U0001f642", "\U0001f468\u200d\U0001f469",
    "\U0001f1fa\U0001f1f8",
    # added tokens, and nearly
    *ADDED, "<|endoftext|", "|endoftext|>", "<|im_start|><|im_end|>", "|||IP_ADDRESS||||",
]
BROKEN = [b"", b"\x80", b"\xe2\x82", b"\xed\xa0\x80", b"\xf4\x90", b"\xc0\xaf", b"\xff", b"\xf0\x9f\x99"]


def nasty_text(rng: random.Random) -> str:
    pieces = rng.choices(NASTY, k=rng.randint(1, 12))
    return "".join(piece * rng.choice((1, 1, 1, 1, 2, 3, 9)) for piece in pieces)


def random_text(rng: random.Random) -> str:
    """Code points from all planes, from one block, or from ASCII."""
    blocks = (0, 0x110000), (0, 128), (0, 0x800), (0, 0x3000), (rng.randrange(0x110000 - 64), 64)
    begin, size = rng.choice(blocks)
    codes = (begin + rng.randrange(size) for _ in range(rng.randint(1, 24)))
    return "".join(chr(code) for code in codes if not 0xD800 <= code <= 0xDFFF)


def random_bytes(rng: random.Random) -> bytes:
    """Noise, or text with some bytes replaced or cut out."""
    if rng.random() < 0.3:
        return rng.randbytes(rng.randint(1, 24))
    string = bytearray((nasty_text if rng.random() < 0.5 else random_text)(rng).encode())
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(string) + 1)
        string[at:at + rng.randint(0, 2)] = rng.choice(BROKEN)
    return bytes(string)


def shared_texts() -> Iterator[tuple[str, str]]:
    """The texts of ../shared. Of an evaluation, whose questions repeat five examples, every 16th question."""
    for file in sorted(SHARED.rglob("*")):
        if file.suffix in (".txt", ".json", ".jsonl", ".md") and "tokenizer" not in file.parts:
            yield str(file.relative_to(SHARED)), file.read_bytes().decode()
        elif file.suffix == ".gz":
            lines = gzip.decompress(file.read_bytes()).decode().splitlines(keepends=True)
            yield str(file.relative_to(SHARED)), "".join(lines[::16])


# ---------------------------------------------------------------------------------------------
# the checks

def check_classes() -> None:
    """Every code point has the class in llmc/unicode.h that the library's regular expressions give it."""
    header = (ROOT / "llmc/unicode.h").read_text()
    table = {int(code): set() for code in "123"}
    for first, last, kind in re.findall(r"\{(0x[0-9a-f]+), (0x[0-9a-f]+), ([123])\}", header):
        table[int(kind)].update(range(int(first, 16), int(last, 16) + 1))
    everything = "".join(chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code <= 0xDFFF)
    parts = [everything[i:i + 4096] for i in range(0, len(everything), 4096)]
    for kind, name in ((1, r"\p{L}"), (2, r"\p{N}"), (3, r"\s")):
        keep = pre_tokenizers.Split(Regex(name + "+"), "removed", invert=True)
        found = {ord(c) for part in parts for run, _ in keep.pre_tokenize_str(part) for c in run}
        check(found == table[kind], f"{name}: {len(table[kind]):,} of {len(everything):,} code points, "
                                    f"{len(found ^ table[kind])} differ")


def check_strings(driver: Path, path: Path, name: str, count: int) -> None:
    rng = random.Random(1)
    codes = [*range(0xD800), *range(0xE000, 0x20000), *range(0x20000, 0x110000, 61)]
    around = [f"'{c}e {c}a1{c} {c}{c}\n{c}  {c}" for c in map(chr, codes)]
    together = ["".join(around[i:i + 64]) for i in range(0, len(around), 64)]
    compare(driver, path, together, f"{name}: {len(codes):,} code points")
    compare(driver, path, [nasty_text(rng) for _ in range(count // 2)], f"{name}: nasty")
    compare(driver, path, [random_text(rng) for _ in range(count // 4)], f"{name}: random Unicode")
    compare_bytes(driver, path, [random_bytes(rng) for _ in range(count // 4)], f"{name}: random bytes")
    long = [part * 50_000 for part in ("aa", "  ", "\n\n", " a", "\u00e9", "=")]
    long += ["".join(rng.choices(letters, k=100_000)) for letters in ("ab", "abcdefgh", "019", NASTY)]
    compare(driver, path, long, f"{name}: long")


def check_made_up(driver: Path, folder: Path, count: int) -> None:
    rng = random.Random(2)
    strings = wrong = 0
    for _ in range(count):
        path = folder / "made_up.json"
        letters = made_up(rng, path)
        texts = ["".join(rng.choices(letters, k=rng.choice((1, 3, 8, 20, 70, 200)))) for _ in range(100)]
        tokenizer = Tokenizer.from_file(str(path))
        found, _ = encode_here(driver, path, [text.encode() for text in texts])
        for text, ids in zip(texts, found):
            wrong += ids != tokenizer.encode(text, add_special_tokens=False).ids
        strings += len(texts)
    check(wrong == 0, f"{count} made-up tokenizers: {strings:,} strings, {wrong} differ")


def check_added(driver: Path, path: Path, folder: Path) -> None:
    """Tokens that add_tokens appends: "normalized" as it likes, and overlapping with others."""
    tokenizer, rng = Tokenizer.from_file(str(path)), random.Random(4)
    added = ["<think>", "</think>", "<|pad|><think>", "k>", "\u6771\u4eac", "  ", "|||"]
    tokenizer.add_tokens([AddedToken(content, normalized=rng.random() < 0.6) for content in added])
    tokenizer.save(str(folder / "added.json"))
    texts = ["".join(rng.choices(NASTY + 3 * added, k=rng.randint(1, 12))) for _ in range(5000)]
    compare(driver, folder / "added.json", texts, "tokens appended by add_tokens")
    shared = ROOT.parent / "shared/cases"
    if shared.exists():
        texts.append((shared / "added_token.txt").read_text())
        compare(driver, shared / "added_token.json", texts, "../shared/cases/added_token.json")


def check_saved_again(driver: Path, path: Path, folder: Path) -> None:
    """What transformers writes after loading the file can be read, and gives the same ids."""
    try:
        from transformers import PreTrainedTokenizerFast
    except ImportError:
        print("skipped: a directory saved by transformers (transformers is not installed)")
        return
    rng = random.Random(3)
    texts = [nasty_text(rng) for _ in range(2000)]
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(path), eos_token="<|endoftext|>")
    tokenizer.save_pretrained(folder / "saved")
    compare(driver, folder / "saved/tokenizer.json", texts, f"{path.name} saved by transformers")


def measure(driver: Path, path: Path) -> None:
    """MB per CPU second of both, on one thread, in turns on the same documents."""
    text = "".join(text for name, text in shared_texts() if name.startswith("pretrain/"))
    documents = [text[i:i + 4096] for i in range(0, len(text), 4 * 4096)]
    strings = [document.encode() for document in documents]
    megabytes = sum(map(len, strings)) / 1e6
    tokenizer = Tokenizer.from_file(str(path))
    here, there = [], []
    for _ in range(3):
        here.append(encode_here(driver, path, strings)[1])
        begin = time.process_time()
        tokenizer.encode_batch_fast(documents, add_special_tokens=False)
        there.append(time.process_time() - begin)
    ratio = sorted(b / a for a, b in zip(here, there))[1]
    check(ratio >= 1.0, f"speed on {megabytes:.1f} MB of text: {megabytes / min(here):.1f} MB/s here, "
                        f"{megabytes / min(there):.1f} MB/s by tokenizers, median ratio of 3: {ratio:.1f}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100_000, help="random strings (%(default)s)")
    count = parser.parse_args().count
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        driver = build_driver(folder)
        check_classes()
        own = folder / "trained.json"
        trained(own)
        check_strings(driver, own, "trained here", count)
        check_made_up(driver, folder, 200)
        check_saved_again(driver, own, folder)
        check_added(driver, own, folder)
        olmo2 = SHARED / "tokenizer/dolma2_tokenizer.json"
        if olmo2.exists():
            check_strings(driver, olmo2, "OLMo 2", count)
            folders: dict[str, list[str]] = {}
            for file, text in shared_texts():
                lines = text.splitlines(keepends=True) if len(text) < 1_000_000 else []
                folders.setdefault(file.split("/")[0], []).extend([text, *lines])
            for topic, texts in folders.items():
                compare(driver, olmo2, texts, f"OLMo 2: {topic}")
            check_saved_again(driver, olmo2, folder)
            measure(driver, olmo2)
        else:
            print("skipped: OLMo 2's own tokenizer, its texts and the speed (../shared not present)")
    print(f"{passed} passed, {failed} failed")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
