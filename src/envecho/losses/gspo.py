"""GSPO: one ratio for the whole sequence, from a pass without gradient over all parts of the step.

Not here: which tokens form a sequence, and when the ratios are refreshed (`envecho.training`).
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from envecho.losses.policy import clipped_surrogate, finite_denominator


def gspo_loss(
    policy_logprobs: Float[Tensor, " token"],
    advantages: Float[Tensor, " token"],
    *,
    sequence_ratios: Float[Tensor, " token"],
    clip_low: float,
    clip_high: float,
) -> tuple[Float[Tensor, " token"], Bool[Tensor, " token"]]:
    """Return -min(s * A, clip(s, 1 - clip_low, 1 + clip_high) * A) and where the clip binds, per token.

    `s = sequence_ratios * exp(log p - sg(log p))`: its value is the sequence's ratio; its gradient is that of the
    token's log-prob, so that the mean over a sequence's tokens has the gradient of GSPO (arXiv:2507.18071, eq.
    GSPO-token).

    Raises:
        ValueError: a ratio is not finite.
    """
    ratio = finite_denominator(sequence_ratios) * torch.exp(policy_logprobs - policy_logprobs.detach())
    return clipped_surrogate(ratio, advantages, clip_low=clip_low, clip_high=clip_high)


def sequence_ratios(
    policy_logprobs: Float[Tensor, " token"],
    denominator_logprobs: Float[Tensor, " token"],
    *,
    action_mask: Bool[Tensor, " token"],
    trajectory_index: Int[Tensor, " token"],
) -> Float[Tensor, " token"]:
    """Return, at each action, exp(mean over the actions of its trajectory of log p - denominator); 1 elsewhere.

    Branches and windows of one trajectory are one sequence. Nothing here has a gradient.

    Raises:
        ValueError: a denominator is not finite at an action.
    """
    ratios = torch.ones_like(policy_logprobs)
    if not bool(action_mask.any()):
        return ratios
    index = trajectory_index[action_mask]
    difference = policy_logprobs.detach()[action_mask] - finite_denominator(denominator_logprobs[action_mask])
    sums = torch.zeros(int(index.max()) + 1, dtype=difference.dtype, device=difference.device)
    counts = torch.bincount(index, minlength=len(sums)).clamp(min=1)
    ratios[action_mask] = torch.exp(sums.index_add(0, index, difference) / counts)[index]
    return ratios
