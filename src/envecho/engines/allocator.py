"""The C library's allocator, told to keep what a training step frees for the next step.

By default glibc gives the end of the heap back to the system as soon as a few megabytes of it are free, and a step
faults the same pages in again, a fifth of its processor time. What a process may hold at its peak does not change
(docs/performance.md). Not here: memory of GPUs, whose allocator does so by itself.
"""

from __future__ import annotations

import ctypes
import functools

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
# The largest that glibc takes: what is larger is mapped by itself and given back when it is freed.
_MAPPED_BYTES = 32 * 2**20
_KEPT_BYTES = 2**31 - 1


@functools.cache
def keep_freed_memory() -> bool:
    """Let this process keep up to 2 GB of freed memory; return whether the C library has that choice (glibc)."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES)) and bool(mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES))
