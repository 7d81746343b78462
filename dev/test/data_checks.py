"""What the tests of data/ and scripts/ share: checks that are counted, and how a test file is run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from types import ModuleType
from typing import Callable

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "data"))

import text

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


def script(
    path: str, *arguments: object, cwd: Path = ROOT, **environment: str
) -> subprocess.CompletedProcess:
    """Runs a Python script of the project and returns its result."""
    command = [sys.executable, str(ROOT / path), *map(str, arguments)]
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, env={**os.environ, **environment}
    )


def read_jsonl(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def run_tests(*modules: ModuleType) -> None:
    """Runs the test_ functions of the modules, or only those whose names contain one of the arguments."""
    global failed
    for module in modules:
        for name, test in vars(module).items():
            if not name.startswith("test_") or not callable(test):
                continue
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
