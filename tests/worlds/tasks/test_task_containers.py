"""Tasks in containers: all that is ours, over a container that is a sandbox; Harbor's own providers were never run."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Iterator, Mapping
from types import SimpleNamespace

import pytest

from envecho.errors import ConfigError
from envecho.trajectory import Source
from envecho.worlds import check_world
from envecho.worlds.options import SuiteOptions
from envecho.worlds.sandbox_files import BoxFile, pack
from envecho.worlds.sandbox_layout import rooted_layout
from envecho.worlds.tasks import HarborTask, HarborTaskSuite, HarborTaskWorld, open_tasks, read_task
from envecho.worlds.tasks.containers import ContainerPlace, Executed
from envecho.worlds.terminal import TerminalSession


class SandboxContainer:
    """Does what a container does, in a sandbox: each command in a shell of its own, in a given folder."""

    def __init__(self) -> None:
        layout = rooted_layout("/app", writable=("/app", "/logs", "/tests"), environment={})
        self._session = TerminalSession(SimpleNamespace(seed=1, files={"app": BoxFile()}), layout=layout)

    def execute(self, command: str, *, folder: str | None, seconds: float, env: Mapping[str, str]) -> Executed:
        variables = " ".join(f"{name}={shlex.quote(value)}" for name, value in env.items())
        script = f"cd {folder or '/app'} && env {variables} bash -c {shlex.quote(command)}"
        result = self._session.run(script, seconds)
        return Executed(stdout=result.stdout, stderr=result.stderr, status=result.exit_status)

    def upload(self, files: Mapping[str, BoxFile], target: str) -> None:
        archive = base64.b64encode(pack(files, prefix="")).decode()
        self._session.run(f"echo {archive} | base64 -d | tar -x -f - -C {target}")

    def close(self) -> None:
        self._session.close()


def place(task: HarborTask) -> ContainerPlace:
    return ContainerPlace(task, SandboxContainer())


@pytest.fixture
def world(write_task) -> Iterator[HarborTaskWorld]:
    made = HarborTaskWorld(read_task(write_task()), open_place=place)
    yield made
    made.close()


def test_a_task_in_a_container_is_solved_and_graded(world: HarborTaskWorld):
    """Catches a verifier that is not brought into the container, or whose reward is not read."""
    for answer, reward in (("yes", 1.0), ("no", 0.0)):
        assert world.reset().metadata["folder"] == "/app"
        world.step(f"echo {answer} >answer.txt")
        end = world.step("done")
        assert (end.done, end.reward, end.metadata["verifier_problem"]) == (True, reward, None)


def test_the_folder_is_kept_from_command_to_command_and_output_is_exact(world: HarborTaskWorld):
    """Catches commands that always start in the first folder, and a mark of ours in what the policy sees."""
    world.reset()
    world.step("mkdir -p deep/er && cd deep/er")
    for command, said in (("pwd", "/app/deep/er\n"), ("printf x", "x"), ("true", ""), ("echo 'a\n\nb'", "a\n\nb\n")):
        assert "".join(segment.text for segment in world.step(command).segments) == said
    failed = world.step("echo out; echo err >&2; exit 7")
    assert [segment.source for segment in failed.segments] == [Source.STDOUT, Source.STDERR, Source.STATUS]
    assert failed.metadata["exit_status"] == 7


def test_a_container_world_keeps_the_contract(write_task):
    """Catches a place that the loop cannot drive as it drives the sandbox."""
    task = read_task(write_task())
    report = check_world(
        lambda: HarborTaskWorld(task, open_place=place), actions=["pwd", "ls", "done"], slow_action="sleep 30"
    )
    assert report.passed, str(report)


def test_tasks_that_need_an_image_are_not_refused_in_containers(write_task, tmp_path):
    """Catches a suite that drops the tasks for which containers are there."""
    write_task({"environment/Dockerfile": "FROM nginx\nWORKDIR /app\n"})
    suite = HarborTaskSuite(tmp_path / "tasks", open_place=place)
    assert (suite.runnable, dict(suite.refused)) == (("small",), {})


def test_containers_without_harbor_are_refused_at_the_start(write_task, tmp_path):
    """Catches an ImportError in the middle of a collection."""
    write_task()
    with pytest.raises(ConfigError, match=r"sandbox harbor:docker needs Harbor, which is not installed"):
        open_tasks(tmp_path / "tasks", SuiteOptions(sandbox="harbor:docker"))
