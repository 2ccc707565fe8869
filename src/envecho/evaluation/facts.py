"""`TokenFacts`: what each token of a pool is, whoever predicts it: the dimensions that figures are sliced by.

What a token is depends on its own episode alone, so `token_facts` may be asked for a part of a pool at a time.
docs/slices.md lists every dimension with its keys. Not here: the rules of `token_class` (`token_classes`), scores
(`scores`), and means (`summary`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from envecho.evaluation.facts_episodes import REPEAT_KEYS, VIEW_KEYS, ChangedText, Codes, Episodes
from envecho.evaluation.facts_messages import OUTCOMES, TURN_BUCKETS
from envecho.evaluation.facts_status import EXIT_STATUSES
from envecho.evaluation.facts_stream import episode_streams
from envecho.evaluation.results import TOKEN_CLASSES, Dimension
from envecho.evaluation.scores import ENV, PoolTokens, has_role, label_tokens
from envecho.tokens import ChatTokenizer, TokenizedTrajectory
from envecho.trajectory import SOURCES, Trajectory

MAX_KEYS: Final = 30
OTHER: Final = "other"
"""What `fold_keys` calls all but the `MAX_KEYS` keys with the most tokens."""

_CLOSED: Final[Mapping[str, tuple[str, ...]]] = {
    "turn": TURN_BUCKETS,
    "exit_status": EXIT_STATUSES,
    "outcome": OUTCOMES,
}
"""Dimensions whose keys are known beforehand, in the order in which they are read."""


@dataclass(frozen=True, kw_only=True)
class FactColumn:
    """One dimension over the tokens of a pool: `codes` `[token]` point into `keys`; -1 where it does not apply.

    Example: the exit statuses of four tokens, of which the last belongs to no command.

        keys   ("0", "nonzero", "timeout")
        codes  [0, 0, 1, -1]
    """

    keys: tuple[str, ...]
    codes: Codes


@dataclass(frozen=True, kw_only=True)
class TokenFacts:
    """The facts of a pool's tokens, by dimension; every column is as long as the `PoolTokens` that it belongs to."""

    columns: Mapping[Dimension, FactColumn]


def token_facts(
    tokens: PoolTokens,
    sequences: Sequence[TokenizedTrajectory],
    trajectories: Sequence[Trajectory],
    tokenizer: ChatTokenizer,
    *,
    changed: ChangedText | None = None,
) -> TokenFacts:
    """Return what the tokens of a pool, or of some whole trajectories of it, are.

    `sequences` are those that `tokens` point into, all that these trajectories have; `tokenizer` made them. Tokens of
    role warning have the dimension `boilerplate` alone, all others every dimension but that. `repeat` is there where
    `changed` is given; of a message in it, the tokens that came out otherwise are `volatile` and no others. Keys are
    not folded here (`fold_keys`): which of them have the most tokens is only known of a whole pool.

    Raises:
        DataError: a trajectory of the pool is missing or occurs twice, or a message has an unknown view.
    """
    label_tokens(tokens, trajectories)
    streams = episode_streams(sequences, tokenizer)
    episodes = Episodes.read(streams, trajectories)
    places = streams.place_of(tokens.sequence_index, tokens.positions)
    is_env = has_role(tokens.sources, ENV)
    repeat = episodes.repeat_codes(changed or {})

    def column(keys: Sequence[str], codes: NDArray[np.integer]) -> FactColumn:
        return FactColumn(keys=tuple(keys), codes=np.where(is_env, codes[places], -1).astype(np.int32))

    def named(name: str) -> FactColumn:
        keys = _CLOSED.get(name) or tuple(sorted({value for value in episodes.values(name) if value is not None}))
        return column(keys, episodes.named(name, keys))

    columns: dict[Dimension, FactColumn] = {
        "token_class": column(TOKEN_CLASSES, episodes.token_classes(repeat)),
        "boilerplate": _source_column(tokens.sources, ~is_env),
        "source": _source_column(tokens.sources, is_env),
        "tool": column(*episodes.tools()),
        "turn": named("turn"),
        "command": named("command"),
        "exit_status": named("exit_status"),
        "outcome": named("outcome"),
        "view": column(VIEW_KEYS, episodes.view_codes()),
    }
    if changed is not None:
        columns["repeat"] = column(REPEAT_KEYS, repeat)
    return TokenFacts(columns=columns)


def fold_keys(num_tokens: Mapping[str, int], *, max_keys: int = MAX_KEYS) -> dict[str, str]:
    """Return the name of each key's slice: its own for the `max_keys` keys with the most tokens, `other` for the rest.

    Of keys with as many tokens the one whose name sorts first stays. `num_tokens` is of a whole pool.

    Example:
        >>> fold_keys({"ls": 90, "cat": 40, "awk": 2, "sed": 1}, max_keys=2)
        {'ls': 'ls', 'cat': 'cat', 'awk': 'other', 'sed': 'other'}
    """
    ranked = sorted(num_tokens, key=lambda key: (-num_tokens[key], key))
    kept = set(ranked[:max_keys])
    return {key: key if key in kept else OTHER for key in num_tokens}


def _source_column(sources: NDArray[np.uint8], mask: NDArray[np.bool_]) -> FactColumn:
    found = np.unique(sources[mask])
    codes = np.where(mask, np.searchsorted(found, sources), -1).astype(np.int32)
    return FactColumn(keys=tuple(SOURCES[int(code)].value for code in found), codes=codes)
