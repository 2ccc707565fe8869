"""`ServedEngine`: an engine that trains here and lets a server sample its turns, with its weights.

    optim_step -> ... -> sampling_session: save_model -> push -> compare -> turns

Weights are pushed when turns are next wanted after they changed. Every push is then checked: turns of fixed prompts are
sampled, and the engine scores the same tokens. So the difference between sampler and trainer is a number of every step,
and a server that goes on with old weights, or with a part of them, ends the run. Not here: how a server loads weights
(the dialects).
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, final

import numpy as np
from numpy.typing import NDArray

from envecho.errors import EngineError
from envecho.rollout.served.sampler import ServedSampler
from envecho.seam import (
    AdamParams,
    Engine,
    EngineCapabilities,
    ForwardBackwardOutput,
    Sample,
    SamplingParams,
    SamplingSession,
    ScoreRequest,
    Scores,
    TermGradients,
)

if TYPE_CHECKING:
    from envecho.losses.batch import WeightedBatch

Pushes = Literal["weights", "adapter"]

_ADAPTER_FOLDER: Final = "adapter"
_CHECK: Final = SamplingParams(max_tokens=16, temperature=1.0, seed=0)
_NUM_CHECK_PROMPTS: Final = 4
_CHECK_PROMPT_TOKENS: Final = 160
"""Longer than one block of a server's cache of prompts, so that a block kept from other weights is noticed."""
_CHECK_VOCABULARY: Final = range(4, 32)
"""Ids that every vocabulary has."""
_EXACT: Final = 1e-3
"""Nats within which server and engine compute the same; bfloat16 stays above it."""
_MOST_GROWTH: Final = 3.0
_MOST_SHARE: Final = 0.02


@dataclass(frozen=True, kw_only=True)
class SamplerCheck:
    """How far the server's log-probs are from the engine's, in nats, over `num_tokens` drawn tokens at T = 1.

    `push_seconds` is what saving and loading took, None where no weights were pushed.
    """

    mean_difference: float
    max_difference: float
    num_tokens: int
    push_seconds: float | None


