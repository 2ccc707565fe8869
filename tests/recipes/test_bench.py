"""`envecho bench`: it measures what it says, and the page of figures is what the committed files say."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from envecho.cli.main import main
from envecho.errors import WorldLostError
from envecho.formats import ImportReport, import_traces
from envecho.recipes import bench, bench_rollout
from envecho.recipes.bench_material import FORMATS, small_trajectories, write_traces

ROOT = Path(__file__).parents[2]

_spec = importlib.util.spec_from_file_location("bench_tables", ROOT / "results" / "bench" / "make_table.py")
assert _spec is not None
assert _spec.loader is not None
make_table = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(make_table)


def run(*args: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["bench", *map(str, args)])
    return int(ended.value.code or 0)


def test_the_material_is_read_as_the_formats_that_it_imitates(tmp_path: Path):
    """Catches a benchmark of one format under three names, and material that rules and roles do not touch."""
    written = write_traces(tmp_path / "traces", num_bytes=200_000, seed=1)
    report = ImportReport()
    found = list(import_traces([tmp_path / "traces"], report))
    assert set(report.formats) == set(written) == set(FORMATS)
    assert report.problems == []
    assert report.characters["status"] > 0 < report.characters["tool_result"]
    # The same seed makes the same traces, another one other text.
    assert write_traces(tmp_path / "again", num_bytes=200_000, seed=1) == written
    assert list(import_traces([tmp_path / "again"], ImportReport())) == found
    write_traces(tmp_path / "other", num_bytes=200_000, seed=2)
    texts = {t.messages[1].content for t in found}
    assert texts.isdisjoint(t.messages[1].content for t in import_traces([tmp_path / "other"], ImportReport()))
    small = list(small_trajectories(40, seed=0))
    assert {len(t.messages) for t in small} == {6}
    assert len({t.task_id for t in small}) == 5


def test_the_store_is_measured_phase_by_phase(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Catches a phase that is left out, and peaks of the parent taken for a phase's own."""
    out = tmp_path / "store.json"
    assert run("store", "--num", 400, "--repetitions", 1, "--folder", tmp_path, "--out", out) == 0
    document = json.loads(out.read_text())
    assert document["format"] == "envecho.bench.store"
    assert list(document["results"]) == [
        "write", "iterate", "filter: reward and source", "filter: one task", "copy what passes", "split",
    ]  # fmt: skip
    for found in document["results"].values():
        rate = found["trajectories_per_second"]
        assert 0 < rate["min"] == rate["median"] == rate["max"]
        assert 2e7 < found["peak_memory_bytes"]["median"] < 1e9
    assert bench.table(document) in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["store.json"]


def test_figures_are_medians_of_all_repetitions():
    """Catches a mean, a figure of the last repetition, and a table without its spread."""
    measured = {"write": {"trajectories_per_second": [900.0, 100.0, 200.0], "peak_memory_bytes": [2e6, 2e6, 2e6]}}
    document = bench.document("store", {}, measured, 3, 0)
    assert document["results"]["write"]["trajectories_per_second"] == {"median": 200.0, "min": 100.0, "max": 900.0}
    assert "| write | **200** (100 to 900) | **2 MB** |" in bench.table(document)


def test_a_phase_that_fails_is_an_error_that_names_it():
    """Catches a figure of nothing: the filter of a store without a match measures no filter."""
    with pytest.raises(bench.EngineError, match="iterate_store ended with status 1"):
        bench.repeat([bench.functools.partial(bench.phases.iterate_store, Path("nowhere"))])  # type: ignore[attr-defined]


def test_the_page_shows_the_tables_that_the_results_make():
    """Catches figures in the docs that no file holds, and a page whose marks are gone."""
    page = make_table.PAGE.read_text(encoding="utf-8")
    assert make_table.filled(page) == page
    assert all(table in page for table in make_table.tables().values())


def test_the_committed_figures_keep_what_is_promised():
    """Catches a store that outgrows a gigabyte, and masks slower than 100,000 tokens per second and core."""
    store = json.loads((make_table.RESULTS / "store.json").read_text(encoding="utf-8"))
    assert store["material"]["num_trajectories"] >= 1_000_000
    assert max(found["peak_memory_bytes"]["max"] for found in store["results"].values()) < 1e9
    masks = json.loads((make_table.RESULTS / "import.json").read_text(encoding="utf-8"))["results"]
    rates = [found["tokens_per_second"]["min"] for title, found in masks.items() if title.startswith("text to masks")]
    assert len(rates) == len(FORMATS)
    assert min(rates) >= 100_000


def test_the_loop_is_measured_for_each_number_of_worlds(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Catches worlds that do not run at once, and a world's own time that counts as the loop's."""
    out = tmp_path / "rollout.json"
    arguments = ("--part", "script", "--worlds", "1,4", "--steps", 5, "--step-seconds", "0.02", "--repetitions", 1)
    assert run("rollout", *arguments, "--out", out) == 0
    document = json.loads(out.read_text())
    assert bench.table(document) in capsys.readouterr().out
    assert list(document["results"]) == ["script, 20 ms a step, 1 world", "script, 20 ms a step, 4 worlds"]
    one, four = ({key: v["median"] for key, v in found.items()} for found in document["results"].values())
    assert 20 <= one["step_milliseconds_p50"] < 40
    assert one["gap_microseconds_p50"] < 5_000
    assert one["steps_per_second"] <= 50
    assert four["steps_per_second"] > 2 * one["steps_per_second"]
    assert four["num_threads"] >= one["num_threads"] + 3
    assert 0.5 < four["world_fraction"] <= 1


def test_a_served_world_is_measured_over_loopback_and_its_server_ends():
    """Catches a figure for served worlds that never left the process, and a server that outlives the command."""
    with bench_rollout.null_server(2, 4) as url:
        served = bench_rollout.run_served(4, 2, url, 0)
    null = bench_rollout.run_scripts(4, 2, 0.0, 0)
    assert served["step_milliseconds_p50"] > 10 * null["step_milliseconds_p50"]
    with pytest.raises(WorldLostError):
        bench_rollout.run_served(1, 2, url, 0)


@pytest.mark.parametrize("schedule", ["lockstep", "ready"])
def test_every_step_of_a_model_is_measured_with_the_decoding_before_it(schedule):
    """Catches a model that is measured without its turns: 20 ms of decoding lie before each action."""
    found = bench_rollout.run_model(4, 3, 0.002, schedule, 0)
    assert found["gap_microseconds_p50"] >= 20_000


@pytest.mark.parametrize(("option", "value"), [("--worlds", "many"), ("--worlds", "0"), ("--step-seconds", "-1")])
def test_numbers_that_measure_nothing_are_refused(option: str, value: str, capsys: pytest.CaptureFixture[str]):
    """Catches a bench of no world, and one that sleeps backwards."""
    assert run("rollout", option, value) == 2
    assert option in capsys.readouterr().err
