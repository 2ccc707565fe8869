"""Fixtures of the evaluation tests: SmolLM2's real tokenizer, a small pool, and a tiny real model."""

from __future__ import annotations

import pytest
from pool_builders import small_pool

from envecho.tokens import ChatTokenizer


@pytest.fixture(scope="session")
def tokenizer(smollm2_tokenizer) -> ChatTokenizer:
    return ChatTokenizer(smollm2_tokenizer)


@pytest.fixture(scope="session")
def pool():
    return small_pool()


@pytest.fixture(scope="session")
def tiny_engine(tiny_dir):
    from envecho.engines.local import LocalEngine

    return LocalEngine(tiny_dir, device="cpu", compute_dtype="float32", trains=False)
