"""When to say nothing: answers that are sure enough, and sets of classes that hold the true one.

Enters: `Predictions` of images that nothing was trained on. Leaves: thresholds for other images of the same kind.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from regraft.errors import DataError, UsageError, counted
from regraft.evaluation.intervals import wilson_interval
from regraft.evaluation.predictions import Predictions


@dataclass(frozen=True)
class Selection:
    """What comes of answering only from a confidence on.

    Attributes:
        threshold: Least confidence of an answer, 0..1.
        coverage: Share of the images that are answered, 0..1.
        accuracy: Share of the answers that are right, 0..1; 1 where there are none.
        accuracy_interval: 95 % Wilson interval, (low, high); (0, 1) where there are none.
        count: Images, answered or not.
    """

    threshold: float
    coverage: float
    accuracy: float
    accuracy_interval: tuple[float, float]
    count: int


def select(predictions: Predictions, threshold: float) -> Selection:
    """Answer only what is at least so sure.

    Raises:
        DataError: There are no predictions.
    """
    _check(predictions)
    answered = predictions.confidence >= threshold
    hits, count = int((predictions.predicted == predictions.labels)[answered].sum()), int(answered.sum())
    return Selection(
        threshold=threshold,
        coverage=count / len(predictions),
        accuracy=hits / count if count else 1.0,
        accuracy_interval=wilson_interval(hits, count) if count else (0.0, 1.0),
        count=len(predictions),
    )


def risk_coverage(predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """Shares answered and shares of these that are wrong, for every threshold that differs, the strictest first.

    Returns:
        float64 (n,), twice; images of one confidence are answered together (El-Yaniv and Wiener 2010, "On the
        Foundations of Noise-free Selective Classification").

    Raises:
        DataError: There are no predictions.
    """
    ends, wrong = _accepted(predictions)
    return (ends + 1) / len(predictions), wrong / (ends + 1)


def threshold_for(predictions: Predictions, accuracy: float) -> Selection:
    """The threshold with which most images are answered and at least this share of the answers is right.

    On other images the accuracy will differ by chance, as its interval says, and be a little lower: of all thresholds
    one was chosen that looked good.

    Args:
        predictions: Best of validation images.
        accuracy: Wanted, above 0 and at most 1.

    Raises:
        UsageError: The accuracy is none, or no threshold reaches it here.
        DataError: There are no predictions.
    """
    if not 0 < accuracy <= 1:
        raise UsageError(f"A wanted accuracy of {accuracy:g}; expected a share, above 0 and at most 1.")
    ends, wrong = _accepted(predictions)
    share = 1 - wrong / (ends + 1)
    good = np.flatnonzero(share >= accuracy)
    if not len(good):
        raise UsageError(
            f"No confidence is right {100 * accuracy:g} % of the time: at best {100 * share.max():.1f} % of "
            f"{counted(len(predictions), 'validation image')}. Ask for less."
        )
    return select(predictions, float(np.sort(predictions.confidence)[::-1][ends[good[-1]]]))


def conformal_threshold(predictions: Predictions, coverage: float) -> float:
    """The least probability of a class in a set that holds the true class with a wanted probability.

    Split conformal prediction by the score 1 - p (Sadinle, Lei and Wasserman 2019, JASA 114, 223-234): over images
    drawn like these, sets miss the true class no more often than wanted, whatever the model. They may be empty or hold
    every class.

    Args:
        predictions: Of images that neither weights nor settings were fitted to, as far as there are such.
        coverage: Wanted, above 0 and below 1.

    Returns:
        0 where the images are too few for the coverage, so that every class is in the set.

    Raises:
        UsageError: The coverage is none.
        DataError: There are no predictions.
    """
    if not 0 < coverage < 1:
        raise UsageError(f"A wanted coverage of {coverage:g}; expected a share, above 0 and below 1.")
    _check(predictions)
    true = np.sort(np.take_along_axis(predictions.probabilities, predictions.labels[:, None], axis=1)[:, 0])
    # The ceil((n + 1) * coverage)-th smallest of 1 - p is that of the p so many places from the top.
    place = len(true) - int(np.ceil((len(true) + 1) * coverage - 1e-9))
    return float(true[place]) if place >= 0 else 0.0


def _check(predictions: Predictions) -> None:
    if not len(predictions):
        raise DataError("0 predictions; expected at least one image to choose a threshold by")


def _accepted(predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """For each different confidence, the surest first: place of the last image that has it, and wrong ones so far."""
    _check(predictions)
    order = np.argsort(-predictions.confidence, kind="stable")
    confidence = predictions.confidence[order]
    wrong = np.cumsum((predictions.predicted != predictions.labels)[order])
    ends = np.flatnonzero(np.append(np.diff(confidence) != 0, True))
    return ends, wrong[ends]
