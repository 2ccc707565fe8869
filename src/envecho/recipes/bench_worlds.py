"""What `envecho bench rollout` measures with: worlds and a model that do nothing, and a clock around them.

Not here: phases and reports (`bench_rollout`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, final

import numpy as np

from envecho.errors import ConfigError
from envecho.seam import Observation, Policy, Sample, SamplingParams, TurnRequest, World
from envecho.trajectory import Segment, Source

TAIL_EVERY: Final = 16
TAIL_FACTOR: Final = 10


@final
class NullWorld:
    """Answers every step with one line after `seconds` of sleep; ends after `num_steps`.

    With `tail`, one step in 16 takes ten times as long, at a place that depends on the number of the episode.
    """

    def __init__(self, *, num_steps: int, seconds: float = 0.0, tail: bool = False, number: int = 0) -> None:
        self._num_steps, self._seconds, self._tail, self._number = num_steps, seconds, tail, number
        self._step_count = 0

    def reset(self, seed: int | None = None, episode_id: str | None = None, **kwargs: Any) -> Observation:
        """State a task."""
        self._step_count = 0
        return Observation(segments=(Segment(source=Source.TASK, text="Go on until it ends."),))

    def step(self, action: str, timeout_s: float | None = None) -> Observation:
        """Sleep and answer."""
        self._step_count += 1
        is_late = self._tail and (self._step_count + 7 * self._number) % TAIL_EVERY == 0
        if self._seconds:
            time.sleep(self._seconds * (TAIL_FACTOR if is_late else 1))
        over = self._step_count == self._num_steps
        segment = Segment(source=Source.STDOUT, text=f"line {self._step_count}\n")
        return Observation(segments=(segment,), done=over, reward=1.0 if over else None)

    @property
    def state(self) -> Mapping[str, Any]:
        """How many steps were taken."""
        return {"step_count": self._step_count}

    def close(self) -> None:
        """Nothing is held."""


@final
class NullSuite:
    """Worlds that do nothing, to be served."""

    name = "null"
    splits = ("train",)

    def __init__(self, num_steps: int) -> None:
        self._num_steps = num_steps

    def num_tasks(self, split: str) -> int | None:
        """There is a task for every number."""
        return None

    def task_id(self, split: str, number: int) -> str:
        """Name a task."""
        return f"null-{number}"

    def make_world(self, split: str, number: int) -> World:
        """Return a world that answers at once."""
        return NullWorld(num_steps=self._num_steps)

    def scripted_policy(self, split: str, number: int, *, policy: str, seed: int) -> Policy:
        """Refuse: a measurement brings its own."""
        raise ConfigError(f"the null world has no scripts, found {policy!r}")


@final
class Clock:
    """Times of all worlds in seconds: of each step, from an answer to the next action, and of start and end."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.gaps: list[float] = []
        self.starts_and_ends: list[float] = []
        self.most_threads = 0


@final
class TimedWorld:
    """A world with a clock around it; `make` makes it, and is timed too."""

    def __init__(self, make: Callable[[], World], clock: Clock) -> None:
        entered = time.perf_counter()
        self._world, self._clock = make(), clock
        self._spent, self._left = time.perf_counter() - entered, 0.0

    def reset(self, seed: int | None = None, episode_id: str | None = None, **kwargs: Any) -> Observation:
        """Start the episode."""
        entered = time.perf_counter()
        observation = self._world.reset(seed=seed, episode_id=episode_id, **kwargs)
        self._left = time.perf_counter()
        self._spent += self._left - entered
        self._clock.most_threads = max(self._clock.most_threads, threading.active_count())
        return observation

    def step(self, action: str, timeout_s: float | None = None) -> Observation:
        """Carry out one action and note its time."""
        entered = time.perf_counter()
        self._clock.gaps.append(entered - self._left)
        observation = self._world.step(action, timeout_s)
        self._left = time.perf_counter()
        self._clock.steps.append(self._left - entered)
        return observation

    @property
    def state(self) -> Mapping[str, Any]:
        """The world's."""
        return self._world.state

    def close(self) -> None:
        """Close the world."""
        entered = time.perf_counter()
        self._world.close()
        self._clock.starts_and_ends.append(self._spent + time.perf_counter() - entered)


@final
class SilentEngine:
    """Every turn is its end, and every batch of turns takes `seconds`; `batch_sizes` are the turns of each."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.batch_sizes: list[int] = []

    @contextmanager
    def sampling_session(self) -> Generator[SilentEngine]:
        """Open a session, which is the engine."""
        yield self

    def drop(self, row: int) -> None:
        """Nothing is kept."""

    def sample(self, requests: Sequence[TurnRequest], params: SamplingParams) -> list[Sample]:
        """Sample one turn for each request."""
        self.batch_sizes.append(len(requests))
        time.sleep(self._seconds)
        ids = np.array([params.stop_token_ids[0]], dtype=np.int32)
        return [Sample(token_ids=ids, logprobs=np.zeros(1, np.float32), stopped=True) for _ in requests]
