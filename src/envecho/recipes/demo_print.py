"""What the demo prints at its end: the finding in one table, what it cost, and where to look next."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROWS = (
    ("derivable output, nats/token", "ce_derivable", ".3f"),
    ("first views, nats/token", "ce_first_view", ".3f"),
    ("all output, nats/token", "ce_per_token", ".3f"),
    ("all output, nats/byte", "ce_per_byte", ".3f"),
    ("top-1 accuracy", "top1_accuracy", ".1%"),
    ("action-swap gap, nats/token", "action_swap_gap", ".3f"),
)
POOL_TITLES = {
    "new_boxes": "new boxes: never seen in training",
    "new_commands": "new commands: on boxes that training saw",
}


def print_summary(summary: Mapping[str, Any], out: Path) -> None:
    """Print the summary of a demo run on stdout."""
    console = Console(highlight=False)
    for pool in POOL_TITLES:
        measures = summary["pools"][pool]
        table = Table(title=POOL_TITLES[pool], title_justify="left", header_style="bold")
        table.add_column("held-out cross-entropy at T = 1")
        for column in ("base", "n-gram", "trained"):
            table.add_column(column, justify="right")
        for title, key, form in ROWS:
            cells = [_cell(measures[name][key], form) for name in ("base", "ngram", "trained")]
            table.add_row(title, *cells)
        console.print(table)
    console.print(
        "Derivable: output that earlier output of the same episode determines. Swap gap: what another command in place "
        "of the true one costs; a model that knows only the harness's phrases has none."
    )
    minutes, gigabytes = summary["wall_seconds"] / 60, summary["peak_memory_bytes"] / 1e9
    console.print(f"{minutes:.1f} minutes, {gigabytes:.1f} GB of memory at the peak")
    console.print(f"report: {out / 'report.html'}", soft_wrap=True)
    command = Path(sys.argv[0]) if Path(sys.argv[0]).name == "envecho" else Path("envecho")
    episode = out / "trajectories" / "new_boxes.parquet"
    console.print(f"look inside: {command} show {episode} --index 0", soft_wrap=True)


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
