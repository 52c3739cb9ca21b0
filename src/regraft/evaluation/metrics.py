"""Metrics: the numbers that say how good a classifier is.

Enters: `Predictions`. Leaves: an `Evaluation`. Pure functions; the order of the images changes nothing but
rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from regraft.errors import DataError, counted, listed
from regraft.evaluation.intervals import draw_counts, interval_about, wilson_interval
from regraft.evaluation.names import display_width, one_line
from regraft.evaluation.predictions import Predictions
from regraft.shown import Shown

#: Width of an accuracy's interval that is worth a word, and images of a class below which chance may speak.
_WIDE, _FEW = 0.1, 20


@dataclass(frozen=True)
class ClassReport:
    """How one class fares against all others.

    Attributes:
        name: Class name.
        precision: Share of the images predicted as this class that are of it, 0..1; 0 where there are none.
        recall: Share of this class's images that were found, 0..1; 0 where there are none.
        f1: Harmonic mean of precision and recall, 0..1; 0 where both are 0.
        support: Images of this class.
        precision_interval: 95 % Wilson interval, (low, high); (0, 1) where no image is predicted as this class.
        recall_interval: 95 % Wilson interval, (low, high); (0, 1) where there are no images of this class.
        f1_interval: 95 % interval by the Bayesian bootstrap, (low, high).
    """

    name: str
    precision: float
    recall: float
    f1: float
    support: int
    precision_interval: tuple[float, float]
    recall_interval: tuple[float, float]
    f1_interval: tuple[float, float]


@dataclass(frozen=True, eq=False)
class Evaluation(Shown, by="regraft.report.notebook.evaluation"):
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
        intervals: 95 % intervals by the Bayesian bootstrap, (low, high), by the names of the macro averages, the
            weighted F1 and the balanced accuracy. Like the Wilson intervals they take the images for independent ones:
            near duplicates among them make them too narrow.
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
    intervals: Mapping[str, tuple[float, float]]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, no NaN among them; the confusion matrix as a list of rows."""
        return asdict(self) | {
            "accuracy_interval": list(self.accuracy_interval),
            "per_class": [_plain(asdict(report)) for report in self.per_class],
            "confusion": self.confusion.tolist(),
            "intervals": _plain(self.intervals),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Evaluation:
        """The inverse of `to_json`.

        Raises:
            DataError: The values are not what `to_json` gives.
        """
        try:
            confusion = np.array(value["confusion"], dtype=np.int64)
            confusion.setflags(write=False)
            found = {
                **value,
                "accuracy_interval": tuple(value["accuracy_interval"]),
                "per_class": tuple(ClassReport(**_frozen(row)) for row in value["per_class"]),
                "confusion": confusion,
                "intervals": _frozen(value["intervals"]),
            }
            return cls(**found)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"no evaluation: {error!r}; expected what `Evaluation.to_json` gives") from error

    def cautions(self) -> list[str]:
        """What these images are too few to say, in sentences; empty where they carry the claim."""
        low, high = self.accuracy_interval
        found = []
        if high - low > _WIDE:
            needed = round(_known_within(self.accuracy), -2)
            found.append(
                f"{counted(self.count, 'image tells', 'images tell')} the accuracy to within "
                f"{50 * (high - low):.0f} points only; for 2 points some {needed:,.0f} would be needed."
            )
        few = [row.name for row in self.per_class if 0 < row.support < _FEW]
        if few:
            found.append(
                f"{counted(len(few), 'class has', 'classes have')} fewer than {_FEW} images here: what is said of "
                f"{listed(map(one_line, few))} may be chance."
            )
        return found

    def report(self) -> str:
        """A classification report in plain text, aligned in any fixed-width font."""
        low, high = self.accuracy_interval
        table: list[tuple[str, ...]] = [("class", "precision", "recall", "(95 %)", "F1", "images")]
        table += [
            (
                one_line(row.name),
                *_digits(row.precision, row.recall),
                "{:.2f}..{:.2f}".format(*row.recall_interval),
                *_digits(row.f1),
                str(row.support),
            )
            for row in self.per_class
        ]
        table += [
            ("",) * 6,
            (
                "macro average",
                *_digits(self.macro_precision, self.macro_recall),
                "{:.2f}..{:.2f}".format(*self.intervals["macro_recall"]),
                *_digits(self.macro_f1),
                str(self.count),
            ),
        ]

        def interval(low: float, high: float) -> str:
            return f"  (95 % interval {low:.4f} to {high:.4f})"

        summary = [
            ("accuracy", f"{self.accuracy:.4f}{interval(low, high)}"),
            ("macro F1", f"{self.macro_f1:.4f}{interval(*self.intervals['macro_f1'])}"),
            ("balanced accuracy", f"{self.balanced_accuracy:.4f}{interval(*self.intervals['balanced_accuracy'])}"),
            *([("top-5 accuracy", f"{self.top5:.4f}")] if self.top5 is not None else []),
            ("weighted F1", f"{self.weighted_f1:.4f}{interval(*self.intervals['weighted_f1'])}"),
            ("log loss", f"{self.loss:.4f}"),
        ]
        width = max(display_width(row[0]) for row in (*table, *summary))
        lines = [_pad(name, width) + "".join(f"{cell:>12}" for cell in cells) for name, *cells in table]
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
    precision, recall, f1, means = _scores(right, support, chosen)
    drawn_f1, drawn_means = [], []
    for draw in draw_counts(confusion):
        _, _, one, other = _scores(*draw)
        drawn_f1.append(one)
        drawn_means.append(other)
    f1_low, f1_high = interval_about(f1, np.concatenate(drawn_f1))
    hits = int(right.sum())
    return Evaluation(
        count=count,
        accuracy=hits / count,
        accuracy_interval=wilson_interval(hits, count),
        top5=top_k_accuracy(predictions, 5) if classes > 5 else None,
        loss=log_loss(predictions),
        per_class=tuple(
            ClassReport(
                name,
                float(precision[i]),
                float(recall[i]),
                float(f1[i]),
                int(support[i]),
                precision_interval=_of_all(right[i], chosen[i]),
                recall_interval=_of_all(right[i], support[i]),
                f1_interval=(float(f1_low[i]), float(f1_high[i])),
            )
            for i, name in enumerate(predictions.classes)
        ),
        confusion=confusion,
        intervals={
            name: tuple(interval_about(value, np.concatenate([drawn[name] for drawn in drawn_means])).tolist())
            for name, value in means.items()
        },
        **{name: float(value) for name, value in means.items()},
    )


