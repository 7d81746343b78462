#!/usr/bin/env python3
"""Downloads part of the text that OLMo 2 was trained on, and splits it into train.jsonl and val.jsonl.

    python3 data/olmo_mix.py --mix dolmino-mix-1124 --list
    python3 data/olmo_mix.py --mix dolmino-mix-1124 --source wiki --source math --max-bytes 2e9 --out DIR

olmo-mix-1124 is the pretraining mix (3.9 trillion tokens), dolmino-mix-1124 the mid-training mix. The script
downloads whole shards from Hugging Face in order of their names, up to --max-bytes in total and an equal
share for each source. It resumes a broken download and checks sizes and SHA-256. --from DIR reads shards that
you already have. Unpacking .zst needs the program zstd.
"""
from __future__ import annotations

import argparse
import http.client
import json
import math
import os
import re
import shutil
import sys
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Iterator, NamedTuple

from text import DataError, add_split_flags, download, new_parser, read_documents, run, write_split

HUB = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
MIXES = ("olmo-mix-1124", "dolmino-mix-1124")
SHARD = re.compile(r"\.jsonl?(\.gz|\.zst|\.zstd)?$")


class Shard(NamedTuple):
    path: str  # in the repository, such as data/wiki/wiki-0000.json.gz
    size: int
    sha256: str | None


def list_tree(mix: str, folder: str, recursive: bool) -> Iterator[dict]:
    """The hub's entries for a folder, page by page. Each page names the next one in its Link header."""
    url = f"{HUB}/api/datasets/allenai/{mix}/tree/main/{folder}?recursive={str(recursive).lower()}"
    while url:
        try:
            with urllib.request.urlopen(url, timeout=60) as response:
                yield from json.load(response)
                following = re.search(r'<([^>]+)>;\s*rel="next"', response.headers.get("Link", ""))
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise DataError(f"{url}: {error}; the list of files cannot be read") from None
        url = following[1] if following else ""


def list_sources(mix: str) -> list[str]:
    entries = list_tree(mix, "data", recursive=False)
    return sorted(Path(entry["path"]).name for entry in entries if entry["type"] == "directory")


def list_shards(mix: str, source: str) -> list[Shard]:
    entries = list_tree(mix, f"data/{source}", recursive=True)
    return sorted(Shard(entry["path"], entry["size"], entry.get("lfs", {}).get("oid"))
                  for entry in entries if entry["type"] == "file" and SHARD.search(entry["path"]))


def choose(mix: str, sources: list[str], max_bytes: float) -> list[Shard]:
    """Shards in order of name: at least one of each source, and an equal share of max_bytes for each."""
    chosen: list[Shard] = []
    share = max_bytes / len(sources)
    for source in sources:
        shards = list_shards(mix, source)
        if not shards:
            raise DataError(f"--source {source}: {mix} has only {', '.join(list_sources(mix))}")
        if shards[0].size > share:
            raise DataError(f"--max-bytes {max_bytes:.3g}: the share of {source} is {share:.3g} bytes, but "
                            f"its first shard, {shards[0].path}, has {shards[0].size:,}: raise --max-bytes")
        used = 0
        for shard in shards:
            if used + shard.size > share:
                break
            used += shard.size
            chosen.append(shard)
    return chosen


def find_shards(folder: Path, sources: list[str]) -> list[Path]:
    """The shards in a folder, only those of these sources if any are named."""
    if not folder.is_dir():
        raise DataError(f"--from {folder}: there is no such folder")
    found = sorted(path for path in folder.rglob("*") if path.is_file() and SHARD.search(path.name)
                   and (not sources or set(sources) & set(path.relative_to(folder).parts)))
    if not found:
        of = f" of {', '.join(sources)}" if sources else ""
        raise DataError(f"{folder}: holds no .json or .jsonl shard (also .gz, .zst){of}")
    return found


def check_space(shards: list[Shard], out: Path) -> None:
    """Refuses a download that the disk has no room for."""
    out.mkdir(parents=True, exist_ok=True)
    missing = sum(shard.size for shard in shards if not (out / "downloads" / shard.path).exists())
    free = shutil.disk_usage(out).free
    if missing > free:
        raise DataError(f"--out {out}: {missing:,} bytes are to be downloaded, but only {free:,} are free; "
                        "choose a smaller --max-bytes or another disk")


def byte_count(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number of bytes")
    return value


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--mix", choices=MIXES, required=True, help="which mix")
    parser.add_argument("--source", action="append", default=[],
                        help="a part of the mix, such as wiki; may be given several times")
    parser.add_argument("--max-bytes", type=byte_count, default=1e9, help="download at most this much (1e9)")
    parser.add_argument("--from", type=Path, dest="folder", metavar="DIR", help="read the shards in DIR")
    parser.add_argument("--list", action="store_true", help="show the sources of the mix, and exit")
    add_split_flags(parser, val_fraction=0.005)
    unused = ["--out", "unused"] if "--list" in sys.argv else []
    args = parser.parse_args(sys.argv[1:] + unused)
    if args.list:
        print("\n".join(list_sources(args.mix)))
        return
    if args.folder is not None:
        files = find_shards(args.folder, args.source)
    elif not args.source:
        parser.error("--source is needed, once or several times; --list shows them")
    else:
        files = []
        shards = choose(args.mix, args.source, args.max_bytes)
        check_space(shards, args.out)
        for shard in shards:
            path = args.out / "downloads" / shard.path
            url = f"{HUB}/datasets/allenai/{args.mix}/resolve/main/{urllib.parse.quote(shard.path)}"
            download(url, path, size=shard.size, sha256=shard.sha256)
            files.append(path)
    documents = (text for path in files for text in read_documents(path))
    write_split(documents, args.out, args.seed, args.val_fraction)


if __name__ == "__main__":
    run(main)
