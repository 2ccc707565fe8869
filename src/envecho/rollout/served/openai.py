"""Any server of OpenAI's completions that takes token ids and returns them.

Weights cannot be pushed: the protocol has no verb for it. Not here: servers with a dialect of their own.
"""

from __future__ import annotations

from typing import Any, ClassVar, final

from envecho.errors import EngineError
from envecho.rollout.served.completions import ROUTE, completion_body, read_completion
from envecho.rollout.served.dialect import Answer, Call, Identity, Turn, Weights, dig
from envecho.rollout.served.wire import Wire


@final
class OpenAIDialect:
    """`/v1/completions` and nothing else."""

    most_top: ClassVar[int] = 5
    cannot_push: ClassVar[str | None] = "the OpenAI protocol has no request that loads weights"

    def identify(self, wire: Wire) -> Identity:
        """Ask for the first model."""
        models = wire.find("/v1/models")
        model = None if models is None else dig(models, "data", 0, "id", of=f"{wire.url}/v1/models")
        return Identity(version=None, model=model, max_context_tokens=None)

    def call(self, turn: Turn, model: str | None) -> Call:
        """Return the request of a turn."""
        return Call(path=ROUTE, body=completion_body(turn, model))

    def read(self, reply: Any) -> Answer:
        """Read the answer."""
        return read_completion(reply)

    def push(self, wire: Wire, weights: Weights, *, model: str | None) -> str | None:
        """Refuse."""
        raise EngineError(f"{wire.url} cannot take new weights: {self.cannot_push}")
