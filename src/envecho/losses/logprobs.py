"""Differentiable log-probs of chosen tokens, without ever holding the logits of all positions.

The head projects one chunk of positions at a time, forward and again backward, so that memory is
`chunk_size * vocab` and not `position * vocab`. Not here: which positions are read, and at which temperature; the
caller selects them. Where the loss is a sum over positions, `head_loss` does with a product less.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from envecho.losses.products import add_product, matmul

DEFAULT_CHUNK_SIZE = 512


@dataclass(frozen=True, kw_only=True)
class ReadLogprobs:
    """What was read, per position; `entropies` in nats of softmax(logits / temperature), None where not asked for."""

    logprobs: Float[Tensor, " position"]
    top1: Bool[Tensor, " position"]
    entropies: Float[Tensor, " position"] | None


def read_logprobs(
    hidden: Float[Tensor, "position hidden"],
    head_weight: Float[Tensor, "vocab hidden"],
    targets: Int[Tensor, " position"],
    *,
    temperatures: Float[Tensor, " position"],
    bias: Float[Tensor, " vocab"] | None = None,
    chunk_size: int = DEFAULT_CHUNK_SIZE,
    softcap: float | None = None,
    with_entropies: bool = False,
) -> ReadLogprobs:
    """Return log softmax(logits / temperature)[target], whether the target was the argmax, and entropies where asked.

    `logits = hidden @ head_weight.T + bias`, then `softcap * tanh(logits / softcap)` where a soft cap is given. The
    product is computed in the dtype of `hidden`; everything after it in float32 (float64 for float64 hidden states).
    Log-probs and entropies are differentiable in `hidden`, `head_weight` and `bias`, each only where it requires a
    gradient; logits are recomputed in the backward pass, chunk by chunk. A chunk holds neighbouring positions of this
    call and of no other.

    Raises:
        ValueError: a shape does not fit, `chunk_size` is below 1, or a temperature or the soft cap is not positive.
    """
    num_positions = hidden.shape[0]
    if targets.shape != (num_positions,) or temperatures.shape != (num_positions,):
        found = f"targets {tuple(targets.shape)}, temperatures {tuple(temperatures.shape)}"
        raise ValueError(
            f"expected one target and one temperature for each of {num_positions} positions, found {found}"
        )
    if chunk_size < 1:
        raise ValueError(f"chunk_size is {chunk_size}, expected at least 1")
    if softcap is not None and not softcap > 0:
        raise ValueError(f"softcap is {softcap}, expected a positive number or None")
    if not bool((temperatures > 0).all()):
        raise ValueError("every temperature must be positive")
    options = _Options(chunk_size=chunk_size, softcap=softcap, with_entropies=with_entropies)
    logprobs, top1, entropies = _ReadLogprobs.apply(hidden, head_weight, bias, targets, temperatures, options)
    return ReadLogprobs(logprobs=logprobs, top1=top1, entropies=entropies if with_entropies else None)


@dataclass(frozen=True, kw_only=True)
class _Options:
    chunk_size: int
    softcap: float | None
    with_entropies: bool


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """In which dtype what follows the products is computed."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def scaled_logits(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: Tensor | float, softcap: float | None
) -> tuple[Tensor, Tensor | None]:
    """Return `[chunk, vocab]` logits over the temperature (one, or `[chunk]`), and the derivative of a soft cap."""
    logits = matmul(hidden, weight.t())
    logits = (logits if bias is None else logits.add_(bias)).to(accumulation_dtype(hidden.dtype))
    slope = None
    if softcap is not None:
        squashed = torch.tanh(logits / softcap)
        logits, slope = softcap * squashed, 1 - squashed.square()
    if isinstance(temperature, Tensor):
        logits.div_(temperature[:, None])
    elif temperature != 1:
        logits.div_(temperature)
    return logits, slope


def entropy_gradient(p: Tensor, entropies: Tensor) -> Tensor:
    """Gradient `[chunk, vocab]` of the entropy by the scaled logits, -p (log p + entropy); 0 where p is 0."""
    return torch.special.entr(p).sub_(p * entropies[:, None])


