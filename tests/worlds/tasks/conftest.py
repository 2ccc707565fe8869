"""A task folder to write into, with parts that a test replaces."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

PARTS = {
    "task.toml": 'version = "1.0"\n[environment]\nallow_internet = false\n',
    "instruction.md": "Write yes into /app/answer.txt.\n",
    "environment/Dockerfile": "FROM debian:bookworm-slim\nWORKDIR /app\n",
    "tests/test.sh": (
        '#!/bin/bash\n[ "$(cat answer.txt)" = yes ] && good=1\necho "${good:-0}" >/logs/verifier/reward.txt\n'
    ),
    "solution/solve.sh": "#!/bin/bash\necho yes >/app/answer.txt\n",
}


@pytest.fixture
def write_task(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a small task; a part given as None is left out."""

    def write(parts: dict[str, str | None] | None = None, *, name: str = "small") -> Path:
        folder = tmp_path / "tasks" / name
        for path, text in {**PARTS, **(parts or {})}.items():
            if text is None:
                continue
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
        return folder

    return write
