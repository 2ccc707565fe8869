"""`TokenFacts`: what each token of a pool is, whoever predicts it: the dimensions that figures are sliced by.

Not here: the rules of `token_class` (`token_classes`), scores (`scores`), and means (`sums`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from envecho.evaluation.results import Dimension


@dataclass(frozen=True, kw_only=True)
class FactColumn:
    """One dimension over the tokens of a pool: `codes` `[token]` point into `keys`; -1 where it does not apply.

    Example: the exit statuses of four tokens, of which the last belongs to no command.

        keys   ("0", "1")
        codes  [0, 0, 1, -1]
    """

    keys: tuple[str, ...]
    codes: NDArray[np.int32]


@dataclass(frozen=True, kw_only=True)
class TokenFacts:
    """The facts of a pool's tokens, by dimension; every column is as long as the `PoolTokens` that it belongs to."""

    columns: Mapping[Dimension, FactColumn]
