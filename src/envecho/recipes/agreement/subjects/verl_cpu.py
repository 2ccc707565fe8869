"""A CPU platform for verl, registered as verl's plug-ins register hardware; `VERL_PLATFORM=cpu` selects it.

verl 0.9.1 ships platforms for accelerators alone. This one lets its FSDP engine run as it is, over gloo, for
measurements and tests; nobody should train with it. `VERL_USE_EXTERNAL_MODULES` names this module, so that verl
imports it. Not here: the measurement (`verl_process`).
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, final

import torch

_cuda: Any = import_module("verl.plugin.platform.platform_cuda").PlatformCUDA
_registry: Any = import_module("verl.plugin.platform.platform_manager").PlatformRegistry


@final
class _CpuModule:
    """What verl asks of `torch.cuda`: no memory, nothing to wait for."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cpu, name)

    def is_available(self) -> bool:
        return False

    def get_device_name(self) -> str:
        return "CPU"

    def memory_allocated(self, *_: Any) -> int:
        return 0

    max_memory_allocated = memory_reserved = max_memory_reserved = memory_allocated

    def mem_get_info(self, *_: Any) -> tuple[int, int]:
        return 0, 0

    def empty_cache(self) -> None:
        return

    def set_device(self, *_: Any) -> None:
        return


@_registry.register(platform="cpu")
@final
class PlatformCPU(_cuda):
    """The machine's own processors."""

    device_name = "cpu"
    vendor_name = "cpu"
    device_module = _CpuModule()

    def is_available(self) -> bool:
        """There is always one."""
        return True

    def is_platform_available(self, use_smi_check: bool = False) -> bool:
        """There is always one."""
        return True

    def current_device(self) -> str:
        """Name the device as `Tensor.to` takes it."""
        return "cpu"

    def set_device(self, device_index: int) -> None:
        """There is one."""

    def synchronize(self, device_index: int | None = None) -> None:
        """Nothing runs ahead."""

    def manual_seed(self, seed: int) -> None:
        """Seed torch."""
        torch.manual_seed(seed)

    manual_seed_all = manual_seed

    def empty_cache(self) -> None:
        """There is none."""

    def communication_backend_name(self) -> str:
        """Gloo."""
        return "gloo"

    def ray_resource_name(self) -> str:
        """Ray's own name."""
        return "CPU"
