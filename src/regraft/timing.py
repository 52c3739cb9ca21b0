"""Measure how long a piece of work takes; every speed that regraft measures comes from here."""

from __future__ import annotations

import math
import time
from collections.abc import Callable


def time_passes(
    work: Callable[[], object],
    *,
    passes: int = 3,
    min_seconds: float = 0.0,
    warmup: bool = True,
    long_pass: float = math.inf,
) -> list[float]:
    """Seconds of each of at least `passes` passes of some work, which take at least `min_seconds` together.

    Work on a GPU must wait for the device itself. The warm-up pass is not counted, unless it takes more than
    `long_pass` seconds: then it is the only one, because set-up time hardly matters in it.
    """
    if warmup and (first := _seconds(work)) > long_pass:
        return [first]
    timed = [_seconds(work) for _ in range(max(1, passes))]
    while sum(timed) < min_seconds:
        timed.append(_seconds(work))
    return timed


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
