"""What is divided by what: each normaliser of the field as one weight per token, counted over the optimiser step.

Every rule is linear in the per-token losses with factors that depend on masks and counts alone, so it can be compiled
into weights once; engines then only sum. Not here: lambda, coefficients and roles (`envecho.objective`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

NormalizerName = Literal[
    "reference_sequence_mean",
    "sequence_mean_selected",
    "global_token_mean",
    "constant_length",
    "verl_token_mean",
    "trl_token_mean",
]
"""The rules by name; all but `trl_token_mean` are free of the micro-batch split."""

SPLIT_RULES: frozenset[str] = frozenset({"trl_token_mean"})
"""Rules whose weights depend on how the step is cut into micro-batches: they claim no partition invariance."""


@dataclass(frozen=True, kw_only=True)
class StepTotals:
    """What the whole optimiser step holds, where the tokens at hand are a part of it (a rank, a micro-batch).

    Summed over all parts: `num_action_tokens`, `num_env_tokens` (targets) and `num_sequences`. No rule needs more, so a
    trainer that adds up three integers over its processes gets the weights of the whole step.
    """

    num_action_tokens: int
    num_env_tokens: int
    num_sequences: int


@dataclass(frozen=True, kw_only=True)
class TokenCounts:
    """What a normaliser may look at; masks and indices are `[token]` over the whole optimiser step.

    `action_mask`: tokens of the policy. `obs_mask`: the whole observation, warnings counted, scaffold not.
    `env_mask`: the observation tokens that are targets. `sequence_index`: the trajectory of each token, branches and
    windows of one trajectory under one number. `num_sequences`: all trajectories, those without a token of a kind
    included. `constant_length` and `micro_batch_index` (`[token]`) are for the one rule each that needs them.

    `totals` says what the step holds beyond these tokens; None: they are the step. A part must hold every sequence of
    which it holds a token whole, and `num_sequences` is then the part's own.

    Example: two trajectories; the second has no observation.

        sequence_index  [0, 0, 0, 0, 1, 1]
        action_mask     [0, 1, 0, 0, 0, 1]
        obs_mask        [0, 0, 1, 1, 0, 0]
        env_mask        [0, 0, 0, 1, 0, 0]
        num_sequences   2
    """

    action_mask: Bool[Tensor, " token"]
    obs_mask: Bool[Tensor, " token"]
    env_mask: Bool[Tensor, " token"]
    sequence_index: Int[Tensor, " token"]
    num_sequences: int
    constant_length: int | None = None
    micro_batch_index: Int[Tensor, " token"] | None = None
    totals: StepTotals | None = None

    @property
    def step(self) -> StepTotals:
        """What the whole optimiser step holds."""
        if self.totals is not None:
            return self.totals
        return StepTotals(
            num_action_tokens=int(self.action_mask.sum()),
            num_env_tokens=int(self.env_mask.sum()),
            num_sequences=self.num_sequences,
        )

    def __post_init__(self) -> None:
        shape = self.action_mask.shape
        for name in ("obs_mask", "env_mask", "sequence_index", "micro_batch_index"):
            value: Tensor | None = getattr(self, name)
            if value is not None and value.shape != shape:
                raise ValueError(f"{name} has shape {tuple(value.shape)}, expected {tuple(shape)}")
        if len(self.sequence_index) and int(self.sequence_index.max()) >= self.num_sequences:
            raise ValueError(f"sequence_index names more than num_sequences = {self.num_sequences} sequences")


TokenWeights = tuple[Float[Tensor, " token"], Float[Tensor, " token"]]
"""`(policy_weights, env_weights_unit)`: the second is before lambda and coefficients."""


def normalizer_weights(name: NormalizerName, counts: TokenCounts) -> TokenWeights:
    """Return float64 `(policy_weights, env_weights_unit)` `[token]` of the rule with this name.

    The loss is `sum(policy_weights * policy_loss) + world_model_coeff * sum(env_weights_unit * nll)`. Tokens outside
    `action_mask` have policy weight 0 and tokens outside `env_mask` env weight 0. What is absent gives zero weights.

    Raises:
        ValueError: the rule needs `constant_length` or `micro_batch_index` and it is not given.
    """
    return _RULES[name](counts)


def reference_sequence_mean(counts: TokenCounts) -> TokenWeights:
    """ECHO's reference code (microsoft/echo-rl on SkyRL).

    Per sequence: actions over their number, targets over the WHOLE observation length (warnings counted, template
    scaffold not); then the mean over all sequences. A sequence without observation still counts in that mean.
    """
    policy = _sequence_mean(counts, counts.action_mask, counts.action_mask)
    return policy, _sequence_mean(counts, counts.env_mask, counts.obs_mask)


def sequence_mean_selected(counts: TokenCounts) -> TokenWeights:
    """The verl recipe in sequence mode: as the reference, but targets are divided by the number of targets."""
    policy = _sequence_mean(counts, counts.action_mask, counts.action_mask)
    return policy, _sequence_mean(counts, counts.env_mask, counts.env_mask)


def global_token_mean(counts: TokenCounts) -> TokenWeights:
    """prime-rl, and OpenEnv's toy: each term over the number of its own tokens in the whole step."""
    step = counts.step
    return (
        _over(counts.action_mask, torch.tensor(step.num_action_tokens)),
        _over(counts.env_mask, torch.tensor(step.num_env_tokens)),
    )


