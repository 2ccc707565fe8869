"""The loop of one episode: an actor takes turns with a world until something ends it.

What a world raises, and what it answers that is no answer, ends its episode as a `world_error`; an `EngineError` of the
actor ends it as a `policy_error`. Everything else is a bug of ours or a wrong configuration and raises. Not here: where
turns come from (`episode`, `batch`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from envecho.errors import EngineError, WorldError
from envecho.rollout.live import LiveEpisode
from envecho.rollout.protocol import cut_notice
from envecho.trajectory import Message, StopReason


@dataclass(frozen=True, kw_only=True)
class Action:
    """One turn of an actor, with labels for its answer; `cut` is how many tokens a turn had that never ended."""

    message: Message
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    cut: int | None = None


class Actor(Protocol):
    """Takes the turns of one episode."""

    def act(self, episode: LiveEpisode, turn: int) -> Action | StopReason:
        """Return turn number `turn`, or why there is none."""
        ...


def play(episode: LiveEpisode, actor: Actor) -> None:
    """Run an episode from the start of its world to the end of it."""
    try:
        episode.start()
        _take_turns(episode, actor)
    except WorldError as error:
        episode.fail(StopReason.WORLD_ERROR, error)
    except EngineError as error:
        episode.fail(StopReason.POLICY_ERROR, error)
    finally:
        episode.close()


def _take_turns(episode: LiveEpisode, actor: Actor) -> None:
    for turn in range(episode.rules.max_turns):
        episode.stop_if_asked()
        episode.check_deadline()
        if episode.stop is not None:
            return
        action = actor.act(episode, turn)
        if isinstance(action, StopReason):
            episode.stop = action
            return
        episode.messages.append(action.message)
        if action.cut is not None:
            episode.counts["num_cut_turns"] += 1
            episode.messages.append(cut_notice(action.cut, as_tool=bool(episode.template_tools)))
            continue
        episode.check_deadline()
        if episode.stop is None:
            episode.step(action.message, action.labels)
    episode.stop = episode.stop or StopReason.MAX_TURNS
