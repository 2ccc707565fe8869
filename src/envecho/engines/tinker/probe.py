"""How a server adds coefficients up, measured on throwaway weights before a run, because no API tells it.

AdamW without momentum and with an `eps` far above every gradient is plain gradient descent, so what one step does to
the log-probs of a short row is the gradient that the server summed. Doubling the coefficients, sending the row twice
and sending it in two calls must then do to the log-probs what the server's reduction says, or nothing is trained.

    sum             all rows and tokens are added up: the hosted service by its documentation, SkyRL on FSDP by its code
    sequence_mean   each row's sum over its number of tokens (for cross-entropy over the sum of its weights), then the
                    mean over all rows since the last step: SkyRL on JAX

Not here: how a reduction is compensated (`engine`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, final

import numpy as np
from numpy.typing import NDArray

from envecho.engines.tinker.service import LossName, RemoteModel, RemoteService, Row
from envecho.errors import EngineError
from envecho.seam import AdamParams

Reduction = Literal["sum", "sequence_mean"]

_EPS: Final = 1e8
_TOKENS: Final = 9
_CHANGES: Final = (0.01, 0.1, 0.5, 0.001)
"""Nats by which a step may move the row's log-probs in all: small enough to be linear, large enough to be read."""
_STEADY: Final = 0.05
_TOLERANCE: Final = 0.1


@dataclass(frozen=True, kw_only=True)
class ServerFacts:
    """What was measured of a server.

    `grad_norm_metric`: the metric of a step that is the gradient's norm, None where there is none. `clips_gradients`:
    whether a step heeds `grad_clip_norm`. `tells_all_logprobs`: whether a backward pass returns the log-prob of every
    token, also where the coefficient is 0 or negative.
    """

    reduction: Reduction
    grad_norm_metric: str | None
    clips_gradients: bool
    tells_all_logprobs: bool


def measure_server(service: RemoteService) -> ServerFacts:
    """Measure how a server reduces, on throwaway weights of rank 1: some fifteen steps over one or two short rows.

    Raises:
        EngineError: the server follows none of the reductions that are known, so coefficients would mean nothing.
    """
    rig = _Rig(service.create(rank=1, seed=0))
    found = {
        "doubled coefficients": rig.compared(rig.row(2.0), loss="cross_entropy"),
        "the row twice": rig.compared(rig.row(1.0), rig.row(1.0), loss="cross_entropy"),
        "the row in two calls": rig.compared(rig.row(1.0), rig.row(1.0), loss="cross_entropy", calls=2),
    }
    if _near(found, (2.0, 2.0, 2.0)):
        reduction: Reduction = "sum"
        loss: LossName = "cross_entropy"
        scale = 1.0
    elif _near(found, (1.0, 1.0, 1.0)):
        # Its cross-entropy divides by the weights and so forgets their size; the pinned ratio divides by a count.
        reduction, loss, scale = "sequence_mean", "pinned_ratio", float(_TOKENS - 1)
        pinned = {
            "coefficients of the pinned ratio": rig.compared(rig.row(1.0), loss=loss),
            "doubled coefficients of it": rig.compared(rig.row(2.0), loss=loss),
        }
        if not _near(pinned, (1.0, 2.0)):
            raise _unknown(service, found | pinned)
    else:
        raise _unknown(service, found)
    metric = rig.grad_norm_metric(scale, loss)
    return ServerFacts(
        reduction=reduction,
        grad_norm_metric=metric,
        clips_gradients=rig.clips(loss),
        tells_all_logprobs=rig.tells_all_logprobs(loss),
    )


