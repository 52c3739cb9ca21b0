from __future__ import annotations

import pytest

from regraft import timing
from regraft.timing import time_passes


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that moves only when a test moves it."""
    now = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    return now


def test_the_warm_up_pass_is_not_counted(clock: list[float]) -> None:
    durations = iter([5.0, 1.0, 2.0, 3.0])

    def work() -> None:
        clock[0] += next(durations)

    assert time_passes(work) == [1.0, 2.0, 3.0]


def test_a_long_first_pass_is_the_only_one(clock: list[float]) -> None:
    def work() -> None:
        clock[0] += 5.0

    assert time_passes(work, long_pass=4.0) == [5.0]
    assert time_passes(work, passes=1, long_pass=6.0) == [5.0]


def test_passes_go_on_until_they_took_the_least_time(clock: list[float]) -> None:
    def work() -> None:
        clock[0] += 0.5

    assert time_passes(work, passes=2, min_seconds=2.0, warmup=False) == [0.5] * 4
    assert time_passes(work, passes=3, min_seconds=0.1) == [0.5] * 3
