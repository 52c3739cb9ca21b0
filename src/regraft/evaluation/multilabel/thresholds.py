"""Choose from which probability on an image is said to have a class, class by class, on validation images."""

from __future__ import annotations

import numpy as np

#: Threshold of a class about which the images say nothing.
UNDECIDED = 0.5
#: Share of the labels in what the F1 of a threshold is computed from; the rest are the calibrated probabilities. A few
#: images of a class say little about its best threshold (docs/decisions/several-labels.md).
LABEL_SHARE = 0.25
#: Before the number in a text such as `precision=0.9`.
_PRECISION = "precision="


def read_purpose(value: object) -> str:
    """What thresholds are chosen for as text: `f1`, or `precision=0.9`.

    Raises `ValueError` for anything else, and for a precision that is not above 0 and at most 1.
    """
    text = str(value).strip().lower().replace(" ", "")
    if text == "f1":
        return text
    try:
        precision = float(text.removeprefix(_PRECISION)) if text.startswith(_PRECISION) else 0.0
    except ValueError:
        precision = 0.0
    if not 0 < precision <= 1:
        raise ValueError("expected f1, or a precision above 0 and at most 1 such as precision=0.9")
    return f"{_PRECISION}{precision:g}"


def wanted_precision(purpose: str) -> float | None:
    """The precision in a text of `read_purpose`; None: the thresholds are those with the highest F1."""
    return float(purpose.removeprefix(_PRECISION)) if purpose.startswith(_PRECISION) else None


def choose_thresholds(indicators: np.ndarray, probabilities: np.ndarray, purpose: str) -> np.ndarray:
    """The thresholds, float64 (C,), of `thresholds_for_f1` or `thresholds_for_precision`, as `read_purpose` says.

    The probabilities are calibrated.
    """
    precision = wanted_precision(purpose)
    if precision is None:
        return thresholds_for_f1(indicators, probabilities, label_share=LABEL_SHARE)
    return thresholds_for_precision(indicators, probabilities, precision)


def thresholds_for_f1(indicators: np.ndarray, probabilities: np.ndarray, *, label_share: float = 1.0) -> np.ndarray:
    """The threshold of each class with the highest F1 on these images.

    Args:
        indicators: Whether each image has each class, bool (N, C).
        probabilities: float64 (N, C).
        label_share: Share of the labels, 0..1, in what an image counts; the rest is its probability, which has to be
            calibrated. With 0 it is the F1 that the probabilities let expect, whatever the labels.

    Returns:
        float64 (C,), in the middle between two probabilities of the images; 0.5 for a class that no image has.
    """
    columns = zip(indicators.T, probabilities.T, strict=True)
    return np.array([_best_f1(has, probability, label_share) for has, probability in columns])


def thresholds_for_precision(indicators: np.ndarray, probabilities: np.ndarray, precision: float) -> np.ndarray:
    """The lowest threshold of each class from which on at least this share of the answers is right on these images.

    Arguments and result are those of `thresholds_for_f1`; `precision` is in 0..1. A class for which no threshold has
    this precision gets one above 1, so it is never said.
    """
    return np.array(
        [_least_with_precision(*columns, precision) for columns in zip(indicators.T, probabilities.T, strict=True)]
    )


def _steps(has: np.ndarray, probability: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Right answers and all answers if the first k+1 of the sorted images are said to have the class; the thresholds.

    Only the steps that a threshold can make, between different probabilities.
    """
    order = np.argsort(-probability, kind="stable")
    values, hits = probability[order], np.cumsum(has[order])
    ends = np.flatnonzero(np.append(values[1:] < values[:-1], True))
    below = np.append(values[1:], 0.0)[ends]
    return hits[ends], ends + 1, (values[ends] + below) / 2


def _best_f1(has: np.ndarray, probability: np.ndarray, label_share: float) -> float:
    if not has.any():
        return UNDECIDED
    counted = label_share * has + (1 - label_share) * probability
    hits, said, thresholds = _steps(counted, probability)
    return float(thresholds[np.argmax(2 * hits / (said + counted.sum()))])


def _least_with_precision(has: np.ndarray, probability: np.ndarray, precision: float) -> float:
    if not len(has):
        return UNDECIDED
    hits, said, thresholds = _steps(has, probability)
    enough = np.flatnonzero(hits >= precision * said)
    return float(thresholds[enough[-1]]) if len(enough) else float(np.nextafter(1.0, 2.0))
