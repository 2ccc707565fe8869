"""Model calls with token ids -> one `Trajectory` with `branches`: nothing is tokenised again.

The one question is whether the prompt of a call begins with the prompt and the completion of an earlier one, id for id.
Then it continues (or forks) that branch, and what it adds is what the world and the harness said in between. Else the
history was written anew: a branch of its own, whose copies of earlier turns are context, and where only what stands
behind the last answer is new. So each observation is owned once, whatever the harness does to its history. Not here:
where calls lie in a file (`calls`, `harbor_results`), and what the ids say (`envecho.tokens`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from envecho.errors import DataError
from envecho.formats.assemble import ImportOptions, Origin, TextReader, assemble
from envecho.formats.token_fields import known_logprobs
from envecho.formats.turns import Turn
from envecho.trajectory import ExactBranch, Message, SampledTokens, Segment, Source, SpanKind, TokenSpan, Trajectory

UNKNOWN_TEXT = {"text": "unknown"}
"""The label of a message of which only ids are known."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of the model: ids in, ids out, and where known their messages.

    `request` are all messages that the prompt shows, or `new` those behind the answer before; `answer` is the message
    that the completion is; None: unknown. `is_policy` is False for calls of another agent: their completions are
    context.
    """

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    logprobs: tuple[float, ...] | None = None
    temperature: float | None = None
    request: Sequence[Turn] | None = None
    new: Sequence[Turn] | None = None
    answer: Turn | None = None
    is_policy: bool = True


@dataclass(frozen=True, kw_only=True)
class _Cut:
    """The end of a prompt or a completion in a branch, where a later prompt may go on; `turns` are shown up to it."""

    length: int
    is_answer: bool
    turns: tuple[int, ...]
    spans: tuple[TokenSpan, ...]


@dataclass(kw_only=True)
class _Chain:
    """A branch in the making."""

    token_ids: tuple[int, ...]
    owned_from: int
    cuts: list[_Cut]

    @property
    def last(self) -> _Cut:
        return self.cuts[-1]


@dataclass(kw_only=True)
class Calls:
    """Collects the calls of one episode into turns and branches; `trajectory` builds the record.

    `reader` reads the text of calls that come with ids alone.
    """

    reader: TextReader | None = None
    turns: list[Turn] = field(default_factory=list[Turn])
    sampled: dict[int, SampledTokens] = field(default_factory=dict[int, SampledTokens])
    chains: list[_Chain] = field(default_factory=list[_Chain])
    breaks: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    context: set[int] = field(default_factory=set[int])
    seen: set[tuple[int, str, str, str | None]] = field(default_factory=set[tuple[int, str, str, str | None]])
    num_calls: int = 0
    num_repeated: int = 0
    num_without_logprobs: int = 0
    num_unread: int = 0

    def add(self, call: Call) -> None:
        """Add the next call.

        Raises:
            DataError: it has no prompt, or an id below 0.
        """
        number, self.num_calls = self.num_calls, self.num_calls + 1
        if not call.prompt_ids:
            raise DataError("expected the ids of the prompt, found none", turn=number)
        if min((*call.prompt_ids, *call.completion_ids)) < 0:
            raise DataError("expected token ids from 0 on, found one below", turn=number)
        call = self._read(call)
        found = self._extended(call.prompt_ids)
        chain, cut = found or (None, None)
        if chain is None or cut is None or (not cut.is_answer and cut.length < len(call.prompt_ids)):
            self._rewritten(call, number, chain, cut)
            return
        whole = (*call.prompt_ids, *call.completion_ids)
        if call.new is None and any(other.token_ids[: len(whole)] == whole for other in self.chains):
            self.num_repeated += 1
            return
        self._continue(chain if cut is chain.last else self._fork(chain, cut), call, self._new_turns(call, cut))

    def _read(self, call: Call) -> Call:
        """Read the messages of a call from its ids, where nobody states them."""
        if self.reader is not None and call.request is None and call.new is None:
            found = self.reader.prompt(call.prompt_ids)
            if found is not None:
                call = replace(call, request=[Turn(kind=kind, text=text) for kind, text in found])
        if self.reader is not None and call.answer is None:
            call = replace(call, answer=Turn(kind="assistant", text=self.reader.completion(call.completion_ids)))
        self.num_unread += call.request is None and call.new is None
        return call

    def _fork(self, chain: _Chain | None, cut: _Cut | None) -> _Chain:
        """A branch that shares another's ids up to a place; from nothing, where it shares none."""
        cut = cut or _Cut(length=0, is_answer=False, turns=(), spans=())
        token_ids = chain.token_ids[: cut.length] if chain else ()
        self.chains.append(_Chain(token_ids=token_ids, owned_from=cut.length, cuts=[cut]))
        return self.chains[-1]

    def _extended(self, prompt_ids: tuple[int, ...]) -> tuple[_Chain, _Cut] | None:
        """The branch and the place in it up to which this prompt repeats it, the longest there is."""
        found: list[tuple[_Chain, _Cut]] = []
        for chain in self.chains:
            same = _common(chain.token_ids, prompt_ids)
            found += [(chain, cut) for cut in chain.cuts if 0 < cut.length <= same]
        return max(found, key=lambda pair: (pair[1].length, pair[1] is pair[0].last), default=None)

    def _rewritten(self, call: Call, number: int, chain: _Chain | None, cut: _Cut | None) -> None:
        """Begin a branch: the first of all, or one whose history was written anew, wholly or behind a prompt."""
        is_first = not self.chains
        if not is_first:
            same = max(_common(other.token_ids, call.prompt_ids) for other in self.chains)
            self.breaks.append({"call": number, "first_difference": same})
        branch = self._fork(chain, cut)
        request = call.request
        if call.new is not None:
            self._continue(branch, call, list(call.new))
        elif request is None:
            self._continue(branch, call, [_unknown("user")] if is_first else [])
        elif is_first:
            self._continue(branch, call, list(request))
        else:
            answers = [place for place, turn in enumerate(request) if turn.kind == "assistant"]
            behind = answers[-1] + 1 if answers else 0
            new = [turn for turn in request[behind:] if self._key(turn, len(answers)) not in self.seen]
            if not answers:
                self.context.update(range(len(self.turns), len(self.turns) + len(new)))
            self._continue(branch, call, new, copied=len(request) - len(branch.last.turns) - len(new))

    def _new_turns(self, call: Call, cut: _Cut) -> list[Turn]:
        """What the prompt shows beyond a place of a branch."""
        shown = cut.turns
        if call.new is not None:
            return list(call.new)
        if call.request is None:
            return [_unknown("tool")] if len(call.prompt_ids) > cut.length else []
        request = list(call.request)
        if len(request) >= len(shown) and (not cut.is_answer or request[len(shown) - 1].kind == "assistant"):
            return request[len(shown) :]
        answers = [place for place, turn in enumerate(request) if turn.kind == "assistant"]
        return request[answers[-1] + 1 :] if answers else []

    def _continue(self, chain: _Chain, call: Call, new: list[Turn], *, copied: int = 0) -> None:
        """Append the rest of the prompt and the completion to a branch."""
        cut = chain.last
        first = len(self.turns)
        num_answers = sum(turn.kind == "assistant" for turn in call.request or ()) if call.request else 0
        self.seen.update(self._key(turn, num_answers) for turn in new)
        # What stands in a prompt was not sampled there: demonstrations, answers of others, history that came back.
        self.turns += [replace(turn, sampled=False) if turn.kind == "assistant" else turn for turn in new]
        spans = list(cut.spans)
        delta = call.prompt_ids[cut.length :]
        if delta:
            kind = SpanKind.MIXED if new else SpanKind.SCAFFOLD
            turn = first if new else -1
            spans.append(TokenSpan(end=len(call.prompt_ids), kind=kind, turn=turn, num_turns=len(new)))
        turns = (*cut.turns, *([-1] * copied), *range(first, first + len(new)))
        chain.cuts.append(_Cut(length=len(call.prompt_ids), is_answer=False, turns=turns, spans=tuple(spans)))
        answer = len(self.turns)
        said = call.answer or _unknown("assistant")
        self.turns.append(said if call.is_policy else replace(said, sampled=False))
        token_ids = (*call.prompt_ids, *call.completion_ids)
        if call.completion_ids and call.is_policy:
            spans.append(TokenSpan(end=len(token_ids), kind=SpanKind.SAMPLED, turn=answer, num_turns=1))
            self.sampled[answer] = self._tokens(call)
        elif call.completion_ids:
            spans.append(TokenSpan(end=len(token_ids), kind=SpanKind.MIXED, turn=answer, num_turns=1))
        chain.token_ids = token_ids
        if call.completion_ids:
            shown = (*turns, answer)
            chain.cuts.append(_Cut(length=len(token_ids), is_answer=True, turns=shown, spans=tuple(spans)))

    def end(self, token_ids: tuple[int, ...], turns: Sequence[Turn] | None) -> None:
        """Add ids behind the last completion: the final observation, where a file keeps it; `turns` None: unknown."""
        chain = self.chains[-1]
        whole = (*chain.token_ids, *token_ids)
        if turns is None and self.reader is not None:
            read = [Turn(kind=kind, text=text) for kind, text in self.reader.prompt(whole) or ()]
            answers = [place for place, turn in enumerate(read) if turn.kind == "assistant"]
            turns = read[answers[-1] + 1 :] if answers else None
        new = [_unknown("tool")] if turns is None else list(turns)
        first = len(self.turns)
        self.turns += new
        kind = SpanKind.MIXED if new else SpanKind.SCAFFOLD
        span = TokenSpan(end=len(whole), kind=kind, turn=first if new else -1, num_turns=len(new))
        cut = chain.last
        chain.token_ids = whole
        shown = (*cut.turns, *range(first, len(self.turns)))
        chain.cuts.append(_Cut(length=len(whole), is_answer=False, turns=shown, spans=(*cut.spans, span)))

    def _tokens(self, call: Call) -> SampledTokens:
        logprobs = known_logprobs(call.logprobs, len(call.completion_ids))
        self.num_without_logprobs += logprobs is None
        return SampledTokens(token_ids=call.completion_ids, logprobs=logprobs, temperature=call.temperature)

    @staticmethod
    def _key(turn: Turn, num_answers: int) -> tuple[int, str, str, str | None]:
        return num_answers, turn.kind, turn.text, turn.tool_call_id

    def trajectory(self, origin: Origin, options: ImportOptions, *, final: Sequence[Turn] = ()) -> Trajectory:
        """Build the record; `final` are messages behind the last answer, which no prompt shows.

        Raises:
            DataError: there was no call.
        """
        segments = dict(origin.segments)
        for place in self.context:
            segments[place] = (Segment(source=Source.TASK, text=self.turns[place].text),)
        facts: dict[str, Any] = {
            "num_calls": self.num_calls,
            "num_repeated_calls": self.num_repeated,
            "num_calls_without_logprobs": self.num_without_logprobs,
            "num_calls_without_text": self.num_unread,
            "breaks": self.breaks,
        }
        origin = replace(origin, segments=segments, facts={**origin.facts, **facts}, action_provenance="proved")
        record = assemble([*self.turns, *final], origin, options)
        branches = [
            ExactBranch(token_ids=c.token_ids, spans=c.last.spans, owned_from=c.owned_from)
            for c in self.chains
            if c.last.spans
        ]
        return with_ids(record, branches, self.sampled, options)


