"""Choose thresholds for selective prediction and prediction sets by `Predictions` of images outside the train part."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from regraft.errors import DataError, UsageError
from regraft.evaluation.intervals import wilson_interval
from regraft.evaluation.predictions import Predictions
from regraft.text import pluralize


@dataclass(frozen=True)
class Selection:
    """Coverage and accuracy where only predictions with at least a minimum confidence are accepted, all in 0..1."""

    threshold: float
    coverage: float
    accuracy: float  # 1 if none is accepted
    accuracy_interval: tuple[float, float]  # 95 % Wilson interval; (0, 1) if none is accepted
    count: int  # with the rejected images
    class_share: float | None = None  # of all images whose answer is a class, and not a node of a tree above; or None

    def describe_classes(self) -> str:
        """A sentence about the answers that are classes, after a space; "" without a tree."""
        if self.class_share is None:
            return ""
        return f" A class answers {100 * self.class_share:.0f} %, and a node above it the others that are accepted."


def select(predictions: Predictions, threshold: float) -> Selection:
    """Measure coverage and accuracy at a minimum confidence; DataError without predictions."""
    _check(predictions)
    accepted = predictions.confidence >= threshold
    hits, count = int((predictions.predicted == predictions.labels)[accepted].sum()), int(accepted.sum())
    return Selection(
        threshold=threshold,
        coverage=count / len(predictions),
        accuracy=hits / count if count else 1.0,
        accuracy_interval=wilson_interval(hits, count) if count else (0.0, 1.0),
        count=len(predictions),
    )


def risk_coverage(predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """The risk-coverage curve: coverage and error rate at each distinct threshold, strictest first, float64 (n,) each.

    Images of equal confidence are accepted together. Source: El-Yaniv and Wiener 2010, "On the Foundations of Noise-
    free Selective Classification". Raises DataError without predictions.
    """
    ends, errors = _errors_by_threshold(predictions)
    return (ends + 1) / len(predictions), errors / (ends + 1)


def threshold_for(predictions: Predictions, accuracy: float) -> Selection:
    """Find the minimum confidence with the highest coverage at which accepted predictions have an accuracy in 0..1.

    On other images the accuracy varies by chance, as its interval says, and is a little lower, because the best of
    several thresholds was chosen. Raises UsageError if no threshold reaches the accuracy, and DataError without
    predictions.
    """
    if not 0 < accuracy <= 1:
        raise UsageError(f"The required accuracy is {accuracy:g}; expected a share above 0 and at most 1.")
    ends, errors = _errors_by_threshold(predictions)
    accuracies = 1 - errors / (ends + 1)
    sufficient = np.flatnonzero(accuracies >= accuracy)
    if not len(sufficient):
        raise UsageError(
            f"No confidence threshold reaches an accuracy of {100 * accuracy:g} %: the best reaches "
            f"{100 * accuracies.max():.1f} % on {pluralize(len(predictions), 'validation image')}. Require less."
        )
    return select(predictions, float(np.sort(predictions.confidence)[::-1][ends[sufficient[-1]]]))


def conformal_threshold(predictions: Predictions, coverage: float) -> float:
    """Minimum probability of a class in prediction sets that contain the true class with a required probability.

    This is split conformal prediction with the score 1 - p (Sadinle, Lei and Wasserman 2019, JASA 114, 223-234): for
    images from the same distribution the sets have at least this coverage, above 0 and below 1, whatever the model.
    They may be empty or contain every class, as they do at the threshold 0, where there are too few images. The
    predictions are those of images to which, as far as possible, neither weights nor settings were fitted.
    """
    if not 0 < coverage < 1:
        raise UsageError(f"The required coverage is {coverage:g}; expected a share above 0 and below 1.")
    _check(predictions)
    true = np.sort(np.take_along_axis(predictions.probabilities, predictions.labels[:, None], axis=1)[:, 0])
    # The ceil((n + 1) * coverage)-th smallest score 1 - p belongs to the p of the same rank from the top.
    rank = len(true) - int(np.ceil((len(true) + 1) * coverage - 1e-9))
    return float(true[rank]) if rank >= 0 else 0.0


def _check(predictions: Predictions) -> None:
    if not len(predictions):
        raise DataError("0 predictions; expected at least one image to choose a threshold")


def _errors_by_threshold(predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """For each distinct confidence in falling order: index of its last image, and number of errors up to there."""
    _check(predictions)
    order = np.argsort(-predictions.confidence, kind="stable")
    confidence = predictions.confidence[order]
    errors = np.cumsum((predictions.predicted != predictions.labels)[order])
    ends = np.flatnonzero(np.append(np.diff(confidence) != 0, True))
    return ends, errors[ends]
