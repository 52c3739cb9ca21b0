"""Two models for several labels on the same images."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from regraft.errors import DataError
from regraft.evaluation.multilabel.comparison import paired_precision_difference
from regraft.evaluation.multilabel.predictions import MultilabelPredictions


def models(noise: tuple[float, float], count: int = 150, seed: int = 0) -> list[MultilabelPredictions]:
    """Two models of the same images that see their labels through so much noise."""
    rng = np.random.default_rng(seed)
    truth = rng.random((count, 3)) < 0.3
    return [
        MultilabelPredictions.from_arrays(
            truth, 1 / (1 + np.exp(-(truth - 0.5 + size * rng.standard_normal(truth.shape)))), ["a", "b", "c"]
        )
        for size in noise
    ]


def test_the_difference_is_that_of_scikit_learn() -> None:
    first, second = models((0.5, 2.0))
    found = paired_precision_difference(first, second)
    scores = [average_precision_score(one.indicators, one.probabilities, average="macro") for one in (first, second)]
    assert found.mean_average_precision == pytest.approx(scores[0] - scores[1])
    assert found.interval[0] < found.mean_average_precision < found.interval[1]
    assert found.p == pytest.approx(2 / 1001)
    back = paired_precision_difference(second, first)
    assert back.mean_average_precision == -found.mean_average_precision
    assert back.p == found.p


def test_equally_good_models_are_rarely_different() -> None:
    p_values = [paired_precision_difference(*models((1.0, 1.0), seed=seed)).p for seed in range(100, 130)]
    assert sum(p < 0.05 for p in p_values) <= 4
    assert np.mean(p_values) > 0.35


def test_the_order_of_images_and_classes_does_not_matter() -> None:
    first, second = models((0.5, 1.0))
    order = np.random.default_rng(1).permutation(len(second))
    shuffled = second.take(order)
    shuffled = MultilabelPredictions(
        shuffled.ids, shuffled.indicators[:, ::-1], shuffled.probabilities[:, ::-1], ("c", "b", "a"), shuffled.parts,
        shuffled.thresholds[::-1],
    )  # fmt: skip
    assert paired_precision_difference(first, shuffled) == paired_precision_difference(first, second)


def test_other_images_or_labels_are_refused() -> None:
    first, second = models((0.5, 1.0))
    with pytest.raises(DataError, match="in common"):
        paired_precision_difference(first, second.take(np.arange(10)))
    (other, _) = models((0.5, 1.0), seed=5)
    with pytest.raises(DataError, match="different labels"):
        paired_precision_difference(first, other)
