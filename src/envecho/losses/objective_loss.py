"""The weighted sum that an engine trains on: hidden states and a `WeightedBatch` in, one loss out.

Not here: how the weights came about (`weights`, `envecho.objective`), the model's body, and devices.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from envecho.errors import DataError
from envecho.losses.batch import WeightedBatch
from envecho.losses.cispo import cispo_loss
from envecho.losses.environment import clipped_ce, environment_ce
from envecho.losses.gspo import gspo_loss
from envecho.losses.head_loss import Head, RowLoss, SummedLoss, summed_loss
from envecho.losses.kernels import summed_loss_at_one
from envecho.losses.logprobs import DEFAULT_CHUNK_SIZE, accumulation_dtype
from envecho.losses.policy import grpo_loss, reinforce_loss
from envecho.losses.regularizers import kl_to_reference, truncated_importance_weights


@dataclass(frozen=True, kw_only=True)
class BatchLoss:
    """The loss of (a part of) a step; losses of parts add up to the loss of the whole.

    `loss` carries the graph; everything else is detached. `policy_logprobs` and `entropies` are at the batch's
    temperature at tokens with a policy, KL or entropy weight, `env_logprobs` at T = 1 at target tokens, NaN elsewhere.
    `kl_loss` and `entropy_loss` are these terms as they stand in `loss`. `clipped` marks the tokens where the clip of
    the policy loss binds.
    """

    loss: Float[Tensor, ""]
    policy_loss: Float[Tensor, ""]
    env_loss: Float[Tensor, ""]
    kl_loss: Float[Tensor, ""]
    entropy_loss: Float[Tensor, ""]
    policy_logprobs: Float[Tensor, " token"]
    entropies: Float[Tensor, " token"]
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
    """Return the loss that `WeightedBatch` states, read in chunks of one term each.

    `hidden[i]` is the state AT token i, which predicts token i + 1 of the same sequence. Actions are read at the
    batch's temperature, targets at T = 1. Targets of weight 0 are read without a gradient in chunks of their own, so
    that logging them leaves every bit of the gradient unchanged. Where no token has a weight the loss is a zero that
    is connected to `hidden` and the head, so that backward works and every parameter gets a gradient.

    Raises:
        DataError: log-probs or ratios that a term needs are missing at a token with a weight of that term.
        ValueError: `hidden` does not have one row per token.
    """
    if hidden.shape[0] != len(batch.token_ids):
        raise ValueError(f"hidden has {hidden.shape[0]} rows, the batch {len(batch.token_ids)} tokens")
    reader = _Reader(hidden, Head(weight=head_weight, bias=head_bias, softcap=softcap, chunk_size=chunk_size), batch)
    policy_rows = torch.nonzero(policy_side(batch)).flatten()
    env_rows = torch.nonzero(batch.env_weights).flatten()
    logged_rows = torch.nonzero(batch.env_targets & (batch.env_weights == 0)).flatten()
    terms = _PolicyTerms(policy_rows, batch, reader.zero)
    policy = reader.actions(policy_rows, terms.loss, batch.temperature)
    env = reader.targets(env_rows, lambda lp, _, place: _env_term(lp, env_rows[place], batch))
    with torch.no_grad():
        logged = reader.targets(logged_rows, lambda lp, _, place: reader.zero)
    assert policy.entropies is not None
    # A term without tokens would cost a gradient of zeros as large as the head; it is connected only where no other is.
    losses = [term.loss for term, rows in ((policy, policy_rows), (env, env_rows)) if len(rows)]
    return BatchLoss(
        loss=torch.stack(losses or [policy.loss, env.loss]).sum(),
        policy_loss=terms.sums["policy"],
        env_loss=env.loss.detach(),
        kl_loss=terms.sums["kl"],
        entropy_loss=terms.sums["entropy"],
        policy_logprobs=_spread(hidden, (policy_rows, policy.logprobs)),
        entropies=_spread(hidden, (policy_rows, policy.entropies)),
        env_logprobs=_spread(hidden, (env_rows, env.logprobs), (logged_rows, logged.logprobs)),
        clipped=_spread(hidden, (policy_rows, terms.clipped)),
    )


class _Reader:
    """Hidden states and a head, and how a batch's tokens are read from them, each from the state before it."""

    def __init__(self, hidden: Tensor, head: Head, batch: WeightedBatch) -> None:
        self._hidden, self._head, self._token_ids = hidden, head, batch.token_ids.to(hidden.device)
        self.zero = torch.zeros((), dtype=accumulation_dtype(hidden.dtype), device=hidden.device)

    def actions(self, rows: Tensor, loss_of: RowLoss, temperature: float) -> SummedLoss:
        states, token_ids = self._at(rows)
        return summed_loss(states, self._head, token_ids, loss_of, temperature=temperature, with_entropies=True)

    def targets(self, rows: Tensor, loss_of: RowLoss) -> SummedLoss:
        states, token_ids = self._at(rows)
        return summed_loss_at_one(states, self._head, token_ids, loss_of)

    def _at(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        rows = rows.to(self._hidden.device)
        return self._hidden[rows - 1], self._token_ids[rows]


class _PolicyTerms:
    """The policy side of the loss at `rows`, chunk by chunk: the sum of each term, and where the clip binds."""

    def __init__(self, rows: Tensor, batch: WeightedBatch, zero: Tensor) -> None:
        self._rows, self._batch = rows, batch
        self.sums = {name: zero.clone() for name in ("policy", "kl", "entropy")}
        self.clipped = torch.zeros(len(rows), dtype=torch.bool, device=zero.device)

    def loss(self, logprobs: Tensor, entropies: Tensor, place: slice) -> Tensor:
        rows = self._rows[place]
        policy, self.clipped[place] = _policy_term(logprobs, rows, self._batch)
        kl, entropy = _kl_term(logprobs, rows, self._batch), _entropy_term(entropies, rows, self._batch)
        found = {"policy": policy, "kl": kl, "entropy": entropy}
        terms = {name: term for name, term in found.items() if term is not None}
        for name, term in terms.items():
            self.sums[name] += term.detach()
        return torch.stack(list(terms.values())).sum()


def loss_of_logprobs(logprobs: Float[Tensor, " token"], batch: WeightedBatch) -> BatchLoss:
    """Return the loss of `batch_loss` from log-probs alone, differentiable in them.

    For an engine that is told log-probs and nothing else, so the actions must be at temperature 1 and without an
    entropy weight. `logprobs[i]` is that of token i at T = 1; where nothing reads a token it may be anything.

    Raises:
        DataError: log-probs or ratios that a term needs are missing at a token with a weight of that term.
        ValueError: the actions are at another temperature, or entropy is weighed.
    """
    policy_rows = torch.nonzero(policy_side(batch)).flatten()
    if (batch.temperature != 1 and len(policy_rows)) or bool((batch.entropy_weights != 0).any()):
        raise ValueError("log-probs at T = 1 tell neither the loss at another temperature nor entropies")
    env_rows = torch.nonzero(batch.env_weights).flatten()
    target_rows = torch.nonzero(batch.env_targets | (batch.env_weights != 0)).flatten()
    policy, clipped = _policy_term(logprobs[policy_rows], policy_rows, batch)
    kl = _kl_term(logprobs[policy_rows], policy_rows, batch)
    env = _env_term(logprobs[env_rows], env_rows, batch)
    zero = policy.detach().new_zeros(())
    return BatchLoss(
        loss=policy + env if kl is None else policy + env + kl,
        policy_loss=policy.detach(),
        env_loss=env.detach(),
        kl_loss=zero if kl is None else kl.detach(),
        entropy_loss=zero,
        policy_logprobs=_spread(logprobs, (policy_rows, logprobs[policy_rows])),
        entropies=torch.full_like(logprobs, torch.nan).detach(),
        env_logprobs=_spread(logprobs, (target_rows, logprobs[target_rows])),
        clipped=_spread(logprobs, (policy_rows, clipped)),
    )


def policy_side(batch: WeightedBatch) -> Tensor:
    """Mask `[token]` of the tokens that the policy, KL or entropy term weighs."""
    return (batch.policy_weights != 0) | (batch.kl_weights != 0) | (batch.entropy_weights != 0)


def _policy_term(logprobs: Tensor, rows: Tensor, batch: WeightedBatch) -> tuple[Tensor, Tensor]:
    """The weighted policy loss, and where its clip binds; rows that only KL or entropy weighs are left out."""
    weights = _at(batch.policy_weights, rows, logprobs)
    places = torch.nonzero(weights).flatten()
    clipped = torch.zeros(len(rows), dtype=torch.bool, device=logprobs.device)
    chosen, chosen_rows = logprobs[places], rows.to(places.device)[places]
    losses, clipped[places] = _policy_losses(chosen, chosen_rows, batch)
    cap = batch.policy_loss.importance_cap
    if cap is not None:
        proximal = _known(batch.proximal_logprobs, "proximal_logprobs", chosen_rows, chosen)
        sampling = _known(batch.sampling_logprobs, "sampling_logprobs", chosen_rows, chosen)
        losses = losses * truncated_importance_weights(proximal, sampling, cap=cap)
    return (losses * weights[places]).sum(), clipped


def _policy_losses(logprobs: Tensor, rows: Tensor, batch: WeightedBatch) -> tuple[Tensor, Tensor]:
    spec, advantages = batch.policy_loss, _at(batch.advantages, rows, logprobs)
    clips = {"clip_low": spec.clip_low, "clip_high": spec.clip_high}
    if spec.name == "sft":
        return reinforce_loss(logprobs, advantages), torch.zeros_like(logprobs, dtype=torch.bool)
    if spec.name == "gspo":
        ratios = _known(batch.sequence_ratios, "sequence_ratios", rows, logprobs)
        return gspo_loss(logprobs, advantages, sequence_ratios=ratios, **clips)
    loss = grpo_loss if spec.name == "grpo" else cispo_loss
    return loss(logprobs, advantages, denominator_logprobs=_denominator(logprobs, rows, batch), **clips)


def _denominator(logprobs: Tensor, rows: Tensor, batch: WeightedBatch) -> Tensor:
    name = batch.policy_loss.ratio_denominator
    if name == "current":
        return logprobs.detach()
    stored = batch.sampling_logprobs if name == "sampling" else batch.proximal_logprobs
    return _known(stored, f"{name}_logprobs", rows, logprobs)


def _known(values: Tensor | None, name: str, rows: Tensor, like: Tensor) -> Tensor:
    if not len(rows):
        # A step whose rollouts all failed has no action; nobody computes log-probs for it.
        return like.new_zeros(0)
    if values is None or not bool(torch.isfinite(values[rows.to(values.device)]).all()):
        raise DataError(
            f"the loss needs {name} at every token with a weight, and some are unknown; a placeholder would scale the"
            f' gradient. Compute them, or state ratio_denominator = "current" for the one step that follows sampling'
        )
    return _at(values, rows, like)


def _kl_term(logprobs: Tensor, rows: Tensor, batch: WeightedBatch) -> Tensor | None:
    places = torch.nonzero(_at(batch.kl_weights, rows, logprobs)).flatten()
    if not len(places):
        return None
    chosen_rows = rows.to(places.device)[places]
    reference = _known(batch.reference_logprobs, "reference_logprobs", chosen_rows, logprobs)
    divergence = kl_to_reference(logprobs[places], reference)
    return (divergence * _at(batch.kl_weights, chosen_rows, logprobs)).sum()


def _entropy_term(entropies: Tensor, rows: Tensor, batch: WeightedBatch) -> Tensor | None:
    weights = _at(batch.entropy_weights, rows, entropies)
    return -(entropies * weights).sum() if bool((weights != 0).any()) else None


def _env_term(logprobs: Tensor, rows: Tensor, batch: WeightedBatch) -> Tensor:
    losses = environment_ce(logprobs)
    clip = batch.policy_loss.env_nll_clip
    if clip is not None:
        losses = clipped_ce(losses, clip=clip)
    return (losses * _at(batch.env_weights, rows, logprobs)).sum()


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