class _ReadLogprobs(torch.autograd.Function):
    """Gradients by the logits z: of log p_target (onehot - p) / temperature, of H -p (log p + H) / temperature.

    The two matrix products follow per chunk.
    """

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
        hidden, head_weight, bias, targets, temperatures, options = args
        dtype = accumulation_dtype(hidden.dtype)
        temperatures = temperatures.to(dtype)
        # Under autocast the product would silently run in another dtype forward than backward.
        with torch.autocast(hidden.device.type, enabled=False):
            weight = head_weight.to(hidden.dtype)
            head_bias = None if bias is None else bias.to(hidden.dtype)
            logprobs = torch.empty(len(targets), dtype=dtype, device=hidden.device)
            log_normalizers = torch.empty_like(logprobs)
            is_top1 = torch.empty(len(targets), dtype=torch.bool, device=hidden.device)
            entropies = torch.empty_like(logprobs if options.with_entropies else logprobs[:0])
            for start in range(0, len(targets), options.chunk_size):
                rows = slice(start, start + options.chunk_size)
                logits, _ = scaled_logits(hidden[rows], weight, head_bias, temperatures[rows], options.softcap)
                log_normalizers[rows] = torch.logsumexp(logits, dim=-1)
                chosen = logits.gather(-1, targets[rows, None]).squeeze(-1)
                logprobs[rows] = chosen - log_normalizers[rows]
                is_top1[rows] = logits.argmax(dim=-1) == targets[rows]
                if options.with_entropies:
                    p = logits.sub_(log_normalizers[rows, None]).exp_()
                    entropies[rows] = torch.special.entr(p).sum(dim=-1)
        ctx.save_for_backward(hidden, head_weight, bias, targets, temperatures, log_normalizers, entropies)
        ctx.options = options
        ctx.bias_dtype = None if bias is None else bias.dtype
        ctx.mark_non_differentiable(is_top1)
        ctx.set_materialize_grads(False)
        return logprobs, is_top1, entropies

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        hidden, head_weight, bias, targets, temperatures, log_normalizers, entropies = ctx.saved_tensors
        grad_logprobs = torch.zeros_like(log_normalizers) if grad_outputs[0] is None else grad_outputs[0]
        grad_entropies: Tensor | None = grad_outputs[2]
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        dtype = log_normalizers.dtype
        grad_hidden = torch.zeros_like(hidden) if needs_hidden else None
        grad_weight = torch.zeros_like(head_weight, dtype=dtype) if needs_weight else None
        grad_bias = torch.zeros(len(head_weight), dtype=dtype, device=hidden.device) if needs_bias else None
        with torch.autocast(hidden.device.type, enabled=False):
            weight = head_weight.to(hidden.dtype)
            head_bias = None if bias is None else bias.to(hidden.dtype)
            for start in range(0, len(targets), ctx.options.chunk_size):
                rows = slice(start, start + ctx.options.chunk_size)
                softcap = ctx.options.softcap
                logits, slope = scaled_logits(hidden[rows], weight, head_bias, temperatures[rows], softcap)
                scale = grad_logprobs[rows] / temperatures[rows]
                p = logits.sub_(log_normalizers[rows, None]).exp_()
                if grad_entropies is None:
                    grad = p.mul_(-scale[:, None])
                else:
                    share = grad_entropies[rows] / temperatures[rows]
                    grad = entropy_gradient(p, entropies[rows]).mul_(share[:, None]).sub_(p.mul_(scale[:, None]))
                grad.scatter_add_(-1, targets[rows, None], scale[:, None])
                if slope is not None:
                    grad.mul_(slope)
                if grad_bias is not None:
                    grad_bias += grad.sum(dim=0)
                grad = grad.to(hidden.dtype)
                if grad_hidden is not None:
                    grad_hidden[rows] = matmul(grad, weight)
                if grad_weight is not None:
                    add_product(grad_weight, grad.t(), hidden[rows])
        grad_weight = None if grad_weight is None else grad_weight.to(head_weight.dtype)
        if grad_bias is not None:
            grad_bias = grad_bias.to(ctx.bias_dtype)
        return grad_hidden, grad_weight, grad_bias, None, None, None
