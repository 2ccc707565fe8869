"""TRL 1.16: one item of what a `rollout_func` of `GRPOTrainer` returns.

`prompt_ids`, `completion_ids` and `logprobs` are required there; `env_mask` is 1 for the model's tokens and 0 for all
others; other keys go to the reward functions by sample. `env_mask` 0 mixes the world's words with the template's, so
`obs_mask` and `warning_mask` say which are which. Source: trl/trainer/grpo_trainer.py of trl 1.16.0.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from envecho.tokens.tokenized import TokenizedTrajectory
from envecho.tokens.trainers.response import response_of


def row(sequence: TokenizedTrajectory, notes: Counter[str]) -> dict[str, Any] | None:
    """Return the row of a sequence, or None where it trains nothing.

    `logprobs` is null unless every action has one: TRL's mask cannot leave some of them out.
    """
    response = response_of(sequence, notes)
    if response is None:
        return None
    logprobs = response.logprobs if response.has_all_logprobs else None
    notes["rows without log-probs: TRL's policy term must not use them"] += logprobs is None
    return {
        "prompt_ids": response.prompt_ids,
        "completion_ids": response.response_ids,
        "logprobs": logprobs,
        "env_mask": response.action_mask,
        "obs_mask": response.obs_mask,
        "warning_mask": response.warning_mask,
        "env_reward": sequence.reward,
        **response.about,
    }
