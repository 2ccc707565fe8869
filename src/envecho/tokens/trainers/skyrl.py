"""SkyRL 0.3 and 0.4: one entry of every list of a `GeneratorOutput`, under the lists' names.

`{name: [row[name] for row in rows]}` is the output of a generator. The `world_*` lists are those that ECHO's reference
code adds to it (github.com/microsoft/echo-rl); SkyRL itself does not know them: `envecho.plugins.skyrl.with_env_masks`
puts them where its loss sees them. Source: skyrl/train/generators/base.py of skyrl 0.3.0 and 0.4.0.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from envecho.tokens.tokenized import TokenizedTrajectory
from envecho.tokens.trainers.response import response_of
from envecho.trajectory import StopReason

_STOP_REASONS: Final = {StopReason.COMPLETED: "stop", StopReason.MAX_TOKENS: "length"}
"""The two that SkyRL compares with; the others keep our word."""


def row(sequence: TokenizedTrajectory, notes: Counter[str]) -> dict[str, Any] | None:
    """Return the row of a sequence, or None where it trains nothing.

    `repetition_id` of `trajectory_ids` and `is_last_step` concern several rows; who writes the rows fills them in.
    """
    response = response_of(sequence, notes)
    if response is None:
        return None
    observed = sum(response.obs_mask) + sum(response.warning_mask)
    return {
        "prompt_token_ids": response.prompt_ids,
        "response_ids": response.response_ids,
        "rewards": sequence.reward,
        "loss_masks": response.policy_mask,
        "stop_reasons": _STOP_REASONS.get(sequence.stop_reason, sequence.stop_reason.value),
        "rollout_logprobs": response.logprobs,
        "trajectory_ids": {"instance_id": sequence.group_id or sequence.task_id, "repetition_id": 0},
        "is_last_step": True,
        "world_loss_masks": response.obs_mask,
        "world_env_masks": response.obs_mask,
        "world_warning_masks": response.warning_mask,
        "world_full_observation_counts": observed,
        "world_model_only": not any(response.policy_mask),
        "trajectory_metadata": response.about,
    }
