"""Find numbers of images that are likely wrong, from predictions of a model that was trained without these images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: Distance from the quartiles, in interquartile ranges, from which on Tukey calls a value far out.
FAR_OUT = 3.0


@dataclass(frozen=True)
class NumberDoubt:
    """An image whose number is far from what a model that was trained without it predicts.

    Attributes:
        index: Number of the image.
        target: Its number, as labeled.
        value: Its predicted number.
    """

    index: int
    target: float
    value: float

    @property
    def error(self) -> float:
        """Absolute difference of the two numbers."""
        return abs(self.value - self.target)


def find_number_doubts(targets: np.ndarray, values: np.ndarray) -> list[NumberDoubt]:
    """Find images whose residual is far out among those of all images, the largest error first.

    These are residuals more than three interquartile ranges outside of the quartiles (Tukey 1977, Exploratory Data
    Analysis, the outer fences), which about 2 in a million normal ones are: the more precise the model, the smaller is
    the error that it finds, and a model that explains little finds few.

    Args:
        targets: The numbers of the images, float64 (N,).
        values: Predictions by models that were trained without these images, float64 (N,).
    """
    residuals = values - targets
    if not len(residuals):
        return []
    low, high = np.quantile(residuals, (0.25, 0.75))
    reach = FAR_OUT * (high - low)
    far = np.flatnonzero((residuals < low - reach) | (residuals > high + reach))
    doubts = [NumberDoubt(int(i), float(targets[i]), float(values[i])) for i in far]
    return sorted(doubts, key=lambda doubt: -doubt.error)
