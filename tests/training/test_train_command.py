"""`envecho train`: result on stdout, progress on stderr, and the docs of what it logs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args

import pytest
from click.testing import CliRunner
from tiny_run import tiny_config

from envecho.cli.train import command
from envecho.errors import ConfigError
from envecho.training.config import RunConfig

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    """The TOML file of a short tiny run."""
    path = tmp_path / "run.toml"
    path.write_text(tiny_config(tmp_path / "material").to_toml())
    return path


def test_the_command_trains_and_reports_json_on_stdout(config_file: Path, tmp_path: Path):
    """Catches progress that is mixed into the result, which breaks every pipe."""
    out = tmp_path / "out"
    arguments = [str(config_file), "--out", str(out), "--set", "run.steps=4", "--json"]
    done = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    result = json.loads(done.stdout)
    assert result["steps"] == 4
    assert Path(result["best_checkpoint"]).is_dir()
    assert "step 4: validation env CE" in done.stderr
    assert "step 4/4  loss" in done.stderr
    summary = json.loads((out / "summary.json").read_text())
    assert summary["format"] == "envecho.summary"
    assert set(summary["tokens"]) == {"context", "action", "env_output", "warning"}
    again = CliRunner().invoke(command, arguments)
    assert isinstance(again.exception, ConfigError)
    resumed = CliRunner().invoke(command, [*arguments[:-1], "--resume"], catch_exceptions=False)
    assert "best model: " in resumed.stdout
    both = CliRunner().invoke(command, [*arguments, "--resume", "--overwrite"])
    assert both.exit_code == 2


def test_every_logged_metric_stands_in_the_table_of_the_docs(config_file: Path, tmp_path: Path):
    """Catches a metric without a definition."""
    CliRunner().invoke(command, [str(config_file), "--out", str(tmp_path / "out")], catch_exceptions=False)
    text = (DOCS / "metrics.md").read_text()
    documented = {kind: documented_names(part) for kind, part in _sections(text).items()}
    for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert set(row) - {"kind", "step"} == documented[row["kind"]] - {"kind", "step"}


def documented_names(part: str) -> set[str]:
    """The names in the first column of the tables of a part."""
    cells = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", part, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}


def _sections(text: str) -> dict[str, str]:
    parts = re.split(r"^## Rows of kind `(\w+)`.*$", text, flags=re.MULTILINE)
    sections: dict[str, str] = {}
    for kind, part in zip(parts[1::2], parts[2::2], strict=True):
        sections.setdefault(kind, part.split("\n## ")[0])
    return sections


def test_every_configuration_key_stands_in_the_docs():
    """Catches a knob that only its author knows."""
    text = (DOCS / "training.md").read_text()
    for table, field in RunConfig.model_fields.items():
        assert f"[{table}]" in text
        if table != "objective":  # docs/objective.md has that one
            kinds = [kind for kind in (field.annotation, *get_args(field.annotation)) if hasattr(kind, "model_fields")]
            assert all(f"`{key}`" in text for key in kinds[0].model_fields)
