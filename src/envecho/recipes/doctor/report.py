"""`DoctorReport`: everything that was found in a file, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from envecho.recipes.doctor.cost import Cost
from envecho.recipes.doctor.findings import Finding, Level

REPORT_FORMAT: Final = "envecho.doctor"
REPORT_VERSION: Final = 1


@dataclass(frozen=True, kw_only=True)
class DoctorReport:
    """The findings of a file, worst first, and what a run over it costs.

    `volatile` counts volatile stretches by kind; `volatile_share` is their share of the characters of role env_output.
    """

    file: str
    model: str
    max_tokens: int
    num_trajectories: int
    findings: tuple[Finding, ...]
    volatile: dict[str, int]
    volatile_share: float
    cost: Cost

    @property
    def has_errors(self) -> bool:
        """Whether a finding is an error."""
        return any(finding.level is Level.ERROR for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        """Return plain values, with format and version."""
        return {
            "format": REPORT_FORMAT,
            "version": REPORT_VERSION,
            **vars(self),
            "findings": [finding.as_json() for finding in self.findings],
            "cost": self.cost.as_json(),
        }
