"""A box's files as one tar archive with pinned owners, modes and times.

The archive is unpacked inside the sandbox, so no path of it can reach the host. Not here: what the files say.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

BOX_NAME = "box"
FILE_TIME = 1_735_689_600
"""Modification time of every file of a box: 2025-01-01 00:00 UTC, so that `ls -l` says the same on every run."""


@dataclass(frozen=True, kw_only=True)
class BoxFile:
    """One entry of a box that is more than a text: bytes with a mode, a symbolic link, or an empty folder.

    Exactly one of `content` and `link` is given for a file or a link; a folder has neither.
    """

    content: bytes | None = None
    mode: int = 0o644
    link: str | None = None

    def __post_init__(self) -> None:
        """Refuse an entry that is a file and a link."""
        if self.content is not None and self.link is not None:
            raise ValueError("a box entry has content and a link, expected one of them")


def pack(files: Mapping[str, str | BoxFile], *, prefix: str = BOX_NAME) -> bytes:
    """Return a tar archive of these files (relative path -> text or entry) below `prefix`; `#!` texts are executable.

    With a prefix, that folder and the one above it are in the archive too, so that their times are pinned as well.

    Raises:
        ValueError: a path is absolute, empty, or leads out of the box.
    """
    folders = {PurePosixPath(".")}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name in (".", prefix) if prefix else ():
            archive.addfile(_folder(name))
        for name, entry in files.items():
            path = PurePosixPath(name)
            if path.is_absolute() or not path.parts or ".." in path.parts or "\0" in name:
                raise ValueError(f"box file {name!r}: expected a relative path inside the box")
            for parent in reversed(path.parents):
                if parent not in folders:
                    folders.add(parent)
                    archive.addfile(_folder(str(PurePosixPath(prefix, parent))))
            if _is_folder(entry):
                folders.add(path)
            member, content = _entry(str(PurePosixPath(prefix, path)), entry)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _is_folder(entry: str | BoxFile) -> bool:
    return isinstance(entry, BoxFile) and entry.content is None and entry.link is None


def _entry(name: str, entry: str | BoxFile) -> tuple[tarfile.TarInfo, bytes]:
    if isinstance(entry, str):
        entry = BoxFile(content=entry.encode(), mode=0o755 if entry.startswith("#!") else 0o644)
    member = tarfile.TarInfo(name)
    member.mtime, member.mode = FILE_TIME, entry.mode
    if entry.link is not None:
        member.type, member.linkname = tarfile.SYMTYPE, entry.link
    elif entry.content is None:
        return _folder(name), b""
    member.size = len(entry.content or b"")
    return member, entry.content or b""


def _folder(name: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.mtime, member.type, member.mode = FILE_TIME, tarfile.DIRTYPE, 0o755
    return member
