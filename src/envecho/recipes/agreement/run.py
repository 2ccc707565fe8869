"""`envecho bench agreement`: the committed batch through the subjects that are asked for, and a table of the rows.

Not here: how a subject computes (`subjects`), and what is expected (`reference`).
"""

from __future__ import annotations

import dataclasses
import importlib
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from envecho.errors import ConfigError, DataError, did_you_mean
from envecho.extras import require_extra
from envecho.recipes.agreement.case import Setting, settings, write_model
from envecho.recipes.agreement.compare import Agreement, compare
from envecho.recipes.agreement.reference import Reference, reference

SUBJECTS: Final = ("local", "local_distributed", "trl", "verl", "skyrl", "tinker")
_WITH_EXTRA: Final = {"trl", "verl", "skyrl", "tinker"}
TOLERANCE: Final = 1e-5
"""Largest relative difference of a gradient in float32 to the float64 reference."""

_FORMAT: Final = "envecho.agreement"


def measure_agreement(subjects: Sequence[str], names: Sequence[str] = ()) -> dict[str, Any]:
    """Measure each subject on each setting (all without `names`) and return the document with its rows.

    Raises:
        ConfigError: a subject or setting is unknown, or the packages of a subject are absent.
    """
    for subject in subjects:
        if subject not in SUBJECTS:
            known = ", ".join(SUBJECTS)
            raise ConfigError(f"no subject {subject!r}; known: {known}.{did_you_mean(subject, SUBJECTS)}")
        if subject in _WITH_EXTRA:
            require_extra(subject)
    chosen = _settings(names)
    rows: list[Agreement] = []
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        model.mkdir()
        write_model(model)
        expected = {setting.name: reference(model, setting) for setting in chosen}
        for subject in subjects:
            rows += _measure(subject, chosen, expected, model=model, folder=Path(folder))
    return {"format": _FORMAT, "version": 1, "rows": [dataclasses.asdict(row) for row in rows]}


def rows_of(document: dict[str, Any], file: Path | None = None) -> list[Agreement]:
    """Return the rows of a document that `measure_agreement` made.

    Raises:
        DataError: it is of another format.
    """
    if document.get("format") != _FORMAT or document.get("version") != 1:
        raise DataError(f"expected format {_FORMAT} version 1", file=file)
    return [Agreement(**row) for row in document["rows"]]


def table(rows: Sequence[Agreement]) -> str:
    """Return the rows as Markdown."""
    lines = [
        "| through | processes | accumulation | setting | loss | effective lambda | loss differs | env CE differs"
        " | gradient differs |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [
            row.subject,
            str(row.processes),
            str(row.accumulation),
            row.setting,
            "" if row.loss is None else f"{row.loss:.6f}",
            "" if row.effective_lambda is None else f"{row.effective_lambda:.4f}",
            _power(row.loss_difference),
            _power(row.env_ce_difference),
            _power(row.gradient_difference),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def summary(rows: Sequence[Agreement]) -> str:
    """Return one line for each subject and cut: how many settings, and the largest difference of each kind."""
    lines = [
        "| through | processes | accumulation | settings | loss differs | env CE differs | effective lambda differs"
        " | gradient differs |",
        "|---|---|---|---|---|---|---|---|",
    ]
    cuts = dict.fromkeys((row.subject, row.processes, row.accumulation) for row in rows)
    for subject, processes, accumulation in cuts:
        mine = [r for r in rows if (r.subject, r.processes, r.accumulation) == (subject, processes, accumulation)]
        worst = [
            _power(
                max((value for row in mine if (value := getattr(row, f"{kind}_difference")) is not None), default=None)
            )
            for kind in ("loss", "env_ce", "lambda", "gradient")
        ]
        cells = [f"`{subject}`", str(processes), str(accumulation), str(len({row.setting for row in mine})), *worst]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def failures(rows: Sequence[Agreement]) -> list[Agreement]:
    """The rows whose gradient is further from the reference than it may be; a note excuses nothing."""
    return [row for row in rows if not (row.gradient_difference or 0.0) <= TOLERANCE]


def _settings(names: Sequence[str]) -> list[Setting]:
    known = {setting.name: setting for setting in settings()}
    for name in names:
        if name not in known:
            raise ConfigError(f"no setting {name!r}; known: {', '.join(known)}.{did_you_mean(name, known)}")
    return [setting for name, setting in known.items() if not names or name in names]


def _measure(
    subject: str, chosen: Sequence[Setting], expected: dict[str, Reference], *, model: Path, folder: Path
) -> list[Agreement]:
    module = importlib.import_module(f"envecho.recipes.agreement.subjects.{subject}")
    rows: list[Agreement] = []
    for setting in chosen:
        work = folder / f"{subject}-{setting.name}"
        work.mkdir()
        found = module.measure(model, setting, work)
        versions = {package: version(package) for package in module.PACKAGES}
        rows += [compare(subject, setting, expected[setting.name], one, versions) for one in found]
    return rows


def _power(value: float | None) -> str:
    if value is None:
        return ""
    return "0" if value == 0 else f"{value:.0e}".replace("e-0", "e-")
