"""Metrics of `Predictions` with confidence intervals; the order of the images changes them only by rounding."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from regraft.data.pooling import Counted
from regraft.errors import DataError
from regraft.evaluation.hierarchy import Hierarchy
from regraft.evaluation.intervals import draw_counts, interval_about, wilson_interval
from regraft.evaluation.majority import MajorityTest, compare_with_majority
from regraft.evaluation.ordinal import OrdinalScores, measure_order
from regraft.evaluation.predictions import Predictions
from regraft.evaluation.subgroups import Subgroups, json_of_subgroups, subgroups_from_json
from regraft.evaluation.training_overlap import Scores, TrainingOverlap
from regraft.notebook_repr import NotebookRepr
from regraft.text import NAME_WIDTH, display_width, join_truncated, one_line, pluralize, shorten

#: Width of an accuracy's interval, and number of images of a class, that call for a caution.
WIDE_INTERVAL, FEW_IMAGES = 0.1, 20
#: Classes without images that are named beside a number.
MAX_UNTESTED = 5


@dataclass(frozen=True)
class ClassReport:
    """Metrics of one class, 0..1 and 0 where their denominator is 0, with 95 % intervals (low, high)."""

    name: str
    precision: float
    recall: float
    f1: float
    support: int  # number of images of the class
    precision_interval: tuple[float, float]  # Wilson, as that of recall; (0, 1) where the denominator is 0
    recall_interval: tuple[float, float]
    f1_interval: tuple[float, float]  # by the Bayesian bootstrap


@dataclass(frozen=True, eq=False)
class Evaluation(NotebookRepr):
    """Metrics of one set of predictions. All but `loss` and the counts lie in 0..1.

    Attributes:
        count: Number of images.
        accuracy: Share of the images whose most probable class is the true one (top-1).
        accuracy_interval: 95 % Wilson interval of the accuracy, (low, high).
        top5: Share of the images whose true class is among the five most probable; None with five classes or fewer.
        macro_precision: Mean precision over the classes that have images (the tested ones).
        macro_recall: Mean recall over the same classes; the same as `balanced_accuracy`.
        macro_f1: Mean F1 score over the same classes.
        weighted_f1: Mean of the classes' F1 scores weighted by support.
        balanced_accuracy: Mean recall over the classes that have images (Brodersen et al. 2010, ICPR, "The
            Balanced Accuracy and Its Posterior Distribution").
        loss: Mean cross-entropy in nats, 0 or more.
        per_class: Reports in class order, including classes without images.
        confusion: Confusion matrix, read-only int64 (C, C); row: true class, column: predicted class.
        intervals: 95 % intervals by the Bayesian bootstrap, (low, high), by the names of the macro averages, the
            weighted F1 and the balanced accuracy. Like the Wilson intervals they assume independent images: near
            duplicates make them too narrow.
        overlap: Images that a run knows from its training, and the accuracy without them; None where the images come
            from the run's own split without copies in its other parts, or no run was given.
        hierarchy: What a tree above the classes adds; None without one.
        ordinal: How far errors are from the true class, if the classes have an order; else None.
        counted: What was predicted: an `image`, or a `group` of images.
        subgroups: The same for images of one camera, site or other value each, where that was asked for.
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
    overlap: TrainingOverlap | None = None
    hierarchy: Hierarchy | None = None
    ordinal: OrdinalScores | None = None
    counted: Counted = "image"
    subgroups: tuple[Subgroups, ...] = ()

    @property
    def confusion_matrix(self) -> np.ndarray:
        """The same as `confusion`, by scikit-learn's name."""
        return self.confusion

    @property
    def untested(self) -> list[str]:
        """Names of the classes without images, about which the metrics say nothing."""
        return [report.name for report in self.per_class if not report.support]

    @property
    def headline(self) -> Scores:
        """What classes with an order are judged by beside accuracy: quadratic weighted kappa; of others nothing."""
        if self.ordinal is None or self.ordinal.quadratic_kappa is None:
            return {}
        kappa = self.ordinal.quadratic_kappa, self.ordinal.intervals["quadratic_kappa"]
        return {"quadratic weighted kappa": kappa}

    @property
    def majority(self) -> MajorityTest:
        """The model beside the prediction of the most frequent class for every image."""
        return compare_with_majority(self.confusion)

    @property
    def at_chance(self) -> str:
        """Why what the model says about single images is not to be believed; "" if it beats the majority class."""
        return "".join(self.majority.objection([row.name for row in self.per_class], self.counted))

    @property
    def of_tested(self) -> str:
        """What the macro averages are over where some classes have no image; "" if all were tested."""
        if not (untested := self.untested):
            return ""
        total, names = len(self.per_class), join_truncated(map(one_line, untested), shown=MAX_UNTESTED)
        return f" over the {total - len(untested)} of {total} classes that were tested (not {names})"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values without NaN; the confusion matrix is a list of rows."""
        majority, values = self.majority, asdict(replace(self, hierarchy=None, ordinal=None, subgroups=()))
        del values["hierarchy"], values["ordinal"], values["counted"], values["subgroups"]
        return (
            values
            | json_of_counted(self.counted)
            | json_of_subgroups(self.subgroups)
            | {
                "untested": self.untested,
                "majority_class": {
                    "class": self.per_class[majority.class_index].name,
                    "accuracy": majority.majority_accuracy,
                    "p": majority.p,
                    "is_better": majority.is_better,
                },
                "accuracy_interval": list(self.accuracy_interval),
                "per_class": [tuples_to_lists(asdict(report)) for report in self.per_class],
                "confusion": self.confusion.tolist(),
                "intervals": tuples_to_lists(self.intervals),
                "overlap": None if self.overlap is None else self.overlap.to_json(),
                **({} if self.hierarchy is None else {"hierarchy": self.hierarchy.to_json()}),
                **({} if self.ordinal is None else {"ordinal": self.ordinal.to_json()}),
            }
        )

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Evaluation:
        """The inverse of `to_json`; DataError for any other value."""
        try:
            confusion = np.array(value["confusion"], dtype=np.int64)
            confusion.setflags(write=False)
            fields = {
                **value,
                "accuracy_interval": tuple(value["accuracy_interval"]),
                "per_class": tuple(ClassReport(**lists_to_tuples(row)) for row in value["per_class"]),
                "confusion": confusion,
                "intervals": lists_to_tuples(value["intervals"]),
                "overlap": TrainingOverlap.from_json(overlap) if (overlap := value.get("overlap")) else None,
                "hierarchy": Hierarchy.from_json(tree) if (tree := value.get("hierarchy")) else None,
                "ordinal": OrdinalScores.from_json(scores) if (scores := value.get("ordinal")) else None,
                "subgroups": subgroups_from_json(value),
            }
            for derived in ("untested", "majority_class"):
                fields.pop(derived, None)
            return cls(**fields)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"not an evaluation: {error!r}; expected the output of `Evaluation.to_json`") from error

    def cautions(self) -> list[str]:
        """Sentences about claims for which there are too few images; empty if there are none."""
        low, high = self.accuracy_interval
        cautions = [] if self.overlap is None else self.overlap.cautions(self.accuracy, self.headline, self.counted)
        if high - low > WIDE_INTERVAL:
            # Number of images with which the 95 % interval is ±2 points.
            needed = round(1.96**2 * max(self.accuracy * (1 - self.accuracy), 0.02) / 0.02**2, -2)
            cautions.append(
                f"With {pluralize(self.count, self.counted)}, accuracy is known only to about ±{50 * (high - low):.0f} "
                f"points; ±2 points needs about {needed:,.0f}."
            )
        if untested := self.untested:
            count = pluralize(len(untested), "class has", "classes have")
            cautions.append(
                f"{count} no {self.counted} here and {'was' if len(untested) == 1 else 'were'} not tested: "
                f"{join_truncated(map(one_line, untested))}. Macro averages are over the other "
                f"{len(self.per_class) - len(untested)}."
            )
        few = [row.name for row in self.per_class if 0 < row.support < FEW_IMAGES]
        if few:
            cautions.append(
                f"{pluralize(len(few), 'class has', 'classes have')} fewer than {FEW_IMAGES} {self.counted}s here, "
                f"so the metrics of {join_truncated(map(one_line, few))} are uncertain."
            )
        return [*cautions, *(text for one in self.subgroups for text in one.cautions())]

    def report(self, *, weakest: int = 0) -> str:
        """The classification report as plain text, aligned in any fixed-width font.

        Where there are more than twice `weakest` classes, only so many are listed, those with the lowest F1; 0: all.
        """
        macro = self.macro_precision, self.macro_recall, self.intervals["macro_recall"], self.macro_f1, self.count
        table = [["class", "precision", "recall", "(95 %)", "F1", "support"]]
        listed = list(self.per_class)
        if weakest and len(listed) > 2 * weakest:
            listed = sorted((row for row in listed if row.support), key=lambda row: row.f1)[:weakest]
        for row in listed:
            table.append(_row(row.name, row.precision, row.recall, row.recall_interval, row.f1, row.support))
        table += [[""] * 6, _row("macro average", *macro)]

        def with_interval(value: float, interval: tuple[float, float]) -> str:
            return f"{value:.4f}  (95 % interval {interval[0]:.4f} to {interval[1]:.4f})"

        summary = [
            ("accuracy", with_interval(self.accuracy, self.accuracy_interval)),
            ("macro F1", with_interval(self.macro_f1, self.intervals["macro_f1"]) + self.of_tested),
            ("balanced accuracy", with_interval(self.balanced_accuracy, self.intervals["balanced_accuracy"])),
            *([("top-5 accuracy", f"{self.top5:.4f}")] if self.top5 is not None else []),
            ("weighted F1", with_interval(self.weighted_f1, self.intervals["weighted_f1"])),
            ("log loss", f"{self.loss:.4f}"),
            *(
                (name, with_interval(value, bounds))
                for added in (self.hierarchy, self.ordinal)
                for name, value, bounds in (added.rows() if added else ())
            ),
        ]
        width = max(display_width(row[0]) for row in (*table, *summary))
        lines = [_pad(name, width) + "".join(f"{cell:>12}" for cell in cells) for name, *cells in table]
        lines += ["", *(f"{_pad(name, width)}{'':5}{value}" for name, value in summary)]
        return "\n".join(line.rstrip() for line in lines) + "\n"


def evaluate(predictions: Predictions) -> Evaluation:
    """Compute all metrics; DataError without predictions.

    Precision, recall and F1 are those of van Rijsbergen, Information Retrieval (1979), chapter 7; a ratio with a
    denominator of 0 is 0.
    """
    if not len(predictions):
        raise DataError("0 predictions; expected at least one image to evaluate")
    count, classes = len(predictions), len(predictions.classes)
    confusion = confusion_matrix(predictions.labels, predictions.predicted, classes)
    hits, support, predicted = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    precision, recall, f1, averages = _scores(hits, support, predicted)
    draws = [_scores(*draw)[2:] for draw in draw_counts(confusion)]
    f1_intervals = interval_about(f1, np.concatenate([drawn_f1 for drawn_f1, _ in draws])).T.tolist()
    columns: list[Iterable[Any]] = [
        predictions.classes,
        *(values.tolist() for values in (precision, recall, f1, support)),
        *(map(_interval_of_ratio, hits, counts) for counts in (predicted, support)),
        map(tuple, f1_intervals),
    ]
    correct = int(hits.sum())
    return Evaluation(
        count=count,
        accuracy=correct / count,
        accuracy_interval=wilson_interval(correct, count),
        top5=top_k_accuracy(predictions, 5) if classes > 5 else None,
        loss=log_loss(predictions),
        per_class=tuple(ClassReport(*row) for row in zip(*columns, strict=True)),
        confusion=confusion,
        intervals={
            name: tuple(interval_about(value, np.concatenate([drawn[name] for _, drawn in draws])).tolist())
            for name, value in averages.items()
        },
        overlap=None,
        hierarchy=None,
        ordinal=measure_order(confusion) if predictions.ordered else None,
        counted=predictions.counted,
        subgroups=(),
        **{name: float(value) for name, value in averages.items()},
    )


def _scores(
    hits: np.ndarray, support: np.ndarray, predicted: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Precision, recall and F1 of each class, (..., C), and averages by name, (...), of counts or weights (..., C)."""
    precision, recall, f1 = _ratio(hits, predicted), _ratio(hits, support), _ratio(2 * hits, support + predicted)
    has_images = support > 0
    averages = {
        "macro_precision": _mean(precision, has_images),
        "macro_recall": _mean(recall, has_images),
        "macro_f1": _mean(f1, has_images),
        "weighted_f1": (f1 * support).sum(axis=-1) / support.sum(axis=-1),
        "balanced_accuracy": _mean(recall, has_images),
    }
    return precision, recall, f1, averages


def _mean(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return np.asarray((values * mask).sum(axis=-1) / mask.sum(axis=-1))


def _interval_of_ratio(hits: np.integer, count: np.integer) -> tuple[float, float]:
    return wilson_interval(int(hits), int(count)) if count else (0.0, 1.0)


def json_of_counted(counted: Counted) -> dict[str, str]:
    """What `to_json` says of what was counted: nothing of images, which it is of where nothing is said."""
    return {} if counted == "image" else {"counted": counted}


def tuples_to_lists(values: Mapping[str, Any]) -> dict[str, Any]:
    """Copy a mapping for JSON."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def lists_to_tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `tuples_to_lists`."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Count the pairs of true (row) and predicted class (column): read-only int64 (C, C)."""
    counts = np.bincount(labels * classes + predicted, minlength=classes**2)
    confusion = counts.astype(np.int64).reshape(classes, classes)
    confusion.setflags(write=False)
    return confusion


def macro_f1(confusion: np.ndarray) -> float:
    """Mean F1 score over the classes that have images, 0..1."""
    *_, averages = _scores(np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0))
    return float(averages["macro_f1"])


def top_k_accuracy(predictions: Predictions, k: int) -> float:
    """Share of the images whose true class is among the `k` most probable, 0..1; ties rank in class order."""
    probabilities, labels = predictions.probabilities, predictions.labels[:, None]
    true = np.take_along_axis(probabilities, labels, axis=1)
    earlier = np.arange(probabilities.shape[1]) < labels
    rank = ((probabilities > true) | ((probabilities == true) & earlier)).sum(axis=1)
    return float((rank < k).mean())


def log_loss(predictions: Predictions) -> float:
    """Mean cross-entropy in nats (Bishop 2006, equation 4.108, over N); probabilities are clipped at 2.2e-16."""
    true = np.take_along_axis(predictions.probabilities, predictions.labels[:, None], axis=1)
    return float(-np.log(np.clip(true, np.finfo(np.float64).eps, 1.0)).mean()) + 0.0  # avoids -0.0


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.asarray(np.divide(part, whole, out=np.zeros(part.shape), where=whole > 0))


def _row(name: str, precision: float, recall: float, interval: tuple[float, float], f1: float, count: int) -> list[str]:
    low, high = interval
    shown = shorten(one_line(name), NAME_WIDTH)
    return [shown, f"{precision:.4f}", f"{recall:.4f}", f"{low:.2f}..{high:.2f}", f"{f1:.4f}", str(count)]


def _pad(name: str, width: int) -> str:
    return name + " " * (width - display_width(name))
