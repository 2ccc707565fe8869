"""The pytest plug-in in fresh runs of pytest, and that it costs nothing where no world is named."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

LOADED = (
    []
    if any(entry.name == "envecho" for entry in entry_points(group="pytest11"))
    else ["-p", "envecho.worlds.pytest_plugin"]
)
"""An installed envecho brings the plug-in with it; a checkout that was installed before it had one does not."""

NUM_CHECKS, NUM_SUITE_CHECKS = 19, 7

WORLD = '''
from envecho.errors import WorldError
from envecho.seam import Observation
from envecho.trajectory import Segment, Source


class Counting:
    """Answers how many steps were taken, ends after three."""

    last = 3

    def __init__(self):
        self.count, self.running, self.episode = 0, False, ""

    def reset(self, seed=None, episode_id=None, **kwargs):
        self.count, self.running, self.episode = 0, True, episode_id or f"episode-of-{id(self)}"
        return Observation(segments=(Segment(source=Source.TASK, text=f"count from {seed}"),))

    def step(self, action, timeout_s=None):
        if not self.running:
            raise WorldError("not running")
        self.count += 1
        self.running = self.count < self.last
        return Observation(segments=(self.said(),), done=not self.running)

    def said(self):
        return Segment(source=Source.STDOUT, text=f"{self.count}\\n")

    @property
    def state(self):
        return {"episode_id": self.episode, "step_count": self.count}

    def close(self):
        self.running = False


class Empty(Counting):
    def said(self):
        return Segment(source=Source.STDOUT, text="")
'''


def run(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    """Run pytest in a fresh process beside `worlds.py`."""
    pytester.makepyfile(worlds=WORLD)
    return pytester.runpytest_subprocess(*LOADED, "-p", "no:cacheprovider", *arguments)


def test_every_check_of_a_named_world_is_an_item(pytester: pytest.Pytester):
    """Catches checks that hide in one item, so that one failure hides the next."""
    result = run(
        pytester, "--envecho-world", "worlds:Counting", "--envecho-action", "a", "--envecho-max-turns", "3", "-v"
    )
    result.stdout.fnmatch_lines(["*worlds:Counting*::reset states the task PASSED*"])
    result.stdout.fnmatch_lines(["*::a suite has its methods and a split train PASSED*"])
    outcomes = result.parseoutcomes()
    assert (outcomes["passed"], outcomes["skipped"]) == (NUM_CHECKS + NUM_SUITE_CHECKS - 6, 6)
    assert result.ret == 0


def test_a_broken_world_fails_with_the_words_of_the_check(pytester: pytest.Pytester):
    """Catches a failure that shows the kit's own frames and not what was found."""
    result = run(pytester, "--envecho-world", "worlds:Empty", "--envecho-action", "a")
    result.assert_outcomes(passed=NUM_CHECKS + NUM_SUITE_CHECKS - 8, failed=1, skipped=7)
    result.stdout.fnmatch_lines(["*sources tile the observation: step('a') has an empty segment of stdout*"])
    result.stdout.no_fnmatch_line("*check_words.py*")
    assert result.ret == 1


def test_marks_and_names_choose_among_the_checks(pytester: pytest.Pytester):
    """Catches items that `-k` and `-m` cannot see, after which a user's own tests run with every check."""
    pytester.makepyfile(test_mine="def test_mine(): pass")
    named = ("--envecho-world", "worlds:Counting", "--envecho-action", "a")
    run(pytester, *named, "-m", "envecho_world", "-k", "tile and sources").assert_outcomes(passed=1, deselected=26)


def test_a_world_that_does_not_exist_is_a_usage_error(pytester: pytest.Pytester):
    """Catches a traceback, or a green run of no check."""
    result = run(pytester, "--envecho-world", "worlds:Countnig")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "worlds has no 'Countnig'. Did you mean 'Counting'" in str(result.stderr) + str(result.stdout)


def test_a_mark_makes_an_item_of_each_check(pytester: pytest.Pytester):
    """Catches a fixture that runs one check, or runs without a world."""
    pytester.makepyfile(
        test_marked="""
        import pytest
        from envecho.worlds import Expectations
        from worlds import Counting, Empty

        @pytest.mark.envecho_world(Counting, actions=["a"], seeds=[1, 2], expectations=Expectations(max_turns=3))
        def test_good(envecho_check):
            envecho_check()

        @pytest.mark.envecho_world(Empty, actions=["a"])
        def test_broken(envecho_check):
            envecho_check()
        """
    )
    result = run(pytester, "-v")
    result.stdout.fnmatch_lines(["*test_good?max_turns end the episode? PASSED*"])
    result.stdout.fnmatch_lines(["*test_broken?sources tile the observation? FAILED*"])
    result.assert_outcomes(passed=2 * NUM_CHECKS - 10, failed=1, skipped=9)


def test_a_fixture_without_its_mark_is_a_usage_error(pytester: pytest.Pytester):
    """Catches a test that passes because there was nothing to check."""
    pytester.makepyfile(test_unmarked="def test_it(envecho_check): envecho_check()")
    result = run(pytester)
    assert result.ret != 0
    assert "needs the mark @pytest.mark.envecho_world(factory" in str(result.stdout) + str(result.stderr)


def test_the_plug_in_loads_nothing_of_ours(tmp_path: Path):
    """Catches seconds in front of every run of pytest, and import hooks of others that come too late."""
    code = "import sys, envecho.worlds.pytest_plugin; print(*sorted(m for m in sys.modules if m.startswith('envecho')))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.split() == ["envecho", "envecho.worlds", "envecho.worlds.pytest_plugin"], done.stderr


def test_the_import_hook_of_jaxtyping_still_finds_our_losses_unloaded(pytester: pytest.Pytester):
    """Catches a plug-in that imports `envecho.losses` first: jaxtyping then refuses to start, or checks nothing."""
    pytester.makepyfile(test_hook="def test_it(): pass")
    result = run(pytester, "--jaxtyping-packages=envecho.losses,beartype.beartype")
    result.assert_outcomes(passed=1)
