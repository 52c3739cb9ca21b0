"""Metrics: the numbers that say how good a classifier is.

Enters: `Predictions`. Leaves: an `Evaluation`. Pure functions; the order of the images changes nothing but
rounding.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from regraft.errors import DataError
from regraft.evaluation.names import display_width, one_line
from regraft.evaluation.predictions import Predictions


@dataclass(frozen=True)
class ClassReport:
    """How one class fares against all others.

    Attributes:
        name: Class name.
        precision: Share of the images predicted as this class that are of it, 0..1; 0 where there are none.
        recall: Share of this class's images that were found, 0..1; 0 where there are none.
        f1: Harmonic mean of precision and recall, 0..1; 0 where both are 0.
        support: Images of this class.
    """

    name: str
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Every number about one set of predictions. All but `loss` and the counts lie in 0..1.

    Attributes:
        count: Images.
        accuracy: Share of the images whose most probable class is the true one (top-1).
        accuracy_interval: 95 % Wilson interval of the accuracy, (low, high).
        top5: Share of the images whose true class is among the five most probable; None with five classes or
            fewer.
        macro_precision: Plain mean of the precisions of the classes that appear among labels or predictions.
        macro_recall: Likewise of the recalls.
        macro_f1: Likewise of the F1 scores.
        weighted_f1: Mean of the classes' F1 scores weighted by support.
        balanced_accuracy: Mean recall over the classes that have images (Brodersen et al. 2010, ICPR, "The
            Balanced Accuracy and Its Posterior Distribution").
        loss: Mean negative natural logarithm of the true class's probability, in nats, 0 or more.
        per_class: In class order, classes without images included.
        confusion: int64 (C, C); row: true class, column: predicted class; read-only.
    """

    count: int
    accuracy: float
    accuracy_interval: tuple[float, float]
    top5: float | None
    macro_precision: float
    macro_recall: float
    macro_f1: float
    weighted_f1: float
    balanced_accuracy: float
    loss: float
    per_class: tuple[ClassReport, ...]
    confusion: np.ndarray

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, no NaN among them; the confusion matrix as a list of rows."""
        return asdict(self) | {
            "accuracy_interval": list(self.accuracy_interval),
            "per_class": [asdict(report) for report in self.per_class],
            "confusion": self.confusion.tolist(),
        }

    def report(self) -> str:
        """A classification report in plain text, aligned in any fixed-width font."""
        low, high = self.accuracy_interval
        table: list[tuple[str, ...]] = [("class", "precision", "recall", "F1", "images")]
        table += [
            (one_line(row.name), *_digits(row.precision, row.recall, row.f1), str(row.support))
            for row in self.per_class
        ]
        table += [
            ("", "", "", "", ""),
            (
                "macro average",
                *_digits(self.macro_precision, self.macro_recall, self.macro_f1),
                str(self.count),
            ),
        ]
        summary = [
            ("accuracy", f"{self.accuracy:.4f}  (95 % interval {low:.4f} to {high:.4f})"),
            ("balanced accuracy", f"{self.balanced_accuracy:.4f}"),
            *([("top-5 accuracy", f"{self.top5:.4f}")] if self.top5 is not None else []),
            ("weighted F1", f"{self.weighted_f1:.4f}"),
            ("log loss", f"{self.loss:.4f}"),
        ]
        width = max(display_width(row[0]) for row in (*table, *summary))
        lines = [_pad(name, width) + "".join(f"{cell:>11}" for cell in cells) for name, *cells in table]
        lines += ["", *(f"{_pad(name, width)}{'':5}{value}" for name, value in summary)]
        return "\n".join(line.rstrip() for line in lines) + "\n"


def evaluate(predictions: Predictions) -> Evaluation:
    """Compute every metric.

    Precision, recall and F1 as in van Rijsbergen, Information Retrieval (1979), chapter 7; a ratio without
    any cases is 0.

    Raises:
        DataError: There are no predictions.
    """
    if not len(predictions):
        raise DataError("0 predictions; expected at least one image to evaluate")
    count, classes = len(predictions), len(predictions.classes)
    confusion = confusion_matrix(predictions.labels, predictions.predicted, classes)
    right, support, chosen = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    precision, recall, f1 = _ratio(right, chosen), _ratio(right, support), _ratio(2 * right, support + chosen)
    appears = (support + chosen) > 0
    hits = int(right.sum())
    return Evaluation(
        count=count,
        accuracy=hits / count,
        accuracy_interval=wilson_interval(hits, count),
        top5=top_k_accuracy(predictions, 5) if classes > 5 else None,
        macro_precision=float(precision[appears].mean()),
        macro_recall=float(recall[appears].mean()),
        macro_f1=float(f1[appears].mean()),
        weighted_f1=float(f1 @ support) / count,
        balanced_accuracy=float(recall[support > 0].mean()),
        loss=log_loss(predictions),
        per_class=tuple(
            ClassReport(name, float(precision[i]), float(recall[i]), float(f1[i]), int(support[i]))
            for i, name in enumerate(predictions.classes)
        ),
        confusion=confusion,
    )


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Count the pairs of true and predicted class.

    Args:
        labels: True class indices, int (N,).
        predicted: Predicted class indices, int (N,).
        classes: Number of classes C.

    Returns:
        Read-only int64 (C, C); row: true class, column: predicted class.
    """
    counts = np.bincount(labels * classes + predicted, minlength=classes**2)
    confusion = counts.astype(np.int64).reshape(classes, classes)
    confusion.setflags(write=False)
    return confusion


