"""The explaining pages of the documentation: what they quote is what files and commands of the repository say."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path

import pytest
from click.testing import CliRunner

from envecho.cli.main import envecho

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
INTERVAL = re.compile(r"([−+]?[\d.]+) (?:% |points )?\(([−+]?[\d.]+ to [−+]?[\d.]+)\)")


def quoted(page: str) -> set[tuple[str, str]]:
    """Return each figure of a page that has an interval: the value, and `low to high`."""
    return set(INTERVAL.findall((DOCS / page).read_text()))


@pytest.mark.parametrize(("page", "least"), [("what-it-buys.md", 9), ("choosing-lambda.md", 6)])
def test_every_interval_of_a_page_stands_in_a_study(page: str, least: int):
    """Catches a figure that was mistyped, or that a study no longer says since it was made again."""
    studies = "\n".join(path.read_text() for path in (ROOT / "results" / "study").glob("*/study.md"))
    found = quoted(page)
    assert len(found) >= least
    known = {(value, interval) for value, interval in INTERVAL.findall(studies)}
    assert found <= known, f"in no study: {found - known}"


@pytest.mark.parametrize("page", ["what-echo-is.md", "what-it-buys.md", "guides/learnt-the-world.md"])
def test_the_figures_of_the_demo_are_the_medians_of_its_seeds(page: str):
    """Catches a page that goes on quoting a demo which was made again."""
    seeds = [json.loads(path.read_text()) for path in (ROOT / "results" / "demo").glob("seed-*/summary.json")]
    assert len(seeds) >= 3
    text = " ".join((DOCS / page).read_text().split())
    for predictor, figure in (
        ("ngram", "ce_derivable"),
        ("trained", "ce_derivable"),
        ("trained", "action_swap_gap"),
        ("base", "action_swap_gap"),
    ):
        median = statistics.median(seed["pools"]["new_boxes"][predictor][figure] for seed in seeds)
        assert f"{median:.2f}" in text, (predictor, figure, median)


def test_the_printed_lambdas_are_what_the_command_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Catches an output in the docs that no command gives."""
    monkeypatch.chdir(tmp_path)
    page = (DOCS / "choosing-lambda.md").read_text()
    collect = re.search(r"^    envecho (collect .+)$", page, re.MULTILINE)
    lines = re.findall(r"^    envecho (lambda .+? --to echo-rl)", page, re.MULTILINE)
    assert collect
    assert len(lines) == 1
    fence = re.search(r"<!-- lambda -->\n```text\n(.*?)```", page, re.DOTALL)
    assert fence
    done = CliRunner().invoke(envecho, collect[1].split())
    assert done.exit_code == 0, done.output
    done = CliRunner().invoke(envecho, lines[0].split())
    assert done.exit_code == 0, done.output
    assert done.stdout.split() == fence[1].split()


def test_the_counts_of_the_captured_episode_are_those_of_its_file():
    """Catches an accounting that was made again under pages which quote the old one."""
    targets = json.loads((ROOT / "results" / "awm" / "accounting.json").read_text())["targets"]
    for page in ("what-echo-is.md", "choosing-lambda.md", "what-it-buys.md"):
        text = (DOCS / page).read_text()
        assert f"{targets['env_output']:,}" in text
    assert f"{targets['context']:,} other" in (DOCS / "choosing-lambda.md").read_text()
