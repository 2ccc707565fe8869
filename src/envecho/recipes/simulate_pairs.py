"""Pairs of actions in one state: one that succeeded there and one of the same kind that failed.

From the record: two stored episodes of a task with the same history, after which one action succeeded and another
failed. Live: the recorded action succeeded; another is taken from an episode of another task (or the recorded one with
an argument from there), and carried out in a fresh world that replays the history first. Only what really failed makes
a pair, and only where the replayed history was answered as recorded. Not here: which of the two a model chooses
(`simulate_choice`).
"""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast, get_args

from envecho.evaluation.simulation import Pair
from envecho.recipes.collect_episodes import CollectConfig, open_collect_suite
from envecho.recipes.simulate_answers import read_truth
from envecho.recipes.simulate_episodes import Place
from envecho.recipes.terminal_jobs import explored_box
from envecho.rollout import EpisodeJob, collect
from envecho.rollout.protocol import structured_call
from envecho.rollout.replay import carried_out, replay_jobs
from envecho.trajectory import Message, Segment, Source, Trajectory
from envecho.worlds.sandbox import SandboxName
from envecho.worlds.tool_calls import CallText, parse_action

MOST_TRIED: Final = 4
"""How many other actions are carried out in one state before it is given up."""

_NAMES_A_THING: Final = re.compile(r"[\w-]*[./][\w./-]*\w")
"""A word that looks like a path or a file name."""


@dataclass(frozen=True, kw_only=True)
class State:
    """A state of a stored episode in which an action succeeded: the messages up to it, and its answer's place."""

    trajectory: Trajectory
    place: Place

    @property
    def action_turn(self) -> int:
        """The message that holds the action: the last assistant turn before its answer."""
        turns = range(self.place.turn)
        return max(turn for turn in turns if self.trajectory.messages[turn].role == "assistant")

    @property
    def history(self) -> tuple[Message, ...]:
        """The messages before the action."""
        return self.trajectory.messages[: self.action_turn]

    def said(self, command: str) -> tuple[Message, ...]:
        """Return the messages with another action in this state, written as the recorded one is."""
        recorded = self.trajectory.messages[self.action_turn]
        if command == self.place.command:
            return (*self.history, recorded)
        message = Message(role="assistant", segments=(Segment(source=Source.POLICY, text=command),))
        if recorded.tool_calls:
            message = structured_call(message, number=self.action_turn)
        return (*self.history, message)


@dataclass(kw_only=True)
class FoundPairs:
    """The pairs with their states, and the states without one by reason."""

    pairs: list[tuple[State, Pair]] = field(default_factory=list[tuple[State, Pair]])
    left_out: Counter[str] = field(default_factory=Counter[str])


def kind_of(command: str) -> str:
    """Return what an action calls: the tool of a call, else the program, the first word of a command line."""
    call = parse_action(command)
    return call.name if isinstance(call, CallText) else (command.split() or [""])[0]


def find_pairs(
    trajectories: Sequence[Trajectory],
    places: Sequence[Sequence[Place]],
    *,
    world: CollectConfig | None,
    most: int,
    seed: int,
) -> FoundPairs:
    """Return at most `most` pairs, those of the record first; `world` (None: none) is where others are carried out."""
    found = FoundPairs()
    states = _states(trajectories, places, found)
    recorded = _recorded_pairs(states)
    open_states: list[State] = []
    for state in states:
        pair = recorded.get((state.trajectory.id, state.place.turn))
        if pair is None:
            open_states.append(state)
        elif len(found.pairs) < most:
            found.pairs.append((state, pair))
        else:
            found.left_out["num_over_limit"] += 1
    open_states = [state for state in open_states if state.place.truth.failed is False]
    wanted = max(most - len(found.pairs), 0)
    # Episodes take turns, so that a limit does not leave the later tasks out.
    open_states.sort(key=lambda state: state.place.number)
    if world is None:
        found.left_out["num_without_world"] += len(open_states)
        return found
    found.left_out["num_over_limit"] += max(len(open_states) - wanted, 0)
    _carry_out(open_states[:wanted], states, found, world=world, seed=seed)
    return found


def _states(trajectories: Sequence[Trajectory], places: Sequence[Sequence[Place]], found: FoundPairs) -> list[State]:
    states: list[State] = []
    for trajectory, of_trajectory in zip(trajectories, places, strict=True):
        last = -1
        for place in of_trajectory:
            state = State(trajectory=trajectory, place=place)
            if place.truth.failed is None:
                found.left_out["num_failure_unknown"] += 1
            elif state.action_turn == last:
                found.left_out["num_later_answers"] += 1
            else:
                states.append(state)
                if place.truth.failed:
                    found.left_out["num_failed_itself"] += 1
            last = state.action_turn
    return states


def _recorded_pairs(states: Sequence[State]) -> dict[tuple[str, int], Pair]:
    """Pairs of stored episodes that share a history, by trajectory and message of the one that succeeded."""
    together: dict[tuple[str, tuple[str, ...]], list[State]] = defaultdict(list)
    for state in states:
        said = tuple(f"{message.role}:{message.content}:{message.tool_calls}" for message in state.history)
        together[state.trajectory.task_id, said].append(state)
    pairs: dict[tuple[str, int], Pair] = {}
    for group in together.values():
        failed = [state for state in group if state.place.truth.failed]
        for state in group:
            kind = kind_of(state.place.command)
            others = [other for other in failed if kind_of(other.place.command) == kind]
            if state.place.truth.failed is False and others:
                other = min(others, key=lambda one: one.place.command)
                pairs[state.trajectory.id, state.place.turn] = _pair(
                    state, other.place.command, other.place.truth.text, origin="record"
                )
    return pairs


