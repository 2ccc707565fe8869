"""Tinker: a `Datum` for each of the two terms, as the service takes them.

    env       for the loss `cross_entropy`: loss_fn_inputs target_tokens, weights
    policy    for `importance_sampling`, `ppo` or `cispo`: target_tokens, logprobs, mask; the trainer computes the
              advantage of the rollout in its group, adds `advantages = advantage * mask`, and takes `mask` out

The model reads tokens `[0, n - 1)` and predicts tokens `[1, n)`: entry k of every array is about token k + 1. Source:
tinker/types of tinker 0.25.0.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envecho.tokens.targets import env_target_mask
from envecho.tokens.tokenized import TokenizedTrajectory
from envecho.tokens.trainers.response import policy_mask, response_of


def row(sequence: TokenizedTrajectory, notes: Counter[str]) -> dict[str, Any] | None:
    """Return the row of a sequence, or None where it trains nothing; a term without tokens is null."""
    response = response_of(sequence, notes)
    if response is None:
        return None
    env, policy = env_target_mask(sequence), policy_mask(sequence)
    logprobs = np.where(policy, sequence.sampling_logprobs, 0.0)
    targets = {"target_tokens": _tensor(sequence.token_ids, "int64")}
    return {
        "env": _datum(sequence, targets | {"weights": _tensor(env, "float32")}) if env.any() else None,
        "policy": _datum(
            sequence, targets | {"logprobs": _tensor(logprobs, "float32"), "mask": _tensor(policy, "float32")}
        )
        if policy.any()
        else None,
        "reward": sequence.reward,
        **response.about,
    }


def _datum(sequence: TokenizedTrajectory, inputs: dict[str, Any]) -> dict[str, Any]:
    chunk = {"type": "encoded_text", "tokens": sequence.token_ids[:-1].tolist()}
    return {"model_input": {"chunks": [chunk]}, "loss_fn_inputs": inputs}


def _tensor(values: NDArray[Any], dtype: str) -> dict[str, Any]:
    """What is known of every token, as a tensor over the predicted ones."""
    shifted = values[1:].astype(np.int64 if dtype == "int64" else np.float32).tolist()
    return {"data": shifted, "dtype": dtype, "shape": [len(shifted)]}
