"""Shell text read without running it: which programs a line needs, and where a script's commands end.

Not here: whether a whole task can run (`locally`) and running anything.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator

_OPERATORS = set("();<>|&")
_RESERVED_WORDS = "! case do done elif else esac fi for function if in select then time until while { }"
_KEYWORDS = frozenset(_RESERVED_WORDS.split())
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
_TOO_COMPLEX = ("$(", "`", "<<", "<(", ">(")


def simple_commands(line: str) -> Iterator[list[str]]:
    """Yield the words of every simple command of a shell line, without redirections and assignments.

    Raises:
        ValueError: the line has substitutions or here-documents, or its quotes are open.
    """
    for sign in _TOO_COMPLEX:
        if sign in line:
            raise ValueError(f"has {sign!r}, which is not looked into")
    lexer = shlex.shlex(line, posix=True, punctuation_chars="();<>|&\n")
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t\r", True, ""
    words: list[str] = []
    skip_next = False
    for token in lexer:
        if token and set(token) <= _OPERATORS | {"\n"}:
            if set(token) & set("<>"):
                skip_next = True
                if words and words[-1].isdigit():
                    words.pop()
                continue
            if words:
                yield words
            words = []
        elif skip_next:
            skip_next = False
        elif words or not (token in _KEYWORDS or _ASSIGNMENT.match(token)):
            words.append(token)
    if words:
        yield words


def top_level_commands(script: str) -> list[str] | None:
    """Cut a bash script into its top-level commands; comments, `set` lines and the `#!` line go.

    Bash itself says where a command ends (`bash -n` reads and runs nothing). None where the script ends inside one.
    """
    commands: list[str] = []
    pending = ""
    for line in script.splitlines():
        if not pending and (not line.strip() or line.lstrip().startswith("#") or re.match(r"\s*set [-+]", line)):
            continue
        pending = f"{pending}\n{line}" if pending else line
        if _is_complete(pending):
            commands.append(pending.strip())
            pending = ""
    return None if pending else commands


def _is_complete(text: str) -> bool:
    if text.rstrip(" \t").endswith("\\"):
        return False
    checked = subprocess.run(
        ["bash", "--norc", "--noprofile", "-n"],
        input=f"{text}\n".encode(),
        capture_output=True,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
        check=False,
        timeout=10,
    )
    return checked.returncode == 0 and not checked.stderr
