"""What a model's folder says of itself, read without loading a weight: its context and its number of parameters."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from envecho.errors import EngineError

_NO_LIMIT = 2**31


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """`max_context_tokens` as the engine takes it; `num_parameters` is None where the folder holds no safetensors."""

    max_context_tokens: int
    num_parameters: int | None


def model_facts(folder: Path) -> ModelFacts:
    """Read them from `config.json` and the headers of the safetensors files; tied embeddings count once.

    Raises:
        EngineError: the folder has no readable `config.json`.
    """
    from transformers import AutoConfig

    try:
        text = AutoConfig.from_pretrained(folder).get_text_config().to_dict()
    except (OSError, ValueError, KeyError) as error:
        raise EngineError(f"{folder} has no config.json that says what model it is: {error}") from error
    sizes = [_parameters_of(file) for file in sorted(folder.glob("*.safetensors"))]
    return ModelFacts(
        max_context_tokens=int(text.get("max_position_embeddings") or _NO_LIMIT),
        num_parameters=sum(sizes) if sizes else None,
    )


def _parameters_of(file: Path) -> int:
    """Sum over the header of a safetensors file: eight bytes of length, then JSON that names each tensor's shape."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
