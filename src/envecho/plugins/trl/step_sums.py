"""What one optimiser step came to, summed over its micro-batches and processes, as the numbers of a log line.

Not here: TRL's own metrics.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, fields
from typing import final

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class StepSums:
    """Sums over (a part of) a step, each a number: nats over the targets at T = 1, counts, losses and weights."""

    env_nats: float = 0.0
    num_env_tokens: float = 0.0
    env_loss: float = 0.0
    env_weight: float = 0.0
    policy_weight: float = 0.0
    num_env_tokens_dropped: float = 0.0
    num_rows_unproved: float = 0.0

    def __add__(self, other: StepSums) -> StepSums:
        return StepSums(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    def as_tensor(self, device: torch.device) -> Tensor:
        """The sums in the order of the fields."""
        return torch.tensor([getattr(self, f.name) for f in fields(self)], device=device)

    @staticmethod
    def of_tensor(sums: Tensor) -> StepSums:
        """Read what `as_tensor` wrote."""
        return StepSums(**dict(zip((f.name for f in fields(StepSums)), sums.tolist(), strict=True)))


@final
class LogLine:
    """The numbers of the steps since the last log line; each is the mean over the steps that have one, as TRL's are."""

    def __init__(self) -> None:
        self._values: defaultdict[str, list[float]] = defaultdict(list)

    def add(self, step: StepSums, *, world_model_coeff: float) -> None:
        """Take in one step, over all processes."""
        told = {
            "env_ce": step.env_nats / step.num_env_tokens if step.num_env_tokens else None,
            "env_loss": step.env_loss,
            "world_model_coeff": world_model_coeff,
            "effective_lambda": step.env_weight / step.policy_weight if step.policy_weight else None,
            "num_env_tokens": step.num_env_tokens,
            "num_env_tokens_dropped": step.num_env_tokens_dropped,
            "num_rows_unproved": step.num_rows_unproved,
        }
        for name, value in told.items():
            if value is not None:
                self._values[name].append(value)

    def take(self, prefix: str) -> dict[str, float]:
        """Return the line and begin the next."""
        line = {f"{prefix}{name}": sum(values) / len(values) for name, values in self._values.items()}
        self._values.clear()
        return line
