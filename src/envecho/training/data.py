"""The pools of a run, tokenised, and which trajectories each step trains: a pure function of seed and step.

Not here: what a token is worth (`envecho.objective`), and measuring on pools (`envecho.evaluation`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from envecho.errors import ConfigError, DataError
from envecho.objective import EchoConfig, RolloutFilter, disagreement_multipliers
from envecho.tokens import (
    ChatTokenizer,
    TokenizedTrajectory,
    env_target_mask,
    tokenize_trajectory,
    with_closed_turns,
)
from envecho.training.config import DataConfig
from envecho.trajectory import SOURCES, Trajectory
from envecho.trajectory.store import read_trajectories


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """What a run reads: `train[i]` are the sequences (branches and windows) of trajectory i.

    `validation` holds trajectories because their labels are needed, and their sequences. `multipliers[i]` belong to
    `train[i]`; None where runs are not compared. `fingerprint` is a SHA-256 of all token ids and sources of the
    training pool: a run that continues must find the same. `excluded_env`: whose observations the rollout filters leave
    out, and why. `groups` are the trajectories of each group of rollouts where rewards are compared, None elsewhere: a
    step then holds whole groups.
    """

    train: tuple[tuple[TokenizedTrajectory, ...], ...]
    validation: tuple[Trajectory, ...]
    validation_sequences: tuple[TokenizedTrajectory, ...]
    multipliers: tuple[tuple[NDArray[np.float32], ...], ...] | None
    fingerprint: str
    excluded_env: Mapping[str, str]
    groups: tuple[tuple[int, ...], ...] | None = None

    def step_sequences(self, step: int, *, trajectories_per_step: int, seed: int) -> list[TokenizedTrajectory]:
        """Return the sequences of step `step` (counted from 1), trajectory by trajectory."""
        return [s for index in self._chosen(step, trajectories_per_step, seed) for s in self.train[index]]

    def step_multipliers(self, step: int, *, trajectories_per_step: int, seed: int) -> list[NDArray[np.float32]] | None:
        """Return what each token of `step_sequences` counts; None where runs are not compared."""
        if self.multipliers is None:
            return None
        return [m for index in self._chosen(step, trajectories_per_step, seed) for m in self.multipliers[index]]

    def _chosen(self, step: int, trajectories_per_step: int, seed: int) -> list[int]:
        if self.groups is not None:
            return group_order(self.groups, step, trajectories_per_step=trajectories_per_step, seed=seed)
        return step_order(len(self.train), step, trajectories_per_step=trajectories_per_step, seed=seed)


def load_data(config: DataConfig, objective: EchoConfig, tokenizer: ChatTokenizer, *, max_tokens: int) -> TrainingData:
    """Read and tokenise the pools, and refuse what could not train or could not be judged.

    Raises:
        ConfigError: two pools share a trajectory, or the objective selects no token of the whole training pool.
        DataError: a pool is empty or holds one trajectory id twice, or a file cannot be read.
        TemplateError: the tokenizer's chat template cannot render a trajectory exactly.
    """
    limit = min(config.max_tokens or max_tokens, max_tokens)
    owners: dict[str, str] = {}
    train: list[tuple[TokenizedTrajectory, ...]] = []
    digest = hashlib.sha256()
    rollout_filter = RolloutFilter(objective.filters)
    for trajectory in _read_pool("train", config.train, owners):
        rollout_filter.see(trajectory)
        imitates = objective.use_rl and objective.policy.loss == "sft"
        told = with_closed_turns(trajectory, tokenizer) if imitates else trajectory
        sequences = tuple(tokenize_trajectory(told, tokenizer, max_tokens=limit))
        for sequence in sequences:
            digest.update(np.ascontiguousarray(sequence.token_ids).tobytes() + sequence.sources.tobytes())
        train.append(sequences)
    validation = tuple(_read_pool("validation", config.validation, owners)) if config.validation else ()
    if config.held_out:
        for _ in _read_pool("held_out", config.held_out, owners):
            pass
    _require_targets(train, objective, config.train)
    return TrainingData(
        multipliers=_multipliers(train, objective),
        train=tuple(train),
        validation=validation,
        validation_sequences=tuple(s for t in validation for s in tokenize_trajectory(t, tokenizer, max_tokens=limit)),
        fingerprint=digest.hexdigest(),
        excluded_env=rollout_filter.result().excluded,
        groups=_groups(train) if objective.samples_matter else None,
    )


def _groups(train: Sequence[Sequence[TokenizedTrajectory]]) -> tuple[tuple[int, ...], ...]:
    """The places of each group's trajectories; one without a group, which the policy term refuses, is its own."""
    members: dict[str, list[int]] = {}
    for place, sequences in enumerate(train):
        group = sequences[0].group_id if sequences else None
        members.setdefault(f"group {group}" if group is not None else f"alone {place}", []).append(place)
    return tuple(map(tuple, members.values()))


