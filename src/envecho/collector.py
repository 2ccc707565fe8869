"""Load libraries and models without Python's search for reference cycles, which costs a third of that time.

torch and transformers make two million objects that all stay; each search meanwhile walks over those that are there
already, and finds nothing. Not here: what is loaded; no torch.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Generator


@contextlib.contextmanager
def paused_collector() -> Generator[None]:
    """Pause the cycle collector inside the block (or the decorated function), where it was on.

    For imports and loading alone: cycles that are dropped inside stay in memory up to the next full search.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            if not gc.get_freeze_count():
                # All objects count as old, without a walk; else the next search of young ones would walk over all.
                gc.freeze()
                gc.unfreeze()
            gc.enable()
