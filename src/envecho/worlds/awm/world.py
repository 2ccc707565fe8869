"""`AwmWorld`: one task of an Agent World Model scenario, its generated code running in a sandbox.

    task     Rename the note "milk" to "oat milk".
    action   {"name": "list_notes", "arguments": {}}
    answer   [{"id": 7, "title": "milk"}]                                      tool_result
    action   answer: done
    answer   {"result": "complete"}                                            grader

Every episode has a database of its own, which lives in the sandbox. The verifier is generated code, too: it gets the
first and the last database and runs in a sandbox of its own. Not here: reading scenarios (`scenarios`) and which tasks
there are (`suite`).
"""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from jsonschema.exceptions import SchemaError
from jsonschema.validators import validator_for

from envecho.errors import WorldError
from envecho.seam import Observation
from envecho.trajectory import CALL_LABEL, CallOutcome, Segment, Source
from envecho.worlds.awm.process import LateAnswerError, ProcessLimits, ScenarioProcess
from envecho.worlds.awm.scenarios import Scenario
from envecho.worlds.sandbox import SandboxName
from envecho.worlds.tool_calls import CallText, FinalAnswer, Unparsed, parse_action

LONGEST_ANSWER = 16_000
"""How many characters of an answer are shown."""

_LONGEST_NAME = 64
_REFUSED = "Status code: 422"


@dataclass(frozen=True, kw_only=True)
class AwmTask:
    """Task `number` of a scenario."""

    scenario: Scenario
    number: int

    @property
    def id(self) -> str:
        """The name under which results are clustered."""
        return f"awm/{self.scenario.name}/{self.number}"


