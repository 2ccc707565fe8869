"""The weighted sum that an engine trains on: hidden states and a `WeightedBatch` in, one loss out.

Not here: how the weights came about (`weights`, `envecho.objective`), the model's body, and devices.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from envecho.errors import ConfigError, DataError
from envecho.losses.batch import WeightedBatch
from envecho.losses.environment import environment_ce
from envecho.losses.logprobs import DEFAULT_CHUNK_SIZE, read_logprobs
from envecho.losses.policy import grpo_loss


@dataclass(frozen=True, kw_only=True)
class BatchLoss:
    """The loss of (a part of) a step; losses of parts add up to the loss of the whole.

    `loss` carries the graph; everything else is detached. `policy_logprobs` are at the batch's temperature at tokens
    with a policy weight, `env_logprobs` at T = 1 at target tokens, both NaN elsewhere. `clipped` marks the tokens where
    the clip of the policy loss binds.
    """

    loss: Float[Tensor, ""]
    policy_loss: Float[Tensor, ""]
    env_loss: Float[Tensor, ""]
    policy_logprobs: Float[Tensor, " token"]
    env_logprobs: Float[Tensor, " token"]
    clipped: Bool[Tensor, " token"]


def batch_loss(
    hidden: Float[Tensor, "token hidden"],
    head_weight: Float[Tensor, "vocab hidden"],
    batch: WeightedBatch,
    *,
    head_bias: Float[Tensor, " vocab"] | None = None,
    softcap: float | None = None,
    chunk_size: int = DEFAULT_CHUNK_SIZE,
) -> BatchLoss:
    """Return sum(policy_weights * grpo_loss) + sum(env_weights * environment_ce), read in chunks of one term each.

    `hidden[i]` is the state AT token i, which predicts token i + 1 of the same sequence. Actions are read at the
    batch's temperature, targets at T = 1. Targets of weight 0 are read without a gradient in chunks of their own, so
    that logging them leaves every bit of the gradient unchanged. Where no token has a weight the loss is a zero that
    is connected to `hidden` and the head, so that backward works and every parameter gets a gradient.

    Raises:
        ConfigError: the batch has KL or entropy weights; this sum has no such term.
        DataError: the log-probs that the ratio needs are missing at a token with a policy weight.
        ValueError: `hidden` does not have one row per token.
    """
    if hidden.shape[0] != len(batch.token_ids):
        raise ValueError(f"hidden has {hidden.shape[0]} rows, the batch {len(batch.token_ids)} tokens")
    for name in ("kl_weights", "entropy_weights"):
        if bool((getattr(batch, name) != 0).any()):
            raise ConfigError(f"the batch has {name}, but this loss has no such term; leave them 0")
    head = _Head(weight=head_weight, bias=head_bias, softcap=softcap, chunk_size=chunk_size)

    policy_rows = torch.nonzero(batch.policy_weights).flatten()
    env_rows = torch.nonzero(batch.env_weights).flatten()
    logged_rows = torch.nonzero(batch.env_targets & (batch.env_weights == 0)).flatten()

    policy_read = head.read(hidden, batch.token_ids, policy_rows, batch.temperature)
    env_read = head.read(hidden, batch.token_ids, env_rows, 1.0)
    with torch.no_grad():
        logged_read = head.read(hidden, batch.token_ids, logged_rows, 1.0)
    policy, clipped = _policy_term(policy_read, policy_rows, batch)
    env = (environment_ce(env_read) * _at(batch.env_weights, env_rows, env_read)).sum()

    # A term without tokens is a connected zero; its backward pass would cost a gradient of zeros as large as the head,
    # so it joins the graph only where nothing else does.
    terms = [term for term, rows in ((policy, policy_rows), (env, env_rows)) if len(rows)] or [policy, env]
    return BatchLoss(
        loss=torch.stack(terms).sum(),
        policy_loss=policy.detach(),
        env_loss=env.detach(),
        policy_logprobs=_spread(hidden, (policy_rows, policy_read)),
        env_logprobs=_spread(hidden, (env_rows, env_read), (logged_rows, logged_read)),
        clipped=_spread(hidden, (policy_rows, clipped)),
    )


@dataclass(frozen=True, kw_only=True)
class _Head:
    """The output projection, and how it is read."""

    weight: Tensor
    bias: Tensor | None
    softcap: float | None
    chunk_size: int

    def read(self, hidden: Tensor, token_ids: Tensor, rows: Tensor, temperature: float) -> Tensor:
        """Log-probs `[row]` of the tokens at `rows`, each from the state before it."""
        rows = rows.to(hidden.device)
        logprobs, _ = read_logprobs(
            hidden[rows - 1],
            self.weight,
            token_ids.to(hidden.device)[rows],
            temperatures=torch.full(rows.shape, temperature, device=hidden.device, dtype=torch.float64),
            bias=self.bias,
            chunk_size=self.chunk_size,
            softcap=self.softcap,
        )
        return logprobs


def _policy_term(logprobs: Tensor, rows: Tensor, batch: WeightedBatch) -> tuple[Tensor, Tensor]:
    spec = batch.policy_loss
    losses, clipped = grpo_loss(
        logprobs,
        _at(batch.advantages, rows, logprobs),
        denominator_logprobs=_denominator(logprobs, rows, batch),
        clip_low=spec.clip_low,
        clip_high=spec.clip_high,
    )
    return (losses * _at(batch.policy_weights, rows, logprobs)).sum(), clipped


def _denominator(logprobs: Tensor, rows: Tensor, batch: WeightedBatch) -> Tensor:
    name = batch.policy_loss.ratio_denominator
    if name == "current":
        return logprobs.detach()
    stored = batch.sampling_logprobs if name == "sampling" else batch.proximal_logprobs
    if stored is None or not bool(torch.isfinite(stored[rows.to(stored.device)]).all()):
        raise DataError(
            f"the policy loss needs {name}_logprobs at every token with a policy weight, and some are unknown; a "
            f'placeholder would scale the gradient. Compute them, or state ratio_denominator = "current" for the one '
            f"step that follows sampling"
        )
    return _at(stored, rows, logprobs)


def _at(values: Tensor, rows: Tensor, like: Tensor) -> Tensor:
    return values[rows.to(values.device)].to(like)


def _spread(hidden: Tensor, *parts: tuple[Tensor, Tensor]) -> Tensor:
    """Write values `[row]` to their tokens; elsewhere NaN, or False for booleans."""
    values = parts[0][1]
    fill = False if values.dtype == torch.bool else torch.nan
    spread = torch.full((hidden.shape[0],), fill, dtype=values.dtype, device=hidden.device)
    for rows, part in parts:
        spread[rows.to(hidden.device)] = part.detach()
    return spread
