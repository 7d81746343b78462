#!/usr/bin/env python3
"""test_chat_terminal.py [PROGRAM]: `chat` on a pseudo-terminal, as a person uses it.

The model is random and takes 65,536 positions, so an answer lasts for minutes unless Ctrl-C stops it. A
second model takes 96, so its conversation soon loses its oldest turns.
"""
from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CTRL_C, CTRL_D = b"\x03", b"\x04"
CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\xc2[\x80-\x9f]")  # what a terminal obeys
PATIENCE = 60.0  # seconds until something is missing
passed = failed = 0


def check(ok: bool, what: str, details: str = "") -> None:
    global passed, failed
    passed, failed = passed + ok, failed + (not ok)
    if not ok:
        print(f"FAILED {what}\n       {details}")


class Terminal:
    """The program, what it has shown so far, and how much of that has been expected."""

    def __init__(self, *arguments: str, stdout: int | None = None) -> None:
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(arguments, stdin=slave, stdout=slave if stdout is None else stdout,
                                        stderr=slave, start_new_session=True, preexec_fn=self.in_foreground)
        os.close(slave)
        self.shown, self.seen = b"", 0

    @staticmethod
    def in_foreground() -> None:
        import fcntl
        import termios
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so Ctrl-C becomes a signal

    def read(self, seconds: float) -> bool:
        """Reads what comes within these seconds; False if nothing did, or the program has ended."""
        if not select.select([self.master], [], [], seconds)[0]:
            return False
        try:
            piece = os.read(self.master, 65536)
        except OSError:  # Linux: the other side is closed
            return False
        self.shown += piece
        return bool(piece)

    def expect(self, words: str) -> None:
        end = time.monotonic() + PATIENCE
        while (at := self.shown.find(words.encode(), self.seen)) < 0 and time.monotonic() < end:
            if not self.read(1.0) and self.process.poll() is not None and not self.read(0.1):
                break
        check(at >= 0, f"expected {words!r}", repr(self.shown[self.seen:][-400:]))
        self.seen = max(self.seen, at + len(words.encode()))

    def expect_more(self, count: int) -> None:
        """Bytes of an answer, whatever they are."""
        while len(self.shown) < self.seen + count and self.read(PATIENCE):
            pass
        check(len(self.shown) >= self.seen + count, f"expected {count} bytes of an answer",
              repr(self.shown[self.seen:]))

    def type(self, keys: bytes | str) -> None:
        os.write(self.master, keys.encode() if isinstance(keys, str) else keys)

    def ends(self, code: int, what: str) -> None:
        end = time.monotonic() + PATIENCE
        while self.process.poll() is None and time.monotonic() < end:
            self.read(0.05)
        if self.process.poll() is None:
            self.process.kill()
        while self.read(0.1):
            pass
        found = self.process.wait()
        check(found == code, f"{what}: exit code {found}, expected {code}", repr(self.shown[-400:]))
        os.close(self.master)


