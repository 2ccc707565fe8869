"""Exact token ids of an episode, as a model read and wrote them: `ExactBranch`, whose spans say whose they are.

A source that keeps the ids of every model call (a trainer, an inference proxy) needs no tokenizer to say who wrote
what; a tokenizer is asked only where one span holds text of several writers (`envecho.tokens`). Not here: how calls
become branches (`envecho.formats`).
"""

from __future__ import annotations

import itertools
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, model_validator


class SpanKind(StrEnum):
    """What a run of exact ids is.

    `SCAFFOLD`: the template's, or a copy of what an earlier branch or span showed: context. `CONTENT`: the content of
    one message and nothing else. `SAMPLED`: what the policy wrote, the `sampled` ids of its message. `MIXED`: the
    contents of messages with the template's text around them, which the ids alone do not tell apart.
    """

    SCAFFOLD = "scaffold"
    CONTENT = "content"
    SAMPLED = "sampled"
    MIXED = "mixed"


class TokenSpan(BaseModel):
    """Ids from the end of the span before up to `end`; they show `num_turns` messages from message `turn` on.

    `turn` is -1 where no message is meant. Only `MIXED` spans may show several messages, or none that is new.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    end: int
    kind: SpanKind
    turn: int = -1
    num_turns: int = 0

    @model_validator(mode="after")
    def _turns_fit_the_kind(self) -> TokenSpan:
        if self.kind in (SpanKind.CONTENT, SpanKind.SAMPLED) and (self.turn < 0 or self.num_turns != 1):
            raise ValueError(f"a span of kind {self.kind} is of one message; found {self.num_turns} from {self.turn}")
        if self.num_turns < 0 or (self.num_turns and self.turn < 0):
            raise ValueError(f"a span shows messages from 0 on; found {self.num_turns} from {self.turn}")
        return self


class ExactBranch(BaseModel):
    """One linear run of ids: what stood in the context of the model calls of this branch, and what they added.

    Tokens before `owned_from` are owned by an earlier branch, whose ids this one continues.

    Example: one call, whose prompt shows messages 0 and 1; the prompt of the next shows message 3.

        token_ids   <s>sys  task  <a> | ls -1 <e> | \\n <t> a.log  <e><a> | wc ...
        spans       MIXED 0 +2          SAMPLED 2   MIXED 3 +1             SAMPLED 4
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    token_ids: tuple[int, ...]
    spans: tuple[TokenSpan, ...]
    owned_from: int = 0

    @model_validator(mode="after")
    def _spans_tile_the_ids(self) -> ExactBranch:
        ends = [0, *(span.end for span in self.spans)]
        if ends[-1] != len(self.token_ids) or any(b <= a for a, b in itertools.pairwise(ends)):
            raise ValueError(f"spans end at {ends[1:]}, expected rising ends up to {len(self.token_ids)}")
        if not 0 <= self.owned_from <= len(self.token_ids):
            raise ValueError(f"owned_from is {self.owned_from}, expected 0 to {len(self.token_ids)}")
        if self.token_ids and min(self.token_ids) < 0:
            raise ValueError(f"token ids are from 0 on; found {min(self.token_ids)}")
        return self
