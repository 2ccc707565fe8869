"""What the plug-ins' tests share. Plug-ins whose trainer is not installed skip their own files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def agreement_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the tiny model on which all engines and plug-ins are compared."""
    from envecho.recipes.agreement.case import write_model

    folder = tmp_path_factory.mktemp("agreement_model")
    write_model(folder)
    return folder


@pytest.fixture(scope="session")
def word_tokenizer(agreement_model: Path) -> Any:
    """Its tokenizer of 320 words."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(agreement_model, padding_side="left")
