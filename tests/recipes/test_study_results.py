"""The committed studies: every figure follows from the records, and the documents say what the files say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from envecho.recipes.study_config import load_study
from envecho.recipes.study_report import report_study

ROOT = Path(__file__).parents[2]
STUDIES = sorted(path.parent for path in (ROOT / "results/study").glob("*/runs.jsonl"))


@pytest.mark.parametrize("folder", STUDIES, ids=lambda folder: folder.name)
def test_a_committed_study_is_remade_from_its_records(folder: Path, tmp_path: Path):
    """Catches a figure that was edited, and a change of the analysis that left the results behind."""
    study = load_study(ROOT / "configs" / f"study-{folder.name}.toml")
    shutil.copy(folder / "runs.jsonl", tmp_path)
    command = json.loads((folder / "study.json").read_text())["command"]
    report_study(study, tmp_path, command=command)
    for name in ("runs.jsonl", "study.json", "study.md"):
        assert (tmp_path / name).read_text() == (folder / name).read_text(), name
    assert {path.name for path in folder.iterdir()} >= {"curves.png", "curves.svg", "differences.png"}


@pytest.mark.parametrize("folder", STUDIES, ids=lambda folder: folder.name)
def test_the_document_shows_the_tables_of_a_committed_study(folder: Path):
    """Catches a table in the document that is not the one that was measured."""
    text = (ROOT / "docs/study.md").read_text()
    block = text.partition(f"<!-- results/study/{folder.name} -->\n")[2].partition("\n<!-- end -->")[0]
    assert block.strip() == (folder / "study.md").read_text().strip()


def test_there_are_committed_studies():
    """Catches a moved folder, after which the two tests above would check nothing."""
    assert {folder.name for folder in STUDIES} >= {"depot", "terminal"}
