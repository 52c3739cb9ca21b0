"""How far wrong answers are from right ones, where the classes have an order: what this adds to an `Evaluation`.

Input: a confusion matrix whose classes are in their order. Output: quadratic weighted kappa, the mean absolute error in
steps and the accuracy within one step, each with an interval.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from regraft.evaluation.intervals import draw_sums, interval_about


@dataclass(frozen=True)
class OrdinalScores:
    """Metrics of classes that have an order; a step is from one class to the next.

    Attributes:
        quadratic_kappa: Agreement beyond chance, where an error costs the square of its steps: 1 is perfect, 0 what
            answers without a look at the images would have, and less is worse (Cohen 1968, Psychological Bulletin 70,
            213-220). None where all images and answers are of one class.
        mean_absolute_error: Mean number of steps between the predicted class and the true one, 0..C-1.
        within_one: Share of the images whose predicted class is the true one or beside it, 0..1.
        intervals: 95 % intervals by the Bayesian bootstrap, (low, high), by these names; that of no kappa is missing.
    """

    quadratic_kappa: float | None
    mean_absolute_error: float
    within_one: float
    intervals: Mapping[str, tuple[float, float]]

    def rows(self) -> list[tuple[str, float, tuple[float, float]]]:
        """Names of the metrics as people write them, their values and intervals."""
        names = {
            "quadratic_kappa": "quadratic weighted kappa", "mean_absolute_error": "mean absolute error (steps)",
            "within_one": "accuracy within one step",
        }  # fmt: skip
        return [(names[name], getattr(self, name), interval) for name, interval in self.intervals.items()]

    def describe(self) -> str:
        """One sentence with the three numbers."""
        kappa = ""
        if self.quadratic_kappa is not None:
            low, high = self.intervals["quadratic_kappa"]
            kappa = f"quadratic weighted kappa {self.quadratic_kappa:.3f} (95 % interval {low:.3f} to {high:.3f}), "
        return (
            f"In the order of the classes: {kappa}mean absolute error {self.mean_absolute_error:.3f} steps, "
            f"{100 * self.within_one:.1f} % within one step."
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self) | {"intervals": {name: list(interval) for name, interval in self.intervals.items()}}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> OrdinalScores:
        """The inverse of `to_json`."""
        intervals = {name: (float(low), float(high)) for name, (low, high) in value["intervals"].items()}
        return cls(**{**value, "intervals": intervals})


def measure_order(confusion: np.ndarray) -> OrdinalScores:
    """Compute the metrics of a confusion matrix, int (C, C), with an image or more; row: true class."""
    values = _values(len(confusion))
    found = _metrics((confusion[..., None] * values).sum(axis=(0, 1)))
    drawn = [_metrics(sums) for sums in draw_sums(confusion, values)]
    ranges = {"quadratic_kappa": (-1.0, 1.0), "mean_absolute_error": (0.0, float(len(confusion) - 1))}
    intervals = {}
    for name, value in found.items():
        if np.isfinite(value):
            draws = np.concatenate([draw[name] for draw in drawn])
            low, high = interval_about(float(value), draws, within=ranges.get(name, (0.0, 1.0))).tolist()
            intervals[name] = (low, high)
    kappa, steps, near = (float(value) for value in found.values())
    return OrdinalScores(kappa if np.isfinite(kappa) else None, steps, near, intervals)


def quadratic_kappa(confusion: np.ndarray) -> float:
    """Quadratic weighted kappa of a confusion matrix, int (C, C), at most 1; 0 where nothing can be beyond chance."""
    kappa = float(_metrics((confusion[..., None] * _values(len(confusion))).sum(axis=(0, 1)))["quadratic_kappa"])
    return kappa if np.isfinite(kappa) else 0.0


def drawn_kappa(predicted: np.ndarray, labels: np.ndarray, classes: int, weights: np.ndarray) -> np.ndarray:
    """Quadratic weighted kappa in each draw of a bootstrap, float64 (b,), at most 1; 0 as in `quadratic_kappa`.

    Predicted classes are int (R, N), whose repeats are averaged, labels (N,), and the weights of the images (b, N).
    """
    sums = weights @ _values(classes)[labels, predicted].mean(axis=0)
    return np.asarray(np.nan_to_num(_metrics(sums)["quadratic_kappa"], nan=0.0))


def _values(classes: int) -> np.ndarray:
    """What an image adds to the sums of which all metrics are functions, by its true and predicted class, (C, C, 7)."""
    true, predicted = np.indices((classes, classes))
    distance, both = np.abs(true - predicted), true**2 + predicted**2
    columns = (np.ones_like(true), distance, distance <= 1, distance**2, true, predicted, both)
    return np.stack(columns, axis=-1).astype(np.float64)


def _metrics(sums: np.ndarray) -> dict[str, np.ndarray]:
    """The metrics, (...), of sums over images, (..., 7): ones, steps, small steps, squares, and moments of classes.

    By chance, the squared difference of classes i and j has the sum `sum(i^2 + j^2) - 2 sum(i) sum(j) / n`.
    """
    count, distance, near, squares, true, predicted, both = np.moveaxis(sums, -1, 0)
    by_chance = both - 2 * true * predicted / count
    with np.errstate(divide="ignore", invalid="ignore"):
        kappa = np.where(by_chance > 1e-9 * count, 1 - squares / by_chance, np.nan)
    return {"quadratic_kappa": kappa, "mean_absolute_error": distance / count, "within_one": near / count}
