"""Checks of limits: turns, seconds and characters are bounded, and what is over them is data."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final

from envecho.worlds.check_contract import HOSTILE_ACTIONS
from envecho.worlds.check_report import SkippedCheck, expect
from envecho.worlds.check_subject import Subject, expect_error, text_of, typed

_TIMEOUT_SECONDS = 0.3
_GRACE_SECONDS = 10.0
_UNREADABLE: Final = "\n\n"


def _max_turns_end_the_episode(subject: Subject) -> None:
    most = subject.expectations.max_turns
    if most is None:
        raise SkippedCheck("say how many turns an episode has: expectations.max_turns")
    lasting = subject.actions[: len(subject.play(subject.seeds[0])) - 2] or subject.actions[:1]
    for actions in (lasting, (_UNREADABLE,)):
        with subject.world() as world:
            world.reset(seed=subject.seeds[0])
            done = False
            for number in range(most):
                if done := world.step(actions[number % len(actions)]).done:
                    break
            expect(done, f"the episode goes on after {most} actions, {actions[0]!r} first")


def _a_timeout_is_data(subject: Subject) -> None:
    slow = _slow(subject)
    with subject.world() as world:
        world.reset(seed=subject.seeds[0])
        started = time.monotonic()
        observation = typed(world.step(slow, timeout_s=_TIMEOUT_SECONDS), "the slow step")
        seconds = time.monotonic() - started
        expect(observation.timed_out, f"{slow!r} did not time out after {_TIMEOUT_SECONDS} s")
        expect(seconds < _TIMEOUT_SECONDS + _GRACE_SECONDS, f"a timeout of {_TIMEOUT_SECONDS} s took {seconds:.1f} s")
        if not observation.done:
            typed(world.step(subject.actions[0]), "the step after a timeout")


def _a_world_closes_after_a_timeout(subject: Subject) -> None:
    slow = _slow(subject)
    with subject.world() as world:
        world.reset(seed=subject.seeds[0])
        world.step(slow, timeout_s=_TIMEOUT_SECONDS)
        started = time.monotonic()
        world.close()
        seconds = time.monotonic() - started
        expect(seconds < _GRACE_SECONDS, f"close took {seconds:.1f} s after a timeout")
        expect_error(lambda: world.step(subject.actions[0]), "step after a timeout and close")


def _observations_are_bounded(subject: Subject) -> None:
    promised = subject.expectations
    flood = () if promised.flood_action is None else (promised.flood_action,)
    with subject.world() as world:
        done = True
        for action in (*subject.actions, max(HOSTILE_ACTIONS, key=len), *flood):
            if done:
                world.reset(seed=subject.seeds[0])
            observation = world.step(action)
            done = observation.done
            size = len(text_of(observation))
            expect(
                size <= promised.most_characters,
                f"step({action!r:.60}) answered {size} characters, expected at most {promised.most_characters}",
            )


def _slow(subject: Subject) -> str:
    if subject.slow_action is None:
        raise SkippedCheck("pass slow_action")
    return subject.slow_action


LIMIT_CHECKS: Final[Mapping[str, Callable[[Subject], None]]] = {
    "max_turns end the episode": _max_turns_end_the_episode,
    "observations are bounded": _observations_are_bounded,
    "a timeout is data": _a_timeout_is_data,
    "a world closes after a timeout": _a_world_closes_after_a_timeout,
}
