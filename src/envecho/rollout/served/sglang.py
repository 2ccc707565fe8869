"""SGLang: its own `/generate`, with token ids in, and log-probs with ids out.

Read in the source of SGLang 0.5.23, never run. Its log-probs are those at the sampling temperature unless
`SGLANG_RETURN_ORIGINAL_LOGPROB` is set. Seeds count only under `--enable-deterministic-inference`. Not here: its OpenAI
routes, which return no ids.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final, final

from envecho.errors import EngineError
from envecho.rollout.served.dialect import NAME_PREFIX, Answer, AnswerError, Call, Identity, Turn, Weights, dig
from envecho.rollout.served.wire import ServerRefusedError, Wire

_ROUTE: Final = "/generate"
_OF: Final = f"the answer of {_ROUTE}"


@final
class SGLangDialect:
    """SGLang's native server."""

    most_top: ClassVar[int] = 20
    cannot_push: ClassVar[str | None] = None

    def identify(self, wire: Wire) -> Identity:
        """Ask for version, model and context."""
        info = wire.find("/server_info") or wire.find("/get_server_info") or {}
        return Identity(
            version=info.get("version"),
            model=info.get("served_model_name") or info.get("model_path"),
            max_context_tokens=info.get("context_length") or None,
        )

    def call(self, turn: Turn, model: str | None) -> Call:
        """Return the request of a turn; `model` counts where it names an adapter that was pushed."""
        return Call(
            path=_ROUTE,
            body={
                "input_ids": list(turn.prompt),
                "sampling_params": {
                    "max_new_tokens": turn.max_tokens,
                    "temperature": turn.temperature,
                    "top_p": 1.0,
                    "top_k": -1,
                    "min_p": 0.0,
                    "repetition_penalty": 1.0,
                    "presence_penalty": 0.0,
                    "frequency_penalty": 0.0,
                    "min_new_tokens": 0,
                    "ignore_eos": True,
                    "skip_special_tokens": False,
                    "sampling_seed": turn.seed,
                    "stop_token_ids": list(turn.stop_token_ids),
                },
                "return_logprob": True,
                "logprob_start_len": -1,
                "top_logprobs_num": turn.num_top,
                "return_text_in_logprobs": False,
                "stream": False,
                **({"lora_path": model} if model is not None and model.startswith(NAME_PREFIX) else {}),
            },
        )

    def read(self, reply: Any) -> Answer:
        """Read the answer: `meta_info.output_token_logprobs` are triples of log-prob, id and text."""
        meta = dig(reply, "meta_info", of=_OF)
        pairs = dig(meta, "output_token_logprobs", of=f"{_OF}, meta_info,")
        ids = tuple(int(entry[1]) for entry in pairs)
        told = reply.get("output_ids")
        if told is not None and tuple(told) != ids:
            raise AnswerError(f"{_OF} has other output_ids ({told[:8]}) than the ids of its log-probs ({ids[:8]})")
        top = meta.get("output_top_logprobs") or []
        return Answer(
            token_ids=ids,
            logprobs=tuple(float(entry[0]) for entry in pairs),
            top=tuple({str(other[1]): float(other[0]) for other in entry or []} for entry in top),
            is_cut=dig(meta, "finish_reason", "type", of=f"{_OF}, meta_info,") == "length",
        )

    def push(self, wire: Wire, weights: Weights, *, model: str | None) -> str | None:
        """Load a folder: an adapter under a new name, or the weights in place; the cache of prompts is emptied."""
        if weights.is_adapter:
            _told(wire, "/load_lora_adapter", {"lora_name": weights.name, "lora_path": weights.folder})
            if model is not None and model.startswith(NAME_PREFIX):
                _told(wire, "/unload_lora_adapter", {"lora_name": model})
            return weights.name
        _told(wire, "/update_weights_from_disk", {"model_path": weights.folder, "flush_cache": True})
        return model


def _told(wire: Wire, route: str, body: dict[str, Any]) -> None:
    try:
        reply = wire.post(route, body)
    except ServerRefusedError as error:
        raise EngineError(f"{error}; check that the server can read this folder") from error
    if not dig(reply, "success", of=f"the answer of {route}"):
        raise EngineError(f"{wire.url}{route} did not load the weights: {reply.get('message')}")
