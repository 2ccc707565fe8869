"""`echo_loss`: RFC 010's own function, for whoever has only logits and masks.

Not here: rewards, clips and normalisers of a training run; those are compiled into a `WeightedBatch`.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from envecho.losses.environment import environment_ce
from envecho.losses.policy import reinforce_loss
from envecho.losses.weights import TokenCounts, normalizer_weights


def echo_loss(
    logits: Float[Tensor, "batch token vocab"],
    input_ids: Int[Tensor, "batch token"],
    action_mask: Bool[Tensor, "batch token"],
    obs_mask: Bool[Tensor, "batch token"],
    advantages: Float[Tensor, " batch"],
    *,
    world_model_coeff: float = 0.05,
    use_rl: bool = True,
) -> tuple[Float[Tensor, ""], dict[str, float]]:
    """Return `l_grpo + world_model_coeff * l_env` and its parts as floats (OpenEnv RFC 010).

    `l_grpo = -mean over actions of (advantage * log p)`, `l_env = -mean over observations of log p`, both token means
    over the whole batch, at T = 1. A mask belongs to the TARGET: token i is predicted by `logits[:, i - 1]`, and the
    first token of a row by nothing, so its masks are ignored. A term without tokens is 0. With `world_model_coeff = 0`
    the environment term is reported and left out of the graph; with `use_rl = False` the policy term is 0.

    Example: one row, two actions, one observation.

        input_ids    [[5, 6, 7, 8]]
        action_mask  [[0, 1, 1, 0]]
        obs_mask     [[0, 0, 0, 1]]
        advantages   [1.0]
    """
    num_rows, num_tokens = input_ids.shape
    rows = torch.arange(num_rows, device=input_ids.device).repeat_interleave(max(num_tokens - 1, 0))
    actions, targets = action_mask[:, 1:].flatten(), obs_mask[:, 1:].flatten()
    counts = TokenCounts(
        action_mask=actions, obs_mask=targets, env_mask=targets, sequence_index=rows, num_sequences=num_rows
    )
    policy_weights, env_weights = normalizer_weights("global_token_mean", counts)

    chosen = torch.log_softmax(logits[:, :-1].float() if logits.dtype.itemsize < 4 else logits[:, :-1], dim=-1)
    logprobs = chosen.gather(-1, input_ids[:, 1:, None]).flatten()
    # A masked-out token may have log p = -inf, and 0 * inf is not a number: select, then weigh.
    policy = reinforce_loss(logprobs[actions], advantages[rows[actions]].to(logprobs))
    l_grpo = (policy * policy_weights[actions].to(logprobs)).sum() if use_rl else logprobs.new_zeros(())
    l_env = (environment_ce(logprobs[targets]) * env_weights[targets].to(logprobs)).sum()
    loss = l_grpo + world_model_coeff * l_env if world_model_coeff else l_grpo + 0 * logprobs[:0].sum()
    parts = {"loss": loss.item(), "l_grpo": l_grpo.item(), "l_env": l_env.item()}
    return loss, parts
