"""RFC 010's rollout filters: whose observations feed the environment term, and why the others do not.

A filtered rollout keeps its policy term: only its observations lose their weight, and are counted. The filters read
what is in the trajectory, so they apply to imported traces too. Not here: how calls are judged
(`envecho.trajectory.calls`).
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import final

from envecho.errors import DataError
from envecho.objective.config import FilterConfig
from envecho.objective.policy_data import FAILURES
from envecho.trajectory import CallOutcome, Trajectory, call_outcomes

INVALID_CALLS = "invalid_calls"
PARSE_FAILURES = "parse_failures"
INCORRECT = "incorrect"


@dataclass(frozen=True, kw_only=True)
class FilterResult:
    """`excluded`: id of a trajectory -> reason (`invalid_calls`, `parse_failures`, `incorrect`), at most one each.

    `correct_fraction` is the share of correct rollouts among those that are left, None where no filter asked for it or
    none is left.
    """

    excluded: Mapping[str, str]
    correct_fraction: float | None


def filter_rollouts(trajectories: Iterable[Trajectory], config: FilterConfig) -> FilterResult:
    """Say which rollouts feed the environment term.

    A rollout whose share of valid calls is below `min_valid_call_fraction`, or whose share of calls that could be
    parsed is below `min_parse_clean_fraction`, is left out; one without any call passes both. Then, with
    `correct_fraction`, incorrect ones are left out at random until correct ones make up that share; where there are not
    enough correct ones for it, all incorrect ones are left out (a share of 0 asks for nothing and leaves out nothing).
    A rollout that failed (`FAILURES`) without a reward is not correct.

    Raises:
        DataError: `correct_fraction` is set and another reward is unknown.
    """
    rollout_filter = RolloutFilter(config)
    for trajectory in trajectories:
        rollout_filter.see(trajectory)
    return rollout_filter.result()


@final
class RolloutFilter:
    """`filter_rollouts` for a pool that streams by: of a trajectory that was seen, nothing is kept but its id."""

    def __init__(self, config: FilterConfig) -> None:
        self._config = config
        self._excluded: dict[str, str] = {}
        self._incorrect: list[str] = []
        self._num_correct = 0

    def see(self, trajectory: Trajectory) -> None:
        """Judge one rollout.

        Raises:
            DataError: `correct_fraction` is set and the reward is unknown.
        """
        reason = _reason(trajectory, self._config)
        if reason is not None:
            self._excluded[trajectory.id] = reason
        elif self._config.correct_fraction is not None:
            if _is_correct(trajectory, self._config):
                self._num_correct += 1
            else:
                self._incorrect.append(trajectory.id)

    def result(self) -> FilterResult:
        """Return what `filter_rollouts` says of all that were seen."""
        share, incorrect = self._config.correct_fraction, self._incorrect
        if share is None:
            return FilterResult(excluded=dict(self._excluded), correct_fraction=None)
        num_allowed = len(incorrect)
        if share > 0:
            # Correct ones make up the share f where incorrect ones are at most (1 - f) / f of their number.
            num_allowed = int(self._num_correct * (1 - share) / share + 1e-9)
        surplus = max(0, len(incorrect) - num_allowed)
        # Drawn from sorted ids, so that the order of the rollouts changes nothing.
        drawn = random.Random(f"envecho-correct-{self._config.seed}").sample(sorted(incorrect), surplus)
        num_left = self._num_correct + len(incorrect) - surplus
        return FilterResult(
            excluded=self._excluded | dict.fromkeys(drawn, INCORRECT),
            correct_fraction=self._num_correct / num_left if num_left else None,
        )


def _reason(trajectory: Trajectory, config: FilterConfig) -> str | None:
    if config.min_valid_call_fraction is None and config.min_parse_clean_fraction is None:
        return None
    outcomes = call_outcomes(trajectory)
    if not outcomes:
        return None
    valid = sum(outcome is CallOutcome.VALID for outcome in outcomes) / len(outcomes)
    parsed = sum(outcome is not CallOutcome.UNPARSED for outcome in outcomes) / len(outcomes)
    if config.min_valid_call_fraction is not None and valid < config.min_valid_call_fraction:
        return INVALID_CALLS
    if config.min_parse_clean_fraction is not None and parsed < config.min_parse_clean_fraction:
        return PARSE_FAILURES
    return None


def _is_correct(trajectory: Trajectory, config: FilterConfig) -> bool:
    if trajectory.reward is None and trajectory.stop_reason in FAILURES:
        return False
    if trajectory.reward is None:
        raise DataError(
            f"filters.correct_fraction needs to know which rollouts are correct, and the reward of trajectory"
            f" {trajectory.id!r} is unknown; grade it, or leave this filter out"
        )
    return trajectory.reward >= config.correct_reward
