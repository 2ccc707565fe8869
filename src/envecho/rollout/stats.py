"""`RolloutStats`: what went wrong beside the policy, counted over trajectories. Each says it in its metadata.

Not here: rewards, turns and calls (`envecho.training.rollout_health`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from envecho.trajectory import StopReason, Trajectory


@dataclass(frozen=True, kw_only=True)
class RolloutStats:
    """Counts over episodes.

    `num_lost`: connections that broke, before the first observation or later. `num_retried`: starts that were tried
    again for it. `num_capacity_waits`: times that an episode waited for room in a full server. `num_deadlines`:
    episodes that a deadline of the rollout ended. `num_abandoned`: calls of worlds that did not come back in time and
    were left alone, closing included. `num_world_errors`, `num_policy_errors`: episodes with these stop reasons.
    """

    num_episodes: int = 0
    num_attempts: int = 0
    num_lost: int = 0
    num_retried: int = 0
    num_capacity_waits: int = 0
    num_deadlines: int = 0
    num_abandoned: int = 0
    num_world_errors: int = 0
    num_policy_errors: int = 0

    @classmethod
    def of(cls, trajectories: Iterable[Trajectory]) -> RolloutStats:
        """Count over trajectories of `rollout`, `collect` or `run_episode`, read from a file or not."""
        rows = [(t.metadata, t.stop_reason) for t in trajectories]

        def total(key: str) -> int:
            return sum(int(metadata.get(key, 0)) for metadata, _ in rows)

        return cls(
            num_episodes=len(rows),
            num_attempts=total("attempts"),
            num_lost=total("num_lost"),
            num_retried=total("num_retried"),
            num_capacity_waits=total("num_capacity_waits"),
            num_deadlines=total("num_deadlines"),
            num_abandoned=total("num_abandoned"),
            num_world_errors=sum(stop is StopReason.WORLD_ERROR for _, stop in rows),
            num_policy_errors=sum(stop is StopReason.POLICY_ERROR for _, stop in rows),
        )

    def row(self) -> dict[str, int]:
        """Return the counts by name, as a metrics row takes them."""
        return asdict(self)
