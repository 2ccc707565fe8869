"""From a rendering to ids with one source per token; sampled turns keep their ids.

Control tokens come only from text that the template wrote, or that a policy says with them (below). Every other run is
encoded by the tokenizer's model without its added vocabulary: a tool result that contains `<|im_end|>` or
`</tool_response>` is text. In an assistant turn that was not sampled, non-special added tokens (`<think>`,
`<tool_call>`) stay control tokens, because decoding shows them and so they were ids; special ones in its own strings
are text, because decoding would have dropped them.

Not here: which rendering (`branches`), which tokens are trained (`targets`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from envecho.errors import TemplateError
from envecho.tokens.chat import ChatTokenizer, EncodedRun
from envecho.tokens.marks import own_strings
from envecho.tokens.precedence import SOURCE_RANK
from envecho.tokens.spans import Body, Rendering
from envecho.trajectory import Message, SampledTokens, Source
from envecho.trajectory.redacted import sampled_source


@dataclass(frozen=True, kw_only=True)
class TokenArrays:
    """Ids and what is known of each token, all `[token]`, as in `TokenizedTrajectory`."""

    token_ids: NDArray[np.int32]
    sources: NDArray[np.uint8]
    turns: NDArray[np.int32]
    num_bytes: NDArray[np.uint16]
    sampling_logprobs: NDArray[np.float32]
    sampling_entropies: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class _Fixed:
    """Characters `[start, end)` whose ids are known: one control token, or a sampled turn."""

    start: int
    end: int
    token_ids: tuple[int, ...]
    sampled: SampledTokens | None = None
    turn: int = -1


def encode_rendering(
    rendering: Rendering,
    messages: Sequence[Message],
    tokenizer: ChatTokenizer,
    *,
    kept_turns: frozenset[int] = frozenset(),
) -> TokenArrays:
    """Encode a rendering; the turns in `kept_turns` get their sampled ids and log-probs, never re-tokenised.

    A token over two spans takes the source that `source_precedence` names.

    Raises:
        TemplateError: a content would contain a control token, or cannot be told from the template's own text.
    """
    ids: list[int] = []
    edges: list[int] = []
    shifts: list[tuple[int, int]] = []  # how many tokens in a row, and from where in the text their edges count
    sampled_runs: list[tuple[int, _Fixed]] = []
    done = 0
    for piece in (*_fixed_pieces(rendering, messages, tokenizer, kept_turns), _end(rendering)):
        if done < piece.start:
            run = _encode_run(rendering.text, done, piece.start, tokenizer)
            ids += run.ids
            edges += run.edges
            shifts.append((len(run.ids), done))
        if piece.sampled is not None:
            sampled_runs.append((len(ids), piece))
        ids += piece.token_ids
        edges += (0, piece.end - piece.start) * len(piece.token_ids)
        shifts.append((len(piece.token_ids), piece.start))
        done = piece.end
    counts, starts = np.array(shifts, dtype=np.int64).T
    ranges = np.array(edges, dtype=np.int64).reshape(-1, 2) + np.repeat(starts, counts)[:, None]
    sources, turns = _owners(rendering, ranges)
    logprobs = np.full(len(ids), np.nan, dtype=np.float32)
    entropies = np.full(len(ids), np.nan, dtype=np.float32)
    for start, piece in sampled_runs:
        run = slice(start, start + len(piece.token_ids))
        sources[run], turns[run] = sampled_source(messages[piece.turn]).code, piece.turn
        fill_sampled(piece.sampled, logprobs[run], entropies[run])
    token_ids = np.array(ids, dtype=np.int32)
    return TokenArrays(
        token_ids=token_ids,
        sources=sources,
        turns=turns,
        num_bytes=tokenizer.num_bytes(token_ids),
        sampling_logprobs=logprobs,
        sampling_entropies=entropies,
    )


def fill_sampled(sampled: SampledTokens | None, logprobs: NDArray[np.float32], entropies: NDArray[np.float32]) -> None:
    """Write what a sampler stated of its ids into the slices `[token]` of their run; the rest stays unknown (NaN)."""
    if sampled is not None and sampled.logprobs is not None:
        logprobs[:] = sampled.logprobs
    if sampled is not None and sampled.entropies is not None:
        entropies[:] = sampled.entropies


def _end(rendering: Rendering) -> _Fixed:
    return _Fixed(start=len(rendering.text), end=len(rendering.text), token_ids=())


def _encode_run(text: str, start: int, end: int, tokenizer: ChatTokenizer) -> EncodedRun:
    """Encode characters `[start, end)` as text: ids, and the characters of each token, counted from `start`.

    A character whose bytes the vocabulary lacks has no token, as in the plain rendering.
    """
    run = tokenizer.encode_run(text[start:end])
    if run.has_control:
        raise TemplateError(
            f"the text {text[start:end]!r} is encoded with a control token although added tokens were "
            "kept out; this tokenizer cannot keep text and control apart"
        )
    return run


def _owners(rendering: Rendering, ranges: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Source and turn of each token, from the characters `[token, 2]` that it stands for."""
    if not len(ranges):
        return np.zeros(0, dtype=np.uint8), np.zeros(0, dtype=np.int32)
    first = np.minimum(ranges[:, 0], len(rendering.text) - 1)
    last = np.maximum(ranges[:, 1], first + 1)
    edges = np.zeros(len(rendering.text) + 1, dtype=np.int64)
    for part in (*rendering.spans, *rendering.bodies):
        edges[part.start] += 1
        edges[part.end] += 1
    edges[1:-1] += np.diff(rendering.sources) != 0  # marks of redacted text have no span of their own
    span_of_character = np.cumsum(edges[:-1])
    rank = SOURCE_RANK[rendering.sources]
    winner = first.copy()
    for token in np.flatnonzero(span_of_character[first] != span_of_character[last - 1]):
        winner[token] = first[token] + int(np.argmin(rank[first[token] : last[token]]))
    return rendering.sources[winner], rendering.turns[winner]


