"""A server on loopback that answers chat completions as vLLM does, ids and log-probs included, for tests of recordings.

What it says is scripted; prompts and answers are ids of a real tokenizer, log-probs those of a real (tiny) model.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from envecho.engines.local import LocalEngine
from envecho.seam import ScoreRequest

MODEL = "tiny"
_CALL = re.compile(r"<tool_call>\n(.*?)\n</tool_call>", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Served:
    """One answer: the ids that were read and written."""

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    body: dict[str, Any]


@dataclass(kw_only=True)
class ModelServer:
    """`script` says the answer to messages; `faults` are statuses with which the next requests are refused."""

    tokenizer: Any
    engine: LocalEngine
    script: Callable[[list[dict[str, Any]]], str] = lambda messages: "done"
    returns_ids: bool = True
    faults: list[int] = field(default_factory=list[int])
    delay_s: float = 0.0
    served: list[Served] = field(default_factory=list[Served])
    keys: set[str] = field(default_factory=set[str])
    url: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def reset(self, script: Callable[[list[dict[str, Any]]], str], *, returns_ids: bool = True) -> None:
        self.script, self.returns_ids, self.delay_s = script, returns_ids, 0.0
        self.served.clear()
        self.faults.clear()
        self.keys.clear()

    def models(self, request: Request) -> JSONResponse:
        return JSONResponse({"object": "list", "data": [{"id": MODEL, "object": "model"}]})

    async def complete(self, request: Request) -> JSONResponse:
        from starlette.concurrency import run_in_threadpool

        return await run_in_threadpool(self._complete, await request.json(), dict(request.headers))

    async def messages(self, request: Request) -> JSONResponse:
        """Answer as Anthropic's API does, of a model whose ids nobody sees."""
        body = await request.json()
        assert request.headers["x-api-key"]
        text = self.script(body["messages"])
        content: list[dict[str, Any]] = [
            {"type": "tool_use", "id": f"toolu_{n}", "name": call["name"], "input": call["arguments"]}
            for n, call in enumerate(map(json.loads, _CALL.findall(text)))
        ]
        if said := _CALL.sub("", text).strip():
            content.insert(0, {"type": "text", "text": said})
        answer = {"id": "msg_1", "type": "message", "role": "assistant", "model": body["model"], "content": content}
        usage = {"input_tokens": 1, "output_tokens": 1}
        return JSONResponse({**answer, "stop_reason": "end_turn", "stop_sequence": None, "usage": usage})

    def _complete(self, body: dict[str, Any], headers: dict[str, str]) -> JSONResponse:
        self.keys.add(headers.get("authorization", ""))
        time.sleep(self.delay_s)
        if self.faults:
            status = self.faults.pop(0)
            return JSONResponse({"error": {"message": f"refused with {status}"}}, status_code=status)
        for name in ("logprobs", "return_token_ids", "top_logprobs"):
            if not self.returns_ids and name in body:
                error = {"message": f"Unknown parameter: '{name}'.", "param": name, "code": "unknown_parameter"}
                return JSONResponse({"error": error}, status_code=400)
        assert body["model"] == MODEL
        with self._lock:
            return JSONResponse(self._answer(body))

    def _answer(self, body: dict[str, Any]) -> dict[str, Any]:
        text = self.script(body["messages"])
        shown = [{**message, "content": message.get("content") or ""} for message in body["messages"]]
        prompt = self.tokenizer.apply_chat_template(
            shown, tools=body.get("tools"), add_generation_prompt=True, return_dict=False
        )
        completion = [
            *self.tokenizer.encode(text, add_special_tokens=False),
            self.tokenizer.convert_tokens_to_ids("<|im_end|>"),
        ][: body.get("max_tokens") or None]
        calls = [json.loads(found) for found in _CALL.findall(text)]
        message: dict[str, Any] = {"role": "assistant", "content": _CALL.sub("", text).strip() or None}
        if calls:
            message["tool_calls"] = [
                {
                    "id": f"call_{len(prompt)}_{number}",
                    "type": "function",
                    "function": {"name": call["name"], "arguments": json.dumps(call["arguments"])},
                }
                for number, call in enumerate(calls)
            ]
        choice: dict[str, Any] = {
            "index": 0,
            "message": message,
            "finish_reason": "tool_calls" if calls else "stop",
        }
        answer = {"id": "c", "object": "chat.completion", "created": 0, "model": MODEL, "choices": [choice]}
        answer["usage"] = {"prompt_tokens": len(prompt), "completion_tokens": len(completion), "total_tokens": 0}
        if body.get("logprobs"):
            self._add_ids(body, answer, choice, prompt, completion)
        return answer

    def _add_ids(
        self, body: dict[str, Any], answer: dict[str, Any], choice: dict[str, Any], prompt: list[int], said: list[int]
    ) -> None:
        ids = np.array([*prompt, *said], dtype=np.int32)
        read = np.arange(len(ids)) >= len(prompt)
        temperature = body.get("temperature", 1.0) or 1.0
        (scores,) = self.engine.logprobs([ScoreRequest(token_ids=ids, read=read)], temperature=temperature)
        logprobs = [float(value) for value in scores.logprobs[len(prompt) :]]
        choice["logprobs"] = {
            "content": [
                {
                    "token": f"token_id:{token}",
                    "logprob": value,
                    # What the probe for raw log-probs reads: the gap of the two best, divided by the temperature.
                    "top_logprobs": [{"logprob": value}, {"logprob": value - 4.0 / temperature}],
                }
                for token, value in zip(said, logprobs, strict=True)
            ]
        }
        if body.get("return_token_ids"):
            answer["prompt_token_ids"] = prompt
            choice["token_ids"] = said
            self.served.append(
                Served(prompt_ids=tuple(prompt), completion_ids=tuple(said), logprobs=tuple(logprobs), body=body)
            )


@contextlib.contextmanager
def serving(server: ModelServer) -> Generator[ModelServer]:
    """Serve on a free port of 127.0.0.1 while the block runs."""
    routes = [
        Route("/v1/models", server.models),
        Route("/v1/chat/completions", server.complete, methods=["POST"]),
        Route("/v1/messages", server.messages, methods=["POST"]),
    ]
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(Starlette(routes=routes), log_config=None, access_log=False, timeout_graceful_shutdown=1)
    running = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: running.run(sockets=[listening]), daemon=True)
    thread.start()
    while not running.started:
        time.sleep(0.01)
    server.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    yield server
    running.should_exit = True
    thread.join()
    listening.close()
