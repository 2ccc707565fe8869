"""What an engine writes to disk and reads back: a plain Hugging Face model folder, plus the optimiser's state.

    model.safetensors, config.json, tokenizer files, chat template    any tool loads these (an adapter is merged in)
    adapter/                                                          the adapter alone, in peft's layout (`lora`)
    optimizer.safetensors                                             NAME.exp_avg, NAME.exp_avg_sq, NAME.step
    engine_state.json                                                 seed and counters

Safetensors and JSON alone: reading a stranger's checkpoint runs none of its code. Not here: when to write, and how a
folder becomes whole on disk (`envecho.training.checkpoints`).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import Parameter
from transformers import AutoModelForCausalLM

from envecho.engines.lora import LoraAdapter
from envecho.engines.model import CausalModel
from envecho.engines.precision import MasterWeights
from envecho.engines.quiet import quiet_transformers
from envecho.errors import EngineError

_FORMAT = "envecho.engine-state"
_VERSION = 1
_OPTIMIZER_FILE = "optimizer.safetensors"
_STATE_FILE = "engine_state.json"
_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


def save_model(model: CausalModel, masters: MasterWeights, folder: Path, *, adapter: LoraAdapter | None = None) -> None:
    """Write the master weights, configuration, tokenizer and chat template into a folder.

    With an adapter, the weights are those of base and adapter together, and the adapter is written beside them.
    """
    write_model(model, masters.state_dict(), folder, adapter=adapter, in_float32=masters.is_copied)


def write_model(
    model: CausalModel, weights: dict[str, Tensor], folder: Path, *, adapter: LoraAdapter | None, in_float32: bool
) -> None:
    """Write weights that are whole, under every name that the network's state has; see `save_model`.

    `in_float32` says that they are of another dtype than the network, which computes with them.
    """
    if adapter is not None:
        adapter.save(weights, folder)
        weights = adapter.merged(weights)
    with quiet_transformers():
        model.network.save_pretrained(folder, state_dict=weights)
    if in_float32:
        # transformers writes the dtype of the working copy; the file holds the masters.
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config["dtype"] = "float32"
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    if model.tokenizer is not None:
        model.tokenizer.save_pretrained(folder)


def load_model(masters: MasterWeights, folder: Path, *, adapter: LoraAdapter | None = None) -> None:
    """Copy the weights of a folder, or with an adapter those of its adapter alone, into masters and working copy.

    Raises:
        EngineError: the folder holds another architecture, or an adapter that is not this one's.
    """
    if adapter is not None:
        with torch.no_grad():
            for name, value in adapter.load(folder).items():
                masters.parameters[name].copy_(value)
        masters.publish()
        return
    weights = read_model(folder, masters.parameters)
    with torch.no_grad():
        for name, master in masters.parameters.items():
            master.copy_(weights[name])
    masters.publish()


def read_model(folder: Path, like: Mapping[str, Tensor]) -> dict[str, Parameter]:
    """Return the parameters of a model folder, in the dtype of `like` and with its names and shapes.

    Raises:
        EngineError: the folder holds another architecture.
    """
    some = next(iter(like.values()))
    with quiet_transformers():
        loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=some.dtype)
    weights = dict[str, Parameter](loaded.named_parameters())
    if {name: value.shape for name, value in weights.items()} != {name: value.shape for name, value in like.items()}:
        raise EngineError(f"{folder} holds another architecture than the model that this engine was made with")
    return weights


def save_optimizer(optimizer: torch.optim.Optimizer, names: dict[str, Parameter], folder: Path) -> None:
    """Write the moments and step counts of every parameter that has been stepped."""
    write_moments({name: optimizer.state.get(parameter, {}) for name, parameter in names.items()}, folder)


def write_moments(moments: Mapping[str, Mapping[str, Tensor]], folder: Path) -> None:
    """Write moments and step counts, whole tensors by the parameter's name and their own."""
    tensors = {
        f"{name}.{moment}": value.detach().contiguous()
        for name, found in moments.items()
        for moment, value in found.items()
    }
    save_file(tensors, folder / _OPTIMIZER_FILE)


def load_optimizer(optimizer: torch.optim.Optimizer, names: dict[str, Parameter], folder: Path) -> None:
    """Restore what `save_optimizer` wrote; parameters without a state there get none."""
    places = {name: place for place, name in enumerate(names)}
    state: dict[int, dict[str, Tensor]] = {}
    for name, moment, value in read_moments(names, folder):
        state.setdefault(places[name], {})[moment] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def read_moments(names: Collection[str], folder: Path) -> Iterator[tuple[str, str, Tensor]]:
    """Yield parameter, moment and whole tensor, one at a time, of what `write_moments` wrote.

    Raises:
        EngineError: the file is absent, or holds something of another parameter.
    """
    path = _existing(folder / _OPTIMIZER_FILE)
    with safe_open(path, framework="pt") as file:
        for key in file.keys():  # noqa: SIM118  (safe_open is no dict)
            name, moment = key.rsplit(".", 1)
            if name not in names or moment not in _MOMENTS:
                raise EngineError(f"{path} holds {key!r}, which belongs to no parameter of this model")
            yield name, moment, file.get_tensor(key)


def save_counters(counters: dict[str, int], folder: Path) -> None:
    """Write seed and counters."""
    document = {"format": _FORMAT, "version": _VERSION, **counters}
    (folder / _STATE_FILE).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def load_counters(names: tuple[str, ...], folder: Path) -> dict[str, int]:
    """Read back what `save_counters` wrote.

    Raises:
        EngineError: the file is absent, of another format, or has other keys.
    """
    path = _existing(folder / _STATE_FILE)
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if document.get("format") != _FORMAT or document.get("version") != _VERSION:
        raise EngineError(f"{path} is not of format {_FORMAT} version {_VERSION}")
    counters = {key: value for key, value in document.items() if key not in ("format", "version")}
    if set(counters) != set(names):
        raise EngineError(f"{path} has the keys {sorted(counters)}, expected {sorted(names)}")
    return counters


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise EngineError(f"{path} does not exist: {path.parent} holds a model, but not the state of an engine")
    return path
