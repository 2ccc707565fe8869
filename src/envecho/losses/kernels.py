"""Log-probs at T = 1 from a kernel library on CUDA, where it is exact; everywhere else `read_logprobs`.

    target_logprobs -> Liger, if it is installed and this setting passed the check -> else read_logprobs

The library is Liger-Kernel (`pip install 'envecho[kernels]'`; BSD-2): its fused linear cross-entropy with
`reduction="none"`, exact from release 0.8.2 on. Earlier ones multiply every gradient of the head by the upstream
gradient of the first token (linkedin/Liger-Kernel#1298). So no release is believed: before its first use in a setting
it computes values and gradients of a small problem (`kernel_check`), and one that fails is named in one warning.

Nothing of this was ever run on a GPU; docs/performance.md says what was. Not here: other temperatures, entropies and
top-1 marks (`logprobs`).
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

from envecho.losses.kernel_check import FLOORS, Kernel, Setting, refusal
from envecho.losses.logprobs import read_logprobs

_CHECK_CHUNK_SIZE = 16


def target_logprobs(
    hidden: Float[Tensor, "position hidden"],
    head_weight: Float[Tensor, "vocab hidden"],
    targets: Int[Tensor, " position"],
    *,
    bias: Float[Tensor, " vocab"] | None = None,
    softcap: float | None = None,
    chunk_size: int,
) -> Float[Tensor, " position"]:
    """Return log softmax(logits)[target] at T = 1, differentiable in `hidden`, `head_weight` and `bias`.

    `logits = hidden @ head_weight.T + bias`, then `softcap * tanh(logits / softcap)` where a soft cap is given. On CUDA
    by the library where it is installed and exact; `chunk_size` is for `read_logprobs` alone.

    Raises:
        ValueError: as `read_logprobs`.
    """
    kernel = installed_kernel() if hidden.is_cuda else None
    return logprobs_by(kernel, hidden, head_weight, targets, bias=bias, softcap=softcap, chunk_size=chunk_size)


def logprobs_by(
    kernel: CheckedKernel | None,
    hidden: Float[Tensor, "position hidden"],
    head_weight: Float[Tensor, "vocab hidden"],
    targets: Int[Tensor, " position"],
    *,
    bias: Float[Tensor, " vocab"] | None,
    softcap: float | None,
    chunk_size: int,
) -> Float[Tensor, " position"]:
    """Return what `target_logprobs` does, by this kernel where it is exact; None: by `read_logprobs`."""
    if kernel is not None and kernel.serves(hidden, head_weight, targets, bias, softcap):
        return kernel(hidden, head_weight, targets, bias, softcap)
    temperatures = torch.ones(targets.shape, dtype=torch.float64, device=hidden.device)
    return read_logprobs(
        hidden, head_weight, targets, temperatures=temperatures, bias=bias, softcap=softcap, chunk_size=chunk_size
    ).logprobs


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

    def serves(
        self, hidden: Tensor, head_weight: Tensor, targets: Tensor, bias: Tensor | None, softcap: float | None
    ) -> bool:
        """Whether the kernel computes this; the first question about a setting runs the check, and may warn.

        Mixed dtypes, others than float32 and bfloat16, and what `read_logprobs` refuses are never given to it.
        """
        dtypes = {value.dtype for value in (hidden, head_weight, bias) if value is not None}
        is_usual = targets.shape == hidden.shape[:1] and len(targets) > 0 and (softcap is None or softcap > 0)
        if len(dtypes) > 1 or hidden.dtype not in FLOORS or not is_usual:
            return False
        setting = Setting(
            device=str(hidden.device),
            dtype=hidden.dtype,
            has_softcap=softcap is not None,
            has_bias=bias is not None,
            hidden_size=hidden.shape[1],
            vocab_size=head_weight.shape[0],
        )
        if setting not in self._exact:
            reason = refusal(self, _own, setting)
            self._exact[setting] = reason is None
            if reason is not None:
                warnings.warn(f"{self._name} is not used, read_logprobs is: {reason} ({setting})", stacklevel=2)
        return self._exact[setting]

    def __call__(
        self, hidden: Tensor, head_weight: Tensor, targets: Tensor, bias: Tensor | None, softcap: float | None
    ) -> Tensor:
        """Return log-probs `[position]`; exact where `serves` says so."""
        # As in read_logprobs: under autocast the product would silently run in another dtype.
        with torch.autocast(hidden.device.type, enabled=False):
            return self._kernel(hidden, head_weight, targets, bias, softcap)


def _own(hidden: Tensor, head_weight: Tensor, targets: Tensor, bias: Tensor | None, softcap: float | None) -> Tensor:
    return logprobs_by(None, hidden, head_weight, targets, bias=bias, softcap=softcap, chunk_size=_CHECK_CHUNK_SIZE)
