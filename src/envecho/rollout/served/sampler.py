"""`ServedSampler`: turns from a model server, token ids in, token ids and their log-probs out.

    TurnRequests -> one HTTP request each, side by side -> Samples in their order

A turn whose request fails is a failure of that turn (`TurnsFailedError`); a server that is gone, or that fails every
turn, is an error of the run. A draw is a function of the seed that is sent, the prompt and the server: the same request
gives the same turn only where the server says so (`ServerFacts.repeats_draws`). Not here: what a server can do
(`probe`), and how it is given weights after a step (`engine`).
"""

from __future__ import annotations

import hashlib
import secrets
from collections import Counter
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self, final

import numpy as np
from numpy.typing import NDArray

from envecho.errors import EngineError
from envecho.rollout.exchange import TurnsFailedError
from envecho.rollout.served.answers import to_sample
from envecho.rollout.served.dialect import NAME_PREFIX, Dialect, ServerKind, Turn
from envecho.rollout.served.folders import SharedFolder
from envecho.rollout.served.kinds import make_dialect
from envecho.rollout.served.probe import ServerFacts, probe_server
from envecho.rollout.served.wire import ServerLostError, Wire, WireOptions
from envecho.seam import Sample, SamplingParams, TurnRequest

_DRAWS = 2**31


@final
class ServedSampler:
    """A model server; fulfils `envecho.seam.Sampler`. Use as a context, or `close` it.

    Args:
        url: its address, such as `http://127.0.0.1:8000`.
        kind: its dialect.
        model: the served name; None: the first that the server names.
        options: deadlines, tries, how many requests at once, key.
        folder: where weights are written that are pushed.

    Raises:
        EngineError: nothing answers, or what the probe measured makes the samples unfit for training.
    """

    def __init__(
        self,
        url: str,
        *,
        kind: ServerKind,
        model: str | None = None,
        options: WireOptions | None = None,
        folder: SharedFolder | None = None,
    ) -> None:
        self._options = options or WireOptions()
        self._dialect: Dialect = make_dialect(kind)
        self._folder = folder
        self._wire = Wire(url, self._options)
        try:
            self.facts: ServerFacts = probe_server(self._wire, self._dialect, kind=kind, model=model)
            self.facts.require_exact()
        except BaseException:
            self._wire.close()
            raise
        self._model = self.facts.model
        # A server outlives a run, and what it cached under the first push of another run is not ours.
        self._run = secrets.token_hex(4)
        self.num_pushes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self.close()

    def close(self) -> None:
        """Close the connections to the server."""
        self._wire.close()

    @property
    def cannot_push(self) -> str | None:
        """Why this server takes no new weights; None where it does."""
        return self._dialect.cannot_push

    def sample(self, prompts: Sequence[NDArray[np.int32]], params: SamplingParams) -> list[Sample]:
        """Continue each prompt; equal prompts get draws of their own.

        Raises:
            EngineError: one of them failed.
        """
        seen: Counter[bytes] = Counter()
        requests: list[TurnRequest] = []
        for row, prompt in enumerate(prompts):
            digest = hashlib.sha256(prompt.astype("<i4").tobytes()).digest()
            words = [int(word) for word in np.frombuffer(digest, dtype="<u4")]
            requests.append(TurnRequest(row=row, prompt=prompt, key=(seen[digest], *words)))
            seen[digest] += 1
        return self.sample_turns(requests, params)

    @contextmanager
    def sampling_session(self) -> Generator[ServedSession]:
        """Open a session for a batch of episodes; the server's own cache of prompts serves its turns."""
        yield ServedSession(self)

    def sample_turns(self, requests: Sequence[TurnRequest], params: SamplingParams) -> list[Sample]:
        """Sample one turn for each request, at most `max_concurrent` at once.

        Raises:
            TurnsFailedError: some turns failed; the others are in it.
            EngineError: the server is gone, fails every turn, or draws at another temperature than its log-probs say.
        """
        self.facts.require_temperature(params.temperature)
        if not requests:
            return []
        with ThreadPoolExecutor(max_workers=min(self._options.max_concurrent, len(requests))) as pool:
            outcomes = list(pool.map(lambda request: self._outcome(request, params), requests))
        failures = [outcome for outcome in outcomes if isinstance(outcome, EngineError)]
        if not failures:
            return [outcome for outcome in outcomes if isinstance(outcome, Sample)]
        lost = next((failure for failure in failures if isinstance(failure, ServerLostError)), None)
        if lost is not None and len(failures) == len(outcomes):
            raise lost
        if len(failures) == len(outcomes) > 1:
            raise EngineError(f"all of {len(failures)} turns failed; the first: {failures[0]}") from failures[0]
        raise TurnsFailedError(outcomes)

    def push(self, folder: Path) -> None:
        """Have the server load the weights of a folder, and read no prompt that it cached under others.

        Raises:
            EngineError: this kind of server takes no weights, or it did not load them.
        """
        weights = (self._folder or SharedFolder(here=folder)).weights(folder, name=self._push_name(self.num_pushes + 1))
        self._model = self._dialect.push(self._wire, weights, model=self._model)
        self.num_pushes += 1

    def _push_name(self, number: int) -> str:
        return f"{NAME_PREFIX}{self._run}-{number}"

    def _outcome(self, request: TurnRequest, params: SamplingParams) -> Sample | EngineError:
        try:
            return self._sample(request, params)
        except EngineError as error:
            return error

    def _sample(self, request: TurnRequest, params: SamplingParams) -> Sample:
        limit = self.facts.max_context_tokens
        if limit is not None and len(request.prompt) + params.max_tokens > limit:
            raise EngineError(
                f"a prompt of {len(request.prompt)} tokens and {params.max_tokens} new ones do not fit in the context"
                f" of {limit} that {self._wire.url} has"
            )
        turn = Turn(
            prompt=[int(token) for token in request.prompt],
            max_tokens=params.max_tokens,
            temperature=params.temperature,
            seed=request_seed(params.seed, request.key),
            stop_token_ids=params.stop_token_ids,
            salt=self._push_name(self.num_pushes),
        )
        call = self._dialect.call(turn, self._model)
        return to_sample(self._dialect.read(self._wire.post(call.path, call.body)), turn)


@final
class ServedSession:
    """Turns of a batch of episodes; fulfils `envecho.seam.SamplingSession`."""

    def __init__(self, sampler: ServedSampler) -> None:
        self._sampler = sampler

    def sample(self, requests: Sequence[TurnRequest], params: SamplingParams) -> list[Sample]:
        """Sample one turn for each request; see `ServedSampler.sample_turns`."""
        return self._sampler.sample_turns(requests, params)

    def drop(self, row: int) -> None:
        """Nothing is kept here for an episode; the server forgets what it needs room for."""


def request_seed(seed: int, key: tuple[int, ...]) -> int:
    """Return the seed that a server gets for a turn: a function of the run's seed and the turn's key alone."""
    name = repr((int(seed), tuple(int(part) for part in key)))
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") % _DRAWS