def _scores(
    right: np.ndarray, support: np.ndarray, chosen: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Precision, recall and F1 of each class, (..., C), and their means by name, (...).

    Args:
        right: Images, or their weights, that are of a class and predicted as it, (..., C).
        support: Of a class, (..., C).
        chosen: Predicted as a class, (..., C).
    """
    precision, recall, f1 = _ratio(right, chosen), _ratio(right, support), _ratio(2 * right, support + chosen)
    appears, has = (support + chosen) > 0, support > 0
    means = {
        "macro_precision": _mean(precision, appears),
        "macro_recall": _mean(recall, appears),
        "macro_f1": _mean(f1, appears),
        "weighted_f1": (f1 * support).sum(axis=-1) / support.sum(axis=-1),
        "balanced_accuracy": _mean(recall, has),
    }
    return precision, recall, f1, means


def _mean(values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    return np.asarray((values * chosen).sum(axis=-1) / chosen.sum(axis=-1))


def _of_all(hits: np.integer, count: np.integer) -> tuple[float, float]:
    return wilson_interval(int(hits), int(count)) if count else (0.0, 1.0)


def _known_within(share: float, points: float = 0.02) -> float:
    """Images by which a share is known to within so much, at 95 %."""
    return 1.96**2 * max(share * (1 - share), 0.02) / points**2


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same with lists for tuples."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _frozen(values: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `_plain`."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


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
    ratio: np.ndarray = np.divide(part, whole, out=np.zeros(part.shape), where=whole > 0)
    return ratio


def _digits(*values: float) -> tuple[str, ...]:
    return tuple(f"{value:.4f}" for value in values)


def _pad(name: str, width: int) -> str:
    return name + " " * (width - display_width(name))
