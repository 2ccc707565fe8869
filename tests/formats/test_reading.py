"""Files of any packing: what is read, and what is reported with its place while the rest goes on."""

from __future__ import annotations

import gzip
import json
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envecho.errors import DataError
from envecho.formats import ImportReport, import_traces
from envecho.formats.reading import Document, Problem, expand, read_documents
from envecho.trajectory import Message, Segment, Source, Trajectory
from envecho.trajectory.store import write_trajectories

CHAT = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}


def documents(path: Path, *, named: bool = True) -> tuple[list[Document], list[Problem]]:
    problems: list[Problem] = []
    return list(read_documents(path, problems.append, label=path.name, named=named)), problems


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


LINES = b'{"a": 1}\n\n{"a": 2}\n'


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (LINES, [1, 2]),
        (b'\xef\xbb\xbf{"a": 1}\r\n{"a": 2}\r\n', [1, 2]),
        (gzip.compress(LINES), [1, 2]),
        (b'{\n "a": 1\n}\n', [1]),
        ('{"a": 3}'.encode("utf-16"), [3]),
        (b'{"a": 1}', [1]),
    ],
)
def test_what_a_file_is_its_content_says(tmp_path: Path, data: bytes, expected: list[int]):
    """Catches a reader that believes a file's name, and lines that are taken for one document."""
    found, problems = documents(write(tmp_path / "any.name", data))
    assert [document.data["a"] for document in found] == expected
    assert problems == []


def test_an_archive_is_read_member_by_member(tmp_path: Path):
    """Catches members that are lost, and pictures in an archive that are reported as broken traces."""
    with zipfile.ZipFile(tmp_path / "traces.eval", "w") as archive:
        archive.writestr("one.json", '{"a": 1}')
        archive.writestr("picture.png", b"\x89PNG")
        archive.writestr("deep/two.jsonl.gz", gzip.compress(LINES))
    found, problems = documents(tmp_path / "traces.eval")
    assert [(d.file, d.line, d.data["a"]) for d in found] == [
        ("traces.eval!one.json", None, 1),
        ("traces.eval!deep/two.jsonl.gz", 1, 1),
        ("traces.eval!deep/two.jsonl.gz", 3, 2),
    ]
    assert problems == []


