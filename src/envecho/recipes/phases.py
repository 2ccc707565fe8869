"""A clock for the phases of a job: seconds and peak memory of each, held against a stated budget.

Not here: what the phases do.
"""

from __future__ import annotations

import re
import resource
import sys
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class PhaseBudget:
    """What a phase may cost on two cores: seconds where the processor computes in bf16, and bytes of memory."""

    seconds: float
    peak_memory_bytes: int


@dataclass(frozen=True, kw_only=True)
class PhaseCost:
    """What a phase did cost: wall seconds, and the process's peak resident memory up to its end, in bytes."""

    seconds: float
    peak_memory_bytes: int


@dataclass(kw_only=True)
class PhaseClock:
    """Measures named phases; `costs` is in the order in which they ran."""

    costs: dict[str, PhaseCost] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    @contextmanager
    def phase(self, name: str) -> Generator[None]:
        """Measure the block under this name."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.costs[name] = PhaseCost(seconds=time.monotonic() - start, peak_memory_bytes=peak_memory_bytes())

    @property
    def wall_seconds(self) -> float:
        """Seconds since the clock was made."""
        return time.monotonic() - self.started

    def over_budget(self, budgets: Mapping[str, PhaseBudget]) -> list[str]:
        """Return one line for each phase that cost more than its budget."""
        lines: list[str] = []
        for name, cost in self.costs.items():
            budget = budgets.get(name)
            if budget is not None and cost.seconds > budget.seconds:
                lines.append(f"{name} took {cost.seconds:.0f} s, its budget is {budget.seconds:.0f} s")
            if budget is not None and cost.peak_memory_bytes > budget.peak_memory_bytes:
                used, allowed = cost.peak_memory_bytes / 1e9, budget.peak_memory_bytes / 1e9
                lines.append(f"{name} peaked at {used:.1f} GB, its budget is {allowed:.1f} GB")
        return lines


def peak_memory_bytes() -> int:
    """Return this process's peak resident memory in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        match = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        if match:
            return int(match.group(1)) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
