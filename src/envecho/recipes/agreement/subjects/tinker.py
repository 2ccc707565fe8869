"""The tinker engine over a real SkyRL server: loss, log-probs, and the first update of the LoRA weights.

Gradients do not come over the API. But AdamW without momentum and with a huge `eps` is plain gradient descent, and the
server's archive holds the LoRA weights, so the first update from B = 0 tells the gradient of every B, which must be
`scale * G @ A.T` for the reference's gradient G of the weight under it. That comparison stands in the note.
"""

from __future__ import annotations

import atexit
import functools
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from envecho.engines.tinker.engine import TinkerEngine
from envecho.engines.tinker.probe import ServerFacts, measure_server
from envecho.engines.tinker.sdk import SdkService
from envecho.objective import compile_batch
from envecho.recipes.agreement.case import Setting
from envecho.recipes.agreement.compare import Measured
from envecho.recipes.agreement.reference import reference
from envecho.recipes.agreement.subjects.tinker_server import skyrl_server
from envecho.seam import AdamParams

PACKAGES: Final = ("tinker",)
RANK: Final = 4

_RATE, _EPS = 1e-3, 1e8
DESCENT: Final = AdamParams(learning_rate=_RATE * _EPS, beta1=0.0, beta2=0.0, eps=_EPS, grad_clip_norm=None)
"""One step of gradient descent with rate 1e-3."""

Gradient = dict[str, NDArray[np.float64]]


def measure(model: Path, setting: Setting, work: Path) -> list[Measured]:
    """Measure a setting on fresh LoRA weights; none where actions are at another temperature than 1."""
    if setting.temperature != 1:
        return []
    service, facts = _service(model)
    engine = TinkerEngine(service, facts=facts, rank=RANK, seed=1, max_context_tokens=512)
    before = adapter_weights(engine, work / "before")
    compiled = compile_batch(setting.sequences(), setting.objective)
    out = engine.forward_backward(compiled.batch)
    engine.optim_step(DESCENT)
    found = descended(before, adapter_weights(engine, work / "after"))
    expected = lora_gradient(reference(model, setting).gradient, before, scale=32 / RANK)
    targets = compiled.selected.numpy()
    return [
        Measured(
            loss=out.loss,
            env_ce=float(-out.env_logprobs[targets].astype(np.float64).mean()),
            effective_lambda=compiled.effective_lambda,
            gradient=None,
            note=f"no gradients over the API; first update of LoRA weights: {relative(found, expected):.0e}",
        )
    ]


def adapter_weights(engine: TinkerEngine, folder: Path) -> dict[str, NDArray[np.float64]]:
    """The engine's LoRA weights by `MODULE.lora_A` and `MODULE.lora_B`, without peft's prefixes; float64."""
    folder.mkdir()
    engine.save_model(folder)
    tensors = load_file(folder / "adapter_model.safetensors")
    return {
        name.removeprefix("base_model.model.").removesuffix(".weight"): value.astype(np.float64)
        for name, value in tensors.items()
    }


def descended(before: Mapping[str, NDArray[np.float64]], after: Mapping[str, NDArray[np.float64]]) -> Gradient:
    """The gradient by which one step of `DESCENT` changed LoRA weights."""
    return {name: (value - after[name]) / _RATE for name, value in before.items()}


def lora_gradient(
    full: Mapping[str, NDArray[np.float64]], weights: Mapping[str, NDArray[np.float64]], *, scale: float
) -> Gradient:
    """The gradient of LoRA weights A and B from that of the weight W + scale * B @ A: scale B.T G and scale G A.T.

    SkyRL's JAX backend fuses q, k and v (and gate and up) with one A; a factor that several modules share gets the sum.
    """
    found: Gradient = {}
    for name, value in weights.items():
        module, _, factor = name.rpartition(".")
        gradient = full[f"{module}.weight"]
        other = weights[f"{module}.lora_B" if factor == "lora_A" else f"{module}.lora_A"]
        found[name] = scale * (other.T @ gradient if factor == "lora_A" else gradient @ other.T)
        assert found[name].shape == value.shape
    shared = {name: [n for n in weights if np.array_equal(weights[n], value)] for name, value in weights.items()}
    return {
        name: sum((found[n] for n in shared[name]), np.zeros_like(value)) if name.endswith("lora_A") else value
        for name, value in found.items()
    }


def relative(found: Gradient, expected: Gradient) -> float:
    """The relative difference in the L2 norm over all weights."""
    difference = sum(float(np.square(found[name] - value).sum()) for name, value in expected.items())
    return (difference / sum(float(np.square(value).sum()) for value in expected.values())) ** 0.5


@functools.cache
def _service(model: Path) -> tuple[SdkService, ServerFacts]:
    """One server for all settings; it ends with this process."""
    stack = ExitStack()
    atexit.register(stack.close)
    work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    address = stack.enter_context(skyrl_server(model, work))
    service = SdkService(str(model), server=address, api_key=None)
    return service, measure_server(service)
