"""`python tests/tinker/record_exchange.py OUT.json`: record the engine's exchange with a real SkyRL server.

Needs what tests/tinker/requirements.txt says; `ENVECHO_SKYRL` names that environment. A proxy on loopback passes every
request on and writes it down with its answer. The default tests play the file back (tests/engines/test_tinker_wire.py).
"""

from __future__ import annotations

import http.client
import json
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).parents[1] / "engines"))

from tinker_scenario import BASE_MODEL, CONTEXT, RANK, SEED, run_scenario
from tinker_wire import ADDRESS, UNRECORDED, read_body

from envecho.engines.tinker import open_tinker
from envecho.recipes.agreement.case import write_model
from envecho.recipes.agreement.subjects.tinker_server import skyrl_server

KEPT_HEADERS = ("Location", "Expires", "Content-Encoding")


class Recorder(ThreadingHTTPServer):
    """A proxy that writes down what passes."""

    daemon_threads = True

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), _Proxy)
        self.upstream, self.exchange, self.lock = urlsplit(upstream), [], threading.Lock()
        self.address = f"http://127.0.0.1:{self.server_address[1]}"


class _Proxy(BaseHTTPRequestHandler):
    server: Recorder
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        assert self.server.upstream.hostname
        connection = http.client.HTTPConnection(self.server.upstream.hostname, self.server.upstream.port)
        # The Host header passes through, so that addresses in answers lead here again.
        connection.request(self.command, self.path, body, dict(self.headers))
        answer = connection.getresponse()
        content = answer.read()
        headers = {name: value for name, value in answer.getheaders() if name.title() in KEPT_HEADERS}
        if not UNRECORDED.search(self.path):
            self._record(body, answer, content, headers)
        self.send_response(answer.status)
        for name, value in {**headers, "Content-Type": answer.getheader("Content-Type") or ""}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST

    def _record(self, body: bytes, answer: http.client.HTTPResponse, content: bytes, headers: dict[str, str]) -> None:
        kind = answer.getheader("Content-Type") or ""
        told = {"json": json.loads(content)} if kind.startswith("application/json") else read_body("", "", content)
        asked = self.headers
        entry = {
            "method": self.command,
            "path": self.path,
            "request": read_body(asked.get("Content-Type", ""), asked.get("Content-Encoding", ""), body)
            if body
            else {"base64": ""},
            "status": answer.status,
            "type": kind,
            "headers": headers,
            "answer": told,
        }
        text = json.dumps(entry).replace(self.server.address, ADDRESS)
        with self.server.lock:
            self.server.exchange.append(json.loads(text))

    def log_message(self, *_args) -> None:
        """Be quiet."""


def main(out: Path) -> None:
    """Record the scenario."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / BASE_MODEL).mkdir()
        write_model(work / BASE_MODEL)
        with skyrl_server(Path(BASE_MODEL), work) as upstream:
            recorder = Recorder(upstream)
            threading.Thread(target=recorder.serve_forever, daemon=True).start()
            engine = open_tinker(BASE_MODEL, server=recorder.address, rank=RANK, seed=SEED, max_context_tokens=CONTEXT)
            told = run_scenario(engine, work)
            recorder.shutdown()
    lines = ",\n".join(json.dumps(entry) for entry in recorder.exchange)
    head = json.dumps({"told": told})[:-1]
    out.write_text(f'{head}, "exchange": [\n{lines}\n]}}\n', encoding="utf-8")
    print(f"{len(recorder.exchange)} requests, {out.stat().st_size} bytes -> {out}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
