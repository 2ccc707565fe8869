"""What a run over the file costs: tokens, steps, effective lambda, operations, and seconds where they were measured.

Not here: what is wrong with the file (the checks).
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import numpy as np

from envecho.errors import DataError
from envecho.losses import SPLIT_RULES
from envecho.objective import EchoConfig, PolicyConfig, compile_batch
from envecho.recipes.doctor.episode import Episode
from envecho.recipes.doctor.findings import Findings
from envecho.tokens import TokenizedTrajectory
from envecho.training.config import LoopConfig, ModelConfig, RunConfig
from envecho.trajectory import SOURCES, Role

_FLOPS_PER_PARAMETER: Final = 6
_TIMED_TOKENS: Final = 2_048
_ROLE_CODES: Final = {role: np.array([source.role is role for source in SOURCES]) for role in Role}


@dataclass(frozen=True, kw_only=True)
class Cost:
    """One epoch over the file, and the run that the configuration asks for.

    `tokens` are by role, each counted once; `num_processed_tokens` counts context again where a branch or window shows
    it. `warning_fraction` is the share of warning among observation tokens, `env_per_action` targets over actions.
    `effective_lambda` is that of the configured normaliser with a policy term on all actions. `run_steps` and what
    follows from it is None without a configuration, `tokens_per_second` without a measurement. FLOPs are
    6 x parameters x processed tokens: forward and backward, attention left out.
    """

    tokens: dict[str, int]
    num_targets: int
    num_processed_tokens: int
    warning_fraction: float
    env_per_action: float | None
    world_model_coeff: float
    normalizer: str
    effective_lambda: float | None
    trajectories_per_step: int
    steps_per_epoch: int
    num_parameters: int | None
    epoch_flops: float | None
    run_steps: int | None = None
    run_epochs: float | None = None
    run_tokens: float | None = None
    run_flops: float | None = None
    tokens_per_second: float | None = None
    epoch_seconds: float | None = None
    run_seconds: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return dict(vars(self))


def trajectories_per_step(config: RunConfig | None) -> int:
    """How many trajectories a step trains: of `[run]`, or of the groups of `[rollout]`."""
    if config is None:
        return LoopConfig(steps=1).trajectories_per_step
    if config.rollout is not None:
        return config.rollout.tasks_per_step * config.rollout.rollouts_per_task
    return config.run.trajectories_per_step


@final
class CostCheck:
    """Counts tokens, and weighs them step by step in the order of the file; only one step is held at a time."""

    def __init__(self, objective: EchoConfig, findings: Findings, *, trajectories_per_step: int) -> None:
        self._objective, self._findings = objective, findings
        self._per_step = trajectories_per_step
        self._tokens: Counter[Role] = Counter()
        self._num_processed = self._num_targets = self._num_trajectories = 0
        self._env_weight = self._policy_weight = 0.0
        self._step: list[TokenizedTrajectory] = []
        self._ids: set[str] = set()
        self.timed: list[TokenizedTrajectory] = []

    def see(self, episode: Episode) -> None:
        """Look at one episode."""
        self._num_trajectories += 1
        for sequence in episode.sequences:
            owned = sequence.sources[sequence.owned_from :]
            for role, of_role in _ROLE_CODES.items():
                self._tokens[role] += int(of_role[owned].sum())
            self._num_processed += len(sequence)
            if sum(map(len, self.timed)) + len(sequence) <= _TIMED_TOKENS:
                self.timed.append(sequence)
        self._num_targets += episode.num_targets
        if episode.trajectory.id in self._ids:
            return  # the same trajectory twice in a step is a finding of its own
        self._ids.add(episode.trajectory.id)
        self._step += episode.sequences
        if len(self._ids) == self._per_step:
            self._weigh()

    def _weigh(self) -> None:
        """Weigh the trajectories of one step, as if their actions were imitated: the same policy weights."""
        sequences, self._step, self._ids = self._step, [], set()
        if not sequences:
            return
        objective = _with_policy_term(self._objective)
        split = [0] * len(sequences) if objective.preset.normalizer in SPLIT_RULES else None
        try:
            batch = compile_batch(sequences, objective, micro_batch_index=split).batch
        except DataError as error:
            self._findings.state("objective_refused", str(error))
            return
        self._env_weight += float(batch.env_weights.double().sum())
        self._policy_weight += float(batch.policy_weights.double().sum())

    def conclude(self) -> None:
        """Weigh the last, smaller step, and say what share of the observations is boilerplate."""
        self._weigh()
        if self._warning_fraction >= 0.25:
            num_warnings = self._tokens[Role.WARNING]
            detail = f"{self._warning_fraction:.1%} of the observation tokens"
            self._findings.state("boilerplate", detail, num_tokens=num_warnings)

    @property
    def _warning_fraction(self) -> float:
        observed = self._tokens[Role.WARNING] + self._tokens[Role.ENV_OUTPUT]
        return self._tokens[Role.WARNING] / observed if observed else 0.0

    def cost(self, *, config: RunConfig | None, num_parameters: int | None, tokens_per_second: float | None) -> Cost:
        """Return what was counted, and what follows from it for a run."""
        tokens, flops = float(self._num_processed), None
        if num_parameters is not None:
            flops = _FLOPS_PER_PARAMETER * num_parameters * tokens
        steps = None if config is None else config.run.steps
        epochs = None if steps is None else steps * self._per_step / max(self._num_trajectories, 1)
        seconds = None if tokens_per_second is None else tokens / tokens_per_second
        actions = self._tokens[Role.ACTION]
        return Cost(
            tokens={role.value: self._tokens[role] for role in Role},
            num_targets=self._num_targets,
            num_processed_tokens=self._num_processed,
            warning_fraction=self._warning_fraction,
            env_per_action=self._num_targets / actions if actions else None,
            world_model_coeff=self._objective.world_model_coeff,
            normalizer=self._objective.preset.normalizer,
            effective_lambda=self._env_weight / self._policy_weight if self._policy_weight else None,
            trajectories_per_step=self._per_step,
            steps_per_epoch=-(-self._num_trajectories // self._per_step),
            num_parameters=num_parameters,
            epoch_flops=flops,
            run_steps=steps,
            run_epochs=epochs,
            run_tokens=None if epochs is None else epochs * tokens,
            run_flops=None if epochs is None or flops is None else epochs * flops,
            tokens_per_second=tokens_per_second,
            epoch_seconds=seconds,
            run_seconds=None if seconds is None or epochs is None else epochs * seconds,
        )


def _with_policy_term(objective: EchoConfig) -> EchoConfig:
    """The objective with a policy weight on every action that its normaliser gives one, whatever is known of it."""
    kept = ("world_model_coeff", "world_loss_target", "source_coeffs", "tool_coeffs", "grader_is_target")
    return EchoConfig(
        use_rl=True,
        policy=PolicyConfig(loss="sft"),
        normalizer=objective.preset.normalizer,
        constant_length=objective.constant_length,
        **{name: getattr(objective, name) for name in kept},
    )


def measure_speed(sequences: list[TokenizedTrajectory], folder: Path, model: ModelConfig) -> float | None:
    """Return tokens per second of forward and backward; None where nothing is trained, or not on this machine.

    The second of two passes over the same tokens is timed. The optimiser's step comes on top.
    """
    if not sequences or model.engine != "local":
        return None
    # Counting tokens needs no engine, whose libraries take two seconds to load.
    from envecho.training.engines import open_engine

    engine = open_engine(model, folder, seed=0)
    batch = compile_batch(sequences, EchoConfig(use_rl=False, world_loss_target="all")).batch
    engine.forward_backward(batch)
    started = time.monotonic()
    engine.forward_backward(batch)
    return len(batch.token_ids) / (time.monotonic() - started)
