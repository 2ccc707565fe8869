"""The environment term: how surprised the model is by what the world answered."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def environment_ce(env_logprobs: Float[Tensor, " token"]) -> Float[Tensor, " token"]:
    """Return the cross-entropy -log p(token | before) per token, in nats (ECHO, arXiv:2605.24517).

    The log-probs must be at temperature 1, whatever the actions were sampled at: those of divided logits are another
    model's. There is no ratio, clip or KL: no sampler drew these tokens.
    """
    return -env_logprobs


def clipped_ce(losses: Float[Tensor, " token"], *, clip: float) -> Float[Tensor, " token"]:
    """Return min(loss, clip): a token that surprises by more than `clip` nats keeps its value there and no gradient.

    A guard against noise: what no model can know (random names, clocks) has a high loss and a gradient that never
    falls. It also hides what is merely not learnt yet, so it is off by default.
    """
    return losses.clamp(max=clip)
