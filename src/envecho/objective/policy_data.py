"""What the policy term needs beyond masks: advantages, which actions may be trained, and at which temperature.

Not here: the policy loss (`losses.policy` and its neighbours), and its normaliser.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from envecho.errors import DataError
from envecho.losses import AdvantageName, group_advantages
from envecho.objective.config import EchoConfig
from envecho.objective.step import Episode, Step
from envecho.trajectory import StopReason

FAILURES = (StopReason.WORLD_ERROR, StopReason.POLICY_ERROR, StopReason.TIMEOUT)
"""Why a rollout may end without a reward and still be data: its observations are trained, its actions are not."""


@dataclass(frozen=True, kw_only=True)
class PolicyData:
    """`trained` marks the actions that keep their policy weight, `advantages` is that of each token's trajectory."""

    trained: NDArray[np.bool_]
    advantages: NDArray[np.float64]
    temperature: float
    counters: dict[str, int | float]

    @staticmethod
    def absent(step: Step) -> PolicyData:
        """Verifier-free: no action is trained, and no reward, group or sampling log-prob is asked for."""
        none = np.zeros_like(step.action_mask)
        return PolicyData(
            trained=none,
            advantages=np.zeros(len(step.action_mask)),
            temperature=1.0,
            counters=_counters(step, none, none) | _no_groups(),
        )

    @staticmethod
    def imitation(step: Step) -> PolicyData:
        """Cross-entropy on all actions whose context is whole: every advantage is 1, the temperature too."""
        dropped = step.action_mask & step.context_truncated
        trained = step.action_mask & ~step.context_truncated
        return PolicyData(
            trained=trained,
            advantages=np.ones(len(step.action_mask)),
            temperature=1.0,
            counters=_counters(step, trained, dropped) | _no_groups(),
        )


def policy_data(step: Step, config: EchoConfig) -> PolicyData:
    """Return what the config's policy term needs, or say what is unknown; nothing is guessed.

    Rollouts that failed (`FAILURES`) and have no reward are left out of their group, and their actions have no weight.

    Raises:
        DataError: a trained action has no sampling log-prob or temperature, another reward or a group is unknown, or
            the temperatures differ.
    """
    if not config.use_rl:
        return PolicyData.absent(step)
    kind = config.preset.advantage
    if kind is None:
        return PolicyData.imitation(step)
    graded = np.array([not _failed(episode) for episode in step.trajectories])
    dropped = step.action_mask & step.context_truncated
    trained = step.action_mask & ~step.context_truncated & graded[step.trajectory_of_token]
    _check_sampling_logprobs(step, trained)
    groups, advantages = _advantages(step, graded, kind)
    reasons = Counter(str(e.stop_reason) for e in step.trajectories if _failed(e))
    return PolicyData(
        trained=trained,
        advantages=advantages[step.trajectory_of_token],
        temperature=_temperature(step, trained),
        counters=_counters(step, trained, dropped) | groups | _ungraded(reasons),
    )


def _failed(episode: Episode) -> bool:
    return episode.reward is None and episode.stop_reason in FAILURES


def _advantages(
    step: Step, graded: NDArray[np.bool_], kind: AdvantageName
) -> tuple[dict[str, int | float], NDArray[np.float64]]:
    episodes = [episode for episode, known in zip(step.trajectories, graded, strict=True) if known]
    ungraded = [e.trajectory_id for e in episodes if e.reward is None or not np.isfinite(e.reward)]
    if ungraded:
        raise DataError(f"use_rl needs a reward for every trajectory; unknown for {_names(ungraded)}. {_VERIFIER_FREE}")
    ungrouped = [e.trajectory_id for e in episodes if e.group_id is None]
    if ungrouped:
        raise DataError(
            f"use_rl compares rewards within a group; {_names(ungrouped)} have no group_id. {_VERIFIER_FREE}"
        )
    advantages = np.zeros(len(step.trajectories), dtype=np.float64)
    if not episodes:
        return _no_groups(), advantages
    _, group_index = np.unique([str(e.group_id) for e in episodes], return_inverse=True)
    rewards = np.array([e.reward for e in episodes], dtype=np.float64)
    found = group_advantages(torch.from_numpy(rewards), torch.from_numpy(group_index), kind=kind)
    advantages[graded] = found.numpy()
    num_groups = int(group_index.max()) + 1
    num_zero_variance = sum(len(set(rewards[group_index == g].tolist())) == 1 for g in range(num_groups))
    return {"num_groups": num_groups, "num_zero_variance_groups": num_zero_variance}, advantages


def _check_sampling_logprobs(step: Step, trained: NDArray[np.bool_]) -> None:
    unknown = trained & ~np.isfinite(step.sampling_logprobs)
    if unknown.any():
        numbers = np.unique(step.trajectory_of_token[unknown])
        raise DataError(
            f"use_rl needs the exact ids and the sampling log-prob of every trained action token; {int(unknown.sum())} "
            f"are unknown, in {_names([step.trajectories[n].trajectory_id for n in numbers])}. Traces imported as text "
            f"have none, and none can be computed afterwards: only records of the sampler's ids and log-probs "
            f"(docs/formats/calls.md) have them. {_VERIFIER_FREE}"
        )


def _temperature(step: Step, trained: NDArray[np.bool_]) -> float:
    temperatures = np.unique(step.sampling_temperatures[trained])
    if np.isnan(temperatures).any():
        raise DataError(f"use_rl needs the sampling temperature of every trained action. {_VERIFIER_FREE}")
    if len(temperatures) > 1:
        raise DataError(f"one step has one sampling temperature, found {temperatures.tolist()}")
    return float(temperatures[0]) if len(temperatures) else 1.0


def _counters(step: Step, trained: NDArray[np.bool_], dropped: NDArray[np.bool_]) -> dict[str, int | float]:
    actions = np.stack([step.trajectory_of_token[dropped], step.turns[dropped]])
    return {
        "num_policy_tokens": int(trained.sum()),
        "num_dropped_actions_context_truncated": np.unique(actions, axis=1).shape[1],
        "num_dropped_action_tokens_context_truncated": int(dropped.sum()),
    }


def _no_groups() -> dict[str, int | float]:
    return {"num_groups": 0, "num_zero_variance_groups": 0, **_ungraded(Counter())}


def _ungraded(reasons: Counter[str]) -> dict[str, int | float]:
    return {f"num_rollouts_ungraded_{reason}": reasons[str(reason)] for reason in FAILURES}


def _names(ids: list[str]) -> str:
    return ", ".join(repr(i) for i in ids[:3]) + (f" and {len(ids) - 3} more" if len(ids) > 3 else "")


_VERIFIER_FREE = "Set use_rl = false to train on observations alone, verifier-free"
