"""A summed loss from hidden states, and its gradient, without ever holding the logits of all positions.

The head projects one chunk of positions at a time. Each position's loss depends on its own log-prob and entropy alone,
so the gradient of a chunk is known as soon as its loss is, and its logits serve both: three matrix products instead of
the four of a way that computes logits again in the backward pass, and no more memory. Liger-Kernel (arXiv:2410.10989)
has the idea for cross-entropy. Not here: which positions are read, and their losses (`objective_loss`); log-probs whose
loss the caller computes (`logprobs`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from envecho.losses.logprobs import accumulation_dtype, entropy_gradient, scaled_logits
from envecho.losses.products import add_product, matmul

RowLoss = Callable[[Float[Tensor, " chunk"], Float[Tensor, " chunk"], slice], Float[Tensor, ""]]
"""The summed loss of a chunk, from its log-probs, its entropies (empty where not asked for) and its place."""


@dataclass(frozen=True, kw_only=True)
class Head:
    """The output projection and how it is read: `logits = hidden @ weight.T + bias`, capped at `softcap`."""

    weight: Float[Tensor, "vocab hidden"]
    bias: Float[Tensor, " vocab"] | None
    softcap: float | None
    chunk_size: int


@dataclass(frozen=True, kw_only=True)
class SummedLoss:
    """`loss` has a graph to the hidden states and the head; log-probs and entropies (or None) are detached."""

    loss: Float[Tensor, ""]
    logprobs: Float[Tensor, " position"]
    entropies: Float[Tensor, " position"] | None


def summed_loss(
    hidden: Float[Tensor, "position hidden"],
    head: Head,
    targets: Int[Tensor, " position"],
    loss_of: RowLoss,
    *,
    temperature: float,
    with_entropies: bool = False,
) -> SummedLoss:
    """Return the sum over chunks of `loss_of(log softmax(logits / temperature)[target], entropies, place)`.

    `loss_of` must be a sum over positions, each a function of its own log-prob and entropy alone; it is called once for
    each chunk, with gradients on. Products are computed in the dtype of `hidden`, everything else in float32 (float64
    for float64). The gradient is computed with the loss, where anything requires one and gradients are on.
    """
    options = _Options(
        loss_of=loss_of,
        chunk_size=head.chunk_size,
        softcap=head.softcap,
        temperature=temperature,
        with_entropies=with_entropies,
        has_gradient=torch.is_grad_enabled(),
    )
    loss, logprobs, entropies = _SummedLoss.apply(hidden, head.weight, head.bias, targets, options)
    return SummedLoss(loss=loss, logprobs=logprobs, entropies=entropies if with_entropies else None)


@dataclass(frozen=True, kw_only=True)
class _Options:
    loss_of: RowLoss
    chunk_size: int
    softcap: float | None
    temperature: float
    with_entropies: bool
    has_gradient: bool


@dataclass(kw_only=True)
class _Chunk:
    """What is known of one chunk: probabilities `[chunk, vocab]`, and `[chunk]` for the rest."""

    p: Tensor
    slope: Tensor | None
    targets: Tensor
    logprobs: Tensor
    entropies: Tensor
    of_logprobs: Tensor
    of_entropies: Tensor | None

    def spread(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradient by the logits as `target * onehot - row * other`: `other` is `[chunk, vocab]`.

        The target's part stands alone, in full precision: next to 1, a probability in bfloat16 would lose it.
        """
        if self.of_entropies is None and self.slope is None:
            other = self.p.scatter_(-1, self.targets[:, None], 0.0)
            return -torch.expm1(self.logprobs) * self.of_logprobs, self.of_logprobs, other.to(dtype)
        other = self.p.mul(self.of_logprobs[:, None])
        if self.of_entropies is not None:
            other.sub_(entropy_gradient(self.p, self.entropies).mul_(self.of_entropies[:, None]))
        other.scatter_add_(-1, self.targets[:, None], -self.of_logprobs[:, None])
        if self.slope is not None:
            other.mul_(self.slope)
        of_target = -other.gather(-1, self.targets[:, None]).squeeze(-1)
        other.scatter_(-1, self.targets[:, None], 0.0)
        return of_target, torch.ones_like(self.of_logprobs), other.to(dtype)


