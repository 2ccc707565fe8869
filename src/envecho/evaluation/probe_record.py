"""What an episode's own record proves about files: which paths exist, which do not, and how long a shown file is.

Only answers count as proof: a program that read the path, a listing that names it or leaves it out, or an error that
says that there is no such file. A proof holds until a command that may change files or the working folder; a command
that cannot be read for sure may change anything. Nothing is inferred from a task's text or from what is usual. No proof
knows of changes that no command of the episode made. Not here: the questions (`probe_files`).
"""

from __future__ import annotations

import getopt
import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from envecho.evaluation.probe_commands import ParsedCommand, parse_command, shell_turn
from envecho.evaluation.probe_status import StatusHabit, is_whole
from envecho.trajectory import Message, Role, Source, Trajectory

_OPTIONS: Final[Mapping[str, str]] = {
    "cat": "AbeEnstTuv",
    "head": "n:c:qvz",
    "tail": "n:c:qvz",
    "wc": "clLmw",
    "sort": "bdfgiMhnRrVk:t:uzcsS:T:",
    "cut": "b:c:d:f:sz",
    "nl": "b:d:f:h:i:l:n:ps:v:w:",
    "tac": "brs:",
    "rev": "",
}
"""Programs that read each operand as a file and fail where there is none, with their short options for getopt."""

_LISTING_OPTIONS: Final = "1aAp"
_FINDING: Final = frozenset({"-type", "-name", "-maxdepth", "-mindepth"})
_REFUSED: Final = re.compile(
    r"^[^\s:]+: (?:line \d+: )?(?:[^\s:]+: )?(?:cannot (?:access|open|stat) )?['\"‘]?(?P<path>[^\s:'\"’]+)['\"’]?"
    r"(?: for reading)?: No such file or directory$",
    re.MULTILINE,
)
_ERRORS: Final = frozenset({Source.STDERR, Source.TOOL_ERROR})


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """A command and the one message that answers it, message `turn` of the episode."""

    trajectory: Trajectory
    turn: int
    command: str

    @property
    def answer(self) -> Message:
        """The answer."""
        return self.trajectory.messages[self.turn]


