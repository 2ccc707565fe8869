"""Folders that are one trace: events of OpenHands in a file each, and the agent's logs of a terminal-bench trial.

    events/event-00000-<id>.json, ...    V1;   events/0.json, events/1.json, ...    V0
    agent-logs/episode-0/{prompt.txt, response.txt}, ...

Not here: what the files say (`openhands`, `terminal_bench`).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

EPISODES: Final = "terminal_bench_agent_logs"
_EVENT = re.compile(r"event-\d+.*\.json")
_NUMBERED = re.compile(r"\d+\.json")
_EPISODE = re.compile(r"episode-\d+")


def inside(path: Path) -> Iterator[Path]:
    """Yield the files below a folder in order, and folders that are one trace as themselves; none that is hidden."""
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if is_trace(Path(folder), folders, names):
            folders.clear()
            yield Path(folder)
        else:
            yield from (Path(folder, name) for name in sorted(names) if not name.startswith("."))


def is_trace(folder: Path, folders: Sequence[str], names: Sequence[str]) -> bool:
    """Whether a folder is one trace."""
    if folder.name == "agent-logs":
        return any(_EPISODE.fullmatch(name) for name in folders)
    return folder.name == "events" and any(_EVENT.fullmatch(name) or _NUMBERED.fullmatch(name) for name in names)


def event_files(folder: Path) -> list[Path]:
    """Return the files of a folder of events, in the order of their numbers."""
    files = [path for path in folder.iterdir() if path.is_file() and path.suffix == ".json"]
    return sorted(files, key=lambda path: (_number(path.name), path.name))


def agent_logs(folder: Path) -> dict[str, Any]:
    """Return the episodes of a folder `agent-logs`, with the trial's results where they stand beside it."""
    numbered = [path for path in folder.iterdir() if path.is_dir() and _EPISODE.fullmatch(path.name)]
    episodes = [
        {name: _text(path / f"{name}.txt") for name in ("prompt", "response")}
        for path in sorted(numbered, key=lambda path: _number(path.name))
    ]
    try:
        results = json.loads(_text(folder.parent / "results.json") or "null")
    except ValueError:
        results = None
    return {EPISODES: episodes, "results": results}


def _number(name: str) -> int:
    found = re.search(r"\d+", name)
    return int(found.group()) if found else 0


def _text(path: Path) -> str | None:
    return path.read_bytes().decode("utf-8", errors="replace") if path.is_file() else None
