"""The wrong answers that a run is surest of, with their images.

Enters: a run whose images can still be read. Leaves: `Mistake`s, the surest first.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from regraft.data.dataset import Dataset
from regraft.data.decode import ImageSource
from regraft.errors import DataError, ImageError, UsageError
from regraft.pipeline.images import images_of
from regraft.pipeline.run import Run


@dataclass(frozen=True)
class Mistake:
    """One image that is taken for another class.

    Attributes:
        path: Its name in the data.
        label: The class that it is of.
        content: What the decoder reads.
    """

    path: str
    label: str
    content: ImageSource


def surest_mistakes(run: Run, count: int, data: Dataset | Path | str | None = None) -> list[Mistake]:
    """The most confident wrong answers on the test images (the validation images where there are none), if any.

    Args:
        run: With predictions.
        count: At most so many.
        data: Where the images are now; default: where the run says that they were.

    Raises:
        UsageError: The images are not known to be anywhere.
        DataError: An image is gone, or another one.
    """
    source = images_of(run, data)
    if source is None:
        raise UsageError(
            f"{run.path} does not say where its images are now. Expected --data with them, or data= in Python."
        )
    known = run.predictions
    part = known.part("test" if "test" in known.parts else "val")
    if not len(part):
        raise UsageError(f"{run.path} keeps no predictions of images that it was not trained on.")
    wrong = np.flatnonzero(part.predicted != part.labels)
    wrong = wrong[np.argsort(-part.confidence[wrong], kind="stable")][:count]
    try:
        return [Mistake(part.ids[i], part.classes[part.labels[i]], source(part.ids[i])) for i in wrong.tolist()]
    except ImageError as error:
        raise DataError(f"{error} (give the run's own images by --data)") from error
