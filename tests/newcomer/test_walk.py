"""The walk of a newcomer: how commands are read off a page, how one fails, and that those of our pages can be typed."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click
import pytest
from walk import ROOT, Command, commands_of, environment_of, walk

from envecho.cli.main import envecho

PAGES = ("docs/getting-started.md", "docs/tutorials.md", "README.md")


def test_commands_are_read_with_continuations_and_here_documents():
    """Catches a walk that types half a command, or a comment, and passes all the same."""
    page = (
        "text\n```sh\na  # why\n\n# no\nb \\\n  c\ncat > f <<'END'\n# x\nEND\n```\n```python\nd\n```\n```sh\ne\n```\n"
    )
    assert commands_of(page) == [
        Command(line=3, text="a  # why"),
        Command(line=6, text="b \\\n  c"),
        Command(line=8, text="cat > f <<'END'\n# x\nEND"),
        Command(line=16, text="e"),
    ]


def test_a_walk_goes_on_in_one_shell_and_stops_where_a_command_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Catches a walk that forgets an activated environment, or that goes on behind a failure."""
    environment = environment_of(tmp_path / "home", Path(sys.executable))
    texts = ("x=1", "cat > f <<'END'\nfrom $x\nEND", 'test "$x" = 1', "echo told && ls gone", "touch after")
    passed = walk([Command(line=n, text=t) for n, t in enumerate(texts)], tmp_path, environment, show=False)
    said = capsys.readouterr().out
    assert not passed
    assert (tmp_path / "f").read_text() == "from $x\n"
    assert "told" in said
    assert "gone" in said
    assert not (tmp_path / "after").exists()


@pytest.mark.parametrize("page", PAGES)
def test_commands_of_the_pages_name_verbs_and_options_that_exist(page: str):
    """Catches a page that tells a newcomer to type a verb or an option which is gone."""
    for command in commands_of((ROOT / page).read_text()):
        words = shlex.split(command.text, comments=True)
        if words[:1] != ["envecho"] or words[1:2] == ["--help"]:
            continue
        verb = envecho.get_command(click.Context(envecho), words[1])
        assert verb is not None, f"{page}:{command.line}: no verb {words[1]}"
        known = {name for parameter in verb.params for name in (*parameter.opts, *parameter.secondary_opts)}
        given = {word for word in words[2:] if word.startswith("--") and word != "--"}
        assert given <= known, f"{page}:{command.line}: {sorted(given - known)}"
