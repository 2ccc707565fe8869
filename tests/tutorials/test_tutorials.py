"""The tutorials run as they are, say what they claim, leave nothing behind, and print what the page shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tutorial_pages import PAGE, TUTORIALS, blocks, run, words


def test_the_page_lists_every_tutorial_in_order():
    """Catches a tutorial that was added, renamed or taken away without a word on the page."""
    listed = re.findall(r"^\| \[`(\w+)`\]", PAGE.read_text(), re.MULTILINE)
    assert listed == [tutorial.stem for tutorial in TUTORIALS]
    assert list(blocks(PAGE.read_text())) == listed


@pytest.mark.timeout(300)
@pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_runs_prints_what_the_page_shows_and_cleans_up(tutorial: Path, tmp_path: Path):
    """Catches a claim that is no longer true (each asserts its own), noise, a folder left behind, a stale page.

    Numbers may differ from those of the page, as processors do; words may not.
    """
    done = run(tutorial, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert [path for path in tmp_path.iterdir() if not path.name.startswith("torchinductor")] == []  # torch's own
    assert words(blocks(PAGE.read_text())[tutorial.stem]) == words(done.stdout)
