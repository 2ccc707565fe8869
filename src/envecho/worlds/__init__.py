"""Worlds that we ship, the sandbox that they run in, and the conformance kit for any world.

The names are loaded when they are used: the pytest plug-in lies in this package, and every run of pytest imports it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from envecho.worlds.check import check_world
    from envecho.worlds.check_report import WorldCheck, WorldReport
    from envecho.worlds.check_subject import Expectations
    from envecho.worlds.check_task_suite import check_suite
    from envecho.worlds.sandbox import Limits

_HOMES = {
    "Expectations": "check_subject",
    "Limits": "sandbox",
    "WorldCheck": "check_report",
    "WorldReport": "check_report",
    "check_suite": "check_task_suite",
    "check_world": "check",
}

__all__ = ["Expectations", "Limits", "WorldCheck", "WorldReport", "check_suite", "check_world"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
