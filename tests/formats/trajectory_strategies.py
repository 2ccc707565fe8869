"""Random trajectories for property tests: every source, tools, reasoning, empty contents, unicode, exact ids."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from envecho.trajectory import (
    ExactBranch,
    Message,
    SampledTokens,
    Segment,
    Source,
    SpanKind,
    StopReason,
    TokenSpan,
    ToolCall,
    Trajectory,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    [
        "",
        "\n",
        "a\r\nb",
        "\x1b[31mred",
        "</tool_response>",
        '{"a": 1}',
        "\u2028",
        "🙂é",
        "\x00",
        "ab" * 40,
        "<returncode>0</returncode>\n<output>\nx\n</output>",
        "OBSERVATION:\nx",
        "[GAME] x",
    ]
)
NAME = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
PLAIN = (
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(allow_nan=False, allow_infinity=False) | TEXT
)
JSON = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAME, inner, max_size=2), max_leaves=4
)
ARGUMENTS = (
    TEXT
    | st.dictionaries(NAME, PLAIN, max_size=2).map(json.dumps)
    | st.sampled_from(['{"x": NaN}', '{"x": 1e999}', '{"a":1,"a":2}', '{"s": "\\ud800"}', "[]", "{", '{ "a" : 1 }'])
)
FINITE = st.floats(-50, 0, allow_nan=False)


@st.composite
def sampled_tokens(draw: st.DrawFn) -> SampledTokens:
    ids = draw(st.lists(st.integers(0, 2**31 - 1), max_size=4))
    per_token = st.none() | st.lists(FINITE, min_size=len(ids), max_size=len(ids))
    entropies = draw(per_token)
    return SampledTokens(
        token_ids=tuple(ids),
        logprobs=draw(per_token),
        temperature=draw(st.none() | st.floats(0, 2)),
        entropies=None if entropies is None else tuple(-value for value in entropies),
    )


@st.composite
def messages(draw: st.DrawFn) -> Message:
    role = draw(st.sampled_from(["system", "user", "assistant", "tool"]))
    segments = st.builds(Segment, source=st.sampled_from(list(Source)), text=TEXT, tool=st.none() | NAME)
    return Message(
        role=role,  # pyright: ignore[reportArgumentType]
        segments=tuple(draw(st.lists(segments, max_size=3))),
        reasoning=draw(st.none() | TEXT),
        tool_calls=tuple(
            draw(st.lists(st.builds(ToolCall, name=NAME, arguments=ARGUMENTS, id=st.none() | NAME), max_size=2))
        ),
        tool_call_id=draw(st.none() | NAME),
        name=draw(st.none() | NAME),
        sampled=draw(st.none() | sampled_tokens()) if role == "assistant" else None,
        labels=draw(st.dictionaries(NAME, TEXT, max_size=2)),
    )


@st.composite
def branches(draw: st.DrawFn, said: list[Message]) -> tuple[ExactBranch, ...]:
    """One branch that shows every sampled turn behind a prompt."""
    ids: list[int] = []
    spans: list[TokenSpan] = []
    for place, message in enumerate(said):
        if message.sampled is not None and message.sampled.token_ids and draw(st.booleans()):
            prompt = draw(st.lists(st.integers(0, 99), min_size=1, max_size=3))
            spans.append(TokenSpan(end=len(ids) + len(prompt), kind=SpanKind.SCAFFOLD))
            ids += [*prompt, *message.sampled.token_ids]
            spans.append(TokenSpan(end=len(ids), kind=SpanKind.SAMPLED, turn=place, num_turns=1))
    return (ExactBranch(token_ids=tuple(ids), spans=tuple(spans)),) if ids else ()


@st.composite
def trajectories(draw: st.DrawFn) -> Trajectory:
    said = draw(st.lists(messages(), min_size=1, max_size=6))
    metadata: dict[str, Any] = draw(st.dictionaries(NAME, JSON, max_size=2))
    metadata.pop("import", None)
    return Trajectory(
        id=draw(NAME),
        task_id=draw(NAME),
        group_id=draw(st.none() | NAME),
        messages=tuple(said),
        tools=tuple(draw(st.lists(st.dictionaries(NAME, JSON, max_size=2), max_size=2))),
        reward=draw(st.none() | st.floats(allow_nan=False, allow_infinity=False)),
        stop_reason=draw(st.sampled_from(list(StopReason))),
        metadata=metadata,
        branches=draw(branches(said)),
    )
