"""Figures of a run of make.sh, without the text of the traces, and the table of docs/imported.md made from them.

    python results/imported/make_table.py OUT     takes OUT (runs/imported) into results.json, then writes the table
    python results/imported/make_table.py         writes the table from results.json

`tests/recipes/test_imported_results.py` compares the page with what this makes.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
PAGE = HERE.parents[1] / "docs" / "imported.md"
PREDICTORS = {"base": "SmolLM2-135M", "ngram": "n-gram", "ppm": "copier", "trained": "trained"}
FIGURES = ("ce_per_token", "ce_per_byte", "top1_accuracy")


def collect(out: Path) -> dict[str, Any]:
    """Return what a run gave: per pool the split's sizes and the figures, and the run's steps and files."""
    evaluation = json.loads((out / "eval" / "evaluation.json").read_text())
    steps = [json.loads(line) for line in (out / "run" / "metrics.jsonl").read_text().splitlines()]
    trained = [row for row in steps if row.get("kind") == "train"]
    pools: dict[str, Any] = {}
    for pool, predictors in sorted(evaluation["pools"].items()):
        split = json.loads((out / f"split-{pool}" / "split.json").read_text())["splits"]
        pools[pool] = {
            "num_trajectories": {name: part["num_trajectories"] for name, part in split.items()},
            **{name: {key: found[key] for key in FIGURES} for name, found in predictors.items()},
        }
    files = [line.split(maxsplit=1) for line in (out / "files.txt").read_text().splitlines()]
    return {
        "format": "envecho.imported",
        "version": 1,
        "model": "smollm2-135m",
        "steps": len(trained),
        "num_tokens": {
            role: sum(row[f"num_{role}_tokens"] for row in trained)
            for role in ("context", "action", "env_output", "warning")
        },
        "num_env_targets": sum(row["num_env_tokens"] for row in trained),
        "pools": pools,
        "files": {name.removeprefix("./"): digest for digest, name in files},
    }


def table(results: dict[str, Any]) -> str:
    """Return the Markdown table: held-out cross-entropy of each pool under each predictor, with intervals."""
    lines = [
        "| pool | trajectories, trained + held out | held-out tokens (tasks) | "
        + " | ".join([*PREDICTORS.values(), "change"])
        + " |",
        "|---" * (4 + len(PREDICTORS)) + "|",
    ]
    for pool, found in results["pools"].items():
        sizes = found["num_trajectories"]
        over = found["trained"]["ce_per_token"]
        cells = [
            pool,
            f"{sizes['train']} + {sizes['held_out']}",
            f"{over['num_tokens']:,} ({over['num_tasks']})",
            *(_cell(found[name]["ce_per_token"]) for name in PREDICTORS),
            f"{over['value'] / found['base']['ce_per_token']['value'] - 1:+.0%}".replace("-", "−"),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(stat: dict[str, Any]) -> str:
    interval = "" if stat["low"] is None else f" ({stat['low']:.2f} to {stat['high']:.2f})"
    return f"**{stat['value']:.2f}**{interval}"


def filled(page: str, results: dict[str, Any]) -> str:
    """Return the page with its table made anew."""
    block = re.compile(r"(<!-- imported -->\n).*?(<!-- end -->)", re.DOTALL)
    return block.sub(lambda found: f"{found[1]}{table(results)}\n{found[2]}", page)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        RESULTS.write_text(json.dumps(collect(Path(sys.argv[1])), indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), json.loads(RESULTS.read_text())), encoding="utf-8")
