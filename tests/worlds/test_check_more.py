"""The conformance kit against worlds, and suites of tasks, that break one promise each."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from envecho.errors import ConfigError, WorldError
from envecho.seam import Observation, Policy, World
from envecho.trajectory import CALL_LABEL, CallOutcome, Segment, Source
from envecho.worlds import Expectations, WorldReport, check_suite, check_world
from envecho.worlds.depot.suite import DepotSuite
from envecho.worlds.scripts import ScriptedPolicy
from envecho.worlds.suites import open_suite
from envecho.worlds.tool_calls import CallText, FinalAnswer, Unparsed, parse_action


def function(name: str, **parameters: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": parameters, "required": sorted(parameters)}
    return {"type": "function", "function": {"name": name, "description": "A tool.", "parameters": schema}}


def said(text: str, source: Source = Source.TOOL_RESULT, tool: str | None = "look") -> Segment:
    return Segment(source=source, text=text, tool=tool)


class ToolWorld:
    """A world of two tools that keeps every promise: `look`, `find {"what": text}`, and `answer:` or the sixth turn."""

    tools: tuple[Mapping[str, Any], ...] = (function("look"), function("find", what={"type": "string"}))
    max_turns = 6

    def __init__(self) -> None:
        self.steps, self.running, self.episode = 0, False, ""

    def reset(self, seed: int | None = None, episode_id: str | None = None, **kwargs: Any) -> Observation:
        self.steps, self.running, self.episode = 0, True, episode_id or f"episode-of-{id(self)}"
        return Observation(segments=(said(f"Look at {seed}.", Source.TASK, None),), tools=self.tools)

    def step(self, action: str, timeout_s: float | None = None) -> Observation:
        if not self.running:
            raise WorldError("not running")
        self.steps += 1
        parsed = parse_action(action)
        self.running = not isinstance(parsed, FinalAnswer) and self.steps < self.max_turns
        return self.ended(self.answer(parsed, timeout_s))

    def answer(self, parsed: CallText | FinalAnswer | Unparsed, timeout_s: float | None) -> Observation:
        if isinstance(parsed, FinalAnswer):
            return Observation(segments=())
        if isinstance(parsed, Unparsed):
            return labelled(CallOutcome.UNPARSED, said(f"[{parsed.reason}]", Source.FORMAT_WARNING, None))
        if parsed.name == "look":
            return labelled(
                CallOutcome.VALID, said(f'{{"seen": {self.steps}}}'), said("[6 turns]", Source.STATUS, None)
            )
        if parsed.name == "find" and "what" in parsed.arguments:
            if parsed.arguments["what"] == "slow":
                notice = labelled(CallOutcome.VALID, said("[timed out]", Source.TIMEOUT_NOTICE, None))
                return replace(notice, timed_out=timeout_s is not None)
            size = 90_000 if parsed.arguments["what"] == "flood" else 3
            return labelled(CallOutcome.VALID, said("a" * size, tool="find"))
        return labelled(CallOutcome.INVALID, said("no such call", Source.TOOL_ERROR, parsed.name))

    def ended(self, observation: Observation) -> Observation:
        done = not self.running
        return replace(observation, done=done, reward=1.0 if done else None)

    @property
    def state(self) -> Mapping[str, Any]:
        return {"episode_id": self.episode, "step_count": self.steps}

    def close(self) -> None:
        self.running = False


def labelled(outcome: CallOutcome, *segments: Segment, **metadata: Any) -> Observation:
    return Observation(segments=segments, labels={CALL_LABEL: outcome.value}, metadata=metadata)


def looks(*segments: Segment, labels: Mapping[str, str] | None = None, **metadata: Any) -> type[ToolWorld]:
    """A world that answers `look` in this way."""

    class Changed(ToolWorld):
        def answer(self, parsed: CallText | FinalAnswer | Unparsed, timeout_s: float | None) -> Observation:
            if isinstance(parsed, CallText) and parsed.name == "look":
                changed = labelled(CallOutcome.VALID, *segments, **metadata)
                return replace(changed, labels={**changed.labels, **(labels or {})})
            return super().answer(parsed, timeout_s)

    return Changed


def with_tools(*tools: Any) -> type[ToolWorld]:
    return type("OtherTools", (ToolWorld,), {"tools": tools})


class RewardsEveryStep(ToolWorld):
    def ended(self, observation: Observation) -> Observation:
        return replace(super().ended(observation), reward=0.5)


class NeverTiresOfNonsense(ToolWorld):
    def ended(self, observation: Observation) -> Observation:
        self.running = self.running or Source.FORMAT_WARNING in {s.source for s in observation.segments}
        return super().ended(observation)


class NeverEndsByItself(ToolWorld):
    max_turns = 10_000


class NeverStops(ToolWorld):
    """A timeout starts something that the world's end waits for."""

    hangs = False

    def answer(self, parsed: CallText | FinalAnswer | Unparsed, timeout_s: float | None) -> Observation:
        self.hangs = isinstance(parsed, CallText) and parsed.arguments.get("what") == "slow"
        return super().answer(parsed, timeout_s)

    def close(self) -> None:
        if self.hangs:
            self.hangs = False
            raise RuntimeError("a process is still running")
        super().close()


