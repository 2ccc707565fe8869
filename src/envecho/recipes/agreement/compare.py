"""What a subject measured against the reference: one row of the table, as JSON and as Markdown.

Not here: how a subject measures (`subjects`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from envecho.errors import DataError
from envecho.recipes.agreement.case import Setting
from envecho.recipes.agreement.reference import Reference


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a subject came to on a setting; None where its API does not tell it.

    `gradient` has the Hugging Face model's parameter names; parameters that get no gradient may be left out.
    `env_ce` is the figure that the subject logs. `processes` and `accumulation` say how the step was cut.
    """

    loss: float | None
    env_ce: float | None
    effective_lambda: float | None
    gradient: Mapping[str, NDArray[np.floating]] | None
    processes: int = 1
    accumulation: int = 1
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """One row: differences are relative, `|found - expected| / |expected|`; of the gradient in the L2 norm."""

    subject: str
    versions: Mapping[str, str]
    setting: str
    processes: int
    accumulation: int
    loss: float | None
    loss_difference: float | None
    env_ce_difference: float | None
    effective_lambda: float | None
    lambda_difference: float | None
    gradient_difference: float | None
    note: str = ""


def compare(
    subject: str, setting: Setting, expected: Reference, found: Measured, versions: Mapping[str, str]
) -> Agreement:
    """Return the row of one measurement."""
    return Agreement(
        subject=subject,
        versions=dict(versions),
        setting=setting.name,
        processes=found.processes,
        accumulation=found.accumulation,
        loss=found.loss,
        loss_difference=_relative(found.loss, expected.loss),
        env_ce_difference=_relative(found.env_ce, expected.env_ce),
        effective_lambda=found.effective_lambda,
        lambda_difference=_relative(found.effective_lambda, expected.effective_lambda),
        gradient_difference=None if found.gradient is None else _gradients(found.gradient, expected.gradient),
        note=found.note,
    )


def _gradients(found: Mapping[str, NDArray[np.floating]], expected: Mapping[str, NDArray[np.float64]]) -> float:
    unknown = found.keys() - expected.keys()
    if unknown:
        raise DataError(f"the subject names parameters that the model lacks: {', '.join(sorted(unknown)[:3])}")
    difference = sum(
        float(np.square(np.asarray(found[n], dtype=np.float64) - g).sum()) if n in found else float(np.square(g).sum())
        for n, g in expected.items()
    )
    return (difference / sum(float(np.square(g).sum()) for g in expected.values())) ** 0.5


def _relative(found: float | None, expected: float | None) -> float | None:
    if found is None or expected is None:
        return None
    return abs(found - expected) / abs(expected) if expected else abs(found)
