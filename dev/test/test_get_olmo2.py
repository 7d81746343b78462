#!/usr/bin/env python3
"""Tests scripts/get_olmo2.sh against a local server that answers as Hugging Face does: large files by a redirect
to another address, in pieces on request, and sometimes not at all.

    python3 dev/test/test_get_olmo2.py [NAME...]      the tests whose names contain one of the NAMEs

Needs bash, curl and NumPy.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Iterator

from data_checks import ROOT, check, check_equal, run_tests
from made_release import make_release

REVISION = "0123456789abcdef0123456789abcdef01234567"
NAME = "OLMo-2-0425-1B-Instruct"
LARGE = 10_000  # bytes from which a file is in LFS


class Hub(http.server.BaseHTTPRequestHandler):
    """One model at /allenai/NAME. The class attributes say what goes wrong."""

    protocol_version = "HTTP/1.1"
    folder: Path
    token: str | None = None  # that requests need
    listing: dict | None = None  # instead of the true one
    drops: dict[str, int] = {}  # NAME: how often its connection breaks after half of what was asked for
    errors: dict[str, list[int]] = {}  # NAME: codes that are answered first
    wrong: set[str] = set()  # files with one bit changed
    ranges = True  # whether the server can continue a download
    slow = 0.0  # seconds between pieces
    log: list[tuple[str, str]] = []  # (NAME, Range) of the downloads

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, code: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(code)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        file = path.rsplit("/", 1)[-1]
        if (
            self.token
            and not path.startswith("/cdn/")
            and self.headers["Authorization"] != f"Bearer {self.token}"
        ):
            self.answer(401)
        elif path == f"/api/models/allenai/{NAME}" and query == "blobs=true":
            self.answer(200, json.dumps(self.listing or listing(self.folder)).encode())
        elif path in (f"/allenai/{NAME}/resolve/{REVISION}/{file}", f"/cdn/{file}"):
            source = self.folder / file
            if self.errors.get(file):
                self.answer(self.errors[file].pop(0))
            elif not source.is_file():
                self.answer(404)
            elif source.stat().st_size >= LARGE and not path.startswith("/cdn/"):
                # another host, which must not see the token
                port = self.server.server_address[1]
                self.answer(302, Location=f"http://localhost:{port}/cdn/{file}")
            else:
                self.send_file(source, file)
        else:
            self.answer(404)

    def send_file(self, source: Path, file: str) -> None:
        data = bytearray(source.read_bytes())
        if file in self.wrong:
            data[len(data) // 2] ^= 1
        asked = self.headers["Range"]
        self.log.append((file, f"{asked}{' token' if self.headers['Authorization'] else ''}"))
        match = re.fullmatch(r"bytes=(\d+)-", asked or "") if self.ranges else None
        begin = int(match[1]) if match else 0
        self.send_response(206 if match else 200)
        if match:
            self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - begin))
        self.end_headers()
        end = len(data)
        if self.drops.get(file, 0) > 0:
            self.drops[file] -= 1
            end = begin + (len(data) - begin) // 2
        with contextlib.suppress(ConnectionError):
            for at in range(begin, end, 4096):
                self.wfile.write(data[at : min(at + 4096, end)])
                if self.slow:
                    self.wfile.flush()
                    time.sleep(self.slow)
        if end < len(data):
            self.close_connection = True


def listing(folder: Path) -> dict:
    siblings = [{"rfilename": "README.md", "size": 3, "blobId": "0" * 40}, {"rfilename": ".gitattributes"}]
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        entry: dict = {"rfilename": path.name, "size": len(data), "blobId": blob}
        if len(data) >= LARGE:
            entry["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
        siblings.append(entry)
    return {"id": f"allenai/{NAME}", "sha": REVISION, "siblings": siblings}


@contextlib.contextmanager
def hub(folder: Path, **troubles: object) -> Iterator[type[Hub]]:
    kind = type("ThisHub", (Hub,), {"folder": folder, "log": [], "drops": {}, "errors": {}, **troubles})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    kind.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield kind
    finally:
        server.shutdown()
        server.server_close()


def get(server: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess:
    command = ["bash", str(ROOT / "scripts/get_olmo2.sh"), *map(str, arguments)]
    env = {key: value for key, value in os.environ.items() if key not in ("HF_TOKEN", "HF_ENDPOINT")}
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=120,
        env={**env, "HF_ENDPOINT": server, **environment},
    )


def release(folder: Path) -> Path:
    return make_release(
        "1B-Instruct", folder / "release", layers=1, scale=16, shard_size=300_000, bytes_only=True
    )


def same(found: Path, expected: Path) -> bool:
    files = {path.name: path.read_bytes() for path in expected.iterdir()}
    return {path.name: path.read_bytes() for path in found.iterdir()} == files


def check_fails(result: subprocess.CompletedProcess, words: str, code: int = 1) -> None:
    ok = result.returncode == code and "error: " in result.stderr and words in result.stderr
    ok = ok and "Traceback" not in result.stderr
    check(ok, f"expected exit code {code} and {words!r}, found {result.returncode}: {result.stderr!r}")


# ----------------------------------------------------------------------------------------------


def test_download(folder: Path) -> None:
    source, target = release(folder), folder / "a b" / NAME
    shards = len(list(source.glob("*.safetensors")))
    check(shards >= 3, f"{shards} shards")
    with hub(source) as server:
        result = get(server.url, "1B-Instruct", target)
        check_equal(result.returncode, 0, f"exit code ({result.stderr})")
        check(same(target, source), "the directory is the release, without README.md")
        check("to download into" in result.stdout and " free" in result.stdout, "it says what it needs")
        check(
            result.stdout.endswith(f"chat --load {str(target).replace(' ', chr(92) + ' ')}\n"),
            "the next command",
        )
        check_equal(server.log[-1][0], "config.json", "the last file")
        # again: nothing to do
        requests = len(server.log)
        result = get(server.url, "1B-Instruct", target)
        check_equal((result.returncode, len(server.log)), (0, requests), "a second call downloads nothing")
        check("all files are there" in result.stdout, "it says so")
        # one file missing
        (target / "tokenizer.json").unlink()
        result = get(server.url, "1B-Instruct", target)
        check(result.returncode == 0 and same(target, source), "a missing file is fetched")
        check_equal(len(server.log), requests + 1, "and no other")
        # something else of that name
        (target / "config.json").write_text("{}")
        check_fails(get(server.url, "1B-Instruct", target), "config.json: is there, and differs")
        check_equal((target / "config.json").read_text(), "{}", "it is kept")
    # what was downloaded is a model
    if (ROOT / "train_olmo2").exists():
        shutil.copy(source / "config.json", target / "config.json")
        command = [ROOT / "train_olmo2", "generate", "--load", target, "--prompt", "a", "--max-tokens", "2"]
        run = subprocess.run(command, capture_output=True)
        check(run.returncode == 0 and run.stdout.startswith(b"a"), f"generate: {run.stderr}")
    else:
        print("skipped: generate with what was downloaded (./train_olmo2 is not built)")


def test_token(folder: Path) -> None:
    source = release(folder)
    with hub(source, token="secret") as server:
        check_fails(get(server.url, "1B-Instruct", folder / "a"), "HTTP 401")
        result = get(server.url, "1B-Instruct", folder / "b", HF_TOKEN="secret")
        check(result.returncode == 0 and same(folder / "b", source), f"with a token ({result.stderr})")
        sent = {"token" in asked for file, asked in server.log if (source / file).stat().st_size >= LARGE}
        check_equal(sent, {False}, "the token is sent to other hosts")


def test_interruptions(folder: Path) -> None:
    source = release(folder)
    shard = sorted(source.glob("*.safetensors"))[1].name
    size = (source / shard).stat().st_size
    with hub(source, drops={shard: 2}) as server:
        result = get(server.url, "1B-Instruct", folder / "dropped")
        check(
            result.returncode == 0 and same(folder / "dropped", source),
            f"two broken connections ({result.stderr})",
        )
        asked = [words for file, words in server.log if file == shard]
        check_equal(
            asked, ["None", f"bytes={size // 2}-", f"bytes={size // 2 + (size - size // 2) // 2}-"], "ranges"
        )
    with hub(source, drops={shard: 1}, ranges=False) as server:
        result = get(server.url, "1B-Instruct", folder / "whole")
        check(
            result.returncode == 0 and same(folder / "whole", source),
            f"a server without ranges ({result.stderr})",
        )
    with hub(source, errors={shard: [503, 502]}) as server:
        result = get(server.url, "1B-Instruct", folder / "busy")
        check(result.returncode == 0 and same(folder / "busy", source), f"a busy server ({result.stderr})")
    # Ctrl-C, which a terminal sends to all
    target = folder / "stopped"
    with hub(source, slow=0.1) as server:
        command = ["bash", str(ROOT / "scripts/get_olmo2.sh"), "1B-Instruct", str(target)]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
            env={**os.environ, "HF_ENDPOINT": server.url},
        )  # fmt: skip
        for _ in range(200):
            partial = [path for path in target.glob(".partial-*.safetensors") if path.stat().st_size > 0]
            if partial:
                break
            time.sleep(0.05)
        check(bool(partial), "a shard is on its way")
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        check_equal(process.returncode, 130, "exit code after Ctrl-C")
        check("interrupted; what was downloaded is kept" in errors, f"it says so: {errors!r}")
        check(not (target / "config.json").exists(), "an incomplete directory has no config.json")
        kept = max(path.stat().st_size for path in partial)
        server.slow = 0.0
        server.log.clear()
        result = get(server.url, "1B-Instruct", target)
        check(
            result.returncode == 0 and same(target, source), f"the same command continues ({result.stderr})"
        )
        check(any(words == f"bytes={kept}-" for _, words in server.log), f"from byte {kept}: {server.log}")


def test_two_at_once(folder: Path) -> None:
    """The second one says so and leaves the first alone, whose files it would append to."""
    source, target = release(folder), folder / "t"
    command = ["bash", str(ROOT / "scripts/get_olmo2.sh"), "1B-Instruct", str(target)]
    with hub(source, slow=0.1) as server:
        first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                 env={**os.environ, "HF_ENDPOINT": server.url})  # fmt: skip
        for _ in range(200):
            if list(target.glob(".partial-*.safetensors")):
                break
            time.sleep(0.05)
        check_fails(get(server.url, "1B-Instruct", target), "t: another download into it is running")
        server.slow = 0.0
        _, errors = first.communicate(timeout=120)
        check(first.returncode == 0 and same(target, source), f"the first one ends well ({errors})")
        check_equal(get(server.url, "1B-Instruct", target).returncode, 0, "exit code afterwards")


def test_damage(folder: Path) -> None:
    source, target = release(folder), folder / "t"
    shard = sorted(source.glob("*.safetensors"))[0].name
    with hub(source, wrong={shard}) as server:
        check_fails(get(server.url, "1B-Instruct", target), f"{shard}: what arrived")
        check(
            "has another checksum than the released file" in get(server.url, "1B-Instruct", target).stderr,
            "why",
        )
        check(
            not list(target.glob("*.safetensors")) and not list(target.glob(f".partial-*{shard}")),
            "it is removed",
        )
        server.wrong = {"generation_config.json"}
        check_fails(get(server.url, "1B-Instruct", folder / "small"), "generation_config.json: what arrived")
        server.wrong = set()
        result = get(server.url, "1B-Instruct", target)
        check(result.returncode == 0 and same(target, source), "afterwards it is well")
    # a partial file that is too long, or not the file at all
    with hub(source) as server:
        data = (source / shard).read_bytes()
        partial = f".partial-{hashlib.sha256(data).hexdigest()[:16]}-{shard}"
        (folder / "u").mkdir()
        (folder / "u" / partial).write_bytes(data + b"x")
        check_fails(get(server.url, "1B-Instruct", folder / "u"), "has another checksum")
        result = get(server.url, "1B-Instruct", folder / "u")
        check(result.returncode == 0 and same(folder / "u", source), "and is fetched anew")


def test_errors(folder: Path) -> None:
    source, target = release(folder), folder / "t"
    shard = sorted(source.glob("*.safetensors"))[0].name
    for arguments in ((), ("2B",), ("1B-Chat",), ("1B", target, "more"), ("",), ("-Instruct",)):
        check_fails(get("http://127.0.0.1:1", *arguments), "expected SIZE [DIR]", 2)
    check("downloads a released OLMo 2" in get("", "--help").stdout, "--help")
    check_fails(get("http://127.0.0.1:1", "1B-Instruct", target), "the server cannot be reached")
    check_fails(get("http://host.invalid", "1B-Instruct", target), "the server cannot be reached")
    with hub(source) as server:
        check_fails(get(server.url, "7B", target), "HTTP 404: the server has no such model or file")
        server.errors = {shard: [404]}
        check_fails(get(server.url, "1B-Instruct", target), f"{shard}: HTTP 404")
        server.errors = {shard: [503] * 9}
        check_fails(get(server.url, "1B-Instruct", target), f"{shard}: HTTP 503 from the server; run ")
        server.errors = {}
        whole = listing(source)
        server.listing = {**whole, "siblings": [{**entry} for entry in whole["siblings"]]}
        for entry in server.listing["siblings"]:
            if entry["rfilename"] == shard:
                entry["size"] = 10**15
        check_fails(
            get(server.url, "1B-Instruct", folder / "full"), "GB free, the download needs 1000000.00 GB"
        )
        for words in ({"siblings": []}, {"error": "x"}, {**whole, "siblings": whole["siblings"][:2]}):
            server.listing = words
            check_fails(
                get(server.url, "1B-Instruct", folder / "list"), "its answer is not a list of a model's files ("
            )
        evil = [{"rfilename": "../model.safetensors", "size": 1, "blobId": "0" * 40}]
        server.listing = {**whole, "siblings": whole["siblings"] + evil}
        result = get(server.url, "1B-Instruct", target)
        check(
            result.returncode == 0 and same(target, source),
            f"names with a slash are left out ({result.stderr})",
        )
        check(not (folder / "model.safetensors").exists(), "nothing outside the directory")
    (folder / "file").write_text("")
    with hub(source) as server:
        check_fails(get(server.url, "1B-Instruct", folder / "file"), "file: cannot be created")


if __name__ == "__main__":
    import test_get_olmo2

    run_tests(test_get_olmo2)
