"""`envecho serve`: a world as an OpenEnv server that other programs and machines use."""

from __future__ import annotations

import json
import logging
import os
import sys
from typing import Any

import click


@click.command("serve")
@click.argument("world")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to serve on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="The port; 0 takes a free one."
)
@click.option("--split", default="train", show_default=True, help="The split of a reset that names none.")
@click.option("--families", metavar="A,B", default="", help="Tasks of these families of the world alone; empty: all.")
@click.option(
    "--sandbox", type=click.Choice(["bubblewrap", "unsafe-host"]), default="bubblewrap", show_default=True,
    help="unsafe-host runs commands on this machine, with no sandbox at all.",
)  # fmt: skip
@click.option(
    "--max-turns", type=click.IntRange(min=1), default=16, show_default=True, help="Actions of an episode at most."
)
@click.option(
    "--max-sessions", type=click.IntRange(min=1), default=64, show_default=True, help="Sessions at once at most."
)
@click.option(
    "--session-seconds", type=click.FloatRange(min=0, min_open=True), default=3600.0, show_default=True,
    help="End a session that got no message for so long.",
)  # fmt: skip
@click.option("--web", is_flag=True, help="OpenEnv's page to try the world by hand, at /web.")
@click.option("--public", is_flag=True, help="Allow an address that other machines reach; nobody is authenticated.")
@click.option("--json", "as_json", is_flag=True, help="Print the line about the running server as JSON.")
def command(world: str, as_json: bool, **options: Any) -> None:
    """Serve a world as an OpenEnv server until Ctrl-C or SIGTERM.

    WORLD is what `envecho collect --world` takes: terminal, tools, depot, a folder of tasks. One line on standard
    output says where it runs, as soon as it answers; the log is on standard error.

    \b
    envecho serve terminal
    envecho serve depot --port 0 --json
    envecho serve terminal --host 0.0.0.0 --public
    """
    from envecho.worlds.openenv.server_run import require_loopback

    require_loopback(options["host"], public=options["public"])
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    broken_off = _serve(world, as_json, options)
    if broken_off:
        click.echo(f"{broken_off} steps did not end in time; their worlds were closed", err=True)
        sys.stdout.flush()
        os._exit(0)  # their threads may never end, and the interpreter would wait for them


def _serve(world: str, as_json: bool, options: dict[str, Any]) -> int:
    from envecho.worlds.openenv.server import make_app
    from envecho.worlds.openenv.server_run import run_server
    from envecho.worlds.suites import open_suite

    suite = open_suite(
        world,
        sandbox=options["sandbox"],
        max_turns=options["max_turns"],
        families=tuple(filter(None, map(str.strip, options["families"].split(",")))),
    )
    app = make_app(
        suite,
        split=options["split"],
        max_sessions=options["max_sessions"],
        session_seconds=options["session_seconds"],
        web=options["web"],
    )

    def ready(url: str) -> None:
        facts = {"url": url, "world": suite.name, "pid": os.getpid(), "max_sessions": options["max_sessions"]}
        click.echo(json.dumps(facts) if as_json else f"{suite.name} at {url}")
        sys.stdout.flush()

    return run_server(app, host=options["host"], port=options["port"], public=options["public"], on_ready=ready)
