"""Compare two models that give an image any number of classes on the same images, from their predictions."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from regraft.errors import DataError
from regraft.evaluation.comparison import matching_rows, of_draws
from regraft.evaluation.multilabel.metrics import draws_of_average_precision, mean_average_precision
from regraft.evaluation.multilabel.predictions import MultilabelPredictions


@dataclass(frozen=True)
class PrecisionDifference:
    """Mean average precision (mAP) of a first model minus that of a second on the same images, -1..1."""

    mean_average_precision: float
    interval: tuple[float, float]  # 95 %, by the paired Bayesian bootstrap over the images
    count: int
    p: float  # two-sided, from the same draws: at least 2 in 1,001

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self) | {"interval": list(self.interval)}


def paired_precision_difference(first: MultilabelPredictions, second: MultilabelPredictions) -> PrecisionDifference:
    """Compare two models by image id; DataError if there are no images, or the images or their labels differ.

    Each draw of the Bayesian bootstrap (Rubin 1981, Annals of Statistics 9) has the same weights of the images for both
    models, so that what makes images hard for both does not widen the interval.
    """
    rows = matching_rows(first.ids, second.ids)
    if sorted(first.classes) != sorted(second.classes):
        raise DataError("The two predictions have different classes; expected equal ones.")
    columns = [second.classes.index(name) for name in first.classes]
    truth, other = first.indicators, second.probabilities[rows][:, columns]
    if not np.array_equal(truth, second.indicators[rows][:, columns]):
        raise DataError("The two predictions have different labels for the same images; expected equal labels.")
    tested = truth.any(axis=0) & ~truth.all(axis=0)
    if not tested.any():
        raise DataError("Every class is in all images or in none; expected a class that some of them have.")
    draws = [draws_of_average_precision(truth[:, tested], p[:, tested]) for p in (first.probabilities, other)]
    drawn = (draws[0] - draws[1]).mean(axis=1)
    difference = mean_average_precision(truth, first.probabilities) - mean_average_precision(truth, other)
    (low, high), p = of_draws(difference, drawn)
    return PrecisionDifference(difference, (max(-1.0, low), min(1.0, high)), len(first), p)
