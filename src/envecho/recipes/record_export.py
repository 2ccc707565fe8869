"""Captured model calls -> trajectories: `trajectories_of`.

    agent        the calls that are the agent's work, sub-agents and forks included: one trajectory with exact ids and
                 branches; of text, which has no branches, one per conversation, each observation owned once
    auxiliary    calls without tools where others have them (titles, summaries): a trajectory per conversation
    discarded    answers that the agent dropped while another answer to the same prompt went on: a trajectory each

Only the agent's get the reward. Not here: how calls are captured (`record_proxy`), and what an id says
(`envecho.tokens`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from envecho.formats.assemble import ImportOptions, Origin, assemble
from envecho.formats.exact import Call, Calls
from envecho.formats.reading import Document
from envecho.formats.redaction import redacted
from envecho.formats.turns import Turn
from envecho.trajectory import StopReason, Trajectory

NAME = "openenv-capture"

CallRole = Literal["agent", "auxiliary", "discarded"]


@dataclass(frozen=True, kw_only=True)
class CapturedCall:
    """One model call: what was asked and answered, and the ids, where the upstream returned them.

    `parent` is the place of the call whose conversation this one continues. `prompt_ids` is empty where they are
    unknown.
    """

    request: tuple[Turn, ...]
    answer: Turn
    role: CallRole = "agent"
    parent: int | None = None
    prompt_ids: tuple[int, ...] = ()
    completion_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] | None = None
    temperature: float | None = None
    tools: tuple[dict[str, Any], ...] = ()

    @property
    def has_ids(self) -> bool:
        """Whether prompt and answer are known as ids."""
        said = bool(self.answer.text or self.answer.tool_calls or self.answer.reasoning)
        return bool(self.prompt_ids) and (bool(self.completion_ids) or not said)


@dataclass(frozen=True, kw_only=True)
class Episode:
    """What is known of a recorded episode beside its calls; `facts` go into `metadata["record"]`.

    `final` are messages behind the last call's answer that a request showed which nobody answered.
    """

    name: str
    task_id: str | None = None
    group_id: str | None = None
    reward: float | None = None
    stop_reason: StopReason = StopReason.UNKNOWN
    facts: dict[str, Any] = field(default_factory=dict[str, Any])
    final: tuple[Turn, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """`agent` are the trajectories to train on, `aside` those of calls that were not the agent's work."""

    agent: list[Trajectory]
    aside: list[Trajectory]


def trajectories_of(
    calls: Sequence[CapturedCall], episode: Episode, options: ImportOptions, *, exact: bool
) -> Recorded:
    """Return the trajectories of an episode, searched for secrets.

    Args:
        calls: in the order in which they were answered.
        options: as of an import.
        exact: whether ids are wanted; they are kept where every call of a trajectory has them.

    Raises:
        DataError: the ids of a call are no ids.
    """
    work = [place for place, call in enumerate(calls) if call.role == "agent"]
    agent = [
        _finished(record, episode, options, "agent")
        for record in _conversations(calls, work, episode, options, exact=exact)
    ]
    task = agent[0].task_id if agent else None
    aside: list[Trajectory] = []
    plain = replace(episode, group_id=None, reward=None, final=(), task_id=episode.task_id or task)
    for role, places in _aside(calls):
        named = replace(plain, name=f"{episode.name}/aside-{len(aside)}")
        aside += [
            _finished(record, named, options, role)
            for record in _conversations(calls, places, named, options, exact=exact)
        ]
    return Recorded(agent=_numbered(agent), aside=_numbered(aside))


def _aside(calls: Sequence[CapturedCall]) -> Iterator[tuple[CallRole, list[int]]]:
    """The conversations beside the agent's work: auxiliary ones by their first call, each discarded answer alone."""
    by_root: dict[int, list[int]] = {}
    for place, call in enumerate(calls):
        if call.role == "auxiliary":
            root = place
            while (parent := calls[root].parent) is not None and calls[parent].role == "auxiliary":
                root = parent
            by_root.setdefault(root, []).append(place)
    for places in by_root.values():
        yield "auxiliary", places
    for place, call in enumerate(calls):
        if call.role == "discarded":
            yield "discarded", [place]


