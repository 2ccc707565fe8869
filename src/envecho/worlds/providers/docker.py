"""Provider `docker`: a container on this machine's Docker, by OpenEnv's `LocalDockerProvider`.

What that provider does, as of openenv 0.10: `docker run -d --name ... -p PORT:8000 -e ... IMAGE`, and no further option
can be given. So the container has Docker's default network, from which it reaches every host; it cannot be closed
(only `*` is accepted), and Docker publishes the port on all addresses of the machine unless its daemon is told
otherwise (`"ip": "127.0.0.1"` in daemon.json).
"""

from __future__ import annotations

import json
import subprocess
from typing import Any, Final

from envecho.errors import WorldError
from envecho.worlds.providers.container import ContainerHost
from envecho.worlds.providers.ledger import Entry, Ledger
from envecho.worlds.providers.provider import KEY_VARIABLE, HostSpec, require_open

NAME: Final = "docker"
_SECONDS: Final = 30.0


def make_host(spec: HostSpec, ledger: Ledger) -> ContainerHost:
    """Return a container to start; its image starts the server by itself, from the variables that it gets."""
    require_open(spec, NAME, "OpenEnv's LocalDockerProvider gives `docker run` no network option")

    def make() -> Any:
        from openenv.core.containers.runtime import LocalDockerProvider

        return LocalDockerProvider()

    return ContainerHost(NAME, spec, ledger, make=make, port=None)


def remove(entry: Entry) -> None:
    """Remove the container whose environment holds the entry's key, if there is one."""
    listed = _docker("ps", "--all", "--quiet", "--no-trunc").split()
    if not listed:
        return
    for found in json.loads(_docker("inspect", *listed)):
        if f"{KEY_VARIABLE}={entry.key}" in (found["Config"]["Env"] or []):
            _docker("rm", "--force", "--volumes", found["Id"])


def _docker(*arguments: str) -> str:
    try:
        done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False, timeout=_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise WorldError(f"docker {arguments[0]} did not run: {error}") from error
    if done.returncode:
        raise WorldError(f"docker {arguments[0]} failed: {done.stderr.strip()[:500]}")
    return done.stdout
