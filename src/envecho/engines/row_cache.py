"""`RowCache`: keys and values of some rows side by side, in buffers with room, so that a new token copies no old one.

    row 0   A A A A A A . . x x x . .       A, B, C: the tokens of a row, from the first column on
    row 1   B B B B B B B B y y y . .       x, y: what the open run appends, at one column for all rows
    row 2   C C C . . . . . . . . . .       a row that has left the run; those that are in it come first

A mask hides the dots. When a row leaves the run, its new columns are moved next to its old ones, so that nothing is
hidden between runs. A row that leaves the cache is copied out without room (`KeptRow`). Not here: which rows
(`decoding`), and what is drawn (`drawing`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from envecho.engines.model import CausalModel

_LEAST_ROOM = 64
_ROOM_SHARE = 8
"""A buffer that is too narrow grows by one part in so many of its columns, and at least by `_LEAST_ROOM`."""


@dataclass(frozen=True, kw_only=True)
class KeptRow:
    """A row outside of a cache: its tokens, and per layer their keys and values `[head, token, width]`."""

    ids: NDArray[np.int32]
    layers: list[tuple[Tensor, Tensor]]

    def cut(self, num: int) -> KeptRow:
        """Return the first `num` tokens; they are a view until they are put into a cache."""
        return KeptRow(ids=self.ids[:num], layers=[(keys[:, :num], values[:, :num]) for keys, values in self.layers])


NOTHING_KEPT = KeptRow(ids=np.zeros(0, dtype=np.int32), layers=[])


@final
@dataclass(kw_only=True)
class _Room:
    """What all layers share: the size of their buffers, and how many columns are filled."""

    num_rows: int = 0
    num_columns: int = 0
    filled: int = 0


@final
class _Layer(DynamicLayer):
    """Keys and values `[row, head, column, width]` of one layer, of which a pass sees its rows and the filled columns.

    transformers asks a layer for its length before a pass, and hands it what is new in the pass.
    """

    def __init__(self, room: _Room) -> None:
        super().__init__()
        self._room = room

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        start, stop = self._room.filled, self._room.filled + key_states.shape[2]
        keys, values = self.buffers(key_states, value_states)
        keys, values = keys[: len(key_states)], values[: len(value_states)]
        keys[:, :, start:stop] = key_states
        values[:, :, start:stop] = value_states
        return keys[:, :, :stop], values[:, :, :stop]

    def buffers(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return the buffers, made for tensors `[..., head, column, width]` like these if there are none."""
        if self.keys is None or self.values is None:
            self.keys, self.values = (self._empty(like) for like in (keys, values))
            self.is_initialized = True
        return self.keys, self.values

    def resize(self, num_rows: int, num_columns: int) -> None:
        """Copy the first rows and columns to buffers of the room's size."""
        if self.keys is not None and self.values is not None:
            self.keys, self.values = (self._moved(old[:num_rows, :, :num_columns]) for old in (self.keys, self.values))

    def _moved(self, old: Tensor) -> Tensor:
        new = self._empty(old)
        new[: len(old), :, : old.shape[2]] = old
        return new

    def _empty(self, like: Tensor) -> Tensor:
        # Not `new_empty`: 0 times what a hidden column holds must be 0.
        return like.new_zeros(self._room.num_rows, like.shape[-3], self._room.num_columns, like.shape[-1])

    def get_seq_length(self) -> int:
        return self._room.filled

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._room.filled + query_length, 0


