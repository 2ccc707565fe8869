"""The explorer of a task: looks at the files that it finds, and asks again for parts of what it saw.

It knows nothing of a task but what its commands answer. Labels are those of the terminal world's explorer: `view` is
"first" for content that nothing announced, "derivable" for output that is a function of text already shown and of the
command, "other" for the rest; `operation` names what a derivable command does. Not here: the proof that derivable
output follows from what was shown (`tests/worlds/tasks/test_task_explorer.py`).
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from envecho.seam import PolicyTurn
from envecho.trajectory import Message, Segment, Source
from envecho.worlds.terminal.boxes import Document
from envecho.worlds.terminal.operations import SINGLE, supports

LIST_FILES = "find . -type f -not -path '*/.git/*' | sort"
COUNT_FILES = "find . -type f -not -path '*/.git/*' | wc -l"
DERIVABLE_SHARE = 0.6
MISTAKE_SHARE = 0.06
MOST_LINES, MOST_CHARACTERS = 40, 2000
_PLAIN_PATH = re.compile(r"[A-Za-z0-9_./][\w./-]*\Z")
_RISKY_WORD = re.compile(r"\A-|[\\\[\]*^$'\"]")
_DELIMITERS = (",", ":", " ")


@dataclass(frozen=True, kw_only=True)
class _Step:
    command: str
    view: str
    operation: str | None = None
    shows: str | None = None

    @property
    def labels(self) -> dict[str, str]:
        return {"view": self.view, **({"operation": self.operation} if self.operation else {})}


@final
class TaskExplorer:
    """A policy that explores one episode; the same seed and answers give the same commands.

    Args:
        key: names task and seed of the episode.
        num_commands: how many commands it runs before it stops, without saying that it is done.
    """

    def __init__(self, key: str, *, num_commands: int) -> None:
        self._rng = random.Random(f"envecho-explore-task-{key}")
        self._remaining = num_commands
        self._paths: list[str] = []
        self._documents: list[Document] = []
        self._used: set[str] = set()
        self._last: _Step | None = None

    def act(self, messages: Sequence[Message]) -> PolicyTurn:
        """Learn from the last answer and return the next command."""
        if self._last is not None:
            self._learn(self._last, messages[-1])
        step = self._next_step() if self._remaining > 0 else None
        self._remaining -= 1
        if step is None:
            return PolicyTurn(message=Message(role="assistant", segments=()), finished=True)
        self._last = step
        self._used.add(step.command)
        message = Message(role="assistant", segments=(Segment(source=Source.POLICY, text=step.command),))
        return PolicyTurn(message=message, observation_labels=step.labels)

    def _learn(self, step: _Step, answer: Message) -> None:
        """Take over the files that a listing named, or the text of a file that was shown whole."""
        if any(segment.source is not Source.STDOUT for segment in answer.segments):
            return
        text = "".join(segment.text for segment in answer.segments)
        if step.command == LIST_FILES:
            found = [line.removeprefix("./") for line in text.splitlines()]
            self._paths = [path for path in found if _PLAIN_PATH.match(path)]
        if step.shows is not None and (document := as_document(step.shows, text)) is not None:
            self._documents.append(document)

    def _next_step(self) -> _Step | None:
        if LIST_FILES not in self._used:
            return _Step(command=LIST_FILES, view="first")
        chance = self._rng.random()
        if chance < MISTAKE_SHARE and self._paths:
            return self._unused(_mistake(self._rng, self._paths))
        if chance < DERIVABLE_SHARE + MISTAKE_SHARE and self._documents:
            for _ in range(20):
                step = self._derivable()
                if step.command not in self._used:
                    return step
        return self._look()

    def _derivable(self) -> _Step:
        """Draw a command about what was shown; the file that was shown last is asked for most often."""
        if self._rng.random() < 0.1:
            return _Step(command=COUNT_FILES, view="derivable", operation="count")
        document = self._documents[-1] if self._rng.random() < 0.6 else self._rng.choice(self._documents)
        operation, command = _draw(self._rng, document)
        return _Step(command=command, view="derivable", operation=operation)

    def _look(self) -> _Step | None:
        """Show a file that was not shown, or facts about one; None where all was looked at."""
        shown = {document.path for document in self._documents}
        paths = [path for path in self._paths if path not in shown and f"cat {path}" not in self._used]
        if paths and self._rng.random() < 0.85:
            path = self._rng.choice(paths)
            return _Step(command=f"cat {path}", view="first", shows=path)
        facts = [f"{command} {path}" for path in self._paths for command in ("ls -l", "stat -c %a", "wc -c")]
        facts += ["ls -la", "pwd", "id -un", *(f"cat {path}" for path in paths)]
        unused = [fact for fact in facts if fact not in self._used]
        if not unused:
            return None
        command = self._rng.choice(unused)
        if command.startswith("cat "):
            return _Step(command=command, view="first", shows=command.removeprefix("cat "))
        return _Step(command=command, view="other")

    def _unused(self, step: _Step) -> _Step | None:
        return self._look() if step.command in self._used else step


def as_document(path: str, text: str) -> Document | None:
    """Return a file's text as a document of rows, or None where it is too long, empty, or not plain text."""
    lines = text.splitlines()
    plain = text.isascii() and all(line.isprintable() for line in lines)
    short = len(lines) <= MOST_LINES and len(text) <= MOST_CHARACTERS
    if not lines or not plain or not short or text != "".join(f"{line}\n" for line in lines):
        return None
    delimiter = next((sign for sign in _DELIMITERS if _is_table(lines, sign)), None)
    rows = tuple(tuple(line.split(delimiter)) if delimiter else (line,) for line in lines)
    return Document(path=path, kind="shown", delimiter=delimiter, rows=rows)


