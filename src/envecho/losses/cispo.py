"""CISPO: the clipped ratio weighs the log-prob and is never differentiated, so no token loses its gradient.

Not here: PPO's clip (`policy`), normalisers and advantages.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from envecho.losses.policy import finite_denominator


def cispo_loss(
    policy_logprobs: Float[Tensor, " token"],
    advantages: Float[Tensor, " token"],
    *,
    denominator_logprobs: Float[Tensor, " token"],
    clip_low: float,
    clip_high: float,
) -> tuple[Float[Tensor, " token"], Bool[Tensor, " token"]]:
    """Return -sg(clip(ratio, 1 - clip_low, 1 + clip_high)) * A * log p and where the clip binds, per token.

    `ratio = exp(policy_logprobs - denominator_logprobs)`, `sg` stops the gradient (MiniMax-M1, arXiv:2506.13585, which
    uses the upper clip alone: clip_low = 1).

    Raises:
        ValueError: a denominator is not finite.
    """
    ratio = torch.exp(policy_logprobs.detach() - finite_denominator(denominator_logprobs))
    limited = ratio.clamp(1 - clip_low, 1 + clip_high)
    return -limited * advantages * policy_logprobs, limited != ratio
