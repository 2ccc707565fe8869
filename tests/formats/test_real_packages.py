"""Exports in the hands of the projects that they are for: their own models and readers take our files as they are."""

from __future__ import annotations

import json
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from trajectory_strategies import trajectories

from envecho.formats import atif_export, chat_export, openenv_export
from envecho.trajectory import Message, Segment, Source, Trajectory

SLOW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def lines_of(*trajectories: Trajectory) -> str:
    return "".join(json.dumps(openenv_export.write(t, Counter()), ensure_ascii=False) + "\n" for t in trajectories)


def openenv(module: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(module, reason="needs openenv: pip install 'envecho[openenv]'", exc_type=ImportError)


@SLOW
@given(trajectories())
def test_the_models_of_atif_take_every_document_and_keep_our_keys(trajectory: Trajectory):
    """Catches a field that ATIF forbids, an id that it requires, and spans that do not survive its models."""
    atif = pytest.importorskip("atif", reason="needs atif: pip install atif==1.8.0")
    document = json.loads(json.dumps(atif_export.write(trajectory, Counter())))
    read = atif.Trajectory.model_validate(document)
    assert read.to_json_dict(exclude_none=False)["extra"] == document["extra"]
    assert [step.extra for step in read.steps] == [step["extra"] for step in document["steps"]]


@SLOW
@given(trajectories())
def test_the_record_of_openenv_takes_every_line_and_keeps_our_keys(trajectory: Trajectory):
    """Catches a field that `EpisodeRecord` does not know, and keys that its serializer changes or drops."""
    collect = openenv("openenv.core.harness.collect")
    line = json.loads(json.dumps(openenv_export.write(trajectory, Counter())))
    assert collect.EpisodeRecord(**line).to_dict() == line


def test_the_collector_of_openenv_resumes_from_our_file(tmp_path: Path):
    """Catches lines that its reader refuses, and a file that it cannot append to."""
    collect = openenv("openenv.core.harness.collect")
    said = Message(role="assistant", segments=(Segment(source=Source.POLICY, text="ls\u2028"),))
    (tmp_path / "results.jsonl").write_text(lines_of(Trajectory(id="ours", task_id="t", messages=(said,))))
    serializer = collect.RolloutSerializer(tmp_path)
    assert serializer.collected_episode_ids() == {"ours"}
    theirs = collect.EpisodeRecord("theirs", [], 0.0, True, [], {}, {}, {})
    serializer.write_episode(theirs)
    assert serializer.collected_episode_ids() == {"ours", "theirs"}


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(trajectories(), trajectories())
def test_datasets_loads_lines_with_spans_like_any_others(first: Trajectory, second: Trajectory):
    """Catches keys whose types differ from line to line, which no table can hold."""
    datasets = pytest.importorskip("datasets", reason="needs datasets, a development dependency")
    with tempfile.TemporaryDirectory() as folder:
        for name, write in (("openenv", openenv_export.write), ("messages", chat_export.write)):
            path = Path(folder) / f"{name}.jsonl"
            written = [write(t.model_copy(update={"tools": ()}), Counter()) for t in (first, second)]
            for line in written:
                line.pop("tool_trace", None)  # arguments are whatever a tool takes
            path.write_bytes("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in written).encode())
            table = datasets.Dataset.from_json(str(path), cache_dir=folder, keep_in_memory=True)
            key = "episode_id" if name == "openenv" else "id"
            assert [row[key] for row in table] == [first.id, second.id]
