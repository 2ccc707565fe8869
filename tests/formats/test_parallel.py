"""Several processes import what one does, byte for byte, and a process that fails names its file."""

from __future__ import annotations

import contextlib
import errno
import json
import multiprocessing
import os
import signal
import threading
import time
from collections import Counter
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from format_samples import SAMPLES

from envecho.errors import ConfigError, DataError
from envecho.formats import ImportOptions, ImportReport, Problem, Redactor, import_batches, import_traces
from envecho.formats import importing as importing_module
from envecho.formats import parallel as parallel_module
from envecho.formats.rules import Rule
from envecho.trajectory import Source
from envecho.trajectory.store import TrajectoryWriter, read_trajectories

LINES = {"claude-code", "codex", "codex-stream", "openhands-1"}


def make_traces(folder: Path, copies: int = 3) -> Path:
    folder.mkdir()
    for number in range(copies):
        for name, sample in SAMPLES.items():
            text = "\n".join(map(json.dumps, sample)) if name in LINES else json.dumps(sample)
            (folder / f"{number}-{name}.json").write_text(text)
    (folder / "1-broken.json").write_text('{"messages": [')
    (folder / "2-lines.jsonl").write_text("\n".join([json.dumps(SAMPLES["messages"]), '{"a": 1}', "{", "[]"]))
    return folder


def imported(folder: Path, out: Path, **how: Any) -> tuple[dict[str, bytes], ImportReport]:
    report = ImportReport()
    with TrajectoryWriter(out) as writer:
        for rows in import_batches([folder], report, spool=out.parent, **how):
            writer.write_batch(rows)
    return {"one": out.read_bytes()}, report


def test_any_number_of_processes_makes_the_same_bytes_and_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Catches an order that depends on which process is fastest, and reports that lose or double a part."""
    folder = make_traces(tmp_path / "traces")
    monkeypatch.setattr(parallel_module, "_FILES_PER_PARCEL", 3)
    alone = imported(folder, tmp_path / "1.parquet", num_workers=1)
    assert len(alone[1].problems) == 4
    assert alone[1].num_trajectories > 40
    assert imported(folder, tmp_path / "2.parquet", num_workers=2) == alone
    monkeypatch.setattr(parallel_module, "_PARCELS_AHEAD", 1)
    assert imported(folder, tmp_path / "3.parquet", num_workers=3) == alone
    report = ImportReport()
    assert list(read_trajectories(tmp_path / "1.parquet")) == list(import_traces([folder], report))
    assert report == alone[1]
    assert {path.name for path in tmp_path.iterdir()} == {"traces", "1.parquet", "2.parquet", "3.parquet"}


def test_reports_of_files_merge_into_the_report_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Catches a new field of the report that the merge forgets, and rare lines that are forgotten at other times."""
    folder = make_traces(tmp_path / "traces", copies=2)
    monkeypatch.setattr(importing_module, "_MOST_LINES", 6)
    whole, merged = ImportReport(), ImportReport()
    list(import_traces([folder], whole))
    for file in sorted(folder.iterdir()):
        part = ImportReport()
        list(import_traces([file], part))
        # A file by itself is labelled by its name, as it is in this folder.
        merged.merge(part)
    assert merged == whole
    assert len(whole.lines) <= 6
    for item in fields(ImportReport):
        some: Any = {int: 2, Counter: Counter(x=1), list: [Problem(file="f", message="m")]}
        one = ImportReport(**{item.name: some[type(getattr(ImportReport(), item.name))]})
        both = ImportReport()
        both.merge(one)
        both.merge(one)
        assert getattr(both, item.name) not in (getattr(ImportReport(), item.name), getattr(one, item.name)), item.name


