"""Checks of the verbs: reset, step, state and close do what `envecho.seam.World` says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from envecho.seam import World
from envecho.trajectory.roles import Role
from envecho.worlds.check_report import SkippedCheck, expect, expect_kind
from envecho.worlds.check_subject import Subject, expect_error, text_of, typed

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


def _has_the_verbs(subject: Subject) -> None:
    with subject.world() as world:
        expect_kind(world, World, "the world (reset, step, state, close)")


def _step_needs_a_reset(subject: Subject) -> None:
    if not subject.many:
        raise SkippedCheck("pass a factory instead of one world")
    with subject.world() as world:
        expect_error(lambda: world.step(subject.actions[0]), "step before reset")


def _reset_states_the_task(subject: Subject) -> None:
    with subject.world() as world:
        for seed in subject.seeds:
            observation = typed(world.reset(seed=seed), "reset")
            expect(not observation.done, f"reset(seed={seed}) answered done=True, expected a running episode")
            roles = {segment.source.role for segment in observation.segments}
            expect(Role.CONTEXT in roles, f"reset(seed={seed}) has no system or task segment, found roles {roles}")


def _step_answers_typed_segments(subject: Subject) -> None:
    with subject.world() as world:
        done = True
        for action in subject.actions:
            if done:
                world.reset(seed=subject.seeds[0])
            done = typed(world.step(action), f"step({action!r})").done


def _state_follows_the_episode(subject: Subject) -> None:
    with subject.world() as world:
        world.reset(seed=subject.seeds[0], episode_id="episode-7")
        state = world.state
        expect_kind(state, Mapping, "state")
        expect(state.get("episode_id") == "episode-7", f"state has episode_id {state.get('episode_id')!r}")
        expect(state.get("step_count") == 0, f"state has step_count {state.get('step_count')!r} after reset")
        world.step(subject.actions[0])
        count = world.state.get("step_count")
        expect(count == 1, f"state has step_count {count!r}, expected 1")
        world.reset(seed=subject.seeds[0])
        expect(world.state.get("step_count") == 0, "step_count is not 0 after a second reset")
        expect(world.state.get("episode_id") != "episode-7", "a second reset kept the first episode's id")


def _same_seed_same_episode(subject: Subject) -> None:
    for seed in subject.seeds:
        first, second = subject.play(seed), subject.play(seed)
        lengths = (len(first) - 1, len(second) - 1)
        expect(lengths[0] == lengths[1], f"seed {seed}: the episode took {lengths[0]} and then {lengths[1]} steps")
        for number, (one, two) in enumerate(zip(first, second, strict=True)):
            where = "reset" if number == 0 else f"action {subject.actions[number - 1]!r}"
            expect(
                one.segments == two.segments,
                f"seed {seed}, {where}: {text_of(one)[:200]!r} and then {text_of(two)[:200]!r}",
            )


def _instances_are_independent(subject: Subject) -> None:
    if not subject.many:
        raise SkippedCheck("pass a factory instead of one world")
    seeds = (subject.seeds[0], subject.seeds[-1])
    alone = [[observation.segments for observation in subject.play(seed)] for seed in seeds]
    with subject.world() as one, subject.world() as two:
        worlds = (one, two)
        together = [[world.reset(seed=seed).segments] for world, seed in zip(worlds, seeds, strict=True)]
        for action in subject.actions[: min(map(len, alone)) - 1]:
            for world, seen in zip(worlds, together, strict=True):
                seen.append(world.step(action).segments)
    for seed, lone, shared in zip(seeds, alone, together, strict=True):
        expect(lone[: len(shared)] == shared, f"seed {seed} answers otherwise while a second instance runs")


def _hostile_text_is_inert(subject: Subject) -> None:
    with subject.world() as world:
        for action in HOSTILE_ACTIONS:
            world.reset(seed=subject.seeds[0])
            observation = typed(world.step(action), f"step({action[:40]!r})")
            if not observation.done:
                typed(world.step(subject.actions[0]), f"the step after {action[:40]!r}")


def _done_is_the_end(subject: Subject) -> None:
    with subject.world() as world:
        world.reset(seed=subject.seeds[0])
        for number in range(_LONGEST_EPISODE):
            action = subject.actions[number % len(subject.actions)]
            if world.step(action).done:
                break
        else:
            raise SkippedCheck(f"no episode ended within {_LONGEST_EPISODE} steps; end the actions with one that does")
        expect_error(lambda: world.step(subject.actions[0]), "step after done")


def _close_ends_everything(subject: Subject) -> None:
    with subject.world() as world:
        world.reset(seed=subject.seeds[0])
        world.close()
        world.close()
        expect_error(lambda: world.step(subject.actions[0]), "step after close")


CONTRACT_CHECKS: Final[Mapping[str, Callable[[Subject], None]]] = {
    "a world has reset, step, state and close": _has_the_verbs,
    "step before reset is an error": _step_needs_a_reset,
    "reset states the task": _reset_states_the_task,
    "step answers typed segments": _step_answers_typed_segments,
    "state follows the episode": _state_follows_the_episode,
    "the same seed and actions give the same observations": _same_seed_same_episode,
    "concurrent instances are independent": _instances_are_independent,
    "hostile text is inert": _hostile_text_is_inert,
    "step after done is an error": _done_is_the_end,
    "close may be called twice and ends the episode": _close_ends_everything,
}
