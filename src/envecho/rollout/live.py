"""`LiveEpisode`: one episode while it runs, its transcript, and the only hands that touch its world.

A world is somebody else's code: it may raise anything, answer nonsense, or never return. So every call of it passes
through `LiveEpisode._call`, which turns what it raises into a `WorldError` and gives it a deadline. A watcher in
another thread may `abandon` an episode whose call is overdue: from then on the record is the watcher's, and the thread
that hangs touches nothing when it comes back. Whoever takes the world out of the episode closes it, so it is closed
once. Not here: turns (`play`), and who watches (`crew`).
"""

from __future__ import annotations

import math
import random
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, final

from envecho.errors import ConfigError, WorldCapacityError, WorldError, WorldLostError
from envecho.rollout.limits import Rules
from envecho.rollout.protocol import (
    action_text,
    answer_message,
    harness_error,
    opening_messages,
    stated_tools,
    timeout_notice,
    tool_names,
)
from envecho.seam import Observation, World
from envecho.trajectory import Message, StopReason, Trajectory

_T = TypeVar("_T")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
_LONGEST_TRACE = 2000


class Abandoned(Exception):
    """The episode was recorded without this thread, whose call took too long."""


class Stopped(Exception):
    """The run is over before its end; the episode is not recorded."""


class AnyJob(Protocol):
    """What a `RolloutJob` and an `EpisodeJob` share."""

    @property
    def id(self) -> str:
        """Names the episode."""
        ...

    @property
    def task_id(self) -> str:
        """Names its task."""
        ...

    @property
    def group_id(self) -> str | None:
        """Names its group."""
        ...

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What the record is to say."""
        ...

    @property
    def make_world(self) -> Callable[[], World]:
        """Makes its world."""
        ...


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What an episode shares with those beside it.

    `permits` bounds the worlds that work at the same time; `stopping` says that the run ends; `set_aside` hears True
    when the episode waits for room or closes, so that nobody waits for it, and False when that is over.
    """

    permits: threading.Semaphore
    stopping: threading.Event
    set_aside: Callable[[bool], None]


def alone() -> Surroundings:
    """Return the surroundings of an episode that runs by itself, unwatched."""
    return Surroundings(permits=threading.Semaphore(1), stopping=threading.Event(), set_aside=lambda _: None)


@dataclass(kw_only=True)
class _Stage:
    what: str
    seconds: float
    started: float


