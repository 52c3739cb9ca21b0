"""Metrics of what a model sees and says: all answers, a window of the latest, and validation beside it."""

from __future__ import annotations

import time

import numpy as np
import pytest
from predictors import metric_values as values

from regraft.data.labels import Task
from regraft.evaluation.drift.observations import Observations
from regraft.models.inference import Prediction
from regraft.serving import answer_metrics
from regraft.serving.answer_numbers import AnswerNumbers
from regraft.serving.metrics import Metrics


def count(metrics: Metrics, prediction: Prediction, task: Task = "classification") -> None:
    metrics.answers.count("photos", AnswerNumbers.of(prediction, task))


def test_answers_are_counted_beside_validation() -> None:
    metrics, classes = Metrics(), ("daisy", "rose")
    validation = Observations.of_answers("classification", classes, np.array([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8]]))
    metrics.answers.add_model("photos", classes, validation)
    found = values(metrics)
    assert found["regraft_window_answers", "photos"] == 0
    assert found["regraft_validation_share", "daisy", "photos"] == pytest.approx(2 / 3)
    assert found["regraft_validation_confidence", "photos"] == pytest.approx(0.8)
    for confidence, p_value in ((0.9, 0.5), (0.8, 0.01), (0.3, 0.04), (0.6, 0.9)):
        count(metrics, Prediction("", classes, np.array([confidence, 1 - confidence]), None, p_value, 3.0))
    found = values(metrics)
    assert found["regraft_answers_total", "daisy", "photos"] == 3
    assert found["regraft_window_share", "rose", "photos"] == 0.25
    assert found["regraft_window_confidence", "photos"] == pytest.approx(0.75)
    assert found["regraft_window_strange_share", "photos"] == 0.5
    assert found["regraft_ood_p_value_bucket", "0.05", "photos"] == 2
    assert found["regraft_confidence_count", "photos"] == 4
    assert 0 <= found["regraft_window_seconds", "photos"] < 60


def test_a_window_has_the_latest(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = Metrics()
    metrics.answers.add_model("photos", ("a", "b"), None)
    for i in range(answer_metrics.WINDOW + 50):
        count(metrics, Prediction("", ("a", "b"), np.array([0.9, 0.1] if i < 50 else [0.1, 0.9])))
    found = values(metrics)
    assert found["regraft_window_answers", "photos"] == answer_metrics.WINDOW
    assert found["regraft_window_share", "b", "photos"] == 1.0
    assert found["regraft_answers_total", "a", "photos"] == 50
    assert ("regraft_window_strange_share", "photos") not in found  # it has no detector


def test_an_age_is_not_negative_where_the_clock_is_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = Metrics()
    metrics.answers.add_model("photos", ("a", "b"), None)
    count(metrics, Prediction("", ("a", "b"), np.array([0.9, 0.1])))
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert 0 <= values(metrics)["regraft_window_seconds", "photos"] < 60


def test_several_labels_and_none() -> None:
    metrics = Metrics()
    metrics.answers.add_model("photos", ("a", "b"), None)
    for probabilities in ([0.9, 0.9], [0.1, 0.9], [0.1, 0.1]):
        prediction = Prediction("", ("a", "b"), np.array(probabilities), thresholds=(0.5, 0.5))
        count(metrics, prediction, "multilabel")
    found = values(metrics)
    shares = [found["regraft_window_share", name, "photos"] for name in ("(none)", "a", "b")]
    assert shares == pytest.approx([1 / 3, 1 / 3, 2 / 3])


def test_numbers() -> None:
    metrics = Metrics()
    validation = Observations.of_answers("regression", ("age",), np.array([[30.0], [40.0]]))
    metrics.answers.add_model("photos", ("age",), validation)
    for value in (20.0, 50.0, 53.0):
        count(metrics, Prediction("", ("age",), np.empty(0), value=value), "regression")
    found = values(metrics)
    assert found["regraft_window_value", "photos"] == 41.0
    assert found["regraft_validation_value", "photos"] == 35.0
    assert found["regraft_value_sum", "photos"] == 123.0


def test_thousands_of_classes_have_a_bounded_number_of_series() -> None:
    metrics, classes = Metrics(), tuple(f"c{i:04d}" for i in range(3000))
    metrics.answers.add_model("photos", classes, None)
    for i in range(0, 3000, 10):
        count(metrics, Prediction("", classes, np.eye(3000)[i]))
    found = values(metrics)
    assert found["regraft_answers_total", "(other)", "photos"] == 290
    assert sum(name[0] == "regraft_answers_total" for name in found) == 11
