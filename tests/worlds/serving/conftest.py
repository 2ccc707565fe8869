"""Servers that all tests of this folder share: each is started once, when the first test asks for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from world_server import EXAMPLE_TASKS, WorldServer


def _served(tmp_path_factory: pytest.TempPathFactory, *arguments: str) -> Iterator[WorldServer]:
    log: Path = tmp_path_factory.mktemp("server") / "log.txt"
    server = WorldServer(*arguments, log=log)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def terminal_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorldServer]:
    """The terminal world."""
    yield from _served(tmp_path_factory, "terminal", "--max-sessions", "40")


@pytest.fixture(scope="session")
def depot_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorldServer]:
    """The depot, in process on the server."""
    yield from _served(tmp_path_factory, "depot", "--max-turns", "2", "--max-sessions", "3")


@pytest.fixture(scope="session")
def counter_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorldServer]:
    """A world with tools."""
    yield from _served(tmp_path_factory, "served_worlds:CounterSuite", "--max-sessions", "8")


@pytest.fixture(scope="session")
def faulty_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorldServer]:
    """A world that fails."""
    yield from _served(tmp_path_factory, "served_worlds:FaultyWorld")


@pytest.fixture(scope="session")
def tools_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorldServer]:
    """The tool world."""
    yield from _served(tmp_path_factory, "tools")


@pytest.fixture(scope="session")
def tasks_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorldServer]:
    """A folder of tasks in Harbor's format."""
    yield from _served(tmp_path_factory, str(EXAMPLE_TASKS))
