"""prime-rl: a `TrainingSample`, whose per-token weight streams say which loss reads a token and what it counts.

`ce_weights` is prime-rl's `alpha` (its default) at every token that the world said and 0 elsewhere: its `ce` component
divides by the number of such tokens in the whole step, which is our rule `global_token_mean`. `advantages` is null: the
trainer broadcasts a group's over the sampled tokens, and refuses a sample that has such tokens and no advantages.
Source: src/prime_rl/transports/rollouts/types.py and orchestrator/algo/echo.py of
github.com/PrimeIntellect-ai/prime-rl at 559b447, 2026-08-21 (version 0.8.0), read.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

import numpy as np

from envecho.tokens.targets import env_target_mask
from envecho.tokens.tokenized import TokenizedTrajectory
from envecho.tokens.trainers.response import about, policy_mask, response_of

DEFAULT_ALPHA: Final = 0.1
"""prime-rl's own weight of a tool message's body, `EchoRoleConfig.alpha`."""


def row(sequence: TokenizedTrajectory, notes: Counter[str]) -> dict[str, Any] | None:
    """Return `sample`, the fields of a `TrainingSample`, beside what names it; None where the sequence trains nothing.

    Arrays are over all tokens, and an entry is about the token at its place. A stream without a member is null.
    """
    if response_of(sequence, notes) is None:
        return None
    env, policy = env_target_mask(sequence), policy_mask(sequence)
    logprobs = np.where(policy, sequence.sampling_logprobs, 0.0)
    temperature = sequence.sampling_temperature
    notes["samples whose sampling temperature is unknown: 1.0"] += temperature is None and bool(policy.any())
    return {
        "sample": {
            "token_ids": sequence.token_ids.tolist(),
            "mask": policy.tolist(),
            "logprobs": [float(value) for value in logprobs],
            "temperatures": [1.0 if temperature is None else temperature] * len(sequence),
            "env_name": "envecho",
            "ce_weights": (DEFAULT_ALPHA * env).tolist() if env.any() else None,
            "advantages": None,
        },
        "reward": sequence.reward,
        **about(sequence),
    }
