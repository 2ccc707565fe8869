"""`check_engine`: the optimizer seam as checks with names, for our engines and for yours.

Each check drives an engine through `envecho.seam.Engine` alone and says what it expected and what it found. What the
engine lacks by its own word is skipped, with its reason. The engine is trained a few steps on random tokens, so give it
weights that nobody needs. Not here: any engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from envecho.engines import check_policy, check_state, check_sums
from envecho.engines.check_subject import Check, CheckFailed, Subject
from envecho.errors import ConfigError, EngineError, EnvechoError, did_you_mean
from envecho.seam import Engine

_CHECKS: tuple[Check, ...] = (*check_sums.CHECKS, *check_policy.CHECKS, *check_state.CHECKS)


@dataclass(frozen=True, kw_only=True)
class EngineCheck:
    """One named check: passed, failed with a message, or skipped with the engine's own reason."""

    name: str
    status: Literal["passed", "failed", "skipped"]
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class EngineReport:
    """All checks of one engine, in order."""

    checks: tuple[EngineCheck, ...]

    @property
    def failures(self) -> tuple[EngineCheck, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.status == "failed")

    def __str__(self) -> str:
        """One line per check."""
        return "\n".join(f"{c.status:8}{c.name}{f': {c.message}' if c.message else ''}" for c in self.checks)


def check_names() -> tuple[str, ...]:
    """The names of all checks, in the order in which they run."""
    return tuple(check.name for check in _CHECKS)


def check_engine(
    engine: Engine,
    folder: Path,
    *,
    vocab_size: int,
    tolerance: float = 1e-4,
    only: tuple[str, ...] = (),
    raise_on_failure: bool = False,
) -> EngineReport:
    """Run every check of the seam on a training engine and report each by name.

    A check passes, fails, or is skipped where `capabilities.lacks` names an ability that it needs.

    Args:
        engine: an engine that trains and samples.
        folder: an empty folder for its state.
        vocab_size: random tokens are drawn below this.
        tolerance: agreement of two ways to compute one log-prob, norm or loss (about 6e-2 for bfloat16).
        only: names of the checks to run; empty for all of them (`check_names`).
        raise_on_failure: raise EngineError with the report where a check failed.

    Raises:
        ConfigError: `only` holds a name that no check has.
        EngineError: a check failed, and `raise_on_failure` was set.
    """
    for name in only:
        if name not in check_names():
            raise ConfigError(f"no check is named {name!r}.{did_you_mean(name, check_names())}")
    start = folder / "start"
    start.mkdir()
    engine.save_state(start)
    subject = Subject(engine, start, vocab_size=vocab_size, tolerance=tolerance)
    report = EngineReport(checks=tuple(_run(check, subject) for check in _CHECKS if not only or check.name in only))
    subject.reset()
    if raise_on_failure and report.failures:
        raise EngineError(f"the engine breaks the seam's contract:\n{report}")
    return report


def _run(check: Check, subject: Subject) -> EngineCheck:
    lacks = subject.engine.capabilities.lacks
    reasons = [f"{ability}: {lacks[ability]}" for ability in check.needs if ability in lacks]
    if reasons:
        return EngineCheck(name=check.name, status="skipped", message="; ".join(reasons))
    try:
        subject.reset()
        check.run(subject)
    except (CheckFailed, EnvechoError) as error:
        return EngineCheck(name=check.name, status="failed", message=str(error))
    return EngineCheck(name=check.name, status="passed")
