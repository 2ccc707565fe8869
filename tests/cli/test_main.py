"""The front door: every verb answers, errors are one line, and the docs name every option."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import click
import pytest

from envecho.cli.main import VERBS, main

DOCS = Path(__file__).parents[2] / "docs"


def _command(verb: str) -> click.Command:
    return importlib.import_module(f"envecho.cli.{verb}").command


def _options(command: click.Command) -> set[str]:
    """The long options of a verb, and of its subcommands where it has some."""
    inner = command.commands.values() if isinstance(command, click.Group) else ()
    found = {name for option in command.params for name in option.opts if name.startswith("--")}
    return found.union(*(_options(one) for one in inner))


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_of_every_verb_stands_in_the_docs(verb: str):
    """Catches an option that only its author knows, and a documented one that is gone."""
    (section,) = re.findall(rf"^## envecho {verb}$(.*?)(?=^## |\Z)", (DOCS / "cli.md").read_text(), re.M | re.S)
    documented = set(re.findall(r"^\| (.+?) \|", section, re.M)) - {"option", "---"}
    documented = {name for cell in documented for name in re.findall(r"`(--[a-z-]+)`", cell)}
    assert documented == _options(_command(verb))


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]):
    """Catches a verb in the list whose file cannot be imported."""
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"])
    assert stop.value.code == 0
    assert "Usage: envecho" in capsys.readouterr().out


def test_a_misspelt_verb_is_a_usage_error_with_a_guess(capsys: pytest.CaptureFixture[str]):
    """Catches a typing error that exits with 1, or without a hint."""
    with pytest.raises(SystemExit) as stop:
        main(["tran", "x.toml"])
    assert stop.value.code == 2
    assert "Did you mean 'train'?" in capsys.readouterr().err


def test_a_failure_is_one_line_on_stderr_and_exit_status_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Catches a traceback for a missing file."""
    with pytest.raises(SystemExit) as stop:
        main(["train", str(tmp_path / "missing.toml"), "--out", str(tmp_path / "run")])
    assert stop.value.code == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert "missing.toml" in captured.err
