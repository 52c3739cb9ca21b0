"""Paired comparisons of two models."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from regraft.errors import DataError
from regraft.evaluation.comparison import difference_of, holm, paired_difference
from regraft.evaluation.predictions import Predictions


def predictions(right: np.ndarray, ids: list[str] | None = None) -> Predictions:
    """Two classes; every image is of class 0."""
    p = np.where(right, 0.9, 0.2)
    return Predictions.from_arrays(np.zeros(len(right), int), np.column_stack([p, 1 - p]), ids=ids)


def test_counts_and_probability() -> None:
    first, second = np.array([1, 1, 1, 1, 0, 0, 1, 1], bool), np.array([0, 0, 0, 0, 1, 0, 1, 1], bool)
    result = paired_difference(predictions(first), predictions(second))
    assert (result.only_first, result.only_second, result.count) == (4, 1, 8)
    assert result.accuracy == pytest.approx(first.mean() - second.mean())
    assert result.p == pytest.approx(binomtest(4, 5).pvalue)
    assert result.interval[0] < result.accuracy < result.interval[1]


def test_the_order_of_the_images_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.random(50) < 0.8, rng.random(50) < 0.7
    ids = [f"i{n}" for n in range(50)]
    order = rng.permutation(50)
    one = paired_difference(predictions(first, ids), predictions(second, ids))
    other = paired_difference(predictions(first, ids), predictions(second[order], [ids[i] for i in order]))
    assert one == other
    back = paired_difference(predictions(second, ids), predictions(first, ids))
    assert (back.accuracy, back.p) == (-one.accuracy, one.p)


def test_other_images_or_labels_are_refused() -> None:
    right = np.array([True, False])
    with pytest.raises(DataError, match="2 and 2 images have 1 in common"):
        paired_difference(predictions(right, ["a", "b"]), predictions(right, ["a", "c"]))
    with pytest.raises(DataError, match="2 and 1 images"):
        paired_difference(predictions(right), predictions(right[:1]))
    with pytest.raises(DataError, match="0 predictions"):
        paired_difference(predictions(right[:0]), predictions(right[:0]))
    labels = Predictions.from_arrays([0, 1], [[0.9, 0.1], [0.2, 0.8]], ids=["a", "b"])
    with pytest.raises(DataError, match="different labels"):
        paired_difference(predictions(right, ["a", "b"]), labels)


def test_no_discordant_images() -> None:
    result = difference_of(0, 0, 100)
    assert result.p == 1
    assert result.accuracy == 0
    assert result.interval[0] < 0 < result.interval[1]


def test_coverage_of_the_interval() -> None:
    rng, covered, count = np.random.default_rng(1), 0, 400
    for _ in range(count):  # right together, the first alone, the second alone, neither
        cells = rng.multinomial(150, [0.75, 0.12, 0.07, 0.06])
        low, high = difference_of(int(cells[1]), int(cells[2]), 150).interval
        covered += low <= 0.05 <= high
    assert 0.92 <= covered / count <= 0.985


def test_equal_models_are_rarely_called_different() -> None:
    rng = np.random.default_rng(2)
    claims = 0
    for _ in range(150):
        right = rng.random((5, 200)) < 0.8
        p = [
            difference_of(int((a & ~b).sum()), int((b & ~a).sum()), 200).p
            for i, a in enumerate(right)
            for b in right[i + 1 :]
        ]
        claims += min(holm(p)) < 0.05
    assert claims / 150 <= 0.09


def test_holm_on_known_values() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]
