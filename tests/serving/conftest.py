"""What the tests of served policies share: the small run of the training tests, one thread, and a tiny model."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "training"))


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Models this small are slower on two threads, and far slower beside another job."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def small_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random Llama of some ten thousand weights with 300 tokens, whose likely tokens differ clearly."""
    from tiny_run import write_model

    return write_model(tmp_path_factory.mktemp("small"))