def _conversations(
    calls: Sequence[CapturedCall], places: Sequence[int], episode: Episode, options: ImportOptions, *, exact: bool
) -> list[Trajectory]:
    if not places:
        return []
    chosen = [calls[place] for place in places]
    origin = _origin(chosen, episode)
    if exact and all(call.has_ids for call in chosen):
        return [_with_ids(chosen, episode, origin, options)]
    return list(_of_text(calls, places, episode, origin, options))


def _origin(calls: Sequence[CapturedCall], episode: Episode) -> Origin:
    return Origin(
        format=NAME,
        document=Document(file=episode.name, data=None),
        task=episode.task_id,
        reward=episode.reward,
        # An agent that offers its model no tools shows it the world's answers as user turns.
        world_speaks_as_user=not any(call.tools for call in calls),
        action_provenance="proved",
        tools=next((call.tools for call in calls if call.tools), ()),
    )


def _with_ids(calls: Sequence[CapturedCall], episode: Episode, origin: Origin, options: ImportOptions) -> Trajectory:
    """One trajectory with branches; of several sampling temperatures none is stated, since an episode has one."""
    stated = Counter(call.temperature for call in calls)
    temperature = next(iter(stated)) if len(stated) == 1 else None
    if len(stated) > 1:
        counts = [[value, number] for value, number in stated.most_common()]
        origin = replace(origin, facts={"num_calls_by_temperature": counts})
    found = Calls()
    for call in calls:
        found.add(
            Call(
                prompt_ids=call.prompt_ids,
                completion_ids=call.completion_ids,
                logprobs=call.logprobs,
                temperature=temperature,
                request=call.request,
                answer=call.answer,
            )
        )
    return found.trajectory(origin, options, final=episode.final)


def _of_text(
    calls: Sequence[CapturedCall], places: Sequence[int], episode: Episode, origin: Origin, options: ImportOptions
) -> Iterator[Trajectory]:
    """One trajectory per last call; what an earlier one owns is context here, as what nobody is seen to sample."""
    chosen = set(places)
    continued = {calls[place].parent for place in places}
    owned: set[int] = set()
    for leaf in (place for place in places if place not in continued):
        path = _path(calls, chosen, leaf)
        turns = [replace(turn, sampled=False) if turn.kind == "assistant" else turn for turn in calls[leaf].request]
        turns.append(calls[leaf].answer)
        for place in path:
            at = len(calls[place].request) + _num_system(turns) - _num_system(calls[place].request)
            if place not in owned and 0 <= at < len(turns) and turns[at].kind == "assistant":
                turns[at] = calls[place].answer
        owned.update(path)
        if leaf == places[-1]:
            turns += episode.final
        lossy = any(calls[place].answer.tool_calls or calls[place].answer.reasoning for place in path)
        facts = {"num_calls": len(path)}
        yield assemble(turns, replace(origin, action_text_lossy=lossy, facts=facts), options)


def _path(calls: Sequence[CapturedCall], chosen: set[int], leaf: int) -> list[int]:
    """The calls of a conversation up to its last, the first one first."""
    path = [leaf]
    while (parent := calls[path[-1]].parent) is not None and parent in chosen:
        path.append(parent)
    return path[::-1]


def _num_system(turns: Sequence[Turn]) -> int:
    """How many system turns stand in front: harnesses write them anew, and the proxy links calls without them."""
    return next((place for place, turn in enumerate(turns) if turn.kind != "system"), len(turns))


def _finished(record: Trajectory, episode: Episode, options: ImportOptions, role: CallRole) -> Trajectory:
    """The record with its names and facts, searched for secrets."""
    named = record.model_copy(
        update={
            "group_id": episode.group_id,
            "stop_reason": episode.stop_reason,
            "metadata": record.metadata | {"record": {**episode.facts, "calls_of": role}},
        }
    )
    return redacted(named, options.redactor)


def _numbered(records: list[Trajectory]) -> list[Trajectory]:
    """Trajectories whose ids differ: the second of a name gets a number."""
    seen: Counter[str] = Counter()
    found: list[Trajectory] = []
    for record in records:
        number = seen[record.id]
        seen[record.id] += 1
        found.append(record if not number else record.model_copy(update={"id": f"{record.id}/{number}"}))
    return found
