"""Metrics of classes that have an order, beside scikit-learn's."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score, mean_absolute_error

from regraft.evaluation.metrics import Evaluation, confusion_matrix, evaluate
from regraft.evaluation.ordinal import drawn_kappa, measure_order, quadratic_kappa
from regraft.evaluation.predictions import Predictions


def test_metrics_are_those_of_scikit_learn_in_1000_cases() -> None:
    rng = np.random.default_rng(0)
    for case in range(1000):
        classes, count = int(rng.integers(2, 9)), int(rng.integers(2, 80))
        true = rng.integers(0, classes, count)
        predicted = np.where(rng.random(count) < rng.random(), true, rng.integers(0, classes, count))
        if len({*true.tolist(), *predicted.tolist()}) < 2:  # where scikit-learn divides 0 by 0
            predicted[0] = (true[0] + 1) % classes
        confusion = confusion_matrix(true, predicted, classes)
        kappa = cohen_kappa_score(true, predicted, labels=range(classes), weights="quadratic")
        assert quadratic_kappa(confusion) == pytest.approx(kappa, abs=1e-12)
        if case % 20:  # intervals need 4,000 draws
            continue
        found = measure_order(confusion)
        assert found.quadratic_kappa == pytest.approx(kappa, abs=1e-12)
        assert found.mean_absolute_error == pytest.approx(mean_absolute_error(true, predicted))
        assert found.within_one == pytest.approx(np.mean(np.abs(true - predicted) <= 1))
        for name, (low, high) in found.intervals.items():
            assert low <= getattr(found, name) <= high


def test_a_kappa_of_one_class_is_none() -> None:
    found = measure_order(np.diag([5, 0, 0]))
    assert found.quadratic_kappa is None
    assert "quadratic_kappa" not in found.intervals
    assert "kappa" not in found.describe()
    assert quadratic_kappa(np.diag([5, 0, 0])) == 0


def test_kappa_may_be_negative_and_steps_more_than_one() -> None:
    found = measure_order(np.array([[0, 0, 9], [0, 0, 0], [9, 0, 0]]))
    assert found.quadratic_kappa == pytest.approx(-1)
    assert found.mean_absolute_error == 2
    assert found.intervals["mean_absolute_error"][1] <= 2
    assert found.intervals["mean_absolute_error"][0] > 1


def test_an_interval_has_the_true_kappa_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    shares = np.array([[0.2, 0.1, 0.02], [0.08, 0.2, 0.08], [0.02, 0.08, 0.22]])
    truth, hits, repeats = quadratic_kappa((shares * 1e6).astype(np.int64)), 0, 150
    for _ in range(repeats):
        low, high = measure_order(rng.multinomial(120, shares.ravel()).reshape(3, 3)).intervals["quadratic_kappa"]
        hits += low <= truth <= high
    assert 0.89 <= hits / repeats <= 0.99


def test_only_predictions_of_classes_with_an_order_have_these_metrics() -> None:
    probabilities = np.array([[0.7, 0.2, 0.1], [0.2, 0.7, 0.1], [0.5, 0.3, 0.2]])
    plain = Predictions.from_arrays([0, 1, 2], probabilities)
    assert evaluate(plain).ordinal is None
    assert "ordinal" not in evaluate(plain).to_json()
    found = evaluate(Predictions.from_arrays([0, 1, 2], probabilities, ordered=True))
    assert found.ordinal is not None
    assert found.ordinal.mean_absolute_error == pytest.approx(2 / 3)
    assert "quadratic weighted kappa" in found.report()
    back = Evaluation.from_json(json.loads(json.dumps(found.to_json())))
    assert back.ordinal == found.ordinal
    assert back.to_json() == found.to_json()


def test_drawn_kappas_are_those_of_weighted_images() -> None:
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, 4, 60), rng.integers(0, 4, (2, 60))
    weights = np.stack([np.ones(60), rng.integers(0, 3, 60)])
    for row in (0, 1):
        (kappa, drawn) = drawn_kappa(predicted[row : row + 1], labels, 4, weights)
        assert kappa == pytest.approx(cohen_kappa_score(labels, predicted[row], weights="quadratic"))
        expected = cohen_kappa_score(labels, predicted[row], weights="quadratic", sample_weight=weights[1])
        assert drawn == pytest.approx(expected)
    both = np.tile(labels, 2)
    averaged = drawn_kappa(predicted, labels, 4, weights[:1])
    assert averaged[0] == pytest.approx(cohen_kappa_score(both, predicted.ravel(), weights="quadratic"))
    assert drawn_kappa(np.zeros((1, 3), int), np.zeros(3, int), 4, np.ones((1, 3))).tolist() == [0.0]
