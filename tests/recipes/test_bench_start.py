"""The times of starts: fresh processes, limits, and what a ready model costs beyond its libraries."""

from __future__ import annotations

from pathlib import Path

import pytest

from envecho.errors import EngineError
from envecho.recipes import bench
from envecho.recipes.bench_start import Start, bench_start, over_limit, starts, time_start


def test_a_start_that_says_ready_is_timed_up_to_its_first_line():
    """Catches a wait for the end of a process that runs on, and processor time that is not the child's."""
    program = "import time; t = time.process_time()\nwhile time.process_time() < t + 0.05: pass\n"
    ready = Start(program=program + "print(time.process_time(), flush=True); time.sleep(60)", says_ready=True)
    found = time_start("ready", ready)
    assert 50 <= found["processor_milliseconds"] < 1000
    assert found["wall_milliseconds"] < 20_000
    ended = time_start("ended", Start(program=program, limit_milliseconds=70))
    assert 50 <= ended["processor_milliseconds"] < 1000
    assert ended["limit_milliseconds"] == 70


@pytest.mark.parametrize("says_ready", [True, False])
def test_a_start_that_fails_is_no_fast_start(says_ready: bool):
    """Catches a broken command whose quick traceback is the best time of the table."""
    with pytest.raises(EngineError, match="'broken' did not start: ModuleNotFoundError: No module named 'nowhere'"):
        time_start("broken", Start(program="import nowhere", says_ready=says_ready))


def test_the_document_holds_every_subject_and_names_those_over_their_limit(monkeypatch: pytest.MonkeyPatch):
    """Catches a warm-up round that counts, a limit that is not looked at, and a column that the table leaves out."""
    subjects = {
        "slow": Start(program="import time; time.sleep(0.2)", limit_milliseconds=100),
        "free": Start(program="pass", limit_milliseconds=60_000),
        "floor": Start(program="pass"),
    }
    monkeypatch.setattr("envecho.recipes.bench_start.starts", lambda model: subjects)
    monkeypatch.setattr("envecho.recipes.bench_start.resolve_model", Path)
    document = bench_start(model="none", repetitions=2)
    assert document["format"] == "envecho.bench.start"
    assert set(document["results"]) == set(subjects)
    assert over_limit(document["results"]) == ["slow"]
    assert "| | on the clock, ms | processor, ms | limit, ms |" in bench.table(document)


def test_a_ready_model_costs_little_more_than_importing_its_libraries():
    """Catches what every start would pay for: hashing the model's file, a second conversion, an eager import of ours.

    Processor times of one round, and of two more if the first was disturbed.
    """
    subjects = starts("smollm2-135m")
    ratios: list[float] = []
    while len(ratios) < 3 and min(ratios, default=9.0) > 1.35:
        ready, libraries = (
            time_start(title, subjects[title])["processor_milliseconds"]
            for title in ("model and tokenizer ready", "torch and transformers")
        )
        ratios.append(ready / libraries)
    assert min(ratios) < 1.35, ratios