def _pair(state: State, other: str, other_answer: str, **facts: Any) -> Pair:
    return Pair(
        trajectory_id=state.trajectory.id,
        task_id=state.trajectory.task_id,
        turn=state.place.turn,
        command=state.place.command,
        other=other,
        answer=state.place.truth.text,
        other_answer=other_answer,
        **facts,
    )


# --- live -----------------------------------------------------------------------------------------------------------


def _carry_out(
    open_states: Sequence[State], states: Sequence[State], found: FoundPairs, *, world: CollectConfig, seed: int
) -> None:
    """Try other actions in each state until one fails; a round carries out one for each state that has no pair yet."""
    waiting = [(state, list(other_actions(state, states, seed=seed))[:MOST_TRIED]) for state in open_states]
    found.left_out["num_without_other"] += sum(not others for _, others in waiting)
    waiting = [(state, others) for state, others in waiting if others]
    for _ in range(MOST_TRIED):
        tried = [(state, others[0]) for state, others in waiting]
        kept: list[tuple[State, list[str]]] = []
        answers = _answers_in(tried, world)
        for (state, others), (is_same, answer) in zip(waiting, answers, strict=True):
            if not is_same:
                found.left_out["num_state_differs"] += 1
            elif answer is not None and (truth := read_truth(answer, shows_failures=True)).failed:
                found.pairs.append((state, _pair(state, others[0], truth.text, origin="live")))
            elif others[1:]:
                kept.append((state, others[1:]))
            else:
                found.left_out["num_none_failed"] += 1
        waiting = kept
        if not waiting:
            return


def other_actions(state: State, states: Sequence[State], *, seed: int) -> Iterator[str]:
    """Yield actions of the same kind that another task's episode holds, then the own one with an argument from there.

    Drawn in an order that `seed` and the state alone decide.
    """
    own, kind = state.place.command, kind_of(state.place.command)
    elsewhere = [one.place.command for one in states if one.trajectory.task_id != state.trajectory.task_id]
    same = sorted({command for command in elsewhere if kind_of(command) == kind} - {own})
    rng = random.Random(f"{seed}/{state.trajectory.id}/{state.place.turn}")
    made = sorted(set(_with_other_arguments(own, sorted(set(elsewhere)))) - {own, *same})
    yield from rng.sample(same, len(same))
    yield from rng.sample(made, len(made))


def _with_other_arguments(own: str, elsewhere: Sequence[str]) -> Iterator[str]:
    call = parse_action(own)
    if isinstance(call, CallText):
        for name, value in call.arguments.items():
            for other in _values_elsewhere(elsewhere, name):
                if type(other) is type(value) and other != value:
                    yield str(CallText(name=call.name, arguments={**call.arguments, name: other}))
        return
    things = sorted({word for command in elsewhere for word in _NAMES_A_THING.findall(command)})
    for word in _NAMES_A_THING.findall(own):
        yield from (own.replace(word, thing) for thing in things if thing != word)


def _values_elsewhere(elsewhere: Sequence[str], name: str) -> Iterator[Any]:
    """Yield what calls elsewhere say for an argument of this kind: `customer_id` and `issue_id` are both ids."""
    for command in elsewhere:
        call = parse_action(command)
        arguments = call.arguments if isinstance(call, CallText) else {}
        yield from (value for key, value in arguments.items() if key.rpartition("_")[2] == name.rpartition("_")[2])


def _answers_in(tried: Sequence[tuple[State, str]], world: CollectConfig) -> list[tuple[bool, Message | None]]:
    """Carry each action out in its state: whether the history was answered as recorded, and the action's answer."""
    jobs = [_job(state, command, world, number) for number, (state, command) in enumerate(tried)]
    longest = max((len(carried_out(state.trajectory)) for state, _ in tried), default=0) + 1
    done = collect(
        jobs,
        max_turns=longest,
        timeout_s=world.command_seconds,
        num_workers=world.num_workers,
        limits=world.limits,
    )
    answers: list[tuple[bool, Message | None]] = []
    for (state, command), trajectory in zip(tried, done, strict=True):
        asked = carried_out(state.trajectory.with_messages(state.said(command)))
        history = carried_out(trajectory)
        same = len(history) == len(asked) and all(
            [m.content for m in one.answers] == [m.content for m in other.answers]
            for one, other in zip(asked[:-1], history[:-1], strict=True)
        )
        answers.append((same, history[-1].answers[-1] if same and history[-1].answers else None))
    return answers


def _job(state: State, command: str, world: CollectConfig, number: int) -> EpisodeJob:
    trajectory = state.trajectory.with_messages(state.said(command))
    trajectory = trajectory.model_copy(update={"id": f"{number}/{trajectory.id}"})
    longest = max(world.max_turns, len(carried_out(trajectory)) + 1)
    suite = open_collect_suite(world.model_copy(update={"max_turns": longest}))
    (job,) = replay_jobs([trajectory], suite, elsewhere=_explored(world))
    return job


def _explored(world: CollectConfig) -> Any:
    if world.world != "terminal" or world.sandbox not in get_args(SandboxName):
        return None
    return lambda trajectory: explored_box(trajectory, sandbox=cast(SandboxName, world.sandbox))


def world_of(trajectories: Sequence[Trajectory]) -> str | None:
    """Return the world that the episodes name, where they all name the same."""
    named = {cast(Mapping[str, Any], trajectory.metadata).get("world") for trajectory in trajectories}
    world = named.pop() if len(named) == 1 else None
    return world if isinstance(world, str) else None
