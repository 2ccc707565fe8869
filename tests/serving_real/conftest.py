"""Opt-in tests against real model servers; `make test-serving` runs them and writes `results/serving/`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

TESTS = Path(__file__).parents[1]
RESULTS = TESTS.parent / "results" / "serving"
sys.path += [str(TESTS / "training"), str(TESTS / "serving")]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A server takes half a minute to start, and longer on a busy machine."""
    for item in items:
        if Path(item.path).parent == Path(__file__).parent:
            item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Models this small are slower on two threads, and far slower beside a server."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tied_dir(tmp_path_factory: pytest.TempPathFactory, smollm2_tokenizer: Any) -> Path:
    """Folder of a random Llama behind SmolLM2's tokenizer, with heads as wide as vLLM's CPU kernels want."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(smollm2_tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        initializer_range=0.1,
    )
    folder = tmp_path_factory.mktemp("tied")
    LlamaForCausalLM(config).save_pretrained(folder)
    smollm2_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def served_dir(tied_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with an output layer of its own."""
    from served_material import untie

    return untie(tied_dir, tmp_path_factory.mktemp("untied") / "model")


@pytest.fixture(scope="session")
def write_result() -> Callable[[str, Any], None]:
    """Write one file of `results/serving`."""

    def write(name: str, document: Any) -> None:
        RESULTS.mkdir(parents=True, exist_ok=True)
        (RESULTS / name).write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    return write
