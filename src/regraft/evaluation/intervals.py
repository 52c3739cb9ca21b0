"""Confidence intervals of what is computed from a confusion matrix or counts."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import NormalDist

import numpy as np

#: Number of bootstrap draws, and largest number of values in memory at once.
_DRAWS, _CHUNK_VALUES = 4000, 4_000_000
#: Prior weight of correct and of wrong predictions in each class (Jeffreys' prior of a proportion).
PRIOR = 0.5


def wilson_interval(hits: int, count: int, level: float = 0.95) -> tuple[float, float]:
    """The Wilson score interval (low, high) of a proportion, also near 0 and 1 (Wilson 1927, JASA 22, 209-212)."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = hits / count
    center = share + z**2 / (2 * count)
    margin = z * (share * (1 - share) / count + z**2 / (4 * count**2)) ** 0.5
    scale = 1 + z**2 / count
    low = 0.0 if hits == 0 else (center - margin) / scale  # exact at the ends, where rounding would leave 1e-17
    high = 1.0 if hits == count else (center + margin) / scale
    return low, high


def draw_image_weights(count: int, *, seed: int = 0) -> Iterator[np.ndarray]:
    """Draw weights of images, (b, count), that add up to 1, by the Bayesian bootstrap; 4,000 draws in total.

    Each draw is of a Dirichlet distribution (Rubin 1981, Annals of Statistics 9, 130-134).
    """
    rng, size = np.random.default_rng(seed), max(1, min(_DRAWS, _CHUNK_VALUES // count))
    for start in range(0, _DRAWS, size):
        weights = rng.standard_exponential((min(size, _DRAWS - start), count))
        yield weights / weights.sum(axis=1, keepdims=True)


def draw_counts(confusion: np.ndarray, *, seed: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Draw the counts for precision, recall and F1 by the Bayesian bootstrap from a confusion matrix, int (C, C).

    Each image gets a random weight (Rubin 1981, Annals of Statistics 9, 130-134), and each class with images the prior
    weight of half a correct and half a wrong prediction, so that a class without errors is not certain to have none
    (Goutte and Gaussier 2005, "A Probabilistic Interpretation of Precision, Recall and F-Score"). The wrong half is
    assigned to a random other class in each draw. Yields weights (b, C) of the hits, of the true classes and of the
    predicted classes; 4,000 draws in total.
    """
    rng = np.random.default_rng(seed)
    classes = len(confusion)
    rows, columns = np.nonzero(confusion)
    counts = confusion[rows, columns]
    right, wrong = rows == columns, rows != columns
    present = np.flatnonzero(confusion.sum(axis=1))
    size = max(1, min(_DRAWS, _CHUNK_VALUES // max(1, len(counts) + 3 * classes)))
    for start in range(0, _DRAWS, size):
        draws = min(size, _DRAWS - start)
        weights = rng.standard_gamma(counts, (draws, len(counts)))
        hits, support, predicted = (np.zeros((draws, classes)) for _ in range(3))
        hits[:, rows[right]] = weights[:, right]
        hits[:, present] += rng.standard_gamma(PRIOR, (draws, len(present)))
        support += hits
        predicted += hits
        # A loop, because several cells add to one class; there are at most as many cells as images.
        for cell in np.flatnonzero(wrong):
            support[:, rows[cell]] += weights[:, cell]
            predicted[:, columns[cell]] += weights[:, cell]
        if classes > 1:
            misses = rng.standard_gamma(PRIOR, (draws, len(present)))
            other = (present + rng.integers(1, classes, (draws, len(present)))) % classes
            support[:, present] += misses
            np.add.at(predicted, (np.arange(draws)[:, None], other), misses)
        yield hits, support, predicted


def draw_sums(confusion: np.ndarray, values: np.ndarray, *, seed: int = 0) -> Iterator[np.ndarray]:
    """Draw sums over images by the Bayesian bootstrap, (b, S), with the prior of `draw_counts`; 4,000 draws in total.

    Each image adds the `values` of its true and predicted class, (C, C, S).
    """
    rng = np.random.default_rng(seed)
    rows, columns = np.nonzero(confusion)
    counts, present, classes = confusion[rows, columns], np.flatnonzero(confusion.sum(axis=1)), len(confusion)
    size = max(1, min(_DRAWS, _CHUNK_VALUES // max(1, len(counts) + 3 * classes)))
    for start in range(0, _DRAWS, size):
        draws = min(size, _DRAWS - start)
        sums = rng.standard_gamma(counts, (draws, len(counts))) @ values[rows, columns]
        sums += rng.standard_gamma(PRIOR, (draws, len(present))) @ values[present, present]
        if classes > 1:
            misses = rng.standard_gamma(PRIOR, (draws, len(present)))
            other = (present + rng.integers(1, classes, (draws, len(present)))) % classes
            sums += (misses[..., None] * values[present, other]).sum(axis=1)
        yield sums


def interval_about(
    estimate: np.ndarray | float,
    draws: np.ndarray,
    level: float = 0.95,
    *,
    within: tuple[float, float] = (0.0, 1.0),
) -> np.ndarray:
    """The central interval of draws, (b, ...) to (2, ...), shifted to have the estimate as median, clipped to a range.

    Without the shift the interval would be biased: the mean over many small classes is lower in the draws than in the
    images. In simulation (`tests/evaluation/test_intervals.py`) the shifted interval has the nominal coverage.
    """
    low, middle, high = np.quantile(draws, ((1 - level) / 2, 0.5, (1 + level) / 2), axis=0)
    return np.asarray(np.clip((estimate + low - middle, estimate + high - middle), *within))
