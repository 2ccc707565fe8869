"""A pool of any size in bounded memory: trajectories are read, scored and added up a part at a time.

    trajectories -> tokens, until a part is full -> scores of the part, batched by length -> sums

What grows with the pool is its sums alone, some kilobytes per trajectory. Not here: figures (`summary`), and what needs
trajectories side by side or scored again after a change, such as controls and probes: these take a sample in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from envecho.errors import DataError
from envecho.evaluation.baselines import CopyBaselines
from envecho.evaluation.facts import ChangedText
from envecho.evaluation.pool import tokenize_pool
from envecho.evaluation.results import BASELINES, BaselineName, Predictor
from envecho.evaluation.scores import SAID, pool_requests
from envecho.evaluation.sums import PoolSums, join_sums, sum_scores
from envecho.seam import Engine
from envecho.tokens import ChatTokenizer, TokenizedTrajectory
from envecho.trajectory import Trajectory

CHUNK_TOKENS: Final = 65_536
"""Tokens of a part: enough that batches by length are full, and little beside any model."""


@dataclass(frozen=True, kw_only=True)
class StreamOptions:
    """How a pool is read.

    `max_tokens` is the context beyond which a trajectory becomes windows, `chunk_tokens` the size of a part. `changed`
    is what other runs printed otherwise (`envecho.evaluation.facts`); `on_progress` is called with the number of
    trajectories of each part when it is done.
    """

    max_tokens: int | None = None
    chunk_tokens: int = CHUNK_TOKENS
    changed: ChangedText | None = None
    on_progress: Callable[[int], None] = field(default=lambda _: None)


def evaluate_stream(
    engine: Engine,
    trajectories: Iterable[Trajectory],
    tokenizer: ChatTokenizer,
    *,
    temperature: float | None = None,
    options: StreamOptions | None = None,
) -> PoolSums:
    """Return an engine's sums over held-out trajectories, at T = 1 whatever they were sampled with.

    `trajectories` is read once, a part at a time. With `temperature` every part is scored once more under
    softmax(logits / temperature): that costs a second forward pass. The engine's context is the `max_tokens` of
    `options` unless these name one.

    Raises:
        DataError: an empty pool, trajectory ids that are not unique, or a view that nobody knows.
        EngineError: the engine left a token unscored.
    """
    options = options or StreamOptions()
    if options.max_tokens is None:
        options = replace(options, max_tokens=engine.capabilities.max_context_tokens)
    parts: list[PoolSums] = []
    for part in _parts(trajectories, tokenizer, options):
        requests = pool_requests(part.sequences, SAID)
        scores = engine.logprobs(requests)
        other = {} if temperature is None else {temperature: engine.logprobs(requests, temperature=temperature)}
        parts.append(
            sum_scores(
                part.sequences,
                scores,
                part.trajectories,
                tokenizer,
                at_temperature=other,
                changed=options.changed,
            )
        )
        options.on_progress(len(part.trajectories))
    return _join(parts)


def stream_baselines(
    baselines: CopyBaselines,
    trajectories: Iterable[Trajectory],
    tokenizer: ChatTokenizer,
    *,
    options: StreamOptions | None = None,
) -> dict[Predictor, PoolSums]:
    """Return the sums of both copy baselines; `max_tokens` of `options` is the context of the model beside them.

    Raises:
        DataError: as `evaluate_stream`.
    """
    parts: dict[BaselineName, list[PoolSums]] = {name: [] for name in BASELINES}
    options = options or StreamOptions()
    for part in _parts(trajectories, tokenizer, options):
        scores = [baselines.score(sequence, SAID) for sequence in part.sequences]
        for name, found in parts.items():
            of_name = [score[name] for score in scores]
            found.append(sum_scores(part.sequences, of_name, part.trajectories, tokenizer, changed=options.changed))
        options.on_progress(len(part.trajectories))
    return {name: _join(found) for name, found in parts.items()}


@dataclass(frozen=True, kw_only=True)
class _Part:
    """Some trajectories of a pool, whole, with their sequences."""

    trajectories: list[Trajectory]
    sequences: list[TokenizedTrajectory]


def _parts(trajectories: Iterable[Trajectory], tokenizer: ChatTokenizer, options: StreamOptions) -> Iterator[_Part]:
    """Cut a pool into parts of at least `chunk_tokens` tokens; the last may be smaller."""
    part = _Part(trajectories=[], sequences=[])
    num_tokens = 0
    for trajectory in trajectories:
        sequences = tokenize_pool([trajectory], tokenizer, max_tokens=options.max_tokens)
        part.trajectories.append(trajectory)
        part.sequences.extend(sequences)
        num_tokens += sum(len(sequence) for sequence in sequences)
        if num_tokens >= options.chunk_tokens:
            yield part
            part, num_tokens = _Part(trajectories=[], sequences=[]), 0
    if part.trajectories:
        yield part


def _join(parts: Sequence[PoolSums]) -> PoolSums:
    if not parts:
        raise DataError("expected at least one trajectory in the pool, found none")
    return join_sums(parts)
