"""Batches, and the sizes that an engine may use."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from regraft.data.preprocessing import Preprocessing
from regraft.errors import ExportError, UsageError
from regraft.serving.batching import Batcher
from regraft.serving.engines import Engine


class Means:
    """A predictor whose answer is the image's mean; in batches above `exact` it is off by a little."""

    classes = ("dark", "bright")
    preprocessing = Preprocessing(size=8)

    def __init__(self, exact: int = 64) -> None:
        self.exact, self.asked = exact, list[int]()
        self.gate = threading.Event()
        self.gate.set()

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        self.gate.wait(10)
        self.asked.append(len(images))
        if (images == 13).all(axis=(1, 2, 3)).any():
            raise ExportError("cannot be run")
        bright = images.mean(axis=(1, 2, 3)) / 255 + (1e-16 if len(images) > self.exact else 0)
        return np.stack([1 - bright, bright], axis=1)


def image(value: int) -> np.ndarray:
    return np.full((8, 8, 3), value, np.uint8)


@contextmanager
def running(size: int = 4, delay: float = 0.0) -> Iterator[tuple[Batcher, list[int]]]:
    batches: list[int] = []
    batcher = Batcher(size=size, delay=delay, on_batch=lambda engine, count, seconds: batches.append(count))
    batcher.start()
    try:
        yield batcher, batches
    finally:
        batcher.stop()


def test_what_waits_becomes_a_batch() -> None:
    model = Means()
    engine = Engine(model, "means")
    engine.sizes = (4, 2, 1)
    with running() as (batcher, batches):
        model.gate.clear()
        futures = [batcher.submit(engine, image(0))]
        while not futures[0].running():
            time.sleep(0.001)
        futures += [batcher.submit(engine, image(value)) for value in range(1, 10)]
        model.gate.set()
        found = [future.result(10).prediction.probabilities[1] for future in futures]
    assert found == [value / 255 for value in range(10)]
    assert batches == [1, 4, 4, 1]


def test_the_first_waits_for_others() -> None:
    engine = Engine(Means(), "means")
    engine.sizes = (4, 2, 1)
    with running(delay=5) as (batcher, batches):
        started = time.monotonic()
        futures = [batcher.submit(engine, image(value)) for value in range(4)]
        for future in futures:
            future.result(10)
        assert time.monotonic() - started < 4  # a full batch waits no longer
    assert batches == [4]


def test_models_are_not_mixed() -> None:
    one, other = Engine(Means(), "one"), Engine(Means(), "other")
    with running(size=8, delay=0.2) as (batcher, batches):
        futures = [batcher.submit(engine, image(9)) for engine in (one, other) * 3]
        for future in futures:
            future.result(10)
    assert batches == [3, 3]


def test_one_that_fails_fails_alone() -> None:
    engine = Engine(Means(), "means")
    with running(size=4, delay=0.2) as (batcher, _):
        futures = [batcher.submit(engine, image(value)) for value in (1, 13, 3, 4)]
        for future, value in zip(futures, (1, 13, 3, 4), strict=True):
            if value == 13:
                with pytest.raises(ExportError):
                    future.result(10)
            else:
                assert future.result(10).prediction.probabilities[1] == value / 255


def test_what_was_cancelled_is_not_computed() -> None:
    model = Means()
    engine = Engine(model, "means")
    with running(size=1) as (batcher, _):
        model.gate.clear()
        first = batcher.submit(engine, image(1))
        while not first.running():
            time.sleep(0.001)
        second, third = batcher.submit(engine, image(2)), batcher.submit(engine, image(3))
        assert second.cancel()
        model.gate.set()
        third.result(10)
    assert model.asked == [1, 1]


def test_what_waits_is_answered_at_the_end() -> None:
    model = Means()
    engine = Engine(model, "means")
    with running(size=2, delay=60) as (batcher, _):
        future = batcher.submit(engine, image(7))
    assert future.result(0).prediction.probabilities[1] == 7 / 255
    with pytest.raises(RuntimeError, match="ended"):
        batcher.submit(engine, image(7))


@pytest.mark.parametrize(("exact", "sizes"), [(64, (16, 8, 4, 2, 1)), (4, (4, 2, 1)), (3, (2, 1)), (1, (1,))])
def test_only_sizes_that_change_no_bit_are_used(exact: int, sizes: tuple[int, ...]) -> None:
    model = Means(exact)
    engine = Engine(model, "means")
    engine.warm_up(20)
    assert engine.sizes == sizes
    model.asked.clear()
    found = engine.predict(np.stack([image(value) for value in range(11)]))
    assert [answer.probabilities[1] for answer in found] == [value / 255 for value in range(11)]
    assert max(model.asked) <= exact
    assert sum(model.asked) == 11


def test_a_predictor_has_no_heat_maps() -> None:
    engine = Engine(Means(), "means")
    assert not engine.explains
    assert not engine.knows_familiarity
    with pytest.raises(UsageError, match="no heat maps"):
        engine.explain(image(1), 0)