class AwmWorld:
    """One task, from its `reset` to the answer or the last turn, which grade it.

    The reward is 1 where a verifier that decides alone says "complete", 0 where it does not, and None where the task
    has no verifier, or one that only collects facts for a judge; what it said stands in the last observation as text of
    the grader. A call that takes too long ends the episode with reward 0.

    Raises:
        WorldError: the scenario's code does not start; `step` before `reset` or after the episode's end.
        WorldLostError: the scenario's process ended, or answered what is no answer.
    """

    def __init__(
        self,
        task: AwmTask,
        *,
        sandbox: SandboxName = "bubblewrap",
        max_turns: int = 16,
        limits: ProcessLimits | None = None,
    ) -> None:
        self._task, self._max_turns = task, max_turns
        self._sandbox: SandboxName = sandbox
        self._limits = limits or ProcessLimits()
        self._process: ScenarioProcess | None = None
        self._initial = ""
        self._tools: dict[str, Mapping[str, Any]] = {}
        self._state: dict[str, Any] = {"episode_id": None, "step_count": 0, "task_id": task.id, "done": True}

    def reset(self, seed: int | None = None, episode_id: str | None = None, **kwargs: Any) -> Observation:
        """Start the scenario on a fresh database; nothing here is left to chance, so `seed` changes nothing."""
        if kwargs:
            raise WorldError(f"reset takes seed and episode_id, found {sorted(kwargs)}")
        self.close()
        scenario = self._task.scenario
        self._initial = self._first_database()
        self._process = self._new_process()
        start = {"op": "start", "code": scenario.code, "database": self._initial}
        try:
            listed = self._process.ask(start, seconds=self._limits.start_seconds)["tools"]
        except WorldError:
            self.close()
            raise
        self._tools = {str(tool["name"]): tool for tool in listed}
        self._state = {
            "episode_id": episode_id or uuid.uuid4().hex,
            "step_count": 0,
            "task_id": self._task.id,
            "done": False,
        }
        system = (
            f"You work with the service {scenario.name} through its tools, as its user 1. End with `answer:` and what "
            "you found or did."
        )
        return Observation(
            segments=(
                Segment(source=Source.SYSTEM, text=system),
                Segment(source=Source.TASK, text=scenario.tasks[self._task.number]),
            ),
            tools=tuple({"type": "function", "function": dict(tool)} for tool in self._tools.values()),
            metadata={"task_id": self._task.id},
        )

    def step(self, action: str, timeout_s: float | None = None) -> Observation:
        """Make one call over MCP, or take the answer; a call that takes longer than `timeout_s` ends the episode."""
        process = self._process
        if process is None:
            raise WorldError("step was called but no episode is running: call reset first")
        self._state["step_count"] += 1
        parsed = parse_action(action)
        if isinstance(parsed, FinalAnswer):
            return self._finish(process, (), parsed.text, {})
        if isinstance(parsed, Unparsed):
            notice = Segment(source=Source.FORMAT_WARNING, text=f"[{parsed.reason}; nothing was run]")
            segments, outcome = (notice,), CallOutcome.UNPARSED
        else:
            try:
                segments, outcome = self._call(process, parsed, timeout_s)
            except LateAnswerError as error:
                self.close()
                notice = Segment(source=Source.TIMEOUT_NOTICE, text=f"[{error}]")
                return Observation(segments=(notice,), done=True, reward=0.0, timed_out=True)
        labels = {CALL_LABEL: outcome.value}
        if self._state["step_count"] >= self._max_turns:
            return self._finish(process, segments, None, labels)
        return Observation(segments=segments, labels=labels)

    @property
    def state(self) -> Mapping[str, Any]:
        """Episode id, step count, task id, and whether the episode is over."""
        return MappingProxyType(dict(self._state))

    def close(self) -> None:
        """End the episode, its process and its database; may be called twice."""
        if self._process is not None:
            self._process.close()
            self._process = None
        self._state["done"] = True

    # --- what the sandbox does -------------------------------------------------------------------------------------

    def _new_process(self) -> ScenarioProcess:
        return ScenarioProcess(sandbox=self._sandbox, limits=self._limits)

    def _once(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Answer one request in a process of its own."""
        process = self._new_process()
        try:
            return process.ask(request, seconds=self._limits.start_seconds)
        finally:
            process.close()

    def _first_database(self) -> str:
        scenario = self._task.scenario
        if scenario.database is not None:
            return base64.b64encode(scenario.database.read_bytes()).decode()
        built = self._once({"op": "build", "schema": scenario.schema, "sample": scenario.sample})
        return str(built["database"])

    def _call(
        self, process: ScenarioProcess, call: CallText, timeout_s: float | None
    ) -> tuple[tuple[Segment, ...], CallOutcome]:
        request = {"op": "call", "name": call.name, "arguments": dict(call.arguments)}
        found = process.ask(request, seconds=self._limits.call_seconds if timeout_s is None else timeout_s)
        text = _readable(str(found.get("text", "")))
        is_error = bool(found.get("is_error"))
        name = _readable(call.name[:_LONGEST_NAME])
        source = Source.TOOL_ERROR if is_error else Source.TOOL_RESULT
        segments = [Segment(source=source, text=text[:LONGEST_ANSWER], tool=name)]
        if len(text) > LONGEST_ANSWER:
            cut = f"\n[{len(text) - LONGEST_ANSWER} characters left out]"
            segments.append(Segment(source=Source.TRUNCATION_NOTICE, text=cut))
        return tuple(segments), self._outcome(call, text if is_error else "")

    def _outcome(self, call: CallText, error: str) -> CallOutcome:
        """A call is wrong where the tool is unknown or its schema, or the service's own 422, refuses the arguments."""
        tool = self._tools.get(call.name)
        if tool is None or _REFUSED in error:
            return CallOutcome.INVALID
        schema: Any = tool["parameters"]
        try:
            fits = validator_for(schema)(schema).is_valid(dict(call.arguments))  # pyright: ignore[reportUnknownMemberType]
        except SchemaError:
            fits = not error
        return CallOutcome.VALID if fits else CallOutcome.INVALID

    def _finish(
        self, process: ScenarioProcess, segments: tuple[Segment, ...], answer: str | None, labels: Mapping[str, str]
    ) -> Observation:
        final = process.ask({"op": "database"}, seconds=self._limits.call_seconds)["database"]
        self.close()
        code = self._task.scenario.verifiers.get(self._task.number)
        if code is None:
            return Observation(segments=segments, done=True, labels=labels, metadata={"verifier": "none"})
        request = {"op": "verify", "code": code, "initial": self._initial, "final": final, "answer": answer}
        verdict = self._once(request)["verdict"]
        text = _readable(json.dumps(verdict, ensure_ascii=False))[:LONGEST_ANSWER]
        grader = Segment(source=Source.GRADER, text=text)
        return Observation(
            segments=(*segments, grader),
            done=True,
            reward=_reward(verdict),
            labels=labels,
            metadata={"verifier": "ran"},
        )


def _reward(verdict: Any) -> float | None:
    """AWM's verifiers of mode `code` say "complete" or "others"; those of mode `sql` leave it to a judge."""
    result: Any = verdict.get("result") if isinstance(verdict, Mapping) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return float(result == "complete") if result in ("complete", "others") else None


def _readable(text: str) -> str:
    return text.encode("utf-8", errors="replace").decode()
