"""Worlds for the tests of servers: a counter behind tools, and one that fails in every way that a world can."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from envecho.errors import ConfigError, WorldError
from envecho.seam import Observation, Policy, World
from envecho.trajectory import CALL_LABEL, CallOutcome, Segment, Source
from envecho.worlds.scripts import ScriptedPolicy
from envecho.worlds.tool_calls import CallText, FinalAnswer, parse_action

TOOLS = (
    {
        "type": "function",
        "function": {
            "name": "add",
            "description": "Add to the counter.",
            "parameters": {"type": "object", "properties": {"number": {"type": "integer"}}, "required": ["number"]},
        },
    },
    {
        "type": "function",
        "function": {
            "name": "read",
            "description": "Read the counter.",
            "parameters": {"type": "object", "properties": {}},
        },
    },
)


class CounterWorld:
    """Starts at the task's number; `answer: N` ends the episode, with 1 where N is the counter."""

    def __init__(self, start: int) -> None:
        self._start, self._count = start, start
        self._state: dict[str, Any] = {"episode_id": None, "step_count": 0, "task_id": f"counter/{start}"}
        self._runs = False

    def reset(self, seed: int | None = None, episode_id: str | None = None, **kwargs: Any) -> Observation:
        self._count, self._runs = self._start, True
        self._state |= {"episode_id": episode_id or f"drawn-{id(object())}-{time.monotonic_ns()}", "step_count": 0}
        task = Segment(source=Source.TASK, text=f"The counter is {self._start}.")
        return Observation(segments=(task,), tools=TOOLS, metadata={"task_id": self._state["task_id"]})

    def step(self, action: str, timeout_s: float | None = None) -> Observation:
        if not self._runs:
            raise WorldError("no episode is running: call reset first")
        self._state["step_count"] += 1
        parsed = parse_action(action)
        if isinstance(parsed, FinalAnswer):
            self._runs = False
            right = parsed.text == str(self._count)
            grade = Segment(source=Source.GRADER, text="right" if right else "wrong")
            return Observation(segments=(grade,), done=True, reward=float(right))
        if isinstance(parsed, CallText):
            return self._call(parsed)
        return _said(Source.FORMAT_WARNING, parsed.reason, CallOutcome.UNPARSED)

    def _call(self, call: CallText) -> Observation:
        if call.name == "sleep":
            time.sleep(float(call.arguments["seconds"]))
        elif call.name == "add" and isinstance(call.arguments.get("number"), int):
            if call.arguments["number"] < 0:
                return _said(Source.TOOL_ERROR, "only upwards", CallOutcome.VALID, tool="add")
            self._count += call.arguments["number"]
        elif call.name != "read":
            return _said(Source.TOOL_ERROR, f"no such call: {call}", CallOutcome.INVALID, tool=call.name)
        return _said(Source.TOOL_RESULT, f"counter {self._count}", CallOutcome.VALID, tool=call.name)

    @property
    def state(self) -> Mapping[str, Any]:
        return dict(self._state)

    def close(self) -> None:
        self._runs = False


class FaultyWorld:
    """Does what the action names: a bug, an error of the world, a reward that is no number, a bug at the end."""

    fails_at_the_end = False
    state: Mapping[str, Any] = {"episode_id": "e", "step_count": 0}

    def reset(self, seed: int | None = None, episode_id: str | None = None, **kwargs: Any) -> Observation:
        if seed == 13:
            raise WorldError("task 13 cannot start")
        return Observation(segments=(Segment(source=Source.TASK, text="Fail."),))

    def step(self, action: str, timeout_s: float | None = None) -> Observation:
        if action == "bug":
            raise KeyError("missing")
        if action == "error":
            raise WorldError("the machine is gone")
        self.fails_at_the_end = action == "at the end"
        reward = float("inf") if action == "infinite" else None
        return Observation(segments=(Segment(source=Source.STDOUT, text="fine"),), reward=reward)

    def close(self) -> None:
        if self.fails_at_the_end:
            raise ZeroDivisionError("while closing")


class CounterSuite:
    """Five counters in `train`, three in `held_out`."""

    name = "counter"
    splits = ("train", "held_out")

    def num_tasks(self, split: str) -> int:
        if split not in self.splits:
            raise ConfigError(f"no split {split!r}")
        return 5 if split == "train" else 3

    def task_id(self, split: str, number: int) -> str:
        return f"counter/{number % self.num_tasks(split) + (100 if split == 'held_out' else 0)}"

    def make_world(self, split: str, number: int) -> World:
        return CounterWorld(int(self.task_id(split, number).split("/")[1]))

    def scripted_policy(self, split: str, number: int, *, policy: str, seed: int) -> Policy:
        return ScriptedPolicy.oracle(['{"name": "add", "arguments": {"number": 1}}'])


def _said(source: Source, text: str, outcome: CallOutcome, tool: str | None = None) -> Observation:
    segment = Segment(source=source, text=text, tool=tool)
    return Observation(segments=(segment,), labels={CALL_LABEL: outcome.value})
