"""A predictor whose speed, errors and rounding a test controls, and the values of metrics."""

from __future__ import annotations

import threading

import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from regraft.data.labels import Task
from regraft.data.preprocessing import Preprocessing
from regraft.errors import ExportError
from regraft.serving.metrics import Metrics


class MeanPredictor:
    """Its probability of "bright" is the mean of the image.

    It waits while `gate` is closed, fails for images of the value `failing`, and adds a little in batches larger than
    `exact`.
    """

    classes = ("dark", "bright")
    preprocessing = Preprocessing(size=8)
    thresholds: tuple[float, ...] = ()
    task: Task = "classification"
    half_width: float | None = None

    def __init__(self, *, exact: int = 64, failing: int = 13) -> None:
        self.exact, self.failing = exact, failing
        self.batches: list[int] = []
        self.gate = threading.Event()
        self.gate.set()

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        self.gate.wait(20)
        self.batches.append(len(images))
        if (images == self.failing).all(axis=(1, 2, 3)).any():
            raise ExportError("a secret reason")
        bright = images.mean(axis=(1, 2, 3)) / 255 + (1e-16 if len(images) > self.exact else 0)
        return np.stack([1 - bright, bright], axis=1)


def pixels(value: int) -> np.ndarray:
    """An image of one value."""
    return np.full((8, 8, 3), value, np.uint8)


def metric_values(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """The values of metrics by name and the values of their labels, in the order of the labels' names."""
    families = text_string_to_metric_families(metrics.text().decode())
    samples = [sample for family in families for sample in family.samples]
    return {(one.name, *(text for _, text in sorted(one.labels.items()))): one.value for one in samples}
