"""What the parts of a batch add up to: `ForwardBackwardOutput` from the losses of its micro-batches.

Not here: any model.
"""

from __future__ import annotations

from typing import final

import numpy as np
from torch import Tensor

from envecho.losses import BatchLoss
from envecho.seam import ForwardBackwardOutput

_TERMS = ("loss", "policy_loss", "env_loss", "kl_loss", "entropy_loss")
_VALUES = ("policy_logprobs", "env_logprobs", "entropies")


@final
class BatchSums:
    """Sums in float64, and one value per token of the whole batch."""

    def __init__(self, num_tokens: int) -> None:
        self._totals = dict.fromkeys(_TERMS, 0.0)
        self._values = {name: np.full(num_tokens, np.nan, dtype=np.float32) for name in _VALUES}
        self._clipped = np.zeros(num_tokens, dtype=np.bool_)

    def add(self, tokens: Tensor, part: BatchLoss) -> None:
        """Add a part whose tokens lie at the places `tokens` of the batch."""
        places = tokens.numpy()
        for name in _TERMS:
            self._totals[name] += float(getattr(part, name).detach())
        for name, values in self._values.items():
            values[places] = getattr(part, name).float().cpu().numpy()
        self._clipped[places] = part.clipped.cpu().numpy()

    def output(self) -> ForwardBackwardOutput:
        """Return what has been added."""
        return ForwardBackwardOutput(
            loss=self._totals["loss"],
            policy_loss=self._totals["policy_loss"],
            env_loss=self._totals["env_loss"],
            kl_loss=self._totals["kl_loss"],
            entropy_loss=self._totals["entropy_loss"],
            policy_logprobs=self._values["policy_logprobs"],
            env_logprobs=self._values["env_logprobs"],
            entropies=self._values["entropies"],
            clipped=self._clipped,
        )
