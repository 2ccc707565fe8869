"""Rubrics for the tests: one per step, one for a whole trajectory, one that waits, one that fails."""

from __future__ import annotations

from typing import Any

from openenv.core.rubrics import Rubric, TrajectoryRubric


class Prints(Rubric):
    """0.5 for every step that printed something."""

    def forward(self, action: Any, observation: Any) -> float:
        return 0.5 if observation.stdout and action.code else 0.0


class Waiting(Rubric):
    """As a judge behind a network: a coroutine."""

    async def forward(self, action: Any, observation: Any) -> float:
        return 0.25


class LongEpisode(TrajectoryRubric):
    """The number of steps, told at the end."""

    def score_trajectory(self, trajectory: list[tuple[Any, Any]]) -> float:
        return float(len(trajectory))

    def compute_step_rewards(self) -> list[float]:
        return [1.0] * len(self._trajectory)


class Failing(Rubric):
    """A judge that is not there."""

    def forward(self, action: Any, observation: Any) -> float:
        raise ConnectionError("the judge is away")


NOT_A_RUBRIC = 3