def write_models(program: str, folder: Path) -> None:
    """random/ and short/, with the tokenizer of single bytes."""
    source = (Path(__file__).parent / "cli.sh").read_text()
    made = source[source.index("import json, random, re, struct"):source.index("\nEND\n")]
    subprocess.run([sys.executable, "-c", made], cwd=folder, check=True)
    config = json.loads((folder / "config.json").read_text())
    run = [program, "tokenize", "--tokenizer", "tokenizer.json", "--out", "train.npy", "train.jsonl"]
    subprocess.run(run, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    for name, length in (("random", 65536), ("short", 96)):
        (folder / f"{name}.json").write_text(json.dumps({**config, "max_position_embeddings": length}))
        run = [program, "train", "--config", f"{name}.json", "--tokenizer", "tokenizer.json",
               "--data", "train.npy", "--seq-len", "16", "--batch-size", "1", "--steps", "1", "--out", name]
        subprocess.run(run, cwd=folder, check=True, stdout=subprocess.DEVNULL)


def messages(path: Path) -> list[tuple[str, str]]:
    return [(m["role"], m["content"]) for m in json.loads(path.read_text())["messages"]]


def test_answers(chat: list[str], folder: Path) -> None:
    """Ctrl-C stops an answer, which stays in the conversation; the prompt comes again; Ctrl-D ends."""
    terminal = Terminal(*chat, "--load", "random", "--max-tokens", "100000000")
    terminal.expect("Ctrl-D ends)")
    terminal.expect("> ")
    terminal.type("Hi\n")
    terminal.expect("Hi\r\n")
    terminal.expect_more(40)
    check(terminal.process.poll() is None, "the answer goes on")
    terminal.type(CTRL_C)
    terminal.expect("(stopped)")
    terminal.expect("> ")
    terminal.type("/save stopped.json\n")
    terminal.expect("(2 messages saved)")
    said = messages(folder / "stopped.json")
    check(said[0] == ("user", "Hi") and said[1][0] == "assistant" and said[1][1] != "", f"saved: {said}")
    terminal.type("Again\\\n")
    terminal.expect(". ")
    terminal.type("and again\n")
    terminal.expect("again\r\n")
    terminal.expect_more(1)
    terminal.type(CTRL_C)
    terminal.expect("(stopped")
    terminal.expect("> ")
    terminal.type(CTRL_D)
    terminal.ends(0, "Ctrl-D")
    check(CONTROL.search(terminal.shown) is None, "no control characters")


def test_commands(chat: list[str], folder: Path) -> None:
    """Every command, and errors, after which the conversation goes on."""
    terminal = Terminal(*chat, "--load", "random", "--max-tokens", "3", "--system", "Be brief.")
    for typed, words in (("/help\n", "Ctrl-C stops an answer, Ctrl-D ends."),
                         ("/what\n", "error: /what: no such command"),
                         ("/temperature hot\n", "error: --temperature hot: expected a number in [0, 100]"),
                         ("/temperature 0\n", ""), ("\n", ""), ("Hi\n", "(stopped after 3 tokens"),
                         ("/save a.json\n", "(3 messages saved)"),
                         ("/save a.json\n", "a.json: cannot be created"),
                         ("/reset\n", "the system message stays)"), ("/system Be\n", ""),
                         ("/save\n", "error"), ("/save b.json\n", "(1 message saved)"),
                         (b"\xe9\n", "found the byte 0xE9 after 0 bytes"), ("Hi\n", "(stopped after 3 tokens")):
        terminal.expect("> ")
        terminal.type(typed)
        terminal.expect(words)
    roles = [role for role, _ in messages(folder / "a.json")]
    check(roles == ["system", "user", "assistant"], f"a.json: {roles}")
    check(messages(folder / "b.json") == [("system", "Be")], "b.json")
    terminal.expect("> ")
    terminal.type(CTRL_D)
    terminal.ends(0, "Ctrl-D after commands")


def test_prompt(chat: list[str]) -> None:
    """At the prompt Ctrl-C forgets the line, and a second one ends; any other line comes between them."""
    terminal = Terminal(*chat, "--load", "random", "--max-tokens", "3")
    terminal.expect("> ")
    terminal.type(b"half a question" + CTRL_C)
    terminal.expect("(Ctrl-C again, or Ctrl-D, ends)")
    terminal.expect("> ")
    terminal.type("\n")
    terminal.expect("> ")
    terminal.type("one \\\n")
    terminal.expect(". ")
    terminal.type(CTRL_C)
    terminal.expect("(Ctrl-C again, or Ctrl-D, ends)")
    terminal.expect("> ")
    terminal.type("/save c.json\n")
    terminal.expect("(0 messages saved)")
    terminal.expect("> ")
    terminal.type(CTRL_C)
    terminal.expect("ends)")
    terminal.type(CTRL_C)
    terminal.ends(0, "Ctrl-C twice")


def test_history(chat: list[str], folder: Path) -> None:
    """The oldest turns go, the system message stays, a question that is too long is refused."""
    terminal = Terminal(*chat, "--load", "short", "--max-tokens", "2", "--system", "S", "--temperature", "0")
    for number in range(4):
        terminal.expect("> ")
        terminal.type(f"q{number}\n")
        if number >= 2:
            terminal.expect("too long for the model's 96 tokens: its oldest turn is forgotten)")
        terminal.expect("(stopped after 2 tokens: --max-tokens)")
    terminal.expect("> ")
    terminal.type("x" * 80 + "\n")
    terminal.expect("error: the question has")
    terminal.expect("> ")
    terminal.type("/save d.json\n")
    terminal.expect("saved)")
    terminal.expect("> ")
    terminal.type("y" * 5000 + "\n")  # Linux drops all but 4,095 bytes
    terminal.expect("error: the ")
    asked = [content for role, content in messages(folder / "d.json") if role != "assistant"]
    check(asked[0] == "S" and asked[-1] == "q3" and "q0" not in asked, f"what remains: {asked}")
    terminal.expect("> ")
    terminal.type(CTRL_D)
    terminal.ends(0, "Ctrl-D after a long conversation")


def test_answers_elsewhere(chat: list[str], folder: Path) -> None:
    """Answers go to standard output, everything else to the terminal, which ends the program if it closes."""
    with (folder / "answers").open("wb") as file:
        terminal = Terminal(*chat, "--load", "random", "--max-tokens", "3", stdout=file.fileno())
        terminal.expect("> ")
        terminal.type("Hi\n")
        terminal.expect("(stopped after 3 tokens: --max-tokens)")
        terminal.expect("> ")
        terminal.type(CTRL_D)
        terminal.ends(0, "Ctrl-D")
    answer = (folder / "answers").read_bytes()
    check(answer.endswith(b"\n") and len(answer) >= 2 and b">" not in answer[:1], f"the answers: {answer!r}")
    terminal = Terminal(*chat, "--load", "random")
    terminal.expect("> ")
    os.close(terminal.master)
    try:
        code = terminal.process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        terminal.process.kill()
        code = 0
    check(code in (1, -signal.SIGHUP), f"a closed terminal: exit code {code}")


def test_generate(program: str) -> None:
    """`generate` shows control characters as numbers too: those of C0, DEL, and C1, which UTF-8 has as two bytes."""
    terminal = Terminal(program, "generate", "--load", "random", "--max-tokens", "300", "--prompt",
                        "a\tb\x1b[31m\x7f\u0080\u009b\u00a0c")
    terminal.expect("a\tb\\x1b[31m\\x7f\\xc2\\x80\\xc2\\x9b\u00a0c")
    terminal.ends(0, "the text ends")
    check(CONTROL.search(terminal.shown) is None, "generate: no control characters", str(terminal.shown))


def main() -> int:
    program = str(Path(sys.argv[1] if len(sys.argv) > 1 else "./train_olmo2").resolve())
    os.environ["OMP_NUM_THREADS"] = "1"
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored if the tests were started by nohup
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_models(program, folder)
        os.chdir(folder)
        chat = [program, "chat"]
        test_answers(chat, folder)
        test_commands(chat, folder)
        test_prompt(chat)
        test_history(chat, folder)
        test_answers_elsewhere(chat, folder)
        test_generate(program)
        os.chdir("/")
    print(f"{passed} passed, {failed} failed")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
