"""The page of a simulation, and its file: nothing injected, nothing wider than a phone, nothing unknown."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from envecho.errors import DataError
from envecho.evaluation.results import Stat
from envecho.evaluation.simulation import (
    MODES,
    Choice,
    DriftPoint,
    Guess,
    ModelAnswers,
    ModelResult,
    ModelRole,
    ModeResult,
    Observation,
    Pair,
    PlanAhead,
    PlanAheadResult,
    Simulation,
    read_simulation,
    write_simulation,
)
from envecho.reports.simulation import finding, write_simulation_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--allow-file-access-from-files", "--enable-logging=stderr", "--v=0",
)  # fmt: skip
HOSTILE = "</pre><script>document.title='owned'</script><img src=x onerror=alert(1)>\x1b[2J\u202e" + "wide" * 200
PROBE = """<!doctype html><iframe id="page" src="simulation.html" style="width:390px;height:2000px;border:0"></iframe>
<script>
document.getElementById("page").onload = (event) => {
  const page = event.target.contentDocument;
  for (const one of page.querySelectorAll("details")) one.open = true;
  const marks = page.querySelectorAll("mark").length, bad = page.querySelectorAll("img, pre script").length;
  document.title = `width ${page.documentElement.scrollWidth} marks ${marks} bad ${bad} said ${page.title}`;
};
</script>"""
ROLES: tuple[ModelRole, ...] = ("base", "model")


def stat(value: float, *, count: int = 8) -> Stat:
    return Stat(value=value, low=max(0.0, value - 0.1), high=value + 0.1, num_tokens=count, num_tasks=4)


def guess(text: str, *, exact: bool = False) -> Guess:
    return Guess(text=text, output=text, harness="", cut=not exact, exact=exact, similarity=float(exact), failed=False)


def observation(number: int, text: str) -> Observation:
    answers: dict[ModelRole, ModelAnswers] = {
        "base": ModelAnswers(nats=8.0, num_tokens=4, guided=guess(f"{HOSTILE} {number}"), free=None),
        "model": ModelAnswers(nats=2.0, num_tokens=4, guided=guess(text, exact=True), free=guess("one two\n")),
    }
    return Observation(
        trajectory_id=f"box-{number}", task_id=f"box-{number}", turn=3, number=1, command=f"cat {HOSTILE}", text=text,
        output=text, harness="", phrases_known=True, failed=True, answers=answers,
    )  # fmt: skip


def synthetic(num_observations: int = 8) -> Simulation:
    """A simulation with every part that a page can have."""
    mode = ModeResult(
        num_observations=8, num_cut=3, num_not_asked=1, exact_match=stat(0.25), similarity=stat(0.5),
        failure_accuracy=stat(0.75), failures_foreseen=None, false_alarms=stat(0.125),
    )  # fmt: skip
    drift = tuple(DriftPoint(number=n, guided=stat(0.6), free=stat(0.6 / n) if n < 4 else None) for n in range(1, 5))
    result = ModelResult(ce_per_token=stat(1.5), modes=dict.fromkeys(MODES, mode), drift=drift)
    choice = Choice(succeeds=HOSTILE, fails="no\n", by="odds", right=0.5)
    pair = Pair(
        trajectory_id="box-1", task_id="box-1", turn=3, command="cat a", other=f"cat {HOSTILE}", answer="a\n",
        other_answer="cat: no\n", origin="live", choices=dict.fromkeys(ROLES, choice),
    )  # fmt: skip
    plan = PlanAheadResult(accuracy=stat(0.625), by_words=None, by_odds=stat(0.625))
    return Simulation(
        models={"base": "smollm2-135m", "model": HOSTILE}, source=HOSTILE, command="envecho simulate --out sim",
        max_tokens=40, seed=0, num_trajectories=8, num_tasks=8, num_unknown_phrases=0,
        num_failure_unknown=0, num_long=2,
        observations=tuple(observation(number, f"line {number}\n") for number in range(num_observations)),
        results=dict.fromkeys(ROLES, result),
        differences={"guided": stat(0.25), "free": stat(0.125)},
        plan_ahead=PlanAhead(
            pairs=(pair,), results=dict.fromkeys(ROLES, plan), left_out={"num_failed_itself": 2, "num_none_failed": 1}
        ),
    )  # fmt: skip


def test_the_file_comes_back_as_it_was_and_unknown_parts_are_refused(tmp_path: Path):
    """Catches a figure that the file loses, and a file of another version that is read as this one."""
    path = tmp_path / "new" / "simulation.json"
    write_simulation(path, synthetic())
    assert read_simulation(path) == synthetic()
    data = json.loads(path.read_text())
    for change, message in (
        ({"version": 2}, "expected format 'envecho.simulation' version 1, found 'envecho.simulation' 2"),
        ({"format": "envecho.evaluation"}, "found 'envecho.evaluation' 1"),
        ({"speed": 3}, "speed: Extra inputs"),
        ({"seed": "x"}, "seed: "),
    ):
        path.write_text(json.dumps(data | change))
        with pytest.raises(DataError, match=re.escape(message)):
            read_simulation(path)
    path.write_text("[1")
    with pytest.raises(DataError, match="expected JSON"):
        read_simulation(path)


def test_the_page_says_what_the_file_says(tmp_path: Path):
    """Catches a share that is drawn as a similarity, a model without a name, and a reason in code."""
    path = tmp_path / "simulation.json"
    write_simulation(path, synthetic())
    page = write_simulation_page(path, tmp_path / "simulation.html").read_text()
    for text in ("25.0 %", "0.500", "62.5 %", "the recorded action failed itself: 2", "undecided, by odds", "not asked",
                 "envecho simulate --out sim", "a failure not foreseen", "after its own words",
                 "minus the base model&#39;s, after the true history: +0.250", "1 pair, with 95 %"):  # fmt: skip
        assert text in page
    assert page.count('class="dot trained"') >= 3


def test_the_finding_has_the_same_words_for_every_result():
    """Catches a sentence that praises, or that hides which of the two models it speaks of."""
    words = finding(synthetic())
    assert words.startswith("The base model wrote 25.0 % of the answers exactly as the world, and 25.0 % when it read")
    assert "The model wrote" in words
    assert "in 62.5 % of 8 pairs (chance: 50 %)" in words


def test_a_large_simulation_is_cut_and_what_is_left_out_is_counted(tmp_path: Path):
    """Catches a page of hundreds of megabytes."""
    page = write_simulation_page(synthetic(75), tmp_path / "simulation.html").read_text()
    assert page.count('<article class="readout">') == 60 + 1
    assert "15 more answers are in simulation.json" in page


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_a_browser_runs_nothing_that_a_model_or_world_said(tmp_path: Path):
    """Catches an answer that becomes markup, a style that the policy blocks, and a page wider than a phone."""
    write_simulation_page(synthetic(), tmp_path / "simulation.html")
    (tmp_path / "probe.html").write_text(PROBE)
    done = subprocess.run(
        [str(CHROMIUM), *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--window-size=800,2100",
         "--virtual-time-budget=4000", "--dump-dom", (tmp_path / "probe.html").as_uri()],
        capture_output=True, text=True, timeout=110, check=True,
    )  # fmt: skip
    found = re.search(r"<title>width (\d+) marks (\d+) bad (\d+) said (.*)</title>", done.stdout)
    assert found, done.stderr[-2000:]
    assert int(found[1]) <= 390
    assert int(found[2]) > 8
    assert (int(found[3]), found[4]) == (0, "The model in the world's place")
    assert "Content Security Policy" not in done.stderr
