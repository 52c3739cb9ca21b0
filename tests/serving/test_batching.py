"""Batches of several requests."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from predictors import MeanPredictor, pixels

from regraft.errors import ExportError
from regraft.serving.batching import Batcher
from regraft.serving.decode_pool import Decoded
from regraft.serving.inference_engine import Engine


def image(value: int) -> Decoded:
    return Decoded(pixels(value), b"jpeg")


@contextmanager
def running(size: int = 4, delay: float = 0.0) -> Iterator[tuple[Batcher, list[int]]]:
    batches: list[int] = []
    batcher = Batcher(size=size, delay=delay, on_batch=lambda engine, count, seconds: batches.append(count))
    batcher.start()
    try:
        yield batcher, batches
    finally:
        batcher.stop()


def test_waiting_images_become_a_batch() -> None:
    model = MeanPredictor()
    engine = Engine(model, "means")
    engine.sizes = (4, 2, 1)
    with running() as (batcher, batches):
        model.gate.clear()
        futures = [batcher.submit(engine, image(0))]
        while not futures[0].running():
            time.sleep(0.001)
        futures += [batcher.submit(engine, image(value)) for value in range(1, 10)]
        model.gate.set()
        probabilities = [future.result(10).prediction.probabilities[1] for future in futures]
    assert probabilities == [value / 255 for value in range(10)]
    assert batches == [1, 4, 4, 1]


def test_first_image_waits_for_others() -> None:
    engine = Engine(MeanPredictor(), "means")
    engine.sizes = (4, 2, 1)
    with running(delay=5) as (batcher, batches):
        started = time.monotonic()
        futures = [batcher.submit(engine, image(value)) for value in range(4)]
        for future in futures:
            future.result(10)
        assert time.monotonic() - started < 4  # a full batch waits no longer
    assert batches == [4]


def test_models_are_not_mixed() -> None:
    one, other = Engine(MeanPredictor(), "one"), Engine(MeanPredictor(), "other")
    with running(size=8, delay=0.2) as (batcher, batches):
        futures = [batcher.submit(engine, image(9)) for engine in (one, other) * 3]
        for future in futures:
            future.result(10)
    assert batches == [3, 3]


def test_failing_image_does_not_affect_others() -> None:
    engine = Engine(MeanPredictor(), "means")
    with running(size=4, delay=0.2) as (batcher, _):
        futures = [batcher.submit(engine, image(value)) for value in (1, 13, 3, 4)]
        for future, value in zip(futures, (1, 13, 3, 4), strict=True):
            if value == 13:
                with pytest.raises(ExportError):
                    future.result(10)
            else:
                assert future.result(10).prediction.probabilities[1] == value / 255


def test_cancelled_image_is_not_computed() -> None:
    model = MeanPredictor()
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
    assert model.batches == [1, 1]


def test_waiting_images_are_answered_at_the_end() -> None:
    model = MeanPredictor()
    engine = Engine(model, "means")
    with running(size=2, delay=60) as (batcher, _):
        future = batcher.submit(engine, image(7))
    assert future.result(0).prediction.probabilities[1] == 7 / 255
    with pytest.raises(RuntimeError, match="stopped"):
        batcher.submit(engine, image(7))