class _SummedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
        hidden, head_weight, bias, targets, options = args
        dtype = accumulation_dtype(hidden.dtype)
        needed = [bool(needs) and options.has_gradient for needs in ctx.needs_input_grad[:3]]
        of_hidden = torch.empty_like(hidden) if needed[0] else None
        of_weight = torch.zeros_like(head_weight, dtype=dtype) if needed[1] else None
        of_bias = torch.zeros(len(head_weight), dtype=dtype, device=hidden.device) if needed[2] else None
        loss = torch.zeros((), dtype=dtype, device=hidden.device)
        logprobs, entropies = torch.empty(len(targets), dtype=dtype, device=hidden.device), loss.new_empty(0)
        if options.with_entropies:
            entropies = torch.empty_like(logprobs)
        # Under autocast the products would silently run in another dtype than the one that is asked for.
        with torch.autocast(hidden.device.type, enabled=False):
            weight = head_weight.to(hidden.dtype)
            head_bias = None if bias is None else bias.to(hidden.dtype)
            for start in range(0, len(targets), options.chunk_size):
                rows = slice(start, min(start + options.chunk_size, len(targets)))
                states = hidden[rows]
                chunk, part = _read(states, weight, head_bias, targets[rows], options, rows, any(needed))
                loss += part
                logprobs[rows] = chunk.logprobs
                if options.with_entropies:
                    entropies[rows] = chunk.entropies
                if not any(needed):
                    continue
                of_target, of_row, other = chunk.spread(hidden.dtype)
                if of_hidden is not None:
                    below = matmul(other, weight).to(dtype).mul_(-of_row[:, None])
                    of_hidden[rows] = below.addcmul_(weight[chunk.targets].to(dtype), of_target[:, None])
                if of_weight is not None:
                    add_product(of_weight, other.t(), (states * -of_row[:, None]).to(hidden.dtype))
                    of_weight.index_add_(0, chunk.targets, states.to(dtype) * of_target[:, None])
                if of_bias is not None:
                    of_bias -= other.to(dtype).t() @ of_row
                    of_bias.index_add_(0, chunk.targets, of_target)
        ctx.gradients = (
            of_hidden,
            None if of_weight is None else of_weight.to(head_weight.dtype),
            None if of_bias is None or bias is None else of_bias.to(bias.dtype),
        )
        ctx.mark_non_differentiable(logprobs, entropies)
        ctx.set_materialize_grads(False)
        return loss, logprobs, entropies

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        above: Tensor | None = grad_outputs[0]
        if above is None:
            return None, None, None, None, None
        # A loss that is neither scaled nor divided needs no pass over a gradient as large as the head.
        factor = None if float(above) == 1.0 else above
        found = [None if g is None else (g if factor is None else g * factor.to(g.dtype)) for g in ctx.gradients]
        return *found, None, None


def _read(
    states: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    options: _Options,
    rows: slice,
    has_gradient: bool,
) -> tuple[_Chunk, Tensor]:
    """Read one chunk, and its loss with the gradient by log-probs and entropies, temperature included."""
    logits, slope = scaled_logits(states, weight, bias, options.temperature, options.softcap)
    top = logits.amax(dim=-1)
    chosen = logits.gather(-1, targets[:, None]).squeeze(-1)
    p = torch.softmax(logits, dim=-1)
    del logits
    # The largest probability is 1 / sum(exp(logits - top)).
    logprobs = chosen - (top - p.amax(dim=-1).log())
    entropies = torch.special.entr(p).sum(dim=-1) if options.with_entropies else p.new_empty(0)
    with torch.set_grad_enabled(has_gradient):
        loss = options.loss_of(logprobs.requires_grad_(has_gradient), entropies.requires_grad_(has_gradient), rows)
        of_logprobs = of_entropies = None
        if loss.requires_grad:
            of_logprobs, of_entropies = torch.autograd.grad(loss, (logprobs, entropies), allow_unused=True)
    if of_logprobs is None:
        of_logprobs = torch.zeros_like(logprobs)
    chunk = _Chunk(
        p=p,
        slope=slope,
        targets=targets,
        logprobs=logprobs.detach(),
        entropies=entropies.detach(),
        of_logprobs=of_logprobs / options.temperature,
        of_entropies=None if of_entropies is None else of_entropies / options.temperature,
    )
    return chunk, loss.detach()
