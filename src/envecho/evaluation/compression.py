"""Compressors as predictors: how many bytes an observation costs a program that has everything before it at hand.

    nats per byte = 8 ln 2 * sum of the observations' compressed bytes / sum of their bytes

`zstd` (level 19) takes the episode so far as a raw dictionary. `lzma` has no dictionaries in the standard library: its
cost is that of episode and observation together minus that of the episode alone, in FORMAT_RAW. The cost of an empty
observation is subtracted, so that headers are free, and no observation costs less than nothing.

A compressed length is an upper bound of what the best copier of this family would pay: it comes in whole bytes, codes
without a model of the language, and short observations are dear. Not here: copy baselines that give every token a
probability (`baselines`).
"""

from __future__ import annotations

import json
import lzma
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import zstandard

from envecho.errors import DataError
from envecho.evaluation.intervals import ratio_stat
from envecho.evaluation.results import COMPRESSORS, Predictor, PredictorResult, Stat
from envecho.trajectory import Message, Role, Trajectory

CONTEXT_BYTES: Final = 1 << 16
"""How much of the episode before an observation a compressor sees: the last 64 KiB, about a model's 16k tokens."""

TRAIN_BYTES: Final = 1 << 16
"""How much training text it sees before that: 64 KiB of episodes drawn by the seed."""

ZSTD_LEVEL: Final = 19

_SHORTEST_DICTIONARY: Final = 8
"""A raw dictionary of zstd has at least so many bytes."""

_LZMA_FILTERS: Final[list[dict[str, Any]]] = [
    {
        "id": lzma.FILTER_LZMA1,
        "preset": 9 | lzma.PRESET_EXTREME,
        "dict_size": 2 * (CONTEXT_BYTES + TRAIN_BYTES),
        "pb": 0,  # text has no alignment
    }
]


def compress(
    trajectories: Sequence[Trajectory], *, train: Sequence[Trajectory] | None = None, seed: int = 0
) -> dict[Predictor, PredictorResult]:
    """Return `ce_per_byte` of both compressors on the environment's text, with intervals over tasks.

    Before an observation they see what the model saw, as plain text without the chat template's marks: tool schemas,
    all earlier messages with their thoughts and calls, and what stands before the output in its own message; where
    `train` is given, text of training episodes before that. Both are bounded (`CONTEXT_BYTES`, `TRAIN_BYTES`).

    Their tokens are bytes: `num_tokens` counts these. Nothing else of a `PredictorResult` is known of a compressor.

    Raises:
        DataError: there is no trajectory, or none with environment text.
    """
    opening = b"" if train is None else _training_text(train, seed=seed)
    with ThreadPoolExecutor() as threads:  # both libraries let go of the interpreter's lock
        episodes = list(threads.map(lambda trajectory: _measure(trajectory, opening), trajectories))
    costs = np.array([cost for episode in episodes for cost in episode], dtype=np.float64)
    if not len(costs):
        raise DataError("expected text of the environment to compress, found none in the pool")
    tasks = {task: place for place, task in enumerate(sorted({t.task_id for t in trajectories}))}
    of_task = np.repeat([tasks[t.task_id] for t in trajectories], [len(episode) for episode in episodes])
    sizes = costs[:, 0]
    results: dict[Predictor, PredictorResult] = {}
    for place, name in enumerate(COMPRESSORS, 1):
        stat = ratio_stat(costs[:, place] * 8 * math.log(2), sizes, of_task, seed=seed)
        assert stat is not None
        results[name] = _result(stat.model_copy(update={"num_tokens": int(sizes.sum())}))
    return results


def zstd_bytes(context: bytes, text: bytes) -> int:
    """Return what `text` costs zstd with `context` as its dictionary, at least 0."""
    parameters = zstandard.ZstdCompressionParameters.from_level(
        ZSTD_LEVEL,
        source_size=len(text),
        dict_size=len(context),
        format=zstandard.FORMAT_ZSTD1_MAGICLESS,
        write_content_size=False,
        write_checksum=False,
        write_dict_id=False,
    )
    dictionary = None
    if len(context) >= _SHORTEST_DICTIONARY:
        dictionary = zstandard.ZstdCompressionDict(context, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    compressor = zstandard.ZstdCompressor(compression_params=parameters, dict_data=dictionary)
    return max(0, len(compressor.compress(text)) - len(compressor.compress(b"")))


def lzma_bytes(context: bytes, text: bytes) -> int:
    """Return what `text` costs LZMA behind `context`, at least 0: the difference of two lengths."""
    return max(0, _lzma_length(context + text) - _lzma_length(context))


def _lzma_length(text: bytes) -> int:
    return len(lzma.compress(text, format=lzma.FORMAT_RAW, filters=_LZMA_FILTERS))


def _measure(trajectory: Trajectory, opening: bytes) -> list[tuple[int, int, int]]:
    """Return bytes, and compressed bytes by zstd and by LZMA, of every observation of an episode."""
    costs: list[tuple[int, int, int]] = []
    for output in _outputs(trajectory):
        context = opening + output.before
        costs.append((len(output.text), zstd_bytes(context, output.text), lzma_bytes(context, output.text)))
    return costs


@dataclass(frozen=True, kw_only=True)
class _Output:
    """What the environment said in one message, and what stands before it in the episode."""

    before: bytes
    text: bytes


def _outputs(trajectory: Trajectory) -> Iterator[_Output]:
    before = _bytes("".join(f"{json.dumps(tool, ensure_ascii=False)}\n" for tool in trajectory.tools))
    for message in trajectory.messages:
        roles = [segment.source.role for segment in message.segments]
        first = roles.index(Role.ENV_OUTPUT) if Role.ENV_OUTPUT in roles else len(roles)
        said = "".join(s.text for s in message.segments if s.source.role is Role.ENV_OUTPUT)
        if said:
            inside = _bytes("".join(segment.text for segment in message.segments[:first]))
            yield _Output(before=(before + inside)[-CONTEXT_BYTES:], text=_bytes(said))
        before = (before + _bytes(_text(message)))[-CONTEXT_BYTES:]


def _text(message: Message) -> str:
    calls = (f"{call.name} {call.arguments}" for call in message.tool_calls)
    return "".join(f"{part}\n" for part in (message.reasoning, message.content, *calls) if part)


def _training_text(train: Sequence[Trajectory], *, seed: int) -> bytes:
    """Draw whole episodes until they fill the bound, and cut the first one."""
    ordered = sorted(train, key=lambda trajectory: trajectory.id)
    text = b""
    for place in np.random.default_rng(seed).permutation(len(ordered)):
        text = _bytes("".join(map(_text, ordered[place].messages))) + text
        if len(text) >= TRAIN_BYTES:
            break
    return text[-TRAIN_BYTES:]


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


def _result(stat: Stat) -> PredictorResult:
    return PredictorResult(
        ce_per_token=None,
        ce_per_byte=stat,
        ce_first_view=None,
        ce_derivable=None,
        top1_accuracy=None,
        action_swap_gap=None,
        num_tokens=stat.num_tokens,
        by_source={},
        by_operation={},
    )
