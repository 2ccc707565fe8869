"""Fixtures that every room's tests share: real tokenizers and the real demo model, never a hub."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
from hypothesis import settings

# CI draws the same examples every time, so that a submission is judged by its change and not by luck; everywhere else
# every run draws new ones, and what they find becomes a test of its own.
settings.register_profile("ci", derandomize=True, database=None, deadline=None)
if os.environ.get("CI"):
    settings.load_profile("ci")

QWEN3 = Path(__file__).parents[2] / "shared" / "tokenizers" / "qwen3"


@pytest.fixture(scope="session")
def smollm2_dir() -> Path:
    """Folder of the demo model in plain Hugging Face layout, converted once and cached."""
    from envecho.engines.pretrained import resolve_model

    return resolve_model("smollm2-135m")


@pytest.fixture(scope="session")
def smollm2_tokenizer(smollm2_dir: Path):
    """SmolLM2's real tokenizer with its chat template."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(smollm2_dir)


@pytest.fixture(scope="session")
def tiny_dir(tmp_path_factory: pytest.TempPathFactory, smollm2_tokenizer: Any) -> Path:
    """Folder of a random Llama of few weights behind SmolLM2's real tokenizer, with a context of 2,048 tokens."""
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
def qwen3_tokenizer():
    """Qwen3's real tokenizer with its tool-calling, thinking-stripping template."""
    if not QWEN3.is_dir():
        pytest.skip("Qwen3's tokenizer lies beside the project in development and CI only; it is absent here")
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(QWEN3)
