"""What the rollouts of a step say about the policy; docs/metrics.md defines every key.

Pure functions of trajectories and of what an engine returned. Not here: the rest of a row (`health`), and alarms.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envecho.losses import WeightedBatch
from envecho.rollout import RolloutStats
from envecho.seam import ForwardBackwardOutput
from envecho.training.alarms import foreign_text_fraction
from envecho.trajectory import CallOutcome, Message, Role, StopReason, Trajectory, call_outcomes

_WORLD_COUNTS = ("num_lost", "num_retried", "num_capacity_waits", "num_deadlines", "num_abandoned")


def rollout_row(trajectories: Sequence[Trajectory]) -> dict[str, Any]:
    """Return solve rate, variety, calls, turns and stop reasons of the rollouts of a step."""
    rewards = [t.reward for t in trajectories if t.reward is not None]
    actions = [m for t in trajectories for m in t.messages if m.role == "assistant"]
    outputs = [text for t in trajectories for text in _outputs(t)]
    outcomes = Counter(outcome for t in trajectories for outcome in call_outcomes(t))
    num_calls = sum(outcomes.values())
    lengths = [len(m.sampled.token_ids) for m in actions if m.sampled is not None]
    stops = Counter(str(t.stop_reason) for t in trajectories)
    return {
        "solve_rate": _share(sum(reward >= 1 for reward in rewards), len(rewards)),
        "mean_reward": _mean(rewards),
        "num_rollouts": len(trajectories),
        "num_rollouts_graded": len(rewards),
        "distinct_command_fraction": _share(len({m.content for m in actions}), len(actions)),
        "distinct_output_fraction": _share(len(set(outputs)), len(outputs)),
        "invalid_call_fraction": _share(outcomes[CallOutcome.INVALID], num_calls),
        "unparsed_call_fraction": _share(outcomes[CallOutcome.UNPARSED], num_calls),
        "foreign_text_fraction": foreign_text_fraction(trajectories),
        "mean_turns": _share(len(actions), len(trajectories)),
        "mean_tokens_per_turn": _mean(lengths),
        "num_sampled_tokens": sum(lengths),
        "num_cut_turns": sum(int(t.metadata.get("num_cut_turns", 0)) for t in trajectories),
        **{name: count for name, count in RolloutStats.of(trajectories).row().items() if name in _WORLD_COUNTS},
        "stop_reasons": {reason.value: stops[reason.value] for reason in StopReason if stops[reason.value]},
    }


def policy_row(batch: WeightedBatch, output: ForwardBackwardOutput) -> dict[str, float | None]:
    """Return entropy, ratio, clip and divergence statistics over the tokens with a policy weight.

    The ratio is exp(policy - sampling log-prob). Before the first update of a step it differs from 1 by what sampler
    and trainer compute differently; `sampler_kl` is the mean of k3 of that difference. `action_entropy` is None where
    the engine knows no entropy.
    """
    rows = (batch.policy_weights != 0).numpy()
    known = rows & np.isfinite(output.policy_logprobs) & np.isfinite(batch.sampling_logprobs.numpy())
    difference = (output.policy_logprobs - batch.sampling_logprobs.numpy())[known].astype(np.float64)
    ratio = np.exp(difference)
    kl: float | None = None
    if batch.reference_logprobs is not None:
        d = (batch.reference_logprobs.numpy() - output.policy_logprobs)[rows].astype(np.float64)
        kl = _mean_of(np.exp(d) - d - 1)
    entropies = output.entropies[rows].astype(np.float64)
    return {
        "action_entropy": None if np.isnan(entropies).all() else _mean_of(entropies),
        "ratio_mean": _mean_of(ratio),
        "ratio_max": float(ratio.max()) if len(ratio) else None,
        "clip_fraction": _mean_of(output.clipped[rows].astype(np.float64)),
        "sampler_mismatch": _mean_of(np.abs(difference)),
        "sampler_kl": _mean_of(np.exp(-difference) + difference - 1),
        "kl_to_reference": kl,
    }


def _outputs(trajectory: Trajectory) -> list[str]:
    """What the world answered to each action, without the harness's words; silence is an answer too."""
    acted = False
    found: list[str] = []
    for message in trajectory.messages:
        acted = acted or message.role == "assistant"
        if acted and message.role != "assistant":
            found.append(_body(message))
    return found


def _body(message: Message) -> str:
    return "".join(segment.text for segment in message.segments if segment.source.role is Role.ENV_OUTPUT)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _mean_of(values: NDArray[np.float64]) -> float | None:
    return float(values.mean()) if len(values) else None
