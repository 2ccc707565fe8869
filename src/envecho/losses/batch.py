"""`WeightedBatch`: token ids and what every token is worth, the one thing that engines train on.

Not here: where the weights come from (`envecho.objective` calls `losses.weights`), and any model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

PolicyLossName = Literal["grpo", "cispo", "gspo", "sft"]
RatioDenominator = Literal["sampling", "proximal", "current"]


@dataclass(frozen=True, kw_only=True)
class PolicyLossSpec:
    """Which policy loss an engine sums, its clip range [1 - clip_low, 1 + clip_high], and what the ratio is over.

    `grpo`: PPO's clip (Dr. GRPO and DAPO differ from it in advantages, clip and normaliser alone). `cispo`: the clipped
    ratio is a detached weight of log p. `gspo`: the ratio is the sequence's, `WeightedBatch.sequence_ratios`. `sft`:
    plain cross-entropy on the actions, without ratio; advantages multiply it.

    `ratio_denominator`: `sampling` and `proximal` are the batch's log-probs of that name, which must be finite at every
    token with a policy weight. `current` is the current log-prob itself, detached, so that every ratio is 1: true in
    the one optimiser step that follows sampling, and chosen here by the caller, never by an engine that misses data.

    `importance_cap`: truncated importance sampling: the policy loss of a token is multiplied by
    min(exp(proximal - sampling), importance_cap), detached; needs `ratio_denominator = "proximal"`. None: no factor.
    `env_nll_clip`: an environment token whose NLL is above this many nats gets no gradient (its value is clamped);
    None: no clip.
    """

    name: PolicyLossName = "grpo"
    clip_low: float = 0.2
    clip_high: float = 0.2
    ratio_denominator: RatioDenominator = "sampling"
    importance_cap: float | None = None
    env_nll_clip: float | None = None

    def __post_init__(self) -> None:
        if not (self.clip_low >= 0 and self.clip_high >= 0):
            raise ValueError(f"clip_low is {self.clip_low}, clip_high {self.clip_high}; expected numbers from 0 on")
        for name in ("importance_cap", "env_nll_clip"):
            value: float | None = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} is {value}, expected a positive number or None")
        if self.importance_cap is not None and self.ratio_denominator != "proximal":
            raise ValueError(
                f"importance_cap weighs proximal over sampling probability, but ratio_denominator is"
                f" {self.ratio_denominator!r}, which would count the mismatch twice or not at all; expected 'proximal'"
            )


@dataclass(frozen=True, kw_only=True)
class WeightedBatch:
    """All sequences of one optimiser step, flat, with one weight per token and term.

    Shapes are `[token]` over all sequences joined. `token_ids` int64; `positions` int64, 0 at the start of each
    sequence; `sequence_index` int64, non-decreasing from 0. A weight at token i multiplies the loss of predicting token
    i from the tokens before it in its sequence, so every weight is 0 at position 0. The loss is

        sum_i policy_weights[i] * policy_loss_i(advantages[i]) + env_weights[i] * (-log p_{T=1}(token_i | before))
              + kl_weights[i] * k3_i - entropy_weights[i] * H_i

    with k3 = exp(reference - log p) - (reference - log p) - 1 >= 0 over the current log-prob at `temperature`
    (Schulman's low-variance estimator) and H the entropy of the distribution at `temperature` from which the token was
    drawn. `env_targets` bool marks the tokens whose log-prob at T = 1 is reported, also where their weight is 0.
    `sampling_logprobs` is NaN where unknown; `proximal_logprobs` and `reference_logprobs` are None where not used;
    `sequence_ratios` is the detached ratio of a token's whole trajectory, for `gspo` alone. `temperature` is the
    sampling temperature of the actions; the environment term is always at 1.

    Example: two sequences of three and two tokens.

        token_ids       [5, 6, 7,  5, 9]
        positions       [0, 1, 2,  0, 1]
        sequence_index  [0, 0, 0,  1, 1]
        policy_weights  [0, .5, 0, 0, 0]
        env_weights     [0, 0, .1, 0, .1]
    """

    token_ids: Tensor
    positions: Tensor
    sequence_index: Tensor
    policy_weights: Tensor
    advantages: Tensor
    env_weights: Tensor
    env_targets: Tensor
    kl_weights: Tensor
    entropy_weights: Tensor
    sampling_logprobs: Tensor
    proximal_logprobs: Tensor | None = None
    reference_logprobs: Tensor | None = None
    sequence_ratios: Tensor | None = None
    temperature: float = 1.0
    policy_loss: PolicyLossSpec = PolicyLossSpec()

    def __post_init__(self) -> None:
        n = self.token_ids.shape[0]
        for name in self.token_fields():
            value = getattr(self, name)
            if value is not None and tuple(value.shape) != (n,):
                raise ValueError(f"{name} has shape {tuple(value.shape)}, expected ({n},)")
        first = self.positions == 0
        for name in ("policy_weights", "env_weights", "kl_weights", "entropy_weights", "env_targets"):
            if bool((getattr(self, name)[first] != 0).any()):
                raise ValueError(f"{name} is not 0 at position 0, which no token predicts")
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}, expected a positive number")

    @staticmethod
    def token_fields() -> tuple[str, ...]:
        """The names of the `[token]` tensors."""
        return (
            "token_ids",
            "positions",
            "sequence_index",
            "policy_weights",
            "advantages",
            "env_weights",
            "env_targets",
            "kl_weights",
            "entropy_weights",
            "sampling_logprobs",
            "proximal_logprobs",
            "reference_logprobs",
            "sequence_ratios",
        )

    @property
    def num_sequences(self) -> int:
        """How many sequences the batch holds."""
        return int(self.sequence_index[-1]) + 1 if len(self.sequence_index) else 0

    @property
    def effective_lambda(self) -> float | None:
        """sum(env_weights) / sum(policy_weights); None where no token has a policy weight."""
        policy = float(self.policy_weights.double().sum())
        return float(self.env_weights.double().sum()) / policy if policy else None

    def select(self, sequences: list[int]) -> WeightedBatch:
        """Return the part of the batch with these sequences, in this order, renumbered from 0.

        Weights stay as they are: the losses of parts add up to the loss of the whole.
        """
        rows = [torch.nonzero(self.sequence_index == s).flatten() for s in sequences]
        index = torch.cat(rows) if rows else torch.zeros(0, dtype=torch.int64)
        fields = {name: getattr(self, name) for name in self.token_fields()}
        part = {name: None if value is None else value[index] for name, value in fields.items()}
        numbers = [torch.full((len(row),), k, dtype=torch.int64) for k, row in enumerate(rows)]
        part["sequence_index"] = torch.cat(numbers) if numbers else index
        return WeightedBatch(**part, temperature=self.temperature, policy_loss=self.policy_loss)  # type: ignore[arg-type]
