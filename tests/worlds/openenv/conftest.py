"""One server for all tests of this folder, in a thread: importing openenv takes seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from envecho.seam import World
from envecho.worlds.openenv.suite import OpenEnvSuite, open_openenv
from envecho.worlds.options import SuiteOptions


@pytest.fixture(scope="session")
def url() -> Iterator[str]:
    """The URL below which the environments lie: `{url}/coding_env`."""
    from openenv_server import make_app, serve

    with serve(make_app()) as address:
        yield address


@pytest.fixture
def suite(url: str, tmp_path: Path) -> Callable[..., OpenEnvSuite]:
    """Open an environment of the server, by a map given as TOML where there is one."""

    def opened(name: str, *, toml: str | None = None, rubric: str | None = None, max_turns: int = 4) -> OpenEnvSuite:
        world_map = None
        if toml is not None:
            world_map = tmp_path / "map.toml"
            world_map.write_text(toml)
        options = SuiteOptions(world_map=world_map, max_turns=max_turns, rubric=rubric)
        made = open_openenv(f"{url}/{name}", options)
        assert isinstance(made, OpenEnvSuite)
        return made

    return opened


@pytest.fixture
def start(suite: Callable[..., OpenEnvSuite]) -> Iterator[Callable[..., World]]:
    """Make the world of a task; all are closed in the end."""
    worlds: list[World] = []

    def made(name: str, number: int = 0, *, split: str = "train", **options: object) -> World:
        worlds.append(suite(name, **options).make_world(split, number))
        return worlds[-1]

    yield made
    for world in worlds:
        world.close()