def constant_length(counts: TokenCounts) -> TokenWeights:
    """Dr. GRPO: both sums over `constant_length`, then the mean over sequences, so long sequences weigh more.

    The effective lambda is lambda * num targets / num actions.
    """
    if counts.constant_length is None or counts.constant_length < 1:
        raise ValueError(f"constant_length is {counts.constant_length}: this rule needs a positive length, explicitly")
    total = torch.tensor(counts.constant_length * counts.step.num_sequences)
    return _over(counts.action_mask, total), _over(counts.env_mask, total)


def verl_token_mean(counts: TokenCounts) -> TokenWeights:
    """verl and rLLM in token-mean mode, as they are: BOTH sums over the number of ACTION tokens of the step.

    The effective lambda is lambda * num targets / num actions: nearly 8 times the nominal one on a real episode. A step
    without an action has no environment term either: do not train verifier-free under this rule.
    """
    total = torch.tensor(counts.step.num_action_tokens)
    return _over(counts.action_mask, total), _over(counts.env_mask, total)


def trl_token_mean(counts: TokenCounts) -> TokenWeights:
    """OpenEnv's TRL demo, as it is: TRL scales its own loss to the whole step, but not the added term.

    Actions over their number in the step; targets over their number in their MICRO-BATCH, once per micro-batch. The
    effective lambda is lambda * number of micro-batches. Needs `micro_batch_index`; the split-free twin is
    `global_token_mean`.
    """
    if counts.micro_batch_index is None:
        raise ValueError("trl_token_mean is a mean per micro-batch: it needs micro_batch_index, explicitly")
    per_token = _count_per(counts.env_mask, counts.micro_batch_index)
    return _over(counts.action_mask, torch.tensor(counts.step.num_action_tokens)), _over(counts.env_mask, per_token)


_RULES: dict[str, Callable[[TokenCounts], TokenWeights]] = {
    "reference_sequence_mean": reference_sequence_mean,
    "sequence_mean_selected": sequence_mean_selected,
    "global_token_mean": global_token_mean,
    "constant_length": constant_length,
    "verl_token_mean": verl_token_mean,
    "trl_token_mean": trl_token_mean,
}


def _over(mask: Tensor, total: Tensor) -> Tensor:
    """1/total on the mask, 0 elsewhere and where the total is 0."""
    total = total.to(torch.float64)
    inverse = torch.where(total > 0, 1 / total.clamp(min=1), 0.0)
    return torch.where(mask, inverse, 0.0)


def _count_per(mask: Tensor, index: Tensor) -> Tensor:
    """For each token, how many masked tokens share its index."""
    if not len(index):
        return torch.zeros(0, dtype=torch.int64)
    return torch.bincount(index, weights=mask.to(torch.float64), minlength=int(index.max()) + 1)[index]


def _sequence_mean(counts: TokenCounts, numerator: Tensor, denominator: Tensor) -> Tensor:
    return _over(numerator, _count_per(denominator, counts.sequence_index) * counts.step.num_sequences)
