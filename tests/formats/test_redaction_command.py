"""`envecho import` takes secrets out, says so, and is turned off only in words."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from secret_lookalikes import LOOKALIKES

from envecho.cli.main import main

SECRET = LOOKALIKES["github"][1](random.Random(8))[1]


def run(*args: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([*map(str, args)])
    return int(ended.value.code or 0)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace.json"
    messages = [
        {"role": "user", "content": "Which token?"},
        {"role": "assistant", "content": "cat token"},
        {"role": "tool", "content": f"{SECRET}\nticket T-1\n"},
        {"role": "assistant", "content": f"It is {SECRET}."},
    ]
    path.write_text(json.dumps({"messages": messages}))
    return path


def test_secrets_are_counted_printed_and_shown(trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Catches a user who does not learn what was taken out, or where."""
    (tmp_path / "rules.toml").write_text("[[redact]]\npattern = 'T-\\d+'\nname = 'ticket'\n")
    (tmp_path / "hook.py").write_text("def find(text):\n    return [(0, 5, 'first')] if text[:5] == 'Which' else []\n")
    out = tmp_path / "out.parquet"
    options = ("--rules", tmp_path / "rules.toml", "--redact-hook", f"{tmp_path / 'hook.py'}:find")
    assert run("import", trace, "--out", out, *options) == 0
    assert "redacted: 2 github-token, 1 first, 1 ticket in 1 trajectories" in capsys.readouterr().out
    assert SECRET.encode() not in out.read_bytes()
    assert run("show", out, "--index", "0") == 0
    said = capsys.readouterr().out
    assert "[redacted:github-token]" in said
    assert "[redacted:ticket]" in said
    assert run("show", out, "--index", "0", "--html", tmp_path / "out.html") == 0
    page = (tmp_path / "out.html").read_text()
    assert "[redacted:github-token]" in page
    assert 'class="t context redacted"' in page
    capsys.readouterr()
    several = ("--workers", "2", "--overwrite", "--json")
    assert run("import", trace, "--out", out, *options, *several) == 0
    assert json.loads(capsys.readouterr().out)["redacted"] == {"github-token": 2, "ticket": 1, "first": 1}


def test_leaving_secrets_in_is_said(trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Catches a file with secrets that looks like any other, and options that contradict each other."""
    out = tmp_path / "out.parquet"
    assert run("import", trace, "--out", out, "--no-redact") == 0
    assert "redaction is off (--no-redact)" in capsys.readouterr().out
    assert run("import", trace, "--out", out, "--overwrite", "--no-redact", "--redact-hook", "a:b") == 2
    assert run("import", trace, "--out", out, "--overwrite", "--redact-hook", "no_such_module:find") == 1
    assert "cannot be imported" in capsys.readouterr().err
