"""LoRA by peft: low-rank adapters on linear layers, the base frozen, inside the network that the engine has anyway.

    W x  becomes  W x + (alpha / rank) * B (A x)       A [rank, in] random, B [out, rank] zero: the base model at step 0

peft's layers are put into the network itself, without a wrapper around it, so that body, head and names stay where
engines look for them. What is written: merged weights for every tool, and `adapter/` in peft's own layout:

    adapter/adapter_config.json            any tool that knows peft reads these two
    adapter/adapter_model.safetensors      in full precision
    adapter/envecho.json                   a digest of the base weights

There is no dropout (the engine's passes are not random), no bias, and no adapter on embeddings or the head, whose
weight is read in chunks. Not here: optimiser and precision (`precision`), and reading a stranger's adapter
(`pretrained`). LoRA: arXiv:2106.09685.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from envecho.engines.precision import ATTENTION_WORDS
from envecho.errors import EngineError, did_you_mean
from envecho.extras import require_extra

ADAPTER_FOLDER: Final = "adapter"
CONFIG_FILE: Final = "adapter_config.json"
WEIGHTS_FILE: Final = "adapter_model.safetensors"
BASE_FILE: Final = "envecho.json"

_ADAPTER = "default"
_PEFT_PREFIX = "base_model.model."
_DIGEST_SAMPLES = 1024


@dataclass(frozen=True, kw_only=True)
class LoraOptions:
    """Which layers get an adapter, and of what size; the adapter is scaled by `alpha / rank`.

    `targets`: `all-linear` (every linear layer but the head), `attention` (those of attention alone), or names of
    layers, each a name or the end of one at a dot, as peft takes them: `("q_proj", "v_proj")`.
    """

    rank: int = 16
    alpha: int = 32
    targets: str | tuple[str, ...] = "all-linear"

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha < 1:
            raise EngineError(f"lora: rank is {self.rank}, alpha {self.alpha}; expected at least 1 each")
        if not self.targets:
            raise EngineError("lora: targets is empty; expected 'all-linear', 'attention' or names of layers")


@dataclass(frozen=True, kw_only=True)
class LoraAdapter:
    """An adapter inside a network: what is needed to name, merge, write and read it, without the network.

    A `state` that the methods take maps the names of the adapted network's `state_dict` to whole tensors; where masters
    exist, to these. `layers` maps the name of every adapted layer to whether its weight is `[in, out]`.
    """

    options: LoraOptions
    layers: Mapping[str, bool]
    base_digest: str
    config: Mapping[str, Any]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the trained parameters, in the order of the network."""
        return tuple(f"{layer}.lora_{part}.{_ADAPTER}.weight" for layer in self.layers for part in "AB")

    def merged(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights `W + (alpha / rank) * B A` under the names of the network without an adapter.

        In float32 (float64 where the base is) and on the CPU, whatever the base computes in. Tied weights stay one
        tensor under two names.
        """
        scaling, made = self.options.alpha / self.options.rank, dict[Any, Tensor]()
        merged: dict[str, Tensor] = {}
        for name, value in state.items():
            if ".lora_A." in name or ".lora_B." in name:
                continue
            layer, _, kind = name.rpartition(".")
            layer = layer.removesuffix(".base_layer")
            same = (value.data_ptr(), value.shape, value.dtype)
            if layer in self.layers and kind == "weight":
                a, b = (state[f"{layer}.lora_{part}.{_ADAPTER}.weight"] for part in "AB")
                dtype = torch.promote_types(value.dtype, torch.float32)
                delta = b.to(dtype) @ a.to(dtype) * scaling
                merged[f"{layer}.{kind}"] = (value.to(dtype) + (delta.T if self.layers[layer] else delta)).cpu()
            else:
                if same not in made:
                    is_float = value.is_floating_point()
                    made[same] = value.to(torch.promote_types(value.dtype, torch.float32)) if is_float else value
                    made[same] = made[same].detach().cpu()
                merged[f"{layer}.{kind}" if layer else kind] = made[same]
        return merged

    def save(self, state: Mapping[str, Tensor], folder: Path) -> None:
        """Write the adapter into `folder/adapter/`, in peft's layout and in the precision of `state`."""
        folder = folder / ADAPTER_FOLDER
        folder.mkdir()
        (folder / CONFIG_FILE).write_text(json.dumps(self.config, indent=2) + "\n", encoding="utf-8")
        tensors = {_in_file(name): state[name].detach().cpu().contiguous() for name in self.names}
        # safetensors writes the keys of its metadata in random order: with two, equal adapters would differ in bytes.
        save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
        base = {"format": "envecho.adapter", "version": 1, "base_digest": self.base_digest}
        (folder / BASE_FILE).write_text(json.dumps(base) + "\n", encoding="utf-8")

    def load(self, folder: Path) -> dict[str, Tensor]:
        """Return the trained parameters that `save` wrote into `folder/adapter/`.

        Raises:
            EngineError: there is no adapter, or one of other layers, of another size, or for another base model.
        """
        path = folder / ADAPTER_FOLDER / WEIGHTS_FILE
        if not path.is_file():
            raise EngineError(
                f"{folder} holds no {ADAPTER_FOLDER}/{WEIGHTS_FILE}: an engine with lora takes what such an engine"
                " wrote. To train an adapter on this model, make the engine from it"
            )
        found = json.loads((path.parent / CONFIG_FILE).read_text(encoding="utf-8"))
        for key in ("r", "lora_alpha", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern"):
            if found.get(key) != self.config[key]:
                raise EngineError(f"{path.parent} has {key} = {found.get(key)}; this engine's is {self.config[key]}")
        with safe_open(path, framework="pt") as file:
            if set(file.keys()) != {_in_file(name) for name in self.names}:
                raise EngineError(
                    f"{path} adapts other layers than this engine: its targets are {self.options.targets}"
                )
            base = path.parent / BASE_FILE
            digest = json.loads(base.read_text(encoding="utf-8"))["base_digest"] if base.is_file() else None
            if digest != self.base_digest:
                raise EngineError(
                    f"{path} was trained on another base model than this engine's (digest {digest}, here"
                    f" {self.base_digest}); make the engine from the model that it was trained on"
                )
            return {name: file.get_tensor(_in_file(name)) for name in self.names}


def apply_lora(network: PreTrainedModel, options: LoraOptions, *, seed: int) -> LoraAdapter:
    """Put an adapter into the network, in place, and freeze everything else.

    A is drawn as peft draws it (uniform, Kaiming with a = sqrt(5)), but from `seed` and the layer's name alone; B is
    zero. Both are in float32 (float64 where the base is), whatever the dtype of the base.

    Raises:
        ConfigError: peft is not installed in the tested range.
        EngineError: a target is unknown, no linear layer, or the head.
    """
    require_extra("lora")
    from peft import LoraConfig, TaskType, inject_adapter_in_model

    layers = _target_layers(network, options.targets)
    place = Path(network.name_or_path or "")
    digest = _digest(network)
    config = LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,
        lora_dropout=0.0,
        target_modules=_target_modules(network, layers),
        task_type=TaskType.CAUSAL_LM,
        base_model_name_or_path=str(place.resolve()) if place.is_dir() else network.name_or_path,
        fan_in_fan_out=any(layers.values()),
    )
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        # A network with linear layers of both layouts; peft sets the flag of each layer right and says so.
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to")
        inject_adapter_in_model(config, network, adapter_name=_ADAPTER)
    adapter = LoraAdapter(options=options, layers=layers, base_digest=digest, config=_document(config))
    trained = {name: value for name, value in network.named_parameters() if value.requires_grad}
    if set(trained) != set(adapter.names):
        raise EngineError(f"peft adapts {sorted(trained)}, expected {sorted(adapter.names)}")
    for name, value in trained.items():
        value.data = _initial(name, value, seed=seed)
    return adapter


def _initial(name: str, like: Tensor, *, seed: int) -> Tensor:
    dtype = torch.promote_types(like.dtype, torch.float32)
    if ".lora_B." in name:
        return torch.zeros_like(like, dtype=dtype)
    words = hashlib.sha256(repr((seed, name)).encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(words[:7], "little"))
    # On the CPU and in float32, so that device and precision do not change the start.
    drawn = torch.nn.init.kaiming_uniform_(torch.empty(like.shape), a=math.sqrt(5), generator=generator)
    return drawn.to(like.device, dtype)


def _target_layers(network: PreTrainedModel, targets: str | tuple[str, ...]) -> dict[str, bool]:
    """The linear layers that get an adapter, in the order of the network, and whether their weight is `[in, out]`."""
    head = network.get_output_embeddings()
    modules = dict(network.named_modules())
    linear = {n: m for n, m in modules.items() if isinstance(m, (torch.nn.Linear, Conv1D)) and m is not head}
    if targets == "all-linear":
        chosen = set(linear)
    elif targets == "attention":
        chosen = {name for name in linear if any(word in name for word in ATTENTION_WORDS)}
    else:
        names = (targets,) if isinstance(targets, str) else targets
        chosen = {name for target in names for name in _named(target, modules, linear)}
    if not chosen:
        raise EngineError(f"lora: {type(network).__name__} has no linear layer for targets = {targets!r}")
    return {name: isinstance(module, Conv1D) for name, module in linear.items() if name in chosen}


def _named(target: str, modules: Mapping[str, torch.nn.Module], linear: Mapping[str, Any]) -> list[str]:
    found = [name for name in modules if _matches(name, target)]
    if not found:
        known = {name.rpartition(".")[2] for name in linear}
        raise EngineError(
            f"lora: the model has no layer {target!r}.{did_you_mean(target, [*known, 'all-linear', 'attention'])}"
            f" Its linear layers are called {', '.join(sorted(known))}"
        )
    for name in found:
        if name not in linear:
            kind = type(modules[name]).__name__
            raise EngineError(f"lora: {name} is {kind}; only linear layers before the head can have an adapter")
    return found


def _target_modules(network: PreTrainedModel, layers: Iterable[str]) -> list[str]:
    """What peft is told: the last words of the names, or, where these would match other modules too, whole names."""
    ends = sorted({name.rpartition(".")[2] for name in layers})
    matched = {name for name, _ in network.named_modules() if any(_matches(name, end) for end in ends)}
    return ends if matched == set(layers) else sorted(layers)


def _matches(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _in_file(name: str) -> str:
    return _PEFT_PREFIX + name.replace(f".{_ADAPTER}.", ".")


def _document(config: Any) -> dict[str, Any]:
    """What peft writes as adapter_config.json, with sets in a fixed order."""
    import peft

    document = {**config.to_dict(), "inference_mode": True, "peft_version": peft.__version__}
    return {key: sorted(value) if isinstance(value, set) else value for key, value in sorted(document.items())}


@torch.no_grad()
def _digest(network: PreTrainedModel) -> str:
    """A digest of names, shapes and evenly spaced values of the weights, the same in every precision and on any device.

    It is to find a wrong base model, not a malicious one, so it does not read all of 16 GB.
    """
    digest = hashlib.sha256()
    for name, value in sorted(network.named_parameters()):
        flat = value.detach().flatten()
        values = flat[:: max(1, len(flat) // _DIGEST_SAMPLES)].to(torch.bfloat16).view(torch.int16).cpu()
        digest.update(repr((name, tuple(value.shape), values.tolist())).encode())
    return digest.hexdigest()[:16]
