"""Compare two models that give an image a number on the same images, from their predictions."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from regraft.errors import DataError
from regraft.evaluation.comparison import matching_rows, of_draws
from regraft.evaluation.intervals import draw_image_weights
from regraft.evaluation.regression.predictions import RegressionPredictions


@dataclass(frozen=True)
class ErrorDifference:
    """Mean absolute error (MAE) of a first model minus that of a second on the same images, in their unit."""

    mae: float
    interval: tuple[float, float]  # 95 %, by the paired Bayesian bootstrap over the images
    count: int
    p: float  # two-sided, from the same draws: at least 2 in 4,001

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self) | {"interval": list(self.interval)}


def paired_error_difference(first: RegressionPredictions, second: RegressionPredictions) -> ErrorDifference:
    """Compare two models by image id; DataError if there are no images, or the images or their numbers differ.

    Each draw of the Bayesian bootstrap (Rubin 1981, Annals of Statistics 9) has the same weights of the images for both
    models, so that what makes images hard for both does not widen the interval.
    """
    rows = matching_rows(first.ids, second.ids)
    if not np.array_equal(first.targets, second.targets[rows]):
        raise DataError("The two predictions have different numbers for the same images; expected equal numbers.")
    gaps = np.abs(first.residuals) - np.abs(second.residuals[rows])
    drawn = np.concatenate([weights @ gaps for weights in draw_image_weights(len(gaps))])
    difference = float(gaps.mean())
    interval, p = of_draws(difference, drawn)
    return ErrorDifference(difference, interval, len(gaps), p)
