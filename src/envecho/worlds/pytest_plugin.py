"""pytest plug-in: every check of a world is a test item of its own.

    pytest --envecho-world my_package.worlds:make_world --envecho-action ls --envecho-action "answer: 3"

or, in a test file,

    @pytest.mark.envecho_world(make_world, actions=["ls", "answer: 3"])
    def test_my_world(envecho_check):
        envecho_check()

It is loaded in every run of pytest where envecho is installed, so that it imports nothing of ours until a world is
named: neither seconds nor the import hooks of other plug-ins are spent. Not here: the checks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from envecho.worlds.check_report import WorldCheck

_MARK = "envecho_world"
_FIXTURE = "envecho_check"

Run = Callable[[], "WorldCheck"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("envecho", "checks of worlds")
    group.addoption(
        "--envecho-world",
        metavar="WORLD",
        help="Check this world, one item for each check: module:factory, a name, a URL or a folder, as in --world.",
    )
    group.addoption(
        "--envecho-action",
        metavar="TEXT",
        action="append",
        default=[],
        help="An action that the world understands; may be given again. Without any the world's own scripts say some.",
    )
    group.addoption("--envecho-slow-action", metavar="TEXT", help="An action that takes longer than a second.")
    group.addoption(
        "--envecho-max-turns", metavar="N", type=int, help="After how many actions an episode ends, whatever they are."
    )


def pytest_configure(config: pytest.Config) -> None:
    """Describe the mark."""
    config.addinivalue_line(
        "markers",
        f"{_MARK}(factory, *, actions, seeds, slow_action, expectations): checks of the worlds that a factory makes, "
        f"one item each, for a test that takes the fixture {_FIXTURE}; see envecho.worlds.check_world.",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one item of a test for each check of the world that its mark names."""
    if _FIXTURE not in metafunc.fixturenames:
        return
    mark = metafunc.definition.get_closest_marker(_MARK)
    if mark is None or len(mark.args) != 1:
        raise pytest.UsageError(
            f"{metafunc.definition.nodeid}: {_FIXTURE} needs the mark @pytest.mark.{_MARK}(factory, actions=[...])"
        )
    runs = _marked_runs(mark.args[0], mark.kwargs)
    metafunc.parametrize(_FIXTURE, [pytest.param(run, id=name) for name, run in runs.items()], indirect=True)


@pytest.fixture
def envecho_check(request: pytest.FixtureRequest) -> Callable[[], None]:
    """Run the check of this item; it fails or skips the test as the check ended."""
    return partial(_settle, request.param)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add the items of `--envecho-world`, before `-k` and `-m` choose."""
    world = config.getoption("--envecho-world")
    if world:
        parent = _World.from_parent(session, name=world, nodeid=f"envecho-world[{world}]")
        items.extend(parent.collect())


class _World(pytest.Collector):
    """The world of the command line."""

    def collect(self) -> list[_Check]:
        from envecho.errors import EnvechoError

        chosen: Any = self.config.getoption
        try:
            runs = _named_runs(
                self.name,
                actions=tuple(chosen("--envecho-action")),
                slow_action=chosen("--envecho-slow-action"),
                max_turns=chosen("--envecho-max-turns"),
            )
        except EnvechoError as error:
            raise pytest.UsageError(f"--envecho-world {self.name}: {error}") from error
        return [_Check.from_parent(self, name=name, run=run) for name, run in runs.items()]


class _Check(pytest.Item):
    """One check as an item."""

    def __init__(self, *, run: Run, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._run = run
        self.add_marker(_MARK)

    def runtest(self) -> None:
        """Run the check."""
        _settle(self._run)

    def reportinfo(self) -> tuple[str, None, str]:
        """Return where the check stands."""
        return self.nodeid, None, self.nodeid

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Return the check's own words, without a traceback through the kit."""
        if isinstance(excinfo.value, pytest.fail.Exception):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)


def _settle(run: Run) -> None:
    check = run()
    if check.status == "skipped":
        pytest.skip(check.message)
    if check.status == "failed":
        pytest.fail(f"{check.name}: {check.message}", pytrace=False)


def _marked_runs(factory: Any, options: Mapping[str, Any]) -> dict[str, Run]:
    """The checks of a world of a test file, by name."""
    from envecho.worlds.check import CHECKS, subject_of
    from envecho.worlds.check_report import run_check

    subject = subject_of(factory, **options)
    return {name: partial(run_check, name, check, subject) for name, check in CHECKS.items()}


def _named_runs(
    world: str, *, actions: tuple[str, ...], slow_action: str | None, max_turns: int | None
) -> dict[str, Run]:
    """The checks of a named world and of its suite, by name."""
    from envecho.worlds.check import CHECKS
    from envecho.worlds.check_named import CheckPlan, open_checked, suite_subject, world_subject
    from envecho.worlds.check_report import run_check
    from envecho.worlds.check_task_suite import SUITE_CHECKS
    from envecho.worlds.options import SuiteOptions

    plan, options = CheckPlan(actions=actions, slow_action=slow_action, max_turns=max_turns), SuiteOptions()
    suite = open_checked(world, plan, options)
    subject, tasks = world_subject(suite, plan, options), suite_subject(suite, plan)
    runs: dict[str, Run] = {name: partial(run_check, name, check, subject) for name, check in CHECKS.items()}
    return runs | {name: partial(run_check, name, check, tasks) for name, check in SUITE_CHECKS.items()}
