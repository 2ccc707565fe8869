"""What a real browser says of a report: it opens at once, blocks nothing, runs nothing of a tool, and keeps its layout.

The layout is compared with `layout_reference.json`: boxes of the page's parts at two widths, and how bright a coarse
grid of a dark screenshot is. Pixels would differ with every release of a font; a part that moved, overflows or is not
painted shows in both. `python tests/reports/test_report_in_a_browser.py` writes the reference again.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import CHROMIUM, console, run_chromium, told
from PIL import Image
from synthetic_evaluation import evaluation_v2
from synthetic_run import write_synthetic_run

from envecho.reports import write_report

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here; test_report_page checks the structure")
REFERENCE = Path(__file__).with_name("layout_reference.json")
HOSTILE = (
    '</script><script>window.hacked=1;top.hacked=1</script><img src=x onerror="window.hacked=1">'
    "<style>*{display:none}</style><a href='javascript:hacked=1'>x</a><!-- ${hacked=1} {{7*7}} \u202eevil\x00\x1b[2J"
)
NUM_VIEWS = 200
MOST_SECONDS = 6.0
"""How long a page may take on a machine that does other things beside; docs/reports.md states an idle one's figure."""

Found = tuple[dict[str, Any], subprocess.CompletedProcess[str]]


def write_large_report(folder: Path) -> Path:
    """The report of 1,000 steps and 200 trajectories, of which the second is hostile in its text and in its names."""
    run = write_synthetic_run(folder / "run", steps=1000)
    made = evaluation_v2(num_views=NUM_VIEWS)
    made["token_views"][1]["tokens"][30]["text"] = HOSTILE
    made["token_views"][1]["trajectory_id"] = HOSTILE
    (run / "evaluation.json").write_text(json.dumps(made), encoding="utf-8")
    return write_report(run)


def ask(report: Path) -> Found:
    probe = report.parent.parent / "probe.html"
    frame = '<iframe id="page" src="run/report.html" style="width:1280px;height:2000px;border:0"></iframe>'
    script = Path(__file__).with_name("probe.js").read_text()
    probe.write_text(f"<!doctype html>{frame}<script>{script}</script>")
    done = run_chromium(probe, "--window-size=1400,2100", "--dump-dom")
    return told(done), done


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_large_report(tmp_path_factory.mktemp("browser"))


@pytest.fixture(scope="module")
def found(report: Path) -> Found:
    return ask(report)


def test_a_thousand_steps_and_two_hundred_trajectories_open_at_once(report: Path, found: Found):
    """Catches a page that lays out every token of every trajectory, and one that grows without a bound."""
    answers, _ = found
    size = report.stat().st_size / 1e6
    print(
        f"{size:.1f} MB: load event after {answers['loaded']} ms, laid out after {answers['opened']} ms,"
        f" another trajectory drawn in {answers['drawing']} ms"
    )
    assert 0 < answers["opened"] < 1000 * MOST_SECONDS
    assert answers["drawing"] < 1000 * MOST_SECONDS
    assert size < 5


def test_nothing_is_blocked_and_the_console_is_empty(found: Found):
    """Catches a script error, and a style or script that the page's own policy blocks."""
    answers, done = found
    assert console(done) == []
    assert answers["margin"] == "0px"


def test_hostile_output_does_nothing_also_by_way_of_the_data(found: Found):
    """Catches markup, handlers, styles or addresses of a tool that come to life when a trajectory is drawn."""
    answers, _ = found
    assert answers["hostile"]
    assert answers["second"].startswith("New commands on seen boxes, </script><script>")
    assert answers["inert"] == {"hacked": 0, "scripts": 1, "styles": 1, "foreign": 0, "handlers": 0}


def test_the_script_draws_what_the_template_draws(found: Found):
    """Catches a trajectory that looks or reads otherwise once it is chosen from the list."""
    answers, _ = found
    assert answers["redrawn"]
    assert answers["current"] == 1
    assert answers["detail"] >= 2


def test_trajectories_are_found_by_their_text_and_their_names(found: Found):
    """Catches a search that sees the drawn trajectory alone, or leaves the list filtered when it is cleared."""
    answers, _ = found
    # The drawn trajectory stays in the list whatever is searched for.
    assert answers["listed"] == [2, 1, 2, NUM_VIEWS]
    assert answers["found"] == ""


def test_tables_sort_both_ways_and_back_and_keys_move_the_focus(found: Found):
    """Catches figures sorted as words, a head that does not say its order, and controls that need a pointer."""
    answers, _ = found
    before, up, rising, down, falling, after, none = answers["sorted"]
    assert up == sorted(before, key=float)
    assert down == up[::-1] != up
    assert after == before
    assert (rising, falling, none) == ("ascending", "descending", None)
    assert (answers["focus"], answers["listFocus"], answers["headFocus"]) == (1, 1, True)


def test_the_parts_stand_where_they_stood(found: Found):
    """Catches a table that widens the phone's page, a part that moved or lost its size, and one that is gone."""
    answers, _ = found
    assert answers["narrowWidth"] == 390
    reference = json.loads(REFERENCE.read_text())
    for width in ("wide", "narrow"):
        assert sorted(answers[width]) == sorted(reference[width])
        for name, (x, wide, high) in reference[width].items():
            at_x, is_wide, is_high = answers[width][name]
            assert abs(at_x - x) <= 4, (width, name)
            assert abs(is_wide - wide) <= 4, (width, name)
            assert abs(is_high - high) <= max(40, 0.25 * high), (width, name)


def brightness(report: Path) -> list[list[int]]:
    """The mean brightness (0 to 255) of each field of a coarse grid over the first two screens, dark."""
    picture = report.with_name("dark.png")
    flags = ("--window-size=1280,2000", "--blink-settings=preferredColorScheme=0", "--virtual-time-budget=4000")
    run_chromium(report, *flags, f"--screenshot={picture}")
    with Image.open(picture) as image:
        pixels = np.asarray(image.convert("L"), dtype=float)
    grid = pixels.reshape(20, 100, 16, 80).mean(axis=(1, 3))
    return np.round(grid).astype(int).tolist()


def test_the_dark_page_is_painted_as_it_was(report: Path):
    """Catches a page that stays white in the dark, an empty picture, and text in the colour of its ground."""
    grid, reference = (np.array(x) for x in (brightness(report), json.loads(REFERENCE.read_text())["dark"]))
    assert grid.mean() < 60
    assert np.abs(grid - reference).mean() < 5
    assert (np.abs(grid - reference) > 25).mean() < 0.1


def test_the_page_prints_whole(report: Path):
    """Catches a print of the first screen alone, and one in which two hundred trajectories are drawn."""
    paper = report.with_name("report.pdf")
    run_chromium(report, "--no-pdf-header-footer", f"--print-to-pdf={paper}")
    pages = len(re.findall(rb"/Type\s*/Page\b", paper.read_bytes()))
    assert 8 <= pages <= 40


def write_reference() -> None:
    """Measure the pages of this machine and write them as the reference."""
    with tempfile.TemporaryDirectory() as folder:
        report = write_large_report(Path(folder))
        answers, _ = ask(report)
        made = {"wide": answers["wide"], "narrow": answers["narrow"], "dark": brightness(report)}
    text = json.dumps(made, separators=(",", ":")).replace('],"', '],\n"')
    REFERENCE.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(write_reference())
