"""`Variant`: one observation behind another action or another episode, ready to be scored again.

An episode is cut behind the observation, so that nothing later can be seen; the action before it, or all that is before
it, is another one. Not here: which action or episode stands in (`swap`, `controls`), and what a score means.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from envecho.seam import ScoreRequest
from envecho.tokens import ChatTokenizer, TokenizedTrajectory, tokenize_trajectory
from envecho.trajectory import Message, Segment, Source, Trajectory

SourceMask = Callable[[NDArray[np.uint8]], NDArray[np.bool_]]
"""Which tokens of an observation are read: from source codes `[token]` to a mask `[token]`."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """The requests that score an observation behind one context, in order, and the token ids that they read.

    `is_whole` says that one request holds the observation, behind its whole history: no window cut it.
    """

    requests: tuple[ScoreRequest, ...]
    token_ids: tuple[int, ...]
    is_whole: bool


def make_variant(
    trajectory: Trajectory, tokenizer: ChatTokenizer, *, reads: SourceMask, max_tokens: int | None
) -> Variant:
    """Tokenize an episode that ends with the observation, and read that.

    Raises:
        TemplateError: the chat template cannot render it.
    """
    turn = len(trajectory.messages) - 1
    sequences = tokenize_trajectory(trajectory, tokenizer, max_tokens=max_tokens)
    masks = [(sequence, observation_mask(sequence, turn, reads)) for sequence in sequences]
    reading = [(sequence, mask) for sequence, mask in masks if mask.any()]
    return Variant(
        requests=tuple(ScoreRequest(token_ids=sequence.token_ids, read=mask) for sequence, mask in reading),
        token_ids=tuple(int(token) for sequence, mask in reading for token in sequence.token_ids[mask]),
        is_whole=len(reading) == 1 and reading[0][0].window == 0,
    )


def observation_mask(sequence: TokenizedTrajectory, turn: int, reads: SourceMask) -> NDArray[np.bool_]:
    """Return the mask `[token]` of what this sequence owns of message `turn`, of the sources that are read."""
    return (sequence.turns == turn) & reads(sequence.sources) & sequence.owned_mask()


def behind_action(trajectory: Trajectory, turn: int, action: Message, answer: Message) -> Trajectory:
    """Return the episode up to message `turn`, with another action and another answer in the last two places.

    The action's calls take the ids of the calls that were there, so that the answer still belongs to one of them.
    """
    there = trajectory.messages[turn - 1]
    calls = tuple(
        call.model_copy(update={"id": old.id}) for call, old in zip(action.tool_calls, there.tool_calls, strict=True)
    )
    action = action.model_copy(update={"tool_calls": calls})
    return trajectory.with_messages((*trajectory.messages[: turn - 1], action, answer))


def with_echo_of(answer: Message, other: Message | None) -> Message:
    """Return an answer in which the echo of its command is that of another answer; None takes the echo out.

    A harness that repeats the command before its output would otherwise tell the true command after all.
    """
    echo = () if other is None else _echo(other)
    if _echo(answer) == echo:
        return answer
    place = next((k for k, segment in enumerate(answer.segments) if segment.source is Source.COMMAND_ECHO), 0)
    before, after = answer.segments[:place], answer.segments[place:]
    segments: Sequence[Segment] = (*before, *echo, *(s for s in after if s.source is not Source.COMMAND_ECHO))
    return answer.model_copy(update={"segments": tuple(segments)})


def _echo(answer: Message) -> tuple[Segment, ...]:
    return tuple(segment for segment in answer.segments if segment.source is Source.COMMAND_ECHO)
