"""Observations of all tasks, and pictures that count once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from regraft.evaluation.drift.observations import Observations
from regraft.evaluation.multilabel.predictions import MultilabelPredictions
from regraft.evaluation.predictions import Predictions
from regraft.evaluation.regression.predictions import RegressionPredictions


def test_one_class() -> None:
    observed = Observations.of_predictions(Predictions.from_arrays([0, 1], [[0.9, 0.1], [0.8, 0.2]], ["a", "b"]))
    assert observed.said.tolist() == [[True, False], [True, False]]  # what was said, not what is true
    assert observed.confidence.tolist() == [0.9, 0.8]
    assert (len(observed), observed.said_of(1)) == (2, "a")


def test_several_labels() -> None:
    predictions = MultilabelPredictions.from_arrays(
        [[1, 0], [0, 0]], [[0.9, 0.35], [0.1, 0.2]], ["a", "b"], thresholds=[0.5, 0.3]
    )
    observed = Observations.of_predictions(predictions)
    assert [observed.said_of(row) for row in (0, 1)] == ["a, b", "no label"]
    assert observed.confidence == pytest.approx([0.05, 0.1])


def test_numbers() -> None:
    observed = Observations.of_predictions(RegressionPredictions.from_arrays([1.0, 2.0], [1.5, 2.25]))
    assert observed.values.tolist() == [1.5, 2.25]
    assert (len(observed), observed.said_of(1)) == (2, "2.25")


def test_some_pictures() -> None:
    observed = replace(
        Observations.of_answers("classification", ("a", "b"), np.array([[0.9, 0.1], [0.2, 0.8], [0.2, 0.8]])),
        distances=np.array([1.0, 2.0, 2.0]), features=np.eye(3, dtype=np.float32), names=("x", "y", "z"),
    )  # fmt: skip
    taken = observed.take(np.array([2, 0]))
    assert taken.names == ("z", "x")
    assert taken.said_of(0) == "b"
    assert taken.distances is not None
    assert taken.distances.tolist() == [2.0, 1.0]
    assert taken.features is not None
    assert taken.features.argmax(axis=1).tolist() == [2, 0]


def test_the_same_bits_are_one_picture() -> None:
    answers = np.array([[0.9, 0.1], [0.2, 0.8], [0.9, 0.1], [0.9, 0.1]])
    observed = Observations.of_answers("classification", ("a", "b"), answers)
    assert observed.first_of_each().tolist() == [0, 1, 2, 3]  # without distances nobody knows
    observed = replace(observed, distances=np.array([5.0, 5.0, 5.0, 6.0]))
    assert observed.first_of_each().tolist() == [0, 1, 3]
