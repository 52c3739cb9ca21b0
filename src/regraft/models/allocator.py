"""Keep freed memory in the process.

On Linux the C library hands large blocks back to the system as soon as they are free, and every layer's output is a
large block: the system then clears the same pages again for each layer of each batch. Keeping them made prediction
twice as fast where this was measured (`benchmarks/allocator.py`). Elsewhere than on glibc nothing happens.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of <malloc.h>


@cache
def keep_freed_memory() -> bool:
    """Ask glibc to keep what is freed, once a process; say whether it does."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, 1 << 30) and mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1))
