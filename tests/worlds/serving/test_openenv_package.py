"""The files by which OpenEnv's tools build and judge a served world, and OpenEnv's own judge on a running one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml
from world_server import WorldServer

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from openenv.cli._validation import validate_running_environment
    from openenv.validation.runner import run_validation
    from openenv.validation.types import Level

ROOT = Path(__file__).parents[3]


def test_openenv_accepts_the_package(tmp_path: Path):
    """Catches a manifest that OpenEnv's tools refuse."""
    shutil.copy(ROOT / "openenv.yaml", tmp_path)
    report: Any = run_validation(tmp_path, max_level=Level.STATIC, skip_build=True)
    assert report.verdict.value == "pass", report
    assert {result.check_id for result in report.results} >= {"static.manifest"}


@pytest.mark.parametrize("server", ["terminal_server", "counter_server"])
def test_openenv_accepts_a_running_server(server: str, request: pytest.FixtureRequest):
    """Catches a route or a schema that a runnable OpenEnv environment must have."""
    running: WorldServer = request.getfixturevalue(server)
    report = validate_running_environment(running.url, timeout_s=10)
    failed = [criterion for criterion in report["criteria"] if not criterion["passed"]]
    assert (report["passed"], failed) == (True, [])


def test_the_package_states_the_version_of_the_project():
    """Catches a release whose package for OpenEnv still bears the old number."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert yaml.safe_load((ROOT / "openenv.yaml").read_text())["version"] == project["version"]


def test_what_the_image_copies_exists_and_is_sent_to_the_build():
    """Catches a build that fails at COPY, by a path that moved or that .dockerignore keeps back."""
    copied = re.findall(r"^COPY (?:--\S+ )?(.+) \S+$", (ROOT / "docker" / "Dockerfile").read_text(), re.MULTILINE)
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    names = {name for line in copied for name in line.split()}
    assert names == sent
    assert all((ROOT / name).exists() for name in names)


def test_the_image_installs_what_the_project_asks_for():
    """Catches a requirement of the image that asks for less than the project, or for torch."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    known = {*project["dependencies"], *project["optional-dependencies"]["openenv"]}
    lines = (ROOT / "docker" / "requirements.txt").read_text().splitlines()
    wanted = {line for line in lines if line and not line.startswith("#")}
    assert wanted <= known
    assert not any(line.startswith("torch") for line in wanted)


def test_the_image_s_app_serves_what_its_variables_say():
    """Catches an image that serves its default world whatever it is told, or a wrong variable that is overlooked."""
    code = (
        "from envecho.worlds.openenv.server_app import app\n"
        "served = app.state.served\n"
        "print(served.suite.name, served.split, served.suite.task_id('train', 1))\n"
    )

    def start(**variables: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, **variables}
        return subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
        )

    told = start(ENVECHO_WORLD="terminal", ENVECHO_SPLIT="new_boxes", ENVECHO_FAMILIES="top_customer").stdout.split()
    assert told == ["terminal", "new_boxes", "terminal/top_customer/box-1/0"]
    wrong = start(ENVECHO_WORLD="depot", ENVECHO_MAX_TURNS="many")
    assert "ENVECHO_MAX_TURNS is 'many', expected a positive number" in wrong.stderr
