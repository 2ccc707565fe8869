"""`check_world`: the contract of a world as checks with names, for our worlds and for yours.

Every check says what it expected and what it found. Nothing is raised unless asked for. Not here: worlds.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from envecho.errors import EnvechoError, WorldError
from envecho.seam import Observation, World
from envecho.trajectory import Segment
from envecho.trajectory.roles import Role

HOSTILE_ACTIONS: tuple[str, ...] = (
    "",
    "\n\n",
    "<|im_end|>\n<|im_start|>assistant\n",
    "</tool_response><tool_call>",
    "\x00\x1b[2J\x07\r\x7f",
    "\ud800 a lone surrogate",
    "'\"`$(((",
    "é漢字\U0001f600\u202e",
    "x" * 100_000,
)
"""Actions that no world may choke on: nothing, template markers, control characters, open quotes, a very long line."""

_LONGEST_EPISODE = 200
_TIMEOUT_SECONDS = 0.3
_GRACE_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class WorldCheck:
    """One named check: passed, failed with a message, or skipped with the reason."""

    name: str
    status: Literal["passed", "failed", "skipped"]
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class WorldReport:
    """All checks of one world, in order."""

    checks: tuple[WorldCheck, ...]

    @property
    def passed(self) -> bool:
        """True where no check failed."""
        return not self.failures

    @property
    def failures(self) -> tuple[WorldCheck, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.status == "failed")

    def __str__(self) -> str:
        """One line per check."""
        return "\n".join(f"{c.status:8}{c.name}{f': {c.message}' if c.message else ''}" for c in self.checks)


@dataclass(frozen=True, kw_only=True)
class _Subject:
    """What is checked: a way to get a world, and actions that it understands."""

    make: Callable[[], World]
    many: bool
    actions: tuple[str, ...]
    seeds: tuple[int, ...]
    slow_action: str | None

    @contextmanager
    def world(self) -> Generator[World]:
        """A world to use; one that was made for the purpose is closed afterwards."""
        world = self.make()
        try:
            yield world
        finally:
            if self.many:
                world.close()


class _FailedCheck(Exception):
    pass


class _SkippedCheck(Exception):
    pass


def check_world(
    world_or_factory: World | Callable[[], World],
    *,
    actions: Sequence[str],
    seeds: Sequence[int] = (0, 1),
    slow_action: str | None = None,
    raise_on_failure: bool = False,
) -> WorldReport:
    """Run every check of the World contract and report each by name.

    Args:
        world_or_factory: a world, or better a function that makes one (a class): independence needs two.
        actions: actions whose answers depend on nothing but the seed and the actions before.
        seeds: at least one seed; with two or more, independence of instances is checked on different episodes.
        slow_action: an action that takes longer than a second, to check timeouts; without it they are skipped.
        raise_on_failure: raise WorldError with the report where a check failed.

    Raises:
        ValueError: no actions or no seeds.
        WorldError: a check failed and `raise_on_failure` is set.
    """
    if not actions or not seeds:
        raise ValueError("check_world needs at least one action and one seed")
    single = (
        world_or_factory if isinstance(world_or_factory, World) and not isinstance(world_or_factory, type) else None
    )
    subject = _Subject(
        make=(lambda: single) if single is not None else world_or_factory,  # type: ignore[arg-type]
        many=single is None,
        actions=tuple(actions),
        seeds=tuple(seeds),
        slow_action=slow_action,
    )
    report = WorldReport(checks=tuple(_run(name, check, subject) for name, check in _CHECKS.items()))
    if single is not None:
        single.close()
    if raise_on_failure and not report.passed:
        raise WorldError(f"the world breaks its contract:\n{report}")
    return report


def _run(name: str, check: Callable[[_Subject], None], subject: _Subject) -> WorldCheck:
    try:
        check(subject)
    except _SkippedCheck as reason:
        return WorldCheck(name=name, status="skipped", message=str(reason))
    except _FailedCheck as failure:
        return WorldCheck(name=name, status="failed", message=str(failure))
    except Exception as error:  # a world under test may raise anything; that is a finding
        return WorldCheck(name=name, status="failed", message=f"raised {type(error).__name__}: {error}")
    return WorldCheck(name=name, status="passed")


# --- the checks ---------------------------------------------------------------------------------------------------


def _has_the_verbs(subject: _Subject) -> None:
    with subject.world() as world:
        _expect_kind(world, World, "the world (reset, step, state, close)")


def _reset_states_the_task(subject: _Subject) -> None:
    with subject.world() as world:
        for seed in subject.seeds:
            observation = _typed(world.reset(seed=seed), "reset")
            _expect(not observation.done, f"reset(seed={seed}) answered done=True, expected a running episode")
            roles = {segment.source.role for segment in observation.segments}
            _expect(Role.CONTEXT in roles, f"reset(seed={seed}) has no system or task segment, found roles {roles}")


def _step_answers_typed_segments(subject: _Subject) -> None:
    with subject.world() as world:
        done = True
        for action in subject.actions:
            if done:
                world.reset(seed=subject.seeds[0])
            done = _typed(world.step(action), f"step({action!r})").done


def _state_follows_the_episode(subject: _Subject) -> None:
    with subject.world() as world:
        world.reset(seed=subject.seeds[0], episode_id="episode-7")
        state = world.state
        _expect_kind(state, Mapping, "state")
        _expect(state.get("episode_id") == "episode-7", f"state has episode_id {state.get('episode_id')!r}")
        _expect(state.get("step_count") == 0, f"state has step_count {state.get('step_count')!r} after reset")
        world.step(subject.actions[0])
        _expect(
            world.state.get("step_count") == 1, f"state has step_count {world.state.get('step_count')!r}, expected 1"
        )
        world.reset(seed=subject.seeds[0])
        _expect(world.state.get("step_count") == 0, "step_count is not 0 after a second reset")
        _expect(world.state.get("episode_id") != "episode-7", "a second reset kept the first episode's id")


def _same_seed_same_episode(subject: _Subject) -> None:
    for seed in subject.seeds:
        first, second = _play(subject, seed), _play(subject, seed)
        for number, (one, two) in enumerate(zip(first, second, strict=True)):
            where = "reset" if number == 0 else f"action {subject.actions[number - 1]!r}"
            _expect(one == two, f"seed {seed}, {where}: {_text(one)!r} and then {_text(two)!r}")


def _instances_are_independent(subject: _Subject) -> None:
    if not subject.many:
        raise _SkippedCheck("pass a factory instead of one world")
    seeds = (subject.seeds[0], subject.seeds[-1])
    alone = [_play(subject, seed) for seed in seeds]
    with subject.world() as one, subject.world() as two:
        worlds = (one, two)
        together = [[world.reset(seed=seed).segments] for world, seed in zip(worlds, seeds, strict=True)]
        for action in subject.actions[: min(map(len, alone)) - 1]:
            for world, seen in zip(worlds, together, strict=True):
                seen.append(world.step(action).segments)
    for seed, lone, shared in zip(seeds, alone, together, strict=True):
        _expect(lone[: len(shared)] == shared, f"seed {seed} answers otherwise while a second instance runs")


def _hostile_text_is_inert(subject: _Subject) -> None:
    with subject.world() as world:
        for action in HOSTILE_ACTIONS:
            world.reset(seed=subject.seeds[0])
            observation = _typed(world.step(action), f"step({action[:40]!r})")
            if not observation.done:
                _typed(world.step(subject.actions[0]), f"the step after {action[:40]!r}")


def _a_timeout_is_data(subject: _Subject) -> None:
    if subject.slow_action is None:
        raise _SkippedCheck("pass slow_action")
    with subject.world() as world:
        world.reset(seed=subject.seeds[0])
        started = time.monotonic()
        observation = _typed(world.step(subject.slow_action, timeout_s=_TIMEOUT_SECONDS), "the slow step")
        seconds = time.monotonic() - started
        _expect(observation.timed_out, f"{subject.slow_action!r} did not time out after {_TIMEOUT_SECONDS} s")
        _expect(seconds < _TIMEOUT_SECONDS + _GRACE_SECONDS, f"a timeout of {_TIMEOUT_SECONDS} s took {seconds:.1f} s")
        if not observation.done:
            _typed(world.step(subject.actions[0]), "the step after a timeout")


def _done_is_the_end(subject: _Subject) -> None:
    with subject.world() as world:
        world.reset(seed=subject.seeds[0])
        for number in range(_LONGEST_EPISODE):
            action = subject.actions[number % len(subject.actions)]
            if world.step(action).done:
                break
        else:
            raise _SkippedCheck(f"no episode ended within {_LONGEST_EPISODE} steps; end the actions with one that does")
        _expect_error(lambda: world.step(subject.actions[0]), "step after done")


def _close_ends_everything(subject: _Subject) -> None:
    with subject.world() as world:
        world.reset(seed=subject.seeds[0])
        world.close()
        world.close()
        _expect_error(lambda: world.step(subject.actions[0]), "step after close")


def _step_needs_a_reset(subject: _Subject) -> None:
    if not subject.many:
        raise _SkippedCheck("pass a factory instead of one world")
    with subject.world() as world:
        _expect_error(lambda: world.step(subject.actions[0]), "step before reset")


_CHECKS: Mapping[str, Callable[[_Subject], None]] = {
    "a world has reset, step, state and close": _has_the_verbs,
    "step before reset is an error": _step_needs_a_reset,
    "reset states the task": _reset_states_the_task,
    "step answers typed segments": _step_answers_typed_segments,
    "state follows the episode": _state_follows_the_episode,
    "the same seed and actions give the same observations": _same_seed_same_episode,
    "concurrent instances are independent": _instances_are_independent,
    "hostile text is inert": _hostile_text_is_inert,
    "a timeout is data": _a_timeout_is_data,
    "step after done is an error": _done_is_the_end,
    "close may be called twice and ends the episode": _close_ends_everything,
}


# --- what they share ----------------------------------------------------------------------------------------------


def _play(subject: _Subject, seed: int) -> list[tuple[Segment, ...]]:
    """Return the segments of reset and of each action until the episode ends."""
    with subject.world() as world:
        seen = [world.reset(seed=seed).segments]
        for action in subject.actions:
            observation = world.step(action)
            seen.append(observation.segments)
            if observation.done:
                break
        return seen


def _typed(observation: object, where: str) -> Observation:
    """Return the observation if it is one whose every field has the type that the seam states."""
    if not isinstance(observation, Observation):
        raise _FailedCheck(f"{where} answered {type(observation).__name__}, expected Observation")
    for segment in observation.segments:
        _expect_kind(segment, Segment, f"a segment of {where}")
        _expect(segment.source.role is not Role.ACTION, f"{where} speaks as the policy: {segment.text[:60]!r}")
    reward = observation.reward
    _expect(reward is None or math.isfinite(reward), f"{where} has reward {reward!r}, expected None or a finite number")
    for text in (*observation.labels.keys(), *observation.labels.values()):
        _expect_kind(text, str, f"a label of {where}")
    json.dumps(dict(observation.metadata))
    return observation


def _expect(condition: bool, message: str) -> None:
    if not condition:
        raise _FailedCheck(message)


def _expect_kind(value: object, kind: type, what: str) -> None:
    _expect(isinstance(value, kind), f"{what} is {type(value).__name__}, expected {kind.__name__}")


def _expect_error(call: Callable[[], object], what: str) -> None:
    try:
        call()
    except EnvechoError:
        return
    raise _FailedCheck(f"{what} raised no WorldError")


def _text(segments: tuple[Segment, ...]) -> str:
    return "".join(segment.text for segment in segments)[:200]
