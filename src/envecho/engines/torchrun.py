"""Whether torchrun started this process as one of several, from the environment alone; importing it loads nothing.

Not here: what the processes do together (`distributed`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping


def world_size(environment: Mapping[str, str] = os.environ) -> int:
    """How many processes there are; 1 without torchrun."""
    return int(environment.get("WORLD_SIZE", "1")) if "RANK" in environment else 1