def assemble_with_calls(
    turns: Sequence[Turn], calls: Mapping[int, Call], origin: Origin, options: ImportOptions
) -> Trajectory:
    """Build the record of an episode whose file keeps text and, beside some answers, the ids of their call.

    `calls` are by place of their answer. Ids are kept where every sampled answer has them; else the episode is text.

    Raises:
        DataError: there is no turn, or a call has no prompt.
    """
    answers = [place for place, turn in enumerate(turns) if turn.kind == "assistant" and turn.sampled]
    origin = replace(origin, facts={**origin.facts, "num_calls_with_ids": len(calls)})
    if not answers or any(place not in calls for place in answers):
        return assemble(turns, origin, options)
    found = Calls()
    behind = 0
    for place in answers:
        found.add(replace(calls[place], new=turns[behind:place], answer=turns[place]))
        behind = place + 1
    return found.trajectory(origin, options, final=turns[behind:])


def with_ids(
    record: Trajectory, branches: Sequence[ExactBranch], sampled: dict[int, SampledTokens], options: ImportOptions
) -> Trajectory:
    """Add exact ids to an assembled record, unless the options ask for its text alone.

    `sampled` are the ids of the turns that the policy wrote, by place.
    """
    if options.text_only or options.calls_as_text or not branches:
        return record
    messages = tuple(_with_sampled(message, sampled.get(place)) for place, message in enumerate(record.messages))
    known = [tokens.logprobs is not None for tokens in sampled.values()]
    facts = {
        **record.metadata["import"],
        "token_exact": True,
        "has_logprobs": bool(known) and all(known),
        "num_branches": len(branches),
    }
    return Trajectory(
        id=record.id,
        task_id=record.task_id,
        group_id=record.group_id,
        messages=messages,
        tools=record.tools,
        reward=record.reward,
        stop_reason=record.stop_reason,
        metadata={**record.metadata, "import": facts},
        branches=tuple(branches),
    )


def _with_sampled(message: Message, sampled: SampledTokens | None) -> Message:
    has_text = message.segments or message.tool_calls or message.reasoning
    labels = message.labels if has_text else {**message.labels, **UNKNOWN_TEXT}
    return message.model_copy(update={"sampled": sampled, "labels": labels})


def _unknown(kind: str) -> Turn:
    assert kind in ("user", "assistant", "tool")
    return Turn(kind=kind, text="")  # pyright: ignore[reportArgumentType]


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many ids two runs share at their beginning."""
    length = min(len(one), len(other))
    differs = np.flatnonzero(np.asarray(one[:length]) != np.asarray(other[:length]))
    return int(differs[0]) if len(differs) else length
