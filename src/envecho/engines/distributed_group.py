"""The processes of one torchrun: rank 0 calls a verb with one payload per rank, the others answer until it is done.

    rank 0    ranks.call(VERB, payloads) -> one value per rank
    rank 1..  ranks.serve(handle)           waits for verbs; returns when rank 0 dismisses it

Verbs, payloads and values travel as pickles between processes of one command, over torch's gloo. A rank that cannot do
what it was asked answers with its error, which rank 0 raises. A rank that breaks in the midst of a collective leaves
its reason in the store and ends; torchrun then ends all. Not here: what the verbs do (`distributed_rank`).
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, cast, final

import torch
import torch.distributed as dist

from envecho.engines.torchrun import world_size
from envecho.errors import EngineError, EnvechoError

Handle = Callable[[str, Any], Any]
"""Does one verb with this rank's payload and returns this rank's value."""

_PATIENCE: Final = timedelta(days=30)
"""Workers wait for the next verb while rank 0 is in its worlds, however long that takes."""
_LAST_WORDS_SECONDS: Final = 5.0
_END: Final = "end"
_FAILURES: Final = "envecho/failures"


@dataclass(frozen=True, kw_only=True)
class _Answer:
    """A value, or the error in words; `is_own` marks errors of envecho, which need no traceback."""

    value: Any = None
    error: str | None = None
    is_own: bool = False


@final
class Ranks:
    """This process among those of one torchrun; make it once per process, on all ranks."""

    def __init__(self) -> None:
        self.rank, self.size = int(os.environ["RANK"]), world_size()
        self.local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
        self._store, rank, size = next(dist.rendezvous("env://"))  # pyright: ignore[reportPrivateImportUsage]
        dist.init_process_group(backend, store=self._store, rank=rank, world_size=size)
        self._control = cast(dist.ProcessGroup | None, dist.new_group(backend="gloo", timeout=_PATIENCE))
        self._lock = threading.Lock()
        self._broken: str | None = None

    @property
    def is_broken(self) -> bool:
        """Whether a rank is gone, so that no verb can be done any more."""
        return self._broken is not None

    def call(self, handle: Handle, verb: str, payloads: Sequence[Any]) -> list[Any]:
        """Have every rank do a verb, this one by `handle`, and return their values in the order of the ranks.

        Raises:
            EngineError: some rank could not do it, or is gone; the message names it.
        """
        with self._lock:
            if self._broken is not None:
                raise EngineError(f"the engine ended when {self._broken}")
            try:
                answers = self._exchange(handle, verb, payloads)
            except Exception as error:
                self._broken = self._reason() or f"rank 0 failed: {type(error).__name__}: {error}"
                raise EngineError(self._broken) from error
            except BaseException:
                self._broken = "rank 0 was interrupted in the midst of a verb"
                raise
        failed = {rank: answer for rank, answer in enumerate(answers) if answer.error is not None}
        if failed:
            raise EngineError(_told(failed, self.size))
        return [answer.value for answer in answers]

    def _exchange(self, handle: Handle, verb: str, payloads: Sequence[Any]) -> list[_Answer]:
        received: list[Any] = [None]
        messages = [(verb, payload) for payload in payloads]
        dist.scatter_object_list(received, messages, src=0, group=self._control)
        # What rank 0 computes itself is handed on as it is, without a pickle.
        mine = _guarded(handle, verb, payloads[0])
        gathered: list[Any] = [None] * self.size
        dist.gather_object(None, gathered, dst=0, group=self._control)
        return [mine, *gathered[1:]]

    def serve(self, handle: Handle) -> None:
        """Answer verbs until rank 0 has no more.

        Raises:
            EngineError: rank 0 is gone.
        """
        # Ctrl-C reaches all processes of a terminal; torchrun and rank 0 decide when it is over.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        while True:
            received: list[Any] = [None]
            try:
                dist.scatter_object_list(received, None, src=0, group=self._control)
            except RuntimeError as error:
                raise EngineError(f"rank {self.rank}: rank 0 is gone") from error
            verb, payload = received[0]
            if verb == _END:
                break
            try:
                answer = _guarded(handle, verb, payload)
                dist.gather_object(answer, None, dst=0, group=self._control)
            except Exception as error:
                self._leave_word(error)
                raise

    def dismiss(self) -> None:
        """End the other ranks; for rank 0, when the command is done.

        Raises:
            EngineError: a rank is gone already.
        """
        with self._lock:
            self._broken = "rank 0 left its block"
            try:
                dist.scatter_object_list([None], [(_END, None)] * self.size, src=0, group=self._control)
            except RuntimeError as error:
                raise EngineError(self._reason() or f"a rank is gone: {error}") from error

    def leave(self) -> None:
        """Close the connections, after `serve` or `dismiss`, when nothing holds a sharded tensor any more.

        Groups that live on until the interpreter ends abort it now and then ("terminate called without an active
        exception"), so they are freed here.
        """
        dist.destroy_process_group()
        self._control = None
        gc.collect()

    def _leave_word(self, error: Exception) -> None:
        """Say why this rank ends, and give rank 0 a moment to say it too before torchrun ends everything."""
        number = self._store.add(_FAILURES, 1)
        self._store.set(f"{_FAILURES}/{number}", f"rank {self.rank} failed: {type(error).__name__}: {error}")
        traceback.print_exc(file=sys.stderr)
        dist.destroy_process_group()
        time.sleep(_LAST_WORDS_SECONDS)

    def _reason(self) -> str | None:
        """What the first rank that broke has left in the store; the connection breaks after it was written."""
        if not self._store.add(_FAILURES, 0):
            return None
        return self._store.get(f"{_FAILURES}/1").decode()


class Broken(Exception):
    """What a handler raises when collectives no longer match: this rank cannot go on."""


def _guarded(handle: Handle, verb: str, payload: Any) -> _Answer:
    try:
        return _Answer(value=handle(verb, payload))
    except EnvechoError as error:
        return _Answer(error=str(error), is_own=True)
    except Broken as error:
        raise error.__cause__ or error from None
    except Exception as error:
        return _Answer(error=f"{type(error).__name__}: {error}\n{traceback.format_exc()}")


def _told(failed: Mapping[int, _Answer], size: int) -> str:
    """One message for the errors of some ranks: the same words on every rank are said once, without a rank."""
    messages = {str(answer.error) for answer in failed.values()}
    if len(failed) == size and len(messages) == 1 and all(answer.is_own for answer in failed.values()):
        return messages.pop()
    return "; ".join(f"rank {rank} of {size}: {answer.error}" for rank, answer in failed.items())
