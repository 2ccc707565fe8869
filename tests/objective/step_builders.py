"""Hand-made tokenised trajectories and a causal model of a few hundred weights, for the tests of the objective."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from envecho.losses import WeightedBatch
from envecho.tokens import TokenizedTrajectory
from envecho.trajectory import Source

VOCAB = 23
LETTERS = {
    "c": Source.SCAFFOLD,
    "t": Source.TASK,
    "a": Source.POLICY,
    "o": Source.STDOUT,
    "e": Source.STDERR,
    "w": Source.STATUS,
    "g": Source.GRADER,
}


def tokenized(letters: str, trajectory_id: str = "t0", *, seed: int = 0, sampled: bool = True, **changes):
    """One sequence whose sources are spelled by letters; each run of one letter is a turn."""
    generator = np.random.default_rng([seed, len(letters), *trajectory_id.encode()])
    sources = np.array([LETTERS[letter].code for letter in letters], dtype=np.uint8)
    logprobs = np.where(sources == Source.POLICY.code, -3 * generator.random(len(letters)), np.nan)
    turns = np.cumsum([0] + [one != other for one, other in itertools.pairwise(letters)])
    fields = {
        "trajectory_id": trajectory_id,
        "task_id": "task",
        "group_id": "g0",
        "reward": None,
        "branch": 0,
        "window": 0,
        "owned_from": 0,
        "context_truncated": False,
        "token_ids": generator.integers(0, VOCAB, len(letters)).astype(np.int32),
        "sources": sources,
        "turns": turns[: len(letters)].astype(np.int32),
        "num_bytes": np.ones(len(letters), dtype=np.uint16),
        "sampling_logprobs": (logprobs if sampled else np.full(len(letters), np.nan)).astype(np.float32),
        "sampling_entropies": np.full(len(letters), np.nan, dtype=np.float32),
        "sampling_temperature": 0.8 if sampled else None,
    }
    return TokenizedTrajectory(**(fields | changes))


class TinyCausalModel(torch.nn.Module):
    """Embeddings, one causal attention layer, and a head, in float64; sequences see only themselves."""

    def __init__(self, hidden: int = 6, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)

        def weight(*shape: int) -> torch.nn.Parameter:
            return torch.nn.Parameter(torch.randn(*shape, generator=generator, dtype=torch.float64) / 2)

        self.embedding, self.places = weight(VOCAB, hidden), weight(64, hidden)
        self.attention, self.head = weight(3 * hidden, hidden), weight(VOCAB, hidden)

    def hidden_states(self, token_ids: Tensor, positions: Tensor, owner: Tensor) -> Tensor:
        """States `[row token hidden]` of rows in which each token attends to itself and earlier tokens of its owner."""
        states = self.embedding[token_ids] + self.places[positions]
        query, key, value = (states @ self.attention.T).chunk(3, dim=-1)
        visible = (owner[:, :, None] == owner[:, None, :]) & (positions[:, :, None] >= positions[:, None, :])
        scores = (query @ key.transpose(1, 2)).masked_fill(~visible, -torch.inf)
        return torch.tanh(states + torch.softmax(scores, dim=-1) @ value)

    def batch_states(self, batch: WeightedBatch, layout: str) -> Tensor:
        """States `[token hidden]` of a batch that ran packed in one row, or padded on the left or right."""
        if layout == "packed":
            rows = (batch.token_ids[None], batch.positions[None], batch.sequence_index[None])
            return self.hidden_states(*rows)[0]
        lengths = torch.bincount(batch.sequence_index, minlength=batch.num_sequences)
        width = int(lengths.max()) + 2
        shift = (width - lengths if layout == "left" else torch.zeros_like(lengths))[batch.sequence_index]
        place = (batch.sequence_index, batch.positions + shift)

        def padded(values: Tensor, fill: int) -> Tensor:
            rows = torch.full((batch.num_sequences, width), fill)
            rows[place] = values
            return rows

        # Padding is token 0, which is also a real token: only its owner tells it apart.
        states = self.hidden_states(
            padded(batch.token_ids, 0), padded(batch.positions, 0), padded(batch.sequence_index, -1)
        )
        return states[place]

    def gradients(self, loss: Tensor) -> list[Tensor]:
        """The gradient of every parameter; zeros where the loss does not depend on one."""
        grads = torch.autograd.grad(loss, list(self.parameters()), allow_unused=True)
        return [torch.zeros_like(p) if g is None else g for p, g in zip(self.parameters(), grads, strict=True)]


def add_gradients(parts: Sequence[list[Tensor]]) -> list[Tensor]:
    """Sum the gradients of parts, parameter by parameter."""
    return [torch.stack(grads).sum(dim=0) for grads in zip(*parts, strict=True)]
