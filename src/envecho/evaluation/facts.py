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

from envecho.evaluation.facts_messages import OUTCOMES, TURN_BUCKETS, MessageFacts, message_facts
from envecho.evaluation.facts_status import EXIT_STATUSES
from envecho.evaluation.facts_stream import EpisodeStreams, Run, episode_streams
from envecho.evaluation.results import TOKEN_CLASSES, Dimension
from envecho.evaluation.scores import PoolTokens, answered, label_tokens
from envecho.evaluation.token_classes import token_classes
from envecho.tokens import ChatTokenizer, TokenizedTrajectory
from envecho.trajectory import SOURCES, Message, Role, Trajectory

VIEW_KEYS: Final = ("first", "derivable", "other", "repeated", "not_repeated")
REPEAT_KEYS: Final = ("same", "different")
_DIFFERENT: Final = REPEAT_KEYS.index("different")

MAX_KEYS: Final = 30
OTHER: Final = "other"
"""What `fold_keys` calls all but the `MAX_KEYS` keys with the most tokens."""

Codes = NDArray[np.int32]
ChangedText = Mapping[tuple[str, int], Sequence[tuple[int, int]]]
"""By trajectory id and turn: character ranges of a message's content that came out otherwise in another run.

A message that was run again and came out the same has an empty sequence; one that is missing was not run again.
"""


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
    `changed` is given, and its different tokens are `volatile`. Keys are not folded here (`fold_keys`): which of them
    have the most tokens is only known of a whole pool.

    Raises:
        DataError: a trajectory of the pool is missing or occurs twice, or a message has an unknown view.
    """
    label_tokens(tokens, trajectories)
    streams = episode_streams(sequences, tokenizer)
    episodes = _Episodes.read(streams, trajectories)
    places = streams.place_of(tokens.sequence_index, tokens.positions)
    is_env = np.array([source.role is Role.ENV_OUTPUT for source in SOURCES])[tokens.sources]
    repeat = episodes.repeat_codes(changed or {})
    derivable, first = (episodes.label_mask(label) for label in ("derivable", "first"))
    classes = token_classes(streams, derivable=derivable, first=first, changed=repeat == _DIFFERENT)

    def column(keys: Sequence[str], codes: NDArray[np.integer]) -> FactColumn:
        return FactColumn(keys=tuple(keys), codes=np.where(is_env, codes[places], -1).astype(np.int32))

    def named(name: str) -> FactColumn:
        values = [None if facts is None else getattr(facts, name) for facts in episodes.facts]
        keys = _CLOSED.get(name) or tuple(sorted({value for value in values if value is not None}))
        return column(keys, episodes.spread(_codes(values, keys)))

    columns: dict[Dimension, FactColumn] = {
        "token_class": column(TOKEN_CLASSES, classes),
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


_CLOSED: Final[Mapping[str, tuple[str, ...]]] = {
    "turn": TURN_BUCKETS,
    "exit_status": EXIT_STATUSES,
    "outcome": OUTCOMES,
}


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


def _codes(values: Sequence[str | None], keys: Sequence[str]) -> Codes:
    place = {key: number for number, key in enumerate(keys)}
    return np.array([-1 if value is None else place[value] for value in values], dtype=np.int32)


@dataclass(frozen=True, kw_only=True)
class _Episodes:
    """The streams of a pool with the message and its facts behind each of their runs."""

    streams: EpisodeStreams
    messages: tuple[Message, ...]
    facts: tuple[MessageFacts | None, ...]

    @classmethod
    def read(cls, streams: EpisodeStreams, trajectories: Sequence[Trajectory]) -> _Episodes:
        by_id = {trajectory.id: trajectory for trajectory in trajectories}
        episodes = [by_id[name] for name in streams.trajectory_ids]
        of_episode = [message_facts(trajectory) for trajectory in episodes]
        return cls(
            streams=streams,
            messages=tuple(episodes[run.episode].messages[run.turn] for run in streams.runs),
            facts=tuple(of_episode[run.episode].get(run.turn) for run in streams.runs),
        )

    def spread(self, of_run: Codes) -> Codes:
        """Codes `[token of the stream]` from codes `[run]`."""
        lengths = [run.end - run.start for run in self.streams.runs]
        return np.repeat(of_run, lengths)

    def labels(self) -> list[str | None]:
        return [None if facts is None else facts.label for facts in self.facts]

    def label_mask(self, label: str) -> NDArray[np.bool_]:
        """Mask `[token of the stream]` of answers that the generator gave this label."""
        return (self.spread(_codes(self.labels(), VIEW_KEYS)) == VIEW_KEYS.index(label)) & answered(
            self.streams.sources
        )

    def view_codes(self) -> Codes:
        """A label speaks of the answer alone, the rest of its message is `other`; without one, what came before."""
        names = {None: None, True: "repeated", False: "not_repeated"}
        views = [None if facts is None else facts.label or names[facts.repeated] for facts in self.facts]
        codes = self.spread(_codes(views, VIEW_KEYS))
        labelled = self.spread(np.array([label is not None for label in self.labels()], dtype=np.int32)) == 1
        return np.where(labelled & ~answered(self.streams.sources), VIEW_KEYS.index("other"), codes).astype(np.int32)

    def tools(self) -> tuple[tuple[str, ...], Codes]:
        """Keys and codes of the tool that each token is the answer of."""
        names = {segment.tool for message in self.messages for segment in message.segments}
        names |= {facts.tool for facts in self.facts if facts is not None}
        keys = tuple(sorted(name for name in names if name is not None))
        codes = self.spread(_codes([None if facts is None else facts.tool for facts in self.facts], keys))
        for run, message in zip(self.streams.runs, self.messages, strict=True):
            if len({segment.tool for segment in message.segments if segment.tool is not None}) < 2:
                continue
            offset = self._content_offset(run, message)
            if offset is None:
                continue
            ends = np.cumsum([len(segment.text.encode()) for segment in message.segments]) + offset
            of_token = np.searchsorted(ends, self.streams.starts[run.start : run.end], side="right")
            of_segment = _codes([segment.tool for segment in message.segments], keys)
            codes[run.start : run.end] = of_segment[np.minimum(of_token, len(of_segment) - 1)]
        return keys, codes

    def repeat_codes(self, changed: ChangedText) -> Codes:
        """Codes `[token of the stream]` into `REPEAT_KEYS`; -1 where a message was not run again."""
        ranges: list[tuple[int, int]] = []
        compared = np.zeros(len(self.messages), dtype=np.int32)
        for number, (run, message) in enumerate(zip(self.streams.runs, self.messages, strict=True)):
            of_message = changed.get((self.streams.trajectory_ids[run.episode], run.turn))
            offset = None if of_message is None else self._content_offset(run, message)
            if of_message is None or offset is None:
                continue
            compared[number] = 1
            low, high = int(self.streams.starts[run.start]), int(self.streams.starts[run.end])
            for start, end in of_message:
                edges = (offset + len(message.content[:edge].encode()) for edge in (start, end))
                first, last = (min(max(edge, low), high) for edge in edges)
                ranges.append((first, last))
        different = self.streams.tokens_over(ranges)
        return np.where(self.spread(compared) == 1, different.astype(np.int32), -1).astype(np.int32)

    def _content_offset(self, run: Run, message: Message) -> int | None:
        """Where the message's content begins in the streams' text; None where the tokens do not say all of it.

        A template may trim white space, and the first token may belong to the template's text.
        """
        said, content = self.streams.run_text(run), message.content.encode()
        if said.strip() != content.strip():
            return None
        lead = len(said) - len(said.lstrip()), len(content) - len(content.lstrip())
        return int(self.streams.starts[run.start]) + lead[0] - lead[1]
