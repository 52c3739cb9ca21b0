"""Keep freed memory in the process.

On Linux the C library hands large blocks back to the system as soon as they are free, and every layer's output is a
large block: the system then clears the same pages again for each layer of each batch. Keeping them made prediction
twice as fast where this was measured (`benchmarks/allocator.py`). Elsewhere than on glibc nothing happens.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import cache

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # of <malloc.h>


@cache
def keep_freed_memory() -> bool:
    """Ask glibc to keep what is freed, once a process; say whether it does."""
    mallopt = _mallopt()
    return bool(mallopt and mallopt(_M_MMAP_THRESHOLD, 1 << 30) and mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1))


@cache
def keep_freed_memory_of_threads() -> bool:
    """The same for threads that are begun from now on; say whether it does.

    A thread's own arena consists of pieces of 64 MiB, and what is larger goes back to the system, whatever was asked
    for: 57,000 pages were cleared for 16 images of EfficientNet-Lite0. In the arena of the process it is kept.
    """
    mallopt = _mallopt()
    return bool(mallopt and keep_freed_memory() and mallopt(_M_ARENA_MAX, 1))


def _mallopt() -> Callable[[int, int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        return ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return None
