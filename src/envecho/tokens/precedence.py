"""The rule for a token that lies over several spans, as arrays: the source of the lowest rank names it.

Not here: the rule itself (`source_precedence`, level 0).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from envecho.trajectory import SOURCES, source_precedence

_BY_RANK = sorted(SOURCES, key=source_precedence)
SOURCE_RANK: NDArray[np.uint8] = np.array([_BY_RANK.index(source) for source in SOURCES], dtype=np.uint8)
"""`SOURCE_RANK[code]`: 0 is taken before all others."""

CODE_OF_RANK: NDArray[np.uint8] = np.array([source.code for source in _BY_RANK], dtype=np.uint8)
"""`CODE_OF_RANK[SOURCE_RANK[code]] == code`."""
