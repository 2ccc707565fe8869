"""One optimiser step as flat arrays: whose token is whose, before anything is weighed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from envecho.errors import DataError
from envecho.objective.config import EchoConfig
from envecho.tokens import TokenizedTrajectory, env_target_mask
from envecho.trajectory import Role, StopReason


@dataclass(frozen=True, kw_only=True)
class Episode:
    """One trajectory of the step; its branches and windows share these facts."""

    trajectory_id: str
    group_id: str | None
    reward: float | None
    stop_reason: StopReason


@dataclass(frozen=True, kw_only=True)
class Step:
    """All sequences of a step joined; arrays are `[token]`.

    `trajectory_of_token` numbers `trajectories`, `sequence_index` the sequences. The masks hold owned tokens only, so a
    token that an earlier branch or window trains is in none of them. `obs_mask` is the whole observation, `env_mask`
    its targets. `fresh` marks the tokens that no earlier branch or window has shown, position 0 included.
    """

    trajectories: tuple[Episode, ...]
    num_sequences: int
    token_ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    sequence_index: NDArray[np.int64]
    trajectory_of_token: NDArray[np.int64]
    sources: NDArray[np.uint8]
    turns: NDArray[np.int32]
    fresh: NDArray[np.bool_]
    action_mask: NDArray[np.bool_]
    obs_mask: NDArray[np.bool_]
    env_mask: NDArray[np.bool_]
    context_truncated: NDArray[np.bool_]
    sampling_logprobs: NDArray[np.float32]
    sampling_entropies: NDArray[np.float32]
    sampling_temperatures: NDArray[np.float64]


def flatten(sequences: Sequence[TokenizedTrajectory], config: EchoConfig) -> Step:
    """Join the sequences of one step and mark their actions, observations and targets.

    Raises:
        DataError: there is no sequence, one is empty or occurs twice, or two of one trajectory disagree about it.
    """
    episodes = _episodes(sequences)
    numbers = {episode.trajectory_id: number for number, episode in enumerate(episodes)}
    lengths = np.array([len(sequence) for sequence in sequences])
    env = [
        env_target_mask(s, world_loss_target=config.world_loss_target, grader_is_target=config.grader_is_target)
        for s in sequences
    ]
    observed = [
        (s.role_mask(Role.ENV_OUTPUT) | s.role_mask(Role.WARNING)) & s.owned_mask() | mask
        for s, mask in zip(sequences, env, strict=True)
    ]
    temperatures = [np.nan if s.sampling_temperature is None else s.sampling_temperature for s in sequences]
    return Step(
        trajectories=episodes,
        num_sequences=len(sequences),
        token_ids=np.concatenate([s.token_ids for s in sequences]).astype(np.int64),
        positions=np.concatenate([np.arange(n, dtype=np.int64) for n in lengths]),
        sequence_index=np.repeat(np.arange(len(sequences), dtype=np.int64), lengths),
        trajectory_of_token=np.repeat(np.array([numbers[s.trajectory_id] for s in sequences], dtype=np.int64), lengths),
        sources=np.concatenate([s.sources for s in sequences]),
        turns=np.concatenate([s.turns for s in sequences]),
        fresh=np.concatenate([np.arange(len(s)) >= s.owned_from for s in sequences]),
        action_mask=np.concatenate([s.action_mask & s.owned_mask() for s in sequences]),
        obs_mask=np.concatenate(observed),
        env_mask=np.concatenate(env),
        context_truncated=np.repeat(np.array([s.context_truncated for s in sequences]), lengths),
        sampling_logprobs=np.concatenate([s.sampling_logprobs for s in sequences]),
        sampling_entropies=np.concatenate([s.sampling_entropies for s in sequences]),
        sampling_temperatures=np.repeat(np.array(temperatures, dtype=np.float64), lengths),
    )


def _episodes(sequences: Sequence[TokenizedTrajectory]) -> tuple[Episode, ...]:
    if not sequences:
        raise DataError("an optimiser step needs at least one sequence, found none")
    episodes: dict[str, Episode] = {}
    seen: set[tuple[str, int, int]] = set()
    for sequence in sequences:
        key = (sequence.trajectory_id, sequence.branch, sequence.window)
        where = f"trajectory {key[0]!r}, branch {key[1]}, window {key[2]}"
        if key in seen:
            raise DataError(f"{where} occurs twice in one step; its observations would be trained twice")
        if not len(sequence):
            raise DataError(f"{where} has no token")
        seen.add(key)
        episode = Episode(
            trajectory_id=key[0],
            group_id=sequence.group_id,
            reward=sequence.reward,
            stop_reason=sequence.stop_reason,
        )
        if episodes.setdefault(key[0], episode) != episode:
            raise DataError(f"{where} has another reward or group than the branches and windows before it")
    return tuple(episodes.values())
