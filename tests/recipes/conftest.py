"""Servers of models on loopback for the tests of recordings: one per real tokenizer, started once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from recorded_model import ModelServer, serving

from envecho.engines.local import LocalEngine


@pytest.fixture(scope="session")
def smollm2_server(tiny_dir: Path, smollm2_tokenizer: Any) -> Iterator[ModelServer]:
    """Answers in SmolLM2's template, which knows no tools."""
    engine = LocalEngine(tiny_dir, device="cpu", trains=False)
    with serving(ModelServer(tokenizer=smollm2_tokenizer, engine=engine)) as server:
        yield server


@pytest.fixture(scope="session")
def tiny_qwen3_dir(tmp_path_factory: pytest.TempPathFactory, qwen3_tokenizer: Any) -> Path:
    """Folder of a random model of few weights behind Qwen3's real tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(qwen3_tokenizer),
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    )
    folder = tmp_path_factory.mktemp("tiny-qwen3")
    LlamaForCausalLM(config).save_pretrained(folder)
    qwen3_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def qwen3_server(tiny_qwen3_dir: Path, qwen3_tokenizer: Any) -> Iterator[ModelServer]:
    """Answers in Qwen3's template, with calls of tools."""
    engine = LocalEngine(tiny_qwen3_dir, device="cpu", trains=False)
    with serving(ModelServer(tokenizer=qwen3_tokenizer, engine=engine)) as server:
        yield server
