"""A Dockerfile as its instructions, in order. Not here: which of them can be carried out (`locally`)."""

from __future__ import annotations

import re
from dataclasses import dataclass

_INSTRUCTION = re.compile(r"\s*([A-Za-z]+)\s+(.*)\Z", re.DOTALL)
_DIRECTIVE = re.compile(r"\s*#\s*(syntax|escape|check)\s*=\s*(\S+)", re.IGNORECASE)
_VARIABLE = re.compile(r"\\\$|\$(?:(\w+)|\{(\w+)(?::-([^}]*))?\})")


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """One instruction: `COPY`, `data/ /app/`, and the line where it starts."""

    keyword: str
    text: str
    line: int

    def __str__(self) -> str:
        """The instruction on one line, cut where it is long."""
        text = f"{self.keyword} {' '.join(self.text.split())}"
        return text if len(text) <= 80 else f"{text[:77]}..."


def parse_dockerfile(text: str) -> list[Instruction]:
    """Split into instructions: comments and empty lines go, continued lines are joined.

    Raises:
        ValueError: a line is no instruction, or the file uses another escape character.
    """
    found: list[Instruction] = []
    pending, start = "", 0
    for number, line in enumerate(text.splitlines(), start=1):
        directive = _DIRECTIVE.match(line)
        if directive and directive[1].lower() == "escape" and not found and directive[2] != "\\":
            raise ValueError(f"line {number}: escape character {directive[2]!r}, expected a backslash")
        if line.lstrip().startswith("#") or (not line.strip() and not pending):
            continue
        start = start if pending else number
        if line.rstrip().endswith("\\"):
            pending += line.rstrip()[:-1] + " "
            continue
        found.append(_instruction(pending + line, start))
        pending = ""
    if pending.strip():
        found.append(_instruction(pending, start))
    return found


def expand(text: str, variables: dict[str, str]) -> str:
    """Replace `$NAME`, `${NAME}` and `${NAME:-word}` as Docker does; an unknown name is empty."""

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if name is None:
            return "$"
        return variables.get(name) or (match[3] or "")

    return _VARIABLE.sub(value, text)


def _instruction(text: str, line: int) -> Instruction:
    match = _INSTRUCTION.match(text)
    if match is None:
        raise ValueError(f"line {line}: expected an instruction such as COPY or RUN, found {text.strip()[:60]!r}")
    return Instruction(keyword=match[1].upper(), text=match[2].strip(), line=line)
