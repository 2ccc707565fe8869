"""`envecho collect` as a job: a world, a policy and a number of episodes become one Parquet file.

Not here: how the episodes come about (`collect_episodes`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from envecho.recipes.collect_episodes import (
    REPLAY,
    CollectConfig,
    episodes,
    jobs_of_replay,
    open_collect_suite,
    replay_file,
    run_jobs,
)
from envecho.recipes.progress import progress_bar
from envecho.rollout import RolloutStats
from envecho.rollout.replay_report import ReplayReport, replay_report
from envecho.trajectory import Trajectory
from envecho.trajectory.store import read_trajectories, write_trajectories

__all__ = ["REPLAY", "CollectConfig", "collect_to_file", "open_collect_suite", "replay_to_file"]


def collect_to_file(config: CollectConfig, out: Path) -> dict[str, Any]:
    """Run the episodes, write them to `out`, and return what was counted.

    Raises:
        ConfigError: the world or its split is unknown.
        WorldError: the sandbox cannot start.
        EngineError: the policy's model cannot be found or loaded.
    """
    counts = _Counts()
    _write(episodes(config), out, counts, total=config.num_episodes)
    return counts.row()


def replay_to_file(config: CollectConfig, out: Path) -> tuple[dict[str, Any], ReplayReport]:
    """Take the actions of `replay:FILE` again on the live world, write what it answers, and say what differs.

    Raises:
        ConfigError: the world is unknown, or the task of a stored episode is not found in it.
        DataError: the file cannot be read.
    """
    stored = list(read_trajectories(replay_file(config)))
    longest = max((sum(message.role == "assistant" for message in t.messages) for t in stored), default=1)
    config = config.model_copy(update={"max_turns": max(config.max_turns, longest)})
    jobs = jobs_of_replay(config, stored)
    counts = _Counts()
    _write(run_jobs(jobs, config), out, counts, total=len(jobs))
    return counts.row(), replay_report(stored, read_trajectories(out))


@final
@dataclass
class _Counts:
    """What is counted while episodes go by."""

    reasons: Counter[str] = field(default_factory=Counter[str])
    rewards: list[float] = field(default_factory=list[float])
    num_observations: int = 0
    trouble: Counter[str] = field(default_factory=Counter[str])

    def add(self, trajectory: Trajectory) -> None:
        """Count one episode."""
        self.reasons[trajectory.stop_reason.value] += 1
        self.rewards += [] if trajectory.reward is None else [trajectory.reward]
        acted = [place for place, message in enumerate(trajectory.messages) if message.role == "assistant"]
        after = trajectory.messages[acted[0] :] if acted else ()
        self.num_observations += sum(message.role in ("user", "tool") for message in after)
        stats = RolloutStats.of([trajectory]).row()
        self.trouble.update({name: stats[name] for name in _TROUBLE})

    def row(self) -> dict[str, Any]:
        """Return the counts by name."""
        return {
            "num_episodes": self.reasons.total(),
            "num_observations": self.num_observations,
            "stop_reasons": dict(self.reasons),
            "mean_reward": sum(self.rewards) / len(self.rewards) if self.rewards else None,
            **{name: self.trouble[name] for name in _TROUBLE},
        }


_TROUBLE = ("num_lost", "num_retried", "num_capacity_waits", "num_deadlines", "num_abandoned")


def _write(trajectories: Iterable[Trajectory], out: Path, counts: _Counts, *, total: int) -> None:
    def counted() -> Iterator[Trajectory]:
        with progress_bar("collecting", total=total) as advance:
            for trajectory in trajectories:
                counts.add(trajectory)
                advance(1)
                yield trajectory

    out.parent.mkdir(parents=True, exist_ok=True)
    write_trajectories(out, counted())
