"""A text that a regular expression matches, drawn from a generator: for `pattern` in JSON schemas.

Of the packages that do this, `exrex` draws from the process's own generator and `rstr` from sets whose order differs
from process to process; an explorer must say the same in every process. Look-around and back-references are drawn as
if they were not there, so the caller checks what comes out. Not here: the rest of a schema (`drawing`).
"""

from __future__ import annotations

import importlib
import random
import re
import string
from typing import Any, Final

_MOST_REPEATS: Final = 6
_PLAIN: Final = string.ascii_lowercase + string.digits
_SHOWN: Final = string.printable[:95]
_CATEGORIES: Final = {
    f"CATEGORY_{name}": [letter for letter in _SHOWN if bool(re.match(short, letter, re.ASCII))]
    for name, short in (
        ("DIGIT", r"\d"), ("NOT_DIGIT", r"\D"), ("SPACE", r"\s"),
        ("NOT_SPACE", r"\S"), ("WORD", r"\w"), ("NOT_WORD", r"\W"),
    )
}  # fmt: skip


def draw_match(pattern: str, rng: random.Random) -> str:
    """Return a text in which `pattern` is found.

    Raises:
        re.error: the pattern is no regular expression.
    """
    re.compile(pattern)
    # The syntax tree of `re` has no public door; `importlib` keeps the type checker out of a module without stubs.
    tree: Any = importlib.import_module("re._parser").parse(pattern)
    return "".join(_draw(str(operation), value, rng) for operation, value in tree)


def _draw(operation: str, value: Any, rng: random.Random) -> str:
    match operation:
        case "LITERAL":
            return chr(value)
        case "NOT_LITERAL":
            return rng.choice([letter for letter in _PLAIN if letter != chr(value)])
        case "ANY":
            return rng.choice(_PLAIN)
        case "IN":
            return rng.choice(_members(value))
        case "BRANCH":
            return _draw_all(rng.choice(value[1]), rng)
        case "SUBPATTERN" | "ATOMIC_GROUP":
            return _draw_all(value[-1] if operation == "SUBPATTERN" else value, rng)
        case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
            least, most, inner = value
            times = rng.randint(least, max(least, min(int(most), least + _MOST_REPEATS)))
            return "".join(_draw_all(inner, rng) for _ in range(times))
        case _:
            return ""


def _draw_all(tree: Any, rng: random.Random) -> str:
    return "".join(_draw(str(operation), value, rng) for operation, value in tree)


def _members(items: Any) -> list[str]:
    """The characters of a class `[...]`, in one order: of a negated one and of `\\w` and the like the plain ones."""
    listed: list[str] = []
    named: list[str] = []
    negated = False
    for operation, value in items:
        match str(operation):
            case "NEGATE":
                negated = True
            case "LITERAL":
                listed.append(chr(value))
            case "RANGE":
                listed += [chr(code) for code in range(value[0], min(value[1], value[0] + 255) + 1)]
            case _:
                named += _CATEGORIES[str(value)]
    if negated:
        named, listed = [letter for letter in _SHOWN if letter not in listed and letter not in named], []
    return listed + ([letter for letter in named if letter in _PLAIN] or named)
