"""`LoopbackServer`: a model server on loopback that speaks each dialect and draws as `LocalEngine` does.

Its replies have the shape of those that real servers gave (`test_served_dialects` compares the two).
`flaws` make it the servers that go wrong: each is a behaviour that some real server or proxy has.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from envecho.engines.local import LocalEngine
from envecho.seam import SamplingParams, TurnRequest

BASE = "policy"


class Drawn:
    """One turn as the server drew it."""

    def __init__(self, ids: list[int], logprobs: list[float], top: list[list[tuple[int, float]]], stopped: bool):
        self.ids, self.logprobs, self.top, self.stopped = ids, logprobs, top, stopped


class LoopbackServer:
    """Serves the model of a folder; use as a context.

    flaws: `no_ids`, `no_logprobs`, `raw_logprobs` (at T = 1 whatever the temperature), `top_k` (draws from the 8
    likeliest), `strips_stop`, `other_context` (puts a token in front of every prompt), `ignores_push`, `text_only`.
    `drop_first`: that many requests of turns lose their connection. `busy_first`: that many get 503. `refuse_prompts`:
    prompts that hold this id get 400. `max_context`: what it states.
    """

    def __init__(self, folder: Path, kind: str, *, flaws: frozenset[str] = frozenset(), **options: Any) -> None:
        self.kind, self.flaws, self.options = kind, flaws, options
        self.calls: list[tuple[str, Any]] = []
        self.paths: Counter[str] = Counter()
        self.adapters: list[str] = []
        self._lock = threading.Lock()
        self._is_gone = False
        self.on_headers: Callable[[Any], Any] = lambda headers: None
        self.load(folder)
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: Any) -> None:
                pass

            def do_GET(self) -> None:
                self._answer(None)

            def do_POST(self) -> None:
                self._answer(json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"null"))

            def _answer(self, body: Any) -> None:
                path = self.path.partition("?")[0]
                server.on_headers(self.headers)
                with server._lock:
                    server.paths[path] += 1
                    server.calls.append((self.path, body))
                    number = server.paths[path]
                if server._is_gone or (path in TURN_ROUTES and number <= server.options.get("drop_first", 0)):
                    self.close_connection = True
                    return
                if path in TURN_ROUTES and number <= server.options.get("busy_first", 0):
                    status, reply = 503, {"error": "busy"}
                else:
                    status, reply = server.respond(path, body)
                data = b"" if reply is None else (reply if isinstance(reply, str) else json.dumps(reply)).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self.stop()

    def stop(self) -> None:
        """Go away, as a server does that is killed; connections that are open get no answer."""
        self._is_gone = True
        self._http.shutdown()
        self._http.server_close()

    def load(self, folder: Path) -> None:
        """Take the weights of a folder."""
        self.engine = LocalEngine(folder, device="cpu", compute_dtype="float32", trains=False)
        self._network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    # --- what it answers ------------------------------------------------------------------------------------------

    def respond(self, path: str, body: Any) -> tuple[int, Any]:
        """Return status and JSON of a route."""
        routes = {
            "vllm": _vllm,
            "openai": _openai,
            "sglang": _sglang,
            "llama_cpp": _llama_cpp,
        }[self.kind](self, body)
        if path not in routes or ("text_only" in self.flaws and path in TURN_ROUTES):
            return 404, {"detail": "Not Found"}
        reply = routes[path]()
        return reply if isinstance(reply, tuple) else (200, reply)

    def draw(self, prompt: Any, *, max_tokens: int, temperature: float, seed: int, stop: Any, num_top: int) -> Drawn:
        """Draw one turn; the lock keeps the engine to one thread at a time."""
        context = [3, *prompt] if "other_context" in self.flaws else list(prompt)
        params = SamplingParams(max_tokens=max_tokens, temperature=temperature, stop_token_ids=tuple(stop or ()))
        request = TurnRequest(row=0, prompt=np.array(context, dtype=np.int32), key=(seed,))
        time.sleep(self.options.get("seconds", 0.0))
        with self._lock, self.engine.sampling_session() as session, torch.no_grad():
            (sample,) = session.sample([request], params)
            ids = [int(token) for token in sample.token_ids]
            logits = self._network(torch.tensor([[*context, *ids]])).logits[0, len(context) - 1 : -1]
        if "top_k" in self.flaws and temperature > 0:
            ids = [int(logits[0].topk(8).indices[seed % 8])]  # where a prompt is asked for one token
        shown = torch.log_softmax(logits / (1.0 if "raw_logprobs" in self.flaws else temperature or 1.0), dim=-1)
        own = [float(shown[place, token]) for place, token in enumerate(ids)]
        # The engine's own log-probs are given, so that a run over HTTP is the run in process bit for bit.
        exact = [float(value) for value in sample.logprobs]
        logprobs = own if {"raw_logprobs", "top_k"} & self.flaws or temperature == 0 else exact
        best = [shown[place].topk(min(num_top, shown.shape[-1])) for place in range(len(ids))] if num_top else []
        top = [list(zip(b.indices.tolist(), b.values.tolist(), strict=True)) for b in best]
        if sample.stopped and "strips_stop" in self.flaws:
            ids, logprobs, top = ids[:-1], logprobs[:-1], top[:-1]
        return Drawn(ids, logprobs, top, sample.stopped)


TURN_ROUTES = ("/v1/completions", "/generate", "/completion")


def _completion(server: LoopbackServer, body: Any, *, with_ids: bool) -> Any:
    if server.options.get("refuse_prompts") in body["prompt"]:
        return 400, {"error": {"message": "no such prompt", "type": "BadRequestError", "param": None, "code": 400}}
    if body.get("model") not in (BASE, *server.adapters):
        return 404, {"error": {"message": f"The model `{body.get('model')}` does not exist.", "code": 404}}
    drawn = server.draw(
        body["prompt"],
        max_tokens=body["max_tokens"],
        temperature=body["temperature"],
        seed=body["seed"],
        stop=body.get("stop_token_ids"),
        num_top=body["logprobs"],
    )
    names = [f"token_id:{token}" if with_ids else f"t{token}" for token in drawn.ids]
    top = [
        {name: logprob, **{f"token_id:{other}": value for other, value in entry}}
        for name, logprob, entry in zip(names, drawn.logprobs, drawn.top or [[]] * len(names), strict=True)
    ]
    choice = {
        "index": 0,
        "text": "".join(names),
        "logprobs": None
        if "no_logprobs" in server.flaws
        else {"text_offset": [0] * len(names), "token_logprobs": drawn.logprobs, "tokens": names, "top_logprobs": top},
        "finish_reason": "stop" if drawn.stopped else "length",
    }
    return {"id": "cmpl-0", "object": "text_completion", "created": 0, "model": BASE, "choices": [choice]}, drawn


def _vllm(server: LoopbackServer, body: Any) -> dict[str, Any]:
    def turn() -> Any:
        reply, drawn = _completion(server, body, with_ids="no_ids" not in server.flaws)
        if isinstance(drawn, Drawn) and "no_ids" not in server.flaws:
            reply["choices"][0] |= {"token_ids": drawn.ids, "prompt_token_ids": body["prompt"]}
        return (reply, drawn) if isinstance(reply, int) else reply

    def reload() -> Any:
        if "ignores_push" not in server.flaws:
            server.load(Path(body["kwargs"]["weights_path"]))
        return {"results": [None]}

    def adapter() -> Any:
        server.adapters.append(body["lora_name"])
        return f"Success: LoRA adapter '{body['lora_name']}' added successfully."

    models = {"object": "list", "data": [{"id": BASE, "max_model_len": server.options.get("max_context", 256)}]}
    done = {"status": "ok"}
    routes = {
        "/version": lambda: {"version": "0.32.0"},
        "/v1/models": lambda: models,
        "/v1/completions": turn,
        "/v1/load_lora_adapter": adapter,
        "/v1/unload_lora_adapter": lambda: server.adapters.remove(body["lora_name"]),
    }
    if server.options.get("dev_mode", True):
        routes |= {
            "/pause": lambda: done,
            "/resume": lambda: done,
            "/reset_prefix_cache": lambda: {"success": True},
            "/collective_rpc": reload,
        }
    return routes


def _openai(server: LoopbackServer, body: Any) -> dict[str, Any]:
    def turn() -> Any:
        reply, drawn = _completion(server, body, with_ids="no_ids" not in server.flaws)
        return (reply, drawn) if isinstance(reply, int) else reply

    def chat() -> Any:
        said = server.options["says"]
        message = {"role": "assistant", "content": said(body["messages"])}
        choice = {"index": 0, "message": message, "finish_reason": server.options.get("finish", "stop")}
        return {"id": "chat-0", "object": "chat.completion", "model": body["model"], "choices": [choice]}

    models = {"object": "list", "data": [{"id": BASE}]}
    return {"/v1/models": lambda: models, "/v1/completions": turn, "/v1/chat/completions": chat}


def _sglang(server: LoopbackServer, body: Any) -> dict[str, Any]:
    def turn() -> Any:
        params = body["sampling_params"]
        drawn = server.draw(
            body["input_ids"],
            max_tokens=params["max_new_tokens"],
            temperature=params["temperature"],
            seed=params["sampling_seed"],
            stop=params["stop_token_ids"],
            num_top=body["top_logprobs_num"],
        )
        reason = {"type": "stop", "matched": drawn.ids[-1]} if drawn.stopped else {"type": "length", "length": 1}
        pairs = [[logprob, token, None] for logprob, token in zip(drawn.logprobs, drawn.ids, strict=True)]
        top = [[[value, token, None] for token, value in entry] for entry in drawn.top]
        meta = {"id": "0", "finish_reason": reason, "output_token_logprobs": pairs, "output_top_logprobs": top}
        return {"text": "", "output_ids": drawn.ids, "meta_info": meta}

    def update() -> Any:
        if not Path(body["model_path"]).is_dir():
            return 400, {"success": False, "message": "no such folder"}
        if "ignores_push" not in server.flaws:
            server.load(Path(body["model_path"]))
        return {"success": True, "message": "Succeeded to update model weights."}

    def adapter() -> Any:
        server.adapters.append(body["lora_name"])
        return {"success": True}

    def no_adapter() -> Any:
        server.adapters.remove(body["lora_name"])
        return {"success": True}

    return {
        "/server_info": lambda: {"version": "0.5.23", "model_path": "m", "context_length": 256},
        "/generate": turn,
        "/update_weights_from_disk": update,
        "/load_lora_adapter": adapter,
        "/unload_lora_adapter": no_adapter,
    }


def _llama_cpp(server: LoopbackServer, body: Any) -> dict[str, Any]:
    def entry(token: int, logprob: float, top: list[tuple[int, float]]) -> Any:
        best = [{"id": other, "token": "", "bytes": [], "prob": float(np.exp(value))} for other, value in top]
        return {"id": token, "token": "", "bytes": [], "prob": float(np.exp(logprob)), "top_probs": best}

    def turn() -> Any:
        drawn = server.draw(
            body["prompt"],
            max_tokens=body["n_predict"],
            temperature=body["temperature"],
            seed=body["seed"],
            stop=server.options.get("end_tokens"),
            num_top=body["n_probs"],
        )
        entries = [entry(*one) for one in zip(drawn.ids, drawn.logprobs, drawn.top, strict=True)]
        kind = "eos" if drawn.stopped else "limit"
        return {"content": "", "tokens": drawn.ids, "stop_type": kind, "completion_probabilities": entries}

    props = {"build_info": "b0-unknown", "model_alias": "m", "default_generation_settings": {"n_ctx": 256}}
    return {"/props": lambda: props, "/completion": turn}
