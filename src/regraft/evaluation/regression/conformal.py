"""Prediction intervals of numbers by split conformal prediction."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from regraft.data.pooling import Counted
from regraft.errors import UsageError
from regraft.evaluation.intervals import wilson_interval

#: Share of the images whose number is in their interval, unless another one is asked for.
COVERAGE = 0.9


def conformal_half_width(residuals: np.ndarray, coverage: float = COVERAGE) -> float | None:
    """Half the width of intervals about a prediction that contain the true number with a required probability.

    It is the ceil((n + 1) * coverage)-th smallest absolute residual of n images to which, as far as possible, neither
    weights nor settings were fitted (Lei et al. 2018, JASA 113, 1094-1111, algorithm 2). For images from the same
    distribution the intervals have at least this coverage, whatever the model; all are equally wide.

    Args:
        residuals: Predicted minus true numbers, float64 (n,).
        coverage: Required share, above 0 and below 1.

    Returns:
        The half width, or None where there are too few images: only an infinite interval would have the coverage.

    Raises:
        UsageError: The coverage is not between 0 and 1.
    """
    if not 0 < coverage < 1:
        raise UsageError(f"The required coverage is {coverage:g}; expected a share above 0 and below 1.")
    rank = math.ceil((len(residuals) + 1) * coverage - 1e-9)
    if not 0 < rank <= len(residuals):
        return None
    return float(np.sort(np.abs(residuals))[rank - 1])


@dataclass(frozen=True)
class IntervalCoverage:
    """How many of `count` true numbers are within `half_width` of their predictions; None without intervals."""

    count: int
    half_width: float | None
    coverage: float | None  # share of them, 0..1
    interval: tuple[float, float] | None  # 95 % Wilson interval of the share

    @property
    def is_miscalibrated(self) -> bool:
        """Whether fewer true numbers than promised are in their intervals, beyond chance."""
        return self.interval is not None and self.interval[1] < COVERAGE

    def describe(self, counted: Counted = "image") -> str:
        """The share in a few words."""
        if self.coverage is None or self.interval is None:
            return f"there are no intervals, which need {least_images()} validation {counted}s"
        low, high = self.interval
        return (
            f"{100 * self.coverage:.1f} % (95 % interval {100 * low:.1f} to {100 * high:.1f}), of {100 * COVERAGE:g} %"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self) | {"interval": None if self.interval is None else list(self.interval)}


def measure_coverage(residuals: np.ndarray, half_width: float | None) -> IntervalCoverage:
    """Count the absolute residuals, float64 (n,), n >= 1, up to the half width."""
    if half_width is None:
        return IntervalCoverage(len(residuals), None, None, None)
    hits = int((np.abs(residuals) <= half_width).sum())
    return IntervalCoverage(len(residuals), half_width, hits / len(residuals), wilson_interval(hits, len(residuals)))


def least_images(coverage: float = COVERAGE) -> int:
    """The fewest images from which there is a finite interval of this coverage."""
    return math.ceil(coverage / (1 - coverage) - 1e-9)
