"""`OpenEnvWorld`: an environment on an OpenEnv server as a world of ours, read and written by its map.

    text of a turn --actions--> action --connection--> observation --reading--> typed segments

The last of `max_turns` actions, and `answer: TEXT` where the map lets it, end the episode: the map's finish actions are
taken (grade, release), the reward is read, and `done` is true. However an episode ends, what it holds is released. Not
here: which tasks there are (`suite`).
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, final

from envecho.errors import WorldError, WorldLostError
from envecho.seam import Observation
from envecho.trajectory import CALL_LABEL, CallOutcome, Segment, Source
from envecho.worlds.openenv.actions import ActionWriter, NotSent, Sent, call_misfit
from envecho.worlds.openenv.connection import Connection, Overdue, Refusal, Reply
from envecho.worlds.openenv.facts import ServerFacts, fetch_tools
from envecho.worlds.openenv.grading import Rewards, finish
from envecho.worlds.openenv.maps import EnvironmentMap
from envecho.worlds.openenv.own import own_observation
from envecho.worlds.openenv.reading import Reader, find, find_text, is_tool_error, text_of
from envecho.worlds.tool_calls import FinalAnswer

LIST_TOOLS: Final = {"type": "list_tools"}
_OWN_GRACE_SECONDS: Final = 30.0


@dataclass(frozen=True, kw_only=True)
class RemoteTask:
    """One task of a server: its id, the arguments of `reset`, and the seed (None: that of the caller)."""

    id: str
    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])
    seed: int | None = None


@final
class OpenEnvWorld:
    """One task of a server, over a session of its own that `reset` opens and `close` ends.

    Args:
        facts: what the server says about itself.
        environment: its map.
        task: what `reset` starts.
        max_turns: the most actions of an episode; a server of ours counts its own.

    Raises:
        WorldLostError: the connection broke, or what came over it is no answer.
        WorldCapacityError: the server has no room for another session.
        WorldError: the server refused `reset` or raised; `step` without a running episode.
    """

    def __init__(
        self, facts: ServerFacts, environment: EnvironmentMap, task: RemoteTask, *, max_turns: int = 16
    ) -> None:
        self._facts, self._map, self._task, self._max_turns = facts, environment, task, max_turns
        self._connection = Connection(facts.address, environment.connection, name=facts.environment)
        self._writer = ActionWriter(environment, facts.action)
        self._reader = Reader(environment, facts.address)
        self._rewards = Rewards(environment.reward.read)
        self._tools: tuple[Mapping[str, Any], ...] = ()
        self._holds_episode = False
        self._state: dict[str, Any] = {"episode_id": None, "step_count": 0, "task_id": task.id, "done": True}

    @property
    def unmapped(self) -> frozenset[str]:
        """Paths of the observations' fields that the map does not name."""
        return frozenset(self._reader.unmapped)

    @property
    def state(self) -> Mapping[str, Any]:
        """Episode id, step count, task id, and whether the episode is over."""
        return MappingProxyType(dict(self._state))

    # --- an episode ---------------------------------------------------------------------------------------------

    def reset(self, seed: int | None = None, episode_id: str | None = None, **kwargs: Any) -> Observation:
        """Start the task. `seed` is the caller's where the task has none of its own; `kwargs` come over the task's."""
        self._release()
        self._rewards = Rewards(self._map.reward.read)
        episode_id = episode_id or uuid.uuid4().hex
        self._state = {"episode_id": episode_id, "step_count": 0, "task_id": self._task.id, "done": True}
        arguments = {**self._map.reset, **self._task.arguments, **kwargs, "episode_id": episode_id}
        seed = seed if self._task.seed is None else self._task.seed
        reply = self._connection.reset(arguments if seed is None else {**arguments, "seed": seed})
        self._holds_episode = True
        observation = self._own_reset(reply) if self._is_own else self._read_reset(reply)
        self._state["done"] = False
        return observation

    def step(self, action: str, timeout_s: float | None = None) -> Observation:
        """Take one action. Past its deadline the session is given up: nobody knows what it still does."""
        if self._state["done"]:
            raise WorldError("step was called but no episode is running: call reset first")
        self._state["step_count"] += 1
        written = self._writer.write(action)
        if isinstance(written, FinalAnswer):
            return self._end((), {CALL_LABEL: CallOutcome.VALID.value}, {}, answer=written.text)
        if isinstance(written, NotSent):
            source = Source.FORMAT_WARNING if written.outcome is CallOutcome.UNPARSED else Source.HARNESS_NOTICE
            return self._answer((Segment(source=source, text=written.notice),), written.outcome, {}, done=False)
        if self._is_own:
            return self._own_step(written, timeout_s)
        seconds = timeout_s or self._map.connection.step_seconds
        answer = self._connection.step(written.action, seconds)
        if isinstance(answer, Overdue):
            return self._overdue(answer)
        if isinstance(answer, Refusal):
            return self._refused(written, answer)
        self._rewards.add(answer.reward)
        segments = self._reader.read_step(answer.observation, tool=written.tool)
        told = {"action": dict(written.action), "observation": dict(answer.observation), "reward": answer.reward}
        return self._answer(_failed_tools(segments, answer), self._outcome(written, segments), told, done=answer.done)

    def close(self) -> None:
        """Release the episode, also after an error, and end the session; may be called twice."""
        self._state["done"] = True
        try:
            self._release()
        finally:
            self._connection.close()

    # --- starting -----------------------------------------------------------------------------------------------

    def _read_reset(self, reply: Reply) -> Observation:
        for path, values in self._map.reset_fails.items():
            if find(reply.observation, path) in values:
                told = find_text(reply.observation, "error") or f"{path} is {find(reply.observation, path)!r}"
                raise WorldError(f"{self._facts.address}: reset failed for {self._task.id}: {told}")
        if reply.done:
            raise WorldError(f"{self._facts.address}: the episode of {self._task.id} was over when it began")
        segments = self._reader.read_reset(reply.observation)
        self._tools = self._list_tools() if self._map.action.kind == "mcp" else ()
        if not any(segment.source in (Source.TASK, Source.SYSTEM) for segment in segments):
            stated = self._map.instruction or self._facts.description or self._facts.title
            segments = (Segment(source=Source.TASK, text=f"{stated}\n" if segments else stated), *segments)
        return Observation(
            segments=segments,
            tools=self._tools,
            metadata={"task_id": self._task.id, "observation": dict(reply.observation)},
        )

    def _list_tools(self) -> tuple[Mapping[str, Any], ...]:
        """Ask for the tools of this episode; some servers know them only after `reset`.

        A server whose action is a class of its own does not take the question as an action; its MCP route does.
        """
        answer = self._connection.step(LIST_TOOLS, self._map.connection.step_seconds)
        listed: Any = answer.observation.get("tools") if isinstance(answer, Reply) else None
        if isinstance(answer, Refusal) and answer.code == "VALIDATION_ERROR":
            listed = fetch_tools(self._facts, self._map.connection.headers())
        if not isinstance(listed, list):
            raise WorldLostError(f"{self._facts.address}: expected the list of its tools, found {str(answer)[:200]}")
        stated = answer.observation if isinstance(answer, Reply) else {}
        told = find_text(stated, "error") or find_text(stated, "metadata.error")
        if told:
            raise WorldError(f"{self._facts.address}: the tools cannot be listed: {told}")
        tools: list[Any] = listed
        return tuple(_tool_schema(tool, where=self._facts.address) for tool in tools)

    # --- answering ----------------------------------------------------------------------------------------------

    def _answer(
        self, segments: Sequence[Segment], outcome: CallOutcome, told: Mapping[str, Any], *, done: bool
    ) -> Observation:
        labels = {CALL_LABEL: outcome.value}
        if done or self._state["step_count"] >= self._max_turns:
            return self._end(segments, labels, told, answer=None, by_world=done)
        return Observation(segments=tuple(segments), labels=labels, metadata=told)

    def _end(
        self,
        segments: Sequence[Segment],
        labels: Mapping[str, str],
        told: Mapping[str, Any],
        *,
        answer: str | None,
        by_world: bool = False,
    ) -> Observation:
        """Grade and release; an episode whose grading failed has no reward, and says so."""
        self._state["done"], self._holds_episode = True, False
        graded = finish(self._connection, self._map, self._rewards, answer=answer, ended_by_world=by_world)
        return Observation(
            segments=(*segments, *graded.segments),
            done=True,
            reward=self._rewards.total(),
            labels=labels,
            metadata={**told, "finish": graded.told},
        )

    def _refused(self, written: Sent, refusal: Refusal) -> Observation:
        """An action that does not fit the schema is the policy's fault; anything else is the environment's failure."""
        told = {"action": dict(written.action), "refusal": f"{refusal.code}: {refusal.message}"}
        if refusal.code == "VALIDATION_ERROR":
            misfit = self._writer.misfit(written.action)
            if misfit is not None:
                notice = Segment(source=Source.FORMAT_WARNING, text=f"[the action is refused: {misfit}]")
                return self._answer((notice,), CallOutcome.INVALID, told, done=False)
        elif self._map.action.errors_are_answers:
            error = Segment(source=Source.TOOL_ERROR, text=refusal.message, tool=written.tool)
            return self._answer((error,), CallOutcome.INVALID, told, done=False)
        raise WorldError(f"{self._facts.address}: the environment failed: {refusal.message} ({refusal.code})")

    def _overdue(self, answer: Overdue) -> Observation:
        self._state["done"], self._holds_episode = True, False
        notice = f"[no answer within {answer.seconds:g} s; the session is given up, its state is unknown]"
        return Observation(
            segments=(Segment(source=Source.TIMEOUT_NOTICE, text=notice),),
            done=True,
            timed_out=True,
            labels={CALL_LABEL: CallOutcome.VALID.value},
        )

    def _outcome(self, written: Sent, segments: Sequence[Segment]) -> CallOutcome:
        failed = any(segment.source in (Source.TOOL_ERROR, Source.HARNESS_ERROR) for segment in segments)
        if written.tool is not None and failed and call_misfit(written.action, self._tools):
            return CallOutcome.INVALID
        return CallOutcome.VALID

    def _release(self) -> None:
        """Take the map's releasing actions if an episode still holds something; a server that is gone holds nothing."""
        held, self._holds_episode = self._holds_episode, False
        for step in self._map.finish.steps if held else ():
            if step.release and self._connection.is_open:
                try:
                    self._connection.step(step.action, self._map.connection.release_seconds)
                except WorldLostError:
                    return

    # --- servers of ours ----------------------------------------------------------------------------------------

    @property
    def _is_own(self) -> bool:
        return self._map.action.kind == "message"

    def _own_reset(self, reply: Reply) -> Observation:
        return own_observation(reply, self._facts.address)

    def _own_step(self, written: Sent, timeout_s: float | None) -> Observation:
        """Our servers keep the deadline themselves, and the session with it."""
        limit = self._map.connection.step_seconds if timeout_s is None else timeout_s + _OWN_GRACE_SECONDS
        bounded = {} if timeout_s is None else {"timeout_s": timeout_s}
        answer = self._connection.step({**written.action, **bounded}, limit)
        if isinstance(answer, Overdue):
            return self._overdue(answer)
        if isinstance(answer, Refusal):
            raise WorldError(f"{self._facts.address}: {answer.message} ({answer.code})")
        observation = own_observation(answer, self._facts.address)
        self._state["done"] = observation.done
        return observation


def _failed_tools(segments: Sequence[Segment], reply: Reply) -> tuple[Segment, ...]:
    """An MCP result may itself state that the tool failed."""
    if not is_tool_error(reply.observation.get("result")):
        return tuple(segments)
    return tuple(
        segment.model_copy(update={"source": Source.TOOL_ERROR}) if segment.source is Source.TOOL_RESULT else segment
        for segment in segments
    )


def _tool_schema(tool: Any, *, where: object) -> dict[str, Any]:
    name = find(tool, "name")
    if not isinstance(name, str):
        raise WorldLostError(f"{where}: expected tools with a name, found {text_of(tool)[:200]}")
    schema = find(tool, "input_schema") or find(tool, "inputSchema") or {"type": "object", "properties": {}}
    description = find_text(tool, "description")
    return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}