def test_rows_of_a_data_set_are_documents(tmp_path: Path):
    """Catches a column of structs that does not come back as objects."""
    pq.write_table(pa.Table.from_pylist([CHAT, CHAT]), tmp_path / "rows.parquet")
    found, problems = documents(tmp_path / "rows.parquet")
    assert [(d.line, d.data) for d in found] == [(1, CHAT), (2, CHAT)]
    assert problems == []


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "a Git LFS pointer, not the data"),
        (b'{"a": [1, 2', r"no JSON: .* in line 1, column 12 \(the file may be cut short\)"),
        (b"hello\n", "expected JSON, JSON lines, Parquet or an archive, found b'hello"),
        (b'{"a": "\xff"}', "expected utf-8-sig, found the byte 0xff at byte 7"),
        (b"[" * 100_000, "no JSON that can be read"),
        (gzip.compress(LINES)[:-6], "the archive is broken or cut short"),
        (b"PK\x03\x04 and no more", "the archive is broken"),
        (b"PAR1 and no more", "the Parquet file cannot be read"),
        (b"interactions: [\n", "no YAML that can be read"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_its_reason(tmp_path: Path, data: bytes, message: str):
    """Catches a bare traceback, and a file that is lost without a word."""
    _, problems = documents(write(tmp_path / "bad", data))
    assert len(problems) == 1
    assert problems[0].file == "bad"
    assert __import__("re").search(message, str(problems[0]))


def test_good_lines_of_a_partly_bad_file_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Catches one broken line that costs the file, and line numbers that count only good lines."""
    monkeypatch.setattr("envecho.formats.reading.MAX_LINE_BYTES", 64)
    lines = [b'{"a": 1}', b"{broken", b'{"a": "\xff"}', b'{"a": "' + b"x" * 200 + b'"}', b'{"a": 5}']
    found, problems = documents(write(tmp_path / "mixed.jsonl", b"\n".join(lines)))
    assert [(d.line, d.data["a"]) for d in found] == [(1, 1), (5, 5)]
    assert [p.line for p in problems] == [2, 3, 4]
    assert "over 64 bytes" in problems[2].message


def test_a_first_line_that_is_broken_does_not_cost_the_others(tmp_path: Path):
    """Catches a file of lines that is taken for one broken document."""
    found, problems = documents(write(tmp_path / "x.jsonl", b'{"a": \n{"a": 2}\n{"a": 3}\n'))
    assert [d.data["a"] for d in found] == [2, 3]
    assert [p.line for p in problems] == [1]


def test_our_own_files_need_no_import(tmp_path: Path):
    """Catches a store that is read as a data set and loses its sources."""
    message = Message(role="user", segments=(Segment(source=Source.TASK, text="x"),))
    write_trajectories(tmp_path / "ours.parquet", [Trajectory(id="1", task_id="t", messages=(message,))])
    _, problems = documents(tmp_path / "ours.parquet")
    assert "an envecho file already" in problems[0].message


def test_labels_name_files_alike_on_any_machine(tmp_path: Path):
    """Catches episodes named after somebody's home folder, and hidden files that are read."""
    for name in ("a/one.json", "b/one.json", ".git/x.json"):
        write(tmp_path / name, json.dumps(CHAT).encode())
    assert [(label, named) for _, label, named in expand([tmp_path])] == [("a/one.json", False), ("b/one.json", False)]
    assert [label for _, label, _ in expand([tmp_path / "a" / "one.json", tmp_path / "b"])] == [
        "a/one.json",
        "b/one.json",
    ]
    assert [label for _, label, _ in expand([str(tmp_path / "*" / "one.json")])] == ["a/one.json", "b/one.json"]
    with pytest.raises(DataError, match="a glob that matches, found none"):
        expand([tmp_path / "nothing*"])


@settings(deadline=None, max_examples=150)
@given(data=st.binary(max_size=400) | st.text(alphabet='{}[]",:\\n 1ae', max_size=200).map(str.encode))
def test_any_bytes_are_read_or_reported(tmp_path_factory: pytest.TempPathFactory, data: bytes):
    """Catches a traceback on bytes that nobody thought of, and a named file about which nothing is said."""
    path = write(tmp_path_factory.getbasetemp() / "fuzz.bin", data)
    report = ImportReport()
    found = list(import_traces([path], report))
    assert found or report.problems


MUTATIONS = [None, 0, "x", [], {}, [None], {"role": 3}, True, -1.5, "[", '{"a": 1}']


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_a_mutated_trace_is_read_or_reported(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject):
    """Catches a wrong type anywhere in a known format that ends in a traceback."""
    from format_samples import SAMPLES

    document = json.loads(json.dumps(data.draw(st.sampled_from(sorted(SAMPLES.values(), key=str)))))
    places: list[tuple[object, object]] = []

    def walk(node: object) -> None:
        entries = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for key, value in list(entries):
            places.append((node, key))
            walk(value)

    walk(document)
    node, key = data.draw(st.sampled_from(places))
    node[key] = data.draw(st.sampled_from(MUTATIONS))  # type: ignore[index]
    lines = document if isinstance(document, list) and document and data.draw(st.booleans()) else [document]
    path = tmp_path_factory.getbasetemp() / "mutant.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    report = ImportReport()
    found = list(import_traces([path], report))
    assert found or report.problems or not lines


def test_a_session_without_an_answer_is_reported(tmp_path: Path):
    """Catches a session that is recognised, holds nothing to learn from, and is lost without a word."""
    lines = [{"type": "session_meta", "payload": {"id": "s"}}, {"type": "response_item", "payload": {"role": "user"}}]
    path = write(tmp_path / "s.jsonl", "\n".join(map(json.dumps, lines)).encode())
    report = ImportReport()
    assert list(import_traces([path], report)) == []
    assert "expected at least one answer of a model" in report.problems[0].message
