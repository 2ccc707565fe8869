"""What an extra needs, read from the installed metadata, and what is said where it is absent or too new."""

from __future__ import annotations

import importlib.metadata
import tomllib
from pathlib import Path

import pytest

from envecho import extras
from envecho.errors import ConfigError

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


def declared() -> list[str]:
    return sorted(set(tomllib.loads(PYPROJECT.read_text())["project"]["optional-dependencies"]) - {"dev"})


@pytest.mark.parametrize("extra", declared())
def test_every_extra_is_read_as_it_is_declared(extra: str):
    """Catches an extra whose packages are also asked for without it, or that the metadata does not have."""
    lines = tomllib.loads(PYPROJECT.read_text())["project"]["optional-dependencies"][extra]
    found = {(r.name.lower(), r.specifier) for r in extras.extra_requirements(extra)}
    expected = {(r.name.lower(), r.specifier) for r in map(extras.Requirement, lines)}
    assert found == expected
    assert all(specifier for _, specifier in found), "a package without a bound is no tested range"


@pytest.mark.parametrize(
    ("installed", "message"),
    [
        (None, r"trl is not installed.*pip install 'envecho\[trl\]'"),
        ("1.15.2", r"trl is 1\.15\.2, expected .*>=1\.16.*pip install 'envecho\[trl\]'"),
        ("2.0.0", r"trl is 2\.0\.0, expected .*<1\.17"),
    ],
)
def test_a_version_outside_the_range_is_refused(monkeypatch: pytest.MonkeyPatch, installed: str | None, message: str):
    """Catches a plug-in that runs on a release whose private parts it was never tested with (trap 22)."""
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name != "trl":
            return real(name)
        if installed is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed

    monkeypatch.setattr(extras, "version", version)
    with pytest.raises(ConfigError, match=message):
        extras.require_extra("trl")


def test_an_installed_extra_passes_and_an_unknown_one_is_named():
    """Catches a check that refuses everything, or that takes a misspelt extra for one without needs."""
    extras.require_extra("trl")
    with pytest.raises(ConfigError, match="no extra 'tlr'"):
        extras.require_extra("tlr")
