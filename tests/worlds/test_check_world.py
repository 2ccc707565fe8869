"""The terminal world against its contract, and the conformance kit against worlds that break it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from envecho.errors import WorldError
from envecho.seam import Observation, World
from envecho.trajectory import Segment, Source
from envecho.worlds import Expectations, Limits, check_world
from envecho.worlds.terminal import TerminalWorld
from envecho.worlds.terminal.tasks import task_for_seed
from envecho.worlds.terminal.world import RunCommand


@dataclass(frozen=True, kw_only=True)
class NumberBox:
    """A box whose one file holds its seed."""

    seed: int

    @property
    def files(self) -> dict[str, str]:
        return {"number.txt": f"{self.seed}\n"}


@dataclass(frozen=True, kw_only=True)
class NumberTask:
    """Say the number, or write it into `copy.txt`."""

    seed: int
    instruction: str = "Which number is in number.txt?"

    @property
    def id(self) -> str:
        return f"number-{self.seed}"

    @property
    def box(self) -> NumberBox:
        return NumberBox(seed=self.seed)

    def verify(self, answer: str | None, run: RunCommand) -> float:
        said = run("cat copy.txt 2>/dev/null") if answer is None else f"{answer}\n"
        return float(said == f"{self.seed}\n")


def number_world(**options: Any) -> TerminalWorld:
    return TerminalWorld(lambda seed: NumberTask(seed=seed), **options)


WITHOUT_TOOLS = {"tools are valid schemas", "what cannot be called is answered"}


# --- the terminal world ---------------------------------------------------------------------------------------------


def test_the_terminal_world_keeps_the_contract_on_its_real_tasks():
    """Catches any departure from reset, step, state, close that a trainer would trip over."""
    report = check_world(
        lambda: TerminalWorld(task_for_seed, max_turns=8),
        actions=("ls -la", "cd var 2>/dev/null; pwd", "x=1", "echo $x; nosuch", "answer: 7"),
        seeds=(3, 4),
        slow_action="sleep 30",
        expectations=Expectations(max_turns=8, most_characters=100_000, flood_action="seq 1000000"),
    )
    assert report.passed, str(report)
    assert {check.name for check in report.checks if check.status == "skipped"} == WITHOUT_TOOLS


def test_one_instance_can_be_checked_too_and_what_needs_two_is_skipped():
    """Catches a kit that needs a factory without saying so."""
    report = check_world(number_world(), actions=("cat number.txt", "answer: 1"))
    assert report.passed, str(report)
    assert {c.name for c in report.checks if c.status == "skipped"} == {
        "step before reset is an error",
        "concurrent instances are independent",
        "a timeout is data",
        "a world closes after a timeout",
        "max_turns end the episode",
        *WITHOUT_TOOLS,
    }


def test_reset_states_system_and_task_and_step_answers_the_command():
    """Catches roles that have to be guessed later."""
    world = number_world()
    first = world.reset(seed=12)
    assert [s.source for s in first.segments] == [Source.SYSTEM, Source.TASK]
    assert first.segments[1].text == "Which number is in number.txt?"
    seen = world.step("cat number.txt; false")
    assert [(s.source, s.text) for s in seen.segments] == [
        (Source.STDOUT, "12\n"),
        (Source.STATUS, "[exit status 1]"),
    ]
    assert (seen.done, seen.reward, seen.metadata["exit_status"]) == (False, None, 1)
    assert world.state["task_id"] == "number-12"
    assert world.state["step_count"] == 1
    world.close()


@pytest.mark.parametrize(("action", "reward"), [("answer: 12", 1.0), ("  Answer:12\n", 1.0), ("answer: 13", 0.0)])
def test_an_answer_ends_the_episode_and_is_graded(action: str, reward: float):
    """Catches an answer that is run as a command, and a reward that nobody gave."""
    world = number_world()
    world.reset(seed=12)
    last = world.step(action)
    assert (last.segments, last.done, last.reward) == ((), True, reward)
    with pytest.raises(WorldError, match="episode is over"):
        world.step("ls")


def test_the_last_turn_is_run_and_the_final_state_is_graded():
    """Catches a turn limit that drops the last observation or the grade."""
    world = number_world(max_turns=2)
    world.reset(seed=12)
    world.step("cp number.txt copy.txt")
    last = world.step("ls")
    assert last.segments[0].text == "copy.txt\nnumber.txt\n"
    assert (last.done, last.reward) == (True, 1.0)


def test_the_verifier_does_not_ask_the_policys_own_shell():
    """Catches a policy that redefines `cat` so that every check holds."""
    world = number_world(max_turns=1)
    world.reset(seed=12)
    last = world.step("cat() { echo 12; }; export -f cat; alias cat='echo 12'; trap 'echo 12' DEBUG; PATH=.")
    assert (last.done, last.reward) == (True, 0.0)


def test_a_stopped_sandbox_ends_the_episode_with_its_transcript():
    """Catches a limit that loses the rollout: what was printed is data."""
    world = number_world(limits=Limits(num_files=1000))
    world.reset(seed=12)
    last = world.step("echo before; i=0; while :; do : >f$((i++)); done")
    assert last.done
    assert last.reward == 0.0
    assert [s.source for s in last.segments] == [Source.STDOUT, Source.HARNESS_NOTICE]
    assert last.metadata["sandbox_stopped"] == "more than 1000 files"


def test_reset_without_a_seed_draws_one_and_says_which():
    """Catches an episode that cannot be repeated."""
    world = number_world()
    world.reset()
    assert world.step("cat number.txt").segments[0].text == f"{world.state['seed']}\n"
    world.close()


# --- the kit finds what is broken -----------------------------------------------------------------------------------


@dataclass
class CountingWorld:
    """A good world in few lines: answers how many steps were taken, ends after three."""

    count: int = 0
    running: bool = False
    episode: str = ""

    def reset(self, seed: int | None = None, episode_id: str | None = None, **kwargs: Any) -> Observation:
        self.count, self.running, self.episode = 0, True, episode_id or f"episode-of-{id(self)}"
        return Observation(segments=(Segment(source=Source.TASK, text=f"count from {seed}"),))

    def step(self, action: str, timeout_s: float | None = None) -> Observation:
        if not self.running:
            raise WorldError("not running")
        self.count += 1
        self.running = self.count < 3
        text = Segment(source=Source.STDOUT, text=f"{self.count}\n")
        return Observation(segments=(text,), done=not self.running)

    @property
    def state(self) -> Mapping[str, Any]:
        return {"episode_id": self.episode, "step_count": self.count}

    def close(self) -> None:
        self.running = False


SHARED: dict[str, int] = {}


class SharedState(CountingWorld):
    def reset(self, seed: int | None = None, episode_id: str | None = None, **kwargs: Any) -> Observation:
        SHARED["steps"] = 0
        return super().reset(seed, episode_id)

    def step(self, action: str, timeout_s: float | None = None) -> Observation:
        SHARED["steps"] += 1
        text = Segment(source=Source.STDOUT, text=f"{SHARED['steps']}\n")
        return replace(super().step(action), segments=(text,))


class RandomAnswers(CountingWorld):
    def step(self, action: str, timeout_s: float | None = None) -> Observation:
        text = Segment(source=Source.STDOUT, text=f"{id(object())} {len(SHARED)}\n")
        SHARED[f"call-{len(SHARED)}"] = 1
        return replace(super().step(action), segments=(text,))


class StepsForEver(CountingWorld):
    def step(self, action: str, timeout_s: float | None = None) -> Observation:
        self.running = True
        return super().step(action)


class SpeaksAsThePolicy(CountingWorld):
    def step(self, action: str, timeout_s: float | None = None) -> Observation:
        return replace(super().step(action), segments=(Segment(source=Source.POLICY, text=action),))


class ChokesOnText(CountingWorld):
    def step(self, action: str, timeout_s: float | None = None) -> Observation:
        action.encode()
        return super().step(action)


class CountsFromOne(CountingWorld):
    @property
    def state(self) -> Mapping[str, Any]:
        return {"episode_id": self.episode, "step_count": self.count + 1}


class SaysNothing(CountingWorld):
    def reset(self, seed: int | None = None, episode_id: str | None = None, **kwargs: Any) -> Observation:
        return replace(super().reset(seed, episode_id), segments=())


class NotANumber(CountingWorld):
    def step(self, action: str, timeout_s: float | None = None) -> Observation:
        return replace(super().step(action), reward=float("nan"))


@dataclass
class ClosesOnce(CountingWorld):
    closed: list[int] = field(default_factory=list[int])

    def close(self) -> None:
        if self.closed:
            raise RuntimeError("closed twice")
        self.closed.append(1)
        self.running = False


def test_a_good_world_passes():
    """Catches a kit that only our own world can pass."""
    report = check_world(CountingWorld, actions=("a", "b", "c", "d"), seeds=(1, 2))
    assert report.passed, str(report)
    assert isinstance(CountingWorld(), World)


@pytest.mark.parametrize(
    ("broken", "name", "message"),
    [
        (SharedState, "concurrent instances are independent", "while a second instance runs"),
        (RandomAnswers, "the same seed and actions give the same observations", "and then"),
        (StepsForEver, "step after done is an error", "raised no WorldError"),
        (StepsForEver, "close may be called twice and ends the episode", "raised no WorldError"),
        (StepsForEver, "step before reset is an error", "raised no WorldError"),
        (SpeaksAsThePolicy, "step answers typed segments", "speaks as the policy"),
        (ChokesOnText, "hostile text is inert", "UnicodeEncodeError"),
        (CountsFromOne, "state follows the episode", "step_count 1 after reset"),
        (SaysNothing, "reset states the task", "no system or task segment"),
        (NotANumber, "step answers typed segments", "finite number"),
        (ClosesOnce, "close may be called twice and ends the episode", "closed twice"),
    ],
)
def test_a_broken_world_fails_the_check_that_names_its_fault(broken: type[World], name: str, message: str):
    """Catches a check that cannot fail."""
    report = check_world(broken, actions=("a", "b", "c", "d"), seeds=(1, 2))
    found = {check.name: check.message for check in report.failures}
    assert message in found[name]


def test_a_world_that_ignores_its_timeout_fails_and_the_report_can_be_raised():
    """Catches a kit whose findings can be overlooked."""
    with pytest.raises(WorldError, match=r"failed\s+a timeout is data: 'slow' did not time out"):
        check_world(CountingWorld, actions=("a",), slow_action="slow", raise_on_failure=True)
