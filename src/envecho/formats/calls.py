"""Model calls with token ids, one per line: the format to ask any trainer, server or proxy for.

    {"episode": "run-7/3", "prompt_ids": [...], "completion_ids": [...], "logprobs": [...], "temperature": 1.0,
     "messages": [...], "response": {...}, "task": "...", "group": "...", "reward": 1.0}

Lines of one episode may lie apart. docs/formats/calls.md describes the fields. Read as well: documents with `calls`;
rLLM episodes (`trajectories[].steps[]`); transitions of tinker-cookbook; rows of TRL, verl and SkyRL with a mask over
their completion; batches of SkyRL; recorded requests and responses of a server that returns token ids. Not here: what
follows from the ids (`exact`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from envecho.errors import DataError
from envecho.formats import token_fields
from envecho.formats.assemble import ImportOptions, Origin
from envecho.formats.exact import Call, Calls
from envecho.formats.reading import Document, Refused
from envecho.formats.token_fields import COMPLETION, LOGPROBS, MASK, PROMPT, has_call, is_number
from envecho.formats.turns import Turn, turns_of
from envecho.trajectory import StopReason, Trajectory

NAME = "calls"
_EPISODE = ("episode", "episode_id", "rollout_id", "trajectory_id")
_MESSAGES = ("messages", "chat_completions")
_BATCHED = (*PROMPT, *COMPLETION, *MASK, *LOGPROBS, "rewards", "trajectory_ids", "stop_reasons")


def recognises(data: Any) -> bool:
    """Whether a document holds model calls with ids."""
    return recognises_line(data) or (isinstance(data, Mapping) and any(map(_are_calls, _lists(data))))


def recognises_line(data: Any) -> bool:
    """Whether a line is one call."""
    return isinstance(data, Mapping) and (has_call(data) or has_call(_of_server(data)))


def _lists(data: Mapping[str, Any]) -> Iterator[Any]:
    """Where a document may hold a list of calls."""
    yield data.get("calls")
    yield data.get("transitions")
    for trajectory in data.get("trajectories") or () if isinstance(data.get("trajectories"), list) else ():
        yield trajectory.get("steps") if isinstance(trajectory, Mapping) else None


def _are_calls(rows: Any) -> bool:
    if not isinstance(rows, list) or not rows or not isinstance(rows[0], Mapping):
        return False
    return has_call(rows[0]) or has_call(_of_server(rows[0])) or "ob" in rows[0]


def read(document: Document, options: ImportOptions, *, number: int | None = None) -> Iterator[Trajectory]:
    """Yield the episodes of a document with calls, or of one row.

    Raises:
        DataError: ids are missing or no ids; it names the call.
    """
    data: Mapping[str, Any] = document.data
    if recognises_line(data):
        several = [(list_of_one, _shared(list_of_one[0])) for list_of_one in ([row] for row in _unbatched(data))]
    elif isinstance(data.get("trajectories"), list):
        several = [
            (inner["steps"], {**_shared(data), **_shared(inner)})
            for inner in data["trajectories"]
            if isinstance(inner, Mapping) and _are_calls(inner.get("steps"))
        ]
    elif _are_calls(data.get("transitions")):
        several = [([_of_transition(row) for row in data["transitions"]], _shared(data))]
    else:
        several = [(data["calls"], _shared(data))]
    for place, (rows, facts) in enumerate(several):
        where = number if len(several) == 1 else (number or 0) * 1000 + place
        yield _episode(document, rows, facts, options, where)


def read_lines(documents: Iterable[Document], options: ImportOptions) -> Iterator[Trajectory | Refused]:
    """Yield the episodes of a file of lines, in the order in which they begin, and those that cannot be read.

    A line with `"done": true` closes its episode, which then leaves memory; the others are kept to the end.
    """
    opened: dict[str, list[Document]] = {}
    for document in documents:
        if not recognises_line(document.data):
            yield from read(document, options)
            continue
        for row in _unbatched(document.data):
            line = replace(document, data=row)
            episode = token_fields.field(row, _EPISODE)
            if episode is None:
                yield from _guarded([line], _shared(row), options)
                continue
            name = str(episode[1])
            opened.setdefault(name, []).append(line)
            if row.get("done") is True:
                yield from _closed(name, opened.pop(name), options)
    for name, lines in opened.items():
        yield from _closed(name, lines, options)


def _closed(name: str, lines: Sequence[Document], options: ImportOptions) -> Iterator[Trajectory | Refused]:
    facts: dict[str, Any] = {}
    for line in lines:
        facts |= _shared(line.data)
    yield from _guarded(lines, {**facts, "episode": name}, options)


def _guarded(
    lines: Sequence[Document], facts: Mapping[str, Any], options: ImportOptions
) -> Iterator[Trajectory | Refused]:
    """One episode's lines: an episode, or the line and the reason why it is none."""
    try:
        yield _episode(lines[0], [line.data for line in lines], facts, options, None)
    except DataError as error:
        place = error.turn if error.turn is not None and error.turn < len(lines) else 0
        yield Refused(document=lines[place], error=error)


