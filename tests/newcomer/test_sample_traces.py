"""The sample traces of `examples/traces`: made by their command, and read as the first steps promise."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from walk import ROOT

from envecho.formats import ImportOptions, ImportReport, import_traces
from envecho.trajectory import Source

TRACES = ROOT / "examples" / "traces"


def test_the_sample_traces_are_what_their_command_makes(tmp_path: Path):
    """Catches traces that were edited by hand, whose answers no bash gave."""
    command = [sys.executable, "-B", str(ROOT / "examples" / "make_traces.py"), str(tmp_path)]
    subprocess.run(command, check=True)
    made, kept = (
        {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}
        for folder in (tmp_path, TRACES)
    )
    assert made == kept


def test_the_sample_traces_are_three_formats_with_one_secret():
    """Catches what docs/getting-started.md says of them: formats, number, and the session with the password."""
    report = ImportReport()
    episodes = list(import_traces([TRACES], report, options=ImportOptions(calls_as_text=True)))
    assert dict(report.formats) == {"claude-code": 4, "codex": 4, "mini-swe-agent": 4}
    assert report.problems == []
    sources = [{segment.source for message in e.messages for segment in message.segments} for e in episodes]
    secret = [number for number, found in enumerate(sources) if Source.REDACTED in found]
    assert secret == [4]
    assert not any("kelp-Harbour" in message.content for episode in episodes for message in episode.messages)
