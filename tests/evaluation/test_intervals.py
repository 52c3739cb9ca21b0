"""Intervals have their nominal coverage in simulations, where the true value is known."""

from __future__ import annotations

import numpy as np
import promises
import pytest

from regraft.evaluation import intervals
from regraft.evaluation.intervals import wilson_interval
from regraft.evaluation.metrics import evaluate
from regraft.evaluation.predictions import Predictions


@pytest.mark.parametrize(
    ("classes", "images", "recall"), [(2, 200, 0.9), (2, 50, 0.95), (10, 500, 0.9), (10, 100, 0.8)]
)
def test_coverage_of_the_macro_f1_interval(classes, images, recall, monkeypatch):
    monkeypatch.setattr(intervals, "_DRAWS", 400)
    # With 200 simulations, the standard error of the share is 1.5 points.
    assert 0.91 <= promises.macro_f1_coverage(classes, images, recall, 200) <= 0.99


@pytest.mark.parametrize(("count", "share"), [(20, 0.5), (50, 0.9), (400, 0.95)])
def test_coverage_of_the_accuracy_interval(count, share):
    assert 0.93 <= promises.accuracy_coverage(count, share, 4000) <= 0.985


def predictions(labels, predicted, classes):
    probabilities = np.full((len(labels), classes), 0.1 / max(1, classes - 1))
    probabilities[np.arange(len(labels)), predicted] = 0.9
    return Predictions.from_arrays(labels, probabilities / probabilities.sum(axis=1, keepdims=True))


def test_few_images_without_errors_leave_a_wide_interval():
    result = evaluate(predictions(np.arange(30) % 2, np.arange(30) % 2, 2))
    low, high = result.intervals["macro_f1"]
    assert high == 1.0
    assert 0.8 < low < 0.97
    assert result.per_class[0].recall_interval == pytest.approx(wilson_interval(15, 15))


def test_intervals_do_not_depend_on_the_order_of_the_images():
    rng = np.random.default_rng(0)
    labels, order = rng.integers(0, 5, 200), rng.permutation(200)
    predicted = np.where(rng.random(200) < 0.8, labels, rng.integers(0, 5, 200))
    one, other = evaluate(predictions(labels, predicted, 5)), evaluate(predictions(labels[order], predicted[order], 5))
    assert one.intervals == other.intervals
    for row in (*one.per_class, *other.per_class):
        assert row.f1_interval[0] <= row.f1 <= row.f1_interval[1]
    for name, (low, high) in one.intervals.items():
        assert 0 <= low <= getattr(one, name) <= high <= 1


def test_a_class_without_images_and_one_that_is_never_predicted():
    result = evaluate(predictions(np.zeros(10, int), np.array([0] * 8 + [1, 2]), 4))
    assert result.per_class[3].recall_interval == result.per_class[3].precision_interval == (0.0, 1.0)
    assert result.per_class[1].recall_interval == (0.0, 1.0)
    assert result.per_class[1].precision_interval[0] == 0.0
    assert np.isfinite(list(result.intervals.values())).all()


def test_cautions_about_few_images():
    few = evaluate(predictions(np.arange(40) % 2, np.zeros(40, int), 2))
    assert "With 40 images, accuracy is known only to about ±15 points; ±2 points needs about 2,400." in few.cautions()
    lone = evaluate(predictions(np.array([0] * 3000 + [1] * 5), np.zeros(3005, int), 2))
    (caution,) = lone.cautions()
    assert caution == "1 class has fewer than 20 images here, so the metrics of 1 are uncertain."
    many = evaluate(predictions(np.arange(4000) % 2, np.arange(4000) % 2, 2))
    assert many.cautions() == []
