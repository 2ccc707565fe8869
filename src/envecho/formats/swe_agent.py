"""SWE-agent `.traj`: `history` is what the model read, `trajectory` what the commands printed.

An observation's body is the raw one of `trajectory`, found in the message that wraps it. The observation of the last
submit is the patch, which the model never saw, and stands in no message. Demonstrations were not sampled, and what the
harness writes as an answer was not either. Where steps keep their prompts (`query`), those are read instead of the
history: processors cut old observations out, and a prompt that does not continue the one before begins a new episode.
Not here: the words that SWE-agent writes around an output (`rules`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from envecho.errors import DataError
from envecho.formats.assemble import ImportOptions, Origin, assemble
from envecho.formats.reading import MALFORMED, Document, Refused, refuse
from envecho.formats.rules import PACKS, Rule, split
from envecho.formats.text_calls import TextCall, text_episodes
from envecho.formats.turns import Turn, turns_of
from envecho.trajectory import Segment, Source, Trajectory

NAME = "swe-agent"
_LONG = 40
_WRITTEN_BY_HARNESS = ("Exit due to", "Exiting due to", "exit_forfeit", "Exited (autosubmitted)")
_BY_HARNESS_ACTIONS = ("exit_cost", "exit_context", "exit_format", "exit_api", "exit_error", "exit_forfeit", "skip")


def recognises(data: Any) -> bool:
    """Whether the document has SWE-agent's history of messages, or attempts that have."""
    if not isinstance(data, Mapping):
        return False
    if isinstance(data.get("attempts"), list) and any(map(recognises, data["attempts"])):
        return True
    history = data.get("history")
    return isinstance(history, list) and any(isinstance(m, Mapping) and "role" in m for m in history)


def read(document: Document, options: ImportOptions, *, number: int | None = None) -> Iterator[Trajectory | Refused]:
    """Yield the episodes of a run, or those of each of its attempts.

    Raises:
        DataError: the history cannot be read.
    """
    attempts = document.data.get("attempts")
    if not isinstance(attempts, list) or not any(map(recognises, attempts)):
        yield from _run(document, document.data, options, number)
        return
    for place, attempt in enumerate(attempts):
        try:
            if not recognises(attempt):
                raise DataError("expected an attempt with a history", turn=place)
            yield from _run(document, attempt, options, 1000 * (number or 0) + place)
        except MALFORMED as error:
            yield refuse(document, error, place=f"attempt {place}")


def _run(
    document: Document, data: Mapping[str, Any], options: ImportOptions, number: int | None
) -> Iterator[Trajectory]:
    stored = data.get("trajectory")
    steps = [step for step in stored if isinstance(step, Mapping)] if isinstance(stored, list) else []
    info: Mapping[str, Any] = data["info"] if isinstance(data.get("info"), Mapping) else {}
    models = info.get("model_stats")
    nobody = isinstance(models, Mapping) and models.get("api_calls") == 0
    cutting = options.rules + PACKS["swe-agent"]
    told = list(_told(data["history"], steps))
    for part, turns in enumerate(told):
        if not any(turn.kind == "assistant" for turn in turns):
            raise DataError("expected at least one assistant message in history, found none")
        segments = _cut(turns, steps, cutting)
        origin = Origin(
            format=NAME,
            document=document,
            number=number if len(told) == 1 else 1000 * (number or 0) + part,
            task=str(info["instance_id"]) if isinstance(info.get("instance_id"), str) else None,
            pack="swe-agent",
            world_speaks_as_user=True,
            action_provenance="not_sampled" if nobody else "assumed",
            segments=segments,
            facts={
                "exit_status": info.get("exit_status"),
                "num_observations_matched": len(segments),
                "part": part if len(told) > 1 else None,
            },
        )
        yield assemble(turns, origin, options)


def _told(history: Sequence[Any], steps: Sequence[Mapping[str, Any]]) -> Iterator[list[Turn]]:
    """The turns of each episode: of the recorded prompts where every step has its own, else of the history."""
    prompts = [_prompt(step) for step in steps]
    if prompts and all(prompts):
        calls = [
            TextCall(prompt=prompt, answer=str(step.get("response") or ""))
            for prompt, step in zip(prompts, steps, strict=True)
        ]
        for episode in text_episodes(calls):
            turns = turns_of(_with_calls(episode.messages, history))
            given = len(turns_of(episode.messages[: episode.num_given]))
            yield [
                replace(turn, sampled=turn.sampled and place >= given)
                for place, turn in enumerate(map(_with_provenance, turns))
            ]
    else:
        yield [_with_provenance(turn) for turn in turns_of(history)]


def _prompt(step: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The recorded prompt of a step, empty where there is none; `messages` go on to its answer and what came of it."""
    stored = step.get("query") or step.get("messages")
    prompt = [m for m in stored if isinstance(m, Mapping)] if isinstance(stored, list) else []
    if step.get("query"):
        return prompt
    answers = [place for place, message in enumerate(prompt) if message.get("role") == "assistant"]
    return prompt[: answers[-1]] if answers else prompt


def _with_calls(messages: Sequence[Mapping[str, Any]], history: Sequence[Any]) -> list[Mapping[str, Any]]:
    """The last answer as the history holds it: a step leaves its calls out."""
    last = messages[-1]
    same = (m for m in reversed(history) if isinstance(m, Mapping) and m.get("role") == "assistant")
    found = next((m for m in same if m.get("content") == last.get("content")), last)
    return [*messages[:-1], found] if last.get("role") == "assistant" else list(messages)


def _with_provenance(turn: Turn) -> Turn:
    raw = turn.raw or {}
    by_harness = turn.text.startswith(_WRITTEN_BY_HARNESS) or raw.get("action") in _BY_HARNESS_ACTIONS
    return replace(turn, sampled=turn.sampled and not raw.get("is_demo") and not by_harness)


def _cut(
    turns: Sequence[Turn], steps: Sequence[Mapping[str, Any]], rules: tuple[Rule, ...]
) -> dict[int, tuple[Segment, ...]]:
    """Cut each observation at the raw one of its step, which lies behind the answer that the step tells.

    Where no answer is the step's (replays edit them), a long output is looked for in every later message.
    """
    segments: dict[int, tuple[Segment, ...]] = {}
    start = 0
    for step in steps:
        answer = next((p for p in range(start, len(turns)) if _is_answer_of(turns[p], step)), None)
        start = start if answer is None else answer + 1
        raw = step.get("observation")
        if not isinstance(raw, str) or not raw.strip() or (answer is None and len(raw) < _LONG):
            continue
        for place in range(start, len(turns)):
            turn = turns[place]
            if turn.kind == "assistant" and answer is not None:
                break
            if turn.kind != "assistant" and raw in turn.text:
                segments[place] = _around(turn.text, raw, rules)
                break
    return segments


def _is_answer_of(turn: Turn, step: Mapping[str, Any]) -> bool:
    if turn.kind != "assistant":
        return False
    action = (turn.raw or {}).get("action")
    same_action = isinstance(action, str) and bool(action.strip()) and action == step.get("action")
    return turn.text.strip() == str(step.get("response") or "").strip() or same_action


def _around(text: str, raw: str, rules: tuple[Rule, ...]) -> tuple[Segment, ...]:
    """The raw output as body; around it everything is the harness's, whatever no rule matches."""
    start = text.find(raw)
    before, after = text[:start], text[start + len(raw) :]
    return (
        *split(before, rules, body=Source.WRAPPER),
        *split(raw, rules, body=Source.STDOUT),
        *split(after, rules, body=Source.WRAPPER),
    )
