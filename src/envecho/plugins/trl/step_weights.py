"""What each token of a micro-batch is worth over the whole optimiser step, whichever way TRL cuts the step.

TRL generates for several micro-batches at once and shuffles them; one optimiser step takes
`gradient_accumulation_steps` of them, on every process. `count` adds up what the rules of `losses.weights` need of the
step, three integers, and `token_weights` gives a part exactly the weights of the whole. The gradient is then a plain
sum; what TRL, transformers and accelerate do to it afterwards is an average over processes, and nothing else, which
`trainer` undoes. Not here: the forward pass (`body_reader`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from envecho.errors import EngineError
from envecho.losses import TokenCounts, normalizer_weights
from envecho.losses.weights import StepTotals
from envecho.objective import EchoConfig
from envecho.plugins.trl.row_masks import DROPPED, MULTIPLIERS, OBSERVED, TARGETS, UNPROVED

Inputs = Mapping[str, Any]
"""A micro-batch of TRL: tensors `[row, token]` over padded completions, and ours beside them."""


def action_mask(inputs: Inputs) -> Tensor:
    """Mask `[row, token]` of the tokens that TRL's policy term trains."""
    mask = inputs["completion_mask"]
    return (mask * inputs["tool_mask"] if "tool_mask" in inputs else mask).bool()


def target_mask(inputs: Inputs) -> Tensor:
    """Mask `[row, token]` of the targets; completions that TRL masks out as truncated have none."""
    return inputs[TARGETS] & inputs["completion_mask"].bool()


def count(micro_batches: Sequence[Inputs]) -> Tensor:
    """Actions, targets and sequences `[3]` int64 of these micro-batches; sums over processes give `StepTotals`."""
    device = micro_batches[0][TARGETS].device
    sums = [(action_mask(m).sum(), target_mask(m).sum(), len(m[TARGETS])) for m in micro_batches]
    return torch.tensor([[int(n) for n in counted] for counted in sums], device=device).sum(dim=0)


def totals_of(counted: Tensor) -> StepTotals:
    """Return the three sums over all processes as the rules take them."""
    actions, targets, sequences = counted.tolist()
    return StepTotals(num_action_tokens=actions, num_env_tokens=targets, num_sequences=sequences)


def token_weights(inputs: Inputs, totals: StepTotals, echo: EchoConfig, *, world_model_coeff: float) -> Tensor:
    """Weights `[row, token]` float32 of the environment term, lambda and coefficients folded in."""
    targets = target_mask(inputs)
    rows, length = targets.shape
    observed = inputs[OBSERVED] & inputs["completion_mask"].bool()
    counts = TokenCounts(
        action_mask=action_mask(inputs).flatten(),
        obs_mask=observed.flatten(),
        env_mask=targets.flatten(),
        sequence_index=torch.arange(rows, device=targets.device).repeat_interleave(length),
        num_sequences=rows,
        constant_length=echo.constant_length,
        totals=totals,
    )
    _, unit = normalizer_weights(echo.preset.normalizer, counts)
    return (world_model_coeff * inputs[MULTIPLIERS].flatten().double() * unit).float().reshape(rows, length)


@dataclass(frozen=True, kw_only=True)
class Cut:
    """How TRL cuts a step; `accumulation` is 1 in evaluation, `steps_per_generation` None."""

    loss_type: str
    accumulation: int
    steps_per_generation: int | None
    num_processes: int
    max_completion_length: int


def policy_weight(inputs: Inputs, cut: Cut) -> float:
    """Return what the weights of TRL's own loss add up to in this micro-batch of this process.

    Summed over the step it is what lambda is relative to: 1 for all but `dr_grpo` and `luspo`, which weigh a sequence
    by its length, and for `dapo`, `cispo` and `vespo` where a generation serves several optimiser steps.

    Raises:
        EngineError: there is no such loss_type.
    """
    mask = action_mask(inputs)
    share = 1 / (cut.accumulation * cut.num_processes)
    lengths = mask.sum(dim=1)
    if cut.loss_type in ("grpo", "sapo"):
        return share * float((lengths > 0).float().mean())
    if cut.loss_type == "bnpo":
        return share * float(mask.any())
    if cut.loss_type == "dr_grpo":
        return share * float(lengths.sum()) / (len(mask) * cut.max_completion_length)
    if cut.loss_type == "luspo":
        return share * float(lengths.float().mean())
    if cut.loss_type in ("dapo", "cispo", "vespo"):
        of_generation = float(inputs["num_items_in_batch"].clamp(min=1.0))
        part = 1.0 if cut.steps_per_generation is None else cut.accumulation / cut.steps_per_generation
        return float(lengths.sum()) / (of_generation * part)
    raise EngineError(f"TRL's loss_type {cut.loss_type!r} is unknown here, so the effective lambda cannot be told")


def num_dropped(inputs: Inputs) -> int:
    """Tokens of observation that TRL left out: results beyond the length limit, and completions that it masks out."""
    masked = inputs[TARGETS] & ~inputs["completion_mask"].bool()
    return int(inputs[DROPPED].sum()) + int(masked.sum())


def num_unproved(inputs: Inputs) -> int:
    """Rows whose observations could not be told from scaffold."""
    return int(inputs[UNPROVED].sum())