@final
class ServedEngine:
    """An engine whose turns come from a server; fulfils `envecho.seam.Engine`.

    Args:
        engine: trains, scores, saves.
        sampler: the server. It serves a model of the same architecture and tokenizer.
        folder: a folder for the weights on their way; the server reaches it, too. Two copies at most lie there.
        most_mismatch: the largest mean difference of log-probs, in nats, with which a run goes on.
        pushes: `weights`, whole, or the `adapter` alone that an engine with LoRA writes beside them.

    Raises:
        EngineError: the engine trains, and this kind of server takes no new weights.
    """

    def __init__(
        self,
        engine: Engine,
        sampler: ServedSampler,
        *,
        folder: Path,
        most_mismatch: float = 0.1,
        pushes: Pushes = "weights",
    ) -> None:
        self._pushes: Pushes = pushes
        self._engine, self._sampler, self._folder, self._most = engine, sampler, folder, most_mismatch
        trains = engine.capabilities.trains
        if trains and sampler.cannot_push is not None:
            raise EngineError(
                f"{self._url} cannot sample for training: {sampler.cannot_push}. Collect trajectories with it,"
                " or sample from a vllm or sglang server"
            )
        self._is_stale = trains
        self._kept: Path | None = None
        self._before: _Drawn | None = None
        self.checks: list[SamplerCheck] = []

    @property
    def _url(self) -> str:
        return self._sampler.facts.url

    @property
    def last_check(self) -> SamplerCheck | None:
        """The comparison after the last push; None before the first turn."""
        return self.checks[-1] if self.checks else None

    @property
    def capabilities(self) -> EngineCapabilities:
        """What the engine can do; its context is no longer than the server's."""
        own = self._engine.capabilities
        limit = self._sampler.facts.max_context_tokens
        if limit is None or limit >= own.max_context_tokens:
            return own
        return EngineCapabilities(
            trains=own.trains,
            samples=True,
            max_context_tokens=limit,
            devices=own.devices,
            compute_dtype=own.compute_dtype,
            lacks=own.lacks,
        )

    def forward_backward(self, batch: WeightedBatch) -> ForwardBackwardOutput:
        """As the engine does."""
        return self._engine.forward_backward(batch)

    def term_gradients(self, batch: WeightedBatch) -> TermGradients:
        """As the engine does."""
        return self._engine.term_gradients(batch)

    def optim_step(self, params: AdamParams) -> float | None:
        """As the engine does; the next turns want these weights."""
        self._is_stale = True
        return self._engine.optim_step(params)

    def logprobs(
        self, requests: Sequence[ScoreRequest], *, temperature: float = 1.0, with_entropies: bool = False
    ) -> list[Scores]:
        """As the engine does."""
        return self._engine.logprobs(requests, temperature=temperature, with_entropies=with_entropies)

    def sample(self, prompts: Sequence[NDArray[np.int32]], params: SamplingParams) -> list[Sample]:
        """Continue each prompt on the server, with the engine's weights."""
        self.refresh()
        return self._sampler.sample(prompts, params)

    @contextmanager
    def sampling_session(self) -> Generator[SamplingSession]:
        """Open a session on the server, with the engine's weights."""
        self.refresh()
        with self._sampler.sampling_session() as session:
            yield session

    def save_model(self, folder: Path) -> None:
        """As the engine does."""
        self._engine.save_model(folder)

    def load_model(self, folder: Path) -> None:
        """As the engine does; the next turns want these weights."""
        self._is_stale = True
        self._engine.load_model(folder)

    def save_state(self, folder: Path) -> None:
        """As the engine does."""
        self._engine.save_state(folder)

    def load_state(self, folder: Path) -> None:
        """As the engine does; the next turns want these weights."""
        self._is_stale = True
        self._engine.load_state(folder)

    def refresh(self) -> SamplerCheck:
        """Push the weights if they changed since the last turn, and compare server and engine.

        Raises:
            EngineError: the server did not load them, still answers with the old ones, loaded a part of them, or is too
                far from the engine.
        """
        if not self._is_stale and self.checks:
            return self.checks[-1]
        seconds = self._push() if self._is_stale else None
        drawn = self._draw()
        differences = _absolute([sample.logprobs for sample in drawn.samples], drawn.scores)
        check = SamplerCheck(
            mean_difference=float(differences.mean()),
            max_difference=float(differences.max()),
            num_tokens=len(differences),
            push_seconds=seconds,
        )
        if seconds is not None and self._before is not None:
            self._require_change(self._before, drawn, check)
        if not check.mean_difference <= self._most:
            raise EngineError(
                f"log-probs of {self._url} and of the engine differ by {check.mean_difference:.3g} nats on average over"
                f" {check.num_tokens} tokens, at most {self._most:g} are allowed: the server holds other weights or"
                " computes otherwise (another model, quantisation, an adapter, a stale cache)"
            )
        self._is_stale, self._before = False, drawn
        self.checks.append(check)
        return check

    def _push(self) -> float:
        started = time.monotonic()
        folder = self._folder / f"weights-{self._sampler.num_pushes + 1:06d}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self._engine.save_model(folder)
        self._sampler.push(folder / _ADAPTER_FOLDER if self._pushes == "adapter" else folder)
        if self._kept is not None and self._kept != folder:
            shutil.rmtree(self._kept, ignore_errors=True)
        self._kept = folder
        return time.monotonic() - started

    def _draw(self) -> _Drawn:
        prompts = _check_prompts(self.capabilities.max_context_tokens - _CHECK.max_tokens)
        samples = self._sampler.sample(prompts, _CHECK)
        return _Drawn(prompts=prompts, samples=samples, scores=self._score(prompts, samples))

    def _score(self, prompts: Sequence[NDArray[np.int32]], samples: Sequence[Sample]) -> list[NDArray[np.float32]]:
        requests: list[ScoreRequest] = []
        for prompt, sample in zip(prompts, samples, strict=True):
            ids = np.concatenate([prompt, sample.token_ids])
            requests.append(ScoreRequest(token_ids=ids, read=np.arange(len(ids)) >= len(prompt)))
        scored = self._engine.logprobs(requests)
        return [score.logprobs[request.read] for score, request in zip(scored, requests, strict=True)]

    def _require_change(self, before: _Drawn, drawn: _Drawn, check: SamplerCheck) -> None:
        """Raise where a push left the server as it was, or changed only a part of it.

        Left as it was: it answers as before, bit for bit, and the engine does not. In part: a server that once agreed
        with the engine within rounding no longer does, by more than a small share of what the step changed. A server
        in coarse arithmetic hides the latter; its mean difference alone is bounded then.
        """
        change = float(_absolute(self._score(before.prompts, before.samples), before.scores).mean())
        is_same = all(
            np.array_equal(old.token_ids, new.token_ids) and np.array_equal(old.logprobs, new.logprobs)
            for old, new in zip(before.samples, drawn.samples, strict=True)
        )
        if is_same and change > 0:
            raise EngineError(
                f"{self._url} answers as before the push, bit for bit, and the engine's log-probs have changed by"
                f" {change:.3g} nats: it goes on with old weights. See its log; a server in bfloat16 needs a step that"
                " is larger than its rounding"
            )
        best = min(known.mean_difference for known in self.checks)
        if best <= _EXACT and check.mean_difference > _MOST_GROWTH * best + _MOST_SHARE * change:
            raise EngineError(
                f"{self._url} took a part of the weights: its log-probs were within {best:.3g} nats of the engine's,"
                f" and after a push of weights that changed them by {change:.3g} nats they differ by"
                f" {check.mean_difference:.3g}. vLLM on a CPU keeps the output layer of a model with tied embeddings:"
                " serve a model without; else see the server's log"
            )


@dataclass(frozen=True, kw_only=True)
class _Drawn:
    """Turns of the fixed prompts, and the engine's log-probs of the same tokens."""

    prompts: list[NDArray[np.int32]]
    samples: list[Sample]
    scores: list[NDArray[np.float32]]


def _absolute(ones: Sequence[NDArray[np.float32]], others: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
    return np.abs(np.concatenate(ones).astype(np.float64) - np.concatenate(others))


def _check_prompts(longest: int) -> list[NDArray[np.int32]]:
    generator = np.random.default_rng(0)
    low, high = _CHECK_VOCABULARY.start, _CHECK_VOCABULARY.stop
    num_tokens = min(_CHECK_PROMPT_TOKENS, longest)
    return [generator.integers(low, high, num_tokens).astype(np.int32) for _ in range(_NUM_CHECK_PROMPTS)]
