"""How alike a prediction and the truth are, as texts: one number between 0 and 1.

Not here: whether a model finds the truth likely (`scores`, `questions`).
"""

from __future__ import annotations


def edit_similarity(predicted: str, true: str) -> float:
    """Return `1 - Levenshtein(predicted, true) / length of the longer`; two empty texts are alike, 1.

    The distance counts characters inserted, deleted or replaced (Levenshtein 1966), by `rapidfuzz`.
    """
    from rapidfuzz.distance import Levenshtein

    return float(Levenshtein.normalized_similarity(predicted, true))
