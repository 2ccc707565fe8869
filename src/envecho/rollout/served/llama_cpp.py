"""The server of llama.cpp: `/completion` with token ids, and the probabilities after its samplers.

Run against llama.cpp's own server on a CPU. `post_sampling_probs` gives probabilities at the sampling temperature; its
ordinary log-probs are at temperature 1. `ignore_eos` is not sent: it would forbid the end tokens. A turn ends at any
end token of the vocabulary, and the server takes no stop ids. A model is read when the server starts: weights cannot be
pushed. Not here: its OpenAI routes.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Final, final

from envecho.errors import EngineError
from envecho.rollout.served.dialect import Answer, AnswerError, Call, Identity, Turn, Weights, dig
from envecho.rollout.served.wire import Wire

_ROUTE: Final = "/completion"
_OF: Final = f"the answer of {_ROUTE}"


@final
class LlamaCppDialect:
    """llama-server."""

    most_top: ClassVar[int] = 20
    cannot_push: ClassVar[str | None] = "llama.cpp reads its GGUF file when it starts; convert, and start it again"

    def identify(self, wire: Wire) -> Identity:
        """Ask for build, model and context of a slot."""
        props = wire.find("/props") or {}
        settings = props.get("default_generation_settings") or {}
        return Identity(
            version=props.get("build_info"), model=props.get("model_alias"), max_context_tokens=settings.get("n_ctx")
        )

    def call(self, turn: Turn, model: str | None) -> Call:
        """Return the request of a turn: the temperature is the only sampler."""
        return Call(
            path=_ROUTE,
            body={
                "prompt": list(turn.prompt),
                "n_predict": turn.max_tokens,
                "temperature": turn.temperature,
                "dynatemp_range": 0.0,
                "samplers": ["temperature"],
                "mirostat": 0,
                "repeat_penalty": 1.0,
                "seed": turn.seed,
                "n_probs": max(1, turn.num_top),
                "post_sampling_probs": True,
                "return_tokens": True,
                "cache_prompt": True,
                "stream": False,
            },
        )

    def read(self, reply: Any) -> Answer:
        """Read the answer: `completion_probabilities` are those of `tokens`, end token included."""
        entries = dig(reply, "completion_probabilities", of=_OF)
        ids = tuple(int(dig(entry, "id", of=f"{_OF}, completion_probabilities,")) for entry in entries)
        told = reply.get("tokens")
        if told is not None and tuple(told) != ids:
            raise AnswerError(f"{_OF} has other tokens ({told[:8]}) than the ids of its probabilities ({ids[:8]})")
        return Answer(
            token_ids=ids,
            logprobs=tuple(_log(dig(entry, "prob", of=f"{_OF}, completion_probabilities,")) for entry in entries),
            top=tuple(
                {str(other["id"]): _log(other["prob"]) for other in entry.get("top_probs") or [] if other["prob"] > 0}
                for entry in entries
            ),
            is_cut=reply.get("stop_type") == "limit",
            has_own_end=reply.get("stop_type") == "eos",
        )

    def push(self, wire: Wire, weights: Weights, *, model: str | None) -> str | None:
        """Refuse."""
        raise EngineError(f"{wire.url} cannot take new weights: {self.cannot_push}")


def _log(probability: Any) -> float:
    if not probability > 0:
        raise AnswerError(f"{_OF} says that a drawn token has the probability {probability}")
    return math.log(probability)
