"""`docs/tutorials.md`: what each tutorial prints, in blocks that a command makes from a real run.

    python tests/tutorials/tutorial_pages.py        # about a minute; run it when a tutorial has changed

A block begins with the line `<!-- output of NAME -->` and ends with `<!-- end -->`. No test stands here.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "tutorials.md"
TUTORIALS = sorted((ROOT / "tutorials").glob("[0-9][0-9]_*.py"))
_BLOCK = re.compile(r"<!-- output of (?P<name>\w+) -->\n(?P<text>.*?)<!-- end -->", re.DOTALL)
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?")


def run(tutorial: Path, temporary: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a tutorial in an interpreter of its own, with a folder for what it writes meanwhile."""
    environment = os.environ | ({} if temporary is None else {"TMPDIR": str(temporary)})
    environment |= {"COLUMNS": "100", "NO_COLOR": "1"}
    return subprocess.run([sys.executable, str(tutorial)], env=environment, capture_output=True, text=True)


def blocks(page: str) -> dict[str, str]:
    """Return what the page says that each tutorial prints, by the tutorial's name."""
    return {found["name"]: found["text"] for found in _BLOCK.finditer(page)}


def block(output: str) -> str:
    """Return an output as an indented block of the page."""
    lines = [f"    {line}".rstrip() for line in output.strip("\n").splitlines()]
    return "\n" + "\n".join(lines) + "\n\n"


def words(text: str) -> list[str]:
    """Return the lines of a text without its numbers and blanks: what no other machine changes."""
    lines = [" ".join(_NUMBER.sub("", line).split()) for line in text.splitlines()]
    return [line for line in lines if line]


def main() -> None:
    """Make every block of the page anew."""
    page = PAGE.read_text(encoding="utf-8")
    for tutorial in TUTORIALS:
        done = run(tutorial)
        if done.returncode:
            raise SystemExit(f"{tutorial.name} failed:\n{done.stderr}")
        start = f"<!-- output of {tutorial.stem} -->\n"
        place = page.index(start) + len(start)
        page = page[:place] + block(done.stdout) + page[page.index("<!-- end -->", place) :]
        print(tutorial.name, flush=True)
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
