"""Learning curves where an image has any number of labels: mean average precision by the number of images.

Input: what heads on subsets say of images that they have not seen. Output: a result, and its files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from regraft.atomic_io import write_json
from regraft.data.labels import Task
from regraft.evaluation.multilabel.metrics import average_precisions, evaluate_labels
from regraft.evaluation.multilabel.predictions import MultilabelPredictions
from regraft.evaluation.multilabel.thresholds import choose_thresholds
from regraft.studies.answered import Answered
from regraft.studies.label_cross_validation import answers_out_of_fold
from regraft.studies.learning_curve.extrapolation import Curve, describe_gain, draw_weights, extrapolate
from regraft.studies.learning_curve.plots import ClassGain, ClassGains, ScoreCurve, plot_learning_curve
from regraft.studies.learning_curve.subsets import SubsetPredictions
from regraft.studies.learning_curve.table import write_curves


@dataclass(frozen=True, eq=False)
class LabelCurve:
    """The learning curve of one class: its average precision by its images, or groups, where all classes grow."""

    name: str
    images: int
    average_precision: Curve

    def to_json(self, unit: str) -> dict[str, Any]:
        """Plain JSON values; `unit` is what is counted."""
        return {"name": self.name, unit: self.images, "average_precision": self.average_precision.to_json(unit)}


@dataclass(frozen=True, eq=False)
class MultilabelLearningCurve:
    """Scores for several labels by the number of images, or of groups of images that get one answer each.

    Attributes:
        images: Number of images, or of groups.
        mean_average_precision: mAP by the same.
        macro_f1: Macro-F1 by the same, of answers by thresholds that the other folds choose.
        classes: Curve of each class that the head clearly tells from the rest.
        heads: Number of heads that were fitted.
        repeats: Number of divisions into five folds.
        folds: Number of folds.
        seconds: Wall-clock time: `scan`, `features`, `heads`, `curves`, `total`.
        answered: The images, or the groups, in words.
        at_chance: Names of the classes that the head does not clearly tell from the rest, which have no curve.
    """

    task: ClassVar[Task] = "multilabel"

    images: int
    mean_average_precision: Curve
    macro_f1: Curve
    classes: tuple[LabelCurve, ...]
    heads: int
    repeats: int
    folds: int
    seconds: dict[str, float]
    answered: Answered
    at_chance: tuple[str, ...]

    @property
    def withheld(self) -> str:
        """Why nothing is extrapolated: no class is clearly recognized; "" if one is."""
        return "" if self.classes else "The head does not clearly tell any class from the rest."

    def __repr__(self) -> str:
        if self.withheld:
            return f"MultilabelLearningCurve({self.answered.text}, at chance, not extrapolated)"
        curve = self.mean_average_precision
        gain = describe_gain(curve.gain, curve.verdict)
        return f"MultilabelLearningCurve({self.answered.text}, mAP {curve.measured[-1].value:.3f}, doubling {gain})"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        unit = self.answered.unit
        curves = {"mean_average_precision": self.mean_average_precision, "macro_f1": self.macro_f1}
        values: dict[str, Any] = {name: curve.to_json(unit) for name, curve in curves.items()}
        if self.withheld:
            values = {name: {"measured": curve["measured"]} for name, curve in values.items()}
        return {
            "task": self.task,
            unit: self.images,
            "folds": self.folds,
            "repeats": self.repeats,
            "heads": self.heads,
            "withheld": self.withheld or None,
            "at_chance": list(self.at_chance),
            **values,
            "classes": [row.to_json(unit) for row in self.classes],
            "seconds": self.seconds,
        }

    def write(self, folder: Path) -> None:
        """Write `learning_curve.csv`, `.png` and `.json` into a folder; at chance without what is extrapolated."""
        unit = self.answered.unit
        curves = [("mean_average_precision", "", self.mean_average_precision), ("macro_f1", "", self.macro_f1)]
        curves += [("average_precision", row.name, row.average_precision) for row in self.classes]
        write_curves(folder / "learning_curve.csv", curves, unit, measured_only=bool(self.withheld))
        gains = [
            ClassGain(row.name, row.images, row.average_precision.gain, row.average_precision.verdict)
            for row in self.classes
        ]
        plot_learning_curve(
            ScoreCurve(self.mean_average_precision, "mAP"), ClassGains(gains, "average precision"),
            folder / "learning_curve.png", unit=unit, at_chance="a random order" if self.withheld else "",
        )  # fmt: skip
        write_json(folder / "learning_curve.json", self.to_json())  # last: where it is, all is


def fit_label_curves(
    predictions: SubsetPredictions,
    truth: np.ndarray,
    groups: np.ndarray,
    folds: Sequence[np.ndarray],
    names: Sequence[str],
    *,
    seed: int = 0,
) -> tuple[Curve, Curve, tuple[LabelCurve, ...]]:
    """Curves of mAP, macro-F1 and of each class that is clearly recognized.

    The truth is bool (N, C); `groups`, int64 (N,), are drawn as a whole by the bootstrap; `folds` has a fold number of
    each image for each repeat.
    """
    weights, count = draw_weights(groups, seed=seed), len(truth)
    precisions, f1s = [], []
    for probabilities in predictions.predicted.swapaxes(0, 1):  # of each repeat, by size
        drawn = [average_precisions(truth, of_repeat, weights) for of_repeat in probabilities]
        precisions.append(np.mean(drawn, axis=0))
        said = [
            answers_out_of_fold(truth, of_repeat, fold) for of_repeat, fold in zip(probabilities, folds, strict=True)
        ]
        f1s.append(_drawn_f1(truth, said, weights).mean(axis=1))
    by_class = np.stack(precisions, axis=1)  # (b, L, C)
    curve, _ = extrapolate(predictions.images, by_class.mean(axis=2), count, count, is_share=False, seed=seed)
    macro_f1, _ = extrapolate(predictions.images, np.stack(f1s, axis=1), count, count, is_share=False, seed=seed)
    recognized = doubtable_classes(truth, predictions.predicted[0, -1], names)
    rows = []
    for column in (column for column, name in enumerate(names) if name in recognized):
        total, own = int(truth[:, column].sum()), predictions.counts[:, column]
        enough = own >= 1  # of a rare class a small subset may have no image
        found, _ = extrapolate(own[enough], by_class[:, enough, column], total, total, is_share=False, seed=seed)
        rows.append(LabelCurve(names[column], total, found))
    return curve, macro_f1, tuple(rows)


def doubtable_classes(truth: np.ndarray, probabilities: np.ndarray, names: Sequence[str]) -> list[str]:
    """Names of the classes that probabilities (N, C) clearly tell from the rest, as an evaluation has them."""
    ids, thresholds = [str(number) for number in range(len(truth))], choose_thresholds(truth, probabilities, "f1")
    parts = ("",) * len(truth)
    return evaluate_labels(
        MultilabelPredictions(tuple(ids), truth, probabilities, tuple(names), parts, thresholds)
    ).doubtable


def _drawn_f1(truth: np.ndarray, said: Sequence[np.ndarray], weights: np.ndarray) -> np.ndarray:
    """F1 of each class in each draw, (b, C), of answers, bool (N, C), whose repeats are averaged."""
    votes, has = np.mean(said, axis=0, dtype=np.float32), truth.astype(np.float32)
    hits, support, chosen = weights @ (votes * has), weights @ has, weights @ votes
    return np.asarray(2 * hits.astype(np.float64) / np.maximum(support + chosen, 1e-12))