def _multipliers(
    train: Sequence[Sequence[TokenizedTrajectory]], objective: EchoConfig
) -> tuple[tuple[NDArray[np.float32], ...], ...] | None:
    """What runs of one command disagree on, over the whole pool: two of them are seldom in one step."""
    weight = objective.noise.disagreement_weight
    if weight is None:
        return None
    found = iter(disagreement_multipliers([s for sequences in train for s in sequences], weight=weight))
    return tuple(tuple(next(found) for _ in sequences) for sequences in train)


def step_order(num_trajectories: int, step: int, *, trajectories_per_step: int, seed: int) -> list[int]:
    """Return the trajectories of step `step` (counted from 1), as places in the pool.

    An epoch is a permutation of the pool, cut into steps; its last step may be smaller, so that no step holds one
    trajectory twice and every epoch shows each once.
    """
    steps_per_epoch = -(-num_trajectories // trajectories_per_step)
    epoch, place = divmod(step - 1, steps_per_epoch)
    order = _epoch_order(num_trajectories, seed, epoch)
    return list(order[place * trajectories_per_step : (place + 1) * trajectories_per_step])


def group_order(groups: tuple[tuple[int, ...], ...], step: int, *, trajectories_per_step: int, seed: int) -> list[int]:
    """Return the trajectories of step `step` (counted from 1) where a step must hold whole groups.

    An epoch is a permutation of the groups; a step takes the next ones while they fit, and at least one.
    """
    epoch = 0
    while step > len(steps := _epoch_of_groups(groups, trajectories_per_step, seed, epoch)):
        step, epoch = step - len(steps), epoch + 1
    return list(steps[step - 1])


@lru_cache(maxsize=64)
def _epoch_of_groups(
    groups: tuple[tuple[int, ...], ...], trajectories_per_step: int, seed: int, epoch: int
) -> tuple[tuple[int, ...], ...]:
    steps: list[tuple[int, ...]] = []
    for number in _epoch_order(len(groups), seed, epoch):
        if steps and len(steps[-1]) + len(groups[number]) <= trajectories_per_step:
            steps[-1] += groups[number]
        else:
            steps.append(groups[number])
    return tuple(steps)


@lru_cache(maxsize=2)
def _epoch_order(num_trajectories: int, seed: int, epoch: int) -> tuple[int, ...]:
    # Sorted by hash: the same on every platform and with every version of every library.
    keys = [hashlib.sha256(f"{seed}:{epoch}:{index}".encode()).digest() for index in range(num_trajectories)]
    return tuple(sorted(range(num_trajectories), key=keys.__getitem__))


def _read_pool(pool: str, paths: Sequence[str], owners: dict[str, str]) -> Iterable[Trajectory]:
    num_read = 0
    for trajectory in read_trajectories(list(paths)):
        owner = owners.setdefault(trajectory.id, pool)
        if owner != pool:
            raise ConfigError(
                f"trajectory {trajectory.id!r} is in [data] {owner} and in [data] {pool}; pools must be disjoint, or"
                f" {pool} judges what was trained or selected on it"
            )
        num_read += 1
        yield trajectory
    found = sum(owner == pool for owner in owners.values())
    if found != num_read:
        raise DataError(f"[data] {pool} holds {num_read} trajectories with {found} ids; give each its own id")
    if not num_read:
        raise DataError(f"[data] {pool} = {list(paths)} holds no trajectory")


def _require_targets(
    train: Iterable[Iterable[TokenizedTrajectory]], objective: EchoConfig, paths: Sequence[str]
) -> None:
    if objective.use_rl:
        return  # the policy term trains even where nothing was observed; a silent environment term raises an alarm
    target, grader = objective.world_loss_target, objective.grader_is_target
    weighed = np.array([objective.source_coeffs.get(source, 1.0) > 0 for source in SOURCES])
    for sequences in train:
        for sequence in sequences:
            mask = env_target_mask(sequence, world_loss_target=target, grader_is_target=grader)
            if (mask & weighed[sequence.sources]).any():
                return
    raise ConfigError(
        f"[objective] world_loss_target = {target!r} (with its source_coeffs) selects no token of {list(paths)}:"
        " nothing would be trained. `envecho show FILE` prints who wrote each token"
    )
