#!/usr/bin/env python3
"""Downloads tiny Shakespeare (1.1 MB) and splits it into train.jsonl and val.jsonl.

    python3 data/shakespeare.py --out runs/shakespeare/data

The text is input.txt of karpathy/char-rnn, 40,000 lines of speeches. The script checks its SHA-256. --from
uses a copy that you already have: the file, or a folder that holds it as input.txt or tinyshakespeare.txt.
"""
from __future__ import annotations

from pathlib import Path

from text import DataError, add_split_flags, cut_at_paragraphs, download, new_parser, run, verify, write_split

URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
NAMES = ("input.txt", "tinyshakespeare.txt")


def find_copy(source: Path) -> Path:
    candidates = [source / name for name in NAMES] if source.is_dir() else [source]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise DataError(f"--from {source}: expected the text, or a folder with {' or '.join(NAMES)} in it")


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--from", type=Path, dest="source", metavar="PATH", help="use this copy")
    parser.add_argument("--url", default=URL, help="download it from here instead")
    add_split_flags(parser, val_fraction=0.1)
    args = parser.parse_args()
    if args.source is not None:
        path = find_copy(args.source)
        verify(path, sha256=SHA256)
    else:
        path = args.out / "downloads" / "tinyshakespeare.txt"
        download(args.url, path, sha256=SHA256)
    passages = cut_at_paragraphs(path.read_text(encoding="utf-8"), 4000)
    write_split(passages, args.out, args.seed, args.val_fraction)


if __name__ == "__main__":
    run(main)
