"""Images of several requests become one pass of the network.

Enters: images, one at a time, from the server's event loop. Leaves: answers as futures. One thread of its own runs the
engines: while it is at work, what arrives waits, and all of it becomes the next batch; when it is idle, the first image
waits a little for others.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from regraft.models.inference import Prediction
from regraft.serving.engines import Engine

_log = logging.getLogger("regraft.serving")


@dataclass(frozen=True, eq=False)
class Answer:
    """What came of one image.

    Attributes:
        prediction: The answer.
        heat: float32 (S, S) in [0, 1] for the likeliest class; None where it was not asked for.
    """

    prediction: Prediction
    heat: np.ndarray | None = None


@dataclass(eq=False)
class _Job:
    engine: Engine
    pixels: np.ndarray
    explain: bool
    arrived: float = field(default_factory=time.monotonic)
    future: Future[Answer] = field(default_factory=Future)


class Batcher:
    """The thread that runs the engines.

    Args:
        size: Images of one pass at most.
        delay: Seconds that the first image of a batch waits for others.
        on_batch: Called in the thread with (engine, images, seconds) after each pass.
    """

    def __init__(self, *, size: int, delay: float, on_batch: Callable[[Engine, int, float], None]) -> None:
        """Nothing runs yet."""
        self._size, self._delay, self._on_batch = size, delay, on_batch
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="regraft-inference", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Answer what waits, then end."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()
        self._thread.join()

    def submit(self, engine: Engine, pixels: np.ndarray, *, explain: bool = False) -> Future[Answer]:
        """Have an image answered; to cancel the future before its turn takes it out.

        Args:
            engine: Whose answer.
            pixels: uint8 (S, S, 3).
            explain: Whether a heat map is wanted.
        """
        job = _Job(engine, pixels, explain)
        with self._changed:
            if self._ending:
                raise RuntimeError("the batcher has ended")
            self._jobs.append(job)
            self._changed.notify_all()
        return job.future

    def _run(self) -> None:
        while batch := self._next():
            batch = [job for job in batch if job.future.set_running_or_notify_cancel()]
            if batch:
                self._answer(batch)

    def _next(self) -> list[_Job]:
        """The oldest image with others of its model; none at the end."""
        with self._changed:
            while not self._jobs:
                if self._ending:
                    return []
                self._changed.wait()
            engine = self._jobs[0].engine
            until = self._jobs[0].arrived + self._delay
            while sum(job.engine is engine for job in self._jobs) < self._size and not self._ending:
                left = until - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            batch = [job for job in self._jobs if job.engine is engine][: self._size]
            for job in batch:
                self._jobs.remove(job)
            return batch

    def _answer(self, batch: list[_Job]) -> None:
        engine, started = batch[0].engine, time.monotonic()
        try:
            predictions = engine.predict(np.stack([job.pixels for job in batch]))
        except Exception as error:  # a runtime's own classes; the server answers that it failed
            if len(batch) > 1:  # one by one, so that none fails for another
                for job in batch:
                    self._answer([job])
                return
            _log.exception("prediction failed", extra={"event": "prediction-failed"})
            batch[0].future.set_exception(error)
            return
        self._on_batch(engine, len(batch), time.monotonic() - started)
        for job, prediction in zip(batch, predictions, strict=True):
            if not job.explain:
                job.future.set_result(Answer(prediction))
        for job, prediction in zip(batch, predictions, strict=True):
            if job.explain:
                try:
                    heat = engine.explain(job.pixels, int(prediction.probabilities.argmax()))
                    job.future.set_result(Answer(prediction, heat))
                except Exception as error:
                    _log.exception("explanation failed", extra={"event": "explanation-failed"})
                    job.future.set_exception(error)
