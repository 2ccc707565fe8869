"""Fixtures that every room's tests share: real tokenizers and the real demo model, never a hub."""

from __future__ import annotations

import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest

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
def qwen3_tokenizer():
    """Qwen3's real tokenizer with its tool-calling, thinking-stripping template."""
    if not QWEN3.is_dir():
        pytest.skip("Qwen3's tokenizer lies beside the project in development and CI only; it is absent here")
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(QWEN3)
