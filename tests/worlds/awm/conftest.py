"""The scenarios of `awm_files`, written once."""

from __future__ import annotations

from pathlib import Path

import pytest
from awm_files import write_scenarios


@pytest.fixture(scope="session")
def environments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenarios(tmp_path_factory.mktemp("awm"))
