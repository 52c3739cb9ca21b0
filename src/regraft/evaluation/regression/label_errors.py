"""Find numbers of images that are likely wrong, from predictions of a model that was trained without these images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from regraft.data.quality.numbers import far_out


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

    The more precise the model, the smaller is the error that it finds, and a model that explains little finds few:
    they are far out as `regraft.data.quality.numbers.far_out` says.

    Args:
        targets: The numbers of the images, float64 (N,).
        values: Predictions by models that were trained without these images, float64 (N,).
    """
    residuals = values - targets
    far = np.flatnonzero(far_out(residuals)).tolist()
    doubts = [NumberDoubt(i, float(targets[i]), float(values[i])) for i in far]
    return sorted(doubts, key=lambda doubt: -doubt.error)
