"""Collect images of several requests into batches.

One thread runs the engines. While it works, arriving images wait and become the next batch. If it is idle, the first
image waits shortly for others.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from regraft.attribution.methods import DIRECTIONS
from regraft.models.inference import Prediction
from regraft.serving.decode_pool import Decoded
from regraft.serving.inference_engine import Engine

#: Largest number of heat maps of an image, those of its most probable labels.
_MAPS = 8
_log = logging.getLogger("regraft.serving")


@dataclass(frozen=True, eq=False)
class Answer:
    """The result for an image: its heat maps, float32 (S, S) in [0, 1], by class; thumbnail is a small JPEG.

    The maps are of the most likely class, of the labels of an image that may have any number, or of what makes a number
    higher and lower.
    """

    prediction: Prediction
    heats: Mapping[str, np.ndarray] = field(default_factory=dict)
    thumbnail: bytes = b""


@dataclass(eq=False)
class _Job:
    engine: Engine
    image: Decoded
    explain: bool
    arrived: float = field(default_factory=time.monotonic)
    future: Future[Answer] = field(default_factory=Future)


class Batcher:
    """A thread that runs the engines on batches of at most `size` images; the first waits `delay` s for others.

    It calls `on_batch` with (engine, number of images, seconds) after each batch.
    """

    def __init__(self, *, size: int, delay: float, on_batch: Callable[[Engine, int, float], None]) -> None:
        self._size, self._delay, self._on_batch = size, delay, on_batch
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="regraft-inference", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Finish the waiting images, then stop the thread."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()
        self._thread.join()

    def submit(self, engine: Engine, image: Decoded, *, explain: bool = False) -> Future[Answer]:
        """Queue an image, with a heat map if `explain`. Cancel the future to remove it from the queue."""
        job = _Job(engine, image, explain)
        with self._changed:
            if self._is_stopping:
                raise RuntimeError("the batcher has stopped")
            self._jobs.append(job)
            self._changed.notify_all()
        return job.future

    def _run(self) -> None:
        while batch := self._next_batch():
            batch = [job for job in batch if job.future.set_running_or_notify_cancel()]
            if batch:
                self._predict(batch)

    def _next_batch(self) -> list[_Job]:
        """The oldest image with others of its engine; empty at the end."""
        with self._changed:
            while not self._jobs:
                if self._is_stopping:
                    return []
                self._changed.wait()
            engine = self._jobs[0].engine
            until = self._jobs[0].arrived + self._delay
            while sum(job.engine is engine for job in self._jobs) < self._size and not self._is_stopping:
                remaining = until - time.monotonic()
                if remaining <= 0:
                    break
                self._changed.wait(remaining)
            batch = [job for job in self._jobs if job.engine is engine][: self._size]
            for job in batch:
                self._jobs.remove(job)
            return batch

    def _predict(self, batch: list[_Job]) -> None:
        engine, started = batch[0].engine, time.monotonic()
        try:
            predictions = engine.predict(np.stack([job.image.pixels for job in batch]))
        except Exception as error:  # runtimes have their own classes of errors
            if len(batch) > 1:  # one by one, so that no image fails because of another
                for job in batch:
                    self._predict([job])
                return
            _log.exception("prediction failed", extra={"event": "prediction-failed"})
            batch[0].future.set_exception(error)
            return
        self._on_batch(engine, len(batch), time.monotonic() - started)
        # Explanations take longer, so they come after all plain predictions of the batch.
        for job, prediction in sorted(zip(batch, predictions, strict=True), key=lambda pair: pair[0].explain):
            if not job.explain:
                job.future.set_result(Answer(prediction))
                continue
            try:
                known, names = _explained(prediction)
                heats = engine.explain(job.image.pixels, [known.index(name) for name in names])
                explained = dict(zip(names, heats, strict=True))
                job.future.set_result(Answer(prediction, explained, job.image.thumbnail))
            except Exception as error:
                _log.exception("explanation failed", extra={"event": "explanation-failed"})
                job.future.set_exception(error)


def _explained(prediction: Prediction) -> tuple[Sequence[str], Sequence[str]]:
    """Whatever may be explained, in the order of the targets, and what is of this image."""
    if prediction.value is not None:
        return DIRECTIONS, DIRECTIONS
    return prediction.classes, prediction.labels[:_MAPS] or (prediction.top(1)[0][0],)
