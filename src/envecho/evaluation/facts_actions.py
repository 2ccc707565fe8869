"""Which action an observation answers: its tool, its program, and whether the episode had it answered alike before.

Where a trace does not say it, it is unknown: prose is no command, and the second of two calls in one turn is not told
from the first. Not here: how the action fared (`facts_status`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Final, cast

from envecho.trajectory import CALL_LABEL, CallOutcome, Message, Role, Source, ToolCall
from envecho.worlds.tool_calls import CallText, FinalAnswer, parse_action

_SHELL_NAMES: Final = """
bash bash_command bash_tool exec exec_command execute_bash execute_command local_shell run_command run_in_terminal
run_shell_command run_terminal_cmd sh shell shell_command terminal
"""
SHELLS: Final = frozenset(_SHELL_NAMES.split())
"""Tools whose argument is a command line, in lower case."""

_COMMAND_KEYS: Final = ("command", "cmd", "keystrokes", "script")
_SHELL_SOURCES: Final = frozenset({Source.STDOUT, Source.STDERR})
_LONGEST: Final = 4096
"""Characters of an action that are read for its program; the first word stands at the beginning."""

_FENCE: Final = "```"
_FENCED_SHELLS: Final = frozenset({"", "bash", "sh", "shell", "console", "mswea_bash_command"})
_TAGS: Final = ("<execute_bash>", "</execute_bash>")
_KEYSTROKES: Final = re.compile(r'"keystrokes"\s*:\s*("(?:[^"\\]|\\.)*")')
_BEFORE_PROGRAM: Final = re.compile(
    r"[\s({!]+|#[^\n]*"
    r"|cd\s[^;&|\n]*(?:&&|;|\n)\s*(?=\S)"
    r"|set\s+[-+][^;&|\n]*(?:&&|;|\n)\s*(?=\S)"
    r"|[A-Za-z_]\w*=(?:\"[^\"]*\"|'[^']*'|[^\s;&|\"'])*(?:\s|;|&&)"
    r"|(?:sudo|env|time|nohup|exec|command|nice|timeout|stdbuf)(?:\s+-u\s+\S+|\s+-\S+|\s+\d\S*)*\s+(?=[\w./\[])"
    r"|(?:/\S+/)?(?:ba|z|da)?sh\s+-\w*c\s+[\"']?"
)
"""What may stand before a program without being it: a folder to go to, assignments, `sudo` and its like, a shell."""

_WORD: Final = re.compile(r"[^\s;&|()<>\"'`$]+")
_GOES_ON: Final = re.compile(r"[$`]|[\"'][^\s;&|()]")
"""What is neither the end of a word nor a word that this module reads: `I'm`, `py$version`."""

_PROGRAM: Final = re.compile(r"[A-Za-z0-9_.+\[-]{1,64}")


@dataclass(frozen=True, kw_only=True)
class AnsweredAction:
    """What an observation answers; `text` is the same for the same action of one episode, None where it is unknown."""

    text: str | None = None
    tool: str | None = None
    command: str | None = None


def answered_action(messages: Sequence[Message], turn: int) -> AnsweredAction:
    """Return the action that message `turn` answers.

    A message with `tool_call_id` answers that call, any other the one call of the last assistant turn, or that turn's
    text.
    """
    answer = messages[turn]
    before = next((place for place in range(turn - 1, -1, -1) if messages[place].role == "assistant"), None)
    call = None if before is None else _call(messages, before, turn)
    if call is not None:
        line = _command_line(call.name, call.arguments)
        return AnsweredAction(
            text=f"{call.name}\0{call.arguments}",
            tool=_own_tool(answer) or call.name,
            command=call.name if line is None else _program(line),
        )
    if before is None or messages[before].tool_calls or answer.tool_call_id is not None:
        return AnsweredAction(tool=_own_tool(answer) or answer.name)
    content = messages[before].content
    said = parse_action(content)
    if isinstance(said, FinalAnswer):
        return AnsweredAction(text=content, tool=_own_tool(answer))
    if isinstance(said, CallText):
        return AnsweredAction(text=str(said), tool=_own_tool(answer), command=said.name)
    line = _said_command(content, answer)
    return AnsweredAction(
        text=line or content, tool=_own_tool(answer), command=None if line is None else _program(line)
    )


def repeated_turns(messages: Sequence[Message], actions: Mapping[int, AnsweredAction]) -> frozenset[int]:
    """Return the turns whose action was answered by the same text earlier in the episode."""
    seen: set[tuple[str, str]] = set()
    repeated: set[int] = set()
    for turn in sorted(actions):
        text = actions[turn].text
        if text is None:
            continue
        pair = (text, "".join(s.text for s in messages[turn].segments if s.source.role is Role.ENV_OUTPUT))
        if pair in seen:
            repeated.add(turn)
        seen.add(pair)
    return frozenset(repeated)


def _call(messages: Sequence[Message], before: int, turn: int) -> ToolCall | None:
    """The structured call that a message answers: by its id, else the only one, else by its place among the results."""
    answer, calls = messages[turn], messages[before].tool_calls
    if answer.tool_call_id is not None:
        called = (call for message in messages[before::-1] for call in message.tool_calls)
        return next((call for call in called if call.id == answer.tool_call_id), None)
    if len(calls) < 2:
        return calls[0] if calls else None
    results = list(takewhile(lambda place: messages[place].role == "tool", range(before + 1, len(messages))))
    return calls[turn - before - 1] if len(results) == len(calls) and turn in results else None


def _own_tool(answer: Message) -> str | None:
    """The one tool that the message's segments name; None for none or several."""
    tools = {segment.tool for segment in answer.segments if segment.tool is not None}
    return tools.pop() if len(tools) == 1 else None


