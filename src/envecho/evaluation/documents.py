"""Writes and reads one JSON document as a frozen model: whole or not at all, unknown keys refused by name.

Not here: what a document holds (`results`, `simulation`).
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from envecho.errors import DataError

Document = TypeVar("Document", bound=BaseModel)


def write_document(path: Path, document: BaseModel) -> None:
    """Write a document; the file appears under its name only when it is whole and on the disk."""
    temporary = path.with_name(f"{path.name}.tmp")
    with temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.write(document.model_dump_json(indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read_document(path: Path, kind: type[Document], *, name: str, version: int) -> Document:
    """Read a document whose keys `format` and `version` are `name` and 1 to `version`.

    Raises:
        DataError: the file is no JSON, has another format or version, or a key that this version does not know.
    """
    try:
        data: Any = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"expected JSON of format {name}, found none: {error}", file=path) from error
    found = (data.get("format"), data.get("version")) if isinstance(data, dict) else (type(data).__name__, None)
    if found not in [(name, number) for number in range(1, version + 1)]:
        known = "version 1" if version == 1 else f"version 1 to {version}"
        raise DataError(f"expected format {name!r} {known}, found {found[0]!r} {found[1]!r}", file=path)
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DataError(f"this is not {name} version {found[1]}: {where}: {first['msg']}", file=path) from error