def _is_table(lines: Sequence[str], delimiter: str) -> bool:
    counts = {line.count(delimiter) for line in lines}
    return len(lines) > 1 and len(counts) == 1 and 0 not in counts and not any(delimiter * 2 in line for line in lines)


def _draw(rng: random.Random, document: Document) -> tuple[str, str]:
    """Draw an operation and a command of it that reads this document alone."""
    while True:
        operation = rng.choice(("slice", "slice", "filter", "filter", "count", "count", "sort", "field"))
        if not supports(operation, document):
            continue
        if rng.random() < 0.4 and operation != "filter":
            return operation, _own(rng, operation, document)
        command = SINGLE[operation](rng, document)
        if operation == "slice" or not _is_risky(command):
            return operation, command


def _is_risky(command: str) -> bool:
    """Whether a word of the file, as a pattern, would be an option or more than itself."""
    words = [word for word in command.split() if word not in ("-c", "-v", "-r", "-l")]
    return words[0] == "grep" and bool(_RISKY_WORD.search(" ".join(words[1:-1])) or len(words) != 3)


def _own(rng: random.Random, operation: str, document: Document) -> str:
    """Draw a command of this operation that the terminal world does not know."""
    path, line = document.path, rng.randint(1, len(document.rows))
    column, delimiter = rng.randint(1, len(document.rows[0])), document.delimiter
    known = {
        "slice": (f"sed -n {line}p {path}", f"awk 'NR == {line}' {path}"),
        "count": (f"awk 'END {{ print NR }}' {path}", f"python3 -c \"print(len(open('{path}').readlines()))\""),
        "sort": (f"tac {path}",),
        "field": (f"awk -F'{delimiter}' '{{ print ${column} }}' {path}",),
    }
    return rng.choice(known[operation])


def _mistake(rng: random.Random, paths: Sequence[str]) -> _Step:
    path = rng.choice(paths)
    command = rng.choice((f"cat {path}.old", f"cd {path}", f"head -n x {path}", f"ls missing/{path}"))
    return _Step(command=command, view="other")
