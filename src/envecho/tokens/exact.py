"""Token-exact trajectories: the ids that a model read and wrote, each with its source; nothing is tokenised again.

What the policy sampled is known from the spans. In between, contents and the template's text are told apart by what
the ids say: the template's own rendering of the new messages is looked for among their bytes, else each content by
itself. Bytes that belong to no content found are scaffold, so that nothing is trained on a guess. Messages behind the
last id (the final observation, which no later prompt shows) are rendered and appended. Not here: how the calls of a
trace become branches (`envecho.formats`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from envecho.errors import DataError, TemplateError
from envecho.tokens.chat import ChatTokenizer
from envecho.tokens.precedence import CODE_OF_RANK, SOURCE_RANK
from envecho.tokens.render import TokenArrays, encode_rendering, fill_sampled
from envecho.tokens.spans import render_spans
from envecho.trajectory import ExactBranch, Message, Segment, Source, SpanKind, Trajectory, source_precedence
from envecho.trajectory.redacted import sampled_source

_PROBES = (
    Message(role="user", segments=(Segment(source=Source.TASK, text="."),)),
    Message(role="assistant", segments=(Segment(source=Source.POLICY, text="."),)),
)
"""What stands before new messages when they are rendered by themselves."""


@dataclass(kw_only=True)
class _Found:
    """How many texts of a trajectory stand among its ids; none at all means another tokenizer's ids."""

    num_found: int = 0
    first_missing: tuple[int, str] | None = None

    def note(self, turn: int, text: str, *, found: bool) -> None:
        self.num_found += found
        if not found and self.first_missing is None:
            self.first_missing = (turn, text)


def exact_arrays(trajectory: Trajectory, tokenizer: ChatTokenizer) -> list[TokenArrays]:
    """Return the arrays `[token]` of each branch of a token-exact trajectory.

    Raises:
        DataError: the ids are not those of this tokenizer.
        TemplateError: messages behind the last id cannot be rendered.
    """
    _check_vocabulary(trajectory, tokenizer)
    found = _Found()
    arrays = [_branch(trajectory, branch, tokenizer, found) for branch in trajectory.branches]
    if not found.num_found and found.first_missing is not None:
        turn, text = found.first_missing
        raise DataError(
            f"the token ids of trajectory {trajectory.id!r} do not say its text under {tokenizer.hf.name_or_path!r} "
            f"(it begins {text[:40]!r}); name the model that wrote them, or import with --text-only to tokenise the "
            "text anew",
            turn=turn,
        )
    shown = max(span.turn + span.num_turns for branch in trajectory.branches for span in branch.spans)
    if shown < len(trajectory.messages):
        owner = next(k for k, branch in enumerate(trajectory.branches) if _last_shown(branch) == shown)
        arrays[owner] = _with_final(arrays[owner], trajectory, shown, tokenizer)
    return arrays


def _last_shown(branch: ExactBranch) -> int:
    return max(span.turn + span.num_turns for span in branch.spans)


def _check_vocabulary(trajectory: Trajectory, tokenizer: ChatTokenizer) -> None:
    size = len(tokenizer.hf)
    largest = max((max(branch.token_ids, default=0) for branch in trajectory.branches), default=0)
    if largest >= size:
        raise DataError(
            f"trajectory {trajectory.id!r} holds the token id {largest}, and {tokenizer.hf.name_or_path!r} has "
            f"{size} ids; name the model that wrote them, or import with --text-only to tokenise the text anew"
        )


def _branch(trajectory: Trajectory, branch: ExactBranch, tokenizer: ChatTokenizer, found: _Found) -> TokenArrays:
    token_ids = np.array(branch.token_ids, dtype=np.int32)
    num = len(token_ids)
    sources = np.full(num, Source.SCAFFOLD.code, dtype=np.uint8)
    turns = np.full(num, -1, dtype=np.int32)
    logprobs = np.full(num, np.nan, dtype=np.float32)
    entropies = np.full(num, np.nan, dtype=np.float32)
    start = 0
    for span in branch.spans:
        run = slice(start, span.end)
        start = span.end
        turns[run] = span.turn
        messages = list(trajectory.messages[span.turn : span.turn + span.num_turns] if span.num_turns else ())
        if span.kind is SpanKind.SAMPLED:
            sources[run] = sampled_source(messages[0]).code
            fill_sampled(messages[0].sampled, logprobs[run], entropies[run])
            _note_sampled(token_ids[run], messages[0], span.turn, tokenizer, found)
        elif span.kind is SpanKind.CONTENT:
            sources[run] = _content(_Bytes.of(token_ids[run], tokenizer), messages[0], span.turn, found)
        elif span.kind is SpanKind.MIXED and messages:
            sources[run], turns[run] = _mixed(token_ids[run], messages, span.turn, tokenizer, found)
    return TokenArrays(
        token_ids=token_ids,
        sources=sources,
        turns=turns,
        num_bytes=tokenizer.num_bytes(token_ids),
        sampling_logprobs=logprobs,
        sampling_entropies=entropies,
    )