@final
class _Rig:
    """Throwaway weights, one short row, and the size of step at which it moves a little."""

    def __init__(self, model: RemoteModel) -> None:
        self._model = model
        self._rate = 1e-3
        self._ids = np.arange(2, 2 + _TOKENS, dtype=np.int32)
        self._metrics: Mapping[str, float] = {}
        self._once = self._calibrate()

    def row(self, coefficient: float) -> Row:
        """The row with one coefficient on every token but the first."""
        return Row(token_ids=self._ids, coefficients=_after_first(np.full(_TOKENS, coefficient)))

    def moved(self, *rows: Row, loss: LossName, calls: int = 1, clip: float | None = None) -> float:
        """How far a step over these rows moves the sum of the row's log-probs, per rate."""
        before = self._read()
        for part in _split(rows, calls):
            self._model.forward_backward(part, loss)()
        self._metrics = self._model.optim_step(_descent(self._rate, clip))
        return (self._read() - before) / self._rate

    def compared(self, *rows: Row, loss: LossName, calls: int = 1) -> float:
        """How far a step over these rows moves it, over what cross-entropy on one row does before and after."""
        before = self._once
        moved = self.moved(*rows, loss=loss, calls=calls)
        self._once = self.moved(self.row(1.0), loss="cross_entropy")
        return 2 * moved / (before + self._once)

    def grad_norm_metric(self, scale: float, loss: LossName) -> str | None:
        """The metric whose name speaks of the gradient's norm and that doubles with the coefficients."""
        self.moved(self.row(scale), loss=loss)
        single = {name: value for name, value in self._metrics.items() if "grad_norm" in name and value}
        self.moved(self.row(2 * scale), loss=loss)
        for name, value in single.items():
            if abs(self._metrics.get(name, 0.0) / value - 2) < 2 * _TOLERANCE:
                return name
        return None

    def clips(self, loss: LossName) -> bool:
        """Whether a bound far below the gradient's norm shortens the step."""
        free = self.moved(self.row(1.0), loss=loss)
        return abs(self.moved(self.row(1.0), loss=loss, clip=1e-6) / free) < _TOLERANCE

    def tells_all_logprobs(self, loss: LossName) -> bool:
        """Whether a backward pass over a few coefficients returns what a forward pass returns."""
        some = np.zeros(_TOKENS)
        some[3], some[5] = 1.0, -1.0
        row = Row(token_ids=self._ids, coefficients=_after_first(some))
        (expected,) = self._model.forward([row])()
        (found,) = self._model.forward_backward([row], loss)()
        self._model.optim_step(_descent(0.0, None))
        return found.shape == expected.shape and bool(np.allclose(found, expected, atol=1e-3))

    def _calibrate(self) -> float:
        """Choose the rate, and return what a step moves at it."""
        for change in _CHANGES:
            moved = self.moved(self.row(1.0), loss="cross_entropy")
            for _ in range(3):
                if not (moved > 0 and np.isfinite(moved)):
                    raise EngineError("a step with a loss on every token of a row did not raise its log-probs")
                self._rate, last = change / moved, moved
                moved = self.moved(self.row(1.0), loss="cross_entropy")
                if abs(moved / last - 1) < _STEADY:
                    return moved
        raise EngineError("the same step moves a row's log-probs by another amount every time; nothing can be measured")

    def _read(self) -> float:
        (logprobs,) = self._model.forward([self.row(1.0)])()
        return float(logprobs.astype(np.float64).sum())


def _descent(rate: float, clip: float | None) -> AdamParams:
    return AdamParams(learning_rate=rate * _EPS, beta1=0.0, beta2=0.0, eps=_EPS, grad_clip_norm=clip)


def _split(rows: Sequence[Row], calls: int) -> list[Sequence[Row]]:
    return [rows[place::calls] for place in range(calls)]


def _after_first(values: NDArray[np.float64]) -> NDArray[np.float32]:
    values[0] = 0.0
    return values.astype(np.float32)


def _near(found: Mapping[str, float], expected: Sequence[float]) -> bool:
    return all(abs(value / wanted - 1) < _TOLERANCE for value, wanted in zip(found.values(), expected, strict=True))


def _unknown(service: RemoteService, found: Mapping[str, float]) -> EngineError:
    told = ", ".join(f"{what}: {value:.2f} times" for what, value in found.items())
    return EngineError(
        f"{service.name} sums coefficients in a way that is not known, so weights would mean nothing there. Against one"
        f" row with coefficients 1, a step moved its log-probs for {told}; expected 2, 2, 2 (a sum) or 1, 1, 1 (means)"
    )
