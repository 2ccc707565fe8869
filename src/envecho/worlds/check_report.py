"""What a check of a world or a suite found. Not here: the checks (`check`, `check_suite`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from envecho.errors import WorldError

Subject = TypeVar("Subject")


@dataclass(frozen=True, kw_only=True)
class WorldCheck:
    """One named check: passed, failed with a message, or skipped with the reason."""

    name: str
    status: Literal["passed", "failed", "skipped"]
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class WorldReport:
    """All checks of one world, in order."""

    checks: tuple[WorldCheck, ...]

    @property
    def passed(self) -> bool:
        """True where no check failed."""
        return not self.failures

    @property
    def failures(self) -> tuple[WorldCheck, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.status == "failed")

    def __str__(self) -> str:
        """One line per check."""
        return "\n".join(f"{c.status:8}{c.name}{f': {c.message}' if c.message else ''}" for c in self.checks)

    def as_json(self) -> list[dict[str, Any]]:
        """Return the checks as JSON values."""
        return [{"name": c.name, "status": c.status, "message": c.message} for c in self.checks]

    def raise_failures(self, what: str) -> None:
        """Raise WorldError with the whole report where a check failed."""
        if not self.passed:
            raise WorldError(f"{what} breaks its contract:\n{self}")


class FailedCheck(Exception):
    """What a check expected and what it found."""


class SkippedCheck(Exception):
    """Why a check says nothing here."""


def run_check(name: str, check: Callable[[Subject], None], subject: Subject) -> WorldCheck:
    """Run one check and report how it ended."""
    try:
        check(subject)
    except SkippedCheck as reason:
        return WorldCheck(name=name, status="skipped", message=str(reason))
    except FailedCheck as failure:
        return WorldCheck(name=name, status="failed", message=str(failure))
    except Exception as error:  # a world under test may raise anything; that is a finding
        return WorldCheck(name=name, status="failed", message=f"raised {type(error).__name__}: {error}")
    return WorldCheck(name=name, status="passed")


def run_checks(checks: Mapping[str, Callable[[Subject], None]], subject: Subject) -> WorldReport:
    """Run all checks, in order."""
    return WorldReport(checks=tuple(run_check(name, check, subject) for name, check in checks.items()))


def expect(condition: bool, message: str) -> None:
    """Fail the check with this message where the condition does not hold."""
    if not condition:
        raise FailedCheck(message)


def expect_kind(value: object, kind: type, what: str) -> None:
    """Fail the check where a value is of another type."""
    expect(isinstance(value, kind), f"{what} is {type(value).__name__}, expected {kind.__name__}")
