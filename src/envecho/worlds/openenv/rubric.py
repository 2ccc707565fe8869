"""Rubrics on this side: an OpenEnv `Rubric` (RFC 004) grades the episodes of a world whose server does not.

A rubric is called with (action, observation) after every step, so that trajectory rubrics see the whole episode; the
reward comes with `done`. Not here: rewards of the server (`grading`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, final

from envecho.errors import ConfigError, WorldError
from envecho.seam import Observation, World
from envecho.worlds.openenv.connection import run_on_loop
from envecho.worlds.openenv.grading import RewardReading, Rewards
from envecho.worlds.seeded import load_object


def load_rubric(name: str) -> Callable[[], Any]:
    """Return what makes the rubric `module:Class`.

    Raises:
        ConfigError: there is no such class, or it is no rubric.
    """
    if ":" not in name:
        raise ConfigError(f"expected a rubric as module:Class, found {name!r}")
    made: Any = load_object(name)
    from openenv.core.rubrics import Rubric

    if not callable(made) or (inspect.isclass(made) and not issubclass(made, Rubric)):
        raise ConfigError(f"{name!r} is no class of openenv.core.rubrics.Rubric, and no function that makes one")
    return made


@final
class RubricWorld:
    """A world whose reward is a rubric's; what the world itself rewards is left out.

    The rubric sees the action's and the observation's own fields as attributes, beside `text`, and `done`, `reward` and
    `metadata` of the observation. A trajectory rubric's last value is the episode's reward; of any other rubric `read`
    says how its values are put together. An episode that was given up (`timed_out`) is not graded.

    Raises:
        WorldError: the rubric raised.
    """

    def __init__(self, world: World, rubric: Any, *, read: RewardReading = "sum") -> None:
        from openenv.core.rubrics import TrajectoryRubric

        self._world, self._rubric = world, rubric
        self._read: RewardReading = "last" if read == "finish" or isinstance(rubric, TrajectoryRubric) else read
        self._rewards = Rewards(self._read)

    def reset(self, seed: int | None = None, episode_id: str | None = None, **kwargs: Any) -> Observation:
        """Start the episode of the world, and forget the last."""
        self._rewards = Rewards(self._read)
        self._call(getattr(self._rubric, "reset_async", self._rubric.reset))
        return self._world.reset(seed=seed, episode_id=episode_id, **kwargs)

    def step(self, action: str, timeout_s: float | None = None) -> Observation:
        """Take the step in the world and grade it."""
        observation = self._world.step(action, timeout_s=timeout_s)
        if observation.timed_out:
            return replace(observation, reward=None)
        score = self._call(self._rubric, _action(action, observation), _observation(observation))
        if not isinstance(score, int | float):
            raise WorldError(f"the rubric answered {score!r}, expected a number")
        self._rewards.add(float(score))
        metadata = {**observation.metadata, "rubric": float(score)}
        reward = self._rewards.total() if observation.done else None
        return replace(observation, reward=reward, metadata=metadata)

    @property
    def state(self) -> Mapping[str, Any]:
        """The world's state."""
        return self._world.state

    def close(self) -> None:
        """End the world's episode."""
        self._world.close()

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            answer = function(*arguments)
            return run_on_loop(answer) if inspect.iscoroutine(answer) else answer
        except Exception as error:  # a judge behind it may fail as a server does; the episode then has no reward
            raise WorldError(f"the rubric failed: {type(error).__name__}: {error}") from error


def _action(text: str, observation: Observation) -> SimpleNamespace:
    return SimpleNamespace(**{"metadata": {}, **(observation.metadata.get("action") or {}), "text": text})


def _observation(observation: Observation) -> SimpleNamespace:
    raw = observation.metadata.get("observation") or {}
    text = "".join(segment.text for segment in observation.segments)
    reward = observation.metadata.get("reward", observation.reward)
    return SimpleNamespace(**{"metadata": {}, "text": text, **raw, "done": observation.done, "reward": reward})
