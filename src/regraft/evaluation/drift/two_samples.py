"""Tests of whether two sets of pictures come from one source, with intervals of how far apart they are.

Input: numbers of reference pictures and of new ones. Output: p-values, which are valid for any number of pictures that
are independent of each other, and sizes of the difference. SciPy is imported where it is used: the server, which counts
in windows, needs none of these tests, and SciPy's statistics take 60 MB.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

from regraft.evaluation.intervals import wilson_interval

#: Number of random divisions that the observed one is compared with: the smallest p-value is 1 / (_PERMUTATIONS + 1).
_PERMUTATIONS = 9999
#: Largest number of values in memory at once.
_CHUNK_VALUES = 4_000_000
#: Largest number of pictures of each side whose features are compared, divisions of them, and strength of the L2 term.
MAX_FEATURE_ROWS, _FOLDS, _RIDGE = 1000, 5, 1.0


def auc_of(reference: np.ndarray, new: np.ndarray) -> float:
    """Probability that a new value is larger than a reference value, 0..1; ties count half."""
    from scipy.stats import rankdata

    ranks = rankdata(np.concatenate([reference, new]))[len(reference) :]
    return float((ranks.sum() - len(new) * (len(new) + 1) / 2) / (len(reference) * len(new)))


def auc_interval(auc: float, reference: int, new: int, level: float = 0.95) -> tuple[float, float]:
    """The score interval (low, high) of `auc_of` for numbers of values, also near 0 and 1.

    Method 5 of Newcombe 2006, Statistics in Medicine 25, 559-573: all t whose distance from the estimate is at most
    z standard errors, which are those of Hanley and McNeil 1982 at t.
    """
    from scipy.optimize import brentq

    z, extra = NormalDist().inv_cdf((1 + level) / 2), (reference + new) / 2 - 1

    def excess(t: float) -> float:
        variance = t * (1 - t) / (reference * new) * (1 + extra * ((1 - t) / (2 - t) + t / (1 + t)))
        return float((t - auc) ** 2 - z**2 * variance)

    inside = min(max(auc, 1e-9), 1 - 1e-9)  # at 0 and 1 themselves the variance is 0
    low = 0.0 if excess(0.0) <= 0 else brentq(excess, 0.0, inside)
    high = 1.0 if excess(1.0) <= 0 else brentq(excess, inside, 1.0)
    return float(low), float(high)


def rank_test(reference: np.ndarray, new: np.ndarray) -> float:
    """Two-sided p-value of the Mann-Whitney test: values of one side tend to be larger."""
    from scipy.stats import mannwhitneyu

    if np.ptp(np.concatenate([reference, new])) == 0:
        return 1.0
    return float(mannwhitneyu(new, reference, alternative="two-sided").pvalue)


def distribution_test(reference: np.ndarray, new: np.ndarray) -> float:
    """Two-sided p-value of the Kolmogorov-Smirnov test: values have another distribution in any respect."""
    from scipy.stats import ks_2samp

    return float(ks_2samp(new, reference).pvalue)


def exceedance_test(reference: int, new: int, rate: float, exceeding: int) -> float | None:
    """One-sided p-value of the number of new values that are beyond all but a share `rate` of the reference values.

    The number of new values above the k-th largest of R reference values is beta-binomial, whatever the distribution
    of the values. None if R is too small for such a share.
    """
    from scipy.stats import betabinom

    rank = int(rate * (reference + 1) * (1 + 1e-12))
    if rank < 1:
        return None
    # A sum of small numbers; scipy's `sf` is 1 minus one near 1, which leaves no digits.
    return min(1.0, float(betabinom.pmf(np.arange(exceeding, new + 1), new, rank, reference + 1 - rank).sum()))


def shares_test(reference: np.ndarray, new: np.ndarray, *, seed: int = 0) -> float:
    """The p-value of a difference between counts of C exclusive classes, int (C,): chi-square over random divisions.

    The random divisions of all pictures have the same numbers of each class, so that small counts are no problem.
    """
    totals, drawn = reference + new, int(new.sum())
    present = totals > 0
    totals, observed = totals[present], new[present]
    if len(totals) < 2:
        return 1.0
    expected = totals * (drawn / totals.sum())
    # The other side's deviations are the same, so the sum over both is a multiple of this one.
    statistic = float(((observed - expected) ** 2 / totals).sum())
    rng, as_far = np.random.default_rng(seed), 0
    size = max(1, _CHUNK_VALUES // len(totals))
    for start in range(0, _PERMUTATIONS, size):
        draws = rng.multivariate_hypergeometric(totals, drawn, min(size, _PERMUTATIONS - start), method="marginals")
        as_far += int((((draws - expected) ** 2 / totals).sum(axis=1) >= statistic * (1 - 1e-9)).sum())
    return (as_far + 1) / (_PERMUTATIONS + 1)


def labels_test(reference: np.ndarray, new: np.ndarray, reference_count: int, new_count: int) -> float:
    """The p-value of a difference between counts of C labels, int (C,), of which a picture may have any number.

    Fisher's exact test of each label, times the number of labels (Bonferroni).
    """
    from scipy.stats import fisher_exact

    tables = (
        ((r, reference_count - r), (n, new_count - n)) for r, n in zip(reference.tolist(), new.tolist(), strict=True)
    )
    lowest = min((float(fisher_exact(table).pvalue) for table in tables), default=1.0)
    return min(1.0, lowest * len(reference))


def share_difference(
    reference: int, reference_count: int, new: int, new_count: int, level: float = 0.95
) -> tuple[float, float]:
    """The interval (low, high) of a new share minus that of the reference.

    Method 10 of Newcombe 1998, Statistics in Medicine 17, 873-890, which joins two Wilson intervals.
    """
    before, after = reference / reference_count, new / new_count
    before_low, before_high = wilson_interval(reference, reference_count, level)
    low, high = wilson_interval(new, new_count, level)
    difference = after - before
    return (
        difference - float(np.hypot(after - low, before_high - before)),
        difference + float(np.hypot(high - after, before - before_low)),
    )


def tell_apart(reference: np.ndarray, new: np.ndarray, *, seed: int = 0) -> tuple[float, float]:
    """How well a linear classifier tells new pictures from reference pictures that it was not fitted on.

    Features are float (R, F) and (N, F), of at most `MAX_FEATURE_ROWS` rows each, drawn at random. The scores of each
    fifth are those of a ridge regression on the other four. A score is linear in which side a picture is on, so all
    random divisions of the pictures get theirs by one product of matrices, and the p-value is exact (Lopez-Paz and
    Oquab 2017, arXiv 1610.06545).

    Returns:
        The area under the ROC curve, about 0.5 if nothing has changed, and the p-value.
    """
    rng = np.random.default_rng(seed)
    sides = [rows[rng.permutation(len(rows))[:MAX_FEATURE_ROWS]].astype(np.float64) for rows in (reference, new)]
    count, drawn = sum(map(len, sides)), len(sides[1])
    mixed = rng.permutation(count)  # equal scores are ranked by position, which must say nothing
    scorer, is_new = _scorer(np.concatenate(sides)[mixed], rng), mixed >= len(sides[0])
    observed = float(_aucs(scorer @ is_new[:, None].astype(np.float64), is_new[:, None])[0])
    as_well, size = 0, max(1, _CHUNK_VALUES // count)
    for start in range(0, _PERMUTATIONS, size):
        order = rng.random((count, min(size, _PERMUTATIONS - start))).argsort(axis=0)
        divided = order < drawn
        as_well += int((_aucs(scorer @ divided.astype(np.float64), divided) >= observed - 1e-12).sum())
    return observed, (as_well + 1) / (_PERMUTATIONS + 1)


def _scorer(rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The matrix (N, N) that gives held-out scores of N pictures, (N,), for which side each is on, (N,) of 0 and 1."""
    rows = rows - rows.mean(axis=0)
    spread = rows.std(axis=0)
    rows = rows[:, spread > 0] / spread[spread > 0]
    products = rows @ rows.T / max(1, rows.shape[1])
    fold = rng.permutation(len(rows)) % _FOLDS
    scorer = np.zeros_like(products)
    for number in range(_FOLDS):
        held_out, fitted = np.flatnonzero(fold == number), np.flatnonzero(fold != number)
        own = products[np.ix_(fitted, fitted)]
        to_own = own.mean(axis=0)
        centered = own - to_own - to_own[:, None] + own.mean()
        across = products[np.ix_(held_out, fitted)]
        across = across - across.mean(axis=1, keepdims=True) - to_own + own.mean()
        weights = np.linalg.solve(centered + _RIDGE * np.eye(len(fitted)), across.T).T
        scorer[np.ix_(held_out, fitted)] = weights - weights.mean(axis=1, keepdims=True)  # of centered sides
    return np.asarray(scorer)


def _aucs(scores: np.ndarray, is_new: np.ndarray) -> np.ndarray:
    """`auc_of` for each column of scores, (N, B), and of which rows are new, bool (N, B), as many in each column."""
    count, drawn = len(scores), int(is_new[:, 0].sum())
    order = scores.argsort(axis=0)
    ranks = np.arange(1, count + 1)[:, None]
    sums = (np.take_along_axis(is_new, order, axis=0) * ranks).sum(axis=0)
    return np.asarray((sums - drawn * (drawn + 1) / 2) / (drawn * (count - drawn)))
