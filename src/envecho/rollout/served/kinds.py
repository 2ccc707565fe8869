"""The dialect of a name. Not here: the dialects."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from envecho.errors import ConfigError, did_you_mean
from envecho.rollout.served.dialect import Dialect
from envecho.rollout.served.llama_cpp import LlamaCppDialect
from envecho.rollout.served.openai import OpenAIDialect
from envecho.rollout.served.sglang import SGLangDialect
from envecho.rollout.served.vllm import VllmDialect

_DIALECTS: Final[Mapping[str, Callable[[], Dialect]]] = {
    "vllm": VllmDialect,
    "sglang": SGLangDialect,
    "llama_cpp": LlamaCppDialect,
    "openai": OpenAIDialect,
}


def make_dialect(kind: str) -> Dialect:
    """Return the dialect of a name.

    Raises:
        ConfigError: there is no such dialect.
    """
    if kind not in _DIALECTS:
        known = ", ".join(_DIALECTS)
        raise ConfigError(f"no kind of server is called {kind!r}; known: {known}.{did_you_mean(kind, _DIALECTS)}")
    return _DIALECTS[kind]()