class RunsWhatItKnows(ToolWorld):
    """An unknown tool is answered as if it were one."""

    def answer(self, parsed: CallText | FinalAnswer | Unparsed, timeout_s: float | None) -> Observation:
        if isinstance(parsed, CallText) and parsed.name.startswith("no_such"):
            return labelled(CallOutcome.VALID, said("ok"))
        return super().answer(parsed, timeout_s)


class ChokesOnUnknownTools(ToolWorld):
    def answer(self, parsed: CallText | FinalAnswer | Unparsed, timeout_s: float | None) -> Observation:
        if isinstance(parsed, CallText):
            return super().answer(
                CallText(name={"look": "look", "find": "find"}[parsed.name], arguments=parsed.arguments), timeout_s
            )
        return super().answer(parsed, timeout_s)


class SaysNothingOfTheCall(ToolWorld):
    def ended(self, observation: Observation) -> Observation:
        return super().ended(replace(observation, labels={}))


class ExplainsAtLength(ToolWorld):
    def answer(self, parsed: CallText | FinalAnswer | Unparsed, timeout_s: float | None) -> Observation:
        observation = super().answer(parsed, timeout_s)
        if isinstance(parsed, Unparsed):
            return replace(observation, segments=(*observation.segments, said("usage: look", Source.STATUS, None)))
        return observation


class OneTurnLess(ToolWorld):
    """The second of two equal episodes is shorter."""

    lengths = itertools.cycle((6, 2))

    def reset(self, seed: int | None = None, episode_id: str | None = None, **kwargs: Any) -> Observation:
        self.max_turns = next(self.lengths)
        return super().reset(seed, episode_id)


TILES, GRADER, REWARDS = "sources tile the observation", "the grader's words are no output", "rewards come with the end"
TURNS, BOUNDED, CLOSES = "max_turns end the episode", "observations are bounded", "a world closes after a timeout"
TOOLS, CALLS = "tools are valid schemas", "what cannot be called is answered"

ACTIONS = ('{"name": "look", "arguments": {}}', '{"name": "find", "arguments": {"what": "key"}}', "answer: 3")
SLOW, FLOOD = (str(CallText(name="find", arguments={"what": what})) for what in ("slow", "flood"))


def checked(make: Callable[[], World], **promises: Any) -> WorldReport:
    expectations = Expectations(**{"max_turns": 6, "flood_action": FLOOD, **promises})
    return check_world(make, actions=ACTIONS, slow_action=SLOW, expectations=expectations)


def test_a_world_of_tools_that_keeps_every_promise_passes_every_check():
    """Catches a check that no world can pass, and one that is skipped without a reason."""
    report = checked(ToolWorld)
    assert {check.status for check in report.checks} == {"passed"}, str(report)


