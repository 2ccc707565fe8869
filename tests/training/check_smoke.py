"""Say whether finished smoke runs logged every documented metric, finite where it is a number.

python tests/training/check_smoke.py runs/smoke-echo runs/smoke-grpo
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

from test_train_command import DOCS, documented_names


def missing_or_not_finite(out: Path) -> list[str]:
    """Return what is wrong with the train rows of a run."""
    parts = (DOCS / "metrics.md").read_text(encoding="utf-8").split("\n## ")[1:]
    wanted = {name for part in parts if "`train`" in part.splitlines()[0] for name in documented_names(part)}
    wanted = {name for name in wanted if not name.startswith("num_rollouts_env_excluded_")}
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [row for row in rows if row["kind"] == "train"]
    problems = [] if steps else [f"{out}: no step"]
    for row in steps:
        problems += [f"{out}: step {row['step']} has no {name}" for name in sorted(wanted - set(row))]
        for name, value in row.items():
            if isinstance(value, float) and not math.isfinite(value):
                problems.append(f"{out}: step {row['step']}: {name} is {value}")
        if row["env_ce"] is None or row["solve_rate"] is None or row["action_entropy"] is None:
            problems.append(f"{out}: step {row['step']} has no env CE, solve rate or action entropy")
    return problems


if __name__ == "__main__":
    found = [problem for name in sys.argv[1:] for problem in missing_or_not_finite(Path(name))]
    print("\n".join(found) or f"{len(sys.argv) - 1} runs: every documented metric is there and finite")
    sys.exit(bool(found))
