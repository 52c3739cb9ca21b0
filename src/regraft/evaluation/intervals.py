"""How sure a number is: what it might be had other images of the same kind been drawn.

Enters: a confusion matrix. Leaves: intervals of what is computed from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import NormalDist

import numpy as np

#: Draws of which the quantiles are taken, and numbers of one piece of work.
_DRAWS, _AT_ONCE = 4000, 4_000_000
#: Weight that each class's right and wrong answers have before any image is seen (Jeffreys' prior of a proportion).
_PRIOR = 0.5


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


def draw_counts(confusion: np.ndarray, *, seed: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Other confusion matrices that the images might have given, as what precision, recall and F1 need of them.

    Each image gets a random weight (the Bayesian bootstrap: Rubin 1981, Annals of Statistics 9, 130-134), and each
    class with images the weight of half a right and half a wrong answer besides, so that a class without a mistake is
    not taken for one that makes none (Goutte and Gaussier 2005, "A Probabilistic Interpretation of Precision, Recall
    and F-Score"). The wrong half falls on another class in each draw.

    Args:
        confusion: int (C, C); row: true class, column: predicted class.
        seed: The same gives the same draws.

    Yields:
        Weights (b, C) of the right answers, of the true classes and of the predicted ones, 4,000 draws in all.
    """
    rng = np.random.default_rng(seed)
    classes = len(confusion)
    rows, columns = np.nonzero(confusion)
    counts = confusion[rows, columns]
    right, wrong = rows == columns, rows != columns
    there = np.flatnonzero(confusion.sum(axis=1))
    size = max(1, min(_DRAWS, _AT_ONCE // max(1, len(counts) + 3 * classes)))
    for start in range(0, _DRAWS, size):
        draws = min(size, _DRAWS - start)
        weights = rng.standard_gamma(counts, (draws, len(counts)))
        hits, support, chosen = (np.zeros((draws, classes)) for _ in range(3))
        hits[:, rows[right]] = weights[:, right]
        hits[:, there] += rng.standard_gamma(_PRIOR, (draws, len(there)))
        support += hits
        chosen += hits
        # There are at most as many different cells as images, and additions to one class come from several of them.
        for number in np.flatnonzero(wrong):
            support[:, rows[number]] += weights[:, number]
            chosen[:, columns[number]] += weights[:, number]
        if classes > 1:
            missed = rng.standard_gamma(_PRIOR, (draws, len(there)))
            other = (there + rng.integers(1, classes, (draws, len(there)))) % classes
            support[:, there] += missed
            np.add.at(chosen, (np.arange(draws)[:, None], other), missed)
        yield hits, support, chosen


def interval_about(estimate: np.ndarray | float, draws: np.ndarray, level: float = 0.95) -> np.ndarray:
    """The central interval of draws, moved so that their median is the estimate, and cut to 0..1.

    Unmoved it would miss: a mean over many small classes of draws lies below the same mean of the images themselves. In
    simulation (`tests/evaluation/test_intervals.py`) it holds the true value as often as it should.

    Args:
        estimate: From the images themselves.
        draws: The same from each of b draws, (b, ...).
        level: Confidence, between 0 and 1.

    Returns:
        (2, ...), low and high.
    """
    low, middle, high = np.quantile(draws, ((1 - level) / 2, 0.5, (1 + level) / 2), axis=0)
    return np.asarray(np.clip((estimate + low - middle, estimate + high - middle), 0.0, 1.0))