@pytest.mark.parametrize(
    ("broken", "name", "message"),
    [
        (looks(said("")), TILES, "an empty segment of tool_result"),
        (looks(said("one "), said("two")), TILES, "cuts one run of tool_result into 'one ' and 'two'"),
        (looks(said("one"), text="one\n"), TILES, r"metadata\['text'\] 'one\\n'"),
        (looks(said("one"), text=7), TILES, "is int, expected str"),
        (looks(said("2 of 3 tests fail"), said("2 of 3 tests", Source.GRADER)), GRADER, "of a grader segment"),
        (looks(said("now: half"), verify_result={"verdict": "half"}), GRADER, "metadata 'verify_result'"),
        (looks(said("it was rejected"), labels={"verifier": "rejected"}), GRADER, "of label 'verifier'"),
        (looks(said("Hidden tests: 4 failed")), GRADER, "stated as the grader's"),
        (RewardsEveryStep, REWARDS, "has reward 0.5 and the episode goes on"),
        (NeverTiresOfNonsense, TURNS, r"goes on after 6 actions, '\\n\\n' first"),
        (NeverEndsByItself, TURNS, "goes on after 6 actions"),
        (looks(said("x" * 100_001)), BOUNDED, "answered 100001 characters, expected at most 100000"),
        (NeverStops, CLOSES, "a process is still running"),
        (with_tools({"name": "look", "parameters": {}}, *ToolWorld.tools), TOOLS, "expected {"),
        (with_tools(*ToolWorld.tools, function("look")), TOOLS, "tools have the same name: look"),
        (with_tools(*ToolWorld.tools, function("look up")), TOOLS, "name is 'look up', expected letters"),
        (with_tools(*ToolWorld.tools, function("other", a={"type": "int"})), TOOLS, "schema, at properties/a/type"),
        (RunsWhatItKnows, CALLS, r"\['tool_result'\], expected tool_error or format_warning"),
        (ChokesOnUnknownTools, CALLS, "raised KeyError"),
        (SaysNothingOfTheCall, CALLS, "has the label call=None, expected 'invalid'"),
        (ExplainsAtLength, CALLS, "answered 2 segments, expected the format warning alone"),
    ],
)  # fmt: skip
def test_a_world_that_breaks_one_promise_fails_that_check_alone(broken: type[World], name: str, message: str):
    """Catches a check that cannot fail, and one that fails for another check's fault."""
    report = checked(broken, most_characters=100_000, grader_texts=("Hidden tests",))
    (failure,) = report.failures
    assert failure.name == name
    assert re.search(message, failure.message), failure.message


def test_a_reward_in_the_last_answer_is_found():
    """Catches a harness that prints the grade where a policy reads it."""

    class TellsItsReward(ToolWorld):
        def answer(self, parsed: CallText | FinalAnswer | Unparsed, timeout_s: float | None) -> Observation:
            last = isinstance(parsed, FinalAnswer)
            return Observation(segments=(said('{"reward": 1.0}'),)) if last else super().answer(parsed, timeout_s)

    (failure,) = checked(TellsItsReward).failures
    assert failure.name == GRADER
    assert "names the reward 1.0" in failure.message


def test_notices_of_a_harness_may_stand_apart_and_results_of_two_tools_too():
    """Catches a rule of tiling that real worlds cannot keep."""
    two = (said("a", tool="look"), said("b", tool="find"))
    notices = (said("[one]", Source.HARNESS_NOTICE, None), said("[two]", Source.HARNESS_NOTICE, None))
    assert checked(looks(*two, *notices, text="ab[one][two]")).passed


def test_an_episode_that_is_shorter_the_second_time_is_a_finding_and_no_crash():
    """Catches a kit that dies of what it looks for."""
    found = {check.name: check.message for check in checked(OneTurnLess).failures}
    assert re.search(
        r"took (3 and then 2|2 and then 3) steps", found["the same seed and actions give the same observations"]
    )


# --- suites ---------------------------------------------------------------------------------------------------------


def test_our_suites_keep_the_contract():
    """Catches a suite of ours whose numbers, splits or scripts do not do what a trainer relies on."""
    for suite in (open_suite("depot", max_turns=2), open_suite("depot-tickets", max_turns=2)):
        report = check_suite(suite)
        assert {check.status for check in report.checks} == {"passed"}, str(report)
    report = check_suite(open_suite("terminal", max_turns=16), num_tasks=1)
    assert {check.status for check in report.checks} == {"passed"}, str(report)


