"""Matrix products, by the fastest exact way that torch has on this device.

In float32 torch gives every product on a CPU to MKL, which runs AVX2 code on processors of AMD whatever they can do;
oneDNN, which torch has beside it, uses AVX-512 there and is twice as fast (`results/bench`, docs/performance.md). Both
compute in float32 throughout. The choice is by processor alone, never by a timing, so that a run can be repeated bit
for bit. Not here: products in other dtypes, which torch gives to the right library by itself.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_CPU_INFO = Path("/proc/cpuinfo")
_BLOCK_ELEMENTS = 2**20


def matmul(left: Tensor, right: Tensor) -> Tensor:
    """Return `[m, n]` of `[m, k]` and `[k, n]`; not differentiable, for use inside autograd functions."""
    if not goes_to_onednn(left) or not left.numel() or not right.numel():
        return left @ right
    rows = left if left.stride(0) == 1 and left.stride(1) >= len(left) else _plain(left)
    return torch.ops.mkldnn._linear_pointwise(rows, _plain(right.t()), None, "none", [], "")


def add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add `left @ right` of `[m, k]` and `[k, n]` to `total` `[m, n]`, whose dtype may be wider; not differentiable.

    On a CPU block by block, so that what is added is still in the cache: as a whole it would be written and read again.
    """
    step = max(1, _BLOCK_ELEMENTS // total.shape[1]) if total.device.type == "cpu" else len(total)
    for start in range(0, len(total), step):
        # Not `+=`, which writes the sum into its own place once more.
        total[start : start + step].add_(matmul(left[start : start + step], right))


def linear(values: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return `values @ weight.T + bias` of `[..., in]` and `[out, in]`, as `torch.nn.functional.linear`."""
    if not goes_to_onednn(values) or weight.dtype != torch.float32:
        return torch.nn.functional.linear(values, weight, bias)
    product: Tensor = _Linear.apply(values, weight)  # pyright: ignore[reportAssignmentType]
    return product if bias is None else product + bias


def goes_to_onednn(values: Tensor) -> bool:
    """Whether a product with `values` is computed by oneDNN where torch by itself would use MKL."""
    return values.dtype == torch.float32 and values.device.type == "cpu" and _prefers_onednn()


@functools.cache
def _prefers_onednn() -> bool:
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise") or not torch.backends.mkl.is_available():
        return False
    if not _CPU_INFO.is_file():
        return False
    text = _CPU_INFO.read_text(encoding="utf-8", errors="replace")
    if "AuthenticAMD" not in text or "avx512f" not in text.split():
        return False
    # A private operator: an answer that is not the product means that it has changed its meaning.
    left, right = torch.arange(6.0).view(2, 3), torch.arange(12.0).view(3, 4)
    try:
        found = torch.ops.mkldnn._linear_pointwise(left, right.t(), None, "none", [], "")
    except (RuntimeError, TypeError):
        return False
    return torch.equal(found, left @ right)


def _plain(matrix: Tensor) -> Tensor:
    """Any other strides would be computed by a reference loop, some hundred times slower."""
    return matrix if matrix.is_contiguous() or matrix.t().is_contiguous() else matrix.contiguous()


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        values, weight = args
        needs_values, needs_weight = ctx.needs_input_grad
        ctx.shape = values.shape
        ctx.save_for_backward(values if needs_weight else None, weight if needs_values else None)
        rows = values.reshape(-1, values.shape[-1])
        return matmul(rows, weight.t()).view(*values.shape[:-1], weight.shape[0])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        values, weight = ctx.saved_tensors
        gradient = grad_outputs[0].reshape(-1, grad_outputs[0].shape[-1])
        of_values = None if weight is None else matmul(gradient, weight).view(ctx.shape)
        of_weight = None if values is None else matmul(gradient.t(), values.reshape(-1, values.shape[-1]))
        return of_values, of_weight
