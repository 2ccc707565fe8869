"""What keeps a policy near a reference and open to exploration: KL per token, and truncated importance weights.

Not here: the entropy of a distribution (`logprobs` reads it from the logits), and coefficients (`envecho.objective`).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from envecho.losses.policy import finite_denominator


def kl_to_reference(
    policy_logprobs: Float[Tensor, " token"], reference_logprobs: Float[Tensor, " token"]
) -> Float[Tensor, " token"]:
    """Return exp(d) - d - 1 with d = reference - policy: Schulman's k3, at least 0, unbiased for tokens of the policy.

    Differentiable in `policy_logprobs`; both at the sampling temperature (as in GRPO, arXiv:2402.03300).

    Raises:
        ValueError: a reference log-prob is not finite.
    """
    difference = finite_denominator(reference_logprobs) - policy_logprobs
    return torch.exp(difference) - difference - 1


def truncated_importance_weights(
    proximal_logprobs: Float[Tensor, " token"], sampling_logprobs: Float[Tensor, " token"], *, cap: float
) -> Float[Tensor, " token"]:
    """Return min(exp(proximal - sampling), cap), detached: what a sampler that differs from the trainer owes per token.

    Truncated importance sampling (Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy").

    Raises:
        ValueError: a log-prob is not finite.
    """
    return torch.exp(finite_denominator(proximal_logprobs) - finite_denominator(sampling_logprobs)).clamp(max=cap)
