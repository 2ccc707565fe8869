"""The gradient that a server holds: coefficients go out so that, after its own divisions, the sum is ours.

Not here: how the division was found (`probe`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from envecho.engines.tinker.probe import ServerFacts
from envecho.engines.tinker.service import Logprobs, RemoteModel, Row, Waiting


@final
class Accumulation:
    """What has been sent since the last step.

    A server of `sum` gets the coefficients as they are. A server of `sequence_mean` divides each row by its number of
    targets and everything by the number of rows since the last step, so coefficients go out times both. A second call
    before the step changes that number under the rows that are there; they are sent again with what they then lack:
    C0 rows hold C0 times their gradient, and C rows must hold C times everything.
    """

    def __init__(self, facts: ServerFacts) -> None:
        self._facts = facts
        self._sent: list[Row] = []
        self._num_rows = 0

    @property
    def exists(self) -> bool:
        """Whether a gradient is accumulated."""
        return bool(self._sent)

    def clear(self) -> None:
        """Forget it: a step has used it, or other weights were loaded."""
        self._sent, self._num_rows = [], 0

    def send(self, model: RemoteModel, rows: Sequence[Row]) -> Waiting:
        """Add rows with a coefficient; the answer holds the log-probs of these rows."""
        if not rows:
            return _nothing
        if self._facts.reduction == "sum":
            self._sent += rows
            return model.forward_backward(rows, "cross_entropy")
        known = list(self._sent)
        total = self._num_rows + len(known) + len(rows)
        again = [_scaled(row, total - self._num_rows) for row in known]
        waiting = model.forward_backward([*again, *(_scaled(row, total) for row in rows)], "pinned_ratio")
        self._sent += rows
        self._num_rows = total
        return _LastOf(waiting=waiting, count=len(rows))


@dataclass(frozen=True, kw_only=True)
class _LastOf:
    waiting: Waiting
    count: int

    def __call__(self) -> list[Logprobs]:
        return self.waiting()[-self.count :]


def _nothing() -> list[Logprobs]:
    return []


def _scaled(row: Row, num_rows: int) -> Row:
    factor = np.float64(num_rows * (len(row.token_ids) - 1))
    scaled = (row.coefficients.astype(np.float64) * factor).astype(np.float32)
    return Row(token_ids=row.token_ids, coefficients=scaled)
