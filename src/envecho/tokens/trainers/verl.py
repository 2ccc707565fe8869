"""verl 0.9: an `AgentLoopOutput`, with the masks that it has no field for in `extra_fields`.

`response_mask` is 1 where the policy term trains and 0 elsewhere. Source: verl/experimental/agent_loop/agent_loop.py of
verl 0.9.1.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from envecho.tokens.tokenized import TokenizedTrajectory
from envecho.tokens.trainers.response import response_of


def row(sequence: TokenizedTrajectory, notes: Counter[str]) -> dict[str, Any] | None:
    """Return the row of a sequence, or None where it trains nothing."""
    response = response_of(sequence, notes)
    if response is None:
        return None
    turns = sequence.turns[sequence.turns >= 0]
    return {
        "prompt_ids": response.prompt_ids,
        "response_ids": response.response_ids,
        "response_mask": response.policy_mask,
        "response_logprobs": response.logprobs,
        "reward_score": sequence.reward,
        "num_turns": len(np.unique(turns)),
        "metrics": {},
        "extra_fields": {
            "action_mask": response.action_mask,
            "obs_mask": response.obs_mask,
            "warning_mask": response.warning_mask,
            **response.about,
        },
    }
