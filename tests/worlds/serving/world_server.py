"""A real `envecho serve` in a process of its own, for tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
EXAMPLE_TASKS = FOLDER.parents[2] / "examples" / "tasks"
SERVE = "from envecho.cli.main import main; main()"
PATIENCE_SECONDS = 60.0


class WorldServer:
    """Started with arguments of `envecho serve`; `url` is what it printed, `log` what it wrote on standard error."""

    def __init__(self, *arguments: str, log: Path) -> None:
        self.log = log
        with log.open("w") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-c", SERVE, "serve", *arguments, "--port", "0", "--json"],
                stdout=subprocess.PIPE,
                stderr=stream,
                cwd=FOLDER,
                text=True,
                env={name: value for name, value in os.environ.items() if not name.startswith("COV_")},
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, log.read_text()
        self.facts: dict[str, Any] = json.loads(line)
        self.url: str = self.facts["url"]

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        status = self.process.wait(PATIENCE_SECONDS)
        if self.process.stdout is not None:
            self.process.stdout.close()
        return status

    def descendants(self) -> list[int]:
        """Return the processes below the server: its sandboxes and what runs in them."""
        return descendants(self.process.pid)


def descendants(root: int) -> list[int]:
    """Return the ids of all processes below one."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_bytes().rpartition(b")")[2].split()
            except OSError:
                continue
            if fields[0] != b"Z":
                children.setdefault(int(fields[1]), []).append(int(folder.name))
    found, queue = [], [root]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return found


def wait_until(condition: Any, seconds: float = 15.0) -> bool:
    """Ask until the condition holds; False where it never does."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