def wilson_interval(hits: int, count: int, level: float = 0.95) -> tuple[float, float]:
    """The Wilson score interval of a proportion; it holds for few cases and near 0 and 1 too.

    Args:
        hits: Successes, 0..count.
        count: Trials, at least 1.
        level: Confidence, between 0 and 1.

    Returns:
        (low, high), both in 0..1.

    Source: E. B. Wilson (1927), "Probable Inference, the Law of Succession, and Statistical Inference",
    Journal of the American Statistical Association 22, 209-212; recommended by R. G. Newcombe (1998),
    Statistics in Medicine 17, 857-872.
    """
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = hits / count
    centre = share + z**2 / (2 * count)
    margin = z * (share * (1 - share) / count + z**2 / (4 * count**2)) ** 0.5
    scale = 1 + z**2 / count
    low = 0.0 if hits == 0 else (centre - margin) / scale  # exact at the ends, where rounding would leave 1e-17
    high = 1.0 if hits == count else (centre + margin) / scale
    return low, high


def top_k_accuracy(predictions: Predictions, k: int) -> float:
    """Share of the images whose true class is among the `k` most probable, 0..1; ties rank in class order."""
    probabilities, labels = predictions.probabilities, predictions.labels[:, None]
    true = np.take_along_axis(probabilities, labels, axis=1)
    earlier = np.arange(probabilities.shape[1]) < labels
    rank = ((probabilities > true) | ((probabilities == true) & earlier)).sum(axis=1)
    return float((rank < k).mean())


def log_loss(predictions: Predictions) -> float:
    """Mean cross-entropy in nats, 0 or more; probabilities below the float64 epsilon (2.2e-16) count as that.

    Source: Bishop, Pattern Recognition and Machine Learning (2006), equation 4.108, divided by N.
    """
    true = np.take_along_axis(predictions.probabilities, predictions.labels[:, None], axis=1)
    return float(-np.log(np.clip(true, np.finfo(np.float64).eps, 1.0)).mean()) + 0.0  # no minus zero


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    ratio: np.ndarray = np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)
    return ratio


def _digits(*values: float) -> tuple[str, ...]:
    return tuple(f"{value:.4f}" for value in values)


def _pad(name: str, width: int) -> str:
    return name + " " * (width - display_width(name))