def _command_line(tool: str, arguments: str) -> str | None:
    """The command line of a shell's call; None for another tool. A bare name (`shell`) may have it as plain text."""
    if tool.rpartition(".")[2].lower() not in SHELLS:
        return None
    try:
        known: Any = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    if not isinstance(known, dict):
        return known if isinstance(known, str) else None
    value = next((known[key] for key in _COMMAND_KEYS if key in known), None)
    if isinstance(value, list) and all(isinstance(word, str) for word in cast("list[Any]", value)):
        words = cast("list[str]", value)
        return " ".join(words)
    return value if isinstance(value, str) else None


def _said_command(content: str, answer: Message) -> str | None:
    """The command line that a text says: its one fence, or all of it where a shell or a world of ours ran it whole."""
    opening, closing = _TAGS
    if opening in content:
        inside = content.partition(opening)[2].partition(closing)[0]
        return inside if content.count(opening) == 1 else None
    if _FENCE in content:
        blocks = [block.partition("\n") for block in content.split(_FENCE)[1::2]]
        lines = [body for language, _, body in blocks if language.strip() in _FENCED_SHELLS]
        return lines[0] if len(lines) == 1 else None
    typed = _KEYSTROKES.search(content)
    if typed:
        return str(json.loads(typed[1], strict=False))
    sources = {segment.source for segment in answer.segments}
    carried_out = answer.labels.get(CALL_LABEL, CallOutcome.UNPARSED) != CallOutcome.UNPARSED
    return content if sources & _SHELL_SOURCES or carried_out else None


def _program(line: str) -> str | None:
    """The name of the program that a command line starts first, without its folder; None where no word can be one."""
    line = line[:_LONGEST]
    start = 0
    while (skipped := _BEFORE_PROGRAM.match(line, start)) and skipped.end() > start:
        start = skipped.end()
    word = _WORD.match(line, start)
    if word is None or _GOES_ON.match(line, word.end()):
        return None
    name = word.group().rstrip("/").rpartition("/")[2]
    return name if _PROGRAM.fullmatch(name) else None
