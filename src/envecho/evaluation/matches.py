"""`EpisodeMatches`: where the last tokens of an episode occurred before in the same episode.

Both copy baselines adapt to the episode through this one structure; it holds what was observed up to now and never
looks ahead. Not here: what was seen in training (`ngram`), and probabilities.
"""

from __future__ import annotations

from typing import Any, final

import numpy as np
from numpy.typing import NDArray


@final
class EpisodeMatches:
    """Walks over the tokens of one episode; `position` is the token that comes next, everything before it is known.

    `lengths[j]`, for each earlier position j, is how many tokens before j equal the tokens before `position`: a match
    of length 3 at j says that the last three tokens occurred before, and that token j followed them.

    `prediction` copies: the token after the longest match, the most recent one of several; None where no last token
    occurred before. `match_length` is its length, `agrees` whether all longest matches were followed by that token,
    `streak` how many predictions in a row came true.

    Example: after a b c a b the longest match of "a b" is at position 2, so `prediction` is c.
    """

    def __init__(self, token_ids: NDArray[np.integer[Any]]) -> None:
        self._ids = np.asarray(token_ids, dtype=np.int64)
        self._seen, self._places = np.unique(self._ids, return_inverse=True)
        self._lengths = np.zeros(len(self._ids), dtype=np.int64)
        self.position = 0
        self.prediction: int | None = None
        self.match_length = 0
        self.agrees = False
        self.streak = 0

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Match lengths `[earlier position]`."""
        return self._lengths[: self.position]

    @property
    def tokens(self) -> NDArray[np.int64]:
        """The distinct token ids of the episode, sorted: the columns of `counts`; a column of 0 tells nothing."""
        return self._seen

    def advance(self) -> None:
        """Observe the token at `position`."""
        here = self.position
        token = self._ids[here]
        self.streak = self.streak + 1 if self.prediction == token else 0
        self._lengths[1 : here + 1] = np.where(self._ids[:here] == token, self._lengths[:here] + 1, 0)
        self.position = here + 1
        self._predict()

    def _predict(self) -> None:
        lengths = self.lengths
        self.match_length = int(lengths.max(initial=0))
        if not self.match_length:
            self.prediction, self.agrees = None, False
            return
        followers = self._ids[: self.position][lengths == self.match_length]
        self.prediction = int(followers[-1])
        self.agrees = bool((followers == self.prediction).all())

    def counts(self, num_orders: int) -> NDArray[np.int64]:
        """Return how often each token followed the last k tokens so far, `[k, token of tokens]`, k from 0 up."""
        width = len(self._seen)
        orders = np.minimum(self.lengths, num_orders - 1)
        cells = orders * width + self._places[: self.position]
        exact = np.bincount(cells, minlength=num_orders * width).reshape(num_orders, width)
        return exact[::-1].cumsum(axis=0)[::-1]