@final
class RowCache:
    """The rows of a batch, in places `0 .. num_rows - 1`; `rows` are their names, `ids` their tokens.

    A run appends tokens to rows: `begin`, then `append` for the first so many, then `settle` for each. Memory grows
    with rows times the longest of them; half of it may be room.
    """

    def __init__(self, model: CausalModel) -> None:
        self._model = model
        self.rows: list[int] = []
        self.ids: list[NDArray[np.int32]] = []
        self._room = _Room()
        num_layers: int = model.network.config.get_text_config().num_hidden_layers
        self._layers = [_Layer(self._room) for _ in range(num_layers)]
        self._cache: Any = Cache(layers=[*self._layers])
        self._start = 0
        self._mask = torch.zeros((0, 0), dtype=torch.int64)  # [row, column] of the open run

    @property
    def num_rows(self) -> int:
        """How many rows there are."""
        return len(self.rows)

    # --- rows in and out ------------------------------------------------------------------------------------------

    def put(self, rows: Sequence[int], kept: Sequence[KeptRow]) -> None:
        """Add rows under these names, each with what was kept of it.

        The layers of `kept` are let go one after the other, so that the whole is never held twice.
        """
        first = self.num_rows
        self._fit(first + len(rows), max(len(ids) for ids in [*self.ids, *(row.ids for row in kept)]))
        for number, layer in enumerate(self._layers):
            for place, row in enumerate(kept, start=first):
                if number < len(row.layers):
                    keys, values = row.layers[number]
                    row.layers[number] = (keys[:0], values[:0])
                    into_keys, into_values = layer.buffers(keys, values)
                    into_keys[place, :, : keys.shape[1]] = keys
                    into_values[place, :, : values.shape[1]] = values
        self.rows += rows
        self.ids += [row.ids for row in kept]

    def copy_of(self, place: int, num: int) -> KeptRow:
        """Return a copy of the first `num` tokens of a row."""
        layers = [
            (layer.keys[place, :, :num].clone(), layer.values[place, :, :num].clone())
            for layer in self._layers
            if num and layer.keys is not None and layer.values is not None
        ]
        return KeptRow(ids=self.ids[place][:num], layers=layers)

    def remove(self, place: int) -> None:
        """Take a row out; the last row gets its place."""
        self.swap(place, self.num_rows - 1)
        del self.rows[-1], self.ids[-1]
        if not self.rows:
            self._room.num_rows = self._room.num_columns = 0
            for layer in self._layers:
                layer.keys = layer.values = None

    def cut(self, place: int, num: int) -> None:
        """Keep the first `num` tokens of a row alone."""
        self.ids[place] = self.ids[place][:num]

    def swap(self, one: int, other: int) -> None:
        """Let two rows change places."""
        if one == other:
            return
        stop = max(self._room.filled, len(self.ids[one]), len(self.ids[other]))
        for layer in self._layers:
            for buffer in (layer.keys, layer.values):
                if buffer is not None:
                    held = buffer[one, :, :stop].clone()
                    buffer[one, :, :stop] = buffer[other, :, :stop]
                    buffer[other, :, :stop] = held
        if max(one, other) < len(self._mask):
            self._mask[[one, other]] = self._mask[[other, one]]
        self.rows[one], self.rows[other] = self.rows[other], self.rows[one]
        self.ids[one], self.ids[other] = self.ids[other], self.ids[one]

    def _fit(self, num_rows: int, num_columns: int) -> None:
        """Make the buffers large enough, and smaller where more than half would be empty."""
        room, old = self._room, dataclasses.replace(self._room)
        if not num_columns <= room.num_columns <= 2 * num_columns + _LEAST_ROOM:
            room.num_columns = num_columns + max(_LEAST_ROOM, num_columns // _ROOM_SHARE)
        if not num_rows <= room.num_rows <= 2 * num_rows:
            room.num_rows = num_rows
        if room != old:
            for layer in self._layers:
                layer.resize(self.num_rows, min(num_columns, old.num_columns))

    # --- runs -----------------------------------------------------------------------------------------------------

    def read(self, tokens: Sequence[NDArray[np.int32]]) -> Tensor:
        """Append at least one token to each row, and return the hidden states `[row, hidden]` after the last of each.

        Shorter rows are padded on the right, where no token of theirs sees it.
        """
        ids = np.zeros((len(tokens), max(len(new) for new in tokens)), dtype=np.int64)
        for place, new in enumerate(tokens):
            ids[place, : len(new)] = new
        last = np.array([len(new) - 1 for new in tokens])
        self.begin(ids.shape[1])
        # Padding may lie behind the context, where a table of positions ends.
        hidden = self._pass(ids, np.minimum(np.arange(ids.shape[1]), last[:, None]))
        self.settle(range(len(tokens)), tokens)
        places = torch.arange(len(tokens), device=hidden.device)
        return hidden[places, torch.from_numpy(last).to(hidden.device)]

    def begin(self, most: int) -> None:
        """Open a run of at most `most` tokens per row."""
        held = np.array([len(ids) for ids in self.ids])
        self._start = self._room.filled = int(held.max())
        columns = np.arange(self._start + most)
        seen = (columns < held[:, None]) | (columns >= self._start)
        self._mask = torch.from_numpy(seen.astype(np.int64)).to(self._model.device)

    def append(self, ids: NDArray[np.int64]) -> Tensor:
        """Append one of `ids` `[row]` to each of the first rows; return the hidden states `[row, hidden]` after it."""
        return self._pass(ids[:, None], np.array([[self._room.filled - self._start]]))[:, 0]

    def _pass(self, ids: NDArray[np.int64], offsets: NDArray[np.int64]) -> Tensor:
        """Put `ids` `[row, token]` through the body, at these positions behind what was held when the run began."""
        num, width = ids.shape
        stop = self._room.filled + width
        self._fit(self.num_rows, stop)
        held = np.array([len(tokens) for tokens in self.ids[:num]])
        positions = held[:, None] + offsets
        device = self._model.device
        hidden = self._model.network.base_model(
            input_ids=torch.from_numpy(ids).to(device),
            # Where nothing is hidden there is no mask, and the fast attention kernel runs.
            attention_mask=None if (held == self._start).all() else self._mask[:num, :stop],
            position_ids=torch.from_numpy(positions).to(device),
            past_key_values=self._cache,
            use_cache=True,
        ).last_hidden_state
        self._room.filled = stop
        return hidden

    def settle(self, places: Sequence[int], tokens: Sequence[NDArray[np.int32]]) -> None:
        """Let rows leave the open run: what each appended, less its padding, is `tokens`, and now belongs to it."""
        moved = [
            (place, token, len(self.ids[place]))
            for place, new in zip(places, tokens, strict=True)
            if len(self.ids[place]) != self._start
            for token in range(len(new))
        ]
        if moved:
            rows, offsets, held = torch.tensor(moved, device=self._mask.device).T
            for layer in self._layers:
                for buffer in (layer.keys, layer.values):
                    if buffer is not None:
                        buffer[rows, :, held + offsets] = buffer[rows, :, self._start + offsets]
        for place, new in zip(places, tokens, strict=True):
            self.ids[place] = np.concatenate([self.ids[place], np.asarray(new, dtype=np.int32)])
