"""`EpisodeStreams`: what the episodes of a pool said, token by token and byte by byte, each message once, in order.

Windows and branches show an observation several times and own it once; the stream of an episode is what its sequences
own, in the order of branches and windows, without the chat template's own text. So what was said before a token is the
same however long the windows are. Not here: what a token is (`token_classes`, `facts`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from envecho.tokens import ChatTokenizer, TokenizedTrajectory
from envecho.trajectory import SOURCES, Role, Source

_LEFT_OUT = np.array([source in (Source.SCAFFOLD, Source.PADDING) for source in SOURCES])
_OF_ROLE = {role: np.array([source.role is role for source in SOURCES]) for role in Role}


@dataclass(frozen=True, kw_only=True)
class Run:
    """The tokens `[start, end)` of one message in a stream."""

    episode: int
    turn: int
    start: int
    end: int


@dataclass(frozen=True, kw_only=True)
class EpisodeStreams:
    """The streams of several episodes, one behind the other; arrays are `[token]` unless they say otherwise.

    `episodes` points into `trajectory_ids` (sorted); `starts` `[token + 1]` are byte offsets into `text`.
    `places` `[token of the sequences]` says where the tokens of all sequences, joined, stand in the stream: -1 for
    what another window owns and for the template's text; `offsets` `[sequence]` is where each sequence begins there.

    Example: `ls` was answered by `a.log`, then `b`.

        text      b"lsa.log\\nb"
        starts    [0, 2, 3, 7, 8, 9]      ls  a  .log  \\n  b
        turns     [2, 3, 3, 3, 3]
    """

    trajectory_ids: tuple[str, ...]
    token_ids: NDArray[np.int64]
    episodes: NDArray[np.int64]
    turns: NDArray[np.int64]
    sources: NDArray[np.uint8]
    starts: NDArray[np.int64]
    text: bytes
    places: NDArray[np.int64]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.token_ids)

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """The messages of all streams, in order."""
        if not len(self):
            return ()
        changes = np.flatnonzero((np.diff(self.episodes) != 0) | (np.diff(self.turns) != 0)) + 1
        edges = [0, *changes.tolist(), len(self)]
        episodes, turns = self.episodes[edges[:-1]].tolist(), self.turns[edges[:-1]].tolist()
        return tuple(
            Run(episode=episode, turn=turn, start=start, end=end)
            for episode, turn, start, end in zip(episodes, turns, edges[:-1], edges[1:], strict=True)
        )

    def run_text(self, run: Run) -> bytes:
        """Return what the tokens of a message say."""
        return self.text[self.starts[run.start] : self.starts[run.end]]

    def role_mask(self, role: Role) -> NDArray[np.bool_]:
        """Mask `[token]` of one RFC 010 role."""
        return _OF_ROLE[role][self.sources]

    def place_of(self, sequence_index: NDArray[np.int64], positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return where tokens of the sequences stand in the stream."""
        return self.places[self.offsets[sequence_index] + positions]

    def tokens_over(self, ranges: Sequence[tuple[int, int]]) -> NDArray[np.bool_]:
        """Mask `[token]` of the tokens that hold a byte of one of the ranges `[start, end)` of `text`."""
        edges = np.zeros(len(self.text) + 1, dtype=np.int64)
        if ranges:
            starts, ends = np.array(ranges, dtype=np.int64).T
            np.add.at(edges, starts, 1)
            np.add.at(edges, ends, -1)
        before = np.concatenate([[0], np.cumsum(np.cumsum(edges)[:-1] > 0)])
        return before[self.starts[1:]] > before[self.starts[:-1]]


def episode_streams(sequences: Sequence[TokenizedTrajectory], tokenizer: ChatTokenizer) -> EpisodeStreams:
    """Return the streams of all episodes that the sequences are of; the order of the sequences changes no stream."""
    trajectory_ids = tuple(sorted({sequence.trajectory_id for sequence in sequences}))
    index = {name: number for number, name in enumerate(trajectory_ids)}
    offsets = np.cumsum([0, *(len(sequence) for sequence in sequences)])
    places = np.full(int(offsets[-1]), -1, dtype=np.int64)
    order = sorted(
        range(len(sequences)),
        key=lambda n: (index[sequences[n].trajectory_id], sequences[n].branch, sequences[n].window),
    )
    kept: list[tuple[TokenizedTrajectory, NDArray[np.int64]]] = []
    total = 0
    for number in order:
        sequence = sequences[number]
        own = np.flatnonzero(~_LEFT_OUT[sequence.sources[sequence.owned_from :]]) + sequence.owned_from
        places[offsets[number] + own] = total + np.arange(len(own))
        total += len(own)
        kept.append((sequence, own))
    token_ids = _joined([sequence.token_ids[own] for sequence, own in kept])
    pieces = _pieces(token_ids, tokenizer)
    return EpisodeStreams(
        trajectory_ids=trajectory_ids,
        token_ids=token_ids,
        episodes=_joined([np.full(len(own), index[sequence.trajectory_id]) for sequence, own in kept]),
        turns=_joined([sequence.turns[own] for sequence, own in kept]),
        sources=_joined([sequence.sources[own] for sequence, own in kept]).astype(np.uint8),
        starts=np.concatenate([[0], np.cumsum([len(piece) for piece in pieces])]).astype(np.int64),
        text=b"".join(pieces),
        places=places,
        offsets=offsets[:-1].astype(np.int64),
    )


def _joined(parts: Sequence[NDArray[np.generic]]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(0, dtype=np.int64), *parts]).astype(np.int64)


def _pieces(token_ids: NDArray[np.int64], tokenizer: ChatTokenizer) -> list[bytes]:
    """The bytes of each token."""
    unique, inverse = np.unique(token_ids, return_inverse=True)
    table = [tokenizer.token_bytes(token_id) for token_id in unique.tolist()]
    return [table[number] for number in inverse.tolist()]
