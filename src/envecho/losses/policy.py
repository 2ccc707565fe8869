"""Policy losses per token: pure tensors in, per-token values out.

Not here: normalisers, advantages, and which tokens are actions.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def grpo_loss(
    policy_logprobs: Float[Tensor, " token"],
    advantages: Float[Tensor, " token"],
    *,
    denominator_logprobs: Float[Tensor, " token"],
    clip_low: float,
    clip_high: float,
) -> tuple[Float[Tensor, " token"], Bool[Tensor, " token"]]:
    """Return -min(ratio * A, clip(ratio, 1 - clip_low, 1 + clip_high) * A) and where the clip binds, per token.

    `ratio = exp(policy_logprobs - denominator_logprobs)`; the denominator is data (proximal or sampling log-probs, at
    the temperature of `policy_logprobs`) and gets no gradient. PPO's clip (arXiv:1707.06347) with GRPO's advantages.
    Where the clip binds the gradient is 0. Passing `policy_logprobs` itself makes every ratio 1, which is right in the
    first optimiser step after sampling only: the caller must say so.

    Raises:
        ValueError: a denominator is not finite; a placeholder there scales the gradient by the token's own probability.
    """
    ratio = torch.exp(policy_logprobs - finite_denominator(denominator_logprobs))
    return clipped_surrogate(ratio, advantages, clip_low=clip_low, clip_high=clip_high)


def clipped_surrogate(
    ratio: Float[Tensor, " token"], advantages: Float[Tensor, " token"], *, clip_low: float, clip_high: float
) -> tuple[Float[Tensor, " token"], Bool[Tensor, " token"]]:
    """Return -min(ratio * A, clip(ratio, 1 - clip_low, 1 + clip_high) * A) and where the clip binds, per token."""
    plain = ratio * advantages
    limited = ratio.clamp(1 - clip_low, 1 + clip_high) * advantages
    clipped = limited < plain
    # Not torch.minimum: at a tie it halves the gradient and adds the halves, which is inexact for tiny advantages.
    return -torch.where(clipped, limited, plain), clipped


def finite_denominator(denominator_logprobs: Float[Tensor, " token"]) -> Float[Tensor, " token"]:
    """Return the denominator as data, without a gradient.

    Raises:
        ValueError: it is not finite everywhere; a placeholder scales the gradient by the token's own probability.
    """
    denominator = denominator_logprobs.detach()
    if not bool(torch.isfinite(denominator).all()):
        raise ValueError("denominator log-probs must be finite at every token that has a policy weight")
    return denominator


def reinforce_loss(
    policy_logprobs: Float[Tensor, " token"], advantages: Float[Tensor, " token"]
) -> Float[Tensor, " token"]:
    """Return -A * log p per token: the policy gradient of RFC 010's own function (Williams 1992).

    Its gradient is that of `grpo_loss` at ratio 1; its value is another one.
    """
    return -advantages * policy_logprobs
