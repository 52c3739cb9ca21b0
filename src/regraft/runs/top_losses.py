"""Find the most confident errors of a run, with their images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from regraft.data.dataset import Dataset
from regraft.data.decode import ImageSource
from regraft.errors import DataError, ImageError, UsageError
from regraft.evaluation.multilabel.predictions import MultilabelPredictions
from regraft.evaluation.regression.predictions import RegressionPredictions
from regraft.runs.run import Run
from regraft.runs.run_images import SourceOf, images_of


@dataclass(frozen=True)
class TopLoss:
    """A misclassified image: its path in the data, its true class, and the content that the decoder reads.

    Where an image has any number of labels, `label` is all that it has, as `join_labels` writes them, and `wrong` the
    class that the model misses or gives without reason; else None.
    """

    path: str
    label: str
    content: ImageSource
    wrong: str | None = None


def top_losses(run: Run, count: int, data: Dataset | Path | str | None = None) -> list[TopLoss]:
    """Return at most `count` errors on the test images (validation images without a test part), most confident first.

    Of several labels these are the most confident error about each label, then the second of each, and so on. Of
    numbers they are the images with the largest errors.

    `data` has the run's images; default: their path in the run. Raises `UsageError` if the images cannot be found, and
    `DataError` if one is missing or has changed.
    """
    source = images_of(run, data)
    if source is None:
        raise UsageError(f"The images of {run.path} cannot be found. Give them with --data, or data= in Python.")
    if run.task == "multilabel":
        return _label_errors(run.label_predictions_of(), count, source)
    if run.task == "regression":
        return _number_errors(run, count, source)
    part = run.predictions_of()
    wrong = np.flatnonzero(part.predicted != part.labels)
    wrong = wrong[np.argsort(-part.confidence[wrong], kind="stable")][:count]
    try:
        return [TopLoss(part.ids[i], part.classes[part.labels[i]], source(part.ids[i])) for i in wrong.tolist()]
    except ImageError as error:
        raise _not_found(error) from error


def _label_errors(part: MultilabelPredictions, count: int, source: SourceOf) -> list[TopLoss]:
    right = np.where(part.indicators, part.probabilities, 1 - part.probabilities)
    errors: list[tuple[int, float, int, int]] = []
    for column in range(len(part.classes)):
        rows = np.flatnonzero(part.predicted[:, column] != part.indicators[:, column])
        rows = rows[np.argsort(right[rows, column], kind="stable")]
        errors += [(place, float(right[row, column]), row, column) for place, row in enumerate(rows.tolist())]
    labels = part.names(part.indicators)
    try:
        return [
            TopLoss(part.ids[row], labels[row], source(part.ids[row]), part.classes[column])
            for _, _, row, column in sorted(errors)[:count]
        ]
    except ImageError as error:
        raise _not_found(error) from error


def _number_errors(run: Run, count: int, source: SourceOf) -> list[TopLoss]:
    part = run.stored()
    assert isinstance(part, RegressionPredictions)
    largest = np.argsort(-np.abs(part.residuals), kind="stable")[:count]
    try:
        return [TopLoss(part.ids[i], f"{part.targets[i]:.4g}", source(part.ids[i])) for i in largest.tolist()]
    except ImageError as error:
        raise _not_found(error) from error


def _not_found(error: ImageError) -> DataError:
    return DataError(f"{error} (give the run's own images with --data)")