def _shared(row: Mapping[str, Any]) -> dict[str, Any]:
    """What a row says of its whole episode."""
    names = (
        "task",
        "task_id",
        "group",
        "group_id",
        "reward",
        "stop_reason",
        "tools",
        "final",
        "final_ids",
        "model",
        "episode",
    )
    found = {name: row[name] for name in names if row.get(name) is not None}
    score = token_fields.field(row, ("reward_score", "rewards", "score"))
    if "reward" not in found and score is not None and is_number(score[1]):
        found["reward"] = score[1]
    return found


def _episode(
    document: Document, rows: Sequence[Any], facts: Mapping[str, Any], options: ImportOptions, number: int | None
) -> Trajectory:
    calls = Calls(reader=options.reader)
    behind = _Behind()
    for place, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise DataError(f"expected a call, found {type(row).__name__}", turn=place)
        for call in _calls(row, place, behind):
            calls.add(call)
    task = token_fields.field(facts, ("task_id", "task"))
    reward = facts.get("reward")
    if reward is not None and not is_number(reward):
        raise DataError(f"reward: expected a number, found {reward!r:.40}")
    final = facts.get("final")
    origin = Origin(
        format=NAME,
        document=document,
        number=number,
        task=task[1] if task and isinstance(task[1], str) else None,
        reward=None if reward is None else float(reward),
        world_speaks_as_user=True,
        tools=tuple(dict(t) for t in facts.get("tools") or () if isinstance(t, Mapping)),
        facts={"episode": facts.get("episode"), "model": facts.get("model")},
    )
    if final is not None:
        behind.turns = turns_of(final)
    if "final_ids" in facts:
        behind.token_ids = token_fields.ids(facts, ("final_ids",), len(rows) - 1)
    if behind.token_ids:
        calls.end(behind.token_ids, behind.turns)
        behind.turns = None
    record = calls.trajectory(origin, options, final=behind.turns or ())
    group = token_fields.field(facts, ("group_id", "group"))
    episode = facts.get("episode")
    return record.model_copy(
        update={
            "id": record.id if episode is None else f"{document.file}:{episode}",
            "group_id": None if group is None else str(group[1]),
            "stop_reason": _stop_reason(facts.get("stop_reason")),
        }
    )


def _stop_reason(stated: Any) -> StopReason:
    known = {reason.value: reason for reason in StopReason}
    spelled = {"stop": "completed", "done": "completed", "eos": "completed", "length": "max_tokens"}
    return known.get(spelled.get(str(stated), str(stated)), StopReason.UNKNOWN)


@dataclass(kw_only=True)
class _Behind:
    """What follows the last answer: ids, where a file keeps them, and messages."""

    token_ids: tuple[int, ...] = ()
    turns: list[Turn] | None = None


def _calls(row: Mapping[str, Any], place: int, behind: _Behind) -> Iterator[Call]:
    """The calls of a row: one, or one for each run of a mask over its completion."""
    flat = row if has_call(row) else _of_server(row)
    prompt, completion = token_fields.ids(flat, PROMPT, place), token_fields.ids(flat, COMPLETION, place)
    logprobs, temperature = token_fields.logprobs(flat), token_fields.temperature(flat)
    messages = token_fields.field(flat, _MESSAGES)
    request = None if messages is None else turns_of(messages[1])
    answer = turns_of([flat["response"]])[-1] if isinstance(flat.get("response"), Mapping) else None
    mask = token_fields.field(flat, MASK)
    if mask is not None:
        yield from _masked(mask, (prompt, completion), (logprobs, temperature), request, behind, place)
        return
    if answer is None and request and request[-1].kind == "assistant":
        # Cumulative messages, as rLLM keeps them, end with the answer.
        answer, request = request[-1], request[:-1]
    yield Call(
        prompt_ids=prompt,
        completion_ids=completion,
        logprobs=logprobs,
        temperature=temperature,
        request=request,
        answer=answer,
        is_policy=flat.get("is_policy") is not False,
    )


