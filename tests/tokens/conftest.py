"""The two real tokenizers as `ChatTokenizer`: SmolLM2 (no tools) and Qwen3 (tools, thinking that is stripped)."""

from __future__ import annotations

import pytest

from envecho.tokens import ChatTokenizer


@pytest.fixture(scope="session")
def smol(smollm2_tokenizer) -> ChatTokenizer:
    return ChatTokenizer(smollm2_tokenizer)


@pytest.fixture(scope="session")
def qwen(qwen3_tokenizer) -> ChatTokenizer:
    return ChatTokenizer(qwen3_tokenizer)


@pytest.fixture(scope="session", params=["smol", "qwen"])
def chat(request) -> ChatTokenizer:
    """Each real tokenizer in turn."""
    return request.getfixturevalue(request.param)
