"""Episodes decoded together, each with its key-value cache kept from turn to turn: `CachedSession`.

The rows of a turn share one batched cache whose columns may have holes: a row that is shorter, or whose history was
written anew, has columns that its mask hides, and positions are counted per row. So a turn costs one forward pass over
what is new since the last turn, and one per sampled token. A row that a turn does not name is parked beside the batch
without its holes, and joins again when it is named. Not here: prompts (`envecho.tokens`), episodes
(`envecho.rollout`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache

from envecho.engines.model import CausalModel
from envecho.engines.sampling import choose
from envecho.errors import EngineError
from envecho.seam import Sample, SamplingParams, TurnRequest

_MOST_HOLES = 0.5
"""A cache with a larger share of hidden columns is packed before the next turn."""


@dataclass(frozen=True, kw_only=True)
class _Parked:
    """A row outside of the batch: its tokens, and per layer their keys and values `[1, head, token, width]`."""

    ids: list[int]
    layers: list[tuple[Tensor, Tensor]]


@final
class CachedSession:
    """Episodes that are decoded together, some or all of them each turn; fulfils `envecho.seam.SamplingSession`.

    Keys and values of a row live until `drop`, or until the session is no longer used: memory grows with the tokens of
    the episodes that live, and with the padding of the rows of the last turn. Models with layers that do not see all
    tokens count distances in columns, so for these nothing is kept between turns.
    """

    def __init__(self, model: CausalModel, *, seed: int) -> None:
        self._model, self._seed = model, seed
        self._parked: dict[int, _Parked] = {}
        self._rows: list[int] = []
        self._ids: list[list[int]] = []  # per row, the tokens whose keys and values are cached, in order
        self._cache: Any = None
        self._mask = torch.zeros((0, 0), dtype=torch.int64)  # [row, column]: 1 where a column is a token of the row

    def drop(self, row: int) -> None:
        """Free the cache of an episode that is over."""
        self._parked.pop(row, None)
        if row in self._rows:
            self._keep([place for place, kept in enumerate(self._rows) if kept != row])

    @property
    def num_cached_tokens(self) -> int:
        """Tokens whose keys and values are held, padding not counted."""
        return sum(len(ids) for ids in [*self._ids, *(parked.ids for parked in self._parked.values())])

    @torch.no_grad()
    def sample(self, requests: Sequence[TurnRequest], params: SamplingParams) -> list[Sample]:
        """Sample one turn for each request.

        Log-probs and entropies are those of softmax(logits / temperature), from which every token was drawn.

        Raises:
            EngineError: a row is named twice, a prompt is empty, or prompt and turn do not fit in the model's context.
        """
        self._check(requests, params)
        if not requests:
            return []
        self._take_rows([request.row for request in requests])
        prompts = [request.prompt for request in requests]
        return _Turn(self, prompts, _draws(requests, params, self._seed), params).run()

    def feed(self, tokens: Sequence[Sequence[int]]) -> Tensor:
        """Append these tokens to the rows, padded on the left, and return the logits `[row, vocab]` after the last.

        A row without a new token gets a hole; its logits mean nothing.
        """
        width = max(len(new) for new in tokens)
        ids = np.zeros((len(tokens), width), dtype=np.int64)
        fresh = np.zeros((len(tokens), width), dtype=np.int64)
        for row, new in enumerate(tokens):
            if new:
                ids[row, width - len(new) :] = new
                fresh[row, width - len(new) :] = 1
            self._ids[row] += [int(token) for token in new]
        device = self._model.device
        new_mask = torch.from_numpy(fresh).to(device)
        self._mask = torch.cat([self._mask, new_mask], dim=1)
        positions = (self._mask.cumsum(dim=1) - 1).clamp(min=0)[:, -width:]
        out = self._model.network.base_model(
            input_ids=torch.from_numpy(ids).to(device),
            # Without holes there is no mask, and the fast attention kernel runs.
            attention_mask=None if bool(self._mask.all()) else self._mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
        )
        self._cache = out.past_key_values
        return self._model.logits(out.last_hidden_state[:, -1])

    def forget_what_differs(self, prompts: Sequence[NDArray[np.int32]]) -> list[list[int]]:
        """Hide cached tokens that are not the beginning of the row's prompt; return what each row has yet to read.

        At least the last token of a prompt is read again, because its logits are needed.
        """
        left: list[list[int]] = []
        for row, prompt in enumerate(prompts):
            cached = np.array(self._ids[row], dtype=np.int32)
            n = min(len(cached), len(prompt) - 1)
            differs = np.flatnonzero(cached[:n] != prompt[:n])
            kept = int(differs[0]) if len(differs) else n
            columns = torch.nonzero(self._mask[row]).flatten()[kept:]
            self._mask[row, columns] = 0
            self._ids[row] = self._ids[row][:kept]
            left.append(prompt[kept:].tolist())
        self._pack()
        return left

    def _take_rows(self, rows: list[int]) -> None:
        """Make the batch's rows these, in this order: park the others, and bring in those that are parked or new."""
        if not self._model.sees_all:
            self._start_over()
        named = set(rows)
        self._park([place for place, row in enumerate(self._rows) if row not in named])
        joining = [row for row in rows if row not in self._rows]
        if joining:
            self._keep([place for place, row in enumerate(self._rows) if row in named])
            self._join(joining)
        self._keep([self._rows.index(row) for row in rows])

    def _start_over(self) -> None:
        self._rows, self._ids, self._cache = [], [], DynamicCache()
        self._mask = torch.zeros((0, 0), dtype=torch.int64, device=self._model.device)

    def _park(self, places: Sequence[int]) -> None:
        for place in places:
            columns = torch.nonzero(self._mask[place]).flatten()
            if len(columns):
                # Indexing copies, so a parked row does not keep the whole batch alive.
                layers = [(k[place, None][:, :, columns], v[place, None][:, :, columns]) for k, v in self._layers()]
                self._parked[self._rows[place]] = _Parked(ids=self._ids[place], layers=layers)

    def _join(self, rows: Sequence[int]) -> None:
        """Append rows to the batch, each with what is parked of it; shorter ones get holes on the left."""
        nothing = _Parked(ids=[], layers=[])
        joining = [self._parked.pop(row, nothing) for row in rows]
        num, columns = self._mask.shape
        size = max(columns, *(len(row.ids) for row in joining))
        batch = self._layers()
        self._cache = DynamicCache()
        for number in range(max(len(batch), *(len(row.layers) for row in joining))):
            # Taken out layer by layer, so that the whole cache is never held twice.
            parts = [batch.pop(0)] if batch else []
            parts += [row.layers.pop(0) if row.layers else None for row in joining]
            like = next(part for part in parts if part)
            filled = [part or (like[0][:1, :, :0], like[1][:1, :, :0]) for part in parts]
            keys, values = (torch.cat([_widened(part[which], size) for part in filled]) for which in (0, 1))
            self._cache.update(keys, values, number)
        mask = torch.zeros((num + len(rows), size), dtype=torch.int64, device=self._mask.device)
        mask[:num, size - columns :] = self._mask
        for place, row in enumerate(joining, start=num):
            mask[place, size - len(row.ids) :] = 1
        self._mask = mask
        self._rows, self._ids = [*self._rows, *rows], [*self._ids, *(list(row.ids) for row in joining)]

    def _layers(self) -> list[tuple[Tensor, Tensor]]:
        """Keys and values `[row, head, column, width]` of the batch, per layer."""
        if self._cache is None or not self._cache.get_seq_length():
            return []
        return [(layer.keys, layer.values) for layer in self._cache.layers]

    def _keep(self, places: list[int]) -> None:
        if places == list(range(len(self._rows))):
            return
        if not places:
            self._start_over()
            return
        self._rows = [self._rows[place] for place in places]
        self._ids = [self._ids[place] for place in places]
        index = torch.tensor(places, dtype=torch.int64, device=self._mask.device)
        self._mask = self._mask[index]
        if self._cache is not None and self._cache.get_seq_length():
            self._cache.batch_select_indices(index)

    def _pack(self) -> None:
        """Move the columns of every row together at the right end, where too many are holes."""
        longest, size = int(self._mask.sum(dim=1).max()), self._mask.shape[1]
        if not longest:
            self._cache, self._mask = DynamicCache(), self._mask[:, :0]
            return
        if longest >= (1 - _MOST_HOLES) * size:
            return
        # A stable sort puts hidden columns first and keeps the order of the others.
        order = torch.argsort(self._mask, dim=1, stable=True)[:, -longest:]
        self._mask = self._mask.gather(1, order)
        for layer in self._cache.layers:
            where = order[:, None, :, None].expand(-1, layer.keys.shape[1], -1, layer.keys.shape[3])
            layer.keys = layer.keys.gather(2, where)
            where = order[:, None, :, None].expand(-1, layer.values.shape[1], -1, layer.values.shape[3])
            layer.values = layer.values.gather(2, where)

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


