"""Episodes decoded together, each with its key-value cache kept from turn to turn: `CachedSession`.

A turn costs one forward pass over what is new since the last turn, and one per token over the rows that still draw. The
rows of a turn share one `RowCache`; a row that a turn does not name is parked beside it, and joins again when it is
named. A new row copies the beginning that its prompt shares with a row that lives. Not here: prompts
(`envecho.tokens`), episodes (`envecho.rollout`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray

from envecho.engines.drawing import draw_anew, draw_turn
from envecho.engines.model import CausalModel
from envecho.engines.prefill import plan_passes, plan_sharing
from envecho.engines.row_cache import NOTHING_KEPT, KeptRow, RowCache
from envecho.engines.token_forest import common_length
from envecho.errors import EngineError
from envecho.seam import Sample, SamplingParams, TurnRequest


@final
class CachedSession:
    """Episodes that are decoded together, some or all of them each turn; fulfils `envecho.seam.SamplingSession`.

    Keys and values of a row live until `drop`, or until the session is no longer used: memory grows with the tokens of
    the episodes that live, and with the padding of the rows of the last turn. Models with layers that do not see all
    tokens count distances in columns, so for these nothing is kept between turns.

    `shares_beginnings` may be set to False, to let every row read its whole prompt; the results agree within rounding.
    """

    def __init__(self, model: CausalModel, *, seed: int) -> None:
        self._model, self._seed = model, seed
        self._batch = RowCache(model)
        self._parked: dict[int, KeptRow] = {}
        self._over: set[int] = set()  # rows of the batch that were dropped since the last turn
        self.shares_beginnings = True
        self.num_read_tokens = 0
        """Tokens of prompts that went through the model, padding not counted."""

    def drop(self, row: int) -> None:
        """Free the cache of an episode that is over."""
        self._parked.pop(row, None)
        if row in self._batch.rows:
            self._over.add(row)
        if self._over.issuperset(self._batch.rows):
            self._leave_out(())

    @property
    def num_cached_tokens(self) -> int:
        """Tokens whose keys and values are held, padding not counted."""
        return sum(len(ids) for row, ids in self._held().items() if row not in self._over)

    def sample(self, requests: Sequence[TurnRequest], params: SamplingParams) -> list[Sample]:
        """Sample one turn for each request.

        Log-probs and entropies are those of softmax(logits / temperature), from which every token was drawn.

        Raises:
            EngineError: a row is named twice, a prompt is empty, or prompt and turn do not fit in the model's context.
        """
        self._check(requests, params)
        prompts = {request.row: request.prompt for request in requests}
        return self.draw(prompts, _draws(requests, params, self._seed), params)

    @torch.no_grad()
    def draw(
        self, prompts: Mapping[int, NDArray[np.int32]], draws: NDArray[np.float64], params: SamplingParams
    ) -> list[Sample]:
        """Sample one turn for each row of `prompts` from uniform draws `[row, position]`."""
        if not prompts:
            return []
        if not self._model.sees_all:
            self.num_read_tokens += sum(len(prompt) for prompt in prompts.values())
            return draw_anew(self._model, list(prompts.values()), draws, params)
        self._leave_out(prompts)
        self._forget_what_differs(prompts)
        if self.shares_beginnings:
            self._share_beginnings(prompts)
        self._read_long_ones(prompts)
        batch = self._batch
        joining = [row for row in prompts if row not in batch.rows]
        if joining:
            batch.put(joining, [self._parked.pop(row, NOTHING_KEPT) for row in joining])
        left = [prompts[row][len(ids) :] for row, ids in zip(batch.rows, batch.ids, strict=True)]
        self.num_read_tokens += sum(len(ids) for ids in left)
        hidden = batch.read(left)
        number = {row: place for place, row in enumerate(prompts)}
        order = [number[row] for row in batch.rows]
        samples = draw_turn(self._model, batch, hidden, draws[order], params)
        return [sample for _, sample in sorted(zip(order, samples, strict=True), key=lambda pair: pair[0])]

    def _held(self) -> dict[int, NDArray[np.int32]]:
        """Per row that lives, the tokens whose keys and values are held."""
        parked = {row: kept.ids for row, kept in self._parked.items()}
        return parked | dict(zip(self._batch.rows, self._batch.ids, strict=True))

    def _leave_out(self, rows: Collection[int]) -> None:
        """Take what is over out of the batch, and park what is not among `rows`.

        In one go from the last place on: whether a row was dropped before this turn or after it changes no place, and
        so no bit of the others.
        """
        for place in reversed(range(self._batch.num_rows)):
            row = self._batch.rows[place]
            if row in self._over:
                self._batch.remove(place)
            elif row not in rows:
                self._park(row)
        self._over.clear()

    def _forget_what_differs(self, prompts: Mapping[int, NDArray[np.int32]]) -> None:
        """Forget held tokens that are not the beginning of the row's prompt.

        At least the last token of a prompt is read again, because its logits are needed.
        """
        for row, ids in self._held().items():
            if row in prompts:
                num = common_length(ids, prompts[row][:-1])
                if row in self._parked:
                    self._parked[row] = self._parked[row].cut(num)
                else:
                    self._batch.cut(self._batch.rows.index(row), num)

    def _share_beginnings(self, prompts: Mapping[int, NDArray[np.int32]]) -> None:
        """Let rows of which nothing is held begin with a copy of what others have read, or read before them."""
        held = self._held()
        fresh = {row: prompt for row, prompt in prompts.items() if not len(held.get(row, ()))}
        plan = plan_sharing(fresh, {row: ids for row, ids in held.items() if len(ids)})
        for number, wave in enumerate(plan.waves, start=1):
            for row in wave:
                if beginning := plan.beginnings.get(row):
                    self._parked[row] = self._copy_of(beginning.source, beginning.num)
            if number < len(plan.waves):
                self._read_apart({row: prompts[row] for row in wave})

    def _copy_of(self, row: int, num: int) -> KeptRow:
        if row in self._batch.rows:
            return self._batch.copy_of(self._batch.rows.index(row), num)
        kept = self._parked[row].cut(num)
        return KeptRow(ids=kept.ids, layers=[(keys.clone(), values.clone()) for keys, values in kept.layers])

    def _read_long_ones(self, prompts: Mapping[int, NDArray[np.int32]]) -> None:
        """Read apart what would pad all other rows."""
        held, rows = self._held(), list(prompts)
        groups = plan_passes([len(prompts[row]) - len(held.get(row, ())) for row in rows])
        for group in groups:
            self._read_apart({rows[number]: prompts[rows[number]] for number in group})

    def _read_apart(self, prompts: Mapping[int, NDArray[np.int32]]) -> None:
        """Read all of these prompts but the last token, which is left for the pass of all rows; the rows are parked."""
        held = self._held()
        rows = [row for row, prompt in prompts.items() if len(prompt) - len(held.get(row, ())) > 1]
        if not rows:
            return
        for row in [row for row in rows if row in self._batch.rows]:
            self._park(row)
        apart = RowCache(self._model)
        apart.put(rows, [self._parked.pop(row, NOTHING_KEPT) for row in rows])
        left = [prompts[row][len(ids) : -1] for row, ids in zip(rows, apart.ids, strict=True)]
        self.num_read_tokens += sum(len(ids) for ids in left)
        apart.read(left)
        self._parked |= {
            row: apart.copy_of(place, len(ids)) for place, (row, ids) in enumerate(zip(rows, apart.ids, strict=True))
        }

    def _park(self, row: int) -> None:
        place = self._batch.rows.index(row)
        self._parked[row] = self._batch.copy_of(place, len(self._batch.ids[place]))
        self._batch.remove(place)

    def _check(self, requests: Sequence[TurnRequest], params: SamplingParams) -> None:
        if params.max_tokens < 1 or params.temperature < 0:
            raise EngineError(
                f"max_tokens is {params.max_tokens}, temperature {params.temperature}; expected >= 1 and >= 0"
            )
        rows = [request.row for request in requests]
        if len(set(rows)) != len(rows):
            raise EngineError(f"a row is named twice in one turn: {sorted(rows)}")
        limit = self._model.max_context_tokens - params.max_tokens
        for request in requests:
            if not 0 < len(request.prompt) <= limit:
                raise EngineError(
                    f"a prompt of {len(request.prompt)} tokens and {params.max_tokens} new ones do not fit in the"
                    f" model's context of {self._model.max_context_tokens}"
                )


def _draws(requests: Sequence[TurnRequest], params: SamplingParams, seed: int) -> NDArray[np.float64]:
    """Uniform draws `[row, position]`, each a function of the seeds, the request's key and the position alone."""
    draws = np.zeros((len(requests), params.max_tokens))
    for row, request in enumerate(requests):
        name = repr((seed, params.seed, tuple(int(part) for part in request.key)))
        key = np.frombuffer(hashlib.sha256(name.encode()).digest()[:16], dtype="<u8")
        draws[row] = np.random.Generator(np.random.Philox(key=key)).random(params.max_tokens)
    return draws
