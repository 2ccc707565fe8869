"""The health of an on-policy run as a small table: each figure now, and its course over the last steps.

The figures are those of the train rows (docs/metrics.md defines them); nothing is smoothed. Not here: the bar and the
lines around it (`progress`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, final

from rich.console import RenderableType
from rich.table import Table

NUM_STEPS = 40
"""Steps whose course is shown."""

_FIGURES: Final = (
    ("solve_rate", "solved", "{:.0%}"),
    ("env_ce", "env CE", "{:.3f}"),
    ("action_entropy", "action entropy", "{:.3f}"),
    ("distinct_command_fraction", "distinct commands", "{:.0%}"),
    ("distinct_output_fraction", "distinct outputs", "{:.0%}"),
    ("unparsed_call_fraction", "unparsed calls", "{:.0%}"),
    ("zero_variance_fraction", "groups without variance", "{:.0%}"),
    ("effective_lambda", "effective lambda", "{:.3g}"),
)
_BARS: Final = "▁▂▃▄▅▆▇█"


@final
class HealthView:
    """Takes train rows and renders the table; nothing before the first row of a run with rollouts."""

    def __init__(self) -> None:
        self._rows: list[Mapping[str, Any]] = []

    def add(self, row: Mapping[str, Any]) -> None:
        """Take the row of a step."""
        if "solve_rate" in row:
            self._rows = [*self._rows, row][-NUM_STEPS:]

    def __rich__(self) -> RenderableType:
        """Return the table of what is known now."""
        if not self._rows:
            return ""
        table = Table.grid(padding=(0, 2))
        for key, name, form in _FIGURES:
            values = [row.get(key) for row in self._rows]
            now = "-" if values[-1] is None else form.format(values[-1])
            table.add_row(name, now, sparkline(values))
        sources = self._rows[-1].get("env_ce_by_source") or {}
        if sources:
            table.add_row("env CE by source", "", ", ".join(f"{name} {ce:.2f}" for name, ce in sources.items()))
        return table


def sparkline(values: Sequence[float | None]) -> str:
    """Return one bar per value, from the lowest to the highest of them; a space where there is none."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    low, span = min(known), max(known) - min(known)
    top = len(_BARS) - 1

    def bar(value: float | None) -> str:
        if value is None:
            return " "
        return _BARS[round(top * (value - low) / span) if span else 0]

    return "".join(map(bar, values))
