"""Checkpointing by budget: as few layers as fit, the same gradient, and a budget that is kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from batches import SIZES, random_batch
from transformers import LlamaConfig, LlamaForCausalLM

from envecho.engines.checkpointing import activation_bytes
from envecho.engines.local import LocalEngine
from envecho.errors import EngineError

LENGTHS = [60, 50, 40]


@pytest.fixture(scope="module")
def six_layers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama whose activations are much larger than its states."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("six_layers")
    sizes = SIZES | {"num_hidden_layers": 6, "intermediate_size": 4000}
    LlamaForCausalLM(LlamaConfig(**sizes)).save_pretrained(folder)
    return folder


def make(folder: Path, **options) -> LocalEngine:
    return LocalEngine(folder, device="cpu", compute_dtype="float64", tokens_per_micro_batch=150, **options)


def kept_bytes(engine: LocalEngine) -> int:
    """What a real micro-batch of 150 tokens keeps between forward and backward, parameters left out."""
    parameters = {p.untyped_storage().data_ptr() for p in engine._model.network.parameters()}
    kept: dict[int, int] = {}

    def keep(value: torch.Tensor) -> torch.Tensor:
        kept[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        return value

    batch = random_batch(LENGTHS)
    (micro,) = engine._split(batch)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value), micro.laid_out():
        states = micro.hidden(engine._model, batch)
        total = sum(size for place, size in kept.items() if place not in parameters)
        del states
    return total


def test_the_measured_activations_are_those_of_a_real_micro_batch(six_layers: Path):
    """Catches a probe that counts parameters or shared storages twice, or not per token."""
    engine = make(six_layers)
    per_token, states = activation_bytes(engine._model)
    assert states == 16 * 8
    assert per_token * 150 == pytest.approx(kept_bytes(engine), rel=0.05)


@pytest.mark.parametrize(("share", "layers"), [(1.1, 0), (0.9, 2), (0.6, 4), (0.3, 6)])
def test_as_few_layers_as_fit_are_checkpointed_and_the_budget_holds(six_layers: Path, share: float, layers: int):
    """Catches a budget that is overrun, and layers that are computed again for nothing."""
    plain = make(six_layers)
    whole = activation_bytes(plain._model)[0] * 150
    engine = make(six_layers, activation_memory_mb=round(whole * share / 1e6))
    on = [layer.gradient_checkpointing for layer in engine._model.network.base_model.layers]
    assert sum(on) == layers
    # One layer's own activations come and go in the backward pass.
    assert kept_bytes(engine) + (whole / 6 if layers else 0) <= 1.02 * whole * share
    for one in (plain, engine):
        one.forward_backward(random_batch(LENGTHS, policy=True))
    found = engine.gradients()
    for name, gradient in plain.gradients().items():
        np.testing.assert_allclose(found[name], gradient, rtol=1e-9, atol=1e-14)


def test_a_budget_that_cannot_hold_is_refused_with_what_is_needed(six_layers: Path):
    """Catches a run that dies of memory an hour later, and two options that contradict each other."""
    with pytest.raises(EngineError, match=r"is 1, but 150 tokens need \d+ MB even with every layer"):
        make(six_layers, activation_memory_mb=1)
    with pytest.raises(EngineError, match="set one"):
        make(six_layers, activation_memory_mb=100, gradient_checkpointing=True)