def kill_the_reader(fifo: Path, killed: list[int]) -> None:
    """Wait until a child process reads the pipe, then kill it; the pipe stays open, so that it cannot see its end."""
    writer = None
    while writer is None:
        try:
            writer = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            time.sleep(0.01)
    while not killed:
        for child in multiprocessing.active_children():
            with contextlib.suppress(FileNotFoundError):  # it opens and closes other files meanwhile
                if str(fifo) in {os.readlink(link) for link in Path(f"/proc/{child.pid}/fd").iterdir()}:
                    os.kill(child.pid or 0, signal.SIGKILL)
                    killed.append(child.pid or 0)
    time.sleep(0.2)  # the process must be gone before the pipe ends
    os.close(writer)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="looks for the process that holds a file in /proc")
def test_a_killed_process_is_an_error_that_names_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Catches the files of a process that ran out of memory being lost in silence, and a wait for it without end."""
    folder = make_traces(tmp_path / "traces", copies=1)
    monkeypatch.setattr(parallel_module, "_FILES_PER_PARCEL", 3)
    os.mkfifo(folder / "1-killed.json")
    killed: list[int] = []
    thread = threading.Thread(target=kill_the_reader, args=(folder / "1-killed.json", killed), daemon=True)
    thread.start()
    with pytest.raises(DataError, match=r"1-killed\.json: the process .* was killed by SIGKILL"):
        imported(folder, tmp_path / "x.parquet", num_workers=2)
    thread.join(60)
    assert len(killed) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["traces"]
    assert multiprocessing.active_children() == []


class Exploding:
    """A pattern that fails as no reader foresees."""

    def finditer(self, text: str) -> Any:
        """Fail."""
        raise ZeroDivisionError("boom")


def test_an_unforeseen_failure_in_a_process_names_the_file(tmp_path: Path):
    """Catches a traceback of another process that says everything but which file to look at."""
    folder = make_traces(tmp_path / "traces", copies=1)
    rule = Rule(pattern=Exploding(), source=Source.STATUS)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"0-anthropic\.json: [\s\S]*ZeroDivisionError: boom"):
        imported(folder, tmp_path / "x.parquet", num_workers=2, options=ImportOptions(rules=(rule,)))
    assert not (tmp_path / "x.parquet").exists()


def test_options_that_no_other_process_can_get_are_refused(tmp_path: Path):
    """Catches a traceback about pickling for a hook that is a lambda, and processes or folders left behind."""
    folder = make_traces(tmp_path / "traces", copies=1)
    options = ImportOptions(redactor=Redactor(hook=lambda text: []))
    with pytest.raises(ConfigError, match="cannot be handed to another process"):
        imported(folder, tmp_path / "x.parquet", num_workers=2, options=options)
    assert [path.name for path in tmp_path.iterdir()] == ["traces"]
    assert multiprocessing.active_children() == []
    assert imported(folder, tmp_path / "x.parquet", num_workers=1, options=options)[1].num_trajectories


def test_a_few_files_are_the_work_of_this_process_and_many_of_all_cores(tmp_path: Path, monkeypatch):
    """Catches a second of starting processes for three small files, and one core for a thousand."""
    files = [(tmp_path / f"{number}.json", f"{number}.json", False) for number in range(20)]
    for path, _, _ in files:
        path.write_bytes(b"x" * 1000)
    assert parallel_module.default_workers(files) == 1
    monkeypatch.setattr(parallel_module, "_FEW_BYTES", 10_000)
    assert parallel_module.default_workers(files) == len(os.sched_getaffinity(0))
    assert parallel_module.default_workers(files[:8]) == 1
    with pytest.raises(ConfigError, match="expected at least 1"):
        list(import_batches([tmp_path], ImportReport(), num_workers=0))


def test_a_trajectory_that_no_file_can_hold_is_a_problem_and_the_others_are_kept(tmp_path: Path):
    """Catches half a surrogate pair in one row that costs the whole import."""
    rows = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": text}]} for text in "abc"]
    rows[1]["messages"][1]["content"] = "\ud83d"
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    _, report = imported(tmp_path / "x.jsonl", tmp_path / "x.parquet")
    assert report.num_trajectories == 2
    assert [(problem.file, problem.line) for problem in report.problems] == [("x.jsonl", 2)]
