"""What the checks of `check_engine` drive an engine with: batches, steps that read a gradient, and comparisons.

A gradient is read through the seam alone: AdamW with an `eps` far above every gradient is plain gradient descent, so
what a step does to log-probs is the gradient that the engine summed, also where it tells no norm. Not here: any check.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

import numpy as np
import torch
from numpy.typing import NDArray

from envecho.losses import WeightedBatch
from envecho.seam import Ability, AdamParams, Engine, ForwardBackwardOutput, ScoreRequest

LENGTHS: Final = (9, 5, 12, 7)
PLAIN_STEP: Final = AdamParams(learning_rate=1e-3, grad_clip_norm=None)

_EPS: Final = 1e4
_CALIBRATION_ROUNDS: Final = 3


class CheckFailed(Exception):
    """The engine does not do what the seam says; the message says what was expected and what was found."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """A named check, and the abilities without which it is skipped."""

    name: str
    run: Callable[[Subject], None]
    needs: tuple[Ability, ...] = ()


@final
class Subject:
    """An engine with the state that every check starts from.

    `batch` weighs about half of its tokens by the environment term alone, at temperature 1. `tolerance` is the relative
    agreement of two ways to compute one number.
    """

    def __init__(self, engine: Engine, start: Path, *, vocab_size: int, tolerance: float) -> None:
        self.engine, self.start, self.tolerance = engine, start, tolerance
        self.batch = env_batch(vocab_size)
        self._rates: dict[float, float] = {}

    def reset(self) -> None:
        """Take up the state at the start again, with no gradient."""
        self.engine.load_state(self.start)

    def read(self, batch: WeightedBatch, *, temperature: float = 1.0) -> NDArray[np.float64]:
        """Log-probs `[token]` of every token under the current weights, by scoring; NaN at position 0."""
        scores = self.engine.logprobs(_requests(batch), temperature=temperature)
        return np.concatenate([score.logprobs for score in scores]).astype(np.float64)

    def read_entropies(self, batch: WeightedBatch, *, temperature: float) -> NDArray[np.float64]:
        """Entropies `[token]` in nats of the distribution over every token, NaN at position 0."""
        scores = self.engine.logprobs(_requests(batch), temperature=temperature, with_entropies=True)
        found = [score.entropies for score in scores]
        if any(entropies is None for entropies in found):
            raise CheckFailed("expected entropies from logprobs(with_entropies=True), found None")
        return np.concatenate([np.asarray(entropies, dtype=np.float64) for entropies in found])

    def descend(self, *batches: WeightedBatch, change: float = 0.5, sign: float = 1.0) -> ForwardBackwardOutput:
        """From the start, one step of gradient descent over the sum of some batches; return the last output.

        The rate is the one at which the environment batch moves some log-prob by about `change`.
        """
        rate = self._rate(change)
        self.reset()
        out = [self.engine.forward_backward(scaled(batch, sign)) for batch in batches]
        self.engine.optim_step(descent(rate))
        return out[-1]

    def after(self, *batches: WeightedBatch, change: float = 0.5) -> NDArray[np.float64]:
        """Log-probs of every token after `descend`."""
        self.descend(*batches, change=change)
        return self.read(self.batch)

    def slope(self, value: Callable[[], float], batch: WeightedBatch) -> float:
        """By how much `value` falls along the gradient of `batch`, by central differences of two small steps."""
        ends: list[float] = []
        for sign in (1.0, -1.0):
            self.descend(batch, change=0.1, sign=sign)
            ends.append(value())
        return (ends[1] - ends[0]) / 2

    def norm(self, batch: WeightedBatch) -> float:
        """The norm of the gradient of an environment batch, from what its loss falls by along it: rate * norm^2."""
        weights = batch.env_weights.double().numpy()

        def loss() -> float:
            return -float(np.nansum(weights * self.read(batch)))

        return (max(self.slope(loss, batch), 0.0) / self._rate(0.1)) ** 0.5

    def rate(self, change: float = 0.5) -> float:
        """The rate of gradient descent that `descend` takes."""
        return self._rate(change)

    def _rate(self, change: float) -> float:
        if change not in self._rates:
            self.reset()
            before, rate = self.read(self.batch), 1.0
            for _ in range(_CALIBRATION_ROUNDS):
                self.reset()
                self.engine.forward_backward(self.batch)
                self.engine.optim_step(descent(rate))
                moved = float(np.nanmax(np.abs(self.read(self.batch) - before)))
                if not 0 < moved < np.inf:
                    raise CheckFailed(f"expected a step to move log-probs, found a largest change of {moved}")
                rate *= change / moved
            self._rates[change] = rate
        return self._rates[change]

    def require(self, condition: bool, expected: str) -> None:
        """Fail unless the condition holds."""
        if not condition:
            raise CheckFailed(f"expected {expected}")

    def near(self, found: float, expected: float, what: str, *, tolerance: float | None = None) -> None:
        """Fail unless a number is what was expected, within the tolerance relative to it (absolute below 1)."""
        limit = self.tolerance if tolerance is None else tolerance
        if not abs(found - expected) <= limit * max(1.0, abs(expected)):
            raise CheckFailed(f"{what}: expected {expected}, found {found}")

    def alike(self, found: NDArray[np.floating], expected: NDArray[np.floating], what: str) -> None:
        """Fail unless two arrays of log-probs agree within the tolerance, NaN at the same places."""
        if found.shape != expected.shape or not bool((np.isnan(found) == np.isnan(expected)).all()):
            raise CheckFailed(f"{what}: expected NaN exactly where nothing is read, found it elsewhere")
        known = ~np.isnan(expected)
        worst = float(np.abs(found - expected)[known].max(initial=0.0))
        self.near(worst, 0.0, f"{what}, largest difference")


def descent(rate: float, *, grad_clip_norm: float | None = None) -> AdamParams:
    """AdamW whose first step is gradient descent: `-rate * gradient`; without momentum a step of zeros is none."""
    return AdamParams(learning_rate=rate * _EPS, eps=_EPS, beta1=0.0, grad_clip_norm=grad_clip_norm)


def scaled(batch: WeightedBatch, factor: float) -> WeightedBatch:
    """Return the batch with every weight times a factor."""
    if factor == 1:
        return batch
    names = ("policy_weights", "env_weights", "kl_weights", "entropy_weights")
    return dataclasses.replace(batch, **{name: getattr(batch, name) * factor for name in names})


def env_batch(vocab_size: int, lengths: tuple[int, ...] = LENGTHS) -> WeightedBatch:
    """Random tokens, about half of them targets of random weights; no token has another weight."""
    generator = torch.Generator().manual_seed(0)
    num_tokens = sum(lengths)
    positions = torch.cat([torch.arange(length) for length in lengths])
    targets = (torch.rand(num_tokens, generator=generator) < 0.5) & (positions > 0)
    zeros = torch.zeros(num_tokens)
    return WeightedBatch(
        token_ids=torch.randint(1, vocab_size, (num_tokens,), generator=generator),
        positions=positions,
        sequence_index=torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)),
        policy_weights=zeros,
        advantages=zeros,
        env_weights=targets * torch.rand(num_tokens, generator=generator) / num_tokens,
        env_targets=targets,
        kl_weights=zeros,
        entropy_weights=zeros,
        sampling_logprobs=torch.full((num_tokens,), torch.nan),
    )


def _requests(batch: WeightedBatch) -> list[ScoreRequest]:
    parts = [batch.sequence_index.numpy() == number for number in range(batch.num_sequences)]
    ids = [batch.token_ids.numpy()[part].astype(np.int32) for part in parts]
    return [ScoreRequest(token_ids=i, read=np.arange(len(i)) > 0) for i in ids]
