"""A summed loss at T = 1 from a kernel library on CUDA, where it is exact; everywhere else `summed_loss`.

    summed_loss_at_one -> Liger, if it is installed and this setting passed the check -> else summed_loss

The library is Liger-Kernel (`pip install 'envecho[kernels]'`; BSD-2): its fused linear cross-entropy with
`reduction="none"`, exact from release 0.8.2 on. Earlier ones multiply every gradient of the head by the upstream
gradient of the first token (linkedin/Liger-Kernel#1298). So no release is believed: before its first use in a setting
it computes values and gradients of a small problem (`kernel_check`), and one that fails is named in one warning.

Nothing of this was ever run on a GPU; docs/performance.md says what was. Not here: other temperatures and entropies
(`head_loss`).
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import warnings
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from envecho.losses.head_loss import Head, RowLoss, SummedLoss, summed_loss
from envecho.losses.kernel_check import FLOORS, Kernel, Setting, refusal
from envecho.losses.logprobs import read_logprobs

_CHECK_CHUNK_SIZE = 16


def summed_loss_at_one(
    hidden: Float[Tensor, "position hidden"], head: Head, targets: Int[Tensor, " position"], loss_of: RowLoss
) -> SummedLoss:
    """Return what `summed_loss` does at temperature 1 without entropies; on CUDA by the library where it is exact.

    The library's log-probs are one chunk, and the loss is differentiable in `hidden`, weight and bias through them.
    """
    return summed_loss_by(installed_kernel() if hidden.is_cuda else None, hidden, head, targets, loss_of)


def summed_loss_by(
    kernel: CheckedKernel | None,
    hidden: Float[Tensor, "position hidden"],
    head: Head,
    targets: Int[Tensor, " position"],
    loss_of: RowLoss,
) -> SummedLoss:
    """Return what `summed_loss_at_one` does, by this kernel where it is exact; None: by `summed_loss`."""
    if kernel is None or not kernel.serves(hidden, head, targets):
        return summed_loss(hidden, head, targets, loss_of, temperature=1.0)
    logprobs = kernel(hidden, head.weight, targets, head.bias, head.softcap)
    loss = loss_of(logprobs, logprobs.new_zeros(0), slice(0, len(targets)))
    return SummedLoss(loss=loss, logprobs=logprobs.detach(), entropies=None)


@functools.cache
def installed_kernel() -> CheckedKernel | None:
    """Return Liger's kernel; None where it is not installed, or, with a warning, where it cannot be imported."""
    if importlib.util.find_spec("liger_kernel") is None:
        return None
    try:
        fused = importlib.import_module("liger_kernel.transformers.functional").liger_fused_linear_cross_entropy
    except (ImportError, AttributeError) as error:
        warnings.warn(f"Liger-Kernel is installed and not used: {error}", stacklevel=2)
        return None

    def liger(
        hidden: Tensor, head_weight: Tensor, targets: Tensor, bias: Tensor | None, softcap: float | None
    ) -> Tensor:
        # Without accum_dtype the head's gradient is added up in the head's own dtype.
        options = {"reduction": "none", "softcap": softcap, "accum_dtype": torch.float32}
        return -fused(hidden, head_weight, targets, bias=bias, **options)

    return CheckedKernel(liger, name="Liger-Kernel")


@final
class CheckedKernel:
    """A kernel, and whether it passed the check, for each setting met so far."""

    def __init__(self, kernel: Kernel, *, name: str) -> None:
        self._kernel = kernel
        self._name = name
        self._exact: dict[Setting, bool] = {}

    def serves(self, hidden: Tensor, head: Head, targets: Tensor) -> bool:
        """Whether the kernel computes this; the first question about a setting runs the check, and may warn.

        Mixed dtypes, others than float32 and bfloat16, and no positions at all are never given to it.
        """
        dtypes = {value.dtype for value in (hidden, head.weight, head.bias) if value is not None}
        if len(dtypes) > 1 or hidden.dtype not in FLOORS or not len(targets):
            return False
        setting = Setting(
            device=str(hidden.device),
            dtype=hidden.dtype,
            has_softcap=head.softcap is not None,
            has_bias=head.bias is not None,
            hidden_size=hidden.shape[1],
            vocab_size=head.weight.shape[0],
        )
        if setting not in self._exact:
            reason = refusal(self, _own, setting)
            self._exact[setting] = reason is None
            if reason is not None:
                warnings.warn(f"{self._name} is not used, our own way is: {reason} ({setting})", stacklevel=2)
        return self._exact[setting]

    def __call__(
        self, hidden: Tensor, head_weight: Tensor, targets: Tensor, bias: Tensor | None, softcap: float | None
    ) -> Tensor:
        """Return log-probs `[position]`; exact where `serves` says so."""
        # As in our own way: under autocast the product would silently run in another dtype.
        with torch.autocast(hidden.device.type, enabled=False):
            return self._kernel(hidden, head_weight, targets, bias, softcap)


def _own(hidden: Tensor, head_weight: Tensor, targets: Tensor, bias: Tensor | None, softcap: float | None) -> Tensor:
    return read_logprobs(
        hidden,
        head_weight,
        targets,
        temperatures=torch.ones(targets.shape, device=hidden.device),
        bias=bias,
        softcap=softcap,
        chunk_size=_CHECK_CHUNK_SIZE,
    ).logprobs
