"""`check_world`: the contract of a world as checks with names, for our worlds and for yours.

Every check says what it expected and what it found. Nothing is raised unless asked for. Not here: worlds, and suites of
tasks (`check_suite`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from envecho.seam import World
from envecho.worlds.check_calls import CALL_CHECKS
from envecho.worlds.check_contract import CONTRACT_CHECKS
from envecho.worlds.check_limits import LIMIT_CHECKS
from envecho.worlds.check_report import WorldReport, run_checks
from envecho.worlds.check_subject import Expectations, Subject
from envecho.worlds.check_words import WORD_CHECKS

CHECKS: Final[Mapping[str, Callable[[Subject], None]]] = {
    **CONTRACT_CHECKS,
    **WORD_CHECKS,
    **LIMIT_CHECKS,
    **CALL_CHECKS,
}
"""All checks of a world by name, in the order in which they are run."""


def check_world(
    world_or_factory: World | Callable[[], World],
    *,
    actions: Sequence[str],
    seeds: Sequence[int] = (0, 1),
    slow_action: str | None = None,
    expectations: Expectations | None = None,
    raise_on_failure: bool = False,
) -> WorldReport:
    """Run every check of the World contract and report each by name.

    Args:
        world_or_factory: a world, or better a function that makes one (a class): independence needs two.
        actions: actions whose answers depend on nothing but the seed and the actions before.
        seeds: at least one seed; with two or more, independence of instances is checked on different episodes.
        slow_action: an action that takes longer than a second, to check timeouts; without it they are skipped.
        expectations: what the world promises beside its contract.
        raise_on_failure: raise WorldError with the report where a check failed.

    Raises:
        ValueError: no actions or no seeds.
        WorldError: a check failed and `raise_on_failure` is set.
    """
    single = (
        world_or_factory if isinstance(world_or_factory, World) and not isinstance(world_or_factory, type) else None
    )
    subject = subject_of(
        (lambda: single) if single is not None else world_or_factory,  # type: ignore[arg-type]
        many=single is None,
        actions=actions,
        seeds=seeds,
        slow_action=slow_action,
        expectations=expectations,
    )
    report = run_checks(CHECKS, subject)
    if single is not None:
        single.close()
    if raise_on_failure:
        report.raise_failures("the world")
    return report


def subject_of(
    make: Callable[[], World],
    *,
    actions: Sequence[str],
    seeds: Sequence[int] = (0, 1),
    slow_action: str | None = None,
    expectations: Expectations | None = None,
    many: bool = True,
) -> Subject:
    """Return what the checks are run on, for a caller who runs them one at a time.

    Raises:
        ValueError: no actions or no seeds.
    """
    if not actions or not seeds:
        raise ValueError("check_world needs at least one action and one seed")
    return Subject(
        make=make,
        many=many,
        actions=tuple(actions),
        seeds=tuple(seeds),
        slow_action=slow_action,
        expectations=expectations or Expectations(),
    )
