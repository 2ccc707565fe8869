"""Input that is large in a bad way: one endless line, thousands of files, archives of thousands of members."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from envecho.formats import ImportReport, import_traces
from envecho.formats import reading as reading_module

ROW = {"messages": [{"role": "user", "content": "How many?"}, {"role": "assistant", "content": "Three."}]}
NUM_FILES = 1100  # more than a process may have open by default
MOST_MEBIBYTES = 95

PEAK = """
import sys
from envecho.formats import ImportReport, import_batches
from envecho.recipes.phases import peak_memory_bytes
report = ImportReport()
before = peak_memory_bytes()
rows = sum(batch.num_rows for batch in import_batches(sys.argv[1:], report, num_workers=1))
print(rows, (peak_memory_bytes() - before) // 2**20, *report.problems[:1])
"""


def measured(*paths: Path) -> tuple[int, int, str]:
    """Rows, MiB above what the libraries take, and the first problem, of an import in a process of its own."""
    done = subprocess.run([sys.executable, "-c", PEAK, *map(str, paths)], capture_output=True, text=True, check=True)
    rows, peak, *problem = done.stdout.split(maxsplit=2)
    return int(rows), int(peak), problem[0].strip() if problem else ""


@pytest.mark.parametrize("place", [0, 1, 2])
def test_an_endless_line_is_an_error_with_its_place_and_the_others_are_kept(tmp_path: Path, place: int, monkeypatch):
    """Catches a line of 200 MB that fills the memory, hides its neighbours, or is taken for a whole document."""
    monkeypatch.setattr(reading_module, "MAX_LINE_BYTES", 1000)
    lines = [json.dumps(ROW)] * 3
    lines[place] = json.dumps({"messages": [{"role": "user", "content": "x" * 5000}]})
    (tmp_path / "x.jsonl").write_text("\n".join(lines))
    report = ImportReport()
    assert [t.id for t in import_traces([tmp_path / "x.jsonl"], report)] == [
        f"x.jsonl:{number + 1}" for number in range(3) if number != place
    ]
    (problem,) = report.problems
    assert (problem.file, problem.line) == ("x.jsonl", place + 1)
    assert "over 1000 bytes" in problem.message


def test_a_file_of_one_endless_line_is_an_error_with_its_place(tmp_path: Path, monkeypatch):
    """Catches the one line of a file that is read as a document of any size."""
    monkeypatch.setattr(reading_module, "MAX_LINE_BYTES", 1000)
    (tmp_path / "x.json").write_text(json.dumps({"messages": [{"role": "user", "content": "x" * 5000}]}))
    report = ImportReport()
    assert list(import_traces([tmp_path / "x.json"], report)) == []
    assert [(problem.file, problem.line) for problem in report.problems] == [("x.json", 1)]


def test_thousands_of_small_files_cost_no_memory_each(tmp_path: Path):
    """Catches open files, documents or reports that are kept until the end: 1,100 files, 55 MB of text."""
    row = json.loads(json.dumps(ROW))
    for number in range(NUM_FILES):
        row["messages"][0]["content"] = f"{number} " + "x " * 25_000
        (tmp_path / f"{number}.json").write_text(json.dumps(row))
    rows, peak, problem = measured(tmp_path)
    assert (rows, problem) == (NUM_FILES, "")
    assert peak < MOST_MEBIBYTES


def test_an_archive_of_thousands_of_members_costs_no_memory_each(tmp_path: Path):
    """Catches an archive that is unpacked as a whole, and a bad member that costs the others."""
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(NUM_FILES):
            row = {"messages": [{"role": "user", "content": f"{number} " + "x " * 25_000}, ROW["messages"][1]]}
            archive.writestr(f"runs/{number}.json", '{"messages": [' if number == 7 else json.dumps(row))
    rows, peak, problem = measured(tmp_path / "x.zip")
    assert rows == NUM_FILES - 1
    assert "x.zip!runs/7.json" in problem
    assert peak < MOST_MEBIBYTES
