"""A box's files as one tar archive with pinned owners, modes and times.

The archive is unpacked inside the sandbox, so no path of it can reach the host. Not here: what the files say.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import PurePosixPath

BOX_NAME = "box"
FILE_TIME = 1_735_689_600
"""Modification time of every file of a box: 2025-01-01 00:00 UTC, so that `ls -l` says the same on every run."""


def pack(files: Mapping[str, str]) -> bytes:
    """Return a tar archive of a folder `box` with these files (relative path -> text); `#!` scripts are executable.

    The folder above the box is in it too, so that its time is pinned as well.

    Raises:
        ValueError: a path is absolute, empty, or leads out of the box.
    """
    folders = {PurePosixPath(".")}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name in (".", BOX_NAME):
            archive.addfile(_member(name, folder=True))
        for name, text in files.items():
            path = PurePosixPath(name)
            if path.is_absolute() or not path.parts or ".." in path.parts or "\0" in name:
                raise ValueError(f"box file {name!r}: expected a relative path inside the box")
            for parent in reversed(path.parents):
                if parent not in folders:
                    folders.add(parent)
                    archive.addfile(_member(f"{BOX_NAME}/{parent}", folder=True))
            content = text.encode()
            member = _member(f"{BOX_NAME}/{path}", folder=False)
            member.size = len(content)
            member.mode = 0o755 if text.startswith("#!") else 0o644
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _member(name: str, *, folder: bool) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.mtime = FILE_TIME
    if folder:
        member.type, member.mode = tarfile.DIRTYPE, 0o755
    return member
