"""What a folder holds of weights that stay on a server: the checkpoint's address, and the adapter in peft's layout.

    tinker_checkpoint.json                              where the server keeps weights and optimiser
    adapter_model.safetensors, adapter_config.json      the LoRA weights, where they are downloaded

Nothing is read from an archive but these two files. Not here: when to write (`envecho.training.checkpoints`).
"""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from envecho.errors import EngineError

_FILE: Final = "tinker_checkpoint.json"
_FORMAT: Final = "envecho.tinker-checkpoint"
_ADAPTER_FILES: Final = ("adapter_config.json", "adapter_model.safetensors")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The address of a checkpoint on `service`, and what the engine counts itself."""

    service: str
    address: str
    base_model: str
    rank: int
    seed: int
    num_optim_steps: int


def write_checkpoint(checkpoint: Checkpoint, folder: Path) -> None:
    """Write the address into a folder."""
    document = {"format": _FORMAT, "version": 1, **asdict(checkpoint)}
    (folder / _FILE).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read back what `write_checkpoint` wrote.

    Raises:
        EngineError: the file is absent, of another format, or has other keys.
    """
    path = folder / _FILE
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise EngineError(f"{path} does not exist: {folder} holds no checkpoint of a Tinker engine") from None
    except ValueError as error:
        raise EngineError(f"{path} is no JSON: {error}") from None
    if document.pop("format", None) != _FORMAT or document.pop("version", None) != 1:
        raise EngineError(f"{path} is not of format {_FORMAT} version 1")
    try:
        return Checkpoint(**document)
    except TypeError:
        raise EngineError(f"{path} has the keys {sorted(document)}, expected those of {Checkpoint.__name__}") from None


def unpack_adapter(archive: bytes, folder: Path) -> None:
    """Write the adapter of a tar archive, compressed or not, into a folder.

    Raises:
        EngineError: the archive is damaged, or lacks one of the two files.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            found = {Path(member.name).name: member for member in files.getmembers() if member.isfile()}
            missing = [name for name in _ADAPTER_FILES if name not in found]
            if missing:
                raise EngineError(f"the server's archive lacks {', '.join(missing)}; it holds {', '.join(found)}")
            for name in _ADAPTER_FILES:
                content = files.extractfile(found[name])
                assert content is not None
                (folder / name).write_bytes(content.read())
    except tarfile.TarError as error:
        raise EngineError(f"the server's archive of the weights cannot be read: {error}") from error
