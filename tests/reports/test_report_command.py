"""`envecho report`: one folder, several folders, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from synthetic_run import write_synthetic_run

from envecho.cli.report import command
from envecho.errors import DataError


def test_one_folder_prints_the_path_of_its_page(tmp_path: Path):
    """Catches a result on standard output that a script cannot use as a path."""
    run = write_synthetic_run(tmp_path / "run")
    result = CliRunner().invoke(command, [str(run)], catch_exceptions=False)
    assert result.stdout == f"{run / 'report.html'}\n"
    assert (run / "report.html").is_file()


def test_several_folders_need_a_place_for_their_page(tmp_path: Path):
    """Catches a comparison that overwrites the report of the first run."""
    runs = [str(write_synthetic_run(tmp_path / name)) for name in ("a", "b")]
    refused = CliRunner().invoke(command, runs)
    assert refused.exit_code == 2
    assert "--out" in refused.stderr
    written = CliRunner().invoke(command, [*runs, "--out", str(tmp_path / "both.html")], catch_exceptions=False)
    assert written.stdout == f"{tmp_path / 'both.html'}\n"
    assert not (tmp_path / "a" / "report.html").exists()


def test_a_folder_that_is_no_run_is_an_error(tmp_path: Path):
    """Catches an empty page for a mistyped folder."""
    with pytest.raises(DataError, match="run folder"):
        CliRunner().invoke(command, [str(tmp_path / "absent")], catch_exceptions=False)
