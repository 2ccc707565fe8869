"""Keep transformers' own progress bars off standard error, where our progress is shown.

Not here: our progress (`envecho.training`), and log messages, which stay as they are.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Generator

from transformers.utils import logging as transformers_logging


@contextlib.contextmanager
def quiet_transformers() -> Generator[None]:
    """Turn transformers' progress bars off inside the block, and back on after it if they were on."""
    was_enabled = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            transformers_logging.enable_progress_bar()


@contextlib.contextmanager
def quiet_gguf_loading() -> Generator[None]:
    """Also hide the bar of the GGUF reader, which no setting of transformers reaches.

    Everything else that the block writes to `sys.stderr` is hidden too; exceptions are not.
    """
    with quiet_transformers(), contextlib.redirect_stderr(io.StringIO()):
        yield
