"""In which numbers a model computes and in which it is trained: full-precision masters and a working copy.

Not here: the optimiser, which steps the masters (`local`).
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import Parameter

from envecho.errors import EngineError

ComputeDtype = Literal["auto", "float32", "bfloat16", "float64"]
Trainable = Literal["all", "attention"]
"""Which parameters are trained: every one, or those of attention and normalisation layers, a fifth of the weights: a
backward pass of half the cost, and a tenth of the optimiser's memory."""

ATTENTION_WORDS = ("attn", "attention")
_NORM_WORDS = ("norm", "ln_")

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}
_CPU_INFO = Path("/proc/cpuinfo")
_FAST_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16"}


def choose_device(name: str) -> torch.device:
    """Return the device of that name; `auto` is CUDA where there is one, else the CPU.

    Raises:
        EngineError: the name is unknown, or names a device that is absent.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise EngineError(f"device {name!r} is unknown; expected auto, cpu or cuda") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise EngineError(f"device {name!r} was asked for, but torch sees no CUDA device here")
    return device


def choose_compute_dtype(name: ComputeDtype, device: torch.device) -> torch.dtype:
    """Return the dtype of forward and backward; `auto` is bfloat16 where the processor multiplies in it, else float32.

    `float64` is for proofs and tests.

    Raises:
        EngineError: the name is unknown.
    """
    if name == "auto":
        return torch.bfloat16 if _multiplies_bfloat16(device) else torch.float32
    if name not in _DTYPES:
        raise EngineError(f"compute_dtype {name!r} is unknown; expected auto, {', '.join(_DTYPES)}")
    return _DTYPES[name]


def freeze_all_but(network: torch.nn.Module, trainable: Trainable) -> None:
    """Turn gradients off for every parameter that `trainable` leaves out.

    Raises:
        EngineError: the name is unknown, or the network has no parameter of that kind.
    """
    if trainable == "all":
        return
    if trainable != "attention":
        raise EngineError(f"trainable is {trainable!r}, expected 'all' or 'attention'")
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(any(word in name for word in (*ATTENTION_WORDS, *_NORM_WORDS)))
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise EngineError(f"{type(network).__name__} names no parameter after attention; use trainable = 'all'")


def _multiplies_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu" or not _CPU_INFO.is_file():
        return False
    # Without such an instruction torch still computes in bfloat16, six times slower than in float32.
    words = set(_CPU_INFO.read_text(encoding="utf-8", errors="replace").split())
    return bool(words & _FAST_BFLOAT16_FLAGS)


class MasterWeights:
    """The parameters that the optimiser steps, by name, and the network's own parameters that compute.

    In float32 (and float64) they are the same tensors. In bfloat16 the network becomes the working copy: gradients are
    added up in the float32 masters as soon as a backward pass has finished with a parameter, and `publish` copies the
    masters back after a step. `frozen_too` False gives frozen parameters no master: they are in bfloat16 alone.
    """

    def __init__(self, network: torch.nn.Module, compute_dtype: torch.dtype, *, frozen_too: bool = True) -> None:
        self._network = network
        self.is_copied = compute_dtype == torch.bfloat16
        self.parameters: dict[str, Parameter] = dict(network.named_parameters())
        self._working: dict[str, Parameter] = {}
        if not self.is_copied:
            return
        for name, working in list(self.parameters.items()):
            if working.requires_grad or frozen_too:
                master = Parameter(working.detach().float(), requires_grad=working.requires_grad)
                self._working[name], self.parameters[name] = working, master
                if working.requires_grad:
                    working.register_post_accumulate_grad_hook(_give_gradient_to(master))
            # Parameters alone: rotary frequencies and other buffers keep their precision.
            working.data = working.data.to(compute_dtype)

    @property
    def trained(self) -> dict[str, Parameter]:
        """The parameters that are trained, by name."""
        return {name: value for name, value in self.parameters.items() if value.requires_grad}

    def publish(self) -> None:
        """Copy the masters to the working copy, if there is one."""
        with torch.no_grad():
            for name, working in self._working.items():
                working.copy_(self.parameters[name])

    def state_dict(self) -> dict[str, Tensor]:
        """The masters under every name that the network's state has, tied names included."""
        masters = {id(working): name for name, working in self._network.named_parameters()}
        state = dict(self._network.state_dict())
        for name, working in self._network.named_parameters(remove_duplicate=False):
            state[name] = self.parameters[masters[id(working)]].detach()
        return state

    def gradients(self) -> list[Tensor]:
        """The gradients that exist."""
        return list(self.named_gradients().values())

    def named_gradients(self) -> dict[str, Tensor]:
        """The gradients that exist, by the parameter's name."""
        return {name: value.grad for name, value in self.parameters.items() if value.grad is not None}

    @contextmanager
    def set_aside(self) -> Generator[None]:
        """Lay the accumulated gradients aside for the block, and put the very same tensors back at its end."""
        kept = {name: value.grad for name, value in self.parameters.items()}
        for value in self.parameters.values():
            value.grad = None
        try:
            yield
        finally:
            for name, value in self.parameters.items():
                value.grad = kept[name]


def _give_gradient_to(master: Parameter) -> Callable[[Tensor], None]:
    def take(working: Tensor) -> None:
        gradient, working.grad = working.grad, None
        if gradient is None:
            return
        if master.grad is None:
            master.grad = gradient.float()
        else:
            master.grad.add_(gradient)

    return take
