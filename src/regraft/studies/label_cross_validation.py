"""Cross-validation where an image has any number of classes: scores of predictions by heads that lack their images.

Input: indicators, probabilities out of fold and the folds, for each repeat. Output: a result, and its files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from regraft.atomic_io import write_csv, write_json
from regraft.data.dataset import Dataset
from regraft.data.labels import Task
from regraft.evaluation.multilabel.label_errors import find_label_doubts
from regraft.evaluation.multilabel.metrics import (
    MultilabelEvaluation,
    evaluate_labels,
    indicator_f1,
    mean_average_precision,
)
from regraft.evaluation.multilabel.predictions import MultilabelPredictions
from regraft.evaluation.multilabel.thresholds import choose_thresholds
from regraft.evaluation.stored_predictions import CSV
from regraft.studies.answered import Answered
from regraft.text import join_truncated

_LABEL_ERRORS = ("path", "labels", "class", "suggestion", "probability")


@dataclass(frozen=True, eq=False)
class MultilabelCrossValidation:
    """Scores of a head for several labels on images that it has not seen.

    The thresholds that answer for an image are chosen on the other folds, as those of a run are on validation.

    Attributes:
        k: Number of folds.
        mean_average_precisions: mAP on the held-out images of each fold, float64 (repeats, k), 0..1.
        macro_f1s: Macro-F1 on the same, float64 (repeats, k), 0..1.
        predictions: Out-of-fold predictions of every image, in the first repeat, at thresholds that all images choose.
        evaluation: Evaluation of these predictions, each answer by thresholds of the other folds.
        suspects: Name and labels of each image with a likely wrong or missing label, the class, what to do with it (add
            or remove) and its probability, the most certain first; by the mean of the repeats' probabilities. None of
            classes that the head does not clearly tell from the rest.
        answered: The images that are predicted, or the groups, if each has one answer; a suspect is named as there.
        seconds: Wall-clock time: `scan`, `features`, `heads`, `total`.
        unlabeled: As in `CrossValidation`, with the mAP without images that have no labels; else None.
    """

    task: ClassVar[Task] = "multilabel"

    k: int
    mean_average_precisions: np.ndarray
    macro_f1s: np.ndarray
    predictions: MultilabelPredictions
    evaluation: MultilabelEvaluation
    suspects: tuple[tuple[str, str, str, str, float], ...]
    answered: Answered
    seconds: dict[str, float]
    unlabeled: dict[str, Any] | None = None

    def __repr__(self) -> str:
        score = self.evaluation.mean_average_precision
        return f"MultilabelCrossValidation({self.k} folds, {self.answered.text}, mAP {score:.3f})"

    @property
    def repeats(self) -> int:
        """Number of divisions into folds."""
        return len(self.macro_f1s)

    @property
    def withheld(self) -> str:
        """Of which classes no label is doubted, and why; "" if the labels of all are."""
        if not (names := self.evaluation.at_chance):
            return ""
        return f"The head does not clearly tell {join_truncated(names)} from the rest, so no such label is doubted."

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "task": self.task,
            "k": self.k,
            "repeats": self.repeats,
            "fold_mean_average_precisions": self.mean_average_precisions.tolist(),
            "fold_macro_f1s": self.macro_f1s.tolist(),
            "evaluation": self.evaluation.to_json(),
            "label_errors_withheld": self.withheld or None,
            **self.answered.to_json(_LABEL_ERRORS, self.suspects),
            "seconds": self.seconds,
            **({} if self.unlabeled is None else {"unlabelled": self.unlabeled}),
        }

    def write(self, folder: Path) -> tuple[str, ...]:
        """Write `predictions.csv`, `label_errors.csv` and `crossval.json` into a folder; returns their names."""
        self.predictions.write_csv(folder / CSV)
        write_csv(folder / "label_errors.csv", *self.answered.table(_LABEL_ERRORS, self.suspects))
        write_json(folder / "crossval.json", self.to_json())  # last: where it is, all is
        return CSV, "label_errors.csv", "crossval.json"


def score_labels(
    dataset: Dataset,
    answered: Answered,
    probabilities: Sequence[np.ndarray],
    folds: Sequence[np.ndarray],
    seconds: dict[str, float],
) -> MultilabelCrossValidation:
    """The scores of predictions out of fold, float64 (N, C) for each repeat, by the fold of each image, (N,)."""
    truth, numbers = dataset.indicators, [np.unique(fold) for fold in folds]
    said = [
        answers_out_of_fold(truth, probability, fold) for probability, fold in zip(probabilities, folds, strict=True)
    ]
    rows = list(zip(probabilities, said, folds, numbers, strict=True))
    predictions = MultilabelPredictions(
        answered.names, truth, probabilities[0], dataset.classes, ("",) * len(truth),
        choose_thresholds(truth, probabilities[0], "f1"),
    )  # fmt: skip
    evaluation = evaluate_labels(predictions, said[0])
    columns = [dataset.classes.index(name) for name in evaluation.doubtable]
    names = predictions.label_names
    suspects = tuple(
        (predictions.ids[d.index], names[d.index], dataset.classes[d.column], d.suggestion, d.probability)
        for d in find_label_doubts(truth, np.mean(probabilities, axis=0), columns)
    )
    return MultilabelCrossValidation(
        len(numbers[0]),
        np.array([[mean_average_precision(truth[f == n], p[f == n]) for n in own] for p, _, f, own in rows]),
        np.array([[indicator_f1(truth[f == n], answers[f == n]) for n in own] for _, answers, f, own in rows]),
        predictions,
        evaluation,
        suspects,
        answered,
        seconds,
    )


def answers_out_of_fold(truth: np.ndarray, probabilities: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Whether each image is said to have each class, by thresholds that the other folds choose, bool (N, C)."""
    said = np.zeros_like(truth)
    for number in np.unique(fold):
        inside = fold != number
        said[~inside] = probabilities[~inside] >= choose_thresholds(truth[inside], probabilities[inside], "f1")
    return said