@dataclass(frozen=True, kw_only=True)
class PathProof:
    """Message `turn` shows that `path` exists, or that it does not; no command up to message `until` changes that."""

    path: str
    exists: bool
    turn: int
    until: int


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Message `turn` lists all `names` of `folder` (None: the working folder) that do not begin with a dot."""

    folder: str | None
    names: frozenset[str]
    turn: int
    until: int


@dataclass(frozen=True, kw_only=True)
class ShownFile:
    """Message `turn` shows all of the file `path`, which has `num_lines` newlines."""

    path: str
    turn: int
    num_lines: int


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """All that an episode proves; `num_unended` outputs of `cat FILE` do not end with a newline.

    Of those nobody knows whether the file or the harness lacks it, so the number of lines is not certain.
    """

    proofs: tuple[PathProof, ...]
    listings: tuple[Listing, ...]
    shown: tuple[ShownFile, ...]
    num_unended: int


def shell_exchanges(trajectory: Trajectory) -> Iterator[Exchange]:
    """Yield each shell command of an episode that exactly one message answers."""
    messages = trajectory.messages
    for turn in range(1, len(messages)):
        after = messages[turn + 1].role if turn + 1 < len(messages) else "assistant"
        said = shell_turn(messages[turn - 1])
        if said is not None and messages[turn].role != "assistant" and after == "assistant":
            yield Exchange(trajectory=trajectory, turn=turn, command=said.command)


def file_record(trajectory: Trajectory, habit: StatusHabit) -> FileRecord:
    """Return what an episode proves about its files."""
    proofs: list[PathProof] = []
    listings: list[Listing] = []
    shown: list[ShownFile] = []
    num_unended = 0
    for stretch in _stretches(trajectory):
        until = stretch[-1][0].turn
        proofs += _agreed([proof for pair in stretch for proof in _proofs(*pair, habit, until)])
        listings += [listing for pair in stretch for listing in _listings(*pair, habit, until)]
        for exchange, parsed in stretch:
            text = _succeeded(exchange, habit)
            if not text or not parsed.simple or len(parsed.words) != 2 or parsed.words[0] != "cat":
                continue
            if text.endswith("\n") and not parsed.words[1].startswith("-"):
                lines = text.count("\n")
                shown.append(ShownFile(path=parsed.words[1], turn=exchange.turn, num_lines=lines))
            else:
                num_unended += 1
    return FileRecord(proofs=tuple(proofs), listings=tuple(listings), shown=tuple(shown), num_unended=num_unended)


def _stretches(trajectory: Trajectory) -> list[list[tuple[Exchange, ParsedCommand]]]:
    """Cut the episode where something may have changed: runs of commands that surely only read."""
    exchanges = {exchange.turn: exchange for exchange in shell_exchanges(trajectory)}
    stretches: list[list[tuple[Exchange, ParsedCommand]]] = [[]]
    for turn, message in enumerate(trajectory.messages, start=1):
        if message.role != "assistant":
            continue
        exchange = exchanges.get(turn)
        parsed = None if exchange is None else parse_command(exchange.command)
        if exchange is None or parsed is None or not parsed.read_only:
            stretches.append([])
        else:
            stretches[-1].append((exchange, parsed))
    return [stretch for stretch in stretches if stretch]


def _succeeded(exchange: Exchange, habit: StatusHabit) -> str | None:
    """The whole output of a command that printed no error and is not known to have failed; None otherwise."""
    answer = exchange.answer
    complained = any(segment.source in _ERRORS and segment.text.strip() for segment in answer.segments)
    if complained or habit.status(answer) not in (None, 0) or not is_whole(answer):
        return None
    text = _output(answer)
    program = exchange.command.split()[0]
    # Where errors stand in the output itself and no status is stated, they open with the program or the shell.
    return None if re.search(rf"^(?:{re.escape(program)}|(?:/bin/)?(?:ba)?sh): ", text, re.MULTILINE) else text


def _output(answer: Message) -> str:
    return "".join(segment.text for segment in answer.segments if segment.source.role is Role.ENV_OUTPUT)


def _proofs(exchange: Exchange, parsed: ParsedCommand, habit: StatusHabit, until: int) -> Iterator[PathProof]:
    def proof(path: str, exists: bool) -> PathProof:
        return PathProof(path=path, exists=exists, turn=exchange.turn, until=until)

    if is_whole(exchange.answer):
        for match in _REFUSED.finditer(_output(exchange.answer)):
            if match["path"] in parsed.words:
                yield proof(match["path"], False)
    text = _succeeded(exchange, habit)
    if text is None or not parsed.simple:
        return
    program, arguments = parsed.words[0], parsed.words[1:]
    if program in _OPTIONS:
        yield from (proof(path, True) for path in _operands(arguments, _OPTIONS[program]) or ())
    elif program == "find" and all(word in _FINDING for word in arguments if word.startswith("-")):
        yield from (proof(line, True) for line in text.splitlines() if _is_plain(line))
    for listing in _listings(exchange, parsed, habit, until):
        yield from (proof(_below(listing.folder, name), True) for name in sorted(listing.names))


def _listings(exchange: Exchange, parsed: ParsedCommand, habit: StatusHabit, until: int) -> Iterator[Listing]:
    text = _succeeded(exchange, habit)
    operands = _operands(parsed.words[1:], _LISTING_OPTIONS)
    if text is None or not parsed.simple or parsed.words[0] != "ls" or operands is None or len(operands) > 1:
        return
    lines = [line.rstrip("/") for line in text.splitlines()]
    # Several names on a line are columns, and a file that is named itself is no folder.
    if all(map(_is_plain, lines)) and lines != operands:
        names = frozenset(line for line in lines if not line.startswith("."))
        yield Listing(folder=operands[0] if operands else None, names=names, turn=exchange.turn, until=until)


def _agreed(proofs: list[PathProof]) -> list[PathProof]:
    """Return the earliest proof of each path, and none of a path about which two disagree."""
    by_path: dict[str, list[PathProof]] = {}
    for proof in proofs:
        by_path.setdefault(posixpath.normpath(proof.path), []).append(proof)
    return [found[0] for found in by_path.values() if len({proof.exists for proof in found}) == 1]


def _operands(arguments: tuple[str, ...], options: str) -> list[str] | None:
    """The arguments that are no options; None where an option is not known."""
    try:
        return getopt.gnu_getopt(list(arguments), options)[1]
    except getopt.GetoptError:
        return None


def _is_plain(line: str) -> bool:
    return bool(line) and not re.search(r"[\s'\"]", line)


def _below(folder: str | None, name: str) -> str:
    return name if folder is None else posixpath.join(folder, name)
