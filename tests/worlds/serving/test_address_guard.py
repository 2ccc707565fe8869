"""Who may reach a served world: other machines only by an explicit word, and no page in a browser."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import warnings

import pytest
from click.testing import CliRunner
from world_server import WorldServer

from envecho.cli.serve import command
from envecho.errors import ConfigError
from envecho.worlds.openenv.server_run import require_loopback

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import requests
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7"])
def test_an_address_of_other_machines_is_refused_before_anything_is_opened(host: str):
    """Catches a world, which runs what models write, that everybody in the network can use."""
    result = CliRunner().invoke(command, ["terminal", "--host", host])
    assert isinstance(result.exception, ConfigError)
    for words in ("other machines", "no authentication", "commands that models write", "--public"):
        assert words in str(result.exception)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_an_address_of_this_machine_is_taken(host: str):
    """Catches a check that compares with one spelling."""
    require_loopback(host, public=False)


def test_public_allows_any_address():
    """Catches a word that is asked for and does not help."""
    require_loopback("0.0.0.0", public=True)


def test_a_name_without_an_address_is_refused():
    """Catches a traceback of the resolver."""
    with pytest.raises(ConfigError, match="no address is named"):
        require_loopback("no.such.host.invalid", public=False)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Host": "evil.example"}, 403),
        ({"Host": "evil.example", "Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "["}, 403),
        ({"Host": ""}, 403),
        ({"Host": "localhost"}, 200),
    ],
)
def test_pages_of_other_sites_are_refused(depot_server: WorldServer, headers: dict[str, str], status: int):
    """Catches a page in this machine's browser that plays a local server, also by a name that leads to 127.0.0.1."""
    assert requests.get(f"{depot_server.url}/health", headers=headers, timeout=10).status_code == status


def test_a_page_of_another_site_cannot_open_a_session(depot_server: WorldServer):
    """Catches a guard of HTTP alone: browsers let every page open WebSockets to every host."""
    address = depot_server.url.replace("http", "ws") + "/ws"
    with pytest.raises(InvalidStatus):
        connect(address, origin="http://evil.example")  # type: ignore[arg-type]
    with connect(address, origin=depot_server.url) as session:  # type: ignore[arg-type]
        session.send(json.dumps({"type": "reset", "data": {}}))
        assert json.loads(session.recv())["type"] == "observation"


def test_a_port_that_is_taken_is_said():
    """Catches a traceback of the socket, after the world was opened."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = CliRunner().invoke(command, ["depot", "--port", str(taken.getsockname()[1])])
    assert isinstance(result.exception, ConfigError)
    assert "--port 0" in str(result.exception)


def test_serving_a_world_loads_no_torch():
    """Catches an import that makes the image of a served world two gigabytes larger."""
    code = (
        "import sys\n"
        "from envecho.worlds.openenv.server import make_app\n"
        "from envecho.worlds.openenv import server_run\n"
        "from envecho.worlds.suites import open_suite\n"
        "make_app(open_suite('terminal'))\n"
        "sys.exit([name for name in ('torch', 'transformers', 'matplotlib') if name in sys.modules] or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
