"""What a bit-for-bit continuation depends on beside the checkpoint: libraries, processes, threads, processor.

Not here: what is done about a difference (`loop` warns).
"""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path

import torch

from envecho.engines.torchrun import world_size

_CPU_INFO = Path("/proc/cpuinfo")


def describe_machine() -> dict[str, str]:
    """Return names and values that must be equal for a resumed run to equal an uninterrupted one bit for bit."""
    libraries = {name: version(name) for name in ("torch", "transformers", "tokenizers", "numpy", "envecho")}
    means = {"processes": str(world_size()), "threads": str(torch.get_num_threads()), "processor": _processor()}
    return libraries | means


def _processor() -> str:
    if _CPU_INFO.is_file():
        for line in _CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
