"""Figures of a run of make.sh, and what docs/worlds.md and the README say of them.

    python results/worlds/make_table.py OUT     takes OUT (runs/worlds) into results.json, then writes the pages
    python results/worlds/make_table.py         writes the pages from results.json

`tests/recipes/test_worlds_results.py` compares the pages with what this makes.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
PAGE = HERE.parents[1] / "docs" / "worlds.md"
README = HERE.parents[1] / "README.md"
PREDICTORS = {"base": "SmolLM2-135M", "ngram": "n-gram", "ppm": "copier", "trained": "trained"}
ROWS = (
    ("derivable output, nats/token", "ce_derivable"),
    ("first views, nats/token", "ce_first_view"),
    ("all output, nats/token", "ce_per_token"),
    ("all output, nats/byte", "ce_per_byte"),
    ("top-1 share", "top1_accuracy"),
    ("action-swap gap, nats/token", "action_swap_gap"),
)
POOLS = {
    ("tools", "held_out"): "tools, databases never seen",
    ("tools", "new_domains"): "tools of a domain never seen",
    ("tasks", "held_out"): "tasks never seen",
}


def collect(out: Path) -> dict[str, Any]:
    """Return what a run gave: per world how its pools were collected, what was trained, and the figures."""
    worlds: dict[str, Any] = {}
    for world in dict.fromkeys(world for world, _ in POOLS):
        folder = out / world
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        trained = [row for row in rows if row.get("kind") == "train"]
        evaluation = json.loads((folder / "eval" / "evaluation.json").read_text())
        worlds[world] = {
            "collected": json.loads((folder / "pools.json").read_text())["pools"],
            "steps": len(trained),
            "num_env_targets": sum(row["num_env_tokens"] for row in trained),
            "pools": {
                pool: {name: {key: found[key] for _, key in ROWS} for name, found in predictors.items()}
                for pool, predictors in evaluation["pools"].items()
            },
        }
    return {"format": "envecho.worlds", "version": 1, "model": "smollm2-135m", "worlds": worlds}


def table(results: dict[str, Any]) -> str:
    """Return one Markdown table for each held-out pool."""
    lines: list[str] = []
    for (world, pool), title in POOLS.items():
        predictors = results["worlds"][world]["pools"][pool]
        over = predictors["trained"]["ce_per_token"]
        title = f"{title} ({over['num_tokens']:,} tokens, {over['num_tasks']} tasks)"
        lines += [f"| {title} | {' | '.join(PREDICTORS.values())} |", "|---" * (1 + len(PREDICTORS)) + "|"]
        for name, key in ROWS:
            lines.append(f"| {name} | {' | '.join(_cell(predictors[p][key]) for p in PREDICTORS)} |")
        lines.append("")
    return "\n".join(lines)


def _cell(stat: dict[str, Any] | None) -> str:
    if stat is None:
        return "-"
    interval = "" if stat["low"] is None else f" ({stat['low']:.2f} to {stat['high']:.2f})"
    return f"**{stat['value']:.2f}**{interval}"


def sentence(results: dict[str, Any]) -> str:
    """Return what the README says of the hardest pool: tools of a domain that training did not have."""
    found = results["worlds"]["tools"]["pools"]["new_domains"]
    derivable = {name: found[name]["ce_derivable"]["value"] for name in PREDICTORS}
    gaps = {name: found[name]["action_swap_gap"]["value"] for name in ("base", "trained")}
    return (
        "Asked about a service whose tools it never saw, SmolLM2-135M then pays "
        f"{derivable['trained']:.2f} nats for a token that the episode determines, {derivable['base']:.2f} before; "
        f"the better\ncopier pays {min(derivable['ngram'], derivable['ppm']):.2f}. Another call in place of the true "
        f"one costs it {gaps['trained']:.2f} nats, {gaps['base']:.2f} before "
        "([the table](docs/worlds.md#what-a-model-learns-from-exploring)).\n"
    )


def filled(page: str, text: str) -> str:
    """Return a page with the block of figures made anew."""
    block = re.compile(r"(<!-- worlds -->\n).*?(<!-- end -->)", re.DOTALL)
    return block.sub(lambda found: f"{found[1]}{text}{found[2]}", page)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        RESULTS.write_text(json.dumps(collect(Path(sys.argv[1])), indent=1) + "\n", encoding="utf-8")
    made = json.loads(RESULTS.read_text())
    for path, text in ((PAGE, table(made)), (README, sentence(made))):
        path.write_text(filled(path.read_text(encoding="utf-8"), text), encoding="utf-8")
