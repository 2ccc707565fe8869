"""The SHA-256 of a large file, kept from one start to the next while the file is the same.

A file is taken for the same while its inode, its size, and the times of its last change are those that were stored: the
time of the content, and the time of the inode, which no program can set back. They are stored only once they are
`_SETTLED_SECONDS` old, because two changes within one tick of a file system's clock have the same time. Not here: what
a digest is good for.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import time
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

_SETTLED_SECONDS: Final = 10

_Facts = tuple[int, int, int, int, int]


class _Known(BaseModel):
    """A digest in hex, and device, inode, size, and both times (in ns) of the file that had it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    facts: _Facts
    sha256: str


class _Digests(BaseModel):
    """The store: what is known of each path."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["envecho.digests"] = "envecho.digests"
    version: Literal[1] = 1
    files: dict[str, _Known] = {}


def file_digest(path: Path, store: Path) -> str:
    """Return the SHA-256 of a file in hex: from `store` while the file is the same, else from its bytes."""
    place, facts = str(path.resolve()), _facts(path)
    known = _read(store).files
    if place in known and known[place].facts == facts:
        return known[place].sha256
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    settled = time.time_ns() - max(facts[-2:]) > _SETTLED_SECONDS * 10**9
    if settled and _facts(path) == facts:
        _write(store, _Digests(files=known | {place: _Known(facts=facts, sha256=digest)}))
    return digest


def _facts(path: Path) -> _Facts:
    status = path.stat()
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _read(store: Path) -> _Digests:
    """Return what is known; a store that is absent or not ours knows nothing, and files are hashed again."""
    try:
        return _Digests.model_validate_json(store.read_bytes())
    except (OSError, ValidationError):
        return _Digests()


def _write(store: Path, digests: _Digests) -> None:
    """Replace the store in one move; of two processes that write together, one entry is lost and made again."""
    # A cache that cannot be written (one in an image, say) costs time at the next start, and nothing else.
    with contextlib.suppress(OSError):
        store.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=store.parent, prefix=f".{store.name}.", delete=False) as file:
            file.write(digests.model_dump_json(indent=1))
        os.replace(file.name, store)
