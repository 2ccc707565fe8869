"""`Exchange`: the counter between episode threads that ask for their next turn and the one thread that decodes.

    episode threads: ask(row, prompt, key) ... wait ...  -> Sample
    the engine's:    due() -> requests of a turn batch -> session.sample -> answer(samples)

Each episode has at most one request here. When a batch is due is the schedule: `lockstep` waits until every episode of
the batch asks, so who is decoded beside whom depends on nothing but the episodes; `ready` decodes whoever asks, once
nobody else seems to come: a batch of half the rows takes nearly the time of a full one. Neither waits for an episode
that waits for room in a full server, or that closes. Not here: threads (`crew`), prompts (`batch`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from types import TracebackType
from typing import Literal, Self, final

from envecho.errors import EngineError
from envecho.rollout.crew import Crew
from envecho.rollout.live import Stopped
from envecho.seam import Sample, TurnRequest

Schedule = Literal["lockstep", "ready"]

_READY_SHARE = 0.5
_QUIET_SHARE, _WAIT_SHARE = 0.25, 0.5
"""Of the time that the last batch took: a batch that is not full is due when nobody has come for the first of them, or
when the engine has been idle for the second."""


class TurnsFailedError(EngineError):
    """Some turns of a batch could not be sampled; `outcomes` are in the order of the requests."""

    def __init__(self, outcomes: Sequence[Sample | EngineError]) -> None:
        self.outcomes = tuple(outcomes)
        failures = [outcome for outcome in outcomes if isinstance(outcome, EngineError)]
        super().__init__(f"{len(failures)} of {len(outcomes)} turns failed; the first: {failures[0]}")


@dataclass(frozen=True, kw_only=True)
class _Asked:
    request: TurnRequest
    since: float
    answer: SimpleQueue[Sample | EngineError | None] = field(
        default_factory=lambda: SimpleQueue[Sample | EngineError | None]()
    )


@final
class Exchange:
    """Turn requests of a crew; use as a context inside the crew's, so that nobody waits for an answer at its end.

    Args:
        crew: whose episodes ask.
        schedule: when a batch is due.
        most: how many turns are decoded together at most.
        ready_seconds: under `ready`, how long a request waits for company while the engine is idle; where half of the
            episodes ask, only while others come, and at most half of the time of a batch.
    """

    def __init__(self, crew: Crew, schedule: Schedule, *, most: int, ready_seconds: float) -> None:
        self._crew, self._schedule, self._most, self._ready_seconds = crew, schedule, most, ready_seconds
        self._asked: dict[int, _Asked] = {}
        self._given: list[_Asked] = []
        self._closed = False
        self._given_at = self._idle_since = self._batch_seconds = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        with self._crew.changed:
            self._closed = True
            for asked in [*self._asked.values(), *self._given]:
                asked.answer.put(None)

    def ask(self, request: TurnRequest) -> Sample:
        """Hand a request in and wait for its sample.

        Raises:
            Stopped: the run ends first.
            EngineError: this turn could not be sampled.
        """
        asked = _Asked(request=request, since=time.monotonic())
        with self._crew.changed:
            if self._closed:
                raise Stopped
            self._asked[request.row] = asked
            self._crew.changed.notify_all()
        sample = asked.answer.get()
        if sample is None:
            raise Stopped
        if isinstance(sample, EngineError):
            raise sample
        return sample

    def due(self) -> list[TurnRequest]:
        """Wait for a turn batch and return it in the order of its rows; empty when every episode is over.

        Raises:
            BaseException: what went wrong in an episode's thread, and was no failure of its world.
        """
        with self._crew.changed:
            while not self._crew.is_over:
                self._crew.raise_failure()
                wait = self._seconds_to_wait()
                if wait == 0:
                    break
                self._crew.changed.wait(wait)
            oldest = sorted(self._asked.values(), key=lambda asked: (asked.since, asked.request.row))[: self._most]
            self._given = sorted(oldest, key=lambda asked: asked.request.row)
            for asked in self._given:
                del self._asked[asked.request.row]
            self._given_at = time.monotonic()
            return [asked.request for asked in self._given]

    def answer(self, samples: Sequence[Sample | EngineError]) -> None:
        """Hand the samples of the last batch, or why there is none, to those who asked."""
        given, self._given = self._given, []
        self._idle_since = time.monotonic()
        self._batch_seconds = self._idle_since - self._given_at
        for asked, sample in zip(given, samples, strict=True):
            asked.answer.put(sample)

    def _seconds_to_wait(self) -> float | None:
        """0 where a batch is due; None where only a change can make it so."""
        num = len(self._asked)
        if not num:
            return None
        if self._schedule == "lockstep":
            return 0 if num >= self._crew.num_unfinished else None
        if num >= min(self._most, self._crew.num_live):
            return 0
        times = [asked.since for asked in self._asked.values()]
        first, last = (max(since, self._idle_since) for since in (min(times), max(times)))
        until = first + self._ready_seconds
        if num >= _READY_SHARE * min(self._most, self._crew.num_live):
            quiet, wait = _QUIET_SHARE * self._batch_seconds, _WAIT_SHARE * self._batch_seconds
            until = min(until, last + quiet, first + wait)
        return max(0.0, until - time.monotonic())
