"""A batch cut into the rows that a server takes, and per-token values put back into their places.

Not here: what coefficients are (`surrogate`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import numpy as np
from numpy.typing import NDArray

from envecho.engines.tinker.service import Logprobs, Row
from envecho.errors import EngineError
from envecho.losses import WeightedBatch


@final
class Parts:
    """The sequences of a batch by number, as slices of its tokens."""

    def __init__(self, batch: WeightedBatch) -> None:
        starts = np.flatnonzero(batch.positions.numpy() == 0)
        stops = [*starts[1:], len(batch.positions)]
        self._ids = batch.token_ids.numpy().astype(np.int32)
        self._slices = [slice(int(start), int(stop)) for start, stop in zip(starts, stops, strict=True)]

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return max((part.stop - part.start for part in self._slices), default=0)

    def ids(self, number: int) -> NDArray[np.int32]:
        """Token ids of a sequence."""
        return self._ids[self._slices[number]]

    def touching(self, mask: NDArray[np.bool_]) -> list[int]:
        """The sequences in which a mask `[token]` marks a token."""
        return [number for number, part in enumerate(self._slices) if mask[part].any()]

    def rows(self, numbers: Sequence[int], coefficients: NDArray[np.float64]) -> list[Row]:
        """The rows of some sequences, with their part of `coefficients` `[token]`."""
        return [
            Row(token_ids=self.ids(n), coefficients=coefficients[self._slices[n]].astype(np.float32)) for n in numbers
        ]

    def fill(self, values: NDArray[np.float64], numbers: Sequence[int], logprobs: Sequence[Logprobs]) -> None:
        """Write the log-probs of some sequences to their tokens; a first token has none."""
        for number, found in zip(numbers, logprobs, strict=True):
            part = self._slices[number]
            values[part][1:] = checked_logprobs(found, part.stop - part.start)


def scored_row(token_ids: NDArray[np.int32]) -> Row:
    """A row for a pass without a gradient: every token but the first is read."""
    coefficients = np.ones(len(token_ids), dtype=np.float32)
    coefficients[:1] = 0.0
    return Row(token_ids=token_ids, coefficients=coefficients)


def checked_logprobs(logprobs: Logprobs, num_tokens: int) -> Logprobs:
    """Return the log-probs of a row of so many tokens as they are.

    Raises:
        EngineError: there is not one for each token but the first.
    """
    if logprobs.shape != (num_tokens - 1,):
        raise EngineError(f"the server told {logprobs.shape} log-probs for a sequence of {num_tokens} tokens")
    return logprobs
