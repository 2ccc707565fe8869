"""Real files that others wrote import with counts that were looked at; run this file to print them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from envecho.formats import ImportReport, import_traces

SAMPLES = Path(__file__).parents[3] / "shared" / "samples"
GOLDEN = Path(__file__).with_name("golden.json")


def counts(folder: Path) -> dict[str, dict[str, Any]]:
    """Trajectories, messages, segments and characters by source of every file, and what was refused."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.suffix == ".md":
            continue
        report = ImportReport()
        trajectories = list(import_traces([path], report))
        segments = [s for t in trajectories for m in t.messages for s in m.segments]
        characters: Counter[str] = Counter()
        for segment in segments:
            characters[segment.source.value] += len(segment.text)
        found[path.relative_to(folder).as_posix()] = {
            "formats": dict(sorted(report.formats.items())),
            "trajectories": len(trajectories),
            "messages": sum(len(t.messages) for t in trajectories),
            "segments": len(segments),
            "characters": dict(sorted(characters.items())),
            "refused": [problem.message[:40] for problem in report.problems],
        }
    return found


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="the samples lie beside the project and are not here")
@pytest.mark.parametrize("name", sorted(json.loads(GOLDEN.read_text())))
def test_a_real_file_imports_as_it_was_looked_at(name: str):
    """Catches a change of any importer that moves a character from one source to another."""
    golden = json.loads(GOLDEN.read_text())[name]
    path = SAMPLES / name
    if not path.is_file():
        pytest.skip(f"{name} is not among the samples here")
    found = counts(path.parent).get(path.name)
    assert found == golden


if __name__ == "__main__":
    print(json.dumps(counts(SAMPLES), indent=1, sort_keys=True))
