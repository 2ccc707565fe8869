"""slime: a `Sample` as `Sample.from_dict` takes it, with the masks of the world beside it.

`loss_mask` is 1 where the policy term trains, over the response. slime's conversion hands `train_metadata` on as the
list `metadata` of its training data, and no further: its trainer fetches a fixed list of fields for each micro-batch
(docs/slime.md). Source: slime/utils/types.py and slime/ray/rollout.py of github.com/THUDM/slime at 624b824, 2026-08-21
(after version 0.3.1), read.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from envecho.tokens.tokenized import TokenizedTrajectory
from envecho.tokens.trainers.response import response_of
from envecho.trajectory import StopReason

_STATUS: Final = {
    StopReason.COMPLETED: "completed",
    StopReason.MAX_TOKENS: "truncated",
    StopReason.MAX_TURNS: "truncated",
    StopReason.TIMEOUT: "failed",
    StopReason.WORLD_ERROR: "failed",
    StopReason.POLICY_ERROR: "failed",
}
"""An unknown reason stays slime's own `pending`."""


def row(sequence: TokenizedTrajectory, notes: Counter[str]) -> dict[str, Any] | None:
    """Return the row of a sequence, or None where it trains nothing.

    slime numbers groups and rollouts (`group_index`, `index`); who makes the samples does that, from `metadata`.
    """
    response = response_of(sequence, notes)
    if response is None:
        return None
    return {
        "tokens": [*response.prompt_ids, *response.response_ids],
        "response_length": len(response.response_ids),
        "loss_mask": response.policy_mask,
        "rollout_log_probs": response.logprobs,
        "reward": sequence.reward,
        "status": _STATUS.get(sequence.stop_reason, "pending"),
        "metadata": response.about,
        "train_metadata": {
            "action_mask": response.action_mask,
            "obs_mask": response.obs_mask,
            "warning_mask": response.warning_mask,
        },
    }
