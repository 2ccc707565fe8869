"""The sessions of Foundry's fine-tuning on loopback, answered from the exchange that was recorded with Tinker's wire.

The same numbers must go out: rows, coefficients, clips, Adam's parameters, prompts and seeds are compared with those of
the recording, in whatever envelope.
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
from tinker_wire import differs, served

PREVIEW = "FineTuningSessions=V1Preview"


class FoundryPlayer(ThreadingHTTPServer):
    """Knows what the recorded server answered to which numbers."""

    daemon_threads = True

    def __init__(self, exchange) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        polls = [one for one in exchange if one["path"].endswith("retrieve_future")]
        results = {one["request"]["json"]["request_id"]: one["answer"] for one in polls}
        self.open = [_as_foundry(one, results) for one in exchange]
        self.open = [one for one in self.open if one is not None]
        self.requests, self.problems, self.polls = {}, [], 0
        self.lock = threading.Lock()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/api/projects/echo"

    def start(self, verb, body):
        """Return the identifier of the operation that a request starts, None where nobody recorded it."""
        with self.lock:
            nearest = f"{verb} is not in the exchange, or was asked too often"
            for place, (known, asked, result) in enumerate(self.open):
                if known != verb:
                    continue
                difference = differs(body, asked)
                if difference is None:
                    self.open.pop(place)
                    name = f"request_{len(self.requests)}"
                    self.requests[name] = [{"status": "pending"}, {"status": "completed", "result": result}]
                    return name
                nearest = f"{verb}{difference}"
            self.problems.append(nearest)
        return None


def _as_foundry(one, results):
    """(verb, body, result) of a recorded request in Foundry's envelope, None where Foundry has no such request."""
    path = one["path"].rsplit("/", 1)[-1]
    answer = one["answer"].get("json", {})
    if path == "forward_backward":
        asked = one["request"]["proto"]
        verb = "forward" if asked.get("forward_only") else "forward_backward"
        inputs = {"data": [_datum(datum) for datum in asked["data"]], "loss_fn": asked["loss_fn"]}
        if asked.get("loss_fn_config"):
            inputs["loss_fn_config"] = asked["loss_fn_config"]
        return verb, {f"{verb}_input": inputs}, _passed(results[answer["request_id"]])
    if path == "optim_step":
        adam = {k: v for k, v in one["request"]["json"]["adam_params"].items() if k != "grad_clip_norm"}
        return "optim_step", {"adam_params": adam}, {"metrics": results[answer["request_id"]]["json"]["metrics"]}
    if path == "save_weights":
        return "checkpoint", {"path": one["request"]["json"]["path"]}, {}
    if path == "save_weights_for_sampler" and "path" not in one["request"]["json"]:
        return "checkpoint_sample", {"path": "envecho-0000000000000000"}, {}
    if path == "asample":
        return "sample", _sample_body(one["request"]["json"]), _sampled(results[answer["request_id"]])
    return None


def _datum(datum):
    inputs = datum["loss_fn_inputs"]
    tokens = np.frombuffer(base64.b64decode(datum["model_input"][0]["encoded_text"]["tokens"]), dtype=np.int32)
    told = {name: {"data": value["numbers"]} for name, value in inputs.items()}
    told.setdefault("weights", {"data": [1.0] * len(inputs["target_tokens"]["numbers"])})
    return {"model_input": {"chunks": [{"tokens": tokens.tolist()}]}, "loss_fn_inputs": told}


def _passed(answer):
    from tinker.proto.response_conv import deserialize_forward_backward_output

    outputs = deserialize_forward_backward_output(base64.b64decode(answer["base64"])).loss_fn_outputs
    return {"loss_fn_outputs": [{"logprobs": {"data": one["logprobs"].data}} for one in outputs]}


def _sample_body(asked):
    params = asked["sampling_params"]
    sampling = {name: params[name] for name in ("max_tokens", "temperature", "seed", "top_p", "top_k")}
    sampling["stop_criteria"] = params["stop"]
    prompt = {"chunks": [{"tokens": chunk["tokens"]} for chunk in asked["prompt"]["chunks"]]}
    return {"num_samples": 1, "prompt": prompt, "sampling_params": sampling}


def _sampled(answer):
    from tinker.proto.response_conv import deserialize_sample_response

    found = deserialize_sample_response(base64.b64decode(answer["base64"])).sequences
    return {"sequences": [{"tokens": one.tokens, "logprobs": one.logprobs} for one in found]}


class _Handler(BaseHTTPRequestHandler):
    server: FoundryPlayer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        path, _, query = self.path.removeprefix("/api/projects/echo/fine_tuning/sessions").partition("?")
        allowed = self.headers["Authorization"] == "Bearer secret" and self.headers["Foundry-Features"] == PREVIEW
        if not allowed or "api-version=v1" not in query:
            return self._send(401, {"error": "headers or version"})
        if not path:
            self.server.requests["create"] = [{"status": "completed", "result": {}}]
            return self._send(200, {"session_id": "session_1", "request_id": "create"})
        found = self.server.start(path.rsplit("/", 1)[-1], body)
        return self._send(200, {"request_id": found}) if found else self._send(400, {"error": "not recorded"})

    def do_GET(self) -> None:
        name = re.sub(r"\?.*", "", self.path).rsplit("/", 1)[-1]
        with self.server.lock:
            self.server.polls += 1
            answers = self.server.requests[name]
            found = answers.pop(0) if len(answers) > 1 else answers[0]
            # A busy service is tried again.
            busy = self.server.polls == 3
            if busy:
                answers.insert(0, found)
        self._send(503 if busy else 200, found)

    def _send(self, status, document) -> None:
        content = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_args) -> None:
        """Be quiet."""


@contextmanager
def playing_foundry(exchange) -> Generator[FoundryPlayer]:
    """Play an exchange back in Foundry's envelope for a block."""
    with served(FoundryPlayer(exchange)) as player:
        yield player
