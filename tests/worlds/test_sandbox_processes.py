"""The process table of a sandbox, as the watchdog and the session read it."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

from envecho.worlds.sandbox_processes import ProcessTable


def test_threads_that_look_at_once_see_the_same_processes() -> None:
    """Catches a keeper that is overlooked, and killed, because the watchdog lists /proc at the same moment."""
    table = ProcessTable("/proc", os.getpid())
    try:
        with ThreadPoolExecutor(4) as threads:
            seen = list(threads.map(lambda _: {process.pid for process in table.processes()}, range(400)))
        assert all(os.getpid() in pids for pids in seen)
    finally:
        table.close()