def _masked(
    mask: tuple[str, Any],
    ids: tuple[tuple[int, ...], tuple[int, ...]],
    sampling: tuple[tuple[float, ...] | None, float | None],
    messages: Sequence[Turn] | None,
    behind: _Behind,
    place: int,
) -> Iterator[Call]:
    """A completion over several turns: 1 where the model wrote, 0 where the world and the template did."""
    name, values = mask
    (prompt, completion), (logprobs, temperature) = ids, sampling
    if not isinstance(values, list) or len(values) != len(completion) or any(v not in (0, 1) for v in values):
        raise DataError(f"{name}: expected 0 or 1 for each of {len(completion)} ids of the completion", turn=place)
    aligned = logprobs if logprobs is not None and len(logprobs) == len(completion) else None
    answers = [k for k, turn in enumerate(messages or ()) if turn.kind == "assistant"]
    num_runs = sum(bool(key) for key, _ in groupby(values))
    answers = answers[len(answers) - num_runs :] if len(answers) >= num_runs else []
    at = run_number = 0
    for written, run in groupby(values):
        end = at + len(list(run))
        if written:
            turn = answers[run_number] if answers else None
            yield Call(
                prompt_ids=(*prompt, *completion[:at]),
                completion_ids=completion[at:end],
                logprobs=None if aligned is None else aligned[at:end],
                temperature=temperature,
                request=None if turn is None or messages is None else messages[:turn],
                answer=None if turn is None or messages is None else messages[turn],
            )
            run_number += 1
        at = end
    if not num_runs:
        raise DataError(f"{name}: expected at least one token that the model wrote, found none", turn=place)
    behind.turns = list(messages[answers[-1] + 1 :]) if messages and answers else None
    # Zeros at the end are the final observation, behind the last completion.
    behind.token_ids = completion[len(completion) - values[::-1].index(1) :]


def _of_server(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """A recorded request and the response of a server that returns token ids (vLLM's `return_token_ids`)."""
    request, response = row.get("request"), row.get("response")
    if not isinstance(response, Mapping) or not isinstance(response.get("choices"), list) or not response["choices"]:
        return {}
    choice = response["choices"][0]
    if not isinstance(choice, Mapping):
        return {}
    asked: Mapping[str, Any] = request if isinstance(request, Mapping) else {}
    found = {
        "prompt_ids": token_fields.field(choice, PROMPT) or token_fields.field(response, PROMPT),
        "completion_ids": token_fields.field(choice, ("token_ids", *COMPLETION)),
    }
    return {
        **{name: pair[1] for name, pair in found.items() if pair is not None},
        "logprobs": choice.get("logprobs"),
        "messages": asked.get("messages"),
        "temperature": asked.get("temperature"),
        "response": choice.get("message"),
    }


def _of_transition(row: Any) -> Mapping[str, Any]:
    """A transition of tinker-cookbook: the observation is the prompt, the action the completion."""
    if not isinstance(row, Mapping) or not isinstance(row.get("ac"), Mapping):
        raise DataError(f"expected a transition with ob and ac, found {row!r:.60}")
    seen = row.get("ob")
    chunks = seen.get("chunks") if isinstance(seen, Mapping) else None
    if isinstance(chunks, list):
        seen = [token for chunk in chunks if isinstance(chunk, Mapping) for token in chunk.get("tokens") or ()]
    action = row["ac"]
    return {
        "prompt_ids": seen,
        "completion_ids": action.get("tokens"),
        "logprobs": action.get("maybe_logprobs", action.get("logprobs")),
    }


def _unbatched(row: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The rows of a batch that holds a list of lists of ids, as SkyRL's generator output; any other row as it is."""
    prompt = token_fields.field(row, PROMPT)
    if prompt is None or not (isinstance(prompt[1], list) and prompt[1] and isinstance(prompt[1][0], list)):
        yield row
        return
    num = len(prompt[1])
    for k in range(num):
        one = {
            key: value[k] if key in _BATCHED and isinstance(value, list) and len(value) == num else value
            for key, value in row.items()
        }
        name = one.pop("trajectory_ids", None)
        yield one if name is None else {**one, "episode": f"{name}/{k}"}
