"""Tests of two samples have the level that they promise, agree with scipy's, and find what is there."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from regraft.evaluation.drift import two_samples
from regraft.evaluation.drift.two_samples import (
    auc_interval,
    auc_of,
    exceedance_test,
    labels_test,
    rank_test,
    share_difference,
    shares_test,
    tell_apart,
)


def test_auc_is_that_of_all_pairs() -> None:
    rng = np.random.default_rng(0)
    before, now = rng.integers(0, 5, 17), rng.integers(1, 6, 23)  # with ties
    pairs = np.sign(now[:, None] - before).mean() / 2 + 0.5
    assert auc_of(before, now) == pytest.approx(pairs)
    assert auc_of(now, before) == pytest.approx(1 - pairs)


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_the_interval_of_an_auc_covers_it(shift: float) -> None:
    rng, truth = np.random.default_rng(1), stats.norm.cdf(shift / 2**0.5)
    hits = 0
    for _ in range(300):
        before, now = rng.normal(size=30), rng.normal(shift, size=40)
        low, high = auc_interval(auc_of(before, now), 30, 40)
        hits += low <= truth <= high
    assert hits >= 277  # 95 % of 300, less two standard deviations


def test_the_interval_of_an_auc_at_the_ends() -> None:
    for auc in (0.0, 1.0):
        low, high = auc_interval(auc, 20, 20)
        assert 0 <= low <= auc <= high <= 1
        assert 0.05 < high - low < 0.3
    assert auc_interval(0.3, 20, 50) == pytest.approx(tuple(1 - x for x in reversed(auc_interval(0.7, 20, 50))))


def test_equal_values_are_no_change() -> None:
    assert rank_test(np.ones(30), np.ones(40)) == 1.0


def test_exceedances_have_the_distribution_of_a_random_division() -> None:
    rng = np.random.default_rng(2)
    reference, new = 39, 25
    values = rng.normal(size=(20_000, reference + new))
    second = np.sort(values[:, :reference], axis=1)[:, -2]  # 5 % of 40
    exceeding = (values[:, reference:] > second[:, None]).sum(axis=1)
    for count in (1, 3, 6):
        expected = (exceeding >= count).mean()
        assert exceedance_test(reference, new, 0.05, count) == pytest.approx(expected, abs=0.015)
    assert exceedance_test(reference, new, 0.05, 0) == pytest.approx(1.0)
    assert exceedance_test(18, new, 0.05, 3) is None
    assert 0 < exceedance_test(400, 100, 0.05, 100) < 1e-30  # type: ignore[operator]  # no None


def test_shares_of_two_classes_agree_with_fisher() -> None:
    before, now = np.array([40, 10, 0]), np.array([20, 18, 0])
    expected = stats.fisher_exact([before[:2], now[:2]]).pvalue
    assert shares_test(before, now) == pytest.approx(expected, abs=0.02)
    assert shares_test(before, before) == 1.0
    assert shares_test(np.array([30, 0]), np.array([30, 0])) == 1.0
    assert shares_test(np.array([500, 0]), np.array([0, 500])) == pytest.approx(1e-4)


def test_shares_are_rarely_a_false_alarm() -> None:
    rng, shares = np.random.default_rng(3), [0.9, 0.06, 0.03, 0.01]  # chi-square would be wrong here
    p_values = [shares_test(rng.multinomial(60, shares), rng.multinomial(30, shares)) for _ in range(200)]
    assert np.mean(np.array(p_values) <= 0.05) <= 0.08


def test_labels_count_by_themselves() -> None:
    before, now = np.array([50, 10, 0]), np.array([25, 28, 0])
    expected = 3 * stats.fisher_exact([[10, 90], [28, 22]]).pvalue
    assert labels_test(before, now, 100, 50) == pytest.approx(expected)
    assert labels_test(before[:1], np.array([25]), 100, 50) == 1.0


def test_the_interval_of_a_difference() -> None:
    low, high = share_difference(48, 80, 56, 70)  # an example of Newcombe 1998, table II (a), the other way around
    assert (low, high) == (pytest.approx(0.0524, abs=1e-4), pytest.approx(0.3339, abs=1e-4))
    low, high = share_difference(0, 50, 0, 50)
    assert low == pytest.approx(-high)
    assert high > 0.05


def features(rng: np.random.Generator, count: int, shift: float = 0.0) -> np.ndarray:
    rows = rng.normal(size=(count, 60)) * np.linspace(0.1, 3, 60)
    rows[:, :5] += shift * np.linspace(0.1, 3, 60)[:5]
    return rows


def test_pictures_with_other_features_are_told_apart() -> None:
    rng = np.random.default_rng(4)
    auc, p_value = tell_apart(features(rng, 80), features(rng, 60, shift=1.0))
    assert auc > 0.8
    assert p_value == pytest.approx(1e-4)
    auc, p_value = tell_apart(np.ones((30, 4)), np.ones((30, 4)))  # nothing to tell
    assert p_value > 0.05


def test_pictures_of_one_source_are_rarely_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(two_samples, "_PERMUTATIONS", 99)
    rng = np.random.default_rng(5)
    p_values = np.array([tell_apart(features(rng, 40), features(rng, 15))[1] for _ in range(200)])
    assert (p_values <= 0.05).mean() <= 0.085  # 5 %, and more than two standard deviations
    assert 0.4 < p_values.mean() < 0.6


def test_scores_are_those_of_a_ridge_regression_on_the_other_pictures() -> None:
    rng = np.random.default_rng(6)
    rows, sides = features(rng, 25), rng.random(25) < 0.4
    scores = two_samples._scorer(rows, np.random.default_rng(0)) @ sides
    standard = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    fold = np.random.default_rng(0).permutation(25) % 5
    for number in range(5):
        fitted = fold != number
        own, y = standard[fitted] - standard[fitted].mean(axis=0), sides[fitted] - sides[fitted].mean()
        weights = np.linalg.solve(own.T @ own / 60 + np.eye(60), own.T @ y / 60)
        expected = (standard[~fitted] - standard[fitted].mean(axis=0)) @ weights
        assert scores[~fitted] == pytest.approx(expected)
