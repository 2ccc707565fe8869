"""Held-out looks during a run: how many tasks the policy solves, and what it knows about worlds that it did not act in.

Nothing here selects a model (METHOD trap 25). Not here: the evaluation of world models with controls
(`envecho.evaluation`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import numpy as np

from envecho.evaluation import score_pool
from envecho.rollout import rollout
from envecho.seam import Engine, TaskSuite
from envecho.tokens import ChatTokenizer, TokenizedTrajectory, tokenize_trajectory
from envecho.training.config import RunConfig
from envecho.training.metrics import MetricsRow
from envecho.training.sources import rollout_params, suite_job
from envecho.trajectory import SOURCES
from envecho.trajectory.store import read_trajectories

_KEY = 2**31
"""First part of the keys of evaluation episodes: no training step has this number."""


@final
class PolicyEvaluation:
    """The looks of one run; the same tasks with the same draws every time."""

    def __init__(
        self, config: RunConfig, out: Path, *, suite: TaskSuite, engine: Engine, tokenizer: ChatTokenizer
    ) -> None:
        assert config.rollout is not None
        self._config, self._folder, self._suite = config, out / "evaluations", suite
        self._engine, self._tokenizer = engine, tokenizer
        self._rollout = config.rollout.model_copy(update={"temperature": config.evaluation.temperature or 1.0})
        limit = engine.capabilities.max_context_tokens
        self._pool: Sequence[TokenizedTrajectory] = [
            sequence
            for trajectory in (read_trajectories(list(config.evaluation.data)) if config.evaluation.data else ())
            for sequence in tokenize_trajectory(trajectory, tokenizer, max_tokens=limit)
        ]

    def is_due(self, step: int) -> bool:
        """Whether to look after this step; 0 is before the first."""
        every = self._config.evaluation.every
        return every > 0 and (step % every == 0 or step == self._config.run.steps)

    def look(self, step: int) -> MetricsRow:
        """Measure, write `evaluations/step-NNNNNN.json`, and return the row."""
        settings = self._config.evaluation
        known = self._suite.num_tasks(settings.split)
        num_tasks = settings.num_tasks if known is None else min(settings.num_tasks, known)
        jobs = [
            suite_job(
                self._suite,
                settings.split,
                number,
                run="evaluation",
                episode=number * settings.rollouts_per_task + again,
                key=(_KEY, number, again),
            )
            for number in range(num_tasks)
            for again in range(settings.rollouts_per_task)
        ]
        params = rollout_params(self._rollout, self._config.world, self._engine, seed=self._config.run.seed)
        trajectories = rollout(jobs, self._engine, self._tokenizer, params)
        rewards: dict[str, list[float | None]] = {}
        for trajectory in trajectories:
            rewards.setdefault(trajectory.task_id, []).append(trajectory.reward)
        graded = [reward for of_task in rewards.values() for reward in of_task if reward is not None]
        pool = self._score_pool()
        document = {
            "format": "envecho.policy-evaluation",
            "version": 1,
            "step": step,
            "split": settings.split,
            "temperature": self._rollout.temperature,
            "tasks": [{"task_id": task, "rewards": of_task} for task, of_task in rewards.items()],
            "env_ce_by_trajectory": pool["by_trajectory"],
        }
        self._write(step, document)
        return {
            "kind": "evaluation",
            "step": step,
            "split": settings.split,
            "solve_rate": float(np.mean([reward >= 1 for reward in graded])) if graded else None,
            "mean_reward": float(np.mean(graded)) if graded else None,
            "num_episodes": len(trajectories),
            "env_ce": pool["env_ce"],
            "env_ce_by_source": pool["env_ce_by_source"],
            "num_env_tokens": pool["num_env_tokens"],
        }

    def _score_pool(self) -> dict[str, Any]:
        if not self._pool:
            return {"env_ce": None, "env_ce_by_source": {}, "num_env_tokens": 0, "by_trajectory": []}
        tokens = score_pool(self._engine, self._pool)
        by_source: dict[str, list[float]] = {}
        by_trajectory: dict[str, list[float]] = {}
        task_of = {sequence.trajectory_id: sequence.task_id for sequence in self._pool}
        for sequence in {s.trajectory_id for s in self._pool}:
            by_trajectory[sequence] = []
        for place in range(len(tokens)):
            nll = float(tokens.nll[place])
            by_source.setdefault(SOURCES[tokens.sources[place]].value, []).append(nll)
            by_trajectory[tokens.trajectory_ids[tokens.trajectory_index[place]]].append(nll)
        return {
            "env_ce": float(tokens.nll.mean()) if len(tokens) else None,
            "env_ce_by_source": {source: float(np.mean(values)) for source, values in sorted(by_source.items())},
            "num_env_tokens": len(tokens),
            "by_trajectory": [
                {"task_id": task_of[name], "nll_sum": float(np.sum(values)), "num_tokens": len(values)}
                for name, values in sorted(by_trajectory.items())
            ],
        }

    def _write(self, step: int, document: dict[str, Any]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"step-{step:06d}.json"
        temporary = path.with_name(f".{path.name}.tmp")
        with temporary.open("w", encoding="utf-8") as file:
            file.write(json.dumps(document, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
