"""Real model servers on this machine's CPU: vLLM and the server of llama.cpp, each in its own process.

`ENVECHO_SERVING_PYTHON` is the Python of an environment that has them (`make test-serving` makes one).
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

PYTHON = os.environ.get("ENVECHO_SERVING_PYTHON", "")
_STARTS_WITHIN = 600.0

_LLAMA = """
import sys, time, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.port, params.hostnames = sys.argv[1], int(sys.argv[2]), ["127.0.0.1"]
params.n_ctx, params.n_parallel, params.cpuparams.n_threads = 4096, 2, 1
server = xllamacpp.Server(params)
while True:
    time.sleep(1)
"""


def free_port() -> int:
    """A port that nothing listens on now; these servers cannot be told to choose one."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@contextmanager
def vllm(model: Path, log: Path, *options: str, logprobs_mode: str = "processed_logprobs") -> Iterator[str]:
    """Serve a folder with vLLM as `policy`, and yield the URL."""
    port = free_port()
    command = [
        *("-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--served-model-name", "policy"),
        *("--host", "127.0.0.1", "--port", str(port), "--logprobs-mode", logprobs_mode, "--generation-config", "vllm"),
        *("--enforce-eager", "--max-num-seqs", "16", *options),
    ]
    variables = {
        "VLLM_SERVER_DEV_MODE": "1",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    }
    with _serve(command, f"http://127.0.0.1:{port}", "/v1/models", log, variables) as url:
        yield url


@contextmanager
def llama_cpp(gguf: Path, log: Path) -> Iterator[str]:
    """Serve a GGUF file with the server of llama.cpp, and yield the URL."""
    port = free_port()
    with _serve(["-c", _LLAMA, str(gguf), str(port)], f"http://127.0.0.1:{port}", "/health", log, {}) as url:
        yield url


@contextmanager
def _serve(command: Sequence[str], url: str, route: str, log: Path, variables: dict[str, str]) -> Iterator[str]:
    always = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    environment = {**os.environ, **always, **variables}
    with (
        log.open("wb") as out,
        subprocess.Popen([PYTHON, *command], stdout=out, stderr=out, env=environment) as process,
    ):
        try:
            _wait(process, url + route, log)
            yield url
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    until = time.monotonic() + _STARTS_WITHIN
    while time.monotonic() < until:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise RuntimeError(f"the server did not start: {log.read_text(errors='replace')[-2000:]}")
