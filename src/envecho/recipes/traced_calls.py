"""The model calls of an episode, from its tokens: what each prompt was, and whose each of its ids is.

Only turns whose sampled ids and log-probs are known are calls. Not here: the document (`training_trace_export`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from envecho.formats.training_trace_export import TracedCall
from envecho.tokens import TokenizedTrajectory
from envecho.trajectory import SOURCES, SampledTokens, Source, Trajectory


def traced_calls(trajectory: Trajectory, sequences: Sequence[TokenizedTrajectory]) -> list[TracedCall]:
    """Return the calls in the order of their turns; each stands in the sequence that owns it."""
    found = [call for sequence in sequences for call in _of_sequence(trajectory, sequence)]
    return sorted(found, key=lambda call: call.answer)


def _of_sequence(trajectory: Trajectory, sequence: TokenizedTrajectory) -> Iterator[TracedCall]:
    for place, message in enumerate(trajectory.messages):
        sampled = message.sampled
        if sampled is None or sampled.logprobs is None or not sampled.token_ids:
            continue
        start = _start(sequence, place, sampled)
        if start is None:
            continue
        end = start + len(sampled.token_ids)
        turns = sequence.turns[:start]
        yield TracedCall(
            shown=tuple(int(turn) for turn in np.unique(turns[turns >= 0]) if turn != place),
            answer=place,
            prompt_ids=tuple(sequence.token_ids[:start].tolist()),
            completion_ids=sampled.token_ids,
            logprobs=tuple(min(value, 0.0) for value in sampled.logprobs),
            trains=not sequence.context_truncated,
            token_spans=tuple(token_spans(sequence, end)),
        )


def _start(sequence: TokenizedTrajectory, turn: int, sampled: SampledTokens) -> int | None:
    """Where the ids of a sampled turn stand in the part that this sequence owns."""
    places = np.flatnonzero((sequence.turns == turn) & sequence.source_mask(Source.POLICY))
    if not len(places) or int(places[0]) < max(sequence.owned_from, 1):
        return None
    start = int(places[0])
    ids = sequence.token_ids[start : start + len(sampled.token_ids)].tolist()
    return start if tuple(ids) == sampled.token_ids else None


def token_spans(sequence: TokenizedTrajectory, end: int) -> Iterator[dict[str, Any]]:
    """Yield runs of tokens `[start, end)` of one source, over the first `end` tokens."""
    sources = sequence.sources[:end]
    borders = [0, *(np.flatnonzero(np.diff(sources)) + 1).tolist(), len(sources)]
    for start, stop in pairwise(borders):
        source = SOURCES[int(sources[start])]
        yield {"start": start, "end": stop, "role": source.role.value, "source": source.value}
