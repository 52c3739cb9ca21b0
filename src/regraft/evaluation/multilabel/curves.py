"""Precision over recall of one class, for every threshold."""

from __future__ import annotations

import numpy as np


def precision_recall_curve(has: np.ndarray, probability: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Recall, precision and threshold of each set of images that a threshold can say to have a class.

    Args:
        has: Whether each image has the class, bool (N,), at least one of them.
        probability: float64 (N,).

    Returns:
        Three float64 (K,), for falling thresholds: each is a probability of an image, the recall rises, and the last
        threshold says that all images have the class.
    """
    order = np.argsort(-probability, kind="stable")
    values, hits = probability[order], np.cumsum(has[order])
    ends = np.flatnonzero(np.append(values[1:] < values[:-1], True))
    return hits[ends] / max(1, int(hits[-1])), hits[ends] / (ends + 1), values[ends]
