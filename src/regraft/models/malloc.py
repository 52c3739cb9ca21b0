"""Keep freed memory in the process.

On Linux, glibc returns large blocks to the system as soon as they are freed. Every layer's output is a large block, so
the system clears the same pages again for each layer of each batch. Keeping them made prediction twice as fast
(`benchmarks/malloc.py`). With other C libraries these functions do nothing.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import cache

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # from <malloc.h>


@cache
def keep_freed_memory() -> bool:
    """Tell glibc to keep freed memory, once per process; return whether it does."""
    mallopt = _function("mallopt")
    return bool(mallopt and mallopt(_M_MMAP_THRESHOLD, 1 << 30) and mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1))


@cache
def keep_freed_memory_of_threads() -> bool:
    """Tell glibc to keep the freed memory of threads that start from now on; return whether it does.

    A thread's own arena consists of heaps of 64 MiB, and larger blocks are always returned to the system: 57,000 pages
    were cleared for 16 images of EfficientNet-Lite0. The process's main arena keeps them.
    """
    mallopt = _function("mallopt")
    return bool(mallopt and keep_freed_memory() and mallopt(_M_ARENA_MAX, 1))


def return_freed_memory() -> None:
    """Return to the system what was freed so far, between two steps whose blocks have other sizes.

    Blocks that stay, and the gaps between them, would make the needs of the steps add up.
    """
    if (trim := _function("malloc_trim")) is not None:
        trim(0)


def _function(name: str) -> Callable[..., int] | None:
    """A function of the C library; None if it has none."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        function: Callable[..., int] = getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError):  # another C library
        return None
    return function
