"""The record of one episode: `Trajectory`, made of `Message` and `Segment`.

Everything that a trajectory says was known when it happened; nothing here is derived. Exact token ids of whole prompts
are in `branches`. Not here: tokens of text that no sampler saw (`envecho.tokens`), and what is trained
(`envecho.objective`).
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, model_validator

from envecho.trajectory.branches import ExactBranch, SpanKind
from envecho.trajectory.roles import Source

ChatRole = Literal["system", "user", "assistant", "tool"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StopReason(StrEnum):
    """Why an episode ended. A failed episode is data: every reason keeps its transcript."""

    COMPLETED = "completed"
    MAX_TURNS = "max_turns"
    MAX_TOKENS = "max_tokens"
    TIMEOUT = "timeout"
    WORLD_ERROR = "world_error"
    POLICY_ERROR = "policy_error"
    UNKNOWN = "unknown"


class Segment(_Record):
    """A run of text with one writer."""

    source: Source
    text: str
    tool: str | None = None


class ToolCall(_Record):
    """A structured call; `arguments` is JSON text, as the policy wrote it."""

    name: str
    arguments: str
    id: str | None = None


class SampledTokens(_Record):
    """The exact ids that a sampler produced, with their log-probs under the sampling distribution.

    `logprobs`, `temperature` and `entropies` (nats, of the distribution that each id was drawn from) are None where
    they are unknown. Ids include the end-of-turn token if it was sampled.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...] | None = None
    temperature: float | None = None
    entropies: tuple[float, ...] | None = None

    @model_validator(mode="after")
    def _lengths_agree(self) -> SampledTokens:
        if self.logprobs is not None and len(self.logprobs) != len(self.token_ids):
            raise ValueError(f"{len(self.token_ids)} token ids but {len(self.logprobs)} log-probs")
        if self.logprobs is not None and not all(math.isfinite(x) and x <= 1e-6 for x in self.logprobs):
            raise ValueError("log-probs must be finite and at most 0; use None where they are unknown")
        if self.entropies is not None and len(self.entropies) != len(self.token_ids):
            raise ValueError(f"{len(self.token_ids)} token ids but {len(self.entropies)} entropies")
        if self.entropies is not None and not all(math.isfinite(x) and x >= -1e-6 for x in self.entropies):
            raise ValueError("entropies must be finite and at least 0; use None where they are unknown")
        return self


class Message(_Record):
    """One turn of the chat; the joined text of its segments is the message's content.

    Example:
        >>> Message(role="user", segments=(
        ...     Segment(source=Source.STDOUT, text="2 errors\\n"),
        ...     Segment(source=Source.STATUS, text="[exit status 1]"),
        ... )).content
        '2 errors\\n[exit status 1]'

    `labels` are facts that the world's generator states about this message, such as `{"view": "derivable",
    "operation": "filter"}`; nobody guesses them afterwards.
    An import adds `redacted`: the kinds of secret that the turn's reasoning, calls or exact ids held.
    """

    role: ChatRole
    segments: tuple[Segment, ...]
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    sampled: SampledTokens | None = None
    labels: dict[str, str] = {}

    @property
    def content(self) -> str:
        """The text that the chat template receives."""
        return "".join(segment.text for segment in self.segments)


class Trajectory(_Record):
    """One episode: who said what, in order, and what it was worth.

    `task_id` names the task (bootstrap intervals cluster by it); `group_id` the group of rollouts whose rewards are
    compared; `reward` is None where nobody graded. `tools` are tool schemas as the chat template takes them.
    `branches` are the exact ids that a model read and wrote, where somebody kept them: then nothing is tokenised again,
    and the messages say what the ids mean. Change messages with `with_messages`, which drops them.
    """

    id: str
    task_id: str
    messages: tuple[Message, ...]
    group_id: str | None = None
    tools: tuple[dict[str, Any], ...] = ()
    reward: float | None = None
    stop_reason: StopReason = StopReason.UNKNOWN
    metadata: dict[str, Any] = {}
    branches: tuple[ExactBranch, ...] = ()

    @model_validator(mode="after")
    def _branches_are_of_these_messages(self) -> Trajectory:
        for number, branch in enumerate(self.branches):
            start = 0
            for span in branch.spans:
                if span.turn < -1 or span.turn + span.num_turns > len(self.messages):
                    raise ValueError(
                        f"branch {number}: a span is of messages {span.turn} to {span.turn + span.num_turns - 1}, "
                        f"and the trajectory has {len(self.messages)}"
                    )
                if span.kind is SpanKind.SAMPLED:
                    sampled = self.messages[span.turn].sampled
                    if sampled is None or sampled.token_ids != branch.token_ids[start : span.end]:
                        raise ValueError(f"branch {number}: the ids of turn {span.turn} are not those of its message")
                start = span.end
        return self

    def with_messages(self, messages: tuple[Message, ...]) -> Self:
        """Return the trajectory with other messages, and without the ids that belonged to the old ones."""
        return self.model_copy(update={"messages": messages, "branches": ()})
