"""SkyRL's open Tinker server on loopback with its JAX backend on the CPU, as a process that ends with its block.

The server lives in an environment of its own (Python 3.12; tests/tinker/requirements.txt), whose folder the environment
variable `ENVECHO_SKYRL` names. Not here: what is asked of it (`tinker`).
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from envecho.errors import ConfigError, EngineError

VARIABLE: Final = "ENVECHO_SKYRL"
_SECONDS_TO_START: Final = 180


def skyrl_environment() -> Path:
    """Return the folder of the environment that holds SkyRL.

    Raises:
        ConfigError: the variable is not set, or names no environment with `uv` in it.
    """
    named = os.environ.get(VARIABLE)
    if not named or not (Path(named) / "bin" / "uv").is_file():
        raise ConfigError(
            f"{VARIABLE} is {named!r}, expected the folder of an environment with SkyRL; `make test-tinker` makes"
            " .venv-tinker"
        )
    return Path(named).absolute()


@contextmanager
def skyrl_server(model: Path, work: Path, *, max_adapters: int = 24, max_rank: int = 8) -> Generator[str]:
    """Serve the model of a folder and yield the server's address; its files go into `work`.

    Compiled programs are kept in `work/compiled`, or where `JAX_COMPILATION_CACHE_DIR` says; a second start is quick.

    Raises:
        EngineError: it did not start; the message ends with the last lines of its log.
    """
    environment, address = skyrl_environment(), f"http://127.0.0.1:{(port := _free_port())}"
    backend = {"max_lora_adapters": max_adapters, "max_lora_rank": max_rank}
    # The server insists on being a child of `uv run`: it reads that command line to start its engine.
    command = [str(environment / "bin" / "uv"), "run", "--no-project", "--active", "-m", "skyrl.tinker.api"]
    command += ["--base-model", str(model), "--backend", "jax", "--backend-config", json.dumps(backend)]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    command += ["--database-url", f"sqlite:///{work / f'server-{port}.sqlite'}"]
    command += ["--checkpoints-base", str(work / "checkpoints")]
    log = work / f"server-{port}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, cwd=work, env=_variables(environment, work), stdout=out, stderr=out, start_new_session=True
        )
        try:
            _wait(address, process, log)
            yield address
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _variables(environment: Path, work: Path) -> dict[str, str]:
    return os.environ | {
        "VIRTUAL_ENV": str(environment),
        "PATH": f"{environment / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONPATH": "",
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": os.environ.get("JAX_COMPILATION_CACHE_DIR", str(work / "compiled")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "HF_HUB_OFFLINE": "1",
    }


def _wait(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _SECONDS_TO_START
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}/api/v1/healthz", timeout=2):
                return
        except OSError:
            time.sleep(0.5)
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-12:]
    raise EngineError("SkyRL's server did not start:\n" + "\n".join(lines))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
