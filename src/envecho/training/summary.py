"""`summary.json` of a run that was trained but not evaluated. Not here: the summary of the demo (`envecho.recipes`)."""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from typing import Any

from envecho.training.config import RunConfig
from envecho.training.loop import TrainResult


def write_summary(config: RunConfig, result: TrainResult, out: Path) -> dict[str, Any]:
    """Write `summary.json` (format `envecho.summary`, no pools) into the run folder and return what it holds."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    summary: dict[str, Any] = {
        "format": "envecho.summary",
        "version": 1,
        "model": config.model.name,
        "seed": config.run.seed,
        "steps": result.steps,
        "wall_seconds": result.wall_seconds,
        "peak_memory_bytes": peak if sys.platform == "darwin" else peak * 1024,
        "tokens": dict(result.num_tokens),
        "pools": {},
    }
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return summary
