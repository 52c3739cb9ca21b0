"""From image files to probabilities.

Enters: a `Classifier` and any number of image sources. Leaves: one answer for each, in the order given; decoding runs
ahead of the network, and a bad file is an answer too.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from regraft.data.decode import MAX_PIXELS, ImageSource
from regraft.errors import ImageError
from regraft.models.classifier import Classifier


@dataclass(frozen=True)
class Prediction:
    """The answer for one image.

    Attributes:
        source: As it was given: a path, or "" for bytes and arrays.
        classes: Class names.
        probabilities: float64 (classes,), adding up to 1; empty where the image could not be read.
        error: Why it could not be read, or None.
    """

    source: str
    classes: tuple[str, ...]
    probabilities: np.ndarray
    error: str | None = None

    @property
    def label(self) -> str:
        """The likeliest class; "" where the image could not be read."""
        return self.classes[int(self.probabilities.argmax())] if self.error is None else ""

    @property
    def confidence(self) -> float:
        """Probability of the likeliest class, 0..1; 0 where the image could not be read."""
        return float(self.probabilities.max()) if self.error is None else 0.0

    def top(self, count: int = 5) -> list[tuple[str, float]]:
        """The likeliest classes with their probabilities, best first; ties in class order."""
        order = np.argsort(-self.probabilities, kind="stable")[:count]
        return [(self.classes[i], float(self.probabilities[i])) for i in order]


def one_or_many(sources: ImageSource | Iterable[ImageSource]) -> Iterable[ImageSource]:
    """A list of the one image, or the images as they are: an array with four axes is a batch, any other is an image."""
    one = isinstance(sources, (str, Path, bytes)) or (isinstance(sources, np.ndarray) and sources.ndim < 4)
    return [sources] if one else sources  # type: ignore[list-item,return-value]  # the line above told them apart


def predict_images(
    model: Classifier,
    sources: Iterable[ImageSource],
    *,
    batch_size: int = 32,
    max_pixels: int = MAX_PIXELS,
    workers: int | None = None,
) -> Iterator[Prediction]:
    """Predict any number of images as a stream.

    Args:
        model: In any mode; it is used for inference and left as it was.
        sources: Paths, encoded bytes or arrays; read as they are needed.
        batch_size: Images for one pass of the network.
        max_pixels: Larger images count as unreadable.
        workers: Threads that decode ahead; default: one a core.

    Yields:
        One `Prediction` a source, in order.
    """
    count = workers or os.cpu_count() or 1
    waiting: deque[tuple[str, Future[np.ndarray | str]]] = deque()
    batch: list[tuple[str, np.ndarray | str]] = []
    pool = ThreadPoolExecutor(count)
    try:
        for source in sources:
            name = "" if isinstance(source, (bytes, np.ndarray)) else str(source)
            waiting.append((name, pool.submit(_read, model, source, max_pixels)))
            if len(waiting) >= 2 * batch_size + count:
                batch.append(_next(waiting))
                if len(batch) == batch_size:
                    yield from _answer(model, batch)
                    batch = []
        while waiting:
            batch.append(_next(waiting))
            if len(batch) == batch_size or not waiting:
                yield from _answer(model, batch)
                batch = []
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def probabilities_of(model: Classifier, pixels: torch.Tensor) -> np.ndarray:
    """Probabilities of a batch.

    Args:
        model: Its mode is set to inference for the pass and restored.
        pixels: uint8 (N, 3, S, S).

    Returns:
        float64 (N, classes).
    """
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            logits = model(pixels.to(model.mean.device))
            return model.head.probabilities(logits).cpu().numpy()
    finally:
        model.train(was_training)


def _read(model: Classifier, source: ImageSource, max_pixels: int) -> np.ndarray | str:
    try:
        return model.preprocessing(source, max_pixels=max_pixels)
    except ImageError as error:
        return error.reason


def _next(waiting: deque[tuple[str, Future[np.ndarray | str]]]) -> tuple[str, np.ndarray | str]:
    name, future = waiting.popleft()
    return name, future.result()


def _answer(model: Classifier, batch: list[tuple[str, np.ndarray | str]]) -> Iterator[Prediction]:
    good = [pixels for _, pixels in batch if not isinstance(pixels, str)]
    rows = iter(())
    if good:
        rows = iter(probabilities_of(model, torch.from_numpy(np.stack(good)).permute(0, 3, 1, 2)))
    for name, pixels in batch:
        if isinstance(pixels, str):
            yield Prediction(name, model.classes, np.empty(0), pixels)
        else:
            yield Prediction(name, model.classes, next(rows))
