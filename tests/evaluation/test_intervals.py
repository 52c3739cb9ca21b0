"""Intervals hold the truth as often as they say: simulated, since nobody knows the truth of real images."""

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
def test_macro_f1_lies_in_its_interval_as_often_as_it_should(classes, images, recall, monkeypatch):
    monkeypatch.setattr(intervals, "_DRAWS", 400)
    # Of 400, the standard error of the share is 1.1 points.
    assert 0.92 <= promises.macro_f1_coverage(classes, images, recall, 400) <= 0.985


@pytest.mark.parametrize(("count", "share"), [(20, 0.5), (50, 0.9), (400, 0.95)])
def test_accuracy_lies_in_its_interval_as_often_as_it_should(count, share):
    assert 0.93 <= promises.accuracy_coverage(count, share, 4000) <= 0.985


def predictions(labels, predicted, classes):
    probabilities = np.full((len(labels), classes), 0.1 / max(1, classes - 1))
    probabilities[np.arange(len(labels)), predicted] = 0.9
    return Predictions.from_arrays(labels, probabilities / probabilities.sum(axis=1, keepdims=True))


def test_no_mistake_among_few_images_is_no_certainty():
    found = evaluate(predictions(np.arange(30) % 2, np.arange(30) % 2, 2))
    low, high = found.intervals["macro_f1"]
    assert high == 1.0
    assert 0.8 < low < 0.97
    assert found.per_class[0].recall_interval == pytest.approx(wilson_interval(15, 15))


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
    found = evaluate(predictions(np.zeros(10, int), np.array([0] * 8 + [1, 2]), 4))
    assert found.per_class[3].recall_interval == found.per_class[3].precision_interval == (0.0, 1.0)
    assert found.per_class[1].recall_interval == (0.0, 1.0)
    assert found.per_class[1].precision_interval[0] == 0.0
    assert np.isfinite(list(found.intervals.values())).all()


def test_few_images_are_called_few():
    few = evaluate(predictions(np.arange(40) % 2, np.zeros(40, int), 2))
    assert any("40 images tell the accuracy to within 15 points only" in caution for caution in few.cautions())
    lone = evaluate(predictions(np.array([0] * 3000 + [1] * 5), np.zeros(3005, int), 2))
    (caution,) = lone.cautions()
    assert caution == "1 class has fewer than 20 images here: what is said of 1 may be chance."
    many = evaluate(predictions(np.arange(4000) % 2, np.arange(4000) % 2, 2))
    assert many.cautions() == []
