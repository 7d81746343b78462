#!/usr/bin/env python3
"""Writes a small corpus from a seed and a grammar, so a first training run needs no download.

    python3 data/primer.py --kind stories --count 50000 --seed 0 --out DIR      DIR/train.jsonl, DIR/val.jsonl

stories     short children's stories: somebody wants something, something is in the way, and it gets resolved
arithmetic  word problems with worked answers: {"text", "question", "answer", "number"}
chat        conversations about both: {"messages": [{"role", "content"}, ...]}
junk        documents that repeat one phrase over and over, to test filters

No two documents are the same, so the held-out ones are new to the model. The plots are in primer_plots.py.
"""
from __future__ import annotations

import operator
import random
import re
from typing import Any, Sequence

import primer_plots as plots
from text import DataError, Splitter, add_split_flags, atomic_write, new_parser, positive, run

CHOICE = re.compile(r"\[([^\[\]]*)\]")
OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.floordiv}
ARTICLE = re.compile(r"\b([Aa]) (?=[aeiou])(?!uni|use|one\b)", re.IGNORECASE)


class Story(dict):
    """The facts of one story by name. A phrase is chosen anew each time. {Name} is {name} with a capital."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self.random = rng.random

    def pick(self, items: Sequence[Any]) -> Any:
        return items[int(self.random() * len(items))]  # unlike choice(), the same in every version of Python

    def expand(self, line: str) -> str:
        return CHOICE.sub(lambda match: self.pick(match[1].split("|")), line).format_map(self)

    def __missing__(self, name: str) -> str:
        if name[0].isupper():
            text = self[name.lower()]
            return text[0].upper() + text[1:]
        return self.expand(self.pick(plots.PHRASES[name]))

    def draw(self, rows: Sequence[plots.Row]) -> None:
        """Adds the facts of one row. They keep their values for the whole story."""
        for name, cell in self.pick(rows).items():
            self[name] = self.expand(cell)

    def add_person(self, prefix: str, gender: str) -> None:
        for case, word in zip(("he", "him", "his"), plots.PRONOUNS[gender]):
            self[prefix + case] = word

    def add_cast(self, child: bool, cast: random.Random) -> None:
        """Adds the characters, children or animals, drawn from `cast`, and what the story says about them."""
        own, self.random = self.random, cast.random
        gender, other = self.pick((("girl", "boy"), ("boy", "girl")))
        names = plots.CHILD_NAMES if child else plots.ANIMAL_NAMES
        self.update(hero=self.pick(names[gender]), friend=self.pick(names[other]))
        self.add_person("", gender)
        self.add_person("f", other)
        self.draw(plots.ADULTS)
        self.add_person("a", self["adult_gender"])
        if child:
            self.update(kind=gender, friend_kind=other)
        else:
            self.draw(plots.ANIMALS)
        self.random = own
        self["trait"] = self.pick(plots.TRAITS)
        if child:
            self["home"] = self.pick(plots.HOMES)
        self["open"] = self["open_child" if child else "open_animal"]


def write_story(rng: random.Random, name: str | None = None) -> tuple[str, Story]:
    """The text and the facts of a story that follows the plot of that name, or any plot."""
    story = Story(rng)
    story["plot"] = name or story.pick(tuple(plots.PLOTS))
    plot = plots.PLOTS[story["plot"]]
    child = plot.hero == "child" or plot.hero == "either" and story.random() < 0.5
    # Each plot has its own characters, like a series of books. A small model needs more than a few minutes to
    # learn to look back for a name; until then it would change names in mid-story.
    story.add_cast(child, random.Random(f"{story['plot']} {child}"))
    for rows in plot.tables:
        story.draw(rows)
    text = " ".join(story.expand(story.pick(beat)) for beat in plot.beats).replace(" ¶ ", "\n\n")
    return ARTICLE.sub(r"\1n ", text), story


def compute(formula: str, numbers: dict[str, int]) -> str:
    """Computes "x = a + b" and writes it with numbers: "2 + 3 = 5"."""
    name, _, left, sign, right = formula.split()
    a, b = (int(word) if word.isdigit() else numbers[word] for word in (left, right))
    numbers[name] = OPERATIONS[sign](a, b)
    return f"{a} {sign} {b} = {numbers[name]}"


def write_problem(rng: random.Random) -> tuple[str, str, int]:
    """A word problem: the question, the worked answer, and the result."""
    story = Story(rng)
    story.add_cast(True, rng)
    story.update(things=story.pick(plots.THINGS), boxes=story.pick(plots.BOXES))
    problem = story.pick(plots.PROBLEMS)
    numbers: dict[str, int] = {}
    for item in problem["numbers"].split(", "):
        if "=" in item:
            compute(item, numbers)
        else:
            name, low, high = re.split("[ -]", item)
            numbers[name] = int(low) + int(story.random() * (int(high) - int(low) + 1))
    steps = re.sub(r"\{(\w = [^}]*)\}", lambda match: compute(match[1], numbers), problem["solution"])
    story.update({name: str(number) for name, number in numbers.items()})
    result = list(numbers.values())[-1]  # of the last step
    return story.expand(problem["question"]), f"{story.expand(steps)} The answer is {result}.", result


def write_chat(rng: random.Random) -> list[dict[str, str]]:
    """The messages of a conversation: one or two requests for a story or an answer, and their follow-ups."""
    story = Story(rng)
    turns = [story.pick(plots.GREETINGS)] if story.random() < 0.2 else []
    for _ in range(1 + int(story.random() * 2)):
        if story.random() < 0.5:
            question, answer, _ = write_problem(rng)
            turns.append((question, answer))
            continue
        text, facts = write_story(rng)
        talk = plots.TALK[facts["plot"]]
        turns.append((facts.expand(facts.pick(plots.REQUESTS) % talk["request"]), text))
        if story.random() < 0.6:
            turns.append((facts.expand(talk["question"]), facts.expand(talk["answer"])))
    if story.random() < 0.2:
        turns.append(story.pick(plots.FAREWELLS))
    return [{"role": role, "content": ARTICLE.sub(r"\1n ", content)}
            for turn in turns for role, content in zip(("user", "assistant"), turn)]


def write_junk(rng: random.Random) -> str:
    """A few words of a story, repeated 32 to 80 times, with or without a sensible beginning."""
    text, story = write_story(rng)
    words = text.split()
    size, start = 1 + int(story.random() * 5), int(story.random() * (len(words) - 5))
    phrase = words[start:start + size]
    beginning = words[:int(story.random() * 40)] if story.random() < 0.5 else []
    return " ".join(beginning + phrase * (32 + int(story.random() * 49)))


def make_record(kind: str, rng: random.Random) -> tuple[dict[str, Any], str]:
    """A document as it is written, and its text, which must be unique."""
    if kind == "chat":
        messages = write_chat(rng)
        return {"messages": messages}, "\n".join(message["content"] for message in messages)
    if kind == "arithmetic":
        question, answer, number = write_problem(rng)
        text = f"Question: {question}\nAnswer: {answer}"
        return {"text": text, "question": question, "answer": answer, "number": number}, text
    text = write_junk(rng) if kind == "junk" else write_story(rng)[0]
    return {"text": text}, text


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--kind", choices=("stories", "arithmetic", "chat", "junk"), default="stories",
                        help="what to write (default %(default)s)")
    parser.add_argument("--count", type=positive, default=50000, help="how many (default %(default)s)")
    add_split_flags(parser, val_fraction=0.01)
    args = parser.parse_args()

    seen: set[str] = set()
    attempts = 0
    args.out.mkdir(parents=True, exist_ok=True)
    with atomic_write(args.out / "train.jsonl") as train, atomic_write(args.out / "val.jsonl") as val:
        splitter = Splitter(train, val, args.seed, args.val_fraction)
        while len(seen) < args.count:
            record, text = make_record(args.kind, random.Random(f"{args.seed} {args.kind} {attempts}"))
            attempts += 1
            if text not in seen:
                seen.add(text)
                splitter.add(record, text)
            elif attempts > 10 * args.count:
                raise DataError(f"--count {args.count}: the grammar has fewer different documents; "
                                f"{attempts:,} tries gave {len(seen):,}")
        splitter.finish()
    splitter.report(args.out)


if __name__ == "__main__":
    run(main)
