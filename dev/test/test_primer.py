#!/usr/bin/env python3
"""Tests data/primer.py: stories that a proofreader passes, right arithmetic, chats, junk."""

from __future__ import annotations

import collections
import random
import re
import sys
from pathlib import Path

from data_checks import check, check_equal, read_jsonl, run_tests, script

import primer
import text


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


if __name__ == "__main__":
    run_tests(sys.modules[__name__])
