"""`WeightedBatch` -> one coefficient per token, so that a server which only sums `coefficient * -log p` trains ECHO.

The loss is a function of the log-probs l that the server computes, so its gradient in the weights is that of

    sum_i coefficient_i * -l_i        with  coefficient_i = -dL/dl_i, a constant

For cross-entropy, and for a policy ratio of 1, coefficients are known before any pass. Where they depend on l (a ratio
over stored log-probs, a KL, a clip of the environment term) they are taken at the l of a pass without a gradient under
the same weights. Not here: how a server divides what it sums (`probe`).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from envecho.errors import EngineError
from envecho.losses import WeightedBatch, loss_of_logprobs, policy_side


def refuse_inexpressible(batch: WeightedBatch) -> None:
    """Refuse a batch whose loss is no function of the log-probs at T = 1.

    Raises:
        EngineError: actions are read at another temperature, or entropy is weighed.
    """
    if batch.temperature != 1 and bool(policy_side(batch).any()):
        raise EngineError(
            f"the actions were sampled at temperature {batch.temperature}, and the API knows log-probs at T = 1 alone;"
            " sample at temperature 1"
        )
    if bool((batch.entropy_weights != 0).any()):
        raise EngineError("the API tells no entropies, so entropy cannot be rewarded; set policy.entropy_coeff = 0")


def needs_logprobs(batch: WeightedBatch) -> bool:
    """Whether a coefficient depends on the current log-probs, so that a pass without a gradient comes first."""
    spec = batch.policy_loss
    if bool((batch.kl_weights != 0).any()):
        return True
    if spec.env_nll_clip is not None and bool((batch.env_weights != 0).any()):
        return True
    if not bool((batch.policy_weights != 0).any()) or spec.name in ("sft", "gspo"):
        return False
    return spec.ratio_denominator != "current"


def coefficients(batch: WeightedBatch, logprobs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return -dL/dl `[token]` at the log-probs l `[token]` (any finite numbers where `needs_logprobs` is false)."""
    leaf = torch.from_numpy(logprobs).requires_grad_()
    loss = loss_of_logprobs(leaf, batch).loss
    (gradient,) = torch.autograd.grad(loss, leaf)
    return -gradient.numpy()
