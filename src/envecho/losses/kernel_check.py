"""Whether a foreign kernel may compute log-probs here: values and gradients of a small problem, against float64.

    refusal(kernel, own, setting)    None, or the reason in a clause

A kernel is accepted where its errors are like those of our own way in the same numbers, or below a floor. Not here:
which kernel, and what happens without one (`kernels`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

Kernel = Callable[[Tensor, Tensor, Tensor, Tensor | None, float | None], Tensor]
"""`(hidden [position, hidden], head_weight [vocab, hidden], targets [position], bias [vocab], softcap) -> logprobs`."""

FLOORS: Final = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
"""Errors that are always accepted, in the units of `RowErrors`, by the dtype of hidden states and head."""

TYPICAL_FACTOR: Final = 2
WORST_FACTOR: Final = 4
"""How often our own error is accepted. The largest of a few rounding errors scatters more than their mean square."""

POSITIONS: Final = 24
VOCAB: Final = 33_000
"""Rows of the check's head, fewer where the head has fewer. Liger takes in 32,768 logits of a position at once."""

# Logits of this spread: probabilities from 1e-16 to nearly 1, and a soft cap that binds.
_SPREAD: Final = 6.0
_SOFTCAP: Final = 15.0


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a kernel's exactness may depend on beside the numbers; each setting is checked for itself."""

    device: str
    dtype: torch.dtype
    has_softcap: bool
    has_bias: bool
    hidden_size: int
    vocab_size: int


@dataclass(frozen=True, kw_only=True)
class RowErrors:
    """How far rows are from float64: root mean square over rows, and the largest.

    A row is one log-prob (in nats), a position of the gradient by `hidden`, or a token of those by `head_weight` and
    `bias`. The error of a gradient's row is divided by sum_i |dL/dlogit_i| |x_i|, its size if nothing cancelled: a
    token that is nobody's target has a tiny gradient, and a kernel that leaves it out errs by 1. A row that should be 0
    errs by 0 or by infinity.
    """

    typical: float
    worst: float


def refusal(kernel: Kernel, own: Kernel, setting: Setting) -> str | None:
    """Return why `kernel` must not be used in a setting, None where it may.

    `own` is our way of computing the same. The problem is drawn from a generator of its own, so no random state
    changes; the float64 side is computed on the CPU.
    """
    with torch.inference_mode(False), torch.enable_grad():
        problem = _Problem(setting)
        try:
            found = problem.errors(kernel)
        except Exception as error:  # What a compiler, a driver or a full memory may raise is not ours to list.
            return f"it raised {type(error).__name__}: {error}"
        for (name, theirs), ours in zip(found.items(), problem.errors(own).values(), strict=True):
            for kind, factor in (("typical", TYPICAL_FACTOR), ("worst", WORST_FACTOR)):
                error, most = getattr(theirs, kind), max(factor * getattr(ours, kind), FLOORS[setting.dtype])
                if not error <= most:
                    return f"the {kind} error of {name} is {error:.2g}, at most {most:.2g} is allowed"
    return None


class _Problem:
    """Random numbers of a setting, and what float64 makes of them.

    Half of the targets are the likeliest tokens. Upstream gradients span four decades; about half are negative, some 0.
    """

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        rng = torch.Generator().manual_seed(0)
        vocab = min(setting.vocab_size, VOCAB)
        spread = _SPREAD * setting.hidden_size**-0.5
        hidden = torch.randn(POSITIONS, setting.hidden_size, generator=rng).to(setting.dtype)
        head_weight = (torch.randn(vocab, setting.hidden_size, generator=rng) * spread).to(setting.dtype)
        bias = torch.randn(vocab, generator=rng).to(setting.dtype) if setting.has_bias else None
        self._inputs = [hidden, head_weight] if bias is None else [hidden, head_weight, bias]
        self._softcap = _SOFTCAP if setting.has_softcap else None
        self._targets = torch.randint(vocab, (POSITIONS,), generator=rng)
        self._targets[::2] = (hidden[::2].float() @ head_weight.float().T).argmax(dim=-1)
        self._upstream = torch.randn(POSITIONS, generator=rng) * 10 ** (-4 * torch.rand(POSITIONS, generator=rng))
        self._upstream[::5] = 0
        self._logprobs, self._gradients, self._sizes = self._exact()

    def _exact(self) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Log-probs, gradients by the inputs, and the sizes by which errors of their rows are divided."""
        inputs = [value.double().requires_grad_() for value in self._inputs]
        hidden, head_weight = inputs[:2]
        raw = hidden @ head_weight.T
        if self._setting.has_bias:
            raw = raw + inputs[2]
        logits = raw if self._softcap is None else self._softcap * torch.tanh(raw / self._softcap)
        logprobs = logits.log_softmax(dim=-1).gather(-1, self._targets[:, None]).squeeze(-1)
        by_logit, *gradients = torch.autograd.grad(logprobs, [raw, *inputs], self._upstream.double())
        sizes = by_logit.abs()
        by_row = [sizes @ head_weight.norm(dim=1), sizes.T @ hidden.norm(dim=1), sizes.sum(dim=0)]
        return logprobs.detach(), gradients, [size.detach() for size in by_row[: len(inputs)]]

    def errors(self, kernel: Kernel) -> dict[str, RowErrors]:
        """Return how far a kernel is from float64, by name: log-probs and each gradient."""
        device = torch.device(self._setting.device)
        # Copies: a kernel that writes into its inputs must not spoil the next one's.
        inputs = [value.to(device, copy=True).requires_grad_() for value in self._inputs]
        bias = inputs[2] if self._setting.has_bias else None
        logprobs = kernel(inputs[0], inputs[1], self._targets.to(device), bias, self._softcap)
        gradients = torch.autograd.grad(logprobs, inputs, self._upstream.to(logprobs))
        differences = [found.cpu().double() - exact for found, exact in zip(gradients, self._gradients, strict=True)]
        found = {"logprobs": _row_errors(logprobs.detach().cpu().double() - self._logprobs, torch.ones(POSITIONS))}
        for name, difference, size in zip(("hidden", "head_weight", "bias"), differences, self._sizes, strict=False):
            found[name] = _row_errors(difference, size)
        return found


def _row_errors(differences: Tensor, sizes: Tensor) -> RowErrors:
    """Return |difference| over size per row; 0 over 0 is 0, anything else over 0 infinity."""
    lengths = differences.reshape(len(sizes), -1).norm(dim=1)
    rows = torch.where((lengths == 0) & (sizes == 0), 0.0, lengths / sizes)
    return RowErrors(typical=float(rows.square().mean().sqrt()), worst=float(rows.max()))
