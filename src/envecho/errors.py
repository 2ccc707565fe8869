"""Every error that envecho raises on purpose.

    EnvechoError
    ├── ConfigError      a configuration value, key or option is wrong
    ├── DataError        a file or record is wrong; names file, line and turn where they are known
    ├── TemplateError    a chat template cannot be rendered with exact spans
    ├── WorldError       a world or its sandbox cannot start or answer
    │   ├── WorldLostError       the connection to a world broke, or what came over it was no answer
    │   └── WorldCapacityError   the server of a world has no room for another session now
    └── EngineError      an engine cannot do what was asked

A message says what was expected, what was found, where, and what to do. A failed rollout is not an error: it is a
trajectory with a stop reason.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class EnvechoError(Exception):
    """Base of the tree; the command line prints it without a traceback and exits with 1."""


class ConfigError(EnvechoError):
    """A configuration value, key or command line option is wrong."""


class DataError(EnvechoError):
    """A file or a record is wrong.

    Args:
        message: what was expected, what was found, what to do.
        file, line, turn: where, as far as it is known; they are put in front of the message.
    """

    def __init__(
        self,
        message: str,
        *,
        file: str | Path | None = None,
        line: int | None = None,
        turn: int | None = None,
    ) -> None:
        self.file, self.line, self.turn = file, line, turn
        where = [str(file)] if file is not None else []
        where += [f"line {line}"] if line is not None else []
        where += [f"turn {turn}"] if turn is not None else []
        super().__init__(f"{', '.join(where)}: {message}" if where else message)


class TemplateError(EnvechoError):
    """A chat template cannot be rendered so that every character has one source."""


class WorldError(EnvechoError):
    """A world, or the sandbox around it, cannot start or answer."""


class WorldLostError(WorldError):
    """The connection to a world broke, its server went away, or it answered what is no answer."""


class WorldCapacityError(WorldError):
    """The server of a world has no room for another session; later it may."""


class EngineError(EnvechoError):
    """An engine cannot do what was asked of it."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the nearest known name, or an empty string."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""
