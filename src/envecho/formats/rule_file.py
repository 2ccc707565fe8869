"""A user's own TOML: `[[rules]]` for harness text, `[[redact]]` for secrets, in one file.

Not here: what the tables mean (`rules`, `redaction`).
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Final

from envecho.errors import ConfigError, did_you_mean

TABLES: Final = ("rules", "redact")


def read_rule_file(path: Path) -> dict[str, list[Any]]:
    """Return the tables of a user's file, empty ones included.

    Raises:
        ConfigError: the file is no such TOML, has a table that nobody reads, or has none at all.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: expected TOML with [[rules]] or [[redact]], {error}") from error
    for name, entries in document.items():
        if name not in TABLES or not isinstance(entries, list):
            raise ConfigError(f"{path}: expected [[rules]] and [[redact]], found {name!r}.{did_you_mean(name, TABLES)}")
    if not any(document.values()):
        raise ConfigError(f"{path} has no [[rules]] and no [[redact]]")
    return {name: document.get(name, []) for name in TABLES}
