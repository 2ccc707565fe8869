"""Print the demo's table: the median over the committed seeds, each seed in brackets.

Run `python results/demo/make_table.py`; `tests/recipes/test_demo_results.py` compares the README with what it prints.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

ROWS = (
    ("derivable output, nats/token", "ce_derivable", 2),
    ("first views, nats/token", "ce_first_view", 2),
    ("all output, nats/token", "ce_per_token", 2),
    ("all output, nats/byte", "ce_per_byte", 2),
    ("top-1 accuracy", "top1_accuracy", 2),
    ("action-swap gap, nats/token", "action_swap_gap", 2),
)
POOLS = {"new_boxes": "boxes never seen", "new_commands": "new commands on seen boxes"}
PREDICTORS = {"base": "base model", "ngram": "best copier", "trained": "trained model"}


def read_summaries(folder: Path) -> list[dict[str, Any]]:
    """Return the summaries of the committed seeds, by seed."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("seed-*/summary.json"))]


def median_of(summaries: list[dict[str, Any]], pool: str, predictor: str, key: str) -> float | None:
    """Return the median over seeds, or None where the predictor has no such figure."""
    values = [summary["pools"][pool][predictor][key] for summary in summaries]
    return None if None in values else statistics.median(values)


def table(summaries: list[dict[str, Any]]) -> str:
    """Return the Markdown table."""
    lines: list[str] = []
    for pool, title in POOLS.items():
        lines += [f"| {title} | {' | '.join(PREDICTORS.values())} |", "|---|---|---|---|"]
        for name, key, digits in ROWS:
            cells = [_cell(summaries, pool, predictor, key, digits) for predictor in PREDICTORS]
            lines.append(f"| {name} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def _cell(summaries: list[dict[str, Any]], pool: str, predictor: str, key: str, digits: int) -> str:
    middle = median_of(summaries, pool, predictor, key)
    if middle is None:
        return "-"
    seeds = ", ".join(f"{summary['pools'][pool][predictor][key]:.{digits}f}" for summary in summaries)
    return f"**{middle:.{digits}f}** ({seeds})"


if __name__ == "__main__":
    print(table(read_summaries(Path(__file__).parent)), end="")
