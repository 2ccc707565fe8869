"""An environment whose own package is installed is talked to by its own client."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PACKAGE = """
from openenv.core.client_types import StepResult
from openenv.core.env_client import EnvClient
from openenv.core.env_server.types import Action, Observation, State


class {action}(Action):
    code: str


class CodeObservation(Observation):
    stdout: str = ""
    stderr: str = ""
    exit_code: int = 0


class CodingEnv(EnvClient):
    def _step_payload(self, action):
        assert isinstance(action, {action}), type(action)
        return {{"code": f"typed {{action.code}}"}}

    def _parse_result(self, payload):
        fields = payload["observation"]
        observation = CodeObservation(**fields, done=payload["done"], reward=payload["reward"])
        return StepResult(observation=observation, reward=payload["reward"], done=payload["done"])

    def _parse_state(self, payload):
        return State(**payload)
"""

PLAY = """
import sys
from envecho.worlds.openenv.suite import open_openenv
from envecho.worlds.options import SuiteOptions
from pathlib import Path
own = Path(sys.argv[2]) if len(sys.argv) > 2 else None
world = open_openenv(sys.argv[1] + "/coding_env", SuiteOptions(world_map=own)).make_world("train", 0)
world.reset()
for action in ("a", '{"code": "b"}'):
    print(*[f"{segment.source.value}={segment.text!r}" for segment in world.step(action).segments])
world.close()
"""


def play(url: str, packages: Path, *arguments: str, action: str = "CodingAction") -> subprocess.CompletedProcess[str]:
    """Play an episode in a process that has the package of `coding_env` installed."""
    module = packages / "coding_env"
    module.mkdir(exist_ok=True)
    (module / "__init__.py").touch()
    (module / "client.py").write_text(PACKAGE.format(action=action))
    installed = packages / "openenv_coding_env-0.1.dist-info"
    installed.mkdir(exist_ok=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: openenv-coding-env\nVersion: 0.1\n")
    return subprocess.run(
        [sys.executable, "-c", PLAY, url, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PYTHONPATH": str(packages), "PATH": "/usr/bin:/bin", "HOME": str(packages), "TMPDIR": str(packages)},
    )


def test_the_client_of_an_installed_package_is_used(url: str, tmp_path: Path):
    """Catches a typed client that is found and not used, or whose observations are not read as dicts are."""
    done = play(url, tmp_path)
    assert done.stdout.splitlines() == ["stdout=\"ran 'typed a'\\n\"", "stdout=\"ran 'typed b'\\n\""], done.stderr


def test_a_map_may_do_without_it(url: str, tmp_path: Path):
    """Catches an installed package that nobody can switch off."""
    own = tmp_path / "own.toml"
    own.write_text('extends = "coding_env"\n[connection]\nclient = "generic"\n')
    done = play(url, tmp_path, str(own))
    assert done.stdout.splitlines() == ["stdout=\"ran 'a'\\n\"", "stdout=\"ran 'b'\\n\""], done.stderr


def test_a_broken_package_says_how_to_do_without_it(url: str, tmp_path: Path):
    """Catches an ImportError of somebody else's package as all that is said."""
    done = play(url, tmp_path, action="OtherAction")
    assert 'client = "generic"' in done.stderr
    assert "ConfigError" in done.stderr
