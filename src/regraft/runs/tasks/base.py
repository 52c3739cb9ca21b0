"""What all tasks have in common: the results of a training, and the pictures of its sample predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from regraft.data.dataset import Split
from regraft.data.preprocessing import Preprocessing
from regraft.data.samples import Part
from regraft.evaluation.tasks import AnyPredictions

T = TypeVar("T")
#: What charts call a part.
PART_TITLES = {"val": "Validation", "test": "Test"}


class TaskResults(Protocol):
    """Predictions of the val and test images of a run, as the calibrated model gives them, and what is made of them."""

    @property
    def predictions(self) -> AnyPredictions:
        """Those of the calibrated model."""
        ...

    def write(self, folder: Path) -> str:
        """Write the predictions into the run's folder; returns a sentence for the user, or ""."""
        ...

    def measure(self, split: Split, parts: Sequence[Part]) -> dict[str, Any]:
        """The sections `val`, `test` and `calibration` of `metrics.json`, for the parts that have images."""
        ...

    def plot(
        self, folder: Path, split: Split, part: Part, metrics: Mapping[str, Any], preprocessing: Preprocessing
    ) -> None:
        """Draw one part into PNG files, from these metrics."""
        ...


def with_images(
    rows: Iterable[int], split: Split, part: Part, preprocessing: Preprocessing, tile: Callable[[np.ndarray, int], T]
) -> list[T]:
    """`tile(image, row)` for rows of a part that have a file; images as the decoder gives them, uint8 (H, W, 3)."""
    dataset = split[part]
    sources = ((dataset.source(dataset.samples[row]), row) for row in rows)
    return [tile(preprocessing.picture(source, max_pixels=dataset.max_pixels), row) for source, row in sources]