def _fixed_pieces(
    rendering: Rendering, messages: Sequence[Message], tokenizer: ChatTokenizer, kept_turns: frozenset[int]
) -> list[_Fixed]:
    """Cut out the sampled turns and the control tokens, in the order of the text."""
    end_of_turn = tokenizer.turn_format.end_of_turn
    pieces: list[_Fixed] = []
    policy_zones: list[Body] = []
    for body in rendering.bodies:
        sampled = messages[body.turn].sampled
        if sampled is None or body.turn not in kept_turns:
            policy_zones.append(body)
            continue
        closed = sampled.token_ids[-1:] == (tokenizer.end_of_turn_id,)
        end = body.end + len(end_of_turn) if closed else body.end
        pieces.append(_Fixed(start=body.start, end=end, token_ids=sampled.token_ids, sampled=sampled, turn=body.turn))
    for start, end in _template_zones(rendering, pieces, policy_zones):
        pieces += _controls(rendering.text, start, end, tokenizer, frozenset())
    for body in policy_zones:
        text_only = _special_text(rendering, body, messages[body.turn], tokenizer)
        for start, end in _without_spans(rendering, body):
            pieces += _controls(rendering.text, start, end, tokenizer, text_only)
    return sorted(pieces, key=lambda piece: piece.start)


def _template_zones(rendering: Rendering, sampled: Sequence[_Fixed], bodies: Sequence[Body]) -> list[tuple[int, int]]:
    """The stretches of text that the template alone wrote."""
    taken = sorted((part.start, part.end) for part in (*rendering.spans, *sampled, *bodies))
    return _gaps(taken, 0, len(rendering.text))


def _without_spans(rendering: Rendering, body: Body) -> list[tuple[int, int]]:
    inside = [
        (s.start, s.end) for s in rendering.spans if body.start <= s.start < body.end and s.source is not Source.POLICY
    ]
    return _gaps(inside, body.start, body.end)


def _gaps(taken: Sequence[tuple[int, int]], start: int, end: int) -> list[tuple[int, int]]:
    gaps: list[tuple[int, int]] = []
    for first, last in taken:
        if first > start:
            gaps.append((start, first))
        start = max(start, last)
    return [*gaps, (start, end)] if start < end else gaps


def _controls(text: str, start: int, end: int, tokenizer: ChatTokenizer, text_only: frozenset[str]) -> list[_Fixed]:
    found: list[_Fixed] = []
    for match in tokenizer.added_pattern.finditer(text, start, end):
        if match.group() not in text_only:
            token_id = tokenizer.added[match.group()].id
            found.append(_Fixed(start=match.start(), end=match.end(), token_ids=(token_id,)))
    return found


def _special_text(rendering: Rendering, body: Body, message: Message, tokenizer: ChatTokenizer) -> frozenset[str]:
    """Special tokens that the policy's own strings spell out: text, unless the template wrote some of them too."""
    shown = rendering.text[body.start : body.end]
    own = "\0".join(own_strings(message))
    spelled = {text for text in set(tokenizer.added_pattern.findall(own)) if tokenizer.added[text].special}
    for text in spelled:
        if shown.count(text) > own.count(text):
            raise TemplateError(
                f"turn {body.turn} (assistant): its own text spells out {text!r}, which the chat template writes into "
                "the same turn, so text and control cannot be told apart; remove it from the message"
            )
    return frozenset(spelled)
