"""What the policy term needs beyond masks: advantages, which actions may be trained, and at which temperature.

Not here: the policy loss (`losses.policy`), and its normaliser.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from envecho.errors import DataError
from envecho.losses import group_advantages
from envecho.objective.config import EchoConfig
from envecho.objective.step import Step


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
        counters = _counters(step, np.zeros_like(step.action_mask), np.zeros_like(step.action_mask))
        return PolicyData(
            trained=np.zeros_like(step.action_mask),
            advantages=np.zeros(len(step.action_mask)),
            temperature=1.0,
            counters=counters | {"num_groups": 0, "num_zero_variance_groups": 0},
        )


def policy_data(step: Step, config: EchoConfig) -> PolicyData:
    """Return what GRPO needs, or say what is unknown; nothing is guessed.

    Raises:
        DataError: a reward or group is unknown, or a trained action has no sampling log-prob or temperature, or the
            temperatures differ.
    """
    groups, num_zero_variance, advantages = _advantages(step, use_std=config.advantage_std)
    dropped = step.action_mask & step.context_truncated
    trained = step.action_mask & ~step.context_truncated
    _check_sampling_logprobs(step, trained)
    return PolicyData(
        trained=trained,
        advantages=advantages[step.trajectory_of_token],
        temperature=_temperature(step, trained),
        counters=_counters(step, trained, dropped)
        | {"num_groups": groups, "num_zero_variance_groups": num_zero_variance},
    )


def _advantages(step: Step, *, use_std: bool) -> tuple[int, int, NDArray[np.float64]]:
    ungraded = [e.trajectory_id for e in step.trajectories if e.reward is None or not np.isfinite(e.reward)]
    if ungraded:
        raise DataError(f"use_rl needs a reward for every trajectory; unknown for {_names(ungraded)}. {_VERIFIER_FREE}")
    ungrouped = [e.trajectory_id for e in step.trajectories if e.group_id is None]
    if ungrouped:
        raise DataError(
            f"use_rl compares rewards within a group; {_names(ungrouped)} have no group_id. {_VERIFIER_FREE}"
        )
    _, group_index = np.unique([str(e.group_id) for e in step.trajectories], return_inverse=True)
    rewards = np.array([e.reward for e in step.trajectories], dtype=np.float64)
    advantages = group_advantages(torch.from_numpy(rewards), torch.from_numpy(group_index), use_std=use_std).numpy()
    num_groups = int(group_index.max()) + 1
    num_zero_variance = sum(len(set(rewards[group_index == g].tolist())) == 1 for g in range(num_groups))
    return num_groups, num_zero_variance, advantages


def _check_sampling_logprobs(step: Step, trained: NDArray[np.bool_]) -> None:
    unknown = trained & ~np.isfinite(step.sampling_logprobs)
    if unknown.any():
        numbers = np.unique(step.trajectory_of_token[unknown])
        raise DataError(
            f"use_rl needs the sampling log-prob of every trained action token; {int(unknown.sum())} are unknown, in "
            f"{_names([step.trajectories[n].trajectory_id for n in numbers])}. {_VERIFIER_FREE}"
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


def _names(ids: list[str]) -> str:
    return ", ".join(repr(i) for i in ids[:3]) + (f" and {len(ids) - 3} more" if len(ids) > 3 else "")


_VERIFIER_FREE = "Set use_rl = false to train on observations alone"