@final
class LiveEpisode:
    """One episode while it runs; see the module."""

    def __init__(self, job: AnyJob, rules: Rules, *, world_seed: int, around: Surroundings) -> None:
        self._job, self.rules, self._seed, self._around = job, rules, world_seed, around
        self.messages: list[Message] = []
        self.stop: StopReason | None = None
        self.counts: Counter[str] = Counter()
        self._reward: float | None = None
        self._tools: tuple[dict[str, Any], ...] = ()
        self._notes: dict[str, str] = {}
        self._lock = threading.Lock()
        self._world: World | None = None
        self._stage: _Stage | None = None
        self._sealed = False
        self._deadline = math.inf
        self._jitter = random.Random(f"{world_seed}/{job.id}")

    @property
    def template_tools(self) -> tuple[dict[str, Any], ...]:
        """The tools that the chat template shows; none under the protocol `text`."""
        return self._tools if self.rules.tool_protocol == "template" else ()

    # --- what the loop calls, in the episode's own thread ---------------------------------------------------------

    def start(self) -> None:
        """Make the world and let it state the task; wait for room, and start again what broke before it began.

        Raises:
            WorldError: it does not start.
        """
        limits = self.rules.limits
        give_up = time.monotonic() + limits.capacity_wait_seconds
        pause = _FIRST_PAUSE
        while True:
            self.counts["attempts"] += 1
            try:
                self._start_once()
                return
            except WorldCapacityError:
                self._release()
                if time.monotonic() >= give_up:
                    raise
                self.counts["num_capacity_waits"] += 1
                with self._aside():
                    self._pause(min(pause, max(0.0, give_up - time.monotonic())))
            except WorldLostError:
                self.counts["num_lost"] += 1
                self._release()
                if self.counts["num_lost"] >= limits.max_attempts:
                    raise
                self.counts["num_retried"] += 1
                self._pause(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def step(self, message: Message, labels: Mapping[str, str]) -> None:
        """Carry out the last turn and add the answer; the episode may be over then.

        Raises:
            WorldError: the world fails.
        """
        world, told = self._world, self._seconds_of_step()
        assert world is not None
        grace, longest = self.rules.limits.grace_seconds, self.rules.limits.call_seconds
        try:
            observation = self._call(
                "step",
                lambda: _checked(world.step(action_text(message), timeout_s=told), "step"),
                seconds=longest if told is None else told + grace,
            )
        except WorldLostError:
            self.counts["num_lost"] += 1
            raise
        if observation.segments or not observation.done:
            as_tool = bool(self.template_tools)
            self.messages.append(
                _built("step", lambda: answer_message(observation, labels, action=message, as_tool=as_tool))
            )
        if observation.done:
            self.stop = StopReason.TIMEOUT if observation.timed_out else StopReason.COMPLETED
            self._reward = observation.reward
        self.check_deadline()

    def check_deadline(self) -> None:
        """End the episode if its time is over."""
        if self.stop is None and time.monotonic() >= self._deadline:
            seconds = self.rules.limits.episode_seconds
            self._end_late(f"[the {seconds:g} s of this episode are over]")

    def fail(self, reason: StopReason, error: Exception) -> None:
        """End the episode with what went wrong."""
        self.messages.append(harness_error(error, as_tool=bool(self.template_tools)))
        self.stop = reason

    def close(self) -> None:
        """Release the world; that it fails is noted and ends nothing."""
        with self._aside():
            self._release()

    def stop_if_asked(self) -> None:
        """Raise `Stopped` where the run is to end."""
        if self._around.stopping.is_set():
            raise Stopped

    def record(self) -> Trajectory:
        """Return what happened."""
        stop = self.stop or StopReason.MAX_TURNS
        reward = self._reward
        if reward is None and stop in (StopReason.MAX_TURNS, StopReason.MAX_TOKENS):
            reward = self.rules.unfinished_reward
        metadata: dict[str, Any] = {**self._job.metadata, **self.counts, **self._notes}
        if self._tools:
            metadata["tools"] = tool_names(self._tools)
        return Trajectory(
            id=self._job.id,
            task_id=self._job.task_id,
            group_id=self._job.group_id,
            messages=tuple(self.messages),
            tools=self.template_tools,
            reward=reward,
            stop_reason=stop,
            metadata=metadata,
        )

    # --- what the watcher calls, from its thread ------------------------------------------------------------------

    def abandon(self, *, now: float) -> bool:
        """Leave the world alone if its call is overdue at `now`; True where the episode is the caller's to record."""
        with self._lock:
            stage = self._stage
            if self._sealed or stage is None or now - stage.started <= stage.seconds:
                return False
            self._sealed, world, self._world = True, self._world, None
            self._around.permits.release()
        self.counts["num_abandoned"] += 1
        if self.stop is None:
            self._end_late(f"[no end of {stage.what} after {stage.seconds:g} s; the world was left alone]")
        if world is not None:
            threading.Thread(target=close_quietly, args=(world,), daemon=True).start()
        return True

    # --- inside ---------------------------------------------------------------------------------------------------

    def _start_once(self) -> None:
        limits = self.rules.limits
        self._deadline = math.inf if limits.episode_seconds is None else time.monotonic() + limits.episode_seconds
        seconds = min(limits.call_seconds, (limits.episode_seconds or math.inf) + limits.grace_seconds)
        self._call("start", self._make, seconds=seconds)
        world = self._world
        assert world is not None
        first = self._call(
            "reset", lambda: _checked(world.reset(seed=self._seed, episode_id=self._job.id), "reset"), seconds=seconds
        )
        self._tools = _built("reset", lambda: stated_tools(first))
        self.messages += _built("reset", lambda: opening_messages(first, tool_protocol=self.rules.tool_protocol))

    def _make(self) -> None:
        world = self._job.make_world()
        with self._lock:
            if not self._sealed:
                self._world = world
                return
        close_quietly(world)  # nobody waits for it any more

    def _release(self) -> None:
        with self._lock:
            world, self._world = self._world, None
        if world is None:
            return
        try:
            self._call("close", world.close, seconds=self.rules.limits.grace_seconds)
        except WorldError as error:
            self._notes["close_error"] = str(error)

    def _call(self, what: str, function: Callable[[], _T], *, seconds: float) -> _T:
        """Call the world within its deadline; what it raises is a `WorldError` or a `ConfigError`."""
        while not self._around.permits.acquire(timeout=0.2):
            if what != "close":
                self.stop_if_asked()
        with self._lock:
            self._stage = _Stage(what=what, seconds=seconds, started=time.monotonic())
        trace: str | None = None
        try:
            return function()
        except (WorldError, ConfigError):
            raise
        except (Exception, SystemExit) as error:
            trace = traceback.format_exc()[-_LONGEST_TRACE:]
            raise WorldError(f"{what} of the world raised {type(error).__name__}: {error}") from error
        finally:
            with self._lock:
                self._stage, is_sealed = None, self._sealed
                if not is_sealed:
                    self._around.permits.release()
                    self._notes |= {} if trace is None else {"world_traceback": trace}
            if is_sealed:
                raise Abandoned

    def _seconds_of_step(self) -> float | None:
        left = self._deadline - time.monotonic()
        told = min(left, math.inf if self.rules.command_seconds is None else self.rules.command_seconds)
        return None if math.isinf(told) else max(told, 0.001)

    def _end_late(self, text: str) -> None:
        self.counts["num_deadlines"] += 1
        self.messages.append(timeout_notice(text, as_tool=bool(self.template_tools)))
        self.stop = StopReason.TIMEOUT

    def _pause(self, seconds: float) -> None:
        self._around.stopping.wait(seconds * (0.5 + self._jitter.random()))
        self.stop_if_asked()

    @contextmanager
    def _aside(self) -> Generator[None]:
        self._around.set_aside(True)
        try:
            yield
        finally:
            self._around.set_aside(False)


def _checked(observation: object, what: str) -> Observation:
    """Return what a world answered if it is an observation that a trajectory can hold."""
    if not isinstance(observation, Observation):
        raise WorldError(f"{what} of the world answered {type(observation).__name__}, expected Observation")
    reward = observation.reward
    is_number = isinstance(reward, int | float) and not isinstance(reward, bool) and math.isfinite(reward)
    if reward is not None and not is_number:
        raise WorldError(f"{what} of the world gave the reward {reward!r}, expected None or a finite number")
    return observation


def _built(what: str, build: Callable[[], _T]) -> _T:
    """Build messages of what a world answered; that its parts are of the wrong kind is the world's failure."""
    try:
        return build()
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise WorldError(
            f"{what} of the world answered an observation that no message can hold, {type(error).__name__}: {error}"
        ) from error


def close_quietly(world: World) -> None:
    """Close a world for which nobody waits any more."""
    with suppress(Exception):
        world.close()
