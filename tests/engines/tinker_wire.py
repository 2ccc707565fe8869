"""The HTTP exchange between the `tinker` package and a server: as readable documents, and played back on loopback.

An exchange is a list of requests with their answers, recorded once between the package and SkyRL's server
(tests/tinker/record_exchange.py). The player answers a request with the answer that was recorded for it, and notes
every request that nobody recorded: coefficients, ids and clips that go out are compared number by number.
"""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import zstandard

ADDRESS = "http://SERVER"
IGNORED_KEYS = ("sdk_version", "user_metadata", "tags", "project_id")
UNRECORDED = re.compile(r"/telemetry$|/session_heartbeat$|/client/dynamic_config$|/healthz$")
REPEATABLE = re.compile(r"/client/config$|/get_server_capabilities$")
NAMES = re.compile(r"envecho-[0-9a-f]{16}")


def read_body(content_type: str, encoding: str, body: bytes):
    """A body as JSON: JSON as it is, a request in protobuf by its fields with tensors as numbers, else base64."""
    if encoding == "zstd":
        body = zstandard.ZstdDecompressor().decompressobj().decompress(body)
    if content_type.startswith("application/json"):
        return {"json": json.loads(body)}
    if "proto" in content_type:
        return {"proto": _request_fields(body)}
    return {"base64": base64.b64encode(body).decode()}


def _request_fields(body: bytes):
    from google.protobuf.json_format import MessageToDict
    from tinker.proto import tinker_public_pb2

    message = MessageToDict(tinker_public_pb2.ForwardBackwardRequest.FromString(body), preserving_proto_field_name=True)
    for datum in message["data"]:
        datum["loss_fn_inputs"] = {name: _numbers(t) for name, t in datum["loss_fn_inputs"].items()}
    return message


def _numbers(tensor):
    """A tensor's bytes as numbers; the fields are those of the package's public protocol."""
    (key,) = [name for name, value in tensor.items() if isinstance(value, str) and name != "dtype"]
    kind = np.int64 if "INT64" in str(tensor.get("dtype")) else np.float32
    numbers = np.frombuffer(base64.b64decode(tensor[key]), dtype=kind).tolist()
    return {**{name: value for name, value in tensor.items() if name != key}, "numbers": numbers}


def differs(found, recorded, where="") -> str | None:
    """Where two bodies differ by more than rounding, None where they do not."""
    if isinstance(recorded, dict) and isinstance(found, dict):
        keys = {*found, *recorded} - set(IGNORED_KEYS)
        parts = [differs(found.get(key), recorded.get(key), f"{where}.{key}") for key in sorted(keys)]
        return next((part for part in parts if part), None)
    if isinstance(recorded, list) and isinstance(found, list) and len(found) == len(recorded):
        parts = [
            differs(one, other, f"{where}[{n}]") for n, (one, other) in enumerate(zip(found, recorded, strict=True))
        ]
        return next((part for part in parts if part), None)
    if isinstance(recorded, float) and isinstance(found, float):
        same = found == pytest.approx(recorded, rel=1e-4, abs=1e-7)
    elif isinstance(recorded, str) and isinstance(found, str):
        same = NAMES.sub("NAME", found) == NAMES.sub("NAME", recorded)
    else:
        same = found == recorded
    return None if same else f"{where}: {found!r}, recorded {recorded!r}"


class Player(ThreadingHTTPServer):
    """Answers from a recorded exchange; `strangers` are the requests that nobody recorded."""

    daemon_threads = True

    def __init__(self, exchange) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.open = list(exchange)
        self.results = {
            e["request"]["json"]["request_id"]: e for e in exchange if e["path"].endswith("retrieve_future")
        }
        self.strangers: list[str] = []
        self.lock = threading.Lock()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def answer(self, method, path, body):
        """The recorded answer to a request, None where there is none."""
        if path.endswith("/retrieve_future"):
            return self.results.get(body["json"]["request_id"])
        nearest = f"{method} {path} is not in the exchange, or was asked too often"
        with self.lock:
            for place, exchange in enumerate(self.open):
                if (exchange["method"], NAMES.sub("NAME", exchange["path"])) != (method, NAMES.sub("NAME", path)):
                    continue
                difference = differs(body, exchange["request"])
                if difference is None:
                    return exchange if REPEATABLE.search(path) else self.open.pop(place)
                nearest = f"{method} {path}{difference}"
            self.strangers.append(nearest)
        return None


class _Handler(BaseHTTPRequestHandler):
    server: Player
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if UNRECORDED.search(self.path):
            missing = self.path.endswith("dynamic_config")
            content = {"detail": "Not Found"} if missing else {"type": "session_heartbeat", "status": "accepted"}
            return self._send(404 if missing else 200, "application/json", json.dumps(content).encode(), {})
        kind, encoding = self.headers.get("Content-Type", ""), self.headers.get("Content-Encoding", "")
        body = read_body(kind, encoding, raw) if raw else {"base64": ""}
        found = self.server.answer(self.command, self.path, body)
        if found is None:
            return self._send(400, "application/json", b'{"detail": "not recorded"}', {})
        answer = found["answer"]
        if "json" in answer:
            content = json.dumps(answer["json"]).replace(ADDRESS, self.server.address).encode()
        else:
            content = base64.b64decode(answer["base64"])
        headers = {k: v.replace(ADDRESS, self.server.address) for k, v in found["headers"].items()}
        return self._send(found["status"], found["type"], content, headers)

    do_GET = do_POST

    def _send(self, status, kind, content, headers) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_args) -> None:
        """Be quiet."""


@contextmanager
def served(player):
    """Serve from a thread for a block, and leave no socket behind."""
    thread = threading.Thread(target=player.serve_forever, daemon=True)
    thread.start()
    try:
        yield player
    finally:
        player.shutdown()
        player.server_close()
        thread.join()


@contextmanager
def playing(exchange) -> Generator[Player]:
    """Play an exchange back for a block."""
    with served(Player(exchange)) as player:
        yield player
