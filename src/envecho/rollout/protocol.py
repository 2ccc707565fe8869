"""How observations become messages, and an assistant turn the action of a world: the tool protocols.

`text`, for every chat model: the tools stand in the system message, a call is text, answers are user messages.
`template`: the chat template writes the tools, a script's calls are structured, answers are tool messages; a sampled
turn is the ids that were drawn, whatever they say. A world that states no tools is the same under both. Not here: who
acts, and what a call does (`envecho.worlds.tool_calls` says how one is written).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal, cast

from envecho.seam import Observation
from envecho.trajectory import CALL_LABEL, CallOutcome, Message, Segment, Source, ToolCall
from envecho.worlds.tool_calls import CallText, describe_tools, parse_action

ToolProtocol = Literal["text", "template"]

_SPOILED = {Source.STDERR, Source.TRUNCATION_NOTICE, Source.TIMEOUT_NOTICE, Source.TOOL_ERROR}


def opening_messages(observation: Observation, *, tool_protocol: ToolProtocol = "text") -> list[Message]:
    """Return the messages of a world's first observation: what the system says, and the task.

    Under `text` the system message describes the tools that the observation states, and is made for it if need be.
    """
    system = [segment for segment in observation.segments if segment.source is Source.SYSTEM]
    rest = tuple(segment for segment in observation.segments if segment.source is not Source.SYSTEM)
    if observation.tools and tool_protocol == "text":
        before = "\n\n" if system else ""
        system.append(Segment(source=Source.SYSTEM, text=before + describe_tools(observation.tools)))
    opening = [Message(role="system", segments=tuple(system))] if system else []
    return [*opening, Message(role="user", segments=rest, labels=dict(observation.labels))]


def stated_tools(observation: Observation) -> tuple[dict[str, Any], ...]:
    """Return the tools of a first observation as plain JSON values, as a trajectory keeps them."""
    return tuple(json.loads(json.dumps(dict(tool))) for tool in observation.tools)


def tool_names(tools: tuple[dict[str, Any], ...]) -> list[str]:
    """Return the names of the tools, for `Trajectory.metadata`."""
    return [str(tool.get("function", tool).get("name")) for tool in tools]


def answer_message(
    observation: Observation, labels: Mapping[str, str], *, action: Message | None = None, as_tool: bool = False
) -> Message:
    """Return the message of a world's answer, its labels joined with the policy's.

    A failed or cut answer is no longer what the policy announced, unless it announced the error itself (`operation`).
    `as_tool` makes it a tool message, which names the structured call of `action`; what a simulated user says stays a
    user message.
    """
    announced = labels.get("operation") == "error"
    if labels and not announced and any(segment.source in _SPOILED for segment in observation.segments):
        labels = {"view": "other"}
    replies = any(segment.source is Source.USER_REPLY for segment in observation.segments)
    calls = action.tool_calls if action is not None else ()
    return Message(
        role="tool" if as_tool and not replies else "user",
        segments=observation.segments,
        tool_call_id=calls[0].id if as_tool and not replies and calls else None,
        labels={**observation.labels, **labels},
    )


def structured_call(message: Message, *, number: int) -> Message:
    """Return an assistant turn with its call in `tool_calls` and not in its text; any other turn as it is.

    A sampled turn is never touched. Thinking in front of the call becomes the message's reasoning.
    """
    call = parse_action(message.content) if message.sampled is None and not message.tool_calls else None
    if not isinstance(call, CallText):
        return message
    thought, closed, _ = message.content.partition("</think>")
    arguments = json.dumps(dict(call.arguments), ensure_ascii=False)
    return message.model_copy(
        update={
            "segments": (),
            "reasoning": thought.partition("<think>")[2].strip() if closed else message.reasoning,
            "tool_calls": (ToolCall(name=call.name, arguments=arguments, id=f"call-{number}"),),
        }
    )


def action_text(message: Message) -> str:
    """Return the action that a world gets: the text of the turn, or its structured calls in the protocol's own form."""
    return message.content or "\n".join(map(_call_text, message.tool_calls))


def _call_text(call: ToolCall) -> str:
    """The call as text; arguments that are no JSON object stay what they are, and the world says so."""
    try:
        arguments: Any = json.loads(call.arguments)
    except ValueError:
        arguments = None
    if not isinstance(arguments, dict):
        return json.dumps({"name": call.name, "arguments": call.arguments}, ensure_ascii=False)
    return str(CallText(name=call.name, arguments=cast(dict[str, Any], arguments)))


def harness_error(error: Exception, *, as_tool: bool = False) -> Message:
    """Return the message that keeps what went wrong where an answer should stand."""
    return _harness_message(Source.HARNESS_ERROR, str(error), as_tool)


def timeout_notice(text: str, *, as_tool: bool = False) -> Message:
    """Return the message that says that a deadline of the rollout ended the episode."""
    return _harness_message(Source.TIMEOUT_NOTICE, text, as_tool)


def cut_notice(num_tokens: int, *, as_tool: bool = False) -> Message:
    """Return what answers a turn that reached its last token without an end."""
    text = f"[the reply was cut after {num_tokens} tokens and not carried out]"
    return Message(
        role="tool" if as_tool else "user",
        segments=(Segment(source=Source.FORMAT_WARNING, text=text),),
        labels={CALL_LABEL: CallOutcome.UNPARSED.value},
    )


def _harness_message(source: Source, text: str, as_tool: bool) -> Message:
    return Message(role="tool" if as_tool else "user", segments=(Segment(source=source, text=text),))
