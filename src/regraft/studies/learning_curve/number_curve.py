"""Learning curves where an image has a number: R2 and mean absolute error by the number of images.

Input: what heads on subsets say of images that they have not seen. Output: a result, and its files.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from regraft.atomic_io import write_json
from regraft.data.labels import Task
from regraft.evaluation.regression.metrics import drawn_scores, evaluate_numbers
from regraft.evaluation.regression.predictions import RegressionPredictions
from regraft.studies.answered import Answered
from regraft.studies.learning_curve.extrapolation import Curve, Interval, describe_gain, draw_weights, extrapolate
from regraft.studies.learning_curve.plots import ScoreCurve, plot_learning_curve
from regraft.studies.learning_curve.subsets import SubsetPredictions
from regraft.studies.learning_curve.table import write_curves


@dataclass(frozen=True, eq=False)
class NumberLearningCurve:
    """Errors of numbers by the number of images, or of groups of images that get one answer each.

    Attributes:
        images: Number of images, or of groups.
        quantity: What the numbers are.
        r2: R2 by the same, the share of the variance that is explained.
        mae: Mean absolute error by the same, in the unit of the numbers; its gain is by how much it falls.
        heads: Number of heads that were fitted.
        repeats: Number of divisions into folds.
        folds: Number of folds.
        seconds: Wall-clock time: `scan`, `features`, `heads`, `curves`, `total`.
        answered: The images, or the groups, in words.
        at_chance: Why nothing is extrapolated: the head is not clearly better than the mean number; "" if it is.
    """

    task: ClassVar[Task] = "regression"

    images: int
    quantity: str
    r2: Curve
    mae: Curve
    heads: int
    repeats: int
    folds: int
    seconds: dict[str, float]
    answered: Answered
    at_chance: str = ""

    def __repr__(self) -> str:
        if self.at_chance:
            return f"NumberLearningCurve({self.answered.text}, at chance, not extrapolated)"
        gain = describe_gain(self.r2.gain, self.r2.verdict)
        return f"NumberLearningCurve({self.answered.text}, R2 {self.r2.measured[-1].value:.3f}, doubling {gain})"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        unit = self.answered.unit
        curves: dict[str, Any] = {"r2": self.r2.to_json(unit), "mae": self.mae.to_json(unit)}
        if self.at_chance:
            curves = {name: {"measured": curve["measured"]} for name, curve in curves.items()}
        return {
            "task": self.task,
            "quantity": self.quantity,
            unit: self.images,
            "folds": self.folds,
            "repeats": self.repeats,
            "heads": self.heads,
            "withheld": self.at_chance or None,
            **curves,
            "seconds": self.seconds,
        }

    def write(self, folder: Path) -> None:
        """Write `learning_curve.csv`, `.png` and `.json` into a folder; at chance without what is extrapolated."""
        unit, curves = self.answered.unit, [("r2", "", self.r2), ("mae", "", self.mae)]
        write_curves(folder / "learning_curve.csv", curves, unit, measured_only=bool(self.at_chance))
        plot_learning_curve(
            ScoreCurve(self.r2, "R2"), ScoreCurve(self.mae, "Mean absolute error", self.quantity),
            folder / "learning_curve.png", unit=unit, at_chance="the mean number" if self.at_chance else "",
        )  # fmt: skip
        write_json(folder / "learning_curve.json", self.to_json())  # last: where it is, all is


def fit_number_curves(
    predictions: SubsetPredictions, truth: np.ndarray, groups: np.ndarray, *, seed: int = 0
) -> tuple[Curve, Curve, str]:
    """Curves of R2 and of the mean absolute error, and why they are not to be extrapolated, or "".

    The truth has the numbers, float64 (N,), and the predictions these in their standard deviations from their mean;
    `groups`, int64 (N,), are drawn as a whole by the bootstrap.
    """
    weights, count = draw_weights(groups, seed=seed).astype(np.float64), len(truth)
    weights /= weights.sum(axis=1, keepdims=True)
    scale, moved = float(truth.std()), truth - truth.mean()
    values = predictions.predicted[..., 0] * scale  # (R, L, N), as `moved`
    scores = np.array(
        [[drawn_scores(moved, of_size - moved, weights) for of_size in of_repeat] for of_repeat in values]
    )
    r2s, maes = np.moveaxis(scores, 2, 0).mean(axis=1)
    r2, _ = extrapolate(predictions.images, r2s.T, count, count, is_share=False, seed=seed)
    # What knows nothing of an image errs by this, and leaves nothing explained.
    worst = float(np.abs(truth - np.median(truth)).mean())
    share, _ = extrapolate(predictions.images, 1 - maes.T / worst, count, count, is_share=False, seed=seed)
    whole = RegressionPredictions(
        tuple(map(str, range(count))), moved, values[0, -1], ("",) * count, None, "number"
    )  # fmt: skip
    return r2, _as_error(share, worst), evaluate_numbers(whole).no_better


def _as_error(share: Curve, worst: float) -> Curve:
    """The curve of an error, from that of the share of the `worst` error that it avoids."""

    def error(score: Interval) -> Interval:
        return Interval(*(worst * (1 - value) for value in (score.value, score.high, score.low)))

    gain = Interval(worst * share.gain.value, worst * share.gain.low, worst * share.gain.high)
    measured, extrapolated = (tuple(map(error, scores)) for scores in (share.measured, share.extrapolated))
    return replace(share, measured=measured, extrapolated=extrapolated, gain=gain)
