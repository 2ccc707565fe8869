"""What two runs of one command disagree on: volatile text, found by comparing rollouts, not by patterns.

Rollouts of one task that acted alike up to a turn met the same world. Where their observations differ all the same
(clocks, process ids, random names, races), no model can know the next token from what it has seen, and learning it is
learning noise. Not here: what a weight is for (`compile`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

import numpy as np
from numpy.typing import NDArray

from envecho.tokens import TokenizedTrajectory
from envecho.trajectory import Role

_MOST_COMPARED = 8
"""Different outputs of one command that each is compared with, the most frequent first."""

_Key = tuple[str, tuple[bytes, ...]]


@dataclass(frozen=True, kw_only=True)
class _Observation:
    """The owned observation tokens of one turn: their ids, and where they stand as (sequence, place) rows."""

    token_ids: tuple[int, ...]
    rows: NDArray[np.int64]


def disagreement(sequences: Sequence[TokenizedTrajectory]) -> list[NDArray[np.float32]]:
    """Return, per sequence `[token]`, the share of other runs that answered the same actions without this token.

    Two observations are of the same actions where task, turn and every action token before them are equal. They are
    aligned token by token (longest matching blocks); a token that is in no block disagrees. NaN where no other run
    acted alike, and on everything that is no observation.

    Args:
        sequences: branches and windows of trajectories; every token is compared where it is owned.
    """
    shares = [np.full(len(sequence), np.nan, dtype=np.float32) for sequence in sequences]
    runs: dict[_Key, list[_Observation]] = {}
    for key, observation in _observations(sequences):
        runs.setdefault(key, []).append(observation)
    for found in runs.values():
        if len(found) < 2:
            continue
        outputs = Counter(observation.token_ids for observation in found)
        of_output = {ids: _share_of_others(ids, outputs) for ids in outputs}
        for observation in found:
            for (sequence, place), share in zip(observation.rows, of_output[observation.token_ids], strict=True):
                shares[sequence][place] = share
    return shares


def disagreement_multipliers(sequences: Sequence[TokenizedTrajectory], *, weight: float) -> list[NDArray[np.float32]]:
    """Return, per sequence `[token]`, 1 - (1 - `weight`) * share of runs that disagree; 1 where nothing is known."""
    return [(1 - (1 - weight) * np.nan_to_num(share, nan=0.0)).astype(np.float32) for share in disagreement(sequences)]


def _observations(sequences: Sequence[TokenizedTrajectory]) -> Iterator[tuple[_Key, _Observation]]:
    """Every trajectory's observations by turn, each with what was done before it."""
    of_trajectory: dict[str, list[int]] = {}
    for number, sequence in enumerate(sequences):
        of_trajectory.setdefault(sequence.trajectory_id, []).append(number)
    for numbers in of_trajectory.values():
        actions, observations = (_by_turn(sequences, numbers, role) for role in (Role.ACTION, Role.ENV_OUTPUT))
        before: list[bytes] = []
        for turn in sorted(actions.keys() | observations.keys()):
            if turn in observations and before:
                rows = observations[turn]
                yield (
                    (sequences[numbers[0]].task_id, tuple(before)),
                    _Observation(token_ids=_ids(sequences, rows), rows=rows),
                )
            if turn in actions:
                before.append(repr((turn, _ids(sequences, actions[turn]))).encode())


def _by_turn(
    sequences: Sequence[TokenizedTrajectory], numbers: Sequence[int], role: Role
) -> dict[int, NDArray[np.int64]]:
    rows: dict[int, list[tuple[int, int]]] = {}
    for number in numbers:
        sequence = sequences[number]
        for place in np.flatnonzero(sequence.role_mask(role) & sequence.owned_mask()):
            rows.setdefault(int(sequence.turns[place]), []).append((number, int(place)))
    return {turn: np.array(found, dtype=np.int64) for turn, found in rows.items()}


def _ids(sequences: Sequence[TokenizedTrajectory], rows: NDArray[np.int64]) -> tuple[int, ...]:
    return tuple(int(sequences[number].token_ids[place]) for number, place in rows)


def _share_of_others(ids: tuple[int, ...], outputs: Counter[tuple[int, ...]]) -> NDArray[np.float32]:
    """For each token of an output the share of the other runs whose output lacks it."""
    others = [(other, count - (other == ids)) for other, count in outputs.most_common()]
    compared = [(other, count) for other, count in others if count > 0][:_MOST_COMPARED]
    missing = np.zeros(len(ids), dtype=np.float64)
    for other, count in compared:
        lacks = np.ones(len(ids), dtype=np.float64)
        if other == ids:
            lacks[:] = 0
        else:
            for block in SequenceMatcher(None, ids, other, autojunk=False).get_matching_blocks():
                lacks[block.a : block.a + block.size] = 0
        missing += count * lacks
    return (missing / sum(count for _, count in compared)).astype(np.float32)
