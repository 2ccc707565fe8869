"""`Crew`: episodes side by side, each in a thread of its own, and a watcher that leaves alone what hangs.

A thread takes the next episode when its last one is over, so at most `num_live` worlds are open, and none is started
that nobody serves. No thread runs further ahead than `window` episodes of what has been taken out. Threads are daemons:
one that hangs in a world is replaced, and keeps nothing from ending. Not here: what an episode does (`play`), decoding
(`exchange`).
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self, final

from envecho.errors import WorldError
from envecho.rollout.live import Abandoned, LiveEpisode, Stopped, Surroundings
from envecho.trajectory import Trajectory

_TICK = 0.05
_MOST_HUNG = 512

MakeEpisode = Callable[[int, Surroundings], LiveEpisode]


@final
class Crew:
    """Runs episodes `0 .. num_episodes - 1`; use as a context, and take the records out.

    Args:
        num_episodes: how many there are.
        make: makes one.
        play: runs one to its end.
        num_live: how many run at the same time.
        num_workers: how many of their worlds work at the same time.
        grace_seconds: how long a run that ends early waits for its worlds.
        window: how far ahead of what was taken out an episode may start; None: no bound.
    """

    def __init__(
        self,
        num_episodes: int,
        make: MakeEpisode,
        play: Callable[[LiveEpisode, int], None],
        *,
        num_live: int,
        num_workers: int,
        grace_seconds: float,
        window: int | None = None,
    ) -> None:
        self._num, self._make, self._play = num_episodes, make, play
        self._num_live, self._grace, self._window = min(num_live, num_episodes), grace_seconds, window
        self.changed = threading.Condition()
        self.stopping = threading.Event()
        self._permits = threading.Semaphore(num_workers)
        self._over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="rollout-watch", daemon=True)
        self._next = self._num_taken = self._num_over = self._num_hung = 0
        self._live: dict[int, LiveEpisode] = {}
        self._aside: set[int] = set()
        self._records: dict[int, Trajectory] = {}
        self._threads: set[threading.Thread] = set()
        self._thread_of: dict[int, threading.Thread] = {}
        self._failure: BaseException | None = None

    def __enter__(self) -> Self:
        for _ in range(self._num_live):
            self._hire()
        self._watcher.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self.stopping.set()
        with self.changed:
            self.changed.notify_all()
        until = time.monotonic() + self._grace
        with self.changed:
            threads = [*self._threads]
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
        self._over.set()
        self._watcher.join()
        with self.changed:
            live = list(self._live.values())
        for episode in live:
            episode.abandon(now=math.inf)

    # --- for the thread that owns the crew ------------------------------------------------------------------------

    @property
    def num_unfinished(self) -> int:
        """Episodes that are not over and for which others should wait; call with `changed` held."""
        return self._num - self._num_over - len(self._aside)

    @property
    def num_live(self) -> int:
        """Episodes for which others should wait: that run, or start in the place of one that has just ended.

        Call with `changed` held.
        """
        return min(self._num_live, self._num - self._num_over) - len(self._aside)

    @property
    def is_over(self) -> bool:
        """Whether every episode is over; call with `changed` held."""
        return self._num_over == self._num

    def raise_failure(self) -> None:
        """Raise what went wrong in a thread, and was no failure of a world; call with `changed` held."""
        if self._failure is not None:
            raise self._failure

    def take(self, number: int) -> Trajectory:
        """Wait for the record of an episode and take it out."""
        with self.changed:
            self.changed.wait_for(lambda: number in self._records or self._failure is not None)
            self.raise_failure()
            return self._taken(number)

    def take_finished(self) -> list[tuple[int, Trajectory]]:
        """Take out what is over, without waiting."""
        with self.changed:
            return [(number, self._taken(number)) for number in sorted(self._records)]

    # --- threads --------------------------------------------------------------------------------------------------

    def _hire(self) -> None:
        thread = threading.Thread(target=self._work, name="rollout-episode", daemon=True)
        with self.changed:
            self._threads.add(thread)
        thread.start()

    def _work(self) -> None:
        try:
            while (number := self._begin()) is not None:
                episode = self._live[number]
                self._play(episode, number)
                self._finish(number, episode.record())
        except (Abandoned, Stopped):
            return
        except BaseException as error:
            with self.changed:
                self._failure = self._failure or error
                self.changed.notify_all()

    def _begin(self) -> int | None:
        with self.changed:
            self.changed.wait_for(lambda: self._may_begin() or self._next >= self._num or self.stopping.is_set())
            if self._next >= self._num or self.stopping.is_set():
                return None
            number = self._next
            self._next += 1
            around = Surroundings(
                permits=self._permits,
                stopping=self.stopping,
                set_aside=lambda is_aside: self._set_aside(number, is_aside),
            )
            self._live[number] = self._make(number, around)
            self._thread_of[number] = threading.current_thread()
            return number

    def _may_begin(self) -> bool:
        return self._window is None or self._next < self._num_taken + self._window

    def _finish(self, number: int, record: Trajectory) -> None:
        with self.changed:
            self._records[number] = record
            self._num_over += 1
            del self._live[number], self._thread_of[number]
            self._aside.discard(number)
            self.changed.notify_all()

    def _set_aside(self, number: int, is_aside: bool) -> None:
        with self.changed:
            if is_aside and number in self._live:
                self._aside.add(number)
            else:
                self._aside.discard(number)
            self.changed.notify_all()

    def _taken(self, number: int) -> Trajectory:
        self._num_taken += 1
        self.changed.notify_all()
        return self._records.pop(number)

    def _watch(self) -> None:
        while not self._over.wait(_TICK):
            with self.changed:
                live = list(self._live.items())
            for number, episode in live:
                if episode.abandon(now=time.monotonic()):
                    self._replace(self._thread_of[number])
                    self._finish(number, episode.record())

    def _replace(self, thread: threading.Thread) -> None:
        """Let a new thread work in the place of one that hangs; too many that hang are a broken environment."""
        with self.changed:
            self._threads.discard(thread)
            self._num_hung += 1
            if self._num_hung > _MOST_HUNG:
                self._failure = WorldError(
                    f"{self._num_hung} calls of worlds did not come back within their deadlines; the environment "
                    "hangs. Give it a timeout of its own, or longer deadlines"
                )
                self.changed.notify_all()
        self._hire()
