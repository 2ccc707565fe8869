"""Damaged traces of every format: each document is read or reported, with its place, and costs no other."""

from __future__ import annotations

import copy
import gzip
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from format_samples import SAMPLES as FIRST
from hypothesis import given, settings
from hypothesis import strategies as st
from samples_more import MORE

from envecho.errors import DataError
from envecho.formats import ImportReport, import_traces
from envecho.trajectory import Trajectory
from envecho.trajectory.store import write_trajectories

SAMPLES = {**FIRST, **MORE}
LINES = ("claude-code", "codex", "codex-stream", "openhands-1")
CHAT = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}
DEEP: Any = "x"
for _ in range(60):
    DEEP = [DEEP]
WRONG: list[Any] = [
    None, 0, 10**400, -1.5, float("nan"), float("inf"), "", "\ud800", "\x00\x1b[2J", "[", '{"a": 1}', "ATIF-v9.9",
    True, [], {}, [None], [[]], [{}], {"role": 3}, {"type": "text"}, {"kind": "ActionEvent", "id": 1}, DEEP,
]  # fmt: skip


def places(node: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    entries = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in list(entries):
        found += [(node, key), *places(value)]
    return found


def damage(document: Any, data: st.DataObject) -> None:
    """Do one thing to one place: a wrong value, nothing there, or the same twice."""
    node, key = data.draw(st.sampled_from(places(document)))
    how = data.draw(st.sampled_from(["wrong", "wrong", "gone", "twice"]))
    if how == "gone":
        del node[key]
    elif how == "twice" and isinstance(node, list):
        node.insert(key, copy.deepcopy(node[key]))
    else:
        node[key] = copy.deepcopy(data.draw(st.sampled_from(WRONG)))


def imported(path: Path) -> tuple[list[Trajectory], ImportReport]:
    report = ImportReport()
    return list(import_traces([path], report)), report


@settings(deadline=None, max_examples=500)
@given(data=st.data())
def test_a_trace_that_is_damaged_twice_is_read_or_reported_and_costs_no_other(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
):
    """Catches a bare traceback, a document that is lost without a word, and a good row behind it that is lost too."""
    name = data.draw(st.sampled_from(sorted(SAMPLES)))
    document = copy.deepcopy(SAMPLES[name])
    for _ in range(data.draw(st.integers(1, 3))):
        if places(document):
            damage(document, data)
    rows = document if name in LINES and isinstance(document, list) else [document]
    path = tmp_path_factory.getbasetemp() / "damaged.jsonl"
    lines = [json.dumps(row) for row in [*rows, CHAT]]
    path.write_bytes("".join(f"{line}\n" for line in lines).encode("utf-8", "surrogatepass"))
    found, report = imported(path)
    mine = [t for t in found if [m.content for m in t.messages] == ["hi", "hello"]]
    assert len(mine) == 1
    assert len(found) > 1 or report.problems or not rows
    assert all(problem.file == "damaged.jsonl" and problem.message for problem in report.problems)
    write_trajectories(path.with_suffix(".parquet"), found)  # what was read can be kept


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_a_trace_that_is_cut_anywhere_is_reported_with_its_place(tmp_path: Path, name: str):
    """Catches a half-written file that is taken for a short one."""
    whole = json.dumps(SAMPLES[name], indent=1).encode()
    for part in (3, 2):
        (tmp_path / "cut.json").write_bytes(whole[: len(whole) // part])
        found, report = imported(tmp_path / "cut.json")
        assert found == []
        assert "no JSON" in str(report.problems[0])


@pytest.mark.parametrize("cut", [5, 20, 40])
def test_a_cut_archive_is_an_error_with_its_name(tmp_path: Path, cut: int):
    """Catches an archive that ends early and passes for a whole one."""
    packed = gzip.compress((json.dumps(CHAT) + "\n").encode() * 50)
    (tmp_path / "a.gz").write_bytes(packed[:-cut])
    assert "broken or cut short" in str(imported(tmp_path / "a.gz")[1].problems[0])
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("a.json", json.dumps(CHAT))
    (tmp_path / "a.zip").write_bytes(zipped.getvalue()[:-cut])
    assert "broken or cut short" in str(imported(tmp_path / "a.zip")[1].problems[0])


def test_an_archive_packed_in_an_unknown_way_says_what_to_do(tmp_path: Path):
    """Catches an `.eval` archive of inspect whose members are packed with zstd, lost without a hint."""
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("samples/1_epoch_1.json", json.dumps(SAMPLES["inspect"]))
        archive.writestr("samples/2_epoch_1.json", json.dumps(SAMPLES["inspect"]))
    data = bytearray(zipped.getvalue())
    header, directory = data.index(b"PK\x03\x04"), data.index(b"PK\x01\x02")
    data[header + 8 : header + 10] = data[directory + 10 : directory + 12] = (98).to_bytes(2, "little")
    (tmp_path / "log.eval").write_bytes(bytes(data))
    found, report = imported(tmp_path / "log.eval")
    assert len(found) == 1
    assert "samples/1_epoch_1.json: cannot be unpacked" in str(report.problems[0])
    assert "unpack it by hand and import the folder" in str(report.problems[0])


def test_lines_of_other_encodings_cost_themselves_alone(tmp_path: Path):
    """Catches a file of mixed encodings that is refused as a whole, or read with replacement characters."""
    lines = [json.dumps(CHAT).encode(), '{"messages": "ü"}'.encode("latin-1"), b"\xff\xfe", json.dumps(CHAT).encode()]
    (tmp_path / "mixed.jsonl").write_bytes(b"\n".join(lines))
    found, report = imported(tmp_path / "mixed.jsonl")
    assert len(found) == 2
    assert [problem.line for problem in report.problems] == [2, 3]


def test_an_empty_folder_is_an_error_by_name(tmp_path: Path):
    """Catches an import of nothing that succeeds."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: expected a file, a folder with files"):
        list(import_traces([tmp_path / "empty"], ImportReport()))


def test_a_bad_turn_names_file_line_and_turn_and_the_other_rows_are_kept(tmp_path: Path):
    """Catches a problem that does not say where it is."""
    bad = {"messages": [{"role": "user", "content": "x"}, {"role": "wizard", "content": "y"}]}
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in (CHAT, bad, CHAT)))
    found, report = imported(tmp_path / "rows.jsonl")
    assert [trajectory.id for trajectory in found] == ["rows.jsonl:1", "rows.jsonl:3"]
    assert str(report.problems[0]) == (
        "rows.jsonl:2: turn 1: expected a role such as user, assistant or tool, found 'wizard'"
    )
