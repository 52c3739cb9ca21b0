"""Fit the calibration of each class to images outside the training set, and measure it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from regraft.data.pooling import Counted
from regraft.errors import DataError
from regraft.evaluation.calibration import (
    Calibration,
    chance_errors,
    compare_shares,
    describe_error,
    exceeds_chance,
    read_calibration,
)
from regraft.evaluation.multilabel.metrics import binary_log_loss
from regraft.evaluation.multilabel.predictions import MultilabelPredictions

#: Bounds of the logarithm of the slope, and of the offset.
_LOG_SLOPE, _OFFSET = 3.0, 20.0
#: Simulations of a calibrated model for each class: at most, at least, and values of all classes together.
_MOST_DRAWS, _LEAST_DRAWS, _VALUES = 1000, 200, 40_000_000


@dataclass(frozen=True)
class MultilabelCalibration:
    """Agreement of the probability of each class with how often images have it, and the mean over the classes.

    Attributes:
        ece: Mean of the classes' expected calibration errors, 0..1.
        chance: The same of a calibrated model with these probabilities, by simulation, 0..1.
        chance_interval: The central 95 % of the simulations.
        per_class: Calibration of each class by itself, over all images, in class order.
    """

    ece: float
    chance: float
    chance_interval: tuple[float, float]
    per_class: tuple[Calibration, ...]

    @property
    def images(self) -> int:
        """Number of images."""
        return self.per_class[0].images

    @property
    def is_miscalibrated(self) -> bool:
        """Whether the mean error is larger than chance alone gives in 97.5 % of the simulations."""
        return exceeds_chance(self.ece, self.images, self.chance_interval)

    def describe(self, counted: Counted = "image") -> str:
        """The mean error beside that of chance, in words; withheld on few images."""
        return describe_error(self.ece, self.images, self.chance, self.chance_interval, counted)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "ece": self.ece,
            "chance": self.chance,
            "chance_interval": list(self.chance_interval),
            "is_miscalibrated": self.is_miscalibrated,
            "per_class": [one.to_json() for one in self.per_class],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> MultilabelCalibration:
        """The inverse of `to_json`; DataError for any other value."""
        try:
            low, high = value["chance_interval"]
            return cls(value["ece"], value["chance"], (low, high), tuple(map(read_calibration, value["per_class"])))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"not a calibration: {error!r}; expected the output of `to_json`") from error


def measure_label_calibration(predictions: MultilabelPredictions) -> MultilabelCalibration:
    """Compare the probabilities of each class with how often images have it; DataError without predictions."""
    if not len(predictions):
        raise DataError("0 predictions; expected at least one image to measure calibration")
    truth, probabilities = predictions.indicators, predictions.probabilities
    draws = int(np.clip(_VALUES // truth.size, _LEAST_DRAWS, _MOST_DRAWS))
    simulated = [chance_errors(column, draws=draws, seed=i) for i, column in enumerate(probabilities.T)]
    per_class = tuple(
        compare_shares(said, has, chance, brier=float(((said - has) ** 2).mean()), loss=binary_log_loss(has, said))
        for has, said, chance in zip(truth.T, probabilities.T, simulated, strict=True)
    )
    mean = np.mean(simulated, axis=0)
    low, high = np.quantile(mean, (0.025, 0.975))
    ece = float(np.mean([one.ece for one in per_class]))
    return MultilabelCalibration(ece, float(mean.mean()), (float(low), float(high)), per_class)


def fit_slopes_and_offsets(indicators: np.ndarray, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each class, the slope a > 0 and the offset b with which sigmoid(a z + b) has the least cross-entropy.

    Source: Platt 1999, "Probabilistic Outputs for Support Vector Machines".

    Standard normal priors of log a and b, with the weight of one image each, keep both near 1 and 0 for a class that
    few images have.

    Args:
        indicators: Whether each image has each class, bool (N, C).
        logits: float64 (N, C).

    Returns:
        Slopes and offsets, float64 (C,); 1 and 0 without images.
    """
    from scipy.optimize import minimize  # takes a third of a second to import

    slopes, offsets = np.ones(logits.shape[1]), np.zeros(logits.shape[1])
    for column in range(logits.shape[1] if len(logits) else 0):
        z, sign = logits[:, column], np.where(indicators[:, column], 1.0, -1.0)

        def loss(values: np.ndarray, z: np.ndarray = z, sign: np.ndarray = sign) -> tuple[float, np.ndarray]:
            slope = np.exp(values[0])
            margin = sign * (slope * z + values[1])
            weight = -sign / (1 + np.exp(np.clip(margin, -500, 500)))
            gradient = np.array([(weight * slope * z).sum(), weight.sum()]) + values
            return float(np.logaddexp(0, -margin).sum() + (values**2).sum() / 2), gradient

        bounds = [(-_LOG_SLOPE, _LOG_SLOPE), (-_OFFSET, _OFFSET)]
        found = minimize(loss, np.zeros(2), jac=True, method="L-BFGS-B", bounds=bounds)
        slopes[column], offsets[column] = np.exp(found.x[0]), found.x[1]
    return slopes, offsets
