"""Find the most confident errors of a run, with their images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from regraft.data.dataset import Dataset
from regraft.data.decode import ImageSource
from regraft.errors import DataError, ImageError, UsageError
from regraft.runs.run import Run
from regraft.runs.run_images import images_of


@dataclass(frozen=True)
class TopLoss:
    """A misclassified image: its path in the data, its true class, and the content that the decoder reads."""

    path: str
    label: str
    content: ImageSource


def top_losses(run: Run, count: int, data: Dataset | Path | str | None = None) -> list[TopLoss]:
    """Return at most `count` errors on the test images (validation images without a test part), most confident first.

    `data` has the run's images; default: their path in the run. Raises `UsageError` if the images cannot be found, and
    `DataError` if one is missing or has changed.
    """
    source = images_of(run, data)
    if source is None:
        raise UsageError(f"The images of {run.path} cannot be found. Give them with --data, or data= in Python.")
    part = run.predictions_of()
    wrong = np.flatnonzero(part.predicted != part.labels)
    wrong = wrong[np.argsort(-part.confidence[wrong], kind="stable")][:count]
    try:
        return [TopLoss(part.ids[i], part.classes[part.labels[i]], source(part.ids[i])) for i in wrong.tolist()]
    except ImageError as error:
        raise DataError(f"{error} (give the run's own images with --data)") from error
