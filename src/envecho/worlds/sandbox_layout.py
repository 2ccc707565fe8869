"""The folders and the environment of a sandbox: where a shell starts, what can be written, which variables are set.

The terminal world has one layout, the default; a task that brings its own (`/app`, `/data`, `ENV NAME=...`) has
another. Not here: how a sandbox is started (`sandbox`) and how files get into it (`sandbox_files`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

HOME_FOLDER = "/home/user"
PRIVATE_MODE, SHARED_MODE = "0755", "1777"
RESERVED_FOLDERS = ("/bin", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/proc", "/run", "/sbin", "/sys", "/usr")
"""What belongs to the sandbox itself; no layout may put a writable folder there, /dev/shm apart."""

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where things are in a sandbox.

    `folder` is where a shell starts. `writable` maps each in-memory folder to its mode. The paths of a box's files are
    relative to `unpack_folder`/`prefix`. `environment` is set beside the variables that every sandbox has, and wins.

    Raises:
        ValueError: a folder is relative, or belongs to the sandbox itself; a variable has no name that bash takes.
    """

    folder: str = "/srv/box"
    unpack_folder: str = "/srv"
    prefix: str = "box"
    writable: Mapping[str, str] = field(
        default_factory=lambda: {
            "/srv": PRIVATE_MODE,
            HOME_FOLDER: PRIVATE_MODE,
            "/tmp": SHARED_MODE,
            "/dev/shm": SHARED_MODE,
        }
    )
    environment: Mapping[str, str] = field(default_factory=dict[str, str])

    def __post_init__(self) -> None:
        """Refuse what bubblewrap would mount over the sandbox's own parts."""
        for name in (self.folder, *self.writable):
            path = PurePosixPath(name)
            reserved = any(path.is_relative_to(folder) for folder in RESERVED_FOLDERS) and name != "/dev/shm"
            if not path.is_absolute() or ".." in path.parts or path == PurePosixPath("/") or reserved:
                raise ValueError(f"folder {name!r} of a sandbox: expected an absolute path of a folder of its own")
        for name, value in self.environment.items():
            if _VARIABLE.match(name) is None or "\0" in value:
                raise ValueError(f"variable {name!r} of a sandbox: expected a name of letters, digits and '_'")


def rooted_layout(folder: str, *, writable: tuple[str, ...], environment: Mapping[str, str]) -> Layout:
    """Return the layout of a box whose files have paths from the root, and whose shell starts in `folder`."""
    return Layout(
        folder=folder,
        unpack_folder="/",
        prefix="",
        writable={
            HOME_FOLDER: PRIVATE_MODE,
            **dict.fromkeys(writable, PRIVATE_MODE),
            "/tmp": SHARED_MODE,
            "/dev/shm": SHARED_MODE,
        },
        environment=environment,
    )