@final
class _Turn:
    """One turn of all rows: read the prompts, then draw token after token until every row has stopped."""

    def __init__(
        self,
        session: CachedSession,
        prompts: Sequence[NDArray[np.int32]],
        draws: NDArray[np.float64],
        params: SamplingParams,
    ) -> None:
        shape = (len(prompts), params.max_tokens)
        self._session, self._prompts, self._draws, self._params = session, prompts, draws, params
        self._ids = np.zeros(shape, dtype=np.int32)
        self._logprobs = np.zeros(shape, dtype=np.float32)
        self._entropies = np.zeros(shape, dtype=np.float32)
        self._lengths = np.zeros(len(prompts), dtype=np.int64)
        self._stopped = np.zeros(len(prompts), dtype=np.bool_)

    def run(self) -> list[Sample]:
        tokens = self._session.forget_what_differs(self._prompts)
        for position in range(self._params.max_tokens):
            logits = self._session.feed(tokens)
            chosen, logprobs, entropies = choose(logits, self._draws[:, position], self._params.temperature)
            going = ~self._stopped
            self._ids[going, position] = chosen[going]
            self._logprobs[going, position] = logprobs[going]
            self._entropies[going, position] = entropies[going]
            self._lengths[going] += 1
            self._stopped |= going & np.isin(chosen, self._params.stop_token_ids)
            if self._stopped.all():
                break
            tokens = [[] if self._stopped[row] else [int(chosen[row])] for row in range(len(chosen))]
        return [
            Sample(
                token_ids=self._ids[row, :n].copy(),
                logprobs=self._logprobs[row, :n].copy(),
                entropies=self._entropies[row, :n].copy(),
                stopped=bool(self._stopped[row]),
            )
            for row, n in enumerate(self._lengths.tolist())
        ]


def _widened(tensor: Tensor, size: int) -> Tensor:
    """Pad `[row, head, column, width]` on the left to `size` columns."""
    return torch.nn.functional.pad(tensor, (0, 0, size - tensor.shape[2], 0))


def _draws(requests: Sequence[TurnRequest], params: SamplingParams, seed: int) -> NDArray[np.float64]:
    """Uniform draws `[row, position]`, each a function of the seeds, the request's key and the position alone."""
    draws = np.zeros((len(requests), params.max_tokens))
    for row, request in enumerate(requests):
        name = repr((seed, params.seed, tuple(int(part) for part in request.key)))
        key = np.frombuffer(hashlib.sha256(name.encode()).digest()[:16], dtype="<u8")
        draws[row] = np.random.Generator(np.random.Philox(key=key)).random(params.max_tokens)
    return draws
