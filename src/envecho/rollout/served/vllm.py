"""vLLM: completions with token ids, weights loaded from a folder, or a LoRA adapter loaded beside them.

Read in the source of vLLM 0.32.0 and run against it on a CPU. Start it with `--logprobs-mode processed_logprobs`: its
own default are log-probs at temperature 1, whatever the sampling temperature. Full weights need
`VLLM_SERVER_DEV_MODE=1`, adapters `--enable-lora` and `VLLM_ALLOW_RUNTIME_LORA_UPDATING=True`. A folder that it cannot
load ends vLLM's engine, so the folder is looked at first. Not here: what completions have in common (`completions`).
"""

from __future__ import annotations

from typing import Any, ClassVar, final

from envecho.errors import EngineError
from envecho.rollout.served.completions import ROUTE, completion_body, read_completion
from envecho.rollout.served.dialect import NAME_PREFIX, Answer, Call, Identity, Turn, Weights, dig
from envecho.rollout.served.wire import ServerRefusedError, Wire


@final
class VllmDialect:
    """vLLM's OpenAI server."""

    most_top: ClassVar[int] = 20
    cannot_push: ClassVar[str | None] = None

    def identify(self, wire: Wire) -> Identity:
        """Ask for the version and the first model."""
        version = wire.find("/version")
        model = dig(wire.get("/v1/models"), "data", 0, of=f"{wire.url}/v1/models")
        return Identity(
            version=None if version is None else version.get("version"),
            model=dig(model, "id", of=f"{wire.url}/v1/models"),
            max_context_tokens=model.get("max_model_len"),
        )

    def call(self, turn: Turn, model: str | None) -> Call:
        """Return the request of a turn.

        The model's own stop tokens are ignored, as an engine of envecho ignores them: a turn ends at
        `stop_token_ids`. What the server's defaults or the model's `generation_config.json` would set is set.
        """
        extras = {
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "min_tokens": 0,
            "ignore_eos": True,
            "skip_special_tokens": False,
            "logprobs": turn.num_top,
            **({"cache_salt": turn.salt} if turn.salt else {}),
        }
        return Call(path=ROUTE, body=completion_body(turn, model) | extras)

    def read(self, reply: Any) -> Answer:
        """Read the answer."""
        return read_completion(reply)

    def push(self, wire: Wire, weights: Weights, *, model: str | None) -> str | None:
        """Load a folder: an adapter under a new name, or the weights in place."""
        if weights.is_adapter:
            return _load_adapter(wire, weights, model=model)
        _tell(wire, "/pause?mode=wait")
        try:
            wire.tell("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": weights.folder}})
        except ServerRefusedError as error:
            raise EngineError(
                f"{error}. vLLM could not load {weights.folder}, and its engine may have ended with this: see its log,"
                " check that the server can read this folder, and start it again"
            ) from error
        _tell(wire, "/resume")
        _tell(wire, "/reset_prefix_cache")
        return model


def _tell(wire: Wire, route: str) -> None:
    try:
        wire.tell(route, {})
    except ServerRefusedError as error:
        if error.status == 404:
            raise EngineError(
                f"{wire.url} has no {route}, which a push of weights needs; start vLLM with VLLM_SERVER_DEV_MODE=1 in"
                " its environment (it opens requests that only you should reach)"
            ) from error
        raise


def _load_adapter(wire: Wire, weights: Weights, *, model: str | None) -> str:
    try:
        wire.tell("/v1/load_lora_adapter", {"lora_name": weights.name, "lora_path": weights.folder})
    except ServerRefusedError as error:
        if error.status != 404:
            raise
        raise EngineError(
            f"{wire.url} loads no adapters; start vLLM with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True in"
            " its environment"
        ) from error
    if model is not None and model.startswith(NAME_PREFIX):
        wire.tell("/v1/unload_lora_adapter", {"lora_name": model})
    return weights.name