@dataclass(frozen=True, kw_only=True)
class _Bytes:
    """The bytes that a run of ids says, and where in them each token begins, `[token + 1]`."""

    data: bytes
    starts: NDArray[np.int64]

    @classmethod
    def of(cls, token_ids: NDArray[np.int32], tokenizer: ChatTokenizer) -> _Bytes:
        pieces = [tokenizer.token_bytes(int(token)) for token in token_ids]
        starts = np.zeros(len(pieces) + 1, dtype=np.int64)
        np.cumsum([len(piece) for piece in pieces], out=starts[1:])
        return cls(data=b"".join(pieces), starts=starts)

    def sources_of_tokens(self, of_bytes: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Source codes `[token]` from those of the bytes; a token over several takes the first in precedence."""
        codes = np.full(len(self.starts) - 1, Source.SCAFFOLD.code, dtype=np.uint8)
        filled = np.flatnonzero(np.diff(self.starts))
        if len(filled):
            ranks = np.minimum.reduceat(SOURCE_RANK[of_bytes], self.starts[filled])
            codes[filled] = CODE_OF_RANK[ranks]
        return codes


def _note_sampled(
    token_ids: NDArray[np.int32], message: Message, turn: int, tokenizer: ChatTokenizer, found: _Found
) -> None:
    text = message.content.strip()
    if text and not found.num_found:
        said = _Bytes.of(token_ids, tokenizer).data
        found.note(turn, text, found=text.encode(errors="replace") in said)


def _content(said: _Bytes, message: Message, turn: int, found: _Found) -> NDArray[np.uint8] | np.uint8:
    """Sources of a span that is one message's content: as a whole where one writer wrote it, else by its bytes."""
    codes = {segment.source for segment in message.segments if segment.text}
    place = said.data.find(message.content.encode(errors="replace"))
    if message.content.strip():
        found.note(turn, message.content, found=place >= 0)
    if not codes:
        return np.uint8(Source.SCAFFOLD.code)
    if len(codes) == 1:
        return np.uint8(next(iter(codes)).code)
    if place < 0:
        # The text is not what the ids say; the least trained of its writers takes all of it.
        return np.uint8(min(codes, key=source_precedence).code)
    of_bytes = np.full(len(said.data), Source.SCAFFOLD.code, dtype=np.uint8)
    _fill(of_bytes, place, message.segments)
    return said.sources_of_tokens(of_bytes)


def _fill(of_bytes: NDArray[np.uint8], place: int, segments: Sequence[Segment]) -> None:
    for segment in segments:
        length = len(segment.text.encode(errors="replace"))
        of_bytes[place : place + length] = segment.source.code
        place += length


def _mixed(
    token_ids: NDArray[np.int32], messages: Sequence[Message], turn: int, tokenizer: ChatTokenizer, found: _Found
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Source and turn of each token of a span that holds new messages and the template's text around them."""
    said = _Bytes.of(token_ids, tokenizer)
    of_bytes = np.full(len(said.data), Source.SCAFFOLD.code, dtype=np.uint8)
    turn_of_bytes = np.full(len(said.data) + 1, turn, dtype=np.int32)
    if not _by_rendering(said, messages, turn, tokenizer, (of_bytes, turn_of_bytes)):
        _by_search(said, messages, turn, tokenizer, (of_bytes, turn_of_bytes))
    for place, message in enumerate(messages):
        if message.content.strip():
            mine = (turn_of_bytes[:-1] == turn + place) & (of_bytes != Source.SCAFFOLD.code)
            found.note(turn + place, message.content, found=bool(mine.any()))
    return said.sources_of_tokens(of_bytes), turn_of_bytes[said.starts[:-1]]


_ByteArrays = tuple[NDArray[np.uint8], NDArray[np.int32]]


def _by_rendering(
    said: _Bytes, messages: Sequence[Message], turn: int, tokenizer: ChatTokenizer, into: _ByteArrays
) -> bool:
    """Find the template's own rendering of these messages among the bytes; its characters have proved sources."""
    try:
        rendering = render_spans((*_PROBES, *messages), tokenizer)
    except TemplateError:
        return False
    start = rendering.bodies[0].end + len(tokenizer.turn_format.end_of_turn)
    text = rendering.text[start:]
    place = said.data.rfind(text.encode(errors="replace"))
    if place < 0:
        # A sampler's ids may stop before the newline that ends a turn: the rest is unique enough without it.
        stripped = text.lstrip("\n")
        start += len(text) - len(stripped)
        text = stripped
        place = said.data.rfind(text.encode(errors="replace"))
    if place < 0 or not text:
        return False
    lengths = np.array([len(character.encode(errors="replace")) for character in text], dtype=np.int64)
    of_bytes, turn_of_bytes = into
    end = place + int(lengths.sum())
    of_bytes[place:end] = np.repeat(rendering.sources[start:], lengths)
    turns = np.maximum(np.repeat(rendering.turns[start:], lengths) - len(_PROBES), 0) + turn
    turn_of_bytes[place:end] = turns
    turn_of_bytes[end:] = turn + len(messages)  # the generation prompt opens the answer's turn
    return True


def _by_search(
    said: _Bytes, messages: Sequence[Message], turn: int, tokenizer: ChatTokenizer, into: _ByteArrays
) -> None:
    """Find each content by itself, the last one first, before the control token that opens the next turn."""
    of_bytes, turn_of_bytes = into
    end = len(said.data)
    controls = [m.start() for m in tokenizer.added_pattern.finditer(said.data.decode("latin-1"))]
    if controls and controls[-1] > 0:
        end = controls[-1]
    for place in range(len(messages) - 1, -1, -1):
        segments = messages[place].segments
        start = _rfind(said.data, segments, end)
        if start is None:
            continue
        start, segments = start
        _fill(of_bytes, start, segments)
        turn_of_bytes[start:] = np.maximum(turn_of_bytes[start:], turn + place)
        end = start


def _rfind(data: bytes, segments: Sequence[Segment], end: int) -> tuple[int, Sequence[Segment]] | None:
    """Where a content stands last before `end`, as it is or without the white space that a template trims."""
    text = "".join(segment.text for segment in segments)
    if not text.strip():
        return None
    place = data.rfind(text.encode(errors="replace"), 0, end)
    if place >= 0:
        return place, segments
    lead = len(text) - len(text.lstrip())
    kept = _cut(segments, lead, len(text.rstrip()))
    place = data.rfind(text.strip().encode(errors="replace"), 0, end)
    return (place, kept) if place >= 0 else None


def _cut(segments: Sequence[Segment], start: int, end: int) -> list[Segment]:
    """The segments of characters `[start, end)` of a content."""
    kept: list[Segment] = []
    done = 0
    for segment in segments:
        first, last = max(start - done, 0), min(end - done, len(segment.text))
        if first < last:
            kept.append(segment.model_copy(update={"text": segment.text[first:last]}))
        done += len(segment.text)
    return kept


def _with_final(arrays: TokenArrays, trajectory: Trajectory, shown: int, tokenizer: ChatTokenizer) -> TokenArrays:
    """Append the messages that no prompt showed: the template's text of them, encoded as text."""
    messages = (*_PROBES, *trajectory.messages[shown:])
    rendered = encode_rendering(render_spans(messages, tokenizer), messages, tokenizer)
    end_of_turn = tokenizer.end_of_turn_id
    (closing, *_) = np.flatnonzero((rendered.turns == 1) & (rendered.token_ids == end_of_turn))
    is_closed = len(arrays.token_ids) > 0 and int(arrays.token_ids[-1]) == end_of_turn
    new = slice(int(closing) + is_closed, None)
    return TokenArrays(
        token_ids=np.concatenate([arrays.token_ids, rendered.token_ids[new]]),
        sources=np.concatenate([arrays.sources, rendered.sources[new]]),
        turns=np.concatenate([arrays.turns, rendered.turns[new] - len(_PROBES) + shown]),
        num_bytes=np.concatenate([arrays.num_bytes, rendered.num_bytes[new]]),
        sampling_logprobs=np.concatenate([arrays.sampling_logprobs, rendered.sampling_logprobs[new]]),
        sampling_entropies=np.concatenate([arrays.sampling_entropies, rendered.sampling_entropies[new]]),
    )
