"""JSON documents on disk, streamed: lines of one `.jsonl` file, or a folder with one file each; whole or not at all.

They are written under a temporary name beside the place, synced and renamed. Not here: what a document says.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import uuid
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

from envecho.errors import ConfigError

_OURS: Final = re.compile(r"\d{6,}\.json")


def checked_text(document: Any) -> str:
    """Return a document as JSON text.

    Raises:
        ValueError: a number that JSON cannot write, or half of a surrogate pair, which is no text.
    """
    text = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    text.encode()
    return text


def check_place(out: Path, *, overwrite: bool) -> None:
    """Check that documents may be written there.

    Raises:
        ConfigError: the name is neither a `.jsonl` file's nor a folder's, or something stands there already.
    """
    if out.suffix not in ("", ".jsonl"):
        raise ConfigError(f"{out}: expected a path that ends in .jsonl, or a folder, found the suffix {out.suffix!r}")
    if not out.exists():
        return
    if not overwrite:
        raise ConfigError(f"{out} exists; pass --overwrite to replace it, or another --out")
    foreign = [entry.name for entry in out.iterdir() if not _OURS.fullmatch(entry.name)] if out.is_dir() else []
    if foreign or out.is_dir() != (out.suffix == ""):
        found = f"{foreign[0]!r} in it" if foreign else "something of another kind"
        raise ConfigError(f"{out} is not an export of this command ({found}); it is not replaced, choose another --out")


class DocumentWriter:
    """Writes documents as lines of a `.jsonl` file, or as `000000.json`, `000001.json`, ... of a folder.

    When the block ends by an exception or without a document, nothing appears and what stood there stays.

    Example:
        with DocumentWriter(Path("out.jsonl")) as writer:
            writer.write(checked_text({"a": 1}))
    """

    def __init__(self, out: Path) -> None:
        self._out = out
        self._temporary = out.with_name(f"{out.name}.{uuid.uuid4().hex[:8]}.tmp")
        self._lines: IO[bytes] | None = None
        self.num_written = 0

    def __enter__(self) -> Self:
        self._out.parent.mkdir(parents=True, exist_ok=True)
        if self._out.suffix == ".jsonl":
            self._lines = self._temporary.open("xb")
        else:
            self._temporary.mkdir()
        return self

    def write(self, text: str) -> None:
        """Add one document."""
        if self._lines is not None:
            self._lines.write(text.encode() + b"\n")
        else:
            with (self._temporary / f"{self.num_written:06d}.json").open("xb") as file:
                _put(file, text.encode() + b"\n")
        self.num_written += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None and self.num_written:
                if self._lines is not None:
                    _put(self._lines, b"")
                self._appear()
        finally:
            if self._lines is not None:
                self._lines.close()
            with contextlib.suppress(OSError):
                self._remove(self._temporary)

    def _appear(self) -> None:
        if not self._out.is_dir():
            self._temporary.replace(self._out)
            return
        old = self._temporary.with_suffix(".old")
        self._out.rename(old)
        self._temporary.rename(self._out)
        self._remove(old)

    @staticmethod
    def _remove(path: Path) -> None:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _put(file: IO[bytes], data: bytes) -> None:
    file.write(data)
    file.flush()
    os.fsync(file.fileno())
