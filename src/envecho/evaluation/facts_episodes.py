"""The streams of a pool with the message behind each run of tokens: facts of messages as codes of tokens.

Not here: which columns there are (`facts`), and what is known of a message (`facts_messages`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from envecho.evaluation.facts_messages import MessageFacts, message_facts
from envecho.evaluation.facts_stream import EpisodeStreams, Run
from envecho.evaluation.scores import answered
from envecho.evaluation.token_classes import token_classes
from envecho.trajectory import Message, Trajectory

VIEW_KEYS: Final = ("first", "derivable", "other", "repeated", "not_repeated")
REPEAT_KEYS: Final = ("same", "different")

Codes = NDArray[np.int32]
ChangedText = Mapping[tuple[str, int], Sequence[tuple[int, int]]]
"""By trajectory id and turn: character ranges of a message's content that came out otherwise in another run.

A message that was run again and came out the same has an empty sequence; one that is missing was not run again.
"""


def key_codes(values: Sequence[str | None], keys: Sequence[str]) -> Codes:
    """Return the place of each value in `keys`, -1 for None."""
    place = {key: number for number, key in enumerate(keys)}
    return np.array([-1 if value is None else place[value] for value in values], dtype=np.int32)


@dataclass(frozen=True, kw_only=True)
class Episodes:
    """The streams of a pool with the message and its facts behind each of their runs."""

    streams: EpisodeStreams
    messages: tuple[Message, ...]
    facts: tuple[MessageFacts | None, ...]

    @classmethod
    def read(cls, streams: EpisodeStreams, trajectories: Sequence[Trajectory]) -> Episodes:
        """Join streams with the trajectories that they are of."""
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

    def named(self, name: str, keys: Sequence[str]) -> Codes:
        """Codes `[token of the stream]` into `keys` of one of the message's facts."""
        return self.spread(key_codes(self.values(name), keys))

    def values(self, name: str) -> list[str | None]:
        """One of the message's facts, `[run]`."""
        return [None if facts is None else getattr(facts, name) for facts in self.facts]

    def token_classes(self, repeat: Codes) -> NDArray[np.int8]:
        """Classes `[token of the stream]`; `repeat` are `repeat_codes`. A label speaks of the answer alone."""
        labels, is_answer = self.named("label", VIEW_KEYS), answered(self.streams.sources)
        derivable, first = ((labels == VIEW_KEYS.index(label)) & is_answer for label in ("derivable", "first"))
        same, different = (repeat == REPEAT_KEYS.index(key) for key in ("same", "different"))
        return token_classes(self.streams, derivable=derivable, first=first, different=different, same=same)

    def view_codes(self) -> Codes:
        """A label speaks of the answer alone, the rest of its message is `other`; without one, what came before."""
        names = {None: None, True: "repeated", False: "not_repeated"}
        views = [None if facts is None else facts.label or names[facts.repeated] for facts in self.facts]
        codes = self.spread(key_codes(views, VIEW_KEYS))
        labelled = self.named("label", VIEW_KEYS) >= 0
        return np.where(labelled & ~answered(self.streams.sources), VIEW_KEYS.index("other"), codes).astype(np.int32)

    def tools(self) -> tuple[tuple[str, ...], Codes]:
        """Keys and codes of the tool that each token is the answer of."""
        names = {segment.tool for message in self.messages for segment in message.segments}
        names |= {facts.tool for facts in self.facts if facts is not None}
        keys = tuple(sorted(name for name in names if name is not None))
        codes = self.named("tool", keys)
        for run, message in zip(self.streams.runs, self.messages, strict=True):
            if len({segment.tool for segment in message.segments if segment.tool is not None}) < 2:
                continue
            offset = self._content_offset(run, message)
            if offset is None:
                continue
            ends = np.cumsum([len(segment.text.encode()) for segment in message.segments]) + offset
            of_token = np.searchsorted(ends, self.streams.starts[run.start : run.end], side="right")
            of_segment = key_codes([segment.tool for segment in message.segments], keys)
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
            bounds = self.streams.starts[[run.start, run.end]]
            edges = _byte_offsets(message.content)[np.array(of_message, dtype=np.int64).reshape(-1, 2)] + offset
            ranges += [(start, end) for start, end in np.clip(edges, *bounds).tolist()]
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


def _byte_offsets(text: str) -> NDArray[np.int64]:
    """Where each character of a text begins in its UTF-8 bytes, and where the last one ends."""
    data = np.frombuffer(text.encode(), dtype=np.uint8)
    return np.append(np.flatnonzero((data & 0xC0) != 0x80), len(data)).astype(np.int64)
