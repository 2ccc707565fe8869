"""Sandboxes that are lent to episodes: started when one is needed, stopped or kept when it comes back.

Not here: what an episode does in one (`suite`), and how one is started (`known`).
"""

from __future__ import annotations

import atexit
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from envecho.errors import WorldError
from envecho.worlds.providers.provider import WorldHost

log = logging.getLogger(__name__)


@dataclass(eq=False, kw_only=True)
class RunningHost:
    """A sandbox that runs, its server's URL, and how many episodes use it now."""

    host: WorldHost
    url: str
    num_users: int = 0


@final
class HostPool:
    """All sandboxes of one suite; safe to use from many threads.

    Args:
        make: makes the next sandbox, not yet started.
        sessions: how many episodes may share one at once.
        is_reused: whether one that was given back serves again; else it is stopped when its last user left.
    """

    def __init__(self, make: Callable[[], WorldHost], *, sessions: int, is_reused: bool) -> None:
        self._make, self._sessions, self._is_reused = make, sessions, is_reused
        self._lock = threading.Lock()
        self._starting = threading.Lock()
        self._running: list[RunningHost] = []
        self._closed = False
        atexit.register(self.close)

    def take(self) -> RunningHost:
        """Return a sandbox with room for one more episode; start one where none has.

        Where sandboxes are shared, one start at a time: those who wait may find room in what was just started.

        Raises:
            WorldError: it cannot start, or the pool was closed.
        """
        if not self._is_shared:
            return self._start()
        with self._starting:
            return self._with_room() or self._start()

    def give_back(self, running: RunningHost, *, is_lost: bool) -> None:
        """Take a sandbox back; one that was lost serves nobody again."""
        with self._lock:
            running.num_users -= 1
            if is_lost or not self._is_reused:
                self._forget(running)
            is_over = running not in self._running and running.num_users == 0
        if is_over:
            running.host.stop()

    def close(self) -> None:
        """Stop all sandboxes, also those in use, and start no more; may be called twice, also at the same time.

        A sandbox is forgotten when it was stopped, not before: the end of the process waits for those that are being
        stopped by a thread for which it would not wait.
        """
        with self._lock:
            self._closed = True
            running = list(self._running)
        for each in running:
            try:
                each.host.stop()
            except WorldError as error:  # the ledger keeps it; the others are to be stopped too
                log.warning("%s", error)
            with self._lock:
                self._forget(each)
        atexit.unregister(self.close)

    @property
    def _is_shared(self) -> bool:
        return self._is_reused or self._sessions > 1

    def _with_room(self) -> RunningHost | None:
        with self._lock:
            found = next((each for each in self._running if each.num_users < self._sessions), None)
            if found is not None:
                found.num_users += 1
            return found

    def _start(self) -> RunningHost:
        if self._closed:
            raise WorldError("the suite of this world was closed: open it again")
        host = self._make()
        running = RunningHost(host=host, url=host.start(), num_users=1)
        with self._lock:
            if not self._closed:
                self._running.append(running)
                return running
        host.stop()
        raise WorldError("the suite of this world was closed while its sandbox started")

    def _forget(self, running: RunningHost) -> None:
        if running in self._running:
            self._running.remove(running)
