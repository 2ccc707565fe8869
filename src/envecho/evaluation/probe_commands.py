"""Which shell command a turn says, how to say another in its place, and what a command surely leaves alone.

A probe appends a command to a real history, so it must be said as this harness says commands: alone, in a fence, or as
the argument of a tool call. Nothing is run here. Where a command cannot be read for sure, the answer is that it may do
anything. Not here: what its output shows (`probe_files`).
"""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from typing import Any, Final

from envecho.evaluation.facts_actions import SHELLS
from envecho.trajectory import Message, Segment, Source, ToolCall

_ARGUMENTS: Final = ("command", "cmd")
_ANSWER: Final = "answer:"
_FENCES: Final = (
    re.compile(r"```[\w-]*\n(?P<command>.*?)\n?```", re.DOTALL),
    re.compile(r"<execute_bash>\n?(?P<command>.*?)\n?</execute_bash>", re.DOTALL),
    re.compile(
        r"<function=\w+>\s*<parameter=command>\n?(?P<command>.*?)\n?</parameter>.*?</function>",
        re.DOTALL,
    ),
)

_PROGRAMS: Final = """
[ basename cat cmp column comm cut date df diff dirname du echo egrep expr false fgrep file fold grep head hexdump id
jq join ls md5sum nl od paste printf pwd readlink realpath rev seq sha256sum sleep stat strings tac tail test tr tree
true type uname wc which whoami xxd
"""
_READ_ONLY: Final = frozenset(_PROGRAMS.split())
_WRITING_OPTIONS: Final = {
    "find": re.compile(r"-(?:delete|exec|ok|fprint|fls)"),
    "sort": re.compile(r"-[A-Za-z]*o|--output"),
}
_SEPARATORS: Final = frozenset({"|", "||", "&&", ";", "&", "|&"})
_OPERATOR: Final = re.compile(r"[();<>|&]+")
_HARMLESS_TARGETS: Final = frozenset({"/dev/null", "/dev/stdout", "/dev/stderr"})


@dataclass(frozen=True, kw_only=True)
class ShellTurn:
    """An assistant turn that says one shell command, `command`."""

    message: Message
    command: str

    def saying(self, command: str) -> Message:
        """Return the turn with another command, said in the same form.

        What the policy thought or wrote beside its own command is left out: it was about that one.
        """
        message = self.message
        if message.tool_calls:
            call = message.tool_calls[0]
            changed = ToolCall(name=call.name, id=call.id, arguments=_with_command(call.arguments, command))
            return message.model_copy(
                update={"segments": (), "reasoning": None, "sampled": None, "tool_calls": (changed,)}
            )
        found = _fenced(message.content)
        start, end = found.span("command") if found else (0, 0)
        text = f"{message.content[found.start() : start]}{command}{message.content[end : found.end()]}" if found else ""
        said = Segment(source=Source.POLICY, text=text or command)
        return message.model_copy(update={"segments": (said,), "reasoning": None, "sampled": None})


def shell_turn(message: Message) -> ShellTurn | None:
    """Return the one command that an assistant turn says; None where it says none, several, or something else.

    A call of a shell (`facts_actions.SHELLS`) says one where its arguments hold `command` or `cmd` as text, or as a
    list that ends with it; a content says one in a single fence, or where it is one line.
    """
    if message.role != "assistant" or len(message.tool_calls) > 1:
        return None
    if message.tool_calls:
        call = message.tool_calls[0]
        # An editor, too, takes a `command`, such as `create`.
        command = _called(call.arguments) if call.name.rpartition(".")[2].lower() in SHELLS else None
        return ShellTurn(message=message, command=command) if command else None
    content = message.content.strip()
    found = _fenced(content)
    command = found["command"].strip() if found else content
    if not command or (not found and ("\n" in content or content.lower().startswith(_ANSWER))):
        return None
    return ShellTurn(message=message, command=command)


@dataclass(frozen=True, kw_only=True)
class ParsedCommand:
    """A command line as far as it can be read for sure.

    `programs` are the first words of its parts, in order; `words` all its words without operators. `simple` says that
    it is one program without any operator, expansion or substitution; `read_only` that it surely changes no file and
    no working folder.

    Example: `cat a.log | grep ERROR > errors.txt`

        programs   ("cat", "grep")
        words      ("cat", "a.log", "grep", "ERROR", "errors.txt")
        simple     False
        read_only  False
    """

    programs: tuple[str, ...]
    words: tuple[str, ...]
    simple: bool
    read_only: bool


def parse_command(text: str) -> ParsedCommand | None:
    """Read one line of shell; None for several lines, or quotes that do not close."""
    if not text.strip() or "\n" in text.strip():
        return None
    lexer = shlex.shlex(text, posix=True, punctuation_chars=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    try:
        tokens = list(lexer)
    except ValueError:
        return None
    parts, harmless = _parts(tokens)
    words = tuple(word for part in parts for word in part)
    expands = any(re.search(r"[$`*?\[~{]", word) for word in words)
    substitutes = "`" in text or "$(" in text or "<(" in text
    return ParsedCommand(
        programs=tuple(part[0] for part in parts if part),
        words=words,
        simple=len(parts) == 1 and len(words) == len(tokens) and not expands,
        read_only=bool(parts) and harmless and not substitutes and all(map(_reads_only, parts)),
    )


def _parts(tokens: list[str]) -> tuple[list[list[str]], bool]:
    """Split tokens at the operators; False where something is redirected to a file, or a subshell opens."""
    parts: list[list[str]] = [[]]
    harmless, target = True, False
    for token in tokens:
        if _OPERATOR.fullmatch(token):
            if token in _SEPARATORS:
                parts.append([])
            elif token.startswith((">", "<", "&>")):
                target = token != "<"
            else:
                harmless = False
            continue
        if target:
            harmless = harmless and (token in _HARMLESS_TARGETS or token.isdigit())
        parts[-1].append(token)
        target = False
    return [part for part in parts if part], harmless


def _reads_only(words: list[str]) -> bool:
    program, options = words[0].rsplit("/", 1)[-1], words[1:]
    if program in _WRITING_OPTIONS:
        return not any(_WRITING_OPTIONS[program].match(option) for option in options)
    if program == "uniq":
        return sum(not option.startswith("-") for option in options) <= 1
    if program == "sed":
        return len(options) > 1 and options[0] == "-n" and bool(re.fullmatch(r"[\d,$]+p", options[1]))
    if program == "awk":
        return not re.search(r"[>|]|system|getline", " ".join(options))
    return program in _READ_ONLY


def _fenced(content: str) -> re.Match[str] | None:
    """The one fence of a content; None for none or several."""
    found = [match for pattern in _FENCES for match in pattern.finditer(content)]
    return found[0] if len(found) == 1 else None


def _called(arguments: str) -> str | None:
    value = _argument(arguments)
    if isinstance(value, list) and value:
        value = value[-1]
    return value.strip() if isinstance(value, str) else None


def _argument(arguments: str) -> Any:
    try:
        known: Any = json.loads(arguments)
    except ValueError:
        return None
    keys = [key for key in _ARGUMENTS if key in known] if isinstance(known, dict) else []
    return known[keys[0]] if len(keys) == 1 else None


def _with_command(arguments: str, command: str) -> str:
    known: dict[str, Any] = json.loads(arguments)
    key = next(key for key in _ARGUMENTS if key in known)
    known[key] = [*known[key][:-1], command] if isinstance(known[key], list) else command
    return json.dumps(known, ensure_ascii=False)
