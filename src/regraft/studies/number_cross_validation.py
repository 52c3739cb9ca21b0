"""Cross-validation where an image has a number: errors of predictions by heads that lack their images.

Input: predicted numbers out of fold and the folds, for each repeat. Output: a result, and its files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from regraft.atomic_io import write_csv, write_json
from regraft.data.dataset import Dataset
from regraft.data.labels import Task
from regraft.data.quality.numbers import find_outliers
from regraft.evaluation.intervals import wilson_interval
from regraft.evaluation.regression.conformal import conformal_half_width
from regraft.evaluation.regression.label_errors import find_number_doubts
from regraft.evaluation.regression.metrics import RegressionEvaluation, evaluate_numbers, scores_of
from regraft.evaluation.regression.predictions import RegressionPredictions
from regraft.evaluation.stored_predictions import CSV
from regraft.report import plots
from regraft.studies.answered import Answered

_LABEL_ERRORS = ("path", "target", "predicted", "error")


@dataclass(frozen=True, eq=False)
class NumberCrossValidation:
    """Errors of a head for numbers on images that it has not seen, in the unit of the numbers.

    Attributes:
        k: Number of folds.
        maes: MAE on the held-out images of each fold, float64 (repeats, k).
        rmses: Root of the mean squared error on the same, float64 (repeats, k).
        r2s: R2 on the same, float64 (repeats, k); NaN where all numbers of a fold are equal.
        predictions: Out-of-fold predictions of every image, in the first repeat, with the interval that all of their
            errors give.
        evaluation: Evaluation of these predictions; the coverage is that of intervals by the errors of the other folds.
        suspects: Name, number, predicted number and error of each image whose number is likely wrong, the largest error
            first; by the mean of the repeats' predictions. None where `evaluation.no_better` says why.
        answered: The images that are predicted, or the groups, if each has one answer; a suspect is named as there.
        outliers: Path, or name of a group, and number of each whose number is far from the others, the farthest first.
            One gross error outweighs all else in the squares by which models are fitted and compared.
        seconds: Wall-clock time: `scan`, `features`, `heads`, `total`.
    """

    task: ClassVar[Task] = "regression"

    k: int
    maes: np.ndarray
    rmses: np.ndarray
    r2s: np.ndarray
    predictions: RegressionPredictions
    evaluation: RegressionEvaluation
    suspects: tuple[tuple[str, float, float, float], ...]
    answered: Answered
    seconds: dict[str, float]
    outliers: tuple[tuple[str, float], ...] = ()

    def __repr__(self) -> str:
        return f"NumberCrossValidation({self.k} folds, {self.answered.text}, MAE {self.evaluation.mae:.4g})"

    @property
    def repeats(self) -> int:
        """Number of divisions into folds."""
        return len(self.rmses)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "task": self.task,
            "k": self.k,
            "repeats": self.repeats,
            "fold_maes": self.maes.tolist(),
            "fold_mae_deviation": float(self.maes.std(ddof=1)),
            "fold_rmses": self.rmses.tolist(),
            "fold_r2s": [[None if np.isnan(r2) else r2 for r2 in row] for row in self.r2s.tolist()],
            "evaluation": self.evaluation.to_json(),
            "label_errors_withheld": self.evaluation.no_better or None,
            **self.answered.to_json(_LABEL_ERRORS, self.suspects),
            "outliers": [{"path": path, "target": target} for path, target in self.outliers],
            "seconds": self.seconds,
        }

    def write(self, folder: Path) -> tuple[str, ...]:
        """Write the predictions, the suspects, a chart and `crossval.json` into a folder; returns their names."""
        self.predictions.write_csv(folder / CSV)
        write_csv(folder / "label_errors.csv", *self.answered.table(_LABEL_ERRORS, self.suspects))
        title, quantity = f"Held out, {self.k} folds", self.predictions.quantity
        file = folder / "predicted_true.png"
        plots.predicted_true.plot_predicted_true(self.predictions, file, title=title, quantity=quantity)
        write_json(folder / "crossval.json", self.to_json())  # last: where it is, all is
        return CSV, "label_errors.csv", "predicted_true.png", "crossval.json"


def score_numbers(
    dataset: Dataset,
    answered: Answered,
    predicted: Sequence[np.ndarray],
    folds: Sequence[np.ndarray],
    seconds: dict[str, float],
) -> NumberCrossValidation:
    """The errors of predictions out of fold, float64 (N, 1) for each repeat, by the fold of each image, (N,)."""
    truth, values = dataset.numbers, [of_repeat[:, 0] for of_repeat in predicted]
    numbers = [np.unique(fold) for fold in folds]
    scores = np.array(
        [
            [scores_of(truth[fold == number], said[fold == number]) for number in own]
            for said, fold, own in zip(values, folds, numbers, strict=True)
        ]
    )
    residuals = values[0] - truth
    predictions = RegressionPredictions(
        answered.names, truth, values[0], ("",) * len(truth),
        conformal_half_width(residuals), dataset.classes[0],
    )  # fmt: skip
    evaluation = replace(evaluate_numbers(predictions), **_coverage(residuals, folds[0]))
    doubts = [] if evaluation.no_better else find_number_doubts(truth, np.mean(values, axis=0))
    suspects = tuple((predictions.ids[one.index], one.target, one.value, one.error) for one in doubts)
    outliers = tuple((predictions.ids[row], float(truth[row])) for row in find_outliers(truth).tolist())
    maes, rmses, r2s = np.moveaxis(scores, -1, 0)
    return NumberCrossValidation(
        len(numbers[0]), maes, rmses, r2s, predictions, evaluation, suspects, answered, seconds, outliers
    )


def _coverage(residuals: np.ndarray, fold: np.ndarray) -> dict[str, Any]:
    """The share of images in intervals whose width the errors of the other folds give; None if a fold has too few."""
    widths = {number: conformal_half_width(residuals[fold != number]) for number in np.unique(fold).tolist()}
    if None in widths.values():
        return {"coverage": None, "coverage_interval": None}
    inside = np.abs(residuals) <= np.array([widths[number] for number in fold.tolist()], np.float64)
    hits, count = int(inside.sum()), len(inside)
    return {"coverage": hits / count, "coverage_interval": wilson_interval(hits, count)}
