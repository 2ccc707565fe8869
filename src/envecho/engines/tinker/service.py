"""What a training server can be asked, in numpy arrays: the same few verbs for every service of Tinker's shape.

Verbs that may overlap return a function that waits for the answer. Every error of a service arrives as EngineError.
Not here: any protocol on a wire (`sdk`, `foundry`), and what a coefficient means (`surrogate`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from envecho.seam import AdamParams, SamplingParams

LossName = Literal["cross_entropy", "pinned_ratio"]
"""Which loss of the server sums `coefficient * -log p`, up to the server's own divisions.

`cross_entropy`: coefficients are its weights. `pinned_ratio`: coefficients are the advantages of CISPO, whose detached
ratio is clipped to [1, 1] and so is 1 whatever the sampling log-prob.
"""

Logprobs = NDArray[np.float32]
Waiting = Callable[[], list[Logprobs]]
"""Waits, and returns for each row the log-probs `[token - 1]` of its tokens from the second on."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One sequence as it is sent: ids `[token]`, and what is put before `-log p` of each token, 0 at the first."""

    token_ids: NDArray[np.int32]
    coefficients: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class RemoteSample:
    """A continuation as the server gave it; log-probs at T = 1, of each token."""

    token_ids: NDArray[np.int32]
    logprobs: Logprobs
    stopped: bool


class RemoteSampler(Protocol):
    """A copy of the weights that samples, as they were when it was made."""

    def sample(
        self, prompts: Sequence[NDArray[np.int32]], params: SamplingParams, seeds: Sequence[int]
    ) -> list[RemoteSample]:
        """Continue each prompt with its own seed."""
        ...


class RemoteModel(Protocol):
    """LoRA weights on a server, with an optimiser and an accumulated gradient."""

    def forward(self, rows: Sequence[Row]) -> Waiting:
        """Score rows without a gradient."""
        ...

    def forward_backward(self, rows: Sequence[Row], loss: LossName) -> Waiting:
        """Add the gradient of the rows to what is accumulated, as the server reduces it."""
        ...

    def optim_step(self, params: AdamParams) -> Mapping[str, float]:
        """Apply AdamW to what is accumulated; return the server's metrics."""
        ...

    def save(self) -> str:
        """Keep weights and optimiser on the server; return the address of the checkpoint."""
        ...

    def adapter_archive(self) -> bytes:
        """Return the weights as the server archives them: a tar file that holds an adapter in peft's layout."""
        ...

    def sampler(self) -> RemoteSampler:
        """Make the weights as they are now ready for sampling."""
        ...


class RemoteService(Protocol):
    """A server with one base model."""

    @property
    def name(self) -> str:
        """What errors and reports call it."""
        ...

    @property
    def base_model(self) -> str:
        """The server's name of the base model."""
        ...

    @property
    def max_context_tokens(self) -> int | None:
        """The longest sequence that the server says it takes; None where it does not say."""
        ...

    def create(self, *, rank: int, seed: int) -> RemoteModel:
        """Start from fresh LoRA weights, under which the model is the base model."""
        ...

    def restore(self, address: str, *, rank: int, with_optimizer: bool) -> RemoteModel:
        """Start from a checkpoint of this server; without the optimiser's state where the server can leave it."""
        ...
