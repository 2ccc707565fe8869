"""The ledger of sandboxes that run for us, so that a crash leaves none behind.

An entry is written before its sandbox is started and removed after it was stopped: one JSON file each in
`$XDG_STATE_HOME/envecho/sandboxes` (`~/.local/state/...`). An entry whose owner is gone names a sandbox that was left
behind; `remove_leaked` stops it. Not here: how a provider finds and stops one (`known`).
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal, Self, final

from envecho.errors import DataError, EnvechoError

FORMAT: Final = "envecho.sandbox"
VERSION: Final = 1
_FOLDER_MODE: Final = 0o700


@dataclass(frozen=True, kw_only=True)
class Owner:
    """A process on a machine; `start_ticks` tells it from a later one of the same id, `boot` the machine's starts."""

    pid: int
    start_ticks: int
    machine: str
    boot: str

    @classmethod
    def current(cls) -> Self:
        """Return this process."""
        pid = os.getpid()
        return cls(pid=pid, start_ticks=start_ticks(pid) or 0, machine=socket.gethostname(), boot=_boot())

    @property
    def is_elsewhere(self) -> bool:
        """Whether it belongs to another machine, of which nothing is known here."""
        return self.machine != socket.gethostname()

    @property
    def is_gone(self) -> bool:
        """Whether the process has ended, on this machine."""
        return not self.is_elsewhere and (self.boot != _boot() or start_ticks(self.pid) != self.start_ticks)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A sandbox: its provider, the key that we gave it, and the provider's own id where that is known."""

    provider: str
    key: str
    owner: Owner
    created: str
    id: str | None = None


@dataclass(frozen=True, kw_only=True)
class Leak:
    """A sandbox that was left behind, and what became of it."""

    provider: str
    key: str
    id: str | None
    outcome: Literal["removed", "kept"]
    reason: str = ""


@final
class Ledger:
    """The entries of one folder; every change of a file is atomic."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or _default_folder()

    def write(self, provider: str, key: str) -> Entry:
        """Write down that this process is about to start a sandbox."""
        entry = Entry(
            provider=provider, key=key, owner=Owner.current(), created=datetime.now(UTC).isoformat(timespec="seconds")
        )
        self._save(entry)
        return entry

    def name(self, entry: Entry, provider_id: str) -> Entry:
        """Add the provider's id, which is known once the sandbox exists."""
        named = replace(entry, id=provider_id)
        self._save(named)
        return named

    def remove(self, key: str) -> None:
        """Forget a sandbox that was stopped."""
        with suppress(FileNotFoundError):
            (self.folder / f"{key}.json").unlink()

    def entries(self) -> list[Entry]:
        """Return all entries, in the order of their keys.

        Raises:
            DataError: a file is no entry.
        """
        files = sorted(self.folder.glob("envecho-*.json")) if self.folder.is_dir() else []
        return [entry for file in files if (entry := _read(file)) is not None]

    def _save(self, entry: Entry) -> None:
        self.folder.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        file = self.folder / f"{entry.key}.json"
        unfinished = self.folder / f".{entry.key}.{os.getpid()}"
        text = json.dumps({"format": FORMAT, "version": VERSION, **asdict(entry)}, indent=1)
        with unfinished.open("w") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        unfinished.replace(file)


def remove_leaked(ledger: Ledger | None = None) -> list[Leak]:
    """Stop the sandboxes whose owner is gone and forget them; what cannot be stopped is kept and says why."""
    from envecho.worlds.providers.known import remove

    ledger = ledger or Ledger()
    leaks: list[Leak] = []
    for entry in ledger.entries():
        if not entry.owner.is_gone:
            continue
        leak = Leak(provider=entry.provider, key=entry.key, id=entry.id, outcome="removed")
        try:
            remove(entry)
        except Exception as error:  # an SDK may raise anything; the entry stays and is tried again
            reason = str(error) if isinstance(error, EnvechoError) else f"{type(error).__name__}: {error}"
            leak = replace(leak, outcome="kept", reason=reason)
        else:
            ledger.remove(entry.key)
        leaks.append(leak)
    return leaks


def start_ticks(pid: int) -> int | None:
    """Return when a process started, in ticks since the machine did; None where there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    fields = stat.rpartition(b")")[2].split()
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _default_folder() -> Path:
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state) / "envecho" / "sandboxes"


def _read(file: Path) -> Entry | None:
    try:
        found: Mapping[str, Any] = json.loads(file.read_text())
    except FileNotFoundError:  # its owner removed it while we looked
        return None
    except ValueError as error:
        raise DataError(f"expected an entry of the ledger of sandboxes, found no JSON: {error}", file=file) from error
    try:
        kind, version = found["format"], found["version"]
        rest = {name: value for name, value in found.items() if name not in ("format", "version", "owner")}
        if (kind, version) != (FORMAT, VERSION):
            raise ValueError(f"format {kind!r} version {version!r}")
        return Entry(**rest, owner=Owner(**found["owner"]))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"expected an entry of {FORMAT} version {VERSION}, found {error}", file=file) from error
