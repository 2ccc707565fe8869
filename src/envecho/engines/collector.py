"""Load libraries and models without Python's search for reference cycles, which costs a quarter of that time.

torch and transformers make two million objects that all stay; every search of the cycle collector meanwhile walks over
those that are there already, and finds nothing. Not here: what is loaded; no torch.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Generator


@contextlib.contextmanager
def paused_collector() -> Generator[None]:
    """Pause the cycle collector inside the block, and let it go on after it if it was on.

    For imports and loading alone: cycles that are dropped inside stay in memory up to the next search after it.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
