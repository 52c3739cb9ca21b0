"""Precision over recall of a class."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import precision_recall_curve as of_sklearn

from regraft.evaluation.multilabel.curves import precision_recall_curve


def test_the_curve_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        has = rng.random(30) < 0.4
        has[0] = True
        probability = rng.random(30).round(1)  # with ties
        recall, precision, thresholds = precision_recall_curve(has, probability)
        expected = of_sklearn(has, probability)
        np.testing.assert_allclose(precision, expected[0][:-1][::-1])
        np.testing.assert_allclose(recall, expected[1][:-1][::-1])
        np.testing.assert_allclose(thresholds, expected[2][::-1])
