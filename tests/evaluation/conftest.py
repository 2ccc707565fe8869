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
def tiny_dir(tmp_path_factory, smollm2_tokenizer):
    """Folder of a random Llama with SmolLM2's tokenizer and a context of 2,048 tokens."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(smollm2_tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        initializer_range=0.3,
    )
    folder = tmp_path_factory.mktemp("tiny")
    LlamaForCausalLM(config).save_pretrained(folder)
    smollm2_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_engine(tiny_dir):
    from envecho.engines.local import LocalEngine

    return LocalEngine(tiny_dir, device="cpu", compute_dtype="float32", trains=False)