class Suite:
    """The depot's suite, to be broken in one place."""

    def __init__(self) -> None:
        self.depot = DepotSuite()
        self.name, self.splits = "mine", self.depot.splits

    def num_tasks(self, split: str) -> int | None:
        return self.depot.num_tasks(split)

    def task_id(self, split: str, number: int) -> str:
        return self.depot.task_id(split, number)

    def make_world(self, split: str, number: int) -> World:
        return self.depot.make_world(split, number)

    def scripted_policy(self, split: str, number: int, *, policy: str, seed: int) -> Policy:
        return self.depot.scripted_policy(split, number, policy=policy, seed=seed)


class LeakySplits(Suite):
    def task_id(self, split: str, number: int) -> str:
        return self.depot.task_id(split, number) if number % self.num_tasks(split) else "the same task"


class NoTrain(Suite):
    def __init__(self) -> None:
        super().__init__()
        self.splits = ("held_out",)


class CountsWrongly(Suite):
    def num_tasks(self, split: str) -> int | None:
        return self.depot.num_tasks(split) - 1


class MovesWithTheSeed(Suite):
    def make_world(self, split: str, number: int) -> World:
        worlds = self.depot

        class Moves:
            def __init__(self) -> None:
                self.world = worlds.make_world(split, number)
                self.step, self.close = self.world.step, self.world.close

            @property
            def state(self) -> Mapping[str, Any]:
                return self.world.state

            def reset(self, seed: int | None = None, episode_id: str | None = None, **kwargs: Any) -> Observation:
                first = self.world.reset(seed, episode_id)
                return replace(first, segments=(*first.segments, said(str(seed), Source.TASK, None)))

        return Moves()


class TakesAnySplit(Suite):
    def task_id(self, split: str, number: int) -> str:
        return self.depot.task_id(split if split in self.splits else "train", number)


class LosesItsWay(Suite):
    def scripted_policy(self, split: str, number: int, *, policy: str, seed: int) -> Policy:
        chosen = self.depot.scripted_policy(split, number, policy=policy, seed=seed)
        return ScriptedPolicy.oracle(["go purple"]) if policy == "oracle" else chosen


class Restless(Suite):
    count = itertools.count()

    def scripted_policy(self, split: str, number: int, *, policy: str, seed: int) -> Policy:
        seed = seed if policy == "oracle" else next(self.count)
        return self.depot.scripted_policy(split, number, policy=policy, seed=seed)


@pytest.mark.parametrize(
    ("broken", "name", "message"),
    [
        (LeakySplits, "splits are disjoint", "'the same task' is in train and in held_out"),
        (NoTrain, "a suite has its methods and a split train", "expected train among them"),
        (CountsWrongly, "numbers start over after the last task", "expected number 0 again"),
        (MovesWithTheSeed, "a number is one task", "starts otherwise with another seed"),
        (TakesAnySplit, "wrong names are refused", "an unknown split raised no ConfigError"),
        (LosesItsWay, "the oracle gets the highest reward", "gets None, expected 1.0"),
        (Restless, "scripted policies play", "acts otherwise the second time: action"),
    ],
)
def test_a_suite_that_breaks_one_promise_fails_that_check_alone(broken: type[Suite], name: str, message: str):
    """Catches a check that cannot fail, and one that fails for another check's fault."""
    (failure,) = check_suite(broken()).failures
    assert failure.name == name
    assert message in failure.message
    with pytest.raises(WorldError, match="the suite breaks its contract"):
        check_suite(broken(), raise_on_failure=True)


def test_a_suite_without_scripts_is_no_failure():
    """Catches a kit that only our own suites can pass."""

    class Unscripted(Suite):
        def scripted_policy(self, split: str, number: int, *, policy: str, seed: int) -> Policy:
            raise ConfigError("no scripts here")

    report = check_suite(Unscripted())
    assert report.passed
    skipped = [check.name for check in report.checks if check.status == "skipped"]
    assert skipped == ["scripted policies play", "the oracle gets the highest reward"]
