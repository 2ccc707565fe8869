"""The intervals of a run's looks at held-out tasks, from the documents that the run wrote beside its metrics.

`metrics.jsonl` has the figure of each look; `evaluations/step-NNNNNN.json` has what it is made of, task by task. Not
here: drawing them (`policy_chart`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from envecho.errors import DataError
from envecho.evaluation.intervals import ratio_stat
from envecho.evaluation.results import Stat


class _TaskRewards(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    task_id: str
    rewards: tuple[float | None, ...]


class _TrajectoryCost(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    task_id: str
    nll_sum: float
    num_tokens: int


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    format: Literal["envecho.policy-evaluation"]
    version: Literal[1]
    step: int
    tasks: tuple[_TaskRewards, ...]
    env_ce_by_trajectory: tuple[_TrajectoryCost, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Look:
    """One look with intervals over tasks: the share of episodes that were solved, and the held-out pool's CE."""

    solve_rate: Stat | None
    env_ce: Stat | None


def read_looks(folder: Path) -> Mapping[int, Look]:
    """Return the looks of a run by step; empty where it wrote none.

    Raises:
        DataError: a document is not of the format, or of another version.
    """
    return dict(_read(path) for path in sorted(folder.glob("step-*.json")))


def _read(path: Path) -> tuple[int, Look]:
    try:
        document = _Document.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, ValidationError) as error:
        raise DataError(f"expected format 'envecho.policy-evaluation' version 1: {error}", file=path) from error
    solved = [(task.task_id, reward >= 1) for task in document.tasks for reward in task.rewards if reward is not None]
    costs = [cost for cost in document.env_ce_by_trajectory if cost.num_tokens]
    return document.step, Look(
        solve_rate=_stat([task for task, _ in solved], [float(x) for _, x in solved], [1.0] * len(solved)),
        env_ce=_stat([c.task_id for c in costs], [c.nll_sum for c in costs], [float(c.num_tokens) for c in costs]),
    )


def _stat(tasks: list[str], numerators: list[float], denominators: list[float]) -> Stat | None:
    if not tasks:
        return None
    _, index = np.unique(np.array(tasks), return_inverse=True)
    numbers: Any = np.asarray(numerators)
    return ratio_stat(numbers, np.asarray(denominators), index)
