"""Worlds that fail in every way that somebody's environment can, and an engine that does nothing but go on."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from envecho.errors import WorldCapacityError, WorldError, WorldLostError
from envecho.rollout import EpisodeJob, RolloutJob, RolloutParams, WorldLimits, rollout
from envecho.seam import Observation, Sample
from envecho.trajectory import Segment, Source, Trajectory
from envecho.worlds.scripts import ScriptedPolicy

NUM_STEPS = 3
"""After so many steps a world that does not fail is done, with reward 1."""


class Registry:
    """Every world that was made, with how often it was closed; and what a full server lets in."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.worlds: list[FailingWorld] = []
        self.release = threading.Event()
        self.num_open = self.most_open = self.num_working = self.most_working = 0
        self.starts: dict[int, int] = {}

    def made(self) -> list[FailingWorld]:
        with self.lock:
            return list(self.worlds)

    def all_closed_once(self) -> bool:
        return all(world.num_closes == 1 for world in self.made())

    def start_number(self, number: int) -> int:
        with self.lock:
            self.starts[number] = self.starts.get(number, 0) + 1
            return self.starts[number]


class FailingWorld:
    """Fails as `how` says, in reset or in its second step; 'capacity:N' and 'lost_at_start:N' fail N starts."""

    def __init__(self, registry: Registry, how: str, number: int = 0, *, seconds: float = 0.0) -> None:
        kind, _, times = how.partition(":")
        self.registry, self.how, self.number, self.seconds = registry, kind, number, seconds
        self.num_steps = self.num_closes = 0
        self.threads: set[int] = set()
        start = registry.start_number(number)
        if kind == "make_raises":
            raise ZeroDivisionError("a bug in make")
        if kind == "make_capacity" and start <= int(times):
            raise WorldCapacityError("the server is full")
        self.fails_start = start <= int(times or 0)
        with registry.lock:
            registry.worlds.append(self)
            registry.num_open += 1
            registry.most_open = max(registry.most_open, registry.num_open)

    def reset(self, seed: int | None = None, episode_id: str | None = None, **kwargs: Any) -> Observation:
        with self._working():
            if self.how == "capacity" and self.fails_start:
                raise WorldCapacityError("the server is full")
            if self.how.startswith("lost") and self.fails_start:
                raise WorldLostError("the connection broke at reset")
            if self.how == "reset_raises":
                raise KeyError("a bug in reset")
            if self.how == "reset_hangs":
                self.registry.release.wait()
            if self.how == "reset_nonsense":
                return {"observation": "no"}  # type: ignore[return-value]
            return Observation(segments=(Segment(source=Source.TASK, text=f"Task {self.number}"),))

    def step(self, action: str, timeout_s: float | None = None) -> Observation:
        with self._working():
            self.num_steps += 1
            time.sleep(self.seconds)
            if self.num_steps == 2:
                self._fail()
            done = self.num_steps == NUM_STEPS
            segment = Segment(source=Source.STDOUT, text=f"line {self.num_steps} of {self.number}\n")
            return Observation(segments=(segment,), done=done, reward=1.0 if done else None)

    def _fail(self) -> None:
        if self.how == "step_raises":
            raise IndexError("a bug in step")
        if self.how == "step_fails":
            raise WorldError("the sandbox is gone")
        if self.how == "step_lost":
            raise WorldLostError("the connection broke")
        if self.how == "step_exits":
            raise SystemExit(3)
        if self.how == "step_hangs":
            self.registry.release.wait()
        if self.how == "slow":
            time.sleep(0.15)

    @contextmanager
    def _working(self):
        registry = self.registry
        with registry.lock:
            registry.num_working += 1
            registry.most_working = max(registry.most_working, registry.num_working)
        try:
            self.threads.add(threading.get_ident())
            yield
        finally:
            with registry.lock:
                registry.num_working -= 1

    @property
    def state(self) -> Mapping[str, Any]:
        return {}

    def close(self) -> None:
        with self.registry.lock:
            self.num_closes += 1
            self.registry.num_open -= 1
        if self.how == "close_raises":
            raise OSError("a bug in close")
        if self.how.endswith("close_hangs"):
            self.registry.release.wait()


class StopEngine:
    """Every turn is its end alone, and every batch that was decoded is remembered by its rows."""

    def __init__(self, *, seconds: float = 0.0) -> None:
        self.batches: list[list[int]] = []
        self.seconds = seconds

    @contextmanager
    def sampling_session(self):
        yield self

    def drop(self, row: int) -> None:
        pass

    def sample(self, requests: Sequence[Any], params: Any) -> list[Sample]:
        self.batches.append([request.row for request in requests])
        time.sleep(self.seconds)
        ids = np.array([params.stop_token_ids[0]], dtype=np.int32)
        return [Sample(token_ids=ids, logprobs=np.zeros(1, np.float32), stopped=True) for _ in requests]


def quick(**fields: Any) -> WorldLimits:
    """Deadlines that a test can wait for, and that a busy machine keeps where nothing hangs."""
    return WorldLimits(**{"call_seconds": 1.0, "grace_seconds": 1.0, "capacity_wait_seconds": 5.0, **fields})


def roll(kinds: Sequence[str], registry: Registry, tokenizer: Any, *, engine: Any = None, **fields: Any):
    """Roll out one episode for each kind of world."""
    params = RolloutParams(
        **{
            "max_turns": 5,
            "max_tokens_per_turn": 4,
            "max_context_tokens": 2048,
            "num_workers": 64,
            "limits": quick(),
            **fields,
        }
    )
    jobs = [
        RolloutJob(
            id=f"e-{n}", task_id="t", make_world=lambda n=n, kind=kind: FailingWorld(registry, kind, n), key=(0, n)
        )
        for n, kind in enumerate(kinds)
    ]
    return rollout(jobs, engine or StopEngine(), tokenizer, params)


def scripted_jobs(kinds: Sequence[str], registry: Registry) -> list[EpisodeJob]:
    """One job of a script for each kind of world."""
    return [
        EpisodeJob(
            id=f"e-{n}",
            task_id="t",
            seed=n,
            make_world=lambda n=n, kind=kind: FailingWorld(registry, kind, n),
            make_policy=lambda: ScriptedPolicy.oracle(["go"] * (NUM_STEPS + 1)),
        )
        for n, kind in enumerate(kinds)
    ]


def sources(trajectory: Trajectory) -> list[Source]:
    """Who wrote each message that is no action, after the opening."""
    answers = [m for m in trajectory.messages if m.role != "assistant"]
    return [segment.source for message in answers for segment in message.segments]


def eventually(condition: Any, seconds: float = 5.0) -> bool:
    """Wait for something that happens in the background."""
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.01)
    return bool(condition())
