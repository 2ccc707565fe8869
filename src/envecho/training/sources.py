"""Where the trajectories of a step come from: `StoredSource` (they exist) or `RolloutSource` (the policy makes them).

Both give one `StepBatch` per step, a function of seed and step (and of the policy's weights), so the arms of a study
see the same tasks in the same order. Not here: what a step does with its batch (`loop`).
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, final

from envecho.errors import ConfigError
from envecho.objective import (
    CompiledBatch,
    EchoConfig,
    compile_batch,
    compile_with_shuffled_env,
    filter_rollouts,
    shuffle_observations,
)
from envecho.rollout import Journal, RolloutJob, RolloutParams, WorldLimits, rollout
from envecho.seam import Engine, TaskSuite
from envecho.tokens import ChatTokenizer, TokenizedTrajectory, tokenize_trajectory
from envecho.training.config import RolloutConfig, RunConfig, WorldConfig
from envecho.training.data import TrainingData, step_order
from envecho.trajectory import Trajectory
from envecho.trajectory.store import write_trajectories
from envecho.worlds.options import HostOptions
from envecho.worlds.suites import open_suite

_TASKS_OF_AN_ENDLESS_SPLIT = 1000


@dataclass(frozen=True, kw_only=True)
class StepBatch:
    """What one optimiser step trains on.

    `sequences` are those of the batch's logged tokens, in its order; `trajectories` the rollouts of the step, None
    where trajectories exist already. `rollout_seconds` is 0 then.
    """

    compiled: CompiledBatch
    sequences: Sequence[TokenizedTrajectory]
    trajectories: Sequence[Trajectory] | None = None
    correct_fraction: float | None = None
    rollout_seconds: float = 0.0


class StepSource(Protocol):
    """Gives the batch of a step."""

    @property
    def fingerprint(self) -> str:
        """What a run that continues must find the same; empty where nothing outside the configuration matters."""
        ...

    def step(self, step: int, *, world_model_coeff: float) -> StepBatch:
        """Return the batch of step `step`, counted from 1."""
        ...

    def settle(self, step: int) -> None:
        """A checkpoint holds everything up to this step: what was kept to resume from before it may go."""
        ...


@final
class StoredSource:
    """Trajectories that exist, in the order that seed and step say."""

    def __init__(self, data: TrainingData, config: RunConfig) -> None:
        self._data, self._config = data, config

    @property
    def fingerprint(self) -> str:
        """The content of the training pool."""
        return self._data.fingerprint

    def step(self, step: int, *, world_model_coeff: float) -> StepBatch:
        """Return the batch of step `step`."""
        run = self._config.run
        sequences = self._data.step_sequences(step, trajectories_per_step=run.trajectories_per_step, seed=run.seed)
        multipliers = self._data.step_multipliers(step, trajectories_per_step=run.trajectories_per_step, seed=run.seed)
        compiled = compile_batch(
            sequences,
            self._config.objective,
            world_model_coeff=world_model_coeff,
            excluded_env=self._data.excluded_env,
            env_multipliers=multipliers,
        )
        return StepBatch(compiled=compiled, sequences=sequences)

    def settle(self, step: int) -> None:
        """Nothing is kept."""


@final
class RolloutSource:
    """Rollouts of the policy as it is now: groups of episodes of the tasks that are next.

    Finished decode batches lie in `OUT/rollouts/step-NNNNNN` until a checkpoint covers their step;
    `[run] keep_rollouts_every` keeps whole steps in `OUT/trajectories/step-NNNNNN.parquet`.
    """

    fingerprint = ""

    def __init__(
        self, config: RunConfig, out: Path, *, suite: TaskSuite, engine: Engine, tokenizer: ChatTokenizer
    ) -> None:
        assert config.rollout is not None
        self._config, self._out, self._suite = config, out, suite
        self._engine, self._tokenizer = engine, tokenizer
        self._rollout = config.rollout
        known = suite.num_tasks(self._rollout.split)
        self._num_tasks = self._rollout.num_tasks or known or _TASKS_OF_AN_ENDLESS_SPLIT
        if known is not None and self._num_tasks > known:
            raise ConfigError(f"[rollout] num_tasks is {self._num_tasks}, and {suite.name} has {known} tasks")

    def step(self, step: int, *, world_model_coeff: float) -> StepBatch:
        """Roll out the tasks of step `step` and compile what came of them."""
        started = time.monotonic()
        trajectories = self._roll_out(step)
        seconds = time.monotonic() - started
        every = self._config.run.keep_rollouts_every
        if every and step % every == 0:
            folder = self._out / "trajectories"
            folder.mkdir(exist_ok=True)
            write_trajectories(folder / f"step-{step:06d}.parquet", trajectories)
        objective = self._config.objective
        found = filter_rollouts(trajectories, objective.filters)
        sequences = self._tokenize(trajectories)
        if objective.noise.shuffle_observations:
            shuffled = self._tokenize(shuffle_observations(trajectories, seed=step))
            compiled = compile_with_shuffled_env(
                sequences, shuffled, objective, world_model_coeff=world_model_coeff, excluded_env=found.excluded
            )
        else:
            compiled = compile_batch(
                sequences, objective, world_model_coeff=world_model_coeff, excluded_env=found.excluded
            )
        return StepBatch(
            compiled=compiled,
            sequences=sequences,
            trajectories=trajectories,
            correct_fraction=found.correct_fraction,
            rollout_seconds=seconds,
        )

    def settle(self, step: int) -> None:
        """Remove the journals of the steps up to this one."""
        for folder in (self._out / "rollouts").glob("step-*"):
            if int(folder.name.removeprefix("step-")) <= step:
                shutil.rmtree(folder)

    def _tokenize(self, trajectories: Sequence[Trajectory]) -> list[TokenizedTrajectory]:
        limit = self._engine.capabilities.max_context_tokens
        return [s for t in trajectories for s in tokenize_trajectory(t, self._tokenizer, max_tokens=limit)]

    def _roll_out(self, step: int) -> list[Trajectory]:
        settings, seed = self._rollout, self._config.run.seed
        tasks = step_order(self._num_tasks, step, trajectories_per_step=settings.tasks_per_step, seed=seed)
        jobs = [
            suite_job(self._suite, settings.split, number, run=f"step-{step:06d}", episode=episode, key=(step, episode))
            for place, number in enumerate(tasks)
            for episode in range(place * settings.rollouts_per_task, (place + 1) * settings.rollouts_per_task)
        ]
        journal = Journal(self._out / "rollouts" / f"step-{step:06d}")
        params = rollout_params(settings, self._config.world, self._engine, seed=seed)
        return rollout(jobs, self._engine, self._tokenizer, params, journal=journal)


def suite_job(suite: TaskSuite, split: str, number: int, *, run: str, episode: int, key: tuple[int, ...]) -> RolloutJob:
    """Return the job of one episode of a task; rollouts of one task in one run form its group."""
    task_id = suite.task_id(split, number)
    return RolloutJob(
        id=f"{run}/{episode:04d}",
        task_id=task_id,
        group_id=f"{run}/{task_id}",
        make_world=lambda: suite.make_world(split, number),
        key=key,
        world_seed=number,
        metadata={"world": suite.name, "split": split, "task": number},
    )


def open_rollout_suite(settings: RolloutConfig, world: WorldConfig) -> TaskSuite:
    """Return the tasks that `[rollout]` and `[world]` name.

    Raises:
        ConfigError: nothing has this name, or the world cannot follow the options.
    """
    return open_suite(
        settings.world,
        sandbox=settings.sandbox,
        max_turns=settings.max_turns,
        families=settings.families,
        world_map=world.map,
        seed_actions=world.seed_actions,
        rubric=world.rubric,
        host=HostOptions(image=world.image, allow=world.allow),
    )


def rollout_params(settings: RolloutConfig, world: WorldConfig, engine: Engine, *, seed: int) -> RolloutParams:
    """Return how `[rollout]` and `[world]` say that episodes are rolled out."""
    return RolloutParams(
        max_turns=settings.max_turns,
        max_tokens_per_turn=settings.max_tokens_per_turn,
        max_context_tokens=engine.capabilities.max_context_tokens,
        temperature=settings.temperature,
        command_seconds=settings.command_seconds,
        episodes_per_batch=settings.episodes_per_batch,
        num_workers=world.num_workers,
        seed=seed,
        tool_protocol=world.tool_protocol,
        schedule=world.schedule,
        max_live_episodes=world.max_live_episodes,
        limits=WorldLimits(
            episode_seconds=world.episode_seconds,
            capacity_wait_seconds=world.capacity_wait_seconds,
            max_attempts=world.max_attempts,
        ),
    )


def objective_needs_reference(objective: EchoConfig) -> bool:
    """Whether a frozen copy of the starting model is asked for its log-probs."""
    return objective.use_rl and objective.policy.kl_coeff > 0
