"""Whether verl is installed. `find_spec` cannot tell: this folder is a namespace package of that name."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def has_verl() -> bool:
    """Say whether a distribution of that name is installed."""
    try:
        version("verl")
    except PackageNotFoundError:
        return False
    return True
